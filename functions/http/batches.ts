/**
 * Batches: what each seal appended, its manifest, its events and its receipts. Alerts link here: a batch is anchored
 * as a whole, so what it waits for all of its receipts wait for.
 */

import * as z from 'zod'
import { methodOf } from '#core/anchor-receipt.ts'
import { VaultMeshError } from '#core/errors.ts'
import { isoTime } from '#core/time.ts'
import { anchorsOfLeaf } from '#store/anchor-receipts.ts'
import { batchAt, listBatches, type BatchRecord } from '#store/batches.ts'
import { eventsKey } from '#store/bucket.ts'
import { leavesOf } from '#store/events.ts'
import { statusOf } from '#store/receipts.ts'
import { preferred } from './negotiation.ts'
import { pageFor } from './page-for.ts'
import { decimal, IMMUTABLE, json, route } from './route.ts'

const batchSchema = z
  .object({
    height: z.int().describe('1, 2, 3 …'),
    firstIndex: z.int().describe('leaf index of its first event'),
    count: z.int(),
    treeSize: z.int().describe('of the log after it: firstIndex + count'),
    root: z.string().describe('sha256:<hex>, of the log at treeSize'),
    sealedAt: z.string().meta({ format: 'date-time' }),
    manifest: z.string().describe('JWS vm-batch+jws by the node’s identity key'),
    checkpoint: z.string().describe('signed note of the log at treeSize'),
    links: z.object({
      self: z.string(),
      events: z.string(),
      receipts: z.string().describe('how it is anchored, and the receipt of each of its events'),
      anchors: z.string().describe('the anchor jobs of exactly this root'),
    }),
  })
  .meta({ id: 'Batch' })

const time = z.string().meta({ format: 'date-time' })

const batchReceiptsSchema = z
  .object({
    height: z.int(),
    treeSize: z.int(),
    root: z.string().describe('sha256:<hex>'),
    sealedAt: time,
    status: z.enum(['sealed', 'anchored', 'final']).describe('as each of its receipts has it'),
    missing: z.array(z.string()).describe('rails of the node that have not anchored it for good'),
    anchors: z
      .array(
        z.looseObject({
          chain: z.string(),
          network: z.string(),
          status: z.string(),
          treeSize: z.int().describe('of the anchored tree: this one, or a later one'),
          txHash: z.string().nullable(),
          anchorTs: time.nullable(),
          reason: z.string().optional().describe('why it waits'),
        }),
      )
      .describe(
        'of each kind the first verified one, else the oldest under way; proofs are in the receipts',
      ),
    receipts: z.array(
      z.object({
        leafIndex: z.int(),
        eventHash: z.string(),
        links: z.object({ receipt: z.string(), status: z.string() }),
      }),
    ),
    next: z.int().nullable().describe('value of `from` for the page after it; null at the end'),
    links: z.object({ batch: z.string(), anchors: z.string() }),
  })
  .meta({ id: 'BatchReceipts' })

const height = decimal(1, undefined, [1]).describe('of the batch, from 1')

/** GET /batches: newest first. */
export const listRoute = route({
  method: 'GET',
  path: '/batches',
  tag: 'batches',
  summary: 'Sealed batches, newest first',
  query: z.object({
    below: height.optional().describe('only heights below this one'),
    limit: decimal(1, 1000).default(100).describe('batches a page; 100 if absent'),
  }),
  answers: {
    200: {
      description: 'a page; next is the value of below for the one after it',
      content: {
        'application/json': z
          .object({ batches: z.array(batchSchema), next: z.int().nullable() })
          .meta({ id: 'BatchPage' }),
      },
    },
  },
  async handle({ env, query }) {
    const found = await listBatches(env.DB, query.below ?? Number.MAX_SAFE_INTEGER, query.limit)
    const last = found.at(-1)
    return json({
      batches: found.map(shown),
      next:
        found.length === query.limit && last !== undefined && last.height > 1 ? last.height : null,
    })
  },
})

/** GET /batches/{height}: the manifest. */
export const getBatch = route({
  method: 'GET',
  path: '/batches/{height}',
  tag: 'batches',
  summary: 'The manifest of a batch',
  params: z.object({ height }),
  query: z.object({
    format: z
      .enum(['json', 'jose'])
      .optional()
      .describe('instead of Accept, for links and browsers'),
  }),
  answers: {
    200: {
      description: 'the batch; the bare manifest for Accept: application/jose or ?format=jose',
      content: { 'application/json': batchSchema, 'application/jose': null },
    },
    303: { description: 'for browsers, without format: to the page of the batch' },
    404: { description: 'no such batch' },
  },
  async handle(call) {
    const { env, params, request, query } = call
    const page =
      query.format === undefined ? pageFor(call, `/dashboard/batches/${params.height}`) : null
    if (page !== null) return page
    const batch = await existing(env, params.height)
    const offered = ['application/json', 'application/jose'] as const
    const type =
      query.format === undefined ? preferred(request, offered) : `application/${query.format}`
    if (type === 'application/jose') {
      return new Response(batch.manifest, {
        headers: { 'content-type': 'application/jose', 'cache-control': IMMUTABLE, vary: 'accept' },
      })
    }
    return json(shown(batch), 200, { 'cache-control': IMMUTABLE, vary: 'accept' })
  },
})

/** GET /batches/{height}/events: NDJSON of the events as posted, in leaf order. */
export const getBatchEvents = route({
  method: 'GET',
  path: '/batches/{height}/events',
  tag: 'batches',
  summary:
    'The events of a batch, one compact JWS a line, in leaf order; of an erased one its tombstone',
  params: z.object({ height }),
  answers: {
    200: { description: 'one event a line', content: { 'application/x-ndjson': null } },
    403: { description: 'this node does not show events in public' },
    404: { description: 'no such batch' },
  },
  async handle({ env, node, params, ctx }) {
    if (!node.config.publicEvents)
      throw new VaultMeshError('forbidden', 'This node does not show events in public.')
    const batch = await existing(env, params.height)
    const first = await partOf(env, batch.height, 0)
    const { readable, writable } = new TransformStream<Uint8Array, Uint8Array>()
    ctx.waitUntil(
      (async () => {
        // One part at a time: a batch may be larger than the isolate's memory.
        await first.body.pipeTo(writable, { preventClose: true })
        for (let part = 1; part < batch.parts; part++) {
          await (
            await partOf(env, batch.height, part)
          ).body.pipeTo(writable, { preventClose: true })
        }
        await writable.close()
      })().catch((error: unknown) => writable.abort(error).catch(() => undefined)),
    )
    return new Response(readable, {
      headers: { 'content-type': 'application/x-ndjson', 'cache-control': 'no-cache' },
    })
  },
})

/** GET /batches/{height}/receipts: what a batch waits for, and who waits with it. */
export const getBatchReceipts = route({
  method: 'GET',
  path: '/batches/{height}/receipts',
  tag: 'batches',
  summary: 'How a batch is anchored, and the receipts of its events',
  params: z.object({ height }),
  query: z.object({
    from: decimal(0).optional().describe('leaf index to begin with: `next` of the page before'),
    limit: decimal(1, 1000).default(100).describe('receipts a page; 100 if absent'),
  }),
  answers: {
    200: {
      description: 'in leaf order',
      content: { 'application/json': batchReceiptsSchema },
    },
    404: { description: 'no such batch' },
  },
  async handle({ env, node, params, query }) {
    const batch = await existing(env, params.height)
    const { firstIndex, treeSize, root, sealedAt } = batch
    const from = Math.max(firstIndex, query.from ?? 0)
    const [leaves, { verified, pending }] = await Promise.all([
      leavesOf(env.DB, { from, to: treeSize, limit: query.limit }),
      anchorsOfLeaf(env.DB, treeSize - 1),
    ])
    const chains = new Set<string>(verified.map(({ chain }) => chain))
    const last = leaves.at(-1)
    return json({
      height: batch.height,
      treeSize,
      root: `sha256:${root}`,
      sealedAt: isoTime(sealedAt),
      status: statusOf(node.config.rails, verified),
      missing: node.config.rails.filter((rail) => !chains.has(rail)),
      anchors: [
        ...verified.map((anchor) => ({
          chain: anchor.chain,
          network: anchor.network,
          method: methodOf(anchor),
          status: anchor.status,
          treeSize: anchor.treeSize,
          txHash: anchor.txHash,
          blockNumber: anchor.blockNumber,
          anchorTs: anchor.anchorTs,
        })),
        ...pending,
      ],
      receipts: leaves.map(({ leafIndex, eventHash }) => ({
        leafIndex,
        eventHash,
        links: { receipt: `/receipts/${eventHash}`, status: `/events/${eventHash}/status` },
      })),
      next: last === undefined || last.leafIndex + 1 >= treeSize ? null : last.leafIndex + 1,
      links: { batch: `/batches/${batch.height}`, anchors: jobsOf(root) },
    })
  },
})

function jobsOf(root: string): string {
  return `/anchors/status?root=0x${root}`
}

async function partOf(env: Env, batch: number, part: number): Promise<R2ObjectBody> {
  const object = await env.BUCKET.get(eventsKey(batch, part))
  if (object === null)
    throw new VaultMeshError('bad-state', `R2 lacks part ${part} of the events of batch ${batch}.`)
  return object
}

async function existing(env: Env, at: number): Promise<BatchRecord> {
  const batch = await batchAt(env.DB, at)
  if (batch === null) throw new VaultMeshError('not-found', `There is no batch ${at}.`)
  return batch
}

function shown(batch: BatchRecord) {
  const { height: h, firstIndex, count, treeSize, manifest, checkpoint } = batch
  return {
    height: h,
    firstIndex,
    count,
    treeSize,
    root: `sha256:${batch.root}`,
    sealedAt: isoTime(batch.sealedAt),
    manifest,
    checkpoint,
    links: {
      self: `/batches/${h}`,
      events: `/batches/${h}/events`,
      receipts: `/batches/${h}/receipts`,
      anchors: jobsOf(batch.root),
    },
  }
}
