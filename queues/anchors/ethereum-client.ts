/**
 * What the EVM rail asks of a node, each answer checked for its shape before it is used.
 *
 * Nothing here decides: the client says what one node claims, the rail compares nodes. The exception
 * is `block`, whose bytes must hash to the asked hash. No viem client, nonce manager or receipt
 * waiter takes part: they keep state in memory, retry by themselves and follow replacements.
 */

import { keccak256 } from 'viem'
import type { Hex } from 'viem'
import * as z from 'zod'
import { equal } from '#core/bytes.ts'
import { transactionsRoot } from '#core/merkle-patricia.ts'
import { blockSchema, count, data, hash32, hashesTo, headerBytes } from './ethereum-block.ts'
import { headerSchema, quantity, transactionBytes } from './ethereum-block.ts'
import type { EthereumBlock, TransactionAnswer } from './ethereum-block.ts'
import type { Fetch, Rpc, RpcRefusal } from './ethereum-rpc.ts'
import { ethereumRpc } from './ethereum-rpc.ts'
import type { EthereumFees } from './ethereum-wallet.ts'
import type { Provider } from './rail.ts'

/** What became of a transaction that was handed in. */
export type Sent = 'sent' | 'known' | 'nonce_too_low' | 'underpriced' | 'no_funds'

/** Where a node sees a transaction. */
export type TransactionStatus =
  | { readonly state: 'unknown' }
  | { readonly state: 'pending' }
  | {
      readonly state: 'included'
      readonly blockNumber: number
      /** Lowercase 0x. */
      readonly blockHash: string
      readonly txIndex: number
    }

/** A block's place and time. */
export interface BlockName {
  readonly number: number
  /** Lowercase 0x. */
  readonly hash: string
  /** Seconds. */
  readonly timestamp: number
}

/** One node. Every method throws `anchor-failed` if there is no valid answer. */
export interface EthereumClient extends Provider {
  chainId(): Promise<number>
  /** Transactions that the address has on the chain, up to the newest or the newest final block. */
  nonceOf(address: string, at?: 'latest' | 'finalized'): Promise<number>
  /** wei. */
  balanceOf(address: string): Promise<bigint>
  /** Twice the base fee, which lasts six full blocks of rising, and what miners are tipped. */
  fees(): Promise<EthereumFees>
  /** Gas that the call needs; null if the node does not say. */
  estimateGas(call: { from: string; to: string; data: string }): Promise<bigint | null>
  send(raw: string): Promise<Sent>
  statusOf(txHash: string): Promise<TransactionStatus>
  latest(): Promise<BlockName>
  finalized(): Promise<BlockName>
  /** The block at a height of the active chain, null above its top. */
  blockAt(number: number): Promise<BlockName | null>
  hashAt(number: number): Promise<string | null>
  /** The whole block, checked against its hash. */
  block(hash: string): Promise<EthereumBlock>
}

/** 1 gwei: what a tip was mostly worth since EIP-1559, for nodes that name none. */
const DEFAULT_PRIORITY_FEE = 1_000_000_000n
/** Transactions of an unknown type in one block whose bytes we ask for one by one (rollups have 1 or 2). */
const MAX_RAW_QUESTIONS = 64

const transactionSchema = z.looseObject({
  hash: hash32,
  blockHash: hash32.nullish(),
  blockNumber: count.nullish(),
  transactionIndex: count.nullish(),
})

/** The client of the node at `url`. Throws `bad-config` if the URL is none. */
export function parseEthereumUrl(
  url: string,
  fetch: Fetch,
  options: { readonly timeoutMs?: number } = {},
): EthereumClient {
  const rpc = ethereumRpc(url, fetch, options.timeoutMs)
  const { name, failure } = rpc
  const get = <T>(shape: z.ZodType<T>, method: string, ...params: readonly unknown[]) =>
    rpc.call({ method, params }, shape)
  const blockBy = (tag: string) => get(headerSchema.nullable(), 'eth_getBlockByNumber', tag, false)
  const named = async (tag: 'latest' | 'finalized'): Promise<BlockName> => {
    const block = await blockBy(tag)
    if (block === null) throw failure(`has no ${tag} block`)
    return nameOf(block)
  }
  const blockAt = async (number: number): Promise<BlockName | null> => {
    const block = await blockBy(`0x${number.toString(16)}`)
    if (block === null) return null
    if (block.number !== number) throw failure('answered with another block than was asked for')
    return nameOf(block)
  }

  return {
    name,
    chainId: () => get(count, 'eth_chainId'),
    nonceOf: (address, at = 'latest') => get(count, 'eth_getTransactionCount', address, at),
    balanceOf: (address) => get(quantity, 'eth_getBalance', address, 'latest'),
    latest: () => named('latest'),
    finalized: () => named('finalized'),
    blockAt,
    hashAt: async (number) => (await blockAt(number))?.hash ?? null,

    async fees() {
      const block = await blockBy('latest')
      const base = block?.baseFeePerGas
      if (base === undefined || base === null) throw failure('has no base fee (EIP-1559)')
      const tip = await rpc.ask({ method: 'eth_maxPriorityFeePerGas', params: [] }, quantity)
      const maxPriorityFeePerGas = 'result' in tip ? tip.result : DEFAULT_PRIORITY_FEE
      return { maxFeePerGas: base * 2n + maxPriorityFeePerGas, maxPriorityFeePerGas }
    },

    async estimateGas(call) {
      const answer = await rpc.ask({ method: 'eth_estimateGas', params: [call] }, quantity)
      return 'result' in answer ? answer.result : null
    },

    async send(raw) {
      const question = { method: 'eth_sendRawTransaction', params: [raw] }
      const answer = await rpc.ask(question, hash32)
      if ('refusal' in answer) {
        const sent = classify(answer.refusal)
        if (sent !== null) return sent
        throw failure(`refused the transaction with error ${answer.refusal.code}`)
      }
      if (answer.result !== keccak256(raw as Hex)) throw failure('names another transaction')
      return 'sent'
    },

    async statusOf(txHash) {
      const tx = await get(transactionSchema.nullable(), 'eth_getTransactionByHash', txHash)
      if (tx === null) return { state: 'unknown' }
      const { hash, blockHash, blockNumber, transactionIndex } = tx
      if (hash !== txHash) throw failure('answered with another transaction than was asked for')
      if (typeof blockHash !== 'string') return { state: 'pending' }
      if (typeof blockNumber !== 'number' || typeof transactionIndex !== 'number') {
        throw failure('does not say where in its block a transaction is')
      }
      return { state: 'included', blockNumber, blockHash, txIndex: transactionIndex }
    },

    async block(hash) {
      const question = { method: 'eth_getBlockByHash', params: [hash, true], isLarge: true }
      const block = await rpc.call(question, blockSchema.nullable())
      if (block === null) throw failure('does not have the block that it named')
      if (block.hash !== hash) throw failure('answered with another block than was asked for')
      const header = headerBytes(block) ?? (await rawHeader(rpc, hash))
      const transactions = await rawTransactions(rpc, hash, block.transactions)
      if (!equal(transactionsRoot(transactions), block.transactionsRoot)) {
        throw failure('gave transactions that are not those of the block')
      }
      return { ...nameOf(block), header, transactions }
    },
  }
}

function nameOf(block: BlockName): BlockName {
  return { number: block.number, hash: block.hash, timestamp: block.timestamp }
}

/** The header as the node stores it, for forks that append fields we do not know. */
async function rawHeader(rpc: Rpc, hash: string): Promise<Uint8Array> {
  const answer = await rpc.ask({ method: 'debug_getRawHeader', params: [hash] }, data)
  if ('result' in answer && hashesTo(answer.result, hash)) return answer.result
  throw rpc.failure('gave a header that does not hash to the block hash')
}

async function rawTransactions(
  rpc: Rpc,
  hash: string,
  answers: readonly TransactionAnswer[],
): Promise<readonly Uint8Array[]> {
  const raws: Uint8Array[] = []
  let asked = 0
  for (const [i, answer] of answers.entries()) {
    let raw = transactionBytes(answer)
    if (raw === null) {
      asked += 1
      if (asked > MAX_RAW_QUESTIONS) {
        throw rpc.failure('gave a block with too many transactions of an unknown type')
      }
      const method = 'eth_getRawTransactionByBlockHashAndIndex'
      raw = await rpc.call({ method, params: [hash, `0x${i.toString(16)}`] }, data)
      if (!hashesTo(raw, answer.hash)) {
        throw rpc.failure('gave a transaction that does not hash to its hash')
      }
    }
    raws.push(raw)
  }
  return raws
}

/**
 * What nodes say when they refuse a transaction, in lowercase. There is no standard, and numbers are
 * shared by many meanings, so words decide: geth (core/txpool/errors.go), Erigon (txpoolcfg),
 * Nethermind (AcceptTxResult, in both its vocabularies), Besu (RpcErrorType), Reth and anvil.
 * The first that fits wins: "replacement transaction underpriced" is no news about the nonce.
 */
const refusals: readonly (readonly [Sent, RegExp])[] = [
  ['known', /already known|alreadyknown|already imported|\bknown transaction|same hash|^mined$/],
  ['nonce_too_low', /nonce (?:is )?too low|oldnonce|nonce too old|stale nonce/],
  [
    'no_funds',
    /insufficient ?funds|insufficient balance|doesn't have enough funds|does not have enough funds|upfront cost exceeds/,
  ],
  [
    'underpriced',
    /underpriced|fee ?too ?low|less than block base fee|below current base fee|gas price (?:is )?(?:too low|below)|could not replace|replaced by|ownnoncealreadyused|replacementnotallowed|gas ?tip|priority fee/,
  ],
]

function classify({ message }: RpcRefusal): Sent | null {
  const words = message.toLowerCase()
  return refusals.find(([, pattern]) => pattern.test(words))?.[0] ?? null
}
