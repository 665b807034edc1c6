/**
 * The Bitcoin transaction that carries a root, and the key that pays for it. Pure: values in, values
 * out; the Wallet (durable-objects/wallet.ts) keeps the key and every transaction signed here.
 *
 *   inputs       our coins, sequence 0xfffffffd (BIP 125: may be replaced)
 *   output 0     change to the same address, never dust
 *   output 1     OP_RETURN and the bare 32 bytes of the root (reference §4.1.2)
 *   version 2, lock time 0: the lock time is all that follows the root
 *
 * Signing the same twice gives the same bytes: ECDSA by RFC 6979, ground to a low R so that its size is
 * known; Schnorr with 32 zero bytes as BIP 340's auxiliary randomness. A provider that lies about a
 * coin's value gets a signature that no node accepts (BIP 143, BIP 341 commit to it), not our money.
 */

import { schnorr, secp256k1 } from '@noble/curves/secp256k1.js'
import { createBase58check } from '@scure/base'
import { p2tr, p2wpkh, Script, Transaction } from '@scure/btc-signer'
import type { Hash } from '#core/bytes.ts'
import { fromHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'
import type { Coin } from '#store/wallet-api.ts'

export type AddressType = 'p2wpkh' | 'p2tr'

/** Whose coins are spent. */
export interface BitcoinKey {
  /** 64 hex digits, or WIF of a compressed key. */
  readonly key: string
  readonly type: AddressType
  /** As in receipts. */
  readonly network: string
}

/** How much may be paid. */
export interface FeeLimits {
  /** sat/vB. */
  readonly feerate: number
  /** Satoshi for the whole transaction. */
  readonly feeCapSat: number
}

/** Bytes as Core counts them for a spend of ours; `dust` is the least change that is relayed. */
const SIZES = {
  p2wpkh: { script: 22, witness: 1 + 1 + 71 + 1 + 33, dust: 294 },
  p2tr: { script: 34, witness: 1 + 1 + 64, dust: 330 },
} as const
/** 6.8 kvB: far below the 100 kvB that nodes relay. */
const MAX_INPUTS = 100
const SEQUENCE = 0xfffffffd
const NO_AUX = new Uint8Array(32)

/** Human-readable part and WIF byte (Core chainparams.cpp). */
const NETWORKS: Readonly<Record<string, { readonly bech32: string; readonly wif: number }>> = {
  mainnet: { bech32: 'bc', wif: 0x80 },
  testnet: { bech32: 'tb', wif: 0xef },
  testnet4: { bech32: 'tb', wif: 0xef },
  signet: { bech32: 'tb', wif: 0xef },
  regtest: { bech32: 'bcrt', wif: 0xef },
}

/** Address and output script of a key. Throws `bad-config`, which never quotes the key. */
export function bitcoinAccount(account: BitcoinKey): {
  readonly address: string
  readonly script: Uint8Array
} {
  const { address, script } = paymentOf(account)
  return { address, script }
}

/** Virtual bytes (BIP 141) of an anchor of `inputs` inputs: at most, and nearly always exactly. */
export function anchorVsize(type: AddressType, inputs: number): number {
  const { script, witness } = SIZES[type]
  // version, counts and lock time; outpoint, empty script and sequence; change; OP_RETURN.
  const base = 4 + 1 + 1 + 4 + inputs * (36 + 1 + 4) + (8 + 1 + script) + (8 + 1 + 34)
  return Math.ceil((base * 4 + 2 + inputs * witness) / 4)
}

/** The least change that is relayed, in satoshi. */
export function dustSat(type: AddressType): number {
  return SIZES[type].dust
}

/** Satoshi for an anchor. */
export function anchorFee(type: AddressType, inputs: number, feerate: number): number {
  return Math.ceil(feerate * anchorVsize(type, inputs))
}

/**
 * The coins to spend: the largest, and more only if one cannot pay. They pay the whole cap and change that is
 * no dust, whatever the first variant costs: its replacements spend the same, and money that comes later
 * does not help them. The same coins give the same choice, whatever their order. `no_funds`: they cannot pay
 * that, or only with so many inputs that the fee passes its cap; one more coin mends both. `fee_cap`: the
 * feerate itself is beyond the cap.
 */
export function chooseCoins(
  coins: readonly Coin[],
  { feerate, feeCapSat, type }: FeeLimits & { readonly type: AddressType },
): { readonly inputs: readonly Coin[] } | { readonly held: 'no_funds' | 'fee_cap' } {
  if (anchorFee(type, 1, checkedFeerate(feerate)) > feeCapSat) return { held: 'fee_cap' }
  const sorted = coins.toSorted(
    (a, b) => b.value - a.value || (a.txid < b.txid ? -1 : a.txid > b.txid ? 1 : a.vout - b.vout),
  )
  let value = 0
  for (const [i, coin] of sorted.slice(0, MAX_INPUTS).entries()) {
    value += coin.value
    if (anchorFee(type, i + 1, feerate) > feeCapSat) break
    if (value - feeCapSat >= SIZES[type].dust) return { inputs: sorted.slice(0, i + 1) }
  }
  return { held: 'no_funds' }
}

/** Signs the anchor of `root` that spends `inputs`, all of them. */
export function signBitcoin(
  request: BitcoinKey & FeeLimits & { readonly inputs: readonly Coin[]; readonly root: Hash },
):
  | { readonly raw: string; readonly txHash: string; readonly fee: number }
  | { readonly held: 'no_funds' | 'fee_cap' } {
  const { inputs, root, type, feerate, feeCapSat } = request
  if (root.length !== 32 || inputs.length === 0) {
    throw new VaultMeshError('bad-state', 'An anchor has a root of 32 bytes and an input.')
  }
  const { secret, script, internalKey } = paymentOf(request)
  const fee = anchorFee(type, inputs.length, checkedFeerate(feerate))
  if (fee > feeCapSat) return { held: 'fee_cap' }
  const change = inputs.reduce((sum, { value }) => sum + value, 0) - fee
  if (change < SIZES[type].dust) return { held: 'no_funds' }

  const transaction = new Transaction({ version: 2, lowR: true, allowUnknownOutputs: true })
  for (const { txid, vout, value } of inputs) {
    transaction.addInput({
      txid,
      index: vout,
      sequence: SEQUENCE,
      witnessUtxo: { script, amount: BigInt(value) },
      ...(internalKey === null ? {} : { tapInternalKey: internalKey }),
    })
  }
  transaction.addOutput({ script, amount: BigInt(change) })
  transaction.addOutput({ script: Script.encode(['RETURN', root]), amount: 0n })
  transaction.sign(secret, undefined, NO_AUX)
  transaction.finalize()
  return { raw: transaction.hex, txHash: transaction.id, fee }
}

/**
 * The feerate of a replacement: a quarter more, or what blocks cost now. One sat/vB more at least, which
 * pays for its own relay (BIP 125 rule 4) by Core's classic increment of 1 sat/vB.
 */
export function nextFeerate(previous: number, estimate: number): number {
  return Math.max(
    checkedFeerate(previous) * 1.25,
    previous + 1,
    Number.isFinite(estimate) ? estimate : 0,
  )
}

function checkedFeerate(feerate: number): number {
  if (Number.isFinite(feerate) && feerate > 0) return feerate
  throw new VaultMeshError('bad-state', 'A feerate is a positive number of sat/vB.')
}

function paymentOf({ key, type, network }: BitcoinKey) {
  const parameters = Object.hasOwn(NETWORKS, network) ? NETWORKS[network] : undefined
  if (parameters === undefined) {
    throw new VaultMeshError('bad-config', 'The Bitcoin network is none that is known.')
  }
  const secret = secretOf(key, parameters.wif)
  // Only `bech32` is read for these two kinds of address.
  const chain = { bech32: parameters.bech32, pubKeyHash: 0, scriptHash: 0, wif: parameters.wif }
  const internalKey = type === 'p2tr' ? schnorr.getPublicKey(secret) : null
  const payment =
    internalKey === null
      ? p2wpkh(secp256k1.getPublicKey(secret, true), chain)
      : p2tr(internalKey, undefined, chain)
  return { secret, internalKey, address: payment.address!, script: payment.script }
}

/** The secret of a key as text. No error has a cause here: libraries quote what they could not read. */
function secretOf(key: string, wif: number): Uint8Array {
  const secret = /^[0-9a-fA-F]{64}$/.test(key) ? fromHex(key) : secretOfWif(key, wif)
  if (secp256k1.utils.isValidSecretKey(secret)) return secret
  throw new VaultMeshError('bad-config', 'The Bitcoin key is not a secret of secp256k1.')
}

function secretOfWif(key: string, wif: number): Uint8Array {
  let bytes: Uint8Array
  try {
    bytes = createBase58check(sha256).decode(key)
  } catch {
    throw new VaultMeshError('bad-config', 'The Bitcoin key is neither 64 hex digits nor WIF.')
  }
  if (bytes[0] !== wif) {
    throw new VaultMeshError('bad-config', 'The Bitcoin key is of another network.')
  }
  // A trailing 01 says that its public key is compressed; segwit knows no other (BIP 143).
  if (bytes.length !== 34 || bytes[33] !== 1) {
    throw new VaultMeshError('bad-config', 'The Bitcoin key is not for a compressed public key.')
  }
  return bytes.slice(1, 33)
}
