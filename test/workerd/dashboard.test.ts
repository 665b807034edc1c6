/**
 * The pages in the real runtime: what their reads cost however long the log is, and that nothing a stranger wrote
 * becomes part of a page.
 */

import { env as testEnv } from 'cloudflare:test'
import { beforeAll, expect, test } from 'vitest'
import { createSigner, sign } from '../../functions/sdk.ts'
import worker from '../../functions/worker.ts'
import { D1Meter } from '../../scripts/bench/d1-meter.ts'
import { nodeOf } from '#store/node.ts'
import {
  alertsOpen,
  alertsOver,
  batchesOfRoot,
  batchLines,
  coverages,
  deadLettersByQueue,
  eventOfHash,
  eventsOfHead,
  eventsOfLeaves,
  namesLike,
  newestReceipts,
  openJobs,
  readAll,
  receiptsOfRoot,
  receiptsOfTx,
  standingOf,
} from '#store/dashboard.ts'
import { openSession } from '#store/sessions.ts'

const ORIGIN = 'http://127.0.0.1:7077'
/** The node with sign-in, whose provider nobody asks here. */
const env = {
  ...(testEnv as unknown as Env),
  PUBLIC_URL: ORIGIN,
  OIDC_ISSUER: 'http://127.0.0.1:1',
  OIDC_CLIENT_ID: 'test',
  OIDC_CLIENT_SECRET: 'test',
  OIDC_ALLOW_HTTP: '1',
  OIDC_ROLE_MAP: 'v=viewer,o=operator,a=admin',
} as Env
const { DB } = env

/** Far above what the real log of this file reaches. */
const FIRST = 1000
const ROWS = 40_000
const BATCH = 500
const BATCHES = ROWS / BATCH
const HASH = `${'0'.repeat(14)}${'7'.repeat(50)}`

/** As far as pages look into one. */
const RECEIPT = {
  txHash: 'a'.repeat(64),
  treeSize: 1,
  anchorTs: '2026-11-23T10:44:31.000Z',
  observedAt: '2026-11-23T10:45:31.000Z',
  proof: { type: 'bitcoin' },
}

beforeAll(async () => {
  // D1 binds numbers as reals.
  const series =
    'WITH RECURSIVE c(i) AS (SELECT CAST(?1 AS INTEGER) UNION ALL SELECT i + 1 FROM c WHERE i < ?2)'
  const one = (sql: string, ...binds: unknown[]) => DB.prepare(sql).bind(...binds)
  await DB.batch([
    one(
      "INSERT INTO names (id, kind, name) VALUES (901, 'source', 'did:key:z6MkA'), (902, 'type', 'com.example.a'), (903, 'type', 'com.example.ab'), (904, 'type', 'com.exemplar')",
    ),
    one(
      `${series} INSERT INTO events (leaf_index, hash_key, event_hash, event_id, source_id, type_id, subject, time_at, height, part, offset, length)
       SELECT i, (i - ${FIRST}) << 30, unhex(printf('%014x', (i - ${FIRST}) << 33) || '${'7'.repeat(50)}'), 'id' || i, 901, 902, 's', i, 10 + (i - ${FIRST}) / ${BATCH}, 0, 0, 1 FROM c`,
      FIRST,
      FIRST + ROWS - 1,
    ),
    one(
      `${series} INSERT INTO batches (height, first_index, count, tree_size, root, sealed_at, manifest, checkpoint, parts, committed)
       SELECT i, ${FIRST} + (i - 10) * ${BATCH}, ${BATCH}, ${FIRST} + (i - 9) * ${BATCH}, printf('%064x', i), 0, '', '', 1, i < ?2 FROM c`,
      10,
      10 + BATCHES - 1,
    ),
    one("INSERT INTO rails VALUES ('BTC', 'regtest', 'tx'), ('TSA', 'a.example', 'rfc3161')"),
    ...['BTC/regtest/tx', 'TSA/a.example/rfc3161'].map((rail) =>
      one(
        `INSERT INTO receipts (root, tree_size, chain, network, method, tx_hash, anchor_at, json)
         SELECT root, tree_size, ?1, ?2, ?3, printf('%064x', height + 4096), 7, ?5 FROM batches WHERE height >= 10 AND height < ?4`,
        ...rail.split('/'),
        10 + (rail.startsWith('BTC') ? 40 : 60),
        JSON.stringify({ ...RECEIPT, chain: rail.slice(0, 3), network: rail.split('/')[1] }),
      ),
    ),
    one(
      `INSERT INTO anchors (root, tree_size, chain, network, method, state, next_at, created_at, updated_at)
       SELECT root, tree_size, 'BTC', 'regtest', 'tx', iif(height = 60, 'held', 'final'), 0, 0, 0 FROM batches WHERE height >= 10`,
    ),
    one(
      `${series} INSERT INTO alerts (kind, key, severity, detail, link, opened_at, cleared_at) SELECT 'k', i, 'warning', 'd', '/x', i, iif(i % 1000, i, NULL) FROM c`,
      1,
      5000,
    ),
    one(
      `${series} INSERT INTO dead_letters SELECT 'l' || i, 'anchor-dlq', '{}', i, iif(i % 1000, i, NULL) FROM c`,
      1,
      5000,
    ),
  ])
}, 60_000)

test.each([
  ['the newest batches', { read: batchLines({ below: 1e9, limit: 50 }) }, 55],
  ['the batches of a root', { read: batchesOfRoot('0'.repeat(62) + '1e') }, 2],
  ['how far each rail has come', { read: coverages }, 12],
  ['the jobs under way', { read: openJobs }, 2],
  ['the open alerts', { read: alertsOpen }, 12],
  ['the alerts that are over', { read: alertsOver({ below: 1e9, limit: 50 }) }, 55],
  ['the dead letters', { read: deadLettersByQueue }, 12],
  ['an event by its hash', { read: eventOfHash(HASH) }, 6],
  ['events by the head of a hash', { read: eventsOfHead('000000', 25) }, 130],
  ['events of leaves', { read: eventsOfLeaves({ from: 20_000, to: 20_500, limit: 50 }) }, 205],
  ['receipts of a transaction', { read: receiptsOfTx('0'.repeat(60) + '101e') }, 9],
  ['receipts of a root', { read: receiptsOfRoot('0'.repeat(62) + '1e') }, 10],
  ['the newest receipts', { read: newestReceipts({ below: 1e9, limit: 25 }) }, 80],
  ['names that begin so', { read: namesLike('type', 'com.example') }, 4],
] as const)('%s are read by an index, in as many rows as are shown', async (_, reads, most) => {
  const meter = new D1Meter(DB)
  const { read } = await readAll(meter.db, reads)
  expect([read].flat()).not.toEqual([])
  expect([...meter.scans]).toEqual([])
  expect(meter.rows).toBeGreaterThan(0)
  expect(meter.rows).toBeLessThanOrEqual(most)
})

test('reads find what is there and nothing else', async () => {
  const found = await readAll(DB, {
    hit: eventOfHash(HASH),
    heads: eventsOfHead(HASH.slice(0, 20), 25),
    none: eventOfHash('f'.repeat(64)),
    leaves: eventsOfLeaves({ from: FIRST + 500, to: FIRST + 503, limit: 50 }),
    batch: batchesOfRoot(`${'0'.repeat(62)}1e`),
    byTx: receiptsOfTx(`${'0'.repeat(60)}101e`),
    names: namesLike('type', 'com.example'),
    letters: deadLettersByQueue,
  })
  expect(found.hit).toMatchObject({ eventHash: `sha256:${HASH}`, leafIndex: FIRST, height: 10 })
  expect(found.heads.map(({ leafIndex }) => leafIndex)).toEqual([FIRST])
  expect(found.none).toBeNull()
  expect(found.leaves.map(({ height }) => height)).toEqual([11, 11, 11])
  expect(found.batch).toMatchObject([{ height: 30, count: BATCH }])
  expect(found.byTx).toMatchObject([
    { chain: 'BTC', height: 30, revoked: false },
    { chain: 'TSA', height: 30 },
  ])
  expect(found.names).toEqual(['com.example.a', 'com.example.ab'])
  expect(found.letters).toEqual([{ queue: 'anchor-dlq', count: 5, oldestAt: 1000 }])
})

test('what belongs to a batch that is being indexed is not shown yet', async () => {
  const last = 10 + BATCHES - 1
  const { batches, leaves } = await readAll(DB, {
    batches: batchLines({ below: 1e9, limit: 1 }),
    leaves: eventsOfLeaves({ from: FIRST + ROWS - 5, to: FIRST + ROWS, limit: 50 }),
  })
  expect(batches).toMatchObject([{ height: last - 1 }])
  expect(leaves).toEqual([])
})

test('a batch stands where the receipts that cover it say, and a revoked one covers nothing', async () => {
  const rails = ['BTC', 'TSA']
  const before = await readAll(DB, { covered: coverages })
  const sizeOf = (height: number): number => FIRST + (height - 9) * BATCH
  expect(
    [49, 50, 69, 70].map((height) => standingOf(rails, before.covered, sizeOf(height))),
  ).toEqual(['final', 'anchored', 'anchored', 'sealed'])
  expect(standingOf([], before.covered, sizeOf(49))).toBe('anchored')
  await DB.prepare(
    "INSERT INTO revocations SELECT id, '{}', 1 FROM receipts WHERE chain = 'BTC' AND tree_size = ?",
  )
    .bind(sizeOf(49))
    .run()
  const { covered } = await readAll(DB, { covered: coverages })
  expect(standingOf(rails, covered, sizeOf(49))).toBe('anchored')
  expect(standingOf(rails, covered, sizeOf(48))).toBe('final')
})

/** The cookie of a new session. */
async function cookieOf(
  role: 'viewer' | 'operator' | 'admin',
  name: string = role,
): Promise<string> {
  const { signIn } = (await nodeOf(env)).config
  const person = { sub: `sub-${role}`, name, role }
  const { secret } = await openSession(DB, person, signIn!.terms, Date.now())
  return `__Host-vm-session=${secret}`
}

async function get(
  path: string,
  cookie: string,
  accept = 'text/html',
  more: Readonly<Record<string, string>> = {},
): Promise<Response> {
  const request = new Request(`${ORIGIN}${path}`, { headers: { cookie, accept, ...more } })
  const pending: Promise<unknown>[] = []
  const ctx = { waitUntil: (p: Promise<unknown>) => pending.push(p), passThroughOnException() {} }
  const answer = await worker.fetch(request as never, env, ctx as unknown as ExecutionContext)
  await Promise.all(pending)
  return answer
}

const PAGES = [
  '/dashboard',
  '/dashboard/events',
  '/dashboard/events?q=com.example',
  '/dashboard/events?q=30',
  `/dashboard/events?q=${HASH}`,
  `/dashboard/events?q=${'0'.repeat(62)}1e`,
  `/dashboard/events?q=${'0'.repeat(60)}101e`,
  '/dashboard/events?q=no+such+thing',
  '/dashboard/batches',
  '/dashboard/anchors',
  '/dashboard/anchors/1',
  '/dashboard/federation',
  '/dashboard/guardian',
  '/dashboard/alerts',
  '/dashboard/audit',
  '/dashboard/sessions',
]

test('every page answers with a policy that lets nothing of others in, and holds no style and no script of its own', async () => {
  const cookie = await cookieOf('admin')
  for (const path of PAGES) {
    const answer = await get(path, cookie)
    const text = await answer.text()
    expect([path, answer.status]).toEqual([path, 200])
    expect(answer.headers.get('content-security-policy')).toBe(
      "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    )
    expect(Object.fromEntries(answer.headers)).toMatchObject({
      'cache-control': 'no-store',
      'cross-origin-opener-policy': 'same-origin',
      'referrer-policy': 'same-origin',
      'x-content-type-options': 'nosniff',
    })
    expect(answer.headers.get('access-control-allow-origin')).toBeNull()
    expect(text).toMatch(/^<!doctype html><html lang="en">/)
    expect(text).not.toMatch(/ style=| on\w+=|<style|<script(?! type="module" src="\/assets\/)/)
    for (const [, address] of text.matchAll(/ (?:href|src|action)="([^"]*)"/g))
      expect(address).toMatch(/^(?:\/(?!\/)|#|data:,)/)
    // Landmarks, one heading of the first rank, a caption in each table.
    expect(text.match(/<main /g)).toHaveLength(1)
    expect(text.match(/<h1>/g)).toHaveLength(1)
    expect(text.match(/<table/g)?.length ?? 0).toBe(text.match(/<caption/g)?.length ?? 0)
  }
})

test('pages show actions and places only to those who may', async () => {
  const cookies = {
    viewer: await cookieOf('viewer'),
    operator: await cookieOf('operator'),
    admin: await cookieOf('admin'),
  }
  const held = await DB.prepare("SELECT id FROM anchors WHERE state = 'held'").first<number>('id')
  const seen = async (role: keyof typeof cookies, path: string): Promise<string> =>
    (await get(path, cookies[role])).text()
  const release = `/dashboard/actions/anchor-release?id=${held}`
  const replay = '/dashboard/actions/dead-letters-replay'
  for (const [path, action] of [
    [`/dashboard/anchors/${held}`, release],
    ['/dashboard/alerts', replay],
  ] as const) {
    expect(await seen('viewer', path)).not.toContain('/dashboard/actions/')
    expect(await seen('operator', path)).toContain(`href="${action}"`)
    expect(await seen('admin', path)).toContain(`href="${action}"`)
  }
  expect(await seen('viewer', '/dashboard')).not.toMatch(/href="\/dashboard\/(?:audit|sessions)"/)
  expect(await seen('operator', '/dashboard')).toContain('href="/dashboard/audit"')
  expect(await seen('operator', '/dashboard')).not.toContain('href="/dashboard/sessions"')
  expect(await seen('admin', '/dashboard')).toContain('href="/dashboard/sessions"')
  const status = async (role: keyof typeof cookies, path: string): Promise<number> =>
    (await get(path, cookies[role])).status
  expect(await status('viewer', '/dashboard/audit')).toBe(403)
  expect(await status('operator', '/dashboard/sessions')).toBe(403)
  expect(await status('admin', '/dashboard/nothing/here')).toBe(404)
})

test('a hostile event is text on every page that shows it, to the last character', async () => {
  const signer = await createSigner({ alg: 'EdDSA', secret: new Uint8Array(32).fill(9) })
  const type = `<script>alert(1)</script>"onmouseover='x'`
  const subject = 'abc\u202egpj.exe\u2066'
  const data = {
    url: 'javascript:alert(1)',
    text: '\u202e</pre><img src=x onerror=alert(1)>',
    n: 0,
  }
  const jws = (await sign(signer, { type, subject, data })).replace('\n', '')
  const posted = await worker.fetch(
    new Request(`${ORIGIN}/events`, {
      method: 'POST',
      headers: { 'content-type': 'application/jose', prefer: 'wait=20' },
      body: jws,
    }) as never,
    env,
    { waitUntil() {}, passThroughOnException() {} } as unknown as ExecutionContext,
  )
  const { eventHash } = (await posted.json()) as { eventHash: string }
  const { height } = (await (await get(`/events/${eventHash}/status`, '')).json()) as {
    height: number
  }
  const cookie = await cookieOf('viewer', `<b>Eve</b>\u202e`)
  for (const path of [
    `/dashboard/events/${eventHash}`,
    `/dashboard/events?q=${encodeURIComponent(`type:${type}`)}`,
    `/dashboard/events?q=${encodeURIComponent(subject)}`,
    `/dashboard/batches/${height}`,
  ]) {
    const answer = await get(path, cookie)
    // The search box holds what was typed, as it was typed.
    const text = (await answer.text()).replaceAll(/ value="[^"]*"/g, '')
    expect([path, answer.status]).toEqual([path, 200])
    expect(text).not.toMatch(/<script>|<img|<b>|onmouseover='|href="javascript|[\u202e\u2066]/)
    expect(text).toContain('U+202E')
  }
  const bytes = await get(`/dashboard/events/${eventHash}/event.jws`, cookie)
  expect(await bytes.text()).toBe(jws)
  expect(bytes.headers.get('content-disposition')).toMatch(
    /^attachment; filename="[0-9a-f]{16}\.jws"$/,
  )
})

test('a browser that follows a link of the API lands on the page of the same thing, a program does not', async () => {
  const cookie = await cookieOf('viewer')
  const browser = 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8'
  for (const [path, page] of [
    ['/batches/30', '/dashboard/batches/30'],
    [`/events/sha256:${HASH}`, `/dashboard/events/sha256:${HASH}`],
    [`/receipts/${HASH}`, `/dashboard/events/sha256:${HASH}`],
    ['/alerts', '/dashboard/alerts'],
    ['/anchors/status', '/dashboard/anchors'],
    ['/anchors/3', '/dashboard/anchors/3'],
    ['/federation/conflicts', '/dashboard/federation'],
  ] as const) {
    const answer = await get(path, cookie, browser)
    expect([path, answer.status, answer.headers.get('location')]).toEqual([path, 303, page])
    expect(answer.headers.get('vary')).toBe('accept')
    for (const accept of ['*/*', 'application/json', 'application/json, text/html;q=0.9'])
      expect((await get(path, '', accept)).status).not.toBe(303)
  }
  for (const path of ['/batches/30?format=json', '/batches/30?format=jose'])
    expect((await get(path, '', browser)).status).toBe(200)
})

test('a page that brings itself up to date does not keep its session alive, a person does', async () => {
  const cookie = await cookieOf('viewer')
  const { id } = (await DB.prepare('SELECT max(id) AS id FROM sessions').first<{ id: number }>())!
  await DB.prepare('UPDATE sessions SET seen_at = seen_at - 300000 WHERE id = ?').bind(id).run()
  const seenAt = () =>
    DB.prepare('SELECT seen_at FROM sessions WHERE id = ?').bind(id).first<number>('seen_at')
  const before = await seenAt()
  expect((await get('/dashboard', cookie, 'text/html', { 'vaultmesh-live': '1' })).status).toBe(200)
  expect(await seenAt()).toBe(before)
  expect((await get('/dashboard', cookie)).status).toBe(200)
  expect(await seenAt()).toBeGreaterThan(before!)
})

test('whoever is not signed in gets no page, not even whether there is one', async () => {
  for (const path of [
    ...PAGES,
    '/dashboard/nothing/here',
    `/dashboard/events/sha256:${HASH}/event.jws`,
  ]) {
    const answer = await get(path, '')
    expect([path, answer.status]).toEqual([path, 303])
    expect(answer.headers.get('location')).toBe(`${ORIGIN}/login?next=${encodeURIComponent(path)}`)
    expect((await get(path, '', 'application/json')).status).toBe(401)
  }
})
