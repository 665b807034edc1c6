/**
 * fsck of anchor receipts: D1's rows, R2's objects and what the evidence itself says are one.
 *
 * A receipt belongs to the batch whose root it anchors. Those of a batch are found by root and, for each
 * known kind, by the tree sizes from the batch before up to its own: so every row of a known kind is looked
 * at with some batch, whatever was done to it.
 */

import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { fromUtf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { receiptKey } from '#store/anchor-receipts.ts'
import type { BatchRecord } from '#store/batches.ts'
import { getBytes } from '#store/bucket.ts'
import type { Notes } from '#store/findings.ts'
import type { NodeContext } from '#store/node.ts'

/** Rows looked at for one batch: it has one for each kind. */
const MAX_ROWS = 200

interface Kind {
  readonly chain: string
  readonly network: string
  readonly method: string
}

interface ReceiptRow extends Kind {
  readonly root: string
  readonly treeSize: number
  readonly txHash: string
  readonly anchorAt: number
  readonly json: string
  readonly revision: number
}

/** Checks the receipts of the batch's root. */
export async function checkReceipts(
  env: Env,
  node: NodeContext,
  record: BatchRecord,
  notes: Notes,
): Promise<void> {
  const { DB } = env
  const columns =
    'r.id, r.root, r.tree_size AS treeSize, r.chain, r.network, r.method, r.tx_hash AS txHash, r.anchor_at AS anchorAt, r.json, r.revision'
  const [rows, jobs, rails] = await DB.batch<unknown>([
    DB.prepare(
      `SELECT ${columns} FROM receipts r WHERE r.root = ?1 UNION
       SELECT ${columns} FROM rails k CROSS JOIN receipts r ON r.chain = k.chain AND r.network = k.network AND r.method = k.method
         AND r.tree_size > ?2 AND r.tree_size <= ?3 LIMIT ${MAX_ROWS}`,
    ).bind(record.root, record.firstIndex, record.treeSize),
    DB.prepare(
      `SELECT chain, network, method, state FROM anchors WHERE root = ? LIMIT ${MAX_ROWS}`,
    ).bind(record.root),
    DB.prepare(`SELECT chain, network, method FROM rails LIMIT ${MAX_ROWS}`),
  ])
  const states = new Map(
    (jobs!.results as (Kind & { state: string })[]).map((job) => [nameOf(job), job.state]),
  )
  const known = new Map((rails!.results as Kind[]).map((kind) => [nameOf(kind), kind]))
  const own = new Set<string>()
  for (const row of rows!.results as ReceiptRow[]) {
    if (row.root === record.root) own.add(nameOf(row))
    if (!known.has(nameOf(row)))
      notes.say(`Batch ${record.height}: D1’s rails lack ${nameOf(row)}, so no receipt lists it.`)
    await checkReceipt(env, node, { record, row }, notes)
  }
  const kinds = new Map([
    ...known,
    ...(jobs!.results as Kind[]).map((job) => [nameOf(job), job] as const),
  ])
  for (const [name, kind] of kinds) {
    if (own.has(name)) continue
    const state = states.get(name)
    if (state === 'final')
      notes.say(`Batch ${record.height}: the job of ${name} is final, but D1 has no receipt of it.`)
    // A receipt is in R2 first, so a job under way may have left one there.
    if (state !== undefined && state !== 'final') continue
    if ((await getBytes(env.BUCKET, receiptKey({ ...kind, root: record.root }))) !== null)
      notes.say(`Batch ${record.height}: R2 holds a receipt of ${name}, D1 does not.`)
  }
}

function nameOf({ chain, network, method }: Kind): string {
  return `${chain}/${network}/${method}`
}

async function checkReceipt(
  env: Env,
  node: NodeContext,
  { record, row }: { readonly record: BatchRecord; readonly row: ReceiptRow },
  notes: Notes,
): Promise<void> {
  const name = `Batch ${record.height}: the anchor receipt of ${nameOf(row)}`
  if (row.root !== record.root || row.treeSize !== record.treeSize)
    notes.say(`${name} is of size ${row.treeSize} and root ${row.root}, which the log never had.`)
  const key = receiptKey(row, row.revision)
  const stored = await getBytes(env.BUCKET, key)
  if (stored === null) notes.say(`${name} is in D1, but R2 lacks ${key}.`)
  else {
    await notes.attempt(`${name} in R2`, () => {
      if (fromUtf8(stored) !== row.json)
        throw new VaultMeshError('bad-state', `${key} is another one than that of D1.`)
    })
  }
  await notes.attempt(`${name} does not verify`, async () => {
    const said = await verifyKept(node, row.json)
    const other = Object.entries(said)
      .filter(([column, value]) => row[column as keyof ReceiptRow] !== value)
      .map(([column]) => column)
    if (other.length > 0)
      throw new VaultMeshError('bad-receipt', `D1 has another ${other.join(', ')} than it says.`)
  })
}

/** What a kept receipt says, once it verifies by what this node pins; throws `bad-receipt` if it does not. */
export async function verifyKept(node: NodeContext, json: string) {
  const receipt = JSON.parse(json) as Readonly<Record<string, unknown>>
  const verdict = await verifyAnchorReceipt(receipt, {
    tsaRoots: node.config.tsaRoots,
    nodeDids: node.history.keys.map(({ did }) => did),
  })
  if (verdict.outcome !== 'verified') {
    const check = verdict.outcome === 'refuted' ? ` at ${verdict.check}` : ''
    throw new VaultMeshError('bad-receipt', `${verdict.outcome}${check}: ${verdict.reason}`)
  }
  return {
    root: verdict.root.slice(2),
    treeSize: receipt['treeSize'],
    chain: verdict.chain,
    network: verdict.network,
    txHash: verdict.txHash,
    anchorAt: verdict.anchoredAt,
  }
}

/** Receipts in D1; a finding for those that no batch of the log will show. */
export async function countReceipts(env: Env, size: number, notes: Notes): Promise<number> {
  const known =
    'FROM rails k CROSS JOIN receipts r ON r.chain = k.chain AND r.network = k.network AND r.method = k.method'
  const row = await env.DB.prepare(
    `SELECT (SELECT count(*) FROM receipts) AS receipts, (SELECT count(*) ${known}) AS known,
       (SELECT count(*) ${known} AND r.tree_size < 1) + (SELECT count(*) ${known} AND r.tree_size > ?) AS outside`,
  )
    .bind(size)
    .first<{ receipts: number; known: number; outside: number }>()
  const { receipts, known: listed, outside } = row!
  if (listed !== receipts)
    notes.say(`D1’s rails lack the kinds of ${receipts - listed} anchor receipts.`)
  if (outside > 0) notes.say(`D1 has ${outside} anchor receipts of sizes that the log never had.`)
  return receipts
}
