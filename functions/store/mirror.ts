/**
 * Mirrored logs in R2, under the hex SHA-256 of their origin:
 *   mirror/<log>/tile/…                          C2SP tlog-tiles, as far as the log's canonical tip
 *   mirror/<log>/events/<height>/<batchRoot>/<part>   events of a batch as the origin serves them
 *   mirror/<log>/entries/<height>/<batchRoot>/<part>  their packed log entries, 32 bytes each
 *
 *   mirror/<log>/events/<height>/<batchRoot>/parts    how many parts there are, once the batch is verified
 *
 * Tiles follow the canonical history and are written over if it changes; batches are named by the root over
 * their own leaves, which fixes their events, so rivals lie side by side. A part may be there before its batch is
 * verified, and is not served until then.
 */

import { toHex, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { leafHashes } from '#core/merkle.ts'
import { sha256 } from '#core/sha256.ts'
import { tileHashReader, type HashReader } from '#core/tile-reader.ts'
import { decodeEntries, tilePath, type TileName } from '#core/tile.ts'
import { getBytes } from '#store/bucket.ts'

interface Part {
  readonly height: number
  readonly batchRoot: string
  readonly part: number
}

const names = new Map<string, string>()

/** 64 hex digits of SHA-256(origin): how a log is named in paths. */
export function nameOfLog(origin: string): string {
  let name = names.get(origin)
  if (name === undefined) names.set(origin, (name = toHex(sha256(utf8(origin)))))
  return name
}

export function mirrorEventsKey(origin: string, { height, batchRoot, part }: Part): string {
  return `mirror/${nameOfLog(origin)}/events/${height}/${batchRoot}/${part}`
}

/** Where it is written how many parts a verified batch has; before that none is served. */
export function partsKey({
  origin,
  height,
  batchRoot,
}: Omit<Part, 'part'> & { readonly origin: string }): string {
  return `mirror/${nameOfLog(origin)}/events/${height}/${batchRoot}/parts`
}

export function entriesKey(origin: string, { height, batchRoot, part }: Part): string {
  return `mirror/${nameOfLog(origin)}/entries/${height}/${batchRoot}/${part}`
}

/** Key of a tile by its path, `tile/<L>/<N>[.p/<W>]`. */
export function mirrorTileKey(origin: string, path: string): string {
  return `mirror/${nameOfLog(origin)}/${path}`
}

/** A mirrored tile by the log's name, or null. Level 0 is derived from the entries, as in the own log. */
export async function readMirrorTile(
  bucket: R2Bucket,
  log: string,
  { level, index, width }: TileName,
): Promise<Uint8Array | null> {
  const path = tilePath(level === 0 ? 'entries' : level, index, width)
  const stored = await getBytes(bucket, `mirror/${log}/${path}`)
  if (stored === null || level !== 0) return stored
  return leafHashes(decodeEntries(stored, width))
}

/** A reader over a mirrored tree of `size` leaves. */
export function mirrorReader(bucket: R2Bucket, log: string, size: number): HashReader {
  return tileHashReader(async (level, index, width) => {
    const tile = await readMirrorTile(bucket, log, { level, index, width })
    if (tile !== null) return tile
    throw new VaultMeshError('bad-state', `R2 lacks ${tilePath(level, index, width)} of a mirror.`)
  }, size)
}
