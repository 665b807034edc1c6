/**
 * The way to an action, for those who may: a link to the page that says what will happen and asks (http/actions.tsx).
 * Nothing is done by following it.
 */

import { mayDo, type Action, type Role, type Scope } from '#core/roles.ts'

/** Who looks, as far as actions care. */
export interface Actor {
  readonly role: Role
  readonly scopes: readonly Scope[] | null
}

/** The link, or nothing for those who may not. `fields` say what it is about. */
export function Act({
  viewer: { role, scopes },
  action,
  name,
  fields = {},
}: {
  readonly viewer: Actor
  readonly action: Action
  readonly name: string
  readonly fields?: Readonly<Record<string, string | number>>
}) {
  // A machine has no session that a form could belong to.
  if (scopes !== null || !mayDo(role, scopes, action)) return null
  const query = new URLSearchParams(Object.entries(fields).map(([k, v]) => [k, String(v)]))
  const path = `/dashboard/actions/${action}`
  return (
    <a class="action" href={query.size === 0 ? path : `${path}?${query.toString()}`}>
      {name}
    </a>
  )
}
