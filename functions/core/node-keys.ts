/**
 * The node's keys, all derived from one 32-byte secret: HKDF-SHA256 (RFC 5869) with empty salt and
 * info `vaultmesh/v1/<role>/<epoch>`, giving the 32-byte seed of an Ed25519 key (RFC 8032 §5.1.5).
 *
 * One secret to keep, one key per role: a cosigner key that is also a log key could be made to sign
 * one thing as the other (C2SP tlog-cosignature). `claims` is an HMAC key, so that an erased event
 * leaves nothing from which its identity could be guessed.
 */

import { ed25519 } from '@noble/curves/ed25519.js'
import { concat, toBase64Url, utf8 } from '#core/bytes.ts'
import { didKey, didKeyUrl } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'

/** What a key is for. */
export type Role = 'log' | 'witness' | 'identity'

/** An Ed25519 key that can sign. */
export interface SigningKey {
  readonly publicKey: Uint8Array
  /** RFC 8032 signature, 64 bytes; deterministic, so a retry signs the same bytes. */
  sign(message: Uint8Array): Promise<Uint8Array>
}

/** The identity key with the names it signs under. */
export interface IdentityKey extends SigningKey {
  readonly did: string
  readonly kid: string
}

/** The key of a role and epoch. `secret` is 32 bytes; throws `bad-config` otherwise. */
export async function deriveKey(
  secret: Uint8Array,
  role: Role,
  epoch: number,
): Promise<SigningKey> {
  return ed25519Key(await expand(secret, `vaultmesh/v1/${role}/${epoch}`))
}

/** The identity key of an epoch; the DID of epoch 1 is the node's stable name. */
export async function deriveIdentity(secret: Uint8Array, epoch: number): Promise<IdentityKey> {
  const key = await deriveKey(secret, 'identity', epoch)
  const did = didKey('ed25519', key.publicKey)
  return { ...key, did, kid: didKeyUrl(did) }
}

/** The 32-byte HMAC key that hides identities in claims. */
export async function deriveClaimsKey(secret: Uint8Array): Promise<Uint8Array> {
  return expand(secret, 'vaultmesh/v1/claims/1')
}

/** The 32-byte HMAC key behind what a browser carries for the dashboard: login states and form tokens. */
export async function deriveDashboardKey(secret: Uint8Array): Promise<Uint8Array> {
  return expand(secret, 'vaultmesh/v1/dashboard/1')
}

/** An Ed25519 key from its 32-byte seed. */
export async function ed25519Key(seed: Uint8Array): Promise<SigningKey> {
  const publicKey = ed25519.getPublicKey(seed)
  // RFC 8410 §7: PKCS#8 wraps the seed in a fixed 16-byte prefix; WebCrypto takes no bare seeds.
  const pkcs8 = concat(PKCS8_ED25519, seed)
  const key = await crypto.subtle.importKey('pkcs8', pkcs8 as BufferSource, 'Ed25519', false, [
    'sign',
  ])
  return {
    publicKey,
    sign: async (message) =>
      new Uint8Array(await crypto.subtle.sign('Ed25519', key, message as BufferSource)),
  }
}

/** SEQUENCE { version 0, AlgorithmIdentifier 1.3.101.112, OCTET STRING { OCTET STRING (32) } }. */
const PKCS8_ED25519 = Uint8Array.of(
  0x30,
  0x2e,
  0x02,
  0x01,
  0x00,
  0x30,
  0x05,
  0x06,
  0x03,
  0x2b,
  0x65,
  0x70,
  0x04,
  0x22,
  0x04,
  0x20,
)

async function expand(secret: Uint8Array, info: string): Promise<Uint8Array> {
  if (secret.length !== 32)
    throw new VaultMeshError('bad-config', 'NODE_SECRET: the node secret has 32 bytes.')
  const key = await crypto.subtle.importKey('raw', secret as BufferSource, 'HKDF', false, [
    'deriveBits',
  ])
  const params = {
    name: 'HKDF',
    hash: 'SHA-256',
    salt: new Uint8Array(0),
    info: utf8(info) as BufferSource,
  }
  return new Uint8Array(await crypto.subtle.deriveBits(params, key, 256))
}

/** Encoded headers by type and key: a node signs every promise under one of them. */
const headers = new Map<string, string>()
const MAX_HEADERS = 256

/** A compact JWS (RFC 7515 §7.1) over `payload` with `{alg, kid, typ}`, signed EdDSA (RFC 8037). */
export async function signJws(key: IdentityKey, typ: string, payload: object): Promise<string> {
  let header = headers.get(`${typ} ${key.kid}`)
  if (header === undefined) {
    header = toBase64Url(utf8(JSON.stringify({ alg: 'EdDSA', kid: key.kid, typ })))
    if (headers.size >= MAX_HEADERS) headers.clear()
    headers.set(`${typ} ${key.kid}`, header)
  }
  const input = `${header}.${toBase64Url(utf8(JSON.stringify(payload)))}`
  return `${input}.${toBase64Url(await key.sign(utf8(input)))}`
}
