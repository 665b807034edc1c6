/**
 * Who asks: the session behind a browser's cookie, or the API token behind a Bearer.
 *
 * Cookies carry the prefix `__Host-` (RFC 6265bis §4.1.3.2): sent by this very host over a secure channel, set by no
 * other. Browsers take loopback addresses for secure, so development needs no exception (Chromium: measured).
 * Both are read from D1 with each request, and a use is noted at most once a minute, beside the answer.
 */

import { toBase64Url, utf8 } from '#core/bytes.ts'
import type { SignInConfig } from '#core/config.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { Role, Scope } from '#core/roles.ts'
import { hmac } from '#core/sha256.ts'
import { isUnused, noteUsed, tokenOf } from '#store/api-tokens.ts'
import { isUnseen, noteSeen, secretHash, sessionOf } from '#store/sessions.ts'
import type { Call } from './route.ts'

/** The session; lives as long as the browser at most. */
export const SESSION_COOKIE = '__Host-vm-session'
/** Binds a sign-in under way to the browser that began it. */
export const LOGIN_COOKIE = '__Host-vm-login'

/** Who looks at a page. */
export interface Viewer {
  /** The subject at the identity provider, or `token:<id>` of an API token. */
  readonly sub: string
  /** To be shown; whatever the provider says, so not to be trusted as a name. */
  readonly name: string
  readonly role: Role
  /** The session's id (not its secret), or `token:<id>`. */
  readonly sessionId: string
  /** Goes into the hidden field `csrf` of every form. Empty for API tokens. */
  readonly csrf: string
  /** What an API token was made for; null for a person, whom the role alone limits. */
  readonly scopes: readonly Scope[] | null
  /** What became of the action that led here; null if none did. */
  readonly flash: Flash | null
}

/** One sentence on top of the page after an action. */
export interface Flash {
  readonly good: boolean
  readonly text: string
}

/** The settings of sign-in; throws `no-sign-in` where there are none: then nobody gets in. */
export function signInOf({ node }: Pick<Call, 'node'>): SignInConfig {
  const { signIn } = node.config
  if (signIn !== null) return signIn
  throw new VaultMeshError(
    'no-sign-in',
    'This node has no OIDC_ISSUER, so nobody can sign in and the dashboard is closed.',
  )
}

/**
 * The value of a cookie, or empty. Of two of one name the first counts, as browsers send the longer path first. Names are
 * compared byte by byte: one with a space of Unicode's before it has no prefix for browsers, so a neighbouring host can
 * set it; trimmed, it would be ours.
 */
export function cookieOf(request: Request, name: string): string {
  const parts = (request.headers.get('cookie') ?? '').split(/; ?/)
  return parts.find((part) => part.startsWith(`${name}=`))?.slice(name.length + 1) ?? ''
}

/** A Set-Cookie of ours. `maxAgeS` 0 removes it; absent, it ends with the browser. */
export function setCookie(name: string, value: string, maxAgeS?: number): string {
  const age = maxAgeS === undefined ? '' : `; Max-Age=${maxAgeS}`
  return `${name}=${value}; Path=/; Secure; HttpOnly; SameSite=Lax${age}`
}

/**
 * Whether the request brings a Bearer rather than a browser's cookie. Basic is none: browsers send that by themselves,
 * to a proxy that asked for it.
 */
export function isMachine(request: Request): boolean {
  return /^Bearer(?: |$)/i.test(request.headers.get('authorization') ?? '')
}

/**
 * Whoever asks, or null for nobody. A Bearer outranks a cookie: what says who it is means it. Throws
 * `no-sign-in`, and `storage-failed` if D1 does not answer.
 */
export async function whoAsks(call: Call<unknown, unknown>): Promise<Viewer | null> {
  const signIn = signInOf(call)
  const { request, env, ctx, node } = call
  const nowAt = Date.now()
  const bearer = /^Bearer +(\S+)$/i.exec(request.headers.get('authorization') ?? '')?.[1]
  if (isMachine(request)) {
    const token = bearer === undefined ? null : await stored(tokenOf(env.DB, bearer, nowAt))
    if (token === null) return null
    if (isUnused(token, nowAt)) ctx.waitUntil(noteUsed(env.DB, token.id, nowAt).catch(unnoted))
    const sub = `token:${token.id}`
    const { name, scopes } = token
    return { sub, name, role: 'viewer', sessionId: sub, csrf: '', scopes, flash: null }
  }
  const secret = cookieOf(request, SESSION_COOKIE)
  if (secret === '') return null
  const session = await stored(sessionOf(env.DB, secret, signIn, nowAt))
  if (session === null) return null
  // A page that brings itself up to date is no use by anybody: left open, it must not live for ever.
  if (!request.headers.has('vaultmesh-live') && isUnseen(session, signIn, nowAt))
    ctx.waitUntil(noteSeen(env.DB, session.id, nowAt).catch(unnoted))
  return {
    sub: session.sub,
    name: session.name,
    role: session.role,
    sessionId: String(session.id),
    csrf: toBase64Url(hmac(node.dashboard, utf8(`csrf ${secretHash(secret)}`))),
    scopes: null,
    flash: null,
  }
}

async function stored<T>(asking: Promise<T>): Promise<T> {
  try {
    return await asking
  } catch (cause) {
    throw new VaultMeshError('storage-failed', 'The sessions cannot be read.', { cause })
  }
}

/** A use that could not be noted ends nothing but the idle time sooner. */
function unnoted(error: unknown): void {
  console.error(JSON.stringify({ level: 'warn', msg: 'use not noted', error: String(error) }))
}
