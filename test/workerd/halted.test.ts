/**
 * A log that was ended because it forked: it takes and seals nothing more, and gives out what it never sealed.
 */

import { env as testEnv, SELF } from 'cloudflare:test'
import { expect, test } from 'vitest'
import { deriveIdentity, signJws } from '#core/node-keys.ts'
import { nodeOf } from '#store/node.ts'
import type { Route } from '../../functions/http/route.ts'
import { getEvidence, getStanding, getUnsealed, postOpen } from '../../functions/http/succession.ts'

const env = testEnv as unknown as Env
const signer = await deriveIdentity(new Uint8Array(32).fill(3), 1)

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

async function ask<T>(route: Route, query: object, body?: string): Promise<T> {
  const url = new URL(`http://node${route.path}`)
  const init = { method: route.method, headers: { authorization: 'Bearer secret' }, body }
  const response = await route.handle({
    request: new Request(url, init as RequestInit),
    env: { ...env, ADMIN_TOKEN: 'secret' },
    ctx: { waitUntil: () => undefined },
    node: await nodeOf(env),
    url,
    requestId: 'test',
    params: {},
    query,
  })
  return (await response.json()) as T
}

test('an ended log takes nothing, seals nothing, and gives out what waits in its pools', async () => {
  const log = env.SEQUENCER.getByName('log')
  const first = await post(await event('sealed'), { prefer: 'wait=20' })
  expect(first.status).toBe(200)
  await expect(ask(getUnsealed, { shard: 0, from: 0 })).rejects.toMatchObject({
    code: 'overloaded',
  })
  expect(await ask(getStanding, {})).toMatchObject({ number: 1, halted: null, settled: false })

  const waiting = await Promise.all(Array.from({ length: 20 }, (_, i) => event(`waiting ${i}`)))
  for (const jws of waiting) expect((await post(jws)).status).toBe(202)
  await log.halt('two histories')
  const { height, size } = await log.head()

  for (const headers of [{}, { prefer: 'respond-async' }, { prefer: 'wait=1' }]) {
    const answer = await post(await event('late'), headers as Record<string, string>)
    expect(answer.status).toBe(503)
    expect(answer.headers.get('retry-after')).toBe('5')
    expect(await answer.json()).toMatchObject({ type: '/problems/log-forked' })
  }
  const bulk = await post(await event('late'), { 'content-type': 'application/x-ndjson' })
  expect(await bulk.json()).toMatchObject({
    results: [{ line: 1, problem: { type: '/problems/log-forked' } }],
  })

  // Longer than a batch may wait: nothing is due any more.
  await scheduler.wait(1200)
  await log.sweep()
  expect(await log.seal()).toMatchObject({ batches: 0 })
  // Taken here: an RPC's promise that rejects twice is one too many for the runtime.
  const refused = await log.seal(true).then(
    () => null,
    (error: unknown) => error,
  )
  expect(refused).toMatchObject({ message: 'two histories' })
  expect(await log.head()).toMatchObject({ height, size })

  expect(await ask(getStanding, {})).toMatchObject({
    number: 1,
    halted: 'two histories',
    settled: true,
    height,
    unchecked: 0,
  })
  const given: string[] = []
  for (const shard of [0, 1]) {
    for (let from = 0, more = true; more;) {
      const page = await ask<{ events: string[]; next: number; more: boolean }>(getUnsealed, {
        shard,
        from,
      })
      given.push(...page.events)
      ;({ next: from, more } = page)
    }
  }
  // Some may have been sealed before the end.
  expect(given.length).toBe(1 + waiting.length - size)
  expect(waiting).toEqual(expect.arrayContaining(given))
})

test('what a first log cannot do is refused: to open itself, and to show evidence without a fork', async () => {
  await expect(ask(postOpen, {}, await event('evidence'))).rejects.toMatchObject({
    code: 'bad-request',
  })
  await expect(ask(getEvidence, {})).rejects.toMatchObject({ code: 'no-federation' })
})
