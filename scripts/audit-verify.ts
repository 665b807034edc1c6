/**
 * Verifies a folder of audit files (docs/audit.md) with nothing but a trust file: the chain through all lines, each
 * closed file against the event that sealed it, that event's signature, and its receipt.
 *
 * The open file nobody has sealed yet: who can write it could write its end anew. A running node knows where it is, and
 * is asked where it can be.
 */

import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import {
  Continuity,
  LineChecker,
  type ChainHead,
  type FileCheck,
  type Tampering,
} from '#core/audit-check.ts'
import { compareAuditFiles, parseAuditFileName, type ClosedFile } from '#core/audit-file.ts'
import { FIRST_PREV } from '#core/audit-line.ts'
import { toHex } from '#core/bytes.ts'
import { EVENT_TYP, openEnvelope, verifyEnvelope } from '#core/envelope.ts'
import { parseReceipt, verifyReceipt, type ReceiptTrust, type Report } from '#core/receipt.ts'
import { sha256 } from '#core/sha256.ts'
import { Signers } from '#core/signer.ts'
import { auditFiles, type AuditHead } from './audit-files.ts'
import { eventFile, linesOf, receiptFile, sealedAs } from './audit-ledger.ts'

/** What is wrong with a file, and where. */
export interface AuditFinding {
  readonly file: string
  readonly what: Tampering | 'rewritten' | 'missing' | 'unsealed' | 'untrusted'
  /** Line of the file, from 1; null for the file as a whole. */
  readonly line: number | null
  readonly detail: string
}

/** A file as it was found. */
export interface VerifiedFile {
  readonly file: string
  readonly lines: number
  readonly firstSeq: number
  readonly lastSeq: number
  readonly isClosed: boolean
  readonly eventHash: string | null
  /** What its receipt proves; null if there is none to ask for. */
  readonly proven: string | null
}

/** What was found of a folder. */
export interface AuditReport {
  readonly files: readonly VerifiedFile[]
  readonly findings: readonly AuditFinding[]
  /** What a crash explains. */
  readonly notes: readonly string[]
  /** What is not there yet: the event of a file, or its receipt. */
  readonly pending: readonly string[]
}

/** How to verify. */
export interface VerifyAudit {
  readonly folder: string
  readonly trust: ReceiptTrust & { readonly nodeDids?: readonly string[] }
  /** The first file to look at; those before it may be elsewhere. */
  readonly from?: string | undefined
  /** Where the running node is, asked before the files are read. */
  readonly head?: AuditHead | undefined
  readonly onProgress?: (file: string, line: number) => void
}

/** Verifies the files of a folder. */
export async function verifyAudit(options: VerifyAudit): Promise<AuditReport> {
  const audit = new Audit(options)
  const { folder, from } = options
  const first = from === undefined ? null : parseAuditFileName(from)
  const names = auditFiles(folder).filter(
    (name) => first === null || compareAuditFiles(parseAuditFileName(name)!, first) >= 0,
  )
  audit.missing(names, first === null ? '' : from!)
  for (const [i, name] of names.entries()) {
    await audit.file(name, { isFirst: i === 0, isNewest: i === names.length - 1 })
  }
  return audit.end()
}

class Audit {
  readonly #options: VerifyAudit
  readonly #continuity = new Continuity()
  readonly #files: VerifiedFile[] = []
  readonly #findings: AuditFinding[] = []
  readonly #notes: string[] = []
  readonly #pending: string[] = []
  #before: ChainHead | null
  /** What was sealed of the file before. */
  #previous: string | null | undefined
  #isHeadFound = false

  constructor(options: VerifyAudit) {
    this.#options = options
    this.#before = options.from === undefined ? { seq: 0, hash: FIRST_PREV } : null
    this.#previous = options.from === undefined ? null : undefined
  }

  /** Files whose event is there and that are not. */
  missing(names: readonly string[], from: string): void {
    const sealed = readdirSync(this.#options.folder)
      .filter((name) => name.endsWith('.event'))
      .map((name) => name.slice(0, -'.event'.length))
    for (const name of sealed) {
      const parsed = parseAuditFileName(name)
      if (parsed === null || names.includes(name)) continue
      const isBefore = from !== '' && compareAuditFiles(parsed, parseAuditFileName(from)!) < 0
      if (!isBefore) this.#find(name, 'missing', null, 'the file is gone; its event is here')
    }
  }

  async file(
    name: string,
    { isFirst, isNewest }: { readonly isFirst: boolean; readonly isNewest: boolean },
  ): Promise<void> {
    const { folder, head, onProgress } = this.#options
    const hash = createHash('sha256')
    const checker = new LineChecker(this.#before, (line, { number, hash: lineHash }) => {
      const gaps = this.#continuity.gaps.length
      this.#continuity.push(line)
      for (const gap of this.#continuity.gaps.slice(gaps)) {
        if (gap.isCrash) this.#notes.push(`${name}:${number} after a stop, ${gap.detail}`)
        else this.#find(name, 'deleted', number, `before it, ${gap.detail}`)
      }
      if (line.kind === 'boot' && !line.clean)
        this.#notes.push(`${name}:${number} the process before this line was ended by force`)
      if (line.kind === 'lost')
        this.#notes.push(`${name}:${number} ${line.lines} lines could not be written`)
      if (line.kind === 'tampered')
        this.#find(line.file, 'changed', null, `seen by the running node: ${line.detail}`)
      if (head !== undefined && line.seq === head.seq) this.#isHeadFound = lineHash === head.sha256
      if (number % 10_000 === 0) onProgress?.(name, number)
    })
    for await (const line of linesOf(join(folder, name), (chunk) => hash.update(chunk))) {
      checker.push(line)
    }
    const check = checker.end(isNewest)
    for (const { line, what, detail } of check.breaks) this.#find(name, what, line, detail)
    if (isFirst && check.head === null) this.#find(name, 'changed', null, 'it holds no line')
    this.#before = check.head ?? this.#before
    const isClosed = check.isClosed || !isNewest
    const seal = isClosed ? await this.#seal(name, check, hash.digest('hex')) : null
    this.#files.push({
      file: name,
      lines: check.lines,
      firstSeq: check.firstSeq,
      lastSeq: check.head?.seq ?? 0,
      isClosed,
      eventHash: seal?.eventHash ?? null,
      proven: seal?.proven ?? null,
    })
  }

  /** A closed file against its event, and that against its receipt. */
  async #seal(
    name: string,
    check: FileCheck,
    digest: string,
  ): Promise<{ readonly eventHash: string; readonly proven: string | null } | null> {
    const { folder } = this.#options
    const before = this.#previous
    this.#previous = undefined
    if (!existsSync(eventFile(folder, name))) {
      this.#pending.push(`${name} is not sealed into the ledger yet`)
      return null
    }
    let closed: ClosedFile & { readonly source: string }
    try {
      closed = sealedAs(folder, name)
    } catch (error) {
      this.#find(name, 'unsealed', null, `its event cannot be read: ${messageOf(error)}`)
      return null
    }
    this.#previous = closed.sha256
    if (closed.file !== name)
      this.#find(name, 'unsealed', null, `its event is that of ${closed.file}`)
    if (before !== undefined && closed.previous !== before) {
      const of = closed.previous === null ? 'no file' : `the file ${closed.previous.slice(0, 16)}…`
      this.#find(name, 'missing', null, `its event names ${of} before it, which is not here`)
    }
    if (closed.sha256 !== digest) this.#differs(name, closed, check)
    const event = readFileSync(eventFile(folder, name))
    const eventHash = toHex(sha256(event))
    const isOurs = await this.#isOfNode(name, event, closed.source)
    const proven = isOurs ? await this.#receipt(name, event) : null
    return { eventHash, proven }
  }

  /** Whether the node signed it: also of an event without a receipt, or whoever wrote the file again made this one, too. */
  async #isOfNode(name: string, event: Uint8Array, source: string): Promise<boolean> {
    try {
      await verifyEnvelope(await openEnvelope(event, new Signers(EVENT_TYP)))
    } catch (error) {
      this.#find(name, 'unsealed', null, `its event is not signed: ${messageOf(error)}`)
      return false
    }
    // Anybody can post such an event; only the node's own word counts.
    if (this.#options.trust.nodeDids?.includes(source) === true) return true
    this.#find(name, 'untrusted', null, `its event is signed by ${source}, who is not this node`)
    return false
  }

  /** A file that is not what was sealed; if its lines hold together they were all written again. */
  #differs(name: string, closed: ClosedFile, check: FileCheck): void {
    const gone = closed.lastSeq - (check.head?.seq ?? 0)
    if (gone > 0) {
      const detail = `it ends at number ${check.head?.seq ?? 0}, and was sealed up to ${closed.lastSeq}`
      this.#find(name, 'truncated', check.lines, detail)
    }
    const isNamed = this.#findings.some(({ file, line }) => file === name && line !== null)
    const detail = 'it is not the file that was sealed'
    this.#find(
      name,
      'rewritten',
      null,
      isNamed ? detail : `${detail}, though its lines fit together`,
    )
  }

  async #receipt(name: string, event: Uint8Array): Promise<string | null> {
    const { folder, trust } = this.#options
    const path = receiptFile(folder, name)
    if (!existsSync(path)) {
      this.#pending.push(`${name} has no receipt yet`)
      return null
    }
    let report: Report
    try {
      report = await verifyReceipt(parseReceipt(readFileSync(path, 'utf8')), trust, event)
    } catch (error) {
      this.#find(name, 'unsealed', null, `its receipt cannot be read: ${messageOf(error)}`)
      return null
    }
    if (report.verdict !== 'verified') {
      const what = report.verdict === 'untrusted' ? 'untrusted' : 'unsealed'
      this.#find(name, what, null, report.sentence)
      return null
    }
    return report.sentence
  }

  #find(file: string, what: AuditFinding['what'], line: number | null, detail: string): void {
    this.#findings.push({ file, what, line, detail })
  }

  end(): AuditReport {
    const { head } = this.#options
    if (head !== undefined && !this.#isHeadFound) {
      const detail = `the running node has written number ${head.seq} with the hash ${head.sha256.slice(0, 16)}…, which is not there`
      this.#find(head.file, 'truncated', null, detail)
    }
    return {
      files: this.#files,
      findings: this.#findings,
      notes: this.#notes,
      pending: this.#pending,
    }
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
