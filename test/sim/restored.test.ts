/**
 * A node put back from a backup: its wallets do not know what they paid since, so they pay for nothing new until an
 * operator has looked at the chain. What the chain holds is counted there (real bitcoind, real anvil).
 */

import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import { ELSEWHERE } from '../../scripts/devnet/bitcoind.ts'
import { absence, World } from './money.ts'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())
beforeEach(() => {
  vi.setSystemTime(vi.getRealSystemTime())
})

/** Starts the node from `backup`, as selfhost does with the marker of a restored home. */
function startFrom(backup: { restore(): void }): void {
  backup.restore()
  Object.assign(world.platform.env, { RESTORED: '2026-01-01T00:00:00.000Z' })
}

const open = async () =>
  (await world.jobs()).filter(({ state }) => state !== 'final' && state !== 'failed')

describe.each(['BTC', 'EVM'] as const)('on %s', (chain) => {
  const keyOf = () => (chain === 'BTC' ? world.bitcoinKey(3) : world.ethereumKey())

  test.skipIf(absence[chain] !== null)(
    'a root that was paid for after the backup is not paid for again, and the next one is once the operator says so',
    async () => {
      await world.boot({ [chain]: await keyOf() })
      await world.post()
      const backup = world.platform.backup()
      await world.pass(1500)
      await world.finish()
      const [root] = [...(await world.paid(chain)).keys()]

      startFrom(backup)
      for (let i = 0; i < 4; i++) await world.pass(61_000)
      // The same events in the same order are the same tree.
      expect(await open()).toMatchObject([{ root, state: 'held', reason: 'restored' }])
      expect((await world.paid(chain)).get(root!)).toHaveLength(1)
      expect(world.spends(chain)).toEqual([])

      // The wallet was told once: a marker that somebody deletes frees nothing.
      Object.assign(world.platform.env, { RESTORED: '' })
      world.platform.kill()
      await world.seal()
      for (let i = 0; i < 4; i++) await world.pass(61_000)
      const jobs = await open()
      expect(jobs).toMatchObject([{ state: 'held', reason: 'restored' }])
      expect(jobs[0]!.root).not.toBe(root)
      await world.release(jobs[0]!.id)
      await world.finish()
      await world.seal()
      await world.finish()
      const paid = await world.paid(chain)
      expect([...paid.values()].map((hashes) => hashes.length)).toEqual([1, 1, 1])
      expect(await world.expectPaidOnce([root!])).toBe(2)
    },
    60_000,
  )
})

test.skipIf(absence.BTC !== null)(
  'a variant signed after the backup that confirmed is a foreign spend to it: one release is not enough to pay again',
  async () => {
    await world.boot({ BTC: await world.bitcoinKey(3) })
    await world.seal()
    const backup = world.platform.backup()
    for (let i = 0; i < 8; i++) {
      await world.bitcoind.rpc('generateblock', [ELSEWHERE, []])
      await world.pass(60_000)
    }
    await world.mine('BTC', 10)
    await world.finish()
    const before = await world.paid('BTC')
    expect([...before.values()].map((hashes) => hashes.length)).toEqual([1])

    startFrom(backup)
    for (let i = 0; i < 4; i++) await world.pass(61_000)
    expect(await world.jobs()).toMatchObject([{ state: 'held', reason: 'unknown_spend' }])
    await world.release(1)
    for (let i = 0; i < 4; i++) await world.pass(61_000)
    expect(await world.jobs()).toMatchObject([{ state: 'held', reason: 'restored' }])
    await world.mine('BTC', 10)
    expect(await world.paid('BTC')).toEqual(before)
    // The next root takes its place.
    await world.seal()
    for (let i = 0; i < 2; i++) await world.pass(61_000)
    const [job] = await open()
    expect(job).toMatchObject({ state: 'held', reason: 'restored' })
    await world.release(job!.id)
    await world.finish()
    expect([...(await world.paid('BTC')).values()].map((hashes) => hashes.length)).toEqual([1, 1])
  },
  60_000,
)
