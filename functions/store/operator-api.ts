/**
 * What /admin answers to the commands of an operator.
 */

/** A dead letter as an operator sees it. */
export interface ExplainedLetter {
  readonly id: string
  /** Eight hex digits, to call it by. */
  readonly name: string
  readonly queue: string
  /** The message as JSON. */
  readonly body: string
  readonly receivedAt: number
  /** What it asked for. */
  readonly work: string
  /** True if that is done, null if it cannot be told. */
  readonly done: boolean | null
  /** Why it failed, as far as that is known. */
  readonly why: string | null
}
