/**
 * Bitcoin Core (and Knots) by JSON-RPC 1.0 over HTTP: an answer is 200 with a result, or 404 or 500 with
 * an error object; anything else is no answer. Error codes are Core's rpc/protocol.h.
 *
 * `-txindex` is a help, not a need: an anchor's first output is change that only the wallet spends, so
 * `gettxout` finds the block of a confirmed one. What the index says of a block is believed only if
 * that block has confirmations: transactions of stale blocks stay in it (real-parts §1).
 */

import * as z from 'zod'
import { HEADER_BYTES } from '#core/bitcoin-proof.ts'
import { fromDisplay, sha256d, toDisplay } from '#core/bitcoin-transaction.ts'
import { fromHex, fromUtf8, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { Coin } from '#store/wallet-api.ts'
import type { BitcoinClient, Broadcast, ClientOptions, TxStatus } from './bitcoin-client.ts'
import type { Endpoint } from './bounded-fetch.ts'
import { boundedFetch, failure } from './bounded-fetch.ts'
import { branchOf } from './merkle-block.ts'

export const hash = z.string().regex(/^[0-9a-f]{64}$/)
export const hex = z.string().regex(/^(?:[0-9a-f]{2})+$/)
export const height = z.int().nonnegative()
/** 21 million coins of 10^8 satoshi. */
const MAX_SAT = 21e14
/** BTC as a JSON number; below 2^53 satoshi, so rounding is exact. */
const bitcoins = z
  .number()
  .nonnegative()
  .transform((btc) => Math.round(btc * 1e8))
  .refine((sat) => sat <= MAX_SAT)
const headerInfo = z.object({ confirmations: z.int(), height })
const envelope = z.object({
  result: z.unknown(),
  error: z.object({ code: z.int(), message: z.string() }).nullable(),
  id: z.literal('vaultmesh'),
})

/** RPC_INVALID_ADDRESS_OR_KEY: no such transaction, no such block. */
const NOT_FOUND = -5
/** RPC_INVALID_PARAMETER: a height above the tip, a scan while one is in progress, and more. */
const OUT_OF_RANGE = -8
/** Core consensus.h: a coinbase may be spent by the hundredth block after it. */
const COINBASE_MATURITY = 100
const MAX_ANSWER_BYTES = 4_000_000
/** A block of 4,000,000 bytes as hex, and its envelope. */
const MAX_BLOCK_ANSWER_BYTES = 8_100_000
/** Enough for any anchor; each is asked for alone. */
const MAX_COINS = 20

/** An error that the node itself speaks; stays inside this file. */
class RpcError extends Error {
  readonly code: number

  constructor(code: number, message: string) {
    super(message)
    this.code = code
  }
}

/** The client of one node. */
export function coreClient(endpoint: Endpoint, options: ClientOptions): BitcoinClient {
  const fail = (fault: string) => failure(endpoint, fault)

  async function ask<T>(
    schema: z.ZodType<T>,
    method: string,
    params: readonly unknown[],
    limits: { maxBytes?: number; timeoutMs?: number; address?: string } = {},
  ): Promise<T> {
    const { body } = await boundedFetch({
      fetch: options.fetch,
      endpoint: { ...endpoint, address: limits.address ?? node },
      path: '',
      init: {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify({ jsonrpc: '1.0', id: 'vaultmesh', method, params }),
      },
      statuses: [200, 404, 500],
      maxBytes: limits.maxBytes ?? MAX_ANSWER_BYTES,
      timeoutMs: limits.timeoutMs ?? options.timeoutMs,
    })
    const answer = envelope.safeParse(parsed(body))
    if (!answer.success) throw fail(`did not answer ${method} in JSON-RPC`)
    const { error, result } = answer.data
    if (error !== null) throw new RpcError(error.code, error.message)
    const checked = schema.safeParse(result)
    if (!checked.success) throw fail(`answered ${method} with another shape`)
    return checked.data
  }

  /** Null for the error codes that mean "no"; any other error fails the attempt. */
  async function orNull<T>(call: Promise<T>, ...codes: readonly number[]): Promise<T | null> {
    try {
      return await call
    } catch (error) {
      if (!(error instanceof RpcError)) throw error
      if (codes.includes(error.code)) return null
      throw fail(`answered with error ${error.code}`)
    }
  }

  // The chain is asked of the node, only coins of the wallet: a wallet's path may vanish on restart.
  const [node = '', wallet] = endpoint.address.split(/(?=\/wallet\/[^/]+$)/)
  const outpoint = { txid: hash, vout: height, amount: bitcoins }
  const index = z.object({ best_block_height: height })
  const output = z.object({ bestblock: hash, confirmations: height, coinbase: z.boolean() })

  async function activeBlock(blockHash: string): Promise<number | null> {
    const info = await orNull(ask(headerInfo, 'getblockheader', [blockHash]), NOT_FOUND)
    return info !== null && info.confirmations > 0 ? info.height : null
  }

  async function tip() {
    const info = await orNull(
      ask(z.object({ blocks: height, bestblockhash: hash }), 'getblockchaininfo', []),
    )
    return { height: info!.blocks, hash: info!.bestblockhash }
  }

  function hashAt(at: number) {
    return orNull(ask(hash, 'getblockhash', [at]), OUT_OF_RANGE)
  }

  /** The block of an unspent first output, which is our change; null if it is spent or nowhere. */
  async function blockOfChange(txid: string): Promise<TxStatus | null> {
    const found = await orNull(ask(output.nullable(), 'gettxout', [txid, 0, false]))
    if (found === null || found.confirmations === 0) return null
    const best = await activeBlock(found.bestblock)
    if (best === null) return null
    const at = best - found.confirmations + 1
    const blockHash = await hashAt(at)
    return blockHash === null ? null : { state: 'block', height: at, blockHash }
  }

  /** All coins of an address, out of the whole UTXO set. */
  async function scanFor(address: string) {
    const schema = z.object({ success: z.literal(true), unspents: z.array(z.object(outpoint)) })
    const limits = { timeoutMs: options.scanTimeoutMs }
    try {
      return await ask(schema, 'scantxoutset', ['start', [`addr(${address})`]], limits)
    } catch (error) {
      const advice = `: let a watch-only wallet of it know ${address} and append /wallet/NAME to its URL`
      // The node goes on scanning after we have given up, and scans for one caller at a time.
      if (error instanceof RpcError && error.code === OUT_OF_RANGE) {
        throw fail(`is busy with another scan for coins${advice}`)
      }
      if (error instanceof RpcError) throw fail(`answered with error ${error.code}`)
      const isLate = String(error).includes(`within ${options.scanTimeoutMs} ms`)
      throw isLate ? fail(`found no coins within ${options.scanTimeoutMs} ms${advice}`) : error
    }
  }

  async function coinsOf(address: string, depth: number): Promise<readonly Coin[]> {
    if (wallet !== undefined) {
      // listunspent leaves out what is immature or spent in the pool.
      const listed = await orNull(
        ask(z.array(z.object(outpoint)), 'listunspent', [depth, 9_999_999, [address]], {
          address: endpoint.address,
        }),
      )
      return listed!.map(({ txid, vout, amount }) => ({ txid, vout, value: amount }))
    }
    const scan = await scanFor(address)
    const largest = scan.unspents.toSorted((a, b) => b.amount - a.amount).slice(0, MAX_COINS)
    const coins: Coin[] = []
    for (const { txid, vout, amount } of largest) {
      const found = await orNull(ask(output.nullable(), 'gettxout', [txid, vout, true]))
      if (found === null) continue
      const needed = found.coinbase ? Math.max(depth, COINBASE_MATURITY) : depth
      if (found.confirmations >= needed) coins.push({ txid, vout, value: amount })
    }
    return coins
  }

  return {
    name: endpoint.name,
    tip,
    hashAt,
    coins: coinsOf,

    async header(blockHash) {
      const text = await orNull(ask(hex, 'getblockheader', [blockHash, false]))
      return checkedHeader(endpoint, text!, blockHash)
    },

    async feerate(blocks) {
      const estimate = await orNull(
        ask(z.object({ feerate: z.number().positive().optional() }), 'estimatesmartfee', [blocks]),
      )
      const pool = await orNull(
        ask(z.object({ mempoolminfee: z.number().nonnegative() }), 'getmempoolinfo', []),
      )
      // BTC/kvB → sat/vB. A node without traffic has no estimate, then its own floor must do.
      return Math.max(1, (estimate!.feerate ?? 0) * 1e5, pool!.mempoolminfee * 1e5)
    },

    async broadcast(raw) {
      try {
        await ask(hash, 'sendrawtransaction', [raw])
        return 'sent'
      } catch (error) {
        if (!(error instanceof RpcError)) throw error
        return broadcastOutcome(endpoint, error.code, error.message)
      }
    },

    async statusOf(txid, blockHash) {
      const schema = z.object({ txid: z.literal(txid), blockhash: hash.optional() })
      const indexed = await orNull(ask(schema, 'getrawtransaction', [txid, true]), NOT_FOUND)
      if (indexed !== null && indexed.blockhash === undefined) return { state: 'mempool' }
      // By the index, by our change, by where it was before; whatever block it is, it must be active.
      for (const hint of [indexed?.blockhash, 'change', blockHash] as const) {
        if (hint === 'change') {
          const found = await blockOfChange(txid)
          if (found !== null) return found
          continue
        }
        const at = hint === undefined ? null : await activeBlock(hint)
        if (at === null || hint === undefined) continue
        const isThere = ask(schema, 'getrawtransaction', [txid, true, hint])
        if ((await orNull(isThere, NOT_FOUND)) !== null) {
          return { state: 'block', height: at, blockHash: hint }
        }
      }
      return { state: 'unknown' }
    },

    async inclusion(txid, blockHash) {
      const proof = await orNull(ask(hex, 'gettxoutproof', [[txid], blockHash]))
      const rawTx = await orNull(ask(hex, 'getrawtransaction', [txid, false, blockHash]))
      try {
        const { header, ...branch } = branchOf(fromHex(proof!), txid)
        checkedHeader(endpoint, header, blockHash)
        return { rawTx: rawTx!, ...branch }
      } catch (error) {
        if (!(error instanceof VaultMeshError) || error.code !== 'bad-proof') throw error
        throw fail('answered with a branch that does not hold')
      }
    },

    async outspend({ txid, vout }, depth) {
      const before = await tip()
      const found = await orNull(ask(output.nullable(), 'gettxout', [txid, vout, false]))
      if (found !== null) return { state: 'unspent' }
      // Gone, or never there? And was it one of our own variants that spent it? Only a node whose
      // transaction index is up to date can tell; without one the spend never counts as deep.
      const indexes = await orNull(ask(z.object({ txindex: index.optional() }), 'getindexinfo', []))
      const txindex = indexes!.txindex
      const schema = z.object({ txid: z.literal(txid), blockhash: hash.optional() })
      const funding = await orNull(ask(schema, 'getrawtransaction', [txid, true]), NOT_FOUND)
      if (txindex === undefined && funding === null) {
        return { state: 'spent', by: null, isDeep: false }
      }
      const { blockhash } = funding ?? {}
      if (blockhash === undefined || (await activeBlock(blockhash)) === null) {
        return { state: 'missing' }
      }
      // An outpoint stands in a block as it is hashed. Data that looks like it only makes the spend
      // seem younger than it is.
      const needle = toHex(fromDisplay(txid)) + toHex(littleEndian(vout))
      let isDeep = (txindex?.best_block_height ?? 0) >= before.height && before.height >= depth
      for (let i = 0; isDeep && i < depth - 1; i++) {
        const at = await hashAt(before.height - i)
        if (at === null) throw fail('changed its chain while it was asked')
        const limits = { maxBytes: MAX_BLOCK_ANSWER_BYTES }
        const block = await orNull(ask(hex, 'getblock', [at, 0], limits))
        if (block!.includes(needle)) isDeep = false
      }
      if ((await hashAt(before.height)) !== before.hash) {
        throw fail('changed its chain while it was asked')
      }
      return { state: 'spent', by: null, isDeep }
    },
  }
}

/** A header of 80 bytes whose hash is the one asked for, or the attempt fails. */
export function checkedHeader(endpoint: Endpoint, text: string, blockHash: string): string {
  if (text.length !== HEADER_BYTES * 2 || toDisplay(sha256d(fromHex(text))) !== blockHash) {
    throw failure(endpoint, 'answered with the header of another block')
  }
  return text
}

/** What Core's refusal of a transaction means to us (validation.cpp, rpc/rawtransaction.cpp). */
export function broadcastOutcome(endpoint: Endpoint, code: number, message: string): Broadcast {
  if (code === -27 || /already[- ](?:known|in[- ])/i.test(message)) return 'known'
  if (code === -25 || /missing-?inputs|missingorspent|txn-mempool-conflict/i.test(message)) {
    return 'conflict'
  }
  // A rival in the pool that pays as much, usually our own newer variant.
  if (/insufficient fee|replacement|too many potential replacements/i.test(message)) {
    return 'conflict'
  }
  if (/min relay fee not met|mempool min fee not met|mempool full/i.test(message)) {
    return 'too-cheap'
  }
  // Until Core 28 a signature that only policy refuses was "non-mandatory"; since then nodes do not tell.
  if (/bad-txns-in-belowout|(?<!non-)(?:mandatory|mempool)-script-verify-flag/i.test(message)) {
    return 'invalid'
  }
  throw failure(endpoint, `refused the transaction with error ${code}`)
}

/** JSON of a body, undefined if it is none. */
export function parsed(body: Uint8Array): unknown {
  try {
    return JSON.parse(fromUtf8(body))
  } catch {
    return undefined
  }
}

function littleEndian(n: number): Uint8Array {
  const out = new Uint8Array(4)
  new DataView(out.buffer).setUint32(0, n, true)
  return out
}
