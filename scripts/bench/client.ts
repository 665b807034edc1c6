/**
 * A load generator: HTTP/1.1 over kept sockets, one request in flight on each.
 *
 * Written on bare sockets because it shares two cores with the server: Node's fetch costs 120 µs a request,
 * this 20 µs (measured), and what the client burns the server lacks.
 */

import { connect, type Socket } from 'node:net'

/** What a run did. */
export interface LoadResult {
  readonly requests: number
  readonly failed: number
  readonly seconds: number
  readonly perSecond: number
  /** Milliseconds. */
  readonly p50: number
  readonly p99: number
  readonly statuses: Readonly<Record<number, number>>
}

/** How to load a server. */
export interface Load {
  readonly port: number
  readonly connections: number
  /** Stop after so many milliseconds. */
  readonly durationMs: number
  /** The bytes of the next request, or null when there are no more. */
  next(): Buffer | null
  /** Requests a second over all connections; as fast as possible if absent. */
  readonly rate?: number
  /** Looks at each answer's body. */
  readonly onBody?: (status: number, body: Buffer) => void
}

/** The bytes of a request. */
export function request(
  method: string,
  path: string,
  headers: Readonly<Record<string, string>> = {},
  body?: string | Buffer,
): Buffer {
  const payload = body === undefined ? Buffer.alloc(0) : Buffer.from(body)
  const lines = [`${method} ${path} HTTP/1.1`, 'host: 127.0.0.1']
  for (const [name, value] of Object.entries(headers)) lines.push(`${name}: ${value}`)
  if (body !== undefined) lines.push(`content-length: ${payload.length}`)
  return Buffer.concat([Buffer.from(`${lines.join('\r\n')}\r\n\r\n`), payload])
}

/** Loads a server and reports what it answered. */
export async function load(options: Load): Promise<LoadResult> {
  const latencies: number[] = []
  const statuses: Record<number, number> = {}
  const startedAt = performance.now()
  const endAt = startedAt + options.durationMs
  let sent = 0
  const one = async (): Promise<void> => {
    const socket = await open(options.port)
    const reader = new ResponseReader(socket)
    while (performance.now() < endAt) {
      const slot = sent++
      if (options.rate !== undefined) {
        const dueAt = startedAt + (slot / options.rate) * 1000
        const wait = dueAt - performance.now()
        if (wait > 1) await new Promise((resolve) => setTimeout(resolve, wait))
      }
      const bytes = options.next()
      if (bytes === null) break
      const at = performance.now()
      socket.write(bytes)
      const { status, body } = await reader.read()
      latencies.push(performance.now() - at)
      statuses[status] = (statuses[status] ?? 0) + 1
      options.onBody?.(status, body)
    }
    socket.destroy()
  }
  await Promise.all(Array.from({ length: options.connections }, one))
  const seconds = (performance.now() - startedAt) / 1000
  latencies.sort((a, b) => a - b)
  const failed = Object.entries(statuses).reduce(
    (n, [status, count]) => n + (Number(status) >= 400 ? count : 0),
    0,
  )
  return {
    requests: latencies.length,
    failed,
    seconds,
    perSecond: latencies.length / seconds,
    p50: quantile(latencies, 0.5),
    p99: quantile(latencies, 0.99),
    statuses,
  }
}

/** The q-quantile of sorted numbers. */
export function quantile(sorted: readonly number[], q: number): number {
  return sorted[Math.min(sorted.length - 1, Math.floor(sorted.length * q))] ?? Number.NaN
}

function open(port: number): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1', () => resolve(socket))
    socket.setNoDelay(true)
    socket.once('error', reject)
  })
}

class ResponseReader {
  #buffer: Buffer = Buffer.alloc(0)
  #wake: ((error?: Error) => void) | null = null
  #ended: Error | null = null

  constructor(socket: Socket) {
    socket.on('data', (data: Buffer) => {
      this.#buffer = this.#buffer.length === 0 ? data : Buffer.concat([this.#buffer, data])
      this.#wake?.()
    })
    const end = (error?: Error): void => {
      this.#ended = error ?? new Error('connection closed')
      this.#wake?.(this.#ended)
    }
    socket.on('error', end)
    socket.on('close', () => end())
  }

  async read(): Promise<{ status: number; body: Buffer }> {
    for (;;) {
      const found = this.#parse()
      if (found !== null) return found
      if (this.#ended !== null) throw this.#ended
      await new Promise<void>((resolve, reject) => {
        this.#wake = (error) => {
          this.#wake = null
          if (error === undefined) resolve()
          else reject(error)
        }
      })
    }
  }

  #parse(): { status: number; body: Buffer } | null {
    const end = this.#buffer.indexOf('\r\n\r\n')
    if (end < 0) return null
    const head = this.#buffer.toString('latin1', 0, end)
    const status = Number(head.slice(9, 12))
    const length = /\r\ncontent-length: (\d+)/i.exec(head)
    if (length !== null) {
      const bodyEnd = end + 4 + Number(length[1])
      if (this.#buffer.length < bodyEnd) return null
      const body = this.#buffer.subarray(end + 4, bodyEnd)
      this.#buffer = this.#buffer.subarray(bodyEnd)
      return { status, body }
    }
    if (!/\r\ntransfer-encoding: chunked/i.test(head)) {
      this.#buffer = this.#buffer.subarray(end + 4)
      return { status, body: Buffer.alloc(0) }
    }
    const parts: Buffer[] = []
    for (let at = end + 4; ;) {
      const line = this.#buffer.indexOf('\r\n', at)
      if (line < 0) return null
      const size = parseInt(this.#buffer.toString('latin1', at, line), 16)
      if (this.#buffer.length < line + 2 + size + 2) return null
      parts.push(this.#buffer.subarray(line + 2, line + 2 + size))
      at = line + 2 + size + 2
      if (size === 0) {
        this.#buffer = this.#buffer.subarray(at)
        return { status, body: Buffer.concat(parts) }
      }
    }
  }
}
