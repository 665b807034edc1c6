/**
 * Anchor receipts are judged in workerd as in Node (test/core/anchor-vectors.test.ts): one of each kind from real
 * chains, and every change refused by the same check.
 */

import { expect, test } from 'vitest'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { utf8 } from '#core/bytes.ts'
import { verifyReceipt } from '#core/receipt.ts'
import {
  anchorOfKind,
  event,
  kinds,
  receipt,
  tamperedAnchors,
  trust,
} from '../support/anchor-vectors.ts'

test('a receipt with an anchor of each kind verifies in workerd', async () => {
  expect(navigator.userAgent).toBe('Cloudflare-Workers')
  const report = await verifyReceipt(receipt, trust, utf8(event))
  expect([report.verdict, report.anchored]).toEqual(['verified', ['BTC', 'BTC', 'EVM', 'TSA']])
  for (const kind of kinds) {
    const verdict = await verifyAnchorReceipt(anchorOfKind(kind), trust)
    expect([kind, verdict.outcome]).toEqual([kind, 'verified'])
  }
})

test.each(tamperedAnchors())('workerd refuses $kind at $check: $name', async (changed) => {
  const { anchor, check } = changed
  expect(await verifyAnchorReceipt(anchor, trust)).toMatchObject({ outcome: 'refuted', check })
})
