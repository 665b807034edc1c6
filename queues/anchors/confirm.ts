/**
 * What this node's own providers say of a receipt that somebody else made: the half of "a proof enters the law"
 * that no proof can carry (design §7).
 */

import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { methodOf } from '#core/anchor-receipt.ts'
import { nodeOf } from '#store/node.ts'
import type { Rail, RailContext } from './rail.ts'
import { railOf } from './rails.ts'
import { RememberedRoute } from './route.ts'

/** Ways to anchor whose rails can each look a block up. */
const METHODS: Readonly<Record<string, readonly string[]>> = {
  BTC: ['tx', 'calendar'],
  EVM: ['tx'],
}

/**
 * `confirmed`: every provider has the block at final depth. `refuted`: every provider has another one there, at
 * final depth. `no_provider`: nobody to ask. `unconfirmed`: anything else, also an outage; ask again.
 * A timestamp needs nobody: its chain of certificates was verified with the proof.
 */
export async function confirmReceipt(
  env: Env,
  receipt: AnchorReceipt,
): Promise<'confirmed' | 'unconfirmed' | 'no_provider' | 'refuted'> {
  const { chain, network } = receipt
  if (chain === 'TSA') return 'confirmed'
  const node = await nodeOf(env)
  const methods = [methodOf(receipt), ...METHODS[chain]!]
  let rail: Rail | null = null
  for (const method of methods) rail ??= railOf(env, node, { chain, network, method })
  if (rail === null) return 'no_provider'
  const now = (): number => Date.now()
  const route = await RememberedRoute.load(env.DB, { chain, network }, now)
  const context: RailContext = {
    fetch: (url, init) => fetch(url, init),
    route,
    now,
    random: (n) => crypto.getRandomValues(new Uint8Array(n)),
    released: false,
  }
  try {
    const verdict = await rail.verify(receipt, context)
    if (verdict.outcome === 'verified') return 'confirmed'
    return (await rail.disproof?.(receipt, context)) == null ? 'unconfirmed' : 'refuted'
  } catch {
    return 'unconfirmed'
  } finally {
    await route.save(env.DB, { chain, network }).catch(() => undefined)
  }
}
