/**
 * Days on which everything goes wrong at once, and the few ways in which the outbox can forget what the Wallet
 * knows: at the end nobody paid twice, and nothing that was signed is left behind (real bitcoind, real anvil).
 */

import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { absence, World, type Paid } from './money.ts'
import { seeded, type Fault } from './platform.ts'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())

const FAULTS = ['fail', 'lost', 'kill-before', 'kill-after'] as const
const DAYS = 30

const newKey = (chain: Paid, coins = 3): Promise<string> =>
  chain === 'BTC' ? world.bitcoinKey(coins) : world.ethereumKey()

const both = absence.BTC ?? absence.EVM
test.skipIf(both !== null)(
  'on days when steps fail, hang, repeat, overlap and die at random, every root is paid for once',
  async () => {
    const BTC = await newKey('BTC')
    let anchored = 0
    for (let seed = 1; seed <= DAYS; seed++) {
      try {
        // A new wallet does not go on from another one's nonces by itself.
        anchored += await randomDay({ BTC, EVM: await newKey('EVM') }, seed)
      } catch (cause) {
        throw new Error(`day ${seed}: ${String(cause)}`, { cause })
      }
    }
    expect(anchored).toBeGreaterThan(DAYS * 2)
  },
  300_000,
)

async function randomDay(keys: Readonly<Record<Paid, string>>, seed: number): Promise<number> {
  const random = seeded(seed * 7919)
  const platform = await world.boot(keys)
  const rate = [0.01, 0.03, 0.08][seed % 3]!
  platform.plan = () =>
    random() < rate ? (FAULTS[Math.floor(random() * FAULTS.length)] as Fault) : null
  // Now and then a call takes longer than a lease, and somebody else goes on meanwhile.
  let isHeld = false
  platform.hold = (name) => {
    if (isHeld || !/network|WALLET/.test(name) || random() > 0.01) return null
    isHeld = true
    return world.pass(130_000, random).finally(() => {
      isHeld = false
    })
  }
  for (let i = 0; i < 14; i++) {
    if (i < 6 && random() < 0.5) await world.post().catch(() => undefined)
    const ms = random() < 0.7 ? 1500 : 140_000
    await world.pass(ms, random, 1 + Math.floor(random() * 3)).catch(() => undefined)
    for (const chain of ['BTC', 'EVM'] as const) {
      if (random() < 0.5) await world.mine(chain, 1 + Math.floor(random() * 3))
    }
  }
  platform.plan = null
  platform.hold = null
  await world.post()
  await world.pass(1500, random)
  await world.finish(random)
  return world.expectPaidOnce()
}

describe.each(['BTC', 'EVM'] as const)('on %s', (chain) => {
  test.skipIf(absence[chain] !== null)(
    'what only the Wallet remembers of a root is finished although a newer root came',
    async () => {
      const platform = await world.boot({ [chain]: await newKey(chain) })
      // The process dies between the Wallet's signature and the outbox row.
      platform.plan = (name) => (name === 'WALLET transaction' ? 'kill-after' : null)
      await world.seal()
      platform.plan = null
      expect(world.spends(chain).map(({ state }) => state)).toEqual(['open'])
      expect((await world.jobs()).map(({ work }) => work)).toEqual([null])
      // Its lease is over, but nobody gets to it before the next root is sealed.
      vi.setSystemTime(Date.now() + 200_000)
      platform.plan = (name) => (/^d1 update anchors$/i.test(name) ? 'fail' : null)
      await world.seal()
      expect((await world.jobs()).map(({ state }) => state)).toEqual(['failed', 'queued'])
      platform.plan = null
      await world.finish()
      expect(await world.expectPaidOnce()).toBe(2)
    },
    60_000,
  )

  test.skipIf(absence[chain] !== null).each([
    { after: 1000, how: 'a second message finds the job taken', attempts: 1, ended: [1] },
    {
      after: 130_000,
      how: 'whose lease is over writes and sends nothing more',
      attempts: 2,
      ended: [2],
    },
  ])(
    'while a consumer waits for its provider: $how',
    async ({ after, attempts, ended }) => {
      const platform = await world.boot({ [chain]: await newKey(chain) })
      let isHeld = false
      platform.hold = (name) => {
        if (isHeld || !/network .* (?:estimatesmartfee|eth_estimateGas)/.test(name)) return null
        isHeld = true
        return platform.env.ANCHOR_QUEUE.send({ id: 1 }).then(() => world.pass(after))
      }
      const before = platform.steps.length
      await world.seal()
      platform.hold = null
      expect(isHeld).toBe(true)
      const sent = platform.steps.slice(before).filter((name) => /sendraw/i.test(name))
      expect(sent).toHaveLength(1)
      const rows = await world.rows<{ attempts: number }>('SELECT attempts FROM anchors')
      expect(rows).toEqual([{ attempts }])
      const noted = await world.rows<{ attempt: number }>('SELECT attempt FROM anchor_attempts')
      expect(noted.map(({ attempt }) => attempt)).toEqual(ended)
      await world.finish()
      expect(await world.expectPaidOnce()).toBe(1)
    },
    60_000,
  )

  test.skipIf(absence[chain] !== null)(
    'rows that D1 lost are begun again for what the Wallet has signed',
    async () => {
      const { env } = await world.boot({ [chain]: await newKey(chain) })
      await world.seal()
      expect(world.spends(chain).map(({ state }) => state)).toEqual(['open'])
      await env.DB.prepare('DELETE FROM anchors').run()
      await world.seal()
      await world.finish()
      expect(await world.expectPaidOnce()).toBe(2)
    },
    60_000,
  )

  test.skipIf(absence[chain] !== null)(
    'a provider that knows only old coins and nonces brings nobody to spend them again',
    async () => {
      await world.boot({ [chain]: await newKey(chain, 1) })
      const old = new Map<string, { result: unknown }>()
      const isOld = /scantxoutset|gettxout$|eth_getTransactionCount|eth_getBalance/
      world.answers.set(`${chain.toLowerCase()}-1.sim`, async ({ method, params }, ask) => {
        if (!isOld.test(method) || params.includes('finalized')) return null
        const name = JSON.stringify([method, params])
        const known = old.get(name) ?? (await ask())
        old.set(name, known)
        return known
      })
      await world.seal()
      await world.finish()
      const [first] = world.spends(chain)
      await world.seal()
      await world.finish(seeded(1), 4)
      const known = await world.paid(chain)
      expect(known.get(first!.root)).toHaveLength(1)
      world.answers.clear()
      await world.finish()
      expect(await world.expectPaidOnce()).toBe(2)
    },
    60_000,
  )

  test.skipIf(absence[chain] !== null)(
    'a second root that is sealed meanwhile waits for the first, then is paid for from what is left',
    async () => {
      await world.boot({ [chain]: await newKey(chain, 1) })
      await world.seal()
      await world.seal()
      const jobs = await world.jobs()
      expect(jobs.map(({ state }) => state)).toEqual(['broadcast', 'queued'])
      expect(jobs[1]!.reason).toBe(jobs[0]!.root)
      await world.finish()
      expect(await world.expectPaidOnce()).toBe(2)
    },
    60_000,
  )
})
