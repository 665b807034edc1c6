/**
 * /admin on a Unix socket: who may open the file (mode 0600: its owner) is the operator.
 *
 * The token that the Worker asks for is made at start, lives in memory and is added here, so that it is on
 * no disk and no command line. Only /admin/* passes; whatever Authorization a caller sends is dropped.
 *
 * What an operator changes is on disk in the audit before it is passed on, and how it ended after: where that cannot be
 * written, nothing is done. Each request gets an id, which goes with it through the node.
 */

import { randomUUID } from 'node:crypto'
import { chmodSync, rmSync } from 'node:fs'
import {
  createServer,
  request as httpRequest,
  type IncomingMessage,
  type ServerResponse,
} from 'node:http'
import { isCommand, targetOf, TOLD_HEADER } from '#core/audit-line.ts'
import type { AuditFiles } from './audit-files.ts'

/** What a process answers itself, by method and path. */
export type Local = Readonly<Record<string, () => Promise<object>>>

/** The node behind a socket. */
export interface Served {
  readonly url: string
  readonly token: string
  /** Where commands are written down; nowhere without it. */
  readonly audit?: AuditFiles
  /** How many logs it has: the newest answers unless a request names another. */
  readonly logs?: () => number
  readonly local?: Local
}

/** Serves `path` for a node; returns what ends it. */
export async function serveAdmin(path: string, node: Served): Promise<{ close(): Promise<void> }> {
  const server = createServer((request, response) => forward(request, response, node))
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

function forward(request: IncomingMessage, response: ServerResponse, node: Served): void {
  const { method = 'GET' } = request
  // Resolved first: /admin/../events is not below /admin.
  const target = new URL(request.url ?? '/', node.url)
  if (!target.pathname.startsWith('/admin/') || target.origin !== new URL(node.url).origin) {
    response.writeHead(404).end()
    return
  }
  const requestId = randomUUID()
  const log = Number(
    /^[1-9]\d?$/.exec(target.searchParams.get('log') ?? '')?.[0] ?? node.logs?.() ?? 1,
  )
  const command = { kind: 'operator', log, requestId, method, target: targetOf(target) } as const
  const isTold = node.audit !== undefined && isCommand(method, target)
  response.setHeader('x-request-id', requestId)
  try {
    if (isTold) node.audit.write([{ ...command, outcome: 'begun' }])
  } catch (error) {
    const detail = `The audit cannot be written, so nothing was done: ${String(error)}.`
    send(response, 503, { type: '/problems/storage-failed', status: 503, detail, requestId })
    return
  }
  const ended = (status: number): void => {
    const outcome = status < 400 ? 'done' : status < 500 ? 'refused' : 'failed'
    try {
      if (isTold) node.audit.write([{ ...command, outcome, status }])
    } catch (error) {
      // It is done: that it was begun is on disk, and an end that is missing says to look.
      console.error(`vaultmesh: the audit cannot be written: ${String(error)}`)
    }
  }
  const local = node.local?.[`${method} ${target.pathname}`]
  if (local !== undefined) {
    request.resume()
    void answerLocally(local, requestId, { response, ended })
    return
  }
  const headers = {
    authorization: `Bearer ${node.token}`,
    'x-request-id': requestId,
    ...(isTold ? { [TOLD_HEADER]: '1' } : {}),
  }
  const onward = httpRequest(target, { method, headers }, (answer) => {
    const type = answer.headers['content-type'] ?? 'application/octet-stream'
    const status = answer.statusCode ?? 502
    ended(status)
    response.writeHead(status, { 'content-type': type })
    answer.pipe(response)
  })
  onward.on('error', () => {
    if (response.headersSent) response.end()
    else {
      ended(502)
      response.writeHead(502).end()
    }
  })
  request.pipe(onward)
}

async function answerLocally(
  local: () => Promise<object>,
  requestId: string,
  { response, ended }: { readonly response: ServerResponse; ended(status: number): void },
): Promise<void> {
  try {
    const value = await local()
    ended(200)
    send(response, 200, value)
  } catch (error) {
    ended(503)
    const detail = error instanceof Error ? error.message : String(error)
    send(response, 503, { type: '/problems/storage-failed', status: 503, detail, requestId })
  }
}

function send(response: ServerResponse, status: number, value: unknown): void {
  const type = status === 200 ? 'application/json' : 'application/problem+json'
  response.writeHead(status, { 'content-type': type }).end(JSON.stringify(value))
}

/**
 * One request through the socket; rejects with the system's error if nobody serves it, or if nothing was heard for
 * `timeoutMs` (0: wait for ever).
 */
export function askAdmin(
  path: string,
  method: 'GET' | 'POST',
  target: string,
  timeoutMs = 0,
  body = '',
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
    request.setTimeout(timeoutMs, () => request.destroy(new Error(`no answer in ${timeoutMs} ms`)))
    request.end(body)
  })
}
