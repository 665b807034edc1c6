/**
 * Request bodies under a limit: never more is held than the limit allows, whatever the client claims.
 */

import { VaultMeshError, type Code } from '#core/errors.ts'

/** The body's bytes; throws `code` with the limit if there are more than `limit`. */
export async function readBody(request: Request, limit: number, code: Code): Promise<Uint8Array> {
  const tooLarge = (): VaultMeshError =>
    new VaultMeshError(code, `The body has more than ${limit} bytes.`, { extra: { limit } })
  const claimed = request.headers.get('content-length')
  if (claimed !== null) {
    if (Number(claimed) > limit) throw tooLarge()
    // The runtime holds the client to its Content-Length.
    return new Uint8Array(await request.arrayBuffer())
  }
  if (request.body === null) return new Uint8Array(0)
  const parts: Uint8Array[] = []
  let size = 0
  for await (const part of request.body as ReadableStream<Uint8Array>) {
    size += part.length
    if (size > limit) throw tooLarge()
    parts.push(part)
  }
  const out = new Uint8Array(size)
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
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
