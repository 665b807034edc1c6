/**
 * Nobody pays twice for one root: the real orchestrator and Wallet on the simulated platform, against a real
 * bitcoind and a real anvil.
 *
 * Every step from the sealed root to the persisted receipt goes wrong once in each way; then come whole days
 * in which everything does. What was paid is counted on the chains, not believed of the node.
 */

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { absence, World, type Paid } from './money.ts'
import { seeded, type Fault, type Plan } from './platform.ts'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())

/** Steps of the same minutes that are no anchor's: their faults have files of their own. */
const OTHERS = /webhook|POOL/
const FAULTS = ['fail', 'lost', 'kill-before', 'kill-after'] as const

describe.each(['BTC', 'EVM'] as const)('on %s', (chain) => {
  let key: string
  beforeAll(async () => {
    if (chain === 'BTC' && absence.BTC === null) key = await world.bitcoinKey()
  })

  /** Seals one event in peace, then anchors it under the plan; returns the steps that anchoring took. */
  async function day(plan: Plan | null, seed = 1): Promise<string[]> {
    const random = seeded(seed)
    // A new wallet does not go on from another one's nonces by itself.
    if (chain === 'EVM') key = await world.ethereumKey()
    const platform = await world.boot({ [chain]: key } as Partial<Record<Paid, string>>)
    await world.post()
    await platform.deliver(random)
    const before = platform.steps.length
    let sealing = true
    platform.plan = (name, number) => {
      if (/insert into anchors\b/i.test(name)) sealing = false
      return sealing || OTHERS.test(name) ? null : (plan?.(name, number) ?? null)
    }
    await world.pass(1500, random)
    await world.mine(chain, 1)
    await world.pass(1500, random)
    await world.mine(chain, 6)
    await world.pass(1500, random)
    platform.plan = null
    const steps = platform.steps.slice(before)
    await world.finish(random)
    expect(await world.expectPaidOnce()).toBe(1)
    return steps
  }

  test.skipIf(absence[chain] !== null)('a sealed root is paid for once, by itself', async () => {
    const steps = await day(null)
    const sent = steps.filter((name) => /network .*sendraw/i.test(name))
    expect(sent).toHaveLength(1)
    // What must be among the steps that go wrong below.
    for (const name of [
      'insert into anchors',
      'queue.send anchor',
      'rpc WALLET.find',
      'rpc WALLET.sign',
      'WALLET transaction',
      'update anchors',
      sent[0]!,
      'rpc WALLET.settle',
      'r2.put anchors/',
      'insert into receipts',
      'insert into anchor_attempts',
    ]) {
      const isIt = (step: string) => step.toLowerCase().includes(name.toLowerCase())
      expect(steps.some(isIt), name).toBe(true)
    }
  })

  test.skipIf(absence[chain] !== null).each<Fault>([...FAULTS])(
    'whichever step goes wrong by "%s", one payment and one receipt stand',
    async (fault) => {
      let steps = 0
      await day(() => {
        steps++
        return null
      })
      expect(steps).toBeGreaterThan(30)
      for (let k = 0; k < steps; k++) {
        let at = 0
        let name = ''
        try {
          await day((step) => {
            if (at++ !== k) return null
            name = step
            return fault
          }, k)
        } catch (cause) {
          throw new Error(`${fault} at step ${k} (${name}): ${String(cause)}`, { cause })
        }
      }
    },
    300_000,
  )
})
