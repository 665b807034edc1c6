/**
 * GET /receipts/{eventHash}: the whole proof of an event, as JSON or as C2SP tlog-proof text.
 */

import * as z from 'zod'
import { VaultMeshError } from '#core/errors.ts'
import { receiptAsProofFile, receiptSchema } from '#core/receipt.ts'
import { findEvent } from '#store/events.ts'
import { buildReceipt } from '#store/receipts.ts'
import { hashName } from './admission.ts'
import { hashParam } from './events.ts'
import { json, route } from './route.ts'

/** The receipt route. */
export const getReceipt = route({
  method: 'GET',
  path: '/receipts/{eventHash}',
  tag: 'receipts',
  summary: 'The receipt of an event: verifies offline, without this node',
  params: z.object({ eventHash: hashParam }),
  query: z.object({
    format: z
      .enum(['json', 'tlog-proof'])
      .optional()
      .describe('instead of Accept, for links and browsers'),
  }),
  answers: {
    200: {
      description: 'JSON, or C2SP tlog-proof for Accept: text/plain or ?format=tlog-proof',
      content: { 'application/json': receiptSchema, 'text/plain': null },
    },
    404: { description: 'not sealed yet; the status link says where it stands' },
  },
  async handle(call) {
    const { env, node, params, request, query } = call
    const name = hashName(params.eventHash)
    const at = await findEvent(env.DB, params.eventHash)
    if (at === null) {
      throw new VaultMeshError('not-sealed', 'No sealed event has this hash.', {
        extra: { statusLink: `/events/${name}/status` },
      })
    }
    const receipt = await buildReceipt(env, node, {
      eventHash: params.eventHash,
      at,
      eventId: at.eventId,
      source: at.source,
    })
    const accept = request.headers.get('accept') ?? ''
    const text =
      query.format === 'tlog-proof' || (query.format === undefined && /^text\/plain\b/.test(accept))
    if (!text) return json(receipt, 200, { vary: 'accept' })
    return new Response(receiptAsProofFile(receipt), {
      headers: {
        'content-type': 'text/plain; charset=utf-8',
        'content-disposition': `inline; filename="${name.slice(7, 23)}.tlog-proof"`,
        'cache-control': 'no-cache',
        vary: 'accept',
      },
    })
  },
})
