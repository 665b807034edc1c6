/**
 * `npm run dev`: the Worker under `wrangler dev`, with local D1, R2, queues and Durable Objects.
 *
 * The dev node's secret is made once and kept encrypted (.vaultmesh/dev); wrangler gets it through its
 * environment, never a .dev.vars file. Crons do not fire by themselves under wrangler: tick them with
 *   curl http://127.0.0.1:7077/cdn-cgi/handler/scheduled
 */

import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './build.ts'
import { homeAt } from './home.ts'
import { nodeSecret } from './keystore.ts'

const home = join(homeAt().path, 'dev')
mkdirSync(home, { recursive: true, mode: 0o700 })
// wrangler hands every variable of its environment to the Worker, so it gets these and no others.
const { PATH, HOME, TERM } = process.env
const env = {
  PATH,
  HOME,
  TERM,
  NODE_SECRET: await nodeSecret(home),
  ADMIN_TOKEN: process.env['ADMIN_TOKEN'] ?? 'dev',
  CLOUDFLARE_INCLUDE_PROCESS_ENV: 'true',
  WRANGLER_SEND_METRICS: 'false',
  X_LOCAL_OBSERVABILITY: 'false',
}
const state = ['--persist-to', join(home, 'state')]
const migrated = spawnSync('wrangler', ['d1', 'migrations', 'apply', 'DB', '--local', ...state], {
  cwd: ROOT,
  env: { ...env, CI: 'true' },
  stdio: ['ignore', 'inherit', 'inherit'],
})
if (migrated.status !== 0) process.exit(migrated.status ?? 1)
const overrides = ['--var', 'INTAKE_SHARDS:1', '--var', 'CLIENT_IP_HEADER:']
const args = [
  'dev',
  '--ip',
  '127.0.0.1',
  '--port',
  '7077',
  '--test-scheduled',
  ...state,
  ...overrides,
]
const child = spawn('wrangler', [...args, ...process.argv.slice(2)], {
  cwd: ROOT,
  env,
  stdio: 'inherit',
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
child.on('exit', (code) => process.exit(code ?? 0))
