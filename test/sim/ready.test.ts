/**
 * Readiness and waking over real storage: a node is ready while its stores answer and what was posted is sealed in
 * time, each fault is named, and a wake-up by somebody else's clock does what the cron does.
 */

import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { deriveIdentity, signJws, type IdentityKey } from '../../functions/core/node-keys.ts'
import { authorities } from '../support/tsa.ts'
import { Platform, seeded, type Plan } from './platform.ts'

const TOKEN = 'of-the-operator'
const started = Date.now()
let made: Awaited<ReturnType<typeof authorities>>
let rootPem: string
let signer: IdentityKey
let platform: Platform
let posted = 0

beforeAll(async () => {
  made = await authorities()
  rootPem = (await made.make('ec')).rootPem
  vi.useFakeTimers({ toFake: ['Date'] })
  Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  for (const level of ['log', 'warn', 'error'] as const)
    vi.spyOn(console, level).mockImplementation(() => undefined)
  signer = await deriveIdentity(new Uint8Array(32).fill(6), 1)
})

afterAll(async () => {
  await made.remove()
  vi.useRealTimers()
  vi.restoreAllMocks()
})

beforeEach(() => {
  vi.setSystemTime(started)
  platform = new Platform({
    NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
    ADMIN_TOKEN: TOKEN,
    ORIGIN: 'sim.example/log',
    NODE_ID: 'sim',
    NETWORK: 'dev',
    INTAKE_SHARDS: '2',
    INTAKE_BACKLOG_MAX: '100000',
    RAILS: 'TSA',
    TSA_URLS: 'http://tsa.example/tsr',
    TSA_ROOTS: rootPem,
    SEAL_BATCH_MAX_INTERVAL_MS: '1000',
  })
})

async function post(): Promise<void> {
  const body = await signJws(signer, 'vm-event+jws', {
    specversion: '1.0',
    id: `${posted++}`,
    source: signer.did,
    type: 'sim.event',
    time: new Date(started).toISOString(),
  })
  const headers = { 'content-type': 'application/jose' }
  expect((await platform.fetch('/events', { method: 'POST', body, headers })).status).toBe(202)
}

/** Time passes; nothing but messages that are there moves. */
async function pass(ms: number, plan: Plan | null = null): Promise<void> {
  platform.plan = plan
  vi.setSystemTime(Date.now() + ms)
  await platform.deliver(seeded(1))
  await platform.settle()
  platform.plan = null
}

interface Answer {
  readonly status: number
  readonly body: {
    readonly failing: readonly string[]
    readonly detail: string
    readonly waiting: number
    readonly overdueMs: number
  }
}

async function ask(path: string, init: RequestInit = {}, plan: Plan | null = null) {
  platform.plan = plan
  const answer = await platform.fetch(path, init)
  platform.plan = null
  return { status: answer.status, body: (await answer.json()) as Answer['body'] }
}

const wake = (job: string, plan: Plan | null = null) =>
  ask(
    `/admin/wake?job=${job}`,
    { method: 'POST', headers: { authorization: `Bearer ${TOKEN}` } },
    plan,
  )

const WELL = { log: 'ok', sealing: 'ok', index: 'ok', bucket: 'ok' }
const noSeal: Plan = (name) => (name.startsWith('r2.put') ? 'fail' : null)

test('a node is ready before its first event, and at any age of a log that nobody posts to', async () => {
  expect(await ask('/readyz')).toEqual({ status: 200, body: { ready: true, checks: WELL } })
  await post()
  await pass(2000)
  await wake('sealing')
  await pass(1)
  vi.setSystemTime(Date.now() + 86_400_000)
  expect(await ask('/readyz')).toEqual({ status: 200, body: { ready: true, checks: WELL } })
})

test.each([
  // What the index lacks is not known without the head.
  [['log', 'index'], 'rpc SEQUENCER.head'],
  [['sealing'], 'rpc POOL.peek'],
  [['index'], 'd1'],
  [['bucket'], 'r2.get'],
] as const)('a node whose %s does not answer is not ready and names it', async (checks, step) => {
  await post()
  await pass(2000)
  await wake('sealing')
  await pass(1)
  vi.setSystemTime(Date.now() + 2000)
  const answer = await ask('/readyz', {}, (name) => (name.startsWith(step) ? 'fail' : null))
  expect(answer.status).toBe(503)
  expect(answer.body.failing).toEqual(checks)
  expect(answer.body.detail).toBe(checks.map((name) => `${name}: It does not answer.`).join(' '))
  vi.setSystemTime(Date.now() + 1000)
  expect((await ask('/readyz')).status).toBe(200)
})

test('while one looks, whoever asks meanwhile costs nothing', async () => {
  const steps = async (n: number): Promise<number> => {
    vi.setSystemTime(Date.now() + 1000)
    const before = platform.steps.length
    const answers = await Promise.all(Array.from({ length: n }, () => platform.fetch('/readyz')))
    expect(answers.map(({ status }) => status)).toEqual(answers.map(() => 200))
    return platform.steps.length - before
  }
  await steps(1)
  const one = await steps(1)
  expect(one).toBeGreaterThan(0)
  expect(await steps(20)).toBe(one)
})

test('an answer stands for a second: who asks often asks no store', async () => {
  await ask('/readyz')
  const before = platform.steps.length
  await ask('/readyz')
  expect(platform.steps.length).toBe(before)
  vi.setSystemTime(Date.now() + 1000)
  await ask('/readyz')
  expect(platform.steps.length).toBeGreaterThan(before)
})

test('a node whose events wait past their time is alive and not ready, until they are sealed', async () => {
  await post()
  await pass(2000, noSeal)
  expect((await ask('/readyz')).status).toBe(200)
  await pass(60_000, noSeal)
  const late = await ask('/readyz')
  expect(late.status).toBe(503)
  expect(late.body.failing).toEqual(['sealing'])
  expect(late.body.detail).toBe(
    'sealing: 1 events wait for their seal, the oldest 61 s past its time.',
  )
  expect((await ask('/healthz')).status).toBe(200)
  await wake('sealing')
  await pass(1)
  vi.setSystemTime(Date.now() + 1000)
  expect((await ask('/readyz')).status).toBe(200)
})

test('a wake-up from outside seals without any cron of the node', async () => {
  await post()
  // Every message is lost.
  platform.kill()
  vi.setSystemTime(Date.now() + 2000)
  expect(await wake('sealing')).toMatchObject({ status: 200, body: { waiting: 1 } })
  await pass(1)
  expect(await wake('sealing')).toMatchObject({ status: 200, body: { waiting: 0, overdueMs: 0 } })
})

test('sealing that is overdue fails its wake-up, and says how long', async () => {
  await post()
  await pass(62_000, noSeal)
  expect(await wake('sealing', noSeal)).toMatchObject({
    status: 503,
    body: { job: 'sealing', waiting: 1, overdueMs: 61_000 },
  })
})

test('a wake-up sends due anchor jobs again, and fails once nobody has worked on one for ten minutes', async () => {
  await post()
  await pass(2000)
  await wake('sealing')
  await pass(1)
  const [job] = platform.index("SELECT id FROM anchors WHERE chain = 'TSA'")
  expect(job).toBeDefined()
  platform.index('UPDATE anchors SET next_at = 0, lease_until = 0')
  platform.index(`UPDATE anchors SET next_at = ${Date.now() - 1000}`)
  const sent = platform.steps.length
  expect(await wake('anchors')).toMatchObject({ status: 200, body: { waiting: 1 } })
  expect(platform.steps.slice(sent)).toContain('queue.sendBatch anchor')
  platform.index(`UPDATE anchors SET next_at = ${Date.now() - 601_000}`)
  const late = await wake('anchors')
  expect(late.status).toBe(503)
  expect(late.body.detail).toBe('An anchor job is due for 601 s and nobody works on it.')
  // Somebody does.
  platform.index(`UPDATE anchors SET lease_until = ${Date.now() + 60_000}`)
  expect((await wake('anchors')).status).toBe(200)
})

test('nobody but the operator wakes a job', async () => {
  expect((await ask('/admin/wake?job=sealing', { method: 'POST' })).status).toBe(401)
})
