/** What a calendar can answer that no honest one does, and what it costs: questions to our providers, and the file. */

import { describe, expect, test } from 'vitest'
import { bitcoinNetworks } from '#core/bitcoin-proof.ts'
import { sha256d, toDisplay } from '#core/bitcoin-transaction.ts'
import { concat, fromBase64, fromHex, toHex, utf8 } from '#core/bytes.ts'
import type { Attestation } from '#core/opentimestamps.ts'
import { attestationsOf, parseOts } from '#core/opentimestamps.ts'
import { sha256 } from '#core/sha256.ts'
import type { BitcoinClient } from '../../queues/anchors/bitcoin-client.ts'
import { calendarRail } from '../../queues/anchors/calendar.ts'
import { Driver, rejection } from '../support/anchoring.ts'
import { mine, START } from '../support/bitcoin-chain.ts'

const CALENDAR = 'https://calendar.example'
const FIRST = 200
const job = { root: new Uint8Array(32).fill(0xc5), treeSize: 3 }

/** A provider of a chain whose newest blocks have these Merkle roots, and how often it was asked. */
class Node {
  calls = 0
  #headers: readonly Uint8Array[] = []
  readonly client: BitcoinClient

  constructor() {
    const counted = <T>(answer: T) => (this.calls++, Promise.resolve(answer))
    const no = () => Promise.reject(new Error('not asked'))
    const byHash = (hash: string) => this.#headers.find((header) => hashOf(header) === hash)!
    this.client = {
      name: 'node.example',
      tip: () => counted({ height: FIRST + this.#headers.length - 1, hash: '' }),
      hashAt: (height) => {
        const header = this.#headers[height - FIRST]
        if (height === 0) return counted(bitcoinNetworks['regtest']!.genesis)
        // Below the first it is a long chain.
        if (height < FIRST) return counted(hashOf(this.#headers[0]!))
        return counted(header === undefined ? null : hashOf(header))
      },
      header: (hash) => counted(toHex(byHash(hash))),
      coins: no,
      feerate: no,
      broadcast: no,
      statusOf: no,
      inclusion: no,
      outspend: no,
    }
  }

  /** Blocks from FIRST on. */
  become(...roots: readonly Uint8Array[]): void {
    const headers: Uint8Array[] = []
    for (const [i, root] of roots.entries()) {
      const before = i === 0 ? new Uint8Array(32) : sha256d(headers[i - 1]!)
      headers.push(mine(before, root, START + 600 * i))
    }
    this.#headers = headers
  }
}

function hashOf(header: Uint8Array): string {
  return toDisplay(sha256d(header))
}

const other = (n: number) => sha256(Uint8Array.of(n))
const others = (n: number) => Array.from({ length: n }, (_, i) => other(i))

function leb(n: number): number[] {
  return n < 128 ? [n] : [(n % 128) | 128, ...leb(Math.floor(n / 128))]
}
const sized = (bytes: Uint8Array) => concat(Uint8Array.of(...leb(bytes.length)), bytes)
const block = (height: number) =>
  concat(fromHex('000588960d73d71901'), sized(Uint8Array.of(...leb(height))))
const pending = (uri = CALENDAR) => concat(fromHex('0083dfe30d2ef90c8e'), sized(sized(utf8(uri))))
const unknown = (n: number) =>
  concat(fromHex('000102030405060708'), sized(Uint8Array.of(n >> 8, n & 255)))
/** One path further on: what is said of the SHA-256. */
const hashed = (item: Uint8Array) => concat(Uint8Array.of(0x08), item)
/** What is said of the message and these bytes. */
const appended = (n: number, item: Uint8Array) =>
  concat(fromHex('f002'), Uint8Array.of(n >> 8, n & 255), item)
/** All of it of one message. */
const fork = (...items: readonly Uint8Array[]) =>
  concat(
    ...items.flatMap((item, i) => (i < items.length - 1 ? [Uint8Array.of(0xff), item] : [item])),
  )
const count = <T>(n: number, make: (i: number) => T) => Array.from({ length: n }, (_, i) => make(i))

/** A rail of one calendar that answers with these bytes. */
function setup() {
  const node = new Node()
  node.become(...others(12))
  const driver = new Driver(
    calendarRail({
      network: 'regtest',
      calendars: [CALENDAR],
      clients: [node.client],
      version: '0.1.0',
    }),
    job,
  )
  const calendar = { promise: pending(), upgrade: null as Uint8Array | null, asked: 0 }
  driver.fetch = async (url) => {
    if (url.endsWith('/digest')) return new Response(calendar.promise.slice())
    calendar.asked++
    const { upgrade } = calendar
    return upgrade === null ? new Response(null, { status: 404 }) : new Response(upgrade.slice())
  }
  const said = (): Attestation[] =>
    attestationsOf(parseOts(fromBase64(String(driver.work['ots'])))).map((a) => a.attestation)
  /** What the calendar was asked to stamp. */
  const commitment = () =>
    sha256(concat(job.root, fromHex(String((driver.work as { nonce: string }).nonce))))
  const check = async () => {
    node.calls = 0
    calendar.asked = 0
    return driver.run()
  }
  return { node, driver, calendar, said, commitment, check }
}

const PENDING = { type: 'pending', uri: CALENDAR }
const types = (all: readonly Attestation[]) => all.map(({ type }) => type)

describe('a calendar that talks much', () => {
  test('is asked about its promise only: blocks in it are neither looked up nor kept', async () => {
    const { node, driver, calendar, said, check } = setup()
    calendar.promise = fork(pending(), ...count(690, (i) => block(FIRST + i)))
    expect(calendar.promise.length).toBeGreaterThan(8000)
    await driver.run()
    expect(said()).toEqual([PENDING])
    expect((await check()).state).toBe('waiting')
    expect(node.calls).toBe(0)
  })

  test('and promises nothing but blocks has promised nothing', async () => {
    const { driver, calendar } = setup()
    calendar.promise = fork(...count(100, (i) => block(FIRST + i)))
    const error = await rejection(() => driver.run())
    expect(error.message).toContain('calendar.example promised nothing')
  })

  test('is followed and kept in a few things of each kind', async () => {
    const { driver, calendar, said, check } = setup()
    calendar.promise = fork(
      ...count(100, unknown),
      ...count(100, (i) => appended(i, pending())),
      ...count(100, (i) => appended(1000 + i, unknown(i))),
    )
    await driver.run()
    expect(types(said()).toSorted()).toEqual([
      ...count(4, () => 'pending'),
      ...count(4, () => 'unknown'),
    ])
    await check()
    expect(calendar.asked).toBe(4)
  })

  test('again and again is followed eight times in a check', async () => {
    const { driver, calendar, check } = setup()
    for (let i = 0; i < 5; i++) {
      calendar.promise = fork(...count(4, (n) => appended(10 * i + n, pending())))
      driver.stored = { ...driver.stored, state: i === 0 ? 'queued' : 'dropped' }
      await driver.run()
    }
    await check()
    expect(calendar.asked).toBe(8)
  })

  test.each([
    ['in the chain', (i: number) => FIRST - i, 10],
    ['above its tip', (i: number) => FIRST + 1000 + i, 2],
  ] as const)('of blocks %s that it is not in is soon done with', async (_name, height, most) => {
    const { node, driver, calendar, said, check } = setup()
    await driver.run()
    calendar.upgrade = fork(...count(100, (i) => block(height(i))))
    expect((await check()).state).toBe('waiting')
    expect(node.calls).toBeLessThanOrEqual(most)
    expect(node.calls).toBeGreaterThan(0)
    expect(said()).toEqual([PENDING])
  })
})

describe('the file of a final receipt holds', () => {
  const fileOf = (driver: Driver) =>
    attestationsOf(parseOts(fromBase64(String(driver.receipt!.proof['ots'])))).map(
      ({ attestation }) => attestation,
    )

  test('the block that is true, and no other that was named beside it', async () => {
    const { node, driver, calendar, commitment } = setup()
    await driver.run()
    node.become(other(0), sha256(commitment()), ...others(10))
    const lies = [block(FIRST), hashed(block(FIRST)), hashed(block(FIRST + 900))]
    const noise = [unknown(7), appended(9, block(FIRST + 3))]
    calendar.upgrade = fork(...lies, hashed(block(FIRST + 1)), ...noise)
    expect((await driver.run()).state).toBe('final')
    expect(fileOf(driver).toSorted((a, b) => (a.type < b.type ? -1 : 1))).toEqual([
      { type: 'bitcoin', height: FIRST + 1 },
      PENDING,
      { type: 'unknown', tag: fromHex('0102030405060708'), payload: fromHex('0007') },
    ])
    expect((await driver.verify()).outcome).toBe('verified')
  })

  test('the block that a reorganisation left, not the one that it took', async () => {
    const { node, driver, calendar, said, commitment } = setup()
    await driver.run()
    const root = sha256(commitment())
    node.become(other(0), root)
    calendar.upgrade = hashed(block(FIRST + 1))
    expect((await driver.run()).state).toBe('included')
    node.become(other(5), other(6), root)
    calendar.upgrade = hashed(block(FIRST + 2))
    expect((await driver.run()).state).toBe('included')
    // As long as nothing is final the first may come back.
    expect(types(said())).toEqual(['pending', 'bitcoin', 'bitcoin'])
    node.become(other(5), other(6), root, ...others(6))
    expect((await driver.run()).state).toBe('final')
    expect(fileOf(driver)).toEqual([PENDING, { type: 'bitcoin', height: FIRST + 2 }])
    expect((await driver.verify()).outcome).toBe('verified')
  })
})
