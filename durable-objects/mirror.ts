/**
 * Copies of peers' logs: a signed batch is recomputed from its events before it counts, and the canonical ones
 * are laid out as tiles, so that anybody can read the log here when its origin is gone (design §7).
 *
 * Recomputing goes part by part and remembers how far it came, so that a batch of any size fits in rounds
 * of a second and an isolate's memory: each part is stored, its events hashed into two sets of peaks, that of
 * the log and that of the batch alone. At the end there are three outcomes. The batch's root differs: what we
 * were given are not its events, the source is to blame, and another one is asked. It is right, but the log's
 * root differs: the origin signed a root that its own batch contradicts, the root is quarantined. Both are
 * right: verified.
 *
 * Tiles (SQLite: mirror_at, mirror_edge): which batch the tiles in R2 stand at, and the unfinished ones.
 * They follow the canonical path; if it moves to another branch, they are cut back to where both agree.
 */

import { toHex } from '#core/bytes.ts'
import { MAX_EVENT_BYTES } from '#core/envelope.ts'
import { isTombstone, linesOf, parseTombstone, verifyTombstone } from '#core/erasure.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  append,
  edgeTiles,
  emptyEdge,
  HASH_BYTES,
  leafHashes,
  partialWidth,
  rootOfEdge,
  restoreEdge,
  TILE_WIDTH,
  type TreeEdge,
} from '#core/merkle.ts'
import { appendPeaks, noPeaks, rootOfPeaks, unpackPeaks, type Peaks } from '#core/peaks.ts'
import { sha256 } from '#core/sha256.ts'
import { completeSubtrees } from '#core/tile-reader.ts'
import { decodeEntries, encodeEntries, tilePath } from '#core/tile.ts'
import { getBytes } from '#store/bucket.ts'
import { logReader } from '#store/log.ts'
import { entriesKey, mirrorEventsKey, mirrorTileKey, partsKey } from '#store/mirror.ts'
import type { Remembrancer } from '../functions/remembrancer.ts'
import type { Ledger, LogState, StoredBatch } from './ledger.ts'
import type { IsOperator, MirrorErasures } from './mirror-erasures.ts'

export const MIRROR_SCHEMA = `
CREATE TABLE IF NOT EXISTS mirror_at (origin TEXT PRIMARY KEY, height INTEGER NOT NULL, root TEXT NOT NULL, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS mirror_edge (origin TEXT NOT NULL, level INTEGER NOT NULL, hashes BLOB NOT NULL, PRIMARY KEY (origin, level)) WITHOUT ROWID;`

/** Level under which the raw entries of the unfinished bundle are kept. */
const ENTRIES = -1
/** A line is an event or a tombstone of some hundred bytes beside the event that asked for it. */
const MAX_LINE_BYTES = 2 * MAX_EVENT_BYTES

/** What became of a batch in one go. */
export type Recomputed =
  | { readonly outcome: 'verified' }
  /** There is more to fetch. */
  | { readonly outcome: 'more' }
  /** The batch it hangs on is not verified yet, or it waits no more: there is nothing to do. */
  | { readonly outcome: 'orphan' }
  /** The source has not got them, or not these. */
  | { readonly outcome: 'unavailable'; readonly reason: string; readonly isFault: boolean }
  | { readonly outcome: 'bad-root'; readonly reason: string }

/**
 * Goes on with the recomputation of a pending batch for at most `parts` parts. `isOperator` says whose
 * tombstones count.
 */
export async function recompute(
  env: Env,
  ledger: Ledger,
  {
    batch,
    client,
    parts,
    from,
    isOperator,
    erasures,
  }: {
    readonly batch: StoredBatch
    readonly client: Pick<Remembrancer, 'events'>
    readonly parts: number
    /** DID of the peer that `client` asks. */
    readonly from: string
    readonly isOperator: IsOperator
    readonly erasures: MirrorErasures
  },
): Promise<Recomputed> {
  // A visit may have listed it long ago.
  if (!ledger.isPending(batch)) return { outcome: 'orphan' }
  const parent = ledger.parentOf(batch)
  if (parent === null) return { outcome: 'orphan' }
  const begin = parent === 'genesis' ? noPeaks : await peaksAfter(env, ledger, parent)
  if (begin.size !== batch.firstIndex) {
    return {
      outcome: 'bad-root',
      reason: `it begins at leaf ${batch.firstIndex} of a tree of ${begin.size}`,
    }
  }
  // What another peer gave is not gone on with: one of the two would be blamed for the other's.
  const isResumed = batch.begunBy === from
  const progress = isResumed ? ledger.progress(batch) : null
  let { log, own } = progress ?? { log: begin, own: noPeaks }
  let part = progress === null ? 0 : batch.parts
  // A rival may name the same events: once they were proved, what is here is read and never written over.
  const isProved = (await env.BUCKET.head(partsKey(batch))) !== null
  for (let done = 0; own.size < batch.count; done++) {
    if (done === parts) return { outcome: 'more' }
    const { origin, height, batchRoot } = batch
    const where = { height, batchRoot, part }
    const given = isProved
      ? await getBytes(env.BUCKET, mirrorEventsKey(origin, where))
      : await client.events(origin, where)
    if (given === null) {
      return unavailable(`part ${part} of its events is not there`, part > 0)
    }
    const firstIndex = batch.firstIndex + own.size
    const place = { firstIndex, limit: batch.count - own.size, isOperator }
    let entries: readonly Uint8Array[]
    try {
      entries = await entriesOf(given, place)
    } catch (error) {
      if (!(error instanceof VaultMeshError)) throw error
      return unavailable(`part ${part} is no list of events: ${error.message}`, true)
    }
    if (entries.length === 0) return unavailable(`part ${part} holds no event`, true)
    const bytes = await erasures.admit(batch, given, place)
    // Stored first: what the row says is here is here.
    if (!isProved) {
      await env.BUCKET.put(mirrorEventsKey(origin, where), bytes, {
        httpMetadata: { contentType: 'application/x-ndjson' },
      })
      await env.BUCKET.put(entriesKey(origin, where), joined(entries))
    }
    const hashes = leafHashes(entries)
    log = appendPeaks(log, hashes)
    own = appendPeaks(own, hashes)
    part++
    ledger.saveProgress(batch, { parts: part, log, own, from, nowAt: Date.now() })
  }
  if (toHex(rootOfPeaks(own)) !== batch.batchRoot) {
    return unavailable('its events are not those of the signed batch', true)
  }
  if (toHex(rootOfPeaks(log)) !== batch.root) {
    return {
      outcome: 'bad-root',
      reason: `the events of the batch lead to ${toHex(rootOfPeaks(log)).slice(0, 16)}…, not to the signed root`,
    }
  }
  // From here on they are served, so many parts and no more.
  if (!isProved) await env.BUCKET.put(partsKey(batch), String(part))
  ledger.verified(batch)
  return { outcome: 'verified' }
}

function unavailable(reason: string, isFault: boolean): Recomputed {
  return { outcome: 'unavailable', reason, isFault }
}

/** Peaks after a verified batch: kept for those recomputed here, read from the tiles for the own log. */
export async function peaksAfter(env: Env, ledger: Ledger, batch: StoredBatch): Promise<Peaks> {
  const kept = ledger.peaksAfter(batch)
  if (kept !== null) return kept
  const { treeSize } = batch
  const hashes = await logReader(
    env.BUCKET,
    treeSize,
  )(completeSubtrees({ start: 0, end: treeSize }))
  return unpackPeaks(treeSize, joined(hashes))
}

/** Log entries of NDJSON lines, at most `limit`: SHA-256 of each event, or what a tombstone names. */
async function entriesOf(
  bytes: Uint8Array,
  {
    firstIndex,
    limit,
    isOperator,
  }: { readonly firstIndex: number; readonly limit: number; readonly isOperator: IsOperator },
): Promise<readonly Uint8Array[]> {
  const entries: Uint8Array[] = []
  for (const { line } of linesOf(bytes)) {
    if (line.length === 0 || line.length > MAX_LINE_BYTES) {
      throw new VaultMeshError('bad-body', 'a line is empty or too long.')
    }
    if (entries.length === limit) {
      throw new VaultMeshError('bad-body', 'there are more events than the manifest says.')
    }
    if (isTombstone(line)) {
      const stone = parseTombstone(line)
      if (stone.leafIndex !== firstIndex + entries.length) {
        throw new VaultMeshError('bad-body', 'a tombstone is of another leaf.')
      }
      await verifyTombstone(stone, isOperator)
      entries.push(stone.eventHash)
    } else entries.push(eventHash(line))
  }
  return entries
}

function eventHash(line: Uint8Array): Uint8Array {
  if (line.length > MAX_EVENT_BYTES) {
    throw new VaultMeshError('event-too-large', 'an event has more than 65,535 bytes.')
  }
  return sha256(line)
}

/** Lays the canonical path of a log out as tiles, at most `batches` of them in one go. */
export class MirrorTiles {
  readonly #env: Env
  readonly #storage: DurableObjectStorage
  readonly #ledger: Ledger

  constructor(env: Env, storage: DurableObjectStorage, ledger: Ledger) {
    this.#env = env
    this.#storage = storage
    this.#ledger = ledger
  }

  /** What size the tiles of a log are complete for; 0 before the first batch. */
  sizeOf(origin: string): number {
    return this.#at(origin)?.size ?? 0
  }

  /** The height of the batch they stand at; 0 before the first. */
  heightOf(origin: string): number {
    return this.#at(origin)?.height ?? 0
  }

  /** Writes what is missing up to the tip. True if there is more to write. */
  async advance(log: LogState, batches: number): Promise<boolean> {
    const { origin } = log
    let at = this.#at(origin)
    if (at !== null && this.#ledger.canonical(origin, at.height)?.root !== at.root) {
      at = await this.#cutBack(origin, at.height)
    }
    let edge = this.#edge(origin, at?.size ?? 0)
    const next = this.#ledger.canonicalFrom(origin, (at?.height ?? 0) + 1, batches)
    for (const batch of next) {
      edge = await this.#write(origin, batch, edge)
      this.#keep(origin, batch, edge)
    }
    return next.length === batches && next.at(-1)!.height < log.tipHeight
  }

  async #write(origin: string, batch: StoredBatch, before: Edge): Promise<Edge> {
    let { tree, entries } = before
    const { height, batchRoot } = batch
    for (let part = 0, seen = 0; seen < batch.count; part++) {
      const packed = await getBytes(
        this.#env.BUCKET,
        entriesKey(origin, { height, batchRoot, part }),
      )
      if (packed === null) throw lost(origin, batch)
      const all = split(packed)
      seen += all.length
      const full: [number, number, Uint8Array][] = []
      const first = Math.floor(tree.size / TILE_WIDTH)
      tree = append(tree, leafHashes(all), (level, index, bytes) =>
        full.push([level, index, bytes]),
      )
      for (const [level, index, bytes] of full) {
        if (level > 0) await this.#put(mirrorTileKey(origin, tilePath(level, index)), bytes)
      }
      const waiting = [...entries, ...all]
      const bundles = Math.floor(waiting.length / TILE_WIDTH)
      for (let i = 0; i < bundles; i++) {
        const bundle = waiting.slice(i * TILE_WIDTH, (i + 1) * TILE_WIDTH)
        const path = tilePath('entries', first + i)
        await this.#put(mirrorTileKey(origin, path), encodeEntries(bundle))
      }
      entries = waiting.slice(bundles * TILE_WIDTH)
    }
    for (const { level, index, width, bytes } of edgeTiles(tree)) {
      if (level > 0) await this.#put(mirrorTileKey(origin, tilePath(level, index, width)), bytes)
    }
    if (entries.length > 0) {
      const path = tilePath('entries', Math.floor(tree.size / TILE_WIDTH), entries.length)
      await this.#put(mirrorTileKey(origin, path), encodeEntries(entries))
    }
    if (toHex(rootOfEdge(tree)) !== batch.root) throw lost(origin, batch)
    return { tree, entries }
  }

  #put(key: string, bytes: Uint8Array): Promise<unknown> {
    return this.#env.BUCKET.put(key, bytes)
  }

  #keep(origin: string, { height, root, treeSize }: StoredBatch, { tree, entries }: Edge): void {
    this.#storage.transactionSync(() => {
      const { sql } = this.#storage
      sql.exec(
        'INSERT INTO mirror_at (origin, height, root, size) VALUES (?1, ?2, ?3, ?4) ON CONFLICT (origin) DO UPDATE SET height = ?2, root = ?3, size = ?4',
        origin,
        height,
        root,
        treeSize,
      )
      sql.exec('DELETE FROM mirror_edge WHERE origin = ?', origin)
      for (const [level, bytes] of tree.levels) {
        sql.exec('INSERT INTO mirror_edge VALUES (?, ?, ?)', origin, level, bytes)
      }
      sql.exec('INSERT INTO mirror_edge VALUES (?, ?, ?)', origin, ENTRIES, joined(entries))
    })
  }

  #at(origin: string): { height: number; root: string; size: number } | null {
    return (
      this.#storage.sql
        .exec<{
          height: number
          root: string
          size: number
        }>('SELECT height, root, size FROM mirror_at WHERE origin = ?', origin)
        .toArray()[0] ?? null
    )
  }

  #edge(origin: string, size: number): Edge {
    if (size === 0) return { tree: emptyEdge, entries: [] }
    let entries: readonly Uint8Array[] = []
    const levels: [number, Uint8Array][] = []
    for (const { level, hashes } of this.#storage.sql.exec<{ level: number; hashes: ArrayBuffer }>(
      'SELECT level, hashes FROM mirror_edge WHERE origin = ?',
      origin,
    )) {
      if (level === ENTRIES) entries = split(new Uint8Array(hashes))
      else levels.push([level, new Uint8Array(hashes)])
    }
    return { tree: restoreEdge(size, levels), entries }
  }

  /**
   * The tip moved to another branch: the tiles stand again where both agree. Partial tiles of that size are
   * as they were, because both branches begin with the same leaves; wider ones will be written over.
   */
  async #cutBack(
    origin: string,
    from: number,
  ): Promise<{ height: number; root: string; size: number } | null> {
    // Batches below the fork are canonical on both sides; the highest that is so and below the old tip.
    const log = this.#ledger.log(origin)!
    const height = Math.min(from - 1, log.commonHeight)
    const base = height < 1 ? null : this.#ledger.canonical(origin, height)
    if (base === null) {
      this.#storage.sql.exec('DELETE FROM mirror_at WHERE origin = ?', origin)
      this.#storage.sql.exec('DELETE FROM mirror_edge WHERE origin = ?', origin)
      return null
    }
    const { treeSize } = base
    const levels: [number, Uint8Array][] = []
    let entries: readonly Uint8Array[] = []
    for (let level = 0; TILE_WIDTH ** level <= treeSize; level++) {
      const width = partialWidth(level, treeSize)
      if (width === 0) continue
      const index = Math.floor(treeSize / TILE_WIDTH ** (level + 1))
      const path = tilePath(level === 0 ? 'entries' : level, index, width)
      const bytes = await getBytes(this.#env.BUCKET, mirrorTileKey(origin, path))
      if (bytes === null) throw lost(origin, base)
      if (level === 0) entries = decodeEntries(bytes, width)
      levels.push([level, level === 0 ? leafHashes(entries) : bytes])
    }
    this.#keep(origin, base, { tree: restoreEdge(treeSize, levels), entries })
    return { height: base.height, root: base.root, size: treeSize }
  }
}

interface Edge {
  readonly tree: TreeEdge
  readonly entries: readonly Uint8Array[]
}

function lost(origin: string, batch: StoredBatch): VaultMeshError {
  return new VaultMeshError(
    'bad-state',
    `R2 lacks what was mirrored of batch ${batch.height} of ${origin}.`,
  )
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.length * HASH_BYTES)
  parts.forEach((part, i) => out.set(part, i * HASH_BYTES))
  return out
}

function split(packed: Uint8Array): Uint8Array[] {
  return Array.from({ length: packed.length / HASH_BYTES }, (_, i) =>
    packed.slice(i * HASH_BYTES, (i + 1) * HASH_BYTES),
  )
}
