import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { isoTime, parseTime } from '#core/time.ts'
import vectors from '../vectors/time.json' with { type: 'json' }

const YEAR_0 = Date.parse('0000-01-01T00:00:00Z')
const YEAR_9999 = Date.parse('9999-12-31T23:59:59.999Z')
const moment = fc.integer({ min: YEAR_0, max: YEAR_9999 })

describe('a time', () => {
  test.each(vectors.good as [string, string][])('reads %s as %s', (text, utc) => {
    expect(isoTime(parseTime(text)!)).toBe(utc)
  })

  test.each(vectors.bad)('refuses %j', (text) => {
    expect(parseTime(text)).toBeNull()
  })

  test('written and read again is the same moment', () => {
    fc.assert(
      fc.property(moment, (at) => {
        expect(parseTime(isoTime(at))).toBe(at)
      }),
    )
  })

  test('written with any offset is the same moment', () => {
    const offset = fc.integer({ min: -1439, max: 1439 })
    fc.assert(
      fc.property(moment, offset, (at, minutes) => {
        const local = at + minutes * 60_000
        fc.pre(local >= YEAR_0 && local <= YEAR_9999)
        const [h, m] = [Math.floor(Math.abs(minutes) / 60), Math.abs(minutes) % 60]
        const zone = `${minutes < 0 ? '-' : '+'}${String(h).padStart(2, '0')}:${String(m).padStart(2, '0')}`
        expect(parseTime(isoTime(local).replace('Z', zone))).toBe(at)
      }),
    )
  })

  test('that is read can be written and read again, and Date agrees', () => {
    const two = fc.integer({ min: 0, max: 99 }).map((n) => String(n).padStart(2, '0'))
    const year = fc.integer({ min: 0, max: 9999 }).map((n) => String(n).padStart(4, '0'))
    const text = fc
      .tuple(year, two, two, two, two, two)
      .map(([y, mo, d, h, mi, s]) => `${y}-${mo}-${d}T${h}:${mi}:${s}Z`)
    fc.assert(
      fc.property(fc.oneof(text, fc.string()), (input) => {
        const at = parseTime(input)
        if (at === null) return
        expect(parseTime(isoTime(at))).toBe(at)
        // Date knows no second 60 and no lowercase.
        if (!/:60/.test(input)) expect(at).toBe(Date.parse(input))
      }),
      { numRuns: 3000 },
    )
  })
})
