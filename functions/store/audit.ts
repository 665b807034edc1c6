/**
 * The audit of the dashboard in D1: append-only, triggers of the table refuse any change of a row.
 *
 * What has an effect is written down before it (`begun`) and after it (`done` or `failed`, which names that row), so
 * that nothing can happen unseen: if the first cannot be written, nothing is done, and a row begun that nothing ends
 * tells of a crash on the way. No secret goes in here.
 */

import { VaultMeshError } from '#core/errors.ts'

/** How a thing went, or that it is about to. */
export type Outcome = 'begun' | 'done' | 'refused' | 'failed'

/** What is written down. */
export interface AuditEntry {
  readonly at: number
  readonly requestId: string
  /** Subject at the identity provider, `token:<id>`, or empty for nobody. */
  readonly actor: string
  /** As it is shown now. */
  readonly name: string
  /** A role, `token`, or empty. */
  readonly role: string
  readonly action: string
  readonly target: string
  readonly outcome: Outcome
  readonly detail: string
  /** The row `begun` that this one ends. */
  readonly ref?: number | undefined
}

/** A row as it is read. */
export interface AuditRow extends Omit<AuditEntry, 'ref'> {
  readonly id: number
  readonly ref: number | null
}

/** Longest texts: a row stays small whatever a form holds. */
const MAX_TARGET = 400
const MAX_DETAIL = 1000
const COLUMNS =
  'id, at, request_id AS requestId, actor, name, role, action, target, outcome, detail, ref'

/** Writes a row and resolves to its id. Throws `storage-failed`. */
export async function audit(env: Pick<Env, 'DB'>, entry: AuditEntry): Promise<number> {
  const statement = env.DB.prepare(
    `INSERT INTO audit (at, request_id, actor, name, role, action, target, outcome, detail, ref)
     VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id`,
  ).bind(
    entry.at,
    entry.requestId,
    cut(entry.actor, MAX_TARGET),
    cut(entry.name, MAX_TARGET),
    entry.role,
    cut(entry.action, MAX_TARGET),
    cut(entry.target, MAX_TARGET),
    entry.outcome,
    cut(entry.detail, MAX_DETAIL),
    entry.ref ?? null,
  )
  try {
    return (await statement.first<{ id: number }>())!.id
  } catch (cause) {
    throw new VaultMeshError('storage-failed', 'The audit cannot be written.', { cause })
  }
}

/** Rows, newest first, at most `limit`; `below` goes on after an id. */
export async function auditPage(
  db: D1Database,
  page: { readonly limit: number; readonly below?: number | undefined },
): Promise<readonly AuditRow[]> {
  const { results } = await db
    .prepare(`SELECT ${COLUMNS} FROM audit WHERE id < ? ORDER BY id DESC LIMIT ?`)
    .bind(page.below ?? Number.MAX_SAFE_INTEGER, page.limit)
    .all<AuditRow>()
  return results
}

/** Rows with the id `from` and above, oldest first, at most `limit`. */
export async function auditRowsFrom(
  db: D1Database,
  from: number,
  limit: number,
): Promise<readonly AuditRow[]> {
  const { results } = await db
    .prepare(`SELECT ${COLUMNS} FROM audit WHERE id >= ? ORDER BY id LIMIT ?`)
    .bind(from, limit)
    .all<AuditRow>()
  return results
}

/** The row of an id, or null. */
export async function auditRow(db: D1Database, id: number): Promise<AuditRow | null> {
  return db.prepare(`SELECT ${COLUMNS} FROM audit WHERE id = ?`).bind(id).first<AuditRow>()
}

/** Never half of a surrogate pair: D1 takes well-formed text only. */
function cut(text: string, max: number): string {
  return text.length <= max ? text.toWellFormed() : `${text.slice(0, max - 1).toWellFormed()}…`
}
