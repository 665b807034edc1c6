/**
 * The files of config/ that others run hold: promtool and amtool take them, every metric and label they name is in the
 * catalogue, every alert is tested on both sides of its edge and has a runbook, and the dashboard can be imported.
 */

import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { parse } from 'yaml'
import { alertKinds, runbookOf, type AlertKind } from '#core/alert.ts'
import { metrics } from '#core/metrics.ts'
import { ROOT } from '../../scripts/build.ts'
import { onPath } from '../../scripts/devnet/child.ts'
import { absent } from './devnet-support.ts'

const CONFIG = resolve(ROOT, 'config')
const missing = (tool: string, from: string) =>
  onPath(tool) === null
    ? `${tool} is not installed (apt install ${from}): its files are not checked`
    : null
const noPromtool = absent(missing('promtool', 'prometheus'))
const noAmtool = absent(missing('amtool', 'prometheus-alertmanager'))

interface Rule {
  readonly alert?: string
  readonly record?: string
  readonly expr: string
  readonly labels?: Readonly<Record<string, string>>
  readonly annotations?: Readonly<Record<string, string>>
}
const rules = (
  parse(read('prometheus/rules.yaml')) as { readonly groups: readonly { rules: readonly Rule[] }[] }
).groups.flatMap((group) => group.rules)
const alerts = rules.filter((rule) => rule.alert !== undefined)
const recorded = new Set(rules.flatMap(({ record }) => (record === undefined ? [] : [record])))

interface Panel {
  readonly id: number
  readonly title: string
  readonly type: string
  readonly gridPos: {
    readonly x: number
    readonly y: number
    readonly w: number
    readonly h: number
  }
  readonly targets?: readonly { readonly expr: string; readonly refId: string }[]
}
const dashboard = JSON.parse(read('grafana/vaultmesh.json')) as {
  readonly title: string
  readonly uid: string
  readonly schemaVersion: number
  readonly panels: readonly Panel[]
  readonly templating: {
    readonly list: readonly { readonly name: string; readonly definition?: string }[]
  }
}

function read(path: string): string {
  return readFileSync(resolve(CONFIG, path), 'utf8')
}

function run(
  tool: string,
  ...args: string[]
): {
  readonly status: number | null
  readonly stdout: string
  readonly said: string
} {
  const { status, stdout, stderr } = spawnSync(tool, args, { cwd: CONFIG, encoding: 'utf8' })
  return { status, stdout, said: stdout + stderr }
}

/** A series that an expression names, with the labels it selects by. */
interface Named {
  readonly name: string
  readonly labels: readonly (readonly [label: string, operator: string, value: string])[]
}

/** The series of VaultMesh, and of nobody else, in a text: an expression or a template around one. */
function namedIn(text: string): Named[] {
  const found: Named[] = []
  for (const [, name, , selector] of text.matchAll(
    /(?<![\w:])((?:vaultmesh|psi_field)_[a-z0-9_]+)(\{([^}]*)\})?(?![\w:])/g,
  )) {
    const labels = [...(selector ?? '').matchAll(/(\w+)(=~|!~|!=|=)["']([^"']*)["']/g)]
    found.push({ name: name!, labels: labels.map(([, l, o, v]) => [l!, o!, v!] as const) })
  }
  return found
}

/** What is wrong with a series by the catalogue, or null. */
function faultOf({ name, labels }: Named): string | null {
  const base = Object.hasOwn(metrics, name) ? name : name.replace(/_(?:bucket|sum|count)$/, '')
  if (!Object.hasOwn(metrics, base)) return `${name} is not in the catalogue`
  const metric = metrics[base as keyof typeof metrics] as {
    readonly type: string
    readonly labels: Readonly<Record<string, readonly string[] | null>>
  }
  if (base !== name && metric.type !== 'histogram') return `${base} is no histogram`
  for (const [label, operator, value] of labels) {
    // Of Prometheus, and of every sample.
    if (['job', 'instance', 'node_did'].includes(label)) continue
    const values = metric.labels[label]
    if (values === undefined) return `${name} has no label ${label}`
    if (values === null || value.includes('$')) continue
    for (const one of operator.endsWith('~') ? value.split('|') : [value])
      if (!values.includes(one)) return `${name}{${label}} is never ${one}`
  }
  return null
}

function faultsOf(texts: readonly string[]): string[] {
  return texts.flatMap(namedIn).flatMap((named) => faultOf(named) ?? [])
}

/** Anchors of docs/alerts.md, as GitHub makes them of these headings. */
const runbooks = new Set(
  [...readFileSync(resolve(ROOT, 'docs/alerts.md'), 'utf8').matchAll(/^### (\w+)$/gm)].map(
    ([, heading]) => heading!,
  ),
)

describe('stock tools take the files', () => {
  test.skipIf(noPromtool)('promtool checks configuration and rules', () => {
    expect(run('promtool', 'check', 'config', 'prometheus/prometheus.yaml')).toMatchObject({
      status: 0,
    })
    const checked = run('promtool', 'check', 'rules', 'prometheus/rules.yaml')
    expect(checked.said).toContain(`SUCCESS: ${rules.length} rules found`)
  })

  test.skipIf(noPromtool)('promtool finds each alert on its side of the edge', () => {
    const { status, said } = run('promtool', 'test', 'rules', 'prometheus/rules.test.yaml')
    expect(said).toContain('SUCCESS')
    expect(status).toBe(0)
  })

  test.skipIf(noAmtool)('amtool checks the routes, and finds who is called', () => {
    const file = 'alertmanager/alertmanager.yaml'
    expect(run('amtool', 'check-config', file)).toMatchObject({ status: 0 })
    const receiver = (...labels: string[]) =>
      run('amtool', 'config', 'routes', 'test', `--config.file=${file}`, ...labels).stdout.trim()
    expect(receiver('severity=critical', 'alertname=PsiLow')).toBe('pager')
    expect(receiver('severity=warning', 'alertname=WalletLow')).toBe('chat')
    expect(receiver('alertname=Unlabelled')).toBe('chat')
  })
})

describe('what the files name is there', () => {
  test('the finder of series finds what is wrong', () => {
    const wrong =
      'rate(vaultmesh_evnts_total[5m]) + vaultmesh_events_total{outcome="acepted"} + vaultmesh_log_size_bucket + vaultmesh_log_size{shard="1"}'
    expect(faultsOf([wrong])).toEqual([
      'vaultmesh_evnts_total is not in the catalogue',
      'vaultmesh_events_total{outcome} is never acepted',
      'vaultmesh_log_size is no histogram',
      'vaultmesh_log_size has no label shard',
    ])
    expect(namedIn('node:vaultmesh_seal_failures:ratio1h > 0.02')).toEqual([])
  })

  test('every series in a rule or its annotations is in the catalogue', () => {
    const texts = rules.flatMap(({ expr, annotations = {} }) => [
      expr,
      ...Object.values(annotations),
    ])
    expect(texts.flatMap(namedIn).length).toBeGreaterThan(50)
    expect(faultsOf(texts)).toEqual([])
    for (const [name] of texts.join('\n').matchAll(/\b\w+:vaultmesh_\w+:\w+/g))
      expect(recorded).toContain(name)
  })

  test('every series of a test of rules is in the catalogue', () => {
    const text = read('prometheus/rules.test.yaml')
    const series = [...text.matchAll(/series: '([^']+)'/g)].map(([, one]) => one!)
    expect(series.length).toBeGreaterThan(60)
    expect(faultsOf(series)).toEqual([])
  })

  test('every series of the dashboard is in the catalogue', () => {
    const texts = dashboard.panels
      .flatMap(({ targets = [] }) => targets.map(({ expr }) => expr))
      .concat(dashboard.templating.list.flatMap(({ definition }) => definition ?? []))
    expect(texts.length).toBeGreaterThan(40)
    expect(faultsOf(texts)).toEqual([])
  })

  test('the dashboard shows every metric but those that only name things or lead to them', () => {
    const shown = new Set(
      dashboard.panels.flatMap(({ targets = [] }) =>
        targets.flatMap(({ expr }) =>
          namedIn(expr).map(({ name }) => name.replace(/_bucket$/, '')),
        ),
      ),
    )
    expect(Object.keys(metrics).filter((name) => !shown.has(name))).toEqual([
      'vaultmesh_node_info',
      'vaultmesh_alerted_height',
    ])
  })
})

describe('alerts', () => {
  const kindOf = new Map(
    (Object.keys(alertKinds) as AlertKind[]).map((kind) => [alertKinds[kind].name as string, kind]),
  )
  const nodeAlert = alerts.find(({ alert }) => alert === 'NodeAlert')!

  test.each(alerts.map((rule) => [rule.alert!, rule] as const))(
    '%s says how bad it is, what it is about, what to do and where to look',
    (name, { labels = {}, annotations = {} }) => {
      // What only a node can tell has the severity that it has there.
      if (name === 'NodeAlert') expect(labels['severity']).toBeUndefined()
      else expect(['warning', 'critical']).toContain(labels['severity'])
      expect(labels['component']).toMatch(/^\w+$/)
      expect(labels['told_by']).toBe('prometheus')
      for (const key of ['summary', 'description', 'runbook_url', 'drilldown'])
        expect(annotations[key], key).toMatch(/\S/)
      expect(annotations['drilldown']).toMatch(/url|instance/)
      const [, section] = /^docs\/alerts\.md#(.+)$/.exec(annotations['runbook_url']!)!
      if (name !== 'NodeAlert') expect(runbooks).toContain(section)
      // One that the node opens by itself, too, has one runbook, and its rule says where it belongs alike.
      const kind = kindOf.get(name)
      if (kind === undefined) return
      expect(annotations['runbook_url']).toBe(runbookOf(kind))
      expect(labels['component']).toBe(alertKinds[kind].component)
      expect(annotations['summary']).toBe(alertKinds[kind].summary)
    },
  )

  test('every kind that a node opens has a runbook, and a rule of its own or a place in NodeAlert', () => {
    const names = new Set(alerts.map(({ alert }) => alert))
    const [, listed] = /kind=~"([^"]+)"/.exec(nodeAlert.expr)!
    for (const kind of Object.keys(alertKinds) as AlertKind[]) {
      expect(runbooks).toContain(kind)
      const hasRule = names.has(alertKinds[kind].name)
      expect(listed!.split('|').includes(kind), kind).toBe(!hasRule)
    }
  })

  test('every runbook is of an alert', () => {
    const used = new Set(
      alerts.map(({ annotations }) => annotations!['runbook_url']!.split('#')[1]),
    )
    const kinds = new Set<string>(Object.keys(alertKinds))
    expect([...runbooks].filter((name) => !used.has(name) && !kinds.has(name))).toEqual([])
  })

  test('each is tested where it fires and where it does not', () => {
    const { tests } = parse(read('prometheus/rules.test.yaml')) as {
      readonly tests: readonly {
        readonly alert_rule_test: readonly {
          readonly alertname: string
          readonly exp_alerts: readonly unknown[]
        }[]
      }[]
    }
    const cases = tests.flatMap((one) => one.alert_rule_test)
    for (const { alert } of alerts) {
      const own = cases.filter(({ alertname }) => alertname === alert)
      expect(
        own.some(({ exp_alerts }) => exp_alerts.length > 0),
        `${alert} fires`,
      ).toBe(true)
      expect(
        own.some(({ exp_alerts }) => exp_alerts.length === 0),
        `${alert} is calm`,
      ).toBe(true)
    }
  })
})

test('the dashboard can be imported: ids are its own, panels do not overlap, and its data source is chosen there', () => {
  expect(dashboard).toMatchObject({ title: 'VaultMesh', uid: 'vaultmesh' })
  expect(dashboard.schemaVersion).toBeGreaterThanOrEqual(36)
  const ids = dashboard.panels.map(({ id }) => id)
  expect(new Set(ids).size).toBe(ids.length)
  expect(dashboard.templating.list.map(({ name }) => name)).toContain('datasource')
  // No data source of the machine on which it was made.
  const uids = [...read('grafana/vaultmesh.json').matchAll(/"uid":\s*"([^"]+)"/g)].map(
    ([, uid]) => uid,
  )
  expect(new Set(uids)).toEqual(new Set(['vaultmesh', '${datasource}']))
  const cells = new Set<string>()
  for (const { title, gridPos, targets = [] } of dashboard.panels) {
    expect(gridPos.x + gridPos.w, title).toBeLessThanOrEqual(24)
    for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++)
      for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
        expect(cells.has(`${x},${y}`), title).toBe(false)
        cells.add(`${x},${y}`)
      }
    const refs = targets.map(({ refId }) => refId)
    expect(new Set(refs).size, title).toBe(refs.length)
  }
})
