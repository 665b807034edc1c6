/**
 * The rules of intake: what anybody may know of them before he posts (the pinned schemas), and how the operator changes
 * them while the node runs (docs/intake.md). Whom `allow` names is the operator's business.
 */

import * as z from 'zod'
import { fromUtf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { MAX_INTAKE_BYTES, parseIntakeRules, type IntakeRules } from '#core/intake-config.ts'
import type { SchemaPin } from '#core/schema-pins.ts'
import { forgetRules, intakeRules } from '#store/intake-rules.ts'
import { operatorOnly } from './admin.ts'
import { readBody } from './body.ts'
import { noneMatchFails } from './negotiation.ts'
import { asVaultMeshError } from './problem.ts'
import { json, route, type Call } from './route.ts'

const pinSchema = z
  .object({
    type: z.string().describe('of events'),
    sha256: z.string().describe('sha256:<hex> of the schema as canonical JSON (RFC 8785)'),
    id: z.string().nullable().describe('its $id: what dataschema of an event must be, if given'),
    url: z.string().describe('path of the schema'),
  })
  .meta({ id: 'SchemaPin' })

/** GET /schemas: what is pinned. */
export const getSchemas = route({
  method: 'GET',
  path: '/schemas',
  tag: 'intake',
  summary: 'The event types that are pinned to a JSON Schema',
  answers: {
    200: {
      description: 'by type; what is posted is held against these',
      content: {
        'application/json': z
          .object({
            allow: z
              .enum(['anybody', 'listed'])
              .describe('whether DIDs must be on a list to post here'),
            unpinned: z.enum(['accept', 'refuse']).describe('what becomes of types without a pin'),
            schemas: z.array(pinSchema),
          })
          .meta({ id: 'SchemaPins' }),
      },
    },
  },
  async handle(call) {
    const rules = await intakeRules(call.env)
    const pins = [...rules.pins.values()].toSorted((a, b) => (a.type < b.type ? -1 : 1))
    return json({
      allow: allowOf(call, rules) === null ? 'anybody' : 'listed',
      unpinned: rules.unpinned,
      schemas: pins.map(pinOf),
    })
  },
})

/** GET /schemas/{type}: the schema itself. */
export const getSchema = route({
  method: 'GET',
  path: '/schemas/{type*}',
  tag: 'intake',
  summary: 'The JSON Schema that data of a type must match',
  params: z.object({
    type: z.string().meta({ description: 'of events', examples: ['com.example.paid'] }),
  }),
  answers: {
    200: {
      description: 'the schema; its ETag is the hash of its canonical JSON',
      content: { 'application/schema+json': null },
    },
    304: { description: 'unchanged' },
    404: { description: 'nothing is pinned to this type' },
  },
  async handle({ env, params, request }) {
    const pin = (await intakeRules(env)).pins.get(decoded(params.type))
    if (pin === undefined)
      throw new VaultMeshError('not-found', 'No schema is pinned to this type.')
    const etag = `"sha256:${pin.sha256}"`
    const headers = { etag, 'cache-control': 'no-cache' }
    if (noneMatchFails(request, etag)) return new Response(null, { status: 304, headers })
    return new Response(JSON.stringify(pin.schema), {
      headers: { ...headers, 'content-type': 'application/schema+json' },
    })
  },
})

const ok = { 200: { description: 'done', content: { 'application/json': z.looseObject({}) } } }

/** GET /admin/intake: the rules in force, as they were applied. */
export const getIntake = route({
  method: 'GET',
  path: '/admin/intake',
  tag: 'admin',
  summary: 'The rules of intake that are in force',
  internal: true,
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { env, node } = call
    const { sha256, text } = await ofSequencer(env.SEQUENCER.getByName('log').intake(null))
    const { intakeAllow } = node.config
    return json({
      sha256,
      followsFile: followsFile(call),
      rules: text === null ? null : (JSON.parse(text) as unknown),
      variable: intakeAllow === null ? ['*'] : [...intakeAllow],
    })
  },
})

/**
 * POST /admin/intake: takes a document of rules over; an empty body forgets them. `over` is the hash of those that it
 * was made from. A node that follows a file takes them from the file (`via=file`) alone.
 */
export const postIntake = route({
  method: 'POST',
  path: '/admin/intake',
  tag: 'admin',
  summary: 'Take rules of intake over',
  internal: true,
  query: z.object({
    via: z.enum(['file']).optional(),
    over: z
      .string()
      .regex(/^(?:none|[0-9a-f]{64})$/)
      .optional(),
  }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { env, query, request } = call
    if (followsFile(call) && query.via !== 'file')
      throw new VaultMeshError(
        'bad-request',
        'This node follows its config/intake.yaml: change that file, and the node takes it over within a second.',
      )
    const text = fromUtf8(await readBody(request, MAX_INTAKE_BYTES, 'body-too-large'))
    const rules = text === '' ? null : parseIntakeRules(text)
    const { over } = query
    const kept = await ofSequencer(
      env.SEQUENCER.getByName('log').applyIntake(
        rules === null ? null : { sha256: rules.sha256!, text },
        over === 'none' ? null : over,
      ),
    )
    if (!kept)
      throw new VaultMeshError('changed-meanwhile', 'The rules are others than you looked at.')
    forgetRules(env)
    return json({
      sha256: rules?.sha256 ?? null,
      schemas: [...(rules?.pins.values() ?? [])].map(pinOf),
    })
  },
})

function followsFile({ env }: Call<unknown, unknown>): boolean {
  return env.INTAKE_FILE === '1'
}

function allowOf({ node }: Call<unknown, unknown>, { allow }: IntakeRules) {
  return allow === undefined ? node.config.intakeAllow : allow
}

function pinOf({ type, sha256, id }: SchemaPin) {
  return { type, sha256: `sha256:${sha256}`, id, url: `/schemas/${encodeURIComponent(type)}` }
}

function decoded(type: string): string {
  try {
    return decodeURIComponent(type)
  } catch {
    return type
  }
}

function ofSequencer<T>(asking: Promise<T>): Promise<T> {
  return asking.catch((error: unknown) => {
    throw asVaultMeshError(error, 'storage-failed')
  })
}
