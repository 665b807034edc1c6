/**
 * The index of sealed events in D1: written batch by batch, found by hash; store/search.ts does the rest.
 *
 * Rows are written by `json_each` in chunks of ≤ 1,000 rows and ≤ 1 MB: one statement a chunk reaches
 * 100,000 rows/s where one a row reaches 1,300 (measured), and a bound value may have 2 MB at most.
 * Writing a row again changes nothing, so the seal can resume after any crash.
 */

import { equal, fromHex, toHex } from '#core/bytes.ts'
import { readEvent } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { hashKey } from '#core/hash-key.ts'
import { eventsKey, getBytes, getRange } from '#store/bucket.ts'

const CHUNK_ROWS = 1000
const CHUNK_CHARS = 1_000_000
/** Interned names kept in an isolate. */
const MAX_NAMES = 10_000

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
  readonly eventId: string
  readonly source: string
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
  for (let offset = 0; offset < bytes.length;) {
    const newline = bytes.indexOf(0x0a, offset)
    const end = newline < 0 ? bytes.length : newline
    const event = readEvent(bytes.subarray(offset, end))
    rows.push({
      key: hashKey(event.eventHash),
      hash: toHex(event.eventHash),
      id: event.id,
      source: event.source,
      type: event.type,
      subject: event.subject,
      timeAt: event.timeAt,
      offset,
      length: end - offset,
    })
    offset = end + 1
  }
  await intern(env.DB, rows, names)
  // One transaction a part: a page of the hash index is then written once for many of its rows.
  await env.DB.batch(
    [...chunks(rows, names)].map(([first, chunk]) =>
      env.DB.prepare(INSERT).bind(chunk, where.firstIndex + first, where.height, where.part),
    ),
  )
  return rows.length
}

const INSERT = `INSERT INTO events (leaf_index, hash_key, event_hash, event_id, source_id, type_id, subject, time_at, height, part, offset, length)
SELECT ?2 + key, value->>0, unhex(value->>1), value->>2, value->>3, value->>4, value->>5, value->>6, ?3, ?4, value->>7, value->>8
FROM json_each(?1) WHERE true ON CONFLICT (leaf_index) DO NOTHING`

interface Row {
  readonly key: number
  readonly hash: string
  readonly id: string
  readonly source: string
  readonly type: string
  readonly subject: string | null
  readonly timeAt: number
  readonly offset: number
  readonly length: number
}

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
    const source = names.get(`source\n${r.source}`)
    const type = names.get(`type\n${r.type}`)
    chunk.push([r.key, r.hash, r.id, source, type, r.subject, r.timeAt, r.offset, r.length])
  }
  if (chunk.length > 0) yield [first, JSON.stringify(chunk)]
}

async function intern(db: D1Database, rows: readonly Row[], names: NameCache): Promise<void> {
  const unknown = new Map<string, readonly [kind: string, name: string]>()
  if (names.size > MAX_NAMES) names.clear()
  for (const row of rows) {
    if (!names.has(`source\n${row.source}`))
      unknown.set(`source\n${row.source}`, ['source', row.source])
    if (!names.has(`type\n${row.type}`)) unknown.set(`type\n${row.type}`, ['type', row.type])
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
      `SELECT e.leaf_index AS leafIndex, e.height, e.part, e.offset, e.length, e.event_id AS eventId, s.name AS source,
         hex(e.event_hash) AS hash, b.tree_size AS treeSize, b.root, b.checkpoint, b.sealed_at AS sealedAt
       FROM events e JOIN batches b ON b.height = e.height AND b.committed = 1 JOIN names s ON s.id = e.source_id
       WHERE e.hash_key = ? LIMIT 100`,
    )
    .bind(hashKey(eventHash))
    .all<Omit<IndexedEvent, 'batch'> & IndexedEvent['batch'] & { hash: string }>()
  const row = results.find(({ hash }) => equal(fromHex(hash), eventHash))
  if (row === undefined) return null
  const { treeSize, root, checkpoint, sealedAt, hash: _, ...event } = row
  return { ...event, batch: { treeSize, root, checkpoint, sealedAt } }
}

/** The bytes of an indexed event; throws `bad-state` if R2 lacks them. */
export async function eventBytes(bucket: R2Bucket, event: IndexedEvent): Promise<Uint8Array> {
  const bytes = await getRange(bucket, eventsKey(event.height, event.part), event)
  if (bytes === null)
    throw new VaultMeshError('bad-state', `R2 lacks the bytes of leaf ${event.leafIndex}.`)
  return bytes
}
