/**
 * Blocks of an EVM chain made by hand: headers cost nothing, which is why receipts need a witness.
 */

import { keccak_256 } from '@noble/hashes/sha3.js'
import type { Hex, TransactionSerializable } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { fromHex, toHex } from '#core/bytes.ts'
import type { EthereumProof } from '#core/ethereum-proof.ts'
import { transactionProof, transactionsRoot } from '#core/merkle-patricia.ts'
import type { RlpItem } from '#core/rlp.ts'
import { encodeRlp, integerToBytes } from '#core/rlp.ts'

/** Hardhat's and anvil's account 0, public on purpose. */
export const KEY = '0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80'
export const account = privateKeyToAccount(KEY)
export const me = account.address.toLowerCase() as Hex
export const other = '0x70997970c51812dc3a010c7d01b50e0d17dc79c8'
export const CHAIN = 31337
export const root = keccak_256(Uint8Array.of(1))

export const hex = (bytes: Uint8Array): Hex => `0x${toHex(bytes)}`
export const bytes = (text: string): Uint8Array => fromHex(text.slice(2))

export type Kind = 'legacy' | 'eip2930' | 'eip1559'
export const kinds: readonly Kind[] = ['legacy', 'eip2930', 'eip1559']

/** What our rail sends, in each accepted type, changed by `over`. */
export async function signed(
  kind: Kind,
  over: Partial<TransactionSerializable> = {},
): Promise<Uint8Array> {
  const fees =
    kind === 'eip1559' ? { maxFeePerGas: 9n, maxPriorityFeePerGas: 1n } : { gasPrice: 9n }
  const anchor = { chainId: CHAIN, nonce: 3, gas: 30_000n, to: me, value: 0n, data: hex(root) }
  const tx = { ...anchor, ...fees, type: kind, ...over }
  return bytes(await account.signTransaction(tx as TransactionSerializable))
}

/** Header fields with the widths of the yellow paper; `extra` appends what forks appended. */
export function headerOf(txRoot: Uint8Array, extra: readonly RlpItem[] = []): RlpItem[] {
  const h = (n: number) => new Uint8Array(32).fill(n)
  const numbers = [0, 21_000_000, 30_000_000, 21_000, 1_700_000_000].map(integerToBytes)
  const body = [new Uint8Array(256), ...numbers, Uint8Array.of(0x61, 0x62)]
  return [h(1), h(2), bytes(other), h(3), txRoot, h(4), ...body, h(5), new Uint8Array(8), ...extra]
}

export function proofOf(
  rawTxs: readonly Uint8Array[],
  txIndex: number,
  header?: RlpItem,
): EthereumProof {
  return {
    rawTx: hex(rawTxs[txIndex]!),
    txIndex,
    header: hex(encodeRlp(header ?? headerOf(transactionsRoot(rawTxs)))),
    nodes: transactionProof(rawTxs, txIndex).map(hex),
  }
}
