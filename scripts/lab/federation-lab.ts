/**
 * What the steps of the federation lab share: who lists whom, what is said, and what it means that nodes agree.
 * Nothing is proved by waiting: each wait asks until something holds, and gives up after a minute in words.
 */

import { writeFileSync } from 'node:fs'
import type { Chain } from '#core/anchor-receipt.ts'
import type { ConflictsView, MeshView, PeersView, TipView } from '#store/federation-api.ts'
import type { Devnet } from '../devnet/devnet.ts'
import type { Grounds, LabNode } from './federation-node.ts'
import { until } from './node.ts'

/** Gossip each half second: a story of a minute then has a hundred rounds. */
const INTERVAL_MS = 500

/** The lab: three nodes on one devnet. */
export interface Lab {
  readonly grounds: Grounds
  readonly devnet: Devnet
  readonly a: LabNode
  readonly b: LabNode
  readonly c: LabNode
  readonly report: Report
  /** Run at the end, the latest first. */
  readonly undo: (() => Promise<unknown>)[]
}

/** What was said, and what did not hold. */
export class Report {
  readonly wrong: string[] = []
  /** What was held to be true, so far. */
  checks = 0
  /** Set when the lab is stopped before its end: what goes wrong from then on is no finding. */
  isOver = false
  readonly #begun = performance.now()
  readonly #out: (line: string) => void
  #steps = 0

  constructor(out: (line: string) => void) {
    this.#out = out
  }

  say(line: string): void {
    this.#print(`   ${line}`)
  }

  step(title: string): void {
    this.#print(`\n${++this.#steps}  ${title}  [${this.seconds.toFixed(0)} s]`)
  }

  /** Says that it holds, or that it does not, which fails the lab. */
  check(holds: boolean, sentence: string): void {
    this.checks++
    if (!holds) this.wrong.push(sentence)
    this.#print(` ${holds ? '✓' : '✗'} ${sentence}`)
  }

  #print(line: string): void {
    if (!this.isOver) this.#out(line)
  }

  get seconds(): number {
    return (performance.now() - this.#begun) / 1000
  }
}

/** Writes each node's config/federation.yaml: it lists those named beside it. Waits until all that run follow it. */
export async function federate(
  lists: readonly (readonly [node: LabNode, peers: readonly LabNode[]])[],
): Promise<void> {
  for (const [node, peers] of lists) writeFileSync(node.federation, yamlOf(node, peers))
  for (const [node, peers] of lists) {
    if (!node.isRunning) continue
    const wanted = peers.map(({ names, url }) => `${names.did} ${url}`).join()
    await until(`${node.name} to follow its new federation.yaml`, async () => {
      const view = await node.ask<PeersView>('/federation/peers')
      return view?.peers.map(({ did, url }) => `${did} ${url}`).join() === wanted ? view : null
    })
  }
}

/** The plan's schema; a peer is listed by DID and address, its log and keys it says itself. */
function yamlOf({ names, url }: LabNode, peers: readonly LabNode[]): string {
  const listed = peers.map(({ names: { did }, url: at }) => `  - did: '${did}'\n    url: '${at}'\n`)
  return `node_id: '${names.origin.split('.')[0]}'
node_did: '${names.did}'
gossip:
  interval_ms: ${INTERVAL_MS}
  max_peers: 16
peers_allowlist:${listed.length === 0 ? ' []\n' : `\n${listed.join('')}`}conflict_policy:
  order: ['BTC', 'EVM', 'TSA']
  tie_breakers: ['earliest_anchor_ts', 'lowest_tx_hash']
  quarantine_minutes: 15
remembrancer:
  url: '${peers[0]?.url ?? url}'
  timeout_ms: 3000
`
}

/** Where a node stands in every log it knows. */
export async function tipsOf(node: LabNode): Promise<readonly TipView[]> {
  return (await node.ask<{ tips: readonly TipView[] }>('/federation/tips'))?.tips ?? []
}

/** Where a node stands in one log; null while it does not know it. */
export async function tipOf(node: LabNode, origin: string): Promise<TipView | null> {
  return (await tipsOf(node)).find((tip) => tip.origin === origin) ?? null
}

/** Waits until all nodes stand on the same tips, none behind a head; resolves to them. */
export async function untilAlike(
  nodes: readonly LabNode[],
  after: string,
): Promise<readonly TipView[]> {
  return until(`${nodes.map(({ name }) => name).join(', ')} to agree ${after}`, async () => {
    const views = await Promise.all(nodes.map((node) => tipsOf(node)))
    const heads = await Promise.all(nodes.map((node) => headOf(node)))
    const [first = []] = views
    const isAlike = views.every((tips) => textOf(tips) === textOf(first))
    const isUpToDate = heads.every(
      (head) =>
        head !== null &&
        first.some(({ origin, height }) => origin === head.origin && height === head.height),
    )
    return isAlike && isUpToDate ? first : null
  })
}

function textOf(tips: readonly TipView[]): string {
  return tips
    .map(({ origin, height, root, state }) => `${origin} ${height} ${root} ${state}`)
    .join()
}

/** The head of the log that a node seals now. */
export async function headOf(
  node: LabNode,
): Promise<{ readonly origin: string; readonly height: number; readonly treeSize: number } | null> {
  const health = await node.ask<{
    log: { origin: string; height: number; treeSize: number } | null
  }>('/healthz')
  return health?.log ?? null
}

/** Says what each node's GET /federation/peers shows, a line a node. */
export async function sayPeers({ report }: Lab, nodes: readonly LabNode[]): Promise<void> {
  for (const node of nodes) {
    const { peers } = await node.get<PeersView>('/federation/peers')
    const seen = peers.map(({ did, state, lag }) => {
      const { name } = nodes.find(({ names }) => names.did === did)!
      return `${name} ${state}, lag ${lag}`
    })
    report.say(`${node.name} of its peers: ${seen.join('; ')}`)
  }
}

/** Says the tips, a line a log. */
export function sayTips({ report }: Lab, tips: readonly TipView[]): void {
  for (const { origin, height, treeSize, root, state } of tips) {
    const size = `${treeSize} event${treeSize === 1 ? '' : 's'}`
    report.say(`${origin}  height ${height}, ${size}, ${short(root)}, ${state}`)
  }
}

/** Asks one query of all nodes and says each one's mesh root; true if they are equal. */
export async function sayMesh({ report }: Lab, nodes: readonly LabNode[]): Promise<boolean> {
  const [first] = nodes
  const logs = (await tipsOf(first!)).filter(({ height }) => height > 0)
  // The default query: what all live peers have acknowledged.
  const { query, entries } = await until('the peers to acknowledge every tip', async () => {
    const view = await first!.ask<MeshView>('/federation/mesh')
    const isAll = logs.every(({ origin, height }) =>
      view?.entries.some((entry) => entry.origin === origin && entry.height === height),
    )
    return isAll ? view : null
  })
  report.say(`GET ${decodeURIComponent(query)}`)
  const roots: string[] = []
  for (const node of nodes) {
    const { meshRoot } = await node.get<MeshView>(query)
    report.say(`${node.name}  mesh root ${meshRoot}`)
    roots.push(meshRoot)
  }
  return entries.length > 0 && new Set(roots).size === 1
}

/** What a node says of conflicts and held roots; null while it does not answer. */
export function conflictsOf(node: LabNode): Promise<ConflictsView | null> {
  return node.ask<ConflictsView>('/federation/conflicts')
}

/** An open alert of a kind whose text names `about`, or null. */
export async function alertOf(node: LabNode, kind: string, about: string): Promise<string | null> {
  const answer = await node.ask<{ alerts: readonly { kind: string; detail: string }[] }>('/alerts')
  return answer?.alerts.find((a) => a.kind === kind && a.detail.includes(about))?.detail ?? null
}

/** A hash as people compare it. */
export function short(hash: string): string {
  return `${hash.replace(/^(?:sha256:|0x)/, '').slice(0, 12)}…`
}

/** How long something took, in words. */
export async function timed<T>(work: () => Promise<T>): Promise<readonly [T, string]> {
  const begun = performance.now()
  const value = await work()
  return [value, `${((performance.now() - begun) / 1000).toFixed(1)} s`]
}

/** The rails of the lab, strongest first. */
export const RAILS: readonly Chain[] = ['BTC', 'EVM', 'TSA']
