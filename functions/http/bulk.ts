/**
 * Bulk intake: NDJSON of signed events, each line on its own, one promise over all that were kept.
 */

import { equal, type Hash } from '#core/bytes.ts'
import { openEnvelope, verifyEnvelope, type OpenEnvelope } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { promiseBulk } from '#core/promise.ts'
import type { SchemaPin } from '#core/schema-pins.ts'
import type { Alg } from '#core/signer.ts'
import { isoTime } from '#core/time.ts'
import { checkErasure } from '#store/erasures.ts'
import { intakeRules } from '#store/intake-rules.ts'
import { count } from '#store/metrics.ts'
import type { WatchedEvent } from '#store/webhooks.ts'
import { admitAll, hashName } from './admission.ts'
import { readBody, trimEnd } from './body.ts'
import {
  admitted,
  conflict,
  limitAddress,
  limitSigner,
  matched,
  signers,
  terms,
  wrappedEvent,
} from './intake-rules.ts'
import { asVaultMeshError, problemOf } from './problem.ts'
import type { Call } from './route.ts'
import { watchEvents } from './webhooks.ts'

/** Largest bulk. 10,000 lines of 839 bytes; more lines or longer ones are several requests. */
export const MAX_BULK_BYTES = 8_388_608
export const MAX_BULK_LINES = 10_000
/** Lines with the empty ones, which are skipped but must be looked at. */
const MAX_PHYSICAL_LINES = 2 * MAX_BULK_LINES
/** What a verification costs, in units of 60 µs (measured: WebCrypto 60 µs, secp256k1 up to 500 µs). */
const COST: Readonly<Record<Alg, number>> = { EdDSA: 1, ES256: 1, ES256K: 8, EIP191: 8 }
/** What a pinned schema costs, in the same units: one for each 128 bytes (measured: 16 µs an item of 34 bytes). */
const PIN_SHIFT = 7
/** And what each three references that its check follows cost: 20 µs each. */
const REFERENCES_A_UNIT = 3
/** Let other requests in after so many units: 256 × 60 µs = 15 ms. */
const YIELD_AFTER = 256

/** NDJSON: each line on its own, one promise over all that were kept. */
export async function postBulk(call: Call): Promise<Response> {
  const { node } = call
  const body = await readBody(call.request, MAX_BULK_BYTES, 'body-too-large')
  const lines = splitLines(body)
  limitAddress(call, lines.length)
  const good: { readonly at: number; readonly open: OpenEnvelope }[] = []
  const problems = new Map<number, VaultMeshError>()
  const rules = await intakeRules(call.env)
  let cost = 0
  for (const [i, { bytes }] of lines.entries()) {
    let pin: SchemaPin | undefined
    try {
      const jws = bytes[0] === 0x7b ? lineEvent(bytes) : bytes
      const open = await openEnvelope(jws, signers)
      admitted(call, rules, open)
      cost += COST[open.signer.alg]
      await verifyEnvelope(open)
      limitSigner(call, open.signer.canonical, 'did')
      pin = rules.pins.get(open.event.type)
      if (pin !== undefined) cost += 1 + (open.bytes.length >> PIN_SHIFT)
      matched(call, rules, open)
      await checkErasure(call.env, node, open)
      good.push({ at: i, open })
    } catch (error) {
      problems.set(i, asVaultMeshError(error))
    }
    if (pin !== undefined) cost += Math.floor(pin.followed / REFERENCES_A_UNIT)
    // The clock stands still between I/O, so work is counted, not timed.
    if (++cost >= YIELD_AFTER) {
      cost = 0
      await scheduler.wait(0)
    }
  }
  const admissions = await admitAll(
    call.env,
    node,
    good.map((g) => g.open),
    call.requestId,
  )
  const results: string[] = []
  const hashes: Hash[] = []
  const kept: WatchedEvent[] = []
  let receivedAt = 0
  let next = 0
  for (const [i, { line }] of lines.entries()) {
    const mine = good[next]
    if (mine?.at !== i) {
      results.push(refusedLine(call, line, problems.get(i)!))
      continue
    }
    const admission = admissions[next++]!
    if (admission instanceof VaultMeshError) {
      results.push(refusedLine(call, line, admission))
      continue
    }
    if (admission.state === 'conflict' || admission.state === 'erased') {
      results.push(refusedLine(call, line, conflict(admission)))
      continue
    }
    hashes.push(admission.eventHash)
    kept.push({ eventHash: admission.eventHash, did: mine.open.signer.canonical })
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
  await watchEvents(call, kept)
  const promise =
    hashes.length === 0
      ? ''
      : `,"promise":"${await promiseBulk(node.identity, terms(node, receivedAt), hashes)}"`
  return new Response(`{"results":[${results.join(',')}]${promise}}`, {
    headers: { 'content-type': 'application/json', 'cache-control': 'no-store' },
  })
}

function refusedLine({ env, ctx }: Call, line: number, error: VaultMeshError): string {
  count(env, ctx, 'vaultmesh_events_total', { outcome: 'rejected' })
  count(env, ctx, 'vaultmesh_problems_total', { code: error.code })
  return JSON.stringify({ line, problem: problemOf(error) })
}

function lineEvent(bytes: Uint8Array): Uint8Array {
  const event = wrappedEvent(bytes)
  if (event === null)
    throw new VaultMeshError('bad-body', 'The line is JSON without a string "event".')
  return event
}

/** Non-empty lines with their physical number from 1; throws `too-many-lines` before it has read them all. */
function splitLines(body: Uint8Array): { readonly line: number; readonly bytes: Uint8Array }[] {
  const lines: { line: number; bytes: Uint8Array }[] = []
  let line = 1
  for (let at = 0; at < body.length; line++) {
    const newline = body.indexOf(0x0a, at)
    const end = newline < 0 ? body.length : newline
    const bytes = trimEnd(body.subarray(at, end))
    if (bytes.length > 0) lines.push({ line, bytes })
    if (lines.length > MAX_BULK_LINES || line > MAX_PHYSICAL_LINES) {
      throw new VaultMeshError(
        'too-many-lines',
        `The bulk has more than ${MAX_BULK_LINES} lines.`,
        {
          extra: { limit: MAX_BULK_LINES },
        },
      )
    }
    at = end + 1
  }
  return lines
}
