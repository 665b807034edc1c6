/**
 * How a Wallet's key signs: what to spend for a root, and the transaction itself. Pure but for the key.
 *
 * The Wallet asks `prepare` once for a root and stores the answer with the first variant; every later variant
 * spends the same. No error names the key.
 */

import { evmNetwork } from '#core/anchor-ethereum.ts'
import type { Hash } from '#core/bytes.ts'
import type { BitcoinConfig, Config, EvmConfig } from '#core/config.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { Coin, HeldReason, Price, SignRequest, Variant } from '#store/wallet-api.ts'
import { bitcoinAccount, chooseCoins, signBitcoin } from './bitcoin-wallet.ts'
import { ethereumAccount, signEthereum } from './ethereum-wallet.ts'

type EvmRequest = Extract<SignRequest, { readonly nonce: number }>

/** What every variant for a root spends, with all that signing again needs. */
export type Inputs =
  | { readonly coins: readonly Coin[] }
  | { readonly nonce: number; readonly gas: string }

/** A refusal that money, time or an operator mends. */
export interface Held {
  readonly held: HeldReason
}

/** A key that signs anchors. */
export interface Signer {
  /**
   * What to spend. `isSpent` knows what the wallet ever spent, `nextNonce` is one above its highest nonce, 0 if it
   * never signed.
   */
  prepare(
    request: SignRequest,
    isSpent: (what: string) => boolean,
    nextNonce: number,
  ): { readonly inputs: Inputs } | Held
  /** The same inputs, root and price always give the same bytes. */
  sign(root: Hash, inputs: Inputs, price: Price): Promise<Omit<Variant, 'signedAt'> | Held>
}

/** The signer of the Wallet called `name`; throws `bad-config` if the settings hold another key or none. */
export function signerOf(config: Config, name: string): Signer {
  const { bitcoin, evm } = config
  if (bitcoin !== null && name === bitcoinName(bitcoin)) return bitcoinSigner(bitcoin)
  if (evm !== null && name === evmName(evm)) return evmSigner(evm)
  throw new VaultMeshError('bad-config', `The settings hold no key for the wallet ${name}.`)
}

/** Name of the Wallet that pays in Bitcoin: `BTC/<network>/<address>`. */
export function bitcoinName(config: BitcoinConfig): string {
  const { network, addressType: type, privateKey: key } = config
  if (!config.methods.includes('tx')) return ''
  return `BTC/${network}/${bitcoinAccount({ key, type, network }).address}`
}

/** Name of the Wallet that pays in the EVM chain: `EVM/<network>/<address>`. */
export function evmName(config: EvmConfig): string {
  return `EVM/${evmNetwork(config.chainId)}/${ethereumAccount(config.privateKey).address}`
}

/** The wallets of the settings, with the rail that each pays for. */
export function paidRails(
  config: Config,
): readonly { readonly chain: 'BTC' | 'EVM'; readonly network: string; readonly name: string }[] {
  const { bitcoin, evm } = config
  const name = bitcoin === null ? '' : bitcoinName(bitcoin)
  return [
    ...(name === '' ? [] : [{ chain: 'BTC' as const, network: bitcoin!.network, name }]),
    ...(evm === null
      ? []
      : [{ chain: 'EVM' as const, network: evmNetwork(evm.chainId), name: evmName(evm) }]),
  ]
}

/**
 * Why the chain's nonce is none to sign at, or null.
 *
 * Any number may come from a provider that lags or lies, and what is signed too high can neither be mined nor be
 * taken back. So the wallet believes its own count. A chain that counts fewer is behind it; one that counts more
 * has a spend of somebody else, also before the first of ours: an operator must say that this is so, and
 * even then it counts when it is final.
 */
export function nonceFault(
  { nonce, releasedNonce }: Pick<EvmRequest, 'nonce' | 'releasedNonce'>,
  nextNonce: number,
): 'unknown_spend' | 'nonce_gap' | null {
  if (nonce === nextNonce) return null
  if (nonce < nextNonce) return 'nonce_gap'
  if (releasedNonce === null) return 'unknown_spend'
  return releasedNonce === nonce ? null : 'nonce_gap'
}

function bitcoinSigner(config: BitcoinConfig): Signer {
  const { network, addressType: type, privateKey: key, feeCapSat } = config
  return {
    prepare(request, isSpent) {
      if (!('coins' in request)) throw mismatch()
      const { feerate } = request.price
      const free = request.coins.filter(({ txid, vout }) => !isSpent(`${txid}:${vout}`))
      const chosen = chooseCoins(free, { feerate, feeCapSat, type })
      return 'held' in chosen ? chosen : { inputs: { coins: chosen.inputs } }
    },
    async sign(root, inputs, price) {
      if (!('coins' in inputs) || price.chain !== 'BTC') throw mismatch()
      const { feerate } = price
      const account = { key, type, network }
      const signed = signBitcoin({ ...account, inputs: inputs.coins, root, feerate, feeCapSat })
      if ('held' in signed) return signed
      return { txHash: signed.txHash, raw: signed.raw, price, fee: String(signed.fee) }
    },
  }
}

function evmSigner(config: EvmConfig): Signer {
  const { chainId, privateKey: key, feeCapWei } = config
  return {
    prepare(request, _isSpent, nextNonce) {
      if (!('nonce' in request)) throw mismatch()
      const { gas, balance, price, nonce } = request
      const mismatched = nonceFault(request, nextNonce)
      if (mismatched !== null) return { held: mismatched }
      const cost = BigInt(gas) * BigInt(price.maxFeePerGas)
      if (cost > feeCapWei) return { held: 'fee_cap' }
      if (cost > BigInt(balance)) return { held: 'no_funds' }
      return { inputs: { nonce, gas } }
    },
    async sign(root, inputs, price) {
      if (!('nonce' in inputs) || price.chain !== 'EVM') throw mismatch()
      const signed = await signEthereum({
        key,
        chainId,
        nonce: inputs.nonce,
        root,
        gas: BigInt(inputs.gas),
        maxFeePerGas: BigInt(price.maxFeePerGas),
        maxPriorityFeePerGas: BigInt(price.maxPriorityFeePerGas),
        feeCapWei,
      })
      if ('held' in signed) return signed
      return { txHash: signed.txHash, raw: signed.raw, price, fee: String(signed.fee) }
    },
  }
}

function mismatch(): VaultMeshError {
  return new VaultMeshError('bad-state', 'The wallet was asked to pay in another chain.')
}
