/**
 * Recursive Length Prefix, the encoding under every Ethereum hash (yellow paper, appendix B).
 *
 * An item is a byte string or a list of items. The decoder is strict, because what it reads was
 * hashed: a single byte below 0x80 stands bare, a length is written in the shortest form and without
 * leading zeros, and nothing follows the item. So `encodeRlp(decodeRlp(b))` is `b` for every `b` that
 * is accepted, and no second spelling of a transaction or a header passes. Byte strings are views of
 * the input. Depth and size are bounded, because the bytes come from a stranger.
 */

import { concat } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'

/** A byte string or a list of items. */
export type RlpItem = Uint8Array | readonly RlpItem[]

/** Longest input read. A proof is 2–3 kB, a transaction in the public pools at most 128 KiB. */
export const MAX_RLP_BYTES = 1_048_576
/** Deepest list read, the outermost being 1. A transaction with an access list needs 4. */
export const MAX_RLP_DEPTH = 16

/** Payloads up to 55 bytes keep their length in the prefix byte. */
const SHORT = 55

/** The single item that `bytes` hold. Throws `bad-proof` for any but its canonical encoding. */
export function decodeRlp(bytes: Uint8Array): RlpItem {
  if (bytes.length > MAX_RLP_BYTES) {
    throw bad(`${bytes.length} bytes, at most ${MAX_RLP_BYTES} are read`)
  }
  const { item, end } = itemAt(bytes, 0, 1)
  if (end !== bytes.length) throw bad('bytes follow the end of the item')
  return item
}

/** The encoding of `item`. */
export function encodeRlp(item: RlpItem): Uint8Array {
  if (item instanceof Uint8Array) {
    return item.length === 1 && item[0]! < 0x80 ? item.slice() : prefixed(0x80, item)
  }
  const parts = item.map(encodeRlp)
  // Not concat(...parts): a list of a million items is more arguments than a call may have.
  const payload = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    payload.set(part, at)
    at += part.length
  }
  return prefixed(0xc0, payload)
}

/** Big-endian bytes of a non-negative integer without leading zeros; none at all for 0. */
export function integerToBytes(n: bigint | number): Uint8Array {
  const out: number[] = []
  for (let rest = BigInt(n); rest > 0n; rest >>= 8n) out.unshift(Number(rest & 0xffn))
  return Uint8Array.from(out)
}

/** The integer that a byte string of at most `maxBytes` spells, `what` naming it in a refusal. */
export function integerOf(item: RlpItem | undefined, what: string, maxBytes = 32): bigint {
  if (!(item instanceof Uint8Array)) throw bad(`${what} is missing or a list`)
  if (item.length > maxBytes) throw bad(`${what} is longer than ${maxBytes} bytes`)
  if (item[0] === 0) throw bad(`${what} has a leading zero`)
  return item.reduce((n, byte) => (n << 8n) | BigInt(byte), 0n)
}

function itemAt(bytes: Uint8Array, at: number, depth: number): { item: RlpItem; end: number } {
  const first = bytes[at]
  if (first === undefined) throw bad('the item is cut short')
  if (first < 0x80) return { item: bytes.subarray(at, at + 1), end: at + 1 }
  const isList = first >= 0xc0
  let length = first - (isList ? 0xc0 : 0x80)
  let start = at + 1
  if (length > SHORT) {
    start += length - SHORT
    length = longLength(bytes, at + 1, start)
  }
  const end = start + length
  if (end > bytes.length) throw bad('the item is cut short')
  if (isList) return { item: listAt(bytes, start, end, depth), end }
  if (length === 1 && bytes[start]! < 0x80) throw bad('a byte below 0x80 must stand bare')
  return { item: bytes.subarray(start, end), end }
}

/** The length written at `from` up to `to`: more than 55, no leading zero. */
function longLength(bytes: Uint8Array, from: number, to: number): number {
  if (bytes[from] === 0) throw bad('a length has a leading zero')
  let length = 0
  // Beyond the end of the input as beyond 2^53 the value only grows, and the item is cut short.
  for (let i = from; i < to; i++) length = length * 256 + (bytes[i] ?? 0xff)
  if (length <= SHORT) throw bad('a length is not minimal')
  return length
}

function listAt(bytes: Uint8Array, start: number, end: number, depth: number): RlpItem[] {
  if (depth > MAX_RLP_DEPTH) throw bad(`lists are nested deeper than ${MAX_RLP_DEPTH}`)
  // A child may not reach beyond its list, so it is shown no byte beyond it.
  const body = bytes.subarray(0, end)
  const items: RlpItem[] = []
  for (let at = start; at < end;) {
    const child = itemAt(body, at, depth + 1)
    items.push(child.item)
    at = child.end
  }
  return items
}

function prefixed(base: number, payload: Uint8Array): Uint8Array {
  if (payload.length <= SHORT) return concat(Uint8Array.of(base + payload.length), payload)
  const length = integerToBytes(payload.length)
  return concat(Uint8Array.of(base + SHORT + length.length), length, payload)
}

function bad(detail: string): VaultMeshError {
  return new VaultMeshError('bad-proof', `rlp: ${detail}.`, { extra: { check: 'rlp' } })
}
