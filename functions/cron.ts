/**
 * Cron: one table of jobs. Each derives its work from storage, never from the tick, so that a missed or
 * doubled tick changes nothing but the moment. Features add rows.
 */

import { sweepAnchors } from '#store/anchors.ts'
import { carryOut } from '#store/erasures.ts'
import { flushCounts } from '#store/metrics.ts'
import { forgetSessions } from '#store/sessions.ts'
import { wakePools } from '#store/wake.ts'
import { succeed } from './http/succession.ts'
import { wakeAlerts } from '../queues/alert-push.ts'
import { watchAge } from '../queues/anchor.ts'
import { recheckReceipts } from '../queues/anchors/recheck.ts'
import { watch, watchChains } from '../queues/watch.ts'
import { wakeWebhooks } from '../queues/webhooks.ts'

/** A job and the expression under which the platform fires it. */
export interface Job {
  readonly cron: string
  readonly name: string
  run(env: Env, nowAt: number): Promise<void>
}

/** The jobs of a node. */
export const jobs: readonly Job[] = [
  {
    cron: '* * * * *',
    name: 'wake federation',
    run: (env) => env.FEDERATION.getByName('node').sweep(),
  },
  {
    cron: '* * * * *',
    name: 'wake the guardian',
    run: (env) => env.GUARDIAN.getByName('node').sweep(),
  },
  {
    cron: '* * * * *',
    name: 'wake pools',
    run: (env) => wakePools(env),
  },
  {
    cron: '* * * * *',
    name: 'wake the sequencer',
    run: (env) => env.SEQUENCER.getByName('log').sweep(),
  },
  {
    cron: '* * * * *',
    name: 'sweep anchors',
    async run(env, nowAt) {
      await sweepAnchors(env, nowAt)
    },
  },
  {
    cron: '* * * * *',
    name: 'carry out erasures',
    async run(env, nowAt) {
      await carryOut(env, nowAt)
    },
  },
  { cron: '* * * * *', name: 'watch anchors', run: watchAge },
  { cron: '* * * * *', name: 'watch', run: watch },
  // After the watchers: what they opened and cleared is told now.
  { cron: '* * * * *', name: 'wake alerts', run: wakeAlerts },
  {
    cron: '* * * * *',
    name: 'move what older logs left',
    async run(env) {
      await succeed(env)
    },
  },
  {
    cron: '* * * * *',
    name: 'wake webhooks',
    run: wakeWebhooks,
  },
  {
    cron: '* * * * *',
    name: 'forget sessions',
    run: (env, nowAt) => forgetSessions(env.DB, nowAt),
  },
  // Last: it asks chains, and one that hangs must not keep the others waiting.
  {
    cron: '* * * * *',
    name: 'recheck receipts',
    async run(env, nowAt) {
      await recheckReceipts(env, nowAt)
    },
  },
  { cron: '* * * * *', name: 'watch wallets', run: watchChains },
  // What these jobs counted, and what this isolate could not store before: no job keeps the tick waiting for it.
  { cron: '* * * * *', name: 'store counts', run: flushCounts },
]

/**
 * Runs every job of an expression; one that fails does not keep the others from running. `of` leaves some out, for
 * simulations that break other steps. Throws, once all have run, what names those that failed.
 */
export async function runCron(
  cron: string,
  env: Env,
  nowAt: number,
  of: readonly Job[] = jobs,
): Promise<void> {
  const failures: string[] = []
  for (const job of of.filter((j) => j.cron === cron)) {
    try {
      await job.run(env, nowAt)
    } catch (error) {
      failures.push(job.name)
      console.error(
        JSON.stringify({
          level: 'error',
          msg: 'cron job failed',
          job: job.name,
          error: String(error),
        }),
      )
    }
  }
  if (failures.length > 0) throw new Error(`cron jobs failed: ${failures.join(', ')}`)
}
