/**
 * The minute's watchers, and those among them that ask chains: how many more anchors each wallet can pay.
 *
 * A provider is asked once an hour, or ten minutes after it failed: a Core node without a wallet scans its whole UTXO
 * set for it. One provider is enough: what is read here opens an alert and moves no money. In between the last
 * reading stands.
 */

import { evmNetwork } from '#core/anchor-ethereum.ts'
import { parseTransaction } from '#core/bitcoin-transaction.ts'
import { fromHex } from '#core/bytes.ts'
import type { BitcoinConfig, Config, EvmConfig } from '#core/config.ts'
import { VaultMeshError } from '#core/errors.ts'
import { anchorsLeft, WALLET_LOW } from '#core/watch.ts'
import { configuredRails } from '#store/anchors.ts'
import { nodeOf } from '#store/node.ts'
import { batchLink, waitingHeights } from '#store/suffering.ts'
import type { Coin } from '#store/wallet-api.ts'
import {
  LONGEST_WAIT_MS,
  runWatchers,
  watchers,
  type Memory,
  type WalletReading,
  type Watcher,
} from '#store/watch.ts'
import { checkNetwork } from './anchors/bitcoin-chain.ts'
import { parseBitcoinUrl } from './anchors/bitcoin-client.ts'
import { bitcoinAccount, dustSat } from './anchors/bitcoin-wallet.ts'
import { parseEthereumUrl } from './anchors/ethereum-client.ts'
import { ethereumAccount } from './anchors/ethereum-wallet.ts'
import { mustBeOn } from './anchors/ethereum-work.ts'
import { RememberedRoute } from './anchors/route.ts'

const EVERY_MS = 3_600_000
const AFTER_FAILURE_MS = 600_000

/** What every watcher has to look at now: the cron's job. */
export async function watch(env: Env, nowAt: number): Promise<void> {
  await runWatchers(env, [...watchers, formerWallets], nowAt)
}

/** The same for what asks chains: after all else, as a chain may hang. */
export async function watchChains(env: Env, nowAt: number): Promise<void> {
  const { config } = await nodeOf(env)
  const wallets = walletsOf(config).map((wallet) => watcherOf(wallet))
  if (wallets.length > 0) await runWatchers(env, wallets, nowAt)
}

/** A wallet that the settings have. */
interface Wallet {
  readonly chain: WalletReading['chain']
  readonly network: string
  /** Asks how many anchors it pays for. */
  read(env: Env): Promise<number>
}

function walletsOf({ bitcoin, evm }: Config): Wallet[] {
  const wallets: Wallet[] = []
  if (bitcoin?.methods.includes('tx') === true) {
    const { network } = bitcoin
    wallets.push({ chain: 'BTC', network, read: (env) => bitcoinAnchors(env, bitcoin) })
  }
  if (evm !== null) {
    const network = evmNetwork(evm.chainId)
    wallets.push({ chain: 'EVM', network, read: (env) => evmAnchors(env, evm) })
  }
  return wallets
}

function nameOf({ chain, network }: Wallet): string {
  return `wallet/${chain}/${network}`
}

/** Forgets wallets that the settings have no more, with their alerts. */
const formerWallets: Watcher = {
  name: 'wallets',
  async look({ node, memory }) {
    const wallets = walletsOf(node.config)
    const current = new Set(wallets.map(nameOf))
    const former = [...memory.keys()].filter((n) => n.startsWith('wallet/') && !current.has(n))
    const gone = (['BTC', 'EVM'] as const).filter((c) => !wallets.some(({ chain }) => chain === c))
    return {
      alerts: gone.flatMap((chain) => [
        { kind: 'wallet_low', prefix: `${chain}/`, due: [] },
        { kind: 'watch_blind', prefix: `wallet/${chain}`, due: [] },
      ]),
      memory: Object.fromEntries(former.map((name) => [name, null])),
    }
  },
}

/** Reads a wallet if that is due, and judges by what is known. */
function watcherOf(wallet: Wallet): Watcher {
  const { chain, network } = wallet
  const name = nameOf(wallet)
  return {
    name: `wallet/${chain}`,
    async look({ env, node, nowAt, memory }) {
      const { DB } = env
      const known = memory.get(name)
      let reading = known?.value as WalletReading | null | undefined
      let kept: Memory | undefined = known
      if ((known?.dueAt ?? 0) <= nowAt) {
        if (await isRailOut(DB, wallet)) return { alerts: [] }
        if (!(await takeReading(DB, name, nowAt))) return { alerts: [] }
        reading = { chain, network, anchorsLeft: await wallet.read(env), readAt: nowAt }
        kept = { value: reading, dueAt: nowAt + EVERY_MS }
      } else if (reading == null || known!.dueAt !== reading.readAt + EVERY_MS) {
        // An old reading must not pass for one of now.
        throw new VaultMeshError('anchor-failed', 'The newest attempt to read the wallet failed.')
      }
      const rails = configuredRails(node.config).filter((r) => r.chain === chain && !r.isFree)
      const isLow = reading.anchorsLeft < WALLET_LOW
      const [height = null] = isLow ? await waitingHeights(DB, rails) : []
      const low = {
        key: `${chain}/${network}`,
        severity: 'warning',
        detail: `The wallet pays for ${reading.anchorsLeft} more anchors at the fee cap; the limit is ${WALLET_LOW}.`,
        link: batchLink(height, '/anchors/status'),
      } as const
      return {
        alerts: [{ kind: 'wallet_low', prefix: `${chain}/`, due: isLow ? [low] : [] }],
        memory: { [name]: kept! },
      }
    },
  }
}

/**
 * Whether the wallet's rail fails now: it has alerts of its own, and a provider that hangs would hold up the minute's
 * jobs once more. The reading stays due.
 */
async function isRailOut(db: D1Database, { chain, network }: Wallet): Promise<boolean> {
  const failing = await db
    .prepare(
      `SELECT 1 FROM anchors INDEXED BY anchors_due
       WHERE state NOT IN ('final', 'failed') AND failures > 0 AND chain = ? AND network = ? LIMIT 1`,
    )
    .bind(chain, network)
    .first()
  return failing !== null
}

/** Takes the reading that is due, so that two ticks do not ask twice; what fails is tried again in ten minutes. */
async function takeReading(db: D1Database, name: string, nowAt: number): Promise<boolean> {
  const taken = await db
    .prepare(
      `INSERT INTO watch_state (name, due_at, value) VALUES (?1, ?3, 'null')
       ON CONFLICT (name) DO UPDATE SET due_at = ?3 WHERE due_at <= ?2 OR due_at > ?2 + ${LONGEST_WAIT_MS} RETURNING 1`,
    )
    .bind(name, nowAt, nowAt + AFTER_FAILURE_MS)
    .first()
  return taken !== null
}

async function bitcoinAnchors(env: Env, config: BitcoinConfig): Promise<number> {
  const { network, addressType: type, privateKey: key, feeCapSat } = config
  const { address } = bitcoinAccount({ key, type, network })
  const clients = config.urls.map((url) => parseBitcoinUrl(url, fetchNow))
  const coins = await asked(env, { chain: 'BTC', network }, (route) =>
    route.first(clients, async (client) => {
      await checkNetwork(client, network)
      return client.coins(address, 1)
    }),
  )
  const confirmed = coins.reduce((sum, { value }) => sum + BigInt(value), 0n)
  const balance = confirmed + (await changeUnderWay(env.DB, coins))
  return anchorsLeft(balance, BigInt(feeCapSat), BigInt(dustSat(type)))
}

/**
 * The change of anchors that are not in a block yet. Mostly a wallet is one coin, which each anchor spends: without
 * this it would look empty for ten minutes after each.
 */
async function changeUnderWay(db: D1Database, coins: readonly Coin[]): Promise<bigint> {
  const { results } = await db
    .prepare(
      `SELECT work FROM anchors WHERE state NOT IN ('final', 'failed') AND chain = 'BTC' AND method = 'tx' AND work IS NOT NULL`,
    )
    .all<{ work: string }>()
  const held = new Set(coins.map(({ txid }) => txid))
  const outpoints = new Set(coins.map(({ txid, vout }) => `${txid}:${vout}`))
  let sum = 0n
  for (const { work } of results) {
    const { spends, variants } = JSON.parse(work) as {
      readonly spends: readonly string[]
      readonly variants: readonly { readonly txHash: string; readonly raw: string }[]
    }
    // Its change is a coin by now, or the provider has not heard of it and still names what it spends.
    if (variants.some(({ txHash }) => held.has(txHash))) continue
    if (spends.some((outpoint) => outpoints.has(outpoint))) continue
    sum += parseTransaction(fromHex(variants.at(-1)!.raw)).outputs[0]?.value ?? 0n
  }
  return sum
}

async function evmAnchors(env: Env, config: EvmConfig): Promise<number> {
  const { chainId, privateKey, feeCapWei, urls } = config
  const { address } = ethereumAccount(privateKey)
  const clients = urls.map((url) => parseEthereumUrl(url, fetchNow))
  const balance = await asked(env, { chain: 'EVM', network: evmNetwork(chainId) }, (route) =>
    route.first(clients, async (client) => {
      await mustBeOn(client, chainId)
      return client.balanceOf(address)
    }),
  )
  return anchorsLeft(balance, feeCapWei)
}

/** Asks by the rail's route, which learns from it. */
async function asked<T>(
  env: Env,
  rail: { readonly chain: string; readonly network: string },
  ask: (route: RememberedRoute) => Promise<T>,
): Promise<T> {
  const route = await RememberedRoute.load(env.DB, rail, () => Date.now())
  try {
    return await ask(route)
  } finally {
    await route.save(env.DB, rail).catch(() => undefined)
  }
}

/** Looked up at each call, so that tests can stand in for the network. */
const fetchNow = (url: string, init?: RequestInit): Promise<Response> => fetch(url, init)
