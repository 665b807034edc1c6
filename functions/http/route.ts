/**
 * A route: its path, its schemas and its handler in one object.
 *
 * The same object registers with the router, validates the request and writes /openapi.json, so the
 * three cannot drift apart.
 */

import * as z from 'zod'
import type { NodeContext } from '#store/node.ts'
import { openToAll } from './cors.ts'

/** One request on its way through a handler. */
export interface Call<P = unknown, Q = unknown> {
  readonly request: Request
  readonly env: Env
  readonly ctx: Pick<ExecutionContext, 'waitUntil'>
  readonly node: NodeContext
  readonly url: URL
  readonly requestId: string
  readonly params: P
  readonly query: Q
}

/** One answer a route may give: a description and, by media type, a schema or null for opaque bytes. */
export interface Answer {
  readonly description: string
  readonly content?: Readonly<Record<string, z.ZodType | null>>
}

/** A path with one method. Path parameters are written `{name}`; `{name*}` takes slashes too. */
export interface Route<P extends z.ZodType = z.ZodType, Q extends z.ZodType = z.ZodType> {
  readonly method: 'GET' | 'POST'
  readonly path: string
  readonly summary: string
  readonly tag: string
  readonly params?: P
  readonly query?: Q
  /** By media type, the schema of the request body, or null for opaque bytes. */
  readonly body?: Readonly<Record<string, z.ZodType | null>>
  readonly answers: Readonly<Record<number, Answer>>
  /** Left out of /openapi.json: for operators of this node only. */
  readonly internal?: boolean
  handle(call: Call<z.output<P>, z.output<Q>>): Promise<Response>
}

/**
 * Keeps the schemas' types while routes of all kinds sit in one table. What a public route answers is open
 * to pages of any origin; refusals are the router's to open.
 */
export function route<P extends z.ZodType, Q extends z.ZodType>(definition: Route<P, Q>): Route {
  const known = definition as unknown as Route
  if (known.internal === true) return known
  return { ...known, handle: (call) => known.handle(call).then(openToAll) }
}

/** A JSON answer. */
export function json(
  value: unknown,
  status = 200,
  headers: Readonly<Record<string, string>> = {},
): Response {
  return new Response(JSON.stringify(value), {
    status,
    headers: { 'content-type': 'application/json', 'cache-control': 'no-cache', ...headers },
  })
}

/** A decimal number in a path or query: digits only, so that each number has one spelling. */
export function decimal(min: number, max = Number.MAX_SAFE_INTEGER, examples?: number[]) {
  const limits = max === Number.MAX_SAFE_INTEGER ? { minimum: min } : { minimum: min, maximum: max }
  return z
    .string()
    .refine((text) => /^(?:0|[1-9]\d{0,15})$/.test(text), 'must be a decimal number')
    .meta({ type: 'integer', ...limits, ...(examples === undefined ? {} : { examples }) })
    .transform(Number)
    .pipe(z.int().min(min).max(max))
}

/** For bytes that never change. */
export const IMMUTABLE = 'public, max-age=31536000, immutable'
