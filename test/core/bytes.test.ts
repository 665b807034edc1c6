import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  compareBytes,
  concat,
  equal,
  fromBase64,
  fromBase64Url,
  fromHex,
  fromUtf8,
  hashFromHex,
  toBase64,
  toBase64Url,
  toHex,
  utf8,
} from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import vectors from '../vectors/base64.json' with { type: 'json' }

const bytes = fc.uint8Array({ maxLength: 200 })

/** The refusal of `run` is always one code; any other throw fails the test. */
function refused(run: () => unknown): boolean {
  try {
    run()
    return false
  } catch (error) {
    if (!(error instanceof VaultMeshError && error.code === 'bad-encoding')) throw error
    return true
  }
}

describe('base64', () => {
  test.each(vectors.pairs as [string, string][])('of %j is %j', (text, encoded) => {
    const url = encoded.replaceAll('=', '').replaceAll('+', '-').replaceAll('/', '_')
    expect([toBase64(utf8(text)), toBase64Url(utf8(text))]).toEqual([encoded, url])
    expect([fromBase64(encoded), fromBase64Url(url)]).toEqual([utf8(text), utf8(text)])
  })

  test.each(vectors.badUrl)('refuses %j as base64url', (text) => {
    expect(refused(() => fromBase64Url(text))).toBe(true)
  })

  test.each(vectors.badStd)('refuses %j as padded base64', (text) => {
    expect(refused(() => fromBase64(text))).toBe(true)
  })

  test('is what Node writes, and comes back', () => {
    fc.assert(
      fc.property(bytes, (data) => {
        expect(toBase64Url(data)).toBe(Buffer.from(data).toString('base64url'))
        expect(toBase64(data)).toBe(Buffer.from(data).toString('base64'))
        expect(fromBase64Url(toBase64Url(data))).toEqual(data)
        expect(fromBase64(toBase64(data))).toEqual(data)
      }),
    )
  })

  test('has one text for one value: whatever decodes encodes to itself', () => {
    const near = fc
      .tuple(bytes, fc.nat(), fc.constantFrom(...'AB-_+/= \n.é\u0141'.split('')))
      .map(([b, at, c]) => {
        const text = toBase64Url(b)
        const i = at % (text.length + 1)
        return at % 2 === 0
          ? text.slice(0, i) + c + text.slice(i)
          : text.slice(0, i) + c + text.slice(i + 1)
      })
    const any = fc.oneof(near, fc.string(), fc.string({ unit: 'binary' }))
    fc.assert(
      fc.property(any, (text) => {
        if (!refused(() => fromBase64Url(text))) expect(toBase64Url(fromBase64Url(text))).toBe(text)
        if (!refused(() => fromBase64(text))) expect(toBase64(fromBase64(text))).toBe(text)
      }),
      { numRuns: 2000 },
    )
  })

  test('with any spare bit set in the last character is refused', () => {
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
    for (const head of ['', 'Zm9v']) {
      for (const [i, last] of alphabet.split('').entries()) {
        expect(refused(() => fromBase64Url(`${head}Z${last}`))).toBe(i % 16 !== 0)
        expect(refused(() => fromBase64Url(`${head}Zm${last}`))).toBe(i % 4 !== 0)
      }
    }
  })
})

describe('hex', () => {
  test('comes back, in either case', () => {
    fc.assert(
      fc.property(bytes, (data) => {
        expect(toHex(data)).toBe(Buffer.from(data).toString('hex'))
        expect(fromHex(toHex(data))).toEqual(data)
        expect(fromHex(toHex(data).toUpperCase())).toEqual(data)
      }),
    )
  })

  test.each(['0', 'g0', '0x00', ' 00', '00\n', '0é', '+1', '-1'])('refuses %j', (text) => {
    expect(refused(() => fromHex(text))).toBe(true)
  })

  test('of a hash has 64 lowercase digits, nothing else', () => {
    const good = 'ab'.repeat(32)
    expect(toHex(hashFromHex(good))).toBe(good)
    for (const bad of ['', good.slice(1), `${good}a`, `${good}ab`, good.toUpperCase(), `${good}\n`])
      expect(refused(() => hashFromHex(bad))).toBe(true)
  })
})

describe('UTF-8', () => {
  test('comes back; a BOM is kept', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme' }), (text) => {
        expect(fromUtf8(utf8(text))).toBe(text)
      }),
    )
    expect(fromUtf8(Uint8Array.of(0xef, 0xbb, 0xbf, 0x61))).toBe('\ufeffa')
  })

  test.each([
    ['a lone continuation byte', [0x80]],
    ['a cut sequence', [0xe2, 0x82]],
    ['an overlong slash', [0xc0, 0xaf]],
    ['a surrogate', [0xed, 0xa0, 0x80]],
    ['more than U+10FFFF', [0xf4, 0x90, 0x80, 0x80]],
    ['0xFF', [0x61, 0xff]],
  ])('with %s is refused', (_, data) => {
    expect(refused(() => fromUtf8(Uint8Array.from(data)))).toBe(true)
  })
})

test('concat is the bytes in order', () => {
  fc.assert(
    fc.property(fc.array(bytes), (parts) => {
      expect(concat(...parts)).toEqual(Uint8Array.from(parts.flatMap((part) => [...part])))
    }),
  )
})

test('equal is true for the same bytes only, and compareBytes orders as Buffer does', () => {
  const close = fc.tuple(bytes, fc.nat()).map(([a, at]): [Uint8Array, Uint8Array] => {
    const b = a.slice()
    if (b.length > 0) b[at % b.length]! ^= 1
    return [a, at % 3 === 0 ? a.slice(0, -1) : b]
  })
  fc.assert(
    fc.property(fc.oneof(close, fc.tuple(bytes, bytes)), ([a, b]) => {
      expect(equal(a, a.slice())).toBe(true)
      expect(equal(a, b)).toBe(Buffer.compare(a, b) === 0)
      expect(Math.sign(compareBytes(a, b))).toBe(Buffer.compare(a, b))
    }),
  )
})
