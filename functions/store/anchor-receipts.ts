/**
 * Verified anchor receipts: each in R2 first, then its row; what the chain contradicts later gets a
 * revocation record beside it (design §5). A receipt is never updated and never removed.
 */

import { methodOf, type AnchorReceipt } from '#core/anchor-receipt.ts'
import { receiptStatus, type AnchorState } from '#core/anchor-state.ts'
import { utf8 } from '#core/bytes.ts'
import type { PendingAnchor } from '#core/receipt.ts'
import { isoTime } from '#core/time.ts'
import { raiseAlert } from '#store/alerts.ts'
import type { AnchorRow } from '#store/anchors.ts'
import { putImmutable } from '#store/bucket.ts'
import { batchLink, heightOfTree } from '#store/suffering.ts'

/** A receipt of a chain is first looked at again after an hour. */
export const FIRST_CHECK_MS = 3_600_000
/** So long: the deepest reorganisations of a final block known on any chain were undone within days. */
export const WATCHED_MS = 14 * 86_400_000

type Job = Pick<AnchorRow, 'root' | 'chain' | 'network' | 'method'>

/** Where a receipt lies in R2. */
export function receiptKey(job: Job, revision = 0): string {
  const key = `anchors/${job.root}/${job.chain}/${job.network}/${job.method}`
  return revision === 0 ? key : `${key}.${revision}`
}

/** Where the revocation of a receipt lies in R2. */
export function revocationKey(job: Job, revision = 0): string {
  return `${receiptKey(job, revision)}.revoked`
}

/** Where a calendar's promise for a root lies in R2; asked for anew, the next one lies beside it. */
export function promiseKey(job: Job, number = 0): string {
  const key = `${receiptKey(job)}.pending`
  return number === 0 ? key : `${key}.${number}`
}

/**
 * Keeps a calendar's promise, before its row says that there is one: D1 lost, the promise can still be followed. The
 * same twice is kept once.
 */
export async function keepPromise(env: Env, job: Job, work: object): Promise<void> {
  const json = JSON.stringify(work)
  // Promises are renewed after three days without a block.
  for (let number = 0; ; number++) {
    const key = promiseKey(job, number)
    const stored = await env.BUCKET.get(key)
    if (stored === null) return putImmutable(env.BUCKET, key, utf8(json), 'application/json')
    if ((await stored.text()) === json) return
  }
}

/** Key of the alert that a job's receipt was revoked. */
export function revokedKey({ root, chain, network }: Job): string {
  return `${chain}/${network}/${root.slice(0, 16)}`
}

/**
 * Keeps a verified receipt: R2 first, then its row. The first one stands; a repeat changes nothing. What lies in R2
 * without a row must verify (`holds`) to be the first: damaged, it is written over.
 */
export async function keepReceipt(
  env: Env,
  row: AnchorRow,
  receipt: AnchorReceipt,
  holds: (json: string) => Promise<boolean>,
): Promise<void> {
  const revision = await revisionOf(env.DB, row)
  const key = receiptKey(row, revision)
  const stored = await env.BUCKET.get(key)
  const there = stored === null ? null : await stored.text()
  const stands = there !== null && ((await holds(there)) || (await hasRow(env.DB, row, revision)))
  const json = stands ? there : JSON.stringify(receipt)
  const httpMetadata = { contentType: 'application/json' }
  if (there === null) await putImmutable(env.BUCKET, key, utf8(json), 'application/json')
  else if (!stands) await env.BUCKET.put(key, utf8(json), { httpMetadata })
  const first = JSON.parse(json) as AnchorReceipt
  const { root, treeSize, chain, network, method } = row
  const { DB } = env
  const checkAt = Date.parse(first.observedAt) + FIRST_CHECK_MS
  await DB.batch([
    DB.prepare(
      'INSERT INTO rails (chain, network, method) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
    ).bind(chain, network, method),
    DB.prepare(
      `INSERT INTO receipts (root, tree_size, chain, network, method, tx_hash, anchor_at, json, revision)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING`,
    ).bind(
      root,
      treeSize,
      chain,
      network,
      method,
      first.txHash,
      Date.parse(first.anchorTs),
      json,
      revision,
    ),
    // Finality is a bet: receipts of chains are looked at again (queues/anchors/recheck.ts).
    DB.prepare(
      `INSERT INTO receipt_checks (receipt_id, due_at) SELECT id, ?6 FROM receipts
       WHERE chain != 'TSA' AND root = ?1 AND chain = ?2 AND network = ?3 AND method = ?4 AND revision = ?5
       ON CONFLICT DO NOTHING`,
    ).bind(root, chain, network, method, revision, checkAt),
  ])
}

/** The receipt of a job that was not revoked, and how many before it were, or null. */
export async function receiptOfJob(
  db: D1Database,
  job: Job,
): Promise<{ readonly receipt: AnchorReceipt; readonly revision: number } | null> {
  const row = await db
    .prepare(
      `SELECT json, revision FROM receipts r WHERE root = ? AND chain = ? AND network = ? AND method = ?
         AND NOT EXISTS (SELECT 1 FROM revocations v WHERE v.receipt_id = r.id) ORDER BY revision DESC LIMIT 1`,
    )
    .bind(job.root, job.chain, job.network, job.method)
    .first<{ json: string; revision: number }>()
  if (row === null) return null
  return { receipt: JSON.parse(row.json) as AnchorReceipt, revision: row.revision }
}

async function hasRow(db: D1Database, job: Job, revision: number): Promise<boolean> {
  const row = await db
    .prepare(
      'SELECT 1 FROM receipts WHERE root = ? AND chain = ? AND network = ? AND method = ? AND revision = ?',
    )
    .bind(job.root, job.chain, job.network, job.method, revision)
    .first()
  return row !== null
}

/** How many receipts of a job were revoked. */
async function revisionOf(db: D1Database, job: Job): Promise<number> {
  const row = await db
    .prepare(
      `SELECT count(*) AS n FROM receipts r JOIN revocations v ON v.receipt_id = r.id
       WHERE r.root = ? AND r.chain = ? AND r.network = ? AND r.method = ?`,
    )
    .bind(job.root, job.chain, job.network, job.method)
    .first<{ n: number }>()
  return row?.n ?? 0
}

/** A receipt to hold against the chain again. */
export interface ReceiptToCheck extends Job {
  readonly id: number
  readonly treeSize: number
  readonly revision: number
  readonly json: string
}

/** Receipts whose look at their chain is due, the longest due first. */
export async function receiptsToCheck(
  db: D1Database,
  nowAt: number,
  limit: number,
): Promise<ReceiptToCheck[]> {
  const { results } = await db
    .prepare(
      `SELECT r.id, r.tree_size AS treeSize, r.root, r.chain, r.network, r.method, r.revision, r.json FROM receipt_checks c
       JOIN receipts r ON r.id = c.receipt_id WHERE c.due_at <= ?1 ORDER BY c.due_at LIMIT ?2`,
    )
    .bind(nowAt, limit)
    .all<ReceiptToCheck>()
  return results
}

/** When a receipt is looked at next; null: never again. */
export async function scheduleCheck(
  db: D1Database,
  id: number,
  dueAt: number | null,
): Promise<void> {
  const statement =
    dueAt === null
      ? db.prepare('DELETE FROM receipt_checks WHERE receipt_id = ?').bind(id)
      : db.prepare('UPDATE receipt_checks SET due_at = ?2 WHERE receipt_id = ?1').bind(id, dueAt)
  await statement.run()
}

/**
 * Revokes a receipt and lets its job begin again: the record in R2 first, then its row, the alert and the job
 * at once. Repeats change nothing.
 */
export async function revokeReceipt(
  env: Env,
  receipt: ReceiptToCheck,
  { check, reason, nowAt }: { check: string; reason: string; nowAt: number },
): Promise<void> {
  const key = revocationKey(receipt, receipt.revision)
  const stored = await env.BUCKET.get(key)
  const { root, chain, network, method, revision } = receipt
  const { txHash, blockNumber } = JSON.parse(receipt.json) as AnchorReceipt
  const record = { v: 1, root: `0x${root}`, chain, network, method, revision, txHash, blockNumber }
  const json =
    stored === null
      ? JSON.stringify({ ...record, revokedAt: isoTime(nowAt), check, reason })
      : await stored.text()
  if (stored === null) await putImmutable(env.BUCKET, key, utf8(json), 'application/json')
  const { DB } = env
  await DB.batch([
    DB.prepare(
      'INSERT INTO revocations (receipt_id, json, at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING',
    ).bind(receipt.id, json, nowAt),
    raiseAlert(
      DB,
      {
        kind: 'receipt_revoked',
        key: revokedKey(receipt),
        severity: 'critical',
        detail: `The receipt of ${txHash} is void: ${reason}`,
        link: batchLink(await heightOfTree(DB, receipt.treeSize), '/anchors/status'),
      },
      nowAt,
    ),
    // Not if a newer receipt has taken its place meanwhile: then this is a late repeat.
    DB.prepare(
      `UPDATE anchors SET state = 'orphaned', reason = 'its receipt was revoked', next_at = ?5, lease_until = 0,
         version = version + 1, updated_at = ?5
       WHERE root = ?1 AND chain = ?2 AND network = ?3 AND method = ?4 AND state = 'final' AND NOT EXISTS (
         SELECT 1 FROM receipts WHERE root = ?1 AND chain = ?2 AND network = ?3 AND method = ?4 AND revision > ?6)`,
    ).bind(root, chain, network, method, nowAt, revision),
  ])
}

/** The anchors of a leaf as its receipt lists them. */
export interface LeafAnchors {
  /** Per (chain, network, method) the first final one whose tree holds the leaf. */
  readonly verified: readonly AnchorReceipt[]
  /** Where there is none, the oldest job under way whose tree holds it. */
  readonly pending: readonly PendingAnchor[]
}

/** Both kinds in one round trip. */
export async function anchorsOfLeaf(db: D1Database, leafIndex: number): Promise<LeafAnchors> {
  const [done, open] = await db.batch<Record<string, unknown>>([
    db
      .prepare(
        `SELECT r.json FROM rails k JOIN receipts r ON r.id = (
           SELECT id FROM receipts c WHERE chain = k.chain AND network = k.network AND method = k.method AND tree_size > ?1
             AND NOT EXISTS (SELECT 1 FROM revocations v WHERE v.receipt_id = c.id)
           ORDER BY tree_size LIMIT 1) ORDER BY r.chain, r.network`,
      )
      .bind(leafIndex),
    db
      .prepare(
        `SELECT root, chain, network, method, tree_size AS treeSize, state, reason, inclusion FROM anchors
         INDEXED BY anchors_due WHERE state NOT IN ('final', 'failed') AND tree_size > ?1 ORDER BY id LIMIT 64`,
      )
      .bind(leafIndex),
  ])
  const verified = done!.results.map((row) => JSON.parse(String(row['json'])) as AnchorReceipt)
  const kinds = new Set(verified.map((r) => kindOf({ ...r, method: methodOf(r) })))
  const pending: PendingAnchor[] = []
  for (const row of open!.results as unknown as AnchorRow[]) {
    if (kinds.has(kindOf(row))) continue
    kinds.add(kindOf(row))
    pending.push({
      root: `0x${row.root}`,
      chain: row.chain as PendingAnchor['chain'],
      network: row.network,
      method: row.method,
      txHash: null,
      blockNumber: null,
      anchorTs: null,
      ...(row.inclusion === null ? {} : (JSON.parse(row.inclusion) as object)),
      treeSize: row.treeSize,
      status: receiptStatus[row.state as AnchorState] as PendingAnchor['status'],
      ...(row.reason === null ? {} : { reason: row.reason }),
    })
  }
  return { verified, pending }
}

function kindOf(anchor: Pick<AnchorRow, 'chain' | 'network' | 'method'>): string {
  return `${anchor.chain}/${anchor.network}/${anchor.method}`
}

/** A receipt as it is handed to those who copy it. */
export interface KeptReceipt {
  readonly id: number
  readonly method: string
  readonly revision: number
  readonly json: string
  /** The revocation record, if there is one. */
  readonly revoked: string | null
}

/**
 * Verified receipts in the order they were kept, for whoever copies them: after `after`, at most `limit`. With
 * `onlyRevoked` those that were revoked since: few, and each may be weeks older than its revocation.
 */
export async function receiptsAfter(
  db: D1Database,
  { after, limit, onlyRevoked }: { after: number; limit: number; onlyRevoked: boolean },
): Promise<KeptReceipt[]> {
  const { results } = await db
    .prepare(
      onlyRevoked
        ? `SELECT r.id, r.method, r.revision, r.json, v.json AS revoked FROM revocations v CROSS JOIN receipts r ON r.id = v.receipt_id
           WHERE v.receipt_id > ? ORDER BY v.receipt_id LIMIT ?`
        : `SELECT r.id, r.method, r.revision, r.json, v.json AS revoked FROM receipts r LEFT JOIN revocations v ON v.receipt_id = r.id
           WHERE r.id > ? ORDER BY r.id LIMIT ?`,
    )
    .bind(after, limit)
    .all<KeptReceipt>()
  return results
}
