/**
 * Batches in D1 and R2: one record each, written before the head swap and shown after it.
 */

import { fromUtf8, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { batchKey, getBytes, putImmutable } from '#store/bucket.ts'

/** What is kept of a batch. */
export interface BatchRecord {
  readonly height: number
  readonly firstIndex: number
  readonly count: number
  readonly treeSize: number
  /** 64 hex digits. */
  readonly root: string
  readonly sealedAt: number
  /** JWS `vm-batch+jws`. */
  readonly manifest: string
  /** Signed note of the log at treeSize. */
  readonly checkpoint: string
  /** Parts of the event bundle. */
  readonly parts: number
}

const COLUMNS =
  'height, first_index AS firstIndex, count, tree_size AS treeSize, root, sealed_at AS sealedAt, manifest, checkpoint, parts'

/**
 * Records a batch in R2 and D1, not yet visible. Repeats with the same content are harmless; another
 * batch at this height is a second history and throws `bad-state`.
 */
export async function recordBatch(env: Env, batch: BatchRecord): Promise<void> {
  await putImmutable(
    env.BUCKET,
    batchKey(batch.height),
    utf8(JSON.stringify(batch)),
    'application/json',
  )
  await insertBatch(env.DB, batch)
}

/** The D1 half of `recordBatch`; also what rebuilds the index from R2. */
export async function insertBatch(db: D1Database, batch: BatchRecord): Promise<void> {
  await db
    .prepare(
      'INSERT INTO batches (height, first_index, count, tree_size, root, sealed_at, manifest, checkpoint, parts) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (height) DO NOTHING',
    )
    .bind(
      batch.height,
      batch.firstIndex,
      batch.count,
      batch.treeSize,
      batch.root,
      batch.sealedAt,
      batch.manifest,
      batch.checkpoint,
      batch.parts,
    )
    .run()
  const there = await db
    .prepare('SELECT manifest FROM batches WHERE height = ?')
    .bind(batch.height)
    .first<string>('manifest')
  if (there !== batch.manifest) {
    throw new VaultMeshError(
      'bad-state',
      `The index holds another batch at height ${batch.height}.`,
    )
  }
}

/** The record of a batch as R2 keeps it; throws `bad-state` if it is missing. */
export async function readBatchRecord(bucket: R2Bucket, height: number): Promise<BatchRecord> {
  const bytes = await getBytes(bucket, batchKey(height))
  if (bytes === null)
    throw new VaultMeshError('bad-state', `R2 lacks the record of batch ${height}.`)
  return JSON.parse(fromUtf8(bytes)) as BatchRecord
}

/** The committed batch at a height, or null. */
export async function batchAt(db: D1Database, height: number): Promise<BatchRecord | null> {
  return db
    .prepare(`SELECT ${COLUMNS} FROM batches WHERE height = ? AND committed = 1`)
    .bind(height)
    .first<BatchRecord>()
}

/** Committed batches below a height, newest first. */
export async function listBatches(
  db: D1Database,
  below: number,
  limit: number,
): Promise<BatchRecord[]> {
  const { results } = await db
    .prepare(
      `SELECT ${COLUMNS} FROM batches WHERE committed = 1 AND height < ? ORDER BY height DESC LIMIT ?`,
    )
    .bind(below, limit)
    .all<BatchRecord>()
  return results
}
