/**
 * receipts: verified anchor receipts as files that anybody can verify without a node.
 */

import { exportReceipts, RECEIPTS_DIR } from '../receipt-files.ts'
import {
  arity,
  Exit,
  text,
  URL_HELP,
  urlOf,
  urlOption,
  UsageError,
  type Command,
} from './command.ts'

export const receipts: Command = {
  name: 'receipts',
  summary: 'Export verified anchor receipts as files',
  usage: 'export [--dir DIR]',
  help: `  --dir DIR       where they are written (default ${RECEIPTS_DIR}): <root>.<chain>.<network>[.calendar].json
  A receipt file is never changed; a revocation lies beside it. A self-hosted node keeps the folder current.
${URL_HELP}`,
  options: { ...urlOption, dir: { type: 'string' } },
  async run(args, values) {
    arity(args, 1, 1)
    if (args[0] !== 'export') throw new UsageError(`receipts ${args[0]}: say export.`)
    const dir = text(values, 'dir') ?? RECEIPTS_DIR
    const files = await exportReceipts(urlOf(values), dir)
    const lines = files.length === 0 ? ['nothing new'] : files.map((name) => `${dir}/${name}`)
    return { exit: Exit.ok, value: { dir, files }, lines }
  },
}
