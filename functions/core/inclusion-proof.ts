/**
 * Inclusion proofs: RFC 9162 §2.1.3 (the audit path of RFC 6962 §2.1.1).
 *
 * PATH(m, D[n]) lists the siblings on the way from leaf m to the root, the leaf's own sibling
 * first. Verification folds them in that order and accepts only if it ends at the root with all
 * hashes used and none missing; so a leaf has exactly one valid proof in a tree.
 */

import { equal } from '#core/bytes.ts'
import type { Hash } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { HASH_BYTES, nodeHash } from '#core/merkle.ts'
import { checkSize, rangeHashes, splitOf } from '#core/tile-reader.ts'
import type { HashReader, Range } from '#core/tile-reader.ts'

/** A leaf and the way from it to the root of a tree of `size` leaves. */
export interface InclusionProof {
  readonly index: number
  readonly size: number
  readonly leafHash: Uint8Array
  readonly proof: readonly Uint8Array[]
}

/** The proof that leaf `index` is in the tree of `size` leaves; `no-such-size` if it is not. */
export async function inclusionProof(
  read: HashReader,
  index: number,
  size: number,
): Promise<Hash[]> {
  checkSize(size)
  if (!Number.isSafeInteger(index) || index < 0 || index >= size) {
    throw new VaultMeshError('no-such-size', `A tree of ${size} leaves has no leaf ${index}.`)
  }
  return rangeHashes(read, pathRanges(index, { start: 0, end: size }))
}

/** PATH(index, D[start:end]) (§2.1.3.1), as the ranges whose hashes it lists. */
export function pathRanges(index: number, { start, end }: Range): Range[] {
  const ranges: Range[] = []
  while (end - start > 1) {
    const middle = start + splitOf(end - start)
    if (index < middle) {
      ranges.push({ start: middle, end })
      end = middle
    } else {
      ranges.push({ start, end: middle })
      start = middle
    }
  }
  return ranges.toReversed()
}

/** Throws `bad-proof` unless the proof leads to `root` (§2.1.3.2). */
export function verifyInclusionProof(claim: InclusionProof & { readonly root: Uint8Array }): void {
  checkHash(claim.root, 'The root')
  if (!equal(rootFromInclusionProof(claim), claim.root)) {
    throw new VaultMeshError(
      'bad-proof',
      `The proof of leaf ${claim.index} leads to another root than that of size ${claim.size}.`,
    )
  }
}

/** The root that a proof leads to (§2.1.3.2 steps 1 to 5). Throws `bad-proof` if it fits no tree. */
export function rootFromInclusionProof(claim: InclusionProof): Hash {
  return inclusionLevels(claim).at(-1)?.hash ?? claim.leafHash.slice()
}

/** A node on the way from a leaf to the root: what is hashed, and what comes out. */
export interface Level {
  readonly left: Uint8Array
  readonly right: Uint8Array
  readonly hash: Hash
  /** Which of the two is the proof's; the other came from the level below. */
  readonly sibling: 'left' | 'right'
}

/**
 * The nodes that a proof leads through, the leaf's parent first; none in a tree of one leaf. Throws `bad-proof` if it
 * fits no tree.
 */
export function inclusionLevels({ index, size, leafHash, proof }: InclusionProof): Level[] {
  if (!Number.isSafeInteger(size) || !Number.isSafeInteger(index) || index < 0 || index >= size) {
    throw new VaultMeshError('bad-proof', `A tree of ${size} leaves has no leaf ${index}.`)
  }
  checkHash(leafHash, 'The leaf hash')
  const levels: Level[] = []
  let fn = index
  let sn = size - 1
  let r: Uint8Array = leafHash
  for (const [i, p] of proof.entries()) {
    checkHash(p, `Hash ${i} of the proof`)
    if (sn === 0) {
      throw new VaultMeshError('bad-proof', `The proof has ${proof.length} hashes; ${i} suffice.`)
    }
    const isRight = fn % 2 === 1 || fn === sn
    const [left, right] = isRight ? [p, r] : [r, p]
    const hash = nodeHash(left, right)
    levels.push({ left, right, hash, sibling: isRight ? 'left' : 'right' })
    r = hash
    if (isRight) {
      while (fn % 2 === 0 && fn !== 0) {
        fn /= 2
        sn = Math.floor(sn / 2)
      }
    }
    fn = Math.floor(fn / 2)
    sn = Math.floor(sn / 2)
  }
  if (sn !== 0) {
    throw new VaultMeshError('bad-proof', `The proof has ${proof.length} hashes, too few.`)
  }
  return levels
}

/** Throws `bad-proof` unless `hash` has 32 bytes. */
export function checkHash(hash: Uint8Array, what: string): void {
  if (hash.length !== HASH_BYTES) {
    throw new VaultMeshError('bad-proof', `${what} has ${hash.length} bytes instead of 32.`)
  }
}
