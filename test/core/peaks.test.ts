/**
 * A tree by its peaks has the roots of merkle.ts however its leaves were cut into appends, and its bytes are
 * refused for any size but its own.
 */

import { createHash } from 'node:crypto'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fromHex, toHex, type Hash } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { append, emptyEdge, emptyRoot, leafHashes, rootOf, rootOfEdge } from '#core/merkle.ts'
import { appendPeaks, noPeaks, packPeaks, rootOfPeaks, unpackPeaks } from '#core/peaks.ts'
import type { Peaks } from '#core/peaks.ts'
import { completeSubtrees } from '#core/tile-reader.ts'
import vectors from '../vectors/rfc6962-tree.json' with { type: 'json' }

/** Leaf hashes 0 to n - 1, packed; any 32 bytes do. */
function leaves(n: number): Uint8Array {
  const out = new Uint8Array(32 * n)
  const view = new DataView(out.buffer)
  for (let i = 0; i < n; i++) {
    view.setUint32(32 * i, i)
    view.setUint32(32 * i + 28, ~i)
  }
  return out
}

/** How many ones a size has in binary. */
function ones(size: number): number {
  return size.toString(2).replaceAll('0', '').length
}

/** The first `n` leaves, appended in pieces of these sizes, the last one cut or followed by the rest. */
function grow(n: number, pieces: readonly number[]): Peaks {
  const all = leaves(n)
  let peaks = noPeaks
  for (const piece of [...pieces, n]) {
    const end = Math.min(n, peaks.size + piece)
    peaks = appendPeaks(peaks, all.subarray(32 * peaks.size, 32 * end))
  }
  return peaks
}

/** The code of the VaultMeshError that `run` throws. */
function refusal(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof VaultMeshError) return error.code
    throw error
  }
  return 'accepted'
}

const sha256 = (...parts: Uint8Array[]): Hash => {
  const hash = createHash('sha256')
  for (const part of parts) hash.update(part)
  return new Uint8Array(hash.digest())
}

describe('the peaks', () => {
  test('have the published roots over the eight leaves of RFC 6962', () => {
    const entries = vectors.leaves.map(fromHex)
    for (const [n, root] of vectors.roots.entries()) {
      const peaks = appendPeaks(noPeaks, leafHashes(entries.slice(0, n)))
      expect(toHex(rootOfPeaks(peaks))).toBe(root)
    }
  })

  test('have the root of the whole tree at every size up to 600, one leaf at a time', () => {
    const all = leaves(600)
    let peaks = noPeaks
    for (let n = 0; n <= 600; n++) {
      expect(peaks.size).toBe(n)
      expect(peaks.hashes).toHaveLength(ones(n))
      expect(toHex(rootOfPeaks(peaks))).toBe(toHex(rootOf(all.subarray(0, 32 * n))))
      peaks = appendPeaks(peaks, all.subarray(32 * n, 32 * n + 32))
    }
  })

  test('are the roots of the complete subtrees that the size is made of, largest first', () => {
    for (const size of [1, 2, 3, 7, 8, 11, 255, 256, 257, 300]) {
      const all = leaves(size)
      const { hashes } = appendPeaks(noPeaks, all)
      let start = 0
      for (const [i, { length }] of [...size.toString(2).matchAll(/1(?=([01]*))/g)]
        .map(([, rest]) => ({ length: 2 ** rest!.length }))
        .entries()) {
        expect(toHex(hashes[i]!)).toBe(
          toHex(rootOf(all.subarray(32 * start, 32 * (start + length)))),
        )
        start += length
      }
      expect(start).toBe(size)
      // The own log's peaks are read from its tiles by these names.
      expect(completeSubtrees({ start: 0, end: size })).toHaveLength(hashes.length)
    }
  })

  test('of a tree with three are joined from the right', () => {
    const all = leaves(7)
    const { hashes } = appendPeaks(noPeaks, all)
    const [four, two, one] = hashes as [Hash, Hash, Hash]
    expect(toHex(one)).toBe(toHex(all.subarray(32 * 6)))
    const right = sha256(Uint8Array.of(1), two, one)
    expect(toHex(rootOfPeaks({ size: 7, hashes }))).toBe(
      toHex(sha256(Uint8Array.of(1), four, right)),
    )
  })

  test('do not depend on how the leaves were cut into appends', () => {
    const piece = fc.oneof(fc.nat(3), fc.nat(70), fc.nat(1500))
    fc.assert(
      fc.property(fc.nat(4000), fc.array(piece, { maxLength: 12 }), (n, pieces) => {
        const peaks = grow(n, pieces)
        expect(peaks).toEqual(appendPeaks(noPeaks, leaves(n)))
        expect(toHex(rootOfPeaks(peaks))).toBe(toHex(rootOf(leaves(n))))
        expect(peaks.hashes).toHaveLength(ones(n))
      }),
      { numRuns: 60 },
    )
  })

  test('lead to the root that the sequencer’s edge has', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(2000), { minLength: 1, maxLength: 5 }), (chunks) => {
        const all = leaves(chunks.reduce((sum, n) => sum + n, 0))
        let edge = emptyEdge
        let peaks = noPeaks
        for (const n of chunks) {
          const chunk = all.subarray(32 * edge.size, 32 * (edge.size + n))
          edge = append(edge, chunk, () => {})
          peaks = appendPeaks(peaks, chunk)
          expect(toHex(rootOfPeaks(peaks))).toBe(toHex(rootOfEdge(edge)))
        }
      }),
      { numRuns: 20 },
    )
  })

  test('of no leaf are none, and their root is that of the empty tree', () => {
    expect(appendPeaks(noPeaks, new Uint8Array(0))).toEqual({ size: 0, hashes: [] })
    expect(rootOfPeaks(noPeaks)).toEqual(emptyRoot)
    rootOfPeaks(noPeaks)[0]! ^= 1
    expect(rootOfPeaks(noPeaks)).toEqual(sha256())
  })

  test('an append leaves the peaks it began with, and what it was given, as they were', () => {
    const before = grow(700, [])
    const kept = structuredClone(before)
    const more = leaves(333)
    const after = appendPeaks(before, more)
    expect(before).toEqual(kept)
    const root = toHex(rootOfPeaks(after))
    more.fill(0)
    expect(toHex(rootOfPeaks(after))).toBe(root)
    expect(more.every((byte) => byte === 0)).toBe(true)
  })

  test('another leaf, another order and another size are another root', () => {
    const roots = new Set<string>()
    const all = leaves(65)
    for (let n = 0; n <= 65; n++) roots.add(toHex(rootOfPeaks(grow(n, []))))
    for (let i = 0; i < 65; i++) {
      const changed = all.slice()
      changed[32 * i]! ^= 1
      roots.add(toHex(rootOfPeaks(appendPeaks(noPeaks, changed))))
    }
    expect(roots.size).toBe(66 + 65)
  })

  test('half a hash is refused', () => {
    for (const length of [1, 31, 33, 63]) {
      expect(refusal(() => appendPeaks(noPeaks, new Uint8Array(length)))).toBe('bad-encoding')
    }
  })

  test('count beyond 2^32 without losing a leaf, and end at 2^53', () => {
    const size = 2 ** 52 + 255
    const stored = unpackPeaks(size, leaves(9))
    const grown = appendPeaks(stored, leaves(1))
    expect(grown.size).toBe(2 ** 52 + 256)
    expect(grown.hashes).toHaveLength(2)
    expect(grown.hashes[0]).toEqual(stored.hashes[0])
    const full = unpackPeaks(2 ** 53 - 1, leaves(53))
    expect(refusal(() => appendPeaks(full, leaves(1)))).toBe('bad-state')
    expect(appendPeaks(full, new Uint8Array(0))).toEqual(full)
  })
})

describe('stored peaks', () => {
  test('come back as they were, at most 53 hashes of them', () => {
    for (let n = 0; n <= 300; n++) {
      const peaks = grow(n, [])
      const bytes = packPeaks(peaks)
      expect(bytes).toHaveLength(32 * ones(n))
      expect(unpackPeaks(n, bytes)).toEqual(peaks)
    }
    expect(packPeaks(unpackPeaks(2 ** 53 - 1, leaves(53)))).toEqual(leaves(53))
  })

  test('can be gone on from, in any split, to the same root', () => {
    fc.assert(
      fc.property(fc.nat(900), fc.nat(900), (n, more) => {
        const half = grow(n, [])
        const again = unpackPeaks(n, packPeaks(half))
        const rest = leaves(n + more).subarray(32 * n)
        expect(toHex(rootOfPeaks(appendPeaks(again, rest)))).toBe(toHex(rootOf(leaves(n + more))))
      }),
      { numRuns: 60 },
    )
  })

  test('share no memory with the bytes they came from', () => {
    const bytes = leaves(2)
    const peaks = unpackPeaks(3, bytes)
    bytes.fill(0)
    expect(packPeaks(peaks)).toEqual(leaves(2))
  })

  test.each([
    ['one hash too few', 7, 2],
    ['one hash too many', 7, 4],
    ['none', 1, 0],
    ['one for the empty tree', 0, 1],
    ['those of twice the size plus one', 15, 3],
    ['a negative size', -1, 1],
    ['half a leaf', 1.5, 1],
    ['no number', Number.NaN, 0],
    ['a size without end', Number.POSITIVE_INFINITY, 1],
    ['a size past 2^53', 2 ** 53, 1],
  ])('%s is refused', (_name, size, hashes) => {
    expect(refusal(() => unpackPeaks(size, leaves(hashes)))).toBe('bad-state')
  })

  test('bytes that are no whole hashes are refused', () => {
    for (const length of [31, 33, 95, 97]) {
      expect(refusal(() => unpackPeaks(7, new Uint8Array(length)))).toBe('bad-state')
    }
  })
})
