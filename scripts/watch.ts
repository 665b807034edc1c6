/**
 * sealer and anchor-manager: a process beside the node that wakes one of its jobs by a clock of its own.
 *
 *   vaultmesh watch sealer|anchors [--home DIR] [--port N] [--host ADDRESS] [--every S]
 *
 * The node has timers of its own; this is the second hand on the same work, so that no single timer that dies stops
 * sealing or anchoring. Each wake-up is the cron's own sweep, asked for over <home>/admin.sock: idempotent, so both
 * clocks may strike at once. What the node answers is this process's health: /healthz (and /readyz) is 200 only while
 * the last wake-up succeeded of late, else 503 with what is wrong. It holds no key and no state; killing it costs nothing.
 */

import { createServer, type ServerResponse } from 'node:http'
import { setTimeout as pause } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { VaultMeshError } from '#core/errors.ts'
import { isoTime } from '#core/time.ts'
import { problemOf } from '../functions/http/problem.ts'
import { askAdmin } from './admin-socket.ts'
import { fail } from './fail.ts'
import { homeAt } from './home.ts'
import { checkPort, portOf, untilStopped } from './listen.ts'
import { notifier } from './notify.ts'

/** What may be woken: the service's name, the node's job, and where its health is served by default. */
const services = {
  sealer: { service: 'sealer', job: 'sealing', port: '7087' },
  anchors: { service: 'anchor-manager', job: 'anchors', port: '7088' },
} as const

/** A wake-up is a few messages and look-ups: who has not answered by then hangs. */
const WAKE_MS = 20_000

/** The options of `vaultmesh watch`, for its help as well. */
export const watchOptions = {
  home: { type: 'string' },
  port: { type: 'string' },
  host: { type: 'string', default: '127.0.0.1' },
  every: { type: 'string', default: '15' },
} as const

/** How the last wake-up went. */
interface Wake {
  /** Epoch ms. */
  readonly at: number
  /** What the node said of the job; null if it failed. */
  readonly said: Readonly<Record<string, unknown>> | null
  /** Why it failed; empty if it did not. */
  readonly fault: string
}

/** Runs until it is told to stop. */
export async function watch(args: readonly string[]): Promise<number> {
  const { values, positionals } = parseArgs({
    args: [...args],
    options: watchOptions,
    allowPositionals: true,
  })
  const [name = '', more] = positionals
  if (!Object.hasOwn(services, name) || more !== undefined) {
    throw new VaultMeshError('bad-config', 'Name what to watch: vaultmesh watch sealer|anchors.')
  }
  const { service, job, port: usual } = services[name as keyof typeof services]
  const port = portOf(values.port ?? usual)
  const everyMs = secondsOf(values.every) * 1000
  const { socket } = homeAt(values.home)
  await checkPort(values.host, port, '--port')

  let last: Wake = { at: Date.now(), said: null, fault: 'The node was not asked yet.' }
  // Three wake-ups in a row may be late before the last one says nothing any more.
  const freshMs = 3 * everyMs + WAKE_MS
  const server = createServer((request, response) => {
    const path = request.url?.split('?')[0]
    if (path === '/healthz' || path === '/readyz') answer(response, health(service, last, freshMs))
    else answer(response, refusal('not-found', `There is no path ${(path ?? '').slice(0, 200)}.`))
  })
  await new Promise<void>((ready, reject) => {
    server.once('error', reject)
    server.listen(port, values.host, ready)
  })

  // Alive is whose loop turns: a node that is down is told by /healthz, and no reason to be killed.
  let turnedAt = performance.now()
  const manager = notifier(async () => {
    if (performance.now() - turnedAt > freshMs) throw new Error('the loop stands still')
  })
  const stopped = untilStopped()
  console.log(`${service}: wakes ${job} each ${everyMs / 1000} s by ${socket}`)
  console.log(`  health at http://${values.host}:${port}/healthz`)
  await manager.ready('waiting for the node')

  const over = new AbortController()
  const loop = (async () => {
    while (!over.signal.aborted) {
      turnedAt = performance.now()
      const before = last
      last = await wakeOnce(socket, job)
      if (last.fault !== before.fault) {
        if (last.fault !== '') console.error(`${service}: ${last.fault}`)
        else console.log(`${service}: the node answers`)
        await manager.status(last.fault === '' ? `wakes ${job}` : last.fault)
      }
      await pause(everyMs, undefined, { signal: over.signal }).catch(() => undefined)
    }
  })()
  const signal = await stopped
  await manager.stopping()
  over.abort()
  server.close()
  server.closeAllConnections()
  await loop
  console.log(`${service} stopped (${signal})`)
  return 0
}

async function wakeOnce(socket: string, job: string): Promise<Wake> {
  const at = Date.now()
  try {
    const { status, body } = await askAdmin(socket, 'POST', `/admin/wake?job=${job}`, WAKE_MS)
    const said = JSON.parse(body) as { readonly detail?: string }
    if (status === 200) return { at, said, fault: '' }
    return { at, said: null, fault: said.detail ?? `The node answers ${status}.` }
  } catch (error) {
    return { at, said: null, fault: `The node does not answer (${codeOf(error)}).` }
  }
}

function codeOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error)
  return 'code' in error && typeof error.code === 'string' ? error.code : error.message
}

interface Reply {
  readonly status: number
  readonly type: string
  readonly value: unknown
}

function health(service: string, { at, said, fault }: Wake, freshMs: number): Reply {
  if (said === null) return refusal('not-ready', fault)
  const ageMs = Date.now() - at
  // A clock that was set back makes the last wake-up one of the future.
  if (ageMs > freshMs || ageMs < -1000) {
    return refusal('not-ready', `The last wake-up was ${Math.round(ageMs / 1000)} s ago.`)
  }
  const value = { ok: true, service, ...said, wokenAt: isoTime(at) }
  return { status: 200, type: 'application/json', value }
}

function refusal(code: 'not-ready' | 'not-found', detail: string): Reply {
  const error = new VaultMeshError(code, detail)
  return { status: error.status, type: 'application/problem+json', value: problemOf(error) }
}

function answer(response: ServerResponse, { status, type, value }: Reply): void {
  response.writeHead(status, { 'content-type': type, 'cache-control': 'no-store' })
  response.end(JSON.stringify(value))
}

/** Whole seconds from 1 to 300: above that, what the node promises could lapse between two wake-ups. */
function secondsOf(text: string): number {
  const seconds = Number(text)
  if (/^\d{1,3}$/.test(text) && seconds >= 1 && seconds <= 300) return seconds
  throw new VaultMeshError('bad-config', `--every ${text} is no number of seconds from 1 to 300.`)
}

if (import.meta.main) {
  watch(process.argv.slice(2)).then((code) => process.exit(code), fail)
}
