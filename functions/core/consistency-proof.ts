/**
 * Consistency proofs: RFC 9162 §2.1.4 (RFC 6962 §2.1.2).
 *
 * PROOF(m, D[n]) shows that the tree of m leaves is the beginning of the tree of n leaves: from
 * the same hashes both roots must come out. The empty tree is the beginning of every tree, and
 * a tree that of itself; both need no hashes.
 */

import { equal } from '#core/bytes.ts'
import type { Hash } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { checkHash } from '#core/inclusion-proof.ts'
import { emptyRoot, nodeHash } from '#core/merkle.ts'
import { checkSize, rangeHashes, splitOf } from '#core/tile-reader.ts'
import type { HashReader, Range } from '#core/tile-reader.ts'

/** Two tree heads and the hashes that shall join them. */
export interface ConsistencyProof {
  readonly size1: number
  readonly size2: number
  readonly root1: Uint8Array
  readonly root2: Uint8Array
  readonly proof: readonly Uint8Array[]
}

/** The proof from the tree of `size1` leaves to that of `size2`. */
export async function consistencyProof(
  read: HashReader,
  size1: number,
  size2: number,
): Promise<Hash[]> {
  checkSize(size1)
  checkSize(size2)
  if (size1 > size2) {
    throw new VaultMeshError('no-such-size', `A tree of ${size2} leaves does not begin ${size1}.`)
  }
  if (size1 === 0) return []
  return rangeHashes(read, proofRanges({ start: 0, end: size1 }, size2))
}

/**
 * SUBPROOF (§2.1.4.1) as the ranges whose hashes it lists. With `start` other than 0 it is the
 * subtree consistency proof of draft-ietf-plants-merkle-tree-certs §4.4, of which PROOF is the
 * case start = 0.
 */
export function proofRanges(subtree: Range, size: number): Range[] {
  const ranges: Range[] = []
  const { end } = subtree
  // What is left to explain: the subtree [first, end) within the tree over [low, high).
  let first = subtree.start
  let low = 0
  let high = size
  let known = true
  while (first !== low || end !== high) {
    const middle = low + splitOf(high - low)
    if (end <= middle) {
      ranges.push({ start: middle, end: high })
      high = middle
    } else {
      ranges.push({ start: low, end: middle })
      low = middle
      if (first < middle) {
        first = middle
        known = false
      }
    }
  }
  if (!known) ranges.push({ start: low, end: high })
  return ranges.toReversed()
}

/** Throws `bad-proof` unless `root1` and `root2` are consistent by this proof (§2.1.4.2). */
export function verifyConsistencyProof(claim: ConsistencyProof): void {
  const { size1, size2, root1, root2, proof } = claim
  if (!Number.isSafeInteger(size1) || !Number.isSafeInteger(size2) || size1 < 0 || size1 > size2) {
    throw new VaultMeshError('bad-proof', `No tree of ${size1} leaves grows to ${size2}.`)
  }
  checkHash(root1, 'The first root')
  checkHash(root2, 'The second root')
  if (size1 === 0 || size1 === size2) {
    const expected = size1 === 0 ? emptyRoot : root2
    if (proof.length > 0) {
      throw new VaultMeshError('bad-proof', `From ${size1} to ${size2} no hashes are needed.`)
    }
    if (!equal(root1, expected) || (size2 === 0 && !equal(root2, emptyRoot))) {
      throw new VaultMeshError('bad-proof', `Two different roots at size ${size1}.`)
    }
    return
  }
  for (const [i, hash] of proof.entries()) checkHash(hash, `Hash ${i} of the proof`)

  let fn = size1 - 1
  let sn = size2 - 1
  while (fn % 2 === 1) {
    fn = Math.floor(fn / 2)
    sn = Math.floor(sn / 2)
  }
  // A first tree of 2^i leaves is a node of the second: its root is the hash to start from.
  const path = fn === 0 ? [root1, ...proof] : proof
  const [seed, ...rest] = path
  if (seed === undefined) throw new VaultMeshError('bad-proof', 'The proof has no hashes.')
  let fr: Hash = seed
  let sr: Hash = seed
  for (const c of rest) {
    if (sn === 0) {
      throw new VaultMeshError('bad-proof', `The proof has ${proof.length} hashes, too many.`)
    }
    if (fn % 2 === 1 || fn === sn) {
      fr = nodeHash(c, fr)
      sr = nodeHash(c, sr)
      while (fn % 2 === 0 && fn !== 0) {
        fn /= 2
        sn = Math.floor(sn / 2)
      }
    } else {
      sr = nodeHash(sr, c)
    }
    fn = Math.floor(fn / 2)
    sn = Math.floor(sn / 2)
  }
  if (sn !== 0) {
    throw new VaultMeshError('bad-proof', `The proof has ${proof.length} hashes, too few.`)
  }
  if (!equal(fr, root1)) {
    throw new VaultMeshError('bad-proof', `The proof leads to another root at size ${size1}.`)
  }
  if (!equal(sr, root2)) {
    throw new VaultMeshError('bad-proof', `The proof leads to another root at size ${size2}.`)
  }
}
