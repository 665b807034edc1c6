import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { BitcoinProof } from '#core/bitcoin-proof.ts'
import {
  bitcoinNetworks,
  bitsOf,
  merkleRootFrom,
  parseHeader,
  targetOf,
  verifyBitcoinProof,
  verifyHeaders,
} from '#core/bitcoin-proof.ts'
import { fromDisplay, sha256d, toDisplay } from '#core/bitcoin-transaction.ts'
import { concat, equal, fromHex, toHex } from '#core/bytes.ts'
import {
  block,
  LIMIT,
  outcome,
  root,
  START,
  transaction,
  tree,
  u32,
} from '../support/bitcoin-chain.ts'
import vectors from '../vectors/bitcoin.json' with { type: 'json' }

function verify(
  proof: BitcoinProof,
  change: Partial<Parameters<typeof verifyBitcoinProof>[0]> = {},
) {
  return verifyBitcoinProof({ root, network: 'regtest', proof, requiredDepth: 6, ...change })
}

/** `hex` with one bit turned. */
function flip(hex: string, bit: number): string {
  const bytes = fromHex(hex)
  const at = bit % (bytes.length * 8)
  bytes[at >> 3]! ^= 1 << (at & 7)
  return toHex(bytes)
}

const good = block()

describe('a proof on regtest', () => {
  test('gives transaction, block, time, depth and work', () => {
    expect(verify(good)).toEqual({
      txid: toDisplay(sha256d(transaction(root))),
      blockHash: toDisplay(sha256d(fromHex(good.header))),
      height: 101,
      headerTime: START * 1000,
      depth: 7,
      // Seven blocks of two hashes each: log2 14.
      workLog2: 3.81,
      bits: 'fixed',
      checks: ['transaction', 'commitment', 'branch', 'link', 'height', 'bits', 'work', 'depth'],
    })
  })

  test('verifies at every position of blocks of 1 to 9 transactions', () => {
    for (let count = 1; count <= 9; count++) {
      for (let position = 0; position < count; position++) {
        expect(outcome(() => verify(block({ count, position })))).toBe('ok')
      }
    }
  })

  test('verifies with a witness, of which the block says nothing here', () => {
    const plain = transaction(root)
    const signed = concat(
      plain.subarray(0, 4),
      fromHex('0001'),
      plain.subarray(4, -4),
      fromHex('0101aa'),
      u32(0),
    )
    expect(verify({ ...good, rawTx: toHex(signed) })).toEqual(verify(good))
  })

  test('is refused when a bit of transaction, branch, header or position is turned', () => {
    const bit = fc.nat()
    const changed = fc.oneof(
      bit.map((b) => ({ ...good, rawTx: flip(good.rawTx, b) })),
      bit.map((b) => ({ ...good, header: flip(good.header, b) })),
      fc.tuple(bit, bit).map(([i, b]) => {
        const at = i % good.branch.length
        return { ...good, branch: good.branch.with(at, flip(good.branch[at]!, b)) }
      }),
      // The last header has nothing above it: only its work, here next to none, protects it.
      fc.tuple(bit, bit).map(([i, b]) => {
        const at = i % (good.following.length - 1)
        return { ...good, following: good.following.with(at, flip(good.following[at]!, b)) }
      }),
      fc.nat(52).map((b) => {
        const bits = BigInt(good.position) ^ (1n << BigInt(b))
        return { ...good, position: Number(bits) }
      }),
    )
    fc.assert(
      fc.property(changed, (proof) => outcome(() => verify(proof)) !== 'ok'),
      { numRuns: 500 },
    )
  })

  test('has one position only, in blocks of 1 to 9 transactions', () => {
    for (let count = 1; count <= 9; count++) {
      const proof = block({ count, position: count - 1 })
      for (let position = 0; position < 40; position++) {
        const expected =
          position === count - 1 ? 'ok' : expect.stringMatching(/^(branch|position)$/)
        expect(outcome(() => verify({ ...proof, position }))).toEqual(expected)
      }
    }
  })

  test('throws only VaultMeshError, whatever its strings and numbers are', () => {
    const hex = fc.oneof(fc.string(), fc.uint8Array().map(toHex))
    const any = fc.record({
      rawTx: fc.oneof(hex, fc.constant(good.rawTx)),
      branch: fc.oneof(fc.array(hex), fc.constant(good.branch)),
      position: fc.oneof(fc.double(), fc.integer(), fc.constant(good.position)),
      header: fc.oneof(hex, fc.constant(good.header)),
      following: fc.oneof(fc.array(hex), fc.constant(good.following)),
      height: fc.oneof(fc.double(), fc.integer(), fc.constant(good.height)),
    })
    fc.assert(fc.property(any, (proof) => void outcome(() => verify(proof))))
  })
})

describe('refused is', () => {
  const other = fromHex('c6'.repeat(32))

  test.each<[string, string, () => unknown]>([
    ['a root of 31 bytes', 'commitment', () => verify(good, { root: root.subarray(1) })],
    ['another root', 'commitment', () => verify(good, { root: other })],
    ['a root twice', 'commitment', () => verify(block({ rawTx: transaction(root, root) }))],
    [
      'a root with a prefix',
      'commitment',
      () => verify(block({ rawTx: transaction(concat(Uint8Array.of(1), root)) })),
    ],
    ['uppercase hex', 'header', () => verify({ ...good, header: good.header.toUpperCase() })],
    ['hex of odd length', 'transaction', () => verify({ ...good, rawTx: good.rawTx.slice(1) })],
    ['a header of 79 bytes', 'header', () => verify({ ...good, header: good.header.slice(2) })],
    ['a header of 81 bytes', 'header', () => verify({ ...good, header: `${good.header}00` })],
    ['a short branch', 'position', () => verify({ ...good, branch: good.branch.slice(0, 1) })],
    ['a branch to elsewhere', 'branch', () => verify({ ...good, branch: good.branch.slice(0, 2) })],
    ['a sibling of 31 bytes', 'branch', () => verify({ ...good, branch: ['00'.repeat(31)] })],
    ['33 levels', 'branch', () => verify({ ...good, branch: Array(33).fill('00'.repeat(32)) })],
    ['half a position', 'position', () => verify({ ...good, position: 0.5 })],
    ['a negative position', 'position', () => verify({ ...good, position: -1 })],
    ['a negative height', 'height', () => verify({ ...good, height: -1 })],
    ['half a height', 'height', () => verify({ ...good, height: 1.5 })],
    ['height 0 without the genesis block', 'height', () => verify({ ...good, height: 0 })],
    ['five headers on top', 'depth', () => verify({ ...good, following: good.following.slice(1) })],
    [
      '145 headers on top',
      'depth',
      () => verify({ ...good, following: Array(145).fill(good.header) }),
    ],
    ['fewer confirmations than wanted', 'depth', () => verify(good, { requiredDepth: 8 })],
    ['a wish for NaN confirmations', 'depth', () => verify(good, { requiredDepth: Number.NaN })],
    [
      'a gap in the headers',
      'link',
      () =>
        verify({
          ...block({ following: 8 }),
          following: block({ following: 8 }).following.toSpliced(2, 1),
        }),
    ],
    ['bits other than regtest’s', 'bits', () => verify(block({ bits: () => 0x207ffffe }))],
    ['bits easier than the limit', 'bits', () => verify(block({ bits: () => 0x21008000 }))],
    ['regtest work on mainnet', 'bits', () => verify(good, { network: 'mainnet' })],
    [
      'a checkpoint that differs',
      'checkpoint',
      () => verify(good, { checkpoint: (h) => (h === 104 ? 1 : null) }),
    ],
  ])('%s', (_, check, act) => {
    expect(outcome(act)).toBe(check)
  })

  test.each(['testnet', 'testnet4', 'litecoin', '__proto__'])('the network %s', (network) => {
    expect(outcome(() => verify(good, { network }))).toBe('network')
    expect(() => verify(good, { network })).toThrow('unsupported')
  })

  test('a header without the work it claims', () => {
    const bytes = fromHex(good.following[5]!)
    do bytes[76]!++
    while (BigInt(`0x${toDisplay(sha256d(bytes))}`) <= targetOf(LIMIT))
    const proof = { ...good, following: good.following.with(5, toHex(bytes)) }
    expect(outcome(() => verify(proof))).toBe('work')
  })

  test('a branch of 33 levels before it is hashed', () => {
    const branch = Array.from({ length: 33 }, () => '00'.repeat(32))
    expect(() => verify({ ...good, branch })).toThrow('more than 32 levels')
  })

  test('exactly as many confirmations and headers as allowed are not', () => {
    expect(outcome(() => verify(good, { requiredDepth: 7 }))).toBe('ok')
    expect(verify(block({ following: 144 })).depth).toBe(145)
  })
})

describe('the tree of a block', () => {
  test('a node that is its own left sibling is refused (CVE-2012-2459)', () => {
    const txids = Array.from({ length: 3 }, (_, i) => sha256d(Uint8Array.of(i)))
    const { merkleRoot, branch } = tree(txids, 2)
    expect(merkleRootFrom(txids[2]!, 2, branch)).toEqual(merkleRoot)
    expect(outcome(() => merkleRootFrom(txids[2]!, 3, branch))).toBe('branch')
  })

  test('a node behind the last one is refused', () => {
    const txid = sha256d(Uint8Array.of(0))
    const other = sha256d(Uint8Array.of(1))
    expect(outcome(() => merkleRootFrom(txid, 0, [txid, txid]))).toBe('branch')
    // Last on one level is last on all above, also where it is a right child in between.
    expect(outcome(() => merkleRootFrom(txid, 2, [txid, other]))).toBe('ok')
    expect(outcome(() => merkleRootFrom(txid, 2, [txid, other, other]))).toBe('branch')
  })

  test('a branch through a transaction of 64 bytes is refused (CVE-2017-12842)', () => {
    // What the attacker mines is a leaf; what he shows is its right half as a txid.
    const leaf = fromHex(
      `0200000001${'11'.repeat(32)}0000000000fdffffff01010000000000000004${'51'.repeat(4)}00000000`,
    )
    expect(leaf).toHaveLength(64)
    const [left, fake] = [leaf.subarray(0, 32), leaf.subarray(32)]
    expect(outcome(() => merkleRootFrom(fake, 1, [left]))).toBe('branch')
  })

  test('gives the root of block 100000 for each of its transactions', () => {
    const { header, hash, txids } = vectors.block100000
    const parsed = parseHeader(fromHex(header))
    expect(toDisplay(parsed.hash)).toBe(hash)
    expect(parsed.time).toBe(Date.parse('2010-12-29T11:57:43Z'))
    for (const [position, txid] of txids.entries()) {
      const { branch } = tree(txids.map(fromDisplay), position)
      expect(equal(merkleRootFrom(fromDisplay(txid), position, branch), parsed.merkleRoot)).toBe(
        true,
      )
    }
  })
})

describe('headers of mainnet', () => {
  const cut = (headers: readonly string[]) => headers.map((hex) => parseHeader(fromHex(hex)))
  const first = cut(vectors.first.headers)
  const around = cut(vectors.retarget.headers)
  const network = 'mainnet'

  test('0 to 10 hold, and are vouched for by nobody', () => {
    const verdict = verifyHeaders({ network, headers: first, height: 0 })
    // Eleven blocks of 2^32 hashes.
    expect(verdict).toEqual({
      workLog2: 35.46,
      bits: 'claimed',
      checks: ['link', 'height', 'bits', 'work'],
    })
  })

  test('0 to 10 hold with a table of bits, which must know each of them', () => {
    const run = { network, headers: first, height: 0 }
    const verdict = verifyHeaders({ ...run, checkpoint: () => 0x1d00ffff })
    expect(verdict.bits).toBe('expected')
    expect(verdict.checks).toEqual(['link', 'height', 'bits', 'checkpoint', 'work'])
    const partial = verifyHeaders({ ...run, checkpoint: (h) => (h === 5 ? null : 0x1d00ffff) })
    expect(partial.bits).toBe('claimed')
    expect(partial.checks).not.toContain('checkpoint')
    expect(outcome(() => verifyHeaders({ ...run, checkpoint: () => 0x1d00d86a }))).toBe(
      'checkpoint',
    )
  })

  test('the genesis block has height 0 and no other', () => {
    expect(outcome(() => verifyHeaders({ network, headers: first, height: 1 }))).toBe('height')
    expect(outcome(() => verifyHeaders({ network, headers: first.slice(1), height: 0 }))).toBe(
      'height',
    )
    expect(outcome(() => verifyHeaders({ network, headers: first.slice(1), height: 1 }))).toBe('ok')
  })

  test('32255 to 32257 change their bits where the epoch ends and nowhere else', () => {
    const run = { network, headers: around }
    expect(around.map(({ bits }) => bits)).toEqual([0x1d00ffff, 0x1d00d86a, 0x1d00d86a])
    expect(outcome(() => verifyHeaders({ ...run, height: 32_255 }))).toBe('ok')
    expect(outcome(() => verifyHeaders({ ...run, height: 32_254 }))).toBe('bits')
    expect(outcome(() => verifyHeaders({ ...run, height: 32_256 }))).toBe('bits')
  })

  test.each([
    // These headers are mined for 1d00ffff, so 'work' says that harder bits passed the rule.
    [0x1d00ffff, 0x1c3fffc0, 'work'],
    [0x1d00ffff, 0x1c3fffbf, 'bits'],
    [0x1d00ffff, 0x1d00ffff, 'ok'],
    [0x1c3fffc0, 0x1d00ffff, 'ok'],
    [0x1c3fffc0, 0x1d010000, 'bits'],
    [0x1c0fffff, 0x1c3ffffc, 'work'],
    [0x1c0fffff, 0x1c3ffffd, 'bits'],
  ])('a retarget from %i to %i: a factor of four and the limit bound it', (from, to, expected) => {
    const before = { ...first[1]!, bits: from, hash: new Uint8Array(32) }
    const after = { ...first[2]!, bits: to, previous: before.hash }
    const run = { network, headers: [before, after], height: 2015 }
    expect(outcome(() => verifyHeaders(run))).toBe(expected)
  })
})

describe('compact bits', () => {
  test.each(vectors.compact.cases)('%s are %s', (bits, target) => {
    const value = parseInt(bits!, 16)
    if (target === null) {
      expect(outcome(() => targetOf(value))).toBe('bits')
    } else {
      expect(targetOf(value)).toBe(BigInt(`0x${target}`))
      expect(bitsOf(BigInt(`0x${target}`))).toBe(value)
    }
  })

  test('every target rounds down to one that is its own compact form', () => {
    const target = fc.bigInt({ min: 1n, max: 2n ** 256n - 1n })
    fc.assert(
      fc.property(target, (t) => {
        const rounded = targetOf(bitsOf(t))
        expect(rounded <= t && t - rounded < t / 2n ** 15n + 1n).toBe(true)
      }),
    )
  })

  test('limits of all networks are canonical, their genesis hashes are hashes', () => {
    for (const { limit, genesis } of Object.values(bitcoinNetworks)) {
      expect(bitsOf(targetOf(limit))).toBe(limit)
      expect(fromDisplay(genesis)).toHaveLength(32)
    }
  })
})
