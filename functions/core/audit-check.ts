/**
 * Checks the chain of an audit trail and says of each break what was done to which line.
 *
 * Each line has the next number and names the hash of the one before it, over all files. One line out of place is told
 * apart by the two that follow it:
 *
 *   changed     its place is right, and its successor names another hash than it has
 *   inserted    its place is taken by a line that its successor names
 *   reordered   it comes after lines that follow it
 *   deleted     numbers are missing, and no later line has them
 *   truncated   a closed file ends without the line that closes it
 *
 * Who can write the open file can write all of its last lines again, hashes included: only the event that seals a file
 * is beyond him, and what a running node remembers. What a crash left (half a line, named by the `boot` line that
 * follows it; commits without a line) is noted and no fault.
 */

import { lineHash, readAuditLine, type AuditLine } from '#core/audit-line.ts'

/** What was done to a line. */
export type Tampering = 'changed' | 'inserted' | 'deleted' | 'reordered' | 'truncated'

/** A break in a file. */
export interface AuditBreak {
  readonly what: Tampering
  /** Line of the file, from 1; of deleted lines the one before them, 0 for none. */
  readonly line: number
  readonly detail: string
}

/** Where a chain has got to. */
export interface ChainHead {
  /** Of the last line. */
  readonly seq: number
  readonly hash: string
}

/** What a file's lines are. */
export interface FileCheck {
  readonly breaks: readonly AuditBreak[]
  /** Lines with pieces that a crash left. */
  readonly lines: number
  readonly firstSeq: number
  readonly firstAt: string
  readonly lastAt: string
  /** Whether its last line closes it. */
  readonly isClosed: boolean
  /** Null if it holds no line. */
  readonly head: ChainHead | null
}

interface Item {
  readonly number: number
  readonly length: number
  readonly hash: string
  readonly line: AuditLine | null
  readonly error: string
}

/** Takes each line that is in its place. */
export type OnLine = (
  line: AuditLine,
  where: { readonly number: number; readonly hash: string },
) => void

/** Checks the lines of one file as they come. */
export class LineChecker {
  /** The number and hash that the next line is to carry; null where that is not known. */
  #seq: number | null
  #prev: string | null
  /** Lines that are read and not judged: the judgement of one needs the two after it. */
  readonly #ahead: Item[] = []
  readonly #breaks: AuditBreak[] = []
  /** Runs of numbers that were passed over, and after which line. */
  #missing: { from: number; to: number; readonly after: number }[] = []
  #count = 0
  #first: AuditLine | null = null
  #last: AuditLine | null = null
  #lastNumber = 0
  #head: ChainHead | null
  readonly #onLine: OnLine

  /** `before` is the head of the file before this one; null to take the first line as it is. */
  constructor(before: ChainHead | null, onLine: OnLine = () => undefined) {
    this.#seq = before === null ? null : before.seq + 1
    this.#prev = before === null ? null : before.hash
    this.#head = before
    this.#onLine = onLine
  }

  /** Takes the next line, without its newline. */
  push(bytes: Uint8Array): void {
    let line: AuditLine | null = null
    let error = ''
    try {
      line = readAuditLine(bytes)
    } catch (cause) {
      error = cause instanceof Error ? cause.message : String(cause)
    }
    const item = { number: ++this.#count, length: bytes.length, hash: lineHash(bytes) }
    this.#ahead.push({ ...item, line, error })
    if (this.#ahead.length === 3) this.#judge(this.#ahead.shift()!, this.#ahead)
  }

  /** Judges what is left. `mayBeOpen` for the newest file, whose end nobody sealed. */
  end(mayBeOpen: boolean): FileCheck {
    while (this.#ahead.length > 0) this.#judge(this.#ahead.shift()!, this.#ahead)
    for (const { from, to, after } of this.#missing) {
      this.#break('deleted', after, `${numbers(from, to)} ${from === to ? 'is' : 'are'} gone`)
    }
    const isClosed = this.#last?.kind === 'close'
    if (!isClosed && !mayBeOpen) {
      this.#break('truncated', this.#lastNumber, 'the end of the file, which closed it, is gone')
    }
    return {
      breaks: this.#breaks,
      lines: this.#count,
      firstSeq: this.#first?.seq ?? 0,
      firstAt: this.#first?.at ?? '',
      lastAt: this.#last?.at ?? '',
      isClosed,
      head: this.#head,
    }
  }

  #judge(item: Item, ahead: readonly Item[]): void {
    const { line, hash, number } = item
    const [next, after] = ahead
    if (line === null) return this.#unreadable(item, ahead)
    this.#seq ??= line.seq
    this.#prev ??= line.prev
    if (line.seq < this.#seq) return this.#late(item, line)
    if (line.seq > this.#seq) {
      const isNextInPlace = next?.line?.seq === this.#seq + 1
      if (isNextInPlace) {
        this.#break('changed', number, `its number is ${line.seq}, not ${this.#seq}`)
        this.#seq++
        this.#prev = null
        return
      }
      // The place is taken by the next one, and the one after that does not follow this: it is a stranger.
      if (next?.line?.seq === this.#seq && after?.line?.seq === this.#seq + 1) {
        this.#break('inserted', number, `its number is ${line.seq}, not ${this.#seq}`)
        return
      }
      this.#missing.push({ from: this.#seq, to: line.seq - 1, after: this.#lastNumber })
      return this.#accept(item, line)
    }
    // Two for one place: the one that is named by what follows them is ours.
    if (next?.line?.seq === line.seq && next.line.prev === this.#prev && after !== undefined) {
      if (after.line?.prev !== hash) {
        this.#break('inserted', number, `it takes the place of line ${number + 1}`)
        return
      }
    }
    if (line.prev !== this.#prev && next?.line?.seq === line.seq && next.line.prev === this.#prev) {
      this.#break('inserted', number, `it takes the place of line ${number + 1}`)
      return
    }
    if (line.prev !== this.#prev) {
      const isNamed =
        next?.line?.seq === line.seq + 1 ? next.line.prev === hash : next === undefined
      // What the line before it was cannot be told where a gap is in between: it is named there.
      if (isNamed && this.#lastNumber === number - 1 && number > 1) {
        this.#break('changed', number - 1, `line ${number} names another hash than it has`)
      } else if (isNamed && number === 1) {
        this.#break('changed', 0, 'its first line names another hash than the line before it has')
      } else this.#break('changed', number, 'it does not name the hash of the line before it')
    }
    this.#accept(item, line)
  }

  /** A line that cannot be read: a piece that a crash left if the next one says so, else it was changed or put in. */
  #unreadable({ number, length, hash, error }: Item, [next, after]: readonly Item[]): void {
    const boot = next?.line
    if (boot?.kind === 'boot' && boot.torn?.bytes === length && boot.torn.sha256 === hash) return
    const following = next?.line ?? after?.line
    const hadPlace = this.#seq === null || following?.seq !== this.#seq
    this.#break(hadPlace ? 'changed' : 'inserted', number, error)
    if (this.#seq === null || !hadPlace) return
    this.#seq++
    this.#prev = null
  }

  /** A number that has passed: moved if it was missed, else put in. */
  #late({ number, hash }: Item, line: AuditLine): void {
    const run = this.#missing.find(({ from, to }) => from <= line.seq && line.seq <= to)
    if (run === undefined) {
      this.#break('inserted', number, `the number ${line.seq} was there before`)
      return
    }
    this.#break('reordered', number, `the number ${line.seq} belongs after line ${run.after}`)
    const { from, to, after } = run
    this.#missing = this.#missing.filter((m) => m !== run)
    if (from < line.seq) this.#missing.push({ from, to: line.seq - 1, after })
    if (line.seq < to) this.#missing.push({ from: line.seq + 1, to, after })
    this.#onLine(line, { number, hash })
  }

  #accept({ number, hash }: Item, line: AuditLine): void {
    this.#first ??= line
    this.#last = line
    this.#lastNumber = number
    this.#seq = line.seq + 1
    this.#prev = hash
    this.#head = { seq: line.seq, hash }
    this.#onLine(line, { number, hash })
  }

  #break(what: Tampering, line: number, detail: string): void {
    // A line that names neither neighbour is one change.
    if (this.#breaks.some((found) => found.what === what && found.line === line)) return
    this.#breaks.push({ what, line, detail })
  }
}

/** A gap in what the lines tell, though no line is missing among them. */
export interface AuditGap {
  /** True where a stop of the process lies in between: a crash takes lines with it. */
  readonly isCrash: boolean
  readonly seq: number
  readonly detail: string
}

/** Follows commits by shard and seals by height: whoever leaves a line out and chains the rest again leaves a gap. */
export class Continuity {
  readonly gaps: AuditGap[] = []
  /** Next number by shard, and next height, of each log; and how many stops there had been then. */
  readonly #next = new Map<string, { value: number; stops: number }>()
  #stops = 0

  /** Takes the next line that is in its place. */
  push(line: AuditLine): void {
    if (line.kind === 'boot' || line.kind === 'lost' || line.kind === 'tampered') this.#stops++
    if (line.kind === 'commit' && line.to > line.from) {
      const what = `of shard ${line.shard}${ofLog(line.log)}`
      this.#follow(`commit/${line.log}/${line.shard}`, line, [line.from, line.to, what])
    }
    if (line.kind === 'seal') {
      this.#follow(`seal/${line.log}`, line, [
        line.height,
        line.height + 1,
        `(batches)${ofLog(line.log)}`,
      ])
    }
  }

  #follow(key: string, { seq }: AuditLine, [from, to, what]: [number, number, string]): void {
    const known = this.#next.get(key)
    if (known !== undefined && known.value !== from) {
      const isCrash = known.stops !== this.#stops
      const detail =
        from > known.value
          ? `no line tells of ${numbers(known.value, from - 1)} ${what}`
          : `${numbers(from, Math.min(to, known.value) - 1)} ${what} ${isCrash ? 'came again' : 'came twice'}`
      this.gaps.push({ isCrash, seq, detail })
    }
    this.#next.set(key, { value: to, stops: this.#stops })
  }
}

function ofLog(log: number): string {
  return log === 1 ? '' : ` of log ${log}`
}

function numbers(from: number, to: number): string {
  return from === to ? `number ${from}` : `numbers ${from} to ${to}`
}
