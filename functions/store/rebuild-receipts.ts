/**
 * fsck --rebuild of anchors: receipts, revocations, rails, looks at chains, and the jobs that they end, of one batch.
 *
 * R2 holds a receipt, its revocation and a calendar's promise before D1 does, so what lies under the batch's root is
 * all there is. Nothing is taken over that does not verify: a receipt by its proof, a promise by being one of this root.
 * One that does not counts as lost: its job is done again, by what the wallet signed (store/anchor-receipts.ts).
 * A receipt ends its job. A job without a receipt that D1 lost comes back as far as R2 knows of it: after a revocation as
 * `orphaned`, with a calendar's promise as `broadcast`. What a Wallet has signed for comes back from there
 * (Sequencer.mendIndex); a job never pays by itself, so one too many costs a look.
 */

import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { methodOf } from '#core/anchor-receipt.ts'
import { equal, fromBase64, fromHex, fromUtf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { parseOts } from '#core/opentimestamps.ts'
import { FIRST_CHECK_MS, receiptKey, WATCHED_MS } from '#store/anchor-receipts.ts'
import type { BatchRecord } from '#store/batches.ts'
import { getBytes } from '#store/bucket.ts'
import type { Notes } from '#store/findings.ts'
import { verifyKept } from '#store/fsck-receipts.ts'
import type { NodeContext } from '#store/node.ts'

interface Kind {
  readonly chain: string
  readonly network: string
  readonly method: string
}

/** What R2 holds for one way of anchoring a root. */
interface Held extends Kind {
  /** By revision. */
  readonly receipts: Map<number, string>
  readonly revoked: Map<number, string>
  /** Promises of calendars, oldest first. */
  readonly promises: Map<number, string>
}

interface Row extends Kind {
  readonly id: number
  readonly root: string
  readonly treeSize: number
  readonly txHash: string
  readonly anchorAt: number
  readonly json: string
  readonly revision: number
}

interface JobRow extends Kind {
  readonly id: number
  readonly state: string
}

const NAME = /^([^/]+)\/([^/]+)\/([a-z0-9-]+)((?:\.pending)?)(?:\.(\d{1,6}))?((?:\.revoked)?)$/
const COLUMNS =
  'r.id, r.root, r.tree_size AS treeSize, r.chain, r.network, r.method, r.tx_hash AS txHash, r.anchor_at AS anchorAt, r.json, r.revision'

/** Makes D1 say of the anchors of a batch's root what R2 holds; returns the rows written. */
export async function rebuildReceipts(
  env: Env,
  node: NodeContext,
  { record, nowAt }: { readonly record: BatchRecord; readonly nowAt: number },
  notes: Notes,
): Promise<number> {
  const { DB } = env
  const held = await heldFor(env.BUCKET, record.root)
  const [found, jobs] = await DB.batch<unknown>([
    DB.prepare(
      `SELECT ${COLUMNS} FROM receipts r WHERE r.root = ?1 UNION
       SELECT ${COLUMNS} FROM receipts r WHERE r.tree_size > ?2 AND r.tree_size <= ?3`,
    ).bind(record.root, record.firstIndex, record.treeSize),
    DB.prepare('SELECT id, chain, network, method, state FROM anchors WHERE root = ?').bind(
      record.root,
    ),
  ])
  const batch = { env, node, record, nowAt, notes, rows: found!.results as Row[] }
  let written = 0
  for (const kind of held) {
    for (const revision of [...kind.receipts.keys()].toSorted((a, b) => a - b))
      written += await rebuildReceipt(batch, kind, revision)
    const job = (jobs!.results as JobRow[]).find((other) => nameOf(other) === nameOf(kind))
    written += await rebuildJob(batch, kind, job ?? null)
  }
  const kept = [
    ...held.filter(({ receipts }) => receipts.size > 0),
    ...batch.rows.filter(isOf(record)),
  ]
  const names = new Set(kept.map(nameOf))
  for (const job of jobs!.results as JobRow[]) {
    if (job.state !== 'final' || names.has(nameOf(job))) continue
    // Its receipt is in neither store: the job begins again, by the bytes that were signed.
    await reopen(DB, job.id, 'its receipt was lost', nowAt)
    written++
  }
  return written
}

function isOf({ root }: BatchRecord): (row: Row) => boolean {
  return (row) => row.root === root
}

function nameOf({ chain, network, method }: Kind): string {
  return `${chain}/${network}/${method}`
}

/** All objects under a root, by kind. */
async function heldFor(bucket: R2Bucket, root: string): Promise<Held[]> {
  const prefix = `anchors/${root}/`
  const kinds = new Map<string, Held>()
  for (let cursor: string | undefined; ;) {
    const page = await bucket.list({ prefix, ...(cursor === undefined ? {} : { cursor }) })
    for (const { key } of page.objects) {
      const [, chain, network, method, pending, digits, revoked] =
        NAME.exec(key.slice(prefix.length)) ?? []
      if (chain === undefined || network === undefined || method === undefined) continue
      const bytes = await getBytes(bucket, key)
      if (bytes === null) continue
      const kind = { chain, network, method }
      const held = kinds.get(nameOf(kind)) ?? {
        ...kind,
        receipts: new Map<number, string>(),
        revoked: new Map<number, string>(),
        promises: new Map<number, string>(),
      }
      kinds.set(nameOf(kind), held)
      const into = pending !== '' ? held.promises : revoked === '' ? held.receipts : held.revoked
      into.set(Number(digits ?? 0), fromUtf8(bytes))
    }
    if (!page.truncated) return [...kinds.values()]
    cursor = page.cursor
  }
}

interface BatchOfReceipts {
  readonly env: Env
  readonly node: NodeContext
  readonly record: BatchRecord
  readonly nowAt: number
  readonly notes: Notes
  readonly rows: readonly Row[]
}

async function rebuildReceipt(
  { env, node, record, nowAt, notes, rows }: BatchOfReceipts,
  held: Held,
  revision: number,
): Promise<number> {
  const { DB } = env
  const { chain, network, method } = held
  const { root, treeSize } = record
  const json = held.receipts.get(revision)!
  const name = `Batch ${record.height}: the anchor receipt ${receiptKey({ ...held, root }, revision)}`
  const receipt = await notes.attempt(`${name} does not verify`, async () => {
    const said = await verifyKept(node, json)
    const kept = JSON.parse(json) as AnchorReceipt
    const isOurs =
      said.root === root &&
      kept.treeSize === treeSize &&
      said.chain === chain &&
      said.network === network &&
      methodOf(kept) === method
    if (!isOurs) throw new VaultMeshError('bad-receipt', 'it is of another root or rail.')
    return { ...said, observedAt: Date.parse(kept.observedAt) }
  })
  if (receipt === null) {
    // It is none: a job that ends with it would never be looked at again.
    held.receipts.delete(revision)
    return 0
  }
  const { txHash, anchorAt } = receipt
  const expected = { root, treeSize, chain, network, method, txHash, anchorAt, json, revision }
  const isNamed = (row: Row): boolean =>
    row.root === root && nameOf(row) === nameOf(held) && row.revision === revision
  // By its name, else by its bytes: a row whose name was damaged is mended, not doubled.
  const there = rows.find(isNamed) ?? rows.find((row) => row.json === json)
  const isRight =
    there !== undefined &&
    Object.entries(expected).every(([column, value]) => there[column as keyof Row] === value)
  const values = [root, treeSize, chain, network, method, txHash, anchorAt, json, revision]
  const of =
    'SELECT id FROM receipts WHERE root = ?1 AND chain = ?2 AND network = ?3 AND method = ?4 AND revision = ?5'
  const named = [root, chain, network, method, revision]
  const revoked = held.revoked.get(revision) ?? null
  const revocation = revoked === null ? null : await readRevocation(revoked, { name, notes })
  const isWatched = chain !== 'TSA' && revoked === null && receipt.observedAt + WATCHED_MS > nowAt
  const results = await DB.batch<{ id: number }>([
    DB.prepare(
      'INSERT INTO rails (chain, network, method) VALUES (?, ?, ?) ON CONFLICT DO NOTHING RETURNING 1 AS id',
    ).bind(chain, network, method),
    ...(isRight
      ? []
      : there === undefined
        ? [
            DB.prepare(
              `INSERT INTO receipts (root, tree_size, chain, network, method, tx_hash, anchor_at, json, revision)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING id`,
            ).bind(...values),
          ]
        : [
            DB.prepare(
              `UPDATE receipts SET root = ?, tree_size = ?, chain = ?, network = ?, method = ?, tx_hash = ?, anchor_at = ?, json = ?,
                 revision = ? WHERE id = ? RETURNING id`,
            ).bind(...values, there.id),
          ]),
    ...(revocation === null
      ? []
      : [
          DB.prepare(
            `INSERT INTO revocations (receipt_id, json, at) SELECT id, ?6, ?7 FROM (${of}) WHERE true
             ON CONFLICT (receipt_id) DO UPDATE SET json = excluded.json WHERE json <> excluded.json RETURNING receipt_id AS id`,
          ).bind(...named, revocation.json, revocation.at),
        ]),
    ...(isWatched
      ? [
          DB.prepare(
            `INSERT INTO receipt_checks (receipt_id, due_at) SELECT id, ?6 FROM (${of}) WHERE true
             ON CONFLICT DO NOTHING RETURNING receipt_id AS id`,
          ).bind(...named, receipt.observedAt + FIRST_CHECK_MS),
        ]
      : []),
  ])
  return results.reduce((sum, { results: changed }) => sum + changed.length, 0)
}

async function readRevocation(
  json: string,
  { name, notes }: { readonly name: string; readonly notes: Notes },
): Promise<{ readonly json: string; readonly at: number } | null> {
  return notes.attempt(`${name} has a revocation that cannot be read`, () => {
    const { revokedAt } = JSON.parse(json) as { revokedAt?: unknown }
    const at = Date.parse(String(revokedAt))
    if (!Number.isFinite(at)) throw new VaultMeshError('bad-state', 'it has no time.')
    return { json, at }
  })
}

async function rebuildJob(
  { env, record, nowAt, notes, rows }: BatchOfReceipts,
  held: Held,
  job: JobRow | null,
): Promise<number> {
  const { DB } = env
  const newest = Math.max(-1, ...held.receipts.keys())
  const isInIndex = rows.some((row) => isOf(record)(row) && nameOf(row) === nameOf(held))
  const isLive = newest < 0 ? isInIndex : !held.revoked.has(newest)
  if (job !== null) {
    if (job.state !== 'final' || isLive || newest < 0) return 0
    await reopen(DB, job.id, 'its receipt was revoked', nowAt)
    return 1
  }
  const insert = (state: string, work: string | null, reason: string | null) =>
    DB.prepare(
      `INSERT INTO anchors (root, tree_size, chain, network, method, state, work, reason, next_at, created_at, updated_at)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
    )
      .bind(
        record.root,
        record.treeSize,
        held.chain,
        held.network,
        held.method,
        state,
        work,
        reason,
        nowAt,
        record.sealedAt,
        nowAt,
      )
      .run()
  if (isLive) await insert('final', null, null)
  else if (newest >= 0) await insert('orphaned', null, 'its receipt was revoked')
  else {
    const promise = [...held.promises].toSorted(([a], [b]) => b - a)[0]?.[1]
    if (promise === undefined) return 0
    const isOurs = await notes.attempt(
      `Batch ${record.height}: a calendar’s promise cannot be taken back`,
      () => {
        const { ots } = JSON.parse(promise) as { ots?: unknown }
        if (!equal(parseOts(fromBase64(String(ots))).message, fromHex(record.root)))
          throw new VaultMeshError('bad-state', 'it is of another root.')
        return true
      },
    )
    if (isOurs !== true) return 0
    await insert('broadcast', promise, null)
  }
  return 1
}

/** What was signed is the wallet's to say: the job asks it first, so nothing is paid for again. */
async function reopen(db: D1Database, id: number, reason: string, nowAt: number): Promise<void> {
  await db
    .prepare(
      `UPDATE anchors SET state = 'orphaned', work = NULL, reason = ?2, next_at = ?3, lease_until = 0, version = version + 1,
         updated_at = ?3 WHERE id = ?1 AND state = 'final'`,
    )
    .bind(id, reason, nowAt)
    .run()
}
