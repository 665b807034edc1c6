import { describe, expect, test } from 'vitest'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { utf8 } from '#core/bytes.ts'
import { verifyReceipt } from '#core/receipt.ts'
import {
  anchorOfKind,
  event,
  kinds,
  receipt,
  receiptWith,
  tamperedAnchors,
  trust,
} from '../support/anchor-vectors.ts'

describe('an anchor kept from a devnet', () => {
  test.each(kinds)('of kind %s verifies by its file alone', async (kind) => {
    const verdict = await verifyAnchorReceipt(anchorOfKind(kind), trust)
    expect(verdict).toMatchObject({ outcome: 'verified', root: `0x${receipt.root.slice(7)}` })
  })

  test.each(tamperedAnchors())('of kind $kind is refused at $check: $name', async (changed) => {
    const { anchor, check } = changed
    expect(await verifyAnchorReceipt(anchor, trust)).toMatchObject({ outcome: 'refuted', check })
    const report = await verifyReceipt(receiptWith(anchor), trust, utf8(event))
    expect(report.verdict).toBe('refuted')
  })

  test('verifies in its receipt with the three others, six changes of each refused', async () => {
    const report = await verifyReceipt(receipt, trust, utf8(event))
    expect(report.verdict).toBe('verified')
    expect(report.anchored).toEqual(['BTC', 'BTC', 'EVM', 'TSA'])
    expect(report.production).toEqual(['TSA'])
    for (const kind of kinds) {
      expect(tamperedAnchors().filter((t) => t.kind === kind)).toHaveLength(6)
    }
  })
})
