/**
 * The rail of an outbox row, by what is configured now: nothing of a provider is stored with a job.
 */

import { evmNetwork } from '#core/anchor-ethereum.ts'
import { witnessBlock } from '#core/block-witness.ts'
import type { BitcoinConfig, EvmConfig } from '#core/config.ts'
import { tsaNetwork, type AnchorRow } from '#store/anchors.ts'
import { VERSION, type NodeContext } from '#store/node.ts'
import type { WalletApi } from '#store/wallet-api.ts'
import { bitcoinRail } from './bitcoin.ts'
import { parseBitcoinUrl } from './bitcoin-client.ts'
import { bitcoinAccount } from './bitcoin-wallet.ts'
import { calendarRail } from './calendar.ts'
import { ethereumRail } from './ethereum.ts'
import { parseEthereumUrl } from './ethereum-client.ts'
import { ethereumAccount } from './ethereum-wallet.ts'
import type { Rail } from './rail.ts'
import { timestampRail } from './timestamp.ts'
import { bitcoinName, evmName } from './wallet-signer.ts'

/** The rail that a job belongs to, or null if the settings no longer have it. */
export function railOf(
  env: Env,
  node: NodeContext,
  job: Pick<AnchorRow, 'chain' | 'network' | 'method'>,
): Rail | null {
  const { bitcoin, evm } = node.config
  const { chain, network, method } = job
  if (chain === 'TSA') return tsaRail(node, network)
  if (chain === 'BTC' && bitcoin !== null && bitcoin.network === network) {
    if (!bitcoin.methods.some((m) => m === method)) return null
    return method === 'tx' ? transactionRail(env, bitcoin) : otsRail(bitcoin)
  }
  if (chain === 'EVM' && evm !== null && evmNetwork(evm.chainId) === network) {
    return evmRail(env, node, evm)
  }
  return null
}

/** The Wallet of a name: every isolate reaches the same one, and it alone signs. */
function walletOf(env: Env, name: string): WalletApi {
  return env.WALLET.getByName(name) as unknown as WalletApi
}

function tsaRail({ config }: NodeContext, network: string): Rail | null {
  const url = config.tsaUrls.find((tsa) => tsaNetwork(tsa) === network)
  if (url === undefined) return null
  const policies = config.tsaPolicies.length === 0 ? {} : { policies: config.tsaPolicies }
  const rail = timestampRail({ url, roots: config.tsaRoots, version: VERSION, ...policies })
  return rail as unknown as Rail
}

function transactionRail(env: Env, config: BitcoinConfig): Rail {
  const { network, addressType: type, privateKey: key, urls, depth } = config
  const { address } = bitcoinAccount({ key, type, network })
  return bitcoinRail({
    network,
    clients: urls.map((url) => parseBitcoinUrl(url, fetchNow)),
    wallet: walletOf(env, bitcoinName(config)),
    address,
    requiredDepth: depth,
    version: VERSION,
  }) as unknown as Rail
}

function otsRail(config: BitcoinConfig): Rail {
  return calendarRail({
    network: config.network,
    calendars: config.calendars,
    clients: config.urls.map((url) => parseBitcoinUrl(url, fetchNow)),
    requiredDepth: config.depth,
    version: VERSION,
  }) as unknown as Rail
}

function evmRail(env: Env, node: NodeContext, config: EvmConfig): Rail {
  const { chainId, privateKey, urls } = config
  const { address } = ethereumAccount(privateKey)
  return ethereumRail({
    network: evmNetwork(chainId),
    chainId,
    clients: urls.map((url) => parseEthereumUrl(url, fetchNow)),
    wallet: walletOf(env, evmName(config)),
    address,
    version: VERSION,
    witness: ({ finalizedAt, ...block }) => witnessBlock(node.identity, block, finalizedAt),
  }) as unknown as Rail
}

/** Looked up at each call, so that tests can stand in for the network. */
const fetchNow = (url: string, init?: RequestInit): Promise<Response> => fetch(url, init)
