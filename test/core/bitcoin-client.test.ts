import { readFile } from 'node:fs/promises'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { sha256d, toDisplay } from '#core/bitcoin-transaction.ts'
import { fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { BitcoinClient } from '../../queues/anchors/bitcoin-client.ts'
import { parseBitcoinUrl, SCAN_TIMEOUT_MS } from '../../queues/anchors/bitcoin-client.ts'
import { rejection } from '../support/anchoring.ts'
import vectors from '../vectors/bitcoin.json' with { type: 'json' }

const CORE = 'core+http://alice:hunter2%40@node.example:8332'
const ESPLORA = 'esplora+https://alice:hunter2%40@explorer.example/api'
const TXID = 'ab'.repeat(32)
const HASH = 'cd'.repeat(32)
const RAW = '02'.repeat(60)

/** Every method, with arguments that are good. */
const calls: Readonly<Record<string, (client: BitcoinClient) => Promise<unknown>>> = {
  tip: (client) => client.tip(),
  hashAt: (client) => client.hashAt(5),
  header: (client) => client.header(HASH),
  coins: (client) => client.coins('bcrt1qexample', 7),
  feerate: (client) => client.feerate(144),
  broadcast: (client) => client.broadcast(RAW),
  statusOf: (client) => client.statusOf(TXID),
  inclusion: (client) => client.inclusion(TXID, HASH),
  outspend: (client) => client.outspend({ txid: TXID, vout: 1 }, 7),
}
const names = Object.keys(calls)

type Answer = (url: string, init: RequestInit) => Response | Promise<Response>
const client = (url: string, answer: Answer) =>
  parseBitcoinUrl(url, async (at, init) => answer(at, init ?? {}))

/** A node that answers by method. */
function core(answers: Readonly<Record<string, unknown>>): BitcoinClient {
  return client(CORE, (_url, init) => {
    const { method, id } = JSON.parse(init.body as string) as { method: string; id: string }
    const answer = answers[method]
    return answer instanceof RpcFault
      ? Response.json({ result: null, error: answer.error, id }, { status: 500 })
      : Response.json({ result: answer ?? null, error: null, id })
  })
}
class RpcFault {
  readonly error: { code: number; message: string }
  constructor(code: number, message = 'secret words of the node') {
    this.error = { code, message }
  }
}

/** A server that answers by path; what it has not is 404. */
function esplora(answers: Readonly<Record<string, unknown>>): BitcoinClient {
  return client(ESPLORA, (url) => {
    const answer = answers[url.slice('https://explorer.example/api'.length)]
    if (answer === undefined) return new Response('not found', { status: 404 })
    return typeof answer === 'string' ? new Response(answer) : Response.json(answer)
  })
}

describe('the address of a provider', () => {
  test('names what it speaks, and host and port are its name', () => {
    const silent = () => Promise.reject(new Error('not asked'))
    expect(parseBitcoinUrl(CORE, silent).name).toBe('node.example:8332')
    expect(parseBitcoinUrl(ESPLORA, silent).name).toBe('explorer.example')
  })

  const bad = [
    '',
    'http://node.example',
    'core:http://node.example',
    'core+ftp://node.example',
    'electrum+https://hunter2.example',
    'core+http://alice:hunter2@',
    'core+http://alice:hunter2%@node.example',
    'core+https://alice:hunter2@node.example?wallet=x',
    'esplora+https://alice:hunter2@node.example/#x',
  ]
  test.each(bad)('that is none is refused without quoting it (%#)', (url) => {
    try {
      parseBitcoinUrl(url, () => Promise.reject(new Error('not asked')))
      expect.unreachable()
    } catch (error) {
      expect(error).toMatchObject({ code: 'bad-config' })
      expect((error as Error).message).not.toContain('hunter2')
      expect((error as Error).cause).toBeUndefined()
    }
  })

  test.each([CORE, ESPLORA])('gives its credentials to a header only', async (url) => {
    const seen: { at: string; init: RequestInit }[] = []
    const asked = client(url, (at, init) => {
      seen.push({ at, init })
      throw new TypeError(`no route to ${at} for alice:hunter2@`)
    })
    for (const name of names) {
      const error = await rejection(() => calls[name]!(asked))
      expect(error.message).toBe(`${asked.name} could not be reached.`)
      expect(error.cause).toBeUndefined()
    }
    expect(seen).toHaveLength(names.length)
    for (const { at, init } of seen) {
      expect(at).not.toContain('alice')
      expect(init.redirect).toBe('manual')
      expect(init.signal).toBeInstanceOf(AbortSignal)
      expect(new Headers(init.headers).get('authorization')).toBe(
        `Basic ${Buffer.from('alice:hunter2@').toString('base64')}`,
      )
    }
  })
})

describe('what is no answer', () => {
  const faults: readonly (readonly [string, () => Response])[] = [
    ['a 429 in JSON', () => Response.json({ error: 'body-secret' }, { status: 429 })],
    ['a 429 that looks like a hash', () => new Response(HASH, { status: 429 })],
    ['a redirect', () => new Response(null, { status: 302, headers: { location: 'http://x/' } })],
    ['a 401', () => new Response('body-secret', { status: 401 })],
    ['a 503', () => new Response('Work queue depth exceeded', { status: 503 })],
    ['a login page', () => new Response('<html>body-secret</html>')],
    ['an error object', () => Response.json({ error: 'body-secret' })],
    ['nothing', () => new Response('')],
    ['half a JSON text', () => new Response('{"result":{"blo')],
    ['bytes that are no text', () => new Response(Uint8Array.of(0xff, 0xfe, 0x00))],
    ['null', () => new Response('null')],
    ['a list', () => Response.json([1, 2, 3])],
    [
      'the answer to another question',
      () => Response.json({ result: HASH, error: null, id: 'somebody' }),
    ],
    ['a flood', () => new Response('a'.repeat(9_000_000))],
  ]
  for (const url of [CORE, ESPLORA]) {
    test.each(faults)(`%s fails every method (${url.split('+')[0]})`, async (_name, make) => {
      const asked = client(url, make)
      for (const name of names) {
        const error = await rejection(() => calls[name]!(asked))
        expect(error.code).toBe('anchor-failed')
        expect(error.extra).toEqual({ host: asked.name })
        expect(error.message).not.toContain('body-secret')
      }
    })

    test(`JSON of any shape never gets through as data (${url.split('+')[0]})`, async () => {
      await fc.assert(
        fc.asyncProperty(fc.constantFrom(...names), fc.jsonValue(), async (name, value) => {
          const asked = client(url, () =>
            Response.json(url === CORE ? { result: value, error: null, id: 'vaultmesh' } : value),
          )
          const outcome: unknown = await calls[name]!(asked).catch((error: unknown) => error)
          if (outcome instanceof VaultMeshError) {
            expect(outcome.code).toBe('anchor-failed')
            return
          }
          // The few that may pass: an empty list, and "no" where the API says so with null or {}.
          const allowed = [[], { state: 'unknown' }, { state: 'unspent' }, { state: 'missing' }, 1]
          expect(allowed).toContainEqual(outcome)
        }),
        { numRuns: 500 },
      )
    })
  }
})

describe('a Core node', () => {
  test('speaks of heights above its tip with an error, and that is null', async () => {
    expect(await core({ getblockhash: new RpcFault(-8) }).hashAt(9)).toBeNull()
    const error = await rejection(() => core({ getblockhash: new RpcFault(-28) }).hashAt(9))
    expect(error.message).toBe('node.example:8332 answered with error -28.')
  })

  test('counts in BTC, exactly', async () => {
    for (const [amount, value] of [
      [0.1 + 0.2, 30_000_000],
      [20_999_999.97690001, 2_099_999_997_690_001],
      [1e-8, 1],
    ] as const) {
      const unspents = [{ txid: TXID, vout: 1, amount, height: 1 }]
      const node = core({
        scantxoutset: { success: true, unspents },
        gettxout: { bestblock: HASH, confirmations: 500, coinbase: true },
      })
      expect(await node.coins('x', 7)).toEqual([{ txid: TXID, vout: 1, value }])
    }
  })

  test('that scans too long, or for somebody else, is told of the way without a scan', async () => {
    const way = 'let a watch-only wallet of it know addr1 and append /wallet/NAME to its URL.'
    const hangs = parseBitcoinUrl(
      CORE,
      (_url, init) =>
        new Promise((_resolve, reject) => {
          init!.signal!.addEventListener('abort', () => reject(new Error('aborted')))
        }),
      { scanTimeoutMs: 20 },
    )
    expect((await rejection(() => hangs.coins('addr1', 7))).message).toBe(
      `node.example:8332 found no coins within 20 ms: ${way}`,
    )
    const busy = core({ scantxoutset: new RpcFault(-8, 'Scan already in progress') })
    expect((await rejection(() => busy.coins('addr1', 7))).message).toBe(
      `node.example:8332 is busy with another scan for coins: ${way}`,
    )
    const broken = core({ scantxoutset: new RpcFault(-32603) })
    expect((await rejection(() => broken.coins('addr1', 7))).message).toBe(
      'node.example:8332 answered with error -32603.',
    )
  })

  test('has less time for a scan than an attempt has a lease', async () => {
    const source = await readFile(
      new URL('../../functions/store/anchors.ts', import.meta.url),
      'utf8',
    )
    const [, lease = ''] = /LEASE_MS = ([\d_]+)/.exec(source) ?? []
    expect(SCAN_TIMEOUT_MS).toBeLessThan(Number(lease.replaceAll('_', '')) - 10_000)
  })

  const fees: readonly (readonly [object, number, number])[] = [
    [{ errors: ['Insufficient data or no feerate found'], blocks: 2 }, 0.00001, 1],
    [{ feerate: 0.000002, blocks: 144 }, 0.000001, 1],
    [{ feerate: 0.00012345, blocks: 144 }, 0.00001, 12.345],
    [{ feerate: 0.00002, blocks: 144 }, 0.00005, 5],
  ]
  test.each(fees)(
    'that estimates %j with a floor of %d asks %d sat/vB',
    async (estimate, floor, rate) => {
      const node = core({ estimatesmartfee: estimate, getmempoolinfo: { mempoolminfee: floor } })
      expect(await node.feerate(144)).toBeCloseTo(rate, 9)
    },
  )

  test('believes its index only about blocks of the active chain', async () => {
    const stale = { getrawtransaction: { txid: TXID, blockhash: HASH, confirmations: 0 } }
    const header = (confirmations: number) => ({ confirmations, height: 70 })
    expect(await core({ ...stale, getblockheader: header(-1) }).statusOf(TXID)).toEqual({
      state: 'unknown',
    })
    expect(await core({ ...stale, getblockheader: header(3) }).statusOf(TXID)).toEqual({
      state: 'block',
      height: 70,
      blockHash: HASH,
    })
    expect(await core({ getrawtransaction: { txid: TXID } }).statusOf(TXID)).toEqual({
      state: 'mempool',
    })
  })

  test('that has only a pruned block where the transaction was cannot say it is gone', async () => {
    const node = client(CORE, (_url, init) => {
      const { method, params, id } = JSON.parse(init.body as string) as {
        method: string
        params: unknown[]
        id: string
      }
      const error =
        method === 'getrawtransaction' ? { code: params.length === 3 ? -1 : -5, message: '' } : null
      const result = method === 'getblockheader' ? { confirmations: 9, height: 3 } : null
      return Response.json({ result, error, id })
    })
    expect((await rejection(() => node.statusOf(TXID, HASH))).message).toContain('error -1')
    expect(await node.statusOf(TXID)).toEqual({ state: 'unknown' })
  })

  test('says that a spend is deep only if its index has come as far as its chain', async () => {
    const node = (best_block_height: number, height = 200) =>
      core({
        getblockchaininfo: { blocks: height, bestblockhash: HASH },
        getindexinfo: { txindex: { best_block_height } },
        getrawtransaction: { txid: TXID, blockhash: HASH },
        getblockheader: { confirmations: 100, height: 100 },
        getblockhash: HASH,
        getblock: '00',
      })
    const spend = (of: BitcoinClient) => of.outspend({ txid: TXID, vout: 0 }, 7)
    expect(await spend(node(200))).toEqual({ state: 'spent', by: null, isDeep: true })
    expect(await spend(node(199))).toEqual({ state: 'spent', by: null, isDeep: false })
    expect(await spend(node(6, 6))).toEqual({ state: 'spent', by: null, isDeep: false })
  })

  const refusals: readonly (readonly [number, string, string])[] = [
    [-27, 'Transaction outputs already in utxo set', 'known'],
    [-27, 'Transaction already in block chain', 'known'],
    [-26, 'txn-already-known', 'known'],
    [-26, 'txn-already-in-mempool', 'known'],
    [-25, 'bad-txns-inputs-missingorspent', 'conflict'],
    [-25, 'Missing inputs', 'conflict'],
    [-26, 'txn-mempool-conflict', 'conflict'],
    [-26, 'insufficient fee, rejecting replacement ab…; new feerate 0.00001 <= old', 'conflict'],
    [-26, 'min relay fee not met, 10 < 153', 'too-cheap'],
    [-26, 'mempool min fee not met, 153 < 900', 'too-cheap'],
    [-26, 'bad-txns-in-belowout, value in (0.001) < value out (0.9999847)', 'invalid'],
    [-26, 'mandatory-script-verify-flag-failed (Invalid Schnorr signature)', 'invalid'],
    [-26, 'mempool-script-verify-flag-failed (Invalid Schnorr signature), input 0', 'invalid'],
  ]
  test.each(refusals)(
    'that refuses with %i %s means %s, and so does Esplora',
    async (code, message, outcome) => {
      const refused = core({ sendrawtransaction: new RpcFault(code, message) })
      expect(await refused.broadcast(RAW)).toBe(outcome)
      const text = `sendrawtransaction RPC error: ${JSON.stringify({ code, message })}`
      const server = client(ESPLORA, () => new Response(text, { status: 400 }))
      expect(await server.broadcast(RAW)).toBe(outcome)
    },
  )

  test('that refuses for another reason fails the attempt', async () => {
    for (const reason of ['scriptpubkey', 'non-mandatory-script-verify-flag (Witness version)']) {
      const node = core({ sendrawtransaction: new RpcFault(-26, reason) })
      expect((await rejection(() => node.broadcast(RAW))).message).toContain('error -26')
    }
    const server = client(ESPLORA, () => new Response('who knows', { status: 400 }))
    expect((await rejection(() => server.broadcast(RAW))).message).toContain('error 0')
  })

  test('that answers with somebody else’s header, branch or chain fails the attempt', async () => {
    const [header] = vectors.first.headers as [string]
    const hash = toDisplay(sha256d(fromHex(header)))
    expect(await core({ getblockheader: header }).header(hash)).toBe(header)
    for (const wrong of [vectors.first.headers[1]!, header.slice(2), `${header}00`]) {
      expect(
        (await rejection(() => core({ getblockheader: wrong }).header(hash))).message,
      ).toContain('header of another block')
    }
    const node = core({ gettxoutproof: header, getrawtransaction: RAW })
    expect((await rejection(() => node.inclusion(TXID, hash))).message).toContain('does not hold')
  })
})

describe('an Esplora server', () => {
  const status = { confirmed: true, block_height: 70, block_hash: HASH }

  test('is believed about a block only if it has it in its chain', async () => {
    const path = `/tx/${TXID}/status`
    expect(await esplora({ [path]: status, '/block-height/70': HASH }).statusOf(TXID)).toEqual({
      state: 'block',
      height: 70,
      blockHash: HASH,
    })
    const other = esplora({ [path]: status, '/block-height/70': 'ee'.repeat(32) })
    expect(await other.statusOf(TXID)).toEqual({ state: 'unknown' })
  })

  test('knows displaced transactions, which are in no pool', async () => {
    const raw = `02000000000101${'11'.repeat(32)}05000000${'00'.repeat(40)}`
    const known = {
      [`/tx/${TXID}/status`]: { confirmed: false },
      [`/tx/${TXID}/hex`]: raw,
    }
    const spend = `/tx/${'11'.repeat(32)}/outspend/5`
    for (const [answer, state] of [
      [{ spent: true, txid: TXID, vin: 0, status: { confirmed: false } }, 'mempool'],
      [{ spent: true, txid: HASH, vin: 0, status: { confirmed: true } }, 'unknown'],
      [{ spent: false }, 'unknown'],
    ] as const) {
      expect(await esplora({ ...known, [spend]: answer }).statusOf(TXID)).toEqual({ state })
    }
    expect(await esplora({ [`/tx/${TXID}/status`]: { confirmed: false } }).statusOf(TXID)).toEqual({
      state: 'unknown',
    })
  })

  test('estimates for the next target that is not later, at least 1 sat/vB', async () => {
    const fees = (estimates: object) => esplora({ '/fee-estimates': estimates })
    expect(await fees({}).feerate(144)).toBe(1)
    expect(await fees({ 1: 90, 6: 40, 25: 12, 504: 2 }).feerate(144)).toBe(12)
    expect(await fees({ 1: 90, 6: 40, 144: 0.2 }).feerate(144)).toBe(1)
    expect(await fees({ 6: 40 }).feerate(1)).toBe(40)
  })

  describe('that lists coins', () => {
    const address = 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080'
    const script = '160014751e76e8199196d454941c45d1b3a323f1433bd6'
    /** A transaction of one output, and its name. */
    const paying = (from: string, value: number, to = script) => {
      const sats = fromHex(value.toString(16).padStart(16, '0')).toReversed()
      const raw = `0200000001${from}0000000000ffffffff01${toHex(sats)}${to}00000000`
      return { raw, txid: toDisplay(sha256d(fromHex(raw))), value }
    }
    const utxo = ({ txid, value }: { txid: string; value: number }, at: object) => ({
      txid,
      vout: 0,
      value,
      status: at,
    })
    const confirmed = (block_height: number) => ({ confirmed: true, block_height })
    const tip = { '/blocks/tip/height': '200', '/block-height/200': HASH }
    const hexOf = ({ txid, raw }: { txid: string; raw: string }) => ({ [`/tx/${txid}/hex`]: raw })

    test('what is not confirmed, not deep, or a young coinbase is no coin of ours', async () => {
      const fresh = paying('11'.repeat(32), 1)
      const shallow = paying('12'.repeat(32), 2)
      const good = paying('13'.repeat(32), 3)
      const young = paying('00'.repeat(32), 4)
      const old = paying('00'.repeat(32), 5)
      const server = esplora({
        [`/address/${address}/utxo`]: [
          utxo(fresh, { confirmed: false }),
          utxo(shallow, confirmed(195)),
          utxo(good, confirmed(194)),
          utxo(young, confirmed(102)),
          utxo(old, confirmed(101)),
        ],
        ...tip,
        ...Object.assign({}, ...[fresh, shallow, good, young, old].map(hexOf)),
      })
      expect((await server.coins(address, 7)).map(({ value }) => value)).toEqual([5, 3])
    })

    const good = paying('13'.repeat(32), 3)
    const other = paying('13'.repeat(32), 3, `160014${'00'.repeat(20)}`)
    const lies: readonly (readonly [string, object, object])[] = [
      ['of another value', { ...utxo(good, confirmed(100)), value: 4 }, hexOf(good)],
      ['of another output', { ...utxo(good, confirmed(100)), vout: 1 }, hexOf(good)],
      ['of somebody else', utxo(other, confirmed(100)), hexOf(other)],
      [
        'of another transaction',
        utxo(good, confirmed(100)),
        { [`/tx/${good.txid}/hex`]: other.raw },
      ],
      ['of no transaction', utxo(good, confirmed(100)), { [`/tx/${good.txid}/hex`]: '00' }],
    ]
    test.each(lies)('a coin %s is a lie', async (_name, listed, more) => {
      const server = esplora({ [`/address/${address}/utxo`]: [listed], ...tip, ...more })
      expect((await rejection(() => server.coins(address, 7))).message).toContain('does not pay')
    })
  })
})
