/**
 * A self-hosted node as a process that is made to be killed: `scripts/selfhost.ts` on one home, as an operator's
 * service manager would start it, in a process group of its own so that its runtime dies with it.
 */

import { spawn, type ChildProcess } from 'node:child_process'
import { closeSync, mkdirSync, openSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { VaultMeshError } from '#core/errors.ts'
import { ROOT } from '../build.ts'
import { homeAt, type Home } from '../home.ts'

const SELFHOST = join(ROOT, 'scripts', 'selfhost.ts')
/** The last line of a start. */
const READY = 'rails:'
/** What a test runner set for itself. */
const FOREIGN = /^(?:VITEST|NODE_OPTIONS|NODE_ENV|FORCE_COLOR|VAULTMESH_(?:URL|HOME|KEY)$)/

/** How a node dies: with its runtime, or the runtime outlives it and serves on until the next start ends it. */
export type Death = 'all' | 'parent'

/** How to run one. */
export interface VictimOptions {
  readonly name: string
  readonly home: string
  readonly port: number
  /** The Worker, bundled before. */
  readonly worker: string
  /** More options of `vaultmesh selfhost`. */
  readonly args: readonly string[]
  readonly env: Readonly<Record<string, string>>
}

/** A node that is started, killed and started again on one home. */
export class Victim {
  readonly name: string
  readonly url: string
  readonly home: Home
  readonly #options: VictimOptions
  #child: ChildProcess | null = null
  /** Groups whose leader was killed and whose runtime may live. */
  readonly #orphans = new Set<number>()

  constructor(options: VictimOptions) {
    this.#options = options
    this.name = options.name
    this.url = `http://127.0.0.1:${options.port}`
    this.home = homeAt(options.home)
    mkdirSync(this.home.path, { recursive: true, mode: 0o700 })
  }

  /** Starts it; resolves to the ms it took until it served, or to null if it was killed before. Throws if it ends by itself. */
  async start(): Promise<number | null> {
    const { home, port, worker, args, env } = this.#options
    const log = openSync(`${home}.log`, 'a')
    const begun = performance.now()
    const command = [SELFHOST, '--home', home, '--port', String(port), '--worker', worker, ...args]
    const child = spawn(process.execPath, command, {
      // Where it finds no secrets of anybody.
      cwd: dirname(home),
      env: environment(env),
      detached: true,
      stdio: ['ignore', 'pipe', log],
    })
    closeSync(log)
    this.#child = child
    let said = ''
    const served = new Promise<number | null>((resolve) => {
      child.stdout!.on('data', (chunk: Buffer) => {
        said += chunk.toString()
        if (said.includes(READY)) resolve(performance.now() - begun)
      })
      child.once('close', () => resolve(null))
    })
    const took = await served
    if (took === null && child.signalCode !== 'SIGKILL') {
      const detail = `${this.name} ended with ${child.exitCode ?? child.signalCode} before it served; see ${home}.log.`
      throw new VaultMeshError('bad-state', detail)
    }
    this.#orphans.clear()
    return took
  }

  /** SIGKILL, now, whatever it does. Resolves when it is gone. */
  async kill(death: Death): Promise<void> {
    const child = this.#child
    if (child === null || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()))
    if (death === 'parent') this.#orphans.add(child.pid!)
    process.kill(death === 'all' ? -child.pid! : child.pid!, 'SIGKILL')
    await gone
    this.#child = null
  }

  /** The orderly stop; true if it ended as it should. */
  async stop(): Promise<boolean> {
    const child = this.#child
    if (child === null || child.exitCode !== null || child.signalCode !== null) return true
    const gone = new Promise<number | null>((resolve) => child.once('exit', resolve))
    child.kill('SIGTERM')
    const code = await gone
    this.#child = null
    return code === 0
  }

  /** Leaves nothing behind, whatever state it is in. */
  async end(): Promise<void> {
    await this.kill('all')
    for (const group of this.#orphans) {
      try {
        process.kill(-group, 'SIGKILL')
      } catch {
        // The next start had ended it.
      }
    }
  }
}

function environment(more: Readonly<Record<string, string>>): NodeJS.ProcessEnv {
  const own = Object.entries(process.env).filter(([name]) => !FOREIGN.test(name))
  // As the sh wrapper does: what was compiled once starts in half the time.
  const cache = { NODE_COMPILE_CACHE: join(ROOT, 'node_modules', '.cache', 'vaultmesh') }
  return { ...Object.fromEntries(own), ...cache, ...more }
}
