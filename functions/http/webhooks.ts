/**
 * Webhooks: the header of a post, and the signed requests of a DID.
 *
 * Whoever may post an event may be told of it; of all events of a DID only its key decides. A URL is checked
 * before anything is stored, and no answer ever repeats it.
 */

import * as z from 'zod'
import { VaultMeshError } from '#core/errors.ts'
import { checkAllowed } from '#core/intake-config.ts'
import { isoTime } from '#core/time.ts'
import {
  HOOK_NAME,
  MAX_REQUEST_BYTES,
  openWebhookRequest,
  WEBHOOK_TYP,
} from '#core/webhook-request.ts'
import { webhookTarget, type WebhookTarget } from '#core/webhook-target.ts'
import { typeSet, WEBHOOK_TYPES } from '#core/webhook.ts'
import { Signers } from '#core/signer.ts'
import { intakeRules } from '#store/intake-rules.ts'
import { endHook, hookStatus, keepWatch, registerHook, type WatchedEvent } from '#store/webhooks.ts'
import type { Joined } from './admission.ts'
import { mediaType, readBody, trimEnd } from './body.ts'
import { limitAddress, limitSigner } from './intake-rules.ts'
import { json, route, type Call } from './route.ts'

const signers = new Signers(WEBHOOK_TYP)
/** The request header that names a target. */
const HEADER = 'vaultmesh-webhook'

/** The target that a post names in `VaultMesh-Webhook`, or null. Throws `bad-webhook`. */
export function postedTarget(call: Call): WebhookTarget | null {
  const text = call.request.headers.get(HEADER)
  return text === null ? null : webhookTarget(text, call.node.config.webhookAllowPrivate)
}

/** The admission, which now holds only once the hook on the event is kept, too. */
export function watched(call: Call, joined: Joined, did: string): Joined {
  if (!call.request.headers.has(HEADER)) return joined
  const admission = joined.admission.then(async (a) => {
    // Of a refused event nobody is told.
    if (a.state === 'accepted' || a.state === 'duplicate')
      await watchEvent(call, { eventHash: a.eventHash, did })
    return a
  })
  return { ...joined, admission }
}

/** Keeps the hook that the post asks for on one event, if it asks. */
export function watchEvent(call: Call, event: WatchedEvent): Promise<void> {
  return watchEvents(call, [event])
}

/**
 * Keeps the hooks that the post asks for on durable events, if it asks. Throws `storage-failed` when they are
 * not kept: the events are, and posting again is harmless.
 */
export async function watchEvents(call: Call, events: readonly WatchedEvent[]): Promise<void> {
  const target = postedTarget(call)
  if (target !== null) await keepWatch(call.env.DB, target, { events, nowAt: Date.now() })
}

const statusSchema = z
  .object({
    id: z.string(),
    state: z.enum(['active', 'ended']).describe('ended by its owner, by a 410, or by age'),
    events: z.array(z.enum(WEBHOOK_TYPES)),
    createdAt: z.string().meta({ format: 'date-time' }),
    failures: z.int().describe('attempts at its host that failed since one succeeded'),
    nextAt: z
      .string()
      .meta({ format: 'date-time' })
      .nullable()
      .describe('when its host is tried next; null if nothing waits'),
    deliveries: z
      .array(
        z.object({
          type: z.enum(WEBHOOK_TYPES),
          leafIndex: z.int(),
          rail: z.string().describe('chain/network/method of an anchor, else empty'),
          state: z.enum(['pending', 'done', 'failed']),
          failures: z.int(),
          result: z
            .string()
            .nullable()
            .describe('status of the last attempt, or why there is none'),
        }),
      )
      .describe('of the newest leaves'),
  })
  .meta({ id: 'WebhookStatus' })

/** GET /webhooks/{id}: how it does. Whoever knows the id may ask; the URL is not told. */
export const getWebhook = route({
  method: 'GET',
  path: '/webhooks/{id}',
  tag: 'webhooks',
  summary: 'How a webhook does',
  params: z.object({
    id: z.string().regex(HOOK_NAME, 'must be wh_ and 22 characters of base64url'),
  }),
  answers: {
    200: { description: 'its state', content: { 'application/json': statusSchema } },
    404: { description: 'unknown here' },
  },
  async handle({ env, params }) {
    const status = await hookStatus(env.DB, params.id)
    if (status === null) throw new VaultMeshError('not-found', 'There is no webhook of that id.')
    const { types, createdAt, nextAt, ...rest } = status
    return json(
      {
        ...rest,
        events: types,
        createdAt: isoTime(createdAt),
        nextAt: nextAt === null ? null : isoTime(nextAt),
      },
      200,
      { 'cache-control': 'no-store' },
    )
  },
})

const acceptedSchema = z
  .object({
    id: z.string().describe('names the webhook; keep it to end it'),
    state: z.enum(['active', 'ended']),
    links: z.object({ self: z.string() }),
  })
  .meta({ id: 'WebhookAccepted' })

/** The body of POST /webhooks: opaque to the schema, as an event is. */
const signedRequestSchema = z.string().meta({
  id: 'SignedWebhookRequest',
  pattern: '^[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+\\.[A-Za-z0-9_-]+$',
  maxLength: MAX_REQUEST_BYTES,
  description:
    'A JWS in compact serialization, its protected header exactly `alg`, `kid` and `typ` `vm-webhook+jws` as of an event, signed by the DID.',
  'x-jws-payload': { $ref: '#/components/schemas/WebhookRequest' },
})

/** POST /webhooks: a DID registers a URL for its events, or ends a registration. */
export const postWebhook = route({
  method: 'POST',
  path: '/webhooks',
  tag: 'webhooks',
  summary: 'Be told of all events of a DID, by a request its key signed',
  body: { 'application/jose': signedRequestSchema },
  answers: {
    200: {
      description: 'registered, or ended; the same request again gets this again',
      content: { 'application/json': acceptedSchema },
    },
    400: { description: 'not a request we obey' },
    403: { description: 'the DID may not post here' },
    404: { description: 'the DID has no webhook of that id' },
    409: { description: 'the DID has eight' },
    415: { description: 'not application/jose' },
    429: { description: 'too many' },
    503: { description: 'not kept' },
  },
  async handle(call) {
    const { env, node, request } = call
    const { config } = node
    if (mediaType(request) !== 'application/jose') {
      throw new VaultMeshError(
        'unsupported-media-type',
        'A webhook request is a compact JWS: send it as application/jose.',
      )
    }
    const bytes = trimEnd(await readBody(request, MAX_REQUEST_BYTES, 'body-too-large'))
    limitAddress(call, 1)
    const nowAt = Date.now()
    const { signer, claims } = await openWebhookRequest(bytes, signers, {
      nowAt,
      audiences: [config.origin, node.nodeDid],
    })
    const did = signer.canonical
    checkAllowed(await intakeRules(env), config.intakeAllow, signer)
    limitSigner(call, did, 'did')
    const base = { did, jti: claims.jti, expiresAt: claims.exp * 1000, nowAt }
    if ('delete' in claims) {
      await endHook(env.DB, { ...base, name: claims.delete })
      return accepted(claims.delete, 'ended')
    }
    const target = webhookTarget(claims.url, config.webhookAllowPrivate)
    const types = typeSet(claims.events)
    const { name, ended } = await registerHook(env.DB, { ...base, target, types })
    return accepted(name, ended ? 'ended' : 'active')
  },
})

function accepted(id: string, state: 'active' | 'ended'): Response {
  return json({ id, state, links: { self: `/webhooks/${id}` } }, 200, {
    'cache-control': 'no-store',
  })
}
