/**
 * `make lab`: gate 1. Three real nodes, each its own process with its own state and keys, on one devnet of real chains,
 * stand on the same roots whatever happens: a log that forks, a root that is false, a node that was away, a key that
 * changes.
 *
 * Every step is checked, and whatever does not hold makes the exit code 1. Bitcoin, an EVM chain and a timestamp
 * authority must all be there: the conflict needs them.
 */

import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises'
import { existsSync, readFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { bundleWorker } from './build.ts'
import { startDevnet, type Devnet } from './devnet/devnet.ts'
import { anchorVars } from './devnet/settings.ts'
import { fail } from './fail.ts'
import { badRoot } from './lab/federation-bad-root.ts'
import { fork } from './lab/federation-fork.ts'
import type { ConflictsView, PeersView } from '#store/federation-api.ts'
import { RAILS, Report, sayMesh, short, tipsOf, type Lab } from './lab/federation-lab.ts'
import { LabNode } from './lab/federation-node.ts'
import { converge, cosign, cutOff, rotate } from './lab/federation-steps.ts'
import { untilStopped } from './listen.ts'
import { LAB_USAGE } from './usage.ts'

/** Short times; the newest root is anchored once at the start, and when the lab says so. */
const SETTINGS = {
  RATE_LIMIT_DID: '0',
  RATE_LIMIT_IP: '0',
  SEAL_BATCH_MAX_INTERVAL_MS: '300',
  SEAL_EAGER_MS: '50',
  ANCHOR_TSA_INTERVAL_MS: '3600000',
  ANCHOR_BTC_INTERVAL_MS: '3600000',
  ANCHOR_EVM_INTERVAL_MS: '3600000',
} as const
/** Words of a node's log that are shown when the lab fails. */
const LAST_WORDS = 4

async function labFederation(args: readonly string[]): Promise<number> {
  if (args.includes('--help') || args.includes('-h')) {
    console.log(`usage: make lab ARGS="…"   ${LAB_USAGE}`)
    return 0
  }
  const options = { keep: { type: 'boolean', default: false } } as const
  const { values } = parseArgs({ args: [...args], options })
  const say = (line: string): void => console.log(line)
  const facts = await federationLab({ keep: values.keep, say })
  for (const line of facts.absent) console.error(`vaultmesh: ${line}`)
  if (facts.absent.length > 0) {
    console.error('vaultmesh: the conflict of this lab needs Bitcoin, an EVM chain and timestamps.')
    return 1
  }
  return facts.isStopped ? 1 : verdict(facts)
}

/** What came of the lab. */
export interface FederationFacts {
  /** Parts that are not here, one line each: then nothing was played. */
  readonly absent: readonly string[]
  /** What was held to be true, and what of it was not. */
  readonly checks: number
  readonly wrong: readonly string[]
  readonly seconds: number
  /** A signal ended it. */
  readonly isStopped: boolean
}

/** Plays gate 1; `say` takes its story line by line. */
export async function federationLab({
  keep = false,
  say,
}: {
  readonly keep?: boolean
  readonly say: (line: string) => void
}): Promise<FederationFacts> {
  const folder = await mkdtemp(join(tmpdir(), 'vm-mesh-'))
  const identity = process.env['VAULTMESH_AGE_KEY_FILE']
  process.env['VAULTMESH_AGE_KEY_FILE'] = join(folder, 'age', 'keys.txt')
  const undo: (() => Promise<unknown>)[] = []
  const report = new Report(say)
  const facts = (absent: readonly string[]): FederationFacts => {
    const { checks, wrong, seconds, isOver } = report
    return { absent, checks, wrong, seconds, isStopped: isOver }
  }
  try {
    const devnet = await startDevnet({ dir: join(folder, 'devnet'), mineEveryMs: 500, say })
    undo.push(() => devnet.stop())
    if (devnet.absent.length > 0) return facts(devnet.absent.map(({ line }) => line))
    const stopped = async (): Promise<void> => {
      const signal = await untilStopped()
      report.isOver = true
      say(`\nlab: stopped (${signal})`)
    }
    await Promise.race([stopped(), play({ folder, devnet, report, undo })])
    return facts([])
  } finally {
    for (const step of undo.toReversed()) await step()
    if (identity === undefined) delete process.env['VAULTMESH_AGE_KEY_FILE']
    else process.env['VAULTMESH_AGE_KEY_FILE'] = identity
    if (keep) say(`kept in ${folder}`)
    else await rm(folder, { recursive: true, force: true })
  }
}

async function play({
  folder,
  devnet,
  report,
  undo,
}: {
  readonly folder: string
  readonly devnet: Devnet
  readonly report: Report
  readonly undo: (() => Promise<unknown>)[]
}): Promise<void> {
  // One bundle for all and from now on: the sources may change while the lab runs.
  const script = join(folder, 'worker.js')
  await writeFile(script, await bundleWorker())
  const grounds = { folder, script }
  const [a, b, c] = [
    await LabNode.create('A', grounds),
    await LabNode.create('B', grounds),
    await LabNode.create('C', grounds),
  ]
  const nodes = [a, b, c]
  undo.push(() => Promise.all(nodes.map((node) => node.end())))
  const lab: Lab = { grounds, devnet, a, b, c, report, undo }
  const { btc, evm, tsa } = devnet
  report.say(
    `devnet  bitcoind regtest 127.0.0.1:${btc!.port}, anvil ${evm!.url}, openssl ${tsa!.url} (worth nothing)`,
  )
  try {
    const wallets = new Map<string, Record<string, string>>()
    for (const name of ['A', 'B', 'C', 'A′']) wallets.set(name, await walletOf(lab, name))
    await converge(lab, new Map(nodes.map((node) => [node, wallets.get(node.name)!])))
    await cosign(lab)
    await fork(lab, { vars: wallets.get('A')!, copyVars: wallets.get('A′')! })
    await badRoot(lab)
    await cutOff(lab)
    await rotate(lab)
    report.step('the mesh root, asked of all')
    report.check(await sayMesh(lab, nodes), 'the three mesh roots are equal')
  } catch (error) {
    report.check(false, error instanceof Error ? error.message : String(error))
    for (const node of nodes) await sayState(lab, node)
  }
}

/** Settings of a node with a wallet of its own, whose coins can be spent. */
async function walletOf({ devnet, grounds }: Lab, name: string): Promise<Record<string, string>> {
  const dir = join(grounds.folder, `wallet-${name === 'A′' ? 'a-copy' : name.toLowerCase()}`)
  await mkdir(dir, { mode: 0o700 })
  return { ...SETTINGS, ...(await anchorVars(devnet, dir)), RAILS: RAILS.join() }
}

/** What a node knows and last logged, for whoever has to find out why the lab failed. */
async function sayState({ report }: Lab, node: LabNode): Promise<void> {
  const { name, home } = node
  for (const { origin, height, root, state, pending } of await tipsOf(node)) {
    report.say(`${name} ${origin} height ${height} ${short(root)} ${state}, ${pending} pending`)
  }
  const view = await node.ask<PeersView>('/federation/peers')
  for (const { did, state, lag, faults, error } of view?.peers ?? []) {
    report.say(`${name} ${did} ${state}, lag ${lag}, faults ${faults}: ${error ?? 'no error'}`)
  }
  const { conflicts, quarantine } = (await node.ask<ConflictsView>('/federation/conflicts')) ?? {
    conflicts: [],
    quarantine: [],
  }
  for (const line of conflicts.flatMap(({ lines }) => lines)) report.say(`${name} ${line}`)
  for (const { root, reason } of quarantine) report.say(`${name} holds ${short(root)}: ${reason}`)
  const log = existsSync(`${home.path}.log`) ? readFileSync(`${home.path}.log`, 'utf8') : ''
  const words = log.split('\n').filter((line) => line !== '' && !line.startsWith('[mf:info]'))
  for (const line of words.slice(-LAST_WORDS)) report.say(`${name} logged ${line.slice(0, 300)}`)
}

function verdict({ wrong, seconds }: FederationFacts): number {
  const time = `${seconds.toFixed(0)} s`
  if (wrong.length > 0) {
    console.log(`\n✗ lab: ${wrong.length} of its checks failed (${time})`)
    for (const sentence of wrong) console.log(`  ${sentence}`)
    return 1
  }
  const parts = [
    '3 nodes',
    '1 forced conflict decided alike',
    '1 bad root held',
    '1 node cut off and back',
    '1 key rotated',
    '3 equal mesh roots',
  ]
  console.log(`\n✓ lab: ${parts.join(', ')} (${time})`)
  return 0
}

if (import.meta.main) {
  labFederation(process.argv.slice(2)).then((code) => process.exit(code), fail)
}
