import { secp256k1 } from '@noble/curves/secp256k1.js'
import { keccak_256 } from '@noble/hashes/sha3.js'
import * as fc from 'fast-check'
import type { Hex, TransactionSerializable } from 'viem'
import { parseTransaction } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { describe, expect, test } from 'vitest'
import { concat, fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { encodeRlp, integerToBytes } from '#core/rlp.ts'
import type { EthereumSpend } from '../../queues/anchors/ethereum-wallet.ts'
import {
  ANCHOR_GAS,
  MAX_ANCHOR_GAS,
  anchorGas,
  ethereumAccount,
  gasOf,
  nextFees,
  signEthereum,
} from '../../queues/anchors/ethereum-wallet.ts'
import accounts from '../vectors/ethereum-accounts.json' with { type: 'json' }
import vectors from '../vectors/ethereum-rpc.json' with { type: 'json' }

const { key: bareKey, address } = accounts.personalSign
const key = `0x${bareKey}`
const root = keccak_256(Uint8Array.of(1))
const spend: EthereumSpend = {
  key,
  chainId: 1,
  nonce: 7,
  root,
  gas: ANCHOR_GAS,
  maxFeePerGas: 30_000_000_000n,
  maxPriorityFeePerGas: 1_000_000_000n,
  feeCapWei: 10n ** 18n,
}

async function signed(over: Partial<EthereumSpend> = {}) {
  const answer = await signEthereum({ ...spend, ...over })
  if ('held' in answer) throw new Error(answer.held)
  return answer
}

/** The same transaction by our own RLP and the curve alone. */
function byHand({ maxFeePerGas, nonce }: EthereumSpend): string {
  const numbers = [1, nonce, spend.maxPriorityFeePerGas, maxFeePerGas, spend.gas].map(
    integerToBytes,
  )
  const fields = [...numbers, fromHex(address.slice(2)), new Uint8Array(0), root, []]
  const digest = keccak_256(concat(Uint8Array.of(2), encodeRlp(fields)))
  const secret = fromHex(bareKey)
  const signature = secp256k1.sign(digest, secret, { prehash: false, format: 'recovered' })
  const word = (at: number) => BigInt(`0x${toHex(signature.subarray(at, at + 32))}`)
  const ending = [BigInt(signature[0]!), word(1), word(33)].map(integerToBytes)
  return `0x02${toHex(encodeRlp([...fields, ...ending]))}`
}

test.each(vectors.signed)('the library signs the published $name transaction', async (vector) => {
  const { gasPrice, gas, value, ...rest } = vector.tx
  const numbers = { gasPrice: BigInt(gasPrice), gas: BigInt(gas), value: BigInt(value) }
  const tx = { ...rest, ...numbers } as TransactionSerializable
  expect(await privateKeyToAccount(vector.key as Hex).signTransaction(tx)).toBe(vector.raw)
})

describe('a signed anchor', () => {
  test('carries the bare root to its own sender and moves nothing', async () => {
    const { raw, txHash } = await signed()
    const tx = parseTransaction(raw)
    expect(tx).toMatchObject({
      type: 'eip1559',
      chainId: 1,
      nonce: 7,
      to: address,
      data: `0x${toHex(root)}`,
      gas: ANCHOR_GAS,
    })
    expect(tx.value ?? 0n).toBe(0n)
    expect(txHash).toBe(`0x${toHex(keccak_256(fromHex(raw.slice(2))))}`)
  })

  test('is byte for byte what RLP and RFC 6979 make of it', async () => {
    for (const nonce of [0, 1, 127, 128, 300]) {
      expect((await signed({ nonce })).raw).toBe(byHand({ ...spend, nonce }))
    }
  })

  test('is the same however often it is signed, and another at another price', async () => {
    const [first, again] = [await signed(), await signed()]
    expect(again).toEqual(first)
    const dearer = await signed({ maxFeePerGas: spend.maxFeePerGas + 1n })
    expect(dearer.txHash).not.toBe(first.txHash)
    expect(parseTransaction(dearer.raw).nonce).toBe(7)
  })

  test('may cost its gas at its highest price, and is not signed above the cap', async () => {
    const most = ANCHOR_GAS * spend.maxFeePerGas
    expect((await signed({ feeCapWei: most })).fee).toBe(most)
    expect(await signEthereum({ ...spend, feeCapWei: most - 1n })).toEqual({ held: 'fee_cap' })
  })

  test('says how much gas its replacements must keep', async () => {
    expect(gasOf((await signed({ gas: 90_000n })).raw)).toBe(90_000n)
  })

  test('is refused for a root of another length and for a tip above the whole fee', async () => {
    await expect(signEthereum({ ...spend, root: root.subarray(1) })).rejects.toThrow('32 bytes')
    await expect(signEthereum({ ...spend, maxPriorityFeePerGas: 10n ** 12n })).rejects.toThrow(
      'fee',
    )
  })
})

describe('a key', () => {
  test('has its published address, in lowercase', () => {
    expect(ethereumAccount(key)).toEqual({ address })
    expect(ethereumAccount(`0x${bareKey.toUpperCase()}`)).toEqual({ address })
  })

  const order = secp256k1.Point.Fn.ORDER.toString(16)
  test.each([
    bareKey,
    '',
    '0x',
    `${key}00`,
    `0x${'0'.repeat(64)}`,
    `0x${order}`,
    `0x${'z'.repeat(64)}`,
  ])('that is none (%#) is refused without being quoted', (bad) => {
    let thrown: unknown
    try {
      ethereumAccount(bad)
    } catch (error) {
      thrown = error
    }
    if (!(thrown instanceof VaultMeshError)) throw new Error('accepted')
    expect(thrown.code).toBe('bad-config')
    expect(thrown.cause).toBeUndefined()
    if (bad.length > 2) expect(JSON.stringify([thrown.message, thrown.stack])).not.toContain(bad)
  })
})

describe('gas and fees', () => {
  test('an anchor needs 22,280 gas (EIP-7623), or what the chain says if that is more', () => {
    expect(ANCHOR_GAS).toBe(22_280n)
    expect(anchorGas(null)).toBe(22_280n)
    expect(anchorGas(21_512n)).toBe(22_280n)
    expect(anchorGas(23_048n)).toBe(23_048n)
    expect(anchorGas(MAX_ANCHOR_GAS)).toBe(MAX_ANCHOR_GAS)
    expect(() => anchorGas(MAX_ANCHOR_GAS + 1n)).toThrow('gas for 32 bytes')
  })

  const wei = fc.bigInt({ min: 0n, max: 10n ** 24n })
  const fees = fc
    .tuple(wei, wei)
    .map(([a, b]) => ({ maxFeePerGas: a > b ? a : b, maxPriorityFeePerGas: a > b ? b : a }))

  test('the next price is a quarter above the last on both fees and not below the estimate', () => {
    fc.assert(
      fc.property(fees, fees, (previous, estimate) => {
        const next = nextFees(previous, estimate)
        for (const fee of ['maxFeePerGas', 'maxPriorityFeePerGas'] as const) {
          expect(next[fee] * 4n).toBeGreaterThanOrEqual(previous[fee] * 5n)
          expect(next[fee]).toBeGreaterThan(previous[fee])
          expect(next[fee]).toBeGreaterThanOrEqual(estimate[fee])
        }
        expect(next.maxFeePerGas).toBeGreaterThanOrEqual(next.maxPriorityFeePerGas)
      }),
    )
  })

  test('the next price is no more than that', () => {
    const previous = { maxFeePerGas: 30n, maxPriorityFeePerGas: 0n }
    const low = { maxFeePerGas: 1n, maxPriorityFeePerGas: 0n }
    expect(nextFees(previous, low)).toEqual({ maxFeePerGas: 38n, maxPriorityFeePerGas: 1n })
  })
})
