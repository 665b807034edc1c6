/**
 * Refusals as RFC 9457 problem details: what was wrong, the limit, what to do next.
 */

import { codes, VaultMeshError, type Code } from '#core/errors.ts'

/** Seconds after which a refused caller may try again. */
const RETRY_AFTER: Partial<Record<Code, number>> = {
  'rate-limited': 60,
  overloaded: 2,
  'storage-failed': 1,
  'not-ready': 5,
  'not-sealed': 2,
  // The next log is open within seconds where the node runs by itself.
  'log-forked': 5,
  'provider-failed': 5,
}

/** The problem body of an error. `type` is a page on this node that explains the code. */
export function problemOf(error: VaultMeshError): Record<string, unknown> {
  const { status, title, advice } = codes[error.code]
  return {
    type: `/problems/${error.code}`,
    title,
    status,
    detail: error.message,
    advice,
    ...error.extra,
  }
}

/** The problem answer of an error, with Retry-After where waiting helps. */
export function problemResponse(error: VaultMeshError, requestId: string): Response {
  const headers = new Headers({
    'content-type': 'application/problem+json',
    'cache-control': 'no-store',
    'x-request-id': requestId,
  })
  const wait = error.extra['retryAfter'] ?? RETRY_AFTER[error.code]
  if (wait !== undefined) headers.set('retry-after', String(wait))
  if (error.code === 'unauthorized' || error.code === 'sign-in-required')
    headers.set('www-authenticate', 'Bearer')
  return new Response(JSON.stringify({ ...problemOf(error), requestId }), {
    status: error.status,
    headers,
  })
}

/**
 * Any thrown value as one of ours. An error that crossed an RPC keeps its name, code and message; all
 * else is `internal`, and its message stays in the log: it may hold what a caller must not see.
 */
export function asVaultMeshError(error: unknown, fallback: Code = 'internal'): VaultMeshError {
  if (error instanceof VaultMeshError) return error
  if (
    error instanceof Error &&
    'code' in error &&
    typeof error.code === 'string' &&
    Object.hasOwn(codes, error.code)
  ) {
    const extra = 'extra' in error ? (error.extra as VaultMeshError['extra']) : {}
    return new VaultMeshError(error.code as Code, error.message, { cause: error, extra })
  }
  return new VaultMeshError(fallback, codes[fallback].title + '.', { cause: error })
}
