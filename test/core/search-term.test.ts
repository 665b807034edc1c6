import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { fromHex } from '#core/bytes.ts'
import { hashKey } from '#core/hash-key.ts'
import { keysOfHead, readSearchTerm, type SearchTerm } from '#core/search-term.ts'

const HASH = 'dc35b56196715c01af1290df9dcbe317844ac37f2885a75259190549bedbf4f5'

/** What a text means: its meanings that are not null. */
function meanings(text: string): Partial<SearchTerm> {
  const { text: _, ...rest } = readSearchTerm(text)
  return Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== null))
}

test.each([
  ['', {}],
  ['   ', {}],
  [HASH, { hash: HASH }],
  [HASH.toUpperCase(), { hash: HASH }],
  [`sha256:${HASH}`, { hash: HASH }],
  [`  0x${HASH}\n`, { hash: HASH }],
  ['sha256:dc35b5', { head: 'dc35b5' }],
  ['dc35b561…', { head: 'dc35b561', type: 'dc35b561…', subject: 'dc35b561…' }],
  ['dc35b561...', { head: 'dc35b561', type: 'dc35b561...', subject: 'dc35b561...' }],
  ['dc35b', { type: 'dc35b', subject: 'dc35b' }],
  ['17', { number: 17, type: '17', subject: '17' }],
  ['#17', { number: 17 }],
  ['0', { number: 0, type: '0', subject: '0' }],
  ['017', { type: '017', subject: '017' }],
  ['123456', { number: 123_456, head: '123456', type: '123456', subject: '123456' }],
  [
    '9007199254740993',
    { head: '9007199254740993', type: '9007199254740993', subject: '9007199254740993' },
  ],
  ['did:key:z6MkA', { source: 'did:key:z6MkA' }],
  ['did:key:z6MkA#z6MkA', { source: 'did:key:z6MkA' }],
  ['com.example.paid', { type: 'com.example.paid', subject: 'com.example.paid' }],
  ['type:17', { type: '17' }],
  ['subject: a b ', { subject: 'a b' }],
  ['source:did:web:x', { source: 'did:web:x' }],
  ['0xzz', {}],
])('%j means %j', (text, expected) => {
  expect(meanings(text)).toEqual(expected)
})

test('whatever is typed has a meaning or none, and never throws', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const term = readSearchTerm(text)
      expect(term.text).toBe(text.trim())
      if (term.hash !== null) expect(term.hash).toMatch(/^[0-9a-f]{64}$/)
      if (term.head !== null) expect(term.head).toMatch(/^[0-9a-f]{6,63}$/)
      if (term.number !== null) expect(Number.isSafeInteger(term.number)).toBe(true)
    }),
  )
})

test('the keys of a head are those of the hashes that begin with it, and of no hash that differs in 53 bits', () => {
  const digits = fc.array(fc.constantFrom(...Array.from('0123456789abcdef')), {
    minLength: 64,
    maxLength: 64,
  })
  fc.assert(
    fc.property(digits, digits, fc.integer({ min: 6, max: 63 }), (a, b, length) => {
      const head = a.slice(0, length).join('')
      const [first, last] = keysOfHead(head)
      const inside = hashKey(fromHex(head + b.slice(length).join('')))
      expect(inside).toBeGreaterThanOrEqual(first)
      expect(inside).toBeLessThanOrEqual(last)
      // 13 digits are 52 of the 53 bits.
      const other = hashKey(fromHex(b.join('')))
      const isSame = b.slice(0, Math.min(length, 13)).join('') === head.slice(0, 13)
      if (!isSame) expect(other < first || other > last).toBe(true)
    }),
  )
})
