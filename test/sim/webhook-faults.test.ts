/**
 * Bad days of webhooks: every step from a registration to a notice marked as taken fails once, loses its
 * reply, or kills the process.
 *
 * The law at the end: every notice that is due reached its receiver at least once, under one id, and stands
 * in the outbox once, as done.
 */

import { createHash } from 'node:crypto'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { deriveIdentity, signJws, type IdentityKey } from '../../functions/core/node-keys.ts'
import { GIVE_UP_MS } from '../../functions/store/webhook-outbox.ts'
import { onWebhooks } from '../../queues/webhooks.ts'
import { reply, type Authority } from '../../scripts/devnet/tsa-authority.ts'
import { authorities } from '../support/tsa.ts'
import { Killed, Platform, seeded, type Fault, type Plan } from './platform.ts'

const TARGET = 'https://receiver.example/told'
const FAULTS: Fault[] = ['fail', 'lost', 'kill-before', 'kill-after']

let made: Awaited<ReturnType<typeof authorities>>
let authority: Authority
let signer: IdentityKey
let event = ''
let platform: Platform
/** What the receiver was sent, and what it answers. */
let got: { readonly id: string; readonly url: string; readonly type: string }[] = []
let answer: (url: string) => number = () => 204
let retryAfter: string | null = null
const started = Date.now()

beforeAll(async () => {
  made = await authorities()
  authority = await made.make('ec')
  vi.useFakeTimers({ toFake: ['Date'] })
  Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  vi.spyOn(console, 'error').mockImplementation(() => undefined)
  vi.spyOn(console, 'log').mockImplementation(() => undefined)
  signer = await deriveIdentity(new Uint8Array(32).fill(6), 1)
  event = await eventOf('told')
  vi.stubGlobal('fetch', (url: string, init: RequestInit) =>
    url.startsWith('http://tsa.example/')
      ? platform.outside('network tsa', async () => {
          const token = await reply(authority, new Uint8Array(init.body as ArrayBuffer))
          return new Response(new Uint8Array(token), {
            headers: { 'content-type': 'application/timestamp-reply' },
          })
        })
      : platform.outside('network receiver', () => receive(url, init)),
  )
})

afterAll(async () => {
  vi.useRealTimers()
  vi.unstubAllGlobals()
  vi.restoreAllMocks()
  await made.remove()
})

function eventOf(id: string): Promise<string> {
  return signJws(signer, 'vm-event+jws', {
    specversion: '1.0',
    id,
    source: signer.did,
    type: 'sim.event',
    time: new Date(started).toISOString(),
  })
}

function receive(url: string, init: RequestInit): Response {
  const headers = init.headers as Record<string, string>
  const { type } = JSON.parse(init.body as string) as { type: string }
  got.push({ id: headers['webhook-id']!, url, type })
  expect(init.redirect).toBe('manual')
  const asks = retryAfter === null ? {} : { 'retry-after': retryAfter }
  return new Response(null, { status: answer(url), headers: asks })
}

function build(vars: Readonly<Record<string, string>> = {}): void {
  vi.setSystemTime(started)
  got = []
  answer = () => 204
  retryAfter = null
  platform = new Platform({
    NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
    ORIGIN: 'sim.example/log',
    NODE_ID: 'sim',
    NETWORK: 'dev',
    INTAKE_SHARDS: '1',
    INTAKE_BACKLOG_MAX: '100000',
    SEAL_BATCH_MAX_INTERVAL_MS: '1000',
    ...vars,
  })
}

async function pass(ms: number, random: () => number): Promise<void> {
  vi.setSystemTime(Date.now() + ms)
  await platform.tick(Date.now())
  await platform.deliver(random)
  await platform.settle()
}

function post(body: string, headers: Readonly<Record<string, string>> = {}): Promise<Response> {
  return platform.fetch('/events', {
    method: 'POST',
    body,
    headers: { 'content-type': 'application/jose', ...headers },
  })
}

async function register(jti: string, url = `${TARGET}/did`): Promise<Response> {
  const iat = Math.floor(Date.now() / 1000)
  const body = await signJws(signer, 'vm-webhook+jws', {
    iss: signer.did,
    aud: 'sim.example/log',
    iat,
    exp: iat + 300,
    jti,
    url,
    events: ['event.sealed', 'anchor.verified', 'event.final'],
  })
  return platform.fetch('/webhooks', {
    method: 'POST',
    body,
    headers: { 'content-type': 'application/jose' },
  })
}

/** Posts until the node says it kept it, as a client does. */
async function until2xx(send: () => Promise<Response>): Promise<void> {
  for (let i = 0; i < 5; i++) {
    const answered = await send().catch((error: unknown) => {
      if (error instanceof Killed) return null
      throw error
    })
    await platform.settle()
    if (answered?.ok === true) return
  }
  throw new Error('the node never said 2xx')
}

async function outbox(): Promise<{ state: string; failures: number }[]> {
  const { results } = await platform.env.DB.prepare(
    'SELECT state, failures FROM webhook_deliveries ORDER BY id',
  ).all<{ state: string; failures: number }>()
  return results
}

async function alerts(): Promise<{ kind: string; open: number }[]> {
  const { results } = await platform.env.DB.prepare(
    `SELECT kind, cleared_at IS NULL AS open FROM alerts WHERE kind LIKE 'webhook%' ORDER BY id`,
  ).all<{ kind: string; open: number }>()
  return results
}

/** Two webhooks of one event, three notices each; `plan` begins at the step that `from` names. */
async function day(plan: Plan | null, seed: number, from: 'registering' | 'telling') {
  const random = seeded(seed)
  build({
    ANCHOR_TSA_INTERVAL_MS: '1000',
    RAILS: 'TSA',
    TSA_URLS: 'http://tsa.example/tsr',
    TSA_ROOTS: authority.rootPem,
  })
  if (from === 'registering') platform.plan = plan
  await until2xx(() => register('one'))
  await until2xx(() => post(event, { 'vaultmesh-webhook': `${TARGET}/post` }))
  const before = platform.steps.length
  // Sealed and anchored before anybody is told, in peace.
  platform.plan = (name) => (name === 'queue.send webhooks' ? 'fail' : null)
  await platform.deliver(random)
  for (let i = 0; i < 4; i++) await pass(1500, random)
  const telling = platform.steps.length
  platform.plan = from === 'telling' ? plan : null
  for (let i = 0; i < 2; i++) await pass(60_000, random)
  const told = platform.steps.length
  platform.plan = null
  for (let i = 0; i < 6; i++) await pass(120_000, random)

  const ids = new Set(got.map(({ id }) => id))
  expect(ids.size).toBe(6)
  for (const path of ['/did', '/post']) {
    const types = new Set(got.filter(({ url }) => url === TARGET + path).map(({ type }) => type))
    expect([...types].sort()).toEqual(['anchor.verified', 'event.final', 'event.sealed'])
  }
  expect((await outbox()).map(({ state }) => state)).toEqual(Array(6).fill('done'))
  return from === 'registering'
    ? platform.steps.slice(0, before)
    : platform.steps.slice(telling, told)
}

test('in peace each notice is sent once', async () => {
  await day(null, 1, 'telling')
  expect(got.length).toBe(6)
})

test.each(
  FAULTS.flatMap((fault) =>
    (['registering', 'telling'] as const).map((from) => [from, fault] as const),
  ),
)(
  'whichever step of %s goes wrong by "%s", each notice is taken and marked once',
  async (from, fault) => {
    const steps = await day(null, 1, from)
    expect(steps.some((name) => name.includes('webhook'))).toBe(true)
    expect(steps.length).toBeGreaterThan(from === 'telling' ? 15 : 3)
    for (let k = 0; k < steps.length; k++) {
      let at = 0
      try {
        await day(() => (at++ === k ? fault : null), k, from)
      } catch (cause) {
        throw new Error(`${fault} at step ${k}: ${String(cause)}`, { cause })
      }
    }
  },
  300_000,
)

test('two runs at once send nothing twice', async () => {
  build()
  await register('one')
  await post(event, { 'vaultmesh-webhook': `${TARGET}/post` })
  platform.plan = (name) => (name === 'queue.send webhooks' ? 'fail' : null)
  for (let i = 0; i < 3; i++) await pass(1500, seeded(1))
  platform.plan = null
  await Promise.all(Array.from({ length: 4 }, () => onWebhooks(platform.env)))
  expect(got.map(({ url }) => url).sort()).toEqual([`${TARGET}/did`, `${TARGET}/post`])
  expect((await outbox()).map(({ state }) => state)).toEqual(['done', 'done'])
})

test('a dead host is asked ever less often, given up after three days with one alert, which a success clears', async () => {
  build()
  await register('one')
  await post(event)
  answer = () => 503
  const random = seeded(1)
  const askedAt: number[] = []
  const minutes = GIVE_UP_MS / 60_000 + 60
  for (let i = 0; i < minutes; i++) {
    const before = got.length
    await pass(60_000, random)
    for (let n = before; n < got.length; n++) askedAt.push(Date.now())
    // A second event on the second day: it is not three days old when the first is given up.
    if (i === 1440) await post(await eventOf('second'))
    if (i === minutes - 61) expect(await alerts()).toEqual([])
  }
  // Each step is half to whole of 30 · 2^(n−1) s, at most 1,800 s, rounded up to the minute's look.
  const gaps = askedAt.slice(1).map((at, i) => (at - askedAt[i]!) / 1000)
  for (const [i, gap] of gaps.entries()) {
    const step = Math.min(1800, 30 * 2 ** i)
    expect(gap, `gap ${i}`).toBeGreaterThanOrEqual(step / 2)
    expect(gap, `gap ${i}`).toBeLessThanOrEqual(step + 120)
  }
  expect(askedAt.length).toBeLessThan(320)
  expect(await alerts()).toEqual([{ kind: 'webhook_failing', open: 1 }])
  // Whoever knows the id may ask how the webhook does: the public list does not tell it.
  const shown = await (await platform.fetch('/alerts')).text()
  const [hook] = (
    await platform.env.DB.prepare('SELECT name FROM webhooks').all<{ name: string }>()
  ).results as [{ name: string }]
  const digest = createHash('sha256').update(hook.name).digest('hex').slice(0, 16)
  expect(JSON.parse(shown)).toMatchObject({ alerts: [{ kind: 'webhook_failing', key: digest }] })
  expect(shown).not.toContain('wh_')
  expect((await outbox()).map(({ state }) => state)).toEqual(['failed', 'pending'])
  answer = () => 200
  for (let i = 0; i < 40; i++) await pass(60_000, random)
  expect((await outbox()).map(({ state }) => state)).toEqual(['failed', 'done'])
  expect(await alerts()).toEqual([{ kind: 'webhook_failing', open: 0 }])
}, 120_000)

test('a receiver that asks for time is given it, but no more than half an hour', async () => {
  build()
  await register('one')
  await post(event)
  answer = () => 429
  retryAfter = '600'
  const random = seeded(1)
  for (let i = 0; i < 3; i++) await pass(1500, random)
  expect(got.length).toBe(1)
  await pass(590_000, random)
  expect(got.length).toBe(1)
  retryAfter = '999999'
  await pass(12_000, random)
  expect(got.length).toBe(2)
  await pass(1_795_000, random)
  expect(got.length).toBe(2)
  retryAfter = 'Mon, 23 Nov 2026 12:00:00 GMT'
  await pass(6000, random)
  expect(got.length).toBe(3)
  await pass(121_000, random)
  expect(got.length).toBe(4)
})

test('a notice that is refused holds up no other of its host for longer than a step', async () => {
  build()
  await register('one', `${TARGET}/fussy`)
  await post(event)
  for (let i = 0; i < 3; i++) await pass(1500, seeded(1))
  const poison = got[0]?.id
  expect(poison).toBeDefined()
  // The first was taken; from now on the second event's notice is refused for good.
  const taken = new Set<string>()
  let refused: string | null = null
  answer = () => {
    const { id } = got.at(-1)!
    refused ??= id
    if (id === refused) return 500
    taken.add(id)
    return 200
  }
  for (let i = 0; i < 20; i++) {
    await post(await eventOf(`more-${i}`))
    await pass(60_000, seeded(i))
  }
  for (let i = 0; i < 2; i++) await pass(1_800_000, seeded(i))
  expect(taken.size).toBe(19)
  expect((await outbox()).map(({ state }) => state).sort()).toEqual([
    ...Array(20).fill('done'),
    'pending',
  ])
})

test('whoever posts an event again once it is sealed takes no webhook from its poster, and holds up none of his', async () => {
  const random = seeded(1)
  build()
  const own = (path: string) => ({ 'vaultmesh-webhook': `${TARGET}/own/${path}` })
  const foreign = (path: string) => ({ 'vaultmesh-webhook': `${TARGET}/foreign/${path}` })
  answer = (url) => (url.includes('/foreign/') ? 500 : 204)
  await register('all', `${TARGET}/own/all`)
  const statuses: number[] = []
  for (let i = 0; i < 9; i++) statuses.push((await post(event, own(String(i)))).status)
  expect(statuses).toEqual([202, 200, 200, 200, 200, 200, 200, 200, 409])
  await platform.deliver(random)
  for (let i = 0; i < 3; i++) await pass(1500, random)
  expect(got.map(({ url }) => url).sort()).toEqual(
    ['0', '1', '2', '3', '4', '5', '6', '7', 'all'].map((path) => `${TARGET}/own/${path}`),
  )
  // Its bytes are public now. Those who come late are told as well, up to eight.
  statuses.length = 0
  for (let i = 0; i < 9; i++) statuses.push((await post(event, foreign(String(i)))).status)
  expect(statuses).toEqual([200, 200, 200, 200, 200, 200, 200, 200, 409])
  await pass(1500, random)
  expect(got.some(({ url }) => url.includes('/foreign/'))).toBe(true)
  // Their host refuses them; what the poster's own hooks there are due comes at once.
  got = []
  expect((await post(await eventOf('next'), own('next'))).status).toBe(202)
  await platform.deliver(random)
  for (let i = 0; i < 2; i++) await pass(1500, random)
  expect(got.map(({ url }) => url).sort()).toEqual([`${TARGET}/own/all`, `${TARGET}/own/next`])
})

test('a crowd of dead hosts does not keep a live one waiting', async () => {
  build()
  await register('one', 'https://live.example/told')
  await post(event)
  for (let i = 0; i < 3; i++) await pass(1500, seeded(1))
  expect(got.length).toBe(1)
  for (let i = 0; i < 8; i++)
    await post(event, { 'vaultmesh-webhook': `https://dead${i}.example/told` })
  await post(await eventOf('next'))
  platform.plan = (name) => (name === 'queue.send webhooks' ? 'fail' : null)
  for (let i = 0; i < 3; i++) await pass(1500, seeded(1))
  platform.plan = null
  // The dead ones answer nothing until the live one was told: if it waited for them, this would never end.
  const told = Promise.withResolvers<void>()
  answer = () => (got.at(-1)!.url.includes('dead') ? 503 : 204)
  platform.hold = (name) => {
    if (name !== 'network receiver') return null
    if (!got.at(-1)!.url.includes('live')) return told.promise
    told.resolve()
    return null
  }
  await onWebhooks(platform.env)
  const dead = got.filter(({ url }) => url.includes('dead'))
  expect(dead.length).toBe(8)
  expect(got.filter(({ url }) => url.includes('live')).length).toBe(2)
})

test('without leave for private targets calls go by the way out that refuses them, if there is one', async () => {
  build()
  await register('one')
  await post(event)
  const called: string[] = []
  Object.assign(platform.env, {
    EGRESS: {
      fetch: async (url: string) => {
        called.push(url)
        return new Response(null, { status: 204 })
      },
    },
  })
  for (let i = 0; i < 3; i++) await pass(1500, seeded(1))
  expect(called).toEqual([`${TARGET}/did`])
  expect(got).toEqual([])
})

test('a target that the operator closed since is not called', async () => {
  build({ WEBHOOK_ALLOW_PRIVATE: '1' })
  await register('one', 'http://127.0.0.1:9000/told')
  await post(event)
  // The registration stays; the setting is another one from the next start.
  Object.assign(platform.env, { WEBHOOK_ALLOW_PRIVATE: '0' })
  platform.env = { ...platform.env }
  for (let i = 0; i < 3; i++) await pass(1500, seeded(1))
  expect(got).toEqual([])
  const { results } = await platform.env.DB.prepare('SELECT result FROM webhook_deliveries').all()
  expect(results).toEqual([{ result: 'target refused' }])
})
