/**
 * The audit trail of a self-hosted node as files (core/audit-line.ts has the lines, docs/audit.md says it all):
 *
 *   <home>/audit/audit-2026-W48.jsonl            one an ISO week (UTC), mode 0600; closed: 0400
 *   <home>/audit/audit-2026-W48.jsonl.event      what sealed it into the ledger (audit-ledger.ts)
 *   <home>/audit/audit-2026-W48.jsonl.receipt    the receipt of that
 *   <home>/audit/rows.json                       how far the rows of D1 were taken over
 *
 * One process writes (whoever has the home's lock), only at the end of the newest file, whole lines in one write each
 * time. Lines of the Worker gather for FLUSH_MS and are on disk a second later; what an operator does is on disk
 * before it is done. A crash leaves at most a piece of a line, which the next start lets stand and names. The end of a
 * file is its line `close`; whoever finds one goes on in a new file, so a crash in between loses nothing.
 */

import {
  chmodSync,
  closeSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  readSync,
  statSync,
  writeSync,
} from 'node:fs'
import { createHash } from 'node:crypto'
import { join } from 'node:path'
import {
  auditFileName,
  compareAuditFiles,
  parseAuditFileName,
  weekOf,
  type AuditFileName,
} from '#core/audit-file.ts'
import {
  auditLine,
  FIRST_PREV,
  readAuditLine,
  readAuditMessage,
  type AuditEntry,
  type AuditLine,
} from '#core/audit-line.ts'
import { VaultMeshError } from '#core/errors.ts'
import { isoTime } from '#core/time.ts'

/** How long a line of the Worker waits for others. */
const FLUSH_MS = 100
/** Lines are on disk after this time at the latest. */
const SYNC_MS = 1000
/** The week is looked at so often. */
const WEEK_MS = 5000
/** Lines that wait while the disk takes none: 30 s of the fastest intake (140 lines a second). */
const MAX_PENDING = 5000
/** What is read of a file's end to go on from there; a line is 131,072 bytes at most. */
const TAIL_BYTES = 1_048_576

/** What a keeper needs besides its folder. */
export interface AuditOptions {
  readonly version: string
  /** Epoch ms. */
  readonly now?: () => number
  /** What the operator must know, in one sentence. */
  readonly warn?: (text: string) => void
}

/** Where the trail has got to. */
export interface AuditHead {
  readonly file: string
  readonly seq: number
  readonly sha256: string
  /** Of the open file. */
  readonly bytes: number
}

type Entry = AuditEntry extends infer T ? (T extends unknown ? Omit<T, 'at'> : never) : never

/** The keeper of the files of a folder. */
export class AuditFiles {
  readonly folder: string
  /** Lines at the end of what a process before this one wrote, oldest first. */
  readonly before: readonly AuditLine[]
  readonly #now: () => number
  readonly #warn: (text: string) => void
  #name: AuditFileName
  #fd: number
  #inode = 0
  #bytes = 0
  #seq: number
  #prev: string
  #pending: AuditEntry[] = []
  #lost = 0
  #isDirty = false
  #isBroken = false
  #stopped = false
  readonly #timers: readonly NodeJS.Timeout[]

  /** Opens the folder for writing: lets stand what is there, closes files of weeks that are over, says `boot`. */
  constructor(folder: string, { version, now = Date.now, warn = say }: AuditOptions) {
    this.folder = folder
    this.#now = now
    this.#warn = warn
    mkdirSync(folder, { recursive: true, mode: 0o700 })
    const names = auditFiles(folder)
    const newest = names.at(-1)
    const found = newest === undefined ? null : endOf(folder, names)
    this.before = found?.lines ?? []
    const last = this.before.at(-1)
    this.#seq = last?.seq ?? 0
    this.#prev = found?.hash ?? FIRST_PREV
    const name = newest === undefined ? null : parseAuditFileName(newest)!
    const isOver = last?.kind === 'close' && found?.file === newest
    this.#name = name === null ? this.#thisWeek(null) : isOver ? this.#thisWeek(name) : name
    this.#fd = this.#open()
    const torn = isOver ? undefined : found?.torn
    if (torn !== undefined) this.#append(Buffer.from('\n'))
    const clean = last === undefined || last.kind === 'stop' || last.kind === 'close'
    this.write([{ kind: 'boot', version, clean, ...(torn === undefined ? {} : { torn }) }])
    this.#turn()
    this.#timers = [
      setInterval(() => this.flush(), FLUSH_MS),
      setInterval(() => this.#sync(), SYNC_MS),
      setInterval(() => this.#turn(), WEEK_MS),
    ]
    for (const timer of this.#timers) timer.unref()
  }

  /** Takes a console line of the Worker; it is written within FLUSH_MS. */
  take(message: string): void {
    try {
      this.#gather(readAuditMessage(message))
    } catch (error) {
      this.#warn(`a line for the audit cannot be read: ${String(error)}`)
    }
  }

  #gather(entry: AuditEntry): void {
    if (this.#pending.length < MAX_PENDING) this.#pending.push(entry)
    else this.#lost++
  }

  /**
   * Writes entries after all that came before, on disk when this returns. Throws the system's error if it is not; then
   * nothing of them is written. An entry may bring its own moment.
   */
  write(entries: readonly (Entry & { readonly at?: string })[]): void {
    this.#put()
    const at = isoTime(this.#now())
    this.#lines(entries.map((entry) => ({ at, ...entry }) as AuditEntry))
    this.#sync(true)
  }

  /** Writes what gathered. What the disk does not take is kept, up to a limit. */
  flush(): void {
    try {
      this.#put()
      this.#isBroken = false
    } catch (error) {
      if (!this.#isBroken) this.#warn(`the audit cannot be written: ${String(error)}`)
      this.#isBroken = true
    }
  }

  #put(): void {
    if (this.#stopped) return
    if (this.#lost > 0) {
      const lost: AuditEntry = { kind: 'lost', at: isoTime(this.#now()), lines: this.#lost }
      this.#lines([...this.#pending, lost])
      this.#lost = 0
    } else if (this.#pending.length > 0) this.#lines(this.#pending)
    this.#pending = []
  }

  /** One write for all; number and hash move on only if it took them whole. */
  #lines(entries: readonly AuditEntry[]): void {
    this.#look()
    let seq = this.#seq
    let prev = this.#prev
    const lines: string[] = []
    for (const entry of entries) {
      const line = auditLine(entry, ++seq, prev)
      prev = sha256Of(line)
      lines.push(line)
    }
    this.#append(Buffer.from(lines.map((line) => `${line}\n`).join('')))
    this.#seq = seq
    this.#prev = prev
  }

  #append(data: Buffer): void {
    let done = 0
    try {
      while (done < data.length) done += writeSync(this.#fd, data, done)
    } catch (error) {
      // A full disk took a part of it: lines are there whole or not at all.
      if (done > 0) ftruncateSync(this.#fd, this.#bytes)
      throw error
    }
    this.#bytes += data.length
    this.#isDirty = true
  }

  /** Whether the file is still the one that was written. Nobody else writes: what differs, somebody changed. */
  #look(): void {
    let detail = 'it is not there'
    try {
      const { ino, size } = statSync(this.#path())
      if (ino === this.#inode && size === this.#bytes) return
      detail =
        ino === this.#inode
          ? `it has ${size} bytes, not ${this.#bytes}`
          : 'another file has its name'
    } catch {
      // Nothing has its name.
    }
    const file = auditFileName(this.#name)
    this.#warn(`somebody changed the audit file ${file}: ${detail}`)
    // It stays as it is, and what is written from now on is found in a file of its own.
    this.#goOnIn(this.#thisWeek(this.#name))
    const entry: AuditEntry = { kind: 'tampered', at: isoTime(this.#now()), file, detail }
    const line = auditLine(entry, this.#seq + 1, this.#prev)
    this.#append(Buffer.from(`${line}\n`))
    this.#seq++
    this.#prev = sha256Of(line)
  }

  #sync(isNeeded = false): void {
    if (!this.#isDirty || this.#stopped) return
    try {
      fsyncSync(this.#fd)
      this.#isDirty = false
    } catch (error) {
      if (isNeeded) throw error
      this.#warn(`the audit is not on disk: ${String(error)}`)
    }
  }

  /** Closes the file of a week that is over. A clock that went back closes nothing. */
  #turn(): void {
    if (this.#stopped) return
    const week = { ...weekOf(this.#now()), part: this.#name.part }
    if (compareAuditFiles(week, this.#name) <= 0) return
    try {
      this.rotate('week')
    } catch (error) {
      this.#warn(`the audit file cannot be closed: ${String(error)}`)
    }
  }

  /** Closes the open file and begins the next one; returns the name of the closed one. */
  rotate(reason: 'week' | 'asked'): string {
    this.write([{ kind: 'close', reason }])
    const closed = auditFileName(this.#name)
    this.#goOnIn(this.#thisWeek(this.#name))
    chmodSync(join(this.folder, closed), 0o400)
    return closed
  }

  /** Where the next file cannot be opened this one stays open: a descriptor that is let go of may be anybody's next. */
  #goOnIn(name: AuditFileName): void {
    const before = { name: this.#name, fd: this.#fd }
    this.#name = name
    try {
      this.#fd = this.#open()
    } catch (error) {
      this.#name = before.name
      throw error
    }
    closeSync(before.fd)
  }

  /** Names of the files that are closed, oldest first. */
  closed(): readonly string[] {
    const open = auditFileName(this.#name)
    return auditFiles(this.folder).filter((name) => name !== open)
  }

  /** Where the trail is; everything that gathered is written first. */
  head(): AuditHead {
    this.flush()
    const file = auditFileName(this.#name)
    return { file, seq: this.#seq, sha256: this.#prev, bytes: this.#bytes }
  }

  /** Writes what is left, says `stop` and lets go of the file. */
  stop(): void {
    if (this.#stopped) return
    for (const timer of this.#timers) clearInterval(timer)
    try {
      this.write([{ kind: 'stop' }])
    } catch (error) {
      this.#warn(`the end of the audit cannot be written: ${String(error)}`)
    }
    this.#stopped = true
    closeSync(this.#fd)
  }

  /** The file after `before`: of this week, or one more of a week that has one already. */
  #thisWeek(before: AuditFileName | null): AuditFileName {
    const first = { ...weekOf(this.#now()), part: 1 }
    if (before === null || compareAuditFiles(first, { ...before, part: 1 }) > 0) return first
    return { ...before, part: before.part + 1 }
  }

  #path(): string {
    return join(this.folder, auditFileName(this.#name))
  }

  #open(): number {
    const fd = openSync(this.#path(), 'a', 0o600)
    try {
      const { ino, size } = fstatSync(fd)
      const folder = openSync(this.folder, 'r')
      try {
        fsyncSync(folder)
      } finally {
        closeSync(folder)
      }
      this.#inode = ino
      this.#bytes = size
      return fd
    } catch (error) {
      closeSync(fd)
      throw error
    }
  }
}

/** Opens the audit of a home for writing; throws `bad-config` where that cannot be. */
export function openAudit(folder: string, options: AuditOptions): AuditFiles {
  try {
    return new AuditFiles(folder, options)
  } catch (cause) {
    const why = cause instanceof Error ? cause.message : String(cause)
    const detail = `The audit in ${folder} cannot be written: ${why}. Nothing starts without it.`
    throw new VaultMeshError('bad-config', detail, { cause })
  }
}

/** Names of the audit files of a folder, oldest first; none if there is no folder. */
export function auditFiles(folder: string): readonly string[] {
  let names: readonly string[]
  try {
    names = readdirSync(folder)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return []
    throw error
  }
  return names
    .flatMap((name) => {
      const parsed = parseAuditFileName(name)
      return parsed === null ? [] : [{ name, parsed }]
    })
    .toSorted((a, b) => compareAuditFiles(a.parsed, b.parsed))
    .map(({ name }) => name)
}

/** Where a trail ends on the disk. */
interface End {
  /** The last lines of the newest file that has any, and the hash of the last one. */
  readonly lines: readonly AuditLine[]
  readonly hash: string
  readonly file: string
  /** A piece of a line at the end of the newest file: what a crash leaves has no newline. */
  readonly torn?: { readonly bytes: number; readonly sha256: string }
}

function endOf(folder: string, names: readonly string[]): End | null {
  let piece: Pick<End, 'torn'> = {}
  for (const file of names.toReversed()) {
    const path = join(folder, file)
    const { size } = statSync(path)
    for (const data of [tail(path, size, TAIL_BYTES), null]) {
      const isWhole = data === null || size <= TAIL_BYTES
      const { lines, hash, torn } = endIn(data ?? readFileSync(path), isWhole)
      if (file === names.at(-1) && torn !== undefined) piece = { torn }
      if (lines.length > 0) return { lines, hash, file, ...piece }
    }
  }
  return 'torn' in piece ? { lines: [], hash: FIRST_PREV, file: '', ...piece } : null
}

function tail(path: string, size: number, most: number): Buffer {
  const data = Buffer.alloc(Math.min(size, most))
  const fd = openSync(path, 'r')
  try {
    readSync(fd, data, 0, data.length, size - data.length)
  } finally {
    closeSync(fd)
  }
  return data
}

/** Lines of a file's end, and what has no newline. `isWhole` if its first byte begins a line. */
function endIn(data: Buffer, isWhole: boolean): Omit<End, 'file'> {
  const lines: AuditLine[] = []
  let hash = FIRST_PREV
  let start = isWhole ? 0 : data.indexOf(0x0a) + 1
  for (let end = data.indexOf(0x0a, start); end >= 0; end = data.indexOf(0x0a, start)) {
    const bytes = data.subarray(start, end)
    try {
      lines.push(readAuditLine(bytes))
      hash = sha256Of(bytes)
    } catch {
      // Not ours: it stays, and whoever checks the file finds it.
    }
    start = end + 1
  }
  if (start >= data.length) return { lines, hash }
  const piece = data.subarray(start)
  return { lines, hash, torn: { bytes: piece.length, sha256: sha256Of(piece) } }
}

function sha256Of(data: string | Uint8Array): string {
  return createHash('sha256').update(data).digest('hex')
}

function say(text: string): void {
  console.error(`vaultmesh: ${text}`)
}
