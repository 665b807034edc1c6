/**
 * The collector: every signal of this node's own telemetry, each from the part that owns it.
 *
 *   Counters             intake, refusals, seal attempts, seal latency: by difference to the last time
 *   Sequencer, Pools     what is accepted and not sealed, and since when
 *   D1                   what waits for each rail, failed anchor attempts, dead letters
 *   Federation           peers that agree, and how far behind their logs this node is
 *
 * Invariant: what could not be read is null and named in `unread`, never 0: a source that is silent must not look healthy.
 * A signal that has no value here (a rail that is off, no peers, nothing sealed) is null, too, and not in `unread`. All
 * look-ups are by key or bounded; a source that hangs is given up after SOURCE_MS.
 */

import type { Chain } from '#core/anchor-receipt.ts'
import {
  peersNow,
  sinceBaseline,
  watched,
  type Baseline,
  type Found,
} from '#core/health-sources.ts'
import {
  SIGNAL_NAMES,
  SIGNALS,
  type Expect,
  type SignalName,
  type Signals,
} from '#core/telemetry.ts'
import { countDeadLetters } from '#store/alerts.ts'
import { anchorFailureRatio, oldestUnanchored } from '#store/anchor-lag.ts'
import { configuredRails, usualConfirmationMs } from '#store/anchors.ts'
import type { PeersView, TipView } from '#store/federation-api.ts'
import { readCounts } from '#store/metrics.ts'
import type { NodeContext } from '#store/node.ts'
import { warn } from './federation-state.ts'

/** Longest wait for one source. They are asked side by side; a healthy one answers within some ten ms. */
const SOURCE_MS = 10_000
/** What this node can say of itself now. */
export interface Collected {
  readonly signals: Signals
  readonly expect: Expect
  /** Signals whose source did not answer. */
  readonly unread: readonly SignalName[]
  /** Why signals are missing, one sentence each. */
  readonly notes: readonly string[]
  /** For the next time; null if nothing was counted: then the old one stays. */
  readonly baseline: Baseline | null
  /** Where to look when something is wrong: the newest batch, and the oldest that waits for each chain. */
  readonly places: Places
}

export interface Places {
  readonly height: number
  readonly waiting: Readonly<Partial<Record<Chain, number>>>
}

const COUNTED = [
  'intake_rate',
  'reject_ratio',
  'seal_latency_p50_s',
  'seal_latency_p95_s',
  'seal_retry_ratio',
] as const
const OF_LOG = ['queue_backlog', 'checkpoint_age_s'] as const
const OF_INDEX = [
  'dead_letters',
  'anchor_lag_btc_s',
  'anchor_lag_evm_s',
  'anchor_lag_tsa_s',
  'anchor_failure_ratio',
] as const
const OF_PEERS = ['peer_agreement', 'peer_lag'] as const
const CHAINS = ['BTC', 'EVM', 'TSA'] as const
const LAG = {
  BTC: 'anchor_lag_btc_s',
  EVM: 'anchor_lag_evm_s',
  TSA: 'anchor_lag_tsa_s',
} as const

/** Asks every source for what happened since `baseline`. Never throws. */
export async function collect(
  env: Env,
  node: NodeContext,
  { baseline, nowAt }: { readonly baseline: Baseline | null; readonly nowAt: number },
): Promise<Collected> {
  const { guardianIntervalMs, rails } = node.config
  const since = baseline?.at ?? nowAt - guardianIntervalMs
  const unread: SignalName[] = []
  const notes: string[] = []
  const source = <T>(what: string, names: readonly SignalName[], ask: Promise<T>) =>
    withTimeout(ask).catch((error: unknown) => {
      unread.push(...names)
      notes.push(`${what} could not be read: ${reasonOf(error)}`)
      warn(`telemetry: ${what.toLowerCase()}`, error)
      return null
    })
  const [series, log, index, peers] = await Promise.all([
    source('Counters', COUNTED, readCounts(env)),
    source('Sequencer and pools', OF_LOG, readLog(env, nowAt)),
    source('The index', OF_INDEX, readIndex(env, node, { nowAt, since })),
    source('The federation', OF_PEERS, readPeers(env)),
  ])
  const next = series === null ? null : { at: nowAt, counts: watched(series) }
  const counted = next === null ? null : sinceBaseline(baseline, next)
  if (counted !== null && 'note' in counted) notes.push(counted.note)
  const found: Found = {
    ...(counted === null || 'note' in counted ? {} : counted),
    ...log?.found,
    ...index?.found,
    ...(peers === null ? {} : peersNow(peers.view, peers.tips, nowAt)),
  }
  const isOff = (name: SignalName): boolean =>
    CHAINS.some((chain) => LAG[chain] === name && !rails.includes(chain))
  return {
    signals: inRange(found),
    expect: expectOf(node, found),
    // Of a rail that is off nothing is missed.
    unread: unread.filter((name) => !isOff(name)),
    notes,
    baseline: next,
    places: { height: log?.height ?? 0, waiting: index?.waiting ?? {} },
  }
}

/** What this node promises, and so by what it wants to be measured. A lag that was not found is measured by nothing. */
export function expectOf({ config }: NodeContext, found: Found): Expect {
  const promised: Partial<Record<Chain, number>> = {}
  for (const rail of configuredRails(config)) {
    const { chain } = rail
    if ((found[LAG[chain]] ?? null) === null) continue
    const s = (rail.intervalMs + usualConfirmationMs(config, rail)) / 1000
    // Any rail of a chain covers a root there.
    promised[chain] = Math.min(s, promised[chain] ?? Infinity)
  }
  return {
    seal_s: config.sealBatchMaxIntervalMs / 1000,
    anchor_btc_s: promised.BTC,
    anchor_evm_s: promised.EVM,
    anchor_tsa_s: promised.TSA,
    backlog: config.intakeBacklogMax,
  }
}

// ── Sequencer and Pools ────────────────────────────────────────────────────────────────────────

async function readLog(
  env: Env,
  nowAt: number,
): Promise<{ readonly found: Found; readonly height: number }> {
  const log = env.SEQUENCER.getByName('log')
  const { waiting, oldestAt, height } = await log.watch({ overdueBefore: 0, since: nowAt })
  const age = oldestAt === null ? 0 : secondsSince(oldestAt, nowAt)
  return { found: { queue_backlog: waiting, checkpoint_age_s: age }, height }
}

// ── D1 ─────────────────────────────────────────────────────────────────────────────────────────

async function readIndex(
  { DB: db }: Env,
  { config }: NodeContext,
  { nowAt, since }: { readonly nowAt: number; readonly since: number },
): Promise<{ readonly found: Found; readonly waiting: Places['waiting'] }> {
  const [oldest, failures, letters] = await Promise.all([
    oldestUnanchored(db, config.rails),
    anchorFailureRatio(db, configuredRails(config), since),
    countDeadLetters(db),
  ])
  const open = [...letters.values()].reduce((sum, n) => sum + n, 0)
  const found: Found = { dead_letters: open, anchor_failure_ratio: failures }
  for (const chain of config.rails) found[LAG[chain]] = 0
  for (const { chain, sealedAt } of oldest) found[LAG[chain]] = secondsSince(sealedAt, nowAt)
  return { found, waiting: Object.fromEntries(oldest.map((o) => [o.chain, o.height])) }
}

// ── Federation ─────────────────────────────────────────────────────────────────────────────────

async function readPeers(env: Env): Promise<{
  readonly view: PeersView | null
  readonly tips: readonly TipView[] | null
}> {
  const federation = env.FEDERATION.getByName('node')
  const [view, tips] = await Promise.all([federation.peersView(), federation.tipsView()])
  return { view, tips }
}

// ── all of them ────────────────────────────────────────────────────────────────────────────────

/** Every signal, within its range; null where nothing was found. */
function inRange(found: Found): Signals {
  return Object.fromEntries(
    SIGNAL_NAMES.map((name) => {
      const value = found[name] ?? null
      const { min, max } = SIGNALS[name]
      return [name, value === null ? null : Math.min(max, Math.max(min, value))]
    }),
  ) as Record<SignalName, number | null>
}

function secondsSince(at: number, nowAt: number): number {
  return Math.max(0, nowAt - at) / 1000
}

/** What went wrong, in short: an error's own words may hold what nobody should read. */
function reasonOf(error: unknown): string {
  if (error instanceof TookTooLong) return `it did not answer in ${SOURCE_MS / 1000} s.`
  return 'it failed; see the log.'
}

class TookTooLong extends Error {}

async function withTimeout<T>(asking: Promise<T>): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(() => reject(new TookTooLong()), SOURCE_MS)
  try {
    return await Promise.race([asking, late])
  } finally {
    clearTimeout(timer)
  }
}
