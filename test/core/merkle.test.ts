import { createHash } from 'node:crypto'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { concat, fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  append,
  edgeTiles,
  emptyEdge,
  emptyRoot,
  leafHash,
  leafHashes,
  nodeHash,
  partialWidth,
  restoreEdge,
  rootOf,
  rootOfEdge,
} from '#core/merkle.ts'
import type { TreeEdge } from '#core/merkle.ts'
import vectors from '../vectors/rfc6962-tree.json' with { type: 'json' }

const nothing = (): void => {}

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

/** RFC 6962 §2.1, word by word, on another SHA-256. */
function mth(packed: Uint8Array): Uint8Array {
  const n = packed.length / 32
  if (n === 0) return createHash('sha256').digest()
  if (n === 1) return packed
  let k = 1
  while (k * 2 < n) k *= 2
  return createHash('sha256')
    .update(Uint8Array.of(1))
    .update(mth(packed.subarray(0, 32 * k)))
    .update(mth(packed.subarray(32 * k)))
    .digest()
}

const hex = (bytes: Uint8Array): string => toHex(bytes)

describe('the tree', () => {
  test('has the published roots over the eight leaves of RFC 6962', () => {
    const entries = vectors.leaves.map(fromHex)
    expect(entries.map((entry) => hex(leafHash(entry))).join('')).toBe(hex(leafHashes(entries)))
    for (const [n, root] of vectors.roots.entries()) {
      expect(hex(rootOf(leafHashes(entries.slice(0, n))))).toBe(root)
    }
    expect(hex(emptyRoot)).toBe(vectors.roots[0])
    const [first, second] = [leafHash(entries.at(0)!), leafHash(entries.at(1)!)]
    expect(hex(nodeHash(first, second))).toBe(vectors.roots[2])
  })

  test('pairing level by level is the recursion of the RFC, for every size up to 520', () => {
    const all = leaves(520)
    for (let n = 0; n <= 520; n++) {
      const packed = all.subarray(0, 32 * n)
      expect(hex(rootOf(packed))).toBe(hex(mth(packed)))
    }
  })

  test('half a hash is refused', () => {
    expect(() => rootOf(new Uint8Array(33))).toThrow(VaultMeshError)
  })
})

/** Appends in chunks and keeps every full tile. */
function grow(chunks: readonly number[]): { edge: TreeEdge; full: Map<string, Uint8Array> } {
  const full = new Map<string, Uint8Array>()
  const all = leaves(chunks.reduce((sum, n) => sum + n, 0))
  let edge = emptyEdge
  for (const n of chunks) {
    edge = append(
      edge,
      all.subarray(32 * edge.size, 32 * (edge.size + n)),
      (level, index, bytes) => {
        expect(bytes.length).toBe(8192)
        expect(full.has(`${level}/${index}`)).toBe(false)
        full.set(`${level}/${index}`, bytes)
      },
    )
  }
  return { edge, full }
}

describe('the right edge', () => {
  test('has the root of the whole tree at every size up to 520', () => {
    const all = leaves(520)
    let edge = emptyEdge
    for (let n = 0; n <= 520; n++) {
      expect(edge.size).toBe(n)
      expect(hex(rootOfEdge(edge))).toBe(hex(mth(all.subarray(0, 32 * n))))
      edge = append(edge, all.subarray(32 * n, 32 * n + 32), nothing)
    }
  })

  test('does not depend on how the leaves were cut into appends', () => {
    const chunk = fc.oneof(fc.nat(3), fc.nat(300), fc.nat(3000))
    fc.assert(
      fc.property(fc.array(chunk, { maxLength: 12 }), (chunks) => {
        const many = grow(chunks)
        const one = grow([chunks.reduce((sum, n) => sum + n, 0)])
        expect(many).toEqual(one)
        expect(hex(rootOfEdge(many.edge))).toBe(hex(rootOf(leaves(many.edge.size))))
      }),
      { numRuns: 30 },
    )
  })

  test('with the full tiles it is just what tlog-tiles demands', () => {
    const { edge, full } = grow([70_000])
    const partial = edgeTiles(edge)
    expect(partial.map(({ level, index, width }) => [level, index, width])).toEqual([
      [0, 273, 112],
      [1, 1, 17],
      [2, 0, 1],
    ])
    expect(full.size).toBe(274)
    const all = leaves(70_000)
    expect(
      concat(...Array.from({ length: 273 }, (_, i) => full.get(`0/${i}`)!), partial.at(0)!.bytes),
    ).toEqual(all)
    expect(full.get('1/0')!.slice(32 * 5, 32 * 6)).toEqual(
      rootOf(all.subarray(32 * 1280, 32 * 1536)),
    )
    expect(partial.at(2)!.bytes).toEqual(rootOf(all.subarray(0, 32 * 65_536)))
  })

  test('of 256 leaves has one tile, at level 1', () => {
    const { edge } = grow([256])
    expect(edgeTiles(edge).map(({ level, index, width }) => [level, index, width])).toEqual([
      [1, 0, 1],
    ])
  })

  test('an append leaves the edge it began with as it was', () => {
    const { edge } = grow([700])
    const before = restoreEdge(edge.size, edge.levels)
    append(edge, leaves(70_000), nothing)
    expect(edge).toEqual(before)
  })

  test('survives storage, and is refused with any other width or size', () => {
    const { edge } = grow([256 * 256 + 300])
    expect(restoreEdge(edge.size, edge.levels)).toEqual(edge)
    expect(restoreEdge(0, [])).toEqual(emptyEdge)
    for (const size of [edge.size - 1, edge.size + 1, 0, -1, 0.5, 2 ** 53]) {
      expect(() => restoreEdge(size, edge.levels)).toThrow(VaultMeshError)
    }
    for (const level of edge.levels.keys()) {
      const less = new Map(edge.levels)
      less.set(level, edge.levels.get(level)!.slice(32))
      expect(() => restoreEdge(edge.size, less)).toThrow(VaultMeshError)
    }
    expect(() => restoreEdge(edge.size, [...edge.levels, [5, new Uint8Array(32)]])).toThrow(
      VaultMeshError,
    )
  })

  test('counts beyond 2^32 without losing a leaf', () => {
    const size = 2 ** 52 + 255
    const levels: [number, Uint8Array][] = []
    for (let level = 0; level < 7; level++) {
      const width = partialWidth(level, size)
      levels.push([level, leaves(width)])
    }
    const seen: [number, number][] = []
    const grown = append(restoreEdge(size, levels), leaves(1), (level, index) =>
      seen.push([level, index]),
    )
    expect(grown.size).toBe(2 ** 52 + 256)
    expect(seen).toEqual([[0, 2 ** 44]])
    expect(edgeTiles(grown).map(({ level, index, width }) => [level, index, width])).toEqual([
      [1, 2 ** 36, 1],
      [6, 0, 16],
    ])
    expect(() => append({ size: 2 ** 53 - 1, levels: new Map() }, leaves(1), nothing)).toThrow(
      VaultMeshError,
    )
  })
})
