/**
 * CMerkleBlock, what `gettxoutproof` answers: a header and a partial Merkle tree (BIP 37). From it the
 * branch of one transaction, which is what our proofs store.
 *
 *   header(80) count(u32) compactSize hashes(32)… compactSize flags…
 *
 * The tree is walked depth first: a flag of 1 above the leaves says "a match is below, go on", any
 * other node is given by its hash (Core merkleblock.cpp, TraverseAndExtract). Every hash and every
 * flag must be used, padding be zero, and the root be the header's: it comes from a stranger.
 */

import { merkleRootFrom, parseHeader } from '#core/bitcoin-proof.ts'
import { fromDisplay, refuse, sha256d } from '#core/bitcoin-transaction.ts'
import type { Hash } from '#core/bytes.ts'
import { concat, equal, toHex } from '#core/bytes.ts'

const HEADER_BYTES = 80
/** 4,000,000 weight units hold fewer transactions of 60 bytes than this (Core: MAX_BLOCK_WEIGHT / 240). */
const MAX_TRANSACTIONS = 16_666

/** The branch and position of `txid` (display order). Throws `bad-proof` if it is not proven. */
export function branchOf(
  bytes: Uint8Array,
  txid: string,
): {
  readonly header: string
  readonly branch: readonly string[]
  readonly position: number
} {
  const wanted = fromDisplay(txid)
  const { header, count, hashes, flags } = read(bytes)
  let height = 0
  while (Math.ceil(count / 2 ** height) > 1) height++
  let usedHashes = 0
  let usedFlags = 0
  let position: number | null = null
  const siblings: Hash[] = []

  /** Hash of a node, and whether the wanted leaf is below it: then its sibling is kept on the way up. */
  const visit = (level: number, index: number): { hash: Hash; holds: boolean } => {
    if (usedFlags >= flags.length) throw refuse('branch', 'the flags end too soon')
    const isParent = flags[usedFlags++] === 1
    if (level === 0 || !isParent) {
      const hash = hashes[usedHashes++]
      if (hash === undefined) throw refuse('branch', 'the hashes end too soon')
      const holds = level === 0 && isParent && equal(hash, wanted)
      if (holds) position = index
      return { hash, holds }
    }
    const left = visit(level - 1, index * 2)
    const hasRight = index * 2 + 1 < Math.ceil(count / 2 ** (level - 1))
    const right = hasRight ? visit(level - 1, index * 2 + 1) : left
    if (left.holds) siblings.push(right.hash)
    else if (right.holds) siblings.push(left.hash)
    return { hash: sha256d(concat(left.hash, right.hash)), holds: left.holds || right.holds }
  }
  visit(height, 0)
  if (usedHashes !== hashes.length) throw refuse('branch', 'hashes are left over')
  if (Math.ceil(usedFlags / 8) !== flags.length / 8 || flags.slice(usedFlags).includes(1)) {
    throw refuse('branch', 'flags are left over')
  }
  if (position === null) throw refuse('branch', 'the transaction is not in it')
  if (!equal(merkleRootFrom(wanted, position, siblings), parseHeader(header).merkleRoot)) {
    throw refuse('branch', 'it leads to another Merkle root than the header’s')
  }
  return { header: toHex(header), branch: siblings.map(toHex), position }
}

function read(bytes: Uint8Array) {
  let at = 0
  const take = (n: number) => {
    if (n > bytes.length - at) throw refuse('branch', 'it is cut short')
    at += n
    return bytes.subarray(at - n, at)
  }
  // Fewer than 2^16 of anything: 16,666 hashes, and flags are fewer bytes than that.
  const compactSize = () => {
    const [first = 0] = take(1)
    if (first < 0xfd) return first
    const [low = 0, high = 0] = take(2)
    const n = low + high * 256
    if (first !== 0xfd || n < 0xfd) throw refuse('branch', 'a length is absurd')
    return n
  }
  const header = take(HEADER_BYTES)
  const [a = 0, b = 0, c = 0, d = 0] = take(4)
  const count = a + b * 2 ** 8 + c * 2 ** 16 + d * 2 ** 24
  if (count === 0 || count > MAX_TRANSACTIONS) throw refuse('branch', `${count} transactions`)
  const hashes = Array.from({ length: compactSize() }, () => take(32))
  if (hashes.length > count) throw refuse('branch', 'more hashes than transactions')
  const flags = Array.from(take(compactSize())).flatMap((byte) =>
    Array.from({ length: 8 }, (_, bit) => (byte >> bit) & 1),
  )
  if (at !== bytes.length) throw refuse('branch', 'bytes follow its end')
  return { header, count, hashes, flags }
}
