/**
 * The commands of the README and of pages that need no more than its node, run as printed against a devnet node.
 */

import { copyFileSync, mkdirSync, readFileSync, symlinkSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ROOT } from '../../scripts/build.ts'
import { onPath } from '../../scripts/devnet/child.ts'
import { calendarPython } from '../../scripts/devnet/calendar.ts'
import { blocks } from './doc-blocks.ts'
import { freePort, sandbox, start, type Running } from './support.ts'

let dir: string
let remove: () => Promise<void>
let node: Running
let port: number

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
  for (const name of ['scripts', 'test', 'config', 'Makefile', 'package-lock.json', 'node_modules'])
    symlinkSync(join(ROOT, name), join(dir, name))
  port = await freePort()
  const args = ['--home', join(dir, '.vaultmesh'), '--port', String(port)]
  for (const part of ['tsa', 'btc', 'evm', 'oidc'])
    args.push(`--${part}-port`, String(await freePort()))
  node = await start(['scripts/up.ts', ...args], 'verify it yourself')
}, 120_000)

afterAll(async () => {
  await node.stop('SIGTERM')
  await remove()
})

test('the second terminal: post, verify, fetch again, verify with outside time', () => {
  const [, post, again] = blocks('README.md', 'Run it')
  const posted = sh(post!)
  expect(posted.status, posted.output).toBe(0)
  expect(posted.output).toContain('VERIFIED')
  const anchored = sh(again!)
  expect(anchored.status, anchored.output).toBe(0)
  for (const rail of rails()) expect(anchored.output).toContain(`✓ anchor ${rail} `)
}, 90_000)

test('what is broken on purpose is refused, and says where', () => {
  const broken = sh(blocks('README.md', 'Break it').join(''))
  expect(broken.status, broken.output).toBe(0)
  expect(broken.output.match(/^exit 1$/gm)?.length, broken.output).toBe(3)
  expect(broken.output).toContain('An event with this id is there already')
}, 60_000)

test('verify without us: the independent reader, stock openssl and OpenTimestamps agree', () => {
  const [reader, openssl, ots, root] = blocks('README.md', 'Verify a receipt without us')
  const read = sh(reader!)
  expect(read.status, read.output).toBe(0)
  const verified = sh(openssl!)
  expect(verified.status, verified.output).toBe(0)
  expect(verified.output).toContain('Verification: OK')
  if (!rails().includes('BTC') || calendarPython() === null) {
    console.warn('no bitcoind or no python3-opentimestamps: the README’s Bitcoin lines did not run')
    return
  }
  const stock = sh(ots!)
  expect(stock.status, stock.output).toBe(0)
  expect(stock.output).toMatch(/BitcoinBlockHeaderAttestation\(\d+\) time \d{10}/)
  const asked = rails().includes('EVM') ? root! : root!.replace(' --evm', '')
  const ok = sh(asked)
  expect(ok.status, ok.output).toBe(0)
  for (const rail of rails()) expect(ok.output).toMatch(new RegExp(`^OK {2}${rail} `, 'm'))
}, 90_000)

test('pages of the docs: what they say to type works on this node', () => {
  const [look, setup] = blocks('docs/alerts.md')
  const looked = sh(look!)
  expect(looked.status, looked.output).toBe(0)
  expect(looked.output).toContain('"missing":[]')
  const etc = join(dir, 'etc')
  mkdirSync(etc)
  if (onPath('promtool') === null || onPath('amtool') === null)
    console.warn('no promtool or no amtool: the set-up of docs/alerts.md did not run')
  else {
    const checked = sh(setup!.replaceAll('/etc/prometheus', etc))
    expect(checked.status, checked.output).toBe(0)
  }
  const psi = sh(blocks('docs/psi.md').join(''))
  expect(psi.status, psi.output).toBe(0)
  expect(psi.output).toContain('"psi"')
  copyFileSync(join(dir, 'paid.receipt.json'), join(dir, 'receipt.json'))
  const formats = sh(blocks('docs/formats.md').join(''))
  expect(formats.status, formats.output).toBe(0)
  expect(formats.output).toContain('Verification: OK')
}, 60_000)

test('the ritual of the plan: anchor all, then verify the newest root by every name it gives it', () => {
  const flags = rails()
    .filter((rail) => rail !== 'TSA')
    .map((rail) => `--${rail.toLowerCase()}`)
    .join(' ')
  for (const chain of rails()
    .filter((rail) => rail !== 'TSA')
    .map((rail) => rail.toLowerCase())) {
    const one = sh(`node scripts/anchor-${chain}.js`)
    expect(one.status, one.output).toBe(0)
    const made = sh(`make -s anchor-${chain}`)
    expect(made.status, made.output).toBe(0)
  }
  const all = sh('make -s anchor-all')
  expect(all.status, all.output).toBe(0)
  for (const name of ['scripts/verify-anchor.sh', 'scripts/verify_anchor']) {
    const ok = sh(`${name} --root $(cat latest-root.txt) ${flags}`)
    expect(ok.status, ok.output).toBe(0)
    expect(ok.output).toContain('OK')
  }
}, 90_000)

/** What the node anchors on here: parts that are absent are named by `make up`, and their rails off. */
function rails(): readonly string[] {
  const trust = readFileSync(join(dir, '.vaultmesh', 'trust.json'), 'utf8')
  return (JSON.parse(trust) as { rails: string[] }).rails
}
