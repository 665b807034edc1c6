import { afterAll, beforeAll, expect, test } from 'vitest'
import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { anchorReceiptSchema } from '#core/anchor-receipt.ts'
import { timestampReceipt } from '#core/anchor-timestamp.ts'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { fromHex } from '#core/bytes.ts'
import { certificateSha256, verifyTimestamp } from '#core/timestamp-proof.ts'
import { authorities, stamp } from '../support/tsa.ts'

const root = fromHex('a7'.repeat(32))
const nonce = fromHex('00112233445566778899aabbccddeeff')

let home: Awaited<ReturnType<typeof authorities>>
let receipt: AnchorReceipt
let tsaRoots: string[]
let foreignRoots: string[]

beforeAll(async () => {
  home = await authorities()
  const authority = await home.make()
  const token = await stamp(authority, root, nonce)
  tsaRoots = [authority.rootPem]
  foreignRoots = [(await home.make()).rootPem]
  const verdict = await verifyTimestamp({ token, root, nonce, trustedRoots: tsaRoots })
  receipt = timestampReceipt({
    root,
    treeSize: 4608,
    network: 'tsa.example',
    token,
    nonce,
    verdict,
    version: '0.1.0',
    observedAt: verdict.genTime + 40,
  })
})
afterAll(() => home.remove())

test('a TSA receipt has the plan’s fields and verifies after a trip through JSON', async () => {
  const copy: unknown = JSON.parse(JSON.stringify(receipt))
  expect(anchorReceiptSchema.parse(copy)).toEqual(receipt)
  expect(receipt).toMatchObject({
    root: `0x${'a7'.repeat(32)}`,
    chain: 'TSA',
    network: 'tsa.example',
    blockNumber: null,
    verifier: 'v0.1.0',
    status: 'verified',
    finality: { observedDepth: 0, requiredDepth: 0, state: 'final' },
    group: [receipt.txHash],
  })
  const verdict = await verifyAnchorReceipt(copy, { tsaRoots: [...foreignRoots, ...tsaRoots] })
  expect(verdict).toMatchObject({ outcome: 'verified', anchoredAt: Date.parse(receipt.anchorTs) })
})

test('no field that the token determines can be changed', async () => {
  const proof = receipt.proof
  const changes: Record<string, Partial<Record<keyof AnchorReceipt, unknown>>> = {
    root: { root: `0x${'a8'.repeat(32)}` },
    txHash: { txHash: 'ab'.repeat(32) },
    prefix: { txHash: `0x${receipt.txHash}` },
    anchorTs: { anchorTs: new Date(Date.parse(receipt.anchorTs) - 1).toISOString() },
    blockNumber: { blockNumber: 1 },
    group: { group: [receipt.txHash, receipt.txHash] },
    finality: { finality: { observedDepth: 6, requiredDepth: 6, state: 'final' } },
    status: { status: 'included' },
    unknown: { extra: 1 } as object,
    nonce: { proof: { ...proof, nonce: '11'.repeat(16) } },
    policy: { proof: { ...proof, policy: '1.2.3' } },
    serial: { proof: { ...proof, serial: '7f' } },
    signer: { proof: { ...proof, tsaCertSha256: '00'.repeat(32) } },
    accuracy: { proof: { ...proof, accuracyMs: 1 } },
    token: { proof: { ...proof, token: 'AAAA' } },
    base64: { proof: { ...proof, token: '*' } },
    proof: { proof: { ...proof, more: 1 } },
  }
  for (const [name, change] of Object.entries(changes)) {
    const verdict = await verifyAnchorReceipt({ ...receipt, ...change }, { tsaRoots })
    expect(verdict.outcome, name).toBe('refuted')
  }
})

test('a root that is not pinned is untrusted, never verified', async () => {
  const verdict = await verifyAnchorReceipt(receipt, { tsaRoots: foreignRoots })
  expect(verdict).toMatchObject({ outcome: 'untrusted' })
  expect((await verifyAnchorReceipt(receipt, { tsaRoots: [] })).outcome).toBe('untrusted')
})

test('a proof that names a pinned root it does not lead to is refuted', async () => {
  const rootSha256 = certificateSha256(foreignRoots.join(''))
  const forged = { ...receipt, proof: { ...receipt.proof, rootSha256 } }
  const verdict = await verifyAnchorReceipt(forged, { tsaRoots: [...tsaRoots, ...foreignRoots] })
  expect(verdict).toMatchObject({ outcome: 'refuted', check: 'chain' })
})

test('a chain or proof that this version does not know is unsupported, never verified', async () => {
  for (const change of [
    { chain: 'BTC' },
    { chain: 'EVM' },
    { chain: 'TSA', proof: { type: 'rfc9999' } },
    { chain: 'BTC', proof: receipt.proof },
    { chain: 'TSA', proof: { type: 'constructor' } },
  ]) {
    const verdict = await verifyAnchorReceipt({ ...receipt, ...change }, { tsaRoots })
    expect(verdict).toMatchObject({ outcome: 'unsupported' })
    expect(JSON.stringify(verdict)).toContain('unsupported by this version')
  }
})

test('what is no receipt is refuted without a throw', async () => {
  for (const value of [
    null,
    1,
    'x',
    [],
    {},
    { ...receipt, chain: 'DOGE' },
    { ...receipt, proof: null },
  ]) {
    expect((await verifyAnchorReceipt(value, { tsaRoots })).outcome).toBe('refuted')
  }
})

test('a trust list that cannot be read is an error of the caller, not a verdict', async () => {
  await expect(verifyAnchorReceipt(receipt, { tsaRoots: ['nonsense'] })).rejects.toThrow('PEM')
})

test.each([
  'tsa.example.\nOK  BTC mainnet',
  'tsa.example\u001b[8m',
  'tsa.example: before',
  'tsa.example\u202e',
  '',
])('a network that would print as more than a name is refused (%j)', async (network) => {
  const verdict = await verifyAnchorReceipt({ ...receipt, network }, { tsaRoots })
  expect(verdict).toMatchObject({ outcome: 'refuted', check: 'shape' })
})
