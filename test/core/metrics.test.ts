import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { resolve } from 'node:path'
import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { codes } from '#core/errors.ts'
import { exposition } from '#core/exposition.ts'
import {
  bucketOf,
  isCountable,
  metrics,
  partsOf,
  restoreValues,
  seriesOf,
  withZeroes,
  type HistogramName,
  type Metric,
  type MetricName,
  type Series,
} from '#core/metrics.ts'
import { metricsPage } from '../support/metrics-page.ts'

const PAGE = resolve(import.meta.dirname, '../../docs/metrics.md')
const PROMTOOL = '/usr/bin/promtool'
const NODE = 'did:key:z6MkexampleNode'
const names = Object.keys(metrics) as MetricName[]
const histograms = names.filter((name) => metrics[name].type === 'histogram') as HistogramName[]

/** Text that a hostile peer, authority or setting could hold. */
const hostile = fc.oneof(
  fc.string({ unit: 'binary' }),
  fc.constantFrom(
    '"',
    '\\',
    '\n',
    '\\n',
    '\\"',
    'a"} 1\nvaultmesh_psi{x="',
    '\r\n',
    '\u0000',
    '#',
    '',
  ),
  fc.string({ unit: 'binary', minLength: 5000, maxLength: 6000 }),
)

/** Any series that the catalogue allows. */
const anySeries: fc.Arbitrary<Series> = fc.constantFrom(...names).chain((name) => {
  const metric: Metric = metrics[name]
  const labels = Object.values(metric.labels).map((list) =>
    list === null ? hostile : fc.constantFrom(...list),
  )
  const values =
    metric.type === 'gauge'
      ? fc.tuple(fc.double({ noNaN: true, noDefaultInfinity: true }))
      : fc.array(fc.nat(1_000_000), {
          minLength: partsOf(name).length,
          maxLength: partsOf(name).length,
        })
  return fc.record(
    { name: fc.constant(name), labels: fc.tuple(...labels), values, nodeDid: hostile },
    { requiredKeys: ['name', 'labels', 'values'] },
  )
})

interface Sample {
  readonly name: string
  readonly labels: ReadonlyMap<string, string>
  readonly value: number
}

/** Reads an exposition as its specification says, line by line; throws at what is no line of it. */
function read(text: string): { samples: Sample[]; types: Map<string, string> } {
  const samples: Sample[] = []
  const types = new Map<string, string>()
  let family = ''
  if (text === '') return { samples, types }
  if (!text.endsWith('\n')) throw new Error('the last line does not end')
  for (const line of text.slice(0, -1).split('\n')) {
    const comment = /^# (HELP|TYPE) ([a-z_]+) (.+)$/.exec(line)
    if (comment !== null) {
      const [, what, name, rest] = comment
      family = name!
      if (what === 'TYPE') {
        if (types.has(name!)) throw new Error(`two families ${name}`)
        types.set(name!, rest!)
      }
      continue
    }
    const match = /^([a-z_]+)\{(.*)\} (\S+)$/s.exec(line)
    if (match === null) throw new Error(`no line of an exposition: ${line}`)
    const [, name, inside, value] = match
    if (name !== family && !/^_(bucket|sum|count)$/.test(name!.slice(family.length))) {
      throw new Error(`${name} stands under ${family}`)
    }
    const labels = new Map<string, string>()
    const pair = /([a-z_]+)="((?:[^"\\\n]|\\\\|\\"|\\n)*)"(,|$)/gsy
    for (let m = pair.exec(inside!); m !== null; m = pair.exec(inside!)) {
      if (labels.has(m[1]!)) throw new Error(`two labels ${m[1]}`)
      labels.set(
        m[1]!,
        m[2]!.replaceAll(/\\(.)/g, (_, c: string) => (c === 'n' ? '\n' : c)),
      )
      if (m[3] === '') break
    }
    samples.push({ name: name!, labels, value: value === '+Inf' ? Infinity : Number(value) })
  }
  return { samples, types }
}

function keyOf({ name, labels }: Sample): string {
  return JSON.stringify([name, [...labels].sort(([a], [b]) => (a < b ? -1 : 1))])
}

test('what is written is read again, whatever the labels hold', () => {
  fc.assert(
    fc.property(anySeries, (series) => {
      const { samples } = read(exposition(NODE, [series]))
      const expected = new Map([['node_did', (series.nodeDid ?? NODE).toWellFormed()]])
      Object.keys(metrics[series.name].labels).forEach((label, i) =>
        expected.set(label, series.labels[i]!.toWellFormed()),
      )
      for (const sample of samples) {
        const shown = new Map(sample.labels)
        shown.delete('le')
        expect(shown).toEqual(expected)
      }
      if (metrics[series.name].type !== 'histogram') {
        expect(samples.map(({ value }) => value)).toEqual([series.values[0]! + 0])
      }
    }),
  )
})

test('an exposition names no series twice and each family once, in the order of the catalogue', () => {
  fc.assert(
    fc.property(fc.array(anySeries, { maxLength: 40 }), (all) => {
      const { samples, types } = read(exposition(NODE, all))
      const keys = samples.map(keyOf)
      expect(new Set(keys).size).toBe(keys.length)
      const shown = [...types.keys()]
      expect(shown).toEqual(names.filter((name) => all.some((series) => series.name === name)))
      for (const { labels } of samples) expect([...labels.keys()][0]).toBe('node_did')
    }),
  )
})

test('the buckets of a histogram are cumulative, and the last equals its count', () => {
  fc.assert(
    fc.property(
      fc.constantFrom(...histograms),
      fc.array(fc.double({ min: 0, max: 1e6, noNaN: true }), { maxLength: 60 }),
      (name, observed) => {
        const values = partsOf(name).map(() => 0)
        for (const value of observed) {
          values[0]! += value
          values[1 + bucketOf(name, value)]! += 1
        }
        const labels = Object.values((metrics[name] as Metric).labels).map((list) => list![0]!)
        const { samples } = read(exposition(NODE, [{ name, labels, values }]))
        const buckets = samples.filter((s) => s.name === `${name}_bucket`)
        for (const { labels: shown, value } of buckets) {
          const le = shown.get('le') === '+Inf' ? Infinity : Number(shown.get('le'))
          expect(value).toBe(observed.filter((o) => o <= le).length)
        }
        expect(buckets.at(-1)!.labels.get('le')).toBe('+Inf')
        expect(samples.find((s) => s.name === `${name}_count`)!.value).toBe(observed.length)
        expect(samples.find((s) => s.name === `${name}_sum`)!.value).toBe(values[0])
      },
    ),
  )
})

test('an observation on a bound is in its bucket, and one beyond all bounds in the last', () => {
  for (const name of histograms) {
    const { buckets } = metrics[name]
    expect([...buckets].sort((a, b) => a - b)).toEqual(buckets)
    for (const [i, bound] of buckets.entries()) expect(bucketOf(name, bound)).toBe(i)
    expect(bucketOf(name, buckets.at(-1)! * 1.001)).toBe(buckets.length)
  }
})

test('a series is countable only with a listed value for each label and numbers that never fall', () => {
  const good = seriesOf('vaultmesh_events_total', { outcome: 'accepted' }, [1])
  expect(isCountable(good)).toBe(true)
  const bad: readonly Partial<Record<keyof Series, unknown>>[] = [
    { name: 'vaultmesh_nothing' },
    { name: 'toString' },
    { labels: [] },
    { labels: ['accepted', 'accepted'] },
    { labels: ['ACCEPTED'] },
    { labels: ['x'.repeat(100_000)] },
    { labels: [7] },
    { values: [] },
    { values: [1, 2] },
    { values: [NaN] },
    { values: [Infinity] },
    { values: [-1] },
    { name: 'vaultmesh_log_size', labels: [] },
  ]
  for (const change of bad) expect(isCountable({ ...good, ...change } as Series)).toBe(false)
  expect(isCountable(seriesOf('vaultmesh_seal_duration_seconds', {}, [1]))).toBe(false)
  for (const { name, labels, values } of withZeroes([])) {
    expect(isCountable({ name, labels, values })).toBe(true)
  }
})

test('every label that a counter or a histogram has takes its values from a closed list', () => {
  for (const name of names) {
    if (metrics[name].type === 'gauge') continue
    for (const list of Object.values((metrics[name] as Metric).labels)) expect(list).not.toBeNull()
  }
  const series = names.map((name) =>
    Object.values((metrics[name] as Metric).labels).reduce((n, list) => n * (list?.length ?? 1), 1),
  )
  // Codes thrice, and a few dozen besides.
  expect(series.reduce((a, b) => a + b)).toBeLessThan(3 * Object.keys(codes).length + 200)
})

test('stored parts lead to the numbers they came from', () => {
  fc.assert(
    fc.property(anySeries, ({ name, values }) => {
      const parts = partsOf(name).map((part, i) => [part, values[i]!] as const)
      expect(restoreValues(name, parts)).toEqual(values.map((value) => value + 0))
      expect(restoreValues(name, [])).toEqual(values.map(() => 0))
    }),
  )
})

test('a bucket that the catalogue has no more goes into the next wider one', () => {
  const name = 'vaultmesh_seal_duration_seconds'
  const at = (values: readonly number[], part: string): number =>
    values[partsOf(name).indexOf(part)]!
  const values = restoreValues(name, [
    ['sum', 9],
    ['0.07', 2],
    ['0.1', 1],
    ['90', 3],
    ['+Inf', 1],
    ['n', 5],
    ['garbage', 5],
  ])
  expect(at(values, '0.1')).toBe(3)
  expect(at(values, '+Inf')).toBe(4)
  expect(values.slice(1).reduce((a, b) => a + b)).toBe(7)
  expect(
    restoreValues('vaultmesh_seal_retries_total', [
      ['0.1', 3],
      ['n', 2],
    ]),
  ).toEqual([2])
})

test('what was never counted is shown as zero where its labels have few values, and only there', () => {
  const counted = seriesOf('vaultmesh_events_total', { outcome: 'accepted' }, [7])
  const all = withZeroes([counted])
  const of = (name: MetricName): Series[] => all.filter((series) => series.name === name)
  expect(of('vaultmesh_events_total').map(({ labels, values }) => [labels[0], values[0]])).toEqual([
    ['accepted', 7],
    ['duplicate', 0],
    ['rejected', 0],
  ])
  expect(of('vaultmesh_anchor_attempts_total')).toHaveLength(12)
  expect(of('vaultmesh_problems_total')).toEqual([])
  expect(all.every(({ name }) => metrics[name].type !== 'gauge')).toBe(true)
})

test('an infinite gauge is written as Prometheus reads it', () => {
  const text = exposition(NODE, [
    seriesOf('vaultmesh_psi', {}, [Infinity], 'a'),
    seriesOf('vaultmesh_psi', {}, [-Infinity], 'b'),
    seriesOf('vaultmesh_psi', {}, [1e-9], 'c'),
  ])
  expect(text).toContain('vaultmesh_psi{node_did="a"} +Inf\n')
  expect(text).toContain('vaultmesh_psi{node_did="b"} -Inf\n')
  expect(text).toContain('vaultmesh_psi{node_did="c"} 1e-9\n')
})

test.skipIf(!existsSync(PROMTOOL))(
  `promtool (${existsSync(PROMTOOL) ? 'is here' : 'IS NOT INSTALLED, SO THIS IS SKIPPED: apt install prometheus'}) accepts all metrics and every hostile label`,
  () => {
    const one = names.map((name): Series => {
      const metric: Metric = metrics[name]
      const labels = Object.values(metric.labels).map((list) => list?.[0] ?? 'a"\\\n} 1')
      return { name, labels, values: partsOf(name).map((_, i) => i + 0.5) }
    })
    const check = (series: readonly Series[]) =>
      spawnSync(PROMTOOL, ['check', 'metrics'], { input: exposition('did:"\\\n', series) })
    const strict = check(one)
    expect(strict.stderr.toString() + strict.stdout.toString()).toBe('')
    expect(strict.status).toBe(0)
    // Lint is of the names; of arbitrary labels the parser is asked, whose failures are exit code 1.
    for (const series of fc.sample(fc.array(anySeries, { minLength: 20, maxLength: 60 }), 10)) {
      const { status, stderr } = check([...withZeroes([]), ...series])
      expect(stderr.toString()).toBe('')
      expect(status).toBe(0)
    }
    const broken = spawnSync(PROMTOOL, ['check', 'metrics'], {
      input: exposition(NODE, one).replace('did:key', 'did"key'),
    })
    expect(broken.status).not.toBe(0)
  },
)

test('docs/metrics.md is what the catalogue says (UPDATE_DOCS=1 writes it)', () => {
  if (process.env['UPDATE_DOCS'] === '1') writeFileSync(PAGE, metricsPage())
  expect(readFileSync(PAGE, 'utf8')).toBe(metricsPage())
})
