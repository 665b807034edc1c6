/**
 * HTTP as its specifications say it: conditional requests, content negotiation, cross-origin reads, and
 * pages by Link, against a running node.
 */

import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { parseReceipt, verifyReceipt } from '#core/receipt.ts'
import { startTsa, type Tsa } from '../../scripts/devnet/tsa.ts'
import { startHost, type Host } from '../../scripts/host.ts'
import { signEvent, testSigner } from '../support/signing.ts'
import { freePort } from './support.ts'

/** More than a page of anchors holds. */
const BATCHES = 18
const me = testSigner('EdDSA', 'manners')
const waiting = (jws: string): RequestInit => ({
  method: 'POST',
  headers: { 'content-type': 'application/jose', prefer: 'wait=20' },
  body: jws,
})

let folder: string
let tsa: Tsa
let host: Host
let vkey: string
const hashes: string[] = []

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'vaultmesh-manners-'))
  tsa = await startTsa({ dir: path.join(folder, 'tsa'), port: 0 })
  host = await startHost({
    port: await freePort(),
    stateDir: path.join(folder, 'state'),
    cron: false,
    vars: {
      NODE_SECRET: randomBytes(32).toString('base64url'),
      RAILS: 'TSA',
      TSA_URLS: tsa.url,
      TSA_ROOTS: tsa.rootPem,
      ANCHOR_TSA_INTERVAL_MS: '100',
    },
  })
  const db = await host.miniflare.getD1Database('DB')
  for (let n = 1; n <= BATCHES; n++) {
    const answer = await fetch(`${host.url}/events`, waiting(signEvent(me)))
    expect(answer.status, await answer.clone().text()).toBe(200)
    hashes.push(((await answer.json()) as { eventHash: string }).eventHash)
    await vi.waitFor(
      async () => {
        const count = await db.prepare('SELECT count(*) AS n FROM receipts').first('n')
        expect(count).toBe(n)
      },
      { timeout: 20_000, interval: 20 },
    )
  }
  const known = (await (await get('/.well-known/vaultmesh.json')).json()) as { vkey: string }
  vkey = known.vkey
}, 60_000)

afterAll(async () => {
  await host?.stop()
  await tsa?.stop()
  await rm(folder, { recursive: true, force: true })
})

function get(where: string, headers: Record<string, string> = {}): Promise<Response> {
  return fetch(host.url + where, { headers })
}

test.each([
  ['the ETag', (etag: string) => etag, 304],
  ['the ETag as weak: the comparison is', (etag: string) => `W/${etag}`, 304],
  ['the ETag in a list', (etag: string) => `"a,b", W/"c" ,${etag}`, 304],
  ['any', () => '*', 304],
  ['another', () => '"sha256:00"', 200],
  ['the ETag without its quotes', (etag: string) => etag.slice(1, -1), 200],
  ['the ETag within another', (etag: string) => `"x${etag.slice(1)}`, 200],
  ['nothing', () => '', 200],
])('If-None-Match with %s is answered by RFC 9110 §13.1.2', async (_, header, status) => {
  const where = `/events/${hashes[0]}`
  const plain = await get(where)
  const etag = plain.headers.get('etag')!
  expect(etag).toMatch(/^"[^"]+"$/)
  const answer = await get(where, { 'if-none-match': header(etag) })
  expect(answer.status).toBe(status)
  expect(answer.headers.get('etag')).toBe(etag)
  expect(answer.headers.get('cache-control')).toBe(plain.headers.get('cache-control'))
  expect((await answer.text()) === '').toBe(status === 304)
})

test('If-None-Match: * of an event that is not there is a 404', async () => {
  const answer = await get(`/events/sha256:${'0'.repeat(64)}`, { 'if-none-match': '*' })
  expect(answer.status).toBe(404)
})

test('an event that waits for its seal answers If-None-Match, too', async () => {
  const headers = { 'content-type': 'application/jose' }
  const body = signEvent(me)
  const posted = await fetch(`${host.url}/events`, { method: 'POST', headers, body })
  const { eventHash } = (await posted.json()) as { eventHash: string }
  expect((await get(`/events/${eventHash}`, { 'if-none-match': '*' })).status).toBe(304)
  expect(await (await get(`/events/${eventHash}`)).text()).toBe(body)
})

const JSON_TYPE = 'application/json'
const TEXT = 'text/plain; charset=utf-8'
const JOSE = 'application/jose'
test.each([
  ['receipts', undefined, JSON_TYPE],
  ['receipts', '*/*', JSON_TYPE],
  ['receipts', 'text/plain', TEXT],
  ['receipts', 'TEXT/Plain; charset=utf-8', TEXT],
  ['receipts', 'text/*', TEXT],
  ['receipts', 'text/plain;q=0.5, application/json', JSON_TYPE],
  ['receipts', 'text/plain;q=0.5, application/json;q=0.4', TEXT],
  ['receipts', 'application/json, text/plain', JSON_TYPE],
  ['receipts', 'text/plain, application/json;q=0', TEXT],
  ['receipts', '*/*, application/json;q=0', TEXT],
  ['receipts', 'text/plain;q=0, */*', JSON_TYPE],
  ['receipts', 'text/plain;q=nonsense, application/json;q=0.1', JSON_TYPE],
  ['receipts', 'text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8', JSON_TYPE],
  ['receipts', 'image/png', JSON_TYPE],
  ['batches', undefined, JSON_TYPE],
  ['batches', JOSE, JOSE],
  ['batches', 'application/*', JSON_TYPE],
  ['batches', 'application/json;q=0.1, application/jose;q=0.2', JOSE],
  ['batches', 'application/jose;q=0.1, application/json', JSON_TYPE],
])('%s with Accept: %s are answered by RFC 9110 §12.5.1 as %s', async (what, accept, type) => {
  const where = what === 'receipts' ? `/receipts/${hashes[0]}` : '/batches/1'
  const answer = await get(where, accept === undefined ? {} : { accept })
  expect(answer.status).toBe(200)
  expect(answer.headers.get('content-type')).toBe(type)
  expect(answer.headers.get('vary')).toBe('accept')
})

test('?format is stronger than Accept', async () => {
  const answer = await get(`/receipts/${hashes[0]}?format=json`, { accept: 'text/plain' })
  expect(answer.headers.get('content-type')).toBe(JSON_TYPE)
})

test('?anchors=all pages through every verified anchor of a leaf, and each page is a receipt that verifies', async () => {
  for (const [leaf, hash] of [hashes[0]!, hashes.at(-1)!].entries()) {
    const sizes: number[] = []
    let where: string | null = `/receipts/${hash}?anchors=all`
    let pages = 0
    while (where !== null) {
      const answer = await get(where)
      const receipt = parseReceipt(await answer.text())
      const report = await verifyReceipt(receipt, { vkeys: [vkey], tsaRoots: [tsa.rootPem] })
      expect(report.verdict, report.sentence).toBe('verified')
      expect(report.anchored.length).toBe(receipt.anchors.length)
      expect(receipt.status).toBe('final')
      sizes.push(...receipt.anchors.map((a) => Number(a['treeSize'])))
      pages++
      where = /^<([^>]+)>; rel="next"$/.exec(answer.headers.get('link') ?? '')?.[1] ?? null
    }
    const first = leaf === 0 ? 1 : BATCHES
    expect(sizes.slice(0, BATCHES - first + 1)).toEqual(
      Array.from({ length: BATCHES - first + 1 }, (_, i) => first + i),
    )
    expect(pages).toBe(leaf === 0 ? 2 : 1)
  }
})

test('the pages of a tlog-proof lead to tlog-proofs', async () => {
  const answer = await get(`/receipts/${hashes[0]}?anchors=all&format=tlog-proof`)
  expect(answer.headers.get('content-type')).toBe(TEXT)
  expect(answer.headers.get('link')).toMatch(/&format=tlog-proof>; rel="next"$/)
})

test.each([
  '?anchors=some',
  '?anchors=',
  '?anchors=all&cursor=x',
  '?anchors=all&cursor=99999',
  '?cursor=1',
])('%s of a receipt is refused, not ignored', async (query) => {
  const answer = await get(`/receipts/${hashes[0]}${query}`)
  expect(answer.status).toBe(400)
  expect(((await answer.json()) as { type: string }).type).toBe('/problems/bad-request')
})

test.each([
  '/events',
  '/events/{hash}',
  '/events/{hash}/status',
  '/receipts/{hash}',
  '/batches',
  '/batches/1',
  '/batches/1/events',
  '/log/checkpoint',
  '/log/tile/entries/000.p/1',
  '/log/proof/inclusion?index=0',
  '/log/proof/consistency?from=1',
  '/.well-known/vaultmesh.json',
  '/healthz',
  '/openapi.json',
])('a page of any origin may read %s', async (where) => {
  const answer = await get(where.replace('{hash}', hashes[0]!), { origin: 'https://page.example' })
  expect(answer.status).toBe(200)
  expect(answer.headers.get('access-control-allow-origin')).toBe('*')
  expect(answer.headers.get('access-control-expose-headers')).toBe('*')
  expect(answer.headers.get('access-control-allow-credentials')).toBeNull()
  await answer.arrayBuffer()
})

test('a page of any origin may read what its own post was answered', async () => {
  const answer = await fetch(`${host.url}/events`, {
    method: 'POST',
    headers: { 'content-type': 'application/jose', origin: 'https://page.example' },
    body: signEvent(me),
  })
  expect(answer.status).toBe(202)
  expect(answer.headers.get('access-control-allow-origin')).toBe('*')
})

test('a preflight for a post is answered, and refusals may be read across origins too', async () => {
  const preflight = await fetch(`${host.url}/events`, {
    method: 'OPTIONS',
    headers: { origin: 'https://page.example', 'access-control-request-method': 'POST' },
  })
  expect(preflight.status).toBe(204)
  expect(preflight.headers.get('access-control-allow-origin')).toBe('*')
  expect(preflight.headers.get('access-control-allow-methods')).toContain('POST')
  const missing = await get('/nowhere', { origin: 'https://page.example' })
  expect(missing.status).toBe(404)
  expect(missing.headers.get('access-control-allow-origin')).toBe('*')
})

test('the operator’s paths say nothing to other origins, not even that they are there', async () => {
  const preflight = await fetch(`${host.url}/admin/seal`, {
    method: 'OPTIONS',
    headers: { origin: 'https://page.example', 'access-control-request-method': 'POST' },
  })
  expect(preflight.status).toBe(404)
  const refused = await fetch(`${host.url}/admin/seal`, { method: 'POST' })
  expect([401, 404]).toContain(refused.status)
  expect(refused.headers.get('access-control-allow-origin')).toBeNull()
})
