/**
 * trust: save what a node says of its keys, to verify its receipts by later. Reading trust files too.
 */

import { readFile, writeFile } from 'node:fs/promises'
import * as z from 'zod'
import { certificateSha256 } from '#core/certificate.ts'
import { parseVkey } from '#core/signed-note.ts'
import { trustOf } from '../../functions/sdk.ts'
import { arity, Exit, text, UsageError, type Command } from './command.ts'

const trustSchema = z.object({
  vkeys: z.array(z.string()),
  tsaRoots: z.array(z.string()).default([]),
  rails: z.array(z.string()).default([]),
})

/** A trust file: pinned keys, and the rails that make an event final. */
export type TrustFile = z.infer<typeof trustSchema>

export const trust: Command = {
  name: 'trust',
  summary: 'Save the keys of a node, to verify its receipts by',
  usage: '<url> [-o FILE]',
  help: `  -o FILE         write it here instead of stdout
  The node says of itself who it is: compare the key with what its operator tells you elsewhere.
  The file is JSON; verify reads "vkeys" (keys of logs, name+hex+base64), "tsaRoots" (PEM certificates
  that timestamp chains may end in) and "rails" (what --require final needs); "node_id", "node_did",
  "origin" and "network" are names for people. Keep old entries of "tsaRoots": older receipts need them.`,
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

/** The trust file at `path`; throws `UsageError` if it is none. */
export async function readTrust(path: string): Promise<TrustFile> {
  const content = await readText(path, 'the trust file')
  let value: unknown
  try {
    value = JSON.parse(content)
  } catch {
    throw new UsageError(`The trust file ${path} is not JSON.`)
  }
  const parsed = trustSchema.safeParse(value)
  if (!parsed.success) {
    const [issue] = parsed.error.issues
    throw new UsageError(`The trust file ${path}: "${issue!.path.join('.')}": ${issue!.message}.`)
  }
  checkPins(parsed.data, `The trust file ${path}`)
  return parsed.data
}

/** Keys and certificates of the caller's own that cannot be read are a usage error, not a verdict. */
export function checkPins(
  pins: { readonly vkeys: readonly string[]; readonly tsaRoots: readonly string[] },
  where: string,
): void {
  try {
    for (const vkey of pins.vkeys) parseVkey(vkey)
    for (const pem of pins.tsaRoots) certificateSha256(pem)
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
