/**
 * Answers that are pages: the security headers every page of this node carries.
 *
 * Scripts and styles come from this origin alone and never stand in the page (CSP 3); nobody may frame a page,
 * nothing is kept in a cache, and no address of ours travels to another site.
 */

import type { HtmlEscapedString } from 'hono/utils/html'

/** What a component gives. */
export type Markup = HtmlEscapedString | Promise<HtmlEscapedString>

/** What differs from page to page. */
export interface HtmlOptions {
  readonly status?: number
  readonly headers?: Readonly<Record<string, string>>
  /** Origins beside our own that a form may lead to, also by redirects: that of the identity provider. */
  readonly formAction?: readonly string[]
}

/** The headers of a page. */
export function pageHeaders({ headers = {}, formAction = [] }: HtmlOptions = {}): Headers {
  const forms = ["'self'", ...formAction].join(' ')
  return new Headers({
    'content-type': 'text/html; charset=utf-8',
    'content-security-policy': `default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self' data:; connect-src 'self'; form-action ${forms}; frame-ancestors 'none'; base-uri 'none'`,
    'cache-control': 'no-store',
    'x-content-type-options': 'nosniff',
    // Not no-referrer: under that a form is posted with `Origin: null`, which the actions refuse.
    'referrer-policy': 'same-origin',
    'cross-origin-opener-policy': 'same-origin',
    'cross-origin-resource-policy': 'same-origin',
    'permissions-policy': 'camera=(), geolocation=(), microphone=()',
    ...headers,
  })
}

/** A page as an answer. */
export async function html(node: Markup, options: HtmlOptions = {}): Promise<Response> {
  // A component may be a promise; text is what comes out of both.
  const text = await (await node).toString()
  return new Response(`<!doctype html>${text}`, {
    status: options.status ?? 200,
    headers: pageHeaders(options),
  })
}
