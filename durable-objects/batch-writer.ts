/**
 * Step 2 of a seal: the tiles and the events of one batch, to R2, a part at a time.
 *
 * Everything is derived from the assignment and from the pools' bytes, so a retry writes the same objects;
 * `putImmutable` refuses others. Memory stays flat whatever the batch's size: one part and the writes
 * under way. Nothing here is visible to readers before the head swap. Where the parts come from is the caller's:
 * the pools, or, for a node that lost its newest batches, what a peer mirrored of them (adopted-batch.ts).
 */

import { concat } from '#core/bytes.ts'
import { append, edgeTiles, leafHashes, rootOf, TILE_WIDTH, type TreeEdge } from '#core/merkle.ts'
import { encodeEntries, tilePath } from '#core/tile.ts'
import { eventsKey, putEvents, putImmutable, Writes } from '#store/bucket.ts'

/** Bytes of events taken from a pool at once, and so of one part of the bundle in R2. */
const PART_BYTES = 4_000_000
/** An entry is a 32-byte eventHash. */
export const ENTRY_BYTES = 32
const BUNDLE_BYTES = TILE_WIDTH * ENTRY_BYTES

/** The batch being sealed: from and to (exclusive) for each shard, in order. */
export interface Assignment {
  readonly height: number
  readonly sealedAt: number
  readonly ranges: readonly (readonly [shard: number, from: number, to: number])[]
}

/** The right edge of the log: unfinished tiles, and the raw entries of the unfinished bundle. */
export interface LogEdge {
  readonly tree: TreeEdge
  readonly entries: Uint8Array
}

/** What the batch did to the edge. */
export interface WrittenBatch {
  readonly edge: LogEdge
  readonly count: number
  /** Parts of the event bundle. */
  readonly parts: number
  /** RFC 6962 root of the batch's own leaves. */
  readonly batchRoot: Uint8Array
}

/** One part of a batch: its events as NDJSON, and their log entries, packed. */
export interface BatchPart {
  readonly body: Uint8Array
  readonly eventHashes: Uint8Array
}

/** The parts of a batch that the pools hold, as it was assigned. */
export async function* pooledParts(env: Env, assignment: Assignment): AsyncGenerator<BatchPart> {
  for (const [shard, from, to] of assignment.ranges) {
    const pool = env.POOL.getByName(String(shard))
    for (let next = from; next < to;) {
      const slice = await pool.read(next, to, PART_BYTES)
      next += slice.count
      yield { body: lines(slice.lengths, slice.data), eventHashes: slice.eventHashes }
    }
  }
}

/** Writes the batch of a height and resolves when every object is stored; throws the first failure. */
export async function writeBatch(
  env: Env,
  height: number,
  source: AsyncIterable<BatchPart>,
  before: LogEdge,
): Promise<WrittenBatch> {
  const writes = new Writes()
  const put = (key: string, bytes: Uint8Array): Promise<void> =>
    writes.add(bytes.length, () => putImmutable(env.BUCKET, key, bytes, 'application/octet-stream'))
  let { tree, entries } = before
  let parts = 0
  const leaves: Uint8Array[] = []
  for await (const { body, eventHashes } of source) {
    const key = eventsKey(height, parts++)
    await writes.add(body.length, () => putEvents(env.BUCKET, key, body))
    const packed = leafHashes(splitHashes(eventHashes))
    leaves.push(packed)
    const firstBundle = Math.floor(tree.size / TILE_WIDTH)
    const full: [level: number, index: number, bytes: Uint8Array][] = []
    tree = append(tree, packed, (level, index, bytes) => full.push([level, index, bytes]))
    for (const [level, index, bytes] of full) {
      // Level 0 is derived from the entries when it is read (store/log.ts).
      if (level > 0) await put(`log/${tilePath(level, index)}`, bytes)
    }
    const rest = concat(entries, eventHashes)
    const bundles = Math.floor(rest.length / BUNDLE_BYTES)
    for (let i = 0; i < bundles; i++) {
      const raw = rest.subarray(i * BUNDLE_BYTES, (i + 1) * BUNDLE_BYTES)
      await put(`log/${tilePath('entries', firstBundle + i)}`, encodeEntries(splitHashes(raw)))
    }
    entries = rest.slice(bundles * BUNDLE_BYTES)
  }
  for (const { level, index, width, bytes } of edgeTiles(tree)) {
    if (level > 0) await put(`log/${tilePath(level, index, width)}`, bytes)
  }
  if (entries.length > 0) {
    const path = tilePath(
      'entries',
      Math.floor(tree.size / TILE_WIDTH),
      entries.length / ENTRY_BYTES,
    )
    await put(`log/${path}`, encodeEntries(splitHashes(entries)))
  }
  await writes.done()
  const count = tree.size - before.tree.size
  return { edge: { tree, entries }, parts, count, batchRoot: rootOf(concat(...leaves)) }
}

/** Events as NDJSON: each followed by a newline. */
function lines(lengths: Uint32Array, data: Uint8Array): Uint8Array {
  const out = new Uint8Array(data.length + lengths.length)
  let from = 0
  let to = 0
  for (const length of lengths) {
    out.set(data.subarray(from, from + length), to)
    from += length
    to += length
    out[to++] = 0x0a
  }
  return out
}

function splitHashes(packed: Uint8Array): Uint8Array[] {
  const out: Uint8Array[] = []
  for (let at = 0; at < packed.length; at += ENTRY_BYTES) {
    out.push(packed.subarray(at, at + ENTRY_BYTES))
  }
  return out
}
