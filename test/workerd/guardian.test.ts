/**
 * The Guardian in the real runtime: its alarm, its storage, its door, and what it does when Ψ is low.
 */

import {
  env as testEnv,
  evictDurableObject,
  runDurableObjectAlarm,
  runInDurableObject,
  SELF,
} from 'cloudflare:test'
import { beforeAll, expect, test, vi } from 'vitest'
import { deriveIdentity, signJws, type IdentityKey } from '#core/node-keys.ts'
import { signTelemetry, type SignalName, type Telemetry } from '#core/telemetry.ts'
import type { GuardianView, LearnView, NodeHealth, SeriesView } from '#store/guardian-api.ts'
import { flushCounts, readCounts } from '#store/metrics.ts'
import { nodeOf } from '#store/node.ts'
import { linkOf } from '../../durable-objects/guardian-acts.ts'
import { signals, telemetry } from '../support/telemetry.ts'

interface Alerts {
  readonly alerts: readonly {
    readonly kind: string
    readonly detail: string
    readonly link: string
  }[]
}

const env = testEnv as unknown as Env
const DAY_MS = 86_400_000
let identity: IdentityKey
let nodeDid: string

beforeAll(async () => {
  ;({ identity, nodeDid } = await nodeOf(env))
})

function guardian() {
  return env.GUARDIAN.getByName('node')
}

/** An interval now, whenever it is due. */
async function interval(): Promise<void> {
  await guardian().sweep()
  await runDurableObjectAlarm(guardian() as never)
}

async function get<T>(path: string, status = 200): Promise<T> {
  const answer = await SELF.fetch(`http://node${path}`)
  const text = await answer.text()
  expect(answer.status, text).toBe(status)
  return JSON.parse(text) as T
}

async function own(): Promise<NodeHealth> {
  const { nodes } = await get<GuardianView>('/guardian')
  return nodes.find((node) => node.own)!
}

async function bring(jws: string): Promise<Response> {
  const headers = { 'content-type': 'application/jose' }
  return SELF.fetch('http://node/guardian/telemetry', { method: 'POST', body: jws, headers })
}

/** Brings the next statement of this node, with its own key. */
async function bringNext(more: Partial<Telemetry> = {}): Promise<string> {
  const { lastSeq } = await own()
  const jws = await signTelemetry(identity, telemetry({ nodeDid, seq: lastSeq + 1, ...more }))
  const answer = await bring(jws)
  expect(answer.status, await answer.clone().text()).toBe(202)
  return jws
}

async function refusal(jws: string): Promise<string> {
  const { type } = (await (await bring(jws)).json()) as { type: string }
  return type.replace('/problems/', '')
}

test('before the first interval the view is empty, and looking at it sets the alarm', async () => {
  const view = await get<GuardianView>('/guardian')
  expect(view).toMatchObject({
    nodeDid,
    mode: 'advanced',
    nodes: [],
    swarm: null,
    counts: { accepted: 0 },
  })
  const at = await runInDurableObject(guardian() as never, (_, state) => state.storage.getAlarm())
  expect(at).toBeLessThanOrEqual(Date.now())
  expect(await get<SeriesView>('/guardian/telemetry')).toMatchObject({ nodeDid, points: [] })
})

test('a node says how it does each interval, and its seqs are dense also over an eviction', async () => {
  await interval()
  const first = await own()
  expect(first).toMatchObject({ nodeDid, own: true, stale: false, alarm: null })
  expect(first.sample.psi).toBeGreaterThan(0.9)
  await interval()
  await evictDurableObject(guardian() as never)
  await interval()
  const third = await own()
  expect(third.lastSeq).toBe(first.lastSeq + 2)
  expect(Date.parse(third.lastAt)).toBeGreaterThanOrEqual(Date.parse(first.lastAt))
  expect((await get<GuardianView>('/guardian')).swarm).toMatchObject({ nodes: 1 })
})

test('what a node counted in an interval is in its telemetry, and only that', async () => {
  const signer = await deriveIdentity(new Uint8Array(32).fill(3), 1)
  const event = (id: string) =>
    signJws(signer, 'vm-event+jws', {
      specversion: '1.0',
      id,
      source: signer.did,
      type: 'guardian.test',
      time: new Date().toISOString(),
    })
  await interval()
  for (const body of [await event('counted'), 'e30.e30.e30']) {
    const headers = { 'content-type': 'application/jose', prefer: 'wait=20' }
    await SELF.fetch('http://node/events', { method: 'POST', body, headers })
  }
  // The isolate of the objects stores its counts by itself within a second.
  await vi.waitFor(
    async () => {
      await flushCounts(env)
      const counted = (await readCounts(env)).map(({ name, labels }) => [name, ...labels].join())
      for (const what of ['vaultmesh_events_total,rejected', 'vaultmesh_seal_latency_seconds'])
        expect(counted).toContain(what)
    },
    { timeout: 20_000, interval: 100 },
  )
  await interval()
  const said = new Map((await own()).sample.signals.map(({ name, value }) => [name, value]))
  expect(said.get('intake_rate')).toBeGreaterThan(0)
  // What was refused was wrong, which is no fault of the node.
  expect(said.get('reject_ratio')).toBe(0)
  expect(said.get('seal_retry_ratio')).toBe(0)
  expect(said.get('seal_latency_p50_s')).toBeGreaterThan(0)
  expect(said.get('checkpoint_age_s')).toBe(0)
  await interval()
  const after = new Map((await own()).sample.signals.map(({ name, value }) => [name, value]))
  expect([after.get('intake_rate'), after.get('reject_ratio')]).toEqual([0, 0])
  expect(after.get('seal_latency_p50_s')).toBeNull()
})

test('the same telemetry twice is a replay, a lower seq or an earlier time is out of order', async () => {
  const jws = await bringNext()
  expect(await refusal(jws)).toBe('telemetry-replayed')
  const { lastSeq, lastAt } = await own()
  const lower = telemetry({ nodeDid, seq: lastSeq - 1 })
  expect(await refusal(await signTelemetry(identity, lower))).toBe('telemetry-out-of-order')
  const earlier = telemetry({ nodeDid, seq: lastSeq + 1, at: Date.parse(lastAt) - 1 })
  expect(await refusal(await signTelemetry(identity, earlier))).toBe('telemetry-out-of-order')
  expect((await own()).lastSeq).toBe(lastSeq)
})

test('who comes to the object itself is judged as at the door', async () => {
  const stranger = await deriveIdentity(new Uint8Array(32).fill(77), 1)
  const { lastSeq } = await own()
  const of = (did: string, key: IdentityKey) =>
    signTelemetry(key, telemetry({ nodeDid: did, seq: lastSeq + 1 }))
  const codes: string[] = []
  for (const jws of [
    await of(stranger.did, stranger),
    await of(nodeDid, stranger),
    '{}',
    'a.b.c',
  ]) {
    const answer = await guardian().admit(jws)
    codes.push('refusal' in answer ? answer.refusal.code : 'taken')
  }
  expect(codes).toEqual(['unknown-peer', 'unknown-peer', 'telemetry-unsigned', 'bad-telemetry'])
  // By gossip a peer speaks of itself alone.
  const heard = await guardian().hear(stranger.did, await of(nodeDid, identity))
  expect(heard).toMatchObject({ refusal: { code: 'unknown-peer' } })
})

test('a series has the mean, the least and the greatest of each step, and at most 1,000 steps', async () => {
  await bringNext({ signals: signals({ intake_rate: 10 }) })
  await bringNext({ signals: signals({ intake_rate: 30 }) })
  const to = new Date(Date.now() + 1000).toISOString()
  const day = await get<SeriesView>(`/guardian/telemetry?to=${to}&step=86400`)
  expect(day.points).toHaveLength(1)
  const [point] = day.points
  const { count } = await runInDurableObject(guardian() as never, (_, state) =>
    state.storage.sql.exec<{ count: number }>('SELECT count(*) AS count FROM telemetry').one(),
  )
  expect(point!.samples).toBe(count)
  expect(point!.signals.intake_rate).toMatchObject({ min: 0, max: 30 })
  expect(point!.signals.anchor_lag_btc_s).toBeNull()
  expect(point!.psi.min).toBeLessThanOrEqual(point!.psi.mean)
  const fine = await get<SeriesView>(
    `/guardian/telemetry?to=${to}&from=${new Date(Date.now() - 60_000).toISOString()}&step=1`,
  )
  expect(fine.points.reduce((sum, { samples }) => sum + samples, 0)).toBeLessThanOrEqual(count)
  expect(fine.points.length).toBeGreaterThan(1)
  expect(await get('/guardian/telemetry?step=1', 400)).toMatchObject({ limit: 1000 })
  const stranger = await deriveIdentity(new Uint8Array(32).fill(78), 1)
  await get(`/guardian/telemetry?node=${stranger.did}`, 404)
  await get('/guardian/telemetry?from=2030-01-01T00:00:00Z&to=2029-01-01T00:00:00Z', 400)
})

test('telemetry older than its retention is forgotten, and nothing else', async () => {
  const count = (state: DurableObjectState): number =>
    state.storage.sql.exec<{ n: number }>('SELECT count(*) AS n FROM telemetry').one().n
  const before = await runInDurableObject(guardian() as never, (_, state) => {
    const { sql } = state.storage
    for (const days of [29, 31, 400]) {
      sql.exec(
        `INSERT INTO telemetry (node, at, seq, psi, t_C, t_U, t_Phi, t_H, t_PE, t_M)
         SELECT id, ?, ?, 0.5, 1, 1, 1, 0, 0, 2 FROM nodes`,
        Date.now() - days * DAY_MS,
        days,
      )
    }
    return count(state)
  })
  await evictDurableObject(guardian() as never)
  await interval()
  const after = await runInDurableObject(guardian() as never, (_, state) => count(state))
  // One came, two went.
  expect(after).toBe(before - 1)
})

test('the predictor says what it believes, in the units of the signals', async () => {
  const { order, nodes, providers, cadence } = await get<LearnView>('/guardian/learn')
  const [mine] = nodes
  expect(mine).toMatchObject({ nodeDid, own: true })
  expect(mine!.samples).toBeGreaterThan(5)
  expect(mine!.signals.map(({ name }) => name)).toEqual(order)
  for (const { weights } of mine!.signals) expect(weights).toHaveLength(order.length + 1)
  expect([providers, cadence]).toEqual([[], []])
})

test('low Ψ opens one alert that names its causes, wakes what sleeps, and is told to the log once', async () => {
  await env.DB.prepare(
    `INSERT INTO dead_letters (id, queue, body, received_at)
     SELECT value, 'sealer-dlq', '{}', 0 FROM json_each(?)`,
  )
    .bind(JSON.stringify(Array.from({ length: 500 }, (_, i) => `letter ${i}`)))
    .run()
  for (let i = 0; i < 3; i++) await interval()
  const sick = await own()
  expect(sick.sample.psi).toBeLessThan(sick.threshold)
  expect(sick.alarm).toMatchObject({ reason: 'low-psi' })
  expect(sick.causes[0]!.name).toBe('dead_letters')
  await interval()
  const { alerts } = await get<Alerts>('/alerts')
  const [alert, ...more] = alerts.filter(({ kind }) => kind === 'psi_low')
  expect(more).toEqual([])
  expect(alert!.detail).toMatch(/What costs most: dead_letters is 500, limit 10: costs 0\.\d+/)
  const { log } = await get<{ log: { height: number } }>('/healthz')
  expect(alert!.link).toBe(`/batches/${log.height}`)
  await get(alert!.link)

  const { interventions } = await get<GuardianView>('/guardian')
  expect(interventions).toHaveLength(1)
  expect(interventions[0]).toMatchObject({ nodeDid, kind: 'albedo', reason: 'low-psi' })
  const { eventHash, seq } = interventions[0]!
  await env.SEQUENCER.getByName('log').seal(true)
  const { events } = await get<{ events: readonly object[] }>(
    '/events?type=vm.guardian.intervention',
  )
  expect(events).toEqual([
    expect.objectContaining({ eventHash, eventId: `guardian/${seq}/albedo`, source: identity.did }),
  ])
})

test.each<readonly [readonly SignalName[], string]>([
  [['anchor_lag_btc_s', 'queue_backlog'], '/batches/3'],
  [['anchor_lag_tsa_s'], '/batches/5'],
  [['anchor_lag_evm_s'], '/anchors/status'],
  [['anchor_failure_ratio', 'anchor_lag_tsa_s'], '/batches/3'],
  [['peer_lag', 'anchor_lag_btc_s'], '/federation/peers'],
  [['seal_retry_ratio', 'peer_agreement'], '/batches/9'],
  [[], '/batches/9'],
])('an alert of %j leads to %s', (names, link) => {
  expect(linkOf(names, { height: 9, waiting: { BTC: 3, TSA: 5 } })).toBe(link)
})

test('an alarm closes by itself once Ψ has recovered, and its alert with it', async () => {
  await env.DB.prepare('UPDATE dead_letters SET replayed_at = 1').run()
  let n = 0
  do {
    await interval()
    expect(++n, 'intervals until the alarm closed').toBeLessThan(40)
  } while ((await own()).alarm !== null)
  const { alerts } = await get<Alerts>('/alerts')
  expect(alerts.filter(({ kind }) => kind === 'psi_low')).toEqual([])
  const { counts } = await get<GuardianView>('/guardian')
  expect(counts.interventions).toEqual({ nigredo: 0, albedo: 1 })
})

test('a Guardian that lost its alarm is woken by the minute, and a retired one stays silent', async () => {
  await runInDurableObject(guardian() as never, (_, state) => state.storage.deleteAlarm())
  await guardian().sweep()
  expect(await runDurableObjectAlarm(guardian() as never)).toBe(true)
  const { lastSeq } = await own()
  await guardian().retire()
  await runDurableObjectAlarm(guardian() as never)
  await guardian().sweep()
  expect(await runDurableObjectAlarm(guardian() as never)).toBe(false)
  expect((await own()).lastSeq).toBe(lastSeq)
})
