import { createMPT, createMerkleProof, verifyMerkleProof } from '@ethereumjs/mpt'
import { keccak_256 } from '@noble/hashes/sha3.js'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { TrieEntry } from '#core/merkle-patricia.ts'
import {
  MAX_KEY_BYTES,
  buildTrie,
  decodeHexPrefix,
  emptyTrieRoot,
  encodeHexPrefix,
  transactionKey,
  transactionProof,
  transactionsRoot,
  verifyTrieProof,
} from '#core/merkle-patricia.ts'
import type { RlpItem } from '#core/rlp.ts'
import { MAX_RLP_BYTES, decodeRlp, encodeRlp } from '#core/rlp.ts'
import { refusal } from '../support/refusal.ts'
import vectors from '../vectors/ethereum.json' with { type: 'json' }

const bytes = (hex: string): Uint8Array => fromHex(hex.slice(2))
const hexes = (list: readonly Uint8Array[]): string[] => list.map(toHex)
const text = (s: string): Uint8Array => new TextEncoder().encode(s)
const nothing = new Uint8Array(0)

async function oracleOf(entries: readonly TrieEntry[]) {
  const trie = await createMPT()
  for (const [key, value] of entries) await trie.put(key, value)
  return trie
}

/** Its proofs repeat embedded nodes, which their parents hold already; ours do not. */
async function oracleProof(trie: Awaited<ReturnType<typeof oracleOf>>, key: Uint8Array) {
  const nodes = await createMerkleProof(trie, key)
  return hexes(nodes.filter((node, i) => i === 0 || node.length >= 32))
}

/** Short keys over few bytes, so that branches, extensions, embedded nodes and prefixes all occur. */
const smallKey = fc
  .array(fc.constantFrom(0x00, 0x01, 0x10, 0x11, 0x80, 0xf1), { minLength: 1, maxLength: 4 })
  .map((list) => Uint8Array.from(list))
const hashKey = fc.uint8Array({ minLength: 32, maxLength: 32 })
const anyValue = fc.oneof(
  fc.uint8Array({ minLength: 1, maxLength: 3 }),
  fc.uint8Array({ minLength: 1, maxLength: 120 }),
)
const entriesWith = (key: fc.Arbitrary<Uint8Array>, maxLength: number) =>
  fc.uniqueArray(fc.tuple(key, anyValue), { maxLength, selector: ([k]) => toHex(k) })
const anyEntries = fc.oneof(entriesWith(smallKey, 24), entriesWith(hashKey, 12))

/** A proof of one node that has whatever root it needs. */
const single = (node: RlpItem, key: Uint8Array) => {
  const raw = encodeRlp(node)
  return () => verifyTrieProof({ root: keccak_256(raw), key, proof: [raw] })
}
const branch = (children: Readonly<Record<number, RlpItem>>, value: RlpItem = nothing): RlpItem =>
  Array.from({ length: 17 }, (_, i) => (i === 16 ? value : (children[i] ?? nothing)))
const leaf = (path: readonly number[], value: Uint8Array): RlpItem => [
  encodeHexPrefix(path, true),
  value,
]

describe('hex prefix', () => {
  test.each(vectors.hexPrefix)('$encoded is written and read', ({ path, isLeaf, encoded }) => {
    expect(toHex(encodeHexPrefix(path, isLeaf))).toBe(encoded.slice(2))
    expect(decodeHexPrefix(bytes(encoded))).toEqual({ path, isLeaf })
  })

  test.each([
    ['nothing', '', 'a path has no valid hex prefix'],
    ['flag 4', '40', 'a path has no valid hex prefix'],
    ['flag 15', 'f0', 'a path has no valid hex prefix'],
    ['dirty padding of an extension', '0112', 'the padding of a path is not zero'],
    ['dirty padding of a leaf', '2f12', 'the padding of a path is not zero'],
  ])('refuses %s', (_, hex, reason) => {
    expect(refusal(() => decodeHexPrefix(fromHex(hex)))).toBe(`trie: ${reason}.`)
  })

  test('is a bijection: what is read is written again', () => {
    fc.assert(
      fc.property(fc.uint8Array({ minLength: 1, maxLength: 6 }), (input) => {
        let read: ReturnType<typeof decodeHexPrefix>
        try {
          read = decodeHexPrefix(input)
        } catch {
          return
        }
        expect(encodeHexPrefix(read.path, read.isLeaf)).toEqual(input)
      }),
    )
  })
})

describe('buildTrie', () => {
  test.each(vectors.tries)('finds the root of $name', ({ entries, root }) => {
    const list = entries.map(([key, value]) => [bytes(key!), bytes(value!)] as const)
    expect(toHex(buildTrie(list).root)).toBe(root.slice(2))
    for (const [key, value] of list) {
      const built = buildTrie(list, key)
      expect(verifyTrieProof({ root: built.root, key, proof: built.proof })).toEqual(value)
    }
  })

  test('agrees with @ethereumjs/mpt on roots, proofs and proofs of absence', async () => {
    await fc.assert(
      fc.asyncProperty(anyEntries, fc.oneof(smallKey, hashKey), async (entries, stranger) => {
        const trie = await oracleOf(entries)
        const before = JSON.stringify(entries)
        for (const key of [...entries.map(([k]) => k).slice(0, 6), stranger]) {
          const { root, proof } = buildTrie(entries, key)
          expect(toHex(root)).toBe(toHex(trie.root()))
          expect(hexes(proof)).toEqual(await oracleProof(trie, key))
          const value = entries.find(([k]) => toHex(k) === toHex(key))?.[1] ?? null
          expect(verifyTrieProof({ root, key, proof })).toEqual(value)
          if (proof.length > 0) {
            expect(await verifyMerkleProof(key, [...proof], { root })).toEqual(value)
          }
        }
        expect(JSON.stringify(entries)).toBe(before)
      }),
      { numRuns: 120 },
    )
  })

  test('the order of entries does not matter', () => {
    fc.assert(
      fc.property(entriesWith(smallKey, 12), (entries) => {
        expect(buildTrie(entries.toReversed()).root).toEqual(buildTrie(entries).root)
      }),
    )
  })

  test('refuses what a trie cannot hold', () => {
    const key = Uint8Array.of(1)
    const build = (list: readonly TrieEntry[]) => refusal(() => buildTrie(list))
    expect(build([[key, nothing]])).toBe('trie: an empty value cannot be stored.')
    expect(
      build([
        [key, key],
        [Uint8Array.of(2), key],
        [key, Uint8Array.of(2)],
      ]),
    ).toBe('trie: a key occurs twice.')
    const long = new Uint8Array(MAX_KEY_BYTES + 1)
    expect(build([[long, key]])).toBe('trie: a key has at most 64 bytes.')
    expect(build([[long.subarray(1), key]])).toBe('accepted')
  })
})

describe('verifyTrieProof', () => {
  const entries: TrieEntry[] = [
    ['do', 'verb'],
    ['dog', 'puppy'],
    ['doge', 'a coin with a value longer than thirty-two bytes'],
    ['horse', 'stallion'],
  ].map(([k, v]) => [text(k!), text(v!)])

  test('any bit flip in root, key or a node, a node more, less or in another place is refused', () => {
    fc.assert(
      fc.property(
        anyEntries,
        fc.nat(),
        fc.nat(),
        fc.nat(7),
        fc.nat(5),
        (list, pick, at, bit, how) => {
          fc.pre(list.length > 0)
          const [key, value] = list[pick % list.length]!
          const built = buildTrie(list, key)
          const root = built.root.slice()
          const proof = built.proof.map((node) => node.slice())
          const flip = (target: Uint8Array) => (target[at % target.length]! ^= 1 << bit)
          if (how === 0) flip(root)
          if (how === 1) flip(proof[at % proof.length]!)
          if (how === 2) proof.push(proof.at(-1)!)
          if (how === 3) proof.pop()
          if (how === 4) proof.unshift(Uint8Array.of(0x80))
          if (how === 5) {
            const other = key.slice()
            flip(other)
            let found: Uint8Array | null = null
            try {
              found = verifyTrieProof({ root, key: other, proof })
            } catch (error) {
              expect(error).toBeInstanceOf(VaultMeshError)
              return
            }
            const honest = list.find(([k]) => toHex(k) === toHex(other))?.[1] ?? null
            expect(found).toEqual(honest)
            return
          }
          expect(refusal(() => verifyTrieProof({ root, key, proof }))).not.toBe('accepted')
          expect(verifyTrieProof({ root: built.root, key, proof: built.proof })).toEqual(value)
        },
      ),
      { numRuns: 400 },
    )
  })

  test('the empty trie holds nothing, and that needs no node', () => {
    const key = text('dog')
    expect(buildTrie([], key)).toEqual({ root: emptyTrieRoot, proof: [] })
    expect(verifyTrieProof({ root: emptyTrieRoot, key, proof: [] })).toBeNull()
    const proof = [Uint8Array.of(0x80)]
    expect(refusal(() => verifyTrieProof({ root: emptyTrieRoot, key, proof }))).toBe(
      'trie: a node is not on the path.',
    )
  })

  test.each([
    ['ends within an extension', 'd'],
    ['leaves an extension', 'dx'],
    ['ends within a leaf', 'hors'],
    ['goes on beyond a leaf', 'doges'],
    ['meets an empty slot', 'p'],
    ['is empty', ''],
  ])('a key that %s is proven absent', (_, name) => {
    const key = text(name)
    const { root, proof } = buildTrie(entries, key)
    expect(verifyTrieProof({ root, key, proof })).toBeNull()
  })

  test('a branch that ends a key without a value proves it absent', () => {
    const list: TrieEntry[] = ['dog1', 'dog\u0081'].map((k) => [text(k), text(k)])
    const key = text('dog')
    const { root, proof } = buildTrie(list, key)
    expect(verifyTrieProof({ root, key, proof })).toBeNull()
  })

  const key = Uint8Array.of(0x12)
  const big = new Uint8Array(40).fill(7)
  const embedded = leaf([2], Uint8Array.of(9))
  test.each<[string, RlpItem, string]>([
    ['a byte string', big, 'trie: a node is no list'],
    ['three items', [key, key, key], 'trie: a node has neither 2 nor 17 items'],
    ['no items', [], 'trie: a node has neither 2 nor 17 items'],
    ['a path that is a list', [[], key], 'trie: a path is a list'],
    ['a leaf without a value', leaf([1, 2], nothing), 'trie: a leaf holds nothing'],
    [
      'a leaf with a list',
      [encodeHexPrefix([1, 2], true), []],
      'trie: the value of a leaf is a list',
    ],
    [
      'a branch with a list as value',
      branch({ 1: embedded }, []),
      'trie: the value of a branch is a list',
    ],
    ['a lonely branch', branch({ 1: embedded }), 'trie: a branch has fewer than two entries'],
    ['a lonely value', branch({}, big), 'trie: a branch has fewer than two entries'],
    [
      'an empty extension',
      [encodeHexPrefix([], false), branch({ 1: embedded, 2: embedded })],
      'trie: an extension goes nowhere',
    ],
    [
      'an extension to a leaf',
      [encodeHexPrefix([1], false), embedded],
      'trie: an extension leads to no branch',
    ],
    [
      'an extension to nothing',
      [encodeHexPrefix([1], false), nothing],
      'trie: a child is neither a hash nor an embedded node',
    ],
    [
      'an extension to an empty list',
      [encodeHexPrefix([1], false), []],
      'trie: a child is neither a hash nor an embedded node',
    ],
    [
      'a child of 31 bytes',
      branch({ 1: embedded, 5: new Uint8Array(31) }),
      'trie: a child is neither a hash nor an embedded node',
    ],
    [
      'an embedded node that should be hashed',
      branch({ 1: leaf([2], new Uint8Array(29).fill(9)), 2: embedded }),
      'trie: a child is neither a hash nor an embedded node',
    ],
  ])('refuses %s', (_, node, reason) => {
    expect(refusal(single(node, key))).toBe(`${reason}.`)
  })

  test('an embedded node of very many items is refused in our words too', () => {
    const many = Array.from({ length: 200_000 }, () => nothing)
    for (const child of [many, [many, many]]) {
      expect(refusal(single(branch({ 1: child, 2: embedded }), key))).toBe(
        'trie: a child is neither a hash nor an embedded node.',
      )
    }
  })

  test('an embedded node of 31 bytes is the largest', () => {
    const value = new Uint8Array(28).fill(9)
    const largest = leaf([2], value)
    expect(encodeRlp(largest)).toHaveLength(31)
    expect(single(branch({ 1: largest, 2: embedded }), key)()).toEqual(value)
  })

  test('a node below the root that is named by hash is at least 32 bytes', () => {
    const small = encodeRlp(embedded)
    const root = encodeRlp(branch({ 1: keccak_256(small), 2: embedded }))
    const proof = [root, small]
    expect(refusal(() => verifyTrieProof({ root: keccak_256(root), key, proof }))).toBe(
      'trie: node 1 should be embedded.',
    )
  })

  test('a root of another length, a long key and outsized proofs are refused before any hashing', () => {
    const run = (over: Partial<Parameters<typeof verifyTrieProof>[0]>) =>
      refusal(() => verifyTrieProof({ root: emptyTrieRoot, key, proof: [], ...over }))
    expect(run({ root: big })).toBe('trie: a root is 32 bytes.')
    expect(run({ key: new Uint8Array(65) })).toBe('trie: a key has at most 64 bytes.')
    expect(run({ key: new Uint8Array(64) })).toBe('accepted')
    expect(run({ proof: [big, big, big, big] })).toBe('trie: more nodes than the key has nibbles.')
    expect(run({ proof: [big, big, big] })).toBe('trie: a node is not on the path.')
    const half = new Uint8Array(MAX_RLP_BYTES / 2)
    expect(run({ proof: [half, half] })).toBe('trie: a node is not on the path.')
    expect(run({ proof: [half, half, key] })).toBe('trie: more than 1048576 bytes.')
  })

  test('arbitrary nodes under their own hash are refused in our words or judged', () => {
    const item = fc.oneof(fc.uint8Array({ maxLength: 34 }), fc.constant<RlpItem>(embedded))
    const shape = fc.oneof(
      fc.array(item, { minLength: 2, maxLength: 2 }),
      fc.array(item, { minLength: 17, maxLength: 17 }),
      fc.array(item, { maxLength: 20 }),
    )
    fc.assert(
      fc.property(fc.oneof(shape.map(encodeRlp), fc.uint8Array({ maxLength: 60 })), (raw) => {
        const run = () => verifyTrieProof({ root: keccak_256(raw), key, proof: [raw] })
        expect(refusal(run)).toMatch(/^(?:trie|rlp|accepted)/)
      }),
      { numRuns: 1000 },
    )
  })
})

describe('transactions', () => {
  const anyTx = fc.uint8Array({ minLength: 1, maxLength: 200 })

  test.each(vectors.blocks.filter((b) => b.transactions !== undefined))(
    'those of block $number give the root its header names, and each is proven',
    ({ transactions, transactionsRoot: root }) => {
      const raws = transactions!.map(({ raw }) => bytes(raw))
      expect(toHex(transactionsRoot(raws))).toBe(root.slice(2))
      for (const [i, raw] of raws.entries()) {
        const proof = transactionProof(raws, i)
        const found = verifyTrieProof({ root: bytes(root), key: transactionKey(i), proof })
        expect(found).toEqual(raw)
      }
    },
  )

  test('of a block of any length agree with @ethereumjs/mpt', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(anyTx, { minLength: 1, maxLength: 20 }),
        fc.nat(),
        async (some, n) => {
          const count = [1, 2, 16, 17, 127, 128, 129, 256, 257][n % 9]!
          const raws = Array.from({ length: count }, (_, i) => some[i % some.length]!)
          const trie = await oracleOf(raws.map((raw, i) => [transactionKey(i), raw]))
          expect(toHex(transactionsRoot(raws))).toBe(toHex(trie.root()))
          for (const i of new Set([0, 1, n % count, count - 1])) {
            if (i >= count) continue
            const key = transactionKey(i)
            const proof = transactionProof(raws, i)
            expect(hexes(proof)).toEqual(await oracleProof(trie, key))
            expect(verifyTrieProof({ root: trie.root(), key, proof })).toEqual(raws[i])
          }
        },
      ),
      { numRuns: 25 },
    )
  })

  test('a block without any has the empty root, and none to prove', () => {
    expect(transactionsRoot([])).toEqual(emptyTrieRoot)
    for (const i of [0, -1, 0.5]) {
      expect(refusal(() => transactionProof([], i))).toBe(
        `trie: the block has no transaction ${i}.`,
      )
    }
  })

  test('keys are the RLP of the index', () => {
    const keys = [0, 1, 127, 128, 255, 256].map((i) => toHex(transactionKey(i)))
    expect(keys).toEqual(['80', '01', '7f', '8180', '81ff', '820100'])
    expect(decodeRlp(transactionKey(70_000))).toEqual(Uint8Array.of(1, 0x11, 0x70))
  })
})
