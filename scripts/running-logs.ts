/**
 * The instances of a node's logs, running: one for each log, and one more when the newest has forked. Then the
 * runtime is started anew with the next log as the current one, in the same process and on the same address.
 */

import type { PreviousLog } from '#core/succession.ts'
import { trustOf, type Trust } from '../functions/sdk.ts'
import { keepTrust, type Home } from './home.ts'
import type { Host } from './host.ts'
import { openLog, readLogs, watchLog, type Operated } from './succession.ts'

/** A successor that could not be started is tried again after this time. */
const REOPEN_AFTER_MS = 2000

/** What it takes to run the logs of a home. */
export interface LogsOptions {
  readonly home: Home
  readonly node: Operated
  /** Starts an instance for each of these, and one for the log that follows them. */
  readonly start: (previous: readonly PreviousLog[]) => Promise<Host>
  /** Throws unless the settings fit a log, named by `?log=<n>`; the current one by an empty text. */
  readonly admit: (log: string) => Promise<void>
  readonly onStarted: () => void
}

/** A node whose logs may come to an end. */
export interface RunningLogs {
  /** What runs now. */
  host(): Host
  /** What the node says of itself, and that with what was pinned before. */
  said(): Trust
  trust(): Trust
  stop(): Promise<void>
}

/** Runs them until they are stopped. Throws what keeps the first start from succeeding. */
export async function runLogs(options: LogsOptions): Promise<RunningLogs> {
  const { home, node, start, admit, onStarted } = options
  let host: Host | null = null
  let said: Trust
  let trust: Trust
  let watch: { stop(): Promise<void> } | null = null
  const stopped = new AbortController()
  let changing: Promise<unknown> = Promise.resolve()
  const run = async (): Promise<void> => {
    const logs = readLogs(home)
    host = await start(logs)
    onStarted()
    // The oldest first: it is bound to ORIGIN as the operator writes it.
    for (const [i] of logs.entries()) await admit(`?log=${i + 1}`)
    await admit('')
    await openLog(node, home, stopped.signal)
    said = await trustOf(node.url)
    trust = keepTrust(home, said)
    watch = watchLog(node, home, (why) => {
      changing = change(why)
    })
  }
  const change = async (why: string): Promise<void> => {
    console.error(`vaultmesh: ${why}`)
    let told = ''
    while (!stopped.signal.aborted) {
      try {
        await host?.stop()
        host = null
        await run()
        console.error(`vaultmesh: ${trust.origin} is open; what came before stays under /log/<n>/`)
        return
      } catch (error) {
        const text = error instanceof Error ? error.message : String(error)
        if (text !== told) console.error(`vaultmesh: the next log is not open yet: ${text}`)
        told = text
        await new Promise((done) => setTimeout(done, REOPEN_AFTER_MS))
      }
    }
  }
  const stop = async (): Promise<void> => {
    stopped.abort()
    await watch?.stop()
    await changing
    // What was waited for may have started anew.
    await watch?.stop()
    await host?.stop()
  }
  try {
    await run()
  } catch (error) {
    await stop()
    throw error
  }
  return { host: () => host!, said: () => said, trust: () => trust, stop }
}
