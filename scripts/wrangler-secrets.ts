/**
 * Secrets of a Worker on Cloudflare, set by the wrangler that the lock file pins: `wrangler secret bulk`, the values
 * as JSON on its standard input. They are in no argument, environment or file, and in nothing that we print.
 */

import { spawn } from 'node:child_process'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { VaultMeshError } from '#core/errors.ts'
import { endOf } from './sops-binary.ts'

/** Where wrangler.toml is. */
const ROOT = resolve(import.meta.dirname, '..')

/** What to set, and where. */
export interface Push {
  /** At most 100 (wrangler's own limit a call). */
  readonly values: Readonly<Record<string, string>>
  /** An environment of wrangler.toml; the top level without one. */
  readonly env?: string
  /** The Worker, where it is not the one that the configuration names. */
  readonly name?: string
  /** The configuration; wrangler.toml here without one. */
  readonly config?: string
}

/**
 * Sets the secrets and returns what wrangler said. Throws `bad-config` with its last words if it fails, those that
 * hold one of the values left out.
 */
export async function pushSecrets({ values, env, name, config }: Push): Promise<string> {
  const wrangler = createRequire(import.meta.url).resolve('wrangler/package.json')
  const args = [join(dirname(wrangler), 'bin/wrangler.js'), 'secret', 'bulk']
  args.push('--config', config ?? join(ROOT, 'wrangler.toml'))
  if (env !== undefined) args.push('--env', env)
  if (name !== undefined) args.push('--name', name)
  const child = spawn(process.execPath, args, {
    cwd: ROOT,
    // Its debug log may hold bodies of requests: no setting from outside turns that on here.
    env: { ...process.env, WRANGLER_LOG: 'log', WRANGLER_LOG_SANITIZE: 'true', NO_COLOR: '1' },
    stdio: ['pipe', 'pipe', 'pipe'],
  })
  const ended = endOf(child)
  let said = ''
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => (said += chunk.toString()))
  child.stdin.on('error', () => undefined)
  child.stdin.end(JSON.stringify(values))
  const how = await ended
  const words = said
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !Object.values(values).some((value) => line.includes(value)))
  if (how === 0) return words.join('\n')
  const why = words.filter((line) => /error|✘|must|could not|not /i.test(line)).join(' ')
  throw new VaultMeshError(
    'bad-config',
    `wrangler ended with ${how} and may have set none of the secrets. ${why === '' ? words.slice(-3).join(' ') : why}`.trim(),
  )
}
