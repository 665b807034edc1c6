/**
 * The index of sealed events in D1: written batch by batch, found by hash; store/search.ts does the rest.
 *
 * Rows are written by `json_each` in chunks of ≤ 1,000 rows and ≤ 1 MB: one statement a chunk reaches
 * 100,000 rows/s where one a row reaches 1,300 (measured), and a bound value may have 2 MB at most.
 * Writing a row again changes nothing, so the seal can resume after any crash.
 */

import { equal, fromHex, fromUtf8, toHex, utf8, type Hash } from '#core/bytes.ts'
import { readEvent } from '#core/envelope.ts'
import {
  eraserOf,
  ERASURE_TYPE,
  isTombstone,
  linesOf,
  parseTombstone,
  readErasure,
} from '#core/erasure.ts'
import { VaultMeshError } from '#core/errors.ts'
import { hashKey } from '#core/hash-key.ts'
import { sha256 } from '#core/sha256.ts'
import { eventsKey, getBytes, getRange } from '#store/bucket.ts'

const CHUNK_ROWS = 1000
const CHUNK_CHARS = 1_000_000
/** Interned names kept in an isolate. */
const MAX_NAMES = 10_000
/** The source and the type of an erased event: an id that no name has. */
export const ERASED_NAME = 0
/** The time of an erased event: below all others, so that a search never stops at one before it is at its end. */
export const ERASED_AT = -Number.MAX_SAFE_INTEGER

/** A leaf and the hash of its event, `sha256:<hex>`. */
export interface Leaf {
  readonly leafIndex: number
  readonly eventHash: string
}

/** The leaves of `[from, to)` in order, at most `limit`. */
export async function leavesOf(
  db: D1Database,
  { from, to, limit }: { readonly from: number; readonly to: number; readonly limit: number },
): Promise<Leaf[]> {
  const { results } = await db
    .prepare(
      `SELECT leaf_index AS leafIndex, 'sha256:' || lower(hex(event_hash)) AS eventHash FROM events
       WHERE leaf_index >= ?1 AND leaf_index < ?2 ORDER BY leaf_index LIMIT ?3`,
    )
    .bind(from, to, limit)
    .all<Leaf>()
  return results
}

/** Where an event stands in the log and in R2. */
export interface IndexedEvent {
  readonly leafIndex: number
  readonly height: number
  readonly part: number
  readonly offset: number
  readonly length: number
  /** Empty once the event is erased, as `source` is. */
  readonly eventId: string
  readonly source: string
  readonly isErased: boolean
  /** The batch that holds it. */
  readonly batch: {
    readonly treeSize: number
    readonly root: string
    readonly checkpoint: string
    readonly sealedAt: number
  }
}

/** Names already interned, by kind and name. A cache: the table decides. */
export type NameCache = Map<string, number>

/**
 * Indexes one part of a batch from its bytes in R2.
 * Returns how many events it held; throws `bad-state` if the part is missing.
 */
export async function indexPart(
  env: Pick<Env, 'DB' | 'BUCKET'>,
  where: { readonly height: number; readonly part: number; readonly firstIndex: number },
  names: NameCache,
): Promise<number> {
  const bytes = await getBytes(env.BUCKET, eventsKey(where.height, where.part))
  if (bytes === null) {
    throw new VaultMeshError(
      'bad-state',
      `R2 lacks part ${where.part} of the events of batch ${where.height}.`,
    )
  }
  const rows: Row[] = []
  const asked: D1PreparedStatement[] = []
  for (const { offset, line } of linesOf(bytes)) {
    const place = { offset, length: line.length }
    if (isTombstone(line)) {
      const { eventHash } = parseTombstone(line)
      rows.push({ key: hashKey(eventHash), hash: toHex(eventHash), ...NOTHING_SAID, ...place })
      continue
    }
    const { eventHash, id, source, type, subject, timeAt } = readEvent(line)
    const ask = type === ERASURE_TYPE ? askOf(env.DB, where.firstIndex + rows.length, line) : null
    if (ask !== null) asked.push(ask)
    const said = { id, source, type, subject, timeAt }
    rows.push({ key: hashKey(eventHash), hash: toHex(eventHash), ...said, ...place })
  }
  await intern(env.DB, rows, names)
  // One transaction a part: a page of the hash index is then written once for many of its rows.
  await env.DB.batch([
    ...[...chunks(rows, names)].map(([first, chunk]) =>
      env.DB.prepare(INSERT).bind(chunk, where.firstIndex + first, where.height, where.part),
    ),
    ...asked,
  ])
  return rows.length
}

/**
 * Notes that an erasure is due, for the transaction that indexes its event: store/erasures.ts carries it out. Null for a
 * line that asks for none, and for a `vm.erased` that intake would refuse today.
 */
export function askOf(
  db: D1Database,
  leafIndex: number,
  line: Uint8Array,
): D1PreparedStatement | null {
  if (isTombstone(line) || readEvent(line).type !== ERASURE_TYPE) return null
  let target: string
  try {
    target = readErasure(line).eventHash.slice(7)
  } catch (error) {
    if (error instanceof VaultMeshError) return null
    throw error
  }
  return db
    .prepare(
      'INSERT INTO erasures (id, target, event) VALUES (?1, unhex(?2), ?3) ON CONFLICT DO NOTHING',
    )
    .bind(leafIndex, target, fromUtf8(line))
}

const INSERT = `INSERT INTO events (leaf_index, hash_key, event_hash, event_id, source_id, type_id, subject, time_at, height, part, offset, length)
SELECT ?2 + key, value->>0, unhex(value->>1), value->>2, value->>3, value->>4, value->>5, value->>6, ?3, ?4, value->>7, value->>8
FROM json_each(?1) WHERE true ON CONFLICT (leaf_index) DO NOTHING`

interface Row {
  readonly key: number
  readonly hash: string
  readonly id: string
  /** Null of an erased event, as the type is. */
  readonly source: string | null
  readonly type: string | null
  readonly subject: string | null
  readonly timeAt: number
  readonly offset: number
  readonly length: number
}

/** What the index says of an erased event. */
const NOTHING_SAID = { id: '', source: null, type: null, subject: null, timeAt: ERASED_AT } as const

function* chunks(rows: readonly Row[], names: NameCache): Generator<[first: number, json: string]> {
  let chunk: unknown[] = []
  let first = 0
  let size = 0
  for (const [i, r] of rows.entries()) {
    // 160: the fixed columns as JSON; attributes may need six characters each for one.
    const length = 160 + 6 * (r.id.length + (r.subject?.length ?? 0))
    if (chunk.length >= CHUNK_ROWS || (chunk.length > 0 && size + length > CHUNK_CHARS)) {
      yield [first, JSON.stringify(chunk)]
      chunk = []
      first = i
      size = 0
    }
    size += length
    const source = r.source === null ? ERASED_NAME : names.get(`source\n${r.source}`)
    const type = r.type === null ? ERASED_NAME : names.get(`type\n${r.type}`)
    chunk.push([r.key, r.hash, r.id, source, type, r.subject, r.timeAt, r.offset, r.length])
  }
  if (chunk.length > 0) yield [first, JSON.stringify(chunk)]
}

async function intern(db: D1Database, rows: readonly Row[], names: NameCache): Promise<void> {
  const unknown = new Map<string, readonly [kind: string, name: string]>()
  if (names.size > MAX_NAMES) names.clear()
  for (const row of rows) {
    const { source, type } = row
    if (source === null || type === null) continue
    if (!names.has(`source\n${source}`)) unknown.set(`source\n${source}`, ['source', source])
    if (!names.has(`type\n${type}`)) unknown.set(`type\n${type}`, ['type', type])
  }
  const all = [...unknown.values()]
  // 200 names of ≤ 1,024 characters of ≤ 3 bytes stay below 1 MB.
  for (let i = 0; i < all.length; i += 200) {
    const json = JSON.stringify(all.slice(i, i + 200))
    const [, found] = await db.batch<{ id: number; kind: string; name: string }>([
      db
        .prepare(
          'INSERT INTO names (kind, name) SELECT value->>0, value->>1 FROM json_each(?1) WHERE true ON CONFLICT DO NOTHING',
        )
        .bind(json),
      db
        .prepare(
          'SELECT n.id, n.kind, n.name FROM json_each(?1) j JOIN names n ON n.kind = j.value->>0 AND n.name = j.value->>1',
        )
        .bind(json),
    ])
    for (const { id, kind, name } of found!.results) names.set(`${kind}\n${name}`, id)
  }
}

/** The indexed event with this hash, or null. Only committed batches are seen. */
export async function findEvent(
  db: D1Database,
  eventHash: Uint8Array,
): Promise<IndexedEvent | null> {
  const { results } = await db
    .prepare(
      `SELECT e.leaf_index AS leafIndex, e.height, e.part, e.offset, e.length, e.event_id AS eventId, coalesce(s.name, '') AS source,
         e.source_id AS sourceId, hex(e.event_hash) AS hash, b.tree_size AS treeSize, b.root, b.checkpoint, b.sealed_at AS sealedAt
       FROM events e JOIN batches b ON b.height = e.height AND b.committed = 1 LEFT JOIN names s ON s.id = e.source_id
       WHERE e.hash_key = ? LIMIT 100`,
    )
    .bind(hashKey(eventHash))
    .all<
      Omit<IndexedEvent, 'batch' | 'isErased'> &
        IndexedEvent['batch'] & { hash: string; sourceId: number }
    >()
  const row = results.find(({ hash }) => equal(fromHex(hash), eventHash))
  if (row === undefined) return null
  const { treeSize, root, checkpoint, sealedAt, hash: _, sourceId, ...event } = row
  const isErased = sourceId === ERASED_NAME
  return { ...event, isErased, batch: { treeSize, root, checkpoint, sealedAt } }
}

/** The line of an indexed event: its bytes, or its tombstone; throws `bad-state` if R2 lacks it. */
export async function eventLine(
  bucket: R2Bucket,
  event: Pick<IndexedEvent, 'height' | 'part' | 'offset' | 'length' | 'leafIndex'>,
): Promise<Uint8Array> {
  const bytes = await getRange(bucket, eventsKey(event.height, event.part), event)
  if (bytes === null)
    throw new VaultMeshError('bad-state', `R2 lacks the bytes of leaf ${event.leafIndex}.`)
  return bytes
}

/** The bytes of an indexed event; throws `erased`, and `bad-state` if R2 lacks them. */
export async function eventBytes(
  env: Pick<Env, 'DB' | 'BUCKET'>,
  event: IndexedEvent,
): Promise<Uint8Array> {
  const line = event.isErased ? null : await eventLine(env.BUCKET, event)
  // The index is scrubbed before the bundle, and read before it: what says so first is right.
  if (line !== null && !isTombstone(line)) return line
  throw erasedProblem(await eraserOfLeaf(env, event))
}

/** The refusal that an erased event is answered with; `eraser` is null while it is not known which event erased it. */
export function erasedProblem(eraser: Hash | null): VaultMeshError {
  const name = eraser === null ? null : `sha256:${toHex(eraser)}`
  const by = name === null ? '' : ` by ${name}`
  return new VaultMeshError('erased', `The event was erased${by}; its leaf stays in the log.`, {
    extra: name === null ? {} : { erasedBy: name },
  })
}

/** Hash of the `vm.erased` event that took the bytes of a leaf: as the index has it, or its tombstone; null if neither. */
export async function eraserOfLeaf(
  env: Pick<Env, 'DB' | 'BUCKET'>,
  event: Pick<IndexedEvent, 'height' | 'part' | 'offset' | 'length' | 'leafIndex'>,
): Promise<Hash | null> {
  const jws = await env.DB.prepare(
    'SELECT event FROM erasures INDEXED BY erasures_leaf WHERE target_leaf = ? ORDER BY id LIMIT 1',
  )
    .bind(event.leafIndex)
    .first<string>('event')
  if (jws !== null) return sha256(utf8(jws))
  const line = await eventLine(env.BUCKET, event)
  return isTombstone(line) ? eraserOf(parseTombstone(line)) : null
}
