import { Transaction } from '@scure/btc-signer'
import { createBase58check } from '@scure/base'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { parseTransaction, payloads, toDisplay } from '#core/bitcoin-transaction.ts'
import { concat, fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'
import type { AddressType } from '../../queues/anchors/bitcoin-wallet.ts'
import {
  anchorFee,
  anchorVsize,
  bitcoinAccount,
  chooseCoins,
  nextFeerate,
  signBitcoin,
} from '../../queues/anchors/bitcoin-wallet.ts'
import vectors from '../vectors/bitcoin-addresses.json' with { type: 'json' }

const KEY = '6b973d88838f27366ed61c9ad6367663045cb456e28335c109e30717ae0c6baa'
const root = fromHex('c5'.repeat(32))
const DUST = { p2wpkh: 294, p2tr: 330 }

const type = fc.constantFrom<AddressType>('p2wpkh', 'p2tr')
const feerate = fc.double({ min: 0.1, max: 500, noNaN: true })
const coin = fc.record({
  txid: fc.uint8Array({ minLength: 32, maxLength: 32 }).map(toHex),
  vout: fc.nat(3),
  value: fc.oneof(fc.nat(3000), fc.nat(10_000_000)),
})
const coins = fc.uniqueArray(coin, { maxLength: 12, selector: (c) => `${c.txid}:${c.vout}` })

describe('an account', () => {
  test.each(vectors.addresses)(
    'is that of $source',
    ({ key, type: kind, network, ...expected }) => {
      const { address, script } = bitcoinAccount({ key, type: kind as AddressType, network })
      expect({ address, script: toHex(script) }).toMatchObject({
        address: expected.address,
        script: expected.script,
      })
    },
  )

  const wif = (...parts: readonly string[]) =>
    createBase58check(sha256).encode(fromHex(parts.join('')))
  test('is the same by hex and by WIF of its network', () => {
    for (const [network, byte] of [
      ['mainnet', '80'],
      ['testnet', 'ef'],
      ['testnet4', 'ef'],
      ['signet', 'ef'],
      ['regtest', 'ef'],
    ] as const) {
      const account = { type: 'p2tr', network } as const
      expect(bitcoinAccount({ ...account, key: wif(byte, KEY, '01') })).toEqual(
        bitcoinAccount({ ...account, key: KEY }),
      )
    }
  })

  const bad: readonly (readonly [string, string])[] = [
    ['', 'neither'],
    [KEY.slice(2), 'neither'],
    [`0x${KEY}`, 'neither'],
    [`${wif('80', KEY, '01')}x`, 'neither'],
    [wif('80', KEY, '01').replace(/.$/, '1'), 'neither'],
    [wif('ef', KEY, '01'), 'of another network'],
    [wif('80', KEY), 'not for a compressed'],
    [wif('80', KEY, '02'), 'not for a compressed'],
    [wif('80', KEY, '0100'), 'not for a compressed'],
    ['00'.repeat(32), 'no secret|not a secret'],
    ['fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141', 'not a secret'],
  ]
  test.each(bad)('of no good key is refused without quoting it (%#)', (key, words) => {
    const error = thrown(() => bitcoinAccount({ key, type: 'p2wpkh', network: 'mainnet' }))
    expect(error.code).toBe('bad-config')
    expect(error.message).toMatch(new RegExp(words))
    if (key !== '') expect(`${error.message}${error.stack}`).not.toContain(key)
    expect(error.cause).toBeUndefined()
  })

  test('of a network nobody knows is refused', () => {
    for (const network of ['', 'Mainnet', 'constructor', 'liquid']) {
      expect(thrown(() => bitcoinAccount({ key: KEY, type: 'p2tr', network })).code).toBe(
        'bad-config',
      )
    }
  })
})

describe('choosing coins', () => {
  const sats = (value: number, n = 0) => ({ txid: 'ab'.repeat(32), vout: n, value })
  const limits = { feerate: 1, feeCapSat: 5000, type: 'p2wpkh' } as const

  test('one coin pays if one can: the cap and change that is no dust', () => {
    const least = 5000 + 294
    expect(chooseCoins([sats(least)], limits)).toEqual({ inputs: [sats(least)] })
    expect(chooseCoins([sats(least - 1)], limits)).toEqual({ held: 'no_funds' })
    expect(chooseCoins([sats(6000), sats(9000, 1), sats(7000, 2)], limits)).toEqual({
      inputs: [sats(9000, 1)],
    })
  })

  test('small coins pay together', () => {
    expect(chooseCoins([sats(2647), sats(2647, 1)], limits)).toEqual({
      inputs: [sats(2647), sats(2647, 1)],
    })
    expect(chooseCoins([sats(2647), sats(2646, 1)], limits)).toEqual({ held: 'no_funds' })
  })

  test('what is chosen can be replaced up to the cap, and never for want of money', () => {
    const cap = fc.integer({ min: 200, max: 200_000 })
    fc.assert(
      fc.property(coins, type, feerate, cap, (list, kind, rate, feeCapSat) => {
        const chosen = chooseCoins(list, { feerate: rate, feeCapSat, type: kind })
        if ('held' in chosen) return
        const { inputs } = chosen
        const request = { key: KEY, network: 'regtest', type: kind, root, inputs, feeCapSat }
        const last = feeCapSat / anchorVsize(kind, inputs.length)
        expect(last).toBeGreaterThanOrEqual(rate * (1 - 1e-9))
        // A hair less: a quotient times its divisor may end above what it was.
        expect(signBitcoin({ ...request, feerate: last * (1 - 1e-9) })).toHaveProperty('raw')
        expect(signBitcoin({ ...request, feerate: last * 1.01 + 1 })).toEqual({ held: 'fee_cap' })
      }),
    )
  })

  test('without coins, or with crumbs only, funds are missing', () => {
    expect(chooseCoins([], limits)).toEqual({ held: 'no_funds' })
    const crumbs = Array.from({ length: 500 }, (_, i) => sats(60, i))
    expect(chooseCoins(crumbs, limits)).toEqual({ held: 'no_funds' })
  })

  test('a feerate beyond the cap holds, whatever there is to spend', () => {
    expect(chooseCoins([sats(1e9)], { ...limits, feerate: 33 })).toEqual({ held: 'fee_cap' })
    expect(chooseCoins([], { ...limits, feerate: 33 })).toEqual({ held: 'fee_cap' })
    // Only with two inputs would the cap be passed: another coin mends that.
    const two = { ...limits, feeCapSat: 153 }
    expect(chooseCoins([sats(447)], two)).toEqual({ inputs: [sats(447)] })
    expect(chooseCoins([sats(300), sats(300, 1)], two)).toEqual({ held: 'no_funds' })
  })

  test('the order of the coins changes nothing, and what is chosen can be signed', () => {
    fc.assert(
      fc.property(
        coins,
        type,
        feerate,
        fc.integer({ min: 0, max: 2 ** 31 }),
        (list, kind, rate, seed) => {
          const choice = { feerate: rate, feeCapSat: 100_000, type: kind }
          const chosen = chooseCoins(list, choice)
          const shuffled = list.toSorted((a, b) => hashed(a, seed) - hashed(b, seed))
          expect(chooseCoins(shuffled, choice)).toEqual(chosen)
          if ('held' in chosen) return
          const request = { key: KEY, network: 'regtest', root, ...choice, inputs: chosen.inputs }
          expect(signBitcoin(request)).toHaveProperty('raw')
          // No smaller part of it would do: each coin more is needed.
          const fewer = chosen.inputs.slice(0, -1)
          const rest = fewer.reduce((sum, { value }) => sum + value, 0)
          expect(rest - choice.feeCapSat).toBeLessThan(DUST[kind])
        },
      ),
    )
  })
})

describe('an anchor', () => {
  const inputs = [{ txid: 'ab'.repeat(32), vout: 1, value: 100_000 }]
  const request = (kind: AddressType) =>
    ({
      key: KEY,
      type: kind,
      network: 'regtest',
      inputs,
      root,
      feerate: 2,
      feeCapSat: 5000,
    }) as const

  test.each(['p2wpkh', 'p2tr'] as const)(
    'of %s pays change first, carries the bare root last',
    (kind) => {
      const signed = signBitcoin(request(kind))
      if ('held' in signed) throw new Error(signed.held)
      const raw = fromHex(signed.raw)
      const transaction = parseTransaction(raw)
      expect(transaction.hasWitness).toBe(true)
      expect(toDisplay(transaction.txid)).toBe(signed.txHash)
      const { script } = bitcoinAccount(request(kind))
      expect(transaction.outputs).toMatchObject([
        { value: BigInt(100_000 - signed.fee), script },
        { value: 0n, script: concat(fromHex('6a20'), root) },
      ])
      expect(payloads(transaction)).toMatchObject([{ output: 1, bytes: root }])
      const parsed = Transaction.fromRaw(raw, { allowUnknownOutputs: true })
      expect(parsed).toMatchObject({ version: 2, lockTime: 0 })
      // Replaceable, BIP 125.
      expect(parsed.getInput(0)).toMatchObject({ sequence: 0xfffffffd, index: 1 })
      expect(toHex(transaction.stripped.subarray(-4))).toBe('00000000')
      expect(signed.fee).toBe(2 * anchorVsize(kind, 1))
    },
  )

  test('signed again has the same bytes, and pays for the size that it has', () => {
    const source = fc.uint8Array({ minLength: 32, maxLength: 32 })
    fc.assert(
      fc.property(
        type,
        source,
        source,
        fc.integer({ min: 1, max: 4 }),
        feerate,
        (kind, key, what, n, rate) => {
          const many = Array.from({ length: n }, (_, i) => ({ ...inputs[0]!, vout: i }))
          const asked = {
            ...request(kind),
            key: toHex(sha256(key)),
            root: what,
            inputs: many,
            feerate: rate,
            feeCapSat: 1e6,
          }
          const signed = signBitcoin(asked)
          if ('held' in signed) {
            expect(signed.held).toBe('no_funds')
            return
          }
          expect(signBitcoin(asked)).toEqual(signed)
          const { vsize } = Transaction.fromRaw(fromHex(signed.raw), { allowUnknownOutputs: true })
          expect(vsize).toBeLessThanOrEqual(anchorVsize(kind, n))
          // A signature is shorter than 71 bytes once in 256 times, and then by little.
          expect(vsize).toBeGreaterThanOrEqual(anchorVsize(kind, n) - n)
          expect(signed.fee).toBe(Math.ceil(rate * anchorVsize(kind, n)))
        },
      ),
      { numRuns: 20 },
    )
  })

  test('beyond the cap, or with change that would be dust, is not signed', () => {
    const asked = request('p2wpkh')
    expect(signBitcoin({ ...asked, feeCapSat: 305 })).toEqual({ held: 'fee_cap' })
    expect(signBitcoin({ ...asked, feeCapSat: 306 })).toHaveProperty('raw')
    const poor = (value: number) => [{ ...inputs[0]!, value }]
    expect(signBitcoin({ ...asked, inputs: poor(306 + 293) })).toEqual({ held: 'no_funds' })
    expect(signBitcoin({ ...asked, inputs: poor(306 + 294) })).toHaveProperty('raw')
  })

  test('of nothing, from nothing or at no price is a mistake', () => {
    const asked = request('p2wpkh')
    for (const wrong of [
      { root: root.slice(1) },
      { inputs: [] },
      { feerate: 0 },
      { feerate: Number.NaN },
      { feerate: Infinity },
    ]) {
      expect(thrown(() => signBitcoin({ ...asked, ...wrong })).code).toBe('bad-state')
    }
  })

  test('replaced, pays for its own relay as BIP 125 wants it', () => {
    fc.assert(
      fc.property(type, feerate, fc.double({ min: 0, max: 1000 }), (kind, before, estimate) => {
        const after = nextFeerate(before, estimate)
        const size = anchorVsize(kind, 1)
        expect(anchorFee(kind, 1, after)).toBeGreaterThanOrEqual(anchorFee(kind, 1, before) + size)
        expect(after).toBeGreaterThanOrEqual(before * 1.25)
        if (!Number.isNaN(estimate)) expect(after).toBeGreaterThanOrEqual(estimate)
      }),
    )
    expect(nextFeerate(2, 0)).toBe(3)
    expect(nextFeerate(100, 0)).toBe(125)
    expect(nextFeerate(2, 50)).toBe(50)
  })
})

function hashed({ txid, vout }: { txid: string; vout: number }, seed: number): number {
  return (parseInt(txid.slice(0, 8), 16) ^ (seed + vout)) >>> 0
}

function thrown(act: () => unknown): VaultMeshError {
  try {
    act()
  } catch (error) {
    if (error instanceof VaultMeshError) return error
    throw error
  }
  throw new Error('not refused')
}
