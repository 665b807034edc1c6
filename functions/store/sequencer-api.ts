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
  /** The request that made it due, for the audit. */
  readonly requestId?: string
}

/** What a watcher sees of the seals (store/watch.ts). */
export interface SealWatch {
  /** True once the log was ended: what waits is the successor's. */
  readonly halted: boolean
  /** Of the newest sealed batch. */
  readonly height: number
  /** Events that wait for their seal. */
  readonly waiting: number
  /** When the oldest of them was accepted, epoch ms; null if none waits. */
  readonly oldestAt: number | null
  /** Those that were accepted before the moment asked for. */
  readonly overdue: number
  /** Batches sealed, and attempts that failed, since the moment asked for. */
  readonly sealed: number
  readonly failed: number
}

/** What ended a rebuild of the index. */
export interface IndexMended {
  /** Rows that lay beyond the log, or that nothing names. */
  readonly removed: number
  /** Anchor jobs that came back from the wallets. */
  readonly jobs: number
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
