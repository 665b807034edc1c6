/**
 * The Wallet alone, the real class over real SQL: whatever callers ask of it in whatever order, and whatever its
 * storage does, no chain could ever hold two payments for one root, and nothing that was signed is forgotten.
 */

import { DatabaseSync } from 'node:sqlite'
import { Transaction } from '@scure/btc-signer'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseTransaction as parseEthereum, type Hex } from 'viem'
import { fromHex, toHex } from '../../functions/core/bytes.ts'
import type { Price, SignAnswer, SignRequest, Spend } from '../../functions/store/wallet-api.ts'
import { Wallet } from '../../functions/worker.ts'
import { bitcoinAccount } from '../../queues/anchors/bitcoin-wallet.ts'
import { ethereumAccount } from '../../queues/anchors/ethereum-wallet.ts'
import { rejection } from '../support/anchoring.ts'
import '../support/seed.ts'
import { SqlStorageSim } from './sqlite.ts'

const BTC_KEY = '11'.repeat(32)
const EVM_KEY = `0x${'22'.repeat(32)}`
const { address } = bitcoinAccount({ key: BTC_KEY, type: 'p2wpkh', network: 'regtest' })
const NAMES = {
  BTC: `BTC/regtest/${address}`,
  EVM: `EVM/anvil/${ethereumAccount(EVM_KEY).address}`,
} as const
type Chain = keyof typeof NAMES

const settings = {
  NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
  ORIGIN: 'sim.example/log',
  RAILS: 'BTC,EVM',
  BTC_NETWORK: 'regtest',
  BTC_URLS: 'core+http://btc.sim',
  BTC_PRIVATE_KEY: BTC_KEY,
  EVM_CHAIN_ID: '31337',
  EVM_URLS: 'http://evm.sim',
  EVM_PRIVATE_KEY: EVM_KEY,
}
const ENV = settings as unknown as Env

interface SpendRow {
  readonly id: number
  readonly root: string
  readonly state: string
  readonly inputs: string
  readonly winner: string | null
}

/** What the next transaction does: commits, rolls back, or commits and resets the object before it answers. */
type Storage = 'ok' | 'fail' | 'lost'

/** A Wallet's disk and the object that lives on it just now. */
class House {
  readonly #db = new DatabaseSync(':memory:')
  readonly #name: string
  readonly #env: Env
  #object: Wallet | null = null
  next: Storage = 'ok'

  constructor(name: string, env = ENV) {
    this.#name = name
    this.#env = env
  }

  get wallet(): Wallet {
    if (this.#object !== null) return this.#object
    const storage = new SqlStorageSim(
      this.#db,
      (step, effect) => {
        const how = step === 'transaction' ? this.next : 'ok'
        if (step === 'transaction') this.next = 'ok'
        if (how === 'fail') throw new Error('the transaction failed')
        const result = effect()
        if (how === 'ok') return result
        this.restart()
        throw new Error('the reply of the transaction was lost')
      },
      { get: () => null, set: () => undefined },
    )
    const ctx = { id: { name: this.#name }, storage }
    this.#object = new Wallet(ctx as never, this.#env)
    return this.#object
  }

  /** The object is gone, its disk stays. */
  restart(): void {
    this.#object = null
  }

  spends(): SpendRow[] {
    return this.#rows('SELECT id, root, state, inputs, winner FROM spends ORDER BY id') as never
  }

  variants(): { spend: number; n: number; raw: string; tx_hash: string }[] {
    return this.#rows('SELECT spend, n, raw, tx_hash FROM variants ORDER BY spend, n') as never
  }

  /** The nonce after all that were signed. */
  nextNonce(): number {
    const whats = this.#rows('SELECT what FROM spent') as { what: string }[]
    return (
      Math.max(-1, ...whats.map(({ what }) => Number(/^nonce:(\d+)$/.exec(what)?.[1] ?? -1))) + 1
    )
  }

  #rows(sql: string): unknown[] {
    void this.wallet
    return this.#db.prepare(sql).all()
  }
}

const ROOTS = ['a1', 'b2', 'c3', 'd4', 'e5'].map((byte) => byte.repeat(32))
const COINS = [1, 2, 3, 4, 5, 6].map((n) => ({
  txid: `${n}`.repeat(64),
  vout: n % 2,
  value: 10_000 * n,
}))

interface Call {
  readonly what: 'find' | 'sign' | 'replace' | 'settle' | 'restart'
  readonly root: number
  /** Coins shown as bits; the nonce named; the price in steps. */
  readonly seen: number
  readonly price: number
  /** Which variant won; none if it is null. */
  readonly winner: number | null
  readonly storage: Storage
}

const call: fc.Arbitrary<Call> = fc.record({
  what: fc.constantFrom(
    'find',
    'sign',
    'sign',
    'sign',
    'replace',
    'replace',
    'settle',
    'settle',
    'restart',
  ),
  root: fc.nat(ROOTS.length - 1),
  seen: fc.nat(63),
  price: fc.nat(12),
  winner: fc.constantFrom(0, 1, null, null),
  storage: fc.constantFrom('ok', 'ok', 'ok', 'ok', 'ok', 'ok', 'fail', 'lost'),
})

function priceOf(chain: Chain, price: number): Price {
  if (chain === 'BTC') return { chain, feerate: 1 + price }
  const wei = String(1_000_000_000 * (1 + price))
  return { chain, maxFeePerGas: wei, maxPriorityFeePerGas: wei }
}

/** `next` is the nonce that the wallet expects; of an EVM chain `seen` says what it counts instead. */
function requestOf(chain: Chain, { root, seen, price }: Call, next = 0): SignRequest {
  const base = { root: ROOTS[root]!, price: priceOf(chain, price) }
  if (chain === 'BTC') {
    return { ...base, coins: COINS.filter((_, i) => (seen >> i) & 1) } as SignRequest
  }
  const balance = seen === 0 ? '0' : String(10n ** 18n)
  const nonce = Math.max(0, next + [-1, 0, 0, 2, 0, 0, 0, 2][seen % 8]!)
  // A release whose nonce is final, or not yet; or none.
  const releasedNonce = seen < 16 ? null : nonce - (seen % 8 === 3 ? 1 : 0)
  return { ...base, nonce, releasedNonce, balance, gas: '22280' } as SignRequest
}

/** What a signed transaction spends, and for which root, as its bytes say. */
function contentOf(chain: Chain, raw: string): { spends: string[]; root: string } {
  if (chain === 'EVM') {
    const { nonce, data } = parseEthereum(raw as Hex)
    return { spends: [`nonce:${nonce ?? 0}`], root: data!.slice(2) }
  }
  const tx = Transaction.fromRaw(fromHex(raw), { allowUnknownOutputs: true })
  const inputs = Array.from({ length: tx.inputsLength }, (_, i) => tx.getInput(i))
  const { script } = tx.getOutput(tx.outputsLength - 1)
  return {
    spends: inputs.map(({ txid, index }) => `${toHex(txid!)}:${index}`),
    root: toHex(script!).slice(4),
  }
}

/** Makes one call; an answer, or null where the storage failed under it. */
async function make(house: House, chain: Chain, it: Call): Promise<unknown> {
  // Half of the calls that are for something signed are for what is open.
  const open = house.spends().find(({ state }) => state === 'open')?.root
  const isForOpen = (it.what === 'replace' || it.what === 'settle') && it.seen % 2 === 0
  const root = isForOpen && open !== undefined ? open : ROOTS[it.root]!
  const { wallet } = house
  house.next = it.storage
  switch (it.what) {
    case 'find':
      return wallet.find(root)
    case 'sign':
      return wallet.sign(requestOf(chain, it, house.nextNonce()))
    case 'replace':
      return wallet.replace(root, priceOf(chain, it.price))
    case 'settle': {
      const spend = await wallet.find(root)
      const won = it.winner === null ? null : spend?.variants[it.winner]?.txHash
      return won === undefined ? null : wallet.settle(root, won)
    }
    case 'restart':
      return house.restart()
  }
}

const spendIn = (answer: unknown): Spend | null => {
  if (typeof answer !== 'object' || answer === null) return null
  if ('variants' in answer) return answer as Spend
  return 'spend' in answer ? (answer as { spend: Spend }).spend : null
}

/** All that holds of a disk at any moment; `handedOut` has every variant that anybody was ever given. */
function check(house: House, chain: Chain, handedOut: ReadonlyMap<string, string>): void {
  const spends = house.spends()
  const variants = house.variants()
  expect(spends.filter(({ state }) => state === 'open').length).toBeLessThanOrEqual(1)
  const spent = new Set<string>()
  for (const { id, root } of spends) {
    const own = variants.filter(({ spend }) => spend === id)
    expect(own.map(({ n }) => n)).toEqual(own.map((_, i) => i))
    expect(own.length).toBeGreaterThan(0)
    const [first, ...others] = own.map(({ raw }) => contentOf(chain, raw))
    for (const other of others) expect(other).toEqual(first)
    expect(first!.root).toBe(root)
    for (const what of first!.spends) {
      expect(spent.has(what), `${what} is spent twice`).toBe(false)
      spent.add(what)
    }
  }
  for (const root of ROOTS) {
    const alive = spends.filter((s) => s.root === root && s.state !== 'dead')
    expect(alive.length).toBeLessThanOrEqual(1)
  }
  for (const [raw, root] of handedOut) {
    const kept = variants.find((variant) => variant.raw === raw)
    expect(kept, 'a signed transaction was forgotten').toBeDefined()
    expect(spends.find(({ id }) => id === kept!.spend)!.root).toBe(root)
  }
}

/** What became of each spend since the last look: an end is an end, but for what a reorganisation took away. */
function checkHistory(before: readonly SpendRow[], after: readonly SpendRow[]): void {
  for (const old of before) {
    const now = after.find(({ id }) => id === old.id)
    expect(now).toMatchObject({ root: old.root, inputs: old.inputs })
    if (old.state === 'dead') expect(now).toEqual(old)
    if (old.state === 'final' && now!.state !== 'dead') expect(now).toEqual(old)
  }
}

describe.each(['BTC', 'EVM'] as const)('the wallet of %s', (chain) => {
  test('holds its law under any calls of any callers at once, with storage that fails', async () => {
    const crowd = fc.array(fc.array(call, { minLength: 1, maxLength: 4, size: 'max' }), {
      minLength: 12,
      maxLength: 24,
      size: 'max',
    })
    let signed = 0
    await fc.assert(
      fc.asyncProperty(crowd, async (rounds) => {
        const house = new House(NAMES[chain])
        const handedOut = new Map<string, string>()
        let before = house.spends()
        for (const round of rounds) {
          // The calls of one round begin together and interleave where the Wallet waits for its key.
          const answers = await Promise.allSettled(round.map((it) => make(house, chain, it)))
          for (const answer of answers) {
            const spend = answer.status === 'fulfilled' ? spendIn(answer.value) : null
            for (const { raw } of spend?.variants ?? []) handedOut.set(raw, spend!.root)
          }
          check(house, chain, handedOut)
          checkHistory(before, house.spends())
          before = house.spends()
        }
        signed += handedOut.size
      }),
      { numRuns: 120 },
    )
    expect(signed).toBeGreaterThan(400)
  }, 60_000)

  test('answers every call alike, whether or not it was restarted in between', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.array(call, { minLength: 8, maxLength: 24, size: 'max' }),
        async (calls) => {
          const steady = new House(NAMES[chain])
          const restless = new House(NAMES[chain])
          for (const it of calls) {
            const [one, other] = await Promise.all(
              [steady, restless].map((house) => make(house, chain, it).catch(String)),
            )
            restless.restart()
            expect(withoutTime(other)).toEqual(withoutTime(one))
          }
          expect(restless.spends()).toEqual(steady.spends())
          expect(restless.variants()).toEqual(steady.variants())
        },
      ),
      { numRuns: 60 },
    )
  }, 60_000)

  test('gives the same bytes for the same root whatever is asked, until that spend is dead', async () => {
    await fc.assert(
      fc.asyncProperty(call, call, fc.boolean(), async (first, second, isFinal) => {
        const house = new House(NAMES[chain])
        const { wallet } = house
        const answer = await wallet.sign(requestOf(chain, { ...first, root: 0, seen: 63 }))
        const spend = spendIn(answer)!
        const [{ txHash }] = spend.variants as [{ txHash: string }]
        if (isFinal) await wallet.settle(ROOTS[0]!, txHash)
        const again = await wallet.sign(requestOf(chain, { ...second, root: 0 }))
        expect(spendIn(again)!.variants).toEqual(spend.variants)
        await wallet.settle(ROOTS[0]!, null)
        expect(await wallet.find(ROOTS[0]!)).toBeNull()
        const request = { ...second, root: 0, seen: 63, price: 0 }
        const anew = await wallet.sign(requestOf(chain, request, house.nextNonce()))
        const later = spendIn(anew)
        // Coins may be used up; what is spent is spent.
        if (later === null) return expect(anew).toEqual({ held: 'no_funds' })
        for (const what of later.spends) expect(spend.spends).not.toContain(what)
      }),
      { numRuns: 60 },
    )
  }, 60_000)

  test('two requests for one root at once get one spend', async () => {
    const house = new House(NAMES[chain])
    const it: Call = { what: 'sign', root: 0, seen: 1, price: 1, winner: null, storage: 'ok' }
    const answers = await Promise.all([
      house.wallet.sign(requestOf(chain, it)),
      house.wallet.sign(requestOf(chain, { ...it, seen: 2, price: 3 })),
    ])
    expect(answers[1]).toEqual(answers[0])
    expect(spendIn(answers[0])).not.toBeNull()
    expect(house.variants()).toHaveLength(1)
  })

  test('two roots at once: one is paid for and the other is told so', async () => {
    const house = new House(NAMES[chain])
    const it: Call = { what: 'sign', root: 0, seen: 1, price: 1, winner: null, storage: 'ok' }
    const answers = await Promise.all([
      house.wallet.sign(requestOf(chain, it)),
      house.wallet.sign(requestOf(chain, { ...it, root: 1, seen: 2 })),
    ])
    expect(spendIn(answers[0])).not.toBeNull()
    expect(answers[1]).toEqual({ busy: ROOTS[0] })
    // Even with nothing to pay with: what there was may be under way.
    expect(await house.wallet.sign(requestOf(chain, { ...it, root: 1, seen: 0 }))).toEqual({
      busy: ROOTS[0],
    })
  })

  test('two replacements at once add one variant', async () => {
    const house = new House(NAMES[chain])
    const it: Call = { what: 'sign', root: 0, seen: 63, price: 1, winner: null, storage: 'ok' }
    await house.wallet.sign(requestOf(chain, it))
    const answers = await Promise.all(
      [5, 3].map((price) => house.wallet.replace(ROOTS[0]!, priceOf(chain, price))),
    )
    expect(answers.map((answer) => spendIn(answer)!.variants.length)).toEqual([2, 2])
    expect(answers[1]).toEqual(answers[0])
  })

  test('what won stays what won, and the dead stay dead, whatever is said later', async () => {
    const house = new House(NAMES[chain])
    const it: Call = { what: 'sign', root: 0, seen: 63, price: 1, winner: null, storage: 'ok' }
    await house.wallet.sign(requestOf(chain, it))
    const spend = spendIn(await house.wallet.replace(ROOTS[0]!, priceOf(chain, 4)))!
    const [first, second] = spend.variants as [{ txHash: string }, { txHash: string }]
    await house.wallet.settle(ROOTS[0]!, second.txHash)
    await house.wallet.settle(ROOTS[0]!, first.txHash)
    expect(house.spends()).toMatchObject([{ state: 'final', winner: second.txHash }])
    await house.wallet.settle(ROOTS[0]!, null)
    await house.wallet.settle(ROOTS[0]!, first.txHash)
    expect(house.spends()).toMatchObject([{ state: 'dead', winner: null }])
  })

  test('names the root that it has under way, and pays for another one after that is settled', async () => {
    const house = new House(NAMES[chain])
    const { wallet } = house
    const it: Call = { what: 'sign', root: 0, seen: 63, price: 1, winner: null, storage: 'ok' }
    const first = spendIn(await wallet.sign(requestOf(chain, it)))!
    const other = requestOf(chain, { ...it, root: 1 })
    expect(await wallet.sign(other)).toEqual({ busy: ROOTS[0] } satisfies SignAnswer)
    const foreign = await rejection(() => wallet.settle(ROOTS[0]!, 'ff'.repeat(32)))
    expect(foreign.code).toBe('bad-state')
    expect(await wallet.sign(other)).toEqual({ busy: ROOTS[0] })
    await wallet.settle(ROOTS[0]!, first.variants[0]!.txHash)
    const later = requestOf(chain, { ...it, root: 1 }, house.nextNonce())
    const second = spendIn(await wallet.sign(later))!
    expect(second.spends).not.toEqual(first.spends)
  })

  test('refuses to sign as anybody whose key the settings do not hold', async () => {
    const it: Call = { what: 'sign', root: 0, seen: 63, price: 1, winner: null, storage: 'ok' }
    const others = { BTC: '33'.repeat(32), EVM: `0x${'44'.repeat(32)}` }
    const env = { ...settings, BTC_PRIVATE_KEY: others.BTC, EVM_PRIVATE_KEY: others.EVM }
    const house = new House(NAMES[chain], env as unknown as Env)
    for (const run of [
      () => house.wallet.sign(requestOf(chain, it)),
      () => house.wallet.replace(ROOTS[0]!, priceOf(chain, 2)),
    ]) {
      const error = await rejection(run)
      expect(error.code).toBe('bad-config')
      for (const key of Object.values(others)) expect(String(error)).not.toContain(key.slice(2))
    }
    expect(house.spends()).toEqual([])
  })

  test('refuses to pay in another chain', async () => {
    const house = new House(NAMES[chain])
    const it: Call = { what: 'sign', root: 0, seen: 63, price: 1, winner: null, storage: 'ok' }
    const other = chain === 'BTC' ? 'EVM' : 'BTC'
    const error = await rejection(() => house.wallet.sign(requestOf(other, it)))
    expect(error.code).toBe('bad-state')
    expect(house.spends()).toEqual([])
  })
})

test('a wallet signs at the nonce after its own last one, and at a higher one only if an operator says so and it is final', async () => {
  const counts = fc.tuple(fc.nat(6), fc.option(fc.nat(6)))
  const it: Call = { what: 'sign', root: 0, seen: 63, price: 1, winner: null, storage: 'ok' }
  await fc.assert(
    fc.asyncProperty(fc.array(counts, { minLength: 4, maxLength: 12 }), async (rounds) => {
      const { wallet } = new House(NAMES.EVM)
      let next = 0
      for (const [nonce, releasedNonce] of rounds) {
        const request = { ...requestOf('EVM', it), nonce, releasedNonce } as SignRequest
        const answer = await wallet.sign(request)
        if (nonce === next || (nonce > next && releasedNonce === nonce)) {
          expect(spendIn(answer)!.spends).toEqual([`nonce:${nonce}`])
          next = nonce + 1
          await wallet.settle(ROOTS[0]!, null)
          continue
        }
        const isForOperator = nonce > next && releasedNonce === null
        expect(answer).toEqual({ held: isForOperator ? 'unknown_spend' : 'nonce_gap' })
      }
    }),
  )
})

function withoutTime(answer: unknown): unknown {
  return JSON.parse(
    JSON.stringify(answer ?? null, (k, v) => (k === 'signedAt' ? 0 : (v as unknown))),
  )
}
