/**
 * Runs `scripts/vaultmesh <args>` from the plan's own paths (services/<name>/dist/…), by any Node from 20 on.
 *
 * Where Node can, this process becomes that one (execve: Node 22.15 and later). Where not, it starts it, hands
 * signals on and ends as it ends; should this process be killed, the other one notices and stops. Service managers
 * need neither: the units run scripts/vaultmesh.
 */

import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { join, resolve } from 'node:path'
import process from 'node:process'

const ROOT = resolve(import.meta.dirname, '..')

/** Runs a command of the CLI with what this process was given, and ends with its exit code. */
export function launch(...command) {
  const args = [join(ROOT, 'scripts/vaultmesh.ts'), ...command, ...process.argv.slice(2)]
  const node = join(ROOT, 'node_modules/.bin/node')
  if (!existsSync(node)) {
    process.stderr.write(`vaultmesh: its packages are not installed; run \`npm ci\` in ${ROOT}\n`)
    process.exit(2)
  }
  if (typeof process.execve === 'function') process.execve(node, [node, ...args])
  const child = spawn(node, args, { stdio: ['inherit', 'inherit', 'inherit', 'ipc'] })
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => child.kill(signal))
  child.once('error', (error) => {
    process.stderr.write(`vaultmesh: ${error.message}\n`)
    process.exit(1)
  })
  child.once('close', (code, signal) => {
    process.exitCode = code ?? 1
    if (signal !== null) process.stderr.write(`vaultmesh: ended by ${signal}\n`)
  })
}
