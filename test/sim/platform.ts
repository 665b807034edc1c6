/**
 * The platform in one process and under one hand: the real Worker and the real Durable Object classes over
 * real SQL, with every storage, queue and RPC step counted so that a test can break any of them.
 *
 * Disk (D1, R2, Durable Object storage, alarms) survives a kill; memory (instances, queue messages,
 * requests under way) does not. A step can fail with nothing done, succeed and lose its reply, or be the
 * last thing the process does, before or after its effect. Broken storage of a Durable Object whose reply
 * is lost resets the object, as the platform does.
 */

import { AsyncLocalStorage } from 'node:async_hooks'
import { createHash } from 'node:crypto'
import { mkdtempSync, readFileSync, readdirSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { jobs, runCron, type Job } from '../../functions/cron.ts'
import worker, {
  Counters,
  Federation,
  Guardian,
  Pool,
  Sequencer,
  Wallet,
} from '../../functions/worker.ts'
import { D1Sim, SqlStorageSim } from './sqlite.ts'

/** How a step goes wrong. */
export type Fault = 'fail' | 'lost' | 'kill-before' | 'kill-after'

/** Decides what happens to a step: its name and its number since boot of the plan. */
export type Plan = (name: string, number: number) => Fault | null

/** Thrown to code of a process that was killed: it must not run on. */
export class Killed extends Error {}

type Step = <T>(name: string, effect: () => T | Promise<T>) => Promise<T>

interface Message {
  readonly id: string
  readonly body: unknown
  attempts: number
}

const MAX_RETRIES: Record<string, number> = {
  'events-intake': 5,
  'events-validated': 3,
  seal: 5,
  'sealer-dlq': 100,
  anchor: 100,
  'anchor-btc': 100,
  'anchor-evm': 100,
  'anchor-dlq': 100,
  webhooks: 3,
  alerts: 3,
}
const DEAD: Record<string, string> = {
  seal: 'sealer-dlq',
  anchor: 'anchor-dlq',
  'anchor-btc': 'anchor-dlq',
  'anchor-evm': 'anchor-dlq',
}
const CLASSES = {
  POOL: Pool,
  SEQUENCER: Sequencer,
  WALLET: Wallet,
  FEDERATION: Federation,
  COUNTERS: Counters,
  GUARDIAN: Guardian,
} as const
type Binding = keyof typeof CLASSES
/** Without COUNTERS and GUARDIAN: what is counted, and who looks on, is no step of what most tests break. */
const BOUND: readonly Binding[] = ['POOL', 'SEQUENCER', 'WALLET', 'FEDERATION']
/** Cron jobs that look on: what breaks in them is broken by the tests of watchers, alerts and counts. */
export const ONLOOKERS = [
  'wake the guardian',
  'watch',
  'wake alerts',
  'store counts',
  'forget sessions',
  'watch wallets',
] as const
/** A Guardian that looks at nothing. */
const ASLEEP = { getByName: () => ({ sweep: () => Promise.resolve() }) }
/** Which life of the process runs this code: the network is global, and a killed process must not reach it. */
const life = new AsyncLocalStorage<number>()

/** A seeded source of order for delivery. */
export function seeded(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return state / 2 ** 32
  }
}

/** A whole deployment. */
export class Platform {
  readonly steps: string[] = []
  plan: Plan | null = null
  /** Holds the reply of a step for as long as the returned promise takes. */
  hold: ((name: string) => Promise<void> | null) | null = null
  deadLettered = 0
  env: Env
  readonly #vars: Readonly<Record<string, string>>
  readonly #bound: readonly Binding[]
  readonly #jobs: readonly Job[]
  #generation = 0
  #number = 0
  readonly #disks = new Map<string, DatabaseSync>()
  readonly #alarms = new Map<string, number | null>()
  #d1 = new DatabaseSync(':memory:')
  readonly #r2 = new Map<string, Uint8Array>()
  #instances = new Map<string, { object: object; storage: SqlStorageSim }>()
  #queues = new Map<string, Message[]>()
  #background = new Set<Promise<unknown>>()
  #ids = 0

  /** `without` names jobs of the cron that look on and change no step that the test breaks. */
  constructor(
    vars: Readonly<Record<string, string>>,
    more: readonly Binding[] = [],
    without: readonly string[] = [],
  ) {
    const unknown = without.find((name) => jobs.every((job) => job.name !== name))
    if (unknown !== undefined) throw new Error(`There is no cron job "${unknown}".`)
    this.#jobs = jobs.filter(({ name }) => !without.includes(name))
    const folder = resolve(import.meta.dirname, '../../migrations')
    for (const file of readdirSync(folder)
      .filter((f) => f.endsWith('.sql'))
      .sort()) {
      this.#d1.exec(
        readFileSync(resolve(folder, file), 'utf8').replaceAll('--> statement-breakpoint', ''),
      )
    }
    this.#vars = vars
    this.#bound = [...BOUND, ...more]
    this.env = this.#makeEnv()
  }

  /** Bindings of one life of the process: what a killed process still calls through them never happens. */
  #makeEnv(): Env {
    const generation = this.#generation
    const step = <T>(name: string, effect: () => T | Promise<T>): Promise<T> =>
      this.#step(generation, name, effect)
    const env: Record<string, unknown> = { ...this.#vars }
    env['DB'] = new D1Sim(this.#d1, step)
    env['BUCKET'] = this.#bucket(step)
    for (const [binding, queue] of Object.entries({
      INTAKE_QUEUE: 'events-intake',
      VALIDATED_QUEUE: 'events-validated',
      SEAL_QUEUE: 'seal',
      ANCHOR_QUEUE: 'anchor',
      ANCHOR_BTC_QUEUE: 'anchor-btc',
      ANCHOR_EVM_QUEUE: 'anchor-evm',
      WEBHOOK_QUEUE: 'webhooks',
      ALERT_QUEUE: 'alerts',
    })) {
      env[binding] = {
        send: (body: unknown) => step(`queue.send ${queue}`, () => this.#enqueue(queue, body)),
        sendBatch: (all: readonly { body: unknown }[]) =>
          step(`queue.sendBatch ${queue}`, () =>
            all.forEach(({ body }) => this.#enqueue(queue, body)),
          ),
      }
    }
    env['GUARDIAN'] = ASLEEP
    for (const binding of this.#bound) {
      env[binding] = { getByName: (name: string) => this.#stub(step, binding, name) }
    }
    return env as unknown as Env
  }

  /** A step of the world outside, such as a network call, in the life of the process that makes it. */
  outside<T>(name: string, effect: () => T | Promise<T>): Promise<T> {
    return this.#step(life.getStore() ?? this.#generation, name, effect)
  }

  /** True in code of a node: what the test itself does is no step. */
  get isInside(): boolean {
    return life.getStore() !== undefined
  }

  /** One step: counted, and broken if the plan says so. */
  async #step<T>(generation: number, name: string, effect: () => T | Promise<T>): Promise<T> {
    const alive = (): void => {
      if (generation !== this.#generation) throw new Killed(name)
    }
    await null
    alive()
    const fault = this.#decide(name)
    if (fault === 'fail') throw new Error(`${name} failed`)
    if (fault === 'kill-before') {
      this.kill()
      throw new Killed(name)
    }
    const result = await effect()
    await this.hold?.(name)
    if (fault === 'kill-after') this.kill()
    alive()
    if (fault === 'lost') throw new Error(`${name} lost its reply`)
    return result
  }

  #decide(name: string): Fault | null {
    this.steps.push(name)
    return this.plan?.(name, this.#number++) ?? null
  }

  #enqueue(queue: string, body: unknown): void {
    const all = this.#queues.get(queue) ?? []
    all.push({ id: `m${this.#ids++}`, body: structuredClone(body), attempts: 1 })
    this.#queues.set(queue, all)
  }

  #bucket(step: Step): unknown {
    const etagOf = (bytes: Uint8Array): string => createHash('md5').update(bytes).digest('hex')
    const read = (bytes: Uint8Array) => ({
      get etag() {
        return etagOf(bytes)
      },
      arrayBuffer: async () => bytes.slice().buffer,
      text: async () => new TextDecoder().decode(bytes),
      get body() {
        return new Blob([bytes as BlobPart]).stream()
      },
    })
    return {
      get: (key: string, options?: { range?: { offset: number; length: number } }) =>
        step(`r2.get ${key.split('/')[0]}`, () => {
          const bytes = this.#r2.get(key)
          if (bytes === undefined) return null
          const { offset, length } = options?.range ?? { offset: 0, length: bytes.length }
          return read(bytes.slice(offset, offset + length))
        }),
      list: ({ prefix }: { prefix: string }) =>
        step(`r2.list ${prefix.split('/')[0]}`, () => ({
          objects: [...this.#r2.keys()]
            .filter((key) => key.startsWith(prefix))
            .sort()
            .map((key) => ({ key })),
          truncated: false,
        })),
      put: (
        key: string,
        value: Uint8Array | string,
        options?: { onlyIf?: { etagMatches?: string } },
      ) =>
        step(`r2.put ${key.split('/').slice(0, 2).join('/').replace(/\d+/, 'n')}`, () => {
          const there = this.#r2.get(key)
          const wanted = options?.onlyIf?.etagMatches
          if (wanted !== undefined && (there === undefined || etagOf(there) !== wanted)) return null
          // Otherwise a condition is "if there is none yet".
          if (options?.onlyIf !== undefined && wanted === undefined && there !== undefined)
            return null
          this.#r2.set(
            key,
            typeof value === 'string' ? new TextEncoder().encode(value) : value.slice(),
          )
          return {}
        }),
    }
  }

  #stub(step: Step, binding: keyof typeof CLASSES, name: string): object {
    return new Proxy(
      {},
      {
        get: (_target, method: string) =>
          method === 'then'
            ? undefined
            : (...args: unknown[]) =>
                step(`rpc ${binding}.${method}`, async () => {
                  const object = this.#instance(binding, name) as Record<
                    string,
                    (...a: unknown[]) => unknown
                  >
                  return structuredClone(await object[method]!(...structuredClone(args)))
                }),
      },
    )
  }

  #instance(binding: keyof typeof CLASSES, name: string): object {
    const id = `${binding}/${name}`
    const there = this.#instances.get(id)
    if (there !== undefined) return there.object
    let db = this.#disks.get(id)
    if (db === undefined) this.#disks.set(id, (db = new DatabaseSync(':memory:')))
    const generation = this.#generation
    const storage = new SqlStorageSim(
      db,
      (step, effect) => {
        if (generation !== this.#generation) throw new Killed(step)
        const fault = this.#decide(`${binding} ${step}`)
        if (fault === 'fail') throw new Error(`${step} failed`)
        if (fault === 'kill-before') {
          this.kill()
          throw new Killed(step)
        }
        const result = effect()
        if (fault === 'kill-after') {
          this.kill()
          throw new Killed(step)
        }
        if (fault === 'lost') {
          this.#instances.delete(id)
          throw new Error(`${step} lost its reply and the object was reset`)
        }
        return result
      },
      { get: () => this.#alarms.get(id) ?? null, set: (at) => this.#alarms.set(id, at) },
    )
    const ctx = {
      id: { name },
      storage,
      waitUntil: (promise: Promise<unknown>) => this.#inBackground(promise),
    }
    const object = new CLASSES[binding](ctx as never, this.env)
    this.#instances.set(id, { object, storage })
    return object
  }

  #inBackground(promise: Promise<unknown>): void {
    const tracked: Promise<unknown> = promise
      .catch((error: unknown) => error)
      .finally(() => this.#background.delete(tracked))
    this.#background.add(tracked)
  }

  /** Changes the disk of a Durable Object behind its back. */
  tamper(id: string, sql: string): void {
    this.#disks.get(id)!.exec(sql)
  }

  /** Ids of the Durable Objects that have storage. */
  disks(): string[] {
    return [...this.#disks.keys()]
  }

  /** Rows on the disk of a Durable Object, read behind its back. */
  disk(id: string, sql: string): Record<string, unknown>[] {
    return this.#disks.get(id)?.prepare(sql).all() ?? []
  }

  /** Every object in R2, every blob and text of D1 and of the Durable Objects: what a thief of the disk would read. */
  *everything(): Generator<readonly [where: string, bytes: Uint8Array]> {
    for (const [key, bytes] of this.#r2) yield [`r2 ${key}`, bytes]
    for (const [name, db] of [['d1', this.#d1] as const, ...this.#disks]) {
      const tables = db.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").all()
      for (const { name: table } of tables) {
        for (const row of db.prepare(`SELECT * FROM "${String(table)}"`).all()) {
          for (const [column, value] of Object.entries(row)) {
            if (value === null) continue
            const bytes =
              value instanceof Uint8Array ? value : Buffer.from(String(value as string | number))
            yield [`${name} ${String(table)}.${column}`, bytes]
          }
        }
      }
    }
  }

  /** A statement on D1 behind everybody's back. */
  index(sql: string): Record<string, unknown>[] {
    return this.#d1.prepare(sql).all()
  }

  /** A copy of all storage, as a backup of the stopped node is; `restore` puts it back, as a start from that backup does. */
  backup(): { restore(): void } {
    const copyOf = (db: DatabaseSync): DatabaseSync => {
      const folder = mkdtempSync(join(tmpdir(), 'vm-sim-'))
      db.exec(`VACUUM INTO '${join(folder, 'copy')}'`)
      const copy = new DatabaseSync(join(folder, 'copy'))
      // The file lives on, nameless, as long as it is open; a journal would need its folder.
      copy.exec('PRAGMA journal_mode = MEMORY')
      rmSync(folder, { recursive: true })
      return copy
    }
    const d1 = copyOf(this.#d1)
    const disks = [...this.#disks].map(([id, db]) => [id, copyOf(db)] as const)
    const alarms = [...this.#alarms]
    const r2 = [...this.#r2]
    return {
      restore: () => {
        this.#d1 = d1
        this.#disks.clear()
        for (const [id, db] of disks) this.#disks.set(id, db)
        this.#alarms.clear()
        for (const [id, at] of alarms) this.#alarms.set(id, at)
        this.#r2.clear()
        for (const [key, bytes] of r2) this.#r2.set(key, bytes)
        this.kill()
      },
    }
  }

  /** The process dies: memory and messages are gone, storage stays. */
  kill(): void {
    this.#generation++
    this.#instances = new Map()
    this.#queues = new Map()
    this.env = this.#makeEnv()
  }

  readonly #ctx = {
    waitUntil: (promise: Promise<unknown>) => this.#inBackground(promise),
    passThroughOnException() {},
  } as never

  /** A request to the Worker. Throws `Killed` if the process died under it. */
  async fetch(path: string, init?: RequestInit): Promise<Response> {
    const generation = this.#generation
    const request = new Request(`http://node${path}`, init)
    const response = await life.run(generation, () => worker.fetch(request, this.env, this.#ctx))
    if (generation !== this.#generation) throw new Killed('request')
    return response
  }

  /**
   * Delivers what is queued, in any order and some of it twice, until nothing is left or `rounds` are over. With
   * `hands` above 1 the same messages may reach several consumers at once.
   */
  async deliver(random: () => number, rounds = 30, hands = 1): Promise<void> {
    for (let i = 0; i < rounds; i++) {
      await Promise.all(this.#background)
      const waiting = [...this.#queues].filter(([, messages]) => messages.length > 0)
      if (waiting.length === 0) return
      const [queue, messages] = waiting[Math.floor(random() * waiting.length)]!
      this.#queues.set(queue, [])
      const batch = messages
        .sort(() => random() - 0.5)
        .flatMap((m) => (random() < 0.3 ? [m, { ...m }] : [m]))
      const others = Array.from({ length: hands - 1 }, () =>
        this.#consume(
          queue,
          batch.filter(() => random() < 0.5).map((m) => ({ ...m })),
        ),
      )
      await Promise.all([this.#consume(queue, batch), ...others])
    }
  }

  async #consume(queue: string, messages: readonly Message[]): Promise<void> {
    const outcome = new Map<Message, 'ack' | 'retry'>()
    const batch = {
      queue,
      messages: messages.map((m) => ({
        ...m,
        timestamp: new Date(),
        ack: () => outcome.has(m) || outcome.set(m, 'ack'),
        retry: () => outcome.has(m) || outcome.set(m, 'retry'),
      })),
    }
    const generation = this.#generation
    let thrown = false
    try {
      await life.run(generation, () => worker.queue(batch as never, this.env, this.#ctx))
    } catch {
      thrown = true
    }
    if (generation !== this.#generation) return
    for (const message of messages) {
      const what = outcome.get(message) ?? (thrown ? 'retry' : 'ack')
      if (what === 'ack') continue
      if (message.attempts++ <= MAX_RETRIES[queue]!) {
        this.#queues.set(queue, [...(this.#queues.get(queue) ?? []), message])
      } else if (DEAD[queue] !== undefined) {
        this.deadLettered++
        this.#enqueue(DEAD[queue]!, message.body)
      }
    }
  }

  /** Fires alarms that are due and the minute's cron. Their failures are the platform's to retry. */
  async tick(nowAt: number): Promise<void> {
    for (const [id, at] of this.#alarms) {
      if (at === null || at > nowAt) continue
      this.#alarms.set(id, null)
      const [binding, name] = id.split('/') as [keyof typeof CLASSES, string]
      try {
        const object = this.#instance(binding, name) as { alarm(): Promise<void> }
        await life.run(this.#generation, () => object.alarm())
      } catch {
        if (this.#alarms.get(id) === null) this.#alarms.set(id, nowAt + 2000)
      }
    }
    try {
      await life.run(this.#generation, () => runCron('* * * * *', this.env, nowAt, this.#jobs))
    } catch {
      // The next minute tries again.
    }
    await Promise.all(this.#background)
  }

  /** Waits for everything that requests left running. */
  async settle(): Promise<void> {
    await Promise.all(this.#background)
  }
}
