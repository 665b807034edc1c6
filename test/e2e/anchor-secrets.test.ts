/**
 * A node as an operator runs it: keys and RPC passwords in a folder encrypted by sops, real chains behind
 * RPCs that fail in every way there is. It anchors, and the secrets are nowhere.
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
import { anvilBinary, missingAnvil } from '../../scripts/devnet/anvil.ts'
import { missingBitcoind } from '../../scripts/devnet/bitcoind-binary.ts'
import { ELSEWHERE } from '../../scripts/devnet/bitcoind.ts'
import { onPath } from '../../scripts/devnet/child.ts'
import { startDevnet, type Devnet } from '../../scripts/devnet/devnet.ts'
import { startFaultProxy, type Fault, type FaultProxy } from '../../scripts/devnet/fault-proxy.ts'
import { encryptEnv, findSops } from '../../scripts/sops-binary.ts'
import { loadSecrets } from '../../scripts/sops.ts'
import { contentOf, family, filesIn, holds } from '../support/secret-search.ts'
import { absent, bitcoindAbsence } from './devnet-support.ts'
import { freePort, sandbox, start, vaultmesh, type Running } from './support.ts'

const sops = await findSops()
const isMissing = [
  absent(sops === null ? 'sops is not installed' : null),
  absent(bitcoindAbsence === null ? null : missingBitcoind),
  absent(anvilBinary() === null ? missingAnvil : null),
  absent(onPath('openssl') === null ? 'openssl is not installed' : null),
].includes(true)

/** Each makes every call of an attempt fail. */
const FAULTS: readonly Fault[] = ['down', 'reset', 'html', 'limited', 'error500', 'cut', 'hang']

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
let node: Running
let isStopped = false
let dir: string
let home: string
let temporary: string
let url: string
let secrets: readonly string[]
/** All that was ever answered or printed but by the node itself. */
let said = ''

beforeAll(async () => {
  if (isMissing) return
  box = await sandbox()
  const begun = await startDevnet({ dir: join(box.dir, 'devnet'), mineEveryMs: 300 })
  devnet = begun
  dir = join(box.dir, 'secrets')
  const made = await vaultmesh(['secrets', 'init', '--dir', dir])
  expect(made).toMatchObject({ code: 0, stderr: '' })
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
  const { port } = gate.address() as AddressInfo
  btc = await startFaultProxy({ target: devnet.btc!.url })
  evm = await startFaultProxy({ target: `http://me:${evmPassword}@127.0.0.1:${port}` })
  const urls = `BTC_URLS=core+${btc.url}\nEVM_URLS=${evm.url}/v3/${pathKey}\n`
  writeFileSync(
    join(dir, 'urls.env'),
    await encryptEnv(sops!, { dir, name: 'urls.env', text: urls }),
  )
  secrets = [
    keys['BTC_PRIVATE_KEY']!,
    keys['EVM_PRIVATE_KEY']!,
    new URL(devnet.btc!.url).password,
    pathKey,
    evmPassword,
  ]

  home = join(box.dir, 'node')
  temporary = join(box.dir, 'tmp')
  mkdirSync(temporary)
  const roots = join(box.dir, 'tsa.pem')
  writeFileSync(roots, devnet.tsa!.rootPem)
  const nodePort = await freePort()
  url = `http://127.0.0.1:${nodePort}`
  const receipts = join(box.dir, 'receipts')
  const where = ['--home', home, '--port', String(nodePort), '--secrets', dir]
  where.push('--tsa', devnet.tsa!.url, '--tsa-roots', roots, '--receipts', receipts)
  node = await start(
    [resolve(ROOT, 'scripts/vaultmesh.ts'), 'selfhost', '--verbose', ...where],
    'rails:',
    {
      BTC_NETWORK: 'regtest',
      EVM_CHAIN_ID: '31337',
      SEAL_BATCH_MAX_INTERVAL_MS: '200',
      TMPDIR: temporary,
    },
  )
}, 120_000)

afterAll(async () => {
  if (!isStopped) await node?.stop('SIGTERM')
  await btc?.stop()
  await evm?.stop()
  gate?.close()
  await devnet?.stop()
  await box?.remove()
})

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

/** Runs a command on this node; what it says is kept for the search. */
async function command(...args: string[]) {
  const ran = await vaultmesh(args, { cwd: box.dir, env: { VAULTMESH_HOME: home } })
  said += ran.stdout + ran.stderr
  return ran
}

/** Every public view of the outbox, kept for the search; the newest jobs of both chains. */
async function jobs(): Promise<readonly Job[]> {
  const text = await (await fetch(`${url}/anchors/status?limit=1000`)).text()
  said += text
  const { anchors } = JSON.parse(text) as { anchors: readonly Job[] }
  const newest = ['BTC', 'EVM'].map((chain) => anchors.find((a) => a.chain === chain)!)
  for (const { id } of newest) said += await (await fetch(`${url}/anchors/${id}`)).text()
  for (const path of ['/healthz', '/alerts', '/.well-known/vaultmesh.json', '/openapi.json']) {
    said += await (await fetch(`${url}${path}`)).text()
  }
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

describe.skipIf(isMissing)('a node with keys and passwords in sops files', () => {
  test('turns on the rails that its secrets are for', () => {
    expect(node.output()).toContain('rails: BTC, EVM, TSA')
  })

  test.each(FAULTS)(
    'says only host and fault of RPCs that are %s, and a new root does not wait for the old',
    async (fault) => {
      await setFault(fault)
      await newRoot()
      const early = await command('anchor', 'all', '--wait', '0')
      expect(early.code).toBe(3)
      const failed = await untilJobs((now) => now.every(({ failures }) => failures > 0))
      for (const job of failed) {
        expect(job.reason).toMatch(/127\.0\.0\.1:\d+/)
        expect(job.reason).not.toContain('@')
      }
      const root = readFileSync(join(box.dir, 'latest-root.txt'), 'utf8').trim()
      await command('verify-anchor', '--root', root, '--online', '--secrets', dir)
    },
    90_000,
  )

  test('anchors on every chain through RPCs that are slow', async () => {
    await setFault('slow:300')
    await newRoot()
    const ran = await command('anchor', 'all', '--wait', '100')
    expect(ran).toMatchObject({ code: 0, stderr: '' })
  }, 120_000)

  test('sees an anchor through whose broadcast was carried out and never answered', async () => {
    await btc.setFault('lose-reply:sendrawtransaction')
    await evm.setFault('lose-reply:eth_sendRawTransaction')
    await newRoot()
    await command('anchor', 'all', '--wait', '0')
    await untilJobs((now) => now.every(({ failures }) => failures > 0))
    expect([btc.lost, evm.lost].every((lost) => lost > 0)).toBe(true)
    await setFault('ok')
    const ran = await command('anchor', 'all', '--wait', '100')
    expect(ran).toMatchObject({ code: 0, stderr: '' })
  }, 120_000)

  test('anchors once they answer, and an auditor with the same secrets asks the chains', async () => {
    await setFault('ok')
    await newRoot()
    const ran = await command('anchor', 'all')
    expect(ran).toMatchObject({ code: 0, stderr: '' })
    const root = readFileSync(join(box.dir, 'latest-root.txt'), 'utf8').trim()
    const asked = ['--root', root, '--btc', '--evm', '--tsa', '--online', '--secrets', dir]
    const online = await command('verify-anchor', ...asked)
    expect(online).toMatchObject({ code: 0, stderr: '' })
    expect(online.stdout.match(/^OK {2}/gm)).toHaveLength(3)
    // Each call of a node that hangs takes its ten seconds: that one was met above.
    for (const fault of [...FAULTS.filter((name) => name !== 'hang'), 'lose-reply'] as const) {
      await setFault(fault)
      const failed = await command('verify-anchor', ...asked)
      expect({ fault, ...failed }).toMatchObject({ code: 4, stderr: '' })
    }
    await setFault('ok')
  }, 120_000)

  test('has its secrets in no answer, log line, file, argument or environment', async () => {
    await jobs()
    for (const pid of family(node.pid)) {
      for (const name of ['cmdline', 'environ']) {
        const content = readFileSync(`/proc/${pid}/${name}`)
        expect({ name, found: holds(content, secrets) }).toEqual({ name, found: false })
      }
    }
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
    expect(holds(Buffer.from(node.output()), secrets)).toBe(false)
    expect(holds(Buffer.from(said), secrets)).toBe(false)
    // What is searched for is found where it is.
    expect(holds(Buffer.from(`{"url":"http://u:${secrets[2]}@h"}`), secrets)).toBe(true)
  })
})
