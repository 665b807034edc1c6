/**
 * The keys that pay for anchors, read from their variables, and the addresses that belong to them.
 *
 * One Bitcoin key has two addresses here: P2WPKH (BIP 141, BIP 173) and P2TR by key path alone (BIP 341,
 * BIP 86's tweak: no script tree). Refusals say what is wrong and never quote a key.
 */

import { p2tr, p2wpkh, NETWORK, TEST_NETWORK, WIF } from '@scure/btc-signer'
import { schnorr, secp256k1 } from '@noble/curves/secp256k1.js'
import { privateKeyToAddress } from 'viem/accounts'
import { fromHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'

/** Bitcoin networks by name; the test networks share their address form, but regtest has a prefix of its own. */
export const bitcoinNetworks = {
  mainnet: NETWORK,
  testnet: TEST_NETWORK,
  testnet4: TEST_NETWORK,
  signet: TEST_NETWORK,
  regtest: { ...TEST_NETWORK, bech32: 'bcrt' },
} as const
export type BitcoinNetwork = keyof typeof bitcoinNetworks

/** The addresses of a Bitcoin key. */
export interface BitcoinAddresses {
  readonly network: BitcoinNetwork
  readonly p2wpkh: string
  readonly p2tr: string
}

/** The 32 bytes of a BTC_PRIVATE_KEY: 64 hex digits, or WIF of a compressed key of this network. */
export function bitcoinKey(text: string, network: BitcoinNetwork): Uint8Array {
  let key: Uint8Array
  try {
    key = /^[0-9a-fA-F]{64}$/.test(text)
      ? fromHex(text)
      : WIF(bitcoinNetworks[network]).decode(text)
  } catch {
    // No cause: a coder's error may quote what it read.
    throw new VaultMeshError(
      'bad-config',
      `BTC_PRIVATE_KEY is neither 64 hex digits nor a WIF of Bitcoin ${network}.`,
    )
  }
  if (!secp256k1.utils.isValidSecretKey(key)) {
    throw new VaultMeshError('bad-config', 'BTC_PRIVATE_KEY is no key of secp256k1.')
  }
  return key
}

/** The addresses that a BTC_PRIVATE_KEY has on `network`. */
export function bitcoinAddresses(text: string, network: BitcoinNetwork): BitcoinAddresses {
  const key = bitcoinKey(text, network)
  const rules = bitcoinNetworks[network]
  const pay = p2wpkh(secp256k1.getPublicKey(key, true), rules)
  const taproot = p2tr(schnorr.getPublicKey(key), undefined, rules)
  return { network, p2wpkh: pay.address!, p2tr: taproot.address! }
}

/** The EIP-55 address of an EVM_PRIVATE_KEY. */
export function evmAddress(text: string): string {
  try {
    return privateKeyToAddress(text as `0x${string}`)
  } catch {
    throw new VaultMeshError('bad-config', 'EVM_PRIVATE_KEY is no key of secp256k1.')
  }
}
