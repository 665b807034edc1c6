/**
 * The anchor outbox in D1, by drizzle.
 *
 * One row for each (root, chain, network, method), for ever: the unique index is what makes a second
 * job for one root impossible. A consumer works on a row only under a lease that it took by
 * compare-and-swap on `version`; the loser of a race acknowledges and goes. What was signed is in the
 * Wallet first; `work` is the view of it.
 */

import { and, asc, desc, eq, gt, inArray, isNull, lt, lte, ne, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/d1'
import { evmNetwork } from '#core/anchor-ethereum.ts'
import type { Chain } from '#core/anchor-receipt.ts'
import type { AnchorState } from '#core/anchor-state.ts'
import type { Config } from '#core/config.ts'
import { anchorAttempts, anchors } from '#store/schema.ts'
import { causedBy, trail } from '#store/trail.ts'

/** A row of the outbox. */
export type AnchorRow = typeof anchors.$inferSelect
/** One attempt, for those who look at the schedule. */
export type AttemptRow = typeof anchorAttempts.$inferSelect

/** As a literal, so that SQLite knows it for the condition of the index `anchors_due`: a few rows instead of all. */
const isOpen = sql`${anchors.state} NOT IN ('final', 'failed')`

/**
 * The queue of a chain. Each has its own, because a self-hosted broker runs one batch of a queue at a time: a
 * Bitcoin node that hangs must not keep timestamps waiting.
 */
export function anchorQueue(env: Env, chain: string): Queue {
  if (chain === 'BTC') return env.ANCHOR_BTC_QUEUE
  return chain === 'EVM' ? env.ANCHOR_EVM_QUEUE : env.ANCHOR_QUEUE
}

/** The reference that travels on `anchor`, `anchor-btc` and `anchor-evm`. */
export interface AnchorMessage {
  readonly id: number
  /** The request that asked for it, for the audit. */
  readonly requestId?: string
}

/** The outbox keeps so many attempts of a job: the whole ladder to 30 minutes and a day of its last step. */
const KEPT_ATTEMPTS = 64

/** A way to anchor, as the settings ask for it. */
export interface ConfiguredRail {
  readonly chain: Chain
  readonly network: string
  readonly method: string
  /** A root is anchored at most once in this time. */
  readonly intervalMs: number
  /** True where nothing is owed before a row is `broadcast`: a newer root may take its place. */
  readonly isFree: boolean
}

/** The name of a timestamp authority in jobs and receipts: its host, never the URL with its credentials. */
export function tsaNetwork(url: string): string {
  return new URL(url).hostname
}

/** Every rail of the settings, each authority one of its own. */
export function configuredRails(config: Config): readonly ConfiguredRail[] {
  const { bitcoin, evm } = config
  const rails: ConfiguredRail[] = []
  for (const method of bitcoin?.methods ?? []) {
    const { network, intervalMs } = bitcoin!
    rails.push({ chain: 'BTC', network, method, intervalMs, isFree: method === 'calendar' })
  }
  if (evm !== null) {
    const { chainId, intervalMs } = evm
    rails.push({
      chain: 'EVM',
      network: evmNetwork(chainId),
      method: 'tx',
      intervalMs,
      isFree: false,
    })
  }
  const intervalMs = config.anchorTsaIntervalMs
  for (const url of config.rails.includes('TSA') ? config.tsaUrls : []) {
    const network = tsaNetwork(url)
    rails.push({ chain: 'TSA', network, method: 'rfc3161', intervalMs, isFree: true })
  }
  return rails
}

/** Blocks of ten minutes; two epochs of EVM finality; a calendar's own transaction and what it waits for; one request. */
const BITCOIN_BLOCK_MS = 600_000
const EVM_FINAL_MS = 780_000
const CALENDAR_MS = 86_400_000
const TSA_MS = 10_000
/** Chains of a devnet make their blocks as they are asked to. */
const DEVNET_MS = 60_000

/** How long an anchor takes from its job to its receipt when all is well, in ms. */
export function usualConfirmationMs(config: Config, rail: ConfiguredRail): number {
  if (rail.chain === 'TSA') return TSA_MS
  if (rail.method === 'calendar') return CALENDAR_MS
  if (rail.chain === 'EVM')
    return rail.network === evmNetwork(DEVNET_CHAIN) ? DEVNET_MS : EVM_FINAL_MS
  return rail.network === 'regtest' ? DEVNET_MS : (config.bitcoin?.depth ?? 7) * BITCOIN_BLOCK_MS
}

/** EIP-155 id of anvil and its like. */
const DEVNET_CHAIN = 31_337

/**
 * Creates the jobs that anchor a root on the rails of one chain, once, wakes their consumer and returns
 * their ids, old ones too. Older jobs of the same rail that owe nothing to anybody end here: the newer root
 * covers theirs, and an outage leaves one job to retry, not one for each interval. A job that has a signed
 * transaction always runs to its end.
 */
export async function enqueueAnchors(
  env: Env,
  config: Config,
  head: { readonly root: string; readonly size: number },
  {
    chain,
    nowAt,
    requestId,
  }: { readonly chain: Chain; readonly nowAt: number; readonly requestId?: string | undefined },
): Promise<number[]> {
  const db = drizzle(env.DB)
  const ids: number[] = []
  for (const rail of configuredRails(config).filter((r) => r.chain === chain)) {
    const { network, method } = rail
    const sameRail = and(
      eq(anchors.chain, chain),
      eq(anchors.network, network),
      eq(anchors.method, method),
    )
    const owesNothing = rail.isFree
      ? inArray(anchors.state, ['queued', 'signed', 'held'])
      : and(inArray(anchors.state, ['queued', 'held']), isNull(anchors.work))
    const superseded = and(
      sameRail,
      isOpen,
      lt(anchors.treeSize, head.size),
      owesNothing,
      lte(anchors.leaseUntil, nowAt),
    )
    const [, rows, found] = await db.batch([
      db
        .update(anchors)
        .set({
          state: 'failed',
          reason: 'superseded: a newer root covers this one',
          version: sql`${anchors.version} + 1`,
          updatedAt: nowAt,
        })
        .where(superseded),
      db
        .insert(anchors)
        .values({
          root: head.root,
          treeSize: head.size,
          chain,
          network,
          method,
          state: 'queued',
          nextAt: nowAt,
          createdAt: nowAt,
          updatedAt: nowAt,
        })
        .onConflictDoNothing()
        .returning({ id: anchors.id }),
      db
        .select({ id: anchors.id })
        .from(anchors)
        .where(and(sameRail, eq(anchors.root, head.root))),
    ])
    ids.push(...found.map((row) => row.id))
    const row = rows[0]
    if (row !== undefined)
      await anchorQueue(env, chain).send({ id: row.id, ...causedBy(requestId) })
  }
  const { root, size: treeSize } = head
  trail(env, { kind: 'anchor', chain, root, treeSize, jobs: ids, ...causedBy(requestId) })
  return ids
}

/**
 * Brings the job of a root back that its wallet has signed for and the outbox gave up or lost: until it is
 * finished that wallet pays for nothing else. False if it is under way already, or the root is none of ours.
 */
export async function resumeAnchor(
  env: Env,
  rail: Pick<AnchorRow, 'root' | 'chain' | 'network' | 'method'>,
  nowAt: number,
): Promise<boolean> {
  const { root, chain, network, method } = rail
  const found = await env.DB.batch<{ id: number }>([
    // What was signed is the wallet's to say: the job asks it first.
    env.DB.prepare(
      `UPDATE anchors SET state = 'queued', work = NULL, reason = NULL, next_at = ?5, version = version + 1, updated_at = ?5
       WHERE root = ?1 AND chain = ?2 AND network = ?3 AND method = ?4 AND state = 'failed' RETURNING id`,
    ).bind(root, chain, network, method, nowAt),
    env.DB.prepare(
      `INSERT INTO anchors (root, tree_size, chain, network, method, state, next_at, created_at, updated_at)
       SELECT root, tree_size, ?2, ?3, ?4, 'queued', ?5, ?5, ?5 FROM batches
       WHERE NOT EXISTS (SELECT 1 FROM anchors WHERE root = ?1 AND chain = ?2 AND network = ?3 AND method = ?4)
         AND root = ?1 AND committed = 1 LIMIT 1
       ON CONFLICT DO NOTHING RETURNING id`,
    ).bind(root, chain, network, method, nowAt),
  ])
  const ids = found.flatMap(({ results }) => results.map(({ id }) => id))
  for (const id of ids) await anchorQueue(env, chain).send({ id })
  return ids.length > 0
}

/** A step's calls time out after 10 s each; a lease is renewed with each state and outlives the longest step. */
export const LEASE_MS = 120_000

/**
 * Ends the leases that were taken before `since` (epoch ms), whose holders are known to be dead: their jobs go on at
 * once. A second hand would do no harm either (saveAnchor compares versions, the Wallet signs once): it costs calls.
 */
export async function endLeases(db: D1Database, since: number): Promise<void> {
  await drizzle(db)
    .update(anchors)
    .set({ leaseUntil: 0 })
    .where(and(isOpen, gt(anchors.leaseUntil, 0), lt(anchors.leaseUntil, since + LEASE_MS)))
}

/** Takes the row for `leaseMs`, or returns null if it is done, not due, or somebody else has it. */
export async function leaseAnchor(
  db: D1Database,
  id: number,
  nowAt: number,
  leaseMs: number,
): Promise<AnchorRow | null> {
  const rows = await drizzle(db)
    .update(anchors)
    .set({
      leaseUntil: nowAt + leaseMs,
      version: sql`${anchors.version} + 1`,
      attempts: sql`${anchors.attempts} + 1`,
    })
    .where(
      and(eq(anchors.id, id), isOpen, lte(anchors.leaseUntil, nowAt), lte(anchors.nextAt, nowAt)),
    )
    .returning()
  return rows[0] ?? null
}

/** Writes what became of a leased row; false if the lease was lost in between, or the row is over already. */
export async function saveAnchor(
  db: D1Database,
  row: AnchorRow,
  change: Partial<
    Pick<
      AnchorRow,
      | 'failures'
      | 'nextAt'
      | 'leaseUntil'
      | 'work'
      | 'reason'
      | 'delayMs'
      | 'provider'
      | 'inclusion'
      | 'released'
    >
  > & {
    readonly state?: AnchorState
  },
  nowAt: number,
): Promise<boolean> {
  const rows = await drizzle(db)
    .update(anchors)
    .set({ ...change, updatedAt: nowAt })
    .where(and(eq(anchors.id, row.id), eq(anchors.version, row.version), isOpen))
    .returning({ id: anchors.id })
  return rows.length === 1
}

/** Rows that are due and that nobody works on: what the cron sweeper sends again. */
export async function dueAnchors(
  db: D1Database,
  nowAt: number,
): Promise<{ id: number; chain: string }[]> {
  return drizzle(db)
    .select({ id: anchors.id, chain: anchors.chain })
    .from(anchors)
    .where(and(isOpen, lte(anchors.nextAt, nowAt), lte(anchors.leaseUntil, nowAt)))
    .orderBy(asc(anchors.nextAt))
    .limit(100)
}

/** Sends a message for each row that is due and has no live lease. */
export async function sweepAnchors(env: Env, nowAt: number): Promise<number> {
  const rows = await dueAnchors(env.DB, nowAt)
  for (const chain of new Set(rows.map((row) => row.chain))) {
    const due = rows.filter((row) => row.chain === chain)
    await anchorQueue(env, chain).sendBatch(due.map(({ id }) => ({ body: { id } })))
  }
  return rows.length
}

/** Renews the lease of a row that is still being worked on; false if somebody else has it. */
export async function renewLease(
  db: D1Database,
  row: AnchorRow,
  leaseUntil: number,
): Promise<boolean> {
  const rows = await drizzle(db)
    .update(anchors)
    .set({ leaseUntil })
    .where(and(eq(anchors.id, row.id), eq(anchors.version, row.version), isOpen))
    .returning({ id: anchors.id })
  return rows.length === 1
}

/**
 * Notes how an attempt ended, and forgets the oldest ones of the job. One that ended as the one before did
 * takes its place, unless it failed: an hour of waiting for blocks is one line, a ladder of retries is all its steps.
 */
export async function noteAttempt(db: D1Database, attempt: Omit<AttemptRow, 'id'>): Promise<void> {
  const {
    anchorId,
    attempt: number,
    at,
    outcome,
    failures,
    delayMs,
    nextAt,
    provider,
    reason,
  } = attempt
  const newest = '(SELECT max(id) FROM anchor_attempts WHERE anchor_id = ?1)'
  await db.batch([
    db
      .prepare(
        `UPDATE anchor_attempts SET attempt = ?2, at = ?3, next_at = ?4, provider = ?5
         WHERE id = ${newest} AND outcome = ?6 AND outcome != 'error' AND reason IS ?7`,
      )
      .bind(anchorId, number, at, nextAt, provider, outcome, reason),
    db
      .prepare(
        `INSERT INTO anchor_attempts (anchor_id, attempt, at, outcome, failures, delay_ms, next_at, provider, reason)
         SELECT ?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9
         WHERE NOT EXISTS (SELECT 1 FROM anchor_attempts WHERE id = ${newest} AND attempt = ?2 AND outcome = ?4)`,
      )
      .bind(anchorId, number, at, outcome, failures, delayMs, nextAt, provider, reason),
    db
      .prepare(
        `DELETE FROM anchor_attempts WHERE anchor_id = ?1 AND id <= (
           SELECT id FROM anchor_attempts WHERE anchor_id = ?1 ORDER BY id DESC LIMIT 1 OFFSET ?2)`,
      )
      .bind(anchorId, KEPT_ATTEMPTS),
  ])
}

/** Lets a held job be tried now, once; false if no such job is held. */
export async function releaseAnchor(
  env: Env,
  id: number,
  nowAt: number,
  requestId?: string,
): Promise<boolean> {
  const rows = await drizzle(env.DB)
    .update(anchors)
    .set({ released: 1, nextAt: nowAt, updatedAt: nowAt })
    .where(and(eq(anchors.id, id), eq(anchors.state, 'held')))
    .returning({ id: anchors.id, chain: anchors.chain })
  const [row] = rows
  if (row === undefined) return false
  await anchorQueue(env, row.chain).send({ id, ...causedBy(requestId) })
  return true
}

/**
 * Has a job that waits for its next attempt tried now, whatever its backoff; false if it is over, held, or under way
 * at this moment. The ladder of delays goes on where it was.
 */
export async function retryAnchor(
  env: Env,
  id: number,
  nowAt: number,
  requestId?: string,
): Promise<boolean> {
  const rows = await drizzle(env.DB)
    .update(anchors)
    .set({ nextAt: nowAt, updatedAt: nowAt })
    .where(
      and(eq(anchors.id, id), isOpen, ne(anchors.state, 'held'), lte(anchors.leaseUntil, nowAt)),
    )
    .returning({ id: anchors.id, chain: anchors.chain })
  const [row] = rows
  if (row === undefined) return false
  await anchorQueue(env, row.chain).send({ id, ...causedBy(requestId) })
  return true
}

/** The newest jobs, for /anchors/status; `ids` or a root narrows them. */
export async function recentAnchors(
  db: D1Database,
  { limit, root, below }: { limit: number; root?: string | undefined; below?: number | undefined },
): Promise<AnchorRow[]> {
  const where = and(
    root === undefined ? undefined : eq(anchors.root, root),
    below === undefined ? undefined : lt(anchors.id, below),
  )
  return drizzle(db).select().from(anchors).where(where).orderBy(desc(anchors.id)).limit(limit)
}

/** A job, or null. */
export async function anchorRow(db: D1Database, id: number): Promise<AnchorRow | null> {
  const rows = await drizzle(db).select().from(anchors).where(eq(anchors.id, id))
  return rows[0] ?? null
}

/** The attempts of a job, oldest first. */
export async function attemptsOf(db: D1Database, id: number): Promise<AttemptRow[]> {
  return drizzle(db)
    .select()
    .from(anchorAttempts)
    .where(eq(anchorAttempts.anchorId, id))
    .orderBy(asc(anchorAttempts.id))
    .limit(KEPT_ATTEMPTS + 1)
}

/** Age in ms of the oldest root that waits for each rail: what to alert on, whatever the errors say. */
export async function oldestWaiting(
  db: D1Database,
  nowAt: number,
): Promise<readonly { chain: string; network: string; method: string; ageMs: number }[]> {
  const { results } = await db
    .prepare(
      `SELECT chain, network, method, ?1 - min(created_at) AS ageMs FROM anchors
       WHERE state NOT IN ('final', 'failed') GROUP BY chain, network, method ORDER BY chain, network, method`,
    )
    .bind(nowAt)
    .all<{ chain: string; network: string; method: string; ageMs: number }>()
  return results
}
