/**
 * /admin: what an operator may do to a running node, behind ADMIN_TOKEN. Without the token configured
 * these paths do not exist. A self-hosted node opens them on a local socket only (scripts/selfhost.ts).
 */

import * as z from 'zod'
import { equal, fromUtf8, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { queueName } from '#core/queue-name.ts'
import { sha256 } from '#core/sha256.ts'
import { listDeadLetters, markReplayed } from '#store/alerts.ts'
import { receiptOfJob } from '#store/anchor-receipts.ts'
import { anchorQueue, anchorRow, endLeases, releaseAnchor } from '#store/anchors.ts'
import { carryOut, erasuresOf, orderErasure } from '#store/erasures.ts'
import { chosenLetters, explainDeadLetters } from '#store/dead-letters.ts'
import { checkBatch, checkState } from '#store/fsck.ts'
import { causedBy } from '#store/trail.ts'
import { wakeAnchors, wakeSealing } from '#store/wake.ts'
import { hashName } from './admission.ts'
import { jobOf } from './anchors.ts'
import { readBody } from './body.ts'
import { hashParam } from './events.ts'
import { accepted, federationOf, forgetAdmission } from './federation.ts'
import { asVaultMeshError } from './problem.ts'
import { decimal, json, route, type Call } from './route.ts'

/** Whether the request carries the operator's token. */
export function isOperator({ env, request }: Pick<Call, 'env' | 'request'>): boolean {
  const token = env.ADMIN_TOKEN ?? ''
  const given = /^Bearer (.+)$/.exec(request.headers.get('authorization') ?? '')?.[1] ?? ''
  // Hashes have one length, so the comparison tells nothing about the token's.
  return token !== '' && equal(sha256(utf8(given)), sha256(utf8(token)))
}

/** Throws unless the request carries the operator's token. */
export function operatorOnly(call: Call<unknown, unknown>): void {
  const token = call.env.ADMIN_TOKEN
  if (token === undefined || token === '')
    throw new VaultMeshError('not-found', 'There is no such path.')
  if (!isOperator(call)) {
    throw new VaultMeshError('unauthorized', 'The operator token is missing or wrong.')
  }
}

/** Largest configuration: as core/federation-config.ts has it. */
const MAX_FEDERATION_BYTES = 262_144

const ok = { 200: { description: 'done', content: { 'application/json': z.looseObject({}) } } }

/** POST /admin/seal: seal what waits now. */
export const postSeal = route({
  method: 'POST',
  path: '/admin/seal',
  tag: 'admin',
  summary: 'Seal what waits now',
  internal: true,
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    try {
      return json(await call.env.SEQUENCER.getByName('log').seal(true, call.requestId))
    } catch (error) {
      throw asVaultMeshError(error, 'storage-failed')
    }
  },
})

/** POST /admin/erase/{eventHash}?reason=CODE: the node signs `vm.erased`; it is carried out once that is sealed. */
export const postErase = route({
  method: 'POST',
  path: '/admin/erase/{eventHash}',
  tag: 'admin',
  summary: 'Erase an event in the operator’s name',
  internal: true,
  params: z.object({ eventHash: hashParam }),
  query: z.object({ reason: z.string().min(1).max(64) }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { env, node, params, query } = call
    try {
      const eventHash = hashName(params.eventHash)
      const erasedBy = await orderErasure(env, node, { eventHash, reasonCode: query.reason })
      return json({ eventHash, erasedBy })
    } catch (error) {
      throw asVaultMeshError(error, 'storage-failed')
    }
  },
})

/** POST /admin/erasures/{eventHash}: seals, carries out what is due, and says how far it has come. */
export const postErasures = route({
  method: 'POST',
  path: '/admin/erasures/{eventHash}',
  tag: 'admin',
  summary: 'Carry out what is to be erased now, and say how it stands',
  internal: true,
  params: z.object({ eventHash: hashParam }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { env, params } = call
    try {
      await env.SEQUENCER.getByName('log').seal(true)
      await carryOut(env, Date.now(), params.eventHash)
      return json({
        eventHash: hashName(params.eventHash),
        erasures: await erasuresOf(env.DB, params.eventHash),
      })
    } catch (error) {
      throw asVaultMeshError(error, 'storage-failed')
    }
  },
})

/**
 * POST /admin/start?since=: refuses to start under settings this log was not started with. `since`, epoch ms, is when the
 * caller made sure that no process before it works here any more: what those had in hand is free again.
 */
export const postStart = route({
  method: 'POST',
  path: '/admin/start',
  tag: 'admin',
  summary: 'Check that the settings fit the stored log',
  internal: true,
  query: z.object({ since: decimal(0).optional() }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { env, query } = call
    try {
      const head = await env.SEQUENCER.getByName('log').ensureStarted()
      if (query.since !== undefined) await endLeases(env.DB, query.since)
      await env.GUARDIAN.getByName('node').sweep()
      return json(head)
    } catch (error) {
      throw asVaultMeshError(error, 'storage-failed')
    }
  },
})

/**
 * POST /admin/wake?job=sealing|anchors: the cron's sweep of that job now, and how the job stands. 503 `not-ready`
 * where something waits past its time: what a process beside the node serves as its own health.
 */
export const postWake = route({
  method: 'POST',
  path: '/admin/wake',
  tag: 'admin',
  summary: 'Wake sealing or anchoring, and say how it stands',
  internal: true,
  query: z.object({ job: z.enum(['sealing', 'anchors']) }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { job } = call.query
    const wake = job === 'sealing' ? wakeSealing : wakeAnchors
    const { fault, waiting, overdueMs } = await wake(call.env, Date.now()).catch(
      (error: unknown) => {
        throw asVaultMeshError(error, 'storage-failed')
      },
    )
    if (fault !== null) {
      throw new VaultMeshError('not-ready', fault, { extra: { job, waiting, overdueMs } })
    }
    return json({ job, waiting, overdueMs })
  },
})

/** POST /admin/anchor?chain=BTC: anchor the newest root on a chain now. */
export const postAnchor = route({
  method: 'POST',
  path: '/admin/anchor',
  tag: 'admin',
  summary: 'Anchor the newest root on a chain now',
  internal: true,
  query: z.object({ chain: z.enum(['BTC', 'EVM', 'TSA']) }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    try {
      const { env, query, requestId } = call
      return json(await env.SEQUENCER.getByName('log').anchor(query.chain, requestId))
    } catch (error) {
      throw asVaultMeshError(error, 'storage-failed')
    }
  },
})

/** POST /admin/anchors/{id}/release: try a held job now. */
export const postRelease = route({
  method: 'POST',
  path: '/admin/anchors/{id}/release',
  tag: 'admin',
  summary: 'Let a held anchor job be tried',
  internal: true,
  params: z.object({ id: decimal(1) }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { env, params, requestId } = call
    if (!(await releaseAnchor(env, params.id, Date.now(), requestId))) {
      throw new VaultMeshError('not-found', `No anchor job ${params.id} is held.`)
    }
    return json({ released: params.id })
  },
})

/** POST /admin/federation: takes a config/federation.yaml over; an empty body leaves the federation. */
export const postFederation = route({
  method: 'POST',
  path: '/admin/federation',
  tag: 'admin',
  summary: 'Take a federation configuration over',
  internal: true,
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const bytes = await readBody(call.request, MAX_FEDERATION_BYTES, 'body-too-large')
    const text = fromUtf8(bytes)
    const answer = await federationOf(call.env)
      .apply(text === '' ? null : text)
      .catch((error: unknown) => {
        throw asVaultMeshError(error, 'storage-failed')
      })
    forgetAdmission(call.env)
    return json(accepted(answer))
  },
})

/** GET /admin/federation: the configuration that is in force. */
export const getFederation = route({
  method: 'GET',
  path: '/admin/federation',
  tag: 'admin',
  summary: 'The federation configuration that is in force',
  internal: true,
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    return json({ yaml: await federationOf(call.env).configuration() })
  },
})

/** POST /admin/retire: leaves the federation to the log that follows this one; the configuration is kept. */
export const postRetire = route({
  method: 'POST',
  path: '/admin/retire',
  tag: 'admin',
  summary: 'Leave the federation to the log that follows',
  internal: true,
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    await federationOf(call.env).retire()
    await call.env.GUARDIAN.getByName('node').retire()
    return json({ retired: call.node.config.origin })
  },
})

/** POST /admin/quarantine/release?origin=&height=&root=: have a held root looked at again now. */
export const postQuarantineRelease = route({
  method: 'POST',
  path: '/admin/quarantine/release',
  tag: 'admin',
  summary: 'Look at a quarantined root again now',
  internal: true,
  query: z.object({
    origin: z.string().min(1).max(255),
    height: decimal(1),
    root: z.string().regex(/^(?:sha256:)?[0-9a-f]{64}$/),
  }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { origin, height, root } = call.query
    const released = await federationOf(call.env).release(
      origin,
      height,
      root.replace('sha256:', ''),
    )
    if (!released) throw new VaultMeshError('not-found', 'No such root is quarantined.')
    return json({ released: { origin, height, root } })
  },
})

/** POST /admin/peers/thaw?did=: a peer frozen by a key conflict may speak again, with the keys it had. */
export const postThaw = route({
  method: 'POST',
  path: '/admin/peers/thaw',
  tag: 'admin',
  summary: 'Let a peer with a key conflict speak again',
  internal: true,
  query: z.object({ did: z.string().max(256) }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const thawed = await federationOf(call.env).thaw(call.query.did)
    if (!thawed) throw new VaultMeshError('not-found', 'No such peer is frozen.')
    forgetAdmission(call.env)
    return json({ thawed: call.query.did })
  },
})

/** GET /admin/rails: the chains that this node anchors on. */
export const getRails = route({
  method: 'GET',
  path: '/admin/rails',
  tag: 'admin',
  summary: 'The chains this node anchors on',
  internal: true,
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    return json({ rails: call.node.config.rails })
  },
})

/** GET /admin/anchors/{id}: a job, with its receipt once it is final. */
export const getAnchorJob = route({
  method: 'GET',
  path: '/admin/anchors/{id}',
  tag: 'admin',
  summary: 'An anchor job and its receipt',
  internal: true,
  params: z.object({ id: decimal(1) }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { env, params } = call
    const row = await anchorRow(env.DB, params.id)
    if (row === null) throw new VaultMeshError('not-found', `There is no job ${params.id}.`)
    const { receipt, revision } = (await receiptOfJob(env.DB, row)) ?? {
      receipt: null,
      revision: 0,
    }
    return json({ ...jobOf(row), receipt, revision })
  },
})

/** GET /admin/fsck: Sequencer, pools and counts; then batch by batch with ?height=. */
export const getFsck = route({
  method: 'GET',
  path: '/admin/fsck',
  tag: 'admin',
  summary: 'Re-derive the state, or one batch, and compare',
  internal: true,
  query: z.object({ height: decimal(1).optional() }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { env, node, query } = call
    return json(
      query.height === undefined
        ? await checkState(env, node)
        : await checkBatch(env, node, query.height),
    )
  },
})

/** GET /admin/dead-letters. */
export const getDeadLetters = route({
  method: 'GET',
  path: '/admin/dead-letters',
  tag: 'admin',
  summary: 'Messages that a queue gave up on',
  internal: true,
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    return json({ deadLetters: await explainDeadLetters(call.env) })
  },
})

/**
 * POST /admin/dead-letters/replay: hastens what would be retried anyway. `ids` are names from the list, comma-separated;
 * without them all.
 */
export const postReplay = route({
  method: 'POST',
  path: '/admin/dead-letters/replay',
  tag: 'admin',
  summary: 'Send dead letters again',
  internal: true,
  query: z.object({
    ids: z
      .string()
      .regex(/^[0-9a-f]{4,64}(?:,[0-9a-f]{4,64}){0,99}$/)
      .optional(),
  }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const names = call.query.ids?.split(',')
    return json({ replayed: await replayDeadLetters(call.env, call.requestId, names) })
  },
})

/**
 * Sends the work of every dead letter again, or of those with these names, and resolves to their number. Throws
 * `not-found` for a name that no open letter has, before anything is sent.
 */
export async function replayDeadLetters(
  env: Env,
  requestId?: string,
  names?: readonly string[],
): Promise<number> {
  const letters = chosenLetters(await listDeadLetters(env.DB), names)
  for (const letter of letters) {
    if (queueName(letter.queue) === 'sealer-dlq')
      await env.SEAL_QUEUE.send({ reason: 'replay', ...causedBy(requestId) })
    else {
      const { id } = JSON.parse(letter.body) as { id: number }
      const row = await anchorRow(env.DB, id)
      if (row !== null) await anchorQueue(env, row.chain).send({ id, ...causedBy(requestId) })
    }
    // Marked after it was sent: a crash between the two sends it twice, which changes nothing.
    await markReplayed(env.DB, letter.id, Date.now())
  }
  return letters.length
}
