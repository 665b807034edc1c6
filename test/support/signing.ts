/**
 * Signers of all four kinds, for tests: each makes events as an honest client would, and lets a test
 * change header, payload, signing input or signature on the way.
 */

import { createHash, createPrivateKey, createPublicKey, sign } from 'node:crypto'
import { ed25519 } from '@noble/curves/ed25519.js'
import { p256 } from '@noble/curves/nist.js'
import { secp256k1 } from '@noble/curves/secp256k1.js'
import { concat, toBase64Url, utf8 } from '#core/bytes.ts'
import { didKey } from '#core/did.ts'
import { addressOf, personalDigest } from '#core/secp256k1-signature.ts'
import type { Alg } from '#core/signer.ts'

/** Somebody who can sign. */
export interface TestSigner {
  readonly alg: Alg
  readonly did: string
  readonly secret: Uint8Array
  /** Signature over the ASCII signing input. */
  sign(input: Uint8Array): Uint8Array
}

/** What a test changes of an event. `undefined` removes a member. */
export interface Change {
  readonly header?: Readonly<Record<string, unknown>>
  readonly payload?: Readonly<Record<string, unknown>>
  readonly headerText?: string
  readonly payloadText?: string | Uint8Array
  readonly signature?: (good: Uint8Array) => Uint8Array
}

const ORDER = secp256k1.Point.Fn.ORDER

/** A signer of `alg` whose secret is made of `seed`: the same one each time. */
export function testSigner(alg: Alg, seed: string): TestSigner {
  const secret = new Uint8Array(createHash('sha256').update(`${alg} ${seed}`).digest())
  switch (alg) {
    case 'EdDSA':
      return {
        alg,
        secret,
        did: didKey('ed25519', ed25519.getPublicKey(secret)),
        sign: (input) => ed25519.sign(input, secret),
      }
    case 'ES256': {
      // Node's own ECDSA: random nonces, either s, like every stock library.
      const pub = p256.getPublicKey(secret, false)
      const x = toBase64Url(pub.subarray(1, 33))
      const y = toBase64Url(pub.subarray(33))
      const jwk = { kty: 'EC', crv: 'P-256', x, y, d: toBase64Url(secret) }
      const key = createPrivateKey({ key: jwk, format: 'jwk' })
      createPublicKey(key)
      return {
        alg,
        secret,
        did: didKey('p256', p256.getPublicKey(secret)),
        sign: (input) => new Uint8Array(sign('sha256', input, { key, dsaEncoding: 'ieee-p1363' })),
      }
    }
    case 'ES256K':
      return {
        alg,
        secret,
        did: didKey('secp256k1', secp256k1.getPublicKey(secret)),
        sign: (input) => secp256k1.sign(input, secret),
      }
    case 'EIP191': {
      const address = addressOf(secp256k1.getPublicKey(secret))
      return {
        alg,
        secret,
        did: `did:pkh:eip155:1:${address}`,
        sign: (input) => personalSign(personalDigest(input), secret),
      }
    }
  }
}

/** r ‖ s ‖ v as wallets write it. */
export function personalSign(digest: Uint8Array, secret: Uint8Array): Uint8Array {
  const signature = secp256k1.sign(digest, secret, { prehash: false, format: 'recovered' })
  return concat(signature.subarray(1), Uint8Array.of(27 + signature[0]!))
}

/** The other s of an ECDSA signature r ‖ s (‖ v) over secp256k1, with v turned to match. */
export function otherS(signature: Uint8Array): Uint8Array {
  const s = BigInt(`0x${Buffer.from(signature.subarray(32, 64)).toString('hex')}`)
  const flipped = Buffer.from((ORDER - s).toString(16).padStart(64, '0'), 'hex')
  const v = signature.length === 65 ? Uint8Array.of(55 - signature[64]!) : new Uint8Array(0)
  return concat(signature.subarray(0, 32), new Uint8Array(flipped), v)
}

let serial = 0

/** A CloudEvent of `signer` with an id of its own. */
export function cloudEvent(
  signer: TestSigner,
  change: Readonly<Record<string, unknown>> = {},
): Record<string, unknown> {
  const time = new Date().toISOString()
  const id = `e-${process.pid}-${++serial}`
  return { specversion: '1.0', id, source: signer.did, type: 'test.event', time, ...change }
}

/** The compact JWS of an event, good unless the test changes it. */
export function signEvent(signer: TestSigner, change: Change = {}): string {
  const header = { alg: signer.alg, kid: signer.did, typ: 'vm-event+jws', ...change.header }
  const headerText = change.headerText ?? JSON.stringify(header)
  const payload = change.payloadText ?? JSON.stringify(cloudEvent(signer, change.payload))
  const payloadBytes = typeof payload === 'string' ? utf8(payload) : payload
  const input = `${toBase64Url(utf8(headerText))}.${toBase64Url(payloadBytes)}`
  const good = signer.sign(utf8(input))
  return `${input}.${toBase64Url(change.signature?.(good) ?? good)}`
}

/** An event whose JWS has exactly `size` bytes. */
export function sizedEvent(signer: TestSigner, size: number): string {
  const event = cloudEvent(signer, { data: '' })
  const bare = JSON.stringify(event).length
  const plain = JSON.stringify({ alg: signer.alg, kid: signer.did, typ: 'vm-event+jws' })
  const rest = size - 2 - Math.ceil((signer.alg === 'EIP191' ? 65 : 64) * (4 / 3))
  // n bytes are ceil(4n/3) characters, never 1 mod 4: one of four paddings of the header fits.
  for (let pad = 0; pad < 4; pad++) {
    const headerText = plain + ' '.repeat(pad)
    const characters = rest - Math.ceil((headerText.length * 4) / 3)
    const data = 'x'.repeat(Math.floor((characters * 3) / 4) - bare)
    const jws = signEvent(signer, { headerText, payloadText: JSON.stringify({ ...event, data }) })
    if (jws.length === size) return jws
  }
  throw new Error(`no event of ${size} bytes`)
}
