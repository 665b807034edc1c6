/**
 * Tiles as C2SP tlog-tiles v0.1.0 serves them: their paths, entry bundles, and which ones exist.
 *
 *   tile/<L>/<N>[.p/<W>]        W hashes of level L, 256 if full
 *   tile/entries/<N>[.p/<W>]    W times (uint16 big-endian length || entry)
 *
 * N is cut into groups of three digits, all but the last prefixed by "x": 1234067 is
 * x001/x234/067. Exactly one path stands for a tile; every other spelling is refused, so that a
 * cache or bucket never holds one tile under two keys.
 */

import { VaultMeshError } from '#core/errors.ts'
import { TILE_WIDTH, partialWidth } from '#core/merkle.ts'

export { partialWidth }

/** The highest tile level of the spec. */
const MAX_LEVEL = 63
/** The longest entry: its length is a uint16. */
export const MAX_ENTRY_BYTES = 0xffff

/** A tile's place. `entries` is the bundle of the entries below level 0. */
export interface TileName {
  readonly level: number | 'entries'
  readonly index: number
  /** 1 to 255 for a partial tile, 256 for a full one. */
  readonly width: number
}

/** The path of a tile, relative to the log's prefix. */
export function tilePath(level: number | 'entries', index: number, width = TILE_WIDTH): string {
  if (level !== 'entries' && !(Number.isInteger(level) && level >= 0 && level <= MAX_LEVEL)) {
    throw new VaultMeshError('bad-request', `A tile level is 0 to ${MAX_LEVEL}, not ${level}.`)
  }
  if (!Number.isSafeInteger(index) || index < 0) {
    throw new VaultMeshError('bad-request', `A tile index is 0 or more, not ${index}.`)
  }
  if (!Number.isInteger(width) || width < 1 || width > TILE_WIDTH) {
    throw new VaultMeshError('bad-request', `A tile width is 1 to ${TILE_WIDTH}, not ${width}.`)
  }
  const digits = String(index)
  const padded = digits.padStart(Math.ceil(digits.length / 3) * 3, '0')
  const groups = padded.replaceAll(/\d{3}(?=\d)/g, 'x$&/')
  return `tile/${level}/${groups}${width === TILE_WIDTH ? '' : `.p/${width}`}`
}

/** The tile a path names; throws `bad-request` for any path but the one `tilePath` writes. */
export function parseTilePath(path: string): TileName {
  // 2^53 has 16 digits: six groups. The bound keeps a hostile path from being expensive.
  const match =
    /^tile\/(entries|\d{1,2})\/((?:x\d{3}\/){0,5}\d{3})(?:\.p\/(\d{1,3}))?$/.exec(path) ?? refuse()
  const level = match[1] === 'entries' ? 'entries' : Number(match[1])
  const index = Number(match[2]!.replaceAll(/[x/]/g, ''))
  if (match[3] === String(TILE_WIDTH)) refuse()
  const width = match[3] === undefined ? TILE_WIDTH : Number(match[3])
  // Leading zeros and everything out of range: writing it again gives another path, or throws.
  if (tilePath(level, index, width) !== path) refuse()
  return { level, index, width }
}

function refuse(): never {
  throw new VaultMeshError('bad-request', 'Not a tile path of C2SP tlog-tiles.')
}

/** An entry bundle holding `entries`. */
export function encodeEntries(entries: readonly Uint8Array[]): Uint8Array {
  let size = 0
  for (const entry of entries) {
    if (entry.length > MAX_ENTRY_BYTES) {
      throw new VaultMeshError('bad-encoding', `An entry has ${entry.length} bytes; 65,535 fit.`)
    }
    size += 2 + entry.length
  }
  const out = new Uint8Array(size)
  let at = 0
  for (const entry of entries) {
    out[at] = entry.length >> 8
    out[at + 1] = entry.length
    out.set(entry, at + 2)
    at += 2 + entry.length
  }
  return out
}

/** The `width` entries of a bundle; throws `bad-encoding` if it holds fewer, more or half ones. */
export function decodeEntries(bundle: Uint8Array, width: number): Uint8Array[] {
  const out: Uint8Array[] = []
  let at = 0
  while (at < bundle.length && out.length < width) {
    const end = at + 2 + ((bundle[at]! << 8) | (bundle[at + 1] ?? 0))
    if (end > bundle.length) {
      throw new VaultMeshError('bad-encoding', `Entry ${out.length} of the bundle is cut short.`)
    }
    out.push(bundle.slice(at + 2, end))
    at = end
  }
  if (at !== bundle.length || out.length !== width) {
    throw new VaultMeshError('bad-encoding', `The bundle does not hold just ${width} entries.`)
  }
  return out
}

/** What a tree of `size` leaves has at one tile level. */
export interface TileRow {
  readonly level: number
  /** Full tiles: indices 0 to `full` - 1. */
  readonly full: number
  /** Width of the tile at index `full`; 0 if there is none. */
  readonly partial: number
}

/** The tile levels of a tree of `size` leaves, lowest first. */
export function tileRows(size: number): TileRow[] {
  const rows: TileRow[] = []
  for (let level = 0; TILE_WIDTH ** level <= size; level++) {
    const full = Math.floor(size / TILE_WIDTH ** (level + 1))
    rows.push({ level, full, partial: partialWidth(level, size) })
  }
  return rows
}

/** Every tile of a tree of `size` leaves, level by level; lazy, as a big tree has millions. */
export function* tilesOf(size: number): Generator<TileName & { readonly level: number }> {
  for (const { level, full, partial } of tileRows(size)) {
    for (let index = 0; index < full; index++) yield { level, index, width: TILE_WIDTH }
    if (partial > 0) yield { level, index: full, width: partial }
  }
}

/** Width of tile `index` at `level` in a tree of `size` leaves; 0 if the tree has no such tile. */
export function tileWidth(level: number, index: number, size: number): number {
  const full = Math.floor(size / TILE_WIDTH ** (level + 1))
  if (index < full) return TILE_WIDTH
  return index === full ? partialWidth(level, size) : 0
}
