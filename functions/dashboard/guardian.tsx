/**
 * Guardian: Ψ over time, what moved it, what the guardian did about it, and what its predictor believes.
 */

import { Bar, Gauge, Series, type Point } from './chart.tsx'
import { Badge, Card, Empty, Facts, Table } from './parts.tsx'
import { Code, count, duration, plural, Said, Time } from './text.tsx'

/** A node as the Guardian object shows it: the part that pages need. */
export interface NodeHealth {
  readonly nodeDid: string
  readonly own: boolean
  readonly lastAt: string
  readonly intervalMs: number
  readonly stale: boolean
  readonly sample: {
    readonly psi: number
    readonly terms: readonly {
      readonly term: string
      readonly value: number
      readonly weight: number
      readonly contribution: number
    }[]
    readonly signals: readonly {
      readonly name: string
      readonly value: number | null
      readonly limit: number
      readonly contribution: number
    }[]
    readonly expected: Readonly<Record<string, number | null>>
  }
  readonly causes: readonly { readonly name: string; readonly text: string }[]
  readonly threshold: number
  readonly alarm: { readonly since: string; readonly explained: string } | null
}

/** The Guardian object's view: the part that pages need. */
export interface GuardianView {
  readonly mode: string
  readonly intervalMs: number
  readonly threshold: number
  readonly nodes: readonly NodeHealth[]
  readonly swarm: { readonly psi: number; readonly nodes: number } | null
  readonly interventions: readonly {
    readonly id: number
    readonly nodeDid: string
    readonly at: string
    readonly kind: string
    readonly explained: string
    readonly psi: number
    readonly eventHash: string | null
  }[]
  readonly notes: readonly string[]
}

/** What the predictor believes of a node: the part that pages need. */
export interface NodeBelief {
  readonly nodeDid: string
  readonly own: boolean
  readonly samples: number
  readonly predictionError: number
  readonly signals: readonly {
    readonly name: string
    readonly last: number | null
    readonly expected: number | null
    readonly error: number | null
  }[]
}

/** A step of a series: the part that pages need. */
export interface SeriesPoint {
  readonly at: string
  readonly psi: { readonly mean: number; readonly min: number }
}

/** Ψ as the overview shows it. */
export interface PsiView {
  readonly health: NodeHealth
  readonly series: readonly Point[]
  readonly marks: readonly { readonly at: number; readonly what: string }[]
}

/** Spans of time that a series can be looked at in, and the step of each. */
export const RANGES = {
  '1h': { name: '1 hour', ms: 3_600_000, stepMs: 60_000 },
  '6h': { name: '6 hours', ms: 21_600_000, stepMs: 60_000 },
  '24h': { name: '24 hours', ms: 86_400_000, stepMs: 300_000 },
  '7d': { name: '7 days', ms: 604_800_000, stepMs: 1_800_000 },
} as const
export type Range = keyof typeof RANGES

/** The gauge with its causes and history, as a card of the overview. */
export function PsiCard({ psi, nowAt }: { readonly psi: PsiView | null; readonly nowAt: number }) {
  return (
    <Card
      title="Ψ, the health of this node"
      id="psi"
      live
      aside={<a href="/dashboard/guardian">What moved it</a>}
    >
      {psi === null ? (
        <Empty>
          No telemetry yet: the first Ψ is there an interval after the node has started.
        </Empty>
      ) : (
        <>
          <PsiNow health={psi.health} nowAt={nowAt} />
          <Series
            title="Ψ"
            unit="Ψ"
            points={psi.series}
            nowAt={nowAt}
            min={0}
            max={1}
            limit={psi.health.threshold}
            marks={psi.marks}
            low
          />
        </>
      )}
    </Card>
  )
}

function PsiNow({ health, nowAt }: { readonly health: NodeHealth; readonly nowAt: number }) {
  const { sample, threshold, alarm, lastAt, stale } = health
  const causes = dear(health)
  return (
    <div class="gauge">
      <Gauge value={sample.psi} limit={threshold} label="Ψ" />
      <div>
        <div class="row">
          <PsiState health={health} />
          <Time at={Date.parse(lastAt)} nowAt={nowAt} />
        </div>
        {stale ? (
          <p>It has said nothing for three intervals: this is of then, not of now.</p>
        ) : null}
        {alarm === null ? null : (
          <p>
            Alarm since <Time at={Date.parse(alarm.since)} nowAt={nowAt} />:{' '}
            <Said text={alarm.explained} />
          </p>
        )}
        {causes.length === 0 ? (
          <p>No signal pulls it down.</p>
        ) : (
          <>
            <p>What pulls it down, most first:</p>
            <ol class="reasons">
              {causes.map(({ text }) => (
                <li>
                  <Said text={text} />
                </li>
              ))}
            </ol>
          </>
        )}
      </div>
    </div>
  )
}

/** Less than this is shown as nothing. */
const LEAST_COST = 0.0005

/** The causes that cost something. */
function dear({ sample, causes }: NodeHealth): NodeHealth['causes'] {
  const costs = new Map(sample.signals.map(({ name, contribution }) => [name, -contribution]))
  return causes.filter(({ name }) => (costs.get(name) ?? 0) >= LEAST_COST)
}

/** Whether Ψ is well, in a word. */
function PsiState({
  health: { alarm, stale, sample, threshold },
}: {
  readonly health: NodeHealth
}) {
  if (alarm !== null) return <Badge tone="bad" word="alarm" />
  if (stale) return <Badge tone="warn" word="silent" icon="clock" />
  return sample.psi < threshold ? (
    <Badge tone="warn" word="low" />
  ) : (
    <Badge tone="good" word="healthy" />
  )
}

/** What the page shows; `view` is null while nothing was measured. */
export interface GuardianProps {
  readonly nowAt: number
  readonly view: GuardianView | null
  readonly range: Range
  readonly series: readonly Point[]
  readonly marks: readonly { readonly at: number; readonly what: string }[]
  readonly beliefs: readonly NodeBelief[]
}

/** The page's content. */
export function Guardian({ nowAt, view, range, series, marks, beliefs }: GuardianProps) {
  const own = view?.nodes.find((node) => node.own)
  if (view === null || own === undefined) {
    return (
      <Card title="Nothing measured yet" id="none" wide>
        <Empty>
          This node has not said how it does yet. It measures itself once in an interval; the first
          Ψ is there an interval after its start.
        </Empty>
      </Card>
    )
  }
  return (
    <>
      <div class="grid">
        <Card title="Now" id="now" live>
          <PsiNow health={own} nowAt={nowAt} />
        </Card>
        <Card title="Over time" id="series" live aside={<Ranges range={range} />}>
          <Series
            title={`Ψ over ${RANGES[range].name}`}
            unit="Ψ"
            points={series}
            nowAt={nowAt}
            min={0}
            max={1}
            limit={view.threshold}
            marks={marks}
          />
        </Card>
        <Card title="What it is made of" id="terms" live>
          <Terms health={own} />
        </Card>
        <Card title="What each signal costs" id="signals" live>
          <Signals health={own} />
        </Card>
      </div>
      <Card title="Interventions" id="interventions" live wide>
        <Interventions view={view} nowAt={nowAt} />
      </Card>
      <Card
        title="Nodes of the federation"
        id="nodes"
        live
        wide
        aside={
          view.swarm === null
            ? undefined
            : `Ψ of ${plural(view.swarm.nodes, 'node')} together ${view.swarm.psi.toFixed(2)}`
        }
      >
        <Nodes nodes={view.nodes} nowAt={nowAt} />
      </Card>
      <Card title="Learnt" id="learn" wide>
        {beliefs.map((belief) => (
          <Belief belief={belief} />
        ))}
        <Facts
          facts={[
            ['Mode', view.mode],
            ['Measures each', duration(view.intervalMs)],
            ['Alarm below', view.threshold.toFixed(2)],
            view.notes.length === 0
              ? ['Newest telemetry', 'read every signal']
              : ['Newest telemetry', <Said text={view.notes.join(' ')} />],
          ]}
        />
      </Card>
    </>
  )
}

function Ranges({ range }: { readonly range: Range }) {
  return (
    <span class="row">
      {Object.entries(RANGES).map(([key, { name }]) => (
        <a
          href={`/dashboard/guardian?range=${key}`}
          aria-current={key === range ? 'true' : undefined}
        >
          {name}
        </a>
      ))}
    </span>
  )
}

/** Words for the symbols of Ψ (docs/psi.md). */
const TERMS: Readonly<Record<string, string>> = {
  M: 'Memory: how well the remembered past was',
  C: 'Continuity: past and present keep the promises',
  U: 'Futurity: the expected next sample keeps them',
  Phi: 'Phase coherence: how many parts are well',
  H: 'Entropy: how much it changed of late',
  PE: 'Prediction error: worse than expected',
}

function Terms({ health }: { readonly health: NodeHealth }) {
  const most = Math.max(
    ...health.sample.terms.map(({ contribution }) => Math.abs(contribution)),
    0.01,
  )
  return (
    <Table
      caption="Terms of Ψ: what each adds or takes"
      columns={[
        { head: 'Term' },
        { head: 'Value', kind: 'number' },
        { head: 'Weight', kind: 'number' },
        { head: 'Adds', kind: 'number' },
      ]}
      rows={health.sample.terms.map(({ term, value, weight, contribution }) => [
        <>
          <strong>{term === 'Phi' ? 'Φ' : term}</strong>{' '}
          <span class="note">{TERMS[term] ?? ''}</span>
        </>,
        value.toFixed(3),
        weight.toFixed(1).replace('-', '−'),
        <>
          {signed(contribution)}
          <Bar value={contribution} max={most} signed />
        </>,
      ])}
      empty="No terms."
    />
  )
}

function signed(value: number): string {
  const text = Math.abs(value).toFixed(3)
  return value < 0 && Number(text) !== 0 ? `−${text}` : `+${text}`
}

function Signals({ health }: { readonly health: NodeHealth }) {
  const { signals, expected } = health.sample
  const most = Math.max(...signals.map(({ contribution }) => Math.abs(contribution)), 0.01)
  return (
    <Table
      caption="Signals, dearest first: points of Ψ that each takes"
      columns={[
        { head: 'Signal' },
        { head: 'Now', kind: 'number' },
        { head: 'Limit', kind: 'extra' },
        { head: 'Expected', kind: 'extra' },
        { head: 'Costs', kind: 'number' },
      ]}
      rows={signals
        .toSorted((a, b) => a.contribution - b.contribution)
        .map(({ name, value, limit, contribution }) => [
          wordsOf(name),
          inUnit(name, value),
          inUnit(name, limit),
          inUnit(name, expected[name] ?? null),
          <>
            {Math.abs(contribution) < LEAST_COST ? '0' : signed(contribution)}
            <Bar value={contribution} max={most} signed />
          </>,
        ])}
      empty="No signals."
    />
  )
}

/** A signal's name in words; its unit stands with the value. */
function wordsOf(name: string): string {
  return name
    .replace(/_s$/, '')
    .replaceAll('_', ' ')
    .replaceAll(/\b(?:btc|evm|tsa)\b/g, (rail) => rail.toUpperCase())
}

/** A signal's value in its unit, which its name ends in; null is nothing to say. */
function inUnit(name: string, value: number | null): string {
  if (value === null) return 'none'
  if (name.endsWith('_s')) return Math.abs(value) < 0.0005 ? '0 s' : duration(value * 1000)
  if (/_(?:ratio|agreement)$/.test(name)) return `${(value * 100).toFixed(1)} %`
  const text = Number.isInteger(value) ? count(value) : value.toPrecision(3)
  return name.endsWith('_rate') ? `${text}/s` : text
}

function Interventions({ view, nowAt }: { readonly view: GuardianView; readonly nowAt: number }) {
  return (
    <Table
      caption="What the guardian did, newest first"
      columns={[
        { head: 'When' },
        { head: 'What' },
        { head: 'Why' },
        { head: 'Ψ then', kind: 'number' },
        { head: 'Recorded as', kind: 'extra' },
      ]}
      rows={view.interventions.map((act) => [
        <Time at={Date.parse(act.at)} nowAt={nowAt} />,
        <Badge tone={act.kind === 'nigredo' ? 'bad' : 'good'} word={act.kind} />,
        <Said text={act.explained} />,
        act.psi.toFixed(3),
        act.eventHash === null ? (
          'not in the log'
        ) : (
          <Code value={act.eventHash} short href={`/dashboard/events/${act.eventHash}`} />
        ),
      ])}
      empty="It never had to act."
    />
  )
}

function Nodes({
  nodes,
  nowAt,
}: {
  readonly nodes: readonly NodeHealth[]
  readonly nowAt: number
}) {
  return (
    <Table
      caption="How each node says that it does"
      columns={[
        { head: 'Node' },
        { head: 'State' },
        { head: 'Ψ', kind: 'number' },
        { head: 'Said' },
        { head: 'First cause' },
      ]}
      rows={nodes.map((node) => [
        <>
          <Code value={node.nodeDid} short copy />{' '}
          {node.own ? <span class="note">this node</span> : null}
        </>,
        <PsiState health={node} />,
        node.sample.psi.toFixed(3),
        <Time at={Date.parse(node.lastAt)} nowAt={nowAt} />,
        <Said text={dear(node)[0]?.text ?? 'none'} max={160} />,
      ])}
      empty="No node has said how it does."
    />
  )
}

function Belief({ belief }: { readonly belief: NodeBelief }) {
  return (
    <details open={belief.own}>
      <summary>
        {belief.own ? 'This node' : <Code value={belief.nodeDid} short />}: learnt from{' '}
        {plural(belief.samples, 'sample')}, prediction error {belief.predictionError.toFixed(3)}
      </summary>
      <Table
        caption="What was said last, and what was expected of it"
        columns={[
          { head: 'Signal' },
          { head: 'Said', kind: 'number' },
          { head: 'Expected', kind: 'number' },
          { head: 'Off by', kind: 'number' },
        ]}
        rows={belief.signals.map(({ name, last, expected, error }) => [
          wordsOf(name),
          inUnit(name, last),
          inUnit(name, expected),
          error === null ? 'none' : `${error < 0 ? '−' : '+'}${inUnit(name, Math.abs(error))}`,
        ])}
        empty="Nothing learnt yet."
      />
    </details>
  )
}
