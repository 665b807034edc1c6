/**
 * The rules that every way into the log shares: who may post, how much, and what an answer says.
 */

import { fromUtf8, utf8, type Hash } from '#core/bytes.ts'
import { checkTime, EVENT_TYP, type OpenEnvelope } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { checkAllowed, checkSchema, type IntakeRules } from '#core/intake-config.ts'
import type { PromiseTerms } from '#core/promise.ts'
import { Signers } from '#core/signer.ts'
import { parseStrictJson, type Json } from '#core/strict-json.ts'
import { erasedProblem } from '#store/events.ts'
import type { NodeContext } from '#store/node.ts'
import { hashName, type Admission } from './admission.ts'
import { RateLimit } from './rate-limit.ts'
import type { Call } from './route.ts'

/** Known signers of this isolate. */
export const signers = new Signers(EVENT_TYP)
const limits = new RateLimit()

/** Clock and allow-list: everything that may refuse a well-formed event before its signature. */
export function admitted(call: Call, rules: IntakeRules, open: OpenEnvelope): void {
  const { config } = call.node
  const nowAt = Date.now()
  checkTime(open.event, { nowAt, maxAgeMs: config.intakeMaxAgeMs })
  checkAllowed(rules, config.intakeAllow, open.signer)
}

/** What is pinned to its type: after signature and limit, as it is the dearest check of all. */
export function matched(call: Call, rules: IntakeRules, open: OpenEnvelope): void {
  checkSchema(rules, open, call.node.identity.did)
}

/** Counts an event for its DID. Unverified ones count apart: a forger must not use up a signer's limit. */
export function limitSigner(call: Call, did: string, kind: 'did' | 'unverified'): void {
  limits.take(`${kind} ${did}`, 1, {
    limit: call.node.config.rateLimitDid,
    nowAt: Date.now(),
    what: 'by this DID',
  })
}

/** Counts events for the client's address, where the node can tell addresses apart. */
export function limitAddress(call: Call, n: number): void {
  const { config } = call.node
  // Without a header to read there are no addresses to tell apart, and one bucket would punish all.
  if (config.rateLimitIp === 0 || config.clientIpHeader === '') return
  const address = call.request.headers.get(config.clientIpHeader) ?? ''
  limits.take(`ip ${address}`, Math.max(1, n), {
    limit: config.rateLimitIp,
    nowAt: Date.now(),
    what: 'from this address',
  })
}

/** The refusal of an identity that stands for other content, or whose event was erased. */
export function conflict(admission: Admission): VaultMeshError {
  if (admission.state === 'erased') return erasedProblem(admission.eventHash as Hash)
  return new VaultMeshError(
    'event-id-reused',
    'This (source, id) stands for other content already.',
    {
      extra: { eventHash: hashName(admission.eventHash) },
    },
  )
}

/** The terms of a promise made at `receivedAt`. */
export function terms(node: NodeContext, receivedAt: number): PromiseTerms {
  const { origin, sealBatchMaxIntervalMs, sealPromiseSlackMs } = node.config
  return { origin, receivedAt, graceMs: sealBatchMaxIntervalMs + sealPromiseSlackMs }
}

/** Where an event is found. */
export function linksOf(eventHash: Hash) {
  const name = hashName(eventHash)
  return { self: `/events/${name}`, status: `/events/${name}/status`, receipt: `/receipts/${name}` }
}

/** `{"event": "<compact JWS>"}` as its bytes; null for JSON that is something else. */
export function wrappedEvent(body: Uint8Array): Uint8Array | null {
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
