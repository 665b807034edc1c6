/**
 * Guardian: one for each node. It says how this node does, hears how its peers do, and speaks up when Ψ is low
 * (design §8).
 *
 * Stored (SQLite): the tables of guardian-store.ts.
 *
 * An interval, by alarm:
 *   1 collect  each signal from its owner (telemetry-collector.ts)     3 admit  sequence, Ψ, alarm, rows: one transaction
 *   2 sign     the statement is written down before anybody has it     4 act    alerts, wake-ups, events (guardian-acts.ts)
 * Own telemetry goes through the same step 3 as what comes by the door and by gossip.
 *
 * Invariants: of one node seq and time only grow, and of one seq there is one statement: what was signed and not
 * admitted when a process died is admitted by the next, byte for byte. Own seq is dense; the first, also after a silence,
 * is the clock in steps of 200 ms, the least interval, so that a Guardian that lost its storage, or has an old copy of it,
 * begins above all it ever said. Times of a clock that ran ahead, which no peer believed, are forgotten when it is set back.
 * Kept are this node and listed peers, of a peer at most two statements in an interval. The alarm's first statement sets
 * the next one and its body never throws; the minute cron arms it again.
 *
 * RPCs: admit, hear, view, series, learn, examine, sweep, retire.
 */

import { DurableObject } from 'cloudflare:workers'
import { utf8 } from '#core/bytes.ts'
import { canonicalDid } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import { initialGuardian, stepGuardian } from '#core/guardian.ts'
import type { Baseline } from '#core/health-sources.ts'
import { initialPredictor } from '#core/predictor.ts'
import { causes, initialPsi, stepPsi, swarmPsi, type PsiState } from '#core/psi.ts'
import { isValidKey, verifyStatements, type KeyHistory } from '#core/rotation.ts'
import {
  checkSequence,
  MAX_AHEAD_MS,
  readTelemetry,
  SIGNAL_NAMES,
  signTelemetry,
  verifyTelemetry,
  type OpenedTelemetry,
  type Telemetry,
} from '#core/telemetry.ts'
import { isoTime } from '#core/time.ts'
import { refusalOf, type Refused } from '#store/federation-api.ts'
import type {
  GuardianView,
  InterventionView,
  NodeBelief,
  NodeHealth,
  SeriesQuery,
  SeriesView,
  TelemetryAnswer,
} from '#store/guardian-api.ts'
import { count } from '#store/metrics.ts'
import { nodeOf, type NodeContext } from '#store/node.ts'
import { warn } from './federation-state.ts'
import { CAUSES, GuardianActs, type Newest } from './guardian-acts.ts'
import { GuardianStore, type Intervention, type KnownNode } from './guardian-store.ts'
import { examine, type Examined } from '../queues/anchors/examine.ts'
import { collect } from './telemetry-collector.ts'

/** The least interval: the first seq of a Guardian counts them since 1970. */
const LEAST_INTERVAL_MS = 200
/** A node is stale that said nothing for so many intervals. */
const STALE_INTERVALS = 3
const SHOWN_INTERVENTIONS = 100
/** Steps of one series: 1.3 MB as JSON, and 170 ms over 30 days of minutes (measured). */
const MAX_POINTS = 1000
/** What is beyond its retention goes once an hour. */
const PRUNE_EVERY_MS = 3_600_000
const DAY_MS = 86_400_000

/** What was signed and not admitted yet, with what goes with it. Stored as JSON under `pending`. */
interface Pending {
  readonly jws: string
  readonly newest: Newest
}

export class Guardian extends DurableObject<Env> {
  readonly #store: GuardianStore
  readonly #acts: GuardianActs
  readonly #histories = new Map<string, { readonly text: string; readonly history: KeyHistory }>()
  #prunedAt = 0

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    this.#store = new GuardianStore(ctx.storage)
    this.#acts = new GuardianActs(env, this.#store)
  }

  // ── telemetry ────────────────────────────────────────────────────────────────────────────────

  /** Takes telemetry of this node or of a listed peer; a refusal is a value, and the caller counts it. */
  async admit(jws: string): Promise<TelemetryAnswer> {
    try {
      return await this.#admit(readTelemetry(utf8(jws)), jws, Date.now())
    } catch (error) {
      return refusalOf(error)
    }
  }

  /** Telemetry that the peer `from` (canonical) sent along with its gossip: its own, or it is refused. Counts refusals. */
  async hear(from: string, jws: string): Promise<TelemetryAnswer> {
    try {
      const opened = readTelemetry(utf8(jws))
      const { nodeDid, unverified } = opened
      if (nodeDid !== from) {
        throw new VaultMeshError('unknown-peer', `${from} hands on telemetry of ${nodeDid}.`)
      }
      // Told twice: the peer cannot know that the first time was enough.
      if (this.#store.node(from)?.jws === jws) return { nodeDid, seq: unverified.seq }
      return await this.#admit(opened, jws, Date.now())
    } catch (error) {
      const answer = refusalOf(error)
      const { code: reason } = answer.refusal
      count(this.env, this.ctx, 'vaultmesh_telemetry_rejected_total', { reason })
      return answer
    }
  }

  async #admit(opened: OpenedTelemetry, jws: string, nowAt: number) {
    const node = await nodeOf(this.env)
    const { nodeDid } = opened
    const history = await this.#historyOf(node, nodeDid)
    const telemetry = await verifyTelemetry(opened, {
      nowAt,
      isKey: (keyDid, at) => isValidKey(history, keyDid, at),
    })
    const kind = this.#store.transaction(() => this.#take(node, telemetry, jws))
    count(this.env, this.ctx, 'vaultmesh_telemetry_accepted_total')
    if (kind !== null) count(this.env, this.ctx, 'vaultmesh_guardian_interventions_total', { kind })
    return { nodeDid, seq: telemetry.seq }
  }

  /** Step 3, without an await. Returns what this node's own Guardian decided to do. */
  #take(node: NodeContext, telemetry: Telemetry, jws: string): 'nigredo' | 'albedo' | null {
    const { nodeDid, seq, at } = telemetry
    const { guardianMode: mode, guardianPsiLow: psiLow, guardianIntervalMs } = node.config
    const isOwn = nodeDid === canonicalDid(node.nodeDid)
    const receivedAt = Date.now()
    const known = this.#store.node(nodeDid)
    checkSequence(known, telemetry)
    const waitMs = known === null ? 0 : known.receivedAt + guardianIntervalMs / 2 - receivedAt
    // The clock may have been set back: then nobody waits longer than he would have.
    if (!isOwn && waitMs > 0 && waitMs <= guardianIntervalMs) {
      const detail = `Telemetry is taken each ${guardianIntervalMs / 1000} s; the newest of ${nodeDid} is younger than half of that.`
      throw new VaultMeshError('rate-limited', detail, {
        extra: { retryAfter: Math.ceil(waitMs / 1000) },
      })
    }
    const { state: psi, sample } = stepPsi(known?.psi ?? initialPsi(), telemetry)
    const { state: guardian, intervention } = stepGuardian(
      known?.guardian ?? initialGuardian(),
      sample,
      { mode, psiLow, nowAt: at },
    )
    const isReset = intervention?.kind === 'nigredo'
    this.#store.keep(telemetry, {
      jws,
      receivedAt,
      sample,
      psi: isReset ? withoutHabits(psi) : psi,
      guardian,
    })
    // What a peer needs is its own Guardian's to do; what we believed of it is ours.
    const isOurs = intervention !== null && (isOwn || isReset)
    if (isOurs) {
      const { kind, reason, explained } = intervention
      const { psi: value } = sample
      this.#store.intervene({ did: nodeDid, seq, at, kind, reason, explained, psi: value })
    }
    return isOurs && isOwn ? intervention.kind : null
  }

  /** The keys of this node or of a listed peer. Throws `unknown-peer`. */
  async #historyOf(node: NodeContext, did: string): Promise<KeyHistory> {
    if (did === canonicalDid(node.nodeDid)) return node.history
    const admission = await this.env.FEDERATION.getByName('node').admission()
    const peer = admission?.peers.find((known) => known.did === did)
    if (peer === undefined) {
      throw new VaultMeshError('unknown-peer', `${did} is not on peers_allowlist.`)
    }
    if (peer.frozenEpoch !== null) {
      const detail = `${did} signed two keys for epoch ${peer.frozenEpoch}; its operator and ours must settle it.`
      throw new VaultMeshError('unknown-peer', detail)
    }
    const text = peer.statements.join()
    const cached = this.#histories.get(did)
    if (cached?.text === text) return cached.history
    const history = await verifyStatements(did, peer.statements)
    this.#histories.set(did, { text, history })
    return history
  }

  // ── intervals ────────────────────────────────────────────────────────────────────────────────

  override async alarm(): Promise<void> {
    if (this.#isRetired()) return
    await this.ctx.storage.setAlarm(Date.now() + this.#intervalMs())
    try {
      await this.#speak()
    } catch (error) {
      warn('guardian interval failed', error)
    }
  }

  /** The minute: whatever stopped the intervals, they go on. */
  async sweep(): Promise<void> {
    if (this.#isRetired()) return
    const at = await this.ctx.storage.getAlarm()
    const nowAt = Date.now()
    const intervalMs = this.#intervalMs()
    const isLost = at === null || at < nowAt - 2 * intervalMs - 1000 || at > nowAt + intervalMs
    if (isLost) await this.ctx.storage.setAlarm(nowAt)
  }

  /** Says nothing any more: this log was ended, and the one that follows it speaks for the node. */
  async retire(): Promise<void> {
    this.#store.remember('retired', '1')
    // Whoever says nothing any more clears nothing any more.
    await this.#acts.end(Date.now())
  }

  #isRetired(): boolean {
    return this.#store.recall('retired') !== null
  }

  /** As set, without a look at anything that could fail. */
  #intervalMs(): number {
    const set = Number(this.env.GUARDIAN_INTERVAL_MS)
    return set >= LEAST_INTERVAL_MS ? set : 60_000
  }

  async #speak(): Promise<void> {
    const node = await nodeOf(this.env)
    const did = canonicalDid(node.nodeDid)
    await this.#admitPending()
    await this.#sign(node, this.#store.node(did))
    await this.#admitPending()
    await this.#acts.act(node, Date.now())
    const newest = this.#store.node(did)
    const federation = this.env.FEDERATION.getByName('node')
    if (newest !== null) await federation.tellHealth(newest.jws)
    const admission = await federation.admission()
    if (admission !== null) this.#store.retain(new Set([did, ...admission.peers.map((p) => p.did)]))
    const nowAt = Date.now()
    if (nowAt - this.#prunedAt > PRUNE_EVERY_MS) {
      this.#prunedAt = nowAt
      this.#store.prune(nowAt - node.config.telemetryRetentionDays * DAY_MS)
    }
  }

  /** Steps 1 and 2: from here on there is one statement of this seq. */
  async #sign(node: NodeContext, last: KnownNode | null): Promise<void> {
    const nowAt = Date.now()
    const { guardianIntervalMs: intervalMs } = node.config
    const isAhead = last !== null && last.at > nowAt + MAX_AHEAD_MS
    if (isAhead) this.#store.setBack(last.id, nowAt)
    const lastAt = isAhead ? nowAt : (last?.at ?? 0)
    const clock = Math.floor(nowAt / LEAST_INTERVAL_MS)
    const next = (last?.seq ?? -1) + 1
    const since = this.#store.recall('baseline')
    const { signals, expect, unread, notes, baseline, places } = await collect(this.env, node, {
      baseline: since === null ? null : (JSON.parse(since) as Baseline),
      nowAt,
    })
    const jws = await signTelemetry(node.identity, {
      nodeDid: canonicalDid(node.nodeDid),
      seq: nowAt - lastAt > STALE_INTERVALS * intervalMs ? Math.max(next, clock) : next,
      // A node's times do not run backwards because its clock was put right.
      at: Math.max(nowAt, lastAt),
      intervalMs,
      expect,
      signals,
    })
    const before = this.#newest()
    const blindRuns = unread.length === 0 ? 0 : (before?.blindRuns ?? 0) + 1
    const pending: Pending = { jws, newest: { notes, unread, blindRuns, places } }
    this.#store.transaction(() => {
      this.#store.remember('pending', JSON.stringify(pending))
      if (baseline !== null) this.#store.remember('baseline', JSON.stringify(baseline))
    })
  }

  /** Admits what was signed last, if it is not; by the clock of then, as a statement of one's own does not age. */
  async #admitPending(): Promise<void> {
    const text = this.#store.recall('pending')
    if (text === null) return
    const { jws, newest } = JSON.parse(text) as Pending
    try {
      const opened = readTelemetry(utf8(jws))
      if (this.#store.node(opened.nodeDid)?.jws !== jws) {
        await this.#admit(opened, jws, opened.unverified.at)
      }
    } catch (error) {
      // Somebody with our key was quicker with this seq, or an older version of this code signed it: the next one is better.
      if (!(error instanceof VaultMeshError)) throw error
      warn('own telemetry was refused', error)
    }
    this.#store.transaction(() => {
      this.#store.remember('newest', JSON.stringify(newest))
      this.#store.forget('pending')
    })
  }

  #newest(): Newest | null {
    const text = this.#store.recall('newest')
    return text === null ? null : (JSON.parse(text) as Newest)
  }

  // ── what others see ──────────────────────────────────────────────────────────────────────────

  async view(): Promise<GuardianView> {
    await this.sweep()
    const node = await nodeOf(this.env)
    const { guardianMode, guardianIntervalMs, guardianPsiLow } = node.config
    const did = canonicalDid(node.nodeDid)
    const nowAt = Date.now()
    const known = this.#known(did)
    const isFresh = (one: KnownNode): boolean => !isStale(one, guardianIntervalMs, nowAt)
    return {
      nodeDid: did,
      mode: guardianMode,
      intervalMs: guardianIntervalMs,
      threshold: guardianPsiLow,
      nodes: known.map((one) => ({
        ...healthOf(one),
        own: one.did === did,
        stale: !isFresh(one),
        threshold: guardianPsiLow,
      })),
      swarm: swarmPsi(known.filter(isFresh).map(({ sample }) => sample)),
      interventions: this.#store.interventions(SHOWN_INTERVENTIONS).map(shown),
      counts: { accepted: this.#store.accepted(), interventions: this.#store.counts() },
      notes: this.#newest()?.notes ?? [],
    }
  }

  /** This node first. */
  #known(did: string): KnownNode[] {
    return this.#store.nodes().sort((a, b) => Number(b.did === did) - Number(a.did === did))
  }

  /** Telemetry over time; a refusal for a node that was never heard, or for too many steps. */
  async series(query: SeriesQuery): Promise<SeriesView | Refused> {
    try {
      const { from, to, stepMs } = query
      if (!(from < to)) throw new VaultMeshError('bad-request', '"from" is not before "to".')
      if ((to - from) / stepMs > MAX_POINTS) {
        const least = Math.ceil((to - from) / MAX_POINTS / 1000)
        const detail = `A series has at most ${MAX_POINTS} steps: take a "step" of at least ${least} s, or a shorter time.`
        throw new VaultMeshError('bad-request', detail, { extra: { limit: MAX_POINTS } })
      }
      const own = canonicalDid((await nodeOf(this.env)).nodeDid)
      const did = query.node === null ? own : canonicalDid(query.node)
      const known = this.#store.node(did)
      if (known === null && did !== own) {
        throw new VaultMeshError('not-found', `No telemetry of ${did} is kept here.`)
      }
      const asked = { from, to, stepMs, limit: MAX_POINTS }
      const points = known === null ? [] : this.#store.series(known.id, asked)
      return { nodeDid: did, from: isoTime(from), to: isoTime(to), stepMs, points }
    } catch (error) {
      return refusalOf(error)
    }
  }

  /** Asks everybody whom the rails ask, for the doctor (store/doctor.ts). */
  async examine(): Promise<Examined> {
    return examine((await nodeOf(this.env)).config)
  }

  /** What the predictors believe, this node's first. */
  async learn(): Promise<readonly NodeBelief[]> {
    const did = canonicalDid((await nodeOf(this.env)).nodeDid)
    return this.#known(did).map(({ did: nodeDid, psi, sample }) => ({
      nodeDid,
      own: nodeDid === did,
      samples: psi.predictor.samples,
      predictionError: sample.PE,
      signals: SIGNAL_NAMES.map((name, i) => {
        const last = sample.signals.find((signal) => signal.name === name)?.value ?? null
        const expected = sample.expected[name]
        const error = last === null || expected === null ? null : last - expected
        return { name, last, expected, error, weights: psi.predictor.weights[i] ?? [] }
      }),
    }))
  }
}

/** Nigredo: a predictor that has learnt nothing but what was said last. */
function withoutHabits(state: PsiState): PsiState {
  const { last } = state.predictor
  return { ...state, predictor: { ...initialPredictor(SIGNAL_NAMES.length), last } }
}

function shown(row: Intervention): InterventionView {
  const { id, did: nodeDid, seq, at, kind, reason, explained, psi, eventHash } = row
  return { id, nodeDid, seq, at: isoTime(at), kind, reason, explained, psi, eventHash }
}

function isStale(node: KnownNode, ownIntervalMs: number, nowAt: number): boolean {
  const intervalMs = Math.max(node.intervalMs, ownIntervalMs)
  // Of a time to come it is where the clock was set back since.
  return Math.abs(nowAt - node.receivedAt) > STALE_INTERVALS * intervalMs
}

function healthOf(node: KnownNode): Omit<NodeHealth, 'own' | 'stale' | 'threshold'> {
  const { sample, guardian } = node
  const { seq, at, ...rest } = sample
  const { alarm } = guardian
  return {
    nodeDid: node.did,
    lastSeq: seq,
    lastAt: isoTime(at),
    intervalMs: node.intervalMs,
    sample: rest,
    causes: causes(sample, CAUSES),
    alarm:
      alarm === null
        ? null
        : { reason: alarm.reason, since: isoTime(alarm.since), explained: alarm.explained },
  }
}
