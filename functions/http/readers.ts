/**
 * Who may read how the node does: /metrics and the Guardian. Anybody, unless METRICS_TOKEN is set.
 */

import { equal, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'
import { TOKEN_PREFIX } from '#store/api-tokens.ts'
import { isOperator } from './admin.ts'
import { guarded } from './dashboard-guard.ts'
import type { Call } from './route.ts'

/**
 * Throws `unauthorized` if METRICS_TOKEN is set and the request carries neither it nor the operator's token, and
 * what `guarded` throws for an API token without the scope `read:metrics`.
 */
export async function readersOnly(call: Call): Promise<void> {
  const token = call.env.METRICS_TOKEN ?? ''
  if (token === '' || isOperator(call)) return
  const given = /^Bearer (.+)$/.exec(call.request.headers.get('authorization') ?? '')?.[1] ?? ''
  if (given.startsWith(TOKEN_PREFIX)) {
    await guarded(call, 'viewer', 'read:metrics')
    return
  }
  // Hashes have one length, so the comparison tells nothing about the token's.
  if (equal(sha256(utf8(given)), sha256(utf8(token)))) return
  throw new VaultMeshError('unauthorized', 'METRICS_TOKEN is missing or wrong.')
}
