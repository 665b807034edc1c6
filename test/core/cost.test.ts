import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { monthly, PRICES, type Operations } from '../../scripts/bench/cost.ts'

const nothing: Operations = {
  requests: 0,
  queueInvocations: 0,
  crons: 0,
  doRequests: 0,
  alarms: 0,
  doRowsRead: 0,
  doRowsWritten: 0,
  doActiveMs: 0,
  d1Queries: 0,
  d1RowsRead: 0,
  d1RowsWritten: 0,
  r2ClassA: 0,
  r2ClassB: 0,
  r2BytesPut: 0,
  queueOperations: 0,
  subrequests: 0,
  cpuMs: 0,
}
const model = {
  rate: 100,
  intake: nothing,
  perEvent: nothing,
  perSeal: nothing,
  day: nothing,
  stored: { d1: 0, objects: 0, r2: 0 },
}

test('what is within the plan costs nothing more', () => {
  const day: Operations = { ...nothing, requests: 333_333, d1RowsWritten: 1_666_666 }
  for (const cost of Object.values(monthly({ ...model, day }))) expect(cost).toBe(0)
})

test('five rows an event at a hundred events a second are $1,246 a month', () => {
  // 100/s × 2,592,000 s × 5 rows = 1,296 M; less 50 M that are included, a dollar a million.
  const bill = monthly({ ...model, perEvent: { ...nothing, d1RowsWritten: 5 } })
  expect(bill.rows).toBeCloseTo(1246, 6)
})

test('a seal is paid for each 5,000 events, or each two minutes where there are fewer', () => {
  const perSeal: Operations = { ...nothing, r2ClassA: 1000 }
  const seals = (rate: number): number =>
    (monthly({ ...model, rate, perSeal }).r2 / PRICES.r2ClassA.per + PRICES.r2ClassA.included) /
    1000
  expect(seals(1000)).toBeCloseTo(518_400, 3)
  expect(seals(1)).toBeCloseTo(21_600, 3)
})

test('docs/cost.md has the prices that are computed with', () => {
  const page = readFileSync(new URL('../../docs/cost.md', import.meta.url), 'utf8')
  const dollars = (million: number): string => million.toFixed(million < 0.01 ? 3 : 2)
  for (const { per } of [
    PRICES.requests,
    PRICES.cpuMs,
    PRICES.doRequests,
    PRICES.doGbSeconds,
    PRICES.rowsRead,
    PRICES.rowsWritten,
    PRICES.r2ClassA,
    PRICES.r2ClassB,
    PRICES.queueOperations,
  ])
    expect(page).toContain(dollars(per * 1e6))
  expect(page).toContain(`${PRICES.d1Gb.per}, 0.20, ${PRICES.r2Gb.per} a GB-month`)
})
