/**
 * A node as an operator runs it: keys, passwords and tokens in a folder encrypted by sops, real chains behind
 * RPCs that fail in every way there is, people who sign in, a federation with a peer that is gone, and receivers of
 * alerts that refuse. It anchors, and the secrets are nowhere: not in a file, a log line, an answer, a page, an
 * argument or an environment, however they are spelt.
 */

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createSigner, post, sign } from '../../functions/sdk.ts'
import { bitcoinAddresses, evmAddress } from '../../scripts/anchor-keys.ts'
import { ROOT } from '../../scripts/build.ts'
import { anchor } from '../../scripts/cli/anchor.ts'
import {
  outcomeOf,
  parse,
  type Command,
  type Outcome,
  type Terminal,
} from '../../scripts/cli/command.ts'
import { secrets as secretsCommand } from '../../scripts/cli/secrets.ts'
import { status } from '../../scripts/cli/status.ts'
import { verifyAnchor } from '../../scripts/cli/verify-anchor.ts'
import { anvilBinary, missingAnvil } from '../../scripts/devnet/anvil.ts'
import { missingBitcoind } from '../../scripts/devnet/bitcoind-binary.ts'
import { ELSEWHERE } from '../../scripts/devnet/bitcoind.ts'
import { onPath } from '../../scripts/devnet/child.ts'
import { startDevnet, type Devnet } from '../../scripts/devnet/devnet.ts'
import { startFaultProxy, type Fault, type FaultProxy } from '../../scripts/devnet/fault-proxy.ts'
import { hasOidc, missingOidc, startOidc, type Oidc } from '../../scripts/devnet/oidc.ts'
import { identities, nodeSecret } from '../../scripts/keystore.ts'
import { encryptEnv, findSops } from '../../scripts/sops-binary.ts'
import { loadSecrets } from '../../scripts/sops.ts'
import { contentOf, filesIn, holds, processesOf } from '../support/secret-search.ts'
import { absent, bitcoindAbsence } from './devnet-support.ts'
import { testSigner } from '../support/signing.ts'
import { Browser } from './oidc-support.ts'
import { freePort, sandbox, start, type Running } from './support.ts'

/** The cookie that a browser brings (functions/http/session.ts). */
const SESSION_COOKIE = '__Host-vm-session'

const sops = await findSops()
const isMissing = [
  absent(sops === null ? 'sops is not installed' : null),
  absent(bitcoindAbsence === null ? null : missingBitcoind),
  absent(anvilBinary() === null ? missingAnvil : null),
  absent((await hasOidc()) ? null : missingOidc),
  absent(onPath('openssl') === null ? 'openssl is not installed' : null),
].includes(true)

/** Each makes every call of an attempt fail. One that hangs does so for ten seconds, and speaks of no URL after them. */
const FAULTS: readonly Fault[] = ['down', 'reset', 'html', 'limited', 'error500', 'cut']

interface Job {
  readonly id: number
  readonly chain: string
  readonly state: string
  readonly failures: number
  readonly reason: string | null
}

let box: Awaited<ReturnType<typeof sandbox>>
let devnet: Devnet
let btc: FaultProxy
let evm: FaultProxy
let gate: Server
let hooks: Server
let oidc: Oidc
let node: Running
let isStopped = false
let dir: string
let home: string
let temporary: string
let url: string
let metricsToken: string
/** What is looked for; sessions and the node's own secret are added as they come to be. */
let secrets: string[]
/** All that was ever answered or printed but by the node itself. */
let said = ''
/** Arguments and environments of the node's processes, each as it was first seen. */
const processes = new Set<string>()
let watch: NodeJS.Timeout
const folder = process.cwd()

beforeAll(async () => {
  if (isMissing) return
  box = await sandbox()
  // Where the commands below leave receipts.
  process.chdir(box.dir)
  const begun = await startDevnet({ dir: join(box.dir, 'devnet'), mineEveryMs: 300 })
  devnet = begun
  dir = join(box.dir, 'secrets')
  await command(secretsCommand, 'init', '--dir', dir)
  const keys = await loadSecrets(dir)
  await devnet.fund({
    btcAddress: bitcoinAddresses(keys['BTC_PRIVATE_KEY']!, 'regtest').p2wpkh,
    evmAddress: evmAddress(keys['EVM_PRIVATE_KEY']!),
  })
  await devnet.btc!.mine(6, ELSEWHERE)

  // A hosted RPC takes its key in the path, or a user and password: this one wants both.
  const pathKey = 'path-key-3f9a2c71d0'
  const evmPassword = 'evm-pass-c41d7be209'
  gate = await gateOf(devnet.evm!.url, `/v3/${pathKey}`, `Basic ${btoa(`me:${evmPassword}`)}`)
  btc = await startFaultProxy({ target: devnet.btc!.url })
  evm = await startFaultProxy({ target: `http://me:${evmPassword}@127.0.0.1:${portOf(gate)}` })
  hooks = createServer((_, response) => response.writeHead(500).end('no'))
  await new Promise<void>((ready) => hooks.listen(0, '127.0.0.1', ready))
  const nodePort = await freePort()
  url = `http://127.0.0.1:${nodePort}`
  oidc = await startOidc({ nodeUrl: url, port: 0 })
  const hookKey = 'hook/"key%7c31\\'
  const alertPassword = 'alert-pass-9b1e07'
  metricsToken = 'metrics-token-5d2f80c6'
  const { OIDC_CLIENT_SECRET: clientSecret, ...oidcVars } = oidc.vars
  const variables = {
    BTC_URLS: `core+${btc.url}`,
    EVM_URLS: `${evm.url}/v3/${pathKey}`,
    OIDC_CLIENT_SECRET: clientSecret!,
    METRICS_TOKEN: metricsToken,
    ALERTMANAGER_URL: `http://me:${alertPassword}@127.0.0.1:${portOf(hooks)}`,
    ALERT_WEBHOOK_URL: `http://127.0.0.1:${portOf(hooks)}/?${encodeURIComponent(hookKey)}`,
  }
  const text = Object.entries(variables)
    .map(([name, value]) => `${name}=${value}\n`)
    .join('')
  writeFileSync(join(dir, 'urls.env'), await encryptEnv(sops!, { dir, name: 'urls.env', text }))
  secrets = [
    keys['BTC_PRIVATE_KEY']!,
    keys['EVM_PRIVATE_KEY']!,
    new URL(devnet.btc!.url).password,
    pathKey,
    evmPassword,
    clientSecret!,
    metricsToken,
    alertPassword,
    hookKey,
    ...(await identities({ create: false })),
  ]

  home = join(box.dir, 'node')
  temporary = join(box.dir, 'tmp')
  mkdirSync(temporary)
  const roots = join(box.dir, 'tsa.pem')
  writeFileSync(roots, devnet.tsa!.rootPem)
  const federation = join(box.dir, 'federation.yaml')
  const peer = testSigner('EdDSA', 'a peer that is gone').did
  const gone = `http://127.0.0.1:${await freePort()}`
  writeFileSync(
    federation,
    `gossip: { interval_ms: 500 }\npeers_allowlist:\n  - { did: '${peer}', url: '${gone}' }\n`,
  )
  const receipts = join(box.dir, 'receipts')
  const where = ['--home', home, '--port', String(nodePort), '--secrets', dir]
  where.push('--tsa', devnet.tsa!.url, '--tsa-roots', roots, '--receipts', receipts)
  where.push('--federation', federation)
  node = await start(
    [resolve(ROOT, 'scripts/vaultmesh.ts'), 'selfhost', '--verbose', ...where],
    'rails:',
    {
      ...oidcVars,
      BTC_NETWORK: 'regtest',
      EVM_CHAIN_ID: '31337',
      SEAL_BATCH_MAX_INTERVAL_MS: '200',
      GUARDIAN_INTERVAL_MS: '500',
      TMPDIR: temporary,
    },
  )
  const nodeKey = await nodeSecret(home)
  secrets.push(nodeKey)
  watch = setInterval(() => processes.add(processesOf(node.pid).toString('latin1')), 250)
}, 120_000)

afterAll(async () => {
  clearInterval(watch)
  process.chdir(folder)
  if (!isStopped) await node?.stop('SIGTERM')
  await btc?.stop()
  await evm?.stop()
  gate?.close()
  hooks?.close()
  await oidc?.stop()
  await devnet?.stop()
  await box?.remove()
})

function portOf(server: Server): number {
  return (server.address() as AddressInfo).port
}

/** Passes on only what comes with the right path and Authorization. */
async function gateOf(target: string, path: string, authorization: string): Promise<Server> {
  const server = createServer((incoming, outgoing) => {
    if (incoming.url !== path || incoming.headers.authorization !== authorization) {
      return void outgoing.writeHead(401).end('who are you?')
    }
    const chunks: Buffer[] = []
    incoming.on('data', (chunk: Buffer) => chunks.push(chunk))
    incoming.on('end', () => {
      const headers = { 'content-type': 'application/json' }
      fetch(target, { method: 'POST', headers, body: Buffer.concat(chunks) })
        .then(async (answer) => outgoing.writeHead(answer.status).end(await answer.text()))
        .catch(() => outgoing.destroy())
    })
  })
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready))
  return server
}

async function setFault(fault: Fault): Promise<void> {
  await Promise.all([btc.setFault(fault), evm.setFault(fault)])
}

/** Runs a command on this node, in this process; what it says is kept for the search. */
async function command(named: Command, ...args: string[]): Promise<Outcome> {
  if (home !== undefined) process.env['VAULTMESH_HOME'] = home
  const terminal = { progress: () => undefined, paint: (_: string, text: string) => text }
  let outcome: Outcome
  try {
    const { values, positionals } = parse(named, args)
    outcome = await named.run(positionals, values, terminal as unknown as Terminal)
  } catch (error) {
    outcome = outcomeOf(error, named)
  }
  said += `${outcome.lines.join('\n')}\n${JSON.stringify(outcome.value)}\n`
  return outcome
}

/** Asks the node; what it answers, headers too, is kept for the search. */
async function ask(path: string, init: RequestInit = {}): Promise<string> {
  return kept(await fetch(url + path, init))
}

async function kept(answer: Response): Promise<string> {
  const text = await answer.text()
  // The one place where a session may be told is the Set-Cookie that begins it.
  const headers = [...answer.headers].filter(([name]) => name !== 'set-cookie')
  said += `${answer.status} ${JSON.stringify(headers)}\n${text}\n`
  return text
}

/** The outbox as everybody sees it; the newest jobs of both chains. */
async function jobs(): Promise<readonly Job[]> {
  const { anchors } = JSON.parse(await ask('/anchors/status?limit=1000')) as {
    anchors: readonly Job[]
  }
  const newest = ['BTC', 'EVM'].map((chain) => anchors.find((a) => a.chain === chain)!)
  for (const { id } of newest) await ask(`/anchors/${id}`)
  return newest
}

async function newRoot(): Promise<void> {
  const secret = crypto.getRandomValues(new Uint8Array(32))
  const signer = await createSigner({ alg: 'EdDSA', secret })
  await post(url, await sign(signer, { type: 'test.event' }), { wait: 20 })
}

async function untilJobs(are: (jobs: readonly Job[]) => boolean): Promise<readonly Job[]> {
  const deadline = Date.now() + 50_000
  for (;;) {
    const now = await jobs()
    if (are(now)) return now
    if (Date.now() > deadline) throw new Error(JSON.stringify(now))
    await sleep(200)
  }
}

describe.skipIf(isMissing)('a node with keys, passwords and tokens in sops files', () => {
  test('turns on the rails that its secrets are for', () => {
    expect(node.output()).toContain('rails: BTC, EVM, TSA')
  })

  test('hears nothing of a broadcast that was carried out, and says so', async () => {
    await btc.setFault('lose-reply:sendrawtransaction')
    await evm.setFault('lose-reply:eth_sendRawTransaction')
    await newRoot()
    await command(anchor, 'all', '--wait', '0')
    await untilJobs((now) => now.every(({ failures }) => failures > 0))
    expect([btc.lost, evm.lost].every((lost) => lost > 0)).toBe(true)
  }, 60_000)

  test.each(FAULTS)(
    'says only host and fault of RPCs that are %s, and a new root does not wait for the old',
    async (fault) => {
      await setFault(fault)
      await newRoot()
      expect((await command(anchor, 'all', '--wait', '0')).exit).toBe(3)
      const failed = await untilJobs((now) => now.every(({ failures }) => failures > 0))
      for (const job of failed) {
        expect(job.reason).toMatch(/127\.0\.0\.1:\d+/)
        expect(job.reason).not.toContain('@')
      }
    },
    60_000,
  )

  test('shows people and machines its pages and its errors', async () => {
    await setFault('ok')
    const alice = new Browser()
    const { callback, answer } = await alice.signIn(url, 'alice')
    await kept(answer)
    const session = alice.cookies.get(SESSION_COOKIE)!
    secrets.push(session)
    const pages = ['', '/anchors', '/federation', '/guardian', '/audit', '/alerts', '/operate']
    for (const page of pages) await kept(await alice.get(`${url}/dashboard${page}`))
    // A code that was used, a state that is nobody's, a form of another site, a provider that says no.
    await kept(await alice.get(callback))
    await kept(await new Browser().get(`${url}/auth/callback?code=x&state=y`))
    const headers = { origin: 'http://evil.example', 'sec-fetch-site': 'cross-site' }
    await kept(await alice.post(`${url}/dashboard/actions/seal`, {}, headers))
    const mallory = await new Browser().signIn(url, 'mallory')
    await kept(mallory.answer)
    await oidc.stop()
    await kept(await new Browser().get(`${url}/login`))

    const bearer = (token: string) => ({ headers: { authorization: `Bearer ${token}` } })
    expect(await ask('/metrics', bearer(metricsToken))).toContain('vaultmesh_')
    expect(await ask('/metrics', bearer(`${metricsToken.slice(0, -1)}x`))).toContain(
      'METRICS_TOKEN',
    )
    for (const path of ['/metrics', '/guardian', '/admin/x', '/nowhere', '/events/sha256:00'])
      await ask(path)
    for (const path of ['/healthz', '/readyz', '/alerts', '/openapi.json', '/federation/peers'])
      await ask(path)
    await ask('/.well-known/vaultmesh.json')
    for (const body of ['', '{', 'a.b.c', '\u0000'.repeat(100)]) {
      await ask('/events', { method: 'POST', body })
      await ask('/gossip', { method: 'POST', body })
      await ask('/webhooks', { method: 'POST', body })
    }
    expect(said).toContain('/problems/')
  }, 60_000)

  test('anchors on every chain through RPCs that are slow, and an auditor with the same secrets asks them', async () => {
    await setFault('slow:50')
    await newRoot()
    const ran = await command(anchor, 'all', '--wait', '100')
    expect(ran.exit, ran.lines.join('\n')).toBe(0)
    const root = readFileSync('latest-root.txt', 'utf8').trim()
    const asked = ['--root', root, '--btc', '--evm', '--tsa', '--online', '--secrets', dir]
    const online = await command(verifyAnchor, ...asked)
    expect(online.exit, online.lines.join('\n')).toBe(0)
    expect(online.lines.join('\n').match(/^OK {2}/gm)).toHaveLength(3)
    for (const fault of [...FAULTS, 'lose-reply'] as const) {
      await setFault(fault)
      expect({ fault, exit: (await command(verifyAnchor, ...asked)).exit }).toEqual({
        fault,
        exit: 4,
      })
    }
    await setFault('ok')
    await command(status)
    await command(secretsCommand, 'check', '--dir', dir)
  }, 120_000)

  test('has its secrets in no answer, page, log line, file, argument or environment', async () => {
    await jobs()
    clearInterval(watch)
    processes.add(processesOf(node.pid).toString('latin1'))
    const listed = [...processes].map((text) => Buffer.from(text, 'latin1'))
    expect(listed.some((text) => text.includes('workerd'))).toBe(true)
    const folders = [home, temporary, join(box.dir, 'receipts'), join(box.dir, 'anchors')]
    const during = folders.flatMap(filesIn)
    expect(during.length).toBeGreaterThan(10)
    expect(during.filter((path) => holds(contentOf(path), secrets))).toEqual([])
    isStopped = true
    expect(await node.stop('SIGTERM')).toBe(0)
    const after = [...folders, dir].flatMap(filesIn)
    expect(after.filter((path) => holds(readFileSync(path), secrets))).toEqual([])
    // The log did speak of the faults, and the answers of the hosts.
    expect(node.output()).toContain('anchor attempt failed')
    expect(said).toContain('127.0.0.1:')
    const places = { log: node.output(), said, processes: [...processes].join('') }
    for (const [place, text] of Object.entries(places)) {
      const content = Buffer.from(text, place === 'processes' ? 'latin1' : 'utf8')
      expect({ place, held: secrets.findIndex((secret) => holds(content, [secret])) }).toEqual({
        place,
        held: -1,
      })
    }
    // What is searched for is found where it is.
    expect(secrets).toHaveLength(12)
    for (const secret of secrets)
      for (const text of [`{"url":"http://u:${secret}@h"}`, JSON.stringify({ a: secret })])
        expect(holds(Buffer.from(text), [secret])).toBe(true)
  }, 60_000)
})
