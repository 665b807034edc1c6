/**
 * Erasure in mirrors: what the operator of a log erased there goes from the copies here, too (design §3).
 *
 * Stored (SQLite): stones   one row for each `vm.erased` event of a log's operator that was met in its batches, with the
 *                           heights still to be searched for its target: from its own batch down to 1, then up
 *
 * A stone counts once its batch is verified: then the log's key has signed that the event is in it. From the moment it is
 * known, a part that holds its target is stored with the tombstone in it, whoever sends it with the bytes. What was
 * stored before is looked through batch by batch by its entries, a few in a round; each step is idempotent, and the
 * cursor moves after it. Only the log's operator is obeyed: whose event the target was can be told by those alone who
 * have its bytes, and a tombstone must be judged by those, too, who never had them. A signer's wish comes as the
 * operator's event that names it. What the law forbids to erase (core/erasure.ts) stays here, whoever signed.
 */

import { canonicalDid } from '#core/did.ts'
import { hashFromHex, toHex, utf8, type Hash } from '#core/bytes.ts'
import { EVENT_TYP, openEnvelope } from '#core/envelope.ts'
import {
  entryOf,
  formatTombstone,
  isTombstone,
  judgeErasure,
  linesOf,
  mentionsErasure,
  openErasure,
  withLine,
} from '#core/erasure.ts'
import { VaultMeshError } from '#core/errors.ts'
import { HASH_BYTES } from '#core/merkle.ts'
import { Signers } from '#core/signer.ts'
import { getBytes } from '#store/bucket.ts'
import { entriesKey, mirrorEventsKey } from '#store/mirror.ts'
import type { Ledger, StoredBatch } from './ledger.ts'

export const STONES_SCHEMA = `
CREATE TABLE IF NOT EXISTS stones (origin TEXT NOT NULL, target TEXT NOT NULL, event TEXT NOT NULL, batch INTEGER NOT NULL,
  height INTEGER NOT NULL, down INTEGER NOT NULL, up INTEGER NOT NULL, state TEXT NOT NULL, PRIMARY KEY (origin, target, batch)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS stones_due ON stones (origin) WHERE state = 'due';`

/** Stones looked at, and batches looked through for each, in one round. */
const STONES_AT_ONCE = 4
const BATCHES_AT_ONCE = 25
/** A target was accepted before its erasure, so it is sealed at most a backlog later than that. */
const BATCHES_AFTER = 100

/** Whose erasures of a log count: identity keys of its operator. */
export type IsOperator = (keyDid: string) => boolean

interface Stone {
  readonly target: string
  readonly batch: number
  /** The vm.erased event. */
  readonly event: string
  readonly height: number
  readonly down: number
  readonly up: number
}

const signers = new Signers(EVENT_TYP)

/** The stones of all mirrored logs. */
export class MirrorErasures {
  readonly #env: Env
  readonly #sql: SqlStorage
  readonly #ledger: Ledger

  constructor(env: Env, storage: DurableObjectStorage, ledger: Ledger) {
    this.#env = env
    this.#sql = storage.sql
    this.#ledger = ledger
  }

  /** Notes the erasures in a part of a batch, and returns the part as it may be stored: what was erased as tombstones. */
  async admit(
    batch: StoredBatch,
    part: Uint8Array,
    { firstIndex, isOperator }: { readonly firstIndex: number; readonly isOperator: IsOperator },
  ): Promise<Uint8Array> {
    if (mentionsErasure(part)) {
      for (const { line } of linesOf(part)) {
        if (!isTombstone(line) && mentionsErasure(line)) await this.#note(batch, line, isOperator)
      }
    }
    const known = this.#known(batch.origin)
    if (known.size === 0) return part
    let out = part
    // From the end, so that offsets before a line stay.
    for (const [i, at] of [...[...linesOf(part)].entries()].toReversed()) {
      const event = known.get(toHex(entryOf(at.line)))
      if (event === undefined || !(await mayGo(at.line, event, isOperator))) continue
      const eventHash = entryOf(at.line)
      out = withLine(
        out,
        at,
        formatTombstone({ leafIndex: firstIndex + i, eventHash, erasedBy: event }),
      )
    }
    return out
  }

  /** A line that is no `vm.erased` of the operator after all is like any other: its batch is judged by its hash alone. */
  async #note(batch: StoredBatch, line: Uint8Array, isOperator: IsOperator): Promise<void> {
    const erasure = await openErasure(line).catch((error: unknown) => {
      if (error instanceof VaultMeshError) return null
      throw error
    })
    if (erasure === null || !isOperator(erasure.open.signer.did)) return
    this.#sql.exec(
      "INSERT INTO stones (origin, target, event, batch, height, down, up, state) VALUES (?1, ?2, ?3, ?4, ?5, ?5, ?5 + 1, 'due') ON CONFLICT DO NOTHING",
      batch.origin,
      erasure.eventHash.slice(7),
      new TextDecoder().decode(line),
      batch.id,
      batch.height,
    )
  }

  /** Targets of a log and the events that erased them, of verified batches. */
  #known(origin: string): ReadonlyMap<string, string> {
    const rows = this.#sql
      .exec<{ target: string; event: string }>(
        "SELECT s.target, s.event FROM stones s JOIN batches b ON b.id = s.batch AND b.state = 'verified' WHERE s.origin = ? AND s.state <> 'refused'",
        origin,
      )
      .toArray()
    return new Map(rows.map(({ target, event }) => [target, event]))
  }

  /** Goes on looking for what is to go from the copies of a log. True if there is more to look through. */
  async advance(origin: string, isOperator: IsOperator): Promise<boolean> {
    const due = this.#sql
      .exec<
        Record<'target' | 'event', string> & Record<'batch' | 'height' | 'down' | 'up', number>
      >(
        `SELECT s.target, s.batch, s.event, s.height, s.down, s.up FROM stones s INDEXED BY stones_due
           JOIN batches b ON b.id = s.batch AND b.state = 'verified' WHERE s.origin = ? AND s.state = 'due' LIMIT ${STONES_AT_ONCE}`,
        origin,
      )
      .toArray()
    for (const stone of due) await this.#search(origin, stone, isOperator)
    return due.length > 0
  }

  async #search(origin: string, stone: Stone, isOperator: IsOperator): Promise<void> {
    let { down, up } = stone
    const newest = this.#ledger.log(origin)?.tipHeight ?? 0
    for (let i = 0; i < BATCHES_AT_ONCE; i++) {
      const isDown = down > 0
      if (!isDown && up > Math.min(newest, stone.height + BATCHES_AFTER)) break
      const found = await this.#scrub(origin, isDown ? down : up, { stone, isOperator })
      if (isDown) down--
      else up++
      if (found === null) continue
      this.#settle(origin, stone, found)
      return
    }
    if (down === 0 && up > stone.height + BATCHES_AFTER) this.#settle(origin, stone, 'absent')
    else {
      this.#sql.exec(
        'UPDATE stones SET down = ?4, up = ?5 WHERE origin = ?1 AND target = ?2 AND batch = ?3',
        origin,
        stone.target,
        stone.batch,
        down,
        up,
      )
    }
  }

  #settle(origin: string, { target }: Stone, state: 'done' | 'refused' | 'absent'): void {
    this.#sql.exec(
      'UPDATE stones SET state = ?3 WHERE origin = ?1 AND target = ?2',
      origin,
      target,
      state,
    )
  }

  /** Looks through the batches of a height, rivals and unfinished ones too; null if the target is in none. */
  async #scrub(
    origin: string,
    height: number,
    { stone, isOperator }: { readonly stone: Stone; readonly isOperator: IsOperator },
  ): Promise<'done' | 'refused' | null> {
    let found: 'done' | 'refused' | null = null
    const target = hashFromHex(stone.target)
    for (const { batchRoot, firstIndex } of this.#ledger.batchesAt(origin, height)) {
      let seen = 0
      for (let part = 0; ; part++) {
        const where = { height, batchRoot, part }
        const packed = await getBytes(this.#env.BUCKET, entriesKey(origin, where))
        if (packed === null) break
        const at = indexOf(packed, target)
        if (at >= 0) {
          const place = { key: mirrorEventsKey(origin, where), leafIndex: firstIndex + seen + at }
          found = await this.#replace(place, stone, isOperator)
        }
        seen += packed.length / HASH_BYTES
      }
    }
    return found
  }

  async #replace(
    { key, leafIndex }: { readonly key: string; readonly leafIndex: number },
    { target, event }: Stone,
    isOperator: IsOperator,
  ): Promise<'done' | 'refused'> {
    const part = await getBytes(this.#env.BUCKET, key)
    if (part === null) throw new VaultMeshError('bad-state', `R2 lacks ${key}.`)
    const eventHash = hashFromHex(target)
    for (const at of linesOf(part)) {
      if (toHex(entryOf(at.line)) !== target) continue
      if (isTombstone(at.line)) return 'done'
      if (!(await mayGo(at.line, event, isOperator))) return 'refused'
      const line = formatTombstone({ leafIndex, eventHash, erasedBy: event })
      await this.#env.BUCKET.put(key, withLine(part, at, line), {
        httpMetadata: { contentType: 'application/x-ndjson' },
      })
      return 'done'
    }
    throw new VaultMeshError('bad-state', `${key} is not what its entries say.`)
  }
}

/** Whether the law lets the operator's event erase what a line holds; never a tombstone, which is one already. */
async function mayGo(line: Uint8Array, event: string, isOperator: IsOperator): Promise<boolean> {
  if (isTombstone(line)) return false
  try {
    const [target, eraser] = await Promise.all([
      openEnvelope(line, signers),
      openEnvelope(utf8(event), signers),
    ])
    const party = ({ event: { type }, signer: { did } }: typeof target) => ({
      type,
      signer: canonicalDid(did),
      isOperator: isOperator(did),
    })
    judgeErasure(party(target), party(eraser))
    return true
  } catch (error) {
    // What cannot be read as an event is content like any other, and the operator wants it gone.
    if (error instanceof VaultMeshError) return error.code !== 'erasure-refused'
    throw error
  }
}

/** Which of packed entries equals `hash`; -1 if none does. */
function indexOf(packed: Uint8Array, hash: Hash): number {
  const wanted = toHex(hash)
  for (let at = 0; at < packed.length; at += HASH_BYTES) {
    if (packed[at] !== hash[0] || packed[at + 1] !== hash[1]) continue
    if (toHex(packed.subarray(at, at + HASH_BYTES)) === wanted) return at / HASH_BYTES
  }
  return -1
}
