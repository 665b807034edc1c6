/**
 * The pages of the dashboard: who may see each, what it reads (all at once), and the component that shows it.
 *
 * Every page is behind `guarded`; refusals are pages, too (http/notice.tsx). Reads are those of store/dashboard.ts:
 * bounded, by index. Nothing here changes anything.
 */

import type { Child } from 'hono/jsx'
import * as z from 'zod'
import { verifyManifest } from '#core/batch-manifest.ts'
import { fromHex, toHex, type Hash } from '#core/bytes.ts'
import type { Config } from '#core/config.ts'
import { VaultMeshError } from '#core/errors.ts'
import { wasEverKey } from '#core/rotation.ts'
import type { Role } from '#core/roles.ts'
import { readSearchTerm } from '#core/search-term.ts'
import { anchorsOfLeaf } from '#store/anchor-receipts.ts'
import { anchorRow, attemptsOf, configuredRails } from '#store/anchors.ts'
import { listTokens } from '#store/api-tokens.ts'
import { auditPage } from '#store/audit.ts'
import { batchAt } from '#store/batches.ts'
import {
  alertsOpen,
  alertsOver,
  backlog,
  batchesOfRoot,
  batchLines,
  coverages,
  deadLettersByQueue,
  eventsOfLeaves,
  newestReceipts,
  openJobs,
  railLines,
  readAll,
  standingOf,
} from '#store/dashboard.ts'
import type { ConflictsView } from '#store/federation-api.ts'
import { eventBytes } from '#store/events.ts'
import { allProviders } from '#store/providers.ts'
import { parseCursor } from '#store/search.ts'
import { listSessions } from '#store/sessions.ts'
import { walletReadings } from '#store/watch.ts'
import { Act } from '../dashboard/act.tsx'
import { Alerts } from '../dashboard/alerts.tsx'
import { AnchorJob, Anchors } from '../dashboard/anchors.tsx'
import type { AssetName } from '../dashboard/assets.ts'
import { Audit } from '../dashboard/audit.tsx'
import { Batch, Batches } from '../dashboard/batch.tsx'
import { Events } from '../dashboard/events.tsx'
import { Federation } from '../dashboard/federation.tsx'
import { Guardian, RANGES, type Range } from '../dashboard/guardian.tsx'
import { Page, type Place } from '../dashboard/layout.tsx'
import { Overview } from '../dashboard/overview.tsx'
import { Sessions } from '../dashboard/sessions.tsx'
import { anchorLines, eventContent } from './dashboard-event.tsx'
import { guarded, type Viewer } from './dashboard-guard.ts'
import { guardianBeliefs, guardianView, psiSeries, psiView } from './dashboard-guardian.ts'
import { lookUp } from './dashboard-search.ts'
import { locate } from './events.ts'
import { federationOf } from './federation.ts'
import { html } from './html.ts'
import { currentHead } from './log.ts'
import { route, type Call, type Route } from './route.ts'
import { signInOf } from './session.ts'

/** Rows of a page's tables. */
const ROWS = 50
/** Blocks of the strip. */
const STRIP = 14
/** Seconds between updates. */
const LIVE_S = 5

/** What a page is made of. */
interface Content {
  readonly title: string
  readonly body: Child
  readonly aside?: Child
  readonly query?: string
  readonly scripts?: readonly AssetName[]
  readonly isLive?: boolean
}

type AnyCall = Call<unknown, unknown>

/** A page behind the guard. `show` gets what the path and the query hold, as text. */
function page(
  path: string,
  {
    role,
    place,
    summary,
  }: { readonly role: Role; readonly place: Place; readonly summary: string },
  show: (call: AnyCall, viewer: Viewer, given: Given) => Promise<Content>,
): Route {
  return route({
    method: 'GET',
    path,
    tag: 'dashboard',
    summary,
    internal: true,
    params: z.record(z.string(), z.string()),
    answers: { 200: { description: 'a page', content: { 'text/html': null } } },
    async handle(call) {
      const viewer = await guarded(call, role)
      const { config } = call.node
      const content = await show(call, viewer, new Given(call.params, call.url.searchParams))
      return html(
        <Page
          title={content.title}
          viewer={viewer}
          active={place}
          node={{ id: config.nodeId, dev: config.network === 'dev' }}
          query={content.query ?? ''}
          scripts={content.scripts ?? []}
          aside={content.aside}
          {...(content.isLive === true ? { liveS: LIVE_S } : {})}
        >
          {content.body}
        </Page>,
      )
    },
  })
}

/** What a path and a query hold. */
class Given {
  readonly #params: Readonly<Record<string, string>>
  readonly #query: URLSearchParams

  constructor(params: Readonly<Record<string, string>>, query: URLSearchParams) {
    this.#params = params
    this.#query = query
  }

  text(name: string): string {
    return this.#params[name] ?? this.#query.get(name) ?? ''
  }

  /** A whole number from `min`, or `absent`; throws `bad-request` for anything else. */
  number(name: string, absent: number, min = 0): number {
    const text = this.text(name)
    if (text === '') return absent
    const value = Number(text)
    if (/^(?:0|[1-9]\d{0,15})$/.test(text) && Number.isSafeInteger(value) && value >= min)
      return value
    throw new VaultMeshError('bad-request', `"${name}" is a whole number from ${min}.`)
  }

  hash(name: string): Hash {
    const digits = /^(?:sha256:)?([0-9a-fA-F]{64})$/.exec(this.text(name))?.[1]
    if (digits === undefined)
      throw new VaultMeshError('bad-request', 'The hash of an event is sha256:<64 hex digits>.')
    return fromHex(digits)
  }
}

/** GET /dashboard. */
export const getOverview = page(
  '/dashboard',
  { role: 'viewer', place: 'overview', summary: 'Is it healthy, what moved it' },
  async (call) => {
    const { env, node } = call
    const { DB } = env
    const { config } = node
    const nowAt = Date.now()
    const [head, waiting, read, psi] = await Promise.all([
      currentHead(env),
      backlog(env).catch(unreachable),
      readAll(DB, {
        lines: batchLines({ below: Number.MAX_SAFE_INTEGER, limit: STRIP }),
        covered: coverages,
        jobs: openJobs,
        alerts: alertsOpen,
        deadLetters: deadLettersByQueue,
      }),
      psiView(env, nowAt),
    ])
    const { lines, covered, jobs, alerts, deadLetters } = read
    const batches = lines.map((line) => ({
      ...line,
      standing: standingOf(config.rails, covered, line.treeSize),
    }))
    return {
      title: 'Overview',
      aside: config.origin,
      isLive: true,
      body: (
        <Overview
          nowAt={nowAt}
          head={head}
          backlog={waiting}
          sealIntervalMs={config.sealBatchMaxIntervalMs}
          batches={batches}
          rails={railLines(configuredRails(config), jobs, covered)}
          alerts={alerts}
          deadLetters={deadLetters}
          psi={psi}
        />
      ),
    }
  },
)

/** A pool that does not answer is said on the page, which stands without it. */
function unreachable(error: unknown): null {
  console.error(JSON.stringify({ level: 'warn', msg: 'backlog not read', error: String(error) }))
  return null
}

/** GET /dashboard/events. */
export const getEvents = page(
  '/dashboard/events',
  { role: 'viewer', place: 'events', summary: 'One search box for anything' },
  async (call, _viewer, given) => {
    const nowAt = Date.now()
    const term = readSearchTerm(given.text('q').slice(0, 1200))
    const after = parseCursor(given.text('after')) ?? undefined
    const found = await lookUp(call, term, after)
    return {
      title: term.text === '' ? 'Events' : 'Search',
      query: term.text,
      isLive: term.text === '' && after === undefined,
      body: <Events nowAt={nowAt} term={term} {...found} />,
    }
  },
)

/** GET /dashboard/events/{hash}. */
export const getEventPage = page(
  '/dashboard/events/{hash}',
  { role: 'viewer', place: 'events', summary: 'One event and its proof' },
  async (call, _viewer, given) => ({
    title: 'Event',
    scripts: ['verify.js'],
    isLive: true,
    body: (await eventContent(call, given.hash('hash'), Date.now())) as Child,
  }),
)

/** GET /dashboard/events/{hash}/event.jws: its bytes, for viewers also where the public is shown none. */
export const getEventBytes = route({
  method: 'GET',
  path: '/dashboard/events/{hash}/event.jws',
  tag: 'dashboard',
  summary: 'The signed bytes of an event',
  internal: true,
  params: z.record(z.string(), z.string()),
  answers: { 200: { description: 'the compact JWS', content: { 'application/jose': null } } },
  async handle(call) {
    await guarded(call, 'viewer')
    const hash = new Given(call.params, call.url.searchParams).hash('hash')
    const { indexed, waiting } = await locate(call, hash, (pool) => pool.bytes(hash))
    const bytes = indexed === null ? waiting : await eventBytes(call.env, indexed)
    if (bytes === null)
      throw new VaultMeshError('not-found', 'This node holds no event with this hash.')
    return new Response(bytes, {
      headers: {
        'content-type': 'application/jose',
        'content-disposition': `attachment; filename="${toHex(hash).slice(0, 16)}.jws"`,
        'cache-control': 'no-store',
        'x-content-type-options': 'nosniff',
        'content-security-policy': "default-src 'none'; sandbox",
      },
    })
  },
})

/** GET /dashboard/batches. */
export const getBatches = page(
  '/dashboard/batches',
  { role: 'viewer', place: 'batches', summary: 'Sealed batches' },
  async ({ env, node }, _viewer, given) => {
    const below = given.number('below', Number.MAX_SAFE_INTEGER, 1)
    const { lines, covered } = await readAll(env.DB, {
      lines: batchLines({ below, limit: ROWS }),
      covered: coverages,
    })
    const batches = lines.map((line) => ({
      ...line,
      standing: standingOf(node.config.rails, covered, line.treeSize),
    }))
    const last = lines.at(-1)
    return {
      title: 'Batches',
      isLive: below === Number.MAX_SAFE_INTEGER,
      body: (
        <Batches
          nowAt={Date.now()}
          batches={batches}
          older={lines.length === ROWS && last!.height > 1 ? last!.height : null}
        />
      ),
    }
  },
)

/** GET /dashboard/batches/{height}. */
export const getBatchPage = page(
  '/dashboard/batches/{height}',
  { role: 'viewer', place: 'batches', summary: 'One batch: manifest, events, anchors' },
  async ({ env, node }, _viewer, given) => {
    const { DB } = env
    const height = given.number('height', 0, 1)
    const batch = await batchAt(DB, height)
    if (batch === null) throw new VaultMeshError('not-found', `There is no batch ${height}.`)
    const { firstIndex, treeSize } = batch
    const from = Math.max(firstIndex, given.number('from', firstIndex))
    const [{ hits, covered, after }, anchors, read] = await Promise.all([
      readAll(DB, {
        hits: eventsOfLeaves({ from, to: treeSize, limit: ROWS }),
        covered: coverages,
        after: batchLines({ below: height + 2, limit: 1 }),
      }),
      anchorsOfLeaf(DB, treeSize - 1),
      verifyManifest(batch.manifest, (did) => wasEverKey(node.history, did)).then(
        (manifest) => ({ manifest, problem: null }),
        (error: unknown) => ({
          manifest: null,
          problem: error instanceof Error ? error.message : 'unreadable',
        }),
      ),
    ])
    const last = hits.at(-1)
    return {
      title: `Batch ${height}`,
      aside: node.config.origin,
      isLive: true,
      body: (
        <Batch
          nowAt={Date.now()}
          batch={batch}
          standing={standingOf(node.config.rails, covered, treeSize)}
          manifest={read.manifest}
          manifestProblem={read.problem}
          anchors={anchorLines(anchors)}
          hits={hits}
          next={last !== undefined && last.leafIndex + 1 < treeSize ? last.leafIndex + 1 : null}
          isLast={after[0]?.height === height}
        />
      ),
    }
  },
)

/** GET /dashboard/anchors. */
export const getAnchors = page(
  '/dashboard/anchors',
  { role: 'viewer', place: 'anchors', summary: 'Rails, queues, backoff, providers' },
  async ({ env, node: { config } }, _viewer, given) => {
    const { DB } = env
    const below = given.number('below', Number.MAX_SAFE_INTEGER, 1)
    const [head, { jobs, covered, receipts }, providers, wallets] = await Promise.all([
      currentHead(env),
      readAll(DB, {
        jobs: openJobs,
        covered: coverages,
        receipts: newestReceipts({ below, limit: ROWS }),
      }),
      allProviders(DB),
      walletReadings(DB),
    ])
    return {
      title: 'Anchors',
      isLive: below === Number.MAX_SAFE_INTEGER,
      body: (
        <Anchors
          nowAt={Date.now()}
          rails={railLines(configuredRails(config), jobs, covered)}
          jobs={jobs}
          receipts={receipts}
          providers={providers}
          older={receipts.length === ROWS ? receipts.at(-1)!.id : null}
          size={head.size}
          caps={capsOf(config)}
          wallets={wallets}
        />
      ),
    }
  },
)

/** Most that one anchor may cost, by chain. */
function capsOf({ bitcoin, evm }: Config) {
  return {
    ...(bitcoin?.methods.includes('tx') === true ? { BTC: `${bitcoin.feeCapSat} sat` } : {}),
    ...(evm === null ? {} : { EVM: `${evm.feeCapWei / 1_000_000_000n} gwei` }),
  }
}

/** GET /dashboard/anchors/{id}. */
export const getAnchorPage = page(
  '/dashboard/anchors/{id}',
  { role: 'viewer', place: 'anchors', summary: 'One anchor job and its attempts' },
  async ({ env: { DB } }, viewer, given) => {
    const id = given.number('id', 0, 1)
    const job = await anchorRow(DB, id)
    if (job === null) throw new VaultMeshError('not-found', `There is no anchor job ${id}.`)
    const [attempts, { batches }] = await Promise.all([
      attemptsOf(DB, id),
      readAll(DB, { batches: batchesOfRoot(job.root) }),
    ])
    const isOver = job.state === 'final' || job.state === 'failed'
    const action = job.state === 'held' ? 'anchor-release' : 'anchor-retry'
    const name = job.state === 'held' ? 'Release it' : 'Retry it now'
    return {
      title: `Anchor job ${id}`,
      isLive: !isOver,
      body: (
        <AnchorJob
          job={job}
          attempts={attempts}
          height={batches[0]?.height ?? null}
          nowAt={Date.now()}
          actions={
            isOver ? null : <Act viewer={viewer} action={action} name={name} fields={{ id }} />
          }
        />
      ),
    }
  },
)

/** GET /dashboard/federation. */
export const getFederationPage = page(
  '/dashboard/federation',
  { role: 'viewer', place: 'federation', summary: 'Peers, tips, conflicts, quarantine' },
  async ({ env }, viewer) => {
    const object = federationOf(env)
    const [peers, tips, conflicts, mesh] = await Promise.all([
      object.peersView(),
      object.tipsView(),
      object.conflictsView(),
      object.meshView(null).catch(() => null),
    ])
    return {
      title: 'Federation',
      isLive: true,
      body: (
        <Federation
          nowAt={Date.now()}
          peers={peers}
          tips={tips}
          conflicts={conflicts as ConflictsView | null}
          mesh={mesh !== null && 'meshRoot' in mesh ? mesh : null}
          viewer={viewer}
        />
      ),
    }
  },
)

/** GET /dashboard/guardian. */
export const getGuardianPage = page(
  '/dashboard/guardian',
  { role: 'viewer', place: 'guardian', summary: 'Ψ, what moved it, what was done about it' },
  async ({ env }, _viewer, given) => {
    const nowAt = Date.now()
    const asked = given.text('range')
    const range: Range = Object.hasOwn(RANGES, asked) ? (asked as Range) : '6h'
    const [view, series, beliefs] = await Promise.all([
      guardianView(env),
      psiSeries(env, range, nowAt),
      guardianBeliefs(env),
    ])
    const marks = (view?.interventions ?? []).map(({ at, kind }) => ({
      at: Date.parse(at),
      what: kind,
    }))
    return {
      title: 'Guardian',
      isLive: true,
      body: (
        <Guardian
          nowAt={nowAt}
          view={view}
          range={range}
          series={series}
          marks={marks}
          beliefs={beliefs}
        />
      ),
    }
  },
)

/** GET /dashboard/alerts. */
export const getAlertsPage = page(
  '/dashboard/alerts',
  { role: 'viewer', place: 'alerts', summary: 'Alerts, open and over' },
  async ({ env: { DB } }, viewer, given) => {
    const below = given.number('below', Number.MAX_SAFE_INTEGER, 1)
    const { open, over, deadLetters } = await readAll(DB, {
      open: alertsOpen,
      over: alertsOver({ below, limit: ROWS }),
      deadLetters: deadLettersByQueue,
    })
    return {
      title: 'Alerts',
      isLive: true,
      body: (
        <Alerts
          nowAt={Date.now()}
          open={open}
          over={over}
          deadLetters={deadLetters}
          older={over.length === ROWS ? over.at(-1)!.id : null}
          replay={<Act viewer={viewer} action="dead-letters-replay" name="Replay them" />}
        />
      ),
    }
  },
)

/** GET /dashboard/audit. */
export const getAuditPage = page(
  '/dashboard/audit',
  { role: 'operator', place: 'audit', summary: 'Who did what' },
  async ({ env: { DB } }, _viewer, given) => {
    const below = given.number('below', Number.MAX_SAFE_INTEGER, 1)
    const rows = await auditPage(DB, { limit: ROWS, below })
    return {
      title: 'Audit',
      body: (
        <Audit
          rows={rows}
          nowAt={Date.now()}
          older={rows.length === ROWS ? rows.at(-1)!.id : null}
        />
      ),
    }
  },
)

/** GET /dashboard/sessions. */
export const getSessionsPage = page(
  '/dashboard/sessions',
  { role: 'admin', place: 'sessions', summary: 'Who is signed in, which machines hold tokens' },
  async (call, viewer, given) => {
    const { DB } = call.env
    const nowAt = Date.now()
    const below = given.number('below', Number.MAX_SAFE_INTEGER, 1)
    const belowToken = given.number('tokens', Number.MAX_SAFE_INTEGER, 1)
    const [sessions, tokens] = await Promise.all([
      listSessions(DB, signInOf(call), { nowAt, limit: ROWS, below }),
      listTokens(DB, { limit: ROWS, below: belowToken }),
    ])
    return {
      title: 'Sessions',
      isLive: true,
      body: (
        <Sessions
          nowAt={nowAt}
          viewer={viewer}
          sessions={sessions}
          tokens={tokens}
          olderSessions={sessions.length === ROWS ? sessions.at(-1)!.id : null}
          olderTokens={tokens.length === ROWS ? tokens.at(-1)!.id : null}
        />
      ),
    }
  },
)

/** GET /dashboard/…: what is no page. The last of the routes, and behind the guard as well: nobody learns which there are. */
export const getNoPage = route({
  method: 'GET',
  path: '/dashboard/{path*}',
  tag: 'dashboard',
  summary: 'No such page',
  internal: true,
  answers: { 404: { description: 'no such page' } },
  async handle(call) {
    await guarded(call, 'viewer')
    throw new VaultMeshError('not-found', `There is no page ${call.url.pathname.slice(0, 200)}.`)
  },
})

/** Every page, for the table of routes. */
export const dashboardPages: readonly Route[] = [
  getOverview,
  getEvents,
  getEventPage,
  getEventBytes,
  getBatches,
  getBatchPage,
  getAnchors,
  getAnchorPage,
  getFederationPage,
  getGuardianPage,
  getAlertsPage,
  getAuditPage,
  getSessionsPage,
]
