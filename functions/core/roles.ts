/**
 * Who may do what on the dashboard: viewer ⊂ operator ⊂ admin, and the table action → role (design.md §9).
 *
 * Roles come from a claim of the identity provider by a map that the operator wrote; whoever the map does not
 * name has no role and sees nothing. An action that the table does not name is nobody's. Machines hold API tokens,
 * which may do what their scopes say and no more: never an admin's actions, for those could make more of them.
 */

import { VaultMeshError } from '#core/errors.ts'

/** Least first: each may do what those before it may. */
export const ROLES = ['viewer', 'operator', 'admin'] as const
export type Role = (typeof ROLES)[number]

/** Whether `role` includes `needed`. */
export function atLeast(role: Role, needed: Role): boolean {
  return ROLES.indexOf(role) >= ROLES.indexOf(needed)
}

/** Every action of POST /dashboard/actions/{name} and the role it needs. */
export const ACTIONS = {
  'quarantine-release': 'operator',
  'dead-letters-replay': 'operator',
  'anchor-retry': 'operator',
  'anchor-release': 'operator',
  'session-revoke': 'admin',
  'allowlist-change': 'admin',
  'identity-rotate': 'admin',
  'token-create': 'admin',
  'token-revoke': 'admin',
} as const satisfies Record<string, Role>
export type Action = keyof typeof ACTIONS

/** Whether `text` names an action. */
export function isAction(text: string): text is Action {
  return Object.hasOwn(ACTIONS, text)
}

/** What an API token may be made for. */
export const SCOPES = [
  'read:dashboard',
  'read:metrics',
  'action:quarantine-release',
  'action:dead-letters-replay',
  'action:anchor-retry',
  'action:anchor-release',
] as const
export type Scope = (typeof SCOPES)[number]

/** Whether `text` names a scope. */
export function isScope(text: string): text is Scope {
  return SCOPES.some((scope) => scope === text)
}

/** Whether the holder of `role`, or of a token with `scopes`, may do `action`. `scopes` null: a person. */
export function mayDo(role: Role, scopes: readonly Scope[] | null, action: Action): boolean {
  if (scopes === null) return atLeast(role, ACTIONS[action])
  return scopes.some((scope) => scope === `action:${action}`)
}

/** The map of `OIDC_ROLE_MAP`: values of the claim to roles. */
export type RoleMap = ReadonlyMap<string, Role>

/** Parses `value=role,value=role`; throws `bad-config` for anything else, and for a value named twice. */
export function parseRoleMap(text: string): RoleMap {
  const map = new Map<string, Role>()
  for (const entry of text.split(',').map((s) => s.trim())) {
    if (entry === '') continue
    const at = entry.lastIndexOf('=')
    const role = ROLES.find((known) => known === entry.slice(at + 1).trim())
    const value = entry.slice(0, Math.max(at, 0)).trim()
    if (value === '' || role === undefined) {
      const why = `"${entry.slice(0, 80)}" is not value=role with a role of ${ROLES.join(', ')}`
      throw new VaultMeshError('bad-config', `OIDC_ROLE_MAP: ${why}.`)
    }
    if (map.has(value))
      throw new VaultMeshError('bad-config', `OIDC_ROLE_MAP: names "${value.slice(0, 80)}" twice.`)
    map.set(value, role)
  }
  return map
}

/**
 * The claim at `path`: a name, or names joined by dots that lead into objects (`realm_access.roles`). A name may hold
 * dots itself (`https://example.com/roles`): the longest that is there wins. Undefined if there is none.
 */
export function claimAt(claims: unknown, path: string): unknown {
  if (typeof claims !== 'object' || claims === null || Array.isArray(claims)) return undefined
  for (let end = path.length; end > 0; end = path.lastIndexOf('.', end - 1)) {
    const name = path.slice(0, end)
    if (!Object.hasOwn(claims, name)) continue
    const value = (claims as Record<string, unknown>)[name]
    return end === path.length ? value : claimAt(value, path.slice(end + 1))
  }
  return undefined
}

/**
 * The highest role that the claim at `path` is mapped to, or null: deny by default. The claim is a string or a list of
 * strings, and each counts as a whole: one that holds a mapped value among other words is not that value.
 */
export function roleOfClaims(claims: unknown, path: string, map: RoleMap): Role | null {
  const claim = claimAt(claims, path)
  let best: Role | null = null
  for (const value of Array.isArray(claim) ? (claim as unknown[]) : [claim]) {
    const role = typeof value === 'string' ? map.get(value) : undefined
    if (role !== undefined && (best === null || atLeast(role, best))) best = role
  }
  return best
}

/** Longest address to come back to; the longest that pages make has about 1,300 characters (a search). */
const MAX_NEXT = 1500

/**
 * `next` of /login if it is a page of the dashboard, else the overview: whatever a link says, signing in leads to
 * nobody else's site. Callers put the origin in front all the same.
 */
export function pageAfterSignIn(next: string | null | undefined): string {
  const isPage =
    typeof next === 'string' &&
    next.length <= MAX_NEXT &&
    // Visible ASCII without backslashes, which browsers read as slashes; no path that a proxy may decode into another.
    /^\/dashboard(?:[/?][\x21-\x5b\x5d-\x7e]*)?$/.test(next) &&
    !/\/\/|%2f|%5c|%00|(?:^|\/)(?:\.|%2e){1,2}(?:\/|$)/i.test(next.split(/[?#]/, 1)[0]!)
  return isPage ? next : '/dashboard'
}
