/**
 * The anchor consumer: one loop for all rails.
 *
 * A message names an outbox row. Under a lease the row takes one step of its rail; what the rail wants
 * remembered is stored before it is called again, so a crash between any two lines repeats a step and
 * never doubles it. Failures are counted in D1 and spaced by core/anchor-state.ts; the queue's own
 * retries are not used, because they would end in the dead-letter queue while the outage lasts. Waiting for a
 * block is no failure: the row says when to look again, and the message that does so is new.
 */

import type { AlertKind } from '#core/alert.ts'
import { methodOf, type Chain } from '#core/anchor-receipt.ts'
import { anchorTransitions, isStalled, retryDelay, type AnchorState } from '#core/anchor-state.ts'
import { fromHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { Labels } from '#core/metrics.ts'
import { clearAlert, closeDeadLetters, openAlert } from '#store/alerts.ts'
import { keepPromise, keepReceipt, revokedKey } from '#store/anchor-receipts.ts'
import {
  anchorQueue,
  configuredRails,
  LEASE_MS,
  leaseAnchor,
  noteAttempt,
  oldestWaiting,
  renewLease,
  resumeAnchor,
  saveAnchor,
  type AnchorMessage,
  type AnchorRow,
} from '#store/anchors.ts'
import { verifyKept } from '#store/fsck-receipts.ts'
import { count, observe, type Background } from '#store/metrics.ts'
import { nodeOf } from '#store/node.ts'
import { batchLink, waitingHeights } from '#store/suffering.ts'
import { causedBy, trail } from '#store/trail.ts'
import { wakeAlerts } from './alert-push.ts'
import type { Rail, RailContext, RailStep, Work } from './anchors/rail.ts'
import { railOf } from './anchors/rails.ts'
import { RememberedRoute } from './anchors/route.ts'
import { wakeWebhooks } from './webhooks.ts'

/** Steps of one message: prepare, submit, check, and a replacement of each. */
const MAX_STEPS = 8
/** A held job looks again by itself: money may have come, or a variant may have confirmed. */
const HELD_AGAIN_MS = 60_000
/** A queue delays by whole seconds up to a day; a longer wait is the sweeper's. */
const MAX_QUEUE_DELAY_S = 86_400

/** Handles a batch of `anchor` messages, each on its own. */
export async function onAnchor(
  batch: MessageBatch<AnchorMessage>,
  env: Env,
  ctx?: Background,
): Promise<void> {
  // Side by side: a provider that hangs must not keep the other rails waiting.
  await Promise.all(
    batch.messages.map(async (message) => {
      try {
        await advance(env, ctx, message.body)
        message.ack()
      } catch (error) {
        // D1 did not answer: the row is as it was. Come back when its lease is over.
        log('anchor step failed', error)
        message.retry({ delaySeconds: LEASE_MS / 1000 + 5 })
      }
    }),
  )
}

async function advance(
  env: Env,
  ctx: Background | undefined,
  { id, requestId }: AnchorMessage,
): Promise<void> {
  const row = await leaseAnchor(env.DB, id, Date.now(), LEASE_MS)
  if (row === null) return
  const now = (): number => Date.now()
  const route = await RememberedRoute.load(env.DB, row, now)
  const attempt = new Attempt(env, ctx, row, {
    fetch: (url, init) => fetch(url, init),
    route,
    now,
    random: (n) => crypto.getRandomValues(new Uint8Array(n)),
    released: row.released === 1,
    requestId,
    releasedFrom: row.reason,
  })
  try {
    const rail = railOf(env, await nodeOf(env), row)
    if (rail === null) await attempt.drop()
    else await attempt.run(rail)
  } catch (error) {
    // Whatever it was, it counts, it is spaced, and it is alerted when it lasts.
    await attempt.backOff(error)
  }
  await route.save(env.DB, row)
}

/** One attempt at one row, under its lease. */
class Attempt {
  readonly #env: Env
  readonly #ctx: Background | undefined
  readonly #row: AnchorRow
  readonly #context: RailContext & { readonly route: RememberedRoute }
  #state: AnchorState
  #work: Work | null
  /** True once this attempt got something signed. */
  #hasSigned = false
  /** The request that asked for this attempt, for the audit. */
  readonly #requestId: string | undefined

  constructor(
    env: Env,
    ctx: Background | undefined,
    row: AnchorRow,
    context: RailContext & {
      readonly route: RememberedRoute
      readonly requestId?: string | undefined
    },
  ) {
    this.#env = env
    this.#ctx = ctx
    this.#row = row
    this.#context = context
    this.#requestId = context.requestId
    this.#state = row.state as AnchorState
    this.#work = row.work === null ? null : (JSON.parse(row.work) as Work)
  }

  async run(rail: Rail): Promise<void> {
    const { root, treeSize } = this.#row
    const job = { root: fromHex(root), treeSize }
    for (let i = 0; i < MAX_STEPS; i++) {
      const work = this.#work
      const step = await this.#leased(
        work !== null && (this.#state === 'broadcast' || this.#state === 'included')
          ? rail.check(job, work, this.#context)
          : rail.submit(job, work, this.#context),
      )
      if (!(await this.#take(rail, step))) return
    }
    // Eight steps without rest: go on at once, but let others have their turn.
    await this.#again(this.#context.now(), null)
  }

  /** Renews the lease while a slow provider is waited for, so that nobody else begins the same meanwhile. */
  async #leased<T>(call: Promise<T>): Promise<T> {
    const renew = (): void => {
      renewLease(this.#env.DB, this.#row, this.#context.now() + LEASE_MS).catch((error: unknown) =>
        log('lease not renewed', error),
      )
    }
    const timer = setInterval(renew, LEASE_MS / 3)
    try {
      return await call
    } finally {
      clearInterval(timer)
    }
  }

  /** Stores what a step says; true if the rail is to be called again now. */
  async #take(rail: Rail, step: RailStep): Promise<boolean> {
    switch (step.state) {
      case 'final':
        await this.#finish(rail, step)
        return false
      case 'busy':
        await this.#queueAgain(step.reason)
        return this.#again(step.againAt, step.reason)
      case 'failed':
        this.#move('failed')
        await this.#hold(step.reason, null)
        return false
      case 'held':
        this.#move('held')
        this.#work = step.work
        await this.#hold(step.reason, this.#context.now() + HELD_AGAIN_MS)
        return false
      case 'waiting':
      case 'included':
        await this.#keepPromised(step.work)
        this.#move(step.state === 'waiting' ? 'broadcast' : 'included')
        this.#work = step.work
        return this.#again(
          step.againAt,
          step.state === 'waiting' ? (step.reason ?? null) : null,
          step.state === 'included' ? JSON.stringify(step.inclusion) : null,
        )
      default:
        this.#move(step.state)
        this.#work = step.work
        this.#hasSigned ||= step.state === 'signed'
        // Whoever holds the lease now goes on; a second hand must not touch the network.
        return this.#save({ reason: null, inclusion: null })
    }
  }

  /** A calendar's new promise goes to R2 before the row that leads to it. */
  async #keepPromised(work: Work): Promise<void> {
    const isNew = work['promisedAt'] !== (this.#work?.['promisedAt'] ?? null)
    if (this.#row.method === 'calendar' && isNew) await keepPromise(this.#env, this.#row, work)
  }

  /** The wallet has `root` under way: this job begins behind it, and that one must not be forgotten. */
  async #queueAgain(root: string): Promise<void> {
    // What was signed for this job before, if anything, can confirm no more.
    if (!anchorTransitions[this.#state].includes('queued')) this.#move('dropped')
    this.#move('queued')
    this.#work = null
    const { chain, network, method } = this.#row
    await resumeAnchor(this.#env, { root, chain, network, method }, this.#context.now())
  }

  #move(next: AnchorState): void {
    if (!anchorTransitions[this.#state].includes(next)) {
      throw new VaultMeshError('bad-state', `An anchor cannot go from ${this.#state} to ${next}.`)
    }
    this.#state = next
  }

  /** The lease is renewed with every state that is not the attempt's last. */
  #save(change: Parameters<typeof saveAnchor>[2]): Promise<boolean> {
    const nowAt = this.#context.now()
    const { chosen } = this.#context.route
    return saveAnchor(
      this.#env.DB,
      this.#row,
      {
        state: this.#state,
        work: this.#work === null ? null : JSON.stringify(this.#work),
        leaseUntil: nowAt + LEASE_MS,
        ...(chosen === null ? {} : { provider: JSON.stringify(chosen) }),
        ...change,
      },
      nowAt,
    )
  }

  /** Ends the attempt in peace: look again at `againAt`. */
  async #again(
    againAt: number,
    reason: string | null,
    inclusion: string | null = null,
  ): Promise<false> {
    const saved = await this.#save({
      failures: 0,
      delayMs: 0,
      nextAt: againAt,
      leaseUntil: 0,
      released: 0,
      reason,
      inclusion,
    })
    if (!saved) return false
    await this.#note(this.#state, { failures: 0, delayMs: 0, nextAt: againAt, reason })
    // To wait for another root of the wallet is no success of this rail.
    if (this.#state !== 'queued') await this.#clearAlerts(this.#hasSigned || inclusion !== null)
    await this.#wake(againAt)
    return false
  }

  async #finish(rail: Rail, { receipt }: Extract<RailStep, { state: 'final' }>): Promise<void> {
    const { DB } = this.#env
    const { chain, network, method } = this.#row
    const verdict = await this.#leased(rail.verify(receipt, this.#context))
    const isOurs =
      receipt.root === `0x${this.#row.root}` &&
      receipt.treeSize === this.#row.treeSize &&
      receipt.chain === chain &&
      receipt.network === network &&
      methodOf(receipt) === method
    const isVerified = verdict.outcome === 'verified' && isOurs
    count(this.#env, this.#ctx, 'vaultmesh_receipt_verifications_total', {
      chain: receipt.chain,
      outcome: isVerified ? 'ok' : 'failed',
    })
    if (!isVerified) {
      const detail = 'The rail returned a receipt that does not verify.'
      await this.#alert('receipt_failed', detail, failedKey(this.#row))
      throw new VaultMeshError('anchor-failed', detail)
    }
    this.#move('final')
    const node = await nodeOf(this.#env)
    await keepReceipt(this.#env, this.#row, receipt, async (json) => {
      try {
        const said = await verifyKept(node, json)
        const { root, treeSize } = this.#row
        return (
          said.root === root &&
          said.treeSize === treeSize &&
          said.chain === chain &&
          said.network === network
        )
      } catch {
        return false // damaged, or no receipt at all
      }
    })
    // A wake-up: without it the cron tells the webhooks within a minute.
    await wakeWebhooks(this.#env).catch(() => undefined)
    const nowAt = this.#context.now()
    // Before the row is final: after that nobody comes back to it.
    await this.#clearAlerts(true)
    await DB.batch([
      clearAlert(DB, 'receipt_revoked', revokedKey(this.#row), nowAt),
      clearAlert(DB, 'receipt_failed', failedKey(this.#row), nowAt),
      clearAlert(DB, 'dead_letter', 'anchor-dlq', nowAt),
      closeDeadLetters(DB, 'anchor-dlq', nowAt),
    ])
    const saved = await this.#save({
      failures: 0,
      delayMs: 0,
      leaseUntil: 0,
      released: 0,
      reason: null,
      inclusion: null,
    })
    if (saved) await this.#note('final', { failures: 0, delayMs: 0, nextAt: nowAt, reason: null })
  }

  /** Nothing is sent until somebody acts; `againAt` null ends the job. */
  async #hold(reason: string, againAt: number | null): Promise<void> {
    const nowAt = this.#context.now()
    const nextAt = againAt ?? nowAt
    const saved = await this.#save({ reason, nextAt, leaseUntil: 0, released: 0, delayMs: 0 })
    if (!saved) return
    await this.#note(this.#state, { failures: this.#row.failures, delayMs: 0, nextAt, reason })
    await this.#alert('anchor_held', `${HELD[reason] ?? reason} (job ${this.#row.id})`)
    if (againAt !== null) await this.#wake(againAt)
  }

  /** The settings have no such rail any more. */
  async drop(): Promise<void> {
    const nowAt = this.#context.now()
    const reason = 'no provider is configured for this rail any more'
    if (this.#work === null) {
      await saveAnchor(this.#env.DB, this.#row, { state: 'failed', reason, leaseUntil: 0 }, nowAt)
      await this.#clearAlerts(true)
      await clearAlert(this.#env.DB, 'receipt_failed', failedKey(this.#row), nowAt).run()
      return
    }
    // Something was signed: the job waits for its settings to come back.
    const nextAt = nowAt + 3_600_000
    await saveAnchor(this.#env.DB, this.#row, { reason, nextAt, leaseUntil: 0 }, nowAt)
    await this.#alert('anchor_held', reason)
  }

  async backOff(error: unknown): Promise<void> {
    const nowAt = this.#context.now()
    log('anchor attempt failed', error)
    // Only our own errors are made to be shown; what a library says may hold what nobody should read.
    const reason =
      error instanceof VaultMeshError ? error.message : 'an unexpected error, see the log'
    const failures = this.#row.failures + 1
    const { delay } = retryDelay(failures, Math.random())
    const nextAt = nowAt + delay * 1000
    const delayMs = delay * 1000
    const { chosen } = this.#context.route
    const saved = await saveAnchor(
      this.#env.DB,
      this.#row,
      {
        failures,
        nextAt,
        leaseUntil: 0,
        // A release outlives what only failed: it is for the next attempt that comes to a verdict.
        reason,
        delayMs,
        ...(chosen === null ? {} : { provider: JSON.stringify(chosen) }),
      },
      nowAt,
    )
    if (!saved) return
    await this.#note('error', { failures, delayMs, nextAt, reason })
    if (isStalled(failures)) await this.#alert('anchor_stalled', reason)
    await this.#wake(nextAt)
  }

  /** A hold is over when something new was signed or a variant is in a block, not when a variant merely waits. */
  async #clearAlerts(isFreed: boolean): Promise<void> {
    const { DB } = this.#env
    const nowAt = this.#context.now()
    const kinds: AlertKind[] = isFreed ? ['anchor_stalled', 'anchor_held'] : ['anchor_stalled']
    await DB.batch(kinds.map((kind) => clearAlert(DB, kind, this.#key(), nowAt)))
  }

  /** The link is the batch that has waited longest for this rail: no later one has its anchor either. */
  async #alert(kind: AlertKind, detail: string, key = this.#key()): Promise<void> {
    const { DB } = this.#env
    const [height = null] = await waitingHeights(DB, [this.#row])
    const link = batchLink(height, '/anchors/status')
    await openAlert(DB, { kind, key, severity: 'critical', detail, link }, this.#context.now())
    await wakeAlerts(this.#env).catch(() => undefined)
  }

  #key(): string {
    return railKey(this.#row)
  }

  #note(
    outcome: string,
    rest: { failures: number; delayMs: number; nextAt: number; reason: string | null },
  ): Promise<void> {
    this.#count(outcome)
    const { id: job, attempts: attempt, chain, network, method, treeSize } = this.#row
    const about = { job, attempt, chain, network, method, treeSize }
    const { failures } = rest
    trail(this.#env, { kind: 'attempt', ...about, outcome, failures, ...causedBy(this.#requestId) })
    const { chosen } = this.#context.route
    return noteAttempt(this.#env.DB, {
      anchorId: this.#row.id,
      attempt: this.#row.attempts,
      at: this.#context.now(),
      outcome,
      provider: chosen === null ? null : JSON.stringify(chosen),
      ...rest,
    })
  }

  #count(outcome: string): void {
    const chain = this.#row.chain as Chain
    count(this.#env, this.#ctx, 'vaultmesh_anchor_attempts_total', {
      chain,
      outcome: COUNTED[outcome] ?? 'waiting',
    })
    if (outcome !== 'final') return
    const seconds = Math.max(0, this.#context.now() - this.#row.createdAt) / 1000
    observe(this.#env, this.#ctx, 'vaultmesh_anchor_confirmation_seconds', { chain }, seconds)
  }

  /** A message for when the row is due; lost, the sweeper sends it. */
  async #wake(at: number): Promise<void> {
    const delaySeconds = Math.min(
      MAX_QUEUE_DELAY_S,
      Math.max(0, Math.ceil((at - this.#context.now()) / 1000)),
    )
    await anchorQueue(this.#env, this.#row.chain).send({ id: this.#row.id }, { delaySeconds })
  }
}

/** How an attempt is counted that ended so; all other states wait for the chain. */
const COUNTED: Readonly<Record<string, Labels<'vaultmesh_anchor_attempts_total'>['outcome']>> = {
  final: 'final',
  held: 'held',
  failed: 'failed',
  error: 'failed',
}

/** What alerts of a rail are about: chain and network, and calendars apart from the wallet's transactions. */
function railKey({
  chain,
  network,
  method,
}: Pick<AnchorRow, 'chain' | 'network' | 'method'>): string {
  return method === 'calendar' ? `${chain}/${network}/calendar` : `${chain}/${network}`
}

/** Key of the alert that a rail's own receipt did not verify; store/watch.ts has those of stored ones. */
function failedKey(row: Pick<AnchorRow, 'chain' | 'network' | 'method'>): string {
  return `rail/${railKey(row)}`
}

/**
 * Opens an alert for each rail whose oldest root waits too long, whatever the reason, and clears it when it does
 * not any more: an anchor that is stuck without an error is stuck all the same.
 */
export async function watchAge(env: Env, nowAt: number): Promise<void> {
  const { DB } = env
  const rails = configuredRails((await nodeOf(env)).config)
  const waiting = await oldestWaiting(DB, nowAt)
  const heights = await waitingHeights(DB, rails)
  for (const [i, rail] of rails.entries()) {
    const key = railKey(rail)
    const oldest = waiting.find((w) => railKey(w) === key)
    const limitMs = LATE_MS[rail.method === 'calendar' ? 'calendar' : rail.chain] + rail.intervalMs
    if (oldest === undefined || oldest.ageMs <= limitMs) {
      await clearAlert(DB, 'anchor_late', key, nowAt).run()
      continue
    }
    const hours = (oldest.ageMs / 3_600_000).toFixed(1)
    const detail = `A root has waited ${hours} hours for its anchor.`
    const link = batchLink(heights[i] ?? null, '/anchors/status')
    await openAlert(DB, { kind: 'anchor_late', key, severity: 'warning', detail, link }, nowAt)
  }
}

/** How long an anchor may take when all is well, times three: an hour and a quarter of blocks, 13 minutes, a day. */
const LATE_MS = {
  BTC: 4 * 3_600_000,
  EVM: 3_600_000,
  TSA: 900_000,
  calendar: 3 * 86_400_000,
} as const

/** What an operator must know of a held job. */
const HELD: Readonly<Record<string, string>> = {
  no_funds:
    'The wallet cannot pay: its address needs coins as deep as a final anchor that every provider names and that can pay the fee cap',
  fee_cap: 'The fee cap is reached: raise it, or wait for cheaper blocks',
  unknown_spend:
    'What this anchor spends was spent by somebody else, or is nowhere on the chain: the key is shared, stolen or was used before, or a provider lied. Hold it against a block explorer; move the funds if it was not you; then release the job',
  restored:
    'The wallet was put back from a backup and does not know what it paid since: look at its address in a block explorer. Release the job once none of its payments since the backup carries this root and all of them are final; if one does, leave the job, the next root takes its place',
  nonce_gap:
    'A transaction waits above the next nonce of the chain: use the nonces below it, or set another key',
}

function log(msg: string, error: unknown): void {
  console.error(JSON.stringify({ level: 'error', msg, error: String(error) }))
}
