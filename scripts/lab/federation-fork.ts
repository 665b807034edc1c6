/**
 * The forced conflict: one log, two machines with its keys, two rival batches at one height, one final on Bitcoin, the
 * other on the EVM chain and by timestamp, each shown to another peer. Then all meet, and the law decides.
 *
 * A is copied while it is stopped. Each of the two hears only the peer that the other one does not, so neither can
 * learn that the log has grown elsewhere. Their wallets are different: a copied wallet is another story.
 */

import { setTimeout as sleep } from 'node:timers/promises'
import type { AnchorReceipt, Chain } from '#core/anchor-receipt.ts'
import { verifyCheckpoint } from '#core/checkpoint.ts'
import type { Receipt } from '#core/receipt.ts'
import { parseVkey } from '#core/signed-note.ts'
import type { ConflictView } from '#store/federation-api.ts'
import {
  alertOf,
  conflictsOf,
  federate,
  headOf,
  RAILS,
  sayTips,
  short,
  timed,
  tipOf,
  untilAlike,
  type Lab,
} from './federation-lab.ts'
import type { LabNode } from './federation-node.ts'
import { sealed, sealedTogether } from './federation-steps.ts'
import { jobsOf, mine, until } from './node.ts'

type Vars = Readonly<Record<string, string>>

/** One of the two histories. */
interface Branch {
  readonly height: number
  /** 64 hex digits. */
  readonly root: string
  /** Hashes of the events that are in it alone. */
  readonly events: readonly string[]
  readonly receipts: readonly AnchorReceipt[]
}

/** Plays it, to the end: A goes on in the log after the forked one. */
export async function fork(
  lab: Lab,
  { vars, copyVars }: { readonly vars: Vars; readonly copyVars: Vars },
): Promise<void> {
  const { a, b, c, report } = lab
  const { origin } = a.names
  report.step('two histories of one log, shown to different peers')
  await finalJobs(lab, a, 'its anchors so far')
  // A node starts under the list it had last; one that heard the other history would catch up, not fork.
  await federate([[a, []]])
  await a.stop()
  const copy = await a.copy('A′')
  lab.undo.push(() => copy.end())
  report.say(
    'A is stopped and copied to another machine: A′ has the log, the keys and the name of A',
  )

  await federate([
    [a, [b]],
    [b, [a]],
    [c, [copy]],
    [copy, [c]],
  ])
  await a.start({ ...vars, RAILS: 'BTC' })
  const onBitcoin = await grow(lab, a, { count: 1, chains: ['BTC'] })
  await known(b, origin, onBitcoin)
  await a.stop()
  sayBranch(lab, 'A, heard by B alone', onBitcoin)

  await copy.start({ ...copyVars, RAILS: 'EVM,TSA' })
  const elsewhere = await grow(lab, copy, { count: 2, chains: ['EVM', 'TSA'] })
  await known(c, origin, elsewhere)
  await copy.stop()
  sayBranch(lab, 'A′, heard by C alone', elsewhere)

  const before = await Promise.all([b, c].map(async (node) => (await tipOf(node, origin))!.root))
  report.say(`B stands on ${short(before[0]!)}, C on ${short(before[1]!)}`)
  report.check(
    onBitcoin.height === elsewhere.height && before[0] !== before[1],
    `one key signed two roots at height ${onBitcoin.height}, both final, and no node knows both`,
  )
  await decide(lab, { vars, onBitcoin, elsewhere })
  await succeed(lab, elsewhere)
}

/** Adds one batch to a node's log and has it anchored until it is final. */
async function grow(
  lab: Lab,
  node: LabNode,
  { count, chains }: { readonly count: number; readonly chains: readonly Chain[] },
): Promise<Branch> {
  const subjects = Array.from({ length: count }, (_, i) => `${node.name} alone, ${i + 1}`)
  const { height, events } = await sealedTogether(node, subjects)
  for (const chain of chains) await node.admin(`/admin/anchor?chain=${chain}`)
  await finalJobs(lab, node, `the anchors of ${node.name}`)
  const { root } = await node.get<{ root: string }>(`/remembrancer/roots/${height}`)
  const hex = root.slice('sha256:'.length)
  const receipts = await Promise.all(
    chains.map(async (chain) => (await proofsOf(node, node.names.origin, chain, hex))[0]!),
  )
  return { height, root: hex, events, receipts }
}

/** Lets blocks and crons come until no anchor of a node is under way. */
async function finalJobs({ devnet }: Lab, node: LabNode, what: string): Promise<void> {
  await until(`${what} to be final`, async () => {
    // Not faster: a chain's clock runs ahead of the world's when blocks come as fast as they can.
    await mine(devnet)
    await sleep(100)
    await node.tick()
    const jobs = await jobsOf(node.url)
    return jobs.length > 0 && jobs.every(({ state }) => state === 'final') ? jobs : null
  })
}

async function proofsOf(
  node: LabNode,
  origin: string,
  chain: Chain,
  root: string,
): Promise<readonly AnchorReceipt[]> {
  const path = `/remembrancer/proofs/${chain}?origin=${encodeURIComponent(origin)}`
  const answer = await node.ask<{ receipts: readonly AnchorReceipt[] }>(path)
  return answer?.receipts.filter((receipt) => receipt.root === `0x${root}`) ?? []
}

/** Waits until a peer stands on a branch and has its proofs. */
async function known(peer: LabNode, origin: string, { root, receipts }: Branch): Promise<void> {
  await until(`${peer.name} to have a history of ${origin} and its proofs`, async () => {
    const tip = await tipOf(peer, origin)
    const found = await Promise.all(
      receipts.map(({ chain }) => proofsOf(peer, origin, chain, root)),
    )
    return tip?.root === `sha256:${root}` && found.every(({ length }) => length > 0) ? tip : null
  })
}

function sayBranch({ report }: Lab, who: string, { height, root, receipts }: Branch): void {
  report.say(`${who}: height ${height} is ${short(root)}`)
  for (const { chain, network, txHash, blockNumber, anchorTs } of receipts) {
    const place = blockNumber === null ? anchorTs : `block ${blockNumber}, ${anchorTs}`
    report.say(`  final on ${chain} ${network}: ${short(txHash)}, ${place}`)
  }
}

/** All meet; each recomputes both histories, asks its own providers and follows the law. */
async function decide(
  lab: Lab,
  { vars, onBitcoin, elsewhere }: { vars: Vars; onBitcoin: Branch; elsewhere: Branch },
): Promise<void> {
  const { a, b, c, report } = lab
  const { origin } = a.names
  const nodes = [a, b, c]
  report.step('all meet: each node applies the law for itself')
  await federate([
    [a, [b, c]],
    [b, [a, c]],
    [c, [a, b]],
  ])
  const [verdicts, took] = await timed(async () => {
    await a.start({ ...vars, RAILS: RAILS.join() })
    return until('every node to decide the conflict', async () => {
      const all = await Promise.all(nodes.map((node) => verdictOf(node, origin)))
      return all.every((verdict) => verdict !== null && isSettled(verdict)) ? all : null
    })
  })
  const reasonings = new Map<string, string[]>()
  for (const [i, { name }] of nodes.entries()) {
    const lines = verdicts[i]!.lines.join('\n')
    reasonings.set(lines, [...(reasonings.get(lines) ?? []), name])
  }
  for (const [lines, names] of reasonings) {
    report.say(`GET /federation/conflicts of ${names.join(', ')}:`)
    for (const line of lines.split('\n')) report.say(`  ${line}`)
  }
  report.check(
    reasonings.size === 1,
    `three nodes, one reasoning, ${took} after A was started again`,
  )
  report.check(
    verdicts.every((verdict) => verdict!.winner === onBitcoin.root),
    `the history that is final on Bitcoin is canonical on all: ${short(onBitcoin.root)}`,
  )
  const tips = await untilAlike(nodes, 'after the conflict')
  sayTips(lab, tips)
  const moved = tips.find((tip) => tip.origin === origin)!
  report.check(
    moved.root === `sha256:${onBitcoin.root}`,
    `C moved from ${short(elsewhere.root)} to ${short(onBitcoin.root)}`,
  )
  const log = parseVkey(a.names.vkey)
  for (const node of nodes) {
    await until(`the alert of ${node.name}`, () => alertOf(node, 'fork', origin))
    const { candidates } = await until(`the evidence of ${node.name}`, () =>
      verdictOf(node, origin),
    )
    for (const { checkpoint } of candidates) await verifyCheckpoint(checkpoint, { log })
  }
  report.check(true, 'A, B and C have an open alert, and both roots under the signature of the log')
}

async function verdictOf(node: LabNode, origin: string): Promise<ConflictView | null> {
  const view = await conflictsOf(node)
  return view?.conflicts.find((conflict) => conflict.origin === origin) ?? null
}

/** Decided, with every proof of both sides confirmed: more proofs would change nothing. */
function isSettled({ winner, candidates }: ConflictView): boolean {
  const chains = candidates.flatMap(({ proofs }) => proofs.map(({ chain }) => chain))
  return winner !== null && RAILS.every((chain) => chains.includes(chain))
}

/** What a node does whose own log has forked: it ends it, and goes on in the next one. */
async function succeed({ a, report }: Lab, lost: Branch): Promise<void> {
  const { origin } = a.names
  const now = await until('A to open the successor of its log', async () => {
    // It starts anew for this, so it may not answer for a moment.
    const said = await a.ask<{ origin: string; previous: readonly { origin: string }[] }>(
      '/.well-known/vaultmesh.json',
    )
    return said?.previous.some((log) => log.origin === origin) === true ? said : null
  })
  const height = await sealed(a, 'after the fork')
  const head = await headOf(a)
  report.check(
    head?.origin === now.origin && now.origin !== origin,
    `A found its own log forked, ended it and seals in ${now.origin}, now at height ${height}`,
  )
  for (const event of lost.events) {
    await until(`${event} to be sealed again`, async () => {
      const receipt = await a.ask<Receipt>(`/receipts/${event}`)
      return receipt?.origin === now.origin ? receipt : null
    })
  }
  report.check(
    lost.events.length > 0,
    `the ${lost.events.length} events that only the other history had are sealed again there`,
  )
}
