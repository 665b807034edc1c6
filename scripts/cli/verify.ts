/**
 * verify: check a receipt offline, line by line, and say in one sentence what was proven and by whose word.
 *
 * Nothing is fetched and nothing in the file is believed; trust comes from the caller's flags, or from the
 * trust file that a node here keeps. ✓ holds, ✗ does not, – was not checked: the words say it too.
 */

import { readFile } from 'node:fs/promises'
import { VaultMeshError } from '#core/errors.ts'
import { readReceiptFile, withoutNewline } from '#core/receipt-file.ts'
import { verifyReceipt, type Receipt, type Report } from '#core/receipt.ts'
import {
  arity,
  Exit,
  list,
  text,
  UsageError,
  type Command,
  type ExitCode,
  type Outcome,
  type Terminal,
} from './command.ts'
import { pinsOf, trustOptions, TRUST_HELP, type Pins } from './trust.ts'

export const verify: Command = {
  name: 'verify',
  summary: 'Verify a receipt offline',
  usage: '<receipt.json|file.tlog-proof> [event.jws] [--trust FILE | --vkey KEY…]',
  help: `  event.jws       the event’s bytes: checks signature, id and source too; without them the source
                  and id of a receipt are the word of whoever wrote it (--json: "unproven")
${TRUST_HELP}
  --require R     anchored: by one rail at least; final: by every rail of the trust file
  --rail RAIL     a rail that final needs, instead of the trust file’s; repeatable
  exit 0 verified, 1 refuted, 3 not yet what --require asks for, 5 signed by a key you do not trust, or
  anchored only on dev chains though the log is not of a dev network`,
  options: {
    ...trustOptions,
    require: { type: 'string' },
    rail: { type: 'string', multiple: true },
  },
  async run(args, values, terminal) {
    arity(args, 1, 2)
    const need = text(values, 'require')
    if (need !== undefined && need !== 'anchored' && need !== 'final') {
      throw new UsageError(`--require ${need} is neither anchored nor final.`)
    }
    const pins = await pinsOf(values)
    const rails = list(values, 'rail').length > 0 ? list(values, 'rail') : pins.rails
    if (need === 'final' && rails.length === 0) {
      throw new UsageError('final needs rails: name a trust file that lists them, or --rail TSA.')
    }
    const event = args[1] === undefined ? undefined : withoutNewline(await bytesOf(args[1]))
    let receipt: Receipt
    try {
      receipt = readReceiptFile(await bytesOf(args[0]!), event)
    } catch (error) {
      if (!(error instanceof VaultMeshError)) throw error
      if (error.extra['needs'] === 'event') {
        throw new UsageError(
          'The proof file names no event: give the event’s bytes as second argument.',
        )
      }
      return unreadable(error, terminal)
    }
    const report = await verifyReceipt(receipt, pins, event)
    return judge(report, { receipt, pins, need, rails }, terminal)
  },
}

/** What was asked of the receipt beyond being true. */
interface Demand {
  readonly receipt: Receipt
  readonly pins: Pins
  readonly need: 'anchored' | 'final' | undefined
  readonly rails: readonly string[]
}

/** The report as an outcome. */
function judge(report: Report, demand: Demand, terminal: Terminal): Outcome {
  const { receipt, need, rails } = demand
  const { exit, verdict, sentence } = verdictOf(report, demand)
  const { eventHash, eventId, source } = receipt
  const { checks, anchored, beforeAt, unproven } = report
  const before = beforeAt === null ? null : new Date(beforeAt).toISOString()
  const required = need === undefined ? {} : { require: need, rails }
  return {
    exit,
    value: {
      verdict,
      sentence,
      eventHash,
      eventId,
      source,
      // Each hash of them is for a page to show.
      checks: checks.map(({ name, ok, detail }) => ({ name, ok, detail })),
      anchored,
      before,
      unproven,
      ...required,
    },
    lines: reportLines({ checks, verdict, sentence }, terminal),
  }
}

/** A report as the command prints it. */
export function reportLines(report: Shown, terminal: Pick<Terminal, 'paint'>): readonly string[] {
  const { checks, verdict, sentence } = report
  const width = Math.max(...checks.map((check) => check.name.length))
  return [
    ...checks.map((check) => checkLine(check, terminal, width)),
    sentenceLine(verdict, sentence, terminal),
  ]
}

const HOW_TO_TRUST =
  'If you mean to trust it: vaultmesh trust URL -o FILE, then verify with --trust FILE.'

type Verdict = Report['verdict'] | 'pending'
type Shown = {
  readonly checks: readonly Omit<Report['checks'][number], 'steps'>[]
  readonly sentence: string
  readonly verdict: Verdict
}

function verdictOf(
  report: Report,
  { receipt, pins, need, rails }: Demand,
): { readonly exit: ExitCode; readonly verdict: Verdict; readonly sentence: string } {
  const { verdict, sentence } = report
  if (verdict === 'refuted') return { exit: Exit.refuted, verdict, sentence }
  if (verdict === 'untrusted') {
    return { exit: Exit.untrusted, verdict, sentence: `${sentence} ${HOW_TO_TRUST}` }
  }
  const lacks = (anchored: readonly string[]): readonly string[] => {
    if (need === 'final') return rails.filter((rail) => !anchored.includes(rail))
    return need === 'anchored' && anchored.length === 0 ? ['any rail'] : []
  }
  const missing = lacks(pins.isDev ? report.anchored : report.production)
  if (missing.length === 0) return { exit: Exit.ok, verdict, sentence }
  const what = missing.join(', ')
  if (lacks(report.anchored).length === 0) {
    return {
      exit: Exit.untrusted,
      verdict: 'untrusted',
      sentence: `${sentence} On ${what} it is anchored on a dev network alone, and your trust file does not say that the log is of one.`,
    }
  }
  // A verified anchor under a root nobody pinned is a matter of trust, not of time.
  const foreign = receipt.anchors.some(
    (a) => a.status === 'verified' && (missing[0] === 'any rail' || missing.includes(a.chain)),
  )
  if (foreign) {
    const roots = pins.tsaRoots.length === 0 ? 'no timestamp root' : 'other timestamp roots'
    const nodes = pins.nodeDids.length === 0 ? 'no node' : 'other nodes'
    const named = [
      ...(missing.includes('TSA') || missing[0] === 'any rail' ? [roots] : []),
      ...(missing.includes('EVM') || missing[0] === 'any rail' ? [nodes] : []),
    ]
    const you = named.length === 0 ? '' : ` (you have named ${named.join(' and ')})`
    return {
      exit: Exit.untrusted,
      verdict: 'untrusted',
      sentence: `${sentence} No anchor on ${what} is vouched for by anybody you trust${you}. ${HOW_TO_TRUST}`,
    }
  }
  return {
    exit: Exit.pending,
    verdict: 'pending',
    sentence: `${sentence} Not yet ${need}: no verified anchor on ${what}; fetch the receipt again later.`,
  }
}

/** ✓, ✗ or – with the check's name and what was found. */
function checkLine(
  check: Shown['checks'][number],
  terminal: Pick<Terminal, 'paint'>,
  width: number,
): string {
  const name = `${check.name}:`.padEnd(width + 1)
  if (check.ok === null)
    return `${terminal.paint('yellow', '–')} ${name} not checked: ${check.detail}`
  return check.ok
    ? `${terminal.paint('green', '✓')} ${name} ${check.detail}`
    : `${terminal.paint('red', '✗')} ${name} FAILED: ${check.detail}`
}

function sentenceLine(
  verdict: Verdict,
  sentence: string,
  terminal: Pick<Terminal, 'paint'>,
): string {
  const colour = {
    verified: 'green',
    refuted: 'red',
    untrusted: 'yellow',
    pending: 'yellow',
  } as const
  const word = terminal.paint(colour[verdict], verdict.toUpperCase())
  return `${word} ${sentence.replace(/^(?:Refuted|Nothing was proven)(?: at|:) /, '')}`
}

function unreadable(error: VaultMeshError, terminal: Terminal): Outcome {
  const check = { name: 'receipt', ok: false, detail: error.message }
  const sentence = `The file is no receipt: ${error.message}`
  return {
    exit: Exit.refuted,
    value: { verdict: 'refuted', sentence, checks: [check], anchored: [], before: null },
    lines: reportLines({ checks: [check], verdict: 'refuted', sentence }, terminal),
  }
}

async function bytesOf(path: string): Promise<Uint8Array> {
  try {
    return new Uint8Array(await readFile(path))
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new UsageError(`Cannot read ${path} (${code ?? 'unknown error'}).`)
  }
}
