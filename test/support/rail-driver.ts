/**
 * The orchestrator's part in a rail's life, small enough to be killed between any two steps.
 *
 * A row keeps state and `work` as D1 does, through JSON. One `step` calls the rail once and stores what
 * comes back; `loseNext` throws the answer away instead, which is what a crash leaves behind. Time is a
 * number that tests move.
 */

import type { AnchorReceipt, AnchorVerdict } from '#core/anchor-receipt.ts'
import { VaultMeshError } from '#core/errors.ts'
import type {
  AnchorJob,
  Provider,
  Rail,
  RailContext,
  RailStep,
  Route,
  Work,
} from '../../queues/anchors/rail.ts'

/** Asks in the order given; the product's route remembers more and decides the same way. */
export const plainRoute: Route = {
  async first(providers, call) {
    let last: unknown = new VaultMeshError('anchor-failed', 'No provider.')
    for (const provider of providers) {
      try {
        return await call(provider)
      } catch (error) {
        last = error
      }
    }
    throw last
  },
  all: <P extends Provider, T>(providers: readonly P[], call: (p: P) => Promise<T>) =>
    Promise.all(providers.map(call)),
}

export type RowState = Exclude<RailStep['state'], 'busy' | 'waiting'> | 'queued' | 'broadcast'

/** One row of the outbox and the loop around it. */
export class Row {
  state: RowState = 'queued'
  work: string | null = null
  receipt: AnchorReceipt | null = null
  reason: string | null = null
  /** States in their order, without repetitions. */
  readonly history: string[] = ['queued']
  released = false
  now = Date.UTC(2026, 10, 23)
  readonly #rail: Rail
  job: AnchorJob

  constructor(rail: Rail, job: AnchorJob) {
    this.#rail = rail
    this.job = job
  }

  /** What the next call of the rail is, as rail.ts says; a held row is submitted again each minute. */
  async #call(): Promise<RailStep> {
    const { released } = this
    this.released = false
    const context = { ...this.#context(), released }
    const work = this.work === null ? null : (JSON.parse(this.work) as Work)
    if (work !== null && (this.state === 'broadcast' || this.state === 'included')) {
      return this.#rail.check(this.job, work, context)
    }
    return this.#rail.submit(this.job, work, context)
  }

  /** The rail's verdict about the receipt. */
  verify(): Promise<AnchorVerdict> {
    if (this.receipt === null) throw new Error('no receipt yet')
    return this.#rail.verify(this.receipt, this.#context())
  }

  #context(): RailContext {
    return {
      fetch: () => Promise.reject(new Error('rails reach the chain through their clients')),
      route: plainRoute,
      now: () => this.now,
      random: (n) => crypto.getRandomValues(new Uint8Array(n)),
      released: false,
    }
  }

  /** One call; its result is stored unless `isKilled`: then the process died before it could be. */
  async step(isKilled = false): Promise<RailStep> {
    const result = await this.#call()
    this.now += 1000
    if (isKilled || result.state === 'busy') return result
    if (result.state === 'final') this.receipt = result.receipt
    if ('work' in result) this.work = result.work === null ? null : JSON.stringify(result.work)
    this.reason = 'reason' in result ? (result.reason ?? null) : null
    this.state = result.state === 'waiting' ? 'broadcast' : result.state
    if (this.history.at(-1) !== this.state) this.history.push(this.state)
    return result
  }

  /** Steps until `done`; `between` moves the world. Gives up after `most` steps. */
  async until(
    done: (row: this) => boolean,
    between: (step: RailStep) => Promise<unknown> = async () => {},
    most = 60,
  ): Promise<this> {
    for (let i = 0; i < most; i++) {
      const step = await this.step()
      if (done(this)) return this
      await between(step)
    }
    throw new Error(`after ${most} steps: ${this.history.join(' → ')} (${this.reason ?? ''})`)
  }
}
