/**
 * Telemetry of a node that is simulated step by step: events come, wait and are sealed; roots are anchored by jobs that
 * fail, back off by the node's own law (core/anchor-state.ts) and poll; peers follow. A fault is a window of samples.
 *
 * Signals are what the collector would say of such a node: a lag is the age of the oldest seal that no anchor covers, a
 * failure ratio is that of the worst rail or of its last attempt. All chance comes from the seed.
 */

import { retryDelay } from '#core/anchor-state.ts'
import type { Expect, Signals, Telemetry } from '#core/telemetry.ts'

export type RailName = 'btc' | 'evm' | 'tsa'

/** What goes wrong. `split`: half of the peers stand elsewhere. `decay`: a seal takes longer, sample by sample. */
export type FaultKind = RailName | 'seal' | 'flood' | 'split' | 'decay'

/** Samples `from` ≤ k < `to`. */
export interface Fault {
  readonly kind: FaultKind
  readonly from: number
  readonly to: number
}

interface RailModel {
  readonly intervalS: number
  /** Between two looks at a job that waits for its blocks. */
  readonly pollS: number
  /** The promise beyond the interval. */
  readonly usualS: number
  /** Seconds from submission to finality. */
  readonly confirmS: (random: () => number) => number
  /** Of one attempt. */
  readonly failure: number
}

/** A node's settings, and what a usual day is for it. */
export interface World {
  readonly name: string
  readonly intervalS: number
  /** Of the simulation, seconds. */
  readonly stepS: number
  readonly sealS: number
  readonly backlog: number
  /** Events a second: on average, and as many as it can seal. */
  readonly rate: number
  readonly capacity: number
  readonly peers: number
  readonly rails: Readonly<Partial<Record<RailName, RailModel>>>
}

/** Seconds of `n` blocks that come by chance, each `meanS` on average. */
const blocks =
  (n: number, meanS: number) =>
  (random: () => number): number => {
    let sum = 0
    for (let i = 0; i < n; i++) sum -= meanS * Math.log(1 - random())
    return sum
  }
const between = (low: number, high: number) => (random: () => number) =>
  low + (high - low) * random()

/** The defaults of wrangler.toml, on mainnets. */
export const production: World = {
  name: '60 s',
  intervalS: 60,
  stepS: 2,
  sealS: 120,
  backlog: 500_000,
  rate: 20,
  capacity: 4000,
  peers: 4,
  rails: {
    btc: { intervalS: 3600, pollS: 30, usualS: 4200, confirmS: blocks(7, 600), failure: 0.003 },
    evm: { intervalS: 3600, pollS: 12, usualS: 960, confirmS: between(770, 1150), failure: 0.003 },
    tsa: { intervalS: 60, pollS: 5, usualS: 5, confirmS: between(0.2, 2), failure: 0.003 },
  },
}

/** A devnet: everything is near, fast and does not fail by itself. */
export const devnet: World = {
  name: '1 s',
  intervalS: 1,
  stepS: 0.1,
  sealS: 0.5,
  backlog: 20_000,
  rate: 50,
  capacity: 4000,
  peers: 2,
  rails: {
    btc: { intervalS: 10, pollS: 1, usualS: 10, confirmS: between(2, 9), failure: 0 },
    evm: { intervalS: 5, pollS: 1, usualS: 10, confirmS: between(1, 4), failure: 0 },
    tsa: { intervalS: 2, pollS: 1, usualS: 5, confirmS: between(0.05, 0.3), failure: 0 },
  },
}

/** Epoch ms of sample 0. */
const BEGIN = 1_795_414_936_000
/** A seal that failed: the queue tries it again each second, five times; then the Sequencer's alarm comes each 10 s. */
const SEAL_RETRIES = 5
const SEAL_RETRY_S = 1
const SEAL_AGAIN_S = 10
const SEAL_FAILURE = 0.001
/** SEAL_BATCH_MAX_ITEMS: a batch of so many is due at once. */
const BATCH = 5000
/** A seal of a node that decays takes so much of the interval longer with each sample. */
const DECAY = 0.02
/** A flood is so many times what the node can seal. */
const FLOOD = 2

/** `samples` telemetries of a node of `world`. Equal arguments give equal traces. */
export function trace(
  world: World,
  seed: number,
  { samples, faults = [] }: { readonly samples: number; readonly faults?: readonly Fault[] },
): readonly Telemetry[] {
  const random = generator(seed)
  const told: Telemetry[] = []
  const intake = new Intake(world, random)
  const rails = Object.entries(world.rails).map(
    ([name, model]) => [name as RailName, new Rail(model, random)] as const,
  )
  const peers = new Peers(world.peers, random)
  let deadLetters = 0
  // A random phase: rails were begun some time ago.
  let now = -Math.max(...rails.map(([, { model }]) => model.intervalS)) * (1.5 + random())
  const warmUp = Math.ceil(-now / world.intervalS)
  for (let k = -warmUp; k < samples; k++) {
    const active = faults.filter((f) => f.from <= k && k < f.to)
    const on = new Set(active.map(({ kind }) => kind))
    const decaying = active.find(({ kind }) => kind === 'decay')
    const ill = {
      isFlood: on.has('flood'),
      isDown: on.has('seal'),
      slowS: decaying === undefined ? 0 : (k - decaying.from) * world.sealS * DECAY,
    }
    const end = (k + 1) * world.intervalS
    intake.begin()
    for (const [, rail] of rails) rail.begin()
    for (; now < end; now += world.stepS) {
      intake.step(now, ill)
      for (const [name, rail] of rails) rail.step(now, intake.seals, on.has(name))
    }
    if (k < 0) continue
    // A dead letter comes once in a thousand samples and is replayed some ten samples later.
    if (random() < 0.001) deadLetters++
    else if (random() < 0.1) deadLetters = 0
    const attempts = rails.flatMap(([, rail]) => rail.failureRatio() ?? [])
    const lag = (name: RailName): number | null =>
      rails.find(([rail]) => rail === name)?.[1].lag(end, intake.seals) ?? null
    const signals: Signals = {
      ...intake.signals(end),
      ...peers.signals(on.has('split')),
      dead_letters: deadLetters,
      anchor_lag_btc_s: lag('btc'),
      anchor_lag_evm_s: lag('evm'),
      anchor_lag_tsa_s: lag('tsa'),
      anchor_failure_ratio: attempts.length === 0 ? null : Math.max(...attempts),
    }
    told.push({
      nodeDid: 'did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp',
      seq: k + 1,
      at: BEGIN + end * 1000,
      intervalMs: world.intervalS * 1000,
      expect: expectOf(world),
      signals,
    })
  }
  return told
}

/** What such a node promises. */
export function expectOf({ sealS, backlog, rails }: World): Expect {
  const promise = (rail: RailModel | undefined): number | undefined =>
    rail === undefined ? undefined : rail.intervalS + rail.usualS
  return {
    seal_s: sealS,
    anchor_btc_s: promise(rails.btc),
    anchor_evm_s: promise(rails.evm),
    anchor_tsa_s: promise(rails.tsa),
    backlog,
  }
}

/** Numbers in [0, 1) from a seed: mulberry32. */
export function generator(seed: number): () => number {
  let state = seed >>> 0
  return () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }
}

/** What ails intake and seal. */
interface Ill {
  readonly isFlood: boolean
  readonly isDown: boolean
  readonly slowS: number
}

/** Intake, pool and seal of a node. */
class Intake {
  /** When each batch was sealed, oldest first. */
  readonly seals: number[] = []
  readonly #world: World
  readonly #random: () => number
  #waiting = 0
  #oldestAt: number | null = null
  /** Events and end of the seal under way. */
  #batch = 0
  #sealing: number | null = null
  #nextSealAt = -Infinity
  /** Failures running. */
  #running = 0
  #accepted = 0
  #refused = 0
  #attempts = 0
  #failures = 0
  #latencies: number[] = []

  constructor(world: World, random: () => number) {
    this.#world = world
    this.#random = random
  }

  begin(): void {
    this.#accepted = this.#refused = this.#attempts = this.#failures = 0
    this.#latencies = []
  }

  step(now: number, { isFlood, isDown, slowS }: Ill): void {
    const { rate, capacity, stepS, backlog } = this.#world
    // A day has a quiet night, in which whole minutes pass without an event.
    const day = Math.max(0, 1 + 1.2 * Math.sin((2 * Math.PI * now) / 86_400))
    let coming = this.#some(isFlood ? FLOOD * capacity * stepS : rate * day * stepS)
    // Somebody's broken client: one event in a hundred is refused, and now and then a burst of nothing else.
    const broken = this.#some(coming * 0.01) + (this.#random() < 2e-4 * stepS ? 5 : 0)
    this.#refused += broken
    const room = backlog - this.#waiting
    if (coming > room) {
      this.#refused += coming - room
      coming = room
    }
    this.#accepted += coming
    this.#waiting += coming
    if (coming > 0) this.#oldestAt ??= now
    // As many batches as end within this step.
    do this.#seal(now, isDown, slowS)
    while (this.#sealing !== null && this.#sealing <= now)
  }

  #seal(now: number, isDown: boolean, slowS: number): void {
    const { sealS, capacity } = this.#world
    // A full batch follows the one before at once, not at the next step.
    let startAt = now
    if (this.#sealing !== null) {
      if (now < this.#sealing) return
      const endAt = this.#sealing
      this.#sealing = null
      this.#latencies.push(endAt - this.#oldestAt!)
      // What came meanwhile is younger, and waits for the next batch.
      const rest = this.#waiting - this.#batch
      this.#oldestAt = rest === 0 ? null : now - (now - this.#oldestAt!) * (rest / this.#waiting)
      this.#waiting = rest
      this.seals.push(endAt)
      if (rest >= BATCH) startAt = endAt
    }
    const isDue = this.#waiting >= BATCH || now >= (this.#oldestAt ?? Infinity) + sealS
    if (!isDue || now < this.#nextSealAt) return
    this.#attempts++
    if (isDown || this.#random() < SEAL_FAILURE) {
      this.#failures++
      this.#nextSealAt = now + (this.#running++ < SEAL_RETRIES ? SEAL_RETRY_S : SEAL_AGAIN_S)
      return
    }
    this.#running = 0
    this.#batch = Math.min(this.#waiting, BATCH)
    // No faster than the node can, however small the batch.
    const leastS = 0.05 + 0.3 * this.#random() * Math.min(1, sealS)
    const takesS = Math.max(this.#batch / capacity, this.#batch < BATCH ? leastS : 0)
    this.#sealing = startAt + takesS + slowS
  }

  signals(now: number) {
    const came = this.#accepted + this.#refused
    const sorted = [...this.#latencies].sort((a, b) => a - b)
    return {
      intake_rate: this.#accepted / this.#world.intervalS,
      reject_ratio: came === 0 ? 0 : this.#refused / came,
      seal_latency_p50_s: sorted[Math.floor(sorted.length * 0.5)] ?? null,
      seal_latency_p95_s: sorted[Math.floor(sorted.length * 0.95)] ?? null,
      seal_retry_ratio: this.#attempts === 0 ? null : this.#failures / this.#attempts,
      queue_backlog: Math.round(this.#waiting),
      checkpoint_age_s: this.#oldestAt === null ? 0 : now - this.#oldestAt,
    }
  }

  /** A whole number that is `mean` on average. */
  #some(mean: number): number {
    if (mean > 30) return Math.round(mean * (0.9 + 0.2 * this.#random()))
    let n = 0
    for (let left = Math.exp(-mean), p = this.#random(); p > left; n++) p *= this.#random()
    return n
  }
}

interface Job {
  /** Until when it anchors what was sealed. */
  readonly rootAt: number
  nextAt: number
  failures: number
  finalAt: number | null
}

/** The jobs of one rail. */
class Rail {
  readonly model: RailModel
  readonly #random: () => number
  #jobs: Job[] = []
  #dueAt: number | null = null
  #queuedTo = -Infinity
  #coveredTo = -Infinity
  #attempts = 0
  #failed = 0
  #lastFailed: boolean | null = null

  constructor(model: RailModel, random: () => number) {
    this.model = model
    this.#random = random
  }

  begin(): void {
    this.#attempts = this.#failed = 0
  }

  step(now: number, seals: readonly number[], isDown: boolean): void {
    this.#dueAt ??= now + this.model.intervalS * this.#random()
    const newest = seals.at(-1)
    if (now >= this.#dueAt && newest !== undefined && newest > this.#queuedTo) {
      this.#dueAt = now + this.model.intervalS
      this.#queuedTo = newest
      // A newer root takes the place of one that was not sent.
      this.#jobs = this.#jobs.filter(({ finalAt }) => finalAt !== null)
      this.#jobs.push({ rootAt: newest, nextAt: now, failures: 0, finalAt: null })
    }
    for (const job of this.#jobs) {
      if (now < job.nextAt) continue
      this.#attempt(job, now, isDown)
      this.#jobs = this.#jobs.filter(({ rootAt }) => rootAt > this.#coveredTo)
    }
  }

  #attempt(job: Job, now: number, isDown: boolean): void {
    const { confirmS, failure, pollS } = this.model
    this.#attempts++
    this.#lastFailed = isDown || this.#random() < failure
    if (this.#lastFailed) {
      this.#failed++
      job.failures++
      job.nextAt = now + retryDelay(job.failures, this.#random()).delay
      return
    }
    job.failures = 0
    job.nextAt = now + pollS
    if (job.finalAt === null) {
      job.finalAt = now + confirmS(this.#random)
      job.nextAt = Math.min(job.nextAt, job.finalAt)
    } else if (now >= job.finalAt) this.#coveredTo = Math.max(this.#coveredTo, job.rootAt)
  }

  failureRatio(): number | null {
    if (this.#attempts > 0) return this.#failed / this.#attempts
    return this.#lastFailed === null ? null : Number(this.#lastFailed)
  }

  lag(now: number, seals: readonly number[]): number {
    let i = seals.length
    while (i > 0 && seals[i - 1]! > this.#coveredTo) i--
    const oldest = seals[i]
    return oldest === undefined ? 0 : now - oldest
  }
}

/** Peers: each is away for one to three samples now and then. */
class Peers {
  readonly #away: number[]
  readonly #random: () => number
  #lag = 0

  constructor(n: number, random: () => number) {
    this.#away = Array.from({ length: n }, () => 0)
    this.#random = random
  }

  signals(isSplit: boolean) {
    const n = this.#away.length
    this.#away.forEach((left, i) => {
      this.#away[i] =
        left > 0 ? left - 1 : this.#random() < 0.001 ? 1 + Math.floor(3 * this.#random()) : 0
    })
    if (n === 0) return { peer_agreement: null, peer_lag: null }
    const agreeing = this.#away.filter((left, i) => left === 0 && !(isSplit && i < n / 2)).length
    this.#lag = isSplit ? this.#lag + 1 : this.#random() < 0.1 ? 1 : 0
    return { peer_agreement: agreeing / n, peer_lag: Math.floor(this.#lag / 2) }
  }
}
