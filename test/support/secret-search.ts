/**
 * Looking for secrets where none may be: in files, in processes and in what programs say.
 */

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

/** Every spelling of a secret that one would look for: text, bytes, hex in both cases, base64 at each alignment. */
function spellings(secret: string): readonly Buffer[] {
  const hex = /^(?:0x)?([0-9a-f]{64})$/.exec(secret)?.[1]
  const forms = [Buffer.from(secret)]
  if (hex !== undefined) {
    forms.push(Buffer.from(hex), Buffer.from(hex.toUpperCase()), Buffer.from(hex, 'hex'))
  }
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
  return [...forms, ...coded]
}

/** True if `content` has one of the secrets in it, however spelt. */
export function holds(content: Buffer, secrets: readonly string[]): boolean {
  return secrets.some((secret) => spellings(secret).some((spelling) => content.includes(spelling)))
}

/** A process and all below it. */
export function family(pid: number): readonly number[] {
  const children = readdirSync(`/proc/${pid}/task`).flatMap((task) =>
    readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8')
      .split(' ')
      .filter(Boolean)
      .map(Number),
  )
  return [pid, ...children.flatMap(family)]
}
