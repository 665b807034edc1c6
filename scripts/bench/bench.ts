/**
 * `make bench`: what a node does, beside what the platform allows, in one run on one machine.
 *
 * Ratios first: they hold when the machine's speed drifts (by 35 % within hours, measured); absolutes are
 * printed with their conditions. Each pair of figures is taken in turns and the median is shown.
 * `node scripts/bench/bench.ts [section…] [--quick]` runs only the named sections.
 */

import { randomBytes } from 'node:crypto'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseReceipt, verifyReceipt } from '../../functions/core/receipt.ts'
import { bundleWorker } from '../build.ts'
import { startHost, type Host } from '../host.ts'
import { load, quantile, request, type LoadResult } from './client.ts'
import { cost } from './cost.ts'
import { makeEvents } from './events.ts'
import { federation } from './federation.ts'
import { pages as dashboard } from './pages.ts'
import { proofs } from './proofs.ts'

const args = process.argv.slice(2)
const quick = args.includes('--quick')
const sections = args.filter((a) => !a.startsWith('--'))
const wants = (name: string): boolean => sections.length === 0 || sections.includes(name)
const TOKEN = 'bench'
const folders: string[] = []

/** A line of the report. */
function say(name: string, value: string, aim = ''): void {
  console.log(`${name.padEnd(46)} ${value.padStart(24)}  ${aim}`)
}

function title(text: string): void {
  console.log(`\n${text}`)
}

function median(values: readonly number[]): number {
  return quantile(
    [...values].sort((a, b) => a - b),
    0.5,
  )
}

async function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const server = createServer().listen(0, '127.0.0.1', () => {
      const { port } = server.address() as { port: number }
      server.close(() => resolve(port))
    })
  })
}

async function start(
  vars: Readonly<Record<string, string>>,
  script?: string,
): Promise<Host & { port: number }> {
  const stateDir = mkdtempSync(join(tmpdir(), 'vaultmesh-bench-'))
  folders.push(stateDir)
  const port = await freePort()
  const host = await startHost({
    port,
    stateDir,
    cron: false,
    vars: {
      NODE_SECRET: randomBytes(32).toString('base64url'),
      ADMIN_TOKEN: TOKEN,
      ORIGIN: 'bench.example/log',
      RATE_LIMIT_DID: '0',
      RATE_LIMIT_IP: '0',
      INTAKE_BACKLOG_MAX: '5000000',
      ...vars,
    },
    ...(script === undefined ? {} : { script }),
  })
  return { ...host, port }
}

const ceilings = (): Promise<Host & { port: number }> =>
  bundleWorker('scripts/bench/ceilings.ts').then((script) => start({}, script))

async function seal(host: Host): Promise<{ events: number; sealMs: number; indexMs: number }> {
  const response = await fetch(`${host.url}/admin/seal`, {
    method: 'POST',
    headers: { authorization: `Bearer ${TOKEN}` },
  })
  return (await response.json()) as { events: number; sealMs: number; indexMs: number }
}

const jose = (jws: string, headers: Readonly<Record<string, string>> = {}): Buffer =>
  request('POST', '/events', { 'content-type': 'application/jose', ...headers }, jws)
const ndjson = (lines: readonly string[]): Buffer =>
  request('POST', '/events', { 'content-type': 'application/x-ndjson' }, lines.join('\n'))

function bulks(events: readonly string[]): Buffer[] {
  const out: Buffer[] = []
  for (let i = 0; i < events.length; i += 1000) out.push(ndjson(events.slice(i, i + 1000)))
  return out
}

/** Single POST against a Worker that only verifies; taken in turns. */
async function single(): Promise<void> {
  title('Single POST /events, durable before the 202 (64 connections)')
  const rounds = quick ? 2 : 5
  const ms = quick ? 1000 : 3000
  const events = await makeEvents(quick ? 20_000 : 100_000)
  const bare = await ceilings()
  const node = await start({ SEAL_BATCH_MAX_ITEMS: '1000000' })
  const checks = events.slice(0, 5000).map((e) => request('POST', '/verify', {}, e))
  const posts = events.map((e) => jose(e))
  let i = 0
  let j = 0
  const ratios: number[] = []
  const verified: LoadResult[] = []
  const posted: LoadResult[] = []
  for (let round = 0; round <= rounds; round++) {
    const a = await load({
      port: bare.port,
      connections: 64,
      durationMs: ms,
      next: () => checks[i++ % checks.length]!,
    })
    const b = await load({
      port: node.port,
      connections: 64,
      durationMs: ms,
      next: () => posts[j++] ?? null,
    })
    if (round === 0) continue // warm-up
    verified.push(a)
    posted.push(b)
    ratios.push(b.perSecond / a.perSecond)
  }
  say(
    'a Worker that only verifies and answers',
    `${Math.round(median(verified.map((r) => r.perSecond)))}/s`,
  )
  say('POST /events', `${Math.round(median(posted.map((r) => r.perSecond)))}/s`, 'aim ≥ 3,000/s')
  say('ratio', median(ratios).toFixed(2), 'aim ≥ 0.75')
  say(
    'p50, p99',
    `${median(posted.map((r) => r.p50)).toFixed(1)}, ${median(posted.map((r) => r.p99)).toFixed(1)} ms`,
    'aim p99 < 60 ms',
  )
  say('refused', String(posted.reduce((n, r) => n + r.failed, 0)))
  await bare.stop()
  await node.stop()
}

/** Bulk against bare WebCrypto. */
async function bulk(): Promise<void> {
  title(
    'Bulk: NDJSON of 1,000, each signed and verified, durable before the answer (2 connections)',
  )
  const seconds = quick ? 3 : 10
  const events = await makeEvents(quick ? 40_000 : 170_000)
  const bare = await ceilings()
  const n = 20_000
  const webcrypto = async (): Promise<number> => {
    const at = performance.now()
    await (await fetch(`${bare.url}/bare?n=${n}`)).text()
    return n / ((performance.now() - at) / 1000)
  }
  await webcrypto()
  const before = await webcrypto()
  const node = await start({ SEAL_BATCH_MAX_ITEMS: '1000000' })
  const posts = bulks(events)
  let i = 0
  const result = await load({
    port: node.port,
    connections: 2,
    durationMs: seconds * 1000,
    next: () => posts[i++] ?? null,
  })
  const after = await webcrypto()
  const perSecond = (result.requests * 1000) / result.seconds
  const ceiling = (before + after) / 2
  say('bare WebCrypto verification in workerd', `${Math.round(ceiling)}/s`)
  say(
    `bulk over ${result.seconds.toFixed(0)} s`,
    `${Math.round(perSecond)} events/s`,
    'aim ≥ 10,000/s',
  )
  say('ratio', (perSecond / ceiling).toFixed(2), 'aim ≥ 0.60')
  say('refused', String(result.failed))
  await bare.stop()
  await node.stop()
}

/** Bulk with seal and index going on. */
async function sustained(): Promise<void> {
  const seconds = quick ? 8 : 60
  title(`Sustained bulk for ${seconds} s with seal and index`)
  const aim = 6200
  const events = await makeEvents(seconds * aim + 5000)
  const node = await start({ SEAL_BATCH_MAX_ITEMS: '5000' })
  const posts = bulks(events)
  let i = 0
  const result = await load({
    port: node.port,
    connections: 2,
    durationMs: seconds * 1000,
    rate: aim / 1000,
    next: () => posts[i++] ?? null,
  })
  const at = performance.now()
  const left = await seal(node)
  say(
    'accepted',
    `${Math.round((result.requests * 1000) / result.seconds)} events/s`,
    'aim ≥ 6,000/s',
  )
  say(
    'left unsealed at the end',
    `${left.events} events, ${Math.round(performance.now() - at)} ms`,
    'aim: no backlog (≤ one batch)',
  )
  say('bulk p50, p99', `${result.p50.toFixed(0)}, ${result.p99.toFixed(0)} ms`)
  await node.stop()
}

/** Prefer: wait at 50 requests a second. */
async function wait(): Promise<void> {
  title('Prefer: wait, 50 requests a second')
  const seconds = quick ? 5 : 20
  const events = await makeEvents(seconds * 60)
  const node = await start({})
  const posts = events.map((e) => jose(e, { prefer: 'wait=10' }))
  let i = 0
  let receipt = ''
  const result = await load({
    port: node.port,
    connections: 50,
    durationMs: seconds * 1000,
    rate: 50,
    next: () => posts[i++] ?? null,
    onBody: (status, body) => {
      if (status === 200) receipt = body.toString()
    },
  })
  say('receipts', `${result.statuses[200] ?? 0} of ${result.requests}`)
  say('p50', `${result.p50.toFixed(0)} ms`, 'aim < 500 ms')
  say('p99', `${result.p99.toFixed(0)} ms`, 'aim < 1,500 ms')
  if (receipt !== '')
    await receipts(JSON.stringify((JSON.parse(receipt) as { receipt: unknown }).receipt), node)
  await node.stop()
}

async function receipts(text: string, node: Host): Promise<void> {
  const known = (await (await fetch(`${node.url}/.well-known/vaultmesh.json`)).json()) as {
    vkey: string
  }
  const trust = { vkeys: [known.vkey], tsaRoots: [] }
  const times: number[] = []
  for (let i = 0; i < 200; i++) {
    const at = performance.now()
    const report = await verifyReceipt(parseReceipt(text), trust)
    times.push(performance.now() - at)
    if (report.verdict !== 'verified') throw new Error(report.sentence)
  }
  say('receipt without anchors', `${text.length} bytes`, 'aim < 2,048')
  say('verification in Node, median of 200', `${median(times).toFixed(2)} ms`, 'aim < 5 ms')
}

/** Time of a seal, by batch size. */
async function seals(): Promise<void> {
  title('Seal up to the head swap, storage writes included; index apart')
  for (const [count, aim] of quick
    ? ([[5000, '< 150 ms']] as const)
    : ([
        [5000, '< 150 ms'],
        [100_000, '< 2,500 ms'],
      ] as const)) {
    const node = await start({ SEAL_BATCH_MAX_ITEMS: '1000000' })
    const times: number[] = []
    const index: number[] = []
    for (let round = 0; round < (count === 5000 ? 6 : 3); round++) {
      const posts = bulks(await makeEvents(count))
      let i = 0
      await load({
        port: node.port,
        connections: 2,
        durationMs: 600_000,
        next: () => posts[i++] ?? null,
      })
      const report = await seal(node)
      if (round === 0 && count === 5000) continue // warm-up
      times.push(report.sealMs)
      index.push(report.indexMs)
    }
    say(`seal of ${count}`, `${median(times).toFixed(0)} ms`, `aim ${aim}`)
    say(`index of ${count}`, `${median(index).toFixed(0)} ms`)
    await node.stop()
  }
}

/** Cost of a seal and rate of inserts as the log grows. */
async function growth(): Promise<void> {
  const total = quick ? 100_000 : 1_000_000
  title(`Growth to ${total} events (batches of 5,000)`)
  const node = await start({ SEAL_BATCH_MAX_ITEMS: '5000' })
  const marks = [10_000, 100_000, 1_000_000].filter((m) => m <= total)
  let first = 0
  let size = 0
  for (const mark of marks) {
    const sealed: number[] = []
    const index: number[] = []
    const rates: number[] = []
    while (size < mark) {
      const step = Math.min(10_000, mark - size)
      const posts = bulks(await makeEvents(step))
      let i = 0
      const r = await load({
        port: node.port,
        connections: 2,
        durationMs: 600_000,
        next: () => posts[i++] ?? null,
      })
      rates.push((r.requests * 1000) / r.seconds)
      for (;;) {
        const report = await sealDone(node, size + step)
        sealed.push(report.sealMs)
        index.push(report.indexMs)
        if (report.size >= size + step) break
      }
      size += step
    }
    const recent = rates.slice(-5)
    first ||= median(recent)
    const memory = rss()
    say(
      `at ${mark}`,
      `${Math.round(median(recent))} events/s in`,
      `${(median(recent) / first).toFixed(2)} of the rate at 10,000 (aim ≥ 0.70)`,
    )
    say(
      '  seal, index of the last batches',
      `${median(sealed.slice(-6)).toFixed(0)}, ${median(index.slice(-6)).toFixed(0)} ms`,
    )
    say('  memory of workerd', `${memory} MB`)
  }
  await node.stop()
}

async function sealDone(
  node: Host,
  wanted: number,
): Promise<{ size: number; sealMs: number; indexMs: number }> {
  const report = await seal(node)
  const health = (await (await fetch(`${node.url}/healthz`)).json()) as {
    log: { treeSize: number }
  }
  if (health.log.treeSize < wanted && report.events === 0)
    await new Promise((r) => setTimeout(r, 1100))
  return { size: health.log.treeSize, sealMs: report.sealMs, indexMs: report.indexMs }
}

/** Resident memory of the workerd processes this bench started, in MB (proc(5): stat, statm). */
function rss(): number {
  let pages = 0
  for (const pid of readdirSync('/proc').filter((name) => /^\d+$/.test(name))) {
    try {
      const [, comm, rest] = /^\d+ \((.*)\) \S (.*)$/s.exec(
        readFileSync(`/proc/${pid}/stat`, 'utf8'),
      )!
      if (comm !== 'workerd' || rest!.split(' ')[0] !== String(process.pid)) continue
      pages += Number(readFileSync(`/proc/${pid}/statm`, 'utf8').split(' ')[1])
    } catch {
      // The process ended while we looked.
    }
  }
  return Math.round((pages * 4096) / 1_048_576)
}

/** Reads of immutable objects against an empty Worker. */
async function reads(): Promise<void> {
  title('Reads against an empty Worker (32 connections)')
  const bare = await ceilings()
  const node = await start({ SEAL_BATCH_MAX_ITEMS: '1000000' })
  const posts = bulks(await makeEvents(2000))
  let i = 0
  await load({
    port: node.port,
    connections: 1,
    durationMs: 60_000,
    next: () => posts[i++] ?? null,
  })
  await seal(node)
  const ms = quick ? 1000 : 3000
  const paths = { 'tile (8 KiB)': '/log/tile/0/000', checkpoint: '/log/checkpoint' }
  const empty = request('GET', '/empty')
  for (const [name, path] of Object.entries(paths)) {
    const get = request('GET', path)
    const ratios: number[] = []
    const rates: number[] = []
    let ceiling = 0
    for (let round = 0; round < 4; round++) {
      const a = await load({ port: bare.port, connections: 32, durationMs: ms, next: () => empty })
      const b = await load({ port: node.port, connections: 32, durationMs: ms, next: () => get })
      if (round === 0) continue
      ceiling = a.perSecond
      rates.push(b.perSecond)
      ratios.push(b.perSecond / a.perSecond)
    }
    say(name, `${Math.round(median(rates))}/s of ${Math.round(ceiling)}/s`)
    say('  ratio', median(ratios).toFixed(2), 'aim ≥ 0.70')
  }
  await bare.stop()
  await node.stop()
}

console.log(
  `VaultMesh bench: ${cpus().length} × ${cpus()[0]?.model.trim()}, Node ${process.version}, load generator on the same machine${quick ? ', quick' : ''}`,
)
try {
  if (wants('single')) await single()
  if (wants('bulk')) await bulk()
  if (wants('wait')) await wait()
  if (wants('reads')) await reads()
  if (wants('seals')) await seals()
  if (wants('sustained')) await sustained()
  if (wants('growth')) await growth()
  if (wants('federation')) {
    title('Federation: what a round costs, and how soon all stand on a seal')
    await federation({ start, token: TOKEN, say, quick })
  }
  if (wants('pages')) {
    title('Pages of the dashboard, and what their queries read')
    await dashboard({ start, token: TOKEN, say, quick })
  }
  if (wants('cost')) {
    title('Cost on Cloudflare: operations counted, list prices')
    await cost({ start, token: TOKEN, quick })
  }
  if (wants('proofs')) {
    title('Verification by kind of proof: Node / workerd, and size')
    const folder = mkdtempSync(join(tmpdir(), 'vaultmesh-bench-'))
    folders.push(folder)
    await proofs({ folder, start, bare: ceilings, say, quick })
  }
} finally {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true })
}
process.exit(0)
