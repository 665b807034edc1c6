/**
 * From the API to the pages: a browser that follows a link to what the API serves (an alert's, say) is led to the
 * page that shows it; programs get what they always got (RFC 9110 §12.5.1).
 *
 * Only where people can sign in at all: elsewhere a browser is shown the JSON.
 */

import { preferred } from './negotiation.ts'
import type { Call } from './route.ts'

/** Whether a request would rather have a page than JSON. */
export function likesPages(request: Request): boolean {
  return preferred(request, ['application/json', 'text/html']) === 'text/html'
}

/** The redirect to `path` for a browser; null for everybody else. */
export function pageFor(
  { request, node }: Pick<Call<unknown, unknown>, 'request' | 'node'>,
  path: string,
): Response | null {
  if (node.config.signIn === null) return null
  if (!likesPages(request)) return null
  return new Response(null, {
    status: 303,
    headers: { location: path, vary: 'accept', 'cache-control': 'no-store' },
  })
}
