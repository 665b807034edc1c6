/**
 * Signed notes: C2SP signed-note v1.0.0, with the cosignature/v1 type of tlog-cosignature v1.0.
 *
 *   <text, ends with \n> \n (— <key name> base64(keyID[4] || signature) \n)+
 *   keyID = SHA-256(<key name> || 0x0A || <type byte> || <public key>)[0:4]
 *   vkey  = <key name> "+" hex8(keyID) "+" base64(<type byte> || <public key>)
 *
 * Text and signatures split at the last empty line. Invariant: `formatNote(parseNote(x))` is `x`,
 * byte for byte, whatever keys signed it; so a note can be stored and served by who trusts none
 * of them. A signature counts only if its (name, key ID) pair is one the caller trusts; one that
 * is trusted and wrong condemns the whole note.
 */

import { concat, equal, fromBase64, fromHex, fromUtf8, toBase64, toHex, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'

/** Ed25519 over the text (signed-note, "Ed25519 signatures"). */
export const TYPE_ED25519 = 0x01
/** Timestamped Ed25519 witness cosignature (tlog-cosignature). */
export const TYPE_COSIGNATURE = 0x04

/** Bytes in a note: 1 MiB. 100 post-quantum signature lines of 6.7 kB fit. */
export const MAX_NOTE_BYTES = 1_048_576
/** Signature lines in a note; the spec asks for 16 at least. */
export const MAX_SIGNATURES = 100

const KEY_BYTES = 32
const SIGNATURE_BYTES = 64
const ID_BYTES = 4
const TIME_BYTES = 8

/** A public key with its name: what a `vkey` string says. */
export interface VerifierKey {
  readonly name: string
  /** The first four bytes of a hash, as a number. */
  readonly keyId: number
  readonly type: number
  /** The key's own encoding; 32 bytes for types 0x01 and 0x04. */
  readonly publicKey: Uint8Array
}

/** A key that can sign; the private half stays with the caller. */
export interface NoteSigner {
  readonly key: VerifierKey
  /** Ed25519 over `message`: 64 bytes. */
  readonly sign: (message: Uint8Array) => Promise<Uint8Array>
}

/** One signature line. `signature` is what follows the key ID, whatever its type makes of it. */
export interface NoteSignature {
  readonly name: string
  readonly keyId: number
  readonly signature: Uint8Array
}

export interface SignedNote {
  /** Ends with a newline; the separating empty line is not part of it. */
  readonly text: string
  readonly signatures: readonly NoteSignature[]
}

/** A signature that was checked and is right. */
export interface VerifiedSignature {
  readonly key: VerifierKey
  readonly signature: NoteSignature
  /** Seconds since 1970 of a cosignature; null for a plain signature. */
  readonly timestamp: number | null
}

/** The key ID that signed-note recommends and Ed25519 types demand. */
export function keyIdOf(name: string, type: number, publicKey: Uint8Array): number {
  return readUint32(sha256(concat(utf8(name), Uint8Array.of(0x0a, type), publicKey)))
}

/** The verifier key of an Ed25519 public key; `type` says whether it logs or cosigns. */
export function verifierKey(
  name: string,
  publicKey: Uint8Array,
  type: typeof TYPE_ED25519 | typeof TYPE_COSIGNATURE = TYPE_ED25519,
): VerifierKey {
  checkName(name)
  if (publicKey.length !== KEY_BYTES) {
    throw new VaultMeshError('bad-note', `An Ed25519 key has 32 bytes, not ${publicKey.length}.`)
  }
  return { name, keyId: keyIdOf(name, type, publicKey), type, publicKey: publicKey.slice() }
}

/** Text of a verifier key. */
export function formatVkey(key: VerifierKey): string {
  const encoded = toBase64(concat(Uint8Array.of(key.type), key.publicKey))
  return `${key.name}+${hex8(key.keyId)}+${encoded}`
}

/** Reads a verifier key. Types we do not know are kept as they are; they never verify anything. */
export function parseVkey(vkey: string): VerifierKey {
  // The base64 may hold '+' as well: only the first two separate.
  const [, name, id, encoded] = /^([^+]*)\+([0-9a-f]{8})\+(.*)$/su.exec(vkey) ?? []
  if (name === undefined || id === undefined || encoded === undefined) {
    throw new VaultMeshError('bad-note', 'A vkey is <name>+<8 hex digits>+<base64>.')
  }
  checkName(name)
  const material = noteBase64(encoded, 'The vkey')
  const type = material[0]
  if (type === undefined || material.length < 2) {
    throw new VaultMeshError('bad-note', 'The vkey holds no key.')
  }
  const publicKey = material.slice(1)
  const keyId = readUint32(fromHex(id))
  if (isEd25519(type)) {
    if (publicKey.length !== KEY_BYTES) {
      throw new VaultMeshError('bad-note', `An Ed25519 key has 32 bytes, not ${publicKey.length}.`)
    }
    if (keyId !== keyIdOf(name, type, publicKey)) {
      throw new VaultMeshError('bad-note', `The key ID ${id} of the vkey ${name} is not its own.`)
    }
  }
  return { name, keyId, type, publicKey }
}

/** Reads a signed note, strictly; verifies nothing. */
export function parseNote(note: Uint8Array | string): SignedNote {
  const whole = noteText(note)
  const split = whole.lastIndexOf('\n\n')
  if (split < 0) throw new VaultMeshError('bad-note', 'The note has no empty line.')
  return {
    text: whole.slice(0, split + 1),
    signatures: parseSignatures(whole.slice(split + 2)),
  }
}

/** Reads signature lines alone: the tail of a note, or a witness's answer to add-checkpoint. */
export function parseSignatures(lines: Uint8Array | string): NoteSignature[] {
  const text = noteText(lines)
  if (!text.endsWith('\n')) {
    throw new VaultMeshError('bad-note', 'The signature lines do not end with a newline.')
  }
  const all = text.slice(0, -1).split('\n')
  if (all.length > MAX_SIGNATURES) {
    throw new VaultMeshError('bad-note', `The note has more than ${MAX_SIGNATURES} signatures.`)
  }
  return all.map((line, i) => parseSignature(line, i + 1))
}

function parseSignature(line: string, number: number): NoteSignature {
  const [dash, name, encoded, ...more] = line.split(' ')
  if (dash !== '\u2014' || name === undefined || encoded === undefined || more.length > 0) {
    throw new VaultMeshError(
      'bad-note',
      `Signature line ${number} is not "\u2014 <name> <base64>".`,
    )
  }
  checkName(name)
  const bytes = noteBase64(encoded, `Signature line ${number}`)
  if (bytes.length <= ID_BYTES) {
    throw new VaultMeshError('bad-note', `Signature line ${number} holds no signature.`)
  }
  return { name, keyId: readUint32(bytes), signature: bytes.slice(ID_BYTES) }
}

/** One signature line, newline included. */
export function formatSignature(signature: NoteSignature): string {
  const bytes = concat(fromHex(hex8(signature.keyId)), signature.signature)
  return `\u2014 ${signature.name} ${toBase64(bytes)}\n`
}

/** The note as it is served. Throws `bad-note` for what `parseNote` would refuse. */
export function formatNote(note: SignedNote): string {
  checkText(note.text)
  const out = `${note.text}\n${note.signatures.map(formatSignature).join('')}`
  parseNote(out)
  return out
}

/** What a cosignature signs (tlog-cosignature, "Ed25519 signed message"). */
export function cosignatureMessage(text: string, timestamp: number): Uint8Array {
  return utf8(`cosignature/v1\ntime ${timestamp}\n${text}`)
}

/**
 * Signs `text` with a key of type 0x01. The result is verified before it is returned: a signer
 * whose key was mixed up must fail here, not at every reader.
 */
export async function signText(text: string, signer: NoteSigner): Promise<NoteSignature> {
  if (signer.key.type !== TYPE_ED25519) {
    throw new VaultMeshError('bad-note', `The key ${signer.key.name} is not of type 0x01.`)
  }
  return signMessage(text, signer, null)
}

/** Cosigns `text`, a checkpoint, as seen at `timestamp` seconds, with a key of type 0x04. */
export async function cosignText(
  text: string,
  signer: NoteSigner,
  timestamp: number,
): Promise<NoteSignature> {
  if (signer.key.type !== TYPE_COSIGNATURE) {
    throw new VaultMeshError('bad-note', `The key ${signer.key.name} is not of type 0x04.`)
  }
  if (!Number.isSafeInteger(timestamp) || timestamp <= 0) {
    throw new VaultMeshError('bad-note', `A cosignature needs a time in seconds, not ${timestamp}.`)
  }
  return signMessage(text, signer, timestamp)
}

async function signMessage(
  text: string,
  { key, sign }: NoteSigner,
  timestamp: number | null,
): Promise<NoteSignature> {
  checkText(text)
  const message = timestamp === null ? utf8(text) : cosignatureMessage(text, timestamp)
  const bare = await sign(message)
  const bytes = timestamp === null ? bare.slice() : concat(uint64(timestamp), bare)
  const signature = { name: key.name, keyId: key.keyId, signature: bytes }
  if ((await verifySignature(text, key, signature)) === null) {
    throw new VaultMeshError('bad-note', `The signer of ${key.name} does not hold its key.`)
  }
  return signature
}

/**
 * The signatures of `note` made by `trusted` keys, one for each key (its latest), so that counting
 * them is counting keys. Throws `bad-note` if any of them is wrong, `untrusted-key` if there is
 * none. Unknown keys and types are passed over.
 */
export async function verifyNote(
  note: SignedNote,
  trusted: readonly VerifierKey[],
): Promise<VerifiedSignature[]> {
  checkText(note.text)
  if (note.signatures.length > MAX_SIGNATURES) {
    throw new VaultMeshError('bad-note', `The note has more than ${MAX_SIGNATURES} signatures.`)
  }
  const keys = new Map<string, VerifierKey>()
  for (const key of trusted) if (isEd25519(key.type)) keys.set(`${key.keyId} ${key.name}`, key)
  const verified = new Map<VerifierKey, VerifiedSignature>()
  for (const signature of note.signatures) {
    const key = keys.get(`${signature.keyId} ${signature.name}`)
    if (key === undefined) continue
    const found = await verifySignature(note.text, key, signature)
    if (found === null) {
      throw new VaultMeshError('bad-note', `The signature of ${key.name} does not verify.`)
    }
    const before = verified.get(key)
    if ((before?.timestamp ?? -1) < (found.timestamp ?? 0)) verified.set(key, found)
  }
  if (verified.size === 0) {
    throw new VaultMeshError('untrusted-key', 'No trusted key signed this note.')
  }
  return [...verified.values()]
}

async function verifySignature(
  text: string,
  key: VerifierKey,
  signature: NoteSignature,
): Promise<VerifiedSignature | null> {
  const bytes = signature.signature
  if (key.type === TYPE_ED25519) {
    if (!(await ed25519(key, bytes, utf8(text)))) return null
    return { key, signature, timestamp: null }
  }
  if (bytes.length !== TIME_BYTES + SIGNATURE_BYTES) return null
  const timestamp = readTime(bytes)
  if (timestamp === null) return null
  const message = cosignatureMessage(text, timestamp)
  if (!(await ed25519(key, bytes.slice(TIME_BYTES), message))) return null
  return { key, signature, timestamp }
}

const imported = new WeakMap<VerifierKey, Promise<CryptoKey>>()

async function ed25519(
  key: VerifierKey,
  signature: Uint8Array,
  message: Uint8Array,
): Promise<boolean> {
  if (signature.length !== SIGNATURE_BYTES) return false
  let publicKey = imported.get(key)
  if (publicKey === undefined) {
    publicKey = crypto.subtle.importKey('raw', own(key.publicKey), 'Ed25519', false, ['verify'])
    imported.set(key, publicKey)
  }
  try {
    return await crypto.subtle.verify('Ed25519', await publicKey, own(signature), own(message))
  } catch (cause) {
    // Bytes that are no point on the curve fail on import in some engines, on verify in others.
    throw new VaultMeshError('bad-note', `The key ${key.name} is not an Ed25519 key.`, { cause })
  }
}

/** WebCrypto's types refuse shared memory; nothing here is. */
function own(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return bytes as Uint8Array<ArrayBuffer>
}

function isEd25519(type: number): boolean {
  return type === TYPE_ED25519 || type === TYPE_COSIGNATURE
}

/** Not empty, no Unicode space, no plus (signed-note, "Format"). */
function checkName(name: string): void {
  if (name === '' || /[\p{White_Space}+]/u.test(name)) {
    throw new VaultMeshError('bad-note', 'A key name is not empty and has no space or plus.')
  }
  noteText(name)
}

function checkText(text: string): void {
  if (!text.endsWith('\n')) {
    throw new VaultMeshError('bad-note', 'The text of a note ends with a newline.')
  }
  noteText(text)
}

/** Valid UTF-8 without control characters but newline, within the size cap. */
function noteText(note: Uint8Array | string): string {
  if (typeof note === 'string' && !note.isWellFormed()) {
    throw new VaultMeshError('bad-note', 'The note is not well-formed Unicode.')
  }
  const bytes = typeof note === 'string' ? utf8(note) : note
  if (bytes.length > MAX_NOTE_BYTES) {
    throw new VaultMeshError('bad-note', `The note has more than ${MAX_NOTE_BYTES} bytes.`)
  }
  for (const byte of bytes) {
    if (byte < 0x20 && byte !== 0x0a) {
      throw new VaultMeshError('bad-note', 'The note holds a control character.')
    }
  }
  if (typeof note === 'string') return note
  try {
    return fromUtf8(bytes)
  } catch (cause) {
    throw new VaultMeshError('bad-note', 'The note is not valid UTF-8.', { cause })
  }
}

function noteBase64(text: string, where: string): Uint8Array {
  try {
    return fromBase64(text)
  } catch (cause) {
    throw new VaultMeshError('bad-note', `${where} is not canonical base64.`, { cause })
  }
}

function hex8(id: number): string {
  return id.toString(16).padStart(8, '0')
}

function readUint32(bytes: Uint8Array): number {
  return parseInt(toHex(bytes.subarray(0, ID_BYTES)), 16)
}

function uint64(value: number): Uint8Array {
  return fromHex(value.toString(16).padStart(2 * TIME_BYTES, '0'))
}

/** The first eight bytes as a number; null past 2^53, where no clock will ever be. */
function readTime(bytes: Uint8Array): number | null {
  const time = parseInt(toHex(bytes.subarray(0, TIME_BYTES)), 16)
  return Number.isSafeInteger(time) ? time : null
}

/** Whether two keys are the same key under the same name. */
export function sameKey(a: VerifierKey, b: VerifierKey): boolean {
  return (
    a.name === b.name && a.keyId === b.keyId && a.type === b.type && equal(a.publicKey, b.publicKey)
  )
}
