/**
 * `make lab` as a user runs it: gate 1 with real chains, nodes and processes. And `make federation`, by which an
 * operator comes into a federation.
 */

import { spawn } from 'node:child_process'
import { readdirSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { parseFederationConfig } from '#core/federation-config.ts'
import { ROOT } from '../../scripts/build.ts'
import { anvilBinary, missingAnvil } from '../../scripts/devnet/anvil.ts'
import { onPath } from '../../scripts/devnet/child.ts'
import { absent, bitcoindAbsence } from './devnet-support.ts'
import { freePort, run, sandbox, start } from './support.ts'

const LAB = join(ROOT, 'scripts', 'lab-federation.ts')
const FEDERATION = join(ROOT, 'scripts', 'federation.ts')
const missing = [
  bitcoindAbsence,
  anvilBinary() === null ? missingAnvil : null,
  ...['openssl', 'make'].map((tool) => (onPath(tool) === null ? `${tool} is not installed` : null)),
].map(absent)

let dir: string
let remove: () => Promise<void>
beforeAll(async () => {
  ;({ dir, remove } = await sandbox())
})
afterAll(() => remove())

/** Once in the whole run, which must end within half an hour; LAB_RUNS=3 asks thrice, as one race decides nothing. */
const RUNS = Array.from({ length: Number(process.env['LAB_RUNS'] ?? 1) }, (_, i) => i + 1)

test.skipIf(missing.includes(true)).each(RUNS)(
  'run %i: three nodes decide a forced conflict alike, hold a bad root, lose a node, change a key, and stand on one mesh root',
  async () => {
    const before = folders()
    const { code, output } = await make('lab')
    expect(code, output).toBe(0)
    expect(output).not.toContain('✗')
    expect(output.trimEnd().split('\n').at(-1)).toMatch(
      /^✓ lab: 3 nodes, 1 forced conflict decided alike, 1 bad root held, 1 node cut off and back, 1 key rotated, 3 equal mesh roots \(\d+ s\)$/,
    )
    // Read again by this file's own arithmetic: the last three mesh roots are one.
    const roots = [...output.matchAll(/^ +[ABC] {2}mesh root (sha256:[0-9a-f]{64})$/gm)]
    expect(roots.length).toBe(6)
    expect(new Set(roots.slice(-3).map(([, root]) => root)).size).toBe(1)
    expect(output).toMatch(/^ +BTC regtest \S+ before EVM anvil \S+ tier BTC > EVM$/m)
    expect(output).toMatch(/^ +GET \/federation\/conflicts of A, B, C:$/m)
    expect(folders()).toEqual(before)
  },
  300_000,
)

test('a chain that is absent is named in one line, and the lab does not begin', async () => {
  const env = { PATH: '/nonexistent', VAULTMESH_CACHE: join(dir, 'no-cache') }
  const { code, stdout, stderr } = await run([LAB], { cwd: dir, env })
  expect(code).toBe(1)
  expect(stderr).toContain('rail BTC is off')
  expect(stderr).toContain('rail TSA is off')
  expect(stderr).toContain('needs Bitcoin, an EVM chain and timestamps')
  expect(stdout).not.toContain('✓')
  const wrong = await run([LAB, '--without', 'btc'], { cwd: dir })
  expect(wrong).toMatchObject({ code: 2 })
})

test('without a configuration a node says what its peers write down of it; with theirs it runs', async () => {
  const [port, peerPort] = [await freePort(), await freePort()]
  const peer = await run([FEDERATION, '--home', join(dir, 'peer'), '--port', String(peerPort)], {
    cwd: dir,
    env: { ORIGIN: 'peer.test/log' },
  })
  expect(peer.code).toBe(1)
  expect(peer.stderr).toMatch(
    /^vaultmesh: There is no config\/federation\.yaml: copy \S+federation\.config\.yaml there and list your peers\.\n$/,
  )
  const yaml = `peers_allowlist:\n${peer.stdout}`
  expect(parseFederationConfig(yaml).peers).toMatchObject([
    { url: `http://127.0.0.1:${peerPort}`, origin: 'peer.test/log' },
  ])

  const file = join(dir, 'federation.yaml')
  writeFileSync(file, yaml)
  const args = ['--federation', file, '--home', join(dir, 'node'), '--port', String(port)]
  const node = await start([FEDERATION, ...args], 'vaultmesh vm-node-01 at')
  try {
    const url = `http://127.0.0.1:${port}`
    const health = (await (await fetch(`${url}/healthz`)).json()) as { ok: boolean }
    expect(health.ok).toBe(true)
    const { peers } = (await (await fetch(`${url}/federation/peers`)).json()) as {
      peers: readonly { origin: string }[]
    }
    expect(peers).toMatchObject([{ origin: 'peer.test/log' }])
  } finally {
    await node.stop('SIGTERM')
  }
})

/** Folders that a lab leaves only with --keep. */
function folders(): readonly string[] {
  return readdirSync(tmpdir()).filter((name) => name.startsWith('vm-mesh-'))
}

function make(target: string): Promise<{ readonly code: number | null; readonly output: string }> {
  const env: NodeJS.ProcessEnv = {}
  for (const [name, value] of Object.entries(process.env)) {
    if (!/^(?:VITEST|NODE_OPTIONS|NODE_ENV|FORCE_COLOR)/.test(name)) env[name] = value
  }
  const child = spawn('make', ['-s', target], { cwd: ROOT, env })
  let output = ''
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()))
  return new Promise((ended) => child.once('close', (code) => ended({ code, output })))
}
