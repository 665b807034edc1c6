/**
 * Erasure (design §3): a `vm.erased` event takes the bytes of another event away and leaves its leaf.
 *
 * The log's entry is a hash, so bytes can go while every proof stays. What stands in their place is a tombstone, one
 * JSON object on the event's line of its bundle, `{leafIndex, eventHash, erasedBy}`:
 *   on the wire   `erasedBy` is the `vm.erased` event itself (compact JWS), signed by the log's operator: who reads the
 *                 line can judge it there and then, whatever peer it came from
 *   at rest       in the bundle of the own log `erasedBy` is that event's hash, and the line is filled with spaces to the
 *                 length of the event it replaces, so that no offset of the index moves and one write of one object
 *                 does it. The shortest JWS of an event has more than 350 bytes, a line at most 201
 *
 * Law: who signed an event, or the operator, may erase it. `vm.erased`, and what the node says in its own name
 * (`vm.*` by an identity key), cannot be erased: it is the evidence of what was done. `vm.received` can: there the node
 * signed for the words of others.
 */

import { fromBase64Url, fromUtf8, hashFromHex, toHex, utf8, type Hash } from '#core/bytes.ts'
import { EVENT_TYP, openEnvelope, verifyEnvelope, type OpenEnvelope } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'
import { Signers } from '#core/signer.ts'
import { parseStrictJson, type Json } from '#core/strict-json.ts'

/** `type` of the event that erases another. */
export const ERASURE_TYPE = 'vm.erased'
/** Where the node signed for a body that nobody signed. */
const RECEIVED_TYPE = 'vm.received'
/** A code, not a sentence: it stays in the log for good, so it must not say what was erased. */
const REASON = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/
const HASH = /^sha256:([0-9a-f]{64})$/
const MEMBERS = ['eventHash', 'reasonCode', 'request']

/** `data` of a `vm.erased` event. */
export interface Erasure {
  /** `sha256:<hex>` of the event that is to go. */
  readonly eventHash: string
  readonly reasonCode: string
  /** Of the operator's event alone: the signer's own `vm.erased` event that asked for it, `sha256:<hex>`. */
  readonly request: string | null
}

/** Reads `data` of a `vm.erased` event; throws `bad-erasure` naming what is wrong. */
export function parseErasure(data: unknown): Erasure {
  if (typeof data !== 'object' || data === null || Array.isArray(data)) {
    throw bad('"data" must be an object {eventHash, reasonCode}')
  }
  const { eventHash, reasonCode, request } = data as Readonly<Record<string, unknown>>
  const unknown = Object.keys(data).find((name) => !MEMBERS.includes(name))
  if (unknown !== undefined) throw bad('"data" holds more than eventHash and reasonCode')
  if (typeof eventHash !== 'string' || !HASH.test(eventHash)) {
    throw bad('"data.eventHash" must be sha256: and 64 lowercase hex digits')
  }
  if (typeof reasonCode !== 'string' || !REASON.test(reasonCode)) {
    throw bad('"data.reasonCode" must be 1 to 64 letters, digits, dots, dashes or underscores')
  }
  if (request !== undefined && (typeof request !== 'string' || !HASH.test(request))) {
    throw bad('"data.request" must be sha256: and 64 lowercase hex digits')
  }
  return { eventHash, reasonCode, request: request ?? null }
}

/** The erasure that the bytes of a `vm.erased` event ask for; throws `bad-erasure`. */
export function readErasure(jws: Uint8Array): Erasure {
  const payload = fromUtf8(jws).split('.')[1] ?? ''
  let event: Json
  try {
    event = parseStrictJson(fromUtf8(fromBase64Url(payload)))
  } catch (cause) {
    throw bad('the payload cannot be read', cause)
  }
  return parseErasure((event as Readonly<Record<string, Json>> | null)?.['data'])
}

function bad(why: string, cause?: unknown): VaultMeshError {
  return new VaultMeshError('bad-erasure', `An event of type vm.erased: ${why}.`, { cause })
}

/** `vm.erased` in base64url, at each of the three places in a group of four that it may begin at. */
const MENTIONS = [0, 1, 2].map((shift) => {
  const text = btoa(`${'\0'.repeat(shift)}${ERASURE_TYPE}${'\0'.repeat(3)}`)
  const from = Math.ceil((shift * 8) / 6)
  return text.slice(from, Math.floor(((shift + ERASURE_TYPE.length) * 8) / 6))
})
const ascii = new TextDecoder('latin1')

/**
 * Whether events as NDJSON may hold a `vm.erased` one: false is certain. Intake takes such an event only with its type
 * written plainly, so that mirrors need not open every event of a part to find them.
 */
export function mentionsErasure(bytes: Uint8Array): boolean {
  const text = ascii.decode(bytes)
  return MENTIONS.some((mention) => text.includes(mention))
}

/** What the law must know of an event's signer. */
export interface Party {
  /** `type` of the event. */
  readonly type: string
  /** Canonical DID of its signer. */
  readonly signer: string
  /** Whether that is an identity key of the log's operator. */
  readonly isOperator: boolean
}

/** By whose right `eraser` may erase `target`; throws `erasure-refused` saying why it may not. */
export function judgeErasure(target: Party, eraser: Party): 'operator' | 'signer' {
  if (target.type === ERASURE_TYPE) {
    throw new VaultMeshError(
      'erasure-refused',
      'The event is a vm.erased itself: it is the evidence that bytes went by right, and holds none.',
    )
  }
  const isOfNode = target.isOperator && target.type.startsWith('vm.')
  if (isOfNode && target.type !== RECEIVED_TYPE) {
    throw new VaultMeshError(
      'erasure-refused',
      `The event is a ${target.type} of the node itself: what it did and saw stays on record.`,
    )
  }
  if (eraser.isOperator) return 'operator'
  if (eraser.signer === target.signer) return 'signer'
  throw new VaultMeshError(
    'erasure-refused',
    'Only who signed the event, or the operator of this node, may erase it.',
  )
}

/** What stands on the line of an erased event. */
export interface Tombstone {
  readonly leafIndex: number
  /** The log's entry, which the bytes hashed to. */
  readonly eventHash: Hash
  /** The `vm.erased` event: as a compact JWS, or as `sha256:<hex>`. */
  readonly erasedBy: string
}

/** Whether a line of a bundle is a tombstone: no JWS begins with a brace. */
export function isTombstone(line: Uint8Array): boolean {
  return line[0] === 0x7b
}

/**
 * A tombstone as a line without its newline; with `length`, filled with spaces to so many bytes. Throws `bad-state` if
 * it does not fit.
 */
export function formatTombstone(
  { leafIndex, eventHash, erasedBy }: Tombstone,
  length = 0,
): Uint8Array {
  const text = JSON.stringify({ leafIndex, eventHash: `sha256:${toHex(eventHash)}`, erasedBy })
  if (length !== 0 && text.length > length) {
    throw new VaultMeshError('bad-state', `A tombstone does not fit into ${length} bytes.`)
  }
  return utf8(text.padEnd(length, ' '))
}

/** Reads a tombstone in either form; verifies nothing. Throws `bad-body`. */
export function parseTombstone(line: Uint8Array): Tombstone {
  let value: Json
  try {
    value = parseStrictJson(fromUtf8(line))
  } catch (cause) {
    throw noStone(cause)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw noStone()
  const { leafIndex, eventHash, erasedBy } = value as Readonly<Record<string, Json>>
  const hex = typeof eventHash === 'string' ? HASH.exec(eventHash)?.[1] : undefined
  if (
    Object.keys(value).length !== 3 ||
    !Number.isSafeInteger(leafIndex) ||
    Number(leafIndex) < 0 ||
    hex === undefined ||
    typeof erasedBy !== 'string'
  ) {
    throw noStone()
  }
  return { leafIndex: Number(leafIndex), eventHash: hashFromHex(hex), erasedBy }
}

function noStone(cause?: unknown): VaultMeshError {
  return new VaultMeshError('bad-body', 'a line is neither an event nor a tombstone.', { cause })
}

/** Hash of the `vm.erased` event that a tombstone names, in either form. */
export function eraserOf({ erasedBy }: Tombstone): Hash {
  const hex = HASH.exec(erasedBy)?.[1]
  return hex === undefined ? sha256(utf8(erasedBy)) : hashFromHex(hex)
}

const signers = new Signers(EVENT_TYP)

/**
 * A `vm.erased` event by itself, with whom it is signed by; null if the bytes are another event. Throws what refuses a
 * bad signature, `bad-erasure`.
 */
export async function openErasure(
  jws: Uint8Array,
): Promise<(Erasure & { readonly open: OpenEnvelope }) | null> {
  const open = await openEnvelope(jws, signers)
  if (open.event.type !== ERASURE_TYPE) return null
  await verifyEnvelope(open)
  return { ...readErasure(jws), open }
}

/**
 * Verifies a tombstone as it came over the wire: its event is there, erases this one, and is signed by the log's
 * operator, who answers for a signer's wish, too. Throws `bad-body`.
 */
export async function verifyTombstone(
  stone: Tombstone,
  isOperator: (keyDid: string) => boolean,
): Promise<void> {
  const erasure = await openErasure(utf8(stone.erasedBy)).catch((cause: unknown) => {
    throw new VaultMeshError('bad-body', 'a tombstone’s vm.erased event is none.', { cause })
  })
  if (erasure?.eventHash !== `sha256:${toHex(stone.eventHash)}`) {
    throw new VaultMeshError('bad-body', 'a tombstone is of another event.')
  }
  if (!isOperator(erasure.open.signer.did)) {
    throw new VaultMeshError('bad-body', 'a tombstone is not signed by the log’s operator.')
  }
}

/** A line of NDJSON: its bytes without the newline, and where they begin. */
export interface BundleLine {
  readonly offset: number
  readonly line: Uint8Array
}

/** The lines of a part; the last newline may be missing. */
export function* linesOf(bytes: Uint8Array): Generator<BundleLine> {
  for (let offset = 0; offset < bytes.length;) {
    const newline = bytes.indexOf(0x0a, offset)
    const end = newline < 0 ? bytes.length : newline
    yield { offset, line: bytes.subarray(offset, end) }
    offset = end + 1
  }
}

/** The log entry of a line: what a tombstone names, or the hash of the event's bytes. Verifies nothing. */
export function entryOf(line: Uint8Array): Hash {
  return isTombstone(line) ? parseTombstone(line).eventHash : sha256(line)
}

/** A copy of a part in which one line is another. */
export function withLine(
  part: Uint8Array,
  { offset, line }: BundleLine,
  by: Uint8Array,
): Uint8Array {
  const out = new Uint8Array(part.length - line.length + by.length)
  out.set(part.subarray(0, offset))
  out.set(by, offset)
  out.set(part.subarray(offset + line.length), offset + by.length)
  return out
}
