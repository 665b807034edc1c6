/** The Bitcoin rail against a real node: good days, faults of the network, and money. */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { parseHeader } from '#core/bitcoin-proof.ts'
import { parseTransaction, toDisplay } from '#core/bitcoin-transaction.ts'
import { concat, fromHex, toHex } from '#core/bytes.ts'
import { signBitcoin } from '../../queues/anchors/bitcoin-wallet.ts'
import { bitcoindBinary, missingBitcoind } from '../../scripts/devnet/bitcoind-binary.ts'
import type { Bitcoind } from '../../scripts/devnet/bitcoind.ts'
import { ELSEWHERE, startBitcoind } from '../../scripts/devnet/bitcoind.ts'
import type { Esplora } from '../../scripts/devnet/esplora.ts'
import { startEsplora } from '../../scripts/devnet/esplora.ts'
import type { Fault, FaultProxy } from '../../scripts/devnet/fault-proxy.ts'
import { startFaultProxy } from '../../scripts/devnet/fault-proxy.ts'
import { Driver, Killed, rejection } from '../support/anchoring.ts'
import { account, cheap, core, esplora, mineEmpty, spendsOf } from '../support/bitcoin.ts'

const isMissing = bitcoindBinary() === null
if (isMissing) console.warn(missingBitcoind)

describe.skipIf(isMissing)('on a regtest chain', () => {
  let dir: string
  let node: Bitcoind
  let server: Esplora
  let proxy: FaultProxy

  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'vm-btc-'))
    node = await startBitcoind({ dir })
    server = await startEsplora({ bitcoind: node })
    proxy = await startFaultProxy({ target: node.url })
  })
  afterAll(async () => {
    await proxy.stop()
    await server.stop()
    await node.stop()
    await rm(dir, { recursive: true, force: true })
  })

  /** From wherever it is to its receipt, blocks coming in the meantime. */
  async function finished(driver: Driver): Promise<NonNullable<Driver['receipt']>> {
    for (let i = 0; driver.receipt === null && i < 6; i++) {
      await driver.run()
      await node.mine(7, ELSEWHERE)
    }
    if (driver.receipt === null) throw new Error(`never final: ${driver.log.join(' ')}`)
    return driver.receipt
  }

  async function paidOnce(address: string, root: string): Promise<void> {
    const spends = await spendsOf(node, address)
    expect(spends.filter((spend) => spend.root === root)).toHaveLength(1)
    expect(spends).toHaveLength(1)
  }

  const ways = [
    ['core', 'p2wpkh'],
    ['core', 'p2tr'],
    ['esplora', 'p2wpkh'],
    ['esplora', 'p2tr'],
  ] as const
  test.each(ways)('a root is anchored by %s with a %s key', async (way, type) => {
    const client = way === 'core' ? core(node.url) : esplora(server.url)
    const { driver: make, rail, wallet, root, job, address } = await account(node, { type })
    const driver = make(client)
    expect(await driver.run()).toMatchObject({ state: 'waiting' })
    const [block] = await node.mine(1, ELSEWHERE)
    const included = await driver.run()
    if (included.state !== 'included') throw new Error(included.state)
    const { inclusion } = included
    expect(inclusion).toMatchObject({ observedDepth: 1, requiredDepth: 7 })
    await node.mine(5, ELSEWHERE)
    expect((await driver.run()).state).toBe('included')
    await node.mine(1, ELSEWHERE)
    expect((await driver.run()).state).toBe('final')
    expect(driver.log).toEqual([
      'submit→signed',
      'submit→waiting',
      'check→included',
      'check→included',
      'check→final',
    ])

    const receipt = driver.receipt!
    expect(receipt).toMatchObject({
      root: `0x${root}`,
      chain: 'BTC',
      network: 'regtest',
      treeSize: job.treeSize,
      blockNumber: inclusion.blockNumber,
      anchorTs: inclusion.anchorTs,
      txHash: inclusion.txHash,
      group: [inclusion.txHash],
      finality: { requiredDepth: 7, state: 'final' },
    })
    expect(toDisplay(parseHeader(fromHex(String(receipt.proof['header']))).hash)).toBe(block)
    expect(parseTransaction(fromHex(String(receipt.proof['rawTx']))).hasWitness).toBe(false)
    expect((await verifyAnchorReceipt(receipt, { tsaRoots: [] })).outcome).toBe('verified')
    expect(await driver.verify()).toMatchObject({
      outcome: 'verified',
      checks: expect.arrayContaining(['active-chain']) as unknown,
    })
    // Offline it still holds; asked, a chain without that block refutes it.
    const elsewhere = {
      ...client,
      hashAt: (at: number) => client.hashAt(at === 0 ? 0 : at - 1),
    }
    expect(await driver.use(rail(client, elsewhere)).verify()).toMatchObject({
      outcome: 'refuted',
      check: 'active-chain',
    })
    expect((await wallet.find(root))!.state).toBe('final')
    await paidOnce(address, root)
  })

  test('the node agrees with a proof among many transactions: header, branch, txid', async () => {
    const { driver: make, wallet, root } = await account(node)
    const driver = make(core(node.url))
    await driver.run()
    const { txHash } = (await wallet.find(root))!.variants[0]!
    for (let i = 0; i < 5; i++) {
      await node.rpc('sendtoaddress', [ELSEWHERE, `0.0010${i}`], 'devnet')
    }
    const { proof, blockNumber } = await finished(driver)
    const hash = await node.rpc<string>('getblockhash', [blockNumber])
    expect(proof['header']).toBe(await node.rpc('getblockheader', [hash, false]))
    const { nTx } = await node.rpc<{ nTx: number }>('getblockheader', [hash])
    expect(nTx).toBeGreaterThan(6)
    // Our branch, dressed as the partial tree that `verifytxoutproof` reads.
    const partial = partialTree({
      header: fromHex(String(proof['header'])),
      count: nTx,
      position: Number(proof['position']),
      branch: (proof['branch'] as string[]).map(fromHex),
      txid: fromHex(txHash).toReversed(),
    })
    expect(await node.rpc('verifytxoutproof', [toHex(partial)])).toEqual([txHash])
  })

  describe('when the network fails', () => {
    const faults: readonly (readonly [Fault, string])[] = [
      ['down', 'could not be reached'],
      ['hang', 'did not answer within 500 ms'],
      ['slow:1000', 'did not answer within 500 ms'],
      ['reset', 'could not be reached'],
      ['html', 'in JSON-RPC'],
      ['limited', 'answered HTTP 429'],
      ['error500', 'in JSON-RPC'],
      ['cut', 'could not be reached'],
    ]
    test.each(faults)('a node that is %s costs nothing but time', async (fault, words) => {
      const { driver: make, rail, address, root } = await account(node)
      const driver = make(core(node.url))
      const failing = async () => {
        await proxy.setFault(fault)
        const before = driver.stored
        driver.use(rail(core(proxy.url, { timeoutMs: 500 })))
        const error = await rejection(() => driver.run())
        expect(error.message).toContain(words)
        expect(error.extra['host']).toBe(`127.0.0.1:${proxy.port}`)
        expect(error.message).not.toContain('devnet')
        expect(driver.stored).toEqual(before)
        await proxy.setFault('ok')
        driver.use(rail(core(proxy.url)))
      }
      await failing()
      expect((await driver.step()).state).toBe('signed')
      await failing()
      expect((await driver.run()).state).toBe('waiting')
      await failing()
      await node.mine(7, ELSEWHERE)
      await failing()
      expect((await driver.run()).state).toBe('final')
      await paidOnce(address, root)
    })

    const esploraFaults: readonly (readonly [Fault, string])[] = [
      ['hang', 'did not answer within 500 ms'],
      ['html', 'another shape'],
      ['limited', 'answered HTTP 429'],
      ['error500', 'answered HTTP 500'],
      ['cut', 'could not be reached'],
    ]
    test.each(esploraFaults)('an Esplora server that is %s is no data', async (fault, words) => {
      const { driver: make, rail, address, root } = await account(node)
      const driver = make(core(node.url))
      for (const mined of [0, 0, 7]) {
        await node.mine(mined, ELSEWHERE)
        await server.setFault(fault)
        driver.use(rail(esplora(server.url, { timeoutMs: 500 })))
        expect((await rejection(() => driver.run())).message).toContain(words)
        await server.setFault('ok')
        driver.use(rail(esplora(server.url)))
        await driver.step()
      }
      expect((await finished(driver)).status).toBe('verified')
      await paidOnce(address, root)
    })

    test('the next provider answers for one that is down, except about coins and finality', async () => {
      const { driver: make, address, root, wallet } = await account(node)
      const driver = make(core(proxy.url), esplora(server.url))
      await proxy.setFault('down')
      expect((await rejection(() => driver.run())).code).toBe('anchor-failed')
      expect(wallet.spends.size).toBe(0)
      await proxy.setFault('ok')
      expect((await driver.step()).state).toBe('signed')
      await proxy.setFault('down')
      expect((await driver.run()).state).toBe('waiting')
      await node.mine(1, ELSEWHERE)
      expect((await driver.run()).state).toBe('included')
      await node.mine(6, ELSEWHERE)
      expect((await rejection(() => driver.run())).code).toBe('anchor-failed')
      await proxy.setFault('ok')
      expect((await driver.run()).state).toBe('final')
      await paidOnce(address, root)
    })

    test('a node that is slow but in time is no failure', async () => {
      const { driver: make } = await account(node)
      await proxy.setFault('slow:30')
      expect((await make(core(proxy.url)).run()).state).toBe('waiting')
      await proxy.setFault('ok')
    })

    test.each(['core', 'esplora'])(
      'a broadcast whose reply is lost is sent again and paid once (%s)',
      async (way) => {
        const { driver: make, address, root } = await account(node)
        const isCore = way === 'core'
        const driver = make(isCore ? core(proxy.url) : esplora(server.url))
        const setFault = (fault: Fault) => (isCore ? proxy.setFault(fault) : server.setFault(fault))
        await driver.step()
        const lossy = isCore ? 'lose-reply:sendrawtransaction' : 'lose-reply:/tx'
        await setFault(lossy)
        await rejection(() => driver.step())
        const pool = await node.rpc<string[]>('getrawmempool')
        expect(pool).toContain(txOf(driver))
        // It is even in a block before anybody asks again.
        await node.mine(1, ELSEWHERE)
        await setFault('ok')
        expect((await driver.step()).state).toBe('waiting')
        await finished(driver)
        await paidOnce(address, root)
      },
    )

    test.each([1, 2, 3, 4])('killed after call %i it goes on and pays once', async (calls) => {
      const { driver: make, address, root, wallet } = await account(node)
      const driver = make(core(node.url))
      driver.killAfter = calls
      await driver.run().catch(killed)
      await node.mine(1, ELSEWHERE)
      await driver.run().catch(killed)
      await node.mine(6, ELSEWHERE)
      await driver.run().catch(killed)
      expect(driver.log.length).toBeGreaterThanOrEqual(calls)
      await finished(driver)
      expect(wallet.spends.get(root)!.spend).toMatchObject({ state: 'final' })
      expect(wallet.spends.get(root)!.spend.variants).toHaveLength(1)
      await paidOnce(address, root)
    })
  })

  describe('when it is about money', () => {
    test('an empty wallet holds the job until coins are deep enough', async () => {
      const { driver: make, address, fund, root } = await account(node, { sats: 0 })
      const driver = make(cheap(core(node.url)))
      expect(await driver.run()).toEqual({ state: 'held', work: null, reason: 'no_funds' })
      await node.fundAddress(address, 50_000)
      expect((await driver.run()).state).toBe('held')
      await fund(600)
      expect((await driver.run()).state).toBe('waiting')
      await finished(driver)
      await paidOnce(address, root)
    })

    test('the next root waits for the one under way, and then spends its change', async () => {
      const { driver: make, rail, newJob, address } = await account(node)
      const first = make(cheap(core(node.url)))
      await first.run()
      const second = new Driver(rail(cheap(core(node.url))), newJob())
      expect(await second.run()).toMatchObject({ state: 'busy' })
      const { txHash } = await finished(first)
      expect((await second.run()).state).toBe('waiting')
      expect(second.work['spends']).toEqual([`${txHash}:0`])
      await finished(second)
      expect(await spendsOf(node, address)).toHaveLength(2)
    })

    test('at the fee cap nothing is signed until the cap is raised', async () => {
      const { driver: make, wallet, address, root } = await account(node)
      wallet.feeCapSat = 150
      const driver = make(cheap(core(node.url)))
      expect(await driver.run()).toEqual({ state: 'held', work: null, reason: 'fee_cap' })
      wallet.feeCapSat = 200
      await driver.run()
      await finished(driver)
      await paidOnce(address, root)
    })

    test('a stuck transaction is replaced, and the dearer variant confirms', async () => {
      const { driver: make, wallet, address, root } = await account(node)
      const driver = make(cheap(core(node.url)))
      await driver.run()
      await mineEmpty(node, 5)
      expect(await driver.run()).toMatchObject({ state: 'waiting' })
      await mineEmpty(node, 1)
      expect((await driver.step()).state).toBe('signed')
      expect((await driver.step()).state).toBe('waiting')
      const { variants } = (await wallet.find(root))!
      expect(variants.map(({ fee }) => Number(fee))).toEqual([153, 306])
      const pool = await node.rpc<string[]>('getrawmempool')
      expect(pool).toContain(variants[1]!.txHash)
      expect(pool).not.toContain(variants[0]!.txHash)
      const { txHash, group } = await finished(driver)
      expect(txHash).toBe(variants[1]!.txHash)
      expect(group).toEqual(variants.map((variant) => variant.txHash))
      await paidOnce(address, root)
    })

    test('a variant that was replaced may confirm all the same', async () => {
      const { driver: make, wallet, address, root } = await account(node)
      const driver = make(cheap(core(node.url)))
      await driver.run()
      await mineEmpty(node, 6)
      await driver.run()
      const { variants } = (await wallet.find(root))!
      expect(variants).toHaveLength(2)
      await node.rpc('generateblock', [ELSEWHERE, [variants[0]!.raw]])
      expect((await driver.run()).state).toBe('included')
      const { txHash, group } = await finished(driver)
      expect(txHash).toBe(variants[0]!.txHash)
      expect(group).toHaveLength(2)
      await paidOnce(address, root)
    })

    test('held at the cap in the middle, what was sent still wins', async () => {
      const { driver: make, wallet, address, root } = await account(node)
      wallet.feeCapSat = 160
      const driver = make(cheap(core(node.url)))
      await driver.run()
      await mineEmpty(node, 6)
      expect(await driver.run()).toMatchObject({ state: 'held', reason: 'fee_cap' })
      expect(driver.work['variants']).toHaveLength(1)
      await node.mine(1, ELSEWHERE)
      expect((await driver.run()).state).toBe('waiting')
      expect((await finished(driver)).txHash).toBe(txOf(driver))
      await paidOnce(address, root)
    })

    test('outbid by a stranger who is stuck himself, it outbids him', async () => {
      const { driver: make, wallet, key, type, address, root } = await account(node)
      const driver = make(cheap(core(node.url)))
      await driver.step()
      const { inputs } = wallet.spends.get(root)!
      const spender = { key, type, network: 'regtest', inputs, feeCapSat: 5000 }
      const other = signBitcoin({ ...spender, root: new Uint8Array(32).fill(0xcc), feerate: 1.5 })
      if ('held' in other) throw new Error(other.held)
      await node.rpc('sendrawtransaction', [other.raw])
      // Nothing is decided while it is in no block: not held, not given up.
      expect((await driver.run()).state).toBe('waiting')
      expect((await driver.run()).state).toBe('waiting')
      // 2 sat/vB do not pay for the replacement of 1.5 (BIP 125 rule 4), 3 do.
      for (const variants of [2, 3]) {
        await mineEmpty(node, 6)
        expect((await driver.run()).state).toBe('waiting')
        expect((await wallet.find(root))!.variants).toHaveLength(variants)
      }
      expect(await node.rpc<string[]>('getrawmempool')).toContain(txOf(driver))
      await finished(driver)
      await paidOnce(address, root)
    })

    test('at the cap a raise of the cap replaces', async () => {
      const { driver: make, wallet, root } = await account(node)
      wallet.feeCapSat = 160
      const driver = make(cheap(core(node.url)))
      await driver.run()
      await mineEmpty(node, 6)
      expect((await driver.run()).state).toBe('held')
      wallet.feeCapSat = 1000
      await driver.run()
      await driver.run()
      expect((await wallet.find(root))!.variants).toHaveLength(2)
      await finished(driver)
    })

    test('killed between the replacement and its storing, no variant is forgotten', async () => {
      const { driver: make, wallet, address, root } = await account(node)
      const driver = make(cheap(core(node.url)))
      await driver.run()
      await mineEmpty(node, 6)
      driver.killAfter = driver.log.length + 1
      await expect(driver.run()).rejects.toBeInstanceOf(Killed)
      expect((await wallet.find(root))!.variants).toHaveLength(2)
      expect(driver.work['variants']).toHaveLength(1)
      await driver.run()
      expect(driver.work['variants']).toHaveLength(2)
      await finished(driver)
      await paidOnce(address, root)
    })
  })

  test('what every pool forgot is sent again, the same bytes', async () => {
    const folder = join(dir, 'forgetful')
    const start = { dir: folder, password: 'again', args: ['-persistmempool=0'] }
    const forgetful = await startBitcoind(start)
    const { driver: make, address, root } = await account(forgetful)
    const driver = make(core(forgetful.url))
    await driver.run()
    const before = driver.work['variants']
    await forgetful.stop()
    const restarted = await startBitcoind({ ...start, rpcPort: forgetful.port })
    try {
      expect(await restarted.rpc('getrawmempool')).toEqual([])
      expect((await driver.run()).state).toBe('waiting')
      expect(driver.log.slice(-2)).toEqual(['check→dropped', 'submit→waiting'])
      expect(driver.work['variants']).toEqual(before)
      await restarted.mine(7, ELSEWHERE)
      expect((await driver.run()).state).toBe('final')
      const spends = await spendsOf(restarted, address)
      expect(spends.map((spend) => spend.root)).toEqual([root])
    } finally {
      await restarted.stop()
    }
  })

  test('a node without a transaction index finds the anchor by its change', async () => {
    const plain = await startBitcoind({ dir: join(dir, 'plain'), args: ['-txindex=0'] })
    try {
      const { driver: make, address, wallet, root } = await account(plain)
      const driver = make(core(plain.url))
      await driver.run()
      await plain.mine(1, ELSEWHERE)
      expect((await driver.run()).state).toBe('included')
      await plain.mine(6, ELSEWHERE)
      expect((await driver.run()).state).toBe('final')
      expect(await spendsOf(plain, address)).toHaveLength(1)
      // It cannot say who spent a coin, so its word never frees a root for a second spend.
      const [txid = '', vout] = wallet.spends.get(root)!.spend.spends[0]!.split(':')
      const spent = await core(plain.url).outspend({ txid, vout: Number(vout) }, 7)
      expect(spent).toEqual({ state: 'spent', by: null, isDeep: false })
    } finally {
      await plain.stop()
    }
  })

  test('a coin that another provider denies is not spent', async () => {
    const { driver: make, fund, address, root } = await account(node)
    await fund(60_000)
    const honest = core(node.url)
    const coins = async (of: string, depth: number) => [
      { txid: 'ab'.repeat(32), vout: 0, value: 9_000_000 },
      ...(await honest.coins(of, depth)),
    ]
    const driver = make({ ...honest, coins }, esplora(server.url))
    await driver.run()
    await finished(driver)
    await paidOnce(address, root)
  })

  test('a provider on another network is refused before anything is signed', async () => {
    const { rail, job, wallet } = await account(node)
    const stranger = { ...core(node.url), hashAt: () => Promise.resolve('00'.repeat(32)) }
    const driver = new Driver(rail(stranger), job)
    expect((await rejection(() => driver.run())).message).toContain('is not on Bitcoin regtest')
    expect(wallet.spends.size).toBe(0)
  })

  test('a wallet of the node that watches the address knows its coins', async () => {
    const { address } = await account(node, { sats: 70_000 })
    const { descriptor } = await node.rpc<{ descriptor: string }>('getdescriptorinfo', [
      `addr(${address})`,
    ])
    await node.rpc('createwallet', ['watch', true, true])
    await node.rpc('importdescriptors', [[{ desc: descriptor, timestamp: 0 }]], 'watch')
    const scanned = await core(node.url).coins(address, 7)
    expect(scanned).toMatchObject([{ value: 70_000 }])
    expect(await core(`${node.url}/wallet/watch`).coins(address, 7)).toEqual(scanned)
    expect(await esplora(server.url).coins(address, 7)).toEqual(scanned)
    for (const client of [core(node.url), core(`${node.url}/wallet/watch`), esplora(server.url)]) {
      expect(await client.coins(address, 8)).toEqual([])
    }
    // The chain is asked of the node, whatever the path.
    expect(await core(`${node.url}/wallet/watch`).tip()).toEqual(await core(node.url).tip())
  })

  test('a coinbase is no coin before a hundred confirmations', async () => {
    const { address } = await account(node, { sats: 0 })
    await node.mine(1, address)
    await mineEmpty(node, 98)
    for (const client of [core(node.url), esplora(server.url)]) {
      expect(await client.coins(address, 7)).toEqual([])
    }
    await mineEmpty(node, 1)
    for (const client of [core(node.url), esplora(server.url)]) {
      expect(await client.coins(address, 7)).toHaveLength(1)
    }
  })
})

/** Whoever lets a driver be killed expects it. */
function killed(error: unknown): void {
  if (!(error instanceof Killed)) throw error
}

function txOf(driver: Driver): string {
  return (driver.work['variants'] as { txHash: string }[]).at(-1)!.txHash
}

/** CMerkleBlock of one leaf: depth first, 1 above it and on it, 0 with the hash beside the way. */
function partialTree(proof: {
  header: Uint8Array
  count: number
  position: number
  branch: readonly Uint8Array[]
  txid: Uint8Array
}): Uint8Array {
  const { header, count, position, branch, txid } = proof
  const flags: number[] = []
  const hashes: Uint8Array[] = []
  const visit = (level: number, index: number): void => {
    const isOnWay = position >> level === index
    flags.push(isOnWay ? 1 : 0)
    if (!isOnWay) return void hashes.push(branch[level]!)
    if (level === 0) return void hashes.push(txid)
    visit(level - 1, index * 2)
    if (index * 2 + 1 < Math.ceil(count / 2 ** (level - 1))) visit(level - 1, index * 2 + 1)
  }
  visit(branch.length, 0)
  const bytes = new Uint8Array(Math.ceil(flags.length / 8))
  for (const [i, flag] of flags.entries()) bytes[i >> 3]! |= flag << (i & 7)
  const counted = new Uint8Array(4)
  new DataView(counted.buffer).setUint32(0, count, true)
  const [one, two] = [Uint8Array.of(hashes.length), Uint8Array.of(bytes.length)]
  return concat(header, counted, one, ...hashes, two, bytes)
}
