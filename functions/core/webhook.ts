/**
 * What a webhook says and how it is signed: Standard Webhooks 1.0.0, asymmetric (`v1a`, Ed25519).
 *
 * The signature is over `<webhook-id>.<webhook-timestamp>.<body>` by the node's identity key of now, which a
 * rotation changes. A JWS that the same key signs has one dot and no brace, a webhook at least two dots and a
 * brace, so neither can be passed off as the other. The id is derived from what is delivered: however often
 * it is sent, and even by a node whose outbox was rebuilt, a receiver sees one id for one fact.
 */

import * as z from 'zod'
import { toBase64, toBase64Url, utf8 } from '#core/bytes.ts'
import type { SigningKey } from '#core/node-keys.ts'
import { sha256 } from '#core/sha256.ts'
import { isoTime } from '#core/time.ts'

/** What a client may be told of; the number is its bit in a set. */
export const webhookTypes = {
  'event.sealed': 1,
  'anchor.verified': 2,
  'event.final': 4,
} as const

/** A kind of notice. */
export type WebhookType = keyof typeof webhookTypes

/** Every type, in the order in which an event meets them. */
export const WEBHOOK_TYPES = Object.keys(webhookTypes) as WebhookType[]

/** All of them as a set. */
export const ALL_TYPES = 7

/** The set of `types`. */
export function typeSet(types: readonly WebhookType[]): number {
  return types.reduce((set, type) => set | webhookTypes[type], 0)
}

/** The types in a set. */
export function typesOf(set: number): WebhookType[] {
  return WEBHOOK_TYPES.filter((type) => (set & webhookTypes[type]) !== 0)
}

const time = z.string().meta({ format: 'date-time' })

/** The body of a webhook. */
export const webhookSchema = z
  .object({
    type: z.enum(WEBHOOK_TYPES),
    timestamp: time.describe('when it came to be: the same in every attempt'),
    data: z.object({
      hook: z.string().describe('the webhook this was sent for; refuse what names another one'),
      origin: z.string().describe('the log'),
      eventHash: z.string().describe('sha256:<hex>'),
      eventId: z.string(),
      source: z.string().describe('the DID that signed the event'),
      height: z.int().describe('the batch that holds it'),
      leafIndex: z.int(),
      anchor: z
        .object({
          chain: z.string(),
          network: z.string(),
          txHash: z.string(),
          anchorTs: time,
          treeSize: z.int(),
        })
        .optional()
        .describe('of anchor.verified'),
      links: z
        .object({ self: z.string(), status: z.string(), receipt: z.string() })
        .describe('paths on the node'),
    }),
  })
  .meta({ id: 'Webhook' })

/** The facts of one notice. */
export interface WebhookFacts {
  readonly type: WebhookType
  /** Epoch ms. */
  readonly at: number
  readonly hook: string
  readonly origin: string
  /** `sha256:<hex>`. */
  readonly eventHash: string
  readonly eventId: string
  readonly source: string
  readonly height: number
  readonly leafIndex: number
  readonly anchor: {
    readonly chain: string
    readonly network: string
    readonly txHash: string
    /** Epoch ms. */
    readonly at: number
    readonly treeSize: number
  } | null
}

/** The body that tells `facts`: the same bytes for the same facts. */
export function webhookBody(facts: WebhookFacts): string {
  const { anchor, eventHash } = facts
  const body: z.input<typeof webhookSchema> = {
    type: facts.type,
    timestamp: isoTime(facts.at),
    data: {
      hook: facts.hook,
      origin: facts.origin,
      eventHash,
      eventId: facts.eventId,
      source: facts.source,
      height: facts.height,
      leafIndex: facts.leafIndex,
      ...(anchor === null
        ? {}
        : {
            anchor: {
              chain: anchor.chain,
              network: anchor.network,
              txHash: anchor.txHash,
              anchorTs: isoTime(anchor.at),
              treeSize: anchor.treeSize,
            },
          }),
      links: {
        self: `/events/${eventHash}`,
        status: `/events/${eventHash}/status`,
        receipt: `/receipts/${eventHash}`,
      },
    },
  }
  return JSON.stringify(body)
}

/**
 * `webhook-id`: `msg_` and 128 bits of the hash of what makes the notice what it is. `rail` is empty or
 * `chain/network/method`. Never a dot, so the signed text has one reading.
 */
export function webhookId(of: {
  readonly hook: string
  readonly type: WebhookType
  readonly eventHash: string
  readonly rail: string
}): string {
  const hash = sha256(utf8([of.hook, of.type, of.eventHash, of.rail].join('\n')))
  return `msg_${toBase64Url(hash.subarray(0, 16))}`
}

/** The bytes that are signed; `sentAt` is epoch ms, the header has whole seconds. */
export function signedContent(id: string, sentAt: number, body: string): Uint8Array {
  return utf8(`${id}.${Math.floor(sentAt / 1000)}.${body}`)
}

/** The headers of one attempt. */
export async function webhookHeaders(
  key: SigningKey,
  message: { readonly id: string; readonly sentAt: number; readonly body: string },
): Promise<Record<string, string>> {
  const { id, sentAt, body } = message
  return {
    'content-type': 'application/json',
    'webhook-id': id,
    'webhook-timestamp': String(Math.floor(sentAt / 1000)),
    'webhook-signature': `v1a,${toBase64(await key.sign(signedContent(id, sentAt, body)))}`,
  }
}

/** The public key as receivers are given it. */
export function webhookKey(publicKey: Uint8Array): string {
  return `whpk_${toBase64(publicKey)}`
}
