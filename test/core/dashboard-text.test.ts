/**
 * What pages make of text, numbers and moments; of strangers' text above all.
 */

import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { fromHex, toHex } from '#core/bytes.ts'
import { inclusionLevels } from '#core/inclusion-proof.ts'
import { leafHash, nodeHash } from '#core/merkle.ts'
import { Series } from '../../functions/dashboard/chart.tsx'
import { indentJson } from '../../functions/dashboard/json-text.ts'
import { MerklePath } from '../../functions/dashboard/merkle-path.tsx'
import { Table } from '../../functions/dashboard/parts.tsx'
import {
  abridged,
  bytes,
  Code,
  count,
  duration,
  plural,
  relative,
  Said,
  Time,
  visibleText,
} from '../../functions/dashboard/text.tsx'

/** Bidi controls and isolates, zero width, soft hyphen, tags, separators, NUL, an unpaired surrogate, a filler. */
const UNSEEN = [
  '\u202e',
  '\u202a',
  '\u2066',
  '\u2069',
  '\u200f',
  '\u061c',
  '\u200b',
  '\u2060',
  '\ufeff',
  '\u00ad',
  '\u{e0041}',
  '\u2028',
  '\u0000',
  '\u001b',
  '\ud800',
  '\u3164',
]

test.each(UNSEEN)(
  'a character that cannot be seen (%j) is shown by its code point',
  (character) => {
    const name = `U+${character.codePointAt(0)!.toString(16).toUpperCase().padStart(4, '0')}`
    expect(visibleText(`a${character}b`)).toBe(`a⟨${name}⟩b`)
    const shown = String(Said({ text: `a${character}b` }))
    expect(shown).not.toContain(character)
    expect(shown).toContain(`<span class="invisible">${name}</span>`)
  },
)

test('text of a stranger stays text, in elements and in attributes', () => {
  const hostile = `"><script>alert(1)</script><img src=x onerror='a()'>&amp;`
  for (const shown of [
    String(Said({ text: hostile })),
    String(Said({ text: hostile, max: 5 })),
    String(Code({ value: hostile, short: true, copy: true })),
    String(Table({ caption: hostile, columns: [{ head: hostile }], rows: [[hostile]], empty: '' })),
  ]) {
    expect(shown).not.toMatch(/<script|<img|onerror='|&(?!(?:amp|lt|gt|quot|#39);)/)
    expect(shown).toContain('&lt;')
  }
})

test('a text of any length is cut to whole characters, and the whole of it stands in the title', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'grapheme', maxLength: 60 }), fc.nat(40), (text, max) => {
      const shown = String(Said({ text, max: max + 1 }))
      expect(shown.isWellFormed()).toBe(true)
      expect(shown.includes('…') || shown.includes('title=') || text.includes('…')).toBe(
        Array.from(text).length > max + 1 || text.includes('…'),
      )
    }),
  )
})

test.each([
  [`sha256:${'ab'.repeat(32)}`, 'abababab…ababab'],
  [`0x${'12'.repeat(32)}`, '0x12121212…121212'],
  ['did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp', 'did:key:z6MkiTBz…mDooWp'],
  [
    'did:pkh:eip155:1:0xab16a96d359ec26a11e2c2b3d8f8b8942d5bfcdb',
    'did:pkh:eip155:1:0xab16a96d…5bfcdb',
  ],
  ['short', 'short'],
])('%s is abridged to %s', (value, expected) => {
  expect(abridged(value)).toBe(expected)
})

test.each([
  [0, '0 ms'],
  [999, '999 ms'],
  [1000, '1 s'],
  [59_999, '59 s'],
  [61_000, '1 min 1 s'],
  [600_000, '10 min'],
  [3_600_000, '1 h'],
  [5_400_000, '1 h 30 min'],
  [90_000_000, '1 d 1 h'],
  [1e12, '11574 d'],
])('%d ms are %s', (ms, expected) => {
  expect(duration(ms)).toBe(expected)
})

test('a moment is said as a span and exactly, before and after now', () => {
  const at = Date.UTC(2026, 10, 23, 10, 44, 31, 123)
  expect(relative(at, at + 500)).toBe('now')
  expect(relative(at, at + 65_000)).toBe('1 min 5 s ago')
  expect(relative(at, at - 65_000)).toBe('in 1 min 5 s')
  expect(String(Time({ at, nowAt: at + 7_200_000 }))).toBe(
    '<time datetime="2026-11-23T10:44:31.123Z"><span class="ago">2 h ago</span> <span class="iso">2026-11-23 10:44:31Z</span></time>',
  )
})

test('numbers are grouped by thin spaces, and one is no plural', () => {
  expect(count(1_234_567)).toBe('1\u202f234\u202f567')
  expect(count(123)).toBe('123')
  expect(plural(1, 'batch', 'batches')).toBe('1 batch')
  expect(plural(0, 'event')).toBe('0 events')
  expect([bytes(0), bytes(999), bytes(1000), bytes(65_535), bytes(4_200_000)]).toEqual([
    '0 B',
    '999 B',
    '1.0 kB',
    '65.5 kB',
    '4.2 MB',
  ])
})

test('indented JSON is the JSON that was there, with its own digits and order', () => {
  fc.assert(
    fc.property(fc.json(), (text) => {
      const shown = indentJson(text)
      expect(JSON.parse(shown)).toEqual(JSON.parse(text))
      expect(shown).toBe(JSON.stringify(JSON.parse(text), null, 2))
    }),
    { examples: [['{"a":[],"b":{},"c":"\\"{[,:"}'], ['[1,[2,[3]]]']] },
  )
  expect(indentJson('{"b":12345678901234567890.10,"a":1E400}')).toBe(
    '{\n  "b": 12345678901234567890.10,\n  "a": 1E400\n}',
  )
})

test('what nests without end is not indented without end, and what is no JSON is shown all the same', () => {
  const deep = '['.repeat(20_000)
  expect(indentJson(deep).length).toBeLessThan(80 * deep.length)
  expect(indentJson('{"a')).toBe('{\n  "a')
  expect(indentJson(']}x')).toContain('x')
})

test('a line over time has its gaps, its limit, and a table with the same figures', () => {
  const nowAt = Date.UTC(2026, 0, 1)
  const points = [0.9, 0.8, null, 0.4].map((value, i) => ({ at: nowAt - (3 - i) * 60_000, value }))
  const marks = [{ at: nowAt - 60_000, what: 'nigredo' }]
  const shown = String(
    Series({ title: 'Ψ', unit: 'Ψ', points, nowAt, min: 0, max: 1, limit: 0.5, marks }),
  )
  expect(shown.match(/class="line"/g)).toHaveLength(2)
  expect(shown).toMatch(/class="limit" x1="0" x2="1000" y1="50\.0"/)
  for (const cell of ['0.90', '0.80', 'none', '0.40', 'nigredo'])
    expect(shown).toContain(`>${cell}<`)
  expect(shown).toMatch(/role="img" aria-label="Ψ: 0\.40 now, between 0\.40 and 0\.90 since 2025/)
  expect(shown).not.toMatch(/style=/)
  expect(String(Series({ title: 'Ψ', unit: 'Ψ', points: [], nowAt }))).toContain('Fewer than two')
})

test('the drawn path ends in the root, for every leaf of small trees', () => {
  const leaves = Array.from({ length: 7 }, (_, i) => leafHash(new Uint8Array([i])))
  for (let size = 1; size <= leaves.length; size++) {
    for (let index = 0; index < size; index++) {
      const proof = pathOf(leaves.slice(0, size), index)
      const levels = inclusionLevels({ index, size, leafHash: leaves[index]!, proof })
      const drawn = String(
        MerklePath({ leafHash: toHex(leaves[index]!), leafIndex: index, treeSize: size, levels }),
      )
      const root = toHex(rootOf(leaves.slice(0, size)))
      expect(drawn).toContain(`>root ${root.slice(0, 8)}…<`)
      for (const sibling of proof) expect(drawn).toContain(`${toHex(sibling).slice(0, 12)}…`)
      expect(drawn.match(/class="sibling"/g)?.length ?? 0).toBe(proof.length)
    }
  }
})

/** RFC 6962 §2.1 by its own words. */
function rootOf(list: readonly Uint8Array[]): Uint8Array {
  if (list.length === 1) return list[0]!
  const k = splitOf(list.length)
  return nodeHash(rootOf(list.slice(0, k)), rootOf(list.slice(k)))
}

/** RFC 6962 §2.1.1. */
function pathOf(list: readonly Uint8Array[], index: number): Uint8Array[] {
  if (list.length === 1) return []
  const k = splitOf(list.length)
  return index < k
    ? [...pathOf(list.slice(0, k), index), rootOf(list.slice(k))]
    : [...pathOf(list.slice(k), index - k), rootOf(list.slice(0, k))]
}

function splitOf(n: number): number {
  return 2 ** Math.floor(Math.log2(n - 1))
}

const TURNS_OR_HIDES = /[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}]/u

test('every text of hostile bytes is shown without a character that could turn or hide its neighbours', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      expect(TURNS_OR_HIDES.test(visibleText(text))).toBe(false)
      expect(visibleText(visibleText(text))).toBe(visibleText(text))
    }),
    { examples: [['\u202eabc'], [String.fromCodePoint(0xe0001)]] },
  )
  expect(visibleText(toHex(fromHex('00ff')))).toBe('00ff')
})
