import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { VaultMeshError } from '#core/errors.ts'
import {
  decodeEntries,
  encodeEntries,
  parseTilePath,
  partialWidth,
  tilePath,
  tileRows,
  tileWidth,
  tilesOf,
} from '#core/tile.ts'

const tile = fc.record({
  level: fc.oneof(fc.constant('entries' as const), fc.nat(63)),
  index: fc.oneof(fc.nat(2000), fc.maxSafeNat()),
  width: fc.integer({ min: 1, max: 256 }),
})

describe('a tile path', () => {
  test.each([
    [{ level: 0, index: 1234067, width: 256 }, 'tile/0/x001/x234/067'],
    [{ level: 0, index: 0, width: 256 }, 'tile/0/000'],
    [{ level: 63, index: 999, width: 1 }, 'tile/63/999.p/1'],
    [{ level: 1, index: 1000, width: 17 }, 'tile/1/x001/000.p/17'],
    [{ level: 'entries' as const, index: 273, width: 112 }, 'tile/entries/273.p/112'],
  ])('of %o is %s', (name, path) => {
    expect(tilePath(name.level, name.index, name.width)).toBe(path)
    expect(parseTilePath(path)).toEqual(name)
  })

  test('comes back as the tile it was written for', () => {
    fc.assert(
      fc.property(tile, (name) => {
        expect(parseTilePath(tilePath(name.level, name.index, name.width))).toEqual(name)
      }),
    )
  })

  test.each([
    '',
    'tile',
    'tile/0/',
    '/tile/0/000',
    'tile/0/000/',
    'tile/0/0',
    'tile/0/00',
    'tile/0/0000',
    'tile/00/000',
    'tile/01/000',
    'tile/64/000',
    'tile/-1/000',
    'tile/100/000',
    'tile/data/000',
    'tile/0/x000/001',
    'tile/0/001/234',
    'tile/0/x001',
    'tile/0/x001/x234',
    'tile/0/X001/234',
    'tile/0/000.p/0',
    'tile/0/000.p/256',
    'tile/0/000.p/257',
    'tile/0/000.p/01',
    'tile/0/000.p/',
    'tile/0/000.p/999',
    'tile/0/000.P/1',
    'tile/0/000p/1',
    'tile/0/000.p/1/',
    'tile/0/000.p/-1',
    'tile/0/٠٠٠',
    'tile/0/000\n',
    'tile/0/x009/x007/x199/x254/x740/992',
    'tile/0/../000',
    'tile/0/x999/x999/x999/x999/x999/999',
    'tile/0/x001/x001/x001/x001/x001/x001/001',
  ])('spelt %j is refused', (path) => {
    expect(() => parseTilePath(path)).toThrow(VaultMeshError)
  })

  test('is one spelling: whatever parses is what would be written', () => {
    const piece = fc.constantFrom(
      'tile/',
      '0',
      '1',
      '63',
      'entries',
      '/',
      'x',
      '000',
      '001',
      '.p/',
      '256',
      '5',
    )
    fc.assert(
      fc.property(
        fc.oneof(
          fc.string(),
          fc.array(piece).map((p) => p.join('')),
        ),
        (path) => {
          try {
            const { level, index, width } = parseTilePath(path)
            expect(tilePath(level, index, width)).toBe(path)
          } catch (error) {
            expect(error).toBeInstanceOf(VaultMeshError)
          }
        },
      ),
      { numRuns: 2000 },
    )
  })

  test.each([
    [64, 0, 1],
    [-1, 0, 1],
    [0.5, 0, 1],
    [0, -1, 1],
    [0, 2 ** 53, 1],
    [0, 0, 0],
    [0, 0, 257],
    [0, 0, 1.5],
  ])('of level %d, index %d, width %d is not written', (level, index, width) => {
    expect(() => tilePath(level, index, width)).toThrow(VaultMeshError)
  })
})

describe('an entry bundle', () => {
  const entries = fc.array(fc.uint8Array({ maxLength: 400 }), { maxLength: 20 })

  test('gives back its entries', () => {
    fc.assert(
      fc.property(entries, (list) => {
        expect(decodeEntries(encodeEntries(list), list.length)).toEqual(list)
      }),
    )
    const longest = [new Uint8Array(65_535).fill(7)]
    expect(decodeEntries(encodeEntries(longest), 1)).toEqual(longest)
    expect(() => encodeEntries([new Uint8Array(65_536)])).toThrow(VaultMeshError)
  })

  test('of another width, cut short or with a tail is refused', () => {
    fc.assert(
      fc.property(entries, fc.nat(), (list, at) => {
        const bundle = encodeEntries(list)
        expect(() => decodeEntries(bundle, list.length + 1)).toThrow(VaultMeshError)
        expect(() => decodeEntries(Uint8Array.of(...bundle, 0), list.length)).toThrow(
          VaultMeshError,
        )
        if (bundle.length === 0) return
        const cut = bundle.subarray(0, at % bundle.length)
        expect(() => decodeEntries(cut, list.length)).toThrow(VaultMeshError)
      }),
    )
  })

  test('of arbitrary bytes either decodes to what encodes the same, or is refused', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 40 }), fc.nat(5), (bytes, width) => {
        try {
          expect(encodeEntries(decodeEntries(bytes, width))).toEqual(bytes)
        } catch (error) {
          expect(error).toBeInstanceOf(VaultMeshError)
        }
      }),
    )
  })
})

describe('the tiles of a size', () => {
  test.each([
    [0, []],
    [1, [[0, 0, 1]]],
    [255, [[0, 0, 255]]],
    [
      256,
      [
        [0, 1, 0],
        [1, 0, 1],
      ],
    ],
    [
      257,
      [
        [0, 1, 1],
        [1, 0, 1],
      ],
    ],
    [
      70_000,
      [
        [0, 273, 112],
        [1, 1, 17],
        [2, 0, 1],
      ],
    ],
    [
      65_536,
      [
        [0, 256, 0],
        [1, 1, 0],
        [2, 0, 1],
      ],
    ],
  ])('%d', (size, rows) => {
    expect(tileRows(size).map(({ level, full, partial }) => [level, full, partial])).toEqual(rows)
  })

  test('listed one by one are those of the rows, each of the width asked for', () => {
    for (const size of [0, 1, 256, 257, 70_000]) {
      const all = [...tilesOf(size)]
      const count = tileRows(size).reduce(
        (sum, row) => sum + row.full + (row.partial > 0 ? 1 : 0),
        0,
      )
      expect(all.length).toBe(count)
      for (const { level, index, width } of all) expect(tileWidth(level, index, size)).toBe(width)
    }
  })

  test('hold every leaf once, and nothing beyond', () => {
    fc.assert(
      fc.property(fc.maxSafeNat(), (size) => {
        const [row] = tileRows(size)
        expect((row?.full ?? 0) * 256 + (row?.partial ?? 0)).toBe(size)
        expect(partialWidth(0, size)).toBe(size % 256)
        expect(tileWidth(0, (row?.full ?? 0) + 1, size)).toBe(0)
        expect(tileRows(size).length).toBeLessThanOrEqual(7)
      }),
    )
  })
})
