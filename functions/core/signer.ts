/**
 * From a protected header to somebody who can verify: the (alg, DID method) pairs of the design.
 *
 *   EdDSA  ↔ did:key Ed25519     WebCrypto, RFC 8037
 *   ES256  ↔ did:key P-256       WebCrypto, RFC 7518 §3.4 (either s: stock libraries emit both)
 *   ES256K ↔ did:key secp256k1   low s, RFC 8812
 *   EIP191 ↔ did:pkh eip155      low s, v ∈ {27, 28}, externally owned accounts only
 *
 * A signer is cached under the exact text of the header: signers post many events with one header,
 * and importing a key costs as much as using it. The cache is bounded and holds public data only.
 */

import { ed25519 } from '@noble/curves/ed25519.js'
import { p256 } from '@noble/curves/nist.js'
import { fromBase64Url, fromUtf8, utf8 } from '#core/bytes.ts'
import { parseDid, type DidKey } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  addressOf,
  hotPoint,
  plainPoint,
  personalDigest,
  recoverKey,
  verifyDigest,
  verifyRecoverable,
  type HotPoint,
} from '#core/secp256k1-signature.ts'
import { sha256 } from '#core/sha256.ts'
import { parseStrictJson } from '#core/strict-json.ts'

/** The algorithms of events; any other `alg` is refused. */
export type Alg = 'EdDSA' | 'ES256' | 'ES256K' | 'EIP191'

/** Who signed, and how to check it. */
export interface Signer {
  readonly alg: Alg
  readonly kid: string
  /** The DID as written, without fragment. */
  readonly did: string
  /** The DID as identity and limits compare it. */
  readonly canonical: string
  /** Resolves to whether `signature` is this signer's over the ASCII signing input. */
  verify(signingInput: Uint8Array, signature: Uint8Array): Promise<boolean>
}

const pairs: Record<Alg, DidKey['kind']> = {
  EdDSA: 'ed25519',
  ES256: 'p256',
  ES256K: 'secp256k1',
  EIP191: 'eip155',
}

/** Imported keys kept: 4,096 × ≈ 1 KiB = 4 MiB of a 128 MiB isolate. */
const MAX_SIGNERS = 4096
/** Longest header kept: a kid of 256 characters with alg and typ has ≈ 430; padded ones must not pile up. */
const MAX_CACHED_HEADER = 1024
/** Precomputed points kept: 64 × ≈ 1 MiB (4,224 points of two 256-bit coordinates and overhead). */
const MAX_HOT_POINTS = 64
/** A table costs ≈ 10 ms and saves ≈ 0.25 ms a signature, so it pays from the 40th on. */
const HOT_AFTER = 40

/** A bounded memory of signers by protected header. One per isolate is enough. */
export class Signers {
  readonly #signers = new Map<string, Signer>()
  readonly #hot = new Map<string, HotPoint>()
  readonly #typ: string

  /** @param typ the only `typ` this cache accepts, e.g. `vm-event+jws` */
  constructor(typ: string) {
    this.#typ = typ
  }

  /**
   * The signer of a base64url protected header.
   * Throws `bad-encoding`, `bad-header`, `duplicate-key` or `bad-did`.
   */
  async of(header: string): Promise<Signer> {
    const known = this.#signers.get(header)
    if (known !== undefined) return known
    const signer = await this.#resolve(parseHeader(header, this.#typ))
    if (header.length > MAX_CACHED_HEADER) return signer
    if (this.#signers.size >= MAX_SIGNERS) evictOldest(this.#signers)
    // A copy: the text is a slice, and a slice keeps the whole event alive (67 KB a signer, measured).
    this.#signers.set(fromUtf8(utf8(header)), signer)
    return signer
  }

  async #resolve({ alg, kid }: Header): Promise<Signer> {
    const who = parseDid(kid)
    if (who.kind !== pairs[alg]) {
      throw new VaultMeshError('bad-header', `alg ${alg} does not go with a ${who.kind} key.`)
    }
    const base = { alg, kid, did: who.did, canonical: who.canonical }
    switch (who.kind) {
      case 'ed25519': {
        const key = await importEd25519(who.key)
        return { ...base, verify: (m, s) => verifyWebCrypto('Ed25519', key, s, m) }
      }
      case 'p256': {
        const key = await importP256(who.key)
        return { ...base, verify: (m, s) => verifyWebCrypto(ES256, key, s, m) }
      }
      case 'secp256k1': {
        const plain = cheapPoint(who.key)
        checkPoint(plain)
        return {
          ...base,
          verify: async (m, s) =>
            this.#counted(who.did, plain, (point) => verifyDigest(sha256(m), s, point)),
        }
      }
      case 'eip155':
        return { ...base, verify: async (m, s) => this.#verifyAddress(who.address, m, s) }
    }
  }

  /**
   * Runs `verify` with the signer's table, or with the bare point until the signer has earned one. Only
   * signatures that verify earn: a table costs as much as 20 verifications, and nobody must be able to buy
   * one with garbage.
   */
  #counted(id: string, plain: CountedPoint, verify: (point: HotPoint) => boolean): boolean {
    const hot = this.#hot.get(id)
    if (hot !== undefined) return verify(hot)
    const ok = verify(plain.point())
    if (ok && ++plain.uses >= HOT_AFTER) {
      plain.uses = 0 // a table that is evicted is earned again
      if (this.#hot.size >= MAX_HOT_POINTS) evictOldest(this.#hot)
      this.#hot.set(id, hotPoint(plain.key))
    }
    return ok
  }

  readonly #addressKeys = new Map<string, CountedPoint>()

  #verifyAddress(address: string, message: Uint8Array, signature: Uint8Array): boolean {
    const digest = personalDigest(message)
    const known = this.#addressKeys.get(address)
    // Once an address has signed, its key is known, and verifying is cheaper than recovering.
    if (known !== undefined) {
      return this.#counted(address, known, (point) => verifyRecoverable(digest, signature, point))
    }
    const key = recoverKey(digest, signature)
    if (key === null || addressOf(key) !== address) return false
    if (this.#addressKeys.size >= MAX_SIGNERS) evictOldest(this.#addressKeys)
    this.#addressKeys.set(address, cheapPoint(key))
    return true
  }
}

interface CountedPoint {
  uses: number
  readonly key: Uint8Array
  point(): HotPoint
}

function cheapPoint(key: Uint8Array): CountedPoint {
  let point: HotPoint | null = null
  return { uses: 0, key, point: () => (point ??= plainPoint(key)) }
}

/** Throws `bad-did` for a did:key whose bytes are no point (SEC 1 §2.3.4). */
function checkPoint(plain: CountedPoint): void {
  try {
    plain.point()
  } catch (cause) {
    throw new VaultMeshError('bad-did', 'The secp256k1 key is no point of the curve.', { cause })
  }
}

interface Header {
  readonly alg: Alg
  readonly kid: string
}

/**
 * The protected header as RFC 7515 §4 and the design allow it: alg, kid, typ and nothing that would
 * change how the rest is read (`crit`, `b64`) or who signed (`jwk`, `jku`, `x5u`, `x5c`, …).
 */
export function parseHeader(header: string, typ: string): Header {
  const value = parseStrictJson(fromUtf8(fromBase64Url(header)), HEADER)
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new VaultMeshError('bad-header', 'The protected header is not a JSON object.')
  }
  const fields = value as { readonly [key: string]: unknown }
  for (const name of Object.keys(fields)) {
    if (name !== 'alg' && name !== 'kid' && name !== 'typ') {
      throw new VaultMeshError(
        'bad-header',
        `Header parameter ${JSON.stringify(name.slice(0, 64))} is refused; only alg, kid and typ are read.`,
      )
    }
  }
  if (fields['typ'] !== typ) {
    throw new VaultMeshError('bad-header', `Header parameter "typ" must be "${typ}".`)
  }
  const alg = fields['alg']
  if (typeof alg !== 'string' || !Object.hasOwn(pairs, alg)) {
    throw new VaultMeshError(
      'bad-header',
      'Header parameter "alg" is not EdDSA, ES256, ES256K or EIP191.',
    )
  }
  const kid = fields['kid']
  if (typeof kid !== 'string')
    throw new VaultMeshError('bad-header', 'Header parameter "kid" is missing.')
  return { alg: alg as Alg, kid }
}

const HEADER = { code: 'bad-header', name: 'The protected header' } as const
const ES256 = { name: 'ECDSA', hash: 'SHA-256' }

async function verifyWebCrypto(
  algorithm: 'Ed25519' | typeof ES256,
  key: CryptoKey,
  signature: Uint8Array,
  message: Uint8Array,
): Promise<boolean> {
  if (signature.length !== 64) return false
  return crypto.subtle.verify(algorithm, key, signature as BufferSource, message as BufferSource)
}

async function importEd25519(raw: Uint8Array): Promise<CryptoKey> {
  // A small-order key would "sign" every message with one signature; WebCrypto lets it through.
  try {
    if (ed25519.Point.fromBytes(raw).isSmallOrder()) throw new Error('small order')
  } catch (cause) {
    throw new VaultMeshError('bad-did', 'The Ed25519 key is no usable point (RFC 8032 §5.1.3).', {
      cause,
    })
  }
  return crypto.subtle.importKey('raw', raw as BufferSource, 'Ed25519', false, ['verify'])
}

async function importP256(compressed: Uint8Array): Promise<CryptoKey> {
  let raw: Uint8Array
  try {
    raw = p256.Point.fromBytes(compressed).toBytes(false)
  } catch (cause) {
    throw new VaultMeshError('bad-did', 'The P-256 key is no point of the curve.', { cause })
  }
  const curve = { name: 'ECDSA', namedCurve: 'P-256' }
  return crypto.subtle.importKey('raw', raw as BufferSource, curve, false, ['verify'])
}

function evictOldest(map: Map<string, unknown>): void {
  const oldest = map.keys().next()
  if (!oldest.done) map.delete(oldest.value)
}
