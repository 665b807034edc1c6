/**
 * Whatever gossip does to what nodes learn (lost, repeated, reordered, cut off, forgotten), once everything flows
 * they stand on the same tips: those of the law over all that any of them knows.
 *
 * A failure names its seed and run. SEED=<number> repeats that block alone, RUNS=<number> makes it longer.
 */

import { describe, expect, test } from 'vitest'
import {
  LedgerNode,
  MemoryNode,
  Random,
  World,
  type MakeNode,
  type Mistake,
  type Outcome,
  type WorldOptions,
} from './gossip-world.ts'

const SEED = Number(process.env['SEED'] ?? 20_261_123)
/** Blocks of the long test, each with a seed of its own. */
const BLOCKS = process.env['SEED'] === undefined ? 20 : 1
const RUNS = Number(process.env['RUNS'] ?? 500)
const REAL_RUNS = 200

/** Everything that a thief can do. */
const any: WorldOptions = { steps: 40, earlyProofs: true, recuts: true, twins: true }
/** Rivals, nested and bad ones, but no two batches that one root and height name. */
const plain: WorldOptions = { ...any, recuts: false, twins: false }

const inMemory: MakeNode = ({ feedId }) => new MemoryNode(feedId)
const inSql: MakeNode = (setup) => new LedgerNode(setup)

function play(seed: number, run: number, make: MakeNode, options: WorldOptions): Outcome {
  const random = new Random(seed, run)
  const steps = options.steps + random.below(options.steps)
  return new World(make, random, { ...options, steps }).run()
}

/** The first run that goes wrong, or null. */
function firstFault(
  make: MakeNode,
  options: WorldOptions,
  runs: number,
): { readonly run: number; readonly fault: string } | null {
  for (let run = 0; run < runs; run++) {
    const { fault } = play(SEED, run, make, options)
    if (fault !== null) return { run, fault }
  }
  return null
}

type Sum = Record<Exclude<keyof Outcome, 'fault'>, number>

/** Plays blocks of runs; throws at the first fault. Sums what happened. */
function playAll(make: MakeNode, options: WorldOptions, blocks: number, runs: number): Sum {
  const sum: Sum = {
    nodes: 0,
    conflicts: 0,
    decided: 0,
    undecided: 0,
    nested: 0,
    restarts: 0,
    lost: 0,
    repeated: 0,
    reordered: 0,
    truncated: 0,
    cutOff: 0,
  }
  for (let block = 0; block < blocks; block++) {
    for (let run = 0; run < runs; run++) {
      const seed = SEED + block
      const { fault, ...happened } = play(seed, run, make, options)
      if (fault !== null) throw new Error(`SEED=${seed}, run ${run}: ${fault}`)
      for (const [key, value] of Object.entries(happened)) sum[key as keyof Sum] += value
    }
  }
  return sum
}

/** Enough of everything, so that agreement says something. */
function expectEventful(sum: Sum, runs: number): void {
  expect(sum.nodes).toBeGreaterThan(3 * runs)
  expect(sum.conflicts).toBeGreaterThan(runs)
  expect(sum.decided).toBeGreaterThan(runs / 2)
  expect(sum.undecided).toBeGreaterThan(runs / 4)
  expect(sum.nested).toBeGreaterThan(runs / 4)
  expect(sum.restarts).toBeGreaterThan(runs / 4)
  expect(sum.lost).toBeGreaterThan(runs)
  expect(sum.repeated).toBeGreaterThan(runs / 2)
  expect(sum.reordered).toBeGreaterThan(runs)
  expect(sum.truncated).toBeGreaterThan(runs / 4)
  expect(sum.cutOff).toBeGreaterThan(runs)
}

function told(name: string, sum: Sum, startedAt: number): string {
  const seconds = ((performance.now() - startedAt) / 1000).toFixed(1)
  const parts = Object.entries(sum).map(([key, value]) => `${key} ${value}`)
  return `${name}, ${seconds} s: ${parts.join(', ')}`
}

describe('gossip', () => {
  test('ends on the same tips in any interleaving, by the rules in memory', () => {
    const startedAt = performance.now()
    const sum = playAll(inMemory, any, BLOCKS, RUNS)
    const seeds = Array.from({ length: BLOCKS }, (_, i) => SEED + i)
    console.log(
      told(`${BLOCKS * RUNS} runs, ${RUNS} of each seed ${seeds.join(' ')}`, sum, startedAt),
    )
    expectEventful(sum, BLOCKS * RUNS)
  }, 180_000)

  test('ends on the same tips in any interleaving, by the Ledger over SQL', () => {
    const startedAt = performance.now()
    const sum = playAll(inSql, plain, 1, REAL_RUNS)
    console.log(told(`${REAL_RUNS} runs of seed ${SEED} over SQL`, sum, startedAt))
  }, 180_000)

  test('… and whatever a thief signs', () => {
    const startedAt = performance.now()
    const sum = playAll(inSql, any, 1, REAL_RUNS)
    console.log(told(`${REAL_RUNS} runs of seed ${SEED} over SQL, thieves and all`, sum, startedAt))
    expectEventful(sum, REAL_RUNS)
  }, 180_000)

  test('plays the same run again from its seed and number', () => {
    for (let run = 0; run < 5; run++) {
      expect(play(SEED, run, inMemory, any)).toEqual(play(SEED, run, inMemory, any))
    }
    expect(play(SEED, 1, inMemory, any)).not.toEqual(play(SEED, 2, inMemory, any))
  })
})

describe('this world notices', () => {
  test.each<[Mistake, string]>([
    ['first-come', 'a tip that goes to who came first'],
    ['no-tie-step', 'a law without its last steps'],
    ['proofs-first', 'a feed with proofs before their batches'],
    ['named-by-root', 'batches that are told apart by their roots alone'],
    ['old-cursor', 'a peer that lost its state and is read on from the old place'],
  ])(
    '%s: %s',
    (mistake) => {
      const caught = firstFault(({ feedId }) => new MemoryNode(feedId, mistake), any, 1000)
      expect(caught).not.toBeNull()
    },
    60_000,
  )
})
