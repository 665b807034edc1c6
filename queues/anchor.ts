/**
 * The anchor consumer: one loop for all rails.
 *
 * A message names an outbox row. Under a lease the row takes one step of its rail; what the rail wants
 * remembered is stored before it is called again, so a crash between any two lines repeats a step and
 * never doubles it. Failures are counted in D1 and spaced by core/anchor-state.ts; the queue's own
 * retries are not used, because they would end in the dead-letter queue while the outage lasts.
 */

import { anchorTransitions, isStalled, retryDelay, type AnchorState } from '#core/anchor-state.ts'
import { fromHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { clearAlert, closeDeadLetters, openAlert } from '#store/alerts.ts'
import {
  dueAnchors,
  keepReceipt,
  leaseAnchor,
  saveAnchor,
  tsaNetwork,
  type AnchorMessage,
  type AnchorRow,
} from '#store/anchors.ts'
import { nodeOf, VERSION, type NodeContext } from '#store/node.ts'
import type { Rail, RailContext, RailStep, Work } from './anchors/rail.ts'
import { timestampRail } from './anchors/timestamp.ts'

/** A step's calls time out after 10 s each; a lease outlives the longest step and is then free again. */
const LEASE_MS = 60_000
/** Steps of one message: prepare, submit, check, and a replacement of each. */
const MAX_STEPS = 8

/** Handles a batch of `anchor` messages, each on its own. */
export async function onAnchor(batch: MessageBatch<AnchorMessage>, env: Env): Promise<void> {
  for (const message of batch.messages) {
    try {
      await advance(env, message.body.id, Date.now())
      message.ack()
    } catch (error) {
      // D1 did not answer: the row is as it was. Come back when its lease is over.
      log('anchor step failed', error)
      message.retry({ delaySeconds: LEASE_MS / 1000 + 5 })
    }
  }
}

/** Sends a message for each row that is due and has no live lease. */
export async function sweepAnchors(env: Env, nowAt: number): Promise<number> {
  const ids = await dueAnchors(env.DB, nowAt)
  if (ids.length > 0) await env.ANCHOR_QUEUE.sendBatch(ids.map((id) => ({ body: { id } })))
  return ids.length
}

async function advance(env: Env, id: number, nowAt: number): Promise<void> {
  const row = await leaseAnchor(env.DB, id, nowAt, LEASE_MS)
  if (row === null) return
  const node = await nodeOf(env)
  const context: RailContext = {
    fetch: (url, init) => fetch(url, init),
    now: () => Date.now(),
    random: (n) => crypto.getRandomValues(new Uint8Array(n)),
  }
  try {
    const rail = railOf(row, node)
    if (rail === null) {
      const reason = 'no provider is configured for this rail any more'
      await saveAnchor(env.DB, row, { state: 'failed', reason, leaseUntil: 0 }, nowAt)
    } else await step(env, row, rail, context)
  } catch (error) {
    // Whatever it was, it counts, it is spaced, and it is alerted when it lasts.
    await backOff(env, row, error)
  }
}

async function step(env: Env, row: AnchorRow, rail: Rail, context: RailContext): Promise<void> {
  const job = { root: fromHex(row.root), treeSize: row.treeSize }
  let state = row.state as AnchorState
  let work = row.work === null ? null : (JSON.parse(row.work) as Work)
  for (let i = 0; i < MAX_STEPS; i++) {
    const result: RailStep =
      work !== null && (state === 'broadcast' || state === 'included')
        ? await rail.check(job, work, context)
        : await rail.submit(job, work, context)
    if (result.state === 'final') {
      const verdict = await rail.verify(result.receipt, context)
      if (verdict.outcome !== 'verified') {
        throw new VaultMeshError(
          'anchor-failed',
          'The rail returned a receipt that does not verify.',
        )
      }
      await keepReceipt(env, row, result.receipt)
      await saveAnchor(
        env.DB,
        row,
        { state: 'final', failures: 0, leaseUntil: 0, reason: null },
        context.now(),
      )
      const key = `${row.chain}/${row.network}`
      const nowAt = context.now()
      await env.DB.batch([
        clearAlert(env.DB, 'anchor_stalled', key, nowAt),
        clearAlert(env.DB, 'anchor_held', key, nowAt),
        clearAlert(env.DB, 'dead_letter', 'anchor-dlq', nowAt),
        closeDeadLetters(env.DB, 'anchor-dlq', nowAt),
      ])
      return
    }
    const next: AnchorState = result.state === 'waiting' ? 'broadcast' : result.state
    if (!anchorTransitions[state].includes(next)) {
      throw new VaultMeshError('bad-state', `An anchor cannot go from ${state} to ${next}.`)
    }
    state = next
    if (result.state === 'failed' || result.state === 'held') {
      const kept =
        'work' in result && result.work !== null ? { work: JSON.stringify(result.work) } : {}
      const again = context.now() + 60_000
      await saveAnchor(
        env.DB,
        row,
        { state, ...kept, reason: result.reason, leaseUntil: 0, nextAt: again },
        context.now(),
      )
      const key = `${row.chain}/${row.network}`
      await openAlert(
        env.DB,
        {
          kind: 'anchor_held',
          key,
          severity: 'critical',
          detail: result.reason,
          link: '/anchors/status',
        },
        context.now(),
      )
      return
    }
    work = result.work
    const waits = result.state === 'waiting' || result.state === 'included'
    const saved = await saveAnchor(
      env.DB,
      row,
      {
        state,
        work: JSON.stringify(work),
        ...(waits ? { failures: 0, nextAt: result.againAt, leaseUntil: 0 } : {}),
      },
      context.now(),
    )
    // Whoever holds the lease now goes on; a second hand must not touch the network.
    if (!saved || waits) return
  }
}

async function backOff(env: Env, row: AnchorRow, error: unknown): Promise<void> {
  const nowAt = Date.now()
  log('anchor attempt failed', error)
  // Only our own errors are made to be shown; what a library says may hold what nobody should read.
  const reason =
    error instanceof VaultMeshError ? error.message : 'an unexpected error, see the log'
  const failures = row.failures + 1
  const { delay } = retryDelay(failures, Math.random())
  await saveAnchor(
    env.DB,
    row,
    {
      failures,
      nextAt: nowAt + delay * 1000,
      leaseUntil: 0,
      reason,
      delayMs: delay * 1000,
    },
    nowAt,
  )
  if (isStalled(failures)) {
    const key = `${row.chain}/${row.network}`
    await openAlert(
      env.DB,
      {
        kind: 'anchor_stalled',
        key,
        severity: 'critical',
        detail: reason,
        link: '/anchors/status',
      },
      nowAt,
    )
  }
  await env.ANCHOR_QUEUE.send({ id: row.id }, { delaySeconds: delay })
}

/** The rail of a row by what is configured now, or null. */
function railOf(row: AnchorRow, { config }: NodeContext): Rail | null {
  const url = config.tsaUrls.find((tsa) => tsaNetwork(tsa) === row.network)
  if (row.chain !== 'TSA' || url === undefined) return null
  const policies = config.tsaPolicies.length === 0 ? {} : { policies: config.tsaPolicies }
  return timestampRail({
    url,
    roots: config.tsaRoots,
    version: VERSION,
    ...policies,
  }) as unknown as Rail
}

function log(msg: string, error: unknown): void {
  console.error(JSON.stringify({ level: 'error', msg, error: String(error) }))
}
