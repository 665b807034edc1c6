/**
 * OpenTimestamps detached files (`.ots`), version 1: read, write, merge, and build from our own parts.
 *
 *   file := magic 01 08 sha256(32) tree         tree := (ff item)* item
 *   item := 00 tag(8) varbytes(payload) | f0 varbytes tree | f1 varbytes tree | 02 tree | 03 tree | 08 tree
 *
 * A path of operations leads from SHA-256 of a file to an attested message; for Bitcoin that is the
 * Merkle root of the block, so the stock `ots verify` checks our proofs without a line of ours.
 * Reading keeps the order of the file and every attestation it does not know, and refuses numbers
 * of non-minimal form: what parses is written back byte for byte. Writing of our own goes through
 * `mergeTimestamps`, whose order is that of python-opentimestamps (attestations, then operations,
 * each sorted), so one set of paths has one file.
 *
 * Limits come from there too (message and argument 4,096 bytes, payload 8,192, path 255) and from
 * us (64 kB, 4,096 operations): a file comes from a stranger. keccak256, reverse and hexlify are
 * refused: nothing here needs them. A URI in a file is data; only an allow-list may be followed.
 */

import { ripemd160, sha1 } from '@noble/hashes/legacy.js'
import type { Transaction } from '#core/bitcoin-transaction.ts'
import { parseTransaction, payloads, refuse as refuseCheck } from '#core/bitcoin-transaction.ts'
import type { Hash } from '#core/bytes.ts'
import { compareBytes, concat, equal, fromHex, toHex, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { InclusionProof } from '#core/inclusion-proof.ts'
import { sha256 } from '#core/sha256.ts'

/** A step from one message to the next. */
export type Operation =
  | { readonly type: 'append' | 'prepend'; readonly bytes: Uint8Array }
  | { readonly type: 'sha1' | 'ripemd160' | 'sha256' }

/** Who says what of a message. */
export type Attestation =
  /** The message is the Merkle root of the block at `height`. */
  | { readonly type: 'bitcoin'; readonly height: number }
  /** The calendar at `uri` promises to know more of the message later. */
  | { readonly type: 'pending'; readonly uri: string }
  /** `tag` is 8 bytes. Kept, never believed. */
  | { readonly type: 'unknown'; readonly tag: Uint8Array; readonly payload: Uint8Array }

export type Item =
  | { readonly attestation: Attestation }
  | { readonly operation: Operation; readonly next: Timestamp }

/** A message and all that is said of it, at least one item. */
export interface Timestamp {
  readonly message: Uint8Array
  readonly items: readonly Item[]
}

/** An attestation, the message it is about, the way there, and the transaction on it, if any. */
export interface Attested {
  readonly attestation: Attestation
  readonly message: Uint8Array
  readonly path: readonly Operation[]
  readonly transaction: Transaction | null
}

/** How a root got into a block. */
export interface BitcoinPath {
  /** Raw transaction; exactly one of its OP_RETURN outputs is the root. */
  readonly rawTx: Uint8Array
  /** Siblings in the order hashed, the transaction's own first. */
  readonly branch: readonly Hash[]
  readonly position: number
  readonly height: number
}

export const MAX_OTS_BYTES = 65_536
const MAX_OPERATIONS = 4096
/** python-opentimestamps reads paths of 255 operations; ours have about 80. */
const MAX_DEPTH = 256
const MAX_MESSAGE = 4096
const MAX_PAYLOAD = 8192
const MAX_URI = 1000

// 00 "OpenTimestamps" 00 00 "Proof" 00 and eight bytes that are no text.
const MAGIC = concat(
  utf8('\0OpenTimestamps\0\0Proof\0'),
  Uint8Array.of(0xbf, 0x89, 0xe2, 0xe8, 0x84, 0xe8, 0x92, 0x94),
)
const VERSION = 1
const BITCOIN = '0588960d73d71901'
const PENDING = '83dfe30d2ef90c8e'
const ATTESTATION = 0x00
const FORK = 0xff
const TAGS = { sha1: 0x02, ripemd160: 0x03, sha256: 0x08, append: 0xf0, prepend: 0xf1 } as const
const TYPES = new Map<number, Operation['type']>(
  Object.entries(TAGS).map(([type, tag]) => [tag, type as Operation['type']]),
)
const HASHES = { sha1, ripemd160, sha256 } as const
const SHA256 = { type: 'sha256' } as const

/** Reads a detached file; its `message` is the file's SHA-256. Throws `bad-proof`, check "ots". */
export function parseOts(bytes: Uint8Array): Timestamp {
  if (bytes.length > MAX_OTS_BYTES) throw refuse(`${bytes.length} bytes, at most 65536 are read`)
  const reader = new Reader(bytes)
  if (!equal(reader.take(Math.min(MAGIC.length, bytes.length)), MAGIC)) {
    throw refuse('it is no OpenTimestamps proof')
  }
  const version = reader.octet()
  if (version !== VERSION) throw refuse(`version ${version} is unsupported`)
  if (reader.octet() !== TAGS.sha256) throw refuse('the file is not named by its SHA-256')
  const timestamp = reader.timestamp(reader.take(32), 0)
  if (!reader.isAtEnd) throw refuse('bytes follow its end')
  return timestamp
}

/** Reads what a calendar answers: all that is said of `message`, without the head of a file. */
export function parseTimestamp(message: Uint8Array, bytes: Uint8Array): Timestamp {
  if (bytes.length > MAX_OTS_BYTES) throw refuse(`${bytes.length} bytes, at most 65536 are read`)
  const reader = new Reader(bytes)
  const timestamp = reader.timestamp(checkedMessage(message), 0)
  if (!reader.isAtEnd) throw refuse('bytes follow its end')
  return timestamp
}

/** The file of a timestamp whose message is a SHA-256, items in the order they have. */
export function emitOts(timestamp: Timestamp): Uint8Array {
  if (timestamp.message.length !== 32) throw refuse('the file is not named by its SHA-256')
  const out = [MAGIC, Uint8Array.of(VERSION, TAGS.sha256), timestamp.message]
  write(timestamp, out)
  const bytes = concat(...out)
  // What we write we can read: limits hold, and every message is what its path leads to.
  if (!sameMessages(parseOts(bytes), timestamp)) throw refuse('a message is not its path’s result')
  return bytes
}

/** All that either says of one message, each thing once, in canonical order. */
export function mergeTimestamps(first: Timestamp, ...others: readonly Timestamp[]): Timestamp {
  if (others.some(({ message }) => !equal(message, first.message))) {
    throw refuse('timestamps of different messages do not merge')
  }
  const attestations = new Map<string, Attestation>()
  const branches = new Map<string, { operation: Operation; nexts: Timestamp[] }>()
  for (const item of [first, ...others].flatMap(({ items }) => items)) {
    if ('attestation' in item) {
      attestations.set(toHex(attestationBytes(item.attestation)), item.attestation)
      continue
    }
    const { operation, next } = item
    const key = toHex(operationKey(operation))
    const branch = branches.get(key)
    if (branch) branch.nexts.push(next)
    else branches.set(key, { operation, nexts: [next] })
  }
  const said = [...attestations.values()].sort(compareAttestations)
  const done = [...branches.values()].sort(({ operation: a }, { operation: b }) =>
    compareBytes(operationKey(a), operationKey(b)),
  )
  return {
    message: first.message,
    items: [
      ...said.map((attestation) => ({ attestation })),
      ...done.map(({ operation, nexts: [next, ...rest] }) => ({
        operation,
        next: mergeTimestamps(next!, ...rest),
      })),
    ],
  }
}

/** What is left when only these attestations stay, in the order they have; null if none does. */
export function filterTimestamp(
  { message, items }: Timestamp,
  isKept: (attestation: Attestation, message: Uint8Array) => boolean,
): Timestamp | null {
  const kept = items.flatMap((item): Item[] => {
    if ('attestation' in item) return isKept(item.attestation, message) ? [item] : []
    const next = filterTimestamp(item.next, isKept)
    return next === null ? [] : [{ ...item, next }]
  })
  return kept.length === 0 ? null : { message, items: kept }
}

/** Every attestation of a timestamp, in order. A transaction is found as the message it is. */
export function attestationsOf(timestamp: Timestamp): Attested[] {
  const found: Attested[] = []
  const path: Operation[] = []
  const visit = ({ message, items }: Timestamp, above: Transaction | null) => {
    const transaction = transactionOf(message) ?? above
    for (const item of items) {
      if ('attestation' in item) {
        found.push({ ...item, message, path: [...path], transaction })
        continue
      }
      path.push(item.operation)
      visit(item.next, transaction)
      path.pop()
    }
  }
  visit(timestamp, null)
  return found
}

/** The timestamp of `message` that leads along `operations` to one attestation. */
export function linearTimestamp(
  message: Uint8Array,
  operations: readonly Operation[],
  attestation: Attestation,
): Timestamp {
  if (operations.length >= MAX_DEPTH) throw refuse(`a path has ${operations.length} operations`)
  const messages = [message]
  for (const operation of operations) messages.push(apply(operation, messages.at(-1)!))
  let timestamp: Timestamp = { message: messages.at(-1)!, items: [{ attestation }] }
  for (let i = operations.length - 1; i >= 0; i--) {
    timestamp = { message: messages[i]!, items: [{ operation: operations[i]!, next: timestamp }] }
  }
  return timestamp
}

/** The timestamp of `message` that leads along `operations` to what `rest` says. */
export function extendTimestamp(
  message: Uint8Array,
  operations: readonly Operation[],
  rest: Timestamp,
): Timestamp {
  const messages = [message]
  for (const operation of operations) messages.push(apply(operation, messages.at(-1)!))
  if (!equal(messages.at(-1)!, rest.message)) throw refuse('the operations lead to another message')
  let timestamp = rest
  for (let i = operations.length - 1; i >= 0; i--) {
    timestamp = { message: messages[i]!, items: [{ operation: operations[i]!, next: timestamp }] }
  }
  return timestamp
}

/**
 * SHA-256 of an event → leaf → inclusion path → root → transaction → block: the per-event `.ots`.
 * The entry of the leaf is that SHA-256, which is why any `ots` can start from the event's bytes.
 */
export function eventTimestamp(
  eventHash: Hash,
  inclusion: Omit<InclusionProof, 'leafHash'>,
  path: BitcoinPath,
): Timestamp {
  const toRoot = inclusionOperations(inclusion)
  const root = toRoot.reduce((message, operation) => apply(operation, message), eventHash)
  const operations = [...toRoot, ...bitcoinOperations(root, path)]
  return linearTimestamp(eventHash, operations, { type: 'bitcoin', height: path.height })
}

/** From an entry to the root of its RFC 6962 tree (RFC 9162 §2.1.3.2, as operations). */
export function inclusionOperations(inclusion: Omit<InclusionProof, 'leafHash'>): Operation[] {
  const { index, size, proof } = inclusion
  if (!Number.isSafeInteger(size) || !Number.isSafeInteger(index) || index < 0 || index >= size) {
    throw refuse(`a tree of ${size} leaves has no leaf ${index}`)
  }
  const out: Operation[] = [{ type: 'prepend', bytes: Uint8Array.of(0) }, SHA256]
  const node = Uint8Array.of(1)
  let [fn, sn] = [index, size - 1]
  for (const hash of proof) {
    if (hash.length !== 32 || sn === 0) throw refuse('the inclusion proof fits no tree')
    if (fn % 2 === 1 || fn === sn) {
      out.push({ type: 'prepend', bytes: concat(node, hash) }, SHA256)
      while (fn % 2 === 0 && fn !== 0) {
        fn /= 2
        sn = Math.floor(sn / 2)
      }
    } else {
      out.push({ type: 'append', bytes: hash }, { type: 'prepend', bytes: node }, SHA256)
    }
    fn = Math.floor(fn / 2)
    sn = Math.floor(sn / 2)
  }
  if (sn !== 0) throw refuse('the inclusion proof is too short')
  return out
}

/** From a root to the Merkle root of the block that holds it. */
export function bitcoinOperations(root: Hash, path: BitcoinPath): Operation[] {
  const transaction = parseTransaction(path.rawTx)
  const [payload, ...rest] = payloads(transaction).filter(({ bytes }) => equal(bytes, root))
  if (payload === undefined || rest.length > 0) {
    throw refuse('the root is not the data of exactly one OP_RETURN output')
  }
  // The output's script ends before the lock time, so neither side is empty.
  const out: Operation[] = [
    { type: 'prepend', bytes: transaction.stripped.slice(0, payload.at) },
    { type: 'append', bytes: transaction.stripped.slice(payload.at + root.length) },
    SHA256,
    SHA256,
  ]
  let index = path.position
  if (!Number.isSafeInteger(index)) throw refuse('the position is not an index')
  for (const hash of path.branch) {
    if (hash.length !== 32) throw refuse('a hash of the branch is not 32 bytes')
    out.push({ type: index % 2 === 1 ? 'prepend' : 'append', bytes: hash }, SHA256, SHA256)
    index = Math.floor(index / 2)
  }
  if (index !== 0) throw refuse('the branch does not reach the position')
  return out
}

class Reader {
  readonly #bytes: Uint8Array
  #at = 0
  #operations = 0

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length
  }

  take(n: number): Uint8Array {
    if (n > this.#bytes.length - this.#at) throw refuse('it is cut short')
    this.#at += n
    return this.#bytes.slice(this.#at - n, this.#at)
  }

  octet(): number {
    return this.take(1)[0]!
  }

  /** Unsigned LEB128, minimal, below 2^53: seven octets of 7 bits and 4 bits more. */
  number(): number {
    let value = 0
    for (let scale = 1; ; scale *= 128) {
      const octet = this.octet()
      value += (octet & 0x7f) * scale
      if (!Number.isSafeInteger(value)) throw refuse('a number is absurd')
      if (octet === 0 && scale > 1) throw refuse('a number is not minimal')
      if (octet < 0x80) return value
    }
  }

  data(min: number, max: number, what: string): Uint8Array {
    const length = this.number()
    if (length < min || length > max) throw refuse(`${what} of ${length} bytes`)
    return this.take(length)
  }

  timestamp(message: Uint8Array, depth: number): Timestamp {
    if (depth >= MAX_DEPTH) throw refuse(`a path has ${MAX_DEPTH} operations`)
    const items: Item[] = []
    for (let isLast = false; !isLast;) {
      let tag = this.octet()
      isLast = tag !== FORK
      if (!isLast) tag = this.octet()
      items.push(tag === ATTESTATION ? this.#attestation() : this.#operation(tag, message, depth))
    }
    return { message, items }
  }

  #operation(tag: number, message: Uint8Array, depth: number): Item {
    const type = TYPES.get(tag)
    if (type === undefined) throw refuse(`operation ${toHex(Uint8Array.of(tag))} is unsupported`)
    if (++this.#operations > MAX_OPERATIONS) throw refuse(`more than ${MAX_OPERATIONS} operations`)
    const operation: Operation =
      type === 'append' || type === 'prepend'
        ? { type, bytes: this.data(1, MAX_MESSAGE, 'an argument') }
        : { type }
    return { operation, next: this.timestamp(apply(operation, message), depth + 1) }
  }

  #attestation(): Item {
    const tag = this.take(8)
    const payload = this.data(0, MAX_PAYLOAD, 'an attestation')
    const inner = new Reader(payload)
    const name = toHex(tag)
    let attestation: Attestation = { type: 'unknown', tag, payload }
    if (name === BITCOIN) attestation = { type: 'bitcoin', height: inner.number() }
    if (name === PENDING) {
      const uri = String.fromCharCode(...inner.data(1, MAX_URI, 'a URI'))
      attestation = { type: 'pending', uri: checkedUri(uri) }
    }
    if (attestation.type !== 'unknown' && !inner.isAtEnd) throw refuse('an attestation is too long')
    return { attestation }
  }
}

function apply(operation: Operation, message: Uint8Array): Uint8Array {
  switch (operation.type) {
    case 'append':
      return checkedMessage(concat(message, operation.bytes))
    case 'prepend':
      return checkedMessage(concat(operation.bytes, message))
    default:
      return HASHES[operation.type](message)
  }
}

function write({ items }: Timestamp, out: Uint8Array[]): void {
  if (items.length === 0) throw refuse('nothing is said of a message')
  for (const [i, item] of items.entries()) {
    if (i < items.length - 1) out.push(Uint8Array.of(FORK))
    if ('attestation' in item) {
      out.push(Uint8Array.of(ATTESTATION), attestationBytes(item.attestation))
      continue
    }
    const { operation, next } = item
    out.push(Uint8Array.of(TAGS[operation.type]))
    if ('bytes' in operation) out.push(withLength(operation.bytes))
    write(next, out)
  }
}

function attestationBytes(attestation: Attestation): Uint8Array {
  switch (attestation.type) {
    case 'bitcoin':
      return concat(fromHex(BITCOIN), withLength(leb128(attestation.height)))
    case 'pending': {
      const uri = utf8(checkedUri(attestation.uri))
      return concat(fromHex(PENDING), withLength(withLength(uri)))
    }
    default: {
      const { tag, payload } = attestation
      if (tag.length !== 8 || [BITCOIN, PENDING].includes(toHex(tag))) {
        throw refuse('the tag of an unknown attestation is not its own')
      }
      return concat(tag, withLength(payload))
    }
  }
}

/** By tag; then by height, URI or payload, as python-opentimestamps sorts. */
function compareAttestations(a: Attestation, b: Attestation): number {
  if (a.type === 'bitcoin' && b.type === 'bitcoin') return a.height - b.height
  if (a.type === 'pending' && b.type === 'pending') return a.uri < b.uri ? -1 : 1
  const [x, y] = [attestationBytes(a), attestationBytes(b)]
  const byTag = compareBytes(x.subarray(0, 8), y.subarray(0, 8))
  if (byTag !== 0 || a.type !== 'unknown' || b.type !== 'unknown') return byTag
  return compareBytes(a.payload, b.payload)
}

/** Sorts and names an operation: tag, then argument. */
function operationKey(operation: Operation): Uint8Array {
  const tag = Uint8Array.of(TAGS[operation.type])
  return 'bytes' in operation ? concat(tag, operation.bytes) : tag
}

function sameMessages(a: Timestamp, b: Timestamp): boolean {
  if (!equal(a.message, b.message)) return false
  return a.items.every((item, i) => {
    const other = b.items[i]!
    return !('next' in item) || ('next' in other && sameMessages(item.next, other.next))
  })
}

function transactionOf(message: Uint8Array): Transaction | null {
  try {
    return parseTransaction(message)
  } catch (error) {
    if (error instanceof VaultMeshError) return null
    throw error
  }
}

function withLength(bytes: Uint8Array): Uint8Array {
  return concat(leb128(bytes.length), bytes)
}

function leb128(value: number): Uint8Array {
  if (!Number.isSafeInteger(value) || value < 0) throw refuse('a number is absurd')
  const out: number[] = []
  for (; value >= 0x80; value = Math.floor(value / 128)) out.push((value % 128) | 0x80)
  return Uint8Array.of(...out, value)
}

function checkedMessage(message: Uint8Array): Uint8Array {
  if (message.length > MAX_MESSAGE) throw refuse(`a message of ${message.length} bytes`)
  return message
}

/** The characters that python-opentimestamps allows: no query, no userinfo, nothing to escape. */
function checkedUri(uri: string): string {
  if (uri.length > MAX_URI || !/^[A-Za-z0-9\-._/:]+$/.test(uri)) throw refuse('a URI is malformed')
  return uri
}

function refuse(detail: string): VaultMeshError {
  return refuseCheck('ots', detail)
}
