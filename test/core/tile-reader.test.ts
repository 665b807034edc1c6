import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { VaultMeshError } from '#core/errors.ts'
import { append, edgeTiles, emptyEdge, emptyRoot, rootOf, rootOfEdge } from '#core/merkle.ts'
import { tilePath } from '#core/tile.ts'
import {
  completeSubtrees,
  rangeHashes,
  rootFromTiles,
  splitOf,
  tileHashReader,
} from '#core/tile-reader.ts'

function leaves(n: number): Uint8Array {
  const out = new Uint8Array(32 * n)
  const view = new DataView(out.buffer)
  for (let i = 0; i < n; i++) view.setUint32(32 * i + 4, i)
  return out
}

/** A store holding what a log of `size` must keep: full tiles, and partial ones of `size` only. */
function store(size: number) {
  const tiles = new Map<string, Uint8Array>()
  const fetched: string[] = []
  const edge = append(emptyEdge, leaves(size), (level, index, bytes) => {
    tiles.set(tilePath(level, index), bytes)
  })
  for (const { level, index, width, bytes } of edgeTiles(edge)) {
    tiles.set(tilePath(level, index, width), bytes)
  }
  const fetchTile = (level: number, index: number, width: number): Promise<Uint8Array> => {
    const path = tilePath(level, index, width)
    fetched.push(path)
    const bytes = tiles.get(path)
    return bytes === undefined ? Promise.reject(new Error(`no ${path}`)) : Promise.resolve(bytes)
  }
  return { edge, tiles, fetched, fetchTile }
}

const sizes = [1, 2, 3, 255, 256, 257, 511, 512, 65_535, 65_536, 65_537, 70_000]

describe('tiles', () => {
  test.each([0, ...sizes])('of %d leaves give its root, each fetched once', async (size) => {
    const { edge, fetched, fetchTile } = store(size)
    expect(await rootFromTiles(fetchTile, size)).toEqual(rootOfEdge(edge))
    expect(new Set(fetched).size).toBe(fetched.length)
    expect(fetched.length).toBe(size === 0 ? 0 : edgeTiles(edge).length)
  })

  test('answer every complete subtree', async () => {
    for (const size of sizes) {
      const all = leaves(size)
      const read = tileHashReader(store(size).fetchTile, size)
      const coords: { level: number; index: number }[] = []
      for (let level = 0; 2 ** level <= size; level++) {
        const last = Math.floor(size / 2 ** level) - 1
        for (const index of new Set([0, last >> 1, Math.max(0, last - 1), last]))
          coords.push({ level, index })
      }
      const hashes = await read(coords)
      for (const [i, { level, index }] of coords.entries()) {
        const leafRange = all.subarray(32 * index * 2 ** level, 32 * (index + 1) * 2 ** level)
        expect(hashes[i]).toEqual(rootOf(leafRange))
      }
    }
  })

  test('are fetched once over the calls of a reader', async () => {
    const { fetched, fetchTile } = store(70_000)
    const read = tileHashReader(fetchTile, 70_000)
    await Promise.all([
      read([
        { level: 0, index: 5 },
        { level: 3, index: 1 },
      ]),
      read([{ level: 7, index: 0 }]),
    ])
    expect(fetched).toEqual(['tile/0/000'])
  })

  test('do not answer what is not complete yet', async () => {
    const read = tileHashReader(store(257).fetchTile, 257)
    for (const coords of [
      { level: 0, index: 257 },
      { level: 9, index: 0 },
      { level: 1, index: 128 },
    ]) {
      await expect(read([coords])).rejects.toMatchObject({ code: 'no-such-size' })
    }
    for (const size of [-1, 0.5, 2 ** 53, Number.NaN]) {
      expect(() => tileHashReader(() => Promise.reject(new Error('unused')), size)).toThrow(
        VaultMeshError,
      )
    }
  })

  test('of the wrong length are refused', async () => {
    const short = tileHashReader(() => Promise.resolve(new Uint8Array(32 * 254)), 255)
    await expect(short([{ level: 0, index: 0 }])).rejects.toMatchObject({ code: 'bad-proof' })
  })

  test('that cannot be fetched fail with the store’s own error', async () => {
    const gone = tileHashReader(() => Promise.reject(new Error('gone')), 255)
    await expect(gone([{ level: 0, index: 0 }])).rejects.toThrow('gone')
  })
})

describe('a range', () => {
  test('is the root of its leaves', async () => {
    const size = 700
    const all = leaves(size)
    const read = tileHashReader(store(size).fetchTile, size)
    for (const start of [0, 256, 512]) {
      for (let end = start + 1; end <= Math.min(size, start + 256); end += 7) {
        const [hash] = await rangeHashes(read, [{ start, end }])
        expect(hash).toEqual(rootOf(all.subarray(32 * start, 32 * end)))
      }
    }
    expect(await rangeHashes(read, [])).toEqual([])
    expect(await rootFromTiles(() => Promise.reject(new Error('unused')), 0)).toEqual(emptyRoot)
  })

  test('falls apart into complete subtrees that cover it without a gap', () => {
    fc.assert(
      fc.property(fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER }), (end) => {
        let at = 0
        for (const { level, index } of completeSubtrees({ start: 0, end })) {
          expect(index * 2 ** level).toBe(at)
          at += 2 ** level
        }
        expect(at).toBe(end)
      }),
    )
  })

  test('splits at the largest power of two below its length', () => {
    fc.assert(
      fc.property(fc.integer({ min: 2, max: Number.MAX_SAFE_INTEGER }), (n) => {
        const k = splitOf(n)
        expect(k < n && n <= 2 * k).toBe(true)
        expect(Number.isInteger(Math.log2(k))).toBe(true)
      }),
    )
    expect(splitOf(Number.MAX_SAFE_INTEGER)).toBe(2 ** 52)
  })
})
