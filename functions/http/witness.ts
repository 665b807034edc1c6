/**
 * The witness that this node is to other logs: C2SP tlog-witness v1.0.0, submission and monitoring prefix
 * `/witness`.
 *
 * Statuses are the spec's. A 200 and a 409 carry the bodies it prescribes; other refusals are problems,
 * like everywhere here. What fails on our side is never a 4xx: a log would take it for a verdict.
 */

import * as z from 'zod'
import { MAX_ADD_CHECKPOINT_BYTES, SIZE_TYPE, TEXT_TYPE } from '#core/add-checkpoint.ts'
import { VaultMeshError, type Code } from '#core/errors.ts'
import { readBody } from './body.ts'
import { asVaultMeshError } from './problem.ts'
import { route } from './route.ts'

/** Who keeps what this node cosigned: the one object that may sign as its witness. */
function witnessOf(env: Env) {
  return env.FEDERATION.getByName('node')
}

/** The codes of the spec's refusals. */
const CODES: Readonly<Record<number, Code>> = {
  400: 'bad-body',
  403: 'untrusted-checkpoint',
  404: 'unknown-log',
  422: 'bad-proof',
}

/** POST /witness/add-checkpoint. */
export const postAddCheckpoint = route({
  method: 'POST',
  path: '/witness/add-checkpoint',
  tag: 'federation',
  summary: 'Have a checkpoint cosigned (C2SP tlog-witness, add-checkpoint)',
  body: { 'text/plain': null },
  answers: {
    200: {
      description: 'the cosignature: a line of a signed note',
      content: { 'text/plain': null },
    },
    403: { description: 'the known key of the log did not sign this checkpoint' },
    404: { description: 'the origin is not one that this node witnesses' },
    409: {
      description: 'old is not the size cosigned last, which is the body',
      content: { [SIZE_TYPE]: null },
    },
    422: { description: 'the proof does not lead to the root' },
  },
  async handle({ env, request }) {
    const bytes = await readBody(request, MAX_ADD_CHECKPOINT_BYTES, 'body-too-large')
    const { status, body, contentType } = await witnessOf(env).addCheckpoint(bytes).catch(ours)
    const code = CODES[status]
    if (code !== undefined) throw new VaultMeshError(code, body.trimEnd())
    return new Response(body, {
      status,
      headers: { 'content-type': contentType, 'cache-control': 'no-store' },
    })
  },
})

/** GET /witness/{log}/checkpoint. */
export const getCosigned = route({
  method: 'GET',
  path: '/witness/{log}/checkpoint',
  tag: 'federation',
  summary: 'The checkpoint of a log that this node cosigned last (C2SP tlog-witness, monitoring)',
  params: z.object({
    log: z
      .string()
      .regex(/^[0-9a-f]{64}$/, 'must be 64 lowercase hex digits')
      .meta({
        description: 'SHA-256 of the log’s origin, in lowercase hex',
        examples: ['950d461090032a1160de583c927e35b630b04435a2da05ce89c78fe3cad1d296'],
      }),
  }),
  answers: {
    200: {
      description: 'a signed note with the signatures of the log and of this node',
      content: { 'text/plain': null },
    },
    404: { description: 'never cosigned here' },
  },
  async handle({ env, params }) {
    const note = await witnessOf(env).cosigned(params.log).catch(ours)
    if (note === null) {
      throw new VaultMeshError(
        'not-found',
        'This node has never cosigned a checkpoint of that log.',
      )
    }
    return new Response(note, {
      headers: { 'content-type': TEXT_TYPE, 'cache-control': 'public, max-age=1' },
    })
  },
})

/** Throws what went wrong in the object. That the node is in no federation is no fault of its. */
function ours(error: unknown): never {
  const known = asVaultMeshError(error, 'storage-failed')
  if (known.status >= 500 || known.code === 'no-federation') throw known
  throw new VaultMeshError('internal', 'The witness failed.', { cause: known })
}
