/**
 * What a check found, gathered: one sentence each, and no more of them than an answer should hold.
 */

/** What a check found. */
export interface Findings {
  readonly findings: readonly string[]
  readonly facts: Readonly<Record<string, string | number | boolean>>
}

/** Sentences in one answer: garbage of a whole batch would have one for each event. */
const MAX_FINDINGS = 1000

/** Findings on their way into an answer. */
export class Notes {
  readonly #said: string[] = []
  #more = 0

  /** Findings so far. */
  get count(): number {
    return this.#said.length + this.#more
  }

  /** Adds a finding. */
  say(finding: string): void {
    if (this.#said.length < MAX_FINDINGS) this.#said.push(finding)
    else this.#more++
  }

  /**
   * Runs a check of values at hand; what it throws is a finding that begins with `what`. Not for code that
   * reads a store: that one is away is no finding.
   */
  async attempt<T>(what: string, check: () => T | Promise<T>): Promise<T | null> {
    try {
      return await check()
    } catch (error) {
      this.say(`${what}: ${error instanceof Error ? error.message : String(error)}`)
      return null
    }
  }

  /** The answer. */
  with(facts: Findings['facts']): Findings {
    const findings = [...this.#said]
    if (this.#more > 0) findings.push(`There are ${this.#more} findings more.`)
    return { findings, facts }
  }
}
