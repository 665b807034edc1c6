/**
 * provision: an environment on a Cloudflare account, made or brought up to date. scripts/cloudflare has the parts.
 */

import { lookup } from 'node:dns/promises'
import { readFile } from 'node:fs/promises'
import { resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { RemoteProblem } from '../../functions/sdk.ts'
import type { Step } from '../cloudflare/steps.ts'
import type { Vars } from '../cloudflare/environment.ts'
import { loadSecrets, SECRETS_DIR } from '../sops.ts'
import {
  arity,
  Exit,
  list,
  text,
  UsageError,
  type Command,
  type Outcome,
  type Values,
} from './command.ts'

/** Most bytes of a variable or secret of a Worker (Cloudflare's limit, 5 KB). */
const MAX_SECRET_BYTES = 5000

/** The command. */
export const provision: Command = {
  name: 'provision',
  summary: 'Create or update a node on Cloudflare',
  usage:
    '--env NAME [--origin HOST/log --node-id ID] [--var NAME=VALUE…] [--secrets DIR] [--tsa-roots FILE] [--dry-run]',
  help: `Creates D1, R2, the queues, secrets and the Worker of an environment by wrangler, applies migrations and deploys.
What is there is left as it is, so it may be run again at any time, and goes on where it was interrupted.

  --env NAME        production, staging, …: in the name of everything it makes
  --origin ORIGIN   the log's name for ever, e.g. log.you.org/log; its host becomes the Worker's address
  --node-id ID      the node's name
  --var NAME=VALUE  another variable of wrangler.toml; repeatable. These three are kept in settings.json at the
                    first run; later they are changed there
  --secrets DIR     *.env files encrypted with sops whose variables become secrets (default secrets)
  --tsa-roots FILE  PEM certificates that timestamp chains must end in (secret TSA_ROOTS)
  --account ID      the account (default $CLOUDFLARE_ACCOUNT_ID)
  --home DIR        where the node's secret and settings are kept (default .cloudflare/<env>). Back it up
  --adopt           take over D1, R2, queues and the host of these names, whatever they were before
  --dry-run         look, and say what would be done

wrangler signs in: npx wrangler login, or CLOUDFLARE_API_TOKEN. docs/cloudflare.md has the rights it needs.`,
  options: {
    env: { type: 'string' },
    origin: { type: 'string' },
    'node-id': { type: 'string' },
    var: { type: 'string', multiple: true },
    secrets: { type: 'string' },
    'tsa-roots': { type: 'string' },
    account: { type: 'string' },
    home: { type: 'string' },
    adopt: { type: 'boolean', default: false },
    'dry-run': { type: 'boolean', default: false },
  },
  async run(args, values, terminal): Promise<Outcome> {
    arity(args, 0, 0)
    const env = text(values, 'env')
    if (env === undefined) throw new UsageError('--env is missing: production, staging, …')
    const accountId = text(values, 'account') ?? process.env['CLOUDFLARE_ACCOUNT_ID'] ?? ''
    if (!/^[0-9a-f]{32}$/.test(accountId)) {
      throw new UsageError(
        '--account or CLOUDFLARE_ACCOUNT_ID must be an account’s 32 hex digits; npx wrangler whoami shows them. --dry-run asks Cloudflare as well.',
      )
    }
    // These pull in wrangler, which takes half a second.
    const [environments, homes, accounts, steps, { bundleWorker }] = await Promise.all([
      import('../cloudflare/environment.ts'),
      import('../cloudflare/environment-home.ts'),
      import('../cloudflare/account.ts'),
      import('../cloudflare/steps.ts'),
      import('../build.ts'),
    ])
    const base = environments.baseConfig()
    environments.resourcesOf(base, env)
    const home = homes.environmentHome(resolve(text(values, 'home') ?? `.cloudflare/${env}`))
    const given = givenVars(values)
    // Of a first run that was refused nothing is held against the next.
    const kept = home.state() === null ? null : home.settings()
    const vars = kept ?? firstVars(env, given, environments.newVars)
    if (kept !== null) agree(kept, given, `${home.path}/settings.json`)
    environments.checkVars(base, vars)
    const dryRun = values['dry-run'] === true
    const secrets = await secretsOf(values)
    if (kept === null && !dryRun) home.writeSettings(vars)
    try {
      const done = await steps.provision({
        env,
        base,
        vars,
        accountId,
        home,
        account: accounts.wranglerAccount(accountId, dryRun && kept === null ? '.' : home.path),
        secrets,
        bundle: await bundleWorker(),
        adopt: values['adopt'] === true,
        dryRun,
        progress: (line) => terminal.progress(line),
        resolves,
        wait: sleep,
      })
      const url = vars['PUBLIC_URL'] ?? ''
      return {
        exit: Exit.ok,
        value: { env, home: home.path, url, dryRun, steps: done },
        lines: report(done, { home: home.path, url, dryRun }),
      }
    } catch (error) {
      if (!(error instanceof accounts.AccountError)) throw error
      throw new RemoteProblem('unreachable', error.message, {
        advice: 'Nothing is lost: run the same command again, and it goes on from there.',
      })
    }
  },
}

/** Whether DNS knows `host`; where DNS itself does not answer, it might. */
async function resolves(host: string): Promise<boolean> {
  try {
    return (await lookup(host, { all: true })).length > 0
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOTFOUND' || code === 'ENODATA') return false
    const detail = `DNS does not say whether ${host} leads somewhere already (${code ?? 'unknown error'}). Try again, or say --adopt if it may be pointed at this node.`
    throw new VaultMeshError('bad-config', detail)
  }
}

/** The variables that this call names. */
function givenVars(values: Values): Vars {
  const given: Record<string, string> = {}
  for (const pair of list(values, 'var')) {
    const at = pair.indexOf('=')
    if (at < 1) throw new UsageError(`--var ${pair} is not NAME=VALUE.`)
    given[pair.slice(0, at)] = pair.slice(at + 1)
  }
  const origin = text(values, 'origin')
  const nodeId = text(values, 'node-id')
  return {
    ...given,
    ...(origin === undefined ? {} : { ORIGIN: origin }),
    ...(nodeId === undefined ? {} : { NODE_ID: nodeId }),
  }
}

function firstVars(
  env: string,
  given: Vars,
  newVars: (env: string, origin: string, nodeId: string, vars: Vars) => Vars,
): Vars {
  const { ORIGIN, NODE_ID, ...rest } = given
  if (ORIGIN === undefined || NODE_ID === undefined) {
    throw new UsageError('The first run needs --origin and --node-id.')
  }
  return newVars(env, ORIGIN, NODE_ID, rest)
}

function agree(kept: Vars, given: Vars, file: string): void {
  for (const [name, value] of Object.entries(given)) {
    if (kept[name] === value) continue
    const was = kept[name] === undefined ? 'not set' : kept[name]
    throw new VaultMeshError('bad-config', `${name} is ${was} in ${file}; change it there.`)
  }
}

async function secretsOf(values: Values): Promise<Readonly<Record<string, string>>> {
  const secrets: Record<string, string> = await loadSecrets(text(values, 'secrets') ?? SECRETS_DIR)
  const roots = text(values, 'tsa-roots')
  if (roots !== undefined) secrets['TSA_ROOTS'] = await readFile(roots, 'utf8')
  for (const [name, value] of Object.entries(secrets)) {
    const size = utf8(value).length
    if (size <= MAX_SECRET_BYTES) continue
    const detail = `${name} has ${size} bytes; a Worker’s secret has at most ${MAX_SECRET_BYTES}. For TSA_ROOTS name fewer certificates.`
    throw new VaultMeshError('bad-config', detail)
  }
  return secrets
}

function report(
  steps: readonly Step[],
  { home, url, dryRun }: { readonly home: string; readonly url: string; readonly dryRun: boolean },
): readonly string[] {
  const width = Math.max(...steps.map(({ name }) => name.length))
  const rows = steps.map(({ what, name, did, note }) =>
    `${what.padEnd(11)} ${name.padEnd(width)}  ${did} ${note ?? ''}`.trimEnd(),
  )
  return dryRun
    ? [...rows, 'Nothing was changed (--dry-run).']
    : [...rows, `${url} is up to date. Back up ${home} and the age key: they are the node.`]
}
