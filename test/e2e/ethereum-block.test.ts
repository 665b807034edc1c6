/**
 * The proof that the EVM rail makes, from blocks of a real anvil with every kind of transaction, judged by
 * libraries that share nothing with ours: @ethereumjs/mpt for the trie, viem for RLP and keccak.
 *
 * Blob transactions (type 3) are missing here: anvil 1.7.1 puts their blobs into the trie, which no other
 * chain does; test/core/ethereum-client.test.ts has one of a real block.
 */

import { createMPTFromProof } from '@ethereumjs/mpt'
import type { Hex } from 'viem'
import { fromRlp, keccak256, parseTransaction, recoverTransactionAddress, toRlp } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { fromHex, toHex } from '#core/bytes.ts'
import type { World } from './ethereum-support.ts'
import { CHAIN, GWEI, clientOf, isAbsent, isFinal, startWorld } from './ethereum-support.ts'

/** Anvil's account 0, public on purpose. */
const rich = privateKeyToAccount(
  '0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80',
)
const to = '0x70997970c51812dc3a010c7d01b50e0d17dc79c8'
const base = { chainId: CHAIN, to, value: 1n, gas: 100_000n } as const
const fees = { maxFeePerGas: 20n * GWEI, maxPriorityFeePerGas: 2n * GWEI }

/** Signed transactions of every type, `n` in all, as one account sends them. */
async function crowd(n: number): Promise<Hex[]> {
  const raws: Hex[] = []
  for (let nonce = 0; nonce < n; nonce++) {
    raws.push(await kindOf(nonce % 4, nonce))
  }
  return raws
}

async function kindOf(kind: number, nonce: number): Promise<Hex> {
  const accessList = [{ address: to, storageKeys: [`0x${'00'.repeat(32)}`] }] as const
  if (kind === 0) return rich.signTransaction({ ...base, nonce, gasPrice: 20n * GWEI })
  if (kind === 1) {
    return rich.signTransaction({
      ...base,
      nonce,
      accessList,
      gasPrice: 20n * GWEI,
      type: 'eip2930',
    })
  }
  if (kind === 2) return rich.signTransaction({ ...base, ...fees, nonce, data: '0x00ff' })
  const delegation = { chainId: 0, contractAddress: to, nonce: nonce + 1000 } as const
  const authorizationList = [await rich.signAuthorization(delegation)]
  return rich.signTransaction({ ...base, ...fees, nonce, authorizationList, type: 'eip7702' })
}

interface Evidence {
  readonly rawTx: Hex
  readonly txIndex: number
  readonly header: Hex
  readonly nodes: readonly Hex[]
}

/** Judges a receipt's proof without a line of ours. */
async function judgedElsewhere(receipt: AnchorReceipt): Promise<string> {
  const proof = receipt.proof as unknown as Evidence
  const header = fromRlp(proof.header) as Hex[]
  const key = toRlp(proof.txIndex === 0 ? '0x' : `0x${hexOf(proof.txIndex)}`)
  const nodes = proof.nodes.map((node) => fromHex(node.slice(2)))
  const trie = await createMPTFromProof(nodes, { root: fromHex(header[4]!.slice(2)) })
  const value = await trie.get(fromHex(key.slice(2)))
  expect(value === null ? null : `0x${toHex(value)}`).toBe(proof.rawTx)
  const tx = parseTransaction(proof.rawTx)
  const sender = await recoverTransactionAddress({ serializedTransaction: proof.rawTx as never })
  expect(tx).toMatchObject({ to: sender.toLowerCase(), data: receipt.root, chainId: CHAIN })
  expect(keccak256(proof.rawTx)).toBe(receipt.txHash)
  expect(Number(header[8])).toBe(receipt.blockNumber)
  expect(new Date(Number(header[11]) * 1000).toISOString()).toBe(receipt.anchorTs)
  return keccak256(proof.header)
}

const hexOf = (n: number) => {
  const hex = n.toString(16)
  return hex.length % 2 === 0 ? hex : `0${hex}`
}

describe.skipIf(isAbsent)('the proof of a transaction on a real anvil', () => {
  let world: World

  beforeEach(async () => {
    world = await startWorld({ args: ['--hardfork', 'prague', '--order', 'fifo'] })
  })
  afterEach(() => world.anvil.stop())

  // One alone is a single leaf; above 127 the keys change their length (RLP of the index).
  test.each([0, 1, 7, 140])('verifies elsewhere among %i others', async (n) => {
    const row = world.row()
    const others = await crowd(n)
    const send = async (raws: readonly Hex[]) => {
      for (const raw of raws) await world.anvil.rpc('eth_sendRawTransaction', [raw])
    }
    await row.step()
    await send(others.slice(0, n >> 1))
    await row.step()
    await send(others.slice(n >> 1))
    await row.until(isFinal, world.mine)
    await world.expectOnePaid(row)
    const hash = await judgedElsewhere(row.receipt!)
    const block = await world.anvil.rpc<{ hash: string; transactions: { type: string }[] }>(
      'eth_getBlockByHash',
      [hash, true],
    )
    expect(block.hash).toBe(hash)
    expect(block.transactions).toHaveLength(n + 1)
    if (n >= 7) {
      const types = new Set(block.transactions.map((tx) => tx.type))
      expect([...types].toSorted()).toEqual(['0x0', '0x1', '0x2', '0x4'])
    }
  })

  test('has the 21 header fields of Prague', async () => {
    const row = world.row()
    await row.until(isFinal, world.mine)
    const { header } = row.receipt!.proof as unknown as Evidence
    expect(fromRlp(header)).toHaveLength(21)
  })

  test('is made from raw bytes where a transaction is not what its JSON says', async () => {
    const asked: string[] = []
    const strange = clientOf(world.anvil.url, (method, _params, result) => {
      asked.push(method)
      if (method !== 'eth_getBlockByHash') return result
      const block = result as { transactions: object[] }
      return { ...block, transactions: block.transactions.map((tx) => ({ ...tx, gas: '0x1' })) }
    })
    const row = world.row([strange])
    await row.until(isFinal, world.mine)
    expect(asked).toContain('eth_getRawTransactionByBlockHashAndIndex')
    await world.expectOnePaid(row)
    await judgedElsewhere(row.receipt!)
  })
})
