/**
 * Around a rail in a test: a wallet that keeps the law of store/wallet-api.ts in a Map, and a
 * driver that does as the orchestrator does, except that it may be killed after any call.
 */

import { hashFromHex } from '#core/bytes.ts'
import type { AnchorReceipt, AnchorVerdict } from '#core/anchor-receipt.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { AddressType } from '../../queues/anchors/bitcoin-wallet.ts'
import { chooseCoins, signBitcoin } from '../../queues/anchors/bitcoin-wallet.ts'
import type { AnchorJob, Rail, RailContext, RailStep, Work } from '../../queues/anchors/rail.ts'
import type {
  Coin,
  NumberedSpend,
  Price,
  SignAnswer,
  SignRequest,
  Spend,
  WalletApi,
} from '../../functions/store/wallet-api.ts'
import { plainRoute } from './rail-driver.ts'

type Inputs = readonly Coin[]

/** A wallet of one Bitcoin key. */
export class MapWallet implements WalletApi {
  readonly spends = new Map<string, { spend: Spend; inputs: Inputs }>()
  readonly dead: Spend[] = []
  feeCapSat = 20_000
  readonly #spent = new Set<string>()
  readonly #key: { readonly key: string; readonly type: AddressType; readonly network: string }

  constructor(key: string, type: AddressType) {
    this.#key = { key, type, network: 'regtest' }
  }

  async history(after: number, limit: number): Promise<readonly NumberedSpend[]> {
    const all = [...this.dead, ...[...this.spends.values()].map(({ spend }) => spend)]
    return all.slice(after, after + limit).map((spend, i) => ({ ...spend, id: after + i + 1 }))
  }

  async find(root: string): Promise<Spend | null> {
    const spend = this.spends.get(root)?.spend ?? null
    return spend?.state === 'dead' ? null : spend
  }

  async sign(request: SignRequest): Promise<SignAnswer> {
    if (!('coins' in request)) throw new Error('not a request for Bitcoin')
    const { root, price, coins } = request
    const before = this.spends.get(root)
    if (before && before.spend.state !== 'dead') return { spend: before.spend }
    const open = [...this.spends].find(([, { spend }]) => spend.state === 'open')
    if (open) return { busy: `root ${open[0].slice(0, 8)} is under way` }
    const limits = { feerate: price.feerate, feeCapSat: this.feeCapSat, type: this.#key.type }
    const free = coins.filter(({ txid, vout }) => !this.#spent.has(`${txid}:${vout}`))
    const chosen = chooseCoins(free, limits)
    if ('held' in chosen) return chosen
    return this.#add(root, chosen.inputs, price, [])
  }

  async replace(root: string, price: Price): Promise<SignAnswer> {
    const stored = this.spends.get(root)
    if (stored?.spend.state !== 'open' || price.chain !== 'BTC')
      throw new Error('nothing to replace')
    const { spend, inputs } = stored
    const newest = spend.variants.at(-1)!.price as typeof price
    if (price.feerate <= newest.feerate) return { spend }
    return this.#add(root, inputs, price, spend.variants)
  }

  async settle(root: string, winner: string | null): Promise<void> {
    const stored = this.spends.get(root)
    if (!stored) throw new Error('nothing to settle')
    if (stored.spend.state === 'dead') return
    if (stored.spend.state === 'final' && winner !== null) return
    const state = winner === null ? 'dead' : 'final'
    const spend: Spend = { ...stored.spend, state }
    if (state === 'dead') this.dead.push(spend)
    this.spends.set(root, { ...stored, spend })
  }

  #add(
    root: string,
    inputs: Inputs,
    price: Extract<Price, { chain: 'BTC' }>,
    variants: Spend['variants'],
  ): SignAnswer {
    const signed = signBitcoin({
      ...this.#key,
      inputs,
      root: hashFromHex(root),
      feerate: price.feerate,
      feeCapSat: this.feeCapSat,
    })
    if ('held' in signed) return signed
    const { raw, txHash, fee } = signed
    const spend: Spend = {
      root,
      state: 'open',
      spends: inputs.map(({ txid, vout }) => `${txid}:${vout}`),
      variants: [...variants, { txHash, raw, price, fee: String(fee), signedAt: 0 }],
    }
    for (const outpoint of spend.spends) this.#spent.add(outpoint)
    this.spends.set(root, { spend, inputs })
    return { spend }
  }
}

/** Thrown in place of an answer that the driver did not live to store. */
export class Killed extends Error {}

/** One outbox row. What survives a kill is `stored`, a string as in D1. */
export class Driver {
  #rail: Rail
  readonly #job: AnchorJob
  stored: { state: string; work: string | null } = { state: 'queued', work: null }
  receipt: AnchorReceipt | null = null
  /** Every step, as `submit→signed`. */
  readonly log: string[] = []
  /** Calls of the rail until it is killed: the answer of the last one is lost. */
  killAfter = Infinity
  released = false
  fetch: RailContext['fetch'] = (url, init) => fetch(url, init)
  now = (): number => Date.now()
  #calls = 0

  constructor(rail: unknown, job: AnchorJob) {
    this.#rail = rail as Rail
    this.#job = job
  }

  /** From now on with other providers, or other limits of time. */
  use(rail: unknown): this {
    this.#rail = rail as Rail
    return this
  }

  get work(): Record<string, unknown> {
    return JSON.parse(this.stored.work ?? 'null') as Record<string, unknown>
  }

  #context(): RailContext {
    return {
      fetch: (url, init) => this.fetch(url, init),
      route: plainRoute,
      now: () => this.now(),
      random: (n) => crypto.getRandomValues(new Uint8Array(n)),
      released: this.released,
    }
  }

  /** The rail's verdict on the receipt. */
  verify(): Promise<AnchorVerdict> {
    return this.#rail.verify(this.receipt!, this.#context())
  }

  /** One call of the rail and what is stored of it; returns the step. */
  async step(): Promise<RailStep> {
    const { state, work: text } = this.stored
    const work = text === null ? null : (JSON.parse(text) as Work)
    const context = this.#context()
    const isCheck = work !== null && (state === 'broadcast' || state === 'included')
    const step = await (isCheck
      ? this.#rail.check(this.#job, work, context)
      : this.#rail.submit(this.#job, work, context))
    this.log.push(`${isCheck ? 'check' : 'submit'}→${step.state}`)
    if (++this.#calls === this.killAfter) throw new Killed()
    if (step.state === 'final') this.receipt = step.receipt
    const next =
      step.state === 'waiting' ? 'broadcast' : step.state === 'busy' ? 'queued' : step.state
    const kept = 'work' in step ? step.work : work
    this.stored = { state: next, work: kept === null ? null : JSON.stringify(kept) }
    this.released = step.state === 'signed' && this.released
    return step
  }

  /** As one message of the queue does: until there is something to wait for. */
  async run(): Promise<RailStep> {
    for (let i = 0; i < 12; i++) {
      const step = await this.step()
      if (!['signed', 'orphaned', 'dropped'].includes(step.state)) return step
    }
    throw new Error(`no rest: ${this.log.join(' ')}`)
  }
}

/** The refusal of an attempt; anything else is a failure of the test. */
export async function rejection(run: () => Promise<unknown>): Promise<VaultMeshError> {
  const error: unknown = await run().then(
    (answer) => new Error(`not refused: ${JSON.stringify(answer)}`),
    (thrown: unknown) => thrown,
  )
  if (!(error instanceof VaultMeshError)) throw error
  return error
}
