/**
 * What the Guardian does outside of its storage: the alerts psi_low and watch_blind, waking what sleeps, and the news of
 * an intervention as a signed event in the node's own log.
 *
 * Each follows from rows that are written before: a crash between any two lines, or a reply that is lost, repeats it, and
 * a repeat changes nothing. Alerts are settled, not toggled; a wake-up is a wake-up; an event has one identity, made of
 * the telemetry's seq, and whichever was posted first under it stands.
 */

import { concat, toHex, utf8 } from '#core/bytes.ts'
import { canonicalDid } from '#core/did.ts'
import { EVENT_TYP, openEnvelope } from '#core/envelope.ts'
import { signJws } from '#core/node-keys.ts'
import { causes } from '#core/psi.ts'
import { Signers } from '#core/signer.ts'
import { SIGNAL_NAMES, type SignalName } from '#core/telemetry.ts'
import { isoTime } from '#core/time.ts'
import { settleAlerts, type Alert } from '#store/alerts.ts'
import { sweepAnchors } from '#store/anchors.ts'
import { identityOf, shardOf } from '#store/event-identity.ts'
import type { NodeContext } from '#store/node.ts'
import { batchLink } from '#store/suffering.ts'
import { wakeAlerts } from '../queues/alert-push.ts'
import { warn } from './federation-state.ts'
import type { GuardianStore, Intervention, KnownNode } from './guardian-store.ts'
import type { Places } from './telemetry-collector.ts'

/** `type` of the event. */
const INTERVENTION_TYPE = 'vm.guardian.intervention'
/** Causes that an alert names. */
export const CAUSES = 3
/** Less than half of a thousandth of Ψ is no cause. */
const COSTS_NOTHING = 0.0005
/** Interventions finished at once: one comes in a hundred samples. */
const AT_ONCE = 20
/** A source may miss its turn twice; who is blind to half of the signals says so at once. */
const BLIND_RUNS = 3
/** An index that was lost or put back knows nothing of what was told: it is told again after so long, and by each process. */
const TOLD_AGAIN_MS = 3_600_000

/** What the newest own telemetry could not say, and where to look. Stored as JSON under `newest`. */
export interface Newest {
  readonly notes: readonly string[]
  readonly unread: readonly SignalName[]
  /** Times in a row that something could not be read. */
  readonly blindRuns: number
  readonly places: Places
}

const signers = new Signers(EVENT_TYP)

export class GuardianActs {
  readonly #env: Env
  readonly #store: GuardianStore
  /** When each kind was settled last by this process. */
  readonly #settledAt = new Map<string, number>()

  constructor(env: Env, store: GuardianStore) {
    this.#env = env
    this.#store = store
  }

  /** Does what is to be done now; what fails is logged and done the next time. */
  async act(node: NodeContext, nowAt: number): Promise<void> {
    const own = this.#store.node(canonicalDid(node.nodeDid))
    if (own === null) return
    const text = this.#store.recall('newest')
    const newest = text === null ? NOTHING : (JSON.parse(text) as Newest)
    const steps = [
      () => this.#settle('psi_low', this.#psiAlert(own, newest), nowAt),
      () => this.#settle('watch_blind', blindAlert(newest), nowAt),
      () => this.#finish(node, newest, nowAt),
    ]
    for (const step of steps) await step().catch((error: unknown) => warn('guardian', error))
  }

  /** Clears what it opened. */
  async end(nowAt: number): Promise<void> {
    await this.#settle('psi_low', NO_ALERT, nowAt)
    await this.#settle('watch_blind', NO_ALERT, nowAt)
  }

  /** `named` says of which facts the alert is: while they are the same, its figures are left as they are. */
  async #settle(
    kind: 'psi_low' | 'watch_blind',
    { alert, named }: { readonly alert: Alert | null; readonly named: string },
    nowAt: number,
  ): Promise<void> {
    const told = `told ${kind}`
    const isNews = this.#store.recall(told) !== named
    const ageMs = Math.abs(nowAt - (this.#settledAt.get(kind) ?? -Infinity))
    if (!isNews && ageMs < TOLD_AGAIN_MS) return
    const prefix = kind === 'watch_blind' ? BLIND_KEY : ''
    await settleAlerts(this.#env.DB, kind, alert === null ? [] : [alert], { nowAt, prefix })
    // Told at once; a wake-up that is lost is the minute's.
    if (isNews)
      await wakeAlerts(this.#env).catch((error: unknown) => warn('alerts not woken', error))
    this.#store.remember(told, named)
    this.#settledAt.set(kind, nowAt)
  }

  #psiAlert({ did, guardian, sample }: KnownNode, { places }: Newest) {
    const { alarm } = guardian
    if (alarm === null) return NO_ALERT
    const cost = new Map(sample.signals.map((s) => [s.name, s.contribution]))
    const worst = causes(sample, CAUSES).filter(({ name }) => cost.get(name)! < -COSTS_NOTHING)
    const names = worst.map(({ name }) => name)
    const because = worst.map(({ text }) => text).join('; ')
    const alert: Alert = {
      kind: 'psi_low',
      key: did,
      severity: 'critical',
      detail: `${alarm.explained} What costs most: ${because || 'nothing that stands out'}.`,
      link: linkOf(names, places),
    }
    return { alert, named: `${alarm.reason} ${alarm.since} ${names.join(' ')}` }
  }

  /** Acts on what was decided and has its event posted, oldest first. */
  async #finish(node: NodeContext, { places }: Newest, nowAt: number): Promise<void> {
    // Nothing comes before the evidence that a successor opens with.
    const isOpen = node.config.logNumber === 1 || places.height > 0
    for (const row of this.#store.unfinished(canonicalDid(node.nodeDid), AT_ONCE)) {
      if (row.actedAt === null) {
        if (row.kind === 'albedo') await this.#wakeAll(node, nowAt)
        this.#store.acted(row.id, nowAt)
      }
      if (isOpen) this.#store.posted(row.id, await this.#post(node, row), nowAt)
    }
  }

  /** Albedo: whatever lost its alarm or its message goes on. */
  async #wakeAll({ config }: NodeContext, nowAt: number): Promise<void> {
    const { POOL, SEQUENCER, FEDERATION } = this.#env
    const woken = await Promise.allSettled([
      ...Array.from({ length: config.intakeShards }, (_, shard) =>
        POOL.getByName(String(shard)).sweep(),
      ),
      SEQUENCER.getByName('log').sweep(),
      FEDERATION.getByName('node').sweep(),
      sweepAnchors(this.#env, nowAt),
    ])
    for (const one of woken) if (one.status === 'rejected') warn('not woken', one.reason)
  }

  /** Posts the event of an intervention; the hash of the one that stands. */
  async #post(node: NodeContext, what: Intervention): Promise<string> {
    const { did: nodeDid, seq, at, kind, reason, explained, psi } = what
    const event = {
      specversion: '1.0',
      id: `guardian/${seq}/${kind}`,
      source: node.identity.did,
      type: INTERVENTION_TYPE,
      subject: nodeDid,
      time: isoTime(at),
      data: { node_did: nodeDid, seq, kind, reason, explained, psi },
    }
    const open = await openEnvelope(utf8(await signJws(node.identity, EVENT_TYP, event)), signers)
    const identity = identityOf(node, open.signer.canonical, open.event.id)
    const shard = shardOf(identity, node.config.intakeShards)
    const { repeats } = await this.#env.POOL.getByName(String(shard)).admit(shard, {
      lengths: Uint32Array.of(open.bytes.length),
      data: open.bytes,
      digests: concat(identity, open.signingHash, open.eventHash),
    })
    // Signed again by a newer key it is another event under the same identity: the first one stands.
    return `sha256:${toHex(repeats?.first.get(0)?.eventHash ?? open.eventHash)}`
  }
}

const NOTHING: Newest = {
  notes: [],
  unread: [],
  blindRuns: 0,
  places: { height: 0, waiting: {} },
}
const BLIND_KEY = 'guardian'
const NO_ALERT = { alert: null, named: '' } as const

/** Ψ leaves out what it was not told, so that silence must not pass for health. */
function blindAlert({ unread, notes, blindRuns }: Newest) {
  const isHalf = unread.length * 2 >= SIGNAL_NAMES.length
  if (!isHalf && blindRuns < BLIND_RUNS) return NO_ALERT
  const missing = `${unread.length} of ${SIGNAL_NAMES.length} signals`
  const alert: Alert = {
    kind: 'watch_blind',
    key: BLIND_KEY,
    severity: isHalf ? 'critical' : 'warning',
    detail: `The Guardian cannot read ${missing}, so Ψ says nothing of them. ${notes.join(' ')}`,
    link: '/guardian',
  }
  return { alert, named: unread.join(' ') }
}

/** The page that shows what suffers, by the dearest of the causes. */
export function linkOf(names: readonly SignalName[], { height, waiting }: Places): string {
  const [first] = names
  if (first === 'peer_agreement' || first === 'peer_lag') return '/federation/peers'
  const chain = CHAIN_OF[first ?? '']
  const ofChain = chain === undefined ? Object.values(waiting) : [waiting[chain] ?? []].flat()
  if (first?.startsWith('anchor_') === true) {
    return batchLink(ofChain.length === 0 ? null : Math.min(...ofChain), '/anchors/status')
  }
  // What waits for its seal has no batch yet.
  return batchLink(height === 0 ? null : height, '/batches')
}

const CHAIN_OF: Readonly<Record<string, 'BTC' | 'EVM' | 'TSA' | undefined>> = {
  anchor_lag_btc_s: 'BTC',
  anchor_lag_evm_s: 'EVM',
  anchor_lag_tsa_s: 'TSA',
}
