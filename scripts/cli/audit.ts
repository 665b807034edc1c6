/**
 * audit: verify the files of the trail, show its lines, close the open file.
 */

import { join } from 'node:path'
import { REQUEST_ID, readAuditLine, type AuditLine } from '#core/audit-line.ts'
import { parseTime } from '#core/time.ts'
import { askAdmin } from '../admin-socket.ts'
import { auditFiles, type AuditHead } from '../audit-files.ts'
import { Follower, type Followed } from '../audit-follow.ts'
import { linesOf } from '../audit-ledger.ts'
import { verifyAudit, type AuditFinding } from '../audit-verify.ts'
import { homeAt } from '../home.ts'
import {
  arity,
  Exit,
  integer,
  text,
  UsageError,
  type Command,
  type Outcome,
  type Terminal,
  type Values,
} from './command.ts'
import { operate } from './operator.ts'
import { pinsOf, trustOptions, TRUST_HELP } from './trust.ts'

/** Findings and lines shown to people; all of them are in --json. */
const SHOWN = 50
/** How long a running node is waited for that is asked where it is. */
const HEAD_MS = 2000

export const audit: Command = {
  name: 'audit',
  summary: 'Verify and show what happened at a node',
  usage: 'verify [DIR] [--from FILE] | show [DIR] [--request ID | --since T] | rotate',
  help: `  verify          check every line of the files below <home>/audit, or DIR (a copy), and every closed file
                  against the event and the receipt that seal it
  show            print lines, the newest ${SHOWN}
  rotate          close the open file of the running node now, as the end of the week does
  --from FILE     begin with this file; those before it were moved elsewhere
  --request ID    what became of this request: commit, batch, anchors, actions
  --since T       lines from this moment on (RFC 3339, as 2026-11-30T12:00:00Z)
  --limit N       so many lines (default ${SHOWN})
${TRUST_HELP}
  exit 0 all holds, 1 something was changed (each finding names file and line), 3 a closed file has no event
  or receipt yet, 5 signed by a key you do not trust`,
  options: {
    ...trustOptions,
    from: { type: 'string' },
    request: { type: 'string' },
    since: { type: 'string' },
    limit: { type: 'string' },
  },
  async run(args, values, terminal) {
    switch (args[0]) {
      case 'verify':
        arity(args, 1, 2)
        return verify(args[1], values, terminal)
      case 'show':
        arity(args, 1, 2)
        return show(args[1], values)
      case 'rotate': {
        arity(args, 1, 1)
        const answer = await operate<{ readonly closed: string; readonly file: string }>(
          values,
          'POST',
          '/admin/audit/rotate',
        )
        const lines = [`${answer.closed} is closed; ${answer.file} is open`]
        return { exit: Exit.ok, value: answer, lines }
      }
      default:
        throw new UsageError(`audit ${args[0] ?? ''}: say verify, show or rotate.`)
    }
  },
}

function folderOf(named: string | undefined, values: Values): string {
  const folder = named ?? homeAt(text(values, 'home')).audit
  if (auditFiles(folder).length === 0)
    throw new UsageError(`There are no audit files in ${folder}.`)
  return folder
}

async function verify(
  named: string | undefined,
  values: Values,
  terminal: Terminal,
): Promise<Outcome> {
  const folder = folderOf(named, values)
  const from = text(values, 'from')
  if (from !== undefined && !auditFiles(folder).includes(from))
    throw new UsageError(`--from ${from}: there is no such file in ${folder}.`)
  const trust = await pinsOf(values)
  // First where the node is, then the files: what it writes meanwhile comes after.
  const head = named === undefined ? await headOf(values) : undefined
  const { findings, notes, pending, files } = await verifyAudit({
    folder,
    trust,
    from,
    head,
    onProgress: (file, line) => terminal.progress(`${file} line ${line}, ${folder}`),
  })
  const lines = findings
    .slice(0, SHOWN)
    .map((finding) => `${terminal.paint('red', '✗')} ${sentenceOf(finding)}`)
  if (findings.length > SHOWN) lines.push(`✗ and ${findings.length - SHOWN} more (--json)`)
  for (const note of [...notes.slice(0, SHOWN), ...pending]) lines.push(`– ${note}`)
  const closed = files.filter(({ isClosed }) => isClosed)
  const proven = files.filter(({ proven: sentence }) => sentence !== null).length
  const count = files.reduce((sum, file) => sum + file.lines, 0)
  const size = `${count} lines in ${files.length} files, ${proven} of ${closed.length} closed ones proven by receipt`
  const isClean = findings.length === 0
  lines.push(
    isClean
      ? `${terminal.paint('green', '✓')} holds: ${size}`
      : `${findings.length} findings in ${size}`,
  )
  const last = files.at(-1)
  if (isClean && last?.isClosed === false) {
    const seen = head === undefined ? 'nobody has sealed its end yet' : 'the running node agrees'
    lines.push(`– ${last.file} is open up to number ${last.lastSeq}: ${seen}`)
  }
  if (!isClean)
    lines.push('Keep the folder as it is, and compare it with a backup (docs/audit.md).')
  const onlyTrust = findings.every(({ what }) => what === 'untrusted')
  const exit = isClean
    ? pending.length > 0
      ? Exit.pending
      : Exit.ok
    : onlyTrust
      ? Exit.untrusted
      : Exit.refuted
  return { exit, value: { clean: isClean, files, findings, notes, pending }, lines }
}

function sentenceOf({ file, line, what, detail }: AuditFinding): string {
  return `${file}${line === null ? '' : `:${line}`} ${what}: ${detail}`
}

/** Where the running node is; undefined if none runs here. */
async function headOf(values: Values): Promise<AuditHead | undefined> {
  try {
    const { socket } = homeAt(text(values, 'home'))
    const { status, body } = await askAdmin(socket, 'GET', '/admin/audit/head', HEAD_MS)
    return status === 200 ? (JSON.parse(body) as AuditHead) : undefined
  } catch {
    return undefined
  }
}

async function show(named: string | undefined, values: Values): Promise<Outcome> {
  const folder = folderOf(named, values)
  const request = text(values, 'request')
  const since = text(values, 'since')
  const limit = integer(values, 'limit') ?? SHOWN
  if (request !== undefined && !REQUEST_ID.test(request))
    throw new UsageError(`--request ${request} is no request id.`)
  const sinceAt = since === undefined ? null : parseTime(since)
  if (since !== undefined && sinceAt === null) throw new UsageError(`--since ${since} is no time.`)
  if (request !== undefined) return follow(folder, request)
  const lines: AuditLine[] = []
  for await (const line of readable(folder)) {
    if (sinceAt !== null && parseTime(line.at)! < sinceAt) continue
    lines.push(line)
    // Since a moment: the first ones. Else the newest.
    if (sinceAt === null && lines.length > limit) lines.shift()
    if (sinceAt !== null && lines.length === limit) break
  }
  return { exit: Exit.ok, value: { lines }, lines: lines.map(textOf) }
}

async function follow(folder: string, request: string): Promise<Outcome> {
  const follower = new Follower(request)
  for await (const line of readable(folder)) follower.push(line)
  const followed = follower.end()
  if (followed.lines.length === 0) {
    const detail = `No line tells of the request ${request}.`
    return { exit: Exit.refuted, value: { request, ...followed }, lines: [detail] }
  }
  const lines = [...followed.lines.map(textOf), summaryOf(followed)]
  return { exit: Exit.ok, value: { request, ...followed }, lines }
}

function summaryOf({ places, anchored }: Followed): string {
  if (places.length === 0) return '– no batch holds an event of it'
  const where = places.map(({ log, height, firstLeaf, count }) => {
    const leaves =
      count === 1 ? `leaf ${firstLeaf}` : `leaves ${firstLeaf} to ${firstLeaf + count - 1}`
    return `batch ${height}, ${leaves}${log === 1 ? '' : ` of log ${log}`}`
  })
  const by = anchored.map(({ chain, job }) => `${chain} (job ${job})`).join(', ')
  return `${where.join('; ')}; anchored: ${by === '' ? 'not yet' : by}`
}

async function* readable(folder: string): AsyncGenerator<AuditLine> {
  for (const name of auditFiles(folder)) {
    for await (const bytes of linesOf(join(folder, name))) {
      try {
        yield readAuditLine(bytes)
      } catch {
        // verify names it.
      }
    }
  }
}

const SHOWN_FIRST = new Set(['at', 'seq', 'prev', 'kind'])

function textOf(line: AuditLine): string {
  const { at, seq, kind } = line
  const fields = Object.entries(line).flatMap(([key, value]) =>
    SHOWN_FIRST.has(key)
      ? []
      : [`${key}=${typeof value === 'string' ? value : JSON.stringify(value)}`],
  )
  // What a client or a provider chose must not move a terminal's cursor.
  return `${at} #${seq} ${kind} ${fields.join(' ')}`.replaceAll(/\p{Cc}/gu, '\u{fffd}')
}
