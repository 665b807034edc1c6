/**
 * fsck against the chains: each receipt is asked of this node's providers, and no root was paid for twice.
 *
 * A receipt of a chain is asked of every provider of it (confirm.ts); a timestamp has no chain, its certificates were
 * checked with it. What a Wallet gave up for dead is asked for too: all variants of a spend share coins or a nonce, so
 * a root can have two payments only across two spends. What nobody could be asked is said, never passed over.
 */

import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import type { Config } from '#core/config.ts'
import { receiptsAfter } from '#store/anchor-receipts.ts'
import { Notes, type Findings } from '#store/findings.ts'
import type { NodeContext } from '#store/node.ts'
import type { Spend, WalletApi } from '#store/wallet-api.ts'
import { parseBitcoinUrl } from './bitcoin-client.ts'
import { confirmReceipt } from './confirm.ts'
import { parseEthereumUrl } from './ethereum-client.ts'
import { paidRails } from './wallet-signer.ts'

/** Receipts in one answer: each is a few requests to each provider. */
const RECEIPTS_AT_ONCE = 10
/** Spends in one page of a wallet. */
const PAGE = 500
/** Spends given up that are asked for in one answer: an operator releases each by hand. */
const MAX_ASKED = 50

/** Holds the receipts after `after` against their chains; fact `next` is where to go on, 0 at the end. */
export async function checkReceiptsOnChain(env: Env, after: number): Promise<Findings> {
  const notes = new Notes()
  const page = { after, limit: RECEIPTS_AT_ONCE, onlyRevoked: false }
  const rows = await receiptsAfter(env.DB, page)
  const count = { confirmed: 0, timestamps: 0, notAsked: 0 }
  for (const { json, revoked } of rows) {
    if (revoked !== null) continue
    const receipt = JSON.parse(json) as AnchorReceipt
    const { chain, network, txHash } = receipt
    if (chain === 'TSA') {
      count.timestamps++
      continue
    }
    const answer = await confirmReceipt(env, receipt)
    if (answer === 'confirmed') count.confirmed++
    else if (answer === 'no_provider') count.notAsked++
    else if (answer === 'refuted')
      notes.say(`${chain} ${network}: every provider has another block than that of ${txHash}.`)
    else notes.say(`${chain} ${network}: its providers do not confirm ${txHash} now.`)
  }
  const next = rows.length < RECEIPTS_AT_ONCE ? 0 : rows.at(-1)!.id
  return notes.with({ ...count, next })
}

/** Holds the wallets against their chains: no root has two payments, and what was given up is in no block. */
export async function checkWallets(env: Env, node: NodeContext): Promise<Findings> {
  const notes = new Notes()
  let spends = 0
  let asked = 0
  let notAsked = 0
  for (const rail of paidRails(node.config)) {
    const wallet = env.WALLET.getByName(rail.name) as unknown as WalletApi
    const standing = new Map<string, number>()
    for (let after = 0; ;) {
      const some = await wallet.history(after, PAGE)
      for (const spend of some) {
        spends++
        if (spend.state !== 'dead') {
          const count = (standing.get(spend.root) ?? 0) + 1
          standing.set(spend.root, count)
          if (count === 2) notes.say(`${rail.name}: root ${spend.root} has two payments.`)
          continue
        }
        if (asked >= MAX_ASKED) {
          notAsked++
          continue
        }
        asked++
        const found = await notes.attempt(`${rail.name}: root ${spend.root}`, () =>
          paymentOf(node.config, rail.chain, spend),
        )
        if (found === undefined) notAsked++
        else if (found !== null)
          notes.say(`${rail.name}: ${found} of root ${spend.root} was given up and is in a block.`)
      }
      if (some.length < PAGE) break
      after = some.at(-1)!.id
    }
  }
  return notes.with({ spends, asked, notAsked })
}

/** The variant of a spend that is in a block; null if none is, undefined if no provider tells. */
async function paymentOf(
  { bitcoin, evm }: Config,
  chain: 'BTC' | 'EVM',
  { spends, variants }: Spend,
): Promise<string | null | undefined> {
  const own = new Set(variants.map(({ txHash }) => txHash))
  if (chain === 'BTC') {
    const [txid, vout] = spends[0]!.split(':')
    let isTold = false
    for (const url of bitcoin!.urls) {
      const client = parseBitcoinUrl(url, (to, init) => fetch(to, init))
      const spend = await client.outspend({ txid: txid!, vout: Number(vout) }, 1)
      if (spend.state === 'spent' && spend.by !== null && own.has(spend.by)) return spend.by
      isTold ||= spend.state !== 'spent' || spend.by !== null
    }
    return isTold ? null : undefined
  }
  for (const url of evm!.urls) {
    const client = parseEthereumUrl(url, (to, init) => fetch(to, init))
    for (const txHash of own) {
      if ((await client.statusOf(txHash)).state === 'included') return txHash
    }
  }
  return null
}
