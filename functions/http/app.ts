/**
 * Every path of a node on one screen, and what wraps each of them: request id, validation, problems.
 */

import { Hono } from 'hono'
import type * as z from 'zod'
import { REQUEST_ID } from '#core/audit-line.ts'
import { VaultMeshError } from '#core/errors.ts'
import { count, type Background } from '#store/metrics.ts'
import { nodeOf } from '#store/node.ts'
import {
  getDeadLetters,
  getAnchorJob,
  getFederation,
  getFsck,
  getRails,
  postAnchor,
  postErase,
  postErasures,
  postFederation,
  postQuarantineRelease,
  postRelease,
  postReplay,
  postRetire,
  postSeal,
  postStart,
  postThaw,
  postWake,
} from './admin.ts'
import { getAction, postAction } from './actions.tsx'
import { getAnchor, getAnchorReceipts, getAnchorStatus } from './anchors.ts'
import { getAsset } from './assets.ts'
import { getAuditRows, postAuditClosed, told } from './audit.ts'
import { getBatch, getBatchEvents, getBatchReceipts, listRoute } from './batches.ts'
import { openToAll, preflight } from './cors.ts'
import { dashboardPages, getNoPage } from './dashboard.tsx'
import { Answered, isPageFor } from './dashboard-guard.ts'
import {
  getConflicts,
  getEvidence as getForkEvidence,
  getFeed,
  getMesh,
  getPeers,
  getTips,
  postGossip,
} from './federation.ts'
import { getGuardian, getLearn, getTelemetry, postTelemetry } from './guardian.ts'
import { getDocs, getOpenApi, getProblemPage, getRoot } from './docs.ts'
import { getDoctor } from './doctor.ts'
import { getEvent, getEventStatus, searchRoute } from './events.ts'
import { postEvents } from './intake.ts'
import { getCheckpoint, getConsistencyProof, getInclusionProof, getTile } from './log.ts'
import { placed } from './log-path.ts'
import { askPrevious } from './logs.ts'
import { getFsckChains, postPause, postRebuild, postResume } from './maintenance.ts'
import { getMetrics } from './metrics.ts'
import { getAlerts, getHealth, getWellKnown } from './node-info.ts'
import { refusalPage } from './notice.tsx'
import { asVaultMeshError, problemResponse } from './problem.ts'
import { getAdminPeers, postPeers } from './peers.ts'
import { getReady } from './ready.ts'
import { getReceipt } from './receipts.ts'
import { getIntake, getSchema, getSchemas, postIntake } from './schemas.ts'
import {
  getBatchesFrom,
  getMirrorCheckpoint,
  getMirrorConsistency,
  getMirrorEvents,
  getMirrorTile,
  getProofs,
  getRoot as getRememberedRoot,
} from './remembrancer.ts'
import type { Route } from './route.ts'
import { getCallback, getLogin, postLogout } from './sign-in.tsx'
import {
  getEvidence,
  getStanding,
  getSuccession,
  getUnsealed,
  linkSuccessor,
  postForget,
  postOpen,
  postSucceed,
} from './succession.ts'
import { getVerifyPage } from './verify.ts'
import { getWebhook, postWebhook } from './webhooks.ts'
import { getCosigned, postAddCheckpoint } from './witness.ts'

/** All routes. /openapi.json is made from this table. */
export const routes: readonly Route[] = [
  postEvents,
  searchRoute,
  getEvent,
  getEventStatus,
  getReceipt,
  listRoute,
  getBatch,
  getBatchEvents,
  getBatchReceipts,
  getCheckpoint,
  getTile,
  getInclusionProof,
  getConsistencyProof,
  postWebhook,
  getWebhook,
  getAnchorStatus,
  getAnchorReceipts,
  getAnchor,
  postGossip,
  getFeed,
  getPeers,
  getTips,
  getConflicts,
  getForkEvidence,
  getMesh,
  getRememberedRoot,
  getBatchesFrom,
  getProofs,
  getMirrorCheckpoint,
  getMirrorTile,
  getMirrorConsistency,
  getMirrorEvents,
  postAddCheckpoint,
  getCosigned,
  getHealth,
  getReady,
  getWellKnown,
  getAlerts,
  getMetrics,
  postTelemetry,
  getGuardian,
  getTelemetry,
  getLearn,
  getRoot,
  getSchemas,
  getSchema,
  getOpenApi,
  getDocs,
  getProblemPage,
  getVerifyPage,
  getAsset,
  ...dashboardPages,
  postSeal,
  postStart,
  postErase,
  postErasures,
  getFsck,
  getDoctor,
  getFsckChains,
  postRebuild,
  postPause,
  postResume,
  getDeadLetters,
  postReplay,
  getAuditRows,
  postAuditClosed,
  postAnchor,
  postWake,
  getRails,
  getAnchorJob,
  postRelease,
  postIntake,
  getIntake,
  postFederation,
  getFederation,
  getAdminPeers,
  postPeers,
  postRetire,
  postQuarantineRelease,
  postThaw,
  getStanding,
  getEvidence,
  postForget,
  postOpen,
  getUnsealed,
  getSuccession,
  postSucceed,
  getLogin,
  getCallback,
  postLogout,
  getAction,
  postAction,
  getNoPage,
]

const app = new Hono<{ Bindings: Env }>()
for (const route of routes) {
  app.on(route.method, honoPath(route.path), (c) =>
    serve(route, c.req.raw, { params: c.req.param(), env: c.env, ctx: c.executionCtx }),
  )
}
app.notFound((c) => {
  const pathname = URL.parse(c.req.url)?.pathname ?? c.req.path
  // /admin does not say that it is there.
  const allowed = methodsOf(pathname)
  if (c.req.method === 'OPTIONS' && allowed.length > 0) return preflight(c.req.raw, allowed)
  const refusal =
    allowed.length === 0
      ? new VaultMeshError('not-found', `There is no path ${pathname.slice(0, 200)}.`)
      : new VaultMeshError('method-not-allowed', `${c.req.method} is not for this path.`, {
          extra: { allow: allowed },
        })
  countProblem(refusal, { env: c.env, ctx: c.executionCtx })
  const response = problemResponse(refusal, requestIdOf(c.req.raw))
  if (allowed.length > 0) response.headers.set('allow', allowed.join(', '))
  return openToAll(response)
})
app.onError((error, c) =>
  refuse(error, requestIdOf(c.req.raw), { env: c.env, ctx: c.executionCtx }),
)

/** Routes without parameters, found by one look-up: the hot paths do not pay for a router's. */
const exact: ReadonlyMap<string, Route> = new Map(
  routes.filter((r) => !r.path.includes('{')).map((r) => [`${r.method} ${r.path}`, r] as const),
)
const TILES = '/log/tile/'

/** The HTTP face of the node. */
export async function fetchHandler(
  given: Request,
  env: Env,
  ctx: ExecutionContext,
): Promise<Response> {
  let request = given
  const url = URL.parse(request.url)
  if (url !== null) {
    const path = placed(url, Number(env.LOG_NUMBER ?? 1))
    if (path === null) return toPrevious(request, url, { env, ctx })
    if (path !== url.pathname) {
      url.pathname = path
      request = new Request(url, request)
    }
    const { pathname } = url
    const direct = exact.get(`${request.method} ${pathname}`)
    if (direct !== undefined) return serve(direct, request, { params: {}, env, ctx, url })
    if (request.method === 'GET' && pathname.startsWith(TILES)) {
      return serve(getTile, request, {
        params: { path: pathname.slice(TILES.length) },
        env,
        ctx,
        url,
      })
    }
  }
  return app.fetch(request, env, ctx)
}

/** A path of a log before this one; what was sealed again here gets a link. */
async function toPrevious(request: Request, url: URL, by: Counting): Promise<Response> {
  const { env } = by
  try {
    return await linkSuccessor(await askPrevious(request, env), url, env)
  } catch (error) {
    const refusal = refuse(error, requestIdOf(request), by)
    return url.pathname.startsWith('/admin/') ? refusal : openToAll(refusal)
  }
}

/** What a refusal is counted with. */
interface Counting {
  readonly env: Env
  readonly ctx: Background
}

interface Context extends Counting {
  readonly params: Readonly<Record<string, string>>
  readonly url?: URL
}

async function serve(route: Route, request: Request, context: Context): Promise<Response> {
  const { env, ctx, params } = context
  let id: string | null = null
  try {
    const url = context.url ?? URL.parse(request.url)
    if (url === null) throw new VaultMeshError('bad-request', 'The Host header is no host.')
    return await told(route, {
      request,
      env,
      ctx,
      node: await nodeOf(env),
      url,
      // Made when somebody asks: reads of tiles do not pay for one.
      get requestId() {
        return (id ??= requestIdOf(request))
      },
      params: route.params === undefined ? {} : checked(route.params, params, 'path'),
      query:
        route.query === undefined
          ? {}
          : checked(route.query, Object.fromEntries(url.searchParams), 'query'),
    })
  } catch (error) {
    if (error instanceof Answered) return error.response
    const requestId = id ?? requestIdOf(request)
    const { pathname } = URL.parse(request.url) ?? { pathname: '' }
    if (isPageFor(request, pathname))
      return refusalPage(noted(error, requestId, context), requestId, pathname)
    const refusal = refuse(error, requestId, context)
    return route.internal === true ? refusal : openToAll(refusal)
  }
}

function refuse(error: unknown, requestId: string, by: Counting): Response {
  return problemResponse(noted(error, requestId, by), requestId)
}

/** A refusal as one of ours, counted; what is the node's fault goes to the log. */
function noted(error: unknown, requestId: string, by: Counting): VaultMeshError {
  const known = asVaultMeshError(error)
  countProblem(known, by)
  if (known.status >= 500 && known.code !== 'bad-config' && known.code !== 'no-sign-in') {
    const cause = known.cause instanceof Error ? known.cause.message : typeof known.cause
    console.error(
      JSON.stringify({ level: 'error', msg: known.message, code: known.code, requestId, cause }),
    )
  }
  return known
}

function countProblem({ code }: VaultMeshError, { env, ctx }: Counting): void {
  count(env, ctx, 'vaultmesh_problems_total', { code })
}

function checked(
  schema: z.ZodType,
  value: Readonly<Record<string, string>>,
  where: string,
): unknown {
  const parsed = schema.safeParse(value)
  if (parsed.success) return parsed.data
  const issue = parsed.error.issues[0]!
  throw new VaultMeshError(
    'bad-request',
    `The ${where} parameter "${issue.path.join('.')}": ${issue.message}.`,
  )
}

/** The caller's request id if it is a plain token, else a new one. */
function requestIdOf(request: Request): string {
  const given = request.headers.get('x-request-id') ?? request.headers.get('cf-ray')
  return given !== null && REQUEST_ID.test(given) ? given : crypto.randomUUID()
}

function honoPath(path: string): string {
  return path.replaceAll(/\{(\w+)\*\}/g, ':$1{.+}').replaceAll(/\{(\w+)\}/g, ':$1')
}

/** Methods that other routes allow on a path, for 405. */
function methodsOf(pathname: string): string[] {
  const methods = new Set<string>()
  for (const route of routes) {
    if (route.internal === true) continue
    const pattern = route.path.replaceAll(/\{\w+\*\}/g, '.+').replaceAll(/\{\w+\}/g, '[^/]+')
    if (new RegExp(`^${pattern.replaceAll('.json', '\\.json')}$`).test(pathname)) {
      methods.add(route.method)
      if (route.method === 'GET') methods.add('HEAD')
    }
  }
  return [...methods]
}
