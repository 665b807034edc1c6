/**
 * GET /assets/{name}: scripts and styles of the pages. A name holds the hash of its text, so that it can be kept
 * for ever and another version is another name.
 *
 * A script says `default-src 'none'` of itself: run as a Worker it is held to that (CSP 3 §4.2.1), so the one that
 * verifies receipts cannot reach any network whatever it is fed.
 */

import * as z from 'zod'
import { assets } from '#assets'
import { VaultMeshError } from '#core/errors.ts'
import { IMMUTABLE, route } from './route.ts'

const byFile = new Map(Object.values(assets).map((asset) => [asset.file, asset]))

/** GET /assets/{name}. */
export const getAsset = route({
  method: 'GET',
  path: '/assets/{name}',
  tag: 'docs',
  summary: 'A script or style of the pages',
  internal: true,
  params: z.object({ name: z.string() }),
  answers: { 200: { description: 'the file' }, 404: { description: 'no such file' } },
  async handle({ request, params }) {
    const asset = byFile.get(params.name)
    if (asset === undefined) throw new VaultMeshError('not-found', 'There is no such asset.')
    const headers: Record<string, string> = {
      'content-type': asset.type,
      'cache-control': IMMUTABLE,
      'content-security-policy': "default-src 'none'",
      'x-content-type-options': 'nosniff',
      'cross-origin-resource-policy': 'same-origin',
      vary: 'accept-encoding',
    }
    // The runtime compresses what says so of itself. Weight 0 is a no (RFC 9110 §12.4.2).
    if (
      /\bgzip\b(?!\s*;\s*q=0(?:\.0*)?\s*(?:,|$))/i.test(
        request.headers.get('accept-encoding') ?? '',
      )
    )
      headers['content-encoding'] = 'gzip'
    return new Response(asset.text, { headers })
  },
})
