/**
 * trust: save what a node says of its keys, to verify its receipts by later. Reading trust files too.
 */

import { existsSync } from 'node:fs'
import { readFile, writeFile } from 'node:fs/promises'
import type { ParseArgsOptionsConfig } from 'node:util'
import { certificateSha256 } from '#core/certificate.ts'
import { checkPins, parseTrustFile, type TrustFile } from '#core/trust-file.ts'
import { trustOf } from '../../functions/sdk.ts'
import { homeAt } from '../home.ts'
import { arity, Exit, list, text, UsageError, type Command, type Values } from './command.ts'

/** The trust of all files and flags together. */
export interface Pins extends Omit<TrustFile, 'network'> {
  /** Every trust file is of a dev log: only then are anchors on dev chains worth anything. */
  readonly isDev: boolean
}

export const trust: Command = {
  name: 'trust',
  summary: 'Save the keys of a node, to verify its receipts by',
  usage: '<url> [-o FILE]',
  help: `  -o FILE         write it here instead of stdout
  The node says of itself who it is: compare the key with what its operator tells you elsewhere.
  The file is JSON; verify reads "vkeys" (keys of logs, name+hex+base64), "tsaRoots" (PEM certificates
  that timestamp chains may end in), "nodeDids" (nodes whose word is taken for "this EVM block is final")
  "rails" (what --require final needs) and "network" (anchors on dev chains count if it is "dev"); "node_id",
  "node_did" and "origin" are names for people. Keep old entries of "tsaRoots": older receipts need them.`,
  options: { out: { type: 'string', short: 'o' } },
  async run(args, values) {
    arity(args, 1, 1)
    if (!URL.canParse(args[0]!)) throw new UsageError(`${args[0]} is no URL.`)
    const pins = await trustOf(args[0]!, { attempts: 2 })
    const out = text(values, 'out')
    const content = JSON.stringify(pins, null, 2)
    if (out === undefined) return { exit: Exit.ok, value: pins, lines: [content] }
    await writeFile(out, `${content}\n`)
    const roots = pins.tsaRoots.map((pem) => `  timestamp root ${certificateSha256(pem)}`)
    const lines = [out, ...pins.vkeys.map((vkey) => `  log key ${vkey}`), ...roots]
    return { exit: Exit.ok, value: { file: out, trust: pins }, lines }
  },
}

/** Options that say whom the caller trusts. */
export const trustOptions = {
  trust: { type: 'string', multiple: true },
  vkey: { type: 'string', multiple: true },
  'tsa-root': { type: 'string', multiple: true },
  'node-did': { type: 'string', multiple: true },
  home: { type: 'string' },
} as const satisfies ParseArgsOptionsConfig

export const TRUST_HELP = `  --trust FILE    keys and timestamp roots to believe (vaultmesh trust URL -o FILE); repeatable
  --vkey KEY      a log’s verifier key, name+hex+base64; repeatable
  --tsa-root FILE PEM certificates that timestamp chains may end in; repeatable
  --node-did DID  a node whose word is taken that an EVM block is final; repeatable
  --home DIR      without any of these: the trust.json of the node here, if there is one`

/** Trust by flags; without any, the trust file of the node here. */
export async function pinsOf(values: Values): Promise<Pins> {
  const files = [...list(values, 'trust')]
  const vkeys = [...list(values, 'vkey')]
  const tsaRoots: string[] = []
  for (const path of list(values, 'tsa-root')) {
    const pem = await readText(path, 'the timestamp roots')
    const found = pem.match(/-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g)
    if (found === null) throw new UsageError(`${path} holds no PEM certificate.`)
    tsaRoots.push(...found)
  }
  usable(() => checkPins({ vkeys, tsaRoots }), 'A key you named')
  const own = homeAt(text(values, 'home')).trust
  const nodeDids = [...list(values, 'node-did')]
  const isNamed = [files, vkeys, tsaRoots, nodeDids].some(({ length }) => length > 0)
  if (!isNamed && existsSync(own)) files.push(own)
  const rails: string[] = []
  let isDev = files.length > 0
  for (const file of files) {
    const pins = await readTrust(file)
    vkeys.push(...pins.vkeys)
    tsaRoots.push(...pins.tsaRoots)
    rails.push(...pins.rails)
    nodeDids.push(...pins.nodeDids)
    isDev &&= pins.network === 'dev'
  }
  return { vkeys, tsaRoots, nodeDids, rails: [...new Set(rails)], isDev }
}

/** The trust file at `path`; throws `UsageError` if it is none. */
export async function readTrust(path: string): Promise<TrustFile> {
  const content = await readText(path, 'the trust file')
  return usable(() => parseTrustFile(content), `The trust file ${path}`)
}

/** Keys and certificates of the caller's own that cannot be read are a usage error, not a verdict. */
function usable<T>(read: () => T, where: string): T {
  try {
    return read()
  } catch (error) {
    throw new UsageError(`${where}: ${error instanceof Error ? error.message : String(error)}`)
  }
}

/** Text of a file that the caller named. */
export async function readText(path: string, what: string): Promise<string> {
  try {
    return await readFile(path, 'utf8')
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    throw new UsageError(`Cannot read ${what} ${path} (${code ?? 'unknown error'}).`)
  }
}
