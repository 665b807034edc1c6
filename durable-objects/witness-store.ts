/**
 * What a node has cosigned for the logs it witnesses (C2SP tlog-witness v1.0.0), and how far the
 * witnesses it submits its own log to have come.
 *
 * Stored (SQLite), never deleted:
 *   witness_cosigned  per origin the latest tree cosigned, with the note that says so
 *   witness_rivals    other roots that an origin signed at a size cosigned here, with both notes
 *   witness_sizes     per witness and origin the size that the witness said it cosigned last
 *
 * Invariant: the size of an origin never shrinks, and one size never has two roots; who was cosigned first
 * stays. Gate: a cosignature is made before the transaction that stores it, and leaves only if the tree it
 * was judged by was still the latest in there; the loser of a race is judged anew. So a cosignature that
 * nobody stored is never seen, and one that was stored and not seen costs its log one 409.
 */

import {
  TEXT_TYPE,
  cosignatureLines,
  judgeCheckpoint,
  malformed,
  ownSignatureOnly,
  parseAddCheckpoint,
  type AddCheckpointRequest,
  type CosignedTree,
  type Refusal,
} from '#core/add-checkpoint.ts'
import { hashFromHex, toHex, utf8 } from '#core/bytes.ts'
import { addSignatures, cosignCheckpoint } from '#core/checkpoint.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'
import type { NoteSigner, VerifierKey } from '#core/signed-note.ts'

/** Rival roots kept for an origin; one is evidence enough. */
export const MAX_RIVALS = 16
/**
 * A cosignature says "as of this time the largest I saw": of two, the later must not say an earlier time.
 * Requests race within milliseconds; a clock that was set back by more than a minute is believed.
 */
const MAX_BACK_MS = 60_000

/** What of `ctx.storage.sql` is used. */
export interface Sql {
  exec(
    query: string,
    ...bindings: (string | number)[]
  ): { toArray(): Readonly<Record<string, unknown>>[] }
}

/** What of `ctx.storage` is used. */
export interface Transactions {
  transactionSync<T>(body: () => T): T
}

/** The latest tree cosigned for an origin. */
export interface CosignedHead extends CosignedTree {
  /** The checkpoint with the log's signature and our latest cosignature. */
  readonly note: string
  readonly cosignedAt: number
}

/** Evidence of a fork: two roots at one size, both signed by the log. */
export interface Rival {
  readonly origin: string
  readonly size: number
  /** 64 hex digits: the root that was not cosigned. */
  readonly root: string
  /** The checkpoint of that root, with the log's signature. */
  readonly note: string
  /** The checkpoint that was cosigned, with the log's signature and ours. */
  readonly cosigned: string
}

/** Whom a witness knows, and as whom it signs. */
export interface WitnessRole {
  /** The key, type 0x01, that the origin's log signs with; null if it is not witnessed. */
  readonly logOf: (origin: string) => VerifierKey | null
  /** A key of type 0x04. */
  readonly witness: NoteSigner
  readonly nowAt: number
}

/** The answer to a request. */
export interface WitnessAnswer {
  readonly status: 200 | Refusal['status']
  readonly body: string
  readonly contentType: string
  /** What this request proves against its log. */
  readonly rival: Rival | null
}

/** A witness's memory within a Durable Object, which runs `SCHEMA` first. */
export class WitnessStore {
  static readonly SCHEMA = `
CREATE TABLE IF NOT EXISTS witness_cosigned (origin TEXT PRIMARY KEY, log TEXT NOT NULL UNIQUE, size INTEGER NOT NULL,
  root TEXT NOT NULL, note TEXT NOT NULL, cosigned_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS witness_rivals (origin TEXT NOT NULL, size INTEGER NOT NULL, root TEXT NOT NULL,
  note TEXT NOT NULL, cosigned TEXT NOT NULL, seen_at INTEGER NOT NULL, PRIMARY KEY (origin, size, root));
CREATE TABLE IF NOT EXISTS witness_sizes (url TEXT NOT NULL, origin TEXT NOT NULL, size INTEGER NOT NULL,
  heard_at INTEGER NOT NULL, PRIMARY KEY (url, origin)) WITHOUT ROWID;`

  readonly #sql: Sql
  readonly #storage: Transactions

  constructor(sql: Sql, storage: Transactions) {
    this.#sql = sql
    this.#storage = storage
  }

  /** What was cosigned last for `origin`. */
  latest(origin: string): CosignedHead | null {
    const row = this.#rows<{ size: number; root: string; note: string; cosigned_at: number }>(
      'SELECT size, root, note, cosigned_at FROM witness_cosigned WHERE origin = ?',
      origin,
    )[0]
    if (row === undefined) return null
    const { size, note, cosigned_at: cosignedAt } = row
    return { size, root: hashFromHex(row.root), note, cosignedAt }
  }

  /** The note cosigned last for the origin whose SHA-256 is `log`, 64 hex digits; null if there is none. */
  cosigned(log: string): string | null {
    const query = 'SELECT note FROM witness_cosigned WHERE log = ?'
    return this.#rows<{ note: string }>(query, log)[0]?.note ?? null
  }

  /** The rival roots of every log ever witnessed here, at most 16 of each, by origin and size. */
  rivals(): Rival[] {
    return this.#rows<Rival & Record<string, unknown>>(
      'SELECT origin, size, root, note, cosigned FROM witness_rivals ORDER BY origin, size, root',
    ).map(({ origin, size, root, note, cosigned }) => ({ origin, size, root, note, cosigned }))
  }

  /** Answers add-checkpoint; what it cosigns is stored before it returns. */
  async addCheckpoint(body: Uint8Array, role: WitnessRole): Promise<WitnessAnswer> {
    const request = read(body)
    if ('kind' in request) return answer(request)
    const { origin } = request.checkpoint
    const log = role.logOf(origin)
    for (;;) {
      const latest = this.latest(origin)
      const judgement = await judgeCheckpoint({ request, log, latest })
      if (judgement.kind === 'refuse') {
        if (!judgement.rival) return answer(judgement)
        const rival = rivalOf(request, log!, latest!)
        this.#keepRival(rival, role.nowAt)
        return answer(judgement, rival)
      }
      const at = signedAt(role.nowAt, latest)
      const signature = await cosignCheckpoint(judgement.text, role.witness, Math.floor(at / 1000))
      const note = addSignatures(ownSignatureOnly(request.note, log!), [signature])
      const { size, root } = judgement.checkpoint
      if (this.#advance(origin, latest, { size, root, note, cosignedAt: at })) {
        const lines = cosignatureLines([signature])
        return { status: 200, body: lines, contentType: TEXT_TYPE, rival: null }
      }
      // Somebody else was cosigned meanwhile. That can happen as often as the size has grown.
    }
  }

  /** The size to send as `old` to the witness at `url`; 0 if it never said. */
  knownSize(url: string, origin: string): number {
    const query = 'SELECT size FROM witness_sizes WHERE url = ? AND origin = ?'
    return this.#rows<{ size: number }>(query, url, origin)[0]?.size ?? 0
  }

  /** Remembers what the witness at `url` said it cosigned last; it may have lost its memory and say less. */
  learnSize(said: {
    readonly url: string
    readonly origin: string
    readonly size: number
    readonly nowAt: number
  }): void {
    this.#sql.exec(
      'INSERT INTO witness_sizes (url, origin, size, heard_at) VALUES (?, ?, ?, ?) ON CONFLICT (url, origin) DO UPDATE SET size = excluded.size, heard_at = excluded.heard_at',
      said.url,
      said.origin,
      said.size,
      said.nowAt,
    )
  }

  /** Stores `next` if what was cosigned last is still `judgedBy`; false if it is not. */
  #advance(origin: string, judgedBy: CosignedTree | null, next: CosignedHead): boolean {
    return this.#storage.transactionSync(() => {
      // One size has one root, so the size says it all.
      if (this.latest(origin)?.size !== judgedBy?.size) return false
      this.#sql.exec(
        'INSERT INTO witness_cosigned (origin, log, size, root, note, cosigned_at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root, note = excluded.note, cosigned_at = excluded.cosigned_at',
        origin,
        toHex(sha256(utf8(origin))),
        next.size,
        toHex(next.root),
        next.note,
        next.cosignedAt,
      )
      return true
    })
  }

  #keepRival({ origin, size, root, note, cosigned }: Rival, nowAt: number): void {
    this.#sql.exec(
      `INSERT INTO witness_rivals (origin, size, root, note, cosigned, seen_at) SELECT ?1, ?2, ?3, ?4, ?5, ?6
  WHERE (SELECT count(*) FROM witness_rivals WHERE origin = ?1) < ${MAX_RIVALS} ON CONFLICT DO NOTHING`,
      origin,
      size,
      root,
      note,
      cosigned,
      nowAt,
    )
  }

  #rows<T>(query: string, ...bindings: (string | number)[]): T[] {
    return this.#sql.exec(query, ...bindings).toArray() as T[]
  }
}

function read(body: Uint8Array): AddCheckpointRequest | Refusal {
  try {
    return parseAddCheckpoint(body)
  } catch (error) {
    if (error instanceof VaultMeshError) return malformed(error)
    throw error
  }
}

function answer(refusal: Refusal, rival: Rival | null = null): WitnessAnswer {
  const { status, body, contentType } = refusal
  return { status, body, contentType, rival }
}

function rivalOf(
  { checkpoint: { origin, size, root }, note }: AddCheckpointRequest,
  log: VerifierKey,
  cosigned: CosignedHead,
): Rival {
  const own = ownSignatureOnly(note, log)
  return { origin, size, root: toHex(root), note: own, cosigned: cosigned.note }
}

function signedAt(nowAt: number, latest: CosignedHead | null): number {
  const before = latest?.cosignedAt ?? 0
  return before - nowAt <= MAX_BACK_MS ? Math.max(before, nowAt) : nowAt
}
