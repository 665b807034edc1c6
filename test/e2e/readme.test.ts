/**
 * The README's commands, run as printed against a devnet node.
 */

import { readFileSync, symlinkSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ROOT } from '../../scripts/build.ts'
import { freePort, sandbox, start, type Running } from './support.ts'

let dir: string
let remove: () => Promise<void>
let node: Running
let port: number

/** The shell blocks below a heading, up to the next one. */
function blocks(heading: string): string[] {
  const readme = readFileSync(join(ROOT, 'README.md'), 'utf8')
  const section = readme.split(/^## /m).find((part) => part.startsWith(heading))
  if (section === undefined) throw new Error(`README has no section "${heading}"`)
  return [...section.matchAll(/```sh\n(.*?)```/gs)].map((m) => m[1]!)
}

function sh(script: string): { status: number | null; output: string } {
  const ran = spawnSync('bash', ['-euc', script.replaceAll('7077', String(port))], {
    cwd: dir,
    env: { ...process.env, VAULTMESH_URL: `http://127.0.0.1:${port}` },
    encoding: 'utf8',
  })
  return { status: ran.status, output: ran.stdout + ran.stderr }
}

beforeAll(async () => {
  ;({ dir, remove } = await sandbox())
  for (const name of ['scripts', 'test']) symlinkSync(join(ROOT, name), join(dir, name))
  port = await freePort()
  const tsaPort = await freePort()
  const args = [
    '--home',
    join(dir, '.vaultmesh'),
    '--port',
    String(port),
    '--tsa-port',
    String(tsaPort),
  ]
  node = await start(['scripts/up.ts', ...args], 'verify it yourself')
}, 120_000)

afterAll(async () => {
  await node.stop('SIGTERM')
  await remove()
})

test('the second terminal: post, verify, fetch again, verify with outside time', () => {
  const [, post, again] = blocks('Run it')
  const posted = sh(post!)
  expect(posted.status, posted.output).toBe(0)
  expect(posted.output).toContain('VERIFIED')
  const anchored = sh(again!)
  expect(anchored.status, anchored.output).toBe(0)
  expect(anchored.output).toMatch(/✓ anchor TSA/)
}, 90_000)

test('verify without us: the independent reader and stock openssl agree', () => {
  const [reader, openssl] = blocks('Verify a receipt without us')
  const read = sh(reader!)
  expect(read.status, read.output).toBe(0)
  const verified = sh(openssl!)
  expect(verified.status, verified.output).toBe(0)
  expect(verified.output).toContain('Verification: OK')
}, 60_000)
