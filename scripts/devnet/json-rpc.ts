/**
 * A JSON-RPC caller for the devnet's own chain parts (bitcoind speaks 1.0, anvil 2.0; both take this).
 * For scripts and tests only: no retry, no limits; the rails have their own.
 */

import { VaultMeshError } from '#core/errors.ts'

/** Calls `method`; throws `anchor-failed` with the node's message, its code in `extra.rpcCode`. */
export type Rpc = <T = unknown>(method: string, params?: readonly unknown[]) => Promise<T>

/** A caller of `url`; user and password in it go into the Authorization header. */
export function rpcOf(url: string, path = ''): Rpc {
  const target = new URL(url)
  const headers: Record<string, string> = { 'content-type': 'application/json' }
  if (target.username !== '') {
    headers['authorization'] = `Basic ${btoa(`${target.username}:${target.password}`)}`
    target.username = target.password = ''
  }
  if (path !== '') target.pathname = path
  return async <T>(method: string, params: readonly unknown[] = []): Promise<T> => {
    const body = JSON.stringify({ jsonrpc: '2.0', id: 1, method, params })
    const response = await fetch(target, { method: 'POST', headers, body })
    const text = await response.text()
    const answer = parsed(text)
    if (answer === null) {
      throw new VaultMeshError(
        'anchor-failed',
        `${method}: HTTP ${response.status}: ${text.slice(0, 200)}`,
      )
    }
    if (answer.error !== undefined && answer.error !== null) {
      const { code, message } = answer.error
      throw new VaultMeshError('anchor-failed', `${method}: ${message} (${code})`, {
        extra: { rpcCode: code },
      })
    }
    return answer.result as T
  }
}

interface Answer {
  readonly result?: unknown
  readonly error?: { readonly code: number; readonly message: string } | null
}

function parsed(text: string): Answer | null {
  try {
    const value = JSON.parse(text) as Answer | null
    return typeof value === 'object' ? value : null
  } catch {
    return null
  }
}
