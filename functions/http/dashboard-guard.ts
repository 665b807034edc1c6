/**
 * The gate before every page and action of the dashboard: who asks, and whether their role is enough. Deny by
 * default; without OIDC_ISSUER nobody gets in, and without a D1 that answers nobody either.
 *
 * What is refused on an action is written down, after it was counted: a table that only grows must be nobody's to
 * fill, least of all a stranger's.
 */

import { VaultMeshError } from '#core/errors.ts'
import {
  ACTIONS,
  atLeast,
  isScope,
  mayDo,
  type Action,
  type Role,
  type Scope,
} from '#core/roles.ts'
import { audit, auditRow, type AuditEntry } from '#store/audit.ts'
import { checkForm } from './csrf.ts'
import { preferred } from './negotiation.ts'
import { RateLimit } from './rate-limit.ts'
import type { Call } from './route.ts'
import { isMachine, signInOf, whoAsks, type Flash, type Viewer } from './session.ts'

export type { Flash, Viewer } from './session.ts'

/** Refusals written down in a minute, in one isolate: of all without a role together, and of each who has one. */
const MAX_STRANGERS = 30
const MAX_KNOWN = 300
/** How long the outcome of an action can be shown on the page it led to. */
const FLASH_MS = 600_000
const refusals = new RateLimit()

/** A refusal that is an answer already, e.g. a redirect to /login: `serve` in app.ts hands it out as it is. */
export class Answered extends Error {
  readonly response: Response

  constructor(response: Response) {
    super(`answered with ${response.status}`)
    this.name = 'Answered'
    this.response = response
  }
}

/** Whether an answer on `pathname` is for people, so that refusals are pages. */
export function isPageFor(request: Request, pathname: string): boolean {
  if (!/^\/(?:dashboard|login|logout|auth|verify)(?:\/|$)/.test(pathname)) return false
  const offered = ['application/problem+json', 'text/html'] as const
  return !isMachine(request) && preferred(request, offered) === 'text/html'
}

/** A redirect that a browser follows with GET. `path` stands on our own origin, whatever it says. */
export function seeOther(
  call: Call<unknown, unknown>,
  path: string,
  cookies: readonly string[] = [],
): Response {
  const { publicOrigin } = signInOf(call)
  const headers = new Headers({ location: `${publicOrigin}${path}`, 'cache-control': 'no-store' })
  for (const cookie of cookies) headers.append('set-cookie', cookie)
  return new Response(null, { status: 303, headers })
}

/**
 * The viewer of a page that needs `role`; of an API token, `scope`. Throws `no-sign-in`, for nobody a redirect to
 * /login (`Answered`) or `sign-in-required` where that is no use, and `forbidden` for a lesser role.
 */
export async function guarded(
  call: Call<unknown, unknown>,
  role: Role,
  scope: Scope = 'read:dashboard',
): Promise<Viewer> {
  const viewer = await whoAsks(call)
  if (viewer === null) throw unknown(call)
  const suffices =
    viewer.scopes === null
      ? atLeast(viewer.role, role)
      : role === 'viewer' && viewer.scopes.includes(scope)
  if (!suffices) throw lesser(viewer, role, role === 'viewer' ? scope : null)
  return { ...viewer, flash: await flashOf(call, viewer) }
}

/**
 * The viewer who may do `action` now with the form `form`: known, of the role or scope it needs, and the form is
 * one of ours. What is refused is written down and thrown: `sign-in-required`, `forbidden` or `form-refused`.
 */
export async function actionGuard(
  call: Call<unknown, unknown>,
  action: Action,
  form: Readonly<Record<string, string>>,
): Promise<Viewer> {
  const viewer = await whoAsks(call)
  try {
    if (viewer === null) throw unknown(call)
    checkForm(call, viewer, form['csrf'])
    const scope = `action:${action}`
    if (!mayDo(viewer.role, viewer.scopes, action))
      throw lesser(viewer, ACTIONS[action], isScope(scope) ? scope : null)
    return viewer
  } catch (error) {
    if (error instanceof VaultMeshError) await auditRefusal(call, actorOf(viewer), action, error)
    throw error
  }
}

/** Who an audit row is about; empty for nobody in particular. */
export type Actor = Pick<AuditEntry, 'actor' | 'name' | 'role'>

export function actorOf(viewer: Viewer | null): Actor {
  if (viewer === null) return { actor: '', name: '', role: '' }
  const { sub: actor, name, role, scopes } = viewer
  return { actor, name, role: scopes === null ? role : 'token' }
}

/** Writes a refusal down, up to so many in a minute. One that cannot be written refuses all the same. */
export async function auditRefusal(
  call: Call<unknown, unknown>,
  actor: Actor,
  action: string,
  error: VaultMeshError,
): Promise<void> {
  const at = Date.now()
  try {
    const [who, limit] = actor.role === '' ? ['', MAX_STRANGERS] : [actor.actor, MAX_KNOWN]
    refusals.take(who, 1, { limit, nowAt: at, what: 'of refusals' })
    await audit(call.env, {
      at,
      requestId: call.requestId,
      ...actor,
      action,
      target: '',
      outcome: 'refused',
      detail: `${error.code}: ${error.message}`,
    })
  } catch {
    const { requestId } = call
    console.error(
      JSON.stringify({ level: 'warn', msg: 'refusal', action, code: error.code, requestId }),
    )
  }
}

function unknown(call: Call<unknown, unknown>): Error {
  const { request, url } = call
  if (request.method === 'GET' && isPageFor(request, url.pathname)) {
    const next = encodeURIComponent(`${url.pathname}${url.search}`)
    // At the address of sign-in, whatever name the browser came by: cookies are of one host.
    return new Answered(seeOther(call, `/login?next=${next}`))
  }
  const why = isMachine(request)
    ? 'The Bearer is no API token of this node, or one that has expired or was revoked.'
    : 'Nobody is signed in, or the session has ended.'
  return new VaultMeshError('sign-in-required', why)
}

/** `scope` is what a token would need; null where none opens the door. */
function lesser(viewer: Viewer, role: Role, scope: Scope | null): VaultMeshError {
  if (viewer.scopes === null)
    return new VaultMeshError('forbidden', `This needs the role ${role}; you are ${viewer.role}.`)
  if (scope !== null)
    return new VaultMeshError('forbidden', `This API token lacks the scope ${scope}.`)
  return new VaultMeshError('forbidden', `This needs a person with the role ${role}, no API token.`)
}

/** What became of the action that `?said=` names, if it was this viewer's and a moment ago. */
async function flashOf(call: Call<unknown, unknown>, viewer: Viewer): Promise<Flash | null> {
  const said = /^\d{1,15}$/.exec(call.url.searchParams.get('said') ?? '')?.[0]
  if (said === undefined) return null
  const row = await auditRow(call.env.DB, Number(said)).catch(() => null)
  if (row === null || row.actor !== viewer.sub || Date.now() - row.at > FLASH_MS) return null
  return { good: row.outcome === 'done', text: row.detail }
}
