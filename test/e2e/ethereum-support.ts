/**
 * What the cases of the EVM rail share: a chain, a wallet that outlives crashes, jobs, nodes that lie.
 */

import { sha256 } from '@noble/hashes/sha2.js'
import { privateKeyToAccount } from 'viem/accounts'
import { expect } from 'vitest'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { witnessBlock } from '#core/block-witness.ts'
import { toHex, utf8 } from '#core/bytes.ts'
import { deriveIdentity } from '#core/node-keys.ts'
import type { EthereumClient } from '../../queues/anchors/ethereum-client.ts'
import { parseEthereumUrl } from '../../queues/anchors/ethereum-client.ts'
import { ethereumRail } from '../../queues/anchors/ethereum.ts'
import type { Rail } from '../../queues/anchors/rail.ts'
import type { Anvil } from '../../scripts/devnet/anvil.ts'
import { anvilBinary, missingAnvil, startAnvil } from '../../scripts/devnet/anvil.ts'
import { Row } from '../support/rail-driver.ts'
import { fakeEthereumWallet, type FakeWallet } from '../support/wallet.ts'

export const KEY = `0x${'11'.repeat(32)}` as const
export const CHAIN = 31337
export const GWEI = 10n ** 9n
/** 22,280 gas at 2,000 gwei: never in the way unless a case lowers it. */
export const CAP = 22_280n * 2_000n * GWEI
/** A hanging node is given up after this. */
export const TIMEOUT_MS = 400

/** True, and said in words, if there is no anvil to test against. */
export const isAbsent = anvilBinary() === null
if (isAbsent) console.warn(missingAnvil)

const identity = await deriveIdentity(new Uint8Array(32).fill(7), 0)
let roots = 0

/** Changes a result on its way to us. */
export type Lie = (method: string, params: readonly unknown[], result: unknown) => unknown

/** A client of the node at `url`, whose answers `lie` may change. */
export function clientOf(url: string, lie?: Lie): EthereumClient {
  return parseEthereumUrl(
    url,
    async (at, init) => {
      const response = await fetch(at, init)
      if (lie === undefined) return response
      const { method, params } = JSON.parse(init?.body as string) as {
        method: string
        params: readonly unknown[]
      }
      const answer = (await response.json()) as { result?: unknown }
      return Response.json({ ...answer, result: lie(method, params, answer.result) })
    },
    { timeoutMs: TIMEOUT_MS },
  )
}

/** A chain and a wallet with one ether. */
export interface World {
  readonly anvil: Anvil
  readonly wallet: FakeWallet
  /** A job for a new root. By default one honest node is asked. */
  row(clients?: readonly EthereumClient[]): Row
  mine(): Promise<void>
  /** Mines one block in which only who pays `gwei` gets in. */
  mineAt(gwei: number): Promise<void>
  /** Mined transactions whose calldata is the root of `row`. */
  minedFor(row: Row): Promise<number>
  /** The receipt holds for whoever trusts the node, and the chain holds one spend for the root. */
  expectOnePaid(row: Row): Promise<void>
}

export async function startWorld(options: Parameters<typeof startAnvil>[0] = {}): Promise<World> {
  const anvil = await startAnvil(options)
  const wallet = fakeEthereumWallet(KEY, CHAIN, CAP)
  await anvil.setBalance(wallet.address, 10n ** 18n)
  const minedFor = async (row: Row): Promise<number> => {
    const data = `0x${toHex(row.job.root)}`
    const top = Number(await anvil.rpc<string>('eth_blockNumber'))
    let mined = 0
    for (let n = 1; n <= top; n++) {
      const params = [`0x${n.toString(16)}`, true]
      const block = await anvil.rpc<{ transactions: { input: string }[] }>(
        'eth_getBlockByNumber',
        params,
      )
      mined += block.transactions.filter((tx) => tx.input === data).length
    }
    return mined
  }
  return {
    anvil,
    wallet,
    minedFor,
    mine: () => anvil.mine(1),
    async mineAt(gwei) {
      const base = `0x${(BigInt(gwei) * GWEI).toString(16)}`
      await anvil.rpc('anvil_setNextBlockBaseFeePerGas', [base])
      await anvil.mine(1)
    },
    row(clients = [clientOf(anvil.url)]) {
      roots += 1
      const rail = ethereumRail({
        network: 'anvil',
        chainId: CHAIN,
        clients,
        wallet,
        address: wallet.address,
        version: '0.1.0',
        witness: ({ finalizedAt, ...block }) => witnessBlock(identity, block, finalizedAt),
      })
      const job = { root: sha256(utf8(`root ${roots}`)), treeSize: roots }
      return new Row(rail as unknown as Rail, job)
    },
    async expectOnePaid(row) {
      expect(row.state).toBe('final')
      const trust = { tsaRoots: [], nodeDids: [identity.did] }
      const verdict = await verifyAnchorReceipt(row.receipt, trust)
      expect(verdict).toMatchObject({ outcome: 'verified', root: `0x${toHex(row.job.root)}` })
      expect(await row.verify()).toMatchObject({ outcome: 'verified' })
      expect(await minedFor(row)).toBe(1)
    },
  }
}

/** True once the row needs nothing more. */
export const isFinal = (row: Row): boolean => row.state === 'final'

/** Somebody with our key pays himself. */
export function foreignSpend(nonce: number): Promise<string> {
  const account = privateKeyToAccount(KEY)
  const fees = { maxFeePerGas: 90n * GWEI, maxPriorityFeePerGas: 9n * GWEI }
  const to = account.address
  return account.signTransaction({
    type: 'eip1559',
    chainId: CHAIN,
    nonce,
    to,
    gas: 21_000n,
    ...fees,
  })
}
