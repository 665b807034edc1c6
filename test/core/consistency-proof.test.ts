import { createHash } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { fromHex, toHex } from '#core/bytes.ts'
import { consistencyProof, proofRanges, verifyConsistencyProof } from '#core/consistency-proof.ts'
import { VaultMeshError } from '#core/errors.ts'
import { emptyRoot, leafHashes, rootOf } from '#core/merkle.ts'
import { rangeHashes } from '#core/tile-reader.ts'
import type { HashReader } from '#core/tile-reader.ts'
import vectors from '../vectors/consistency-proofs.json' with { type: 'json' }
import mtc from '../vectors/mtc-subtrees.json' with { type: 'json' }

const packed = leafHashes(Array.from({ length: 130 }, (_, i) => Uint8Array.of(i)))
const mth = (start: number, end: number): Uint8Array =>
  rootOf(packed.subarray(32 * start, 32 * end))
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

const valid = (start: number, end: number): boolean =>
  start === end || start % 2 ** Math.ceil(Math.log2(end - start)) === 0

describe('a consistency proof', () => {
  test.each(vectors.cases as [string, number, number, number, number, number[], boolean][])(
    'of transparency-dev/merkle: %s (%d to %d)',
    (_, size1, size2, root1, root2, proof, accepted) => {
      const hash = (i: number): Uint8Array => fromHex(vectors.hashes.at(i)!)
      const claim = { size1, size2, root1: hash(root1), root2: hash(root2), proof: proof.map(hash) }
      const short = claim.root1.length !== 32 && claim.root2.length !== 32
      expect(refused(() => verifyConsistencyProof(claim))).toBe(!accepted || short)
    },
  )

  test(
    'is the published one for every subtree of every tree up to 130',
    { timeout: 60_000 },
    async () => {
      const memo = new Map<string, Uint8Array>()
      const fast: HashReader = async (coords) =>
        coords.map((c) => {
          const key = `${c.level} ${c.index}`
          const hash = memo.get(key) ?? mth(c.index * 2 ** c.level, (c.index + 1) * 2 ** c.level)
          memo.set(key, hash)
          return hash
        })
      const lines = createHash('sha256')
      for (let size = 0; size <= mtc.max; size++) {
        for (let end = 0; end <= size; end++) {
          for (let start = 0; start <= end; start++) {
            if (!valid(start, end)) continue
            const ranges = start === end ? [] : proofRanges({ start, end }, size)
            const proof = await rangeHashes(fast, ranges)
            lines.update(
              `[${start}, ${end}) ${size}${proof.map((hash) => ` ${toHex(hash)}`).join('')}\n`,
            )
          }
        }
      }
      expect(lines.digest('hex')).toBe(mtc.consistency)
    },
  )

  test(
    'verifies between all sizes up to 70, and with one bit flipped it does not',
    { timeout: 60_000 },
    async () => {
      let turn = 0
      for (let size2 = 0; size2 <= 70; size2++) {
        for (let size1 = 0; size1 <= size2; size1++) {
          const proof = await consistencyProof(read, size1, size2)
          const claim = { size1, size2, root1: mth(0, size1), root2: mth(0, size2), proof }
          verifyConsistencyProof(claim)
          // From the empty tree nothing is proven about the second root (RFC 9162 §2.1.4: 0 < first).
          const hashes = [...proof, claim.root1, ...(size1 === 0 && size2 > 0 ? [] : [claim.root2])]
          for (const hash of hashes) {
            for (let i = 0; i < 32; i += 3) {
              const bit = 1 << (turn++ % 8)
              hash[i] = hash.at(i)! ^ bit
              if (!refused(() => verifyConsistencyProof(claim)))
                expect.fail(`bit ${i}, ${size1} to ${size2}`)
              hash[i] = hash.at(i)! ^ bit
            }
          }
        }
      }
    },
  )

  test('does not verify for other sizes with a hash more, less, or of another length', async () => {
    for (let size2 = 1; size2 <= 33; size2++) {
      for (let size1 = 0; size1 <= size2; size1++) {
        const proof = await consistencyProof(read, size1, size2)
        const claim = { size1, size2, root1: mth(0, size1), root2: mth(0, size2), proof }
        const variants = [
          { ...claim, proof: [...proof, mth(0, 1)] },
          { ...claim, proof: [mth(0, 1), ...proof] },
          { ...claim, root1: claim.root1.slice(1) },
          { ...claim, root2: claim.root2.slice(1) },
          { ...claim, size1: -1 },
          { ...claim, size1: size1 + 0.5 },
          { ...claim, size1: size2 + 1 },
          { ...claim, size2: 2 ** 53 },
        ]
        if (size1 !== size2) variants.push({ ...claim, root1: claim.root2, root2: claim.root1 })
        if (proof.length > 0) {
          variants.push({ ...claim, proof: [] })
          variants.push(
            { ...claim, proof: proof.slice(1) },
            { ...claim, proof: proof.slice(0, -1) },
          )
          variants.push({ ...claim, proof: [proof.at(0)!.slice(0, 31), ...proof.slice(1)] })
        }
        for (const [i, variant] of variants.entries()) {
          if (!refused(() => verifyConsistencyProof(variant))) {
            // A wrong second root is not noticed from size 0, where there is nothing to compare.
            expect([size1, i]).toEqual([0, 8])
          }
        }
      }
    }
  })

  test('from the empty tree is empty, and demands the root of the empty tree', () => {
    const root2 = mth(0, 5)
    verifyConsistencyProof({ size1: 0, size2: 5, root1: emptyRoot, root2, proof: [] })
    expect(
      refused(() => verifyConsistencyProof({ size1: 0, size2: 5, root1: root2, root2, proof: [] })),
    ).toBe(true)
    const wrong = { size1: 0, size2: 0, root1: emptyRoot, root2, proof: [] }
    expect(refused(() => verifyConsistencyProof(wrong))).toBe(true)
  })

  test('exists for no smaller second tree', async () => {
    for (const [size1, size2] of [
      [2, 1],
      [-1, 1],
      [0, 0.5],
      [1, 2 ** 53],
    ] as const) {
      await expect(consistencyProof(read, size1, size2)).rejects.toMatchObject({
        code: 'no-such-size',
      })
    }
  })
})
