/**
 * POST /events: the only way in. One event, a bulk of lines, or (if the node allows it) a bare body.
 *
 * Order of checks, cheapest first: size, form, header, payload, clock, allow-list, signature, rate, pinned
 * schema, and of a `vm.erased` event who may erase what.
 * What is refused is never stored; what is answered 2xx is durable. Bulk keeps good lines whatever their
 * neighbours are.
 */

import * as z from 'zod'
import { toHex } from '#core/bytes.ts'
import { MAX_EVENT_BYTES, openEnvelope, verifyEnvelope, type OpenEnvelope } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { receiptSchema } from '#core/receipt.ts'
import { isoTime } from '#core/time.ts'
import { checkErasure } from '#store/erasures.ts'
import { identityOf, shardOf } from '#store/event-identity.ts'
import { intakeRules } from '#store/intake-rules.ts'
import { count } from '#store/metrics.ts'
import { admit, hashName, poolError } from './admission.ts'
import { answer } from './answer.ts'
import { tellRefusal } from './audit.ts'
import { mediaType, readBody, trimEnd } from './body.ts'
import { postBulk } from './bulk.ts'
import {
  admitted,
  limitAddress,
  limitSigner,
  linksOf,
  matched,
  signers,
  wrappedEvent,
} from './intake-rules.ts'
import { readPrefer } from './prefer.ts'
import { json, route, type Call } from './route.ts'
import { checkOpened } from './succession.ts'
import { MAX_UNSIGNED_BYTES, postUnsigned } from './unsigned.ts'
import { postedTarget, watched, watchEvent } from './webhooks.ts'

/** A JSON body may escape each character of a JWS in six ("\u0041"), plus the wrapper. */
const MAX_JSON_BYTES = 6 * MAX_EVENT_BYTES + 1024

const linksSchema = z.object({ self: z.string(), status: z.string(), receipt: z.string() })

/** The answer to one accepted event. */
export const acceptedSchema = z
  .object({
    eventHash: z.string(),
    eventId: z.string(),
    status: z.enum(['received', 'accepted', 'sealed', 'anchored', 'final']),
    receivedAt: z.string(),
    links: linksSchema,
    promise: z
      .string()
      .optional()
      .describe('JWS vm-promise+jws: sealed by sealBy, or this is evidence'),
    receipt: receiptSchema.optional(),
  })
  .meta({ id: 'Accepted' })

const problemSchema = z
  .object({
    type: z.string(),
    title: z.string(),
    status: z.int(),
    detail: z.string(),
    advice: z.string(),
    requestId: z.string().optional(),
  })
  .meta({ id: 'Problem' })

const bulkSchema = z
  .object({
    results: z.array(
      z.union([
        z.object({
          line: z.int(),
          status: z.string(),
          eventHash: z.string(),
          eventId: z.string(),
          receivedAt: z.string(),
          duplicate: z.boolean().optional(),
        }),
        z.object({ line: z.int(), problem: problemSchema }),
      ]),
    ),
    promise: z.string().optional(),
  })
  .meta({ id: 'BulkResult' })

const problem = {
  description: 'refused; the problem says why',
  content: { 'application/problem+json': problemSchema },
}
const accepted = { 'application/json': acceptedSchema }

/** POST /events. */
export const postEvents = route({
  method: 'POST',
  path: '/events',
  tag: 'intake',
  summary: 'Post one signed event, or up to 10,000 as NDJSON',
  body: {
    'application/jose': null,
    'application/json': z.object({ event: z.string() }).meta({ id: 'EventBody' }),
    'application/x-ndjson': null,
  },
  answers: {
    200: {
      description: 'posted before, or sealed while you waited, or the results of a bulk',
      content: { 'application/json': z.union([acceptedSchema, bulkSchema]) },
    },
    202: { description: 'durable; sealed by the time the promise says', content: accepted },
    400: problem,
    403: problem,
    409: problem,
    410: problem,
    413: problem,
    415: problem,
    422: problem,
    429: problem,
    503: problem,
  },
  async handle(call) {
    try {
      const response = await post(call)
      response.headers.set('x-request-id', call.requestId)
      return response
    } catch (error) {
      tellRefusal(call, error)
      // A bulk that is refused as a whole is one refusal, whatever it held.
      count(call.env, call.ctx, 'vaultmesh_events_total', { outcome: 'rejected' })
      throw error
    }
  },
})

async function post(call: Call): Promise<Response> {
  const { request, node } = call
  await checkOpened(call)
  // Refused before anything is stored.
  postedTarget(call)
  const type = mediaType(request)
  if (type === 'application/x-ndjson') return postBulk(call)
  let bytes: Uint8Array
  if (type === 'application/jose') {
    // Two more than an event may have: a CR LF at the end is not part of it.
    bytes = trimEnd(
      await readBody(request, MAX_EVENT_BYTES + 2, 'event-too-large', MAX_EVENT_BYTES),
    )
  } else {
    const event =
      type === 'application/json'
        ? await readBody(request, MAX_JSON_BYTES, 'event-too-large')
        : null
    const inner = event === null ? null : eventInside(event, node.config.sigRequired)
    if (inner !== null) bytes = inner
    else if (node.config.sigRequired) {
      if (event !== null)
        throw new VaultMeshError('bad-body', 'The JSON body has no string "event".')
      throw new VaultMeshError(
        'unsupported-media-type',
        `The body is of type "${type.slice(0, 100)}".`,
      )
    } else
      return postUnsigned(
        call,
        event ?? (await readBody(request, MAX_UNSIGNED_BYTES, 'body-too-large')),
      )
  }
  limitAddress(call, 1)
  const open = await openEnvelope(bytes, signers)
  const prefer = readPrefer(request)
  const rules = await intakeRules(call.env)
  admitted(call, rules, open)
  if (prefer.respondAsync) return receiveUnverified(call, open)
  await verifyEnvelope(open)
  limitSigner(call, open.signer.canonical, 'did')
  matched(call, rules, open)
  await checkErasure(call.env, node, open)
  const joined = admit(call.env, call.ctx, node, open, call.requestId)
  return answer(call, open, watched(call, joined, open.signer.canonical), prefer.waitS)
}

/** Like `wrappedEvent`; a node that takes unsigned bodies takes broken JSON as one of them. */
function eventInside(body: Uint8Array, sigRequired: boolean): Uint8Array | null {
  try {
    return wrappedEvent(body)
  } catch (error) {
    if (sigRequired) throw error
    return null
  }
}

/** `Prefer: respond-async`: keep the bytes, check the signature later. */
async function receiveUnverified(call: Call, open: OpenEnvelope): Promise<Response> {
  const { env, node, requestId } = call
  limitSigner(call, open.signer.canonical, 'unverified')
  const identity = identityOf(node, open.signer.canonical, open.event.id)
  const shard = shardOf(identity, node.config.intakeShards)
  const eventHash = toHex(open.eventHash)
  let receivedAt: number
  try {
    const pool = env.POOL.getByName(String(shard))
    receivedAt = await pool.receive(shard, eventHash, open.bytes, requestId)
  } catch (error) {
    throw poolError(error)
  }
  await watchEvent(call, { eventHash: open.eventHash, did: open.signer.canonical })
  // A lost message costs time, not the event: the shard's alarm sends it again.
  call.ctx.waitUntil(env.INTAKE_QUEUE.send({ shard, eventHash, requestId }).catch(() => undefined))
  const links = linksOf(open.eventHash)
  const body = {
    eventHash: hashName(open.eventHash),
    eventId: open.event.id,
    status: 'received',
    receivedAt: isoTime(receivedAt),
    links,
  }
  return json(body, 202, {
    location: links.status,
    'preference-applied': 'respond-async',
    'cache-control': 'no-store',
  })
}
