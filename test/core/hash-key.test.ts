import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { HASH_KEYS, hashKey } from '#core/hash-key.ts'

const hash = fc.uint8Array({ minLength: 40, maxLength: 40 })

test('the key is the first 53 bits, big-endian', () => {
  fc.assert(
    fc.property(hash, fc.integer({ min: 0, max: 32 }), (bytes, at) => {
      const view = new DataView(bytes.buffer, bytes.byteOffset)
      expect(hashKey(bytes, at)).toBe(Number(view.getBigUint64(at) >> 11n))
    }),
  )
})

test('keys are safe integers from 0 to below HASH_KEYS, and both ends occur', () => {
  expect(hashKey(new Uint8Array(32))).toBe(0)
  expect(hashKey(new Uint8Array(32).fill(255))).toBe(HASH_KEYS - 1)
  expect(HASH_KEYS - 1).toBe(Number.MAX_SAFE_INTEGER)
})

test('bits after the 53rd do not count, each bit before does', () => {
  const base = new Uint8Array(32)
  for (let bit = 0; bit < 64; bit++) {
    const flipped = base.slice()
    flipped[bit >> 3]! ^= 0x80 >> (bit & 7)
    expect(hashKey(flipped)).toBe(bit < 53 ? 2 ** (52 - bit) : 0)
  }
})
