/**
 * What a node's counts and its peers' states come to as signals (core/telemetry.ts): the arithmetic of the collector.
 *
 * Invariant: what cannot be told is null or a note, never 0.
 */

import type { Code } from '#core/errors.ts'
import { metrics, type Series } from '#core/metrics.ts'
import type { SignalName } from '#core/telemetry.ts'

/** A peer without an address was heard if it spoke within this time: forty rounds of gossip. */
const HEARD_MS = 60_000
/** A visit or two that took too long is no outage, if the peer was heard so lately: they are repeated after 1 s and 2 s. */
const FLICKER_MS = 10_000
const FLICKER_VISITS = 2

/** Signals as far as they were found; null: there is no such thing here. */
export type Found = Partial<Record<SignalName, number | null>>

/** What was counted up to a moment: the difference to the next is what happened in between. */
export interface Baseline {
  /** Epoch ms. */
  readonly at: number
  /** Values of the series that the collector looks at, by name and labels. */
  readonly counts: Readonly<Record<string, readonly number[]>>
}

const ACCEPTED = 'vaultmesh_events_total accepted'
const SEALED = 'vaultmesh_seal_batches_total sealed'
const FAILED = 'vaultmesh_seal_batches_total failed'
const LATENCY = 'vaultmesh_seal_latency_seconds'
/**
 * Refusals for which the node is to blame. What anybody can send and every node must refuse tells nothing of this one:
 * else a stranger with four bad requests would open an alarm.
 */
const BLAMED = (
  ['overloaded', 'storage-failed', 'internal', 'log-forked'] as const satisfies readonly Code[]
).map((code) => `vaultmesh_problems_total ${code}`)
const WATCHED: readonly string[] = [ACCEPTED, ...BLAMED, SEALED, FAILED, LATENCY]

/** What of all that is counted the signals are made of. */
export function watched(series: readonly Series[]): Baseline['counts'] {
  return Object.fromEntries(
    series
      .map(({ name, labels, values }) => [[name, ...labels].join(' '), values] as const)
      .filter(([key]) => WATCHED.includes(key)),
  )
}

/** What was counted between two moments, as signals; a note where that cannot be told. */
export function sinceBaseline(
  before: Baseline | null,
  now: Baseline,
): Found | { readonly note: string } {
  if (before === null) return { note: 'The first interval has nothing to compare counts with.' }
  const seconds = (now.at - before.at) / 1000
  const added: Record<string, readonly number[]> = {}
  for (const key of WATCHED) {
    const was = before.counts[key] ?? []
    const is = now.counts[key] ?? was.map(() => 0)
    added[key] = is.map((value, i) => value - (was[i] ?? 0))
  }
  const isReset = Object.values(added).some((values) => values.some((value) => value < 0))
  if (isReset || seconds <= 0) {
    return { note: 'Counters began anew, so this interval cannot be counted.' }
  }
  const n = (key: string): number => added[key]?.[0] ?? 0
  const refused = BLAMED.reduce((sum, key) => sum + n(key), 0)
  const seals = n(SEALED) + n(FAILED)
  const buckets = added[LATENCY]?.slice(1) ?? []
  return {
    intake_rate: n(ACCEPTED) / seconds,
    reject_ratio: refused === 0 ? 0 : refused / (refused + n(ACCEPTED)),
    seal_retry_ratio: seals === 0 ? null : n(FAILED) / seals,
    seal_latency_p50_s: quantile(buckets, 0.5),
    seal_latency_p95_s: quantile(buckets, 0.95),
  }
}

/**
 * A quantile from a histogram's counts, evenly spread within its bucket; null if nothing was counted. Beyond all
 * bounds it is the last of them: at least so long.
 */
export function quantile(buckets: readonly number[], q: number): number | null {
  const bounds: readonly number[] = metrics[LATENCY].buckets
  const total = buckets.reduce((sum, n) => sum + n, 0)
  if (total === 0) return null
  let below = 0
  for (const [i, n] of buckets.entries()) {
    const bound = bounds[i]
    if (bound === undefined) break
    if (below + n >= q * total && n > 0) {
      const from = i === 0 ? 0 : bounds[i - 1]!
      return from + ((q * total - below) / n) * (bound - from)
    }
    below += n
  }
  return bounds.at(-1)!
}

/** The peers of a node, as GET /federation/peers shows them. */
interface PeersNow {
  readonly lawHash: string
  readonly peers: readonly {
    readonly did: string
    readonly state: string
    readonly lawHash: string | null
    readonly lastSeen: string | null
    readonly failures: number
    readonly lag: number | null
  }[]
}

/** A log, as GET /federation/tips shows it. */
interface TipNow {
  readonly did: string
  readonly state: string
  readonly pending: number
}

/** How many peers agree, and how far the one is behind that is furthest; nulls without peers. */
export function peersNow(
  view: PeersNow | null,
  tips: readonly TipNow[] | null,
  nowAt: number,
): Found {
  if (view === null || view.peers.length === 0) return { peer_agreement: null, peer_lag: null }
  const logsOf = (did: string) => (tips ?? []).filter((tip) => tip.did === did)
  let agreeing = 0
  let lag = 0
  for (const { did, state, lawHash, lastSeen, failures, lag: behind } of view.peers) {
    const logs = logsOf(did)
    const heardMs = lastSeen === null ? Infinity : nowAt - Date.parse(lastSeen)
    const isHeard =
      (state === 'no-address' && heardMs < HEARD_MS) ||
      (state === 'failing' && heardMs < FLICKER_MS && failures <= FLICKER_VISITS)
    const isWell = state === 'ok' || (isHeard && lawHash === view.lawHash)
    if (isWell && logs.every((tip) => tip.state !== 'undecided')) agreeing++
    lag = Math.max(lag, behind ?? 0, ...logs.map(({ pending }) => pending))
  }
  return { peer_agreement: agreeing / view.peers.length, peer_lag: lag }
}
