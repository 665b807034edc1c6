/**
 * sealer-dlq and anchor-dlq: what a queue gave up on becomes a row and an alert. Nothing is lost with
 * it: events wait in their pool, anchors in their outbox, and both are retried by alarm and cron.
 */

import { clearAlert, closeDeadLetters, keepDeadLetters, openAlert } from '#store/alerts.ts'
import { anchorRow, type AnchorMessage } from '#store/anchors.ts'
import { count, type Background } from '#store/metrics.ts'
import { batchLink, heightOfTree, newestHeight } from '#store/suffering.ts'
import { trail } from '#store/trail.ts'
import { wakeAlerts } from './alert-push.ts'

/** The newest sealed batch, as what waits for its seal has none yet; or the batch whose anchor was given up. */
async function linkOf(batch: MessageBatch, db: D1Database): Promise<string> {
  const general = isOfSeals(batch) ? '/batches' : '/anchors/status'
  try {
    if (isOfSeals(batch)) return batchLink(await newestHeight(db), general)
    const { id } = batch.messages[0]!.body as Partial<AnchorMessage>
    const row = id === undefined ? null : await anchorRow(db, id)
    const height = row === null ? null : await heightOfTree(db, row.treeSize)
    return batchLink(height, general)
  } catch {
    return general // the alert must not wait for its link
  }
}

/** Queues of log n > 1 have its number behind their names. */
function isOfSeals({ queue }: MessageBatch): boolean {
  return queue.startsWith('sealer-dlq')
}

/** Whether nothing waits for a seal or for its index; false where that cannot be told. */
async function isAllSealed({ DB, SEQUENCER }: Env, nowAt: number): Promise<boolean> {
  try {
    const log = SEQUENCER.getByName('log')
    const { waiting, height } = await log.watch({ overdueBefore: 0, since: nowAt })
    return waiting === 0 && ((await newestHeight(DB)) ?? 0) === height
  } catch {
    return false
  }
}

/** What a message asks for, without the request that it goes back to. */
function workOf({ body }: Message): string {
  return JSON.stringify(body, (key, value: unknown) => (key === 'requestId' ? undefined : value))
}

/** Keeps the messages and opens one alert for their queue. */
export async function onDeadLetters(
  batch: MessageBatch,
  env: Env,
  ctx?: Background,
): Promise<void> {
  const nowAt = Date.now()
  const seal = isOfSeals(batch)
  // Under the name by which whoever seals or anchors the next time closes them.
  const queue = seal ? 'sealer-dlq' : 'anchor-dlq'
  await keepDeadLetters(
    env.DB,
    batch.messages.map((m) => ({
      // One row for each piece of work, however often it comes back and whoever asked.
      id: `${batch.queue} ${workOf(m)}`,
      queue,
      body: JSON.stringify(m.body),
      receivedAt: nowAt,
    })),
  )
  for (const m of batch.messages) {
    trail(env, { kind: 'dead-letter', queue: batch.queue, work: JSON.stringify(m.body) })
  }
  await openAlert(
    env.DB,
    {
      kind: 'dead_letter',
      key: queue,
      severity: 'critical',
      detail: seal
        ? 'Sealing failed five times in a row; events wait in the pool and the seal is tried again by itself.'
        : 'An anchor message was given up; its outbox row is tried again by the sweeper.',
      link: await linkOf(batch, env.DB),
    },
    nowAt,
  )
  // A message that is given up comes late. What it asked for may be done, and in a quiet log no other seal would say so;
  // one that is done after this look closes by itself.
  if (seal && (await isAllSealed(env, nowAt))) {
    const { DB } = env
    await DB.batch([
      clearAlert(DB, 'dead_letter', queue, nowAt),
      closeDeadLetters(DB, queue, nowAt),
    ])
  }
  await wakeAlerts(env).catch(() => undefined)
  count(env, ctx, 'vaultmesh_dead_letters_total', { queue }, batch.messages.length)
}
