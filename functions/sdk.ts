/**
 * The SDK: sign an event, post it, verify its receipt. For Node ≥ 20, workerd and browsers alike.
 *
 *   const signer = await createSigner({ alg: 'EdDSA', secret })
 *   const jws = await sign(signer, { type: 'com.example.paid', data: { amount: 3 } })
 *   const { receipt } = await post('https://node.example', jws, { wait: 10 })
 *   const report = await verify(receipt, trust, jws)
 *
 * A repeat of the same JWS is the same event, so `post` may send again whenever it is unsure: it cannot be
 * counted twice. What `verify` trusts is pinned by the caller; `trustOf` fetches the names and keys of a
 * node once, to be looked at and kept.
 */

import { p256 } from '@noble/curves/nist.js'
import { secp256k1 } from '@noble/curves/secp256k1.js'
import { concat, fromHex, toBase64Url, toHex, utf8 } from '#core/bytes.ts'
import { didKey, didKeyUrl } from '#core/did.ts'
import { EVENT_TYP, MAX_EVENT_BYTES } from '#core/envelope.ts'
import { codes, VaultMeshError, type Code, type Extra } from '#core/errors.ts'
import { ed25519Key } from '#core/node-keys.ts'
import { verifyPromise } from '#core/promise.ts'
import {
  parseReceipt,
  verifyReceipt,
  type Receipt,
  type ReceiptTrust,
  type Report,
} from '#core/receipt.ts'
import { verifyStatements } from '#core/rotation.ts'
import { addressOf, personalDigest } from '#core/secp256k1-signature.ts'
import { sha256 } from '#core/sha256.ts'
import type { Alg } from '#core/signer.ts'

export { parseReceipt, VaultMeshError }
export { Remembrancer } from './remembrancer.ts'
export type { LogKeys, RemembranceOptions, SignedBatch } from './remembrancer.ts'
export type { Alg, Code, Receipt, ReceiptTrust, Report }

/** Somebody who can sign events. `sign` may as well ask a wallet or an HSM: implement this and pass it. */
export interface EventSigner {
  readonly alg: Alg
  /** The `source` of every event of this signer. */
  readonly did: string
  /** What the protected header names: the DID, or its one verification method. */
  readonly kid: string
  /** The JWS signature over the ASCII signing input. */
  sign(input: Uint8Array): Promise<Uint8Array>
}

/** Where a signer comes from. */
export interface SignerOptions {
  readonly alg: Alg
  /** 32 bytes: the seed of an Ed25519 key, or the scalar of a P-256 or secp256k1 key. */
  readonly secret: Uint8Array
  /** Of `EIP191` only: the chain in did:pkh:eip155:<chain>:<address>. */
  readonly chainId?: number
}

/** A signer from a secret. Throws `bad-config` if the secret is no key of `alg`. */
export async function createSigner(options: SignerOptions): Promise<EventSigner> {
  const { alg, secret, chainId = 1 } = options
  if (secret.length !== 32) throw badKey('A signing secret has 32 bytes.')
  switch (alg) {
    case 'EdDSA': {
      const key = await ed25519Key(secret)
      return named(alg, didKey('ed25519', key.publicKey), (input) => key.sign(input))
    }
    case 'ES256': {
      if (!p256.utils.isValidSecretKey(secret)) throw badKey('The secret is no P-256 scalar.')
      const key = await importP256(secret)
      const algorithm = { name: 'ECDSA', hash: 'SHA-256' }
      return named(alg, didKey('p256', p256.getPublicKey(secret)), async (input) => {
        return new Uint8Array(await crypto.subtle.sign(algorithm, key, input as BufferSource))
      })
    }
    case 'ES256K': {
      const scalar = secpScalar(secret)
      return named(alg, didKey('secp256k1', secp256k1.getPublicKey(scalar)), async (input) =>
        secp256k1.sign(sha256(input), scalar, { prehash: false, lowS: true }),
      )
    }
    case 'EIP191': {
      if (!Number.isSafeInteger(chainId) || chainId < 1) throw badKey('A chain id is 1 or more.')
      const scalar = secpScalar(secret)
      const did = `did:pkh:eip155:${chainId}:${addressOf(secp256k1.getPublicKey(scalar))}`
      return { alg, did, kid: did, sign: async (input) => signPersonal(input, scalar) }
    }
    default:
      throw badKey('alg is not EdDSA, ES256, ES256K or EIP191.')
  }
}

/** A CloudEvent to be signed; what is absent of specversion, id, source and time is filled in. */
export interface EventInput {
  readonly type: string
  readonly specversion?: '1.0'
  /** Unique within the signer. Give your own to make retries across restarts safe. */
  readonly id?: string
  readonly source?: string
  /** RFC 3339. */
  readonly time?: string
  readonly subject?: string
  readonly dataschema?: string
  readonly datacontenttype?: string
  /** Any JSON value. */
  readonly data?: unknown
  /** CloudEvents extension attributes. */
  readonly [extension: string]: unknown
}

/** The event as a compact JWS: these bytes are the event from now on. Keep them with the receipt. */
export async function sign(signer: EventSigner, event: EventInput): Promise<string> {
  const filled = {
    specversion: '1.0',
    id: crypto.randomUUID(),
    source: signer.did,
    time: new Date().toISOString(),
    ...event,
  }
  const header = { alg: signer.alg, kid: signer.kid, typ: EVENT_TYP }
  const input = `${base64Json(header)}.${base64Json(filled)}`
  const jws = `${input}.${toBase64Url(await signer.sign(utf8(input)))}`
  if (jws.length > MAX_EVENT_BYTES) {
    throw new VaultMeshError(
      'event-too-large',
      `The JWS has ${jws.length} bytes, the limit is ${MAX_EVENT_BYTES}.`,
      { extra: { limit: MAX_EVENT_BYTES } },
    )
  }
  return jws
}

/** The hash that names an event: SHA-256 of its bytes, as `sha256:<hex>`. */
export function eventHashOf(jws: string): string {
  return `sha256:${toHex(sha256(utf8(jws)))}`
}

/** How to post. */
export interface PostOptions {
  /** Seconds to wait for the seal, so that the answer holds the receipt (one event only; at most 60). */
  readonly wait?: number
  /** Instead of the global fetch. */
  readonly fetch?: (url: string, init: RequestInit) => Promise<Response>
  /** Tries of one request before giving up; 5 unless said otherwise. */
  readonly attempts?: number
  /** The longest Retry-After that is honoured, in milliseconds; a longer one is an error at once. */
  readonly maxDelayMs?: number
  readonly signal?: AbortSignal
  /** Told after each request of a bulk: lines answered so far. */
  readonly onProgress?: (done: number) => void
}

/** The node's answer to one event. */
export interface Posted {
  readonly eventHash: string
  readonly eventId: string
  readonly status: 'received' | 'accepted' | 'sealed' | 'anchored' | 'final'
  readonly receivedAt: string
  readonly links: { readonly self: string; readonly status: string; readonly receipt: string }
  /** Signed: in the log by `sealBy`. Keep it; see `promiseOf`. */
  readonly promise?: string
  /** Present if you waited and it was sealed in time. */
  readonly receipt?: Receipt
}

/** What a problem answer says (RFC 9457). */
export interface Problem {
  readonly type: string
  readonly title: string
  readonly status: number
  readonly detail: string
  readonly advice: string
  readonly [extra: string]: unknown
}

/** What became of one event of a bulk. `index` is its place in the array that was posted. */
export type BulkResult =
  | {
      readonly index: number
      readonly status: string
      readonly eventHash: string
      readonly eventId: string
      readonly receivedAt: string
      readonly duplicate?: true
    }
  | { readonly index: number; readonly problem: Problem }

/** The node's answers to a bulk, in the order of the events. */
export interface PostedBulk {
  readonly results: readonly BulkResult[]
  /** One promise a request, with the hashes it covers. */
  readonly promises: readonly {
    readonly promise: string
    readonly eventHashes: readonly string[]
  }[]
}

/**
 * An answer that is no success, or none at all: `code` is one of `Code`, `unreachable`, or what a newer
 * node calls it.
 */
export class RemoteProblem extends Error {
  readonly code: string
  readonly status: number
  readonly advice: string
  readonly extra: Extra

  constructor(
    code: string,
    detail: string,
    { status = 0, advice = '', extra = {}, cause }: Partial<RemoteProblemParts> = {},
  ) {
    super(detail, cause === undefined ? undefined : { cause })
    this.name = 'RemoteProblem'
    this.code = code
    this.status = status
    this.advice = advice
    this.extra = extra
  }
}

interface RemoteProblemParts {
  readonly status: number
  readonly advice: string
  readonly extra: Extra
  readonly cause: unknown
}

/** Lines and bytes of one bulk request: the node's own limits. */
const MAX_BULK_LINES = 10_000
const MAX_BULK_BYTES = 8_388_608

const DEFAULT_ATTEMPTS = 5
const DEFAULT_MAX_DELAY_MS = 65_000
/** Between tries without Retry-After: 250 ms doubling to 8 s, the upper half of it by chance. */
const FIRST_DELAY_MS = 250
const LAST_DELAY_MS = 8000
const RETRIED = new Set([429, 502, 503, 504])

/**
 * Posts an event, or many as NDJSON in as few requests as the node's limits allow. Tries again on 429, 502,
 * 503, 504 and network faults, honouring Retry-After. Throws `RemoteProblem` for a refusal; of a
 * bulk, refusals of single events are in the results.
 */
export async function post(url: string, event: string, options?: PostOptions): Promise<Posted>
export async function post(
  url: string,
  events: readonly string[],
  options?: PostOptions,
): Promise<PostedBulk>
export async function post(
  url: string,
  events: string | readonly string[],
  options: PostOptions = {},
): Promise<Posted | PostedBulk> {
  const target = `${url.replace(/\/+$/, '')}/events`
  if (typeof events !== 'string') return postBulk(target, events, options)
  const headers: Record<string, string> = { 'content-type': 'application/jose' }
  if (options.wait !== undefined) headers['prefer'] = `wait=${options.wait}`
  const response = await send(target, { method: 'POST', headers, body: events }, options)
  return (await answerOf(response)) as Posted
}

/** Verifies a receipt offline, and the event's bytes against it when they are given. */
export function verify(
  receipt: Receipt,
  trust: ReceiptTrust,
  event?: string | Uint8Array,
): Promise<Report> {
  return verifyReceipt(receipt, trust, typeof event === 'string' ? utf8(event) : event)
}

/** What to pin of a node: whom `verify` is to believe, and the names that go with the keys. */
export interface Trust extends ReceiptTrust {
  readonly node_id: string
  /** The node's stable name. Its keys are in `nodeDids`: this one, and those it rotated to. */
  readonly node_did: string
  readonly origin: string
  readonly network: string
  /** Rails on which an event of this node must be anchored to be final. */
  readonly rails: readonly string[]
}

/**
 * A node's names and keys as it states them itself. Look at them, keep them, verify with them. Throws
 * `RemoteProblem`, or what `verifyStatements` throws if its keys do not follow from its name.
 */
export async function trustOf(url: string, options: PostOptions = {}): Promise<Trust> {
  const path = `${url.replace(/\/+$/, '')}/.well-known/vaultmesh.json`
  const known = (await answerOf(await send(path, { method: 'GET' }, options))) as {
    readonly node_id: string
    readonly node_did: string
    readonly origin: string
    readonly network: string
    readonly rails: readonly string[]
    readonly vkey: string
    readonly previous?: readonly { readonly vkey: string }[]
    readonly tsa_roots: readonly string[]
    readonly rotation?: readonly string[]
  }
  const { node_id, node_did, origin, network, rails, rotation = [], previous = [] } = known
  if (
    typeof known.vkey !== 'string' ||
    typeof node_did !== 'string' ||
    !Array.isArray(known.tsa_roots) ||
    !(Array.isArray(previous) && previous.every(({ vkey }) => typeof vkey === 'string')) ||
    !(Array.isArray(rotation) && rotation.every((text) => typeof text === 'string'))
  ) {
    throw new RemoteProblem('unreachable', `${path} is not the file of a VaultMesh node.`)
  }
  return {
    node_id,
    node_did,
    origin,
    network,
    rails,
    // Receipts of a log that forked still say who signed what, and when.
    vkeys: [known.vkey, ...previous.map(({ vkey }) => vkey)],
    tsaRoots: known.tsa_roots,
    nodeDids: [...new Set([node_did, ...(await keysOf(node_did, rotation))])],
  }
}

/** Every did:key that ever spoke for a node, as its key statements prove. */
async function keysOf(nodeDid: string, statements: readonly string[]): Promise<readonly string[]> {
  const { keys } = await verifyStatements(nodeDid, statements)
  return keys.map(({ did }) => did)
}

/** What a node promised, its signature verified. */
export interface PromiseClaims {
  /** DID of the node's key that signed: it must be one of `Trust.nodeDids`. */
  readonly iss: string
  readonly iat: number
  readonly origin: string
  /** RFC 3339: a timestamped checkpoint after it that lacks the event is evidence. */
  readonly sealBy: string
  readonly eventHash?: string
  readonly entries?: string
  readonly count?: number
}

/**
 * The claims of a promise, once its signature verifies and it covers `eventHashes` (one, or those of a bulk
 * in line order). Throws `bad-signature` or `bad-proof`.
 */
export async function promiseOf(
  promise: string,
  eventHashes: string | readonly string[],
): Promise<PromiseClaims> {
  const claims = (await verifyPromise(promise)) as unknown as PromiseClaims
  const covered =
    typeof eventHashes === 'string'
      ? claims.eventHash === eventHashes
      : claims.count === eventHashes.length && claims.entries === entriesOf(eventHashes)
  if (!covered) {
    throw new VaultMeshError('bad-proof', 'The promise is about other events than these.')
  }
  return claims
}

function entriesOf(eventHashes: readonly string[]): string {
  const raw = eventHashes.map((hash) => fromHex(hash.slice('sha256:'.length)))
  return `sha256:${toHex(sha256(concat(...raw)))}`
}

function named(alg: Alg, did: string, by: EventSigner['sign']): EventSigner {
  return { alg, did, kid: didKeyUrl(did), sign: by }
}

/** WebCrypto takes no bare scalars: RFC 7518 §6.2 with the public point beside it. */
function importP256(secret: Uint8Array): Promise<CryptoKey> {
  const point = p256.getPublicKey(secret, false)
  const jwk = {
    kty: 'EC',
    crv: 'P-256',
    d: toBase64Url(secret),
    x: toBase64Url(point.subarray(1, 33)),
    y: toBase64Url(point.subarray(33)),
  }
  const curve = { name: 'ECDSA', namedCurve: 'P-256' }
  return crypto.subtle.importKey('jwk', jwk, curve, false, ['sign'])
}

function secpScalar(secret: Uint8Array): Uint8Array {
  if (!secp256k1.utils.isValidSecretKey(secret)) throw badKey('The secret is no secp256k1 scalar.')
  return secret
}

/** EIP-191 `personal_sign`: r ‖ s ‖ v with low s and v 27 or 28. */
function signPersonal(input: Uint8Array, scalar: Uint8Array): Uint8Array {
  const format = { prehash: false, lowS: true, format: 'recovered' } as const
  const [recovery, ...rs] = secp256k1.sign(personalDigest(input), scalar, format)
  return Uint8Array.of(...rs, 27 + recovery!)
}

function badKey(detail: string): VaultMeshError {
  return new VaultMeshError('bad-config', detail)
}

function base64Json(value: object): string {
  return toBase64Url(utf8(JSON.stringify(value)))
}

async function postBulk(
  target: string,
  events: readonly string[],
  options: PostOptions,
): Promise<PostedBulk> {
  const results: BulkResult[] = []
  const promises: { promise: string; eventHashes: string[] }[] = []
  for (const part of parts(events)) {
    const response = await send(
      target,
      {
        method: 'POST',
        headers: { 'content-type': 'application/x-ndjson' },
        body: events.slice(part.from, part.to).join('\n'),
      },
      options,
    )
    const answer = (await answerOf(response)) as {
      readonly results: readonly (Record<string, unknown> & { readonly line: number })[]
      readonly promise?: string
    }
    const eventHashes: string[] = []
    for (const { line, ...rest } of answer.results) {
      results.push({ index: part.from + line - 1, ...rest } as unknown as BulkResult)
      if (typeof rest['eventHash'] === 'string') eventHashes.push(rest['eventHash'])
    }
    if (answer.promise !== undefined) promises.push({ promise: answer.promise, eventHashes })
    options.onProgress?.(part.to)
  }
  return { results, promises }
}

/** Runs of events that fit one request. A JWS is ASCII, so characters are bytes. */
function* parts(
  events: readonly string[],
): Generator<{ readonly from: number; readonly to: number }> {
  let from = 0
  let bytes = 0
  for (const [i, event] of events.entries()) {
    // A newline or an empty line would shift the numbers by which answers find their events.
    if (!/^[\x21-\x7e]+$/.test(event)) {
      throw new VaultMeshError('bad-jws', `Event ${i} of the bulk is not a compact JWS.`)
    }
    const size = event.length + 1
    if (i > from && (i - from >= MAX_BULK_LINES || bytes + size > MAX_BULK_BYTES)) {
      yield { from, to: i }
      from = i
      bytes = 0
    }
    bytes += size
  }
  if (events.length > from) yield { from, to: events.length }
}

/** One request, tried again while that may help; the last answer or a `RemoteProblem`. */
async function send(url: string, init: RequestInit, options: PostOptions): Promise<Response> {
  const { attempts = DEFAULT_ATTEMPTS, maxDelayMs = DEFAULT_MAX_DELAY_MS, signal } = options
  const request = options.fetch ?? ((to: string, how: RequestInit) => fetch(to, how))
  for (let attempt = 1; ; attempt++) {
    let delay: number
    try {
      const response = await request(url, signal === undefined ? init : { ...init, signal })
      if (!RETRIED.has(response.status) || attempt >= attempts) return response
      delay = retryAfter(response) ?? backoff(attempt)
      if (delay > maxDelayMs) return response
      await response.body?.cancel()
    } catch (cause) {
      signal?.throwIfAborted()
      if (attempt >= attempts) throw unreachable(url, cause)
      delay = backoff(attempt)
    }
    await sleep(delay, signal)
  }
}

function unreachable(url: string, cause: unknown): RemoteProblem {
  const why = cause instanceof Error && cause.cause instanceof Error ? cause.cause : cause
  const detail = why instanceof Error ? why.message : String(why)
  return new RemoteProblem('unreachable', `${new URL(url).origin} does not answer: ${detail}`, {
    advice: 'See that the node runs and that the URL is right, then send the same events again.',
    cause,
  })
}

/** RFC 9110 §10.2.3: seconds, or a date. */
function retryAfter(response: Response): number | null {
  const header = response.headers.get('retry-after')
  if (header === null) return null
  if (/^\d+$/.test(header)) return Number(header) * 1000
  const at = Date.parse(header)
  return Number.isNaN(at) ? null : Math.max(0, at - Date.now())
}

function backoff(attempt: number): number {
  const full = Math.min(LAST_DELAY_MS, FIRST_DELAY_MS * 2 ** (attempt - 1))
  return full / 2 + (Math.random() * full) / 2
}

/** No Promise.withResolvers: Node 20 lacks it. */
function sleep(ms: number, signal: AbortSignal | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer)
      reject(signal?.reason as Error)
    }
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', abort)
      resolve()
    }, ms)
    signal?.addEventListener('abort', abort)
  })
}

/** The JSON of a success, or its problem thrown. */
async function answerOf(response: Response): Promise<unknown> {
  const text = await response.text()
  let body: unknown = null
  try {
    body = JSON.parse(text)
  } catch {
    if (response.ok) {
      throw new RemoteProblem('unreachable', `${response.url} did not answer in JSON.`, {
        status: response.status,
        advice: 'See that the URL is that of a VaultMesh node.',
      })
    }
  }
  if (response.ok) return body
  throw problemFrom(response.status, body)
}

/** The error that stands for a problem answer. */
export function problemFrom(status: number, body: unknown): RemoteProblem {
  const { type, title, detail, advice, status: _, ...rest } = (body ?? {}) as Partial<Problem>
  const name = /^\/problems\/([a-z-]+)$/.exec(typeof type === 'string' ? type : '')?.[1]
  const code = name ?? (status === 429 ? 'rate-limited' : status >= 500 ? 'unreachable' : 'refused')
  const known = Object.hasOwn(codes, code) ? codes[code as Code] : undefined
  return new RemoteProblem(code, detail ?? title ?? `The node answered ${status}.`, {
    status,
    advice: advice ?? known?.advice ?? '',
    extra: rest as Extra,
  })
}
