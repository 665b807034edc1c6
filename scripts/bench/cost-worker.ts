/**
 * The Worker of `make bench ARGS=cost`: the node itself, with every operation counted that Cloudflare has a price or
 * a limit for. GET /bench/meter tells the counters, and starts them again with ?reset.
 *
 * Counted where it is asked for, by methods put over those of the runtime's own objects: rows as SQLite and D1 report
 * them, operations as the price list names them. One isolate runs the Worker and its objects here, so one set of
 * counters sees all of it. It changes no answer.
 */

import worker, {
  Counters as CountersBase,
  Federation as FederationBase,
  Guardian as GuardianBase,
  Pool as PoolBase,
  Sequencer as SequencerBase,
  Wallet as WalletBase,
} from '../../functions/worker.ts'

/** What is counted; scripts/bench/cost.ts says what each is. */
const meter = {
  requests: 0,
  queueInvocations: 0,
  crons: 0,
  doRequests: 0,
  alarms: 0,
  doRowsRead: 0,
  doRowsWritten: 0,
  /** Time in which an object had something under way, summed over the objects. */
  doActiveMs: 0,
  d1Queries: 0,
  d1RowsRead: 0,
  d1RowsWritten: 0,
  d1Bytes: 0,
  r2ClassA: 0,
  r2ClassB: 0,
  r2Deletes: 0,
  r2BytesPut: 0,
  queueOperations: 0,
  subrequests: 0,
}
const zero = { ...meter }

interface Rows {
  readonly rowsRead: number
  readonly rowsWritten: number
}

/** Cursors of each object's storage: their rows are known when they are used up, and readable by their object alone. */
const cursors = new Map<object, Rows[]>()
/** Bytes of each object's storage. */
const storages = new Map<string, number>()

/** Counts what an object's cursors have read and written. */
function settle({ id, storage }: DurableObjectState): void {
  storages.set(id.toString(), storage.sql.databaseSize)
  for (const cursor of cursors.get(storage.sql)?.splice(0) ?? []) {
    meter.doRowsRead += cursor.rowsRead
    meter.doRowsWritten += cursor.rowsWritten
  }
}

type Method = (this: unknown, ...args: unknown[]) => unknown
type Prototype = Record<string, Method>

const patched = new WeakSet<object>()

/** Puts `around` over a method that all objects of one kind share. */
function over(sample: object, name: string, around: (inner: Method) => Method): void {
  let owner: object | null = sample
  while (owner !== null && !Object.hasOwn(owner, name))
    owner = Object.getPrototypeOf(owner) as object
  if (owner === null) throw new Error(`${name} is no method to be counted`)
  const prototype = owner as Prototype
  const inner = prototype[name]!
  Object.defineProperty(prototype, name, {
    value: around(inner),
    configurable: true,
    writable: true,
  })
}

function countD1({ meta }: { meta: D1Meta }): void {
  meter.d1Queries++
  meter.d1RowsRead += meta.rows_read
  meter.d1RowsWritten += meta.rows_written
  meter.d1Bytes = meta.size_after
}

function countD1Calls(db: D1Database): void {
  const statement = db.prepare('SELECT 1')
  // Where one calls the other, its answer is the same object.
  const seen = new WeakSet<object>()
  for (const name of ['all', 'run'])
    over(
      statement,
      name,
      (inner) =>
        async function (...args) {
          const result = (await inner.apply(this, args)) as { meta: D1Meta }
          if (!seen.has(result)) countD1(result)
          seen.add(result)
          return result
        },
    )
  over(
    statement,
    'first',
    () =>
      async function (column) {
        const { results } = await (this as D1PreparedStatement).all<Record<string, unknown>>()
        const [row] = results
        return row === undefined ? null : column === undefined ? row : row[column as string]
      },
  )
  over(
    db,
    'batch',
    (inner) =>
      async function (...args) {
        const results = (await inner.apply(this, args)) as { meta: D1Meta }[]
        for (const result of results) countD1(result)
        return results
      },
  )
}

function sizeOf(value: unknown): number {
  if (typeof value === 'string') return new TextEncoder().encode(value).length
  if (value instanceof ArrayBuffer || ArrayBuffer.isView(value)) return value.byteLength
  if (value instanceof Blob) return value.size
  return JSON.stringify(value ?? '').length
}

function countR2Calls(bucket: R2Bucket): void {
  for (const [name, field] of [
    ['get', 'r2ClassB'],
    ['head', 'r2ClassB'],
    ['put', 'r2ClassA'],
    ['list', 'r2ClassA'],
    ['delete', 'r2Deletes'],
  ] as const)
    over(
      bucket,
      name,
      (inner) =>
        function (...args) {
          meter[field]++
          if (name === 'put') meter.r2BytesPut += sizeOf(args[1])
          return inner.apply(this, args)
        },
    )
}

/** An operation is 64 KB written, read or deleted. */
const operations = (body: unknown): number => Math.max(1, Math.ceil(sizeOf(body) / 64_000))

function countQueueCalls(queue: Queue): void {
  over(
    queue,
    'send',
    (inner) =>
      function (...args) {
        meter.queueOperations += operations(args[0])
        return inner.apply(this, args)
      },
  )
  over(
    queue,
    'sendBatch',
    (inner) =>
      function (...args) {
        const messages = [...(args[0] as Iterable<{ body: unknown }>)]
        for (const { body } of messages) meter.queueOperations += operations(body)
        return inner.apply(this, [messages, ...args.slice(1)])
      },
  )
}

function countStubs(namespace: DurableObjectNamespace): void {
  for (const name of ['get', 'getByName'])
    over(
      namespace,
      name,
      (inner) =>
        function (...args) {
          return counted(inner.apply(this, args) as object)
        },
    )
}

/** A stub whose every call is a request. */
function counted(stub: object): object {
  return new Proxy(stub, {
    get(target, name) {
      const value: unknown = Reflect.get(target, name)
      if (typeof value !== 'function' || typeof name !== 'string') return value
      return (...args: unknown[]) => {
        meter.doRequests++
        return (target as unknown as Prototype)[name]!(...args)
      }
    },
  })
}

/** Counts what a Worker's bindings do, once for each kind. */
function countBindings(env: Env): void {
  if (patched.has(meter)) return
  patched.add(meter)
  countD1Calls(env.DB)
  countR2Calls(env.BUCKET)
  countQueueCalls(env.SEAL_QUEUE)
  countStubs(env.POOL as unknown as DurableObjectNamespace)
  const inner = globalThis.fetch
  globalThis.fetch = (...args: Parameters<typeof fetch>) => {
    meter.subrequests++
    return inner(...args)
  }
}

/** Counts what an object's storage does, once for all objects. */
function countStorage({ storage }: DurableObjectState): void {
  if (patched.has(zero)) return
  patched.add(zero)
  over(
    storage.sql,
    'exec',
    (inner) =>
      function (...args) {
        const cursor = inner.apply(this, args) as Rows
        const list = cursors.get(this as object) ?? []
        list.push(cursor)
        cursors.set(this as object, list)
        return cursor
      },
  )
  // An alarm that is set is a row written.
  over(
    storage,
    'setAlarm',
    (inner) =>
      function (...args) {
        meter.doRowsWritten++
        return inner.apply(this, args)
      },
  )
}

type ObjectClass = new (ctx: DurableObjectState, env: Env) => object

/** A Durable Object whose calls are timed: while any is under way, the object is paid for. */
function timed<C extends ObjectClass>(Base: C): C {
  const Timed = class extends (Base as ObjectClass) {
    #underWay = 0
    #since = 0
    readonly #state: DurableObjectState

    constructor(ctx: DurableObjectState, env: Env) {
      countStorage(ctx)
      countBindings(env)
      super(ctx, env)
      this.#state = ctx
    }

    during(act: () => unknown): unknown {
      if (this.#underWay++ === 0) this.#since = performance.now()
      const done = (): void => {
        settle(this.#state)
        if (--this.#underWay === 0) meter.doActiveMs += performance.now() - this.#since
      }
      let result: unknown
      try {
        result = act()
      } catch (error) {
        done()
        throw error
      }
      if (result instanceof Promise) return result.finally(done)
      done()
      return result
    }
  }
  const base = Base.prototype as Prototype
  for (const name of Object.getOwnPropertyNames(base)) {
    const inner = Object.getOwnPropertyDescriptor(base, name)?.value as Method | undefined
    if (name === 'constructor' || typeof inner !== 'function') continue
    const method = function (this: { during(act: () => unknown): unknown }, ...args: unknown[]) {
      if (name === 'alarm') meter.alarms++
      return this.during(() => inner.apply(this, args))
    }
    Object.defineProperty(Timed.prototype, name, { value: method })
  }
  return Timed as unknown as C
}

export const Counters = timed(CountersBase)
export const Federation = timed(FederationBase)
export const Guardian = timed(GuardianBase)
export const Pool = timed(PoolBase)
export const Sequencer = timed(SequencerBase)
export const Wallet = timed(WalletBase)

const node: ExportedHandler<Env> = worker

export default {
  async fetch(request, env, ctx) {
    countBindings(env)
    const url = new URL(request.url)
    if (url.pathname === '/bench/meter') {
      const doBytes = [...storages.values()].reduce((sum, bytes) => sum + bytes, 0)
      const said = { ...meter, doBytes }
      if (url.searchParams.has('reset')) Object.assign(meter, zero)
      return Response.json(said)
    }
    meter.requests++
    return worker.fetch(request, env, ctx)
  },
  async queue(batch, env, ctx) {
    countBindings(env)
    meter.queueInvocations++
    // Each message is read, and deleted once it is done.
    for (const { body } of batch.messages) meter.queueOperations += 2 * operations(body)
    await node.queue?.(batch, env, ctx)
  },
  async scheduled(controller, env, ctx) {
    countBindings(env)
    meter.crons++
    await node.scheduled?.(controller, env, ctx)
  },
} satisfies ExportedHandler<Env>
