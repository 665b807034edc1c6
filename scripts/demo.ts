/**
 * `make demo`: the whole promise on 1,000 events, once, on a throw-away node.
 *
 * Eight signers of all four algorithms post singly and in bulk; the node seals, and anchors in a real
 * bitcoind (regtest), a real anvil and by a real openssl authority; every receipt is fetched and verified offline
 * against keys pinned before the first post, event bytes included; fsck re-derives the node. Exits 0 only if
 * every event was verified and final on every rail and fsck found nothing. The node's files are in one
 * temporary folder, kept with --keep; receipts that verify without it stay in anchors/receipts.
 */

import { randomBytes } from 'node:crypto'
import { spawnSync } from 'node:child_process'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import type { Receipt } from '#core/receipt.ts'
import { createSigner, eventHashOf, post, sign, verify, type Alg } from '../functions/sdk.ts'
import type { GuardianView } from '#store/guardian-api.ts'
import { fsck } from './cli/fsck.ts'
import { healthLines } from './cli/status.ts'
import { getJson, getText } from './cli/remote.ts'
import { startDevnet, type Devnet } from './devnet/devnet.ts'
import { anchorVars, partsOf } from './devnet/settings.ts'
import { ROOT } from './build.ts'
import { fail } from './fail.ts'
import { exportReceipts, RECEIPTS_DIR } from './receipt-files.ts'
import { SHOW_USAGE } from './usage.ts'
import { untilStopped } from './listen.ts'
import { startNode, type RunningNode } from './selfhost.ts'

const ALGS: readonly Alg[] = ['EdDSA', 'ES256', 'ES256K', 'EIP191']
const EVENTS = 1000
/** Of each signer; the rest go in bulk. */
const SINGLES = 25
const SIGNERS_PER_ALG = 2
/** Requests under way at once. */
const CONCURRENCY = 16
const ANCHOR_TIMEOUT_MS = 120_000

interface Posted {
  readonly alg: Alg
  readonly jws: string
  readonly way: 'single' | 'bulk'
}

async function demo(args: readonly string[]): Promise<number> {
  if (args.includes('--help') || args.includes('-h')) {
    console.log(`usage: make demo ARGS="…"   ${SHOW_USAGE}`)
    return 0
  }
  const { values } = parseArgs({
    args: [...args],
    options: {
      keep: { type: 'boolean', default: false },
      without: { type: 'string', multiple: true },
    },
  })
  const folder = await mkdtemp(join(tmpdir(), 'vm-demo-'))
  const identity = process.env['VAULTMESH_AGE_KEY_FILE']
  process.env['VAULTMESH_AGE_KEY_FILE'] = join(folder, 'age', 'keys.txt')
  const without = partsOf(values.without ?? [])
  let devnet: Devnet | undefined
  let node: RunningNode | undefined
  try {
    const dir = join(folder, 'devnet')
    devnet = await startDevnet({ dir, without, mineEveryMs: 300, say: (line) => console.log(line) })
    for (const { line } of devnet.absent) console.error(line)
    if (devnet.absent.length > 0) {
      const parts = devnet.absent.map(({ part }) => part).join(',')
      console.error(`vaultmesh: to run the demo all the same: make demo ARGS="--without ${parts}"`)
      return 1
    }
    node = await startNode({
      home: join(folder, 'node'),
      port: await freePort(),
      vars: {
        ...(await anchorVars(devnet, dir)),
        ORIGIN: 'demo.vaultmesh.local/log',
        RATE_LIMIT_DID: '0',
        RATE_LIMIT_IP: '0',
        SEAL_BATCH_MAX_ITEMS: '300',
        SEAL_BATCH_MAX_INTERVAL_MS: '1000',
        ANCHOR_TSA_INTERVAL_MS: '2000',
        ANCHOR_BTC_INTERVAL_MS: '2000',
        ANCHOR_EVM_INTERVAL_MS: '2000',
        GUARDIAN_INTERVAL_MS: '1000',
      },
    })
    const ended = untilStopped().then(() => 1)
    return await Promise.race([ended, play(node)])
  } finally {
    await node?.stop()
    await devnet?.stop()
    if (identity === undefined) delete process.env['VAULTMESH_AGE_KEY_FILE']
    else process.env['VAULTMESH_AGE_KEY_FILE'] = identity
    if (values.keep) console.log(`kept in ${folder}`)
    else await rm(folder, { recursive: true, force: true })
  }
}

async function play(node: RunningNode): Promise<number> {
  const { url, trust } = node
  const { rails } = trust
  const begun = performance.now()
  const events = await postAll(url)
  const posted = performance.now()
  const receipts = await anchoredReceipts(node, events)
  const proven = performance.now()

  const tally = new Map(ALGS.map((alg) => [alg, { single: 0, bulk: 0, anchored: 0, verified: 0 }]))
  const times: number[] = []
  const sizes: number[] = []
  for (const [i, { alg, jws, way }] of events.entries()) {
    const row = tally.get(alg)!
    row[way]++
    const receipt = receipts[i]
    if (receipt === undefined) continue
    const from = performance.now()
    const report = await verify(receipt, trust, jws)
    times.push(performance.now() - from)
    sizes.push(JSON.stringify(receipt).length)
    if (report.verdict === 'verified') row.verified++
    else console.error(`${receipt.eventHash}: ${report.sentence}`)
    if (report.verdict === 'verified' && rails.every((rail) => report.anchored.includes(rail)))
      row.anchored++
  }
  const total = { single: 0, bulk: 0, anchored: 0, verified: 0 }
  console.log(`final on   ${rails.join(', ')} (dev networks: worth nothing to others)\n`)
  console.log('algorithm   single   bulk            final   verified offline')
  const line = (name: string, row: typeof total): void =>
    console.log(
      `${name.padEnd(9)}${pad(row.single, 9)}${pad(row.bulk, 7)}${pad(row.anchored, 17)}${pad(row.verified, 19)}`,
    )
  for (const [alg, row] of tally) {
    line(alg, row)
    for (const key of ['single', 'bulk', 'anchored', 'verified'] as const) total[key] += row[key]
  }
  line('all', total)

  const { batches } = await getJson<{ batches: readonly { height: number }[] }>(`${url}/batches`)
  const checked = await fsck.run([], { home: node.home.path }, silent)
  console.log(`\nsealed     in ${batches.length} batches`)
  console.log(`receipt    ${spread(sizes)} bytes (min / median / max)`)
  console.log(
    `verifying  ${median(times).toFixed(2)} ms a receipt (median, anchors and event included)`,
  )
  console.log(
    `time       ${seconds(posted - begun)} signing and posting, ${seconds(proven - posted)} until all were final`,
  )
  console.log(`fsck       ${checked.lines.join('; ')}`)
  console.log(healthLines(await getJson<GuardianView>(`${url}/guardian`)).join('\n'))
  const shown = await leaveBehind(node, events.at(-1)!.jws, receipts.at(-1))
  const good = shown && total.verified === EVENTS && total.anchored === EVENTS && checked.exit === 0
  console.log(
    good
      ? `\n✓ all ${EVENTS} events verified offline and final`
      : `\n✗ FAILED: ${total.verified} of ${EVENTS} verified, ${total.anchored} final`,
  )
  return good ? 0 : 1
}

/** Leaves files that verify without the node, and shows that they do by the command that anybody would use. */
async function leaveBehind(
  { url, trust }: RunningNode,
  jws: string,
  receipt: Receipt | undefined,
): Promise<boolean> {
  if (receipt === undefined) return false
  const names = await exportReceipts(url, RECEIPTS_DIR)
  const file = (name: string): string => join(RECEIPTS_DIR, `demo.${name}`)
  await writeFile(file('event.jws'), jws)
  await writeFile(file('receipt.json'), `${JSON.stringify(receipt, null, 2)}\n`)
  await writeFile(file('trust.json'), `${JSON.stringify(trust, null, 2)}\n`)
  console.log(`files      ${names.length} anchor receipts in ${RECEIPTS_DIR}`)
  const args = ['verify', file('receipt.json'), file('event.jws'), '--trust', file('trust.json')]
  console.log(`\n$ scripts/vaultmesh ${args.join(' ')} --require final`)
  const command = join(ROOT, 'scripts', 'vaultmesh')
  const { status, stdout, stderr } = spawnSync(command, [...args, '--require', 'final'], {
    encoding: 'utf8',
  })
  process.stdout.write(stdout + stderr)
  return status === 0
}

/** Signs and posts everything: a share singly, the rest as one bulk a signer. */
async function postAll(url: string): Promise<Posted[]> {
  const events: Posted[] = []
  const count = EVENTS / (ALGS.length * SIGNERS_PER_ALG)
  for (const alg of ALGS) {
    for (let s = 0; s < SIGNERS_PER_ALG; s++) {
      const signer = await createSigner({
        alg,
        secret: new Uint8Array(randomBytes(32)),
        chainId: 1 + s,
      })
      for (let i = 0; i < count; i++) {
        const jws = await sign(signer, { type: 'vm.demo.event', subject: `item/${i}`, data: { i } })
        events.push({ alg, jws, way: i < SINGLES ? 'single' : 'bulk' })
      }
    }
  }
  await each(
    events.filter((event) => event.way === 'single'),
    async ({ jws }) => post(url, jws),
  )
  const bulk = events.filter((event) => event.way === 'bulk').map((event) => event.jws)
  const part = Math.ceil(bulk.length / 4)
  for (let at = 0; at < bulk.length; at += part) {
    const { results } = await post(url, bulk.slice(at, at + part))
    for (const result of results) if ('problem' in result) throw new Error(result.problem.detail)
  }
  return events
}

/** Waits until the newest leaf is anchored (an anchor covers all before it), then fetches every receipt. */
async function anchoredReceipts(
  { url, host, trust: { rails } }: RunningNode,
  events: readonly Posted[],
): Promise<(Receipt | undefined)[]> {
  const deadline = Date.now() + ANCHOR_TIMEOUT_MS
  const isCovered = async (): Promise<boolean> => {
    const { log } = await getJson<{ log: { treeSize: number } | null }>(`${url}/healthz`)
    if (log === null || log.treeSize < events.length) return false
    const { anchors } = await getJson<{
      anchors: readonly { chain: string; treeSize: number; state: string }[]
    }>(`${url}/anchors/status`)
    return rails.every((rail) =>
      anchors.some((a) => a.chain === rail && a.state === 'final' && a.treeSize >= events.length),
    )
  }
  while (!(await isCovered()) && Date.now() < deadline) {
    await sleep(500)
    // The crons of a minute, each half second: a demo does not wait for the clock.
    await host.tick()
  }
  const receipts = Array.from<Receipt | undefined>({ length: events.length })
  await each([...events.entries()], async ([i, { jws }]) => {
    const text = await getText(`${url}/receipts/${eventHashOf(jws)}`).catch(() => null)
    if (text !== null) receipts[i] = JSON.parse(text) as Receipt
  })
  return receipts
}

/** A few at a time; the first error ends it. */
async function each<T>(items: readonly T[], work: (item: T) => Promise<unknown>): Promise<void> {
  const queue = items.values()
  const worker = async (): Promise<void> => {
    for (const item of queue) await work(item)
  }
  await Promise.all(Array.from({ length: CONCURRENCY }, worker))
}

async function freePort(): Promise<number> {
  const server = createServer()
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready))
  const { port } = server.address() as AddressInfo
  await new Promise((closed) => server.close(closed))
  return port
}

const silent = {
  progress: () => undefined,
  paint: (_: string, text: string) => text,
  stdin: async () => new Uint8Array(0),
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)] ?? 0
}

function spread(values: readonly number[]): string {
  const sorted = [...values].sort((a, b) => a - b)
  return `${sorted[0] ?? 0} / ${median(values)} / ${sorted.at(-1) ?? 0}`
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`
}

function pad(n: number, width: number): string {
  return String(n).padStart(width)
}

if (import.meta.main) demo(process.argv.slice(2)).then((code) => process.exit(code), fail)
