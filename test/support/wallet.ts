/**
 * A Wallet in memory that obeys the law of store/wallet-api.ts, for tests of the EVM rail.
 *
 * It outlives the "process" of a test as the Durable Object does, and is the only one that signs.
 */

import { fromHex } from '#core/bytes.ts'
import type { Price, SignAnswer, SignRequest, Spend, WalletApi } from '#store/wallet-api.ts'
import { ethereumAccount, gasOf, signEthereum } from '../../queues/anchors/ethereum-wallet.ts'
import { nonceFault } from '../../queues/anchors/wallet-signer.ts'

export interface FakeWallet extends WalletApi {
  readonly address: string
  /** All that was ever signed, dead or alive. */
  readonly spends: readonly Spend[]
  feeCapWei: bigint
  /** As after a loss of its storage, or in a wallet that shows no dead spends. */
  isForgetful: boolean
}

type EvmPrice = Extract<Price, { chain: 'EVM' }>

export function fakeEthereumWallet(key: string, chainId: number, feeCapWei: bigint): FakeWallet {
  const spends: Spend[] = []
  const { address } = ethereumAccount(key)
  const newest = (root: string) => spends.findLast((spend) => spend.root === root) ?? null
  const put = (spend: Spend) => {
    const i = spends.findIndex((s) => s.root === spend.root && s.spends[0] === spend.spends[0])
    if (i < 0) spends.push(spend)
    else spends[i] = spend
    return { spend }
  }
  const sign = async (spend: Spend, price: EvmPrice, gas: bigint): Promise<SignAnswer> => {
    const signed = await signEthereum({
      key,
      chainId,
      nonce: Number(spend.spends[0]!.slice('nonce:'.length)),
      root: fromHex(spend.root),
      gas,
      maxFeePerGas: BigInt(price.maxFeePerGas),
      maxPriorityFeePerGas: BigInt(price.maxPriorityFeePerGas),
      feeCapWei: wallet.feeCapWei,
    })
    if ('held' in signed) return signed
    const { raw, txHash, fee } = signed
    const variant = { raw, txHash, fee: fee.toString(), price, signedAt: 0 }
    return put({ ...spend, variants: [...spend.variants, variant] })
  }
  const wallet: FakeWallet = {
    address,
    spends,
    feeCapWei,
    isForgetful: false,
    history: (after, limit) =>
      Promise.resolve(
        spends.slice(after, after + limit).map((spend, i) => ({ ...spend, id: after + i + 1 })),
      ),
    find: (root) => Promise.resolve(wallet.isForgetful ? null : newest(root)),
    async sign(request: SignRequest) {
      if (!('nonce' in request)) throw new Error('not an EVM request')
      const known = newest(request.root)
      if (known !== null && known.state !== 'dead') return { spend: known }
      const other = spends.find((spend) => spend.state === 'open')
      if (other !== undefined) return { busy: `root ${other.root} is under way` }
      const used = spends.map((spend) => Number(spend.spends[0]!.slice('nonce:'.length)))
      const fault = nonceFault(request, Math.max(-1, ...used) + 1)
      if (fault !== null) return { held: fault }
      const cost = BigInt(request.gas) * BigInt(request.price.maxFeePerGas)
      if (cost > BigInt(request.balance)) return { held: 'no_funds' }
      const fresh = { root: request.root, state: 'open', variants: [] } as const
      const spend = { ...fresh, spends: [`nonce:${request.nonce}`] }
      return sign(spend, request.price, BigInt(request.gas))
    },
    async replace(root, price) {
      const spend = newest(root)
      const last = spend?.variants.at(-1)
      if (spend === null || last === undefined || price.chain !== 'EVM') {
        throw new Error('nothing to replace')
      }
      const was = last.price as EvmPrice
      if (BigInt(price.maxFeePerGas) <= BigInt(was.maxFeePerGas)) return { spend }
      return sign(spend, price, gasOf(last.raw))
    },
    settle(root, winner) {
      const spend = newest(root)
      if (spend?.state === 'open') put({ ...spend, state: winner === null ? 'dead' : 'final' })
      return Promise.resolve()
    },
  }
  return wallet
}
