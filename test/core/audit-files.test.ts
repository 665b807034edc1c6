/**
 * The keeper of the audit files: weeks turn by its clock, crashes leave nothing unexplained, and whoever changes a
 * file meanwhile is told of.
 */

import {
  appendFileSync,
  closeSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { signClosedFile } from '#core/audit-file.ts'
import { auditMessage, readAuditLine, type AuditEntry, type AuditLine } from '#core/audit-line.ts'
import { utf8 } from '#core/bytes.ts'
import { deriveIdentity } from '#core/node-keys.ts'
import { AuditFiles, auditFiles } from '../../scripts/audit-files.ts'
import { describeFile, eventFile } from '../../scripts/audit-ledger.ts'
import { verifyAudit } from '../../scripts/audit-verify.ts'

const DAY = 86_400_000
const MONDAY = Date.UTC(2026, 10, 23)

let folder: string
let nowAt: number
let warned: string[]

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'vm-audit-'))
  nowAt = MONDAY
  warned = []
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

function open(): AuditFiles {
  return new AuditFiles(folder, {
    version: '1',
    now: () => nowAt,
    warn: (text) => warned.push(text),
  })
}

function linesIn(name: string): AuditLine[] {
  return readFileSync(join(folder, name), 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => readAuditLine(utf8(line)))
}

const kinds = (name: string): string[] => linesIn(name).map(({ kind }) => kind)
const verified = () => verifyAudit({ folder, trust: { vkeys: [], tsaRoots: [] } })
const halt = (why: string): AuditEntry => ({
  kind: 'halt',
  at: new Date(nowAt).toISOString(),
  log: 1,
  why,
})

test('a process says when it began and stopped, and the next goes on with the chain', async () => {
  open().stop()
  const files = open()
  files.take(auditMessage(halt('a')))
  files.stop()
  expect(auditFiles(folder)).toEqual(['audit-2026-W48.jsonl'])
  expect(kinds('audit-2026-W48.jsonl')).toEqual(['boot', 'stop', 'boot', 'halt', 'stop'])
  expect(linesIn('audit-2026-W48.jsonl').map(({ seq }) => seq)).toEqual([1, 2, 3, 4, 5])
  expect(statSync(join(folder, 'audit-2026-W48.jsonl')).mode & 0o777).toBe(0o600)
  expect(await verified()).toMatchObject({ findings: [], notes: [], pending: [] })
})

test('a file ends with its week, and a process that slept for many closes it once', async () => {
  const files = open()
  nowAt += 7 * DAY
  const closed = files.rotate('week')
  files.stop()
  nowAt += 40 * DAY
  open().stop()
  expect(closed).toBe('audit-2026-W48.jsonl')
  expect(auditFiles(folder)).toEqual([
    'audit-2026-W48.jsonl',
    'audit-2026-W49.jsonl',
    'audit-2027-W01.jsonl',
  ])
  expect(kinds('audit-2026-W48.jsonl')).toEqual(['boot', 'close'])
  expect(kinds('audit-2026-W49.jsonl')).toEqual(['stop', 'boot', 'close'])
  expect(kinds('audit-2027-W01.jsonl')).toEqual(['stop'])
  expect(statSync(join(folder, closed)).mode & 0o777).toBe(0o400)
  const report = await verified()
  expect(report).toMatchObject({ findings: [], pending: { length: 2 } })
})

test('a file closed before its week is over is followed by another of that week', () => {
  const files = open()
  for (let i = 0; i < 10; i++) files.rotate('asked')
  files.stop()
  expect(auditFiles(folder).slice(-2)).toEqual([
    'audit-2026-W48.10.jsonl',
    'audit-2026-W48.11.jsonl',
  ])
})

test('a clock that goes back closes nothing, and lines go on in the newest file', async () => {
  open().stop()
  nowAt -= 30 * DAY
  open().stop()
  expect(auditFiles(folder)).toEqual(['audit-2026-W48.jsonl'])
  expect((await verified()).findings).toEqual([])
})

test('half a line that a crash left stands and is named, wherever it was cut', async () => {
  const first = open()
  first.write([halt('a'), halt('b')])
  first.stop()
  const path = join(folder, 'audit-2026-W48.jsonl')
  const whole = readFileSync(path)
  const lastLine = whole.lastIndexOf(0x0a, whole.length - 2) + 1
  for (let size = lastLine; size < whole.length; size += 9) {
    writeFileSync(path, whole.subarray(0, size))
    open().stop()
    const report = await verified()
    expect(report.findings).toEqual([])
    expect(report.notes).toHaveLength(1)
  }
})

test('a crash between the closing line and the next file loses nothing', async () => {
  const files = open()
  files.rotate('asked')
  files.stop()
  rmSync(join(folder, 'audit-2026-W48.2.jsonl'))
  open().stop()
  expect(kinds('audit-2026-W48.2.jsonl')).toEqual(['boot', 'stop'])
  // And one that left the next file empty.
  const again = open()
  again.rotate('asked')
  again.stop()
  writeFileSync(join(folder, 'audit-2026-W48.3.jsonl'), '')
  open().stop()
  expect(kinds('audit-2026-W48.3.jsonl')).toEqual(['boot', 'stop'])
  expect((await verified()).findings).toEqual([])
})

test.each([
  ['shortened', (path: string) => truncateSync(path, 10), 'it has 10 bytes, not '],
  ['written to', (path: string) => appendFileSync(path, '{}\n'), ' bytes, not '],
  ['removed', (path: string) => rmSync(path), 'it is not there'],
  ['replaced', (path: string) => replace(path), 'another file has its name'],
])(
  'a file that was %s under a running process is told of, and what follows is safe',
  async (_, change, why) => {
    const files = open()
    files.write([halt('a')])
    change(join(folder, 'audit-2026-W48.jsonl'))
    files.write([halt('b')])
    files.stop()
    expect(warned).toEqual([expect.stringContaining(why)])
    expect(kinds('audit-2026-W48.2.jsonl')).toEqual(['tampered', 'halt', 'stop'])
    const { findings } = await verified()
    expect(findings.map(({ file }) => file)).toContain('audit-2026-W48.jsonl')
  },
)

function replace(path: string): void {
  writeFileSync(`${path}.new`, readFileSync(path))
  renameSync(`${path}.new`, path)
}

test('garbage in front of a start is no piece of a crash', async () => {
  open().stop()
  appendFileSync(join(folder, 'audit-2026-W48.jsonl'), 'garbage\nmore')
  open().stop()
  const { findings } = await verified()
  expect(findings).toEqual([
    expect.objectContaining({ file: 'audit-2026-W48.jsonl', what: 'inserted', line: 3 }),
  ])
})

test('lines that come faster than they are written are counted, and a line that is none is told of', () => {
  const files = open()
  files.take('{"audit":{"kind":"nonsense"}}')
  expect(warned).toEqual([expect.stringContaining('cannot be read')])
  for (let i = 0; i < 5100; i++) files.take(auditMessage(halt('x')))
  files.flush()
  files.stop()
  const said = linesIn('audit-2026-W48.jsonl')
  expect(said.filter(({ kind }) => kind === 'halt')).toHaveLength(5000)
  expect(said.find(({ kind }) => kind === 'lost')).toMatchObject({ lines: 100 })
})

test('a file that cannot be begun leaves the open one open, and nothing is lost', () => {
  const files = open()
  const [name] = auditFiles(folder)
  const next = join(folder, 'audit-2026-W48.2.jsonl')
  mkdirSync(next)
  expect(() => files.rotate('asked')).toThrow(/EISDIR/)
  // Whoever opens a file now must not find the audit's lines in it.
  const other = openSync(join(folder, 'other'), 'w')
  rmdirSync(next)
  files.take(auditMessage(halt('after')))
  files.flush()
  expect(files.rotate('asked')).toBe(name)
  files.stop()
  closeSync(other)
  expect(readFileSync(join(folder, 'other'), 'utf8')).toBe('')
  expect(kinds(name!)).toEqual(['boot', 'close', 'halt', 'close'])
})

test('a line that has no canonical form is left out with a warning and keeps no other back', () => {
  const files = open()
  files.take(auditMessage(halt('half \ud800 of one')))
  files.take(auditMessage(halt('whole')))
  files.stop()
  expect(warned.join()).toContain('half a character')
  expect(kinds(auditFiles(folder)[0]!)).toEqual(['boot', 'halt', 'stop'])
})

test('a file that was written again is not excused by an event that somebody else signed', async () => {
  const files = open()
  const name = files.rotate('asked')
  files.stop()
  const closed = (await describeFile(folder, name, null))!
  const [node, thief] = [
    await deriveIdentity(new Uint8Array(32).fill(1), 1),
    await deriveIdentity(new Uint8Array(32).fill(2), 1),
  ]
  const trust = { vkeys: [], tsaRoots: [], nodeDids: [node.did] }
  const found = async (event: string): Promise<unknown> => {
    writeFileSync(eventFile(folder, name), event)
    const { findings, pending } = await verifyAudit({ folder, trust })
    return [findings.map(({ what }) => what), pending.length]
  }
  const own = await signClosedFile(node, closed)
  expect(await found(own)).toEqual([[], 1])
  expect(await found(await signClosedFile(thief, closed))).toEqual([['untrusted'], 0])
  const forged = `${own.slice(0, own.lastIndexOf('.'))}.${'A'.repeat(86)}`
  expect(await found(forged)).toEqual([['unsealed'], 0])
})
