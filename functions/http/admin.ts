/**
 * /admin: what an operator may do to a running node, behind ADMIN_TOKEN. Without the token configured
 * these paths do not exist. A self-hosted node opens them on a local socket only (scripts/selfhost.ts).
 */

import * as z from 'zod'
import { equal, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'
import { listDeadLetters, markReplayed } from '#store/alerts.ts'
import { receiptOfJob } from '#store/anchor-receipts.ts'
import { anchorQueue, anchorRow, releaseAnchor } from '#store/anchors.ts'
import { checkBatch, checkState } from '#store/fsck.ts'
import { jobOf } from './anchors.ts'
import { asVaultMeshError } from './problem.ts'
import { decimal, json, route, type Call } from './route.ts'

/** Throws unless the request carries the operator's token. */
function operatorOnly(call: Call<unknown, unknown>): void {
  const token = call.env.ADMIN_TOKEN
  if (token === undefined || token === '')
    throw new VaultMeshError('not-found', 'There is no such path.')
  const given = /^Bearer (.+)$/.exec(call.request.headers.get('authorization') ?? '')?.[1] ?? ''
  // Hashes have one length, so the comparison tells nothing about the token's.
  if (!equal(sha256(utf8(given)), sha256(utf8(token)))) {
    throw new VaultMeshError('unauthorized', 'The operator token is missing or wrong.')
  }
}

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
      return json(await call.env.SEQUENCER.getByName('log').seal(true))
    } catch (error) {
      throw asVaultMeshError(error, 'storage-failed')
    }
  },
})

/** POST /admin/start: refuses to start under settings this log was not started with. */
export const postStart = route({
  method: 'POST',
  path: '/admin/start',
  tag: 'admin',
  summary: 'Check that the settings fit the stored log',
  internal: true,
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    try {
      return json(await call.env.SEQUENCER.getByName('log').ensureStarted())
    } catch (error) {
      throw asVaultMeshError(error, 'storage-failed')
    }
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
      return json(await call.env.SEQUENCER.getByName('log').anchor(call.query.chain))
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
    const { env, params } = call
    if (!(await releaseAnchor(env, params.id, Date.now()))) {
      throw new VaultMeshError('not-found', `No anchor job ${params.id} is held.`)
    }
    return json({ released: params.id })
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
    return json({ deadLetters: await listDeadLetters(call.env.DB) })
  },
})

/** POST /admin/dead-letters/replay: hastens what would be retried anyway. */
export const postReplay = route({
  method: 'POST',
  path: '/admin/dead-letters/replay',
  tag: 'admin',
  summary: 'Send every dead letter again',
  internal: true,
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { env } = call
    const letters = await listDeadLetters(env.DB)
    for (const letter of letters) {
      if (letter.queue === 'sealer-dlq') await env.SEAL_QUEUE.send({ reason: 'replay' })
      else {
        const { id } = JSON.parse(letter.body) as { id: number }
        const row = await anchorRow(env.DB, id)
        if (row !== null) await anchorQueue(env, row.chain).send({ id })
      }
      // Marked after it was sent: a crash between the two sends it twice, which changes nothing.
      await markReplayed(env.DB, letter.id, Date.now())
    }
    return json({ replayed: letters.length })
  },
})
