/**
 * Free ports of 127.0.0.1, below the range from which the kernel takes ports for outgoing connections
 * (32768 up): a part that restarts must find its port free again.
 */

import { createServer } from 'node:net'
import { VaultMeshError } from '#core/errors.ts'

/**
 * `port` itself, or for 0 one that nobody listens on now. Throws `bad-config` if `port` is in use: a
 * stranger that answers there must not pass for the part that could not start.
 */
export async function portOrFree(port: number): Promise<number> {
  if (port !== 0) {
    if (await isFree(port)) return port
    throw new VaultMeshError('bad-config', `Port ${port} on 127.0.0.1 is in use.`)
  }
  for (;;) {
    const candidate = 20_000 + Math.floor(Math.random() * 12_000)
    if (await isFree(candidate)) return candidate
  }
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer()
  const free = await new Promise<boolean>((done) => {
    server.once('error', () => done(false))
    server.listen(port, '127.0.0.1', () => done(true))
  })
  if (free) await new Promise((closed) => server.close(closed))
  return free
}
