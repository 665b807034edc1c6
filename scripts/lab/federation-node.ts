/**
 * A node of the federation lab, seen from outside: a process that is started and stopped, keys that are known
 * before it first runs, and its public face. Everything the lab learns of it comes over HTTP.
 */

import { fork, type ChildProcess } from 'node:child_process'
import { cpSync, mkdirSync, openSync } from 'node:fs'
import { join } from 'node:path'
import { VaultMeshError } from '#core/errors.ts'
import { askAdmin } from '../admin-socket.ts'
import { getJson, getText } from '../cli/remote.ts'
import { portOrFree } from '../devnet/port.ts'
import { namesIn, type NodeNames } from '../federation.ts'
import { homeAt, type Home } from '../home.ts'
import type { Answer, ChildOptions, Order } from './federation-child.ts'

const CHILD = join(import.meta.dirname, 'federation-child.ts')

/** What fits `Order` once it has an id. */
type Command = Order extends infer T ? (T extends Order ? Omit<T, 'id'> : never) : never

/** Where the lab keeps its nodes. */
export interface Grounds {
  readonly folder: string
  /** File of the bundled Worker, the same for all. */
  readonly script: string
}

export class LabNode {
  /** A, B, C … */
  readonly name: string
  readonly url: string
  readonly names: NodeNames
  readonly home: Home
  /** Its config/federation.yaml. */
  readonly federation: string
  readonly #grounds: Grounds
  readonly #port: number
  #child: ChildProcess | null = null
  #vars: Readonly<Record<string, string>> = {}
  #orders = 0
  #isEnded = false

  private constructor(
    name: string,
    grounds: Grounds,
    { port, home, names }: { port: number; home: Home; names: NodeNames },
  ) {
    this.name = name
    this.#grounds = grounds
    this.#port = port
    this.url = `http://127.0.0.1:${port}`
    this.home = home
    this.names = names
    this.federation = join(grounds.folder, `${home.path.split('/').at(-1)}.yaml`)
  }

  /** Makes a node's home and keys; it does not run yet. */
  static async create(name: string, grounds: Grounds): Promise<LabNode> {
    const label = name.toLowerCase()
    const home = homeAt(join(grounds.folder, label))
    mkdirSync(home.path, { recursive: true, mode: 0o700 })
    const names = await namesIn(home, `${label}.lab.vaultmesh.local/log`)
    return new LabNode(name, grounds, { port: await portOrFree(0), home, names })
  }

  /** The same node on another machine, as restored from a copy of all its files. It must not run. */
  async copy(name: string): Promise<LabNode> {
    const home = homeAt(`${this.home.path}-copy`)
    cpSync(this.home.path, home.path, { recursive: true })
    const { names } = this
    return new LabNode(name, this.#grounds, { port: await portOrFree(0), home, names })
  }

  get isRunning(): boolean {
    return this.#child !== null
  }

  /** Starts it; without `vars` under those of the last start. */
  async start(vars = this.#vars): Promise<void> {
    if (this.#isEnded) throw new VaultMeshError('bad-state', `${this.name} was ended.`)
    this.#vars = vars
    // What the Worker warns of is for whoever keeps the folder.
    const log = openSync(`${this.home.path}.log`, 'a')
    // A session of its own: Ctrl-C reaches the lab, which stops it in order.
    this.#child = fork(CHILD, [], { detached: true, stdio: ['ignore', log, log, 'ipc'] })
    const options: ChildOptions = {
      home: this.home.path,
      port: this.#port,
      script: this.#grounds.script,
      federation: this.federation,
      vars: { ...vars, ORIGIN: this.names.origin, NODE_ID: this.names.origin.split('.')[0]! },
    }
    await this.#order({ do: 'start', options })
  }

  /** Stops it in order; resolves when its process is gone. */
  async stop(): Promise<void> {
    const child = this.#child
    if (child === null) return
    if (child.exitCode === null && child.signalCode === null) {
      const gone = new Promise<void>((resolve) => child.once('exit', () => resolve()))
      await this.#order({ do: 'stop' }).catch(() => child.kill('SIGKILL'))
      await gone
    }
    this.#child = null
  }

  /** Stops it for good. */
  async end(): Promise<void> {
    this.#isEnded = true
    await this.stop()
  }

  /** Fires the crons of a minute now. */
  tick(): Promise<void> {
    return this.#order({ do: 'tick' })
  }

  async #order(command: Command): Promise<void> {
    const child = this.#child
    if (child === null) throw new VaultMeshError('bad-state', `${this.name} does not run.`)
    const id = ++this.#orders
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    const said = ({ id: of, error }: Answer): void => {
      if (of !== id) return
      if (error === null) resolve()
      else reject(new VaultMeshError('bad-state', `${this.name}: ${error}`))
    }
    const ended = (): void =>
      reject(new VaultMeshError('bad-state', `${this.name} ended; see ${this.home.path}.log.`))
    child.on('message', said)
    child.once('exit', ended)
    child.send({ ...command, id })
    try {
      await promise
    } finally {
      child.off('message', said)
      child.off('exit', ended)
    }
  }

  /** GET of JSON; throws what went wrong. */
  get<T>(path: string): Promise<T> {
    return getJson<T>(`${this.url}${path}`)
  }

  /** The same, null while it does not answer or refuses. */
  ask<T>(path: string): Promise<T | null> {
    return this.get<T>(path).catch(() => null)
  }

  /** GET of text. */
  text(path: string): Promise<string> {
    return getText(`${this.url}${path}`)
  }

  /** POST to /admin by its socket; `detail` says why it was refused. */
  async admin(path: string): Promise<{ readonly status: number; readonly detail: string }> {
    const { status, body } = await askAdmin(this.home.socket, 'POST', path)
    const { detail = '' } = JSON.parse(body) as { detail?: string }
    return { status, detail }
  }
}
