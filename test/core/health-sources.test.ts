/**
 * What counts and peers come to as signals.
 */

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { peersNow, quantile, sinceBaseline, type Baseline } from '#core/health-sources.ts'
import { metrics } from '#core/metrics.ts'

const BOUNDS: readonly number[] = metrics.vaultmesh_seal_latency_seconds.buckets
const ACCEPTED = 'vaultmesh_events_total accepted'
const REJECTED = 'vaultmesh_events_total rejected'
const OVERLOADED = 'vaultmesh_problems_total overloaded'
const INTERNAL = 'vaultmesh_problems_total internal'
const SEALED = 'vaultmesh_seal_batches_total sealed'
const FAILED = 'vaultmesh_seal_batches_total failed'

describe('counts', () => {
  const at = (ms: number, counts: Baseline['counts'] = {}): Baseline => ({ at: ms, counts })

  test('what happened is the difference between two moments, by the time between them', () => {
    const before = at(0, { [ACCEPTED]: [100], [OVERLOADED]: [5], [SEALED]: [7], [FAILED]: [0] })
    const now = at(10_000, {
      [ACCEPTED]: [130],
      [OVERLOADED]: [14],
      [INTERNAL]: [1],
      [SEALED]: [10],
      [FAILED]: [1],
    })
    expect(sinceBaseline(before, now)).toMatchObject({
      intake_rate: 3,
      reject_ratio: 0.25,
      seal_retry_ratio: 0.25,
      seal_latency_p50_s: null,
    })
  })

  test('what anybody can send and must be refused is no refusal of which the node is to blame', () => {
    const before = at(0, { [REJECTED]: [0], 'vaultmesh_problems_total bad-jws': [0] })
    const now = at(1000, { [REJECTED]: [9], 'vaultmesh_problems_total bad-jws': [9] })
    expect(sinceBaseline(before, now)).toMatchObject({ reject_ratio: 0 })
  })

  test('where nothing came nothing was refused, and where nothing was tried there is no ratio', () => {
    expect(sinceBaseline(at(0), at(1000))).toMatchObject({
      intake_rate: 0,
      reject_ratio: 0,
      seal_retry_ratio: null,
      seal_latency_p95_s: null,
    })
  })

  test('a first interval, a counter that fell or is gone, and a clock that stands still cannot be counted', () => {
    const before = at(0, { [ACCEPTED]: [100] })
    for (const [was, is] of [
      [null, at(1000)],
      [before, at(1000, { [ACCEPTED]: [99] })],
      [before, at(1000)],
      [before, at(0, { [ACCEPTED]: [100] })],
    ] as const) {
      expect(sinceBaseline(was, is)).toEqual({ note: expect.any(String) as string })
    }
  })
})

describe('quantiles of a histogram', () => {
  test('nothing counted has none, and one beyond all bounds is at least the last of them', () => {
    expect(quantile([], 0.5)).toBeNull()
    expect(
      quantile(
        BOUNDS.map(() => 0),
        0.5,
      ),
    ).toBeNull()
    expect(quantile([...BOUNDS.map(() => 0), 3], 0.5)).toBe(BOUNDS.at(-1))
  })

  test('a quantile lies within its bucket, and does not fall when q rises', () => {
    const counts = fc.array(fc.nat({ max: 50 }), {
      minLength: BOUNDS.length + 1,
      maxLength: BOUNDS.length + 1,
    })
    fc.assert(
      fc.property(counts, fc.double({ min: 0.01, max: 1, noNaN: true }), (buckets, q) => {
        const total = buckets.reduce((sum, n) => sum + n, 0)
        const value = quantile(buckets, q)
        if (total === 0) return expect(value).toBeNull()
        let below = 0
        const i = buckets.findIndex((n) => (below += n) >= q * total - 1e-9 && n > 0)
        expect(value).toBeGreaterThanOrEqual(i === 0 ? 0 : BOUNDS[Math.min(i, BOUNDS.length) - 1]!)
        expect(value).toBeLessThanOrEqual(BOUNDS[Math.min(i, BOUNDS.length - 1)]! + 1e-9)
        expect(quantile(buckets, q / 2)).toBeLessThanOrEqual(value! + 1e-9)
      }),
    )
  })
})

describe('peers', () => {
  const NOW = Date.parse('2026-11-23T12:00:00Z')
  const ago = (ms: number): string => new Date(NOW - ms).toISOString()
  const peer = (more: object = {}) =>
    ({
      did: 'did:key:a',
      state: 'ok',
      lawHash: 'law',
      lastSeen: ago(1000),
      failures: 0,
      lag: 0,
      ...more,
    }) as never
  const view = (...peers: object[]) => ({ lawHash: 'law', peers }) as never

  test('without peers there is neither agreement nor lag', () => {
    const none = { peer_agreement: null, peer_lag: null }
    expect(peersNow(null, null, NOW)).toEqual(none)
    expect(peersNow(view(), [], NOW)).toEqual(none)
  })

  test.each([
    ['one that answers', {}, 1],
    ['one that was never seen', { state: 'unseen', lastSeen: null }, 0],
    ['one of another law', { state: 'law-mismatch', lawHash: 'other' }, 0],
    ['one that is frozen', { state: 'key-conflict' }, 0],
    ['one without an address that spoke just now', { state: 'no-address' }, 1],
    ['one without an address and of another law', { state: 'no-address', lawHash: 'other' }, 0],
    ['one without an address that fell silent', { state: 'no-address', lastSeen: ago(61_000) }, 0],
    ['one whose last visit took too long', { state: 'failing', failures: 2 }, 1],
    ['one whose visits fail', { state: 'failing', failures: 3 }, 0],
    [
      'one that failed and was not heard',
      { state: 'failing', failures: 1, lastSeen: ago(11_000) },
      0,
    ],
  ])('%s agrees or does not', (_, more, agreement) => {
    expect(peersNow(view(peer(more)), [], NOW).peer_agreement).toBe(agreement)
    expect(peersNow(view(peer(more), peer()), [], NOW).peer_agreement).toBe((agreement + 1) / 2)
  })

  test('a fork that is not decided is no agreement, and the peer furthest behind counts', () => {
    const tip = (state: string, pending: number) => ({ did: 'did:key:a', state, pending }) as never
    expect(peersNow(view(peer()), [tip('undecided', 0)], NOW).peer_agreement).toBe(0)
    expect(peersNow(view(peer()), [tip('decided', 0)], NOW).peer_agreement).toBe(1)
    const two = view(peer({ lag: 3 }), peer({ did: 'did:key:b', lag: 1 }))
    expect(peersNow(two, [tip('clear', 9)], NOW).peer_lag).toBe(9)
    expect(peersNow(two, [], NOW).peer_lag).toBe(3)
  })
})
