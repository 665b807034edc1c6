/**
 * post: one event from flags or a file, a signed .jws, or NDJSON of either.
 */

import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import { fromUtf8 } from '#core/bytes.ts'
import {
  post as postTo,
  RemoteProblem,
  sign,
  type EventInput,
  type EventSigner,
  type PostedBulk,
} from '../../functions/sdk.ts'
import { homeAt } from '../home.ts'
import {
  arity,
  Exit,
  HOME_HELP,
  integer,
  text,
  URL_HELP,
  urlOf,
  UsageError,
  type Command,
  type Outcome,
  type Terminal,
  type Values,
} from './command.ts'
import { signerFrom } from './keygen.ts'

/** Lines of one request: an answer, and so progress, every few hundred milliseconds. */
const BULK_LINES = 2000
/** Attributes of an event made by flags. */
const EVENT_FLAGS = ['data', 'subject', 'id', 'time'] as const
const COMPACT_JWS = /^[\w-]+\.[\w-]+\.[\w-]+$/

export const post: Command = {
  name: 'post',
  summary: 'Sign and post events',
  usage: '<file|-> [--ndjson] | --type T [--data JSON] [--subject S] [--wait N]',
  help: `  file            a JSON CloudEvent (what is absent is filled in), or a compact JWS as it is
  --ndjson        the file holds one of these a line
  --type T        instead of a file: an event of this type …
  --data JSON     … with this data (a JSON value; other text is taken as a string, unless it begins
                  like JSON: [ { or ")
  --subject S     … about this
  --id ID         … under this id, which stands for one event of this signer
  --time T        … at this time (RFC 3339; default now). With the same --id, --time and the rest it
                  is the same event, and posted twice it counts once
  --key FILE      the signing key (default $VAULTMESH_KEY or <home>/client.key.age)
  --wait N        wait up to N seconds for the receipt; exit 3 if it is not sealed by then
  --save FILE     keep the signed event (with --ndjson: events) here, before it is sent: posted again
                  it is the same event
  -o FILE         keep the receipt here (with --wait)
${HOME_HELP}
${URL_HELP}`,
  options: {
    ndjson: { type: 'boolean' },
    type: { type: 'string' },
    data: { type: 'string' },
    subject: { type: 'string' },
    id: { type: 'string' },
    time: { type: 'string' },
    key: { type: 'string' },
    wait: { type: 'string' },
    save: { type: 'string' },
    out: { type: 'string', short: 'o' },
    home: { type: 'string' },
    url: { type: 'string' },
  },
  async run(args, values, terminal) {
    const type = text(values, 'type')
    arity(args, type === undefined ? 1 : 0, type === undefined ? 1 : 0)
    const stray = EVENT_FLAGS.find((flag) => type === undefined && values[flag] !== undefined)
    if (stray !== undefined) throw new UsageError(`--${stray} is for an event made by --type.`)
    const url = urlOf(values)
    const wait = integer(values, 'wait')
    const bulk = values['ndjson'] === true || (args[0] ?? '').endsWith('.ndjson')
    if (text(values, 'out') !== undefined && (wait === undefined || bulk)) {
      throw new UsageError('-o keeps the receipt of one event that you --wait for.')
    }
    const signer = lazy(() => clientSigner(values))
    if (bulk) {
      if (type !== undefined) throw new UsageError('--type makes one event; --ndjson reads many.')
      return postMany(url, await readInput(args[0]!, terminal), { values, signer, terminal })
    }
    const jws =
      type === undefined
        ? await signedOf(await readInput(args[0]!, terminal), signer)
        : await sign(await signer(), eventFrom(values, type))
    return postOne(url, jws, { values, wait })
  },
}

async function postOne(
  url: string,
  jws: string,
  { values, wait }: { readonly values: Values; readonly wait: number | undefined },
): Promise<Outcome> {
  // Before the network: what was accepted must be at hand even if the answer is lost.
  await keep(text(values, 'save'), jws)
  const posted = await postTo(url, jws, wait === undefined ? {} : { wait }).catch(
    (error: unknown) => {
      throw inWords(error, url, text(values, 'save'))
    },
  )
  const out = text(values, 'out')
  if (posted.receipt !== undefined) {
    await keep(out, `${JSON.stringify(posted.receipt, null, 2)}\n`)
  }
  const pending = wait !== undefined && posted.receipt === undefined
  const lines = [
    posted.eventHash,
    `  ${posted.status}${pending ? `, not sealed within ${wait} s` : ''}, received ${posted.receivedAt}`,
  ]
  if (posted.receipt !== undefined) {
    const { leafIndex, origin } = posted.receipt
    lines.push(`  leaf ${leafIndex} of ${origin}${out === undefined ? '' : `; receipt in ${out}`}`)
  } else lines.push(`  vaultmesh receipt ${posted.eventHash}`)
  return { exit: pending ? Exit.pending : Exit.ok, value: posted, lines }
}

async function postMany(
  url: string,
  input: string,
  context: {
    readonly values: Values
    readonly signer: () => Promise<EventSigner>
    readonly terminal: Terminal
  },
): Promise<Outcome> {
  const { values, signer, terminal } = context
  const lines = input.split('\n').map((line) => line.trim())
  const numbered = lines.map((line, i) => ({ line, at: i + 1 })).filter(({ line }) => line !== '')
  if (numbered.length === 0) throw new UsageError('There is no event in the input.')
  const events: string[] = []
  for (const { line, at } of numbered) {
    events.push(await signedOf(line, signer, `Line ${at}`))
    if (at % 500 === 0) terminal.progress(`signed ${at} of ${numbered.length}`)
  }
  await keep(text(values, 'save'), `${events.join('\n')}\n`)
  const results: PostedBulk['results'][number][] = []
  const promises: PostedBulk['promises'][number][] = []
  for (let from = 0; from < events.length; from += BULK_LINES) {
    const answer = await postTo(url, events.slice(from, from + BULK_LINES)).catch(
      (error: unknown) => {
        throw inWords(error, url, text(values, 'save'), ' --ndjson')
      },
    )
    for (const result of answer.results) results.push({ ...result, index: from + result.index })
    promises.push(...answer.promises)
    terminal.progress(`posted ${results.length} of ${events.length}`)
  }
  const refused = results.filter((result) => 'problem' in result)
  const shown = refused.slice(0, 20).map(({ index, problem }) => {
    return `✗ line ${numbered[index]!.at}: ${takenBy(problem) ?? problem.detail}`
  })
  if (refused.length > shown.length) shown.push(`✗ and ${refused.length - shown.length} more`)
  return {
    exit: refused.length === 0 ? Exit.ok : Exit.refuted,
    value: {
      accepted: results.length - refused.length,
      refused: refused.length,
      results: results.map(({ index, ...result }) => ({ line: numbered[index]!.at, ...result })),
      promises,
    },
    lines: [...shown, `${results.length - refused.length} accepted, ${refused.length} refused`],
  }
}

/** The error, with what to do next for a poster at a terminal. */
function inWords(error: unknown, url: string, saved: string | undefined, how = ''): unknown {
  if (!(error instanceof RemoteProblem)) return error
  const { code, status, extra } = error
  if (code === 'unreachable') {
    const again =
      saved === undefined
        ? 'With --save FILE the signed event is kept, to be sent again as the same event.'
        : `What you signed is in ${saved}; send it again: vaultmesh post ${saved}${how} --url ${url}`
    const advice = `See that the node runs and that --url is right. ${again}`
    return new RemoteProblem(code, error.message, { status, advice, extra, cause: error })
  }
  const taken = takenBy({ type: `/problems/${code}`, eventHash: extra['eventHash'] })
  if (taken === null) return error
  const advice = `If it is yours, fetch its receipt with: vaultmesh receipt ${String(extra['eventHash'])} --url ${url}`
  return new RemoteProblem(code, taken, { status, advice, extra, cause: error })
}

/** In words, that the id of an event belongs to another one; null if that is not the problem. */
function takenBy(problem: { readonly type: string; readonly eventHash?: unknown }): string | null {
  const { type, eventHash } = problem
  if (type !== '/problems/event-id-reused' || typeof eventHash !== 'string') return null
  return `An event with this id is there already: ${eventHash}.`
}

/** A compact JWS as it is, or a JSON event signed. */
async function signedOf(
  input: string,
  signer: () => Promise<EventSigner>,
  where = 'The file',
): Promise<string> {
  const trimmed = input.trim()
  if (COMPACT_JWS.test(trimmed)) return trimmed
  let value: unknown
  try {
    value = JSON.parse(trimmed)
  } catch {
    throw new UsageError(`${where} is neither a compact JWS nor JSON.`)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new UsageError(`${where} is no JSON object.`)
  }
  const { event, type } = value as { readonly event?: unknown; readonly type?: unknown }
  if (typeof event === 'string' && COMPACT_JWS.test(event)) return event
  if (typeof type !== 'string') throw new UsageError(`${where} has no "type": no CloudEvent.`)
  return sign(await signer(), value as EventInput)
}

function eventFrom(values: Values, type: string): EventInput {
  const data = text(values, 'data')
  const subject = text(values, 'subject')
  const id = text(values, 'id')
  const time = text(values, 'time')
  return {
    type,
    ...(id === undefined ? {} : { id }),
    ...(time === undefined ? {} : { time }),
    ...(subject === undefined ? {} : { subject }),
    ...(data === undefined ? {} : { data: jsonOrText(data) }),
  }
}

/** A log keeps what it is given: what was meant as an object must not get in as a string. */
function jsonOrText(data: string): unknown {
  try {
    return JSON.parse(data)
  } catch (error) {
    if (/^\s*[[{"]/.test(data))
      throw new UsageError(`--data begins like JSON and is none: ${(error as Error).message}.`)
    return data
  }
}

async function clientSigner(values: Values): Promise<EventSigner> {
  const named = text(values, 'key') ?? process.env['VAULTMESH_KEY'] ?? ''
  const file = named === '' ? homeAt(text(values, 'home')).clientKey : named
  if (!existsSync(file)) {
    throw new UsageError(`There is no signing key at ${file}; make one with: vaultmesh keygen`)
  }
  return signerFrom(file)
}

function lazy<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined
  return () => (made ??= make())
}

async function readInput(file: string, terminal: Terminal): Promise<string> {
  if (file === '-') return fromUtf8(await terminal.stdin())
  try {
    return fromUtf8(await readFile(file))
  } catch (error) {
    if (!(error instanceof Error && 'syscall' in error)) throw error
    const { code } = error as NodeJS.ErrnoException
    throw new UsageError(
      code === 'ENOENT'
        ? `There is no file ${file}.`
        : `Cannot read ${file} (${code ?? 'unknown error'}).`,
    )
  }
}

async function keep(file: string | undefined, content: string): Promise<void> {
  if (file !== undefined) await writeFile(file, content)
}
