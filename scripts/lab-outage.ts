/**
 * `make lab-outage`: the plan's second gate. Ten consecutive anchors verified with their receipts on disk, then
 * each chain falls out for two hours and comes back.
 *
 * Real parts: bitcoind, anvil and openssl behind proxies that fail as told, and the self-hosted node. The
 * ten anchors run on the node as it is; for the outages its clock alone is exchanged (scripts/lab/clock.ts), so
 * that hours are moments. At the end the chains themselves are read: every root is paid for once, by one
 * confirmed transaction, and nothing else is. Exits 0 only if everything held; all coins are worth nothing.
 */

import { spawnSync } from 'node:child_process'
import { appendFileSync } from 'node:fs'
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import type { Chain } from '#core/anchor-receipt.ts'
import { VaultMeshError } from '#core/errors.ts'
import { bitcoinAddresses, evmAddress } from './anchor-keys.ts'
import { bundleWorker, ROOT } from './build.ts'
import { startDevnet, type Devnet, type Part } from './devnet/devnet.ts'
import { startFaultProxy, type FaultProxy } from './devnet/fault-proxy.ts'
import { portOrFree } from './devnet/port.ts'
import { anchorVars, partsOf } from './devnet/settings.ts'
import { fail } from './fail.ts'
import { SHOW_USAGE } from './usage.ts'
import { mine, receiptsOf } from './lab/node.ts'
import { playOutage, type Outage, type Stage } from './lab/outage.ts'
import { playRounds, type Rounds } from './lab/rounds.ts'
import { Shelf } from './lab/shelf.ts'
import { bitcoinSpends, ethereumSpends, type Spends } from './lab/spends.ts'
import { RECEIPTS_DIR } from './receipt-files.ts'
import { untilStopped } from './listen.ts'
import { startNode, type RunningNode } from './selfhost.ts'

const ROUNDS = 10
type Vars = Record<string, string>

/** What both parts need. */
interface Lab {
  readonly folder: string
  readonly devnet: Devnet
  /** Run at the end, the latest first. */
  readonly undo: (() => Promise<unknown>)[]
  readonly say: (line: string) => void
  /** Ends it before its time. */
  readonly stop: () => void
}

async function labOutage(args: readonly string[]): Promise<number> {
  if (args.includes('--help') || args.includes('-h')) {
    console.log(`usage: make lab-outage ARGS="…"   ${SHOW_USAGE}`)
    return 0
  }
  const { values } = parseArgs({
    args: [...args],
    options: {
      keep: { type: 'boolean', default: false },
      without: { type: 'string', multiple: true },
    },
  })
  const say = (line: string): void => console.log(line)
  const facts = await outageLab({ without: partsOf(values.without ?? []), keep: values.keep, say })
  for (const { line } of facts.absent) console.error(line)
  if (facts.absent.length > 0) {
    const parts = facts.absent.map(({ part }) => part).join(',')
    console.error(`vaultmesh: to run all the same: make lab-outage ARGS="--without ${parts}"`)
    return 1
  }
  if (facts.isStopped) return 1
  return verdict(facts)
}

/** What came of the lab. */
export interface OutageFacts {
  /** Parts that are wanted and not here: then nothing was played. */
  readonly absent: Devnet['absent']
  /** Consecutive anchors played, and receipt files kept of them. */
  readonly rounds: number
  readonly kept: number
  /** Outages endured. */
  readonly endured: number
  /** What did not hold, one sentence each. */
  readonly wrong: readonly string[]
  readonly seconds: number
  /** A signal ended it. */
  readonly isStopped: boolean
}

/** Plays gate 2; `say` takes its story line by line. */
export async function outageLab({
  without = new Set(),
  keep = false,
  say,
}: {
  readonly without?: ReadonlySet<Part>
  readonly keep?: boolean
  readonly say: (line: string) => void
}): Promise<OutageFacts> {
  const begun = performance.now()
  const nothing = { absent: [], rounds: ROUNDS, kept: 0, endured: 0, wrong: [], isStopped: false }
  const after = (found: Partial<OutageFacts>): OutageFacts => {
    return { ...nothing, ...found, seconds: (performance.now() - begun) / 1000 }
  }
  const folder = await mkdtemp(join(tmpdir(), 'vm-lab-'))
  const identity = process.env['VAULTMESH_AGE_KEY_FILE']
  process.env['VAULTMESH_AGE_KEY_FILE'] = join(folder, 'age', 'keys.txt')
  const undo: (() => Promise<unknown>)[] = []
  try {
    const devnet = await startDevnet({ dir: join(folder, 'devnet'), without, say })
    undo.push(() => devnet.stop())
    if (devnet.absent.length > 0) return after({ absent: devnet.absent })
    const { promise, resolve } = Promise.withResolvers<Partial<OutageFacts>>()
    const stop = (): void => resolve({ isStopped: true })
    return after(await Promise.race([promise, play({ folder, devnet, undo, say, stop })]))
  } finally {
    for (const step of undo.toReversed()) await step()
    if (identity === undefined) delete process.env['VAULTMESH_AGE_KEY_FILE']
    else process.env['VAULTMESH_AGE_KEY_FILE'] = identity
    if (keep) say(`kept in ${folder}`)
    else await rm(folder, { recursive: true, force: true })
  }
}

async function play(lab: Lab): Promise<Partial<OutageFacts>> {
  const wrong: string[] = []
  let kept = 0
  let endured = 0
  try {
    const ten = await anchors(lab)
    kept = ten.files.length
    wrong.push(...ten.wrong)
    const outages = await outagesOf(lab)
    endured = outages.count
    wrong.push(...outages.wrong)
  } catch (error) {
    // What never came about did not hold either.
    if (!(error instanceof VaultMeshError)) throw error
    wrong.push(error.message)
  }
  return { kept, endured, wrong }
}

function verdict({ rounds, kept, endured, wrong, seconds }: OutageFacts): number {
  const took = `${seconds.toFixed(0)} s`
  for (const sentence of wrong) console.error(`✗ ${sentence}`)
  console.log(
    wrong.length === 0
      ? `\n✓ ${rounds} consecutive anchors verified, ${kept} receipts kept; ${endured} outages kept the schedule and no root was paid for twice (${took})`
      : `\n✗ FAILED: ${wrong.length} of what was promised did not hold (${took})`,
  )
  return wrong.length === 0 ? 0 : 1
}

/** Ten rounds on the node as everybody runs it. */
async function anchors(lab: Lab): Promise<Rounds> {
  const { folder, devnet, say } = lab
  const vars = await varsOf(lab, 'rounds')
  const node = await nodeIn(lab, 'a', {
    ...vars,
    ORIGIN: 'lab.vaultmesh.local/log',
    SEAL_BATCH_MAX_INTERVAL_MS: '100',
    ANCHOR_BTC_INTERVAL_MS: '100',
    ANCHOR_EVM_INTERVAL_MS: '100',
    ANCHOR_TSA_INTERVAL_MS: '100',
  })
  say(`Ten consecutive anchors on ${node.trust.rails.join(', ')} (dev networks)\n`)
  const trustFile = join(folder, 'rounds.trust.json')
  const shelf = new Shelf(join(folder, 'rounds.receipts'), trustFile, node.trust)
  const rounds = await playRounds(node, {
    devnet,
    count: ROUNDS,
    shelf,
    keep: RECEIPTS_DIR,
    say,
  })
  await node.stop()
  const paid = await audit(lab, vars, rounds.roots)
  const file = join(RECEIPTS_DIR, 'lab.trust.json')
  await writeFile(file, `${JSON.stringify(node.trust, null, 2)}\n`)
  const isShown = show(rounds.roots.at(-1)!, file, say)
  const wrong = [...rounds.wrong, ...paid]
  if (!isShown) wrong.push('verify-anchor does not confirm the newest root')
  return { ...rounds, wrong }
}

/** Each chain falls out in turn, while the others go on. */
async function outagesOf(
  lab: Lab,
): Promise<{ readonly count: number; readonly wrong: readonly string[] }> {
  const { folder, devnet, undo, say } = lab
  const real = await varsOf(lab, 'outages')
  const proxies = new Map<Chain, FaultProxy>()
  const vars = { ...real }
  for (const [chain, name] of [
    ['BTC', 'BTC_URLS'],
    ['EVM', 'EVM_URLS'],
    ['TSA', 'TSA_URLS'],
  ] as const) {
    const url = real[name]
    if (url === undefined) continue
    const proxy = await startFaultProxy({ target: url.replace(/^core\+/, '') })
    undo.push(() => proxy.stop())
    proxies.set(chain, proxy)
    vars[name] = chain === 'BTC' ? `core+${proxy.url}` : proxy.url
  }
  const node = await nodeIn(
    lab,
    'b',
    { ...vars, ORIGIN: 'outage.vaultmesh.local/log', SEAL_BATCH_MAX_INTERVAL_MS: '1000' },
    await bundleWorker('scripts/lab/worker.ts', ['scripts/lab/clock.ts']),
  )
  say('\nOutages, times of a clock that jumps: hours:minutes:seconds since the root was sealed')
  const stage: Stage = { node, devnet, treeSize: 0, say }
  const roots: string[] = []
  const wrong: string[] = []
  const plan = planOf(proxies, paidIn(devnet, vars))
  for (const outage of plan) {
    const { root, wrong: broken } = await playOutage(stage, outage)
    roots.push(root)
    wrong.push(...broken)
  }
  const shelf = new Shelf(join(folder, 'receipts'), join(folder, 'trust.json'), node.trust)
  await shelf.fill(node.url)
  const receipts = await receiptsOf(node.url)
  await node.stop()
  for (const root of roots) {
    for (const { chain, isOk, detail } of await shelf.verify(root)) {
      if (!isOk) wrong.push(`${root}: ${chain}: ${detail}`)
      const count = receipts.filter((r) => r.receipt.root === root && r.receipt.chain === chain)
      if (count.length !== 1) wrong.push(`${root} has ${count.length} receipts of ${chain}`)
    }
  }
  wrong.push(...(await audit(lab, vars, roots)))
  return { count: plan.length, wrong }
}

/** Every way to fall out that is told apart: before anything is signed, and with the reply to a broadcast. */
function planOf(
  proxies: ReadonlyMap<Chain, FaultProxy>,
  spends: Readonly<Partial<Record<Chain, () => Promise<Spends>>>>,
): readonly Outage[] {
  const list: Outage[] = []
  for (const [chain, proxy] of proxies) {
    const read = spends[chain]
    if (read === undefined) {
      const title = 'the token is issued, the reply is lost, then out'
      list.push({ chain, title, proxy, loses: 'lose-reply' })
      continue
    }
    const paid = async (root: string): Promise<number> => (await read()).get(root)?.length ?? 0
    const broadcast = chain === 'BTC' ? 'sendrawtransaction' : 'eth_sendRawTransaction'
    list.push({ chain, title: 'out before anything is signed', proxy, paid })
    const title = 'the transaction is taken, the reply is lost, then out; it confirms unseen'
    list.push({ chain, title, proxy, paid, loses: `lose-reply:${broadcast}` })
  }
  return list
}

/** How to read what the keys in `vars` paid for, of each chain that is there. */
function paidIn(
  { btc, evm }: Devnet,
  vars: Vars,
): Readonly<Partial<Record<Chain, () => Promise<Spends>>>> {
  const { BTC_PRIVATE_KEY: btcKey = '', EVM_PRIVATE_KEY: evmKey = '' } = vars
  return {
    ...(btc === null
      ? {}
      : { BTC: () => bitcoinSpends(btc, bitcoinAddresses(btcKey, 'regtest').p2wpkh) }),
    ...(evm === null ? {} : { EVM: () => ethereumSpends(evm, evmAddress(evmKey)) }),
  }
}

/** Reads both chains whole: each root is in one transaction of ours, and there are no others. */
async function audit(
  { devnet, say }: Lab,
  vars: Vars,
  roots: readonly string[],
): Promise<readonly string[]> {
  const wrong: string[] = []
  say('')
  // What still waits in a pool is paid for too, one block later.
  await mine(devnet)
  for (const [chain, read] of Object.entries(paidIn(devnet, vars))) {
    const spends = await read()
    for (const root of roots) {
      const count = spends.get(root)?.length ?? 0
      if (count !== 1) wrong.push(`${chain}: ${count} confirmed transactions hold ${root}`)
    }
    const all = [...spends.values()].flat().length
    if (all !== roots.length) wrong.push(`${chain}: ${all} transactions, ${roots.length} roots`)
    say(`on the ${chain} chain itself: ${roots.length} roots, ${all} transactions of ours`)
  }
  return wrong
}

/** Shows the command that anybody would use, on files alone: the node is stopped. */
function show(root: string, trustFile: string, say: (line: string) => void): boolean {
  const args = ['--root', root, '--trust', trustFile]
  say(`\n$ scripts/verify-anchor.sh ${args.join(' ')}`)
  const { status, stdout, stderr } = spawnSync(join(ROOT, 'scripts', 'verify-anchor.sh'), args, {
    encoding: 'utf8',
  })
  for (const line of (stdout + stderr).trimEnd().split('\n')) say(line)
  return status === 0
}

/** Settings with keys of their own, funded: each node's spends are told apart on the chains. */
async function varsOf({ folder, devnet }: Lab, name: string): Promise<Vars> {
  const dir = join(folder, name)
  await mkdir(dir, { mode: 0o700 })
  return anchorVars(devnet, dir)
}

async function nodeIn(
  { folder, undo, stop }: Lab,
  name: string,
  vars: Vars,
  script?: string,
): Promise<RunningNode> {
  const node = await startNode({
    home: join(folder, name),
    port: await portOrFree(0),
    cron: false,
    vars,
    ...(script === undefined ? {} : { script }),
    // Outages are loud; --keep keeps what the node says of them.
    log: (line) => appendFileSync(join(folder, 'node.log'), `${line}\n`),
  })
  undo.push(() => node.stop())
  // Each runtime brings handlers of its own, which would end this process without an orderly stop.
  void untilStopped().then(stop)
  return node
}

if (import.meta.main) labOutage(process.argv.slice(2)).then((code) => process.exit(code), fail)
