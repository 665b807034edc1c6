/**
 * A federation in one process and under one seed: nodes that hold logs, owners that seal, thieves that sign
 * rivals with a stolen key, proofs that turn up anywhere, and a network that loses, repeats, reorders and cuts
 * off. A node is either the real Ledger and Peers over SQL, or the same rules in memory.
 *
 * At the end everything flows: every node reaches every other one, has every provider, and reads every feed to
 * its end, until nobody learns anything more. Then all must stand on the same tips, those of `judgeFork` over the
 * union of what they know.
 */

import { DatabaseSync } from 'node:sqlite'
import type { AnchorReceipt, Chain } from '../../functions/core/anchor-receipt.ts'
import { toHex } from '../../functions/core/bytes.ts'
import {
  compareProofs,
  DEFAULT_ORDER,
  lawDocument,
  TIE_BREAKERS,
  type Proof,
} from '../../functions/core/conflict.ts'
import { didKey } from '../../functions/core/did.ts'
import {
  judgeFork,
  type BatchNode,
  type ForkVerdict,
  type PendingProof,
  type PendingWhy,
} from '../../functions/core/fork-choice.ts'
import { emptyRoot } from '../../functions/core/merkle.ts'
import { meshRoot } from '../../functions/core/mesh.ts'
import {
  Ledger,
  LEDGER_SCHEMA,
  type ProofState,
  type StoredBatch,
  type StoredProof,
} from '../../durable-objects/ledger.ts'
import { Peers, PEERS_SCHEMA } from '../../durable-objects/peers.ts'
import type { FeedItem } from '../../functions/remembrancer.ts'
import { SqlStorageSim } from './sqlite.ts'

const EMPTY = toHex(emptyRoot)
const START = 1_764_000_000_000
export const law = lawDocument({
  order: DEFAULT_ORDER,
  tieBreakers: TIE_BREAKERS,
  btcDepth: 7,
  tsaRootSha256: [],
})

/** Numbers from a seed: sfc32, of which the beginning is thrown away. */
export class Random {
  #a: number
  #b: number
  #c = 0x9e3779b9
  #d = 1

  constructor(seed: number, run: number) {
    this.#a = seed | 0
    this.#b = run | 0
    for (let i = 0; i < 12; i++) this.next()
  }

  /** From 0 to just below 1. */
  next(): number {
    const t = (((this.#a + this.#b) | 0) + this.#d) | 0
    this.#d = (this.#d + 1) | 0
    this.#a = this.#b ^ (this.#b >>> 9)
    this.#b = (this.#c + (this.#c << 3)) | 0
    this.#c = ((this.#c << 21) | (this.#c >>> 11)) + t
    this.#c |= 0
    return (t >>> 0) / 2 ** 32
  }

  below(n: number): number {
    return Math.floor(this.next() * n)
  }

  chance(p: number): boolean {
    return this.next() < p
  }

  pick<T>(items: readonly T[]): T | undefined {
    return items[this.below(items.length)]
  }
}

/** A batch that somebody with the log's key signed. */
export interface SimBatch extends BatchNode {
  readonly id: number
  readonly origin: string
  readonly firstIndex: number
  readonly batchRoot: string
  /** Its events lead to another root than the signed one. */
  readonly isBad: boolean
}

/** A receipt that verifies offline. */
export interface SimProof extends Proof {
  readonly id: number
  readonly origin: string
  /** The chain has it; else whoever asks a provider finds out. */
  readonly isReal: boolean
}

export type SimItem =
  | { readonly seq: number; readonly type: 'batch'; readonly batch: SimBatch }
  | { readonly seq: number; readonly type: 'proof'; readonly proof: SimProof }

/** Where a node stands in a log. */
export interface Standing {
  readonly height: number
  readonly treeSize: number
  readonly root: string
  readonly canonical: readonly string[]
}

/** The steps of a node, as the Federation takes them; each is synchronous. */
export interface SimNode {
  readonly feedId: string
  follow(origin: string, isOwn: boolean): void
  learnOwn(batch: SimBatch): void
  /** False if it is known, or not wanted. */
  learnBatch(batch: SimBatch): boolean
  /** Whether the log signed this root: else a proof of it is refused. */
  hasRoot(proof: SimProof): boolean
  learnProof(proof: SimProof): boolean
  /** Batches that wait for their events and may be asked for now. */
  pending(origin: string, nowAt: number): readonly SimBatch[]
  isParentVerified(batch: SimBatch): boolean
  verified(batch: SimBatch): void
  postpone(batch: SimBatch, nextAt: number): void
  quarantine(batch: SimBatch, until: number): void
  releaseOver(nowAt: number): void
  toConfirm(nowAt: number): readonly SimProof[]
  said(proof: SimProof, state: ProofState, nextAt: number): void
  stateOf(proof: SimProof): ProofState
  /** Proofs of which no provider has said anything for good. */
  unresolved(): number
  feedEnd(): number
  feedPage(after: number, limit: number): readonly SimItem[]
  heard(peer: number, feedId: string, feedEnd: number): void
  /** How far the peer's feed was read. */
  cursor(peer: number): number
  read(peer: number, cursor: number): void
  judge(origin: string, nowAt: number): void
  standing(origin: string): Standing
  /** Ids of verified batches and of proofs; a union of both says what is known. */
  known(origin: string): {
    readonly batches: readonly SimBatch[]
    readonly proofs: readonly SimProof[]
  }
}

/** Makes a node that knows nothing. `feedId` is new whenever its state is. */
export type MakeNode = (setup: {
  readonly index: number
  readonly feedId: string
  readonly world: { batch(id: number): SimBatch; proof(id: number): SimProof }
}) => SimNode

// ── the rules in memory ────────────────────────────────────────────────────────────────────────

/** Ways to get the rules wrong; the world must notice each. */
export type Mistake =
  /** The rival that was here first stays. */
  | 'first-come'
  /** Of proofs of one tier and time, the one that was here first speaks. */
  | 'no-tie-step'
  /** A proof is passed on as soon as it is here, also before its batch. */
  | 'proofs-first'
  /** A batch is known by its root alone: the same root on another one is dropped. */
  | 'named-by-root'
  /** After a loss of state its peers go on where they were in its old feed. */
  | 'old-cursor'

type Held = 'pending' | 'verified' | 'quarantined'

export class MemoryNode implements SimNode {
  readonly feedId: string
  readonly #mistake: Mistake | null
  readonly #batches = new Map<number, { batch: SimBatch; state: Held; at: number }>()
  readonly #proofs = new Map<number, { proof: SimProof; state: ProofState; at: number }>()
  readonly #feed: SimItem[] = []
  readonly #fed = new Set<string>()
  readonly #peers = new Map<number, { feedId: string; cursor: number }>()
  readonly #verdicts = new Map<string, ForkVerdict>()

  constructor(feedId: string, mistake: Mistake | null = null) {
    this.feedId = feedId
    this.#mistake = mistake
  }

  follow(): void {}

  learnOwn(batch: SimBatch): void {
    this.#batches.set(batch.id, { batch, state: 'pending', at: 0 })
    this.verified(batch)
  }

  learnBatch(batch: SimBatch): boolean {
    if (this.#batches.has(batch.id)) return false
    if (this.#mistake === 'named-by-root') {
      for (const { batch: other } of this.#batches.values()) {
        if (other.origin === batch.origin && other.root === batch.root) return false
      }
    }
    this.#batches.set(batch.id, { batch, state: 'pending', at: 0 })
    return true
  }

  hasRoot(proof: SimProof): boolean {
    for (const { batch } of this.#batches.values()) {
      if (batch.origin === proof.origin && batch.root === proof.root) return true
    }
    return false
  }

  learnProof(proof: SimProof): boolean {
    if (this.#proofs.has(proof.id)) return false
    this.#proofs.set(proof.id, { proof, state: 'unasked', at: 0 })
    this.#passOn(proof)
    return true
  }

  pending(origin: string, nowAt: number): readonly SimBatch[] {
    return [...this.#batches.values()]
      .filter((b) => b.batch.origin === origin && b.state === 'pending' && b.at <= nowAt)
      .map(({ batch }) => batch)
      .sort((a, b) => a.height - b.height)
  }

  isParentVerified({ origin, height, previousRoot }: SimBatch): boolean {
    if (height === 1) return previousRoot === EMPTY
    for (const { batch, state } of this.#batches.values()) {
      if (
        state === 'verified' &&
        batch.origin === origin &&
        batch.height === height - 1 &&
        batch.root === previousRoot
      )
        return true
    }
    return false
  }

  verified(batch: SimBatch): void {
    this.#batches.get(batch.id)!.state = 'verified'
    if (!this.#fed.has(`b${batch.id}`)) {
      this.#fed.add(`b${batch.id}`)
      this.#feed.push({ seq: this.#feed.length + 1, type: 'batch', batch })
    }
    // A proof follows its batch: before it, nobody could take it.
    for (const { proof } of this.#proofs.values()) this.#passOn(proof)
  }

  #passOn(proof: SimProof): void {
    if (this.#fed.has(`p${proof.id}`)) return
    if (this.#mistake !== 'proofs-first' && !this.#isVerified(proof)) return
    this.#fed.add(`p${proof.id}`)
    this.#feed.push({ seq: this.#feed.length + 1, type: 'proof', proof })
  }

  #isVerified({ origin, root }: SimProof): boolean {
    for (const { batch, state } of this.#batches.values()) {
      if (state === 'verified' && batch.origin === origin && batch.root === root) return true
    }
    return false
  }

  postpone(batch: SimBatch, nextAt: number): void {
    this.#batches.get(batch.id)!.at = nextAt
  }

  quarantine(batch: SimBatch, until: number): void {
    Object.assign(this.#batches.get(batch.id)!, { state: 'quarantined', at: until })
  }

  releaseOver(nowAt: number): void {
    for (const held of this.#batches.values()) {
      if (held.state === 'quarantined' && held.at <= nowAt) held.state = 'pending'
    }
  }

  toConfirm(nowAt: number): readonly SimProof[] {
    const open: SimProof[] = []
    for (const { proof, state, at } of this.#proofs.values()) {
      if (state === 'refuted' || at > nowAt) continue
      if ((this.#verdicts.get(proof.origin)?.conflicts.length ?? 0) > 0) open.push(proof)
    }
    return open
  }

  said(proof: SimProof, state: ProofState, nextAt: number): void {
    Object.assign(this.#proofs.get(proof.id)!, { state, at: nextAt })
  }

  stateOf(proof: SimProof): ProofState {
    return this.#proofs.get(proof.id)!.state
  }

  unresolved(): number {
    return [...this.#proofs.values()].filter(({ state }) => !isResolved(state)).length
  }

  feedEnd(): number {
    return this.#feed.length
  }

  feedPage(after: number, limit: number): readonly SimItem[] {
    return this.#feed.slice(after, after + limit)
  }

  heard(peer: number, feedId: string): void {
    const known = this.#peers.get(peer)
    if (known === undefined) this.#peers.set(peer, { feedId, cursor: 0 })
    else if (known.feedId !== feedId) {
      known.feedId = feedId
      if (this.#mistake !== 'old-cursor') known.cursor = 0
    }
  }

  cursor(peer: number): number {
    return this.#peers.get(peer)?.cursor ?? 0
  }

  read(peer: number, cursor: number): void {
    this.#peers.get(peer)!.cursor = cursor
  }

  judge(origin: string): void {
    this.#verdicts.set(origin, this.#judged(origin))
  }

  #judged(origin: string): ForkVerdict {
    const { batches } = this.known(origin)
    let proofs: SimProof[] = []
    const pending: PendingProof[] = []
    for (const { proof, state } of this.#proofs.values()) {
      if (proof.origin !== origin || state === 'refuted') continue
      if (state === 'confirmed') proofs.push(proof)
      else pending.push({ ...proof, why: whyOf(state) })
    }
    if (this.#mistake === 'first-come') return firstCome(batches)
    if (this.#mistake === 'no-tie-step') proofs = withoutTies(proofs)
    return judgeFork({ law, base: null, emptyRoot: EMPTY, nodes: batches, proofs, pending })
  }

  standing(origin: string): Standing {
    const verdict = this.#verdicts.get(origin)
    return standingOf(verdict ?? { tip: null, path: [], conflicts: [] })
  }

  known(origin: string): { batches: SimBatch[]; proofs: SimProof[] } {
    const batches: SimBatch[] = []
    for (const { batch, state } of this.#batches.values()) {
      if (state === 'verified' && batch.origin === origin) batches.push(batch)
    }
    const proofs = [...this.#proofs.values()].map(({ proof }) => proof)
    return { batches, proofs: proofs.filter((proof) => proof.origin === origin) }
  }
}

function isResolved(state: ProofState): boolean {
  return state === 'confirmed' || state === 'refuted'
}

function whyOf(state: ProofState): PendingWhy {
  return state === 'no_provider' ? state : 'unconfirmed'
}

function standingOf({ tip, path }: ForkVerdict): Standing {
  return {
    height: tip?.height ?? 0,
    treeSize: tip?.treeSize ?? 0,
    root: tip?.root ?? EMPTY,
    canonical: path.map(({ root }) => root),
  }
}

function firstCome(batches: readonly SimBatch[]): ForkVerdict {
  const path: BatchNode[] = []
  for (;;) {
    const last = path.at(-1)
    const next = batches.find(
      ({ height, previousRoot }) =>
        height === path.length + 1 && previousRoot === (last?.root ?? EMPTY),
    )
    if (next === undefined) return { tip: last ?? null, path, conflicts: [] }
    path.push(next)
  }
}

/** Drops what ties with an earlier arrival on network, tier and time. */
function withoutTies(proofs: readonly SimProof[]): SimProof[] {
  const alike = { txHash: '0'.repeat(64), root: '0'.repeat(64), network: 'any', treeSize: 0 }
  return proofs.filter(
    (proof, i) =>
      !proofs
        .slice(0, i)
        .some(
          (other) =>
            proof.network === other.network &&
            compareProofs(law, { ...proof, ...alike }, { ...other, ...alike }) === 0,
        ),
  )
}

// ── the real ones ──────────────────────────────────────────────────────────────────────────────

/** DID of a node by its number. */
function didOf(index: number): string {
  return didKey('ed25519', new Uint8Array(32).fill(index + 1))
}

/** The Federation's own tables over node:sqlite. */
export class LedgerNode implements SimNode {
  readonly feedId: string
  readonly #world: Parameters<MakeNode>[0]['world']
  readonly #db = new DatabaseSync(':memory:')
  readonly #ledger: Ledger
  /** Rows as `pending` gave them: a visit reads them once. */
  readonly #rows = new Map<number, StoredBatch>()
  readonly #open = new Map<number, StoredProof>()
  readonly #peers: Peers

  constructor({ index, feedId, world }: Parameters<MakeNode>[0]) {
    this.feedId = feedId
    this.#world = world
    const storage = new SqlStorageSim(this.#db, (_step, effect) => effect(), {
      get: () => null,
      set: () => undefined,
    }) as unknown as DurableObjectStorage
    storage.sql.exec(PEERS_SCHEMA + LEDGER_SCHEMA)
    this.#ledger = new Ledger(storage)
    this.#peers = new Peers(storage.sql)
    this.#peers.list(
      [0, 1, 2, 3, 4]
        .filter((i) => i !== index)
        .map((i) => {
          const did = didOf(i)
          return { did, canonical: did, url: `http://${i}`, origin: null, vkey: null }
        }),
    )
  }

  follow(origin: string, isOwn: boolean): void {
    this.#ledger.follow({ origin, did: didOf(9), vkey: `${origin}+key`, isOwn })
  }

  learnOwn(batch: SimBatch): void {
    this.#ledger.learnOwn(signed(batch), START)
  }

  learnBatch(batch: SimBatch): boolean {
    return this.#ledger.learnBatch(signed(batch), 'did:key:zPeer', START)
  }

  hasRoot({ origin, root, treeSize }: SimProof): boolean {
    return this.#ledger.hasRoot(origin, root, treeSize)
  }

  learnProof(proof: SimProof): boolean {
    return this.#ledger.learnProof(proof.origin, receiptOf(proof), START)
  }

  pending(origin: string, nowAt: number): readonly SimBatch[] {
    return this.#ledger.pending(origin, nowAt, 64).map((row) => {
      const batch = this.#batchOf(row)
      this.#rows.set(batch.id, row)
      return batch
    })
  }

  isParentVerified(batch: SimBatch): boolean {
    return this.#ledger.parentOf(this.#rows.get(batch.id)!) !== null
  }

  verified(batch: SimBatch): void {
    this.#ledger.verified(this.#rows.get(batch.id)!)
  }

  postpone(batch: SimBatch, nextAt: number): void {
    this.#ledger.postpone(this.#rows.get(batch.id)!, 'not there', nextAt)
  }

  quarantine(batch: SimBatch, until: number): void {
    this.#ledger.quarantine(this.#rows.get(batch.id)!, 'leads elsewhere', until)
  }

  releaseOver(nowAt: number): void {
    for (const { origin, height, root } of this.#ledger.quarantineOver(nowAt)) {
      this.#ledger.release(origin, height, root)
    }
  }

  toConfirm(nowAt: number): readonly SimProof[] {
    return this.#ledger.proofsToConfirm(nowAt, 8).map((row) => {
      const proof = this.#proofOf(JSON.parse(row.receipt) as AnchorReceipt)
      this.#open.set(proof.id, row)
      return proof
    })
  }

  said(proof: SimProof, state: ProofState, nextAt: number): void {
    this.#ledger.saidOf(this.#open.get(proof.id)!, state, nextAt)
  }

  stateOf(proof: SimProof): ProofState {
    return this.#open.get(proof.id)!.state
  }

  unresolved(): number {
    const query = "SELECT count(*) AS n FROM proofs WHERE state NOT IN ('confirmed', 'refuted')"
    return Number(this.#db.prepare(query).get()!['n'])
  }

  feedEnd(): number {
    return this.#ledger.feedEnd()
  }

  feedPage(after: number, limit: number): readonly SimItem[] {
    const { items } = this.#ledger.feedPage(after)
    return items.slice(0, limit).map((item) => this.#itemOf(item))
  }

  heard(peer: number, feedId: string, feedEnd: number): void {
    this.#peers.heard(
      didOf(peer),
      { nodeId: `${peer}`, witness: null, lawHash: 'any', feedId, feedEnd, tips: [] },
      { nowAt: START, isAnswer: true },
    )
  }

  cursor(peer: number): number {
    return this.#peers.get(didOf(peer))!.cursor
  }

  read(peer: number, cursor: number): void {
    this.#peers.read(didOf(peer), cursor)
  }

  judge(origin: string, nowAt: number): void {
    this.#ledger.judge(origin, law, nowAt)
  }

  standing(origin: string): Standing {
    const { tipHeight, tipRoot, tipSize } = this.#ledger.log(origin)!
    return {
      height: tipHeight,
      treeSize: tipSize,
      root: tipRoot,
      canonical: this.#ledger.canonicalFrom(origin, 1, 1000).map(({ root }) => root),
    }
  }

  known(origin: string): { batches: SimBatch[]; proofs: SimProof[] } {
    const batches = this.#db
      .prepare("SELECT manifest FROM batches WHERE origin = ? AND state = 'verified'")
      .all(origin)
      .map(({ manifest }) => this.#world.batch(Number(manifest)))
    const proofs = this.#db
      .prepare('SELECT receipt FROM proofs WHERE origin = ?')
      .all(origin)
      .map(({ receipt }) => this.#proofOf(JSON.parse(receipt as string) as AnchorReceipt))
    return { batches, proofs }
  }

  #batchOf({ manifest }: { readonly manifest: string }): SimBatch {
    return this.#world.batch(Number(manifest))
  }

  #proofOf(receipt: AnchorReceipt): SimProof {
    return this.#world.proof(idOf(receipt))
  }

  #itemOf(item: FeedItem): SimItem {
    const { seq } = item
    return item.type === 'batch'
      ? { seq, type: 'batch', batch: this.#batchOf(item) }
      : { seq, type: 'proof', proof: this.#proofOf(item.receipt) }
  }
}

/** What a node stores of a batch; in place of the JWS the number by which the world knows it. */
function signed(batch: SimBatch): Parameters<Ledger['learnBatch']>[0] {
  const { id, origin, height, root, previousRoot, treeSize, firstIndex, batchRoot } = batch
  return {
    manifest: {
      origin,
      height,
      firstIndex,
      count: treeSize - firstIndex,
      treeSize,
      root,
      previousRoot,
      batchRoot,
      sealedAt: START,
      sealer: didOf(9),
    },
    manifestJws: `${id}`,
    checkpoint: root,
  }
}

function receiptOf(proof: SimProof): AnchorReceipt {
  const { id, root, chain, network, txHash, anchoredAt, treeSize } = proof
  return {
    root: `0x${root}`,
    chain,
    network,
    txHash,
    blockNumber: 1,
    anchorTs: new Date(anchoredAt!).toISOString(),
    verifier: 'v1',
    status: 'verified',
    treeSize,
    observedAt: new Date(START).toISOString(),
    finality: { observedDepth: 7, requiredDepth: 7, state: 'final' },
    proof: { type: 'sim', id },
    group: [txHash],
  }
}

function idOf({ proof }: AnchorReceipt): number {
  return proof['id'] as number
}

// ── the world ──────────────────────────────────────────────────────────────────────────────────

export interface WorldOptions {
  /** Random steps before everything flows. */
  readonly steps: number
  /** A thief may hand out a proof before its batch is recomputed. */
  readonly earlyProofs: boolean
  /** A thief may sign one root on two batches of one height: the same leaves, cut otherwise. */
  readonly recuts: boolean
  /** A thief may sign a batch that differs from a real one only in what events it names. */
  readonly twins: boolean
}

/** What happened, so that a test can tell that something did. */
export interface Outcome {
  /** What is wrong, or null: all nodes agree with each other and with the law. */
  readonly fault: string | null
  readonly nodes: number
  readonly conflicts: number
  readonly decided: number
  readonly undecided: number
  readonly nested: number
  readonly restarts: number
  readonly lost: number
  readonly repeated: number
  readonly reordered: number
  readonly truncated: number
  readonly cutOff: number
}

interface Page {
  readonly to: number
  readonly from: number
  readonly feedId: string
  readonly after: number
  readonly items: readonly SimItem[]
  readonly number: number
}

interface Log {
  readonly origin: string
  readonly owner: number
  /** The batch that its sequencer seals on. */
  head: SimBatch | null
  readonly batches: SimBatch[]
  readonly proofs: SimProof[]
}

const CHAINS: readonly Chain[] = ['BTC', 'EVM', 'TSA']
const NETWORKS: Readonly<Record<Chain, readonly string[]>> = {
  BTC: ['mainnet', 'mainnet', 'regtest'],
  EVM: ['base', 'mainnet', 'anvil'],
  TSA: ['freetsa.org', 'timestamp.digicert.com', 'tsa.test'],
}
/** Rivals that a thief signs at one height: as many as the Ledger keeps, and room for the owner's. */
const RIVALS = 8
/** Rounds in which everything flows: a batch of the greatest height needs one a height at most. */
const ROUNDS = 60

export class World {
  readonly #random: Random
  readonly #make: MakeNode
  readonly #options: WorldOptions
  readonly #nodes: SimNode[] = []
  readonly #logs: Log[] = []
  readonly #batches: SimBatch[] = []
  readonly #proofs: SimProof[] = []
  readonly #providers: Set<Chain>[] = []
  /** Logs of which a node learned something since it judged them. */
  readonly #touched: Set<string>[] = []
  /** Which side of a partition each node is on. */
  #sides: number[]
  #flying: Page[] = []
  #nowAt = START
  #calm = false
  #made = 0
  #pages = 0
  readonly #count = { restarts: 0, lost: 0, repeated: 0, reordered: 0, truncated: 0, cutOff: 0 }

  constructor(make: MakeNode, random: Random, options: WorldOptions) {
    this.#random = random
    this.#make = make
    this.#options = options
    const count = 2 + random.below(4)
    this.#sides = Array.from({ length: count }, () => 0)
    for (let owner = 0; owner < 1 + random.below(2); owner++) {
      this.#logs.push({
        origin: `${owner}.example/log`,
        owner,
        head: null,
        batches: [],
        proofs: [],
      })
    }
    for (let i = 0; i < count; i++) {
      this.#nodes.push(this.#newNode(i))
      this.#touched.push(new Set())
      this.#providers.push(new Set(CHAINS.filter(() => random.chance(0.5))))
    }
  }

  /** Takes all steps, lets everything flow, and compares. */
  run(): Outcome {
    for (let i = 0; i < this.#options.steps; i++) {
      this.#nowAt += this.#random.below(2000)
      this.#step()
    }
    return this.#end()
  }

  #newNode(index: number): SimNode {
    const node = this.#make({
      index,
      feedId: `feed ${this.#made++}`,
      world: {
        batch: (id) => this.#batches[id]!,
        proof: (id) => this.#proofs[id]!,
      },
    })
    for (const { origin, owner } of this.#logs) node.follow(origin, owner === index)
    return node
  }

  #step(): void {
    const random = this.#random
    const log = random.pick(this.#logs)!
    const at = random.below(this.#nodes.length)
    const dice = random.below(100)
    if (dice < 12) this.#seal(log)
    else if (dice < 21) this.#steal(log)
    else if (dice < 31) this.#anchor(log)
    else if (dice < 55) this.#visit(at, random.below(this.#nodes.length))
    else if (dice < 75) this.#deliver()
    else if (dice < 86) this.#recompute(at)
    else if (dice < 91) this.#confirm(at)
    else if (dice < 94) this.#judge(at)
    else if (dice < 96) this.#sides = this.#sides.map(() => random.below(2))
    else if (dice < 98) this.#sides = this.#sides.map(() => 0)
    else if (dice < 99) this.#providers[at]!.add(random.pick(CHAINS)!)
    else this.#restart(at)
  }

  // ── who signs and anchors ────────────────────────────────────────────────────────────────────

  #batch(
    log: Log,
    { parent, ...said }: Partial<SimBatch> & { readonly parent: SimBatch | null },
  ): SimBatch {
    const firstIndex = parent?.treeSize ?? 0
    const batch: SimBatch = {
      id: this.#batches.length,
      origin: log.origin,
      height: (parent?.height ?? 0) + 1,
      root: this.#freshRoot(),
      previousRoot: parent?.root ?? EMPTY,
      firstIndex,
      treeSize: firstIndex + 2 + this.#random.below(6),
      batchRoot: this.#freshRoot(),
      isBad: false,
      ...said,
    }
    this.#batches.push(batch)
    log.batches.push(batch)
    return batch
  }

  /** 64 hex digits in no order. */
  #freshRoot(): string {
    let root = ''
    while (root.length < 64) {
      root += Math.floor(this.#random.next() * 2 ** 32)
        .toString(16)
        .padStart(8, '0')
    }
    return root
  }

  #seal(log: Log): void {
    log.head = this.#batch(log, { parent: log.head })
    this.#nodes[log.owner]!.learnOwn(log.head)
    this.#touched[log.owner]!.add(log.origin)
  }

  /** Somebody with a copy of the key signs what was never sealed, and shows it to some. */
  #steal(log: Log): void {
    const random = this.#random
    const parent = random.chance(0.2) ? null : (random.pick(log.batches) ?? null)
    const height = (parent?.height ?? 0) + 1
    const room = (at: number): boolean =>
      log.batches.filter((batch) => batch.height === at).length < RIVALS
    if (!room(height)) return
    const dice = random.below(10)
    const child = log.batches.find(
      ({ height: at, previousRoot }) => at === height && previousRoot === (parent?.root ?? EMPTY),
    )
    if (dice < 3 && child !== undefined) {
      // The same leaves, cut into batches otherwise.
      const target = this.#options.recuts
        ? log.batches.find(
            ({ height: at, previousRoot }) => at === height + 1 && previousRoot === child.root,
          )
        : child
      const end = target?.treeSize ?? 0
      const cut = (parent?.treeSize ?? 0) + 1 + random.below(3)
      if (target === undefined || target.isBad || child.isBad || !room(height + 1)) return
      if (cut >= end || cut === child.treeSize) return
      const isNamedTwice = log.batches.some(
        (b) => b.height === height + 1 && b.root === target.root,
      )
      if (isNamedTwice && !this.#options.recuts) return
      const first = this.#batch(log, { parent, treeSize: cut })
      this.#show(first)
      const { root, treeSize } = target
      this.#show(this.#batch(log, { parent: first, root, treeSize }))
    } else if (dice < 5 && this.#options.twins && child !== undefined) {
      const { root, treeSize } = child
      this.#show(this.#batch(log, { parent, root, treeSize, isBad: true }))
    } else {
      const isBad = random.chance(0.15)
      this.#show(this.#batch(log, { parent, isBad }))
      // Nested: rivals of what was just signed.
      if (random.chance(0.3) && room(height + 1)) {
        const last = log.batches.at(-1)!
        this.#show(this.#batch(log, { parent: last }))
        this.#show(this.#batch(log, { parent: last }))
      }
    }
  }

  #show(batch: SimBatch): void {
    for (let i = 0; i <= this.#random.below(2); i++) {
      this.#take(this.#random.below(this.#nodes.length), { seq: 0, type: 'batch', batch })
    }
  }

  /** A proof turns up; times and transactions are few, so that ties are frequent. */
  #anchor(log: Log): void {
    const random = this.#random
    const batch = random.chance(0.7)
      ? log.batches.at(-1 - random.below(4))
      : random.pick(log.batches)
    if (batch === undefined) return
    const chain = random.pick(CHAINS)!
    const time = random.below(3)
    // A calendar commits many roots with one transaction, and it has one time.
    const tx = `${time}${random.below(2)}`.padEnd(64, 'c')
    const proof: SimProof = {
      id: this.#proofs.length,
      origin: log.origin,
      chain,
      network: random.pick(NETWORKS[chain])!,
      anchoredAt: START + time,
      txHash: tx,
      root: batch.root,
      treeSize: batch.treeSize,
      // A thief can make up blocks of an EVM chain, nobody those of Bitcoin.
      isReal: chain !== 'EVM' || random.chance(0.7),
    }
    if (log.proofs.some((other) => isNamedAlike(other, proof))) return
    this.#proofs.push(proof)
    log.proofs.push(proof)
    for (let i = 0; i <= random.below(2); i++) {
      const at = random.below(this.#nodes.length)
      if (!this.#options.earlyProofs) {
        const { batches } = this.#nodes[at]!.known(log.origin)
        if (!batches.some(({ root }) => root === proof.root)) continue
      }
      this.#take(at, { seq: 0, type: 'proof', proof })
    }
  }

  // ── what a node does ─────────────────────────────────────────────────────────────────────────

  /** One item of a feed, or what a stranger hands over: taken down if it is what it says. */
  #take(at: number, item: SimItem): void {
    const node = this.#nodes[at]!
    const { origin } = item.type === 'batch' ? item.batch : item.proof
    const isNews =
      item.type === 'batch'
        ? node.learnBatch(item.batch)
        : node.hasRoot(item.proof) && node.learnProof(item.proof)
    if (isNews) this.#touched[at]!.add(origin)
  }

  #judge(at: number): void {
    for (const origin of this.#touched[at]!) this.#nodes[at]!.judge(origin, this.#nowAt)
    this.#touched[at]!.clear()
  }

  #reaches(a: number, b: number): boolean {
    return a !== b && this.#sides[a] === this.#sides[b]
  }

  /** Envelopes both ways; then a page of the peer's feed sets out. */
  #visit(to: number, from: number): void {
    if (to === from) return
    if (!this.#reaches(to, from)) {
      this.#count.cutOff++
      return
    }
    const [visitor, host] = [this.#nodes[to]!, this.#nodes[from]!]
    host.heard(to, visitor.feedId, visitor.feedEnd())
    visitor.heard(from, host.feedId, host.feedEnd())
    if (!this.#calm && this.#random.chance(0.1)) {
      this.#count.lost++
      return
    }
    const after = visitor.cursor(from)
    const items = host.feedPage(after, this.#calm ? 100 : 1 + this.#random.below(6))
    const page: Page = { to, from, feedId: host.feedId, after, items, number: this.#pages++ }
    this.#flying.push(page)
    if (!this.#calm && this.#random.chance(0.15)) {
      this.#count.repeated++
      this.#flying.push(page)
    }
  }

  /** A page arrives, none or half of it, before or after others. */
  #deliver(): void {
    const random = this.#random
    const which = this.#calm ? 0 : random.below(this.#flying.length)
    const [page] = this.#flying.splice(which, 1)
    if (page === undefined) return
    if (which > 0) this.#count.reordered++
    const { to, from, feedId, after } = page
    if (!this.#reaches(to, from) || (!this.#calm && random.chance(0.15))) {
      this.#count.lost++
      return
    }
    let { items } = page
    // The process dies under it: what was taken stays, where it was in the feed is not written.
    const dies = !this.#calm && random.chance(0.1)
    if (dies) {
      this.#count.truncated++
      items = items.slice(0, random.below(items.length + 1))
    }
    for (const item of items) this.#take(to, item)
    const node = this.#nodes[to]!
    const last = items.at(-1)?.seq
    if (dies || last === undefined || feedId !== this.#nodes[from]!.feedId) return
    node.heard(from, feedId, this.#nodes[from]!.feedEnd())
    const cursor = node.cursor(from)
    if (after <= cursor && last > cursor) node.read(from, last)
  }

  #recompute(at: number): void {
    const random = this.#random
    const node = this.#nodes[at]!
    node.releaseOver(this.#nowAt)
    for (const { origin } of this.#logs) {
      for (const batch of node.pending(origin, this.#nowAt)) {
        if (!node.isParentVerified(batch)) continue
        if (!this.#calm && random.chance(0.3)) {
          node.postpone(batch, this.#nowAt + 1000)
        } else if (batch.isBad) node.quarantine(batch, this.#nowAt + 900_000)
        else {
          node.verified(batch)
          this.#touched[at]!.add(origin)
        }
      }
    }
    if (this.#calm || random.chance(0.7)) this.#judge(at)
  }

  #confirm(at: number): void {
    const node = this.#nodes[at]!
    for (const proof of node.toConfirm(this.#nowAt)) {
      let state: ProofState = proof.isReal ? 'confirmed' : 'refuted'
      // A timestamp needs nobody.
      if (proof.chain === 'TSA') state = 'confirmed'
      else if (!this.#providers[at]!.has(proof.chain)) state = 'no_provider'
      else if (!this.#calm && this.#random.chance(0.3)) state = 'unconfirmed'
      // What was confirmed is taken back by a disproof only.
      if (node.stateOf(proof) === 'confirmed' && state !== 'refuted') state = 'confirmed'
      node.said(proof, state, this.#nowAt + (state === 'confirmed' ? 3_600_000 : 1000))
      this.#touched[at]!.add(proof.origin)
    }
    this.#judge(at)
  }

  /** The Durable Object's disk is gone; the node's own log, in D1, may be as well. */
  #restart(at: number): void {
    this.#count.restarts++
    this.#nodes[at] = this.#newNode(at)
    this.#touched[at] = new Set()
    for (const log of this.#logs) {
      if (log.owner !== at) continue
      if (this.#random.chance(0.3)) {
        log.head = null
        continue
      }
      const own: SimBatch[] = []
      for (let batch = log.head; batch !== null;) {
        own.unshift(batch)
        const { height, previousRoot } = batch
        batch = log.batches.find((b) => b.height === height - 1 && b.root === previousRoot) ?? null
      }
      for (const batch of own) this.#nodes[at].learnOwn(batch)
      this.#touched[at]!.add(log.origin)
    }
  }

  // ── the end ──────────────────────────────────────────────────────────────────────────────────

  #end(): Outcome {
    this.#calm = true
    this.#sides = this.#sides.map(() => 0)
    for (const providers of this.#providers) for (const chain of CHAINS) providers.add(chain)
    // What still flies arrives first, however old.
    while (this.#flying.length > 0) this.#deliver()
    let before = ''
    let rounds = 0
    for (let now = this.#state(); now !== before; now = this.#state()) {
      if (rounds++ === ROUNDS) return this.#outcome(`no rest after ${ROUNDS} rounds`)
      before = now
      this.#nowAt += 1_000_000
      for (const to of this.#nodes.keys()) {
        for (const from of this.#nodes.keys()) {
          this.#visit(to, from)
          this.#deliver()
        }
        this.#recompute(to)
        this.#confirm(to)
      }
    }
    return this.#outcome(this.#fault())
  }

  /** Everything that another round could change. */
  #state(): string {
    return JSON.stringify(
      this.#nodes.map((node, at) => [
        node.feedEnd(),
        node.unresolved(),
        [...this.#nodes.keys()].filter((i) => i !== at).map((i) => node.cursor(i)),
        this.#logs.map(({ origin }) => node.standing(origin)),
      ]),
    )
  }

  /** The law over the union of what the nodes know. */
  #lawOver({ origin }: Log): ForkVerdict {
    const known = this.#nodes.map((node) => node.known(origin))
    const nodes = new Set(known.flatMap(({ batches }) => batches))
    const proofs = new Set(known.flatMap((k) => k.proofs))
    return judgeFork({
      law,
      base: null,
      emptyRoot: EMPTY,
      nodes: [...nodes],
      proofs: [...proofs].filter(({ isReal }) => isReal),
      pending: [],
    })
  }

  #fault(): string | null {
    const roots = this.#nodes.map((node) =>
      toHex(meshRoot(this.#logs.map(({ origin }) => ({ origin, ...node.standing(origin) })))),
    )
    for (const log of this.#logs) {
      const known = this.#nodes.map((node) => knownIds(node.known(log.origin)))
      const lacks = known.findIndex((ids) => ids !== known[0])
      if (lacks > 0) return `nodes 0 and ${lacks} do not know the same of ${log.origin}`
      const right = JSON.stringify(standingOf(this.#lawOver(log)))
      for (const [at, node] of this.#nodes.entries()) {
        const stands = JSON.stringify(node.standing(log.origin))
        if (stands !== right) {
          return `node ${at} of ${this.#nodes.length} stands in ${log.origin} on ${short(stands)}, the law on ${short(right)}`
        }
      }
    }
    return new Set(roots).size === 1 ? null : 'the mesh roots differ'
  }

  #outcome(fault: string | null): Outcome {
    const conflicts = this.#logs.flatMap((log) => this.#lawOver(log).conflicts)
    const decided = conflicts.filter(({ winner }) => winner !== null).length
    return {
      fault,
      nodes: this.#nodes.length,
      conflicts: conflicts.length,
      decided,
      undecided: conflicts.length - decided,
      nested: conflicts.length > 1 ? 1 : 0,
      ...this.#count,
    }
  }
}

/** Ids of batches, and of the proofs that could count. */
function knownIds({ batches, proofs }: ReturnType<SimNode['known']>): string {
  const roots = new Set(batches.map(({ root }) => root))
  return [batches, proofs.filter(({ root }) => roots.has(root))]
    .map((all) => all.map(({ id }) => id).sort((a, b) => a - b))
    .join(';')
}

function isNamedAlike(a: SimProof, b: SimProof): boolean {
  return (
    a.root === b.root && a.chain === b.chain && a.network === b.network && a.txHash === b.txHash
  )
}

function short(text: string): string {
  return text.replace(/([0-9a-f]{8})[0-9a-f]{56}/g, '$1')
}
