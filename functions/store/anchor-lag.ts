/**
 * How anchoring does: the oldest sealed batch that no verified receipt of a chain covers, and which share of the attempts
 * failed.
 *
 * An anchor covers every batch before its own. Jobs tell less: in an outage a newer root takes the place of an older
 * one, and the wait would begin anew.
 */

import type { Chain } from '#core/anchor-receipt.ts'
import type { RailRecord } from '#core/cadence.ts'
import type { ConfiguredRail } from '#store/anchors.ts'

/** A batch that waits. */
export interface Unanchored {
  readonly chain: Chain
  readonly height: number
  /** Epoch ms. */
  readonly sealedAt: number
}

/** The leaf after the greatest tree that any rail of a chain has anchored is in the oldest batch that waits for it. */
const OLDEST = `SELECT b.height, b.sealed_at AS sealedAt FROM events e JOIN batches b ON b.height = e.height AND b.committed = 1
WHERE e.leaf_index = (SELECT coalesce(max(size), 0) FROM (SELECT (
  SELECT r.tree_size FROM receipts r WHERE r.chain = k.chain AND r.network = k.network AND r.method = k.method
    AND NOT EXISTS (SELECT 1 FROM revocations v WHERE v.receipt_id = r.id) ORDER BY r.tree_size DESC LIMIT 1) AS size
  FROM rails k WHERE k.chain = ?1))`

/** The oldest batch that waits for each of `chains`; a chain for which nothing waits is left out. Look-ups by key. */
export async function oldestUnanchored(
  db: D1Database,
  chains: readonly Chain[],
): Promise<readonly Unanchored[]> {
  if (chains.length === 0) return []
  const found = await db.batch<{ height: number; sealedAt: number }>(
    chains.map((chain) => db.prepare(OLDEST).bind(chain)),
  )
  return found.flatMap(({ results }, i) => results.map((row) => ({ chain: chains[i]!, ...row })))
}

/** Attempts looked at, newest first. A rail that fails is tried each half hour: meanwhile another makes some 60. */
const ATTEMPTS = 200
/** Jobs looked at for how long an anchor takes. */
const JOBS = 500

type RailName = Pick<ConfiguredRail, 'chain' | 'network' | 'method'>

/** An attempt at an anchor of a rail. */
interface RailAttempt {
  readonly chain: string
  readonly network: string
  readonly method: string
  /** State it ended in, or `error`. */
  readonly outcome: string
  /** Epoch ms. */
  readonly at: number
}

/** The newest attempts of all rails, newest first. */
async function newestAttempts(db: D1Database): Promise<readonly RailAttempt[]> {
  const { results } = await db
    .prepare(
      `SELECT a.chain, a.network, a.method, t.outcome, t.at FROM (
         SELECT id, anchor_id, outcome, at FROM anchor_attempts ORDER BY id DESC LIMIT ?) t
       JOIN anchors a ON a.id = t.anchor_id ORDER BY t.id DESC`,
    )
    .bind(ATTEMPTS)
    .all<RailAttempt>()
  return results
}

/**
 * Share of the attempts since `since` (epoch ms) that failed, of the rail that does worst; of a rail that made none, its
 * last one speaks: retries of an outage are half an hour apart, and between them nothing is better. Null before any.
 */
export async function anchorFailureRatio(
  db: D1Database,
  rails: readonly RailName[],
  since: number,
): Promise<number | null> {
  if (rails.length === 0) return null
  const attempts = await newestAttempts(db)
  const ratios = rails.flatMap((rail) => {
    const all = attempts.filter((attempt) => isOf(rail, attempt))
    const fresh = all.filter(({ at }) => at >= since)
    return failed(fresh.length > 0 ? fresh : all.slice(0, 1)) ?? []
  })
  return ratios.length === 0 ? null : Math.max(...ratios)
}

/** What each rail was seen to do of late, in the order of `rails`. */
export async function railRecords(
  db: D1Database,
  rails: readonly RailName[],
): Promise<readonly Pick<RailRecord, 'confirmationMs' | 'failureRatio'>[]> {
  const [attempts, { results: jobs }] = await Promise.all([
    newestAttempts(db),
    db
      .prepare(
        `SELECT chain, network, method, updated_at - created_at AS ms FROM (
           SELECT * FROM anchors ORDER BY id DESC LIMIT ?) WHERE state = 'final'`,
      )
      .bind(JOBS)
      .all<{ chain: string; network: string; method: string; ms: number }>(),
  ])
  return rails.map((rail) => {
    const took = jobs.filter((job) => isOf(rail, job)).map(({ ms }) => ms)
    const median = took.sort((a, b) => a - b)[Math.floor(took.length / 2)] ?? null
    return {
      confirmationMs: median,
      failureRatio: failed(attempts.filter((attempt) => isOf(rail, attempt))),
    }
  })
}

function isOf(rail: RailName, of: Pick<RailAttempt, 'chain' | 'network' | 'method'>): boolean {
  return rail.chain === of.chain && rail.network === of.network && rail.method === of.method
}

/** The share that failed; null of none. */
function failed(attempts: readonly RailAttempt[]): number | null {
  if (attempts.length === 0) return null
  return attempts.filter(({ outcome }) => outcome === 'error').length / attempts.length
}
