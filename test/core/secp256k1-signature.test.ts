import { secp256k1 } from '@noble/curves/secp256k1.js'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { concat, fromHex, toHex, utf8 } from '#core/bytes.ts'
import {
  addressOf,
  hotPoint,
  personalDigest,
  plainPoint,
  recoverKey,
  verifyDigest,
  verifyRecoverable,
} from '#core/secp256k1-signature.ts'
import { otherS, personalSign } from '../support/signing.ts'
import accounts from '../vectors/ethereum-accounts.json' with { type: 'json' }

const ORDER = secp256k1.Point.Fn.ORDER
const FIELD = secp256k1.Point.Fp.ORDER
const word = (n: bigint): Uint8Array => fromHex(n.toString(16).padStart(64, '0'))
const digestOf = (text: string): Uint8Array => personalDigest(utf8(text))

/** A few keys with their points, plain and hot: a table costs too much to make one a run. */
const keys = [1n, 7n, ORDER - 1n, ORDER >> 1n, 2n ** 200n + 12345n].map((n) => {
  const publicKey = secp256k1.getPublicKey(word(n))
  return { secret: word(n), publicKey, plain: plainPoint(publicKey), hot: hotPoint(publicKey) }
})
const someone = fc.constantFrom(...keys)
const digest = fc.uint8Array({ minLength: 32, maxLength: 32 })
/** Nothing, or one bit of one byte. */
const flip = fc.option(fc.tuple(fc.nat(64), fc.nat(7)))

function flipped(signature: Uint8Array, at: readonly [number, number] | null): Uint8Array {
  const out = signature.slice()
  if (at !== null && at[0] < out.length) out[at[0]]! ^= 1 << at[1]
  return out
}

function noble(signature: Uint8Array, hash: Uint8Array, key: Uint8Array): boolean {
  try {
    return secp256k1.verify(signature, hash, key, { prehash: false, lowS: true })
  } catch {
    return false
  }
}

describe('verifyDigest', () => {
  test('agrees with @noble/curves on good, tampered and foreign signatures, with and without a table', () => {
    fc.assert(
      fc.property(someone, someone, digest, digest, flip, fc.nat(3), (me, you, d, d2, at, kind) => {
        const signature = flipped(secp256k1.sign(d, me.secret, { prehash: false }), at)
        const signer = kind === 1 ? you : me
        const hash = kind === 2 ? d2 : d
        const expected = noble(signature, hash, signer.publicKey)
        expect(verifyDigest(hash, signature, signer.plain)).toBe(expected)
        expect(verifyDigest(hash, signature, signer.hot)).toBe(expected)
        if (at === null && kind === 0) expect(expected).toBe(true)
      }),
      { numRuns: 40 },
    )
  })

  const key = word(7n)
  const d = digestOf('x')
  const point = plainPoint(secp256k1.getPublicKey(key))
  const good = secp256k1.sign(d, key, { prehash: false })
  const [r, s] = [good.subarray(0, 32), good.subarray(32)]
  const n = BigInt(`0x${toHex(s)}`)
  test.each<[string, Uint8Array]>([
    ['high s', otherS(good)],
    ['s = n/2 + 1', concat(r, word((ORDER >> 1n) + 1n))],
    ['r = 0', concat(word(0n), s)],
    ['s = 0', concat(r, word(0n))],
    ['r = s = 0', new Uint8Array(64)],
    ['r = n', concat(word(ORDER), s)],
    ['s = n', concat(r, word(ORDER))],
    ['r + n where it fits', concat(word(2n ** 256n - 1n), s)],
    ['s + n where it fits', concat(r, word(n + ORDER < 2n ** 256n ? n + ORDER : ORDER + 1n))],
    ['r = p', concat(word(FIELD), s)],
    ['r and s swapped', concat(s, r)],
    ['63 bytes', good.subarray(0, 63)],
    ['65 bytes', concat(good, Uint8Array.of(27))],
    ['no bytes', new Uint8Array(0)],
    ['DER', secp256k1.sign(d, key, { prehash: false, format: 'der' })],
  ])('refuses %s', (_, signature) => {
    expect(verifyDigest(d, good, point)).toBe(true)
    expect(verifyDigest(d, signature, point)).toBe(false)
  })

  test('refuses a digest of another length', () => {
    expect(verifyDigest(d.subarray(1), good, point)).toBe(false)
    expect(verifyDigest(concat(d, d), good, point)).toBe(false)
  })

  test('takes the digest modulo n, as SEC 1 does', () => {
    for (const hash of [word(0n), word(ORDER), word(2n ** 256n - 1n)]) {
      const signature = secp256k1.sign(hash, key, { prehash: false })
      expect(verifyDigest(hash, signature, point)).toBe(true)
    }
  })

  test('refuses a signature whose nonce point would be infinity', () => {
    // u1·G + u2·Q = 0 when z = −r·d: s is free.
    const forged = concat(word(5n), word(1n))
    const z = (ORDER - ((5n * 7n) % ORDER)) % ORDER
    expect(verifyDigest(word(z), forged, point)).toBe(false)
  })
})

test.each([
  ['no bytes', ''],
  ['an x outside of the curve', `02${'00'.repeat(31)}05`],
  ['x = p', `02${FIELD.toString(16)}`],
  ['a bad prefix', `05${'11'.repeat(32)}`],
])('a point of %s is refused', (_, hex) => {
  expect(() => plainPoint(fromHex(hex))).toThrow()
  expect(() => hotPoint(fromHex(hex))).toThrow()
})

describe('personal_sign', () => {
  test.each(accounts.personalSign.cases)(
    'of $message is the published one',
    ({ message, digest: published, signature }) => {
      const { key, address } = accounts.personalSign
      const hash = personalDigest(utf8(message))
      if (published !== null) expect(toHex(hash)).toBe(published)
      expect(toHex(personalSign(hash, fromHex(key)))).toBe(signature)
      const recovered = recoverKey(hash, fromHex(signature))!
      expect(addressOf(recovered)).toBe(address)
      expect(addressOf(secp256k1.getPublicKey(fromHex(key), false))).toBe(address)
      expect(verifyRecoverable(hash, fromHex(signature), plainPoint(recovered))).toBe(true)
    },
  )

  test('is taken by recovery exactly if it is taken by verification under the recovered key', () => {
    fc.assert(
      fc.property(
        someone,
        digest,
        flip,
        fc.constantFrom(27, 28, 0, 1, 29, 30, 255),
        (me, d, at, v) => {
          const signature = flipped(personalSign(d, me.secret), at)
          if (v > 28) signature[64] = v
          const recovered = recoverKey(d, signature)
          const same = recovered !== null && toHex(recovered) === toHex(me.publicKey)
          expect(verifyRecoverable(d, signature, me.plain)).toBe(same)
          expect(verifyRecoverable(d, signature, me.hot)).toBe(same)
          if (at === null && v <= 28) expect(same).toBe(true)
        },
      ),
      { numRuns: 40 },
    )
  })

  test('has one spelling: high s, the other v and every v but 27 and 28 are refused', () => {
    const d = digestOf('one spelling')
    const good = personalSign(d, word(9n))
    const point = plainPoint(secp256k1.getPublicKey(word(9n)))
    expect(verifyRecoverable(d, good, point)).toBe(true)
    for (let v = 0; v < 256; v++) {
      const signature = concat(good.subarray(0, 64), Uint8Array.of(v))
      expect(verifyRecoverable(d, signature, point), `v ${v}`).toBe(v === good[64])
      if (v !== 27 && v !== 28) expect(recoverKey(d, signature)).toBeNull()
    }
    for (const bad of [
      otherS(good),
      concat(otherS(good).subarray(0, 64), good.subarray(64)),
      good.subarray(0, 64),
    ]) {
      expect(verifyRecoverable(d, bad, point)).toBe(false)
      expect(recoverKey(d, bad)).toBeNull()
    }
  })

  test('with an r that is no x coordinate, or r or s of 0, recovers nobody', () => {
    const d = digestOf('x')
    for (const r of [0n, 5n, ORDER, FIELD])
      expect(recoverKey(d, concat(word(r), word(1n), Uint8Array.of(27)))).toBeNull()
    expect(recoverKey(d, concat(word(1n), word(0n), Uint8Array.of(27)))).toBeNull()
  })
})
