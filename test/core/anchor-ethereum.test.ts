import { beforeAll, describe, expect, test } from 'vitest'
import { ethereumReceipt, evmNetwork } from '#core/anchor-ethereum.ts'
import { anchorReceiptSchema, type AnchorReceipt } from '#core/anchor-receipt.ts'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { verifyBlockWitness, witnessBlock } from '#core/block-witness.ts'
import { keccak_256 } from '@noble/hashes/sha3.js'
import { fromHex, toHex } from '#core/bytes.ts'
import { deriveIdentity, signJws, type IdentityKey } from '#core/node-keys.ts'
import { CHAIN, headerOf, proofOf, root, signed } from '../support/evm-chain.ts'
import { transactionsRoot } from '#core/merkle-patricia.ts'

let node: IdentityKey
let stranger: IdentityKey
let receipt: AnchorReceipt
let hash: string
let raw: Uint8Array
const NUMBER = 21_000_000
const AT = 1_790_000_000_000

beforeAll(async () => {
  node = await deriveIdentity(new Uint8Array(32).fill(1), 1)
  stranger = await deriveIdentity(new Uint8Array(32).fill(2), 1)
  raw = await signed('eip1559')
  const proof = proofOf([raw], 0)
  hash = `0x${toHex(keccak_256(fromHex(proof.header.slice(2))))}`
  receipt = await ethereumReceipt({
    root,
    treeSize: 5,
    chainId: CHAIN,
    proof,
    witness: await witnessBlock(node, { chainId: CHAIN, number: NUMBER, hash }, AT),
    observedDepth: 3,
    requiredDepth: 3,
    group: [`0x${toHex(keccak_256(raw))}`],
    version: '9.9.9',
    observedAt: AT,
  })
})

const judge = (change: object = {}, trust: object = {}) =>
  verifyAnchorReceipt({ ...receipt, ...change }, { tsaRoots: [], nodeDids: [node.did], ...trust })
const withProof = (change: object) => ({ proof: { ...receipt.proof, ...change } })

describe('an EVM receipt', () => {
  test('verifies on the word of a node that the verifier trusts, and names it', async () => {
    expect(anchorReceiptSchema.parse(receipt)).toEqual(receipt)
    expect(receipt).toMatchObject({ chain: 'EVM', network: 'anvil', blockNumber: NUMBER })
    expect(await judge()).toMatchObject({
      outcome: 'verified',
      anchoredAt: Date.parse(receipt.anchorTs),
      trust: expect.stringContaining(`vouched for by ${node.did}`),
    })
  })

  test('verifies on a block that the verifier knows itself, whoever vouched', async () => {
    const evmBlocks = [{ chainId: CHAIN, number: NUMBER, hash }]
    expect(await judge({}, { nodeDids: [], evmBlocks })).toMatchObject({ outcome: 'verified' })
  })

  test('is untrusted on the word of a stranger alone: anybody can invent a header', async () => {
    for (const nodeDids of [undefined, [], [stranger.did]])
      expect(await judge({}, { nodeDids })).toMatchObject({ outcome: 'untrusted' })
  })

  test('is refuted when the chain has another block there, whatever the node said', async () => {
    const evmBlocks = [{ chainId: CHAIN, number: NUMBER, hash: `0x${'11'.repeat(32)}` }]
    expect(await judge({}, { evmBlocks })).toMatchObject({ outcome: 'refuted', check: 'block' })
  })

  test('is refuted when a witness is about another block, chain or height, or signed by nobody', async () => {
    const about = (block: object) =>
      witnessBlock(node, { chainId: CHAIN, number: NUMBER, hash, ...block }, AT)
    const jws = await about({})
    const forged = [
      await about({ hash: `0x${'11'.repeat(32)}` }),
      await about({ chainId: 1 }),
      await about({ number: 1 }),
      `${jws.slice(0, -4)}AAAA`,
      await signJws(node, 'vm-promise+jws', {
        iss: node.did,
        chainId: CHAIN,
        number: NUMBER,
        hash,
      }),
      await signJws(node, 'vm-block+jws', {
        iss: stranger.did,
        iat: 1,
        chainId: CHAIN,
        number: NUMBER,
        hash,
      }),
      await signJws(node, 'vm-block+jws', {
        iss: node.did,
        iat: 1,
        chainId: CHAIN,
        number: NUMBER,
      }),
      'no jws',
    ]
    for (const witness of forged)
      expect((await judge(withProof({ witnesses: [witness] }))).outcome, witness).toBe('refuted')
    // One good word does not cover a bad one beside it.
    expect((await judge(withProof({ witnesses: [jws, forged[0]] }))).outcome).toBe('refuted')
  })

  test.each([
    ['root', { root: `0x${'00'.repeat(32)}` }, 'calldata'],
    ['txHash', { txHash: `0x${'ab'.repeat(32)}` }, 'txHash'],
    ['blockNumber', { blockNumber: 1 }, 'blockNumber'],
    ['anchorTs', { anchorTs: '2020-01-01T00:00:00.000Z' }, 'anchorTs'],
    ['network', { network: 'mainnet' }, 'network'],
    ['group', { group: ['x'] }, 'group'],
    ['finality', { finality: { observedDepth: 2, requiredDepth: 3, state: 'final' } }, 'finality'],
  ])('with another %s is refuted', async (_, change, check) => {
    expect(await judge(change)).toMatchObject({ outcome: 'refuted', check })
  })

  test('with another chain id, index, header or node is refuted', async () => {
    const other = proofOf([raw, raw], 0)
    const changes = [
      { chainId: 1 },
      { txIndex: 1 },
      { header: other.header },
      { nodes: other.nodes },
      { nodes: [] },
      { witnesses: [] },
      { rawTx: '0x00' },
    ]
    for (const change of changes)
      expect((await judge(withProof(change))).outcome, JSON.stringify(change).slice(0, 60)).toBe(
        'refuted',
      )
  })

  test('is not made from a proof that does not hold', async () => {
    const witness = await witnessBlock(
      node,
      { chainId: CHAIN, number: NUMBER, hash: `0x${'11'.repeat(32)}` },
      AT,
    )
    const input = {
      root,
      treeSize: 5,
      chainId: CHAIN,
      proof: proofOf([raw], 0, headerOf(transactionsRoot([raw]))),
      witness,
      observedDepth: 3,
      requiredDepth: 3,
      group: [receipt.txHash],
      version: '9.9.9',
      observedAt: AT,
    }
    await expect(ethereumReceipt(input)).rejects.toMatchObject({ code: 'bad-proof' })
    const good = (receipt.proof as unknown as { witnesses: string[] }).witnesses[0]!
    await expect(ethereumReceipt({ ...input, witness: good, group: [] })).rejects.toMatchObject({
      code: 'bad-proof',
    })
    await expect(ethereumReceipt({ ...input, witness: good })).resolves.toEqual(receipt)
  })
})

test('a block witness names its block and who says so', async () => {
  const block = { chainId: 1, number: 5, hash: `0x${'22'.repeat(32)}` }
  expect(await verifyBlockWitness(await witnessBlock(node, block, AT))).toEqual({
    ...block,
    did: node.did,
  })
})

test('chains have the names of the list, and others their number', () => {
  expect([1, 11155111, 31337, 424242].map(evmNetwork)).toEqual([
    'mainnet',
    'sepolia',
    'anvil',
    'eip155-424242',
  ])
})
