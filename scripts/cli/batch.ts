/**
 * batch: what one seal appended; without a height, the newest batches.
 */

import { arity, Exit, URL_HELP, urlOf, UsageError, type Command } from './command.ts'
import { getJson, getText } from './remote.ts'

interface Batch {
  readonly height: number
  readonly firstIndex: number
  readonly count: number
  readonly treeSize: number
  readonly root: string
  readonly sealedAt: string
}

export const batch: Command = {
  name: 'batch',
  summary: 'Show a batch, its events, or the newest batches',
  usage: '[height] [--events]',
  help: `  --events        the events of that batch, one compact JWS a line
${URL_HELP}`,
  options: { events: { type: 'boolean' }, url: { type: 'string' } },
  async run(args, values) {
    arity(args, 0, 1)
    const [height] = args
    const url = urlOf(values)
    if (height === undefined) {
      if (values['events'] === true) throw new UsageError('--events needs a height.')
      const page = await getJson<{ readonly batches: readonly Batch[] }>(`${url}/batches?limit=20`)
      return { exit: Exit.ok, value: page, lines: page.batches.map(line) }
    }
    if (!/^[1-9]\d{0,15}$/.test(height)) throw new UsageError(`${height} is no height.`)
    if (values['events'] === true) {
      const events = (await getText(`${url}/batches/${height}/events`)).trimEnd().split('\n')
      return { exit: Exit.ok, value: { height: Number(height), events }, lines: events }
    }
    const found = await getJson<Batch>(`${url}/batches/${height}`)
    return { exit: Exit.ok, value: found, lines: [line(found), `  root ${found.root}`] }
  },
}

function line({ height, firstIndex, count, treeSize, sealedAt }: Batch): string {
  const last = firstIndex + count - 1
  const leaves = count === 1 ? `leaf ${firstIndex}` : `leaves ${firstIndex}–${last}`
  return `batch ${height}: ${count} ${count === 1 ? 'event' : 'events'}, ${leaves}, tree size ${treeSize}, sealed ${sealedAt}`
}
