/**
 * What an event costs on Cloudflare: operations counted in the real Worker (cost-worker.ts), and list prices.
 *
 * Counted apart, so that they add up for any rate: taking an event in (alone, among many, in bulk), a seal (a fixed
 * part and a part per event), and time that passes with nothing to do (cron, Guardian, federation). Operations are
 * measured; CPU time is all of workerd's on this machine, its D1 and R2 included, and so too high; prices are those
 * of the pages named, and a month is 30 days. It is no bill: taxes, support, logs beyond the included, DNS are not in.
 */

import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { bundleWorker } from '../build.ts'
import type { Host } from '../host.ts'
import { load, request } from './client.ts'
import { makeEvents } from './events.ts'
import { converged, mesh } from './federation.ts'

/** What bench.ts lends. */
export interface CostBench {
  readonly start: (
    vars: Readonly<Record<string, string>>,
    script: string,
  ) => Promise<Host & { port: number }>
  readonly token: string
  readonly quick: boolean
}

/** Counters of cost-worker.ts, and CPU time of the runtime in ms. */
export interface Operations {
  readonly requests: number
  readonly queueInvocations: number
  readonly crons: number
  readonly doRequests: number
  readonly alarms: number
  readonly doRowsRead: number
  readonly doRowsWritten: number
  readonly doActiveMs: number
  readonly d1Queries: number
  readonly d1RowsRead: number
  readonly d1RowsWritten: number
  readonly r2ClassA: number
  readonly r2ClassB: number
  readonly r2BytesPut: number
  readonly queueOperations: number
  readonly subrequests: number
  readonly cpuMs: number
}
type Field = keyof Operations

const FIELDS: readonly (readonly [Field, string])[] = [
  ['requests', 'Worker requests'],
  ['queueInvocations', '… by queues'],
  ['crons', '… by cron'],
  ['doRequests', 'DO requests'],
  ['alarms', '… by alarms'],
  ['doRowsRead', 'DO rows read'],
  ['doRowsWritten', 'DO rows written'],
  ['doActiveMs', 'DO active, ms'],
  ['d1Queries', 'D1 queries'],
  ['d1RowsRead', 'D1 rows read'],
  ['d1RowsWritten', 'D1 rows written'],
  ['r2ClassA', 'R2 class A'],
  ['r2ClassB', 'R2 class B'],
  ['r2BytesPut', 'R2 kB put'],
  ['queueOperations', 'queue operations'],
  ['subrequests', 'fetches out'],
  ['cpuMs', 'CPU of workerd, ms'],
]

/** US dollars a unit beyond what the paid plan includes a month. docs/cost.md names pages and dates. */
export const PRICES = {
  base: 5,
  requests: { per: 0.3e-6, included: 10e6 },
  cpuMs: { per: 0.02e-6, included: 30e6 },
  doRequests: { per: 0.15e-6, included: 1e6 },
  doGbSeconds: { per: 12.5e-6, included: 400e3 },
  rowsRead: { per: 0.001e-6, included: 25e9 },
  rowsWritten: { per: 1e-6, included: 50e6 },
  r2ClassA: { per: 4.5e-6, included: 1e6 },
  r2ClassB: { per: 0.36e-6, included: 10e6 },
  queueOperations: { per: 0.4e-6, included: 1e6 },
  d1Gb: { per: 0.75, included: 5 },
  doGb: { per: 0.2, included: 5 },
  r2Gb: { per: 0.015, included: 10 },
} as const

const SECONDS = 30 * 86_400
/** Memory an object is paid for while it is active, whatever it uses. */
const DO_GB = 0.128

/** Prints what is measured, and what it costs at three rates. */
export async function cost({ start, token, quick }: CostBench): Promise<void> {
  const script = await bundleWorker('scripts/bench/cost-worker.ts')
  const lend = { start: (vars: Readonly<Record<string, string>>) => start(vars, script) }
  const vars = {
    INTAKE_SHARDS: '16',
    SEAL_BATCH_MAX_ITEMS: '1000000',
    SEAL_BATCH_MAX_INTERVAL_MS: '86400000',
  }
  const node = await lend.start(vars)
  const of = meterOf(node)
  const n = quick ? 500 : 1000
  await bulk(node, 1000)
  await seal(node, token)

  const few = quick ? 24 : 60
  const alone = per1000(await of(() => singles(node, few, { connections: 4, rate: 4 })), few)
  const busy = per1000(await of(() => singles(node, 4 * n, { connections: 64 })), 4 * n)
  await seal(node, token)
  const bulks = per1000(await of(() => bulk(node, 5000)), 5000)
  const sealOf5000 = await of(() => seal(node, token))
  await bulk(node, 1000)
  const sealOf1000 = await of(() => seal(node, token))
  const perEvent = scaled(minus(sealOf5000, sealOf1000), 1 / 4000)
  const perSeal = minus(sealOf1000, scaled(perEvent, 1000))
  await sleep(2000)
  const ticks = quick ? 5 : 20
  const tick = scaled(
    await of(async () => {
      for (let i = 0; i < ticks; i++) await node.tick()
    }),
    1 / ticks,
  )
  const stored = await sizes(node)
  await node.stop()

  const sampleMs = 1000
  const watched = await lend.start({ ...vars, GUARDIAN_INTERVAL_MS: String(sampleMs) })
  await watched.tick()
  await sleep(2000)
  const samples = quick ? 5 : 20
  const guardian = scaled(await meterOf(watched)(() => sleep(samples * sampleMs)), 1 / samples)
  await watched.stop()
  const day = plus(scaled(tick, 1440), scaled(guardian, 1440))

  const members = await mesh({ ...lend, token, say: () => undefined, quick }, 3)
  await converged(members)
  await sleep(5000)
  const seconds = quick ? 6 : 15
  const federated = scaled(
    await meterOf(members[0]!.host)(() => sleep(seconds * 1000)),
    86_400 / seconds,
  )
  for (const { host, counter } of members) {
    await host.stop()
    await counter.stop()
  }

  table('Operations for 1,000 events taken in, measured', [
    ['four a second', alone],
    ['64 at once', busy],
    ['bulk of 1,000', bulks],
    ['seal + index', scaled(perEvent, 1000)],
  ])
  table('One seal beside its events; one day without events, measured', [
    ['one seal', perSeal],
    ['cron, Guardian', day],
    ['federation of 3', federated],
  ])
  console.log(
    `\nStored for each event: D1 ${stored.d1.toFixed(0)} bytes, Durable Objects ${stored.objects.toFixed(0)}, R2 ${stored.r2.toFixed(0)}`,
  )
  console.log('\nA month at list prices, in US dollars (stores: of the first month’s events)')
  console.log(
    `${'events/s'.padEnd(26)}${['Worker', 'CPU', 'DO calls', 'DO time', 'rows', 'R2', 'queues', 'stores', 'sum'].map((h) => h.padStart(10)).join('')}  $/million`,
  )
  for (const rate of [1, 100, 10_000])
    for (const [name, intake] of [
      ['single', rate >= 1000 ? busy : alone],
      ['bulk', bulks],
    ] as const) {
      const bill = monthly({ rate, intake, perEvent, perSeal, day, stored })
      const cells = Object.values(bill)
      const sum = cells.reduce((a, b) => a + b, PRICES.base)
      const million = (sum / (rate * SECONDS)) * 1e6
      console.log(
        `${`${rate} ${name}`.padEnd(26)}${[...cells, sum].map((v) => v.toFixed(v < 100 ? 2 : 0).padStart(10)).join('')}  ${million.toFixed(2).padStart(8)}`,
      )
    }
}

/** The formula: what a month at `rate` events a second costs beyond what is included. */
export function monthly(model: {
  readonly rate: number
  /** For 1,000 events. */
  readonly intake: Operations
  readonly perEvent: Operations
  readonly perSeal: Operations
  readonly day: Operations
  /** Bytes an event. */
  readonly stored: { readonly d1: number; readonly objects: number; readonly r2: number }
}) {
  const events = model.rate * SECONDS
  // A seal is due at 5,000 events or after two minutes.
  const seals = Math.max(events / 5000, Math.min(events, SECONDS / 120))
  const all = [
    scaled(model.intake, events / 1000),
    scaled(model.perEvent, events),
    scaled(model.perSeal, seals),
    scaled(model.day, 30),
  ].reduce(plus)
  const over = (amount: number, { per, included }: { per: number; included: number }): number =>
    Math.max(0, amount - included) * per
  // In the first month on average half of its events lie there; the platform's GB is 10^9 bytes.
  const gb = (bytes: number): number => (events * bytes) / 2 / 1e9
  return {
    worker: over(all.requests + all.queueInvocations + all.crons, PRICES.requests),
    cpu: over(all.cpuMs, PRICES.cpuMs),
    doCalls: over(all.doRequests + all.alarms, PRICES.doRequests),
    doTime: over((all.doActiveMs / 1000) * DO_GB, PRICES.doGbSeconds),
    rows:
      over(all.doRowsRead, PRICES.rowsRead) +
      over(all.d1RowsRead, PRICES.rowsRead) +
      over(all.doRowsWritten, PRICES.rowsWritten) +
      over(all.d1RowsWritten, PRICES.rowsWritten),
    r2: over(all.r2ClassA, PRICES.r2ClassA) + over(all.r2ClassB, PRICES.r2ClassB),
    queues: over(all.queueOperations, PRICES.queueOperations),
    stores:
      over(gb(model.stored.d1), PRICES.d1Gb) +
      over(gb(model.stored.objects), PRICES.doGb) +
      over(gb(model.stored.r2), PRICES.r2Gb),
  }
}

/** Measures what `act` causes, and what comes after it for a second. */
function meterOf(node: Host): (act: () => Promise<unknown>) => Promise<Operations> {
  const read = async (reset: boolean): Promise<Operations> =>
    (await (await fetch(`${node.url}/bench/meter${reset ? '?reset' : ''}`)).json()) as Operations
  return async (act) => {
    await read(true)
    const before = cpuMs()
    await act()
    await sleep(1000)
    return { ...(await read(false)), cpuMs: cpuMs() - before }
  }
}

/** CPU time of the workerd processes that this bench started, in ms: proc(5), ticks of 10 ms. */
function cpuMs(): number {
  let ticks = 0
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
      const [, comm, rest] = /^\d+ \((.*)\) (.*)$/s.exec(stat)!
      const fields = rest!.split(' ')
      if (comm !== 'workerd' || fields[1] !== String(process.pid)) continue
      ticks += Number(fields[11]) + Number(fields[12])
    } catch {
      // It ended while we looked.
    }
  }
  return ticks * 10
}

async function singles(
  node: Host & { port: number },
  n: number,
  how: { readonly connections: number; readonly rate?: number },
) {
  const posts = (await makeEvents(n)).map((jws) =>
    request('POST', '/events', { 'content-type': 'application/jose' }, jws),
  )
  let i = 0
  const result = await load({
    port: node.port,
    ...how,
    durationMs: 600_000,
    next: () => posts[i++] ?? null,
  })
  if (result.failed > 0) throw new Error(`${result.failed} posts were refused`)
}

async function bulk(node: Host, n: number): Promise<void> {
  const events = await makeEvents(n)
  for (let i = 0; i < n; i += 1000) {
    const answer = await fetch(`${node.url}/events`, {
      method: 'POST',
      headers: { 'content-type': 'application/x-ndjson' },
      body: events.slice(i, i + 1000).join('\n'),
    })
    if (!answer.ok) throw new Error(`bulk answered ${answer.status}`)
    await answer.text()
  }
}

async function seal(node: Host, token: string): Promise<void> {
  const headers = { authorization: `Bearer ${token}` }
  const answer = await fetch(`${node.url}/admin/seal`, { method: 'POST', headers })
  if (!answer.ok) throw new Error(`seal answered ${answer.status}: ${await answer.text()}`)
  await answer.text()
}

/** Bytes an event takes in each store, by ten thousand more of them. */
async function sizes(node: Host): Promise<{ d1: number; objects: number; r2: number }> {
  const read = async () =>
    (await (await fetch(`${node.url}/bench/meter`)).json()) as Operations & {
      d1Bytes: number
      doBytes: number
    }
  const before = await read()
  const n = 10_000
  await bulk(node, n)
  await seal(node, 'bench')
  await sleep(3000)
  const after = await read()
  return {
    d1: (after.d1Bytes - before.d1Bytes) / n,
    objects: (after.doBytes - before.doBytes) / n,
    r2: (after.r2BytesPut - before.r2BytesPut) / n,
  }
}

function combine(a: Operations, b: Operations, by: (x: number, y: number) => number): Operations {
  return Object.fromEntries(FIELDS.map(([field]) => [field, by(a[field], b[field])])) as Record<
    Field,
    number
  >
}

const plus = (a: Operations, b: Operations): Operations => combine(a, b, (x, y) => x + y)
const minus = (a: Operations, b: Operations): Operations =>
  combine(a, b, (x, y) => Math.max(0, x - y))
const scaled = (a: Operations, by: number): Operations => combine(a, a, (x) => x * by)
const per1000 = (a: Operations, events: number): Operations => scaled(a, 1000 / events)

function table(title: string, columns: readonly (readonly [string, Operations])[]): void {
  console.log(`\n${title}`)
  console.log(`${''.padEnd(22)}${columns.map(([name]) => name.padStart(16)).join('')}`)
  for (const [field, name] of FIELDS) {
    const shown = columns.map(([, counted]) => {
      const value = field === 'r2BytesPut' ? counted[field] / 1000 : counted[field]
      return value.toLocaleString('en-US', { maximumFractionDigits: value < 10 ? 2 : 0 })
    })
    console.log(`${name.padEnd(22)}${shown.map((text) => text.padStart(16)).join('')}`)
  }
}
