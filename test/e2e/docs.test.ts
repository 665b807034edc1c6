/**
 * The documentation of a running node holds: its examples run as they are written, its links lead
 * somewhere, and the page asks nobody else for anything.
 */

import { execFile, spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, symlinkSync } from 'node:fs'
import { generateKeyPairSync, randomBytes, sign } from 'node:crypto'
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { didKey, didKeyUrl } from '#core/did.ts'
import document from '../../openapi.json' with { type: 'json' }
import { startTsa, type Tsa } from '../../scripts/devnet/tsa.ts'
import { startHost, type Host } from '../../scripts/host.ts'

const PORT = 7322
const run = promisify(execFile)

let folder: string
let host: Host
let tsa: Tsa
let eventHash: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vaultmesh-docs-'))
  tsa = await startTsa({ dir: join(folder, 'tsa'), port: 0 })
  host = await startHost({
    port: PORT,
    stateDir: join(folder, 'state'),
    cron: false,
    vars: {
      NODE_SECRET: randomBytes(32).toString('base64url'),
      ADMIN_TOKEN: 'docs',
      RAILS: 'TSA',
      TSA_URLS: tsa.url,
      TSA_ROOTS: tsa.rootPem,
      ANCHOR_TSA_INTERVAL_MS: '100',
    },
  })
  const joined = await fetch(`${host.url}/admin/federation`, {
    method: 'POST',
    headers: { authorization: 'Bearer docs' },
    body: 'peers_allowlist: []\n',
  })
  expect(joined.status).toBe(200)
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const source = didKey('ed25519', Buffer.from(publicKey.export({ format: 'jwk' }).x!, 'base64url'))
  const event = {
    specversion: '1.0',
    id: '1',
    source,
    type: 'test',
    time: new Date().toISOString(),
  }
  const header = { alg: 'EdDSA', kid: didKeyUrl(source), typ: 'vm-event+jws' }
  const input = [header, event]
    .map((part) => Buffer.from(JSON.stringify(part)).toString('base64url'))
    .join('.')
  const answer = await fetch(`${host.url}/events`, {
    method: 'POST',
    headers: { 'content-type': 'application/jose', prefer: 'wait=10' },
    body: `${input}.${sign(null, Buffer.from(input), privateKey).toString('base64url')}`,
  })
  expect(answer.status).toBe(200)
  ;({ eventHash } = (await answer.json()) as { eventHash: string })
}, 30_000)

afterAll(async () => {
  await host?.stop()
  await tsa?.stop()
  await rm(folder, { recursive: true, force: true })
})

const examples = Object.entries(document.paths).flatMap(([path, methods]) =>
  Object.entries(methods).map(
    ([method, operation]) =>
      [`${method.toUpperCase()} ${path}`, operation['x-codeSamples'][0]!.source] as const,
  ),
)

test.each(examples)('the curl example of %s works on a fresh node', async (_, source) => {
  // --fail: an answer of 400 or more ends the script.
  const script = source
    .replaceAll('127.0.0.1:7077', `127.0.0.1:${PORT}`)
    .replaceAll('curl -s', 'curl -sS --fail')
  const env = { ...process.env, PATH: `${withCurl()}:${process.env['PATH'] ?? ''}` }
  const { stdout } = await run('/bin/bash', ['-euo', 'pipefail', '-c', script], {
    cwd: folder,
    env,
  })
  expect(stdout.length).toBeGreaterThan(0)
})

test('every link of /docs leads to a place on the page or to a path that answers', async () => {
  const html = await (await fetch(`${host.url}/docs`)).text()
  const ids = new Set([...html.matchAll(/ id="([^"]+)"/g)].map((m) => m[1]))
  const links = new Set([...html.matchAll(/ href="([^"]+)"/g)].map((m) => m[1]!))
  for (const link of links) {
    if (link.startsWith('#')) expect(ids).toContain(link.slice(1))
    else {
      expect(link).toMatch(/^\//)
      expect((await fetch(host.url + link)).status, link).toBe(200)
    }
  }
  for (const { operationId } of Object.values(document.paths).flatMap((m) => Object.values(m)))
    expect(links).toContain(`#${operationId}`)
})

test('the page holds no script, no inline style attribute and no foreign origin, and its CSP says so', async () => {
  const answer = await fetch(`${host.url}/docs`)
  const html = await answer.text()
  expect(html).not.toMatch(/<script|<link|<img|<iframe| style=| on\w+=/i)
  const policy = answer.headers.get('content-security-policy')!
  expect(policy).toContain("default-src 'none'")
  expect(policy).not.toContain('unsafe')
  const style = /<style>([^]*)<\/style>/.exec(html)![1]!
  const digest = await crypto.subtle.digest('SHA-256', new TextEncoder().encode(style))
  expect(policy).toContain(`'sha256-${Buffer.from(digest).toString('base64')}'`)
})

test('the openssl commands of docs/formats.md verify the timestamp of a receipt', async () => {
  await expect
    .poll(async () => (await receipt()).status, { timeout: 20_000, interval: 200 })
    .toBe('final')
  await writeFile(join(folder, 'receipt.json'), JSON.stringify(await receipt()))
  await writeFile(join(folder, 'tsa-root.pem'), tsa.rootPem)
  const text = await readFile(resolve(import.meta.dirname, '../../docs/formats.md'), 'utf8')
  const script = /```sh\n([^]*?)```/.exec(text)![1]!
  const { stderr, stdout } = await run('/bin/bash', ['-euo', 'pipefail', '-c', script], {
    cwd: folder,
  })
  expect(stdout + stderr).toContain('Verification: OK')
}, 30_000)

/** A folder for the PATH that has a curl: empty where the machine has one, else with a stand-in. */
function withCurl(): string {
  const bin = join(folder, 'bin')
  mkdirSync(bin, { recursive: true })
  if (spawnSync('curl', ['--version']).error !== undefined && !existsSync(join(bin, 'curl'))) {
    console.warn('curl is not installed: its stand-in runs the examples (test/support/curl.mjs)')
    symlinkSync(resolve(import.meta.dirname, '../support/curl.mjs'), join(bin, 'curl'))
  }
  return bin
}

async function receipt(): Promise<{ readonly status: string }> {
  return (await fetch(`${host.url}/receipts/${eventHash}`)).json() as Promise<{ status: string }>
}
