/**
 * Reading the log: tiles from R2 and proofs built from them. No Durable Object is ever asked.
 *
 * A tree of size n is served from full tiles and the partial tiles at its right edge. Partial tiles exist
 * for published sizes only, so a proof for another size takes the hashes it needs from the tiles of a
 * published size that holds them: a subtree that is complete at size n is complete at every larger one.
 */

import { consistencyProof } from '#core/consistency-proof.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { Hash } from '#core/bytes.ts'
import { inclusionProof } from '#core/inclusion-proof.ts'
import { tilePath } from '#core/tile.ts'
import { tileHashReader, type HashReader } from '#core/tile-reader.ts'
import { getBytes } from '#store/bucket.ts'

/** Tiles kept in an isolate: 512 × ≤ 8 KiB = 4 MiB. They never change, so they never go stale. */
const MAX_TILES = 512
const tiles = new WeakMap<R2Bucket, Map<string, Promise<Uint8Array>>>()

/** A reader over the tree of a published size. */
export function logReader(bucket: R2Bucket, publishedSize: number): HashReader {
  return tileHashReader(
    (level, index, width) => cachedTile(bucket, `log/${tilePath(level, index, width)}`),
    publishedSize,
  )
}

function cachedTile(bucket: R2Bucket, key: string): Promise<Uint8Array> {
  let cache = tiles.get(bucket)
  if (cache === undefined) tiles.set(bucket, (cache = new Map()))
  const known = cache.get(key)
  if (known !== undefined) return known
  const tile = getBytes(bucket, key).then((bytes) => {
    if (bytes === null) throw new VaultMeshError('bad-state', `R2 lacks the tile ${key}.`)
    return bytes
  })
  // A failure is not remembered: the next reader asks again.
  tile.catch(() => cache.delete(key))
  if (cache.size >= MAX_TILES) cache.delete(cache.keys().next().value!)
  cache.set(key, tile)
  return tile
}

/** The inclusion proof of a leaf in the tree of `size`, read from the published size `published`. */
export async function proveInclusion(
  bucket: R2Bucket,
  {
    index,
    size,
    published,
  }: { readonly index: number; readonly size: number; readonly published: number },
): Promise<Hash[]> {
  return inclusionProof(logReader(bucket, published), index, size)
}

/** The consistency proof between two sizes, read from the published size `published`. */
export async function proveConsistency(
  bucket: R2Bucket,
  {
    from,
    to,
    published,
  }: { readonly from: number; readonly to: number; readonly published: number },
): Promise<Hash[]> {
  return consistencyProof(logReader(bucket, published), from, to)
}
