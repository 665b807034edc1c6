/**
 * Who this node is and how it does: health, the well-known file, alerts.
 */

import * as z from 'zod'
import { isoTime } from '#core/time.ts'
import { webhookKey } from '#core/webhook.ts'
import { alertUrl, runbookOf } from '#core/alert.ts'
import { openAlerts } from '#store/alerts.ts'
import { VERSION } from '#store/node.ts'
import { lawOf } from './federation.ts'
import { currentHead } from './log.ts'
import { pageFor } from './page-for.ts'
import { json, route } from './route.ts'

/** GET /healthz: the process answers; what it could learn of the log rides along. */
export const getHealth = route({
  method: 'GET',
  path: '/healthz',
  tag: 'node',
  summary: 'Liveness',
  answers: {
    200: {
      description: 'alive',
      content: {
        'application/json': z
          .looseObject({
            ok: z.boolean(),
            node_id: z.string(),
            node_did: z.string(),
            network: z.enum(['dev', 'production']),
            version: z.string(),
            log: z
              .looseObject({
                origin: z.string(),
                height: z.int(),
                treeSize: z.int(),
                indexedHeight: z.int(),
                sealedAt: z.string().meta({ format: 'date-time' }).nullable(),
              })
              .nullable()
              .describe('the head; null while the Sequencer does not answer'),
          })
          .meta({ id: 'Health' }),
      },
    },
  },
  async handle({ env, node }) {
    const base = {
      ok: true,
      node_id: node.config.nodeId,
      node_did: node.nodeDid,
      network: node.config.network,
      version: VERSION,
    }
    try {
      const head = await currentHead(env)
      const log = {
        origin: node.config.origin,
        height: head.height,
        treeSize: head.size,
        indexedHeight: head.indexedHeight,
        sealedAt: head.height === 0 ? null : isoTime(head.sealedAt),
      }
      return json({ ...base, log }, 200, { 'cache-control': 'no-store' })
    } catch {
      return json({ ...base, log: null }, 200, { 'cache-control': 'no-store' })
    }
  },
})

/** GET /.well-known/vaultmesh.json: names and keys, what a verifier pins. */
export const getWellKnown = route({
  method: 'GET',
  path: '/.well-known/vaultmesh.json',
  tag: 'node',
  summary: 'Who this node is: names, keys, rails, timestamp roots',
  answers: {
    200: {
      description: 'the node',
      content: {
        'application/json': z
          .object({
            node_id: z.string(),
            node_did: z
              .string()
              .describe(
                'its stable name; what it signs names this key or one that `rotation` adds',
              ),
            origin: z.string().describe('the log’s name: first line of its checkpoints'),
            vkey: z.string().describe('the log’s key as C2SP signed-note writes it'),
            witness: z.object({ name: z.string(), vkey: z.string() }),
            previous: z
              .array(
                z.object({
                  origin: z.string(),
                  vkey: z.string(),
                  evidence: z.string().describe('sha256:<hex>: first leaf of the log after it'),
                }),
              )
              .describe(
                'this node’s logs that forked and were ended, oldest first; under /log/<n>/',
              ),
            version: z.string(),
            network: z.enum(['dev', 'production']),
            rails: z.array(z.string()).describe('chains an event must be anchored on to be final'),
            lawHash: z
              .string()
              .nullable()
              .describe('of the law that settles forks; null outside of a federation'),
            rotation: z
              .array(z.string())
              .describe('JWS vm-rotation+jws: the chain from node_did to the key of now'),
            webhook_key: z
              .string()
              .describe(
                'signs webhooks: whpk_<base64 Ed25519>, the identity key of now; rotation changes it',
              ),
            tsa_roots: z.array(z.string()).describe('PEM roots that timestamps lead to'),
          })
          .meta({ id: 'WellKnown' }),
      },
    },
  },
  async handle({ env, node }) {
    const { config } = node
    return json({
      node_id: config.nodeId,
      node_did: node.nodeDid,
      origin: config.origin,
      vkey: node.vkey,
      witness: { name: node.witness.name, vkey: node.witness.vkey },
      previous: config.previousLogs,
      version: VERSION,
      network: config.network,
      rails: config.rails,
      lawHash: await lawOf(env),
      rotation: node.statements,
      webhook_key: webhookKey(node.identity.publicKey),
      tsa_roots: config.tsaRoots,
    })
  },
})

/** GET /alerts: what is open. */
export const getAlerts = route({
  method: 'GET',
  path: '/alerts',
  tag: 'node',
  summary: 'Open alerts',
  answers: {
    200: {
      description: 'newest first, those about webhooks of clients last; at most 100',
      content: {
        'application/json': z
          .object({
            alerts: z.array(
              z.looseObject({
                id: z.string().describe('the same wherever this alert is told of'),
                kind: z.string(),
                key: z.string().describe('what it is about'),
                severity: z.enum(['warning', 'critical']),
                detail: z.string(),
                link: z.string().describe('path of this log that shows what suffers'),
                url: z.string().describe('the link as an address'),
                runbook: z.string().describe('what to do: path in the project'),
                openedAt: z.string().meta({ format: 'date-time' }),
              }),
            ),
          })
          .meta({ id: 'Alerts' }),
      },
    },
    303: { description: 'for browsers: to the page of alerts' },
  },
  async handle(call) {
    const page = pageFor(call, '/dashboard/alerts')
    if (page !== null) return page
    const { env, node, url } = call
    const { origin, logNumber, publicUrl } = node.config
    const alerts = await openAlerts(env.DB, origin)
    const at = { publicUrl: publicUrl === '' ? url.origin : publicUrl, logNumber }
    const shown = alerts.map(({ id, kind, key, severity, detail, link, openedAt }) => ({
      id,
      kind,
      key,
      severity,
      detail,
      link,
      url: alertUrl(at, link) ?? link,
      runbook: runbookOf(kind),
      openedAt: isoTime(openedAt),
    }))
    return json({ alerts: shown }, 200, { vary: 'accept' })
  },
})
