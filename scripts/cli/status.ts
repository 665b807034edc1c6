/**
 * status: where an event stands; without one, how the node does.
 */

import type { GuardianView, NodeHealth } from '#store/guardian-api.ts'
import { RemoteProblem } from '../../functions/sdk.ts'
import {
  arity,
  eventHash,
  Exit,
  URL_HELP,
  urlOf,
  urlOption,
  type Command,
  type Outcome,
} from './command.ts'
import { getJson } from './remote.ts'

/** What a node says of an event. */
export interface Status {
  readonly eventHash: string
  readonly status: string
  readonly height?: number
  readonly leafIndex?: number
  readonly sealedAt?: string
  readonly duplicateOf?: string
  readonly erased?: { readonly erasedBy: string; readonly done: boolean }
  readonly problem?: { readonly title: string; readonly detail?: string }
  readonly anchors?: readonly {
    readonly chain: string
    readonly network: string
    readonly status: string
    readonly anchorTs: string | null
  }[]
}

export const status: Command = {
  name: 'status',
  summary: 'Where an event stands, or how the node does',
  usage: '[<eventHash>]',
  help: `  exit 0 once it is sealed, 3 while it waits, 1 if it was rejected or is unknown
  without a hash: Ψ and what costs most of it; exit 0, 3 before the first telemetry, 1 while an alarm is open;
  METRICS_TOKEN in the environment is sent along if the node wants one
${URL_HELP}`,
  options: urlOption,
  async run(args, values) {
    arity(args, 0, 1)
    if (args.length === 0) return nodeStatus(urlOf(values))
    const at = await eventStatus(urlOf(values), eventHash(args[0]))
    const lines = [`${at.status}${at.sealedAt === undefined ? '' : `; sealed at ${at.sealedAt}`}`]
    if (at.height !== undefined) lines.push(`  batch ${at.height}, leaf ${at.leafIndex}`)
    if (at.duplicateOf !== undefined) lines.push(`  the same event as ${at.duplicateOf}`)
    if (at.erased !== undefined)
      lines.push(`  ${at.erased.done ? 'erased' : 'being erased'} by ${at.erased.erasedBy}`)
    if (at.problem !== undefined) lines.push(`  ${at.problem.detail ?? at.problem.title}`)
    for (const anchor of at.anchors ?? []) {
      const time = anchor.anchorTs === null ? '' : `, anchored at ${anchor.anchorTs}`
      lines.push(`  ${anchor.chain} ${anchor.network}: ${anchor.status}${time}`)
    }
    const waits = at.status === 'received' || at.status === 'accepted'
    const exit = at.status === 'rejected' ? Exit.refuted : waits ? Exit.pending : Exit.ok
    return { exit, value: at, lines }
  },
}

async function nodeStatus(url: string): Promise<Outcome> {
  const token = process.env['METRICS_TOKEN'] ?? ''
  const headers: Record<string, string> = token === '' ? {} : { authorization: `Bearer ${token}` }
  const view = await getJson<GuardianView>(`${url}/guardian`, headers)
  const own = ownOf(view)
  const exit = own === undefined ? Exit.pending : own.alarm === null ? Exit.ok : Exit.refuted
  return { exit, value: view, lines: healthLines(view) }
}

/** Ψ of a node with what each term adds to it, the three signals that cost most of it, and its alarm if one is open. */
export function healthLines(view: GuardianView): string[] {
  const own = ownOf(view)
  if (own === undefined)
    return ['Ψ          not known yet: the first telemetry comes within an interval']
  const stale = own.stale ? `; of ${own.lastAt}, nothing since` : ''
  return [
    `Ψ          ${own.sample.psi.toFixed(3)} (alarm below ${own.threshold})${stale}`,
    `           ${own.sample.terms.map(({ term, contribution }) => `${term} ${contribution.toFixed(2)}`).join('  ')}`,
    ...own.causes.map(({ text }) => `           ${text}`),
    ...(own.alarm === null ? [] : [`ALARM      since ${own.alarm.since}: ${own.alarm.explained}`]),
  ]
}

function ownOf({ nodes }: GuardianView): NodeHealth | undefined {
  return nodes.find(({ own }) => own)
}

/** Where the event stands; throws `RemoteProblem`, in words for one that the node never saw. */
export async function eventStatus(url: string, hash: string): Promise<Status> {
  try {
    return await getJson<Status>(`${url}/events/${hash}/status`)
  } catch (error) {
    if (!(error instanceof RemoteProblem) || error.code !== 'not-found') throw error
    throw new RemoteProblem('not-found', 'This node knows no such event.', {
      status: error.status,
      advice: `Check the hash and the node (${url}).`,
      cause: error,
    })
  }
}
