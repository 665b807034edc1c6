/**
 * A server program as a child of ours: started, awaited until it serves, paused, stopped, never left over.
 *
 * It runs in a session of its own, so that Ctrl-C in a terminal reaches the owner only, who then stops
 * it in order. Should the owner be killed without a chance to, the kernel sends the child SIGTERM
 * (setpriv(1) of util-linux; where it is missing only an orderly exit ends the child). Of what it
 * prints the last lines are kept for the sentence that says why it ended.
 */

import { spawn, type ChildProcess } from 'node:child_process'
import { accessSync, constants, existsSync, readdirSync, readFileSync } from 'node:fs'
import { delimiter, join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { VaultMeshError } from '#core/errors.ts'

const READY_TIMEOUT_MS = 30_000
const STOP_TIMEOUT_MS = 20_000
const PAUSE_TIMEOUT_MS = 2000
const KEPT_OUTPUT = 2000

/** A started program. */
export interface Child {
  readonly pid: number
  /** SIGTERM, then SIGKILL if it takes more than 20 s; resolves when it is gone. Repeatable. */
  stop(): Promise<void>
  /** SIGKILL: what a crash does. Resolves when it is gone. */
  kill(): Promise<void>
  /** SIGSTOP: on return nothing is answered any more; the kernel still accepts connections. */
  pause(): void
  resume(): void
}

const alive = new Set<ChildProcess>()

/**
 * Starts `file args` and resolves once `ready` does so without throwing; asks every 25 ms.
 * Throws `bad-config` with the program's last words if it ends before that, or takes 30 s.
 */
export async function startChild(
  name: string,
  file: string,
  args: readonly string[],
  ready: () => Promise<unknown>,
  { cwd, env }: { readonly cwd?: string; readonly env?: NodeJS.ProcessEnv } = {},
): Promise<Child> {
  const setpriv = onPath('setpriv')
  const bound = setpriv === null ? [] : [setpriv, '--pdeathsig', 'TERM', '--']
  const [program, ...rest] = [...bound, file, ...args] as [string, ...string[]]
  const child = spawn(program, rest, {
    cwd,
    env: env ?? process.env,
    detached: true,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  if (alive.size === 0) process.once('exit', endAll)
  alive.add(child)
  let said = ''
  let failed: Error | undefined
  for (const stream of [child.stdout, child.stderr]) {
    stream.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-KEPT_OUTPUT)))
  }
  const gone = new Promise<void>((resolve) => {
    const ended = (): void => {
      alive.delete(child)
      if (alive.size === 0) process.removeListener('exit', endAll)
      resolve()
    }
    child.once('close', ended)
    child.once('error', (error) => {
      failed = error
      ended()
    })
  })
  const over = (): boolean =>
    failed !== undefined || child.exitCode !== null || child.signalCode !== null
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (!over()) {
      child.kill(signal)
      child.kill('SIGCONT')
      const timer = setTimeout(() => child.kill('SIGKILL'), STOP_TIMEOUT_MS)
      await gone
      clearTimeout(timer)
    }
    await gone
  }
  const deadline = Date.now() + READY_TIMEOUT_MS
  for (;;) {
    if (over()) {
      await gone
      const why = failed?.message ?? lastLine(said)
      throw new VaultMeshError('bad-config', `${name} ended at once: ${why}`)
    }
    try {
      await ready()
      break
    } catch (error) {
      if (over()) continue
      if (Date.now() > deadline) {
        await end('SIGKILL')
        const detail = `${name} does not answer within ${READY_TIMEOUT_MS / 1000} s.`
        throw new VaultMeshError('bad-config', detail, { cause: error })
      }
      await sleep(25)
    }
  }
  return {
    pid: child.pid!,
    stop: () => end('SIGTERM'),
    kill: () => end('SIGKILL'),
    pause() {
      child.kill('SIGSTOP')
      awaitPause(child.pid!)
    },
    resume: () => void child.kill('SIGCONT'),
  }
}

/** The first file named `name` on PATH that may be run, or null. */
export function onPath(name: string): string | null {
  for (const folder of (process.env['PATH'] ?? '').split(delimiter)) {
    if (folder === '') continue
    const file = join(folder, name)
    if (isExecutable(file)) return file
  }
  return null
}

/** True if `file` may be run. */
export function isExecutable(file: string): boolean {
  try {
    accessSync(file, constants.X_OK)
    return true
  } catch {
    return false
  }
}

/** Each thread stops at its own next step; without /proc there is nothing to wait for. */
function awaitPause(pid: number): void {
  const deadline = Date.now() + PAUSE_TIMEOUT_MS
  while (Date.now() < deadline) {
    try {
      const threads = readdirSync(`/proc/${pid}/task`)
      const states = threads.map((id) => readFileSync(`/proc/${pid}/task/${id}/stat`, 'utf8'))
      // proc(5): the state comes after the name, which may hold anything but ends the last bracket.
      if (states.every((stat) => /^[TZX]/.test(stat.slice(stat.lastIndexOf(')') + 2)))) return
    } catch (error) {
      // A thread that has ended since the folder was read is read again without it.
      if (!existsSync(`/proc/${pid}`)) return
      if (!['ENOENT', 'ESRCH'].includes((error as NodeJS.ErrnoException).code ?? '')) throw error
    }
    Atomics.wait(PAUSE, 0, 0, 1)
  }
}

const PAUSE = new Int32Array(new SharedArrayBuffer(4))

function endAll(): void {
  for (const child of alive) {
    child.kill('SIGTERM')
    child.kill('SIGCONT')
  }
}

function lastLine(text: string): string {
  const lines = text.split('\n').map((line) => line.trim())
  return lines.findLast((line) => line !== '') ?? 'it said nothing.'
}
