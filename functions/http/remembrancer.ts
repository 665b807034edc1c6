/**
 * The Remembrancer's read API and the mirrors: what a node remembers of its own log and of its peers', each
 * answer one that the reader can verify against keys of his own.
 */

import * as z from 'zod'
import { toHex } from '#core/bytes.ts'
import { consistencyProof } from '#core/consistency-proof.ts'
import { VaultMeshError } from '#core/errors.ts'
import { parseTilePath, type TileName } from '#core/tile.ts'
import { batchAt, batchRootOf, listBatches, type BatchRecord } from '#store/batches.ts'
import { eventsKey, getBytes } from '#store/bucket.ts'
import { partForPeers } from '#store/erasures.ts'
import type { RememberedBatch } from '#store/federation-api.ts'
import { proveConsistency, readTile } from '#store/log.ts'
import { mirrorReader, nameOfLog, readMirrorTile } from '#store/mirror.ts'
import { isOperator } from './admin.ts'
import { federated, federationOf, isPeer } from './federation.ts'
import { currentHead } from './log.ts'
import { asVaultMeshError } from './problem.ts'
import { decimal, IMMUTABLE, json, route, type Call } from './route.ts'

const originParam = z
  .string()
  .min(1)
  .max(255)
  .optional()
  .describe('the log; this node’s own if absent')
const rememberedSchema = z
  .object({
    height: z.int(),
    root: z.string().describe('sha256:<hex>'),
    treeSize: z.int(),
    manifest: z.string().describe('JWS vm-batch+jws of the log’s operator'),
    checkpoint: z.string().describe('signed note of the log at treeSize'),
  })
  .meta({ id: 'RememberedBatch' })

/** GET /remembrancer/roots/{height}: getRoot of the plan. */
export const getRoot = route({
  method: 'GET',
  path: '/remembrancer/roots/{height}',
  tag: 'remembrancer',
  summary: 'The signed root of a log at a height',
  params: z.object({ height: decimal(1, undefined, [1]).describe('of the batch, from 1') }),
  query: z.object({ origin: originParam }),
  answers: {
    200: {
      description: 'the canonical batch at that height',
      content: { 'application/json': rememberedSchema },
    },
    404: { description: 'no such log or height here' },
  },
  async handle({ env, node, params, query }) {
    const { height } = params
    const origin = query.origin ?? node.config.origin
    if (origin === node.config.origin) {
      const batch = await batchAt(env.DB, height)
      if (batch === null) throw new VaultMeshError('not-found', `There is no batch ${height}.`)
      return json(shown(batch))
    }
    const batch = await federated(federationOf(env).batchAt(origin, height)).catch(unknownLog)
    return json(batch)
  },
})

/** GET /remembrancer/batches. */
export const getBatchesFrom = route({
  method: 'GET',
  path: '/remembrancer/batches',
  tag: 'remembrancer',
  summary: 'Signed batches of a log from a height on, at most 100, in order',
  query: z.object({ origin: originParam, from: decimal(1).default(1).describe('a height') }),
  answers: {
    200: {
      description: 'canonical ones',
      content: {
        'application/json': z
          .object({ batches: z.array(rememberedSchema) })
          .meta({ id: 'RememberedBatches' }),
      },
    },
    404: { description: 'no such log here' },
  },
  async handle({ env, node, query }) {
    const origin = query.origin ?? node.config.origin
    if (origin === node.config.origin) {
      const found = await listBatches(env.DB, query.from + 100, 100)
      const batches = found.filter(({ height }) => height >= query.from).toReversed()
      return json({ batches: batches.map(shown) })
    }
    const batches = await federated(federationOf(env).batchesFrom(origin, query.from))
    return json({ batches })
  },
})

/** GET /remembrancer/proofs/{chain}: getProof of the plan. */
export const getProofs = route({
  method: 'GET',
  path: '/remembrancer/proofs/{chain}',
  tag: 'remembrancer',
  summary: 'Anchor receipts of a log’s roots on a chain, oldest first',
  params: z.object({ chain: z.enum(['BTC', 'EVM', 'TSA']) }),
  query: z.object({
    origin: originParam,
    after: decimal(0).default(0).describe('next of the page before'),
  }),
  answers: {
    200: {
      description: 'a page of receipts, each with its whole proof',
      content: {
        'application/json': z
          .object({ receipts: z.array(z.looseObject({})), next: z.int().nullable() })
          .meta({ id: 'RememberedProofs' }),
      },
    },
    404: { description: 'no such log here' },
  },
  async handle({ env, node, params, query }) {
    const origin = query.origin ?? node.config.origin
    if (origin === node.config.origin) {
      const { results } = await env.DB.prepare(
        `SELECT id, json FROM receipts r WHERE chain = ? AND id > ?
           AND NOT EXISTS (SELECT 1 FROM revocations v WHERE v.receipt_id = r.id) ORDER BY id LIMIT 50`,
      )
        .bind(params.chain, query.after)
        .all<{ id: number; json: string }>()
      return json({
        receipts: results.map((row) => JSON.parse(row.json) as unknown),
        next: results.length === 50 ? results.at(-1)!.id : null,
      })
    }
    return json(await federated(federationOf(env).proofsOf(origin, params.chain, query.after)))
  },
})

const logParam = z
  .string()
  .regex(/^[0-9a-f]{64}$/, 'must be 64 lowercase hex digits')
  .meta({
    description: 'SHA-256 of the log’s origin, in lowercase hex',
    examples: ['5d0f3ba4ce8e1e05c1a4a5ea4a5bb0d8e2a2e8c7f2d1a1e0d4e1c6a7a9f3b2c4'],
  })

/** GET /mirror/{log}/checkpoint. */
export const getMirrorCheckpoint = route({
  method: 'GET',
  path: '/mirror/{log}/checkpoint',
  tag: 'mirror',
  summary: 'The newest checkpoint of a log as far as it is mirrored here: a C2SP signed note',
  params: z.object({ log: logParam }),
  answers: {
    200: { description: 'the note', content: { 'text/plain': null } },
    404: { description: 'not mirrored here' },
  },
  async handle(call) {
    const { checkpoint } = await mirrorOf(call, call.params.log)
    return new Response(checkpoint, {
      headers: {
        'content-type': 'text/plain; charset=utf-8',
        'cache-control': 'public, max-age=1',
      },
    })
  },
})

/** GET /mirror/{log}/tile/…. */
export const getMirrorTile = route({
  method: 'GET',
  path: '/mirror/{log}/tile/{path*}',
  tag: 'mirror',
  summary: 'A C2SP tlog-tiles tile of a mirrored log',
  params: z.object({
    log: logParam,
    path: z.string().meta({ description: 'as below /log/tile', examples: ['0/000'] }),
  }),
  answers: {
    200: {
      description: 'as below /log/tile',
      content: { 'application/octet-stream': null },
    },
    404: { description: 'no such tile' },
  },
  async handle({ env, node, params }) {
    let name: TileName
    try {
      name = parseTilePath(`tile/${params.path}`)
    } catch {
      throw new VaultMeshError('not-found', 'This is not the path of a tile (C2SP tlog-tiles).')
    }
    const isOwn = params.log === nameOfLog(node.config.origin)
    const tile = isOwn
      ? await readTile(env.BUCKET, name)
      : await readMirrorTile(env.BUCKET, params.log, name)
    if (tile === null) throw new VaultMeshError('not-found', 'The mirror has no such tile.')
    return new Response(tile as Uint8Array<ArrayBuffer>, {
      headers: {
        'content-type': 'application/octet-stream',
        // A fork may give a partial tile another content until the law has spoken.
        'cache-control': isOwn ? IMMUTABLE : 'public, max-age=5',
      },
    })
  },
})

/** GET /mirror/{log}/proof/consistency. */
export const getMirrorConsistency = route({
  method: 'GET',
  path: '/mirror/{log}/proof/consistency',
  tag: 'mirror',
  summary: 'A consistency proof (RFC 9162 §2.1.4) within a mirrored log',
  params: z.object({ log: logParam }),
  query: z.object({ from: decimal(1), to: decimal(1) }),
  answers: {
    200: {
      description: 'the proof',
      content: {
        'application/json': z
          .object({ from: z.int(), to: z.int(), hashes: z.array(z.string()) })
          .meta({ id: 'MirrorConsistency' }),
      },
    },
    404: { description: 'not mirrored so far' },
  },
  async handle(call) {
    const { env, params, query } = call
    const { from, to } = query
    const mirror = await mirrorOf(call, params.log)
    if (from > to || to > mirror.size) {
      throw new VaultMeshError('no-such-size', `The mirror has ${mirror.size} leaves.`)
    }
    const hashes = mirror.isOwn
      ? await proveConsistency(env.BUCKET, { from, to, published: mirror.size })
      : await consistencyProof(mirrorReader(env.BUCKET, params.log, mirror.size), from, to)
    return json({ from, to, hashes: hashes.map(toHex) })
  },
})

/** GET /mirror/{log}/batches/{height}/{batchRoot}/events/{part}. */
export const getMirrorEvents = route({
  method: 'GET',
  path: '/mirror/{log}/batches/{height}/{batchRoot}/events/{part}',
  tag: 'mirror',
  summary:
    'A part of the events of a batch, one compact JWS a line, in leaf order; of an erased one its tombstone',
  params: z.object({
    log: logParam,
    height: decimal(1, undefined, [1]).describe('of the batch'),
    batchRoot: z
      .string()
      .regex(/^[0-9a-f]{64}$/, 'must be 64 lowercase hex digits')
      .meta({
        description:
          'of its manifest, in hex: the root over its own leaves, which fixes its events',
        examples: ['0'.repeat(64)],
      }),
    part: decimal(0, 1_000_000, [0]).describe('from 0; the first that is missing ends the batch'),
  }),
  answers: {
    200: { description: 'one event a line', content: { 'application/x-ndjson': null } },
    403: { description: 'this node shows events to its peers only' },
    404: { description: 'no such batch or part' },
  },
  async handle({ env, node, params, request }) {
    const isOpen = node.config.publicEvents || isOperator({ env, request })
    if (!isOpen && !(await isPeer(env, request)))
      throw new VaultMeshError('forbidden', 'This node does not show events in public.')
    const { log, height, batchRoot, part } = params
    const name = `mirror/${log}/events/${height}/${batchRoot}`
    const isOwn = log === nameOfLog(node.config.origin)
    const batch = isOwn ? await batchAt(env.DB, height) : null
    let object: R2ObjectBody | null = null
    if (batch !== null && batchRootOf(batch) === batchRoot) {
      const bytes = await getBytes(env.BUCKET, eventsKey(height, part))
      if (bytes === null) throw new VaultMeshError('not-found', 'There is no such part here.')
      const { firstIndex, treeSize } = batch
      const wire = await partForPeers(env.DB, bytes, { from: firstIndex, to: treeSize })
      return new Response(wire.slice(), { headers: EVENTS })
    } else {
      const parts = await env.BUCKET.get(`${name}/parts`)
      if (parts !== null && part < Number(await parts.text())) {
        object = await env.BUCKET.get(`${name}/${part}`)
      }
    }
    if (object === null) throw new VaultMeshError('not-found', 'There is no such part here.')
    return new Response(object.body, { headers: EVENTS })
  },
})

/** They can be erased: whoever keeps them asks again. */
const EVENTS = { 'content-type': 'application/x-ndjson', 'cache-control': 'no-cache' } as const

interface Mirror {
  readonly checkpoint: string
  readonly size: number
  readonly isOwn: boolean
}

async function mirrorOf({ env, node }: Call<unknown, unknown>, log: string): Promise<Mirror> {
  if (log === nameOfLog(node.config.origin)) {
    const { checkpoint, size } = await currentHead(env)
    return { checkpoint, size, isOwn: true }
  }
  const mirror = await federationOf(env)
    .mirrored(log)
    .catch((error: unknown) => {
      throw asVaultMeshError(error, 'storage-failed')
    })
  if (mirror === null) throw new VaultMeshError('unknown-log', 'This log is not mirrored here.')
  return { ...mirror, isOwn: false }
}

function shown({ height, root, treeSize, manifest, checkpoint }: BatchRecord): RememberedBatch {
  return { height, root: `sha256:${root}`, treeSize, manifest, checkpoint }
}

function unknownLog(error: unknown): never {
  if (error instanceof VaultMeshError && error.code === 'no-federation') {
    throw new VaultMeshError('not-found', 'There is no such log or height here.')
  }
  throw error
}
