/**
 * The federation's face: envelopes of peers, the feed they read, and what anybody may look at.
 *
 * A stranger's envelope is refused here, in the isolate: the object that knows the peers is asked who they
 * are once a second, and hears only what a listed DID may have sent. Refusals are counted and told to it.
 */

import * as z from 'zod'
import { utf8 } from '#core/bytes.ts'
import { canonicalDid } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import { evidenceSchema, type Evidence } from '#core/fork-evidence.ts'
import {
  MAX_ENVELOPE_BYTES,
  readEnvelope,
  verifyEnvelope,
  type OpenedEnvelope,
} from '#core/gossip.ts'
import { isValidKey, mergeStatements, verifyStatements, type KeyHistory } from '#core/rotation.ts'
import type { Admission, MeshView, Refused } from '#store/federation-api.ts'
import { mediaType, readBody } from './body.ts'
import { pageFor } from './page-for.ts'
import { asVaultMeshError } from './problem.ts'
import { decimal, json, route, type Call } from './route.ts'

/** How long the list of peers is believed, and how long if it is about to refuse somebody. */
const ADMISSION_TTL_MS = 1000
const REFUSING_TTL_MS = 100
/** Counts of refusals travel so long after the first of them. */
const COUNT_AFTER_MS = 1000

/** The object that knows the peers. */
export function federationOf(env: Env) {
  return env.FEDERATION.getByName('node')
}

/** Waits for an answer of the object; null means that the node is in no federation. */
export async function federated<T>(asking: Promise<T | null>): Promise<T> {
  const answer = await asking.catch((error: unknown) => {
    throw asVaultMeshError(error, 'storage-failed')
  })
  if (answer === null) {
    throw new VaultMeshError('no-federation', 'This node was started without a federation.')
  }
  return answer
}

/** Throws a refusal that came over an RPC. */
export function accepted<T extends object>(answer: T | Refused): T {
  if (!('refusal' in answer)) return answer
  const { code, detail, extra } = answer.refusal
  throw new VaultMeshError(code, detail, { extra })
}

const admissions = new WeakMap<
  object,
  { readonly readAt: number; readonly admission: Admission | null }
>()
const counts = new WeakMap<object, { begunAt: number; refusals: Record<string, number> }>()

async function knownAdmission(env: Env, ttlMs = ADMISSION_TTL_MS): Promise<Admission | null> {
  const known = admissions.get(env)
  if (known !== undefined && Date.now() - known.readAt < ttlMs) return known.admission
  const readAt = Date.now()
  const admission = await federationOf(env)
    .admission()
    .catch((error: unknown) => {
      throw asVaultMeshError(error, 'storage-failed')
    })
  admissions.set(env, { readAt, admission })
  return admission
}

/** Judges by the list of peers; before it refuses somebody, by a fresh one: keys rotate, and the frozen are let go. */
async function judged<T>(env: Env, judge: (admission: Admission) => Promise<T>): Promise<T> {
  try {
    return await judge(await federated(knownAdmission(env)))
  } catch (error) {
    if (!(error instanceof VaultMeshError) || error.code !== 'unknown-peer') throw error
    return await judge(await federated(knownAdmission(env, REFUSING_TTL_MS)))
  }
}

/**
 * Judges by the keys of the node `did` (canonical): this one, or a listed peer. Throws `unknown-peer` for any other, also
 * where there is no federation.
 */
export async function judgedByKeys<T>(
  { env, node }: Pick<Call, 'env' | 'node'>,
  did: string,
  judge: (history: KeyHistory) => Promise<T>,
): Promise<T> {
  if (did === canonicalDid(node.nodeDid)) return judge(node.history)
  // The node may have joined one just now.
  const isIn = (await knownAdmission(env)) ?? (await knownAdmission(env, REFUSING_TTL_MS))
  if (isIn === null) {
    throw new VaultMeshError('unknown-peer', `${did} is not this node, which is in no federation.`)
  }
  // Null is for what a peer says of its keys at the same time, and it says nothing here.
  return judged(env, async (admission) => judge((await historyOf(admission, did))!))
}

/** Has the list of peers read anew: something about them was changed here. */
export function forgetAdmission(env: Env): void {
  admissions.delete(env)
}

/** Hash of the law that this node follows; null outside of a federation, or while its object does not answer. */
export function lawOf(env: Env): Promise<string | null> {
  return knownAdmission(env).then(
    (admission) => admission?.lawHash ?? null,
    () => null,
  )
}

/** Counts a refusal that never reached the object, and tells it a second later, with those that came meanwhile. */
function countRefusal(env: Env, ctx: Pick<ExecutionContext, 'waitUntil'>, code: string): void {
  let tally = counts.get(env)
  // One that was not sent in time is not sent by its request any more.
  const isOpen = tally !== undefined && Date.now() - tally.begunAt < 2 * COUNT_AFTER_MS
  if (tally === undefined || !isOpen) {
    tally = { begunAt: Date.now(), refusals: tally?.refusals ?? {} }
    counts.set(env, tally)
    ctx.waitUntil(tellRefusals(env, tally))
  }
  tally.refusals[code] = (tally.refusals[code] ?? 0) + 1
}

async function tellRefusals(
  env: Env,
  tally: { readonly refusals: Readonly<Record<string, number>> },
): Promise<void> {
  await new Promise((over) => setTimeout(over, COUNT_AFTER_MS))
  if (counts.get(env) !== tally) return
  counts.delete(env)
  await federationOf(env)
    .count(tally.refusals)
    .catch(() => undefined)
}

const histories = new WeakMap<Admission, Map<string, Promise<KeyHistory>>>()

function frozen(did: string, epoch: number): VaultMeshError {
  return new VaultMeshError(
    'unknown-peer',
    `${did} signed two keys for epoch ${epoch}; its operator and ours must settle it.`,
  )
}

/**
 * The keys of a peer: those that are known of it, with what it says of them itself; null if these contradict each
 * other. Throws `bad-rotation`.
 */
async function historyOf(
  admission: Admission,
  did: string,
  told: readonly string[] = [],
): Promise<KeyHistory | null> {
  const peer = admission.peers.find((known) => known.did === did)
  if (peer === undefined) {
    throw new VaultMeshError('unknown-peer', `${did} is not on peers_allowlist.`)
  }
  if (peer.frozenEpoch !== null) throw frozen(peer.did, peer.frozenEpoch)
  const isNews = told.some((statement) => !peer.statements.includes(statement))
  if (isNews) {
    const { statements, conflict } = await mergeStatements(peer.did, peer.statements, told)
    return conflict === null ? verifyStatements(peer.did, statements) : null
  }
  let known = histories.get(admission)
  if (known === undefined) histories.set(admission, (known = new Map()))
  let history = known.get(did)
  if (history === undefined) {
    history = verifyStatements(peer.did, peer.statements)
    known.set(did, history)
  }
  return history
}

/** Whether a request carries a pass of a peer (`Authorization: Gossip <envelope>`). Throws what refuses a bad one. */
export async function isPeer(env: Env, request: Request): Promise<boolean> {
  const given = /^Gossip (\S+)$/.exec(request.headers.get('authorization') ?? '')?.[1]
  if (given === undefined) return false
  const opened = readEnvelope(utf8(given))
  const { claims } = await judged(env, async (admission) => {
    const history = await historyOf(admission, opened.iss)
    // Read again within its life it tells nothing new, so its jti is not remembered.
    return verifyEnvelope(opened, {
      audiences: [admission.nodeDid],
      nowAt: Date.now(),
      isKey: (keyDid, at) => history !== null && isValidKey(history, keyDid, at),
    })
  })
  if (claims.body['read'] !== 'events') {
    throw new VaultMeshError(
      'bad-envelope',
      'The envelope is no pass: its body says nothing to read.',
    )
  }
  return true
}

/**
 * Refuses what nobody of the list can have sent. The object checks again what it acts upon, and freezes a peer with
 * two keys for one epoch; what is forged does not get there.
 */
async function checkSender(admission: Admission, opened: OpenedEnvelope): Promise<void> {
  const { iss, keyDid, unverified } = opened
  if (canonicalDid(unverified.aud) !== admission.nodeDid) {
    throw new VaultMeshError('wrong-audience', 'The envelope\'s "aud" is not this node.')
  }
  const known = await historyOf(admission, iss)
  // What it says of its keys is read if it signs with one that is not known.
  const isKnown = known !== null && isValidKey(known, keyDid, Date.now())
  const history = isKnown ? known : await historyOf(admission, iss, unverified.statements)
  if (history === null) return
  await verifyEnvelope(opened, {
    audiences: [admission.nodeDid],
    nowAt: Date.now(),
    isKey: (key, at) => isValidKey(history, key, at),
  })
}

/** POST /federation/gossip: an envelope of a peer, answered by one of ours. */
export const postGossip = route({
  method: 'POST',
  path: '/federation/gossip',
  tag: 'federation',
  summary: 'An envelope of an allow-listed peer (JWS vm-gossip+jws); answered by one for it',
  body: { 'application/jose': null },
  answers: {
    200: { description: 'an envelope of this node', content: { 'application/jose': null } },
    400: { description: 'no envelope' },
    401: { description: 'stale, or heard before' },
    403: { description: 'not a peer, or for another node' },
    413: { description: 'too large' },
  },
  async handle({ env, ctx, request }) {
    try {
      if (mediaType(request) !== 'application/jose') {
        throw new VaultMeshError('unsupported-media-type', 'An envelope is application/jose.')
      }
      const bytes = await readBody(request, MAX_ENVELOPE_BYTES, 'envelope-too-large')
      const opened = readEnvelope(bytes)
      await judged(env, (admission) => checkSender(admission, opened))
      const answer = await federationOf(env)
        .gossip(bytes)
        .catch((error: unknown) => {
          throw asVaultMeshError(error, 'storage-failed')
        })
      // Counted there.
      if ('refusal' in answer) return await refused(answer)
      if (opened.unverified.statements !== undefined) forgetAdmission(env)
      return new Response(answer.envelope, {
        headers: { 'content-type': 'application/jose', 'cache-control': 'no-store' },
      })
    } catch (error) {
      const known = asVaultMeshError(error)
      if (known !== error || !COUNTED.has(known)) countRefusal(env, ctx, known.code)
      throw known
    }
  },
})

/** Refusals that the object has counted already. */
const COUNTED = new WeakSet<object>()

function refused({ refusal }: Refused): never {
  const error = new VaultMeshError(refusal.code, refusal.detail, { extra: refusal.extra })
  COUNTED.add(error)
  throw error
}

/** GET /federation/feed: signed batches and anchor receipts in the order this node learned them. */
export const getFeed = route({
  method: 'GET',
  path: '/federation/feed',
  tag: 'federation',
  summary: 'What this node learned of its own log and its peers’, in its own order',
  query: z.object({
    after: decimal(0).default(0).describe('the last seq that you have; 0 from the beginning'),
  }),
  answers: {
    200: {
      description: 'batches and proofs, each signed or proved by itself',
      content: {
        'application/json': z
          .object({
            feedId: z.string().describe('another id is another feed: read it from 0'),
            items: z.array(z.looseObject({ seq: z.int(), type: z.enum(['batch', 'proof']) })),
            more: z.boolean(),
          })
          .meta({ id: 'Feed' }),
      },
    },
    404: { description: 'in no federation' },
  },
  async handle({ env, query }) {
    return json(await federated(federationOf(env).feed(query.after)), 200, NO_STORE)
  },
})

/** GET /federation/peers. */
export const getPeers = route({
  method: 'GET',
  path: '/federation/peers',
  tag: 'federation',
  summary: 'The allow-listed peers: identity, keys, last seen, tip, lag, state',
  answers: {
    200: {
      description: 'in the order of peers_allowlist',
      content: {
        'application/json': z
          .object({
            node_did: z.string(),
            lawHash: z.string(),
            peers: z.array(
              z.looseObject({
                did: z.string(),
                url: z.string().nullable(),
                origin: z.string().nullable(),
                state: z.enum([
                  'no-address',
                  'unseen',
                  'ok',
                  'failing',
                  'law-mismatch',
                  'key-conflict',
                ]),
                lastSeen: z.string().meta({ format: 'date-time' }).nullable(),
                lag: z
                  .int()
                  .nullable()
                  .describe('batches of its log that are not verified here yet'),
              }),
            ),
            refusals: z.record(z.string(), z.int()).describe('refused envelopes, by problem code'),
          })
          .meta({ id: 'Peers' }),
      },
    },
    303: { description: 'for browsers: to the page of the federation' },
    404: { description: 'in no federation' },
  },
  async handle(call) {
    const page = pageFor(call, '/dashboard/federation')
    if (page !== null) return page
    return json(await federated(federationOf(call.env).peersView()), 200, NO_STORE)
  },
})

/** GET /federation/tips. */
export const getTips = route({
  method: 'GET',
  path: '/federation/tips',
  tag: 'federation',
  summary: 'Where each log stands, by the law',
  answers: {
    200: {
      description: 'one for each log, own first known',
      content: {
        'application/json': z
          .object({
            tips: z.array(
              z.looseObject({
                origin: z.string(),
                did: z.string(),
                own: z.boolean(),
                state: z.enum(['clear', 'decided', 'undecided']),
                height: z.int(),
                treeSize: z.int(),
                root: z.string(),
                mirrored: z.int().describe('tree size up to which /mirror serves its tiles'),
              }),
            ),
          })
          .meta({ id: 'Tips' }),
      },
    },
    404: { description: 'in no federation' },
  },
  async handle({ env }) {
    return json({ tips: await federated(federationOf(env).tipsView()) }, 200, NO_STORE)
  },
})

/** GET /federation/conflicts. */
export const getConflicts = route({
  method: 'GET',
  path: '/federation/conflicts',
  tag: 'federation',
  summary: 'Forks with their evidence and the law’s reasoning, and quarantined roots',
  answers: {
    200: {
      description: 'every rival is a manifest and a checkpoint signed by its origin',
      content: {
        'application/json': z
          .object({
            lawHash: z.string(),
            law: z.looseObject({}),
            conflicts: z.array(
              z.looseObject({
                origin: z.string(),
                height: z.int(),
                winner: z.string().nullable(),
                undecided: z.string().nullable(),
                lines: z.array(z.string()).describe('the law’s reasoning'),
              }),
            ),
            quarantine: z.array(
              z.looseObject({
                origin: z.string(),
                height: z.int(),
                root: z.string(),
                reason: z.string(),
                until: z.string().meta({ format: 'date-time' }),
              }),
            ),
            rivals: z.array(
              z.looseObject({ origin: z.string(), size: z.int(), notes: z.array(z.string()) }),
            ),
          })
          .meta({ id: 'Conflicts' }),
      },
    },
    303: { description: 'for browsers: to the page of the federation' },
    404: { description: 'in no federation' },
  },
  async handle(call) {
    const page = pageFor(call, '/dashboard/federation')
    if (page !== null) return page
    return json(await federated(federationOf(call.env).conflictsView()), 200, NO_STORE)
  },
})

/** GET /federation/evidence. */
export const getEvidence = route({
  method: 'GET',
  path: '/federation/evidence',
  tag: 'federation',
  summary: 'What a log signed against itself at a height, as a file that verifies offline',
  query: z.object({
    origin: z.string().min(1).max(255),
    height: decimal(1, undefined, [1]).describe('of the conflict or of the quarantined batch'),
  }),
  answers: {
    200: {
      description: 'vaultmesh evidence FILE checks it',
      content: { 'application/json': evidenceSchema },
    },
    404: { description: 'nothing speaks against that log there' },
  },
  async handle({ env, query }) {
    const asking = federationOf(env).evidence(query.origin, query.height)
    const file = accepted<Evidence>(await federated(asking as Promise<Evidence | Refused | null>))
    return json(file, 200, {
      ...NO_STORE,
      'content-disposition': `attachment; filename="${file.kind}-${query.height}.json"`,
    })
  },
})

const list = z
  .string()
  .max(8192)
  .transform((text) => text.split(',').filter((part) => part !== ''))

/** GET /federation/mesh. */
export const getMesh = route({
  method: 'GET',
  path: '/federation/mesh',
  tag: 'federation',
  summary: 'One root over the canonical roots of several logs: equal on nodes that agree',
  query: z.object({
    origins: list
      .optional()
      .describe('comma-separated; what all live peers have acknowledged if absent'),
    heights: list.optional().describe('comma-separated, one for each origin'),
  }),
  answers: {
    200: {
      description: 'the root and what it is over',
      content: {
        'application/json': z
          .object({
            meshRoot: z.string(),
            entries: z.array(
              z.object({
                origin: z.string(),
                height: z.int(),
                treeSize: z.int(),
                root: z.string(),
              }),
            ),
            query: z.string().describe('the same question, for another node'),
          })
          .meta({ id: 'Mesh' }),
      },
    },
    404: { description: 'in no federation, or no such height here' },
  },
  async handle({ env, query }) {
    const { origins, heights } = query
    if (origins?.length !== heights?.length) {
      throw new VaultMeshError('bad-request', 'origins and heights are lists of one length.')
    }
    const wanted =
      origins?.map((origin, i) => {
        const height = Number(heights![i])
        if (!/^[1-9]\d{0,14}$/.test(heights![i]!)) {
          throw new VaultMeshError('bad-request', 'A height is a decimal number from 1.')
        }
        return { origin, height }
      }) ?? null
    const asking = federationOf(env).meshView(wanted) as Promise<MeshView | Refused | null>
    const view = accepted<MeshView>(await federated(asking))
    return json(view, 200, NO_STORE)
  },
})

const NO_STORE = { 'cache-control': 'no-store' } as const
