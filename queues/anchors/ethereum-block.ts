/**
 * A block as an RPC describes it → its bytes, or a refusal.
 *
 * JSON is a retelling: what was hashed is RLP. Header and transactions are encoded again from the JSON
 * and must hash to what is claimed, so a provider can withhold but not invent:
 *
 *   keccak-256(header) = block hash          keccak-256(transaction) = its hash
 *   root of the trie over all transactions = field 4 of the header
 *
 * Forks append header fields (London 16, Shanghai 17, Cancun 20, Prague 21) and types of transactions.
 * What this version cannot encode shows in a hash that differs and is answered with null, so that
 * the caller can ask for raw bytes; it never passes.
 */

import { keccak_256 } from '@noble/hashes/sha3.js'
import type { RpcTransaction, TransactionSerializable } from 'viem'
import { formatTransaction, serializeTransaction } from 'viem'
import * as z from 'zod'
import { equal, fromHex, toHex } from '#core/bytes.ts'
import type { EthereumProof } from '#core/ethereum-proof.ts'
import { transactionProof } from '#core/merkle-patricia.ts'
import { encodeRlp, integerToBytes } from '#core/rlp.ts'

/** 0x and 64 hex digits, lowercase from here on. */
export const hash32 = z
  .string()
  .regex(/^0x[0-9a-fA-F]{64}$/)
  .toLowerCase()
/** An integer (execution-apis `uint256`). */
export const quantity = z
  .string()
  .regex(/^0x[0-9a-fA-F]{1,64}$/)
  .transform(BigInt)
/** An integer below 2^53. */
export const count = quantity.refine((n) => n <= BigInt(Number.MAX_SAFE_INTEGER)).transform(Number)
export const data = z
  .string()
  .regex(/^0x(?:[0-9a-fA-F]{2})*$/)
  .transform((hex) => fromHex(hex.slice(2)))

/** What a header must have to be one (yellow paper §4.4). */
export const headerSchema = z.looseObject({
  hash: hash32,
  parentHash: data,
  sha3Uncles: data,
  miner: data,
  stateRoot: data,
  transactionsRoot: data,
  receiptsRoot: data,
  logsBloom: data,
  difficulty: quantity,
  number: count,
  gasLimit: quantity,
  gasUsed: quantity,
  // Seconds that a Date can show (ECMA-262 §21.4.1.1).
  timestamp: count.refine((seconds) => seconds <= 8_640_000_000_000),
  extraData: data,
  mixHash: data,
  nonce: data,
  baseFeePerGas: quantity.nullish(),
  withdrawalsRoot: data.nullish(),
  blobGasUsed: quantity.nullish(),
  excessBlobGas: quantity.nullish(),
  parentBeaconBlockRoot: data.nullish(),
  requestsHash: data.nullish(),
})
export type HeaderAnswer = z.infer<typeof headerSchema>

export const blockSchema = headerSchema.extend({
  // 10 MiB (EIP-7934) of the smallest transactions, about 100 bytes each.
  transactions: z.array(z.looseObject({ hash: hash32 })).max(105_000),
})
export type TransactionAnswer = z.infer<typeof blockSchema>['transactions'][number]

/** A block whose bytes hash to its name. */
export interface EthereumBlock {
  readonly number: number
  /** Lowercase 0x. */
  readonly hash: string
  /** Seconds. */
  readonly timestamp: number
  /** RLP. */
  readonly header: Uint8Array
  /** As they are hashed (EIP-2718), in order. */
  readonly transactions: readonly Uint8Array[]
}

/** The header's RLP if it hashes to the block's hash, else null. */
export function headerBytes(block: HeaderAnswer): Uint8Array | null {
  const fields = [
    block.parentHash,
    block.sha3Uncles,
    block.miner,
    block.stateRoot,
    block.transactionsRoot,
    block.receiptsRoot,
    block.logsBloom,
    integerToBytes(block.difficulty),
    integerToBytes(block.number),
    integerToBytes(block.gasLimit),
    integerToBytes(block.gasUsed),
    integerToBytes(block.timestamp),
    block.extraData,
    block.mixHash,
    block.nonce,
  ]
  const { baseFeePerGas, withdrawalsRoot, blobGasUsed, excessBlobGas } = block
  const { parentBeaconBlockRoot, requestsHash } = block
  const appended = [baseFeePerGas, withdrawalsRoot, blobGasUsed, excessBlobGas]
  for (const field of [...appended, parentBeaconBlockRoot, requestsHash]) {
    if (field === undefined || field === null) break
    fields.push(typeof field === 'bigint' ? integerToBytes(field) : field)
  }
  const bytes = encodeRlp(fields)
  return hashesTo(bytes, block.hash) ? bytes : null
}

/** The transaction's bytes if its type is known and they hash to its hash, else null. */
export function transactionBytes(answer: TransactionAnswer): Uint8Array | null {
  try {
    const tx = formatTransaction(answer as unknown as RpcTransaction)
    const { r, s, v, yParity } = tx
    // Anvil adds the blobs, which are no part of what is hashed (EIP-4844).
    const bare = { ...tx, data: tx.input, blobs: undefined, sidecars: undefined }
    const unsigned = bare as unknown as TransactionSerializable
    const raw = serializeTransaction(unsigned, { r, s, v, yParity } as never)
    const bytes = fromHex(raw.slice(2))
    return hashesTo(bytes, answer.hash) ? bytes : null
  } catch {
    return null // the library refuses a shape that it does not know
  }
}

/** The proof of the transaction with this hash (lowercase 0x), or null if the block does not hold it. */
export function proofIn(block: EthereumBlock, txHash: string): EthereumProof | null {
  const { transactions } = block
  const txIndex = transactions.findIndex((raw) => hashesTo(raw, txHash))
  if (txIndex < 0) return null
  return {
    rawTx: `0x${toHex(transactions[txIndex]!)}`,
    txIndex,
    header: `0x${toHex(block.header)}`,
    nodes: transactionProof(transactions, txIndex).map((node) => `0x${toHex(node)}`),
  }
}

/** True if keccak-256 of `bytes` is `hash` (lowercase 0x). */
export function hashesTo(bytes: Uint8Array, hash: string): boolean {
  return equal(keccak_256(bytes), fromHex(hash.slice(2)))
}
