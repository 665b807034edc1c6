/**
 * The witness's memory over real SQL: whatever arrives in whatever order, at once or while storage fails, no
 * size has two roots, none shrinks, and no cosignature leaves that is not on disk.
 */

import { DatabaseSync } from 'node:sqlite'
import { ed25519 } from '@noble/curves/ed25519.js'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { formatAddCheckpoint, readCosignatures } from '#core/add-checkpoint.ts'
import { toHex, utf8, type Hash } from '#core/bytes.ts'
import {
  addSignatures,
  cosignCheckpoint,
  signCheckpoint,
  verifyCheckpoint,
} from '#core/checkpoint.ts'
import { consistencyProof } from '#core/consistency-proof.ts'
import { leafHashes, rootOf } from '#core/merkle.ts'
import { sha256 } from '#core/sha256.ts'
import {
  TYPE_COSIGNATURE,
  parseNote,
  verifierKey,
  verifyNote,
  type NoteSigner,
} from '#core/signed-note.ts'
import {
  MAX_RIVALS,
  WitnessStore,
  type WitnessAnswer,
  type WitnessRole,
} from '../../durable-objects/witness-store.ts'
import { SqlStorageSim } from '../sim/sqlite.ts'

const origin = 'log.example/log'
const log = signer(origin, 1)
const witness = signer('node.example/witness', 2, TYPE_COSIGNATURE)
const NOW = 1_700_000_000_000
/** Two histories of one log that part after five leaves. */
const FORK_AT = 5
const MAX_SIZE = 12
const trees = ['left', 'right'].map((side) =>
  leafHashes(
    Array.from({ length: MAX_SIZE }, (_, i) => utf8(i < FORK_AT ? `leaf ${i}` : `${side} ${i}`)),
  ),
)

/** What the next transaction does: commits, rolls back, or commits and resets the object before it answers. */
type Fault = 'ok' | 'fail' | 'lost'

/** A witness's disk, and the object that lives on it just now. */
class House {
  readonly db = new DatabaseSync(':memory:')
  store = this.#open()
  next: Fault = 'ok'

  #open(): WitnessStore {
    const storage = new SqlStorageSim(
      this.db,
      (step, effect) => {
        if (step !== 'transaction') return effect()
        const fault = this.next
        this.next = 'ok'
        if (fault === 'fail') throw new Error('storage failed')
        const result = effect()
        if (fault === 'ok') return result
        this.store = this.#open()
        throw new Error('storage lost its reply')
      },
      { get: () => null, set: () => undefined },
    )
    storage.sql.exec(WitnessStore.SCHEMA)
    return new WitnessStore(storage.sql, storage)
  }

  add(body: Uint8Array, role: Partial<WitnessRole> = {}): Promise<WitnessAnswer> {
    return this.store.addCheckpoint(body, { logOf, witness, nowAt: NOW, ...role })
  }
}

describe('a witness', () => {
  test('cosigns what grows, and serves it with both signatures', async () => {
    const house = new House()
    expect(house.store.latest(origin)).toBeNull()
    expect(house.store.cosigned(name(origin))).toBeNull()
    for (const [old, size] of [
      [0, 3],
      [3, 7],
      [7, 7],
    ] as const) {
      const { status, body, contentType, rival } = await house.add(await request(old, size))
      expect({ status, contentType, rival }).toEqual({
        status: 200,
        contentType: 'text/plain; charset=utf-8',
        rival: null,
      })
      const { text } = parseNote(await noteAt(size))
      const [line] = await readCosignatures(utf8(body), text, witness.key)
      const trust = { log: log.key, witnesses: [witness.key] }
      const note = house.store.cosigned(name(origin))!
      const found = await verifyCheckpoint(note, trust)
      expect(found.checkpoint).toMatchObject({ origin, size, root: rootAt(size) })
      expect(found.cosignatures.map(({ signature }) => signature)).toEqual([line])
      expect(found.cosignatures[0]!.timestamp).toBe(NOW / 1000)
      expect(house.store.latest(origin)).toEqual({
        size,
        root: rootAt(size),
        note,
        cosignedAt: NOW,
      })
    }
    expect(house.store.cosigned(name('else.example/log'))).toBeNull()
    expect(house.store.cosigned(name(origin).toUpperCase())).toBeNull()
  })

  test('keeps each origin apart', async () => {
    const house = new House()
    const other = signer('other.example/log', 5)
    const note = await signCheckpoint(
      { origin: other.key.name, size: 2, root: rootAt(2), extensions: [] },
      other,
    )
    await house.add(await request(0, 7))
    const body = formatAddCheckpoint({ oldSize: 0, proof: [], note })
    expect((await house.add(body)).status).toBe(404)
    const known = (o: string) => (o === other.key.name ? other.key : logOf(o))
    expect((await house.add(body, { logOf: known })).status).toBe(200)
    expect(house.store.latest(origin)?.size).toBe(7)
    expect(house.store.latest(other.key.name)?.size).toBe(2)
    expect(house.store.cosigned(name(other.key.name))).toContain(other.key.name)
  })

  test('stores and serves of all signatures only the log’s and its own', async () => {
    const house = new House()
    const note = await noteAt(7)
    const { text } = parseNote(note)
    const strangers = await Promise.all(
      [3, 4].map((n) => cosignCheckpoint(text, signer(`w${n}`, n, TYPE_COSIGNATURE), n)),
    )
    const body = formatAddCheckpoint({
      oldSize: 0,
      proof: [],
      note: addSignatures(note, strangers),
    })
    expect((await house.add(body)).status).toBe(200)
    const { signatures } = parseNote(house.store.cosigned(name(origin))!)
    expect(signatures.map((s) => s.name)).toEqual([origin, witness.key.name])
  })

  test('writes nothing for what it refuses', async () => {
    const house = new House()
    await house.add(await request(0, 7))
    const before = house.store.latest(origin)
    const stranger = signer(origin, 9)
    const refused: [number, Uint8Array][] = [
      [400, new Uint8Array(0)],
      [400, new Uint8Array(65_537)],
      [400, await request(8, 7)],
      [403, await request(7, 9, { by: stranger })],
      [409, await request(3, 9)],
      [409, await request(0, 3)],
      [422, formatAddCheckpoint({ oldSize: 7, proof: [], note: await noteAt(9) })],
      [422, await request(7, 9, { side: 1 })],
      [422, await request(7, 7, { side: 1 })],
    ]
    for (const [status, body] of refused) {
      const answer = await house.add(body)
      expect(answer.status).toBe(status)
      if (status === 409) {
        expect(answer).toMatchObject({ body: '7\n', contentType: 'text/x.tlog.size' })
      }
    }
    expect(house.store.latest(origin)).toEqual(before)
  })

  test('without a usable key fails, and stores nothing', async () => {
    const house = new House()
    const bodies = await request(0, 7)
    const broken = { key: witness.key, sign: () => Promise.reject(new Error('no key')) }
    const mixed = { key: witness.key, sign: log.sign }
    for (const role of [
      { witness: broken },
      { witness: mixed },
      { witness: log },
      { nowAt: 999 },
    ]) {
      await expect(house.add(bodies, role)).rejects.toThrow(Error)
      expect(house.store.latest(origin)).toBeNull()
    }
    await expect(house.add(bodies, { logOf: () => witness.key })).rejects.toMatchObject({
      code: 'bad-config',
    })
  })

  test('never says an earlier time for a later tree, unless the clock was set back', async () => {
    const house = new House()
    const times: (number | null)[] = []
    let old = 0
    for (const [i, nowAt] of [NOW, NOW - 1, NOW - 60_000, NOW + 5000, NOW - 60_000].entries()) {
      const { body } = await house.add(await request(old, i + 1), { nowAt })
      times.push(await timeOf(body, i + 1))
      old = i + 1
    }
    const second = NOW / 1000
    expect(times).toEqual([second, second, second, second + 5, second - 60])
  })
})

describe('a fork', () => {
  test('leaves evidence: both checkpoints of one size, whichever check refused the second', async () => {
    const house = new House()
    await house.add(await request(0, 7))
    const cosigned = house.store.cosigned(name(origin))!
    const rival = {
      origin,
      size: 7,
      root: toHex(rootAt(7, 1)),
      note: await noteAt(7, 1),
      cosigned,
    }
    for (const [old, status] of [
      [0, 409],
      [7, 422],
      [8, 400],
    ] as const) {
      const answer = await house.add(await request(old, 7, { side: 1 }))
      expect(answer).toMatchObject({ status, rival })
      expect(house.store.rivals()).toEqual([rival])
    }
    // The witness keeps what it cosigned first, grows on, and keeps the evidence.
    expect((await house.add(await request(7, 9))).status).toBe(200)
    expect(house.store.cosigned(name(origin))).not.toBe(cosigned)
    expect(house.store.rivals()).toEqual([rival])
    const trust = { log: log.key, witnesses: [witness.key] }
    const roots = await Promise.all(
      [rival.note, rival.cosigned].map(async (note) => {
        const { checkpoint } = await verifyCheckpoint(note, trust)
        expect(checkpoint.size).toBe(7)
        return toHex(checkpoint.root)
      }),
    )
    expect(new Set(roots).size).toBe(2)
  })

  test('that nobody signed leaves none', async () => {
    const house = new House()
    await house.add(await request(0, 7))
    const body = await request(7, 7, { side: 1, by: signer(origin, 9) })
    expect(await house.add(body)).toMatchObject({ status: 403, rival: null })
    expect(house.store.rivals()).toEqual([])
  })

  test('of very many roots fills no disk', async () => {
    const house = new House()
    await house.add(await request(0, 7))
    for (let i = 0; i < MAX_RIVALS + 4; i++) {
      const root = new Uint8Array(32).fill(i)
      const note = await signCheckpoint({ origin, size: 7, root, extensions: [] }, log)
      const answer = await house.add(formatAddCheckpoint({ oldSize: 7, proof: [], note }))
      expect(answer.rival?.root).toBe(toHex(root))
    }
    expect(house.store.rivals().map(({ root }) => root)).toEqual(
      Array.from({ length: 16 }, (_, i) => toHex(new Uint8Array(32).fill(i))),
    )
    // Another origin has room of its own, and what a stranger signed takes none of it.
    const other = signer('other.example/log', 5)
    const role = { logOf: () => other.key }
    const roots = [rootAt(7), rootAt(7, 1)]
    const [first, second] = await Promise.all(
      roots.map((root) =>
        signCheckpoint({ origin: other.key.name, size: 7, root, extensions: [] }, other),
      ),
    )
    await house.add(formatAddCheckpoint({ oldSize: 0, proof: [], note: first! }), role)
    const stray = await cosignCheckpoint(parseNote(second!).text, witness, 9)
    const note = addSignatures(second!, [stray])
    await house.add(formatAddCheckpoint({ oldSize: 7, proof: [], note }), role)
    const ofOther = house.store.rivals().filter((rival) => rival.origin === other.key.name)
    expect(ofOther).toMatchObject([{ note: second }])
  })
})

describe('two submissions at once', () => {
  test('of size N and N+K: the slow one does not roll K leaves back', async () => {
    // tlog-witness, "add-checkpoint", the race in six steps.
    const house = new House()
    await house.add(await request(0, 3))
    const gate = Promise.withResolvers<void>()
    const reached = Promise.withResolvers<void>()
    const slow: NoteSigner = {
      key: witness.key,
      sign: async (message) => {
        reached.resolve()
        await gate.promise
        return witness.sign(message)
      },
    }
    const a = house.add(await request(3, 7), { witness: slow })
    await reached.promise
    expect((await house.add(await request(3, 9))).status).toBe(200)
    gate.resolve()
    expect(await a).toMatchObject({ status: 409, body: '9\n', rival: null })
    expect(house.store.latest(origin)?.size).toBe(9)
  })

  test('of two roots of one size: the first stands, the other is evidence', async () => {
    for (const first of [0, 1]) {
      const house = new House()
      await house.add(await request(0, 3))
      const bodies = [
        await request(3, 7, { side: first }),
        await request(3, 7, { side: 1 - first }),
      ] as const
      const [a, b] = await Promise.all(bodies.map((body) => house.add(body)))
      expect(new Set([a!.status, b!.status])).toEqual(new Set([200, 409]))
      const won = a!.status === 200 ? first : 1 - first
      expect(house.store.latest(origin)?.root).toEqual(rootAt(7, won))
      expect(house.store.rivals()).toMatchObject([
        { size: 7, root: toHex(rootAt(7, 1 - won)), cosigned: house.store.cosigned(name(origin)) },
      ])
    }
  })

  test('of the same checkpoint: one is cosigned, the other told the size', async () => {
    const house = new House()
    const body = await request(0, 7)
    const answers = await Promise.all([house.add(body), house.add(body), house.add(body)])
    expect(answers.filter(({ status }) => status === 200)).toHaveLength(1)
    expect(answers.filter(({ body: said }) => said === '7\n')).toHaveLength(2)
    const again = await request(7, 7)
    const repeats = await Promise.all([house.add(again), house.add(again)])
    expect(repeats.map(({ status }) => status)).toEqual([200, 200])
  })

  test('of trees without leaves: both are cosigned', async () => {
    const house = new House()
    const body = await request(0, 0)
    const answers = await Promise.all([house.add(body), house.add(body)])
    expect(answers.map(({ status }) => status)).toEqual([200, 200])
  })
})

describe('storage that fails', () => {
  test('with nothing done lets no cosignature out, and the log tries again', async () => {
    const house = new House()
    await house.add(await request(0, 3))
    house.next = 'fail'
    await expect(house.add(await request(3, 7))).rejects.toThrow('storage failed')
    expect(house.store.latest(origin)?.size).toBe(3)
    expect((await house.add(await request(3, 7))).status).toBe(200)
  })

  test('but persisted anyway lets no cosignature out; the log is told the size and gets it then', async () => {
    const house = new House()
    await house.add(await request(0, 3))
    house.next = 'lost'
    await expect(house.add(await request(3, 7))).rejects.toThrow('storage lost its reply')
    expect(house.store.latest(origin)?.size).toBe(7)
    expect(await house.add(await request(3, 7))).toMatchObject({ status: 409, body: '7\n' })
    // What it never let out still binds it.
    expect(await house.add(await request(7, 7, { side: 1 }))).toMatchObject({ status: 422 })
    const { status, body } = await house.add(await request(7, 7))
    expect(status).toBe(200)
    expect(await timeOf(body, 7)).toBe(NOW / 1000)
  })
})

test('in any crowd of requests, over any storage, no size shrinks or has two roots', async () => {
  const one = fc.record({
    side: fc.nat(1),
    size: fc.integer({ min: 1, max: MAX_SIZE }),
    // Most know what was cosigned when the crowd gathered.
    old: fc.oneof(
      { weight: 3, arbitrary: fc.constant(null) },
      { weight: 1, arbitrary: fc.nat(MAX_SIZE) },
    ),
    delay: fc.nat(6),
  })
  const crowd = fc.record({
    requests: fc.array(one, { minLength: 1, maxLength: 4 }),
    fault: fc.constantFrom<Fault>('ok', 'ok', 'fail', 'lost'),
  })
  const count: Record<string, number> = {}
  await fc.assert(
    fc.asyncProperty(fc.array(crowd, { maxLength: 5 }), async (crowds) => {
      const house = new House()
      const roots = new Map<number, string>()
      let largest = 0
      for (const { requests, fault } of crowds) {
        house.next = fault
        const known = house.store.latest(origin)?.size ?? 0
        const bodies = await Promise.all(
          requests.map(({ side, size, old }) => request(old ?? known, size, { side })),
        )
        await Promise.all(
          requests.map(async ({ side, size, delay }, i) => {
            const answer = await house
              .add(bodies[i]!, { witness: late(witness, delay) })
              .catch((error: Error) => error.message)
            const kind = typeof answer === 'string' ? answer : String(answer.status)
            count[kind] = (count[kind] ?? 0) + 1
            const latest = house.store.latest(origin)
            expect(latest?.size ?? 0).toBeGreaterThanOrEqual(largest)
            largest = latest?.size ?? 0
            if (typeof answer === 'string') return
            if (answer.rival !== null) {
              count['rival'] = (count['rival'] ?? 0) + 1
              expect(answer.rival.root).toBe(toHex(rootAt(size, side)))
            }
            if (answer.status !== 200) return
            // On disk before it is seen.
            expect(latest!.size).toBeGreaterThanOrEqual(size)
            const { text } = parseNote(await noteAt(size, side))
            await readCosignatures(utf8(answer.body), text, witness.key)
            const root = toHex(rootAt(size, side))
            expect(roots.get(size) ?? root).toBe(root)
            for (const [s, r] of roots) {
              if (s > FORK_AT && size > FORK_AT) expect(r).toBe(toHex(rootAt(s, side)))
            }
            roots.set(size, root)
          }),
        )
      }
    }),
    { numRuns: 150 },
  )
  for (const kind of ['200', '409', '422', 'rival', 'storage failed', 'storage lost its reply']) {
    expect(count[kind] ?? 0, kind).toBeGreaterThan(5)
  }
})

test('the size that a witness named is remembered by witness and origin, also a smaller one', () => {
  const { store } = new House()
  const url = 'https://w.example/witness'
  expect(store.knownSize(url, origin)).toBe(0)
  store.learnSize({ url, origin, size: 7, nowAt: NOW })
  store.learnSize({ url, origin: `${origin}/2`, size: 2, nowAt: NOW })
  expect(store.knownSize(url, origin)).toBe(7)
  expect(store.knownSize(url, `${origin}/2`)).toBe(2)
  expect(store.knownSize('https://v.example', origin)).toBe(0)
  store.learnSize({ url, origin, size: 3, nowAt: NOW + 1 })
  expect(store.knownSize(url, origin)).toBe(3)
})

function signer(keyName: string, seedByte: number, type: 1 | 4 = 1): NoteSigner {
  const seed = new Uint8Array(32).fill(seedByte)
  return {
    key: verifierKey(keyName, ed25519.getPublicKey(seed), type),
    sign: async (message) => ed25519.sign(message, seed),
  }
}

function logOf(of: string) {
  return of === origin ? log.key : null
}

function name(of: string): string {
  return toHex(sha256(utf8(of)))
}

/** A signer that takes `turns` turns of the event loop's microtasks longer. */
function late({ key, sign }: NoteSigner, turns: number): NoteSigner {
  return {
    key,
    sign: async (message) => {
      for (let i = 0; i < turns; i++) await new Promise((resolve) => setImmediate(resolve))
      return sign(message)
    },
  }
}

function rootAt(size: number, side = 0): Hash {
  return rootOf(trees[side]!.subarray(0, 32 * size))
}

const notes = new Map<string, Promise<string>>()

function noteAt(size: number, side = 0, by = log): Promise<string> {
  const id = `${size} ${side} ${by.key.keyId}`
  let note = notes.get(id)
  if (note === undefined) {
    note = signCheckpoint({ origin, size, root: rootAt(size, side), extensions: [] }, by)
    notes.set(id, note)
  }
  return note
}

/** An honest request for one of the histories. */
async function request(
  oldSize: number,
  size: number,
  { side = 0, by = log }: { side?: number; by?: NoteSigner } = {},
): Promise<Uint8Array> {
  const read = async (coords: readonly { level: number; index: number }[]) =>
    coords.map(({ level, index }) => {
      const width = 32 * 2 ** level
      return rootOf(trees[side]!.subarray(index * width, (index + 1) * width))
    })
  const isProved = 0 < oldSize && oldSize < size
  const proof = isProved ? await consistencyProof(read, oldSize, size) : []
  return formatAddCheckpoint({ oldSize, proof, note: await noteAt(size, side, by) })
}

/** Seconds of the one cosignature in an answer. */
async function timeOf(body: string, size: number): Promise<number | null> {
  const { text } = parseNote(await noteAt(size))
  const signatures = await readCosignatures(utf8(body), text, witness.key)
  const [found] = await verifyNote({ text, signatures }, [witness.key])
  return found!.timestamp
}
