/**
 * Chains that change their mind, under the real orchestrator: a block that goes before the anchor in it is final,
 * and one that goes after. The first costs time; the second voids a receipt, if every provider says so, and the
 * same payment gets another one (real bitcoind, real anvil).
 */

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { verifyAnchorReceipt } from '../../functions/core/anchor-verify.ts'
import { parseReceipt } from '../../functions/core/receipt.ts'
import { nodeOf } from '../../functions/store/node.ts'
import { mineEmpty } from '../support/bitcoin.ts'
import { absence, World, type Paid } from './money.ts'
import { seeded } from './platform.ts'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())

const HOUR = 3_600_001

/** The newest `depth` blocks are replaced by as many, and `more`, without a transaction of ours. */
async function reorganise(chain: Paid, depth: number, more = 1): Promise<void> {
  if (chain === 'EVM') {
    await world.anvil.rpc('anvil_reorg', [depth, []])
    return world.mine(chain, more)
  }
  const tip = await world.height(chain)
  const hash = await world.bitcoind.rpc<string>('getblockhash', [tip - depth + 1])
  await world.bitcoind.rpc('invalidateblock', [hash])
  await mineEmpty(world.bitcoind, depth + more)
}

interface Kept {
  readonly id: number
  readonly revision: number
  readonly json: string
  readonly revoked: string | null
}
const kept = () =>
  world.rows<Kept>(
    'SELECT r.id, r.revision, r.json, v.json AS revoked FROM receipts r LEFT JOIN revocations v ON v.receipt_id = r.id ORDER BY r.id',
  )

describe.each(['BTC', 'EVM'] as const)('on %s', (chain) => {
  const keys = async () => ({
    [chain]: chain === 'BTC' ? await world.bitcoinKey() : await world.ethereumKey(),
  })

  test.skipIf(absence[chain] !== null)(
    'an anchor whose block is gone before it is final is sent again and paid for once',
    async () => {
      const { env } = await world.boot(await keys())
      await world.seal()
      await world.mine(chain, 1)
      await world.pass(1500)
      expect(await world.jobs()).toMatchObject([{ state: 'included' }])
      await reorganise(chain, 1)
      // What is stored while the same bytes go out again.
      const states: string[] = []
      world.platform.hold = (name) =>
        /network .* (?:eth_)?sendRawTransaction/i.test(name)
          ? env.DB.prepare('SELECT state FROM anchors')
              .first<string>('state')
              .then((state) => void states.push(String(state)))
          : null
      await world.pass(1500)
      world.platform.hold = null
      expect(states).toEqual(['orphaned'])
      expect(await world.jobs()).toMatchObject([{ state: 'broadcast' }])
      await world.finish()
      expect(await world.expectPaidOnce()).toBe(1)
      expect(world.spends(chain)).toMatchObject([{ state: 'final', n: 1 }])
    },
    60_000,
  )

  const two: Record<string, string> =
    chain === 'BTC'
      ? { BTC_URLS: 'core+http://btc-1.sim,core+http://btc-2.sim' }
      : { EVM_URLS: 'http://evm-1.sim,http://evm-2.sim' }
  const second = `${chain.toLowerCase()}-2.sim`

  /** A final anchor, and then as deep a reorganisation that both providers know of. */
  async function lostAfterFinal(): Promise<string> {
    await world.boot(await keys(), two)
    const link = await world.seal()
    await world.finish()
    expect(await world.expectPaidOnce()).toBe(1)
    const { blockNumber } = JSON.parse((await kept())[0]!.json) as { blockNumber: number }
    await reorganise(chain, (await world.height(chain)) - blockNumber + 1, 8)
    return link
  }

  test.skipIf(absence[chain] !== null)(
    'a final receipt that every provider contradicts is revoked, and the same payment gets a new one',
    async () => {
      const link = await lostAfterFinal()
      const [before] = await kept()
      const [spent] = world.spends(chain)
      const { platform } = world
      const { env } = platform
      const [{ root, network, method }] = (await world.jobs()) as [
        { root: string; network: string; method: string },
      ]
      const key = `anchors/${root}/${chain}/${network}/${method}`
      const read = async (name: string) => (await env.BUCKET.get(name))?.text()

      await world.pass(HOUR)
      expect(await kept()).toMatchObject([{ ...before, revoked: expect.any(String) }])
      const record = (await kept())[0]!.revoked!
      expect(await read(`${key}.revoked`)).toBe(record)
      expect(JSON.parse(record)).toMatchObject({
        root: `0x${root}`,
        revision: 0,
        check: 'active-chain',
      })
      expect(await read(key)).toBe(before!.json)
      const revoked = (await world.alerts()).filter(({ kind }) => kind === 'receipt_revoked')
      expect(revoked.map(({ cleared }) => cleared)).toEqual([0])
      expect((await world.jobs()).map(({ state }) => state)).not.toContain('final')
      const meanwhile = parseReceipt(await (await platform.fetch(link)).text())
      expect(meanwhile.status).toBe('sealed')

      await world.finish()
      expect(await world.jobs()).toMatchObject([{ state: 'final' }])
      const cleared = (await world.alerts()).filter(({ kind }) => kind === 'receipt_revoked')
      expect(cleared.map((alert) => alert.cleared)).toEqual([1])
      const all = await kept()
      expect(all.map((row) => [row.revision, row.revoked !== null])).toEqual([
        [0, true],
        [1, false],
      ])
      expect(all[0]).toEqual({ ...before, revoked: record })
      expect(await read(key)).toBe(before!.json)
      expect(await read(`${key}.1`)).toBe(all[1]!.json)
      // The same transaction in another block: nobody signed or paid again.
      const [old, fresh] = all.map((row) => JSON.parse(row.json) as Record<string, unknown>)
      expect(fresh!['txHash']).toBe(old!['txHash'])
      expect(fresh!['proof']).not.toEqual(old!['proof'])
      expect(world.spends(chain)).toEqual([spent])
      expect((await world.paid(chain)).get(root)).toEqual([old!['txHash']])
      const { identity } = await nodeOf(env)
      const trust = { tsaRoots: [], nodeDids: [identity.did] }
      expect(await verifyAnchorReceipt(fresh, trust)).toMatchObject({ outcome: 'verified' })

      const receipt = parseReceipt(await (await platform.fetch(link)).text())
      expect(receipt.status).toBe('final')
      expect(receipt.anchors).toEqual([fresh])
      const page = (await (await platform.fetch('/anchors/receipts')).json()) as {
        receipts: { revision: number; revoked: unknown }[]
      }
      expect(page.receipts.map((r) => [r.revision, r.revoked])).toEqual([
        [0, JSON.parse(record)],
        [1, null],
      ])
    },
    60_000,
  )

  test.skipIf(absence[chain] !== null)(
    'a final payment whose coins a reorganisation gave away is made again when the operator says go',
    async () => {
      await world.boot({
        [chain]: chain === 'BTC' ? await world.bitcoinKey(2) : await world.ethereumKey(),
      })
      await world.seal()
      await world.finish()
      expect(await world.expectPaidOnce()).toBe(1)
      const { blockNumber } = JSON.parse((await kept())[0]!.json) as { blockNumber: number }
      await reorganise(chain, (await world.height(chain)) - blockNumber + 1, 0)
      await world.spendElsewhere(chain, true)
      await world.mine(chain, 9)
      await world.pass(HOUR)
      for (let i = 0; i < 4; i++) await world.pass(61_000)
      expect(await world.jobs()).toMatchObject([{ state: 'held', reason: 'unknown_spend' }])
      await world.release(1)
      await world.finish()
      expect(await world.jobs()).toMatchObject([{ state: 'final' }])
      expect((await kept()).map((row) => [row.revision, row.revoked !== null])).toEqual([
        [0, true],
        [1, false],
      ])
      expect(world.spends(chain).map(({ state }) => state)).toEqual(['dead', 'final'])
      const { root } = (await world.jobs())[0]!
      const { txHash } = JSON.parse((await kept())[1]!.json) as { txHash: string }
      expect((await world.paid(chain)).get(root)).toEqual([txHash])
    },
    60_000,
  )

  test.skipIf(absence[chain] !== null)(
    'a revoked payment that blocks have no room for waits its time, and is not sent without end',
    async () => {
      await lostAfterFinal()
      const crowd = async () => {
        if (chain === 'BTC') return mineEmpty(world.bitcoind, 6)
        for (let i = 0; i < 6; i++) {
          await world.anvil.rpc('anvil_setNextBlockBaseFeePerGas', ['0x174876e800'])
          await world.anvil.mine(1)
        }
      }
      await world.pass(HOUR)
      // Most nodes say so of what they have; anvil takes it again.
      const known = { error: { code: -32000, message: 'already known' } }
      if (chain === 'EVM') {
        for (const host of ['evm-1.sim', second]) {
          world.answers.set(host, async ({ method }) => (/sendRaw/.test(method) ? known : null))
        }
      }
      const { steps } = world.platform
      const before = steps.length
      for (let i = 0; i < 5; i++) {
        await crowd()
        await world.pass(60_000)
      }
      const sent = steps.slice(before).filter((name) => /sendraw/i.test(name))
      expect(sent.length).toBeLessThanOrEqual(6)
      world.answers.clear()
      if (chain === 'EVM') await world.anvil.rpc('anvil_setNextBlockBaseFeePerGas', ['0x1'])
      await world.finish()
      expect(await world.jobs()).toMatchObject([{ state: 'final' }])
      expect(world.spends(chain)).toHaveLength(1)
    },
    60_000,
  )

  test.skipIf(absence[chain] !== null).each(['disagrees', 'is silent'] as const)(
    'as long as one provider %s, a final receipt stands',
    async (how) => {
      await lostAfterFinal()
      const [before] = await kept()
      const receipt = JSON.parse(before!.json) as { blockNumber: number }
      const own = `0x${receipt.blockNumber.toString(16)}`
      world.answers.set(second, async ({ method, params }, ask) => {
        if (how === 'is silent') throw new Error('connection refused')
        // It still has a block of its own there: any that is not the others'.
        if (method === 'getblockhash' && params[0] === receipt.blockNumber)
          return { result: 'ab'.repeat(32) }
        if (method !== 'eth_getBlockByNumber' || params[0] !== own) return null
        const { result } = await ask()
        return { result: { ...(result as object), hash: `0x${'ab'.repeat(32)}` } }
      })
      for (let i = 0; i < 3; i++) await world.pass(HOUR)
      expect(await kept()).toEqual([before])
      expect(await world.jobs()).toMatchObject([{ state: 'final' }])
      expect((await world.alerts()).filter(({ kind }) => kind === 'receipt_revoked')).toEqual([])
      world.answers.clear()
      await world.pass(HOUR)
      expect((await kept()).map(({ revoked }) => revoked !== null)).toEqual([true])
      await world.finish(seeded(1))
      expect((await kept()).map(({ revoked }) => revoked !== null)).toEqual([true, false])
    },
    60_000,
  )
})
