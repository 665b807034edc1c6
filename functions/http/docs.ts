/**
 * /openapi.json, the page that shows it, and a page for each problem type. Plain HTML of our own: no
 * script, no third-party origin.
 */

import * as z from 'zod'
import { codes, VaultMeshError, type Code } from '#core/errors.ts'
import document from '../../openapi.json'
import { docsBody, page, problemBody, type OpenApi } from './docs-page.ts'
import { json, route } from './route.ts'

/** GET /openapi.json. */
export const getOpenApi = route({
  method: 'GET',
  path: '/openapi.json',
  tag: 'docs',
  summary: 'This API as OpenAPI 3.1',
  answers: { 200: { description: 'the document', content: { 'application/json': null } } },
  async handle() {
    return json(document, 200, { 'cache-control': 'public, max-age=300' })
  },
})

/** Rendered once in an isolate: it changes with the code only. */
let body: string | null = null

/** GET /docs. */
export const getDocs = route({
  method: 'GET',
  path: '/docs',
  tag: 'docs',
  summary: 'This API for people',
  answers: { 200: { description: 'a page', content: { 'text/html': null } } },
  async handle() {
    body ??= docsBody(document as unknown as OpenApi)
    return page('VaultMesh API', body, 'docs')
  },
})

/** GET /: a browser starts here. */
export const getRoot = route({
  method: 'GET',
  path: '/',
  tag: 'docs',
  summary: 'To the docs page',
  answers: { 302: { description: 'to /docs' } },
  async handle() {
    return new Response('See /docs.\n', {
      status: 302,
      headers: { location: '/docs', 'content-type': 'text/plain; charset=utf-8' },
    })
  },
})

/** GET /problems/{code}: what a problem type means and what to do. */
export const getProblemPage = route({
  method: 'GET',
  path: '/problems/{code}',
  tag: 'docs',
  summary: 'What a problem type means, and what to do next',
  params: z.object({
    code: z.string().meta({
      description: 'last part of a problem’s `type`',
      examples: ['bad-signature'],
    }),
  }),
  answers: {
    200: { description: 'a page', content: { 'text/html': null } },
    404: { description: 'no such problem type' },
  },
  async handle({ params }) {
    if (!Object.hasOwn(codes, params.code))
      throw new VaultMeshError('not-found', 'There is no such problem type.')
    const code = params.code as Code
    return page(codes[code].title, problemBody(code))
  },
})
