/**
 * Search reads a bounded number of rows whatever is asked, and its pages together are what a full scan finds.
 */

import { env as testEnv } from 'cloudflare:test'
import { beforeAll, expect, test } from 'vitest'
import {
  cursorOf,
  MAX_CANDIDATES,
  parseCursor,
  searchEvents,
  type EventHit,
  type EventQuery,
} from '#store/search.ts'

const { DB } = testEnv as unknown as Env
const ROWS = 60_000
/** Rows of a batch that is being indexed: nobody sees them yet. */
const HIDDEN = 50
/** Milliseconds in which `ROWS` happen; many rows share each. */
const SPAN = 1000

/** D1 that counts the rows its statements read. */
class Meter {
  rows = 0
  readonly plans: string[] = []

  readonly db = {
    prepare: (sql: string) => this.#statement(DB.prepare(sql), sql, []),
  } as unknown as D1Database

  #statement(statement: D1PreparedStatement, sql: string, binds: readonly unknown[]): object {
    const all = async () => {
      const explained = await DB.prepare(`EXPLAIN QUERY PLAN ${sql}`)
        .bind(...binds)
        .all<{ detail: string }>()
      this.plans.push(...explained.results.map(({ detail }) => detail))
      const result = await statement.all()
      this.rows += result.meta.rows_read
      return result
    }
    return {
      bind: (...values: unknown[]) => this.#statement(statement.bind(...values), sql, values),
      all,
      first: async () => (await all()).results[0] ?? null,
    }
  }
}

beforeAll(async () => {
  await DB.batch([
    DB.prepare(
      "INSERT INTO names (id, kind, name) VALUES (1, 'source', 'A'), (2, 'source', 'B'), (3, 'type', 'x'), (4, 'type', 'y'), (5, 'type', 'rare')",
    ),
    // A writes only x, B only y; every 10,000th of A is rare; a subject has a fifth of each.
    DB.prepare(
      `WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i < ?1)
       INSERT INTO events (leaf_index, hash_key, event_hash, event_id, source_id, type_id, subject, time_at, height, part, offset, length)
       SELECT i, i, unhex(printf('%064x', i)), 'id' || i, 1 + i % 2, iif(i % 10000 = 0, 5, 3 + i % 2), iif(i % 5 < 2, 's' || i % 5, NULL),
         (i * 7919) % ?2, 1, 0, 0, 1 FROM c`,
    ).bind(ROWS + HIDDEN - 1, SPAN),
    DB.prepare(
      `INSERT INTO batches (height, first_index, count, tree_size, root, sealed_at, manifest, checkpoint, parts, committed)
       VALUES (1, 0, ?1, ?1, '', 0, '', '', 1, 1), (2, ?1, ?2, ?1 + ?2, '', 0, '', '', 1, 0)`,
    ).bind(ROWS, HIDDEN),
  ])
}, 60_000)

/** Every page of a search; each must be within the bound. */
async function pages(query: Omit<EventQuery, 'after'>): Promise<{ hits: EventHit[]; n: number }> {
  const hits: EventHit[] = []
  let after: EventQuery['after']
  for (let n = 1; ; n++) {
    const meter = new Meter()
    const page = await searchEvents(meter.db, { ...query, after })
    const filters = [query.source, query.type, query.subject].filter((f) => f !== undefined).length
    // A row of the index, one of the table and one of each name; twice the walk to find its end, and
    // what each filter counted; the rows that are hidden yet.
    const bound =
      filters < 2
        ? 5 * query.limit + 2 * HIDDEN + 20
        : (filters + 3) * MAX_CANDIDATES + 4 * query.limit + 4 * HIDDEN + 20
    expect(meter.rows, JSON.stringify({ ...query, after })).toBeLessThanOrEqual(bound)
    for (const plan of meter.plans)
      expect(plan).not.toMatch(/SCAN (?!c\b|batches|CONSTANT|\()|TEMP/)
    hits.push(...page.hits)
    if (page.next === null) return { hits, n }
    after = parseCursor(cursorOf(page.next))!
  }
}

/** Leaves that match, in order, by a full scan of what is committed. */
async function scan(where: string): Promise<number[]> {
  const { results } = await DB.prepare(
    `SELECT leaf_index AS i FROM events WHERE leaf_index < ${ROWS} AND ${where} ORDER BY time_at DESC, leaf_index DESC`,
  ).all<{ i: number }>()
  return results.map(({ i }) => i)
}

test.each<[string, Omit<EventQuery, 'limit' | 'after'>, string]>([
  ['nothing', { from: 200, to: 210 }, 'time_at BETWEEN 200 AND 209'],
  ['a source', { source: 'A', from: 990 }, 'source_id = 1 AND time_at >= 990'],
  ['a type', { type: 'rare' }, 'type_id = 5'],
  ['a subject', { subject: 's1', to: 5 }, "subject = 's1' AND time_at < 5"],
  ['a source and a type that never meet', { source: 'A', type: 'y' }, 'false'],
  ['a source and a rare type', { source: 'A', type: 'rare' }, 'source_id = 1 AND type_id = 5'],
  [
    'a source and a subject',
    { source: 'B', subject: 's0', from: 900 },
    "source_id = 2 AND subject = 's0' AND time_at >= 900",
  ],
  [
    'a type and a subject',
    { type: 'x', subject: 's1', to: 40 },
    "type_id = 3 AND subject = 's1' AND time_at < 40",
  ],
  [
    'all three',
    { source: 'B', type: 'y', subject: 's1', from: 300, to: 340 },
    "source_id = 2 AND type_id = 4 AND subject = 's1' AND time_at BETWEEN 300 AND 339",
  ],
  ['a name that nobody has', { source: 'Z' }, 'false'],
  ['two names that nobody has', { source: 'Z', type: 'Z' }, 'false'],
])(
  'pages of %s are what a full scan finds, in bounded steps',
  async (_, query, where) => {
    const expected = await scan(where)
    for (const limit of [expected.length > 500 ? 97 : 7, 1000]) {
      const { hits } = await pages({ ...query, limit })
      expect(hits.map(({ leafIndex }) => leafIndex)).toEqual(expected)
    }
  },
  60_000,
)

test('a rare type is found in one page, however much its source wrote', async () => {
  const { n } = await pages({ source: 'A', type: 'rare', limit: 100 })
  expect(n).toBe(1)
})

test('filters that hardly meet give empty pages with a cursor, and come to an end', async () => {
  const { hits, n } = await pages({ source: 'A', type: 'y', limit: 100 })
  expect(hits).toEqual([])
  expect(n).toBe(Math.ceil(ROWS / 2 / MAX_CANDIDATES))
})

test('events of one moment are paged without walking over those shown before', async () => {
  await DB.prepare('UPDATE events SET time_at = 5000 WHERE leaf_index < 20000').run()
  const { hits } = await pages({ source: 'A', from: 5000, limit: 1000 })
  expect(hits.map(({ leafIndex }) => leafIndex)).toEqual(
    Array.from({ length: 10_000 }, (_, i) => 19_998 - 2 * i),
  )
})
