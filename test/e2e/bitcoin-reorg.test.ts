/** The Bitcoin rail when chains disagree: two real nodes, parted and joined again. */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { BitcoinClient } from '../../queues/anchors/bitcoin-client.ts'
import { signBitcoin } from '../../queues/anchors/bitcoin-wallet.ts'
import { bitcoindBinary, missingBitcoind } from '../../scripts/devnet/bitcoind-binary.ts'
import type { Bitcoind } from '../../scripts/devnet/bitcoind.ts'
import { ELSEWHERE, startBitcoind } from '../../scripts/devnet/bitcoind.ts'
import type { Esplora } from '../../scripts/devnet/esplora.ts'
import { startEsplora } from '../../scripts/devnet/esplora.ts'
import { rejection } from '../support/anchoring.ts'
import { account, cheap, core, esplora, mineEmpty, spendsOf } from '../support/bitcoin.ts'

const isMissing = bitcoindBinary() === null
if (isMissing) console.warn(missingBitcoind)

describe.skipIf(isMissing)('on two nodes', () => {
  let dir: string
  let near: Bitcoind
  let far: Bitcoind
  let server: Esplora

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'vm-reorg-'))
    near = await startBitcoind({ dir: join(dir, 'near'), p2pPort: 0 })
    far = await startBitcoind({ dir: join(dir, 'far'), p2pPort: 0 })
    server = await startEsplora({ bitcoind: far })
  })
  afterAll(async () => {
    await server.stop()
    await Promise.all([near.stop(), far.stop()])
    await rm(dir, { recursive: true, force: true })
  })

  const tipOf = (node: Bitcoind) => node.rpc<string>('getbestblockhash')
  const heightOf = (node: Bitcoind) => node.rpc<number>('getblockcount')

  async function join2(): Promise<void> {
    await near.connect(far.p2pPort!)
    while ((await tipOf(near)) !== (await tipOf(far))) await sleep(20)
    await Promise.all([near, far].map(indexed))
  }
  /** The transaction index follows the chain a moment later. */
  async function indexed(node: Bitcoind): Promise<void> {
    for (;;) {
      const { txindex } = await node.rpc<{ txindex: { best_block_height: number } }>('getindexinfo')
      if (txindex.best_block_height >= (await heightOf(node))) return
      await sleep(20)
    }
  }
  async function part(): Promise<void> {
    await near.disconnect()
    await far.disconnect()
  }
  async function mineNear(n: number): Promise<void> {
    await near.mine(n, ELSEWHERE)
    await join2()
  }

  async function paidOnce(address: string, root: string): Promise<void> {
    const paid = await spendsOf(near, address)
    expect(paid.filter((spend) => spend.root === root)).toHaveLength(1)
  }

  const both: readonly (readonly [string, () => BitcoinClient[]])[] = [
    ['both by Core', () => [cheap(core(near.url)), core(far.url)]],
    ['one by Esplora', () => [cheap(core(near.url)), esplora(server.url)]],
  ]
  test.each(both)(
    'an anchor that a reorg pays away is held, then paid anew (%s)',
    async (_, clients) => {
      const { driver: make, key, type, address, wallet, root } = await account(near)
      await join2()
      const driver = make(...clients())
      await driver.run()
      const [first] = (await wallet.find(root))!.variants
      const { inputs } = wallet.spends.get(root)!
      await part()
      await near.mine(1, ELSEWHERE)

      // Somebody else has the key, and on the other side of the rift he spends first, in more blocks.
      const foreign = signBitcoin({
        key,
        type,
        network: 'regtest',
        inputs,
        root: new Uint8Array(32).fill(0xee),
        feerate: 3,
        feeCapSat: 5000,
      })
      if ('held' in foreign) throw new Error(foreign.held)
      await far.rpc('generateblock', [ELSEWHERE, [foreign.raw]])
      await far.mine(2, ELSEWHERE)
      // Who sees it in a block and who does not: it is in one, and far from final.
      expect((await driver.run()).state).toBe('included')
      await join2()

      const held = await driver.run()
      expect(driver.log.slice(-2)).toEqual(['check→orphaned', 'submit→held'])
      expect(held).toMatchObject({ state: 'held', reason: 'unknown_spend' })
      // Three blocks deep the spend may yet go: not even the operator's word is enough.
      driver.released = true
      expect((await driver.run()).state).toBe('held')
      expect(wallet.dead).toHaveLength(0)
      await mineNear(3)
      driver.released = true
      expect((await driver.run()).state).toBe('held')
      await mineNear(1)
      // Seven: now it is final, but the operator has not spoken.
      expect((await driver.run()).state).toBe('held')
      expect(wallet.dead).toHaveLength(0)
      driver.released = true
      expect((await driver.run()).state).toBe('waiting')
      expect(wallet.dead.map(({ variants }) => variants[0]!.txHash)).toEqual([first!.txHash])
      expect(driver.work['spends']).toEqual([`${foreign.txHash}:0`])
      await mineNear(7)
      expect((await driver.run()).state).toBe('final')
      expect(driver.receipt!.txHash).not.toBe(first!.txHash)
      await paidOnce(address, root)
    },
  )

  test('killed after giving up the old coins, it goes on with what the wallet signed since', async () => {
    const { driver: make, key, type, address, wallet, root } = await account(near)
    await join2()
    const driver = make(cheap(core(near.url)), core(far.url))
    await driver.run()
    const { inputs } = wallet.spends.get(root)!
    const spender = { key, type, network: 'regtest', inputs, feeCapSat: 5000 }
    const foreign = signBitcoin({ ...spender, root: new Uint8Array(32).fill(0xdd), feerate: 3 })
    if ('held' in foreign) throw new Error(foreign.held)
    await near.rpc('generateblock', [ELSEWHERE, [foreign.raw]])
    await mineNear(6)
    expect((await driver.run()).state).toBe('held')
    driver.released = true
    driver.killAfter = driver.log.length + 1
    await driver.run().catch(() => undefined)
    expect(wallet.dead).toHaveLength(1)
    expect(wallet.spends.get(root)!.spend.state).toBe('open')
    // The operator's word is used up, and not needed a second time.
    driver.released = false
    expect((await driver.run()).state).toBe('waiting')
    await mineNear(7)
    expect((await driver.run()).state).toBe('final')
    expect(wallet.dead).toHaveLength(1)
    await paidOnce(address, root)
  })

  test('a reorg that only moves the anchor to another block makes another proof of it', async () => {
    const { driver: make, address, root } = await account(near)
    await join2()
    const driver = make(core(near.url), esplora(server.url))
    await driver.run()
    await near.mine(1, ELSEWHERE)
    await join2()
    const before = await driver.run()
    const stale = await tipOf(near)
    await Promise.all([near, far].map((node) => node.rpc('invalidateblock', [stale])))
    await mineEmpty(near, 1)
    await mineNear(1)
    const after = await driver.run()
    expect(driver.log.slice(-3)).toEqual(['check→included', 'check→orphaned', 'submit→waiting'])
    expect(after.state).toBe('waiting')
    const again = await driver.run()
    if (before.state !== 'included' || again.state !== 'included') throw new Error(again.state)
    expect(again.inclusion.blockNumber).toBe(before.inclusion.blockNumber + 1)
    await mineNear(6)
    expect((await driver.run()).state).toBe('final')
    expect(driver.receipt!.blockNumber).toBe(again.inclusion.blockNumber)
    await paidOnce(address, root)
  })

  test('while two providers are on different chains nothing is final', async () => {
    const { driver: make, address, root } = await account(near)
    await join2()
    const driver = make(core(near.url), core(far.url))
    await driver.run()
    await part()
    await near.mine(7, ELSEWHERE)
    // One is behind: that is no quarrel.
    expect((await driver.run()).state).toBe('included')
    await mineEmpty(far, 7)
    const error = await rejection(() => driver.run())
    expect(error).toMatchObject({ code: 'anchor-failed' })
    expect(error.message).toContain('disagree about block')
    await near.mine(1, ELSEWHERE)
    await rejection(() => driver.run())
    await join2()
    expect((await driver.run()).state).toBe('final')
    await paidOnce(address, root)
  })

  test('one provider that lies about a hash is enough to keep an anchor from being final', async () => {
    const { driver: make, rail } = await account(near)
    await join2()
    const driver = make(core(near.url), core(far.url))
    await driver.run()
    await mineNear(7)
    const honest = core(near.url)
    const other = await tipOf(near)
    const liar: BitcoinClient = {
      ...core(far.url),
      hashAt: (height) => (height === 0 ? honest.hashAt(0) : Promise.resolve(other)),
    }
    for (const clients of [
      [honest, liar],
      [liar, honest],
    ]) {
      expect((await rejection(() => driver.use(rail(...clients)).run())).message).toContain(
        'disagree',
      )
    }
    const alone: BitcoinClient = { ...honest, header: () => honest.header(other) }
    expect((await rejection(() => driver.use(rail(alone)).run())).code).toBe('bad-proof')
    expect((await driver.use(rail(honest)).run()).state).toBe('final')
  })

  test('a provider that says a transaction is nowhere cannot make us pay again', async () => {
    const { driver: make, wallet, rail, address, root } = await account(near)
    await join2()
    const driver = make(core(near.url))
    await driver.run()
    await mineNear(1)
    const blind: BitcoinClient = {
      ...core(far.url),
      statusOf: () => Promise.resolve({ state: 'unknown' }),
      outspend: () => Promise.resolve({ state: 'spent', by: null, isDeep: true }),
      broadcast: () => Promise.resolve('conflict'),
    }
    driver.use(rail(blind, core(near.url)))
    driver.released = true
    expect((await driver.run()).state).toBe('included')
    // Alone it can stop the job, which then waits for a person.
    driver.use(rail(blind))
    expect((await driver.run()).state).toBe('held')
    expect(wallet.dead).toHaveLength(0)
    driver.use(rail(blind, core(near.url)))
    driver.released = true
    expect((await driver.run()).state).toBe('waiting')
    await mineNear(6)
    expect((await driver.use(rail(core(near.url))).run()).state).toBe('final')
    await paidOnce(address, root)
  })
})
