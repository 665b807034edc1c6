/**
 * Events: one search box for anything. Whatever is found leads to a proof.
 */

import type { SearchTerm } from '#core/search-term.ts'
import type { BatchLine, ReceiptHit } from '#store/dashboard.ts'
import type { EventHit } from '#store/search.ts'
import { ReceiptTable } from './anchors.tsx'
import { Card, Empty, Pager, Root, State, Table } from './parts.tsx'
import { Code, count, plural, Said, Time } from './text.tsx'

/** A list of hits of one meaning of the text. */
export interface HitList {
  /** What they have in common, e.g. `Type is exactly …`. */
  readonly title: string
  readonly hits: readonly EventHit[]
  /** Address of the page after it; undefined at the end. */
  readonly older: string | undefined
}

/** What the page shows. */
export interface EventsProps {
  readonly nowAt: number
  readonly term: SearchTerm
  readonly lists: readonly HitList[]
  readonly batches: readonly BatchLine[]
  readonly receipts: readonly ReceiptHit[]
  /** An event that is not sealed yet: its hash and where it stands. */
  readonly waiting: { readonly hash: string; readonly state: string } | null
  /** Types and sources that begin with the text. */
  readonly likeTypes: readonly string[]
  readonly likeSources: readonly string[]
}

/** The page's content. */
export function Events(props: EventsProps) {
  const { term, lists, batches, receipts, waiting, likeTypes, likeSources, nowAt } = props
  const isEmpty =
    lists.every(({ hits }) => hits.length === 0) &&
    batches.length === 0 &&
    receipts.length === 0 &&
    waiting === null &&
    likeTypes.length === 0 &&
    likeSources.length === 0
  return (
    <>
      {isEmpty ? <NothingFound term={term} /> : null}
      {waiting === null ? null : (
        <Card title="Not sealed yet" id="waiting">
          <p>
            <State word={waiting.state} />{' '}
            <Code value={waiting.hash} href={`/dashboard/events/${waiting.hash}`} copy />
          </p>
        </Card>
      )}
      {batches.length === 0 ? null : (
        <Card title={plural(batches.length, 'batch', 'batches')} id="batches">
          <BatchTable batches={batches} nowAt={nowAt} caption="Batches that match" />
        </Card>
      )}
      {receipts.length === 0 ? null : (
        <Card title={plural(receipts.length, 'verified anchor')} id="anchors">
          <ReceiptTable receipts={receipts} nowAt={nowAt} caption="Verified anchors that match" />
        </Card>
      )}
      {lists.map((list, i) =>
        list.hits.length === 0 && (lists.length > 1 || term.text !== '') ? null : (
          <Card title={list.title} id={`hits-${i}`} live={term.text === '' && i === 0}>
            <HitTable hits={list.hits} nowAt={nowAt} caption={list.title} />
            <Pager older={list.older} />
          </Card>
        ),
      )}
      <Names title="Types that begin so" kind="type" names={likeTypes} />
      <Names title="Sources that begin so" kind="source" names={likeSources} />
    </>
  )
}

function NothingFound({ term }: { readonly term: SearchTerm }) {
  if (term.text === '') {
    return (
      <Empty>
        No event is sealed yet. A first one:{' '}
        <code>scripts/vaultmesh post --type com.example.hello</code>
      </Empty>
    )
  }
  return (
    <div class="card">
      <p>
        Nothing here is or has <Said text={term.text} max={120} />.
      </p>
      <p class="note">
        Looked for: {lookedFor(term)}. Types, subjects and sources are found by their whole text; a
        hash by six digits or more of its beginning.
      </p>
    </div>
  )
}

function lookedFor(term: SearchTerm): string {
  const meanings: string[] = []
  if (term.hash !== null) meanings.push('an event, a root and a transaction with this hash')
  if (term.head !== null) meanings.push('events whose hash begins so')
  if (term.number !== null) meanings.push('a batch of this height and a leaf of this index')
  if (term.source !== null) meanings.push('events of this source')
  if (term.type !== null) meanings.push('events of this type')
  if (term.subject !== null) meanings.push('events with this subject')
  return meanings.length === 0 ? 'nothing: this is no hash' : meanings.join('; ')
}

function Names({
  title,
  kind,
  names,
}: {
  readonly title: string
  readonly kind: 'type' | 'source'
  readonly names: readonly string[]
}) {
  if (names.length === 0) return null
  return (
    <Card title={title} id={`like-${kind}`}>
      <ul class="bare">
        {names.map((name) => (
          <li>
            <a href={searchOf(kind, name)}>
              <Said text={name} max={160} />
            </a>
          </li>
        ))}
      </ul>
    </Card>
  )
}

/** The search for all events of a type, subject or source. */
export function searchOf(kind: 'type' | 'subject' | 'source', text: string): string {
  const query = kind === 'source' && text.startsWith('did:') ? text : `${kind}:${text}`
  return `/dashboard/events?q=${encodeURIComponent(query)}`
}

/** Hits, each with the way to its proof. */
export function HitTable({
  hits,
  nowAt,
  caption,
  hasBatch = true,
}: {
  readonly hits: readonly EventHit[]
  readonly nowAt: number
  readonly caption: string
  /** Off where all are of one batch. */
  readonly hasBatch?: boolean
}) {
  const hasSubject = hits.some(({ subject }) => subject !== null)
  return (
    <Table
      caption={caption}
      columns={[
        { head: 'Event' },
        { head: 'Type' },
        ...(hasSubject ? [{ head: 'Subject', kind: 'extra' as const }] : []),
        { head: 'Source', kind: 'extra' },
        { head: 'Its time' },
        ...(hasBatch ? [{ head: 'Batch', kind: 'number' as const }] : []),
        { head: 'Leaf', kind: 'number' },
      ]}
      rows={hits.map((hit) => [
        <Code value={hit.eventHash} short href={`/dashboard/events/${hit.eventHash}`} />,
        hit.type === '' ? (
          'erased'
        ) : (
          <a href={searchOf('type', hit.type)}>
            <Said text={hit.type} max={60} />
          </a>
        ),
        ...(hasSubject ? [<Subject text={hit.subject} />] : []),
        hit.source === '' ? null : (
          <Code value={hit.source} short href={searchOf('source', hit.source)} />
        ),
        hit.type === '' ? null : <Time at={hit.timeAt} nowAt={nowAt} />,
        ...(hasBatch ? [<a href={`/dashboard/batches/${hit.height}`}>#{hit.height}</a>] : []),
        count(hit.leafIndex),
      ])}
      empty="No event here."
    />
  )
}

function Subject({ text }: { readonly text: string | null }) {
  if (text === null) return null
  return (
    <a href={searchOf('subject', text)}>
      <Said text={text} max={60} />
    </a>
  )
}

/** Batches, one a line. */
export function BatchTable({
  batches,
  nowAt,
  caption,
}: {
  readonly batches: readonly (BatchLine & { readonly standing?: string })[]
  readonly nowAt: number
  readonly caption: string
}) {
  const hasStanding = batches.some(({ standing }) => standing !== undefined)
  return (
    <Table
      caption={caption}
      columns={[
        { head: 'Batch' },
        ...(hasStanding ? [{ head: 'State' }] : []),
        { head: 'Events', kind: 'number' },
        { head: 'Leaves', kind: 'extra' },
        { head: 'Sealed' },
        { head: 'Root' },
      ]}
      rows={batches.map((batch) => [
        <a href={`/dashboard/batches/${batch.height}`}>#{batch.height}</a>,
        ...(hasStanding ? [<State word={batch.standing!} />] : []),
        count(batch.count),
        `${count(batch.firstIndex)} to ${count(batch.treeSize - 1)}`,
        <Time at={batch.sealedAt} nowAt={nowAt} />,
        <Root hex={batch.root} />,
      ])}
      empty="No batch was sealed yet."
    />
  )
}
