/**
 * /readyz: whether to send this node traffic (design §10: checkpoint fresh, stores reachable).
 *
 *   log      the Sequencer answers, and its checkpoint is signed by this log's key
 *   sealing  every pool shard answers, and nothing waits for its seal past its time: the checkpoint is as fresh as
 *            what was posted; a log that nobody posts to is fresh at any age
 *   index    D1 answers, and has what the log has: one that was lost waits for fsck --rebuild
 *   bucket   R2 answers
 *
 * Liveness is /healthz: a node that is alive but not ready is left alone, not killed.
 */

import * as z from 'zod'
import { verifyCheckpoint } from '#core/checkpoint.ts'
import { VaultMeshError } from '#core/errors.ts'
import { getBytes } from '#store/bucket.ts'
import type { NodeContext } from '#store/node.ts'
import { missingIndex } from '#store/rebuild.ts'
import { sealingStands } from '#store/wake.ts'
import { json, route } from './route.ts'

/** Longest wait for one store; who asks gives up after ten seconds or so. */
const CHECK_MS = 4000
/** An answer stands for a second, so that asking often costs nothing. */
const TTL_MS = 1000

/** What each check found: null where it is well, else one sentence. */
type Findings = Readonly<Record<string, string | null>>

interface Looked {
  readonly at: number
  readonly findings: Findings
}
const looked = new WeakMap<object, Looked>()

interface Look {
  readonly env: Env
  readonly node: NodeContext
  readonly nowAt: number
}

const checks: Readonly<Record<string, (look: Look) => Promise<string | null>>> = {
  async log({ env, node }) {
    const { checkpoint, height } = await env.SEQUENCER.getByName('log').head()
    if (height === 0) return null
    await verifyCheckpoint(checkpoint, { log: node.log.key })
    return null
  },
  async sealing({ env, nowAt }) {
    const { fault } = await sealingStands(env, nowAt)
    return fault
  },
  async index({ env }) {
    return missingIndex(env.DB, await env.SEQUENCER.getByName('log').head())
  },
  async bucket({ env }) {
    await getBytes(env.BUCKET, 'log/checkpoint')
    return null
  },
}

const findingsSchema = z.record(z.string(), z.literal('ok'))

/** GET /readyz. */
export const getReady = route({
  method: 'GET',
  path: '/readyz',
  tag: 'node',
  summary: 'Readiness',
  answers: {
    200: {
      description: 'checkpoint fresh, stores reachable',
      content: {
        'application/json': z
          .object({ ready: z.literal(true), checks: findingsSchema })
          .meta({ id: 'Ready' }),
      },
    },
    503: { description: 'problem `not-ready`; `failing` names the checks, `detail` says why' },
  },
  async handle({ env, node }) {
    const nowAt = Date.now()
    let last = looked.get(env)
    if (last === undefined || nowAt - last.at >= TTL_MS || last.at > nowAt) {
      // One looks: while a store hangs, whoever asks meanwhile hears what was found before, and costs nothing.
      if (last !== undefined) looked.set(env, { ...last, at: nowAt })
      last = { at: nowAt, findings: await look({ env, node, nowAt }) }
      looked.set(env, last)
    }
    const { findings } = last
    const wrong = Object.entries(findings).filter(([, fault]) => fault !== null)
    if (wrong.length > 0) {
      const detail = wrong.map(([name, fault]) => `${name}: ${fault}`).join(' ')
      throw new VaultMeshError('not-ready', detail, {
        extra: { failing: wrong.map(([name]) => name) },
      })
    }
    const shown = Object.fromEntries(Object.keys(findings).map((name) => [name, 'ok']))
    return json({ ready: true, checks: shown }, 200, { 'cache-control': 'no-store' })
  },
})

async function look(at: Look): Promise<Findings> {
  const found = await Promise.all(
    Object.entries(checks).map(async ([name, check]): Promise<[string, string | null]> => {
      try {
        return [name, await inTime(check(at))]
      } catch (error) {
        console.error(
          JSON.stringify({ level: 'error', msg: 'not ready', check: name, error: String(error) }),
        )
        // Only our own errors are made to be shown.
        return [name, error instanceof VaultMeshError ? error.message : 'It does not answer.']
      }
    }),
  )
  return Object.fromEntries(found)
}

async function inTime<T>(asked: Promise<T>): Promise<T> {
  const { promise: late, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(
    () => reject(new VaultMeshError('storage-failed', `No answer in ${CHECK_MS} ms.`)),
    CHECK_MS,
  )
  try {
    return await Promise.race([asked, late])
  } finally {
    clearTimeout(timer)
  }
}
