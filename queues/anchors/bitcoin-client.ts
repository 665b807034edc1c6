/**
 * What a Bitcoin anchor asks of a node, the same of Bitcoin Core (JSON-RPC) and of Esplora (REST).
 *
 * Headers and branches prove themselves, so one honest provider suffices for them. Nothing proves what
 * the active chain is or whether a coin is spent: there a rail asks all and wants one answer. No
 * method answers from a stale block: a node with a transaction index still knows transactions that were
 * reorganised away.
 *
 *   core+https://user:password@host[:port][/wallet/name]     esplora+https://host/api
 *
 * A wallet in the path of a Core node must watch the address; its coins are then known at once.
 * Without one every search for coins scans the whole UTXO set, which may take a mainnet node longer than we wait.
 */

import { VaultMeshError } from '#core/errors.ts'
import type { Coin } from '#store/wallet-api.ts'
import { coreClient } from './bitcoin-core.ts'
import type { Fetch } from './bounded-fetch.ts'
import { DEFAULT_TIMEOUT_MS, parseEndpoint } from './bounded-fetch.ts'
import { esploraClient } from './bitcoin-esplora.ts'
import type { Provider } from './rail.ts'

/** Where a transaction is, as one node sees it. */
export type TxStatus =
  | { readonly state: 'unknown' }
  | { readonly state: 'mempool' }
  | { readonly state: 'block'; readonly height: number; readonly blockHash: string }

/** A transaction and its way to the Merkle root of its block. */
export interface TxInclusion {
  /** Hex; with or without witness. */
  readonly rawTx: string
  /** Siblings in the order hashed, the transaction's own first. */
  readonly branch: readonly string[]
  readonly position: number
}

/** What became of an output, in the active chain only. */
export type Outspend =
  | { readonly state: 'unspent' }
  /** The active chain has no such output: it never was, or its block was reorganised away. */
  | { readonly state: 'missing' }
  | {
      readonly state: 'spent'
      /** Display order; null where the node does not tell. */
      readonly by: string | null
      /** True if the spend has at least the asked confirmations. */
      readonly isDeep: boolean
    }

/**
 * `too-cheap`: below what the node's pool takes now. `conflict`: an input is spent, or unknown. `invalid`: its
 * signature or its sum is wrong, as when the value of a coin was; no block can hold it.
 */
export type Broadcast = 'sent' | 'known' | 'conflict' | 'too-cheap' | 'invalid'

/** Hashes in display order. Each method throws `anchor-failed` if there is no sound answer. */
export interface BitcoinClient extends Provider {
  tip(): Promise<{ readonly height: number; readonly hash: string }>
  /** Hash of the block at a height of the active chain; null above its tip. */
  hashAt(height: number): Promise<string | null>
  /** The 80 bytes of a header as hex, of this hash and no other. */
  header(hash: string): Promise<string>
  /** Spendable outputs with at least `depth` confirmations (a coinbase: 100), no order. */
  coins(address: string, depth: number): Promise<readonly Coin[]>
  /** sat/vB that gets into one of the next `blocks` blocks; at least 1. */
  feerate(blocks: number): Promise<number>
  broadcast(raw: string): Promise<Broadcast>
  /** `blockHash`: where it was last seen, for nodes that have no transaction index. */
  statusOf(txid: string, blockHash?: string): Promise<TxStatus>
  inclusion(txid: string, blockHash: string): Promise<TxInclusion>
  outspend(output: Pick<Coin, 'txid' | 'vout'>, depth: number): Promise<Outspend>
}

/** What a client is made of. */
export interface ClientOptions {
  readonly fetch: Fetch
  readonly timeoutMs: number
  /** A scan of the UTXO set; a mainnet node may need minutes. */
  readonly scanTimeoutMs: number
}

/** Shorter than the lease of an attempt (queues/anchor.ts): nobody else may begin while one still waits. */
export const SCAN_TIMEOUT_MS = 100_000

/** The client that a URL names. Throws `bad-config`, which does not quote it. */
export function parseBitcoinUrl(
  text: string,
  fetch: Fetch,
  options: Partial<Omit<ClientOptions, 'fetch'>> = {},
): BitcoinClient {
  const [, kind, url] = /^(core|esplora)\+(https?:\/\/.+)$/s.exec(text) ?? []
  if (kind === undefined || url === undefined) {
    const detail = 'A Bitcoin provider is core+http(s)://… or esplora+http(s)://….'
    throw new VaultMeshError('bad-config', detail)
  }
  const complete: ClientOptions = {
    fetch,
    timeoutMs: DEFAULT_TIMEOUT_MS,
    scanTimeoutMs: SCAN_TIMEOUT_MS,
    ...options,
  }
  const endpoint = parseEndpoint(url, 'a Bitcoin provider')
  return kind === 'core' ? coreClient(endpoint, complete) : esploraClient(endpoint, complete)
}
