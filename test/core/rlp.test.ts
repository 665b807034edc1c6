import * as oracle from '@ethereumjs/rlp'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { concat, fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { RlpItem } from '#core/rlp.ts'
import {
  MAX_RLP_BYTES,
  MAX_RLP_DEPTH,
  decodeRlp,
  encodeRlp,
  integerOf,
  integerToBytes,
} from '#core/rlp.ts'
import vectors from '../vectors/ethereum.json' with { type: 'json' }

type Hex = string | readonly Hex[]
const bytes = (hex: string): Uint8Array => fromHex(hex.slice(2))
const itemOf = (hex: Hex): RlpItem => (typeof hex === 'string' ? bytes(hex) : hex.map(itemOf))
const hexOf = (item: RlpItem): Hex =>
  item instanceof Uint8Array ? '0x' + toHex(item) : item.map(hexOf)
const nested = (depth: number): Uint8Array => {
  let item: RlpItem = []
  for (let i = 1; i < depth; i++) item = [item]
  return encodeRlp(item)
}

const anyItem = fc.letrec<{ item: RlpItem }>((tie) => ({
  item: fc.oneof(
    { depthSize: 'small', maxDepth: 6 },
    fc.uint8Array({ maxLength: 70 }),
    fc.uint8Array({ maxLength: 1 }),
    fc.array(tie('item'), { maxLength: 6 }),
  ),
})).item

function refusal(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    expect([error.code, error.extra]).toEqual(['bad-proof', { check: 'rlp' }])
    return error.message
  }
  return 'accepted'
}

describe('the vectors of ethereum/tests', () => {
  test.each(vectors.rlp)('$name is written and read', ({ item, encoded }) => {
    expect(toHex(encodeRlp(itemOf(item as Hex)))).toBe(encoded.slice(2))
    expect(hexOf(decodeRlp(bytes(encoded)))).toEqual(item)
  })

  test.each(vectors.invalidRlp)('$name is refused', ({ encoded }) => {
    expect(refusal(() => decodeRlp(bytes(encoded)))).toMatch(/^rlp: .+\.$/)
  })
})

describe('decodeRlp', () => {
  test.each([
    ['', 'the item is cut short'],
    ['0000', 'bytes follow the end of the item'],
    ['83aabb', 'the item is cut short'],
    ['c281', 'the item is cut short'],
    ['c18180', 'the item is cut short'],
    ['b8', 'the item is cut short'],
    ['b900', 'a length has a leading zero'],
    ['bfffffffffffffffff', 'the item is cut short'],
    ['8100', 'a byte below 0x80 must stand bare'],
    ['817f', 'a byte below 0x80 must stand bare'],
    ['b837' + 'aa'.repeat(55), 'a length is not minimal'],
    ['f837' + '01'.repeat(55), 'a length is not minimal'],
    ['c0c0', 'bytes follow the end of the item'],
  ])('refuses %s', (hex, reason) => {
    expect(refusal(() => decodeRlp(fromHex(hex)))).toBe(`rlp: ${reason}.`)
  })

  test('reads lengths on either side of 55 and 255', () => {
    for (const n of [54, 55, 56, 57, 255, 256, 65_535, 65_536]) {
      const value = new Uint8Array(n).fill(0xee)
      expect(decodeRlp(encodeRlp(value))).toEqual(value)
      const list = Array.from({ length: n }, () => Uint8Array.of(1))
      expect(decodeRlp(encodeRlp(list))).toEqual(list)
    }
  })

  test('a child that reaches beyond its list is refused though bytes are there', () => {
    expect(refusal(() => decodeRlp(fromHex('c2c281aabb')))).toMatch(/cut short/)
    expect(refusal(() => decodeRlp(fromHex('c4c183aabbcc')))).toMatch(/cut short/)
  })

  test('nesting is read to its limit and no deeper', () => {
    expect(toHex(encodeRlp(decodeRlp(nested(MAX_RLP_DEPTH))))).toBe(toHex(nested(MAX_RLP_DEPTH)))
    expect(refusal(() => decodeRlp(nested(MAX_RLP_DEPTH + 1)))).toBe(
      'rlp: lists are nested deeper than 16.',
    )
    // One that would break the stack of a reader without limit.
    let deep: Uint8Array = Uint8Array.of(0xc0)
    for (let i = 0; i < 2000; i++) {
      const n = integerToBytes(deep.length)
      const head = deep.length <= 55 ? [0xc0 + deep.length] : [0xf7 + n.length, ...n]
      deep = concat(Uint8Array.from(head), deep)
    }
    expect(refusal(() => decodeRlp(deep))).toMatch(/deeper/)
  })

  test('size is read to its limit and no further', () => {
    const most = encodeRlp(new Uint8Array(MAX_RLP_BYTES - 4))
    expect(most.length).toBe(MAX_RLP_BYTES)
    expect(decodeRlp(most)).toHaveLength(MAX_RLP_BYTES - 4)
    expect(refusal(() => decodeRlp(encodeRlp(new Uint8Array(MAX_RLP_BYTES - 3))))).toBe(
      'rlp: 1048577 bytes, at most 1048576 are read.',
    )
  })

  test('what is written is read back, as @ethereumjs/rlp writes it', () => {
    fc.assert(
      fc.property(anyItem, (item) => {
        const encoded = encodeRlp(item)
        expect(toHex(encoded)).toBe(toHex(oracle.encode(item as oracle.Input)))
        expect(hexOf(decodeRlp(encoded))).toEqual(hexOf(item))
      }),
      { numRuns: 300 },
    )
  })

  test('arbitrary bytes are refused in our words, or are exactly what encoding gives', () => {
    const start = fc.constantFrom(0x00, 0x7f, 0x80, 0x81, 0xb7, 0xb8, 0xbf, 0xc0, 0xc3, 0xf7, 0xf8)
    const noise = fc.tuple(start, fc.uint8Array({ maxLength: 80 }))
    fc.assert(
      fc.property(noise, ([first, rest]) => {
        const input = concat(Uint8Array.of(first), rest)
        let item: RlpItem
        try {
          item = decodeRlp(input)
        } catch (error) {
          expect(error).toBeInstanceOf(VaultMeshError)
          return
        }
        expect(toHex(encodeRlp(item))).toBe(toHex(input))
      }),
      { numRuns: 2000 },
    )
  })

  test('any bit flip gives another item or a refusal', () => {
    fc.assert(
      fc.property(anyItem, fc.nat(), fc.nat(7), (item, at, bit) => {
        const encoded = encodeRlp(item)
        encoded[at % encoded.length]! ^= 1 << bit
        let other: RlpItem | null = null
        try {
          other = decodeRlp(encoded)
        } catch (error) {
          expect(error).toBeInstanceOf(VaultMeshError)
        }
        if (other !== null) expect(hexOf(other)).not.toEqual(hexOf(item))
      }),
      { numRuns: 500 },
    )
  })
})

describe('encodeRlp', () => {
  test('hands out bytes of its own', () => {
    const one = Uint8Array.of(5)
    encodeRlp(one)[0] = 9
    expect(one).toEqual(Uint8Array.of(5))
  })
})

describe('integers', () => {
  test('are big-endian without leading zeros, and come back', () => {
    expect(integerToBytes(0)).toEqual(new Uint8Array(0))
    expect(integerToBytes(1024)).toEqual(Uint8Array.of(4, 0))
    fc.assert(
      fc.property(fc.bigInt(0n, 2n ** 256n - 1n), (n) => {
        expect(integerOf(integerToBytes(n), 'n')).toBe(n)
      }),
    )
  })

  test.each<[string, RlpItem | undefined, string]>([
    ['absent', undefined, 'is missing or a list'],
    ['a list', [], 'is missing or a list'],
    ['zero-padded', Uint8Array.of(0, 1), 'has a leading zero'],
    ['a zero byte', Uint8Array.of(0), 'has a leading zero'],
    ['too long', new Uint8Array(33).fill(1), 'is longer than 32 bytes'],
  ])('refuses one that is %s', (_, item, reason) => {
    expect(refusal(() => integerOf(item, 'n'))).toBe(`rlp: n ${reason}.`)
  })
})
