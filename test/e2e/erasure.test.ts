/**
 * Erasure on a real node with the real commands: by the operator and by who signed. Afterwards no file of its home
 * holds the bytes, the names or the signer; the receipts verify with our command and with Python alone.
 */

import { execFile } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { post, sign, type EventSigner } from '../../functions/sdk.ts'
import { ROOT } from '../../scripts/build.ts'
import { makeKey } from '../../scripts/cli/keygen.ts'
import { contentOf, filesIn } from '../support/secret-search.ts'
import { freePort, sandbox, start, vaultmesh } from './support.ts'

const python = promisify(execFile)
let box: Awaited<ReturnType<typeof sandbox>>
let node: Awaited<ReturnType<typeof start>>
let isRunning = false
let port = 0
let url = ''
let home = ''
let keyFile = ''
let alice: EventSigner
let bob: EventSigner

async function run(): Promise<void> {
  const args = [resolve(ROOT, 'scripts/selfhost.ts'), '--home', home, '--port', String(port)]
  node = await start(args, 'rails:', { SEAL_BATCH_MAX_INTERVAL_MS: '300' })
  isRunning = true
}

async function stop(): Promise<void> {
  if (!isRunning) return
  isRunning = false
  await node.stop('SIGTERM')
}

beforeAll(async () => {
  box = await sandbox()
  home = join(box.dir, 'home')
  port = await freePort()
  url = `http://127.0.0.1:${port}`
  // Outside of the home: a signer's key is his own.
  keyFile = join(box.dir, 'alice.key.age')
  alice = await makeKey(keyFile, 'EdDSA')
  bob = await makeKey(join(box.dir, 'bob.key.age'), 'EdDSA')
  await run()
}, 60_000)

afterAll(async () => {
  await stop()
  await box?.remove()
})

function secretOf(signer: EventSigner, id: string): Promise<string> {
  return sign(signer, {
    type: `com.example.${id}-type`,
    id: `${id}-id`,
    subject: `${id}-subject`,
    data: { word: `${id}-word` },
  })
}

test('the operator and the signer erase; the receipts stay whole and no file holds what is gone', async () => {
  const byOperator = await secretOf(bob, 'osprey')
  const bySigner = await secretOf(alice, 'heron')
  const kept = await secretOf(alice, 'keeper')
  const posted = new Map<string, string>()
  for (const jws of [byOperator, bySigner, kept]) {
    posted.set(jws, (await post(url, jws, { wait: 20 })).eventHash)
  }
  const [one, two] = [posted.get(byOperator)!, posted.get(bySigner)!]
  const as = ['--home', home, '--json']

  const first = await vaultmesh(['erase', one, '--reason', 'court-order', ...as])
  expect(first.code, first.stderr + first.stdout).toBe(0)
  const answer = JSON.parse(first.stdout) as { erasedBy: string; scrubbed: string[] }
  expect(answer.scrubbed).toEqual(['pools', 'index', 'bundle', 'names'])
  const second = await vaultmesh([
    'erase',
    two,
    '--reason',
    'gdpr-17',
    '--key',
    keyFile,
    '--url',
    url,
    '--json',
  ])
  expect(second.code, second.stderr + second.stdout).toBe(0)
  const again = await vaultmesh(['erase', one, '--reason', 'court-order', ...as])
  expect(again.code, 'a repeat finds it done').toBe(0)
  expect(JSON.parse(again.stdout)).toMatchObject({ erased: true, erasedBy: answer.erasedBy })

  const gone = await fetch(`${url}/events/${one}`)
  expect(gone.status).toBe(410)
  expect(await gone.json()).toMatchObject({ erasedBy: answer.erasedBy })
  expect(
    (await fetch(`${url}/events/${one}`, { headers: { 'if-none-match': `"${one}"` } })).status,
  ).toBe(410)
  expect((await fetch(`${url}/events/${answer.erasedBy}`)).status).toBe(200)
  const lines = (await (await fetch(`${url}/batches/1/events`)).text()).split('\n')
  expect(JSON.parse(lines.find((line) => line.startsWith('{'))!)).toEqual({
    leafIndex: 0,
    eventHash: one,
    erasedBy: answer.erasedBy,
  })

  const trust = join(home, 'trust.json')
  const file = join(box.dir, 'copy.jws')
  writeFileSync(file, byOperator)
  const receipt = join(box.dir, 'receipt.json')
  writeFileSync(receipt, await (await fetch(`${url}/receipts/${one}`)).text())
  expect(JSON.parse(readFileSync(receipt, 'utf8'))).toMatchObject({ eventId: '', source: '' })
  const verified = await vaultmesh(['verify', receipt, file, '--trust', trust])
  expect(verified.code, verified.stdout + verified.stderr).toBe(0)
  const { vkeys } = JSON.parse(readFileSync(trust, 'utf8')) as { vkeys: string[] }
  const script = resolve(ROOT, 'test/independent/read_log.py')
  await python('python3', [script, `${url}/log`, vkeys[0]!, '--receipt', receipt, '--event', file])

  const fsck = await vaultmesh(['fsck', '--home', home])
  expect(fsck.code, fsck.stdout + fsck.stderr).toBe(0)

  // The databases' free pages and logs go with the next start.
  await stop()
  await run()
  expect(node.output()).toContain('Events were erased')
  for (const jws of [byOperator, bySigner]) {
    await expect(post(url, jws)).rejects.toMatchObject({ code: 'erased' })
  }
  await expect(post(url, await secretOf(bob, 'osprey'))).rejects.toMatchObject({ code: 'erased' })
  await stop()
  // Bob signed nothing else: he is gone too. Alice's DID stays, with her wish and her other event.
  const traces = ['osprey-', 'heron-', bob.did]
  for (const jws of [byOperator, bySigner]) {
    const [, payload, signature] = jws.split('.') as [string, string, string]
    traces.push(signature.slice(4, 60), payload.slice(payload.length - 60, payload.length - 8))
  }
  const files = filesIn(home)
  expect(files.length).toBeGreaterThan(10)
  const holders = (text: string): string[] =>
    files.filter((path) => contentOf(path).includes(text)).map((path) => path.slice(home.length))
  for (const trace of traces) expect(holders(trace), trace).toEqual([])
  expect(holders('keeper-subject'), 'a search that finds').not.toEqual([])
}, 180_000)
