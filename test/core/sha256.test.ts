import { createHash, createHmac } from 'node:crypto'
import { sha256 as noble } from '@noble/hashes/sha2.js'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fromHex, toHex, utf8 } from '#core/bytes.ts'
import {
  hmac,
  hmacKey,
  hmacSha256,
  leafHashWords,
  loadWords,
  nodeHashWords,
  sha256,
  sha256Prefix2,
  toBytes,
} from '#core/sha256.ts'
import vectors from '../vectors/sha256.json' with { type: 'json' }

const bytes = fc.uint8Array({ maxLength: 300 })
const node = (data: Uint8Array): string => createHash('sha256').update(data).digest('hex')

describe('SHA-256', () => {
  test.each(vectors.digests)('gives the published digest of $text, $times times', (v) => {
    expect(toHex(sha256(utf8(v.text.repeat(v.times))))).toBe(v.digest)
  })

  test('agrees with node:crypto and noble at every length around the block borders', () => {
    for (let n = 0; n <= 260; n++) {
      const data = Uint8Array.from({ length: n }, (_, i) => i * 7 + n)
      const digest = toHex(sha256(data))
      expect(digest).toBe(node(data))
      expect(digest).toBe(toHex(noble(data)))
    }
  })

  test('hashes a view into a larger buffer as its bytes alone', () => {
    fc.assert(
      fc.property(bytes, fc.nat(9), (data, offset) => {
        const buffer = new Uint8Array(data.length + 20).fill(0xaa)
        buffer.set(data, offset)
        expect(sha256(buffer.subarray(offset, offset + data.length))).toEqual(sha256(data))
      }),
    )
  })

  test('a shared prefix gives the digests of both parts', () => {
    fc.assert(
      fc.property(bytes, fc.nat(), (data, at) => {
        const split = at % (data.length + 1)
        const [prefix, whole] = sha256Prefix2(data, split)
        expect(toHex(prefix)).toBe(node(data.subarray(0, split)))
        expect(toHex(whole)).toBe(node(data))
      }),
    )
  })

  test('a split outside the bytes is refused', () => {
    for (const at of [-1, 4, Number.NaN]) {
      expect(() => sha256Prefix2(new Uint8Array(3), at)).toThrow(RangeError)
    }
  })

  test('a digest is the caller’s to change', () => {
    sha256(utf8('abc')).fill(0)
    expect(toHex(sha256(utf8('abc')))).toBe(node(utf8('abc')))
  })
})

describe('HMAC-SHA-256', () => {
  test.each(vectors.hmac)('gives the published code $mac', ({ key, message, mac }) => {
    expect(toHex(hmacSha256(fromHex(key), fromHex(message)))).toBe(mac)
  })

  test('a prepared key gives the codes of the key, for every message', () => {
    fc.assert(
      fc.property(bytes, bytes, bytes, (key, one, two) => {
        const prepared = hmacKey(key)
        for (const message of [one, two, one]) {
          const expected = createHmac('sha256', key).update(message).digest('hex')
          expect(toHex(hmac(prepared, message))).toBe(expected)
        }
      }),
    )
  })
})

describe('words of a tree', () => {
  test('a leaf is SHA-256(0x00 || entry)', () => {
    for (let n = 0; n <= 200; n++) {
      const entry = Uint8Array.from({ length: n }, (_, i) => i + n)
      const words = new Int32Array(24)
      leafHashWords(entry, words, 8)
      expect(toHex(toBytes(words, 8))).toBe(node(Uint8Array.of(0, ...entry)))
      expect([words[7], words[16]]).toEqual([0, 0])
    }
  })

  test('a node is SHA-256(0x01 || left || right), also when it overwrites its children', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 64, maxLength: 64 }), (children) => {
        const words = new Int32Array(16)
        loadWords(children, 0, 2, words)
        nodeHashWords(words, 0, words, 0)
        expect(toHex(toBytes(words, 0))).toBe(node(Uint8Array.of(1, ...children)))
      }),
    )
  })

  test('words and bytes are the same hash', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 40, maxLength: 40 }), (data) => {
        const words = new Int32Array(8)
        loadWords(data, 8, 1, words)
        expect(toBytes(words, 0)).toEqual(data.slice(8))
      }),
    )
  })
})
