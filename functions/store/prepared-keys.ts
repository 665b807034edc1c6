/**
 * Key statements that were signed on the dashboard and are not installed yet: at most one an epoch, ever.
 *
 * A statement is public once it is installed. Two of one epoch are a key conflict, which freezes the node at its
 * peers; so the first that is kept here is the one that everybody gets who asks.
 */

import { signNextKey, type NextKey } from '#store/node.ts'

/** A statement, and since when. */
export interface PreparedKey extends NextKey {
  readonly preparedAt: number
  readonly preparedBy: string
}

const COLUMNS = 'epoch, statement, prepared_at AS preparedAt, prepared_by AS preparedBy'

/** The prepared statement of an epoch, or null. */
export async function preparedKey(db: D1Database, epoch: number): Promise<PreparedKey | null> {
  return db
    .prepare(`SELECT ${COLUMNS} FROM prepared_keys WHERE epoch = ?`)
    .bind(epoch)
    .first<PreparedKey>()
}

/**
 * The statement of the next epoch: signed now, with an end of the newest key `overlapS` seconds from now, or the one
 * that was kept before. Throws what `signNextKey` throws.
 */
export async function prepareNextKey(
  env: Env,
  {
    overlapS,
    by,
    nowAt,
  }: { readonly overlapS: number; readonly by: string; readonly nowAt: number },
): Promise<PreparedKey> {
  const { epoch, statement } = await signNextKey(env, overlapS, nowAt)
  await env.DB.prepare(
    'INSERT INTO prepared_keys (epoch, statement, prepared_at, prepared_by) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING',
  )
    .bind(epoch, statement, nowAt, by)
    .run()
  // Of two that sign at once, both show the one that was kept.
  return (await preparedKey(env.DB, epoch))!
}
