/**
 * The promise in a 202: "this entry will be in the log by `sealBy`", signed by the node.
 *
 * A JWS (`vm-promise+jws`, identity key) with `iss, iat, origin, sealBy` and either `eventHash`, or
 * for a bulk `entries` and `count`. A promise plus a later timestamped checkpoint without the entry
 * is evidence against the node. Ed25519 is deterministic, so the same answer is the same bytes.
 */

import { concat, fromBase64Url, fromUtf8, toHex, type Hash } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { signJws, type IdentityKey } from '#core/node-keys.ts'
import { sha256 } from '#core/sha256.ts'
import { Signers } from '#core/signer.ts'
import { parseStrictJson } from '#core/strict-json.ts'
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

const CLAIMS = { code: 'bad-jws', name: 'The promise' } as const

/**
 * The claims of a promise whose signature verifies under the key it names; whether that is the node's
 * is the caller's to check. Throws `bad-jws`, `bad-encoding`, `bad-header`, `bad-did`, `duplicate-key` or
 * `bad-signature`.
 */
export async function verifyPromise(jws: string): Promise<Readonly<Record<string, unknown>>> {
  const parts = jws.split('.')
  if (parts.length !== 3) throw new VaultMeshError('bad-jws', 'A promise is a compact JWS.')
  const signer = await new Signers(PROMISE_TYP).of(parts[0]!)
  const input = new TextEncoder().encode(`${parts[0]}.${parts[1]}`)
  if (!(await signer.verify(input, fromBase64Url(parts[2]!)))) {
    throw new VaultMeshError('bad-signature', 'The promise is not signed by the key it names.')
  }
  const claimed = parseStrictJson(fromUtf8(fromBase64Url(parts[1]!)), CLAIMS)
  if (typeof claimed !== 'object' || claimed === null || Array.isArray(claimed))
    throw new VaultMeshError('bad-jws', 'The promise is not a JSON object.')
  const payload = claimed as Readonly<Record<string, unknown>>
  if (payload['iss'] !== signer.did)
    throw new VaultMeshError('bad-jws', 'The promise names another issuer.')
  return payload
}
