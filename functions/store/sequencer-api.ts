/**
 * What the Sequencer tells others.
 */

/** The head as readers see it. */
export interface Head {
  readonly height: number
  readonly size: number
  /** 64 hex digits. */
  readonly root: string
  /** Signed note. */
  readonly checkpoint: string
  readonly sealedAt: number
  /** Heights whose index rows are written. */
  readonly indexedHeight: number
}

/** What one call of `seal` did. */
export interface SealReport {
  readonly batches: number
  readonly events: number
  readonly height: number
  /** Milliseconds from assignment to head swap, and for the index after it, over all batches. */
  readonly sealMs: number
  readonly indexMs: number
}

/** What is anchored now, and by which jobs of the outbox. */
export interface AnchorReport {
  /** 0x and 64 hex digits. */
  readonly root: string
  readonly treeSize: number
  readonly jobs: readonly number[]
}

/** The reference that travels on `seal`. */
export interface SealMessage {
  readonly reason: 'due' | 'replay'
  /** The batch that is due: it names the work, the Sequencer looks for itself. */
  readonly height?: number
}

/** How a log stands that may have been ended. */
export interface Standing {
  /** Why it seals nothing any more; null while it grows. */
  readonly halted: string | null
  readonly height: number
  readonly size: number
  /** By shard, up to where its events are sealed. */
  readonly cursors: readonly number[]
  /** True once nothing that was begun is unfinished, and no pool takes events any more. */
  readonly settled: boolean
}
