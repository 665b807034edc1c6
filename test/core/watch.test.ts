import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  anchorsLeft,
  EXPIRY_AHEAD_MS,
  isDown,
  isExpiring,
  isRetrying,
  isStale,
  PEER_DOWN_MS,
  STALE_AFTER_MS,
} from '#core/watch.ts'

const NOW = 1_796_000_000_000

describe('seals', () => {
  test.each([
    [0, 0, false],
    [0, 2, false],
    [0, 3, true],
    [147, 3, false],
    [146, 3, true],
    [1000, 20, false],
    [1000, 21, true],
  ])('%i sealed and %i failed within an hour: an alert is %s', (sealed, failed, is) => {
    expect(isRetrying({ sealed, failed })).toBe(is)
  })

  test('a failure more never ends the alert, a seal more never begins it', () => {
    const n = fc.integer({ min: 0, max: 10_000 })
    fc.assert(
      fc.property(n, n, (sealed, failed) => {
        const is = isRetrying({ sealed, failed })
        if (is) expect(isRetrying({ sealed, failed: failed + 1 })).toBe(true)
        if (!is) expect(isRetrying({ sealed: sealed + 1, failed })).toBe(false)
      }),
    )
  })

  test('events are stale a minute after the interval, and none that wait are never', () => {
    const interval = 120_000
    const oldest = NOW - interval - STALE_AFTER_MS
    expect(isStale(oldest, NOW, interval)).toBe(false)
    expect(isStale(oldest - 1, NOW, interval)).toBe(true)
    expect(isStale(null, NOW, interval)).toBe(false)
  })
})

test('a peer is down after ten minutes, not before', () => {
  expect(isDown(NOW - PEER_DOWN_MS, NOW)).toBe(false)
  expect(isDown(NOW - PEER_DOWN_MS - 1, NOW)).toBe(true)
})

test('a certificate is announced thirty days ahead, and stays announced when it has ended', () => {
  expect(isExpiring(NOW + EXPIRY_AHEAD_MS + 1, NOW)).toBe(false)
  expect(isExpiring(NOW + EXPIRY_AHEAD_MS, NOW)).toBe(true)
  expect(isExpiring(NOW - 1, NOW)).toBe(true)
})

describe('a wallet', () => {
  const amount = fc.bigInt({ min: 0n, max: 10n ** 24n })
  const cap = fc.bigInt({ min: 1n, max: 10n ** 18n })

  test('pays for as many anchors as it says, and for no more', () => {
    fc.assert(
      fc.property(amount, cap, amount, (balance, feeCap, kept) => {
        const left = anchorsLeft(balance, feeCap, kept)
        expect(left).toBeGreaterThanOrEqual(0)
        fc.pre(Number.isSafeInteger(left))
        if (left > 0) expect(BigInt(left) * feeCap + kept).toBeLessThanOrEqual(balance)
        expect(BigInt(left + 1) * feeCap + kept).toBeGreaterThan(balance)
      }),
    )
  })

  test('that holds nothing but dust pays for none', () => {
    expect(anchorsLeft(294n, 5000n, 294n)).toBe(0)
    expect(anchorsLeft(5293n, 5000n, 294n)).toBe(0)
    expect(anchorsLeft(5294n, 5000n, 294n)).toBe(1)
  })
})
