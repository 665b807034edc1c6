import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  anchorTransitions,
  isStalled,
  MAX_DELAY_S,
  receiptStatus,
  retryDelay,
  type AnchorState,
} from '#core/anchor-state.ts'

const states = Object.keys(anchorTransitions) as AnchorState[]

describe('the life of an anchor', () => {
  test('has a way to final from every state, and only a revocation leaves final', () => {
    for (const from of states) {
      const seen = new Set<AnchorState>([from])
      for (const state of seen) for (const next of anchorTransitions[state]) seen.add(next)
      expect(seen.has('final'), from).toBe(true)
    }
    expect(anchorTransitions.final).toEqual(['orphaned'])
  })

  test('reaches every state from queued', () => {
    const seen = new Set<AnchorState>(['queued'])
    for (const state of seen) for (const next of anchorTransitions[state]) seen.add(next)
    expect([...seen].sort()).toEqual([...states].sort())
  })

  test('goes back to signed from orphaned and dropped, and never from signed to queued', () => {
    expect(anchorTransitions.orphaned).toContain('signed')
    expect(anchorTransitions.dropped).toContain('signed')
    for (const from of ['signed', 'broadcast', 'included'] as const)
      expect(anchorTransitions[from]).not.toContain('queued')
  })

  test('is shown as the design says', () => {
    expect(receiptStatus).toEqual({
      queued: 'pending',
      signed: 'pending',
      broadcast: 'submitted',
      included: 'included',
      final: 'verified',
      orphaned: 'reorged',
      dropped: 'pending',
      held: 'pending',
      failed: 'failed',
    })
  })
})

describe('a retry', () => {
  test('steps 30, 60, … 960, 1800, 1800 seconds', () => {
    const steps = [1, 2, 3, 4, 5, 6, 7, 8, 60].map((n) => retryDelay(n, 0).step)
    expect(steps).toEqual([30, 60, 120, 240, 480, 960, 1800, 1800, 1800])
  })

  test('waits at least half of its step and less than all of it', () => {
    const random = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true })
    fc.assert(
      fc.property(fc.integer({ min: 1, max: 5000 }), random, (failures, r) => {
        const { step, delay } = retryDelay(failures, r)
        expect(step).toBeLessThanOrEqual(MAX_DELAY_S)
        expect(Number.isInteger(delay)).toBe(true)
        expect(delay >= step / 2 && delay < step).toBe(true)
      }),
    )
  })

  test('is stalled once an attempt after a full 1,800 s step has failed: the 8th', () => {
    const stalled = Array.from({ length: 12 }, (_, n) => isStalled(n))
    expect(stalled.indexOf(true)).toBe(8)
    expect(stalled.slice(8)).toEqual([true, true, true, true])
    expect(retryDelay(7, 0).step).toBe(MAX_DELAY_S)
    expect(retryDelay(6, 0).step).toBeLessThan(MAX_DELAY_S)
  })
})
