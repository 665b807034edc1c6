/**
 * Events of `respond-async` before their signature is checked: bytes by eventHash, no claim, at most 24 h.
 *
 * They come from nobody in particular, so their number and size are bounded, and what is settled keeps only
 * a row that says how.
 */

import { VaultMeshError } from '#core/errors.ts'
import type { PoolStatus } from '#store/pool-api.ts'

/** Unverified events that may wait, and their bytes. */
const MAX_WAITING = 20_000
const MAX_WAITING_BYTES = 256_000_000
/** Rows of events whose check is over, kept so that their status can be asked; then the oldest go. */
const MAX_SETTLED = 100_000
/** Settled rows dropped at once. */
const DROP = 1000
/** How long an unverified event may wait for its signature check. */
const TTL_MS = 86_400_000

/** The table; `data` is null once the event is settled. */
export const RECEIVED_SCHEMA = `
CREATE TABLE IF NOT EXISTS received (event_hash TEXT PRIMARY KEY, received_at INTEGER NOT NULL,
  state TEXT NOT NULL, data BLOB, code TEXT, detail TEXT, first BLOB) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS received_waiting ON received (received_at) WHERE state = 'received';
CREATE INDEX IF NOT EXISTS received_age ON received (received_at);`

/** How a received event ended. */
export interface Settlement {
  readonly state: 'accepted' | 'duplicate' | 'rejected'
  /** The event that stands, for a duplicate. */
  readonly first: Uint8Array | null
  readonly code: string | null
  readonly detail: string | null
}

/** The received events of one Pool shard. */
export class ReceivedStore {
  readonly #sql: SqlStorage
  /** Counted once, then in memory: a count in SQL would read every row for each request. */
  #count: { waiting: number; bytes: number; settled: number } | null = null

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  /** Keeps an event; returns when it was first received. Throws `overloaded` when too many wait. */
  keep(eventHash: string, data: Uint8Array, nowAt: number): number {
    const there = this.#sql
      .exec<{ at: number }>(
        'SELECT received_at AS at FROM received WHERE event_hash = ?',
        eventHash,
      )
      .toArray()[0]
    if (there !== undefined) return there.at
    this.#count ??= this.#sql
      .exec<{ waiting: number; bytes: number; settled: number }>(
        'SELECT count(data) AS waiting, coalesce(sum(length(data)), 0) AS bytes, count(*) - count(data) AS settled FROM received',
      )
      .one()
    if (this.#count.waiting >= MAX_WAITING || this.#count.bytes + data.length > MAX_WAITING_BYTES) {
      throw new VaultMeshError('overloaded', 'Too many events wait for their signature check.')
    }
    this.#sql.exec(
      "INSERT INTO received (event_hash, received_at, state, data) VALUES (?, ?, 'received', ?)",
      eventHash,
      nowAt,
      data,
    )
    this.#count.waiting++
    this.#count.bytes += data.length
    return nowAt
  }

  /** How many events wait for their check. */
  waiting(): number {
    return this.#sql
      .exec<{ n: number }>("SELECT count(*) AS n FROM received WHERE state = 'received'")
      .one().n
  }

  /** The bytes of an event that still waits for its check; null if it is settled or unknown. */
  bytes(eventHash: string): Uint8Array | null {
    const row = this.#sql
      .exec<{ data: ArrayBuffer | null }>(
        "SELECT data FROM received WHERE event_hash = ? AND state = 'received'",
        eventHash,
      )
      .toArray()[0]
    return row?.data == null ? null : new Uint8Array(row.data)
  }

  /** Ends an event; may be part of the caller's transaction, then `released` must follow it. */
  settle(eventHash: string, { state, first, code, detail }: Settlement): void {
    this.#sql.exec(
      'UPDATE received SET state = ?2, data = NULL, first = ?3, code = ?4, detail = ?5 WHERE event_hash = ?1',
      eventHash,
      state,
      first,
      code,
      detail,
    )
  }

  /** The memory half of `settle`. */
  released(bytes: number): void {
    if (this.#count === null) return
    this.#count.waiting--
    this.#count.bytes -= bytes
    if (++this.#count.settled <= MAX_SETTLED) return
    this.#sql.exec(
      `DELETE FROM received WHERE event_hash IN (SELECT event_hash FROM received WHERE state <> 'received' ORDER BY received_at LIMIT ${DROP})`,
    )
    this.#count.settled -= DROP
  }

  /** Where an event stands, if it came this way. */
  status(eventHash: string): PoolStatus | null {
    const row = this.#sql
      .exec<{
        received_at: number
        state: string
        code: string | null
        detail: string | null
        first: ArrayBuffer | null
      }>(
        'SELECT received_at, state, code, detail, first FROM received WHERE event_hash = ?',
        eventHash,
      )
      .toArray()[0]
    if (row === undefined) return null
    return {
      state: row.state as PoolStatus['state'],
      receivedAt: row.received_at,
      first: row.first === null ? null : new Uint8Array(row.first),
      code: row.code,
      detail: row.detail,
    }
  }

  /** Drops what is too old and returns hashes that still wait, at most 100: one queue batch. */
  sweep(nowAt: number): string[] {
    this.#sql.exec('DELETE FROM received WHERE received_at < ?', nowAt - TTL_MS)
    this.#count = null
    return this.#sql
      .exec<{ event_hash: string }>(
        "SELECT event_hash FROM received WHERE state = 'received' ORDER BY received_at LIMIT 100",
      )
      .toArray()
      .map((row) => row.event_hash)
  }
}
