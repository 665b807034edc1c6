/**
 * `make up`: a devnet node with real chains, a real timestamp authority and a real OpenID provider beside it, shown
 * at work.
 *
 * Starts bitcoind on regtest, anvil, openssl and oidc-provider (what is absent is named and its part off), starts the
 * node, makes a client key, posts a first event, waits until its receipt is final on every rail, verifies
 * that receipt from its file and prints what was checked; then goes on serving until Ctrl-C (`--once`:
 * stops). Limits are off and times short: a devnet is for looking, and worth nothing.
 */

import { existsSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { join, relative } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { verifyReceipt, type Receipt } from '#core/receipt.ts'
import { eventHashOf, post, sign, type EventSigner } from '../functions/sdk.ts'
import type { Terminal } from './cli/command.ts'
import { makeKey, signerFrom } from './cli/keygen.ts'
import { getJson } from './cli/remote.ts'
import { reportLines } from './cli/verify.ts'
import { startDevnet, type Devnet } from './devnet/devnet.ts'
import { hasOidc, missingOidc, startOidc, USERS, type Oidc } from './devnet/oidc.ts'
import { anchorVars, partsOf } from './devnet/settings.ts'
import { fail } from './fail.ts'
import { RECEIPTS_DIR } from './receipt-files.ts'
import { UP_USAGE } from './usage.ts'
import { homeAt } from './home.ts'
import { checkPort, portOf, untilStopped } from './listen.ts'
import { DEFAULT_PORT, intakeOption, startNode, type RunningNode } from './selfhost.ts'

/** Settings of a devnet; an environment variable of the same name still wins. */
const DEVNET = {
  ORIGIN: 'vm-node-01.local/log',
  RATE_LIMIT_DID: '0',
  RATE_LIMIT_IP: '0',
  WEBHOOK_ALLOW_PRIVATE: '1',
  SEAL_BATCH_MAX_INTERVAL_MS: '2000',
  ANCHOR_TSA_INTERVAL_MS: '10000',
  ANCHOR_BTC_INTERVAL_MS: '10000',
  ANCHOR_EVM_INTERVAL_MS: '10000',
  GUARDIAN_INTERVAL_MS: '5000',
} as const

/** What can be left out. */
const PARTS = ['btc', 'evm', 'tsa', 'oidc'] as const

/** A due anchor is made within its interval and one cron minute. */
const ANCHOR_TIMEOUT_MS = 90_000

/** Runs a devnet until it is told to stop; resolves to the exit code. */
export async function up(args: readonly string[]): Promise<number> {
  if (args.includes('--help') || args.includes('-h')) {
    console.log(`usage: vaultmesh up ${UP_USAGE}`)
    return 0
  }
  const { values } = parseArgs({
    args: [...args],
    options: {
      home: { type: 'string' },
      port: { type: 'string', default: String(DEFAULT_PORT) },
      'tsa-port': { type: 'string', default: String(DEFAULT_PORT + 1) },
      'btc-port': { type: 'string', default: String(DEFAULT_PORT + 2) },
      'evm-port': { type: 'string', default: String(DEFAULT_PORT + 3) },
      'oidc-port': { type: 'string', default: String(DEFAULT_PORT + 4) },
      without: { type: 'string', multiple: true },
      once: { type: 'boolean', default: false },
    },
  })
  const home = homeAt(values.home)
  const ports = {
    tsa: portOf(values['tsa-port'], '--tsa-port'),
    btc: portOf(values['btc-port'], '--btc-port'),
    evm: portOf(values['evm-port'], '--evm-port'),
  }
  const without = partsOf(values.without ?? [], PARTS)
  const oidcPort = portOf(values['oidc-port'], '--oidc-port')
  // Whoever names a provider of their own gets that one.
  const isOidcHere = !without.has('oidc') && (process.env['OIDC_ISSUER'] ?? '') === ''
  const nodeUrl = process.env['PUBLIC_URL'] ?? `http://127.0.0.1:${portOf(values.port)}`
  let devnet: Devnet | undefined
  let oidc: Oidc | null = null
  let node: RunningNode | undefined
  try {
    node = await startNode({
      home: home.path,
      port: portOf(values.port),
      receipts: RECEIPTS_DIR,
      ...intakeOption(),
      // Once the home is ours: two devnets must not share one authority's keys and one chain's folder.
      vars: async () => {
        for (const [part, port] of Object.entries(ports)) {
          if (!without.has(part as 'tsa')) await checkPort('127.0.0.1', port, `--${part}-port`)
        }
        if (isOidcHere) await checkPort('127.0.0.1', oidcPort, '--oidc-port')
        const dir = join(home.path, 'devnet')
        const chains = new Set([...without].filter((part) => part !== 'oidc'))
        devnet = await startDevnet({ dir, ports, without: chains, say: console.log })
        for (const { line } of devnet.absent) console.log(line)
        if (isOidcHere && !(await hasOidc())) console.log(missingOidc)
        else if (isOidcHere) oidc = await startOidc({ nodeUrl, port: oidcPort })
        return { ...devnetVars(), ...(await anchorVars(devnet, dir)), ...oidc?.vars }
      },
    })
    const stopped = untilStopped()
    for (const warning of node.warnings) console.error(`vaultmesh: ${warning}`)
    introduce(node, devnet!)
    if (oidc !== null) introduceSignIn(nodeUrl, oidc)
    const shown = firstEvent(node)
    const signal = await Promise.race([stopped, shown])
    if (typeof signal !== 'string' && !values.once) {
      console.log('\nserving until Ctrl-C')
      await stopped
    }
    return typeof signal === 'string' || signal.ok ? 0 : 1
  } finally {
    await node?.stop()
    await (oidc as Oidc | null)?.stop()
    await devnet?.stop()
  }
}

function devnetVars(): Record<string, string> {
  const vars: Record<string, string> = {}
  for (const [name, value] of Object.entries(DEVNET)) vars[name] = process.env[name] ?? value
  return vars
}

function introduce({ url, trust }: RunningNode, { btc, evm, tsa }: Devnet): void {
  console.log(`node       ${url}  (${trust.node_id}, docs at ${url}/docs)`)
  console.log(`identity   ${trust.node_did}`)
  console.log(`log        ${trust.vkeys[0]}`)
  const rail = (name: string, what: string | null): void =>
    console.log(`${name.padEnd(11)}${what ?? 'off'}`)
  rail('bitcoin', btc === null ? null : `127.0.0.1:${btc.port}  (bitcoind, regtest: worth nothing)`)
  rail('evm', evm === null ? null : `${evm.url}  (anvil: worth nothing)`)
  rail('timestamps', tsa === null ? null : `${tsa.url}  (openssl, devnet root)`)
}

function introduceSignIn(nodeUrl: string, { issuer }: Oidc): void {
  const roles = Object.entries(USERS).map(
    ([name, [group]]) => `${name} (${/^ledger-(\w+)$/.exec(group ?? '')?.[1] ?? 'no role'})`,
  )
  console.log(`dashboard  ${nodeUrl}/dashboard`)
  console.log(`sign-in    ${issuer}  DEV ONLY, no passwords: ${roles.join(', ')}`)
}

/** Posts an event, waits for outside time on it, and shows that its receipt verifies from the files. */
async function firstEvent(node: RunningNode): Promise<{ readonly ok: boolean }> {
  const { url, home, trust } = node
  const { rails } = trust
  const signer = await clientSigner(home.clientKey)
  const jws = await sign(signer, { type: 'vm.demo.hello', data: { text: 'Hello, log.' } })
  console.log(`\nposting    one event, signed by ${signer.did}`)
  const posted = await post(url, jws, { wait: 30 })
  console.log(`accepted   ${posted.eventHash}`)
  let receipt = posted.receipt
  if (rails.length > 0) {
    const tty = process.stdout.isTTY
    if (tty) process.stdout.write(`waiting    for ${rails.join(', ')} …`)
    receipt = await finalReceipt(url, eventHashOf(jws))
    if (tty) process.stdout.write('\r\u001b[K')
  }
  if (receipt === undefined) {
    console.log('The event is durable but not sealed yet: see vaultmesh status.')
    return { ok: false }
  }
  const folder = join(home.path, 'receipts')
  const files = {
    event: join(folder, `${posted.eventHash.slice(7, 23)}.jws`),
    receipt: join(folder, `${posted.eventHash.slice(7, 23)}.receipt.json`),
  }
  await mkdir(folder, { recursive: true })
  await writeFile(files.event, jws)
  await writeFile(files.receipt, `${JSON.stringify(receipt, null, 2)}\n`)
  const report = await verifyReceipt(receipt, trust, new TextEncoder().encode(jws))
  console.log(`\nreceipt    ${receipt.status}, leaf ${receipt.leafIndex} of ${receipt.origin}`)
  for (const line of reportLines(report, plain)) console.log(line)
  const ok = report.verdict === 'verified' && rails.every((rail) => report.anchored.includes(rail))
  console.log('\nverify it yourself, offline:')
  console.log(
    `  scripts/vaultmesh verify ${here(files.receipt)} ${here(files.event)} --trust ${here(home.trust)}`,
  )
  return { ok }
}

/** Asks until the event's receipt is final: a verified anchor on every rail. */
async function finalReceipt(url: string, eventHash: string): Promise<Receipt | undefined> {
  const deadline = Date.now() + ANCHOR_TIMEOUT_MS
  let receipt: Receipt | undefined
  while (Date.now() < deadline) {
    receipt = await getJson<Receipt>(`${url}/receipts/${eventHash}`).catch(() => receipt)
    if (receipt?.status === 'final') return receipt
    await sleep(250)
  }
  return receipt
}

async function clientSigner(file: string): Promise<EventSigner> {
  return existsSync(file) ? signerFrom(file) : makeKey(file, 'EdDSA')
}

/** No colour: these lines are read in logs of CI as well. */
const plain: Pick<Terminal, 'paint'> = { paint: (_, text) => text }

function here(path: string): string {
  const near = relative(process.cwd(), path)
  return near.startsWith('..') ? path : near
}

if (import.meta.main) up(process.argv.slice(2)).then((code) => process.exit(code), fail)
