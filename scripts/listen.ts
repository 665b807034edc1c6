/**
 * The edges of a long-lived program here: the port it is to listen on, and the signal that ends it.
 */

import { createServer } from 'node:net'
import { VaultMeshError } from '#core/errors.ts'

/** Says that the port is taken before the runtime would, in words. */
export async function checkPort(host: string, port: number, option: string): Promise<void> {
  const probe = createServer()
  try {
    await new Promise<void>((ready, reject) => {
      probe.once('error', reject)
      probe.listen(port, host, ready)
    })
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code ?? 'unknown error'
    const why =
      code === 'EADDRINUSE' ? `is in use; name another with ${option}` : `fails with ${code}`
    throw new VaultMeshError('bad-config', `Port ${port} on ${host} ${why}.`)
  }
  await new Promise((closed) => probe.close(closed))
}

/** All that wait: who asks later must not take the signal from who asked before. */
const waiting = new Set<(signal: NodeJS.Signals) => void>()

/**
 * Resolves at SIGINT, SIGTERM or SIGHUP, or when a launcher is gone. Miniflare's own handlers would kill the
 * runtime and exit at once; the orderly stop is ours.
 */
export function untilStopped(): Promise<NodeJS.Signals> {
  return new Promise((stopped) => {
    waiting.add(stopped)
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
      process.removeAllListeners(signal)
      process.on(signal, () => waiting.forEach((tell) => tell(signal)))
    }
    // Of a launcher that could not become this process (services/launch.js): without it nobody would stop us.
    process.once('disconnect', () => stopped('SIGTERM'))
  })
}

/** The command line of a port: a whole number from 1 to 65535. */
export function portOf(text: string, option = '--port'): number {
  const port = Number(text)
  if (/^\d{1,5}$/.test(text) && port > 0 && port < 65_536) return port
  throw new VaultMeshError('bad-config', `${option} ${text} is no port.`)
}
