/**
 * Checkpoints: C2SP tlog-checkpoint v1.0.0, the text of a signed note that commits to a tree.
 *
 *   <origin>\n <tree size>\n <base64 root>\n [<extension line>\n]*
 *
 * Exactly one text stands for a checkpoint: decimal size without leading zero, canonical base64
 * of 32 bytes, no empty line. A log signs with type 0x01 under a key named like its origin; a
 * witness cosigns with type 0x04 (tlog-cosignature v1.0), saying when it saw the tree. A checkpoint
 * counts only with the log's own signature: cosignatures alone prove nothing about the log.
 */

import { fromBase64, toBase64, utf8 } from '#core/bytes.ts'
import type { Hash } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { HASH_BYTES } from '#core/merkle.ts'
import { cosignText, formatNote, formatSignature, parseNote } from '#core/signed-note.ts'
import { TYPE_ED25519, sameKey, signText, verifyNote } from '#core/signed-note.ts'
import type {
  NoteSignature,
  NoteSigner,
  SignedNote,
  VerifiedSignature,
  VerifierKey,
} from '#core/signed-note.ts'

/** Bytes in an origin: tlog-cosignature's ML-DSA message gives it a one-byte length. */
export const MAX_ORIGIN_BYTES = 255

export interface Checkpoint {
  readonly origin: string
  readonly size: number
  readonly root: Hash
  /** Opaque lines after the root, without newlines. We write none (they cannot be audited). */
  readonly extensions: readonly string[]
}

/** What to check a checkpoint note against. */
export interface CheckpointTrust {
  /** The log's key, type 0x01. */
  readonly log: VerifierKey
  /** The expected origin; the name of the log's key if absent. */
  readonly origin?: string | undefined
  /** Keys, type 0x04, whose cosignatures the caller cares for. */
  readonly witnesses?: readonly VerifierKey[] | undefined
}

export interface VerifiedCheckpoint {
  readonly checkpoint: Checkpoint
  readonly note: SignedNote
  /** The log's signature. */
  readonly signature: VerifiedSignature
  /** Valid cosignatures of the trusted witnesses. */
  readonly cosignatures: readonly VerifiedSignature[]
}

/** The note text of a checkpoint. */
export function formatCheckpoint(checkpoint: Checkpoint): string {
  const { origin, size, root, extensions } = checkpoint
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new VaultMeshError('bad-note', `The tree size ${size} is not a size.`)
  }
  const text = `${[origin, size, toBase64(root), ...extensions].join('\n')}\n`
  // What cannot be read back must not be signed: a newline in the origin, a short root.
  if (parseCheckpoint(text).extensions.length !== extensions.length) {
    throw new VaultMeshError('bad-note', 'An extension line holds a newline.')
  }
  return text
}

/** Reads the note text of a checkpoint, strictly. */
export function parseCheckpoint(text: string): Checkpoint {
  if (!text.endsWith('\n')) {
    throw new VaultMeshError('bad-note', 'A checkpoint ends with a newline.')
  }
  const [origin, size, root, ...extensions] = text.slice(0, -1).split('\n')
  if (origin === undefined || size === undefined || root === undefined) {
    throw new VaultMeshError('bad-note', 'A checkpoint has three lines at least.')
  }
  if (origin === '' || utf8(origin).length > MAX_ORIGIN_BYTES) {
    throw new VaultMeshError('bad-note', `An origin has 1 to ${MAX_ORIGIN_BYTES} bytes.`)
  }
  if (extensions.includes('')) {
    throw new VaultMeshError('bad-note', 'An extension line of a checkpoint is empty.')
  }
  return { origin, size: parseDecimal(size), root: parseRoot(root), extensions }
}

/** A decimal below 2^53 without sign or leading zero; throws `bad-note` otherwise. */
export function parseDecimal(text: string): number {
  const value = Number(text)
  if (!/^(?:0|[1-9][0-9]{0,15})$/.test(text) || !Number.isSafeInteger(value)) {
    throw new VaultMeshError('bad-note', 'Not a decimal number without leading zero below 2^53.')
  }
  return value
}

function parseRoot(text: string): Hash {
  // 44 characters are 32 bytes; the length check keeps a hostile line from being decoded.
  if (text.length === 44) {
    const root = decode(text)
    if (root?.length === HASH_BYTES) return root
  }
  throw new VaultMeshError('bad-note', 'The root hash is not the base64 of 32 bytes.')
}

function decode(text: string): Uint8Array | null {
  try {
    return fromBase64(text)
  } catch (cause) {
    if (cause instanceof VaultMeshError) return null
    throw cause
  }
}

/** The signed note of a checkpoint. The log's key is named like its origin (SHOULD of the spec). */
export async function signCheckpoint(checkpoint: Checkpoint, log: NoteSigner): Promise<string> {
  if (log.key.name !== checkpoint.origin) {
    throw new VaultMeshError('bad-note', `The key ${log.key.name} is not named like the origin.`)
  }
  const text = formatCheckpoint(checkpoint)
  return formatNote({ text, signatures: [await signText(text, log)] })
}

/** A witness's cosignature of a checkpoint, as of `timestamp` seconds. Checks no consistency. */
export async function cosignCheckpoint(
  text: string,
  witness: NoteSigner,
  timestamp: number,
): Promise<NoteSignature> {
  parseCheckpoint(text)
  return cosignText(text, witness, timestamp)
}

/** `note` with more signature lines; those it has already are not repeated. */
export function addSignatures(note: string, more: readonly NoteSignature[]): string {
  const parsed = parseNote(note)
  const lines = new Set(parsed.signatures.map(formatSignature))
  const added = more.filter((signature) => !lines.has(formatSignature(signature)))
  return formatNote({ text: parsed.text, signatures: [...parsed.signatures, ...added] })
}

/**
 * Reads a checkpoint note and verifies it: the log's own signature and the expected origin are
 * demanded, cosignatures of trusted witnesses are reported. How many of these are enough is the
 * caller's policy. Throws `bad-note` for anything wrong, `untrusted-key` without the log's signature.
 */
export async function verifyCheckpoint(
  note: Uint8Array | string,
  trust: CheckpointTrust,
): Promise<VerifiedCheckpoint> {
  if (trust.log.type !== TYPE_ED25519) {
    throw new VaultMeshError('bad-note', `The log key ${trust.log.name} is not of type 0x01.`)
  }
  const parsed = parseNote(note)
  const checkpoint = parseCheckpoint(parsed.text)
  const origin = trust.origin ?? trust.log.name
  if (checkpoint.origin !== origin) {
    throw new VaultMeshError('bad-note', `The checkpoint is of another log than ${origin}.`)
  }
  const verified = await verifyNote(parsed, [trust.log, ...(trust.witnesses ?? [])])
  const signature = verified.find(({ key }) => sameKey(key, trust.log))
  if (signature === undefined) {
    throw new VaultMeshError('untrusted-key', `The log ${origin} did not sign this checkpoint.`)
  }
  const cosignatures = verified.filter(({ timestamp }) => timestamp !== null)
  return { checkpoint, note: parsed, signature, cosignatures }
}
