/**
 * Which provider is asked next, by what became of earlier calls (design §6 "Route").
 *
 * Success and latency are exponentially weighted means over about ten calls. After three failures in a
 * row a circuit opens: that provider is skipped for 30 s, then probed by one call; each failed probe doubles the pause up to
 * 10 min. If everybody's circuit is open the one whose pause ends first is asked all the same: waiting helps
 * nobody. The numbers live in D1 (they explain /anchors/status), one row for each provider, written at the end of a step;
 * a lost write costs a little knowledge and nothing else.
 */

import { VaultMeshError } from '#core/errors.ts'
import {
  loadProviders,
  saveProviders,
  scoreOf,
  type ProviderRecord,
  type RailName,
} from '#store/providers.ts'
import type { Provider, Route } from './rail.ts'

/** Weight of the newest call: 1 − 0.8^10 ≈ 0.9 of the mean is the last ten calls. */
const WEIGHT = 0.2
const OPEN_AFTER = 3
const FIRST_PAUSE_MS = 30_000
const LONGEST_PAUSE_MS = 600_000

/** A route that remembers, for the calls of one step on one rail. */
export class RememberedRoute implements Route {
  readonly #records: Map<string, ProviderRecord>
  readonly #now: () => number
  /** Who was asked last and why; in an outage that is who did not answer. */
  chosen: { readonly name: string; readonly why: string } | null = null

  constructor(records: readonly ProviderRecord[], now: () => number) {
    this.#records = new Map(records.map((record) => [record.name, record]))
    this.#now = now
  }

  /** The route of a rail as D1 knows it. */
  static async load(db: D1Database, rail: RailName, now: () => number): Promise<RememberedRoute> {
    return new RememberedRoute(await loadProviders(db, rail), now)
  }

  /** Writes what was learnt. */
  async save(db: D1Database, rail: RailName): Promise<void> {
    await saveProviders(db, rail, [...this.#records.values()], this.#now())
  }

  async first<P extends Provider, T>(
    providers: readonly P[],
    call: (provider: P) => Promise<T>,
  ): Promise<T> {
    let last: unknown = new VaultMeshError('anchor-failed', 'No provider is configured.')
    for (const { provider, why } of this.#ordered(providers)) {
      this.chosen = { name: provider.name, why }
      try {
        return await this.#timed(provider, call)
      } catch (error) {
        last = error
      }
    }
    throw last
  }

  async all<P extends Provider, T>(
    providers: readonly P[],
    call: (provider: P) => Promise<T>,
  ): Promise<readonly T[]> {
    const answers = await Promise.allSettled(providers.map((p) => this.#timed(p, call)))
    const why = providers.length > 1 ? 'all of them must agree' : 'the only one configured'
    this.chosen = { name: providers.map((p) => p.name).join(', '), why }
    return answers.map((answer) => {
      if (answer.status === 'rejected') throw answer.reason as Error
      return answer.value
    })
  }

  /** Best first; those whose circuit is open last, the one that closes first before the others. */
  #ordered<P extends Provider>(providers: readonly P[]): { provider: P; why: string }[] {
    const nowAt = this.#now()
    const rated = providers.map((provider) => {
      const record = this.#records.get(provider.name)
      return { provider, record, isOpen: (record?.openUntil ?? 0) > nowAt, score: scoreOf(record) }
    })
    rated.sort(
      (a, b) =>
        Number(a.isOpen) - Number(b.isOpen) ||
        (a.isOpen ? a.record!.openUntil - b.record!.openUntil : b.score - a.score),
    )
    return rated.map(({ provider, record, isOpen, score }, i) => {
      if (providers.length === 1) return { provider, why: 'the only one configured' }
      if (isOpen) return { provider, why: 'every circuit is open, this one closes first' }
      if (i > 0) return { provider, why: 'a better one failed just now' }
      return {
        provider,
        why: record === undefined ? 'not tried yet' : `best score ${score.toFixed(2)}`,
      }
    })
  }

  async #timed<P extends Provider, T>(provider: P, call: (p: P) => Promise<T>): Promise<T> {
    const from = this.#now()
    try {
      const answer = await call(provider)
      this.#note(provider.name, this.#now() - from, null)
      return answer
    } catch (error) {
      const known =
        error instanceof VaultMeshError
          ? error
          : new VaultMeshError('anchor-failed', `${provider.name} could not be asked.`, {
              cause: error,
            })
      this.#note(provider.name, this.#now() - from, known.message)
      throw known
    }
  }

  #note(name: string, latencyMs: number, failure: string | null): void {
    const before = this.#records.get(name) ?? { ...NEW, name }
    const failures = failure === null ? 0 : before.failures + 1
    const pause = FIRST_PAUSE_MS * 2 ** Math.min(10, failures - OPEN_AFTER)
    this.#records.set(name, {
      name,
      success: mean(before.success, failure === null ? 1 : 0),
      latencyMs: failure === null ? mean(before.latencyMs, latencyMs) : before.latencyMs,
      calls: before.calls + 1,
      failures,
      openUntil: failures < OPEN_AFTER ? 0 : this.#now() + Math.min(LONGEST_PAUSE_MS, pause),
      lastError: failure ?? before.lastError,
    })
  }
}

const NEW = { success: 1, latencyMs: 0, calls: 0, failures: 0, openUntil: 0, lastError: null }

function mean(before: number, now: number): number {
  return before + WEIGHT * (now - before)
}
