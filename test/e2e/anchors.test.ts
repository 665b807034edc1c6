/**
 * A node that anchors in real chains, as its users see it; and the stock tools of each chain, which must
 * say the same of what it hands out as we do.
 */

import { createMPTFromProof } from '@ethereumjs/mpt'
import { RLP } from '@ethereumjs/rlp'
import { spawnSync } from 'node:child_process'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { keccak256, recoverTransactionAddress, type Hex } from 'viem'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { anchorReceiptSchema, type AnchorReceipt } from '#core/anchor-receipt.ts'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { fromHex, toHex, utf8 } from '#core/bytes.ts'
import { parseReceipt, verifyReceipt, type Receipt } from '#core/receipt.ts'
import { bitcoindBinary, missingBitcoind } from '../../scripts/devnet/bitcoind-binary.ts'
import type { Bitcoind } from '../../scripts/devnet/bitcoind.ts'
import { anvilBinary, missingAnvil } from '../../scripts/devnet/anvil.ts'
import { calendarPython, missingCalendar } from '../../scripts/devnet/calendar.ts'
import { onPath } from '../../scripts/devnet/child.ts'
import { exportReceipts, receiptFile } from '../../scripts/receipt-files.ts'
import { readReceiptFile } from '#core/receipt-file.ts'
import {
  anchorOf,
  startAnchoredNode,
  verifiedOf,
  type AnchoredNode,
  type Posted,
} from '../support/anchored-node.ts'
import { absent, bitcoindAbsence } from './devnet-support.ts'

const noBitcoin = absent(bitcoindAbsence === null ? null : missingBitcoind)
const noAnvil = absent(anvilBinary() === null ? missingAnvil : null)
const noOpenssl = absent(onPath('openssl') === null ? 'openssl is not installed' : null)
const noPython = absent(calendarPython() === null ? missingCalendar : null)
const cli = join(dirname(bitcoindBinary() ?? '/nowhere/x'), 'bitcoin-cli')
const noCli = absent(existsSync(cli) ? null : 'bitcoin-cli is not beside bitcoind')
const isWhole = !noBitcoin && !noAnvil && !noOpenssl
const PYTHON = existsSync('/usr/bin/python3') ? '/usr/bin/python3' : 'python3'

/** What /anchors/status and /anchors/{id} say of a job, as far as it is read here. */
interface Job {
  readonly id: number
  readonly chain: string
  readonly network: string
  readonly method: string
  readonly dev: boolean
  readonly status: string
  readonly state: string
  readonly root: string
  readonly treeSize: number
  readonly nextAt: string | null
  readonly failures: number
  readonly provider: { readonly name: string; readonly why: string } | null
  readonly history?: readonly { readonly attempt: number; readonly outcome: string }[]
}

let it: AnchoredNode
let folder: string
/** Events of three seals, and their receipts once final on every rail and by both ways of Bitcoin. */
const posted: Posted[] = []
const receipts: Receipt[] = []
/** What a receipt said of itself on its way, first to last. */
const seen: string[] = []
let chosen: Receipt
let bitcoind: Bitcoind

beforeAll(async () => {
  it = await startAnchoredNode({ withCalendar: true })
  if (it.devnet.btc !== null) bitcoind = it.devnet.btc
  folder = join(it.dir, 'receipts')
  for (let i = 0; i < 3; i++) posted.push(await it.post({ i }))
  for (const { eventHash } of posted) {
    receipts.push(
      await it.until(eventHash, (receipt) => {
        const anchors = receipt.anchors.map(({ chain, status }) => `${chain} ${status}`)
        for (const words of [receipt.status, ...anchors]) {
          if (!seen.includes(words)) seen.push(words)
        }
        return receipt.status === 'final' && receipt.anchors.every((a) => a.status === 'verified')
      }),
    )
  }
  chosen = receipts[1]!
  await exportReceipts(it.url, folder)
}, 300_000)

afterAll(() => it?.stop())

async function get<T>(path: string): Promise<T> {
  const answer = await fetch(`${it.url}${path}`)
  expect(answer.status).toBe(200)
  return (await answer.json()) as T
}

/** Runs a program to its end with `input` on stdin. */
function program(command: string, args: readonly string[], input = '') {
  const { status, stdout, stderr } = spawnSync(command, args, { input, encoding: 'utf8' })
  return { status, stdout, stderr }
}

describe.skipIf(!isWhole)('the receipts of a node with three rails', () => {
  test('are first sealed, then anchored, then final, and their anchors on the way say how far they are', () => {
    const statuses = seen.filter((words) => !words.includes(' '))
    expect(statuses.at(-1)).toBe('final')
    const order = ['sealed', 'anchored', 'final']
    expect(statuses).toEqual(order.filter((status) => statuses.includes(status)))
    for (const chain of ['BTC', 'EVM', 'TSA']) expect(seen).toContain(`${chain} verified`)
    // Blocks take time: at least once somebody looked while Bitcoin was on its way.
    const early = ['BTC pending', 'BTC submitted', 'BTC included']
    expect(early.some((words) => seen.includes(words))).toBe(true)
  })

  test('come from several seals and verify offline, bytes of the event included', async () => {
    expect(new Set(receipts.map(({ height }) => height)).size).toBe(posted.length)
    for (const [i, receipt] of receipts.entries()) {
      const text = JSON.stringify(receipt)
      const report = await verifyReceipt(parseReceipt(text), it.node.trust, utf8(posted[i]!.jws))
      expect(report.verdict).toBe('verified')
      expect(new Set(report.anchored)).toEqual(new Set(['BTC', 'EVM', 'TSA']))
      expect(report.anchored).toHaveLength(receipt.anchors.length)
      expect(report.checks.filter(({ ok }) => ok === false)).toEqual([])
      const other = await verifyReceipt(receipt, it.node.trust, utf8(posted[(i + 1) % 3]!.jws))
      expect(other.verdict).toBe('refuted')
    }
  })

  test('verify as a .tlog-proof, too, with all their anchors', async () => {
    for (const [i, { eventHash, jws }] of posted.entries()) {
      const answer = await fetch(`${it.url}/receipts/${eventHash}`, {
        headers: { accept: 'text/plain' },
      })
      const file = readReceiptFile(new Uint8Array(await answer.arrayBuffer()), utf8(jws))
      const report = await verifyReceipt(file, it.node.trust, utf8(jws))
      expect(report.verdict).toBe('verified')
      expect(report.anchored).toHaveLength(receipts[i]!.anchors.length)
    }
  })

  test('are below 16 KiB with every anchor in them', () => {
    for (const receipt of receipts) {
      expect(verifiedOf(receipt).length).toBeGreaterThanOrEqual(3)
      expect(utf8(JSON.stringify(receipt)).length).toBeLessThan(16_384)
    }
  })

  test('have the plan’s eight fields in each anchor, and name the dev networks they are of', () => {
    const networks = { BTC: 'regtest', EVM: 'anvil', TSA: '127.0.0.1' }
    for (const anchor of receipts.flatMap(verifiedOf)) {
      expect(anchorReceiptSchema.parse(anchor)).toEqual(anchor)
      expect(anchor.network).toBe(networks[anchor.chain])
      expect(anchor.verifier).toMatch(/^v\d/)
    }
  })

  test('were anchored once for each root and rail, however often a tick looked', async () => {
    const { anchors } = await get<{ anchors: readonly Job[] }>('/anchors/status?limit=1000')
    const keys = anchors.map((a) => `${a.root} ${a.chain} ${a.network} ${a.method}`)
    expect(new Set(keys).size).toBe(keys.length)
    // And the chain says so: of the roots in its blocks none is there twice by a transaction of ours.
    const roots = new Set(anchors.map(({ root }) => root.slice(2)))
    const carried: string[] = []
    const tip = await bitcoind.rpc<number>('getblockcount')
    for (let height = 100; height <= tip; height++) {
      const hash = await bitcoind.rpc<string>('getblockhash', [height])
      const { tx } = await bitcoind.rpc<{
        tx: readonly { vout: readonly { scriptPubKey: { hex: string } }[] }[]
      }>('getblock', [hash, 2])
      for (const { scriptPubKey } of tx.flatMap(({ vout }) => vout)) {
        const root = /^6a20([0-9a-f]{64})$/.exec(scriptPubKey.hex)?.[1]
        if (root !== undefined && roots.has(root)) carried.push(root)
      }
    }
    expect(carried.length).toBeGreaterThan(0)
    expect(new Set(carried).size).toBe(carried.length)
  })
})

describe.skipIf(!isWhole)('the outbox as anybody sees it', () => {
  test('labels every job of a dev network, names whom it asked and never a password', async () => {
    const text = await (await fetch(`${it.url}/anchors/status`)).text()
    const { password } = new URL(bitcoind.url)
    expect(password.length).toBeGreaterThan(8)
    expect(text).not.toContain(password)
    const { anchors } = JSON.parse(text) as { anchors: readonly Job[] }
    const methods = new Set(anchors.map(({ chain, method }) => `${chain} ${method}`))
    const calendar = it.devnet.calendar === null ? [] : ['BTC calendar']
    expect(methods).toEqual(new Set(['BTC tx', ...calendar, 'EVM tx', 'TSA rfc3161']))
    for (const job of anchors) {
      expect(job.dev).toBe(true)
      if (job.chain !== 'TSA' && job.state === 'final') {
        expect(job.provider).toMatchObject({ name: expect.stringMatching(/^127\.0\.0\.1:\d+$/) })
      }
    }
  })

  test('says of a finished job that nothing follows, and how it came there, attempt by attempt', async () => {
    const { anchors } = await get<{ anchors: readonly Job[] }>('/anchors/status')
    const done = anchors.filter(({ state }) => state === 'final')
    for (const chain of ['BTC', 'EVM', 'TSA']) {
      const job = done.find((a) => a.chain === chain)!
      expect(job).toMatchObject({ status: 'verified', nextAt: null, failures: 0 })
      const { history, ...same } = await get<Job>(`/anchors/${job.id}`)
      expect(same).toEqual(job)
      const attempts = history!.map(({ attempt }) => attempt)
      expect(attempts).toEqual([...attempts].sort((a, b) => a - b))
      expect(history!.at(-1)!.outcome).toBe('final')
      // A block and those on top of it take more than one look.
      if (chain !== 'TSA') expect(history!.length).toBeGreaterThan(1)
    }
    expect((await fetch(`${it.url}/anchors/999999`)).status).toBe(404)
  })

  test('pages through every receipt kept, each the one that receipts list', async () => {
    const all: AnchorReceipt[] = []
    let after: number | null = 0
    while (after !== null) {
      const page: { receipts: { id: number; receipt: AnchorReceipt }[]; next: number | null } =
        await get(`/anchors/receipts?after=${after}&limit=2`)
      expect(page.receipts.length).toBeLessThanOrEqual(2)
      all.push(...page.receipts.map(({ receipt }) => receipt))
      after = page.next
    }
    for (const receipt of all) {
      expect((await verifyAnchorReceipt(receipt, it.node.trust)).outcome).toBe('verified')
    }
    for (const anchor of receipts.flatMap(verifiedOf)) expect(all).toContainEqual(anchor)
  })
})

describe('stock tools agree', () => {
  /** The 80 bytes of each block that an .ots attests, asked of the real node. */
  async function headersAt(heights: readonly number[]): Promise<Record<number, string>> {
    const headers: Record<number, string> = {}
    for (const height of heights) {
      const hash = await bitcoind.rpc<string>('getblockhash', [height])
      headers[height] = await bitcoind.rpc<string>('getblockheader', [hash, false])
    }
    return headers
  }

  async function checkOts(ots: Uint8Array, digest: string, file: string | null) {
    const tip = await bitcoind.rpc<number>('getblockcount')
    const blocks = receipts.flatMap(verifiedOf).filter(({ chain }) => chain === 'BTC')
    const all = await headersAt([...blocks.map(({ blockNumber }) => blockNumber!), tip])
    const asked = { ots: toHex(ots), digest, file, headers: all, foreign: all[tip] }
    const script = resolve(import.meta.dirname, 'check-ots.py')
    const ran = program(PYTHON, [script], JSON.stringify(asked))
    return { ...ran, said: ran.status === 0 ? (JSON.parse(ran.stdout) as unknown) : null }
  }

  test.skipIf(!isWhole || noPython)(
    'python-opentimestamps verifies the .ots of an event from its bytes alone (skipped without it)',
    async () => {
      for (const [i, { eventHash, jws }] of posted.entries()) {
        const answer = await fetch(`${it.url}/receipts/${eventHash}?format=ots`)
        expect(answer.headers.get('content-disposition')).toContain('.regtest.ots"')
        expect(answer.headers.get('vaultmesh-network')).toBe('regtest')
        const ots = new Uint8Array(await answer.arrayBuffer())
        const file = toHex(utf8(jws))
        const { said, stderr } = await checkOts(ots, '00', file)
        const heights = verifiedOf(receipts[i]!)
          .filter(({ chain }) => chain === 'BTC')
          .map(({ blockNumber }) => blockNumber!)
        expect({ said, stderr }).toMatchObject({
          said: { heights: heights.sort((a, b) => a - b), same: true },
        })
        const other = toHex(utf8(`${jws}!`))
        expect((await checkOts(ots, '00', other)).stderr).toContain('about another digest')
      }
    },
  )

  test.skipIf(!isWhole || noPython)(
    'python-opentimestamps verifies the exported .ots of each root (skipped without it)',
    async () => {
      const anchors = verifiedOf(chosen).filter(({ chain }) => chain === 'BTC')
      expect(anchors).toHaveLength(it.devnet.calendar === null ? 1 : 2)
      for (const anchor of anchors) {
        const method = anchor.proof.type === 'opentimestamps' ? 'calendar' : 'tx'
        const name = receiptFile(anchor, method).replace(/\.json$/, '.ots')
        expect(name).toContain('.regtest.')
        const { said, stderr } = await checkOts(
          readFileSync(join(folder, name)),
          anchor.root.slice(2),
          null,
        )
        expect({ said, stderr }).toMatchObject({
          said: { heights: [anchor.blockNumber], same: true },
        })
      }
    },
  )

  test.skipIf(!isWhole)(
    'openssl ts verifies the token, and not for another root (skipped without openssl)',
    () => {
      const anchor = anchorOf(chosen, 'rfc3161')
      const dir = join(it.dir, 'openssl')
      mkdirSync(dir)
      const [token, root, other, ca] = ['token', 'root', 'other', 'ca'].map((n) => join(dir, n))
      writeFileSync(token!, Buffer.from(anchor.proof['token'] as string, 'base64'))
      writeFileSync(root!, fromHex(anchor.root.slice(2)))
      writeFileSync(other!, new Uint8Array(32))
      writeFileSync(ca!, it.node.trust.tsaRoots.join('\n'))
      const verifies = (data: string) =>
        program('openssl', [
          'ts',
          '-verify',
          '-in',
          token!,
          '-token_in',
          '-data',
          data,
          '-CAfile',
          ca!,
        ])
      expect(verifies(root!)).toMatchObject({ status: 0 })
      expect(verifies(root!).stdout + verifies(root!).stderr).toContain('Verification: OK')
      expect(verifies(other!).status).not.toBe(0)
    },
  )

  test.skipIf(!isWhole)(
    'bitcoind has the transaction, the block and the headers of the proof, byte for byte',
    async () => {
      const anchor = anchorOf(chosen, 'bitcoin-tx')
      const { rawTx, header, following, branch, position } = anchor.proof as unknown as {
        rawTx: string
        header: string
        following: readonly string[]
        branch: readonly string[]
        position: number
      }
      const height = anchor.blockNumber!
      const headers = await headersAt(following.map((_, i) => height + 1 + i).concat(height))
      expect(header).toBe(headers[height])
      expect(following).toEqual(following.map((_, i) => headers[height + 1 + i]))
      const hash = await bitcoind.rpc<string>('getblockhash', [height])
      const block = await bitcoind.rpc<{ tx: readonly string[] }>('getblock', [hash])
      expect(block.tx[position]).toBe(anchor.txHash)
      const decoded = await bitcoind.rpc<{
        txid: string
        vout: { scriptPubKey: { asm: string } }[]
      }>('decoderawtransaction', [rawTx])
      expect(decoded.txid).toBe(anchor.txHash)
      expect(decoded.vout.at(-1)!.scriptPubKey.asm).toBe(`OP_RETURN ${anchor.root.slice(2)}`)

      // A CMerkleBlock made of nothing but our proof, judged by the node; a changed branch is refused.
      const ours = merkleBlock(anchor, block.tx.length)
      expect(await bitcoind.rpc('verifytxoutproof', [ours])).toEqual([anchor.txHash])
      expect(await bitcoind.rpc('gettxoutproof', [[anchor.txHash], hash])).toBe(ours)
      const wrong = merkleBlock(
        { ...anchor, proof: { ...anchor.proof, branch: branch.map(() => 'ab'.repeat(32)) } },
        block.tx.length,
      )
      if (branch.length > 0) {
        expect(await bitcoind.rpc('verifytxoutproof', [wrong]).catch(() => [])).toEqual([])
      }
      expect(branch.length).toBeGreaterThan(0)
    },
  )

  test.skipIf(!isWhole || noCli)(
    'bitcoin-cli verifies the same proof (skipped without it)',
    async () => {
      const anchor = anchorOf(chosen, 'bitcoin-tx')
      const hash = await bitcoind.rpc<string>('getblockhash', [anchor.blockNumber])
      const { tx } = await bitcoind.rpc<{ tx: readonly string[] }>('getblock', [hash])
      const { username, password, port } = new URL(bitcoind.url)
      // The password on stdin: no list of processes shows it.
      const args = ['-regtest', `-rpcport=${port}`, `-rpcuser=${username}`, '-stdinrpcpass']
      const ran = program(
        cli,
        [...args, 'verifytxoutproof', merkleBlock(anchor, tx.length)],
        password,
      )
      expect(JSON.parse(ran.stdout)).toEqual([anchor.txHash])
      const shown = program(cli, [...args, 'getblockheader', hash, 'false'], password)
      expect(shown.stdout.trim()).toBe(anchor.proof['header'])
    },
  )

  test.skipIf(!isWhole)(
    'other libraries find the EVM transaction in the trie, and anvil has it (skipped without anvil)',
    async () => {
      const anchor = anchorOf(chosen, 'evm-tx')
      const { rawTx, txIndex, header, nodes, chainId } = anchor.proof as unknown as {
        rawTx: Hex
        txIndex: number
        header: Hex
        nodes: readonly Hex[]
        chainId: number
      }
      const fields = RLP.decode(fromHex(header.slice(2))) as Uint8Array[]
      const trie = await createMPTFromProof(
        nodes.map((node) => fromHex(node.slice(2))),
        { root: fields[4]! },
      )
      const value = await trie.get(RLP.encode(txIndex))
      expect(`0x${toHex(value!)}`).toBe(rawTx)
      expect(keccak256(rawTx)).toBe(anchor.txHash)
      expect(BigInt(`0x${toHex(fields[8]!)}`)).toBe(BigInt(anchor.blockNumber!))
      expect(Number(`0x${toHex(fields[11]!)}`) * 1000).toBe(Date.parse(anchor.anchorTs))
      const sender = await recoverTransactionAddress({ serializedTransaction: rawTx as never })

      const { rpc } = it.devnet.evm!
      const tx = await rpc<Record<string, string>>('eth_getTransactionByHash', [anchor.txHash])
      expect(tx).toMatchObject({
        input: anchor.root,
        from: sender.toLowerCase(),
        to: sender.toLowerCase(),
        blockHash: keccak256(header),
        transactionIndex: `0x${txIndex.toString(16)}`,
        chainId: `0x${chainId.toString(16)}`,
      })
      const block = await rpc<{ number: string; transactionsRoot: string }>('eth_getBlockByHash', [
        keccak256(header),
        false,
      ])
      expect(Number(block.number)).toBe(anchor.blockNumber)
      expect(block.transactionsRoot).toBe(`0x${toHex(fields[4]!)}`)
    },
  )

  test.skipIf(!isWhole)(
    'a program that shares no line with us reads the Bitcoin anchor, and refuses changed ones',
    () => {
      const script = resolve(import.meta.dirname, '../independent/read_bitcoin_anchor.py')
      const file = join(it.dir, 'read.json')
      const read = (value: unknown, ...args: string[]) => {
        writeFileSync(file, JSON.stringify(value))
        return program(PYTHON, [script, file, ...args])
      }
      const anchor = anchorOf(chosen, 'bitcoin-tx')
      const good = read(anchor, '--root', anchor.root)
      expect(good).toMatchObject({ status: 0, stderr: '' })
      expect(good.stdout).toContain(`transaction: ${anchor.txHash} holds ${anchor.root}\n`)
      expect(good.stdout).toContain(
        'verified: the root stands in Bitcoin on regtest, a dev network\n',
      )
      expect(read(chosen)).toMatchObject({ status: 0 })

      const proof = anchor.proof as unknown as {
        rawTx: string
        header: string
        branch: string[]
        following: string[]
        position: number
      }
      const changed = (more: object) => ({ ...anchor, proof: { ...proof, ...more } })
      const flip = (hex: string, at: number) =>
        hex.slice(0, at) + (hex[at] === '0' ? '1' : '0') + hex.slice(at + 1)
      const cases: readonly (readonly [string, unknown, readonly string[]])[] = [
        ['root', anchor, ['--root', '00'.repeat(32)]],
        ['commitment', { ...anchor, root: `0x${'00'.repeat(32)}` }, []],
        [
          'commitment',
          changed({ rawTx: flip(proof.rawTx, proof.rawTx.lastIndexOf(anchor.root.slice(2))) }),
          [],
        ],
        ['txHash', changed({ rawTx: flip(proof.rawTx, 7) }), []],
        ['transaction', changed({ rawTx: `${proof.rawTx}00` }), []],
        ['transaction', changed({ rawTx: proof.rawTx.slice(0, -2) }), []],
        ['txHash', { ...anchor, txHash: 'ab'.repeat(32) }, []],
        ['branch', changed({ branch: proof.branch.map(() => 'ab'.repeat(32)) }), []],
        ['branch', changed({ position: proof.position + 2 ** proof.branch.length }), []],
        ['headers', changed({ following: proof.following.slice(1) }), []],
        ['headers', changed({ following: proof.following.toReversed() }), []],
        ['headers', changed({ header: flip(proof.header, 150) }), []],
        ['finality', changed({ following: proof.following.slice(0, 5) }), []],
        ['anchorTs', { ...anchor, anchorTs: '2026-01-01T00:00:00.000Z' }, []],
        ['network', { ...anchor, network: 'moon' }, []],
        ['headers', { ...anchor, network: 'mainnet' }, []],
        ['there is no Bitcoin', anchorOf(chosen, 'rfc3161'), []],
      ]
      for (const [word, value, args] of cases) {
        const ran = read(value, ...args)
        expect({ word, ran }).toMatchObject({ ran: { status: 1 } })
        expect(ran.stdout).toContain(`refused: ${word}`)
      }
      expect(program(PYTHON, [script])).toMatchObject({ status: 2 })
    },
  )
})

/** A CMerkleBlock (BIP 37) of a block of `count` transactions with one of them marked, from a proof of ours. */
function merkleBlock({ txHash, proof }: AnchorReceipt, count: number): string {
  const { header, branch, position } = proof as unknown as {
    header: string
    branch: readonly string[]
    position: number
  }
  const bits: number[] = []
  const hashes: string[] = []
  const inWire = (hash: string) => toHex(fromHex(hash).toReversed())
  const width = (level: number) => Math.ceil(count / 2 ** level)
  const walk = (level: number, index: number): void => {
    const isParent = position >> level === index
    bits.push(isParent ? 1 : 0)
    if (level === 0) return void hashes.push(isParent ? inWire(txHash) : branch[0]!)
    if (!isParent) return void hashes.push(branch[level]!)
    walk(level - 1, 2 * index)
    if (2 * index + 1 < width(level - 1)) walk(level - 1, 2 * index + 1)
  }
  walk(branch.length, 0)
  const flags = Buffer.alloc(Math.ceil(bits.length / 8))
  for (const [i, bit] of bits.entries()) flags[i >> 3]! |= bit << (i & 7)
  const size = Buffer.alloc(4)
  size.writeUInt32LE(count)
  const small = (n: number) => Buffer.from([n]).toString('hex')
  return [
    header,
    size.toString('hex'),
    small(hashes.length),
    ...hashes,
    small(flags.length),
    flags.toString('hex'),
  ].join('')
}
