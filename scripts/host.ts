/**
 * A node in one process: the Worker in Miniflare with persisted state, its crons ticking.
 *
 * Settings come from wrangler.toml, so that a self-hosted node and one on Cloudflare have one source.
 * Requests reach the Worker on a socket of workerd itself (three times the throughput of Miniflare's own
 * entry, measured); nothing else listens on TCP but Miniflare's control port on loopback.
 *
 * A node whose log has forked is several instances of the Worker, one a log: docs/operate-fork.md.
 */

import { readdir, readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { Log, LogLevel, Miniflare } from 'miniflare'
import { unstable_readConfig as readConfig, unstable_splitSqlQuery as splitSql } from 'wrangler'
import { isAuditMessage } from '#core/audit-line.ts'
import type { PreviousLog } from '#core/succession.ts'
import { bundleWorker, ROOT } from './build.ts'

/** How to start a node. */
export interface HostOptions {
  readonly host?: string
  /** Port of the node's HTTP face. */
  readonly port: number
  /** Folder that keeps D1, R2 and Durable Objects. */
  readonly stateDir: string
  /** Variables over those of wrangler.toml, and secrets. */
  readonly vars: Readonly<Record<string, string>>
  /** Logs of this node before the current one, oldest first: each is kept by an instance of its own. */
  readonly previous?: readonly PreviousLog[]
  /** Run the crons each minute; off for tests that tick by hand. */
  readonly cron?: boolean
  /** Consumer settings by queue, for tests that compress time. */
  readonly consumers?: Readonly<
    Record<string, { maxBatchTimeout?: number; retryDelay?: number; maxRetries?: number }>
  >
  /** Print what the Worker logs. */
  readonly verbose?: boolean
  /** Port of the runtime's inspector (Chrome DevTools protocol), for profiles. */
  readonly inspectorPort?: number
  /** Another Worker script, for benches and labs. */
  readonly script?: string
  /** Takes the lines that the Worker logs; warnings and errors go to stderr without it. */
  readonly log?: (line: string) => void
  /** Takes the lines of the audit trail (core/audit-line.ts); without it the Worker is told to say none. */
  readonly audit?: (line: string) => void
}

/** What is read of wrangler.toml. */
interface WranglerConfig {
  readonly name: string
  readonly compatibility_date: string
  readonly compatibility_flags: readonly string[]
  readonly vars: Readonly<Record<string, string>>
  readonly d1_databases: readonly { readonly binding: string; readonly database_id: string }[]
  readonly r2_buckets: readonly { readonly binding: string; readonly bucket_name: string }[]
  readonly durable_objects: {
    readonly bindings: readonly { readonly name: string; readonly class_name: string }[]
  }
  readonly queues: {
    readonly producers: readonly { readonly binding: string; readonly queue: string }[]
    readonly consumers: readonly {
      readonly queue: string
      readonly max_batch_size?: number
      readonly max_batch_timeout?: number
      readonly max_retries?: number
      readonly retry_delay?: number
      readonly dead_letter_queue?: string
    }[]
  }
  readonly triggers: { readonly crons: readonly string[] }
}

/** A running node. */
export interface Host {
  readonly url: string
  readonly miniflare: Miniflare
  /** Fires the jobs of every cron expression now, of every log. */
  tick(): Promise<void>
  stop(): Promise<void>
}

/** Settings a self-hosted node has unless the operator says otherwise. */
export const SELF_HOST_DEFAULTS = { INTAKE_SHARDS: '1', CLIENT_IP_HEADER: '' } as const

/**
 * The way out to targets that strangers name: workerd compares the address it is about to connect to, so a name
 * that resolves to a private one is refused whatever it resolved to before. `public` leaves out loopback,
 * private, link-local, multicast and reserved addresses (measured); those below only lead to such.
 */
const PUBLIC_ONLY = {
  type: 'network',
  allow: ['public'],
  // Benchmarks (RFC 2544); IPv4 within 6to4 (RFC 3056) and NAT64 (RFC 6052, RFC 8215).
  deny: ['198.18.0.0/15', '2002::/16', '64:ff9b::/96', '64:ff9b:1::/48'],
  tlsOptions: { trustBrowserCas: true },
} as const

/** Starts a node and resolves once it answers; migrations are applied. */
export async function startHost(options: HostOptions): Promise<Host> {
  const config = readConfig({ config: resolve(ROOT, 'wrangler.toml') }) as WranglerConfig
  const host = options.host ?? '127.0.0.1'
  const script = options.script ?? (await bundleWorker())
  const previous = options.previous ?? []
  const instance = { config, script, options, previous }
  const miniflare = new Miniflare({
    host: '127.0.0.1',
    port: 0,
    log: new Log(options.verbose === true ? LogLevel.INFO : LogLevel.ERROR),
    logRequests: false,
    cf: false,
    ...(options.inspectorPort === undefined ? {} : { inspectorPort: options.inspectorPort }),
    handleStructuredLogs(log: { level: string; message: string }) {
      if (options.audit !== undefined && isAuditMessage(log.message)) options.audit(log.message)
      else if (options.log === undefined) print(log, options.verbose === true)
      else options.log(log.message)
    },
    resourcePersistencePath: options.stateDir,
    // The current log first: Miniflare's own entry leads to it.
    workers: previous
      .map((_, i) => workerOf(instance, i + 1))
      .concat(workerOf(instance, previous.length + 1, { host, port: options.port }))
      .toReversed(),
  } as never)
  await miniflare.ready
  const names = Array.from({ length: previous.length + 1 }, (_, i) => numbered(config.name, i + 1))
  for (const name of names) await migrate(miniflare, name)
  const tick = async (): Promise<void> => {
    for (const name of names) {
      const worker = await miniflare.getWorker(name)
      for (const cron of config.triggers.crons)
        await worker.scheduled({ cron, scheduledTime: new Date() })
    }
  }
  const stopCron = options.cron === false ? () => undefined : everyMinute(tick)
  let stopped: Promise<void> | null = null
  return {
    url: `http://${host}:${options.port}`,
    miniflare,
    tick,
    stop() {
      stopCron()
      return (stopped ??= miniflare.dispose())
    },
  }
}

/** What all instances of a node have in common. */
interface Instance {
  readonly config: WranglerConfig
  readonly script: string
  readonly options: HostOptions
  readonly previous: readonly PreviousLog[]
}

/** The name of a resource of log `number`: those of the first log are named as in wrangler.toml. */
function numbered(name: string, number: number): string {
  return number === 1 ? name : `${name}-${number}`
}

/**
 * The instance of the Worker that keeps log `number`: stores and queues of its own, the one before it as PREVIOUS.
 * All share the Wallets of the first, because two that sign with one key could pay for a root twice. The
 * current one alone has a socket.
 */
function workerOf(
  { config, script, options, previous }: Instance,
  number: number,
  socket?: { readonly host: string; readonly port: number },
): object {
  const env: Record<string, unknown> = {}
  const vars = {
    ...config.vars,
    ...SELF_HOST_DEFAULTS,
    ...(options.audit === undefined ? { AUDIT_LINES: '0' } : {}),
    ...options.vars,
    LOG_NUMBER: number,
    PREVIOUS_LOGS: number === 1 ? '' : JSON.stringify(previous.slice(0, number - 1)),
  }
  for (const [name, value] of Object.entries(vars))
    env[name] = { type: 'text', value: String(value) }
  for (const d1 of config.d1_databases)
    env[d1.binding] = { type: 'd1', id: numbered(d1.database_id, number) }
  for (const r2 of config.r2_buckets)
    env[r2.binding] = { type: 'r2', name: numbered(r2.bucket_name, number) }
  for (const { binding, queue } of config.queues.producers)
    env[binding] = { type: 'queue', name: numbered(queue, number) }
  env['EGRESS'] = PUBLIC_ONLY
  if (number > 1) env['PREVIOUS'] = { type: 'worker', worker: numbered(config.name, number - 1) }
  const objects = config.durable_objects.bindings
  for (const object of objects) {
    env[object.name] = {
      type: 'durable-object',
      worker: object.name === 'WALLET' ? config.name : numbered(config.name, number),
      exportName: object.class_name,
    }
  }
  return {
    ...(socket === undefined ? {} : { dev: { unsafeDirectSockets: [socket] } }),
    config: {
      name: numbered(config.name, number),
      compatibilityDate: config.compatibility_date,
      compatibilityFlags: config.compatibility_flags,
      manifest: {
        mainModule: 'index.js',
        modules: { 'index.js': { type: 'esm', contents: script } },
      },
      env,
      exports: Object.fromEntries(
        objects.map((o) => [o.class_name, { type: 'durable-object', storage: 'sqlite' }]),
      ),
      triggers: [
        ...config.triggers.crons.map((schedule) => ({ type: 'scheduled', schedule })),
        ...config.queues.consumers.map((c) => ({
          type: 'queue',
          name: numbered(c.queue, number),
          maxBatchSize: c.max_batch_size,
          maxBatchTimeout: c.max_batch_timeout,
          maxRetries: c.max_retries,
          retryDelay: c.retry_delay,
          deadLetterQueue:
            c.dead_letter_queue === undefined ? undefined : numbered(c.dead_letter_queue, number),
          ...options.consumers?.[c.queue],
        })),
      ],
    },
  }
}

/** Cron Triggers never fire by themselves in Miniflare. */
function everyMinute(tick: () => Promise<void>): () => void {
  let last = Math.floor(Date.now() / 60_000)
  const timer = setInterval(() => {
    const minute = Math.floor(Date.now() / 60_000)
    if (minute === last) return
    last = minute
    tick().catch((error: unknown) => {
      console.error(
        JSON.stringify({ level: 'error', msg: 'cron tick failed', error: String(error) }),
      )
    })
  }, 500)
  return () => clearInterval(timer)
}

/** Applies migrations with wrangler's own bookkeeping, so that either tool can go on. */
async function migrate(miniflare: Miniflare, worker: string): Promise<void> {
  const db = await miniflare.getD1Database('DB', worker)
  await db
    .prepare(
      'CREATE TABLE IF NOT EXISTS d1_migrations (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, applied_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP NOT NULL)',
    )
    .run()
  const { results } = await db.prepare('SELECT name FROM d1_migrations').all<{ name: string }>()
  const done = new Set(results.map((row) => row.name))
  const folder = resolve(ROOT, 'migrations')
  for (const name of (await readdir(folder)).filter((f) => f.endsWith('.sql')).sort()) {
    if (done.has(name)) continue
    const statements = splitSql(await readFile(resolve(folder, name), 'utf8'))
    await db.batch([
      ...statements.map((statement) => db.prepare(statement)),
      db.prepare('INSERT INTO d1_migrations (name) VALUES (?)').bind(name),
    ])
  }
}

/** What the Worker logs, to stderr: all of it when verbose, else warnings and errors. */
function print({ level, message }: { level: string; message: string }, verbose: boolean): void {
  if (verbose || level === 'error' || level === 'warn') process.stderr.write(`${message}\n`)
}
