import { spawnSync } from 'node:child_process'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { toHex } from '#core/bytes.ts'
import { ROOT } from '../../scripts/build.ts'
import { ELSEWHERE, startBitcoind, type Bitcoind } from '../../scripts/devnet/bitcoind.ts'
import {
  calendarPython,
  missingCalendar,
  startCalendar,
  type Calendar,
} from '../../scripts/devnet/calendar.ts'
import { absent, bitcoindAbsence, type Output } from './devnet-support.ts'

let dir = ''
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'vm-devnet-'))
})
afterAll(() => rm(dir, { recursive: true, force: true }))

const calendarAbsence = bitcoindAbsence ?? (calendarPython() === null ? missingCalendar : null)
describe.skipIf(absent(calendarAbsence))('the calendar', () => {
  let node: Bitcoind
  let calendar: Calendar
  beforeAll(async () => {
    node = await startBitcoind({ dir: join(dir, 'calendar') })
    await node.fundAddress(ELSEWHERE, 1000)
    calendar = await startCalendar({ dir: join(dir, 'promises'), bitcoind: node, confirmations: 3 })
  })
  afterAll(async () => {
    await calendar?.stop()
    await node?.stop()
  })

  const submit = async (digest: Uint8Array<ArrayBuffer>): Promise<string> => {
    const response = await fetch(`${calendar.url}/digest`, { method: 'POST', body: digest })
    expect(response.status).toBe(200)
    return toHex(new Uint8Array(await response.arrayBuffer()))
  }
  /** What the stock library reads in the calendar's answers. */
  const stock = (input: Record<string, string>) => {
    const script = resolve(ROOT, 'test/e2e/verify-calendar.py')
    const { stdout, stderr } = spawnSync('/usr/bin/python3', [script], {
      input: JSON.stringify(input),
      encoding: 'utf8',
    })
    if (stdout === '') throw new Error(stderr)
    return JSON.parse(stdout) as { commitment: string; uri: string; height?: number }
  }

  test('promises at once and proves later, and the stock library agrees', async () => {
    const digests = [1, 2, 3].map((n) => new Uint8Array(32).fill(n))
    const stamps = await Promise.all(digests.map(submit))
    const asked = digests.map((digest, i) => ({ digest: toHex(digest), stamp: stamps[i]! }))
    const pendings = asked.map((input) => stock(input))
    const timestamp = (i: number) => fetch(`${calendar.url}/timestamp/${pendings[i]!.commitment}`)
    for (const { uri, commitment } of pendings) {
      expect(uri).toBe(calendar.url)
      expect(commitment).toHaveLength(88)
    }
    const early = await timestamp(0)
    expect([early.status, await early.text()]).toEqual([
      404,
      'Pending confirmation in Bitcoin blockchain',
    ])
    const { txid, commitments } = await calendar.anchor()
    expect(commitments).toBe(3)
    await node.mine(2)
    const waiting = await timestamp(0)
    expect([waiting.status, await waiting.text()]).toEqual([
      404,
      `Timestamped by transaction ${txid}; waiting for 1 confirmations`,
    ])
    await node.mine(1)
    const { blockhash } = await node.rpc<Output>('getrawtransaction', [txid, 1])
    const { height } = await node.rpc<{ height: number }>('getblockheader', [blockhash])
    const header = await node.rpc<string>('getblockheader', [blockhash, false])
    for (const [i, input] of asked.entries()) {
      const upgrade = toHex(new Uint8Array(await (await timestamp(i)).arrayBuffer()))
      expect(stock({ ...input, upgrade, header }).height).toBe(height)
      const foreign = await node.rpc<string>('getblockheader', [
        await node.rpc('getbestblockhash'),
        false,
      ])
      expect(() => stock({ ...input, upgrade, header: foreign })).toThrow(/VerificationError/)
    }
    expect(await calendar.anchor()).toEqual({ txid: null, commitments: 0 })
  })

  test('keeps its promises over a restart', async () => {
    const digest = new Uint8Array(32).fill(7)
    const { commitment } = stock({ digest: toHex(digest), stamp: await submit(digest) })
    const { port } = calendar
    await calendar.stop()
    const folder = join(dir, 'promises')
    calendar = await startCalendar({ dir: folder, port, bitcoind: node, anchorEveryMs: 50 })
    const said = async () => (await fetch(`${calendar.url}/timestamp/${commitment}`)).text()
    await expect.poll(said, { timeout: 10_000 }).toMatch(/^Timestamped by transaction/)
  })

  test('refuses what is no digest or no commitment, and fails as told', async () => {
    const big = await fetch(`${calendar.url}/digest`, { method: 'POST', body: 'x'.repeat(65) })
    expect(big.status).toBe(400)
    expect((await fetch(`${calendar.url}/timestamp/xyz`)).status).toBe(400)
    const unknown = await fetch(`${calendar.url}/timestamp/${'ab'.repeat(44)}`)
    expect([unknown.status, await unknown.text()]).toEqual([404, 'Not found'])
    await calendar.setFault('error500')
    expect((await fetch(calendar.url)).status).toBe(500)
    await calendar.setFault('ok')
  })
})
