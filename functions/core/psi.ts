/**
 * Ψ: a ledger node's health as one number in (0, 1), and what moved it (design §8; docs/psi.md).
 *
 * The form and the symbols are upstream's (§6.2), on terms that are normalised to 0 … 1, so that Ψ can fall:
 *
 *   s = 1.0·M̂ + 0.8·C + 0.6·U + 0.6·Φ − 0.7·Ĥ − 0.7·P̂E        Ψ = σ(3·(s − 1.5))
 *   M̂ = M/2   Ĥ = H/ln 32   P̂E = PE/(1+PE)
 *
 * Everything is measured against "all promises kept", and the weakest signal counts. With dᵢ = max(0, xᵢ),
 * how far signal i is beyond its limit, the depth of a sample is a soft maximum that is exact for one signal:
 *
 *   D(d) = min(1, ln(1 + Σ(e^{6dᵢ} − 1)) / 6)
 *
 * Upstream's likeness of a node to itself would read a steady illness as coherence. Two sums hold, to rounding:
 * Σ terms.contribution = s, and Σ signals.contribution = Ψ − PSI_MAX.
 */

import {
  expectation,
  initialPredictor,
  learn,
  type PredictorState,
  type Vector,
} from '#core/predictor.ts'
import {
  limitOf,
  scale,
  subsystemOf,
  valueOf,
  type Loads,
  type Subsystem,
} from '#core/signal-scale.ts'
import {
  SIGNAL_NAMES,
  SIGNALS,
  type Expect,
  type SignalName,
  type Telemetry,
} from '#core/telemetry.ts'

/** Upstream's w1 … w6. */
export const WEIGHTS = { M: 1, C: 0.8, U: 0.6, Phi: 0.6, H: -0.7, PE: -0.7 } as const
/** s of a node that keeps every promise: 1 + 0.8 + 0.6 + 0.6. */
export const S_MAX = 3
/** s at which Ψ is ½: the middle of its range. */
export const S_MIDDLE = S_MAX / 2
/** Steepness of the curve. */
export const STEEPNESS = 3
/** Ψ of a node that keeps every promise: σ(4.5) = 0.989. */
export const PSI_MAX = sigmoid(STEEPNESS * (S_MAX - S_MIDDLE))
/** Default of GUARDIAN_PSI_LOW: reached when one signal stays at 1.48 times its limit. */
export const PSI_LOW = 0.5

/** Samples of the past that are remembered (upstream: 15). */
const WINDOW = 15
/** Weight of the remembered mean beside the present in C (upstream: 0.5). */
const RETAINED = 0.5
/** Sharpness of the soft maximum: two signals at d = 0.5 are as deep as one at 0.61. */
const SHARPNESS = 6
/** Bins of H; depths have 16 samples, so H ≤ ln 16. */
const BINS = 32
/** How much longer an interval seems to a sick node (upstream's λ). */
const DILATION = 0.6

/** What Ψ remembers of a node between two samples. JSON, ≈ 10 kB at most. */
export interface PsiState {
  readonly v: 1
  readonly samples: number
  /** The newest d, oldest first; at most 15. */
  readonly window: readonly Vector[]
  readonly loads: Loads
  readonly predictor: PredictorState
}

/** A term of s. `contribution` = `weight` × `value`. */
export interface PsiTerm {
  readonly term: keyof typeof WEIGHTS
  /** Normalised, 0 … 1. */
  readonly value: number
  readonly weight: number
  readonly contribution: number
}

/** A signal and what it costs. */
export interface PsiSignal {
  readonly name: SignalName
  /** As it was told, in its unit. */
  readonly value: number | null
  /** −1 good, 0 at the limit, +1 bad; null is left out of Ψ. */
  readonly x: number | null
  /** The value at which x is 0; of a ratio, if it lasts. */
  readonly limit: number
  /** Points of Ψ that it takes from PSI_MAX; ≤ 0. */
  readonly contribution: number
}

/** Ψ of one telemetry, with all that made it. */
export interface PsiSample {
  readonly seq: number
  /** Of the telemetry, epoch ms. */
  readonly at: number
  /** 0 … PSI_MAX. */
  readonly psi: number
  /** 0 … S_MAX, or below 0 for what is very bad. */
  readonly s: number
  /** Continuity 0 … 1: how well now and the remembered past keep the promises together. */
  readonly C: number
  /** Futurity 0 … 1: how well the expected next sample keeps them. */
  readonly U: number
  /** Phase coherence 0 … 1: how many of the subsystems are well. */
  readonly Phi: number
  /** Temporal entropy 0 … ln 16 nats: how much the depth changed of late. */
  readonly H: number
  /** Prediction error ≥ 0: how much worse than expected. */
  readonly PE: number
  /** Memory 0 … 2: how well the remembered past was, and how well now is. */
  readonly M: number
  /** The interval as it seems, in seconds: interval × (1 + 0.6·(1 − Ψ)). */
  readonly dtEff: number
  readonly terms: readonly PsiTerm[]
  readonly signals: readonly PsiSignal[]
  /** What was expected of each signal before it came, in its unit; null if nothing was. */
  readonly expected: Readonly<Record<SignalName, number | null>>
}

/** The state of a node of which nothing is known: not sick. */
export function initialPsi(): PsiState {
  const predictor = initialPredictor(SIGNAL_NAMES.length)
  return { v: 1, samples: 0, window: [], loads: {}, predictor }
}

/**
 * Ψ of a node's next telemetry. Pure and deterministic; never throws and never NaN, whatever numbers the
 * signals hold. The caller has made sure that the telemetry comes after the last (`checkSequence`).
 */
export function stepPsi(
  state: PsiState,
  telemetry: Telemetry,
): { readonly state: PsiState; readonly sample: PsiSample } {
  const { expect, signals, intervalMs } = telemetry
  const { x, loads } = scale(telemetry, state.loads)
  const expected = expectation(state.predictor)
  const { state: predictor, errors } = learn(state.predictor, x)
  const d = beyond(x)
  const window = [...state.window, d]
  const depths = window.map(depthOf)
  const sums = addUp([
    memory(depths),
    continuity(d, state.window),
    futurity(beyond(expectation(predictor))),
    coherence(d),
    entropy(window, depths),
    surprise(errors),
  ])
  const { s, terms, costs } = sums
  const psi = sigmoid(STEEPNESS * (s - S_MIDDLE))
  const total = costs.reduce((sum, cost) => sum + cost, 0)
  const perPoint = total > 0 ? (psi - PSI_MAX) / total : 0
  const sample: PsiSample = {
    seq: telemetry.seq,
    at: telemetry.at,
    psi,
    s,
    ...sums.symbols,
    dtEff: (finite(intervalMs) / 1000) * (1 + DILATION * (1 - psi)),
    terms,
    signals: SIGNAL_NAMES.map((name, i) => ({
      name,
      value: signals[name],
      x: x[i]!,
      limit: limitOf(name, expect),
      contribution: costs[i]! * perPoint,
    })),
    expected: inUnits(expected, expect),
  }
  const samples = state.samples + 1
  return { state: { v: 1, samples, window: window.slice(-WINDOW), loads, predictor }, sample }
}

/** What the predictor expects of the next telemetry, in the units of the signals; null if nothing. */
export function forecast(
  state: PsiState,
  expect: Expect,
): Readonly<Record<SignalName, number | null>> {
  return inUnits(expectation(state.predictor), expect)
}

/**
 * Ψ of a node that has been as `x` says for so long that memory and habit agree: H and PE are 0. This is
 * the curve; it never rises when an x does.
 */
export function psiAtRest(x: Vector): number {
  const d = beyond(x)
  const { depth } = depthOf(d)
  const phi = coherence(d).value
  const s = 1 - depth + (WEIGHTS.C + WEIGHTS.U) * kept(depth) + WEIGHTS.Phi * phi
  return sigmoid(STEEPNESS * (s - S_MIDDLE))
}

/** The `n` signals that cost most, dearest first, each with a sentence. */
export function causes(
  sample: Pick<PsiSample, 'signals'>,
  n: number,
): readonly { readonly name: SignalName; readonly text: string }[] {
  return [...sample.signals]
    .sort((a, b) => a.contribution - b.contribution)
    .slice(0, n)
    .map((signal) => ({ name: signal.name, text: inWords(signal) }))
}

function inWords({ name, value, x, limit, contribution }: PsiSignal): string {
  const { unit } = SIGNALS[name]
  const suffix = unit === 'ratio' || unit === 'count' ? '' : ` ${unit}`
  const now = value === null ? 'has no value' : `is ${figure(value)}${suffix}`
  const what = x === null ? now : `${now}, limit ${figure(limit)}${suffix}`
  const points = figure(-contribution)
  return contribution > -0.0005
    ? `${name} ${what}: costs nothing`
    : `${name} ${what}: costs ${points}`
}

/** Four significant digits of large numbers, three decimals of small ones. */
function figure(value: number): string {
  return String(Math.abs(value) < 1 ? Number(value.toFixed(3)) : Number(value.toPrecision(4)))
}

/** One term: its symbol, its normalised value, and whose fault it is that it is not as good as can be. */
interface Term {
  readonly term: keyof typeof WEIGHTS
  /** As upstream has it. */
  readonly raw: number
  readonly value: number
  /** Not normalised; all 0 if nobody's. */
  readonly blame: readonly number[]
}

/** M: 1 − D of the present sample and the mean of it over the remembered ones. No memory is no bad memory. */
function memory(depths: readonly Depth[]): Term {
  const now = depths.at(-1)!
  const past = depths.length === 1 ? depths : depths.slice(0, -1)
  const blame = now.share.map((share, i) => {
    const before = past.reduce((sum, { depth, share: shares }) => sum + depth * shares[i]!, 0)
    return now.depth * share + before / past.length
  })
  const raw = 2 - now.depth - past.reduce((sum, { depth }) => sum + depth, 0) / past.length
  return { term: 'M', raw, value: raw / 2, blame }
}

/** C: like the cosine of φ = now + ½·(mean of the past) to "all kept", of its weakest part. */
function continuity(d: Vector, window: readonly Vector[]): Term {
  const phi = d.map((now, i) => {
    const past = window.flatMap((before) => before[i] ?? [])
    if (past.length === 0) return now
    const mean = past.reduce((sum, value) => sum + value, 0) / past.length
    return now === null ? null : (now + RETAINED * mean) / (1 + RETAINED)
  })
  const { depth, share } = depthOf(phi)
  return { term: 'C', raw: kept(depth), value: kept(depth), blame: share }
}

/** U: the same of what the predictor expects next. */
function futurity(next: Vector): Term {
  const { depth, share } = depthOf(next)
  return { term: 'U', raw: kept(depth), value: kept(depth), blame: share }
}

/**
 * Φ: the subsystems as unit vectors at the angle π·D of each; their mean, projected on "all well". Upstream
 * takes its length, which is 1 as well when all are equally sick.
 */
function coherence(d: Vector): Term {
  const parts = new Map<Subsystem, (number | null)[]>()
  SIGNAL_NAMES.forEach((name, i) => {
    if (d[i] == null) return
    const part = parts.get(subsystemOf(name)) ?? d.map(() => null)
    part[i] = d[i]
    parts.set(subsystemOf(name), part)
  })
  const blame = d.map(() => 0)
  let sum = 0
  for (const part of parts.values()) {
    const { depth, share } = depthOf(part)
    const cos = Math.cos(Math.PI * depth)
    sum += cos
    share.forEach((value, i) => (blame[i]! += (1 - cos) * value))
  }
  const value = parts.size === 0 ? 1 : Math.max(0, Math.min(1, sum / parts.size))
  return { term: 'Phi', raw: value, value, blame }
}

/** H: entropy of the depths of the window, in 32 bins. Whose depth changed most is to blame. */
function entropy(window: readonly Vector[], depths: readonly Depth[]): Term {
  const counts = new Map<number, number>()
  for (const { depth } of depths) {
    const bin = Math.min(BINS - 1, Math.floor(depth * BINS))
    counts.set(bin, (counts.get(bin) ?? 0) + 1)
  }
  let raw = 0
  for (const count of counts.values())
    raw -= (count / window.length) * Math.log(count / window.length)
  raw = Math.max(0, raw)
  const blame = SIGNAL_NAMES.map((_, i) => {
    const values = window.map((d) => d[i] ?? 0)
    const mean = values.reduce((sum, value) => sum + value, 0) / values.length
    return values.reduce((sum, value) => sum + (value - mean) ** 2, 0)
  })
  return { term: 'H', raw, value: raw / Math.log(BINS), blame }
}

/** PE: length of the errors to the worse. That something is better than expected is no cause for alarm. */
function surprise(errors: Vector): Term {
  const blame = errors.map((error) => Math.max(0, error ?? 0) ** 2)
  const raw = Math.sqrt(blame.reduce((sum, square) => sum + square, 0))
  return { term: 'PE', raw, value: raw / (1 + raw), blame }
}

/** s, its terms, the symbols as upstream has them, and what each signal took from S_MAX. */
function addUp(parts: readonly Term[]): {
  readonly s: number
  readonly terms: readonly PsiTerm[]
  readonly symbols: Record<keyof typeof WEIGHTS, number>
  readonly costs: readonly number[]
} {
  const symbols = { M: 0, C: 0, U: 0, Phi: 0, H: 0, PE: 0 }
  const costs = SIGNAL_NAMES.map(() => 0)
  let s = 0
  const terms = parts.map(({ term, raw, value, blame }): PsiTerm => {
    const weight = WEIGHTS[term]
    const contribution = weight * value
    s += contribution
    symbols[term] = raw
    const lost = weight > 0 ? weight * (1 - value) : -contribution
    const total = blame.reduce((sum, part) => sum + part, 0)
    blame.forEach((part, i) => (costs[i]! += total > 0 ? (lost * part) / total : 0))
    return { term, value, weight, contribution }
  })
  return { s, terms, symbols, costs }
}

/** How far beyond its limit each signal is, 0 … 1. */
function beyond(x: Vector): Vector {
  return x.map((value) => (value === null ? null : Math.max(0, value)))
}

/** How deep a sample is, 0 … 1, and each signal's share of it; shares are 0 where nothing is beyond its limit. */
interface Depth {
  readonly depth: number
  readonly share: readonly number[]
}

function depthOf(d: Vector): Depth {
  const parts = d.map((value) => (value === null ? 0 : Math.expm1(SHARPNESS * value)))
  const sum = parts.reduce((total, part) => total + part, 0)
  if (sum === 0) return { depth: 0, share: parts }
  return {
    depth: Math.min(1, Math.log1p(sum) / SHARPNESS),
    share: parts.map((part) => part / sum),
  }
}

/** What is left of a likeness at a depth: 1 at 0, none from ½ on. */
function kept(depth: number): number {
  return Math.max(0, 1 - 2 * depth)
}

function inUnits(x: Vector, expect: Expect): Readonly<Record<SignalName, number | null>> {
  const entries = SIGNAL_NAMES.map((name, i) => {
    const value = x[i] ?? null
    return [name, value === null ? null : valueOf(name, value, expect)] as const
  })
  return Object.fromEntries(entries) as Record<SignalName, number | null>
}

function sigmoid(t: number): number {
  return 1 / (1 + Math.exp(-t))
}

function finite(value: number): number {
  return Number.isFinite(value) ? value : 0
}

/** Several nodes together. */
export interface SwarmPsi {
  readonly psi: number
  /** Means over the nodes. */
  readonly C: number
  readonly U: number
  readonly H: number
  /** How many of the nodes are well together, 0 … 1. */
  readonly Phi: number
  /** The least Ψ among them. */
  readonly weakest: number
  readonly nodes: number
}

/**
 * Ψ over nodes (upstream §6.4, its weights, on normalised terms):
 * Ψ = σ(5·(0.7·C + 0.6·Φ + 0.5·U − 0.4·Ĥ − 0.9)), so a swarm that is all well has PSI_MAX. Null without samples.
 */
export function swarmPsi(samples: readonly PsiSample[]): SwarmPsi | null {
  if (samples.length === 0) return null
  const mean = (of: (sample: PsiSample) => number): number =>
    samples.reduce((sum, sample) => sum + of(sample), 0) / samples.length
  const C = mean((sample) => sample.C)
  const U = mean((sample) => sample.U)
  const H = mean((sample) => sample.H)
  // A node at PSI_MAX stands at angle 0, one at Ψ = 0 at π.
  const Phi = Math.max(
    0,
    mean(({ psi }) => Math.cos(Math.PI * (1 - psi / PSI_MAX))),
  )
  const sum = 0.7 * C + 0.6 * Phi + 0.5 * U - (0.4 * H) / Math.log(BINS)
  return {
    psi: sigmoid(5 * (sum - 0.9)),
    C,
    U,
    H,
    Phi,
    weakest: Math.min(...samples.map((sample) => sample.psi)),
    nodes: samples.length,
  }
}
