/**
 * GET /admin/doctor: the part of `vaultmesh doctor` that only the node itself can look at.
 */

import * as z from 'zod'
import { examineNode } from '#store/doctor.ts'
import { VERSION } from '#store/node.ts'
import { operatorOnly } from './admin.ts'
import { json, route } from './route.ts'

/** GET /admin/doctor?providers=0 asks nobody outside. */
export const getDoctor = route({
  method: 'GET',
  path: '/admin/doctor',
  tag: 'admin',
  summary: 'Look at every part of the node',
  internal: true,
  query: z.object({ providers: z.enum(['0', '1']).default('1') }),
  answers: { 200: { description: 'done', content: { 'application/json': z.looseObject({}) } } },
  async handle(call) {
    operatorOnly(call)
    const { env, node, query } = call
    const { nodeId, origin, publicUrl, network } = node.config
    const nowAt = Date.now()
    const checks = await examineNode({ env, node, nowAt }, query.providers === '1')
    return json({ node: { nodeId, origin, publicUrl, network, version: VERSION }, nowAt, checks })
  },
})
