/**
 * /openapi.json, the page that shows it, and a page for each problem type. Plain HTML of our own: no
 * script, no third-party origin.
 */

import * as z from 'zod'
import { codes, VaultMeshError, type Code } from '#core/errors.ts'
import document from '../../openapi.json'
import { json, route } from './route.ts'

const CSP =
  "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"

/** GET /openapi.json. */
export const getOpenApi = route({
  method: 'GET',
  path: '/openapi.json',
  tag: 'docs',
  summary: 'This API as OpenAPI 3.1',
  answers: { 200: { description: 'the document', content: { 'application/json': null } } },
  async handle() {
    return json(document, 200, {
      'cache-control': 'public, max-age=300',
      'access-control-allow-origin': '*',
    })
  },
})

/** GET /docs. */
export const getDocs = route({
  method: 'GET',
  path: '/docs',
  tag: 'docs',
  summary: 'This API for people',
  answers: { 200: { description: 'a page', content: { 'text/html': null } } },
  async handle() {
    return page('VaultMesh API', '<h1>VaultMesh API</h1>')
  },
})

/** GET /problems/{code}: what a problem type means and what to do. */
export const getProblemPage = route({
  method: 'GET',
  path: '/problems/{code}',
  tag: 'docs',
  summary: 'What a problem type means, and what to do next',
  params: z.object({ code: z.string() }),
  answers: {
    200: { description: 'a page', content: { 'text/html': null } },
    404: { description: 'no such problem type' },
  },
  async handle({ params }) {
    if (!Object.hasOwn(codes, params.code))
      throw new VaultMeshError('not-found', 'There is no such problem type.')
    const { title, status, advice } = codes[params.code as Code]
    return page(
      title,
      `<h1>${escape(title)}</h1><p><code>${params.code}</code>, HTTP ${status}</p><p>${escape(advice)}</p>`,
    )
  },
})

function page(title: string, body: string): Response {
  return new Response(
    `<!doctype html><html lang="en"><meta charset="utf-8"><title>${escape(title)}</title>${body}</html>`,
    {
      headers: {
        'content-type': 'text/html; charset=utf-8',
        'content-security-policy': CSP,
        'x-content-type-options': 'nosniff',
        'cache-control': 'public, max-age=300',
      },
    },
  )
}

function escape(text: string): string {
  return text
    .replaceAll('&', '&amp;')
    .replaceAll('<', '&lt;')
    .replaceAll('>', '&gt;')
    .replaceAll('"', '&quot;')
}
