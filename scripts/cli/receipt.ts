/**
 * receipt: fetch the proof of an event.
 */

import { writeFile } from 'node:fs/promises'
import { parseReceipt } from '#core/receipt.ts'
import {
  arity,
  eventHash,
  Exit,
  text,
  URL_HELP,
  urlOf,
  UsageError,
  type Command,
} from './command.ts'
import { getText } from './remote.ts'

export const receipt: Command = {
  name: 'receipt',
  summary: 'Fetch the receipt of an event',
  usage: '<eventHash> [-o FILE] [--format json|tlog-proof]',
  help: `  -o FILE         write it here instead of stdout
  --format F      json (default) or tlog-proof (C2SP text; anchors ride along)
  exit 3 while the event is not sealed
${URL_HELP}`,
  options: {
    out: { type: 'string', short: 'o' },
    format: { type: 'string', default: 'json' },
    url: { type: 'string' },
  },
  async run(args, values) {
    arity(args, 1, 1)
    const format = text(values, 'format')!
    if (format !== 'json' && format !== 'tlog-proof') {
      throw new UsageError(`--format ${format} is neither json nor tlog-proof.`)
    }
    const hash = eventHash(args[0])
    const body = await getText(`${urlOf(values)}/receipts/${hash}?format=${format}`)
    const content = format === 'json' ? `${JSON.stringify(parseReceipt(body), null, 2)}\n` : body
    const out = text(values, 'out')
    if (out !== undefined) {
      await writeFile(out, content)
      return { exit: Exit.ok, value: { eventHash: hash, file: out }, lines: [out] }
    }
    const value: unknown = format === 'json' ? JSON.parse(body) : { eventHash: hash, proof: body }
    return { exit: Exit.ok, value, lines: [content.replace(/\n$/, '')] }
  },
}
