/**
 * Pool: one shard of accepted events. Nothing is answered 2xx before it is durable here.
 *
 * Stored:
 *   segment(first_seq)    for good: digests (identity ‖ signingHash ‖ eventHash) of one group commit
 *   claim(key → seq)      for good: who claimed an identity (claim-index.ts)
 *   bytes(first_seq)      until sealed and indexed: the events themselves
 *   received(event_hash)  ≤ 24 h: respond-async events before their check (received-store.ts)
 *   erased(event_hash)    for good: events whose bytes are gone, and which event took them; whoever posts one of
 *                         these, or other content under its identity, is told so
 *   meta                  shard number and shard count, `forgotten`, `claimed`, `closed` once the log was ended
 *
 * Invariant: forgotten ≤ the Sequencer's cursor for this shard ≤ nextSeq, and bytes exist exactly for
 * segments that end above `forgotten`. Sequence numbers are dense, so a cursor names a set of events.
 *
 * RPCs: admit, claimed, receive, receivedBytes, settle, reject (intake) · peek, countBefore, read, forget (Sequencer) ·
 * status, bytes (reads) · close, unchecked (Sequencer, successor) · erase (store/erasures.ts) · sweep, audit.
 * Races: `admit` runs without an await, so the input gate lets nothing in between look-up and claim; the
 * output gate holds its answer until the commit is on disk. A segment is one row for a whole group
 * because the commit, not the row, is the cost (one fsync a commit, measured).
 */

import { DurableObject } from 'cloudflare:workers'
import { equal, fromHex, join, toHex } from '#core/bytes.ts'
import { VaultMeshError, type Code } from '#core/errors.ts'
import { HASH_KEYS, hashKey } from '#core/hash-key.ts'
import { sha256 } from '#core/sha256.ts'
import { count, observe } from '#store/metrics.ts'
import {
  outcome,
  type AdmitGroup,
  type AdmitResult,
  type FirstAnswer,
  type Forgotten,
  type PoolPeek,
  type PoolSlice,
  type PoolStatus,
} from '#store/pool-api.ts'
import { causedBy, keepsTrail, trail } from '#store/trail.ts'
import { CLAIM_SCHEMA, ClaimIndex } from './claim-index.ts'
import { RECEIVED_SCHEMA, ReceivedStore, type Settlement } from './received-store.ts'

const DIGEST = 96
/** Bytes of one stored row: the platform allows 2 MB, digests of 1,000 small events add 96 kB. */
const SEGMENT_BYTES = 1_000_000
/** Events of one row, so that its digests stay ≤ 384 kB. */
const SEGMENT_EVENTS = 4000
/** At most one wake-up message in this time: a message is a hint, not a count. */
const WAKE_EVERY_MS = 250
/** The durable wake-up behind the queue's: how long a lost message can delay a seal. */
const ALARM_AFTER_MS = 10_000

const SCHEMA = `
CREATE TABLE IF NOT EXISTS meta (k TEXT PRIMARY KEY, v INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS segment (first_seq INTEGER PRIMARY KEY, count INTEGER NOT NULL,
  received_at INTEGER NOT NULL, digests BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS bytes (first_seq INTEGER PRIMARY KEY, lengths BLOB NOT NULL, data BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS erased (event_hash BLOB PRIMARY KEY, erased_by BLOB NOT NULL) WITHOUT ROWID;`

type Blob = ArrayBuffer

export class Pool extends DurableObject<Env> {
  #nextSeq = 0
  #forgotten = 0
  /** eventHash key → waiting sequence numbers; a cache of `segment` above `forgotten`. */
  #waiting = new Map<number, number | number[]>()
  readonly #claims: ClaimIndex
  readonly #received: ReceivedStore
  /** eventHash keys of the erased ones: nearly always none, and then nobody asks the table. */
  #erased = new Set<number>()
  #wokenAt = 0
  #wakeTimer = false
  #alarmSet = false
  #closed = false

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    const { sql } = ctx.storage
    for (const schema of [SCHEMA, CLAIM_SCHEMA, RECEIVED_SCHEMA]) sql.exec(schema)
    this.#claims = new ClaimIndex(sql)
    this.#received = new ReceivedStore(sql)
    this.#load()
  }

  #load(): void {
    const sql = this.ctx.storage.sql
    const last = sql.exec<{ n: number | null }>('SELECT max(first_seq) AS n FROM segment').one().n
    this.#nextSeq =
      last === null
        ? 0
        : last +
          sql.exec<{ count: number }>('SELECT count FROM segment WHERE first_seq = ?', last).one()
            .count
    this.#forgotten = this.#meta('forgotten') ?? 0
    this.#closed = this.#meta('closed') === 1
    this.#erased = new Set(
      sql
        .exec<{ event_hash: Blob }>('SELECT event_hash FROM erased')
        .toArray()
        .map((row) => hashKey(new Uint8Array(row.event_hash))),
    )
    this.#waiting.clear()
    for (const row of this.#segmentsFrom(this.#forgotten)) this.#remember(row, this.#forgotten)
    const claimed = this.#meta('claimed') ?? 0
    for (const row of Array.from(this.#segmentsFrom(claimed))) {
      const digests = new Uint8Array(row.digests)
      for (let seq = Math.max(row.first_seq, claimed); seq < row.first_seq + row.count; seq++) {
        this.#claims.addAgain(digests, (seq - row.first_seq) * DIGEST, seq)
      }
    }
  }

  /** Takes no events any more: the log was ended. What was received before is still checked and accepted. */
  close(): void {
    if (this.#closed) return
    this.#setMeta('closed', 1)
    this.#closed = true
  }

  #checkOpen(): void {
    if (this.#closed) throw new VaultMeshError('log-forked', 'This log has forked and was ended.')
  }

  /** Binds the shard to its number; throws `bad-config` if it was started under another layout. */
  #bind(shard: number): void {
    const shards = Number(this.env.INTAKE_SHARDS)
    const stored = this.#meta('shards')
    if (stored === null) {
      this.#setMeta('shards', shards)
      this.#setMeta('shard', shard)
    } else if (stored !== shards || this.#meta('shard') !== shard) {
      throw new VaultMeshError(
        'bad-config',
        `INTAKE_SHARDS: this node was started with ${stored}, it can't become ${shards}.`,
      )
    }
  }
  #bound = false

  /**
   * Claims identities and stores bytes, all or nothing for the group. `requests` are ids for the audit: one for all
   * events, or one an event.
   * Throws `overloaded` when too many events wait, `bad-config` under another shard layout, `log-forked` once closed.
   */
  admit(
    shard: number,
    group: AdmitGroup,
    receivedAt = Date.now(),
    requests: readonly string[] = [],
  ): AdmitResult {
    this.#checkOpen()
    const n = group.lengths.length
    if (this.#nextSeq - this.#forgotten + n > Number(this.env.INTAKE_BACKLOG_MAX)) {
      throw new VaultMeshError('overloaded', 'Too many events wait for their seal.')
    }
    const result = this.ctx.storage.transactionSync(() => {
      if (!this.#bound) this.#bind(shard)
      const claimed = this.#claimAll(group, receivedAt)
      this.#claims.mergeSome()
      return claimed
    })
    this.#settled(shard, result, { via: 'post', requests })
    this.#count(group, result.outcomes)
    return answerOf(result)
  }

  /**
   * Claims events that are sealed already, of a batch that this node lost: their sequence numbers here, -1 for
   * an identity that other content holds. Those that were not here are stored like any other and passed
   * over by the seal. Repeats are harmless.
   */
  adopt(shard: number, group: AdmitGroup): number[] {
    const result = this.ctx.storage.transactionSync(() => {
      if (!this.#bound) this.#bind(shard)
      const claimed = this.#claimAll(group, Date.now(), true)
      this.#claims.mergeSome()
      return claimed
    })
    this.#settled(shard, result, { via: 'peer', requests: [] })
    return Array.from({ length: group.lengths.length }, (_, i) => {
      const digest = group.digests.subarray(i * DIGEST, (i + 1) * DIGEST)
      for (let key = hashKey(digest); ; key = (key + 1) % HASH_KEYS) {
        const seq = this.#claims.holder(key)
        if (seq === null) return -1
        const held = this.#held(seq).digest
        if (!equal(held.subarray(0, 32), digest.subarray(0, 32))) continue
        return equal(held.subarray(64), digest.subarray(64)) ? seq : -1
      }
    })
  }

  /** Counts what was accepted or posted before. A conflict is a refusal, and counted where it is answered. */
  #count({ lengths }: AdmitGroup, outcomes: Uint8Array): void {
    let accepted = 0
    let duplicates = 0
    for (const [i, what] of outcomes.entries()) {
      if (what === outcome.duplicate) duplicates++
      if (what !== outcome.accepted) continue
      accepted++
      observe(this.env, this.ctx, 'vaultmesh_event_bytes', {}, lengths[i]!)
    }
    if (accepted > 0) this.#countEvents('accepted', accepted)
    if (duplicates > 0) this.#countEvents('duplicate', duplicates)
  }

  #countEvents(what: 'accepted' | 'duplicate' | 'rejected', n: number): void {
    count(this.env, this.ctx, 'vaultmesh_events_total', { outcome: what }, n)
  }

  /** Lets memory follow a transaction that is done and cannot be rolled back any more. */
  #settled(shard: number, result: Claimed, cause: Cause): void {
    if (keepsTrail(this.env)) this.#tell(shard, result, cause)
    this.#bound = true
    for (const row of result.rows) this.#remember(row, 0)
    this.#claims.add(result.keys, this.#nextSeq)
    this.#nextSeq = result.nextSeq
    this.#claims.merged(this.#nextSeq)
    if (result.rows.length > 0) this.#wake(shard, cause.requests[0])
  }

  /** One line of the audit a group: who asked, and which sequence numbers came of it. */
  #tell(shard: number, { rows, outcomes, nextSeq }: Claimed, { via, requests }: Cause): void {
    let repeats = 0
    let conflicts = 0
    for (const what of outcomes) {
      if (what === outcome.duplicate) repeats++
      if (what === outcome.conflict) conflicts++
    }
    const isMixed = repeats + conflicts > 0
    const hashes: Uint8Array[] = []
    for (const row of rows) {
      const digests = new Uint8Array(row.digests)
      for (let i = 0; i < row.count; i++)
        hashes.push(digests.subarray(i * DIGEST + 64, (i + 1) * DIGEST))
    }
    trail(this.env, {
      kind: 'commit',
      shard,
      from: this.#nextSeq,
      to: nextSeq,
      requests: [...requests],
      duplicates: repeats,
      conflicts,
      ...(isMixed ? { outcomes: Array.from(outcomes, (what) => 'adc'[what]!).join('') } : {}),
      sha256: toHex(sha256(join(hashes))),
      via,
    })
  }

  /** `isSealed`: of events that the log has anyway, erased ones too. */
  #claimAll(group: AdmitGroup, receivedAt: number, isSealed = false): Claimed {
    const n = group.lengths.length
    const outcomes = new Uint8Array(n)
    const first = new Map<number, FirstAnswer>()
    const base = { outcomes, first, receivedAt }
    const isKnown = !isSealed && this.#erased.size > 0 && this.#holdsErased(group.digests, n)
    const free = isKnown ? null : this.#claims.free(group.digests, n, DIGEST)
    if (free !== null) return this.#store(group, null, { ...base, keys: free })
    // Something was posted before, or twice in this group, or two identities share 53 bits: one by one.
    const kept: number[] = []
    const keptKeys = new Map<number, number>()
    for (let i = 0; i < n; i++) {
      const digest = group.digests.subarray(i * DIGEST, (i + 1) * DIGEST)
      const gone = isSealed ? null : this.#erasedBy(digest.subarray(64))
      if (gone !== null) {
        outcomes[i] = outcome.erased
        first.set(i, { eventHash: gone, receivedAt })
        continue
      }
      let key = hashKey(digest)
      let found: Held | null = null
      for (; ; key = (key + 1) % HASH_KEYS) {
        const mine = keptKeys.get(key)
        const seq = mine === undefined ? this.#claims.holder(key) : null
        if (mine === undefined && seq === null) break
        const held =
          mine === undefined
            ? this.#held(seq!)
            : { digest: group.digests.subarray(mine * DIGEST, (mine + 1) * DIGEST), receivedAt }
        if (!equal(held.digest.subarray(0, 32), digest.subarray(0, 32))) continue
        found = held
        break
      }
      if (found === null) {
        kept.push(i)
        keptKeys.set(key, i)
        continue
      }
      const was = isSealed ? null : this.#erasedBy(found.digest.subarray(64))
      if (was !== null) {
        outcomes[i] = outcome.erased
        first.set(i, { eventHash: was, receivedAt: found.receivedAt })
        continue
      }
      const same = equal(found.digest.subarray(32, 64), digest.subarray(32, 64))
      outcomes[i] = same ? outcome.duplicate : outcome.conflict
      first.set(i, { eventHash: found.digest.slice(64), receivedAt: found.receivedAt })
    }
    return this.#store(group, kept, { ...base, keys: [...keptKeys.keys()] })
  }

  #holdsErased(digests: Uint8Array, n: number): boolean {
    for (let i = 0; i < n; i++) {
      if (this.#erased.has(hashKey(digests, i * DIGEST + 64))) return true
    }
    return false
  }

  /** Which event erased the one with this hash, or null. */
  #erasedBy(eventHash: Uint8Array): Uint8Array | null {
    if (!this.#erased.has(hashKey(eventHash))) return null
    const row = this.ctx.storage.sql
      .exec<{ erased_by: Blob }>('SELECT erased_by FROM erased WHERE event_hash = ?', eventHash)
      .toArray()[0]
    return row === undefined ? null : new Uint8Array(row.erased_by)
  }

  /**
   * Forgets an event for good, all but its hash and the HMAC of its identity: its bytes, the hash of what was signed
   * (content that can be guessed could be found by it), and a copy that waits for its check. Returns the sequence number
   * of one that waits for its seal, whose bytes stay until then: ask again after it. Nothing waits in a log that was
   * ended: its successor has it. Repeats are harmless.
   */
  erase({ eventHash, identity, erasedBy }: Forgotten): number | null {
    const sql = this.ctx.storage.sql
    const name = toHex(eventHash)
    const received = this.#received.bytes(name)
    const found = this.#find(eventHash)
    const waiting = this.#closed ? null : found
    // Who has no bytes left cannot say the identity. A shard that heard of it before has looked already; one that did
    // not was put back from a backup, and looks through all it has.
    const seq =
      identity !== null
        ? this.#seqOf(identity, eventHash)
        : waiting === null && this.#erasedBy(eventHash) === null
          ? (found ?? this.#search(eventHash))
          : null
    this.ctx.storage.transactionSync(() => {
      sql.exec(
        'INSERT INTO erased (event_hash, erased_by) VALUES (?, ?) ON CONFLICT DO NOTHING',
        eventHash,
        erasedBy,
      )
      if (received !== null) this.#received.settle(name, erasedSettlement())
      if (seq !== null && waiting === null) this.#scrub(seq)
    })
    this.#erased.add(hashKey(eventHash))
    if (received !== null) this.#received.released(received.length)
    return waiting
  }

  #seqOf(identity: Uint8Array, eventHash: Uint8Array): number | null {
    for (let key = hashKey(identity); ; key = (key + 1) % HASH_KEYS) {
      const seq = this.#claims.holder(key)
      if (seq === null) return null
      const { digest } = this.#held(seq)
      if (!equal(digest.subarray(0, 32), identity)) continue
      return equal(digest.subarray(64), eventHash) ? seq : null
    }
  }

  /** Where an event is, by its hash alone: 1 GB to read of 10 million events. */
  #search(eventHash: Uint8Array): number | null {
    for (const row of this.#segmentsFrom(0)) {
      const digests = new Uint8Array(row.digests)
      for (let i = 0; i < row.count; i++) {
        const at = i * DIGEST + 64
        if (digests[at] === eventHash[0] && equal(digests.subarray(at, at + 32), eventHash))
          return row.first_seq + i
      }
    }
    return null
  }

  /** Zeros in place of the signing hash, and of the bytes where the segment still holds any. */
  #scrub(seq: number): void {
    const sql = this.ctx.storage.sql
    const row = sql
      .exec<{ first_seq: number; digests: Blob }>(
        'SELECT first_seq, digests FROM segment WHERE first_seq <= ? ORDER BY first_seq DESC LIMIT 1',
        seq,
      )
      .one()
    const i = seq - row.first_seq
    const digests = new Uint8Array(row.digests).fill(0, i * DIGEST + 32, i * DIGEST + 64)
    sql.exec('UPDATE segment SET digests = ? WHERE first_seq = ?', digests, row.first_seq)
    const held = sql
      .exec<{ lengths: Blob; data: Blob }>(
        'SELECT lengths, data FROM bytes WHERE first_seq = ?',
        row.first_seq,
      )
      .toArray()[0]
    if (held === undefined) return
    const lengths = new Uint32Array(held.lengths)
    const from = lengths.subarray(0, i).reduce((sum, length) => sum + length, 0)
    const data = new Uint8Array(held.data).fill(0, from, from + lengths[i]!)
    sql.exec('UPDATE bytes SET data = ? WHERE first_seq = ?', data, row.first_seq)
  }

  #held(seq: number): Held {
    // One digest of the segment, not its whole blob: a bulk posted again asks this for every line.
    const row = this.ctx.storage.sql
      .exec<{ received_at: number; digest: Blob }>(
        `SELECT received_at, substr(digests, (?1 - first_seq) * ${DIGEST} + 1, ${DIGEST}) AS digest
         FROM segment WHERE first_seq <= ?1 ORDER BY first_seq DESC LIMIT 1`,
        seq,
      )
      .one()
    return { digest: new Uint8Array(row.digest), receivedAt: row.received_at }
  }

  /** Writes the kept events of a group (null: all) as segments of bounded size. */
  #store(
    group: AdmitGroup,
    kept: readonly number[] | null,
    base: Omit<Claimed, 'rows' | 'nextSeq'>,
  ): Claimed {
    const sql = this.ctx.storage.sql
    const rows: Segment[] = []
    const n = kept === null ? group.lengths.length : kept.length
    const offsets = kept === null ? null : offsetsOf(group.lengths)
    let nextSeq = this.#nextSeq
    for (let i = 0, at = 0; i < n;) {
      let j = i
      let size = 0
      while (j < n && j - i < SEGMENT_EVENTS) {
        const length = group.lengths[kept === null ? j : kept[j]!]!
        if (j > i && size + length > SEGMENT_BYTES) break
        size += length
        j++
      }
      const [lengths, data, digests] =
        kept === null
          ? [
              group.lengths.slice(i, j),
              group.data.subarray(at, at + size),
              group.digests.slice(i * DIGEST, j * DIGEST),
            ]
          : pick(group, kept.slice(i, j), offsets!, size)
      sql.exec(
        'INSERT INTO segment (first_seq, count, received_at, digests) VALUES (?, ?, ?, ?)',
        nextSeq,
        j - i,
        base.receivedAt,
        digests,
      )
      sql.exec(
        'INSERT INTO bytes (first_seq, lengths, data) VALUES (?, ?, ?)',
        nextSeq,
        new Uint8Array(lengths.buffer),
        data,
      )
      rows.push({ first_seq: nextSeq, count: j - i, digests: digests.buffer as ArrayBuffer })
      nextSeq += j - i
      at += size
      i = j
    }
    return { ...base, rows, nextSeq }
  }

  /** What waits at or after `cursor`. */
  peek(cursor: number): PoolPeek {
    if (cursor < this.#forgotten || cursor > this.#nextSeq) {
      throw new VaultMeshError(
        'bad-state',
        `The cursor ${cursor} is outside of what this shard holds, ${this.#forgotten} to ${this.#nextSeq}.`,
      )
    }
    const row = this.ctx.storage.sql
      .exec<{ at: number }>(
        'SELECT received_at AS at FROM segment WHERE first_seq + count > ?1 AND first_seq >= (SELECT max(first_seq) FROM segment WHERE first_seq <= ?1) ORDER BY first_seq LIMIT 1',
        cursor,
      )
      .toArray()[0]
    return { nextSeq: this.#nextSeq, oldestAt: cursor < this.#nextSeq ? (row?.at ?? null) : null }
  }

  /** Events at or after `cursor` that became durable before `at` (epoch ms). */
  countBefore(cursor: number, at: number): number {
    const { n } = this.ctx.storage.sql
      .exec<{ n: number }>(
        `SELECT coalesce(sum(first_seq + count - max(first_seq, ?1)), 0) AS n FROM segment
         WHERE first_seq >= coalesce((SELECT max(first_seq) FROM segment WHERE first_seq <= ?1), 0)
           AND first_seq + count > ?1 AND received_at < ?2`,
        cursor,
        at,
      )
      .one()
    return n
  }

  /** The events from `from` up to `to`, as many as fit `maxBytes` (at least one). */
  read(from: number, to: number, maxBytes: number): PoolSlice {
    if (from < this.#forgotten || to > this.#nextSeq || from >= to) {
      throw new VaultMeshError('bad-state', `Events ${from} to ${to} are not held by this shard.`)
    }
    const lengths: number[] = []
    const data: Uint8Array[] = []
    const hashes: Uint8Array[] = []
    let size = 0
    let next = from
    for (const row of this.#segmentsFrom(from)) {
      if (next >= to || size >= maxBytes) break
      const held = this.ctx.storage.sql
        .exec<{ lengths: Blob; data: Blob }>(
          'SELECT lengths, data FROM bytes WHERE first_seq = ?',
          row.first_seq,
        )
        .one()
      const all = new Uint32Array(held.lengths)
      let at = 0
      for (let i = 0; i < row.count; i++) {
        const length = all[i]!
        const seq = row.first_seq + i
        if (seq >= next && seq < to && (lengths.length === 0 || size + length <= maxBytes)) {
          lengths.push(length)
          data.push(new Uint8Array(held.data, at, length))
          hashes.push(new Uint8Array(row.digests, i * DIGEST + 64, 32))
          size += length
          next = seq + 1
        } else if (seq >= next) {
          break
        }
        at += length
      }
      if (next < row.first_seq + row.count) break
    }
    return {
      count: lengths.length,
      lengths: Uint32Array.from(lengths),
      data: join(data),
      eventHashes: join(hashes),
    }
  }

  /** Lets go of bytes below `upTo`: they are sealed in R2 and indexed. Repeats are harmless. */
  forget(upTo: number): void {
    if (upTo <= this.#forgotten) return
    if (upTo > this.#nextSeq)
      throw new VaultMeshError('bad-state', `Nothing up to ${upTo} was ever admitted.`)
    const sql = this.ctx.storage.sql
    const gone = [...this.#segmentsFrom(this.#forgotten)].filter((row) => row.first_seq < upTo)
    this.ctx.storage.transactionSync(() => {
      for (const row of gone) {
        // One that was marked while it waited, and that nobody may be able to name by its identity any more.
        if (this.#erased.size > 0) {
          const digests = new Uint8Array(row.digests)
          const end = Math.min(upTo, row.first_seq + row.count)
          for (let seq = Math.max(row.first_seq, this.#forgotten); seq < end; seq++) {
            const at = (seq - row.first_seq) * DIGEST + 64
            if (this.#erasedBy(digests.subarray(at, at + 32)) !== null) this.#scrub(seq)
          }
        }
        if (row.first_seq + row.count <= upTo)
          sql.exec('DELETE FROM bytes WHERE first_seq = ?', row.first_seq)
      }
      this.#setMeta('forgotten', upTo)
    })
    for (const row of gone) this.#drop(row, upTo)
    this.#forgotten = upTo
  }

  /** Keeps an unverified event for the intake queue. Returns when it was first received; throws `erased`. */
  receive(shard: number, eventHash: string, data: Uint8Array, requestId?: string): number {
    this.#checkOpen()
    if (!this.#bound) this.#bind(shard)
    this.#bound = true
    if (this.#erasedBy(fromHex(eventHash)) !== null)
      throw new VaultMeshError('erased', 'The event was erased; its leaf stays in the log.')
    const receivedAt = this.#received.keep(eventHash, data, Date.now())
    if (requestId !== undefined) trail(this.env, { kind: 'receive', shard, requestId, eventHash })
    this.#arm()
    return receivedAt
  }

  /** The bytes of a received event that still waits for its check; null if it is settled or unknown. */
  receivedBytes(eventHash: string): Uint8Array | null {
    return this.#received.bytes(eventHash)
  }

  /** Moves a received, now verified event to accepted: the claim is made in this one transaction. */
  settle(shard: number, eventHash: string, group: AdmitGroup, requestId?: string): void {
    // Delivered twice: the first settled it, and its own claim would look like somebody else's.
    if (this.receivedBytes(eventHash) === null) return
    const claimed = this.ctx.storage.transactionSync(() => {
      const result = this.#claimAll(group, Date.now())
      this.#claims.mergeSome()
      const state = result.outcomes[0]
      this.#received.settle(eventHash, settlementOf(state, result.first.get(0)?.eventHash ?? null))
      return result
    })
    const requests = requestId === undefined ? [] : [requestId]
    this.#settled(shard, claimed, { via: 'check', requests })
    const result = settlementOf(claimed.outcomes[0], null).state
    trail(this.env, { kind: 'settle', shard, eventHash, result, ...causedBy(requestId) })
    this.#received.released(group.data.length)
    if (claimed.outcomes[0] === outcome.conflict) this.#countRefusal('event-id-reused')
    else if (claimed.outcomes[0] === outcome.erased) this.#countRefusal('erased')
    else this.#count(group, claimed.outcomes)
  }

  /** Ends a received event whose check failed. */
  reject(eventHash: string, code: string, detail: string, requestId?: string): void {
    const bytes = this.#received.bytes(eventHash)
    if (bytes === null) return
    this.#received.settle(eventHash, { state: 'rejected', first: null, code, detail })
    this.#received.released(bytes.length)
    this.#countRefusal(code as Code)
    const shard = this.#meta('shard') ?? 0
    trail(this.env, { kind: 'settle', shard, eventHash, result: code, ...causedBy(requestId) })
  }

  #countRefusal(code: Code): void {
    this.#countEvents('rejected', 1)
    count(this.env, this.ctx, 'vaultmesh_problems_total', { code })
  }

  /** How many events were received and wait for their check. */
  unchecked(): number {
    return this.#received.waiting()
  }

  /** Where an event stands, if this shard knows it. */
  status(eventHash: Uint8Array): PoolStatus | null {
    const seq = this.#find(eventHash)
    const none = { first: null, code: null, detail: null }
    if (seq !== null) return { state: 'accepted', receivedAt: this.#held(seq).receivedAt, ...none }
    return this.#received.status(toHex(eventHash))
  }

  /** The bytes of a waiting event, or null. */
  bytes(eventHash: Uint8Array): Uint8Array | null {
    const seq = this.#find(eventHash)
    if (seq === null || (this.#closed && this.#erasedBy(eventHash) !== null)) return null
    return this.read(seq, seq + 1, 1).data
  }

  /** The first event under an identity, or null: what unsigned intake asks before it wraps a body. */
  claimed(identity: Uint8Array): (FirstAnswer & { readonly erasedBy?: Uint8Array }) | null {
    for (let key = hashKey(identity); ; key = (key + 1) % HASH_KEYS) {
      const seq = this.#claims.holder(key)
      if (seq === null) return null
      const held = this.#held(seq)
      if (equal(held.digest.subarray(0, 32), identity)) {
        const eventHash = held.digest.slice(64)
        const erasedBy = this.#erasedBy(eventHash)
        return {
          eventHash,
          receivedAt: held.receivedAt,
          ...(erasedBy === null ? {} : { erasedBy }),
        }
      }
    }
  }

  /** Sends again what waits here and drops what expired; the cron's and the alarm's sweep. */
  async sweep(): Promise<{ waiting: number; received: number }> {
    const shard = this.#meta('shard')
    if (shard === null) return { waiting: 0, received: 0 }
    const stale = this.#received.sweep(Date.now())
    const waiting = this.#nextSeq - this.#forgotten
    if (waiting > 0 && !this.#closed) await this.env.VALIDATED_QUEUE.send({ shard })
    if (stale.length > 0) {
      await this.env.INTAKE_QUEUE.sendBatch(
        stale.map((eventHash) => ({ body: { shard, eventHash } })),
      )
    }
    return { waiting, received: stale.length }
  }

  /** Claims, held bytes and cursors, for fsck. */
  audit(): {
    claims: number
    nextSeq: number
    forgotten: number
    events: number
    bytes: number
  } {
    const one = (query: string): number => this.ctx.storage.sql.exec<{ n: number }>(query).one().n
    return {
      claims: this.#claims.count(this.#meta('claimed') ?? 0),
      events: one('SELECT coalesce(sum(count), 0) AS n FROM segment'),
      bytes: one('SELECT count(*) AS n FROM bytes'),
      nextSeq: this.#nextSeq,
      forgotten: this.#forgotten,
    }
  }

  override async alarm(): Promise<void> {
    this.#alarmSet = false
    try {
      const { waiting, received } = await this.sweep()
      if (waiting + received > 0) this.#arm()
    } catch (error) {
      console.error(
        JSON.stringify({ level: 'error', msg: 'pool alarm failed', error: String(error) }),
      )
      this.#arm()
    }
  }

  #arm(): void {
    if (this.#alarmSet) return
    this.#alarmSet = true
    this.ctx.waitUntil(this.ctx.storage.setAlarm(Date.now() + ALARM_AFTER_MS))
  }

  /**
   * Tells the Sequencer's queue that events wait; at most once in WAKE_EVERY_MS, never lost for good. `requestId`
   * is the request that woke it.
   */
  #wake(shard: number, requestId: string | undefined): void {
    this.#arm()
    if (this.#wakeTimer) return
    this.#wakeTimer = true
    const delay = Math.max(0, this.#wokenAt + WAKE_EVERY_MS - Date.now())
    this.ctx.waitUntil(
      (async () => {
        if (delay > 0) await scheduler.wait(delay)
        this.#wakeTimer = false
        this.#wokenAt = Date.now()
        await this.env.VALIDATED_QUEUE.send({ shard, ...causedBy(requestId) })
      })().catch((error: unknown) => {
        // The alarm sends it again.
        console.error(
          JSON.stringify({ level: 'warn', msg: 'wake-up not sent', error: String(error) }),
        )
      }),
    )
  }

  #find(eventHash: Uint8Array): number | null {
    const found = this.#waiting.get(hashKey(eventHash))
    if (found === undefined) return null
    for (const seq of typeof found === 'number' ? [found] : found) {
      if (equal(this.#held(seq).digest.subarray(64), eventHash)) return seq
    }
    return null
  }

  #remember(row: Segment, from: number): void {
    const digests = new Uint8Array(row.digests)
    for (let i = 0; i < row.count; i++) {
      const seq = row.first_seq + i
      if (seq < from) continue
      const key = hashKey(digests, i * DIGEST + 64)
      const there = this.#waiting.get(key)
      if (there === undefined) this.#waiting.set(key, seq)
      else this.#waiting.set(key, [...(typeof there === 'number' ? [there] : there), seq])
    }
  }

  #drop(row: Segment, upTo: number): void {
    const digests = new Uint8Array(row.digests)
    for (let i = 0; i < row.count; i++) {
      const seq = row.first_seq + i
      if (seq < this.#forgotten || seq >= upTo) continue
      const key = hashKey(digests, i * DIGEST + 64)
      const there = this.#waiting.get(key)
      if (typeof there === 'object') {
        const left = there.filter((s) => s !== seq)
        if (left.length > 0) this.#waiting.set(key, left)
        else this.#waiting.delete(key)
      } else if (there === seq) this.#waiting.delete(key)
    }
  }

  /** Segments that end above `seq`, in order, read lazily. */
  #segmentsFrom(seq: number): Iterable<Segment> {
    return this.ctx.storage.sql.exec<{ first_seq: number; count: number; digests: Blob }>(
      'SELECT first_seq, count, digests FROM segment WHERE first_seq >= coalesce((SELECT max(first_seq) FROM segment WHERE first_seq <= ?1), 0) AND first_seq + count > ?1 ORDER BY first_seq',
      seq,
    )
  }

  #meta(key: string): number | null {
    const row = this.ctx.storage.sql
      .exec<{ v: number }>('SELECT v FROM meta WHERE k = ?', key)
      .toArray()[0]
    return row?.v ?? null
  }

  #setMeta(key: string, value: number): void {
    this.ctx.storage.sql.exec(
      'INSERT INTO meta (k, v) VALUES (?, ?) ON CONFLICT (k) DO UPDATE SET v = excluded.v',
      key,
      value,
    )
  }
}

/** Where a group came from, for the audit. */
interface Cause {
  readonly via: 'post' | 'check' | 'peer'
  readonly requests: readonly string[]
}

interface Segment {
  readonly first_seq: number
  readonly count: number
  readonly digests: ArrayBuffer
}

interface Held {
  readonly digest: Uint8Array
  readonly receivedAt: number
}

interface Claimed {
  /** Probed keys of the accepted events, in order. */
  readonly keys: readonly number[]
  readonly outcomes: Uint8Array
  readonly first: Map<number, FirstAnswer>
  readonly receivedAt: number
  readonly rows: readonly Segment[]
  readonly nextSeq: number
}

function erasedSettlement(): Settlement {
  return { state: 'rejected', first: null, code: 'erased', detail: 'The event was erased.' }
}

function settlementOf(state: number | undefined, first: Uint8Array | null): Settlement {
  if (state === outcome.erased) return erasedSettlement()
  if (state === outcome.conflict) {
    const detail = 'The identity (source, id) was taken by another event.'
    return { state: 'rejected', first, code: 'event-id-reused', detail }
  }
  const name = state === outcome.duplicate ? 'duplicate' : 'accepted'
  return { state: name, first, code: null, detail: null }
}

function answerOf({ receivedAt, nextSeq, first, outcomes }: Claimed): AdmitResult {
  const repeats = first.size === 0 ? null : { outcomes, first }
  return { receivedAt, lastSeq: nextSeq - 1, repeats }
}

function offsetsOf(lengths: Uint32Array): Uint32Array {
  const offsets = new Uint32Array(lengths.length)
  for (let i = 1; i < lengths.length; i++) offsets[i] = offsets[i - 1]! + lengths[i - 1]!
  return offsets
}

function pick(
  group: AdmitGroup,
  which: readonly number[],
  offsets: Uint32Array,
  size: number,
): [Uint32Array<ArrayBuffer>, Uint8Array, Uint8Array<ArrayBuffer>] {
  const lengths = new Uint32Array(which.length)
  const data = new Uint8Array(size)
  const digests = new Uint8Array(which.length * DIGEST)
  let at = 0
  for (const [i, from] of which.entries()) {
    const length = group.lengths[from]!
    lengths[i] = length
    data.set(group.data.subarray(offsets[from]!, offsets[from]! + length), at)
    digests.set(group.digests.subarray(from * DIGEST, (from + 1) * DIGEST), i * DIGEST)
    at += length
  }
  return [lengths, data, digests]
}
