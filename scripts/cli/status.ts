/**
 * status: where an event stands.
 */

import { RemoteProblem } from '../../functions/sdk.ts'
import { arity, eventHash, Exit, URL_HELP, urlOf, urlOption, type Command } from './command.ts'
import { getJson } from './remote.ts'

/** What a node says of an event. */
export interface Status {
  readonly eventHash: string
  readonly status: string
  readonly height?: number
  readonly leafIndex?: number
  readonly sealedAt?: string
  readonly duplicateOf?: string
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
  summary: 'Where an event stands',
  usage: '<eventHash>',
  help: `  exit 0 once it is sealed, 3 while it waits, 1 if it was rejected or is unknown
${URL_HELP}`,
  options: urlOption,
  async run(args, values) {
    arity(args, 1, 1)
    const at = await eventStatus(urlOf(values), eventHash(args[0]))
    const lines = [`${at.status}${at.sealedAt === undefined ? '' : `; sealed at ${at.sealedAt}`}`]
    if (at.height !== undefined) lines.push(`  batch ${at.height}, leaf ${at.leafIndex}`)
    if (at.duplicateOf !== undefined) lines.push(`  the same event as ${at.duplicateOf}`)
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
