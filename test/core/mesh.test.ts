import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { concat, toHex, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { emptyRoot } from '#core/merkle.ts'
import { meshRoot, type MeshEntry } from '#core/mesh.ts'
import { sha256 } from '#core/sha256.ts'

const root = 'ab'.repeat(32)
const entry: fc.Arbitrary<MeshEntry> = fc.record({
  origin: fc.oneof(
    fc.constantFrom('a.example/log', 'a.example/log/2', 'b.example/log', '\u{1f600}', '\uff5e'),
    fc.string({ unit: 'grapheme', minLength: 1 }).filter((text) => !text.includes('\n')),
  ),
  height: fc.oneof(fc.nat(12), fc.maxSafeNat()),
  treeSize: fc.oneof(fc.nat(12), fc.maxSafeNat()),
  root: fc.constantFrom(root, 'cd'.repeat(32), '0'.repeat(64)),
})

function refused(changed: Partial<Record<keyof MeshEntry, unknown>>): boolean {
  const good: MeshEntry = { origin: 'a.example/log', height: 1, treeSize: 2, root }
  try {
    meshRoot([good, { ...good, ...changed } as MeshEntry])
    return false
  } catch (error) {
    if (!(error instanceof VaultMeshError && error.code === 'bad-encoding')) throw error
    return true
  }
}

/** RFC 6962 §2.1 as its recursion says. */
function mth(data: readonly Uint8Array[]): Uint8Array {
  if (data.length === 0) return sha256(new Uint8Array(0))
  if (data.length === 1) return sha256(concat(Uint8Array.of(0), data[0]!))
  let k = 1
  while (2 * k < data.length) k *= 2
  return sha256(concat(Uint8Array.of(1), mth(data.slice(0, k)), mth(data.slice(k))))
}

test('the mesh of no logs is the empty tree', () => {
  expect(meshRoot([])).toEqual(emptyRoot)
})

test('the mesh of one log is the leaf hash of its four lines', () => {
  const line = utf8(`a.example/log\n3\n17\n${root}\n`)
  expect(meshRoot([{ origin: 'a.example/log', height: 3, treeSize: 17, root }])).toEqual(
    sha256(concat(Uint8Array.of(0), line)),
  )
})

test('a mesh of three logs has the root that was computed by hand', () => {
  const entries = ['c', 'a', 'b'].map((name, i) => ({
    origin: `${name}.example/log`,
    height: i,
    treeSize: 10 * i,
    root,
  }))
  const lines = [1, 2, 0].map((i) => {
    const { origin, height, treeSize } = entries[i]!
    return `${origin}\n${height}\n${treeSize}\n${root}\n`
  })
  expect(toHex(meshRoot(entries))).toBe(toHex(mth(lines.map(utf8))))
})

test('the mesh root is the RFC 6962 root over the bytewise sorted set of lines', () => {
  fc.assert(
    fc.property(fc.array(entry, { maxLength: 20 }), (entries) => {
      const lines = new Set(
        entries.map((e) => `${e.origin}\n${e.height}\n${e.treeSize}\n${e.root}\n`),
      )
      const sorted = [...lines].map((line) => Buffer.from(line)).sort(Buffer.compare)
      expect(toHex(meshRoot(entries))).toBe(toHex(mth(sorted)))
    }),
    { numRuns: 500 },
  )
})

test('order and repeats do not matter', () => {
  const shuffled = fc
    .array(entry, { maxLength: 12 })
    .chain((entries) =>
      fc.tuple(
        fc.constant(entries),
        fc.shuffledSubarray([...entries, ...entries], { minLength: 2 * entries.length }),
      ),
    )
  fc.assert(
    fc.property(shuffled, ([entries, again]) => {
      const before = structuredClone(again)
      expect(meshRoot(again)).toEqual(meshRoot(entries))
      expect(again).toEqual(before)
    }),
    { numRuns: 500 },
  )
})

test('one field changed is another mesh', () => {
  const change = fc.constantFrom<(e: MeshEntry) => MeshEntry>(
    (e) => ({ ...e, origin: `${e.origin}x` }),
    (e) => ({ ...e, height: e.height === 0 ? 1 : e.height - 1 }),
    (e) => ({ ...e, treeSize: e.treeSize === 0 ? 1 : e.treeSize - 1 }),
    (e) => ({ ...e, root: 'ef'.repeat(32) }),
  )
  fc.assert(
    fc.property(entry, change, (one, changed) => {
      expect(meshRoot([changed(one)])).not.toEqual(meshRoot([one]))
      expect(meshRoot([one, changed(one)])).not.toEqual(meshRoot([one]))
    }),
    { numRuns: 500 },
  )
})

test('lines sort by UTF-8 bytes, where UTF-16 order differs', () => {
  // U+FF5E is ef bd 9e, U+1F600 is f0 9f 98 80; in UTF-16 the surrogate d83d is the lower one.
  const low = { origin: '\uff5e', height: 0, treeSize: 0, root }
  const high = { origin: '\u{1f600}', height: 0, treeSize: 0, root }
  const lines = [low, high].map((e) => utf8(`${e.origin}\n0\n0\n${root}\n`))
  expect(meshRoot([high, low])).toEqual(mth(lines))
})

test.each([
  ['an origin that brings lines of its own', { origin: 'a.example/log\n1' }],
  ['an empty origin', { origin: '' }],
  ['an origin with a lone surrogate', { origin: 'a\ud800' }],
  ['a negative height', { height: -1 }],
  ['half a height', { height: 0.5 }],
  ['a height past 2^53', { height: 2 ** 53 }],
  ['a size that is no number', { treeSize: NaN }],
  ['a size that is text', { treeSize: '2' }],
  ['a root in uppercase', { root: root.toUpperCase() }],
  ['a root with 0x', { root: `0x${root}` }],
  ['a short root', { root: root.slice(1) }],
  ['a root with a newline', { root: `${root}\n` }],
])('%s is refused', (_name, changed) => {
  expect(refused(changed)).toBe(true)
})
