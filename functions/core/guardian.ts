/**
 * The Guardian: when Ψ is an alarm, and what is done about it (design §8; docs/psi.md). A pure step: the caller
 * stores the new state and what the step said in one transaction, so a crash repeats the step or has it whole.
 *
 *   alarm opens    a limit is crossed in 3 samples running: the absolute one and, in advanced mode, the 5th (95th)
 *                  percentile of the last 200 samples, the present one excluded; or the absolute one in 20
 *   alarm closes   3 samples running are well inside of the absolute limit that it is about
 *   intervention   when it opens, and again every 100 samples while it stays
 *
 * Samples of an alarm do not enter the history: after a long outage a second one would pass for a habit. And what
 * lasts for 20 samples is an outage, however usual it has become: a percentile alone falls silent.
 */

import { causes, PSI_MAX, type PsiSample } from '#core/psi.ts'

/** advanced: absolute and percentile limits. basic: absolute ones alone. */
export type GuardianMode = 'advanced' | 'basic'

/** Which limit was crossed, gravest first. */
export type Breach = 'low-psi' | 'high-pe' | 'high-h'

/** What is done: albedo wakes everything that sleeps, nigredo makes the predictor forget. */
export type InterventionKind = 'nigredo' | 'albedo'

/** Prediction error above which habit is no guide (upstream: 2.0). Healthy nodes stay below, and sick ones for a sample (measured). */
export const PE_HIGH = 1.5
/** Entropy, in nats of at most ln 16 = 2.77, above which a node flaps (upstream: 2.2 of 3.47). Healthy nodes stay below 1.3 (measured). */
export const H_HIGH = 2
/** Samples that percentiles are taken over. */
export const HISTORY = 200
/** Samples before percentiles mean anything; until then absolute limits decide alone. */
export const MIN_HISTORY = 50
/** Samples running that open and close an alarm. */
export const RUN = 3
/** Samples running beyond the absolute limit that open an alarm without the percentile. */
export const LASTING = 20
/** Samples between two interventions of one kind (upstream: 100). */
export const COOLDOWN = 100

const PERCENT = 5
/** An alarm closes when a fifth of the way from the limit to the best is made good. */
const MARGIN = 0.2
const BREACHES = ['low-psi', 'high-pe', 'high-h'] as const

type ByBreach<T> = Readonly<Record<Breach, T>>

/** What the Guardian remembers. JSON, ≈ 12 kB at most. */
export interface GuardianState {
  readonly v: 1
  /** Ψ, PE and H of the samples outside of alarms, oldest first; at most 200 each. */
  readonly history: ByBreach<readonly number[]>
  /** Samples running that crossed every limit that counts. */
  readonly crossed: ByBreach<number>
  /** Samples running that crossed the absolute one. */
  readonly beyond: ByBreach<number>
  /** Samples running that were well inside of the limit that the alarm is about. */
  readonly calm: number
  /** Samples since the last intervention; null before the first. */
  readonly since: Readonly<Record<InterventionKind, number | null>>
  readonly alarm: GuardianAlarm | null
}

/** An open alarm. */
export interface GuardianAlarm {
  readonly open: true
  /** The gravest limit that was crossed so far. */
  readonly reason: Breach
  /** When it opened, epoch ms. */
  readonly since: number
  /** One sentence with the figures. */
  readonly explained: string
}

/** Something to be done and recorded. */
export interface GuardianIntervention {
  readonly kind: InterventionKind
  readonly reason: Breach
  /** One sentence with the figures and the deed. */
  readonly explained: string
}

/** By what a sample is judged, and when. */
export interface GuardianSettings {
  readonly mode: GuardianMode
  /** GUARDIAN_PSI_LOW. */
  readonly psiLow: number
  /** Epoch ms. */
  readonly nowAt: number
}

/** A Guardian that has seen nothing. */
export function initialGuardian(): GuardianState {
  const none = byBreach(() => 0)
  const since = { nigredo: null, albedo: null }
  const history = byBreach(() => [])
  return { v: 1, history, crossed: none, beyond: none, calm: 0, since, alarm: null }
}

/**
 * Judges the next sample of a node. `alarm` is the open one, or null; an intervention is said once, in the
 * step that calls for it.
 */
export function stepGuardian(
  state: GuardianState,
  sample: PsiSample,
  settings: GuardianSettings,
): {
  readonly state: GuardianState
  readonly alarm: GuardianAlarm | null
  readonly intervention: GuardianIntervention | null
} {
  const seen = byBreach((breach) => measures[breach](sample))
  const limits = { ...FIXED, 'low-psi': settings.psiLow }
  const usual = settings.mode === 'advanced' ? usualLimits(state.history) : null
  const beyond = byBreach((b) =>
    // Of an alarm, what is less grave than its reason is a symptom.
    isWorse(b, seen[b], limits[b]) && !(state.alarm !== null && isGraver(state.alarm.reason, b))
      ? state.beyond[b] + 1
      : 0,
  )
  const crossed = byBreach((b) =>
    beyond[b] > 0 && (usual === null || isWorse(b, seen[b], usual[b])) ? state.crossed[b] + 1 : 0,
  )
  const reason = BREACHES.find((b) => crossed[b] >= RUN || beyond[b] >= LASTING) ?? null
  const explained =
    reason === null ? '' : explain(reason, seen[reason], limits[reason], beyond[reason])

  const isCalm =
    state.alarm !== null && isInside(state.alarm.reason, seen[state.alarm.reason], limits)
  const calm = isCalm ? state.calm + 1 : 0
  let alarm = calm >= RUN ? null : state.alarm
  if (reason !== null && (alarm === null || isGraver(reason, alarm.reason)))
    alarm = { open: true, reason, since: alarm?.since ?? settings.nowAt, explained }

  let history = state.history
  if (alarm === null) history = byBreach((b) => [...history[b], seen[b]].slice(-HISTORY))
  else if (state.alarm === null) {
    // What led here belongs to the alarm; the present sample is not in yet.
    const led = beyond[alarm.reason] - 1
    history = byBreach((b) => history[b].slice(0, Math.max(0, history[b].length - led)))
  }

  const rested = { nigredo: next(state.since.nigredo), albedo: next(state.since.albedo) }
  const kind = reason === null ? null : deeds[reason].kind
  const isDue = kind !== null && (rested[kind] === null || rested[kind] >= COOLDOWN)
  const since = isDue ? { ...rested, [kind]: 0 } : rested
  return {
    state: { v: 1, history, crossed, beyond, calm, since, alarm },
    alarm,
    intervention:
      isDue && reason !== null
        ? { kind, reason, explained: `${explained} ${dearest(sample)} ${deeds[reason].deed}` }
        : null,
  }
}

/** The `percent`th percentile by linear interpolation (numpy's default); `values` is not empty. */
export function percentile(values: readonly number[], percent: number): number {
  // Numbers sort themselves there, ten times as fast as by a comparison.
  const sorted = Float64Array.from(values).sort()
  const place = ((sorted.length - 1) * percent) / 100
  const below = sorted[Math.floor(place)]!
  const above = sorted[Math.ceil(place)]!
  return below + (above - below) * (place - Math.floor(place))
}

const measures: ByBreach<(sample: PsiSample) => number> = {
  'low-psi': ({ psi }) => psi,
  'high-pe': ({ PE }) => PE,
  'high-h': ({ H }) => H,
}

const FIXED = { 'high-pe': PE_HIGH, 'high-h': H_HIGH }

const FORGET = 'Nigredo: the predictor forgets its habits and learns anew.'
const deeds: ByBreach<{ readonly kind: InterventionKind; readonly deed: string }> = {
  'low-psi': { kind: 'albedo', deed: 'Albedo: everything that sleeps is woken.' },
  'high-pe': { kind: 'nigredo', deed: FORGET },
  'high-h': { kind: 'nigredo', deed: FORGET },
}

/** What the history calls unusual; null while it is too short to say. */
function usualLimits(history: GuardianState['history']): ByBreach<number> | null {
  if (history['low-psi'].length < MIN_HISTORY) return null
  return byBreach((b) => percentile(history[b], b === 'low-psi' ? PERCENT : 100 - PERCENT))
}

function isWorse(breach: Breach, value: number, limit: number): boolean {
  return breach === 'low-psi' ? value < limit : value > limit
}

function isGraver(breach: Breach, than: Breach): boolean {
  return BREACHES.indexOf(breach) < BREACHES.indexOf(than)
}

function isInside(breach: Breach, value: number, limits: ByBreach<number>): boolean {
  const limit = limits[breach]
  const margin = MARGIN * (breach === 'low-psi' ? Math.max(0, PSI_MAX - limit) : limit)
  return breach === 'low-psi' ? value >= limit + margin : value <= limit - margin
}

function explain(reason: Breach, value: number, limit: number, run: number): string {
  const { what, side } = words[reason]
  return `${what} is ${value.toFixed(3)}: ${side} ${limit} in ${run} samples running.`
}

function dearest(sample: PsiSample): string {
  return `Dearest: ${causes(sample, 2)
    .map(({ text }) => text)
    .join('; ')}.`
}

const words: ByBreach<{ readonly what: string; readonly side: string }> = {
  'low-psi': { what: 'Ψ', side: 'below' },
  'high-pe': { what: 'Prediction error', side: 'above' },
  'high-h': { what: 'Entropy', side: 'above' },
}

function next(since: number | null): number | null {
  return since === null ? null : Math.min(COOLDOWN, since + 1)
}

function byBreach<T>(of: (breach: Breach) => T): Record<Breach, T> {
  return { 'low-psi': of('low-psi'), 'high-pe': of('high-pe'), 'high-h': of('high-h') }
}
