/**
 * A VaultMesh node. Read this first: everything that happens begins in one of these handlers.
 *
 *   fetch      requests             → http/app.ts       (routes on one screen)
 *   queue      wake-ups             → queues/index.ts   (one handler a queue)
 *   scheduled  the minute           → cron.ts           (one table of jobs)
 *   classes    single-threaded state: Pool keeps what was accepted, Sequencer owns the log's head, Wallet
 *              signs what is paid for, Federation knows the peers and stands on one tip of each log, Counters
 *              adds up what isolates count, Guardian says how the node does and speaks up when Ψ is low
 */

import { runCron } from './cron.ts'
import { fetchHandler } from './http/app.ts'
import { onQueue } from '../queues/index.ts'

export { Counters } from '../durable-objects/counters.ts'
export { Federation } from '../durable-objects/federation.ts'
export { Guardian } from '../durable-objects/guardian.ts'
export { Pool } from '../durable-objects/pool.ts'
export { Sequencer } from '../durable-objects/sequencer.ts'
export { Wallet } from '../durable-objects/wallet.ts'

export default {
  fetch: fetchHandler,
  queue: onQueue,
  scheduled: (controller, env) => runCron(controller.cron, env, controller.scheduledTime),
} satisfies ExportedHandler<Env>
