/**
 * fsck: derive everything again from the bytes and compare with what each store claims.
 *
 * Two questions, so that a large log is checked in small calls: `checkState` compares the Sequencer, the
 * pools, the ends of D1's index and the newest checkpoint; `checkBatch` takes one batch from its events up:
 * bytes → signatures → entries → tiles → root → checkpoint and manifest → index rows → anchor receipts.
 * Findings are sentences; none is good. Garbage is a finding, never an exception; a store that does not
 * answer is an exception, never a finding. Neither question costs more as the log grows, but for one count
 * over an index of the anchor receipts.
 *
 * A batch is held against the batch before it, so that all batches from the first on prove the whole log.
 * The rules of intake are not asked again: an event that they would refuse today was admitted under those of
 * its day. Its signature is.
 */

import * as z from 'zod'
import { hashText, MANIFEST_TYP } from '#core/batch.ts'
import { fromBase64Url, fromHex, fromUtf8, toHex, utf8, type Hash } from '#core/bytes.ts'
import { verifyCheckpoint } from '#core/checkpoint.ts'
import { EVENT_TYP, readEvent } from '#core/envelope.ts'
import { isTombstone } from '#core/erasure.ts'
import { VaultMeshError } from '#core/errors.ts'
import { hashKey } from '#core/hash-key.ts'
import { emptyRoot, leafHashes, restoreEdge, rootOf, rootOfEdge } from '#core/merkle.ts'
import { wasEverKey } from '#core/rotation.ts'
import { sha256 } from '#core/sha256.ts'
import { Signers } from '#core/signer.ts'
import { parseStrictJson } from '#core/strict-json.ts'
import { isoTime } from '#core/time.ts'
import type { BatchRecord } from '#store/batches.ts'
import { batchKey, eventsKey, getBytes } from '#store/bucket.ts'
import { checkTombstone, unexplained } from '#store/erasures.ts'
import { ERASED_AT } from '#store/events.ts'
import { Notes, type Findings } from '#store/findings.ts'
import { checkReceipts, countReceipts } from '#store/fsck-receipts.ts'
import { checkTree } from '#store/fsck-tree.ts'
import { nodeOf, type NodeContext } from '#store/node.ts'

export type { Findings } from '#store/findings.ts'

type Audit = Awaited<ReturnType<ReturnType<Env['SEQUENCER']['getByName']>['audit']>>

/** Compares the Sequencer with itself, with its pools, with D1 and with the newest checkpoint. */
export async function checkState(env: Env, node: NodeContext): Promise<Findings> {
  const notes = new Notes()
  const audit = await auditOf(env, notes)
  if (audit === null) return notes.with(await indexFacts(env))
  const { head, cursors } = audit
  await notes.attempt('The Sequencer’s edge', () => {
    const levels = audit.edge.map(({ level, hashes }) => [level, fromHex(hashes)] as const)
    if (toHex(rootOfEdge(restoreEdge(head.size, levels))) !== head.root)
      throw new VaultMeshError('bad-state', 'it does not lead to the root.')
  })
  await checkCheckpoint(node, head.checkpoint, head, 'The newest checkpoint', notes)
  if (head.height > 0) {
    const record = await readRecord(env, head.height, notes)
    if (record !== null && (record.root !== head.root || record.treeSize !== head.size))
      notes.say(`The record of batch ${head.height} is not of the head.`)
  }
  let accepted = 0
  let waiting = 0
  const forgotten: number[] = []
  for (const [shard, cursor] of cursors.entries()) {
    const pool = await env.POOL.getByName(String(shard)).audit()
    accepted += pool.nextSeq
    waiting += pool.nextSeq - cursor
    forgotten.push(pool.forgotten)
    if (pool.claims !== pool.nextSeq)
      notes.say(`Shard ${shard} holds ${pool.claims} claims for ${pool.nextSeq} events.`)
    if (pool.events !== pool.nextSeq)
      notes.say(`Shard ${shard} has digests of ${pool.events} of ${pool.nextSeq} events.`)
  }
  if (accepted - waiting !== head.size)
    notes.say(`The pools gave ${accepted - waiting} events to the log, it has ${head.size}.`)
  const index = await indexFacts(env)
  const receipts = await countReceipts(env, head.size, notes)
  // Asked again last: a node at work seals between two questions, and cursors only grow.
  const now = (await auditOf(env, notes)) ?? audit
  for (const [shard, count] of forgotten.entries()) {
    if (count > now.cursors[shard]!) notes.say(`Shard ${shard} forgot events that are not sealed.`)
  }
  if (isStill(audit) && isStill(now) && now.head.height === head.height) {
    if (index.size !== head.size || index.first > 0)
      notes.say(
        `D1 indexes leaves ${index.first} to ${index.size - 1}, the log has ${head.size} leaves.`,
      )
    if (index.height !== head.height || index.recorded !== head.height)
      notes.say(
        `D1 shows batches up to ${index.height} and has ${index.recorded}, the log has ${head.height}.`,
      )
  }
  return notes.with({
    height: head.height,
    size: head.size,
    root: head.root,
    indexedHeight: head.indexedHeight,
    accepted,
    waiting,
    receipts,
  })
}

/** The Sequencer's own account; null, and a finding, if it cannot load what it stored. */
async function auditOf(env: Env, notes: Notes): Promise<Audit | null> {
  try {
    return await env.SEQUENCER.getByName('log').audit()
  } catch (error) {
    if (!(error instanceof Error && 'code' in error && error.code === 'bad-state')) throw error
    notes.say(`The Sequencer cannot load its state: ${error.message}`)
    return null
  }
}

/** Nothing under way: all that is sealed is in the index. */
function isStill({ head, assignment }: Audit): boolean {
  return assignment === null && head.indexedHeight === head.height
}

/** Ends of the index; what lies between is what `checkBatch` looks at. */
async function indexFacts(env: Env) {
  const row = await env.DB.prepare(
    `SELECT (SELECT min(leaf_index) FROM events) AS first, (SELECT max(leaf_index) FROM events) AS last,
       (SELECT max(height) FROM batches WHERE committed = 1) AS height, (SELECT max(height) FROM batches) AS recorded`,
  ).first<Record<'first' | 'last' | 'height' | 'recorded', number | null>>()
  const { first, last, height, recorded } = row!
  return { first: first ?? 0, size: (last ?? -1) + 1, height: height ?? 0, recorded: recorded ?? 0 }
}

/** Derives one batch again from its events. */
export async function checkBatch(env: Env, node: NodeContext, height: number): Promise<Findings> {
  const notes = new Notes()
  const derived = await deriveBatch(env, node, height, {
    notes,
    onRows: (rows) => checkRows(env, rows, notes),
  })
  if (derived === null) return notes.with({ height })
  const { record } = derived
  await checkBatchRow(env, record, notes)
  await checkReceipts(env, node, record, notes)
  const { count, treeSize, root } = record
  return notes.with({ height, count, treeSize, root })
}

/** What is derived of a batch goes to `notes`, and its index rows, part by part, to `onRows`. */
export interface Derivation {
  readonly notes: Notes
  readonly onRows: (rows: readonly ExpectedRow[]) => Promise<void>
}

/** A batch as its bytes make it. */
export interface DerivedBatch {
  readonly record: BatchRecord
  /** Event hashes in leaf order; null, and a finding, if they are not all here. */
  readonly hashes: readonly Uint8Array[] | null
}

/**
 * Derives a batch from R2 alone: record, checkpoint, manifest, events, signatures, tiles and root. What does not
 * fit is a finding; without any, all of it leads to what the log's key signed. Null if there is no record.
 */
export async function deriveBatch(
  env: Env,
  node: NodeContext,
  height: number,
  { notes, onRows }: Derivation,
): Promise<DerivedBatch | null> {
  const record = await readRecord(env, height, notes)
  if (record === null) return null
  const before = height === 1 ? null : await readRecord(env, height - 1, notes)
  const name = `Batch ${height}`
  if (height === 1 ? record.firstIndex !== 0 : before && before.treeSize !== record.firstIndex)
    notes.say(`${name}: it does not begin where the last one ended.`)
  if (before !== null && before.sealedAt > record.sealedAt)
    notes.say(`${name}: it was sealed before the batch before it.`)
  const tree = { size: record.treeSize, root: record.root }
  await checkCheckpoint(node, record.checkpoint, tree, `${name}: its checkpoint`, notes)
  const hashes = await eventRows(env, record, notes, onRows)
  await checkManifest(node, record, notes, {
    previousRoot: height === 1 ? hashText(emptyRoot) : before && `sha256:${before.root}`,
    batchRoot: hashes && hashText(rootOf(leafHashes(hashes))),
  })
  if (hashes !== null) await checkTree(env.BUCKET, { record, before, hashes }, notes)
  return { record, hashes }
}

const recordSchema = z
  .strictObject({
    height: z.int().positive(),
    firstIndex: z.int().nonnegative(),
    count: z.int().positive(),
    treeSize: z.int(),
    root: z.string().regex(/^[0-9a-f]{64}$/),
    sealedAt: z
      .int()
      .nonnegative()
      .max(Date.UTC(9999, 11, 31)),
    manifest: z.string(),
    checkpoint: z.string(),
    parts: z.int().positive(),
  })
  .refine(({ treeSize, firstIndex, count }) => treeSize === firstIndex + count, 'treeSize')
  .refine(({ parts, count }) => parts <= count, 'parts')

/** The record of a batch in R2; null, and a finding, if there is none that can be one. */
async function readRecord(env: Env, height: number, notes: Notes): Promise<BatchRecord | null> {
  const bytes = await getBytes(env.BUCKET, batchKey(height))
  if (bytes === null) {
    notes.say(`R2 lacks the record of batch ${height}.`)
    return null
  }
  return notes.attempt(`The record of batch ${height} in R2 is none`, () => {
    const record = recordSchema.parse(parseStrictJson(fromUtf8(bytes)))
    if (record.height !== height)
      throw new VaultMeshError('bad-state', `it is that of batch ${record.height}.`)
    return record
  })
}

/** D1’s row of the batch: each column is what R2 says. */
async function checkBatchRow(env: Env, record: BatchRecord, notes: Notes): Promise<void> {
  for (const fault of await batchRowFaults(env.DB, record)) notes.say(fault)
}

/** What is wrong with D1’s row of a batch, a sentence each. */
export async function batchRowFaults(db: D1Database, record: BatchRecord): Promise<string[]> {
  const row = await db
    .prepare(
      `SELECT height, first_index AS firstIndex, count, tree_size AS treeSize, root, sealed_at AS sealedAt, manifest, checkpoint, parts,
       committed, EXISTS (SELECT 1 FROM batches WHERE height > ?1 AND committed = 1) AS passed FROM batches WHERE height = ?1`,
    )
    .bind(record.height)
    .first<BatchRecord & { committed: number; passed: number }>()
  if (row === null) return [`Batch ${record.height}: D1 lacks it.`]
  const faults: string[] = []
  const { committed, passed, ...columns } = row
  const other = differing(record, columns)
  if (other.length > 0)
    faults.push(`Batch ${record.height}: D1 and R2 differ in ${other.join(', ')}.`)
  if (committed !== 1 && passed === 1)
    faults.push(`Batch ${record.height}: D1 hides it, though it shows later ones.`)
  return faults
}

/** Names of the fields of `expected` that are not the same in `found`. */
function differing(expected: object, found: object): string[] {
  const values = found as Readonly<Record<string, unknown>>
  return Object.entries(expected).flatMap(([name, value]) => (values[name] === value ? [] : [name]))
}

/** The log's signature under the origin, over just this tree. */
async function checkCheckpoint(
  node: NodeContext,
  note: string,
  tree: { readonly size: number; readonly root: string },
  name: string,
  notes: Notes,
): Promise<void> {
  await notes.attempt(`${name} does not verify`, async () => {
    const { checkpoint } = await verifyCheckpoint(note, { log: node.log.key })
    if (checkpoint.size !== tree.size || toHex(checkpoint.root) !== tree.root)
      throw new VaultMeshError('bad-state', 'it is of another tree.')
  })
}

const manifestSigners = new Signers(MANIFEST_TYP)
const eventSigners = new Signers(EVENT_TYP)

/** Verifies a compact JWS under the key it names, and returns the DID of that key. */
async function signerOf(bytes: Uint8Array, signers: Signers): Promise<string> {
  const dot1 = bytes.indexOf(0x2e)
  const dot2 = bytes.indexOf(0x2e, dot1 + 1)
  if (dot1 < 0 || dot2 < 0) throw new VaultMeshError('bad-jws', 'it is no compact JWS.')
  const signer = await signers.of(fromUtf8(bytes.subarray(0, dot1)))
  const signature = fromBase64Url(fromUtf8(bytes.subarray(dot2 + 1)))
  if (!(await signer.verify(bytes.subarray(0, dot2), signature)))
    throw new VaultMeshError('bad-signature', `it is not that of ${signer.did}.`)
  return signer.did
}

/** The manifest: signed by this node, and every claim is what the batch is. */
async function checkManifest(
  node: NodeContext,
  record: BatchRecord,
  notes: Notes,
  roots: { readonly previousRoot: string | null; readonly batchRoot: string | null },
): Promise<void> {
  const name = `Batch ${record.height}: the`
  const sealer = await notes.attempt(`${name} signature of its manifest`, async () => {
    const did = await signerOf(utf8(record.manifest), manifestSigners)
    // Whenever it was valid: what is sealed at the end of one key's time may be signed by the next.
    if (!wasEverKey(node.history, did))
      throw new VaultMeshError('bad-signature', `it is that of ${did}, not of this node.`)
    return did
  })
  await notes.attempt(`${name} claims of its manifest`, () => {
    const claims = parseStrictJson(fromUtf8(fromBase64Url(record.manifest.split('.')[1] ?? '')))
    if (typeof claims !== 'object' || claims === null)
      throw new VaultMeshError('bad-state', 'they are no object.')
    const { height, firstIndex, count, treeSize } = record
    const expected = {
      origin: node.config.origin,
      height,
      firstIndex,
      count,
      treeSize,
      root: `sha256:${record.root}`,
      ...roots,
      sealedAt: isoTime(record.sealedAt),
      sealer,
    }
    const unknown = Object.keys(claims).filter((claim) => !Object.hasOwn(expected, claim))
    // What could not be derived again was said already.
    const known = Object.entries(expected).filter(([, value]) => value !== null)
    const other = [...differing(Object.fromEntries(known), claims), ...unknown]
    if (other.length > 0)
      throw new VaultMeshError('bad-state', `${other.join(', ')} are not those of the batch.`)
  })
}

/** What the index must say of an event; attributes are absent if its bytes are garbage. */
export interface ExpectedRow {
  readonly leaf: number
  readonly hash: string
  readonly hashKey: number
  readonly height: number
  readonly part: number
  readonly offset: number
  readonly length: number
  readonly eventId?: string
  /** Null of an erased event, as the type is. */
  readonly source?: string | null
  readonly type?: string | null
  readonly subject?: string | null
  readonly timeAt?: number
}

/**
 * Bytes, signatures and index rows, a part at a time so that memory stays flat. Returns the event hashes
 * in leaf order, or null, and a finding, if they are not `count`.
 */
async function eventRows(
  env: Env,
  record: BatchRecord,
  notes: Notes,
  onRows: Derivation['onRows'],
): Promise<Uint8Array[] | null> {
  const hashes: Uint8Array[] = []
  for (let part = 0; part < record.parts; part++) {
    const bytes = await getBytes(env.BUCKET, eventsKey(record.height, part))
    if (bytes === null) {
      notes.say(`Batch ${record.height}: part ${part} of its events is missing.`)
      return null
    }
    let rows: ExpectedRow[] = []
    for (let offset = 0; offset < bytes.length;) {
      const newline = bytes.indexOf(0x0a, offset)
      const end = newline < 0 ? bytes.length : newline
      const event = bytes.subarray(offset, end)
      const leaf = record.firstIndex + hashes.length
      const place = { leaf, height: record.height, part, offset, length: end - offset }
      const hash = isTombstone(event) ? await checkErased(env, event, leaf, notes) : sha256(event)
      rows.push(
        isTombstone(event) ? erasedRow(hash, place) : await checkEvent(event, hash, place, notes),
      )
      hashes.push(hash)
      offset = end + 1
      if (rows.length === ROWS_AT_ONCE || offset >= bytes.length) {
        await onRows(rows)
        rows = []
      }
    }
  }
  if (hashes.length === record.count) return hashes
  notes.say(
    `Batch ${record.height} has ${hashes.length} events in R2, its record says ${record.count}.`,
  )
  return null
}

/** The entry of an erased event as its tombstone names it, and a finding unless that is there by right. */
async function checkErased(env: Env, line: Uint8Array, leaf: number, notes: Notes): Promise<Hash> {
  const node = await nodeOf(env)
  const hash = await notes.attempt(`Leaf ${leaf}: its tombstone`, () =>
    checkTombstone(env, node, line, leaf),
  )
  // What it says otherwise is held against the tree; garbage is a leaf that the tree has not.
  return hash ?? sha256(line)
}

/** What the index must say of an erased event. */
function erasedRow(hash: Hash, place: Pick<ExpectedRow, 'leaf' | Place>): ExpectedRow {
  const nothing = { eventId: '', source: null, type: null, subject: null, timeAt: ERASED_AT }
  return { ...place, hash: toHex(hash), hashKey: hashKey(hash), ...nothing }
}

type Place = 'height' | 'part' | 'offset' | 'length'

/** Index rows compared in one question. */
const ROWS_AT_ONCE = 1000

async function checkEvent(
  bytes: Uint8Array,
  hash: Hash,
  place: Pick<ExpectedRow, 'leaf' | 'height' | 'part' | 'offset' | 'length'>,
  notes: Notes,
): Promise<ExpectedRow> {
  const name = `Leaf ${place.leaf}: its event`
  const row = { ...place, hash: toHex(hash), hashKey: hashKey(hash) }
  const event = await notes.attempt(`${name} cannot be read`, () => readEvent(bytes))
  const did = await notes.attempt(`${name}’s signature does not verify`, () =>
    signerOf(bytes, eventSigners),
  )
  if (event === null) return row
  const { id, source, type, subject, timeAt } = event
  if (did !== null && did !== source) notes.say(`${name} is signed by ${did}, not by its source.`)
  return { ...row, eventId: id, source, type, subject, timeAt }
}

/** Index rows of consecutive leaves: each column is what the event's bytes say, and no hash stands twice. */
async function checkRows(env: Env, expected: readonly ExpectedRow[], notes: Notes): Promise<void> {
  const first = expected[0]!.leaf
  const [rows, twice] = await env.DB.batch<Record<string, unknown>>([
    storedRows(env.DB, expected),
    env.DB.prepare(
      `SELECT e.leaf_index AS leaf, d.leaf_index AS other FROM events e
         CROSS JOIN events d ON d.hash_key = e.hash_key AND d.event_hash = e.event_hash AND d.leaf_index < e.leaf_index
       WHERE e.leaf_index >= ?1 AND e.leaf_index < ?2 LIMIT 1000`,
    ).bind(first, first + expected.length),
  ])
  const found = new Map(rows!.results.map((row) => [row['leaf'], row]))
  const erased = expected.filter((row) => row.source === null).map((row) => row.leaf)
  for (const leaf of erased.length === 0 ? [] : await unexplained(env.DB, erased))
    notes.say(`Leaf ${leaf}: it is erased, and the index has no vm.erased event of the log for it.`)
  let missing = 0
  for (const row of expected) {
    const stored = found.get(row.leaf)
    if (stored === undefined) missing++
    else {
      const other = differing(row, stored)
      if (other.length > 0)
        notes.say(`Leaf ${row.leaf}: its index row has another ${other.join(', ')} than its event.`)
    }
  }
  if (missing > 0)
    notes.say(
      `Batch ${expected[0]!.height}: D1 lacks ${missing} of the index rows of leaves ${first} to ${first + expected.length - 1}.`,
    )
  for (const { leaf, other } of twice!.results)
    notes.say(
      `Leaf ${String(leaf)}: its event is in the index twice, as leaf ${String(other)} too.`,
    )
}

/** Those of consecutive rows that D1 has not, or has otherwise. */
export async function wrongRows(
  db: D1Database,
  expected: readonly ExpectedRow[],
): Promise<ExpectedRow[]> {
  const { results } = await storedRows(db, expected).all<Record<string, unknown>>()
  const found = new Map(results.map((row) => [row['leaf'], row]))
  return expected.filter((row) => differing(row, found.get(row.leaf) ?? {}).length > 0)
}

function storedRows(db: D1Database, expected: readonly ExpectedRow[]): D1PreparedStatement {
  const first = expected[0]!.leaf
  return db
    .prepare(
      `SELECT e.leaf_index AS leaf, lower(hex(e.event_hash)) AS hash, e.hash_key AS hashKey, e.height, e.part, e.offset, e.length,
         e.event_id AS eventId, s.name AS source, t.name AS type, e.subject, e.time_at AS timeAt
       FROM events e LEFT JOIN names s ON s.id = e.source_id AND s.kind = 'source'
         LEFT JOIN names t ON t.id = e.type_id AND t.kind = 'type'
       WHERE e.leaf_index >= ?1 AND e.leaf_index < ?2`,
    )
    .bind(first, first + expected.length)
}
