/**
 * Files of the audit trail: one an ISO week (UTC), named `audit-2026-W48.jsonl`, a further one of a week
 * `audit-2026-W48.2.jsonl`; and the event that seals a closed one into the ledger.
 *
 * The event's id and time come from the file alone, so whoever repeats the post of one file posts one event. Each names
 * the hash of the file before it: the events are a chain as well, and a file that is missing is missed.
 */

import * as z from 'zod'
import { fromBase64Url, fromUtf8 } from '#core/bytes.ts'
import { EVENT_TYP } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { signJws, type IdentityKey } from '#core/node-keys.ts'
import { parseTime } from '#core/time.ts'

/** The type of the event that seals a closed file. */
export const AUDIT_CLOSED = 'vm.audit.closed'
const DAY_MS = 86_400_000

/** A week of ISO 8601 in UTC, and which file of it. */
export interface AuditFileName {
  readonly year: number
  readonly week: number
  /** From 1. */
  readonly part: number
}

/** The ISO 8601 week of a moment (epoch ms): weeks begin on Monday, week 1 has the year's first Thursday. */
export function weekOf(at: number): Pick<AuditFileName, 'year' | 'week'> {
  const day = Math.floor(at / DAY_MS)
  // Day 0 was a Thursday: the Thursday of this week says which year it is of.
  const thursday = day - ((day + 3) % 7) + 3
  const year = new Date(thursday * DAY_MS).getUTCFullYear()
  const firstOfYear = Math.floor(Date.UTC(year, 0, 1) / DAY_MS)
  return { year, week: Math.floor((thursday - firstOfYear) / 7) + 1 }
}

/** The name of a file. */
export function auditFileName({ year, week, part }: AuditFileName): string {
  const number = `${String(year).padStart(4, '0')}-W${String(week).padStart(2, '0')}`
  return `audit-${number}${part === 1 ? '' : `.${part}`}.jsonl`
}

/** What a file name says, or null if it is none of ours. */
export function parseAuditFileName(name: string): AuditFileName | null {
  const m = /^audit-(\d{4})-W(\d\d)(?:\.([1-9]\d{0,8}))?\.jsonl$/.exec(name)
  if (m === null) return null
  const file = { year: Number(m[1]), week: Number(m[2]), part: Number(m[3] ?? 1) }
  return file.week >= 1 && file.week <= 53 && auditFileName(file) === name ? file : null
}

/** Negative if `a` is an earlier file than `b`. */
export function compareAuditFiles(a: AuditFileName, b: AuditFileName): number {
  return a.year - b.year || a.week - b.week || a.part - b.part
}

const hash = z.string().regex(/^[0-9a-f]{64}$/)
const time = z.string().refine((value) => parseTime(value) !== null, 'is no time')

/** What is said of a closed file. */
export const closedFileSchema = z.strictObject({
  file: z.string().refine((name) => parseAuditFileName(name) !== null, 'is no audit file'),
  sha256: hash,
  lines: z.int().positive(),
  firstSeq: z.int().positive(),
  lastSeq: z.int().positive(),
  firstAt: time,
  lastAt: time,
  /** SHA-256 of the file before this one; null for the first. */
  previous: hash.nullable(),
})
export type ClosedFile = z.infer<typeof closedFileSchema>

/**
 * The event that seals a closed file, signed by the node. The same file and key give the same bytes: signatures of
 * Ed25519 are deterministic (RFC 8032 §5.1.6).
 */
export function signClosedFile(key: IdentityKey, closed: ClosedFile): Promise<string> {
  return signJws(key, EVENT_TYP, {
    specversion: '1.0',
    id: `audit:${closed.file}`,
    source: key.did,
    type: AUDIT_CLOSED,
    time: closed.lastAt,
    subject: closed.file,
    data: closed,
  })
}

const eventSchema = z.object({
  id: z.string(),
  type: z.literal(AUDIT_CLOSED),
  source: z.string(),
  data: closedFileSchema,
})

/**
 * What an event says of a closed file, and who says it; throws `bad-event` if it is no such event. The signature is
 * not looked at.
 */
export function readClosedFile(jws: Uint8Array): ClosedFile & { readonly source: string } {
  let value: unknown
  try {
    const [, payload = ''] = fromUtf8(jws).split('.')
    value = JSON.parse(fromUtf8(fromBase64Url(payload)))
  } catch (cause) {
    throw new VaultMeshError('bad-event', 'This is no event.', { cause })
  }
  const parsed = eventSchema.safeParse(value)
  if (!parsed.success || parsed.data.id !== `audit:${parsed.data.data.file}`) {
    throw new VaultMeshError('bad-event', `The event is no ${AUDIT_CLOSED} of an audit file.`)
  }
  return { ...parsed.data.data, source: parsed.data.source }
}
