/**
 * Federation: who stands where, what the law said of each conflict and why, what is held and for how long.
 */

import type {
  ConflictsView,
  ConflictView,
  MeshView,
  PeersView,
  PeerView,
  QuarantineView,
  TipView,
} from '#store/federation-api.ts'
import { Act, type Actor } from './act.tsx'
import { Badge, Card, Download, Empty, Facts, Json, Root, State, Table } from './parts.tsx'
import {
  abridged,
  Code,
  count,
  plural,
  relative,
  Said,
  Time,
  visibleLines,
  visibleText,
} from './text.tsx'

/** What the page shows; the views are null in no federation. */
export interface FederationProps {
  readonly nowAt: number
  readonly peers: PeersView | null
  readonly tips: readonly TipView[] | null
  readonly conflicts: ConflictsView | null
  readonly mesh: MeshView | null
  readonly viewer: Actor
}

/** The page's content. */
export function Federation({ nowAt, peers, tips, conflicts, mesh, viewer }: FederationProps) {
  if (peers === null || tips === null || conflicts === null) {
    return (
      <Card title="In no federation" id="none" wide>
        <p>
          This node has no peers: nobody mirrors its log, and nobody cosigns it.{' '}
          <code>config/federation.yaml</code> names the nodes to gossip with; docs/federation.md
          explains it.
        </p>
      </Card>
    )
  }
  return (
    <>
      <Card
        title="Who stands where"
        id="tips"
        live
        wide
        aside={
          mesh === null ? undefined : (
            <span>
              mesh root <Code value={mesh.meshRoot} short copy />
            </span>
          )
        }
      >
        <Matrix peers={peers.peers} tips={tips} />
      </Card>
      <Card
        title="Conflicts"
        id="conflicts"
        live
        wide
        aside={plural(conflicts.conflicts.length, 'conflict')}
      >
        {conflicts.conflicts.length === 0 ? (
          <div class="row">
            <Badge tone="good" word="none" />
            <Empty>No log has shown two histories to anybody here.</Empty>
          </div>
        ) : (
          conflicts.conflicts.map((conflict) => <Conflict conflict={conflict} nowAt={nowAt} />)
        )}
        <Rivals rivals={conflicts.rivals} />
      </Card>
      <Card
        title="Quarantine"
        id="quarantine"
        live
        wide
        aside={plural(conflicts.quarantine.length, 'root')}
      >
        <Quarantine held={conflicts.quarantine} nowAt={nowAt} viewer={viewer} />
      </Card>
      <Card
        title="Peers"
        id="peers"
        live
        wide
        aside={
          <span class="row">
            <Act viewer={viewer} action="allowlist-change" name="Change the allow-list" />
            <Act viewer={viewer} action="identity-rotate" name="Prepare the next identity key" />
          </span>
        }
      >
        <PeerTable peers={peers.peers} nowAt={nowAt} />
        <Refusals refusals={peers.refusals} />
      </Card>
      <Card title="The law" id="law" wide>
        <Facts
          facts={[
            ['Law', <Code value={conflicts.lawHash} copy />],
            [
              'In words',
              'Production network before dev; then BTC, EVM, TSA in the order of the law; then the earlier anchor; then the lower transaction hash; then the lower root.',
            ],
          ]}
        />
      </Card>
    </>
  )
}

/** Logs down, nodes across: who has reached which height of which log, and whether it is the same root. */
function Matrix({
  peers,
  tips,
}: {
  readonly peers: readonly PeerView[]
  readonly tips: readonly TipView[]
}) {
  return (
    <Table
      caption="Each log and the height that each node says it stands on"
      columns={[
        { head: 'Log' },
        { head: 'State' },
        { head: 'This node', kind: 'number' },
        ...peers.map((peer) => ({ head: nameOf(peer), kind: 'number' as const })),
      ]}
      rows={tips.map((tip) => [
        <>
          <Said text={tip.origin} max={80} /> {tip.own ? <span class="note">ours</span> : null}
        </>,
        <State word={tip.state} />,
        tip.height === 0 ? 'empty' : <>#{count(tip.height)}</>,
        ...peers.map((peer) => <Told peer={peer} tip={tip} />),
      ])}
      empty="No log is known yet."
    />
  )
}

function nameOf(peer: PeerView): string {
  return peer.node_id ?? abridged(peer.did)
}

function Told({ peer, tip }: { readonly peer: PeerView; readonly tip: TipView }) {
  const told = peer.tips.find(({ origin }) => origin === tip.origin)
  if (told === undefined) return <span class="note">not said</span>
  if (told.height === tip.height) {
    return told.root === tip.root ? (
      <Badge tone="good" word={`#${told.height} same`} />
    ) : (
      <Badge tone="bad" word={`#${told.height} another root`} />
    )
  }
  const by = Math.abs(told.height - tip.height)
  return (
    <Badge
      tone="wait"
      word={`#${told.height}, ${by} ${told.height > tip.height ? 'ahead' : 'behind'}`}
    />
  )
}

function Conflict({
  conflict,
  nowAt,
}: {
  readonly conflict: ConflictView
  readonly nowAt: number
}) {
  const { origin, height, winner, candidates, lines, undecided } = conflict
  const evidence = `/federation/evidence?origin=${encodeURIComponent(origin)}&height=${height}`
  return (
    <article class="conflict">
      <h3>
        <Said text={origin} max={120} />, height {count(height)}{' '}
        <State word={winner === null ? 'undecided' : 'decided'} />
      </h3>
      <p>
        Its key signed {candidates.length} roots for one height.{' '}
        {winner === null
          ? WHY[undecided ?? 'no_final_proof']
          : 'The law names one of them, by these steps:'}
      </p>
      {lines.length === 0 ? null : (
        <ol class="reasons">
          {lines.map((line) => (
            <li>
              <Said text={line} />
            </li>
          ))}
        </ol>
      )}
      <Table
        caption={`The rivals at height ${height}`}
        columns={[
          { head: 'Root' },
          { head: 'Verdict' },
          { head: 'Tree', kind: 'number' },
          { head: 'Proofs, best first' },
        ]}
        rows={candidates.map((rival) => [
          <Root hex={rival.root} />,
          winner === null ? (
            <Badge tone="wait" word="open" />
          ) : rival.root === `sha256:${winner.replace('sha256:', '')}` ? (
            <Badge tone="final" word="canonical" />
          ) : (
            <Badge tone="bad" word="lost" />
          ),
          count(rival.treeSize),
          rival.proofs.length === 0 ? (
            'none that this node could confirm'
          ) : (
            <ul class="bare">
              {rival.proofs.map((proof) => (
                <li>
                  {proof.chain} <Said text={proof.network} max={60} />{' '}
                  <Code value={proof.txHash} short />
                  {proof.anchorTs === null ? null : (
                    <>
                      {' '}
                      <Time at={Date.parse(proof.anchorTs)} nowAt={nowAt} />
                    </>
                  )}
                </li>
              ))}
            </ul>
          ),
        ])}
        empty="No rival is known."
      />
      <div class="downloads">
        <Download href={evidence}>Evidence file</Download>
      </div>
    </article>
  )
}

/** What this node saw as a witness: two roots of one size, each signed by the log. */
function Rivals({ rivals }: { readonly rivals: ConflictsView['rivals'] }) {
  if (rivals.length === 0) return null
  return (
    <>
      <h3>Seen as a witness</h3>
      <ul class="bare">
        {rivals.map(({ origin, size, notes }) => (
          <li>
            <Badge tone="bad" word="two roots" /> <Said text={origin} max={120} /> signed two
            checkpoints of size {count(size)}.
            <details>
              <summary>Both checkpoints</summary>
              {notes.map((note) => (
                <Json
                  label={`A checkpoint of ${visibleText(origin)} at size ${size}`}
                  text={visibleLines(note)}
                />
              ))}
            </details>
          </li>
        ))}
      </ul>
    </>
  )
}

const WHY = {
  no_final_proof:
    'No root has a final anchor yet, so the tip holds where all agree; the next proof settles it.',
  no_provider:
    'A proof that could settle it is of a chain that this node has nobody to ask about; the tip holds.',
  unconfirmed:
    'A proof that could settle it is not confirmed by this node’s own providers yet; the tip holds.',
} as const

function Quarantine({
  held,
  nowAt,
  viewer,
}: {
  readonly held: readonly QuarantineView[]
  readonly nowAt: number
  readonly viewer: Actor
}) {
  if (held.length === 0) {
    return (
      <div class="row">
        <Badge tone="good" word="empty" />
        <Empty>Every signed root that was seen recomputes from its events.</Empty>
      </div>
    )
  }
  return (
    <Table
      caption="Roots that are held: signed, but not that of their events"
      columns={[
        { head: 'Log' },
        { head: 'Height', kind: 'number' },
        { head: 'Root' },
        { head: 'Why' },
        { head: 'Looked at again' },
        { head: 'Evidence' },
      ]}
      rows={held.map((root) => [
        <Said text={root.origin} max={80} />,
        count(root.height),
        <Root hex={root.root} />,
        <Said text={root.reason} />,
        <>
          <Time at={Date.parse(root.until)} nowAt={nowAt} />{' '}
          <Act
            viewer={viewer}
            action="quarantine-release"
            name="Look at it now"
            fields={{ origin: root.origin, height: root.height, root: root.root }}
          />
        </>,
        <a
          href={`/federation/evidence?origin=${encodeURIComponent(root.origin)}&height=${root.height}`}
        >
          file
        </a>,
      ])}
      empty="Nothing is held."
    />
  )
}

function PeerTable({
  peers,
  nowAt,
}: {
  readonly peers: readonly PeerView[]
  readonly nowAt: number
}) {
  return (
    <Table
      caption="Peers of the allow-list"
      columns={[
        { head: 'Peer' },
        { head: 'State' },
        { head: 'Last seen' },
        { head: 'Its log' },
        { head: 'Lag', kind: 'number' },
        { head: 'Keys', kind: 'extra' },
        { head: 'Faults', kind: 'extra' },
      ]}
      rows={peers.map((peer) => [
        <>
          <strong>
            <Said text={peer.node_id ?? 'unnamed'} max={80} />
          </strong>{' '}
          <Code value={peer.did} short copy />
        </>,
        <>
          <State word={peer.state} />
          {peer.error === null ? null : (
            <span class="note">
              {' '}
              <Said text={peer.error} max={160} />
            </span>
          )}
          {peer.failures > 0 && peer.nextVisit !== null ? (
            <span class="note"> visited again {relative(Date.parse(peer.nextVisit), nowAt)}</span>
          ) : null}
        </>,
        peer.lastSeen === null ? 'never' : <Time at={Date.parse(peer.lastSeen)} nowAt={nowAt} />,
        peer.origin === null ? 'not known' : <Said text={peer.origin} max={80} />,
        peer.lag === null ? 'unknown' : plural(peer.lag, 'batch', 'batches'),
        plural(peer.keys.length, 'key'),
        count(peer.faults),
      ])}
      empty="peers_allowlist is empty."
    />
  )
}

function Refusals({ refusals }: { readonly refusals: Readonly<Record<string, number>> }) {
  const entries = Object.entries(refusals)
  if (entries.length === 0) return <p class="note">No envelope was ever refused.</p>
  return (
    <p class="note">
      Envelopes refused:{' '}
      {entries.map(([code, n], i) => (
        <>
          {i === 0 ? '' : ', '}
          <a href={`/problems/${code}`}>{code}</a> {count(n)}
        </>
      ))}
    </p>
  )
}
