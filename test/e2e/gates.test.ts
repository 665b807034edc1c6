/**
 * The table of `make gates` and what decides a gate; the whole run is `make gates` itself, whose parts have tests of
 * their own (lab, lab-outage, monitoring, systemd).
 */

import { join } from 'node:path'
import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { ROOT } from '../../scripts/build.ts'
import { exitOf, notRun, tableOf, type GateResult } from '../../scripts/gates/gate.ts'
import { countedBy, objections, retryShare, type JobCounts } from '../../scripts/gates/sealer.ts'
import { chosenOf, runGates, type Gate } from '../../scripts/gates.ts'
import { run, sandbox } from './support.ts'

const pass: GateResult = {
  gate: '1 Federation',
  shown: 'three nodes',
  figure: 'all alike',
  ok: true,
}
const failed: GateResult = {
  gate: '2 Anchors',
  shown: 'ten anchors',
  figure: 'nine came',
  ok: false,
}

const gate = (number: number, work: () => Promise<GateResult>): Gate => {
  return { number, name: `Gate ${number}`, run: work }
}

test('the table has one row for each gate, its verdict behind it, and breaks long cells between words', () => {
  const figure =
    'a figure that is said in far more words than one row of a terminal has room for, and then some'
  const lines = tableOf([pass, { ...failed, figure }])
  expect(lines[0]).toMatch(/^gate +what was shown +figure +verdict$/)
  expect(lines[2]).toMatch(/^1 Federation +three nodes +all alike +✓ pass$/)
  expect(lines[3]).toMatch(/^2 Anchors +ten anchors +a figure .* ✗ FAIL$/)
  expect(lines.filter((line) => /pass|FAIL/.test(line)).length).toBe(2)
  expect(
    lines
      .slice(3)
      .map((line) => line.replace('✗ FAIL', '').slice(57).trim())
      .join(' '),
  ).toBe(figure)
  for (const line of lines) expect(line.length).toBeLessThanOrEqual(125)
})

test('the run passes only if every gate passed, and no gate at all is no pass', () => {
  expect(exitOf([pass, pass])).toBe(0)
  expect(exitOf([pass, failed])).toBe(1)
  expect(exitOf([pass, notRun(pass, 'no bitcoind')])).toBe(1)
  expect(exitOf([])).toBe(1)
})

test('a gate that cannot run, or that throws, is a failure in words, and the gates after it still run', async () => {
  const said: string[] = []
  const results = await runGates(
    [
      gate(1, async () => notRun(pass, 'caddy is not installed (apt install caddy)')),
      gate(2, async () => {
        throw new Error('the disk is full')
      }),
      gate(3, async () => pass),
    ],
    (line) => said.push(line),
  )
  expect(results.map(({ ok }) => ok)).toEqual([false, false, true])
  expect(results[0]!.figure).toBe('not run: caddy is not installed (apt install caddy)')
  expect(results[1]).toMatchObject({
    gate: '2 Gate 2',
    figure: 'not run to its end: the disk is full',
  })
  expect(exitOf(results)).toBe(1)
  expect(said.join('\n')).toContain('✗ gate 2 Gate 2: not run to its end: the disk is full')
  expect(tableOf(results).join('\n')).toContain('apt install caddy')
})

test('a run that is stopped fails the gates that it did not come to', async () => {
  let isOver = false
  const stopping = gate(1, async () => {
    isOver = true
    return pass
  })
  const results = await runGates(
    [stopping, gate(2, async () => pass)],
    () => undefined,
    () => isOver,
  )
  expect(results.map(({ ok, figure }) => [ok, figure])).toEqual([
    [true, 'all alike'],
    [false, 'not run: stopped'],
  ])
})

test('progress carries the seconds since its gate began', async () => {
  const said: string[] = []
  const talking: Gate = {
    number: 1,
    name: 'Talk',
    async run(log) {
      log('first\nsecond')
      return pass
    },
  }
  await runGates([talking], (line) => said.push(line))
  expect(said).toEqual([
    '\n── gate 1 Talk ──',
    '   0 s  first',
    '   0 s  second',
    '✓ gate 1 Talk: all alike',
  ])
})

test('--only names gates by number, in the order of the plan, and refuses what is none', () => {
  const known = [1, 2, 3].map((n) => gate(n, async () => pass))
  const numbers = (only?: string): number[] => chosenOf(only, known).map(({ number }) => number)
  expect(numbers()).toEqual([1, 2, 3])
  expect(numbers('3, 1')).toEqual([1, 3])
  expect(() => numbers('1,6')).toThrow('--only 6: the gates are 1, 2, 3.')
  expect(() => numbers('')).toThrow('the gates are 1, 2, 3.')
})

const quiet: JobCounts = {
  batches: 60,
  sealRetries: 0,
  anchors: 40,
  anchorRetries: 0,
  deadLetters: 0,
}

test('retries of both queues count, against all jobs of both', () => {
  expect(retryShare(quiet)).toBe(0)
  expect(retryShare({ ...quiet, sealRetries: 1, anchorRetries: 2 })).toBeCloseTo(0.03)
  expect(objections({ ...quiet, sealRetries: 1 }, quiet)).toEqual([])
  // The plan says under 2 %.
  expect(objections({ ...quiet, sealRetries: 2 }, quiet)).toEqual([
    'retries are 2.00 % of all jobs',
  ])
})

test('a node that did nothing does not pass', () => {
  const idle = { ...quiet, batches: 0, anchors: 0 }
  expect(objections(idle, idle)).toEqual(['retries are no share of all jobs'])
})

test('a dead letter fails the gate, whatever the share', () => {
  const dead = { ...quiet, deadLetters: 1 }
  expect(objections(dead, dead)).toEqual(['1 dead letters'])
})

test('counters and rows that differ fail the gate: one of the two would be wrong', () => {
  fc.assert(
    fc.property(
      fc.constantFrom('batches', 'anchorRetries', 'deadLetters' as const),
      fc.integer({ min: 1, max: 9 }),
      (name, by) => {
        const stored = { ...quiet, [name]: quiet[name] + by }
        expect(objections(quiet, stored).join()).toContain(`the rows ${stored[name]}`)
        expect(objections(stored, quiet).join()).toContain(`the counters say ${stored[name]}`)
      },
    ),
  )
})

test('counts are summed over the series of /metrics, other names left alone', () => {
  const page = `# TYPE vaultmesh_seal_batches_total counter
vaultmesh_seal_batches_total{node_did="did:key:z6",outcome="sealed"} 12
vaultmesh_seal_batches_total{node_did="did:key:z6",outcome="failed"} 1
vaultmesh_seal_retries_total{node_did="did:key:z6"} 2
vaultmesh_anchor_attempts_total{node_did="did:key:z6",chain="BTC",outcome="final"} 3
vaultmesh_anchor_attempts_total{node_did="did:key:z6",chain="TSA",outcome="final"} 4
vaultmesh_anchor_attempts_total{node_did="did:key:z6",chain="TSA",outcome="waiting"} 99
vaultmesh_anchor_attempts_total{node_did="did:key:z6",chain="EVM",outcome="failed"} 5
vaultmesh_dead_letters_total{node_did="did:key:z6",queue="sealer-dlq"} 6
vaultmesh_dead_letters_open{node_did="did:key:z6",queue="sealer-dlq"} 77
`
  expect(countedBy(page)).toEqual({
    batches: 12,
    sealRetries: 3,
    anchors: 7,
    anchorRetries: 5,
    deadLetters: 6,
  })
})

test('make gates says what is missing and ends with 1, as one JSON value if it is asked to', async () => {
  const { dir, remove } = await sandbox()
  try {
    const env = { PATH: '/nonexistent', VAULTMESH_CACHE: join(dir, 'no-cache') }
    const args = [join(ROOT, 'scripts', 'gates.ts'), '--only', '4']
    const asked = await run([...args, '--json'], { cwd: dir, env })
    expect(asked.code, asked.stderr).toBe(1)
    expect(asked.stderr).toContain('not installed (apt install')
    expect(JSON.parse(asked.stdout)).toMatchObject({
      ok: false,
      gates: [{ gate: '4 Analytics/Ψ', ok: false }],
    })
    const wrong = await run([join(ROOT, 'scripts', 'gates.ts'), '--only', '9'], { cwd: dir })
    expect(wrong).toMatchObject({ code: 1 })
    expect(wrong.stderr).toContain('--only 9: the gates are 1, 2, 3, 4, 5.')
  } finally {
    await remove()
  }
})
