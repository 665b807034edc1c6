/**
 * A real RFC 3161 authority for devnet and tests: `openssl ts -reply` behind node:http.
 *
 * Trust: none. It is whoever made `dir`, which holds its CA and unit keys (mode 0600); its root is
 * for networks that are named as dev. Requests are served one by one, because openssl keeps the
 * serial number in a file. Faults are switched at run time and are for tests only.
 *
 *   node scripts/devnet/tsa.ts --dir .devnet/tsa --port 8318 [--kind rsa]
 */

import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import type { KeyKind } from './tsa-authority.ts'
import { ensureAuthority, reply } from './tsa-authority.ts'

/** How the server misbehaves until told otherwise. */
export type TsaFault =
  | 'none'
  | 'down'
  | 'hang'
  | `slow:${number}`
  | 'garbage'
  | 'badsig'
  | 'wrong-nonce'
  | 'wrong-imprint'
  | 'rejected'
  | 'reset'
  | 'html'
  | 'redirect'
  | 'oversized'

export interface Tsa {
  readonly url: string
  readonly rootPem: string
  readonly port: number
  stop(): Promise<void>
  setFault(fault: TsaFault): void
}

/** A query of ours is 70–78 bytes; a stranger's with extensions is still far below this. */
const MAX_QUERY_BYTES = 4096
const REPLY = { 'content-type': 'application/timestamp-reply' }

/** Starts the authority; makes its CA in `dir` if there is none. Port 0 picks a free one. */
export async function startTsa({
  dir,
  port,
  kind = 'ec',
  host = '127.0.0.1',
}: {
  readonly dir: string
  readonly port: number
  readonly kind?: KeyKind
  readonly host?: string
}): Promise<Tsa> {
  const authority = await ensureAuthority(dir, kind)
  let fault: TsaFault = 'none'
  let last: Promise<unknown> = Promise.resolve()
  const sign = (query: Uint8Array, section?: string) => {
    const next = last.then(() => reply(authority, query, section))
    last = next.catch(() => {})
    return next
  }
  const server = createServer((request, response) => {
    answer(request, response, { fault, sign }).catch((error: unknown) => {
      if (!response.headersSent) response.writeHead(500)
      response.end(error instanceof Error ? error.message : 'failed')
    })
  })
  await new Promise<void>((resolve, reject) => {
    server.once('error', reject)
    server.listen(port, host, resolve)
  })
  const bound = (server.address() as AddressInfo).port
  return {
    url: `http://${host}:${bound}/`,
    rootPem: authority.rootPem,
    port: bound,
    setFault(next) {
      fault = next
    },
    async stop() {
      const closed = new Promise<void>((resolve) => server.close(() => resolve()))
      server.closeAllConnections()
      await closed
      await last
    },
  }
}

async function answer(
  request: IncomingMessage,
  response: ServerResponse,
  {
    fault,
    sign,
  }: { fault: TsaFault; sign: (query: Uint8Array, section?: string) => Promise<Uint8Array> },
): Promise<void> {
  const query = await body(request)
  if (fault === 'hang') return
  if (fault === 'reset') {
    request.socket.resetAndDestroy()
    return
  }
  if (fault === 'down') return void response.writeHead(503).end('down for maintenance')
  if (fault === 'redirect') return void response.writeHead(307, { location: '/elsewhere' }).end()
  if (fault === 'html') {
    return void response.writeHead(200, { 'content-type': 'text/html' }).end('<p>Please log in</p>')
  }
  if (fault === 'garbage') return void response.writeHead(200, REPLY).end('not DER at all')
  if (fault === 'oversized')
    return void response.writeHead(200, REPLY).end(Buffer.alloc(200_000, 48))
  if (request.method !== 'POST') return void response.writeHead(405, { allow: 'POST' }).end()
  if (request.headers['content-type'] !== 'application/timestamp-query') {
    return void response.writeHead(415).end()
  }
  if (query === null) return void response.writeHead(413).end()
  if (fault.startsWith('slow:')) await sleep(Number(fault.slice('slow:'.length)))
  // Our request is … OCTET STRING(32) imprint, INTEGER nonce, BOOLEAN TRUE: both ends are known.
  if (fault === 'wrong-nonce') flip(query, query.length - 4)
  if (fault === 'wrong-imprint') flip(query, query.indexOf('0420', 0, 'hex') + 2)
  const signed = await sign(query, fault === 'rejected' ? 'rejecting' : undefined)
  // The signature is the last field of the last structure.
  if (fault === 'badsig') flip(signed, signed.length - 5)
  response.writeHead(200, REPLY).end(signed)
}

function flip(bytes: Uint8Array, at: number): void {
  bytes.set([(bytes.at(at) ?? 0) ^ 1], at)
}

async function body(request: IncomingMessage) {
  const chunks: Buffer[] = []
  let size = 0
  for await (const chunk of request) {
    size += (chunk as Buffer).length
    if (size <= MAX_QUERY_BYTES) chunks.push(chunk as Buffer)
  }
  return size > MAX_QUERY_BYTES ? null : Buffer.concat(chunks)
}

if (import.meta.main) {
  const { values } = parseArgs({
    options: {
      dir: { type: 'string', default: '.devnet/tsa' },
      port: { type: 'string', default: '8318' },
      kind: { type: 'string', default: 'ec' },
    },
  })
  const kind = values.kind === 'rsa' ? 'rsa' : 'ec'
  const tsa = await startTsa({ dir: values.dir, port: Number(values.port), kind })
  console.log(`tsa ${tsa.url} (${kind}), root in ${values.dir}/root-${kind}.pem`)
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => void tsa.stop())
}
