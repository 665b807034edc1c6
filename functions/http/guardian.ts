/**
 * The Guardian's face: the door for telemetry, and what it makes of it.
 *
 * Telemetry is signed, so anybody may bring it; it is of this node or of a listed peer, or it is refused here, in the
 * isolate, before the object hears of it. Each refusal is counted by its code. Who may read follows METRICS_TOKEN.
 */

import * as z from 'zod'
import { fromUtf8 } from '#core/bytes.ts'
import { suggestCadence } from '#core/cadence.ts'
import { VaultMeshError } from '#core/errors.ts'
import { isValidKey } from '#core/rotation.ts'
import {
  MAX_TELEMETRY_BYTES,
  readTelemetry,
  SIGNAL_NAMES,
  verifyTelemetry,
} from '#core/telemetry.ts'
import { railRecords } from '#store/anchor-lag.ts'
import { configuredRails } from '#store/anchors.ts'
import type { CadenceAdvice, LearnView, ProviderScore, SeriesView } from '#store/guardian-api.ts'
import { count } from '#store/metrics.ts'
import type { NodeContext } from '#store/node.ts'
import { allProviders, scoreOf } from '#store/providers.ts'
import { mediaType, readBody, trimEnd } from './body.ts'
import { time } from './events.ts'
import { accepted, judgedByKeys } from './federation.ts'
import { asVaultMeshError } from './problem.ts'
import { readersOnly } from './readers.ts'
import { decimal, json, route } from './route.ts'

const NO_STORE = { 'cache-control': 'no-store' }
/** A series that names neither step nor time: a day in so many steps at most. */
const DEFAULT_STEPS = 300
const DEFAULT_SPAN_MS = 86_400_000

/** The object that keeps telemetry. */
function guardianOf(env: Env) {
  return env.GUARDIAN.getByName('node')
}

/** The object did not answer. */
function unanswered(error: unknown): never {
  throw asVaultMeshError(error, 'storage-failed')
}

const isoTimeSchema = z.string().meta({ format: 'date-time' })

/** POST /guardian/telemetry. */
export const postTelemetry = route({
  method: 'POST',
  path: '/guardian/telemetry',
  tag: 'guardian',
  summary: 'Telemetry of this node or of an allow-listed peer (JWS vm-telemetry+jws)',
  body: { 'application/jose': null },
  answers: {
    202: {
      description: 'taken',
      content: {
        'application/json': z
          .object({ node_did: z.string(), seq: z.int() })
          .meta({ id: 'TelemetryTaken' }),
      },
    },
    400: { description: 'malformed, badly signed, from the future or too old' },
    401: { description: 'not signed' },
    403: { description: 'of a node that is neither this one nor a peer' },
    409: { description: 'seen before, or out of order' },
    413: { description: 'too large' },
    429: { description: 'sooner than half an interval after the last' },
  },
  async handle(call) {
    const { env, ctx, request } = call
    try {
      if (mediaType(request) !== 'application/jose') {
        throw new VaultMeshError('unsupported-media-type', 'Telemetry is application/jose.')
      }
      // Two more than it may have: a CR LF at the end is not part of it.
      const body = await readBody(
        request,
        MAX_TELEMETRY_BYTES + 2,
        'body-too-large',
        MAX_TELEMETRY_BYTES,
      )
      const bytes = trimEnd(body)
      const opened = readTelemetry(bytes)
      await judgedByKeys(call, opened.nodeDid, (history) =>
        verifyTelemetry(opened, {
          nowAt: Date.now(),
          isKey: (keyDid, at) => isValidKey(history, keyDid, at),
        }),
      )
      const answer = await guardianOf(env).admit(fromUtf8(bytes)).catch(unanswered)
      const { nodeDid, seq } = accepted<{ nodeDid: string; seq: number }>(answer)
      return json({ node_did: nodeDid, seq }, 202, NO_STORE)
    } catch (error) {
      const known = asVaultMeshError(error)
      count(env, ctx, 'vaultmesh_telemetry_rejected_total', { reason: known.code })
      throw known
    }
  },
})

const alarmSchema = z
  .looseObject({
    reason: z.enum(['low-psi', 'high-pe', 'high-h']),
    since: isoTimeSchema,
    explained: z.string(),
  })
  .nullable()

const causeSchema = z.object({ name: z.string(), text: z.string() })

const healthSchema = z.looseObject({
  nodeDid: z.string(),
  own: z.boolean(),
  lastSeq: z.int(),
  lastAt: isoTimeSchema.describe('of the newest telemetry, by the clock of its node'),
  stale: z.boolean().describe('silent for three intervals: this says nothing of now'),
  sample: z
    .looseObject({
      psi: z.number().describe('0 bad … 1 good'),
      terms: z.array(z.looseObject({ term: z.string(), contribution: z.number() })),
      signals: z.array(
        z.looseObject({
          name: z.string(),
          value: z.number().nullable().describe('null: there is no such thing here, or unread'),
          x: z.number().nullable().describe('−1 good, 0 at the limit, +1 bad'),
          contribution: z.number().describe('points of Ψ that it costs, as a negative number'),
        }),
      ),
      expected: z.record(z.string(), z.number().nullable()),
    })
    .describe('Ψ and everything that made it'),
  causes: z.array(causeSchema).describe('the three signals that cost most, in words'),
  threshold: z.number(),
  alarm: alarmSchema,
})

/** GET /guardian. */
export const getGuardian = route({
  method: 'GET',
  path: '/guardian',
  tag: 'guardian',
  summary: 'How this node and its peers do: Ψ, what moves it, alarms, interventions',
  answers: {
    200: {
      description: 'this node first',
      content: {
        'application/json': z
          .looseObject({
            nodeDid: z.string(),
            mode: z.enum(['advanced', 'basic']),
            threshold: z.number().describe('GUARDIAN_PSI_LOW'),
            nodes: z.array(healthSchema),
            swarm: z
              .looseObject({ psi: z.number(), nodes: z.int() })
              .nullable()
              .describe('Ψ over the nodes that are not stale'),
            interventions: z
              .array(
                z.looseObject({
                  nodeDid: z.string(),
                  at: isoTimeSchema,
                  kind: z.enum(['nigredo', 'albedo']),
                  explained: z.string(),
                  eventHash: z.string().nullable().describe('of its event in the log'),
                }),
              )
              .describe('newest first, at most 100'),
            notes: z.array(z.string()).describe('what the newest telemetry could not read'),
          })
          .meta({ id: 'Guardian' }),
      },
    },
    401: { description: 'METRICS_TOKEN is set and was not given' },
  },
  async handle(call) {
    await readersOnly(call)
    return json(await guardianOf(call.env).view().catch(unanswered), 200, NO_STORE)
  },
})

const spread = z.object({ mean: z.number(), min: z.number(), max: z.number() })

/** GET /guardian/telemetry. */
export const getTelemetry = route({
  method: 'GET',
  path: '/guardian/telemetry',
  tag: 'guardian',
  summary: 'Telemetry of a node over time, in steps',
  query: z.object({
    node: z.string().max(256).optional().describe('DID of the node; this one if absent'),
    from: time.optional().describe('RFC 3339, inclusive; a day before `to` if absent'),
    to: time.optional().describe('RFC 3339, exclusive; now if absent'),
    step: decimal(1, 31_536_000)
      .optional()
      .describe('seconds a step, at most 1,000 steps; 300 steps if absent'),
  }),
  answers: {
    200: {
      description: 'oldest first; steps without telemetry are left out',
      content: {
        'application/json': z
          .object({
            nodeDid: z.string(),
            from: isoTimeSchema,
            to: isoTimeSchema,
            stepMs: z.int(),
            points: z.array(
              z.looseObject({
                at: isoTimeSchema.describe('begin of the step'),
                samples: z.int(),
                psi: spread,
                signals: z.record(z.string(), spread.nullable()),
              }),
            ),
          })
          .meta({ id: 'TelemetrySeries' }),
      },
    },
    401: { description: 'METRICS_TOKEN is set and was not given' },
    404: { description: 'nothing is kept of that node' },
  },
  async handle(call) {
    await readersOnly(call)
    const { env, node, query } = call
    const to = query.to ?? Date.now()
    const from = query.from ?? to - DEFAULT_SPAN_MS
    const leastMs = Math.ceil((to - from) / DEFAULT_STEPS / 1000) * 1000
    const stepMs =
      query.step === undefined
        ? Math.max(leastMs, Math.ceil(node.config.guardianIntervalMs / 1000) * 1000)
        : query.step * 1000
    const asked = { node: query.node ?? null, from, to, stepMs }
    const answer = await guardianOf(env).series(asked).catch(unanswered)
    return json(accepted<SeriesView>(answer), 200, NO_STORE)
  },
})

/** GET /guardian/learn. */
export const getLearn = route({
  method: 'GET',
  path: '/guardian/learn',
  tag: 'guardian',
  summary: 'What the node has learnt: expectations, provider scores, how often to anchor',
  answers: {
    200: {
      description: 'suggestions only: nothing here changes a setting',
      content: {
        'application/json': z
          .object({
            order: z.array(z.string()).describe('of the weights; the constant is last'),
            nodes: z.array(
              z.looseObject({
                nodeDid: z.string(),
                samples: z.int(),
                signals: z.array(
                  z.looseObject({
                    name: z.string(),
                    last: z.number().nullable(),
                    expected: z.number().nullable(),
                    error: z.number().nullable(),
                    weights: z.array(z.number()),
                  }),
                ),
              }),
            ),
            providers: z.array(
              z.looseObject({
                chain: z.string(),
                network: z.string(),
                name: z.string(),
                score: z.number(),
                why: z.string(),
              }),
            ),
            cadence: z.array(
              z.looseObject({
                chain: z.string(),
                network: z.string(),
                intervalMs: z.int(),
                suggestedMs: z.int(),
                why: z.string(),
              }),
            ),
          })
          .meta({ id: 'Learnt' }),
      },
    },
    401: { description: 'METRICS_TOKEN is set and was not given' },
  },
  async handle(call) {
    await readersOnly(call)
    const { env, node } = call
    const [nodes, providers, cadence] = await Promise.all([
      guardianOf(env).learn().catch(unanswered),
      scores(env.DB),
      advice(env.DB, node),
    ])
    const view: LearnView = { order: SIGNAL_NAMES, nodes, providers, cadence }
    return json(view, 200, NO_STORE)
  },
})

/** What the route of each rail thinks of its providers: who has most is asked first. */
async function scores(db: D1Database): Promise<readonly ProviderScore[]> {
  const nowAt = Date.now()
  const records = await allProviders(db)
  return records.map((record) => {
    const { chain, network, name, success, latencyMs, calls, failures, openUntil } = record
    const share = `${Math.round(success * 100)} %`
    const open =
      openUntil > nowAt ? ` It is skipped for ${Math.ceil((openUntil - nowAt) / 1000)} s.` : ''
    return {
      chain,
      network,
      name,
      score: Number(scoreOf(record).toFixed(3)),
      success: Number(success.toFixed(3)),
      latencyMs: Math.round(latencyMs),
      calls,
      failures,
      why: `${share} of its newest calls succeeded, in ${Math.round(latencyMs)} ms; a second counts as much as a tenth of success.${open}`,
    }
  })
}

/** How often each configured rail could be anchored on. */
async function advice(db: D1Database, { config }: NodeContext): Promise<readonly CadenceAdvice[]> {
  const rails = configuredRails(config)
  const records = await railRecords(db, rails)
  return rails.map(({ chain, network, method, intervalMs, isFree }, i) => {
    const { confirmationMs, failureRatio } = records[i]!
    const cadence = suggestCadence({ intervalMs, isFree, confirmationMs, failureRatio })
    return { chain, network, method, intervalMs, confirmationMs, failureRatio, ...cadence }
  })
}
