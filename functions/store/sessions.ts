/**
 * Sessions of the dashboard in D1: read by each request, so that one which was ended is out at once.
 *
 * A session is a secret of 32 random bytes in a cookie; here lies its SHA-256 alone, so whoever reads the table can
 * be nobody. It lives while it is neither ended, nor idle, nor old, nor begun under other settings of sign-in.
 * Old rows are removed by `forgetSessions`.
 */

import { toBase64Url, toHex, utf8 } from '#core/bytes.ts'
import type { SignInConfig } from '#core/config.ts'
import type { Role } from '#core/roles.ts'
import { sha256 } from '#core/sha256.ts'

/** 32 bytes as base64url. */
const SECRET = /^[A-Za-z0-9_-]{43}$/
/** A use is noted at most once in this time; or, where sessions are short, in a quarter of their idle time. */
const SEEN_EVERY_MS = 60_000
/** How long a session that is over can still be seen; longer than any can live (SESSION_MAX_S ≤ 30 days). */
const KEPT_MS = 31 * 86_400_000

/** What a session is judged by. */
type Limits = Pick<SignInConfig, 'idleMs' | 'maxMs' | 'terms'>

/** Whoever signed in. */
export interface Person {
  /** Subject at the identity provider. */
  readonly sub: string
  readonly name: string
  readonly role: Role
}

/** A session that lives. */
export interface Session extends Person {
  readonly id: number
  readonly createdAt: number
  /** Exact to a minute. */
  readonly seenAt: number
}

/** 32 random bytes as base64url: for cookies and tokens. */
export function newSecret(): string {
  return toBase64Url(crypto.getRandomValues(new Uint8Array(32)))
}

/** The hash of a secret under which it is kept: 64 hex digits. */
export function secretHash(secret: string): string {
  return toHex(sha256(utf8(secret)))
}

/** Begins a session; always under a new secret, whatever the browser had before. */
export async function openSession(
  db: D1Database,
  person: Person,
  terms: string,
  nowAt: number,
): Promise<{ readonly id: number; readonly secret: string }> {
  const secret = newSecret()
  const row = await db
    .prepare(
      'INSERT INTO sessions (hash, sub, name, role, terms, created_at, seen_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) RETURNING id',
    )
    .bind(secretHash(secret), person.sub, person.name, person.role, terms, nowAt)
    .first<{ id: number }>()
  return { id: row!.id, secret }
}

const COLUMNS = 'id, sub, name, role, created_at AS createdAt, seen_at AS seenAt'
/** ?1 now, ?2 idle, ?3 max, ?4 terms. */
const LIVES = 'ended_at IS NULL AND seen_at > ?1 - ?2 AND created_at > ?1 - ?3 AND terms = ?4'

/** The living session of a cookie's secret, or null. */
export async function sessionOf(
  db: D1Database,
  secret: string,
  limits: Limits,
  nowAt: number,
): Promise<Session | null> {
  if (!SECRET.test(secret)) return null
  return db
    .prepare(`SELECT ${COLUMNS} FROM sessions WHERE hash = ?5 AND ${LIVES}`)
    .bind(nowAt, limits.idleMs, limits.maxMs, limits.terms, secretHash(secret))
    .first<Session>()
}

/** Whether a use of the session is to be noted: once a minute at most. */
export function isUnseen(session: Session, limits: Limits, nowAt: number): boolean {
  return nowAt - session.seenAt >= Math.min(SEEN_EVERY_MS, limits.idleMs / 4)
}

/** Notes a use; one that is over stays over. */
export async function noteSeen(db: D1Database, id: number, nowAt: number): Promise<void> {
  await db
    .prepare('UPDATE sessions SET seen_at = max(seen_at, ?2) WHERE id = ?1 AND ended_at IS NULL')
    .bind(id, nowAt)
    .run()
}

/** Ends a session; false if there is none that could be ended. */
export async function endSession(
  db: D1Database,
  id: number,
  by: string,
  nowAt: number,
): Promise<boolean> {
  const { meta } = await db
    .prepare('UPDATE sessions SET ended_at = ?3, ended_by = ?2 WHERE id = ?1 AND ended_at IS NULL')
    .bind(id, by, nowAt)
    .run()
  return meta.changes === 1
}

/** Living sessions, newest first, at most `limit`; `below` goes on after an id. */
export async function listSessions(
  db: D1Database,
  limits: Limits,
  page: { readonly nowAt: number; readonly limit: number; readonly below?: number | undefined },
): Promise<readonly Session[]> {
  const { results } = await db
    .prepare(`SELECT ${COLUMNS} FROM sessions WHERE id < ?5 AND ${LIVES} ORDER BY id DESC LIMIT ?6`)
    .bind(
      page.nowAt,
      limits.idleMs,
      limits.maxMs,
      limits.terms,
      page.below ?? Number.MAX_SAFE_INTEGER,
      page.limit,
    )
    .all<Session>()
  return results
}

/** The living session of an id, or null. */
export async function liveSession(
  db: D1Database,
  id: number,
  limits: Limits,
  nowAt: number,
): Promise<Session | null> {
  return db
    .prepare(`SELECT ${COLUMNS} FROM sessions WHERE id = ?5 AND ${LIVES}`)
    .bind(nowAt, limits.idleMs, limits.maxMs, limits.terms, id)
    .first<Session>()
}

/** Whether the state of a sign-in was taken. */
export async function isSpent(db: D1Database, state: string): Promise<boolean> {
  const row = db.prepare('SELECT 1 FROM used_states WHERE key = ?').bind(secretHash(state))
  return (await row.first()) !== null
}

/** Takes the state of a sign-in that the provider vouched for; false if it was taken before. */
export async function spendState(
  db: D1Database,
  state: string,
  expiresAt: number,
): Promise<boolean> {
  const { meta } = await db
    .prepare('INSERT INTO used_states (key, expires_at) VALUES (?, ?) ON CONFLICT DO NOTHING')
    .bind(secretHash(state), expiresAt)
    .run()
  return meta.changes === 1
}

/** Removes sessions that are long over, and used states that have expired. */
export async function forgetSessions(db: D1Database, nowAt: number): Promise<void> {
  await db.batch([
    db.prepare('DELETE FROM sessions WHERE created_at < ?').bind(nowAt - KEPT_MS),
    db.prepare('DELETE FROM used_states WHERE expires_at < ?').bind(nowAt),
  ])
}
