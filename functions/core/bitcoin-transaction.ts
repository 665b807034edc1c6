/**
 * A strict reader for one Bitcoin transaction, with or without witness (BIP 144).
 *
 * Its purpose is the txid, so what is hashed is exactly what was read: non-minimal lengths, trailing
 * bytes, an empty witness and values that no block may hold (MAX_MONEY) are refused. `stripped` is
 * the serialisation without witness; txid = SHA-256(SHA-256(stripped)), kept in the order hashed and
 * turned round only for display.
 *
 * A stripped transaction of 64 bytes is refused: it has the size of an inner node of the block's
 * Merkle tree, and whoever mines one can pass a branch through it to a transaction that never was
 * (CVE-2017-12842; BIP 54 would forbid it).
 */

import type { Hash } from '#core/bytes.ts'
import { concat, hashFromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'

/** One output. */
export interface Output {
  /** Satoshi. */
  readonly value: bigint
  readonly script: Uint8Array
  /** Where `script` begins in `stripped`. */
  readonly at: number
}

/** A transaction, as far as a proof needs it. Byte fields are views of `stripped`. */
export interface Transaction {
  readonly stripped: Uint8Array
  /** In the order hashed, not displayed. */
  readonly txid: Hash
  readonly hasWitness: boolean
  readonly inputs: number
  readonly outputs: readonly Output[]
}

/** The data of an output that is OP_RETURN and one minimal push, nothing else. */
export interface Payload {
  readonly output: number
  readonly bytes: Uint8Array
  /** Where `bytes` begin in `stripped`. */
  readonly at: number
}

/** Core relays at most 400,000 weight units, 100 kB without witness; ours is 153. */
export const MAX_TRANSACTION_BYTES = 100_000
/** 21 million coins of 10^8 satoshi. */
const MAX_MONEY = 21_000_000n * 100_000_000n
/** Two hashes side by side: the preimage of an inner node. */
const INNER_NODE_BYTES = 64
const OP_RETURN = 0x6a
const OP_PUSHDATA1 = 0x4c
const OP_PUSHDATA2 = 0x4d

/** Reads a raw transaction; throws `bad-proof` with `check: "transaction"` if it is not exactly one. */
export function parseTransaction(raw: Uint8Array): Transaction {
  const transaction = read(raw)
  if (transaction.stripped.length === INNER_NODE_BYTES) {
    throw refuse('transaction', 'it has 64 bytes, as an inner node of the tree has')
  }
  return transaction
}

/** True if the preimage of an inner node could be a transaction, hence a leaf (CVE-2017-12842). */
export function couldBeTransaction(preimage: Uint8Array): boolean {
  try {
    return !read(preimage).hasWitness
  } catch (error) {
    if (error instanceof VaultMeshError) return false
    throw error
  }
}

/** The data carried by OP_RETURN outputs, in order. Other shapes of OP_RETURN carry none. */
export function payloads({ outputs }: Transaction): Payload[] {
  return outputs.flatMap(({ script, at }, output) => {
    const head = script[0] === OP_RETURN ? pushHead(script.subarray(1)) : null
    if (head === null) return []
    return [{ output, bytes: script.subarray(1 + head), at: at + 1 + head }]
  })
}

/** SHA-256 twice: txids, block hashes, nodes of the block's tree. */
export function sha256d(bytes: Uint8Array): Hash {
  return sha256(sha256(bytes))
}

/** The hex that explorers show: a hash back to front. */
export function toDisplay(hash: Hash): string {
  return toHex(hash.toReversed())
}

/** The hash, in the order hashed, that explorers show as `hex`. */
export function fromDisplay(hex: string): Hash {
  return hashFromHex(hex).toReversed()
}

/** The refusal of a Bitcoin proof, naming the check that failed. */
export function refuse(check: string, detail: string): VaultMeshError {
  return new VaultMeshError('bad-proof', `${check}: ${detail}.`, { extra: { check } })
}

/** Bytes before the data, if `script` is one minimal push (BIP 62 rule 3) of all that follows. */
function pushHead(script: Uint8Array): number | null {
  const [op = 0, a = 0, b = 0] = script
  let head = 1
  let length = op
  if (op === OP_PUSHDATA1) {
    head = 2
    length = a < OP_PUSHDATA1 ? -1 : a
  } else if (op === OP_PUSHDATA2) {
    head = 3
    length = b === 0 ? -1 : a + b * 256
  } else if (op === 0 || op > OP_PUSHDATA2) {
    return null
  }
  return script.length === head + length ? head : null
}

function read(raw: Uint8Array): Transaction {
  if (raw.length > MAX_TRANSACTION_BYTES) {
    throw refuse('transaction', `${raw.length} bytes, at most ${MAX_TRANSACTION_BYTES} are read`)
  }
  let at = 0
  const skip = (n: number) => {
    if (n > raw.length - at) throw refuse('transaction', 'it is cut short')
    at += n
    return at - n
  }
  const compactSize = () => {
    const first = raw[skip(1)]!
    if (first < 0xfd) return first
    // No length beyond 2^32 fits in what is read at all.
    if (first === 0xff) throw refuse('transaction', 'a length is absurd')
    const from = skip(first === 0xfd ? 2 : 4)
    let n = 0
    for (let i = at - 1; i >= from; i--) n = n * 256 + raw[i]!
    if (n < (first === 0xfd ? 0xfd : 0x10000))
      throw refuse('transaction', 'a length is not minimal')
    return n
  }

  skip(4)
  const hasWitness = raw[at] === 0
  if (hasWitness && raw[skip(2) + 1] !== 1) {
    throw refuse('transaction', 'it has no input, or a flag that BIP 144 does not know')
  }
  const body = at
  const inputs = compactSize()
  if (inputs === 0) throw refuse('transaction', 'it has no input')
  for (let i = 0; i < inputs; i++) {
    skip(36)
    skip(compactSize())
    skip(4)
  }
  const count = compactSize()
  if (count === 0) throw refuse('transaction', 'it has no output')
  // Marker and flag stand before the body and fall away.
  const shift = body - 4
  const found: { value: bigint; from: number; to: number }[] = []
  let total = 0n
  for (let i = 0; i < count; i++) {
    const value = new DataView(raw.buffer, raw.byteOffset + skip(8), 8).getBigUint64(0, true)
    total += value
    if (total > MAX_MONEY) throw refuse('transaction', 'it pays out more than there is')
    const from = skip(compactSize())
    found.push({ value, from, to: at })
  }
  const bodyEnd = at
  if (hasWitness) {
    let items = 0
    for (let i = 0; i < inputs; i++) {
      const stack = compactSize()
      items += stack
      for (let j = 0; j < stack; j++) skip(compactSize())
    }
    if (items === 0) throw refuse('transaction', 'its witness is empty')
  }
  const lockTime = skip(4)
  if (at !== raw.length) throw refuse('transaction', 'bytes follow its end')

  const stripped = concat(raw.subarray(0, 4), raw.subarray(body, bodyEnd), raw.subarray(lockTime))
  const outputs = found.map(({ value, from, to }) => ({
    value,
    script: stripped.subarray(from - shift, to - shift),
    at: from - shift,
  }))
  return { stripped, txid: sha256d(stripped), hasWitness, inputs, outputs }
}
