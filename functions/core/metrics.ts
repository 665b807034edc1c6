/**
 * Every metric of a node in one table: docs/metrics.md is made from it, and what it does not name is neither
 * counted nor shown (names by the Prometheus rules: base units, `_total` for counters).
 *
 * A label's values are a closed list wherever the node counts by it, so that no client can add a series; `null` marks
 * text that comes from settings, peers or authorities, which are few. `node_did` is on every series and not listed.
 */

import { codes, type Code } from './errors.ts'

/** What a metric is: its help, its labels in order and, for a histogram, the upper bounds of its buckets. */
export interface Metric {
  readonly type: 'counter' | 'gauge' | 'histogram'
  readonly help: string
  readonly labels: Readonly<Record<string, readonly string[] | null>>
  readonly buckets?: readonly number[]
}

const CHAINS = ['BTC', 'EVM', 'TSA'] as const
const DEAD_LETTER_QUEUES = ['sealer-dlq', 'anchor-dlq'] as const
const CODES = Object.keys(codes) as Code[]

/** The catalogue, in the order of the page. Units are Prometheus base units: seconds, bytes, counts. */
export const metrics = {
  vaultmesh_build_info: {
    type: 'gauge',
    help: 'Always 1; the label is the version that runs.',
    labels: { version: null },
  },
  vaultmesh_node_info: {
    type: 'gauge',
    help: 'Always 1; the labels say which node and log this is.',
    labels: { node_id: null, origin: null, url: null, network: ['dev', 'production'] },
  },
  vaultmesh_events_total: {
    type: 'counter',
    help: 'Events that came in, one by one or as lines of a bulk. Rejected are those refused for whatever reason; vaultmesh_problems_total says which.',
    labels: { outcome: ['accepted', 'duplicate', 'rejected'] },
  },
  vaultmesh_problems_total: {
    type: 'counter',
    help: 'Refusals by code: of requests, of lines in a bulk, of events that were checked after their 202. /problems/<code> explains each.',
    labels: { code: CODES },
  },
  vaultmesh_event_bytes: {
    type: 'histogram',
    help: 'Size of accepted events, as signed, in bytes.',
    labels: {},
    buckets: [256, 512, 1024, 2048, 4096, 8192, 16_384, 32_768, 65_535],
  },
  vaultmesh_log_size: {
    type: 'gauge',
    help: 'Leaves of the log: events sealed since it began.',
    labels: {},
  },
  vaultmesh_log_height: {
    type: 'gauge',
    help: 'Height of the newest sealed batch.',
    labels: {},
  },
  vaultmesh_checkpoint_timestamp_seconds: {
    type: 'gauge',
    help: 'When the newest batch was sealed; missing while the log is empty.',
    labels: {},
  },
  vaultmesh_pool_events: {
    type: 'gauge',
    help: 'Events accepted and not yet sealed.',
    labels: {},
  },
  vaultmesh_seal_overdue_seconds: {
    type: 'gauge',
    help: 'By how much the oldest waiting event is older than the seal interval; 0 if none is.',
    labels: {},
  },
  vaultmesh_seal_batches_total: {
    type: 'counter',
    help: 'Batches sealed, and attempts at a batch that failed.',
    labels: { outcome: ['sealed', 'failed'] },
  },
  vaultmesh_seal_retries_total: {
    type: 'counter',
    help: 'Attempts at a batch that an earlier attempt had begun.',
    labels: {},
  },
  vaultmesh_seal_duration_seconds: {
    type: 'histogram',
    help: 'From the assignment of a batch to the swap of the head, of attempts that sealed.',
    labels: {},
    buckets: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
  },
  vaultmesh_seal_latency_seconds: {
    type: 'histogram',
    help: 'From the acceptance of the oldest event of a batch to its seal.',
    labels: {},
    buckets: [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 180, 300, 600, 1200, 3600],
  },
  vaultmesh_dead_letters_total: {
    type: 'counter',
    help: 'Messages that a queue gave up.',
    labels: { queue: DEAD_LETTER_QUEUES },
  },
  vaultmesh_dead_letters_open: {
    type: 'gauge',
    help: 'Messages given up whose work is not done yet.',
    labels: { queue: DEAD_LETTER_QUEUES },
  },
  vaultmesh_anchor_attempts_total: {
    type: 'counter',
    help: 'Attempts at an anchor by how they ended: waiting for its chain, final, held for the operator, or failed.',
    labels: { chain: CHAINS, outcome: ['waiting', 'final', 'held', 'failed'] },
  },
  vaultmesh_anchor_backoff_seconds: {
    type: 'gauge',
    help: 'Longest delay that a job of this chain waits after failures; 0 if none failed. The cap is 1800.',
    labels: { chain: CHAINS },
  },
  vaultmesh_anchor_pending: {
    type: 'gauge',
    help: 'Anchor jobs that are neither final nor given up.',
    labels: { chain: CHAINS },
  },
  vaultmesh_anchor_lag_seconds: {
    type: 'gauge',
    help: 'Age of the oldest sealed batch that no anchor of this chain covers; 0 if each is covered. Up to the interval of the rail and its confirmation all is well.',
    labels: { chain: CHAINS },
  },
  vaultmesh_anchor_confirmation_seconds: {
    type: 'histogram',
    help: 'From the queueing of an anchor job to its final receipt.',
    labels: { chain: CHAINS },
    buckets: [1, 5, 15, 60, 300, 900, 1800, 3600, 7200, 14_400, 43_200, 86_400],
  },
  vaultmesh_receipt_verifications_total: {
    type: 'counter',
    help: 'Anchor receipts this node verified before keeping them or again afterwards.',
    labels: { chain: CHAINS, outcome: ['ok', 'failed'] },
  },
  vaultmesh_federation_peers: {
    type: 'gauge',
    help: 'Peers by state, as /federation/peers shows them.',
    labels: { state: null },
  },
  vaultmesh_federation_conflicts: {
    type: 'gauge',
    help: 'Logs of which two histories are known.',
    labels: {},
  },
  vaultmesh_federation_quarantined_roots: {
    type: 'gauge',
    help: 'Roots held in quarantine.',
    labels: {},
  },
  vaultmesh_federation_refusals_total: {
    type: 'counter',
    help: 'Messages of peers that were refused, by code.',
    labels: { code: CODES },
  },
  vaultmesh_wallet_anchors_left: {
    type: 'gauge',
    help: 'Anchors that the wallet of this chain can still pay for if each costs the fee cap.',
    labels: { chain: CHAINS },
  },
  vaultmesh_tsa_chain_expiry_timestamp_seconds: {
    type: 'gauge',
    help: 'When the first certificate in the chain of this authority ends.',
    labels: { authority: null },
  },
  vaultmesh_promises_overdue: {
    type: 'gauge',
    help: 'Accepted events that are past the sealBy of their promise and not sealed.',
    labels: {},
  },
  vaultmesh_alerts_open: {
    type: 'gauge',
    help: 'Open alerts, as /alerts shows them.',
    labels: { kind: null, severity: null },
  },
  vaultmesh_suffering_height: {
    type: 'gauge',
    help: 'Height of the oldest batch that waits for an anchor on a configured rail; 0 if none waits.',
    labels: {},
  },
  vaultmesh_alerted_height: {
    type: 'gauge',
    help: 'Height of the batch that the open alert psi_low leads to; 0 if there is none.',
    labels: {},
  },
  psi_field_density: {
    type: 'gauge',
    help: 'The health index Ψ of this node, between 0 and 1: more is better; docs/psi.md says what it claims.',
    labels: {},
  },
  psi_field_continuity: { type: 'gauge', help: 'Continuity C of the index.', labels: {} },
  psi_field_futurity: { type: 'gauge', help: 'Futurity U of the index.', labels: {} },
  psi_field_phase_coherence: { type: 'gauge', help: 'Phase coherence of the index.', labels: {} },
  psi_field_temporal_entropy: {
    type: 'gauge',
    help: 'Temporal entropy H of the index.',
    labels: {},
  },
  psi_field_prediction_error: {
    type: 'gauge',
    help: 'Prediction error PE of the index.',
    labels: {},
  },
  psi_field_time_dilation: {
    type: 'gauge',
    help: 'How long the interval of telemetry seems to last, in seconds: the more it suffers, the longer.',
    labels: {},
  },
  vaultmesh_psi: {
    type: 'gauge',
    help: 'The health index by node: this one, and peers that were heard.',
    labels: {},
  },
  vaultmesh_psi_threshold: {
    type: 'gauge',
    help: 'GUARDIAN_PSI_LOW: below it the node suffers.',
    labels: {},
  },
  vaultmesh_guardian_alarm: {
    type: 'gauge',
    help: '1 while the Guardian has an alarm open, else 0.',
    labels: {},
  },
  vaultmesh_guardian_interventions_total: {
    type: 'counter',
    help: 'Interventions of the Guardian by kind.',
    labels: { kind: ['nigredo', 'albedo'] },
  },
  vaultmesh_telemetry_accepted_total: {
    type: 'counter',
    help: 'Telemetry samples accepted, of this node and of peers.',
    labels: {},
  },
  vaultmesh_telemetry_rejected_total: {
    type: 'counter',
    help: 'Telemetry samples refused, by code.',
    labels: { reason: CODES },
  },
  vaultmesh_alert_pushes_total: {
    type: 'counter',
    help: 'Alerts pushed by the node itself, by where and how it went.',
    labels: { target: ['alertmanager', 'webhook'], outcome: ['sent', 'failed'] },
  },
  vaultmesh_scrape_errors: {
    type: 'gauge',
    help: '1 if this source could not be read for this scrape: its metrics are left out of it. Else 0.',
    labels: { source: null },
  },
} as const satisfies Record<string, Metric>

/** The name of a metric. */
export type MetricName = keyof typeof metrics

type OfType<T extends Metric['type']> = {
  [N in MetricName]: (typeof metrics)[N]['type'] extends T ? N : never
}[MetricName]

export type CounterName = OfType<'counter'>
export type HistogramName = OfType<'histogram'>
export type GaugeName = OfType<'gauge'>

/** The labels that a metric takes, `node_did` aside. */
export type Labels<N extends MetricName> = {
  readonly [
    L in keyof (typeof metrics)[N]['labels']
  ]: (typeof metrics)[N]['labels'][L] extends readonly (infer V extends string)[] ? V : string
}

/**
 * One series: the values of its labels in the catalogue's order, and its numbers. A counter and a gauge have one; a
 * histogram has its sum, then how many fell in each bucket, the last beyond all bounds.
 */
export interface Series {
  readonly name: MetricName
  readonly labels: readonly string[]
  readonly values: readonly number[]
  /** Whom it is about, if not the node that is scraped. */
  readonly nodeDid?: string
}

/** A series of a metric; its labels may come in any order. */
export function seriesOf<N extends MetricName>(
  name: N,
  labels: Labels<N>,
  values: readonly number[],
  nodeDid?: string,
): Series {
  const given = labels as Readonly<Record<string, string>>
  const ordered = Object.keys(metrics[name].labels).map((label) => given[label]!)
  return { name, labels: ordered, values, ...(nodeDid === undefined ? {} : { nodeDid }) }
}

/**
 * Whether a series may be added to what was counted: a counter or histogram of the catalogue, each label's value, and
 * as many finite numbers as it has, none below 0. What is handed over may come from another version.
 */
export function isCountable(series: Series): boolean {
  if (!Object.hasOwn(metrics, series.name)) return false
  const metric: Metric = metrics[series.name]
  const lists = Object.values(metric.labels)
  return (
    metric.type !== 'gauge' &&
    series.labels.length === lists.length &&
    series.labels.every((value, i) => typeof value === 'string' && isListed(lists[i]!, value)) &&
    series.values.length === partsOf(series.name).length &&
    series.values.every((value) => Number.isFinite(value) && value >= 0)
  )
}

function isListed(list: readonly string[] | null, value: string): boolean {
  return list === null || list.includes(value)
}

/** What the numbers of a metric's series are called in storage: a histogram's are named by their bounds. */
export function partsOf(name: MetricName): readonly string[] {
  const { buckets }: Metric = metrics[name]
  return buckets === undefined ? ['n'] : ['sum', ...buckets.map(String), '+Inf']
}

/**
 * The numbers of a series from stored parts. A bucket that the catalogue has no more goes into the next wider one,
 * which held its observations too; parts that mean nothing here are left out.
 */
export function restoreValues(
  name: MetricName,
  stored: Iterable<readonly [part: string, value: number]>,
): number[] {
  const parts = partsOf(name)
  const values = parts.map(() => 0)
  for (const [part, value] of stored) {
    let at = parts.indexOf(part)
    if (at < 0 && parts.length > 1 && Number.isFinite(Number(part))) {
      at = 1 + bucketOf(name as HistogramName, Number(part))
    }
    if (at >= 0) values[at]! += value
  }
  return values
}

/** Position of the bucket that an observation falls in: the first bound not below it, else one past the last. */
export function bucketOf(name: HistogramName, value: number): number {
  const { buckets } = metrics[name]
  const at = buckets.findIndex((bound) => value <= bound)
  return at < 0 ? buckets.length : at
}

/** Labels with more values than this have no series before something was counted. */
const SHOWN_AT_ZERO = 8

/**
 * Stored counters and histograms, with a zero for each that was never counted and whose labels have few values: a
 * rate over a series that appears out of nowhere misses its first count.
 */
export function withZeroes(stored: readonly Series[]): Series[] {
  const all = new Map(stored.map((series) => [keyOf(series), series]))
  for (const name of Object.keys(metrics) as MetricName[]) {
    const { type, labels }: Metric = metrics[name]
    if (type === 'gauge') continue
    let combinations: string[][] = [[]]
    for (const list of Object.values(labels)) {
      const few = list === null || list.length > SHOWN_AT_ZERO ? [] : list
      combinations = combinations.flatMap((before) => few.map((value) => [...before, value]))
    }
    for (const combination of combinations) {
      const zero = { name, labels: combination, values: partsOf(name).map(() => 0) }
      if (!all.has(keyOf(zero))) all.set(keyOf(zero), zero)
    }
  }
  return [...all.values()]
}

function keyOf({ name, labels, nodeDid }: Series): string {
  return JSON.stringify([name, nodeDid ?? null, ...labels])
}
