/**
 * Cloudflare's API as far as wrangler 4.155 asks it to provision a node: an account in memory, whose D1 is real SQLite.
 *
 * Only what was seen on the wire is answered; any other request fails the test that made it. Faults come before
 * the work, or after it, when only the answer is lost.
 */

import { createServer, type IncomingMessage } from 'node:http'
import { DatabaseSync } from 'node:sqlite'

/** A Worker as it was uploaded. */
export interface StoredWorker {
  readonly secrets: Map<string, string>
  /** Its metadata of the last upload: bindings, migrations, compatibility. */
  metadata: { readonly bindings?: readonly Readonly<Record<string, unknown>>[] } & Record<
    string,
    unknown
  >
  deploys: number
  /** Durable Object migrations that were applied. */
  migrationTag?: string
}

/** What an account has. */
export interface StoredAccount {
  readonly databases: Map<string, { readonly id: string; readonly sqlite: DatabaseSync }>
  readonly buckets: Set<string>
  /** Each queue with its consumer's Worker. */
  readonly queues: Map<string, { readonly id: string; consumer: string | null }>
  readonly workers: Map<string, StoredWorker>
  readonly domains: Map<string, string>
  readonly crons: Map<string, readonly string[]>
}

/** A fault of one request: its answer, given before or after its work. */
export interface Fault {
  readonly when: (method: string, path: string) => boolean
  readonly status: number
  readonly after: boolean
}

/** The API, listening. */
export interface CloudflareApi {
  readonly url: string
  readonly account: StoredAccount
  /** Requests that were answered, as `METHOD path`; those that change something alone in `writes`. */
  readonly requests: string[]
  readonly writes: string[]
  /** Requests that nothing here answers. */
  readonly unknown: string[]
  /** Each is used once, in this order. */
  readonly faults: Fault[]
  close(): Promise<void>
}

interface Answer {
  readonly status?: number
  readonly result?: unknown
  readonly info?: object
  readonly code?: number
  readonly message?: string
}

/** The id of the one account. */
export const ACCOUNT_ID = '0123456789abcdef0123456789abcdef'

/** Starts an empty account on a free port of 127.0.0.1. */
export async function startCloudflareApi(): Promise<CloudflareApi> {
  const account: StoredAccount = {
    databases: new Map(),
    buckets: new Set(),
    queues: new Map(),
    workers: new Map(),
    domains: new Map(),
    crons: new Map(),
  }
  const requests: string[] = []
  const writes: string[] = []
  const unknown: string[] = []
  const faults: Fault[] = []
  const server = createServer((request, response) => {
    void (async () => {
      const body = await bytesOf(request)
      const { pathname, searchParams } = new URL(request.url ?? '', 'http://cloudflare')
      const path = pathname.replace(`/client/v4/accounts/${ACCOUNT_ID}`, '')
      const method = request.method ?? ''
      requests.push(`${method} ${path}`)
      const at = faults.findIndex((fault) => fault.when(method, path))
      const [fault] = at < 0 ? [] : faults.splice(at, 1)
      const send = ({ status = 200, result = null, info, code, message }: Answer): void => {
        const success = status < 400
        const errors = success ? [] : [{ code: code ?? status * 10, message: message ?? 'fault' }]
        response.writeHead(status, { 'content-type': 'application/json' })
        response.end(
          JSON.stringify({
            success,
            errors,
            messages: [],
            result,
            ...(info && { result_info: info }),
          }),
        )
      }
      const failed = {
        status: fault?.status ?? 0,
        code: 10_013,
        message: 'An unknown error has occurred',
      }
      if (fault !== undefined && !fault.after) return send(failed)
      const answer = answerTo(account, { method, path, query: searchParams, body, request })
      if (answer === null) {
        unknown.push(`${method} ${pathname}`)
        return send({ status: 404, code: 7003, message: 'Could not route' })
      }
      if (!isRead(method, path, body)) writes.push(`${method} ${path}`)
      send(fault === undefined ? answer : failed)
    })()
  })
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready))
  const { port } = server.address() as { port: number }
  return {
    url: `http://127.0.0.1:${port}/client/v4`,
    account,
    requests,
    writes,
    unknown,
    faults,
    close: () => new Promise((closed) => server.close(() => closed())),
  }
}

/** D1 is asked by POST: what only reads, or makes the table of migrations, changes nothing. */
function isRead(method: string, path: string, body: Buffer): boolean {
  if (method === 'GET') return true
  if (!path.endsWith('/query')) return false
  return /^\{"sql":"\s*(?:SELECT|PRAGMA|CREATE TABLE IF NOT EXISTS \\?"?d1_migrations)/i.test(
    body.toString().replaceAll(/\\n/g, ' '),
  )
}

interface Asked {
  readonly method: string
  readonly path: string
  readonly query: URLSearchParams
  readonly body: Buffer
  readonly request: IncomingMessage
}

function answerTo(account: StoredAccount, asked: Asked): Answer | null {
  const { method, path } = asked
  const [, head, ...rest] = path.split('/')
  if (head === 'd1') return d1(account, asked, rest)
  if (head === 'r2') return r2(account, asked)
  if (head === 'queues') return queues(account, asked, rest)
  if (head === 'workers') return workers(account, asked, rest)
  if (method === 'GET' && path.endsWith('/zones'))
    return { result: [{ id: 'zone', name: 'you.org' }] }
  return null
}

function d1(account: StoredAccount, { method, query, body }: Asked, rest: string[]): Answer | null {
  const [, id, verb] = rest
  if (id === undefined && method === 'GET') {
    const list = [...account.databases].map(([name, d]) => ({
      uuid: d.id,
      name,
      version: 'production',
    }))
    const name = query.get('name')
    const result = name === null ? list : list.filter((d) => d.name === name)
    return {
      result,
      info: { page: 1, per_page: 100, count: result.length, total_count: result.length },
    }
  }
  if (id === undefined) {
    const { name } = JSON.parse(body.toString()) as { name: string }
    if (account.databases.has(name))
      return { status: 400, code: 7502, message: `A database with that name already exists` }
    const n = String(account.databases.size + 1).padStart(12, '0')
    const uuid = `00000000-0000-4000-8000-${n}`
    account.databases.set(name, { id: uuid, sqlite: new DatabaseSync(':memory:') })
    return { result: { uuid, name, version: 'production', created_in_region: 'WEUR' } }
  }
  const [name, database] = [...account.databases].find(([, d]) => d.id === id) ?? []
  if (database === undefined)
    return { status: 404, code: 7404, message: 'The database was not found' }
  if (verb === undefined) return { result: { uuid: id, name, version: 'production' } }
  if (verb !== 'query') return null
  const { sql, params = [] } = JSON.parse(body.toString()) as { sql: string; params?: string[] }
  try {
    // Cloudflare runs what one request asks in one transaction.
    if (params.length === 0 && sql.replace(/;\s*$/, '').includes(';')) {
      database.sqlite.exec(`BEGIN; ${sql.replace(/;\s*$/, '')}; COMMIT;`)
      return { result: [{ results: [], success: true, meta: { duration: 1 } }] }
    }
    const results = database.sqlite.prepare(sql).all(...params)
    return { result: [{ results, success: true, meta: { duration: 1 } }] }
  } catch (error) {
    if (database.sqlite.isTransaction) database.sqlite.exec('ROLLBACK')
    return { status: 400, code: 7500, message: String(error) }
  }
}

function r2(account: StoredAccount, { method, body }: Asked): Answer | null {
  if (method === 'GET') {
    const buckets = [...account.buckets].map((name) => ({
      name,
      creation_date: '2026-01-01T00:00:00Z',
    }))
    return { result: { buckets } }
  }
  const { name } = JSON.parse(body.toString()) as { name: string }
  if (account.buckets.has(name))
    return {
      status: 409,
      code: 10004,
      message: 'The bucket you tried to create already exists, and you own it.',
    }
  account.buckets.add(name)
  return { result: {} }
}

/** Queues a page; fewer than a node has, so that pages are turned. */
const QUEUE_PAGE = 8

function queues(
  account: StoredAccount,
  { method, query, body }: Asked,
  [id, what]: string[],
): Answer | null {
  const described = [...account.queues].map(([name, queue]) => ({
    queue_id: queue.id,
    queue_name: name,
    created_on: '2026-01-01T00:00:00Z',
    modified_on: '2026-01-01T00:00:00Z',
    producers: queue.consumer === null ? [] : [{ type: 'worker', script: queue.consumer }],
    producers_total_count: queue.consumer === null ? 0 : 1,
    consumers:
      queue.consumer === null
        ? []
        : [
            {
              type: 'worker',
              script: queue.consumer,
              script_name: queue.consumer,
              consumer_id: 'c',
            },
          ],
    consumers_total_count: queue.consumer === null ? 0 : 1,
  }))
  if (id === undefined && method === 'GET') {
    const names = query.getAll('name')
    if (names.length > 0) return { result: described.filter((q) => names.includes(q.queue_name)) }
    const page = Number(query.get('page') ?? '1')
    const result = described.slice((page - 1) * QUEUE_PAGE, page * QUEUE_PAGE)
    return { result, info: { page, per_page: QUEUE_PAGE, total_count: described.length } }
  }
  if (id === undefined) {
    const { queue_name: name } = JSON.parse(body.toString()) as { queue_name: string }
    if (account.queues.has(name))
      return { status: 409, code: 11009, message: 'Queue name is already taken' }
    const queueId = String(account.queues.size + 1).padStart(32, '0')
    account.queues.set(name, { id: queueId, consumer: null })
    return { result: { queue_id: queueId, queue_name: name } }
  }
  const queue = [...account.queues.values()].find((q) => q.id === id)
  if (queue === undefined || what !== 'consumers') return null
  if (method === 'GET') return { result: described.find((q) => q.queue_id === id)!.consumers }
  const { script_name: script } = JSON.parse(body.toString()) as { script_name: string }
  queue.consumer = script
  return { result: { consumer_id: 'c' } }
}

function workers(
  account: StoredAccount,
  asked: Asked,
  [kind, name, ...verbs]: string[],
): Answer | null {
  const { method, body } = asked
  const verb = verbs.join('/')
  if (kind === 'subdomain') return { result: { subdomain: 'you' } }
  if (kind === 'services' || kind === 'scripts' || kind === 'workers') {
    const worker = account.workers.get(name ?? '')
    const missing = {
      status: 404,
      code: 10007,
      message: 'This Worker does not exist on your account.',
    }
    if (kind === 'services') {
      if (worker === undefined) return { ...missing, code: 10090 }
      return {
        result: {
          id: name,
          default_environment: {
            environment: 'production',
            script: {
              last_deployed_from: 'wrangler',
              tag: 'tag',
              migration_tag: worker.migrationTag,
            },
          },
        },
      }
    }
    if (verb === 'secrets' && method === 'GET') {
      if (worker === undefined) return missing
      return { result: [...worker.secrets.keys()].map((n) => ({ name: n, type: 'secret_text' })) }
    }
    if (verb === 'secrets-bulk') {
      if (worker === undefined) return missing
      const { secrets } = JSON.parse(body.toString()) as {
        secrets: Record<string, { text: string }>
      }
      for (const [key, { text }] of Object.entries(secrets)) worker.secrets.set(key, text)
      return { result: {} }
    }
    if (kind === 'workers' && verb === '') {
      if (worker === undefined) return missing
      return { result: { id: name, name, subdomain: { enabled: false, previews_enabled: false } } }
    }
    // The first upload is a PUT of the script; later ones add a version, and then deploy it.
    if ((verb === '' && method === 'PUT') || (verb === 'versions' && method === 'POST')) {
      const metadata = metadataOf(asked)
      const before = worker ?? { secrets: new Map<string, string>(), metadata, deploys: 0 }
      before.metadata = metadata
      before.deploys++
      const { migrations } = metadata as { migrations?: { new_tag?: string } }
      if (migrations?.new_tag !== undefined) before.migrationTag = migrations.new_tag
      account.workers.set(name!, before)
      const id = `v${before.deploys}`
      const resources = { script: { etag: id }, script_runtime: {}, bindings: [] }
      return { result: { id, deployment_id: id, startup_time_ms: 10, resources, metadata: {} } }
    }
    if (verb === 'deployments')
      return worker === undefined ? missing : { result: { id: 'd', deployments: [] } }
    if (verb === 'subdomain' || verb === 'environments/production/subdomain')
      return { result: { enabled: false, previews_enabled: false } }
    if (verb === 'schedules') {
      if (method !== 'GET') {
        const list = JSON.parse(body.toString()) as { cron: string }[]
        account.crons.set(
          name!,
          list.map(({ cron }) => cron),
        )
      }
      return { result: { schedules: [] } }
    }
    if (verb === 'domains/records' || verb === 'domains/changeset') {
      const given = JSON.parse(body.toString()) as { origins?: { hostname: string }[] }
      if (verb === 'domains/changeset')
        return { result: { added: given, updated: [], removed: [], conflicting: [] } }
      for (const { hostname } of given.origins ?? []) account.domains.set(hostname, name!)
      return { result: {} }
    }
    if (verb === 'settings' || verb === 'script-settings')
      return worker === undefined
        ? missing
        : { result: { bindings: worker.metadata.bindings ?? [] } }
  }
  return null
}

/** The part `metadata` of an upload (RFC 7578). */
function metadataOf({ body }: Asked): StoredWorker['metadata'] {
  const text = body.toString('latin1')
  const start = text.indexOf('\r\n\r\n', text.indexOf('name="metadata"')) + 4
  const end = text.indexOf('\r\n--', start)
  return JSON.parse(
    Buffer.from(text.slice(start, end), 'latin1').toString(),
  ) as StoredWorker['metadata']
}

async function bytesOf(request: IncomingMessage): Promise<Buffer> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks)
}
