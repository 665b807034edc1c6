/**
 * /admin of care: the index made again, receipts held against chains, and the pause in which a backup is taken.
 */

import * as z from 'zod'
import { sweepAnchors } from '#store/anchors.ts'
import { rebuildBatch } from '#store/rebuild.ts'
import { operatorOnly } from './admin.ts'
import { federationOf } from './federation.ts'
import { asVaultMeshError } from './problem.ts'
import { decimal, json, route } from './route.ts'

/** A backup that takes longer is told so and begins again: nobody may stop a log by forgetting about it. */
const MAX_PAUSE_S = 600

const ok = { 200: { description: 'done', content: { 'application/json': z.looseObject({}) } } }

/** POST /admin/rebuild?step=begin, then ?height= for each batch, then ?step=end. */
export const postRebuild = route({
  method: 'POST',
  path: '/admin/rebuild',
  tag: 'admin',
  summary: 'Make the index of one batch again from R2',
  internal: true,
  query: z.union([
    z.object({ height: decimal(1), step: z.undefined().optional() }),
    z.object({ step: z.enum(['begin', 'end']), height: z.undefined().optional() }),
  ]),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { env, node, query } = call
    const sequencer = env.SEQUENCER.getByName('log')
    try {
      if (query.height !== undefined)
        return json(await rebuildBatch(env, node, { height: query.height, nowAt: Date.now() }))
      if (query.step === 'begin') {
        await sequencer.forgetNames([])
        return json({ head: await sequencer.head() })
      }
      const mended = await sequencer.mendIndex()
      await federationOf(env).readIndexAgain()
      await sweepAnchors(env, Date.now())
      return json(mended)
    } catch (error) {
      throw asVaultMeshError(error, 'storage-failed')
    }
  },
})

/** GET /admin/fsck/chains?after=: a page of receipts, held against their chains; `wallets=1`: the wallets. */
export const getFsckChains = route({
  method: 'GET',
  path: '/admin/fsck/chains',
  tag: 'admin',
  summary: 'Hold receipts, or the wallets, against the chains',
  internal: true,
  query: z.object({ after: decimal(0).optional(), wallets: z.literal('1').optional() }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { after, wallets } = call.query
    try {
      return json(await federationOf(call.env).checkChains(wallets === '1' ? -1 : (after ?? 0)))
    } catch (error) {
      throw asVaultMeshError(error, 'storage-failed')
    }
  },
})

/** POST /admin/pause?seconds=: nothing is sealed until then, so that a backup sees one moment. */
export const postPause = route({
  method: 'POST',
  path: '/admin/pause',
  tag: 'admin',
  summary: 'Seal nothing while a backup is taken',
  internal: true,
  query: z.object({ seconds: decimal(1) }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const ms = Math.min(MAX_PAUSE_S, call.query.seconds) * 1000
    try {
      return json(await call.env.SEQUENCER.getByName('log').pause(ms))
    } catch (error) {
      throw asVaultMeshError(error, 'storage-failed')
    }
  },
})

/** POST /admin/resume?pause=: ends the pause of that name, or all without one; `held` is false if it was over before. */
export const postResume = route({
  method: 'POST',
  path: '/admin/resume',
  tag: 'admin',
  summary: 'Go on sealing after a backup',
  internal: true,
  query: z.object({ pause: z.string().optional() }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { pause } = call.query
    return json({ held: await call.env.SEQUENCER.getByName('log').resume(pause) })
  },
})
