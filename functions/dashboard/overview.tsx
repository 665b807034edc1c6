/**
 * Overview: is it healthy, what moved it, what is under way.
 *
 * From the top: figures, the strip of batches from waiting to final, Ψ with its causes, rails and their queues, open
 * alerts. Each leads to the page that shows the whole of it.
 */

import type { AlertLine, Backlog, BatchLine, RailLine } from '#store/dashboard.ts'
import { AlertList } from './alerts.tsx'
import { RailTable } from './anchors.tsx'
import { PsiCard, type PsiView } from './guardian.tsx'
import { Icon } from './icon.tsx'
import { Badge, Card, Empty, Figure } from './parts.tsx'
import { count, duration, plural, relative } from './text.tsx'

/** What the page shows. */
export interface OverviewProps {
  readonly nowAt: number
  readonly head: { readonly height: number; readonly size: number; readonly sealedAt: number }
  /** Null while the pools do not answer. */
  readonly backlog: Backlog | null
  readonly sealIntervalMs: number
  readonly batches: readonly StripBatch[]
  readonly rails: readonly RailLine[]
  readonly alerts: readonly AlertLine[]
  readonly deadLetters: readonly { readonly queue: string; readonly count: number }[]
  readonly psi: PsiView | null
}

/** A batch and where it stands. */
export interface StripBatch extends BatchLine {
  readonly standing: 'sealed' | 'anchored' | 'final'
}

/** The page's content. */
export function Overview(props: OverviewProps) {
  const { nowAt, alerts, rails, psi } = props
  return (
    <>
      <Figures {...props} />
      <Card
        title="Batches, from waiting to final"
        id="strip"
        wide
        live
        aside={<a href="/dashboard/batches">All batches</a>}
      >
        <Strip {...props} />
      </Card>
      <div class="grid">
        <PsiCard psi={psi} nowAt={nowAt} />
        <Card
          title="Rails and their queues"
          id="rails"
          live
          aside={<a href="/dashboard/anchors">All anchors</a>}
        >
          <RailTable rails={rails} nowAt={nowAt} />
        </Card>
        <Card
          title="Open alerts"
          id="alerts"
          wide
          live
          aside={<a href="/dashboard/alerts">All alerts</a>}
        >
          <AlertList
            alerts={alerts}
            nowAt={nowAt}
            empty="No alert is open. What goes wrong shows here first, with a link to what suffers."
          />
        </Card>
      </div>
    </>
  )
}

function Figures({
  nowAt,
  head,
  backlog,
  sealIntervalMs,
  rails,
  alerts,
  deadLetters,
}: OverviewProps) {
  const under = rails.reduce((n, rail) => n + rail.waiting, 0)
  const letters = deadLetters.reduce((n, queue) => n + queue.count, 0)
  const critical = alerts.filter(({ severity }) => severity === 'critical').length
  const overdueMs =
    backlog?.oldestAt === undefined || backlog.oldestAt === null
      ? 0
      : nowAt - backlog.oldestAt - sealIntervalMs
  return (
    <dl class="figures" data-live="figures">
      <Figure
        name="Events in the log"
        value={count(head.size)}
        note={plural(head.height, 'batch', 'batches')}
        href="/dashboard/events"
      />
      <Figure
        name="Newest batch"
        value={head.height === 0 ? 'none' : `#${head.height}`}
        note={
          head.height === 0 ? 'nothing was sealed yet' : `sealed ${relative(head.sealedAt, nowAt)}`
        }
        {...(head.height === 0 ? {} : { href: `/dashboard/batches/${head.height}` })}
      />
      <Figure
        name="Waiting for a seal"
        value={backlog === null ? 'unknown' : count(backlog.count)}
        note={waitingNote(backlog, nowAt)}
        tone={
          backlog === null || backlog.halted !== null ? 'bad' : overdueMs > 10_000 ? 'warn' : 'good'
        }
      />
      <Figure
        name="Anchors under way"
        value={count(under)}
        note={railsNote(rails, nowAt)}
        tone={rails.some((rail) => rail.failures > 0 || rail.held > 0) ? 'warn' : 'good'}
        href="/dashboard/anchors"
      />
      <Figure
        name="Open alerts"
        value={count(alerts.length)}
        note={alertsNote(alerts.length, critical, letters)}
        tone={critical > 0 ? 'bad' : alerts.length > 0 || letters > 0 ? 'warn' : 'good'}
        href="/dashboard/alerts"
      />
    </dl>
  )
}

function waitingNote(backlog: Backlog | null, nowAt: number): string {
  if (backlog === null) return 'the pools do not answer'
  if (backlog.halted !== null) return 'this log was ended'
  if (backlog.oldestAt === null) return 'nothing waits'
  return `oldest ${relative(backlog.oldestAt, nowAt)}`
}

function railsNote(rails: readonly RailLine[], nowAt: number): string {
  const held = rails.reduce((n, rail) => n + rail.held, 0)
  if (rails.length === 0) return 'no rail is on'
  if (held > 0) return `${held} held for an operator`
  const failing = rails.filter(({ failures }) => failures > 0)
  if (failing.length > 0) return `${failing.map(({ chain }) => chain).join(', ')} retrying`
  const last = Math.max(0, ...rails.map(({ anchoredAt }) => anchoredAt ?? 0))
  return last === 0 ? 'none is final yet' : `newest ${relative(last, nowAt)}`
}

function alertsNote(open: number, critical: number, letters: number): string {
  if (letters > 0) return plural(letters, 'dead letter')
  if (critical > 0) return `${critical} critical`
  return open === 0 ? 'all is well' : 'warnings'
}

/** Batches as blocks: what waits, then from the newest to the oldest. */
export function Strip({
  nowAt,
  backlog,
  batches,
  sealIntervalMs,
}: Pick<OverviewProps, 'nowAt' | 'backlog' | 'batches' | 'sealIntervalMs'>) {
  if (batches.length === 0 && (backlog === null || backlog.count === 0)) {
    return (
      <Empty>
        The log is empty and nothing waits. A first event:{' '}
        <code>scripts/vaultmesh post --type com.example.hello</code>
      </Empty>
    )
  }
  return (
    <div class="strip-box" tabindex={0} role="region" aria-label="Batches, newest first">
      <ol class="strip">
        <li>
          <div class="block pending">
            <span class="height">{backlog === null ? '?' : count(backlog.count)}</span>
            <span class="note">{backlog?.count === 1 ? 'event' : 'events'}</span>
            <Badge tone="wait" word="waiting" />
            <span class="note end">{nextSeal(backlog, sealIntervalMs, nowAt)}</span>
          </div>
        </li>
        <li class="gate" aria-hidden="true" />
        {batches.map((batch) => (
          <li>
            <a class={`block ${batch.standing}`} href={`/dashboard/batches/${batch.height}`}>
              <span class="height">#{batch.height}</span>
              <span class="note">{plural(batch.count, 'event')}</span>
              <Badge tone={batch.standing} word={batch.standing} />
              <span class="note end">
                <Icon name="clock" /> {relative(batch.sealedAt, nowAt)}
              </span>
            </a>
          </li>
        ))}
      </ol>
    </div>
  )
}

function nextSeal(backlog: Backlog | null, intervalMs: number, nowAt: number): string {
  if (backlog === null) return 'pools do not answer'
  if (backlog.halted !== null) return 'the log was ended'
  if (backlog.oldestAt === null) return 'nothing waits'
  const leftMs = backlog.oldestAt + intervalMs - nowAt
  return leftMs > 0 ? `seal within ${duration(leftMs)}` : 'seal is due'
}
