/**
 * Federation: one for each node. It knows the peers, mirrors their logs, cosigns them, and stands on one tip of
 * each log by one law (design §7).
 *
 * Stored (SQLite): `config` (the applied YAML, the feed's name), and the tables of peers.ts, ledger.ts,
 * mirror.ts and witness-store.ts.
 *
 * A round, each gossip.interval_ms by alarm, and at once when somebody has news:
 *   1 absorb   own batches and receipts from D1        3 confirm  proofs in conflict, with our own providers
 *   2 visit    each peer that is due: envelope, feed,  4 judge    logs that learned something; lay tiles out
 *              events, our checkpoint to its witness    5 tell     alerts, cosignatures to the Sequencer
 * Every visit ends by min(timeout_ms, interval_ms); what it did not finish is stored and goes on in the
 * next round. At most four visits run at once, at most two of them to peers that failed last time, so slow
 * and dead peers cost the others nothing; with one foreign witness and one provider they are the platform's six
 * connections.
 *
 * Invariants: nothing a peer says changes state before it verified; a tip is judged from storage alone; the
 * alarm's first statement sets the next one and its body never throws; the minute cron arms it again.
 *
 * RPCs: apply, configuration, inherit, retire, branchesOf, gossip, tellHealth, admission, count, feed, addCheckpoint, cosigned, wake, sweep, views, clearance, checkChains, readIndexAgain.
 */
import { DurableObject } from 'cloudflare:workers'
import { anchorReceiptSchema, type Chain } from '#core/anchor-receipt.ts'
import { canonicalDid } from '#core/did.ts'
import { wasEverKey } from '#core/rotation.ts'
import { VaultMeshError } from '#core/errors.ts'
import { parseFederationConfig, type FederationConfig } from '#core/federation-config.ts'
import type { Evidence } from '#core/fork-evidence.ts'
import { readEnvelope } from '#core/gossip.ts'
import { parseVkey, type VerifierKey } from '#core/signed-note.ts'
import { amendAlert, clearAlert, openAlert } from '#store/alerts.ts'
import type {
  Admission,
  Branches,
  Clearance,
  ConflictsView,
  FederationFigures,
  FeedAnswer,
  GossipAnswer,
  MeshView,
  PeersView,
  RememberedBatch,
  TipView,
} from '#store/federation-api.ts'
import { refusalOf, type Refused } from '#store/federation-api.ts'
import type { Findings } from '#store/findings.ts'
import { nodeOf, type NodeContext } from '#store/node.ts'
import { readSignedBatch } from '../functions/remembrancer.ts'
import { checkReceiptsOnChain, checkWallets } from '../queues/anchors/chain-check.ts'
import { confirmReceipt } from '../queues/anchors/confirm.ts'
import { Cosigners } from './cosigners.ts'
import { Envelopes } from './envelopes.ts'
import { FederationState, warn, type Context } from './federation-state.ts'
import { FederationViews } from './federation-views.ts'
import type { LogState } from './ledger.ts'
import { PreviousLogs } from './previous-logs.ts'
import { Visits } from './visits.ts'
import type { WitnessAnswer } from './witness-store.ts'

/** Own batches taken over from D1 in one round. */
const OWN_PER_ROUND = 200
/** Batches laid out as tiles in one round. */
const TILED_PER_ROUND = 50
/** Own batches taken back from peers in one round. */
const TAKEN_BACK_PER_ROUND = 20
/** Proofs asked of providers in one round. */
const CONFIRMED_PER_ROUND = 8
/** A provider that did not confirm is asked again after 1 s, 2 s, … a minute. */
const RETRY_MS = 1000
const MAX_RETRY_MS = 60_000
/** A confirmed proof is held against its chain again each hour. */
const RECONFIRM_MS = 3_600_000
/** News from a peer is followed up at once, but not more often than this. */
const NEWS_EVERY_MS = 50
/** How long a node that starts waits for its peers before it seals without having heard them all. */
const CLEARANCE_MS = 10_000

export class Federation extends DurableObject<Env> {
  readonly #state: FederationState
  readonly #envelopes: Envelopes
  readonly #cosigners: Cosigners
  readonly #visits: Visits
  readonly #previous: PreviousLogs
  readonly #views: FederationViews
  #running: Promise<void> | null = null
  #alarmAt: number | null = null
  #lastRoundAt = 0
  #isFirstRound = true
  /** Peers that said they have news, since the last round. */
  readonly #news = new Set<string>()
  #isAllDue = true
  #allVisitedAt = 0
  /** True once this process has ended its own log. */
  #isHalted = false
  readonly #startedAt = Date.now()

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#state = new FederationState(env, ctx)
    this.#envelopes = new Envelopes(this.#state)
    this.#cosigners = new Cosigners(this.#state)
    this.#visits = new Visits(this.#state, this.#envelopes, this.#cosigners, (context) =>
      this.#judgeTouched(context),
    )
    this.#previous = new PreviousLogs(this.#state, this.#visits)
    this.#views = new FederationViews(this.#state)
  }

  // ── configuration and envelopes ──────────────────────────────────────────────────────────────

  /**
   * Takes a configuration over (config/federation.yaml as text), from now on. Null leaves the federation. With `seen`
   * it is refused (`changed-meanwhile`) unless that is the one in force.
   */
  async apply(yaml: string | null, seen?: string): Promise<{ readonly peers: number } | Refused> {
    try {
      const node = await nodeOf(this.#state.env)
      const parsed = yaml === null ? null : parseFederationConfig(yaml)
      if (parsed?.nodeDid != null && canonicalDid(parsed.nodeDid) !== canonicalDid(node.nodeDid)) {
        throw new VaultMeshError(
          'bad-config',
          `config/federation.yaml: node_did is not this node's, which is ${node.nodeDid}.`,
          { extra: { key: 'node_did' } },
        )
      }
      this.ctx.storage.transactionSync(() => {
        if (seen !== undefined && this.#state.recall('yaml') !== seen) {
          throw new VaultMeshError(
            'changed-meanwhile',
            'The configuration is another than you looked at.',
          )
        }
        if (yaml === null) this.#state.forget('yaml')
        else this.#state.remember('yaml', yaml)
        this.#state.peers.list(
          (parsed?.peers ?? []).filter((p) => p.canonical !== canonicalDid(node.nodeDid)),
        )
      })
      this.#state.isAwaited = false
      this.#state.forgetContext()
      // Another law may name other winners.
      this.#isFirstRound = true
      await this.#arm(0)
      return { peers: parsed?.peers.length ?? 0 }
    } catch (error) {
      return refusalOf(error)
    }
  }

  /** The applied configuration as text; null if there is none. */
  async configuration(): Promise<string | null> {
    return this.#state.recall('yaml')
  }

  /** Falls silent for good: this log was ended, and the one that follows it speaks for the node. */
  async retire(): Promise<void> {
    this.#state.remember('retired', '1')
    this.#state.forgetContext()
  }

  /** Takes the configuration of the log before this one over, once; what was applied here stands. */
  async inherit(yaml: string): Promise<void> {
    if (this.#state.recall('inherited') !== null) return
    if (this.#state.recall('yaml') === null) {
      const answer = await this.apply(yaml)
      if ('refusal' in answer) {
        const { code, detail } = answer.refusal
        throw new VaultMeshError(code, detail)
      }
    }
    this.#state.remember('inherited', '1')
  }

  /** What became of the batches of a log that forked; null while this node is in no federation. */
  async branchesOf(origin: string): Promise<Branches | null> {
    return (await this.#state.load()) === null ? null : this.#state.ledger.branches(origin)
  }

  /** Hears an envelope and answers with one. Refusals are counted, by code. */
  async gossip(bytes: Uint8Array): Promise<GossipAnswer> {
    try {
      const context = await this.#state.required()
      const peer = await this.#envelopes.hear(context, readEnvelope(bytes), false)
      if (peer.feedEnd > peer.cursor) {
        this.#news.add(peer.did)
        await this.#arm(NEWS_EVERY_MS)
      }
      return { envelope: await this.#envelopes.speak(context, peer.did) }
    } catch (error) {
      const answer = refusalOf(error)
      this.#state.peers.refused(answer.refusal.code)
      return answer
    }
  }

  /** This node's newest telemetry (JWS): it travels with the next envelopes. */
  async tellHealth(jws: string): Promise<void> {
    this.#state.health = jws
  }

  /** Who may speak: what refuses strangers before they reach this object. */
  async admission(): Promise<Admission | null> {
    const context = await this.#state.load()
    if (context === null) return null
    const { nodeDid } = context.node
    const peers = this.#state.peers.all().map(({ did, statements, keyConflict }) => ({
      did,
      statements,
      frozenEpoch: keyConflict?.epoch ?? null,
    }))
    return { nodeDid: canonicalDid(nodeDid), lawHash: context.lawHash, peers }
  }

  /** Adds refusals that were made elsewhere. */
  async count(refusals: Readonly<Record<string, number>>): Promise<void> {
    for (const [code, n] of Object.entries(refusals)) this.#state.peers.refused(code, n)
  }

  // ── rounds ───────────────────────────────────────────────────────────────────────────────────

  /** The Sequencer has sealed and indexed: tell the peers now. */
  async wake(): Promise<void> {
    if ((await this.#state.load()) !== null) await this.#arm(0)
  }

  /** The minute: whatever stopped the rounds, they go on. */
  async sweep(): Promise<void> {
    const context = await this.#state.load()
    if (context === null) return
    const idleMs = Date.now() - this.#lastRoundAt
    if (idleMs > 2 * context.config.intervalMs + 1000) {
      this.#alarmAt = null
      await this.#arm(0)
    }
  }

  override async alarm(): Promise<void> {
    const intervalMs = this.#intervalMs()
    this.#alarmAt = intervalMs === null ? null : Date.now() + intervalMs
    if (this.#alarmAt !== null) await this.ctx.storage.setAlarm(this.#alarmAt)
    try {
      await this.round()
    } catch (error) {
      warn('federation round failed', error)
    }
  }

  /** The interval as stored, without a look at anything that could fail. */
  #intervalMs(): number | null {
    const text = this.#state.recall('interval')
    if (this.#state.recall('yaml') === null || this.#state.recall('retired') !== null) return null
    return text === null ? 1500 : Number(text)
  }

  async #arm(delayMs: number): Promise<void> {
    if (delayMs === 0) this.#isAllDue = true
    const at = Math.max(Date.now() + delayMs, this.#lastRoundAt + NEWS_EVERY_MS)
    if (this.#alarmAt !== null && this.#alarmAt <= at && this.#alarmAt > Date.now() - 1000) return
    this.#alarmAt = at
    await this.ctx.storage.setAlarm(at)
  }

  /** One round; calls that come while one runs wait for it. */
  round(): Promise<void> {
    this.#running ??= this.#round().finally(() => {
      this.#running = null
      this.#lastRoundAt = Date.now()
    })
    return this.#running
  }

  async #round(): Promise<void> {
    const context = await this.#state.load()
    if (context === null) return
    this.#state.remember('interval', String(context.config.intervalMs))
    const nowAt = Date.now()
    if (this.#isFirstRound) {
      // A process that died between learning and judging has not judged.
      for (const { origin } of this.#state.ledger.logs()) this.#state.touched.add(origin)
      this.#isFirstRound = false
    }
    await this.#absorb(context, nowAt)
    await this.#previous.absorb(context, nowAt)
    await this.#judgeTouched(context)
    for (const batch of this.#state.ledger.quarantineOver(nowAt)) {
      this.#state.ledger.release(batch.origin, batch.height, batch.root)
    }
    // News of one peer are no reason to bother the others.
    const isAll = this.#isAllDue || nowAt >= this.#allVisitedAt + context.config.intervalMs - 50
    const news = new Set(this.#news)
    this.#news.clear()
    if (isAll) {
      this.#isAllDue = false
      this.#allVisitedAt = nowAt
    }
    await this.#visits.visitAll(context, nowAt, isAll ? null : news)
    await this.#judgeTouched(context)
    await this.#takeBack(context)
    this.#cosigners.askForeign(context, nowAt)
    await this.#confirm(context)
    await this.#judgeTouched(context)
    for (const log of this.#state.ledger.logs()) {
      if (log.isOwn) continue
      await this.#state.tiles
        .advance(log, TILED_PER_ROUND)
        .catch((error: unknown) => warn(`the mirror of ${log.origin} stands still`, error))
    }
    for (const { origin, did } of this.#state.ledger.logs()) {
      await this.#state
        .historyOf(did)
        .then((history) => this.#state.erasures.advance(origin, (key) => wasEverKey(history, key)))
        .catch((error: unknown) => warn(`erasures of ${origin} wait`, error))
    }
    this.#state.peers.forgetReplays(nowAt)
    this.#state.peers.storeRefusals()
  }

  /**
   * What peers remember of our own log beyond its head: this node comes from an old backup, and takes its own
   * batches back before it seals (`clearance`). Each was recomputed from its events like any mirrored one.
   */
  async #takeBack({ node }: Context): Promise<void> {
    const { ledger, env } = this.#state
    const { origin } = node.config
    const own = ledger.log(origin)!
    const from = Number(this.#state.recall('own_height') ?? 0)
    if (own.conflicts.length > 0 || own.tipHeight <= from) return
    for (const batch of ledger.canonicalFrom(origin, from + 1, TAKEN_BACK_PER_ROUND)) {
      if (batch.source === 'own') continue
      await env.SEQUENCER.getByName('log').adopt({
        height: batch.height,
        root: batch.root,
        batchRoot: batch.batchRoot,
        firstIndex: batch.firstIndex,
        count: batch.count,
        treeSize: batch.treeSize,
        sealedAt: batch.sealedAt,
        manifest: batch.manifest,
        checkpoint: batch.checkpoint,
      })
    }
  }

  /** The index was made again: its receipts have other numbers now, and what was never learned may be among them. */
  async readIndexAgain(): Promise<void> {
    for (const name of ['own_height', 'own_receipt', 'revocations_at'])
      this.#state.remember(name, '0')
    await this.wake()
  }

  /** fsck: receipts held against their chains by our own providers, a page; `after` -1 asks for the wallets instead. */
  async checkChains(after: number): Promise<Findings> {
    const { env } = this.#state
    return after < 0 ? checkWallets(env, await nodeOf(env)) : checkReceiptsOnChain(env, after)
  }

  /** Step 1: batches and receipts of the own log that are not in the ledger yet. */
  async #absorb({ node }: Context, nowAt: number): Promise<void> {
    const { DB } = this.#state.env
    const { origin } = node.config
    const from = Number(this.#state.recall('own_height') ?? 0)
    const { results } = await DB.prepare(
      'SELECT height, manifest, checkpoint FROM batches WHERE committed = 1 AND height > ? ORDER BY height LIMIT ?',
    )
      .bind(from, OWN_PER_ROUND)
      .all<{ height: number; manifest: string; checkpoint: string }>()
    const keys = await this.#state.keysOf(origin)
    for (const { height, manifest, checkpoint } of results) {
      this.#state.ledger.learnOwn(await readSignedBatch(keys!, manifest, checkpoint), nowAt)
      this.#state.remember('own_height', String(height))
      this.#state.touched.add(origin)
    }
    const revoked = await DB.prepare(
      'SELECT r.id, r.chain, r.network, r.tx_hash AS txHash FROM revocations v JOIN receipts r ON r.id = v.receipt_id WHERE v.at >= ? LIMIT 100',
    )
      .bind(Number(this.#state.recall('revocations_at') ?? 0))
      .all<{ id: number; chain: Chain; network: string; txHash: string }>()
    for (const receipt of revoked.results) {
      this.#state.ledger.refute(origin, receipt)
      this.#state.touched.add(origin)
    }
    if (revoked.results.length > 0) this.#state.remember('revocations_at', String(nowAt))
    const after = Number(this.#state.recall('own_receipt') ?? 0)
    const receipts = await DB.prepare(
      `SELECT id, json FROM receipts r WHERE id > ? AND NOT EXISTS (SELECT 1 FROM revocations v WHERE v.receipt_id = r.id)
       ORDER BY id LIMIT 50`,
    )
      .bind(after)
      .all<{ id: number; json: string }>()
    for (const { id, json } of receipts.results) {
      const receipt = anchorReceiptSchema.parse(JSON.parse(json))
      this.#state.ledger.learnProof(origin, receipt, nowAt)
      this.#state.remember('own_receipt', String(id))
      this.#state.touched.add(origin)
    }
  }

  /**
   * Step 3: what a conflict hangs on is asked of our own providers, one after another: with the visits under way that
   * is the sixth connection. What an interval has no room for is the next round's.
   */
  async #confirm({ config }: Context): Promise<void> {
    const endAt = Date.now() + config.intervalMs
    for (const proof of this.#state.ledger.proofsToConfirm(Date.now(), CONFIRMED_PER_ROUND)) {
      if (Date.now() > endAt) return
      const receipt = anchorReceiptSchema.parse(JSON.parse(proof.receipt))
      const answer = await confirmReceipt(this.#state.env, receipt)
      // What was final is taken back by a disproof only, never by silence.
      const isKept = proof.state === 'confirmed' && answer !== 'refuted'
      const said = isKept ? 'confirmed' : answer
      const waitMs =
        said === 'confirmed'
          ? RECONFIRM_MS
          : Math.min(MAX_RETRY_MS, RETRY_MS * 2 ** Math.min(proof.tries, 6))
      this.#state.ledger.saidOf(proof, said, Date.now() + waitMs)
      this.#state.touched.add(proof.origin)
    }
  }

  /** Step 4. */
  async #judgeTouched({ law }: Context): Promise<void> {
    const nowAt = Date.now()
    for (const origin of this.#state.touched) {
      const { before, after } = this.#state.ledger.judge(origin, law, nowAt)
      this.#state.touched.delete(origin)
      if (after.conflicts.length > 0 || before.conflicts.length > 0) {
        await this.#conflictAlert(before, after, nowAt)
      }
    }
  }

  async #conflictAlert(before: LogState, after: LogState, nowAt: number): Promise<void> {
    const { origin } = after
    const last = after.conflicts.at(-1)
    if (last === undefined) return
    const isNews = JSON.stringify(before.conflicts) !== JSON.stringify(after.conflicts)
    // A process that died between judging and halting has not halted.
    if (!isNews && !(after.isOwn && !this.#isHalted)) return
    const how =
      last.winner === null
        ? `undecided (${last.undecided})`
        : `canonical ${last.winner.slice(0, 16)}…`
    const detail = `${origin} signed ${last.candidates.length} histories from height ${last.height} on: ${how}. The evidence is kept.`
    await amendAlert(
      this.#state.env.DB,
      { kind: 'fork', key: origin, severity: 'critical', detail, link: '/federation/conflicts' },
      nowAt,
    )
    if (!after.isOwn) return
    await this.#state.env.SEQUENCER.getByName('log').halt(detail)
    this.#isHalted = true
  }

  // ── witness ──────────────────────────────────────────────────────────────────────────────────

  /** C2SP tlog-witness add-checkpoint, for logs of the federation and foreign ones of the configuration. */
  async addCheckpoint(
    body: Uint8Array,
  ): Promise<Pick<WitnessAnswer, 'status' | 'body' | 'contentType'>> {
    const context = await this.#state.load()
    const nowAt = Date.now()
    if (context === null) {
      return {
        status: 404,
        body: 'this node witnesses no log\n',
        contentType: 'text/plain; charset=utf-8',
      }
    }
    const { node, config } = context
    const { rival, ...answer } = await this.#state.witness.addCheckpoint(body, {
      logOf: (origin) => this.#witnessed(config, node, origin),
      witness: node.witness.signer,
      nowAt,
    })
    if (rival !== null) {
      const detail = `${rival.origin} signed two roots for size ${rival.size}: this is a fork. Both notes are kept.`
      await openAlert(
        this.#state.env.DB,
        {
          kind: 'fork',
          key: rival.origin,
          severity: 'critical',
          detail,
          link: '/federation/conflicts',
        },
        nowAt,
      )
    }
    return answer
  }

  #witnessed(config: FederationConfig, node: NodeContext, origin: string): VerifierKey | null {
    if (origin === node.config.origin) return null
    // A log of ours that was ended grows by nobody's hand that we would vouch for.
    if (node.config.previousLogs.some((log) => log.origin === origin)) return null
    const followed = this.#state.ledger.log(origin)
    // A peer that left the list is vouched for no more.
    const isListed = followed !== null && this.#state.peers.get(followed.did) !== null
    if (isListed && !followed.isOwn) return parseVkey(followed.vkey)
    const foreign = config.logs.find((entry) => entry.origin === origin)
    return foreign === undefined ? null : parseVkey(foreign.vkey)
  }

  async cosigned(log: string): Promise<string | null> {
    return this.#state.witness.cosigned(log)
  }

  // ── what others see ──────────────────────────────────────────────────────────────────────────

  feed(after: number): Promise<FeedAnswer | null> {
    return this.#views.feed(after)
  }

  peersView(): Promise<PeersView | null> {
    return this.#views.peersView()
  }

  figures(): Promise<FederationFigures | null> {
    return this.#views.figures()
  }

  tipsView(): Promise<readonly TipView[] | null> {
    return this.#views.tipsView()
  }

  conflictsView(): Promise<ConflictsView | null> {
    return this.#views.conflictsView()
  }

  /** The mesh root, or its refusal. */
  async meshView(
    wanted: readonly { readonly origin: string; readonly height: number }[] | null,
  ): Promise<MeshView | Refused | null> {
    return this.#views.meshView(wanted).catch(refusalOf)
  }

  /** A file of evidence, or its refusal. */
  async evidence(origin: string, height: number): Promise<Evidence | Refused | null> {
    return this.#views.evidence(origin, height).catch(refusalOf)
  }

  batchAt(origin: string, height: number): Promise<RememberedBatch | null> {
    return this.#views.batchAt(origin, height)
  }

  batchesFrom(origin: string, from: number): Promise<readonly RememberedBatch[] | null> {
    return this.#views.batchesFrom(origin, from)
  }

  proofsOf(
    origin: string,
    chain: string,
    after: number,
  ): Promise<{ readonly receipts: readonly object[]; readonly next: number | null } | null> {
    return this.#views.proofsOf(origin, chain, after)
  }

  mirrored(name: string): Promise<{
    readonly origin: string
    readonly checkpoint: string
    readonly size: number
  } | null> {
    return this.#views.mirrored(name)
  }

  // ── the operator and the Sequencer ───────────────────────────────────────────────────────────

  /** Has a quarantined root looked at again now. */
  async release(origin: string, height: number, root: string): Promise<boolean> {
    const released = this.#state.ledger.release(origin, height, root)
    if (released) await this.#arm(0)
    return released
  }

  /** Lets a frozen peer speak again, with the keys it had. */
  async thaw(did: string): Promise<boolean> {
    const thawed = this.#state.peers.thaw(did)
    if (thawed) {
      await clearAlert(this.#state.env.DB, 'key_conflict', canonicalDid(did), Date.now()).run()
      await this.#arm(0)
    }
    return thawed
  }

  /**
   * Whether the Sequencer may seal on `height`. A node that starts first hears its peers: what they know of its
   * log beyond its own head was sealed by it before (it comes from an old backup), and sealing now would
   * fork the log.
   */
  async clearance(height: number): Promise<Clearance> {
    const context = await this.#state.load()
    if (this.#state.isAwaited) return { ok: false, reason: 'its federation is not configured yet' }
    if (context === null) return { ok: true, reason: '' }
    const { origin } = context.node.config
    const own = this.#state.ledger.log(origin)!
    if (own.conflicts.length > 0) return { ok: false, reason: 'the log has forked' }
    const ahead = this.#state.ledger.knownBeyond(origin, height)
    if (ahead > 0) {
      return { ok: false, reason: `peers know this log up to height ${ahead}, which is not here` }
    }
    const waitsFor = this.#state.peers
      .all()
      .filter(
        ({ did, url, keyConflict }) =>
          url !== null && keyConflict === null && !this.#visits.done.has(did),
      )
    if (waitsFor.length > 0 && Date.now() - this.#startedAt < CLEARANCE_MS) {
      await this.#arm(0)
      return { ok: false, reason: `${waitsFor.length} peers were not heard since the start` }
    }
    return { ok: true, reason: '' }
  }
}
