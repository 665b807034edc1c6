/**
 * Who claimed an identity: an index from 53 bits of the identity's HMAC to the sequence number of the event.
 *
 * A claim is durable with the segment that holds its digests. The table `claim` is an index over them that
 * follows behind: claims gather in memory and are merged in key order, because a random insert dirties a
 * page of 4 KiB for each row (measured: 13 µs an event) and a sorted merge one for many rows. Every event
 * from `claimed` on is in memory, and a restart reads it back from the segments.
 *
 * Keys that collide probe onwards. Claims are never deleted, so a probe that met only older claims when it
 * was made meets the same ones for ever: lookup, and the rebuild after a restart, end at the same key.
 */

import { HASH_KEYS, hashKey } from '#core/hash-key.ts'

/** Claims gathered before they are merged: 32,768 × ≈ 60 B = 2 MB, twice while merging. */
const MERGE_AT = 32_768
/** Claims merged by one commit: over 1 M rows ≈ 300 pages, 8 ms (measured). */
const MERGE_ROWS = 2048

/** The table; `meta` row `claimed`: every event below it is in the table. */
export const CLAIM_SCHEMA =
  'CREATE TABLE IF NOT EXISTS claim (key INTEGER PRIMARY KEY, seq INTEGER NOT NULL);'

/** Claims on their way into the table, in key order. */
interface Merge {
  readonly seqs: ReadonlyMap<number, number>
  readonly keys: Float64Array
  done: number
  /** Every event below it is in the table once this merge is done. */
  readonly upTo: number
}

/** The index of one Pool shard. */
export class ClaimIndex {
  readonly #sql: SqlStorage
  #fresh = new Map<number, number>()
  #merging: Merge | null = null

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  /** Who holds a probed key: in memory, or in the table. */
  holder(key: number): number | null {
    const fresh = this.#fresh.get(key) ?? this.#merging?.seqs.get(key)
    if (fresh !== undefined) return fresh
    const row = this.#sql
      .exec<{ seq: number }>('SELECT seq FROM claim WHERE key = ?', key)
      .toArray()[0]
    return row?.seq ?? null
  }

  /** The keys of `n` digests of `stride` bytes if none of them is taken and no two are equal, else null. */
  free(digests: Uint8Array, n: number, stride: number): number[] | null {
    const keys: number[] = []
    const own = new Set<number>()
    let json = '['
    for (let i = 0; i < n; i++) {
      const key = hashKey(digests, i * stride)
      if (own.has(key) || this.#fresh.has(key) || this.#merging?.seqs.has(key) === true) return null
      own.add(key)
      keys.push(key)
      json += (i === 0 ? '' : ',') + key
    }
    // One look-up for the whole group; nearly always it finds nothing.
    const taken = this.#sql.exec(
      'SELECT 1 FROM json_each(?1) j CROSS JOIN claim c ON c.key = j.value LIMIT 1',
      `${json}]`,
    )
    return taken.next().done === true ? keys : null
  }

  /** Adds claims in memory, once the transaction that stored their digests is done. */
  add(keys: readonly number[], firstSeq: number): void {
    for (const [i, key] of keys.entries()) this.#fresh.set(key, firstSeq + i)
  }

  /** Reads a claim back after a restart, probed as it was when it was made. */
  addAgain(digest: Uint8Array, at: number, seq: number): void {
    let key = hashKey(digest, at)
    for (;;) {
      const holder = this.holder(key)
      if (holder === null || holder === seq) break
      key = (key + 1) % HASH_KEYS
    }
    this.#fresh.set(key, seq)
  }

  /** Merges the next claims in key order, inside the caller's transaction; `merged` must follow it. */
  mergeSome(): void {
    if (this.#merging === null) return
    const { keys, seqs, done, upTo } = this.#merging
    const end = Math.min(done + MERGE_ROWS, keys.length)
    let rows = '['
    for (let i = done; i < end; i++)
      rows += `${i === done ? '' : ','}[${keys[i]!},${seqs.get(keys[i]!)!}]`
    this.#sql.exec(
      'INSERT INTO claim (key, seq) SELECT value->>0, value->>1 FROM json_each(?1) WHERE true ON CONFLICT DO NOTHING',
      `${rows}]`,
    )
    if (end === keys.length) {
      this.#sql.exec(
        "INSERT INTO meta (k, v) VALUES ('claimed', ?1) ON CONFLICT (k) DO UPDATE SET v = excluded.v",
        upTo,
      )
    }
  }

  /** The memory half of `mergeSome`, once its transaction is done. `nextSeq` is one past the newest event. */
  merged(nextSeq: number): void {
    if (this.#merging !== null) {
      this.#merging.done = Math.min(this.#merging.done + MERGE_ROWS, this.#merging.keys.length)
      if (this.#merging.done === this.#merging.keys.length) this.#merging = null
    } else if (this.#fresh.size >= MERGE_AT) {
      const seqs = this.#fresh
      this.#merging = { seqs, keys: Float64Array.from(seqs.keys()).sort(), done: 0, upTo: nextSeq }
      this.#fresh = new Map()
    }
  }

  /** Claims in all: those in the table below `claimed`, and those in memory. */
  count(claimed: number): number {
    const { n } = this.#sql
      .exec<{ n: number }>('SELECT count(*) AS n FROM claim WHERE seq < ?', claimed)
      .one()
    return n + this.#fresh.size + (this.#merging?.keys.length ?? 0)
  }
}
