/**
 * The envelope in which nodes talk (design §7): a JWS `vm-gossip+jws`, EdDSA by a current identity key,
 * with the claims of RFC 7519 §4.1 that bind it to one sender, one recipient and one minute.
 *
 * Two steps, so that a stranger costs no signature: `readEnvelope` checks size, shape and claims, and
 * what it returns is `unverified`; the caller looks up who may speak; `verifyEnvelope` gives a `Verified`,
 * which nothing else makes. An introduction (`statements`) is verified by rotation.ts in between.
 */

import * as z from 'zod'
import { originSchema } from '#core/batch-manifest.ts'
import { fromBase64Url, fromUtf8, utf8 } from '#core/bytes.ts'
import { canonicalDid, parseDid } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import { signJws, type IdentityKey } from '#core/node-keys.ts'
import { MAX_STATEMENT_BYTES, MAX_STATEMENTS } from '#core/rotation.ts'
import { parseVkey } from '#core/signed-note.ts'
import { parseHeader, Signers } from '#core/signer.ts'
import { parseStrictJson, type Json } from '#core/strict-json.ts'

/** `typ` of an envelope. */
export const GOSSIP_TYP = 'vm-gossip+jws'
/** Largest envelope, 256 KiB: tips and references; entries and tiles are fetched. */
export const MAX_ENVELOPE_BYTES = 262_144
/** Longest life of an envelope, and how far `iat` may be ahead of the node's clock, in seconds. */
export const MAX_LIFE_S = 60

const MAX_URL_CHARS = 2048
/** A name of 255 bytes, 8 hex digits of an ID, 44 characters of an Ed25519 key, and room. */
const MAX_VKEY_CHARS = 512

const claimsSchema = z.strictObject({
  iss: z.string(),
  aud: z.string(),
  iat: z.int().nonnegative(),
  exp: z.int().nonnegative(),
  jti: z.string().regex(/^[\w.-]{1,64}$/, 'is not 1 to 64 of A-Z a-z 0-9 _ . -'),
  // Compared as written. Another law, however it is named, is a mismatch and no broken envelope.
  lawHash: z.string().min(1).max(128),
  body: z.custom<Readonly<Record<string, Json>>>(isObject, 'is no JSON object'),
  url: z.string().max(MAX_URL_CHARS).refine(isHttpUrl, 'is no http(s) URL').optional(),
  vkey: z.string().max(MAX_VKEY_CHARS).refine(isVkey, 'is no vkey').optional(),
  origin: originSchema.optional(),
  statements: z.array(z.string().max(MAX_STATEMENT_BYTES)).max(MAX_STATEMENTS).optional(),
})

/** What an envelope says. Times are seconds. */
export type EnvelopeClaims = Readonly<z.output<typeof claimsSchema>>

/** An envelope of good shape. Anybody can have written it. */
export interface OpenedEnvelope {
  /** Canonical DID of the node that it claims to be from. */
  readonly iss: string
  /** did:key of the key that it claims to be signed with. */
  readonly keyDid: string
  readonly unverified: EnvelopeClaims
  readonly header: string
  /** `header.payload`, over which the signature is. */
  readonly signingInput: string
  readonly signature: Uint8Array
}

declare const verified: unique symbol

/** An envelope that the node `iss` signed for this one just now. Whether it is a repeat is not known. */
export interface Verified {
  readonly [verified]: true
  /** Canonical DID of the node. */
  readonly iss: string
  readonly keyDid: string
  readonly claims: EnvelopeClaims
}

/** Against what an envelope is verified. */
export interface EnvelopeTrust {
  /** Canonical DIDs under which this node is addressed. */
  readonly audiences: readonly string[]
  /** Epoch ms. */
  readonly nowAt: number
  /** Whether `keyDid` is a valid key of the opened envelope's `iss` at `nowAt`. */
  readonly isKey: (keyDid: string, nowAt: number) => boolean
}

const ascii = new TextDecoder('latin1')
const PAYLOAD = { code: 'bad-envelope', name: 'The envelope' } as const
const signers = new Signers(GOSSIP_TYP)

/** The envelope `claims`. Throws what its reader would: `bad-envelope`, `stale-envelope`, `envelope-too-large`. */
export async function signEnvelope(key: IdentityKey, claims: EnvelopeClaims): Promise<string> {
  checkLife(checkClaims(claims))
  const jws = await signJws(key, GOSSIP_TYP, claims)
  checkSize(jws.length)
  return jws
}

/**
 * Size, shape and claims of an envelope; the signature is not verified yet. Throws `envelope-too-large`,
 * `bad-jws`, `bad-encoding`, `bad-header`, `bad-did`, `duplicate-key` or `bad-envelope`.
 */
export function readEnvelope(bytes: Uint8Array): OpenedEnvelope {
  checkSize(bytes.length)
  const parts = ascii.decode(bytes).split('.', 4)
  if (parts.length !== 3)
    throw new VaultMeshError('bad-jws', 'A compact JWS has three parts joined by two dots.')
  const [header, payload, signature] = parts as [string, string, string]
  const { alg, kid } = parseHeader(header, GOSSIP_TYP)
  const key = parseDid(kid)
  if (alg !== 'EdDSA' || key.kind !== 'ed25519') {
    throw new VaultMeshError('bad-header', 'An envelope is signed EdDSA by a did:key.')
  }
  const claims = checkClaims(parseStrictJson(fromUtf8(fromBase64Url(payload)), PAYLOAD))
  return {
    iss: canonicalDid(claims.iss),
    keyDid: key.did,
    unverified: claims,
    header,
    signingInput: `${header}.${payload}`,
    signature: fromBase64Url(signature),
  }
}

/**
 * Verifies an envelope, cheapest check first. Throws `wrong-audience`, `stale-envelope`, `unknown-peer`,
 * `bad-did` (a key that can sign nothing) or `bad-signature`.
 */
export async function verifyEnvelope(
  opened: OpenedEnvelope,
  { audiences, nowAt, isKey }: EnvelopeTrust,
): Promise<Verified> {
  const { iss, keyDid, unverified: claims } = opened
  if (!audiences.includes(canonicalDid(claims.aud))) {
    throw new VaultMeshError('wrong-audience', 'The envelope\'s "aud" is not this node.')
  }
  checkLife(claims)
  if (claims.exp * 1000 <= nowAt) throw stale('it has expired')
  if (claims.iat * 1000 > nowAt + MAX_LIFE_S * 1000)
    throw stale(`"iat" is more than ${MAX_LIFE_S} s ahead of this node's clock`)
  if (!isKey(keyDid, nowAt)) {
    throw new VaultMeshError('unknown-peer', `kid is no valid key of a peer ${iss}.`)
  }
  const signer = await signers.of(opened.header)
  if (!(await signer.verify(utf8(opened.signingInput), opened.signature))) {
    throw new VaultMeshError('bad-signature', 'The envelope is not signed by the key it names.')
  }
  return { iss, keyDid, claims } as Verified
}

/** The name under which an envelope is remembered: neither part has a space. */
export function replayKey(iss: string, jti: string): string {
  return `${canonicalDid(iss)} ${jti}`
}

/** Epoch ms until which `replayKey` must be remembered: `exp`, and a clock set back by 60 s. */
export function replayUntil({ exp }: Pick<EnvelopeClaims, 'exp'>): number {
  return (exp + MAX_LIFE_S) * 1000
}

function checkSize(size: number): void {
  if (size <= MAX_ENVELOPE_BYTES) return
  throw new VaultMeshError(
    'envelope-too-large',
    `An envelope has at most ${MAX_ENVELOPE_BYTES} bytes.`,
    { extra: { limit: MAX_ENVELOPE_BYTES } },
  )
}

function checkClaims(value: unknown): EnvelopeClaims {
  const parsed = claimsSchema.safeParse(value)
  if (!parsed.success) {
    const { path, message } = parsed.error.issues[0]!
    throw bad(path.length === 0 ? message : `"${path.join('.')}": ${message}`)
  }
  const { kind, did } = parseDid(parsed.data.iss)
  if ((kind !== 'ed25519' && kind !== 'eip155') || did !== parsed.data.iss)
    throw bad('"iss" is no DID of a node')
  return parsed.data
}

function checkLife({ iat, exp }: EnvelopeClaims): void {
  if (exp <= iat || exp > iat + MAX_LIFE_S)
    throw stale(`"exp" is not within ${MAX_LIFE_S} s after "iat"`)
}

function isObject(value: unknown): boolean {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isHttpUrl(text: string): boolean {
  return /^https?:\/\//.test(text) && URL.canParse(text)
}

function isVkey(text: string): boolean {
  try {
    parseVkey(text)
    return true
  } catch {
    return false // the refusal names the claim
  }
}

function bad(why: string): VaultMeshError {
  return new VaultMeshError('bad-envelope', `The envelope is refused: ${why}.`)
}

function stale(why: string): VaultMeshError {
  return new VaultMeshError('stale-envelope', `The envelope is not of now: ${why}.`)
}
