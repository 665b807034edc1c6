/**
 * Every path of a node on one screen, and what wraps each of them: request id, validation, problems.
 */

import { Hono } from 'hono'
import type * as z from 'zod'
import { VaultMeshError } from '#core/errors.ts'
import { nodeOf } from '#store/node.ts'
import { getDeadLetters, getFsck, postReplay, postSeal, postStart } from './admin.ts'
import { getBatch, getBatchEvents, listRoute } from './batches.ts'
import { getDocs, getOpenApi, getProblemPage } from './docs.ts'
import { getEvent, getEventStatus, searchRoute } from './events.ts'
import { postEvents } from './intake.ts'
import { getCheckpoint, getConsistencyProof, getInclusionProof, getTile } from './log.ts'
import { getAlerts, getAnchorStatus, getHealth, getWellKnown } from './node-info.ts'
import { asVaultMeshError, problemResponse } from './problem.ts'
import { getReceipt } from './receipts.ts'
import type { Route } from './route.ts'

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
  getCheckpoint,
  getTile,
  getInclusionProof,
  getConsistencyProof,
  getAnchorStatus,
  getHealth,
  getWellKnown,
  getAlerts,
  getOpenApi,
  getDocs,
  getProblemPage,
  postSeal,
  postStart,
  getFsck,
  getDeadLetters,
  postReplay,
]

const app = new Hono<{ Bindings: Env }>()
for (const route of routes) {
  app.on(route.method, honoPath(route.path), (c) =>
    serve(route, c.req.raw, c.req.param(), c.env, c.executionCtx),
  )
}
app.notFound((c) => {
  const requestId = requestIdOf(c.req.raw)
  const pathname = URL.parse(c.req.url)?.pathname ?? c.req.path
  const allowed = methodsOf(pathname)
  if (allowed.length === 0) {
    return problemResponse(
      new VaultMeshError('not-found', `There is no path ${pathname.slice(0, 200)}.`),
      requestId,
    )
  }
  const refusal = new VaultMeshError(
    'method-not-allowed',
    `${c.req.method} is not for this path.`,
    { extra: { allow: allowed } },
  )
  const response = problemResponse(refusal, requestId)
  response.headers.set('allow', allowed.join(', '))
  return response
})
app.onError((error, c) => refuse(error, requestIdOf(c.req.raw)))

/** The HTTP face of the node. */
export const fetchHandler = app.fetch

async function serve(
  route: Route,
  request: Request,
  params: Record<string, string>,
  env: Env,
  ctx: Pick<ExecutionContext, 'waitUntil'>,
): Promise<Response> {
  const requestId = requestIdOf(request)
  try {
    const url = URL.parse(request.url)
    if (url === null) throw new VaultMeshError('bad-request', 'The Host header is no host.')
    const response = await route.handle({
      request,
      env,
      ctx,
      node: await nodeOf(env),
      url,
      requestId,
      params: route.params === undefined ? {} : checked(route.params, params, 'path'),
      query:
        route.query === undefined
          ? {}
          : checked(route.query, Object.fromEntries(url.searchParams), 'query'),
    })
    response.headers.set('x-request-id', requestId)
    return response
  } catch (error) {
    return refuse(error, requestId)
  }
}

function refuse(error: unknown, requestId: string): Response {
  const known = asVaultMeshError(error)
  if (known.status >= 500) {
    const cause = known.cause instanceof Error ? known.cause.message : typeof known.cause
    console.error(
      JSON.stringify({ level: 'error', msg: known.message, code: known.code, requestId, cause }),
    )
  }
  return problemResponse(known, requestId)
}

function checked(schema: z.ZodType, value: Record<string, string>, where: string): unknown {
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
  return given !== null && /^[A-Za-z0-9_.-]{1,64}$/.test(given) ? given : crypto.randomUUID()
}

function honoPath(path: string): string {
  return path.replaceAll(/\{(\w+)\*\}/g, ':$1{.+}').replaceAll(/\{(\w+)\}/g, ':$1')
}

/** Methods that other routes allow on a path, for 405. */
function methodsOf(pathname: string): string[] {
  const methods = new Set<string>()
  for (const route of routes) {
    const pattern = route.path.replaceAll(/\{\w+\*\}/g, '.+').replaceAll(/\{\w+\}/g, '[^/]+')
    if (new RegExp(`^${pattern.replaceAll('.json', '\\.json')}$`).test(pathname)) {
      methods.add(route.method)
      if (route.method === 'GET') methods.add('HEAD')
    }
  }
  return [...methods]
}
