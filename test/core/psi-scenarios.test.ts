/**
 * Ψ and the Guardian over simulated nodes, healthy and sick; and the tables of docs/psi.md are what these yield.
 * After a change that is meant, UPDATE_DOCS=1 writes them anew.
 */

import { readFileSync, writeFileSync } from 'node:fs'
import { describe, expect, test } from 'vitest'
import { initialGuardian, stepGuardian, type GuardianMode } from '#core/guardian.ts'
import { causes, initialPsi, PSI_LOW, psiAtRest, stepPsi, type PsiSample } from '#core/psi.ts'
import { SIGNAL_NAMES, type SignalName, type Telemetry } from '#core/telemetry.ts'
import { devnet, production, trace, type FaultKind, type World } from '../support/psi-traces.ts'

const DOCS = new URL('../../docs/psi.md', import.meta.url)
const SEEDS = [1, 2, 3, 4]
/** Samples before a fault: the Guardian has its percentiles. */
const BEFORE = 120

/** Ψ of a trace. */
function psiOf(told: readonly Telemetry[]): readonly PsiSample[] {
  let state = initialPsi()
  return told.map((telemetry) => {
    const step = stepPsi(state, telemetry)
    state = step.state
    return step.sample
  })
}

/** In which samples the alarm is open. */
function alarmOf(samples: readonly PsiSample[], mode: GuardianMode): readonly boolean[] {
  let state = initialGuardian()
  return samples.map((sample) => {
    state = stepGuardian(state, sample, { mode, psiLow: PSI_LOW, nowAt: sample.at }).state
    return state.alarm !== null
  })
}

interface Scenario {
  readonly world: World
  readonly kind: FaultKind
  /** As the page has it. */
  readonly what: string
  /** Samples that it lasts. */
  readonly length: number
  /** Its dearest cause, in every run, while it lasts. */
  readonly causes: readonly SignalName[]
  /** Samples that are stated: to a low Ψ and to the alarm, from the first trace of it; back, and closed, from its end. */
  readonly stated: readonly [low: number, alarm: number, back: number, closed: number]
}

const RAIL = ['anchor_failure_ratio'] as const
const LATE = [...RAIL, 'anchor_lag_btc_s', 'anchor_lag_tsa_s'] as const
const SEAL = [
  'seal_retry_ratio',
  'checkpoint_age_s',
  'seal_latency_p50_s',
  'seal_latency_p95_s',
] as const
const FLOOD = ['queue_backlog', 'reject_ratio'] as const
const SPLIT = ['peer_agreement', 'peer_lag'] as const
const TSA = 'time-stamping rail'
const TWICE = 'intake: twice what can be sealed'
const HALF = 'half of the peers stand elsewhere'
const SLOWER = 'seals get slower, 2 % a sample'

/** An attempt comes again after half an hour at most, and three good ones are needed: 30 + 3 samples of a minute. */
const scenarios: readonly Scenario[] = [
  of(production, 'btc', 'Bitcoin rail', 60, RAIL, [5, 7, 33, 36]),
  // Then a root waits for its seven blocks: up to three hours.
  of(production, 'btc', 'Bitcoin rail', 480, LATE, [5, 7, 210, 213]),
  of(production, 'evm', 'EVM rail', 60, RAIL, [5, 7, 33, 36]),
  of(production, 'tsa', TSA, 60, LATE, [5, 7, 10, 13]),
  of(production, 'seal', 'seals', 60, SEAL, [5, 7, 10, 13]),
  of(production, 'flood', TWICE, 20, FLOOD, [5, 7, 10, 13]),
  of(production, 'split', HALF, 60, SPLIT, [5, 7, 5, 8]),
  // A seal takes 2 % of the interval longer with each sample, 1.5 intervals after 75; what comes meanwhile waits.
  of(production, 'decay', SLOWER, 200, SEAL, [90, 92, 15, 18]),
  of(devnet, 'btc', 'Bitcoin rail', 60, RAIL, [5, 7, 63, 66]),
  of(devnet, 'evm', 'EVM rail', 60, RAIL, [5, 7, 63, 66]),
  of(devnet, 'tsa', TSA, 60, LATE, [5, 7, 33, 36]),
  of(devnet, 'seal', 'seals', 60, SEAL, [5, 7, 15, 18]),
  // 14,750 waiting events (1.48 limits) at 4,000 a second are 3.7 samples, one of phase, one of memory.
  of(devnet, 'flood', TWICE, 20, [...FLOOD, ...SEAL], [6, 8, 15, 18]),
  of(devnet, 'split', HALF, 60, SPLIT, [5, 7, 5, 8]),
  // The limits have a second of slack, which is two intervals here.
  of(devnet, 'decay', SLOWER, 480, SEAL, [180, 182, 15, 18]),
]

function of(
  ...[world, kind, what, length, names, stated]: readonly [
    World,
    FaultKind,
    string,
    number,
    readonly SignalName[],
    Scenario['stated'],
  ]
): Scenario {
  return { world, kind, what, length, causes: names, stated }
}

/** What one run of a scenario came to, in samples. */
interface Outcome {
  /** Until the fault leaves a trace: the first failed attempt of a rail that nothing was under way on. */
  readonly traced: number
  readonly low: number
  readonly alarm: number
  readonly back: number
  readonly closed: number
  /** While it lasts: least Ψ, and whether it stays low; a node that only gets slower is low by turns at first. */
  readonly least: number
  readonly isLowToTheEnd: boolean
  /** What costs most in the middle of what is low. */
  readonly cause: SignalName
}

function play({ world, kind, length }: Scenario, seed: number): Outcome {
  const end = BEFORE + length
  const told = trace(world, seed, { samples: end + 230, faults: [{ kind, from: BEFORE, to: end }] })
  const samples = psiOf(told)
  const open = alarmOf(samples, 'advanced')
  const isLow = samples.map(({ psi }) => psi < PSI_LOW)
  /** The first of three running from `from` on. */
  const lasting = (from: number, low: boolean): number => {
    for (let k = from; k < isLow.length - 2; k++)
      if (isLow.slice(k, k + 3).every((is) => is === low)) return k
    return Infinity
  }
  const first = lasting(BEFORE, true)
  let traced = kind === 'btc' || kind === 'evm' || kind === 'tsa' ? first : BEFORE
  while (traced > BEFORE && told[traced - 1]!.signals.anchor_failure_ratio !== 0) traced--
  const settled = kind === 'decay' ? end - 50 : first
  return {
    traced: traced - BEFORE,
    low: first - traced + 1,
    alarm: open.indexOf(true, BEFORE) - traced + 1,
    back: lasting(end, false) - end + 1,
    closed: open.indexOf(false, end) - end + 1,
    least: Math.min(...samples.slice(BEFORE, end).map(({ psi }) => psi)),
    isLowToTheEnd: isLow.slice(settled, end).every(Boolean),
    cause: causes(samples[Math.floor((first + end) / 2)]!, 1)[0]!.name,
  }
}

const rows = new Map<string, string>()
const healthyRows = new Map<string, string>()

describe('an outage', () => {
  test.each(scenarios.map((s) => [s.world.name, s.what, s.length, s] as const))(
    'with samples of %s (%s, %i of them) drives Ψ low and alarms as stated, and both come back',
    { timeout: 120_000 },
    (...[, , , scenario]) => {
      const outcomes = SEEDS.map((seed) => play(scenario, seed))
      const worst = (of_: (outcome: Outcome) => number): number => Math.max(...outcomes.map(of_))
      const { stated, world, what, length, kind } = scenario
      const measured = [
        worst((o) => o.low),
        worst((o) => o.alarm),
        worst((o) => o.back),
        worst((o) => o.closed),
      ] as const
      measured.forEach((value, i) => expect(value).toBeLessThanOrEqual(stated[i]!))
      for (const { low, alarm, isLowToTheEnd, cause } of outcomes) {
        expect(low).toBeGreaterThan(0)
        expect(alarm).toBeGreaterThanOrEqual(Math.min(low, 3))
        expect(isLowToTheEnd).toBe(true)
        expect(scenario.causes).toContain(cause)
      }
      const least = Math.min(...outcomes.map((o) => o.least)).toFixed(3)
      const cells = measured.map((value, i) => `${value} (≤ ${stated[i]})`)
      rows.set(
        `${world.name} ${kind} ${length}`,
        `| ${world.name} | ${what} | ${length} | ${worst((o) => o.traced)} | ${cells.slice(0, 2).join(' | ')} | ${least} | ${cells.slice(2).join(' | ')} |`,
      )
    },
  )
})

describe('a healthy node', () => {
  test.each([
    [production, 'of the defaults'],
    [devnet, 'of a devnet'],
  ] as const)('$name alarms at most once in 5,000 samples', { timeout: 120_000 }, (world, what) => {
    const psis: number[] = []
    let [alarms, basic, pe, h] = [0, 0, 0, 0]
    for (const seed of SEEDS.slice(0, 3)) {
      const samples = psiOf(trace(world, 100 + seed, { samples: 5000 }))
      const opened = openings(alarmOf(samples, 'advanced'))
      const openedBasic = openings(alarmOf(samples, 'basic'))
      expect(opened).toBeLessThanOrEqual(1)
      expect(openedBasic).toBeLessThanOrEqual(1)
      alarms += opened
      basic += openedBasic
      psis.push(...samples.map(({ psi }) => psi))
      pe = Math.max(pe, ...samples.map(({ PE }) => PE))
      h = Math.max(h, ...samples.map(({ H }) => H))
    }
    psis.sort((a, b) => a - b)
    const at = (share: number): string => psis[Math.floor(share * psis.length)]!.toFixed(3)
    // Clearly above: of 100 samples 99 have more than nine tenths.
    expect(Number(at(0.01))).toBeGreaterThan(0.9)
    const cells = [`3 × 5,000 ${what}`, alarms, basic, at(0), at(0.001), at(0.01), at(0.5)]
    healthyRows.set(
      world.name,
      `| ${world.name} | ${cells.join(' | ')} | ${pe.toFixed(2)} | ${h.toFixed(2)} |`,
    )
  })
})

function openings(open: readonly boolean[]): number {
  return open.filter((is, i) => is && !(open[i - 1] ?? false)).length
}

/** Ψ at rest with one signal at `r` times its limit, all else well. */
function curve(): string {
  const rs = [0, 0.5, 1, 1.1, 1.25, 1.5, 2, 3, 5, 10]
  const lines = rs.map((r) => {
    const x = (r * r - 1) / (r * r + 1)
    const psi = psiAtRest(SIGNAL_NAMES.map((name) => (name === 'queue_backlog' ? x : -1)))
    return `| ${r} | ${x.toFixed(2)} | ${psi.toFixed(3)} | \`${'█'.repeat(Math.round(psi * 40))}\` |`
  })
  return ['| times its limit | x | Ψ | |', '|---|---|---|---|', ...lines].join('\n')
}

describe('docs/psi.md', () => {
  test('has the numbers that the scenarios yield', () => {
    const tables = {
      curve: curve(),
      outages: [
        '| interval | what fails | samples | first trace | Ψ low after | alarm after | least Ψ | Ψ back after | alarm closed after |',
        '|---|---|---|---|---|---|---|---|---|',
        ...rows.values(),
      ].join('\n'),
      healthy: [
        '| interval | samples | alarms | basic | least Ψ | 0.1 % below | 1 % below | median | highest PE | highest H |',
        '|---|---|---|---|---|---|---|---|---|---|',
        ...healthyRows.values(),
      ].join('\n'),
    }
    // A run of some tests alone has not all rows.
    expect(rows.size).toBe(scenarios.length)
    expect(healthyRows.size).toBe(2)
    const is = readFileSync(DOCS, 'utf8')
    let should = is
    for (const [name, table] of Object.entries(tables)) {
      const block = new RegExp(`(<!-- ${name} -->\n)[^]*?(<!-- /${name} -->)`)
      expect(is).toMatch(block)
      should = should.replace(
        block,
        (_, open: string, close: string) => `${open}${table}\n${close}`,
      )
    }
    if (process.env['UPDATE_DOCS'] === '1') writeFileSync(DOCS, should)
    else expect(is).toBe(should)
  })
})
