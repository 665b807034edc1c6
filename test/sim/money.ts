/**
 * A node of the simulated platform that pays on real chains: bitcoind (regtest) and anvil.
 *
 * What the node sends to them is a step like any other (`network btc <method>`, `network evm <method>`), so it can
 * fail before it arrives, lose its reply, or be the last thing the process does. What the test itself asks goes
 * straight through. Providers are hosts of ours, so that one can be made to lie: see `answers`.
 */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, vi } from 'vitest'
import { fromHex } from '../../functions/core/bytes.ts'
import { verifyAnchorReceipt } from '../../functions/core/anchor-verify.ts'
import { deriveIdentity, signJws, type IdentityKey } from '../../functions/core/node-keys.ts'
import { nodeOf } from '../../functions/store/node.ts'
import { bitcoinAccount, signBitcoin } from '../../queues/anchors/bitcoin-wallet.ts'
import { ethereumAccount, signEthereum } from '../../queues/anchors/ethereum-wallet.ts'
import { anvilBinary, missingAnvil, startAnvil, type Anvil } from '../../scripts/devnet/anvil.ts'
import { ELSEWHERE, startBitcoind, type Bitcoind } from '../../scripts/devnet/bitcoind.ts'
import { bitcoindBinary, missingBitcoind } from '../../scripts/devnet/bitcoind-binary.ts'
import { ONLOOKERS, Platform, seeded } from './platform.ts'

const TOKEN = 'token-of-the-simulated-operator'
/** Root that a foreign hand puts into a chain with our key. */
export const FOREIGN = 'f0'.repeat(32)

export type Paid = 'BTC' | 'EVM'

/** The sentence that says why a chain cannot be started here, or null. */
export const absence: Readonly<Record<Paid, string | null>> = {
  BTC: bitcoindBinary() === null ? missingBitcoind : null,
  EVM: anvilBinary() === null ? missingAnvil : null,
}
for (const why of Object.values(absence)) if (why !== null) console.warn(`skipped: ${why}`)

export interface Question {
  readonly method: string
  readonly params: readonly unknown[]
}
/** What a provider says in place of its chain: `{result}` or `{error}`, or null for the truth. May throw: then it is silent. */
export type Answer = (
  question: Question,
  ask: () => Promise<{ result: unknown }>,
) => Promise<Readonly<Record<string, unknown>> | null> | null

const realFetch = globalThis.fetch

/** Both chains, started once for a file, and one node at a time. */
export class World {
  readonly bitcoind: Bitcoind
  readonly anvil: Anvil
  platform!: Platform
  /** By host, e.g. `btc-1.sim`. */
  readonly answers = new Map<string, Answer>()
  readonly #dir: string
  readonly #identity: IdentityKey
  #events = 0
  #from = { BTC: 0, EVM: 0 }
  #keys = { BTC: '', EVM: '' }

  private constructor(dir: string, identity: IdentityKey, bitcoind: Bitcoind, anvil: Anvil) {
    this.#dir = dir
    this.#identity = identity
    this.bitcoind = bitcoind
    this.anvil = anvil
  }

  /** Starts the chains that are installed; the clock is the test's from now on, the wait of schedulers none. */
  static async start(): Promise<World> {
    const dir = await mkdtemp(join(tmpdir(), 'vm-money-'))
    const identity = await deriveIdentity(new Uint8Array(32).fill(7), 1)
    const bitcoind = absence.BTC === null ? await startBitcoind({ dir }) : (null as never)
    const anvil = absence.EVM === null ? await startAnvil() : (null as never)
    const world = new World(dir, identity, bitcoind, anvil)
    vi.useFakeTimers({ toFake: ['Date'] })
    Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
    vi.spyOn(console, 'error').mockImplementation(() => undefined)
    vi.spyOn(console, 'log').mockImplementation(() => undefined)
    vi.stubGlobal('fetch', (url: string | URL, init?: RequestInit) => world.#fetch(url, init))
    return world
  }

  async stop(): Promise<void> {
    vi.useRealTimers()
    vi.unstubAllGlobals()
    vi.restoreAllMocks()
    await this.bitcoind?.stop()
    await this.anvil?.stop()
    await rm(this.#dir, { recursive: true, force: true })
  }

  async #fetch(target: string | URL, init: RequestInit = {}): Promise<Response> {
    const { hostname } = new URL(target)
    if (!hostname.endsWith('.sim')) return realFetch(target, init)
    const body = init.body as string
    const question = JSON.parse(body) as Question & { id: unknown }
    const chain = hostname.startsWith('btc') ? 'btc' : 'evm'
    return this.platform.outside(`network ${chain} ${question.method}`, async () => {
      const node = new URL(chain === 'btc' ? this.bitcoind.url : this.anvil.url)
      const headers: Record<string, string> = { 'content-type': 'application/json' }
      if (node.username !== '') {
        headers['authorization'] = `Basic ${btoa(`${node.username}:${node.password}`)}`
        node.username = node.password = ''
      }
      const send = () => realFetch(node, { method: 'POST', headers, body })
      const ask = async () => (await (await send()).json()) as { result: unknown }
      const answer = await this.answers.get(hostname)?.(question, ask)
      if (answer === undefined || answer === null) return send()
      return Response.json({ jsonrpc: '2.0', error: null, ...answer, id: question.id })
    })
  }

  /** A new key with `coins` coins of 0.001 BTC, deep enough to be spent. */
  async bitcoinKey(coins = 1): Promise<string> {
    const key = hexOf(crypto.getRandomValues(new Uint8Array(32)))
    const { address } = bitcoinAccount({ key, type: 'p2wpkh', network: 'regtest' })
    for (let i = 0; i < coins; i++) await this.bitcoind.fundAddress(address, 100_000)
    if (coins > 0) await this.mine('BTC', 6)
    return key
  }

  /** A new key with one ether, or with nothing. */
  async ethereumKey(wei = 10n ** 18n): Promise<string> {
    const key = `0x${hexOf(crypto.getRandomValues(new Uint8Array(32)))}`
    if (wei > 0n) await this.anvil.setBalance(ethereumAccount(key).address, wei)
    return key
  }

  async mine(chain: Paid, blocks: number): Promise<void> {
    if (blocks === 0) return
    if (chain === 'EVM') await this.anvil.mine(blocks)
    else await this.bitcoind.mine(blocks, ELSEWHERE)
  }

  async height(chain: Paid): Promise<number> {
    if (chain === 'BTC') return this.bitcoind.rpc<number>('getblockcount')
    return Number(await this.anvil.rpc<string>('eth_blockNumber'))
  }

  /** A fresh node that pays with these keys; `more` overrides its settings. */
  async boot(
    keys: Partial<Record<Paid, string>>,
    more: Readonly<Record<string, string>> = {},
  ): Promise<Platform> {
    vi.setSystemTime(vi.getRealSystemTime())
    this.answers.clear()
    this.#keys = { BTC: '', EVM: '', ...keys }
    for (const chain of Object.keys(keys) as Paid[]) this.#from[chain] = await this.height(chain)
    this.platform = new Platform(
      {
        NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
        ORIGIN: 'sim.example/log',
        NODE_ID: 'sim',
        NETWORK: 'dev',
        INTAKE_SHARDS: '1',
        INTAKE_BACKLOG_MAX: '100000',
        SEAL_BATCH_MAX_INTERVAL_MS: '1000',
        RAILS: Object.keys(keys).join(','),
        ADMIN_TOKEN: TOKEN,
        BTC_NETWORK: 'regtest',
        BTC_URLS: 'core+http://btc-1.sim',
        BTC_PRIVATE_KEY: this.#keys.BTC,
        ANCHOR_BTC_INTERVAL_MS: '1000',
        EVM_CHAIN_ID: '31337',
        EVM_URLS: 'http://evm-1.sim',
        EVM_PRIVATE_KEY: this.#keys.EVM,
        ANCHOR_EVM_INTERVAL_MS: '1000',
        ...more,
      },
      [],
      ONLOOKERS,
    )
    return this.platform
  }

  /** Posts an event that nobody posted before. Its answer is the event's receipt link. */
  async post(): Promise<string> {
    const event = await signJws(this.#identity, 'vm-event+jws', {
      specversion: '1.0',
      id: `paid-${this.#events++}`,
      source: this.#identity.did,
      type: 'sim.event',
      time: new Date(vi.getRealSystemTime()).toISOString(),
    })
    const headers = { 'content-type': 'application/jose' }
    const posted = await this.platform.fetch('/events', { method: 'POST', body: event, headers })
    return ((await posted.json()) as { links: { receipt: string } }).links.receipt
  }

  /** Seals a new event; its root's jobs exist then, and had their first attempt. Returns the receipt link. */
  async seal(): Promise<string> {
    const link = await this.post()
    expect(link).toContain('/receipts/')
    await this.platform.deliver(seeded(1))
    await this.pass(1500)
    return link
  }

  /** Time goes by and the node does all that is due. */
  async pass(ms: number, random: () => number = seeded(1), hands = 1): Promise<void> {
    vi.setSystemTime(Date.now() + ms)
    await this.platform.tick(Date.now())
    await this.platform.deliver(random, 30, hands)
    await this.platform.settle()
  }

  /** Passes with blocks, until no job is under way. */
  async finish(random: () => number = seeded(1), most = 30): Promise<void> {
    for (let i = 0; i < most; i++) {
      const open = (await this.jobs()).some(({ state }) => state !== 'final' && state !== 'failed')
      if (!open && i > 1) return
      for (const chain of this.#chains()) await this.mine(chain, 4)
      await this.pass(i < 2 ? 2_400_000 : 150_000, random)
    }
  }

  #chains(): Paid[] {
    return (['BTC', 'EVM'] as const).filter((chain) => this.#keys[chain] !== '')
  }

  /** The operator says go. */
  async release(id: number): Promise<void> {
    const released = await this.platform.fetch(`/admin/anchors/${id}/release`, {
      method: 'POST',
      headers: { authorization: `Bearer ${TOKEN}` },
    })
    expect(released.status).toBe(200)
    await this.pass(1500)
  }

  /**
   * Somebody else who has our key spends what the first job's payment spends, for the root FOREIGN. It waits in
   * the pool; with `isMined` in a block of its own. Returns how many blocks are to be mined: one, or none.
   */
  async spendElsewhere(chain: Paid, isMined = false): Promise<number> {
    const work = JSON.parse((await this.jobs())[0]!.work!) as { spends: string[]; nonce: number }
    const key = this.#keys[chain]
    const root = fromHex(FOREIGN)
    if (chain === 'EVM') {
      const fees = { maxFeePerGas: 10n ** 12n, maxPriorityFeePerGas: 10n ** 10n }
      const what = { key, chainId: 31337, nonce: work.nonce, root, gas: 30_000n }
      const signed = await signEthereum({ ...what, ...fees, feeCapWei: 10n ** 18n })
      if ('held' in signed) throw new Error('not signed')
      await this.anvil.rpc('eth_sendRawTransaction', [signed.raw])
      if (isMined) await this.mine(chain, 1)
      return isMined ? 0 : 1
    }
    const [txid, vout] = work.spends[0]!.split(':') as [string, string]
    const inputs = [{ txid, vout: Number(vout), value: 100_000 }]
    const account = { key, type: 'p2wpkh', network: 'regtest' } as const
    const signed = signBitcoin({ ...account, inputs, root, feerate: 20, feeCapSat: 50_000 })
    if ('held' in signed) throw new Error('not signed')
    if (isMined) await this.bitcoind.rpc('generateblock', [ELSEWHERE, [signed.raw]])
    else await this.bitcoind.rpc('sendrawtransaction', [signed.raw])
    return isMined ? 0 : 1
  }

  /** Rows of D1. */
  async rows<T>(query: string): Promise<T[]> {
    return (await this.platform.env.DB.prepare(query).all<T>()).results
  }

  jobs(): Promise<Job[]> {
    return this.rows<Job>(
      'SELECT id, root, tree_size AS treeSize, chain, network, method, state, reason, work, failures, next_at AS nextAt FROM anchors ORDER BY id',
    )
  }

  alerts(): Promise<{ kind: string; key: string; cleared: number }[]> {
    return this.rows('SELECT kind, key, cleared_at IS NOT NULL AS cleared FROM alerts ORDER BY id')
  }

  /** Ids of the wallets that have storage. */
  walletsOnDisk(): string[] {
    return this.platform.disks().filter((id) => id.startsWith('WALLET/'))
  }

  /** The wallet's own table, read from its disk. */
  spends(chain: Paid): { root: string; state: string; winner: string | null; n: number }[] {
    const key = this.#keys[chain]
    const name =
      chain === 'BTC'
        ? `BTC/regtest/${bitcoinAccount({ key, type: 'p2wpkh', network: 'regtest' }).address}`
        : `EVM/anvil/${ethereumAccount(key).address}`
    return this.platform.disk(
      `WALLET/${name}`,
      'SELECT root, state, winner, (SELECT count(*) FROM variants WHERE spend = id) AS n FROM spends ORDER BY id',
    ) as never
  }

  /** Transactions with a payload of 32 bytes in blocks since the node was booted: root → hashes. */
  async paid(chain: Paid): Promise<Map<string, string[]>> {
    const found = new Map<string, string[]>()
    const add = (root: string, hash: string) => found.set(root, [...(found.get(root) ?? []), hash])
    const tip = await this.height(chain)
    for (let at = this.#from[chain] + 1; at <= tip; at++) {
      if (chain === 'BTC') {
        const hash = await this.bitcoind.rpc<string>('getblockhash', [at])
        const { tx } = await this.bitcoind.rpc<BitcoinBlock>('getblock', [hash, 2])
        for (const { txid, vout } of tx) {
          const data = vout.find(({ scriptPubKey }) => /^6a20[0-9a-f]{64}$/.test(scriptPubKey.hex))
          if (data !== undefined) add(data.scriptPubKey.hex.slice(4), txid)
        }
        continue
      }
      const block = await this.anvil.rpc<EthereumBlock>('eth_getBlockByNumber', [
        `0x${at.toString(16)}`,
        true,
      ])
      for (const { hash, input } of block.transactions) {
        if (/^0x[0-9a-f]{64}$/.test(input)) add(input.slice(2), hash)
      }
    }
    return found
  }

  async #waiting(chain: Paid): Promise<number> {
    if (chain === 'BTC') return (await this.bitcoind.rpc<string[]>('getrawmempool')).length
    const pool = await this.anvil.rpc<{ pending: string; queued: string }>('txpool_status')
    return Number(pool.pending) + Number(pool.queued)
  }

  /**
   * The law at the end of every day: each root that has a final job was paid for once on its chain, each other
   * root not at all; its one receipt lies in R2 and D1 alike, names that payment and verifies; the wallet has
   * nothing open and nothing waits in a pool. What a foreign hand paid for with our key is named. Returns the
   * number of final jobs.
   */
  async expectPaidOnce(foreign: readonly string[] = []): Promise<number> {
    const jobs = await this.jobs()
    const { env } = this.platform
    const { identity } = await nodeOf(env)
    const trust = { tsaRoots: [], nodeDids: [identity.did] }
    for (const chain of this.#chains()) {
      const paid = await this.paid(chain)
      for (const root of foreign) paid.delete(root)
      const mine = jobs.filter((job) => job.chain === chain)
      const final = mine.filter(({ state }) => state === 'final')
      expect(mine.filter(({ state }) => !['final', 'failed'].includes(state))).toEqual([])
      expect([...paid.keys()].sort()).toEqual(final.map(({ root }) => root).sort())
      for (const job of final) {
        const { root, network, method } = job
        expect(job).toMatchObject({ reason: null, failures: 0 })
        expect(paid.get(root), `payments for ${root}`).toHaveLength(1)
        const kept = await this.rows<{ json: string; tx_hash: string }>(
          `SELECT json, tx_hash FROM receipts WHERE root = '${root}' AND chain = '${chain}'`,
        )
        expect(kept.map((row) => row.tx_hash)).toEqual(paid.get(root))
        const stored = await env.BUCKET.get(`anchors/${root}/${chain}/${network}/${method}`)
        expect(await stored?.text()).toBe(kept[0]!.json)
        const verdict = await verifyAnchorReceipt(JSON.parse(kept[0]!.json), trust)
        expect(verdict.outcome, JSON.stringify(verdict)).toBe('verified')
      }
      const spends = this.spends(chain)
      expect(spends.filter(({ state }) => state === 'open')).toEqual([])
      expect(spends.filter(({ state }) => state === 'final')).toHaveLength(final.length)
      expect(await this.#waiting(chain), 'in the pool').toBe(0)
    }
    return jobs.filter(({ state }) => state === 'final').length
  }
}

export interface Job {
  readonly id: number
  readonly root: string
  readonly treeSize: number
  readonly chain: string
  readonly network: string
  readonly method: string
  readonly state: string
  readonly reason: string | null
  readonly work: string | null
  readonly failures: number
  readonly nextAt: number
}

interface BitcoinBlock {
  readonly tx: readonly {
    readonly txid: string
    readonly vout: readonly { readonly scriptPubKey: { readonly hex: string } }[]
  }[]
}
interface EthereumBlock {
  readonly transactions: readonly { readonly hash: string; readonly input: string }[]
}

function hexOf(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex')
}
