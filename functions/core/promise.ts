/**
 * The promise in a 202: "this entry will be in the log by `sealBy`", signed by the node.
 *
 * A JWS (`vm-promise+jws`, identity key) with `iss, iat, origin, sealBy` and either `eventHash`, or
 * for a bulk `entries` and `count`. A promise plus a later timestamped checkpoint without the entry
 * is evidence against the node. Ed25519 is deterministic, so the same answer is the same bytes.
 */

import { concat, toHex, type Hash } from '#core/bytes.ts'
import { signJws, type IdentityKey } from '#core/node-keys.ts'
import { verifyStatement } from '#core/node-statement.ts'
import { sha256 } from '#core/sha256.ts'
import { isoTime } from '#core/time.ts'

/** `typ` of a promise. */
export const PROMISE_TYP = 'vm-promise+jws'

/** What is promised: one event, or the accepted lines of a bulk in line order. */
export interface PromiseTerms {
  readonly origin: string
  /** Epoch ms at which the entries became durable. */
  readonly receivedAt: number
  /** `SEAL_BATCH_MAX_INTERVAL_MS + SEAL_PROMISE_SLACK_MS`. */
  readonly graceMs: number
}

/** The promise for one event. */
export function promiseEvent(
  key: IdentityKey,
  terms: PromiseTerms,
  eventHash: Hash,
): Promise<string> {
  return signJws(key, PROMISE_TYP, {
    ...claims(key, terms),
    eventHash: `sha256:${toHex(eventHash)}`,
  })
}

/** The promise for a bulk: SHA-256 over the raw 32-byte hashes of its good lines, in line order. */
export function promiseBulk(
  key: IdentityKey,
  terms: PromiseTerms,
  hashes: readonly Hash[],
): Promise<string> {
  const entries = `sha256:${toHex(sha256(concat(...hashes)))}`
  return signJws(key, PROMISE_TYP, { ...claims(key, terms), entries, count: hashes.length })
}

function claims(key: IdentityKey, terms: PromiseTerms): object {
  return {
    iss: key.did,
    iat: Math.floor(terms.receivedAt / 1000),
    origin: terms.origin,
    sealBy: isoTime(terms.receivedAt + terms.graceMs),
  }
}

/**
 * The claims of a promise whose signature verifies under the key it names; whether that is the node's
 * is the caller's to check. Throws what `verifyStatement` throws.
 */
export async function verifyPromise(jws: string): Promise<Readonly<Record<string, unknown>>> {
  return (await verifyStatement(jws, PROMISE_TYP, 'The promise')).claims
}
