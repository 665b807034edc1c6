import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { merkleRootFrom, parseHeader } from '#core/bitcoin-proof.ts'
import { fromDisplay, sha256d, toDisplay } from '#core/bitcoin-transaction.ts'
import { concat, equal, fromHex, toHex } from '#core/bytes.ts'
import { sha256 } from '#core/sha256.ts'
import { branchOf } from '../../queues/anchors/merkle-block.ts'
import { refusal } from '../support/refusal.ts'
import vectors from '../vectors/bitcoin.json' with { type: 'json' }

const txids = (n: number) => Array.from({ length: n }, (_, i) => sha256(Uint8Array.of(i, i >> 8)))

function levels(leaves: readonly Uint8Array[]): Uint8Array[][] {
  const rows = [[...leaves]]
  while (rows.at(-1)!.length > 1) {
    const row = rows.at(-1)!
    rows.push(
      Array.from({ length: Math.ceil(row.length / 2) }, (_, i) =>
        sha256d(concat(row[2 * i]!, row[2 * i + 1] ?? row[2 * i]!)),
      ),
    )
  }
  return rows
}

function u32(n: number): Uint8Array {
  const out = new Uint8Array(4)
  new DataView(out.buffer).setUint32(0, n, true)
  return out
}

function sized(n: number): Uint8Array {
  return n < 0xfd ? Uint8Array.of(n) : Uint8Array.of(0xfd, n & 0xff, n >> 8)
}

/** CMerkleBlock of `leaves`, proving those at `matches` (BIP 37). */
function encoded(leaves: readonly Uint8Array[], matches: readonly number[], header?: Uint8Array) {
  const rows = levels(leaves)
  const flags: number[] = []
  const hashes: Uint8Array[] = []
  const visit = (level: number, index: number): void => {
    const holds = matches.some((match) => match >> level === index)
    flags.push(holds ? 1 : 0)
    if (!holds || level === 0) return void hashes.push(rows[level]![index]!)
    visit(level - 1, index * 2)
    if (index * 2 + 1 < rows[level - 1]!.length) visit(level - 1, index * 2 + 1)
  }
  visit(rows.length - 1, 0)
  const bits = new Uint8Array(Math.ceil(flags.length / 8))
  for (const [i, flag] of flags.entries()) bits[i >> 3]! |= flag << (i & 7)
  const top = header ?? concat(new Uint8Array(36), rows.at(-1)![0]!, new Uint8Array(12))
  const parts = [u32(leaves.length), sized(hashes.length), ...hashes, sized(bits.length), bits]
  return concat(top, ...parts)
}

describe('a partial tree', () => {
  test('of block 100000 of mainnet gives the branch of each of its transactions', () => {
    const { header, txids: names } = vectors.block100000
    const leaves = names.map(fromDisplay)
    for (const [position, leaf] of leaves.entries()) {
      const found = branchOf(encoded(leaves, [position], fromHex(header)), toDisplay(leaf))
      expect(found).toMatchObject({ header, position })
      expect(found.branch).toHaveLength(2)
      expect(
        equal(
          merkleRootFrom(leaf, position, found.branch.map(fromHex)),
          parseHeader(fromHex(header)).merkleRoot,
        ),
      ).toBe(true)
    }
  })

  test('of any size leads from any transaction to the root, other matches or not', () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: 300 }),
        fc.nat(),
        fc.array(fc.nat(), { maxLength: 3 }),
        (n, at, more) => {
          const leaves = txids(n)
          const position = at % n
          const matches = [position, ...more.map((other) => other % n)]
          const found = branchOf(encoded(leaves, matches), toDisplay(leaves[position]!))
          expect(found.position).toBe(position)
          const rows = levels(leaves)
          const expected = rows.slice(0, -1).map((row, level) => {
            const index = position >> level
            return toHex(row[index ^ 1] ?? row[index]!)
          })
          expect(found.branch).toEqual(expected)
        },
      ),
    )
  })

  const leaves = txids(7)
  const good = encoded(leaves, [4])
  const name = toDisplay(leaves[4]!)

  test('without the transaction proves nothing of it', () => {
    expect(refusal(() => branchOf(good, toDisplay(leaves[5]!)))).toContain('is not in it')
    expect(refusal(() => branchOf(good, '00'.repeat(32)))).toContain('is not in it')
    // It is there, but only as somebody's sibling.
    expect(refusal(() => branchOf(encoded(leaves, [5]), name))).toContain('is not in it')
  })

  test('an inner node does not pass for a transaction', () => {
    const inner = levels(leaves)[1]![0]!
    expect(refusal(() => branchOf(encoded(leaves, [4]), toDisplay(inner)))).toContain('not in it')
  })

  test('with bytes cut off, added or changed is refused or proves the same', () => {
    for (let n = 0; n < good.length; n++) {
      expect(refusal(() => branchOf(good.subarray(0, n), name))).not.toBe('accepted')
    }
    expect(refusal(() => branchOf(concat(good, Uint8Array.of(0)), name))).toContain(
      'follow its end',
    )
    const proven = branchOf(good, name)
    fc.assert(
      fc.property(fc.nat(good.length - 1), fc.integer({ min: 1, max: 255 }), (at, flip) => {
        const bad = good.slice()
        bad[at]! ^= flip
        let found
        const outcome = refusal(() => (found = branchOf(bad, name)))
        // Only the parts of the header that are not the Merkle root may differ.
        if (outcome !== 'accepted') return
        expect(at < 36 || (at >= 68 && at < 80)).toBe(true)
        expect(found).toEqual({ ...proven, header: toHex(bad.subarray(0, 80)) })
      }),
      { numRuns: 2000 },
    )
  })

  test('of random bytes is refused, never a crash', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 400 }), (bytes) => {
        expect(refusal(() => branchOf(bytes, name))).not.toBe('accepted')
        expect(refusal(() => branchOf(concat(good.subarray(0, 84), bytes), name))).not.toBe(
          'accepted',
        )
      }),
    )
  })

  test('with absurd numbers is refused before anything is allocated', () => {
    const head = good.subarray(0, 80)
    const cases = [
      [u32(0), sized(0), sized(0)],
      [u32(16_667), sized(0), sized(0)],
      [u32(0xffffffff), sized(0), sized(0)],
      [u32(7), Uint8Array.of(0xfd, 1, 0)],
      [u32(7), Uint8Array.of(0xfe, 0xff, 0xff, 0xff, 0xff)],
      [u32(7), Uint8Array.of(0xff)],
      [u32(1), sized(2), ...txids(2), sized(1), Uint8Array.of(3)],
      [u32(7), sized(0), sized(0)],
    ]
    for (const parts of cases) {
      expect(refusal(() => branchOf(concat(head, ...parts), name))).toContain('branch: ')
    }
  })

  test('that twins its last transaction is refused (CVE-2012-2459)', () => {
    const odd = txids(3)
    const twinned = [...odd, odd[2]!]
    expect(levels(twinned).at(-1)).toEqual(levels(odd).at(-1))
    expect(refusal(() => branchOf(encoded(twinned, [3]), toDisplay(odd[2]!)))).toContain('own left')
  })
})
