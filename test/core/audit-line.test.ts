/**
 * Lines of the audit: one text each, whatever is done to the bytes; and a chain in which every change is named.
 */

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { Continuity, LineChecker, type AuditBreak } from '#core/audit-check.ts'
import { Follower } from '../../scripts/audit-follow.ts'
import {
  auditFileName,
  closedFileSchema,
  compareAuditFiles,
  parseAuditFileName,
  readClosedFile,
  signClosedFile,
  weekOf,
} from '#core/audit-file.ts'
import {
  auditLine,
  auditMessage,
  FIRST_PREV,
  isAuditMessage,
  isCommand,
  lineHash,
  rangesOf,
  readAuditLine,
  readAuditMessage,
  type AuditEntry,
  type AuditLine,
} from '#core/audit-line.ts'
import { utf8 } from '#core/bytes.ts'
import { deriveIdentity } from '#core/node-keys.ts'

const HASH = 'ab'.repeat(32)
const AT = '2026-11-30T10:57:02.000Z'

const requestId = fc.stringMatching(/^[A-Za-z0-9_.-]{1,64}$/)
const seqs = fc.nat({ max: 1_000_000 })
const at = fc.integer({ min: 0, max: 4_000_000_000_000 }).map((ms) => new Date(ms).toISOString())
const hash = fc.stringMatching(/^[0-9a-f]{64}$/)
const entry: fc.Arbitrary<AuditEntry> = fc.oneof(
  fc.record({
    kind: fc.constant('commit' as const),
    at,
    log: fc.constant(1),
    shard: fc.nat({ max: 15 }),
    from: seqs,
    to: seqs,
    requests: fc.array(requestId, { maxLength: 5 }),
    duplicates: seqs,
    conflicts: seqs,
    sha256: hash,
    via: fc.constantFrom('post' as const, 'check' as const, 'peer' as const),
  }),
  fc.record({
    kind: fc.constant('operator' as const),
    at,
    log: fc.constant(1),
    requestId,
    method: fc.constant('POST'),
    target: fc.string({ unit: 'grapheme', maxLength: 80 }).map((text) => text.toWellFormed()),
    outcome: fc.constantFrom('begun' as const, 'done' as const),
  }),
  fc.record({ kind: fc.constant('stop' as const), at }),
)

/** A chain of entries as lines. */
function chain(entries: readonly AuditEntry[]): Uint8Array[] {
  let prev = FIRST_PREV
  return entries.map((value, i) => {
    const line = utf8(auditLine(value, i + 1, prev))
    prev = lineHash(line)
    return line
  })
}

function check(lines: readonly Uint8Array[], mayBeOpen = true): readonly AuditBreak[] {
  const checker = new LineChecker({ seq: 0, hash: FIRST_PREV })
  for (const line of lines) checker.push(line)
  return checker.end(mayBeOpen).breaks
}

const said = (breaks: readonly AuditBreak[]): string[] =>
  breaks.map(({ what, line }) => `${what} ${line}`)

describe('a line', () => {
  test('reads back as the entry that was written', () => {
    fc.assert(
      fc.property(entry, fc.integer({ min: 1, max: 2 ** 53 - 1 }), hash, (value, seq, prev) => {
        expect(readAuditLine(utf8(auditLine(value, seq, prev)))).toEqual({ ...value, seq, prev })
        expect(readAuditMessage(auditMessage(value))).toEqual(value)
        expect(isAuditMessage(auditMessage(value))).toBe(true)
      }),
    )
  })

  test('has one text: no change of a byte reads as the same line', () => {
    fc.assert(
      fc.property(entry, fc.nat(), fc.nat({ max: 255 }), (value, where, byte) => {
        const line = utf8(auditLine(value, 7, HASH))
        const changed = line.slice()
        changed[where % line.length] = byte
        if (changed.every((b, i) => b === line[i])) return
        let read: AuditLine | null = null
        try {
          read = readAuditLine(changed)
        } catch {
          return
        }
        expect(read).not.toEqual({ ...value, seq: 7, prev: HASH })
      }),
    )
  })

  test('of any bytes is refused with our own error or is one that would be written so', () => {
    fc.assert(
      fc.property(fc.oneof(fc.uint8Array({ maxLength: 300 }), fc.string().map(utf8)), (bytes) => {
        try {
          const { seq, prev, ...value } = readAuditLine(bytes)
          expect(utf8(auditLine(value as AuditEntry, seq, prev))).toEqual(bytes)
        } catch (error) {
          expect(error).toMatchObject({ code: 'bad-encoding' })
        }
      }),
    )
  })

  test.each([
    ['a space', (text: string) => text.replace(',', ', ')],
    ['a key given twice', (text: string) => text.replace('{', '{"kind":"stop",')],
    ['a field that is none', (text: string) => text.replace('{', '{"a":1,')],
    ['a number written otherwise', (text: string) => text.replace('"seq":7', '"seq":7.0')],
    ['an escape where none is needed', (text: string) => text.replace('"stop"', '"\\u0073top"')],
    ['another order', () => `{"kind":"stop","at":"${AT}","prev":"${HASH}","seq":7}`],
    ['a moment that no clock has', (text: string) => text.replace('11-30', '11-31')],
    ['seq zero', (text: string) => text.replace('"seq":7', '"seq":0')],
    ['a capital hash', (text: string) => text.replace(HASH, HASH.toUpperCase())],
    ['too many bytes', (text: string) => text.padEnd(131_073)],
  ])('with %s is refused', (_, change) => {
    const line = auditLine({ kind: 'stop', at: AT }, 7, HASH)
    expect(() => readAuditLine(utf8(change(line)))).toThrow('This is no line of an audit')
  })
})

describe('a chain', () => {
  const lines = fc.array(entry, { minLength: 6, maxLength: 12 }).map(chain)

  test('that nobody touched has no break', () => {
    fc.assert(
      fc.property(lines, (all) => {
        expect(check(all)).toEqual([])
      }),
    )
  })

  test('names the one line that was changed, however it was', () => {
    fc.assert(
      fc.property(lines, fc.nat(), fc.nat(), fc.integer({ min: 1, max: 255 }), (all, l, b, x) => {
        // The last line has nobody to speak for it: its file's event does.
        const at0 = l % (all.length - 1)
        const line = all[at0]!.slice()
        line[b % line.length]! ^= x
        // A newline makes two lines of it.
        if (line.includes(0x0a)) return
        const breaks = check(all.with(at0, line))
        expect(breaks.map((found) => found.line)).toContain(at0 + 1)
        expect(breaks.every((found) => Math.abs(found.line - at0 - 1) <= 1)).toBe(true)
      }),
    )
  })

  test('names a line that was written anew with the same number', () => {
    fc.assert(
      fc.property(lines, fc.nat(), (all, l) => {
        const at0 = l % (all.length - 1)
        const { seq, prev } = readAuditLine(all[at0]!)
        const forged = utf8(auditLine({ kind: 'halt', log: 1, at: AT, why: 'x' }, seq, prev))
        expect(said(check(all.with(at0, forged)))).toEqual([`changed ${at0 + 1}`])
      }),
    )
  })

  test('names what was deleted by the line before it', () => {
    fc.assert(
      fc.property(lines, fc.nat(), fc.integer({ min: 1, max: 3 }), (all, l, n) => {
        const at0 = l % (all.length - n)
        const left = all.toSpliced(at0, n)
        if (at0 === left.length) return
        expect(said(check(left))).toEqual([`deleted ${at0}`])
      }),
    )
  })

  test('names a line that was put in, be it a repeat or a forgery that fits', () => {
    fc.assert(
      fc.property(lines, fc.nat(), fc.nat(), (all, l, m) => {
        const repeated = all[m % all.length]!
        const at0 = (m % all.length) + 1 + (l % (all.length - (m % all.length)))
        expect(said(check(all.toSpliced(at0, 0, repeated)))).toEqual([`inserted ${at0 + 1}`])
        const where = l % (all.length - 2)
        const { seq, prev } = readAuditLine(all[where]!)
        const forged = utf8(auditLine({ kind: 'halt', log: 1, at: AT, why: 'x' }, seq, prev))
        expect(said(check(all.toSpliced(where, 0, forged)))).toEqual([`inserted ${where + 1}`])
      }),
    )
  })

  test('names a line that was moved', () => {
    fc.assert(
      fc.property(lines, fc.nat(), (all, l) => {
        const at0 = l % (all.length - 2)
        const moved = all.with(at0, all[at0 + 1]!).with(at0 + 1, all[at0]!)
        expect(said(check(moved))).toEqual([`reordered ${at0 + 2}`])
      }),
    )
  })

  test('of a closed file ends with the line that closes it', () => {
    const whole = chain([
      { kind: 'stop', at: AT },
      { kind: 'close', at: AT, reason: 'week' },
    ])
    expect(check(whole, false)).toEqual([])
    expect(said(check(whole.slice(0, 1), false))).toEqual(['truncated 1'])
    expect(said(check([], false))).toEqual(['truncated 0'])
  })

  test('lets a piece of a line stand that the next start names, and no other', () => {
    const [first] = chain([{ kind: 'stop', at: AT }])
    const torn = utf8('{"at":"2026-11')
    const boot = (sha256: string, bytes: number): Uint8Array =>
      utf8(
        auditLine(
          { kind: 'boot', at: AT, version: '1', clean: false, torn: { bytes, sha256 } },
          2,
          lineHash(first!),
        ),
      )
    expect(check([first!, torn, boot(lineHash(torn), torn.length)])).toEqual([])
    expect(said(check([first!, torn, boot(HASH, torn.length)]))).toEqual(['inserted 2'])
    expect(said(check([first!, torn, boot(lineHash(torn), 3)]))).toEqual(['inserted 2'])
  })

  test('goes on over files, and a first line that names another one says so', () => {
    const checker = new LineChecker({ seq: 1, hash: HASH })
    checker.push(utf8(auditLine({ kind: 'stop', at: AT }, 2, FIRST_PREV)))
    checker.push(utf8(auditLine({ kind: 'stop', at: AT }, 3, HASH)))
    expect(checker.end(true).breaks.length).toBeGreaterThan(0)
    const anywhere = new LineChecker(null)
    anywhere.push(utf8(auditLine({ kind: 'stop', at: AT }, 12, HASH)))
    expect(anywhere.end(true)).toMatchObject({ breaks: [], firstSeq: 12, head: { seq: 12 } })
  })
})

describe('what the lines tell', () => {
  const base = { at: AT, log: 1, prev: HASH } as const
  const commit = (seq: number, from: number, to: number, shard = 0): AuditLine => ({
    ...base,
    kind: 'commit',
    seq,
    shard,
    from,
    to,
    requests: [],
    duplicates: 0,
    conflicts: 0,
    sha256: HASH,
    via: 'post',
  })
  const boot = (seq: number): AuditLine => ({
    at: AT,
    prev: HASH,
    seq,
    kind: 'boot',
    version: '1',
    clean: false,
  })

  test('a commit that no line tells of is a gap, and a stop in between explains it', () => {
    const told = new Continuity()
    for (const line of [commit(1, 0, 5), commit(2, 5, 6), commit(3, 0, 2, 1), commit(4, 8, 9)])
      told.push(line)
    expect(told.gaps).toEqual([
      { isCrash: false, seq: 4, detail: 'no line tells of numbers 6 to 7 of shard 0' },
    ])
    const crashed = new Continuity()
    for (const line of [commit(1, 0, 5), boot(2), commit(3, 4, 9), commit(4, 9, 10)])
      crashed.push(line)
    expect(crashed.gaps).toEqual([
      { isCrash: true, seq: 3, detail: 'number 4 of shard 0 came again' },
    ])
  })

  test('a request finds its own numbers among those of its group', () => {
    const line = { ...commit(1, 10, 13), kind: 'commit' } as Extract<AuditLine, { kind: 'commit' }>
    const group = { ...line, requests: ['a', 'b', 'a', 'c', 'a'], outcomes: 'adaaa', to: 14 }
    expect(rangesOf(group, 'a')).toEqual([
      [10, 12],
      [13, 14],
    ])
    expect(rangesOf(group, 'b')).toEqual([])
    expect(rangesOf(group, 'z')).toEqual([])
    expect(rangesOf({ ...line, requests: ['bulk'] }, 'bulk')).toEqual([[10, 13]])
    expect(rangesOf({ ...line, to: 10, requests: ['bulk'] }, 'bulk')).toEqual([])
  })

  test.each([
    ['POST', '/admin/seal', true],
    ['POST', '/admin/peers/thaw?did=x', true],
    ['POST', '/admin/audit/rotate', true],
    ['GET', '/admin/fsck', true],
    ['GET', '/admin/fsck?height=3', false],
    ['POST', '/admin/wake?job=sealing', false],
    ['POST', '/admin/audit/closed', false],
    ['GET', '/admin/audit?from=1', false],
    ['GET', '/admin/log', false],
    ['POST', '/events', false],
  ])('%s %s is a command: %s', (method, path, is) => {
    expect(isCommand(method, new URL(path, 'http://node'))).toBe(is)
  })
})

describe('a request', () => {
  const line = (seq: number, value: object): AuditLine =>
    readAuditLine(utf8(auditLine({ at: AT, log: 1, ...value } as AuditEntry, seq, HASH)))
  const about = { chain: 'TSA', network: 't', method: 'rfc3161' }
  const commit = { kind: 'commit', duplicates: 0, conflicts: 0, sha256: HASH, via: 'post' }
  const lines = [
    line(1, { ...commit, shard: 0, from: 0, to: 3, requests: ['a', 'b', 'a'] }),
    line(2, { ...commit, shard: 1, from: 0, to: 2, requests: ['c'] }),
    line(3, { kind: 'anchor', chain: 'TSA', root: HASH, treeSize: 90, jobs: [1] }),
    line(4, {
      kind: 'seal',
      height: 7,
      firstIndex: 90,
      count: 4,
      treeSize: 94,
      root: HASH,
      ranges: [
        [1, 0, 2],
        [0, 0, 2],
      ],
      requestId: 'c',
    }),
    line(5, { kind: 'anchor', chain: 'TSA', root: HASH, treeSize: 94, jobs: [2] }),
    line(6, {
      kind: 'attempt',
      job: 2,
      attempt: 1,
      ...about,
      treeSize: 94,
      outcome: 'final',
      failures: 0,
    }),
    line(7, {
      kind: 'seal',
      height: 8,
      firstIndex: 94,
      count: 1,
      treeSize: 95,
      root: HASH,
      ranges: [[0, 2, 3]],
    }),
    line(8, { kind: 'anchor', chain: 'TSA', root: HASH, treeSize: 95, jobs: [3] }),
    line(9, {
      kind: 'attempt',
      job: 3,
      attempt: 1,
      ...about,
      treeSize: 95,
      outcome: 'final',
      failures: 0,
    }),
  ]
  const follow = (request: string) => {
    const follower = new Follower(request)
    for (const each of lines) follower.push(each)
    const { lines: found, ...rest } = follower.end()
    return { seqs: found.map(({ seq }) => seq), ...rest }
  }

  test('is followed from its commit to its leaves, and to the anchors that cover all of them', () => {
    expect(follow('b')).toEqual({
      seqs: [1, 4, 5, 6],
      places: [{ log: 1, height: 7, firstLeaf: 93, count: 1 }],
      anchored: [{ chain: 'TSA', job: 2 }],
    })
    expect(follow('a')).toEqual({
      seqs: [1, 4, 7, 8, 9],
      places: [
        { log: 1, height: 7, firstLeaf: 92, count: 1 },
        { log: 1, height: 8, firstLeaf: 94, count: 1 },
      ],
      anchored: [{ chain: 'TSA', job: 3 }],
    })
    expect(follow('c').places).toEqual([{ log: 1, height: 7, firstLeaf: 90, count: 2 }])
    expect(follow('d')).toEqual({ seqs: [], places: [], anchored: [] })
  })
})

describe('a file', () => {
  test.each([
    ['2026-11-30T10:57:02Z', 'audit-2026-W49.jsonl'],
    ['2026-11-29T23:59:59.999Z', 'audit-2026-W48.jsonl'],
    ['2020-12-31T00:00:00Z', 'audit-2020-W53.jsonl'],
    ['2021-01-03T23:59:59Z', 'audit-2020-W53.jsonl'],
    ['2021-01-04T00:00:00Z', 'audit-2021-W01.jsonl'],
    ['2024-12-30T00:00:00Z', 'audit-2025-W01.jsonl'],
    ['1970-01-01T00:00:00Z', 'audit-1970-W01.jsonl'],
  ])('of %s is named by its ISO week: %s', (time, name) => {
    expect(auditFileName({ ...weekOf(Date.parse(time)), part: 1 })).toBe(name)
  })

  test('sorts by time, and its name is read back and nothing else is', () => {
    const name = fc.record({
      year: fc.integer({ min: 1970, max: 9999 }),
      week: fc.integer({ min: 1, max: 53 }),
      part: fc.integer({ min: 1, max: 999 }),
    })
    fc.assert(
      fc.property(name, name, (a, b) => {
        expect(parseAuditFileName(auditFileName(a))).toEqual(a)
        expect(Math.sign(compareAuditFiles(a, b))).toBe(-Math.sign(compareAuditFiles(b, a)) + 0)
      }),
    )
    for (const text of [
      'audit-2026-W00.jsonl',
      'audit-2026-W48.1.jsonl',
      'audit-2026-W54.jsonl',
      'x',
    ])
      expect(parseAuditFileName(text)).toBe(null)
  })

  test('is sealed by an event of its own bytes: the same file is the same event', async () => {
    const key = await deriveIdentity(new Uint8Array(32).fill(7), 1)
    const closed = closedFileSchema.parse({
      file: 'audit-2026-W48.jsonl',
      sha256: HASH,
      lines: 3,
      firstSeq: 1,
      lastSeq: 3,
      firstAt: AT,
      lastAt: AT,
      previous: null,
    })
    const event = await signClosedFile(key, closed)
    expect(await signClosedFile(key, closed)).toBe(event)
    expect(readClosedFile(utf8(event))).toEqual({ ...closed, source: key.did })
    for (const bytes of ['', 'a.b.c', event.replaceAll('.', ''), event.replace('.', '.A')])
      expect(() => readClosedFile(utf8(bytes))).toThrow(/event/)
  })
})
