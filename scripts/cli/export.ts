/**
 * export: a log as plain files that need nothing of ours; `export verify` reads one without a node.
 */

import { exportLog, verifyExport } from '../export.ts'
import {
  arity,
  Exit,
  integer,
  text,
  URL_HELP,
  urlOf,
  urlOption,
  UsageError,
  type Command,
} from './command.ts'

/** Findings shown to people; all of them are in --json. */
const SHOWN = 50

export const exportCommand: Command = {
  name: 'export',
  summary: 'Copy a log as plain files that anybody can verify',
  usage: '--to DIR [--from HEIGHT] [--url URL] | verify DIR',
  help: `  --to DIR        a new folder, or one of an earlier export: what is new is added
  --from HEIGHT   leave out the events of older batches (new exports; the tiles are always whole)
${URL_HELP}
  A node that shows no events in public shows them to who has $VAULTMESH_ADMIN_TOKEN.
  export verify DIR   verifies all of an export, without a node; its keys are those of its trust.json`,
  options: { ...urlOption, to: { type: 'string' }, from: { type: 'string' } },
  async run(args, values, terminal) {
    if (args[0] === 'verify') {
      arity(args, 2, 2)
      const { findings, ...said } = await verifyExport(args[1]!, terminal.progress)
      const { origin, size, batches, receipts, erased } = said
      const lines = findings
        .slice(0, SHOWN)
        .map((finding) => `${terminal.paint('red', '✗')} ${finding}`)
      if (findings.length > SHOWN) lines.push(`✗ and ${findings.length - SHOWN} more (--json)`)
      const what = `${origin}, ${size} entries, the events of ${batches} batches (${erased} erased), ${receipts} anchor receipts`
      lines.push(
        findings.length === 0
          ? `${terminal.paint('green', '✓')} ${what}: every hash leads to a signed root`
          : `${findings.length} findings in ${what}`,
      )
      const clean = findings.length === 0
      return { exit: clean ? Exit.ok : Exit.refuted, value: { clean, ...said, findings }, lines }
    }
    arity(args, 0, 0)
    const to = text(values, 'to')
    if (to === undefined) throw new UsageError('--to names the folder of the export.')
    const from = Math.max(1, integer(values, 'from') ?? 1)
    const said = await exportLog(urlOf(values), { folder: to, from, progress: terminal.progress })
    const { origin, size, height, batches, receipts, erased } = said
    const lines = [
      `${terminal.paint('green', '✓')} ${to}: ${origin}, ${size} events in ${height} batches`,
      `  new: ${batches} batches, ${receipts} files of anchor receipts, ${erased} events erased since`,
    ]
    return { exit: Exit.ok, value: said, lines }
  },
}
