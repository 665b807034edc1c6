/**
 * GET /metrics: what Prometheus scrapes. docs/metrics.md says what there is and what it is worth.
 */

import { exposition, EXPOSITION_TYPE } from '#core/exposition.ts'
import { readSeries } from '#store/gauges.ts'
import { readersOnly } from './readers.ts'
import { route } from './route.ts'

/** GET /metrics. */
export const getMetrics = route({
  method: 'GET',
  path: '/metrics',
  tag: 'node',
  summary: 'Metrics in the Prometheus text format; with METRICS_TOKEN set, for its bearers',
  answers: {
    200: { description: 'exposition format 0.0.4', content: { 'text/plain': null } },
    401: { description: 'METRICS_TOKEN is set and was not given' },
  },
  async handle(call) {
    await readersOnly(call)
    const { env, node } = call
    const series = await readSeries(env, node, Date.now())
    return new Response(exposition(node.nodeDid, series), {
      headers: { 'content-type': EXPOSITION_TYPE, 'cache-control': 'no-store' },
    })
  },
})
