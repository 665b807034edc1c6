/**
 * The Merkle Patricia trie of Ethereum (yellow paper, appendices C and D): proofs checked and made.
 *
 *   leaf = [HP(path, 1), value]   extension = [HP(path, 0), child]   branch = [child × 16, value]
 *   child = the node itself if its RLP is shorter than 32 bytes, else keccak-256 of that RLP
 *
 * A proof is the list of hashed nodes from the root down to where the key ends or leaves the trie.
 * Every node must be the one its parent names and every node must be used, so a key has exactly one
 * proof. Node shapes no builder would write (a branch with fewer than two entries, an extension that
 * leads to no branch, an embedded node of 32 bytes, a stray hex prefix) are refused.
 *
 * The builder is here because an RPC hands out a block's transactions but no proof of one.
 */

import { keccak_256 } from '@noble/hashes/sha3.js'
import type { Hash } from '#core/bytes.ts'
import { compareBytes, equal } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { RlpItem } from '#core/rlp.ts'
import { MAX_RLP_BYTES, decodeRlp, encodeRlp, integerToBytes } from '#core/rlp.ts'

/** Key and value of one entry. */
export type TrieEntry = readonly [key: Uint8Array, value: Uint8Array]

/** Longest key: hashed keys have 32 bytes, those of transactions at most 5. */
export const MAX_KEY_BYTES = 64

/** Root of the trie without entries: keccak-256 of the RLP of the empty string. */
export const emptyTrieRoot: Hash = keccak_256(Uint8Array.of(0x80))

const EMPTY = new Uint8Array(0)
const HASH_BYTES = 32
const BRANCH_ITEMS = 17

/**
 * The value that `proof` shows under `key` in the trie with this root, or null if it shows that
 * there is none. Throws `bad-proof` if it shows neither.
 */
export function verifyTrieProof(input: {
  readonly root: Hash
  readonly key: Uint8Array
  readonly proof: readonly Uint8Array[]
}): Uint8Array | null {
  const { root, key, proof } = input
  if (root.length !== HASH_BYTES) throw bad('a root is 32 bytes')
  if (key.length > MAX_KEY_BYTES) throw bad(`a key has at most ${MAX_KEY_BYTES} bytes`)
  // Each node but the last eats a nibble at least.
  if (proof.length > 2 * key.length + 1) throw bad('more nodes than the key has nibbles')
  if (proof.reduce((sum, node) => sum + node.length, 0) > MAX_RLP_BYTES) {
    throw bad(`more than ${MAX_RLP_BYTES} bytes`)
  }
  let used = 0
  const next = (hash: Uint8Array): TrieNode => {
    const raw = proof[used]
    if (raw === undefined) throw bad('a node is missing')
    if (!equal(keccak_256(raw), hash)) throw bad(`node ${used} is not the one its parent names`)
    if (used > 0 && raw.length < HASH_BYTES) throw bad(`node ${used} should be embedded`)
    used += 1
    return parseNode(decodeRlp(raw))
  }
  const value = equal(root, emptyTrieRoot) ? null : lookUp(next(root), nibblesOf(key), next)
  if (used !== proof.length) throw bad('a node is not on the path')
  return value
}

/** Root of the trie over `entries`, and the proof of `key` in it (of its absence, if it has none). */
export function buildTrie(
  entries: readonly TrieEntry[],
  key: Uint8Array = EMPTY,
): { readonly root: Hash; readonly proof: readonly Uint8Array[] } {
  const sorted = entries.toSorted(([a], [b]) => compareBytes(a, b))
  for (const [i, [entryKey, value]] of sorted.entries()) {
    if (entryKey.length > MAX_KEY_BYTES) throw bad(`a key has at most ${MAX_KEY_BYTES} bytes`)
    if (value.length === 0) throw bad('an empty value cannot be stored')
    if (i > 0 && equal(entryKey, sorted[i - 1]![0])) throw bad('a key occurs twice')
  }
  if (sorted.length === 0) return { root: emptyTrieRoot.slice(), proof: [] }
  const target = nibblesOf(key)
  const proof: Uint8Array[] = []
  const rows = sorted.map(([k, value]) => ({ path: nibblesOf(k), value }))
  const top = encodeRlp(buildNode(rows, 0, { target, proof }))
  return { root: keccak_256(top), proof: [top, ...proof.toReversed()] }
}

/** `transactionsRoot` of a block from its transactions as they are hashed (EIP-2718), in order. */
export function transactionsRoot(rawTxs: readonly Uint8Array[]): Hash {
  return buildTrie(transactionEntries(rawTxs)).root
}

/** The nodes that prove transaction `index` of a block, root first. */
export function transactionProof(
  rawTxs: readonly Uint8Array[],
  index: number,
): readonly Uint8Array[] {
  if (rawTxs[index] === undefined) throw bad(`the block has no transaction ${index}`)
  return buildTrie(transactionEntries(rawTxs), transactionKey(index)).proof
}

/** The trie key of a transaction: the RLP of its index. */
export function transactionKey(index: number): Uint8Array {
  return encodeRlp(integerToBytes(index))
}

type TrieNode =
  | { readonly kind: 'leaf'; readonly path: readonly number[]; readonly value: Uint8Array }
  | { readonly kind: 'extension'; readonly path: readonly number[]; readonly child: RlpItem }
  | { readonly kind: 'branch'; readonly children: readonly RlpItem[]; readonly value: Uint8Array }

function lookUp(
  top: TrieNode,
  path: readonly number[],
  next: (hash: Uint8Array) => TrieNode,
): Uint8Array | null {
  const follow = (child: RlpItem): TrieNode =>
    child instanceof Uint8Array ? next(child) : parseNode(child)
  let node = top
  let at = 0
  for (;;) {
    if (node.kind === 'branch') {
      const nibble = path[at]
      if (nibble === undefined) return node.value.length === 0 ? null : node.value
      const child = node.children[nibble]!
      if (child.length === 0) return null
      at += 1
      node = follow(child)
      continue
    }
    const [from, { length }] = [at, node.path]
    const isOn = node.path.every((nibble, i) => path[from + i] === nibble)
    if (node.kind === 'leaf') return isOn && from + length === path.length ? node.value : null
    if (!isOn) return null
    at += length
    node = follow(node.child)
    if (node.kind !== 'branch') throw bad('an extension leads to no branch')
  }
}

function parseNode(item: RlpItem): TrieNode {
  if (item instanceof Uint8Array) throw bad('a node is no list')
  if (item.length === BRANCH_ITEMS) {
    const children = item.slice(0, -1)
    const value = bytesOf(item[16], 'the value of a branch')
    for (const child of children) if (child.length > 0) checkReference(child)
    if (item.filter((entry) => entry.length > 0).length < 2) {
      throw bad('a branch has fewer than two entries')
    }
    return { kind: 'branch', children, value }
  }
  if (item.length !== 2) throw bad('a node has neither 2 nor 17 items')
  const { path, isLeaf } = decodeHexPrefix(bytesOf(item[0], 'a path'))
  if (isLeaf) {
    const value = bytesOf(item[1], 'the value of a leaf')
    if (value.length === 0) throw bad('a leaf holds nothing')
    return { kind: 'leaf', path, value }
  }
  if (path.length === 0) throw bad('an extension goes nowhere')
  return { kind: 'extension', path, child: checkReference(item[1]!) }
}

/** A child is a hash, or a node whose encoding is shorter than one (yellow paper, appendix D). */
function checkReference(child: RlpItem): RlpItem {
  const fits =
    child instanceof Uint8Array
      ? child.length === HASH_BYTES
      : child.length > 0 && child.length < HASH_BYTES && encodeRlp(child).length < HASH_BYTES
  if (!fits) throw bad('a child is neither a hash nor an embedded node')
  return child
}

/** Hex-prefix decoding (yellow paper, appendix C): flag nibble, a zero nibble if even, the path. */
export function decodeHexPrefix(bytes: Uint8Array): { path: number[]; isLeaf: boolean } {
  const [flag, ...rest] = nibblesOf(bytes)
  if (flag === undefined || flag > 3) throw bad('a path has no valid hex prefix')
  const isOdd = (flag & 1) === 1
  if (!isOdd && rest[0] !== 0) throw bad('the padding of a path is not zero')
  return { path: isOdd ? rest : rest.slice(1), isLeaf: flag >= 2 }
}

/** Hex-prefix encoding, the inverse. */
export function encodeHexPrefix(path: readonly number[], isLeaf: boolean): Uint8Array {
  const isOdd = path.length % 2 === 1
  const flag = (isLeaf ? 2 : 0) + (isOdd ? 1 : 0)
  const nibbles = isOdd ? [flag, ...path] : [flag, 0, ...path]
  return Uint8Array.from({ length: nibbles.length / 2 }, (_, i) => {
    return nibbles[2 * i]! * 16 + nibbles[2 * i + 1]!
  })
}

interface Row {
  readonly path: readonly number[]
  readonly value: Uint8Array
}

/** Nodes on the way to `target` are put into `proof`, the deepest first. */
interface Wanted {
  readonly target: readonly number[]
  readonly proof: Uint8Array[]
}

/** The node over `rows`, sorted and alike in their first `at` nibbles. `wanted` if it is on the way. */
function buildNode(rows: readonly Row[], at: number, wanted: Wanted | null): RlpItem {
  const [first] = rows as [Row]
  const last = rows.at(-1)!
  if (rows.length === 1) return [encodeHexPrefix(first.path.slice(at), true), first.value]
  // Sorted: what the first and the last share, all share.
  let shared = at
  while (shared < first.path.length && first.path[shared] === last.path[shared]) shared += 1
  if (shared > at) {
    const path = first.path.slice(at, shared)
    const isOn = path.every((nibble, i) => wanted?.target[at + i] === nibble)
    const child = reference(buildNode(rows, shared, isOn ? wanted : null), isOn ? wanted : null)
    return [encodeHexPrefix(path, false), child]
  }
  const node: RlpItem[] = Array.from({ length: BRANCH_ITEMS }, () => EMPTY)
  for (let from = 0; from < rows.length;) {
    const nibble = rows[from]!.path[at]
    if (nibble === undefined) {
      node[16] = rows[from]!.value // the key that ends here sorts before those that go on
      from += 1
      continue
    }
    let to = from + 1
    while (rows[to]?.path[at] === nibble) to += 1
    const below = wanted?.target[at] === nibble ? wanted : null
    node[nibble] = reference(buildNode(rows.slice(from, to), at + 1, below), below)
    from = to
  }
  return node
}

function reference(node: RlpItem, wanted: Wanted | null): RlpItem {
  const encoded = encodeRlp(node)
  if (encoded.length < HASH_BYTES) return node
  wanted?.proof.push(encoded)
  return keccak_256(encoded)
}

function transactionEntries(rawTxs: readonly Uint8Array[]): TrieEntry[] {
  return rawTxs.map((raw, i) => [transactionKey(i), raw])
}

function nibblesOf(bytes: Uint8Array): number[] {
  return [...bytes].flatMap((byte) => [byte >> 4, byte & 15])
}

function bytesOf(item: RlpItem | undefined, what: string): Uint8Array {
  if (!(item instanceof Uint8Array)) throw bad(`${what} is a list`)
  return item
}

function bad(detail: string): VaultMeshError {
  return new VaultMeshError('bad-proof', `trie: ${detail}.`, { extra: { check: 'trie' } })
}
