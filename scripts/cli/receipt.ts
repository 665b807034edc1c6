/**
 * receipt: fetch the proof of an event, and wait for it if asked to.
 */

import { writeFile } from 'node:fs/promises'
import { setTimeout as sleep } from 'node:timers/promises'
import { receiptAsProofFile } from '#core/receipt-file.ts'
import { parseReceipt, type Receipt } from '#core/receipt.ts'
import { RemoteProblem } from '../../functions/sdk.ts'
import {
  arity,
  eventHash,
  Exit,
  integer,
  text,
  URL_HELP,
  urlOf,
  UsageError,
  type Command,
  type Terminal,
} from './command.ts'
import { getText } from './remote.ts'
import { eventStatus } from './status.ts'

const POLL_MS = 500
/** What a receipt may say of itself, from weak to strong. */
const STATUSES = ['sealed', 'anchored', 'final'] as const

export const receipt: Command = {
  name: 'receipt',
  summary: 'Fetch the receipt of an event',
  usage: '<eventHash> [-o FILE] [--format json|tlog-proof] [--wait N] [--require R]',
  help: `  -o FILE         write it here instead of stdout
  --format F      json (default) or tlog-proof (C2SP text; anchors ride along)
  --wait N        ask again for up to N seconds
  --require R     anchored or final: not before the node calls it that (verify checks it)
  exit 3 while the event is not sealed, or not what --require asks for; nothing is written then
${URL_HELP}`,
  options: {
    out: { type: 'string', short: 'o' },
    format: { type: 'string', default: 'json' },
    wait: { type: 'string' },
    require: { type: 'string' },
    url: { type: 'string' },
  },
  async run(args, values, terminal) {
    arity(args, 1, 1)
    const format = text(values, 'format')!
    if (format !== 'json' && format !== 'tlog-proof') {
      throw new UsageError(`--format ${format} is neither json nor tlog-proof.`)
    }
    const need = text(values, 'require') ?? 'sealed'
    if (need !== 'sealed' && need !== 'anchored' && need !== 'final') {
      throw new UsageError(`--require ${need} is neither anchored nor final.`)
    }
    const hash = eventHash(args[0])
    const wait = integer(values, 'wait') ?? 0
    const found = await settled({ url: urlOf(values), hash, need, wait }, terminal)
    const content =
      format === 'json' ? `${JSON.stringify(found, null, 2)}\n` : receiptAsProofFile(found)
    const out = text(values, 'out')
    if (out !== undefined) {
      await writeFile(out, content)
      return { exit: Exit.ok, value: { eventHash: hash, file: out }, lines: [out] }
    }
    const value: unknown = format === 'json' ? found : { eventHash: hash, proof: content }
    return { exit: Exit.ok, value, lines: [content.replace(/\n$/, '')] }
  },
}

/** What to wait for. */
interface Wanted {
  readonly url: string
  readonly hash: string
  readonly need: Receipt['status']
  /** Seconds. */
  readonly wait: number
}

/** The receipt once it is what is wanted; throws `RemoteProblem` if it is not so in time. */
async function settled({ url, hash, need, wait }: Wanted, terminal: Terminal): Promise<Receipt> {
  const deadline = Date.now() + wait * 1000
  for (;;) {
    const found = await receiptOf(url, hash)
    const status = typeof found === 'string' ? found : found.status
    if (typeof found !== 'string' && STATUSES.indexOf(found.status) >= STATUSES.indexOf(need)) {
      return found
    }
    const left = deadline - Date.now()
    if (left <= 0) throw pending(status, { need, wait })
    terminal.progress(`${status}, waiting until it is ${need} (${Math.ceil(left / 1000)} s)`)
    await sleep(Math.min(POLL_MS, left))
  }
}

/** The receipt, or where the event stands without one. */
async function receiptOf(url: string, hash: string): Promise<Receipt | string> {
  try {
    return parseReceipt(await getText(`${url}/receipts/${hash}?format=json`))
  } catch (error) {
    if (!(error instanceof RemoteProblem) || error.code !== 'not-sealed') throw error
    const { status, problem } = await eventStatus(url, hash)
    if (status !== 'rejected') return status
    const why = problem?.detail ?? problem?.title ?? ''
    throw new RemoteProblem('rejected', `The node rejected this event. ${why}`.trimEnd())
  }
}

function pending(status: string, { need, wait }: Pick<Wanted, 'need' | 'wait'>): RemoteProblem {
  const after = wait === 0 ? '' : ` after ${wait} s`
  const code = need === 'sealed' ? 'not-sealed' : 'not-anchored'
  return new RemoteProblem(code, `The event is ${status}, not ${need} yet${after}.`, {
    advice: 'Ask again later; --wait N asks for up to N seconds.',
  })
}
