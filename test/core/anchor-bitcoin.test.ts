import { describe, expect, test } from 'vitest'
import {
  bitcoinReceipt,
  calendarReceipt,
  checkMainnetClaim,
  FIRST_HEIGHT,
} from '#core/anchor-bitcoin.ts'
import { anchorReceiptSchema, isDevNetwork, type AnchorReceipt } from '#core/anchor-receipt.ts'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { mainnetBits } from '#core/bitcoin-epochs.ts'
import { bitsOf, targetOf } from '#core/bitcoin-proof.ts'
import { toDisplay } from '#core/bitcoin-transaction.ts'
import { fromBase64, fromHex, toBase64, toHex } from '#core/bytes.ts'
import {
  bitcoinOperations,
  emitOts,
  linearTimestamp,
  mergeTimestamps,
  parseOts,
} from '#core/opentimestamps.ts'
import { sha256 } from '#core/sha256.ts'
import { block, root, START, transaction } from '../support/bitcoin-chain.ts'
import { sha256d } from '#core/bitcoin-transaction.ts'
import { refusal } from '../support/refusal.ts'

const proof = block()
const txid = toDisplay(sha256d(transaction(root)))
const common = {
  root,
  treeSize: 9,
  network: 'regtest',
  requiredDepth: 7,
  version: '9.9.9',
  observedAt: (START + 9000) * 1000,
}
const trust = { tsaRoots: [] }

function own(change: Partial<Parameters<typeof bitcoinReceipt>[0]> = {}): AnchorReceipt {
  return bitcoinReceipt({ ...common, proof, group: ['ab'.repeat(32), txid], ...change })
}

/** A path to the block of `proof`: what an upgraded calendar gives. */
function otsOf(height = proof.height): Uint8Array {
  const operations = bitcoinOperations(root, {
    rawTx: fromHex(proof.rawTx),
    branch: proof.branch.map(fromHex),
    position: proof.position,
    height,
  })
  const path = linearTimestamp(root, operations, { type: 'bitcoin', height })
  const pending = { type: 'pending', uri: 'https://calendar.example' } as const
  return emitOts(mergeTimestamps(path, linearTimestamp(root, [{ type: 'sha256' }], pending)))
}

function byCalendar(change: Partial<Parameters<typeof calendarReceipt>[0]> = {}): AnchorReceipt {
  const { header, following, height } = proof
  return calendarReceipt({ ...common, ots: otsOf(), header, following, height, ...change })
}

const kinds = [
  ['a transaction of ours', own()],
  ['a calendar', byCalendar()],
] as const

describe.each(kinds)('a receipt of %s', (_, receipt) => {
  test('has the plan’s fields, derived from the proof, and verifies', async () => {
    expect(anchorReceiptSchema.parse(receipt)).toEqual(receipt)
    expect(receipt).toMatchObject({
      root: `0x${toHex(root)}`,
      chain: 'BTC',
      network: 'regtest',
      txHash: txid,
      blockNumber: 101,
      anchorTs: new Date(START * 1000).toISOString(),
      status: 'verified',
      finality: { observedDepth: 7, requiredDepth: 7, state: 'final' },
    })
    const verdict = await verifyAnchorReceipt(receipt, trust)
    expect(verdict).toMatchObject({ outcome: 'verified', anchoredAt: START * 1000 })
  })

  test('says of a dev network that it proves nothing to others', async () => {
    const verdict = await verifyAnchorReceipt(receipt, trust)
    expect(verdict).toMatchObject({ trust: expect.stringContaining('anybody can mine its blocks') })
  })

  test.each([
    ['root', { root: `0x${'00'.repeat(32)}` }, 'commitment'],
    ['txHash', { txHash: 'ab'.repeat(32) }, 'txHash'],
    ['blockNumber', { blockNumber: null }, null],
    ['anchorTs', { anchorTs: new Date(START * 1000 + 1000).toISOString() }, 'anchorTs'],
    ['network', { network: 'signet' }, 'bits'],
    ['network', { network: 'mainnet' }, 'bits'],
    ['network', { network: 'constructor' }, 'network'],
    ['group', { group: ['cd'.repeat(32)] }, 'group'],
    ['depth', { finality: { observedDepth: 8, requiredDepth: 7, state: 'final' } }, 'finality'],
    ['depth', { finality: { observedDepth: 7, requiredDepth: 8, state: 'final' } }, 'depth'],
  ])('with another %s is refuted', async (_field, change, check) => {
    const verdict = await verifyAnchorReceipt({ ...receipt, ...change }, trust)
    expect(verdict).toMatchObject({ outcome: 'refuted', ...(check === null ? {} : { check }) })
  })

  test('with a header, a following header or a whole proof changed is refuted', async () => {
    const { proof: given } = receipt
    // nTime: the work is gone with it.
    const flipped = `${proof.header.slice(0, 136)}00000000${proof.header.slice(144)}`
    const variants = [
      { ...given, header: flipped },
      { ...given, following: proof.following.slice(1) },
      { ...given, following: [...proof.following.slice(0, 5), flipped] },
      { ...given, extra: 1 },
      { type: given.type },
    ]
    for (const changed of variants) {
      const verdict = await verifyAnchorReceipt({ ...receipt, proof: changed }, trust)
      expect(verdict.outcome).toBe('refuted')
    }
  })
})

describe('making a receipt', () => {
  test('refuses a proof that does not verify, a shallow one, and a transaction that was never signed', () => {
    expect(refusal(() => own({ root: new Uint8Array(32) }))).toMatch(/^commitment/)
    expect(refusal(() => own({ requiredDepth: 8 }))).toMatch(/^depth/)
    expect(refusal(() => own({ group: ['ab'.repeat(32)] }))).toMatch(/^group/)
    expect(refusal(() => byCalendar({ following: proof.following.slice(0, 5) }))).toMatch(/^depth/)
  })

  test('refuses calendars that attest another block or another root', () => {
    expect(refusal(() => byCalendar({ ots: otsOf(102) }))).toMatch(/^branch/)
    expect(refusal(() => byCalendar({ root: sha256(root) }))).toMatch(/^commitment/)
    const other = block({ following: 6, position: 3 })
    expect(refusal(() => byCalendar({ header: other.header, following: other.following }))).toMatch(
      /^branch/,
    )
  })

  test('names a calendar’s path by its hash where it leads through no transaction', async () => {
    // A block whose Merkle root is the SHA-256 of the root: a path that no transaction is on.
    const bare = block({ count: 1, position: 0, rawTx: transaction(root) })
    const { header, following, height } = bare
    const merkleRoot = fromHex(header).slice(36, 68)
    const operations = [{ type: 'append', bytes: merkleRoot } as const, { type: 'sha256' } as const]
    const lost = linearTimestamp(root, operations, { type: 'bitcoin', height })
    expect(refusal(() => byCalendar({ ots: emitOts(lost), header, following, height }))).toMatch(
      /^branch/,
    )
  })
})

describe('on mainnet', () => {
  test('a block from before this format is refused: early blocks are cheap to mine again', async () => {
    const receipt = { ...own(), network: 'mainnet' }
    const verdict = await verifyAnchorReceipt(receipt, trust)
    expect(verdict.outcome).toBe('refuted')
    expect(FIRST_HEIGHT).toBe(887_040)
    expect(mainnetBits(FIRST_HEIGHT)).not.toBeNull()
  })

  test('easy headers are refused at any height, known or beyond the table', async () => {
    for (const blockNumber of [FIRST_HEIGHT, 955_583, 955_584, 1_200_000]) {
      const verdict = await verifyAnchorReceipt(
        { ...own(), network: 'mainnet', blockNumber },
        { ...trust, bitcoinBits: () => 0x207fffff },
      )
      expect(verdict.outcome, String(blockNumber)).toBe('refuted')
    }
  })
})

test('an .ots in a receipt is read back byte for byte', () => {
  const { ots } = byCalendar().proof as unknown as { ots: string }
  expect(toBase64(emitOts(parseOts(fromBase64(ots))))).toBe(ots)
})

describe('a claim on mainnet', () => {
  /** A header of `time` (s) and bits; its work is checked elsewhere. */
  const header = (time: number, bits: number): string => {
    const bytes = fromHex('00'.repeat(80))
    const view = new DataView(bytes.buffer)
    view.setUint32(68, time, true)
    view.setUint32(72, bits, true)
    return toHex(bytes)
  }
  const known = (height: number) => mainnetBits(height)
  const claim = (height: number, time: number, bits = 0x17020000) =>
    refusal(() => checkMainnetClaim({ header: header(time, bits), following: [] }, height, known))
  // Block 840,000 and ten minutes a block.
  const timeOf = (height: number) => 1_713_571_767 + (height - 840_000) * 600

  test('has a height of our time and a header time that fits it', () => {
    for (const height of [FIRST_HEIGHT, 920_000, 955_583]) {
      expect(claim(height, timeOf(height))).toBe('accepted')
      expect(claim(height, 1_231_006_505), 'the time of the first block').toMatch(/^time/)
      expect(claim(height, timeOf(height) + 3 * 31_536_000), 'three years late').toMatch(/^time/)
    }
    expect(claim(FIRST_HEIGHT - 1, timeOf(FIRST_HEIGHT))).toMatch(/^height/)
    expect(claim(3_000_000, timeOf(955_584)), 'a height of far ahead').toMatch(/^time/)
  })

  test('beyond the table has a sixteenth of the last known difficulty at least', () => {
    const last = targetOf(mainnetBits(955_583)!)
    expect(claim(960_000, timeOf(960_000), bitsOf(last * 15n))).toBe('accepted')
    expect(claim(960_000, timeOf(960_000), bitsOf(last * 17n))).toMatch(/^bits/)
  })
})

describe('a dev network', () => {
  test.each([
    ['BTC', 'mainnet', false],
    ['BTC', 'signet', true],
    ['BTC', 'regtest', true],
    ['EVM', 'mainnet', false],
    ['EVM', 'gnosis', false],
    ['EVM', 'sepolia', true],
    ['EVM', 'anvil', true],
    ['EVM', 'eip155-84532', true],
    ['EVM', 'constructor', true],
    ['TSA', 'timestamp.digicert.com', false],
    ['TSA', '127.0.0.1', true],
    ['TSA', '10.0.0.5', true],
    ['TSA', '[fd00::1]', true],
    ['TSA', 'tsa', true],
    ['TSA', '[:]', true],
    ['TSA', '[', true],
    ['TSA', '[1::2::3]', true],
    ['TSA', '[1:2:3:4:5:6:7:8:9]', true],
    ['TSA', '[1:2]', true],
    ['TSA', '[2a00::1]', false],
    ['TSA', 'tsa.lan', true],
  ] as const)(
    'is everything that is not known to be kept by others: %s %s',
    (chain, network, is) => {
      expect(isDevNetwork(chain, network)).toBe(is)
    },
  )
})
