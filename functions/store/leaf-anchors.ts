/**
 * Every verified anchor of a leaf, page by page: what a receipt leaves out, since it lists the first of each
 * kind only (design §5).
 *
 * In the order of kind (chain, network, method) and then of tree size, which is the order of the index: a
 * page costs at most its own rows for each kind, however many anchors there are.
 */

import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { toHex } from '#core/bytes.ts'
import type { ListedAnchor } from '#core/receipt.ts'
import { proveConsistency } from '#store/log.ts'

/** Anchors on a page: each of another tree size has a proof of its own, of ≈ 6 tiles. */
export const ANCHORS_PER_PAGE = 16

/** A page of anchors; `next` is the cursor of the one after it, null at the end. */
export interface AnchorPage {
  readonly anchors: readonly AnchorReceipt[]
  readonly next: number | null
}

/** The verified anchors whose tree holds the leaf, after the one that `cursor` names; null if it names none. */
export async function pageOfAnchors(
  db: D1Database,
  leafIndex: number,
  cursor: number | null,
): Promise<AnchorPage | null> {
  let after = { chain: '', network: '', method: '', treeSize: 0 }
  if (cursor !== null) {
    const row = await db
      .prepare('SELECT chain, network, method, tree_size AS treeSize FROM receipts WHERE id = ?')
      .bind(cursor)
      .first<typeof after>()
    if (row === null) return null
    after = row
  }
  const { results } = await db
    .prepare(
      `SELECT r.id, r.json FROM rails k CROSS JOIN receipts r ON r.id IN (
         SELECT id FROM receipts c WHERE chain = k.chain AND network = k.network AND method = k.method
           AND NOT EXISTS (SELECT 1 FROM revocations v WHERE v.receipt_id = c.id)
           AND tree_size > iif((k.chain, k.network, k.method) = (?2, ?3, ?4), max(?1, ?5), ?1)
         ORDER BY tree_size LIMIT ?6)
       WHERE (k.chain, k.network, k.method) >= (?2, ?3, ?4)
       ORDER BY r.chain, r.network, r.method, r.tree_size LIMIT ?6`,
    )
    .bind(
      leafIndex,
      after.chain,
      after.network,
      after.method,
      after.treeSize,
      // One more than is shown tells whether there is a next page.
      ANCHORS_PER_PAGE + 1,
    )
    .all<{ id: number; json: string }>()
  const shown = results.slice(0, ANCHORS_PER_PAGE)
  return {
    anchors: shown.map(({ json }) => JSON.parse(json) as AnchorReceipt),
    next: results.length > shown.length ? shown.at(-1)!.id : null,
  }
}

/** Each anchor with the consistency proof from the tree of `from` leaves to its own, if that is another. */
export async function listAnchors(
  bucket: R2Bucket,
  anchors: readonly AnchorReceipt[],
  from: number,
): Promise<ListedAnchor[]> {
  // A subtree that is complete in a smaller tree is complete in the largest: all proofs share its tiles.
  const published = Math.max(...anchors.map(({ treeSize }) => treeSize))
  const listed: ListedAnchor[] = []
  for (const anchor of anchors) {
    const to = anchor.treeSize
    if (to === from) {
      listed.push(anchor)
      continue
    }
    const hashes = await proveConsistency(bucket, { from, to, published })
    listed.push({ ...anchor, consistencyProof: { from, to, hashes: hashes.map(toHex) } })
  }
  return listed
}
