/**
 * Esplora by REST (Blockstream/esplora API.md): blockstream.info, mempool.space, or one's own electrs.
 * Hashes come as text, everything else as JSON; 404 is "no" where the API says so. Public instances
 * limit calls without saying so, and answer 429 with JSON: a status that is not expected is no answer.
 */

import { bech32, bech32m } from '@scure/base'
import * as z from 'zod'
import { merkleRootFrom, parseHeader } from '#core/bitcoin-proof.ts'
import { fromDisplay, parseTransaction, toDisplay } from '#core/bitcoin-transaction.ts'
import { concat, equal, fromHex, fromUtf8, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { Coin } from '#store/wallet-api.ts'
import type { BitcoinClient, ClientOptions, TxStatus } from './bitcoin-client.ts'
import { broadcastOutcome, checkedHeader, hash, height, hex, parsed } from './bitcoin-core.ts'
import type { Endpoint } from './bounded-fetch.ts'
import { boundedFetch, failure } from './bounded-fetch.ts'

const MAX_ANSWER_BYTES = 2_000_000
const COINBASE_MATURITY = 100
const MAX_COINS = 20

const status = z.discriminatedUnion('confirmed', [
  z.object({ confirmed: z.literal(true), block_height: height, block_hash: hash }),
  z.object({ confirmed: z.literal(false) }),
])
const utxo = z.object({
  txid: hash,
  vout: height,
  value: z.int().nonnegative(),
  status: z.object({ confirmed: z.boolean(), block_height: height.optional() }),
})
const outspend = z.discriminatedUnion('spent', [
  z.object({ spent: z.literal(false) }),
  z.object({ spent: z.literal(true), txid: hash }),
])

/** The client of one server. */
export function esploraClient(endpoint: Endpoint, options: ClientOptions): BitcoinClient {
  const fail = (fault: string) => failure(endpoint, fault)

  async function get(path: string): Promise<Uint8Array | null> {
    const { fetch, timeoutMs } = options
    const answer = await boundedFetch({
      fetch,
      endpoint,
      path,
      statuses: [200, 404],
      maxBytes: MAX_ANSWER_BYTES,
      timeoutMs,
    })
    return answer.status === 404 ? null : answer.body
  }

  async function textOrNull(schema: z.ZodType<string>, path: string): Promise<string | null> {
    const body = await get(path)
    if (body === null) return null
    const checked = schema.safeParse(textOf(body))
    if (!checked.success) throw fail('answered with another shape')
    return checked.data
  }

  async function jsonOrNull<T>(schema: z.ZodType<T>, path: string): Promise<T | null> {
    const body = await get(path)
    if (body === null) return null
    const checked = schema.safeParse(parsed(body))
    if (!checked.success) throw fail('answered with another shape')
    return checked.data
  }

  async function present<T>(answer: Promise<T | null>): Promise<T> {
    const value = await answer
    if (value === null) throw fail('answered HTTP 404')
    return value
  }

  function hashAt(at: number) {
    return textOrNull(hash, `/block-height/${at}`)
  }

  async function tip() {
    const digits = z.string().regex(/^\d{1,9}$/)
    const at = Number(await present(textOrNull(digits, '/blocks/tip/height')))
    return { height: at, hash: await present(hashAt(at)) }
  }

  async function header(blockHash: string) {
    const text = await present(textOrNull(hex, `/block/${blockHash}/header`))
    return checkedHeader(endpoint, text, blockHash)
  }

  async function statusOf(txid: string): Promise<TxStatus> {
    const found = await jsonOrNull(status, `/tx/${txid}/status`)
    if (found === null) return { state: 'unknown' }
    if (!found.confirmed) {
      // It says so of what it never heard of, too, and of what a reorganisation displaced for good. In
      // the pool is what spends its first input now.
      const raw = await textOrNull(hex, `/tx/${txid}/hex`)
      const spend = raw === null ? null : await spenderOf(firstInput(raw))
      return { state: spend?.spent === true && spend.txid === txid ? 'mempool' : 'unknown' }
    }
    const { block_height: at, block_hash: blockHash } = found
    if ((await hashAt(at)) !== blockHash) return { state: 'unknown' }
    return { state: 'block', height: at, blockHash }
  }

  function spenderOf({ txid, vout }: { txid: string; vout: number }) {
    return jsonOrNull(outspend, `/tx/${txid}/outspend/${vout}`)
  }

  return {
    name: endpoint.name,
    tip,
    hashAt,
    header,
    statusOf,

    async coins(address, depth) {
      const listed = await present(jsonOrNull(z.array(utxo), `/address/${address}/utxo`))
      const { height: best } = await tip()
      const coins: Coin[] = []
      for (const { txid, vout, value, status: at } of listed
        .toSorted((a, b) => b.value - a.value)
        .slice(0, MAX_COINS)) {
        const confirmations = at.confirmed ? best - (at.block_height ?? best + 1) + 1 : 0
        if (confirmations < depth) continue
        const raw = await present(textOrNull(hex, `/tx/${txid}/hex`))
        if (!pays(raw, { txid, vout, value }, scriptOf(address))) {
          throw fail('listed a coin that its transaction does not pay')
        }
        // The list does not say which coins are a coinbase.
        if (confirmations < COINBASE_MATURITY && isCoinbase(raw)) continue
        coins.push({ txid, vout, value })
      }
      return coins
    },

    async feerate(blocks) {
      const estimates = await present(
        jsonOrNull(z.record(z.string().regex(/^\d+$/), z.number()), '/fee-estimates'),
      )
      const targets = Object.keys(estimates)
        .map(Number)
        .toSorted((a, b) => a - b)
      const target = targets.findLast((n) => n <= blocks) ?? targets[0]
      return Math.max(1, target === undefined ? 0 : (estimates[target] ?? 0))
    },

    async broadcast(raw) {
      const { fetch, timeoutMs } = options
      const answer = await boundedFetch({
        fetch,
        endpoint,
        path: '/tx',
        init: { method: 'POST', headers: { 'content-type': 'text/plain' }, body: raw },
        statuses: [200, 400],
        maxBytes: MAX_ANSWER_BYTES,
        timeoutMs,
      })
      const text = textOf(answer.body) ?? ''
      if (answer.status === 200) {
        if (!hash.safeParse(text).success) throw fail('answered with another shape')
        return 'sent'
      }
      // sendrawtransaction RPC error: {"code":-25,"message":"…"}
      const [, code, message] = /"code":\s*(-?\d+),\s*"message":\s*"([^"]*)"/.exec(text) ?? []
      return broadcastOutcome(endpoint, Number(code ?? 0), message ?? text)
    },

    async inclusion(txid, blockHash) {
      const schema = z.object({
        block_height: height,
        merkle: z.array(hash).max(32),
        pos: height,
      })
      const proof = await present(jsonOrNull(schema, `/tx/${txid}/merkle-proof`))
      const rawTx = await present(textOrNull(hex, `/tx/${txid}/hex`))
      const branch = proof.merkle.map(fromDisplay)
      const { merkleRoot } = parseHeader(fromHex(await header(blockHash)))
      try {
        const found = merkleRootFrom(fromDisplay(txid), proof.pos, branch)
        if (!equal(found, merkleRoot)) throw fail('answered with a branch of another block')
      } catch (error) {
        if (!(error instanceof VaultMeshError) || error.code !== 'bad-proof') throw error
        throw fail('answered with a branch that does not hold')
      }
      return { rawTx, branch: branch.map(toHex), position: proof.pos }
    },

    async outspend({ txid, vout }, depth) {
      if ((await statusOf(txid)).state !== 'block') return { state: 'missing' }
      const found = await present(spenderOf({ txid, vout }))
      if (!found.spent) return { state: 'unspent' }
      // Esplora also counts a spend in the pool.
      const at = await statusOf(found.txid)
      if (at.state !== 'block') return { state: 'unspent' }
      const { height: best } = await tip()
      return { state: 'spent', by: found.txid, isDeep: best - at.height + 1 >= depth }
    },
  }
}

/** A signature commits to value and script, so a wrong one here would sign what is never valid. */
function pays(raw: string, { txid, vout, value }: Coin, script: Uint8Array): boolean {
  try {
    const transaction = parseTransaction(fromHex(raw))
    const output = transaction.outputs[vout]
    return (
      toDisplay(transaction.txid) === txid &&
      output?.value === BigInt(value) &&
      equal(output.script, script)
    )
  } catch (error) {
    if (error instanceof VaultMeshError) return false
    throw error
  }
}

/** The output script of a segwit address (BIP 173, BIP 350). */
function scriptOf(address: string): Uint8Array {
  const decoded = bech32.decodeUnsafe(address) ?? bech32m.decodeUnsafe(address)
  const [version = 0, ...words] = decoded?.words ?? []
  const program = bech32.fromWords(words)
  return concat(Uint8Array.of(version === 0 ? 0 : 0x50 + version, program.length), program)
}

function isCoinbase(raw: string): boolean {
  return /^0+$/.test(firstInput(raw).txid)
}

/** The first outpoint of a transaction: after version, marker and flag if there is a witness, count. */
function firstInput(raw: string): { txid: string; vout: number } {
  const [, txid = '', vout = ''] = /^.{8}(?:0001)?.{2}(.{64})(.{8})/.exec(raw) ?? []
  const at = fromHex(vout).reduceRight((value, octet) => value * 256 + octet, 0)
  return { txid: toHex(fromHex(txid).toReversed()), vout: at }
}

function textOf(body: Uint8Array): string | null {
  try {
    return fromUtf8(body).trim()
  } catch {
    return null
  }
}
