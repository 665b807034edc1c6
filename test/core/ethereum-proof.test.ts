import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { createRequire } from 'node:module'
import { createServer } from 'node:net'
import path from 'node:path'
import { secp256k1 } from '@noble/curves/secp256k1.js'
import { keccak_256 } from '@noble/hashes/sha3.js'
import * as fc from 'fast-check'
import type { Hex, TransactionSerializable } from 'viem'
import { http, createWalletClient, keccak256, publicActions, toRlp } from 'viem'
import { privateKeyToAccount } from 'viem/accounts'
import { foundry } from 'viem/chains'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { concat, fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { EthereumExpectation, EthereumProof } from '#core/ethereum-proof.ts'
import { MAX_ANCHOR_TX_BYTES, MAX_HEADER_BYTES, verifyEthereumProof } from '#core/ethereum-proof.ts'
import { transactionProof, transactionsRoot } from '#core/merkle-patricia.ts'
import type { RlpItem } from '#core/rlp.ts'
import { decodeRlp, encodeRlp, integerToBytes } from '#core/rlp.ts'
import {
  account,
  bytes,
  CHAIN,
  headerOf,
  hex,
  kinds,
  type Kind,
  me,
  other,
  proofOf,
  root,
  signed,
} from '../support/evm-chain.ts'
import { refusal } from '../support/refusal.ts'
import vectors from '../vectors/ethereum.json' with { type: 'json' }

function judge(proof: EthereumProof, over: Partial<EthereumExpectation> = {}) {
  return verifyEthereumProof({ root, chainId: CHAIN, proof, ...over })
}

const filler: readonly Uint8Array[] = Array.from({ length: 40 }, (_, i) =>
  new Uint8Array(90 + i).fill(0xc5 + i),
)
/** `tx` at `index` of a block of 41. */
const blockWith = (tx: Uint8Array, index: number) => filler.toSpliced(index, 0, tx)

const checks = [
  'shape',
  'header',
  'transaction',
  'calldata',
  'value',
  'chain-id',
  'inclusion',
  'signature',
  'recipient',
]

describe('verifyEthereumProof', () => {
  test.each(kinds)('a %s anchor to self is verified, whatever its place', async (kind) => {
    const tx = await signed(kind)
    for (const index of [0, 1, 15, 16, 40]) {
      const proof = proofOf(blockWith(tx, index), index)
      const blockHash = keccak256(proof.header as Hex)
      expect(judge(proof)).toEqual({
        txHash: keccak256(hex(tx)),
        blockHash,
        blockNumber: 21_000_000,
        headerTime: 1_700_000_000_000,
        from: me,
        to: me,
        trust: `Holds if block ${blockHash} is final on chain 31337: whoever vouches for that hash could forge this.`,
        checks,
      })
    }
  })

  test.each(kinds)('a %s anchor signed by anyone names its signer, on any chain', async (kind) => {
    const secrets = fc
      .uint8Array({ minLength: 32, maxLength: 32 })
      .filter((secret) => secp256k1.utils.isValidSecretKey(secret))
    const chains = fc.constantFrom(1, 10, 8453, 11_155_111, 2 ** 40)
    await fc.assert(
      fc.asyncProperty(secrets, chains, fc.nat(), async (secret, chainId, nonce) => {
        const signer = privateKeyToAccount(hex(secret))
        const to = signer.address
        const tx = { type: kind, chainId, nonce, gas: 1n, to, value: 0n, data: hex(root) }
        const raw = bytes(await signer.signTransaction(tx as TransactionSerializable))
        const verdict = judge(proofOf([raw], 0), { chainId })
        expect(verdict.from).toBe(to.toLowerCase())
        expect(refusal(() => judge(proofOf([raw], 0), { chainId: chainId + 1 }))).toBe(
          `chain-id: signed for chain ${chainId}, not ${chainId + 1}.`,
        )
      }),
      { numRuns: 8 },
    )
  })

  test('an access list is let pass: the signature and the hash cover it', async () => {
    for (const kind of ['eip2930', 'eip1559'] as const) {
      const accessList = [{ address: other as Hex, storageKeys: [hex(root)] }]
      const tx = await signed(kind, { accessList } as Partial<TransactionSerializable>)
      expect(judge(proofOf([tx], 0)).from).toBe(me)
    }
  })

  test('with an address, the recipient must be that one, and may be another than the sender', async () => {
    const toOther = proofOf([await signed('eip1559', { to: other })], 0)
    expect(judge(toOther, { address: other })).toMatchObject({ from: me, to: other })
    expect(refusal(() => judge(toOther))).toBe(`recipient: sent to ${other}, not to ${me}.`)
    const toSelf = proofOf([await signed('eip1559')], 0)
    expect(judge(toSelf, { address: me }).checks).toEqual(checks)
    expect(refusal(() => judge(toSelf, { address: other }))).toBe(
      `recipient: sent to ${me}, not to ${other}.`,
    )
  })

  test.each<[string, Partial<TransactionSerializable>, RegExp]>([
    ['another root', { data: hex(keccak_256(root)) }, /^calldata: /],
    ['a prefix before the root', { data: `0x564d4c31${toHex(root)}` }, /^calldata: /],
    ['bytes behind the root', { data: `${hex(root)}00` }, /^calldata: /],
    ['half the root', { data: hex(root.subarray(0, 16)) }, /^calldata: /],
    ['no calldata', { data: '0x' }, /^calldata: /],
    ['value', { value: 1n }, /^value: an anchor moves no value/],
    ['a contract creation', { to: undefined }, /^transaction: the recipient is no address/],
    ['another chain', { chainId: 1 }, /^chain-id: signed for chain 1, not 31337/],
  ])('a transaction with %s is refused', async (_, over, reason) => {
    for (const kind of kinds) {
      const proof = proofOf([await signed(kind, over)], 0)
      expect(refusal(() => judge(proof))).toMatch(reason)
    }
  })

  test('a root that is not 32 bytes is refused even if the calldata equals it', async () => {
    const short = root.subarray(0, 31)
    const proof = proofOf([await signed('eip1559', { data: hex(short) })], 0)
    expect(refusal(() => judge(proof, { root: short }))).toMatch(/^calldata: /)
  })

  test('a transaction of no chain (before EIP-155) is refused', async () => {
    const tx = await signed('legacy', { chainId: undefined })
    expect(refusal(() => judge(proofOf([tx], 0)))).toBe(
      'transaction: the signature names no chain (EIP-155).',
    )
  })

  test.each([0x00, 0x03, 0x04, 0x7e, 0xbf])('type %d is refused', async (type) => {
    const tx = concat(Uint8Array.of(type), (await signed('eip1559')).subarray(1))
    const reason = `transaction: type ${type} is not used for anchors.`
    expect(refusal(() => judge(proofOf([tx], 0)))).toBe(reason)
  })

  test('the twin signature with high s is refused', async () => {
    for (const kind of kinds) {
      const raw = await signed(kind)
      const typed = kind !== 'legacy'
      const fields = [...(decodeRlp(typed ? raw.subarray(1) : raw) as readonly Uint8Array[])]
      const s = secp256k1.Point.Fn.ORDER - BigInt(hex(fields.at(-1)!))
      fields[fields.length - 1] = integerToBytes(s)
      const v = fields.at(-3)!
      const n = v.length === 0 ? 0n : BigInt(hex(v))
      const flipped = typed ? 1n - n : n + ((n - 35n) % 2n === 0n ? 1n : -1n)
      fields[fields.length - 3] = integerToBytes(flipped)
      const body = encodeRlp(fields)
      const twin = typed ? concat(raw.subarray(0, 1), body) : body
      // The twin recovers to the same sender elsewhere: only its spelling is refused here.
      expect(refusal(() => judge(proofOf([twin], 0)))).toBe(
        'signature: nobody made it, or its s is high.',
      )
    }
  })

  /** `raw` with field `i` of its RLP replaced (or dropped, or one more appended). */
  function altered(raw: Uint8Array, i: number, value: RlpItem | 'drop'): Uint8Array {
    const typed = raw[0]! < 0xc0
    const fields = decodeRlp(typed ? raw.subarray(1) : raw) as readonly RlpItem[]
    const next = value === 'drop' ? fields.toSpliced(i, 1) : fields.toSpliced(i, 1, value)
    return concat(typed ? raw.subarray(0, 1) : new Uint8Array(0), encodeRlp(next))
  }

  test.each<[string, Kind, number, RlpItem | 'drop', string]>([
    ['a field less', 'legacy', 0, 'drop', 'transaction: 8 fields in a legacy one.'],
    ['a field more', 'legacy', 9, [], 'transaction: 10 fields in a legacy one.'],
    ['a field less', 'eip2930', 0, 'drop', 'transaction: 10 fields in type 1.'],
    ['a field more', 'eip1559', 12, [], 'transaction: 13 fields in type 2.'],
    ['y = 2', 'eip1559', 9, Uint8Array.of(2), 'transaction: y is neither 0 nor 1.'],
    [
      'a padded nonce',
      'eip1559',
      1,
      Uint8Array.of(0, 1),
      'rlp: field 1 of the transaction has a leading zero.',
    ],
    [
      'a gas limit that is a list',
      'eip1559',
      4,
      [],
      'rlp: field 4 of the transaction is missing or a list.',
    ],
    [
      'a padded gas price',
      'eip2930',
      2,
      Uint8Array.of(0),
      'rlp: field 2 of the transaction has a leading zero.',
    ],
    [
      'a gas limit that is a list',
      'eip2930',
      3,
      [],
      'rlp: field 3 of the transaction is missing or a list.',
    ],
    [
      'a padded gas limit',
      'legacy',
      2,
      Uint8Array.of(0),
      'rlp: field 2 of the transaction has a leading zero.',
    ],
    ['calldata that is a list', 'legacy', 5, [], 'transaction: the calldata is a list.'],
    ['a recipient that is a list', 'legacy', 3, [], 'transaction: the recipient is no address.'],
    [
      'a recipient of 19 bytes',
      'legacy',
      3,
      new Uint8Array(19),
      'transaction: the recipient is no address.',
    ],
    ['a padded value', 'eip1559', 6, Uint8Array.of(0), 'rlp: the value has a leading zero.'],
    [
      'an access list of bytes',
      'eip1559',
      8,
      root,
      'transaction: a byte string where a list belongs.',
    ],
    ['no chain id', 'eip1559', 0, new Uint8Array(0), 'chain-id: signed for chain 0, not 31337.'],
    ['r = 0', 'eip1559', 10, new Uint8Array(0), 'signature: nobody made it, or its s is high.'],
    ['s = 0', 'eip1559', 11, new Uint8Array(0), 'signature: nobody made it, or its s is high.'],
    ['r of 33 bytes', 'eip1559', 10, new Uint8Array(33).fill(1), 'rlp: r is longer than 32 bytes.'],
    ['a padded s', 'eip1559', 11, Uint8Array.of(0, 1), 'rlp: s has a leading zero.'],
  ])('a transaction with %s (%s) is refused', async (_, kind, i, value, reason) => {
    const tx = altered(await signed(kind), i, value)
    expect(refusal(() => judge(proofOf([tx], 0)))).toBe(reason)
  })

  test('what is no transaction at all is refused', () => {
    const proof = { ...proofOf([root], 0), rawTx: '0x' }
    expect(refusal(() => judge(proof))).toBe('transaction: there is none.')
    expect(refusal(() => judge({ ...proof, rawTx: '0x0280' }))).toBe(
      'transaction: a byte string where a list belongs.',
    )
  })

  test('header fields that a fork appends are let pass and change the block hash', async () => {
    const txs = [await signed('eip1559')]
    const hashes = new Set<string>()
    const extra: RlpItem[] = []
    for (let count = 15; count <= 64; count++) {
      const proof = proofOf(txs, 0, headerOf(transactionsRoot(txs), extra))
      const { blockHash } = judge(proof)
      expect(blockHash).toBe(keccak256(proof.header as Hex))
      hashes.add(blockHash)
      extra.push(count % 2 === 0 ? [root] : root)
    }
    expect(hashes.size).toBe(50)
    expect(refusal(() => judge(proofOf(txs, 0, headerOf(transactionsRoot(txs), extra))))).toBe(
      'header: 65 fields are no block header.',
    )
  })

  test('a header field of another width or kind is refused', async () => {
    const txs = [await signed('eip1559')]
    const header = headerOf(transactionsRoot(txs))
    const refused = (i: number, value: RlpItem) =>
      refusal(() => judge(proofOf(txs, 0, header.toSpliced(i, 1, value))))
    for (const i of header.keys()) {
      expect(refused(i, [])).toBe(`header: field ${i} is no byte string of the right width.`)
      if (i >= 7 && i <= 12) continue
      const width = (header[i] as Uint8Array).length
      for (const wrong of [width - 1, width + 1]) {
        expect(refused(i, new Uint8Array(wrong))).toBe(
          `header: field ${i} is no byte string of the right width.`,
        )
      }
    }
    const short = header.slice(0, 14)
    expect(refusal(() => judge(proofOf(txs, 0, short)))).toBe(
      'header: 14 fields are no block header.',
    )
    expect(refusal(() => judge(proofOf(txs, 0, root)))).toBe(
      'header: a byte string where a list belongs.',
    )
  })

  test('block number and timestamp are integers that JavaScript can hold', async () => {
    const txs = [await signed('eip1559')]
    const header = headerOf(transactionsRoot(txs))
    const withField = (i: number, value: Uint8Array) =>
      proofOf(txs, 0, header.toSpliced(i, 1, value))
    const at = (i: number, n: bigint) => judge(withField(i, integerToBytes(n)))
    expect(at(8, 2n ** 53n - 1n).blockNumber).toBe(Number.MAX_SAFE_INTEGER)
    expect(at(8, 0n).blockNumber).toBe(0)
    expect(refusal(() => at(8, 2n ** 53n))).toBe('header: the block number is absurd.')
    expect(new Date(at(11, 8_640_000_000_000n).headerTime).toISOString()).toMatch(/^\+275760/)
    expect(refusal(() => at(11, 8_640_000_000_001n))).toBe(
      'header: the timestamp is beyond any calendar.',
    )
    expect(refusal(() => at(11, 2n ** 64n))).toBe('rlp: the timestamp is longer than 8 bytes.')
    expect(refusal(() => at(8, 2n ** 64n))).toBe('rlp: the block number is longer than 8 bytes.')
    expect(refusal(() => judge(withField(11, Uint8Array.of(0))))).toBe(
      'rlp: the timestamp has a leading zero.',
    )
  })

  test('another index, another transaction and a proof of absence are refused', async () => {
    const tx = await signed('eip1559')
    const block = blockWith(tx, 7)
    const proof = proofOf(block, 7)
    for (const txIndex of [0, 6, 8, 41, 128, 2 ** 32 - 1]) {
      expect(refusal(() => judge({ ...proof, txIndex }))).toMatch(/^(?:inclusion|trie): /)
    }
    const foreign = proofOf(block, 8)
    expect(refusal(() => judge({ ...foreign, rawTx: proof.rawTx }))).toBe(
      'inclusion: transaction 8 is another one.',
    )
    const nodes = transactionProof([filler[0]!], 0).map(hex)
    const header = hex(encodeRlp(headerOf(transactionsRoot([filler[0]!]))))
    expect(refusal(() => judge({ rawTx: proof.rawTx, header, nodes, txIndex: 1 }))).toBe(
      'inclusion: transaction 1 is another one.',
    )
    expect(refusal(() => judge({ ...proof, nodes: [] }))).toBe('trie: a node is missing.')
  })

  test('any bit flip in header, node, transaction or index is refused or moves the block hash', async () => {
    const tx = await signed('eip1559')
    const proof = proofOf(blockWith(tx, 7), 7)
    const { blockHash } = judge(proof)
    const flipped = (text: string, bit: number) => {
      const out = bytes(text)
      out[(bit >> 3) % out.length]! ^= 1 << (bit & 7)
      return hex(out)
    }
    for (let bit = 0; bit < tx.length * 8; bit++) {
      const over = { ...proof, rawTx: flipped(proof.rawTx, bit) }
      expect(refusal(() => judge(over))).not.toBe('accepted')
    }
    for (let bit = 0; bit < 32; bit++) {
      expect(refusal(() => judge({ ...proof, txIndex: (7 ^ (1 << bit)) >>> 0 }))).not.toBe(
        'accepted',
      )
    }
    fc.assert(
      fc.property(fc.nat(), fc.nat(), (pick, bit) => {
        const i = pick % proof.nodes.length
        const nodes = proof.nodes.with(i, flipped(proof.nodes[i]!, bit))
        expect(refusal(() => judge({ ...proof, nodes }))).not.toBe('accepted')
      }),
      { numRuns: 200 },
    )
    const headerBits = fromHex(proof.header.slice(2)).length * 8
    for (let bit = 0; bit < headerBits; bit += 11) {
      const header = flipped(proof.header, bit)
      let verdict: ReturnType<typeof judge> | null = null
      try {
        verdict = judge({ ...proof, header })
      } catch (error) {
        expect(error).toBeInstanceOf(VaultMeshError)
      }
      if (verdict !== null) expect(verdict.blockHash).not.toBe(blockHash)
    }
  })

  test('only lowercase 0x hex of bounded length and a true index are read', async () => {
    const good = proofOf([await signed('eip1559')], 0)
    const run = (over: object) => refusal(() => judge({ ...good, ...over } as EthereumProof))
    for (const name of ['rawTx', 'header'] as const) {
      const notHex = `shape: ${name} is not lowercase 0x hex.`
      expect(run({ [name]: good[name].slice(2) })).toBe(notHex)
      expect(run({ [name]: good[name].toUpperCase() })).toBe(notHex)
      expect(run({ [name]: good[name] + '0' })).toBe(notHex)
      expect(run({ [name]: good[name] + '\n' })).toBe(notHex)
      expect(run({ [name]: ' ' + good[name] })).toBe(notHex)
      const max = name === 'rawTx' ? MAX_ANCHOR_TX_BYTES : MAX_HEADER_BYTES
      const tooLong = `shape: ${name} is no hex of at most ${max} bytes.`
      expect(run({ [name]: '0x' + '00'.repeat(max + 1) })).toBe(tooLong)
      expect(run({ [name]: '0x' + 'c0'.repeat(max) })).not.toMatch(/^shape/)
      for (const value of [undefined, null, 7, {}]) expect(run({ [name]: value })).toBe(tooLong)
    }
    for (const txIndex of [-1, 0.5, NaN, Infinity, 2 ** 32, '0', null, undefined]) {
      expect(run({ txIndex })).toBe('shape: txIndex is no index.')
    }
    for (const nodes of [undefined, null, 'x', {}, Array.from({ length: 12 }, () => '0x')]) {
      expect(run({ nodes })).toBe('shape: nodes is no list of at most 11.')
    }
    expect(run({ nodes: Array.from({ length: 11 }, () => '0x') })).toMatch(/^trie: /)
    expect(run({ nodes: [null] })).toBe('shape: nodes[0] is no hex of at most 4160 bytes.')
    expect(run({ nodes: ['0x' + '00'.repeat(4161)] })).toMatch(/^shape: nodes\[0\]/)
    expect(run({ nodes: ['0x' + '00'.repeat(4160)] })).toMatch(/^trie: /)
    expect(run({ nodes: ['0xGG'] })).toBe('shape: nodes[0] is not lowercase 0x hex.')
  })

  test('arbitrary bytes throw nothing but VaultMeshError', () => {
    const noise = fc.uint8Array({ maxLength: 200 }).map(hex)
    const typed = fc
      .tuple(fc.constantFrom(1, 2), fc.array(fc.uint8Array({ maxLength: 34 }), { maxLength: 13 }))
      .map(([type, fields]) => hex(concat(Uint8Array.of(type), encodeRlp(fields))))
    const header = fc.oneof(noise, fc.constant(hex(encodeRlp(headerOf(root)))))
    fc.assert(
      fc.property(
        fc.oneof(noise, typed),
        header,
        fc.array(noise),
        fc.nat(),
        (rawTx, h, nodes, i) => {
          expect(refusal(() => judge({ rawTx, header: h, nodes, txIndex: i }))).not.toBe('accepted')
        },
      ),
      { numRuns: 500 },
    )
  })
})

describe('real blocks', () => {
  test.each(vectors.blocks)(
    'the header of block $number ($fork) gives its hash, number, time and transactions root',
    (block) => {
      // Nobody put our root there: a header is reached only with a transaction, so it is put in one.
      const fields = [...(decodeRlp(bytes(block.header)) as readonly Uint8Array[])]
      expect(hex(keccak_256(bytes(block.header)))).toBe(block.hash)
      expect(hex(fields[4]!)).toBe(block.transactionsRoot)
      expect([fields[8], fields[11]]).toEqual([block.number, block.timestamp].map(integerToBytes))
    },
  )

  test('a real block with our transaction in it is judged by the same rules', async () => {
    const tx = await signed('eip1559')
    for (const block of vectors.blocks) {
      const fields = [...(decodeRlp(bytes(block.header)) as readonly RlpItem[])]
      fields[4] = transactionsRoot([tx])
      const verdict = judge(proofOf([tx], 0, fields))
      expect(verdict.blockNumber).toBe(block.number)
      expect(verdict.headerTime).toBe(block.timestamp * 1000)
      // As it was, it does not hold our transaction.
      expect(refusal(() => judge({ ...proofOf([tx], 0), header: block.header }))).toMatch(/^trie: /)
    }
  })

  test('a real transaction is refused for what it is, never for its encoding', () => {
    for (const { transactions, header } of vectors.blocks) {
      const raws = transactions?.map(({ raw }) => bytes(raw)) ?? []
      for (const [txIndex, { raw, hash }] of (transactions ?? []).entries()) {
        expect(keccak256(raw as Hex)).toBe(hash)
        const nodes = transactionProof(raws, txIndex).map(hex)
        const proof = { rawTx: raw, txIndex, header, nodes }
        expect(refusal(() => judge(proof, { chainId: 1 }))).toMatch(
          /^(?:calldata: the calldata is not the root|transaction: the signature names no chain)/,
        )
      }
    }
  })
})

/** The anvil binary: ANVIL names it, or the package that carries it for this platform, or PATH. */
function findAnvil(): string | null {
  const here = createRequire(import.meta.url)
  const named = process.env['ANVIL']
  if (named !== undefined && named !== '') return named
  try {
    const manifest = here.resolve('@foundry-rs/anvil-linux-amd64/package.json')
    return path.join(path.dirname(manifest), 'bin/anvil')
  } catch {
    const folders = (process.env['PATH'] ?? '').split(path.delimiter)
    return folders.map((dir) => path.join(dir, 'anvil')).find((file) => existsSync(file)) ?? null
  }
}

const anvil = findAnvil()
if (anvil === null) console.log('No anvil here (set ANVIL=/path/to/anvil): its test is skipped.')

describe.skipIf(anvil === null)('a real anvil', () => {
  let url: string
  let stop: () => Promise<void>

  beforeAll(async () => {
    const server = createServer()
    const port = await new Promise<number>((resolve) => {
      server.listen(0, '127.0.0.1', () => resolve((server.address() as { port: number }).port))
    })
    await new Promise((resolve) => server.close(resolve))
    url = `http://127.0.0.1:${port}`
    const child = spawn(anvil!, [
      '--host',
      '127.0.0.1',
      '--port',
      `${port}`,
      '--no-mining',
      '--silent',
    ])
    const ended = new Promise<void>((resolve) => child.once('exit', () => resolve()))
    stop = () => (child.kill('SIGTERM'), ended)
    for (let left = 200; left > 0; left--) {
      const body = '{"jsonrpc":"2.0","id":1,"method":"eth_chainId"}'
      const headers = { 'content-type': 'application/json' }
      const answer = await fetch(url, { method: 'POST', headers, body }).catch(() => null)
      if (answer?.ok === true) return
      await new Promise((resolve) => setTimeout(resolve, 50))
    }
    throw new Error('anvil did not start')
  }, 20_000)
  afterAll(() => stop())

  test('includes three anchors; header and proof made from its RPC answers verify', async () => {
    const client = createWalletClient({ account, chain: foundry, transport: http(url) }).extend(
      publicActions,
    )
    const request = client.request as (args: {
      method: string
      params: unknown[]
    }) => Promise<unknown>
    const roots = [1, 2, 3].map((n) => keccak_256(Uint8Array.of(n, n)))
    for (const [i, data] of roots.entries()) {
      await client.sendTransaction({ to: me, data: hex(data), type: kinds[i]!, nonce: i } as never)
    }
    await request({ method: 'anvil_mine', params: ['0x1'] })
    const block = (await request({
      method: 'eth_getBlockByNumber',
      params: ['0x1', false],
    })) as Record<string, Hex> & { transactions: Hex[] }
    const raws: Uint8Array[] = []
    for (const hash of block.transactions) {
      const raw = await request({ method: 'eth_getRawTransactionByHash', params: [hash] })
      expect(keccak256(raw as Hex)).toBe(hash)
      raws.push(bytes(raw as Hex))
    }
    expect(raws).toHaveLength(3)
    expect(hex(transactionsRoot(raws))).toBe(block['transactionsRoot'])

    const integer = (name: string) => integerToBytes(BigInt(block[name]!))
    const field = (name: string) => bytes(block[name]!)
    const header: RlpItem[] = [
      ...['parentHash', 'sha3Uncles', 'miner', 'stateRoot', 'transactionsRoot', 'receiptsRoot'].map(
        field,
      ),
      field('logsBloom'),
      ...['difficulty', 'number', 'gasLimit', 'gasUsed', 'timestamp'].map(integer),
      ...['extraData', 'mixHash', 'nonce'].map(field),
      integer('baseFeePerGas'),
    ]
    if ('withdrawalsRoot' in block) header.push(field('withdrawalsRoot'))
    if ('blobGasUsed' in block) header.push(integer('blobGasUsed'), integer('excessBlobGas'))
    if ('parentBeaconBlockRoot' in block) header.push(field('parentBeaconBlockRoot'))
    if ('requestsHash' in block) header.push(field('requestsHash'))
    expect(header.length).toBeGreaterThanOrEqual(20)
    expect(keccak256(toRlp(header.map((f) => hex(f as Uint8Array))))).toBe(block['hash'])

    for (const anchored of roots) {
      const txIndex = raws.findIndex((raw) => toHex(raw).includes(toHex(anchored)))
      const proof = proofOf(raws, txIndex, header)
      const verdict = judge(proof, { root: anchored })
      expect(verdict).toMatchObject({
        txHash: block.transactions[txIndex],
        blockHash: block['hash'],
        blockNumber: 1,
        headerTime: Number(block['timestamp']) * 1000,
        from: me,
        checks,
      })
      expect(refusal(() => judge(proof))).toMatch(/^calldata/)
    }
  })
})
