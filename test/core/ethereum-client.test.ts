import { keccak_256 } from '@noble/hashes/sha3.js'
import { describe, expect, test } from 'vitest'
import { fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { transactionsRoot } from '#core/merkle-patricia.ts'
import { decodeRlp } from '#core/rlp.ts'
import { headerBytes, headerSchema, transactionBytes } from '../../queues/anchors/ethereum-block.ts'
import type { EthereumClient, Sent } from '../../queues/anchors/ethereum-client.ts'
import { parseEthereumUrl } from '../../queues/anchors/ethereum-client.ts'
import { MAX_ANSWER_BYTES } from '../../queues/anchors/ethereum-rpc.ts'
import blocks from '../vectors/ethereum.json' with { type: 'json' }
import rpc from '../vectors/ethereum-rpc.json' with { type: 'json' }

const URL = 'https://me:hunter2@node.example:8545/v3/hunter3?key=hunter4'
const address = `0x${'ab'.repeat(20)}`
const hash = `0x${'cd'.repeat(32)}`

type Answers = Readonly<Record<string, unknown>>

/** A client whose node gives these results, or these errors. */
function nodeOf(results: Answers, errors: Answers = {}): EthereumClient {
  return replying((method) => {
    if (method in errors) return Response.json({ jsonrpc: '2.0', id: 1, error: errors[method] })
    return Response.json({ jsonrpc: '2.0', id: 1, result: results[method] })
  })
}

type Reply = (method: string, signal: AbortSignal) => Response | Promise<Response>

function replying(reply: Reply): EthereumClient {
  const answered = async (_url: string, init?: RequestInit) => {
    const { method } = JSON.parse(init?.body as string) as { method: string }
    return reply(method, init!.signal!)
  }
  return parseEthereumUrl(URL, answered, { timeoutMs: 50 })
}

/** Rejects when the request is given up, as `fetch` does. */
function givenUp(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error))
  })
}

async function refusal(run: () => Promise<unknown>): Promise<string> {
  const error: unknown = await run().then(
    () => null,
    (thrown: unknown) => thrown,
  )
  if (!(error instanceof VaultMeshError)) throw new Error(`not refused: ${String(error)}`)
  expect(error.code).toBe('anchor-failed')
  expect(error.cause).toBeUndefined()
  expect(error.extra).toEqual({ host: 'node.example:8545' })
  expect(String(error.stack)).not.toContain('hunter')
  return error.message
}

/** A body that never ends and breaks when the request is given up. */
function stalled(signal: AbortSignal): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start: (controller) => signal.addEventListener('abort', () => controller.error(signal.reason)),
  })
}

describe('a node that is no node', () => {
  const endless = () =>
    new ReadableStream({
      pull: (controller) => controller.enqueue(new Uint8Array(65_536).fill(0x20)),
    })
  const answers: readonly (readonly [string, Reply, string])[] = [
    [
      'refuses the connection',
      () => Promise.reject(new TypeError('hunter')),
      'could not be reached',
    ],
    ['answers 429 in JSON', () => Response.json({ result: '0x1' }, { status: 429 }), 'HTTP 429'],
    [
      'answers 429 as JSON-RPC',
      () => Response.json({ error: { code: -32005, message: 'already known' } }, { status: 429 }),
      'HTTP 429',
    ],
    [
      'redirects',
      () => new Response(null, { status: 307, headers: { location: '/' } }),
      'HTTP 307',
    ],
    ['answers HTML', () => new Response('<!doctype html>hunter'), 'did not answer with JSON'],
    ['claims that HTML is JSON', () => typed('<html>hunter'), 'did not answer with JSON'],
    [
      'is cut short',
      () => typed('{"jsonrpc":"2.0","id":1,"result":"0x'),
      'did not answer with JSON',
    ],
    ['answers nothing', () => new Response(''), 'no valid answer'],
    ['answers null', () => typed('null'), 'did not answer with JSON-RPC'],
    ['answers a list', () => typed('[{"result":"0x1"}]'), 'no valid answer'],
    ['answers with text', () => Response.json({ result: 'hunter' }), 'no valid answer'],
    ['answers with a number', () => Response.json({ result: 31337 }), 'no valid answer'],
    ['counts beyond 2^53', () => Response.json({ result: '0x20000000000000' }), 'no valid answer'],
    ['has only an error', () => Response.json({ error: 'hunter' }), 'with error 0'],
    ['says why not', () => Response.json({ error: { code: -32000, message: 'hunter' } }), '-32000'],
    ['never ends', () => new Response(endless()), `more than ${MAX_ANSWER_BYTES} bytes`],
    ['never begins', (_method, signal) => givenUp(signal), 'did not answer within 50 ms'],
    [
      'stops in the middle',
      (_method, signal) => new Response(stalled(signal)),
      'did not answer within 50 ms',
    ],
  ]
  test.each(answers)('fails the attempt: it %s', async (_words, reply, words) => {
    expect(await refusal(() => replying(reply).chainId())).toContain(words)
  })

  test('is asked once, and its redirects are not followed', async () => {
    const seen: RequestInit[] = []
    const client = parseEthereumUrl(URL, async (_url, init) => {
      seen.push(init!)
      return new Response(null, { status: 503 })
    })
    await refusal(() => client.chainId())
    expect(seen).toHaveLength(1)
    expect(seen[0]?.redirect).toBe('manual')
  })
})

function typed(text: string): Response {
  return new Response(text, { headers: { 'content-type': 'application/json' } })
}

test('credentials in the address travel as a header, the rest of it as it is', async () => {
  const seen: [string, RequestInit | undefined][] = []
  const client = parseEthereumUrl(URL, async (url, init) => {
    seen.push([url, init])
    return Response.json({ result: '0x1' })
  })
  expect(await client.chainId()).toBe(1)
  expect(client.name).toBe('node.example:8545')
  expect(seen[0]?.[0]).toBe('https://node.example:8545/v3/hunter3?key=hunter4')
  const headers = new Headers(seen[0]?.[1]?.headers)
  expect(headers.get('authorization')).toBe(`Basic ${btoa('me:hunter2')}`)
})

test.each(['ftp://node.example', 'node.example', ''])('%j is no address of a node', (url) => {
  expect(() => parseEthereumUrl(url, fetch)).toThrow('http or https')
})

/** What a header says as an RPC spells it. */
function spelled(header: string): Record<string, string> {
  const names = [
    'parentHash sha3Uncles miner stateRoot transactionsRoot receiptsRoot logsBloom difficulty number',
    'gasLimit gasUsed timestamp extraData mixHash nonce baseFeePerGas withdrawalsRoot blobGasUsed',
    'excessBlobGas parentBeaconBlockRoot requestsHash',
  ].flatMap((line) => line.split(' '))
  const numbers = /^(?:difficulty|number|gas|timestamp|base|blobGas|excess)/
  const fields = decodeRlp(fromHex(header.slice(2))) as Uint8Array[]
  const entries = fields.map((field, i) => {
    const name = names[i]!
    const digits = toHex(field)
    return [name, numbers.test(name) ? `0x${BigInt(`0x0${digits}`).toString(16)}` : `0x${digits}`]
  })
  return Object.fromEntries(entries) as Record<string, string>
}

const real = blocks.blocks.map((block) => ({
  ...block,
  ...spelled(block.header),
  hash: block.hash,
}))

describe('a block', () => {
  test.each(real)('of $fork is encoded to the bytes that were hashed', (block) => {
    const bytes = headerBytes(headerSchema.parse(block))
    expect(`0x${toHex(bytes!)}`).toBe(block.header)
  })

  test.each(rpc.transactions)('transaction of type $type is encoded to what was hashed', (tx) => {
    expect(transactionBytes(tx)).not.toBeNull()
    expect(transactionBytes({ ...tx, nonce: '0x1' })).toBeNull()
    expect(transactionBytes({ ...tx, type: '0x7e' })?.[0]).not.toBe(0x7e)
    const withBlobs = { ...tx, blobs: ['0x00'], sidecars: [{}] }
    expect(transactionBytes(withBlobs)).not.toBeNull()
    expect(transactionBytes({ hash: tx.hash })).toBeNull()
  })

  /** A real header, with transactions of which we have the bytes. */
  const [homestead] = real as [(typeof real)[0]]
  const raws = homestead.transactions!.map(({ raw }) => fromHex(raw.slice(2)))
  const hashes = homestead.transactions!.map((_raw, i) => ({ hash: hashOf(raws[i]!) }))
  const answer = { ...homestead, transactions: hashes }
  const rawOf = (i: number) => homestead.transactions![i]!.raw

  test('is taken from raw bytes where JSON does not lead to them', async () => {
    let asked = 0
    const client = replying((method) => {
      if (method === 'eth_getBlockByHash') return Response.json({ result: answer })
      return Response.json({ result: rawOf(asked++) })
    })
    const block = await client.block(homestead.hash)
    expect(block).toMatchObject({ number: 2_000_004, hash: homestead.hash, transactions: raws })
    expect(`0x${toHex(block.header)}`).toBe(homestead.header)
    expect(toHex(transactionsRoot(block.transactions))).toBe(homestead.transactionsRoot.slice(2))
  })

  test('with a header of an unknown fork is taken from the node that stores it', async () => {
    const strange = { ...answer, timestamp: '0x1', transactions: [] }
    const errors = { debug_getRawHeader: { code: -32601, message: 'no such method' } }
    const none = nodeOf({ eth_getBlockByHash: strange }, errors)
    expect(await refusal(() => none.block(homestead.hash))).toContain('does not hash to the block')
    const wrong = nodeOf({ eth_getBlockByHash: strange, debug_getRawHeader: '0xc0' })
    expect(await refusal(() => wrong.block(homestead.hash))).toContain('does not hash to the block')
    // The right header gets as far as the transactions, of which there are too few.
    const right = nodeOf({ eth_getBlockByHash: strange, debug_getRawHeader: homestead.header })
    expect(await refusal(() => right.block(homestead.hash))).toContain('not those of the block')
  })

  const lies: readonly (readonly [string, unknown, string])[] = [
    ['is missing', null, 'does not have the block'],
    ['is another one', real[1], 'another block'],
    ['is beyond any calendar', { ...answer, timestamp: '0x1fffffffffffff' }, 'no valid answer'],
    ['has no hash', { ...answer, hash: undefined }, 'no valid answer'],
    ['has too wide a field', { ...answer, difficulty: `0x${'f'.repeat(65)}` }, 'no valid answer'],
    ['names transactions only', { ...answer, transactions: hashes.map((h) => h.hash) }, 'no valid'],
    ['hides a transaction', { ...answer, transactions: hashes.slice(1) }, 'does not hash'],
    [
      'has transactions of its own',
      { ...answer, transactions: [rpc.transactions[0]] },
      'not those',
    ],
    [
      'has too many strange ones',
      { ...answer, transactions: Array.from({ length: 100 }, () => hashes[0]) },
      'too many transactions of an unknown type',
    ],
  ]
  test.each(lies)('that %s is refused', async (_words, result, words) => {
    const method = 'eth_getRawTransactionByBlockHashAndIndex'
    const client = nodeOf({ eth_getBlockByHash: result, [method]: rawOf(0) })
    expect(await refusal(() => client.block(homestead.hash))).toContain(words)
  })

  test('at a height is the one that was asked for, or none above the top', async () => {
    const client = nodeOf({ eth_getBlockByNumber: homestead })
    expect(await client.hashAt(2_000_004)).toBe(homestead.hash)
    expect(await refusal(() => client.hashAt(2_000_005))).toContain('another block')
    expect(await nodeOf({ eth_getBlockByNumber: null }).hashAt(1)).toBeNull()
    const none = nodeOf({ eth_getBlockByNumber: null })
    expect(await refusal(() => none.finalized())).toContain('has no finalized block')
  })
})

function hashOf(raw: Uint8Array): string {
  return `0x${toHex(keccak_256(raw))}`
}

describe('a transaction', () => {
  const tx = { hash, blockHash: null, blockNumber: null, transactionIndex: null }
  const place = { blockHash: `0x${'EF'.repeat(32)}`, blockNumber: '0x10', transactionIndex: '0x0' }
  const statuses: readonly (readonly [unknown, unknown])[] = [
    [null, { state: 'unknown' }],
    [tx, { state: 'pending' }],
    [{ hash }, { state: 'pending' }],
    [
      { hash, ...place },
      { state: 'included', blockNumber: 16, blockHash: `0x${'ef'.repeat(32)}`, txIndex: 0 },
    ],
  ]
  test.each(statuses)('that a node shows as %j is understood', async (result, status) => {
    expect(await nodeOf({ eth_getTransactionByHash: result }).statusOf(hash)).toEqual(status)
  })

  test.each([
    [undefined, 'no valid answer'],
    [{ ...tx, hash: `0x${'00'.repeat(32)}` }, 'another transaction'],
    [{ hash, blockHash: place.blockHash }, 'where in its block'],
    [{ hash, blockHash: 'soon' }, 'no valid answer'],
  ])('that a node shows as %j is refused', async (result, words) => {
    const client = nodeOf({ eth_getTransactionByHash: result })
    expect(await refusal(() => client.statusOf(hash))).toContain(words)
  })

  const raw = `0x${toHex(transactionBytes(rpc.transactions[0]!)!)}`
  test('that was taken is named by its hash and by no other', async () => {
    const taken = nodeOf({ eth_sendRawTransaction: rpc.transactions[0]!.hash })
    expect(await taken.send(raw)).toBe('sent')
    const other = nodeOf({ eth_sendRawTransaction: hash })
    expect(await refusal(() => other.send(raw))).toContain('names another transaction')
  })

  const words: readonly (readonly [string, Sent])[] = [
    // geth
    ['already known', 'known'],
    ['nonce too low: next nonce 5, tx nonce 4', 'nonce_too_low'],
    ['replacement transaction underpriced', 'underpriced'],
    ['transaction underpriced: gas tip cap 0, minimum needed 1000000', 'underpriced'],
    ['insufficient funds for gas * price + value: balance 0, tx cost 1, overshot 1', 'no_funds'],
    [
      'max fee per gas less than block base fee: address 0xab, maxFeePerGas: 1, baseFee: 9',
      'underpriced',
    ],
    // Erigon
    ['ALREADY_EXISTS: already known', 'known'],
    ['INTERNAL_ERROR: existing tx with same hash', 'known'],
    ['mined', 'known'],
    ['INTERNAL_ERROR: nonce too low', 'nonce_too_low'],
    ['underpriced', 'underpriced'],
    ['fee too low', 'underpriced'],
    ['could not replace existing tx', 'underpriced'],
    ['insufficient funds', 'no_funds'],
    // Nethermind, before and after it took on geth's words
    ['AlreadyKnown', 'known'],
    ['OldNonce, Current nonce: 5, nonce of rejected tx: 4', 'nonce_too_low'],
    ['FeeTooLow, FeePerGas needs to be higher than 1', 'underpriced'],
    ['FeeTooLowToCompete', 'underpriced'],
    ['ReplacementNotAllowed', 'underpriced'],
    ['OwnNonceAlreadyUsed', 'underpriced'],
    ['InsufficientFunds, Account balance: 0, cumulative cost: 1', 'no_funds'],
    // Besu
    ['Known transaction', 'known'],
    ['Nonce too low', 'nonce_too_low'],
    ['Replacement transaction underpriced', 'underpriced'],
    ['Gas price below current base fee', 'underpriced'],
    ['Gas price below configured minimum gas price', 'underpriced'],
    ['Upfront cost exceeds account balance', 'no_funds'],
    // anvil, OpenEthereum
    ['transaction already imported', 'known'],
    ['Insufficient funds for gas * price + value', 'no_funds'],
    ['max fee per gas less than block base fee', 'underpriced'],
    ['Transaction with the same hash was already imported.', 'known'],
    ['Transaction nonce is too low. Try incrementing the nonce.', 'nonce_too_low'],
  ]
  test.each(words)('refused with "%s" is %s', async (message, sent) => {
    const client = nodeOf({}, { eth_sendRawTransaction: { code: -32000, message } })
    expect(await client.send(raw)).toBe(sent)
  })

  test.each(['rate limit exceeded', 'unknown transaction type', 'invalid sender', 'hunter2', ''])(
    'refused with "%s" fails the attempt, and the words stay with the node',
    async (message) => {
      const client = nodeOf({}, { eth_sendRawTransaction: { code: -32000, message } })
      expect(await refusal(() => client.send(raw))).toBe(
        'The EVM node node.example:8545 refused the transaction with error -32000.',
      )
    },
  )
})

describe('fees', () => {
  const latest = { ...real[2]!, baseFeePerGas: '0x64' }

  test('are twice the base fee and a tip', async () => {
    const client = nodeOf({ eth_getBlockByNumber: latest, eth_maxPriorityFeePerGas: '0x5' })
    expect(await client.fees()).toEqual({ maxFeePerGas: 205n, maxPriorityFeePerGas: 5n })
  })

  test('have a tip of 1 gwei where the node names none', async () => {
    const errors = { eth_maxPriorityFeePerGas: { code: -32601, message: 'no such method' } }
    const tip = 1_000_000_000n
    expect(await nodeOf({ eth_getBlockByNumber: latest }, errors).fees()).toEqual({
      maxFeePerGas: 200n + tip,
      maxPriorityFeePerGas: tip,
    })
  })

  test('are not to be had on a chain without EIP-1559', async () => {
    const client = nodeOf({ eth_getBlockByNumber: real[0] })
    expect(await refusal(() => client.fees())).toContain('has no base fee')
  })

  test('and gas are read as integers, and an estimate may be refused', async () => {
    const call = { from: address, to: address, data: '0x' }
    expect(await nodeOf({ eth_estimateGas: '0x5708' }).estimateGas(call)).toBe(22_280n)
    const refused = { eth_estimateGas: { code: 3, message: 'execution reverted' } }
    expect(await nodeOf({}, refused).estimateGas(call)).toBeNull()
    expect(await nodeOf({ eth_getBalance: '0xde0b6b3a7640000' }).balanceOf(address)).toBe(
      10n ** 18n,
    )
    expect(await nodeOf({ eth_getTransactionCount: '0x7' }).nonceOf(address)).toBe(7)
  })
})
