/**
 * Anchor jobs that D1 lost, brought back from what the Wallets have signed for (design §2: signed variants live in the
 * Wallet first, the outbox is their view).
 *
 * A spend that is open must be brought to its end, or its Wallet signs for no other root; one that is final and has no
 * receipt was cut off before its proof was kept. Both begin again as `queued` and ask the Wallet, which answers with
 * the bytes it signed: nothing is paid for twice. A dead spend is over; the newest root covers its own.
 */

import type { Config } from '#core/config.ts'
import { resumeAnchor } from '#store/anchors.ts'
import type { WalletApi } from '#store/wallet-api.ts'
import { paidRails } from '../queues/anchors/wallet-signer.ts'

/** Spends asked for at once. */
const PAGE = 500

/** Queues what the wallets of these settings have signed for and D1 shows neither a job nor a receipt of. */
export async function resumeSpends(env: Env, config: Config, nowAt: number): Promise<number> {
  let resumed = 0
  for (const { chain, network, name } of paidRails(config)) {
    const wallet = env.WALLET.getByName(name) as unknown as WalletApi
    for (let after = 0; ;) {
      const spends = await wallet.history(after, PAGE)
      for (const { root, state } of spends) {
        const rail = { root, chain, network, method: 'tx' }
        if (state === 'dead' || (state === 'final' && (await hasReceipt(env.DB, rail)))) continue
        if (await resumeAnchor(env, rail, nowAt)) resumed++
      }
      if (spends.length < PAGE) break
      after = spends.at(-1)!.id
    }
  }
  return resumed
}

async function hasReceipt(
  db: D1Database,
  job: { readonly root: string; readonly chain: string; readonly network: string; method: string },
): Promise<boolean> {
  const row = await db
    .prepare(
      `SELECT 1 AS one FROM receipts WHERE root = ? AND chain = ? AND network = ? AND method = ? LIMIT 1`,
    )
    .bind(job.root, job.chain, job.network, job.method)
    .first()
  return row !== null
}
