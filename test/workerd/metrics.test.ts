/**
 * Counters in the real runtime, and /metrics over the whole node: what is counted is shown, once and for good; a
 * source that fails takes nothing with it; the token.
 */

import { env as testEnv, evictDurableObject, runInDurableObject, SELF } from 'cloudflare:test'
import { expect, test, vi } from 'vitest'
import {
  isCountable,
  metrics,
  partsOf,
  seriesOf,
  type MetricName,
  type Series,
} from '#core/metrics.ts'
import { deriveIdentity, signJws } from '#core/node-keys.ts'
import { readSeries } from '#store/gauges.ts'
import { count, flushCounts, observe } from '#store/metrics.ts'
import { nodeOf } from '#store/node.ts'
import { getMetrics } from '../../functions/http/metrics.ts'
import { fetchHandler } from '../../functions/http/app.ts'

const env = testEnv as unknown as Env
const signer = await deriveIdentity(new Uint8Array(32).fill(4), 1)

function event(id: string): Promise<string> {
  return signJws(signer, 'vm-event+jws', {
    specversion: '1.0',
    id,
    source: signer.did,
    type: 'workerd.event',
    time: new Date().toISOString(),
  })
}

function post(body: string, headers: Record<string, string> = {}): Promise<Response> {
  return SELF.fetch('http://node/events', {
    method: 'POST',
    body,
    headers: { 'content-type': 'application/jose', ...headers },
  })
}

const accepted = (n: number): Series =>
  seriesOf('vaultmesh_events_total', { outcome: 'accepted' }, [n])

function counters(name: string) {
  return env.COUNTERS.getByName(name)
}

async function totals(name: string): Promise<Record<string, readonly number[]>> {
  const all: Series[] = await counters(name).read()
  return Object.fromEntries(all.map((one) => [[one.name, ...one.labels].join(' '), one.values]))
}

const ACCEPTED = 'vaultmesh_events_total accepted'

/** Samples by the text before their value. */
async function scrape(): Promise<ReadonlyMap<string, number>> {
  const answer = await SELF.fetch('http://node/metrics')
  expect(answer.status).toBe(200)
  expect(answer.headers.get('content-type')).toBe('text/plain; version=0.0.4; charset=utf-8')
  const text = await answer.text()
  const { nodeDid } = await nodeOf(env)
  const samples = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'))
  return new Map(
    samples.map((line) => {
      expect(line).toContain('{node_did="did:key:')
      const [, name, value] = /^(.*) (\S+)$/.exec(line)!
      const short = name!.replace(`{node_did="${nodeDid}"}`, '')
      return [short.replace(`node_did="${nodeDid}",`, ''), Number(value)]
    }),
  )
}

test('a batch is added once, however often it comes, and sources count apart', async () => {
  const object = counters('once')
  for (let i = 0; i < 3; i++) await object.add('a', 1, [accepted(5)])
  await object.add('a', 2, [accepted(1)])
  // A first copy that arrives after its own repetition, and after the next batch.
  await object.add('a', 1, [accepted(5)])
  await object.add('b', 1, [accepted(10)])
  // An isolate that Counters does not know may have got far before: its table of isolates is bounded.
  await object.add('c', 77, [accepted(100)])
  await object.add('c', 77, [accepted(100)])
  expect(await totals('once')).toEqual({ [ACCEPTED]: [116] })
})

test('totals survive the eviction of the object, and so does what must not be added again', async () => {
  await counters('evicted').add('a', 1, [accepted(5)])
  await evictDurableObject(counters('evicted') as never)
  await counters('evicted').add('a', 1, [accepted(5)])
  expect(await totals('evicted')).toEqual({ [ACCEPTED]: [5] })
  await counters('evicted').add('a', 2, [accepted(2)])
  await evictDurableObject(counters('evicted') as never)
  expect(await totals('evicted')).toEqual({ [ACCEPTED]: [7] })
})

test('a batch that fails on the way is not half added', async () => {
  const object = counters('half')
  await object.add('a', 1, [accepted(1)])
  const failed = await runInDurableObject(object as never, (instance: unknown) => {
    // Known, so it is let in, and no value that SQLite could hold.
    const values = { length: 1, every: () => true, entries: () => [[0, Symbol('no value')]] }
    const broken = { name: 'vaultmesh_problems_total', labels: ['bad-jws'], values }
    const batch = [accepted(1), broken]
    try {
      ;(instance as { add(source: string, seq: number, batch: unknown): void }).add('a', 2, batch)
      return false
    } catch {
      return true
    }
  })
  expect(failed).toBe(true)
  expect(await totals('half')).toEqual({ [ACCEPTED]: [1] })
  await object.add('a', 2, [accepted(1)])
  expect(await totals('half')).toEqual({ [ACCEPTED]: [2] })
})

test('what the catalogue does not have is left out: of a batch, and of what another version stored', async () => {
  const object = counters('versions')
  const strange = [
    { name: 'vaultmesh_nothing', labels: [], values: [1] },
    { name: 'vaultmesh_events_total', labels: ['x"}\n'], values: [1] },
    { name: 'vaultmesh_events_total', labels: ['accepted'], values: [NaN] },
  ] as unknown as Series[]
  await object.add('a', 1, [...strange, accepted(3)])
  await runInDurableObject(object as never, (_: unknown, state: DurableObjectState) => {
    for (const [name, labels, part] of [
      ['vaultmesh_nothing', '[]', 'n'],
      ['toString', '[]', 'n'],
      ['vaultmesh_events_total', '["gone"]', 'n'],
      ['vaultmesh_seal_duration_seconds', '[]', '0.07'],
    ] as const) {
      state.storage.sql.exec('INSERT INTO series VALUES (?, ?, ?, 2)', name, labels, part)
    }
  })
  const found = await totals('versions')
  expect(Object.keys(found).sort()).toEqual([ACCEPTED, 'vaultmesh_seal_duration_seconds'])
  expect(found['vaultmesh_seal_duration_seconds']!.reduce((a, b) => a + b)).toBe(2)
})

test('isolates that can repeat nothing any more are forgotten, and their table is bounded', async () => {
  const object = counters('sources')
  const sources = (): Promise<{ n: number; newest: number }> =>
    runInDurableObject(object as never, (_: unknown, state: DurableObjectState) =>
      state.storage.sql
        .exec<{ n: number; newest: number }>(
          "SELECT count(*) AS n, sum(id = 'newest') AS newest FROM source",
        )
        .one(),
    )
  await runInDurableObject(object as never, (_: unknown, state: DurableObjectState) => {
    const old = Date.now() - 7_200_001
    state.storage.sql.exec(
      `WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)
       INSERT INTO source SELECT 'isolate ' || i, 1, iif(i % 10 = 0, ?1, ?1 + 3600000 + i) FROM n`,
      old,
    )
  })
  expect((await sources()).n).toBe(12_000)
  await object.add('newest', 1, [accepted(1)])
  expect(await sources()).toEqual({ n: 10_000, newest: 1 })
})

test('a flush whose reply was lost, or that never arrived, is repeated as it was', async () => {
  const waiting: Promise<unknown>[] = []
  const ctx = { waitUntil: (promise: Promise<unknown>) => void waiting.push(promise) }
  const sent: { source: string; seq: number; series: Series[] }[] = []
  let fault: 'none' | 'before' | 'after' = 'none'
  const real = counters('lost')
  const add = async (source: string, seq: number, series: Series[]): Promise<void> => {
    sent.push(structuredClone({ source, seq, series }))
    if (fault === 'before') throw new Error('never arrived')
    await real.add(source, seq, series)
    if (fault === 'after') throw new Error('the reply was lost')
  }
  const bound = { ...env, COUNTERS: { getByName: () => ({ add }) } } as unknown as Env
  count(bound, ctx, 'vaultmesh_events_total', { outcome: 'accepted' }, 2)
  // Only the first of a second is carried by its request.
  count(bound, ctx, 'vaultmesh_events_total', { outcome: 'accepted' })
  observe(bound, ctx, 'vaultmesh_event_bytes', {}, 300)
  observe(bound, ctx, 'vaultmesh_event_bytes', {}, Infinity)
  expect(waiting).toHaveLength(1)
  expect(sent).toHaveLength(0)
  for (fault of ['before', 'after'] as const) {
    await flushCounts(bound)
    // Counted while the batch has no answer: it waits for the next.
    count(bound, ctx, 'vaultmesh_seal_retries_total')
  }
  expect(sent[1]).toEqual(sent[0])
  fault = 'none'
  await flushCounts(bound)
  expect(sent.map(({ seq }) => seq)).toEqual([1, 1, 1, 2])
  expect(sent[2]).toEqual(sent[0])
  expect(await totals('lost')).toEqual({
    [ACCEPTED]: [3],
    vaultmesh_event_bytes: [300, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
    vaultmesh_seal_retries_total: [2],
  })
  await Promise.all(waiting)
  expect(sent).toHaveLength(4)
})

test('a value that no list has is not counted, and breaks nothing', async () => {
  const sent: Series[] = []
  const add = async (_source: string, _seq: number, series: Series[]): Promise<void> => {
    sent.push(...series)
  }
  const bound = { ...env, COUNTERS: { getByName: () => ({ add }) } } as unknown as Env
  for (const code of ['x'.repeat(100_000), 'a"} 1\n', 'constructor', '']) {
    count(bound, undefined, 'vaultmesh_problems_total', { code: code as 'bad-jws' })
  }
  count(bound, undefined, 'vaultmesh_problems_total', { code: 'bad-jws' })
  await flushCounts(bound)
  expect(sent.map(({ labels }) => labels)).toEqual([['bad-jws']])
})

test('/metrics shows what came in, what was refused and why, and how the log stands', async () => {
  const before = await scrape()
  const first = await event('metrics 1')
  expect((await post(first)).status).toBe(202)
  expect((await post(first)).status).toBe(200)
  expect((await post('no jws')).status).toBe(400)
  const bulk = `${await event('metrics 2')}\n${first}\nbroken\n`
  expect((await post(bulk, { 'content-type': 'application/x-ndjson' })).status).toBe(200)
  expect((await post(await event('metrics 3'), { prefer: 'wait=20' })).status).toBe(200)
  await SELF.fetch('http://node/nowhere').then((answer) => answer.arrayBuffer())
  // A Pool counts in an isolate of its own, as far as this test can tell: it stores within a second.
  const after = await vi.waitUntil(
    async () => {
      const now = await scrape()
      return (
        now.get('vaultmesh_event_bytes_count') === before.get('vaultmesh_event_bytes_count')! + 3 &&
        now
      )
    },
    { timeout: 20_000, interval: 250 },
  )
  const grew = (name: string): number => after.get(name)! - (before.get(name) ?? 0)
  expect(grew('vaultmesh_events_total{outcome="accepted"}')).toBe(3)
  expect(grew('vaultmesh_events_total{outcome="duplicate"}')).toBe(2)
  expect(grew('vaultmesh_events_total{outcome="rejected"}')).toBe(2)
  expect(grew('vaultmesh_problems_total{code="bad-jws"}')).toBe(2)
  expect(grew('vaultmesh_problems_total{code="not-found"}')).toBe(1)
  expect(grew('vaultmesh_event_bytes_count')).toBe(3)
  expect(after.get('vaultmesh_log_size')).toBeGreaterThanOrEqual(1)
  expect(after.get('vaultmesh_log_height')).toBe(
    grew('vaultmesh_seal_batches_total{outcome="sealed"}') + before.get('vaultmesh_log_height')!,
  )
  const sealedAt = after.get('vaultmesh_checkpoint_timestamp_seconds')!
  expect(Math.abs(sealedAt - Date.now() / 1000)).toBeLessThan(60)
  expect(after.get('vaultmesh_build_info{version="0.1.0"}')).toBe(1)
  // Nothing was said of a rail or a federation that this node does not have.
  for (const name of after.keys()) expect(name).not.toMatch(/anchor_lag|federation_peers/)
  for (const [name, value] of after) {
    if (name.startsWith('vaultmesh_scrape_errors')) expect(value, name).toBe(0)
  }
})

test('whatever clients send, what is stored are series of the catalogue', async () => {
  const hostile = ['"', '\\', '\n', '"} 1\nvaultmesh_psi{x="', 'é\u0000', 'x'.repeat(5000)]
  for (const text of hostile) {
    const name = encodeURIComponent(text)
    const asked = [
      SELF.fetch(`http://node/${name}`),
      SELF.fetch(`http://node/problems/${name}`),
      SELF.fetch(`http://node/events?type=${name}&cursor=${name}`),
      SELF.fetch('http://node/events', {
        method: 'POST',
        body: text,
        headers: { 'content-type': `a/${name}` },
      }),
      SELF.fetch('http://node/guardian/telemetry', { method: 'POST', body: text }),
      SELF.fetch('http://node/federation/gossip', { method: 'POST', body: text }),
      post(`${text}\n{"event":${JSON.stringify(text)}}`, {
        'content-type': 'application/x-ndjson',
      }),
    ]
    for (const answer of await Promise.all(asked)) await answer.arrayBuffer()
  }
  await scrape()
  const stored = await runInDurableObject(
    counters('node') as never,
    (_: unknown, { storage }: DurableObjectState) =>
      storage.sql
        .exec<{ name: MetricName; labels: string }>('SELECT DISTINCT name, labels FROM series')
        .toArray(),
  )
  expect(stored.length).toBeGreaterThan(5)
  for (const { name, labels } of stored) {
    const values = partsOf(name).map(() => 0)
    expect(isCountable({ name, labels: JSON.parse(labels) as string[], values })).toBe(true)
  }
})

test('a source that fails is left out and named; the others are shown', async () => {
  const node = await nodeOf(env)
  const broken = {
    getByName: () => {
      throw new Error('down')
    },
  }
  const ofIndex =
    /^vaultmesh_(?:anchor_|suffering|dead_letters_open|alerts_open|alerted|wallet|tsa)/
  const cases: [Partial<Record<keyof Env, unknown>>, string[], (name: MetricName) => boolean][] = [
    [
      { SEQUENCER: broken },
      ['pools', 'sequencer'],
      (name) => /_log_|_checkpoint_|_pool_|_overdue/.test(name),
    ],
    [{ COUNTERS: broken }, ['counters'], (name) => metrics[name].type !== 'gauge'],
    [{ FEDERATION: broken }, ['federation'], () => false],
    [{ GUARDIAN: broken }, ['guardian', 'telemetry'], (name) => /psi|guardian_alarm/.test(name)],
    [
      { DB: { prepare: broken.getByName, batch: broken.getByName } },
      ['alerts', 'anchors', 'authorities', 'dead_letters', 'wallets'],
      (name) => ofIndex.test(name),
    ],
  ]
  const namesOf = (series: readonly Series[]) => new Set(series.map(({ name }) => name))
  const all = namesOf(await readSeries(env, node, Date.now()))
  for (const [bindings, failed, belongs] of cases) {
    const series = await readSeries({ ...env, ...bindings } as Env, node, Date.now())
    const errors = series.filter(({ name }) => name === 'vaultmesh_scrape_errors')
    expect(
      errors
        .filter(({ values }) => values[0] === 1)
        .map(({ labels }) => labels[0])
        .sort(),
    ).toEqual(failed)
    expect(errors).toHaveLength(11)
    const shown = namesOf(series)
    const gauges = [...all].filter(
      (name) => metrics[name].type === 'gauge' || 'COUNTERS' in bindings,
    )
    for (const name of gauges)
      expect(shown.has(name), `${name} without ${failed.join()}`).toBe(!belongs(name))
  }
})

test('a federation is shown by what its peers are, and what was refused of them', async () => {
  const federation = env.FEDERATION.getByName('node')
  const { did } = await deriveIdentity(new Uint8Array(32).fill(8), 1)
  expect(await federation.apply(`peers_allowlist: ["${did}"]\n`)).toEqual({ peers: 1 })
  const refused = await SELF.fetch('http://node/federation/gossip', { method: 'POST', body: 'x' })
  const { type } = (await refused.json()) as { type: string }
  const code = type.replace('/problems/', '')
  const name = `vaultmesh_federation_refusals_total{code="${code}"}`
  // Told to the object a second later.
  const shown = await vi.waitUntil(
    async () => {
      const now = await scrape()
      return now.has(name) && now
    },
    { timeout: 20_000, interval: 250 },
  )
  // The hostile bodies above are among them.
  expect(shown.get(name)).toBeGreaterThanOrEqual(1)
  expect(shown.get('vaultmesh_federation_peers{state="no-address"}')).toBe(1)
  expect(shown.get('vaultmesh_federation_peers{state="ok"}')).toBe(0)
  expect(shown.get('vaultmesh_federation_conflicts')).toBe(0)
  expect(shown.get('vaultmesh_federation_quarantined_roots')).toBe(0)
  await federation.apply(null)
  expect([...(await scrape()).keys()].filter((one) => one.includes('federation_peers'))).toEqual([])
})

test('with METRICS_TOKEN the page opens to its bearer and to the operator, and to nobody else', async () => {
  const ctx = { waitUntil: () => undefined, passThroughOnException: () => undefined }
  const ask = async (vars: Partial<Env>, authorization?: string): Promise<Response> =>
    fetchHandler(
      new Request('http://node/metrics', {
        headers: authorization === undefined ? {} : { authorization },
      }),
      { ...env, ...vars } as Env,
      ctx as unknown as ExecutionContext,
    )
  const status = async (...args: Parameters<typeof ask>): Promise<number> => {
    const answer = await ask(...args)
    await answer.arrayBuffer()
    return answer.status
  }
  expect(getMetrics.internal).not.toBe(true)
  expect(await status({ METRICS_TOKEN: '' })).toBe(200)
  // The operator's token alone closes nothing.
  expect(await status({ ADMIN_TOKEN: 'root' })).toBe(200)
  const both = { METRICS_TOKEN: 'scrape', ADMIN_TOKEN: 'root' }
  expect(await status(both, 'Bearer scrape')).toBe(200)
  expect(await status(both, 'Bearer root')).toBe(200)
  for (const given of [undefined, 'Bearer ', 'Bearer scrap', 'Basic scrape', 'scrape', 'Bearer ']) {
    expect(await status(both, given), String(given)).toBe(401)
  }
  expect(await status({ METRICS_TOKEN: 'scrape', ADMIN_TOKEN: '' }, 'Bearer ')).toBe(401)
  const refused = await ask(both)
  expect(refused.headers.get('content-type')).toBe('application/problem+json')
  expect(refused.headers.get('www-authenticate')).toBe('Bearer')
  expect(await refused.json()).toMatchObject({ type: '/problems/unauthorized', status: 401 })
})
