/**
 * The Bitcoin rail: one transaction of our own with the root in an OP_RETURN (design §6).
 *
 * `work` is what the wallet signed for the root, and what was seen of it. Nothing is paid for twice,
 * because every variant spends the same coins and the Wallet signs other coins for a root only after
 * `settle(root, null)`. That is said here when the operator has released the job and no variant can
 * confirm at any provider: a spend that is none of ours lies `requiredDepth` deep, or for as many blocks
 * a coin has been nowhere, or every variant has been refused as invalid.
 *
 * Good news is taken from one provider, since a wrong one costs only another look. Bad news (it is in
 * no chain, in no pool), finality and the coins to spend are asked of all. The headers and the branch
 * prove themselves.
 */

import * as z from 'zod'
import { bitcoinReceipt } from '#core/anchor-bitcoin.ts'
import type { AnchorReceipt, AnchorVerdict } from '#core/anchor-receipt.ts'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { MIN_FOLLOWING, parseHeader } from '#core/bitcoin-proof.ts'
import { parseTransaction, toDisplay } from '#core/bitcoin-transaction.ts'
import { fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { Coin, Spend, WalletApi } from '#store/wallet-api.ts'
import {
  agreedHeaders,
  checkNetwork,
  checkOptions,
  pollMs,
  verdictOnline,
  disproofOf,
} from './bitcoin-chain.ts'
import type { BitcoinClient, Outspend, TxStatus } from './bitcoin-client.ts'
import { nextFeerate } from './bitcoin-wallet.ts'
import type { AnchorJob, Rail, RailContext, RailStep } from './rail.ts'

export interface BitcoinRailOptions {
  /** As in receipts. */
  readonly network: string
  readonly clients: readonly BitcoinClient[]
  readonly wallet: WalletApi
  /** Whose coins pay. */
  readonly address: string
  /** Confirmations wanted, at least 7: the block and the six headers on top that a proof stores. */
  readonly requiredDepth?: number
  /** Blocks that go by without a variant before it is replaced. */
  readonly bumpAfterBlocks?: number
  /** Our version, for the receipt's `verifier`. */
  readonly version: string
}

export const DEFAULT_BUMP_AFTER_BLOCKS = 6
/** A day is soon enough; what is stuck is asked for within six hours, then within one. */
const TARGET_BLOCKS = [144, 36, 6] as const

/** Spends in one page of a wallet. */
const HISTORY_PAGE = 500

const hash = z.string().regex(/^[0-9a-f]{64}$/)
const height = z.int().nonnegative()
const workSchema = z.strictObject({
  spends: z.array(z.string().regex(/^[0-9a-f]{64}:\d+$/)).min(1),
  /** All that were ever signed, oldest first. */
  variants: z
    .array(z.strictObject({ txHash: hash, raw: z.string(), feerate: z.number().positive() }))
    .min(1),
  /** Height of the tip when the newest variant was first sent. */
  since: height.nullable(),
  /** Where a variant was last seen in a block. */
  seen: z.strictObject({ txHash: hash, height, blockHash: hash }).nullable(),
  /** Height of the tip since which no provider has what a variant could confirm with. */
  doomedSince: height.nullable().default(null),
})
export type BitcoinWork = z.infer<typeof workSchema>
type Step = RailStep<BitcoinWork>

/** What one provider says of all variants. */
interface View {
  readonly tip: number
  readonly block: NonNullable<BitcoinWork['seen']> | null
  readonly isInPool: boolean
}

/**
 * What one provider makes of the variants when it has none of them: a foreign spend of their coins is
 * young or deep, a coin is gone (or they are invalid), or they may confirm. `unsaid`: it was not asked to take them.
 */
type Fate = 'deep' | 'young' | 'gone' | 'alive' | 'unsaid'

/** The rail of one wallet. Throws `bad-config`. */
export function bitcoinRail(options: BitcoinRailOptions): Rail<BitcoinWork> {
  const { network, clients, wallet, address, version } = options
  const { bumpAfterBlocks = DEFAULT_BUMP_AFTER_BLOCKS } = options
  const requiredDepth = options.requiredDepth ?? MIN_FOLLOWING + 1
  checkOptions(network, clients)
  if (!Number.isSafeInteger(requiredDepth) || requiredDepth <= MIN_FOLLOWING) {
    throw new VaultMeshError('bad-config', 'Bitcoin needs 7 confirmations or more to be final.')
  }
  const againAt = (context: RailContext) => context.now() + pollMs(network)

  async function prepare(job: AnchorJob, context: RailContext): Promise<Step> {
    const root = toHex(job.root)
    const before = await wallet.find(root)
    if (before !== null && before.state !== 'dead') return { state: 'signed', work: workOf(before) }
    const coins = await agreedCoins(context)
    const feerate = await context.route.first(clients, (client) => client.feerate(TARGET_BLOCKS[0]))
    // Also with no coin at all: the one there is may be under way for another root, which is no want.
    const isRestoreReleased = context.released && context.releasedFrom === 'restored'
    const price = { chain: 'BTC', feerate } as const
    const answer = await wallet.sign({ root, price, coins, isRestoreReleased })
    if ('busy' in answer) return { state: 'busy', reason: answer.busy, againAt: againAt(context) }
    if ('held' in answer) return { state: 'held', work: null, reason: answer.held }
    return { state: 'signed', work: workOf(answer.spend) }
  }

  /**
   * Coins that every provider names with the same value. What spends another one may never confirm, nor
   * be known to be dead, and until then the wallet signs for nobody else: one lie would stop it for good.
   * As deep as an anchor must be: a coin that vanishes in a reorganisation takes the anchor along.
   */
  async function agreedCoins({ route }: RailContext): Promise<readonly Coin[]> {
    const lists: (readonly Coin[])[] = []
    // One after another: two addresses may lead to one node, which scans for one caller at a time.
    for (const client of clients) {
      const answer = await route.all([client], async () => {
        await checkNetwork(client, network)
        return client.coins(address, requiredDepth)
      })
      lists.push(...answer)
    }
    const valueIn = lists.map((list) => new Map(list.map((coin) => [nameOf(coin), coin.value])))
    // By name, so that what somebody names twice is spent once.
    const named = new Map(lists.flat().map((coin) => [nameOf(coin), coin]))
    return [...named].flatMap(([name, coin]) =>
      valueIn.every((values) => values.get(name) === coin.value) ? [coin] : [],
    )
  }

  async function send(job: AnchorJob, work: BitcoinWork, context: RailContext): Promise<Step> {
    const { raw } = work.variants.at(-1)!
    const { tip, outcome } = await context.route.first(clients, async (client) => ({
      tip: await client.tip(),
      outcome: await client.broadcast(raw),
    }))
    const sent: BitcoinWork = { ...work, since: work.since ?? tip.height }
    if (outcome === 'too-cheap') return bump(job, sent, tip.height, context)
    // Against what does it conflict: an older variant, or somebody else's spend?
    if (outcome === 'conflict' || outcome === 'invalid') return judge(job, sent, context, true)
    return { state: 'waiting', work: sent, againAt: againAt(context) }
  }

  /** After bad news from one provider: what do all of them say? With `isSent` it was sent just now, in vain. */
  async function judge(
    job: AnchorJob,
    work: BitcoinWork,
    context: RailContext,
    isSent = false,
  ): Promise<Step> {
    const views = await context.route.all(clients, (client) => look(client, work))
    if (views.some(({ block, isInPool }) => block !== null || isInPool)) {
      const found = { ...work, seen: null, doomedSince: null }
      return { state: 'waiting', work: found, againAt: againAt(context) }
    }
    const fates = await context.route.all(clients, (client) =>
      fateOf(client, work, { depth: requiredDepth, isSent }),
    )
    const tips = views.map(({ tip }) => tip)
    const judged = { ...work, doomedSince: doomedSince(work, fates, Math.max(...tips)) }
    const isLong =
      judged.doomedSince !== null && Math.min(...tips) - judged.doomedSince >= requiredDepth
    const isDead = fates.every((fate) => fate === 'deep' || (fate === 'gone' && isLong))
    const isForeign = fates.some((fate) => fate === 'deep' || fate === 'young')
    if (!isForeign && !isDead) {
      return { state: 'waiting', work: judged, againAt: againAt(context) }
    }
    const root = toHex(job.root)
    const stored = await wallet.find(root)
    // An attempt that did not live to tell gave these coins up before: what it signed since counts.
    const isSuperseded = stored?.state === 'open' && !sameSpends(stored.spends, work.spends)
    const isGivenUp = stored === null || stored.state === 'dead'
    if (isSuperseded || (isGivenUp && isDead && (await gaveUp(root, work))))
      return prepare(job, context)
    // An outbox that was put back in time knows fewer variants: what spent the coins may be ours.
    const isBehind = stored !== null && stored.variants.length > work.variants.length
    if (isBehind && !isGivenUp) return { state: 'signed', work: workOf(stored) }
    if (!isDead || !context.released) {
      return { state: 'held', work: judged, reason: 'unknown_spend' }
    }
    // Nodes tell of spends and of transactions at different moments: look again, after the fact.
    const again = await context.route.all(clients, (client) => look(client, work))
    if (again.some((view) => view.block !== null || view.isInPool)) {
      return { state: 'waiting', work, againAt: againAt(context) }
    }
    if (stored !== null) await wallet.settle(root, null)
    return prepare(job, context)
  }

  /** Whether the wallet remembers that it gave this up: one that lost its memory may have paid by what it forgot. */
  async function gaveUp(root: string, { spends }: BitcoinWork): Promise<boolean> {
    for (let after = 0; ;) {
      const page = await wallet.history(after, HISTORY_PAGE)
      if (page.some((spend) => spend.root === root && sameSpends(spend.spends, spends))) return true
      if (page.length < HISTORY_PAGE) return false
      after = page.at(-1)!.id
    }
  }

  /** Replaces the newest variant by a dearer one. */
  async function bump(
    job: AnchorJob,
    work: BitcoinWork,
    tip: number,
    context: RailContext,
  ): Promise<Step> {
    const { feerate } = work.variants.at(-1)!
    const target = TARGET_BLOCKS[Math.min(work.variants.length, TARGET_BLOCKS.length - 1)]!
    const estimate = await context.route.first(clients, (client) => client.feerate(target))
    const replace = (next: number) =>
      wallet.replace(toHex(job.root), { chain: 'BTC', feerate: next })
    let answer = await replace(nextFeerate(feerate, estimate))
    // Blocks may cost more than we are willing to pay; the next small step may be within the cap.
    if ('held' in answer) answer = await replace(nextFeerate(feerate, 0))
    // The coins pay the cap they were chosen under, and no others can join them: where they end is a cap too.
    if ('held' in answer) return { state: 'held', work, reason: 'fee_cap' }
    if ('spend' in answer && answer.spend.variants.length > work.variants.length) {
      return { state: 'signed', work: workOf(answer.spend) }
    }
    return { state: 'waiting', work: { ...work, since: tip }, againAt: againAt(context) }
  }

  function isDue({ since }: BitcoinWork, { tip }: View): boolean {
    return since !== null && tip - since >= bumpAfterBlocks
  }

  async function included(
    job: AnchorJob,
    { work, block, tip }: { work: BitcoinWork; block: NonNullable<View['block']>; tip: number },
    context: RailContext,
  ): Promise<Step> {
    const { seen } = work
    if (seen !== null && (seen.blockHash !== block.blockHash || seen.txHash !== block.txHash)) {
      return { state: 'orphaned', work: { ...work, seen: null } }
    }
    const observedDepth = tip - block.height + 1
    if (observedDepth >= requiredDepth) {
      const receipt = await finish(job, { work, block }, context)
      if (receipt !== null) return { state: 'final', receipt }
    }
    const header = await context.route.first(clients, (client) => client.header(block.blockHash))
    return {
      state: 'included',
      work: { ...work, seen: block, doomedSince: null },
      againAt: againAt(context),
      inclusion: {
        txHash: block.txHash,
        blockNumber: block.height,
        anchorTs: new Date(parseHeader(fromHex(header)).time).toISOString(),
        observedDepth,
        requiredDepth,
      },
    }
  }

  /** The receipt, if everybody agrees on the block and on those that follow; the wallet is told. */
  async function finish(
    job: AnchorJob,
    { work, block }: { work: BitcoinWork; block: NonNullable<View['block']> },
    context: RailContext,
  ): Promise<AnchorReceipt | null> {
    const chain = await agreedHeaders(context, clients, {
      network,
      height: block.height,
      count: requiredDepth,
    })
    if (chain === null) return null
    const [first, ...following] = chain
    if (first!.hash !== block.blockHash) return null
    const inclusion = await context.route.first(clients, (client) =>
      client.inclusion(block.txHash, block.blockHash),
    )
    const receipt = bitcoinReceipt({
      root: job.root,
      treeSize: job.treeSize,
      network,
      proof: {
        ...inclusion,
        // What the txid is made of; the witness proves nothing here and half fills the receipt.
        rawTx: toHex(parseTransaction(fromHex(inclusion.rawTx)).stripped),
        header: first!.header,
        following: following.map(({ header }) => header),
        height: block.height,
      },
      requiredDepth,
      group: work.variants.map(({ txHash }) => txHash),
      version,
      observedAt: context.now(),
    })
    await wallet.settle(toHex(job.root), block.txHash)
    return receipt
  }

  return {
    chain: 'BTC',
    network,
    method: 'tx',

    async submit(job, work, context) {
      return work === null ? prepare(job, context) : send(job, parsedWork(work), context)
    },

    async check(job, stored, context) {
      const work = parsedWork(stored)
      const view = await context.route.first(clients, (client) => look(client, work))
      if (view.block !== null) {
        return included(job, { work, block: view.block, tip: view.tip }, context)
      }
      if (work.seen !== null || !view.isInPool) {
        const views = await context.route.all(clients, (client) => look(client, work))
        const found = views.find(({ block }) => block !== null)
        if (found?.block) {
          return included(job, { work, block: found.block, tip: found.tip }, context)
        }
        if (work.seen !== null) return { state: 'orphaned', work: { ...work, seen: null } }
        if (!views.some((other) => other.isInPool)) {
          const step = await judge(job, work, context)
          if (step.state !== 'waiting') return step
          // No pool has it though it was due: send it again at once only if it is not too cheap. What
          // cannot confirm is no better at another price.
          if (!isDue(work, view) || step.work.doomedSince !== null) {
            return { state: 'dropped', work: step.work }
          }
        }
      }
      if (isDue(work, view)) return bump(job, work, view.tip, context)
      const since = work.since ?? view.tip
      const waiting = { ...work, since, doomedSince: null }
      return { state: 'waiting', work: waiting, againAt: againAt(context) }
    },

    async verify(receipt: AnchorReceipt, context: RailContext): Promise<AnchorVerdict> {
      if (receipt.chain !== 'BTC' || receipt.network !== network) {
        return { outcome: 'refuted', check: 'network', reason: `not a receipt of ${network}` }
      }
      const verdict = await verifyAnchorReceipt(receipt, { tsaRoots: [] })
      if (verdict.outcome !== 'verified') return verdict
      const header = fromHex(String(receipt.proof['header']))
      const blockHash = toDisplay(parseHeader(header).hash)
      return verdictOnline(context, clients, { receipt, verdict, blockHash })
    },

    disproof: (receipt, context) => disproofOf(context, clients, receipt),
  }
}

/** Where the variants are, the newest first: usually it is the one. */
async function look(client: BitcoinClient, work: BitcoinWork): Promise<View> {
  const { height: tip } = await client.tip()
  let isInPool = false
  for (const { txHash } of work.variants.toReversed()) {
    const hint = work.seen?.txHash === txHash ? work.seen.blockHash : undefined
    const status: TxStatus = await client.statusOf(txHash, hint)
    if (status.state === 'block') {
      const { height: at, blockHash } = status
      return { tip, isInPool: false, block: { txHash, height: at, blockHash } }
    }
    isInPool ||= status.state === 'mempool'
  }
  return { tip, isInPool, block: null }
}

async function fateOf(
  client: BitcoinClient,
  { spends, variants }: BitcoinWork,
  { depth, isSent }: { depth: number; isSent: boolean },
): Promise<Fate> {
  const found: { readonly txid: string; readonly spend: Outspend }[] = []
  for (const outpoint of spends) {
    const [txid, vout] = outpoint.split(':') as [string, string]
    found.push({ txid, spend: await client.outspend({ txid, vout: Number(vout) }, depth) })
  }
  // One spent input is enough: a variant spends them all.
  const foreign = found.flatMap(({ spend }) =>
    spend.state === 'spent' && !variants.some(({ txHash }) => txHash === spend.by) ? [spend] : [],
  )
  if (foreign.length > 0) return foreign.some(({ isDeep }) => isDeep) ? 'deep' : 'young'
  for (const { txid, spend } of found) {
    if (spend.state === 'spent') return 'alive'
    // What a reorganisation took away and a pool still has will be back.
    if (spend.state === 'missing' && (await client.statusOf(txid)).state === 'unknown')
      return 'gone'
  }
  if (!isSent) return 'unsaid'
  // All variants claim the same values of the same coins, and the newest leaves the least to its outputs:
  // where that one is invalid they all are.
  return (await client.broadcast(variants.at(-1)!.raw)) === 'invalid' ? 'gone' : 'alive'
}

/** Since when nobody has what a variant could confirm with; null as soon as somebody does. */
function doomedSince(work: BitcoinWork, fates: readonly Fate[], tip: number): number | null {
  if (fates.includes('alive')) return null
  return fates.includes('unsaid') ? work.doomedSince : (work.doomedSince ?? tip)
}

function workOf(spend: Spend): BitcoinWork {
  const variants = spend.variants.map(({ txHash, raw, price }) => {
    if (price.chain !== 'BTC') throw new VaultMeshError('bad-state', 'The wallet is of no Bitcoin.')
    return { txHash, raw, feerate: price.feerate }
  })
  return parsedWork({
    spends: [...spend.spends],
    variants,
    since: null,
    seen: null,
    doomedSince: null,
  })
}

function parsedWork(work: unknown): BitcoinWork {
  const parsed = workSchema.safeParse(work)
  if (parsed.success) return parsed.data
  throw new VaultMeshError('bad-state', 'The stored Bitcoin work is not what this rail writes.')
}

/** As `Spend.spends` has it. */
function nameOf({ txid, vout }: Coin): string {
  return `${txid}:${vout}`
}

function sameSpends(a: readonly string[], b: readonly string[]): boolean {
  return a.length === b.length && a.every((outpoint) => b.includes(outpoint))
}
