/**
 * The text that Prometheus scrapes: exposition format 0.0.4 of the catalogue's series.
 *
 * Invariants: no two lines name the same series; a histogram's buckets are cumulative and the last, +Inf, equals its
 * count; `node_did` is the first label of every sample.
 */

import { metrics, partsOf, type Metric, type MetricName, type Series } from './metrics.ts'

/** Media type of the exposition. */
export const EXPOSITION_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

/**
 * Series as Prometheus reads them, in the catalogue's order, each with `node_did`. Of two with one name and the same
 * labels the first is shown: a repeated line would void the whole scrape.
 */
export function exposition(nodeDid: string, series: readonly Series[]): string {
  const families = Map.groupBy(series, ({ name }) => name)
  let text = ''
  for (const name of Object.keys(metrics) as MetricName[]) {
    const family = families.get(name)
    if (family === undefined) continue
    const metric: Metric = metrics[name]
    text += `# HELP ${name} ${escapeHelp(metric.help)}\n# TYPE ${name} ${metric.type}\n`
    const seen = new Set<string>()
    for (const one of family) {
      const labels = labelText(one, one.nodeDid ?? nodeDid)
      if (seen.has(labels)) continue
      seen.add(labels)
      text +=
        metric.buckets === undefined ? sample(name, labels, one.values[0]!) : histogram(one, labels)
    }
  }
  return text
}

function histogram({ name, values }: Series, labels: string): string {
  let text = ''
  let count = 0
  for (const [i, bound] of partsOf(name).slice(1).entries()) {
    count += values[i + 1]!
    text += sample(`${name}_bucket`, `${labels},le="${bound}"`, count)
  }
  return text + sample(`${name}_sum`, labels, values[0]!) + sample(`${name}_count`, labels, count)
}

function sample(name: string, labels: string, value: number): string {
  return `${name}{${labels}} ${valueText(value)}\n`
}

/** A number as Go's ParseFloat reads it. */
function valueText(value: number): string {
  if (value === Infinity) return '+Inf'
  return value === -Infinity ? '-Inf' : String(value)
}

function labelText({ name, labels }: Series, nodeDid: string): string {
  const names = Object.keys(metrics[name].labels)
  return [`node_did="${escapeLabel(nodeDid)}"`]
    .concat(names.map((label, i) => `${label}="${escapeLabel(labels[i]!)}"`))
    .join(',')
}

/** Exposition format: in a label's value a backslash, a quote and a line feed are escaped, and nothing else. */
function escapeLabel(value: string): string {
  return value
    .toWellFormed()
    .replaceAll('\\', '\\\\')
    .replaceAll('"', '\\"')
    .replaceAll('\n', '\\n')
}

/** Exposition format: in a help text a backslash and a line feed are escaped. */
function escapeHelp(help: string): string {
  return help.replaceAll('\\', '\\\\').replaceAll('\n', '\\n')
}
