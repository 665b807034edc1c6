/**
 * POST /events: the only way in. One event, a bulk of lines, or (if the node allows it) a bare body.
 *
 * Order of checks, cheapest first: size, form, header, payload, clock, allow-list, signature, rate. What is
 * refused is never stored; what is answered 2xx is durable. Bulk keeps good lines whatever their
 * neighbours are.
 */

import * as z from 'zod'
import { equal, fromUtf8, toBase64Url, toHex, utf8, type Hash } from '#core/bytes.ts'
import {
  checkTime,
  EVENT_TYP,
  MAX_EVENT_BYTES,
  openEnvelope,
  verifyEnvelope,
  type OpenEnvelope,
} from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { signJws } from '#core/node-keys.ts'
import { promiseBulk, promiseEvent } from '#core/promise.ts'
import { receiptSchema } from '#core/receipt.ts'
import { sha256 } from '#core/sha256.ts'
import { Signers } from '#core/signer.ts'
import { parseStrictJson, type Json } from '#core/strict-json.ts'
import { isoTime } from '#core/time.ts'
import { findEvent } from '#store/events.ts'
import type { NodeContext } from '#store/node.ts'
import { buildReceipt } from '#store/receipts.ts'
import {
  admit,
  admitAll,
  hashName,
  identityOf,
  poolError,
  shardOf,
  type Admission,
} from './admission.ts'
import { mediaType, readBody, trimEnd } from './body.ts'
import { problemOf, asVaultMeshError } from './problem.ts'
import { RateLimit } from './rate-limit.ts'
import { json, route, type Call } from './route.ts'

/** Largest bulk. 10,000 lines of 839 bytes; more lines or longer ones are several requests. */
export const MAX_BULK_BYTES = 8_388_608
export const MAX_BULK_LINES = 10_000
/** A JSON body may escape each character of a JWS in six ("\u0041"), plus the wrapper. */
const MAX_JSON_BYTES = 6 * MAX_EVENT_BYTES + 1024
/** Largest body an unsigned node wraps: base64url of it and the wrapper must fit a JWS. */
const MAX_UNSIGNED_BYTES = 30_000
/** Longest a request may wait for its seal. */
const MAX_WAIT_S = 60
/** Let other requests in after so many verifications: 256 × 60 µs = 15 ms (measured). */
const YIELD_EVERY = 256

const signers = new Signers(EVENT_TYP)
const limits = new RateLimit()

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
    429: problem,
    503: problem,
  },
  handle: post,
})

async function post(call: Call): Promise<Response> {
  const { request, node } = call
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
  admitted(call, open)
  if (prefer.respondAsync) return receiveUnverified(call, open)
  await verifyEnvelope(open)
  limitSigner(call, open, 'did')
  return answer(call, open, await admit(call.env, call.ctx, node, open), prefer.waitS)
}

/** Clock and allow-list: everything that may refuse a well-formed event before its signature. */
function admitted(call: Call, open: OpenEnvelope): void {
  const { config } = call.node
  const nowAt = Date.now()
  checkTime(open.event, { nowAt, maxAgeMs: config.intakeMaxAgeMs })
  if (config.intakeAllow !== null && !config.intakeAllow.has(open.signer.canonical)) {
    throw new VaultMeshError('not-allowed', `${open.signer.did} may not post here.`)
  }
}

/** Counts an event for its DID. Unverified ones count apart: a forger must not use up a signer's limit. */
function limitSigner(call: Call, open: OpenEnvelope, kind: 'did' | 'unverified'): void {
  limits.take(`${kind} ${open.signer.canonical}`, 1, {
    limit: call.node.config.rateLimitDid,
    nowAt: Date.now(),
    what: 'by this DID',
  })
}

function limitAddress(call: Call, n: number): void {
  const { config } = call.node
  // Without a header to read there are no addresses to tell apart, and one bucket would punish all.
  if (config.rateLimitIp === 0 || config.clientIpHeader === '') return
  const address = call.request.headers.get(config.clientIpHeader) ?? ''
  limits.take(`ip ${address}`, n, {
    limit: config.rateLimitIp,
    nowAt: Date.now(),
    what: 'from this address',
  })
}

async function answer(
  call: Call,
  open: OpenEnvelope,
  admission: Admission,
  waitS: number,
): Promise<Response> {
  if (admission.state === 'conflict') throw conflict(admission)
  const { node } = call
  const body = {
    eventHash: hashName(admission.eventHash),
    eventId: open.event.id,
    status: 'accepted',
    receivedAt: isoTime(admission.receivedAt),
    links: linksOf(admission.eventHash),
    promise: await promiseEvent(
      node.identity,
      terms(node, admission.receivedAt),
      admission.eventHash,
    ),
  }
  const headers: Record<string, string> = { location: body.links.self, 'cache-control': 'no-store' }
  if (waitS > 0) {
    headers['preference-applied'] = `wait=${waitS}`
    const receipt = await waitForReceipt(call, open, admission, waitS)
    if (receipt !== null) return json({ ...body, status: receipt.status, receipt }, 200, headers)
  }
  return json(body, admission.state === 'accepted' ? 202 : 200, headers)
}

async function waitForReceipt(call: Call, open: OpenEnvelope, admission: Admission, waitS: number) {
  const { env, node } = call
  try {
    const log = env.SEQUENCER.getByName('log')
    if (!(await log.wait(admission.shard, admission.seq, waitS * 1000))) return null
    const at = await findEvent(env.DB, admission.eventHash)
    if (at === null) return null
    const { id: eventId, source } = open.event
    return await buildReceipt(env, node, { eventHash: admission.eventHash, at, eventId, source })
  } catch (error) {
    // The event is durable: a seal that stumbles costs the client its receipt for now, not the answer.
    console.error(
      JSON.stringify({
        level: 'warn',
        msg: 'wait failed',
        requestId: call.requestId,
        error: String(error),
      }),
    )
    return null
  }
}

function conflict(admission: Admission): VaultMeshError {
  return new VaultMeshError(
    'event-id-reused',
    'This (source, id) stands for other content already.',
    {
      extra: { eventHash: hashName(admission.eventHash) },
    },
  )
}

function terms(node: NodeContext, receivedAt: number) {
  const { origin, sealBatchMaxIntervalMs, sealPromiseSlackMs } = node.config
  return { origin, receivedAt, graceMs: sealBatchMaxIntervalMs + sealPromiseSlackMs }
}

function linksOf(eventHash: Hash) {
  const name = hashName(eventHash)
  return { self: `/events/${name}`, status: `/events/${name}/status`, receipt: `/receipts/${name}` }
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

/** `{"event": "<compact JWS>"}` as its bytes; null for JSON that is something else. */
function wrappedEvent(body: Uint8Array): Uint8Array | null {
  let value: Json
  try {
    value = parseStrictJson(fromUtf8(body))
  } catch (cause) {
    const why = cause instanceof VaultMeshError ? cause.message : 'It cannot be parsed.'
    throw new VaultMeshError('bad-body', `The body is not JSON we can take: ${why}`, { cause })
  }
  if (typeof value !== 'object' || value === null || !('event' in value)) return null
  return typeof value.event === 'string' ? utf8(value.event) : null
}

interface Prefer {
  readonly waitS: number
  readonly respondAsync: boolean
}

/** RFC 7240: `wait=<seconds>` and `respond-async`; unknown preferences are ignored. */
function readPrefer(request: Request): Prefer {
  const header = request.headers.get('prefer') ?? ''
  const wait = /(?:^|[,;\s])wait\s*=\s*"?(\d{1,6})"?/i.exec(header)
  return {
    waitS: wait === null ? 0 : Math.min(MAX_WAIT_S, Number(wait[1])),
    respondAsync: /(?:^|[,;\s])respond-async(?:$|[,;\s])/i.test(header),
  }
}

/** `Prefer: respond-async`: keep the bytes, check the signature later. */
async function receiveUnverified(call: Call, open: OpenEnvelope): Promise<Response> {
  const { env, node } = call
  limitSigner(call, open, 'unverified')
  const identity = identityOf(node, open.signer.canonical, open.event.id)
  const shard = shardOf(identity, node.config.intakeShards)
  const eventHash = toHex(open.eventHash)
  let receivedAt: number
  try {
    receivedAt = await env.POOL.getByName(String(shard)).receive(shard, eventHash, open.bytes)
  } catch (error) {
    throw poolError(error)
  }
  // A lost message costs time, not the event: the shard's alarm sends it again.
  call.ctx.waitUntil(env.INTAKE_QUEUE.send({ shard, eventHash }).catch(() => undefined))
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

/** HARBINGER_SIG_REQUIRED=0: the node signs for a body that nobody signed. */
async function postUnsigned(call: Call, body: Uint8Array): Promise<Response> {
  if (body.length > MAX_UNSIGNED_BYTES) {
    throw new VaultMeshError(
      'body-too-large',
      `An unsigned body has at most ${MAX_UNSIGNED_BYTES} bytes.`,
      {
        extra: { limit: MAX_UNSIGNED_BYTES },
      },
    )
  }
  if (body.length === 0) throw new VaultMeshError('bad-body', 'The body is empty.')
  const { env, node } = call
  limitAddress(call, 1)
  const id = toHex(sha256(body))
  const { did } = node.identity
  const identity = identityOf(node, did, id)
  const shard = shardOf(identity, node.config.intakeShards)
  let first
  try {
    first = await env.POOL.getByName(String(shard)).claimed(identity)
  } catch (error) {
    throw poolError(error)
  }
  const { waitS } = readPrefer(call.request)
  if (first !== null) {
    const links = linksOf(first.eventHash)
    const promise = await promiseEvent(
      node.identity,
      terms(node, first.receivedAt),
      first.eventHash,
    )
    const again = {
      eventHash: hashName(first.eventHash),
      eventId: id,
      status: 'accepted',
      receivedAt: isoTime(first.receivedAt),
      links,
      promise,
    }
    return json(again, 200, { location: links.self, 'cache-control': 'no-store' })
  }
  const event = {
    specversion: '1.0',
    id,
    source: did,
    type: 'vm.received',
    time: isoTime(Date.now()),
    data: { body: toBase64Url(body) },
  }
  const open = await openEnvelope(utf8(await signJws(node.identity, EVENT_TYP, event)), signers)
  const admission = await admit(env, call.ctx, node, open)
  // Two at once wrap at different times; the claim decides, and both get the first answer.
  const settled =
    admission.state === 'conflict' ? ({ ...admission, state: 'duplicate' } as const) : admission
  return answer(call, open, settled, waitS)
}

/** NDJSON: each line on its own, one promise over all that were kept. */
async function postBulk(call: Call): Promise<Response> {
  const { node } = call
  const body = await readBody(call.request, MAX_BULK_BYTES, 'body-too-large')
  const lines = splitLines(body)
  if (lines.length > MAX_BULK_LINES) {
    throw new VaultMeshError(
      'too-many-lines',
      `The bulk has ${lines.length} lines, the limit is ${MAX_BULK_LINES}.`,
      {
        extra: { limit: MAX_BULK_LINES },
      },
    )
  }
  limitAddress(call, lines.length)
  const good: { readonly at: number; readonly open: OpenEnvelope }[] = []
  const problems = new Map<number, VaultMeshError>()
  for (const [i, { bytes }] of lines.entries()) {
    try {
      const jws = bytes[0] === 0x7b ? lineEvent(bytes) : bytes
      const open = await openEnvelope(jws, signers)
      admitted(call, open)
      await verifyEnvelope(open)
      limitSigner(call, open, 'did')
      good.push({ at: i, open })
    } catch (error) {
      problems.set(i, asVaultMeshError(error))
    }
    if (i % YIELD_EVERY === YIELD_EVERY - 1) await scheduler.wait(0)
  }
  const admissions = await admitAll(
    call.env,
    node,
    good.map((g) => g.open),
  )
  const results: string[] = []
  const hashes: Hash[] = []
  let receivedAt = 0
  let next = 0
  for (const [i, { line }] of lines.entries()) {
    const mine = good[next]
    if (mine?.at !== i) {
      results.push(JSON.stringify({ line, problem: problemOf(problems.get(i)!) }))
      continue
    }
    const admission = admissions[next++]!
    if (admission instanceof VaultMeshError) {
      results.push(JSON.stringify({ line, problem: problemOf(admission) }))
      continue
    }
    if (admission.state === 'conflict') {
      results.push(JSON.stringify({ line, problem: problemOf(conflict(admission)) }))
      continue
    }
    hashes.push(admission.eventHash)
    receivedAt = Math.max(receivedAt, admission.receivedAt)
    const { eventHash } = admission
    const duplicate = admission.state === 'duplicate' || !equal(eventHash, mine.open.eventHash)
    results.push(
      JSON.stringify({
        line,
        status: 'accepted',
        eventHash: hashName(eventHash),
        eventId: mine.open.event.id,
        receivedAt: isoTime(admission.receivedAt),
        ...(duplicate ? { duplicate: true } : {}),
      }),
    )
  }
  const promise =
    hashes.length === 0
      ? ''
      : `,"promise":"${await promiseBulk(node.identity, terms(node, receivedAt), hashes)}"`
  return new Response(`{"results":[${results.join(',')}]${promise}}`, {
    headers: { 'content-type': 'application/json', 'cache-control': 'no-store' },
  })
}

function lineEvent(bytes: Uint8Array): Uint8Array {
  const event = wrappedEvent(bytes)
  if (event === null)
    throw new VaultMeshError('bad-body', 'The line is JSON without a string "event".')
  return event
}

/** Non-empty lines with their physical number from 1; a CR before the LF is dropped. */
function splitLines(body: Uint8Array): { readonly line: number; readonly bytes: Uint8Array }[] {
  const lines: { line: number; bytes: Uint8Array }[] = []
  let line = 1
  for (let at = 0; at < body.length; line++) {
    const newline = body.indexOf(0x0a, at)
    const end = newline < 0 ? body.length : newline
    const bytes = trimEnd(body.subarray(at, end))
    if (bytes.length > 0) lines.push({ line, bytes })
    at = end + 1
  }
  return lines
}
