/**
 * The anchor outbox and the verified receipts, in D1 by drizzle; each receipt is in R2 first.
 *
 * One row for each (root, chain, network, method), for ever: the unique index is what makes a second
 * job, and so a second payment, for one root impossible. A consumer works on a row only under a lease
 * that it took by compare-and-swap on `version`; the loser of a race acknowledges and goes.
 */

import { and, asc, desc, eq, inArray, lt, lte, notInArray, sql } from 'drizzle-orm'
import { drizzle } from 'drizzle-orm/d1'
import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { receiptStatus, type AnchorState } from '#core/anchor-state.ts'
import type { PendingAnchor } from '#core/receipt.ts'
import { utf8 } from '#core/bytes.ts'
import type { Config } from '#core/config.ts'
import { putImmutable } from '#store/bucket.ts'
import { anchors, rails, receipts } from '#store/schema.ts'

/** A row of the outbox. */
export type AnchorRow = typeof anchors.$inferSelect

/** The reference that travels on `anchor`. */
export interface AnchorMessage {
  readonly id: number
}

/** The name of a timestamp authority in jobs and receipts: its host, never the URL with its credentials. */
export function tsaNetwork(url: string): string {
  return new URL(url).hostname
}

/**
 * Creates the jobs that anchor the newest root, once, and wakes their consumer. Older jobs of the same rail
 * that owe nothing to anybody end here: the newer root covers theirs, and an outage leaves one job to
 * retry, not one for each interval.
 */
export async function enqueueAnchors(
  env: Env,
  config: Config,
  head: { readonly root: string; readonly size: number },
  nowAt: number,
): Promise<void> {
  const db = drizzle(env.DB)
  for (const url of config.tsaUrls) {
    const rail = { chain: 'TSA', network: tsaNetwork(url), method: 'rfc3161' }
    const superseded = and(
      eq(anchors.chain, rail.chain),
      eq(anchors.network, rail.network),
      eq(anchors.method, rail.method),
      lt(anchors.treeSize, head.size),
      // A token that was asked for and not received costs nothing; a transaction would.
      inArray(anchors.state, ['queued', 'signed']),
      lte(anchors.leaseUntil, nowAt),
    )
    const [, rows] = await db.batch([
      db
        .update(anchors)
        .set({
          state: 'failed',
          reason: 'superseded: a newer root covers this one',
          version: sql`${anchors.version} + 1`,
          updatedAt: nowAt,
        })
        .where(superseded),
      db
        .insert(anchors)
        .values({
          root: head.root,
          treeSize: head.size,
          ...rail,
          state: 'queued',
          nextAt: nowAt,
          createdAt: nowAt,
          updatedAt: nowAt,
        })
        .onConflictDoNothing()
        .returning({ id: anchors.id }),
    ])
    const row = rows[0]
    if (row !== undefined) await env.ANCHOR_QUEUE.send({ id: row.id })
  }
}

/** Takes the row for `leaseMs`, or returns null if it is done, not due, or somebody else has it. */
export async function leaseAnchor(
  db: D1Database,
  id: number,
  nowAt: number,
  leaseMs: number,
): Promise<AnchorRow | null> {
  const rows = await drizzle(db)
    .update(anchors)
    .set({
      leaseUntil: nowAt + leaseMs,
      version: sql`${anchors.version} + 1`,
      attempts: sql`${anchors.attempts} + 1`,
    })
    .where(
      and(
        eq(anchors.id, id),
        notInArray(anchors.state, ['final', 'failed']),
        lte(anchors.leaseUntil, nowAt),
        lte(anchors.nextAt, nowAt),
      ),
    )
    .returning()
  return rows[0] ?? null
}

/** Writes what became of a leased row; false if the lease was lost in between. */
export async function saveAnchor(
  db: D1Database,
  row: AnchorRow,
  change: Partial<
    Pick<
      AnchorRow,
      'failures' | 'nextAt' | 'leaseUntil' | 'work' | 'reason' | 'delayMs' | 'provider'
    >
  > & {
    readonly state?: AnchorState
  },
  nowAt: number,
): Promise<boolean> {
  const rows = await drizzle(db)
    .update(anchors)
    .set({ ...change, updatedAt: nowAt })
    .where(and(eq(anchors.id, row.id), eq(anchors.version, row.version)))
    .returning({ id: anchors.id })
  return rows.length === 1
}

/** Rows that are due and that nobody works on: what the cron sweeper sends again. */
export async function dueAnchors(db: D1Database, nowAt: number): Promise<number[]> {
  const rows = await drizzle(db)
    .select({ id: anchors.id })
    .from(anchors)
    .where(
      and(
        notInArray(anchors.state, ['final', 'failed']),
        lte(anchors.nextAt, nowAt),
        lte(anchors.leaseUntil, nowAt),
      ),
    )
    .orderBy(asc(anchors.nextAt))
    .limit(100)
  return rows.map((row) => row.id)
}

/** Where a receipt lies in R2. */
export function receiptKey(row: Pick<AnchorRow, 'root' | 'chain' | 'network' | 'method'>): string {
  return `anchors/${row.root}/${row.chain}/${row.network}/${row.method}`
}

/** Keeps a verified receipt: R2 first, then its row. The first one stands; a repeat changes nothing. */
export async function keepReceipt(env: Env, row: AnchorRow, receipt: AnchorReceipt): Promise<void> {
  const key = receiptKey(row)
  const stored = await env.BUCKET.get(key)
  const json = stored === null ? JSON.stringify(receipt) : await stored.text()
  if (stored === null) await putImmutable(env.BUCKET, key, utf8(json), 'application/json')
  const first = JSON.parse(json) as AnchorReceipt
  const { chain, network, method } = row
  const db = drizzle(env.DB)
  await db.batch([
    db.insert(rails).values({ chain, network, method }).onConflictDoNothing(),
    db
      .insert(receipts)
      .values({
        root: row.root,
        treeSize: row.treeSize,
        chain,
        network,
        method,
        txHash: first.txHash,
        anchorAt: Date.parse(first.anchorTs),
        json,
      })
      .onConflictDoNothing(),
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
           SELECT id FROM receipts WHERE chain = k.chain AND network = k.network AND method = k.method AND tree_size > ?1
           ORDER BY tree_size LIMIT 1) ORDER BY r.chain, r.network`,
      )
      .bind(leafIndex),
    db
      .prepare(
        `SELECT root, chain, network, method, tree_size AS treeSize, state, reason FROM anchors
         WHERE state NOT IN ('final', 'failed') AND tree_size > ?1 ORDER BY id LIMIT 16`,
      )
      .bind(leafIndex),
  ])
  const verified = done!.results.map((row) => JSON.parse(String(row['json'])) as AnchorReceipt)
  const kinds = new Set(verified.map(kindOf))
  const pending: PendingAnchor[] = []
  for (const row of open!.results as unknown as AnchorRow[]) {
    if (kinds.has(kindOf(row))) continue
    kinds.add(kindOf(row))
    pending.push({
      root: `0x${row.root}`,
      chain: row.chain as PendingAnchor['chain'],
      network: row.network,
      txHash: null,
      blockNumber: null,
      anchorTs: null,
      treeSize: row.treeSize,
      status: receiptStatus[row.state as AnchorState] as PendingAnchor['status'],
      ...(row.reason === null ? {} : { reason: row.reason }),
    })
  }
  return { verified, pending }
}

function kindOf(anchor: { readonly chain: string; readonly network: string }): string {
  return `${anchor.chain}/${anchor.network}`
}

/** The newest jobs, for /anchors/status. */
export async function recentAnchors(db: D1Database, limit: number): Promise<AnchorRow[]> {
  return drizzle(db).select().from(anchors).orderBy(desc(anchors.id)).limit(limit)
}
