import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { concat, equal, toBase64Url, toHex, utf8, type Hash } from '#core/bytes.ts'
import {
  entryOf,
  eraserOf,
  formatTombstone,
  isTombstone,
  judgeErasure,
  linesOf,
  mentionsErasure,
  parseErasure,
  parseTombstone,
  readErasure,
  verifyTombstone,
  withLine,
} from '#core/erasure.ts'
import { deriveIdentity, signJws } from '#core/node-keys.ts'
import { sha256 } from '#core/sha256.ts'
import { vacuumErased } from '../../scripts/vacuum.ts'
import '../support/seed.ts'

const hash = fc.uint8Array({ minLength: 32, maxLength: 32 }) as fc.Arbitrary<Hash>
const leaf = fc.integer({ min: 0, max: Number.MAX_SAFE_INTEGER })
const named = (of: Hash): string => `sha256:${toHex(of)}`
const operator = await deriveIdentity(new Uint8Array(32).fill(1), 1)
const stranger = await deriveIdentity(new Uint8Array(32).fill(2), 1)

function erased(target: string, by = operator, more: object = {}): Promise<string> {
  return signJws(by, 'vm-event+jws', {
    specversion: '1.0',
    id: 'x',
    source: by.did,
    type: 'vm.erased',
    time: '2026-11-30T12:00:00Z',
    data: { eventHash: target, reasonCode: 'gdpr-17' },
    ...more,
  })
}

describe('a tombstone', () => {
  test('is read as it was written, at any length it fits into, in either form', () => {
    fc.assert(
      fc.property(
        leaf,
        hash,
        hash,
        fc.integer({ min: 201, max: 600 }),
        (leafIndex, a, b, length) => {
          const stone = { leafIndex, eventHash: a, erasedBy: named(b) }
          const line = formatTombstone(stone, length)
          expect(line.length).toBe(length)
          expect(isTombstone(line)).toBe(true)
          expect(line.includes(0x0a)).toBe(false)
          expect(parseTombstone(line)).toEqual(stone)
          expect(equal(entryOf(line), a)).toBe(true)
          expect(equal(eraserOf(stone), b)).toBe(true)
        },
      ),
    )
  })

  test('at rest has at most 201 bytes, and the shortest event has more', async () => {
    const most = {
      leafIndex: Number.MAX_SAFE_INTEGER,
      eventHash: sha256(utf8('')),
      erasedBy: named(sha256(utf8(''))),
    }
    expect(formatTombstone(most).length).toBe(201)
    expect(() => formatTombstone(most, 200)).toThrow('does not fit')
    const least = {
      specversion: '1.0',
      id: '1',
      source: operator.did,
      type: 'a',
      time: '2026-11-30T12:00:00Z',
    }
    expect((await signJws(operator, 'vm-event+jws', least)).length).toBeGreaterThan(350)
  })

  test('of another form is none, whatever it holds', () => {
    const good = { leafIndex: 1, eventHash: named(sha256(utf8('a'))), erasedBy: 'x' }
    const bad: unknown[] = [
      { ...good, leafIndex: -1 },
      { ...good, leafIndex: 1.5 },
      { ...good, leafIndex: '1' },
      { ...good, leafIndex: 2 ** 53 },
      { ...good, eventHash: good.eventHash.toUpperCase() },
      { ...good, eventHash: good.eventHash.slice(7) },
      { ...good, erasedBy: null },
      { ...good, more: 1 },
      { leafIndex: 1, eventHash: good.eventHash },
      [],
      null,
      'text',
    ]
    for (const value of bad) {
      expect(() => parseTombstone(utf8(JSON.stringify(value))), JSON.stringify(value)).toThrow(
        'neither',
      )
    }
    expect(() => parseTombstone(utf8('{"leafIndex":1,"leafIndex":1}'))).toThrow('neither')
    expect(() => parseTombstone(Uint8Array.of(0x7b, 0xff))).toThrow('neither')
    fc.assert(
      fc.property(fc.uint8Array(), (bytes) => {
        try {
          parseTombstone(concat(utf8('{'), bytes))
        } catch (error) {
          expect(error).toMatchObject({ code: 'bad-body' })
        }
      }),
    )
  })

  test('over the wire counts by an event of the operator for this very hash, and by nothing else', async () => {
    const eventHash = sha256(utf8('target'))
    const target = named(eventHash)
    const isOperator = (did: string): boolean => did === operator.did
    const good = await erased(target)
    const judge = (erasedBy: string) =>
      verifyTombstone({ leafIndex: 0, eventHash, erasedBy }, isOperator)
    await expect(judge(good)).resolves.toBeUndefined()
    await expect(judge(await erased(target, stranger))).rejects.toThrow('not signed by')
    await expect(judge(await erased(named(sha256(utf8('other')))))).rejects.toThrow('another event')
    await expect(judge(await erased(target, operator, { type: 'vm.other' }))).rejects.toThrow(
      'another event',
    )
    await expect(judge(await erased(target, operator, { data: {} }))).rejects.toThrow('is none')
    await expect(judge(named(sha256(utf8(good))))).rejects.toThrow('is none')
    await expect(judge(`${good.slice(0, -4)}AAAA`)).rejects.toThrow('is none')
    await fc.assert(
      fc.asyncProperty(fc.string(), (text) =>
        judge(text).then(
          () => false,
          () => true,
        ),
      ),
    )
  })
})

describe('what an erasure asks for', () => {
  const eventHash = named(sha256(utf8('a')))
  test('is a hash and a code, and has no room for words', () => {
    expect(parseErasure({ eventHash, reasonCode: 'gdpr-17' })).toEqual({
      eventHash,
      reasonCode: 'gdpr-17',
      request: null,
    })
    for (const data of [
      undefined,
      null,
      [],
      {},
      { eventHash },
      { eventHash, reasonCode: '' },
      { eventHash, reasonCode: 'it named Bob' },
      { eventHash, reasonCode: 'x'.repeat(65) },
      { eventHash: eventHash.slice(7), reasonCode: 'x' },
      { eventHash, reasonCode: 'x', note: 'Bob' },
      { eventHash, reasonCode: 'x', request: 'y' },
    ]) {
      expect(() => parseErasure(data), JSON.stringify(data)).toThrow('vm.erased')
    }
  })

  test('is read from the event’s bytes, and garbage is refused in words', async () => {
    const jws = await erased(eventHash)
    expect(readErasure(utf8(jws)).eventHash).toBe(eventHash)
    for (const bad of ['', 'a.b.c', '....', `${jws.split('.')[0]}.e30.x`]) {
      expect(() => readErasure(utf8(bad))).toThrow('vm.erased')
    }
  })

  test('is found in a part wherever it stands, without opening the events', () => {
    fc.assert(
      fc.property(fc.string(), fc.string(), fc.string(), (before, after, other) => {
        const payload = toBase64Url(utf8(`${before}vm.erased${after}`))
        expect(mentionsErasure(utf8(`h.${toBase64Url(utf8(other))}.s\nh.${payload}.s\n`))).toBe(
          true,
        )
      }),
    )
    expect(mentionsErasure(utf8(`h.${toBase64Url(utf8('{"type":"vm.received"}'))}.s`))).toBe(false)
  })
})

test('only who signed an event, or the operator, may erase it, and never what is evidence', () => {
  const alice = 'did:key:alice'
  const event = (type: string, signer = alice, isOperator = false) => ({ type, signer, isOperator })
  const may = (target: ReturnType<typeof event>, eraser: ReturnType<typeof event>): string => {
    try {
      return judgeErasure(target, eraser)
    } catch (error) {
      return (error as { code: string }).code
    }
  }
  const node = (type: string) => event(type, 'did:key:node', true)
  const order = node('vm.erased')
  expect(may(event('a'), event('vm.erased'))).toBe('signer')
  expect(may(event('a'), order)).toBe('operator')
  expect(may(event('a'), event('vm.erased', 'did:key:bob'))).toBe('erasure-refused')
  // A type that a user gave his event makes it no system event, but for the erasure itself.
  expect(may(event('vm.log.forked'), event('vm.erased'))).toBe('signer')
  expect(may(event('vm.erased'), event('vm.erased'))).toBe('erasure-refused')
  expect(may(event('vm.erased'), order)).toBe('erasure-refused')
  for (const type of [
    'vm.log.forked',
    'vm.guardian.intervention',
    'vm.audit.closed',
    'vm.erased',
  ]) {
    expect(may(node(type), order), type).toBe('erasure-refused')
  }
  expect(may(node('vm.received'), order)).toBe('operator')
  expect(may(node('com.example'), order)).toBe('operator')
})

test('a line takes the place of another, and the other lines stay as they are', () => {
  const line = fc
    .uint8Array({ minLength: 1, maxLength: 20 })
    .map((b) => b.map((x) => (x === 0x0a ? 1 : x)))
  fc.assert(
    fc.property(
      fc.array(line, { minLength: 1, maxLength: 6 }),
      fc.nat(),
      line,
      fc.boolean(),
      (lines, n, by, ends) => {
        const newline = Uint8Array.of(0x0a)
        const all = lines.flatMap((l, i) => (i < lines.length - 1 || ends ? [l, newline] : [l]))
        const part = concat(...all)
        const read = [...linesOf(part)]
        expect(read.map((l) => l.line)).toEqual(lines)
        const i = n % lines.length
        const after = [...linesOf(withLine(part, read[i]!, by))].map((l) => l.line)
        expect(after).toEqual(lines.map((l, j) => (j === i ? by : l)))
      },
    ),
  )
})

test('databases are written anew after each erasure, also one by a clock that went back', () => {
  const home = mkdtempSync(join(tmpdir(), 'vm-vacuum-'))
  try {
    mkdirSync(join(home, 'state'))
    const path = join(home, 'state', 'd1.sqlite')
    const erase = (doneAt: number): void => {
      const db = new DatabaseSync(path)
      db.exec('CREATE TABLE IF NOT EXISTS erasures (done_at INTEGER)')
      db.prepare('INSERT INTO erasures VALUES (?)').run(doneAt)
      db.close()
    }
    const vacuumed = (): number => vacuumErased(home, join(home, 'state'))
    expect(vacuumed()).toBe(0)
    for (const doneAt of [2000, 1000]) {
      erase(doneAt)
      expect([vacuumed(), vacuumed()]).toEqual([1, 0])
    }
  } finally {
    rmSync(home, { recursive: true, force: true })
  }
})
