/**
 * An environment on Cloudflare: one node, with names of its own for everything that wrangler.toml names.
 *
 * wrangler does not inherit bindings into its own `[env.…]` blocks, so three environments would be three copies of 400
 * lines, and what is forgotten in one is missing there at run time. Instead wrangler.toml is the one source, and the
 * whole configuration of an environment is a function of it and of what the operator set: Worker, D1 and R2 are called
 * <name>-<env>, each queue <name>-<env>-<queue> (an account's queues share one namespace), and nothing is left out.
 */

import { relative, resolve } from 'node:path'
import { experimental_readRawConfig as readRawConfig } from 'wrangler'
import { parseConfig } from '#core/config.ts'
import { VaultMeshError } from '#core/errors.ts'
import { ROOT } from '../build.ts'

/** What an operator sets: names and values of wrangler.toml's [vars] that differ from it. */
export type Vars = Readonly<Record<string, string>>

/** The names of what an environment has on an account. */
export interface Resources {
  readonly worker: string
  readonly database: string
  readonly bucket: string
  readonly queues: readonly string[]
}

/** What is known of an environment, public all of it. */
export interface Known {
  readonly account: string
  readonly databaseId: string
  readonly nodeDid: string
}

interface Queue {
  queue: string
  dead_letter_queue?: string
  readonly [setting: string]: unknown
}

/** wrangler.toml as it is written. */
interface Base {
  readonly name: string
  readonly main: string
  readonly vars: Vars
  readonly build: Readonly<Record<string, unknown>>
  readonly d1_databases: readonly [Readonly<Record<string, unknown>>]
  readonly r2_buckets: readonly [Readonly<Record<string, unknown>>]
  readonly queues: { readonly producers: readonly Queue[]; readonly consumers: readonly Queue[] }
  readonly [field: string]: unknown
}

/** wrangler.toml, as it stands beside the source. */
export function baseConfig(): Base {
  return readRawConfig({ config: resolve(ROOT, 'wrangler.toml') }).rawConfig as unknown as Base
}

/** Names of the environment `env`; throws `bad-config` for a name that no queue could have. */
export function resourcesOf(base: Base, env: string): Resources {
  if (!/^[a-z]+(?:-[a-z]+)*$/.test(env) || env.length > 20) {
    const why = 'is no name of an environment: at most 20 letters a to z, - between them'
    throw new VaultMeshError('bad-config', `--env ${env} ${why}.`)
  }
  const worker = `${base.name}-${env}`
  const queues = [...base.queues.producers, ...base.queues.consumers].flatMap((q) => [
    q.queue,
    ...(q.dead_letter_queue === undefined ? [] : [q.dead_letter_queue]),
  ])
  return {
    worker,
    database: worker,
    bucket: worker,
    queues: [...new Set(queues)].map((queue) => `${worker}-${queue}`),
  }
}

/**
 * The variables of a new environment: the log's name, the node's, and where both are found. `production` is a
 * production node, any other a dev one, unless `vars` says otherwise.
 */
export function newVars(env: string, origin: string, nodeId: string, vars: Vars): Vars {
  return {
    ORIGIN: origin,
    NODE_ID: nodeId,
    PUBLIC_URL: `https://${hostOf(origin)}`,
    NETWORK: env === 'production' ? 'production' : 'dev',
    ...vars,
  }
}

/** Throws `bad-config` naming the first variable that wrangler.toml does not have or the node would refuse. */
export function checkVars(base: Base, vars: Vars): void {
  for (const name of Object.keys(vars)) {
    if (Object.hasOwn(base.vars, name)) continue
    const why = 'is no variable of wrangler.toml (a secret goes into secrets/*.env)'
    throw new VaultMeshError('bad-config', `${name} ${why}.`)
  }
  const { origin } = parseConfig({ ...base.vars, ...vars })
  if (/\.example(?:\/|$)/.test(origin) || !/^[^/]+\.[^/]+\/log$/.test(origin)) {
    const form = 'a host of yours and /log, e.g. log.you.org/log: it is the log’s name for ever'
    throw new VaultMeshError('bad-config', `--origin ${origin} is not ${form}.`)
  }
}

/**
 * The whole wrangler configuration of an environment, for a file in the folder `home`. A host of workers.dev is
 * Cloudflare's own; any other becomes a custom domain of the Worker, whose zone must be on the account.
 */
export function wranglerConfig(
  base: Base,
  env: string,
  { vars, known, home }: { readonly vars: Vars; readonly known: Known; readonly home: string },
): object {
  const names = resourcesOf(base, env)
  const here = (path: string): string => relative(home, resolve(ROOT, path))
  const renamed = <T extends Queue>(queue: T): T => ({
    ...queue,
    queue: `${names.worker}-${queue.queue}`,
    ...(queue.dead_letter_queue === undefined
      ? {}
      : { dead_letter_queue: `${names.worker}-${queue.dead_letter_queue}` }),
  })
  const host = ownHost(vars)
  const [database] = base.d1_databases
  const [bucket] = base.r2_buckets
  return {
    ...base,
    name: names.worker,
    account_id: known.account,
    main: here(base.main),
    // The one public address is PUBLIC_URL: previews would be nodes that write to the same stores.
    workers_dev: host === null,
    preview_urls: false,
    ...(host === null ? {} : { routes: [{ pattern: host, custom_domain: true }] }),
    // Absolute: wrangler takes it from where it is called, not from this file.
    build: { ...base.build, cwd: ROOT, watch_dir: here(String(base.build['watch_dir'])) },
    // With NODE_DID a Worker that has another node's secret refuses to start.
    vars: { ...base.vars, NODE_DID: known.nodeDid, ...vars },
    d1_databases: [
      {
        ...database,
        database_name: names.database,
        database_id: known.databaseId,
        migrations_dir: here(String(database['migrations_dir'])),
      },
    ],
    r2_buckets: [{ ...bucket, bucket_name: names.bucket }],
    queues: {
      producers: base.queues.producers.map(renamed),
      consumers: base.queues.consumers.map(renamed),
    },
  }
}

/** The host that becomes the Worker's custom domain; null for one of workers.dev, which is Cloudflare's. */
export function ownHost(vars: Vars): string | null {
  const host = hostOf(vars['ORIGIN'] ?? '')
  return host.endsWith('.workers.dev') ? null : host
}

function hostOf(origin: string): string {
  return origin.split('/')[0]!
}
