/**
 * Erasure on bad days: every step of it fails once, succeeds and loses its reply, or is the last thing the process does
 * before or after its effect; messages come twice. The law at the end: no store holds the bytes, the id, the signer or
 * the hash of what was signed; the leaf is proved as before; fsck finds nothing; the same event is refused for good.
 */

import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { fromHex, toHex, utf8 } from '../../functions/core/bytes.ts'
import { deriveIdentity, signJws, type IdentityKey } from '../../functions/core/node-keys.ts'
import { verifyReceipt, type Receipt } from '../../functions/core/receipt.ts'
import { formatTombstone, withLine } from '../../functions/core/erasure.ts'
import { signRotation } from '../../functions/core/rotation.ts'
import { sha256 } from '../../functions/core/sha256.ts'
import { checkBatch, checkState } from '../../functions/store/fsck.ts'
import { rebuildBatch } from '../../functions/store/rebuild.ts'
import { carryOut, orderErasure } from '../../functions/store/erasures.ts'
import { findEvent } from '../../functions/store/events.ts'
import { nodeOf } from '../../functions/store/node.ts'
import { jobs } from '../../functions/cron.ts'
import { Killed, Platform, seeded, type Fault, type Plan } from './platform.ts'

const START = Date.parse('2026-11-30T12:00:00Z')
const VARS = {
  NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
  ADMIN_TOKEN: 'sim',
  ORIGIN: 'sim.example/log',
  NODE_ID: 'sim',
  NETWORK: 'dev',
  INTAKE_SHARDS: '2',
  INTAKE_BACKLOG_MAX: '100000',
  RATE_LIMIT_DID: '0',
  RATE_LIMIT_IP: '0',
  SEAL_BATCH_MAX_ITEMS: '100',
  SEAL_BATCH_MAX_INTERVAL_MS: '1000',
}
const NEEDED = ['wake pools', 'wake the sequencer', 'carry out erasures']
const JOSE = { 'content-type': 'application/jose' }

let alice: IdentityKey
let bob: IdentityKey
let secret = ''
let secretHash = ''

function event(by: IdentityKey, id: string, more: object = {}): Promise<string> {
  return signJws(by, 'vm-event+jws', {
    specversion: '1.0',
    id,
    source: by.did,
    type: 'sim.event',
    time: new Date(START).toISOString(),
    ...more,
  })
}

function erasure(by: IdentityKey, id: string, eventHash: string): Promise<string> {
  return event(by, id, { type: 'vm.erased', data: { eventHash, reasonCode: 'gdpr-17' } })
}

function nameOf(jws: string): string {
  return `sha256:${toHex(sha256(utf8(jws)))}`
}

beforeAll(async () => {
  vi.useFakeTimers({ toFake: ['Date'] })
  Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  vi.spyOn(console, 'error').mockImplementation(() => undefined)
  vi.spyOn(console, 'log').mockImplementation(() => undefined)
  alice = await deriveIdentity(new Uint8Array(32).fill(5), 1)
  bob = await deriveIdentity(new Uint8Array(32).fill(6), 1)
  secret = await event(alice, 'the-secret-id', { subject: 'the-subject', data: 'word' })
  secretHash = nameOf(secret)
})

beforeEach(() => {
  vi.setSystemTime(START)
})

afterAll(() => {
  vi.useRealTimers()
  vi.restoreAllMocks()
})

class Day {
  readonly platform = new Platform(
    VARS,
    [],
    jobs.map(({ name }) => name).filter((name) => !NEEDED.includes(name)),
  )
  readonly #random = seeded(3)

  /** A client that asks again until it has an answer. */
  async post(body: string): Promise<Response> {
    for (let attempt = 0; ; attempt++) {
      try {
        const answer = await this.platform.fetch('/events', { method: 'POST', body, headers: JOSE })
        if (answer.status < 500 || attempt > 5) return answer
      } catch (error) {
        if (!(error instanceof Killed)) throw error
      }
    }
  }

  async pass(ms = 1500, times = 1): Promise<void> {
    for (let i = 0; i < times; i++) {
      vi.setSystemTime(Date.now() + ms)
      await this.platform.tick(Date.now())
      await this.platform.deliver(this.#random)
      await this.platform.settle()
    }
  }

  async get(path: string): Promise<Response> {
    return this.platform.fetch(path, { headers: { accept: 'application/json' } })
  }

  /** Seals the secret between two others, none of the same signer. */
  async morning(): Promise<void> {
    await this.post(await event(bob, 'before'))
    await this.post(secret)
    await this.post(await event(bob, 'after'))
    await this.pass()
  }

  async #findings(): Promise<readonly string[]> {
    const { env } = this.platform
    const node = await nodeOf(env)
    const { findings, facts } = await checkState(env, node)
    const all = [...findings]
    for (let height = 1; height <= Number(facts['height']); height++) {
      all.push(...(await checkBatch(env, node, height)).findings)
    }
    return all
  }

  /** States of all erasures, in log order. */
  state(): readonly unknown[] {
    return this.platform
      .index('SELECT state FROM erasures ORDER BY id')
      .map((row) => (row as { state: string }).state)
  }

  /** The law. `traces` are texts that no store may hold. */
  async judge(traces: readonly string[]): Promise<void> {
    const [header, payload, signature] = secret.split('.')
    const signingHash = toHex(sha256(utf8(`${header}.${payload}`)))
    const needles = [payload!, signature!, 'the-secret-id', 'the-subject', ...traces]
    for (const [where, bytes] of this.platform.everything()) {
      const text = Buffer.from(bytes).toString('latin1')
      for (const needle of needles) {
        expect(text.includes(needle), `${where} holds ${needle.slice(0, 40)}`).toBe(false)
      }
      const hex = Buffer.from(bytes).toString('hex')
      expect(hex.includes(signingHash), `${where} holds the hash of what was signed`).toBe(false)
    }
    expect(await this.#findings()).toEqual([])
    const gone = await this.get(`/events/${secretHash}`)
    expect(gone.status).toBe(410)
    const { erasedBy } = (await gone.json()) as { erasedBy: string }
    expect((await this.get(`/events/${erasedBy}`)).status).toBe(200)
    const receipt = (await (await this.get(`/receipts/${secretHash}`)).json()) as Receipt
    expect(receipt).toMatchObject({ eventId: '', source: '' })
    const { vkey } = (await (await this.get('/.well-known/vaultmesh.json')).json()) as {
      vkey: string
    }
    const trust = { vkeys: [vkey], tsaRoots: [] }
    expect((await verifyReceipt(receipt, trust)).verdict).toBe('verified')
    expect((await verifyReceipt(receipt, trust, utf8(secret))).verdict).toBe('verified')
    for (const again of [secret, await event(alice, 'the-secret-id', { data: 'other' })]) {
      const answer = await this.post(again)
      expect(answer.status).toBe(410)
      expect(await answer.json()).toMatchObject({ type: '/problems/erased', erasedBy })
    }
    const found = (await (await this.get('/events?limit=100')).json()) as {
      events: { eventHash: string }[]
    }
    expect(found.events.map((hit) => hit.eventHash)).not.toContain(secretHash)
    expect(found.events.length).toBeGreaterThan(2)
  }
}

test('who signed an event may erase it, and a tombstone by the node stands in its place', async () => {
  const day = new Day()
  await day.morning()
  const wish = await erasure(alice, 'wish', secretHash)
  expect((await day.post(wish)).status).toBe(202)
  await day.pass(1500, 4)
  await day.judge([])
  const again = await day.post(wish)
  expect(again.status, 'the wish posted again gets its first answer').toBe(200)
  const lines = (await (await day.get('/batches/1/events')).text()).trimEnd().split('\n')
  const stone = JSON.parse(lines.find((line) => line.startsWith('{'))!) as { erasedBy: string }
  expect(stone).toMatchObject({ eventHash: secretHash })
  expect(stone.erasedBy, 'the node answers for it').not.toBe(nameOf(wish))
  expect(lines).toHaveLength(3)
})

test('an index that is made again from the bundles knows what is erased, and what erased it', async () => {
  const day = new Day()
  await day.morning()
  await day.post(await erasure(alice, 'wish', secretHash))
  await day.pass(1500, 4)
  const { env } = day.platform
  const node = await nodeOf(env)
  for (const table of ['events', 'names', 'batches', 'erasures']) {
    day.platform.index(`DELETE FROM ${table}`)
  }
  for (let height = 1; height <= 3; height++) {
    expect((await rebuildBatch(env, node, { height, nowAt: Date.now() })).findings).toEqual([])
    expect((await rebuildBatch(env, node, { height, nowAt: Date.now() })).facts['written']).toBe(0)
  }
  await day.pass(1500, 2)
  await day.judge([])
})

test('the operator may erase, and then no name of the signer is left', async () => {
  const day = new Day()
  await day.morning()
  const { env } = day.platform
  const order = { eventHash: secretHash, reasonCode: 'court-order' }
  const first = await orderErasure(env, await nodeOf(env), order)
  expect(await orderErasure(env, await nodeOf(env), order), 'one event for a target').toBe(first)
  await day.pass(1500, 4)
  await day.judge([alice.did])
})

test('a webhook of the event goes with it, as its lane names who posted', async () => {
  vi.stubGlobal('fetch', async () => new Response(null, { status: 500 }))
  try {
    const day = new Day()
    const headers = { ...JOSE, 'vaultmesh-webhook': 'https://hook.example/x' }
    for (const body of [secret, await event(bob, 'other')]) {
      expect((await day.platform.fetch('/events', { method: 'POST', body, headers })).status).toBe(
        202,
      )
    }
    await day.pass()
    const { env } = day.platform
    const order = { eventHash: secretHash, reasonCode: 'court-order' }
    await orderErasure(env, await nodeOf(env), order)
    await day.pass(1500, 4)
    expect(day.platform.index('SELECT did FROM webhook_lanes')).toEqual([{ did: bob.did }])
    await day.post(await event(bob, 'a third'))
    // Handed in again, at once or to be checked later, it leaves no trace either.
    for (const prefer of ['wait=0', 'respond-async']) {
      const again = await day.platform.fetch('/events', {
        method: 'POST',
        body: secret,
        headers: { ...headers, prefer },
      })
      expect(again.status, prefer).toBe(410)
    }
    await day.pass()
    await day.judge([alice.did])
  } finally {
    vi.unstubAllGlobals()
    Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  }
})

test('nobody else may erase, nor anybody what does not exist or must stay', async () => {
  const day = new Day()
  await day.morning()
  const refused = async (jws: string, status: number, type: string): Promise<void> => {
    const answer = await day.post(jws)
    const problem = (await answer.json()) as { type: string; detail: string }
    expect([answer.status, problem.type], problem.detail).toEqual([status, `/problems/${type}`])
  }
  await refused(await erasure(bob, 'x1', secretHash), 403, 'erasure-refused')
  await refused(await erasure(alice, 'x2', `sha256:${'0'.repeat(64)}`), 404, 'not-found')
  await refused(await event(alice, 'x3', { type: 'vm.erased' }), 400, 'bad-erasure')
  await refused(
    await event(alice, 'x4', {
      type: 'vm.erased',
      data: { eventHash: secretHash, reasonCode: 'it was about Bob' },
    }),
    400,
    'bad-erasure',
  )
  await day.post(await erasure(alice, 'wish', secretHash))
  await day.pass(1500, 4)
  await refused(await erasure(alice, 'wish2', secretHash), 410, 'erased')
  await refused(
    await erasure(alice, 'x5', nameOf(await erasure(alice, 'wish', secretHash))),
    403,
    'erasure-refused',
  )
  const bulk = [
    await erasure(bob, 'x6', nameOf(await event(alice, 'no'))),
    await event(bob, 'fine'),
  ]
  const answer = await day.platform.fetch('/events', {
    method: 'POST',
    body: bulk.join('\n'),
    headers: { 'content-type': 'application/x-ndjson' },
  })
  const { results } = (await answer.json()) as { results: { problem?: { type: string } }[] }
  expect(results.map((line) => line.problem?.type)).toEqual(['/problems/not-found', undefined])
})

test('an event that still waits for its seal is erased after it', async () => {
  const day = new Day()
  await day.post(secret)
  expect((await day.post(await erasure(alice, 'wish', secretHash))).status).toBe(202)
  await day.post(await event(bob, 'one'))
  await day.post(await event(bob, 'two'))
  await day.pass(1500, 5)
  await day.judge([])
})

test('a tombstone that nobody ordered, and one moved to another leaf, are findings', async () => {
  const day = new Day()
  await day.morning()
  await day.post(await erasure(alice, 'wish', secretHash))
  await day.pass(1500, 4)
  await day.judge([])
  const { env } = day.platform
  const node = await nodeOf(env)
  const key = 'events/1/0'
  const text = await (await env.BUCKET.get(key))!.text()
  for (const [what, bad] of [
    [
      'R2 lacks the vm.erased event',
      text.replace(
        /("erasedBy":"sha256:)./,
        (m) => `${m.slice(0, -1)}${m.endsWith('0') ? '1' : '0'}`,
      ),
    ],
    ['it is that of leaf', text.replace(/"leafIndex":\d/, '"leafIndex":7')],
    [
      'another hash',
      text.replace(
        /("eventHash":"sha256:)./,
        (m) => `${m.slice(0, -1)}${m.endsWith('0') ? '1' : '0'}`,
      ),
    ],
  ] as const) {
    expect(bad).not.toBe(text)
    await env.BUCKET.put(key, bad)
    const { findings } = await checkBatch(env, node, 1)
    expect(findings.length, what).toBeGreaterThan(0)
    if (what !== 'another hash') expect(findings.join('\n')).toContain(what)
  }
  await env.BUCKET.put(key, text)
  expect((await checkBatch(env, node, 1)).findings).toEqual([])
  day.platform.index('DELETE FROM erasures')
  expect((await checkBatch(env, node, 1)).findings.join()).toContain('no vm.erased event')
})

/** Orders the secret's erasure and seals the order; no pool hears of it, so it is due and nothing is done. */
async function ordered(day: Day): Promise<void> {
  const { env } = day.platform
  await orderErasure(env, await nodeOf(env), { eventHash: secretHash, reasonCode: 'court-order' })
  day.platform.plan = (name) => (name === 'rpc POOL.erase' ? 'fail' : null)
  await day.pass()
  day.platform.plan = null
  expect(day.state()).toEqual(['due'])
}

test('an erasure whose target the index does not have yet waits for it', async () => {
  const day = new Day()
  await day.morning()
  await ordered(day)
  // As while an index is made again, or a log is taken back from peers.
  day.platform.index('UPDATE batches SET committed = 0 WHERE height = 1')
  await day.pass(11_000, 3)
  expect(day.state()).toEqual(['due'])
  day.platform.index('UPDATE batches SET committed = 1 WHERE height = 1')
  await day.pass(600_000, 2)
  await day.judge([alice.did])
})

test('an index that is made again while the bundle is about to follow keeps nothing of the event', async () => {
  const day = new Day()
  await day.morning()
  await ordered(day)
  const { env } = day.platform
  const node = await nodeOf(env)
  const put = env.BUCKET.put.bind(env.BUCKET)
  let written: unknown = null
  Object.assign(env.BUCKET, {
    async put(...given: Parameters<typeof put>) {
      if (given[0].startsWith('erased/')) {
        written ??= (await rebuildBatch(env, node, { height: 1, nowAt: Date.now() })).facts[
          'written'
        ]
      }
      return put(...given)
    },
  })
  await day.pass(11_000, 2)
  expect(written).toBe(1)
  expect(day.state()).toEqual(['done'])
  await day.judge([alice.did])
})

test('no erasure ends while a backup is taken, and pools from before it are scrubbed by the hash alone', async () => {
  const day = new Day()
  await day.morning()
  await ordered(day)
  const { env } = day.platform
  await env.SEQUENCER.getByName('log').pause(60_000)
  await day.pass(11_000, 3)
  expect(day.state()).toEqual(['due'])
  await env.SEQUENCER.getByName('log').resume()
  // The bundle is from after the erasure, the pools are from before it.
  const at = (await findEvent(env.DB, fromHex(secretHash.slice(7))))!
  const key = `events/${at.height}/${at.part}`
  const part = new Uint8Array(await (await env.BUCKET.get(key))!.arrayBuffer())
  const [{ event: order }] = day.platform.index('SELECT event FROM erasures') as [{ event: string }]
  const stone = {
    leafIndex: at.leafIndex,
    eventHash: fromHex(secretHash.slice(7)),
    erasedBy: nameOf(order),
  }
  const line = part.subarray(at.offset, at.offset + at.length)
  await env.BUCKET.put(
    key,
    withLine(part, { offset: at.offset, line }, formatTombstone(stone, at.length)),
  )
  await day.pass(11_000, 2)
  expect(day.state()).toEqual(['done'])
  await day.judge([alice.did])
})

test('an identity key that was rotated out erases nothing, not even what it signed', async () => {
  const day = new Day()
  const { env } = day.platform
  const old = (await nodeOf(env)).identity
  const body = await day.platform.fetch('/events', {
    method: 'POST',
    body: await event(old, 'hers', { type: 'vm.received' }),
    headers: JOSE,
  })
  expect(body.status).toBe(202)
  await day.pass()
  const next = await deriveIdentity(new Uint8Array(32).fill(9), 2)
  const nbf = Math.floor(START / 1000) + 1
  const rotation = await signRotation(old, {
    iss: old.did,
    key: next.did,
    epoch: 2,
    nbf,
    end: nbf,
    iat: nbf,
  })
  day.platform.kill()
  Object.assign(day.platform.env, { ROTATION: rotation })
  await day.pass(11_000, 2)
  const target = nameOf(await event(old, 'hers', { type: 'vm.received' }))
  const answer = await day.post(await erasure(old, 'x', target))
  expect([answer.status, ((await answer.json()) as { type: string }).type]).toEqual([
    403,
    '/problems/erasure-refused',
  ])
})

test('what the operator waits for is erased before the wishes of others', async () => {
  const day = new Day()
  await day.morning()
  await ordered(day)
  day.platform.index('UPDATE erasures SET next_at = next_at + 100000000')
  const { env } = day.platform
  expect(await carryOut(env, Date.now())).toBe(0)
  expect(await carryOut(env, Date.now(), fromHex(secretHash.slice(7)))).toBe(1)
  await day.judge([alice.did])
})

/** The afternoon that is broken: from the wish to the end of the erasure. Returns the names of its steps. */
async function afternoon(plan: Plan | null): Promise<readonly string[]> {
  const day = new Day()
  await day.morning()
  const from = day.platform.steps.length
  day.platform.plan = plan
  await day.post(await erasure(alice, 'wish', secretHash))
  await day.pass(1500, 3)
  day.platform.plan = null
  const steps = day.platform.steps.slice(from)
  await day.post(await erasure(alice, 'wish', secretHash))
  // Alarms, and the first retries of what failed.
  await day.pass(11_000, 4)
  await day.judge([])
  return steps
}

/** Steps of intake and seal (test/sim/faults.test.ts breaks them), of webhooks and of mere looks. */
const OTHERS =
  /sweep|wake|peek|webhook|received|setAlarm|log\/|queue\.send|assignment|batches|POOL\.read/

test.each(['fail', 'lost', 'kill-before', 'kill-after'] as const)(
  'whichever step of an erasure fails by "%s", it is carried out whole, once',
  async (fault: Fault) => {
    const steps = await afternoon(null)
    const first = steps.findIndex((name) => name.includes('INSERT INTO erasures'))
    expect(first).toBeGreaterThan(0)
    for (let k = first; k < steps.length; k++) {
      // A look that loses its reply, or is the last there is, has failed like any other.
      const isLook = fault !== 'fail' && /SELECT$|r2\.(?:get|list)/.test(steps[k]!)
      if (isLook || OTHERS.test(steps[k]!)) continue
      vi.setSystemTime(START)
      let number = 0
      try {
        await afternoon(() => (number++ === k ? fault : null))
      } catch (cause) {
        throw new Error(`${fault} at ${k}, ${steps[k]}: ${String(cause)}`, { cause })
      }
    }
  },
  120_000,
)
