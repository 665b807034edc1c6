/**
 * anchor: anchor the newest root now, and wait until that is final.
 *
 * The node signs and pays, with keys it decrypted when it started; this only asks it. What became final is
 * written to anchors/receipts, and the root to latest-root.txt, for verify-anchor.
 */

import { writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { RECEIPTS_DIR, writeReceipt } from '../receipt-files.ts'
import {
  arity,
  Exit,
  integer,
  text,
  UsageError,
  type Command,
  type Terminal,
  type Values,
} from './command.ts'
import { operate, OPERATOR_HELP, operatorOptions } from './operator.ts'

const CHAINS = { btc: 'BTC', evm: 'EVM', tsa: 'TSA' } as const
const DEFAULT_WAIT_S = 120

/** A job as the node shows it to its operator. */
interface Job {
  readonly id: number
  readonly chain: string
  readonly network: string
  readonly method: string
  readonly state: string
  readonly status: string
  readonly reason: string | null
  readonly nextAt: string | null
  readonly receipt: AnchorReceipt | null
  /** Receipts of this job that were revoked before it. */
  readonly revision: number
}

export const anchor: Command = {
  name: 'anchor',
  summary: 'Anchor the newest root now',
  usage: 'btc|evm|tsa|all [--wait SECONDS]\n       vaultmesh anchor release ID',
  help: `  --wait SECONDS  how long to wait until it is final (default ${DEFAULT_WAIT_S}; 0: do not wait)
  --receipts DIR  where verified receipts are written (default ${RECEIPTS_DIR})
  release ID      let a held job be tried again, after you have looked at why it is held
  writes the root to latest-root.txt; exit 0 final, 3 still under way, 1 refused or held
${OPERATOR_HELP}`,
  options: { ...operatorOptions, wait: { type: 'string' }, receipts: { type: 'string' } },
  async run(args, values, terminal) {
    if (args[0] === 'release') return release(args, values)
    arity(args, 1, 1)
    const jobs: Job[] = []
    let root = ''
    for (const chain of await chainsOf(args[0]!, values)) {
      const path = `/admin/anchor?chain=${chain}`
      const report = await operate<{ root: string; jobs: number[] }>(values, 'POST', path)
      root = report.root
      for (const id of report.jobs) jobs.push(await jobOf(values, id))
    }
    writeFileSync('latest-root.txt', `${root}\n`)
    await untilFinal(jobs, values, terminal)
    const folder = text(values, 'receipts') ?? RECEIPTS_DIR
    for (const { receipt, method, revision } of jobs) {
      if (receipt !== null) writeReceipt(folder, receipt, { method, revision })
    }
    const width = Math.max(...jobs.map((job) => nameOf(job).length))
    const lines = jobs.map((job) => `${nameOf(job).padEnd(width)}  ${stateOf(job)}`)
    const isStuck = jobs.some(({ state }) => state === 'held' || state === 'failed')
    const isFinal = jobs.every(({ state }) => state === 'final')
    const exit = isFinal ? Exit.ok : isStuck ? Exit.refuted : Exit.pending
    return { exit, value: { root, jobs }, lines: [`root ${root}`, ...lines] }
  },
}

async function release(args: readonly string[], values: Values) {
  arity(args, 2, 2)
  if (!/^\d{1,15}$/.test(args[1]!)) throw new UsageError(`${args[1]} is no id of a job.`)
  const answer = await operate(values, 'POST', `/admin/anchors/${args[1]}/release`)
  return { exit: Exit.ok, value: answer, lines: [`job ${args[1]} is tried now`] }
}

/** The chains asked for; `all` is every rail of the node. */
async function chainsOf(name: string, values: Values): Promise<readonly string[]> {
  if (Object.hasOwn(CHAINS, name)) return [CHAINS[name as keyof typeof CHAINS]]
  if (name !== 'all') throw new UsageError(`anchor ${name}: say btc, evm, tsa or all.`)
  const { rails } = await operate<{ rails: string[] }>(values, 'GET', '/admin/rails')
  if (rails.length === 0) throw new UsageError('The node anchors nowhere: it has no rail (RAILS).')
  return rails
}

function jobOf(values: Values, id: number): Promise<Job> {
  return operate<Job>(values, 'GET', `/admin/anchors/${id}`)
}

/** Asks after the jobs until all are final or stuck, or time is up; replaces them in place. */
async function untilFinal(jobs: Job[], values: Values, terminal: Terminal): Promise<void> {
  const deadline = Date.now() + (integer(values, 'wait') ?? DEFAULT_WAIT_S) * 1000
  const isOpen = ({ state }: Job): boolean => !['final', 'held', 'failed'].includes(state)
  while (jobs.some(isOpen) && Date.now() < deadline) {
    terminal.progress(
      `waiting: ${jobs
        .filter(isOpen)
        .map((job) => `${nameOf(job)} ${job.state}`)
        .join(', ')}`,
    )
    await sleep(500)
    for (const [i, job] of jobs.entries()) if (isOpen(job)) jobs[i] = await jobOf(values, job.id)
  }
}

function nameOf({ chain, network, method }: Job): string {
  return `${chain} ${network}${method === 'calendar' ? ' calendar' : ''}`
}

function stateOf({ state, receipt, reason, nextAt }: Job): string {
  if (receipt !== null) {
    const block = receipt.blockNumber === null ? '' : `, block ${receipt.blockNumber}`
    return `final: ${receipt.txHash}${block}, before ${receipt.anchorTs}`
  }
  const why = reason === null ? '' : ` (${reason})`
  return `${state}${why}${nextAt === null ? '' : `, looked at again at ${nextAt}`}`
}
