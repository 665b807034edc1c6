/**
 * Erasure among peers: a mirror that has the bytes deletes them when the operator's event comes, whatever stops it
 * between two steps; one that comes later takes the tombstones, proves the log by them, and believes none that the
 * log's operator did not sign; and a node that lost its newest batches takes them back with their tombstones.
 */

import { DatabaseSync } from 'node:sqlite'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { toHex, utf8 } from '../../functions/core/bytes.ts'
import { formatTombstone, linesOf, parseTombstone, withLine } from '../../functions/core/erasure.ts'
import { deriveIdentity, signJws, type IdentityKey } from '../../functions/core/node-keys.ts'
import { sha256 } from '../../functions/core/sha256.ts'
import { checkBatch, checkState } from '../../functions/store/fsck.ts'
import { orderErasure } from '../../functions/store/erasures.ts'
import { mirrorEventsKey } from '../../functions/store/mirror.ts'
import { nodeOf, type NodeContext } from '../../functions/store/node.ts'
import { jobs } from '../../functions/cron.ts'
import { readSignedBatch } from '../../functions/remembrancer.ts'
import { Ledger, LEDGER_SCHEMA } from '../../durable-objects/ledger.ts'
import { MIRROR_SCHEMA, recompute, type Recomputed } from '../../durable-objects/mirror.ts'
import { MirrorErasures, STONES_SCHEMA } from '../../durable-objects/mirror-erasures.ts'
import { Platform, seeded } from './platform.ts'
import { SqlStorageSim } from './sqlite.ts'

const START = Date.parse('2026-11-30T12:00:00Z')
const ORIGIN = 'sim.example/log'
const VARS = {
  NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
  ORIGIN,
  NODE_ID: 'sim',
  NETWORK: 'dev',
  INTAKE_SHARDS: '1',
  INTAKE_BACKLOG_MAX: '100000',
  RATE_LIMIT_DID: '0',
  RATE_LIMIT_IP: '0',
  SEAL_BATCH_MAX_ITEMS: '100',
  SEAL_BATCH_MAX_INTERVAL_MS: '1000',
}
const NEEDED = ['wake pools', 'wake the sequencer', 'carry out erasures']

let alice: IdentityKey
let stranger: IdentityKey
let node: NodeContext
let secret = ''
let target = ''

function event(by: IdentityKey, id: string, more: object = {}): Promise<string> {
  const time = new Date(START).toISOString()
  const base = { specversion: '1.0', id, source: by.did, type: 'sim.event', time }
  return signJws(by, 'vm-event+jws', { ...base, ...more })
}

/** The node whose log is mirrored. */
class Origin {
  readonly platform = new Platform(
    VARS,
    [],
    jobs.map(({ name }) => name).filter((name) => !NEEDED.includes(name)),
  )
  readonly #random = seeded(3)

  async post(...events: string[]): Promise<void> {
    for (const body of events) {
      const headers = { 'content-type': 'application/jose' }
      const answer = await this.platform.fetch('/events', { method: 'POST', body, headers })
      expect(answer.status).toBe(202)
    }
    await this.pass()
  }

  async pass(times = 1): Promise<void> {
    for (let i = 0; i < times; i++) {
      vi.setSystemTime(Date.now() + 1500)
      await this.platform.tick(Date.now())
      await this.platform.deliver(this.#random)
      await this.platform.settle()
    }
  }

  async erase(): Promise<void> {
    const { env } = this.platform
    await orderErasure(env, await nodeOf(env), { eventHash: target, reasonCode: 'gdpr-17' })
    await this.pass(3)
    expect((await this.platform.fetch(`/events/${target}`)).status).toBe(410)
  }

  async events(where: { height: number; batchRoot: string; part: number }) {
    const name = toHex(sha256(utf8(ORIGIN)))
    const path = `/mirror/${name}/batches/${where.height}/${where.batchRoot}/events/${where.part}`
    const answer = await this.platform.fetch(path)
    return answer.status === 404 ? null : new Uint8Array(await answer.arrayBuffer())
  }
}

/** A peer's mirror of it: the real ledger and the real recomputation over storage of its own. */
class Peer {
  readonly r2 = new Map<string, Uint8Array>()
  /** Thrown at the next write to R2, instead of it or after it. */
  fault: 'before' | 'after' | null = null
  readonly #env: Env
  readonly #storage: DurableObjectStorage
  ledger: Ledger
  erasures: MirrorErasures

  constructor() {
    const put = async (key: string, value: Uint8Array | string): Promise<void> => {
      const { fault } = this
      if (key.includes('/events/') && fault !== null) this.fault = null
      if (fault === 'before' && this.fault === null) throw new Error('crash before the write')
      this.r2.set(key, typeof value === 'string' ? utf8(value) : value.slice())
      if (fault === 'after' && this.fault === null) throw new Error('crash after the write')
    }
    const get = async (key: string) => {
      const bytes = this.r2.get(key)
      return bytes === undefined ? null : { arrayBuffer: async () => bytes.slice().buffer }
    }
    const head = async (key: string) => this.r2.get(key) ?? null
    this.#env = { BUCKET: { put, get, head } } as unknown as Env
    const around = <T>(_name: string, effect: () => T): T => effect()
    const alarm = { get: () => null, set: () => undefined }
    this.#storage = new SqlStorageSim(new DatabaseSync(':memory:'), around, alarm) as never
    this.#storage.sql.exec(LEDGER_SCHEMA + MIRROR_SCHEMA + STONES_SCHEMA)
    this.ledger = new Ledger(this.#storage)
    this.erasures = new MirrorErasures(this.#env, this.#storage, this.ledger)
    const { did } = node.identity
    this.ledger.follow({ origin: ORIGIN, did, vkey: node.vkey, isOwn: false })
  }

  /** Mirrors what the origin has sealed, from `from` on, and carries out what it is told. */
  async mirror(client: Pick<Origin, 'events' | 'platform'>): Promise<Recomputed['outcome'][]> {
    const answer = await client.platform.fetch('/remembrancer/batches?from=1')
    const { batches } = (await answer.json()) as {
      batches: { manifest: string; checkpoint: string }[]
    }
    const keys = { origin: ORIGIN, log: node.log.key, isKey: isOperator }
    const outcomes: Recomputed['outcome'][] = []
    for (const { manifest, checkpoint } of batches) {
      const signed = await readSignedBatch(keys, manifest, checkpoint)
      if (!this.ledger.learnBatch(signed, 'peer', Date.now())) continue
    }
    for (const batch of this.ledger.pending(ORIGIN, Number.MAX_SAFE_INTEGER, 100)) {
      const { erasures } = this
      const { outcome } = await recompute(this.#env, this.ledger, {
        batch,
        client: { events: (_origin, where) => client.events(where) },
        parts: 10,
        from: 'peer',
        isOperator,
        erasures,
      })
      outcomes.push(outcome)
    }
    return outcomes
  }

  advance(): Promise<boolean> {
    return this.erasures.advance(ORIGIN, isOperator)
  }

  holds(text: string): boolean {
    return [...this.r2.values()].some((bytes) => Buffer.from(bytes).includes(text))
  }

  stones(): unknown[] {
    return this.#storage.sql.exec('SELECT state FROM stones').toArray()
  }
}

function isOperator(did: string): boolean {
  return did === node.identity.did
}

function payloadOf(jws: string): string {
  return jws.split('.')[1]!
}

beforeAll(async () => {
  vi.useFakeTimers({ toFake: ['Date'] })
  vi.setSystemTime(START)
  Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  vi.spyOn(console, 'error').mockImplementation(() => undefined)
  vi.spyOn(console, 'log').mockImplementation(() => undefined)
  alice = await deriveIdentity(new Uint8Array(32).fill(5), 1)
  stranger = await deriveIdentity(new Uint8Array(32).fill(6), 1)
  node = await nodeOf(new Platform(VARS).env)
  secret = await event(alice, 'the-secret-id')
  target = `sha256:${toHex(sha256(utf8(secret)))}`
})

afterAll(() => {
  vi.useRealTimers()
  vi.restoreAllMocks()
})

test('a mirror that has the bytes deletes them once the operator’s event is mirrored', async () => {
  const origin = new Origin()
  await origin.post(await event(alice, 'one'), secret, await event(alice, 'two'))
  const peer = new Peer()
  expect(await peer.mirror(origin)).toEqual(['verified'])
  expect(peer.holds(payloadOf(secret))).toBe(true)
  // A signer's wish moves nobody else: it is the operator's event that counts.
  await origin.erase()
  expect(await peer.mirror(origin)).toEqual(['verified'])
  for (const fault of ['before', 'after'] as const) {
    peer.fault = fault
    await expect(peer.advance()).rejects.toThrow('crash')
    expect(peer.holds(payloadOf(secret))).toBe(fault === 'before')
  }
  await peer.advance()
  expect(peer.stones()).toEqual([{ state: 'done' }])
  expect(peer.holds(payloadOf(secret))).toBe(false)
  expect(peer.holds(payloadOf(await event(alice, 'two')))).toBe(true)
  // What it serves now proves the log to a third, who obeys the same law.
  const [{ batchRoot }] = peer.ledger.batchesAt(ORIGIN, 1) as [{ batchRoot: string }]
  const key = mirrorEventsKey(ORIGIN, { height: 1, batchRoot, part: 0 })
  const third = new Peer()
  const served = {
    platform: origin.platform,
    events: async (where: Parameters<Origin['events']>[0]) =>
      where.height === 1 ? (where.part === 0 ? peer.r2.get(key)! : null) : origin.events(where),
  }
  expect(await third.mirror(served)).toEqual(['verified', 'verified'])
})

test('who comes later takes tombstones, and none that its operator did not sign for that leaf', async () => {
  const origin = new Origin()
  await origin.post(await event(alice, 'one'), secret, await event(alice, 'two'))
  await origin.erase()
  const late = new Peer()
  expect(await late.mirror(origin)).toEqual(['verified', 'verified'])
  expect(late.holds(payloadOf(secret))).toBe(false)
  await late.advance()
  expect(late.stones()).toEqual([{ state: 'done' }])

  const [{ batchRoot }] = late.ledger.batchesAt(ORIGIN, 1) as [{ batchRoot: string }]
  const good = (await origin.events({ height: 1, batchRoot, part: 0 }))!
  const at = [...linesOf(good)].find(({ line }) => line[0] === 0x7b)!
  const stone = parseTombstone(at.line)
  const data = { eventHash: target, reasonCode: 'x' }
  const type = 'vm.erased'
  const forged = [
    { ...stone, erasedBy: await event(stranger, 'e', { type, data }) },
    { ...stone, erasedBy: await event(alice, 'e', { type, data }) },
    { ...stone, erasedBy: `${stone.erasedBy.slice(0, -4)}AAAA` },
    { ...stone, erasedBy: `sha256:${'0'.repeat(64)}` },
    { ...stone, leafIndex: 0 },
    { ...stone, eventHash: sha256(utf8('another')) },
  ]
  for (const [i, bad] of forged.entries()) {
    const peer = new Peer()
    const part = withLine(good, at, formatTombstone(bad))
    const liar = { platform: origin.platform, events: async () => part }
    expect((await peer.mirror(liar))[0], `forgery ${i}`).toBe('unavailable')
  }
  // A mirror that never deleted offers the bytes: they hash to the leaf, but are not kept any more.
  const stubborn = new Peer()
  const before = withLine(good, at, utf8(secret))
  expect(
    await stubborn.mirror({
      platform: origin.platform,
      events: async (where) =>
        where.height === 1 ? (where.part === 0 ? before : null) : origin.events(where),
    }),
  ).toEqual(['verified', 'verified'])
  await stubborn.advance()
  expect(stubborn.holds(payloadOf(secret))).toBe(false)
})

test('a node that lost its log takes it back with its tombstones, and still refuses the erased event', async () => {
  const origin = new Origin()
  await origin.post(await event(alice, 'one'), secret, await event(alice, 'two'))
  const early = new Peer()
  await early.mirror(origin)
  await origin.erase()
  const late = new Peer()
  await late.mirror(origin)
  // One peer had deleted its copy, of the other only the erasure's own batch is new.
  for (const from of [late, early]) {
    if (from === early) await early.mirror(origin)
    const lost = new Origin()
    const { env } = lost.platform
    for (const [key, bytes] of from.r2) await env.BUCKET.put(key, bytes)
    for (const height of [1, 2]) {
      await env.SEQUENCER.getByName('log').adopt(from.ledger.batchesAt(ORIGIN, height)[0]!)
    }
    await lost.pass(3)
    const { findings } = await checkState(env, node)
    expect(findings).toEqual([])
    for (const height of [1, 2]) {
      expect((await checkBatch(env, node, height)).findings).toEqual([])
    }
    for (const [where, bytes] of lost.platform.everything()) {
      expect(Buffer.from(bytes).includes(payloadOf(secret)), where).toBe(false)
    }
    const headers = { 'content-type': 'application/jose' }
    const again = await lost.platform.fetch('/events', { method: 'POST', body: secret, headers })
    expect(again.status).toBe(410)
    expect((await lost.platform.fetch(`/events/${target}`)).status).toBe(410)
  }
})
