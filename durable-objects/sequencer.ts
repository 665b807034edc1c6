/**
 * Sequencer: the single writer of one log. It owns the head.
 *
 * Stored (SQLite):
 *   config     origin, vkey, shards: what this log was started as; another value refuses to start. Beside them
 *              intake and intake_hash: the rules of intake that were applied last
 *   head       one row: height, size, root, checkpoint, cursor of each Pool shard, indexed_height
 *   edge       per tile level the hashes that fill no tile yet; level -1 holds the raw entries
 *   cosigned   cosignatures of the head's checkpoint, by witnesses; they come after the seal and go with the head
 *   adopted    sequence numbers of the pools, at or after their cursors, that are sealed already in batches that were
 *              taken back: passed over by the next seals
 *   assignment one row or none: the batch being sealed, so that a retry gives the same bytes
 *   seals      by minute, for a day: batches sealed and attempts that failed
 *
 * Invariants: indexed_height ≤ height ≤ indexed_height + 1; the edge's widths fit the size; an assignment
 * has height + 1 and starts at size. Readers see heights ≤ head only.
 *
 * A seal, each step durable before the next:
 *   1 assign  order, count, sealedAt (this storage)        2 write   tiles and events (R2)
 *   3 record  manifest and checkpoint (R2, D1)             4 swap    head, edge, cursors: THE commit point
 *   5 index   D1 rows, then anchors, then pools forget
 * Steps 2, 3 and 5 are idempotent and compare what is there; a crash anywhere resumes from storage.
 * Any failure drops all memory, so nothing is ever signed from a state that storage does not hold.
 *
 * A log that was found forked, and one whose peers know more of it than it does itself, seals nothing (halt, and
 * clearance of the Federation at the first seal of a process). What was begun when a log is halted is finished, as
 * its signature may be out; then the pools take nothing more, and what waits in them is the successor's to seal.
 *
 * RPCs: wake, wait, seal, head, ensureStarted, audit, cosigned, halt, standing, adopt, watch, intake, applyIntake,
 * forgetNames, indexAgain, mendIndex (the index made again: store/rebuild.ts), pause, paused, resume (a backup is taken). Gates: 4 is one synchronous transaction; `seal` is
 * single-flight because steps 1 to 5 await, and the input gate would let a second call in between.
 */

import { DurableObject } from 'cloudflare:workers'
import type { Chain } from '#core/anchor-receipt.ts'
import { sealDueAt, signManifest, type Waiting } from '#core/batch.ts'
import { fromHex, toHex } from '#core/bytes.ts'
import { signCheckpoint } from '#core/checkpoint.ts'
import { VaultMeshError } from '#core/errors.ts'
import { emptyRoot, restoreEdge, rootOfEdge, TILE_WIDTH } from '#core/merkle.ts'
import { clearAlert, closeDeadLetters } from '#store/alerts.ts'
import { configuredRails, enqueueAnchors } from '#store/anchors.ts'
import { insertBatch, readBatchRecord, recordBatch, type BatchRecord } from '#store/batches.ts'
import { indexPart, type NameCache } from '#store/events.ts'
import { count as tally, observe } from '#store/metrics.ts'
import type { StoredRules } from '#store/intake-rules.ts'
import { nodeOf, type NodeContext } from '#store/node.ts'
import type { PoolPeek } from '#store/pool-api.ts'
import type {
  AnchorReport,
  Head,
  IndexMended,
  SealReport,
  SealWatch,
  Standing,
} from '#store/sequencer-api.ts'
import { causedBy, trail } from '#store/trail.ts'
import { claimAgain, mirroredParts, type AdoptedBatch, checkMirrored } from './adopted-batch.ts'
import {
  ENTRY_BYTES,
  pooledParts,
  writeBatch,
  type Assignment,
  type LogEdge,
  type WrittenBatch,
} from './batch-writer.ts'
import { resumeSpends } from './resumed-spends.ts'

/** Level under which the raw entries of the unfinished tile are stored. */
const ENTRIES = -1
/** A due seal whose message was lost is asked for again by the alarm after this time. */
const RETRY_AFTER_MS = 10_000
/** A seal that waits for the Federation is tried again after this time: peers answer within a few of ten ms. */
const CLEARANCE_AGAIN_MS = 250
/** Ask the queue at most once in this time for the same seal. */
const ASK_EVERY_MS = 1000
/** The R2 copy of the checkpoint: R2 takes one write a second per key. */
const BACKUP_EVERY_MS = 1000
/** Cosignatures served with a checkpoint; a note holds 100 signatures. */
const MAX_COSIGNATURES = 64
/** How long it is remembered how seals went. */
const SEALS_KEPT_MS = 86_400_000
/** Batches one call may seal before it lets the queue message go: bounds a call's wall time. */
const BATCHES_PER_CALL = 20

const SCHEMA = `
CREATE TABLE IF NOT EXISTS config (k TEXT PRIMARY KEY, v TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS head (id INTEGER PRIMARY KEY CHECK (id = 1), height INTEGER NOT NULL, size INTEGER NOT NULL,
  root TEXT NOT NULL, checkpoint TEXT NOT NULL, sealed_at INTEGER NOT NULL, cursors TEXT NOT NULL, indexed_height INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS edge (level INTEGER PRIMARY KEY, hashes BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS assignment (id INTEGER PRIMARY KEY CHECK (id = 1), height INTEGER NOT NULL,
  sealed_at INTEGER NOT NULL, ranges TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS adopted (shard INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (shard, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cosigned (size INTEGER NOT NULL, line TEXT NOT NULL, PRIMARY KEY (size, line)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS seals (minute INTEGER PRIMARY KEY, sealed INTEGER NOT NULL, failed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS anchored (chain TEXT PRIMARY KEY, size INTEGER NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;`

const FORGET_NAMES = `DELETE FROM names WHERE id IN (SELECT value FROM json_each(?1))
AND NOT EXISTS (SELECT 1 FROM events INDEXED BY events_source WHERE source_id = names.id)
AND NOT EXISTS (SELECT 1 FROM events INDEXED BY events_type WHERE type_id = names.id)`

/** Everything read from storage; dropped as a whole after any failure. */
interface State {
  readonly node: NodeContext
  head: Head & { readonly cursors: readonly number[] }
  edge: LogEdge
}

interface Waiter {
  readonly shard: number
  readonly seq: number
  readonly resolve: (sealed: boolean) => void
}

export class Sequencer extends DurableObject<Env> {
  #state: Promise<State> | null = null
  #sealing: Promise<SealReport> | null = null
  #waiters = new Set<Waiter>()
  #eagerAt: number | null = null
  #askedAt = 0
  /** The request whose events or command the next seal goes back to, for the audit. */
  #cause: string | undefined
  #alarmAt: number | null = null
  #backedUpAt = 0
  /** True once the Federation let this process seal. */
  #isCleared = false
  /** What it said when it last did not; empty if it lets this process seal. */
  #waitsFor = ''
  #backup: ReturnType<typeof setTimeout> | null = null
  /** Until when each backup under way has nothing sealed; in memory only, so that it cannot outlive the process. */
  readonly #pauses = new Map<string, number>()
  /** What each shard held when last asked. */
  #peeks = new Map<number, PoolPeek>()
  readonly #names: NameCache = new Map()

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    dropOldClock(ctx.storage.sql)
    ctx.storage.sql.exec(SCHEMA)
  }

  /** Binds the log to its settings; throws `bad-config` if it was started under others. */
  async ensureStarted(): Promise<Head> {
    return (await this.#load()).head
  }

  /** The newest head. */
  async head(): Promise<Head> {
    const { cursors: _, ...head } = (await this.#load()).head
    return { ...head, checkpoint: this.#withCosignatures(head.size, head.checkpoint) }
  }

  /**
   * Adds witnesses' cosignatures to the checkpoint of `size`, each a line of a signed note. Of an older or
   * another tree they are dropped: a seal never waits for them, and they never reach back.
   */
  async cosigned(size: number, root: string, lines: readonly string[]): Promise<void> {
    const { head } = await this.#load()
    if (head.size !== size || head.root !== root) return
    const sql = this.ctx.storage.sql
    this.ctx.storage.transactionSync(() => {
      sql.exec('DELETE FROM cosigned WHERE size <> ?', size)
      for (const line of lines) {
        // A witness's newer cosignature of the same tree takes the place of its older one.
        const name = line.split(' ').slice(0, 2).join(' ')
        sql.exec(
          'DELETE FROM cosigned WHERE size = ? AND substr(line, 1, ?) = ?',
          size,
          name.length + 1,
          `${name} `,
        )
        sql.exec(
          'INSERT INTO cosigned (size, line) SELECT ?1, ?2 WHERE (SELECT count(*) FROM cosigned) < ?3',
          size,
          line,
          MAX_COSIGNATURES,
        )
      }
    })
    this.#backUpCheckpoint()
  }

  /**
   * The rules of intake; their text is left out where `seen` is their hash. Answered without the log's state: a log
   * that cannot be read must not be one that anybody may post to.
   */
  async intake(seen: string | null): Promise<StoredRules> {
    const hash = this.#kept('intake_hash')
    return { sha256: hash, text: hash === null || hash === seen ? null : this.#kept('intake') }
  }

  /**
   * Keeps rules of intake, which the caller has parsed; null forgets them. With `over` only if that is the hash of those
   * before (null: none were). False if it is not.
   */
  async applyIntake(
    rules: { readonly sha256: string; readonly text: string } | null,
    over?: string | null,
  ): Promise<boolean> {
    const sql = this.ctx.storage.sql
    return this.ctx.storage.transactionSync(() => {
      if (over !== undefined && this.#kept('intake_hash') !== over) return false
      sql.exec("DELETE FROM config WHERE k IN ('intake', 'intake_hash')")
      if (rules !== null) {
        const { sha256: hash, text } = rules
        sql.exec("INSERT INTO config (k, v) VALUES ('intake_hash', ?), ('intake', ?)", hash, text)
      }
      return true
    })
  }

  #kept(key: 'intake' | 'intake_hash'): string | null {
    const row = this.ctx.storage.sql
      .exec<{ v: string }>('SELECT v FROM config WHERE k = ?', key)
      .toArray()[0]
    return row?.v ?? null
  }

  /** Seals nothing any more: this log's key has signed two histories. Survives restarts. */
  async halt(why: string): Promise<void> {
    if (this.#haltedFor() === null) trail(this.env, { kind: 'halt', why: why.slice(0, 1000) })
    this.ctx.storage.sql.exec(
      "INSERT INTO config (k, v) VALUES ('halted', ?) ON CONFLICT DO NOTHING",
      why,
    )
    await this.#closePools(await this.#load())
  }

  /** Whether the log was ended, and whether all that it began is done. */
  async standing(): Promise<Standing> {
    const state = await this.#load()
    const halted = this.#haltedFor()
    if (halted !== null) await this.#closePools(state)
    const { height, size, cursors, indexedHeight } = state.head
    const settled = halted !== null && this.#assigned() === null && indexedHeight === height
    return { halted, height, size, cursors, settled }
  }

  /** Why this log was ended, or null. */
  #haltedFor(): string | null {
    const row = this.ctx.storage.sql
      .exec<{ v: string }>("SELECT v FROM config WHERE k = 'halted'")
      .toArray()[0]
    return row?.v ?? null
  }

  async #closePools({ node }: State): Promise<void> {
    for (let shard = 0; shard < node.config.intakeShards; shard++) {
      await this.env.POOL.getByName(String(shard)).close()
    }
  }

  #withCosignatures(size: number, checkpoint: string): string {
    const rows = this.ctx.storage.sql
      .exec<{ line: string }>('SELECT line FROM cosigned WHERE size = ? ORDER BY line', size)
      .toArray()
    return checkpoint + rows.map(({ line }) => line).join('')
  }

  /**
   * Whether this log may grow: what its peers know of it is asked once in a process's life. Waiting for them is no
   * failure; only who forces a seal is told.
   */
  async #mayGrow(state: State, force: boolean): Promise<boolean> {
    if (this.#isCleared) return true
    const { ok, reason } = await this.env.FEDERATION.getByName('node').clearance(state.head.height)
    this.#isCleared = ok
    if (!ok && force) throw new VaultMeshError('overloaded', `The seal waits: ${reason}.`)
    if (!ok && reason !== this.#waitsFor) {
      console.log(JSON.stringify({ level: 'info', msg: 'the seal waits', reason }))
    }
    this.#waitsFor = ok ? '' : reason
    return ok
  }

  /** A shard says that events wait, after `requestId` among others: seal now, or be woken when it is due. */
  async wake(shards: readonly number[], requestId?: string): Promise<void> {
    const state = await this.#load()
    this.#cause ??= requestId
    for (const shard of shards) await this.#peek(state, shard)
    await this.#schedule(state)
  }

  /**
   * Resolves true once event `seq` of `shard` is sealed and indexed, false after `timeoutMs`.
   * Makes a seal due within SEAL_EAGER_MS.
   */
  async wait(shard: number, seq: number, timeoutMs: number): Promise<boolean> {
    const state = await this.#load()
    if (this.#isIndexed(state, shard, seq)) return true
    const { promise, resolve } = Promise.withResolvers<boolean>()
    const waiter = { shard, seq, resolve }
    this.#waiters.add(waiter)
    const timer = setTimeout(() => resolve(false), timeoutMs)
    if (this.#eagerAt === null) {
      const delay = state.node.config.sealEagerMs
      this.#eagerAt = Date.now() + delay
      setTimeout(() => this.ctx.waitUntil(this.#askEagerly(shard)), delay)
    }
    try {
      return await promise
    } finally {
      clearTimeout(timer)
      this.#waiters.delete(waiter)
    }
  }

  async #askEagerly(shard: number): Promise<void> {
    try {
      const state = await this.#load()
      await this.#peek(state, shard)
      this.#askedAt = 0
      await this.#schedule(state)
    } catch (error) {
      console.error(
        JSON.stringify({ level: 'error', msg: 'eager seal not asked', error: String(error) }),
      )
    }
  }

  /**
   * Seals every batch that is due, resuming one that was begun. `force` seals whatever waits; `requestId` is whose
   * doing it is. Throws what failed; the same assignment is retried by the next call.
   */
  async seal(force = false, requestId?: string): Promise<SealReport> {
    this.#cause = requestId ?? this.#cause
    if (this.#sealing !== null) {
      await this.#sealing
      // What came in during that run is due by its own rules.
    }
    this.#sealing ??= this.#sealAll(force).finally(() => {
      this.#sealing = null
    })
    return this.#sealing
  }

  async #sealAll(force: boolean): Promise<SealReport> {
    if (this.#isPaused()) {
      if (force) throw paused()
      await this.#setAlarm(Date.now() + RETRY_AFTER_MS)
      const { height } = (await this.#load()).head
      return { batches: 0, events: 0, height, sealMs: 0, indexMs: 0 }
    }
    let batches = 0
    let events = 0
    let sealMs = 0
    let indexMs = 0
    try {
      const state = await this.#load()
      if (state.head.indexedHeight < state.head.height) this.#countRetry()
      indexMs += await this.#indexPending(state)
      for (; batches < BATCHES_PER_CALL; batches++) {
        const startedAt = Date.now()
        const begun = this.#assigned()
        const assignment = begun ?? (await this.#assign(state, force))
        if (assignment === null) break
        if (begun !== null) this.#countRetry()
        const oldestAt = await this.#oldestOf(state, assignment, begun !== null)
        events += await this.#sealOne(state, assignment)
        this.#observeSeal(startedAt, oldestAt)
        sealMs += Date.now() - startedAt
        indexMs += await this.#indexPending(state)
      }
      await this.#schedule(state)
      return { batches, events, height: state.head.height, sealMs, indexMs }
    } catch (error) {
      this.#state = null
      this.#peeks.clear()
      this.#askedAt = 0
      this.#noteFailure(error)
      await this.#setAlarm(Date.now() + RETRY_AFTER_MS)
      throw error
    }
  }

  /** Counts an attempt that failed. That it cannot be counted must not hide why it failed. */
  #noteFailure(error: unknown): void {
    // To wait for peers, or to be over, is no failure of the seal.
    const isRefusal =
      error instanceof VaultMeshError && /^(?:overloaded|log-forked)$/.test(error.code)
    try {
      if (!isRefusal) this.#noteSeal('failed')
    } catch (failure) {
      console.error(
        JSON.stringify({ level: 'warn', msg: 'seal not counted', error: String(failure) }),
      )
    }
  }

  #countRetry(): void {
    tally(this.env, this.ctx, 'vaultmesh_seal_retries_total')
  }

  /** When the first event of a batch was accepted; null if that cannot be told, which is no reason not to seal it. */
  async #oldestOf(state: State, { ranges }: Assignment, isOld: boolean): Promise<number | null> {
    const shards = [...new Set(ranges.map(([shard]) => shard))]
    try {
      // An assignment of an earlier attempt may come without what the pools said then.
      for (const shard of isOld ? shards : []) await this.#peek(state, shard)
    } catch {
      return null
    }
    const oldest = shards.map((shard) => this.#peeks.get(shard)?.oldestAt ?? Infinity)
    return oldest.every(Number.isFinite) ? Math.min(...oldest) : null
  }

  #observeSeal(startedAt: number, oldestAt: number | null): void {
    const nowAt = Date.now()
    const { env, ctx } = this
    observe(env, ctx, 'vaultmesh_seal_duration_seconds', {}, (nowAt - startedAt) / 1000)
    if (oldestAt !== null) {
      observe(env, ctx, 'vaultmesh_seal_latency_seconds', {}, Math.max(0, nowAt - oldestAt) / 1000)
    }
  }

  #noteSeal(outcome: 'sealed' | 'failed'): void {
    tally(this.env, this.ctx, 'vaultmesh_seal_batches_total', { outcome })
    const nowAt = Date.now()
    const sql = this.ctx.storage.sql
    sql.exec(
      `INSERT INTO seals (minute, sealed, failed) VALUES (?1, ?2, ?3)
       ON CONFLICT (minute) DO UPDATE SET sealed = sealed + ?2, failed = failed + ?3`,
      Math.floor(nowAt / 60_000),
      outcome === 'sealed' ? 1 : 0,
      outcome === 'failed' ? 1 : 0,
    )
    sql.exec('DELETE FROM seals WHERE minute < ?', Math.floor((nowAt - SEALS_KEPT_MS) / 60_000))
  }

  /**
   * What waits and how seals went, for the watchers: `overdueBefore` is when the events counted as overdue were
   * accepted at the latest, `since` from when on attempts are counted; both epoch ms.
   */
  async watch(asked: {
    readonly overdueBefore: number
    readonly since: number
  }): Promise<SealWatch> {
    const state = await this.#load()
    for (let shard = 0; shard < state.node.config.intakeShards; shard++)
      await this.#peek(state, shard)
    const { count, oldestAt } = this.#waiting(state)
    let overdue = 0
    if (oldestAt !== null && oldestAt < asked.overdueBefore) {
      for (const [shard, cursor] of state.head.cursors.entries()) {
        const pool = this.env.POOL.getByName(String(shard))
        overdue += await pool.countBefore(cursor, asked.overdueBefore)
      }
    }
    const seals = this.ctx.storage.sql
      .exec<{ sealed: number; failed: number }>(
        'SELECT coalesce(sum(sealed), 0) AS sealed, coalesce(sum(failed), 0) AS failed FROM seals WHERE minute >= ?',
        Math.floor(asked.since / 60_000),
      )
      .one()
    const { height } = state.head
    return {
      halted: this.#haltedFor() !== null,
      height,
      waiting: count,
      oldestAt,
      overdue,
      sealed: seals.sealed,
      failed: seals.failed,
    }
  }

  /** Steps 2 to 4. Returns the number of events sealed. */
  async #sealOne(state: State, assignment: Assignment): Promise<number> {
    const { node } = state
    const { height } = assignment
    const parts = pooledParts(this.env, assignment)
    const written = await writeBatch(this.env, height, parts, state.edge)
    const { size } = written.edge.tree
    const root = rootOfEdge(written.edge.tree)
    const checkpoint = await signCheckpoint(
      { origin: node.config.origin, size, root, extensions: [] },
      node.log,
    )
    const batch = {
      origin: node.config.origin,
      height: assignment.height,
      firstIndex: state.head.size,
      count: written.count,
      treeSize: size,
      root,
      previousRoot: fromHex(state.head.root),
      batchRoot: written.batchRoot,
      sealedAt: assignment.sealedAt,
    }
    const record: BatchRecord = {
      height: batch.height,
      firstIndex: batch.firstIndex,
      count: batch.count,
      treeSize: size,
      root: toHex(root),
      sealedAt: batch.sealedAt,
      manifest: await signManifest(node.identity, batch),
      checkpoint,
      parts: written.parts,
    }
    await recordBatch(this.env, record)
    this.#swap(state, assignment.ranges, written, record)
    return written.count
  }

  /**
   * Takes a batch of this log back that a peer remembers and this node lost. Steps as of a seal, each idempotent; a
   * batch that is here is left as it is. Throws `bad-state` if it does not follow the head.
   */
  async adopt(batch: AdoptedBatch): Promise<void> {
    if (this.#sealing !== null) await this.#sealing.catch(() => undefined)
    // The same gate as a seal's: one writer at a time.
    this.#sealing ??= this.#adoptOne(batch).finally(() => {
      this.#sealing = null
    })
    await this.#sealing
  }

  async #adoptOne(batch: AdoptedBatch): Promise<SealReport> {
    if (this.#isPaused()) throw paused()
    const startedAt = Date.now()
    try {
      const state = await this.#load()
      const indexMs = await this.#indexPending(state)
      const done = { batches: 0, events: 0, height: state.head.height, sealMs: 0, indexMs }
      if (batch.height <= state.head.height) return done
      const { node } = state
      const { origin } = node.config
      if (
        batch.height !== state.head.height + 1 ||
        batch.firstIndex !== state.head.size ||
        this.#assigned() !== null
      ) {
        throw new VaultMeshError('bad-state', `Batch ${batch.height} does not follow the head.`)
      }
      await checkMirrored(this.env, origin, batch)
      const parts = mirroredParts(this.env, origin, batch)
      const written = await writeBatch(this.env, batch.height, parts, state.edge)
      if (toHex(rootOfEdge(written.edge.tree)) !== batch.root) {
        throw new VaultMeshError(
          'bad-state',
          `What was mirrored of batch ${batch.height} is not it.`,
        )
      }
      for await (const { body } of mirroredParts(this.env, origin, batch)) {
        for (const [shard, seqs] of await claimAgain(this.env, node, body)) {
          const cursor = state.head.cursors[shard]!
          this.ctx.storage.transactionSync(() => {
            for (const seq of seqs.filter((s) => s >= cursor)) {
              this.ctx.storage.sql.exec('INSERT OR IGNORE INTO adopted VALUES (?, ?)', shard, seq)
            }
          })
        }
      }
      const { height, root, firstIndex, count, treeSize, sealedAt, manifest, checkpoint } = batch
      const record: BatchRecord = {
        height,
        firstIndex,
        count,
        treeSize,
        root,
        sealedAt,
        manifest,
        checkpoint,
        parts: written.parts,
      }
      await recordBatch(this.env, record)
      this.#swap(state, [], written, record)
      const sealMs = Date.now() - startedAt
      return { batches: 1, events: count, height, sealMs, indexMs: await this.#indexPending(state) }
    } catch (error) {
      this.#state = null
      this.#peeks.clear()
      throw error
    }
  }

  /**
   * Forgets names that no event has any more: sources and types of erased ones. Here, because whoever interns names must
   * not do so meanwhile, nor from memory afterwards. Repeats are harmless.
   */
  async forgetNames(ids: readonly number[]): Promise<void> {
    await this.#betweenSeals(async () => {
      this.#names.clear()
      await this.env.DB.prepare(FORGET_NAMES).bind(JSON.stringify(ids)).run()
    })
  }

  /** The first sequence number of a shard at or after `from` that no adopted batch holds. */
  #pastAdopted(shard: number, from: number): number {
    let seq = from
    for (const row of this.ctx.storage.sql.exec<{ seq: number }>(
      'SELECT seq FROM adopted WHERE shard = ? AND seq >= ? ORDER BY seq',
      shard,
      from,
    )) {
      if (row.seq !== seq) break
      seq++
    }
    return seq
  }

  /** The next adopted sequence number of a shard after `from`, or `to` if there is none before it. */
  #nextAdopted(shard: number, from: number, to: number): number {
    const row = this.ctx.storage.sql
      .exec<{ seq: number }>(
        'SELECT seq FROM adopted WHERE shard = ? AND seq >= ? AND seq < ? ORDER BY seq LIMIT 1',
        shard,
        from,
        to,
      )
      .toArray()[0]
    return row?.seq ?? to
  }

  /** Step 1: which events, in which order, at what time. Durable before anything is built from it. */
  async #assign(state: State, force: boolean): Promise<Assignment | null> {
    const { config } = state.node
    for (let shard = 0; shard < config.intakeShards; shard++) await this.#peek(state, shard)
    const waiting = this.#waiting(state)
    const dueAt = sealDueAt(waiting, {
      maxItems: config.sealBatchMaxItems,
      maxIntervalMs: config.sealBatchMaxIntervalMs,
    })
    const nowAt = Date.now()
    if (dueAt === null || (dueAt > nowAt && !force)) return null
    const halted = this.#haltedFor()
    if (halted !== null) {
      if (force) throw new VaultMeshError('log-forked', halted)
      return null
    }
    if (!(await this.#mayGrow(state, force))) return null
    // It may have been ended while that was asked.
    if (this.#haltedFor() !== null) return null
    const ranges: [number, number, number][] = []
    let left = config.sealBatchMaxItems
    // The shard with the oldest event first: no shard can starve another, however busy it is.
    const shards = [...this.#peeks].sort(
      ([a, p], [b, q]) => (p.oldestAt ?? Infinity) - (q.oldestAt ?? Infinity) || a - b,
    )
    for (const [shard, peek] of shards) {
      for (let from = state.head.cursors[shard]!; left > 0;) {
        from = this.#pastAdopted(shard, from)
        const end = Math.min(peek.nextSeq, from + left)
        if (end <= from) break
        const to = this.#nextAdopted(shard, from, end)
        ranges.push([shard, from, to])
        left -= to - from
        from = to
      }
    }
    if (ranges.length === 0) return null
    const assignment = {
      height: state.head.height + 1,
      // A log's times never run backwards, whatever the clock does.
      sealedAt: Math.max(nowAt, state.head.sealedAt),
      ranges,
    }
    this.ctx.storage.sql.exec(
      'INSERT INTO assignment (id, height, sealed_at, ranges) VALUES (1, ?, ?, ?)',
      assignment.height,
      assignment.sealedAt,
      JSON.stringify(ranges),
    )
    this.#eagerAt = null
    return assignment
  }

  /** Step 4: the commit point. Throws `bad-state` if another writer moved the head. */
  #swap(
    state: State,
    ranges: Assignment['ranges'],
    written: WrittenBatch,
    record: BatchRecord,
  ): void {
    const cursors = [...state.head.cursors]
    for (const [shard, , to] of ranges) cursors[shard] = to
    for (const [shard, cursor] of cursors.entries()) {
      cursors[shard] = this.#pastAdopted(shard, cursor)
    }
    const sql = this.ctx.storage.sql
    this.ctx.storage.transactionSync(() => {
      const height = sql.exec<{ height: number }>('SELECT height FROM head').one().height
      if (height !== record.height - 1) {
        throw new VaultMeshError(
          'bad-state',
          `The head moved to ${height} while batch ${record.height} was sealed.`,
        )
      }
      sql.exec(
        'UPDATE head SET height = ?, size = ?, root = ?, checkpoint = ?, sealed_at = ?, cursors = ?',
        record.height,
        record.treeSize,
        record.root,
        record.checkpoint,
        record.sealedAt,
        JSON.stringify(cursors),
      )
      sql.exec('DELETE FROM edge')
      for (const [level, hashes] of written.edge.tree.levels) {
        sql.exec('INSERT INTO edge (level, hashes) VALUES (?, ?)', level, hashes)
      }
      sql.exec('INSERT INTO edge (level, hashes) VALUES (?, ?)', ENTRIES, written.edge.entries)
      sql.exec('DELETE FROM assignment')
      if (ranges.length > 0) this.#noteSeal('sealed')
      for (const [shard, cursor] of cursors.entries()) {
        sql.exec('DELETE FROM adopted WHERE shard = ? AND seq < ?', shard, cursor)
      }
    })
    state.head = {
      height: record.height,
      size: record.treeSize,
      root: record.root,
      checkpoint: record.checkpoint,
      sealedAt: record.sealedAt,
      indexedHeight: state.head.indexedHeight,
      cursors,
    }
    state.edge = written.edge
    const { height, firstIndex, count, treeSize, root } = record
    const batch = { height, firstIndex, count, treeSize, root }
    const by = causedBy(this.#cause)
    this.#cause = undefined
    trail(this.env, { kind: 'seal', ...batch, ranges: ranges.map((r) => [...r]), ...by })
    this.#backUpCheckpoint()
  }

  /** Step 5 for the newest batch, if it is not indexed yet. Returns the milliseconds it took. */
  async #indexPending(state: State): Promise<number> {
    if (state.head.indexedHeight === state.head.height) return 0
    const startedAt = Date.now()
    const height = state.head.height
    const batch = (await this.#recorded(height)) ?? (await this.#recordAgain(state))
    let firstIndex = batch.firstIndex
    for (let part = 0; part < batch.parts; part++) {
      firstIndex += await indexPart(this.env, { height, part, firstIndex }, this.#names)
    }
    if (firstIndex !== state.head.size) {
      throw new VaultMeshError(
        'bad-state',
        `The events of batch ${height} end at ${firstIndex}, not ${state.head.size}.`,
      )
    }
    await this.env.DB.batch([
      this.env.DB.prepare('UPDATE batches SET committed = 1 WHERE height = ?').bind(height),
      // A batch that is sealed ends what its failures began.
      clearAlert(this.env.DB, 'dead_letter', 'sealer-dlq', Date.now()),
      closeDeadLetters(this.env.DB, 'sealer-dlq', Date.now()),
    ])
    for (const [shard, cursor] of state.head.cursors.entries()) {
      if (cursor > 0) await this.env.POOL.getByName(String(shard)).forget(cursor)
    }
    this.ctx.storage.sql.exec('UPDATE head SET indexed_height = ?', height)
    state.head = { ...state.head, indexedHeight: height }
    // A wake-up: without it the cron tells the webhooks within a minute.
    this.ctx.waitUntil(this.env.WEBHOOK_QUEUE.send({}).catch(() => undefined))
    this.ctx.waitUntil(
      this.env.FEDERATION.getByName('node')
        .wake()
        .catch(() => undefined),
    )
    for (const waiter of this.#waiters) {
      if (this.#isIndexed(state, waiter.shard, waiter.seq)) waiter.resolve(true)
    }
    return Date.now() - startedAt
  }

  #recorded(height: number): Promise<{ firstIndex: number; parts: number } | null> {
    return this.env.DB.prepare(
      'SELECT first_index AS firstIndex, parts FROM batches WHERE height = ?',
    )
      .bind(height)
      .first<{ firstIndex: number; parts: number }>()
  }

  /** D1 lost the row of the newest batch: it is in R2 as well, and must be of the head. */
  async #recordAgain({ head }: State): Promise<BatchRecord> {
    const record = await readBatchRecord(this.env.BUCKET, head.height)
    if (record.root !== head.root || record.treeSize !== head.size)
      throw new VaultMeshError('bad-state', `D1 lacks batch ${head.height}, and R2 has another.`)
    await insertBatch(this.env.DB, record)
    return record
  }

  /** Runs `work` between two seals. Who asks for a seal meanwhile waits for it. */
  async #betweenSeals<T>(work: (state: State) => Promise<T>): Promise<T> {
    while (this.#sealing !== null) await this.#sealing.catch(() => undefined)
    const state = this.#load()
    const running = state.then(work)
    const nothing = async (): Promise<SealReport> => {
      await running.catch(() => undefined)
      return { batches: 0, events: 0, height: (await state).head.height, sealMs: 0, indexMs: 0 }
    }
    this.#sealing = nothing().finally(() => {
      this.#sealing = null
    })
    // Who waits for it is told; here `running` itself says what went wrong.
    this.#sealing.catch(() => undefined)
    return running
  }

  /** fsck --rebuild: the rows of a part of a batch again; those of `leaves` are other than its bytes say, and go. */
  async indexAgain(part: {
    readonly height: number
    readonly part: number
    readonly firstIndex: number
    readonly leaves: readonly number[]
  }): Promise<void> {
    await this.#betweenSeals(async () => {
      const gone = 'DELETE FROM events WHERE leaf_index IN (SELECT value FROM json_each(?))'
      await this.env.DB.prepare(gone).bind(JSON.stringify(part.leaves)).run()
      await indexPart(this.env, part, this.#names)
    })
  }

  /**
   * fsck --rebuild ends: what lies beyond the log goes, and so do names that no event has; the anchor jobs of what the
   * wallets have signed for come back, and the newest root is queued again when its interval is over. Nothing is paid
   * for here: a job asks its wallet first. Repeats change nothing.
   */
  async mendIndex(): Promise<IndexMended> {
    return this.#betweenSeals(async ({ node, head }) => {
      this.#names.clear()
      const { DB } = this.env
      // A batch that is being sealed has a row already.
      const above = this.#assigned() === null ? head.height : head.height + 1
      const removed = await DB.batch<{ n: number }>(
        [
          ['DELETE FROM batches WHERE height > ? RETURNING 1 AS n', above],
          ['DELETE FROM events WHERE leaf_index >= ? RETURNING 1 AS n', head.size],
          ['DELETE FROM events WHERE leaf_index < ? RETURNING 1 AS n', 0],
          [
            `DELETE FROM names WHERE ?1 = 0 AND NOT EXISTS (SELECT 1 FROM events INDEXED BY events_source WHERE source_id = names.id)
               AND NOT EXISTS (SELECT 1 FROM events INDEXED BY events_type WHERE type_id = names.id) RETURNING 1 AS n`,
            // Names of a batch whose rows are not all there yet stay.
            head.height - head.indexedHeight,
          ],
          [
            'DELETE FROM receipt_checks WHERE receipt_id NOT IN (SELECT id FROM receipts) AND 0 = ? RETURNING 1 AS n',
            0,
          ],
        ].map(([query, bound]) => DB.prepare(String(query)).bind(bound)),
      )
      const jobs = await resumeSpends(this.env, node.config, Date.now())
      this.ctx.storage.sql.exec('UPDATE anchored SET size = 0')
      await this.#setAlarm(Date.now() + 1000)
      return { removed: removed.reduce((sum, { results }) => sum + results.length, 0), jobs }
    })
  }

  /**
   * Seals and indexes nothing for `ms`, or until `resume` names this pause: pools, log and index stay as they are.
   * Each caller has a pause of its own, so that two backups at once do not end each other's.
   */
  async pause(ms: number): Promise<{ readonly pause: string; readonly head: Head }> {
    return this.#betweenSeals(async ({ head }) => {
      const pause = crypto.randomUUID()
      this.#pauses.set(pause, Date.now() + ms)
      const { cursors: _, ...shown } = head
      return { pause, head: shown }
    })
  }

  /** Whether a backup is being taken: nothing is sealed, and no erasure ends. */
  paused(): boolean {
    return this.#isPaused()
  }

  /**
   * Ends a pause, or all of them where none is named; false if it was over by itself, so that something may have been
   * sealed meanwhile.
   */
  async resume(pause?: string): Promise<boolean> {
    const wasPaused =
      pause === undefined ? this.#isPaused() : Date.now() < (this.#pauses.get(pause) ?? 0)
    if (pause === undefined) this.#pauses.clear()
    else this.#pauses.delete(pause)
    await this.#setAlarm(Date.now())
    return wasPaused
  }

  #isPaused(): boolean {
    const nowAt = Date.now()
    for (const [pause, until] of this.#pauses) if (until <= nowAt) this.#pauses.delete(pause)
    return this.#pauses.size > 0
  }

  #isIndexed(state: State, shard: number, seq: number): boolean {
    return state.head.indexedHeight === state.head.height && seq < (state.head.cursors[shard] ?? 0)
  }

  async #peek(state: State, shard: number): Promise<void> {
    const cursor = state.head.cursors[shard]
    if (cursor === undefined)
      throw new VaultMeshError('bad-config', `INTAKE_SHARDS: there is no shard ${shard}.`)
    this.#peeks.set(shard, await this.env.POOL.getByName(String(shard)).peek(cursor))
  }

  #waiting(state: State): Waiting {
    let count = 0
    let oldestAt: number | null = null
    for (const [shard, peek] of this.#peeks) {
      const here = peek.nextSeq - state.head.cursors[shard]!
      if (here <= 0 || peek.oldestAt === null) continue
      count += here
      oldestAt = oldestAt === null ? peek.oldestAt : Math.min(oldestAt, peek.oldestAt)
    }
    return { count, oldestAt, eagerAt: this.#eagerAt }
  }

  /** Sends a seal message if one is due, else sets the alarm for when it will be; the same for anchors. */
  async #schedule(state: State): Promise<void> {
    const { config } = state.node
    const nowAt = Date.now()
    const policy = {
      maxItems: config.sealBatchMaxItems,
      maxIntervalMs: config.sealBatchMaxIntervalMs,
    }
    const dueAt = this.#haltedFor() === null ? sealDueAt(this.#waiting(state), policy) : null
    let alarmAt: number | null = await this.#scheduleAnchors(state, nowAt)
    if (
      dueAt !== null ||
      this.#assigned() !== null ||
      state.head.indexedHeight < state.head.height
    ) {
      if (dueAt !== null && dueAt > nowAt && this.#assigned() === null) {
        alarmAt = Math.min(alarmAt ?? dueAt, dueAt)
      } else {
        if (nowAt - this.#askedAt >= ASK_EVERY_MS) {
          this.#askedAt = nowAt
          const height = state.head.height + 1
          await this.env.SEAL_QUEUE.send({ reason: 'due', height, ...causedBy(this.#cause) })
        }
        const againMs = this.#waitsFor === '' ? RETRY_AFTER_MS : CLEARANCE_AGAIN_MS
        alarmAt = Math.min(alarmAt ?? Infinity, nowAt + againMs)
      }
    }
    if (alarmAt !== null) await this.#setAlarm(alarmAt)
  }

  /** Anchors the newest root on each chain whose interval has passed; returns when to look again, if ever. */
  async #scheduleAnchors(state: State, nowAt: number): Promise<number | null> {
    if (state.head.indexedHeight === 0) return null
    let nextAt: number | null = null
    for (const [chain, intervalMs] of intervalsOf(state.node)) {
      const at = await this.#scheduleChain(state, { chain, intervalMs, nowAt })
      if (at !== null) nextAt = Math.min(nextAt ?? at, at)
    }
    return nextAt
  }

  async #scheduleChain(
    state: State,
    { chain, intervalMs, nowAt }: { chain: Chain; intervalMs: number; nowAt: number },
  ): Promise<number | null> {
    const { node, head } = state
    const last = this.ctx.storage.sql
      .exec<{ size: number; at: number }>('SELECT size, at FROM anchored WHERE chain = ?', chain)
      .toArray()[0]
    if (last !== undefined && last.size >= head.size) return null
    const dueAt = (last?.at ?? 0) + intervalMs
    if (dueAt > nowAt) return dueAt
    // The interval is taken before the first await, so that a call beside this one finds it taken; the size
    // follows when the jobs exist. `head` is the one that is enqueued, whatever is sealed meanwhile.
    this.#anchored(chain, last?.size ?? 0, nowAt)
    await enqueueAnchors(this.env, node.config, head, { chain, nowAt })
    this.#anchored(chain, head.size, nowAt)
    return state.head.size > head.size ? nowAt + intervalMs : null
  }

  /**
   * Anchors the newest root on a chain now, whatever its interval. Returns the ids of its jobs and what they
   * anchor; jobs that exist stay as they are. Throws `bad-config` for a chain that is no rail here.
   */
  async anchor(chain: Chain, requestId?: string): Promise<AnchorReport> {
    const { config } = (await this.#load()).node
    if (!config.rails.includes(chain)) {
      throw new VaultMeshError('bad-config', `RAILS: ${chain} is no rail of this node.`)
    }
    // Finishes a batch that was swapped and not indexed, and seals what is due anyway.
    await this.seal()
    const { size, root } = (await this.#load()).head
    if (size === 0)
      throw new VaultMeshError('not-sealed', 'The log is empty: there is no root yet.')
    const nowAt = Date.now()
    this.#anchored(chain, 0, nowAt)
    const ids = await enqueueAnchors(this.env, config, { root, size }, { chain, nowAt, requestId })
    this.#anchored(chain, size, nowAt)
    return { root: `0x${root}`, treeSize: size, jobs: ids }
  }

  #anchored(chain: Chain, size: number, at: number): void {
    this.ctx.storage.sql.exec(
      'INSERT INTO anchored (chain, size, at) VALUES (?1, ?2, ?3) ON CONFLICT (chain) DO UPDATE SET size = max(size, ?2), at = max(at, ?3)',
      chain,
      size,
      at,
    )
  }

  async #setAlarm(at: number): Promise<void> {
    // An earlier alarm stays: it looks at everything and sets the next one.
    if (this.#alarmAt !== null && this.#alarmAt <= at && this.#alarmAt > Date.now() - 1000) return
    this.#alarmAt = at
    await this.ctx.storage.setAlarm(at)
  }

  override async alarm(): Promise<void> {
    this.#alarmAt = null
    try {
      await this.sweep()
    } catch (error) {
      console.error(
        JSON.stringify({ level: 'error', msg: 'sequencer alarm failed', error: String(error) }),
      )
      // Memory stays: a seal under way writes to it, and forgets it itself if it fails.
      this.#askedAt = 0
      await this.#setAlarm(Date.now() + RETRY_AFTER_MS)
    }
  }

  /** Looks at every shard and schedules what is due: what the alarm and the cron do. */
  async sweep(): Promise<void> {
    const state = await this.#load()
    for (let shard = 0; shard < state.node.config.intakeShards; shard++)
      await this.#peek(state, shard)
    this.#askedAt = 0
    await this.#schedule(state)
  }

  /** The stored state in words, for fsck. */
  async audit(): Promise<{
    head: Head
    cursors: readonly number[]
    edge: readonly { readonly level: number; readonly hashes: string }[]
    assignment: Assignment | null
  }> {
    const { head, edge } = await this.#load()
    const { cursors, ...shown } = head
    return {
      head: shown,
      cursors,
      edge: [...edge.tree.levels].map(([level, hashes]) => ({ level, hashes: toHex(hashes) })),
      assignment: this.#assigned(),
    }
  }

  #assigned(): Assignment | null {
    const row = this.ctx.storage.sql
      .exec<{ height: number; sealed_at: number; ranges: string }>(
        'SELECT height, sealed_at, ranges FROM assignment',
      )
      .toArray()[0]
    if (row === undefined) return null
    return {
      height: row.height,
      sealedAt: row.sealed_at,
      ranges: JSON.parse(row.ranges) as Assignment['ranges'],
    }
  }

  #load(): Promise<State> {
    this.#state ??= this.#read().catch((error: unknown) => {
      this.#state = null
      throw error
    })
    return this.#state
  }

  async #read(): Promise<State> {
    const node = await nodeOf(this.env)
    await this.#bind(node)
    const sql = this.ctx.storage.sql
    const row = sql
      .exec<{
        height: number
        size: number
        root: string
        checkpoint: string
        sealed_at: number
        cursors: string
        indexed_height: number
      }>('SELECT * FROM head')
      .one()
    let entries: Uint8Array = new Uint8Array(0)
    const levels: [number, Uint8Array][] = []
    for (const { level, hashes } of sql.exec<{ level: number; hashes: ArrayBuffer }>(
      'SELECT level, hashes FROM edge',
    )) {
      if (level === ENTRIES) entries = new Uint8Array(hashes)
      else levels.push([level, new Uint8Array(hashes)])
    }
    const tree = restoreEdge(row.size, levels)
    if (
      toHex(rootOfEdge(tree)) !== row.root ||
      entries.length !== (row.size % TILE_WIDTH) * ENTRY_BYTES
    ) {
      throw new VaultMeshError('bad-state', 'The stored edge does not lead to the stored root.')
    }
    return {
      node,
      edge: { tree, entries },
      head: {
        height: row.height,
        size: row.size,
        root: row.root,
        checkpoint: row.checkpoint,
        sealedAt: row.sealed_at,
        indexedHeight: row.indexed_height,
        cursors: JSON.parse(row.cursors) as number[],
      },
    }
  }

  /** First start: writes what this log is. Later: refuses to be another one. */
  async #bind(node: NodeContext): Promise<void> {
    const wanted = {
      origin: node.config.origin,
      vkey: node.vkey,
      shards: String(node.config.intakeShards),
    }
    const sql = this.ctx.storage.sql
    const stored = new Map(
      sql
        .exec<{ k: string; v: string }>('SELECT k, v FROM config')
        .toArray()
        .map((r) => [r.k, r.v]),
    )
    for (const [key, value] of Object.entries(wanted)) {
      const was = stored.get(key)
      if (was !== undefined && was !== value) {
        const name =
          key === 'shards' ? 'INTAKE_SHARDS' : key === 'origin' ? 'ORIGIN' : 'NODE_SECRET'
        throw new VaultMeshError(
          'bad-config',
          `${name}: this log was started with ${key} ${was}, not ${value}.`,
          {
            extra: { key: name },
          },
        )
      }
    }
    if (stored.has('origin')) return
    const checkpoint = await signCheckpoint(
      { origin: node.config.origin, size: 0, root: emptyRoot, extensions: [] },
      node.log,
    )
    this.ctx.storage.transactionSync(() => {
      for (const [key, value] of Object.entries(wanted))
        sql.exec('INSERT INTO config (k, v) VALUES (?, ?)', key, value)
      sql.exec(
        'INSERT INTO head (id, height, size, root, checkpoint, sealed_at, cursors, indexed_height) VALUES (1, 0, 0, ?, ?, 0, ?, 0)',
        toHex(emptyRoot),
        checkpoint,
        JSON.stringify(Array.from({ length: node.config.intakeShards }, () => 0)),
      )
    })
  }

  /** Copies the checkpoint to R2, at most once a second and never in a seal's way. */
  #backUpCheckpoint(): void {
    if (this.#backup !== null) return
    const delay = Math.max(0, this.#backedUpAt + BACKUP_EVERY_MS - Date.now())
    this.#backup = setTimeout(() => {
      this.#backup = null
      this.#backedUpAt = Date.now()
      this.ctx.waitUntil(
        this.#load()
          .then(({ head }) =>
            this.env.BUCKET.put(
              'log/checkpoint',
              this.#withCosignatures(head.size, head.checkpoint),
              {
                httpMetadata: { contentType: 'text/plain; charset=utf-8' },
              },
            ),
          )
          .then(() => undefined)
          .catch((error: unknown) => {
            console.error(
              JSON.stringify({
                level: 'warn',
                msg: 'checkpoint backup failed',
                error: String(error),
              }),
            )
          }),
      )
    }, delay)
  }
}

function paused(): VaultMeshError {
  const detail = 'A backup is being taken; sealing goes on when it is done.'
  return new VaultMeshError('overloaded', detail)
}

/** Each chain the settings anchor on, with its interval. */
function intervalsOf(node: NodeContext): ReadonlyMap<Chain, number> {
  return new Map(configuredRails(node.config).map((rail) => [rail.chain, rail.intervalMs]))
}

/** Version 0.1 had one clock for the one rail; without it the newest root is enqueued again, once. */
function dropOldClock(sql: SqlStorage): void {
  const table = sql
    .exec<{ sql: string }>("SELECT sql FROM sqlite_master WHERE name = 'anchored'")
    .toArray()[0]
  if (table?.sql.includes('id INTEGER PRIMARY KEY') === true) sql.exec('DROP TABLE anchored')
}
