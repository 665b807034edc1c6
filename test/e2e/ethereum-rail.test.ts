/**
 * The EVM rail against a real anvil: what a good day and the bad days leave behind.
 *
 * Every case ends with the same question to the chain: how many transactions with this root were
 * mined? The answer must be one.
 */

import { readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { toHex } from '#core/bytes.ts'
import type { VaultMeshError } from '#core/errors.ts'
import type { EthereumWork } from '../../queues/anchors/ethereum-work.ts'
import type { Fault, FaultProxy } from '../../scripts/devnet/fault-proxy.ts'
import { startFaultProxy } from '../../scripts/devnet/fault-proxy.ts'
import type { Row } from '../support/rail-driver.ts'
import { GWEI, clientOf, foreignSpend, isAbsent, isFinal, startWorld } from './ethereum-support.ts'
import type { World } from './ethereum-support.ts'

const workOf = (row: Row) => JSON.parse(row.work!) as EthereumWork
const isIncluded = (row: Row) => row.state === 'included'
const isHeld = (row: Row) => row.state === 'held'

describe.skipIf(isAbsent)('on a real anvil', () => {
  let world: World

  beforeEach(async () => {
    world = await startWorld()
  })
  afterEach(() => world.anvil.stop())

  test('a root ends in a final receipt that verifies offline', async () => {
    const row = world.row()
    await row.until(isFinal, world.mine)
    expect(row.history).toEqual(['queued', 'signed', 'broadcast', 'included', 'final'])
    expect(row.receipt).toMatchObject({
      chain: 'EVM',
      network: 'anvil',
      treeSize: row.job.treeSize,
    })
    await world.expectOnePaid(row)
  })

  test('the next root waits until the one before is final, and takes the next nonce', async () => {
    const [first, second] = [world.row(), world.row()]
    await first.until(isIncluded, world.mine)
    expect(await second.step()).toMatchObject({ state: 'busy' })
    await first.until(isFinal, world.mine)
    await second.until(isFinal, world.mine)
    await world.expectOnePaid(first)
    await world.expectOnePaid(second)
    expect(world.wallet.spends.map((spend) => spend.spends)).toEqual([['nonce:0'], ['nonce:1']])
  })

  test('a process that dies after every step pays once', async () => {
    const row = world.row()
    for (let i = 0; i < 60 && row.state !== 'final'; i++) {
      await row.step(true)
      await row.step()
      if (row.state !== 'signed') await world.mine()
    }
    await world.expectOnePaid(row)
    expect(world.wallet.spends).toMatchObject([{ state: 'final', variants: [{}] }])
  })

  describe('behind a proxy', () => {
    let proxy: FaultProxy

    beforeEach(async () => {
      proxy = await startFaultProxy({ target: world.anvil.url })
    })
    afterEach(() => proxy.stop())

    const faults: readonly (readonly [Fault, string])[] = [
      ['down', 'could not be reached'],
      ['reset', 'could not be reached'],
      ['hang', 'did not answer within 400 ms'],
      ['slow:600', 'did not answer within 400 ms'],
      ['html', 'did not answer with JSON'],
      ['limited', 'answered HTTP 429'],
      ['error500', 'answered HTTP 500'],
      ['cut', 'could not be reached'],
    ]
    test.each(faults)('a node that is %s costs time and nothing else', async (fault, words) => {
      const row = world.row([clientOf(`${proxy.url}/?key=secret`)])
      const stages = new Set<string>()
      for (let i = 0; i < 60 && row.state !== 'final'; i++) {
        const before = [row.state, row.work]
        if (!stages.has(row.state)) {
          stages.add(row.state)
          await proxy.setFault(fault)
          const error = await row.step().then(
            () => new Error('not refused'),
            (thrown: unknown) => thrown as VaultMeshError,
          )
          expect(error.message).toBe(`The EVM node 127.0.0.1:${proxy.port} ${words}.`)
          expect((error as VaultMeshError).code).toBe('anchor-failed')
          expect(error.cause).toBeUndefined()
          expect([row.state, row.work]).toEqual(before)
          await proxy.setFault('ok')
        }
        await row.step()
        if (row.state !== 'signed') await world.mine()
      }
      expect([...stages]).toEqual(['queued', 'signed', 'broadcast', 'included'])
      await world.expectOnePaid(row)
      expect(world.wallet.spends).toMatchObject([{ variants: [{}] }])
    })

    test('a transaction whose reply was lost is not signed again', async () => {
      const row = world.row([clientOf(proxy.url)])
      await row.step()
      await proxy.setFault('lose-reply:eth_sendRawTransaction')
      await expect(row.step()).rejects.toThrow('could not be reached')
      expect(proxy.lost).toBe(1)
      expect(await world.anvil.rpc('txpool_status')).toMatchObject({ pending: '0x1' })
      // The same bytes are refused as known in the pool, and as too old in the chain: both are success.
      await proxy.setFault('ok')
      expect(await row.step(true)).toMatchObject({ state: 'waiting' })
      await world.mine()
      expect(await row.step()).toMatchObject({ state: 'included' })
      await row.until(isFinal, world.mine)
      await world.expectOnePaid(row)
      expect(world.wallet.spends).toMatchObject([{ variants: [{}] }])
    })
  })

  test('a node that hangs is given up and asked again', async () => {
    const row = world.row()
    await row.step()
    world.anvil.pause()
    // The signal is on its way for a while.
    while (!/ T /.test(readFileSync(`/proc/${world.anvil.pid}/stat`, 'utf8'))) await sleep(5)
    await expect(row.step()).rejects.toThrow('did not answer within 400 ms')
    world.anvil.resume()
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
  })

  test('an empty wallet signs nothing and goes on when money arrives', async () => {
    const row = world.row()
    const { anvil, wallet } = world
    await anvil.setBalance(wallet.address, 0n)
    expect(await row.step()).toEqual({ state: 'held', work: null, reason: 'no_funds' })
    expect(await row.step()).toMatchObject({ state: 'held' })
    expect(wallet.spends).toEqual([])
    await anvil.setBalance(wallet.address, 10n ** 18n)
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
  })

  test('a wallet drained between signing and sending keeps what was signed', async () => {
    const row = world.row()
    const { anvil, wallet } = world
    await row.step()
    await anvil.setBalance(wallet.address, 0n)
    expect(await row.step()).toMatchObject({ state: 'held', reason: 'no_funds' })
    await anvil.setBalance(wallet.address, 10n ** 18n)
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
    expect(wallet.spends).toMatchObject([{ variants: [{}] }])
  })

  test('above the fee cap nothing is signed until the operator raises it', async () => {
    const row = world.row()
    world.wallet.feeCapWei = 1n
    expect(await row.step()).toEqual({ state: 'held', work: null, reason: 'fee_cap' })
    expect(world.wallet.spends).toEqual([])
    world.wallet.feeCapWei = 10n ** 18n
    row.released = true
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
  })

  /**
   * Lets a job wait at a base fee of 50 gwei until it is where `done` says. When such a block is mined
   * anvil forgets transactions that pay less, so the job is sent again and again in vain.
   */
  const starve = (row: Row, done: (row: Row) => boolean) => row.until(done, () => world.mineAt(50))

  test('a stuck transaction is replaced at a higher price, and the new one wins', async () => {
    const row = world.row()
    await starve(row, (r) => r.work !== null && workOf(r).variants.length > 1)
    const { variants, nonce } = workOf(row)
    expect(row.state).toBe('signed')
    expect(nonce).toBe(0)
    expect(BigInt(variants[1]!.maxFeePerGas)).toBeGreaterThanOrEqual(100n * GWEI)
    await row.until(isFinal, () => world.mineAt(50))
    await world.expectOnePaid(row)
    expect(row.receipt?.txHash).toBe(variants[1]!.txHash)
    expect(row.receipt?.group).toEqual(variants.map((variant) => variant.txHash))
  })

  test('a transaction waits five blocks before it is replaced', async () => {
    const row = world.row()
    await row.until((r) => r.state === 'broadcast')
    await row.step()
    for (let i = 0; i < 4; i++) await world.mineAt(50)
    for (let i = 0; i < 4; i++) await row.step()
    expect(workOf(row).variants).toHaveLength(1)
    await world.mineAt(50)
    await row.until((r) => r.state === 'signed', undefined, 3)
    expect(workOf(row).variants).toHaveLength(2)
    // And so does its replacement.
    for (let i = 0; i < 4; i++) await row.step()
    for (let i = 0; i < 4; i++) await world.mineAt(500)
    for (let i = 0; i < 4; i++) await row.step()
    expect(workOf(row).variants).toHaveLength(2)
  })

  test('a transaction that the pool refuses as too cheap is not sent again at once', async () => {
    const row = world.row()
    await row.step()
    await world.mineAt(50)
    expect(await row.step()).toMatchObject({ state: 'waiting' })
    expect(await world.anvil.rpc('txpool_status')).toMatchObject({ pending: '0x0' })
    await row.until(isFinal, () => world.mineAt(1))
    await world.expectOnePaid(row)
  })

  test('no replacement is signed while the chain stands still', async () => {
    const row = world.row()
    for (let i = 0; i < 20; i++) await row.step()
    expect(row.state).toBe('broadcast')
    expect(workOf(row).variants).toHaveLength(1)
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
  })

  test('a variant that is mined after its replacement was signed wins', async () => {
    const row = world.row()
    await starve(row, (r) => r.work !== null && workOf(r).variants.length > 1)
    const [first] = workOf(row).variants
    await world.mineAt(1)
    await world.anvil.rpc('eth_sendRawTransaction', [first!.raw])
    await world.mineAt(1)
    await row.until(isFinal, () => world.mineAt(1))
    await world.expectOnePaid(row)
    expect(row.receipt?.txHash).toBe(first!.txHash)
    expect(row.receipt?.group).toHaveLength(2)
  })

  test('a variant that a miner prefers to its replacement wins', async () => {
    const row = world.row()
    await starve(row, (r) => r.work !== null && workOf(r).variants.length > 1)
    await row.step()
    const [first, second] = workOf(row).variants
    await world.anvil.rpc('anvil_dropTransaction', [second!.txHash])
    await world.mineAt(1)
    await world.anvil.rpc('eth_sendRawTransaction', [first!.raw])
    await row.until(isFinal, () => world.mineAt(1))
    await world.expectOnePaid(row)
    expect(row.receipt?.txHash).toBe(first!.txHash)
  })

  test('at the cap a stuck transaction is held, and wins if it is mined all the same', async () => {
    const row = world.row()
    await row.step()
    world.wallet.feeCapWei = BigInt(world.wallet.spends[0]!.variants[0]!.fee)
    await starve(row, isHeld)
    expect(row.reason).toBe('fee_cap')
    expect(workOf(row).variants).toHaveLength(1)
    await row.until(isFinal, () => world.mineAt(1))
    await world.expectOnePaid(row)
  })

  test('what is held at the cap is put back into a pool that forgot it', async () => {
    const row = world.row()
    await row.step()
    world.wallet.feeCapWei = BigInt(world.wallet.spends[0]!.variants[0]!.fee)
    await starve(row, isHeld)
    await world.mineAt(1)
    expect(await world.anvil.rpc('txpool_status')).toMatchObject({ pending: '0x0' })
    expect(await row.step()).toMatchObject({ state: 'waiting' })
    expect(await world.anvil.rpc('txpool_status')).toMatchObject({ pending: '0x1' })
    expect(await row.step()).toMatchObject({ state: 'held', reason: 'fee_cap' })
    expect(await row.step()).toMatchObject({ state: 'held', reason: 'fee_cap' })
    await row.until(isFinal, () => world.mineAt(1))
    await world.expectOnePaid(row)
  })

  test('a transaction that every pool forgot is sent again as it was', async () => {
    const row = world.row()
    await row.until((r) => r.state === 'broadcast')
    await world.anvil.rpc('anvil_dropAllTransactions')
    expect(await row.step()).toMatchObject({ state: 'dropped' })
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
    expect(world.wallet.spends).toMatchObject([{ variants: [{}] }])
  })

  test('a reorganisation that drops the transaction leads to the same bytes again', async () => {
    const row = world.row()
    await world.anvil.mine(4)
    await row.until(isIncluded, world.mine)
    await world.anvil.rpc('anvil_reorg', [1, []])
    expect(await row.step()).toMatchObject({ state: 'orphaned', work: { block: null } })
    await row.until(isFinal, world.mine)
    expect(row.history).toEqual([
      'queued',
      'signed',
      'broadcast',
      'included',
      'orphaned',
      'broadcast',
      'included',
      'final',
    ])
    await world.expectOnePaid(row)
    expect(world.wallet.spends).toMatchObject([{ variants: [{}] }])
  })

  test('what a reorganisation dropped gets its five blocks again', async () => {
    const row = world.row()
    await row.until((r) => r.state === 'broadcast')
    await row.step()
    await world.anvil.rpc('anvil_dropAllTransactions')
    await world.anvil.mine(4)
    await row.until((r) => r.state === 'broadcast')
    await row.until(isIncluded, world.mine)
    await world.anvil.rpc('anvil_reorg', [1, []])
    await row.until((r) => r.state === 'broadcast')
    expect(await row.step()).toMatchObject({ state: 'waiting' })
    expect(workOf(row).variants).toHaveLength(1)
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
  })

  test('a reorganisation that moves the transaction moves the receipt with it', async () => {
    const row = world.row()
    await world.anvil.mine(4)
    await row.until(isIncluded, world.mine)
    const before = workOf(row)
    await world.anvil.rpc('anvil_reorg', [2, [[before.variants[0]!.raw, 1]]])
    expect(await row.step()).toMatchObject({ state: 'included' })
    expect(workOf(row).block).not.toBe(before.block)
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
  })

  test('a nonce that somebody else used is held, and only a release spends again', async () => {
    const { anvil, wallet } = world
    const row = world.row()
    await row.step()
    await anvil.rpc('eth_sendRawTransaction', [await foreignSpend(0)])
    await row.until(isHeld, world.mine)
    expect(row.reason).toBe('unknown_spend')
    await row.until(isHeld, world.mine)
    expect(wallet.spends).toHaveLength(1)
    row.released = true
    await row.step(true)
    // Killed after the wallet had settled: the next attempt needs no second release.
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
    expect(wallet.spends).toMatchObject([
      { state: 'dead', spends: ['nonce:0'] },
      { state: 'final', spends: ['nonce:1'] },
    ])
  })

  test('a wallet that forgot a root signs for it again only if nothing of it can be mined', async () => {
    const { anvil, wallet } = world
    const row = world.row()
    await row.until((r) => r.state === 'broadcast')
    await anvil.rpc('anvil_dropAllTransactions')
    await row.step()
    expect(row.state).toBe('dropped')
    wallet.isForgetful = true
    await expect(row.step()).rejects.toThrow('has forgotten')
    await anvil.rpc('eth_sendRawTransaction', [await foreignSpend(0)])
    await anvil.mine(2)
    await expect(row.step()).rejects.toThrow('has forgotten')
    await anvil.mine(2)
    await wallet.settle(toHex(row.job.root), null)
    expect(await row.step()).toMatchObject({ state: 'signed', work: { nonce: 1 } })
    wallet.isForgetful = false
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
  })

  test('a release changes nothing while the foreign spend can still be reorganised away', async () => {
    const { anvil, wallet } = world
    const row = world.row()
    await row.step()
    await anvil.mine(4)
    await anvil.rpc('eth_sendRawTransaction', [await foreignSpend(0)])
    await world.mine()
    row.released = true
    expect(await row.step()).toMatchObject({ state: 'waiting' })
    await anvil.rpc('anvil_reorg', [1, []])
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
    expect(wallet.spends).toMatchObject([{ state: 'final', spends: ['nonce:0'] }])
  })
})
