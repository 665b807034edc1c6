/**
 * Pages of the dashboard over a large D1: time of each at the server, and what each of their queries reads.
 *
 * A few thousand events are real (posted, sealed, provable); the rest are rows made by SQL (pages-worker.ts). Times
 * are of whole requests on loopback, the check of the session included. A query that scans a table, or reads more
 * rows than a page could ever show, fails the bench.
 */

import { bundleWorker } from '../build.ts'
import type { Host } from '../host.ts'
import { quantile } from './client.ts'
import { makeEvents } from './events.ts'

/** What the bench around it has. */
export interface PagesBench {
  readonly start: (
    vars: Readonly<Record<string, string>>,
    script: string,
  ) => Promise<Host & { port: number }>
  readonly token: string
  readonly say: (name: string, value: string, aim?: string) => void
  readonly quick: boolean
}

/** Sign-in that nobody uses: the session is put into D1. */
const SIGN_IN = {
  PUBLIC_URL: 'http://127.0.0.1',
  OIDC_ISSUER: 'http://127.0.0.1:1',
  OIDC_CLIENT_ID: 'bench',
  OIDC_CLIENT_SECRET: 'bench',
  OIDC_ALLOW_HTTP: '1',
  OIDC_ROLE_MAP: 'a=admin',
} as const

/** As pages-worker.ts counts on. */
const REAL_EVENTS = 2000
/** Rows of one statement: 2 s of SQLite. */
const CHUNK = 25_000
const AIM_MS = 50
/** Rows that the dearest query may read: a page has 50 hits of 5 rows each. */
const MAX_ROWS = 1000

/** What the Worker says when its D1 is full. */
interface Filled {
  readonly known: Readonly<
    Record<'realHash' | 'hash' | 'source' | 'subject' | 'root' | 'txHash', string>
  > & { readonly height: number }
  readonly secret: string
}

interface Report {
  readonly say: PagesBench['say']
  readonly misses: string[]
  readonly rounds: number
}

/** Fills a D1 and measures pages and queries; throws if one misses. */
export async function pages({ start, token, say, quick }: PagesBench): Promise<void> {
  const script = await bundleWorker('scripts/bench/pages-worker.ts')
  const host = await start({ ...SIGN_IN, SEAL_BATCH_MAX_ITEMS: '1000000' }, script)
  const total = quick ? 100_000 : 1_000_000
  await postReal(host, token)
  const at = performance.now()
  for (let from = REAL_EVENTS; from < total; from += CHUNK)
    await asked(host, `/bench/fill?from=${from}&to=${Math.min(total, from + CHUNK)}`)
  const filled = await asked<Filled>(host, `/bench/fill-rest?total=${total}`)
  say('events in D1', String(total), `filled in ${((performance.now() - at) / 1000).toFixed(0)} s`)
  const report = { say, misses: [] as string[], rounds: quick ? 20 : 60 }
  await timePages(host, filled, report)
  await meterQueries(host, filled, report)
  await host.stop()
  if (report.misses.length > 0) throw new Error(`pages: ${report.misses.join('; ')}`)
}

async function asked<T>(host: Host, path: string): Promise<T> {
  const answer = await fetch(`${host.url}${path}`)
  const text = await answer.text()
  if (!answer.ok) throw new Error(`${path} answered ${answer.status}: ${text}`)
  return JSON.parse(text) as T
}

async function postReal(host: Host, token: string): Promise<void> {
  const events = await makeEvents(REAL_EVENTS)
  for (let i = 0; i < events.length; i += 1000) {
    await fetch(`${host.url}/events`, {
      method: 'POST',
      headers: { 'content-type': 'application/x-ndjson' },
      body: events.slice(i, i + 1000).join('\n'),
    })
  }
  const headers = { authorization: `Bearer ${token}` }
  const sealed = await fetch(`${host.url}/admin/seal`, { method: 'POST', headers })
  if (!sealed.ok) throw new Error(`seal answered ${sealed.status}: ${await sealed.text()}`)
}

/** Each page, one request after another. */
async function timePages(
  host: Host,
  { known, secret }: Filled,
  { say, misses, rounds }: Report,
): Promise<void> {
  const search = (text: string): string => `/dashboard/events?q=${encodeURIComponent(text)}`
  const paths: readonly (readonly [name: string, path: string])[] = [
    ['overview', '/dashboard'],
    ['events, newest', '/dashboard/events'],
    ['search: hash', search(known.hash)],
    ['search: head of a hash', search(known.hash.slice(0, 8))],
    ['search: root', search(known.root)],
    ['search: transaction', search(known.txHash)],
    ['search: DID', search(known.source)],
    ['search: type', search('type:com.example.type7')],
    ['search: subject', search(known.subject)],
    ['search: height or leaf', search('54321')],
    ['search: nothing there', search('no such thing')],
    ['event', `/dashboard/events/sha256:${known.realHash}`],
    ['batches', '/dashboard/batches'],
    ['batch', `/dashboard/batches/${known.height}`],
    ['anchors', '/dashboard/anchors'],
    ['anchor job', '/dashboard/anchors/7'],
    ['federation', '/dashboard/federation'],
    ['guardian', '/dashboard/guardian'],
    ['alerts', '/dashboard/alerts'],
    ['audit', '/dashboard/audit'],
    ['sessions', '/dashboard/sessions'],
  ]
  const headers = { cookie: `__Host-vm-session=${secret}`, accept: 'text/html' }
  for (const [name, path] of paths) {
    const times: number[] = []
    let size = 0
    for (let round = -3; round < rounds; round++) {
      const at = performance.now()
      const answer = await fetch(`${host.url}${path}`, { headers, redirect: 'manual' })
      const text = await answer.text()
      if (answer.status !== 200) throw new Error(`${path} answered ${answer.status}: ${text}`)
      size = text.length
      if (round >= 0) times.push(performance.now() - at)
    }
    times.sort((a, b) => a - b)
    const p50 = quantile(times, 0.5)
    // The tail is that of a machine that makes the load as well.
    if (p50 > AIM_MS) misses.push(`${name} takes ${p50.toFixed(0)} ms`)
    const figures = `${p50.toFixed(1)}, ${quantile(times, 0.95).toFixed(1)} ms`
    say(`${name}, p50, p95`, figures, `aim < ${AIM_MS} ms; ${(size / 1000).toFixed(0)} kB`)
  }
}

/** Each query of the pages: rows it reads, and its plan. */
async function meterQueries(
  host: Host,
  { secret }: Filled,
  { say, misses }: Report,
): Promise<void> {
  const metered = await asked<
    readonly { name: string; rows: number; plans: string[]; scans: string[] }[]
  >(host, `/bench/queries?secret=${secret}`)
  for (const { name, rows, plans, scans } of metered) {
    if (scans.length > 0) misses.push(`${name} scans: ${scans.join(', ')}`)
    // Sessions that are over are kept for a month, and passed over.
    if (rows > MAX_ROWS && name !== 'listSessions') misses.push(`${name} reads ${rows} rows`)
    say(`  ${name}`, `${rows} rows read`, plans.join(' | ').slice(0, 150))
  }
}
