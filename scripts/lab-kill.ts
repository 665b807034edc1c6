/**
 * `make lab-kill`: a self-hosted node is killed with SIGKILL, runtime and all, at random moments of a busy day, again
 * and again, while it anchors in real chains and a peer mirrors and cosigns its log.
 *
 *   node scripts/lab-kill.ts [--kills 200] [--seed N] [--keep]
 *
 * Some deaths come while it still starts, some leave its runtime alive, and the peer dies now and then, too. At the end
 * nothing that was answered 2xx may be missing, nothing may be in the log twice, no root paid twice, by the chains
 * themselves; the peer must stand on the same tip and fsck be clean on both. Exits 0 only then.
 */

import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { VaultMeshError } from '#core/errors.ts'
import { askAdmin } from './admin-socket.ts'
import { bitcoinAddresses, evmAddress } from './anchor-keys.ts'
import { bundleWorker } from './build.ts'
import { getJson } from './cli/remote.ts'
import { ELSEWHERE } from './devnet/bitcoind.ts'
import { startDevnet, type Devnet } from './devnet/devnet.ts'
import { portOrFree } from './devnet/port.ts'
import { fail } from './fail.ts'
import { namesIn } from './federation.ts'
import { homeAt } from './home.ts'
import { vaultmesh } from './lab/command.ts'
import {
  checked,
  entriesOf,
  judgeLog,
  judgeSpends,
  receiptedBy,
  statedBy,
  tipAt,
  type Paid,
} from './lab/kill-judge.ts'
import { Load } from './lab/kill-load.ts'
import { Victim } from './lab/kill-node.ts'
import { jobsOf, receiptsOf } from './lab/node.ts'
import { bitcoinSpends, ethereumSpends } from './lab/spends.ts'
import { untilStopped } from './listen.ts'
import { encryptEnv, findSops } from './sops-binary.ts'
import { loadSecrets } from './sops.ts'
import { KILL_USAGE } from './usage.ts'

const KILLS = 200
/** Clients that post at once. */
const CLIENTS = 2
/** A life lasts so long after its start. */
const LIFE_MS = { least: 50, most: 1600 } as const
/** Of all deaths: while it starts; without its runtime; and those of the peer beside them. */
const SHARES = { starting: 0.12, orphan: 0.1, peer: 0.07 } as const
/** Leases of what was under way at the last death are over within two minutes, and the cron comes each minute. */
const SETTLE_MS = 300_000
const ORIGINS = { a: 'victim.lab.vaultmesh.local/log', b: 'peer.lab.vaultmesh.local/log' } as const
const SATS = 1e8
const WEI = 1e18

/** How to run it. */
export interface KillOptions {
  readonly kills: number
  readonly seed: number
  readonly say: (line: string) => void
  /** Keeps the folder. */
  readonly keep?: boolean
  /** Rejects when it is to end before its time: then all it started is ended, too. */
  readonly stopped?: Promise<never>
}

/** What came of it. */
export interface KillFacts {
  readonly kills: number
  readonly seed: number
  /** Deaths by kind; those of the peer are not among `kills`. */
  readonly deaths: { readonly starting: number; readonly orphan: number; readonly peer: number }
  /** Of starts that served, in ms. */
  readonly restarts: { readonly p50: number; readonly p95: number; readonly most: number }
  readonly accepted: number
  /** Events that were asked again, because no answer had come. */
  readonly repeated: number
  readonly missing: number
  readonly twice: number
  /** Leaves of the log, and those that the node itself posted. */
  readonly leaves: number
  readonly own: number
  readonly batches: number
  readonly paid: readonly Paid[]
  /** Final receipts. */
  readonly receipts: number
  /** What did not hold, one sentence each. */
  readonly wrong: readonly string[]
}

/** Plays it. Throws `bad-config` if a part is not here. */
export async function labKill(options: KillOptions): Promise<KillFacts> {
  const folder = await mkdtemp(join(tmpdir(), 'vm-kill-'))
  const identity = process.env['VAULTMESH_AGE_KEY_FILE']
  process.env['VAULTMESH_AGE_KEY_FILE'] = join(folder, 'age', 'keys.txt')
  const undo: (() => Promise<unknown>)[] = []
  try {
    const playing = stage(folder, options, undo).then((lab) => play(lab, options))
    return await Promise.race([playing, options.stopped ?? playing])
  } finally {
    for (const step of undo.toReversed()) await step()
    if (identity === undefined) delete process.env['VAULTMESH_AGE_KEY_FILE']
    else process.env['VAULTMESH_AGE_KEY_FILE'] = identity
    if (options.keep === true) options.say(`kept in ${folder}`)
    else await rm(folder, { recursive: true, force: true })
  }
}

interface Stage {
  readonly devnet: Devnet
  readonly node: Victim
  readonly peer: Victim
  readonly load: Load
  readonly random: () => number
  readonly addresses: { readonly btc: string; readonly evm: string }
}

/** The chains, the two nodes (not started) and the clients. */
async function stage(
  folder: string,
  { seed, say }: KillOptions,
  undo: (() => Promise<unknown>)[],
): Promise<Stage> {
  // Six confirmations in two seconds, so that anchors end between deaths.
  const devnet = await startDevnet({ dir: join(folder, 'devnet'), mineEveryMs: 300, say })
  undo.push(() => devnet.stop())
  const { btc, evm, tsa, absent } = devnet
  if (btc === null || evm === null || tsa === null) {
    throw new VaultMeshError('bad-config', absent.map(({ line }) => line).join(' '))
  }
  // Not `secrets`, where a node looks unasked: two that sign with one key are two that spend one another's coins.
  const dir = join(folder, 'keys')
  const made = await vaultmesh(['secrets', 'init', '--dir', dir])
  if (made.code !== 0) throw new VaultMeshError('bad-config', made.said)
  const urls = `BTC_URLS=core+${btc.url}\nEVM_URLS=${evm.url}\n`
  const file = await encryptEnv((await findSops())!, { dir, name: 'urls.env', text: urls })
  await writeFile(join(dir, 'urls.env'), file, { mode: 0o600 })
  const keys = await loadSecrets(dir)
  const addresses = {
    btc: bitcoinAddresses(keys['BTC_PRIVATE_KEY']!, 'regtest').p2wpkh,
    evm: evmAddress(keys['EVM_PRIVATE_KEY']!),
  }
  await devnet.fund({ btcAddress: addresses.btc, evmAddress: addresses.evm })
  await btc.mine(6, ELSEWHERE)
  const roots = join(folder, 'tsa.pem')
  await writeFile(roots, tsa.rootPem)
  const worker = join(folder, 'worker.js')
  await writeFile(worker, await bundleWorker())

  // Both: the roots of authorities belong to the law of a federation.
  const stamps = ['--tsa', tsa.url, '--tsa-roots', roots]
  const victims = {
    a: await victimIn(folder, 'a', { worker, args: ['--secrets', dir, ...stamps] }),
    b: await victimIn(folder, 'b', { worker, args: stamps }),
  }
  await federate(folder, victims)
  for (const node of Object.values(victims)) undo.push(() => node.end())
  const random = mulberry32(seed)
  const load = await Load.create(victims.a.url, mulberry32(seed + 1))
  return { devnet, node: victims.a, peer: victims.b, load, random, addresses }
}

async function victimIn(
  folder: string,
  name: 'a' | 'b',
  { worker, args }: { readonly worker: string; readonly args: readonly string[] },
): Promise<Victim> {
  return new Victim({
    name,
    home: join(folder, name),
    port: await portOrFree(0),
    worker,
    args: [
      ...args,
      '--federation',
      yamlIn(folder, name),
      '--receipts',
      join(folder, `receipts-${name}`),
    ],
    env: {
      ORIGIN: ORIGINS[name],
      NODE_ID: name === 'a' ? 'victim' : 'peer',
      BTC_NETWORK: 'regtest',
      EVM_CHAIN_ID: '31337',
      RATE_LIMIT_DID: '0',
      RATE_LIMIT_IP: '0',
      SEAL_BATCH_MAX_ITEMS: '300',
      SEAL_BATCH_MAX_INTERVAL_MS: '400',
      SEAL_EAGER_MS: '50',
      ANCHOR_TSA_INTERVAL_MS: '1000',
      ANCHOR_EVM_INTERVAL_MS: '2000',
      ANCHOR_BTC_INTERVAL_MS: '2000',
      GUARDIAN_INTERVAL_MS: '1000',
    },
  })
}

function yamlIn(folder: string, name: string): string {
  return join(folder, `${name}.federation.yaml`)
}

/** Each lists the other. */
async function federate(folder: string, { a, b }: Record<'a' | 'b', Victim>): Promise<void> {
  const names = {
    a: await namesIn(homeAt(a.home.path), ORIGINS.a),
    b: await namesIn(homeAt(b.home.path), ORIGINS.b),
  }
  for (const [name, other, { url }] of [
    ['a', 'b', b],
    ['b', 'a', a],
  ] as const) {
    const yaml = `node_id: '${name}'
node_did: '${names[name].did}'
gossip:
  interval_ms: 500
  max_peers: 16
peers_allowlist:
  - did: '${names[other].did}'
    url: '${url}'
conflict_policy:
  order: ['BTC', 'EVM', 'TSA']
  tie_breakers: ['earliest_anchor_ts', 'lowest_tx_hash']
  quarantine_minutes: 15
remembrancer:
  url: '${url}'
  timeout_ms: 3000
`
    await mkdir(folder, { recursive: true })
    await writeFile(yamlIn(folder, name), yaml)
  }
}

async function play(lab: Stage, { kills, seed, say }: KillOptions): Promise<KillFacts> {
  const { node, peer, load } = lab
  say(
    `Killing a node ${kills} times (seed ${seed}), with a peer, bitcoind, anvil and openssl beside it\n`,
  )
  const posting = new AbortController()
  const clients = Array.from({ length: CLIENTS }, () => load.run(posting.signal))
  let died: Awaited<ReturnType<typeof killing>>
  try {
    await peer.start()
    died = await killing(lab, kills, say)
  } finally {
    posting.abort()
    await Promise.all(clients)
  }
  const last = await node.start()
  if (last !== null) died.starts.push(last)
  await peer.start()
  const wrong = [...died.wrong]
  const settled = performance.now()
  const hold = await settle(lab, say).catch((error: unknown) => {
    wrong.push(error instanceof Error ? error.message : String(error))
    return null
  })
  say(`settled in ${seconds(performance.now() - settled)}`)
  const judged = await judge(lab, hold)
  for (const victim of [node, peer]) {
    if (!(await victim.stop())) wrong.push(`${victim.name} did not stop in order`)
  }
  wrong.push(...judged.wrong, ...load.wrong.slice(0, 10))
  const { starts, deaths } = died
  const restarts = {
    p50: quantile(starts, 0.5),
    p95: quantile(starts, 0.95),
    most: quantile(starts, 1),
  }
  const { accepted, repeated } = load
  return {
    ...judged,
    kills,
    seed,
    deaths,
    restarts,
    accepted: accepted.size,
    repeated: repeated.size,
    wrong,
  }
}

/** Kills the node so many times; it is dead when this resolves. */
async function killing(
  { node, peer, random, load }: Stage,
  kills: number,
  say: (line: string) => void,
) {
  const deaths = { starting: 0, orphan: 0, peer: 0 }
  const starts: number[] = []
  const wrong: string[] = []
  let isPeerUp: Promise<unknown> = Promise.resolve()
  const begun = performance.now()
  for (let kill = 1; kill <= kills; kill++) {
    const starting = node.start()
    const isEarly = random() < SHARES.starting && starts.length > 0
    if (isEarly) {
      deaths.starting++
      starting.catch(() => undefined)
      await Promise.race([starting, sleep(random() * quantile(starts, 0.5))])
    } else {
      const took = await starting
      if (took !== null) starts.push(took)
      await sleep(LIFE_MS.least + random() * (LIFE_MS.most - LIFE_MS.least))
    }
    const isOrphaned = !isEarly && random() < SHARES.orphan
    if (isOrphaned) deaths.orphan++
    await node.kill(isOrphaned ? 'parent' : 'all')
    if (random() < SHARES.peer) {
      await isPeerUp
      deaths.peer++
      await peer.kill('all')
      isPeerUp = peer.start().catch((error: unknown) => {
        wrong.push(error instanceof Error ? error.message : String(error))
      })
    }
    if (kill % 10 === 0 || kill === kills) {
      const { size } = load.accepted
      say(
        `${String(kill).padStart(4)} kills  ${size} accepted, a start takes ${seconds(quantile(starts, 0.5))}  [${seconds(performance.now() - begun)}]`,
      )
    }
  }
  await isPeerUp
  await peer.kill('all')
  return { deaths, starts, wrong }
}

interface Hold {
  readonly size: number
  readonly root: string
}

/** Until nothing waits any more: every event sealed, every anchor at its end, the peer on the same tip, cosigned. */
async function settle({ node, peer, load }: Stage, say: (line: string) => void): Promise<Hold> {
  const deadline = performance.now() + SETTLE_MS
  let waits = ''
  for (;;) {
    const now = await waitsFor({ node, peer, load }).catch((error: unknown) => String(error))
    if (typeof now !== 'string') return now
    if (now !== waits) say(`  waits for ${now}`)
    waits = now
    if (performance.now() > deadline) {
      throw new VaultMeshError(
        'bad-state',
        `After ${SETTLE_MS / 60_000} minutes it waits for ${now}.`,
      )
    }
    await sleep(250)
  }
}

/** The head on which all has come to rest, or what has not. */
async function waitsFor({
  node,
  peer,
  load,
}: Pick<Stage, 'node' | 'peer' | 'load'>): Promise<Hold | string> {
  if (!(await load.askAgain())) return 'answers to events that were asked again'
  const { body } = await askAdmin(node.home.socket, 'GET', '/admin/fsck')
  const { facts } = JSON.parse(body) as {
    facts: { waiting?: number; received?: number; height: number }
  }
  if (facts.waiting !== 0) return 'seals'
  const jobs = await jobsOf(node.url)
  const open = jobs.filter(({ state }) => state !== 'final' && state !== 'failed')
  if (open.length > 0)
    return `anchors (${[...new Set(open.map((j) => `${j.chain} ${j.state}`))].join(', ')})`
  const stated = await statedBy(node, peer)
  if (load.accepted.size > stated.size) return 'events that were answered and are not checked yet'
  for (const chain of ['BTC', 'EVM', 'TSA']) {
    const isAnchored = jobs.some(
      (job) => job.chain === chain && job.state === 'final' && job.treeSize === stated.size,
    )
    if (!isAnchored) return `the newest root on ${chain}`
  }
  const tip = await tipAt(peer, ORIGINS.a)
  if (tip?.root !== `sha256:${stated.root}`) return 'the peer to stand on the same tip'
  if (stated.cosigners.length !== 1) return 'the peer to cosign it'
  return stated
}

/** Reads what is left, of log, chains, peer and both stores. */
async function judge({ devnet, node, peer, load, addresses }: Stage, hold: Hold | null) {
  const wrong: string[] = []
  const { size, root } = await statedBy(node, peer)
  const entries = await entriesOf(node.url, size)
  const { missing, twice, others } = judgeLog(entries, load)
  if (missing > 0) wrong.push(`${missing} events that were accepted are not in the log`)
  if (twice > 0) wrong.push(`${twice} events are in the log twice`)
  const { node_did: did } = await getJson<{ node_did: string }>(
    `${node.url}/.well-known/vaultmesh.json`,
  )
  for (const hash of others) {
    const jws = await (await fetch(`${node.url}/events/${hash}`)).text()
    const [, payload = ''] = jws.split('.')
    if (!Buffer.from(payload, 'base64url').toString().includes(`"source":"${did}"`))
      wrong.push(`${hash} is in the log and was posted by nobody`)
  }
  if (hold !== null && (size !== hold.size || root !== hold.root))
    wrong.push('the log went on after all had come to rest')
  const receipted = await receiptedBy(node.url)
  const paid = [
    judgeSpends(
      'BTC',
      await bitcoinSpends(devnet.btc!, addresses.btc),
      receipted.get('BTC') ?? new Set(),
    ),
    judgeSpends(
      'EVM',
      await ethereumSpends(devnet.evm!, addresses.evm),
      receipted.get('EVM') ?? new Set(),
    ),
  ]
  wrong.push(...paid.flatMap((found) => found.wrong))
  for (const victim of [node, peer]) {
    const { isClean, said } = await checked(victim)
    if (!isClean) wrong.push(`fsck of ${victim.name}: ${said}`)
  }
  const { log } = await getJson<{ log: { height: number } }>(`${node.url}/healthz`)
  const receipts = (await receiptsOf(node.url)).length
  return {
    missing,
    twice,
    leaves: size,
    own: others.length,
    batches: log.height,
    paid,
    receipts,
    wrong,
  }
}

/** The report, a line a subject. */
export function killReport(facts: KillFacts): readonly string[] {
  const {
    kills,
    seed,
    deaths,
    restarts,
    accepted,
    repeated,
    missing,
    twice,
    leaves,
    own,
    batches,
    paid,
    receipts,
    wrong,
  } = facts
  const money = ({ chain, roots, transactions, fees }: Paid): string =>
    `${chain} ${roots} roots in ${transactions} transactions, ${
      chain === 'BTC'
        ? `${(Number(fees) / SATS).toFixed(8)} BTC`
        : `${(Number(fees) / WEI).toFixed(9)} ETH`
    } in fees`
  return [
    `kills     ${kills} (seed ${seed}): ${deaths.starting} while it started, ${deaths.orphan} that its runtime outlived; the peer died ${deaths.peer} times`,
    `restart   ${seconds(restarts.p50)} (median), ${seconds(restarts.p95)} (p95), ${seconds(restarts.most)} (longest)`,
    `events    ${accepted} accepted, ${repeated} asked again for want of an answer; ${missing} missing, ${twice} twice`,
    `log       ${leaves} leaves in ${batches} batches, ${own} of them the node’s own`,
    `paid      ${paid.map(money).join('; ')}`,
    `receipts  ${receipts}`,
    ...wrong.map((sentence) => `✗ ${sentence}`),
    wrong.length === 0
      ? '✓ nothing lost, nothing twice, nothing paid twice; the peer stands on the same tip, and fsck is clean on both'
      : `✗ FAILED: ${wrong.length} of what was promised did not hold`,
  ]
}

function quantile(values: readonly number[], share: number): number {
  const sorted = [...values].sort((x, y) => x - y)
  return sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] ?? 0
}

function seconds(ms: number): string {
  return `${(ms / 1000).toFixed(1)} s`
}

/** Numbers in [0, 1) that a seed decides (mulberry32). */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

function whole(text: string, option: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text)
  throw new VaultMeshError('bad-config', `${option} ${text} is no whole number.`)
}

async function main(args: readonly string[]): Promise<number> {
  if (args.includes('--help') || args.includes('-h')) {
    console.log(`usage: make lab-kill ARGS="…"   ${KILL_USAGE}`)
    return 0
  }
  const { values } = parseArgs({
    args: [...args],
    options: {
      kills: { type: 'string', default: String(KILLS) },
      seed: { type: 'string', default: String(Math.floor(Math.random() * 1e9)) },
      keep: { type: 'boolean', default: false },
    },
  })
  const stopped = untilStopped().then((signal) => {
    throw new VaultMeshError('bad-state', `Stopped by ${signal}.`)
  })
  const facts = await labKill({
    kills: whole(values.kills, '--kills'),
    seed: whole(values.seed, '--seed'),
    keep: values.keep,
    stopped,
    say: (line) => console.log(line),
  })
  console.log(`\n${killReport(facts).join('\n')}`)
  return facts.wrong.length === 0 ? 0 : 1
}

if (import.meta.main) main(process.argv.slice(2)).then((code) => process.exit(code), fail)
