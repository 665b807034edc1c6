/**
 * Request bodies under a limit: never more is held than the limit allows, whatever the client claims.
 */

import { VaultMeshError, type Code } from '#core/errors.ts'

/**
 * Of a body that is too large, so much is read and thrown away: a client that still writes when the
 * connection closes sees a broken pipe and never the 413. Twice the largest bulk.
 */
const MAX_DRAIN_BYTES = 16_777_216

/**
 * The body's bytes; throws `code` with the limit (`named`, if callers know it by another number) when
 * there are more than `limit`, and `bad-body` when they end before the client said they would.
 */
export async function readBody(
  request: Request,
  limit: number,
  code: Code,
  named = limit,
): Promise<Uint8Array> {
  const tooLarge = (): VaultMeshError =>
    new VaultMeshError(code, `The body has more than ${named} bytes.`, { extra: { limit: named } })
  const claimed = request.headers.get('content-length')
  if (claimed !== null && Number(claimed) > MAX_DRAIN_BYTES) throw tooLarge()
  if (claimed !== null && Number(claimed) <= limit) {
    // The runtime holds the client to its Content-Length.
    return new Uint8Array(await request.arrayBuffer().catch(cutShort))
  }
  if (request.body === null) return new Uint8Array(0)
  const parts: Uint8Array[] = []
  let size = 0
  const reader = (request.body as ReadableStream<Uint8Array>).getReader()
  for (;;) {
    const { done, value } = await reader.read().catch(cutShort)
    if (done) break
    size += value.length
    if (size <= limit) parts.push(value)
    else {
      parts.length = 0
      if (size > MAX_DRAIN_BYTES) break
    }
  }
  if (size > limit) {
    await reader.cancel().catch(() => undefined)
    throw tooLarge()
  }
  const out = new Uint8Array(size)
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

/** A body whose length or chunks are broken (RFC 9112 §8): the sender's fault, not ours. */
function cutShort(cause: unknown): never {
  throw new VaultMeshError('bad-body', 'The body ended too early or its framing is broken.', {
    cause,
  })
}

/** The media type without parameters, in lowercase; empty if there is none. */
export function mediaType(request: Request): string {
  return (request.headers.get('content-type') ?? '').split(';')[0]!.trim().toLowerCase()
}

/** `bytes` without trailing CR, LF, space or tab: `curl --data-binary @file` sends the last newline. */
export function trimEnd(bytes: Uint8Array): Uint8Array {
  let end = bytes.length
  while (
    end > 0 &&
    (bytes[end - 1] === 0x0a ||
      bytes[end - 1] === 0x0d ||
      bytes[end - 1] === 0x20 ||
      bytes[end - 1] === 0x09)
  )
    end--
  return bytes.subarray(0, end)
}
