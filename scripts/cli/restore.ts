/**
 * restore: a backup put back as a new home, whole or not at all, with what its operator must know.
 */

import { restore as putBack } from '../backup.ts'
import { arity, Exit, text, UsageError, type Command } from './command.ts'

export const restore: Command = {
  name: 'restore',
  summary: 'Put a backup back as a new home',
  usage: '--from DIR --home NEW',
  help: `  --from DIR      what \`vaultmesh backup\` wrote; it is verified first
  --home NEW      a folder that is not there, or empty: nothing is ever written over`,
  options: { from: { type: 'string' }, home: { type: 'string' } },
  async run(args, values, terminal) {
    arity(args, 0, 0)
    const from = text(values, 'from')
    const home = text(values, 'home')
    if (from === undefined || home === undefined)
      throw new UsageError('--from names the backup, and --home the new home.')
    const { files, home: path, ...said } = await putBack(from, home, terminal.progress)
    const { origin, height, size } = said.logs.at(-1)!
    const lines = [
      `${terminal.paint('green', '✓')} ${path}: ${origin} as of ${said.takenAt}, ${size} events in ${height} batches`,
      terminal.paint('bold', 'Before you start it:'),
      '  1 The node it is a copy of must never run again beside it: two that seal one log fork it for good.',
      '  2 The log may have grown since. With peers it takes its own newest batches back from them before it seals;',
      '    without, what was sealed since is lost, and whoever holds receipts of it can prove that: open a new log instead.',
      '  3 Its wallets do not know what they paid since. They sign for no new root until you have looked at their address',
      '    on the chain and released the held job: vaultmesh anchor release <id> (alerts say which).',
      '  4 Then: vaultmesh selfhost --home … and vaultmesh fsck --home …',
    ]
    return { exit: Exit.ok, value: { ...said, home: path, files: files.length }, lines }
  },
}
