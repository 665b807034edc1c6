/**
 * The services of a node under a real systemd, as docs/self-host.md has an operator install them: harbinger, sealer,
 * anchor-manager (service and timer) and the TLS front. For the ops gate and the tests of the units.
 */

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { request } from 'node:https'
import { createServer } from 'node:net'
import { join } from 'node:path'
import { ROOT } from '../build.ts'
import { own, startUserManager, type UserManager } from './user-manager.ts'

/** The services, in the order in which they are told of. */
export const SERVICES = ['harbinger', 'sealer', 'anchor-manager', 'vaultmesh-tls'] as const
export type Service = (typeof SERVICES)[number]

/** How docs/self-host.md installs them. */
export const INSTALL = `scripts/vaultmesh certs init --dir ~/.config/vaultmesh/certs
scripts/vaultmesh units install --user --home ~/.vaultmesh
systemctl --user daemon-reload
systemctl --user enable --now harbinger sealer anchor-manager.service anchor-manager.timer vaultmesh-tls
`

/** Shorter times than an operator's, so that a hang is seen within a test. */
const HASTE = `WatchdogSec=8s
RestartSec=100ms
`

/** What `startOpsLab` started. */
export interface OpsLab {
  readonly manager: UserManager
  readonly home: string
  readonly certs: string
  /** What the services printed. */
  journal(): string
  readonly ports: { readonly tls: number; readonly mtls: number }
  /** Base of the node's own plain address on loopback. */
  readonly url: string
  /** GET over mTLS at `<service>.localhost`; `cert` names a client certificate, null none. */
  ask(
    service: Exclude<Service, 'vaultmesh-tls'>,
    path: string,
    cert: string | null,
  ): Promise<Answer>
  /** GET at the public name over TLS, without a client certificate. */
  askPublic(path: string): Promise<Answer>
  stop(): Promise<void>
}

/** An answer, or why there was none. */
export interface Answer {
  /** 0 if there was none. */
  readonly status: number
  readonly text: string
}

/** Installs the units in a manager of their own below `dir` and starts them all. */
export async function startOpsLab(
  dir: string,
  settings: Readonly<Record<string, string>> = {},
): Promise<OpsLab> {
  const manager = await startUserManager(dir)
  try {
    const home = join(dir, '.vaultmesh')
    const settingsDir = join(manager.configDir, 'vaultmesh')
    const certs = join(settingsDir, 'certs')
    const [node, sealer, anchors, tls, mtls] = await Promise.all([0, 1, 2, 3, 4].map(freePort))
    mkdirSync(settingsDir, { recursive: true })
    const variables = {
      VAULTMESH_AGE_KEY_FILE: join(settingsDir, 'age.txt'),
      VAULTMESH_PORT: String(node),
      SEALER_PORT: String(sealer),
      ANCHORS_PORT: String(anchors),
      VAULTMESH_TLS_PORT: String(tls),
      VAULTMESH_MTLS_PORT: String(mtls),
      // Those who may not write beside the checkout start twice as fast the second time.
      NODE_COMPILE_CACHE: join(dir, 'compiled'),
      VAULTMESH_ARGS: `--receipts ${join(dir, 'receipts')}`,
      ...settings,
    }
    writeFileSync(
      join(settingsDir, 'vaultmesh.env'),
      Object.entries(variables)
        .map(([name, value]) => `${name}=${value}\n`)
        .join(''),
    )
    const journal = join(dir, 'services.log')
    for (const unit of SERVICES) {
      const dropIns = join(manager.unitsDir, `${unit}.service.d`)
      mkdirSync(dropIns)
      // No journal runs here; caddy has no watchdog.
      const lab = `[Service]\nStandardOutput=append:${journal}\nStandardError=inherit\n`
      writeFileSync(join(dropIns, 'lab.conf'), unit === 'vaultmesh-tls' ? lab : lab + HASTE)
    }
    // Three starts in five seconds are too many here: what the timer is for happens within the test.
    writeFileSync(
      join(manager.unitsDir, 'anchor-manager.service.d', 'limit.conf'),
      '[Unit]\nStartLimitIntervalSec=5s\nStartLimitBurst=3\n',
    )
    const ticks = join(manager.unitsDir, 'anchor-manager.timer.d')
    mkdirSync(ticks)
    writeFileSync(
      join(ticks, 'haste.conf'),
      '[Timer]\nOnCalendar=\nOnCalendar=*:*:0/2\nAccuracySec=100ms\n',
    )
    own(dir, manager.uid)
    const said = await manager.run('sh', '-ec', `cd ${ROOT}\n${INSTALL}`)
    if (said.code !== 0) throw new Error(`${said.out}\n${manager.log()}`)
    const ca = readFileSync(join(certs, 'ca.pem'))
    const get = (host: string, port: number, path: string, cert: string | null) =>
      ask({ host, port, path, ca, pair: cert === null ? null : join(certs, cert) })
    return {
      manager,
      home,
      certs,
      ports: { tls: tls!, mtls: mtls! },
      journal: () => readFileSync(journal, 'utf8'),
      url: `http://127.0.0.1:${node}`,
      ask: (service, path, cert) => get(`${service}.localhost`, mtls!, path, cert),
      askPublic: (path) => get('localhost', tls!, path, null),
      stop: () => manager.stop(),
    }
  } catch (error) {
    await manager.stop()
    throw error
  }
}

/** Waits until `look` is content; throws with what it saw last. */
export async function until<T>(
  what: string,
  look: () => Promise<T>,
  isSo: (seen: T) => boolean,
  withinMs = 60_000,
): Promise<T> {
  const deadline = Date.now() + withinMs
  for (;;) {
    const seen = await look()
    if (isSo(seen)) return seen
    if (Date.now() > deadline) throw new Error(`${what}: ${JSON.stringify(seen)}`)
    await new Promise((later) => setTimeout(later, 50))
  }
}

interface Ask {
  readonly host: string
  readonly port: number
  readonly path: string
  readonly ca: Buffer
  readonly pair: string | null
}

function ask({ host, port, path, ca, pair }: Ask): Promise<Answer> {
  return new Promise((done) => {
    const refused = (error: Error): void => done({ status: 0, text: error.message.trim() })
    const client = request(
      {
        // Not every resolver knows names below localhost.
        host: '127.0.0.1',
        servername: host,
        port,
        path,
        ca,
        agent: false,
        timeout: 5000,
        headers: { host: `${host}:${port}` },
        ...(pair === null
          ? {}
          : { cert: readFileSync(`${pair}.pem`), key: readFileSync(`${pair}.key`) }),
      },
      (response) => {
        let text = ''
        response.on('data', (chunk: Buffer) => (text += chunk.toString()))
        response.on('error', refused)
        response.on('end', () => done({ status: response.statusCode!, text }))
      },
    )
    client.on('timeout', () => client.destroy(new Error('no answer in 5 s')))
    client.on('error', refused)
    client.end()
  })
}

async function freePort(): Promise<number> {
  for (;;) {
    // Below what the kernel takes for outgoing connections: a service that restarts must find its port free.
    const port = 20_000 + Math.floor(Math.random() * 12_000)
    const server = createServer()
    const isFree = await new Promise<boolean>((done) => {
      server.once('error', () => done(false))
      server.listen(port, '127.0.0.1', () => done(true))
    })
    if (!isFree) continue
    await new Promise((closed) => server.close(closed))
    return port
  }
}
