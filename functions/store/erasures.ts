/**
 * Erasures: who may, and carrying them out (design §3, docs/erasure.md).
 *
 * The log decides. A `vm.erased` event that intake takes is durable like any other; the transaction that indexes it
 * leaves a row in D1 that it is due, and `carryOut`, run after each seal and each minute, does what rows are due:
 *   signer's    its event is a wish: the node posts its own `vm.erased` for it (one for each target, by its id), which
 *               is what tombstones carry and the only one that peers act upon
 *   operator's  1 pools    the eventHash is marked, signing hash, waiting copy and leftover bytes are gone
 *               2 index    the row of the event says nothing any more; its webhooks and what they were told are gone
 *               3 bundle   the vm.erased event is kept beside it (`erased/<eventHash>`), then one write puts a tombstone of
 *                          the same length on the line; copies in mirrors of the own log go, too
 *               4 names    source and type are forgotten unless other events have them
 * Rights are judged again before the first of them, on the bytes. Each step is idempotent and `step` is written after
 * it; a crash, a lost reply or a second hand repeats a step and changes nothing. From 2 on readers get 410. A store that
 * does not answer leaves the row due, later and later, for an hour at most between two attempts.
 */

import {
  concat,
  equal,
  fromBase64Url,
  fromUtf8,
  hashFromHex,
  join,
  toHex,
  utf8,
  type Hash,
} from '#core/bytes.ts'
import { canonicalDid } from '#core/did.ts'
import { EVENT_TYP, openEnvelope, readEvent, type OpenEnvelope } from '#core/envelope.ts'
import {
  entryOf,
  eraserOf,
  ERASURE_TYPE,
  formatTombstone,
  isTombstone,
  judgeErasure,
  linesOf,
  mentionsErasure,
  parseErasure,
  parseTombstone,
  readErasure,
  verifyTombstone,
  withLine,
  type Erasure,
  type Party,
} from '#core/erasure.ts'
import { VaultMeshError } from '#core/errors.ts'
import { signJws } from '#core/node-keys.ts'
import { isValidKey, wasEverKey } from '#core/rotation.ts'
import { sha256 } from '#core/sha256.ts'
import { Signers } from '#core/signer.ts'
import { parseStrictJson } from '#core/strict-json.ts'
import { isoTime } from '#core/time.ts'
import { eventsKey, getBytes, putImmutable } from '#store/bucket.ts'
import { identityOf, shardOf } from '#store/event-identity.ts'
import {
  askOf,
  ERASED_AT,
  erasedProblem,
  eraserOfLeaf,
  eventLine,
  findEvent,
  type IndexedEvent,
} from '#store/events.ts'
import { nameOfLog } from '#store/mirror.ts'
import { nodeOf, type NodeContext } from '#store/node.ts'

/** The stores in the order in which they are scrubbed. */
export const ERASURE_STORES = ['pools', 'index', 'bundle', 'names'] as const
/** Erasures of one run: the seal and the cron must go on. */
const AT_ONCE = 50
/** The first retry; each doubles, up to an hour. */
const RETRY_MS = 5000
const MAX_RETRY_MS = 3_600_000
/** A target that waits for its seal is looked for again after this time. */
const SEALING_MS = 1000
/** Attempts to find a target before it counts as absent: 11 that double, then one an hour, 30 hours in all. */
const LOOKS = 40

const signers = new Signers(EVENT_TYP)

/**
 * Judges a verified event at intake: nothing to say unless it is a `vm.erased`. Throws `bad-erasure`, `not-found` for a
 * target that this log does not hold, `erased` for one that is gone, `erasure-refused`.
 */
export async function checkErasure(env: Env, node: NodeContext, open: OpenEnvelope): Promise<void> {
  if (open.event.type !== ERASURE_TYPE) return
  if (!mentionsErasure(open.bytes)) {
    throw new VaultMeshError(
      'bad-erasure',
      'An event of type vm.erased: "type" must be written without escapes.',
    )
  }
  const wish = parseErasure(dataOf(open.bytes))
  const isOperator = isValidKey(node.history, open.signer.did, Date.now())
  if (!isOperator && wasEverKey(node.history, open.signer.did)) {
    // It signed the bodies that nobody signed, and may be in other hands: what it said stays.
    throw new VaultMeshError(
      'erasure-refused',
      'An identity key of this node that is not valid now erases nothing.',
    )
  }
  if (wish.request !== null && !isOperator) {
    throw new VaultMeshError(
      'bad-erasure',
      'An event of type vm.erased: "request" is the operator’s.',
    )
  }
  // Posted before, it gets its first answer, whatever became of the target since.
  const identity = identityOf(node, open.signer.canonical, open.event.id)
  if ((await poolOf(env, node, identity).claimed(identity)) !== null) return
  const bytes = await bytesOf(env, node, hashFromHex(wish.eventHash.slice(7)))
  if (bytes === null) {
    throw new VaultMeshError(
      'not-found',
      `This log holds no event ${wish.eventHash}: an event is erased in the log that holds it.`,
    )
  }
  judgeErasure(await partyOf(node, bytes), {
    type: ERASURE_TYPE,
    signer: open.signer.canonical,
    isOperator,
  })
}

/** Like `checkErasure`, for a batch of verified events: those that may go on, and what refused the others. */
export async function checkErasures(
  env: Env,
  node: NodeContext,
  events: readonly OpenEnvelope[],
): Promise<ReadonlyMap<OpenEnvelope, unknown>> {
  const refused = new Map<OpenEnvelope, unknown>()
  for (const open of events) {
    await checkErasure(env, node, open).catch((error: unknown) => refused.set(open, error))
  }
  return refused
}

function dataOf(jws: Uint8Array): unknown {
  const payload = fromUtf8(fromBase64Url(fromUtf8(jws).split('.')[1]!))
  return (parseStrictJson(payload) as Readonly<Record<string, unknown>>)['data']
}

async function partyOf(node: NodeContext, bytes: Uint8Array): Promise<Party> {
  const { event, signer } = await openEnvelope(bytes, signers)
  return {
    type: event.type,
    signer: signer.canonical,
    isOperator: wasEverKey(node.history, signer.did),
  }
}

/** The bytes of an accepted event, sealed or not; null if this log does not hold it. Throws `erased`. */
async function bytesOf(env: Env, node: NodeContext, hash: Hash): Promise<Uint8Array | null> {
  const line = async (at: IndexedEvent): Promise<Uint8Array> => {
    const found = at.isErased ? null : await eventLine(env.BUCKET, at)
    if (found === null || isTombstone(found)) throw erasedProblem(await eraserOfLeaf(env, at))
    return found
  }
  const at = await findEvent(env.DB, hash)
  if (at !== null) return line(at)
  for (let shard = 0; shard < node.config.intakeShards; shard++) {
    const waiting = await env.POOL.getByName(String(shard)).bytes(hash)
    if (waiting !== null) return waiting
  }
  // Sealed and forgotten between the two looks, it is in the index by now.
  const late = await findEvent(env.DB, hash)
  return late === null ? null : line(late)
}

function poolOf(env: Env, node: NodeContext, identity: Hash) {
  return env.POOL.getByName(String(shardOf(identity, node.config.intakeShards)))
}

/**
 * Posts the node's own `vm.erased` event for a target, under an id that the target makes: of several the first stands.
 * Returns the hash of the one that stands. Whether it may is the caller's to have judged.
 */
export async function postErasure(
  env: Env,
  node: NodeContext,
  { eventHash, reasonCode, request }: Erasure,
): Promise<string> {
  const { identity: key } = node
  const event = {
    specversion: '1.0',
    id: `${ERASURE_TYPE}/${eventHash}`,
    source: key.did,
    type: ERASURE_TYPE,
    time: isoTime(Date.now()),
    data: { eventHash, reasonCode, ...(request === null ? {} : { request }) },
  }
  const open = await openEnvelope(utf8(await signJws(key, EVENT_TYP, event)), signers)
  const identity = identityOf(node, open.signer.canonical, open.event.id)
  const { repeats } = await poolOf(env, node, identity).admit(
    shardOf(identity, node.config.intakeShards),
    {
      lengths: Uint32Array.of(open.bytes.length),
      data: open.bytes,
      digests: concat(identity, open.signingHash, open.eventHash),
    },
  )
  return `sha256:${toHex(repeats?.first.get(0)?.eventHash ?? open.eventHash)}`
}

/** The operator's order: judges it and posts the event. Throws as `checkErasure` does. */
export async function orderErasure(
  env: Env,
  node: NodeContext,
  order: Pick<Erasure, 'eventHash' | 'reasonCode'>,
): Promise<string> {
  const wish = parseErasure({ ...order })
  const bytes = await bytesOf(env, node, hashFromHex(wish.eventHash.slice(7)))
  if (bytes === null) {
    throw new VaultMeshError('not-found', `This log holds no event ${wish.eventHash}.`)
  }
  const signer = canonicalDid(node.identity.did)
  judgeErasure(await partyOf(node, bytes), { type: ERASURE_TYPE, signer, isOperator: true })
  return postErasure(env, node, wish)
}

/** How an erasure stands. */
export interface ErasureState {
  /** The event that asks for it, `sha256:<hex>`. */
  readonly erasedBy: string
  readonly state: 'due' | 'done' | 'asked' | 'refused'
  /** Stores that hold nothing of the event any more. */
  readonly scrubbed: readonly string[]
  readonly why: string | null
  readonly failures: number
}

interface Row {
  readonly id: number
  readonly event: string
  readonly state: ErasureState['state']
  readonly step: number
  readonly targetLeaf: number | null
  readonly names: string | null
  readonly why: string | null
  readonly failures: number
}

const COLUMNS = 'id, event, state, step, target_leaf AS targetLeaf, names, why, failures'

/** What was asked for a target, in log order: sealed ones alone. */
export async function erasuresOf(db: D1Database, target: Hash): Promise<ErasureState[]> {
  const { results } = await db
    .prepare(
      `SELECT ${COLUMNS} FROM erasures INDEXED BY erasures_target WHERE target = ? ORDER BY id LIMIT 20`,
    )
    .bind(target)
    .all<Row>()
  return results.map(({ event, state, step, why, failures }) => ({
    erasedBy: `sha256:${toHex(sha256(utf8(event)))}`,
    state,
    scrubbed: ERASURE_STORES.slice(0, step),
    why,
    failures,
  }))
}

/**
 * Carries out what is due; one that fails is put off and does not keep the others. What is due of the target `first`
 * comes before all, also if it was put off: whoever erases without end makes no one else wait. Returns how many were ended.
 */
export async function carryOut(env: Env, nowAt: number, first?: Hash): Promise<number> {
  const asked =
    first === undefined
      ? []
      : (
          await env.DB.prepare(
            `SELECT ${COLUMNS} FROM erasures INDEXED BY erasures_target WHERE target = ? AND state = 'due' ORDER BY id LIMIT ${AT_ONCE}`,
          )
            .bind(first)
            .all<Row>()
        ).results
  const { results } = await env.DB.prepare(
    `SELECT ${COLUMNS} FROM erasures INDEXED BY erasures_due WHERE state = 'due' AND next_at <= ? ORDER BY next_at LIMIT ${AT_ONCE}`,
  )
    .bind(nowAt)
    .all<Row>()
  const rest = results.filter(({ id }) => asked.every((row) => row.id !== id))
  const rows = [...asked, ...rest.toSorted((a, b) => a.id - b.id)]
  if (rows.length === 0 || (await env.SEQUENCER.getByName('log').paused())) return 0
  const node = await nodeOf(env)
  let ended = 0
  for (const row of rows) {
    try {
      if (await carryOne(env, node, row, nowAt)) ended++
    } catch (error) {
      console.error(
        JSON.stringify({ level: 'error', msg: 'erasure step failed', error: String(error) }),
      )
      const delay = Math.min(MAX_RETRY_MS, RETRY_MS * 2 ** Math.min(row.failures, 12))
      await env.DB.prepare(
        "UPDATE erasures SET failures = failures + 1, next_at = ? WHERE id = ? AND state = 'due'",
      )
        .bind(nowAt + delay, row.id)
        .run()
    }
  }
  return ended
}

/** True once the row is ended, false if it waits for a seal. */
async function carryOne(env: Env, node: NodeContext, row: Row, nowAt: number): Promise<boolean> {
  const jws = utf8(row.event)
  const { eventHash: name, reasonCode } = readErasure(jws)
  const target = hashFromHex(name.slice(7))
  const erasedBy = sha256(jws)
  const at = await findEvent(env.DB, target)
  if (at === null) {
    for (let shard = 0; shard < node.config.intakeShards; shard++) {
      const status = await env.POOL.getByName(String(shard)).status(target)
      if (status?.state === 'accepted') return wait(env, row, nowAt)
    }
    if ((await findEvent(env.DB, target)) !== null) return wait(env, row, nowAt)
    // Intake saw it. An index that is made again, or a log that is taken back from peers, may have it later.
    if (row.failures < LOOKS) {
      throw new VaultMeshError(
        'not-found',
        `The index does not hold ${name}, which is to be erased.`,
      )
    }
    return end(env, row, 'refused', 'the log holds no such event')
  }
  const line = await eventLine(env.BUCKET, at)
  let waits = false
  let signedBy: string | null = null
  if (isTombstone(line)) {
    if (!equal(eraserOf(parseTombstone(line)), erasedBy)) {
      return end(env, row, 'refused', 'it was erased before')
    }
    waits = await forget(env, node, { eventHash: target, identity: null, erasedBy })
  } else {
    if (!equal(sha256(line), target)) {
      throw new VaultMeshError('bad-state', `R2 holds other bytes of leaf ${at.leafIndex}.`)
    }
    const source = readEvent(jws).source
    const eraser = {
      type: ERASURE_TYPE,
      signer: canonicalDid(source),
      isOperator: wasEverKey(node.history, source),
    }
    try {
      if (judgeErasure(await partyOf(node, line), eraser) === 'signer') {
        const request = `sha256:${toHex(erasedBy)}`
        const event = await postErasure(env, node, { eventHash: name, reasonCode, request })
        return await end(env, row, 'asked', event)
      }
    } catch (error) {
      if (!(error instanceof VaultMeshError) || error.code !== 'erasure-refused') throw error
      return await end(env, row, 'refused', error.message)
    }
    const { signer, event } = await openEnvelope(line, signers)
    signedBy = signer.canonical
    const identity = identityOf(node, signer.canonical, event.id)
    waits = await forget(env, node, { eventHash: target, identity, erasedBy })
  }
  // Indexed, and its pool is still about to hear so.
  if (waits) return wait(env, row, nowAt)
  await done(env, row, 1)
  await scrubIndex(env.DB, row, at)
  // After the index, from which deliveries are made, and before the bundle: while it has the bytes, it says whose
  // webhooks there may be.
  if (signedBy !== null) await forgetHooks(env.DB, { target, at, signedBy })
  await scrubBundle(env, { at, target, event: row.event })
  await scrubMirrors(env, node, { at, target, event: row.event })
  await forgetBefore(env, target, erasedBy)
  // Whoever made the index again meanwhile (store/rebuild.ts) wrote the row anew from the bytes. That is between two
  // seals, as this is: after it, whoever does so finds the tombstone.
  await env.SEQUENCER.getByName('log').forgetNames([])
  await scrubIndex(env.DB, row, at)
  await done(env, row, 3)
  const names = await env.DB.prepare('SELECT names FROM erasures WHERE id = ?')
    .bind(row.id)
    .first<string>('names')
  if (names !== null) await env.SEQUENCER.getByName('log').forgetNames(names.split(',').map(Number))
  // A backup that began meanwhile may have the pools as they were before, and then must not have this row as done.
  if (await env.SEQUENCER.getByName('log').paused()) return wait(env, row, nowAt)
  await env.DB.prepare(
    "UPDATE erasures SET state = 'done', step = 4, names = NULL, done_at = ?2 WHERE id = ?1",
  )
    .bind(row.id, nowAt)
    .run()
  return true
}

async function wait(env: Env, { id }: Row, nowAt: number): Promise<boolean> {
  await env.DB.prepare('UPDATE erasures SET next_at = ?2 WHERE id = ?1')
    .bind(id, nowAt + SEALING_MS)
    .run()
  return false
}

async function end(env: Env, { id }: Row, state: 'asked' | 'refused', why: string): Promise<true> {
  await env.DB.prepare("UPDATE erasures SET state = ?2, why = ?3 WHERE id = ?1 AND state = 'due'")
    .bind(id, state, why)
    .run()
  return true
}

function done(env: Env, { id }: Row, step: number): Promise<unknown> {
  return env.DB.prepare('UPDATE erasures SET step = max(step, ?2) WHERE id = ?1')
    .bind(id, step)
    .run()
}

/** Step 1. Every shard, as a copy may wait for its check anywhere. True if the event still waits in one. */
async function forget(
  env: Env,
  node: NodeContext,
  what: { eventHash: Hash; identity: Hash | null; erasedBy: Hash },
): Promise<boolean> {
  let waits = false
  for (let shard = 0; shard < node.config.intakeShards; shard++) {
    const seq = await env.POOL.getByName(String(shard)).erase(what)
    waits ||= seq !== null
  }
  return waits
}

/** As step 1, in the logs before this one: what they accepted and never sealed was moved here, and lies in their pools, too. */
export async function forgetBefore(env: Env, target: Hash, erasedBy: Hash): Promise<void> {
  if (env.PREVIOUS === undefined) return
  const answer = await env.PREVIOUS.fetch(
    `http://previous/admin/forget/${toHex(target)}?by=${toHex(erasedBy)}`,
    { method: 'POST', headers: { authorization: `Bearer ${env.ADMIN_TOKEN ?? ''}` } },
  )
  await answer.body?.cancel()
  if (answer.status !== 200) {
    throw new VaultMeshError('storage-failed', `The log before answered ${answer.status}.`)
  }
}

/** What `forgetBefore` asks of a log that was ended; throws `bad-state` for one that was not. */
export async function forgetMoved(
  env: Env,
  node: NodeContext,
  { eventHash, erasedBy }: { readonly eventHash: Hash; readonly erasedBy: Hash },
): Promise<void> {
  const { halted, settled } = await env.SEQUENCER.getByName('log').standing()
  if (halted === null || !settled)
    throw new VaultMeshError('bad-state', 'This log was not ended, or not yet.')
  await forget(env, node, { eventHash, identity: null, erasedBy })
  await forgetBefore(env, eventHash, erasedBy)
}

/**
 * Webhooks of the event itself go with their lanes, which name its signer; of hooks on all events of a DID only what
 * they were told of this one.
 */
async function forgetHooks(
  db: D1Database,
  { target, at, signedBy }: Stone & { readonly signedBy: string },
): Promise<void> {
  await db.batch([
    db
      .prepare(
        `DELETE FROM webhook_deliveries WHERE leaf_index = ?1 AND hook_id IN (SELECT id FROM webhooks WHERE event_hash = ?2 OR did = ?3)`,
      )
      .bind(at.leafIndex, target, signedBy),
    db
      .prepare(
        `DELETE FROM webhook_lanes WHERE id IN (SELECT lane_id FROM webhooks WHERE event_hash = ?1)
         AND NOT EXISTS (SELECT 1 FROM webhooks WHERE lane_id = webhook_lanes.id AND event_hash IS NOT ?1)`,
      )
      .bind(target),
    db.prepare('DELETE FROM webhooks WHERE event_hash = ?').bind(target),
  ])
}

/** Step 2, in one transaction: what the row named is kept until the names are forgotten, too. */
async function scrubIndex(db: D1Database, { id }: Row, { leafIndex }: IndexedEvent): Promise<void> {
  await db.batch([
    db
      .prepare(
        `UPDATE erasures SET target_leaf = ?2, step = max(step, 2), names = coalesce(names,
           (SELECT source_id || ',' || type_id FROM events WHERE leaf_index = ?2 AND source_id <> 0)) WHERE id = ?1`,
      )
      .bind(id, leafIndex),
    db
      .prepare(
        `UPDATE events SET event_id = '', source_id = 0, type_id = 0, subject = NULL, time_at = ${ERASED_AT} WHERE leaf_index = ?`,
      )
      .bind(leafIndex),
  ])
}

interface Stone {
  readonly at: IndexedEvent
  readonly target: Hash
}

/** Key of the `vm.erased` event that took an event's bytes: with it the bundle explains itself without the index. */
export function erasedKey(eventHash: Hash): string {
  return `erased/${toHex(eventHash)}`
}

/** Step 3: a tombstone of the same length, by a write that another one does not slip under. */
async function scrubBundle(
  env: Env,
  { at, target, event }: Stone & { readonly event: string },
): Promise<void> {
  await putImmutable(env.BUCKET, erasedKey(target), utf8(event), 'application/jose')
  const key = eventsKey(at.height, at.part)
  const object = await env.BUCKET.get(key)
  if (object === null) throw new VaultMeshError('bad-state', `R2 lacks ${key}.`)
  const part = new Uint8Array(await object.arrayBuffer())
  const line = part.subarray(at.offset, at.offset + at.length)
  if (isTombstone(line)) return
  if (!equal(sha256(line), target)) {
    throw new VaultMeshError('bad-state', `R2 holds other bytes of leaf ${at.leafIndex}.`)
  }
  const erasedBy = `sha256:${toHex(sha256(utf8(event)))}`
  const stone = { leafIndex: at.leafIndex, eventHash: target, erasedBy }
  const put = await env.BUCKET.put(
    key,
    withLine(part, { offset: at.offset, line }, formatTombstone(stone, line.length)),
    {
      onlyIf: { etagMatches: object.etag },
      httpMetadata: { contentType: 'application/x-ndjson' },
    },
  )
  if (put === null) throw new VaultMeshError('bad-state', `${key} changed meanwhile.`)
}

/** What peers gave back of the own log lies among the mirrors (durable-objects/adopted-batch.ts). */
async function scrubMirrors(
  env: Env,
  node: NodeContext,
  { at, target, event }: Stone & { readonly event: string },
): Promise<void> {
  const prefix = `mirror/${nameOfLog(node.config.origin)}/events/${at.height}/`
  const { objects } = await env.BUCKET.list({ prefix, limit: 1000 })
  const stone = { leafIndex: at.leafIndex, eventHash: target, erasedBy: event }
  for (const { key } of objects) {
    if (!key.endsWith('/parts')) await scrubPart(env.BUCKET, key, stone)
  }
}

/**
 * Puts the tombstone on the line of an event in a part of a mirror, whose lines no index points at. True if the event
 * is one of the part; its line may be a tombstone already.
 */
export async function scrubPart(
  bucket: R2Bucket,
  key: string,
  stone: { readonly leafIndex: number; readonly eventHash: Hash; readonly erasedBy: string },
): Promise<boolean> {
  const part = await getBytes(bucket, key)
  if (part === null) return false
  for (const found of linesOf(part)) {
    if (!equal(entryOf(found.line), stone.eventHash)) continue
    if (isTombstone(found.line)) return true
    await bucket.put(key, withLine(part, found, formatTombstone(stone)), {
      httpMetadata: { contentType: 'application/x-ndjson' },
    })
    return true
  }
  return false
}

/** A part of the own log's events as peers get it: tombstones with the `vm.erased` events that they name. */
export async function partForPeers(
  db: D1Database,
  part: Uint8Array,
  leaves: { readonly from: number; readonly to: number },
): Promise<Uint8Array> {
  // Nearly always there is none, and the first byte of each line says so.
  const stones = [...linesOf(part)].filter(({ line }) => isTombstone(line))
  if (stones.length === 0) return part
  const { results } = await db
    .prepare(
      'SELECT target_leaf AS leaf, event FROM erasures INDEXED BY erasures_leaf WHERE target_leaf >= ? AND target_leaf < ?',
    )
    .bind(leaves.from, leaves.to)
    .all<{ leaf: number; event: string }>()
  const events = new Map(results.map(({ leaf, event }) => [leaf, event]))
  const pieces: Uint8Array[] = []
  let from = 0
  for (const { offset, line } of stones) {
    const stone = parseTombstone(line)
    const event = events.get(stone.leafIndex)
    const isNamed = event !== undefined && equal(sha256(utf8(event)), eraserOf(stone))
    if (!isNamed && stone.erasedBy.startsWith('sha256:')) {
      // The index is being made again: what no peer could judge is not sent.
      throw new VaultMeshError(
        'storage-failed',
        `The index lacks the erasure of leaf ${stone.leafIndex}.`,
      )
    }
    const erasedBy = isNamed ? event : stone.erasedBy
    pieces.push(part.subarray(from, offset), formatTombstone({ ...stone, erasedBy }))
    from = offset + line.length
  }
  return join([...pieces, part.subarray(from)])
}

/**
 * Holds a tombstone of the own log's bundle against the event that made it: there, of this event, signed by an identity
 * key of this node. Throws `bad-state` saying what is wrong.
 */
export async function checkTombstone(
  env: Env,
  node: NodeContext,
  line: Uint8Array,
  leafIndex: number,
): Promise<Hash> {
  const stone = parseTombstone(line)
  if (stone.leafIndex !== leafIndex) {
    throw new VaultMeshError('bad-state', `it is that of leaf ${stone.leafIndex}.`)
  }
  const isOperator = (did: string): boolean => wasEverKey(node.history, did)
  if (!stone.erasedBy.startsWith('sha256:')) {
    await verifyTombstone(stone, isOperator)
    return stone.eventHash
  }
  const event = await getBytes(env.BUCKET, erasedKey(stone.eventHash))
  if (event === null || !equal(sha256(event), eraserOf(stone))) {
    throw new VaultMeshError('bad-state', 'R2 lacks the vm.erased event that it names.')
  }
  await verifyTombstone({ ...stone, erasedBy: fromUtf8(event) }, isOperator)
  return stone.eventHash
}

/** Those of some erased leaves whose `vm.erased` event the index does not hold at its own leaf of the log. */
export async function unexplained(db: D1Database, leaves: readonly number[]): Promise<number[]> {
  const { results } = await db
    .prepare(
      `SELECT t.leaf_index AS leaf, r.event, lower(hex(e.event_hash)) AS hash FROM json_each(?) j
         CROSS JOIN events t ON t.leaf_index = j.value CROSS JOIN erasures r INDEXED BY erasures_target ON r.target = t.event_hash
         CROSS JOIN events e ON e.leaf_index = r.id`,
    )
    .bind(JSON.stringify(leaves))
    .all<{ leaf: number; event: string; hash: string }>()
  const explained = new Set(
    results
      .filter(({ event, hash }) => toHex(sha256(utf8(event))) === hash)
      .map(({ leaf }) => leaf),
  )
  return leaves.filter((leaf) => !explained.has(leaf))
}

/** Notes again what the `vm.erased` events of a batch ask for: for an index that is made again. Repeats change nothing. */
export async function askAgain(
  env: Env,
  batch: { readonly height: number; readonly firstIndex: number; readonly parts: number },
): Promise<void> {
  let leafIndex = batch.firstIndex
  for (let part = 0; part < batch.parts; part++) {
    const bytes = await getBytes(env.BUCKET, eventsKey(batch.height, part))
    if (bytes === null) continue
    const isAsked = mentionsErasure(bytes)
    for (const { line } of linesOf(bytes)) {
      const ask = isAsked ? askOf(env.DB, leafIndex, line) : null
      await ask?.run()
      leafIndex++
    }
  }
}
