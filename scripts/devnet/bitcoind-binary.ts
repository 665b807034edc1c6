/**
 * Which bitcoind the devnet runs: one on PATH, else the one fetched before into the cache folder, else
 * get-bitcoind.sh brings it there (Debian with a network; 20 s and 60 MB, once).
 */

import { spawn } from 'node:child_process'
import { homedir } from 'node:os'
import { join, resolve } from 'node:path'
import { VaultMeshError } from '#core/errors.ts'
import { ROOT } from '../build.ts'
import { isExecutable, onPath } from './child.ts'

const SCRIPT = 'scripts/devnet/get-bitcoind.sh'

/** Said when there is no Bitcoin node to start and none was fetched. */
export const missingBitcoind = `bitcoind is not installed: no Bitcoin chain, rail BTC is off (${SCRIPT} fetches it, as make up does)`

/** $VAULTMESH_CACHE, or `vaultmesh` in the user's cache folder. */
export function cacheFolder(): string {
  const named = process.env['VAULTMESH_CACHE'] ?? ''
  if (named !== '') return resolve(named)
  const caches = process.env['XDG_CACHE_HOME'] ?? ''
  return join(caches === '' ? join(homedir(), '.cache') : caches, 'vaultmesh')
}

/** The binary, or null if it is neither on PATH nor in the cache. Touches no network. */
export function bitcoindBinary(): string | null {
  const cached = join(cacheFolder(), 'bitcoind/bin/bitcoind')
  return onPath('bitcoind') ?? (isExecutable(cached) ? cached : null)
}

/**
 * The binary, fetched if there is none. Throws `bad-config` with one line that says what is missing;
 * whoever waits for it should say so first: it takes some seconds.
 */
export async function fetchBitcoind(): Promise<string> {
  const present = bitcoindBinary()
  if (present !== null) return present
  const bash = onPath('bash')
  if (bash === null) throw new VaultMeshError('bad-config', 'bitcoind and bash are not installed.')
  const folder = join(cacheFolder(), 'bitcoind')
  const child = spawn(bash, [join(ROOT, SCRIPT), folder], { stdio: ['ignore', 'ignore', 'pipe'] })
  let said = ''
  child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()))
  const code = await new Promise<number | null>((ended) => {
    child.once('error', (error) => {
      said = error.message
      ended(null)
    })
    child.once('close', ended)
  })
  const binary = bitcoindBinary()
  if (code === 0 && binary !== null) return binary
  const line = said.trim().split('\n').at(-1) ?? ''
  throw new VaultMeshError('bad-config', line.replace(/^vaultmesh: /, '') || missingBitcoind)
}
