/**
 * An EVM node that miscounts our transactions: nothing is signed at a number that the wallet cannot believe, so
 * nothing is left behind that waits above the chain's nonce (real anvil).
 */

import { afterAll, beforeAll, expect, test } from 'vitest'
import { privateKeyToAccount } from 'viem/accounts'
import { absence, World } from './money.ts'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())

const miscount = (count: number) =>
  world.answers.set('evm-1.sim', async ({ method }) =>
    method === 'eth_getTransactionCount' ? { result: `0x${count.toString(16)}` } : null,
  )
const held = async () => (await world.alerts()).filter(({ kind }) => kind === 'anchor_held')

/** Somebody transfers with the key, outside of the wallet. */
async function transfer(key: string, nonce: number): Promise<void> {
  const { address, signTransaction } = privateKeyToAccount(key as `0x${string}`)
  const fees = { gas: 21_000n, maxFeePerGas: 10n ** 12n, maxPriorityFeePerGas: 10n ** 9n }
  const tx = { type: 'eip1559', chainId: 31337, to: address, value: 0n, nonce } as const
  await world.anvil.rpc('eth_sendRawTransaction', [await signTransaction({ ...tx, ...fees })])
  await world.mine('EVM', 1)
}

test.skipIf(absence.EVM !== null).each([0, 1])(
  'a count that is too high after %i roots signs nothing, is said once, and is over with the truth',
  async (before) => {
    await world.boot({ EVM: await world.ethereumKey() })
    for (let i = 0; i < before; i++) {
      await world.seal()
      await world.finish()
    }
    miscount(1000)
    await world.seal()
    for (let i = 0; i < 5; i++) await world.pass(61_000)
    expect((await world.jobs()).at(-1)).toMatchObject({
      state: 'held',
      reason: 'unknown_spend',
      work: null,
    })
    expect(world.spends('EVM')).toHaveLength(before)
    expect((await held()).map(({ cleared }) => cleared)).toEqual([0])
    world.answers.clear()
    await world.finish()
    expect(await world.expectPaidOnce()).toBe(before + 1)
    expect((await held()).map(({ cleared }) => cleared)).toEqual([1])
  },
  60_000,
)

test.skipIf(absence.EVM !== null)(
  'a count below what the wallet signed is a node that lags: the attempt fails and is repeated',
  async () => {
    await world.boot({ EVM: await world.ethereumKey() })
    await world.seal()
    await world.finish()
    miscount(0)
    await world.seal()
    await world.pass(61_000)
    const job = (await world.jobs()).at(-1)!
    expect(job).toMatchObject({ state: 'queued', work: null })
    expect(job.failures).toBeGreaterThan(0)
    expect(world.spends('EVM')).toHaveLength(1)
    expect(await held()).toEqual([])
    world.answers.clear()
    await world.finish()
    expect(await world.expectPaidOnce()).toBe(2)
  },
  60_000,
)

test.skipIf(absence.EVM !== null)(
  'a key with transactions of somebody else signs once an operator has looked and they are final',
  async () => {
    const key = await world.ethereumKey()
    for (const nonce of [0, 1]) await transfer(key, nonce)
    await world.boot({ EVM: key })
    await world.seal()
    await world.mine('EVM', 80)
    for (let i = 0; i < 3; i++) await world.pass(61_000)
    expect(await world.jobs()).toMatchObject([{ state: 'held', reason: 'unknown_spend' }])
    expect(world.spends('EVM')).toEqual([])
    await transfer(key, 2)
    await world.release(1)
    // Its newest transaction could still be reorganised away, and ours would wait above the gap.
    expect(world.spends('EVM')).toEqual([])
    await world.finish()
    expect(await world.expectPaidOnce()).toBe(1)
  },
  60_000,
)

test.skipIf(absence.EVM !== null)(
  'what waits above the chain is held without being made dearer, a release signs nothing, and it is over when the nonces below are used',
  async () => {
    const key = await world.ethereumKey()
    await world.boot({ EVM: key })
    // The operator's word, and a node that lies at that moment.
    miscount(2)
    await world.seal()
    await world.release(1)
    expect(world.spends('EVM')).toMatchObject([{ state: 'open', n: 1 }])
    world.answers.clear()
    for (let i = 0; i < 10; i++) {
      await world.mine('EVM', 6)
      await world.pass(61_000)
    }
    const jobs = () => world.jobs()
    expect(await jobs()).toMatchObject([{ state: 'held', reason: 'nonce_gap' }])
    await world.release(1)
    expect(world.spends('EVM')).toMatchObject([{ state: 'open', n: 1 }])
    for (const nonce of [0, 1]) await transfer(key, nonce)
    await world.finish()
    expect(await world.expectPaidOnce()).toBe(1)
  },
  60_000,
)
