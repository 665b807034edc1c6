/**
 * Anchors: each rail with its queue, attempts, backoff, fees, confirmations and providers.
 */

import type { Child } from 'hono/jsx'
import { isDevNetwork, type Chain } from '#core/anchor-receipt.ts'
import { receiptStatus, type AnchorState } from '#core/anchor-state.ts'
import type { AnchorRow, AttemptRow } from '#store/anchors.ts'
import { providerOf, type RailLine, type ReceiptHit } from '#store/dashboard.ts'
import type { ProviderRecord, RailName } from '#store/providers.ts'
import type { WalletReading } from '#store/watch.ts'
import { Bar } from './chart.tsx'
import { Badge, Card, Empty, Facts, Network, Pager, Root, State, Table } from './parts.tsx'
import { Code, count, duration, plural, relative, Said, Time } from './text.tsx'

/** The rails of the settings, one a line. */
export function RailTable({
  rails,
  nowAt,
}: {
  readonly rails: readonly RailLine[]
  readonly nowAt: number
}) {
  return (
    <Table
      caption="Rails and what waits on them"
      columns={[
        { head: 'Rail' },
        { head: 'State' },
        { head: 'Waiting', kind: 'number' },
        { head: 'Newest final' },
        { head: 'Events covered', kind: 'extra' },
      ]}
      rows={rails.map((rail) => [
        <>
          <strong>{rail.chain}</strong> <Network name={rail.network} dev={rail.dev} />
          {rail.method === 'calendar' ? ' calendar' : ''}
        </>,
        <RailState rail={rail} nowAt={nowAt} />,
        count(rail.waiting),
        rail.anchoredAt === null ? 'none yet' : <Time at={rail.anchoredAt} nowAt={nowAt} />,
        count(rail.treeSize),
      ])}
      empty="No rail is on: events are sealed and never anchored. RAILS and its URLs turn one on."
    />
  )
}

function RailState({ rail, nowAt }: { readonly rail: RailLine; readonly nowAt: number }) {
  if (rail.held > 0) return <Badge tone="warn" word="held" icon="pause" />
  if (rail.failures > 0) {
    const next = rail.nextAt === null ? '' : `, again ${relative(rail.nextAt, nowAt)}`
    return (
      <span>
        <Badge tone="warn" word="retrying" />{' '}
        <span class="note">
          {plural(rail.failures, 'failure')}
          {next}
        </span>
      </span>
    )
  }
  if (rail.waiting > 0) return <Badge tone="wait" word={rail.state ?? 'waiting'} />
  return <Badge tone="good" word="current" />
}

/** What the page shows. */
export interface AnchorsProps {
  readonly nowAt: number
  readonly rails: readonly RailLine[]
  readonly jobs: readonly AnchorRow[]
  readonly receipts: readonly ReceiptHit[]
  readonly providers: readonly (ProviderRecord & RailName)[]
  /** Of the next page of receipts; null at the end. */
  readonly older: number | null
  /** Leaves of the log. */
  readonly size: number
  /** Caps of the settings in words, by chain. */
  readonly caps: Readonly<Partial<Record<Chain, string>>>
  /** What the wallets can pay for, as last read. */
  readonly wallets: readonly WalletReading[]
}

/** The page's content. */
export function Anchors({
  nowAt,
  rails,
  jobs,
  receipts,
  providers,
  older,
  size,
  caps,
  wallets,
}: AnchorsProps) {
  return (
    <>
      <div class={rails.length % 2 === 0 ? 'grid' : 'grid thirds'}>
        {rails.map((rail) => (
          <Rail
            rail={rail}
            nowAt={nowAt}
            size={size}
            cap={caps[rail.chain] ?? null}
            wallet={wallets.find((w) => w.chain === rail.chain && w.network === rail.network)}
          />
        ))}
      </div>
      {rails.length === 0 ? (
        <Empty>
          No rail is on: events are sealed and never anchored. RAILS and its URLs turn one on.
        </Empty>
      ) : null}
      <Card title="Under way" id="jobs" live>
        <JobTable jobs={jobs} nowAt={nowAt} />
      </Card>
      <Card title="Providers" id="providers" live>
        <ProviderTable providers={providers} nowAt={nowAt} />
      </Card>
      <Card title="Verified anchors" id="verified">
        <ReceiptTable receipts={receipts} nowAt={nowAt} caption="Verified anchors, newest first" />
        <Pager older={older === null ? undefined : `/dashboard/anchors?below=${older}`} />
      </Card>
    </>
  )
}

function Rail({
  rail,
  nowAt,
  size,
  cap,
  wallet,
}: {
  readonly rail: RailLine
  readonly nowAt: number
  readonly size: number
  readonly cap: string | null
  readonly wallet: WalletReading | undefined
}) {
  const id = `rail-${rail.chain}-${rail.method}-${rail.network.replaceAll(/[^A-Za-z0-9]/g, '-')}`
  return (
    <Card
      title={`${rail.chain} ${rail.network}${rail.method === 'calendar' ? ' calendar' : ''}`}
      id={id}
      live
      aside={<RailState rail={rail} nowAt={nowAt} />}
    >
      <Facts
        facts={[
          ['Network', rail.dev ? 'dev: proves nothing to others' : 'production'],
          ['Waiting', plural(rail.waiting, 'root')],
          [
            'Newest verified anchor',
            rail.anchoredAt === null ? 'none yet' : <Time at={rail.anchoredAt} nowAt={nowAt} />,
          ],
          [
            'Covers',
            rail.treeSize >= size
              ? `all ${plural(size, 'event')}`
              : `${count(rail.treeSize)} of ${plural(size, 'event')}`,
          ],
          ['Anchors at most once in', duration(rail.intervalMs)],
          cap === null ? null : ['Fee cap', cap],
          // Calendars ask for no money.
          wallet === undefined || rail.method === 'calendar'
            ? null
            : [
                'Wallet pays for',
                <>
                  {plural(wallet.anchorsLeft, 'anchor')} at the cap, read{' '}
                  <Time at={wallet.readAt} nowAt={nowAt} />
                </>,
              ],
          rail.provider === null
            ? null
            : [
                'Asked last',
                <>
                  <Said text={rail.provider.name} max={80} />:{' '}
                  <Said text={rail.provider.why} max={160} />
                </>,
              ],
          rail.reason === null ? null : ['Why it waits', <Said text={rail.reason} />],
        ]}
      />
    </Card>
  )
}

/** Jobs of the outbox. */
export function JobTable({
  jobs,
  nowAt,
}: {
  readonly jobs: readonly AnchorRow[]
  readonly nowAt: number
}) {
  return (
    <Table
      caption="Anchor jobs under way"
      columns={[
        { head: 'Job' },
        { head: 'Rail' },
        { head: 'State' },
        { head: 'Attempts', kind: 'number' },
        { head: 'Backoff' },
        { head: 'Next look' },
        { head: 'Confirmations' },
        { head: 'Fee', kind: 'extra' },
        { head: 'Root', kind: 'extra' },
      ]}
      rows={jobs.map((job) => [
        <a href={`/dashboard/anchors/${job.id}`}>{job.id}</a>,
        <>
          {job.chain}{' '}
          <Network name={job.network} dev={isDevNetwork(job.chain as Chain, job.network)} />
        </>,
        <>
          <State word={job.state} />
          {job.reason === null ? null : (
            <span class="note">
              {' '}
              <Said text={job.reason} max={120} />
            </span>
          )}
        </>,
        <>
          {count(job.attempts)}
          {job.failures > 0 ? ` (${job.failures} failed)` : ''}
        </>,
        <span class="tight">{job.delayMs > 0 ? duration(job.delayMs) : 'none'}</span>,
        <span class="tight">{relative(job.nextAt, nowAt)}</span>,
        <Confirmations json={job.inclusion} />,
        feeOf(job) ?? 'none signed',
        <Root hex={job.root} href={`/dashboard/events?q=${job.root}`} />,
      ])}
      empty="No root is on its way: every rail stands at its newest anchor, and the next is due in its interval."
    />
  )
}

/** Depth of an inclusion, as the outbox keeps it. */
function Confirmations({ json }: { readonly json: string | null }) {
  const seen = inclusionOf(json)
  if (seen === null) return <>none</>
  const { observedDepth, requiredDepth, blockNumber } = seen
  return (
    <>
      {observedDepth} of {requiredDepth} <span class="note">block {count(blockNumber)}</span>
      <Bar value={observedDepth} max={Math.max(1, requiredDepth)} />
    </>
  )
}

interface Inclusion {
  readonly txHash: string
  readonly blockNumber: number
  readonly anchorTs: string
  readonly observedDepth: number
  readonly requiredDepth: number
}

function inclusionOf(json: string | null): Inclusion | null {
  return json === null ? null : (JSON.parse(json) as Inclusion)
}

/** What the newest signed transaction of a job offers, in the chain's unit; null if none is signed. */
export function feeOf(job: Pick<AnchorRow, 'chain' | 'work'>): string | null {
  if (job.work === null) return null
  const { variants } = JSON.parse(job.work) as {
    readonly variants?: readonly { readonly feerate?: number; readonly maxFeePerGas?: string }[]
  }
  const newest = variants?.at(-1)
  if (newest === undefined) return null
  const times = variants!.length > 1 ? `, ${variants!.length} variants` : ''
  if (newest.feerate !== undefined) return `${newest.feerate} sat/vB${times}`
  if (newest.maxFeePerGas !== undefined) {
    return `≤ ${(Number(newest.maxFeePerGas) / 1e9).toPrecision(3)} gwei/gas${times}`
  }
  return null
}

function ProviderTable({
  providers,
  nowAt,
}: {
  readonly providers: readonly (ProviderRecord & RailName)[]
  readonly nowAt: number
}) {
  return (
    <Table
      caption="Providers: how often they answer and how fast, weighted towards the newest calls"
      columns={[
        { head: 'Provider' },
        { head: 'Rail' },
        { head: 'State' },
        { head: 'Success', kind: 'number' },
        { head: 'Latency', kind: 'number' },
        { head: 'Calls', kind: 'number' },
        { head: 'Last error', kind: 'extra' },
      ]}
      rows={providers.map((p) => [
        <Said text={p.name} max={80} />,
        <>
          {p.chain} <Network name={p.network} dev={isDevNetwork(p.chain as Chain, p.network)} />
        </>,
        p.openUntil > nowAt ? (
          <>
            <Badge tone="bad" word="skipped" icon="pause" />{' '}
            <span class="note">probed {relative(p.openUntil, nowAt)}</span>
          </>
        ) : p.failures > 0 ? (
          <Badge tone="warn" word={plural(p.failures, 'failure')} />
        ) : (
          <Badge tone="good" word="answers" />
        ),
        <>
          {Math.round(p.success * 100)} %
          <Bar value={p.success} max={1} />
        </>,
        `${Math.round(p.latencyMs)} ms`,
        count(p.calls),
        p.lastError === null ? 'none' : <Said text={p.lastError} max={160} />,
      ])}
      empty="No provider was asked yet."
    />
  )
}

/** Verified anchors. */
export function ReceiptTable({
  receipts,
  nowAt,
  caption,
}: {
  readonly receipts: readonly ReceiptHit[]
  readonly nowAt: number
  readonly caption: string
}) {
  return (
    <Table
      caption={caption}
      columns={[
        { head: 'Rail' },
        { head: 'State' },
        { head: 'Anchored' },
        { head: 'Batch', kind: 'number' },
        { head: 'Transaction' },
        { head: 'Proof', kind: 'extra' },
      ]}
      rows={receipts.map((r) => [
        <>
          <strong>{r.chain}</strong>{' '}
          <Network name={r.network} dev={isDevNetwork(r.chain, r.network)} />
        </>,
        r.revoked ? <Badge tone="bad" word="revoked" /> : <State word="verified" />,
        <Time at={r.anchorAt} nowAt={nowAt} />,
        r.height === null ? 'none' : <a href={`/dashboard/batches/${r.height}`}>#{r.height}</a>,
        <TxHash receipt={r} />,
        <a href={`/anchors/receipts?after=${r.id - 1}&limit=1`}>JSON</a>,
      ])}
      empty="No anchor was verified yet."
    />
  )
}

/** A transaction, with the way to a public explorer where the chain is a public one. */
function TxHash({
  receipt,
}: {
  readonly receipt: Pick<ReceiptHit, 'chain' | 'network' | 'txHash'>
}) {
  const href = explorerOf(receipt)
  return (
    <>
      <Code value={receipt.txHash} short copy />
      {href === null ? null : (
        <>
          {' '}
          <a href={href} rel="noreferrer noopener external">
            explorer
          </a>
        </>
      )}
    </>
  )
}

/** Where anybody may look a transaction up; dev networks have no such place. */
function explorerOf({
  chain,
  network,
  txHash,
}: Pick<ReceiptHit, 'chain' | 'network' | 'txHash'>): string | null {
  if (!/^(?:0x)?[0-9a-f]{64}$/.test(txHash)) return null
  if (chain === 'BTC' && network === 'mainnet') return `https://mempool.space/tx/${txHash}`
  if (chain === 'EVM' && network === 'mainnet') return `https://etherscan.io/tx/${txHash}`
  return null
}

/** One job with its attempts. */
export function AnchorJob({
  job,
  attempts,
  height,
  nowAt,
  actions,
}: {
  readonly job: AnchorRow
  readonly attempts: readonly AttemptRow[]
  /** The batch that ends with the root; null if none does. */
  readonly height: number | null
  readonly nowAt: number
  readonly actions?: Child
}) {
  const isOver = job.state === 'final' || job.state === 'failed'
  const seen = inclusionOf(job.inclusion)
  const provider = providerOf(job.provider)
  return (
    <>
      <Card title="The job" id="job" live wide aside={<State word={job.state} />}>
        <Facts
          facts={[
            [
              'Rail',
              <>
                {job.chain}{' '}
                <Network name={job.network} dev={isDevNetwork(job.chain as Chain, job.network)} />
                {`, ${job.method}`}
              </>,
            ],
            ['In a receipt this is', receiptStatus[job.state as AnchorState]],
            [
              'Batch',
              height === null ? (
                'none ends with this root'
              ) : (
                <a href={`/dashboard/batches/${height}`}>#{height}</a>
              ),
            ],
            ['Covers', plural(job.treeSize, 'event')],
            ['Attempts', `${job.attempts}, ${job.failures} failed in a row`],
            ['Next look', isOver ? 'none: it is over' : <Time at={job.nextAt} nowAt={nowAt} />],
            ['Fee', feeOf(job) ?? 'nothing signed'],
            seen === null
              ? ['Confirmations', isOver ? 'see its receipt' : 'in no block yet']
              : [
                  'Confirmations',
                  <>
                    {seen.observedDepth} of {seen.requiredDepth}, block {count(seen.blockNumber)}
                  </>,
                ],
            provider === null
              ? null
              : [
                  'Asked last',
                  <>
                    <Said text={provider.name} max={80} />: <Said text={provider.why} max={160} />
                  </>,
                ],
            job.reason === null ? null : ['Why', <Said text={job.reason} />],
            ['Created', <Time at={job.createdAt} nowAt={nowAt} />],
            ['Root', <Root hex={job.root} short={false} />],
          ]}
        />
        {actions}
      </Card>
      <Card title="Attempts" id="attempts" live wide>
        <Table
          caption="Attempts, newest first"
          columns={[
            { head: 'Attempt' },
            { head: 'At' },
            { head: 'Ended in' },
            { head: 'Then waited' },
            { head: 'Provider', kind: 'extra' },
            { head: 'Why' },
          ]}
          rows={attempts
            .toReversed()
            .map((a) => [
              a.attempt,
              <Time at={a.at} nowAt={nowAt} />,
              <State word={a.outcome} />,
              a.delayMs > 0 ? duration(a.delayMs) : 'no backoff',
              <Said text={providerOf(a.provider)?.name ?? 'nobody'} max={80} />,
              a.reason === null ? '' : <Said text={a.reason} />,
            ])}
          empty="It was not tried yet."
        />
      </Card>
    </>
  )
}
