/**
 * Which handler a queue's batch goes to. Messages are references; their handlers look the work up.
 */

import { queueName } from '#core/queue-name.ts'
import type { AnchorMessage } from '#store/anchors.ts'
import { flushCounts, type Background } from '#store/metrics.ts'
import type { IntakeMessage, ValidatedMessage } from '#store/pool-api.ts'
import type { SealMessage } from '#store/sequencer-api.ts'
import { onAlerts } from './alert-push.ts'
import { onAnchor } from './anchor.ts'
import { onDeadLetters } from './dead-letter.ts'
import { onIntake } from './intake.ts'
import { onSeal, onValidated } from './seal.ts'
import { onWebhooks } from './webhooks.ts'

/**
 * The queue handler of the Worker. What a batch counts is stored at its end and not a second later: a queue hands over
 * its next batch only when nothing of the one before runs any more.
 */
export async function onQueue(batch: MessageBatch, env: Env, ctx: Background): Promise<void> {
  try {
    await handle(batch, env)
  } finally {
    ctx.waitUntil(flushCounts(env))
  }
}

async function handle(batch: MessageBatch, env: Env): Promise<void> {
  switch (queueName(batch.queue)) {
    case 'events-intake':
      return onIntake(batch as MessageBatch<IntakeMessage>, env)
    case 'events-validated':
      return onValidated(batch as MessageBatch<ValidatedMessage>, env)
    case 'seal':
      return onSeal(batch as MessageBatch<SealMessage>, env)
    case 'anchor':
    case 'anchor-btc':
    case 'anchor-evm':
      return onAnchor(batch as MessageBatch<AnchorMessage>, env)
    case 'webhooks':
      return onWebhooks(env)
    case 'alerts':
      return onAlerts(env)
    case 'sealer-dlq':
    case 'anchor-dlq':
      return onDeadLetters(batch, env)
    default:
      throw new Error(`no consumer for the queue ${batch.queue}`)
  }
}
