/**
 * The folder of an environment on Cloudflare, .cloudflare/<env>: all of it that is not on the account.
 *
 *   node.secret.age   the node's secret, encrypted as a self-hosted node's is: who has it is the node
 *   settings.json     what the operator set; edit it, and provision again
 *   state.json        what provisioning did: which account, which D1, what is deployed. No secrets, only tags of them
 *   wrangler.json     the whole configuration, written anew at each run
 *
 * Back it up with the age key. Without state.json nothing here knows that a log exists on the account.
 */

import { randomBytes } from 'node:crypto'
import {
  mkdirSync,
  openSync,
  closeSync,
  fsyncSync,
  readFileSync,
  renameSync,
  writeSync,
} from 'node:fs'
import { join } from 'node:path'
import { VaultMeshError } from '#core/errors.ts'
import type { Vars } from './environment.ts'

/** What provisioning remembers. Each field is written before, not after, what it stands for can be lost. */
export interface State {
  readonly account: string
  /** The D1 of this environment, once it was seen. */
  readonly databaseId?: string
  /** A deploy was begun: from here on there may be a log, and what is gone from the account is a loss. */
  readonly live?: boolean
  /** SHA-256 of the code and configuration that were deployed last. */
  readonly deployed?: string
  /** Tags of the secrets that were put: HMACs under the node's secret, which tell a change and nothing else. */
  readonly secrets?: Readonly<Record<string, string>>
}

/** The files of an environment. */
export interface EnvironmentHome {
  readonly path: string
  readonly wrangler: string
  settings(): Vars | null
  writeSettings(vars: Vars): void
  state(): State | null
  writeState(state: State): void
  writeWrangler(config: object): void
}

/** The folder at `path`, made if it is missing. */
export function environmentHome(path: string): EnvironmentHome {
  const at = (name: string): string => join(path, name)
  return {
    path,
    wrangler: at('wrangler.json'),
    settings() {
      const read = readJson(at('settings.json')) as { vars?: unknown } | null
      if (read === null) return null
      const vars = read.vars
      const isVars =
        typeof vars === 'object' &&
        vars !== null &&
        Object.values(vars).every((value) => typeof value === 'string')
      if (isVars) return vars as Vars
      throw broken(at('settings.json'), 'has no "vars" of names and texts')
    },
    writeSettings: (vars) => writeJson(path, 'settings.json', { vars }),
    state() {
      const read = readJson(at('state.json')) as State | null
      if (read === null || typeof read.account === 'string') return read
      throw broken(at('state.json'), 'names no account')
    },
    writeState: (state) => writeJson(path, 'state.json', state),
    writeWrangler: (config) => writeJson(path, 'wrangler.json', config),
  }
}

function readJson(path: string): object | null {
  let text: string
  try {
    text = readFileSync(path, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOENT') return null
    throw broken(path, `cannot be read (${code ?? 'unknown error'})`)
  }
  try {
    const value: unknown = JSON.parse(text)
    if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value
  } catch {
    // Told below.
  }
  throw broken(path, 'is no JSON object')
}

/** Whole or not at all, and on disk before this returns. */
function writeJson(folder: string, name: string, value: object): void {
  mkdirSync(folder, { recursive: true, mode: 0o700 })
  const part = join(folder, `${name}.${randomBytes(6).toString('hex')}.part`)
  const file = openSync(part, 'wx', 0o600)
  try {
    writeSync(file, `${JSON.stringify(value, null, 2)}\n`)
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
  renameSync(part, join(folder, name))
  const named = openSync(folder, 'r')
  try {
    fsyncSync(named)
  } finally {
    closeSync(named)
  }
}

function broken(path: string, why: string): VaultMeshError {
  return new VaultMeshError('bad-config', `${path} ${why}. Put it back from a backup.`)
}
