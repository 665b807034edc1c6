/**
 * What readers may ask of the rest of a node: how often the Sequencer, and in which order the stores. And the
 * answer to a preflight.
 */

import { env as testEnv } from 'cloudflare:test'
import { expect, test } from 'vitest'
import { fromHex } from '#core/bytes.ts'
import { nodeOf } from '#store/node.ts'
import { openToAll, preflight } from '../../functions/http/cors.ts'
import { getEvent, getEventStatus } from '../../functions/http/events.ts'
import { currentHead, getConsistencyProof, getInclusionProof } from '../../functions/http/log.ts'
import type { Route } from '../../functions/http/route.ts'

const env = testEnv as unknown as Env

/** The node with some bindings replaced. */
function withBindings(bindings: Partial<Record<keyof Env, unknown>>): Env {
  return { ...env, ...bindings } as Env
}

/** A Sequencer that counts who asks, and answers after a moment. */
function countedHead(size: () => number) {
  const asked = { n: 0 }
  const head = async () => {
    asked.n++
    const at = size()
    await scheduler.wait(5)
    return { height: at, size: at, root: '', checkpoint: 'note', sealedAt: 0, indexedHeight: at }
  }
  return { asked, SEQUENCER: { getByName: () => ({ head }) } }
}

async function call(
  route: Route,
  bound: Env,
  query: object,
  params: object = {},
): Promise<Response> {
  return route.handle({
    request: new Request('http://node/'),
    env: bound,
    ctx: { waitUntil: () => undefined },
    node: await nodeOf(env),
    url: new URL('http://node/'),
    requestId: 'test',
    params,
    query,
  })
}

const code = (error: unknown): unknown => (error as { code?: unknown }).code

test('a size that nobody has makes the Sequencer speak at most once in 50 ms, whoever asks', async () => {
  const { asked, SEQUENCER } = countedHead(() => 4)
  const bound = withBindings({ SEQUENCER })
  await currentHead(bound)
  expect(asked.n).toBe(1)
  const startedAt = Date.now()
  const huge = { index: 9_007_199_254_740_990 }
  for (let round = 0; round < 5; round++) {
    const answers = await Promise.allSettled([
      ...Array.from({ length: 20 }, () => call(getInclusionProof, bound, huge)),
      ...Array.from({ length: 20 }, () =>
        call(getConsistencyProof, bound, { from: 1, to: huge.index }),
      ),
    ])
    for (const answer of answers)
      expect(answer.status === 'rejected' && code(answer.reason)).toBe('no-such-size')
  }
  expect(asked.n).toBeLessThanOrEqual(2 + Math.ceil((Date.now() - startedAt) / 50))
})

test('a size that came to be a moment ago is found, though somebody has just asked for another', async () => {
  let size = 4
  const { SEQUENCER } = countedHead(() => size)
  const bound = withBindings({ SEQUENCER })
  await currentHead(bound)
  await call(getConsistencyProof, bound, { from: 1, to: 99 }).catch(() => undefined)
  size = 5
  const answer = await call(getConsistencyProof, bound, { from: 5, to: 5 })
  expect(((await answer.json()) as { to: number }).to).toBe(5)
})

test('a head is never older than one given out before, though answers overtake one another', async () => {
  const sizes = [7, 3]
  const { SEQUENCER } = countedHead(() => sizes.shift() ?? 3)
  const bound = withBindings({ SEQUENCER })
  expect((await currentHead(bound)).size).toBe(7)
  expect((await currentHead(bound, 8)).size).toBe(7)
})

test('an event that is sealed and forgotten between two looks is no 404', async () => {
  const hash = 'ab'.repeat(32)
  const row = {
    hash,
    leafIndex: 0,
    height: 1,
    part: 0,
    offset: 0,
    length: 3,
    eventId: 'e',
    source: 's',
  }
  const batch = { treeSize: 1, root: hash, checkpoint: '', sealedAt: 0 }
  const pool = { bytes: async () => null, status: async () => null }
  for (const [route, expected] of [
    [getEvent, 'a.b'],
    [getEventStatus, '"sealed"'],
  ] as const) {
    let looks = 0
    const found = () => (looks++ === 0 ? [] : [{ ...row, ...batch }])
    const statement = { bind: () => statement, all: async () => ({ results: found() }) }
    const bound = withBindings({
      DB: { prepare: () => statement, batch: async () => [{ results: [] }, { results: [] }] },
      POOL: { getByName: () => pool },
      BUCKET: { get: async () => new Response('a.b') },
    })
    const answer = await call(route, bound, {}, { eventHash: fromHex(hash) })
    // Not text(): workerd warns of a body that is no text by its type.
    expect(new TextDecoder().decode(await answer.arrayBuffer())).toContain(expected)
    expect(looks).toBe(2)
  }
})

test('an event that the index holds is not read from R2 for one who has it', async () => {
  const hash = 'ab'.repeat(32)
  const row = { hash, leafIndex: 0, height: 1, part: 0, offset: 0, length: 3, treeSize: 1 }
  const statement = { bind: () => statement, all: async () => ({ results: [row] }) }
  const bound = withBindings({
    DB: { prepare: () => statement },
    BUCKET: {
      get: () => {
        throw new Error('R2 was read')
      },
    },
  })
  const request = new Request('http://node/', {
    headers: { 'if-none-match': `W/"sha256:${hash}"` },
  })
  const answer = await getEvent.handle({
    request,
    env: bound,
    ctx: { waitUntil: () => undefined },
    node: await nodeOf(env),
    url: new URL(request.url),
    requestId: 'test',
    params: { eventHash: fromHex(hash) },
    query: {},
  })
  expect(answer.status).toBe(304)
})

test('a preflight says what a page may do, and a plain OPTIONS the methods alone', () => {
  const asks = { origin: 'https://page.example', 'access-control-request-method': 'POST' }
  const answer = preflight(
    new Request('http://node/events', { method: 'OPTIONS', headers: asks }),
    ['GET', 'HEAD', 'POST'],
  )
  expect(answer.status).toBe(204)
  expect(Object.fromEntries(answer.headers)).toMatchObject({
    'access-control-allow-origin': '*',
    'access-control-allow-methods': 'GET, HEAD, POST',
    'access-control-allow-headers': expect.stringContaining('content-type'),
    'access-control-max-age': '86400',
    allow: 'GET, HEAD, POST, OPTIONS',
  })
  expect(answer.headers.get('access-control-allow-credentials')).toBeNull()
  const plain = preflight(new Request('http://node/events', { method: 'OPTIONS' }), ['GET'])
  expect(plain.headers.get('allow')).toBe('GET, OPTIONS')
  expect(plain.headers.has('access-control-allow-methods')).toBe(false)
  expect(openToAll(new Response()).headers.get('access-control-allow-origin')).toBe('*')
})
