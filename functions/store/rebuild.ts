/**
 * fsck --rebuild: the index in D1, made again from what R2 holds and the Sequencer has sealed (design §2).
 *
 * One batch at a time, in the order of the index law: events, then their batch as committed, then its receipts
 * (store/rebuild-receipts.ts). A batch is first derived as fsck derives it, from its bytes up to the checkpoint that the
 * log's key signed; with one finding nothing of it is written. Rows that are right are left alone, so a rebuild may
 * stop anywhere, run twice, and run while the node seals: only batches that the Sequencer calls indexed are
 * touched, and it writes the events' rows itself, between two seals, since it alone interns names (`indexAgain`). At
 * the beginning it forgets the names it knew (`forgetNames`), at the end it clears what lies beyond the log and
 * brings anchor jobs back (`mendIndex`).
 *
 * Not restored, because nothing else holds it: webhooks and their deliveries, sessions, tokens, the dashboard's audit,
 * alerts (they open again), what was learned of providers.
 */

import { ERASURE_TYPE } from '#core/erasure.ts'
import { VaultMeshError } from '#core/errors.ts'
import { askAgain } from '#store/erasures.ts'
import { Notes, type Findings } from '#store/findings.ts'
import { batchRowFaults, deriveBatch, wrongRows } from '#store/fsck.ts'
import type { BatchRecord } from '#store/batches.ts'
import type { NodeContext } from '#store/node.ts'
import { rebuildReceipts } from '#store/rebuild-receipts.ts'

interface Part {
  readonly firstIndex: number
  /** Leaves whose rows are missing or wrong. */
  readonly leaves: number[]
  hasErasures: boolean
}

/**
 * Makes the index of one batch what its bytes say. `findings` say why it was left as it is; `written` counts the rows
 * that were missing or wrong. Throws `not-sealed` for a batch that the Sequencer has not indexed.
 */
export async function rebuildBatch(
  env: Env,
  node: NodeContext,
  { height, nowAt }: { readonly height: number; readonly nowAt: number },
): Promise<Findings> {
  const head = await env.SEQUENCER.getByName('log').head()
  if (height > head.indexedHeight)
    throw new VaultMeshError('not-sealed', `Batch ${height} is not indexed by its seal yet.`)
  const notes = new Notes()
  const parts = new Map<number, Part>()
  const derived = await deriveBatch(env, node, height, {
    notes,
    async onRows(rows) {
      const wrong = new Set(await wrongRows(env.DB, rows))
      for (const row of rows) {
        const part = parts.get(row.part) ?? { firstIndex: row.leaf, leaves: [], hasErasures: false }
        parts.set(row.part, part)
        if (wrong.has(row)) part.leaves.push(row.leaf)
        part.hasErasures ||= row.type === ERASURE_TYPE
      }
    },
  })
  if (derived !== null && height === head.height && derived.record.root !== head.root)
    notes.say(`The record of batch ${height} is not of the head.`)
  if (derived === null || derived.hashes === null || notes.count > 0) {
    notes.say(`Batch ${height}: its bytes do not verify, so nothing of it was rebuilt.`)
    return notes.with({ height, written: 0 })
  }
  const { record } = derived
  let written = 0
  for (const [part, { firstIndex, leaves, hasErasures }] of parts) {
    // What erasures are due is noted with the index of their events.
    if (leaves.length === 0 && !hasErasures) continue
    await env.SEQUENCER.getByName('log').indexAgain({ height, part, firstIndex, leaves })
    written += leaves.length
  }
  written += await writeBatchRow(env.DB, record)
  // Of an erased event neither source nor type is left; what erased it is looked for again.
  await askAgain(env, record)
  written += await rebuildReceipts(env, node, { record, nowAt }, notes)
  return notes.with({ height, written })
}

/** The batch as it is shown: after its events, so that no reader sees half of it. */
async function writeBatchRow(db: D1Database, record: BatchRecord): Promise<number> {
  const faults = await batchRowFaults(db, record)
  const shown = await db
    .prepare('SELECT committed FROM batches WHERE height = ?')
    .bind(record.height)
    .first<number>('committed')
  if (faults.length === 0 && shown === 1) return 0
  const { height, firstIndex, count, treeSize, root } = record
  const { sealedAt, manifest, checkpoint, parts } = record
  await db
    .prepare(
      `INSERT INTO batches (height, first_index, count, tree_size, root, sealed_at, manifest, checkpoint, parts, committed)
       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 1) ON CONFLICT (height) DO UPDATE SET first_index = excluded.first_index, count = excluded.count,
         tree_size = excluded.tree_size, root = excluded.root, sealed_at = excluded.sealed_at, manifest = excluded.manifest,
         checkpoint = excluded.checkpoint, parts = excluded.parts, committed = 1`,
    )
    .bind(height, firstIndex, count, treeSize, root, sealedAt, manifest, checkpoint, parts)
    .run()
  return 1
}

/** What the Sequencer has indexed and D1 has not, in a sentence; null if the ends of the index are where they should be. */
export async function missingIndex(
  db: D1Database,
  head: { readonly indexedHeight: number },
): Promise<string | null> {
  if (head.indexedHeight === 0) return null
  const row = await db
    .prepare(
      `SELECT (SELECT min(height) FROM batches) AS first, (SELECT count(*) FROM batches WHERE height = ?1 AND committed = 1) AS last,
         (SELECT min(leaf_index) FROM events) AS leaf`,
    )
    .bind(head.indexedHeight)
    .first<{ first: number | null; last: number; leaf: number | null }>()
  if (row!.first === 1 && row!.last === 1 && row!.leaf === 0) return null
  return `The log has ${head.indexedHeight} batches, the index in D1 lacks ${row!.first === null ? 'all' : 'some'} of them: run vaultmesh fsck --rebuild.`
}
