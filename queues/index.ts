/**
 * Which handler a queue's batch goes to. Messages are references; their handlers look the work up.
 * Queues of log n > 1 have its number behind their names: seal-2.
 */

import type { AnchorMessage } from '#store/anchors.ts'
import type { Background } from '#store/metrics.ts'
import type { IntakeMessage, ValidatedMessage } from '#store/pool-api.ts'
import type { SealMessage } from '#store/sequencer-api.ts'
import { onAlerts } from './alert-push.ts'
import { onAnchor } from './anchor.ts'
import { onDeadLetters } from './dead-letter.ts'
import { onIntake } from './intake.ts'
import { onSeal, onValidated } from './seal.ts'
import { onWebhooks } from './webhooks.ts'

/** The queue handler of the Worker. */
export async function onQueue(batch: MessageBatch, env: Env, ctx: Background): Promise<void> {
  switch (batch.queue.replace(/-\d+$/, '')) {
    case 'events-intake':
      return onIntake(batch as MessageBatch<IntakeMessage>, env)
    case 'events-validated':
      return onValidated(batch as MessageBatch<ValidatedMessage>, env)
    case 'seal':
      return onSeal(batch as MessageBatch<SealMessage>, env)
    case 'anchor':
    case 'anchor-btc':
    case 'anchor-evm':
      return onAnchor(batch as MessageBatch<AnchorMessage>, env, ctx)
    case 'webhooks':
      return onWebhooks(env)
    case 'alerts':
      return onAlerts(env, ctx)
    case 'sealer-dlq':
    case 'anchor-dlq':
      return onDeadLetters(batch, env, ctx)
    default:
      throw new Error(`no consumer for the queue ${batch.queue}`)
  }
}
