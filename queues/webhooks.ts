/**
 * webhooks: tells receivers what became of events.
 *
 * A message only says "look"; what is due, to whom and since when is in D1 (store/webhook-dispatch.ts,
 * store/webhook-outbox.ts). At most five requests are in flight: three for lanes whose last attempt succeeded,
 * two for the rest, so that no crowd of dead hosts keeps a live one waiting. A lane's notices go one by one in the
 * order in which they fell due, and a failure ends its turn. A receiver may see a notice twice, with one id.
 */

import { MAX_DELAY_S } from '#core/anchor-state.ts'
import { VaultMeshError } from '#core/errors.ts'
import { webhookTarget } from '#core/webhook-target.ts'
import { webhookBody, webhookHeaders, webhookId } from '#core/webhook.ts'
import { nodeOf, VERSION, type NodeContext } from '#store/node.ts'
import { dispatchWebhooks } from '#store/webhook-dispatch.ts'
import {
  dueDeliveries,
  endTurn,
  purgeWebhooks,
  takeLane,
  type Attempt,
  type Delivery,
} from '#store/webhook-outbox.ts'

/** Time for one receiver to answer. */
const TIMEOUT_MS = 10_000
/** No turn and no send begins later than this into a run; the next message goes on. */
const RUN_MS = 30_000
/** Turns of one run. With 50 sends and 3 reads each, and ≤ 104 for the dispatch, 952 of the 1,000 calls of a Worker. */
const MAX_TURNS = 16
/** Slots by whether they serve lanes whose last attempt succeeded. */
const SLOTS = [true, true, true, false, false] as const

/** Asks for a look at what is due: after a batch was indexed, after a receipt was kept, each minute. */
export async function wakeWebhooks(env: Env): Promise<void> {
  await env.WEBHOOK_QUEUE.send({})
}

/** Handles wake-ups: however many, one look. */
export async function onWebhooks(env: Env): Promise<void> {
  const node = await nodeOf(env)
  const startedAt = Date.now()
  const more = await dispatchWebhooks(env.DB, node.config.rails, startedAt)
  let turns = 0
  const left = await Promise.all(
    SLOTS.map(async (proven) => {
      while (turns++ < MAX_TURNS && Date.now() - startedAt < RUN_MS) {
        if (!(await takeTurn(env, node, proven, startedAt))) return false
      }
      return true
    }),
  )
  const dirty = await purgeWebhooks(env.DB, startedAt)
  if (more || dirty || left.includes(true)) await wakeWebhooks(env)
}

/** One turn of one lane; false if none is due. */
async function takeTurn(
  env: Env,
  node: NodeContext,
  proven: boolean,
  startedAt: number,
): Promise<boolean> {
  const lane = await takeLane(env.DB, proven, Date.now())
  if (lane === null) return false
  const due = await dueDeliveries(env.DB, lane, {
    nowAt: Date.now(),
    origin: node.config.origin,
  })
  const done: Attempt[] = []
  const failed: Attempt[] = []
  const ended = new Set<number>()
  // Those that failed before come last: one that a receiver will never take must not end every turn.
  for (const delivery of due.toSorted((a, b) => Math.sign(a.failures) - Math.sign(b.failures))) {
    if (delivery.url === null) ended.add(delivery.hookId)
    if (ended.has(delivery.hookId)) continue
    const attempt = await send(env, node, delivery)
    if (/^2\d\d$/.test(attempt.result)) done.push(attempt)
    else if (attempt.result === '410') ended.add(delivery.hookId)
    else {
      failed.push(attempt)
      break
    }
    if (Date.now() - startedAt >= RUN_MS) break
  }
  await endTurn(
    env.DB,
    lane,
    { done, failed, ended: [...ended] },
    { nowAt: Date.now(), random: Math.random() },
  )
  return true
}

/** One attempt: its result is the status as text, or in a word why there is none. */
async function send(env: Env, node: NodeContext, delivery: Delivery): Promise<Attempt> {
  const { facts, rail } = delivery
  const allowPrivate = node.config.webhookAllowPrivate
  try {
    // The operator may have closed since what was open when the hook was registered.
    const { url } = webhookTarget(delivery.url!, allowPrivate)
    const body = webhookBody(facts)
    const id = webhookId({ ...facts, rail })
    const headers = await webhookHeaders(node.identity, { id, sentAt: Date.now(), body })
    const init = {
      method: 'POST',
      body,
      headers: { ...headers, 'user-agent': `VaultMesh/${VERSION}` },
      // Where it leads was not registered and not checked.
      redirect: 'manual',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    } as const
    const answer = await (allowPrivate || env.EGRESS === undefined
      ? fetch(url, init)
      : env.EGRESS.fetch(url, init))
    // What it says beyond the status is nobody's business here.
    await answer.body?.cancel().catch(() => undefined)
    // RFC 9110 §10.2.3, as delay-seconds; no receiver may put us off for longer than we would wait anyway.
    const seconds = /^\d{1,9}$/.exec(answer.headers.get('retry-after') ?? '')?.[0] ?? '0'
    const waitMs = 1000 * Math.min(MAX_DELAY_S, Number(seconds))
    return { delivery, result: String(answer.status), waitMs }
  } catch (error) {
    if (error instanceof VaultMeshError) return { delivery, result: 'target refused' }
    // The runtime's message may hold the URL.
    const late = error instanceof Error && error.name === 'TimeoutError'
    return { delivery, result: late ? 'timeout' : 'no connection' }
  }
}
