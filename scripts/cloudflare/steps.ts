/**
 * Brings an account to what an environment needs, and changes nothing that is there.
 *
 * Everything is looked up first, so a run goes on where another stopped: after a crash between any two steps, after an
 * answer that never came, after a limit of rate. Three rules keep a log from being forked by its own tool:
 *
 *   1. The node's secret is on disk, encrypted, before the account sees it; where the account has one it is never put.
 *   2. What exists before this folder's first run is refused: it is somebody else's (or --adopt says it is not).
 *   3. Once a deploy was begun, what is missing is a loss and is not made anew: an empty store under the same key
 *      would be a second history of the log.
 *
 * Seen by its answers alone: `Account` says what is there, `EnvironmentHome` what was done.
 */

import { createHash, createHmac } from 'node:crypto'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { fromBase64Url } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { deriveIdentity } from '#core/node-keys.ts'
import { NODE_SECRET_FILE, nodeSecret } from '../keystore.ts'
import { AccountError, type Account, type QueueUse } from './account.ts'
import type { EnvironmentHome, State } from './environment-home.ts'
import {
  ownHost,
  resourcesOf,
  wranglerConfig,
  type baseConfig,
  type Resources,
  type Vars,
} from './environment.ts'

/** One row of the report. */
export interface Step {
  readonly what: 'd1' | 'r2' | 'queue' | 'secret' | 'migrations' | 'worker'
  readonly name: string
  readonly did: 'created' | 'unchanged' | 'put' | 'replaced' | 'applied' | 'deployed' | 'would'
  readonly note?: string
}

/** What to provision, and with what. */
export interface Plan {
  readonly env: string
  readonly base: ReturnType<typeof baseConfig>
  readonly vars: Vars
  readonly accountId: string
  readonly home: EnvironmentHome
  readonly account: Account
  /** Secrets beside NODE_SECRET. */
  readonly secrets: Readonly<Record<string, string>>
  /** The bundle, so that what is deployed already is not deployed again. */
  readonly bundle: string
  readonly adopt: boolean
  readonly dryRun: boolean
  /** Whether a host name leads somewhere today. */
  readonly resolves: (host: string) => Promise<boolean>
  readonly progress: (text: string) => void
  readonly wait: (ms: number) => Promise<unknown>
}

/** What is on the account, and what this folder knows. */
interface Seen {
  readonly names: Resources
  readonly database: { readonly id: string } | undefined
  readonly hasBucket: boolean
  readonly queues: readonly QueueUse[]
  /** Names of the Worker's secrets; null without a Worker. */
  readonly secrets: readonly string[] | null
  readonly before: State | null
  readonly hadSecret: boolean
}

/** Waits between attempts; the limit of Cloudflare's API is counted over five minutes. */
const WAITS_MS = [2000, 10_000]

/** Provisions; resolves to what was done. Throws `bad-config` for what it refuses, `AccountError` for the account's. */
export async function provision(plan: Plan): Promise<readonly Step[]> {
  const seen = await look(plan)
  await judge(plan, seen)
  if (plan.dryRun) return foreseen(plan, seen)
  const { account, home } = plan
  let state: State = seen.before ?? { account: plan.accountId }
  const remember = (more: Partial<State>): void => home.writeState((state = { ...state, ...more }))
  remember({})
  const secret = await nodeSecret(home.path)
  const { did: nodeDid } = await deriveIdentity(fromBase64Url(secret), 1)
  const { databaseId, steps } = await createMissing(plan, seen)
  remember({ databaseId })
  const config = wranglerConfig(plan.base, plan.env, {
    vars: plan.vars,
    known: { account: plan.accountId, databaseId, nodeDid },
    home: home.path,
  })
  home.writeWrangler(config)

  plan.progress('applying migrations …')
  const { worker, database } = seen.names
  const applied = await patient(plan, () => account.migrate(home.wrangler))
  steps.push(
    applied.length === 0
      ? { what: 'migrations', name: database, did: 'unchanged' }
      : { what: 'migrations', name: database, did: 'applied', note: applied.join(', ') },
  )

  const { put, tags, rows } = secretsToPut(secret, { plan, seen, state })
  if (Object.keys(put).length > 0) {
    plan.progress('putting secrets …')
    await patient(plan, () => account.putSecrets(worker, put))
  }
  remember({ secrets: tags })
  steps.push(...rows)

  const digest = createHash('sha256')
    .update(JSON.stringify(config))
    .update(plan.bundle)
    .digest('hex')
  if (state.deployed === digest) {
    steps.push({ what: 'worker', name: worker, did: 'unchanged' })
    return steps
  }
  remember({ live: true })
  plan.progress('deploying …')
  await patient(plan, () => account.deploy(home.wrangler))
  remember({ deployed: digest })
  steps.push({ what: 'worker', name: worker, did: 'deployed' })
  return steps
}

/** Looks at the account; changes nothing. */
async function look(plan: Plan): Promise<Seen> {
  const { account, home } = plan
  const names = resourcesOf(plan.base, plan.env)
  const before = home.state()
  if (before !== null && before.account !== plan.accountId) {
    throw refuse(
      `${home.path} belongs to the account ${before.account}, not ${plan.accountId}: the same node on two accounts would be two histories of one log`,
    )
  }
  plan.progress('looking at the account …')
  const [databases, buckets, queues, secrets] = await Promise.all([
    patient(plan, () => account.databases()),
    patient(plan, () => account.buckets()),
    patient(plan, () => account.queues(names.queues)),
    patient(plan, () => account.secrets(names.worker)),
  ])
  return {
    names,
    database: databases.find(({ name }) => name === names.database),
    hasBucket: buckets.includes(names.bucket),
    queues: queues.filter(({ name }) => names.queues.includes(name)),
    secrets,
    before,
    hadSecret: existsSync(join(home.path, NODE_SECRET_FILE)),
  }
}

/** Throws `bad-config` for whatever there is that is not ours, or was and is gone. */
async function judge(plan: Plan, seen: Seen): Promise<void> {
  const { names, database, hasBucket, queues, secrets, before, hadSecret } = seen
  const { path } = plan.home
  const secretFile = join(path, NODE_SECRET_FILE)
  const found = [
    ...(database === undefined ? [] : [`D1 ${names.database}`]),
    ...(hasBucket ? [`R2 ${names.bucket}`] : []),
    ...queues.map(({ name }) => `queue ${name}`),
    ...(secrets === null ? [] : [`Worker ${names.worker}`]),
  ]
  if (before === null && !plan.adopt && found.length > 0) {
    throw refuse(
      `The account has ${found.join(', ')} already, and ${path} knows nothing of it. Put that folder back from a backup, choose another --env, or say --adopt if it was made for this and holds nothing`,
    )
  }
  if (secrets?.includes('NODE_SECRET') === true && !hadSecret) {
    throw refuse(
      `Worker ${names.worker} has a NODE_SECRET, and there is no ${secretFile}: it is another node, or this one’s file must be put back from a backup`,
    )
  }
  const wasId = before?.databaseId
  if (wasId !== undefined && database !== undefined && database.id !== wasId) {
    throw refuse(
      `D1 ${names.database} is ${database.id}, and was ${wasId}. If you replaced it, write the new id into ${join(path, 'state.json')}`,
    )
  }
  const isLive = before?.live === true
  for (const queue of queues) {
    const most = isLive ? 1 : 0
    if (queue.consumers <= most && (isLive || queue.producers === 0)) continue
    throw refuse(
      `Queue ${queue.name} has ${queue.producers} producers and ${queue.consumers} consumers, not all of them this node’s. Detach the others, or choose another --env`,
    )
  }
  if (isLive) {
    const lost = [
      ...(database === undefined ? [`D1 ${names.database}`] : []),
      ...(hasBucket ? [] : [`R2 ${names.bucket}`]),
      ...(secrets === null ? [`Worker ${names.worker}, with its Durable Objects`] : []),
      ...(hadSecret ? [] : [secretFile]),
    ]
    if (lost.length === 0) return
    throw refuse(
      `Gone, and it was live: ${lost.join('; ')}. An empty one under the same key would be a second history of the log; docs/cloudflare.md (“What was lost”) says what to do`,
    )
  }
  // wrangler gives a host to the Worker whatever it led to, unasked where there is no terminal.
  const host = ownHost(plan.vars)
  if (host !== null && !plan.adopt && (await plan.resolves(host))) {
    throw refuse(
      `${host} leads somewhere already, and deploying would point it at this node. Take its DNS record away, or say --adopt`,
    )
  }
}

/** Makes what is missing; resolves to the D1's id and the rows of the report. */
async function createMissing(
  plan: Plan,
  { names, database, hasBucket, queues }: Seen,
): Promise<{ readonly databaseId: string; readonly steps: Step[] }> {
  const { account } = plan
  const steps: Step[] = []
  const databaseId =
    database?.id ??
    (await create(plan, names.database, {
      make: () => account.createDatabase(names.database),
      find: async () => (await account.databases()).find((d) => d.name === names.database)?.id,
    }))
  steps.push({
    what: 'd1',
    name: names.database,
    did: database === undefined ? 'created' : 'unchanged',
  })
  if (!hasBucket) {
    await create(plan, names.bucket, {
      make: () => account.createBucket(names.bucket).then(() => true),
      find: async () => (await account.buckets()).includes(names.bucket) || undefined,
    })
  }
  steps.push({ what: 'r2', name: names.bucket, did: hasBucket ? 'unchanged' : 'created' })
  const isThere = (name: string, list: readonly QueueUse[]): boolean =>
    list.some((queue) => queue.name === name)
  const missing = names.queues.filter((name) => !isThere(name, queues))
  // Two at a time: wrangler takes a second of processor each.
  for (let i = 0; i < missing.length; i += 2) {
    const made = missing.slice(i, i + 2).map((name) =>
      create(plan, name, {
        make: () => account.createQueue(name).then(() => true),
        find: async () => isThere(name, await account.queues([name])) || undefined,
      }),
    )
    await Promise.all(made)
  }
  for (const name of names.queues)
    steps.push({ what: 'queue', name, did: missing.includes(name) ? 'created' : 'unchanged' })
  return { databaseId, steps }
}

/** Which secrets the Worker does not have as they are here. NODE_SECRET is put where there is none, and never again. */
function secretsToPut(
  nodeSecretText: string,
  { plan, seen, state }: { readonly plan: Plan; readonly seen: Seen; readonly state: State },
): {
  readonly put: Readonly<Record<string, string>>
  readonly tags: Readonly<Record<string, string>>
  readonly rows: readonly Step[]
} {
  const key = fromBase64Url(nodeSecretText)
  const put: Record<string, string> = {}
  const tags: Record<string, string> = { ...state.secrets }
  const rows: Step[] = []
  for (const [name, value] of Object.entries({ NODE_SECRET: nodeSecretText, ...plan.secrets })) {
    const tag = createHmac('sha256', key)
      .update(`vaultmesh/v1/provisioned\0${name}\0${value}`)
      .digest('hex')
    const isThere = seen.secrets?.includes(name) === true
    const isSame = name === 'NODE_SECRET' || tags[name] === tag
    if (!isThere || !isSame) put[name] = value
    tags[name] = tag
    const did = !isThere ? 'put' : isSame ? 'unchanged' : 'replaced'
    rows.push({ what: 'secret', name, did })
  }
  return { put, tags, rows }
}

/** What a run would do, as far as it can be known without doing it. */
function foreseen(plan: Plan, { names, database, hasBucket, queues, secrets }: Seen): Step[] {
  const row = (what: Step['what'], name: string, isThere: boolean, note: string): Step =>
    isThere ? { what, name, did: 'unchanged' } : { what, name, did: 'would', note }
  const has = (wanted: string): boolean => queues.some(({ name }) => name === wanted)
  return [
    row('d1', names.database, database !== undefined, 'create'),
    row('r2', names.bucket, hasBucket, 'create'),
    ...names.queues.map((name) => row('queue', name, has(name), 'create')),
    row('migrations', names.database, false, 'apply what is missing'),
    ...['NODE_SECRET', ...Object.keys(plan.secrets)].map((name) =>
      row('secret', name, secrets?.includes(name) === true, 'put'),
    ),
    row('worker', names.worker, false, 'deploy what changed'),
  ]
}

/** Makes one thing. A failure may have done its work: what counts is whether it is found afterwards. */
async function create<T>(
  plan: Plan,
  name: string,
  { make, find }: { make(): Promise<T>; find(): Promise<T | undefined> },
): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    plan.progress(`creating ${name} …`)
    try {
      return await make()
    } catch (error) {
      if (!(error instanceof AccountError)) throw error
      const found = await patient(plan, find)
      if (found !== undefined) return found
      const wait = WAITS_MS[attempt]
      if (!error.passing || wait === undefined) throw error
      await plan.wait(wait)
    }
  }
}

/** Does what may be done twice, again where the fault is one that passes. */
async function patient<T>(plan: Plan, act: () => Promise<T>): Promise<T> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await act()
    } catch (error) {
      const wait = WAITS_MS[attempt]
      if (!(error instanceof AccountError) || !error.passing || wait === undefined) throw error
      await plan.wait(wait)
    }
  }
}

function refuse(detail: string): VaultMeshError {
  return new VaultMeshError('bad-config', `${detail}.`)
}
