/**
 * Who cosigns our log: the witnesses of peers, asked in the course of a visit, and foreign ones of the
 * configuration (`witness.witnesses`), asked beside the rounds. A seal never waits for them; what they sign
 * joins the checkpoint that the Sequencer serves.
 */

import { VaultMeshError } from '#core/errors.ts'
import { formatSignature, parseVkey, TYPE_COSIGNATURE } from '#core/signed-note.ts'
import { proveConsistency } from '#store/log.ts'
import { warn, type Context, type FederationState } from './federation-state.ts'
import { submitCheckpoint } from './witness-client.ts'

/** A foreign witness that failed is asked again after 2 s, 4 s, … an hour. */
const FIRST_WAIT_MS = 2000
const MAX_WAIT_MS = 3_600_000
/** Foreign witnesses asked at once: with four visits the platform's six connections are not passed. */
const FOREIGN_AT_ONCE = 1

/** A witness: its submission prefix and its key as a vkey. */
interface Witness {
  readonly url: string
  readonly vkey: string
}

export class Cosigners {
  readonly #state: FederationState
  readonly #waits = new Map<string, { failures: number; nextAt: number }>()
  readonly #underWay = new Set<string>()

  constructor(state: FederationState) {
    this.#state = state
  }

  /** Shows our newest checkpoint to a witness unless it has cosigned it; throws what it answered otherwise. */
  async ask({ node, config }: Context, { url, vkey }: Witness): Promise<void> {
    const { ledger, witness: store, env } = this.#state
    const own = ledger.log(node.config.origin)!
    const knownSize = store.knownSize(url, own.origin)
    if (own.tipSize === 0 || own.tipSize === knownSize || own.conflicts.length > 0) return
    const batch = ledger.canonical(own.origin, own.tipHeight)
    const witness = parseVkey(vkey)
    if (batch === null || witness.type !== TYPE_COSIGNATURE) return
    const learn = (size: number): void =>
      store.learnSize({ url, origin: own.origin, size, nowAt: Date.now() })
    try {
      const { cosignatures, size } = await submitCheckpoint({
        fetch: (to, init) => fetch(to, init),
        url,
        witness,
        note: batch.checkpoint,
        log: parseVkey(node.vkey),
        knownSize,
        prove: (from, to) => proveConsistency(env.BUCKET, { from, to, published: batch.treeSize }),
        timeoutMs: Math.min(config.timeoutMs, config.intervalMs),
      })
      await env.SEQUENCER.getByName('log').cosigned(
        batch.treeSize,
        batch.root,
        cosignatures.map(formatSignature),
      )
      learn(size)
    } catch (error) {
      if (error instanceof VaultMeshError && typeof error.extra['size'] === 'number') {
        learn(error.extra['size'])
      }
      throw error
    }
  }

  /** Asks the foreign witnesses that are due; returns at once. */
  askForeign(context: Context, nowAt: number): void {
    for (const witness of context.config.witnesses) {
      const { url } = witness
      if (this.#underWay.size >= FOREIGN_AT_ONCE) return
      if (this.#underWay.has(url) || (this.#waits.get(url)?.nextAt ?? 0) > nowAt) continue
      this.#underWay.add(url)
      void this.ask(context, witness)
        .then(
          () => this.#waits.delete(url),
          (error: unknown) => this.#wait(url, error),
        )
        .finally(() => this.#underWay.delete(url))
    }
  }

  #wait(url: string, error: unknown): void {
    const failures = (this.#waits.get(url)?.failures ?? 0) + 1
    const waitMs = Math.min(MAX_WAIT_MS, FIRST_WAIT_MS * 2 ** Math.min(failures - 1, 12))
    this.#waits.set(url, { failures, nextAt: Date.now() + waitMs })
    warn('a witness did not cosign', error)
  }
}
