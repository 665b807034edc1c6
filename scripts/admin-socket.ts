/**
 * /admin on a Unix socket: who may open the file (mode 0600: its owner) is the operator.
 *
 * The token that the Worker asks for is made at start, lives in memory and is added here, so that it is on
 * no disk and no command line. Only /admin/* passes; whatever Authorization a caller sends is dropped.
 */

import { chmodSync, rmSync } from 'node:fs'
import {
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type ServerResponse,
} from 'node:http'

/** Serves `path` for the node at `url`; returns what ends it. */
export async function serveAdmin(
  path: string,
  url: string,
  token: string,
): Promise<{ close(): Promise<void> }> {
  const server = createServer((request, response) => forward(request, response, { url, token }))
  rmSync(path, { force: true })
  // Between bind and chmod the file would have the umask's mode.
  const before = process.umask(0o177)
  try {
    await new Promise<void>((resolve, reject) => {
      server.once('error', reject)
      server.listen(path, resolve)
    })
  } finally {
    process.umask(before)
  }
  chmodSync(path, 0o600)
  return {
    async close() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      server.closeAllConnections()
      await closed
      rmSync(path, { force: true })
    },
  }
}

function forward(
  request: IncomingMessage,
  response: ServerResponse,
  node: { readonly url: string; readonly token: string },
): void {
  // Resolved first: /admin/../events is not below /admin.
  const target = new URL(request.url ?? '/', node.url)
  if (!target.pathname.startsWith('/admin/') || target.origin !== new URL(node.url).origin) {
    response.writeHead(404).end()
    return
  }
  const onward = httpRequest(
    target,
    { method: request.method, headers: { authorization: `Bearer ${node.token}` } },
    (answer) => {
      const type = answer.headers['content-type'] ?? 'application/octet-stream'
      response.writeHead(answer.statusCode ?? 502, { 'content-type': type })
      answer.pipe(response)
    },
  )
  onward.on('error', () => {
    if (!response.headersSent) response.writeHead(502)
    response.end()
  })
  request.pipe(onward)
}

/** One request through the socket; rejects with the system's error if nobody serves it. */
export function askAdmin(
  path: string,
  method: 'GET' | 'POST',
  target: string,
): Promise<{ readonly status: number; readonly body: string }> {
  return new Promise((resolve, reject) => {
    const request = httpRequest({ socketPath: path, method, path: target }, (response) => {
      const chunks: Buffer[] = []
      response.on('data', (chunk: Buffer) => chunks.push(chunk))
      response.on('error', reject)
      response.on('end', () =>
        resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString() }),
      )
    })
    request.on('error', reject)
    request.end()
  })
}
