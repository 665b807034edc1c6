/**
 * Signing for EVM chains: one EIP-1559 transaction to ourselves whose calldata is the 32-byte root.
 *
 * Pure: the Wallet Durable Object brings the key and stores what is signed here before anybody sees
 * it. ECDSA nonces are deterministic (RFC 6979), so the same request gives the same bytes, and a crash
 * between signing and storing loses nothing. All variants of a root share the account nonce, so a
 * chain can hold one of them. A price that could cost more than the cap is never signed.
 */

import type { Hex } from 'viem'
import { keccak256, parseTransaction } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import type { Hash } from '#core/bytes.ts'
import { toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'

/** A transfer without data (yellow paper, appendix G). */
const TRANSACTION_GAS = 21_000n
/** EIP-7623: a byte of calldata that is not zero counts 4 tokens, and a token costs at least 10 gas. */
const CALLDATA_GAS = 10n * 4n * 32n
/** What any root needs on Ethereum since Prague: 22,280. Zero bytes need less; what is left is kept. */
export const ANCHOR_GAS = TRANSACTION_GAS + CALLDATA_GAS
/** Rollups add the price of the layer below as gas; a chain that wants more than this is not for anchors. */
export const MAX_ANCHOR_GAS = 2_000_000n

/** What a transaction pays per gas, in wei. */
export interface EthereumFees {
  readonly maxFeePerGas: bigint
  readonly maxPriorityFeePerGas: bigint
}

/** What to sign. */
export interface EthereumSpend extends EthereumFees {
  /** 0x and 64 hex digits. */
  readonly key: string
  readonly chainId: number
  readonly nonce: number
  readonly root: Hash
  readonly gas: bigint
  /** Most that the transaction may cost. */
  readonly feeCapWei: bigint
}

/** A signed transaction; `fee` is the most it can cost in wei. */
export interface SignedEthereum {
  readonly raw: Hex
  readonly txHash: Hex
  readonly fee: bigint
}

/** The account of a key; its address in lowercase. Throws `bad-config`, which never quotes the key. */
export function ethereumAccount(key: string): { readonly address: Hex } {
  return { address: accountOf(key).address.toLowerCase() as Hex }
}

/** The signed anchor, or that it may cost too much. Throws `bad-config` for a key that is none. */
export async function signEthereum(
  spend: EthereumSpend,
): Promise<SignedEthereum | { readonly held: 'fee_cap' }> {
  const { chainId, nonce, root, gas, maxFeePerGas, maxPriorityFeePerGas } = spend
  const account = accountOf(spend.key)
  if (root.length !== 32) throw new VaultMeshError('bad-state', 'A root is 32 bytes.')
  if (maxPriorityFeePerGas > maxFeePerGas) {
    throw new VaultMeshError('bad-state', 'The priority fee is above the whole fee.')
  }
  const fee = gas * maxFeePerGas
  if (fee > spend.feeCapWei) return { held: 'fee_cap' }
  const raw = await account.signTransaction({
    type: 'eip1559',
    chainId,
    nonce,
    to: account.address.toLowerCase() as Hex,
    value: 0n,
    data: `0x${toHex(root)}`,
    gas,
    maxFeePerGas,
    maxPriorityFeePerGas,
  })
  return { raw, txHash: keccak256(raw), fee }
}

/**
 * The gas limit of an anchor: what Ethereum needs, or what the chain estimated if that is more.
 * Throws `anchor-failed` beyond any reason.
 */
export function anchorGas(estimate: bigint | null): bigint {
  if (estimate === null || estimate <= ANCHOR_GAS) return ANCHOR_GAS
  if (estimate > MAX_ANCHOR_GAS) {
    throw new VaultMeshError('anchor-failed', `The chain asks for ${estimate} gas for 32 bytes.`)
  }
  return estimate
}

/** The gas limit of a transaction that `signEthereum` made: its replacements keep it. */
export function gasOf(raw: string): bigint {
  const { gas } = parseTransaction(raw as Hex)
  if (gas === undefined) throw new VaultMeshError('bad-state', 'The transaction names no gas.')
  return gas
}

/**
 * The next price: both fees × 1.25, since geth and Erigon want 10 % more on both and Nethermind 12.5 %,
 * and never below what the chain asks now.
 */
export function nextFees(previous: EthereumFees, estimate: EthereumFees): EthereumFees {
  const maxPriorityFeePerGas = max(
    bumped(previous.maxPriorityFeePerGas),
    estimate.maxPriorityFeePerGas,
  )
  const maxFeePerGas = max(bumped(previous.maxFeePerGas), estimate.maxFeePerGas)
  return { maxFeePerGas: max(maxFeePerGas, maxPriorityFeePerGas), maxPriorityFeePerGas }
}

/** × 1.25 rounded up, and more than before even from 0. */
function bumped(fee: bigint): bigint {
  return max((fee * 5n + 3n) / 4n, fee + 1n)
}

function max(a: bigint, b: bigint): bigint {
  return a > b ? a : b
}

function accountOf(key: string) {
  try {
    if (/^0x[0-9a-fA-F]{64}$/.test(key)) return privateKeyToAccount(key as Hex)
  } catch {
    // Zero or above the curve's order. The library's words may hold the number.
  }
  throw new VaultMeshError(
    'bad-config',
    'An EVM key is 0x and 64 hex digits below the curve order.',
  )
}
