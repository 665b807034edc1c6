/**
 * <home>/rotation.json: the statements that chain a node's identity keys, `{"statements": ["<JWS>", …]}`.
 *
 * They are public, and proved by nothing but themselves: the node verifies them at its start. They must not be lost:
 * peers that saw a statement take another one for its epoch for a stolen key. So the file goes with the home into a
 * backup, is replaced whole or not at all, and by one command at a time (replace-file.ts).
 */

import { existsSync, readFileSync } from 'node:fs'
import * as z from 'zod'
import { fromBase64Url, fromUtf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { MAX_STATEMENT_BYTES, MAX_STATEMENTS } from '#core/rotation.ts'
import type { Home } from './home.ts'
import { replaceFile } from './replace-file.ts'

const fileSchema = z.strictObject({
  statements: z
    .array(
      z
        .string()
        .regex(/^[A-Za-z0-9_.-]+$/, 'is no compact JWS')
        .max(MAX_STATEMENT_BYTES),
    )
    .max(MAX_STATEMENTS),
})

/** The statements of the home, none if there is no file. Throws `bad-config` for a file that cannot be read. */
export function readStatements(home: Home): readonly string[] {
  if (!existsSync(home.rotation)) return []
  const parsed = fileSchema.safeParse(jsonOf(home.rotation))
  if (parsed.success) return parsed.data.statements
  const { path, message } = parsed.error.issues[0]!
  throw unreadable(home, `"${path.join('.')}": ${message}`)

  function jsonOf(file: string): unknown {
    try {
      return JSON.parse(readFileSync(file, 'utf8'))
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      throw unreadable(home, code ?? 'no JSON')
    }
  }
}

/** The statements of the home, and those that the environment's ROTATION has beside them. */
export function knownStatements(home: Home, env: NodeJS.ProcessEnv): readonly string[] {
  const more = (env['ROTATION'] ?? '').split(/[\s,]+/).filter((text) => text !== '')
  return [...new Set([...readStatements(home), ...more])]
}

/**
 * Replaces the file by what `change` makes of its statements. Throws `bad-config` if another process is at it, and
 * whatever `change` throws; the file is as it was then.
 */
export async function changeStatements(
  home: Home,
  change: (statements: readonly string[]) => Promise<readonly string[]>,
): Promise<void> {
  await replaceFile(home.rotation, 0o644, async () => {
    const statements = await change(readStatements(home))
    return `${JSON.stringify({ statements }, null, 2)}\n`
  })
}

/** What a node is told of its keys: ROTATION, and NODE_DID where an address delegated to them. */
export function rotationVars(home: Home, env: NodeJS.ProcessEnv): Readonly<Record<string, string>> {
  const own = readStatements(home)
  if (own.length === 0) return {}
  const address = delegatorOf(own)
  const named = (env['NODE_DID'] ?? '') !== ''
  return {
    ROTATION: knownStatements(home, env).join(' '),
    ...(address === null || named ? {} : { NODE_DID: address }),
  }
}

/** The did:pkh that the statements name as theirs, unverified; null if they are of a did:key. */
export function delegatorOf(statements: readonly string[]): string | null {
  try {
    const payload = fromUtf8(fromBase64Url(statements[0]?.split('.')[1] ?? ''))
    const { iss } = JSON.parse(payload) as { readonly iss?: unknown }
    return typeof iss === 'string' && iss.startsWith('did:pkh:') ? iss : null
  } catch {
    return null // The node says what is wrong with it.
  }
}

function unreadable(home: Home, why: string): VaultMeshError {
  return new VaultMeshError(
    'bad-config',
    `ROTATION: cannot read the key statements in ${home.rotation} (${why}). Put the file back from a backup.`,
  )
}
