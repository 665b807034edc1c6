/** What real nodes do not do on demand: they change their answers between two questions, or lie. */

import { describe, expect, test } from 'vitest'
import { bitcoinNetworks } from '#core/bitcoin-proof.ts'
import { toHex } from '#core/bytes.ts'
import type { BitcoinClient, Outspend, TxStatus } from '../../queues/anchors/bitcoin-client.ts'
import type { BitcoinRailOptions } from '../../queues/anchors/bitcoin.ts'
import { bitcoinRail } from '../../queues/anchors/bitcoin.ts'
import { calendarRail } from '../../queues/anchors/calendar.ts'
import { Driver, MapWallet, rejection } from '../support/anchoring.ts'

const KEY = '11'.repeat(32)
const HASH = 'cd'.repeat(32)
const FIRST = { txid: 'ab'.repeat(32), vout: 0, value: 100_000 }
const SECOND = { ...FIRST, txid: 'bc'.repeat(32) }
const job = { root: new Uint8Array(32).fill(0xc5), treeSize: 3 }
const root = toHex(job.root)
const deep: Outspend = { state: 'spent', by: 'ee'.repeat(32), isDeep: true }
const shallow: Outspend = { ...deep, isDeep: false }
const inBlock: TxStatus = { state: 'block', height: 200, blockHash: HASH }

/** A provider for whom nothing ever happens. */
function client(change: Partial<BitcoinClient> = {}): BitcoinClient {
  return {
    name: 'node.example',
    tip: () => Promise.resolve({ height: 200, hash: HASH }),
    hashAt: (height) => Promise.resolve(height === 0 ? bitcoinNetworks['regtest']!.genesis : HASH),
    header: () => Promise.resolve('00'.repeat(80)),
    coins: () => Promise.resolve([FIRST]),
    feerate: () => Promise.resolve(1),
    broadcast: () => Promise.resolve('sent'),
    statusOf: () => Promise.resolve({ state: 'unknown' }),
    inclusion: () => Promise.reject(new Error('not asked')),
    outspend: () => Promise.resolve({ state: 'unspent' }),
    ...change,
  }
}

function setup(...clients: readonly BitcoinClient[]) {
  const wallet = new MapWallet(KEY, 'p2wpkh')
  const rail = (...by: readonly BitcoinClient[]) =>
    bitcoinRail({ network: 'regtest', clients: by, wallet, address: 'addr', version: '0.1.0' })
  return { wallet, rail, driver: new Driver(rail(...clients), job) }
}

/** Signed and sent, and from then on with `change`. */
async function sent(...changes: readonly Partial<BitcoinClient>[]) {
  const { wallet, rail, driver } = setup(client())
  await driver.run()
  driver.use(rail(...changes.map(client)))
  return { wallet, rail, driver }
}

const conflict: Partial<BitcoinClient> = { broadcast: () => Promise.resolve('conflict') }

describe('what is signed spends only coins', () => {
  const naming = (...coins: (typeof FIRST)[]) => client({ coins: () => Promise.resolve(coins) })
  const phantom = { ...FIRST, txid: '99'.repeat(32), value: 9_000_000 }
  const inflated = { ...FIRST, value: FIRST.value + 1 }

  test.each([
    ['that everybody names', [naming(phantom, FIRST), naming(FIRST, phantom, SECOND)], phantom],
    ['that nobody leaves out', [naming(phantom, FIRST), naming(FIRST, SECOND)], FIRST],
    ['whoever is asked first', [naming(FIRST, SECOND), naming(phantom, FIRST)], FIRST],
    ['of one value', [naming(inflated, SECOND), naming(FIRST, SECOND)], SECOND],
    ['once, named twice or not', [naming(FIRST, FIRST), naming(FIRST)], FIRST],
  ])('%s', async (_name, clients, expected) => {
    const { wallet, driver } = setup(...clients)
    await driver.step()
    expect(wallet.spends.get(root)!.inputs).toEqual([expected])
  })

  test('and without any that all agree on it waits for money', async () => {
    const { wallet, driver } = setup(naming(FIRST), naming(SECOND, inflated))
    expect(await driver.step()).toEqual({ state: 'held', work: null, reason: 'no_funds' })
    expect(wallet.spends.size).toBe(0)
  })

  test('and nothing is signed while a provider is silent', async () => {
    const silent = client({ coins: () => Promise.reject(new Error('connection refused')) })
    for (const clients of [
      [silent, client()],
      [client(), silent],
    ]) {
      const { wallet, driver } = setup(...clients)
      await expect(driver.step()).rejects.toThrow('connection refused')
      expect(wallet.spends.size).toBe(0)
    }
  })

  test('and a node that has two addresses is asked to scan for one at a time', async () => {
    let asking = 0
    const scan = async () => {
      if (++asking > 1) throw new Error('a scan is in progress')
      await new Promise((resolve) => setImmediate(resolve))
      asking--
      return [FIRST]
    }
    const { driver } = setup(client({ coins: scan }), client({ coins: scan }))
    expect((await driver.step()).state).toBe('signed')
  })
})

describe('coins that somebody else spent', () => {
  const spent = (first: Outspend): Partial<BitcoinClient> => ({
    ...conflict,
    coins: () => Promise.resolve([FIRST, SECOND]),
    outspend: ({ txid }) => Promise.resolve(txid === FIRST.txid ? first : { state: 'unspent' }),
  })
  const nothing = { dead: 0, state: 'held' }
  const cases = [
    ['deep for all, released', [spent(deep), spent(deep)], true, { dead: 1, state: 'signed' }],
    ['deep for all, not released', [spent(deep), spent(deep)], false, nothing],
    ['deep for one only', [spent(deep), spent(shallow)], true, nothing],
    ['spent for one only', [spent(deep), spent({ state: 'unspent' })], true, nothing],
    ['gone for one', [spent(deep), spent({ state: 'missing' })], true, nothing],
  ] as const
  test.each(cases)('%s', async (_name, changes, released, expected) => {
    const { wallet, driver } = await sent(...changes)
    driver.released = released
    const step = await driver.step()
    expect(wallet.dead).toHaveLength(expected.dead)
    expect(step.state).toBe(expected.state)
    // Then other coins pay.
    if (step.state === 'signed') expect(step.work['spends']).toEqual([`${SECOND.txid}:0`])
  })

  test('by one of our own variants are not lost', async () => {
    const { wallet, rail, driver } = await sent({})
    const ours = wallet.spends.get(root)!.spend.variants[0]!.txHash
    driver.use(rail(client(spent({ ...deep, by: ours }))))
    driver.released = true
    expect((await driver.run()).state).toBe('waiting')
    expect(wallet.dead).toHaveLength(0)
  })

  test('that turn up as ours on a second look are not given up', async () => {
    let looks = 0
    const { wallet, driver } = await sent({
      ...spent(deep),
      // Unknown while the coins are judged; then the index has caught up.
      statusOf: () => Promise.resolve(++looks > 2 ? inBlock : { state: 'unknown' }),
    })
    driver.released = true
    expect((await driver.step()).state).toBe('dropped')
    expect(wallet.dead).toHaveLength(0)
  })

  test('and given up before a crash are not asked about twice, while they stay deep', async () => {
    const { wallet, driver } = await sent(spent(deep))
    await wallet.settle(root, null)
    expect((await driver.step()).state).toBe('signed')
    const other = await sent(spent(shallow))
    await other.wallet.settle(root, null)
    expect((await other.driver.step()).state).toBe('held')
  })

  test('of which the wallet has lost its memory are paid for again only when the operator says so', async () => {
    const { wallet, driver } = await sent(spent(deep))
    // What is deep may be a variant that was signed and forgotten.
    wallet.spends.clear()
    expect(await driver.step()).toMatchObject({ state: 'held', reason: 'unknown_spend' })
    expect(wallet.spends.size).toBe(0)
    driver.released = true
    expect((await driver.step()).state).toBe('signed')
  })

  test('in no block are nobody’s yet', async () => {
    const { wallet, driver } = await sent(conflict)
    driver.released = true
    expect((await driver.run()).state).toBe('waiting')
    expect(wallet.dead).toHaveLength(0)
  })
})

describe('what no provider could ever confirm', () => {
  const invalid: Partial<BitcoinClient> = { broadcast: () => Promise.resolve('invalid') }
  const gone: Partial<BitcoinClient> = {
    ...conflict,
    outspend: () => Promise.resolve({ state: 'missing' }),
  }
  const waitsInPool = (txid: string): Promise<TxStatus> =>
    Promise.resolve({ state: txid === FIRST.txid ? 'mempool' : 'unknown' })

  /** Sent, and since then `n` blocks have come, each with its look. */
  async function after(n: number, changes: readonly Partial<BitcoinClient>[]) {
    const { wallet, rail, driver } = await sent({})
    let tip = 200
    const use = (...now: readonly Partial<BitcoinClient>[]) => {
      const shared: Partial<BitcoinClient> = {
        tip: () => Promise.resolve({ height: tip, hash: HASH }),
        coins: () => Promise.resolve([FIRST, SECOND]),
      }
      driver.use(rail(...now.map((change) => client({ ...shared, ...change }))))
    }
    use(...changes)
    const mine = async (blocks: number) => {
      for (let i = 0; i < blocks; i++) {
        await driver.run()
        tip++
      }
      return driver.run()
    }
    return { wallet, driver, use, mine, step: await mine(n) }
  }

  const cases = [
    ['a coin that is nowhere', [gone, gone]],
    ['a signature that is wrong', [invalid, invalid]],
    ['nowhere for one, wrong for another', [gone, invalid]],
    ['wrong for one, nowhere for another', [invalid, gone]],
  ] as const
  test.each(cases)('is held after seven blocks: %s', async (_name, changes) => {
    const { wallet, driver, mine, step } = await after(6, changes)
    driver.released = true
    expect(step.state).toBe('waiting')
    driver.released = false
    expect(await mine(1)).toMatchObject({ state: 'held', reason: 'unknown_spend' })
    expect((await driver.run()).state).toBe('held')
    expect(wallet.dead).toHaveLength(0)
    // No price mends it, so none was paid more for.
    expect(wallet.spends.get(root)!.spend.variants).toHaveLength(1)
    driver.released = true
    expect((await driver.step()).state).toBe('signed')
    expect(wallet.dead.map(({ spends }) => spends)).toEqual([[`${FIRST.txid}:0`]])
    expect(driver.work['spends']).toEqual([`${SECOND.txid}:0`])
  })

  test.each([
    ['nowhere for one only', [gone, {}]],
    ['wrong for one only', [invalid, {}]],
    ['nowhere, but what pays it waits in a pool', [{ ...gone, statusOf: waitsInPool }]],
    ['in conflict, but its coin is there', [conflict, conflict]],
  ] as const)('may be confirmed yet: %s', async (_name, changes) => {
    const { wallet, driver, step } = await after(30, changes)
    expect(step).not.toHaveProperty('reason', 'unknown_spend')
    driver.released = true
    await driver.run()
    expect(wallet.dead).toHaveLength(0)
  })

  test('is counted anew when somebody has had it meanwhile', async () => {
    for (const news of [{ ...gone, outspend: client().outspend }, { statusOf: waitsInPool }]) {
      const { use, mine } = await after(6, [gone, gone])
      use({ ...gone, ...news }, gone)
      await mine(0)
      use(gone, gone)
      expect((await mine(6)).state).toBe('waiting')
      expect((await mine(1)).state).toBe('held')
    }
  })

  test('and is in a block all the same is no more than included', async () => {
    const { driver, use } = await after(7, [gone, gone])
    use(gone, { ...gone, statusOf: () => Promise.resolve(inBlock), header: client().header })
    driver.released = true
    expect((await driver.run()).state).not.toBe('held')
    expect(driver.work['doomedSince']).toBeNull()
  })
})

describe('a transaction', () => {
  test('in the pool of one provider only is waited for', async () => {
    const { driver } = await sent({}, { statusOf: () => Promise.resolve({ state: 'mempool' }) })
    expect((await driver.step()).state).toBe('waiting')
  })

  test('that was in a block and is in a pool again was orphaned', async () => {
    const { driver } = await sent({ statusOf: () => Promise.resolve({ state: 'mempool' }) })
    const seen = { txHash: HASH, height: 200, blockHash: HASH }
    driver.stored = { ...driver.stored, work: JSON.stringify({ ...driver.work, seen }) }
    expect((await driver.step()).state).toBe('orphaned')
    expect(driver.work['seen']).toBeNull()
  })

  test('is looked for where it was seen, by nodes that have no index', async () => {
    const hints: (string | undefined)[] = []
    const { driver } = await sent({
      statusOf: (_txid, hint) => {
        hints.push(hint)
        return Promise.resolve(inBlock)
      },
    })
    await driver.step()
    await driver.step()
    expect(hints).toEqual([undefined, HASH])
  })

  test('that pools find too cheap is replaced at once, up to the cap', async () => {
    const { wallet, rail, driver } = setup(client())
    wallet.feeCapSat = 400
    await driver.step()
    driver.use(rail(client({ broadcast: () => Promise.resolve('too-cheap') })))
    expect((await driver.step()).state).toBe('signed')
    expect(wallet.spends.get(root)!.spend.variants).toHaveLength(2)
    expect(await driver.step()).toMatchObject({ state: 'held', reason: 'fee_cap' })
  })

  test('of a wallet whose blocks cost more than its cap still takes the small step', async () => {
    const { wallet, driver } = await sent({
      tip: () => Promise.resolve({ height: 206, hash: HASH }),
      statusOf: () => Promise.resolve({ state: 'mempool' }),
      feerate: () => Promise.resolve(10_000),
    })
    expect((await driver.step()).state).toBe('signed')
    expect(wallet.spends.get(root)!.spend.variants.at(-1)!.price).toMatchObject({ feerate: 2 })
  })
})

describe('a replacement', () => {
  const stuck: Partial<BitcoinClient> = { broadcast: () => Promise.resolve('too-cheap') }
  const pays = (value: number): Partial<BitcoinClient> => ({
    coins: () => Promise.resolve([{ ...FIRST, value }]),
  })

  test.each([293, 294])('never wants money: a cap of 400 and %i for change', async (change) => {
    const { wallet, rail, driver } = setup(client(pays(400 + change)))
    wallet.feeCapSat = 400
    if (change < 294) {
      expect(await driver.step()).toEqual({ state: 'held', work: null, reason: 'no_funds' })
      expect(wallet.spends.size).toBe(0)
      return
    }
    await driver.step()
    driver.use(rail(client({ ...pays(400 + change), ...stuck })))
    expect(await driver.run()).toMatchObject({ state: 'held', reason: 'fee_cap' })
    const { variants } = wallet.spends.get(root)!.spend
    expect(variants.map(({ fee }) => Number(fee))).toEqual([153, 306])
  })

  test('under a cap that was raised beyond its coins is at its cap there', async () => {
    const { wallet, rail, driver } = setup(client(pays(694)))
    wallet.feeCapSat = 400
    await driver.step()
    wallet.feeCapSat = 5000
    driver.use(rail(client(stuck)))
    expect(await driver.run()).toMatchObject({ state: 'held', reason: 'fee_cap' })
  })
})

test('stored work that this rail did not write is refused', async () => {
  const { driver } = setup(client())
  for (const work of [{}, { spends: [], variants: [], since: null, seen: null }, { nonce: 'x' }]) {
    for (const state of ['signed', 'broadcast']) {
      driver.stored = { state, work: JSON.stringify(work) }
      expect((await rejection(() => driver.step())).code).toBe('bad-state')
    }
  }
})

test('a rail without provider, of an unknown network or too shallow is refused', () => {
  const good: BitcoinRailOptions = {
    network: 'regtest',
    clients: [client()],
    wallet: new MapWallet(KEY, 'p2tr'),
    address: 'addr',
    version: '0.1.0',
  }
  const calendars = { ...good, calendars: ['https://calendar.example'] }
  for (const wrong of [
    { clients: [] },
    { network: 'liquid' },
    { network: 'toString' },
    { requiredDepth: 6 },
    { requiredDepth: Number.NaN },
  ]) {
    expect(() => bitcoinRail({ ...good, ...wrong })).toThrow(
      expect.objectContaining({ code: 'bad-config' }),
    )
    expect(() => calendarRail({ ...calendars, ...wrong })).toThrow(
      expect.objectContaining({ code: 'bad-config' }),
    )
  }
  for (const wrong of [{ calendars: [] }, { calendars: ['ftp://x'] }, { minimum: 0 }]) {
    expect(() => calendarRail({ ...calendars, ...wrong })).toThrow(
      expect.objectContaining({ code: 'bad-config' }),
    )
  }
})
