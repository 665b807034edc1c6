/**
 * Counting, from anywhere in the node: `count` and `observe` add to a buffer of this isolate and return. Nobody waits
 * for it and it never fails a request.
 *
 * A second after the first count the buffer goes to the object Counters as a batch, in the background of whoever
 * counted first. A batch is frozen with the next sequence number of this isolate and sent again, the same, until it is
 * acknowledged; what is counted meanwhile waits for the next. Counters adds a (source, sequence number) once, so a
 * reply lost after the work costs nothing. A crash loses what was counted since the last flush: a second of one isolate.
 *
 * Invariants: memory is bounded by the catalogue (two maps of its series); at most one batch is unacknowledged.
 */

import {
  bucketOf,
  isCountable,
  metrics,
  partsOf,
  type CounterName,
  type HistogramName,
  type Labels,
  type Series,
} from '#core/metrics.ts'

/** What keeps the isolate alive until the buffer is stored: of a request, a queue batch, a cron or a Durable Object. */
export type Background = Pick<ExecutionContext, 'waitUntil'>

/** At most one flush in this time for each isolate. */
const FLUSH_MS = 1000
/** A flush this old has lost its request (the runtime ended it): another may begin. */
const STALE_MS = 5000
/** A batch that Counters did not take in this time is given up, so that Counters may forget isolates after twice as long. */
export const BATCH_LIFE_MS = 3_600_000

interface Cell extends Series {
  readonly values: number[]
}

interface Batch {
  readonly seq: number
  readonly cells: readonly Cell[]
  readonly frozenAt: number
}

interface Buffer {
  /** Names this isolate to Counters. */
  readonly source: string
  readonly open: Map<string, Cell>
  batch: Batch | null
  lastSeq: number
  /** When the flush on its way was begun; null if none is. */
  flushingAt: number | null
}

/** One buffer an isolate; a simulation of several lives has one each. */
const buffers = new WeakMap<object, Buffer>()

type LabelsArg<N extends CounterName> = keyof Labels<N> extends never
  ? [labels?: Labels<N>, n?: number]
  : [labels: Labels<N>, n?: number]

/**
 * Adds `n` (1) to a counter. Never throws, never waits: 0.3 to 0.6 µs (measured). Without `ctx` it is stored with the
 * next flush: for work that ends with one (a batch of a queue, the minute), as `ctx` would keep it going a second more.
 */
export function count<N extends CounterName>(
  env: Env,
  ctx: Background | undefined,
  name: N,
  ...[labels, n = 1]: LabelsArg<N>
): void {
  const cell = cellOf(env, ctx, name, labels)
  if (cell !== null) cell.values[0]! += n
}

/** Adds one observation, in the histogram's unit. Never throws, never waits. */
export function observe<N extends HistogramName>(
  env: Env,
  ctx: Background | undefined,
  name: N,
  labels: Labels<N>,
  value: number,
): void {
  if (!Number.isFinite(value)) return
  const cell = cellOf(env, ctx, name, labels)
  if (cell === null) return
  cell.values[0]! += value
  cell.values[1 + bucketOf(name, value)]! += 1
}

/** Stores what this isolate has counted; resolves also if Counters does not answer. */
export async function flushCounts(env: Env): Promise<void> {
  const buffer = buffers.get(env)
  if (buffer !== undefined) await flush(env, buffer)
}

/** All counters and histograms that were ever counted, as stored. Throws what Counters throws. */
export async function readCounts(env: Env): Promise<readonly Series[]> {
  return env.COUNTERS.getByName('node').read()
}

function cellOf(
  env: Env,
  ctx: Background | undefined,
  name: CounterName | HistogramName,
  labels: Readonly<Record<string, string>> | undefined,
): Cell | null {
  if (env.COUNTERS === undefined) return null
  let buffer = buffers.get(env)
  if (buffer === undefined) {
    const source = crypto.randomUUID()
    buffer = { source, open: new Map(), batch: null, lastSeq: 0, flushingAt: null }
    buffers.set(env, buffer)
  }
  let key: string = name
  for (const label in labels) key += `\n${labels[label]}`
  let cell = buffer.open.get(key)
  if (cell === undefined) {
    const ordered = Object.keys(metrics[name].labels).map((label) => labels?.[label] ?? '')
    cell = { name, labels: ordered, values: partsOf(name).map(() => 0) }
    if (!isCountable(cell)) {
      log('not in the catalogue of metrics', name)
      return null
    }
    buffer.open.set(key, cell)
  }
  scheduleFlush(env, ctx, buffer)
  return cell
}

function scheduleFlush(env: Env, ctx: Background | undefined, buffer: Buffer): void {
  if (ctx === undefined) return
  const nowAt = Date.now()
  // A clock that was set back must not keep the next flush waiting.
  if (buffer.flushingAt !== null && Math.abs(nowAt - buffer.flushingAt) < STALE_MS) return
  buffer.flushingAt = nowAt
  ctx.waitUntil(flushSoon(env, buffer))
}

async function flushSoon(env: Env, buffer: Buffer): Promise<void> {
  await scheduler.wait(FLUSH_MS)
  // From here on the next count begins the next flush: this request carries no others for ever.
  buffer.flushingAt = null
  await flush(env, buffer)
}

/** Sends what an earlier flush left, then what was counted since. */
async function flush(env: Env, buffer: Buffer): Promise<void> {
  for (let i = 0; i < 2; i++) {
    const batch = (buffer.batch ??= freeze(buffer))
    if (batch === null) return
    try {
      await env.COUNTERS.getByName('node').add(buffer.source, batch.seq, batch.cells)
    } catch (error) {
      const isOver = Date.now() - batch.frozenAt > BATCH_LIFE_MS
      log(isOver ? 'counts given up' : 'counts not stored yet', error)
      if (isOver && buffer.batch === batch) buffer.batch = null
      return
    }
    if (buffer.batch === batch) buffer.batch = null
  }
}

function freeze(buffer: Buffer): Batch | null {
  if (buffer.open.size === 0) return null
  const cells = [...buffer.open.values()]
  buffer.open.clear()
  return { seq: ++buffer.lastSeq, cells, frozenAt: Date.now() }
}

function log(msg: string, error: unknown): void {
  console.error(JSON.stringify({ level: 'warn', msg, error: String(error) }))
}
