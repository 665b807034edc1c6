/**
 * Secrets at rest: files encrypted with age (age-encryption.org/v1) to the identities of this machine, and to the
 * recipients that `vaultmesh keys recipients` added.
 *
 * The identities are a file of `age-keygen` text, $VAULTMESH_AGE_KEY_FILE or ~/.config/age/keys.txt, mode
 * 0600, made at first use; the stock `age` tool and SOPS read the same file. Whoever has it has every
 * secret here; losing it loses them, unless another recipient reads them. Decrypted bytes live in memory only:
 * never on disk, in an environment, in an argument, in an error or in a log.
 *
 * An age file does not say to whom it is encrypted, so ours say it inside, after the secret: lines
 * `# readable by age1…`. The list and the secret are one file, and change in one step.
 */

import { Decrypter, Encrypter, generateX25519Identity, identityToRecipient } from 'age-encryption'
import { randomBytes } from 'node:crypto'
import { chmod, link, mkdir, open, readdir, readFile, stat, unlink } from 'node:fs/promises'
import { homedir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { fromBase64Url, toBase64Url } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { Alg } from '#core/signer.ts'
import { replaceFile } from './replace-file.ts'

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

/** Encrypts `secret` to this machine's identities and writes it to a new file of mode 0600. */
export async function writeSecret(path: string, secret: string): Promise<void> {
  await writeNew(path, await sealed(secret, await ownRecipients({ create: true })))
}

/** The text of an encrypted file; throws `bad-config` with what to do, never with what was read. */
export async function readSecret(path: string): Promise<string> {
  return (await openSecret(path)).secret
}

/** What is in an encrypted file. */
export interface Opened {
  readonly secret: string
  /** Who can read it; null for a file of the stock tool, or of a time before the list was kept. */
  readonly recipients: readonly string[] | null
}

/** The text of an encrypted file and who can read it; throws as `readSecret` does. */
export async function openSecret(path: string): Promise<Opened> {
  const file = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    throw refuse(`Cannot read ${path} (${error.code ?? 'unknown error'}).`)
  })
  return opened(file, await identities({ create: false }), path)
}

/** The same of a file's bytes, with these identities; `path` is what refusals call it. */
export async function opened(
  file: Uint8Array,
  keys: readonly string[],
  path: string,
): Promise<Opened> {
  const decrypter = new Decrypter()
  for (const identity of keys) decrypter.addIdentity(identity)
  let text: string
  try {
    text = await decrypter.decrypt(file, 'text')
  } catch {
    // No cause: a decrypter's error may quote what it worked on.
    throw refuse(
      `Cannot decrypt ${path} with ${identityPath()}. Put back the identity it was encrypted to, or name it in VAULTMESH_AGE_KEY_FILE.`,
    )
  }
  const listed = READERS.exec(text)
  if (listed === null) return { secret: text, recipients: null }
  const recipients = listed[0].match(/age1[0-9a-z]+/g) ?? []
  return { secret: text.slice(0, listed.index), recipients }
}

const READERS = /\n(?:# readable by age1[0-9a-z]+\n)+$/

/** Encrypts `secret` to `recipients`, the list of them inside. */
async function sealed(secret: string, recipients: readonly string[]): Promise<Uint8Array> {
  const encrypter = new Encrypter()
  for (const who of recipients) encrypter.addRecipient(who)
  const list = recipients.map((who) => `# readable by ${who}\n`).join('')
  return encrypter.encrypt(`${secret}\n${list}`)
}

/** A change of recipients. */
export interface RecipientChange {
  readonly add: readonly string[]
  readonly remove: readonly string[]
}

/**
 * The recipients that `change` makes of `before`; throws `bad-config` if none of them is this machine's, which
 * would lock it out of its own secrets.
 */
export function changed(
  before: readonly string[],
  { add, remove }: RecipientChange,
  own: readonly string[],
): readonly string[] {
  const after = [...new Set([...before, ...add])].filter((who) => !remove.includes(who))
  if (after.some((who) => own.includes(who))) return after
  throw refuse(
    `This machine could then no longer read its own secrets: no identity in ${identityPath()} belongs to a recipient that is left.`,
  )
}

/**
 * Encrypts the file `path` anew, the same secret to other recipients, and returns them. The old file stays until
 * the new one was read back; a crash leaves one or the other. Throws `bad-config`, also where the old one cannot
 * be opened: a secret is never made anew here.
 */
export async function reencrypt(path: string, change: RecipientChange): Promise<readonly string[]> {
  const keys = await identities({ create: false })
  const own = await ownRecipients({ create: false })
  let recipients: readonly string[] = []
  await replaceFile(path, 0o600, async () => {
    const before = await openSecret(path)
    recipients = changed(before.recipients ?? own, change, own)
    const file = await sealed(before.secret, recipients)
    const back = await opened(file, keys, path)
    if (back.secret !== before.secret || back.recipients?.join() !== recipients.join()) {
      throw refuse(`What was encrypted for ${path} does not read back. The file is as it was.`)
    }
    return file
  })
  return recipients
}

/** `text` if it is an age recipient; throws `bad-config`, which quotes nothing that may be secret. */
export function recipient(text: string): string {
  const isIdentity = /AGE-SECRET-KEY-/i.test(text)
  try {
    if (!isIdentity && /^age1[0-9a-z]+$/.test(text)) {
      new Encrypter().addRecipient(text)
      return text
    }
  } catch {
    // Said below.
  }
  throw refuse(
    isIdentity
      ? 'That is an age identity, a secret, not a recipient. It stood on a command line: others may have seen it, so replace it. Its recipient begins with age1 (vaultmesh keys identity shows yours).'
      : 'A recipient is age1 and what follows, as age-keygen -y prints it (vaultmesh keys identity shows yours).',
  )
}

/** The recipients that this machine's identities are. */
export async function ownRecipients(how: { readonly create: boolean }): Promise<readonly string[]> {
  return Promise.all((await identities(how)).map((identity) => identityToRecipient(identity)))
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
  if (!isClosed(path, (await stat(path)).mode)) {
    throw refuse(`Others can read the age identity ${path}. Close it: chmod 600 ${path}`)
  }
  const text = await readFile(path, 'utf8').catch((error: NodeJS.ErrnoException) => {
    throw refuse(`Cannot read the age identity ${path} (${error.code ?? 'unknown error'}).`)
  })
  const lines = text.split('\n').map((line) => line.trim())
  // Each once: of one that stands there twice, one line would seem to be left when it is retired.
  const found = new Set(lines.filter((line) => /^AGE-SECRET-KEY-(?:PQ-)?1[0-9A-Z]+$/.test(line)))
  if (found.size === 0) throw refuse(`${path} holds no age identity (age-keygen makes one).`)
  return [...found]
}

/**
 * Whether nobody else can read the identity. A credential of systemd (LoadCredential=) is read-only and lies in a
 * folder that only its service enters; an ACL lets the service's user read it, and the mask of an ACL stands where
 * the group's bits are (acl(5)): 0440 there is as closed as 0400.
 */
function isClosed(path: string, mode: number): boolean {
  const folder = process.env['CREDENTIALS_DIRECTORY'] ?? ''
  const isCredential = folder !== '' && dirname(path) === resolve(folder)
  return (mode & (isCredential ? 0o037 : 0o077)) === 0
}

/** As `age-keygen -o` writes it. */
async function createIdentity(path: string): Promise<void> {
  await mkdir(dirname(path), { recursive: true, mode: 0o700 })
  await writeNew(path, (await newIdentity()).text).catch((error: unknown) => {
    // Two first starts at once: one made it, both use it.
    if (!(error instanceof VaultMeshError && error.extra['exists'] === true)) throw error
  })
}

/** A new identity as `age-keygen` writes it, and its recipient. */
async function newIdentity(): Promise<{ readonly text: string; readonly recipient: string }> {
  const identity = await generateX25519Identity()
  const who = await identityToRecipient(identity)
  const created = new Date().toISOString().replace(/\.\d+Z$/, 'Z')
  return { recipient: who, text: `# created: ${created}\n# public key: ${who}\n${identity}\n` }
}

/** Adds a new identity to this machine's, after those there are, and returns its recipient. */
export async function addIdentity(): Promise<string> {
  const path = identityPath()
  if (!(await exists(path))) await identities({ create: true })
  const made = await newIdentity()
  await replaceFile(path, 0o600, async () => {
    await identities({ create: false })
    const text = await readFile(path, 'utf8')
    return `${text}${text.endsWith('\n') ? '' : '\n'}${made.text}`
  })
  return made.recipient
}

/**
 * Takes the identity of `who` out of this machine's and appends it to `<file>.retired`, which older backups still
 * need; returns that path. The copy is there before the original goes. Throws `bad-config` for one that is not
 * here, or is the last.
 */
export async function retireIdentity(who: string): Promise<string> {
  const path = identityPath()
  const retired = `${path}.retired`
  const keys = await identities({ create: false })
  const own = await ownRecipients({ create: false })
  const gone = keys[own.indexOf(who)]
  if (gone === undefined) throw refuse(`${path} holds no identity of ${who}.`)
  if (keys.length === 1) throw refuse(`${path} holds no other identity: add one first.`)
  await replaceFile(retired, 0o600, async () => {
    const before = await readFile(retired, 'utf8').catch((error: NodeJS.ErrnoException) => {
      if (error.code === 'ENOENT') return ''
      throw error
    })
    const date = new Date().toISOString()
    return before.includes(gone)
      ? before
      : `${before}# retired: ${date}\n# public key: ${who}\n${gone}\n`
  })
  await replaceFile(path, 0o600, async () => {
    const lines = (await readFile(path, 'utf8')).split('\n')
    return lines
      .filter((line) => line.trim() !== gone && line !== `# public key: ${who}`)
      .join('\n')
  })
  return retired
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
    // The name must survive a power cut before anybody relies on the key.
    const folder = await open(dirname(resolve(path)), 'r')
    await folder.sync().finally(() => folder.close())
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
