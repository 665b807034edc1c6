/**
 * What a wallet really paid for, read from the chains themselves, block by block: neither the node nor its
 * receipts are asked.
 */

import type { Anvil } from '../devnet/anvil.ts'
import type { Bitcoind } from '../devnet/bitcoind.ts'

/** A confirmed transaction. */
export interface Payment {
  readonly hash: string
  /** What it cost, in satoshi or wei. */
  readonly fee: bigint
}

/** Confirmed transactions of one address, by what they commit to; a key of '' is a payment for nothing. */
export type Spends = ReadonlyMap<string, readonly Payment[]>

interface BitcoinBlock {
  readonly tx: readonly {
    readonly txid: string
    /** In bitcoin; the coinbase has none. */
    readonly fee?: number
    readonly vin: readonly { readonly prevout?: { readonly scriptPubKey: { address?: string } } }[]
    readonly vout: readonly { readonly scriptPubKey: { readonly hex: string } }[]
  }[]
}

/** OP_RETURN and a push of 32 bytes. */
const COMMITMENT = /^6a20([0-9a-f]{64})$/

/** Every transaction that spends a coin of `address`, in every block of the active chain; roots as 0x hex. */
export async function bitcoinSpends({ rpc }: Bitcoind, address: string): Promise<Spends> {
  const spends = new Map<string, Payment[]>()
  const tip = await rpc<number>('getblockcount')
  for (let height = 1; height <= tip; height++) {
    const hash = await rpc<string>('getblockhash', [height])
    // Verbosity 3: with the outputs that are spent.
    const { tx } = await rpc<BitcoinBlock>('getblock', [hash, 3])
    for (const { txid, fee = 0, vin, vout } of tx) {
      if (!vin.some(({ prevout }) => prevout?.scriptPubKey.address === address)) continue
      const roots = vout.flatMap(({ scriptPubKey }) => COMMITMENT.exec(scriptPubKey.hex)?.[1] ?? [])
      add(spends, roots.length === 1 ? `0x${roots[0]}` : '', {
        hash: txid,
        fee: BigInt(Math.round(fee * 1e8)),
      })
    }
  }
  return spends
}

interface EvmBlock {
  readonly transactions: readonly {
    readonly hash: string
    readonly from: string
    readonly input: string
  }[]
}

/** Every transaction from `address`, in every block; its calldata is the root. */
export async function ethereumSpends({ rpc }: Anvil, address: string): Promise<Spends> {
  const spends = new Map<string, Payment[]>()
  const tip = Number(await rpc<string>('eth_blockNumber'))
  for (let number = 0; number <= tip; number++) {
    const block = await rpc<EvmBlock>('eth_getBlockByNumber', [`0x${number.toString(16)}`, true])
    for (const { hash, from, input } of block.transactions) {
      if (from.toLowerCase() !== address.toLowerCase()) continue
      const { gasUsed, effectiveGasPrice } = await rpc<Record<string, string>>(
        'eth_getTransactionReceipt',
        [hash],
      )
      const fee = BigInt(gasUsed!) * BigInt(effectiveGasPrice!)
      add(spends, /^0x[0-9a-f]{64}$/.test(input) ? input : '', { hash, fee })
    }
  }
  return spends
}

function add(spends: Map<string, Payment[]>, root: string, payment: Payment): void {
  spends.set(root, [...(spends.get(root) ?? []), payment])
}
