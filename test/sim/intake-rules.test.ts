/**
 * The rules of intake on a running node: in force in every isolate within seconds, on every way in, kept over a kill,
 * and closed rather than open where they cannot be read.
 */

import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { isAuditMessage, readAuditMessage } from '../../functions/core/audit-line.ts'
import { toHex, utf8 } from '../../functions/core/bytes.ts'
import { deriveIdentity, signJws, type IdentityKey } from '../../functions/core/node-keys.ts'
import { sha256 as hashOf } from '../../functions/core/sha256.ts'
import { nodeOf } from '../../functions/store/node.ts'
import worker from '../../functions/worker.ts'
import { ONLOOKERS, Platform, seeded } from './platform.ts'

const START = Date.parse('2026-11-23T12:00:00Z')
const VARS = {
  NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
  ADMIN_TOKEN: 'operator',
  ORIGIN: 'sim.example/log',
  NODE_ID: 'sim',
  NETWORK: 'dev',
  INTAKE_SHARDS: '2',
  RATE_LIMIT_DID: '0',
  RATE_LIMIT_IP: '0',
  SEAL_BATCH_MAX_INTERVAL_MS: '2000',
}
const JOSE = { 'content-type': 'application/jose' }
const OPERATOR = { authorization: 'Bearer operator' }
const PAID = { type: 'object', required: ['amount'] }

let me: IdentityKey
let other: IdentityKey
let platform: Platform
let serial = 0

beforeAll(async () => {
  vi.useFakeTimers({ toFake: ['Date'] })
  Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  vi.spyOn(console, 'error').mockImplementation(() => undefined)
  vi.spyOn(console, 'log').mockImplementation(() => undefined)
  me = await deriveIdentity(new Uint8Array(32).fill(5), 1)
  other = await deriveIdentity(new Uint8Array(32).fill(6), 1)
})

beforeEach(() => {
  vi.setSystemTime(START)
  platform = new Platform(VARS, [], ONLOOKERS)
})

afterAll(() => {
  vi.useRealTimers()
  vi.restoreAllMocks()
})

interface Problem {
  readonly code: string
  readonly status: number
  readonly [extra: string]: unknown
}

function signed(type: string, data: unknown, by = me): Promise<string> {
  return signJws(by, 'vm-event+jws', {
    specversion: '1.0',
    id: `e${++serial}`,
    source: by.did,
    type,
    time: new Date().toISOString(),
    data,
  })
}

/** Whether one event is taken, or the problem. */
async function post(type: string, data: unknown, by = me): Promise<'taken' | Problem> {
  const body = await signed(type, data, by)
  const response = await platform.fetch('/events', { method: 'POST', body, headers: JOSE })
  return response.ok ? 'taken' : problemIn(await response.json())
}

function problemIn(value: unknown): Problem {
  const problem = value as { readonly type: string; readonly status: number }
  return { ...problem, code: problem.type.replace('/problems/', '') }
}

async function apply(rules: object | null, query = ''): Promise<Response> {
  const body = rules === null ? '' : JSON.stringify(rules)
  return platform.fetch(`/admin/intake${query}`, { method: 'POST', headers: OPERATOR, body })
}

describe('a pinned schema holds', () => {
  beforeEach(async () => {
    expect((await apply({ schemas: { paid: PAID } })).status).toBe(200)
  })

  test('for one event, with the place, the keyword and the schema in the refusal', async () => {
    expect(await post('paid', { amount: 1 })).toBe('taken')
    expect(await post('other', {})).toBe('taken')
    const problem = await post('paid', {})
    expect(problem).toMatchObject({
      code: 'schema-mismatch',
      status: 422,
      instancePath: '/data',
      keyword: 'required',
      eventType: 'paid',
    })
    const { schemas } = (await (await platform.fetch('/schemas')).json()) as {
      readonly schemas: readonly { readonly sha256: string }[]
    }
    expect((problem as Problem)['schema']).toBe(schemas[0]!.sha256)
  })

  test('for each line of a bulk, and keeps its good ones', async () => {
    const lines = [
      await signed('paid', { amount: 1 }),
      await signed('paid', 7),
      await signed('x', 7),
    ]
    const headers = { 'content-type': 'application/x-ndjson' }
    const body = lines.join('\n')
    const response = await platform.fetch('/events', { method: 'POST', headers, body })
    const { results } = (await response.json()) as {
      readonly results: readonly {
        readonly status?: string
        readonly problem?: { readonly status: number }
      }[]
    }
    expect(results.map((r) => r.status ?? r.problem?.status)).toEqual(['accepted', 422, 'accepted'])
  })

  test('for what is verified later: it ends as rejected, and its status says why', async () => {
    const states: string[] = []
    for (const data of [{ amount: 1 }, {}]) {
      const body = await signed('paid', data)
      const headers = { ...JOSE, prefer: 'respond-async' }
      const received = await platform.fetch('/events', { method: 'POST', headers, body })
      expect(received.status).toBe(202)
      const { links } = (await received.json()) as { readonly links: { readonly status: string } }
      await platform.deliver(seeded(1))
      const status = (await (await platform.fetch(links.status)).json()) as {
        readonly status: string
        readonly problem?: { readonly type: string; readonly detail: string }
      }
      states.push(
        status.problem === undefined ? status.status : `${status.status} ${status.problem.type}`,
      )
      if (status.problem !== undefined) expect(status.problem.detail).toContain('"required"')
    }
    expect(states[0]).not.toContain('rejected')
    expect(states[1]).toBe('rejected /problems/schema-mismatch')
  })

  test('after the process was killed', async () => {
    platform.kill()
    expect(await post('paid', {})).toMatchObject({ code: 'schema-mismatch' })
  })
})

test('who may post is what the rules say, on every way in, also for what came before its signature was checked', async () => {
  expect(await post('a', {}, other)).toBe('taken')
  const headers = { ...JOSE, prefer: 'respond-async' }
  const body = await signed('a', {}, other)
  const received = await platform.fetch('/events', { method: 'POST', headers, body })
  const { links } = (await received.json()) as { readonly links: { readonly status: string } }
  await apply({ allow: [me.did] })
  expect(await post('a', {}, me)).toBe('taken')
  expect(await post('a', {}, other)).toMatchObject({ code: 'not-allowed', status: 403 })
  await platform.deliver(seeded(1))
  const status = (await (await platform.fetch(links.status)).json()) as { readonly status: string }
  expect(status.status).toBe('rejected')
  await apply(null)
  expect(await post('a', {}, other)).toBe('taken')
})

test('unsigned bodies are the node’s own events: pins do not concern them, its place on the list does', async () => {
  platform = new Platform({ ...VARS, HARBINGER_SIG_REQUIRED: '0' }, [], ONLOOKERS)
  const send = async (body: string) =>
    (await platform.fetch('/events', { method: 'POST', body })).status
  await apply({ unpinned: 'refuse', schemas: { paid: PAID } })
  expect(await send('one')).toBe(202)
  await apply({ allow: [me.did] })
  expect(await send('two')).toBe(403)
  await apply({ allow: [me.did, (await nodeOf(platform.env)).nodeDid] })
  expect(await send('three')).toBe(202)
})

test('another isolate follows a change within three seconds', async () => {
  const isolate = { ...platform.env } as Env
  const ctx = { waitUntil: () => undefined, passThroughOnException() {} } as never
  const there = async () => {
    const body = await signed('paid', {})
    const request = new Request('http://node/events', { method: 'POST', body, headers: JOSE })
    return (await worker.fetch(request, isolate, ctx)).status
  }
  expect(await there()).toBe(202)
  await apply({ schemas: { paid: PAID } })
  // What it read a moment ago stands: the hot path asks nobody.
  const before = platform.steps.filter((step) => step === 'rpc SEQUENCER.intake').length
  expect(await there()).toBe(202)
  expect(platform.steps.filter((step) => step === 'rpc SEQUENCER.intake').length).toBe(before)
  vi.setSystemTime(Date.now() + 3000)
  expect(await there()).toBe(422)
})

test('a Sequencer that does not answer leaves the rules in force for a minute, then nobody posts', async () => {
  await apply({ schemas: { paid: PAID } })
  expect(await post('paid', { amount: 1 })).toBe('taken')
  platform.plan = (name) => (name === 'rpc SEQUENCER.intake' ? 'fail' : null)
  vi.setSystemTime(START + 50_000)
  expect(await post('paid', { amount: 1 })).toBe('taken')
  expect(await post('paid', {})).toMatchObject({ code: 'schema-mismatch' })
  vi.setSystemTime(START + 61_000)
  expect(await post('paid', { amount: 1 })).toMatchObject({ code: 'storage-failed', status: 503 })
  platform.plan = null
  expect(await post('paid', { amount: 1 })).toBe('taken')
})

test('an isolate that never knew the rules takes nothing while it cannot read them', async () => {
  platform.plan = (name) => (name === 'rpc SEQUENCER.intake' ? 'fail' : null)
  expect(await post('a', {})).toMatchObject({ code: 'storage-failed' })
})

test('a node that follows a file takes nothing before the file was applied, and no other rules than the file’s', async () => {
  platform = new Platform({ ...VARS, INTAKE_FILE: '1' }, [], ONLOOKERS)
  expect(await post('a', {})).toMatchObject({ code: 'storage-failed' })
  expect((await apply({})).status).toBe(400)
  expect((await apply({}, '?via=file')).status).toBe(200)
  expect(await post('a', {})).toBe('taken')
})

test('rules that are refused change nothing, and of two changes made at once one is', async () => {
  await apply({ schemas: { paid: PAID } })
  const shown = async () => {
    const response = await platform.fetch('/admin/intake', { headers: OPERATOR })
    return (await response.json()) as { readonly sha256: string }
  }
  const { sha256 } = await shown()
  const refused = await apply({ schemas: { paid: { typ: 'object' } } })
  expect(problemIn(await refused.json())).toMatchObject({ code: 'bad-config' })
  expect((await shown()).sha256).toBe(sha256)
  expect((await apply({ unpinned: 'refuse' }, `?over=${sha256}`)).status).toBe(200)
  expect(problemIn(await (await apply({}, `?over=${sha256}`)).json()).code).toBe(
    'changed-meanwhile',
  )
  expect(await post('a', {})).toMatchObject({ code: 'schema-mismatch' })
})

test('the pinned schema is public, under its hash, and whom the list names is not', async () => {
  await apply({ allow: [me.did], schemas: { 'com.example/paid': PAID } })
  const listed = await (await platform.fetch('/schemas')).text()
  expect(listed).not.toContain(me.did)
  const { allow, schemas } = JSON.parse(listed) as {
    readonly allow: string
    readonly schemas: readonly { readonly url: string; readonly sha256: string }[]
  }
  expect(allow).toBe('listed')
  const { url, sha256 } = schemas[0]!
  const answer = await platform.fetch(url)
  expect(await answer.json()).toEqual(PAID)
  expect(answer.headers.get('etag')).toBe(`"${sha256}"`)
  const again = await platform.fetch(url, { headers: { 'if-none-match': `"${sha256}"` } })
  expect(again.status).toBe(304)
  expect((await platform.fetch('/schemas/none')).status).toBe(404)
})

test('the successor of a log that forked begins with its rules', async () => {
  const old = new Platform(VARS, ['GUARDIAN', 'COUNTERS'], ONLOOKERS)
  platform = old
  await apply({ allow: [me.did], schemas: { paid: PAID } })
  const { vkey } = await nodeOf(old.env)
  const evidence = await signed('vm.log.forked', {})
  const name = `sha256:${toHex(hashOf(utf8(evidence)))}`
  const PREVIOUS_LOGS = JSON.stringify([{ origin: VARS.ORIGIN, vkey, evidence: name }])
  platform = new Platform(
    { ...VARS, LOG_NUMBER: '2', PREVIOUS_LOGS },
    ['GUARDIAN', 'COUNTERS'],
    ONLOOKERS,
  )
  const PREVIOUS = {
    fetch: (url: string, init: RequestInit) => old.fetch(new URL(url).pathname, init),
  }
  Object.assign(platform.env, { PREVIOUS })
  const opened = await platform.fetch('/admin/open', {
    method: 'POST',
    headers: OPERATOR,
    body: evidence,
  })
  expect(opened.status, await opened.text()).toBe(200)
  vi.setSystemTime(START + 3000)
  expect(await post('paid', { amount: 1 })).toBe('taken')
  expect(await post('paid', {})).toMatchObject({ code: 'schema-mismatch' })
  expect(await post('paid', { amount: 1 }, other)).toMatchObject({ code: 'not-allowed' })
  // What is applied here stands, whatever the log before it has.
  await apply({})
  await platform.fetch('/admin/open', { method: 'POST', headers: OPERATOR, body: evidence })
  expect(await post('paid', {}, other)).toBe('taken')
})

test('what moved to a successor and is erased there goes from the pools of the ended log, too', async () => {
  const rest = ['GUARDIAN', 'COUNTERS'] as const
  const old = new Platform(VARS, [...rest], ONLOOKERS)
  const { vkey } = await nodeOf(old.env)
  const secret = await signed('sim.secret', { who: 'Alice Liddell' })
  const posted = { method: 'POST', body: secret, headers: JOSE }
  expect((await old.fetch('/events', posted)).status).toBe(202)
  await old.env.SEQUENCER.getByName('log').halt('it forked')
  const evidence = await signed('vm.log.forked', {})
  const name = `sha256:${toHex(hashOf(utf8(evidence)))}`
  const PREVIOUS_LOGS = JSON.stringify([{ origin: VARS.ORIGIN, vkey, evidence: name }])
  platform = new Platform({ ...VARS, LOG_NUMBER: '2', PREVIOUS_LOGS }, [...rest], [])
  const fetch = (asked: string | Request, init: RequestInit) => {
    const { pathname, search } = new URL(typeof asked === 'string' ? asked : asked.url)
    return old.fetch(pathname + search, init)
  }
  Object.assign(platform.env, { PREVIOUS: { fetch } })
  const operator = { method: 'POST', headers: OPERATOR }
  await platform.fetch('/admin/open', { ...operator, body: evidence })
  const hash = toHex(hashOf(utf8(secret)))
  await platform.fetch('/events', posted)
  await platform.fetch('/admin/seal', operator)
  expect((await old.fetch(`/events/${hash}`)).status).toBe(200)

  await platform.fetch(`/admin/erase/${hash}?reason=gdpr-17`, operator)
  for (let i = 0; i < 2; i++) {
    const answer = await platform.fetch(`/admin/erasures/${hash}`, operator)
    const { erasures } = (await answer.json()) as { erasures: { state: string }[] }
    expect(erasures.map(({ state }) => state)).toEqual(['done'])
  }
  for (const node of [old, platform]) {
    expect((await node.fetch(`/events/${hash}`)).status).toBe(node === old ? 404 : 410)
    for (const [where, bytes] of node.everything())
      expect(Buffer.from(bytes).includes(secret.split('.')[1]!), where).toBe(false)
  }
  // Whoever reads again what was left unsealed passes it over.
  const shards = await Promise.all(
    [0, 1].map(async (shard) => {
      const path = `/admin/unsealed?shard=${shard}`
      return (await old.fetch(path, { headers: OPERATOR })).json() as Promise<{
        events: unknown[]
        next: number
      }>
    }),
  )
  expect(shards.flatMap(({ events }) => events)).toEqual([])
  expect(shards.reduce((sum, { next }) => sum + next, 0)).toBe(1)
})

describe('the trail of what was asked', () => {
  /** Entries that `work` leaves, of a node with `vars` and kept lines. */
  async function told(vars: object, work: (on: Platform) => Promise<unknown>): Promise<object[]> {
    const on = new Platform({ ...VARS, ...vars, AUDIT_LINES: '1' }, [], ONLOOKERS)
    const log = vi.mocked(console.log)
    log.mockClear()
    await work(on)
    return log.mock.calls
      .map(([line]) => String(line))
      .filter(isAuditMessage)
      .map((line) => readAuditMessage(line))
      .filter(({ kind }) => kind === 'operator' || kind === 'refuse')
  }
  const seal = (path: string, headers: object) => (on: Platform) =>
    on.fetch(path, { method: 'POST', headers: { ...OPERATOR, ...headers } })

  test('a command is told however its path is spelled, and whatever its caller says', async () => {
    const both = [{ outcome: 'begun' }, { outcome: 'done' }]
    for (const path of ['/admin/seal', '/adm%69n/seal', '/admin/se%61l']) {
      for (const headers of [{}, { 'vaultmesh-told': '1' }])
        expect(await told({}, seal(path, headers)), path).toMatchObject(both)
    }
    // Behind the socket of a self-hosted node the process has told of it already.
    const own = { AUDIT_FILES: '1' }
    expect(await told(own, seal('/admin/seal', { 'vaultmesh-told': '1' }))).toEqual([])
  })

  test('a refusal is told without what a stranger wrote into the query', async () => {
    const refused = (on: Platform) =>
      on.fetch('/events?name=Alice%20Liddell', { method: 'POST', body: 'none', headers: JOSE })
    expect(await told({}, refused)).toMatchObject([{ kind: 'refuse', target: '/events' }])
  })
})
