/**
 * The whole Worker under the lab's clock, with one path more: `/lab/clock?at=…&factor=…` sets it and answers what
 * it says. Crons take their time from it too.
 */

import worker from '../../functions/worker.ts'
import { Date, setClock } from './clock.ts'

export { Counters, Federation, Guardian, Pool, Sequencer, Wallet } from '../../functions/worker.ts'

export default {
  queue: worker.queue,
  scheduled: ({ cron, noRetry }, env) =>
    worker.scheduled({ cron, noRetry, scheduledTime: Date.now() }, env),
  fetch(request, env, ctx) {
    const { pathname, searchParams } = new URL(request.url)
    if (pathname !== '/lab/clock') return worker.fetch(request, env, ctx)
    const at = Number(searchParams.get('at') ?? 0)
    setClock({ at, factor: Number(searchParams.get('factor') ?? 1) })
    return Response.json({ now: Date.now() })
  },
} satisfies ExportedHandler<Env>
