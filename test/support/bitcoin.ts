/** A funded key, its rail, and a count of what the chain in truth says was paid for a root. */

import { toHex } from '#core/bytes.ts'
import { bitcoinRail } from '../../queues/anchors/bitcoin.ts'
import type { BitcoinClient } from '../../queues/anchors/bitcoin-client.ts'
import { parseBitcoinUrl } from '../../queues/anchors/bitcoin-client.ts'
import type { AddressType } from '../../queues/anchors/bitcoin-wallet.ts'
import { bitcoinAccount } from '../../queues/anchors/bitcoin-wallet.ts'
import type { Bitcoind } from '../../scripts/devnet/bitcoind.ts'
import { ELSEWHERE } from '../../scripts/devnet/bitcoind.ts'
import { Driver, MapWallet } from './anchoring.ts'

export function core(url: string, options = {}): BitcoinClient {
  return parseBitcoinUrl(`core+${url}`, fetch, options)
}

export function esplora(url: string, options = {}): BitcoinClient {
  return parseBitcoinUrl(`esplora+${url}`, fetch, options)
}

/** The same node, with blocks that cost 1 sat/vB: what regtest estimates depends on what was paid before. */
export function cheap(client: BitcoinClient): BitcoinClient {
  return { ...client, feerate: () => Promise.resolve(1) }
}

/** A new key with `sats` deep enough to be spent, and a root to anchor with it. */
export async function account(
  node: Bitcoind,
  { type = 'p2wpkh', sats = 100_000 }: { type?: AddressType; sats?: number } = {},
) {
  const key = toHex(crypto.getRandomValues(new Uint8Array(32)))
  const { address } = bitcoinAccount({ key, type, network: 'regtest' })
  const fund = async (amount: number) => {
    await node.fundAddress(address, amount)
    await node.mine(6, ELSEWHERE)
  }
  if (sats > 0) await fund(sats)
  const wallet = new MapWallet(key, type)
  const rail = (...clients: readonly BitcoinClient[]) =>
    bitcoinRail({ network: 'regtest', clients, wallet, address, version: '0.1.0' })
  const newJob = () => ({ root: crypto.getRandomValues(new Uint8Array(32)), treeSize: 7 })
  const job = newJob()
  const root = toHex(job.root)
  const driver = (...clients: readonly BitcoinClient[]) => new Driver(rail(...clients), job)
  return { key, type, address, wallet, rail, job, newJob, root, driver, fund }
}

interface Verbose {
  readonly tx: readonly {
    readonly txid: string
    readonly vin: readonly { readonly prevout?: { scriptPubKey: { address?: string } } }[]
    readonly vout: readonly { readonly scriptPubKey: { readonly hex: string } }[]
  }[]
}

/** Transactions of the active chain that spend coins of `address`, with the root each carries. */
export async function spendsOf(
  node: Bitcoind,
  address: string,
): Promise<{ readonly txid: string; readonly root: string | null }[]> {
  const found = []
  const tip = await node.rpc<number>('getblockcount')
  for (let height = 1; height <= tip; height++) {
    const hash = await node.rpc<string>('getblockhash', [height])
    const { tx } = await node.rpc<Verbose>('getblock', [hash, 3])
    for (const { txid, vin, vout } of tx) {
      if (!vin.some((input) => input.prevout?.scriptPubKey.address === address)) continue
      const data = vout.find(({ scriptPubKey }) => scriptPubKey.hex.startsWith('6a20'))
      found.push({ txid, root: data?.scriptPubKey.hex.slice(4) ?? null })
    }
  }
  return found
}

/** Blocks without a single transaction of the pool. */
export async function mineEmpty(node: Bitcoind, n: number): Promise<void> {
  for (let i = 0; i < n; i++) await node.rpc('generateblock', [ELSEWHERE, []])
}
