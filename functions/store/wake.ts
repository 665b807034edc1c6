/**
 * Waking the two jobs that everything waits for, sealing and anchoring, and what a look at each says.
 *
 * Whoever wakes them may do so at any time and as often as he likes: each sweep derives its work from storage. The
 * cron does it each minute; a self-hosted node has a sealer and an anchor-manager beside it whose clocks are their own
 * (scripts/watch.ts), so that one timer that dies stops nothing.
 */

import { isStale } from '#core/watch.ts'
import { sweepAnchors } from './anchors.ts'
import { nodeOf } from './node.ts'

/** A due anchor job that nobody takes for ten sweeps in a row waits for a hand that is gone. */
export const ANCHOR_GRACE_MS = 600_000

/** How a job stands; `fault` says in one sentence what is wrong, null where nothing is. */
export interface Standing {
  readonly fault: string | null
  /** Events that wait for their seal, or anchor jobs that are not final. */
  readonly waiting: number
  /** For how long, past its time, the oldest of them waits; ms. */
  readonly overdueMs: number
}

/** Wakes every pool shard; throws the first failure after all were asked. */
export async function wakePools(env: Env): Promise<void> {
  const { config } = await nodeOf(env)
  // One shard that fails must not keep the others asleep.
  const swept = await Promise.allSettled(
    Array.from({ length: config.intakeShards }, (_, shard) =>
      env.POOL.getByName(String(shard)).sweep(),
    ),
  )
  for (const result of swept) if (result.status === 'rejected') throw result.reason
}

/** Wakes pools and sequencer, then says how sealing stands. `nowAt` in epoch ms. */
export async function wakeSealing(env: Env, nowAt: number): Promise<Standing> {
  await wakePools(env)
  await env.SEQUENCER.getByName('log').sweep()
  return sealingStands(env, nowAt)
}

/** Whether what waits is sealed in time, by the rule that the alert `checkpoint_stale` has. */
export async function sealingStands(env: Env, nowAt: number): Promise<Standing> {
  const { config } = await nodeOf(env)
  const { sealBatchMaxIntervalMs } = config
  const { halted, waiting, oldestAt } = await env.SEQUENCER.getByName('log').watch({
    // Neither what is past its promise nor how past seals went is asked for here.
    overdueBefore: 0,
    since: nowAt,
  })
  const overdueMs = oldestAt === null ? 0 : Math.max(0, nowAt - oldestAt - sealBatchMaxIntervalMs)
  const fault = halted
    ? 'The log was ended; its successor is not open yet.'
    : isStale(oldestAt, nowAt, sealBatchMaxIntervalMs)
      ? `${waiting} events wait for their seal, the oldest ${seconds(overdueMs)} s past its time.`
      : null
  return { fault, waiting, overdueMs }
}

/** Sends every anchor job that is due again, then says how anchoring stands. `nowAt` in epoch ms. */
export async function wakeAnchors(env: Env, nowAt: number): Promise<Standing> {
  await sweepAnchors(env, nowAt)
  const { config } = await nodeOf(env)
  // Jobs of a rail that was switched off wait for good.
  const row = await env.DB.prepare(
    `SELECT count(*) AS waiting, min(iif(lease_until <= ?1, next_at, NULL)) AS idleSince
     FROM anchors INDEXED BY anchors_due WHERE state NOT IN ('final', 'failed')
     AND chain IN (SELECT value FROM json_each(?2))`,
  )
    .bind(nowAt, JSON.stringify(config.rails))
    .first<{ waiting: number; idleSince: number | null }>()
  const { waiting = 0, idleSince = null } = row ?? {}
  const overdueMs = idleSince === null ? 0 : Math.max(0, nowAt - idleSince)
  const fault =
    overdueMs > ANCHOR_GRACE_MS
      ? `An anchor job is due for ${seconds(overdueMs)} s and nobody works on it.`
      : null
  return { fault, waiting, overdueMs }
}

function seconds(ms: number): number {
  return Math.round(ms / 1000)
}
