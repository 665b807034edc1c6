/**
 * How a program here ends when it cannot go on: one plain line on stderr, exit code 1, or 2 for a wrong
 * call. A stack is for faults of ours only.
 */

import { VaultMeshError } from '#core/errors.ts'

/** Says why, and ends the process. */
export function fail(error: unknown): never {
  if (!(error instanceof Error)) return end(String(error), 1)
  const code = 'code' in error && typeof error.code === 'string' ? error.code : ''
  // parseArgs goes on about escaping; its first sentence says it.
  if (code.startsWith('ERR_PARSE_ARGS')) return end(error.message.split('. ')[0]!, 2)
  const plain = error instanceof VaultMeshError || code !== ''
  return end(plain ? error.message : (error.stack ?? error.message), 1)
}

function end(text: string, code: number): never {
  process.stderr.write(`vaultmesh: ${text}\n`)
  process.exit(code)
}
