/**
 * Cross-origin reading and posting (Fetch standard, "CORS protocol").
 *
 * What anyone may read, a page of any origin may read in its visitor's browser, and verify there; an event
 * is authenticated by its signature, so a page may post one, too. No cookie is ever looked at on these
 * paths, so no visitor's rights are lent to the page. Operators' paths (`internal`) say none of this.
 */

/** Headers that a page may send on a cross-origin request. */
const REQUEST_HEADERS = 'content-type, prefer, if-none-match, vaultmesh-webhook, x-request-id'
/** A day; browsers cap it themselves (2 h in Chromium). */
const MAX_AGE_S = 86_400

/** Lets a page of any origin read an answer and its headers. */
export function openToAll(response: Response): Response {
  response.headers.set('access-control-allow-origin', '*')
  response.headers.set('access-control-expose-headers', '*')
  return response
}

/**
 * The answer to OPTIONS on a public path: to a preflight what a page may do, to anybody else the methods.
 * `methods` are those of the path's public routes, with HEAD where there is GET.
 */
export function preflight(request: Request, methods: readonly string[]): Response {
  const allow = [...methods, 'OPTIONS'].join(', ')
  const headers = new Headers({ allow, 'cache-control': 'no-store' })
  if (request.headers.has('access-control-request-method')) {
    headers.set('access-control-allow-methods', methods.join(', '))
    headers.set('access-control-allow-headers', REQUEST_HEADERS)
    headers.set('access-control-max-age', String(MAX_AGE_S))
  }
  return openToAll(new Response(null, { status: 204, headers }))
}
