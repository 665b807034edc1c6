/**
 * Secrets at rest: files encrypted with age (age-encryption.org/v1) to one identity of this machine.
 *
 * The identity is a file of `age-keygen` text, $VAULTMESH_AGE_KEY_FILE or ~/.config/age/keys.txt, mode
 * 0600, made at first use; the stock `age` tool and SOPS read the same file. Whoever has it has every
 * secret here; losing it loses them. Decrypted bytes live in memory only: never on disk, in an
 * environment, in an argument, in an error or in a log.
 */

import { Decrypter, Encrypter, generateX25519Identity, identityToRecipient } from 'age-encryption'
import { randomBytes } from 'node:crypto'
import { chmod, link, mkdir, open, readdir, readFile, stat, unlink } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fromBase64Url, toBase64Url } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { Alg } from '#core/signer.ts'

/** The node secret's file name within a home folder. */
export const NODE_SECRET_FILE = 'node.secret.age'

/** A client's signing key as it lies in its file. */
export interface ClientKey {
  readonly alg: Alg
  /** DID or DID URL, for people; the SDK derives it again from the secret. */
  readonly kid: string
  /** 32 bytes as base64url. */
  readonly secret: string
}

/** Where this machine's age identity is. */
export function identityPath(): string {
  const named = process.env['VAULTMESH_AGE_KEY_FILE']
  return resolve(
    named === undefined || named === '' ? join(homedir(), '.config', 'age', 'keys.txt') : named,
  )
}

/** Encrypts `secret` to this machine's identity and writes it to a new file of mode 0600. */
export async function writeSecret(path: string, secret: Uint8Array | string): Promise<void> {
  const encrypter = new Encrypter()
  for (const identity of await identities({ create: true })) {
    encrypter.addRecipient(await identityToRecipient(identity))
  }
  await writeNew(path, await encrypter.encrypt(secret))
}

/** The text of an encrypted file; throws `bad-config` with what to do, never with what was read. */
export async function readSecret(path: string): Promise<string> {
  const file = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    throw refuse(`Cannot read ${path} (${error.code ?? 'unknown error'}).`)
  })
  const decrypter = new Decrypter()
  for (const identity of await identities({ create: false })) decrypter.addIdentity(identity)
  try {
    return await decrypter.decrypt(file, 'text')
  } catch {
    // No cause: a decrypter's error may quote what it worked on.
    throw refuse(
      `Cannot decrypt ${path} with ${identityPath()}. Put back the identity it was encrypted to, or name it in VAULTMESH_AGE_KEY_FILE.`,
    )
  }
}

/**
 * The secret of the node in `home` as base64url, made at first use. Never made beside a log: a new secret
 * would be another node, and the log's own would seem lost for good.
 */
export async function nodeSecret(home: string): Promise<string> {
  const path = join(home, NODE_SECRET_FILE)
  if (!(await exists(path))) {
    const state = join(home, 'state')
    const held = await readdir(state).catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return []
      throw refuse(`Cannot read ${state} (${error.code ?? 'unknown error'}).`)
    })
    if (held.length > 0) {
      throw refuse(
        `${state} holds a log, but its secret is missing: put back ${NODE_SECRET_FILE} (from your backup).`,
      )
    }
    await mkdir(home, { recursive: true, mode: 0o700 })
    await writeSecret(path, toBase64Url(randomBytes(32)))
  }
  const secret = (await readSecret(path)).trim()
  if (byteLength(secret) !== 32) {
    throw refuse(`${path} does not hold 32 bytes as base64url. Restore it from a backup.`)
  }
  return secret
}

/** Writes a client key to `path`, which must not exist: a key is never overwritten. */
export async function writeClientKey(path: string, key: ClientKey): Promise<void> {
  await mkdir(dirname(resolve(path)), { recursive: true, mode: 0o700 })
  await writeSecret(path, `${JSON.stringify(key)}\n`)
}

/** The client key in `path`. */
export async function readClientKey(path: string): Promise<ClientKey> {
  const wrong = () => refuse(`${path} is no signing key. Make one with: vaultmesh keygen`)
  let value: unknown
  try {
    value = JSON.parse(await readSecret(path))
  } catch (error) {
    throw error instanceof VaultMeshError ? error : wrong()
  }
  const key = value as Partial<Record<keyof ClientKey, unknown>> | null
  const { alg, kid, secret } = key ?? {}
  if (typeof alg !== 'string' || typeof kid !== 'string' || typeof secret !== 'string')
    throw wrong()
  if (byteLength(secret) !== 32) throw wrong()
  return { alg: alg as Alg, kid, secret }
}

/** The identities of this machine: lines `AGE-SECRET-KEY-…` of its file, others are comments. */
export async function identities({
  create,
}: {
  readonly create: boolean
}): Promise<readonly string[]> {
  const path = identityPath()
  if (!(await exists(path))) {
    if (!create) {
      throw refuse(
        `There is no age identity at ${path}. Put back the one the secrets were encrypted to, or name it in VAULTMESH_AGE_KEY_FILE.`,
      )
    }
    await createIdentity(path)
  }
  const { mode } = await stat(path)
  if ((mode & 0o077) !== 0) {
    throw refuse(`Others can read the age identity ${path}. Close it: chmod 600 ${path}`)
  }
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw refuse(`Cannot read the age identity ${path} (${error.code ?? 'unknown error'}).`)
  })
  const lines = text.split('\n').map((line) => line.trim())
  const found = lines.filter((line) => /^AGE-SECRET-KEY-(?:PQ-)?1[0-9A-Z]+$/.test(line))
  if (found.length === 0) throw refuse(`${path} holds no age identity (age-keygen makes one).`)
  return found
}

/** As `age-keygen -o` writes it. */
async function createIdentity(path: string): Promise<void> {
  const identity = await generateX25519Identity()
  const recipient = await identityToRecipient(identity)
  const created = new Date().toISOString().replace(/\.\d+Z$/, 'Z')
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  const text = `# created: ${created}\n# public key: ${recipient}\n${identity}\n`
  await writeNew(path, text).catch((error: unknown) => {
    // Two first starts at once: one made it, both use it.
    if (!(error instanceof VaultMeshError && error.extra['exists'] === true)) throw error
  })
}

/** Whole or not at all, and never over another file: `link` fails where `rename` would replace. */
export async function writeNew(path: string, content: Uint8Array | string): Promise<void> {
  const part = `${path}.${randomBytes(6).toString('hex')}.part`
  try {
    const file = await open(part, 'wx', 0o600)
    try {
      await file.writeFile(content)
      await file.sync()
    } finally {
      await file.close()
    }
    await chmod(part, 0o600)
    await link(part, path)
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'EEXIST') {
      throw new VaultMeshError('bad-config', `${path} exists already; it is not overwritten.`, {
        extra: { exists: true },
      })
    }
    throw refuse(`Cannot write ${path} (${code ?? 'unknown error'}).`)
  } finally {
    await unlink(part).catch(() => undefined)
  }
}

async function exists(path: string): Promise<boolean> {
  return stat(path).then(
    () => true,
    () => false,
  )
}

function byteLength(secret: string): number {
  try {
    return fromBase64Url(secret).length
  } catch {
    return 0
  }
}

function refuse(detail: string): VaultMeshError {
  return new VaultMeshError('bad-config', detail)
}
