/**
 * Alerts: what an operator must look at, open and past, each with a way to what suffers.
 */

import type { Child } from 'hono/jsx'
import type { AlertLine } from '#store/dashboard.ts'
import { Badge, Card, Empty, Pager, State, Table } from './parts.tsx'
import { count, duration, Said, Time } from './text.tsx'

/** What the page shows. */
export interface AlertsProps {
  readonly nowAt: number
  readonly open: readonly AlertLine[]
  readonly over: readonly AlertLine[]
  readonly deadLetters: readonly { queue: string; count: number; oldestAt: number }[]
  /** Of the next page of past ones; null at the end. */
  readonly older: number | null
}

/** The page's content. `replay` is the form that sends dead letters again, where the viewer may. */
export function Alerts({
  nowAt,
  open,
  over,
  deadLetters,
  older,
  replay,
}: AlertsProps & { readonly replay?: Child }) {
  return (
    <>
      <Card title="Open" id="open" live>
        <AlertList alerts={open} nowAt={nowAt} empty="No alert is open." />
      </Card>
      <Card title="Dead letters" id="letters" live>
        <Table
          caption="Messages that a queue gave up on, by queue"
          columns={[{ head: 'Queue' }, { head: 'Letters', kind: 'number' }, { head: 'Oldest' }]}
          rows={deadLetters.map((queue) => [
            queue.queue,
            count(queue.count),
            <Time at={queue.oldestAt} nowAt={nowAt} />,
          ])}
          empty="None: no queue gave up on a message. Work that a letter names is in storage all the same, and is retried."
        />
        {deadLetters.length === 0 ? null : replay}
      </Card>
      <Card title="Over" id="over">
        <Table
          caption="Alerts that are over, newest first"
          columns={[
            { head: 'Kind' },
            { head: 'What it said' },
            { head: 'Opened' },
            { head: 'Lasted', kind: 'extra' },
          ]}
          rows={over.map((alert) => [
            <>
              <State word={alert.severity} /> <AlertLink alert={alert} />
            </>,
            <Said text={alert.detail} />,
            <Time at={alert.openedAt} nowAt={nowAt} />,
            duration((alert.clearedAt ?? nowAt) - alert.openedAt),
          ])}
          empty="No alert was ever cleared on this node."
        />
        <Pager older={older === null ? undefined : `/dashboard/alerts?below=${older}`} />
      </Card>
    </>
  )
}

/** Open alerts as a list. */
export function AlertList({
  alerts,
  nowAt,
  empty,
}: {
  readonly alerts: readonly AlertLine[]
  readonly nowAt: number
  readonly empty: string
}) {
  if (alerts.length === 0) {
    return (
      <div class="row">
        <Badge tone="good" word="quiet" />
        <Empty>{empty}</Empty>
      </div>
    )
  }
  return (
    <ul class="alerts">
      {alerts.map((alert) => (
        <li>
          <div class="row">
            <State word={alert.severity} />
            <strong>
              <AlertLink alert={alert} />
            </strong>
            <Time at={alert.openedAt} nowAt={nowAt} />
          </div>
          <Said text={alert.detail} />
        </li>
      ))}
    </ul>
  )
}

/** The kind of an alert, as a link to what suffers. Browsers are led from the API's paths to pages. */
function AlertLink({ alert }: { readonly alert: AlertLine }) {
  const words = alert.kind.replaceAll('_', ' ')
  const name = <Said text={words} max={80} />
  // Rows are ours, but a link may hold what a peer named: a path on this node or none.
  if (!/^\/[A-Za-z0-9]/.test(alert.link)) return name
  return <a href={alert.link}>{name}</a>
}
