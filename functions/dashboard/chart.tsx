/**
 * Charts as SVG in the page, each with a table of the same figures beside it.
 *
 * Shapes carry geometry alone, colours are the style sheet's: a strict CSP allows no style attribute. A plot stretches
 * to its box; its labels are HTML around it, so they keep their size on a phone.
 */

import { isoTime } from '#core/time.ts'
import { Table, type Column } from './parts.tsx'
import { relative } from './text.tsx'

/** A figure at a moment. */
export interface Point {
  readonly at: number
  /** Null where there was no figure: the line has a gap there. */
  readonly value: number | null
}

/** Most points that a line is drawn from: two a pixel of a wide screen show nothing more. */
const MAX_POINTS = 600
/** Rows of a table twin: what a person reads; the API has the rest. */
const TWIN_ROWS = 60

/** A value between 0 and 1 as a half circle, with the limit marked. */
export function Gauge({
  value,
  limit,
  label,
}: {
  readonly value: number | null
  readonly limit: number | null
  /** What it is of, for those who do not see it. */
  readonly label: string
}) {
  const shown = value === null ? 'unknown' : value.toFixed(3)
  const said = `${label}: ${shown}${limit === null ? '' : `, alarm below ${limit.toFixed(2)}`}`
  return (
    <svg viewBox="0 0 160 96" role="img" aria-label={said}>
      <path class="track" d="M16 84A64 64 0 0 1 144 84" />
      {value === null || value <= 0 ? null : <path class="value" d={arc(value)} />}
      {limit === null ? null : <Tick at={limit} />}
      <text x="80" y="76">
        {value === null ? '–' : value.toFixed(2)}
      </text>
      <text class="small" x="80" y="94">
        {limit === null ? '' : `alarm below ${limit.toFixed(2)}`}
      </text>
    </svg>
  )
}

/** The arc from 0 to `share` of the half circle around (80, 84). */
function arc(share: number): string {
  const [x, y] = onCircle(Math.min(1, share), 64)
  return `M16 84A64 64 0 0 1 ${x} ${y}`
}

function onCircle(share: number, radius: number): [string, string] {
  const angle = Math.PI * (1 - share)
  return [(80 + radius * Math.cos(angle)).toFixed(2), (84 - radius * Math.sin(angle)).toFixed(2)]
}

function Tick({ at }: { readonly at: number }) {
  const [x1, y1] = onCircle(at, 55)
  const [x2, y2] = onCircle(at, 73)
  return <line class="limit" x1={x1} y1={y1} x2={x2} y2={y2} />
}

/** A line over time. */
export function Series({
  title,
  unit,
  points,
  nowAt,
  min,
  max,
  limit = null,
  marks = [],
  format = (value) => value.toFixed(2),
  low = false,
}: {
  readonly title: string
  /** Head of the twin's column. */
  readonly unit: string
  readonly points: readonly Point[]
  readonly nowAt: number
  /** Ends of the scale; taken from the points where absent. */
  readonly min?: number
  readonly max?: number
  readonly limit?: number | null
  /** Moments to mark, with words for the twin. */
  readonly marks?: readonly { readonly at: number; readonly what: string }[]
  readonly format?: (value: number) => string
  readonly low?: boolean
}) {
  const values = points.flatMap(({ value }) => (value === null ? [] : [value]))
  if (values.length < 2) {
    return <p class="empty">Fewer than two samples of {title} so far: nothing to draw yet.</p>
  }
  const bottom = min ?? Math.min(...values, limit ?? Infinity)
  const top = Math.max(max ?? Math.max(...values, limit ?? -Infinity), bottom + 1e-9)
  const first = points[0]!.at
  const last = points.at(-1)!.at
  const x = (at: number): number => ((at - first) / Math.max(1, last - first)) * 1000
  const y = (value: number): number =>
    100 - ((Math.min(top, Math.max(bottom, value)) - bottom) / (top - bottom)) * 100
  const runs = runsOf(thinned(points))
  const said = `${title}: ${format(values.at(-1)!)} now, between ${format(Math.min(...values))} and ${format(Math.max(...values))} since ${isoTime(first)}`
  return (
    <>
      <figure class={low ? 'chart low' : 'chart'}>
        <div class="y" aria-hidden="true">
          <span>{format(top)}</span>
          <span>{format((top + bottom) / 2)}</span>
          <span>{format(bottom)}</span>
        </div>
        <svg viewBox="0 0 1000 100" preserveAspectRatio="none" role="img" aria-label={said}>
          {[0, 50, 100].map((at) => (
            <line class="rule" x1="0" x2="1000" y1={at} y2={at} />
          ))}
          {runs.map((run) => (
            <>
              <path class="area" d={areaOf(run, x, y)} />
              <path class="line" d={lineOf(run, x, y)} />
            </>
          ))}
          {marks
            .filter(({ at }) => at >= first && at <= last)
            .map(({ at }) => (
              <line class="mark-line" x1={x(at).toFixed(1)} x2={x(at).toFixed(1)} y1="0" y2="100" />
            ))}
          {limit === null ? null : (
            <line
              class="limit"
              x1="0"
              x2="1000"
              y1={y(limit).toFixed(1)}
              y2={y(limit).toFixed(1)}
            />
          )}
        </svg>
        <div class="x" aria-hidden="true">
          <span>{relative(first, nowAt)}</span>
          <span>{relative(last, nowAt)}</span>
        </div>
      </figure>
      <Twin
        caption={`${title}, newest first`}
        columns={[
          { head: 'Time' },
          { head: unit, kind: 'number' },
          ...(marks.length > 0 ? [{ head: 'What happened' }] : []),
        ]}
        rows={points
          .toReversed()
          .slice(0, TWIN_ROWS)
          .map(({ at, value }, i, shown) => {
            const until = i === 0 ? Infinity : shown[i - 1]!.at
            const here = marks.filter((mark) => mark.at >= at && mark.at < until)
            return [
              isoTime(at),
              value === null ? 'none' : format(value),
              ...(marks.length > 0 ? [here.map(({ what }) => what).join('; ')] : []),
            ]
          })}
      />
    </>
  )
}

/** The same figures as a table, folded. */
export function Twin({
  caption,
  columns,
  rows,
}: {
  readonly caption: string
  readonly columns: readonly Column[]
  readonly rows: readonly (readonly string[])[]
}) {
  return (
    <details>
      <summary>As a table</summary>
      <Table caption={caption} columns={columns} rows={rows} empty="No figures yet." />
    </details>
  )
}

/** At most `MAX_POINTS`, evenly taken, the last one always. */
function thinned(points: readonly Point[]): readonly Point[] {
  const step = Math.ceil(points.length / MAX_POINTS)
  if (step === 1) return points
  return points.filter((_, i) => (points.length - 1 - i) % step === 0)
}

interface Known {
  readonly at: number
  readonly value: number
}

/** Stretches without a gap. */
function runsOf(points: readonly Point[]): readonly (readonly Known[])[] {
  const runs: Known[][] = [[]]
  for (const { at, value } of points) {
    if (value === null) runs.push([])
    else runs.at(-1)!.push({ at, value })
  }
  return runs.filter((run) => run.length > 0)
}

type Scale = (value: number) => number

function lineOf(run: readonly Known[], x: Scale, y: Scale): string {
  return run
    .map(({ at, value }, i) => `${i === 0 ? 'M' : 'L'}${x(at).toFixed(1)} ${y(value).toFixed(1)}`)
    .join('')
}

function areaOf(run: readonly Known[], x: Scale, y: Scale): string {
  return `${lineOf(run, x, y)}L${x(run.at(-1)!.at).toFixed(1)} 100L${x(run[0]!.at).toFixed(1)} 100Z`
}

/** A share of a whole, or a signed amount of ±`max`, as a bar; the figure itself stands beside it. */
export function Bar({
  value,
  max,
  signed = false,
}: {
  readonly value: number
  readonly max: number
  readonly signed?: boolean
}) {
  const share = Math.max(-1, Math.min(1, max === 0 ? 0 : value / max))
  const width = Math.abs(share) * (signed ? 50 : 100)
  const from = signed ? (share < 0 ? 50 - width : 50) : 0
  return (
    <svg class="bar" viewBox="0 0 100 8" preserveAspectRatio="none" aria-hidden="true">
      <rect class="track" x="0" y="0" width="100" height="8" />
      <rect
        class={signed ? (share < 0 ? 'minus' : 'plus') : 'even'}
        x={from.toFixed(2)}
        y="0"
        width={width.toFixed(2)}
        height="8"
      />
    </svg>
  )
}
