import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fromHex, toHex, utf8 } from '#core/bytes.ts'
import { canonicalJson } from '#core/canonical-json.ts'
import { VaultMeshError } from '#core/errors.ts'
import { MAX_JSON_DEPTH, parseStrictJson } from '#core/strict-json.ts'
import vectors from '../vectors/jcs.json' with { type: 'json' }

function refused(value: unknown): boolean {
  try {
    canonicalJson(value)
    return false
  } catch (error) {
    if (!(error instanceof VaultMeshError && error.code === 'bad-encoding')) throw error
    return true
  }
}

/** `depth` arrays within each other. */
function nested(depth: number): unknown {
  let value: unknown = []
  for (let i = 1; i < depth; i++) value = [value]
  return value
}

const json = fc.jsonValue({ maxDepth: 6, noUnicodeString: false })

describe('RFC 8785', () => {
  test.each(vectors.numbers as [string, string | null][])(
    'the double %s is written %s',
    (hex, text) => {
      const number = new DataView(fromHex(hex).buffer as ArrayBuffer).getFloat64(0)
      if (text === null) expect(refused(number)).toBe(true)
      else expect(canonicalJson(number)).toBe(text)
    },
  )

  test.each(vectors.texts as [string, string][])('%s has one canonical text', (text, canonical) => {
    expect(canonicalJson(JSON.parse(text))).toBe(canonical)
  })

  test('the sample object of §3.2.2 has the bytes of §3.2.4', () => {
    const text = canonicalJson(JSON.parse(vectors.texts[0]![0]!))
    expect(toHex(utf8(text))).toBe(vectors.bytes)
  })

  test('keys are in the order of their UTF-16 code units, so a smiley is before U+FB33', () => {
    const text = canonicalJson(JSON.parse(vectors.keyOrder.text))
    expect(text.match(/(?<=:")[^"]+/g)).toEqual(vectors.keyOrder.values)
  })
})

describe('a canonical text', () => {
  test('reads back as the value it was made of, and is the canonical text of that', () => {
    fc.assert(
      fc.property(json, (value) => {
        const text = canonicalJson(value)
        const back: unknown = JSON.parse(text)
        // JSON knows no -0.
        expect(back).toEqual(JSON.parse(JSON.stringify(value)))
        expect(canonicalJson(back)).toBe(text)
      }),
      { numRuns: 1000 },
    )
  })

  test('does not depend on the order in which keys were set', () => {
    const entries = fc.uniqueArray(fc.tuple(fc.string({ unit: 'grapheme' }), json), {
      selector: ([key]) => key,
    })
    fc.assert(
      fc.property(entries, fc.infiniteStream(fc.nat()), (members, picks) => {
        const shuffled = members
          .map((member) => ({ member, at: picks.next().value as number }))
          .sort((a, b) => a.at - b.at)
          .map(({ member }) => member)
        const text = canonicalJson(Object.fromEntries(members))
        expect(canonicalJson(Object.fromEntries(shuffled))).toBe(text)
      }),
      { numRuns: 500 },
    )
  })

  test('differs for values that differ', () => {
    fc.assert(
      fc.property(json, json, (a, b) => {
        // Through JSON once, so that 0 and -0 are one value.
        const same = JSON.stringify(sortedKeys(a)) === JSON.stringify(sortedKeys(b))
        expect(canonicalJson(a) === canonicalJson(b)).toBe(same)
      }),
      { numRuns: 1000 },
    )
  })

  test('has the key __proto__ like any other', () => {
    const value: unknown = JSON.parse('{"b":1,"__proto__":{"a":2}}')
    expect(canonicalJson(value)).toBe('{"__proto__":{"a":2},"b":1}')
  })

  test('escapes control characters only: what RFC 8785 §3.2.2.2 leaves as it is stays', () => {
    expect(canonicalJson('\b\t\n\f\r\u0000\u001f"\\')).toBe(
      String.raw`"\b\t\n\f\r\u0000\u001f\"\\"`,
    )
    expect(canonicalJson('/\u007f\u0080\u2028\u2029\ufeff')).toBe(
      '"/\u007f\u0080\u2028\u2029\ufeff"',
    )
  })

  test('takes an object without prototype, and all that strict JSON reads', () => {
    expect(canonicalJson(Object.assign(Object.create(null), { a: 1 }))).toBe('{"a":1}')
    const deepest = '['.repeat(MAX_JSON_DEPTH) + ']'.repeat(MAX_JSON_DEPTH)
    expect(canonicalJson(parseStrictJson(deepest))).toBe(deepest)
  })
})

describe('what JSON cannot hold is refused, not dropped', () => {
  class Point {
    readonly x = 1
  }
  const cycle: Record<string, unknown> = {}
  cycle['self'] = { list: [cycle, cycle] }
  const wide: unknown[] = []
  wide.push(wide, wide, wide)

  test.each([
    ['NaN', NaN],
    ['Infinity', Infinity],
    ['undefined', undefined],
    ['a bigint', 1n],
    ['a symbol', Symbol('x')],
    ['a function', () => 1],
    ['a lone high surrogate', 'a\ud800'],
    ['a lone low surrogate', '\udc00'],
    ['surrogates the wrong way round', '\ude00\ud83d'],
    ['a date', new Date(0)],
    ['a map', new Map([['a', 1]])],
    ['bytes', new Uint8Array(2)],
    ['a boxed number', Object(1)],
    ['an object of a class', new Point()],
    ['a cycle', cycle],
    ['a cycle that branches', wide],
    ['too deep an array', nested(MAX_JSON_DEPTH + 1)],
  ])('%s', (_name, value) => {
    expect(refused(value)).toBe(true)
    expect(refused([value])).toBe(true)
    expect(refused({ a: { b: value } })).toBe(true)
  })

  test('a key with a lone surrogate', () => {
    expect(refused({ '\ud800': 1 })).toBe(true)
  })

  test('a hole in an array', () => {
    // oxlint-disable-next-line no-sparse-arrays
    expect(refused([1, , 2])).toBe(true)
  })

  test('an object that would write itself by toJSON', () => {
    expect(refused({ toJSON: () => ({ a: 1 }) })).toBe(true)
  })

  test('and the deepest that is allowed is not', () => {
    expect(refused(nested(MAX_JSON_DEPTH))).toBe(false)
  })

  test('any text with a lone surrogate anywhere', () => {
    const text = fc.tuple(
      fc.string({ unit: 'grapheme' }),
      fc.integer({ min: 0xd800, max: 0xdfff }),
      fc.string({ unit: 'grapheme' }),
    )
    fc.assert(
      fc.property(text, ([before, unit, after]) => {
        // Graphemes hold whole pairs, so one unit more is alone.
        const value = before + String.fromCharCode(unit) + after
        expect(refused(value)).toBe(true)
        expect(refused({ [value]: null })).toBe(true)
      }),
    )
  })
})

/** A second, naive way to one order of keys; objects stay apart from lists. */
function sortedKeys(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(sortedKeys)
  if (typeof value !== 'object' || value === null) return value
  const entries = Object.entries(value).map(([key, item]) => [key, sortedKeys(item)] as const)
  return { members: entries.sort(([a], [b]) => (a < b ? -1 : 1)) }
}
