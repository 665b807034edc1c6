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
import { leafHashes } from '#core/merkle.ts'
import { decodeEntries, tilePath, type TileName } from '#core/tile.ts'
import { tileHashReader, type HashReader } from '#core/tile-reader.ts'
import { getBytes } from '#store/bucket.ts'

/** Tiles kept in an isolate: 1,024 × ≤ 8.5 KiB = 8.5 MiB. They never change, so they never go stale. */
const MAX_TILES = 1024
const tiles = new WeakMap<R2Bucket, Map<string, Uint8Array>>()

/**
 * A tile or entry bundle, or null if the log has none of this name. Level 0 is not stored: its hashes are
 * those of the entries beside it, 256 of them in 0.1 ms (measured), and storing both would double a
 * seal's writes.
 */
export async function readTile(bucket: R2Bucket, name: TileName): Promise<Uint8Array | null> {
  let cache = tiles.get(bucket)
  if (cache === undefined) tiles.set(bucket, (cache = new Map()))
  const { level, index, width } = name
  const path = tilePath(level, index, width)
  const known = cache.get(path)
  if (known !== undefined) return known
  const stored = await getBytes(
    bucket,
    `log/${level === 0 ? tilePath('entries', index, width) : path}`,
  )
  if (stored === null) return null
  const tile = level === 0 ? leafHashes(decodeEntries(stored, width)) : stored
  if (cache.size >= MAX_TILES) cache.delete(cache.keys().next().value!)
  // Bytes, never promises: a promise belongs to the request that began it and may die with it.
  cache.set(path, tile)
  return tile
}

/** A reader over the tree of a published size. */
export function logReader(bucket: R2Bucket, publishedSize: number): HashReader {
  return tileHashReader(async (level, index, width) => {
    const tile = await readTile(bucket, { level, index, width })
    if (tile !== null) return tile
    throw new VaultMeshError('bad-state', `R2 lacks the tile ${tilePath(level, index, width)}.`)
  }, publishedSize)
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
