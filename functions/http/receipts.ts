/**
 * GET /receipts/{eventHash}: the whole proof of an event, as JSON or as C2SP tlog-proof text.
 *
 * `?anchors=all` gives receipts, too: each page is one, with other anchors in it, so that each verifies by
 * itself. Where the next page is stands in Link (RFC 8288), because a receipt has no room for it.
 */

import * as z from 'zod'
import { eventOts, type EventAnchor } from '#core/anchor-ots.ts'
import { VaultMeshError } from '#core/errors.ts'
import { receiptAsProofFile } from '#core/receipt-file.ts'
import { receiptSchema } from '#core/receipt.ts'
import { anchorsOfLeaf } from '#store/anchor-receipts.ts'
import { findEvent, type IndexedEvent } from '#store/events.ts'
import { ANCHORS_PER_PAGE, listAnchors, pageOfAnchors } from '#store/leaf-anchors.ts'
import { proveInclusion } from '#store/log.ts'
import { buildReceipt } from '#store/receipts.ts'
import { hashName } from './admission.ts'
import { hashParam } from './events.ts'
import { fromPrevious } from './logs.ts'
import { preferred } from './negotiation.ts'
import { pageFor } from './page-for.ts'
import { decimal, json, route } from './route.ts'

/** The media type that calendars use for timestamps. */
const OTS_TYPE = 'application/vnd.opentimestamps.v1'

/** The receipt route. */
export const getReceipt = route({
  method: 'GET',
  path: '/receipts/{eventHash}',
  tag: 'receipts',
  summary: 'The receipt of an event: verifies offline, without this node',
  params: z.object({ eventHash: hashParam }),
  query: z.object({
    format: z
      .enum(['json', 'tlog-proof', 'ots'])
      .optional()
      .describe(
        'instead of Accept, for links and browsers; ots: an OpenTimestamps file, once Bitcoin has it',
      ),
    anchors: z
      .enum(['all'])
      .optional()
      .describe(
        `every verified anchor of the leaf, ${ANCHORS_PER_PAGE} a page, not the first of each kind alone`,
      ),
    cursor: decimal(1).optional().describe('with anchors=all: from the Link of the page before'),
  }),
  answers: {
    200: {
      description: 'JSON, or C2SP tlog-proof for Accept: text/plain or ?format=tlog-proof',
      content: { 'application/json': receiptSchema, 'text/plain': null, [OTS_TYPE]: null },
    },
    303: { description: 'for browsers, without format: to the page of the event' },
    404: {
      description:
        'not sealed yet, or not in Bitcoin for ots; the status link says where it stands',
    },
  },
  async handle(call) {
    const { env, node, params, request, query } = call
    if (query.cursor !== undefined && query.anchors === undefined)
      throw new VaultMeshError('bad-request', 'A cursor is for anchors=all.')
    const name = hashName(params.eventHash)
    const shown = query.format === undefined ? pageFor(call, `/dashboard/events/${name}`) : null
    if (shown !== null) return shown
    const at = await findEvent(env.DB, params.eventHash)
    if (at === null) {
      const earlier = await fromPrevious(call)
      if (earlier !== null) return earlier
      throw new VaultMeshError('not-sealed', 'No sealed event has this hash.', {
        extra: { statusLink: `/events/${name}/status` },
      })
    }
    if (query.format === 'ots')
      return eventOtsFile(call.env, name, { eventHash: params.eventHash, at })
    let receipt = await buildReceipt(env, node, {
      eventHash: params.eventHash,
      at,
      eventId: at.eventId,
      source: at.source,
    })
    const headers: Record<string, string> = { vary: 'accept' }
    if (query.anchors === 'all') {
      const page = await pageOfAnchors(env.DB, at.leafIndex, query.cursor ?? null)
      if (page === null) throw new VaultMeshError('bad-request', 'The cursor is not one of ours.')
      const anchors = await listAnchors(env.BUCKET, page.anchors, receipt.treeSize)
      receipt = { ...receipt, anchors }
      if (page.next !== null) {
        const format = query.format === undefined ? '' : `&format=${query.format}`
        headers['link'] = `</receipts/${name}?anchors=all&cursor=${page.next}${format}>; rel="next"`
      }
    }
    const type =
      query.format === undefined
        ? preferred(request, ['application/json', 'text/plain'])
        : query.format === 'json'
          ? 'application/json'
          : 'text/plain'
    if (type === 'application/json') return json(receipt, 200, headers)
    return new Response(receiptAsProofFile(receipt), {
      headers: {
        ...headers,
        'content-type': 'text/plain; charset=utf-8',
        'content-disposition': `inline; filename="${name.slice(7, 23)}.tlog-proof"`,
        'cache-control': 'no-cache',
      },
    })
  },
})

/** The event's OpenTimestamps file; its name carries the network unless that is Bitcoin's own. */
async function eventOtsFile(
  env: Env,
  name: string,
  event: { readonly eventHash: Uint8Array; readonly at: IndexedEvent },
): Promise<Response> {
  const { leafIndex } = event.at
  const { verified } = await anchorsOfLeaf(env.DB, leafIndex)
  const bitcoin = verified.filter(({ chain }) => chain === 'BTC')
  const network = bitcoin.some((r) => r.network === 'mainnet') ? 'mainnet' : bitcoin[0]?.network
  if (network === undefined) {
    throw new VaultMeshError('not-anchored', 'No block of Bitcoin holds this event for good yet.', {
      extra: { statusLink: `/events/${name}/status` },
    })
  }
  const anchors: EventAnchor[] = []
  for (const receipt of bitcoin.filter((r) => r.network === network)) {
    const size = receipt.treeSize
    const proof = await proveInclusion(env.BUCKET, { index: leafIndex, size, published: size })
    anchors.push({ receipt, proof })
  }
  const label = network === 'mainnet' ? '' : `.${network}`
  return new Response(eventOts(event.eventHash, leafIndex, anchors).slice(), {
    headers: {
      'content-type': OTS_TYPE,
      'content-disposition': `attachment; filename="${name.slice(7, 23)}.jws${label}.ots"`,
      'vaultmesh-network': network,
      'cache-control': 'no-cache',
    },
  })
}
