/**
 * What goes on beside the writing of the audit files (audit-files.ts), again and again while a node runs:
 *
 *   rows      what the dashboard wrote into its audit in D1 becomes lines; `rows.json` says how far, with the hash of the
 *             last row, so that a database put back from a backup is noticed and nothing of it is passed over
 *   closed    each closed file, the oldest first, is sealed into the ledger by an event that the node signs:
 *             `<file>.event`. Its id and bytes come from the file alone, so after a crash or a lost reply the same
 *             request gets the same answer
 *   receipts  the proof that the event is in the log: `<file>.receipt`, again until its anchors are final
 *
 * Whatever fails is tried again; each step looks on the disk for what the one before left.
 */

import { createHash } from 'node:crypto'
import { createReadStream, existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import * as z from 'zod'
import { closedFileSchema, readClosedFile, type ClosedFile } from '#core/audit-file.ts'
import { readAuditLine, type AuditEntry, type AuditLine } from '#core/audit-line.ts'
import { toHex, utf8 } from '#core/bytes.ts'
import { canonicalJson } from '#core/canonical-json.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'
import { isoTime } from '#core/time.ts'
import type { Local } from './admin-socket.ts'
import type { AuditFiles } from './audit-files.ts'
import { replaceFile } from './replace-file.ts'
import type { Operated } from './succession.ts'

/** How often it is looked for work. */
const LOOK_MS = 2000
/** A receipt whose anchors are not final is asked for again so often, and of so many files. */
const RECEIPT_AGAIN_MS = 3_600_000
const RECEIPTS_OPEN = 8

/** The event that sealed a file, and its receipt. */
export function eventFile(folder: string, name: string): string {
  return join(folder, `${name}.event`)
}
export function receiptFile(folder: string, name: string): string {
  return join(folder, `${name}.receipt`)
}

/** A node whose audit is kept. */
export interface AuditedNode extends Operated {
  /** How many logs it has: more than one after a fork. */
  logs(): number
}

/** Keeps an audit current until it is stopped; `look` does what there is to do now. */
export function keepAudit(
  files: AuditFiles,
  node: AuditedNode,
  warn: (text: string) => void = (text) => console.error(`vaultmesh: ${text}`),
): { look(): Promise<void>; stop(): Promise<void> } {
  let timer: NodeJS.Timeout | undefined
  let isStopped = false
  let told = ''
  const askedAt = new Map<string, number>()
  const rows = new Rows(files, node)
  const look = async (): Promise<void> => {
    await rows.pull()
    let refused = ''
    for (const name of files.closed()) {
      await sealFile(files, node, name).catch((error: unknown) => {
        // The log has another content under this name, for good: the others are sealed all the same.
        if (!(error instanceof VaultMeshError) || error.code !== 'event-id-reused') throw error
        refused = `${name}: ${error.message}`
      })
    }
    for (const name of files.closed().slice(-RECEIPTS_OPEN)) {
      await keepReceipt(files.folder, node.url, { name, askedAt })
    }
    if (refused !== '') throw new VaultMeshError('event-id-reused', refused)
  }
  // One after another, also with a caller's own.
  let work: Promise<void> = Promise.resolve()
  const next = (): Promise<void> => (work = work.catch(() => undefined).then(look))
  const again = (): void => {
    if (isStopped) return
    timer = setTimeout(() => {
      next()
        .then(
          () => (told = ''),
          (error: unknown) => {
            const text = error instanceof Error ? error.message : String(error)
            // What goes on is said once.
            if (text !== told && !isStopped) warn(`the audit waits: ${text}`)
            told = text
          },
        )
        .finally(again)
    }, LOOK_MS)
    timer.unref()
  }
  again()
  return {
    look: next,
    async stop() {
      isStopped = true
      clearTimeout(timer)
      await work.catch(() => undefined)
      // What was done at the dashboard until now; if the runtime is gone already, the next start takes it over.
      await rows.pull().catch(() => undefined)
    },
  }
}

/** What the keeper answers on the admin socket: where the trail is, and to close the open file now. */
export function auditCommands(files: AuditFiles): Local {
  return {
    'GET /admin/audit/head': async () => files.head(),
    'POST /admin/audit/rotate': async () => ({ closed: files.rotate('asked'), ...files.head() }),
  }
}

const rowsSchema = z.object({
  log: z.int().positive(),
  more: z.boolean(),
  rows: z.array(
    z.object({
      id: z.int(),
      at: z.number(),
      requestId: z.string(),
      actor: z.string(),
      name: z.string(),
      role: z.string(),
      action: z.string(),
      target: z.string(),
      outcome: z.enum(['begun', 'done', 'refused', 'failed']),
      detail: z.string(),
      ref: z.int().nullable(),
    }),
  ),
})
type Row = z.infer<typeof rowsSchema>['rows'][number]
const cursorSchema = z.record(z.string(), z.object({ id: z.int(), sha256: z.string() }))
type Cursor = z.infer<typeof cursorSchema>

/** Takes the rows of D1 over. */
class Rows {
  readonly #files: AuditFiles
  readonly #node: AuditedNode
  readonly #path: string
  #cursor: Cursor
  /** Logs before this one were ended and looked at: they get no rows any more. */
  #from = 1

  constructor(files: AuditFiles, node: AuditedNode) {
    this.#files = files
    this.#node = node
    this.#path = join(files.folder, 'rows.json')
    this.#cursor = readCursor(this.#path)
    // A crash may have come between the lines and the cursor: lines are what counts.
    for (const line of files.before) {
      if (line.kind !== 'action' || line.row <= (this.#cursor[line.log]?.id ?? 0)) continue
      this.#cursor[line.log] = { id: line.row, sha256: line.rowSha256 }
    }
  }

  /** Writes what is new. */
  async pull(): Promise<void> {
    const current = this.#node.logs()
    for (; this.#from < current; this.#from++) await this.#pull(this.#from)
    await this.#pull(current)
  }

  async #pull(log: number): Promise<void> {
    for (;;) {
      const { id, sha256: known } = this.#cursor[log] ?? { id: 0, sha256: '' }
      const answer = await ask(this.#node, 'GET', `/admin/audit?from=${id}&log=${log}`)
      const { log: answered, rows, more } = rowsSchema.parse(answer)
      // The next log is being opened.
      if (answered !== log) return
      const first = rows[0]
      if (id > 0 && (first?.id !== id || hashOf(first) !== known)) {
        const detail = `row ${id} is not what it was: rows are taken over from the first`
        this.#files.write([{ kind: 'rows-again', log, detail }])
        this.#cursor = { ...this.#cursor, [log]: { id: 0, sha256: '' } }
        continue
      }
      const fresh = rows.filter((row) => row.id > id)
      const last = fresh.at(-1)
      if (last === undefined) return
      this.#files.write(fresh.map((row) => lineOf(log, row)))
      this.#cursor = { ...this.#cursor, [log]: { id: last.id, sha256: hashOf(last) } }
      await replaceFile(this.#path, 0o600, async () => `${JSON.stringify(this.#cursor)}\n`)
      if (!more) return
    }
  }
}

function readCursor(path: string): Cursor {
  try {
    return cursorSchema.parse(JSON.parse(readFileSync(path, 'utf8')))
  } catch {
    return {} // missing or broken: rows are taken over again rather than passed over
  }
}

function hashOf(row: Row): string {
  return toHex(sha256(utf8(canonicalJson(row))))
}

/** A row as a line: who, what and how it ended; names for people and details stay in D1, the hash speaks for them. */
function lineOf(log: number, row: Row): Extract<AuditEntry, { kind: 'action' }> {
  const { id, at, requestId, actor, role, action, target, outcome, ref, detail } = row
  const code = /^([a-z][a-z0-9-]*): /.exec(detail)?.[1]
  return {
    kind: 'action',
    at: isoTime(at),
    log,
    row: id,
    rowSha256: hashOf(row),
    requestId,
    actor,
    role,
    action,
    target,
    outcome,
    ref,
    ...(code === undefined || outcome === 'done' ? {} : { code }),
  }
}

/** What a closed file is; null for one without a line. */
export async function describeFile(
  folder: string,
  name: string,
  previous: string | null,
): Promise<ClosedFile | null> {
  const hash = createHash('sha256')
  let first: AuditLine | null = null
  let last: AuditLine | null = null
  let lines = 0
  for await (const bytes of linesOf(join(folder, name), (chunk) => hash.update(chunk))) {
    lines++
    try {
      last = readAuditLine(bytes)
      first ??= last
    } catch {
      // Whoever verifies the file finds it.
    }
  }
  if (first === null || last === null) return null
  return {
    file: name,
    sha256: hash.digest('hex'),
    lines,
    firstSeq: first.seq,
    lastSeq: last.seq,
    firstAt: first.at,
    lastAt: last.at,
    previous,
  }
}

/** The lines of a file without their newlines, the last one also if it has none. */
export async function* linesOf(
  path: string,
  onChunk: (chunk: Buffer) => void = () => undefined,
): AsyncGenerator<Uint8Array> {
  let rest: Buffer[] = []
  for await (const data of createReadStream(path, { highWaterMark: 1_048_576 })) {
    const chunk = data as Buffer
    onChunk(chunk)
    let start = 0
    for (let end = chunk.indexOf(0x0a); end >= 0; end = chunk.indexOf(0x0a, start)) {
      rest.push(chunk.subarray(start, end))
      yield Buffer.concat(rest)
      rest = []
      start = end + 1
    }
    rest.push(chunk.subarray(start))
  }
  const last = Buffer.concat(rest)
  if (last.length > 0) yield last
}

const sealedSchema = z.object({
  eventHash: z.string().regex(/^sha256:[0-9a-f]{64}$/),
  event: z.string(),
})

/** Seals a closed file into the ledger, unless it is. Throws what a node that refuses says. */
async function sealFile(files: AuditFiles, node: Operated, name: string): Promise<void> {
  const path = eventFile(files.folder, name)
  if (existsSync(path)) return
  const closedFiles = files.closed()
  const before = closedFiles
    .slice(0, closedFiles.indexOf(name))
    .findLast((other) => existsSync(eventFile(files.folder, other)))
  const previous = before === undefined ? null : sealedAs(files.folder, before).sha256
  const closed = await describeFile(files.folder, name, previous)
  if (closed === null) return
  const body = JSON.stringify(closedFileSchema.parse(closed))
  const { event, eventHash } = sealedSchema.parse(
    await ask(node, 'POST', '/admin/audit/closed', body),
  )
  const said = readClosedFile(utf8(event))
  if (
    canonicalJson(said) !== canonicalJson({ ...closed, source: said.source }) ||
    `sha256:${toHex(sha256(utf8(event)))}` !== eventHash
  ) {
    throw new VaultMeshError('bad-state', `The node sealed another ${name} than this one.`)
  }
  await replaceFile(path, 0o600, async () => event)
  const hash = eventHash.slice(7)
  files.write([{ kind: 'sealed-file', file: name, sha256: closed.sha256, eventHash: hash }])
}

/** What was sealed of a file. */
export function sealedAs(folder: string, name: string): ClosedFile & { readonly source: string } {
  return readClosedFile(readFileSync(eventFile(folder, name)))
}

/** Keeps the receipt of a file's event: once it is sealed, and again until its anchors are final. */
async function keepReceipt(
  folder: string,
  url: string,
  { name, askedAt }: { readonly name: string; readonly askedAt: Map<string, number> },
): Promise<void> {
  if (!existsSync(eventFile(folder, name))) return
  const path = receiptFile(folder, name)
  if (existsSync(path)) {
    if (Date.now() - (askedAt.get(name) ?? 0) < RECEIPT_AGAIN_MS) return
    const { status } = JSON.parse(readFileSync(path, 'utf8')) as { readonly status?: unknown }
    if (status === 'final') return
  }
  const hash = toHex(sha256(readFileSync(eventFile(folder, name))))
  const response = await fetch(`${url}/receipts/sha256:${hash}`, {
    headers: { accept: 'application/json' },
    signal: AbortSignal.timeout(30_000),
  })
  const text = await response.text()
  // Not sealed yet.
  if (!response.ok) return
  askedAt.set(name, Date.now())
  await replaceFile(path, 0o600, async () => `${text.trimEnd()}\n`)
}

async function ask(
  { url, token }: Operated,
  method: 'GET' | 'POST',
  path: string,
  body?: string,
): Promise<unknown> {
  const response = await fetch(`${url}${path}`, {
    method,
    headers: { authorization: `Bearer ${token}` },
    ...(body === undefined ? {} : { body }),
    signal: AbortSignal.timeout(30_000),
  })
  const value: unknown = await response.json().catch(() => null)
  if (response.ok) return value
  const { detail } = (value ?? {}) as { readonly detail?: string }
  throw new VaultMeshError(
    response.status === 409 ? 'event-id-reused' : 'bad-state',
    detail ?? `The node answered ${response.status}.`,
  )
}
