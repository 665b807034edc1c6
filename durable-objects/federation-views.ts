/**
 * What the Federation Durable Object shows: peers, tips, conflicts with their evidence, the mesh root, and what
 * it remembers of logs. Reads of its tables alone.
 */

import { concat, toBase64, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { MAX_EVIDENCE_BATCHES, type Evidence } from '#core/fork-evidence.ts'
import { meshRoot } from '#core/mesh.ts'
import { noPeaks, packPeaks } from '#core/peaks.ts'
import { isoTime } from '#core/time.ts'
import type {
  ConflictsView,
  FederationFigures,
  FeedAnswer,
  MeshView,
  PeersView,
  PeerView,
  RememberedBatch,
  TipView,
} from '#store/federation-api.ts'
import { getBytes } from '#store/bucket.ts'
import { entriesKey, nameOfLog } from '#store/mirror.ts'
import type { Context, FederationState } from './federation-state.ts'
import type { StoredBatch } from './ledger.ts'
import { peaksAfter } from './mirror.ts'
import type { Peer } from './peers.ts'

/** Entries of a bad root's evidence: 3.2 MB, 4.3 MB in base64. */
const MAX_EVIDENCE_ENTRIES = 100_000
/** A peer is live that answered or spoke within so many intervals. */
const LIVE_INTERVALS = 20

export class FederationViews {
  readonly #state: FederationState

  constructor(state: FederationState) {
    this.#state = state
  }

  async feed(after: number): Promise<FeedAnswer | null> {
    const feedId = this.#state.recall('feed')
    // One that left to its successor still tells that what it knew.
    const isTold = (await this.#state.load()) !== null || this.#state.recall('retired') !== null
    return feedId !== null && isTold ? { feedId, ...this.#state.ledger.feedPage(after) } : null
  }

  async peersView(): Promise<PeersView | null> {
    const context = await this.#state.load()
    if (context === null) return null
    const peers = await Promise.all(
      this.#state.peers.all().map((peer) => this.#peerView(context, peer)),
    )
    return {
      node_did: context.node.nodeDid,
      lawHash: context.lawHash,
      peers,
      refusals: this.#state.peers.refusals(),
    }
  }

  async #peerView(context: Context, peer: Peer): Promise<PeerView> {
    const { keys } = await this.#state.peers.history(peer.did)
    const followed = peer.origin === null ? null : this.#state.ledger.log(peer.origin)
    const told = peer.tips.find(({ origin }) => origin === peer.origin)
    const time = (at: number | null): string | null => (at === null ? null : isoTime(at))
    return {
      did: peer.did,
      node_id: peer.nodeId,
      url: peer.url,
      origin: peer.origin,
      vkey: peer.vkey,
      keys: keys.map(({ epoch, did, nbf, end }) => ({
        epoch,
        did,
        nbf: nbf === 0 ? null : isoTime(nbf * 1000),
        end: end === null ? null : isoTime(end * 1000),
      })),
      state: this.#stateOf(context, peer),
      lastSeen: time(Math.max(peer.heardAt ?? 0, peer.answeredAt ?? 0) || null),
      tip:
        followed === null
          ? null
          : {
              height: followed.tipHeight,
              treeSize: followed.tipSize,
              root: `sha256:${followed.tipRoot}`,
            },
      lag:
        told === undefined || followed === null
          ? null
          : Math.max(0, told.height - followed.tipHeight),
      tips: peer.tips.map(({ origin, height, treeSize, root }) => ({
        origin,
        height,
        treeSize,
        root: `sha256:${root}`,
      })),
      failures: peer.failures,
      nextVisit: peer.nextAt === 0 ? null : isoTime(peer.nextAt),
      error: peer.error,
      faults: peer.faults,
      lawHash: peer.lawHash,
      keyConflict: peer.keyConflict,
    }
  }

  #stateOf(context: Context, peer: Peer): PeerView['state'] {
    if (peer.keyConflict !== null) return 'key-conflict'
    if (peer.url === null) return 'no-address'
    if (peer.failures > 0) return 'failing'
    if (peer.answeredAt === null) return 'unseen'
    return peer.lawHash === context.lawHash ? 'ok' : 'law-mismatch'
  }

  async figures(): Promise<FederationFigures | null> {
    const context = await this.#state.load()
    if (context === null) return null
    const peers = {
      'no-address': 0,
      unseen: 0,
      ok: 0,
      failing: 0,
      'law-mismatch': 0,
      'key-conflict': 0,
    }
    for (const peer of this.#state.peers.all()) peers[this.#stateOf(context, peer)]++
    const { ledger } = this.#state
    const logs = ledger.logs()
    return {
      peers,
      conflicts: logs.filter(({ conflicts }) => conflicts.length > 0).length,
      quarantined: logs.reduce((n, { origin }) => n + ledger.countQuarantined(origin), 0),
      refusals: this.#state.peers.refusals(),
    }
  }

  async tipsView(): Promise<readonly TipView[] | null> {
    if ((await this.#state.load()) === null) return null
    return this.#state.ledger.logs().map((found) => ({
      origin: found.origin,
      did: found.did,
      own: found.isOwn,
      state:
        found.conflicts.length === 0
          ? 'clear'
          : found.conflicts.at(-1)!.winner === null
            ? 'undecided'
            : 'decided',
      height: found.tipHeight,
      treeSize: found.tipSize,
      root: `sha256:${found.tipRoot}`,
      tipAt: found.tipAt === null ? null : isoTime(found.tipAt),
      mirrored: found.isOwn ? found.tipSize : this.#state.tiles.sizeOf(found.origin),
      pending: this.#state.ledger.countPending(found.origin),
    }))
  }

  async conflictsView(): Promise<ConflictsView | null> {
    const context = await this.#state.load()
    if (context === null) return null
    const logs = this.#state.ledger.logs()
    return {
      lawHash: context.lawHash,
      law: context.law,
      conflicts: logs.flatMap(({ origin, conflicts }) =>
        conflicts.map((conflict) => ({
          ...conflict,
          origin,
          candidates: conflict.candidates.map(({ root, treeSize, proofs }) => {
            const batch = this.#state.ledger.batch(origin, conflict.height, root)!
            return {
              root: `sha256:${root}`,
              treeSize,
              proofs: proofs.map(({ chain, network, txHash, anchoredAt }) => ({
                chain,
                network,
                txHash,
                anchorTs: anchoredAt === null ? null : isoTime(anchoredAt),
              })),
              manifest: batch.manifest,
              checkpoint: batch.checkpoint,
            }
          }),
        })),
      ),
      quarantine: this.#state.ledger.quarantined().map((batch) => ({
        origin: batch.origin,
        height: batch.height,
        root: `sha256:${batch.root}`,
        treeSize: batch.treeSize,
        reason: batch.reason ?? '',
        until: isoTime(batch.until ?? 0),
        manifest: batch.manifest,
        checkpoint: batch.checkpoint,
      })),
      rivals: this.#state.witness
        .rivals()
        .map(({ origin, size, note, cosigned }) => ({ origin, size, notes: [cosigned, note] })),
    }
  }

  /**
   * Evidence against a log at a height, as a file: a fork if two verified batches stand there, else the root that is
   * quarantined. Throws `not-found` if there is neither.
   */
  async evidence(origin: string, height: number): Promise<Evidence | null> {
    if ((await this.#state.load()) === null) return null
    const { ledger } = this.#state
    const found = ledger.log(origin)
    const all = ledger.batchesAt(origin, height)
    const verified = all.filter(({ state }) => state === 'verified')
    const held = all.find(({ state }) => state === 'quarantined')
    // Two signatures are evidence, whether the events behind them are shown or not.
    const rivals = ofTwoRoots(verified) ?? (held === undefined ? ofTwoRoots(all) : null)
    if (found === null || (rivals === null && held === undefined)) {
      throw new VaultMeshError('not-found', `Nothing speaks against ${origin} at height ${height}.`)
    }
    const { statements } = await this.#state.historyOf(found.did)
    const { vkey, did: operator } = found
    const base = { v: 1 as const, origin, vkey, operator, statements: [...statements], height }
    if (rivals !== null) return { ...base, kind: 'fork', batches: rivals.map(signedOf) }
    return {
      ...base,
      kind: 'bad-root',
      batches: [signedOf(held!)],
      ...(await this.#proofOf(held!)),
    }
  }

  /** The tree before a quarantined batch, and its entries. */
  async #proofOf(batch: StoredBatch): Promise<{ peaks: string; entries: string }> {
    const { ledger, env } = this.#state
    if (batch.count > MAX_EVIDENCE_ENTRIES) {
      const detail = `Its ${batch.count} entries are more than a file holds, ${MAX_EVIDENCE_ENTRIES}.`
      throw new VaultMeshError('not-found', detail)
    }
    const parent = ledger.parentOf(batch)
    if (parent === null) throw new VaultMeshError('not-found', 'The batch before it is not here.')
    const before = parent === 'genesis' ? noPeaks : await peaksAfter(env, ledger, parent)
    const { origin, height, batchRoot } = batch
    const parts: Uint8Array[] = []
    for (let part = 0, seen = 0; seen < batch.count; part++) {
      const bytes = await getBytes(env.BUCKET, entriesKey(origin, { height, batchRoot, part }))
      if (bytes === null) throw new VaultMeshError('not-found', 'Its entries are not all here.')
      parts.push(bytes)
      seen += bytes.length / 32
    }
    return { peaks: toHex(packPeaks(before)), entries: toBase64(concat(...parts)) }
  }

  /**
   * The mesh root over the given heights, or over those that every live peer has acknowledged. Throws `not-found`
   * if a height has no canonical batch here.
   */
  async meshView(
    wanted: readonly { readonly origin: string; readonly height: number }[] | null,
  ): Promise<MeshView | null> {
    const context = await this.#state.load()
    if (context === null) return null
    const heights = wanted ?? this.#acknowledged(context)
    const entries = heights.map(({ origin, height }) => {
      const batch = this.#state.ledger.canonical(origin, height)
      if (batch === null) {
        throw new VaultMeshError('not-found', `No canonical batch ${height} of ${origin} is here.`)
      }
      return { origin, height, treeSize: batch.treeSize, root: batch.root }
    })
    const query = new URLSearchParams({
      origins: entries.map(({ origin }) => origin).join(','),
      heights: entries.map(({ height }) => height).join(','),
    })
    return {
      meshRoot: `sha256:${toHex(meshRoot(entries))}`,
      entries: entries.map((entry) => ({ ...entry, root: `sha256:${entry.root}` })),
      query: `/federation/mesh?${query.toString()}`,
    }
  }

  /** For each log the height that we and all live peers of our law have reached; logs at 0 are left out. */
  #acknowledged({ lawHash: ours, config }: Context): { origin: string; height: number }[] {
    const liveAt = Date.now() - LIVE_INTERVALS * config.intervalMs
    const live = this.#state.peers
      .all()
      .filter(
        (peer) =>
          Math.max(peer.heardAt ?? 0, peer.answeredAt ?? 0) >= liveAt &&
          peer.lawHash === ours &&
          peer.keyConflict === null,
      )
    return this.#state.ledger
      .logs()
      .map(({ origin, tipHeight }) => ({
        origin,
        height: Math.min(
          tipHeight,
          ...live.map(({ tips }) => tips.find((tip) => tip.origin === origin)?.height ?? 0),
        ),
      }))
      .filter(({ height }) => height > 0)
  }

  /** A canonical batch of a log known here, or of a rival by its root. */
  async batchAt(origin: string, height: number): Promise<RememberedBatch | null> {
    const batch = this.#state.ledger.canonical(origin, height)
    return batch === null ? null : remembered(batch)
  }

  async batchesFrom(origin: string, from: number): Promise<readonly RememberedBatch[] | null> {
    if (this.#state.ledger.log(origin) === null) return null
    return this.#state.ledger.canonicalFrom(origin, from, 100).map(remembered)
  }

  async proofsOf(
    origin: string,
    chain: string,
    after: number,
  ): Promise<{ readonly receipts: readonly object[]; readonly next: number | null } | null> {
    if (this.#state.ledger.log(origin) === null) return null
    const found = this.#state.ledger.proofsOf(origin, chain, after, 50)
    return {
      receipts: found.map(({ receipt }) => JSON.parse(receipt) as object),
      next: found.length === 50 ? found.at(-1)!.id : null,
    }
  }

  /** A mirrored log by its hex name: its origin, its newest checkpoint and how far its tiles go. */
  async mirrored(name: string): Promise<{
    readonly origin: string
    readonly checkpoint: string
    readonly size: number
  } | null> {
    for (const found of this.#state.ledger.logs()) {
      if (nameOfLog(found.origin) !== name || found.isOwn) continue
      const size = this.#state.tiles.sizeOf(found.origin)
      const at = this.#state.tiles.heightOf(found.origin)
      const batch = at === 0 ? null : this.#state.ledger.canonical(found.origin, at)
      if (batch === null) return null
      return { origin: found.origin, checkpoint: batch.checkpoint, size }
    }
    return null
  }
}

/** One batch of each root, as many as a file holds; null unless there are two. */
function ofTwoRoots(batches: readonly StoredBatch[]): readonly StoredBatch[] | null {
  const byRoot = new Map(batches.map((batch) => [batch.root, batch]))
  return byRoot.size < 2 ? null : [...byRoot.values()].slice(0, MAX_EVIDENCE_BATCHES)
}

function signedOf({ manifest, checkpoint }: StoredBatch) {
  return { manifest, checkpoint }
}

function remembered({
  height,
  root,
  treeSize,
  manifest,
  checkpoint,
}: StoredBatch): RememberedBatch {
  return { height, root: `sha256:${root}`, treeSize, manifest, checkpoint }
}
