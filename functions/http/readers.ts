/**
 * Who may read how the node does: /metrics and the Guardian. Anybody, unless METRICS_TOKEN is set.
 */

import { equal, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'
import { isOperator } from './admin.ts'
import type { Call } from './route.ts'

/** Throws `unauthorized` if METRICS_TOKEN is set and the request carries neither it nor the operator's token. */
export function readersOnly(call: Pick<Call, 'env' | 'request'>): void {
  const token = call.env.METRICS_TOKEN ?? ''
  if (token === '' || isOperator(call)) return
  const given = /^Bearer (.+)$/.exec(call.request.headers.get('authorization') ?? '')?.[1] ?? ''
  // Hashes have one length, so the comparison tells nothing about the token's.
  if (equal(sha256(utf8(given)), sha256(utf8(token)))) return
  throw new VaultMeshError('unauthorized', 'METRICS_TOKEN is missing or wrong.')
}
