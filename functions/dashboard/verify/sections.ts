/**
 * A verification as a page shows it: sections of lines, each with its state, its words and its hashes.
 *
 * States and verdict are those of the core's report and nothing else: this file finds words for them, it judges
 * nothing. What comes after the first check that failed was not reached and is shown so.
 */

import { anchorReceiptSchema, isDevNetwork, methodOf } from '#core/anchor-receipt.ts'
import type { Step, StepName } from '#core/receipt-steps.ts'
import type { Check, Receipt, Report } from '#core/receipt.ts'
import { visibleText } from '../text.tsx'
import { PROOFS, STEPS, type Words } from './words.ts'

/** `unpinned`: it may be sound, but nobody the visitor trusts vouches for it. */
export type State = 'proven' | 'failed' | 'unpinned' | 'unchecked' | 'unreached'

/** A value under a line. */
export interface Value {
  readonly label: string
  readonly value: string
  /** It came from the line before (the hash from the level below), not from the receipt. */
  readonly carried: boolean
}

/** One step. */
export interface Line {
  readonly step: StepName
  readonly state: State
  readonly words: string
  /** Why it failed, in the core's words. */
  readonly problem: string | null
  readonly values: readonly Value[]
}

/** One check of the report. */
export interface Section {
  readonly title: string
  readonly state: State
  readonly detail: string
  readonly lines: readonly Line[]
}

const WHY_NOT: Readonly<Record<Report['verdict'], string>> = {
  refuted: 'what comes before it does not hold',
  untrusted: 'nobody you trust vouches for what comes before it',
  verified: '',
}

/** The sections of a report, in the order in which the checks were made. */
export function sectionsOf(receipt: Receipt, report: Report): readonly Section[] {
  const titles = [
    'The event',
    'The log’s signature',
    'The path to the root',
    ...receipt.anchors.map(anchorTitle),
  ]
  const made = titles.map((title, i): Section => {
    const check = report.checks[i]
    if (check === undefined) {
      return { title, state: 'unreached', detail: WHY_NOT[report.verdict], lines: [] }
    }
    const state = stateOf(check, report.verdict)
    const lines = check.steps.map((step) => lineOf(step, check, report.verdict))
    return { title, state, detail: clipped(check.detail), lines }
  })
  const words = report.checks.slice(titles.length)
  if (words.length === 0) return made
  const detail = words.map(({ name, detail: why }) => clipped(`${name}: ${why}`)).join('. ')
  return [...made, { title: 'What no check covers', state: 'unchecked', detail, lines: [] }]
}

function stateOf({ ok }: Pick<Check, 'ok'>, verdict: Report['verdict']): State {
  if (ok === null) return 'unchecked'
  if (ok) return 'proven'
  return verdict === 'untrusted' ? 'unpinned' : 'failed'
}

function lineOf(step: Step, check: Check, verdict: Report['verdict']): Line {
  const state = stateOf({ ok: step.ok }, verdict)
  const words = wordsOf(step)
  const values = { ...factsOf(check), ...step.values }
  return {
    step: step.name,
    state,
    words: filled(words[0], values),
    problem: step.ok ? null : clipped(check.detail),
    values: shown(words, values, step),
  }
}

function wordsOf({ name, values }: Step): Words {
  if (name !== 'proof') return STEPS[name]
  const id = String(values['check'])
  const kind = String(values['kind'])
  const known = Object.hasOwn(PROOFS, kind) ? PROOFS[kind]! : {}
  return Object.hasOwn(known, id) ? known[id]! : [`Check “${id}”`]
}

/** What a verified proof says, from its last step; nothing of one that was refused. */
function factsOf({ steps }: Check): Step['values'] {
  const last = steps.at(-1)
  return last?.name === 'outside-time' ? last.values : {}
}

/** Two values that are equal are shown once, under the first label. */
function shown([, ...pairs]: Words, values: Step['values'], step: Step): readonly Value[] {
  const list: Value[] = []
  for (const [label, name] of pairs) {
    const value = values[name]
    if (value === undefined || value === '' || list.some((other) => other.value === value)) continue
    const carried =
      step.name === 'node-hash' &&
      (name === 'left' || name === 'right') &&
      name !== step.values['sibling']
    list.push({ label, value: clipped(String(value)), carried })
  }
  return list
}

function filled(words: string, values: Step['values']): string {
  return words.replaceAll(/\{(\w+)\}/g, (_, name: string) => clipped(String(values[name] ?? '?')))
}

/** Strangers' text: as long as a page can bear, and nothing in it unseen. */
function clipped(text: string): string {
  return visibleText(text.length > 400 ? `${text.slice(0, 400)}…` : text)
}

/** A token knows no host: whose it is says the certificate that it leads to, `network` is the node's word. */
const RAILS = {
  BTC: 'Bitcoin',
  EVM: 'Ethereum-type chain',
  TSA: 'Time-stamp, said to be by',
} as const

/** What an anchor is called. */
function anchorTitle(anchor: Receipt['anchors'][number]): string {
  const { chain, network } = anchor
  const listed = anchorReceiptSchema.loose().safeParse(anchor)
  const calendar = listed.success && methodOf(listed.data) === 'calendar' ? ', by a calendar' : ''
  const dev = isDevNetwork(chain, network) ? ' (dev network)' : ''
  return `${RAILS[chain]} ${network}${calendar}${dev}`
}
