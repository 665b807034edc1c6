/**
 * Reads dotenv files that SOPS encrypted to age recipients (github.com/getsops/sops, written against
 * 3.12.2), MAC included.
 *
 * Each value is AES-256-GCM under the file's data key, its additional data `NAME:`, so no value can move to
 * another name; the MAC is SHA-512 over all values in order, itself encrypted with the time of the last
 * change as additional data, so no line can be taken away, put back or moved. SOPS leaves three things
 * outside of both: comments, the names of values it left in clear (`_unencrypted`), and empty values. Comments
 * are therefore not read, and the other two are refused. It also encrypts without signing: whoever may write the file
 * may replace it whole.
 *
 * A refusal is one line that names file and line number and never quotes what stands there.
 */

import { armor, Decrypter } from 'age-encryption'
import { createDecipheriv, createHash, timingSafeEqual } from 'node:crypto'
import { readdir, readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { concat, fromBase64, fromUtf8, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { identities, identityPath } from './keystore.ts'

/** Most bytes a secrets file may have: a few keys, and dozens of recipients of 2.5 kB (post-quantum). */
const MAX_BYTES = 262_144
const DATA_KEY_BYTES = 32
/** SOPS takes 32 random bytes as nonce, not the usual 12. */
const IV_BYTES = 32
const TAG_BYTES = 16
/** A value as SOPS writes it; anything else than a string is no value of a dotenv file. */
const SEALED = /^ENC\[AES256_GCM,data:([\w+/=]+),iv:([\w+/=]+),tag:([\w+/=]+),type:str\]$/
const NAME = /^[A-Za-z_]\w*$/
/** Metadata that says nothing about what is encrypted; all else (encrypted_regex, pgp …) is refused. */
const META =
  /^(?:age__list_\d+__map_(?:enc|recipient)|lastmodified|mac|unencrypted_suffix|version)$/
const SUFFIX = '_unencrypted'

/** The variables a secrets folder may set, and how each looks. Any other name is refused. */
export const secretVariables: Readonly<Record<string, { form: RegExp; said: string }>> = {
  BTC_PRIVATE_KEY: {
    form: /^(?:[0-9a-fA-F]{64}|[KLc][1-9A-HJ-NP-Za-km-z]{51})$/,
    said: '64 hex digits or a compressed WIF',
  },
  EVM_PRIVATE_KEY: { form: /^0x[0-9a-fA-F]{64}$/, said: '0x and 64 hex digits' },
  BTC_URLS: { form: /^[\x21-\x7e]+$/, said: 'URLs without spaces' },
  EVM_URLS: { form: /^[\x21-\x7e]+$/, said: 'URLs without spaces' },
  ALERTMANAGER_URL: { form: /^[\x21-\x7e]+$/, said: 'a URL without spaces' },
  ALERT_WEBHOOK_URL: { form: /^[\x21-\x7e]+$/, said: 'a URL without spaces' },
  OIDC_CLIENT_SECRET: { form: /^[\x20-\x7e]{1,512}$/, said: 'at most 512 ASCII characters' },
  METRICS_TOKEN: {
    form: /^[\x21-\x7e]{16,512}$/,
    said: '16 to 512 ASCII characters without spaces',
  },
}

/** The folder of secrets where none is named. */
export const SECRETS_DIR = 'secrets'

/** A file's lines, told apart. */
interface Lines {
  readonly values: ReadonlyMap<string, { readonly line: number; readonly sealed: string }>
  readonly meta: ReadonlyMap<string, string>
}

/** The variables in the file `path`, decrypted with this machine's identities. Throws `bad-config`. */
export async function readSopsEnv(path: string): Promise<Readonly<Record<string, string>>> {
  const bytes = await readFile(path).catch((error: NodeJS.ErrnoException) => {
    throw new VaultMeshError(
      'bad-config',
      `Cannot read ${path} (${error.code ?? 'unknown error'}).`,
    )
  })
  return decryptSopsEnv(bytes, path)
}

/** The same of a file's bytes, with other identities where `keys` has some; `path` is what refusals call it. */
export async function decryptSopsEnv(
  bytes: Uint8Array,
  path: string,
  keys?: readonly string[],
): Promise<Readonly<Record<string, string>>> {
  const { values, meta } = linesOf(bytes, path)
  const mac = meta.get('mac')
  const changedAt = meta.get('lastmodified')
  if (mac === undefined || changedAt === undefined) throw refuse(path, 'has no MAC')
  const key = await dataKey(meta, path, keys ?? (await identities({ create: false })))
  const found = new Map<string, string>()
  const hash = createHash('sha512')
  for (const [name, { line, sealed }] of values) {
    const plain = open(key, sealed, `${name}:`)
    if (plain === null) throw refuse(path, `was changed: line ${line} does not decrypt`)
    hash.update(plain)
    found.set(name, textOf(plain, path, line))
  }
  const said = open(key, mac, changedAt)
  const got = utf8(hash.digest('hex').toUpperCase())
  if (said === null || said.length !== got.length || !timingSafeEqual(said, got)) {
    throw refuse(
      path,
      'was changed: its MAC does not match its lines. Put back the file as sops wrote it',
    )
  }
  // Own properties whatever the names, `__proto__` too.
  return Object.fromEntries(found)
}

/** Whom a file's bytes say they are encrypted to, in the file's order. */
export function sopsRecipients(bytes: Uint8Array, path: string): readonly string[] {
  const { meta } = linesOf(bytes, path)
  const found: string[] = []
  for (let n = 0; meta.has(`age__list_${n}__map_recipient`); n++)
    found.push(meta.get(`age__list_${n}__map_recipient`)!)
  return found
}

/**
 * The variables of every `*.env` of the folder `dir` together; none if there is no such folder. Throws
 * `bad-config` for a file that is not in order, a name not in `secretVariables`, or one that two files set.
 */
export async function loadSecrets(dir: string = SECRETS_DIR): Promise<Record<string, string>> {
  const found: Record<string, string> = {}
  const from: Record<string, string> = {}
  for (const path of await secretFiles(dir)) {
    for (const [name, value] of Object.entries(known(await readSopsEnv(path), path))) {
      if (Object.hasOwn(from, name)) throw refuse(path, `sets ${name}, and so does ${from[name]}`)
      found[name] = value
      from[name] = path
    }
  }
  return found
}

/** `variables` if each is one of `secretVariables` and has its form; throws `bad-config`, never with a value. */
export function known(
  variables: Readonly<Record<string, string>>,
  path: string,
): Readonly<Record<string, string>> {
  for (const [name, value] of Object.entries(variables)) {
    if (!Object.hasOwn(secretVariables, name)) {
      const names = Object.keys(secretVariables).join(', ')
      throw refuse(path, `sets a variable that is none of ${names}`)
    }
    const { form, said } = secretVariables[name]!
    if (!form.test(value)) throw refuse(path, `sets ${name} to something else than ${said}`)
  }
  return variables
}

/** The `*.env` files of a folder by name, as a shell would list them; none if there is no such folder. */
export async function secretFiles(dir: string): Promise<readonly string[]> {
  const names = await readdir(dir).catch((error: NodeJS.ErrnoException) => {
    if (error.code === 'ENOENT') return []
    throw new VaultMeshError('bad-config', `Cannot read ${dir} (${error.code ?? 'unknown error'}).`)
  })
  const wanted = names.filter((name) => name.endsWith('.env') && !name.startsWith('.'))
  return wanted.sort().map((name) => join(dir, name))
}

/** Tells values, metadata and comments apart; refuses every line that is none of them. */
function linesOf(bytes: Uint8Array, path: string): Lines {
  if (bytes.length > MAX_BYTES) throw refuse(path, `has more than ${MAX_BYTES} bytes`)
  let text: string
  try {
    text = fromUtf8(bytes)
  } catch {
    throw refuse(path, 'is not UTF-8')
  }
  const lines = text.split('\n')
  if (text.trim() === '') {
    throw refuse(path, 'is empty and not encrypted. Remove it, or encrypt it: sops encrypt -i')
  }
  const isSops = lines.some((line) => line.startsWith('sops_'))
  if (!isSops) {
    throw refuse(
      path,
      'is not encrypted. Take it away, make new keys, and encrypt those with sops before they reach a disk',
    )
  }
  const values = new Map<string, { line: number; sealed: string }>()
  const meta = new Map<string, string>()
  for (const [index, content] of lines.entries()) {
    if (content === '' || content.startsWith('#')) continue
    const line = index + 1
    const at = content.indexOf('=')
    const name = content.slice(0, Math.max(at, 0))
    const value = content.slice(at + 1)
    if (!NAME.test(name)) throw refuse(path, `has no NAME=value on line ${line}`)
    if (name.startsWith('sops_')) {
      const field = name.slice('sops_'.length)
      if (!META.test(field)) {
        throw refuse(
          path,
          `has metadata on line ${line} that is not read here: age recipients only, and every value encrypted`,
        )
      }
      if (meta.has(field)) throw refuse(path, `has the metadata of line ${line} twice`)
      meta.set(field, value)
      continue
    }
    if (values.has(name)) throw refuse(path, `has the name of line ${line} twice`)
    if (value === '') {
      throw refuse(
        path,
        `has an empty value on line ${line}, which sops does not protect. Delete the line`,
      )
    }
    if (name.endsWith(SUFFIX) || !SEALED.test(value)) {
      throw refuse(path, `has a value on line ${line} that is not encrypted`)
    }
    values.set(name, { line, sealed: value })
  }
  if ((meta.get('unencrypted_suffix') ?? SUFFIX) !== SUFFIX) {
    throw refuse(path, `leaves values of another suffix than ${SUFFIX} in clear`)
  }
  return { values, meta }
}

/** The file's data key, from the first recipient that one of this machine's identities is. */
async function dataKey(
  meta: Lines['meta'],
  path: string,
  keys: readonly string[],
): Promise<Uint8Array> {
  const decrypter = new Decrypter()
  const boxes: Uint8Array[] = []
  for (let n = 0; meta.has(`age__list_${n}__map_enc`); n++) {
    const armored = meta.get(`age__list_${n}__map_enc`)!.replaceAll('\\n', '\n')
    try {
      boxes.push(armor.decode(armored))
    } catch {
      throw refuse(path, `was changed: what it holds for age recipient ${n + 1} is not age`)
    }
  }
  if (boxes.length === 0) throw refuse(path, 'has no age recipient')
  for (const identity of keys) decrypter.addIdentity(identity)
  for (const box of boxes) {
    // Not ours, or broken: a decrypter's error says no more, and may quote what it worked on.
    const key = await decrypter.decrypt(box).catch(() => null)
    if (key?.length === DATA_KEY_BYTES) return key
  }
  throw refuse(
    path,
    `does not open with ${identityPath()}. Put back the identity it was encrypted to, or name it in VAULTMESH_AGE_KEY_FILE`,
  )
}

/** The plain bytes of a sealed value; null if it is none, or not under this key and additional data. */
function open(key: Uint8Array, sealed: string, additional: string): Uint8Array | null {
  const [, data, iv, tag] = SEALED.exec(sealed) ?? []
  if (data === undefined) return null
  try {
    const [ivBytes, tagBytes] = [fromBase64(iv!), fromBase64(tag!)]
    if (ivBytes.length !== IV_BYTES || tagBytes.length !== TAG_BYTES) return null
    const cipher = createDecipheriv('aes-256-gcm', key, ivBytes, { authTagLength: TAG_BYTES })
    cipher.setAAD(utf8(additional))
    cipher.setAuthTag(tagBytes)
    return concat(cipher.update(fromBase64(data)), cipher.final())
  } catch {
    return null
  }
}

function textOf(plain: Uint8Array, path: string, line: number): string {
  try {
    return fromUtf8(plain)
  } catch {
    throw refuse(path, `holds no UTF-8 in the value of line ${line}`)
  }
}

function refuse(path: string, why: string): VaultMeshError {
  return new VaultMeshError('bad-config', `${path} ${why}.`)
}
