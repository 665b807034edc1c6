/** The calendar rail against calendars made with python-opentimestamps over a real regtest node. */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { concat, fromBase64, fromHex, toHex, utf8 } from '#core/bytes.ts'
import { attestationsOf, parseOts } from '#core/opentimestamps.ts'
import { calendarRail } from '../../queues/anchors/calendar.ts'
import type { Fetch } from '../../queues/anchors/bounded-fetch.ts'
import { bitcoindBinary, missingBitcoind } from '../../scripts/devnet/bitcoind-binary.ts'
import type { Bitcoind } from '../../scripts/devnet/bitcoind.ts'
import { ELSEWHERE, startBitcoind } from '../../scripts/devnet/bitcoind.ts'
import type { Calendar } from '../../scripts/devnet/calendar.ts'
import { calendarPython, missingCalendar, startCalendar } from '../../scripts/devnet/calendar.ts'
import type { Fault } from '../../scripts/devnet/fault-proxy.ts'
import { Driver, Killed, rejection } from '../support/anchoring.ts'
import { core } from '../support/bitcoin.ts'

const missing = [
  ...(bitcoindBinary() === null ? [missingBitcoind] : []),
  ...(calendarPython() === null ? [missingCalendar] : []),
]
if (missing.length > 0) console.warn(missing.join('\n'))
const HOUR = 3_600_000

describe.skipIf(missing.length > 0)('with two calendars', () => {
  let dir: string
  let node: Bitcoind
  let one: Calendar
  let two: Calendar

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'vm-cal-'))
    node = await startBitcoind({ dir: join(dir, 'node') })
    await node.fundAddress(ELSEWHERE, 1000)
    one = await startCalendar({ dir: join(dir, 'one'), bitcoind: node, confirmations: 1 })
    two = await startCalendar({ dir: join(dir, 'two'), bitcoind: node, confirmations: 1 })
  })
  beforeEach(async () => {
    await Promise.all([one, two].map((calendar) => calendar.setFault('ok')))
  })
  afterAll(async () => {
    await Promise.all([one.stop(), two.stop()])
    await node.stop()
    await rm(dir, { recursive: true, force: true })
  })

  function setup(options: Partial<Parameters<typeof calendarRail>[0]> = {}) {
    const rail = calendarRail({
      network: 'regtest',
      calendars: [one.url, two.url],
      clients: [core(node.url)],
      version: '0.1.0',
      ...options,
    })
    const job = { root: crypto.getRandomValues(new Uint8Array(32)), treeSize: 7 }
    return { job, driver: new Driver(rail, job) }
  }
  const fileOf = (driver: Driver) =>
    attestationsOf(parseOts(fromBase64(String(driver.work['ots']))))
  const typesOf = (driver: Driver) => fileOf(driver).map(({ attestation }) => attestation.type)
  const promised = (driver: Driver) =>
    fileOf(driver).flatMap(({ attestation: a }) => (a.type === 'pending' ? [a.uri] : []))

  test('promises become paths, all of them, and a path that is deep enough is the receipt', async () => {
    const { driver, job } = setup()
    expect((await driver.run()).state).toBe('waiting')
    expect(promised(driver).toSorted()).toEqual([one.url, two.url].toSorted())
    expect((await driver.run()).state).toBe('waiting')
    const { txid } = await one.anchor()
    const [hash] = await node.mine(1, ELSEWHERE)
    const step = await driver.run()
    if (step.state !== 'included') throw new Error(step.state)
    expect(step.inclusion).toMatchObject({ txHash: txid, observedDepth: 1, requiredDepth: 7 })
    // The second is upgraded too, though the first is enough (opentimestamps-client 27).
    await two.anchor()
    await node.mine(6, ELSEWHERE)
    expect((await driver.run()).state).toBe('final')
    const receipt = driver.receipt!
    expect(receipt).toMatchObject({
      root: `0x${toHex(job.root)}`,
      chain: 'BTC',
      network: 'regtest',
      txHash: txid,
      blockNumber: step.inclusion.blockNumber,
      anchorTs: step.inclusion.anchorTs,
      proof: { type: 'opentimestamps' },
    })
    expect(receipt.proof['header']).toBe(await node.rpc('getblockheader', [hash, false]))
    const kept = attestationsOf(parseOts(fromBase64(String(receipt.proof['ots']))))
    const types = kept.map(({ attestation }) => attestation.type).toSorted()
    expect(types).toEqual(['bitcoin', 'bitcoin', 'pending', 'pending'])
    expect((await verifyAnchorReceipt(receipt, { tsaRoots: [] })).outcome).toBe('verified')
    expect(await driver.verify()).toMatchObject({
      outcome: 'verified',
      checks: expect.arrayContaining(['active-chain']) as unknown,
    })
  })

  test('the nonce is stored before a byte leaves, and stamping again asks for the same', async () => {
    const { driver, job } = setup()
    const seen: string[] = []
    driver.fetch = async (url, init) => {
      if (url.endsWith('/digest')) seen.push(toHex(init!.body as Uint8Array))
      return fetch(url, init)
    }
    await driver.step()
    expect(seen).toEqual([])
    driver.killAfter = 2
    await expect(driver.step()).rejects.toBeInstanceOf(Killed)
    await driver.step()
    expect(seen).toHaveLength(4)
    expect(new Set(seen).size).toBe(1)
    expect(seen[0]).not.toBe(toHex(job.root))
  })

  const faults: readonly Fault[] = ['down', 'hang', 'reset', 'html', 'limited', 'error500', 'cut']
  test.each(faults)('a calendar that is %s only delays', async (fault) => {
    const { driver } = setup({ timeoutMs: 500 })
    await driver.step()
    await two.setFault(fault)
    const error = await rejection(() => driver.step())
    expect(error.message).toContain('1 of 2 calendars promised, not 2.')
    expect(error.message).toContain(`127.0.0.1:${two.port}`)
    await two.setFault('ok')
    expect((await driver.step()).state).toBe('waiting')
    await two.anchor()
    await node.mine(7, ELSEWHERE)
    // Its promise is due, but it does not answer; the other one has not anchored yet.
    await two.setFault(fault)
    expect((await driver.step()).state).toBe('waiting')
    expect(typesOf(driver)).toEqual(['pending', 'pending'])
    await two.setFault('ok')
    expect((await driver.step()).state).toBe('final')
  })

  test('fewer promises than wanted are enough if so configured', async () => {
    const { driver } = setup({ minimum: 1 })
    await one.setFault('down')
    await driver.run()
    expect(promised(driver)).toEqual([two.url])
  })

  /** Answers of calendar `two` as somebody else would have them. */
  function forged(driver: Driver, answer: (path: string) => Uint8Array | Response | null): void {
    driver.fetch = async (url, init) => {
      const mine = url.startsWith(two.url) ? answer(url.slice(two.url.length)) : null
      if (mine instanceof Response) return mine
      return mine === null ? fetch(url, init) : new Response(mine.slice())
    }
  }
  const bitcoinAt = (height: number) => {
    const payload = Uint8Array.of((height & 0x7f) | 0x80, height >> 7)
    return concat(fromHex('000588960d73d71901'), Uint8Array.of(payload.length), payload)
  }

  test('a calendar that names a block it is not in produces no receipt', async () => {
    const { driver } = setup()
    await driver.run()
    await node.mine(7, ELSEWHERE)
    const tip = await node.rpc<number>('getblockcount')
    const lies = [
      bitcoinAt(tip - 6),
      concat(Uint8Array.of(0x08), bitcoinAt(tip - 6)),
      bitcoinAt(tip + 50),
      concat(fromHex('f004ffffffff08'), bitcoinAt(tip - 6)),
    ]
    for (const lie of lies) {
      forged(driver, (path) => (path.startsWith('/timestamp/') ? lie : null))
      expect((await driver.run()).state).toBe('waiting')
      expect(typesOf(driver)).toEqual(['pending', 'pending'])
    }
    await two.anchor()
    await node.mine(7, ELSEWHERE)
    driver.fetch = fetch
    expect((await driver.run()).state).toBe('final')
  })

  test('somebody else’s path is no path of ours', async () => {
    const first = setup()
    const second = setup()
    await first.driver.run()
    await two.anchor()
    await node.mine(7, ELSEWHERE)
    const [pending] = fileOf(first.driver).filter(
      ({ attestation: a }) => a.type === 'pending' && a.uri === two.url,
    )
    const response = await fetch(`${two.url}/timestamp/${toHex(pending!.message)}`)
    const path = new Uint8Array(await response.arrayBuffer())
    await second.driver.run()
    forged(second.driver, (asked) => (asked.startsWith('/timestamp/') ? path : null))
    expect((await second.driver.run()).state).toBe('waiting')
    expect(typesOf(second.driver)).toEqual(['pending', 'pending'])
  })

  test('what is unknown stays in the file, and a stranger’s URI is not followed', async () => {
    const { driver } = setup()
    const unknown = fromHex('00010203040506070803aabbcc')
    const uri = utf8('https://calendar.evil.example')
    const payload = concat(Uint8Array.of(uri.length), uri)
    const stranger = concat(fromHex('0083dfe30d2ef90c8e'), Uint8Array.of(payload.length), payload)
    const asked: string[] = []
    forged(driver, (path) => {
      if (path === '/digest') {
        return concat(Uint8Array.of(0xff), unknown, stranger)
      }
      return null
    })
    const inner = driver.fetch as Fetch
    driver.fetch = (url, init) => {
      asked.push(new URL(url).origin)
      return inner(url, init)
    }
    await driver.run()
    await driver.run()
    await one.anchor()
    await node.mine(7, ELSEWHERE)
    expect((await driver.run()).state).toBe('final')
    expect(new Set(asked)).toEqual(new Set([one.url, two.url]))
    const kept = attestationsOf(parseOts(fromBase64(String(driver.receipt!.proof['ots']))))
    expect(kept.map(({ attestation }) => attestation)).toEqual(
      expect.arrayContaining([
        { type: 'unknown', tag: fromHex('0102030405060708'), payload: fromHex('aabbcc') },
        { type: 'pending', uri: 'https://calendar.evil.example' },
      ]),
    )
  })

  test('a redirect is not followed, and too long an answer is not read', async () => {
    const { driver } = setup()
    await driver.step()
    const moved = () =>
      new Response(null, { status: 302, headers: { location: 'http://169.254.169.254/' } })
    forged(driver, (path) => (path === '/digest' ? moved() : null))
    expect((await rejection(() => driver.step())).message).toContain('answered HTTP 302')
    forged(driver, (path) => (path === '/digest' ? new Uint8Array(10_001) : null))
    expect((await rejection(() => driver.step())).message).toContain('more than 10000 bytes')
    forged(driver, (path) => (path === '/digest' ? fromHex('00') : null))
    expect((await rejection(() => driver.step())).message).toContain('answered with no timestamp')
  })

  test('after two days it says what it waits for, after three it asks for new promises', async () => {
    const { driver } = setup()
    await driver.run()
    const from = Number(driver.work['promisedAt'])
    driver.now = () => from + 47 * HOUR
    expect(await driver.run()).not.toHaveProperty('reason')
    driver.now = () => from + 49 * HOUR
    expect(await driver.run()).toMatchObject({
      state: 'waiting',
      reason: 'the calendars have promised for 49 hours',
    })
    driver.now = () => from + 72 * HOUR
    await one.setFault('down')
    expect((await driver.run()).state).toBe('waiting')
    expect(driver.log.slice(-2)).toEqual(['check→dropped', 'submit→waiting'])
    // What was promised before is kept: it may still come true.
    expect(promised(driver)).toContain(one.url)
    await one.setFault('ok')
    await one.anchor()
    await node.mine(7, ELSEWHERE)
    expect((await driver.run()).state).toBe('final')
  })
})
