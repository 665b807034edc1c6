/**
 * A stand-in for an Esplora server: the part of its REST API that wallets and rails use, answered out of
 * a bitcoind. Shapes, status codes and texts are those of Blockstream's electrs (its API.md and
 * rest.rs), also where they surprise: an unknown transaction has the status "not confirmed", and one that a
 * reorg has displaced for good is still found, as not confirmed. It has neither the speed nor the
 * paging of the real one, and no history of addresses. Faults come from the proxy it sits behind.
 */

import { createHash } from 'node:crypto'
import { createServer } from 'node:http'
import type { IncomingMessage } from 'node:http'
import type { AddressInfo } from 'node:net'
import { concat, fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { Bitcoind } from './bitcoind.ts'
import {
  confirmedIn,
  esploraIndex,
  sats,
  type EsploraIndex,
  type Status,
  type VerboseOutput,
  type VerboseTx,
} from './esplora-index.ts'
import { startFaultProxy, type Fault } from './fault-proxy.ts'

export interface Esplora {
  readonly url: string
  readonly port: number
  readonly requests: number
  setFault(fault: Fault): Promise<void>
  stop(): Promise<void>
}

/** What a route answers: text, JSON or bytes. */
type Content = string | Uint8Array | object

class Refusal extends Error {
  readonly status: number

  constructor(status: number, text: string) {
    super(text)
    this.status = status
  }
}

/** Serves `bitcoind` on 127.0.0.1. Port 0 picks a free one. */
export async function startEsplora({
  port = 0,
  bitcoind,
}: {
  readonly port?: number
  readonly bitcoind: Pick<Bitcoind, 'rpc'>
}): Promise<Esplora> {
  const routes = routesOf(bitcoind.rpc, esploraIndex(bitcoind.rpc))
  const answer = async (request: IncomingMessage): Promise<Content> => {
    const { pathname: path } = new URL(request.url ?? '/', 'http://localhost')
    if (request.method === 'POST' && path === '/tx') {
      return broadcast(bitcoind.rpc, (await read(request)).trim())
    }
    for (const [pattern, route] of routes) {
      const match = pattern.exec(path)
      if (match !== null && request.method === 'GET') return route(...match.slice(1))
    }
    throw new Refusal(404, `endpoint does not exist ${JSON.stringify(path)}`)
  }
  const server = createServer((request, response) => {
    answer(request)
      .then((content) => [200, ...encoded(content)] as const, refused)
      .then(([status, type, body]) =>
        response.writeHead(status, { 'content-type': type }).end(body),
      )
      .catch(() => response.destroy())
  })
  await new Promise<void>((ready, reject) => {
    server.once('error', reject)
    server.listen(0, '127.0.0.1', ready)
  })
  const target = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
  const close = async (): Promise<void> => {
    const closed = new Promise<void>((done) => server.close(() => done()))
    server.closeAllConnections()
    await closed
  }
  try {
    const proxy = await startFaultProxy({ target, port })
    return {
      url: proxy.url,
      port: proxy.port,
      get requests() {
        return proxy.requests
      },
      setFault: (fault) => proxy.setFault(fault),
      async stop() {
        await proxy.stop()
        await close()
      },
    }
  } catch (error) {
    await close()
    throw error
  }
}

type Route = (...captured: string[]) => Promise<Content>

function routesOf(
  rpc: Bitcoind['rpc'],
  index: EsploraIndex,
): readonly (readonly [RegExp, Route])[] {
  const header = (hash: string) => found(rpc<Header>('getblockheader', [hash]), 'Block not found')
  const transaction = (txid: string) =>
    found(rpc<VerboseTx>('getrawtransaction', [txid, 1]), 'Transaction not found')
  const statusOf = async ({ blockhash, confirmations = 0 }: VerboseTx): Promise<Status> =>
    // The transaction index keeps what is in blocks of stale branches, with no confirmation.
    blockhash === undefined || confirmations < 1
      ? { confirmed: false }
      : confirmedIn(await header(blockhash))
  const blockOf = async (txid: string) => {
    const unknown = new Refusal(404, 'Transaction not found or is unconfirmed')
    const tx = await transaction(txid).catch(() => Promise.reject(unknown))
    const status = await statusOf(tx)
    if (!status.confirmed) throw unknown
    return status
  }
  const outspend = async (txid: string, vout: number) => {
    const spend = await index.spendOf(txid, vout)
    return spend === null ? { spent: false } : { spent: true, ...spend }
  }
  return [
    [/^\/blocks\/tip\/height$/, async () => String(await rpc<number>('getblockcount'))],
    [/^\/blocks\/tip\/hash$/, () => rpc<string>('getbestblockhash')],
    [
      /^\/block-height\/(\d+)$/,
      (height) => found(rpc<string>('getblockhash', [Number(height)]), 'Block not found'),
    ],
    [/^\/block\/([0-9a-f]{64})$/, async (hash) => blockValue(await header(hash!))],
    [
      /^\/block\/([0-9a-f]{64})\/header$/,
      (hash) => found(rpc<string>('getblockheader', [hash, false]), 'Block not found'),
    ],
    [
      /^\/block\/([0-9a-f]{64})\/status$/,
      async (hash) => {
        const block = await header(hash!).catch(() => null)
        if (block === null || block.confirmations < 1) return { in_best_chain: false }
        const { height, nextblockhash } = block
        return { in_best_chain: true, height, next_best: nextblockhash ?? null }
      },
    ],
    [
      /^\/block\/([0-9a-f]{64})\/txids$/,
      async (hash) => (await found(rpc<Txids>('getblock', [hash, 1]), 'Block not found')).tx,
    ],
    [
      /^\/tx\/([0-9a-f]{64})$/,
      async (txid) => {
        const tx = await transaction(txid!)
        const previous = tx.vin.map(async ({ txid: from, vout }) =>
          from === undefined ? null : (await transaction(from)).vout[vout!]!,
        )
        return txValue(tx, await Promise.all(previous), await statusOf(tx))
      },
    ],
    [
      /^\/tx\/([0-9a-f]{64})\/status$/,
      async (txid) => {
        const tx = await transaction(txid!).catch(() => null)
        return tx === null ? { confirmed: false } : statusOf(tx)
      },
    ],
    [
      /^\/tx\/([0-9a-f]{64})\/hex$/,
      (txid) => found(rpc<string>('getrawtransaction', [txid]), 'Transaction not found'),
    ],
    [
      /^\/tx\/([0-9a-f]{64})\/raw$/,
      async (txid) =>
        Buffer.from(
          await found(rpc<string>('getrawtransaction', [txid]), 'Transaction not found'),
          'hex',
        ),
    ],
    [
      /^\/tx\/([0-9a-f]{64})\/merkle-proof$/,
      async (txid) => {
        const { block_height, block_hash } = await blockOf(txid!)
        const { tx } = await rpc<Txids>('getblock', [block_hash, 1])
        return { block_height, ...merkleBranch(tx, tx.indexOf(txid!)) }
      },
    ],
    [
      /^\/tx\/([0-9a-f]{64})\/merkleblock-proof$/,
      async (txid) => rpc<string>('gettxoutproof', [[txid], (await blockOf(txid!)).block_hash]),
    ],
    [/^\/tx\/([0-9a-f]{64})\/outspend\/(\d+)$/, (txid, vout) => outspend(txid!, Number(vout))],
    [
      /^\/tx\/([0-9a-f]{64})\/outspends$/,
      async (txid) => {
        const { vout } = await transaction(txid!)
        return Promise.all(vout.map(({ n }) => outspend(txid!, n)))
      },
    ],
    [/^\/address\/(\w+)\/utxo$/, (address) => index.unspentOf(address!)],
    [/^\/mempool\/txids$/, () => rpc<string[]>('getrawmempool')],
    [/^\/fee-estimates$/, () => feeEstimates(rpc)],
  ]
}

interface Header {
  readonly hash: string
  readonly height: number
  readonly version: number
  readonly time: number
  readonly mediantime: number
  readonly nonce: number
  readonly bits: string
  readonly difficulty: number
  readonly merkleroot: string
  readonly nTx: number
  readonly confirmations: number
  readonly previousblockhash?: string
  readonly nextblockhash?: string
}

interface Txids {
  readonly tx: readonly string[]
}

function blockValue(block: Header): object {
  return {
    id: block.hash,
    height: block.height,
    version: block.version,
    timestamp: block.time,
    tx_count: block.nTx,
    merkle_root: block.merkleroot,
    previousblockhash: block.previousblockhash ?? null,
    mediantime: block.mediantime,
    nonce: block.nonce,
    bits: Number.parseInt(block.bits, 16),
    difficulty: block.difficulty,
  }
}

/** `previous`: for each input the output it spends, null for a coinbase. */
function txValue(
  tx: VerboseTx,
  previous: readonly (VerboseOutput | null)[],
  status: Status,
): object {
  const paid = tx.vout.reduce((sum, { value }) => sum + sats(value), 0)
  const taken = previous.reduce((sum, output) => sum + sats(output?.value ?? 0), 0)
  return {
    txid: tx.txid,
    version: tx.version,
    locktime: tx.locktime,
    vin: tx.vin.map((input, i) => ({
      txid: input.txid ?? '00'.repeat(32),
      vout: input.vout ?? 0xffffffff,
      prevout: previous[i] === null ? null : outputValue(previous[i]!),
      scriptsig: input.scriptSig?.hex ?? input.coinbase,
      scriptsig_asm: input.scriptSig?.asm ?? '',
      witness: input.txinwitness,
      is_coinbase: input.coinbase !== undefined,
      sequence: input.sequence,
    })),
    vout: tx.vout.map(outputValue),
    size: tx.size,
    weight: tx.weight,
    fee: previous.includes(null) ? 0 : taken - paid,
    status,
  }
}

/** bitcoind's names of output types in Esplora's words. */
const OUTPUT_TYPES: Readonly<Record<string, string>> = {
  nulldata: 'op_return',
  pubkey: 'p2pk',
  pubkeyhash: 'p2pkh',
  scripthash: 'p2sh',
  witness_v0_keyhash: 'v0_p2wpkh',
  witness_v0_scripthash: 'v0_p2wsh',
  witness_v1_taproot: 'v1_p2tr',
}

function outputValue({ value, scriptPubKey: { asm, hex, type, address } }: VerboseOutput): object {
  return {
    scriptpubkey: hex,
    scriptpubkey_asm: asm,
    scriptpubkey_type: OUTPUT_TYPES[type] ?? 'unknown',
    scriptpubkey_address: address,
    value: sats(value),
  }
}

/** Siblings from leaf to root in display order. The last of an odd level is its own sibling. */
function merkleBranch(txids: readonly string[], pos: number): { merkle: string[]; pos: number } {
  const merkle: string[] = []
  let level: Uint8Array[] = txids.map((txid) => fromHex(txid).toReversed())
  for (let at = pos; level.length > 1; at >>= 1) {
    const sibling = level[at ^ 1] ?? level[at]!
    merkle.push(toHex(sibling.toReversed()))
    level = Array.from({ length: Math.ceil(level.length / 2) }, (_, i) => {
      const left = level[2 * i]!
      return sha256d(concat(left, level[2 * i + 1] ?? left))
    })
  }
  return { merkle, pos }
}

function sha256d(bytes: Uint8Array): Uint8Array {
  const inner = createHash('sha256').update(bytes).digest()
  return new Uint8Array(createHash('sha256').update(inner).digest())
}

/** sat/vB by target in blocks; a target for which the node knows nothing is left out, as electrs does. */
async function feeEstimates(rpc: Bitcoind['rpc']): Promise<object> {
  const estimates: Record<string, number> = {}
  for (const target of [1, 2, 3, 6, 12, 24, 144, 504, 1008]) {
    const { feerate } = await rpc<{ feerate?: number }>('estimatesmartfee', [target])
    if (feerate !== undefined) estimates[target] = feerate * 1e5
  }
  return estimates
}

async function broadcast(rpc: Bitcoind['rpc'], hex: string): Promise<string> {
  try {
    return await rpc<string>('sendrawtransaction', [hex])
  } catch (error) {
    const code = rpcCode(error)
    if (code === undefined) throw error
    const message = (error as Error).message.replace(/^\w+: (.*) \(-?\d+\)$/, '$1')
    throw new Refusal(400, `sendrawtransaction RPC error: ${JSON.stringify({ code, message })}`)
  }
}

/** What the node does not know is 404 with Esplora's text; anything else stays what it is. */
async function found<T>(asked: Promise<T>, missing: string): Promise<T> {
  try {
    return await asked
  } catch (error) {
    // RPC_INVALID_ADDRESS_OR_KEY and RPC_INVALID_PARAMETER.
    if ([-5, -8].includes(rpcCode(error) ?? 0)) throw new Refusal(404, missing)
    throw error
  }
}

function rpcCode(error: unknown): number | undefined {
  const code = error instanceof VaultMeshError ? error.extra['rpcCode'] : undefined
  return typeof code === 'number' ? code : undefined
}

function refused(error: unknown): readonly [number, string, string] {
  const text = error instanceof Error ? error.message : 'failed'
  return [error instanceof Refusal ? error.status : 500, 'text/plain', text]
}

function encoded(content: Content): [string, string | Uint8Array] {
  if (typeof content === 'string') return ['text/plain', content]
  if (content instanceof Uint8Array) return ['application/octet-stream', content]
  return ['application/json', JSON.stringify(content)]
}

async function read(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString()
}
