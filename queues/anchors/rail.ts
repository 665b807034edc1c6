/**
 * A rail: one way to anchor a root on one network. Bitcoin, EVM and TSA implement the same three
 * methods; the orchestrator (queues/anchor.ts) drives them and owns all state.
 *
 * The contract, and why a crash at any point is harmless:
 * - A rail keeps nothing. All it must remember is `work`, a JSON object that the orchestrator stores
 *   in the outbox row. A rail never mutates the `work` it is given; it returns a new one.
 * - **No byte that commits us leaves before the `work` that describes it is stored.** So `submit` is
 *   called twice: with `null` it prepares (reads of fees and nonces are allowed) and returns
 *   `signed`; once that is stored it is called with it, and only then sends. Repeating it with the
 *   same `work` sends the same bytes again; "already known" is success.
 * - A replacement (RBF, fee bump) is `check` returning `signed` with one more variant in `work`. It
 *   spends the same inputs or nonce, and all variants stay: whichever confirms wins.
 * - Who pays signs in the Wallet (store/wallet-api.ts) and nowhere else: it keeps every variant before it
 *   hands one out, and answers the same request with the same bytes. `work` is the rail's view of it.
 * - Waiting is not failing. `busy`, `waiting` and `included` mean: ack, and go on at `againAt`. A
 *   throw of VaultMeshError (`anchor-failed`, `bad-timestamp`) means: this attempt failed, count it,
 *   back off, call again. `failed` is for what no repetition can mend.
 *
 * Outbox states: queued —submit(null)→ signed —submit(work)→ broadcast —check→ included → final;
 * `orphaned` and `dropped` lead back to signed, `held` waits for the operator or the wallet. In `held`
 * the orchestrator calls `submit(work)` again when the operator releases it, and each minute if the
 * reason is `no_funds`: money that arrives releases it.
 */

import type { AnchorReceipt, AnchorVerdict, Chain } from '#core/anchor-receipt.ts'
import type { Hash } from '#core/bytes.ts'
import type { HeldReason } from '#store/wallet-api.ts'

/** Persisted state of one job on one rail. Parsed by its rail when it comes back from D1. */
export type Work = Readonly<Record<string, Json>>
export type Json =
  | string
  | number
  | boolean
  | null
  | readonly Json[]
  | { readonly [k: string]: Json }

/** What is to be anchored. An anchor of `treeSize` covers every smaller tree of this log. */
export interface AnchorJob {
  readonly root: Hash
  readonly treeSize: number
}

/** Somebody whom a rail asks; `name` is host and port, never a URL with its credentials. */
export interface Provider {
  readonly name: string
}

/** Which provider is asked, by what became of earlier calls (queues/anchors/route.ts). */
export interface Route {
  /**
   * Asks the best provider, and on a failure the next one. Rejects with the last failure when none
   * answered: a VaultMeshError passes as it is, whatever else it was becomes `anchor-failed`.
   */
  first<P extends Provider, T>(
    providers: readonly P[],
    call: (provider: P) => Promise<T>,
  ): Promise<T>
  /** Asks everybody and rejects if one does not answer: agreement is not assumed of the silent. */
  all<P extends Provider, T>(
    providers: readonly P[],
    call: (provider: P) => Promise<T>,
  ): Promise<readonly T[]>
}

/** The world as a rail may touch it; tests hand in their own. */
export interface RailContext {
  readonly fetch: (url: string, init?: RequestInit) => Promise<Response>
  readonly route: Route
  /** Epoch ms. */
  now(): number
  /** `n` bytes that nobody can predict. */
  random(n: number): Uint8Array
  /** True when the operator has looked at a held job and wants it tried; once. */
  readonly released: boolean
  /** Why it was held when it was released: a release is for what the operator was told. */
  readonly releasedFrom?: string | null
}

/** Where a transaction stands that is in a block, but not deep enough yet. */
export interface Inclusion {
  readonly txHash: string
  readonly blockNumber: number
  readonly anchorTs: string
  readonly observedDepth: number
  readonly requiredDepth: number
}

/** What became of a job. Every `work` returned is stored before the rail is called again. */
export type RailStep<W extends Work = Work> =
  /** The wallet has another root under way: ask again at `againAt`, nothing was signed. */
  | { readonly state: 'busy'; readonly reason: string; readonly againAt: number }
  /** Prepared, not sent: store `work`, then call `submit` with it. */
  | { readonly state: 'signed'; readonly work: W }
  /** Sent, not in a block. */
  | {
      readonly state: 'waiting'
      readonly work: W
      readonly againAt: number
      /** Why it takes longer than it should. */
      readonly reason?: string
    }
  | {
      readonly state: 'included'
      readonly work: W
      readonly againAt: number
      readonly inclusion: Inclusion
    }
  /** Done: the receipt holds the whole offline proof and is written once. */
  | { readonly state: 'final'; readonly receipt: AnchorReceipt }
  /** Was included and is no more: `submit` the same work again. */
  | { readonly state: 'orphaned'; readonly work: W }
  /** In no pool any more: `submit` the same work again, or begin anew where nothing signed can confirm (null). */
  | { readonly state: 'dropped'; readonly work: W | null }
  /** Nothing is sent until somebody acts. */
  | {
      readonly state: 'held'
      readonly work: W | null
      readonly reason: HeldReason
    }
  | { readonly state: 'failed'; readonly reason: string }

export interface Rail<W extends Work = Work> {
  readonly chain: Chain
  /** As in receipts: `mainnet`, a chain name, a TSA host. With chain and method it names the rail. */
  readonly network: string
  readonly method: string

  /** Prepares (`work` null) or sends (`work` stored). */
  submit(job: AnchorJob, work: W | null, context: RailContext): Promise<RailStep<W>>
  /** Looks after what was sent. */
  check(job: AnchorJob, work: W, context: RailContext): Promise<RailStep<W>>
  /** Judges a receipt again, as `#core` does and, where the chain can be asked, with our provider. */
  verify(receipt: AnchorReceipt, context: RailContext): Promise<AnchorVerdict>
  /**
   * Why the receipt is void: every provider has the same other block there, at final depth. Null if even
   * one does not. What a rail without a chain cannot say, it has no method for.
   */
  disproof?(receipt: AnchorReceipt, context: RailContext): Promise<string | null>
}
