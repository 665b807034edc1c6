/**
 * A Merkle tree by its peaks: the roots of the complete subtrees that its size is made of, largest first
 * (the ones bits of the size; RFC 6962 §2.1 gives the same tree). At most 53 hashes whatever the size,
 * so that a mirror can keep the state after every batch and go on from any of them.
 */

import type { Hash } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { emptyRoot, HASH_BYTES, nodeHash } from '#core/merkle.ts'

/** A tree of `size` leaves; `hashes` are its peaks, largest first. */
export interface Peaks {
  readonly size: number
  readonly hashes: readonly Hash[]
}

/** The tree without leaves. */
export const noPeaks: Peaks = { size: 0, hashes: [] }

/** The tree after appending packed leaf hashes (32 bytes each). Throws `bad-encoding`, `bad-state`. */
export function appendPeaks(peaks: Peaks, packedLeafHashes: Uint8Array): Peaks {
  if (packedLeafHashes.length % HASH_BYTES !== 0) {
    throw new VaultMeshError('bad-encoding', 'Packed hashes are a multiple of 32 bytes long.')
  }
  const hashes = [...peaks.hashes]
  let { size } = peaks
  for (let at = 0; at < packedLeafHashes.length; at += HASH_BYTES) {
    let hash: Hash = packedLeafHashes.slice(at, at + HASH_BYTES)
    // Each trailing one of the size is a peak of the new leaf's height: they merge.
    for (let left = size; left % 2 === 1; left = (left - 1) / 2) {
      hash = nodeHash(hashes.pop()!, hash)
    }
    hashes.push(hash)
    size++
  }
  if (!Number.isSafeInteger(size)) throw new VaultMeshError('bad-state', 'The tree is full (2^53).')
  return { size, hashes }
}

/** The root of the tree. */
export function rootOfPeaks({ hashes }: Peaks): Hash {
  const [last, ...larger] = hashes.toReversed()
  if (last === undefined) return emptyRoot.slice()
  return larger.reduce((root, peak) => nodeHash(peak, root), last)
}

/** The peaks as bytes: 32 each, largest first. */
export function packPeaks({ hashes }: Peaks): Uint8Array {
  const out = new Uint8Array(hashes.length * HASH_BYTES)
  hashes.forEach((hash, i) => out.set(hash, i * HASH_BYTES))
  return out
}

/** Peaks from storage; throws `bad-state` unless there are as many as `size` has ones. */
export function unpackPeaks(size: number, bytes: Uint8Array): Peaks {
  const isSize = Number.isSafeInteger(size) && size >= 0
  let ones = 0
  // Counted only if it is one: Infinity has no last digit.
  for (let left = isSize ? size : 0; left > 0; left = Math.floor(left / 2)) ones += left % 2
  if (!isSize || bytes.length !== ones * HASH_BYTES) {
    throw new VaultMeshError('bad-state', `The stored peaks do not fit the size ${size}.`)
  }
  const hashes = Array.from({ length: ones }, (_, i) =>
    bytes.slice(i * HASH_BYTES, (i + 1) * HASH_BYTES),
  )
  return { size, hashes }
}
