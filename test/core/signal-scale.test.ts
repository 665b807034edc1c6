/**
 * From a value to x: −1 as good as can be, 0 at the limit, +1 as bad as can be, and never a NaN.
 */

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { HOLD_MS, limitOf, scale, subsystemOf, valueOf, type Loads } from '#core/signal-scale.ts'
import {
  SIGNAL_NAMES,
  SIGNALS,
  type Expect,
  type SignalName,
  type Signals,
} from '#core/telemetry.ts'

const promises: Expect = {
  seal_s: 120,
  anchor_btc_s: 7800,
  anchor_evm_s: 4560,
  anchor_tsa_s: 65,
  backlog: 500_000,
}
const nothing = Object.fromEntries(SIGNAL_NAMES.map((name) => [name, null])) as Signals

/** x of one signal that is alone, and what is remembered. */
function one(
  name: SignalName,
  value: number | null,
  {
    before = {},
    at = 0,
    expect: e = promises,
  }: { before?: Loads; at?: number; expect?: Expect } = {},
) {
  const { x, loads } = scale({ at, expect: e, signals: { ...nothing, [name]: value } }, before)
  return { x: x[SIGNAL_NAMES.indexOf(name)]!, loads }
}

/** x of a ratio that was `values`, one after the other. */
function lasting(name: SignalName, values: readonly (number | null)[]): number | null {
  let before: Loads = {}
  let x: number | null = null
  for (const value of values) ({ x, loads: before } = one(name, value, { before }))
  return x
}

const ratios = [
  'reject_ratio',
  'seal_retry_ratio',
  'anchor_failure_ratio',
  'peer_agreement',
] as const
const plain = SIGNAL_NAMES.filter((name) => !ratios.some((ratio) => ratio === name))

describe('a signal on its scale', () => {
  test.each<[SignalName, number, number]>([
    ['seal_latency_p50_s', 361, 0],
    ['seal_latency_p95_s', 2 * 361, 0.6],
    ['checkpoint_age_s', 241, 0],
    ['queue_backlog', 250_000, 0],
    ['queue_backlog', 500_000, 0.6],
    ['dead_letters', 1, -0.98],
    ['dead_letters', 10, 0],
    ['anchor_lag_btc_s', 11_705, 0],
    ['anchor_lag_btc_s', 3 * 11_705, 0.8],
    ['anchor_lag_evm_s', 6845, 0],
    ['anchor_lag_tsa_s', 102.5, 0],
    ['anchor_lag_tsa_s', 0, -1],
    ['peer_lag', 5.25, 0],
  ])('%s of %d stands at x = %d', (name, value, x) => {
    expect(one(name, value).x).toBeCloseTo(x, 2)
  })

  test('has its limit where x is 0, and every x back as a value', () => {
    const x = fc.double({ min: -1, max: 0.999, noNaN: true })
    for (const name of plain) {
      expect(one(name, limitOf(name, promises)).x).toBeCloseTo(0, 6)
      fc.assert(
        fc.property(x, (there) => {
          const back = one(name, valueOf(name, there, promises)).x!
          expect(back).toBeCloseTo(name === 'intake_rate' ? Math.min(0, there) : there, 6)
        }),
      )
    }
    for (const name of ratios)
      expect(lasting(name, Array(100).fill(limitOf(name, promises)))).toBeCloseTo(0, 6)
  })

  test('is never bad for a mere rate of intake', () => {
    expect(one('intake_rate', 500_000 / 120).x).toBeCloseTo(0, 9)
    expect(one('intake_rate', 1e9).x).toBe(0)
  })

  test('moves with its promise: what is late for one node is early for another', () => {
    const slow = { ...promises, seal_s: 600 }
    expect(one('checkpoint_age_s', 500).x).toBeGreaterThan(0.5)
    expect(one('checkpoint_age_s', 500, { expect: slow }).x).toBeLessThan(-0.5)
  })

  test('tells of one of four subsystems', () => {
    expect(new Set(SIGNAL_NAMES.map(subsystemOf))).toEqual(
      new Set(['intake', 'seal', 'anchor', 'peers']),
    )
  })

  test('never falls when the value gets worse, and is in −1 … 1 for any number and promise', () => {
    const number = fc.oneof(fc.double(), fc.constantFrom(0, -1, 1e300, Infinity, -Infinity, NaN))
    const hostile = fc.record({
      seal_s: number,
      anchor_btc_s: number,
      anchor_evm_s: number,
      anchor_tsa_s: number,
      backlog: number,
    })
    const mean = fc.record({ load: fc.double({ min: 0, max: 1, noNaN: true }), at: fc.constant(0) })
    fc.assert(
      fc.property(
        fc.constantFrom(...SIGNAL_NAMES),
        ...([number, number, hostile, mean] as const),
        (name, a, b, e, smoothed) => {
          const before = { [name]: smoothed }
          const [x, y] = [a, b].map((value) => one(name, value, { before, expect: e }).x) as [
            number | null,
            number | null,
          ]
          for (const one_ of [x, y])
            expect(one_ === null || (one_ >= -1 && one_ <= 1), `${name} ${one_}`).toBe(true)
          // NaN is no value, and what is held then was not said.
          if (x === null || y === null || Number.isNaN(a) || Number.isNaN(b)) return
          const isWorse = name === 'peer_agreement' ? a <= b : a >= b
          expect(isWorse ? x >= y : x <= y).toBe(true)
          for (const there of [x, y]) {
            const back = valueOf(name, there, e)
            expect(back >= SIGNALS[name].min && back <= SIGNALS[name].max).toBe(true)
          }
        },
      ),
      { numRuns: 1000 },
    )
  })
})

describe('a ratio', () => {
  test.each<[SignalName, number]>([
    ['reject_ratio', 1],
    ['seal_retry_ratio', 1],
    ['anchor_failure_ratio', 1],
    // One rail of three.
    ['anchor_failure_ratio', 1 / 3],
    ['peer_agreement', 0],
    ['peer_agreement', 0.5],
  ])('%s of %d costs nothing once and is bad twice running', (name, bad) => {
    expect(lasting(name, [bad])).toBeLessThan(1e-9)
    expect(lasting(name, [bad, bad])).toBeGreaterThan(0.35)
  })

  test('of peers is a dent while one of three is gone, however long', () => {
    const x = lasting('peer_agreement', Array(100).fill(2 / 3))!
    expect(x).toBeGreaterThan(0)
    expect(x).toBeLessThan(0.3)
    expect(lasting('peer_agreement', Array(100).fill(3 / 4))).toBeLessThan(1e-9)
  })

  test('of attempts stays while nothing is tried, half an hour at most', () => {
    for (const name of ['seal_retry_ratio', 'anchor_failure_ratio'] as const) {
      const { x, loads: before } = one(name, 1, { before: one(name, 1).loads, at: 1000 })
      const later = one(name, null, { before, at: 1000 + HOLD_MS })
      expect(later.x).toBe(x)
      expect(one(name, null, { before: later.loads, at: 1001 + HOLD_MS })).toEqual({
        x: null,
        loads: {},
      })
      expect(one(name, null).x).toBeNull()
    }
  })

  test('is not held when it is of a time to come: the clock was set back', () => {
    const { loads: before } = one('seal_retry_ratio', 1, { at: 1000 + 2 * HOLD_MS })
    expect(one('seal_retry_ratio', null, { before, at: 1000 }).x).toBeNull()
  })

  test('is not alone in being held: a latency is, for as long as it took', () => {
    const { x, loads: before } = one('seal_latency_p95_s', 600, { at: 1000 })
    expect(one('seal_latency_p95_s', null, { before, at: 601_000 }).x).toBe(x)
    expect(one('seal_latency_p95_s', null, { before, at: 601_001 }).x).toBeNull()
    expect(one('seal_latency_p95_s', 0, { before, at: 2000 }).x).toBe(-1)
  })

  test('of what is not there at all is forgotten', () => {
    const { loads: before } = one('peer_agreement', 0)
    expect(one('peer_agreement', null, { before })).toEqual({ x: null, loads: {} })
  })
})
