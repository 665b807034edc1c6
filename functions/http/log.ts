/**
 * The log as C2SP tlog-tiles serves it, and proofs for those who do not want to build their own.
 *
 * Tiles, manifests and proofs are answered from R2 and D1 alone; the checkpoint comes from the Sequencer
 * behind a cache of one second, and never goes back in time.
 */

import * as z from 'zod'
import { toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { leafHash } from '#core/merkle.ts'
import { parseTilePath, type TileName } from '#core/tile.ts'
import { findEvent } from '#store/events.ts'
import { proveConsistency, proveInclusion, readTile } from '#store/log.ts'
import type { Head } from '#store/sequencer-api.ts'
import { hashName } from './admission.ts'
import { asVaultMeshError } from './problem.ts'
import { hashParam } from './events.ts'
import { decimal, IMMUTABLE, json, route } from './route.ts'

/** How stale a checkpoint may be; tlog-tiles allows seconds, more would hide fresh seals. */
const HEAD_TTL_MS = 1000
/** A size or index from outside may ask the Sequencer this often, whatever it names. */
const ASK_EVERY_MS = 50

interface CachedHead {
  readonly head: Head
  readonly readAt: number
}
const heads = new WeakMap<object, CachedHead>()
/** When this isolate last asked on behalf of a size that it did not know. */
const askedAt = new WeakMap<object, number>()

/**
 * The newest head, at most a second old and never older than one given out before; read anew if the one at
 * hand does not hold `atLeast` leaves, which must be known to exist.
 */
export async function currentHead(env: Env, atLeast = 0): Promise<Head> {
  const fresh = freshHead(env, Date.now())
  return fresh !== null && fresh.size >= atLeast ? fresh : readHead(env)
}

/**
 * The head for a size that a caller named, which may be any number: the Sequencer is asked on behalf of
 * such sizes once in `ASK_EVERY_MS`. Who comes too soon after another waits for the turn, and takes what
 * was learned if somebody else asked meanwhile.
 */
async function headFor(env: Env, size: number): Promise<Head> {
  const arrivedAt = Date.now()
  const fresh = freshHead(env, arrivedAt)
  if (fresh === null || fresh.size >= size) return fresh ?? readHead(env)
  const waitMs = (askedAt.get(env) ?? 0) + ASK_EVERY_MS - arrivedAt
  if (waitMs > 0) {
    await scheduler.wait(waitMs)
    const learned = heads.get(env)?.head ?? fresh
    if (learned.size >= size || askedAt.get(env)! >= arrivedAt) return learned
  }
  askedAt.set(env, Date.now())
  return readHead(env)
}

function freshHead(env: Env, nowAt: number): Head | null {
  const cached = heads.get(env)
  return cached !== undefined && nowAt - cached.readAt < HEAD_TTL_MS ? cached.head : null
}

async function readHead(env: Env): Promise<Head> {
  const startedAt = Date.now()
  let head: Head
  try {
    head = await env.SEQUENCER.getByName('log').head()
  } catch (error) {
    throw asVaultMeshError(error, 'storage-failed')
  }
  const cached = heads.get(env)
  // Answers may overtake one another.
  const newest = cached !== undefined && cached.head.size > head.size ? cached.head : head
  heads.set(env, { head: newest, readAt: startedAt })
  return newest
}

/** GET /log/checkpoint. */
export const getCheckpoint = route({
  method: 'GET',
  path: '/log/checkpoint',
  tag: 'log',
  summary: 'The newest checkpoint: a C2SP signed note',
  answers: { 200: { description: 'the note', content: { 'text/plain': null } } },
  async handle({ env }) {
    const { checkpoint } = await currentHead(env)
    return new Response(checkpoint, {
      headers: {
        'content-type': 'text/plain; charset=utf-8',
        'cache-control': 'public, max-age=1',
      },
    })
  },
})

/** GET /log/tile/…: hash tiles and entry bundles. */
export const getTile = route({
  method: 'GET',
  path: '/log/tile/{path*}',
  tag: 'log',
  summary: 'A C2SP tlog-tiles tile: /log/tile/<L>/<N>[.p/<W>] or /log/tile/entries/<N>[.p/<W>]',
  params: z.object({
    path: z.string().meta({
      description: '<L>/<N>[.p/<W>] or entries/<N>[.p/<W>], N in groups of three: x001/x234/067',
      examples: ['0/000'],
    }),
  }),
  answers: {
    200: {
      description: 'W × 32 bytes of hashes, or W × (uint16 length ‖ entry)',
      content: { 'application/octet-stream': null },
    },
    404: { description: 'no such tile' },
  },
  async handle({ env, params }) {
    let name: TileName
    try {
      name = parseTilePath(`tile/${params.path}`)
    } catch {
      throw new VaultMeshError('not-found', 'This is not the path of a tile (C2SP tlog-tiles).')
    }
    const tile = await readTile(env.BUCKET, name)
    if (tile === null) throw new VaultMeshError('not-found', 'The log has no such tile.')
    return new Response(tile, {
      headers: { 'content-type': 'application/octet-stream', 'cache-control': IMMUTABLE },
    })
  },
})

const treeSize = decimal(0)

const inclusionSchema = z
  .object({
    leafIndex: z.int(),
    treeSize: z.int(),
    leafHash: z
      .string()
      .nullable()
      .describe('64 hex digits, SHA-256(0x00 ‖ eventHash); null when asked by index'),
    hashes: z.array(z.string()).describe('64 hex digits each, the leaf’s sibling first'),
    checkpoint: z.string().nullable().describe('the newest checkpoint, if treeSize is its size'),
  })
  .meta({ id: 'InclusionProof' })

/** GET /log/proof/inclusion: by event hash or by leaf index, in the tree of any size so far. */
export const getInclusionProof = route({
  method: 'GET',
  path: '/log/proof/inclusion',
  tag: 'log',
  summary: 'An inclusion proof (RFC 9162 §2.1.3) by event hash or leaf index',
  query: z.object({
    hash: hashParam.optional().describe('sha256:<hex> of the event'),
    index: treeSize.optional().describe('leaf index, from 0'),
    size: treeSize.optional().describe('tree size; the newest if absent'),
  }),
  answers: {
    200: {
      description: 'the audit path, leaf side first',
      content: { 'application/json': inclusionSchema },
    },
    404: { description: 'no such leaf or size' },
  },
  async handle({ env, query }) {
    if ((query.hash === undefined) === (query.index === undefined)) {
      throw new VaultMeshError('bad-request', 'Give either hash or index.')
    }
    const event = query.hash === undefined ? null : await findEvent(env.DB, query.hash)
    if (query.hash !== undefined && event === null) {
      throw new VaultMeshError('not-sealed', 'No sealed event has this hash.', {
        extra: { statusLink: `/events/${hashName(query.hash)}/status` },
      })
    }
    const index = event?.leafIndex ?? query.index!
    // A leaf of the index exists: it may make the Sequencer tell at once.
    if (event !== null) await currentHead(env, index + 1)
    const head = await headFor(env, Math.max(index + 1, query.size ?? 0))
    const size = checkedSize(query.size ?? head.size, head)
    const hashes = await proveInclusion(env.BUCKET, { index, size, published: head.size })
    return json({
      leafIndex: index,
      treeSize: size,
      leafHash: query.hash === undefined ? null : toHex(leafHash(query.hash)),
      hashes: hashes.map(toHex),
      checkpoint: size === head.size ? head.checkpoint : null,
    })
  },
})

/** GET /log/proof/consistency. */
export const getConsistencyProof = route({
  method: 'GET',
  path: '/log/proof/consistency',
  tag: 'log',
  summary: 'A consistency proof (RFC 9162 §2.1.4) between two sizes',
  query: z.object({
    from: treeSize.describe('the smaller size, at least 1'),
    to: treeSize.optional().describe('the newest size if absent'),
  }),
  answers: {
    200: {
      description: 'the proof',
      content: {
        'application/json': z
          .object({
            from: z.int(),
            to: z.int(),
            hashes: z.array(z.string()).describe('64 hex digits each; none if from = to'),
            checkpoint: z.string().nullable().describe('the newest, if `to` is its size'),
          })
          .meta({ id: 'ConsistencyProof' }),
      },
    },
    404: { description: 'no such size' },
  },
  async handle({ env, query }) {
    const head = await headFor(env, Math.max(query.from, query.to ?? 0))
    const to = checkedSize(query.to ?? head.size, head)
    const from = checkedSize(query.from, head)
    if (from > to) throw new VaultMeshError('no-such-size', `Size ${from} comes after size ${to}.`)
    const hashes = await proveConsistency(env.BUCKET, { from, to, published: head.size })
    return json({
      from,
      to,
      hashes: hashes.map(toHex),
      checkpoint: to === head.size ? head.checkpoint : null,
    })
  },
})

function checkedSize(size: number, head: Head): number {
  if (size < 1 || size > head.size) {
    throw new VaultMeshError(
      'no-such-size',
      `The log has ${head.size} leaves; there is no tree of size ${size}.`,
      {
        extra: { limit: head.size },
      },
    )
  }
  return size
}
