/**
 * TLS as config/caddy/Caddyfile has it: a real caddy in front of a real node and its two wakers. Who has no certificate
 * of ours is refused before a byte of HTTP; who has one reaches each service by name; what a client says of itself is
 * overwritten; /admin is not there. The recorder between caddy and the node sees the headers that arrive.
 */

import { spawn, type ChildProcess } from 'node:child_process'
import { readFileSync, statSync } from 'node:fs'
import { createServer, request as plain, type IncomingHttpHeaders, type Server } from 'node:http'
import { request as secure } from 'node:https'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { certsIn } from '../../scripts/certs.ts'
import { ROOT } from '../../scripts/build.ts'
import { onPath } from '../../scripts/devnet/child.ts'
import { createSigner, sign } from '../../functions/sdk.ts'
import { absent } from './devnet-support.ts'
import { freePort, sandbox, start, vaultmesh, type Running } from './support.ts'

const isMissing = absent(
  onPath('caddy') === null
    ? 'caddy is not installed (apt install caddy): TLS is not tested'
    : onPath('openssl') === null
      ? 'openssl is missing: TLS is not tested'
      : null,
)

let box: Awaited<ReturnType<typeof sandbox>>
let certs: string
let foreign: string
let node: Running | undefined
const wakers: Running[] = []
let caddy: ChildProcess
let recorder: Server
let seen: { path: string; headers: IncomingHttpHeaders }[] = []
let publicPort: number
let mutualPort: number
let ports: { node: number; sealer: number; anchors: number }

interface Call {
  readonly port: number
  readonly host: string
  readonly path?: string
  readonly method?: string
  readonly body?: string
  readonly headers?: Readonly<Record<string, string>>
  /** Name of the client's certificate, and the folder it is in. */
  readonly cert?: string
  readonly dir?: string
  readonly maxVersion?: 'TLSv1.2'
  /** The name in the handshake; the host's without it, null for none. */
  readonly servername?: string | null
}

interface Got {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
}

function call({ port, host, path = '/healthz', method = 'GET', ...more }: Call): Promise<Got> {
  const { body, headers = {}, cert, dir = certs, maxVersion, servername = host } = more
  return new Promise((done, fail) => {
    const client = secure(
      {
        host: '127.0.0.1',
        port,
        path,
        method,
        headers: { host: `${host}:${port}`, ...headers },
        ca: readFileSync(join(certs, 'ca.pem')),
        agent: false,
        servername: servername ?? '',
        // Who calls by another name wants to see what the server says, not this client.
        ...(servername === host ? {} : { checkServerIdentity: () => undefined }),
        ...(maxVersion === undefined ? {} : { maxVersion }),
        ...(cert === undefined
          ? {}
          : {
              cert: readFileSync(join(dir, `${cert}.pem`)),
              key: readFileSync(join(dir, `${cert}.key`)),
            }),
      },
      (response) => {
        let text = ''
        response.on('data', (chunk: Buffer) => (text += chunk.toString()))
        response.on('error', fail)
        response.on('end', () =>
          done({ status: response.statusCode!, headers: response.headers, text }),
        )
      },
    )
    client.on('error', fail)
    client.end(body)
  })
}

const mutual = (service: string, more: Partial<Call> = {}) =>
  call({ port: mutualPort, host: `${service}.localhost`, cert: 'operator', ...more })
const open = (more: Partial<Call> = {}) => call({ port: publicPort, host: 'localhost', ...more })

beforeAll(async () => {
  if (isMissing) return
  box = await sandbox()
  certs = join(box.dir, 'certs')
  foreign = join(box.dir, 'foreign')
  for (const args of [
    ['init', '--dir', certs],
    ['issue', 'peer-b', '--dir', certs],
    ['issue', 'other', '--dir', certs, '--host', 'other.localhost'],
    ['init', '--dir', foreign],
  ]) {
    const ran = await vaultmesh(['certs', ...args])
    expect(ran).toMatchObject({ code: 0, stderr: '' })
  }
  const home = join(box.dir, 'n')
  ports = { node: await freePort(), sealer: await freePort(), anchors: await freePort() }
  const front = await freePort()
  publicPort = await freePort()
  mutualPort = await freePort()
  const script = resolve(ROOT, 'scripts/vaultmesh.ts')
  node = await start([script, 'selfhost', '--home', home, '--port', String(ports.node)], 'rails:', {
    SEAL_BATCH_MAX_INTERVAL_MS: '200',
  })
  for (const [name, port] of [
    ['sealer', ports.sealer],
    ['anchors', ports.anchors],
  ] as const) {
    const args = ['watch', name, '--home', home, '--port', String(port), '--every', '1']
    wakers.push(await start([script, ...args], 'the node answers'))
  }
  recorder = createServer((request, response) => {
    seen.push({ path: request.url!, headers: request.headers })
    const { method, url: path, headers } = request
    const onward = plain(
      { host: '127.0.0.1', port: ports.node, method, path, headers },
      (answer) => {
        response.writeHead(answer.statusCode!, answer.headers)
        answer.pipe(response)
      },
    )
    onward.on('error', () => response.destroy())
    request.pipe(onward)
  })
  await new Promise<void>((ready) => recorder.listen(front, '127.0.0.1', ready))
  const config = resolve(ROOT, 'config/caddy/Caddyfile')
  caddy = spawn('caddy', ['run', '--config', config, '--adapter', 'caddyfile'], {
    env: {
      PATH: process.env['PATH'],
      HOME: box.dir,
      VAULTMESH_CERTS: certs,
      VAULTMESH_TLS_PORT: String(publicPort),
      VAULTMESH_MTLS_PORT: String(mutualPort),
      VAULTMESH_PORT: String(front),
      SEALER_PORT: String(ports.sealer),
      ANCHORS_PORT: String(ports.anchors),
    },
  })
  let said = ''
  await new Promise<void>((ready, fail) => {
    caddy.stderr!.on('data', (chunk: Buffer) => {
      said += chunk.toString()
      if (said.includes('serving initial configuration')) ready()
    })
    caddy.once('close', (code) => fail(new Error(`caddy ended with ${code}:\n${said}`)))
  })
})

afterAll(async () => {
  if (isMissing) return
  const ended = caddy === undefined ? null : new Promise((end) => caddy.once('close', end))
  caddy?.kill('SIGTERM')
  await ended
  recorder?.close()
  recorder?.closeAllConnections()
  for (const waker of wakers) await waker.stop('SIGTERM')
  await node?.stop('SIGTERM')
  await box.remove()
})

describe.skipIf(isMissing)('the public name', () => {
  test.each(['/healthz', '/readyz', '/log/checkpoint', '/.well-known/vaultmesh.json'])(
    'answers %s over TLS 1.3 without a client certificate',
    async (path) => {
      const got = await open({ path })
      expect(got.status).toBe(200)
      expect(got.headers['strict-transport-security']).toBe('max-age=31536000')
    },
  )

  test('takes posts', async () => {
    const secret = crypto.getRandomValues(new Uint8Array(32))
    const body = await sign(await createSigner({ alg: 'EdDSA', secret }), { type: 'test.tls' })
    const headers = { 'content-type': 'application/jose', prefer: 'wait=10' }
    const got = await open({ path: '/events', method: 'POST', body, headers })
    expect(got.status).toBe(200)
    expect(JSON.parse(got.text)).toHaveProperty('receipt')
  })

  test('speaks no TLS 1.2', async () => {
    await expect(open({ maxVersion: 'TLSv1.2' })).rejects.toThrow(/protocol version/)
  })

  test('is the only one: a call by address gets nothing', async () => {
    await expect(open({ servername: null, host: '127.0.0.1' })).rejects.toThrow(
      /socket hang up|ECONNRESET/,
    )
  })
})

describe.skipIf(isMissing)('/admin is not there', () => {
  test.each([
    '/admin',
    '/admin/fsck',
    '/ADMIN/fsck',
    '/%61dmin/fsck',
    '//admin/fsck',
    '/./admin/fsck',
    '/log/../admin/fsck',
    '/log/%2e%2e/admin/fsck',
    '/admin%2ffsck',
    '/admin;x/fsck',
  ])('as %s', async (path) => {
    for (const ask of [open, (more: Partial<Call>) => mutual('harbinger', more)]) {
      seen = []
      const got = await ask({ path, headers: { authorization: 'Bearer guess' } })
      expect(got.status).toBe(404)
      expect(got.headers['content-type']).toBe('application/problem+json')
      // Nothing that the node would take for /admin passes.
      for (const { path: passed } of seen) {
        expect(new URL(passed, 'http://node').pathname).not.toMatch(/^\/admin(?:\/|$)/i)
      }
    }
  })
})

/** What the server's alert says to who has no certificate that it takes. */
const REFUSED = /alert (?:bad certificate|certificate required|unknown ca)/

describe.skipIf(isMissing)('a service by name', () => {
  test.each([
    ['harbinger', '/healthz', 'node_did'],
    ['harbinger', '/readyz', 'checks'],
    ['sealer', '/healthz', 'wokenAt'],
    ['sealer', '/readyz', 'wokenAt'],
    ['anchor-manager', '/healthz', 'wokenAt'],
    ['anchor-manager', '/readyz', 'wokenAt'],
  ])('%s answers %s to a certificate of ours', async (service, path, field) => {
    const got = await mutual(service, { path })
    expect(got.status).toBe(200)
    expect(JSON.parse(got.text)).toHaveProperty(field)
  })

  test.each([
    ['without a certificate', { cert: undefined }, REFUSED],
    ['with a certificate of another authority', 'foreign', REFUSED],
    ['with a certificate for servers alone', { cert: 'other' }, REFUSED],
    ['with TLS 1.2', { maxVersion: 'TLSv1.2' }, /protocol version/],
    // Without a name no rule of a name applies: the rule for the rest must be as strict.
    ['by address without a certificate', { cert: undefined, servername: null }, REFUSED],
    [
      'by another name without a certificate',
      { cert: undefined, servername: 'x.localhost' },
      REFUSED,
    ],
    ['by address with TLS 1.2', { servername: null, maxVersion: 'TLSv1.2' }, /protocol version/],
  ] as const)('refuses the handshake %s', async (_how, given, alert) => {
    const more: Partial<Call> = given === 'foreign' ? { dir: foreign } : given
    for (const service of ['harbinger', 'sealer', 'anchor-manager']) {
      const { cert = 'operator', ...rest } = more
      const asked = call({
        port: mutualPort,
        host: `${service}.localhost`,
        ...('cert' in more && more.cert === undefined ? {} : { cert }),
        ...rest,
      })
      await expect(asked).rejects.toThrow(alert)
    }
  })

  test('with our certificate but by address gets nothing', async () => {
    const got = await mutual('harbinger', { servername: null, host: '127.0.0.1' })
    expect([got.status, got.text]).toEqual([421, ''])
  })

  test('is not reached under the name of another: Host and handshake must agree', async () => {
    const got = await mutual('harbinger', { headers: { host: `sealer.localhost:${mutualPort}` } })
    expect(got.status).toBe(421)
  })
})

const FORGED = {
  'x-client-subject': 'CN=admin',
  'x-client-fingerprint': '00',
  'x-client-ip': '203.0.113.9',
  'x-forwarded-for': '203.0.113.9',
  'x-forwarded-proto': 'http',
  'x-forwarded-host': 'evil.example',
  'x-real-ip': '203.0.113.9',
  'true-client-ip': '203.0.113.9',
  'cf-connecting-ip': '203.0.113.9',
  'cf-ray': 'forged',
  forwarded: 'for=203.0.113.9',
}

describe.skipIf(isMissing)('what a client says of itself', () => {
  test('is overwritten by what its certificate and its address say', async () => {
    seen = []
    expect((await mutual('harbinger', { headers: FORGED, cert: 'peer-b' })).status).toBe(200)
    const { headers } = seen[0]!
    expect(headers['x-client-subject']).toBe('CN=peer-b')
    expect(headers['x-client-fingerprint']).toMatch(/^[0-9a-f]{64}$/)
    expect(headers['x-client-ip']).toBe('127.0.0.1')
    expect(headers['x-forwarded-for']).toBe('127.0.0.1')
    expect(JSON.stringify(headers)).not.toMatch(/203\.0\.113\.9|evil|forged|CN=admin/)
  })

  test('is dropped where nobody was asked for a certificate', async () => {
    seen = []
    expect((await open({ headers: FORGED })).status).toBe(200)
    const { headers } = seen[0]!
    expect(headers['x-client-subject']).toBeUndefined()
    expect(headers['x-client-fingerprint']).toBeUndefined()
    expect(headers['x-client-ip']).toBe('127.0.0.1')
    expect(headers['x-forwarded-proto']).toBe('https')
    expect(JSON.stringify(headers)).not.toMatch(/203\.0\.113\.9|evil|forged/)
  })
})

describe.skipIf(isMissing)('certificates', () => {
  test('have one use each, keys for their owner alone, and names instead of addresses', async () => {
    const shown = certsIn(certs).map(({ name, use, hosts }) => [name, use, ...hosts].join(' '))
    expect(shown).toEqual([
      'ca authority',
      'operator client',
      'other server other.localhost',
      'peer-b client',
      'server server localhost harbinger.localhost sealer.localhost anchor-manager.localhost',
    ])
    for (const name of ['ca', 'server', 'operator']) {
      expect(statSync(join(certs, `${name}.key`)).mode & 0o777).toBe(0o600)
    }
    expect(statSync(certs).mode & 0o777).toBe(0o700)
    const ip = await vaultmesh(['certs', 'issue', 'ip', '--dir', certs, '--host', '127.0.0.1'])
    expect(ip.code).toBe(1)
    expect(ip.stderr).toContain('services are called by name')
  })

  test('are renewed when they end soon, with the key they had; an authority is made once', async () => {
    const key = readFileSync(join(certs, 'peer-b.key'), 'utf8')
    const before = readFileSync(join(certs, 'peer-b.pem'), 'utf8')
    const none = await vaultmesh(['certs', 'renew', '--dir', certs, '--json'])
    expect(JSON.parse(none.stdout)).toEqual([])
    const all = await vaultmesh(['certs', 'renew', '--dir', certs, '--within', '91', '--json'])
    const renewed = JSON.parse(all.stdout) as { name: string; hosts: string[] }[]
    expect(renewed.map(({ name }) => name)).toEqual(['operator', 'other', 'peer-b', 'server'])
    expect(renewed[3]!.hosts).toContain('sealer.localhost')
    expect(readFileSync(join(certs, 'peer-b.key'), 'utf8')).toBe(key)
    expect(readFileSync(join(certs, 'peer-b.pem'), 'utf8')).not.toBe(before)
    expect((await mutual('harbinger', { cert: 'peer-b' })).status).toBe(200)
    const again = await vaultmesh(['certs', 'init', '--dir', certs])
    expect(again.code).toBe(1)
    expect(again.stderr).toContain(`There is an authority in ${certs} already.`)
  })
})

describe.skipIf(isMissing)('a node that is down', () => {
  test('is said by its wakers and by the front, each as a problem', async () => {
    await node!.stop('SIGTERM')
    node = undefined
    for (const service of ['sealer', 'anchor-manager']) {
      await expect.poll(async () => (await mutual(service)).status, { timeout: 20_000 }).toBe(503)
      const { headers, text } = await mutual(service)
      expect(headers['content-type']).toBe('application/problem+json')
      expect(JSON.parse(text)).toMatchObject({
        type: '/problems/not-ready',
        detail: expect.stringMatching(/^The node does not answer \(/) as string,
      })
    }
    await new Promise((closed) => {
      recorder.close(closed)
      recorder.closeAllConnections()
    })
    const got = await open()
    expect(got.status).toBe(502)
    expect(got.headers['content-type']).toBe('application/problem+json')
    expect(JSON.parse(got.text)).toMatchObject({ status: 502 })
  })
})
