/**
 * One HTTP call to a stranger: bounded in time and size, redirects not followed, and no error that
 * quotes the URL, which may hold credentials, or what was answered. What the body means is the
 * caller's to check; a status that it does not expect is refused here, because 429 and 502 pages
 * have been parsed as data by others (reference §6).
 */

import { concat, toBase64, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'

export type Fetch = (url: string, init?: RequestInit) => Promise<Response>

/** Ten seconds is a slow network, not a slow node. */
export const DEFAULT_TIMEOUT_MS = 10_000

/** Where to ask. */
export interface Endpoint {
  /** Without user and password, without a slash at its end. */
  readonly address: string
  readonly authorization: string | null
  /** Host and port: the name in errors. */
  readonly name: string
}

export interface Call {
  readonly fetch: Fetch
  readonly endpoint: Endpoint
  /** Appended to the address. */
  readonly path?: string
  readonly init?: Omit<RequestInit, 'redirect' | 'signal'>
  /** Statuses whose body is read. */
  readonly statuses: readonly number[]
  readonly maxBytes: number
  readonly timeoutMs: number
}

/** Status and body of an answer; throws `anchor-failed` naming host and fault. */
export async function boundedFetch(
  call: Call,
): Promise<{ readonly status: number; readonly body: Uint8Array }> {
  const { endpoint, init = {}, maxBytes, timeoutMs } = call
  const signal = AbortSignal.timeout(timeoutMs)
  const headers = new Headers(init.headers)
  if (endpoint.authorization !== null) headers.set('authorization', endpoint.authorization)
  try {
    const response = await call.fetch(`${endpoint.address}${call.path ?? ''}`, {
      ...init,
      headers: Object.fromEntries(headers),
      redirect: 'manual',
      signal,
    })
    if (!call.statuses.includes(response.status)) {
      await response.body?.cancel()
      throw failure(endpoint, `answered HTTP ${response.status}`)
    }
    return { status: response.status, body: await readCapped(response, endpoint, maxBytes) }
  } catch (error) {
    if (error instanceof VaultMeshError) throw error
    const fault = signal.aborted ? `did not answer within ${timeoutMs} ms` : 'could not be reached'
    throw failure(endpoint, fault)
  }
}

/** Splits user and password off a URL. Throws `bad-config`, which does not quote it. */
export function parseEndpoint(text: string, what: string): Endpoint {
  const url = URL.canParse(text) ? new URL(text) : null
  if (url === null || (url.protocol !== 'https:' && url.protocol !== 'http:')) {
    throw new VaultMeshError('bad-config', `The address of ${what} must be an http or https URL.`)
  }
  if (url.search !== '' || url.hash !== '') {
    throw new VaultMeshError('bad-config', `The address of ${what} has a query or a fragment.`)
  }
  const secret = `${decoded(url.username, what)}:${decoded(url.password, what)}`
  url.username = ''
  url.password = ''
  return {
    address: url.href.replace(/\/+$/, ''),
    authorization: secret === ':' ? null : `Basic ${toBase64(utf8(secret))}`,
    name: url.host,
  }
}

/** An attempt that failed at `endpoint`: `fault` says what it did, in words of ours. */
export function failure({ name }: Pick<Endpoint, 'name'>, fault: string): VaultMeshError {
  return new VaultMeshError('anchor-failed', `${name} ${fault}.`, { extra: { host: name } })
}

function decoded(text: string, what: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    throw new VaultMeshError('bad-config', `The credentials of ${what} are not percent-encoded.`)
  }
}

async function readCapped(
  response: Response,
  endpoint: Endpoint,
  maxBytes: number,
): Promise<Uint8Array> {
  const chunks: Uint8Array[] = []
  let size = 0
  // Leaving the loop by a throw cancels the stream.
  for await (const chunk of response.body ?? []) {
    size += chunk.length
    if (size > maxBytes) throw failure(endpoint, `answered with more than ${maxBytes} bytes`)
    chunks.push(chunk)
  }
  return concat(...chunks)
}
