/**
 * The TSA rail: RFC 3161 over HTTP (§3.4). The only file that talks to a Time-Stamping Authority.
 *
 * `work` is the nonce. It is stored before the request leaves, so that a reply can be judged by
 * whoever finds it after a crash; asking again with the same nonce costs one more token and is
 * harmless. A token is final at once, if core verifies it: there is nothing to wait for.
 *
 * The authority is a stranger: the reply is capped while it is read, the wait is bounded, redirects
 * are not followed, the media type is checked before a byte is parsed, and no error carries the URL
 * (it may hold credentials) or the body. Everything else it might get wrong is core's to refuse.
 */

import * as z from 'zod'
import type { AnchorReceipt, AnchorVerdict } from '#core/anchor-receipt.ts'
import { timestampReceipt } from '#core/anchor-timestamp.ts'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { concat, fromHex, toBase64, toHex, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { DEFAULT_MAX_TOKEN_BYTES, verifyTimestamp } from '#core/timestamp-proof.ts'
import { timestampRequest, tokenFromResponse } from '#core/timestamp-request.ts'
import type { AnchorJob, Rail, RailContext, RailStep } from './rail.ts'

/** A token is signed in milliseconds; ten seconds is a slow network, not a slow authority. */
export const DEFAULT_TIMEOUT_MS = 10_000
/** 128 bits: two requests never share a nonce (Steward 286). */
const NONCE_BYTES = 16

export interface TimestampRailOptions {
  /** Of the authority. User and password in it are sent as Basic authorization. */
  readonly url: string
  /** PEM roots that its tokens must lead to. */
  readonly roots: readonly string[]
  /** Allowed policy OIDs; any if absent. */
  readonly policies?: readonly string[]
  readonly timeoutMs?: number
  /** Our version, for the receipt's `verifier`. */
  readonly version: string
}

const workSchema = z.strictObject({ nonce: z.string().regex(/^[0-9a-f]{32}$/) })
export type TimestampWork = z.infer<typeof workSchema>

/** The rail to one authority. Throws `bad-config` if the URL is none. */
export function timestampRail(options: TimestampRailOptions): Rail<TimestampWork> {
  const endpoint = parseEndpoint(options.url)
  const network = endpoint.host
  return {
    chain: 'TSA',
    network,
    method: 'rfc3161',

    async submit(job, work, context) {
      if (work === null) {
        return { state: 'signed', work: { nonce: toHex(context.random(NONCE_BYTES)) } }
      }
      return stamp({ ...options, ...endpoint }, { job, work }, context)
    },

    // A reply that was not stored is lost: nothing is outstanding at the authority, so ask again.
    async check(_job, work) {
      return { state: 'dropped', work }
    },

    async verify(receipt: AnchorReceipt): Promise<AnchorVerdict> {
      if (receipt.chain !== 'TSA' || receipt.network !== network) {
        return { outcome: 'refuted', check: 'network', reason: `not a receipt of ${network}` }
      }
      return verifyAnchorReceipt(receipt, { tsaRoots: options.roots })
    },
  }
}

interface Endpoint {
  readonly address: string
  readonly authorization: string | null
  readonly host: string
}

async function stamp(
  options: TimestampRailOptions & Endpoint,
  { job, work }: { job: AnchorJob; work: TimestampWork },
  context: RailContext,
): Promise<RailStep<TimestampWork>> {
  const parsed = workSchema.safeParse(work)
  if (!parsed.success) throw new VaultMeshError('bad-state', 'The stored TSA work is not a nonce.')
  const nonce = fromHex(parsed.data.nonce)
  const { root, treeSize } = job
  // By the route, so that its answers are counted and shown as those of any provider.
  const reply = await context.route.first([{ name: options.host }], () =>
    post(options, timestampRequest({ root, nonce }), context),
  )
  const token = tokenFromResponse(reply)
  const { policies, roots, version } = options
  const verdict = await verifyTimestamp({
    token,
    root,
    nonce,
    ...(policies === undefined ? {} : { policies }),
    trustedRoots: roots,
  })
  const receipt = timestampReceipt({
    root,
    treeSize,
    token,
    nonce,
    verdict,
    version,
    network: options.host,
    observedAt: context.now(),
  })
  return { state: 'final', receipt }
}

async function post(
  { address, authorization, host, timeoutMs = DEFAULT_TIMEOUT_MS }: TimestampRailOptions & Endpoint,
  query: Uint8Array,
  context: RailContext,
): Promise<Uint8Array> {
  const signal = AbortSignal.timeout(timeoutMs)
  try {
    const response = await context.fetch(address, {
      method: 'POST',
      headers: {
        'content-type': 'application/timestamp-query',
        accept: 'application/timestamp-reply',
        ...(authorization === null ? {} : { authorization }),
      },
      body: query.slice(),
      redirect: 'manual',
      signal,
    })
    const type = response.headers.get('content-type')?.split(';')[0]?.trim().toLowerCase()
    // Some authorities answer 201 (older sigstore), so any 2xx; a redirect is none.
    const fault = !response.ok
      ? `answered HTTP ${response.status}`
      : type !== 'application/timestamp-reply'
        ? 'did not answer with application/timestamp-reply'
        : null
    if (fault !== null) {
      await response.body?.cancel()
      throw failure(host, fault)
    }
    return await readCapped(response, host)
  } catch (error) {
    if (error instanceof VaultMeshError) throw error
    // The platform's error may quote the URL, so it is named by its kind and not passed on.
    const fault = signal.aborted ? `did not answer within ${timeoutMs} ms` : 'could not be reached'
    throw failure(host, fault)
  }
}

/** The body, unless it grows past what any token needs; the rest is then never downloaded. */
async function readCapped(response: Response, host: string): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  let size = 0
  // Leaving the loop by a throw cancels the stream.
  for await (const chunk of response.body ?? []) {
    size += chunk.length
    if (size > DEFAULT_MAX_TOKEN_BYTES) {
      throw failure(host, `answered with more than ${DEFAULT_MAX_TOKEN_BYTES} bytes`)
    }
    chunks.push(chunk)
  }
  return concat(...chunks)
}

function parseEndpoint(text: string): Endpoint {
  const url = URL.canParse(text) ? new URL(text) : null
  if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:')) {
    throw new VaultMeshError('bad-config', 'A TSA address must be an http or https URL.')
  }
  const { username, password, hostname } = url
  const secret = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`
  url.username = ''
  url.password = ''
  const authorization = secret === ':' ? null : `Basic ${toBase64(utf8(secret))}`
  return { address: url.href, authorization, host: hostname }
}

function failure(host: string, fault: string): VaultMeshError {
  return new VaultMeshError('anchor-failed', `The TSA ${host} ${fault}.`, { extra: { host } })
}
