/**
 * sealer-dlq and anchor-dlq: what a queue gave up on becomes a row and an alert. Nothing is lost with
 * it: events wait in their pool, anchors in their outbox, and both are retried by alarm and cron.
 */

import { keepDeadLetters, openAlert } from '#store/alerts.ts'

/** Keeps the messages and opens one alert for their queue. */
export async function onDeadLetters(batch: MessageBatch, env: Env): Promise<void> {
  const nowAt = Date.now()
  await keepDeadLetters(
    env.DB,
    batch.messages.map((m) => ({
      // One row for each piece of work, however often it comes back.
      id: `${batch.queue} ${JSON.stringify(m.body)}`,
      queue: batch.queue,
      body: JSON.stringify(m.body),
      receivedAt: nowAt,
    })),
  )
  const seal = batch.queue === 'sealer-dlq'
  await openAlert(
    env.DB,
    {
      kind: 'dead_letter',
      key: batch.queue,
      severity: 'critical',
      detail: seal
        ? 'Sealing failed five times in a row; events wait in the pool and the seal is tried again by itself.'
        : 'An anchor message was given up; its outbox row is tried again by the sweeper.',
      link: seal ? '/batches' : '/anchors/status',
    },
    nowAt,
  )
}
