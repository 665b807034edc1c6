/**
 * What a service manager is told: sd_notify(3) and its watchdog, for every long-lived process here.
 *
 * Node has no datagram sockets of the Unix family, so each message is a run of `systemd-notify`, which systemd brings:
 * less than 10 ms of CPU (measured), three times in a watchdog interval. It waits until the manager has read the message, so
 * that NotifyAccess=all can tell whose child it was. Where no manager asks ($NOTIFY_SOCKET unset) nothing happens.
 *
 * The watchdog is told only what was seen: each third of its interval `alive` is asked, with half of it to answer
 * (1/3 + 1/2 < 1: a slow answer still counts), and without a yes there is no message. A process that answers its manager while the runtime below it hangs would be alive for ever.
 */

import { execFile } from 'node:child_process'

/** Tells the manager; every method is a no-op where there is none. */
export interface Notifier {
  /** Up, with a line for `systemctl status`; starts the watchdog. */
  ready(status: string): Promise<void>
  /** Another line for `systemctl status`. */
  status(text: string): Promise<void>
  /** Going down on purpose; ends the watchdog. */
  stopping(): Promise<void>
}

/** systemd-notify has this long: the manager itself may be busy, the process has work to do. */
const SEND_MS = 5000
/** Between two questions to who does not answer. */
const RETRY_MS = 250

/**
 * The notifier of this process. `alive` resolves if the service does its work, within the milliseconds it is
 * given, and rejects otherwise.
 */
export function notifier(alive: (withinMs: number) => Promise<void>): Notifier {
  const socket = process.env['NOTIFY_SOCKET'] ?? ''
  const intervalMs = watchdogMs(process.env)
  // Ours alone: the runtime below must not speak for the service.
  for (const name of ['NOTIFY_SOCKET', 'WATCHDOG_USEC', 'WATCHDOG_PID']) delete process.env[name]
  if (socket === '') {
    const nothing = (): Promise<void> => Promise.resolve()
    return { ready: nothing, status: nothing, stopping: nothing }
  }
  const send = (...args: string[]): Promise<void> => tell(socket, args)
  let watching = false
  let timer: NodeJS.Timeout | undefined
  const look = async (): Promise<void> => {
    const startedAt = performance.now()
    let waitMs = intervalMs! / 3
    try {
      await alive(intervalMs! / 2)
      if (watching) await send('WATCHDOG=1')
    } catch (error) {
      // Asked again soon: a single late answer is no reason to be killed.
      waitMs = 0
      console.error(`vaultmesh: no sign of life for the watchdog: ${reason(error)}`)
    }
    const leftMs = Math.max(RETRY_MS, waitMs - (performance.now() - startedAt))
    if (watching) timer = setTimeout(() => void look(), leftMs)
  }
  return {
    async ready(status) {
      await send('--ready', `--status=${status}`)
      if (intervalMs === null) return
      watching = true
      void look()
    },
    status: (text) => send(`--status=${text}`),
    async stopping() {
      watching = false
      clearTimeout(timer)
      await send('STOPPING=1', '--status=stopping')
    },
  }
}

/** WATCHDOG_USEC in ms, if it is meant for this process, or for the launcher that started it; else null. */
function watchdogMs(env: NodeJS.ProcessEnv): number | null {
  const { WATCHDOG_USEC: usec = '', WATCHDOG_PID: pid = '' } = env
  if (!/^[1-9]\d{0,15}$/.test(usec)) return null
  if (pid !== '' && pid !== String(process.pid) && pid !== String(process.ppid)) return null
  return Number(usec) / 1000
}

/** Never rejects: a message that is lost shows in the manager, which is whom it was for. */
function tell(socket: string, args: readonly string[]): Promise<void> {
  const env = { PATH: process.env['PATH'] ?? '/usr/bin:/bin', NOTIFY_SOCKET: socket }
  return new Promise((told) => {
    execFile('systemd-notify', args, { env, timeout: SEND_MS }, (error, _out, stderr) => {
      if (error !== null) {
        console.error(`vaultmesh: systemd-notify: ${stderr.trim() || reason(error)}`)
      }
      told()
    })
  })
}

function reason(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}

/** Asks a node whether it lives: 200 from /healthz within `withinMs`. */
export async function answersHealth(url: string, withinMs: number): Promise<void> {
  const response = await fetch(`${url}/healthz`, { signal: AbortSignal.timeout(withinMs) })
  await response.arrayBuffer()
  if (!response.ok) throw new Error(`/healthz answers ${response.status}`)
}
