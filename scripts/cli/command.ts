/**
 * What every command of the CLI is: a name, its options, and a function from arguments to an outcome.
 *
 * A command prints nothing itself. Its outcome says the same thing twice: `lines` for people, `value` for
 * programs (--json: one JSON value on stdout and nothing else), and the exit code that both share.
 */

import { parseArgs, type ParseArgsOptionsConfig } from 'node:util'
import { VaultMeshError } from '#core/errors.ts'
import { RemoteProblem } from '../../functions/sdk.ts'

/** Exit codes; scripts may rely on them. */
export const Exit = {
  ok: 0,
  refuted: 1,
  usage: 2,
  pending: 3,
  unreachable: 4,
  untrusted: 5,
} as const
export type ExitCode = (typeof Exit)[keyof typeof Exit]

/** What a command found. */
export interface Outcome {
  readonly exit: ExitCode
  readonly value: unknown
  readonly lines: readonly string[]
}

/** What a command may use of the terminal. */
export interface Terminal {
  /** A line on stderr that the next one replaces; nothing where stderr is no terminal. */
  progress(text: string): void
  /** Colour for people; the words say the same without it. */
  paint(colour: 'green' | 'red' | 'yellow' | 'bold', text: string): string
  /** All of standard input. */
  stdin(): Promise<Uint8Array>
}

/** Parsed options, by name. */
export type Values = Readonly<Record<string, string | boolean | readonly string[] | undefined>>

/** One command. */
export interface Command {
  readonly name: string
  readonly summary: string
  /** Arguments as the usage line shows them. */
  readonly usage: string
  /** More for --help: options one a line, examples. */
  readonly help: string
  readonly options: ParseArgsOptionsConfig
  run(args: readonly string[], values: Values, terminal: Terminal): Promise<Outcome>
}

/** The call itself is wrong: exit 2 with the usage line. */
export class UsageError extends Error {}

/** Options that every command has. */
export const commonOptions = {
  json: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
} as const satisfies ParseArgsOptionsConfig

/** The option of commands that talk to a node over HTTP. */
export const urlOption = { url: { type: 'string' } } as const satisfies ParseArgsOptionsConfig
export const URL_HELP =
  '  --url URL       the node (default $VAULTMESH_URL or http://127.0.0.1:7077)'
export const HOME_HELP =
  '  --home DIR      the node’s home folder (default $VAULTMESH_HOME or .vaultmesh)'

/** The node's URL: --url, else $VAULTMESH_URL, else the self-hosted default. */
export function urlOf(values: Values): string {
  const url = text(values, 'url') ?? process.env['VAULTMESH_URL'] ?? 'http://127.0.0.1:7077'
  if (!URL.canParse(url) || !/^https?:$/.test(new URL(url).protocol)) {
    throw new UsageError(`--url ${url} is no http URL.`)
  }
  return url.replace(/\/+$/, '')
}

/** A string option, or undefined. */
export function text(values: Values, name: string): string | undefined {
  const value = values[name]
  return typeof value === 'string' ? value : undefined
}

/** A repeatable string option. */
export function list(values: Values, name: string): readonly string[] {
  const value = values[name]
  return Array.isArray(value) ? (value as readonly string[]) : []
}

/** A whole-number option. */
export function integer(values: Values, name: string): number | undefined {
  const value = text(values, name)
  if (value === undefined) return undefined
  if (!/^\d{1,9}$/.test(value)) throw new UsageError(`--${name} ${value} is no whole number.`)
  return Number(value)
}

/** An event hash in any case, with or without its prefix. */
export function eventHash(argument: string | undefined): string {
  const digits = /^(?:sha256:)?([0-9a-fA-F]{64})$/.exec(argument ?? '')?.[1]
  if (digits === undefined) {
    throw new UsageError(`An event hash is sha256: and 64 hex digits, not "${argument ?? ''}".`)
  }
  return `sha256:${digits.toLowerCase()}`
}

/** Arguments of `command` parsed; throws `UsageError` in one plain sentence. */
export function parse(command: Command, args: readonly string[]) {
  const options: ParseArgsOptionsConfig = { ...command.options, ...commonOptions }
  try {
    const { values, positionals } = parseArgs({ args: [...args], options, allowPositionals: true })
    return { values: values as Values, positionals }
  } catch (error) {
    // parseArgs goes on about escaping; its first sentence says it.
    const message = error instanceof Error ? error.message : String(error)
    throw new UsageError(`${message.split('. ')[0]!.replace(/\.$/, '')}.`)
  }
}

/** Exactly so many arguments, or `UsageError`. */
export function arity(args: readonly string[], least: number, most: number): void {
  if (args.length < least) throw new UsageError('An argument is missing.')
  if (args.length > most) throw new UsageError(`There is one argument too many: ${args[most]}.`)
}

/** The outcome that stands for an error; rethrows what is no error of ours. */
export function outcomeOf(error: unknown, command: Command): Outcome {
  if (error instanceof UsageError) {
    return failure(Exit.usage, {
      code: 'usage',
      detail: error.message,
      advice: `usage: vaultmesh ${command.name} ${command.usage}`,
    })
  }
  if (error instanceof RemoteProblem) {
    const exit =
      error.code === 'unreachable'
        ? Exit.unreachable
        : error.code === 'not-sealed' || error.code === 'not-anchored'
          ? Exit.pending
          : Exit.refuted
    const { requestId } = error.extra
    const id = typeof requestId === 'string' ? { requestId } : {}
    return failure(exit, { code: error.code, detail: error.message, advice: error.advice, ...id })
  }
  if (error instanceof VaultMeshError) {
    const exit = error.code === 'untrusted-key' ? Exit.untrusted : Exit.refuted
    // The advice of bad-config speaks of a node's variables; the keystore's details advise already.
    const advice = error.code === 'bad-config' ? '' : error.advice
    return failure(exit, { code: error.code, detail: error.message, advice })
  }
  if (error instanceof Error && 'syscall' in error) {
    return failure(Exit.usage, { code: 'file', detail: error.message, advice: '' })
  }
  throw error
}

/** What went wrong, in one line and what to do in the next. */
export interface Failure {
  readonly code: string
  readonly detail: string
  readonly advice: string
  readonly requestId?: string
}

function failure(exit: ExitCode, error: Failure): Outcome {
  const lines = [`vaultmesh: ${error.detail}`]
  if (error.advice !== '') lines.push(`  ${error.advice}`)
  return { exit, value: { error }, lines }
}
