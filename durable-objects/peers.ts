/**
 * The allow-listed peers of a node: who they are, where they are, which keys speak for them, how they do.
 *
 * Stored (SQLite):
 *   peers    one row a DID of the allow-list; a DID that leaves the list keeps its row, unlisted
 *   replays  envelopes already heard, until they could not be valid any more
 *   refusals how often what was refused, by code
 *
 * Invariant: a row's statements are a chain that verifies from its DID; they only ever grow. Two statements for
 * one epoch freeze the peer (`key-conflict`) until the operator decides.
 */

import { canonicalDid } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { PeerEntry } from '#core/federation-config.ts'
import { mergeStatements, verifyStatements, type KeyHistory } from '#core/rotation.ts'

export const PEERS_SCHEMA = `
CREATE TABLE IF NOT EXISTS peers (did TEXT PRIMARY KEY, listed INTEGER NOT NULL, position INTEGER NOT NULL DEFAULT 0, url TEXT, origin TEXT, vkey TEXT, witness TEXT,
  statements TEXT NOT NULL DEFAULT '[]', node_id TEXT, heard_at INTEGER, answered_at INTEGER, failures INTEGER NOT NULL DEFAULT 0,
  next_at INTEGER NOT NULL DEFAULT 0, error TEXT, feed_id TEXT, cursor INTEGER NOT NULL DEFAULT 0, last TEXT, feed_end INTEGER NOT NULL DEFAULT 0,
  law_hash TEXT, tips TEXT NOT NULL DEFAULT '[]', faults INTEGER NOT NULL DEFAULT 0, key_conflict TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS replays (key TEXT PRIMARY KEY, until INTEGER NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS replays_age ON replays (until);
CREATE TABLE IF NOT EXISTS refusals (code TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID;`

/** First wait after a failed visit; doubles to five minutes, so that a dead peer costs next to nothing. */
const FIRST_WAIT_MS = 1000
const MAX_WAIT_MS = 300_000

/** A tip as a peer told it: hearsay, for the view and the mesh root. */
export interface ToldTip {
  readonly origin: string
  readonly height: number
  readonly treeSize: number
  readonly root: string
}

/** A peer. */
export interface Peer {
  /** Canonical. */
  readonly did: string
  readonly url: string | null
  readonly origin: string | null
  readonly vkey: string | null
  /** Its witness key as a vkey. */
  readonly witness: string | null
  readonly statements: readonly string[]
  readonly nodeId: string | null
  /** When an envelope of its came last, and when it last answered one. */
  readonly heardAt: number | null
  readonly answeredAt: number | null
  readonly failures: number
  readonly nextAt: number
  readonly error: string | null
  readonly feedId: string | null
  /** How far its feed was read, and how far it goes. */
  readonly cursor: number
  readonly feedEnd: number
  /** Digest of the item at `cursor`: a peer that was put back in time numbers others alike. */
  readonly last: string | null
  readonly lawHash: string | null
  readonly tips: readonly ToldTip[]
  /** What it sent that was signed by nobody it could speak for, or was no batch or proof at all. */
  readonly faults: number
  readonly keyConflict: { readonly epoch: number; readonly a: string; readonly b: string } | null
}

type Row = Record<string, SqlStorageValue>

export class Peers {
  readonly #sql: SqlStorage
  readonly #histories = new Map<string, { readonly text: string; readonly history: KeyHistory }>()
  /** Refusals that are not stored yet. */
  readonly #refusals = new Map<string, number>()

  constructor(sql: SqlStorage) {
    this.#sql = sql
  }

  /** Takes the allow-list over; what the configuration says of a peer outranks what it says of itself. */
  list(entries: readonly PeerEntry[]): void {
    // A witness is taken at its first word, until the list is read again: each key costs our checkpoint a line.
    this.#sql.exec('UPDATE peers SET listed = 0, witness = NULL')
    for (const [position, { canonical, url, origin, vkey }] of entries.entries()) {
      this.#sql.exec(
        `INSERT INTO peers (did, listed, position, url, origin, vkey) VALUES (?1, 1, ?2, ?3, ?4, ?5)
         ON CONFLICT (did) DO UPDATE SET listed = 1, position = ?2, url = coalesce(?3, url), origin = coalesce(?4, origin), vkey = coalesce(?5, vkey), next_at = 0`,
        canonical,
        position,
        url,
        origin,
        vkey,
      )
    }
  }

  /** A listed peer, or null. */
  get(did: string): Peer | null {
    const row = this.#sql
      .exec<Row>('SELECT * FROM peers WHERE did = ? AND listed = 1', canonicalDid(did))
      .toArray()[0]
    return row === undefined ? null : peerOf(row)
  }

  /** Every listed peer, in the order of the list. */
  all(): Peer[] {
    return this.#sql
      .exec<Row>('SELECT * FROM peers WHERE listed = 1 ORDER BY position')
      .toArray()
      .map(peerOf)
  }

  /** The keys of a DID, listed or not: also a peer that left signed what it signed. */
  async history(did: string): Promise<KeyHistory> {
    const canonical = canonicalDid(did)
    const row = this.#sql
      .exec<{ statements: string }>('SELECT statements FROM peers WHERE did = ?', canonical)
      .toArray()[0]
    const text = row?.statements ?? '[]'
    const known = this.#histories.get(canonical)
    if (known?.text === text) return known.history
    const history = await verifyStatements(canonical, JSON.parse(text) as string[])
    this.#histories.set(canonical, { text, history })
    return history
  }

  /**
   * The keys of a peer with `statements` added, not stored yet. Throws `bad-rotation` and the like; `conflict` is
   * set if they contradict what is known.
   */
  async merged(
    peer: Peer,
    statements: readonly string[],
  ): Promise<{ readonly history: KeyHistory; readonly conflict: Peer['keyConflict'] }> {
    const merged = await mergeStatements(peer.did, peer.statements, statements)
    const history = await verifyStatements(peer.did, merged.statements)
    return { history, conflict: merged.conflict }
  }

  learnStatements(did: string, history: KeyHistory): void {
    this.#sql.exec(
      'UPDATE peers SET statements = ? WHERE did = ?',
      JSON.stringify(history.statements),
      did,
    )
    this.readAgain()
  }

  freeze(did: string, conflict: NonNullable<Peer['keyConflict']>): void {
    this.#sql.exec(
      'UPDATE peers SET key_conflict = ? WHERE did = ? AND key_conflict IS NULL',
      JSON.stringify(conflict),
      did,
    )
  }

  /** The operator has looked: the statements known before stand. False if it was not frozen. */
  thaw(did: string): boolean {
    return (
      this.#sql
        .exec(
          'UPDATE peers SET key_conflict = NULL WHERE did = ? AND key_conflict IS NOT NULL RETURNING did',
          canonicalDid(did),
        )
        .toArray().length > 0
    )
  }

  /** What a verified envelope said of its sender. Only what is not known yet is taken from it. */
  introduce(
    did: string,
    said: {
      readonly url: string | null
      readonly origin: string | null
      readonly vkey: string | null
    },
  ): void {
    this.#sql.exec(
      'UPDATE peers SET url = coalesce(?, url), origin = coalesce(origin, ?), vkey = coalesce(vkey, ?) WHERE did = ?',
      said.url,
      said.origin,
      said.vkey,
      did,
    )
  }

  /** A peer's log was ended, and the peer has opened the one that follows. */
  succeeded(did: string, log: { readonly origin: string; readonly vkey: string }): void {
    this.#sql.exec('UPDATE peers SET origin = ?, vkey = ? WHERE did = ?', log.origin, log.vkey, did)
  }

  /** An envelope of a peer was heard. */
  heard(
    did: string,
    said: {
      readonly nodeId: string
      readonly witness: string | null
      readonly lawHash: string
      readonly feedId: string
      readonly feedEnd: number
      readonly tips: readonly ToldTip[]
    },
    { nowAt, isAnswer }: { readonly nowAt: number; readonly isAnswer: boolean },
  ): void {
    // Another feed (a peer that lost its state) is read from its beginning, and so is one that shrank. That is judged by
    // answers alone: they come one after another, while an envelope may be overtaken.
    this.#sql.exec(
      `UPDATE peers SET node_id = ?2, witness = coalesce(witness, ?3), law_hash = ?4, cursor = iif(feed_id IS ?5 AND (cursor <= ?6 OR NOT ?9), cursor, 0), feed_id = ?5, feed_end = ?6,
         tips = ?7, heard_at = ?8 WHERE did = ?1`,
      did,
      said.nodeId,
      said.witness,
      said.lawHash,
      said.feedId,
      said.feedEnd,
      JSON.stringify(said.tips),
      nowAt,
      isAnswer ? 1 : 0,
    )
    if (isAnswer) {
      this.#sql.exec('UPDATE peers SET answered_at = ? WHERE did = ?', nowAt, did)
    } else {
      // It lives: whatever wait was left over from an outage is over.
      this.#sql.exec('UPDATE peers SET next_at = 0 WHERE did = ?', did)
    }
  }

  /** A visit went well to its end. */
  visited(did: string): void {
    this.#sql.exec(
      'UPDATE peers SET failures = 0, next_at = 0, error = NULL WHERE did = ? AND failures > 0',
      did,
    )
  }

  /** A visit failed: the next one waits 1 s, 2 s, … up to five minutes. */
  failed(did: string, error: string, nowAt: number): void {
    this.#sql.exec(
      'UPDATE peers SET failures = failures + 1, error = ?2, next_at = ?3 + min(?4, ?5 * (1 << min(failures, 20))) WHERE did = ?1',
      did,
      error,
      nowAt,
      MAX_WAIT_MS,
      FIRST_WAIT_MS,
    )
  }

  /** A peer's feed was read up to an item, of which `last` is the digest. */
  read(did: string, cursor: number, last: string | null = null): void {
    this.#sql.exec('UPDATE peers SET cursor = ?, last = ? WHERE did = ?', cursor, last, did)
  }

  /** What was passed over, because nobody knew its log or its signer, is known now: all feeds are read again. */
  readAgain(): void {
    this.#sql.exec('UPDATE peers SET cursor = 0, last = NULL')
  }

  fault(did: string): void {
    this.#sql.exec('UPDATE peers SET faults = faults + 1 WHERE did = ?', did)
  }

  /** Remembers an envelope; throws `replayed-envelope` if it was heard before. */
  once(key: string, until: number): void {
    const added = this.#sql
      .exec(
        'INSERT INTO replays (key, until) VALUES (?, ?) ON CONFLICT DO NOTHING RETURNING key',
        key,
        until,
      )
      .toArray()
    if (added.length === 0) {
      throw new VaultMeshError('replayed-envelope', 'An envelope with this jti was heard before.')
    }
  }

  forgetReplays(nowAt: number): void {
    this.#sql.exec('DELETE FROM replays WHERE until < ?', nowAt)
  }

  /** Counts a refusal, in memory: whoever sends what is refused must not cost a write each time. */
  refused(code: string, count = 1): void {
    this.#refusals.set(code, (this.#refusals.get(code) ?? 0) + count)
  }

  /** Adds what was counted since to what is stored; each round. */
  storeRefusals(): void {
    for (const [code, count] of this.#refusals) {
      this.#sql.exec(
        'INSERT INTO refusals (code, count) VALUES (?1, ?2) ON CONFLICT (code) DO UPDATE SET count = count + ?2',
        code,
        count,
      )
      this.#refusals.delete(code)
    }
  }

  /** How often what was refused, by problem code. */
  refusals(): Readonly<Record<string, number>> {
    this.storeRefusals()
    const rows = this.#sql
      .exec<{ code: string; count: number }>('SELECT code, count FROM refusals ORDER BY code')
      .toArray()
    return Object.fromEntries(rows.map(({ code, count }) => [code, count]))
  }
}

function peerOf(row: Row): Peer {
  const text = (name: string): string | null => (row[name] === null ? null : (row[name] as string))
  const number = (name: string): number | null => (row[name] === null ? null : Number(row[name]))
  return {
    did: row['did'] as string,
    url: text('url'),
    origin: text('origin'),
    vkey: text('vkey'),
    witness: text('witness'),
    statements: JSON.parse(row['statements'] as string) as string[],
    nodeId: text('node_id'),
    heardAt: number('heard_at'),
    answeredAt: number('answered_at'),
    failures: Number(row['failures']),
    nextAt: Number(row['next_at']),
    error: text('error'),
    feedId: text('feed_id'),
    cursor: Number(row['cursor']),
    feedEnd: Number(row['feed_end']),
    last: text('last'),
    lawHash: text('law_hash'),
    tips: JSON.parse(row['tips'] as string) as ToldTip[],
    faults: Number(row['faults']),
    keyConflict:
      row['key_conflict'] === null
        ? null
        : (JSON.parse(row['key_conflict'] as string) as Peer['keyConflict']),
  }
}
