/**
 * A look at everybody whom the rails ask, for the doctor: who answers, how fast, on which network, at which height, and
 * what time it is there. It reads and signs nothing, moves no money, and teaches the routes nothing.
 */

import { evmNetwork } from '#core/anchor-ethereum.ts'
import type { Config } from '#core/config.ts'
import type { ClockSample, ProviderAnswer } from '#core/doctor.ts'
import { VaultMeshError } from '#core/errors.ts'
import { checkNetwork } from './bitcoin-chain.ts'
import { parseBitcoinUrl } from './bitcoin-client.ts'
import { bitcoinAccount } from './bitcoin-wallet.ts'
import { parseEthereumUrl } from './ethereum-client.ts'
import { ethereumAccount } from './ethereum-wallet.ts'
import { mustBeOn } from './ethereum-work.ts'

/** Short: a doctor that hangs is no help. */
const TIMEOUT_MS = 5000

/** What was found. */
export interface Examined {
  readonly providers: readonly ProviderAnswer[]
  readonly clocks: readonly ClockSample[]
  /** The addresses that pay, and what they hold where that is cheap to ask. */
  readonly wallets: readonly {
    readonly chain: 'BTC' | 'EVM'
    readonly network: string
    readonly address: string
    readonly balance: string | null
  }[]
}

/** Asks every provider of every rail; the rails at once, each one's providers in turn. Throws nothing. */
export async function examine(config: Config): Promise<Examined> {
  const clocks: ClockSample[] = []
  const balances = new Map<string, string>()
  const probes: Record<ProviderAnswer['rail'], readonly Probe[]> = {
    BTC: bitcoinProbes(config),
    EVM: ethereumProbes(config, balances),
    TSA: authorityProbes(config),
  }
  const answers = await Promise.all(
    (['BTC', 'EVM', 'TSA'] as const).map(async (rail) => {
      const found: ProviderAnswer[] = []
      for (const probe of probes[rail]) found.push(await asked(rail, probe, clocks))
      return found
    }),
  )
  return { providers: answers.flat(), clocks, wallets: walletsOf(config, balances) }
}

type Fetch = (url: string, init?: RequestInit) => Promise<Response>

interface Probe {
  readonly name: string
  /** Resolves to the height of its tip. Throws `anchor-failed`. */
  ask(fetch: Fetch): Promise<number | null>
}

async function asked(
  rail: ProviderAnswer['rail'],
  { name, ask }: Probe,
  clocks: ClockSample[],
): Promise<ProviderAnswer> {
  const startedAt = Date.now()
  let isTold = false
  const fetchTimed: Fetch = async (url, init) => {
    const sentAt = Date.now()
    const response = await fetch(url, init)
    const date = Date.parse(response.headers.get('date') ?? '')
    // Cut to seconds there, and half-way in between here.
    if (!isTold && Number.isFinite(date))
      clocks.push({ who: name, skewMs: (sentAt + Date.now()) / 2 - (date + 500) })
    isTold = true
    return response
  }
  try {
    const height = await ask(fetchTimed)
    return { rail, name, latencyMs: Date.now() - startedAt, fault: null, height }
  } catch (error) {
    // Only our own errors are made to be shown: another may quote an address with its password.
    const said = error instanceof VaultMeshError ? error.message : 'could not be asked'
    const fault = said
      .replace(/^The EVM node /, '')
      .replace(`${name} `, '')
      .replace(/\.$/, '')
    return { rail, name, latencyMs: Date.now() - startedAt, fault, height: null }
  }
}

function bitcoinProbes({ bitcoin }: Config): readonly Probe[] {
  return (bitcoin?.urls ?? []).map((url) => ({
    name: nameOf(url),
    async ask(fetch) {
      const client = parseBitcoinUrl(url, fetch, { timeoutMs: TIMEOUT_MS })
      await checkNetwork(client, bitcoin!.network)
      return (await client.tip()).height
    },
  }))
}

function ethereumProbes({ evm }: Config, balances: Map<string, string>): readonly Probe[] {
  return (evm?.urls ?? []).map((url) => ({
    name: nameOf(url),
    async ask(fetch) {
      const client = parseEthereumUrl(url, fetch, { timeoutMs: TIMEOUT_MS })
      await mustBeOn(client, evm!.chainId)
      const { address } = ethereumAccount(evm!.privateKey)
      const wei = await client.balanceOf(address)
      balances.set(address, `${decimals(wei, 18)} ETH`)
      return (await client.latest()).number
    },
  }))
}

/** An authority takes POST alone; that it answers at all is what can be asked without having it stamp something. */
function authorityProbes({ tsaUrls }: Config): readonly Probe[] {
  return tsaUrls.map((url) => ({
    name: nameOf(url),
    async ask(fetch) {
      const signal = AbortSignal.timeout(TIMEOUT_MS)
      const response = await fetch(url, { method: 'GET', redirect: 'manual', signal }).catch(() => {
        throw new VaultMeshError(
          'anchor-failed',
          signal.aborted ? `did not answer within ${TIMEOUT_MS} ms` : 'could not be reached',
        )
      })
      await response.body?.cancel()
      if (response.status >= 500 && response.status !== 501)
        throw new VaultMeshError('anchor-failed', `answered HTTP ${response.status}`)
      return null
    },
  }))
}

function walletsOf(
  { bitcoin, evm }: Config,
  balances: ReadonlyMap<string, string>,
): Examined['wallets'] {
  const wallets: Examined['wallets'][number][] = []
  if (bitcoin?.methods.includes('tx') === true) {
    const { network, addressType: type, privateKey: key } = bitcoin
    // Not asked: a Core node without a wallet would scan its whole UTXO set. The watchers read it once an hour.
    const { address } = bitcoinAccount({ key, type, network })
    wallets.push({ chain: 'BTC', network, address, balance: null })
  }
  if (evm !== null) {
    const { address } = ethereumAccount(evm.privateKey)
    const network = evmNetwork(evm.chainId)
    wallets.push({ chain: 'EVM', network, address, balance: balances.get(address) ?? null })
  }
  return wallets
}

/** `value` in units of 10^places, six digits after the point. */
function decimals(value: bigint, places: number): string {
  const micro = value / 10n ** BigInt(places - 6)
  return `${micro / 1_000_000n}.${String(micro % 1_000_000n).padStart(6, '0')}`
}

/** Host and port: never what stands before or behind them. */
function nameOf(url: string): string {
  return URL.parse(url.replace(/^(?:core|esplora)\+/, ''))?.host ?? 'an address that is none'
}
