/**
 * Looking for secrets where none may be: in files, in processes and in what programs say.
 */

import { secp256k1 } from '@noble/curves/secp256k1.js'
import { NETWORK, TEST_NETWORK, WIF } from '@scure/btc-signer'
import { readdirSync, readFileSync, statSync } from 'node:fs'
import { join } from 'node:path'

/** The files below a folder, sockets and the like left out. */
export function filesIn(dir: string): string[] {
  return readdirSync(dir, { recursive: true, encoding: 'utf8' })
    .map((name) => join(dir, name))
    .filter((path) => statSync(path, { throwIfNoEntry: false })?.isFile() === true)
}

/** What a file holds now; a journal of SQLite that is gone since it was listed holds nothing. */
export function contentOf(path: string): Buffer {
  try {
    return readFileSync(path)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return Buffer.alloc(0)
    throw error
  }
}

/**
 * Every spelling of a secret that one would look for: text as it is, in JSON and in a URL; of keys the bytes, hex in
 * both cases, base64url and the WIF of Bitcoin; each also in base64 at each alignment.
 */
function spellings(secret: string): readonly Buffer[] {
  const known = cache.get(secret)
  if (known !== undefined) return known
  const texts = [secret, JSON.stringify(secret).slice(1, -1), encodeURIComponent(secret)]
  const key = keyOf(secret)
  if (key !== null) {
    const hex = key.toString('hex')
    texts.push(hex, hex.toUpperCase(), key.toString('base64url'), key.toString('base64'))
    if (secp256k1.utils.isValidSecretKey(key))
      texts.push(...[NETWORK, TEST_NETWORK].map((network) => WIF(network).encode(key)))
  }
  const forms: Buffer[] = [...new Set(texts)].map((text) => Buffer.from(text))
  if (key !== null) forms.push(key)
  const coded = forms.flatMap((form) =>
    [0, 1, 2].flatMap((shift) => {
      const whole = Buffer.concat([Buffer.alloc(shift), form])
      // Only the letters that do not depend on what stands before and after.
      const [from, to] = [Math.ceil((shift * 4) / 3), Math.floor((whole.length * 4) / 3)]
      return (['base64', 'base64url'] as const).map((alphabet) =>
        Buffer.from(whole.toString(alphabet).slice(from, to)),
      )
    }),
  )
  const all = [...forms, ...coded]
  cache.set(secret, all)
  return all
}

const cache = new Map<string, readonly Buffer[]>()

/** The 32 bytes that a secret is: of 64 hex digits, or 43 letters of base64url; null for a text. */
function keyOf(secret: string): Buffer | null {
  const hex = /^(?:0x)?([0-9a-f]{64})$/.exec(secret)?.[1]
  if (hex !== undefined) return Buffer.from(hex, 'hex')
  return /^[\w-]{43}$/.test(secret) ? Buffer.from(secret, 'base64url') : null
}

/** True if `content` has one of the secrets in it, however spelt. */
export function holds(content: Buffer, secrets: readonly string[]): boolean {
  return secrets.some((secret) => spellings(secret).some((spelling) => content.includes(spelling)))
}

/** The arguments and the environment of a process and of all below it. */
export function processesOf(pid: number): Buffer {
  const read = (path: string): Buffer => {
    try {
      return readFileSync(path)
    } catch {
      return Buffer.alloc(0) // It ended since it was listed.
    }
  }
  const names = ['cmdline', 'environ']
  return Buffer.concat(
    family(pid).flatMap((one) => names.map((name) => read(`/proc/${one}/${name}`))),
  )
}

/** A process and all below it. */
export function family(pid: number): readonly number[] {
  const lines = (): string[] => {
    try {
      return readdirSync(`/proc/${pid}/task`).map((task) =>
        readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8'),
      )
    } catch {
      return [] // It ended meanwhile.
    }
  }
  const children = lines().flatMap((line) => line.split(' ').filter(Boolean).map(Number))
  return [pid, ...children.flatMap(family)]
}
