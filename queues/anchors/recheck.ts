/**
 * Final receipts are held against their chains again for a fortnight: finality is a bet, and the one who
 * took it must be the first to say that it was lost.
 *
 * A receipt is revoked only on a disproof: all providers have one other block there, at final depth. Then a
 * revocation record is written (never an update), an alert opened, and the job begins again with
 * the bytes that were signed, which can still confirm. Silence and disagreement change nothing.
 */

import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import {
  receiptsToCheck,
  revokeReceipt,
  scheduleCheck,
  WATCHED_MS,
} from '#store/anchor-receipts.ts'
import { count } from '#store/metrics.ts'
import { nodeOf } from '#store/node.ts'
import type { RailContext } from './rail.ts'
import { railOf } from './rails.ts'
import { RememberedRoute } from './route.ts'

const EVERY_MS = 3_600_000
/** A tick asks for so few that it never floods a provider: 10 a minute are 600 receipts an hour. */
const PER_TICK = 10

/** Looks at the receipts that are due; returns how many were revoked. A provider that fails is asked next hour. */
export async function recheckReceipts(env: Env, nowAt: number): Promise<number> {
  const due = await receiptsToCheck(env.DB, nowAt, PER_TICK)
  let revoked = 0
  for (const row of due) {
    const rail = railOf(env, await nodeOf(env), row)
    const receipt = JSON.parse(row.json) as AnchorReceipt
    const now = (): number => Date.now()
    const route = await RememberedRoute.load(env.DB, row, now)
    const context: RailContext = {
      fetch: (url, init) => fetch(url, init),
      route,
      now,
      random: (n) => crypto.getRandomValues(new Uint8Array(n)),
      released: false,
    }
    let reason: string | null = null
    try {
      if (rail?.disproof !== undefined) {
        reason = await rail.disproof(receipt, context)
        const outcome = reason === null ? 'ok' : 'failed'
        const { chain } = receipt
        count(env, undefined, 'vaultmesh_receipt_verifications_total', { chain, outcome })
      }
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error)
      console.error(JSON.stringify({ level: 'warn', msg: 'receipt not rechecked', error: message }))
    }
    await route.save(env.DB, row)
    if (reason !== null) {
      await revokeReceipt(env, row, { check: 'active-chain', reason, nowAt })
      revoked++
    }
    const isOver = reason !== null || nowAt - Date.parse(receipt.observedAt) > WATCHED_MS
    await scheduleCheck(env.DB, row.id, isOver ? null : nowAt + EVERY_MS)
  }
  return revoked
}
