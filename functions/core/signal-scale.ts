/**
 * From a signal in its unit to x ∈ [−1, 1] (design §8): −1 is as good as can be, 0 is the limit, +1 is as bad
 * as can be. The limit is what the node promises of itself, with slack for what happens on good days.
 *
 *   r = load / limit        x = (r² − 1) / (r² + 1)        r = 0, ½, 1, 1.5, 2, 3  ↔  x = −1, −0.6, 0, 0.38, 0.6, 0.8
 *
 * The load is the value itself. Of ratios it is a running mean: one failed attempt in a quiet minute is a
 * ratio of 1 and no illness, two minutes of it are. A load that comes by turns is held while the next is not due.
 */

import {
  SIGNAL_NAMES,
  SIGNALS,
  type Expect,
  type SignalName,
  type Telemetry,
} from '#core/telemetry.ts'
import type { Vector } from '#core/predictor.ts'

/** What a signal tells of. */
export type Subsystem = 'intake' | 'seal' | 'anchor' | 'peers'

/** A ratio of attempts is held for so long without an attempt: the longest step between two of an anchor. */
export const HOLD_MS = 1_800_000

/** The load of a signal, and epoch ms of the value that it is from. */
export interface Load {
  readonly load: number
  readonly at: number
}

/** What is remembered of signals whose load is more than their newest value. JSON. */
export type Loads = Readonly<Partial<Record<SignalName, Load>>>

interface Scale {
  readonly subsystem: Subsystem
  /** Load at which x is 0. */
  readonly limit: (expect: Expect) => number
  /** Of ratios: which load one sample is. */
  readonly evidence?: Evidence
  /** For how long a load is held when there is no value: null then means "nothing came", not "no such thing here". */
  readonly holdMs?: (load: number) => number
  /** x does not go above 0: more of it is not yet bad. */
  readonly harmless?: true
}

/** A sample counts 1 at `full` and 0 at `none`. */
interface Evidence {
  readonly full: number
  readonly none: number
  /** Its share in the running mean; not more than the limit, so that one sample alone costs nothing. */
  readonly share: number
}

const upTo = (full: number): Evidence => ({ full, none: 0, share: 0.3 })
const ofAttempts = { limit: () => 0.3, evidence: upTo(1 / 3), holdMs: () => HOLD_MS } as const
/** A batch waits for the interval and for the seal before its own; 1 s for what a seal takes. */
const ageLimit = ({ seal_s: interval }: Expect): number => 2 * positive(interval) + 1
/** Latencies come out of a histogram whose buckets are up to three times apart. */
const latencyLimit = ({ seal_s: interval }: Expect): number => 3 * positive(interval) + 1
/** Half as long again as promised, for blocks come as they like; 5 s for wake-ups. */
const lagLimit = (promise: number | undefined): number => 1.5 * positive(promise) + 5
const latency = {
  subsystem: 'seal',
  limit: latencyLimit,
  // Until the next batch can have come, if it takes as long.
  holdMs: (load: number) => load * 1000,
} as const

const scales: Readonly<Record<SignalName, Scale>> = {
  intake_rate: {
    subsystem: 'intake',
    // So many a second fill the backlog within one seal interval.
    limit: (e) => atLeast(1, positive(e.backlog)) / atLeast(0.01, positive(e.seal_s)),
    harmless: true,
  },
  reject_ratio: { subsystem: 'intake', limit: () => 0.3, evidence: upTo(1 / 2) },
  queue_backlog: { subsystem: 'intake', limit: (e) => atLeast(1, positive(e.backlog) / 2) },
  dead_letters: { subsystem: 'intake', limit: () => 10 },
  seal_latency_p50_s: latency,
  seal_latency_p95_s: latency,
  seal_retry_ratio: { subsystem: 'seal', ...ofAttempts },
  checkpoint_age_s: { subsystem: 'seal', limit: ageLimit },
  anchor_lag_btc_s: { subsystem: 'anchor', limit: (e) => lagLimit(e.anchor_btc_s) },
  anchor_lag_evm_s: { subsystem: 'anchor', limit: (e) => lagLimit(e.anchor_evm_s) },
  anchor_lag_tsa_s: { subsystem: 'anchor', limit: (e) => lagLimit(e.anchor_tsa_s) },
  // A third of the attempts may be all of one rail.
  anchor_failure_ratio: { subsystem: 'anchor', ...ofAttempts },
  peer_agreement: {
    subsystem: 'peers',
    limit: () => 0.5,
    // Half of the peers gone is a split, one of three a dent.
    evidence: { full: 1 / 2, none: 1, share: 0.5 },
  },
  // Five batches, or what is sealed in half a minute.
  peer_lag: { subsystem: 'peers', limit: (e) => 5 + 30 / atLeast(0.01, positive(e.seal_s)) },
}

/** A sample on its scale. */
export interface Scaled {
  /** In the order of SIGNAL_NAMES; null where there is no such thing. */
  readonly x: Vector
  readonly loads: Loads
}

/** What a signal tells of. */
export function subsystemOf(name: SignalName): Subsystem {
  return scales[name].subsystem
}

/**
 * The x of every signal of `telemetry`, and what is to be remembered for the next. Never NaN: a value that
 * is no number counts as null, one beyond its range as the end of it.
 */
export function scale(
  telemetry: Pick<Telemetry, 'at' | 'expect' | 'signals'>,
  before: Loads,
): Scaled {
  const { at, expect, signals } = telemetry
  const loads: Partial<Record<SignalName, Load>> = {}
  const x = SIGNAL_NAMES.map((name) => {
    const how = scales[name]
    const now = loadNow(how, sane(name, signals[name]), before[name], at)
    if (now === null) return null
    if (how.evidence !== undefined || how.holdMs !== undefined) loads[name] = now
    const r2 = (now.load / how.limit(expect)) ** 2
    // Beyond 1e16 the quotient of two such sums is 1 already, and ∞/∞ would be none.
    const badness = r2 > 1e16 ? 1 : (r2 - 1) / (r2 + 1)
    return how.harmless ? Math.min(0, badness) : badness
  })
  return { x, loads }
}

/** The value of a signal at which x is 0; of ratios, if it lasts. */
export function limitOf(name: SignalName, expect: Expect): number {
  return valueOf(name, 0, expect)
}

/** The value of a signal, in its unit and range, that stands at `x`; of ratios, if it lasts. */
export function valueOf(name: SignalName, x: number, expect: Expect): number {
  const { limit, evidence } = scales[name]
  const { min, max } = SIGNALS[name]
  const load = limit(expect) * Math.sqrt((1 + x) / Math.max(1e-12, 1 - x))
  const value =
    evidence === undefined
      ? load
      : evidence.none + (evidence.full - evidence.none) * Math.min(1, load)
  return Math.max(min, Math.min(max, value))
}

function loadNow(
  { evidence, holdMs }: Scale,
  value: number | null,
  before: Load | undefined,
  at: number,
): Load | null {
  if (value === null) {
    if (before === undefined) return null
    // Of a time to come it is where the clock was set back since: that is held for no longer.
    const isHeld = Math.abs(at - before.at) <= (holdMs?.(before.load) ?? -Infinity)
    return isHeld ? before : null
  }
  if (evidence === undefined) return { load: value, at }
  const { full, none, share } = evidence
  const sample = Math.max(0, Math.min(1, (value - none) / (full - none)))
  const mean = before?.load ?? 0
  return { load: mean + share * (sample - mean), at }
}

function sane(name: SignalName, value: number | null): number | null {
  if (value === null || Number.isNaN(value)) return null
  const { min, max } = SIGNALS[name]
  return Math.max(min, Math.min(max, value))
}

/** A promise that is no positive number promises nothing: only the slack is left. None is beyond the ranges. */
function positive(value: number | undefined): number {
  return value !== undefined && value > 0 ? Math.min(1e12, value) : 0
}

function atLeast(least: number, value: number): number {
  return Math.max(least, value)
}
