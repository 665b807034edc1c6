/**
 * evidence: what a file of evidence proves against a log, offline.
 */

import { readFile } from 'node:fs/promises'
import { VaultMeshError } from '#core/errors.ts'
import { verifyEvidence } from '#core/fork-evidence.ts'
import { arity, Exit, UsageError, type Command } from './command.ts'

export const evidence: Command = {
  name: 'evidence',
  summary: 'Check a file of evidence against a log, offline',
  usage: '<file|->',
  help: `  The file is what /federation/evidence?origin=…&height=… of any node gives. It holds for the key that it names:
  whether that is the key of the log that you know is yours to compare.
  exit 0 if it proves what it says, 1 if it proves nothing`,
  options: {},
  async run(args, _values, terminal) {
    arity(args, 1, 1)
    const bytes = args[0] === '-' ? await terminal.stdin() : await readFile(args[0]!).catch(missing)
    let file: unknown
    try {
      file = JSON.parse(new TextDecoder().decode(bytes))
    } catch {
      throw new VaultMeshError('bad-proof', `${args[0]} is no JSON.`)
    }
    const sentence = await verifyEvidence(file)
    const lines = [`${terminal.paint('green', 'PROVEN')} ${sentence}`]
    return { exit: Exit.ok, value: { proven: true, sentence }, lines }
  },
}

function missing(error: unknown): never {
  throw new UsageError(error instanceof Error ? error.message : String(error))
}
