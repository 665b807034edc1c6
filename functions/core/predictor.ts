/**
 * The one-step predictor behind PE (upstream-§6.2): what the next sample will be, as a weighted sum of this
 * one. Normalised least mean squares: after each sample every row of weights moves a twentieth of the
 * way to what would have been right.
 *
 *   x̂ᵢ(k+1) = clamp(Σⱼ wᵢⱼ·xⱼ(k) + wᵢ,n)          wᵢ ← wᵢ + η·eᵢ·z / (‖z‖² + ε),  z = (x(k), 1)
 *
 * It begins as "as now" (the unit matrix). It knows one step of linear habit: no clock, no calendar, no
 * cause. Weights stay within ±2 and expectations within ±1 whatever it is fed.
 */

/** How far a row moves to what would have been right (upstream: 0.05). */
export const LEARNING_RATE = 0.05
/** Weights are cut off here: ±1 is "as now", and more than twice that is no habit. */
export const MAX_WEIGHT = 2
/** Keeps the division defined. */
const EPSILON = 1e-6

/** A sample: one number in [−1, 1] for each signal, null where there is none. */
export type Vector = readonly (number | null)[]

/** What the predictor knows. JSON; `size`·(`size` + 1) weights and one sample. */
export interface PredictorState {
  /** Samples it learnt from. */
  readonly samples: number
  /** A row for each signal: its weights on every signal, and last on the constant. */
  readonly weights: readonly (readonly number[])[]
  /** The newest sample, or null. */
  readonly last: Vector | null
}

/** A predictor of `size` signals that has learnt nothing: the next sample will be as this one. */
export function initialPredictor(size: number): PredictorState {
  const row = (i: number): number[] => Array.from({ length: size + 1 }, (_, j) => (i === j ? 1 : 0))
  return { samples: 0, weights: Array.from({ length: size }, (_, i) => row(i)), last: null }
}

/** What the next sample will be, each in [−1, 1]; null where the newest has no value. */
export function expectation({ weights, last }: PredictorState): Vector {
  if (last === null) return weights.map(() => null)
  const z = regressor(last)
  return weights.map((row, i) => (last[i] == null ? null : clamp(dot(row, z), 1)))
}

/**
 * Takes in the next sample. `errors` is sample − expectation for each signal, null where either has no
 * value; such a row learns nothing.
 */
export function learn(
  state: PredictorState,
  next: Vector,
): { readonly state: PredictorState; readonly errors: Vector } {
  const { last } = state
  const expected = expectation(state)
  const errors = expected.map((value, i) => {
    const seen = next[i]
    return value === null || seen == null ? null : seen - value
  })
  const samples = state.samples + 1
  if (last === null) return { state: { ...state, samples, last: next }, errors }
  const z = regressor(last)
  const step = LEARNING_RATE / (dot(z, z) + EPSILON)
  const weights = state.weights.map((row, i) => {
    const error = errors[i]
    if (error == null) return row
    return row.map((weight, j) => clamp(weight + step * error * z[j]!, MAX_WEIGHT))
  })
  return { state: { samples, weights, last: next }, errors }
}

/** A value that is missing says nothing, and the constant has the last place. */
function regressor(sample: Vector): readonly number[] {
  return [...sample.map((value) => value ?? 0), 1]
}

function dot(a: readonly number[], b: readonly number[]): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i]! * b[i]!
  return sum
}

function clamp(value: number, limit: number): number {
  return Math.max(-limit, Math.min(limit, value))
}
