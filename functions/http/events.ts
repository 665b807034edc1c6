/**
 * Reading events: bytes, status and search.
 */

import * as z from 'zod'
import { fromHex, type Hash } from '#core/bytes.ts'
import { VaultMeshError, codes, type Code } from '#core/errors.ts'
import { isoTime, parseTime } from '#core/time.ts'
import { anchorsOfLeaf } from '#store/anchor-receipts.ts'
import { erasuresOf } from '#store/erasures.ts'
import { eraserOfLeaf, eventBytes, findEvent, type IndexedEvent } from '#store/events.ts'
import type { PoolStatus } from '#store/pool-api.ts'
import { statusOf } from '#store/receipts.ts'
import { cursorOf, hitTime, parseCursor, searchEvents } from '#store/search.ts'
import { hashName, poolError } from './admission.ts'
import { fromPrevious } from './logs.ts'
import { noneMatchFails } from './negotiation.ts'
import { pageFor } from './page-for.ts'
import { decimal, json, route, type Call } from './route.ts'

/** A hash in a path: `sha256:<64 hex>` or the bare digits. */
export const hashParam = z
  .string()
  .regex(/^(?:sha256:)?[0-9a-fA-F]{64}$/, 'must be sha256:<64 hex digits>')
  .transform((text): Hash => fromHex(text.replace('sha256:', '')))
  .meta({
    description: 'SHA-256 of the event’s bytes: sha256:<64 hex digits>, or the digits alone',
    examples: ['sha256:dc35b56196715c01af1290df9dcbe317844ac37f2885a75259190549bedbf4f5'],
  })

const hashParams = z.object({ eventHash: hashParam })

/** GET /events/{eventHash}: the bytes as posted. */
export const getEvent = route({
  method: 'GET',
  path: '/events/{eventHash}',
  tag: 'events',
  summary: 'The bytes of an event, as they were posted',
  params: hashParams,
  answers: {
    200: { description: 'the compact JWS', content: { 'application/jose': null } },
    303: { description: 'for browsers: to the page of the event' },
    304: { description: 'unchanged' },
    403: { description: 'this node does not show events in public' },
    404: { description: 'unknown here' },
    410: { description: 'erased; `erasedBy` names the vm.erased event, and the receipt stays' },
  },
  async handle(call) {
    const page = pageFor(call, `/dashboard/events/${hashName(call.params.eventHash)}`)
    if (page !== null) return page
    publicOnly(call)
    const { env, params } = call
    const etag = `"${hashName(params.eventHash)}"`
    const headers = { etag, 'cache-control': 'no-cache', vary: 'accept' }
    const known = noneMatchFails(call.request, etag)
    const { indexed, waiting } = await locate(call, params.eventHash, (pool) =>
      pool.bytes(params.eventHash),
    )
    if (indexed === null && waiting === null) {
      const earlier = await fromPrevious(call)
      if (earlier !== null) return earlier
      throw new VaultMeshError('not-found', 'This node holds no event with this hash.')
    }
    // R2 is not read for one who has the bytes, unless they are gone by right.
    if (known && indexed?.isErased !== true) return new Response(null, { status: 304, headers })
    const bytes = indexed === null ? waiting : await eventBytes(env, indexed)
    return new Response(bytes, { headers: { ...headers, 'content-type': 'application/jose' } })
  },
})

const isoTimeSchema = z.string().meta({ format: 'date-time' })

const statusSchema = z
  .object({
    eventHash: z.string().describe('sha256:<hex>'),
    status: z.enum(['received', 'accepted', 'sealed', 'anchored', 'final', 'rejected']),
    receivedAt: isoTimeSchema.optional().describe('while it waits for its seal'),
    height: z.int().optional().describe('the batch that holds it'),
    leafIndex: z.int().optional(),
    sealedAt: isoTimeSchema.optional(),
    anchors: z
      .array(
        z.looseObject({
          chain: z.string(),
          network: z.string(),
          status: z.string(),
          anchorTs: isoTimeSchema.nullable(),
        }),
      )
      .optional(),
    erased: z
      .object({
        erasedBy: z.string().nullable().describe('the vm.erased event, sha256:<hex>'),
        done: z.boolean().describe('true once no store of this node holds its bytes'),
      })
      .optional()
      .describe('its bytes are gone; its leaf and its receipt stay'),
    duplicateOf: z.string().optional().describe('the event that stands for this identity'),
    problem: z.looseObject({ title: z.string() }).optional(),
    links: z.record(z.string(), z.string()),
  })
  .meta({ id: 'EventStatus' })

/** GET /events/{eventHash}/status: where it stands on received → accepted → sealed → anchored → final. */
export const getEventStatus = route({
  method: 'GET',
  path: '/events/{eventHash}/status',
  tag: 'events',
  summary: 'Where an event stands',
  params: hashParams,
  answers: {
    200: { description: 'its state', content: { 'application/json': statusSchema } },
    404: { description: 'unknown here' },
  },
  async handle(call) {
    const { env, node, params } = call
    const name = hashName(params.eventHash)
    const links = { self: `/events/${name}`, receipt: `/receipts/${name}` }
    const { indexed, waiting } = await locate(call, params.eventHash, (pool) =>
      pool.status(params.eventHash),
    )
    if (indexed !== null) {
      const { verified, pending } = await anchorsOfLeaf(env.DB, indexed.leafIndex)
      const shown = [...verified, ...pending].map(({ chain, network, status, anchorTs }) => ({
        chain,
        network,
        status,
        anchorTs: anchorTs ?? null,
      }))
      return json({
        eventHash: name,
        status: statusOf(node.config.rails, verified),
        height: indexed.height,
        leafIndex: indexed.leafIndex,
        sealedAt: isoTime(indexed.batch.sealedAt),
        anchors: shown,
        ...(indexed.isErased ? { erased: await erasedOf(env, indexed, params.eventHash) } : {}),
        links: { ...links, batch: `/batches/${indexed.height}` },
      })
    }
    if (waiting === null) {
      const earlier = await fromPrevious(call)
      if (earlier !== null) return earlier
      throw new VaultMeshError('not-found', 'This node knows no event with this hash.')
    }
    return json(
      waitingStatus(name, waiting, links),
      200,
      waiting.state === 'rejected' ? {} : { 'retry-after': '2' },
    )
  },
})

/** What took an event's bytes, and whether all stores are done. */
async function erasedOf(env: Env, at: IndexedEvent, eventHash: Hash) {
  const [eraser, erasures] = await Promise.all([
    eraserOfLeaf(env, at),
    erasuresOf(env.DB, eventHash),
  ])
  const erasedBy = eraser === null ? null : hashName(eraser)
  // Without a row its index was made again from the tombstone.
  const isUnderWay = erasures.some((one) => one.erasedBy === erasedBy && one.state !== 'done')
  return { erasedBy, done: !isUnderWay }
}

function waitingStatus(name: string, status: PoolStatus, links: Record<string, string>) {
  const base = { eventHash: name, receivedAt: isoTime(status.receivedAt) }
  switch (status.state) {
    case 'rejected': {
      const { title, advice } = codes[status.code as Code]
      return {
        ...base,
        status: 'rejected',
        problem: { type: `/problems/${status.code}`, title, detail: status.detail, advice },
        links,
      }
    }
    case 'duplicate': {
      const first = hashName(status.first!)
      return {
        ...base,
        status: 'accepted',
        duplicateOf: first,
        links: { self: `/events/${first}`, receipt: `/receipts/${first}` },
      }
    }
    default:
      return { ...base, status: status.state, links }
  }
}

type PoolStub = ReturnType<Env['POOL']['getByName']>

/** Where an event is: in the index, or what the pools say of it; both null if nobody knows it. */
export interface Located<T> {
  readonly indexed: IndexedEvent | null
  readonly waiting: T | null
}

/**
 * Looks in the index, in the pools, and in the index again: an event that was sealed and forgotten by its
 * pool between the first two looks is in the index by then, because a pool forgets only what is indexed.
 */
export async function locate<T>(
  call: Call<unknown, unknown>,
  eventHash: Hash,
  ask: (pool: PoolStub) => Promise<T | null>,
): Promise<Located<T>> {
  const indexed = await findEvent(call.env.DB, eventHash)
  if (indexed !== null) return { indexed, waiting: null }
  const waiting = await firstOf(call, ask)
  if (waiting !== null) return { indexed: null, waiting }
  return { indexed: await findEvent(call.env.DB, eventHash), waiting: null }
}

/** Asks every shard at once; the first that knows answers. A shard that fails fails the question. */
async function firstOf<T>(
  call: Call<unknown, unknown>,
  ask: (pool: PoolStub) => Promise<T | null>,
): Promise<T | null> {
  const shards = Array.from({ length: call.node.config.intakeShards }, (_, shard) =>
    ask(call.env.POOL.getByName(String(shard))),
  )
  try {
    for (const found of await Promise.all(shards)) if (found !== null) return found
  } catch (error) {
    throw poolError(error)
  }
  return null
}

/** A moment in a query. */
export const time = z
  .string()
  .transform((text, ctx) => {
    const at = parseTime(text)
    if (at !== null) return at
    ctx.addIssue({ code: 'custom', message: 'must be an RFC 3339 time' })
    return z.NEVER
  })
  .meta({ format: 'date-time' })

const hitSchema = z.object({
  eventHash: z.string(),
  eventId: z.string(),
  source: z.string(),
  type: z.string(),
  subject: z.string().nullable(),
  time: isoTimeSchema.describe('as the event says, in UTC with milliseconds'),
  leafIndex: z.int(),
  height: z.int(),
  links: z.object({ self: z.string(), receipt: z.string() }),
})

/** GET /events: search by source, type, subject and time; newest first. */
export const searchRoute = route({
  method: 'GET',
  path: '/events',
  tag: 'events',
  summary: 'Search sealed events; each hit links to its proof',
  query: z.object({
    source: z.string().max(1024).optional().describe('the signer’s DID, exactly as in the event'),
    type: z.string().max(1024).optional().describe('exactly this type'),
    subject: z.string().max(1024).optional().describe('exactly this subject'),
    from: time.optional().describe('RFC 3339, inclusive'),
    to: time.optional().describe('RFC 3339, exclusive'),
    limit: decimal(1, 1000).default(100).describe('hits a page; 100 if absent'),
    cursor: z
      .string()
      .refine((text) => parseCursor(text) !== null, 'is not a cursor of ours')
      .optional()
      .describe('`next` of the page before'),
  }),
  answers: {
    200: {
      description: 'hits, and a cursor unless this was the end',
      content: {
        'application/json': z
          .object({
            events: z.array(hitSchema),
            next: z
              .string()
              .nullable()
              .describe('cursor of the next page; null at the end. A page before it may be empty'),
          })
          .meta({ id: 'EventPage' }),
      },
    },
    403: { description: 'this node does not show events in public' },
  },
  async handle(call) {
    publicOnly(call)
    const { cursor, ...query } = call.query
    const { hits, next } = await searchEvents(call.env.DB, {
      ...query,
      after: cursor === undefined ? undefined : (parseCursor(cursor) ?? undefined),
    })
    return json({
      events: hits.map((hit) => ({
        eventHash: hit.eventHash,
        eventId: hit.eventId,
        source: hit.source,
        type: hit.type,
        subject: hit.subject,
        time: hitTime(hit),
        leafIndex: hit.leafIndex,
        height: hit.height,
        links: { self: `/events/${hit.eventHash}`, receipt: `/receipts/${hit.eventHash}` },
      })),
      next: next === null ? null : cursorOf(next),
    })
  },
})

/** PUBLIC_EVENTS=0 closes bytes and search; proofs stay open. */
function publicOnly(call: Call<unknown, unknown>): void {
  if (!call.node.config.publicEvents) {
    throw new VaultMeshError('forbidden', 'This node does not show events in public.')
  }
}
