/**
 * Logs of this node before the current one: each forked and was ended. They are followed like a peer's, under this
 * node's own DID, so that their forks stay in view, the law goes on to judge them, and what they orphan is known.
 *
 * Their instances are asked over the binding PREVIOUS: their feeds hold the rivals that ended them, and anchors of
 * theirs may still become final. A log that was ended grows no more, so it is asked now and then.
 */

import type { Chain } from '#core/anchor-receipt.ts'
import { canonicalDid } from '#core/did.ts'
import { Remembrancer } from '../functions/remembrancer.ts'
import { warn, type Context, type FederationState } from './federation-state.ts'
import { MAX_PENDING } from './ledger.ts'
import type { Visits } from './visits.ts'

/** Without news an older log is asked again after this time. */
const ASK_EVERY_MS = 5000
const CHAINS: readonly Chain[] = ['BTC', 'EVM', 'TSA']

export class PreviousLogs {
  readonly #state: FederationState
  readonly #visits: Visits
  #askAt = 0
  /** Receipts on the page that was read last. */
  readonly #seen = new Set<string>()

  constructor(state: FederationState, visits: Visits) {
    this.#state = state
    this.#visits = visits
  }

  /** Takes over what the older instances have that is not here. */
  async absorb(context: Context, nowAt: number): Promise<void> {
    const { previousLogs } = context.node.config
    if (previousLogs.length === 0 || nowAt < this.#askAt) return
    let isNew = false
    for (const [i, { origin }] of previousLogs.entries()) {
      try {
        if (await this.#absorbOne(context, origin, i + 1)) isNew = true
      } catch (error) {
        warn('an older log was not read', error)
      }
    }
    this.#askAt = isNew ? 0 : nowAt + ASK_EVERY_MS
  }

  /** True if there was something new. */
  async #absorbOne(context: Context, origin: string, number: number): Promise<boolean> {
    const { env, ledger, touched } = this.#state
    const { PREVIOUS, ADMIN_TOKEN } = env
    const keys = await this.#state.keysOf(origin)
    if (PREVIOUS === undefined || keys === null) return false
    const client = new Remembrancer({
      url: `http://previous/log/${number}`,
      signal: AbortSignal.timeout(context.config.timeoutMs),
      // As the operator: a node that shows no events in public shows them to itself.
      fetch: (to, init) =>
        PREVIOUS.fetch(to, {
          ...init,
          ...(ADMIN_TOKEN === undefined
            ? {}
            : { headers: { authorization: `Bearer ${ADMIN_TOKEN}` } }),
        }),
    })
    const source = canonicalDid(context.node.nodeDid)
    let isNew = await this.#readFeed(context, { client, origin, source })
    const height = Number(this.#state.recall(`height ${origin}`) ?? 0)
    for (const batch of await client.getBatches(height + 1, keys)) {
      if (ledger.countPending(origin) >= MAX_PENDING) break
      if (ledger.learnBatch(batch, source, Date.now())) touched.add(origin)
      this.#state.remember(`height ${origin}`, String(batch.manifest.height))
      isNew = true
    }
    await this.#visits.fetchEvents(context, client, { did: source }, [origin])
    for (const chain of CHAINS) {
      const cursor = `${chain} ${origin}`
      const after = Number(this.#state.recall(cursor) ?? 0)
      const { receipts, next } = await client.getProof(chain, { origin, after })
      // Batches are learned in steps: what is of one to come is read when it is here.
      let isWaiting = false
      for (const receipt of receipts) {
        // The last page is read again each time, as more may come onto it.
        const name = `${origin} ${receipt.root} ${receipt.network} ${receipt.txHash}`
        if (this.#seen.has(name)) continue
        if (!ledger.hasRoot(origin, receipt.root.slice(2), receipt.treeSize)) {
          isWaiting = true
          continue
        }
        await this.#visits.takeProof(context, origin, receipt)
        this.#seen.add(name)
        isNew = true
      }
      if (next === null || isWaiting) continue
      this.#state.remember(cursor, String(next))
      this.#seen.clear()
    }
    return isNew
  }

  /** What an ended log's own instance knew of it, rivals included. True if there was something new. */
  async #readFeed(
    context: Context,
    {
      client,
      origin,
      source,
    }: { readonly client: Remembrancer; readonly origin: string; readonly source: string },
  ): Promise<boolean> {
    const cursor = `feed ${origin}`
    const after = Number(this.#state.recall(cursor) ?? 0)
    const page = await client.feed(after).catch((error: unknown) => {
      warn('the feed of an older log was not read', error)
      return null
    })
    for (const item of page?.items ?? []) {
      // Of peers' logs the peers tell more.
      const isOurs = item.origin === origin
      if (isOurs && !(await this.#visits.take(context, { did: source }, item))) return true
      this.#state.remember(cursor, String(item.seq))
    }
    return page !== null && page.items.length > 0
  }
}
