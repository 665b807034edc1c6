/**
 * The Guardian speaks of what lasts and is unusual, stays silent about the rest, and never falls silent in an outage.
 */

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  COOLDOWN,
  H_HIGH,
  HISTORY,
  initialGuardian,
  LASTING,
  MIN_HISTORY,
  PE_HIGH,
  percentile,
  RUN,
  stepGuardian,
  type GuardianMode,
  type GuardianState,
} from '#core/guardian.ts'
import { initialPsi, PSI_MAX, stepPsi, type PsiSample } from '#core/psi.ts'
import { SIGNAL_NAMES, type Signals } from '#core/telemetry.ts'

const LOW = 0.5
/** 0.5 + a fifth of the way to the best. */
const CLEAR = LOW + 0.2 * (PSI_MAX - LOW)
const none = Object.fromEntries(SIGNAL_NAMES.map((name) => [name, null])) as Signals
const base = stepPsi(initialPsi(), {
  nodeDid: 'did:key:z',
  seq: 1,
  at: 0,
  intervalMs: 60_000,
  expect: { seal_s: 120, backlog: 500_000 },
  signals: { ...none, queue_backlog: 480_000 },
}).sample

type Measured = Partial<Pick<PsiSample, 'psi' | 'PE' | 'H'>>
const good: Measured = { psi: 0.98 }

/** What the Guardian says of each of `all`; the n-th sample is taken at n × 1000. */
function watch(
  all: readonly Measured[],
  {
    mode = 'advanced',
    from = initialGuardian(),
  }: { mode?: GuardianMode; from?: GuardianState } = {},
) {
  let state = from
  const steps = all.map((measured, i) => {
    const sample = { ...base, psi: 0.98, PE: 0, H: 0, ...measured }
    const step = stepGuardian(state, sample, { mode, psiLow: LOW, nowAt: (i + 1) * 1000 })
    state = step.state
    return step
  })
  return {
    state,
    steps,
    last: steps.at(-1)!,
    /** Samples, counted from 1, in which the alarm is open. */
    open: steps.flatMap(({ alarm }, i) => (alarm === null ? [] : [i + 1])),
    /** `kind@sample`. */
    deeds: steps.flatMap(({ intervention }, i) =>
      intervention === null ? [] : [`${intervention.kind}@${i + 1}`],
    ),
  }
}

const times = (n: number, measured: Measured): readonly Measured[] =>
  Array.from({ length: n }, () => measured)

describe('an alarm', () => {
  test.each<GuardianMode>(['advanced', 'basic'])(
    'of a %s Guardian opens with the third low sample running and says since when and why',
    (mode) => {
      const { last, open, steps } = watch([...times(60, good), ...times(3, { psi: 0.2 })], { mode })
      expect(open).toEqual([63])
      expect(last.alarm).toEqual({
        open: true,
        reason: 'low-psi',
        since: 63_000,
        explained: 'Ψ is 0.200: below 0.5 in 3 samples running.',
      })
      expect(last.state.alarm).toEqual(last.alarm)
      const { open: interrupted } = watch([{ psi: 0.2 }, { psi: 0.2 }, good, { psi: 0.2 }], {
        mode,
      })
      expect(interrupted).toEqual([])
      expect(steps[61]!.state.crossed['low-psi']).toBe(RUN - 1)
    },
  )

  test('closes after three samples running that are well inside, and keeps its words till then', () => {
    const low = times(3, { psi: 0.2 })
    const between = times(50, { psi: CLEAR - 0.001 })
    const clear = { psi: CLEAR }
    const { open, steps } = watch([
      ...low,
      ...between,
      clear,
      clear,
      ...between,
      clear,
      clear,
      clear,
    ])
    expect(open).toEqual(Array.from({ length: 105 }, (_, i) => i + 3))
    for (const i of open) expect(steps[i - 1]!.alarm).toEqual(steps[2]!.alarm)
  })

  test('is not opened by a limit that is only touched', () => {
    const all = { psi: LOW, PE: PE_HIGH, H: H_HIGH }
    expect(watch(times(50, all), { mode: 'basic' }).open).toEqual([])
  })

  test.each<[string, Measured, Measured, Measured, string]>([
    [
      'high-pe',
      { PE: 1.6 },
      { PE: 1.201 },
      { PE: 1.2 },
      'Prediction error is 1.600: above 1.5 in 3 samples running.',
    ],
    [
      'high-h',
      { H: 2.1 },
      { H: 1.601 },
      { H: 1.6 },
      'Entropy is 2.100: above 2 in 3 samples running.',
    ],
  ])('of %s closes a fifth below its limit', (reason, bad, near, clear, explained) => {
    const { open, last, steps } = watch([...times(3, bad), ...times(9, near), ...times(3, clear)])
    expect(open).toEqual([3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14])
    expect(steps[2]!.alarm).toMatchObject({ reason, explained })
    expect(last.alarm).toBeNull()
  })

  test('takes over the gravest reason, and its symptoms do not outlive it', () => {
    const flaps = { H: H_HIGH + 0.1 }
    const both = { ...flaps, psi: 0.2 }
    const { steps, open, last } = watch([...times(5, flaps), ...times(9, both), ...times(3, flaps)])
    expect(
      steps
        .map(({ alarm }) => alarm?.reason ?? '')
        .join(' ')
        .trim(),
    ).toBe([...Array(5).fill('high-h'), ...Array(9).fill('low-psi')].join(' '))
    expect(steps[15]!.alarm).toMatchObject({ since: 3000 })
    expect(open).toEqual(Array.from({ length: 14 }, (_, i) => i + 3))
    expect(last.alarm).toBeNull()
    // It still flaps, and that is an alarm of its own.
    expect(watch(times(3, flaps), { from: last.state }).open).toEqual([3])
  })
})

describe('an advanced Guardian', () => {
  /** One sample of ten is low: such a node is used to it. */
  const used = Array.from({ length: HISTORY }, (_, i) => (i % 10 === 4 ? { psi: 0.3 } : good))

  test('knows no habit before it has 50 samples', () => {
    const dips = Array.from({ length: 49 }, (_, i) => (i % 3 === 0 ? { psi: 0.3 } : good))
    const low = times(3, { psi: 0.4 })
    expect(watch([...dips.slice(0, MIN_HISTORY - 3), ...low]).open).toEqual([MIN_HISTORY])
    expect(watch([...dips.slice(0, MIN_HISTORY - 2), ...low]).open).toEqual([])
  })

  test('is silent about what is low and usual, and speaks of what is lower', () => {
    const usual = times(4, { psi: 0.3 })
    expect(watch([...used, ...usual]).open).toEqual([])
    expect(watch([...used, ...usual], { mode: 'basic' }).open).toEqual([203, 204])
    expect(watch([...used, ...times(3, { psi: 0.29 })]).open).toEqual([203])
  })

  test('speaks all the same of what is usual and lasts for 20 samples', () => {
    const { open } = watch([...used, good, ...times(LASTING, { psi: 0.3 })])
    expect(open).toEqual([HISTORY + 1 + LASTING])
  })

  test('does not take an outage for a habit', () => {
    const outage = times(300, { psi: 0.05 })
    const { open } = watch([
      ...times(60, good),
      ...outage,
      ...times(10, good),
      ...times(3, { psi: 0.05 }),
    ])
    expect(open.at(-1)).toBe(60 + 300 + 10 + 3)
    expect(open).not.toContain(60 + 300 + 10)
  })

  test('judges a sample by those before it alone, two hundred at most', () => {
    const { steps, state } = watch([...times(3 * HISTORY, good), { psi: 0.4 }])
    const before = steps.at(-2)!.state.history['low-psi']
    expect(before).toEqual(times(HISTORY, good).map(({ psi }) => psi))
    expect(state.history['low-psi']).toHaveLength(HISTORY)
    expect(state.history['low-psi'].at(-1)).toBe(0.4)
  })

  test('has no sample of an alarm in its history, nor those that led to it', () => {
    const { state } = watch([
      ...times(60, { psi: 0.97 }),
      ...times(9, { psi: 0.2 }),
      ...times(3, good),
    ])
    // The third good sample closed the alarm.
    expect(state.history['low-psi']).toEqual([...Array(60).fill(0.97), 0.98])
  })
})

describe('an intervention', () => {
  test('is said once, when the alarm opens, with figures, causes and the deed', () => {
    const { deeds, steps } = watch(times(9, { psi: 0.2 }))
    expect(deeds).toEqual(['albedo@3'])
    const { kind, reason, explained } = steps[2]!.intervention!
    expect({ kind, reason }).toEqual({ kind: 'albedo', reason: 'low-psi' })
    expect(explained).toMatch(
      /^Ψ is 0\.200: below 0\.5 in 3 samples running\. Dearest: queue_backlog is 480000 events, limit 250000 events: costs 0\.\d+; .*\. Albedo: everything that sleeps is woken\.$/,
    )
  })

  test('comes again each hundred samples while it is bad, and not while it only waits to be clear', () => {
    expect(watch(times(250, { psi: 0.2 })).deeds).toEqual(['albedo@3', 'albedo@103', 'albedo@203'])
    const waiting = [...times(3, { psi: 0.2 }), ...times(250, { psi: 0.55 })]
    expect(watch(waiting).deeds).toEqual(['albedo@3'])
  })

  test('does not come sooner for a second alarm', () => {
    const twice = [...times(3, { psi: 0.2 }), ...times(20, good), ...times(90, { psi: 0.2 })]
    const { deeds, open } = watch(twice)
    expect(open).toContain(26)
    expect(deeds).toEqual(['albedo@3', `albedo@${3 + COOLDOWN}`])
  })

  test.each([{ PE: 1.6 }, { H: 2.1 }])(
    'of %o is nigredo, which has a rest of its own',
    (measured) => {
      const { deeds, steps } = watch([...times(5, measured), ...times(5, { psi: 0.2 })])
      expect(deeds).toEqual(['nigredo@3', 'albedo@8'])
      expect(steps[2]!.intervention!.explained).toMatch(
        /Nigredo: the predictor forgets its habits and learns anew\.$/,
      )
    },
  )
})

describe('a step of the Guardian', () => {
  const value = fc.double({ min: 0, max: 1, noNaN: true })
  const measured = fc
    .tuple(fc.constantFrom(0, 0, 0, 1), value, value, value)
    .map(([ill, psi, PE, H]): Measured => ({
      psi: (ill === 1 ? psi : 0.5 + psi / 2) * PSI_MAX,
      PE: PE * 1.6,
      H: H * 2.1,
    }))
  const runs = fc.array(fc.tuple(measured, fc.integer({ min: 1, max: 25 })), { maxLength: 30 })

  test('gives the same state again, also after a trip through JSON, and one that is bounded', () => {
    fc.assert(
      fc.property(runs, measured, (all, then) => {
        const samples = all.flatMap(([m, n]) => times(n, m))
        const { state } = watch(samples)
        const copy = JSON.parse(JSON.stringify(state)) as GuardianState
        expect(watch([then], { from: copy }).last).toEqual(watch([then], { from: state }).last)
        for (const history of Object.values(state.history))
          expect(history.length).toBeLessThanOrEqual(HISTORY)
      }),
      { numRuns: 50 },
    )
  })

  test('opens an alarm only beyond an absolute limit for three samples, and always after twenty', () => {
    fc.assert(
      fc.property(runs, fc.constantFrom<GuardianMode>('advanced', 'basic'), (all, mode) => {
        const samples = all.flatMap(([m, n]) => times(n, m))
        const { steps } = watch(samples, { mode })
        const isBad = ({ psi = 1, PE = 0, H = 0 }: Measured): boolean =>
          psi < LOW || PE > PE_HIGH || H > H_HIGH
        steps.forEach(({ alarm }, i) => {
          const opened = alarm !== null && (steps[i - 1]?.alarm ?? null) === null
          if (opened) expect(samples.slice(i - RUN + 1, i + 1).every(isBad)).toBe(true)
          const lows = samples.slice(Math.max(0, i - LASTING + 1), i + 1)
          if (lows.length === LASTING && lows.every(({ psi = 1 }) => psi < LOW))
            expect(alarm).toMatchObject({ reason: 'low-psi' })
        })
      }),
      { numRuns: 100 },
    )
  })
})

describe('a percentile', () => {
  // numpy.percentile of these values, linear.
  test.each([
    [[3], 5, 3],
    [[1, 2], 5, 1.05],
    [[4, 1, 3, 2], 50, 2.5],
    [[4, 1, 3, 2], 95, 3.85],
    [[10, 20, 30, 40, 50], 25, 20],
    [[10, 20, 30, 40, 50], 100, 50],
  ])('of %j at %d is %d', (values, percent, expected) => {
    expect(percentile(values, percent)).toBeCloseTo(expected, 9)
  })
})
