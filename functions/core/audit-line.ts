/**
 * The audit trail, line by line: what is written down, and the one text of it (docs/audit.md).
 *
 * An entry is what happened. The Worker says it as one console line, `{"audit":{…}}`; who keeps files (a self-hosted
 * node) gives it a sequence number and the hash of the line before, and writes it as a line of JSON in canonical form
 * (RFC 8785). Sequence and chain go on over all files, so whatever is changed, left out, put in or moved shows.
 *
 * No payload, source, subject, event id, address or secret is in any entry: events are named by hash or by where they
 * stand (shard and sequence number, then batch and leaf), requests by their id. Whoever acts is named by the
 * subject of the identity provider or the id of a token, never by a display name.
 */

import * as z from 'zod'
import { fromUtf8, toHex, utf8 } from '#core/bytes.ts'
import { canonicalJson } from '#core/canonical-json.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'
import { isoTime, parseTime } from '#core/time.ts'

/** A request's id: the caller's own if it has this form, else a new UUID. */
export const REQUEST_ID = /^[A-Za-z0-9_.-]{1,64}$/

/** Longest line in bytes: a commit of 1,000 requests (65,000) that all had answers of their own (1,000), and room. */
export const MAX_LINE_BYTES = 131_072

const requestId = z.string().regex(REQUEST_ID)
const hash = z.string().regex(/^[0-9a-f]{64}$/)
const whole = z.int().nonnegative()
/** Half a character has no canonical form: one such entry must not keep all later ones from being written. */
const text = z
  .string()
  .max(1000)
  .refine((value) => value.isWellFormed(), 'holds half a character')
/** Which log of the node, from 1: a node whose log has forked has several. */
const log = z.int().positive()
const at = z.string().refine((value) => {
  const time = parseTime(value)
  return time !== null && isoTime(time) === value
}, 'is not a UTC time in milliseconds')

/** How something ended that was asked for, or that it is about to happen. */
const outcome = z.enum(['begun', 'done', 'refused', 'failed'])

const entries = [
  // Intake, as a Pool shard commits it: events `from` up to `to` of the shard were accepted.
  z.strictObject({
    kind: z.literal('commit'),
    at,
    log,
    shard: whole,
    from: whole,
    to: whole,
    /** One id for all events, or one an event in the order of `outcomes`. */
    requests: z.array(requestId).max(1000),
    duplicates: whole,
    conflicts: whole,
    /** One letter an event (accepted, duplicate, conflict); left out if all were accepted. */
    outcomes: z
      .string()
      .regex(/^[adc]{1,10000}$/)
      .optional(),
    /** Over the 32-byte hashes of the accepted events, in order. */
    sha256: hash,
    via: z.enum(['post', 'check', 'peer']),
  }),
  // `Prefer: respond-async`: kept unverified; a `commit` via check or a `reject` follows.
  z.strictObject({ kind: z.literal('receive'), at, log, shard: whole, requestId, eventHash: hash }),
  z.strictObject({
    kind: z.literal('settle'),
    at,
    log,
    shard: whole,
    eventHash: hash,
    result: text,
    requestId: requestId.optional(),
  }),
  // A post that was refused; `omitted` before it were too many in one second to be written.
  z.strictObject({
    kind: z.literal('refuse'),
    at,
    log,
    requestId,
    target: text,
    status: whole,
    code: text,
    omitted: whole.optional(),
  }),
  // A batch, at the moment it became part of the log. `requestId` is the request whose commit or command woke it.
  z.strictObject({
    kind: z.literal('seal'),
    at,
    log,
    height: whole,
    firstIndex: whole,
    count: whole,
    treeSize: whole,
    root: hash,
    /** Events by shard: [shard, from, to), in the order of their leaves. */
    ranges: z.array(z.tuple([whole, whole, whole])),
    requestId: requestId.optional(),
  }),
  z.strictObject({ kind: z.literal('halt'), at, log, why: text }),
  // Jobs that anchor a root, and how each attempt at one ended.
  z.strictObject({
    kind: z.literal('anchor'),
    at,
    log,
    chain: text,
    root: hash,
    treeSize: whole,
    jobs: z.array(whole),
    requestId: requestId.optional(),
  }),
  z.strictObject({
    kind: z.literal('attempt'),
    at,
    log,
    job: whole,
    attempt: whole,
    chain: text,
    network: text,
    method: text,
    treeSize: whole,
    outcome: text,
    failures: whole,
    requestId: requestId.optional(),
  }),
  z.strictObject({ kind: z.literal('dead-letter'), at, log, queue: text, work: text }),
  // An operator's command, by the bearer of the operator token or over the admin socket.
  z.strictObject({
    kind: z.literal('operator'),
    at,
    log,
    requestId,
    method: text,
    target: text,
    outcome,
    status: whole.optional(),
  }),
  // A row of the dashboard's audit in D1: `row` is its id, `rowSha256` over the whole row in canonical form.
  z.strictObject({
    kind: z.literal('action'),
    at,
    log,
    row: whole,
    rowSha256: hash,
    requestId: text,
    actor: text,
    role: text,
    action: text,
    target: text,
    outcome,
    ref: whole.nullable(),
    code: text.optional(),
  }),
  // What the process that keeps the files says of itself.
  z.strictObject({
    kind: z.literal('boot'),
    at,
    version: text,
    /** Whether the process before this one stopped in order; if not, its last lines may be lost. */
    clean: z.boolean(),
    /** A piece of a line that a crash left behind, which stands before this line. */
    torn: z.strictObject({ bytes: whole, sha256: hash }).optional(),
  }),
  z.strictObject({ kind: z.literal('stop'), at }),
  z.strictObject({ kind: z.literal('close'), at, reason: z.enum(['week', 'asked', 'replaced']) }),
  z.strictObject({ kind: z.literal('sealed-file'), at, file: text, sha256: hash, eventHash: hash }),
  // Lines that could not be written (a full disk), and a file that somebody else changed.
  z.strictObject({ kind: z.literal('lost'), at, lines: whole }),
  z.strictObject({ kind: z.literal('tampered'), at, file: text, detail: text }),
  z.strictObject({ kind: z.literal('rows-again'), at, log, detail: text }),
] as const

/** What an entry must look like. */
export const auditEntrySchema = z.discriminatedUnion('kind', entries)
/** Something that happened. */
export type AuditEntry = z.infer<typeof auditEntrySchema>

/** An entry in its place. */
export type AuditLine = AuditEntry & {
  /** From 1, one more each line, over all files. */
  readonly seq: number
  /** Hash of the line before, 64 zeros for the first. */
  readonly prev: string
}

/** A request that whoever carries it for the operator has written down already: no second line. */
export const TOLD_HEADER = 'vaultmesh-told'

/**
 * Whether a request of the operator is a line: whatever changes something, and a whole fsck. Not what a process asks by
 * itself each minute, and not what the keeper of the files asks.
 */
export function isCommand(method: string, url: URL): boolean {
  const { pathname, searchParams } = url
  if (/^\/admin\/(?:wake|audit(?:\/.*)?)$/.test(pathname)) return pathname === '/admin/audit/rotate'
  return method === 'GET'
    ? pathname === '/admin/fsck' && !searchParams.has('height')
    : pathname.startsWith('/admin/')
}

/** What a command was about, as a line has it. */
export function targetOf({ pathname, search }: URL): string {
  return `${pathname}${search}`.slice(0, 400)
}

/** What the first line names as the one before it. */
export const FIRST_PREV = '0'.repeat(64)

const PREFIX = '{"audit":'

/** The console line by which a Worker says an entry. */
export function auditMessage(entry: AuditEntry): string {
  return `${PREFIX}${JSON.stringify(entry)}}`
}

/** Whether a console line says an entry. */
export function isAuditMessage(message: string): boolean {
  return message.startsWith(PREFIX)
}

/** The entry of a console line; throws `bad-encoding` for one that is none. */
export function readAuditMessage(message: string): AuditEntry {
  let value: unknown
  try {
    value = (JSON.parse(message) as { readonly audit?: unknown }).audit
  } catch (cause) {
    throw bad('it is not JSON', cause)
  }
  return checked(value)
}

/** The text of an entry as line `seq` after one of hash `prev`, without its newline. Throws `bad-encoding`. */
export function auditLine(entry: AuditEntry, seq: number, prev: string): string {
  return canonicalJson({ ...entry, seq, prev })
}

/** The hash by which the next line names this one. */
export function lineHash(line: Uint8Array): string {
  return toHex(sha256(line))
}

/** Reads a line, given without its newline; throws `bad-encoding` for whatever `auditLine` would not have written. */
export function readAuditLine(bytes: Uint8Array): AuditLine {
  if (bytes.length > MAX_LINE_BYTES) throw bad('it is too long')
  let value: unknown
  let source: string
  try {
    source = fromUtf8(bytes)
    value = JSON.parse(source)
  } catch (cause) {
    throw bad('it is not JSON', cause)
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw bad('it is no object')
  const { seq, prev, ...entry } = value as Record<string, unknown>
  if (!Number.isSafeInteger(seq) || (seq as number) < 1) throw bad('its seq is no number from 1')
  if (typeof prev !== 'string' || !/^[0-9a-f]{64}$/.test(prev)) throw bad('its prev is no hash')
  const line: AuditLine = { ...checked(entry), seq: seq as number, prev }
  // One text only: a repeated key, a space or another order of keys is a change, though it reads alike.
  if (canonicalJson(value) !== source) throw bad('it is not in canonical form')
  return line
}

/** The ids of the requests that a line speaks of. */
export function requestsOf(line: AuditEntry): readonly string[] {
  if (line.kind === 'commit') return line.requests
  return 'requestId' in line && line.requestId !== undefined ? [line.requestId] : []
}

/**
 * Sequence numbers of the shard, [from, to), that a request got in a commit; empty if it got none (what it posted had
 * been posted before).
 */
export function rangesOf(
  { requests, outcomes, from, to }: Extract<AuditEntry, { kind: 'commit' }>,
  request: string,
): readonly (readonly [from: number, to: number])[] {
  if (!requests.includes(request)) return []
  // One id speaks for all events.
  if (requests.length === 1) return to > from ? [[from, to]] : []
  const found: [number, number][] = []
  let seq = from
  for (const [i, id] of requests.entries()) {
    if (outcomes !== undefined && outcomes[i] !== 'a') continue
    if (id === request) {
      const last = found.at(-1)
      if (last?.[1] === seq) last[1] = seq + 1
      else found.push([seq, seq + 1])
    }
    seq++
  }
  return found
}

/** The bytes of a line's text, for its hash. */
export function lineBytes(line: string): Uint8Array {
  return utf8(line)
}

function checked(value: unknown): AuditEntry {
  const parsed = auditEntrySchema.safeParse(value)
  if (parsed.success) return parsed.data
  const { path, message } = parsed.error.issues[0]!
  throw bad(`${path.length === 0 ? 'the entry' : path.join('.')}: ${message}`)
}

function bad(why: string, cause?: unknown): VaultMeshError {
  return new VaultMeshError('bad-encoding', `This is no line of an audit: ${why}.`, { cause })
}
