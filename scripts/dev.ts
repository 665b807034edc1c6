/**
 * `npm run dev`: the Worker under `wrangler dev`, with local D1, R2, queues and Durable Objects.
 *
 * The dev node's secret is made once and kept encrypted (.vaultmesh/dev); wrangler gets it through its
 * environment, never a .dev.vars file. There is no admin socket: operator commands take --url and the token
 * in VAULTMESH_ADMIN_TOKEN. Crons do not fire by themselves under wrangler: tick them with
 *   curl http://127.0.0.1:7077/cdn-cgi/handler/scheduled
 */

import { spawn, spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './build.ts'
import { fail } from './fail.ts'
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
  NODE_SECRET: await nodeSecret(home).catch(fail),
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
const more = process.argv.slice(2)
// wrangler refuses an option given twice.
const named = more.indexOf('--port')
const port = named < 0 ? '7077' : (more[named + 1] ?? '')
const args = ['dev', '--ip', '127.0.0.1', '--test-scheduled', ...state, ...overrides]
if (named < 0) args.push('--port', port)
const token = process.env['ADMIN_TOKEN'] === undefined ? 'dev' : '"$ADMIN_TOKEN"'
console.log(`operator commands: VAULTMESH_ADMIN_TOKEN=${token} scripts/vaultmesh seal --url http://127.0.0.1:${port}
crons: curl http://127.0.0.1:${port}/cdn-cgi/handler/scheduled`)
const child = spawn('wrangler', [...args, ...more], {
  cwd: ROOT,
  env,
  stdio: 'inherit',
})
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => child.kill(signal))
child.on('exit', (code) => process.exit(code ?? 0))
