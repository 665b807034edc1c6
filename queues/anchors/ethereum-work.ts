/**
 * What the EVM rail remembers of a job, and what it sees when it looks at a node.
 *
 * `work` is a view of the wallet's spend and two memories: the head when the newest variant was first
 * looked for (so that a replacement waits its time) and the block in which one was seen last (so that
 * its disappearance is noticed).
 */

import type { TransactionSerialized } from 'viem'
import { recoverTransactionAddress } from 'viem'
import * as z from 'zod'
import { VaultMeshError } from '#core/errors.ts'
import type { Price, Spend } from '#store/wallet-api.ts'
import type { EthereumClient } from './ethereum-client.ts'
import type { EthereumFees } from './ethereum-wallet.ts'

const hash = z.string().regex(/^0x[0-9a-f]{64}$/)
const wei = z.string().regex(/^\d{1,78}$/)
const workSchema = z.strictObject({
  nonce: z.int().nonnegative(),
  /** Oldest first. */
  variants: z
    .array(
      z.strictObject({
        txHash: hash,
        raw: z.string().regex(/^0x(?:[0-9a-f]{2})+$/),
        maxFeePerGas: wei,
        maxPriorityFeePerGas: wei,
      }),
    )
    .min(1),
  /** Head from which the newest variant's wait is counted; null before the first look. */
  since: z.int().nonnegative().nullable(),
  /** Hash of the block in which a variant was seen last. */
  block: hash.nullable(),
})
export type EthereumWork = z.infer<typeof workSchema>

/** The stored work; throws `bad-state` if it is none of ours. */
export function parseWork(stored: unknown): EthereumWork {
  const parsed = workSchema.safeParse(stored)
  if (!parsed.success)
    throw new VaultMeshError('bad-state', 'The stored EVM work is not understood.')
  return parsed.data
}

/** The work of a spend whose newest variant was not sent yet; of `before` it keeps what is still true. */
export function workOf(spend: Spend, before: EthereumWork | null): EthereumWork {
  const nonce = /^nonce:(\d{1,15})$/.exec(spend.spends[0] ?? '')?.[1]
  const variants = spend.variants.map(({ txHash, raw, price }) => {
    if (price.chain !== 'EVM') throw new VaultMeshError('bad-state', 'A spend of another chain.')
    const { maxFeePerGas, maxPriorityFeePerGas } = price
    return { txHash, raw, maxFeePerGas, maxPriorityFeePerGas }
  })
  const isSame = before?.nonce === Number(nonce)
  return parseWork({
    nonce: nonce === undefined ? null : Number(nonce),
    variants,
    since: null,
    block: isSame ? before.block : null,
  })
}

/**
 * Who signed the variants, lowercase 0x: whose nonce they use, also when the settings name another key by now.
 */
export async function senderOf({ variants }: EthereumWork): Promise<string> {
  const serializedTransaction = variants[0]!.raw as TransactionSerialized
  return (await recoverTransactionAddress({ serializedTransaction })).toLowerCase()
}

/** Fees of the newest variant. */
export function newestOf({ variants }: EthereumWork): EthereumFees {
  const { maxFeePerGas, maxPriorityFeePerGas } = variants.at(-1)!
  return {
    maxFeePerGas: BigInt(maxFeePerGas),
    maxPriorityFeePerGas: BigInt(maxPriorityFeePerGas),
  }
}

/** Fees as the wallet wants them. */
export function priceOf(fees: EthereumFees): Extract<Price, { chain: 'EVM' }> {
  return {
    chain: 'EVM',
    maxFeePerGas: fees.maxFeePerGas.toString(),
    maxPriorityFeePerGas: fees.maxPriorityFeePerGas.toString(),
  }
}

/** A variant in a block. */
export interface Found {
  readonly txHash: string
  readonly blockNumber: number
  readonly blockHash: string
}

/** What one node shows of a job. */
export interface Sight {
  readonly head: number
  /** Transactions of our address in the chain. */
  readonly nonce: number
  readonly found: Found | null
  /** A variant is in a block or in the pool. */
  readonly isKnown: boolean
}

/**
 * Asks a node for every variant. Head and nonce are read first: if the nonce was used by then and no
 * variant is in a block, none of ours used it. Throws `anchor-failed` if the node is on another chain.
 */
export async function look(
  client: EthereumClient,
  job: { readonly chainId: number; readonly address: string; readonly work: EthereumWork },
): Promise<Sight> {
  await mustBeOn(client, job.chainId)
  const head = (await client.latest()).number
  const nonce = await client.nonceOf(job.address)
  let isKnown = false
  for (const { txHash } of job.work.variants) {
    const status = await client.statusOf(txHash)
    if (status.state === 'unknown') continue
    isKnown = true
    if (status.state === 'pending') continue
    const { blockNumber, blockHash } = status
    return { head, nonce, isKnown, found: { txHash, blockNumber, blockHash } }
  }
  return { head, nonce, isKnown, found: null }
}

/** Throws `anchor-failed` unless the node is on the chain. */
export async function mustBeOn(client: EthereumClient, chainId: number): Promise<void> {
  if ((await client.chainId()) === chainId) return
  const detail = `The EVM node ${client.name} is not on chain ${chainId}.`
  throw new VaultMeshError('anchor-failed', detail)
}

/** True if every node has the same variant in the same block. */
export function agreed(sights: readonly Sight[]): boolean {
  const [first] = sights
  return sights.every(
    ({ found }) =>
      found !== null &&
      found.txHash === first?.found?.txHash &&
      found.blockHash === first.found.blockHash,
  )
}
