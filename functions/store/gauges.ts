/**
 * What /metrics shows besides counters: read from its owners at each scrape.
 *
 * Each source is asked beside the others and fails alone, also by silence. What cannot be read is left out, and
 * `vaultmesh_scrape_errors` says so: there are no default values. Every look-up is by key or over what is open, so a
 * scrape costs the same whatever the length of the log: some tens of rows of D1, one call for each Pool shard.
 */

import type { Code } from '#core/errors.ts'
import { seriesOf, withZeroes, type Series } from '#core/metrics.ts'
import { oldestUnanchored } from './anchor-lag.ts'
import { configuredRails } from './anchors.ts'
import { countDeadLetters } from './alerts.ts'
import type { GuardianView, NodeHealth } from './guardian-api.ts'
import { flushCounts, readCounts } from './metrics.ts'
import { VERSION, type NodeContext } from './node.ts'
import { sufferingHeight } from './suffering.ts'
import { tsaExpiries, walletReadings } from './watch.ts'

/** Longest wait for one source: Prometheus gives up a scrape after 10 s. */
const SOURCE_MS = 5000

/** Asked once for all sources of a scrape. */
interface Scrape {
  readonly env: Env
  readonly node: NodeContext
  readonly nowAt: number
  readonly guardian: Promise<GuardianView | null>
}

/** The sources by name, and what each shows. */
const sources: Readonly<Record<string, (scrape: Scrape) => Promise<readonly Series[]>>> = {
  counters: readCounters,
  sequencer: readHead,
  pools: readWaiting,
  anchors: readAnchors,
  dead_letters: readDeadLetters,
  alerts: readAlerts,
  federation: readFederation,
  wallets: readWallets,
  authorities: readAuthorities,
  guardian: readGuardian,
  telemetry: readTelemetry,
}

/** Every series of a scrape. Never throws. */
export async function readSeries(env: Env, node: NodeContext, nowAt: number): Promise<Series[]> {
  const guardian = askGuardian(env)
  // Two sources share it; whether they fail is theirs to say.
  guardian.catch(() => undefined)
  const scrape = { env, node, nowAt, guardian }
  const asked = await Promise.all(
    Object.entries(sources).map(async ([source, read]): Promise<readonly Series[]> => {
      try {
        return [...(await inTime(read(scrape))), scrapeError(source, 0)]
      } catch (cause) {
        console.error(
          JSON.stringify({ level: 'warn', msg: 'not scraped', source, error: String(cause) }),
        )
        return [scrapeError(source, 1)]
      }
    }),
  )
  return [...ofNode(node), ...asked.flat()]
}

function scrapeError(source: string, value: 0 | 1): Series {
  return seriesOf('vaultmesh_scrape_errors', { source }, [value])
}

async function inTime<T>(asked: Promise<T>): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(() => reject(new Error(`no answer in ${SOURCE_MS} ms`)), SOURCE_MS)
  try {
    return await Promise.race([asked, late])
  } finally {
    clearTimeout(timer)
  }
}

function ofNode({ config }: NodeContext): Series[] {
  const { nodeId: node_id, origin, publicUrl: url, network } = config
  return [
    seriesOf('vaultmesh_build_info', { version: VERSION }, [1]),
    seriesOf('vaultmesh_node_info', { node_id, origin, url, network }, [1]),
  ]
}

async function readCounters({ env }: Scrape): Promise<Series[]> {
  await flushCounts(env)
  return withZeroes(await readCounts(env))
}

async function readHead({ env }: Scrape): Promise<Series[]> {
  const { size, height, sealedAt } = await env.SEQUENCER.getByName('log').head()
  return [
    seriesOf('vaultmesh_log_size', {}, [size]),
    seriesOf('vaultmesh_log_height', {}, [height]),
    ...(height === 0
      ? []
      : [seriesOf('vaultmesh_checkpoint_timestamp_seconds', {}, [sealedAt / 1000])]),
  ]
}

async function readWaiting({ env, node, nowAt }: Scrape): Promise<Series[]> {
  const { sealBatchMaxIntervalMs, sealPromiseSlackMs } = node.config
  const { waiting, oldestAt, overdue } = await env.SEQUENCER.getByName('log').watch({
    overdueBefore: nowAt - sealBatchMaxIntervalMs - sealPromiseSlackMs,
    since: nowAt,
  })
  const lateMs = oldestAt === null ? 0 : Math.max(0, nowAt - oldestAt - sealBatchMaxIntervalMs)
  return [
    seriesOf('vaultmesh_pool_events', {}, [waiting]),
    seriesOf('vaultmesh_seal_overdue_seconds', {}, [lateMs / 1000]),
    seriesOf('vaultmesh_promises_overdue', {}, [overdue]),
  ]
}

async function readAnchors({ env, node, nowAt }: Scrape): Promise<Series[]> {
  const { rails } = node.config
  const [open, waiting, suffering] = await Promise.all([
    env.DB.prepare(
      `SELECT chain, count(*) AS pending, max(iif(failures > 0, delay_ms, 0)) AS delayMs
       FROM anchors INDEXED BY anchors_due WHERE state NOT IN ('final', 'failed') GROUP BY chain`,
    ).all<{ chain: (typeof rails)[number]; pending: number; delayMs: number }>(),
    oldestUnanchored(env.DB, rails),
    sufferingHeight(env.DB, configuredRails(node.config)),
  ])
  // A rail that was switched off may have jobs under way.
  const chains = new Set([...rails, ...open.results.map(({ chain }) => chain)])
  return [
    ...[...chains].flatMap((chain) => {
      const jobs = open.results.find((row) => row.chain === chain)
      return [
        seriesOf('vaultmesh_anchor_pending', { chain }, [jobs?.pending ?? 0]),
        seriesOf('vaultmesh_anchor_backoff_seconds', { chain }, [(jobs?.delayMs ?? 0) / 1000]),
      ]
    }),
    ...rails.map((chain) => {
      const oldest = waiting.find((batch) => batch.chain === chain)
      const ageMs = oldest === undefined ? 0 : Math.max(0, nowAt - oldest.sealedAt)
      return seriesOf('vaultmesh_anchor_lag_seconds', { chain }, [ageMs / 1000])
    }),
    seriesOf('vaultmesh_suffering_height', {}, [suffering]),
  ]
}

async function readDeadLetters({ env }: Scrape): Promise<Series[]> {
  const open = { 'sealer-dlq': 0, 'anchor-dlq': 0 }
  // Queues of log n > 1 have its number behind their names.
  for (const [queue, n] of await countDeadLetters(env.DB)) {
    open[queue.startsWith('sealer-dlq') ? 'sealer-dlq' : 'anchor-dlq'] += n
  }
  return (['sealer-dlq', 'anchor-dlq'] as const).map((queue) =>
    seriesOf('vaultmesh_dead_letters_open', { queue }, [open[queue]]),
  )
}

async function readAlerts({ env }: Scrape): Promise<Series[]> {
  const { results } = await env.DB.prepare(
    `SELECT kind, severity, count(*) AS n, min(link) AS link FROM alerts INDEXED BY alerts_open
     WHERE cleared_at IS NULL GROUP BY kind, severity`,
  ).all<{ kind: string; severity: string; n: number; link: string }>()
  const psiLow = results.find(({ kind }) => kind === 'psi_low')?.link ?? ''
  return [
    ...results.map(({ kind, severity, n }) =>
      seriesOf('vaultmesh_alerts_open', { kind, severity }, [n]),
    ),
    seriesOf('vaultmesh_alerted_height', {}, [Number(/^\/batches\/(\d+)$/.exec(psiLow)?.[1] ?? 0)]),
  ]
}

async function readFederation({ env }: Scrape): Promise<Series[]> {
  const figures = await env.FEDERATION.getByName('node').figures()
  // In no federation there is nothing to show.
  if (figures === null) return []
  return [
    ...Object.entries(figures.peers).map(([state, n]) =>
      seriesOf('vaultmesh_federation_peers', { state }, [n]),
    ),
    seriesOf('vaultmesh_federation_conflicts', {}, [figures.conflicts]),
    seriesOf('vaultmesh_federation_quarantined_roots', {}, [figures.quarantined]),
    ...Object.entries(figures.refusals).map(([code, n]) =>
      seriesOf('vaultmesh_federation_refusals_total', { code: code as Code }, [n]),
    ),
  ]
}

/** The watchers read a wallet once an hour; what is older than three looks is not known any more. */
const WALLET_KNOWN_MS = 3 * 3_600_000

async function readWallets({ env, nowAt }: Scrape): Promise<Series[]> {
  const readings = await walletReadings(env.DB)
  const known = readings.filter(({ readAt }) => nowAt - readAt < WALLET_KNOWN_MS)
  return [
    ...known.map(({ chain, anchorsLeft }) =>
      seriesOf('vaultmesh_wallet_anchors_left', { chain }, [anchorsLeft]),
    ),
    // One of them is no reason to leave the others out; of two lines for a source the first counts.
    ...(known.length < readings.length ? [scrapeError('wallets', 1)] : []),
  ]
}

async function readAuthorities({ env }: Scrape): Promise<Series[]> {
  return (await tsaExpiries(env.DB)).map(({ authority, expiresAt }) =>
    seriesOf('vaultmesh_tsa_chain_expiry_timestamp_seconds', { authority }, [expiresAt / 1000]),
  )
}

async function askGuardian(env: Env): Promise<GuardianView | null> {
  return env.GUARDIAN.getByName('node').view()
}

/** Ψ of every node that was heard of late, and the own alarm. Nothing before the first telemetry. */
async function readGuardian({ guardian }: Scrape): Promise<Series[]> {
  return guardianGauges(await guardian)
}

function guardianGauges(view: GuardianView | null): Series[] {
  if (view === null) return []
  const own = ownOf(view)
  return [
    seriesOf('vaultmesh_psi_threshold', {}, [view.threshold]),
    ...(own === undefined
      ? []
      : [seriesOf('vaultmesh_guardian_alarm', {}, [own.alarm === null ? 0 : 1])]),
    ...view.nodes
      .filter(({ stale }) => !stale)
      .map(({ nodeDid, sample }) => seriesOf('vaultmesh_psi', {}, [sample.psi], nodeDid)),
  ]
}

/** The terms of the own Ψ; throws where they are of a time that is over. */
async function readTelemetry({ guardian }: Scrape): Promise<Series[]> {
  const view = await guardian
  const own = view === null ? undefined : ownOf(view)
  if (own === undefined) return []
  if (own.stale) throw new Error(`the newest telemetry is of ${own.lastAt}`)
  const { psi, C, U, Phi, H, PE, dtEff } = own.sample
  return [
    seriesOf('psi_field_density', {}, [psi]),
    seriesOf('psi_field_continuity', {}, [C]),
    seriesOf('psi_field_futurity', {}, [U]),
    seriesOf('psi_field_phase_coherence', {}, [Phi]),
    seriesOf('psi_field_temporal_entropy', {}, [H]),
    seriesOf('psi_field_prediction_error', {}, [PE]),
    seriesOf('psi_field_time_dilation', {}, [dtEff]),
  ]
}

function ownOf(view: GuardianView): NodeHealth | undefined {
  return view.nodes.find(({ own }) => own)
}
