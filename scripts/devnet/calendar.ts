/**
 * Starts and stops the devnet's OpenTimestamps calendar (ots-calendar.py): a stand-in for the public ones that
 * anchors in a regtest bitcoind. It needs the system's own Python, whose library Debian has as
 * python3-opentimestamps; its absence is one plain line.
 */

import { spawnSync } from 'node:child_process'
import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { VaultMeshError } from '#core/errors.ts'
import { ROOT } from '../build.ts'
import { WALLET, type Bitcoind } from './bitcoind.ts'
import { isExecutable, startChild } from './child.ts'
import { startFaultProxy, type Fault } from './fault-proxy.ts'
import { portOrFree } from './port.ts'

/** Debian's libraries are with this one, whichever Python is first on PATH. */
const PYTHON = '/usr/bin/python3'
const LIBRARY = 'import bitcoin.core, opentimestamps.bitcoin, opentimestamps.core.timestamp'

/** Said when there is no calendar to start. */
export const missingCalendar =
  'python3-opentimestamps is not installed: no timestamp calendar (apt install python3-opentimestamps)'

export interface Calendar {
  /** Also the URI in its pending attestations. */
  readonly url: string
  readonly port: number
  readonly requests: number
  /** Commits to all that is pending; null if nothing was. A block must include it then. */
  anchor(): Promise<{ readonly txid: string | null; readonly commitments: number }>
  setFault(fault: Fault): Promise<void>
  stop(): Promise<void>
}

/** The Python that has the library, or null. */
export function calendarPython(): string | null {
  if (!isExecutable(PYTHON)) return null
  return spawnSync(PYTHON, ['-c', LIBRARY], { stdio: 'ignore' }).status === 0 ? PYTHON : null
}

/**
 * Starts the calendar over `bitcoind`, whose wallet must have some coins, its promises in `dir`. Answers
 * with a proof `confirmations` deep. With `anchorEveryMs` it anchors by itself what is pending. Port 0
 * picks a free one. Throws `bad-config` if its library is absent.
 */
export async function startCalendar({
  dir,
  port = 0,
  bitcoind,
  confirmations = 6,
  anchorEveryMs,
}: {
  readonly dir: string
  readonly port?: number
  readonly bitcoind: Pick<Bitcoind, 'url'>
  readonly confirmations?: number
  readonly anchorEveryMs?: number
}): Promise<Calendar> {
  const python = calendarPython()
  if (python === null) throw new VaultMeshError('bad-config', missingCalendar)
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const inner = await portOrFree(0)
  const target = `http://127.0.0.1:${inner}`
  const proxy = await startFaultProxy({ target, port })
  try {
    const state = join(dir, 'calendar.json')
    const where = ['--port', String(inner), '--uri', proxy.url, '--state', state]
    const how = ['--wallet', WALLET, '--confirmations', String(confirmations)]
    const args = [join(ROOT, 'scripts/devnet/ots-calendar.py'), ...where, ...how]
    const child = await startChild('the calendar', python, args, () => fetch(target), {
      env: { ...process.env, VAULTMESH_CALENDAR_RPC: bitcoind.url },
    })
    const anchor: Calendar['anchor'] = async () => {
      const response = await fetch(`${target}/devnet/anchor`, { method: 'POST', body: '' })
      const text = await response.text()
      if (response.ok) return JSON.parse(text) as Awaited<ReturnType<Calendar['anchor']>>
      throw new VaultMeshError('anchor-failed', `The calendar cannot anchor: ${text.trim()}`)
    }
    const timer =
      anchorEveryMs === undefined
        ? undefined
        : // What fails now is tried again next time.
          setInterval(() => void anchor().catch(() => undefined), anchorEveryMs).unref()
    return {
      url: proxy.url,
      port: proxy.port,
      get requests() {
        return proxy.requests
      },
      anchor,
      setFault: (fault) => proxy.setFault(fault),
      async stop() {
        clearInterval(timer)
        await proxy.stop()
        await child.stop()
      },
    }
  } catch (error) {
    await proxy.stop()
    throw error
  }
}
