/**
 * `make up`: a devnet node with a real timestamp authority beside it, shown at work.
 *
 * Starts openssl as the authority, starts the node, makes a client key, posts a first event, waits until its
 * receipt is anchored, verifies that receipt from its file and prints what was checked; then goes on
 * serving until Ctrl-C (`--once`: stops). Limits are off and times short: a devnet is for looking.
 * The authority runs in this process, so that it cannot outlive it.
 */

import { spawnSync } from 'node:child_process'
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
import { startTsa, type Tsa } from './devnet/tsa.ts'
import { fail } from './fail.ts'
import { homeAt } from './home.ts'
import {
  checkPort,
  DEFAULT_PORT,
  portOf,
  startNode,
  untilStopped,
  type RunningNode,
  type TsaPins,
} from './selfhost.ts'

/** Settings of a devnet; an environment variable of the same name still wins. */
const DEVNET = {
  ORIGIN: 'vm-node-01.local/log',
  RATE_LIMIT_DID: '0',
  RATE_LIMIT_IP: '0',
  SEAL_BATCH_MAX_INTERVAL_MS: '2000',
  ANCHOR_TSA_INTERVAL_MS: '10000',
} as const

/** A due anchor is made within its interval and one cron minute. */
const ANCHOR_TIMEOUT_MS = 90_000

/** Runs a devnet until it is told to stop; resolves to the exit code. */
export async function up(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      home: { type: 'string' },
      port: { type: 'string', default: String(DEFAULT_PORT) },
      'tsa-port': { type: 'string', default: String(DEFAULT_PORT + 1) },
      once: { type: 'boolean', default: false },
    },
  })
  const home = homeAt(values.home)
  const tsaPort = portOf(values['tsa-port'], '--tsa-port')
  const started: Tsa[] = []
  let node: RunningNode | undefined
  // Called once the home is ours: two devnets must not share one authority's keys and serial number.
  const authority = async (): Promise<TsaPins> => {
    await checkPort('127.0.0.1', tsaPort, '--tsa-port')
    const tsa = await startTsa({ dir: join(home.path, 'devnet', 'tsa'), port: tsaPort })
    started.push(tsa)
    return { urls: tsa.url, rootsPem: tsa.rootPem }
  }
  const withTsa = hasOpenssl()
  if (!withTsa) {
    console.log(
      'openssl is not installed: no timestamp authority, rail TSA is off (apt install openssl)',
    )
  }
  try {
    node = await startNode({
      home: home.path,
      port: portOf(values.port),
      vars: devnetVars(),
      ...(withTsa ? { tsa: authority } : {}),
    })
    const stopped = untilStopped()
    for (const warning of node.warnings) console.error(`vaultmesh: ${warning}`)
    introduce(node, started[0])
    const shown = firstEvent(node, withTsa)
    const signal = await Promise.race([stopped, shown])
    if (typeof signal !== 'string' && !values.once) {
      console.log('\nserving until Ctrl-C')
      await stopped
    }
    return typeof signal === 'string' || signal.ok ? 0 : 1
  } finally {
    await node?.stop()
    for (const tsa of started) await tsa.stop()
  }
}

function devnetVars(): Record<string, string> {
  const vars: Record<string, string> = {}
  for (const [name, value] of Object.entries(DEVNET)) vars[name] = process.env[name] ?? value
  return vars
}

/** True if openssl runs. */
export function hasOpenssl(): boolean {
  return spawnSync('openssl', ['version'], { stdio: 'ignore' }).error === undefined
}

function introduce({ url, trust }: RunningNode, tsa: Tsa | undefined): void {
  console.log(`node       ${url}  (${trust.node_id}, docs at ${url}/docs)`)
  console.log(`identity   ${trust.node_did}`)
  console.log(`log        ${trust.vkeys[0]}`)
  console.log(`timestamps ${tsa === undefined ? 'off' : `${tsa.url} (openssl, devnet root)`}`)
}

/** Posts an event, waits for outside time on it, and shows that its receipt verifies from the files. */
async function firstEvent(node: RunningNode, anchored: boolean): Promise<{ readonly ok: boolean }> {
  const { url, home, trust } = node
  const signer = await clientSigner(home.clientKey)
  const jws = await sign(signer, { type: 'vm.demo.hello', data: { text: 'Hello, log.' } })
  console.log(`\nposting    one event, signed by ${signer.did}`)
  const posted = await post(url, jws, { wait: 30 })
  console.log(`accepted   ${posted.eventHash}`)
  let receipt = posted.receipt
  if (anchored) {
    const tty = process.stdout.isTTY
    if (tty) process.stdout.write('waiting    for the timestamp …')
    receipt = await anchoredReceipt(url, eventHashOf(jws))
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
  const ok = report.verdict === 'verified' && (!anchored || report.anchored.includes('TSA'))
  console.log('\nverify it yourself, offline:')
  console.log(
    `  scripts/vaultmesh verify ${here(files.receipt)} ${here(files.event)} --trust ${here(home.trust)}`,
  )
  return { ok }
}

/** Asks until the event's receipt holds a verified anchor. */
async function anchoredReceipt(url: string, eventHash: string): Promise<Receipt | undefined> {
  const deadline = Date.now() + ANCHOR_TIMEOUT_MS
  let receipt: Receipt | undefined
  while (Date.now() < deadline) {
    receipt = await getJson<Receipt>(`${url}/receipts/${eventHash}`).catch(() => receipt)
    if (receipt?.anchors.some((anchor) => anchor.status === 'verified') === true) return receipt
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
