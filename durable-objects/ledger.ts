/**
 * What a node knows of logs, its own and those of its peers: the part of the Federation Durable Object that
 * decides where each log's tip stands.
 *
 * Stored (SQLite):
 *   logs      one row a log: keys, the height all agree on, the canonical tip, the conflicts on the way
 *   batches   every batch that its origin signed: pending (events not all here), verified (recomputed from
 *             them) or quarantined (they lead elsewhere); all that its manifest says names it
 *   canonical by height, the batches on the way to the tip
 *   proofs    anchor receipts of their roots that verify offline, and what this node's providers say of them
 *   feed      what became verified, in the order of this node: peers page through it
 *
 * Invariant: a log's tip is `judgeFork` of its verified batches and confirmed proofs and of nothing else; it is
 * derived again in the transaction that changes either. Quarantined and pending batches never count.
 */

import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { toHex, utf8 } from '#core/bytes.ts'
import type { LawDocument, Proof } from '#core/conflict.ts'
import { VaultMeshError } from '#core/errors.ts'
import { judgeFork, type BatchNode, type Conflict, type PendingProof } from '#core/fork-choice.ts'
import { emptyRoot } from '#core/merkle.ts'
import { packPeaks, unpackPeaks, type Peaks } from '#core/peaks.ts'
import type { Branches, BranchBatch } from '#store/federation-api.ts'
import type { FeedItem, SignedBatch } from '../functions/remembrancer.ts'

/** Rivals of one height that are told of; all of them are judged, whoever signed how many. */
export const SHOWN_RIVALS = 16
/** Batches that wait for their events, of one log: a peer that is far ahead is read in steps. */
export const MAX_PENDING = 256
/** Lines of reasoning kept of a conflict with more rivals than that: one each, and as many comparisons. */
const SHOWN_LINES = 2 * SHOWN_RIVALS
/** Conflicts of a log that are told of, one within the other. */
const MAX_CONFLICTS = 32
/** Time-stamps kept of one root. */
const MAX_TOKENS = 64
/** Items and bytes of one feed page. */
const FEED_ITEMS = 100
const FEED_BYTES = 1_000_000

export const LEDGER_SCHEMA = `
CREATE TABLE IF NOT EXISTS logs (origin TEXT PRIMARY KEY, did TEXT NOT NULL, vkey TEXT NOT NULL, is_own INTEGER NOT NULL,
  common_height INTEGER NOT NULL DEFAULT 0, tip_height INTEGER NOT NULL DEFAULT 0, tip_root TEXT NOT NULL,
  tip_size INTEGER NOT NULL DEFAULT 0, tip_at INTEGER, conflicts TEXT NOT NULL DEFAULT '[]') WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS batches (id INTEGER PRIMARY KEY, origin TEXT NOT NULL, height INTEGER NOT NULL, root TEXT NOT NULL,
  previous_root TEXT NOT NULL, tree_size INTEGER NOT NULL, first_index INTEGER NOT NULL, count INTEGER NOT NULL,
  batch_root TEXT NOT NULL, sealed_at INTEGER NOT NULL, manifest TEXT NOT NULL, checkpoint TEXT NOT NULL,
  state TEXT NOT NULL, source TEXT NOT NULL, reason TEXT, tries INTEGER NOT NULL DEFAULT 0, next_at INTEGER NOT NULL DEFAULT 0,
  parts INTEGER NOT NULL DEFAULT 0, seen INTEGER NOT NULL DEFAULT 0, begun_by TEXT, begun_at INTEGER, peaks BLOB, batch_peaks BLOB, until INTEGER,
  learned_at INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS batches_name ON batches (origin, height, root, previous_root, first_index, tree_size, batch_root);
CREATE INDEX IF NOT EXISTS batches_root ON batches (origin, root);
CREATE INDEX IF NOT EXISTS batches_open ON batches (origin, state, height) WHERE state <> 'verified';
CREATE TABLE IF NOT EXISTS canonical (origin TEXT NOT NULL, height INTEGER NOT NULL, root TEXT NOT NULL,
  batch INTEGER NOT NULL, PRIMARY KEY (origin, height)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS proofs (id INTEGER PRIMARY KEY, origin TEXT NOT NULL, root TEXT NOT NULL, tree_size INTEGER NOT NULL,
  chain TEXT NOT NULL, network TEXT NOT NULL, tx_hash TEXT NOT NULL, anchored_at INTEGER NOT NULL, receipt TEXT NOT NULL,
  state TEXT NOT NULL, next_at INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0, learned_at INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS proofs_name ON proofs (origin, root, chain, network, tx_hash);
CREATE INDEX IF NOT EXISTS proofs_chain ON proofs (origin, chain, id);
CREATE TABLE IF NOT EXISTS feed (seq INTEGER PRIMARY KEY AUTOINCREMENT, type TEXT NOT NULL, ref INTEGER NOT NULL);
CREATE UNIQUE INDEX IF NOT EXISTS feed_once ON feed (type, ref);`

/** A log as this node stands to it. */
export interface LogState {
  readonly origin: string
  readonly did: string
  readonly vkey: string
  readonly isOwn: boolean
  readonly commonHeight: number
  readonly tipHeight: number
  readonly tipRoot: string
  readonly tipSize: number
  /** When the tip came to stand there; null before the first batch. */
  readonly tipAt: number | null
  readonly conflicts: readonly Conflict[]
}

/** A batch row. */
export interface StoredBatch extends BatchNode {
  readonly id: number
  readonly origin: string
  readonly firstIndex: number
  readonly count: number
  readonly batchRoot: string
  readonly sealedAt: number
  readonly manifest: string
  readonly checkpoint: string
  readonly state: 'pending' | 'verified' | 'quarantined'
  /** DID of the peer it came from first. */
  readonly source: string
  readonly reason: string | null
  readonly tries: number
  /** Parts and events of it that are here. */
  readonly parts: number
  readonly seen: number
  /** Who gave the parts that are here, and when the last one came: parts of two peers are never joined. */
  readonly begunBy: string | null
  readonly begunAt: number
  /** Until when it is quarantined. */
  readonly until: number | null
  readonly learnedAt: number
}

/** What a node's own providers say of a proof. */
export type ProofState = 'unasked' | 'confirmed' | 'unconfirmed' | 'no_provider' | 'refuted'

/** A proof row. */
export interface StoredProof extends Proof {
  readonly id: number
  readonly origin: string
  readonly receipt: string
  readonly state: ProofState
  readonly tries: number
}

type Row = Record<string, SqlStorageValue>

const EMPTY_ROOT = toHex(emptyRoot)
const BATCH =
  'id, origin, height, root, previous_root, tree_size, first_index, count, batch_root, sealed_at, manifest, checkpoint, state, source, reason, tries, parts, seen, begun_by, begun_at, until, learned_at'

/** The tables above, and nothing that awaits: every method is one synchronous step. */
export class Ledger {
  readonly #storage: DurableObjectStorage
  readonly #sql: SqlStorage

  constructor(storage: DurableObjectStorage) {
    this.#storage = storage
    this.#sql = storage.sql
  }

  /** Makes a log known. A log's key never changes under its origin: another one throws `bad-state`. */
  follow(log: {
    readonly origin: string
    readonly did: string
    readonly vkey: string
    readonly isOwn: boolean
  }): LogState {
    const { origin, did, vkey, isOwn } = log
    const known = this.log(origin)
    if (known !== null) {
      if (known.vkey !== vkey) {
        throw new VaultMeshError('bad-state', `The log ${origin} is known under another key.`)
      }
      return known
    }
    this.#sql.exec(
      'INSERT INTO logs (origin, did, vkey, is_own, tip_root) VALUES (?, ?, ?, ?, ?)',
      origin,
      did,
      vkey,
      isOwn ? 1 : 0,
      EMPTY_ROOT,
    )
    return this.log(origin)!
  }

  log(origin: string): LogState | null {
    const row = this.#one('SELECT * FROM logs WHERE origin = ?', origin)
    return row === null ? null : logOf(row)
  }

  logs(): LogState[] {
    return this.#all('SELECT * FROM logs ORDER BY origin').map(logOf)
  }

  batch(origin: string, height: number, root: string): StoredBatch | null {
    const row = this.#one(
      `SELECT ${BATCH} FROM batches WHERE origin = ? AND height = ? AND root = ? ORDER BY state = 'verified' DESC, id LIMIT 1`,
      origin,
      height,
      root,
    )
    return row === null ? null : batchOf(row)
  }

  /** Every batch at a height, rivals and held ones too, by root. */
  batchesAt(origin: string, height: number): StoredBatch[] {
    return this.#all(
      `SELECT ${BATCH} FROM batches WHERE origin = ? AND height = ? ORDER BY root`,
      origin,
      height,
    ).map(batchOf)
  }

  /** The canonical batch at a height, or null. */
  canonical(origin: string, height: number): StoredBatch | null {
    const row = this.#one(
      `SELECT ${prefixed('b')} FROM canonical c JOIN batches b ON b.id = c.batch
       WHERE c.origin = ? AND c.height = ?`,
      origin,
      height,
    )
    return row === null ? null : batchOf(row)
  }

  /** Canonical batches from a height on, in order. */
  canonicalFrom(origin: string, height: number, limit: number): StoredBatch[] {
    return this.#all(
      `SELECT ${prefixed('b')} FROM canonical c JOIN batches b ON b.id = c.batch
       WHERE c.origin = ? AND c.height >= ? ORDER BY c.height LIMIT ?`,
      origin,
      height,
      limit,
    ).map(batchOf)
  }

  /**
   * The batches of a forked log from its first fork on: those of the canonical history, and those that the law
   * orphaned. Without a decision on every fork nothing is orphaned yet.
   */
  branches(origin: string): Branches {
    const conflicts = this.log(origin)?.conflicts ?? []
    const [first] = conflicts
    if (first === undefined || conflicts.some(({ winner }) => winner === null)) {
      return { decided: false, orphaned: [], canonical: [] }
    }
    const rows = this.#all(
      `SELECT b.height, b.root, b.batch_root, b.count, c.root AS canonical FROM batches b
       LEFT JOIN canonical c ON c.origin = b.origin AND c.height = b.height AND c.batch = b.id
       WHERE b.origin = ? AND b.height >= ? AND b.state = 'verified' ORDER BY b.height, b.root`,
      origin,
      first.height,
    )
    const batches = (isCanonical: boolean): BranchBatch[] =>
      rows
        .filter((row) => (row['canonical'] !== null) === isCanonical)
        .map((row) => ({
          height: Number(row['height']),
          root: row['root'] as string,
          batchRoot: row['batch_root'] as string,
          count: Number(row['count']),
        }))
    return { decided: true, orphaned: batches(false), canonical: batches(true) }
  }

  /** Batches of a log that wait for their events, lowest first; those whose parent waits as well come last. */
  pending(origin: string, nowAt: number, limit: number): StoredBatch[] {
    return this.#all(
      `SELECT ${BATCH} FROM batches b WHERE origin = ? AND state = 'pending' AND next_at <= ? ORDER BY previous_root <> '${EMPTY_ROOT}'
         AND NOT EXISTS (SELECT 1 FROM batches p WHERE p.origin = b.origin AND p.height = b.height - 1 AND p.root = b.previous_root
         AND p.state = 'verified'), height LIMIT ?`,
      origin,
      nowAt,
      limit,
    ).map(batchOf)
  }

  countPending(origin: string): number {
    return Number(
      this.#one(
        "SELECT count(*) AS n FROM batches WHERE origin = ? AND state = 'pending'",
        origin,
      )!['n'],
    )
  }

  countQuarantined(origin: string): number {
    return Number(
      this.#one(
        "SELECT count(*) AS n FROM batches WHERE origin = ? AND state = 'quarantined'",
        origin,
      )!['n'],
    )
  }

  /** Batches that are held back, newest first. */
  quarantined(): StoredBatch[] {
    return this.#all(
      `SELECT ${BATCH} FROM batches WHERE state = 'quarantined' ORDER BY id DESC LIMIT 100`,
    ).map(batchOf)
  }

  /**
   * Takes a signed batch down, to be recomputed. Returns false if it is known.
   */
  learnBatch(batch: SignedBatch, source: string, nowAt: number): boolean {
    return this.#add(batch, { source, nowAt, state: 'pending' })
  }

  /** A batch of this node's own log: it made it from the events itself. */
  learnOwn(batch: SignedBatch, nowAt: number): void {
    this.#storage.transactionSync(() => {
      const known = this.#known(batch.manifest)
      if (known === null) this.#add(batch, { source: 'own', nowAt, state: 'verified' })
      else if (known.state !== 'verified') {
        // Peaks of a half mirrored batch are not those after it: the own log's are read from its tiles.
        this.#sql.exec(
          "UPDATE batches SET state = 'verified', reason = NULL, peaks = NULL, batch_peaks = NULL, until = NULL WHERE id = ?",
          known.id,
        )
      } else return
      this.#admit(this.#known(batch.manifest)!)
    })
  }

  /** The very batch that a manifest describes: a root can hang on two batches, and be signed for other events. */
  #known(manifest: SignedBatch['manifest']): StoredBatch | null {
    const row = this.#one(
      `SELECT ${BATCH} FROM batches WHERE origin = ? AND height = ? AND root = ? AND previous_root = ?
       AND first_index = ? AND tree_size = ? AND batch_root = ?`,
      manifest.origin,
      manifest.height,
      manifest.root,
      manifest.previousRoot,
      manifest.firstIndex,
      manifest.treeSize,
      manifest.batchRoot,
    )
    return row === null ? null : batchOf(row)
  }

  /** Whether the log signed this root at this size. */
  hasRoot(origin: string, root: string, treeSize: number): boolean {
    const query = 'SELECT 1 FROM batches WHERE origin = ? AND root = ? AND tree_size = ? LIMIT 1'
    return this.#one(query, origin, root, treeSize) !== null
  }

  /** The greatest height above `height` at which the log signed anything; 0 if there is none. */
  knownBeyond(origin: string, height: number): number {
    const query = 'SELECT max(height) AS height FROM batches WHERE origin = ? AND height > ?'
    return Number(this.#one(query, origin, height)?.['height'] ?? 0)
  }

  #add(
    { manifest, manifestJws, checkpoint }: SignedBatch,
    { source, nowAt, state }: { source: string; nowAt: number; state: StoredBatch['state'] },
  ): boolean {
    const added = this.#all(
      `INSERT INTO batches (origin, height, root, previous_root, tree_size, first_index, count, batch_root, sealed_at,
         manifest, checkpoint, state, source, learned_at)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id`,
      manifest.origin,
      manifest.height,
      manifest.root,
      manifest.previousRoot,
      manifest.treeSize,
      manifest.firstIndex,
      manifest.count,
      manifest.batchRoot,
      manifest.sealedAt,
      manifestJws,
      checkpoint,
      state,
      source,
      nowAt,
    )
    return added.length > 0
  }

  /** How far the recomputation of a batch got: the log's peaks and its own, after so many parts and events. */
  progress(batch: StoredBatch): { readonly log: Peaks; readonly own: Peaks } | null {
    const row = this.#one('SELECT peaks, batch_peaks, seen FROM batches WHERE id = ?', batch.id)
    if (row === null || row['peaks'] === null || row['batch_peaks'] === null) return null
    const seen = Number(row['seen'])
    return {
      log: unpackPeaks(batch.firstIndex + seen, new Uint8Array(row['peaks'] as ArrayBuffer)),
      own: unpackPeaks(seen, new Uint8Array(row['batch_peaks'] as ArrayBuffer)),
    }
  }

  /** Notes that one more part is here. */
  saveProgress(
    batch: StoredBatch,
    {
      parts,
      log,
      own,
      from,
      nowAt,
    }: {
      readonly parts: number
      readonly log: Peaks
      readonly own: Peaks
      readonly from: string
      readonly nowAt: number
    },
  ): void {
    this.#sql.exec(
      "UPDATE batches SET parts = ?, seen = ?, peaks = ?, batch_peaks = ?, begun_by = ?, begun_at = ? WHERE id = ? AND state = 'pending'",
      parts,
      own.size,
      packPeaks(log),
      packPeaks(own),
      from,
      nowAt,
      batch.id,
    )
  }

  /** Whether a batch still waits for its events. */
  isPending({ id }: StoredBatch): boolean {
    return this.#one("SELECT 1 FROM batches WHERE id = ? AND state = 'pending'", id) !== null
  }

  /** A source did not answer: what it gave so far stays, and others are asked from now on. */
  missed(batch: StoredBatch, reason: string): void {
    this.#sql.exec(
      "UPDATE batches SET reason = ?, tries = tries + 1 WHERE id = ? AND state = 'pending'",
      reason,
      batch.id,
    )
  }

  /** Whether a batch can be recomputed at once: it follows one that is verified, or begins the log. */
  canBegin({ origin, height, previousRoot, firstIndex }: SignedBatch['manifest']): boolean {
    if (height === 1) return previousRoot === EMPTY_ROOT && firstIndex === 0
    const query =
      "SELECT 1 FROM batches WHERE origin = ? AND height = ? AND root = ? AND state = 'verified' LIMIT 1"
    return this.#one(query, origin, height - 1, previousRoot) !== null
  }

  /** Peaks of the tree after a verified batch that was recomputed here; null for those of the own log. */
  peaksAfter(batch: StoredBatch): Peaks | null {
    const row = this.#one('SELECT peaks FROM batches WHERE id = ?', batch.id)
    if (row === null || row['peaks'] === null) return null
    return unpackPeaks(batch.treeSize, new Uint8Array(row['peaks'] as ArrayBuffer))
  }

  /** The events lead to the signed root: the batch counts from now on. */
  verified(batch: StoredBatch): void {
    this.#storage.transactionSync(() => {
      this.#sql.exec(
        "UPDATE batches SET state = 'verified', reason = NULL, batch_peaks = NULL, until = NULL WHERE id = ?",
        batch.id,
      )
      this.#admit({ ...batch, state: 'verified' })
    })
  }

  /** The events that the origin signed for lead to another root: held back until `until`. */
  quarantine(batch: StoredBatch, reason: string, until: number): void {
    this.#sql.exec(
      "UPDATE batches SET state = 'quarantined', reason = ?, until = ? WHERE id = ? AND state = 'pending'",
      reason,
      until,
      batch.id,
    )
  }

  /** Lets a quarantined batch be recomputed from the beginning; false if it is not quarantined. */
  release(origin: string, height: number, root: string): boolean {
    return (
      this.#all(
        `UPDATE batches SET state = 'pending', parts = 0, seen = 0, begun_by = NULL, peaks = NULL, batch_peaks = NULL, until = NULL, next_at = 0
         WHERE origin = ? AND height = ? AND root = ? AND state = 'quarantined' RETURNING id`,
        origin,
        height,
        root,
      ).length > 0
    )
  }

  /** Quarantined batches whose time is over. */
  quarantineOver(nowAt: number): StoredBatch[] {
    return this.#all(
      `SELECT ${BATCH} FROM batches WHERE state = 'quarantined' AND until <= ? LIMIT 20`,
      nowAt,
    ).map(batchOf)
  }

  /** A source did not have the events, or had others: begin again at `nextAt`. */
  postpone(batch: StoredBatch, reason: string, nextAt: number): void {
    this.#sql.exec(
      `UPDATE batches SET reason = ?, tries = tries + 1, next_at = ?, parts = 0, seen = 0, begun_by = NULL, peaks = NULL, batch_peaks = NULL
       WHERE id = ? AND state = 'pending'`,
      reason,
      nextAt,
      batch.id,
    )
  }

  /** What a batch hangs on; null while that is not verified here, `genesis` before the first. */
  parentOf(batch: StoredBatch): StoredBatch | 'genesis' | null {
    if (batch.height === 1) {
      return batch.previousRoot === EMPTY_ROOT && batch.firstIndex === 0 ? 'genesis' : null
    }
    const parent = this.batch(batch.origin, batch.height - 1, batch.previousRoot)
    if (parent === null || parent.state !== 'verified') return null
    return parent
  }

  /**
   * Takes a receipt down that verified offline. False if it is known. One that the providers did not confirm gives way
   * to another of the same transaction: a header of an EVM chain can be made up around it.
   */
  learnProof(origin: string, receipt: AnchorReceipt, nowAt: number): boolean {
    return this.#storage.transactionSync(() => {
      const added = this.#all(
        `INSERT INTO proofs (origin, root, tree_size, chain, network, tx_hash, anchored_at, receipt, state, learned_at)
         VALUES (?, ?, ?, ?, ?, ?, ?, ?, 'unasked', ?) ON CONFLICT (origin, root, chain, network, tx_hash)
         DO UPDATE SET receipt = excluded.receipt, anchored_at = excluded.anchored_at, state = 'unasked', next_at = 0
         WHERE state IN ('refuted', 'unconfirmed') AND receipt <> excluded.receipt RETURNING id`,
        origin,
        receipt.root.slice(2),
        receipt.treeSize,
        receipt.chain,
        receipt.network,
        receipt.txHash,
        Date.parse(receipt.anchorTs),
        JSON.stringify(receipt),
        nowAt,
      )
      const id = added[0]?.['id']
      if (id === undefined) return false
      if (receipt.chain === 'TSA' && !this.#keepsToken(origin, receipt.root.slice(2), Number(id))) {
        return false
      }
      // A reader needs the batch first; if that waits for its events, the proof follows it (#admit).
      const query =
        "SELECT 1 FROM batches WHERE origin = ? AND root = ? AND state = 'verified' LIMIT 1"
      if (this.#one(query, origin, receipt.root.slice(2)) !== null) this.#feed('proof', Number(id))
      return true
    })
  }

  /**
   * Anybody can have any root time-stamped, any number of times: the earliest tokens are kept, which are those that the
   * law hears. False if the token `id` is not among them.
   */
  #keepsToken(origin: string, root: string, id: number): boolean {
    const late = this.#all(
      `DELETE FROM proofs WHERE id IN (SELECT id FROM proofs WHERE origin = ? AND root = ? AND chain = 'TSA'
         ORDER BY anchored_at, tx_hash, network LIMIT -1 OFFSET ${MAX_TOKENS}) RETURNING id`,
      origin,
      root,
    )
    // A gap of rows that lead nowhere could fill a page, and end the feed for its readers.
    for (const row of late) {
      this.#sql.exec("DELETE FROM feed WHERE type = 'proof' AND ref = ?", row['id']!)
    }
    return !late.some((row) => Number(row['id']) === id)
  }

  /**
   * Proofs that matter and whose chain is to be asked: those of roots in conflict. Without a conflict no
   * proof is needed, and no provider is bothered.
   */
  proofsToConfirm(nowAt: number, limit: number): StoredProof[] {
    const found: StoredProof[] = []
    for (const log of this.logs()) {
      if (log.conflicts.length === 0) continue
      // Chosen before they are limited: a log has any number of proofs of roots that nobody disputes.
      for (const row of this.#all(
        `SELECT * FROM proofs WHERE origin = ? AND state <> 'refuted' AND next_at <= ?
         AND root IN (SELECT root FROM batches WHERE origin = ? AND height > ? AND state = 'verified') ORDER BY next_at, id LIMIT ?`,
        log.origin,
        nowAt,
        log.origin,
        log.commonHeight,
        limit - found.length,
      )) {
        found.push(proofOf(row))
      }
    }
    return found
  }

  /** What a chain has disproved since: the receipts of the own log that were revoked. */
  refute(
    origin: string,
    { chain, network, txHash }: Pick<Proof, 'chain' | 'network' | 'txHash'>,
  ): void {
    this.#sql.exec(
      "UPDATE proofs SET state = 'refuted' WHERE origin = ? AND chain = ? AND network = ? AND tx_hash = ?",
      origin,
      chain,
      network,
      txHash,
    )
  }

  /** What the providers said. */
  saidOf(proof: StoredProof, state: ProofState, nextAt: number): void {
    this.#sql.exec(
      'UPDATE proofs SET state = ?, next_at = ?, tries = tries + 1 WHERE id = ?',
      state,
      nextAt,
      proof.id,
    )
  }

  /** Receipts of a log and chain, oldest first. */
  proofsOf(origin: string, chain: string, after: number, limit: number): StoredProof[] {
    return this.#all(
      "SELECT * FROM proofs WHERE origin = ? AND chain = ? AND id > ? AND state <> 'refuted' ORDER BY id LIMIT ?",
      origin,
      chain,
      after,
      limit,
    ).map(proofOf)
  }

  /** A page of what became known here, from `after` on. */
  feedPage(after: number): { readonly items: readonly FeedItem[]; readonly more: boolean } {
    const rows = this.#all(
      'SELECT seq, type, ref FROM feed WHERE seq > ? ORDER BY seq LIMIT ?',
      after,
      FEED_ITEMS + 1,
    )
    const items: FeedItem[] = []
    let bytes = 0
    for (const row of rows.slice(0, FEED_ITEMS)) {
      const item = this.#feedItem(row)
      if (item === null) continue
      bytes += utf8(JSON.stringify(item)).length
      if (items.length > 0 && bytes > FEED_BYTES) return { items, more: true }
      items.push(item)
    }
    return { items, more: rows.length > FEED_ITEMS }
  }

  /** The number of the newest item in the feed; 0 before the first. */
  feedEnd(): number {
    return Number(this.#one('SELECT max(seq) AS seq FROM feed')?.['seq'] ?? 0)
  }

  #feedItem(row: Row): FeedItem | null {
    const seq = Number(row['seq'])
    const ref = Number(row['ref'])
    if (row['type'] === 'batch') {
      const batch = this.#one('SELECT origin, manifest, checkpoint FROM batches WHERE id = ?', ref)
      if (batch === null) return null
      return {
        seq,
        type: 'batch',
        origin: batch['origin'] as string,
        manifest: batch['manifest'] as string,
        checkpoint: batch['checkpoint'] as string,
      }
    }
    const proof = this.#one('SELECT origin, receipt FROM proofs WHERE id = ?', ref)
    if (proof === null) return null
    return {
      seq,
      type: 'proof',
      origin: proof['origin'] as string,
      receipt: JSON.parse(proof['receipt'] as string) as AnchorReceipt,
    }
  }

  #feed(type: FeedItem['type'], ref: number): void {
    this.#sql.exec('INSERT INTO feed (type, ref) VALUES (?, ?) ON CONFLICT DO NOTHING', type, ref)
  }

  /** A batch that became verified: it is fed to peers, and whatever it contradicts is no longer agreed. */
  #admit(batch: StoredBatch): void {
    this.#feed('batch', batch.id)
    const proofs = 'SELECT id FROM proofs WHERE origin = ? AND root = ? ORDER BY id'
    for (const { id } of this.#all(proofs, batch.origin, batch.root)) {
      this.#feed('proof', Number(id))
    }
    const log = this.log(batch.origin)!
    if (batch.height <= log.commonHeight) {
      const there = this.canonical(batch.origin, batch.height)
      if (there !== null && there.id !== batch.id) {
        this.#sql.exec(
          'UPDATE logs SET common_height = ? WHERE origin = ? AND common_height >= ?',
          batch.height - 1,
          batch.origin,
          batch.height,
        )
      }
    }
  }

  #above(log: LogState): (BatchNode & { readonly id: number })[] {
    return this.#all(
      "SELECT id, height, root, previous_root, tree_size FROM batches WHERE origin = ? AND height > ? AND state = 'verified'",
      log.origin,
      log.commonHeight,
    ).map((row) => ({ ...nodeOf(row), id: Number(row['id']) }))
  }

  /**
   * Derives the tip of a log from all that is known of it, and stores it. Returns where it stood and stands.
   */
  judge(
    origin: string,
    law: LawDocument,
    nowAt: number,
  ): { readonly before: LogState; readonly after: LogState } {
    return this.#storage.transactionSync(() => {
      const before = this.log(origin)
      if (before === null) throw new VaultMeshError('unknown-log', `No log ${origin} is known.`)
      const base = before.commonHeight === 0 ? null : this.canonical(origin, before.commonHeight)
      const nodes = this.#above(before)
      if (nodes.length === 0) return { before, after: before }
      // Proofs speak in conflicts only, and those need two batches of one height.
      const isDisputed = new Set(nodes.map(({ height }) => height)).size < nodes.length
      const { confirmed, pending } = isDisputed
        ? this.#proofs(origin, before.commonHeight)
        : { confirmed: [], pending: [] }
      const verdict = judgeFork({
        law,
        base: base === null ? null : base,
        emptyRoot: EMPTY_ROOT,
        nodes,
        proofs: confirmed,
        pending,
      })
      const [first] = verdict.conflicts
      const tip = verdict.tip
      const commonHeight =
        first === undefined ? (tip?.height ?? 0) : Math.min(first.height - 1, tip?.height ?? 0)
      this.#sql.exec(
        'DELETE FROM canonical WHERE origin = ? AND height > ?',
        origin,
        before.commonHeight,
      )
      const ids = new Map<BatchNode, number>(nodes.map((node) => [node, node.id]))
      for (const node of verdict.path) {
        this.#sql.exec(
          'INSERT INTO canonical (origin, height, root, batch) VALUES (?, ?, ?, ?)',
          origin,
          node.height,
          node.root,
          ids.get(node)!,
        )
      }
      const moved = before.tipRoot !== (tip?.root ?? EMPTY_ROOT)
      this.#sql.exec(
        'UPDATE logs SET common_height = ?, tip_height = ?, tip_root = ?, tip_size = ?, tip_at = ?, conflicts = ? WHERE origin = ?',
        commonHeight,
        tip?.height ?? 0,
        tip?.root ?? EMPTY_ROOT,
        tip?.treeSize ?? 0,
        moved ? nowAt : before.tipAt,
        JSON.stringify(kept(verdict.conflicts)),
        origin,
      )
      return { before, after: this.log(origin)! }
    })
  }

  #proofs(origin: string, above: number): { confirmed: Proof[]; pending: PendingProof[] } {
    const confirmed: Proof[] = []
    const pending: PendingProof[] = []
    for (const row of this.#all(
      `SELECT id, origin, root, tree_size, chain, network, tx_hash, anchored_at, '' AS receipt, state, tries FROM proofs
       WHERE origin = ? AND state <> 'refuted'
         AND root IN (SELECT root FROM batches WHERE origin = ? AND height > ? AND state = 'verified')`,
      origin,
      origin,
      above,
    )) {
      // What the law reads, and no receipt: verdicts are kept in one row of the log.
      const { chain, network, anchoredAt, txHash, root, treeSize, state } = proofOf(row)
      const proof: Proof = { chain, network, anchoredAt, txHash, root, treeSize }
      if (state === 'confirmed') confirmed.push(proof)
      else pending.push({ ...proof, why: state === 'no_provider' ? state : 'unconfirmed' })
    }
    return { confirmed, pending }
  }

  #all(query: string, ...binds: SqlStorageValue[]): Row[] {
    return this.#sql.exec<Row>(query, ...binds).toArray()
  }

  #one(query: string, ...binds: SqlStorageValue[]): Row | null {
    return this.#all(query, ...binds)[0] ?? null
  }
}

function prefixed(table: string): string {
  return BATCH.split(', ')
    .map((column) => `${table}.${column}`)
    .join(', ')
}

function logOf(row: Row): LogState {
  return {
    origin: row['origin'] as string,
    did: row['did'] as string,
    vkey: row['vkey'] as string,
    isOwn: row['is_own'] === 1,
    commonHeight: Number(row['common_height']),
    tipHeight: Number(row['tip_height']),
    tipRoot: row['tip_root'] as string,
    tipSize: Number(row['tip_size']),
    tipAt: row['tip_at'] === null ? null : Number(row['tip_at']),
    conflicts: JSON.parse(row['conflicts'] as string) as Conflict[],
  }
}

/** The first conflicts and the last, each with so many rivals: a thief can sign any number, at each height. */
function kept(conflicts: readonly Conflict[]): readonly Conflict[] {
  const shown =
    conflicts.length <= MAX_CONFLICTS
      ? conflicts
      : [...conflicts.slice(0, MAX_CONFLICTS - 1), conflicts.at(-1)!]
  return shown.map((conflict) => {
    const { candidates, winner, lines } = conflict
    if (candidates.length <= SHOWN_RIVALS) return conflict
    const others = candidates.filter(({ root }) => root !== winner)
    const first = candidates.filter(({ root }) => root === winner)
    return {
      ...conflict,
      candidates: [...first, ...others].slice(0, SHOWN_RIVALS),
      lines: [...lines.slice(0, SHOWN_LINES), '…', lines.at(-1)!],
    }
  })
}

function nodeOf(row: Row): BatchNode {
  return {
    height: Number(row['height']),
    root: row['root'] as string,
    previousRoot: row['previous_root'] as string,
    treeSize: Number(row['tree_size']),
  }
}

function batchOf(row: Row): StoredBatch {
  return {
    ...nodeOf(row),
    id: Number(row['id']),
    origin: row['origin'] as string,
    firstIndex: Number(row['first_index']),
    count: Number(row['count']),
    batchRoot: row['batch_root'] as string,
    sealedAt: Number(row['sealed_at']),
    manifest: row['manifest'] as string,
    checkpoint: row['checkpoint'] as string,
    state: row['state'] as StoredBatch['state'],
    source: row['source'] as string,
    reason: row['reason'] === null ? null : (row['reason'] as string),
    tries: Number(row['tries']),
    parts: Number(row['parts']),
    seen: Number(row['seen']),
    begunBy: row['begun_by'] === null ? null : (row['begun_by'] as string),
    begunAt: Number(row['begun_at'] ?? 0),
    until: row['until'] === null ? null : Number(row['until']),
    learnedAt: Number(row['learned_at']),
  }
}

function proofOf(row: Row): StoredProof {
  return {
    id: Number(row['id']),
    origin: row['origin'] as string,
    root: row['root'] as string,
    treeSize: Number(row['tree_size']),
    chain: row['chain'] as StoredProof['chain'],
    network: row['network'] as string,
    txHash: row['tx_hash'] as string,
    anchoredAt: Number(row['anchored_at']),
    receipt: row['receipt'] as string,
    state: row['state'] as ProofState,
    tries: Number(row['tries']),
  }
}
