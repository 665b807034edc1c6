/**
 * An HTTP proxy in front of one part of the devnet that misbehaves when told, for tests and labs.
 *
 * It speaks HTTP to both sides, because the faults worth having are about whole requests: above all a
 * request that was carried out and whose reply is lost. Path, query, method, headers (Authorization too)
 * and body reach the target as they came; user and password in the target's URL go into the proxy's
 * own URL, so that a client is moved behind it by changing one port. Each connection serves one
 * request: a fault meets the next request, not a connection that was kept open.
 */

import { createServer, request as httpRequest } from 'node:http'
import type { IncomingHttpHeaders, IncomingMessage, OutgoingHttpHeaders } from 'node:http'
import type { Server, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { portOrFree } from './port.ts'

/** How the proxy misbehaves until told otherwise. */
export type Fault =
  | 'ok'
  /** Nobody listens: connection refused. */
  | 'down'
  /** The request is read and never answered; the target does not see it. */
  | 'hang'
  /** Passed on that many milliseconds later, also if the client has given up by then. */
  | `slow:${number}`
  /** The connection is reset before the target sees anything. */
  | 'reset'
  /** 200 with a login page. */
  | 'html'
  /** 429 with a JSON body and Retry-After. */
  | 'limited'
  | 'error500'
  /** The target's reply with its full Content-Length, half its body, then the end of the connection. */
  | 'cut'
  /** The target carries the request out and answers; the connection is reset instead. */
  | 'lose-reply'
  /** The same, for requests whose JSON-RPC body or URL names METHOD; all others pass. */
  | `lose-reply:${string}`

export interface FaultProxy {
  readonly url: string
  readonly port: number
  /** Requests that came in so far. */
  readonly requests: number
  /** Replies lost so far, after the target had answered. */
  readonly lost: number
  /** In force for every request that comes after it resolves. */
  setFault(fault: Fault): Promise<void>
  stop(): Promise<void>
}

interface Reply {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly body: Buffer
}

/** Starts a proxy for `target` (an http URL, its path ignored) on 127.0.0.1. Port 0 picks a free one. */
export async function startFaultProxy({
  target,
  port: wanted = 0,
}: {
  readonly target: string
  readonly port?: number
}): Promise<FaultProxy> {
  const port = await portOrFree(wanted)
  const to = new URL(target)
  let fault: Fault = 'ok'
  let requests = 0
  let lost = 0
  const answer = async (incoming: IncomingMessage, response: ServerResponse): Promise<void> => {
    requests++
    const body = await read(incoming)
    const now = fault
    if (now === 'hang') return
    if (now === 'reset') return void incoming.socket.resetAndDestroy()
    if (now in CANNED) return send(response, CANNED[now as keyof typeof CANNED])
    if (now.startsWith('slow:')) await sleep(Number(now.slice('slow:'.length)))
    const reply = await forward(to, incoming, body)
    if (losesReply(now, incoming.url ?? '', body)) {
      lost++
      return void incoming.socket.resetAndDestroy()
    }
    if (now === 'cut') return cut(response, reply)
    send(response, reply)
  }
  const open = (): Promise<Server> => {
    const server = createServer((incoming, response) => {
      answer(incoming, response).catch(() => {
        // The target is down: to the client that is a connection that breaks.
        incoming.socket.destroy()
      })
    })
    return new Promise((resolve, reject) => {
      server.once('error', reject)
      server.listen(port, '127.0.0.1', () => resolve(server))
    })
  }
  let server: Server | null = await open()
  const bound = (server.address() as AddressInfo).port
  const close = async (): Promise<void> => {
    const closing = server
    if (closing === null) return
    server = null
    const closed = new Promise<void>((done) => closing.close(() => done()))
    closing.closeAllConnections()
    await closed
  }
  const url = new URL(`http://127.0.0.1:${bound}`)
  url.username = to.username
  url.password = to.password
  return {
    url: url.href.replace(/\/$/, ''),
    port: bound,
    get requests() {
      return requests
    },
    get lost() {
      return lost
    },
    async setFault(next) {
      // Requests that hang are let go: a fault that ends is over for them too.
      if (fault === 'hang') server?.closeAllConnections()
      fault = next
      if (next === 'down') await close()
      else server ??= await open()
    },
    stop: close,
  }
}

const CANNED = {
  html: canned(200, 'text/html', '<!doctype html><title>Log in</title><p>Please log in.</p>'),
  limited: canned(429, 'application/json', '{"error":"rate limit exceeded"}', {
    'retry-after': '1',
  }),
  error500: canned(500, 'text/plain', 'internal error'),
} as const

function canned(status: number, type: string, text: string, more: IncomingHttpHeaders = {}): Reply {
  return { status, headers: { 'content-type': type, ...more }, body: Buffer.from(text) }
}

async function read(stream: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of stream) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}

/** Whether this request is one whose reply is to be lost. */
function losesReply(fault: Fault, url: string, body: Buffer): boolean {
  if (fault === 'lose-reply') return true
  if (!fault.startsWith('lose-reply:')) return false
  const named = fault.slice('lose-reply:'.length)
  return url.includes(named) || methodsOf(body).includes(named)
}

/** Method names of a JSON-RPC call or batch; none if it is no JSON. */
function methodsOf(body: Buffer): unknown[] {
  try {
    return [JSON.parse(body.toString()) as unknown]
      .flat()
      .map((call) => (call as { method?: unknown } | null)?.method)
  } catch {
    return []
  }
}

function forward(to: URL, incoming: IncomingMessage, body: Buffer): Promise<Reply> {
  const headers: IncomingHttpHeaders = { ...incoming.headers, 'content-length': `${body.length}` }
  delete headers['transfer-encoding']
  delete headers.connection
  return new Promise((resolve, reject) => {
    const outgoing = httpRequest(
      {
        host: to.hostname,
        port: to.port,
        method: incoming.method,
        path: incoming.url,
        headers,
        agent: false,
      },
      (answered) => {
        const { statusCode = 502, headers: said } = answered
        read(answered).then(
          (content) => resolve({ status: statusCode, headers: said, body: content }),
          reject,
        )
      },
    )
    outgoing.once('error', reject)
    // A client that has gone, or a proxy that stops, frees the target.
    incoming.socket.once('close', () => outgoing.destroy())
    outgoing.end(body)
  })
}

function send(response: ServerResponse, { status, headers, body }: Reply): void {
  response.writeHead(status, passed(headers, body)).end(body)
}

function cut(response: ServerResponse, { status, headers, body }: Reply): void {
  response.writeHead(status, passed(headers, body))
  response.write(body.subarray(0, body.length >> 1), () => response.socket?.end())
}

/** Headers that are about the message, not about the connection to the target. */
function passed(headers: IncomingHttpHeaders, body: Buffer): OutgoingHttpHeaders {
  const { 'keep-alive': _, 'transfer-encoding': __, ...rest } = headers
  return { ...rest, connection: 'close', 'content-length': body.length }
}
