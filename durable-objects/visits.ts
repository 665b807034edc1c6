/**
 * Visits: one exchange with each peer that is due. Envelopes first, then what its feed has that we lack, then
 * the events of batches that wait for theirs, and last our newest checkpoint for its witness.
 *
 * A visit ends by min(timeout_ms, interval_ms), whatever it was about; each step is stored before the next, so
 * the next visit goes on. Nothing taken from a peer counts before it verified: batches by two signatures of
 * their origin and then by their events, proofs by themselves. What is no such thing is counted against the sender.
 */

import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { toHex, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { FederationConfig } from '#core/federation-config.ts'
import { readEnvelope } from '#core/gossip.ts'
import { wasEverKey } from '#core/rotation.ts'
import { sha256 } from '#core/sha256.ts'
import { clearAlert, openAlert } from '#store/alerts.ts'
import {
  hostOf,
  readSignedBatch,
  Remembrancer,
  type FeedItem,
  type SignedBatch,
} from '../functions/remembrancer.ts'
import type { Cosigners } from './cosigners.ts'
import type { Envelopes } from './envelopes.ts'
import { warn, type Context, type FederationState } from './federation-state.ts'
import { MAX_PENDING, type StoredBatch } from './ledger.ts'
import { recompute, type Recomputed } from './mirror.ts'
import type { Peer } from './peers.ts'

/**
 * Visits under way at once, and those among them to peers that failed last time. With one to a foreign witness
 * (cosigners.ts) five: the platform has six connections, and providers of chains are asked as well.
 */
const VISITS = 4
const FAILING_VISITS = 2
/** Under this name the seeds take part in the visits. */
const SEEDS = 'seeds'
/** Parts that one peer gave are left to it for so long before another one begins anew. */
const BEGUN_MS = 10_000
/** How long a round waits for its visits; a healthy peer answers within a few of ten milliseconds. */
const PATIENCE_MS = 200
/** Feed pages, batches and parts of one visit: the rest is the next round's. */
const PAGES_PER_VISIT = 4
const BATCHES_PER_VISIT = 64
const PARTS_PER_BATCH = 16
/** Longest receipt taken: nothing vouches for all of it, and a feed must stay readable. A real one has 10,000 bytes. */
const MAX_RECEIPT_BYTES = 262_144
/** A batch whose events were not there is asked for again after 1 s, 2 s, … a minute. */
const RETRY_MS = 1000
const MAX_RETRY_MS = 60_000
const ALL_TIME = Number.MAX_SAFE_INTEGER

export class Visits {
  /** Peers whose visit went well to its end since this process began. */
  readonly done = new Set<string>()
  readonly #waiting = new Set<string>()
  readonly #underWay = new Map<string, Promise<void>>()
  readonly #failing = new Set<string>()
  /** Batches that a visit recomputes: another must not write beside it. */
  readonly #recomputing = new Set<string>()
  /** By batch and peer until when it is not asked for the events again: who has none, or lies, puts off himself. */
  readonly #waits = new Map<
    number,
    Map<string, { readonly tries: number; readonly nextAt: number }>
  >()
  #nextSeed = 0
  /** How far a feed was read beyond its cursor, and the log that had no room. */
  readonly #ahead = new Map<string, { readonly seq: number; readonly origin: string }>()
  readonly #state: FederationState
  readonly #envelopes: Envelopes
  readonly #cosigners: Cosigners
  /** Judges what was touched: the tip moves as soon as it can. */
  readonly #judge: (context: Context) => Promise<void>

  constructor(
    state: FederationState,
    envelopes: Envelopes,
    cosigners: Cosigners,
    judge: (context: Context) => Promise<void>,
  ) {
    this.#state = state
    this.#envelopes = envelopes
    this.#cosigners = cosigners
    this.#judge = judge
  }

  /**
   * Sets out for every peer that is due, or for `only` those, and under way to none, in two lanes: those that failed last time must
   * not slow the others. Waits for the quick ones only; a slow visit goes on beside the next rounds.
   */
  async visitAll(context: Context, nowAt: number, only: ReadonlySet<string> | null): Promise<void> {
    const due = this.#state.peers
      .all()
      .slice(0, context.config.maxPeers)
      .filter((peer) => peer.keyConflict === null && peer.nextAt <= nowAt)
      .filter(({ did }) => only === null || only.has(did))
    for (const { did, url } of due) {
      if (url !== null && !this.#underWay.has(did)) this.#waiting.add(did)
    }
    this.#setOut(context)
    if (due.some(({ url }) => url === null)) this.#askSeeds(context)
    const patience = new Promise((over) => setTimeout(over, PATIENCE_MS))
    while (this.#underWay.size > 0) {
      const isOver = await Promise.race([patience.then(() => true), ...this.#underWay.values()])
      if (isOver === true) return
    }
  }

  /** Starts as many of the waiting visits as the lanes hold. */
  #setOut(context: Context): void {
    for (const did of this.#waiting) {
      const peer = this.#state.peers.get(did)
      if (peer === null || peer.url === null) {
        this.#waiting.delete(did)
        continue
      }
      const isFailing = peer.failures > 0
      if (!this.#hasRoom(isFailing)) continue
      this.#waiting.delete(did)
      this.#begin(context, did, isFailing, this.#visit(context, peer))
    }
  }

  #hasRoom(isFailing: boolean): boolean {
    if (this.#underWay.size >= VISITS) return false
    return !isFailing || this.#failing.size < FAILING_VISITS
  }

  #begin(context: Context, name: string, isFailing: boolean, run: Promise<void>): void {
    if (isFailing) this.#failing.add(name)
    const visit = run.finally(() => {
      this.#underWay.delete(name)
      this.#failing.delete(name)
      this.#setOut(context)
    })
    this.#underWay.set(name, visit)
  }

  /** Peers without an address are looked for at the seeds, one after another, in the lane of those that may fail. */
  #askSeeds(context: Context): void {
    const { config } = context
    if (this.#underWay.has(SEEDS) || !this.#hasRoom(true)) return
    const known = new Set(this.#state.peers.all().map(({ url }) => url))
    const seeds = [config.remembrancerUrl, ...config.seeds].filter(
      (seed): seed is string => seed !== null && !known.has(seed),
    )
    const seed = seeds[this.#nextSeed++ % Math.max(1, seeds.length)]
    if (seed !== undefined) this.#begin(context, SEEDS, true, this.#askSeed(context, seed))
  }

  async #askSeed(context: Context, url: string): Promise<void> {
    try {
      const said = await this.#client(context, url).wellKnown()
      const peer = this.#state.peers.get(said.node_did)
      // Only where to ask: whether it is that node, its signed answer tells.
      if (peer !== null && peer.url === null) {
        this.#state.peers.introduce(peer.did, { url, origin: null, vkey: null })
      }
    } catch (error) {
      warn('seed not reached', error)
    }
  }

  #client({ config }: Context, url: string, pass?: () => Promise<string>): Remembrancer {
    const signal = AbortSignal.timeout(Math.min(config.timeoutMs, config.intervalMs))
    const options = { url, signal, fetch: (to: string, init?: RequestInit) => fetch(to, init) }
    return new Remembrancer(pass === undefined ? options : { ...options, pass })
  }

  async #visit(context: Context, peer: Peer): Promise<void> {
    try {
      const client = this.#client(context, peer.url!, () => this.#envelopes.pass(context, peer.did))
      const answer = readEnvelope(
        await client.gossip(await this.#envelopes.speak(context, peer.did)),
      )
      if (answer.iss !== peer.did) {
        throw new VaultMeshError('unknown-peer', `${hostOf(peer.url!)} is ${answer.iss}.`)
      }
      let now = await this.#envelopes.hear(context, answer, true)
      this.#envelopes.delivered(peer.did)
      await this.#recallOwn(context, client, now)
      // Another law names other winners: its feed is still evidence, its vote is not asked for.
      now = await this.#readFeed(context, client, now)
      await this.fetchEvents(context, client, now)
      await this.#judge(context)
      if (now.witness !== null) {
        await this.#cosigners.ask(context, { url: `${now.url!}/witness`, vkey: now.witness })
      }
      this.#state.peers.visited(peer.did)
      this.done.add(peer.did)
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error)
      this.#state.peers.failed(peer.did, message.slice(0, 300), Date.now())
      // One that was taken off the list meanwhile has done nothing wrong.
      const isFault = error instanceof VaultMeshError && error.code !== 'overloaded'
      if (isFault && this.#state.peers.get(peer.did) !== null) this.#state.peers.fault(peer.did)
    }
  }

  /**
   * A peer that says our own log is longer than we know shows it at once, by our signatures: we seal nothing before
   * we have taken it back (`clearance`). What it cannot show is not so.
   */
  async #recallOwn({ node }: Context, client: Remembrancer, peer: Peer): Promise<void> {
    const { ledger } = this.#state
    const { origin } = node.config
    const from = Number(this.#state.recall('own_height') ?? 0)
    const told = peer.tips.find((tip) => tip.origin === origin)
    if (told === undefined || told.height <= from || ledger.knownBeyond(origin, from) > 0) return
    const keys = (await this.#state.keysOf(origin))!
    for (const batch of await client.getBatches(from + 1, keys)) {
      if (ledger.learnBatch(batch, peer.did, Date.now())) this.#state.touched.add(origin)
    }
  }

  /**
   * Reads on in a peer's feed. Items of a log that has no room for more pending batches are left for later, and those
   * after them are read all the same: `cursor`, up to where everything was taken, is what is remembered.
   */
  async #readFeed(context: Context, client: Remembrancer, peer: Peer): Promise<Peer> {
    const { peers } = this.#state
    const ahead = this.#ahead.get(peer.did)
    const isStuck = ahead !== undefined && ahead.seq >= peer.cursor && this.#isFull(ahead.origin)
    let at = isStuck ? ahead.seq : peer.cursor
    let { cursor, last } = peer
    let full: string | null = isStuck ? ahead.origin : null
    for (let i = 0; i < PAGES_PER_VISIT && at < peer.feedEnd; i++) {
      // With the item that was read last: a peer put back in time has another one there.
      const isOverlap = i === 0 && at === cursor && cursor > 0
      const page = await client.feed(isOverlap ? at - 1 : at)
      if (page.feedId !== peer.feedId) break
      // A time-stamp that gave way to an earlier one is gone from there; nothing is read again for that.
      const [first] = page.items
      const again = isOverlap && first?.seq === cursor ? first : null
      const items = again === null ? page.items : page.items.slice(1)
      if (again !== null && digestOf(again) !== last) {
        peers.read(peer.did, 0, null)
        break
      }
      for (const item of items) {
        if (item.seq <= at) {
          const fault = `${hostOf(client.url)} numbers its feed backwards.`
          throw new VaultMeshError('bad-request', fault)
        }
        at = item.seq
        if (!(await this.take(context, peer, item))) full ??= item.origin
        if (full !== null) continue
        cursor = at
        last = digestOf(item)
      }
      if (full === null) peers.read(peer.did, cursor, last)
      if (items.length === 0) break
    }
    if (full === null) this.#ahead.delete(peer.did)
    else this.#ahead.set(peer.did, { seq: at, origin: full })
    return peers.get(peer.did)!
  }

  #isFull(origin: string): boolean {
    return this.#state.ledger.countPending(origin) >= MAX_PENDING
  }

  /** Takes one item down if it verifies; false if there is no room for it now. */
  async take(context: Context, peer: Pick<Peer, 'did'>, item: FeedItem): Promise<boolean> {
    const keys = await this.#state.keysOf(item.origin)
    // A log of somebody whom we do not list.
    if (keys === null) return true
    const nowAt = Date.now()
    try {
      if (item.type === 'batch') {
        const batch = await readSignedBatch(keys, item.manifest, item.checkpoint)
        // What can be recomputed at once takes no room from anybody.
        if (this.#isFull(item.origin) && !this.#state.ledger.canBegin(batch.manifest)) return false
        // First, so that a crash leaves the batch unknown and not the fork untold.
        await this.#tellRival(batch)
        if (this.#state.ledger.learnBatch(batch, peer.did, nowAt))
          this.#state.touched.add(item.origin)
      } else {
        await this.takeProof(context, item.origin, item.receipt)
      }
    } catch (error) {
      if (!(error instanceof VaultMeshError)) throw error
      // Not the origin's: it says something of the sender alone.
      this.#state.peers.fault(peer.did)
      this.#state.peers.refused('untrusted-checkpoint')
    }
    return true
  }

  /** Two roots of one height are a fork by their signatures alone, also if the events of one are never shown. */
  async #tellRival({ manifest: { origin, height, root } }: SignedBatch): Promise<void> {
    const { ledger, env } = this.#state
    const roots = new Set(ledger.batchesAt(origin, height).map((known) => known.root))
    if (roots.size === 0 || roots.has(root)) return
    const detail = `${origin} signed ${roots.size + 1} roots at height ${height}. The evidence is kept.`
    const query = new URLSearchParams({ origin, height: String(height) }).toString()
    await openAlert(
      env.DB,
      {
        kind: 'fork',
        key: origin,
        severity: 'critical',
        detail,
        link: `/federation/evidence?${query}`,
      },
      Date.now(),
    )
    if (ledger.log(origin)!.isOwn) await env.SEQUENCER.getByName('log').halt(detail)
  }

  /** Takes an anchor proof of a known root down if it verifies; throws what refuses it. */
  async takeProof({ node }: Context, origin: string, receipt: AnchorReceipt): Promise<void> {
    if (utf8(JSON.stringify(receipt)).length > MAX_RECEIPT_BYTES) {
      throw new VaultMeshError('bad-receipt', `A receipt has at most ${MAX_RECEIPT_BYTES} bytes.`)
    }
    if (!this.#state.ledger.hasRoot(origin, receipt.root.slice(2), receipt.treeSize)) {
      throw new VaultMeshError('bad-receipt', 'The proof is of no root of this log.')
    }
    const { did } = this.#state.ledger.log(origin)!
    const history = await this.#state.historyOf(did)
    // The word of the log's operator for an EVM block is enough to look it up ourselves.
    const nodeDids = history.keys.map((key) => key.did)
    const verdict = await verifyAnchorReceipt(receipt, { tsaRoots: node.config.tsaRoots, nodeDids })
    if (verdict.outcome !== 'verified') {
      throw new VaultMeshError('bad-proof', `The proof is ${verdict.outcome}: ${verdict.reason}`)
    }
    if (this.#state.ledger.learnProof(origin, receipt, Date.now())) this.#state.touched.add(origin)
  }

  /** Fetches what waits for its events, of all logs or of those named. */
  async fetchEvents(
    { config }: Context,
    client: Remembrancer,
    peer: Pick<Peer, 'did'>,
    origins?: readonly string[],
  ): Promise<void> {
    for (const { origin, did } of this.#state.ledger.logs()) {
      if (origins?.includes(origin) === false) continue
      const history = await this.#state.historyOf(did)
      const isOperator = (keyDid: string): boolean => wasEverKey(history, keyDid)
      for (const batch of this.#state.ledger.pending(origin, ALL_TIME, BATCHES_PER_VISIT)) {
        if ((this.#waits.get(batch.id)?.get(peer.did)?.nextAt ?? 0) > Date.now()) continue
        // First from whom it came, or whose it is; from anybody once that one did not have it, or nothing came of it.
        const isFirst = batch.source === peer.did || did === peer.did
        const isFresh = batch.tries === 0 && Date.now() - batch.learnedAt < 2 * config.intervalMs
        if (!isFirst && isFresh) continue
        const isBegun = batch.begunBy !== null && batch.begunBy !== peer.did
        if (isBegun && Date.now() - batch.begunAt < BEGUN_MS) continue
        if (!(await this.#fetchBatch(config, { batch, client, peer, isOperator }))) break
      }
    }
  }

  /** Until when a peer is not asked for a batch again: 1 s, 2 s, … a minute from now. */
  #putOff({ id }: StoredBatch, did: string, nowAt: number): number {
    let ofBatch = this.#waits.get(id)
    if (ofBatch === undefined) this.#waits.set(id, (ofBatch = new Map()))
    const tries = ofBatch.get(did)?.tries ?? 0
    const nextAt = nowAt + Math.min(MAX_RETRY_MS, RETRY_MS * 2 ** Math.min(tries, 6))
    ofBatch.set(did, { tries: tries + 1, nextAt })
    return nextAt
  }

  /** True if the next batch of the log may be tried. */
  async #fetchBatch(
    config: FederationConfig,
    {
      batch,
      client,
      peer,
      isOperator,
    }: {
      readonly batch: StoredBatch
      readonly client: Remembrancer
      readonly peer: Pick<Peer, 'did'>
      readonly isOperator: (keyDid: string) => boolean
    },
  ): Promise<boolean> {
    // By what it is kept under: rivals may name the same events.
    const name = `${batch.origin} ${batch.height} ${batch.batchRoot}`
    if (this.#recomputing.has(name)) return true
    this.#recomputing.add(name)
    const { did: from } = peer
    const { erasures } = this.#state
    const step = { batch, client, parts: PARTS_PER_BATCH, from, isOperator, erasures }
    let result: Recomputed
    try {
      result = await recompute(this.#state.env, this.#state.ledger, step)
    } catch (error) {
      // The peer did not answer: this visit is over, and the next batch may be somebody else's to give.
      const reason = error instanceof Error ? error.message : String(error)
      this.#state.ledger.missed(batch, reason.slice(0, 200))
      throw error
    } finally {
      this.#recomputing.delete(name)
    }
    const nowAt = Date.now()
    switch (result.outcome) {
      case 'verified':
        this.#state.touched.add(batch.origin)
        this.#waits.delete(batch.id)
        await clearAlert(this.#state.env.DB, 'quarantine', quarantineKey(batch), nowAt).run()
        return true
      case 'more':
      case 'orphan':
        return result.outcome === 'orphan'
      case 'unavailable': {
        this.#state.ledger.postpone(batch, result.reason, this.#putOff(batch, peer.did, nowAt))
        if (result.isFault) this.#state.peers.fault(peer.did)
        return true
      }
      case 'bad-root': {
        this.#state.ledger.quarantine(
          batch,
          result.reason,
          nowAt + config.quarantineMinutes * 60_000,
        )
        const { origin, height, root } = batch
        const detail = `${origin} signed root ${root.slice(0, 16)}… at height ${height}, and ${result.reason}. It is held; the log's tip does not move onto it.`
        const link = '/federation/conflicts'
        await openAlert(
          this.#state.env.DB,
          { kind: 'quarantine', key: quarantineKey(batch), severity: 'critical', detail, link },
          nowAt,
        )
        return true
      }
    }
  }
}

function digestOf(item: FeedItem): string {
  return toHex(sha256(utf8(JSON.stringify(item))))
}

function quarantineKey({ origin, height, root }: StoredBatch): string {
  return `${origin}/${height}/${root.slice(0, 16)}`
}
