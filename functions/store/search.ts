/**
 * Search over the index of sealed events, newest `time` first, in a bounded number of rows a request.
 *
 * Every filter has an index of its own, ordered by time and then, because SQLite ends each index entry
 * with the row's key, by leaf index: the order of the pages. One filter or none reads just the rows it
 * shows. With several, the index with the fewest candidates is walked and the other filters are asked of
 * its rows, at most `MAX_CANDIDATES` of them: a page may be short or empty while `next` is not null.
 * (An index for each combination would cost every insert 3 µs, measured, and still leave pairs out.)
 *
 * A cursor is a place (time, leaf index) in that order, whichever index led there. Events of one moment are
 * many: a bulk is often stamped once. So the rest of the cursor's moment is a range of its own, found by
 * the row's key, and nobody walks over what was shown already.
 */

import { isoTime } from '#core/time.ts'

/** Rows of one index that a request looks at when the others must be asked, too: ≈ 5 ms (measured). */
export const MAX_CANDIDATES = 2000

/** What a search may ask for; times are epoch ms, `from` inclusive, `to` exclusive. */
export interface EventQuery {
  readonly source?: string | undefined
  readonly type?: string | undefined
  readonly subject?: string | undefined
  readonly from?: number | undefined
  readonly to?: number | undefined
  readonly limit: number
  /** Continue after this place. */
  readonly after?: Place | undefined
}

/** A place in the order of hits. */
export type Place = readonly [timeAt: number, leafIndex: number]

/** A search hit. */
export interface EventHit {
  readonly eventHash: string
  readonly eventId: string
  readonly source: string
  readonly type: string
  readonly subject: string | null
  readonly timeAt: number
  readonly leafIndex: number
  readonly height: number
}

/** A page of hits; `next` is where to go on, null at the end. */
export interface EventPage {
  readonly hits: readonly EventHit[]
  readonly next: Place | null
}

const filters = {
  source: {
    index: 'events_source',
    column: 'source_id',
    value: "(SELECT id FROM names WHERE kind = 'source' AND name = ?)",
  },
  type: {
    index: 'events_type',
    column: 'type_id',
    value: "(SELECT id FROM names WHERE kind = 'type' AND name = ?)",
  },
  subject: { index: 'events_subject', column: 'subject', value: '?' },
} as const
type Filter = keyof typeof filters
const NO_FILTER = 'events_time'

/** Leaves of the committed batches: rows of the batch being indexed are not shown yet. */
const COMMITTED = '(SELECT tree_size FROM batches WHERE committed = 1 ORDER BY height DESC LIMIT 1)'

/** A page of the events that match. */
export async function searchEvents(db: D1Database, query: EventQuery): Promise<EventPage> {
  const given = (Object.keys(filters) as Filter[]).filter((name) => query[name] !== undefined)
  if (given.length < 2) {
    const hits = await readHits(db, query, { by: given[0], rest: [], leaves: null })
    const last = hits.at(-1)
    return { hits, next: hits.length === query.limit ? placeOf(last) : null }
  }
  const { leaves, by } = await fewest(db, query, given)
  if (leaves === null) return { hits: [], next: null }
  // Both questions are of the leaves that were committed then, so that the page ends where the walk did.
  const hits = await readHits(db, query, { by, rest: given.filter((name) => name !== by), leaves })
  if (hits.length === query.limit) return { hits, next: placeOf(hits.at(-1)) }
  return { hits, next: await lastCandidate(db, query, { by, leaves }) }
}

function placeOf(hit: EventHit | undefined): Place | null {
  return hit === undefined ? null : [hit.timeAt, hit.leafIndex]
}

/** Parameters in the order in which the SQL names them. */
class Binds {
  readonly values: (string | number)[] = []

  /** The name of `value` in the SQL. */
  of(value: string | number): string {
    this.values.push(value)
    return `?${this.values.length}`
  }

  /** `column = value` for a filter of the query. */
  equals(name: Filter, query: EventQuery, table = ''): string {
    const { column, value } = filters[name]
    return `${table}${column} = ${value.replace('?', this.of(query[name]!))}`
  }
}

/** The walk: over the index of `by`, or of the time alone. `leaves` is null for "as committed now". */
interface Walk {
  readonly by: Filter | undefined
  readonly leaves: number | null
}

/** SQL of the first `n` candidates of a walk: (time_at, leaf_index), newest first. */
function candidates(query: EventQuery, { by, leaves }: Walk, binds: Binds, n: number): string {
  const from = `SELECT time_at, leaf_index FROM events INDEXED BY ${by === undefined ? NO_FILTER : filters[by].index}`
  const match = by === undefined ? '' : `${binds.equals(by, query)} AND `
  const size = leaves === null ? COMMITTED : binds.of(leaves)
  const since = query.from === undefined ? '' : ` AND time_at >= ${binds.of(query.from)}`
  const end = `ORDER BY time_at DESC, leaf_index DESC LIMIT ${binds.of(n)}`
  const { to, after } = query
  if (after === undefined || (to !== undefined && to <= after[0])) {
    const until = to === undefined ? '' : ` AND time_at < ${binds.of(to)}`
    return `${from} WHERE ${match}leaf_index < ${size}${since}${until} ${end}`
  }
  const at = binds.of(after[0])
  const place = binds.of(after[1])
  return (
    `${from} WHERE ${match}time_at = ${at} AND leaf_index < min(${place}, ${size})${since}` +
    ` UNION ALL ${from} WHERE ${match}time_at < ${at} AND leaf_index < ${size}${since} ${end}`
  )
}

/** The hits among the candidates. Rows are taken as they come, so a full page ends the walk. */
async function readHits(
  db: D1Database,
  query: EventQuery,
  walk: Walk & { readonly rest: readonly Filter[] },
): Promise<EventHit[]> {
  const binds = new Binds()
  const n = walk.rest.length === 0 ? query.limit : MAX_CANDIDATES
  const walked = candidates(query, walk, binds, n)
  const match = walk.rest.map((name) => ` AND ${binds.equals(name, query, 'e.')}`).join('')
  const { results } = await db
    .prepare(
      `SELECT hex(e.event_hash) AS hash, e.event_id AS eventId, s.name AS source, t.name AS type, e.subject,
         e.time_at AS timeAt, e.leaf_index AS leafIndex, e.height
       FROM (${walked}) c CROSS JOIN events e ON e.leaf_index = c.leaf_index
         CROSS JOIN names s ON s.id = e.source_id CROSS JOIN names t ON t.id = e.type_id
       WHERE true${match} ORDER BY c.time_at DESC, c.leaf_index DESC LIMIT ${binds.of(query.limit)}`,
    )
    .bind(...binds.values)
    .all<Omit<EventHit, 'eventHash'> & { hash: string }>()
  return results.map(({ hash, ...hit }) => ({ ...hit, eventHash: `sha256:${hash.toLowerCase()}` }))
}

/** Where the walk stopped short of the end, or null if it did not. */
async function lastCandidate(db: D1Database, query: EventQuery, walk: Walk): Promise<Place | null> {
  const binds = new Binds()
  const sql = candidates(query, walk, binds, 1)
  const row = await db
    .prepare(`${sql} OFFSET ${binds.of(MAX_CANDIDATES - 1)}`)
    .bind(...binds.values)
    .first<{ time_at: number; leaf_index: number }>()
  return row === null ? null : [row.time_at, row.leaf_index]
}

/** The filter with the fewest rows in the query's time, counted up to one walk, and the committed leaves. */
async function fewest(
  db: D1Database,
  query: EventQuery,
  given: readonly Filter[],
): Promise<{ readonly leaves: number | null; readonly by: Filter }> {
  const binds = new Binds()
  const counts = given.map((name) => {
    const range = [binds.equals(name, query)]
    if (query.from !== undefined) range.push(`time_at >= ${binds.of(query.from)}`)
    if (query.to !== undefined) range.push(`time_at < ${binds.of(query.to)}`)
    if (query.after !== undefined) range.push(`time_at <= ${binds.of(query.after[0])}`)
    return `(SELECT count(*) FROM (SELECT 1 FROM events INDEXED BY ${filters[name].index} WHERE ${range.join(' AND ')} LIMIT ${MAX_CANDIDATES})) AS ${name}`
  })
  const row = await db
    .prepare(`SELECT ${COMMITTED} AS leaves, ${counts.join(', ')}`)
    .bind(...binds.values)
    .first<Record<Filter, number> & { leaves: number | null }>()
  if (row === null) return { leaves: null, by: given[0]! }
  const by = given.reduce((best, name) => (row[name] < row[best] ? name : best))
  return { leaves: row.leaves, by }
}

/** A cursor for the page after a place. */
export function cursorOf([timeAt, leafIndex]: Place): string {
  return `${timeAt}.${leafIndex}`
}

/** The cursor's place, or null if the text is none. */
export function parseCursor(text: string): Place | null {
  const m = /^(-?\d{1,15})\.(\d{1,16})$/.exec(text)
  return m === null ? null : [Number(m[1]), Number(m[2])]
}

/** `time` of a hit as ISO 8601. */
export function hitTime(hit: EventHit): string {
  return isoTime(hit.timeAt)
}
