/**
 * A real Prometheus and a real Alertmanager look after a running node with the files of config/, only faster: when its
 * timestamp authority falls out, or its seals fail, Ψ falls, the pager is called within two evaluations, the link in the
 * call leads to the batch and the receipts that suffer, and all of it is over by itself when the outage is. The node
 * tells Alertmanager and a webhook of its own accord, too.
 */

import { createPublicKey, verify } from 'node:crypto'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { onPath } from '../../scripts/devnet/child.ts'
import { startFaultProxy, type FaultProxy } from '../../scripts/devnet/fault-proxy.ts'
import { startTsa, type Tsa } from '../../scripts/devnet/tsa.ts'
import {
  monitoringAbsence,
  startAlertmanager,
  startPager,
  startPrometheus,
  type Called,
  type Pager,
  type Started,
} from '../../scripts/lab/monitoring.ts'
import { startNode, type RunningNode } from '../../scripts/selfhost.ts'
import { signEvent, testSigner } from '../support/signing.ts'
import { absent } from './devnet-support.ts'
import { freePort, sandbox } from './support.ts'

const isAbsent = absent(
  monitoringAbsence() ?? (onPath('openssl') === null ? 'openssl is not installed' : null),
)

/** Slow against the three low samples that the Guardian wants and a scrape, so that two of them say something. */
const EVALUATION_S = 3
const TOKEN = 'm3trics'
const WAIT = { timeout: 25_000, interval: 100 }

interface BatchReceipts {
  readonly status: string
  readonly missing: readonly string[]
  readonly receipts: readonly { readonly eventHash: string; readonly links: { receipt: string } }[]
}

let box: Awaited<ReturnType<typeof sandbox>>
let tsa: Tsa
let proxy: FaultProxy
let node: RunningNode
let pager: Pager
let alertmanager: Started
let prometheus: Started

const signer = testSigner('EdDSA', 'monitoring')

async function startVaultMesh(hooks: string): Promise<void> {
  tsa = await startTsa({ dir: join(box.dir, 'tsa'), port: 0 })
  proxy = await startFaultProxy({ target: tsa.url })
  const url = new URL(tsa.url)
  url.port = String(proxy.port)
  node = await startNode({
    home: join(box.dir, 'home'),
    port: await freePort(),
    // Ticked by hand: the minute is too long to wait for, and none of this may need it.
    cron: false,
    log: () => undefined,
    tsa: { urls: url.href, rootsPem: tsa.rootPem },
    vars: {
      ORIGIN: 'monitoring.test/log',
      NODE_ID: 'watched',
      SEAL_BATCH_MAX_INTERVAL_MS: '200',
      ANCHOR_TSA_INTERVAL_MS: '300',
      GUARDIAN_INTERVAL_MS: '200',
      METRICS_TOKEN: TOKEN,
      ALERTMANAGER_URL: alertmanager.url,
      ALERT_WEBHOOK_URL: `${hooks}/node`,
    },
  })
  await node.host.tick()
}

beforeAll(async () => {
  if (isAbsent) return
  box = await sandbox()
  pager = await startPager()
  alertmanager = await startAlertmanager(join(box.dir, 'am'), pager.url)
  await startVaultMesh(pager.url)
  prometheus = await startPrometheus(join(box.dir, 'prom'), {
    target: node.url,
    token: TOKEN,
    alertmanager: alertmanager.url,
    evaluationS: EVALUATION_S,
  })
}, 60_000)

afterAll(async () => {
  await node?.stop()
  await prometheus?.stop()
  await alertmanager?.stop()
  await proxy?.stop()
  await tsa?.stop()
  await pager?.stop()
  await box?.remove()
}, 30_000)

/** Posts an event and returns its hash once it is sealed. */
async function post(): Promise<string> {
  const answer = await fetch(`${node.url}/events`, {
    method: 'POST',
    headers: { 'content-type': 'application/jose', prefer: 'wait=10' },
    body: signEvent(signer),
  })
  expect(answer.status).toBe(200)
  return ((await answer.json()) as { eventHash: string }).eventHash
}

async function get<T>(url: string): Promise<T> {
  const answer = await fetch(url)
  expect(answer.status, url).toBe(200)
  return (await answer.json()) as T
}

async function statusOf(eventHash: string): Promise<string> {
  return (await get<{ status: string }>(`${node.url}/receipts/${eventHash}`)).status
}

/** Series of an expression over the last minute, as [seconds, value] each. */
async function history(expr: string): Promise<[number, number][]> {
  const end = Date.now() / 1000
  const query = new URLSearchParams({
    query: expr,
    start: String(end - 60),
    end: String(end),
    step: '0.25',
  })
  const { data } = await get<{ data: { result: { values: [number, string][] }[] } }>(
    `${prometheus.url}/api/v1/query_range?${query.toString()}`,
  )
  return data.result.flatMap(({ values }) =>
    values.map(([at, v]) => [at, Number(v)] as [number, number]),
  )
}

const isPsiLow = ({ labels, status }: Called, how: string, by: string) =>
  labels['alertname'] === 'PsiLow' && status === how && labels['told_by'] === by
const callOf = (how: Called['status'], by: string) => pager.called.find((c) => isPsiLow(c, how, by))
const notice = (type: string) =>
  pager.notices.find(({ body }) => body.type === type && body.data.kind === 'psi_low')

/** The alert of a teller that Alertmanager has as active now. */
async function active(by: string): Promise<Called | undefined> {
  const all = await get<Called[]>(`${alertmanager.url}/api/v2/alerts?active=true`)
  return all.find(({ labels }) => labels['alertname'] === 'PsiLow' && labels['told_by'] === by)
}

/** Seconds by Prometheus' own clock from the first scrape with a low Ψ to the evaluation that made the alert. */
async function secondsToFire(): Promise<number> {
  const low = await history('psi_field_density < on (node_did) vaultmesh_psi_threshold')
  const firedAt = Date.parse(callOf('firing', 'prometheus')!.startsAt) / 1000
  const first = low.findLast(([at], i) => at <= firedAt && at - (low[i - 1]?.[0] ?? 0) > 1)
  return firedAt - first![0]
}

describe.skipIf(isAbsent)('an outage of the timestamp authority', () => {
  let suffering = ''
  let well = ''

  test('finds a healthy node: Prometheus scrapes it with its token, Ψ is high and nothing fires', async () => {
    well = await post()
    await expect.poll(() => statusOf(well), WAIT).toBe('final')
    await expect
      .poll(async () => (await history('psi_field_density > 0.9')).length, WAIT)
      .toBeGreaterThan(8)
    expect((await fetch(`${node.url}/metrics`)).status).toBe(401)
    expect(pager.called).toEqual([])
    expect(pager.notices).toEqual([])
  }, 60_000)

  test('calls the pager within two evaluations of Ψ being low', async () => {
    await proxy.setFault('down')
    suffering = await post()
    await expect.poll(() => callOf('firing', 'prometheus'), WAIT).toBeDefined()
    expect(await secondsToFire()).toBeLessThanOrEqual(2 * EVALUATION_S)
  }, 60_000)

  test('is told by the node itself to Alertmanager and to a webhook whose signature verifies', async () => {
    await expect.poll(() => active('node'), WAIT).toBeDefined()
    await expect.poll(() => notice('alert.opened'), WAIT).toBeDefined()
    const { headers, text } = notice('alert.opened')!
    const { webhook_key: key } = await get<{ webhook_key: string }>(
      `${node.url}/.well-known/vaultmesh.json`,
    )
    const x = Buffer.from(key.replace('whpk_', ''), 'base64').toString('base64url')
    const publicKey = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' })
    const signed = `${headers['webhook-id'] as string}.${headers['webhook-timestamp'] as string}.${text}`
    const [version, signature] = (headers['webhook-signature'] as string).split(',')
    expect(version).toBe('v1a')
    expect(verify(null, Buffer.from(signed), publicKey, Buffer.from(signature!, 'base64'))).toBe(
      true,
    )
  }, 60_000)

  test('links to the batch that suffers, and from there to the receipts that wait with it', async () => {
    const links = [
      callOf('firing', 'prometheus')!.annotations['drilldown']!,
      (await active('node'))!.annotations['drilldown']!,
      notice('alert.opened')!.body.data.url,
      (await get<{ alerts: { kind: string; url: string }[] }>(`${node.url}/alerts`)).alerts.find(
        ({ kind }) => kind === 'psi_low',
      )!.url,
    ]
    for (const link of links) {
      const batch = await get<{ height: number; links: { receipts: string; events: string } }>(link)
      const page = await get<BatchReceipts>(node.url + batch.links.receipts)
      expect(page).toMatchObject({ status: 'sealed', missing: ['TSA'] })
      expect(page.receipts.map(({ eventHash }) => eventHash)).toContain(suffering)
      const [first] = page.receipts
      expect(await get<{ status: string }>(node.url + first!.links.receipt)).toMatchObject({
        status: 'sealed',
      })
      expect(await (await fetch(node.url + batch.links.events)).text()).toContain('.')
    }
    expect(await statusOf(well)).toBe('final')
  }, 60_000)

  test('is over by itself when the authority is back: the pager, Alertmanager and the webhook are told', async () => {
    await proxy.setFault('ok')
    // The job under way waits half a minute for its next attempt; a newer root covers its own and is tried at once.
    await post()
    await expect.poll(() => statusOf(suffering), WAIT).toBe('final')
    await expect.poll(() => callOf('resolved', 'prometheus'), WAIT).toBeDefined()
    await expect.poll(() => callOf('resolved', 'node'), WAIT).toBeDefined()
    await expect.poll(() => notice('alert.resolved'), WAIT).toBeDefined()
    expect(await active('prometheus')).toBeUndefined()
    expect(await active('node')).toBeUndefined()
    const [opened, resolved] = [notice('alert.opened')!, notice('alert.resolved')!]
    expect(resolved.body.data.id).toBe(opened.body.data.id)
    expect(resolved.headers['webhook-id']).not.toBe(opened.headers['webhook-id'])
  }, 60_000)
})

describe.skipIf(isAbsent)('seals that fail', () => {
  test('call the pager, link to the newest batch there is, and are over with the seal that comes', async () => {
    const before = await post()
    await expect.poll(() => statusOf(before), WAIT).toBe('final')
    pager.called.length = 0
    pager.notices.length = 0
    const db = await node.host.miniflare.getD1Database('DB')
    await db.exec(
      `CREATE TRIGGER outage BEFORE INSERT ON batches BEGIN SELECT RAISE(ABORT, 'the disk is full'); END`,
    )
    const answer = await fetch(`${node.url}/events`, {
      method: 'POST',
      headers: { 'content-type': 'application/jose' },
      body: signEvent(signer),
    })
    expect(answer.status).toBe(202)
    const { eventHash } = (await answer.json()) as { eventHash: string }
    await expect.poll(() => callOf('firing', 'prometheus'), WAIT).toBeDefined()
    await expect.poll(() => notice('alert.opened'), WAIT).toBeDefined()
    expect(await secondsToFire()).toBeLessThanOrEqual(2 * EVALUATION_S)
    const { log } = await get<{ log: { height: number } }>(`${node.url}/healthz`)
    const { url } = notice('alert.opened')!.body.data
    expect(await get<{ height: number }>(url)).toMatchObject({ height: log.height })

    await db.exec('DROP TRIGGER outage')
    // A share of attempts heals by attempts: a node that goes on being used.
    const used = async () => {
      await post()
      return callOf('resolved', 'prometheus')
    }
    await expect.poll(used, WAIT).toBeDefined()
    await expect.poll(() => notice('alert.resolved'), WAIT).toBeDefined()
    await expect.poll(() => statusOf(eventHash), WAIT).toBe('final')
  }, 60_000)
})
