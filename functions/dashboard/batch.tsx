/**
 * Batches: the list, and one batch with its manifest, events and anchors.
 */

import type { Manifest } from '#core/batch-manifest.ts'
import { isoTime } from '#core/time.ts'
import type { BatchLine } from '#store/dashboard.ts'
import type { EventHit } from '#store/search.ts'
import { AnchorTable, type EventAnchor } from './event.tsx'
import { BatchTable, HitTable } from './events.tsx'
import { Badge, Card, Download, Facts, Json, Pager, Root, State } from './parts.tsx'
import { Code, count, plural, Time, visibleLines, visibleText } from './text.tsx'

/** The list's content. */
export function Batches({
  nowAt,
  batches,
  older,
}: {
  readonly nowAt: number
  readonly batches: readonly (BatchLine & { readonly standing: string })[]
  /** Height below which the next page begins; null at the end. */
  readonly older: number | null
}) {
  return (
    <Card title="Sealed batches" id="batches" live>
      <BatchTable batches={batches} nowAt={nowAt} caption="Sealed batches, newest first" />
      <Pager older={older === null ? undefined : `/dashboard/batches?below=${older}`} />
    </Card>
  )
}

/** What the page shows. */
export interface BatchProps {
  readonly nowAt: number
  readonly batch: BatchLine & { readonly checkpoint: string }
  readonly standing: 'sealed' | 'anchored' | 'final'
  /** As its JWS says; null, with the reason, if that does not verify. */
  readonly manifest: Manifest | null
  readonly manifestProblem: string | null
  readonly anchors: readonly EventAnchor[]
  readonly hits: readonly EventHit[]
  /** Leaf at which the next page of events begins; null at the end. */
  readonly next: number | null
  readonly isLast: boolean
}

/** The page's content. */
export function Batch(props: BatchProps) {
  const { batch, nowAt, hits, next, standing } = props
  const { height } = batch
  return (
    <>
      <Card title="Manifest" id="manifest" wide live aside={<State word={standing} />}>
        <ManifestFacts {...props} />
        <div class="downloads">
          <Download href={`/batches/${height}?format=json`}>Batch (JSON)</Download>
          <Download href={`/batches/${height}?format=jose`}>Signed manifest (JWS)</Download>
          <Download href={`/batches/${height}/events`}>Events (NDJSON)</Download>
        </div>
      </Card>
      <Card title="Anchors" id="anchors" wide live>
        <AnchorTable anchors={props.anchors} nowAt={nowAt} />
      </Card>
      <Card title="Events" id="events" wide aside={plural(batch.count, 'event')}>
        <HitTable
          hits={hits}
          nowAt={nowAt}
          caption={`Events of batch ${height}, in leaf order`}
          hasBatch={false}
        />
        <Pager
          words={['First events', 'Next events']}
          newer={
            (hits[0]?.leafIndex ?? 0) > batch.firstIndex
              ? `/dashboard/batches/${height}#events`
              : undefined
          }
          older={next === null ? undefined : `/dashboard/batches/${height}?from=${next}#events`}
        />
      </Card>
      <Card title="Checkpoint" id="checkpoint" wide>
        <Json
          label="Checkpoint of the log at this batch, a signed note"
          text={visibleLines(batch.checkpoint)}
        />
      </Card>
      <nav class="pager" aria-label="Batches beside it">
        {props.isLast ? (
          <span />
        ) : (
          <a href={`/dashboard/batches/${height + 1}`}>← Batch {height + 1}</a>
        )}
        {height === 1 ? (
          <span />
        ) : (
          <a href={`/dashboard/batches/${height - 1}`}>Batch {height - 1} →</a>
        )}
      </nav>
    </>
  )
}

function ManifestFacts({ batch, manifest, manifestProblem, nowAt }: BatchProps) {
  return (
    <>
      {manifestProblem === null ? null : (
        <p>
          <Badge tone="bad" word="does not verify" /> {visibleText(manifestProblem)}
        </p>
      )}
      <Facts
        facts={[
          ['Events', count(batch.count)],
          ['Leaves', `${count(batch.firstIndex)} to ${count(batch.treeSize - 1)}`],
          ['Sealed', <Time at={batch.sealedAt} nowAt={nowAt} />],
          ['Sealed by', manifest === null ? 'unknown' : <Code value={manifest.sealer} copy />],
          ['Root of the log after it', <Root hex={batch.root} short={false} />],
          manifest === null
            ? null
            : ['Root of the log before it', <Root hex={manifest.previousRoot} short={false} />],
          manifest === null
            ? null
            : ['Root of its events alone', <Root hex={manifest.batchRoot} short={false} />],
          manifest === null
            ? null
            : [
                'Signature',
                <>
                  <Badge tone="good" word="verified" /> by this node’s key of{' '}
                  {isoTime(manifest.sealedAt).slice(0, 10)}
                </>,
              ],
        ]}
      />
    </>
  )
}
