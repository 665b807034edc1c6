/**
 * The command line as an operator calls it, from a lab: a process of its own, so that a lab proves what people run.
 */

import { spawn } from 'node:child_process'
import { join } from 'node:path'
import { ROOT } from '../build.ts'

/** How a command ended. */
export interface Said {
  readonly code: number | null
  /** All that it printed. */
  readonly said: string
}

/** Runs `vaultmesh args…` to its end. */
export function vaultmesh(args: readonly string[]): Promise<Said> {
  const command = [join(ROOT, 'scripts', 'vaultmesh.ts'), ...args]
  const child = spawn(process.execPath, command, { stdio: ['ignore', 'pipe', 'pipe'] })
  let said = ''
  child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()))
  return new Promise((resolve, reject) => {
    child.once('error', reject)
    child.once('close', (code) => resolve({ code, said: said.trim() }))
  })
}
