/**
 * Ψ falls when one subsystem is sick and stays down while it is; what it is made of adds up; no number breaks it.
 */

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  causes,
  forecast,
  initialPsi,
  PSI_LOW,
  PSI_MAX,
  psiAtRest,
  S_MAX,
  stepPsi,
  swarmPsi,
  WEIGHTS,
  type PsiSample,
  type PsiState,
} from '#core/psi.ts'
import { limitOf, scale } from '#core/signal-scale.ts'
import {
  SIGNAL_NAMES,
  SIGNALS,
  type Expect,
  type SignalName,
  type Signals,
  type Telemetry,
} from '#core/telemetry.ts'
import vector from '../vectors/psi.json' with { type: 'json' }

const promises: Expect = {
  seal_s: 120,
  anchor_btc_s: 7800,
  anchor_evm_s: 4560,
  anchor_tsa_s: 65,
  backlog: 500_000,
}
const well: Signals = {
  intake_rate: 20,
  reject_ratio: 0,
  seal_latency_p50_s: 120,
  seal_latency_p95_s: 121,
  seal_retry_ratio: 0,
  queue_backlog: 1200,
  dead_letters: 0,
  anchor_lag_btc_s: 6000,
  anchor_lag_evm_s: 3000,
  anchor_lag_tsa_s: 30,
  anchor_failure_ratio: 0,
  peer_agreement: 1,
  peer_lag: 0,
  checkpoint_age_s: 60,
}
/** Each as bad as it really gets. */
const sick: Readonly<Partial<Record<SignalName, number>>> = {
  reject_ratio: 0.8,
  seal_latency_p50_s: 1200,
  seal_latency_p95_s: 1200,
  seal_retry_ratio: 1,
  queue_backlog: 480_000,
  dead_letters: 40,
  anchor_lag_btc_s: 40_000,
  anchor_lag_evm_s: 20_000,
  anchor_lag_tsa_s: 300,
  anchor_failure_ratio: 1 / 3,
  peer_agreement: 0.5,
  peer_lag: 20,
  checkpoint_age_s: 900,
}

function telemetry(signals: Partial<Signals>, seq = 1): Telemetry {
  return {
    nodeDid: 'did:key:z',
    seq,
    at: seq * 60_000,
    intervalMs: 60_000,
    expect: promises,
    signals: { ...well, ...signals },
  }
}

/** Ψ of each of `all`, one after the other. */
function run(all: readonly Partial<Signals>[], from: PsiState = initialPsi()) {
  let state = from
  const samples = all.map((signals) => {
    const step = stepPsi(state, telemetry(signals, state.samples + 1))
    state = step.state
    return step.sample
  })
  return { state, samples, last: samples.at(-1)! }
}

const times = (n: number, signals: Partial<Signals>): readonly Partial<Signals>[] =>
  Array.from({ length: n }, () => signals)

function xAtRest(signals: Partial<Signals>): readonly (number | null)[] {
  let loads = {}
  let x: readonly (number | null)[] = []
  for (let i = 0; i < 100; i++) ({ x, loads } = scale(telemetry(signals), loads))
  return x
}

const inRange = (name: SignalName): fc.Arbitrary<number | null> => {
  const limit = limitOf(name, promises)
  const near = fc.double({ min: 0, max: 4, noNaN: true }).map((r) => r * limit)
  const { min, max } = SIGNALS[name]
  return fc.option(near.map((value) => Math.max(min, Math.min(max, value))))
}
const anySignals = fc.record(
  Object.fromEntries(SIGNAL_NAMES.map((name) => [name, inRange(name)])) as Record<
    SignalName,
    fc.Arbitrary<number | null>
  >,
)
const hostileNumber = fc.oneof(fc.double(), fc.constantFrom(0, -1, 1e300, Infinity, -Infinity, NaN))
const hostile: fc.Arbitrary<Telemetry> = fc.record({
  nodeDid: fc.constant('did:key:z'),
  seq: fc.nat(),
  at: fc.nat(),
  intervalMs: hostileNumber,
  expect: fc.record({
    seal_s: hostileNumber,
    anchor_btc_s: hostileNumber,
    anchor_evm_s: hostileNumber,
    anchor_tsa_s: hostileNumber,
    backlog: hostileNumber,
  }),
  signals: fc.record(
    Object.fromEntries(SIGNAL_NAMES.map((name) => [name, fc.option(hostileNumber)])) as Record<
      SignalName,
      fc.Arbitrary<number | null>
    >,
  ),
})

function expectSums(sample: PsiSample): void {
  const terms = sample.terms.reduce((sum, { contribution }) => sum + contribution, 0)
  expect(terms).toBeCloseTo(sample.s, 9)
  const costs = sample.signals.reduce((sum, { contribution }) => sum + contribution, 0)
  expect(costs).toBeCloseTo(sample.psi - PSI_MAX, 9)
  for (const { contribution } of sample.signals) expect(contribution).toBeLessThanOrEqual(0)
  for (const { value, weight, contribution } of sample.terms) {
    expect(contribution).toBe(weight * value)
    expect(value >= 0 && value <= 1).toBe(true)
  }
  expect(sample.psi).toBeCloseTo(1 / (1 + Math.exp(-3 * (sample.s - 1.5))), 12)
}

describe('Ψ', () => {
  test('of a node that keeps its promises is the most there is, from its first sample on', () => {
    const { samples } = run(times(40, {}))
    for (const sample of samples) {
      expect(sample.psi).toBeCloseTo(PSI_MAX, 6)
      expect(sample).toMatchObject({ C: 1, U: 1, Phi: 1, H: 0, M: 2 })
      expect(sample.PE).toBeLessThan(1e-6)
    }
    expect(PSI_MAX).toBeCloseTo(0.989, 3)
    expect(S_MAX).toBeCloseTo(WEIGHTS.M + WEIGHTS.C + WEIGHTS.U + WEIGHTS.Phi, 12)
    const nothing = Object.fromEntries(SIGNAL_NAMES.map((name) => [name, null])) as Signals
    expect(run([nothing]).last.psi).toBeCloseTo(PSI_MAX, 9)
  })

  test('of a trace is what another program makes of the page', () => {
    expect(vector.names).toEqual(SIGNAL_NAMES)
    let state = initialPsi()
    vector.samples.forEach(({ at, values, expected }, seq) => {
      const signals = Object.fromEntries(
        SIGNAL_NAMES.map((name, i) => [name, values[i]]),
      ) as Signals
      const step = stepPsi(state, { ...telemetry(signals, seq), at, expect: vector.expect })
      state = step.state
      const { psi, s, M, C, U, Phi, H, PE } = step.sample
      const is = [psi, s, M, C, U, Phi, H, PE]
      is.forEach((value, i) => expect(value, `sample ${seq}`).toBeCloseTo(expected[i]!, 8))
    })
  })

  test('of a new node that is sick at once says so, and one bad first ratio does not', () => {
    expect(run([{ checkpoint_age_s: 900 }]).last.psi).toBeLessThan(PSI_LOW)
    expect(run([{ peer_agreement: 0 }]).last.psi).toBeCloseTo(PSI_MAX, 6)
  })

  test.each(Object.entries(sick))(
    'is low within 4 samples when %s alone goes bad, and as long as it stays so',
    (name, value) => {
      const { state } = run(times(60, {}))
      const { samples } = run(times(150, { [name]: value }), state)
      for (const { psi } of samples.slice(3)) expect(psi).toBeLessThan(PSI_LOW)
      // A steady illness is not taken for coherence, though nothing surprises any more.
      expect(samples.at(-1)).toMatchObject({ C: 0, H: 0 })
      expect(samples.at(-1)!.PE).toBeLessThan(0.01)
      expect(causes(samples.at(-1)!, 1)[0]!.name).toBe(name)
    },
  )

  test('does not care how much a healthy node takes in', () => {
    const { state } = run(times(20, {}))
    // It is a surprise at first, which passes.
    expect(run(times(3, { intake_rate: 1e6 }), state).last.psi).toBeGreaterThan(0.97)
  })

  test('is the same with a rail off, or without peers, as with good ones', () => {
    const off = { anchor_lag_btc_s: null, peer_agreement: null, peer_lag: null }
    expect(run(times(5, off)).last.psi).toBeCloseTo(run(times(5, {})).last.psi, 9)
    const { signals } = run(times(5, off)).last
    expect(signals.find((s) => s.name === 'peer_lag')).toMatchObject({ x: null, contribution: 0 })
  })

  test('comes back with the first good sample, and all the way with the memory', () => {
    const ill = run([...times(60, {}), ...times(60, { queue_backlog: 480_000 })])
    expect(ill.last.psi).toBeLessThan(0.15)
    const { samples } = run(times(20, {}), ill.state)
    expect(samples[0]!.psi).toBeGreaterThan(PSI_LOW)
    expect(samples[0]!.PE).toBe(0)
    expect(samples[19]!.psi).toBeGreaterThan(0.98)
  })

  test('is ½ when one signal stays at 1.48 times its limit', () => {
    const r2 = 1.48 ** 2
    const x = SIGNAL_NAMES.map((name) => (name === 'queue_backlog' ? (r2 - 1) / (r2 + 1) : -1))
    expect(psiAtRest(x)).toBeCloseTo(PSI_LOW, 1)
    const { last } = run(times(60, { queue_backlog: 1.48 * 250_000 }))
    expect(last.psi).toBeCloseTo(psiAtRest(x), 6)
  })

  test('of a node that stays as it is comes to its place on the curve', () => {
    fc.assert(
      fc.property(anySignals, (signals) => {
        const { last } = run(times(80, signals))
        expect(last.psi).toBeCloseTo(psiAtRest(xAtRest(signals)), 4)
      }),
      { numRuns: 20 },
    )
  })

  test('on the curve never rises when a signal gets worse', () => {
    const x = fc.array(fc.option(fc.double({ min: -1, max: 1, noNaN: true })), {
      minLength: SIGNAL_NAMES.length,
      maxLength: SIGNAL_NAMES.length,
    })
    const more = fc.double({ min: 0, max: 2, noNaN: true })
    fc.assert(
      fc.property(x, fc.nat(SIGNAL_NAMES.length - 1), more, (is, i, by) => {
        const was = is[i]
        if (was == null) return
        const worse = is.with(i, Math.min(1, was + by))
        expect(psiAtRest(worse)).toBeLessThanOrEqual(psiAtRest(is) + 1e-12)
      }),
      { numRuns: 1000 },
    )
  })

  test('has M, C, Φ and PE that never get better when one signal gets worse, whatever was before', () => {
    const history = fc.array(anySignals, { maxLength: 20 })
    fc.assert(
      fc.property(
        ...([
          history,
          anySignals,
          fc.constantFrom(...SIGNAL_NAMES),
          inRange('dead_letters'),
        ] as const),
        (before, signals, name, by) => {
          const value = signals[name]
          if (value === null || by === null) return
          const { min, max } = SIGNALS[name]
          const step = (by / 10) * limitOf(name, promises)
          const worse = name === 'peer_agreement' ? value - step : value + step
          const { state } = run(before)
          const is = run([signals], state).last
          const then = run(
            [{ ...signals, [name]: Math.max(min, Math.min(max, worse)) }],
            state,
          ).last
          for (const term of ['M', 'C', 'Phi'] as const)
            expect(then[term], term).toBeLessThanOrEqual(is[term] + 1e-12)
          expect(then.PE).toBeGreaterThanOrEqual(is.PE - 1e-12)
        },
      ),
      { numRuns: 150 },
    )
  })

  test('stretches the interval of a sick node by 60 % at most', () => {
    expect(run([{}]).last.dtEff).toBeCloseTo(60 * (1 + 0.6 * (1 - PSI_MAX)), 9)
    const { dtEff } = run(times(60, sick)).last
    expect(dtEff).toBeGreaterThan(95)
    expect(dtEff).toBeLessThan(96)
  })
})

describe('what Ψ is made of', () => {
  test('adds up: terms to s, signals to what Ψ lacks', () => {
    fc.assert(
      fc.property(fc.array(anySignals, { minLength: 1, maxLength: 40 }), (all) => {
        for (const sample of run(all).samples) expectSums(sample)
      }),
      { numRuns: 50 },
    )
  })

  test('is finite, bounded and the same again, whatever numbers come', () => {
    fc.assert(
      fc.property(fc.array(hostile, { minLength: 1, maxLength: 40 }), (all) => {
        let state = initialPsi()
        for (const said of all) {
          const step = stepPsi(state, said)
          const { sample } = step
          expectSums(sample)
          expect(sample.psi > 0 && sample.psi <= PSI_MAX).toBe(true)
          expect(sample.M >= 0 && sample.M <= 2).toBe(true)
          expect(sample.H >= 0 && sample.H <= Math.log(16) + 1e-9).toBe(true)
          expect(sample.PE >= 0 && sample.PE <= 2 * Math.sqrt(14)).toBe(true)
          for (const value of Object.values({ ...sample.expected, dt: sample.dtEff }))
            expect(value === null || Number.isFinite(value)).toBe(true)
          const copy = JSON.parse(JSON.stringify(state)) as PsiState
          expect(stepPsi(copy, said)).toEqual(step)
          ;({ state } = step)
        }
        expect(state.window.length).toBeLessThanOrEqual(15)
        expect(JSON.stringify(state).length).toBeLessThan(12_000)
      }),
      { numRuns: 60 },
    )
  })

  test('blames a signal that was bad for what is remembered of it', () => {
    const { samples } = run([...times(20, {}), ...times(9, { queue_backlog: 480_000 }), {}])
    const [first, second] = causes(samples.at(-1)!, 2)
    expect(first!.name).toBe('queue_backlog')
    expect(first!.text).toMatch(/^queue_backlog is 1200 events, limit 250000 events: costs 0\.\d+$/)
    expect(second!.text).toMatch(/costs nothing$/)
  })

  test('is told in words, dearest first, and by name where all cost the same', () => {
    const { last } = run(times(9, { anchor_failure_ratio: 1, checkpoint_age_s: 260 }))
    const all = causes(last, 99)
    expect(all).toHaveLength(14)
    expect(all[0]!.text).toMatch(/^anchor_failure_ratio is 1, limit 0\.1: costs 0\.\d+$/)
    expect(all[1]!.text).toMatch(/^checkpoint_age_s is 260 s, limit 241 s: costs 0\.\d+$/)
    expect(causes(run([{}]).last, 3).map(({ name }) => name)).toEqual(SIGNAL_NAMES.slice(0, 3))
    const held = run([...times(9, { seal_retry_ratio: 1 }), { seal_retry_ratio: null }]).last
    expect(causes(held, 1)[0]!.text).toMatch(/^seal_retry_ratio has no value, limit 0\.1: costs 0/)
    const gone = run([...times(9, { peer_agreement: 0 }), { peer_agreement: null }]).last
    expect(causes(gone, 1)[0]!.text).toMatch(/^peer_agreement has no value: costs 0/)
  })

  test('has what was expected before it came, and what is expected next, in units', () => {
    const { state, samples } = run([{}, { checkpoint_age_s: 100, peer_lag: null }])
    expect(Object.values(samples[0]!.expected)).toEqual(SIGNAL_NAMES.map(() => null))
    expect(samples[1]!.expected.checkpoint_age_s).toBeCloseTo(60, 6)
    expect(samples[1]!.expected.peer_lag).toBeCloseTo(0, 3)
    const next = forecast(state, promises)
    // Weights moved a little towards what came.
    expect(next.checkpoint_age_s).toBeGreaterThan(99)
    expect(next.checkpoint_age_s).toBeLessThan(110)
    expect(next.peer_lag).toBeNull()
  })
})

describe('Ψ of a swarm', () => {
  const good = run(times(20, {})).last
  const bad = run(times(60, { queue_backlog: 480_000 })).last

  test('is none without nodes, the most with good ones, and low with sick ones', () => {
    expect(swarmPsi([])).toBeNull()
    expect(swarmPsi([good])!.psi).toBeCloseTo(PSI_MAX, 6)
    expect(swarmPsi([good, good, good])).toMatchObject({ nodes: 3, Phi: 1, weakest: good.psi })
    expect(swarmPsi([bad, bad])!.psi).toBeLessThan(0.05)
    expect(swarmPsi([good, bad])!.psi).toBeLessThan(PSI_LOW + 0.01)
    const few = swarmPsi([good, good, good, good, good, good, bad])!
    expect(few.psi).toBeGreaterThan(PSI_LOW)
    expect(few.weakest).toBe(bad.psi)
  })

  test('does not rise when one of its nodes falls, and does not depend on their order', () => {
    const value = fc.double({ min: 0, max: 1, noNaN: true })
    const node = fc
      .tuple(value, value, value, value)
      .map(([psi, C, U, H]): PsiSample => ({ ...good, psi: psi * PSI_MAX, C, U, H }))
    fc.assert(
      fc.property(fc.array(node, { minLength: 1, maxLength: 8 }), value, (nodes, by) => {
        const is = swarmPsi(nodes)!
        expect(is.psi > 0 && is.psi <= PSI_MAX).toBe(true)
        expect(swarmPsi(nodes.toReversed())!.psi).toBeCloseTo(is.psi, 9)
        const { psi, C, U, H } = nodes[0]!
        const worse = { ...nodes[0]!, psi: psi * by, C: C * by, U: U * by, H: H + by }
        expect(swarmPsi([worse, ...nodes.slice(1)])!.psi).toBeLessThanOrEqual(is.psi + 1e-12)
      }),
    )
  })
})
