/**
 * fsck of the tree: every object that a batch put under log/tile/, byte for byte.
 *
 * The Sequencer's own step is done again from what readers see: the right edge of the tree before the batch,
 * read from its partial tiles and held against the root of the batch before; then the batch's leaves are
 * appended. That gives each tile that the batch filled, each tile at its right edge and the new root. Since
 * the batch before was checked in the same way, all tiles of all batches are what the leaves make them.
 * Objects are read from R2 itself, never from the cache that serves readers.
 */

import { equal, toHex } from '#core/bytes.ts'
import {
  append,
  edgeTiles,
  leafHashes,
  partialWidth,
  restoreEdge,
  rootOfEdge,
  TILE_WIDTH,
  type TreeEdge,
} from '#core/merkle.ts'
import { decodeEntries, tilePath, tileWidth } from '#core/tile.ts'
import type { BatchRecord } from '#store/batches.ts'
import { getBytes } from '#store/bucket.ts'
import type { Notes } from '#store/findings.ts'

/** A batch with what was derived from its events. */
export interface BatchLeaves {
  readonly record: BatchRecord
  /** The batch before; null for the first, or if its record is lost. */
  readonly before: BatchRecord | null
  readonly hashes: readonly Uint8Array[]
}

/** Compares the tiles and the root of a batch with its leaves. */
export async function checkTree(
  bucket: R2Bucket,
  { record, before, hashes }: BatchLeaves,
  notes: Notes,
): Promise<void> {
  const name = `Batch ${record.height}`
  const start = await readEdge(bucket, record.firstIndex, notes)
  if (start === null) return
  if (before !== null && toHex(rootOfEdge(start.edge)) !== before.root) {
    notes.say(`${name}: the tiles it extends do not lead to the root of the batch before.`)
    return
  }
  await checkEntries(bucket, record, [...start.entries, ...hashes], notes)
  const expected: { path: string; bytes: Uint8Array }[] = []
  const edge = append(start.edge, leafHashes(hashes), (level, index, bytes) => {
    if (level > 0) expected.push({ path: tilePath(level, index), bytes })
  })
  for (const { level, index, width, bytes } of edgeTiles(edge)) {
    if (level > 0) expected.push({ path: tilePath(level, index, width), bytes })
  }
  for (const { path, bytes } of expected) {
    const stored = await getBytes(bucket, `log/${path}`)
    if (stored === null) notes.say(`${name}: log/${path} is missing.`)
    else if (!equal(stored, bytes))
      notes.say(`${name}: log/${path} does not hold the hashes of the tiles below it.`)
  }
  if (toHex(rootOfEdge(edge)) !== record.root)
    notes.say(`${name}: its leaves do not lead to its root.`)
}

interface Start {
  readonly edge: TreeEdge
  /** Entries of the bundle that the tree of that size does not fill. */
  readonly entries: readonly Uint8Array[]
}

/** The right edge of the tree of `size` leaves from its partial tiles; null, and a finding, if one is not there. */
async function readEdge(bucket: R2Bucket, size: number, notes: Notes): Promise<Start | null> {
  const levels: [number, Uint8Array][] = []
  let entries: readonly Uint8Array[] = []
  for (let level = 0; TILE_WIDTH ** level <= size; level++) {
    const width = partialWidth(level, size)
    if (width === 0) continue
    const index = Math.floor(size / TILE_WIDTH ** (level + 1))
    const key = `log/${tilePath(level === 0 ? 'entries' : level, index, width)}`
    const stored = await getBytes(bucket, key)
    if (stored === null) {
      notes.say(`Size ${size}: ${key} is missing.`)
      return null
    }
    if (level > 0) levels.push([level, stored])
    else {
      const decoded = await notes.attempt(key, () => decodeEntries(stored, width))
      if (decoded === null) return null
      entries = decoded
      levels.push([level, leafHashes(decoded)])
    }
  }
  const edge = await notes.attempt(`The tiles at size ${size}`, () => restoreEdge(size, levels))
  return edge === null ? null : { edge, entries }
}

/** Entry bundles: from the one that the batch began in, with the entries it held before. */
async function checkEntries(
  bucket: R2Bucket,
  record: BatchRecord,
  entries: readonly Uint8Array[],
  notes: Notes,
): Promise<void> {
  const first = Math.floor(record.firstIndex / TILE_WIDTH)
  for (let at = 0; at < entries.length; at += TILE_WIDTH) {
    const tile = first + at / TILE_WIDTH
    const width = tileWidth(0, tile, record.treeSize)
    const key = `log/${tilePath('entries', tile, width)}`
    const stored = await getBytes(bucket, key)
    if (stored === null) {
      notes.say(`Batch ${record.height}: ${key} is missing.`)
      continue
    }
    const decoded = await notes.attempt(key, () => decodeEntries(stored, width))
    for (const [i, entry] of decoded?.entries() ?? []) {
      if (!equal(entry, entries[at + i]!))
        notes.say(
          `Leaf ${tile * TILE_WIDTH + i}: its entry in ${key} is not the hash of its event.`,
        )
    }
  }
}
