/**
 * What a Wallet (durable-objects/wallet.ts) answers, so that rails need not import it. One Wallet for each
 * (chain, network, address); it alone signs with that key.
 *
 * The law that keeps anybody from paying twice for one root:
 * - All variants of one root spend the same outpoints or the same nonce, so a chain can hold one of them.
 * - Signing the first variant of another root waits until the one before is settled.
 * - Every variant is stored before it is handed out, and none is ever forgotten.
 * - A wallet that was put back from a backup (env RESTORED) signs for no root that it has not signed for, until an
 *   operator has looked: what it signed after the backup may have paid for that root already.
 * - EVM: signed is the nonce after the wallet's own last one. What is signed above the chain's nonce can wait for
 *   ever, and be mined when nobody expects it.
 */

/** Fees as a chain counts them; integers as decimal strings where they may pass 2^53. */
export type Price =
  | { readonly chain: 'BTC'; /** sat/vB */ readonly feerate: number }
  | {
      readonly chain: 'EVM'
      /** wei per gas */ readonly maxFeePerGas: string
      readonly maxPriorityFeePerGas: string
    }

/** One signed transaction for a root. */
export interface Variant {
  /** BTC: txid in display order; EVM: 0x + 64 hex digits. */
  readonly txHash: string
  /** The whole transaction; BTC as hex with witness, EVM as 0x hex. */
  readonly raw: string
  readonly price: Price
  /** Most that it can cost: satoshi, or wei. Decimal. */
  readonly fee: string
  /** Epoch ms. */
  readonly signedAt: number
}

/** All that was ever signed for one root. */
export interface Spend {
  /** 64 hex digits. */
  readonly root: string
  /** `open` until one variant is final, or all are known to be impossible. */
  readonly state: 'open' | 'final' | 'dead'
  /** What every variant spends: outpoints `txid:vout`, or `nonce:N`. */
  readonly spends: readonly string[]
  /** Oldest first. */
  readonly variants: readonly Variant[]
}

/** A spend with its number in the wallet, which grows. */
export interface NumberedSpend extends Spend {
  readonly id: number
}

/** An unspent output of the wallet's address. */
export interface Coin {
  /** Display order. */
  readonly txid: string
  readonly vout: number
  /** Satoshi, below 2^53. */
  readonly value: number
}

/** What to sign for a root. */
export type SignRequest = {
  /** An operator saw the hold `restored`, looked at the chain and released the job. */
  readonly isRestoreReleased?: boolean
} & (
  | {
      readonly root: string
      readonly price: Extract<Price, { chain: 'BTC' }>
      /** Confirmed and mature ones; the wallet chooses. */
      readonly coins: readonly Coin[]
    }
  | {
      readonly root: string
      readonly price: Extract<Price, { chain: 'EVM' }>
      /** Transactions of the address on the chain, as every provider counts them in its newest block. */
      readonly nonce: number
      /** The least that a provider counts in final blocks, when an operator has said to go on from there; else null. */
      readonly releasedNonce: number | null
      /** wei, decimal. */
      readonly balance: string
      /** Gas limit, decimal: what the chain asks for 32 bytes to ourselves. Replacements keep it. */
      readonly gas: string
    }
)

/**
 * Why nothing is signed. EVM: `unknown_spend`, the chain counts more transactions of the address than the wallet
 * signed; `nonce_gap`, it counts fewer, or not yet for good what an operator released. `restored`: the wallet was put
 * back from a backup and does not know what was signed since; an operator must look at the chain first.
 */
export type HeldReason = 'no_funds' | 'fee_cap' | 'unknown_spend' | 'nonce_gap' | 'restored'

/** The answer to a request to sign. */
export type SignAnswer =
  | { readonly spend: Spend }
  /** Another root is under way. */
  | { readonly busy: string }
  | { readonly held: HeldReason }

/** The wallet as a rail sees it. */
export interface WalletApi {
  /** All that was ever signed for, oldest first: after spend `after` (0 for the first), at most `limit`. */
  history(after: number, limit: number): Promise<readonly NumberedSpend[]>
  /** What was signed for a root, or null. */
  find(root: string): Promise<Spend | null>
  /** Signs the first variant; asked again it answers with what it signed then, whatever the request. */
  sign(request: SignRequest): Promise<SignAnswer>
  /** Adds a variant at a higher price. A price not above the newest variant's adds nothing. */
  replace(root: string, price: Price): Promise<SignAnswer>
  /** Ends a spend: one variant is final, or none can ever confirm (`winner` null). Repeats change nothing. */
  settle(root: string, winner: string | null): Promise<void>
}
