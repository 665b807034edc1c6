import { createHash } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fromHex, toHex } from '#core/bytes.ts'
import { ELSEWHERE, startBitcoind, type Bitcoind } from '../../scripts/devnet/bitcoind.ts'
import { startEsplora, type Esplora } from '../../scripts/devnet/esplora.ts'
import { absent, bitcoindAbsence } from './devnet-support.ts'

let dir = ''
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'vm-devnet-'))
})
afterAll(() => rm(dir, { recursive: true, force: true }))

describe.skipIf(absent(bitcoindAbsence))('the Esplora stand-in', () => {
  let node: Bitcoind
  let esplora: Esplora
  let address = ''
  beforeAll(async () => {
    node = await startBitcoind({ dir: join(dir, 'esplora') })
    esplora = await startEsplora({ bitcoind: node })
    await node.fundAddress(ELSEWHERE, 1000)
    address = await node.rpc<string>('getnewaddress')
  })
  afterAll(async () => {
    await esplora?.stop()
    await node?.stop()
  })

  const get = async (path: string): Promise<[number, string]> => {
    const response = await fetch(esplora.url + path)
    return [response.status, await response.text()]
  }
  const json = async (path: string): Promise<unknown> => JSON.parse((await get(path))[1]) as unknown

  test('follows a payment from mempool to block, and the coin until it is spent', async () => {
    const txid = await node.rpc<string>('sendtoaddress', [address, '0.5'])
    expect(await json(`/tx/${txid}/status`)).toEqual({ confirmed: false })
    const [open] = (await json(`/address/${address}/utxo`)) as [{ vout: number }]
    expect(open).toEqual({
      txid,
      vout: open.vout,
      value: 50_000_000,
      status: { confirmed: false },
    })
    expect((await get(`/tx/${txid}/merkle-proof`))[0]).toBe(404)
    const [hash] = await node.mine(1)
    const { height, time } = await node.rpc<{ height: number; time: number }>('getblockheader', [
      hash,
    ])
    const status = { confirmed: true, block_height: height, block_hash: hash, block_time: time }
    expect(await json(`/tx/${txid}/status`)).toEqual(status)
    expect(await json(`/address/${address}/utxo`)).toEqual([{ ...open, status }])
    expect(await json(`/tx/${txid}/outspend/${open.vout}`)).toEqual({ spent: false })

    const input = [{ txid, vout: open.vout }]
    const raw = await node.rpc('createrawtransaction', [input, [{ [ELSEWHERE]: '0.4999' }]])
    const signed = await node.rpc<{ hex: string }>('signrawtransactionwithwallet', [raw])
    const sent = await fetch(`${esplora.url}/tx`, { method: 'POST', body: signed.hex })
    const spender = await sent.text()
    expect([sent.status, spender.length]).toEqual([200, 64])
    const spend = { spent: true, txid: spender, vin: 0, status: { confirmed: false } }
    expect(await json(`/tx/${txid}/outspend/${open.vout}`)).toEqual(spend)
    expect(await json(`/address/${address}/utxo`)).toEqual([])
    await node.mine(1)
    const spends = (await json(`/tx/${txid}/outspends`)) as unknown[]
    expect(spends[open.vout]).toMatchObject({ txid: spender, status: { confirmed: true } })
    expect(await json(`/tx/${spender}`)).toMatchObject({
      txid: spender,
      vin: [
        { txid, is_coinbase: false, prevout: { value: 50_000_000, scriptpubkey_address: address } },
      ],
      vout: [
        { value: 49_990_000, scriptpubkey_address: ELSEWHERE, scriptpubkey_type: 'v0_p2wpkh' },
      ],
      fee: 10_000,
      status: { confirmed: true },
    })
    expect((await get(`/tx/${spender}/hex`))[1]).toBe(signed.hex)
    // The node says -27 of what is mined already.
    const again = await fetch(`${esplora.url}/tx`, { method: 'POST', body: signed.hex })
    expect(again.status).toBe(400)
    expect(await again.text()).toMatch(/^sendrawtransaction RPC error: \{"code":-27,/)
  })

  test('proves inclusion in a block of several transactions as its header says', async () => {
    const txids: string[] = []
    for (let i = 0; i < 4; i++) {
      txids.push(await node.rpc<string>('sendtoaddress', [ELSEWHERE, '0.01']))
    }
    const [hash] = await node.mine(1)
    const [, header] = await get(`/block/${hash}/header`)
    for (const txid of txids) {
      const { merkle, pos } = (await json(`/tx/${txid}/merkle-proof`)) as {
        merkle: string[]
        pos: number
      }
      let hashed = display(txid)
      merkle.forEach((sibling, level) => {
        const pair = [hashed, display(sibling)]
        hashed = sha256d(Buffer.concat((pos >> level) & 1 ? pair.toReversed() : pair))
      })
      expect(toHex(hashed)).toBe(header.slice(72, 136))
      const proof = (await get(`/tx/${txid}/merkleblock-proof`))[1]
      expect(await node.rpc('verifytxoutproof', [proof])).toEqual([txid])
    }
    expect(await json(`/block/${hash}/txids`)).toEqual(expect.arrayContaining(txids))
  })

  test('tells tip, heights and a coinbase, and what it does not know', async () => {
    const height = Number((await get('/blocks/tip/height'))[1])
    const hash = (await get(`/block-height/${height}`))[1]
    expect((await get('/blocks/tip/hash'))[1]).toBe(hash)
    expect(await json(`/block/${hash}`)).toMatchObject({ id: hash, height })
    expect(await json(`/block/${hash}/status`)).toEqual({
      in_best_chain: true,
      height,
      next_best: null,
    })
    const [coinbase] = (await json(`/block/${hash}/txids`)) as [string]
    expect(await json(`/tx/${coinbase}`)).toMatchObject({
      vin: [{ is_coinbase: true, prevout: null }],
      fee: 0,
    })
    const unknown = '11'.repeat(32)
    expect(await get(`/tx/${unknown}`)).toEqual([404, 'Transaction not found'])
    expect(await json(`/tx/${unknown}/status`)).toEqual({ confirmed: false })
    expect(await get(`/block-height/${height + 1}`)).toEqual([404, 'Block not found'])
    expect((await get('/nothing'))[0]).toBe(404)
    expect(await json('/fee-estimates')).toBeTypeOf('object')
  })

  test('takes back what a reorg takes back', async () => {
    const txid = await node.fundAddress(address, 7777)
    // Its index follows the chain a moment later.
    const coin = async () =>
      ((await json(`/address/${address}/utxo`)) as { txid: string; status: object }[]).filter(
        (output) => output.txid === txid,
      )
    await expect
      .poll(coin, { timeout: 10_000 })
      .toMatchObject([{ value: 7777, status: { confirmed: true } }])
    const tip = await node.rpc<string>('getbestblockhash')
    await node.rpc('invalidateblock', [tip])
    await expect
      .poll(coin, { timeout: 10_000 })
      .toMatchObject([{ value: 7777, status: { confirmed: false } }])
    expect(await json(`/block/${tip}/status`)).toEqual({ in_best_chain: false })
    await node.rpc('generateblock', [ELSEWHERE, []])
    await expect
      .poll(() => json(`/tx/${txid}`), { timeout: 10_000 })
      .toMatchObject({ status: { confirmed: false } })
    await node.mine(1)
    await expect
      .poll(coin, { timeout: 10_000 })
      .toMatchObject([{ value: 7777, status: { confirmed: true } }])
  })

  test('fails as told', async () => {
    await esplora.setFault('limited')
    expect((await get('/blocks/tip/height'))[0]).toBe(429)
    await esplora.setFault('ok')
    expect((await get('/blocks/tip/height'))[0]).toBe(200)
  })
})

/** Bytes of a hash in display order, as they are hashed. */
function display(hex: string): Uint8Array {
  return fromHex(hex).toReversed()
}

function sha256d(bytes: Uint8Array): Buffer {
  const inner = createHash('sha256').update(bytes).digest()
  return createHash('sha256').update(inner).digest()
}
