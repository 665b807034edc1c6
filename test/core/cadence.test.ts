/**
 * What is suggested for the pace of a rail.
 */

import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { suggestCadence, type RailRecord } from '#core/cadence.ts'

const record = (more: Partial<RailRecord>): RailRecord => ({
  intervalMs: 3_600_000,
  isFree: false,
  confirmationMs: 4_200_000,
  failureRatio: 0,
  ...more,
})

test.each<readonly [string, Partial<RailRecord>, number, RegExp]>([
  [
    'nothing is suggested before an anchor is final',
    { confirmationMs: null },
    3_600_000,
    /is final yet/,
  ],
  [
    'nothing is suggested for a rail that fails',
    { failureRatio: 0.5 },
    3_600_000,
    /50 % of the newest attempts failed/,
  ],
  ['an interval below the confirmation grows to it', {}, 4_200_000, /takes 70 min to be final/],
  ['an interval that fits stays', { intervalMs: 7_200_000 }, 7_200_000, /which fits/],
  [
    'money is not spent on a suggestion',
    { confirmationMs: 1000 },
    3_600_000,
    /costs a fee each time/,
  ],
  [
    'a free rail is asked as often as it is quick',
    { isFree: true, confirmationMs: 60_000 },
    600_000,
    /costs nothing/,
  ],
  [
    'a stranger is not asked more than each minute',
    { isFree: true, confirmationMs: 300 },
    60_000,
    /takes 300 ms/,
  ],
])('%s', (_, more, suggestedMs, why) => {
  const cadence = suggestCadence(record(more))
  expect(cadence.suggestedMs).toBe(suggestedMs)
  expect(cadence.why).toMatch(why)
  expect(cadence.why).toMatch(/\.$/)
})

test('a suggestion is never shorter for money, never below the confirmation, and stands when it is followed', () => {
  const records = fc.record({
    intervalMs: fc.integer({ min: 100, max: 604_800_000 }),
    isFree: fc.boolean(),
    confirmationMs: fc.option(fc.integer({ min: 0, max: 200_000_000 })),
    failureRatio: fc.option(fc.double({ min: 0, max: 1, noNaN: true })),
  })
  fc.assert(
    fc.property(records, (rail) => {
      const { suggestedMs } = suggestCadence(rail)
      if (!rail.isFree) expect(suggestedMs).toBeGreaterThanOrEqual(rail.intervalMs)
      if (suggestedMs !== rail.intervalMs)
        expect(suggestedMs).toBeGreaterThanOrEqual(rail.confirmationMs!)
      expect(suggestCadence({ ...rail, intervalMs: suggestedMs }).suggestedMs).toBe(suggestedMs)
    }),
  )
})
