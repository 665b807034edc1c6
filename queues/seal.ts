/**
 * events-validated and seal: from "something waits" to a sealed batch.
 *
 * Neither message says how much waits or which batch is meant: the Sequencer looks, so that a message
 * that is doubled, late or lost changes nothing but the moment.
 */

import { carryOut } from '#store/erasures.ts'
import type { ValidatedMessage } from '#store/pool-api.ts'
import type { SealMessage } from '#store/sequencer-api.ts'

/** Tells the Sequencer which shards hold events. */
export async function onValidated(batch: MessageBatch<ValidatedMessage>, env: Env): Promise<void> {
  const shards = [...new Set(batch.messages.map((message) => message.body.shard))]
  const requestId = batch.messages.find((m) => m.body.requestId !== undefined)?.body.requestId
  await env.SEQUENCER.getByName('log').wake(shards, requestId)
}

/** Seals what is due. A failure is retried five times, then dead-lettered; the alarm goes on anyway. */
export async function onSeal(batch: MessageBatch<SealMessage>, env: Env): Promise<void> {
  const report = await env.SEQUENCER.getByName('log').seal(
    batch.messages.some((m) => m.body.reason === 'replay'),
    batch.messages.find((m) => m.body.requestId !== undefined)?.body.requestId,
  )
  if (report.batches === 0) return
  console.log(JSON.stringify({ level: 'info', msg: 'sealed', ...report }))
  // What the batch asked to be erased goes now; what fails here is the cron's, and no failed seal.
  await carryOut(env, Date.now()).catch((error: unknown) => {
    console.error(JSON.stringify({ level: 'error', msg: 'erasures wait', error: String(error) }))
  })
}
