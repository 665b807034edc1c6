/**
 * alerts: the node tells an Alertmanager (API v2) and a receiver of Standard Webhooks of its own alerts, so that they
 * are heard also where no Prometheus scrapes it.
 *
 * A message only says "look"; what is due is in D1 (store/alert-push.ts). The targets are worked on side by side: one
 * that is down costs the other nothing. Their addresses are the operator's own words, not a stranger's, so they may be
 * private (an Alertmanager beside the node is the usual place); where they redirect to is a stranger's word and not
 * followed. Neither address nor answer is logged or shown: both may hold secrets.
 */

import {
  alertMessageId,
  alertWebhookBody,
  alertmanagerBody,
  type AlertSource,
} from '#core/alert.ts'
import { webhookHeaders } from '#core/webhook.ts'
import {
  duePushes,
  endPushes,
  sourceOf,
  takeTarget,
  type Push,
  type TargetName,
  type Told,
} from '#store/alert-push.ts'
import { count, type Background } from '#store/metrics.ts'
import { nodeOf, VERSION, type NodeContext } from '#store/node.ts'
import { parseEndpoint, type Endpoint } from './anchors/bounded-fetch.ts'

/** Time for one target to answer. The queue hands over the next wake-up only then. */
const TIMEOUT_MS = 5000
/** No send begins later than this into a run; what is left is the next run's. */
const RUN_MS = 20_000
/** An alert that opened and cleared unseen is two looks at a webhook; more come while one looks. */
const MAX_LOOKS = 4
/** An open alert is sent to Alertmanager again each minute, and ends there five minutes after the last time. */
const REPEAT_MS = 55_000
const VALID_MS = 300_000

interface Channel {
  readonly name: TargetName
  readonly keepsHistory: boolean
  readonly repeatMs: number | null
  /** Tells what is due; never throws for what a target does. */
  tell(due: readonly Push[], until: number): Promise<Told>
}

/** Asks for a look at what is due: when an alert that cannot wait for the minute opened or cleared. */
export async function wakeAlerts(env: Env): Promise<void> {
  const { alertmanagerUrl, alertWebhookUrl } = (await nodeOf(env)).config
  if (alertmanagerUrl !== '' || alertWebhookUrl !== '') await env.ALERT_QUEUE.send({})
}

/** Handles wake-ups: however many, one look. */
export async function onAlerts(env: Env, ctx?: Background): Promise<void> {
  const node = await nodeOf(env)
  const startedAt = Date.now()
  const done = await Promise.allSettled(
    channelsOf(node).map((channel) => serve({ env, ctx, node }, channel, startedAt)),
  )
  const againAt: number[] = []
  for (const result of done) {
    if (result.status === 'rejected') throw result.reason
    if (result.value !== null) againAt.push(result.value)
  }
  if (againAt.length === 0) return
  // Lost, the minute's wake-up stands in for it.
  const delaySeconds = Math.max(0, Math.ceil((Math.min(...againAt) - Date.now()) / 1000))
  await env.ALERT_QUEUE.send({}, { delaySeconds })
}

/** Tells one target all that is due; returns when to try again what failed, or null. */
async function serve(
  {
    env,
    ctx,
    node,
  }: { readonly env: Env; readonly ctx: Background | undefined; readonly node: NodeContext },
  channel: Channel,
  startedAt: number,
): Promise<number | null> {
  const { keepsHistory, repeatMs, name } = channel
  const { origin } = node.config
  for (let look = 0; look < MAX_LOOKS; look++) {
    const target = await takeTarget(env.DB, name, Date.now())
    if (target === null) return null
    const at = { nowAt: Date.now(), origin, keepsHistory, repeatMs }
    const due = await duePushes(env.DB, target, at)
    const told =
      due.length === 0
        ? { taken: [], refused: [], isDown: false }
        : await channel.tell(due, startedAt + RUN_MS)
    const outcome = told.refused.length > 0 || told.isDown ? 'failed' : 'sent'
    if (due.length > 0) count(env, ctx, 'vaultmesh_alert_pushes_total', { target: name, outcome })
    const now = { nowAt: Date.now(), random: Math.random() }
    const againAt = await endPushes(env.DB, target, told, now)
    if (againAt !== null || due.length === 0 || Date.now() - startedAt >= RUN_MS) return againAt
  }
  return null
}

/** The targets of the settings. */
function channelsOf(node: NodeContext): Channel[] {
  const { alertmanagerUrl, alertWebhookUrl } = node.config
  const source = sourceOf(node)
  const channels: Channel[] = []
  if (alertmanagerUrl !== '')
    channels.push(alertmanager(parseEndpoint(alertmanagerUrl, 'ALERTMANAGER_URL'), source))
  if (alertWebhookUrl !== '') channels.push(webhook(alertWebhookUrl, source, node))
  return channels
}

/** Alertmanager keeps a state: all that is due goes in one request, and is taken or not as one. */
function alertmanager(endpoint: Endpoint, source: AlertSource): Channel {
  return {
    name: 'alertmanager',
    keepsHistory: false,
    repeatMs: REPEAT_MS,
    async tell(due) {
      const facts = due.map(({ alert }) => alert)
      const body = alertmanagerBody(source, facts, { nowAt: Date.now(), validMs: VALID_MS })
      const { authorization, address } = endpoint
      const result = await post(`${address}/api/v2/alerts`, body, {
        'content-type': 'application/json',
        ...(authorization === null ? {} : { authorization }),
      })
      const isTaken = isSuccess(result)
      // All that was sent is of our making: what it refuses it would refuse again, whatever else is due.
      return { taken: isTaken ? due : [], refused: [], isDown: !isTaken }
    },
  }
}

/** A receiver of webhooks keeps a history: each notice is a request of its own, in the order of the alerts. */
function webhook(url: string, source: AlertSource, node: NodeContext): Channel {
  return {
    name: 'webhook',
    keepsHistory: true,
    repeatMs: null,
    async tell(due, until) {
      const taken: Push[] = []
      const refused: { push: Push; result: string }[] = []
      for (const push of due) {
        if (Date.now() >= until) break
        const body = alertWebhookBody(source, push.alert, push.state)
        const id = alertMessageId(push.alert, push.state)
        const signed = await webhookHeaders(node.identity, { id, sentAt: Date.now(), body })
        const result = await post(url, body, signed)
        if (isSuccess(result)) taken.push(push)
        // Who answers is there: that it refuses one notice holds up no other.
        else if (/^\d/.test(result)) refused.push({ push, result })
        else return { taken, refused, isDown: true }
      }
      return { taken, refused, isDown: false }
    },
  }
}

function isSuccess(result: string): boolean {
  return /^2\d\d$/.test(result)
}

/** One attempt: the status as text, or in a word why there is none. */
async function post(
  url: string,
  body: string,
  headers: Readonly<Record<string, string>>,
): Promise<string> {
  try {
    const answer = await fetch(url, {
      method: 'POST',
      body,
      headers: { ...headers, 'user-agent': `VaultMesh/${VERSION}` },
      redirect: 'manual',
      signal: AbortSignal.timeout(TIMEOUT_MS),
    })
    await answer.body?.cancel().catch(() => undefined)
    return String(answer.status)
  } catch (error) {
    // The runtime's message may hold the URL.
    return error instanceof Error && error.name === 'TimeoutError' ? 'timeout' : 'no connection'
  }
}
