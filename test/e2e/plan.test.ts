/**
 * The plan's own words (docs/plan.md) on one node: what it calls a command, a file or a setting works here.
 */

import { spawn } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { unstable_readConfig as readConfig } from 'wrangler'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { ROOT } from '../../scripts/build.ts'
import { freePort, sandbox, type Ran } from './support.ts'

let dir: string
let remove: () => Promise<void>
let port: number
let url: string

beforeAll(async () => {
  ;({ dir, remove } = await sandbox())
  port = await freePort()
  url = `http://127.0.0.1:${port}`
})
afterAll(() => remove())

/** A command in the sandbox as an operator's shell would run it, with the repository's programs. */
function shell(
  command: string,
  env: Record<string, string> = {},
): { child: ReturnType<typeof spawn>; ended: Promise<Ran>; said(): string } {
  const child = spawn('bash', ['-uc', `exec ${command}`], {
    cwd: dir,
    detached: true,
    env: { ...process.env, VAULTMESH_HOME: join(dir, 'home'), VAULTMESH_URL: url, ...env },
  })
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
  const ended = new Promise<Ran>((end) =>
    child.once('close', (code) => end({ code, stdout, stderr })),
  )
  return { child, ended, said: () => stdout + stderr }
}

const until = (program: ReturnType<typeof shell>, text: string): Promise<void> =>
  expect.poll(() => program.said(), { timeout: 30_000, interval: 50 }).toContain(text)

/** The lines of an environment file. */
function envFile(path: string): Record<string, string> {
  const lines = readFileSync(join(ROOT, path), 'utf8').split('\n')
  return Object.fromEntries(
    lines
      .filter((line) => /^[A-Z_]+=/.test(line))
      .map((line) => line.split('=', 2) as [string, string]),
  )
}

const guardian = envFile('config/examples/guardian.env')

test('guardian.env holds the defaults, in advanced mode', () => {
  const { vars } = readConfig({ config: join(ROOT, 'wrangler.toml') })
  expect(guardian['GUARDIAN_MODE']).toBe('advanced')
  for (const [name, value] of Object.entries(guardian)) expect(vars[name], name).toBe(value)
})

test('the queues of the plan are there, its colons as dashes', () => {
  const { queues } = readConfig({ config: join(ROOT, 'wrangler.toml') }) as {
    readonly queues: {
      readonly producers: readonly { readonly queue: string }[]
      readonly consumers: readonly { readonly dead_letter_queue?: string }[]
    }
  }
  const names = [
    ...queues.producers.map(({ queue }) => queue),
    ...queues.consumers.map(({ dead_letter_queue }) => dead_letter_queue),
  ]
  for (const name of ['events:intake', 'events:validated', 'sealer:dlq'])
    expect(names).toContain(name.replace(':', '-'))
})

test('harbinger and sealer run by node alone, with the settings of the plan, until make stop', async () => {
  const harbinger = shell(`node ${ROOT}/services/harbinger/dist/server.js --port ${port}`, {
    ...guardian,
    REDIS_URL: 'redis://localhost:6379',
    HARbINGER_SIG_REQUIRED: '0',
    SEAL_BATCH_MAX_ITEMS: '5000',
    SEAL_BATCH_MAX_INTERVAL_MS: '120000',
  })
  await until(harbinger, 'rails:')
  expect(harbinger.said()).toContain('REDIS_URL is not used')
  const health = await fetch(`http://localhost:${port}/healthz`)
  expect(health.status).toBe(200)
  // Unsigned, as HARbINGER_SIG_REQUIRED=0 says: the node signs what it received.
  const posted = await fetch(`${url}/events`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"from":"the plan"}',
  })
  expect(posted.status).toBe(202)

  const watchPort = await freePort()
  const sealer = shell(`node ${ROOT}/services/sealer/dist/worker.js --port ${watchPort}`)
  await expect
    .poll(
      () =>
        fetch(`http://127.0.0.1:${watchPort}/healthz`).then(
          (r) => r.status,
          () => 0,
        ),
      {
        timeout: 20_000,
        interval: 100,
      },
    )
    .toBe(200)

  const stop = shell(`make -s -C ${ROOT} stop ARGS="--home ${join(dir, 'home')}"`)
  const stopped = await stop.ended
  expect(stopped.code, stop.said()).toBe(0)
  expect((await harbinger.ended).code, harbinger.said()).toBe(0)
  process.kill(-sealer.child.pid!, 'SIGTERM')
  expect((await sealer.ended).code, sealer.said()).toBe(0)
}, 90_000)

test('make federation reads the plan’s federation/config.yaml, and its node shows its peers', async () => {
  mkdirSync(join(dir, 'federation'))
  writeFileSync(
    join(dir, 'federation', 'config.yaml'),
    `node_id: "vm-node-01"
gossip:
  interval_ms: 1500
  max_peers: 16
peers_allowlist:
  - "did:key:z6Mkr5KHPZU6NwjyEMvj9ZwoaojAkRgmWiSAVuebXuqhMyhP"
  - "did:pkh:eip155:1:0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed"
conflict_policy:
  order: ["BTC", "EVM", "TSA"]
  tie_breakers: ["earliest_anchor_ts", "lowest_tx_hash"]
  quarantine_minutes: 15
remembrancer:
  url: "http://remembrancer:7070"
  timeout_ms: 3000
`,
  )
  const config = join(dir, 'federation', 'config.yaml')
  const node = shell(`make -s -C ${ROOT} federation CONFIG=${config} ARGS="--port ${port}"`)
  await until(node, 'rails:')
  const health = await fetch(`${url}/healthz`)
  expect(health.status).toBe(200)
  const peers = (await (await fetch(`${url}/federation/peers`)).json()) as {
    peers: { did: string }[]
  }
  expect(peers.peers.map(({ did }) => did)).toContain(
    'did:key:z6Mkr5KHPZU6NwjyEMvj9ZwoaojAkRgmWiSAVuebXuqhMyhP',
  )
  process.kill(-node.child.pid!, 'SIGTERM')
  await node.ended
}, 60_000)
