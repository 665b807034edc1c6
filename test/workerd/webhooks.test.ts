/**
 * What telling costs in the real D1: each step reads a bounded number of rows by index, however many events,
 * hooks and old deliveries there are, and with no hooks it reads next to nothing.
 */

import { env as testEnv } from 'cloudflare:test'
import { beforeAll, expect, test } from 'vitest'
import { CATCH_UP, dispatchWebhooks } from '#store/webhook-dispatch.ts'
import { dueDeliveries, endTurn, PURGE, purgeWebhooks, takeLane } from '#store/webhook-outbox.ts'
import { hookStatus, keepWatch, registerHook } from '#store/webhooks.ts'

const { DB } = testEnv as unknown as Env
const LEAVES = 220_000
/** Leaves of one step of the dispatcher, and steps of one call. */
const STEP = 2000
const STEPS = 100

/**
 * Scans that are short: of what the statement was given, of the few rails and cursors, and those that an
 * ORDER BY on the key with LIMIT 1, or an EXISTS, ends at the first row.
 */
const SHORT =
  /^SCAN (?:j|json_each|CONSTANT ROW|k|webhook_cursors|batches|webhooks USING INDEX webhooks_live)\b/

/** D1 that explains its statements and counts the rows that each transaction reads. */
class Meter {
  readonly rows: number[] = []
  readonly plans: string[] = []
  readonly #real = new WeakMap<object, { statement: D1PreparedStatement; sql: string }>()

  readonly db = {
    prepare: (sql: string) => this.#statement(DB.prepare(sql), sql, []),
    batch: async (statements: readonly object[]) => {
      const results = await DB.batch(
        await Promise.all(statements.map((s) => this.#real.get(s)!.statement)),
      )
      this.rows.push(results.reduce((sum, { meta }) => sum + meta.rows_read, 0))
      return results
    },
  } as unknown as D1Database

  #statement(statement: D1PreparedStatement, sql: string, binds: readonly unknown[]): object {
    const all = async () => {
      const result = await statement.all()
      this.rows.push(result.meta.rows_read)
      return result
    }
    const wrapped = {
      bind: (...values: unknown[]) => this.#statement(statement.bind(...values), sql, values),
      all,
      run: all,
      first: async () => (await all()).results[0] ?? null,
    }
    this.#real.set(wrapped, { statement, sql })
    this.#explained.push(this.#explain(sql, binds))
    return wrapped
  }

  readonly #explained: Promise<void>[] = []

  async #explain(sql: string, binds: readonly unknown[]): Promise<void> {
    const n = new Set(sql.match(/\?\d*/g) ?? []).size
    if (n > 0 && binds.length === 0) return
    const { results } = await DB.prepare(`EXPLAIN QUERY PLAN ${sql}`)
      .bind(...binds)
      .all<{ detail: string }>()
    this.plans.push(...results.map(({ detail }) => detail))
  }

  /** No table is read from end to end but those of a few rows and what a statement was given. */
  async check(most: number): Promise<void> {
    await Promise.all(this.#explained)
    expect(this.plans.length).toBeGreaterThan(0)
    const scans = this.plans.filter((plan) => plan.startsWith('SCAN') && !SHORT.test(plan))
    expect(scans).toEqual([])
    expect(Math.max(...this.rows)).toBeLessThanOrEqual(most)
  }
}

beforeAll(async () => {
  await DB.batch([
    DB.prepare(
      "INSERT INTO names (id, kind, name) VALUES (1, 'source', 'did:key:zA'), (2, 'source', 'did:key:zB'), (3, 'type', 'x')",
    ),
    DB.prepare(
      `WITH RECURSIVE c(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM c WHERE i < ?1)
       INSERT INTO events (leaf_index, hash_key, event_hash, event_id, source_id, type_id, subject, time_at, height, part, offset, length)
       SELECT i, i, unhex(printf('%064x', i)), 'id' || i, 1 + i % 2, 3, NULL, i, 1, 0, 0, 1 FROM c`,
    ).bind(LEAVES - 1),
    DB.prepare(
      `INSERT INTO batches (height, first_index, count, tree_size, root, sealed_at, manifest, checkpoint, parts, committed)
       VALUES (1, 0, 10000, 10000, '', 0, '', '', 1, 1)`,
    ),
  ])
}, 60_000)

test('with no webhooks the cursors pass any number of events in a few reads', async () => {
  const meter = new Meter()
  expect(await dispatchWebhooks(meter.db, ['TSA'], 1)).toBe(false)
  await meter.check(10)
  expect(meter.rows.length).toBeLessThan(4)
})

test('a DID with very many events and one webhook is told of all of them in bounded steps', async () => {
  const target = { url: 'https://receiver.example/', host: 'receiver.example' }
  const base = { target, types: 7, expiresAt: 1e13, nowAt: 1 }
  const { name: hook } = await registerHook(DB, { ...base, did: 'did:key:zA', jti: 'a' })
  // Neighbours that nobody must read: hooks of other DIDs and events, and notices long since taken.
  await DB.batch([
    DB.prepare(
      `WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 20000)
       INSERT INTO webhooks (name, did, event_hash, lane_id, url, types, since_leaf, created_at)
       SELECT 'n' || i, iif(i % 2, 'did:key:z' || i, NULL), iif(i % 2, NULL, unhex(printf('%064x', 1000000 + i))), 99, 'https://n/', 7, 0, 1 FROM c`,
    ),
    DB.prepare(
      `WITH RECURSIVE c(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM c WHERE i < 20000)
       INSERT INTO webhook_deliveries (hook_id, lane_id, leaf_index, type, rail, receipt_id, state, next_at, created_at, updated_at)
       SELECT 99, 99, i, 1, '', 0, 'done', 1, 1, 1e13 FROM c`,
    ),
    DB.prepare('UPDATE batches SET count = ?1, tree_size = ?1').bind(LEAVES),
    DB.prepare("INSERT INTO rails VALUES ('TSA', 'a', 'r')"),
    DB.prepare(
      `INSERT INTO receipts (root, tree_size, chain, network, method, tx_hash, anchor_at, json)
       VALUES ('1', ?1, 'TSA', 'a', 'r', 'ab', 5, '{}')`,
    ).bind(LEAVES),
  ])
  let calls = 0
  const meter = new Meter()
  while (await dispatchWebhooks(meter.db, ['TSA'], 2)) calls++
  // Sealed, anchored and final, each 210,000 leaves; and the new hooks.
  expect(calls).toBe(Math.floor((3 * ((LEAVES - 10_000) / STEP) + 20_001 / 500) / STEPS))
  // A leaf, its name, its signer's hooks, its own hooks, and the row that is inserted with its indices.
  await meter.check(16 * STEP)
  const { results } = await DB.prepare(
    `SELECT type, count(*) AS n, min(leaf_index) AS first FROM webhook_deliveries WHERE hook_id <> 99 GROUP BY type ORDER BY type`,
  ).all()
  const n = (LEAVES - 10_000) / 2
  expect(results).toEqual([1, 2, 4].map((type) => ({ type, n, first: 10_000 })))
  expect((await hookStatus(DB, hook))?.deliveries.length).toBe(20)
}, 120_000)

test('a turn reads what it sends, however much waits', async () => {
  const meter = new Meter()
  const lane = (await takeLane(meter.db, false, 3))!
  const due = await dueDeliveries(meter.db, lane, { nowAt: 3, origin: 'o' })
  expect(due.length).toBe(50)
  const [first, second, third] = due
  await endTurn(
    meter.db,
    lane,
    {
      done: [{ delivery: first!, result: '200' }],
      failed: [{ delivery: second!, result: '500' }],
      ended: [],
    },
    { nowAt: 3, random: 0.5 },
  )
  // Nobody else has the lane while its lease lasts; now it is proven, and due again.
  expect(await takeLane(DB, false, 4)).toBeNull()
  const again = (await takeLane(meter.db, true, 4))!
  const next = await dueDeliveries(meter.db, again, { nowAt: 4, origin: 'o' })
  expect(next[0]!.id).toBe(third!.id)
  await meter.check(1000)
})

test('registering and watching read the hooks of that DID or event, and the purge what it deletes', async () => {
  const meter = new Meter()
  const target = { url: 'https://other.example/', host: 'other.example' }
  await registerHook(meter.db, {
    did: 'did:key:zB',
    jti: 'b',
    target,
    types: 1,
    expiresAt: 1e13,
    nowAt: 1,
  })
  const events = Array.from({ length: 1000 }, (_, i) => ({
    eventHash: Uint8Array.from({ length: 32 }, (__, b) =>
      b === 31 ? i & 255 : b === 30 ? i >> 8 : 0,
    ),
    did: 'did:key:zB',
  }))
  await keepWatch(meter.db, target, { events, nowAt: 1 })
  await meter.check(20_000)
  const purge = new Meter()
  while (await purgeWebhooks(purge.db, 1e14));
  await purge.check(30_000)
  expect(PURGE.length + CATCH_UP.length).toBe(7)
  const left = await DB.prepare(
    'SELECT count(*) AS n FROM webhook_deliveries WHERE hook_id = 99',
  ).first()
  expect(left).toEqual({ n: 0 })
})
