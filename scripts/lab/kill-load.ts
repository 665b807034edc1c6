/**
 * The load of the kill test: clients that post without a pause, in every way there is, to a node that dies under them.
 *
 * They remember what was answered 2xx: that must never be lost. What got no answer they ask again later, as the
 * protocol tells them to, and some of what was answered as well: the answer must be the first one.
 */

import { setTimeout as sleep } from 'node:timers/promises'
import { createSigner, eventHashOf, sign, type Alg, type EventSigner } from '../../functions/sdk.ts'

const ALGS: readonly Alg[] = ['EdDSA', 'ES256', 'ES256K']
/** Events of one bulk. */
const MAX_BULK = 60
/** Between two requests of one client: a steady load that leaves the machine room to start nodes. */
const PAUSE_MS = 60
/** A node that is down is asked again after this time. */
const DOWN_MS = 30
/** A request that gets no answer in this time gets none. */
const TIMEOUT_MS = 15_000

interface Result {
  readonly eventHash?: string
  readonly problem?: { readonly title?: string; readonly detail?: string }
}

/** Clients of one node. */
export class Load {
  /** eventHash of everything that was answered 2xx. */
  readonly accepted = new Set<string>()
  /** eventHash of everything that was signed, answered or not. */
  readonly signed = new Set<string>()
  /** What was answered otherwise than promised, one sentence each. */
  readonly wrong: string[] = []
  /** eventHash of what was asked again because no answer had come. */
  readonly repeated = new Set<string>()
  readonly #url: string
  readonly #random: () => number
  readonly #signers: readonly EventSigner[]
  #unanswered: string[][] = []
  #recent: string[] = []
  #isDown = false
  #n = 0

  private constructor(url: string, random: () => number, signers: readonly EventSigner[]) {
    this.#url = url
    this.#random = random
    this.#signers = signers
  }

  /** Clients that draw from `random`. */
  static async create(url: string, random: () => number): Promise<Load> {
    const signers = await Promise.all(
      ALGS.map((alg) => {
        const secret = Uint8Array.from({ length: 32 }, () => 1 + Math.floor(random() * 254))
        return createSigner({ alg, secret })
      }),
    )
    return new Load(url, random, signers)
  }

  /** Posts until it is told to stop. */
  async run(signal: AbortSignal): Promise<void> {
    while (!signal.aborted) {
      this.#isDown = !(await this.#step())
      await sleep(this.#isDown ? DOWN_MS : PAUSE_MS)
    }
  }

  /** Asks again for all that has no answer yet; true once there is none left. */
  async askAgain(): Promise<boolean> {
    const groups = this.#unanswered
    this.#unanswered = []
    for (const lines of groups) {
      for (const jws of lines) this.repeated.add(eventHashOf(jws))
      await this.#bulk(lines)
    }
    return this.#unanswered.length === 0
  }

  /** One request; false if no answer came. While the node is down nothing new comes to be. */
  async #step(): Promise<boolean> {
    const dice = this.#isDown && this.#unanswered.length > 0 ? 0.35 : this.#random()
    if (dice < 0.15) return this.#single(await this.#event(), {})
    if (dice < 0.25) return this.#single(await this.#event(), { prefer: 'respond-async' })
    if (dice < 0.3) return this.#single(await this.#event(), { prefer: 'wait=2' })
    if (dice < 0.4) {
      const [lines] = this.#unanswered.splice(
        Math.floor(this.#random() * this.#unanswered.length),
        1,
      )
      if (lines !== undefined) {
        for (const jws of lines) this.repeated.add(eventHashOf(jws))
        return this.#bulk(lines)
      }
    }
    if (dice < 0.5 && this.#recent.length > 0) return this.#bulk(this.#recent.slice(-MAX_BULK))
    const count = 1 + Math.floor(this.#random() * MAX_BULK)
    return this.#bulk(await Promise.all(Array.from({ length: count }, () => this.#event())))
  }

  async #event(): Promise<string> {
    const signer = this.#signers[Math.floor(this.#random() * this.#signers.length)]!
    const jws = await sign(signer, { id: `kill-${this.#n++}`, type: 'vm.lab.event' })
    this.signed.add(eventHashOf(jws))
    return jws
  }

  async #single(jws: string, headers: Record<string, string>): Promise<boolean> {
    try {
      const response = await fetch(`${this.#url}/events`, {
        method: 'POST',
        headers: { 'content-type': 'application/jose', ...headers },
        body: jws,
        signal: AbortSignal.timeout(TIMEOUT_MS),
      })
      // The status is the answer, whether its body still comes or not.
      if (response.ok) this.#take([jws])
      else this.#refused([jws], response.status, `one event is answered ${response.status}`)
      await response.arrayBuffer()
      return true
    } catch {
      if (!this.accepted.has(eventHashOf(jws))) this.#unanswered.push([jws])
      return false
    }
  }

  async #bulk(lines: readonly string[]): Promise<boolean> {
    try {
      const response = await fetch(`${this.#url}/events`, {
        method: 'POST',
        headers: { 'content-type': 'application/x-ndjson' },
        body: lines.join('\n'),
        signal: AbortSignal.timeout(TIMEOUT_MS),
      })
      if (!response.ok) {
        this.#refused(lines, response.status, `a bulk is answered ${response.status}`)
        await response.arrayBuffer()
        return true
      }
      const { results } = (await response.json()) as { readonly results: readonly Result[] }
      const taken: string[] = []
      const left: string[] = []
      for (const [i, jws] of lines.entries()) {
        const { eventHash, problem } = results[i] ?? {}
        if (eventHash === eventHashOf(jws)) taken.push(jws)
        else {
          left.push(jws)
          if (problem === undefined || this.accepted.has(eventHashOf(jws)))
            this.wrong.push(`a line is answered ${JSON.stringify(results[i] ?? null)}`)
        }
      }
      this.#take(taken)
      if (left.length > 0) this.#unanswered.push(left)
      return true
    } catch {
      const left = lines.filter((jws) => !this.accepted.has(eventHashOf(jws)))
      if (left.length > 0) this.#unanswered.push(left)
      return false
    }
  }

  #take(lines: readonly string[]): void {
    for (const jws of lines) this.accepted.add(eventHashOf(jws))
    this.#recent = [...this.#recent, ...lines].slice(-2 * MAX_BULK)
  }

  /** A node that starts or stops may say so by a 5xx; to be refused for good is wrong. */
  #refused(lines: readonly string[], status: number, sentence: string): void {
    this.#unanswered.push([...lines])
    if (status < 500) this.wrong.push(sentence)
  }
}
