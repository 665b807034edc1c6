/**
 * backup: a home copied as it was at one moment, also while its node runs; `backup verify` reads one whole.
 */

import { backUp, verifyBackup, type BackupManifest } from '../backup.ts'
import { homeAt } from '../home.ts'
import { arity, Exit, HOME_HELP, text, UsageError, type Command, type Outcome } from './command.ts'

export const backup: Command = {
  name: 'backup',
  summary: 'Copy a node’s home, stopped or running, or read a copy whole',
  usage: '--to DIR [--home DIR] | verify DIR',
  help: `  --to DIR        a new folder for the copy, outside of the home
${HOME_HELP}
  A running node seals nothing for the moment in which its databases are copied, and takes events all the while.
  The node secret is copied as it lies, encrypted; the age key that opens it is not: keep that one apart.
  backup verify DIR   compares every file with the manifest, and each head with the log’s key`,
  options: { home: { type: 'string' }, to: { type: 'string' } },
  async run(args, values, terminal) {
    if (args[0] === 'verify') {
      arity(args, 2, 2)
      const said = await verifyBackup(args[1]!, terminal.progress)
      return outcome(said, `${terminal.paint('green', '✓')} ${args[1]!}: as it was copied`)
    }
    arity(args, 0, 0)
    const to = text(values, 'to')
    if (to === undefined) throw new UsageError('--to names the folder of the backup.')
    const { pausedMs, ...said } = await backUp(homeAt(text(values, 'home')), to, terminal.progress)
    const how = said.online ? `, sealing waited ${(pausedMs / 1000).toFixed(1)} s` : ''
    return outcome(said, `${terminal.paint('green', '✓')} copied to ${to}${how}`)
  },
}

function outcome(said: BackupManifest, line: string): Outcome {
  const { files, ...rest } = said
  const bytes = files.reduce((sum, { size }) => sum + size, 0)
  const megabytes = (bytes / 1e6).toFixed(1)
  const lines = [line, `  taken ${said.takenAt}, ${files.length} files, ${megabytes} MB`]
  for (const { origin, size, height } of said.logs)
    lines.push(`  ${origin}: ${size} events in ${height} batches`)
  return { exit: Exit.ok, value: { ...rest, files: files.length, bytes }, lines }
}
