/**
 * The Merkle tree of RFC 6962 §2.1 (RFC 9162 §2.1.1), and its right edge.
 *
 *   leaf = SHA-256(0x00 || entry)      node = SHA-256(0x01 || left || right)
 *   MTH({}) = SHA-256("")              MTH(D[n]) = node(MTH(D[0:k]), MTH(D[k:n])), k = 2^i < n <= 2k
 *
 * Pairing neighbours level by level and promoting the odd one gives the same tree as that
 * recursion; it holds too if the last element stands for fewer leaves than the others.
 *
 * A sequencer never needs the whole tree, only its right edge cut into C2SP tlog-tiles: at tile
 * level l, whose elements cover 256^l leaves each, the elements that do not fill a tile yet.
 * Invariant: level l holds exactly floor(size / 256^l) mod 256 hashes, and a level holding none
 * is absent. At most 7 levels of 8,160 bytes, since size < 2^53 < 256^7.
 *
 * Sizes are safe integers: divided and multiplied, never shifted.
 */

import type { Hash } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { WORDS, leafHashWords, loadWords, nodeHashWords, sha256, toBytes } from '#core/sha256.ts'

/** Bytes in a hash. */
export const HASH_BYTES = 32
/** Hashes in a full tile (tlog-tiles, "Merkle Tree": tiles have height 8). */
export const TILE_WIDTH = 256
/** Bytes in a full tile: 256 * 32. */
export const TILE_BYTES = TILE_WIDTH * HASH_BYTES

/** Root of the tree without leaves: SHA-256 of the empty string. */
export const emptyRoot: Hash = sha256(new Uint8Array(0))

/** The right edge of a tree: per tile level, the packed hashes of the tile that is not full. */
export interface TreeEdge {
  readonly size: number
  readonly levels: ReadonlyMap<number, Uint8Array>
}

/** Called with every tile that an append fills; `bytes` is 8,192 bytes and the callee's to keep. */
export type OnTile = (level: number, index: number, bytes: Uint8Array) => void

/** One tile that is not full. */
export interface PartialTile {
  readonly level: number
  readonly index: number
  /** Hashes it holds, 1 to 255. */
  readonly width: number
  /** `width` packed hashes. */
  readonly bytes: Uint8Array
}

/** The edge of the tree without leaves. */
export const emptyEdge: TreeEdge = { size: 0, levels: new Map() }

/** Leaf hash of an entry. */
export function leafHash(entry: Uint8Array): Hash {
  const out = new Int32Array(WORDS)
  leafHashWords(entry, out, 0)
  return toBytes(out, 0)
}

/** Leaf hashes of many entries, packed. */
export function leafHashes(entries: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(entries.length * HASH_BYTES)
  const words = new Int32Array(WORDS)
  for (const [i, entry] of entries.entries()) {
    leafHashWords(entry, words, 0)
    out.set(toBytes(words, 0), i * HASH_BYTES)
  }
  return out
}

/** Hash of the node above `left` and `right`. */
export function nodeHash(left: Uint8Array, right: Uint8Array): Hash {
  loadWords(left, 0, 1, pair)
  loadWords(right, 0, 1, rightHalf)
  nodeHashWords(pair, 0, pair, 0)
  return toBytes(pair, 0)
}

const pair = new Int32Array(2 * WORDS)
const rightHalf = pair.subarray(WORDS)

/** Root over packed hashes, each the root of an equally large complete subtree (or a leaf). */
export function rootOf(packed: Uint8Array): Hash {
  const n = countOf(packed)
  if (n === 0) return emptyRoot.slice()
  const words = n <= TILE_WIDTH ? scratch : new Int32Array(n * WORDS)
  loadWords(packed, 0, n, words)
  fold(words, n)
  return toBytes(words, 0)
}

/** Words of one tile: the common case allocates nothing. */
const scratch = new Int32Array(TILE_WIDTH * WORDS)

/** The root of a tree with this edge. Costs at most 255 hashes a level. */
export function rootOfEdge(edge: TreeEdge): Hash {
  let root: Hash | undefined
  // Upwards: what is below a level is its last and smallest element.
  for (const [, bytes] of ascending(edge)) {
    const row = new Uint8Array(bytes.length + (root === undefined ? 0 : HASH_BYTES))
    row.set(bytes)
    if (root !== undefined) row.set(root, bytes.length)
    root = rootOf(row)
  }
  return root ?? emptyRoot.slice()
}

/**
 * The edge after appending packed leaf hashes; `edge` itself stays as it was, so that a failed
 * write downstream loses nothing. Tiles are reported level by level, in index order within one.
 */
export function append(edge: TreeEdge, packedLeafHashes: Uint8Array, onTile: OnTile): TreeEdge {
  const size = edge.size + countOf(packedLeafHashes)
  if (!Number.isSafeInteger(size)) throw new VaultMeshError('bad-state', 'The tree is full (2^53).')
  const levels = new Map<number, Uint8Array>()
  let row = packedLeafHashes
  let span = TILE_WIDTH
  for (let level = 0; row.length > 0 || edge.levels.size > 0; level++, span *= TILE_WIDTH) {
    const before = edge.levels.get(level)
    if (row.length === 0) {
      // Nothing rises any more: the levels above are as they were.
      for (const [above, bytes] of edge.levels) if (above >= level) levels.set(above, bytes)
      break
    }
    const had = before?.length ?? 0
    const tiles = Math.floor((had + row.length) / TILE_BYTES)
    const first = Math.floor(edge.size / span)
    const roots = new Uint8Array(tiles * HASH_BYTES)
    let used = 0
    for (let i = 0; i < tiles; i++) {
      const tile = new Uint8Array(TILE_BYTES)
      const kept = i === 0 ? had : 0
      if (before !== undefined && kept > 0) tile.set(before)
      tile.set(row.subarray(used, used + TILE_BYTES - kept), kept)
      used += TILE_BYTES - kept
      roots.set(rootOf(tile), i * HASH_BYTES)
      onTile(level, first + i, tile)
    }
    const kept = tiles === 0 ? had : 0
    const rest = new Uint8Array(kept + row.length - used)
    if (before !== undefined && kept > 0) rest.set(before)
    rest.set(row.subarray(used), kept)
    if (rest.length > 0) levels.set(level, rest)
    row = roots
  }
  return { size, levels }
}

/** The tiles that are not full, lowest level first. */
export function edgeTiles(edge: TreeEdge): PartialTile[] {
  return ascending(edge).map(([level, bytes]) => ({
    level,
    index: Math.floor(edge.size / TILE_WIDTH ** (level + 1)),
    width: bytes.length / HASH_BYTES,
    bytes,
  }))
}

/** How many hashes the tile at the right end of `level` holds in a tree of `size` leaves. */
export function partialWidth(level: number, size: number): number {
  return Math.floor(size / TILE_WIDTH ** level) % TILE_WIDTH
}

/**
 * An edge from storage. Throws `bad-state` unless every level has just the width that `size`
 * demands: a wrong edge would sign a root that no proof can ever reach.
 */
export function restoreEdge(
  size: number,
  levels: Iterable<readonly [number, Uint8Array]>,
): TreeEdge {
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new VaultMeshError('bad-state', `The stored tree size ${size} is not a size.`)
  }
  const copy = new Map<number, Uint8Array>()
  for (const [level, bytes] of levels) if (bytes.length > 0) copy.set(level, bytes.slice())
  let left = copy.size
  for (let level = 0; TILE_WIDTH ** level <= size; level++) {
    const width = partialWidth(level, size)
    const bytes = copy.get(level)
    if ((bytes?.length ?? 0) !== width * HASH_BYTES) {
      throw new VaultMeshError(
        'bad-state',
        `The stored edge has ${bytes?.length ?? 0} bytes at level ${level}; size ${size} needs ${width} hashes.`,
      )
    }
    if (bytes !== undefined) left--
  }
  if (left !== 0) {
    throw new VaultMeshError('bad-state', `The stored edge has levels that size ${size} lacks.`)
  }
  return { size, levels: copy }
}

/** Folds `n` nodes of `words` in place into their root, which ends up first. */
function fold(words: Int32Array, n: number): void {
  while (n > 1) {
    const pairs = n >> 1
    for (let i = 0; i < pairs; i++) nodeHashWords(words, i * 2 * WORDS, words, i * WORDS)
    if ((n & 1) === 1) words.copyWithin(pairs * WORDS, (n - 1) * WORDS, n * WORDS)
    n = pairs + (n & 1)
  }
}

function ascending(edge: TreeEdge): [number, Uint8Array][] {
  return [...edge.levels].sort(([a], [b]) => a - b)
}

function countOf(packed: Uint8Array): number {
  if (packed.length % HASH_BYTES !== 0) {
    throw new VaultMeshError('bad-encoding', 'Packed hashes are a multiple of 32 bytes long.')
  }
  return packed.length / HASH_BYTES
}
