/**
 * Alerts as others are told of them: the table of kinds, their stable ids, and the two forms in which a node
 * pushes them itself: Alertmanager API v2 and Standard Webhooks 1.0.0.
 *
 * `name` is the `alertname` of the rule in config/prometheus/rules.yaml that watches for the same, so that both
 * land in one notification; `docs/alerts.md` has a section for each kind. An id is derived from what the alert is
 * about and when it opened: however often it is told, and even by a node whose index was rebuilt, a receiver sees
 * one id for one fact.
 */

import * as z from 'zod'
import { toBase64Url, utf8 } from '#core/bytes.ts'
import { sha256 } from '#core/sha256.ts'
import { isoTime } from '#core/time.ts'

/** How much it matters: `critical` wakes somebody up. */
export type AlertSeverity = 'warning' | 'critical'

interface Kind {
  /** As Prometheus and Alertmanager call it. */
  readonly name: string
  readonly component: 'guardian' | 'seal' | 'anchor' | 'federation' | 'webhook' | 'watch'
  /** One line for whoever is called. */
  readonly summary: string
}

/** Every kind of alert that a node opens. */
export const alertKinds = {
  psi_low: { name: 'PsiLow', component: 'guardian', summary: 'The health index is low' },
  promise_broken: {
    name: 'PromiseBroken',
    component: 'seal',
    summary: 'An accepted event is past the time its seal was promised for',
  },
  checkpoint_stale: {
    name: 'CheckpointStale',
    component: 'seal',
    summary: 'Events wait longer for their seal than the seal interval',
  },
  seal_retries: {
    name: 'SealRetries',
    component: 'seal',
    summary: 'More than 2 % of the attempts to seal failed',
  },
  dead_letter: {
    name: 'DeadLetters',
    component: 'seal',
    summary: 'A queue gave a message up',
  },
  anchor_stalled: {
    name: 'AnchorStalled',
    component: 'anchor',
    summary: 'An anchor fails again and again',
  },
  anchor_held: {
    name: 'AnchorHeld',
    component: 'anchor',
    summary: 'An anchor waits for money or for the operator',
  },
  anchor_late: {
    name: 'AnchorLate',
    component: 'anchor',
    summary: 'A root waits too long for its anchor',
  },
  receipt_failed: {
    name: 'ReceiptVerificationFailed',
    component: 'anchor',
    summary: 'An anchor receipt does not verify',
  },
  receipt_revoked: {
    name: 'ReceiptRevoked',
    component: 'anchor',
    summary: 'A chain took a final anchor back',
  },
  wallet_low: {
    name: 'WalletLow',
    component: 'anchor',
    summary: 'The wallet can pay for few more anchors',
  },
  tsa_chain_expiring: {
    name: 'TsaChainExpiring',
    component: 'anchor',
    summary: 'A certificate of a timestamp authority ends soon',
  },
  fork: { name: 'ForkFound', component: 'federation', summary: 'A log signed two histories' },
  quarantine: {
    name: 'RootQuarantined',
    component: 'federation',
    summary: 'A signed root does not follow from its events',
  },
  key_conflict: {
    name: 'KeyConflict',
    component: 'federation',
    summary: 'A peer signed two keys for one epoch',
  },
  law_mismatch: {
    name: 'LawMismatch',
    component: 'federation',
    summary: 'A peer settles forks by another law',
  },
  peer_down: { name: 'PeerDown', component: 'federation', summary: 'A peer is not heard' },
  webhook_failing: {
    name: 'WebhookFailing',
    component: 'webhook',
    summary: 'A receiver has not taken a webhook for three days',
  },
  watch_blind: {
    name: 'WatchBlind',
    component: 'watch',
    summary: 'A watcher cannot read what it watches',
  },
} as const satisfies Record<string, Kind>

/** A kind of alert. */
export type AlertKind = keyof typeof alertKinds

/** The runbook of a kind, as a path in the project. */
export function runbookOf(kind: AlertKind): string {
  return `docs/alerts.md#${kind}`
}

/** An alert as it may be shown to anybody. */
export interface AlertFacts {
  /** From `alertId`. */
  readonly id: string
  readonly kind: AlertKind
  /** What it is about: one open alert for each kind and key. */
  readonly key: string
  readonly severity: AlertSeverity
  readonly detail: string
  /** Path on the node that shows what suffers. */
  readonly link: string
  /** Epoch ms. */
  readonly openedAt: number
  /** Epoch ms; null while it is open. */
  readonly clearedAt: number | null
}

/** Who says so. */
export interface AlertSource {
  readonly nodeDid: string
  readonly nodeId: string
  /** The log. */
  readonly origin: string
  /** Which of the node's logs, from 1. */
  readonly logNumber: number
  /** Where the node is reached; empty if it does not say. */
  readonly publicUrl: string
}

/** `al_` and 128 bits of the hash of what makes an alert the one it is; `openedAt` in epoch ms. */
export function alertId(of: {
  readonly origin: string
  readonly kind: string
  readonly key: string
  readonly openedAt: number
}): string {
  return `al_${short([of.origin, of.kind, of.key, String(of.openedAt)])}`
}

/**
 * The link as an address; null if the node does not say where it is. A path of one log names its number, so that it
 * still leads there when the log has forked and another took its place.
 */
export function alertUrl(
  { publicUrl, logNumber }: Pick<AlertSource, 'publicUrl' | 'logNumber'>,
  link: string,
): string | null {
  if (publicUrl === '') return null
  const isOfLog = /^\/(?:batches|anchors|events|receipts|webhooks|healthz)(?:[/?]|$)/.test(link)
  return `${publicUrl}${isOfLog ? `/log/${logNumber}` : ''}${link}`
}

/** What a receiver is told about an alert. */
export const alertEvents = { opened: 'alert.opened', resolved: 'alert.resolved' } as const

/** What was told last. */
export type AlertState = keyof typeof alertEvents

const time = z.string().meta({ format: 'date-time' })

/** The body of an alert's webhook. */
export const alertWebhookSchema = z.object({
  type: z.enum(['alert.opened', 'alert.resolved']),
  timestamp: time.describe('when it opened, or was cleared: the same in every attempt'),
  data: z.object({
    id: z.string().describe('of the alert: the same in both notices'),
    node_did: z.string(),
    node_id: z.string(),
    origin: z.string().describe('the log'),
    kind: z.string(),
    key: z.string().describe('what it is about'),
    severity: z.enum(['warning', 'critical']),
    summary: z.string(),
    detail: z.string(),
    runbook: z.string().describe('path in the project'),
    link: z.string().describe('path on the node that shows what suffers'),
    url: z.string().nullable().describe('the link as an address; null without PUBLIC_URL'),
    openedAt: time,
    clearedAt: time.nullable(),
  }),
})

/** The body that tells `state` of an alert: the same bytes for the same facts. */
export function alertWebhookBody(
  source: AlertSource,
  alert: AlertFacts,
  state: AlertState,
): string {
  const { id, kind, key, severity, detail, link, openedAt } = alert
  // What is told of an opening does not change because it was cleared since.
  const clearedAt = state === 'opened' ? null : alert.clearedAt
  const body: z.input<typeof alertWebhookSchema> = {
    type: alertEvents[state],
    timestamp: isoTime(clearedAt ?? openedAt),
    data: {
      id,
      node_did: source.nodeDid,
      node_id: source.nodeId,
      origin: source.origin,
      kind,
      key,
      severity,
      summary: alertKinds[kind].summary,
      detail,
      runbook: runbookOf(kind),
      link,
      url: alertUrl(source, link),
      openedAt: isoTime(openedAt),
      clearedAt: clearedAt === null ? null : isoTime(clearedAt),
    },
  }
  return JSON.stringify(body)
}

/** `webhook-id`: one for each alert and state. */
export function alertMessageId({ id }: Pick<AlertFacts, 'id'>, state: AlertState): string {
  return `msg_${short([id, state])}`
}

/**
 * Alerts as `POST /api/v2/alerts` of Alertmanager takes them. An open one ends `validMs` after `nowAt` unless it is
 * sent again before that, as Prometheus does it: a node that dies leaves nothing burning for ever.
 */
export function alertmanagerBody(
  source: AlertSource,
  alerts: readonly AlertFacts[],
  { nowAt, validMs }: { readonly nowAt: number; readonly validMs: number },
): string {
  const of = (alert: AlertFacts): object => {
    const { kind, key, severity, detail, link, openedAt, clearedAt } = alert
    const { name, component, summary } = alertKinds[kind]
    const url = alertUrl(source, link)
    return {
      labels: {
        alertname: name,
        severity,
        component,
        kind,
        key,
        node_did: source.nodeDid,
        node_id: source.nodeId,
        origin: source.origin,
        told_by: 'node',
      },
      annotations: {
        summary,
        description: detail,
        runbook_url: runbookOf(kind),
        drilldown: url ?? link,
      },
      startsAt: isoTime(openedAt),
      // An end before its begin is refused, and with it the whole request.
      endsAt: isoTime(Math.max(openedAt, clearedAt ?? nowAt + validMs)),
      ...(source.publicUrl === '' ? {} : { generatorURL: `${source.publicUrl}/alerts` }),
    }
  }
  return JSON.stringify(alerts.map(of))
}

function short(parts: readonly string[]): string {
  return toBase64Url(sha256(utf8(parts.join('\n'))).subarray(0, 16))
}
