import { createHash } from 'node:crypto'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  inclusionProof,
  pathRanges,
  rootFromInclusionProof,
  verifyInclusionProof,
} from '#core/inclusion-proof.ts'
import { append, edgeTiles, emptyEdge, leafHash, leafHashes, rootOf } from '#core/merkle.ts'
import { rangeHashes, tileHashReader } from '#core/tile-reader.ts'
import type { HashReader } from '#core/tile-reader.ts'
import vectors from '../vectors/inclusion-proofs.json' with { type: 'json' }
import mtc from '../vectors/mtc-subtrees.json' with { type: 'json' }

const packed = leafHashes(Array.from({ length: 130 }, (_, i) => Uint8Array.of(i)))
const leaf = (i: number): Uint8Array => packed.slice(32 * i, 32 * i + 32)
const mth = (start: number, end: number): Uint8Array =>
  rootOf(packed.subarray(32 * start, 32 * end))

/** Reads the tree of the 130 one-byte leaves. */
const read: HashReader = (coords) =>
  Promise.resolve(
    coords.map(({ level, index }) => mth(index * 2 ** level, (index + 1) * 2 ** level)),
  )

const refused = (run: () => void): boolean => {
  try {
    run()
    return false
  } catch (error) {
    if (!(error instanceof VaultMeshError && error.code === 'bad-proof')) throw error
    return true
  }
}

describe('an inclusion proof', () => {
  test.each(vectors.cases as [string, number, number, number, number, number[], boolean][])(
    'of transparency-dev/merkle: %s (leaf %d of %d)',
    (_, index, size, root, leafAt, proof, valid) => {
      const hash = (i: number): Uint8Array => fromHex(vectors.hashes.at(i)!)
      const claim = {
        index,
        size,
        root: hash(root),
        leafHash: hash(leafAt),
        proof: proof.map(hash),
      }
      expect(refused(() => verifyInclusionProof(claim))).toBe(!valid)
    },
  )

  test('is the published one for every leaf of every subtree up to 130', async () => {
    const lines = createHash('sha256')
    for (let end = 0; end <= mtc.max; end++) {
      for (let start = 0; start < end; start++) {
        if (start % 2 ** Math.ceil(Math.log2(end - start)) !== 0) continue
        for (let i = start; i < end; i++) {
          const proof = await rangeHashes(read, pathRanges(i, { start, end }))
          lines.update(
            `${i} [${start}, ${end})${proof.map((hash) => ` ${toHex(hash)}`).join('')}\n`,
          )
        }
      }
    }
    expect(lines.digest('hex')).toBe(mtc.inclusion)
  })

  test(
    'verifies for every leaf up to size 70, and with one bit flipped it does not',
    { timeout: 60_000 },
    async () => {
      let turn = 0
      for (let size = 1; size <= 70; size++) {
        for (let index = 0; index < size; index++) {
          const root = mth(0, size)
          const claim = {
            index,
            size,
            root,
            leafHash: leaf(index),
            proof: await inclusionProof(read, index, size),
          }
          verifyInclusionProof(claim)
          expect(toHex(rootFromInclusionProof(claim))).toBe(toHex(root))
          for (const hash of [...claim.proof, claim.leafHash, claim.root]) {
            for (let i = 0; i < 32; i += 3) {
              const bit = 1 << (turn++ % 8)
              hash[i] = hash.at(i)! ^ bit
              if (!refused(() => verifyInclusionProof(claim)))
                expect.fail(`bit ${i}, ${index} of ${size}`)
              hash[i] = hash.at(i)! ^ bit
            }
          }
        }
      }
    },
  )

  test('does not verify for another index, with a hash more, less, or of another length', async () => {
    for (let size = 1; size <= 40; size++) {
      for (let index = 0; index < size; index++) {
        const proof = await inclusionProof(read, index, size)
        const claim = { index, size, root: mth(0, size), leafHash: leaf(index), proof }
        const variants = [
          ...Array.from({ length: size + 2 }, (_, i) => ({ ...claim, index: i - 1 })).filter(
            (c) => c.index !== index,
          ),
          { ...claim, proof: [...proof, leaf(0)] },
          { ...claim, proof: [leaf(0), ...proof] },
          { ...claim, leafHash: claim.leafHash.slice(1) },
          { ...claim, root: claim.root.slice(1) },
          { ...claim, index: index + 0.5 },
          { ...claim, size: 2 ** 53 },
          { ...claim, size: Number.NaN },
        ]
        if (proof.length > 0) {
          variants.push(
            { ...claim, proof: proof.slice(1) },
            { ...claim, proof: proof.slice(0, -1) },
          )
          variants.push({ ...claim, proof: [proof.at(0)!.slice(0, 31), ...proof.slice(1)] })
        }
        for (const variant of variants)
          expect(refused(() => verifyInclusionProof(variant))).toBe(true)
      }
    }
  })

  test('built from tiles verifies at sizes around the tile borders', async () => {
    for (const size of [255, 256, 257, 70_000]) {
      const tiles = new Map<string, Uint8Array>()
      const all = new Uint8Array(32 * size)
      new DataView(all.buffer).setUint32(0, 1)
      for (let i = 0; i < size; i++) new DataView(all.buffer).setUint32(32 * i + 8, i)
      const edge = append(emptyEdge, all, (level, index, bytes) =>
        tiles.set(`${level}/${index}/256`, bytes),
      )
      for (const t of edgeTiles(edge)) tiles.set(`${t.level}/${t.index}/${t.width}`, t.bytes)
      const root = rootOf(all)
      await fc.assert(
        fc.asyncProperty(fc.nat(size - 1), async (index) => {
          const reader = tileHashReader(
            (l, i, w) => Promise.resolve(tiles.get(`${l}/${i}/${w}`)!),
            size,
          )
          const proof = await inclusionProof(reader, index, size)
          verifyInclusionProof({
            index,
            size,
            root,
            leafHash: all.slice(32 * index, 32 * index + 32),
            proof,
          })
        }),
        { numRuns: 25, examples: [[0], [size - 1]] },
      )
    }
  })

  test('exists for no leaf outside the tree', async () => {
    for (const [index, size] of [
      [1, 1],
      [-1, 1],
      [0, 0],
      [0.5, 2],
      [0, -1],
      [0, 2 ** 53],
    ] as const) {
      await expect(inclusionProof(read, index, size)).rejects.toMatchObject({
        code: 'no-such-size',
      })
    }
  })

  test('of a leaf 2^52 deep needs 53 hashes, all of them', () => {
    const size = 2 ** 53 - 1
    expect(pathRanges(0, { start: 0, end: size }).length).toBe(53)
    const proof = Array.from({ length: 53 }, (_, i) => leafHash(Uint8Array.of(i)))
    const claim = { index: 0, size, leafHash: leaf(0), proof }
    expect(rootFromInclusionProof(claim).length).toBe(32)
    expect(refused(() => rootFromInclusionProof({ ...claim, proof: proof.slice(1) }))).toBe(true)
  })
})
