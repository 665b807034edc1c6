/**
 * docs/metrics.md as the catalogue has it. What stands around the table is here, so that no word of the page is
 * written twice.
 */

import { codes } from '#core/errors.ts'
import { metrics, type Metric } from '#core/metrics.ts'

const INTRO = `# Metrics

\`GET /metrics\` answers in the text format that Prometheus scrapes (0.0.4). This page is made from the catalogue in
\`functions/core/metrics.ts\`; what is not in it is neither counted nor shown.

## Who may read

Without \`METRICS_TOKEN\` anybody who reaches the node: the numbers say how busy it is and how it does, never what is
posted or by whom. With it, a reader needs \`Authorization: Bearer <METRICS_TOKEN>\`; \`ADMIN_TOKEN\` and an API token
with the scope \`read:metrics\` open it too.
Anybody else gets a 401 problem. Set it as a secret (\`wrangler secret put METRICS_TOKEN\`, or in the environment of
\`vaultmesh selfhost\`); in Prometheus it is \`authorization: {credentials_file: …}\`.

## What the numbers are worth

- **Counters and histograms are durable.** Each isolate of the node counts in memory and hands over to one object
  (Counters) once a second; a batch whose answer was lost is sent again and added once. A crash loses at most a second of
  counts of one isolate. They never fall, also over restarts: they start at zero only when the storage of Counters is
  lost, or when a log that forked is followed by the next. While Counters does not answer, counting goes on in memory;
  a batch that found no answer for an hour is given up.
- **Gauges are read from their owners at each scrape.** What cannot be read is left out, and
  \`vaultmesh_scrape_errors{source="…"}\` is 1 for its source. There are no default values: a missing gauge means that
  nobody knows, and alerts should treat it so (\`absent()\`, or the scrape error itself).
- **A scrape is cheap.** It asks each owner once and reads indexes, not tables: its cost grows with what is open
  (jobs under way, open alerts and dead letters, shards, peers), not with the log. Every 15 s is fine.
- **No client can add a series.** Labels that events or requests could influence take their values from closed lists.

Every sample has the label \`node_did\`, also where the table does not say it. \`vaultmesh_psi\` has a series for each
peer that was heard, under the peer's own DID.

## The catalogue

| metric | type | labels | meaning |
|---|---|---|---|
`

/** The page. */
export function metricsPage(): string {
  const rows = Object.entries<Metric>(metrics).map(
    ([name, metric]) =>
      `| \`${name}\` | ${metric.type} | ${labelsOf(metric)} | ${cell(helpOf(metric))} |`,
  )
  return `${INTRO}${rows.join('\n')}\n`
}

function labelsOf({ labels }: Metric): string {
  return Object.entries(labels)
    .map(([label, values]) => {
      if (values === null) return `\`${label}\``
      if (values.length === Object.keys(codes).length) return `\`${label}\`: a code of /problems`
      return `\`${label}\`: ${values.join(', ')}`
    })
    .join('; ')
}

function helpOf({ help, buckets }: Metric): string {
  return buckets === undefined ? help : `${help} Buckets up to ${buckets.join(', ')}.`
}

function cell(text: string): string {
  return text.replaceAll('|', '\\|').replaceAll('<', '&lt;')
}
