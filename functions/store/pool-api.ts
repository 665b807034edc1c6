/**
 * What crosses the wire between intake and a Pool shard.
 *
 * A group travels as three flat buffers, not as one object an event: structured cloning of 1,000 small
 * objects costs more than storing them (measured).
 */

/** Events that are verified and ask for their claim, all of one shard. */
export interface AdmitGroup {
  /** Length in bytes of each event. */
  readonly lengths: Uint32Array
  /** The events' bytes, one after another. */
  readonly data: Uint8Array
  /** 96 bytes an event: identity ‖ signingHash ‖ eventHash. */
  readonly digests: Uint8Array
}

/** What became of an event of a group. */
export const outcome = { accepted: 0, duplicate: 1, conflict: 2, erased: 3 } as const

/** The first event under an identity that was posted again; of an erased one the `vm.erased` event. */
export interface FirstAnswer {
  readonly eventHash: Uint8Array
  readonly receivedAt: number
}

/** An event that is to be forgotten, all but its hash and the HMAC of its identity. */
export interface Forgotten {
  readonly eventHash: Uint8Array
  /** HMAC of its identity; null where that is not known any more. */
  readonly identity: Uint8Array | null
  /** Hash of the `vm.erased` event. */
  readonly erasedBy: Uint8Array
}

/** The answer to a group; it arrives only after everything in it is durable. */
export interface AdmitResult {
  readonly receivedAt: number
  /** Sequence number of the shard's newest event; -1 if it has none. */
  readonly lastSeq: number
  /** Null if every event was accepted, else what became of each and who came first, by position. */
  readonly repeats: {
    /** One value of `outcome` an event. */
    readonly outcomes: Uint8Array
    readonly first: ReadonlyMap<number, FirstAnswer>
  } | null
}

/** A run of waiting events. */
export interface PoolSlice {
  readonly count: number
  readonly lengths: Uint32Array
  readonly data: Uint8Array
  /** 32 bytes an event. */
  readonly eventHashes: Uint8Array
}

/** What a shard holds after a cursor. */
export interface PoolPeek {
  /** One past the newest sequence number. */
  readonly nextSeq: number
  /** When the first event at or after the cursor became durable; null if there is none. */
  readonly oldestAt: number | null
}

/** Where an event stands that is not in the index. */
export interface PoolStatus {
  readonly state: 'accepted' | 'received' | 'duplicate' | 'rejected'
  readonly receivedAt: number
  /** Of a duplicate: the event that stands. */
  readonly first: Uint8Array | null
  /** Of a rejected one: the problem's code and detail. */
  readonly code: string | null
  readonly detail: string | null
}

/** The reference that travels on `events-intake`. */
export interface IntakeMessage {
  readonly shard: number
  readonly eventHash: string
  /** The request that brought it, for the audit; a message that was sent again has none. */
  readonly requestId?: string
}

/** The reference that travels on `events-validated`. */
export interface ValidatedMessage {
  readonly shard: number
  /** The request whose commit sent it, for the audit. */
  readonly requestId?: string
}
