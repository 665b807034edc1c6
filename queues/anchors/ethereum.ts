/**
 * The EVM rail: the root as calldata of a transaction to ourselves (§6), proven by the transactions trie.
 *
 * All variants of a root share one account nonce, so a chain can hold one of them, and every step
 * looks for all of them before it spends. Who signs is the Wallet; who is believed is nobody alone:
 * nothing is signed unless every node is on our chain and names the same nonce, and nothing is final
 * unless every node has the same block at or below its `finalized`. A node that is silent stops the
 * rail, one that lies cannot move it.
 *
 * A nonce that somebody else used is never skipped: it means that the key is shared or stolen. The
 * job waits until that is final, is held, and starts over with a new nonce only when the operator says
 * so and every node still knows none of our variants. The wallet signs at the nonce after its own last one
 * (wallet-signer.ts), so a wrong count of a node leaves nothing behind that waits above the chain's.
 */

import { keccak256 } from 'viem'
import type { Hex } from 'viem'
import { ethereumProofSchema, ethereumReceipt, evmNetwork } from '#core/anchor-ethereum.ts'
import type { AnchorReceipt, AnchorVerdict, EvmBlock } from '#core/anchor-receipt.ts'
import { refuted } from '#core/anchor-receipt.ts'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { SignAnswer, WalletApi } from '#store/wallet-api.ts'
import { proofIn } from './ethereum-block.ts'
import type { EthereumClient } from './ethereum-client.ts'
import { anchorGas, nextFees } from './ethereum-wallet.ts'
import type { EthereumWork, Found, Sight } from './ethereum-work.ts'
import {
  agreed,
  look,
  mustBeOn,
  newestOf,
  parseWork,
  priceOf,
  senderOf,
  workOf,
} from './ethereum-work.ts'
import type { AnchorJob, Rail, RailContext, RailStep } from './rail.ts'

/** On Ethereum a minute: base fee and queue may have changed by then. */
export const DEFAULT_BUMP_AFTER_BLOCKS = 5
/** A block of Ethereum takes 12 s; dev chains answer when they are asked. */
const POLL_MS = 12_000
const DEV_POLL_MS = 1_000
const DEV_CHAINS: readonly number[] = [31337, 1337]

export interface EthereumRailOptions {
  /** As in receipts: `evmNetwork(chainId)`. */
  readonly network: string
  readonly chainId: number
  /** Nodes of the chain, of different operators where there are two. */
  readonly clients: readonly EthereumClient[]
  readonly wallet: WalletApi
  /** The wallet's address, lowercase 0x. */
  readonly address: string
  /** Blocks that a variant may wait before it is replaced at a higher price. */
  readonly bumpAfterBlocks?: number
  /** Our version, for the receipt's `verifier`. */
  readonly version: string
  /** The node's signed word (`vm-block+jws`) that this block is final since it was seen so (epoch ms). */
  readonly witness: (block: EvmBlock & { readonly finalizedAt: number }) => Promise<string>
}

type Step = RailStep<EthereumWork>

/** The rail to one chain. Throws `bad-config` without a node to ask. */
export function ethereumRail(options: EthereumRailOptions): Rail<EthereumWork> {
  const { network, chainId, clients, wallet, address } = options
  const { bumpAfterBlocks = DEFAULT_BUMP_AFTER_BLOCKS } = options
  if (clients.length === 0) throw new VaultMeshError('bad-config', 'No EVM node is configured.')
  if (network !== evmNetwork(chainId)) {
    throw new VaultMeshError('bad-config', `Chain ${chainId} is not called ${network}.`)
  }
  const poll = DEV_CHAINS.includes(chainId) ? DEV_POLL_MS : POLL_MS
  const soon = (context: RailContext) => context.now() + poll
  const send = ({ variants }: EthereumWork, { route }: RailContext) =>
    route.first(clients, (client) => client.send(variants.at(-1)!.raw))
  const seen = async (work: EthereumWork, { route }: RailContext) => {
    const from = await senderOf(work)
    return route.all(clients, (client) => look(client, { chainId, address: from, work }))
  }

  /** Signs the first variant, at a nonce that every node names and the wallet expects. */
  async function prepare({ root }: AnchorJob, context: RailContext): Promise<Step> {
    const { route } = context
    const states = await route.all(clients, async (client) => {
      await mustBeOn(client, chainId)
      return { nonce: await client.nonceOf(address), balance: await client.balanceOf(address) }
    })
    const [{ nonce, balance }] = states as [(typeof states)[0]]
    if (states.some((state) => state.nonce !== nonce)) {
      throw failure('The EVM nodes do not agree on the next nonce.')
    }
    const final = context.released
      ? await route.all(clients, (client) => client.nonceOf(address, 'finalized'))
      : null
    const price = await route.first(clients, async (client) => {
      const call = { from: address, to: address, data: `0x${toHex(root)}` }
      return { fees: await client.fees(), gas: anchorGas(await client.estimateGas(call)) }
    })
    const answer = await wallet.sign({
      root: toHex(root),
      isRestoreReleased: context.released && context.releasedFrom === 'restored',
      price: priceOf(price.fees),
      nonce,
      releasedNonce: final === null ? null : Math.min(...final),
      balance: balance.toString(),
      gas: price.gas.toString(),
    })
    if ('held' in answer && answer.held === 'nonce_gap') {
      // They lag, were reorganised, or count for good only soon: all of that time mends.
      throw failure(`The EVM nodes count ${nonce} transactions of the wallet, not what it expects.`)
    }
    return signed(answer, null, context)
  }

  /** What the wallet's answer means for a job whose work so far is `work`. */
  function signed(answer: SignAnswer, work: EthereumWork | null, context: RailContext): Step {
    if ('spend' in answer) return { state: 'signed', work: workOf(answer.spend, work) }
    if ('held' in answer) return { state: 'held', work, reason: answer.held }
    return { state: 'busy', reason: answer.busy, againAt: soon(context) }
  }

  /** True if the nonce is used for good by none of our variants, as every node sees it. */
  async function isLost(work: EthereumWork, context: RailContext): Promise<boolean> {
    const from = await senderOf(work)
    const final = await context.route.all(clients, (c) => c.nonceOf(from, 'finalized'))
    if (final.some((nonce) => nonce <= work.nonce)) return false
    // Looked at after the nonce was final: a variant that used it is in a block by now.
    const sights = await seen(work, context)
    return sights.every(({ found, isKnown }) => found === null && !isKnown)
  }

  /** Looks after a transaction that no node has in a block. */
  async function pursue(
    { root }: AnchorJob,
    { work, sights }: { work: EthereumWork; sights: readonly Sight[] },
    context: RailContext,
  ): Promise<Step> {
    if (work.block !== null) {
      return { state: 'orphaned', work: { ...work, block: null, since: null } }
    }
    const head = Math.min(...sights.map((sight) => sight.head))
    const waiting = { ...work, since: work.since ?? head }
    if (sights.some((sight) => sight.nonce > work.nonce)) {
      if (await isLost(work, context)) return { state: 'held', work, reason: 'unknown_spend' }
      return { state: 'waiting', work: waiting, againAt: soon(context) }
    }
    if (head - waiting.since >= bumpAfterBlocks) {
      if (sights.every((sight) => sight.nonce < work.nonce)) {
        // Nothing of ours can be mined before the nonces below are used: no price would change that.
        return { state: 'held', work: waiting, reason: 'nonce_gap' }
      }
      const estimate = await context.route.first(clients, (client) => client.fees())
      const price = priceOf(nextFees(newestOf(work), estimate))
      const answer = await wallet.replace(toHex(root), price)
      if (!('busy' in answer)) return signed(answer, work, context)
    }
    if (sights.every(({ isKnown }) => !isKnown)) return { state: 'dropped', work: waiting }
    return { state: 'waiting', work: waiting, againAt: soon(context) }
  }

  /** Looks after a transaction that at least one node has in a block. */
  async function settle(
    job: AnchorJob,
    { work, sights, found }: { work: EthereumWork; sights: readonly Sight[]; found: Found },
    context: RailContext,
  ): Promise<Step> {
    const { txHash, blockNumber, blockHash } = found
    const places = await context.route.all(clients, async (client) => ({
      finalized: (await client.finalized()).number,
      block: await client.blockAt(blockNumber),
    }))
    const finalized = Math.min(...places.map((place) => place.finalized))
    const head = Math.max(finalized, Math.min(...sights.map((sight) => sight.head)))
    const observedDepth = Math.max(0, head - blockNumber + 1)
    // The depth of the newest final block: ours is final if it lies as deep.
    const requiredDepth = head - finalized + 1
    const isFinal =
      agreed(sights) &&
      blockNumber <= finalized &&
      places.every(({ block }) => block?.hash === blockHash)
    if (!isFinal) {
      const timestamp = places.find(({ block }) => block?.hash === blockHash)?.block?.timestamp
      if (timestamp === undefined) {
        // It was there a moment ago: the chain is being reorganised, or a node lies.
        return { state: 'waiting', work, againAt: soon(context) }
      }
      const anchorTs = new Date(timestamp * 1000).toISOString()
      return {
        state: 'included',
        work: { ...work, block: blockHash },
        againAt: soon(context),
        inclusion: { txHash, blockNumber, anchorTs, observedDepth, requiredDepth },
      }
    }
    const observedAt = context.now()
    const block = await context.route.first(clients, (client) => client.block(blockHash))
    const proof = proofIn(block, txHash)
    if (proof === null) throw failure('The transaction is not in the block that it was said to be.')
    const { version } = options
    const name = { chainId, number: blockNumber, hash: blockHash }
    const witness = await options.witness({ ...name, finalizedAt: observedAt })
    const receipt = await ethereumReceipt({
      root: job.root,
      treeSize: job.treeSize,
      chainId,
      proof,
      witness,
      observedDepth,
      requiredDepth,
      group: work.variants.map((variant) => variant.txHash),
      version,
      observedAt,
    })
    await wallet.settle(toHex(job.root), txHash)
    return { state: 'final', receipt }
  }

  /** Finds where a job stands, and does what that needs. */
  async function attend(job: AnchorJob, work: EthereumWork, context: RailContext): Promise<Step> {
    const sights = await seen(work, context)
    const found = sights.find((sight) => sight.found !== null)?.found ?? null
    if (found === null) return pursue(job, { work, sights }, context)
    return settle(job, { work, sights, found }, context)
  }

  return {
    chain: 'EVM',
    network,
    method: 'tx',

    async submit(job, stored, context) {
      const root = toHex(job.root)
      const spend = await wallet.find(root)
      if (stored === null) {
        // After a crash between signing and storing the wallet knows more than the outbox.
        if (spend === null || spend.state === 'dead') return prepare(job, context)
        return { state: 'signed', work: workOf(spend, null) }
      }
      const work = parseWork(stored)
      if (spend?.state === 'dead') return prepare(job, context)
      if (spend === null) {
        // A wallet without memory must not sign while something that it forgot may be mined.
        if (await isLost(work, context)) return prepare(job, context)
        const isMined = (await seen(work, context)).some(({ found }) => found !== null)
        if (isMined) return attend(job, work, context)
        throw new VaultMeshError(
          'bad-state',
          'The wallet has forgotten what it signed for the root.',
        )
      }
      const known = workOf(spend, work)
      if (known.variants.at(-1)!.txHash !== work.variants.at(-1)!.txHash) {
        return { state: 'signed', work: known }
      }
      const sent = await send(work, context)
      if (sent === 'sent') return { state: 'waiting', work, againAt: soon(context) }
      if (sent === 'no_funds') return { state: 'held', work, reason: 'no_funds' }
      if (sent === 'nonce_too_low' && context.released && (await isLost(work, context))) {
        await wallet.settle(root, null)
        return prepare(job, context)
      }
      // Nothing new was said: where the job stands is found by looking. It has just been sent again, so
      // that no node knows it is no reason to send it at once.
      const step = await attend(job, work, context)
      if (step.state !== 'dropped' && step.state !== 'orphaned') return step
      return { state: 'waiting', work: step.work ?? work, againAt: soon(context) }
    },

    check: (job, stored, context) => attend(job, parseWork(stored), context),

    async verify(receipt: AnchorReceipt, context): Promise<AnchorVerdict> {
      const proof = ethereumProofSchema.safeParse(receipt.proof)
      if (receipt.chain !== 'EVM' || receipt.network !== network || !proof.success) {
        return refuted('network', `not a receipt of ${network}`)
      }
      const number = receipt.blockNumber ?? 0
      const places = await context.route.all(clients, async (client) => ({
        finalized: (await client.finalized()).number,
        hash: await client.hashAt(number),
      }))
      const hash = keccak256(proof.data.header as Hex)
      if (places.some((place) => place.hash !== null && place.hash !== hash)) {
        return refuted('block', `${network} has another block ${number} than ${hash}`)
      }
      if (places.some((place) => place.hash === null || place.finalized < number)) {
        return { outcome: 'untrusted', reason: `block ${number} is not final on ${network} now` }
      }
      return verifyAnchorReceipt(receipt, { tsaRoots: [], evmBlocks: [{ chainId, number, hash }] })
    },

    async disproof(receipt, context) {
      const proof = ethereumProofSchema.parse(receipt.proof)
      const own = keccak256(proof.header as Hex)
      const number = receipt.blockNumber!
      const places = await context.route.all(clients, async (client) => ({
        chainId: await client.chainId(),
        finalized: (await client.finalized()).number,
        hash: await client.hashAt(number),
      }))
      const [first] = places
      const isOther = places.every(
        (place) =>
          place.chainId === chainId &&
          place.finalized >= number &&
          place.hash !== null &&
          place.hash !== own &&
          place.hash === first!.hash,
      )
      return isOther ? `every provider has block ${first!.hash} at ${number}, not ${own}` : null
    },
  }
}

function failure(detail: string): VaultMeshError {
  return new VaultMeshError('anchor-failed', detail)
}
