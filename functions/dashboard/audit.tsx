/**
 * Audit: who did what on the dashboard, and what was refused, newest first.
 */

import type { AuditRow } from '#store/audit.ts'
import { Badge, Card, Pager, Table, type Tone } from './parts.tsx'
import { Code, Said, Time } from './text.tsx'

const TONES: Readonly<Record<AuditRow['outcome'], Tone>> = {
  begun: 'wait',
  done: 'good',
  refused: 'warn',
  failed: 'bad',
}

/** The page's content. */
export function Audit({
  rows,
  nowAt,
  older,
}: {
  readonly rows: readonly AuditRow[]
  readonly nowAt: number
  /** Id below which the next page begins; null at the end. */
  readonly older: number | null
}) {
  return (
    <Card title="What was done, and what was refused" id="audit" wide>
      <Table
        caption="The audit, newest first"
        columns={[
          { head: 'When' },
          { head: 'Who' },
          { head: 'Action' },
          { head: 'Outcome' },
          { head: 'On what', kind: 'extra' },
          { head: 'Detail' },
          { head: 'Request', kind: 'extra' },
        ]}
        rows={rows.map((row) => [
          <Time at={row.at} nowAt={nowAt} />,
          row.actor === '' ? (
            <span class="note">nobody in particular</span>
          ) : (
            <>
              <Said text={row.name === '' ? row.actor : row.name} max={60} />{' '}
              <span class="note">{row.role}</span>
            </>
          ),
          row.action,
          <Badge tone={TONES[row.outcome] ?? 'plain'} word={row.outcome} />,
          <Said text={row.target} max={120} />,
          <Said text={row.detail} max={300} />,
          <Code value={row.requestId} short />,
        ])}
        empty="Nothing was done on this dashboard yet."
      />
      <Pager older={older === null ? undefined : `/dashboard/audit?below=${older}`} />
    </Card>
  )
}
