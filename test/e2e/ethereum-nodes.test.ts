/**
 * Two EVM nodes that do not say the same: nothing is signed, nothing is final, nothing is paid twice.
 *
 * One node is honest; the other shows the same chain through a client that changes some answers.
 */

import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { startAnvil } from '../../scripts/devnet/anvil.ts'
import type { Row } from '../support/rail-driver.ts'
import type { Lie, World } from './ethereum-support.ts'
import { clientOf, foreignSpend, isAbsent, isFinal, startWorld } from './ethereum-support.ts'

const forged = `0x${'0f'.repeat(32)}`
const isObject = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null

/** Answers `method` with whatever `to` makes of the truth. */
const lieAbout =
  (method: string, to: (result: unknown, params: readonly unknown[]) => unknown): Lie =>
  (asked, params, result) =>
    asked === method ? to(result, params) : result

/** Another hash for every block that is asked for by its number. */
const otherHash = lieAbout('eth_getBlockByNumber', (block, [tag]) =>
  isObject(block) && String(tag).startsWith('0x') ? { ...block, hash: forged } : block,
)
const otherChain = lieAbout('eth_chainId', () => '0x1')
const unknown = lieAbout('eth_getTransactionByHash', () => null)
const elsewhere = lieAbout('eth_getTransactionByHash', (tx) =>
  isObject(tx) ? { ...tx, blockHash: forged, blockNumber: '0x1', transactionIndex: '0x0' } : tx,
)
const never = lieAbout('eth_getBlockByNumber', (block, [tag]) =>
  tag === 'finalized' && isObject(block) ? { ...block, number: '0x0' } : block,
)

describe.skipIf(isAbsent)('of two nodes on a real anvil', () => {
  let world: World
  let lie: Lie | undefined
  /** An honest node, and one that lies while `lie` is set; in either order. */
  const pair = () => [
    clientOf(world.anvil.url),
    clientOf(world.anvil.url, (...asked) => (lie === undefined ? asked[2] : lie(...asked))),
  ]

  beforeEach(async () => {
    world = await startWorld()
    lie = undefined
  })
  afterEach(() => world.anvil.stop())

  test('two that agree lead to a final receipt', async () => {
    const row = world.row(pair())
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
  })

  test.each([
    ['is on another chain', otherChain, 'is not on chain 31337'],
    ['names another nonce', lieAbout('eth_getTransactionCount', () => '0x7'), 'do not agree'],
  ])('nothing is signed when one %s', async (_words, told, message) => {
    for (const clients of [pair(), pair().toReversed()]) {
      const row = world.row(clients)
      lie = told
      await expect(row.step()).rejects.toThrow(message)
      expect(world.wallet.spends).toEqual([])
      expect(row.state).toBe('queued')
    }
  })

  test('nothing is signed when one really is on another chain', async () => {
    const other = await startAnvil({ chainId: 1337 })
    try {
      const row = world.row([clientOf(world.anvil.url), clientOf(other.url)])
      await expect(row.step()).rejects.toThrow(`127.0.0.1:${other.port} is not on chain 31337`)
      expect(world.wallet.spends).toEqual([])
    } finally {
      await other.stop()
    }
  })

  const lies: readonly (readonly [string, Lie])[] = [
    ['has another block at that height', otherHash],
    ['does not know the transaction', unknown],
    ['has it in a block that nobody else has', elsewhere],
    ['says that nothing is final', never],
  ]
  test.each(lies)('nothing is final while one %s', async (_words, told) => {
    for (const turn of ['last', 'first']) {
      const clients = pair()
      const row = world.row(turn === 'first' ? clients.toReversed() : clients)
      lie = told
      for (let i = 0; i < 15; i++) {
        await row.step()
        await world.mine()
      }
      expect(row.state).not.toBe('final')
      expect(row.receipt).toBeNull()
      lie = undefined
      await row.until(isFinal, world.mine)
      await world.expectOnePaid(row)
    }
    expect(world.wallet.spends).toMatchObject([{ variants: [{}] }, { variants: [{}] }])
  })

  test('a nonce is not given up because one says that it is used', async () => {
    const row = world.row(pair())
    await row.until((r) => r.state === 'broadcast')
    lie = (method, params, result) => {
      if (method === 'eth_getTransactionCount') return '0x7'
      return unknown(method, params, result)
    }
    for (let i = 0; i < 5; i++) await row.step()
    row.released = true
    await row.step()
    expect(world.wallet.spends).toMatchObject([{ state: 'open', variants: [{}] }])
    lie = undefined
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
  })

  test('a foreign spend is not final because one says so', async () => {
    const row = world.row(pair())
    await row.step()
    await world.anvil.mine(4)
    await world.anvil.rpc('eth_sendRawTransaction', [await foreignSpend(0)])
    await world.mine()
    lie = (method, params, result) =>
      method === 'eth_getTransactionCount' && params[1] === 'finalized' ? '0x7' : result
    for (let i = 0; i < 3; i++) expect(await row.step()).toMatchObject({ state: 'waiting' })
    row.released = true
    await row.step()
    await world.anvil.rpc('anvil_reorg', [1, []])
    lie = undefined
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
    expect(world.wallet.spends).toMatchObject([{ state: 'final', spends: ['nonce:0'] }])
  })

  test('a nonce that we used is not taken for a foreign one while an index lags', async () => {
    let isLagging = true
    const row = world.row([
      clientOf(world.anvil.url, (method, params, result) => {
        const isHidden = isLagging && method === 'eth_getTransactionByHash'
        if (isHidden) isLagging = false
        return isHidden ? unknown(method, params, result) : result
      }),
    ])
    await row.until((r) => r.state === 'broadcast')
    await world.anvil.mine(5)
    expect(await row.step()).toMatchObject({ state: 'waiting' })
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
  })

  test('a transaction is not sent again because one does not know it', async () => {
    const row = world.row(pair())
    await row.until((r) => r.state === 'broadcast')
    lie = unknown
    for (let i = 0; i < 3; i++) expect(await row.step()).toMatchObject({ state: 'waiting' })
  })

  test('a chain that is swapped behind both nodes is no reason to give up a nonce', async () => {
    const other = await startAnvil({ chainId: 1337 })
    try {
      const row = world.row()
      await row.until((r) => r.state === 'broadcast')
      // The same name now leads to a chain on which the account has long paid.
      const swapped = world.row([clientOf(other.url)])
      await other.rpc('anvil_setNonce', [world.wallet.address, '0x9'])
      await other.mine(5)
      Object.assign(swapped, { state: row.state, work: row.work, job: row.job, released: true })
      await expect(swapped.step()).rejects.toThrow('is not on chain 31337')
      expect(world.wallet.spends).toMatchObject([{ state: 'open' }])
      await row.until(isFinal, world.mine)
      await world.expectOnePaid(row)
    } finally {
      await other.stop()
    }
  })

  test('one that falls silent stops the anchor, and nothing is lost', async () => {
    const row = world.row([
      clientOf(world.anvil.url),
      clientOf(world.anvil.url, () => {
        throw new Error('silent')
      }),
    ])
    await expect(row.step()).rejects.toThrow('could not be reached')
    expect(world.wallet.spends).toEqual([])
  })

  test('a node that invents a block is found out by its hash', async () => {
    const row = world.row([
      clientOf(
        world.anvil.url,
        lieAbout('eth_getBlockByHash', (block) =>
          isObject(block) ? { ...block, timestamp: '0x1' } : block,
        ),
      ),
    ])
    await expect(row.until(isFinal, world.mine)).rejects.toThrow(
      'gave a header that does not hash to the block hash',
    )
    expect(row.state).toBe('included')
  })

  test('a receipt is refuted when the chain has another block now, and untrusted until final', async () => {
    const row = world.row(pair())
    await row.until(isFinal, world.mine)
    lie = otherHash
    expect(await verdict(row)).toMatchObject({ outcome: 'refuted', check: 'block' })
    lie = never
    expect(await verdict(row)).toMatchObject({ outcome: 'untrusted' })
    lie = undefined
    expect(await verdict(row)).toMatchObject({ outcome: 'verified' })
  })
})

const verdict = (row: Row) => row.verify()
