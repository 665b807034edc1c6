/**
 * The audit trail at the HTTP edge: refusals and commands as lines, and what the keeper of the files asks for.
 *
 *   GET  /admin/audit?from=          rows of the dashboard's audit in D1, oldest first
 *   POST /admin/audit/closed         seals a closed file into the ledger; a repeat gets the first answer
 *
 * A self-hosted node writes commands down in its own process before they get here (scripts/admin-socket.ts); then the
 * request says so. Elsewhere they are console lines of the Worker.
 */

import * as z from 'zod'
import {
  closedFileSchema,
  readClosedFile,
  signClosedFile,
  type ClosedFile,
} from '#core/audit-file.ts'
import { isCommand, targetOf, TOLD_HEADER } from '#core/audit-line.ts'
import { fromUtf8, utf8, type Hash } from '#core/bytes.ts'
import { canonicalJson } from '#core/canonical-json.ts'
import { openEnvelope } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { auditRowsFrom } from '#store/audit.ts'
import { eventBytes, findEvent } from '#store/events.ts'
import { keepsTrail, trail } from '#store/trail.ts'
import { isOperator, operatorOnly } from './admin.ts'
import { admitAll, hashName, poolError } from './admission.ts'
import { readBody } from './body.ts'
import { conflict, signers } from './intake-rules.ts'
import { asVaultMeshError } from './problem.ts'
import { decimal, json, route, type Call, type Route } from './route.ts'
import { checkOpened } from './succession.ts'

/** Rows of one answer. */
const ROWS = 500
const MAX_CLOSED_BYTES = 4096
/** Refusals written down in one second by one isolate: whoever is refused may ask without end. */
const REFUSALS_A_SECOND = 50

let second = 0
let said = 0
let omitted = 0

/** Writes a refused post down, up to so many a second; the next line says how many were left out. */
export function tellRefusal({ env, requestId, url }: Call, error: unknown): void {
  if (!keepsTrail(env)) return
  const now = Math.floor(Date.now() / 1000)
  if (now !== second) {
    second = now
    said = 0
  }
  if (++said > REFUSALS_A_SECOND) {
    omitted++
    return
  }
  const { status, code } = asVaultMeshError(error)
  const more = omitted === 0 ? {} : { omitted }
  omitted = 0
  // Without its query: whatever a stranger writes there would stay for good.
  const target = targetOf(new URL(url.pathname, url))
  trail(env, { kind: 'refuse', requestId, target, status, code, ...more })
}

/** Handles a request, as a line before and after if it is an operator's command. */
export async function told(asked: Route, call: Call): Promise<Response> {
  const { request, env, url } = call
  const { method } = request
  if (
    asked.tag !== 'admin' ||
    !keepsTrail(env) ||
    // By the path of the route: the router takes other spellings of it (/adm%69n/seal), too.
    !isCommand(method, new URL(asked.path + url.search, url)) ||
    // Elsewhere than behind the socket the header is a caller's own word, and would hide him.
    (env.AUDIT_FILES === '1' && request.headers.has(TOLD_HEADER)) ||
    !isOperator(call)
  ) {
    return asked.handle(call)
  }
  const { requestId } = call
  const command = { kind: 'operator', requestId, method, target: targetOf(url) } as const
  trail(env, { ...command, outcome: 'begun' })
  try {
    const response = await asked.handle(call)
    trail(env, { ...command, outcome: 'done', status: response.status })
    return response
  } catch (error) {
    const { status } = asVaultMeshError(error)
    trail(env, { ...command, outcome: status >= 500 ? 'failed' : 'refused', status })
    throw error
  }
}

/** GET /admin/audit?from=: rows with this id and above. */
export const getAuditRows = route({
  method: 'GET',
  path: '/admin/audit',
  tag: 'admin',
  summary: 'Rows of the audit, oldest first',
  internal: true,
  query: z.object({ from: decimal(0).default(0), log: z.string().optional() }),
  answers: { 200: { description: 'rows', content: { 'application/json': z.looseObject({}) } } },
  async handle(call) {
    operatorOnly(call)
    const { env, node, query } = call
    const rows = await auditRowsFrom(env.DB, query.from, ROWS)
    return json({ log: node.config.logNumber, rows, more: rows.length === ROWS })
  },
})

/** POST /admin/audit/closed: the event of a closed file. */
export const postAuditClosed = route({
  method: 'POST',
  path: '/admin/audit/closed',
  tag: 'admin',
  summary: 'Seal a closed audit file into the ledger',
  internal: true,
  answers: {
    200: { description: 'the event', content: { 'application/json': z.looseObject({}) } },
  },
  async handle(call) {
    operatorOnly(call)
    await checkOpened(call)
    const { env, node, requestId } = call
    const closed = closedOf(await readBody(call.request, MAX_CLOSED_BYTES, 'body-too-large'))
    const bytes = utf8(await signClosedFile(node.identity, closed))
    const open = await openEnvelope(bytes, signers)
    const [admission] = await admitAll(env, node, [open], requestId)
    if (admission instanceof VaultMeshError) throw admission
    const { state, eventHash } = admission!
    const answer = (jws: Uint8Array): Response =>
      json({ eventHash: hashName(eventHash), event: fromUtf8(jws) })
    if (state !== 'conflict') return answer(bytes)
    // Posted before by an earlier key of the node: then it is the same word. Else the file is not what it was.
    const first = await bytesOf(env, eventHash, admission!.shard)
    if (first !== null && isSame(readClosedFile(first), closed)) return answer(first)
    throw conflict(admission!)
  },
})

function closedOf(body: Uint8Array): ClosedFile {
  let value: unknown
  try {
    value = JSON.parse(fromUtf8(body))
  } catch (cause) {
    throw new VaultMeshError('bad-body', 'The body is not JSON.', { cause })
  }
  const parsed = closedFileSchema.safeParse(value)
  if (parsed.success) return parsed.data
  const { path, message } = parsed.error.issues[0]!
  throw new VaultMeshError('bad-request', `The field "${path.join('.')}": ${message}.`)
}

function isSame(first: ClosedFile & { readonly source: string }, now: ClosedFile): boolean {
  return canonicalJson(first) === canonicalJson({ ...now, source: first.source })
}

/** The bytes of an event, wherever it is by now. */
async function bytesOf(env: Env, eventHash: Hash, shard: number): Promise<Uint8Array | null> {
  const indexed = await findEvent(env.DB, eventHash)
  if (indexed !== null) return eventBytes(env, indexed)
  try {
    return await env.POOL.getByName(String(shard)).bytes(eventHash)
  } catch (error) {
    throw poolError(error)
  }
}
