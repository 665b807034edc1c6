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
import { clearAlert, openAlert } from '#store/alerts.ts'
import {
  dueAnchors,
  keepReceipt,
  leaseAnchor,
  saveAnchor,
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
      // D1 or R2 did not answer: the row is as it was, the message comes back.
      log('anchor step failed', error)
      message.retry({ delaySeconds: 30 })
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
    await step(env, row, railOf(row, node), context)
  } catch (error) {
    if (
      !(error instanceof VaultMeshError) ||
      (error.code !== 'anchor-failed' && error.code !== 'bad-timestamp')
    )
      throw error
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
      await clearAlert(env.DB, 'anchor_stalled', `${row.chain}/${row.network}`, context.now())
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

async function backOff(env: Env, row: AnchorRow, error: VaultMeshError): Promise<void> {
  const nowAt = Date.now()
  const failures = row.failures + 1
  const { delay } = retryDelay(failures, Math.random())
  await saveAnchor(
    env.DB,
    row,
    {
      failures,
      nextAt: nowAt + delay * 1000,
      leaseUntil: 0,
      reason: error.message,
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
        detail: error.message,
        link: '/anchors/status',
      },
      nowAt,
    )
  }
  await env.ANCHOR_QUEUE.send({ id: row.id }, { delaySeconds: delay })
}

function railOf(row: AnchorRow, node: NodeContext): Rail {
  if (row.chain !== 'TSA' || row.provider === null) {
    throw new VaultMeshError('bad-state', `There is no rail for ${row.chain} on ${row.network}.`)
  }
  return timestampRail({
    url: row.provider,
    roots: node.config.tsaRoots,
    version: VERSION,
  }) as unknown as Rail
}

function log(msg: string, error: unknown): void {
  console.error(JSON.stringify({ level: 'error', msg, error: String(error) }))
}
