/**
 * An outage costs time and nothing else, and what cannot go on by itself is held, said once, and goes on when
 * its reason is gone: the schedule, the alerts and the payments on real chains.
 */

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { retryDelay } from '../../functions/core/anchor-state.ts'
import { bitcoinAccount } from '../../queues/anchors/bitcoin-wallet.ts'
import { ethereumAccount } from '../../queues/anchors/ethereum-wallet.ts'
import { mineEmpty } from '../support/bitcoin.ts'
import { absence, FOREIGN, World, type Paid } from './money.ts'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())

const silence = (): never => {
  throw new Error('connection refused')
}

interface History {
  readonly failures: number
  readonly history: readonly {
    readonly attempt: number
    readonly at: string
    readonly outcome: string
    readonly failures: number
    readonly delaySeconds: number
    readonly nextAt: string
    readonly reason: string | null
  }[]
}

async function historyOf(id: number): Promise<History> {
  return (await (await world.platform.fetch(`/anchors/${id}`)).json()) as History
}

/** Goes to the moment at which the only job is due. */
async function toNextAttempt(): Promise<void> {
  const [job] = await world.jobs()
  await world.pass(Math.max(0, job!.nextAt - Date.now()))
}

const held = async () => (await world.alerts()).filter(({ kind }) => kind === 'anchor_held')
const stalled = async () => (await world.alerts()).filter(({ kind }) => kind === 'anchor_stalled')

describe.each(['BTC', 'EVM'] as const)('on %s', (chain) => {
  const host = `${chain.toLowerCase()}-1.sim`
  const keys = async (how: { coins?: number; wei?: bigint } = {}) => ({
    [chain]:
      chain === 'BTC' ? await world.bitcoinKey(how.coins ?? 1) : await world.ethereumKey(how.wei),
  })
  const state = async () => {
    const [job] = await world.jobs()
    return job!.state
  }

  test.skipIf(absence[chain] !== null).each(['queued', 'broadcast', 'included'] as const)(
    'an outage that begins when the job is %s shows the whole ladder, one alert, and costs no second payment',
    async (from) => {
      const platform = await world.boot(await keys())
      if (from === 'queued') world.answers.set(host, silence)
      await world.seal()
      if (from === 'included') {
        await world.mine(chain, 1)
        await world.pass(1500)
      }
      expect(await state()).toBe(from)
      world.answers.set(host, silence)
      const FAILURES = 10
      for (let i = 0; i < 40 && (await world.jobs())[0]!.failures < FAILURES; i++) {
        const { failures } = (await world.jobs())[0]!
        // Steps 30, 60, 120, 240, 480, 960, 1800: the eighth failure is that of an attempt after 1800 s.
        expect(await stalled()).toHaveLength(failures >= 8 ? 1 : 0)
        await toNextAttempt()
      }
      const { history } = await historyOf(1)
      const errors = history.filter(({ outcome }) => outcome === 'error')
      expect(errors.map(({ failures }) => failures)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9, 10])
      const ladder = [30, 60, 120, 240, 480, 960, 1800, 1800, 1800, 1800]
      for (const [i, { failures, delaySeconds, at, nextAt, reason }] of errors.entries()) {
        const step = ladder[i]!
        expect(retryDelay(failures, 0).step).toBe(step)
        expect(delaySeconds).toBeGreaterThanOrEqual(step / 2)
        expect(delaySeconds).toBeLessThan(step)
        expect(Date.parse(nextAt) - Date.parse(at)).toBe(delaySeconds * 1000)
        expect(reason).toContain(host)
        if (i > 0) expect(Date.parse(at)).toBeGreaterThanOrEqual(Date.parse(errors[i - 1]!.nextAt))
      }
      expect(errors.some(({ delaySeconds }, i) => delaySeconds !== ladder[i]! / 2)).toBe(true)
      expect((await stalled()).map(({ cleared }) => cleared)).toEqual([0])
      expect(await state()).toBe(from)

      world.answers.clear()
      await toNextAttempt()
      expect((await stalled()).map(({ cleared }) => cleared)).toEqual([1])
      expect((await world.jobs())[0]!.failures).toBe(0)
      await world.finish()
      expect(await world.expectPaidOnce()).toBe(1)
      expect(platform.deadLettered).toBe(0)
    },
    60_000,
  )

  test.skipIf(absence[chain] !== null)(
    'without money it is held and said once; money that comes releases it',
    async () => {
      const key = await keys({ coins: 0, wei: 0n })
      await world.boot(key)
      await world.seal()
      for (let i = 0; i < 5; i++) await world.pass(61_000)
      expect(await world.jobs()).toMatchObject([{ state: 'held', reason: 'no_funds', work: null }])
      expect((await held()).map(({ cleared }) => cleared)).toEqual([0])
      await fund(chain, key[chain]!)
      await world.finish()
      expect(await world.expectPaidOnce()).toBe(1)
      expect((await held()).map(({ cleared }) => cleared)).toEqual([1])
    },
    60_000,
  )

  test.skipIf(absence[chain] !== null)(
    'blocks dearer than the cap hold it before anything is signed, cheaper ones release it',
    async () => {
      await world.boot(await keys())
      world.answers.set(host, async ({ method, params }, ask) => {
        if (method === 'estimatesmartfee') return { result: { feerate: 0.001 } }
        if (method !== 'eth_getBlockByNumber' || params[0] !== 'latest') return null
        const { result } = await ask()
        return { result: { ...(result as object), baseFeePerGas: '0x174876e800' } }
      })
      await world.seal()
      for (let i = 0; i < 3; i++) await world.pass(61_000)
      expect(await world.jobs()).toMatchObject([{ state: 'held', reason: 'fee_cap', work: null }])
      expect(world.spends(chain)).toEqual([])
      world.answers.clear()
      await world.finish()
      expect(await world.expectPaidOnce()).toBe(1)
      expect((await held()).map(({ cleared }) => cleared)).toEqual([1])
    },
    60_000,
  )

  test.skipIf(absence[chain] !== null)(
    'a stuck transaction is replaced up to the cap, then held and said once; whichever variant confirms is the payment',
    async () => {
      await world.boot(await keys(), { BTC_FEE_CAP_SAT: '400' })
      await world.seal()
      expect(await state()).toBe('broadcast')
      for (let i = 0; i < 30 && (await state()) !== 'held'; i++) {
        await crowded(chain, 6, i)
        await world.pass(2000)
      }
      expect(await world.jobs()).toMatchObject([{ state: 'held', reason: 'fee_cap' }])
      const [spend] = world.spends(chain)
      expect(spend!.n).toBeGreaterThan(1)
      for (let i = 0; i < 6; i++) {
        await crowded(chain, 1, 2)
        await world.pass(61_000)
      }
      expect((await held()).map(({ cleared }) => cleared)).toEqual([0])
      if (chain === 'EVM') await world.anvil.rpc('anvil_setNextBlockBaseFeePerGas', ['0x1'])
      await world.finish()
      expect(await world.expectPaidOnce()).toBe(1)
      expect((await held()).map(({ cleared }) => cleared)).toEqual([1])
    },
    60_000,
  )

  test.skipIf(absence[chain] !== null)(
    'what somebody else spent with our key is held until the operator says go, and paid for once then',
    async () => {
      const key = await keys({ coins: 2 })
      await world.boot(key)
      // Our own transaction never gets out, the foreign one does.
      world.answers.set(host, ({ method }) => (/sendraw/i.test(method) ? silence() : null))
      await world.seal()
      const [spend] = world.spends(chain)
      await world.mine(chain, await world.spendElsewhere(chain))
      world.answers.clear()
      // A nonce that is used is believed once its block is final, a coin that is spent at once.
      if (chain === 'EVM') await world.mine(chain, 3)
      for (let i = 0; i < 6; i++) await world.pass(61_000)
      expect(await world.jobs()).toMatchObject([{ state: 'held', reason: 'unknown_spend' }])
      expect((await held()).map(({ cleared }) => cleared)).toEqual([0])
      await world.mine(chain, 8)
      for (let i = 0; i < 3; i++) await world.pass(61_000)
      expect(await state()).toBe('held')
      expect(world.spends(chain)).toEqual([spend])

      await world.release(1)
      await world.finish()
      expect(await world.expectPaidOnce([FOREIGN])).toBe(1)
      expect(world.spends(chain).map((s) => s.state)).toEqual(['dead', 'final'])
      expect((await held()).map(({ cleared }) => cleared)).toEqual([1])
    },
    60_000,
  )
})

const unspendable = {
  'that never was': (amount: number) => ({ txid: 'ee'.repeat(32), vout: 0, amount: 10 * amount }),
  'of another value': (amount: number) => ({ amount: 10 * amount }),
  'of nearly its value': (amount: number) => ({ amount: amount + 0.00000001 }),
}

test.skipIf(absence.BTC !== null).each(Object.entries(unspendable))(
  'a coin %s, vouched for by everybody, is held and said once, and real ones pay when the operator says go',
  async (_name, lie) => {
    await world.boot({ BTC: await world.bitcoinKey(3) })
    world.answers.set('btc-1.sim', async ({ method, params }, ask) => {
      if (method === 'gettxout' && params[0] === 'ee'.repeat(32)) {
        return { result: { bestblock: '00'.repeat(32), confirmations: 100, coinbase: false } }
      }
      if (method !== 'scantxoutset') return null
      const { unspents } = (await ask()).result as { unspents: { amount: number }[] }
      const [first, ...rest] = unspents as [{ amount: number }]
      return {
        result: { success: true, unspents: [{ ...first, ...lie(first.amount) }, ...rest] },
      }
    })
    await world.seal()
    expect(world.spends('BTC')).toMatchObject([{ state: 'open' }])
    world.answers.clear()
    for (let i = 0; i < 9; i++) {
      await world.mine('BTC', 1)
      await world.pass(2000)
    }
    for (let i = 0; i < 3; i++) await world.pass(61_000)
    expect(await world.jobs()).toMatchObject([{ state: 'held', reason: 'unknown_spend' }])
    expect((await held()).map(({ cleared }) => cleared)).toEqual([0])
    // It may have looked too cheap once; after that no price was thought to mend it.
    const [spend] = world.spends('BTC')
    expect(spend!.state).toBe('open')
    expect(spend!.n).toBeLessThanOrEqual(2)
    await world.release(1)
    await world.finish()
    expect(await world.expectPaidOnce()).toBe(1)
    expect(world.spends('BTC').map(({ state }) => state)).toEqual(['dead', 'final'])
    expect((await held()).map(({ cleared }) => cleared)).toEqual([1])
    // And the wallet is free for the next one.
    await world.seal()
    await world.finish()
    expect(await world.expectPaidOnce()).toBe(2)
  },
  60_000,
)

async function fund(chain: Paid, key: string): Promise<void> {
  if (chain === 'EVM') return world.anvil.setBalance(ethereumAccount(key).address, 10n ** 18n)
  const { address } = bitcoinAccount({ key, type: 'p2wpkh', network: 'regtest' })
  await world.bitcoind.fundAddress(address, 100_000)
  await world.mine('BTC', 6)
}

/** Blocks in which others pay more than we do: three times as much in each `round`. */
async function crowded(chain: Paid, blocks: number, round: number): Promise<void> {
  if (chain === 'BTC') return mineEmpty(world.bitcoind, blocks)
  const baseFee = `0x${(10n ** 10n * 3n ** BigInt(round)).toString(16)}`
  for (let i = 0; i < blocks; i++) {
    await world.anvil.rpc('anvil_setNextBlockBaseFeePerGas', [baseFee])
    await world.anvil.mine(1)
  }
}
