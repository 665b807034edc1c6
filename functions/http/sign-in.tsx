/**
 * /login, /auth/callback, /logout: how a person gets a session of the dashboard, and how it ends.
 *
 * A sign-in counts once, in the browser that began it, within ten minutes, and leads to a page of the dashboard. The
 * session it opens is always new; one that the browser had before ends. Whoever has no role gets a page that says so
 * and no session.
 */

import * as z from 'zod'
import { fromUtf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { isLoginCookie, LOGIN_MS, openState, sealState, secretsOf } from '#core/login-state.ts'
import { pageAfterSignIn, roleOfClaims, ROLES } from '#core/roles.ts'
import { audit } from '#store/audit.ts'
import {
  endSession,
  isSpent,
  newSecret,
  openSession,
  sessionOf,
  spendState,
} from '#store/sessions.ts'
import { Notice } from '../dashboard/notice.tsx'
import { readBody } from './body.ts'
import { checkForm } from './csrf.ts'
import { actorOf, auditRefusal, seeOther } from './dashboard-guard.ts'
import { html } from './html.ts'
import { authorizationUrl, CALLBACK_PATH, endSessionUrl, identityOf } from './oidc.ts'
import { asVaultMeshError } from './problem.ts'
import { route, type Call } from './route.ts'
import { cookieOf, LOGIN_COOKIE, SESSION_COOKIE, setCookie, signInOf, whoAsks } from './session.ts'

const MAX_FORM_BYTES = 4096
const page = { 200: { description: 'a page', content: { 'text/html': null } } }

/** GET /login?next=/dashboard/…: sends the browser to the identity provider. */
export const getLogin = route({
  method: 'GET',
  path: '/login',
  tag: 'dashboard',
  summary: 'Sign in',
  internal: true,
  query: z.object({ next: z.string().optional(), again: z.string().optional() }),
  answers: { ...page, 303: { description: 'to the identity provider' } },
  async handle(call) {
    const signIn = signInOf(call)
    const { request, node, query } = call
    const next = pageAfterSignIn(query.next)
    const again = query.again !== undefined
    if (!again && (await whoAsks(call)) !== null) return seeOther(call, next)
    // One cookie for all sign-ins that are under way in a browser: several tabs may begin at once.
    const old = cookieOf(request, LOGIN_COOKIE)
    const cookie = isLoginCookie(old) ? old : newSecret()
    const random = crypto.getRandomValues(new Uint8Array(16))
    const state = sealState(node.dashboard, cookie, { next, nowAt: Date.now(), random })
    const secrets = { state, ...secretsOf(node.dashboard, cookie, state) }
    const location = await authorizationUrl(signIn, secrets, again)
    const headers = { 'set-cookie': setCookie(LOGIN_COOKIE, cookie, LOGIN_MS / 1000) }
    if (request.headers.get('sec-fetch-site') !== 'same-origin') {
      const more = { location, 'cache-control': 'no-store', 'referrer-policy': 'no-referrer' }
      return new Response(null, { status: 303, headers: { ...headers, ...more } })
    }
    // From a page of ours, perhaps by a form after the session had ended: its policy lets a form lead nowhere else, also
    // by a redirect (Chromium: measured). A page in between is no redirect.
    return html(
      <Notice
        title="Sign in"
        lines={['Your browser goes to the identity provider of this node.']}
        links={[{ href: location, text: 'Go there now' }]}
        node={{ id: node.config.nodeId, dev: node.config.network === 'dev' }}
      />,
      { headers: { ...headers, refresh: `0;url=${location}` } },
    )
  },
})

/** GET /auth/callback: the provider sent the browser back. */
export const getCallback = route({
  method: 'GET',
  path: CALLBACK_PATH,
  tag: 'dashboard',
  summary: 'Back from the identity provider',
  internal: true,
  answers: { 303: { description: 'signed in' }, 403: { description: 'refused' } },
  async handle(call) {
    try {
      return await signedIn(call)
    } catch (error) {
      const known = asVaultMeshError(error)
      if (known.code === 'sign-in-refused' && known.extra['person'] !== true)
        await auditRefusal(call, actorOf(null), 'sign-in', known)
      throw error
    }
  },
})

async function signedIn(call: Call): Promise<Response> {
  const signIn = signInOf(call)
  const { request, env, node, url, requestId } = call
  const cookie = cookieOf(request, LOGIN_COOKIE)
  const state = url.searchParams.get('state') ?? ''
  const nowAt = Date.now()
  const { next, expiresAt } = openState(node.dashboard, cookie, state, nowAt)
  const twice = new VaultMeshError(
    'sign-in-refused',
    'This sign-in came back before: it counts once.',
  )
  if (await isSpent(env.DB, state)) throw twice
  const secrets = { state, ...secretsOf(node.dashboard, cookie, state) }
  const { sub, name, claims } = await identityOf(signIn, url.searchParams, secrets)
  // Not sooner: states are anybody's to make, and only what the provider vouches for may take room in a table.
  if (!(await spendState(env.DB, state, expiresAt))) throw twice
  const role = roleOfClaims(claims, signIn.rolesClaim, signIn.roleMap)
  if (role === null) {
    const refusal = new VaultMeshError(
      'sign-in-refused',
      `You are known as ${name}, but no group of yours has a role here (${ROLES.join(', ')}). Ask the operator of this node for one.`,
      { extra: { person: true } },
    )
    await auditRefusal(call, { actor: sub, name, role: '' }, 'sign-in', refusal)
    throw refusal
  }
  const old = await sessionOf(env.DB, cookieOf(request, SESSION_COOKIE), signIn, nowAt)
  if (old !== null) await endSession(env.DB, old.id, sub, nowAt)
  const person = { sub, name, role }
  const session = await openSession(env.DB, person, signIn.terms, nowAt)
  await audit(env, {
    at: nowAt,
    requestId,
    actor: sub,
    name,
    role,
    action: 'sign-in',
    target: `session ${session.id}`,
    outcome: 'done',
    detail: `Signed in as ${role}.`,
  })
  return seeOther(call, next, [setCookie(SESSION_COOKIE, session.secret)])
}

/** POST /logout: ends the session here, and offers to end the provider's. */
export const postLogout = route({
  method: 'POST',
  path: '/logout',
  tag: 'dashboard',
  summary: 'Sign out',
  internal: true,
  answers: page,
  async handle(call) {
    const signIn = signInOf(call)
    const { env, node, requestId } = call
    const viewer = await whoAsks(call)
    if (viewer !== null && viewer.scopes === null) {
      const bytes = await readBody(call.request, MAX_FORM_BYTES, 'body-too-large')
      try {
        checkForm(call, viewer, new URLSearchParams(fromUtf8(bytes)).get('csrf') ?? undefined)
      } catch (error) {
        if (error instanceof VaultMeshError)
          await auditRefusal(call, actorOf(viewer), 'sign-out', error)
        throw error
      }
      const at = Date.now()
      await endSession(env.DB, Number(viewer.sessionId), viewer.sub, at)
      await audit(env, {
        at,
        requestId,
        ...actorOf(viewer),
        action: 'sign-out',
        target: `session ${viewer.sessionId}`,
        outcome: 'done',
        detail: 'Signed out.',
      })
    }
    const elsewhere = await endSessionUrl(signIn)
    const links = [
      ...(elsewhere === null
        ? []
        : [{ href: elsewhere, text: 'Sign out at the identity provider as well' }]),
      { href: '/login', text: 'Sign in again' },
      { href: '/login?again=1', text: 'Sign in as somebody else' },
    ]
    return html(
      <Notice
        title="Signed out"
        lines={['Your session on this node has ended.']}
        advice={
          elsewhere === null
            ? 'Your identity provider may still know you on this machine.'
            : 'Your identity provider still knows you on this machine: on a shared one, sign out there as well.'
        }
        links={links}
        node={{ id: node.config.nodeId, dev: node.config.network === 'dev' }}
      />,
      // Not for nobody: a form of another site comes without the cookie, and must not take it away.
      { headers: viewer === null ? {} : { 'set-cookie': setCookie(SESSION_COOKIE, '', 0) } },
    )
  },
})
