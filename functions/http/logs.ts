/**
 * Asking the instance that keeps the logs before this one (binding PREVIOUS; log-path.ts says what for).
 */

import { VaultMeshError } from '#core/errors.ts'
import { likesPages } from './page-for.ts'

/** Hands a request on to the instance before this one; as a program's, for the pages are the current log's. */
export async function askPrevious(request: Request, env: Env): Promise<Response> {
  const { PREVIOUS } = env
  if (PREVIOUS === undefined) {
    throw new VaultMeshError('not-found', 'The logs before this one are not kept here.')
  }
  const plain = new Request(request)
  if (likesPages(plain)) plain.headers.delete('accept')
  const answer = await PREVIOUS.fetch(plain)
  // Headers of a fetched response cannot be changed.
  return new Response(answer.body, answer)
}

/** What the logs before this one say to a request that this one has no answer to; null if neither have they. */
export async function fromPrevious({
  request,
  env,
}: {
  readonly request: Request
  readonly env: Env
}): Promise<Response | null> {
  if (env.PREVIOUS === undefined) return null
  const answer = await askPrevious(new Request(request.url, { headers: request.headers }), env)
  if (answer.status !== 404) return answer
  await answer.body?.cancel()
  return null
}
