/**
 * GET /verify: a page for anybody that verifies a receipt in the visitor's browser. The node has no part in it: the
 * policy of the page lets it load its script and nothing else, `connect-src 'none'`.
 */

import { VerifyPage } from '../dashboard/verify-page.tsx'
import { html } from './html.ts'
import { route } from './route.ts'

const CSP =
  "default-src 'none'; style-src 'self'; script-src 'self'; worker-src 'self'; img-src data:; connect-src 'none'; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"

/** GET /verify. */
export const getVerifyPage = route({
  method: 'GET',
  path: '/verify',
  tag: 'docs',
  summary: 'Verify a receipt in your browser, without this node',
  answers: { 200: { description: 'a page', content: { 'text/html': null } } },
  async handle() {
    return html(VerifyPage(), {
      headers: { 'content-security-policy': CSP, 'cache-control': 'no-cache' },
    })
  },
})
