/**
 * Webhooks of a running node, seen from receivers: what they are told, that it is signed, and what becomes of a
 * receiver that fails, hangs, redirects, says no for good, or stands where a stranger must not send a node.
 *
 * Backoff is skipped by moving the outbox's times to the past; its lengths are core's to test.
 */

import { createPublicKey, randomBytes, verify } from 'node:crypto'
import { lookup } from 'node:dns/promises'
import { createServer, type IncomingHttpHeaders, type Server } from 'node:http'
import { mkdtemp, rm } from 'node:fs/promises'
import { hostname, tmpdir } from 'node:os'
import { join } from 'node:path'
import type { AddressInfo } from 'node:net'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { startTsa, type Tsa } from '../../scripts/devnet/tsa.ts'
import { startHost, type Host } from '../../scripts/host.ts'
import { cloudEvent, signEvent, testSigner, type TestSigner } from '../support/signing.ts'
import { freePort } from './support.ts'

interface Notice {
  readonly path: string
  readonly headers: IncomingHttpHeaders
  readonly text: string
  readonly body: {
    readonly type: string
    readonly timestamp: string
    readonly data: {
      readonly hook: string
      readonly eventHash: string
      readonly eventId: string
      readonly source: string
      readonly leafIndex: number
      readonly anchor?: { readonly chain: string; readonly txHash: string }
      readonly links: { readonly receipt: string }
    }
  }
}

/** In every path: what must never be told or logged. */
const SECRET = 's3cr3t'

let folder: string
let host: Host
let tsa: Tsa
let receiver: Server
let base: string
const got: Notice[] = []
/** How the receiver answers a path: a status, a redirect, or not at all. */
const answers = new Map<string, readonly (number | string | null)[]>()
const logged: string[] = []

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vaultmesh-webhooks-'))
  vi.spyOn(process.stderr, 'write').mockImplementation((text) => logged.push(String(text)) > 0)
  for (const level of ['log', 'info', 'warn', 'error'] as const) {
    vi.spyOn(console, level).mockImplementation((...all: unknown[]) => {
      logged.push(all.map(String).join(' '))
    })
  }
  receiver = createServer((incoming, response) => {
    const chunks: Buffer[] = []
    incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
    incoming.on('end', () => {
      const path = incoming.url!
      const text = Buffer.concat(chunks).toString()
      const before = got.filter((n) => n.path === path).length
      if (path !== '/elsewhere')
        got.push({
          path,
          headers: incoming.headers,
          text,
          body: JSON.parse(text) as Notice['body'],
        })
      const plan = answers.get(path.split('?')[0]!) ?? [204]
      const answer = plan[Math.min(before, plan.length - 1)]
      if (answer === null || answer === undefined) return
      if (typeof answer === 'string') response.writeHead(302, { location: answer }).end()
      else response.writeHead(answer).end('x'.repeat(answer === 204 ? 0 : 100_000))
    })
  })
  await new Promise<void>((ready) => receiver.listen(0, '127.0.0.1', ready))
  base = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}`
  tsa = await startTsa({ dir: join(folder, 'tsa'), port: 0 })
  host = await startHost({
    port: await freePort(),
    stateDir: join(folder, 'state'),
    cron: false,
    verbose: true,
    vars: {
      NODE_SECRET: randomBytes(32).toString('base64url'),
      RAILS: 'TSA',
      TSA_URLS: tsa.url,
      TSA_ROOTS: tsa.rootPem,
      ANCHOR_TSA_INTERVAL_MS: '100',
      WEBHOOK_ALLOW_PRIVATE: '1',
    },
  })
}, 60_000)

afterAll(async () => {
  await host?.stop()
  await tsa?.stop()
  receiver?.closeAllConnections()
  receiver?.close()
  vi.restoreAllMocks()
  await rm(folder, { recursive: true, force: true })
})

/** A URL of the receiver that nobody else uses. */
function target(name: string): string {
  return `${base}/${name}?${SECRET}`
}

async function post(
  signer: TestSigner,
  url: string | null,
  { type = 'application/jose', body = signEvent(signer), prefer = 'wait=10' } = {},
): Promise<Response> {
  return fetch(`${host.url}/events`, {
    method: 'POST',
    headers: {
      'content-type': type,
      prefer,
      ...(url === null ? {} : { 'vaultmesh-webhook': url }),
    },
    body,
  })
}

async function request(
  signer: TestSigner,
  claims: Readonly<Record<string, unknown>>,
): Promise<Response> {
  return fetch(`${host.url}/webhooks`, {
    method: 'POST',
    headers: { 'content-type': 'application/jose' },
    body: await requestOf(signer, claims),
  })
}

async function requestOf(
  signer: TestSigner,
  claims: Readonly<Record<string, unknown>>,
): Promise<string> {
  const { origin } = (await (await fetch(`${host.url}/.well-known/vaultmesh.json`)).json()) as {
    origin: string
  }
  const iat = Math.floor(Date.now() / 1000)
  const jti = randomBytes(8).toString('hex')
  const payload = { iss: signer.did, aud: origin, iat, exp: iat + 60, jti, ...claims }
  return signEvent(signer, {
    header: { typ: 'vm-webhook+jws' },
    payloadText: JSON.stringify(payload),
  })
}

/** Lets the node look until `check` passes; each look finds every backoff over. */
async function until<T>(check: () => T | Promise<T>): Promise<T> {
  const db = await host.miniflare.getD1Database('DB')
  return vi.waitFor(
    async () => {
      await db.prepare('UPDATE webhook_deliveries SET next_at = created_at').run()
      await db.prepare('UPDATE webhook_lanes SET due_at = 1 WHERE failures > 0').run()
      await host.tick()
      return check()
    },
    { timeout: 50_000, interval: 200 },
  )
}

function to(name: string): Notice[] {
  return got.filter((n) => n.path.startsWith(`/${name}?`))
}

async function deliveries(name: string): Promise<Record<string, unknown>[]> {
  const db = await host.miniflare.getD1Database('DB')
  const { results } = await db
    .prepare(
      `SELECT d.state, d.result, d.failures FROM webhook_deliveries d JOIN webhooks w ON w.id = d.hook_id WHERE w.url LIKE ? ORDER BY d.id`,
    )
    .bind(`%/${name}?%`)
    .all()
  return results as Record<string, unknown>[]
}

test('a post that names a webhook is told when its event is sealed, anchored and final, and can check who says so', async () => {
  const signer = testSigner('EdDSA', 'told')
  const answer = await post(signer, target('told'))
  expect(answer.status).toBe(200)
  const { eventHash } = (await answer.json()) as { eventHash: string }
  const notices = await until(() => {
    expect(to('told').length).toBeGreaterThanOrEqual(3)
    return to('told')
  })
  expect(notices.map((n) => n.body.type)).toEqual([
    'event.sealed',
    'anchor.verified',
    'event.final',
  ])
  const { webhook_key } = (await (
    await fetch(`${host.url}/.well-known/vaultmesh.json`)
  ).json()) as { webhook_key: string }
  expect(webhook_key).toMatch(/^whpk_/)
  const key = createPublicKey({
    key: Buffer.concat([
      Buffer.from('302a300506032b6570032100', 'hex'),
      Buffer.from(webhook_key.slice('whpk_'.length), 'base64'),
    ]),
    format: 'der',
    type: 'spki',
  })
  const sentAt = Number(notices[0]!.headers['webhook-timestamp'])
  expect(Math.abs(sentAt - Date.now() / 1000)).toBeLessThan(60)
  for (const { headers, text, body } of notices) {
    const signature = String(headers['webhook-signature'])
    expect(signature).toMatch(/^v1a,/)
    const signed = `${String(headers['webhook-id'])}.${String(headers['webhook-timestamp'])}.${text}`
    const bytes = Buffer.from(signature.slice(4), 'base64')
    expect(verify(null, Buffer.from(signed), key, bytes)).toBe(true)
    expect(verify(null, Buffer.from(`${signed} `), key, bytes)).toBe(false)
    expect(body.data).toMatchObject({ eventHash, source: signer.did })
    expect((await fetch(host.url + body.data.links.receipt)).status).toBe(200)
  }
  expect(new Set(notices.map((n) => n.headers['webhook-id'])).size).toBe(3)
  expect(notices[1]!.body.data.anchor).toMatchObject({ chain: 'TSA' })
  expect(notices[1]!.body.data.anchor!.txHash).toMatch(/^[0-9a-f]{64}$/)
})

test('a receiver that fails first is told again under the same id, and then no more', async () => {
  answers.set('/flaky', [500, 503, 204])
  await post(testSigner('EdDSA', 'flaky'), target('flaky'))
  await until(async () => {
    const rows = await deliveries('flaky')
    expect(rows.map((row) => row['state'])).toEqual(['done', 'done', 'done'])
  })
  // Two attempts failed, so two more than the three notices; what is sent again is the same text under the same id.
  expect(to('flaky').length).toBe(5)
  const texts = new Map(to('flaky').map((n) => [n.headers['webhook-id'], n.text]))
  expect(texts.size).toBe(3)
  for (const n of to('flaky')) expect(n.text).toBe(texts.get(n.headers['webhook-id']))
})

test('a receiver that hangs keeps nobody else waiting and is tried again', async () => {
  answers.set('/hang', [null, 204])
  await post(testSigner('EdDSA', 'hang'), target('hang'))
  await until(() => expect(to('hang').length).toBe(1))
  await post(testSigner('EdDSA', 'beside'), target('beside'))
  await until(async () => {
    expect((await deliveries('beside')).map((row) => row['state'])).toContain('done')
  })
  const hung = await until(async () => {
    const rows = await deliveries('hang')
    expect(rows.map((row) => row['state'])).toEqual(['done', 'done', 'done'])
    return rows
  })
  expect(hung[0]).toMatchObject({ failures: 1, result: '204' })
})

test('a redirect is not followed', async () => {
  answers.set('/away', [`${base}/elsewhere`])
  const visits = vi.fn()
  receiver.on('request', ({ url }) => {
    if (url === '/elsewhere') visits()
  })
  await post(testSigner('EdDSA', 'away'), target('away'))
  await until(async () => {
    const [row] = await deliveries('away')
    expect(row).toMatchObject({ state: 'pending', result: '302' })
  })
  expect(visits).not.toHaveBeenCalled()
})

test('410 ends a webhook: what waited for it is dropped and its URL forgotten', async () => {
  answers.set('/gone', [410])
  const signer = testSigner('EdDSA', 'gone')
  const { id } = (await (
    await request(signer, { url: target('gone'), events: ['event.sealed'] })
  ).json()) as { id: string }
  await post(signer, null)
  await post(signer, null)
  const status = await until(async () => {
    const s = (await (await fetch(`${host.url}/webhooks/${id}`)).json()) as {
      state: string
      deliveries: { state: string }[]
    }
    expect(s.state).toBe('ended')
    return s
  })
  // Two batches, and the second came after the end; or one, and both waited.
  expect(new Set(status.deliveries.map((d) => d.state))).toEqual(new Set(['failed']))
  await post(signer, null)
  await until(() => expect(to('gone').length).toBe(1))
  const db = await host.miniflare.getD1Database('DB')
  const row = await db.prepare('SELECT url FROM webhooks WHERE name = ?').bind(id).first()
  expect(row).toEqual({ url: '' })
})

test('a DID is told of what is sealed after it asked, of the types it asked for, until it says stop', async () => {
  const signer = testSigner('EIP191', 'subscriber')
  await post(signer, null)
  await until(() => undefined)
  const asked = await requestOf(signer, { url: target('did'), events: ['event.sealed'] })
  const send = (body: string) =>
    fetch(`${host.url}/webhooks`, {
      method: 'POST',
      headers: { 'content-type': 'application/jose' },
      body,
    })
  const first = await send(asked)
  expect(first.status).toBe(200)
  const { id } = (await first.json()) as { id: string }
  const one = (await (await post(signer, null)).json()) as { eventHash: string }
  await until(() => expect(to('did').map((n) => n.body.data.eventHash)).toEqual([one.eventHash]))
  expect(to('did')[0]!.body).toMatchObject({ type: 'event.sealed', data: { hook: id } })
  // The same again is obeyed once; the same URL again keeps its id.
  expect(await (await send(asked)).json()).toMatchObject({ id })
  const reused = JSON.parse(Buffer.from(asked.split('.')[1]!, 'base64url').toString()) as object
  expect((await request(signer, { ...reused, url: target('other') })).status).toBe(400)
  const more = await request(signer, { url: target('did'), events: ['event.sealed'] })
  expect(await more.json()).toMatchObject({ id })
  // Only the DID's key can end it.
  expect((await request(testSigner('EdDSA', 'stranger'), { delete: id })).status).toBe(404)
  expect((await request(signer, { delete: id })).status).toBe(200)
  expect(await (await send(asked)).json()).toMatchObject({ id, state: 'ended' })
  await post(signer, null)
  const after = await post(testSigner('EdDSA', 'later'), target('later'))
  expect(after.status).toBe(200)
  await until(() => expect(to('later').length).toBeGreaterThan(0))
  expect(to('did').length).toBe(1)
})

test('a DID has at most eight webhooks, an event too', async () => {
  const signer = testSigner('ES256', 'many')
  const statuses: number[] = []
  for (let i = 0; i < 9; i++) {
    const { status } = await request(signer, { url: target(`m${i}`), events: ['event.final'] })
    statuses.push(status)
  }
  expect(statuses).toEqual([200, 200, 200, 200, 200, 200, 200, 200, 409])
  const body = signEvent(testSigner('EdDSA', 'many'))
  statuses.length = 0
  for (let i = 0; i < 9; i++) {
    const answer = await post(testSigner('EdDSA', 'many'), target(`n${i}`), { body, prefer: '' })
    statuses.push(answer.status)
  }
  expect(statuses).toEqual([202, 200, 200, 200, 200, 200, 200, 200, 409])
})

test('a webhook that comes after its event was sealed and anchored is told all the same', async () => {
  const signer = testSigner('EdDSA', 'late')
  const body = signEvent(signer)
  await post(signer, target('early'), { body })
  await until(() => expect(to('early').length).toBe(3))
  await post(signer, target('late'), { body })
  await until(() =>
    expect(to('late').map((n) => n.body.type)).toEqual([
      'event.sealed',
      'anchor.verified',
      'event.final',
    ]),
  )
})

test('a webhook of a bulk is told of each line that was kept', async () => {
  const signer = testSigner('EdDSA', 'bulk')
  const lines = [signEvent(signer), 'broken', signEvent(signer)]
  const answer = await post(signer, target('bulk'), {
    type: 'application/x-ndjson',
    body: lines.join('\n'),
  })
  const { results } = (await answer.json()) as { results: { eventHash?: string }[] }
  const kept = results.flatMap((r) => r.eventHash ?? [])
  expect(kept.length).toBe(2)
  // Nobody waits for a bulk: this one does.
  await post(signer, null)
  await until(() => {
    const told = to('bulk').filter((n) => n.body.type === 'event.sealed')
    expect(told.map((n) => n.body.data.eventHash).sort()).toEqual(kept.toSorted())
  })
})

test('a webhook that is refused leaves no event behind', async () => {
  const signer = testSigner('EdDSA', 'refused')
  const event = cloudEvent(signer)
  const body = signEvent(signer, { payload: event })
  const refused = await post(signer, `${base}/x#${SECRET}`, { body })
  expect(refused.status).toBe(400)
  const problem = await refused.text()
  expect(problem).toContain('/problems/bad-webhook')
  expect(problem).not.toContain(SECRET)
  expect((await post(signer, null, { body, prefer: '' })).status).toBe(202)
})

test('no URL of a webhook was logged or shown', async () => {
  const closed = await freePort()
  const url = `http://127.0.0.1:${closed}/closed?${SECRET}`
  await post(testSigner('EdDSA', 'closed'), url)
  await until(async () => {
    const [row] = await deliveries('closed')
    expect(row).toMatchObject({ state: 'pending', result: 'no connection' })
  })
  const db = await host.miniflare.getD1Database('DB')
  const { results } = await db.prepare('SELECT name FROM webhooks').all<{ name: string }>()
  expect(results.length).toBeGreaterThan(10)
  const shown = await Promise.all([
    ...results.map(async ({ name }) => (await fetch(`${host.url}/webhooks/${name}`)).text()),
    (await fetch(`${host.url}/alerts`)).text(),
  ])
  expect(logged.length).toBeGreaterThan(0)
  for (const text of [...shown, ...logged]) expect(text).not.toContain(SECRET)
})

const own = await lookup(hostname()).catch(() => null)
const ownIsPrivate =
  own !== null && /^(?:127|10|192\.168|172\.(?:1[6-9]|2\d|3[01]))\./.test(own.address)

test.skipIf(!ownIsPrivate)(
  'a name that resolves to a private address is refused when the connection is made (skipped where this machine has no such name)',
  async () => {
    const { port } = receiver.address() as AddressInfo
    const probe = await startHost({
      port: await freePort(),
      stateDir: join(folder, 'probe'),
      cron: false,
      vars: { NODE_SECRET: randomBytes(32).toString('base64url') },
      script: `
        import { DurableObject } from 'cloudflare:workers'
        export class Pool extends DurableObject {}
        export class Sequencer extends DurableObject {}
        export default {
          async fetch(request, env) {
            const { searchParams } = new URL(request.url)
            const out = searchParams.get('by') === 'egress' ? env.EGRESS : { fetch: (...a) => fetch(...a) }
            const answer = await out.fetch(searchParams.get('to'), { method: 'POST', body: '{}' }).catch(() => null)
            return new Response(answer === null ? 'refused' : String(answer.status))
          }
        }`,
    })
    try {
      const by = async (way: string, name: string): Promise<string> => {
        const url = encodeURIComponent(`http://${name}:${port}/probe?x`)
        return (await fetch(`${probe.url}/?by=${way}&to=${url}`)).text()
      }
      for (const name of [hostname(), '127.0.0.1', '0.0.0.0', '[::ffff:127.0.0.1]'])
        expect(await by('egress', name), name).toBe('refused')
      expect(to('probe').length).toBe(0)
      // The receiver is there: the ordinary way out reaches it.
      expect(await by('plain', '127.0.0.1')).toBe('204')
      expect(to('probe').length).toBe(1)
    } finally {
      await probe.stop()
    }
  },
)
