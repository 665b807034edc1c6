/**
 * Batches in D1 and R2: one record each, written before the head swap and shown after it.
 */

import { verifyManifest } from '#core/batch-manifest.ts'
import { fromBase64Url, fromUtf8, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { wasEverKey } from '#core/rotation.ts'
import { batchKey, getBytes, putImmutable } from '#store/bucket.ts'
import { nodeOf } from '#store/node.ts'

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
 * Records a batch in R2 and D1, not yet visible. Repeats with the same content are harmless, also if the node's
 * key was rotated in between: the manifest that is there stands. Another batch at this height is a second
 * history and throws `bad-state`.
 */
export async function recordBatch(env: Env, batch: BatchRecord): Promise<void> {
  const bytes = utf8(JSON.stringify(batch))
  let record = batch
  try {
    await putImmutable(env.BUCKET, batchKey(batch.height), bytes, 'application/json')
  } catch (error) {
    if (!(error instanceof VaultMeshError && error.code === 'bad-state')) throw error
    const stored = await sealedBefore(env, batch)
    if (stored === null) throw error
    record = stored
  }
  await insertBatch(env.DB, record)
}

/**
 * The record in R2, if it differs from `batch` only in the key of this node that signed its manifest: a seal that
 * was cut off after its record is repeated after a rotation. Null for any other record.
 */
async function sealedBefore(env: Env, batch: BatchRecord): Promise<BatchRecord | null> {
  const bytes = await getBytes(env.BUCKET, batchKey(batch.height))
  const { history } = await nodeOf(env)
  const claims = async ({ manifest }: BatchRecord): Promise<string> => {
    const said = await verifyManifest(manifest, (did) => wasEverKey(history, did))
    return JSON.stringify({ ...said, sealer: '' })
  }
  try {
    const stored = JSON.parse(fromUtf8(bytes!)) as BatchRecord
    if (JSON.stringify({ ...stored, manifest: batch.manifest }) !== JSON.stringify(batch))
      return null
    return (await claims(stored)) === (await claims(batch)) ? stored : null
  } catch {
    return null // Garbage, or another's signature: the caller says what is there.
  }
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

/** The root over the batch's own leaves, 64 hex digits, as this node's own manifest has it. */
export function batchRootOf({ manifest }: Pick<BatchRecord, 'manifest'>): string {
  const claims = JSON.parse(fromUtf8(fromBase64Url(manifest.split('.')[1]!))) as {
    readonly batchRoot: string
  }
  return claims.batchRoot.replace('sha256:', '')
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
