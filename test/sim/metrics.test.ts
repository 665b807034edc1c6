/**
 * Counting on bad days: every step of Counters fails once, loses its reply after the work, or is the last thing the
 * process does. The law: no answer to anybody changes; what was counted is added once; totals never fall.
 */

import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { deriveIdentity, signJws, type IdentityKey } from '../../functions/core/node-keys.ts'
import type { Series } from '../../functions/core/metrics.ts'
import { readSeries } from '../../functions/store/gauges.ts'
import { flushCounts } from '../../functions/store/metrics.ts'
import { nodeOf } from '../../functions/store/node.ts'
import { reply } from '../../scripts/devnet/tsa-authority.ts'
import { authorities } from '../support/tsa.ts'
import { Killed, Platform, seeded, type Fault, type Plan } from './platform.ts'

const START = Date.parse('2026-11-23T12:00:00Z')
const VARS = {
  NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
  ORIGIN: 'sim.example/log',
  NODE_ID: 'sim',
  NETWORK: 'dev',
  INTAKE_SHARDS: '2',
  INTAKE_BACKLOG_MAX: '100000',
  RATE_LIMIT_DID: '0',
  RATE_LIMIT_IP: '0',
  SEAL_BATCH_MAX_ITEMS: '4',
  SEAL_BATCH_MAX_INTERVAL_MS: '2000',
}
const JOSE = { 'content-type': 'application/jose' }

let signer: IdentityKey
const events: string[] = []

beforeAll(async () => {
  vi.useFakeTimers({ toFake: ['Date'] })
  vi.setSystemTime(START)
  Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  vi.spyOn(console, 'error').mockImplementation(() => undefined)
  vi.spyOn(console, 'log').mockImplementation(() => undefined)
  signer = await deriveIdentity(new Uint8Array(32).fill(5), 1)
  for (let i = 0; i < 6; i++) {
    events.push(
      await signJws(signer, 'vm-event+jws', {
        specversion: '1.0',
        id: `e${i}`,
        source: signer.did,
        type: 'sim.event',
        time: new Date(START).toISOString(),
      }),
    )
  }
})

afterAll(() => {
  vi.useRealTimers()
  vi.restoreAllMocks()
})

function node(plan: Plan | null): Platform {
  const platform = new Platform(VARS, ['COUNTERS'])
  platform.plan = plan
  return platform
}

/** The same requests each time: accepted singly and in bulk, async, posted twice, forged, malformed, elsewhere. */
async function requests(platform: Platform): Promise<number[]> {
  const post = (body: string, headers: Record<string, string> = JOSE): Promise<Response> =>
    platform.fetch('/events', { method: 'POST', body, headers })
  const forged = `${events[0]!.slice(0, -4)}AAAA`
  const bulk = [events[2], events[3], forged, events[3], 'nothing'].join('\n')
  const answers = [
    await post(events[0]!),
    await post(events[0]!),
    await post(forged),
    await post('a.b'),
    await post(events[1]!, { ...JOSE, prefer: 'respond-async' }),
    await post(bulk, { 'content-type': 'application/x-ndjson' }),
    await platform.fetch('/nowhere'),
    await post(events[4]!),
  ]
  return answers.map(({ status }) => status)
}
const STATUSES = [202, 200, 400, 400, 202, 200, 404, 202]

async function total(platform: Platform): Promise<ReadonlyMap<string, number>> {
  const all: Series[] = await platform.env.COUNTERS.getByName('node').read()
  return new Map(
    all.map(({ name, labels, values }) => [
      [name.replace('vaultmesh_', ''), ...labels].join(' '),
      values[0]!,
    ]),
  )
}

/** Seals what waits, delivers what is queued, and stores what was counted. */
async function end(platform: Platform): Promise<void> {
  platform.plan = null
  const random = seeded(1)
  for (let i = 1; i <= 3; i++) {
    vi.setSystemTime(START + i * 3000)
    await platform.tick(START + i * 3000)
    await platform.deliver(random)
  }
  await platform.settle()
  await flushCounts(platform.env)
  vi.setSystemTime(START)
}

const WHOLE = {
  'events_total accepted': 5,
  'events_total duplicate': 2,
  'events_total rejected': 4,
  'problems_total bad-signature': 2,
  'problems_total bad-jws': 2,
  'problems_total not-found': 1,
}

test('a quiet day is counted as it was: events by outcome, problems by code, bytes, seals', async () => {
  const platform = node(null)
  expect(await requests(platform)).toEqual(STATUSES)
  await end(platform)
  const counted = await total(platform)
  expect(Object.fromEntries(counted)).toMatchObject(WHOLE)
  const bytes = [0, 1, 2, 3, 4].reduce((sum, i) => sum + events[i]!.length, 0)
  expect(counted.get('event_bytes')).toBe(bytes)
  const head = await platform.env.SEQUENCER.getByName('log').head()
  expect(head.size).toBe(5)
  expect(counted.get('seal_batches_total sealed')).toBe(head.height)
  expect(counted.has('seal_batches_total failed')).toBe(false)
})

test('what goes wrong with Counters changes no answer, and everything is counted once in the end', async () => {
  const steps = ['rpc COUNTERS.add', 'COUNTERS transaction']
  let faults = 0
  for (const step of steps) {
    for (const fault of ['fail', 'lost'] as const) {
      for (let from = 0; from < 4; from++) {
        for (const length of [1, 3, Infinity]) {
          let seen = 0
          const platform = node((name) => {
            if (name !== step) return null
            const at = seen++
            if (at < from || at >= from + length) return null
            faults++
            return fault
          })
          expect(await requests(platform)).toEqual(STATUSES)
          await platform.settle()
          await end(platform)
          const counted = Object.fromEntries(await total(platform))
          expect(counted, `${step} ${fault} ${from} ${length}`).toMatchObject(WHOLE)
        }
      }
    }
  }
  expect(faults).toBeGreaterThan(50)
})

test('a process that dies loses what it had not stored, and never adds anything twice', async () => {
  let least = Infinity
  let deaths = 0
  for (const fault of ['kill-before', 'kill-after'] as const) {
    for (let at = 0; at < 12; at++) {
      let seen = 0
      const platform = node((name): Fault | null =>
        /COUNTERS/.test(name) && seen++ === at ? fault : null,
      )
      const answered = await requests(platform).catch((error: unknown) => {
        if (!(error instanceof Killed)) throw error
        deaths++
        return null
      })
      const before = answered === null ? new Map<string, number>() : await total(platform)
      await end(platform)
      const counted = await total(platform)
      for (const [name, n] of before) expect(counted.get(name)).toBeGreaterThanOrEqual(n)
      for (const [name, n] of Object.entries(WHOLE)) {
        expect(counted.get(name) ?? 0, `${fault} ${at} ${name}`).toBeLessThanOrEqual(n)
      }
      least = Math.min(least, counted.get('events_total accepted') ?? 0)
    }
  }
  expect(deaths).toBeGreaterThan(0)
  // Otherwise nothing was ever lost, and the test broke nothing.
  expect(least).toBeLessThan(5)
})

test('a failed seal is counted as failed, and its repetition as a retry', async () => {
  let broken = 2
  const platform = node((name) =>
    name.startsWith('r2.put events') && broken-- > 0 ? 'fail' : null,
  )
  expect(
    (await platform.fetch('/events', { method: 'POST', body: events[0]!, headers: JOSE })).status,
  ).toBe(202)
  const random = seeded(1)
  for (let i = 1; i <= 3; i++) {
    vi.setSystemTime(START + i * 20_000)
    await platform.tick(START + i * 20_000)
    await platform.deliver(random)
  }
  await end(platform)
  const counted = await total(platform)
  expect(broken).toBeLessThanOrEqual(0)
  expect(counted.get('seal_batches_total failed')).toBe(2)
  expect(counted.get('seal_retries_total')).toBe(2)
  expect(counted.get('seal_batches_total sealed')).toBe(1)
  // From acceptance to the seal, which the outage held up.
  expect(counted.get('seal_latency_seconds')).toBeGreaterThanOrEqual(20)
  expect(counted.get('seal_duration_seconds')).toBeLessThan(20)
})

test('each message that a queue gave up is counted, and open until its work is done', async () => {
  const platform = node((name) => (name.startsWith('r2.put batches') ? 'fail' : null))
  await platform.fetch('/events', { method: 'POST', body: events[0]!, headers: JOSE })
  const random = seeded(3)
  for (let i = 1; i <= 3; i++) {
    vi.setSystemTime(START + i * 11_000)
    await platform.tick(Date.now())
    await platform.deliver(random, 60)
    await platform.settle()
  }
  await flushCounts(platform.env)
  const open = async (): Promise<number> => {
    const series = await readSeries(platform.env, await nodeOf(platform.env), Date.now())
    return series.find(
      ({ name, labels }) => name === 'vaultmesh_dead_letters_open' && labels[0] === 'sealer-dlq',
    )!.values[0]!
  }
  expect(platform.deadLettered).toBeGreaterThan(0)
  // A message may come twice, also a dead one.
  const counted = (await total(platform)).get('dead_letters_total sealer-dlq')
  expect(counted).toBeGreaterThanOrEqual(platform.deadLettered)
  expect(await open()).toBe(1)
  await end(platform)
  expect(await open()).toBe(0)
})

test('without the binding nothing is counted and nothing fails', async () => {
  const platform = new Platform(VARS)
  expect(await requests(platform)).toEqual(STATUSES)
  await platform.settle()
  expect(platform.steps.some((name) => name.includes('COUNTERS'))).toBe(false)
})

test('an outage of an authority is seen while it lasts, and counted attempt by attempt', async () => {
  const made = await authorities()
  const authority = await made.make('ec')
  let isDown = true
  vi.stubGlobal('fetch', (_url: string, init: RequestInit) =>
    platform.outside('network tsa', async () => {
      if (isDown) throw new Error('unreachable')
      const token = await reply(authority, new Uint8Array(init.body as ArrayBuffer))
      return new Response(new Uint8Array(token), {
        headers: { 'content-type': 'application/timestamp-reply' },
      })
    }),
  )
  // Tokens are of the authority's own clock.
  const startAt = performance.timeOrigin + performance.now()
  vi.setSystemTime(startAt)
  const rail = { RAILS: 'TSA', TSA_URLS: 'http://tsa.example/tsr', TSA_ROOTS: authority.rootPem }
  const platform = new Platform({ ...VARS, ...rail, ANCHOR_TSA_INTERVAL_MS: '1000' }, ['COUNTERS'])
  const random = seeded(2)
  const pass = async (ms: number): Promise<void> => {
    vi.setSystemTime(Date.now() + ms)
    await platform.tick(Date.now())
    await platform.deliver(random)
    await platform.settle()
  }
  const shown = async (): Promise<ReadonlyMap<string, number>> => {
    const { env } = platform
    const series = await readSeries(env, await nodeOf(env), Date.now())
    return new Map(
      series.map(({ name, labels, values }) => [
        [name.replace('vaultmesh_', ''), ...labels].join(' '),
        name.endsWith('confirmation_seconds')
          ? values.slice(1).reduce((a, b) => a + b)
          : values[0]!,
      ]),
    )
  }
  const body = await signJws(signer, 'vm-event+jws', {
    specversion: '1.0',
    id: 'anchored',
    source: signer.did,
    type: 'sim.event',
    time: new Date(startAt).toISOString(),
  })
  expect((await platform.fetch('/events', { method: 'POST', body, headers: JOSE })).status).toBe(
    202,
  )
  // Delays are 15 to 30 s, then 30 to 60 s.
  for (const ms of [3000, 1500, 30_000, 60_000]) await pass(ms)
  const during = await shown()
  const failed = during.get('anchor_attempts_total TSA failed')!
  expect(failed).toBeGreaterThanOrEqual(2)
  expect(during.get('anchor_attempts_total TSA final')).toBe(0)
  expect(during.get('anchor_pending TSA')).toBe(1)
  expect(during.get('anchor_backoff_seconds TSA')).toBeGreaterThanOrEqual(15 * 2 ** (failed - 1))
  expect(during.get('anchor_lag_seconds TSA')).toBeGreaterThan(60)
  expect(during.get('suffering_height')).toBe(1)
  // Of rails that are off nothing is said.
  expect(during.has('anchor_lag_seconds BTC')).toBe(false)

  isDown = false
  await pass(1_800_000)
  await pass(60_000)
  const after = await shown()
  expect(after.get('anchor_attempts_total TSA failed')).toBe(failed)
  expect(after.get('anchor_attempts_total TSA final')).toBe(1)
  expect(after.get('anchor_confirmation_seconds TSA')).toBe(1)
  expect(after.get('receipt_verifications_total TSA ok')).toBeGreaterThanOrEqual(1)
  expect(after.get('receipt_verifications_total TSA failed')).toBe(0)
  expect(after.get('anchor_pending TSA')).toBe(0)
  expect(after.get('anchor_backoff_seconds TSA')).toBe(0)
  expect(after.get('anchor_lag_seconds TSA')).toBe(0)
  expect(after.get('suffering_height')).toBe(0)
  vi.unstubAllGlobals()
  vi.setSystemTime(START)
  await made.remove()
})
