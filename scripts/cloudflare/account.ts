/**
 * What provisioning asks of a Cloudflare account, and its answer by the pinned wrangler.
 *
 * wrangler is the only thing here that speaks to Cloudflare: it knows the operator's sign-in, or takes
 * CLOUDFLARE_API_TOKEN. Secrets reach it on a pipe, never in an argument, a file or the environment. Its own log file
 * goes to a folder that is removed, and what it says is passed on without any value that it was given to keep.
 */

import { spawn } from 'node:child_process'
import { createRequire } from 'node:module'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join, resolve } from 'node:path'
import { stripVTControlCharacters } from 'node:util'
import { ROOT } from '../build.ts'

/** A queue and who uses it. */
export interface QueueUse {
  readonly name: string
  readonly producers: number
  readonly consumers: number
}

/** The account. Every function throws `AccountError` if it cannot say what it was asked. */
export interface Account {
  databases(): Promise<readonly { readonly name: string; readonly id: string }[]>
  buckets(): Promise<readonly string[]>
  /** The queues of these names; others may be among them. */
  queues(wanted: readonly string[]): Promise<readonly QueueUse[]>
  /** Names of a Worker's secrets; null if there is no such Worker. */
  secrets(worker: string): Promise<readonly string[] | null>
  /** Resolves to its id. */
  createDatabase(name: string): Promise<string>
  createBucket(name: string): Promise<void>
  createQueue(name: string): Promise<void>
  /** Sets secrets of a Worker, which becomes an empty draft if there is none yet. */
  putSecrets(worker: string, secrets: Readonly<Record<string, string>>): Promise<void>
  /** Applies D1 migrations of the configuration `config`; resolves to the files applied now. */
  migrate(config: string): Promise<readonly string[]>
  deploy(config: string): Promise<void>
}

/** What the account, or wrangler, did not do. `passing`: the same call may succeed in a while. */
export class AccountError extends Error {
  readonly passing: boolean

  constructor(message: string, passing: boolean) {
    super(message)
    this.passing = passing
  }
}

/** Faults that pass: the network, and what Cloudflare's API refused for another reason than who asks for what. */
const PASSING =
  /request to the Cloudflare API|malformed response|fetch failed|timed? ?out|ECONN|EAI_AGAIN|failed to upload/i
const LASTING =
  /authenticat|unauthori[sz]ed|not authori[sz]ed|permission|forbidden|invalid|upgrade/i

interface Said {
  readonly code: number | null
  readonly stdout: string
  readonly stderr: string
}

/** The account `id` as wrangler reaches it, called from the folder `home`. */
export function wranglerAccount(id: string, home: string): Account {
  const ask = async (args: readonly string[], secrets: Readonly<Record<string, string>> = {}) => {
    const said = await wrangler(args, { id, home, secrets })
    if (said.code === 0) return said.stdout
    throw failure(args, said)
  }
  return {
    async databases() {
      const list = JSON.parse(await ask(['d1', 'list', '--json'])) as Record<string, string>[]
      return list.map(({ name, uuid }) => ({ name: name!, id: uuid! }))
    },
    async buckets() {
      const text = await ask(['r2', 'bucket', 'list'])
      return [...text.matchAll(/^name:\s+(\S+)$/gm)].map(([, name]) => name!)
    },
    async queues(wanted) {
      const found: QueueUse[] = []
      for (let page = 1; ; page++) {
        const rows = tableRows(await ask(['queues', 'list', '--page', String(page)]))
        for (const [, name, , , producers, consumers] of rows)
          found.push({
            name: name!,
            producers: Number(producers),
            consumers: Number(consumers),
          })
        const isWhole = wanted.every((name) => found.some((queue) => queue.name === name))
        if (isWhole || rows.length === 0) return found
      }
    },
    async secrets(worker) {
      const args = ['secret', 'list', '--name', worker, '--format', 'json']
      const said = await wrangler(args, { id, home, secrets: {} })
      if (said.code === 0)
        return (JSON.parse(said.stdout) as { name: string }[]).map(({ name }) => name)
      if (/Worker "[^"]+" not found|\b10007\b/.test(said.stderr + said.stdout)) return null
      throw failure(args, said)
    },
    async createDatabase(name) {
      const text = await ask(['d1', 'create', name])
      const made = /database_id"?\s*[=:]\s*"([^"]+)"/.exec(text)?.[1]
      if (made === undefined) throw new AccountError(`wrangler d1 create ${name} named no id`, true)
      return made
    },
    async createBucket(name) {
      await ask(['r2', 'bucket', 'create', name])
    },
    async createQueue(name) {
      await ask(['queues', 'create', name])
    },
    async putSecrets(worker, secrets) {
      await ask(['secret', 'bulk', '--name', worker], secrets)
    },
    async migrate(config) {
      const text = await ask(['d1', 'migrations', 'apply', 'DB', '--remote', '-c', config])
      // The table is drawn again after each file.
      return [...new Set([...text.matchAll(/│ (\d{4}\S*\.sql)\s+│ ✅/g)].map(([, name]) => name!))]
    },
    async deploy(config) {
      await ask(['deploy', '-c', config, '--keep-vars=false'])
    },
  }
}

/** The rows of a table that wrangler draws, without its heading. */
function tableRows(text: string): readonly (readonly string[])[] {
  const lines = text.split('\n').filter((line) => line.startsWith('│'))
  return lines.slice(1).map((line) =>
    line
      .slice(1, -1)
      .split('│')
      .map((cell) => cell.trim()),
  )
}

interface Call {
  readonly id: string
  readonly home: string
  /** Written to its standard input as JSON, and never repeated from its output. */
  readonly secrets: Readonly<Record<string, string>>
}

async function wrangler(args: readonly string[], { id, home, secrets }: Call): Promise<Said> {
  const logs = await mkdtemp(join(tmpdir(), 'vm-wrangler-'))
  try {
    const child = spawn(process.execPath, [program(), ...args], {
      cwd: home,
      env: environment(id, logs),
      stdio: ['pipe', 'pipe', 'pipe'],
    })
    child.stdin.on('error', () => undefined)
    child.stdin.end(Object.keys(secrets).length === 0 ? '' : JSON.stringify(secrets))
    const said = { stdout: '', stderr: '' }
    child.stdout.on('data', (chunk: Buffer) => (said.stdout += chunk.toString()))
    child.stderr.on('data', (chunk: Buffer) => (said.stderr += chunk.toString()))
    const code = await new Promise<number | null>((end) => child.once('close', end))
    const clean = (text: string): string =>
      Object.values(secrets).reduce(
        (rest, secret) => rest.replaceAll(secret, '…').replaceAll(JSON.stringify(secret), '…'),
        stripVTControlCharacters(text),
      )
    return { code, stdout: clean(said.stdout), stderr: clean(said.stderr) }
  } finally {
    await rm(logs, { recursive: true, force: true })
  }
}

/** wrangler's own program, run by the Node that the lock file pins. */
function program(): string {
  const manifest = createRequire(import.meta.url).resolve('wrangler/package.json')
  return join(dirname(manifest), 'bin', 'wrangler.js')
}

/** What wrangler needs of the environment: how to sign in, how to reach the network, and nothing of a node's. */
function environment(id: string, logs: string): NodeJS.ProcessEnv {
  const wanted =
    /^(?:PATH|HOME|USER|TMPDIR|LANG|XDG_\w+|CLOUDFLARE_\w+|\w*_PROXY|\w*_proxy|NODE_\w+)$/
  const env: NodeJS.ProcessEnv = {}
  for (const [name, value] of Object.entries(process.env))
    if (wanted.test(name) && !/^NODE_(?:OPTIONS|SECRET|DID|ID)$/.test(name)) env[name] = value
  return {
    ...env,
    // What wrangler.toml builds with is the Node of the lock file as well.
    PATH: `${dirname(process.execPath)}${delimiter}${env['PATH'] ?? ''}`,
    CI: '1',
    CLOUDFLARE_ACCOUNT_ID: id,
    NODE_COMPILE_CACHE: resolve(ROOT, 'node_modules/.cache/vaultmesh'),
    NO_COLOR: '1',
    WRANGLER_LOG_PATH: logs,
    WRANGLER_SEND_METRICS: 'false',
  }
}

function failure(args: readonly string[], { code, stdout, stderr }: Said): AccountError {
  const text = `${stdout}\n${stderr}`
  const at = Math.max(text.indexOf('ERROR]'), 0)
  const told = text
    .slice(at === 0 ? 0 : at + 'ERROR]'.length)
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '' && !/^(?:⛅|─|If you think|Logs were|🪵|🌀)/u.test(line))
  const named = args.filter((arg) => !arg.startsWith('-') && !arg.startsWith('/')).slice(0, 3)
  const why = told.slice(0, 3).join(' ').slice(0, 400) || `it ended with ${code}`
  const passing = PASSING.test(text) && !LASTING.test(text)
  return new AccountError(`wrangler ${named.join(' ')}: ${why}`, passing)
}
