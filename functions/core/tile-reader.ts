/**
 * Hashes of a tree read back out of its tiles (C2SP tlog-tiles v0.1.0, "Merkle Tree").
 *
 * Proofs and roots are made of complete subtrees: (level, index) is the one over the leaves
 * [index * 2^level, (index + 1) * 2^level). Tile level L stores only the levels divisible by 8;
 * the seven between are hashed from the tile below, at most 128 nodes. In a tree of `size` leaves
 * each tile has just one width, so the reader works with the partial tiles of `size` alone; a
 * store may have deleted all others.
 */

import type { Hash } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { HASH_BYTES, TILE_WIDTH, emptyRoot, nodeHash, rootOf } from '#core/merkle.ts'
import { tileWidth } from '#core/tile.ts'

/** Levels of the tree in one tile (tlog-tiles: tiles have height 8). */
const TILE_HEIGHT = 8

/** The complete subtree of 2^level leaves that begins at leaf index * 2^level. */
export interface Coords {
  readonly level: number
  readonly index: number
}

/** The leaves [start, end). */
export interface Range {
  readonly start: number
  readonly end: number
}

/** Answers the hashes of complete subtrees, in the order they were asked for. */
export type HashReader = (coords: readonly Coords[]) => Promise<readonly Uint8Array[]>

/** Fetches a tile: `width` packed hashes. */
export type FetchTile = (level: number, index: number, width: number) => Promise<Uint8Array>

/**
 * A reader over the tiles of a tree of `size` leaves. Each tile is fetched once in the reader's
 * life, all those of one call together. Throws `no-such-size` for a subtree outside the tree and
 * `bad-proof` for a tile of the wrong length.
 */
export function tileHashReader(fetchTile: FetchTile, size: number): HashReader {
  checkSize(size)
  const fetched = new Map<string, Promise<Uint8Array>>()

  function tile(level: number, index: number): Promise<Uint8Array> {
    const name = `${level}/${index}`
    let bytes = fetched.get(name)
    if (bytes === undefined) {
      const width = tileWidth(level, index, size)
      bytes = fetchTile(level, index, width).then((found) => checkTile(found, name, width))
      fetched.set(name, bytes)
    }
    return bytes
  }

  return (coords) =>
    Promise.all(
      coords.map(async ({ level, index }) => {
        if (!((index + 1) * 2 ** level <= size)) {
          throw new VaultMeshError(
            'no-such-size',
            `The subtree ${index} of level ${level} is not complete in a tree of ${size} leaves.`,
          )
        }
        const tileLevel = Math.floor(level / TILE_HEIGHT)
        const width = 2 ** (level % TILE_HEIGHT)
        const first = index * width
        const bytes = await tile(tileLevel, Math.floor(first / TILE_WIDTH))
        const at = (first % TILE_WIDTH) * HASH_BYTES
        return rootOf(bytes.subarray(at, at + width * HASH_BYTES))
      }),
    )
}

function checkTile(bytes: Uint8Array, name: string, width: number): Uint8Array {
  if (bytes.length === width * HASH_BYTES) return bytes
  throw new VaultMeshError(
    'bad-proof',
    `Tile ${name} has ${bytes.length} bytes instead of ${width} hashes.`,
  )
}

/** Root of the tree of `size` leaves, from its tiles. */
export async function rootFromTiles(fetchTile: FetchTile, size: number): Promise<Hash> {
  if (size === 0) return emptyRoot.slice()
  const [root] = await rangeHashes(tileHashReader(fetchTile, size), [{ start: 0, end: size }])
  return root!
}

/**
 * MTH of each range, in one call of `read`. A range is one that RFC 9162 §2.1 forms: it begins at
 * a multiple of a power of two that is no less than its length.
 */
export async function rangeHashes(read: HashReader, ranges: readonly Range[]): Promise<Hash[]> {
  const parts = ranges.map(completeSubtrees)
  const hashes = await read(parts.flat())
  let at = 0
  return parts.map(({ length }) => {
    at += length
    // From the right: the smallest subtree hangs lowest.
    let root = hashes[at - 1]!
    for (let i = at - 2; i >= at - length; i--) root = nodeHash(hashes[i]!, root)
    return root
  })
}

/** The complete subtrees that make up a range, largest first: the ones bits of its length. */
export function completeSubtrees({ start, end }: Range): Coords[] {
  const out: Coords[] = []
  let at = start
  while (at < end) {
    const level = floorLog2(end - at)
    out.push({ level, index: at / 2 ** level })
    at += 2 ** level
  }
  return out
}

/** k of RFC 9162 §2.1: the largest power of two smaller than `n`, for n > 1. */
export function splitOf(n: number): number {
  return 2 ** floorLog2(n - 1)
}

/** Exact for every safe integer, unlike Math.log2, which rounds 2^53 - 1 up. */
function floorLog2(n: number): number {
  let level = 0
  for (let power = 2; power <= n; power *= 2) level++
  return level
}

/** Throws `no-such-size` unless `size` is a tree size. */
export function checkSize(size: number): void {
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new VaultMeshError('no-such-size', `${size} is not a tree size.`)
  }
}
