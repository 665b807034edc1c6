/**
 * Which batch suffers: the oldest one that waits for an anchor, and the batch of a root. What an alert links to.
 *
 * Leaves are dense and batches whole, so the leaf after the newest tree that a rail has anchored is in the oldest
 * batch that waits for that rail, and the last leaf of a tree is in the batch that made it: two look-ups by key.
 */

/** A rail, as outbox and receipts name it. */
export interface RailOf {
  readonly chain: string
  readonly network: string
  readonly method: string
}

const OLDEST = `SELECT e.height FROM events e JOIN batches b ON b.height = e.height AND b.committed = 1
WHERE e.leaf_index = coalesce((SELECT r.tree_size FROM receipts r
  WHERE r.chain = ?1 AND r.network = ?2 AND r.method = ?3
    AND NOT EXISTS (SELECT 1 FROM revocations v WHERE v.receipt_id = r.id)
  ORDER BY r.tree_size DESC LIMIT 1), 0)`

/** Height of the oldest batch that each rail has not anchored, in the order of `rails`; null where none waits. */
export async function waitingHeights(
  db: D1Database,
  rails: readonly RailOf[],
): Promise<(number | null)[]> {
  if (rails.length === 0) return []
  const found = await db.batch<{ height: number }>(
    rails.map(({ chain, network, method }) => db.prepare(OLDEST).bind(chain, network, method)),
  )
  return found.map(({ results }) => results[0]?.height ?? null)
}

/** Height of the oldest batch that waits for an anchor on any of `rails`; 0 if none does. */
export async function sufferingHeight(db: D1Database, rails: readonly RailOf[]): Promise<number> {
  const heights = (await waitingHeights(db, rails)).filter((height) => height !== null)
  return heights.length === 0 ? 0 : Math.min(...heights)
}

/** Height of the batch that made the tree of `treeSize` leaves; null if it is not indexed. */
export async function heightOfTree(db: D1Database, treeSize: number): Promise<number | null> {
  return db
    .prepare('SELECT height FROM events WHERE leaf_index = ?')
    .bind(treeSize - 1)
    .first<number>('height')
}

/** Height of the newest batch that is indexed; null in an empty log. */
export async function newestHeight(db: D1Database): Promise<number | null> {
  return db
    .prepare('SELECT height FROM batches WHERE committed = 1 ORDER BY height DESC LIMIT 1')
    .first<number>('height')
}

/** The path of a batch, or `otherwise` where there is none to name. */
export function batchLink(height: number | null, otherwise: string): string {
  return height === null ? otherwise : `/batches/${height}`
}
