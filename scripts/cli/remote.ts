/**
 * GET of a node's JSON for commands, with the SDK's words for what goes wrong.
 */

import { problemFrom, RemoteProblem } from '../../functions/sdk.ts'

/** The answer's text; throws `RemoteProblem` for a refusal or no answer. */
export async function getText(url: string, headers: Record<string, string> = {}): Promise<string> {
  let response: Response
  let body: string
  try {
    response = await fetch(url, { headers })
    body = await response.text()
  } catch (cause) {
    throw noAnswer(new URL(url).origin, cause)
  }
  if (response.ok) return body
  throw problemFrom(response.status, parsed(body))
}

/** The answer's JSON. */
export async function getJson<T>(url: string, headers: Record<string, string> = {}): Promise<T> {
  const value = parsed(await getText(url, { accept: 'application/json', ...headers }))
  if (typeof value === 'object' && value !== null) return value as T
  throw new RemoteProblem('unreachable', `${new URL(url).origin} did not answer in JSON.`, {
    advice: 'See that the URL is that of a VaultMesh node.',
  })
}

/** The error for a node that did not answer. */
export function noAnswer(who: string, cause: unknown): RemoteProblem {
  const inner = cause instanceof Error && cause.cause instanceof Error ? cause.cause : cause
  const why = inner instanceof Error ? inner.message : String(inner)
  return new RemoteProblem('unreachable', `${who} does not answer${why === '' ? '' : `: ${why}`}`, {
    advice: 'See that the node runs (make up, or vaultmesh selfhost) and that --url is right.',
    cause,
  })
}

function parsed(body: string): unknown {
  try {
    return JSON.parse(body)
  } catch {
    return null
  }
}
