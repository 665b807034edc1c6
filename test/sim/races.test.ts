/**
 * Calls that overlap: a step's reply is held while something else happens, and the law must still hold.
 */

import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { deriveIdentity, signJws, type IdentityKey } from '../../functions/core/node-keys.ts'
import { Platform } from './platform.ts'

const START = Date.parse('2026-11-23T12:00:00Z')
const PEM = '-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----'
let signer: IdentityKey
let platform: Platform

beforeAll(async () => {
  vi.useFakeTimers({ toFake: ['Date'] })
  Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  vi.spyOn(console, 'error').mockImplementation(() => undefined)
  vi.spyOn(console, 'log').mockImplementation(() => undefined)
  signer = await deriveIdentity(new Uint8Array(32).fill(5), 1)
})

beforeEach(() => {
  vi.setSystemTime(START)
})

afterAll(() => {
  vi.useRealTimers()
  vi.restoreAllMocks()
})

function node(vars: Record<string, string> = {}): Platform {
  return new Platform({
    NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
    ORIGIN: 'sim.example/log',
    NODE_ID: 'sim',
    NETWORK: 'dev',
    INTAKE_SHARDS: '1',
    INTAKE_BACKLOG_MAX: '100000',
    RATE_LIMIT_DID: '0',
    RATE_LIMIT_IP: '0',
    SEAL_BATCH_MAX_ITEMS: '4',
    SEAL_BATCH_MAX_INTERVAL_MS: '2000',
    ...vars,
  })
}

async function post(id: string): Promise<{ eventHash: string }> {
  const jws = await signJws(signer, 'vm-event+jws', {
    specversion: '1.0',
    id,
    source: signer.did,
    type: 't',
    time: new Date(START).toISOString(),
  })
  const response = await platform.fetch('/events', {
    method: 'POST',
    body: jws,
    headers: { 'content-type': 'application/jose' },
  })
  expect(response.status).toBe(202)
  return (await response.json()) as { eventHash: string }
}

const log = () => platform.env.SEQUENCER.getByName('log')

/** Holds the first step that matches until it is let go; resolves once it is reached. */
function gate(pattern: RegExp): { reached: Promise<void>; letGo: () => void } {
  const reached = Promise.withResolvers<void>()
  const open = Promise.withResolvers<void>()
  platform.hold = (name) => {
    if (!pattern.test(name)) return null
    platform.hold = null
    reached.resolve()
    return open.promise
  }
  return { reached: reached.promise, letGo: () => open.resolve() }
}

test('a second writer that moved the head makes the seal fail, and its batch stays unseen', async () => {
  platform = node()
  await post('a')
  const { reached, letGo } = gate(/r2\.put batches/)
  const sealing = log().seal(true)
  await reached
  platform.tamper('SEQUENCER/log', 'UPDATE head SET height = 1')
  letGo()
  await expect(sealing).rejects.toThrow(/head moved/)
  expect((await platform.fetch('/batches/1')).status).toBe(404)
})

test('an alarm that fails during a seal does not hide the new head', async () => {
  platform = node()
  await post('a')
  await log().seal(true)
  await post('b')
  await log().wake([0])
  const { reached, letGo } = gate(/INSERT INTO batches/)
  const sealing = log().seal(true)
  await reached
  platform.plan = (name) => (name.includes('peek') ? 'fail' : null)
  vi.setSystemTime(START + 11_000)
  await platform.tick(Date.now())
  platform.plan = null
  letGo()
  await sealing
  expect((await log().head()).size).toBe(2)
})

test('the newest root is anchored even if it was sealed while an older one was enqueued, once an interval', async () => {
  platform = node({
    RAILS: 'TSA',
    TSA_URLS: 'http://127.0.0.1:1/',
    TSA_ROOTS: PEM,
    ANCHOR_TSA_INTERVAL_MS: '10000',
  })
  const sizes = async (): Promise<number[]> => {
    const { results } = await platform.env.DB.prepare(
      'SELECT tree_size AS n FROM anchors ORDER BY id',
    ).all<{ n: number }>()
    return results.map(({ n }) => n)
  }
  await post('a')
  await log().seal(true)
  expect(await sizes()).toEqual([1])
  vi.setSystemTime(START + 5000)
  await post('b')
  await log().seal(true)
  expect(await sizes(), 'the interval is not over').toEqual([1])
  vi.setSystemTime(START + 20_000)
  await post('c')
  const { reached, letGo } = gate(/d1 batch of update anchors/)
  const waking = log().wake([0])
  await reached
  await log().seal(true)
  expect((await log().head()).size).toBe(3)
  letGo()
  await waking
  expect((await sizes()).length, 'one interval, one root').toBe(2)
  for (let i = 1; i <= 4; i++) {
    vi.setSystemTime(START + 20_000 + i * 11_000)
    await platform.tick(Date.now())
    await platform.deliver(() => 0.5)
  }
  expect((await sizes()).at(-1)).toBe(3)
})

test('during an outage of the authority one job waits for the newest root, older ones are superseded', async () => {
  platform = node({
    RAILS: 'TSA',
    TSA_URLS: 'http://127.0.0.1:1/',
    TSA_ROOTS: PEM,
    ANCHOR_TSA_INTERVAL_MS: '1000',
  })
  for (let i = 0; i < 5; i++) {
    vi.setSystemTime(START + i * 120_000)
    await post(`e${i}`)
    await log().seal(true)
  }
  const { results } = await platform.env.DB.prepare(
    "SELECT tree_size AS n FROM anchors WHERE state <> 'failed'",
  ).all<{ n: number }>()
  expect(results.map(({ n }) => n)).toEqual([5])
})

test('a shard that is always busy starves no other', async () => {
  platform = node({ INTAKE_SHARDS: '2' })
  const shards = async () => (await log().audit()).cursors
  const heldBy = async (shard: number) =>
    (await platform.env.POOL.getByName(String(shard)).audit()).nextSeq
  let n = 0
  // One event in shard 1, then four for each batch of four in shard 0, all younger.
  while ((await heldBy(1)) === 0) await post(`v${n++}`)
  await log().seal(true)
  let sealedOne = (await shards())[1]!
  while ((await heldBy(1)) === sealedOne) await post(`w${n++}`)
  for (let round = 0; round < 6 && (await shards())[1] === sealedOne; round++) {
    vi.setSystemTime(Date.now() + 3000)
    const before = await heldBy(0)
    while ((await heldBy(0)) < before + 4) await post(`x${n++}`)
    await log().seal()
  }
  sealedOne = (await shards())[1]! - sealedOne
  expect(sealedOne).toBeGreaterThan(0)
})

test('a seal that fails five times is a dead letter and an alert; it heals by itself and closes both', async () => {
  platform = node()
  await post('a')
  platform.plan = (name) => (name.startsWith('r2.put batches') ? 'fail' : null)
  for (let i = 1; i <= 3; i++) {
    vi.setSystemTime(START + i * 11_000)
    await platform.tick(Date.now())
    await platform.deliver(() => 0.5, 60)
  }
  expect(platform.deadLettered).toBeGreaterThan(0)
  const alerts = async () =>
    ((await (await platform.fetch('/alerts')).json()) as { alerts: { kind: string }[] }).alerts
  const letters = async () =>
    (
      await platform.env.DB.prepare('SELECT queue, replayed_at AS done FROM dead_letters').all<{
        done: number | null
      }>()
    ).results
  expect((await alerts()).map((alert) => alert.kind)).toContain('dead_letter')
  expect((await letters()).map(({ done }) => done)).toEqual([null])
  expect((await log().head()).size).toBe(0)
  platform.plan = null
  vi.setSystemTime(START + 60_000)
  await platform.tick(Date.now())
  await platform.deliver(() => 0.5)
  expect((await log().head()).size).toBe(1)
  // That so many attempts failed is said for an hour.
  expect((await alerts()).map((alert) => alert.kind)).toEqual(['seal_retries'])
  expect((await letters()).every(({ done }) => done !== null)).toBe(true)
})

test('a backup that ends does not end the pause of another one, and one that was killed ends by itself', async () => {
  platform = node({ SEAL_BATCH_MAX_INTERVAL_MS: '1000' })
  const [first, second] = [await log().pause(60_000), await log().pause(60_000)]
  expect(second.head).toEqual(first.head)
  await post('waits')
  const pass = async (ms: number): Promise<number> => {
    vi.setSystemTime(Date.now() + ms)
    return (await log().seal()).batches
  }
  expect(await log().resume(first.pause)).toBe(true)
  expect(await pass(2000)).toBe(0)
  await expect(log().seal(true)).rejects.toThrow('backup')
  // What is over is not held, whoever else holds.
  expect(await log().resume(first.pause)).toBe(false)
  expect(await log().resume(second.pause)).toBe(true)
  expect(await pass(0)).toBe(1)

  await post('waits too')
  const killed = await log().pause(60_000)
  expect(await pass(59_000)).toBe(0)
  expect(await pass(1000)).toBe(1)
  const later = await log().pause(60_000)
  expect(await log().resume(killed.pause)).toBe(false)
  expect(await log().resume(later.pause)).toBe(true)
})
