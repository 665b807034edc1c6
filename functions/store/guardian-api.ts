/**
 * What the Guardian Durable Object tells others, and takes from them. Views are as their paths show them, so their
 * times are ISO.
 */

import type { Breach, GuardianMode } from '#core/guardian.ts'
import type { PsiSample, SwarmPsi } from '#core/psi.ts'
import type { SignalName } from '#core/telemetry.ts'
import type { Refused } from './federation-api.ts'

/** What became of telemetry that was handed in. */
export type TelemetryAnswer = { readonly nodeDid: string; readonly seq: number } | Refused

/** A signal that moved Ψ, in words. */
export interface Cause {
  readonly name: SignalName
  readonly text: string
}

/** A node as its newest telemetry has it. */
export interface NodeHealth {
  /** Canonical. */
  readonly nodeDid: string
  readonly own: boolean
  readonly lastSeq: number
  /** Of the newest telemetry, by the node's own clock. */
  readonly lastAt: string
  readonly intervalMs: number
  /** True once three of its intervals passed without a word: what stands here says nothing of now. */
  readonly stale: boolean
  /** Ψ with its terms, the signals and what each costs, and what was expected of each. */
  readonly sample: Omit<PsiSample, 'seq' | 'at'>
  /** The three signals that cost most, dearest first. */
  readonly causes: readonly Cause[]
  /** GUARDIAN_PSI_LOW of the node that shows this. */
  readonly threshold: number
  readonly alarm: {
    readonly reason: Breach
    readonly since: string
    readonly explained: string
  } | null
}

/** Something the Guardian did. */
export interface InterventionView {
  readonly id: number
  readonly nodeDid: string
  readonly seq: number
  readonly at: string
  readonly kind: 'nigredo' | 'albedo'
  readonly reason: Breach
  readonly explained: string
  /** Ψ of the sample that called for it. */
  readonly psi: number
  /** `sha256:<hex>` of its event in the log; null until it is posted, and for peers, who post their own. */
  readonly eventHash: string | null
}

/** GET /guardian. */
export interface GuardianView {
  readonly nodeDid: string
  readonly mode: GuardianMode
  readonly intervalMs: number
  readonly threshold: number
  /** This node first; then the peers that were heard, by DID. Empty before the first telemetry. */
  readonly nodes: readonly NodeHealth[]
  /** Over the nodes that are not stale; null without any. */
  readonly swarm: SwarmPsi | null
  /** Newest first, at most 100. */
  readonly interventions: readonly InterventionView[]
  /** Since the object began. */
  readonly counts: {
    readonly accepted: number
    readonly interventions: Readonly<Record<'nigredo' | 'albedo', number>>
  }
  /** What the newest own telemetry could not read, one sentence each; empty if it read everything. */
  readonly notes: readonly string[]
}

/** Mean, least and greatest of a step. */
export interface Spread {
  readonly mean: number
  readonly min: number
  readonly max: number
}

/** One step of a series. */
export interface SeriesPoint {
  /** Begin of the step. */
  readonly at: string
  readonly samples: number
  readonly psi: Spread
  /** Means of the terms. */
  readonly terms: Readonly<Record<'C' | 'U' | 'Phi' | 'H' | 'PE' | 'M', number>>
  /** Null where no sample of the step had a value. */
  readonly signals: Readonly<Record<SignalName, Spread | null>>
}

/** GET /guardian/telemetry. */
export interface SeriesView {
  readonly nodeDid: string
  readonly from: string
  readonly to: string
  readonly stepMs: number
  readonly points: readonly SeriesPoint[]
}

/** What is asked of a series. Times are epoch ms, `from` ≤ t < `to`. */
export interface SeriesQuery {
  /** Null: this node. */
  readonly node: string | null
  readonly from: number
  readonly to: number
  readonly stepMs: number
}

/** What the predictor believes of one signal of a node. */
export interface SignalBelief {
  readonly name: SignalName
  /** In the unit of the signal: what was said last, and what was expected of it before. */
  readonly last: number | null
  readonly expected: number | null
  /** `last` − `expected`. */
  readonly error: number | null
  /** Weights on every signal and, last, on the constant. */
  readonly weights: readonly number[]
}

/** What the predictor believes of a node. */
export interface NodeBelief {
  readonly nodeDid: string
  readonly own: boolean
  /** Telemetry it learnt from since it began, or was reset. */
  readonly samples: number
  /** PE of the newest sample. */
  readonly predictionError: number
  readonly signals: readonly SignalBelief[]
}

/** How a provider of a rail does, and what it is worth to the route. */
export interface ProviderScore {
  readonly chain: string
  readonly network: string
  readonly name: string
  readonly score: number
  readonly success: number
  readonly latencyMs: number
  readonly calls: number
  readonly failures: number
  readonly why: string
}

/** How often a rail could be anchored on. Nothing follows it by itself. */
export interface CadenceAdvice {
  readonly chain: string
  readonly network: string
  readonly method: string
  /** As it is set. */
  readonly intervalMs: number
  readonly suggestedMs: number
  /** Of the newest final anchors, from their job's beginning to the receipt; null without one. */
  readonly confirmationMs: number | null
  /** Share of the newest attempts that failed; null without one. */
  readonly failureRatio: number | null
  readonly why: string
}

/** GET /guardian/learn. */
export interface LearnView {
  /** Weights stand in this order; the constant is last. */
  readonly order: readonly SignalName[]
  readonly nodes: readonly NodeBelief[]
  readonly providers: readonly ProviderScore[]
  readonly cadence: readonly CadenceAdvice[]
}
