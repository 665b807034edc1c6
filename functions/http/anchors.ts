/**
 * The anchor outbox as anybody may see it: what waits, why, when it is tried again, whom it asks; and the
 * receipts that came of it.
 */

import * as z from 'zod'
import { anchorReceiptSchema, isDevNetwork, type Chain } from '#core/anchor-receipt.ts'
import { receiptStatus, type AnchorState } from '#core/anchor-state.ts'
import { VaultMeshError } from '#core/errors.ts'
import { isoTime } from '#core/time.ts'
import { receiptsAfter } from '#store/anchor-receipts.ts'
import {
  anchorRow,
  attemptsOf,
  oldestWaiting,
  recentAnchors,
  type AnchorRow,
} from '#store/anchors.ts'
import { allProviders } from '#store/providers.ts'
import { pageFor } from './page-for.ts'
import { decimal, json, route } from './route.ts'

const time = z.string().meta({ format: 'date-time' })
const provider = z
  .object({ name: z.string().describe('host and port'), why: z.string() })
  .nullable()
  .describe('who was asked last, and why it')

const jobSchema = z
  .looseObject({
    id: z.int(),
    root: z.string().describe('0x<hex>'),
    treeSize: z.int(),
    chain: z.string(),
    network: z.string(),
    method: z.string().describe('tx, calendar or rfc3161'),
    dev: z.boolean().describe('a dev network: evidence for nobody else'),
    status: z.enum(['pending', 'submitted', 'included', 'verified', 'reorged', 'failed']),
    state: z.string().describe('of the outbox row'),
    attempts: z.int(),
    failures: z.int().describe('since the last success'),
    delaySeconds: z.number().describe('of the backoff under way'),
    nextAt: time.nullable().describe('when it is looked at again'),
    provider,
    reason: z.string().nullable(),
  })
  .meta({ id: 'AnchorJob' })

/** GET /anchors/status: the newest jobs with attempts, delays and the provider chosen. */
export const getAnchorStatus = route({
  method: 'GET',
  path: '/anchors/status',
  tag: 'anchors',
  summary: 'The anchor outbox: what waits, why, and when it is tried again',
  query: z.object({
    limit: decimal(1, 1000).default(50).describe('jobs, newest first; 50 if absent'),
    below: decimal(1).optional().describe('only jobs with a smaller id: the next page'),
    root: z
      .string()
      .regex(/^0x[0-9a-f]{64}$/, 'must be 0x and 64 lowercase hex digits')
      .optional()
      .describe('only jobs of this root, 0x<hex>'),
  }),
  answers: {
    200: {
      description: 'newest first',
      content: {
        'application/json': z
          .object({
            anchors: z.array(jobSchema),
            waiting: z
              .array(
                z.looseObject({
                  chain: z.string(),
                  network: z.string(),
                  oldestSeconds: z.number(),
                }),
              )
              .describe('age of the oldest root that waits on each rail'),
            providers: z
              .array(z.looseObject({ chain: z.string(), network: z.string(), name: z.string() }))
              .describe('what is known of whom the rails ask'),
          })
          .meta({ id: 'AnchorStatus' }),
      },
    },
    303: { description: 'for browsers: to the page of anchors' },
  },
  async handle(call) {
    const page = pageFor(call, '/dashboard/anchors')
    if (page !== null) return page
    const { env, query } = call
    const { limit, below, root } = query
    const nowAt = Date.now()
    const [rows, waiting, providers] = await Promise.all([
      recentAnchors(env.DB, { limit, below, root: root?.slice(2) }),
      oldestWaiting(env.DB, nowAt),
      allProviders(env.DB),
    ])
    return json({
      anchors: rows.map(jobOf),
      waiting: waiting.map(({ ageMs, ...rail }) => ({ ...rail, oldestSeconds: ageMs / 1000 })),
      providers: providers.map(({ openUntil, success, latencyMs, ...rest }) => ({
        ...rest,
        success: Number(success.toFixed(3)),
        latencyMs: Math.round(latencyMs),
        openUntil: openUntil > nowAt ? isoTime(openUntil) : null,
      })),
    })
  },
})

/** GET /anchors/{id}: one job with its schedule. */
export const getAnchor = route({
  method: 'GET',
  path: '/anchors/{id}',
  tag: 'anchors',
  summary:
    'One anchor job, with its newest attempts: when, what came of them, how long it then waited',
  params: z.object({ id: decimal(1, undefined, [1]).describe('of the job, from /anchors/status') }),
  answers: {
    200: {
      description: 'the job',
      content: {
        'application/json': jobSchema
          .extend({
            history: z.array(
              z.looseObject({
                attempt: z.int(),
                at: time,
                outcome: z.string().describe('the state it ended in, or error'),
                failures: z.int(),
                delaySeconds: z.number(),
                nextAt: time,
              }),
            ),
          })
          .meta({ id: 'AnchorHistory' }),
      },
    },
    303: { description: 'for browsers: to the page of the job' },
    404: { description: 'no such job' },
  },
  async handle(call) {
    const { env, params } = call
    const page = pageFor(call, `/dashboard/anchors/${params.id}`)
    if (page !== null) return page
    const row = await anchorRow(env.DB, params.id)
    if (row === null) {
      throw new VaultMeshError('not-found', `There is no anchor job ${params.id}.`)
    }
    const attempts = await attemptsOf(env.DB, row.id)
    return json({
      ...jobOf(row),
      history: attempts.map((a) => ({
        attempt: a.attempt,
        at: isoTime(a.at),
        outcome: a.outcome,
        failures: a.failures,
        delaySeconds: a.delayMs / 1000,
        nextAt: isoTime(a.nextAt),
        provider: a.provider === null ? null : (JSON.parse(a.provider) as unknown),
        reason: a.reason,
      })),
    })
  },
})

/** GET /anchors/receipts: every verified receipt in the order kept, for whoever copies them. */
export const getAnchorReceipts = route({
  method: 'GET',
  path: '/anchors/receipts',
  tag: 'anchors',
  summary: 'Verified anchor receipts in the order they were kept',
  query: z.object({
    after: decimal(0).default(0).describe('next of the page before'),
    limit: decimal(1, 100).default(50).describe('receipts a page; 50 if absent'),
    revoked: z.enum(['only']).optional().describe('only: receipts that were revoked, however old'),
  }),
  answers: {
    200: {
      description:
        'oldest first; next is the value of after for the page that follows, null at the end',
      content: {
        'application/json': z
          .object({
            receipts: z.array(
              z.object({
                id: z.int(),
                method: z.string(),
                revision: z.int().describe('receipts of this job that were revoked before it'),
                receipt: anchorReceiptSchema,
                revoked: z
                  .looseObject({})
                  .nullable()
                  .describe('the revocation record, if there is one'),
              }),
            ),
            next: z.int().nullable(),
          })
          .meta({ id: 'AnchorReceiptPage' }),
      },
    },
  },
  async handle({ env, query }) {
    const { after, limit, revoked: wanted } = query
    const rows = await receiptsAfter(env.DB, { after, limit, onlyRevoked: wanted === 'only' })
    return json({
      receipts: rows.map(({ id, method, revision, json: text, revoked }) => ({
        id,
        method,
        revision,
        receipt: JSON.parse(text) as unknown,
        revoked: revoked === null ? null : (JSON.parse(revoked) as unknown),
      })),
      next: rows.length === query.limit ? rows.at(-1)!.id : null,
    })
  },
})

/** A row of the outbox as it is shown. */
export function jobOf(row: AnchorRow) {
  const isOver = row.state === 'final' || row.state === 'failed'
  return {
    id: row.id,
    root: `0x${row.root}`,
    treeSize: row.treeSize,
    chain: row.chain,
    network: row.network,
    method: row.method,
    dev: isDevNetwork(row.chain as Chain, row.network),
    status: receiptStatus[row.state as AnchorState],
    state: row.state,
    attempts: row.attempts,
    failures: row.failures,
    delaySeconds: row.delayMs / 1000,
    createdAt: isoTime(row.createdAt),
    updatedAt: isoTime(row.updatedAt),
    nextAt: isOver ? null : isoTime(row.nextAt),
    provider: row.provider === null ? null : (JSON.parse(row.provider) as unknown),
    inclusion: row.inclusion === null ? null : (JSON.parse(row.inclusion) as unknown),
    reason: row.reason,
  }
}
