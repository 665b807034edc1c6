/**
 * A self-hosted node: one process, one home folder, the Worker in Miniflare on persisted state.
 *
 *   node scripts/selfhost.ts [--home .vaultmesh] [--port 7077] [--host 127.0.0.1]
 *                            [--tsa URL --tsa-roots FILE] [--secrets DIR] [--worker FILE]
 *
 * Settings are those of wrangler.toml, each overridden by an environment variable of its name; two differ by
 * default (SELF_HOST_DEFAULTS: one shard, no address header). Secrets come decrypted from the keystore and
 * from the SOPS files of a folder straight into bindings, over a pipe to the runtime: they are on no disk,
 * in no environment and on no command line. What stops a start is said in one line, exit code 1.
 */

import { randomBytes } from 'node:crypto'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { parseArgs } from 'node:util'
import { unstable_readConfig as readConfig } from 'wrangler'
import { toBase64Url } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { Trust } from '../functions/sdk.ts'
import { serveAdmin } from './admin-socket.ts'
import { openAudit } from './audit-files.ts'
import { auditCommands, keepAudit } from './audit-ledger.ts'
import { restoredFrom, restoredWarning } from './backup.ts'
import { bundleWorker, ROOT } from './build.ts'
import { fail } from './fail.ts'
import { federationFile } from './federation-file.ts'
import { homeAt, lockHome, noteFollowed, pinnedRoots, type Home } from './home.ts'
import { INTAKE_FILE, intakeFile } from './intake-file.ts'
import { SELF_HOST_DEFAULTS, startHost, type Host, type HostOptions } from './host.ts'
import { NODE_SECRET_FILE, nodeSecret } from './keystore.ts'
import { checkPort, portOf, untilStopped } from './listen.ts'
import { answersHealth, notifier } from './notify.ts'
import { keepReceipts, RECEIPTS_DIR } from './receipt-files.ts'
import { rotationVars } from './rotation-file.ts'
import { runLogs } from './running-logs.ts'
import { loadSecrets, SECRETS_DIR } from './sops.ts'
import { readLogs, type Operated } from './succession.ts'
import { vacuumErased } from './vacuum.ts'
import manifest from '../package.json' with { type: 'json' }

/** The port of a node. */
export const DEFAULT_PORT = 7077

/** Timestamp authorities, and the PEM roots that their chains must end in. */
export interface TsaPins {
  readonly urls: string
  readonly rootsPem: string
}

/** What the runtime said last comes out of its pipe within this time after its end. */
const LAST_LINES_MS = 50

/** How to run a node. */
export interface NodeOptions extends Pick<
  HostOptions,
  'cron' | 'consumers' | 'verbose' | 'script' | 'log'
> {
  readonly home?: string
  readonly host?: string
  readonly port: number
  readonly tsa?: TsaPins
  /** A folder of SOPS files whose variables (keys for anchoring) become bindings; none without it. */
  readonly secrets?: string
  /** A config/federation.yaml to join a federation with; followed while the node runs. */
  readonly federation?: string
  /** A config/intake.yaml with the rules of intake; followed while the node runs. */
  readonly intake?: string
  /** A folder to keep current with verified anchor receipts; none without it. */
  readonly receipts?: string
  /**
   * Variables over those of wrangler.toml, the environment and the secrets. As a function: called once the
   * home is ours, e.g. to start what the node depends on; the caller stops it.
   */
  readonly vars?: Vars | (() => Promise<Vars>)
}

type Vars = Readonly<Record<string, string>>

/** A node that answers. */
export interface RunningNode {
  readonly url: string
  readonly home: Home
  readonly trust: Trust
  readonly host: Host
  /** What the operator should know of these settings, one sentence each. */
  readonly warnings: readonly string[]
  stop(): Promise<void>
}

/** Starts a node; throws `bad-config` for what an operator can mend. */
export async function startNode(options: NodeOptions): Promise<RunningNode> {
  const home = homeAt(options.home)
  const undo: (() => unknown)[] = []
  const stop = async (): Promise<void> => {
    for (const step of undo.splice(0).toReversed()) await step()
  }
  try {
    const lock = lockHome(home)
    undo.push(() => lock.release())
    // Whoever had the home before is dead, its runtime too.
    const since = Date.now()
    const audit = openAudit(home.audit, { version: manifest.version })
    undo.push(async () => {
      await new Promise((passed) => setTimeout(passed, LAST_LINES_MS))
      audit.stop()
    })
    const isFirstStart = readdirSync(home.state).length === 0
    const vacuumed = vacuumErased(home.path, home.state)
    const rootsBefore = pinnedRoots(home)
    const restored = restoredFrom(home)
    const secret = await nodeSecret(home.path)
    const anchorKeys = options.secrets === undefined ? {} : await loadSecrets(options.secrets)
    const address = options.host ?? '127.0.0.1'
    await checkPort(address, options.port, '--port')
    const own = typeof options.vars === 'function' ? await options.vars() : options.vars
    const publicUrl = `http://${reachable(address)}:${options.port}`
    const vars = withRails({
      PUBLIC_URL: publicUrl,
      ...(options.federation === undefined ? {} : { FEDERATION_FILE: '1' }),
      ...(options.intake === undefined ? {} : { INTAKE_FILE: '1' }),
      ...settings(process.env),
      ...rotationVars(home, process.env),
      ...tsaSettings(options.tsa),
      ...anchorKeys,
      ...own,
      ...(restored === null ? {} : { RESTORED: restored.id }),
    })
    const token = toBase64Url(randomBytes(32))
    const url = publicUrl
    const script = options.script ?? (await bundleWorker())
    const federation =
      options.federation === undefined
        ? null
        : federationFile(options.federation, (yaml) => hand({ url, token }, 'federation', yaml))
    const intake =
      options.intake === undefined
        ? null
        : intakeFile(options.intake, (text) => hand({ url, token }, 'intake?via=file', text))
    const running = await runLogs({
      home,
      node: { url, token },
      start: (previous) =>
        startHost({
          ...options,
          script,
          previous,
          host: address,
          stateDir: home.state,
          vars: { ...vars, AUDIT_FILES: '1', NODE_SECRET: secret, ADMIN_TOKEN: token },
          audit: (line) => audit.take(line),
        }),
      admit: async (log) => {
        await admit({ url, token }, home, { log, since })
        // Before the current log does anything: whom it hears is what the file says, not what was stored.
        if (log === '') await federation?.apply()
        if (log === '') await intake?.apply()
      },
      onStarted: () => lock.noteRuntime(),
    })
    undo.push(() => running.stop())
    for (const followed of [federation?.follow(), intake?.follow()])
      if (followed !== undefined) undo.push(() => followed.stop())
    noteFollowed(home, options)
    const logs = (): number => readLogs(home).length + 1
    const local = auditCommands(audit)
    const admin = await serveAdmin(home.socket, { url, token, audit, logs, local })
    undo.push(() => admin.close())
    const kept = keepAudit(audit, { url, token, logs })
    undo.push(() => kept.stop())
    if (options.receipts !== undefined) {
      const copies = keepReceipts(url, options.receipts)
      undo.push(() => copies.stop())
    }
    // What the process before had in hand goes on now, not with the next minute; that one reports what fails.
    if (options.cron !== false)
      void running
        .host()
        .tick()
        .catch(() => undefined)
    const said = running.said()
    const warnings: string[] = []
    if (vacuumed > 0) {
      warnings.push(`Events were erased: ${vacuumed} databases were written anew without them.`)
    }
    if (isFirstStart && /\.example(?:\/|$)/.test(said.origin))
      warnings.push(originWarning(said.origin))
    if (rootsBefore.length > 0 && said.tsaRoots.length === 0 && vars['RAILS'] === undefined) {
      warnings.push(TSA_WARNING)
    }
    if (restored !== null) warnings.push(restoredWarning(restored))
    const index = await indexWarning(url)
    if (index !== null) warnings.push(index)
    if (!isLoopback(address)) warnings.push(openWarning(address, options.port))
    if ((process.env['REDIS_URL'] ?? '') !== '') warnings.push(REDIS_WARNING)
    return {
      url,
      home,
      warnings,
      stop,
      get trust() {
        return running.trust()
      },
      get host() {
        return running.host()
      },
    }
  } catch (error) {
    await stop()
    throw error
  }
}

/** What /readyz says of an index that was lost; it is no reason not to run, for events are taken and sealed. */
async function indexWarning(url: string): Promise<string | null> {
  const body = (await (await fetch(`${url}/readyz`)).json().catch(() => ({}))) as {
    readonly checks?: { readonly index?: string }
  }
  const index = body.checks?.index ?? 'ok'
  return index === 'ok' ? null : index
}

const TSA_WARNING =
  'This log was timestamped before and is not now: give --tsa and --tsa-roots, or set RAILS= on purpose.'

const REDIS_WARNING =
  'REDIS_URL is not used: queues and Durable Objects of this process do what the plan’s Redis did.'

function originWarning(origin: string): string {
  return `The log is named ${origin} for ever; for a log of your own start a new home with ORIGIN=log.you.org/log NODE_ID=log-you NETWORK=production.`
}

function openWarning(address: string, port: number): string {
  return `Open to the network: whoever reaches ${address} port ${port} can read and post; put a TLS proxy in front.`
}

function isLoopback(address: string): boolean {
  return address === 'localhost' || address === '::1' || /^127(?:\.\d+){3}$/.test(address)
}

/** The log itself says whether these settings fit it: another ORIGIN or INTAKE_SHARDS do not. */
async function admit(
  { url, token }: Operated,
  home: Home,
  { log, since }: { readonly log: string; readonly since: number },
): Promise<void> {
  const headers = { authorization: `Bearer ${token}` }
  const query = `${log === '' ? '?' : `${log}&`}since=${since}`
  const response = await fetch(`${url}/admin/start${query}`, { method: 'POST', headers })
  if (response.ok) return
  const problem = (await response.json().catch(() => ({}))) as { detail?: string }
  const detail = problem.detail ?? `The node refuses to start (${response.status}).`
  throw new VaultMeshError('bad-config', `${detail}${remedyOf(detail, home)}`)
}

/** Hands a followed file's text to the node, below /admin/; throws its refusal. */
async function hand({ url, token }: Operated, where: string, text: string): Promise<void> {
  const headers = { authorization: `Bearer ${token}` }
  const response = await fetch(`${url}/admin/${where}`, { method: 'POST', headers, body: text })
  if (response.ok) return
  const problem = (await response.json().catch(() => ({}))) as { detail?: string }
  throw new VaultMeshError(
    'bad-config',
    problem.detail ?? `The node refuses the file (${response.status}).`,
  )
}

/** What to do about a setting that does not fit this node or its log. */
function remedyOf(detail: string, home: Home): string {
  if (detail.startsWith('ROTATION:') && existsSync(home.rotation))
    return ` The statements are those of ${home.rotation}.`
  const [, name, was] =
    /^(INTAKE_SHARDS|ORIGIN|NODE_SECRET): .* started with (?:[a-z]+ )?([^\s,]+),/.exec(detail) ?? []
  if (name === undefined) return ''
  return name === 'NODE_SECRET'
    ? ` Put back ${NODE_SECRET_FILE} of this log (from your backup), or start a new home with --home.`
    : ` Set it back (${name}=${was}), or start a new home with --home.`
}

/** The variables that a node started here now would have, as far as wrangler.toml, this environment and `secrets` say. */
export function variablesHere(home: Home, secrets: Vars): Vars {
  const { vars } = readConfig({ config: resolve(ROOT, 'wrangler.toml') }) as {
    readonly vars: Vars
  }
  const given = { ...settings(process.env), ...rotationVars(home, process.env), ...secrets }
  return { ...vars, ...SELF_HOST_DEFAULTS, ...withRails(given) }
}

/** What wrangler.toml leaves out and the environment may set. */
const OPTIONAL = [
  'NODE_DID',
  'BTC_URLS',
  'EVM_URLS',
  'ALERTMANAGER_URL',
  'ALERT_WEBHOOK_URL',
  'METRICS_TOKEN',
] as const

/** Variables of wrangler.toml, and the optional ones it leaves out, that the environment sets. */
function settings(env: NodeJS.ProcessEnv): Record<string, string> {
  const { vars } = readConfig({ config: resolve(ROOT, 'wrangler.toml') }) as {
    readonly vars: Readonly<Record<string, unknown>>
  }
  const found: Record<string, string> = {}
  for (const name of [...Object.keys(vars), ...OPTIONAL]) {
    const value = env[name]
    if (value !== undefined) found[name] = value
  }
  // The plan spells it both ways; wrangler.toml's own value must not outrank either.
  const asInPlan = env['HARbINGER_SIG_REQUIRED']
  if (asInPlan !== undefined) found['HARBINGER_SIG_REQUIRED'] ??= asInPlan
  const roots = env['TSA_ROOTS']
  if (roots !== undefined && roots !== '') found['TSA_ROOTS'] = pemOf(roots)
  return found
}

function tsaSettings(tsa: TsaPins | undefined): Record<string, string> {
  return tsa === undefined ? {} : { TSA_URLS: tsa.urls, TSA_ROOTS: tsa.rootsPem }
}

/** RAILS as it is set; where it is not, every rail that has what it needs. */
function withRails(vars: Record<string, string>): Record<string, string> {
  if (vars['RAILS'] !== undefined) return vars
  const has = (name: string): boolean => (vars[name] ?? '') !== ''
  const rails: string[] = []
  if (has('BTC_URLS') && (has('BTC_PRIVATE_KEY') || has('OTS_CALENDARS'))) rails.push('BTC')
  if (has('EVM_URLS') && has('EVM_PRIVATE_KEY')) rails.push('EVM')
  if (has('TSA_URLS')) rails.push('TSA')
  return rails.length === 0 ? vars : { ...vars, RAILS: rails.join(',') }
}

/** PEM text itself, or of the file it names. */
function pemOf(text: string): string {
  if (text.includes('-----BEGIN CERTIFICATE-----')) return text
  try {
    return readFileSync(text, 'utf8')
  } catch {
    throw new VaultMeshError('bad-config', `Cannot read the timestamp roots ${text}.`)
  }
}

/** Where this machine reaches a socket that listens on every address. */
function reachable(host: string): string {
  if (host === '0.0.0.0') return '127.0.0.1'
  if (host === '::') return '[::1]'
  return host.includes(':') ? `[${host}]` : host
}

/** The options of `vaultmesh selfhost`, for its help as well. */
export const selfhostOptions = {
  home: { type: 'string' },
  port: { type: 'string', default: String(DEFAULT_PORT) },
  host: { type: 'string', default: '127.0.0.1' },
  tsa: { type: 'string', multiple: true },
  'tsa-roots': { type: 'string' },
  secrets: { type: 'string' },
  receipts: { type: 'string', default: RECEIPTS_DIR },
  federation: { type: 'string' },
  intake: { type: 'string' },
  worker: { type: 'string' },
  verbose: { type: 'boolean', default: false },
} as const

/** The folder of secrets to start with: a named one must exist, so that a slip is noticed. */
function secretsDir(named: string | undefined): string {
  if (named !== undefined && !existsSync(named)) {
    throw new VaultMeshError('bad-config', `There is no folder ${named} (--secrets).`)
  }
  return named ?? SECRETS_DIR
}

/** The Worker as it was bundled before: a start then needs no bundler. */
function workerIn(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    throw new VaultMeshError('bad-config', `Cannot read the bundled Worker ${file} (--worker).`)
  }
}

/** The rules of intake to start with: those that are named, else those in their usual place if there are any. */
export function intakeOption(named?: string): Pick<NodeOptions, 'intake'> {
  if (named !== undefined) return { intake: named }
  return existsSync(INTAKE_FILE) ? { intake: INTAKE_FILE } : {}
}

/** Runs a node until it is told to stop. */
export async function selfhost(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({ args: [...args], options: selfhostOptions })
  const { tsa, 'tsa-roots': roots } = values
  if ((tsa === undefined) !== (roots === undefined)) {
    throw new VaultMeshError('bad-config', '--tsa and --tsa-roots go together.')
  }
  const port = portOf(values.port)
  const manager = notifier((withinMs) =>
    answersHealth(`http://${reachable(values.host)}:${port}`, withinMs),
  )
  const node = await startNode({
    host: values.host,
    port,
    verbose: values.verbose,
    secrets: secretsDir(values.secrets),
    receipts: values.receipts,
    ...(values.home === undefined ? {} : { home: values.home }),
    ...(values.federation === undefined ? {} : { federation: values.federation }),
    ...intakeOption(values.intake),
    ...(values.worker === undefined ? {} : { script: workerIn(values.worker) }),
    ...(tsa === undefined ? {} : { tsa: { urls: tsa.join(','), rootsPem: pemOf(roots!) } }),
  })
  const stopped = untilStopped()
  for (const warning of node.warnings) console.error(`vaultmesh: ${warning}`)
  console.log(`vaultmesh ${node.trust.node_id} at ${node.url} (log ${node.trust.origin})`)
  console.log(`  ${node.trust.node_did}`)
  console.log(`  rails: ${node.trust.rails.join(', ') || 'none'}; home: ${node.home.path}`)
  await manager.ready(`${node.trust.origin} at ${node.url}`)
  const signal = await stopped
  await manager.stopping()
  await node.stop()
  console.log(`vaultmesh stopped (${signal})`)
  return 0
}

if (import.meta.main) {
  selfhost(process.argv.slice(2)).then((code) => process.exit(code), fail)
}
