/**
 * Provisioning: in process with an account that fails at every step, and with the real wrangler against a stand-in for
 * Cloudflare's API.
 */

import { existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs'
import { readdir, readFile, writeFile } from 'node:fs/promises'
import { execFile, spawn } from 'node:child_process'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { ROOT } from '../../scripts/build.ts'
import { AccountError, type Account } from '../../scripts/cloudflare/account.ts'
import { environmentHome, type EnvironmentHome } from '../../scripts/cloudflare/environment-home.ts'
import {
  baseConfig,
  checkVars,
  newVars,
  resourcesOf,
  wranglerConfig,
} from '../../scripts/cloudflare/environment.ts'
import { provision, type Plan, type Step } from '../../scripts/cloudflare/steps.ts'
import { ACCOUNT_ID, startCloudflareApi, type CloudflareApi } from '../support/cloudflare-api.ts'
import { sandbox, vaultmesh } from './support.ts'

const box = await sandbox()
afterAll(() => box.remove())
const base = baseConfig()
const names = resourcesOf(base, 'production')

/** An account in memory, and a point at which the next thing to happen fails. */
interface World {
  readonly account: Account
  readonly databases: Map<string, string>
  readonly buckets: Set<string>
  readonly queues: Map<string, { producers: number; consumers: number }>
  secrets: Map<string, string> | null
  migrated: boolean
  deploys: number
  /** How often NODE_SECRET was put, by value. */
  readonly nodeSecrets: string[]
}

/** Counts what happens, and fails once at `at`: before or after it. */
class Steps {
  count = 0
  #at: number
  readonly #error: Error

  constructor(at: number, error: Error) {
    this.#at = at
    this.#error = error
  }

  /** Does `act` between two points at which a run may end. */
  run<T>(act: () => T): T {
    this.#point()
    const result = act()
    this.#point()
    return result
  }

  #point(): void {
    if (this.count++ !== this.#at) return
    this.#at = -1
    throw this.#error
  }
}

function world(steps: () => Steps): World {
  const databases = new Map<string, string>()
  const buckets = new Set<string>()
  const queues = new Map<string, { producers: number; consumers: number }>()
  const refuse = (what: string): never => {
    throw new AccountError(`${what} exists`, false)
  }
  const does = <T>(act: () => T): Promise<T> => Promise.resolve().then(() => steps().run(act))
  const it: World = {
    databases,
    buckets,
    queues,
    secrets: null,
    migrated: false,
    deploys: 0,
    nodeSecrets: [],
    account: {
      databases: () => does(() => [...databases].map(([name, id]) => ({ name, id }))),
      buckets: () => does(() => [...buckets]),
      queues: () => does(() => [...queues].map(([name, use]) => ({ name, ...use }))),
      secrets: () => does(() => (it.secrets === null ? null : [...it.secrets.keys()])),
      createDatabase: (name) =>
        does(() => {
          if (databases.has(name)) refuse(name)
          const id = `d1-${databases.size}`
          databases.set(name, id)
          return id
        }),
      createBucket: (name) =>
        does(() => {
          if (buckets.has(name)) refuse(name)
          buckets.add(name)
        }),
      createQueue: (name) =>
        does(() => {
          if (queues.has(name)) refuse(name)
          queues.set(name, { producers: 0, consumers: 0 })
        }),
      putSecrets: (_worker, put) =>
        does(() => {
          it.secrets ??= new Map()
          for (const [name, value] of Object.entries(put)) {
            it.secrets.set(name, value)
            if (name === 'NODE_SECRET') it.nodeSecrets.push(value)
          }
        }),
      migrate: () =>
        does(() => {
          const applied = it.migrated ? [] : ['0000_init.sql']
          it.migrated = true
          return applied
        }),
      deploy: () =>
        does(() => {
          it.secrets ??= new Map()
          it.deploys++
          for (const queue of queues.values()) Object.assign(queue, { producers: 1, consumers: 1 })
        }),
    },
  }
  return it
}

/** The folder's writes fail too. */
function failing(home: EnvironmentHome, steps: () => Steps): EnvironmentHome {
  return {
    ...home,
    writeState: (state) => steps().run(() => home.writeState(state)),
    writeWrangler: (config) => steps().run(() => home.writeWrangler(config)),
  }
}

const vars = newVars('production', 'log.you.org/log', 'log-you', {})

function planFor(w: World, home: EnvironmentHome, more: Partial<Plan> = {}): Plan {
  return {
    env: 'production',
    base,
    vars,
    accountId: ACCOUNT_ID,
    home,
    account: w.account,
    secrets: { EVM_URLS: 'https://rpc.you.org/key' },
    bundle: 'code',
    adopt: false,
    dryRun: false,
    resolves: async () => false,
    progress: () => undefined,
    wait: async () => undefined,
    ...more,
  }
}

const folder = (): string => mkdtempSync(join(box.dir, 'env-'))
const did = (steps: readonly Step[]): readonly string[] => [...new Set(steps.map((s) => s.did))]
const none = (): Steps => new Steps(-1, new Error('never'))

/** What holds after every run that ended well. */
function expectWhole(w: World): void {
  expect([...w.databases.keys()]).toEqual([names.database])
  expect([...w.buckets]).toEqual([names.bucket])
  expect([...w.queues.keys()].toSorted()).toEqual(names.queues.toSorted())
  expect([...w.secrets!.keys()].toSorted()).toEqual(['EVM_URLS', 'NODE_SECRET'])
  expect(new Set(w.nodeSecrets).size).toBe(1)
  expect(w.migrated).toBe(true)
}

describe('a run', () => {
  test('makes all that wrangler.toml names, and a second one changes nothing', async () => {
    const w = world(none)
    const home = environmentHome(folder())
    const first = await provision(planFor(w, home))
    expectWhole(w)
    expect(first.filter((s) => s.did === 'created')).toHaveLength(2 + names.queues.length)
    const second = await provision(planFor(w, home))
    expect(did(second)).toEqual(['unchanged'])
    expect(w.deploys).toBe(1)
  })

  test('that was cut off between any two steps is finished by the next, with the same node secret', async () => {
    const total = new Steps(-1, new Error('never'))
    {
      const w = world(() => total)
      const home = failing(environmentHome(folder()), () => total)
      await provision(planFor(w, home))
    }
    expect(total.count).toBeGreaterThan(40)
    for (let at = 0; at < total.count; at++) {
      let steps = new Steps(at, new Error('killed'))
      const w = world(() => steps)
      const home = failing(environmentHome(folder()), () => steps)
      await expect(provision(planFor(w, home)), `cut off at ${at}`).rejects.toThrow('killed')
      steps = none()
      await provision(planFor(w, home))
      expectWhole(w)
      if (at % 8 === 0) expect(did(await provision(planFor(w, home)))).toEqual(['unchanged'])
    }
  })

  test('outlives any one answer that fails or gets lost', async () => {
    const total = new Steps(-1, new Error('never'))
    await provision(
      planFor(
        world(() => total),
        environmentHome(folder()),
      ),
    )
    for (let at = 0; at < total.count; at++) {
      const steps = new Steps(at, new AccountError('fault', true))
      const w = world(() => steps)
      await provision(planFor(w, environmentHome(folder())))
      expectWhole(w)
    }
  })

  test('puts a secret again when it changed, never NODE_SECRET', async () => {
    const w = world(none)
    const home = environmentHome(folder())
    await provision(planFor(w, home))
    const steps = await provision(planFor(w, home, { secrets: { EVM_URLS: 'https://other' } }))
    expect(steps.filter((s) => s.did === 'replaced').map((s) => s.name)).toEqual(['EVM_URLS'])
    expect(w.secrets!.get('EVM_URLS')).toBe('https://other')
    expect(w.nodeSecrets).toHaveLength(1)
  })

  test('deploys again when the code changed', async () => {
    const w = world(none)
    const home = environmentHome(folder())
    await provision(planFor(w, home))
    const steps = await provision(planFor(w, home, { bundle: 'new code' }))
    expect(steps.find((s) => s.what === 'worker')?.did).toBe('deployed')
  })

  test('that is dry changes neither the account nor the folder', async () => {
    const w = world(none)
    const path = folder()
    const steps = await provision(planFor(w, environmentHome(path), { dryRun: true }))
    expect(did(steps)).toEqual(['would'])
    expect(await readdir(path)).toEqual([])
    expect([w.databases.size, w.buckets.size, w.queues.size, w.secrets]).toEqual([0, 0, 0, null])
  })
})

describe('is refused', () => {
  const refusal = (w: World, path: string, more: Partial<Plan> = {}): Promise<string> =>
    provision(planFor(w, environmentHome(path), more)).then(
      () => 'went through',
      (error: Error) => error.message,
    )

  test('what the account had before, unless it is adopted', async () => {
    const w = world(none)
    w.queues.set(names.queues[0]!, { producers: 0, consumers: 0 })
    expect(await refusal(w, folder())).toMatch(/^The account has queue .* already/)
    expect(await refusal(w, folder(), { adopt: true })).toBe('went through')
  })

  test('a Worker that has another NODE_SECRET, adopted or not', async () => {
    const w = world(none)
    w.secrets = new Map([['NODE_SECRET', 'of somebody else']])
    expect(await refusal(w, folder(), { adopt: true })).toContain('it is another node')
    expect(w.secrets.get('NODE_SECRET')).toBe('of somebody else')
  })

  test('a queue that another Worker consumes', async () => {
    const w = world(none)
    w.queues.set(names.queues[0]!, { producers: 0, consumers: 1 })
    expect(await refusal(w, folder(), { adopt: true })).toContain('not all of them this node’s')
  })

  test('a host that leads somewhere already', async () => {
    const message = await refusal(world(none), folder(), { resolves: async () => true })
    expect(message).toMatch(/^log\.you\.org leads somewhere already/)
  })

  test('another account', async () => {
    const w = world(none)
    const path = folder()
    await provision(planFor(w, environmentHome(path)))
    expect(await refusal(w, path, { accountId: 'f'.repeat(32) })).toContain(
      'belongs to the account',
    )
  })

  test('what was live and is gone: an empty store under the same key is a fork', async () => {
    const losses: readonly ((w: World, path: string) => void)[] = [
      (w) => w.databases.clear(),
      (w) => w.buckets.clear(),
      (w) => (w.secrets = null),
      (w) => w.databases.set(names.database, 'another'),
      (_, path) => rmSync(join(path, 'node.secret.age')),
    ]
    for (const lose of losses) {
      const w = world(none)
      const path = folder()
      await provision(planFor(w, environmentHome(path)))
      lose(w, path)
      const before = [w.databases.size, w.buckets.size, w.deploys, w.nodeSecrets.length]
      expect(await refusal(w, path)).toMatch(
        /Gone, and it was live|and was d1-0|it is another node/,
      )
      expect([w.databases.size, w.buckets.size, w.deploys, w.nodeSecrets.length]).toEqual(before)
    }
  })

  test('a name, an origin or a variable that could not work', () => {
    expect(() => resourcesOf(base, 'Prod_1')).toThrow('no name of an environment')
    for (const origin of ['vm-node-01.example/log', 'localhost/log', 'you.org', 'you.org/other'])
      expect(() => checkVars(base, newVars('production', origin, 'n', {}))).toThrow('not a host')
    expect(() => checkVars(base, { ...vars, NO_SUCH: '1' })).toThrow('NO_SUCH')
    expect(() => checkVars(base, { ...vars, INTAKE_SHARDS: 'many' })).toThrow('INTAKE_SHARDS')
  })
})

test('an environment has every binding of wrangler.toml, under names of its own', () => {
  const known = { account: ACCOUNT_ID, databaseId: 'd1', nodeDid: 'did:key:z6Mk' }
  const config = wranglerConfig(base, 'production', { vars, known, home: box.dir }) as typeof base
  for (const field of Object.keys(base)) expect(config, field).toHaveProperty(field)
  expect(Object.keys(config.vars)).toEqual(expect.arrayContaining(Object.keys(base.vars)))
  const strip = (text: string): unknown => JSON.parse(text.replaceAll('vaultmesh-production-', ''))
  expect(strip(JSON.stringify(config.queues))).toEqual(base.queues)
  for (const same of ['durable_objects', 'migrations', 'triggers', 'observability'])
    expect(config[same], same).toEqual(base[same])
  // Nothing still leads to what another environment has.
  expect(JSON.stringify([config.queues, config.r2_buckets, config.d1_databases])).not.toMatch(
    /"(?:vaultmesh|seal|anchor|events-intake|00000000-0000-0000-0000-000000000001)"/,
  )
})

test('scripts/provision says how it is called, and ends with 2 where it is called wrongly', async () => {
  const call = (args: readonly string[]): Promise<{ code: number; text: string }> =>
    new Promise((end) => {
      const env = { ...process.env, CLOUDFLARE_ACCOUNT_ID: ACCOUNT_ID }
      execFile(resolve(ROOT, 'scripts/provision'), args, { env }, (error, stdout, stderr) =>
        end({ code: Number(error?.code ?? 0), text: stdout + stderr }),
      )
    })
  const home = join(box.dir, 'nowhere')
  const [help, bare, first] = await Promise.all([
    call(['--help']),
    call([]),
    call(['--env', 'production', '--home', home]),
  ])
  expect(help).toMatchObject({
    code: 0,
    text: expect.stringContaining('usage: vaultmesh provision'),
  })
  expect(bare).toMatchObject({ code: 2, text: expect.stringContaining('--env is missing') })
  expect(first).toMatchObject({ code: 2, text: expect.stringContaining('--origin and --node-id') })
  expect(existsSync(home)).toBe(false)
})

describe('with the real wrangler', () => {
  let api: CloudflareApi
  beforeAll(async () => {
    api = await startCloudflareApi()
  })
  afterAll(() => api.close())

  test('an interrupted set is completed through faults, run again it changes nothing, and no secret is left behind', async () => {
    const home = join(box.dir, 'production')
    const temporary = mkdtempSync(join(box.dir, 'tmp-'))
    // All queues but one are there; D1 is made and its answer lost; the secrets fail once.
    for (const [i, queue] of names.queues.slice(1).entries())
      api.account.queues.set(queue, { id: String(i).padStart(32, '0'), consumer: null })
    api.faults.push(
      { when: (m, p) => m === 'POST' && p === '/d1/database', status: 500, after: true },
      { when: (m, p) => m === 'PATCH' && p.endsWith('/secrets-bulk'), status: 503, after: false },
    )
    const roots = join(box.dir, 'roots.pem')
    await writeFile(roots, '-----BEGIN CERTIFICATE-----\nroots\n-----END CERTIFICATE-----\n')
    const env = {
      CLOUDFLARE_API_BASE_URL: api.url,
      CLOUDFLARE_API_TOKEN: 'a-token',
      CLOUDFLARE_ACCOUNT_ID: ACCOUNT_ID,
      HOME: temporary,
      TMPDIR: temporary,
      XDG_CONFIG_HOME: temporary,
    }
    const settings = ['--env', 'production', '--home', home, '--secrets', join(box.dir, 'none')]
    const args = ['--origin', 'log.you.org/log', '--node-id', 'log-you', '--tsa-roots', roots]
    const first = await vaultmesh(['provision', ...settings, ...args, '--adopt', '--json'], { env })
    expect(first, api.unknown.join()).toMatchObject({ code: 0 })
    expect(api.faults).toEqual([])
    const { steps } = JSON.parse(first.stdout) as { steps: Step[] }
    expect(steps.filter((s) => s.what === 'queue' && s.did === 'created')).toHaveLength(1)
    const files = (await readdir(resolve(ROOT, 'migrations'))).filter((f) => f.endsWith('.sql'))
    expect(steps.find((s) => s.what === 'migrations')?.note?.split(', ')).toEqual(files.toSorted())

    const { databases, buckets, queues, workers, crons, domains } = api.account
    expect([...databases.keys(), ...buckets]).toEqual([names.worker, names.worker])
    expect([...queues.values()].every((q) => q.consumer === names.worker)).toBe(true)
    expect([...queues.keys()].toSorted()).toEqual(names.queues.toSorted())
    expect(crons.get(names.worker)).toEqual(['* * * * *'])
    expect(domains.get('log.you.org')).toBe(names.worker)
    const worker = workers.get(names.worker)!
    expect([...worker.secrets.keys()].toSorted()).toEqual(['NODE_SECRET', 'TSA_ROOTS'])
    const bindings = new Map(worker.metadata.bindings!.map((b) => [String(b['name']), b]))
    const inFile = [base.d1_databases, base.r2_buckets, base.queues.producers] as unknown as {
      binding: string
    }[][]
    for (const { binding } of inFile.flat()) expect(bindings.has(binding), binding).toBe(true)
    for (const name of Object.keys(base.vars)) expect(bindings.has(name), name).toBe(true)
    expect(bindings.get('NODE_DID')?.['text']).toMatch(/^did:key:z6Mk/)
    const table = databases.get(names.database)!.sqlite.prepare('SELECT name FROM d1_migrations')
    expect(table.all()).toHaveLength(files.length)

    const secret = worker.secrets.get('NODE_SECRET')!
    expect(Buffer.from(secret, 'base64url')).toHaveLength(32)
    expect(first.stdout + first.stderr).not.toContain(secret)
    for (const file of [...(await filesIn(home)), ...(await filesIn(temporary))])
      expect((await readFile(file)).includes(secret), file).toBe(false)
    expect(statSync(join(home, 'node.secret.age')).mode & 0o777).toBe(0o600)

    const before = api.writes.length
    const again = await vaultmesh(['provision', ...settings, '--tsa-roots', roots, '--json'], {
      env,
    })
    expect(again).toMatchObject({ code: 0 })
    expect(did((JSON.parse(again.stdout) as { steps: Step[] }).steps)).toEqual(['unchanged'])
    expect(api.writes.slice(before)).toEqual([])
    expect(api.unknown).toEqual([])
  }, 300_000)

  test('wrangler.toml and an environment pass a dry deploy, within the size of a free plan', async () => {
    const home = environmentHome(mkdtempSync(join(box.dir, 'staging-')))
    const known = { account: ACCOUNT_ID, databaseId: 'd1', nodeDid: 'did:key:z6Mk' }
    const settings = newVars('staging', 'vaultmesh-staging.you.workers.dev/log', 'log-you', {})
    checkVars(base, settings)
    home.writeWrangler(wranglerConfig(base, 'staging', { vars: settings, known, home: home.path }))
    const configs = [resolve(ROOT, 'wrangler.toml'), home.wrangler]
    for (const { code, output } of await Promise.all(configs.map(dryDeploy))) {
      expect(code, output).toBe(0)
      const [, kib] = /gzip: ([\d.]+) KiB/.exec(output)!
      // 3 MiB on a free plan, 10 MiB on a paid one.
      expect(Number(kib)).toBeLessThan(3072)
      expect(Number(kib)).toBeGreaterThan(100)
    }
  }, 300_000)
})

/** Files below a folder. */
async function filesIn(path: string): Promise<readonly string[]> {
  const entries = await readdir(path, { recursive: true, withFileTypes: true })
  return entries.filter((e) => e.isFile()).map((e) => join(e.parentPath, e.name))
}

/** `wrangler deploy --dry-run` of a configuration. */
function dryDeploy(config: string): Promise<{ code: number | null; output: string }> {
  const wrangler = resolve(ROOT, 'node_modules/wrangler/bin/wrangler.js')
  const outdir = mkdtempSync(join(box.dir, 'out-'))
  const child = spawn(
    process.execPath,
    [wrangler, 'deploy', '--dry-run', '-c', config, '--outdir', outdir],
    {
      cwd: ROOT,
      env: {
        ...process.env,
        CI: '1',
        WRANGLER_SEND_METRICS: 'false',
        WRANGLER_LOG_PATH: outdir,
        PATH: `${resolve(ROOT, 'node_modules/.bin')}:${process.env['PATH']}`,
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    },
  )
  let output = ''
  child.stdout.on('data', (chunk: Buffer) => (output += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (output += chunk.toString()))
  return new Promise((end) => child.once('close', (code) => end({ code, output })))
}

test('wrangler.toml explains each of its tables in a comment', () => {
  const blocks = readFileSync(resolve(ROOT, 'wrangler.toml'), 'utf8').split('\n\n')
  const bare = blocks.filter((block) => /^\[/m.test(block) && !block.startsWith('#'))
  // A table that follows one of its kind is of the same explanation.
  const first = bare.filter((block) => !/^\[(?:vars|\[migrations|\[queues)/.test(block))
  expect(first).toEqual([])
  const consumers = blocks.filter((block) => block.includes('[[queues.consumers]]'))
  expect(consumers.filter((b) => !b.startsWith('#') && !/"anchor-(?:btc|evm)"/.test(b))).toEqual([])
})
