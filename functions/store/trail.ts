/**
 * The Worker's side of the audit trail (core/audit-line.ts): one console line an entry.
 *
 * A self-hosted node keeps these lines in files, numbered and chained (scripts/audit-files.ts); on Cloudflare they are
 * in Workers Logs, and Logpush takes them elsewhere. A line is written when its effect is in the store, by whoever is
 * alone in writing there. It costs no I/O and is never waited for; a crash can take the last ones. What must not
 * be lost is a row of D1 first (store/audit.ts), or a line of the operator's own process.
 */

import { auditMessage, type AuditEntry } from '#core/audit-line.ts'
import { isoTime } from '#core/time.ts'

type Left<T> = T extends unknown ? Omit<T, 'at' | 'log'> : never

/** What the Worker says of itself; time and log are added here. */
export type Said = Left<Extract<AuditEntry, { readonly log: number }>>

/** Whether anybody keeps the lines: AUDIT_LINES=1. */
export function keepsTrail(env: Pick<Env, 'AUDIT_LINES'>): boolean {
  return (env.AUDIT_LINES as string | undefined) === '1'
}

/** Says that something happened. */
export function trail(env: Pick<Env, 'AUDIT_LINES' | 'LOG_NUMBER'>, said: Said): void {
  if (!keepsTrail(env)) return
  const entry = { ...said, at: isoTime(Date.now()), log: Number(env.LOG_NUMBER ?? 1) }
  console.log(auditMessage(entry as AuditEntry))
}

/** The request that something goes back to, as a field of a message or line; none where it is not known. */
export function causedBy(requestId: string | undefined): { readonly requestId?: string } {
  return requestId === undefined ? {} : { requestId }
}
