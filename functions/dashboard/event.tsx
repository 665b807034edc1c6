/**
 * One event: what it says, how far it has come, its receipt, and the path that proves it.
 */

import type { Level } from '#core/inclusion-proof.ts'
import type { Receipt } from '#core/receipt.ts'
import type { PoolStatus } from '#store/pool-api.ts'
import { Icon } from './icon.tsx'
import { MerklePath } from './merkle-path.tsx'
import { Badge, Card, Download, Empty, Facts, Json, Network, Root, State, Table } from './parts.tsx'
import { bytes, Code, count, plural, Said, Time, visibleText } from './text.tsx'
import { searchOf } from './events.tsx'

/** The event as its bytes say; each field is whatever the signer wrote. */
export interface SaidEvent {
  /** The payload as JSON for people; null if the bytes are none that can be read. */
  readonly payload: string | null
  readonly header: { readonly alg: string; readonly kid: string }
  readonly type: string
  readonly subject: string | null
  readonly timeAt: number | null
  readonly length: number
}

/** An anchor as the page lists it. */
export interface EventAnchor {
  readonly chain: string
  readonly network: string
  readonly dev: boolean
  readonly status: string
  readonly txHash: string | null
  readonly anchoredAt: number | null
  readonly treeSize: number
  readonly reason: string | null
}

/** What the page shows of a sealed event. */
export interface EventProps {
  readonly nowAt: number
  /** What its receipt says of its place. */
  readonly receipt: Pick<
    Receipt,
    | 'eventHash'
    | 'eventId'
    | 'source'
    | 'status'
    | 'origin'
    | 'height'
    | 'leafIndex'
    | 'treeSize'
    | 'root'
  >
  /** When its pool took it; null where that is not known any more. */
  readonly acceptedAt: number | null
  readonly said: SaidEvent | null
  /** Of an erased event the one that took its bytes, null if that is not known; undefined of any other. */
  readonly erasedBy?: string | null | undefined
  readonly sealedAt: number
  /** When each state was reached; null while it is not, or where nobody wrote it down. */
  readonly anchoredAt: number | null
  readonly finalAt: number | null
  readonly anchors: readonly EventAnchor[]
  readonly rails: readonly string[]
  readonly leafHash: string
  readonly levels: readonly Level[]
  /** Hashes of the leaves before and after it; null at the ends. */
  readonly before: string | null
  readonly after: string | null
}

/** The page's content for a sealed event. */
export function Event(props: EventProps) {
  const { receipt, nowAt, said, rails } = props
  const hash = receipt.eventHash
  const hasBitcoin = props.anchors.some(
    ({ chain, status }) => chain === 'BTC' && status === 'verified',
  )
  return (
    <>
      <p class="id">
        <Code value={hash} copy />
      </p>
      <Card
        title="How far it has come"
        id="ladder"
        wide
        live
        aside={<State word={receipt.status} />}
      >
        <Ladder {...props} />
      </Card>
      <div class="grid">
        <Card title="What it says" id="event">
          {props.erasedBy === undefined ? (
            <EventFacts said={said} receipt={receipt} nowAt={nowAt} />
          ) : (
            <ErasedFacts erasedBy={props.erasedBy} />
          )}
        </Card>
        <Card title="Where it stands" id="place">
          <Facts
            facts={[
              ['Log', <Code value={receipt.origin} />],
              ['Batch', <a href={`/dashboard/batches/${receipt.height}`}>#{receipt.height}</a>],
              ['Leaf', `${count(receipt.leafIndex)} of ${count(receipt.treeSize)}`],
              [
                'Beside it',
                <>
                  {props.before === null ? null : (
                    <a href={`/dashboard/events/${props.before}`}>leaf before</a>
                  )}
                  {props.before !== null && props.after !== null ? ', ' : ''}
                  {props.after === null ? null : (
                    <a href={`/dashboard/events/${props.after}`}>leaf after</a>
                  )}
                  {props.before === null && props.after === null ? 'nothing else' : ''}
                </>,
              ],
              ['Root of the log then', <Root hex={receipt.root} short={false} />],
            ]}
          />
          <h3>The receipt: one file that proves it, offline</h3>
          <div class="downloads">
            <Download href={`/receipts/${hash}?format=json`}>JSON</Download>
            <Download href={`/receipts/${hash}?format=tlog-proof`}>C2SP tlog-proof</Download>
            {hasBitcoin ? (
              <Download href={`/receipts/${hash}?format=ots`}>OpenTimestamps</Download>
            ) : null}
          </div>
          {hasBitcoin ? null : (
            <p class="note">
              {rails.includes('BTC')
                ? 'The OpenTimestamps file is there once a block of Bitcoin holds it for good.'
                : 'No OpenTimestamps file: this node does not anchor in Bitcoin.'}
            </p>
          )}
        </Card>
        <Card title="Anchors" id="anchors" wide live>
          <AnchorTable anchors={props.anchors} nowAt={nowAt} />
        </Card>
      </div>
      <Card title="Verify it in this browser" id="check" wide>
        <div
          id="verify"
          data-receipt={`/receipts/${hash}?format=json`}
          data-event={`/dashboard/events/${hash}/event.jws`}
        >
          <p>
            Your browser can recompute this proof by itself, hash by hash, with the ledger’s own
            code. That needs JavaScript, which is off or still loading. Without it: take the receipt
            and run <code>scripts/vaultmesh verify</code>.
          </p>
        </div>
      </Card>
      <div class="grid">
        <Card
          title="The path to the root"
          id="path"
          aside={plural(props.levels.length, 'hash', 'hashes')}
        >
          <MerklePath
            leafHash={props.leafHash}
            leafIndex={receipt.leafIndex}
            treeSize={receipt.treeSize}
            levels={props.levels}
          />
        </Card>
        <Card title="The event’s payload" id="payload">
          {props.erasedBy === undefined ? (
            <Payload said={said} hash={hash} />
          ) : (
            <Empty>Erased. Who has a copy of the bytes can verify it with the receipt.</Empty>
          )}
        </Card>
      </div>
    </>
  )
}

function ErasedFacts({ erasedBy }: { readonly erasedBy: string | null }) {
  return (
    <>
      <p>
        <strong>Erased.</strong> Its bytes, its names and its time are gone for good. Its hash stays
        in the log, so its receipt verifies as before.
      </p>
      {erasedBy === null ? null : (
        <Facts
          facts={[
            ['Erased by', <Code value={erasedBy} href={`/dashboard/events/${erasedBy}`} copy />],
          ]}
        />
      )}
    </>
  )
}

function Payload({ said, hash }: { readonly said: SaidEvent | null; readonly hash: string }) {
  if (said === null) return <Empty>The bytes of this event are not here.</Empty>
  return (
    <>
      {said.payload === null ? (
        <Empty>The payload cannot be read as JSON.</Empty>
      ) : (
        <div class="wrap">
          <Json label="Payload of the event as JSON" text={said.payload} />
        </div>
      )}
      <div class="downloads">
        <Download href={`/dashboard/events/${hash}/event.jws`}>Signed bytes (JWS)</Download>
      </div>
    </>
  )
}

function EventFacts({ said, receipt, nowAt }: Pick<EventProps, 'said' | 'receipt' | 'nowAt'>) {
  return (
    <Facts
      facts={[
        said === null
          ? null
          : [
              'Type',
              <a href={searchOf('type', said.type)}>
                <Said text={said.type} />
              </a>,
            ],
        said?.subject === undefined || said.subject === null
          ? null
          : [
              'Subject',
              <a href={searchOf('subject', said.subject)}>
                <Said text={said.subject} />
              </a>,
            ],
        ['Id', <Said text={receipt.eventId} />],
        ['Source', <Code value={receipt.source} href={searchOf('source', receipt.source)} copy />],
        said?.timeAt === undefined || said.timeAt === null
          ? null
          : ['Its own time', <Time at={said.timeAt} nowAt={nowAt} />],
        said === null
          ? null
          : [
              'Signed by',
              <>
                {visibleText(said.header.alg)}, <Code value={said.header.kid} short />
              </>,
            ],
        said === null ? null : ['Size', bytes(said.length)],
      ]}
    />
  )
}

function Ladder({
  receipt,
  acceptedAt,
  sealedAt,
  anchoredAt,
  finalAt,
  nowAt,
  said,
  rails,
}: EventProps) {
  const reached = ['sealed', 'anchored', 'final'].indexOf(receipt.status)
  return (
    <ol class="ladder">
      <Rung name="said" done at={said?.timeAt ?? null} nowAt={nowAt} note="by its own clock" />
      <Rung name="accepted" done at={acceptedAt} nowAt={nowAt} note="durable before the answer" />
      <Rung name="sealed" done at={sealedAt} nowAt={nowAt} note="in the log for good" />
      <Rung
        name="anchored"
        done={reached >= 1}
        at={anchoredAt}
        nowAt={nowAt}
        note={reached >= 1 ? 'verified on a first rail' : 'waits for a first rail'}
      />
      <Rung
        name="final"
        done={reached >= 2}
        at={finalAt}
        nowAt={nowAt}
        note={
          reached >= 2
            ? `verified on ${rails.join(', ')}`
            : rails.length === 0
              ? 'no rail is on'
              : `waits for ${rails.join(', ')}`
        }
      />
    </ol>
  )
}

function Rung({
  name,
  done,
  at,
  nowAt,
  note,
}: {
  readonly name: string
  readonly done: boolean
  readonly at: number | null
  readonly nowAt: number
  readonly note: string
}) {
  return (
    <li class={done ? 'done' : 'open'}>
      <div class="row">
        <Icon name={done ? 'check' : 'clock'} />
        <strong>{name}</strong>
        <span class="unseen">{done ? '(reached)' : '(not reached)'}</span>
      </div>
      {at === null ? null : <Time at={at} nowAt={nowAt} />}
      <span class="note">{note}</span>
    </li>
  )
}

/** Anchors of an event or a batch. */
export function AnchorTable({
  anchors,
  nowAt,
}: {
  readonly anchors: readonly EventAnchor[]
  readonly nowAt: number
}) {
  return (
    <Table
      caption="Anchors that cover it: the first verified of each kind, else the oldest under way"
      columns={[
        { head: 'Rail' },
        { head: 'State' },
        { head: 'Existed before' },
        { head: 'Tree', kind: 'number' },
        { head: 'Transaction' },
      ]}
      rows={anchors.map((a) => [
        <>
          <strong>{a.chain}</strong> <Network name={a.network} dev={a.dev} />
        </>,
        <>
          <State word={a.status} />
          {a.reason === null ? null : (
            <span class="note">
              {' '}
              <Said text={a.reason} max={160} />
            </span>
          )}
        </>,
        a.anchoredAt === null ? 'not known yet' : <Time at={a.anchoredAt} nowAt={nowAt} />,
        count(a.treeSize),
        a.txHash === null ? (
          'none yet'
        ) : (
          <Code value={a.txHash} short copy href={`/dashboard/events?q=${a.txHash}`} />
        ),
      ])}
      empty="No rail covers it yet. The next anchor of each rail will, also of those that come later: an anchor covers every event before it."
    />
  )
}

/** The page's content for an event that is not sealed. */
export function WaitingEvent({
  hash,
  status,
  problem,
  nowAt,
}: {
  readonly hash: string
  readonly status: PoolStatus
  /** Of a rejected one: what was wrong and what to do. */
  readonly problem: {
    readonly title: string
    readonly detail: string
    readonly advice: string
  } | null
  readonly nowAt: number
}) {
  return (
    <>
      <p class="id">
        <Code value={hash} copy />
      </p>
      <Card title="How far it has come" id="ladder" wide live aside={<State word={status.state} />}>
        {problem === null ? (
          <ol class="ladder">
            <Rung
              name="accepted"
              done={status.state !== 'received'}
              at={status.receivedAt}
              nowAt={nowAt}
              note="durable here"
            />
            <Rung name="sealed" done={false} at={null} nowAt={nowAt} note="with the next batch" />
            <Rung name="anchored" done={false} at={null} nowAt={nowAt} note="after that" />
            <Rung name="final" done={false} at={null} nowAt={nowAt} note="once every rail has it" />
          </ol>
        ) : (
          <>
            <p>
              <Badge tone="bad" word="rejected" /> {problem.title}
            </p>
            <p>
              <Said text={problem.detail} />
            </p>
            <p class="note">{problem.advice}</p>
          </>
        )}
        {status.state === 'duplicate' ? (
          <p>Another event stands for this identity; this one will not be sealed.</p>
        ) : null}
      </Card>
    </>
  )
}

/** The page's content for an event of a log of this node that was ended. */
export function EarlierEvent({ hash, state }: { readonly hash: string; readonly state: string }) {
  return (
    <>
      <p class="id">
        <Code value={hash} copy />
      </p>
      <Card title="In a log before this one" id="earlier" wide aside={<State word={state} />}>
        <p>
          This node’s log forked and was ended; another follows it. The event stands in the one that
          was ended, and its receipt still proves that.
        </p>
        <div class="downloads">
          <Download href={`/receipts/${hash}?format=json`}>Receipt (JSON)</Download>
        </div>
      </Card>
    </>
  )
}
