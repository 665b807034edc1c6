/**
 * What the pages of the dashboard read from D1: bounded lists through indexes, never a whole table.
 *
 * Each read below touches rows in proportion to what it shows, whatever the log's size (test/workerd/dashboard.test.ts
 * holds its plan and its rows; `make bench ARGS=pages` does at 1,000,000 events). Rows of a batch that is being
 * indexed are left out by its `committed`. Reads are values, so that a page has all of its own in one round trip.
 */

import { isDevNetwork, type Chain } from '#core/anchor-receipt.ts'
import { fromHex } from '#core/bytes.ts'
import { hashKey } from '#core/hash-key.ts'
import { keysOfHead } from '#core/search-term.ts'
import type { Alert } from '#store/alerts.ts'
import type { AnchorRow, ConfiguredRail } from '#store/anchors.ts'
import type { EventHit } from '#store/search.ts'

/** One statement, and what its rows mean. */
export interface Read<T> {
  readonly sql: string
  readonly binds: readonly (string | number)[]
  readonly of: (rows: readonly never[]) => T
}

/** What each read gives, by its name; all in one round trip. */
export async function readAll<R extends Readonly<Record<string, Read<unknown>>>>(
  db: D1Database,
  reads: R,
): Promise<{ readonly [K in keyof R]: R[K] extends Read<infer T> ? T : never }> {
  const list = Object.entries(reads)
  const statements = list.map(([, { sql, binds }]) => db.prepare(sql).bind(...binds))
  // A batch of one is more work than one.
  const answers =
    statements.length === 1 ? [await statements[0]!.all()] : await db.batch(statements)
  const given = list.map(([name, { of }], i) => [name, of(answers[i]!.results as never[])])
  return Object.fromEntries(given) as never
}

function read<Row, T = readonly Row[]>(
  sql: string,
  binds: readonly (string | number)[],
  of: (rows: readonly Row[]) => T = (rows) => rows as T,
): Read<T> {
  return { sql, binds, of }
}

/** A batch in a list: its record without what is signed. */
export interface BatchLine {
  readonly height: number
  readonly firstIndex: number
  readonly count: number
  readonly treeSize: number
  /** 64 hex digits. */
  readonly root: string
  readonly sealedAt: number
}

const BATCH =
  'height, first_index AS firstIndex, count, tree_size AS treeSize, root, sealed_at AS sealedAt'

/** Committed batches below a height, newest first. */
export function batchLines(page: { readonly below: number; readonly limit: number }) {
  return read<BatchLine>(
    `SELECT ${BATCH} FROM batches WHERE committed = 1 AND height < ? ORDER BY height DESC LIMIT ?`,
    [page.below, page.limit],
  )
}

/** The committed batches with this root (64 hex digits): one, but where a batch was sealed again. */
export function batchesOfRoot(root: string) {
  return read<BatchLine>(`SELECT ${BATCH} FROM batches WHERE root = ? AND committed = 1 LIMIT 10`, [
    root,
  ])
}

/** How far a kind of anchor has come: every batch up to `treeSize` leaves is under its newest receipt. */
export interface Coverage {
  readonly chain: Chain
  readonly network: string
  readonly method: string
  readonly treeSize: number
  readonly txHash: string
  /** Epoch ms of the anchor itself. */
  readonly anchorAt: number
}

/** The newest receipt of each kind that was not revoked; few rows. */
export const coverages = read<Coverage>(
  `SELECT r.chain, r.network, r.method, r.tree_size AS treeSize, r.tx_hash AS txHash, r.anchor_at AS anchorAt
   FROM rails k CROSS JOIN receipts r ON r.id = (
     SELECT id FROM receipts c WHERE chain = k.chain AND network = k.network AND method = k.method
       AND NOT EXISTS (SELECT 1 FROM revocations v WHERE v.receipt_id = c.id)
     ORDER BY tree_size DESC LIMIT 1)
   ORDER BY r.chain, r.network, r.method`,
  [],
)

/** Where a batch stands, from what covers it. */
export function standingOf(
  rails: readonly string[],
  covered: readonly Coverage[],
  treeSize: number,
): 'sealed' | 'anchored' | 'final' {
  const chains = new Set(covered.filter((c) => c.treeSize >= treeSize).map(({ chain }) => chain))
  if (chains.size === 0) return 'sealed'
  return rails.length > 0 && rails.every((rail) => chains.has(rail as Chain)) ? 'final' : 'anchored'
}

/** Jobs of the outbox that are not over, the longest due first, at most 200. */
export const openJobs = read<AnchorRow>(
  `SELECT id, root, tree_size AS treeSize, chain, network, method, state, failures, attempts, next_at AS nextAt,
     lease_until AS leaseUntil, version, work, reason, provider, delay_ms AS delayMs, inclusion, released,
     created_at AS createdAt, updated_at AS updatedAt
   FROM anchors INDEXED BY anchors_due WHERE state NOT IN ('final', 'failed') ORDER BY next_at LIMIT 200`,
  [],
)

/** A rail of the settings: its queue, and how far it has come. */
export interface RailLine extends Omit<ConfiguredRail, 'isFree'> {
  readonly dev: boolean
  /** Jobs under way. */
  readonly waiting: number
  /** Of them, those that an operator or the wallet must free. */
  readonly held: number
  /** Failed attempts since the last success, of the job that has most. */
  readonly failures: number
  /** When the oldest job under way was created. */
  readonly oldestAt: number | null
  /** When a job is looked at next. */
  readonly nextAt: number | null
  readonly state: string | null
  readonly reason: string | null
  readonly provider: { readonly name: string; readonly why: string } | null
  /** Leaves under the newest verified anchor, and when that was. */
  readonly treeSize: number
  readonly anchoredAt: number | null
}

/** The rails of the settings, in their order, from jobs and receipts. */
export function railLines(
  rails: readonly ConfiguredRail[],
  jobs: readonly AnchorRow[],
  covered: readonly Coverage[],
): RailLine[] {
  return rails.map(({ chain, network, method, intervalMs }) => {
    const isSame = (other: { chain: string; network: string; method: string }): boolean =>
      other.chain === chain && other.network === network && other.method === method
    const mine = jobs.filter(isSame)
    const worst = mine.toSorted((a, b) => b.failures - a.failures || a.id - b.id)[0]
    const newest = covered.find(isSame)
    return {
      chain,
      network,
      method,
      intervalMs,
      dev: isDevNetwork(chain, network),
      waiting: mine.length,
      held: mine.filter(({ state }) => state === 'held').length,
      failures: worst?.failures ?? 0,
      oldestAt: mine.length === 0 ? null : Math.min(...mine.map(({ createdAt }) => createdAt)),
      nextAt: mine.length === 0 ? null : Math.min(...mine.map(({ nextAt }) => nextAt)),
      state: worst?.state ?? null,
      reason: worst?.reason ?? null,
      provider: providerOf(worst?.provider ?? null),
      treeSize: newest?.treeSize ?? 0,
      anchoredAt: newest?.anchorAt ?? null,
    }
  })
}

/** Who was asked last and why, as the outbox keeps it. */
export function providerOf(json: string | null): { name: string; why: string } | null {
  return json === null ? null : (JSON.parse(json) as { name: string; why: string })
}

/** An alert as the dashboard lists it. */
export interface AlertLine extends Alert {
  readonly id: number
  readonly openedAt: number
  readonly clearedAt: number | null
}

const ALERT =
  'id, kind, key, severity, detail, link, opened_at AS openedAt, cleared_at AS clearedAt'

/** Alerts that are open, newest first, at most 100. */
export const alertsOpen = read<AlertLine>(
  `SELECT ${ALERT} FROM alerts INDEXED BY alerts_open WHERE cleared_at IS NULL ORDER BY id DESC LIMIT 100`,
  [],
)

/** Alerts that are over, newest first, with ids below `below`. */
export function alertsOver(page: { readonly below: number; readonly limit: number }) {
  return read<AlertLine>(
    `SELECT ${ALERT} FROM alerts WHERE id < ? AND cleared_at IS NOT NULL ORDER BY id DESC LIMIT ?`,
    [page.below, page.limit],
  )
}

/** Dead letters of a queue that nobody replayed. */
export interface OpenLetters {
  readonly queue: string
  readonly count: number
  readonly oldestAt: number
}

/** Dead letters that nobody replayed, by queue. */
export const deadLettersByQueue = read<OpenLetters>(
  `SELECT queue, count(*) AS count, min(received_at) AS oldestAt FROM dead_letters INDEXED BY dead_letters_open
   WHERE replayed_at IS NULL GROUP BY queue`,
  [],
)

/** Of an erased event all texts are empty: lists show its place all the same. */
const HIT = `SELECT hex(e.event_hash) AS hash, e.event_id AS eventId, coalesce(s.name, '') AS source, coalesce(t.name, '') AS type, e.subject,
    e.time_at AS timeAt, e.leaf_index AS leafIndex, e.height
  FROM events e CROSS JOIN batches b ON b.height = e.height AND b.committed = 1
    LEFT JOIN names s ON s.id = e.source_id LEFT JOIN names t ON t.id = e.type_id`

type HitRow = Omit<EventHit, 'eventHash'> & { hash: string }

function hitOf({ hash, ...hit }: HitRow): EventHit {
  return { ...hit, eventHash: `sha256:${hash.toLowerCase()}` }
}

/** Events whose hash begins with these hex digits, at most `limit`. */
export function eventsOfHead(head: string, limit: number): Read<readonly EventHit[]> {
  const [first, last] = keysOfHead(head)
  return read<HitRow, readonly EventHit[]>(
    `${HIT} WHERE e.hash_key BETWEEN ? AND ? ORDER BY e.hash_key LIMIT ?`,
    [first, last, limit],
    (rows) => rows.map(hitOf).filter(({ eventHash }) => eventHash.startsWith(`sha256:${head}`)),
  )
}

/** The event with this hash (64 hex digits) as a hit, or null. */
export function eventOfHash(hash: string): Read<EventHit | null> {
  return read<HitRow, EventHit | null>(
    `${HIT} WHERE e.hash_key = ? LIMIT 100`,
    [hashKey(fromHex(hash))],
    (rows) => {
      const row = rows.find((hit) => hit.hash.toLowerCase() === hash)
      return row === undefined ? null : hitOf(row)
    },
  )
}

/** Events in leaf order from `from` to before `to`, at most `limit`. */
export function eventsOfLeaves(range: {
  readonly from: number
  readonly to: number
  readonly limit: number
}): Read<readonly EventHit[]> {
  return read<HitRow, readonly EventHit[]>(
    `${HIT} WHERE e.leaf_index >= ? AND e.leaf_index < ? ORDER BY e.leaf_index LIMIT ?`,
    [range.from, range.to, range.limit],
    (rows) => rows.map(hitOf),
  )
}

/** A verified receipt that a transaction hash or a root led to. */
export interface ReceiptHit {
  readonly id: number
  /** 64 hex digits. */
  readonly root: string
  readonly treeSize: number
  readonly chain: Chain
  readonly network: string
  readonly method: string
  readonly txHash: string
  readonly anchorAt: number
  /** The chain contradicted it later. */
  readonly revoked: boolean
  /** The batch that ends with this root; null if none does. */
  readonly height: number | null
}

type ReceiptRow = Omit<ReceiptHit, 'revoked'> & { readonly revoked: number }

function receiptsOf(rows: readonly ReceiptRow[]): readonly ReceiptHit[] {
  return rows.map((row) => ({ ...row, revoked: row.revoked === 1 }))
}

const RECEIPT = `SELECT r.id, r.root, r.tree_size AS treeSize, r.chain, r.network, r.method, r.tx_hash AS txHash,
    r.anchor_at AS anchorAt, EXISTS (SELECT 1 FROM revocations v WHERE v.receipt_id = r.id) AS revoked,
    (SELECT height FROM batches b WHERE b.root = r.root AND b.committed = 1 LIMIT 1) AS height
  FROM receipts r`

/** Receipts of a transaction (64 hex digits, without 0x) or of a timestamp token's hash. */
export function receiptsOfTx(hash: string): Read<readonly ReceiptHit[]> {
  return read(`${RECEIPT} WHERE r.tx_hash IN (?1, '0x' || ?1) LIMIT 25`, [hash], receiptsOf)
}

/** Receipts of a root (64 hex digits). */
export function receiptsOfRoot(root: string): Read<readonly ReceiptHit[]> {
  return read(`${RECEIPT} WHERE r.root = ? LIMIT 25`, [root], receiptsOf)
}

/** The newest receipts, with ids below `below`. */
export function newestReceipts(page: {
  readonly below: number
  readonly limit: number
}): Read<readonly ReceiptHit[]> {
  const { below, limit } = page
  return read(`${RECEIPT} WHERE r.id < ? ORDER BY r.id DESC LIMIT ?`, [below, limit], receiptsOf)
}

/** Names of a kind that begin with a text, for who does not know the whole of it; at most 8. */
export function namesLike(kind: 'source' | 'type', head: string): Read<readonly string[]> {
  return read<{ name: string }, readonly string[]>(
    "SELECT name FROM names WHERE kind = ?1 AND name > ?2 AND name < ?2 || '\u{10ffff}' ORDER BY name LIMIT 8",
    [kind, head],
    (rows) => rows.map(({ name }) => name),
  )
}

/** What waits for its seal, over all pools. */
export interface Backlog {
  readonly count: number
  /** When the oldest of them became durable; null if none waits. */
  readonly oldestAt: number | null
  /** Why the log seals nothing any more; null while it grows. */
  readonly halted: string | null
}

/** Asks Sequencer and pools what waits. */
export async function backlog(env: Pick<Env, 'SEQUENCER' | 'POOL'>): Promise<Backlog> {
  const { cursors, halted } = await env.SEQUENCER.getByName('log').standing()
  const peeks = await Promise.all(
    cursors.map((cursor, shard) => env.POOL.getByName(String(shard)).peek(cursor)),
  )
  let count = 0
  let oldestAt: number | null = null
  for (const [shard, peek] of peeks.entries()) {
    // A seal between the two questions leaves less than nothing.
    count += Math.max(0, peek.nextSeq - cursors[shard]!)
    if (peek.oldestAt !== null) oldestAt = Math.min(oldestAt ?? Infinity, peek.oldestAt)
  }
  return { count, oldestAt: count === 0 ? null : oldestAt, halted }
}
