/**
 * API tokens in D1: for machines, made by an admin, shown once, kept by hash, each with scopes and an end.
 *
 * A token is `vmt_` and 32 random bytes, so that scanners for leaked secrets know it. Reading one is reading its
 * row: a revoked token is out at once.
 */

import { VaultMeshError } from '#core/errors.ts'
import { isScope, type Scope } from '#core/roles.ts'
import { newSecret, secretHash } from '#store/sessions.ts'

/** What every token begins with. */
export const TOKEN_PREFIX = 'vmt_'
const TOKEN = /^vmt_[A-Za-z0-9_-]{43}$/
/** A use is noted at most once in this time. */
const USED_EVERY_MS = 60_000

/** A token as admins see it. */
export interface ApiToken {
  readonly id: number
  readonly name: string
  readonly scopes: readonly Scope[]
  readonly createdAt: number
  /** Subject of the admin who made it. */
  readonly createdBy: string
  readonly expiresAt: number
  /** Exact to a minute; null if never. */
  readonly usedAt: number | null
  readonly endedAt: number | null
}

interface Row extends Omit<ApiToken, 'scopes'> {
  readonly scopes: string
}

const COLUMNS =
  'id, name, scopes, created_at AS createdAt, created_by AS createdBy, expires_at AS expiresAt, used_at AS usedAt, ended_at AS endedAt'

/** What a new token is to be. */
export interface NewToken {
  readonly name: string
  readonly scopes: readonly Scope[]
  readonly expiresAt: number
  readonly by: string
  /** Of the form that asks: a second time it throws `changed-meanwhile`. */
  readonly once: string
}

/** Makes a token. The answer is the only place that ever holds it. */
export async function createToken(
  db: D1Database,
  wanted: NewToken,
  nowAt: number,
): Promise<{ readonly id: number; readonly token: string }> {
  const token = `${TOKEN_PREFIX}${newSecret()}`
  const row = await db
    .prepare(
      `INSERT INTO api_tokens (hash, once, name, scopes, created_at, created_by, expires_at)
       VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (once) DO NOTHING RETURNING id`,
    )
    .bind(
      secretHash(token),
      wanted.once,
      wanted.name,
      wanted.scopes.join(' '),
      nowAt,
      wanted.by,
      wanted.expiresAt,
    )
    .first<{ id: number }>()
  if (row === null) {
    throw new VaultMeshError(
      'changed-meanwhile',
      'This form was sent before and made a token, which is not shown again: revoke it and make another.',
    )
  }
  return { id: row.id, token }
}

/** The token behind a bearer if it is in force, or null. */
export async function tokenOf(
  db: D1Database,
  bearer: string,
  nowAt: number,
): Promise<ApiToken | null> {
  if (!TOKEN.test(bearer)) return null
  const row = await db
    .prepare(
      `SELECT ${COLUMNS} FROM api_tokens WHERE hash = ? AND ended_at IS NULL AND expires_at > ?`,
    )
    .bind(secretHash(bearer), nowAt)
    .first<Row>()
  return row === null ? null : said(row)
}

/** Whether a use of the token is to be noted: once a minute at most. */
export function isUnused({ usedAt }: ApiToken, nowAt: number): boolean {
  return usedAt === null || nowAt - usedAt >= USED_EVERY_MS
}

/** Notes a use. */
export async function noteUsed(db: D1Database, id: number, nowAt: number): Promise<void> {
  await db
    .prepare('UPDATE api_tokens SET used_at = max(ifnull(used_at, 0), ?2) WHERE id = ?1')
    .bind(id, nowAt)
    .run()
}

/** Ends a token; false if none of this id is in force. */
export async function endToken(
  db: D1Database,
  id: number,
  by: string,
  nowAt: number,
): Promise<boolean> {
  const { meta } = await db
    .prepare(
      'UPDATE api_tokens SET ended_at = ?3, ended_by = ?2 WHERE id = ?1 AND ended_at IS NULL',
    )
    .bind(id, by, nowAt)
    .run()
  return meta.changes === 1
}

/** The token of an id, in force or not; or null. */
export async function apiToken(db: D1Database, id: number): Promise<ApiToken | null> {
  const row = await db
    .prepare(`SELECT ${COLUMNS} FROM api_tokens WHERE id = ?`)
    .bind(id)
    .first<Row>()
  return row === null ? null : said(row)
}

/** Tokens, newest first, those that are over too; `below` goes on after an id. */
export async function listTokens(
  db: D1Database,
  page: { readonly limit: number; readonly below?: number | undefined },
): Promise<readonly ApiToken[]> {
  const { results } = await db
    .prepare(`SELECT ${COLUMNS} FROM api_tokens WHERE id < ? ORDER BY id DESC LIMIT ?`)
    .bind(page.below ?? Number.MAX_SAFE_INTEGER, page.limit)
    .all<Row>()
  return results.map(said)
}

/** A scope that this version does not know gives nothing. */
function said(row: Row): ApiToken {
  return { ...row, scopes: row.scopes.split(' ').filter(isScope) }
}
