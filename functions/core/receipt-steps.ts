/**
 * The steps of a receipt's checks, for who wants to see each hash: what was computed from what, and what was
 * held against what. Hashes are lowercase hex.
 *
 *   event       event-hash {bytes, computed, expected}, event-form, event-signature {alg, signer, signed}, event-names {id, source}
 *   checkpoint  note, log-key {origin, signedBy}, log-signature {key}, tree-head {treeSize, root, claimedSize, claimedRoot}
 *   inclusion   leaf-hash {eventHash, leafHash}, path {leafIndex, treeSize, hashes},
 *               node-hash {level, left, right, result, sibling} for each level, root {computed, expected}
 *   anchor …    anchored-root {root, anchored, treeSize} or consistency {root, from, anchored, to, hashes},
 *               proof {kind, check} for each check of the proof, outside-time {…} with what the proof says
 *
 * A step is noted before its test is made. So of a check that failed the last step is the one that failed, and
 * those before it hold; steps judge nothing themselves.
 */

/** What a step is. */
export type StepName =
  | 'event-hash'
  | 'event-form'
  | 'event-signature'
  | 'event-names'
  | 'note'
  | 'log-key'
  | 'log-signature'
  | 'tree-head'
  | 'leaf-hash'
  | 'path'
  | 'node-hash'
  | 'root'
  | 'anchored-root'
  | 'consistency'
  | 'proof'
  | 'outside-time'

/** What a step was made of, by the names above. */
export type StepValues = Readonly<Record<string, string | number>>

/** One act of a check. */
export interface Step {
  readonly name: StepName
  readonly ok: boolean
  readonly values: StepValues
}

/** The steps of one check while it is made. */
export class Trail {
  readonly #begun: Omit<Step, 'ok'>[] = []

  /** Notes a step; its test comes next and throws if it fails. */
  begin(name: StepName, values: StepValues = {}): void {
    this.#begun.push({ name, values })
  }

  /** The steps of a check that is over; `held` is false if the last one's test threw. */
  end(held: boolean): readonly Step[] {
    const last = this.#begun.length - 1
    return this.#begun.map((step, i) => ({ ...step, ok: held || i < last }))
  }
}
