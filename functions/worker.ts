/**
 * A VaultMesh node. Read this first: everything that happens begins in one of these handlers.
 *
 *   fetch      requests             → http/app.ts       (routes on one screen)
 *   queue      wake-ups             → queues/index.ts   (one handler a queue)
 *   scheduled  the minute           → the table below
 *   classes    single-threaded state: Pool keeps what was accepted, Sequencer owns the log's head
 */

import { runCron, type Job } from './cron.ts'
import { fetchHandler } from './http/app.ts'
import { nodeOf } from '#store/node.ts'
import { onQueue } from '../queues/index.ts'
import { sweepAnchors } from '../queues/anchor.ts'

export { Pool } from '../durable-objects/pool.ts'
export { Sequencer } from '../durable-objects/sequencer.ts'

const jobs: readonly Job[] = [
  {
    cron: '* * * * *',
    name: 'wake pools',
    async run(env) {
      const { config } = await nodeOf(env)
      // One shard that fails must not keep the others asleep.
      const swept = await Promise.allSettled(
        Array.from({ length: config.intakeShards }, (_, shard) =>
          env.POOL.getByName(String(shard)).sweep(),
        ),
      )
      for (const result of swept) if (result.status === 'rejected') throw result.reason
    },
  },
  {
    cron: '* * * * *',
    name: 'wake the sequencer',
    run: (env) => env.SEQUENCER.getByName('log').sweep(),
  },
  {
    cron: '* * * * *',
    name: 'sweep anchors',
    async run(env, nowAt) {
      await sweepAnchors(env, nowAt)
    },
  },
]

export default {
  fetch: fetchHandler,
  queue: onQueue,
  scheduled: (controller, env) => runCron(jobs, controller.cron, env, controller.scheduledTime),
} satisfies ExportedHandler<Env>
