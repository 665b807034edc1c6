/**
 * The predictor learns one step of linear habit, and nothing it is fed drives it out of bounds.
 */

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  expectation,
  initialPredictor,
  learn,
  MAX_WEIGHT,
  type PredictorState,
  type Vector,
} from '#core/predictor.ts'

/** The state after all of `samples`, and the errors of the last. */
function fed(samples: readonly Vector[], from = initialPredictor(samples[0]!.length)) {
  let state: PredictorState = from
  let errors: Vector = []
  for (const sample of samples) ({ state, errors } = learn(state, sample))
  return { state, errors }
}

const size = 4
const value = fc.oneof(fc.constant(null), fc.double({ min: -1, max: 1, noNaN: true }))
const vector = fc.array(value, { minLength: size, maxLength: size })

describe('the predictor', () => {
  test('expects nothing before the first sample, and then the same again', () => {
    expect(expectation(initialPredictor(2))).toEqual([null, null])
    const { state, errors } = fed([[0.25, null]])
    expect(errors).toEqual([null, null])
    expect(expectation(state)).toEqual([0.25, null])
    expect(fed([[0.5, 0]], state).errors).toEqual([0.25, null])
  })

  test('moves a twentieth of the way to what would have been right', () => {
    const { state } = fed([
      [0.5, -0.25],
      [0.3, -0.25],
    ])
    // The same sample again as it was: its expectation was 0.5, should have been 0.3.
    const again = expectation({ ...state, last: [0.5, -0.25] })
    expect(again[0]).toBeCloseTo(0.5 - 0.05 * 0.2, 6)
    expect(again[1]).toBeCloseTo(-0.25, 6)
  })

  test('learns a swing that "as now" never gets right', () => {
    const swing = Array.from({ length: 600 }, (_, k): Vector => [k % 2 === 0 ? 0.6 : -0.6])
    expect(fed(swing.slice(0, 2)).errors[0]).toBeCloseTo(-1.2)
    expect(Math.abs(fed(swing).errors[0]!)).toBeLessThan(0.01)
  })

  test('learns what one signal says of another', () => {
    const random = (k: number): number => Math.sin(k * k)
    const pairs = Array.from({ length: 4000 }, (_, k): Vector => [
      random(k),
      0.5 * random(k - 1) - 0.2,
    ])
    const { state } = fed(pairs)
    expect(state.weights[1]![0]).toBeCloseTo(0.5, 1)
    expect(state.weights[1]![2]).toBeCloseTo(-0.2, 1)
  })

  test('leaves a row alone while its signal is missing', () => {
    const { state } = fed([[0.5, 0.5]])
    const after = fed([[0.1, null]], state).state
    expect(after.weights[1]).toEqual(state.weights[1])
    expect(after.weights[0]).not.toEqual(state.weights[0])
    expect(expectation(after)[1]).toBeNull()
  })

  test('stays in bounds, whatever comes, and is the same after a trip through JSON', () => {
    fc.assert(
      fc.property(fc.array(vector, { minLength: 1, maxLength: 80 }), vector, (samples, then) => {
        const { state } = fed(samples, initialPredictor(size))
        expect(state.samples).toBe(samples.length)
        for (const weight of state.weights.flat())
          expect(Math.abs(weight)).toBeLessThanOrEqual(MAX_WEIGHT)
        for (const x of expectation(state)) expect(x === null || Math.abs(x) <= 1).toBe(true)
        const copy = JSON.parse(JSON.stringify(state)) as PredictorState
        expect(learn(copy, then)).toEqual(learn(state, then))
      }),
    )
  })

  test('cuts off weights that would grow without end', () => {
    // The sample is tiny, the error is not: each step wants a weight far beyond habit.
    const grown = Array.from({ length: 400 }, (_, k): Vector => [k % 2 === 0 ? 1 : -1, 1])
    let { state } = fed(grown)
    for (let k = 0; k < 2000; k++) state = learn({ ...state, last: [-1, 1] }, [1, -1]).state
    expect(Math.max(...state.weights.flat().map(Math.abs))).toBeLessThanOrEqual(MAX_WEIGHT)
    expect(expectation({ ...state, last: [-1, 1] })[0]).toBeCloseTo(1, 3)
  })
})
