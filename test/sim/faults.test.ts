/**
 * Bad days: every storage, queue and Durable Object step of intake and seal, one after the other, fails
 * once, succeeds and loses its reply, or is the last thing the process does before or after its effect;
 * and each kind of step fails for as long as the outage lasts. Messages come twice and in any order.
 *
 * The law at the end of each day: every event that was answered 2xx is in the log exactly once, fsck has
 * no findings, and every checkpoint ever shown is a prefix of the log.
 */

import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { fromBase64, toHex } from '../../functions/core/bytes.ts'
import { leafHash, rootOf } from '../../functions/core/merkle.ts'
import { deriveIdentity, signJws, type IdentityKey } from '../../functions/core/node-keys.ts'
import { decodeEntries } from '../../functions/core/tile.ts'
import { sha256 } from '../../functions/core/sha256.ts'
import { checkBatch, checkState } from '../../functions/store/fsck.ts'
import { nodeOf } from '../../functions/store/node.ts'
import { Killed, ONLOOKERS, Platform, seeded, type Fault, type Plan } from './platform.ts'

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

let signer: IdentityKey
const events: Record<string, string> = {}

beforeAll(async () => {
  vi.useFakeTimers({ toFake: ['Date'] })
  Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  vi.spyOn(console, 'error').mockImplementation(() => undefined)
  vi.spyOn(console, 'log').mockImplementation(() => undefined)
  signer = await deriveIdentity(new Uint8Array(32).fill(5), 1)
  const event = (id: string, data: unknown) =>
    signJws(signer, 'vm-event+jws', {
      specversion: '1.0',
      id,
      source: signer.did,
      type: 'sim.event',
      time: new Date(START).toISOString(),
      data,
    })
  for (const id of ['a', 'b', 'c', 'd', 'e', 'f', 'g']) events[id] = await event(id, id)
  events['b2'] = await event('b', 'another content under the same id')
  events['bad'] = `${events['g']!.slice(0, -4)}AAAA`
})

afterAll(() => {
  vi.useRealTimers()
  vi.restoreAllMocks()
})

/** One day in the life of a node, and what its clients and readers saw. */
class Day {
  readonly platform: Platform
  readonly accepted = new Set<string>()
  readonly shown = new Map<number, string>()
  readonly #random: () => number

  constructor(plan: Plan | null, seed = 1) {
    this.platform = new Platform(VARS, [], ONLOOKERS)
    this.platform.plan = plan
    this.#random = seeded(seed)
  }

  /** A client that asks again until it has an answer, as clients do. */
  async #post(body: string, headers: Record<string, string>): Promise<void> {
    for (let attempt = 0; attempt < 4; attempt++) {
      try {
        const response = await this.platform.fetch('/events', { method: 'POST', body, headers })
        if (response.status >= 500) continue
        const answer = (await response.json()) as {
          eventHash?: string
          status?: string
          results?: { eventHash?: string; problem?: { status: number } }[]
        }
        if (response.ok && answer.eventHash !== undefined && answer.status !== 'received') {
          this.accepted.add(answer.eventHash)
        }
        for (const line of answer.results ?? [])
          if (line.eventHash !== undefined) this.accepted.add(line.eventHash)
        if (answer.results?.some((line) => (line.problem?.status ?? 0) >= 500) === true) continue
        return
      } catch (error) {
        if (!(error instanceof Killed)) throw error
      }
    }
  }

  async #look(): Promise<void> {
    try {
      const response = await this.platform.fetch('/log/checkpoint')
      if (response.status !== 200) return
      const [, size, root] = (await response.text()).split('\n')
      const before = this.shown.get(Number(size))
      expect(before ?? root, `two roots at size ${size}`).toBe(root)
      this.shown.set(Number(size), root!)
    } catch (error) {
      if (!(error instanceof Killed)) throw error
    }
  }

  async #pass(ms: number): Promise<void> {
    vi.setSystemTime(Date.now() + ms)
    await this.platform.tick(Date.now())
    await this.platform.deliver(this.#random)
    await this.platform.settle()
    await this.#look()
  }

  /** The morning: posts of every kind, under the plan's faults. */
  async live(): Promise<void> {
    vi.setSystemTime(START)
    const jose = { 'content-type': 'application/jose' }
    const ndjson = { 'content-type': 'application/x-ndjson' }
    await this.#post(events['a']!, jose)
    await this.#post(events['b']!, jose)
    await this.#post(
      [events['c'], events['d'], events['a'], 'not a jws', events['b2']].join('\n'),
      ndjson,
    )
    await this.#post(events['e']!, { ...jose, prefer: 'respond-async' })
    await this.#post(events['bad']!, { ...jose, prefer: 'respond-async' })
    await this.platform.deliver(this.#random)
    await this.#look()
    await this.#pass(2500)
    await this.#post(events['f']!, jose)
    await this.#pass(2500)
    await this.#pass(11_000)
  }

  /** A morning on which everything happens at once: posts, deliveries, alarms and readers overlap. */
  async rush(): Promise<void> {
    vi.setSystemTime(START)
    const jose = { 'content-type': 'application/jose' }
    const ndjson = { 'content-type': 'application/x-ndjson' }
    const posts = [
      () => this.#post(events['a']!, jose),
      () => this.#post([events['b'], events['c'], events['a']].join('\n'), ndjson),
      () => this.#post(events['d']!, { ...jose, prefer: 'respond-async' }),
      () => this.#post(events['e']!, { ...jose, prefer: 'wait=1' }),
      () => this.#post(events['f']!, jose),
      () => this.#post(events['b2']!, jose),
    ]
    for (let i = 0; i < 4; i++) {
      vi.setSystemTime(Date.now() + 1500)
      const now = posts.splice(0, 2).map((post) => post())
      const everything = [
        ...now,
        this.platform.tick(Date.now()),
        this.platform.deliver(this.#random),
        this.#look(),
        this.platform.deliver(this.#random),
        this.platform.tick(Date.now()),
      ]
      const outcomes = await Promise.allSettled(everything)
      for (const outcome of outcomes) {
        if (outcome.status === 'rejected' && !(outcome.reason instanceof Killed))
          throw outcome.reason
      }
    }
  }

  /** The evening: whatever was broken works again, and time passes. */
  async recover(): Promise<void> {
    this.platform.plan = null
    // A client whose every attempt failed comes back when the node is well, and is served.
    const before = this.accepted.size
    await this.#post(events['g']!, { 'content-type': 'application/jose' })
    expect(this.accepted.size, 'a well node refuses').toBe(before + 1)
    for (let i = 0; i < 12; i++) {
      await this.#pass(11_000)
      const { waiting } = await this.#waiting()
      if (waiting === 0 && i > 1) break
    }
  }

  async #waiting(): Promise<{ waiting: number }> {
    const { facts } = await checkState(this.platform.env, await nodeOf(this.platform.env))
    return { waiting: Number(facts['waiting']) }
  }

  /** The law. */
  async judge(): Promise<void> {
    const { env } = this.platform
    const node = await nodeOf(env)
    const { findings, facts } = await checkState(env, node)
    expect(findings).toEqual([])
    expect(facts['waiting']).toBe(0)
    for (let height = 1; height <= Number(facts['height']); height++) {
      expect((await checkBatch(env, node, height)).findings).toEqual([])
    }
    const size = Number(facts['size'])
    const bundle = new Uint8Array(
      await (await this.platform.fetch(`/log/tile/entries/000.p/${size}`)).arrayBuffer(),
    )
    const entries = decodeEntries(bundle, size)
    const names = entries.map((entry) => `sha256:${toHex(entry)}`)
    expect(new Set(names).size, 'an event is in the log twice').toBe(names.length)
    for (const hash of this.accepted) expect(names, 'an accepted event is missing').toContain(hash)
    const known = Object.entries(events)
      .filter(([id]) => id !== 'b2' && id !== 'bad')
      .map(([, jws]) => `sha256:${toHex(sha256(new TextEncoder().encode(jws)))}`)
    for (const name of names) expect(known, 'the log holds what nobody posted').toContain(name)
    const leaves = new Uint8Array(size * 32)
    for (const [i, entry] of entries.entries()) leaves.set(leafHash(entry), i * 32)
    for (const [at, root] of this.shown) {
      expect(toHex(rootOf(leaves.subarray(0, at * 32))), `history was rewritten below ${at}`).toBe(
        toHex(fromBase64(root)),
      )
    }
  }
}

async function day(plan: Plan | null, seed = 1): Promise<Day> {
  const it = new Day(plan, seed)
  await it.live()
  await it.recover()
  await it.judge()
  return it
}

test('a good day seals seven events and shows consistent checkpoints', async () => {
  const good = await day(null)
  expect(good.accepted.size).toBe(6)
  expect([...good.shown.keys()].at(-1)).toBe(7)
  expect(good.platform.deadLettered).toBe(0)
})

const faults: readonly Fault[] = ['fail', 'lost', 'kill-before', 'kill-after']

test.each(faults)(
  'whichever step fails by "%s", nothing accepted is lost, doubled or rewritten',
  async (fault) => {
    const steps = (await day(null)).platform.steps.length
    for (let k = 0; k < steps; k++) {
      try {
        await day((_name, number) => (number === k ? fault : null), k)
      } catch (cause) {
        throw new Error(`${fault} at step ${k}: ${String(cause)}`, { cause })
      }
    }
  },
  300_000,
)

test('a step that fails for a whole day loses nothing, whichever it is', async () => {
  const names = [...new Set((await day(null)).platform.steps)]
  expect(names.length).toBeGreaterThan(20)
  for (const name of names) {
    for (const fault of ['fail', 'lost'] as const) {
      try {
        await day((step) => (step === name ? fault : null), 7)
      } catch (cause) {
        throw new Error(`${fault} always at ${name}: ${String(cause)}`, { cause })
      }
    }
  }
}, 300_000)

test('random faults and kills, a hundred days', async () => {
  for (let seed = 1; seed <= 100; seed++) {
    const random = seeded(seed * 7919)
    try {
      await day(() => (random() < 0.04 ? faults[Math.floor(random() * 4)]! : null), seed)
    } catch (cause) {
      throw new Error(`seed ${seed}: ${String(cause)}`, { cause })
    }
  }
}, 300_000)

test('everything at once, with random faults and kills, twenty days', async () => {
  for (let seed = 1; seed <= 20; seed++) {
    const random = seeded(seed * 104_729)
    const rate = seed % 4 === 0 ? 0 : 0.03
    try {
      const it = new Day(() => (random() < rate ? faults[Math.floor(random() * 4)]! : null), seed)
      await it.rush()
      await it.recover()
      await it.judge()
    } catch (cause) {
      throw new Error(`seed ${seed}: ${String(cause)}`, { cause })
    }
  }
}, 300_000)
