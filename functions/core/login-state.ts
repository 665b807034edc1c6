/**
 * The `state` of a sign-in under way (RFC 6749 §10.12): where to go afterwards and until when it counts, sealed by a
 * key of the node and bound to the cookie of the browser that began it.
 *
 * Nothing is stored when a sign-in begins, so beginning many costs nothing; the code verifier (RFC 7636) and the
 * nonce (OpenID Connect Core §3.1.2.1) derive from cookie and state, so nobody else can know them. A state for which
 * the provider vouched is noted by whoever opens it, so that it counts once.
 */

import { equal, fromBase64Url, fromUtf8, toBase64Url, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { pageAfterSignIn } from '#core/roles.ts'
import { hmac, type HmacKey } from '#core/sha256.ts'

/** How long a sign-in may take, in ms. */
export const LOGIN_MS = 600_000
/** 32 bytes as base64url. */
const COOKIE = /^[A-Za-z0-9_-]{43}$/
const STATE = /^([A-Za-z0-9_-]{22}\.\d{10,11}\.[A-Za-z0-9_-]+)\.([A-Za-z0-9_-]{43})$/

/** Whether a cookie is one that can bind a sign-in. */
export function isLoginCookie(cookie: string): boolean {
  return COOKIE.test(cookie)
}

/** The state of a sign-in that begins now. `random` has 16 bytes, `cookie` is the browser's. */
export function sealState(
  key: HmacKey,
  cookie: string,
  {
    next,
    nowAt,
    random,
  }: { readonly next: string; readonly nowAt: number; readonly random: Uint8Array },
): string {
  const expiresS = Math.floor((nowAt + LOGIN_MS) / 1000)
  const body = `${toBase64Url(random)}.${expiresS}.${toBase64Url(utf8(pageAfterSignIn(next)))}`
  return `${body}.${derived(key, 'state', cookie, body)}`
}

/**
 * Opens a state that came back with the browser's cookie. Throws `sign-in-refused` if it is none of ours, of another
 * browser, or too old.
 */
export function openState(
  key: HmacKey,
  cookie: string,
  state: string,
  nowAt: number,
): { readonly next: string; readonly expiresAt: number } {
  if (!isLoginCookie(cookie)) {
    throw refused('was begun in another browser, at another address of this node, or too long ago')
  }
  const [, body, mac] = STATE.exec(state) ?? []
  if (body === undefined) throw refused('has a state that is none of this node')
  if (!equal(utf8(mac!), utf8(derived(key, 'state', cookie, body)))) {
    throw refused('was begun in another browser, or its state was changed')
  }
  const [, expiresS, next] = body.split('.')
  const expiresAt = Number(expiresS) * 1000
  if (nowAt >= expiresAt) throw refused(`took longer than ${LOGIN_MS / 60_000} minutes`)
  return { next: pageAfterSignIn(fromUtf8(fromBase64Url(next!))), expiresAt }
}

/** The code verifier and the nonce of a sign-in, 43 characters each. */
export function secretsOf(
  key: HmacKey,
  cookie: string,
  state: string,
): { readonly verifier: string; readonly nonce: string } {
  return {
    verifier: derived(key, 'verifier', cookie, state),
    nonce: derived(key, 'nonce', cookie, state),
  }
}

/** The cookie has a fixed length, so no two inputs run together. */
function derived(key: HmacKey, what: string, cookie: string, text: string): string {
  return toBase64Url(hmac(key, utf8(`login ${what} ${cookie} ${text}`)))
}

function refused(why: string): VaultMeshError {
  return new VaultMeshError('sign-in-refused', `This sign-in ${why}.`)
}
