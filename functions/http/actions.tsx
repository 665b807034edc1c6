/**
 * GET and POST /dashboard/actions/{name}: what the dashboard can do beyond showing.
 *
 * GET asks for what is missing and then says what will happen; it changes nothing. POST does it: for a person with
 * the form of that page (token of the session, same site, `confirmed`), for a machine with the scope of the action.
 * It is written down before and after (store/audit.ts), then the browser is sent back to a page that says how it went;
 * what must be taken away (a new token, a statement) is in the answer itself and nowhere else.
 */

import * as z from 'zod'
import { fromUtf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { ACTIONS, isAction, type Action } from '#core/roles.ts'
import { audit } from '#store/audit.ts'
import { ActionConfirm, ActionDone, ActionForm } from '../dashboard/action.tsx'
import { actions, type ActionDefinition, type Plan } from './action-list.ts'
import { mediaType, readBody } from './body.ts'
import {
  actionGuard,
  actorOf,
  auditRefusal,
  guarded,
  seeOther,
  type Viewer,
} from './dashboard-guard.ts'
import { html } from './html.ts'
import { asVaultMeshError } from './problem.ts'
import { json, route, type Call } from './route.ts'
import { isMachine } from './session.ts'

/** Longest form; the longest value is a vkey of some hundred characters. */
const MAX_FORM_BYTES = 16_384
const params = z.object({ name: z.string() })
const PATH = '/dashboard/actions/{name}'

type Form = Readonly<Record<string, string>>

/** GET /dashboard/actions/{name}: asks, then says what will happen. */
export const getAction = route({
  method: 'GET',
  path: PATH,
  tag: 'dashboard',
  summary: 'What an action will do',
  internal: true,
  params,
  answers: { 200: { description: 'a page', content: { 'text/html': null } } },
  async handle(call) {
    // Who is nobody learns nothing of what there is.
    await guarded(call, 'viewer')
    const name = named(call.params.name)
    const viewer = await guarded(call, ACTIONS[name])
    return asked(call, viewer, name, formOf(call.url.searchParams))
  },
})

/** POST /dashboard/actions/{name}: does it. */
export const postAction = route({
  method: 'POST',
  path: PATH,
  tag: 'dashboard',
  summary: 'Do it',
  internal: true,
  params,
  answers: { 303: { description: 'done; the page says how it went' } },
  async handle(call) {
    const form = await readForm(call.request)
    const name = named(call.params.name)
    const viewer = await actionGuard(call, name, form)
    if (viewer.scopes === null && form['confirmed'] !== '1') return asked(call, viewer, name, form)
    const definition = actions[name]
    const parsed = definition.input.safeParse(form)
    if (!parsed.success) {
      const error = invalid(parsed.error)
      await auditRefusal(call, actorOf(viewer), name, error)
      throw error
    }
    return done(call, viewer, { name, definition, input: parsed.data })
  },
})

/** The page that asks for what is missing, or says what will happen. */
async function asked(
  call: Call<unknown, unknown>,
  viewer: Viewer,
  name: Action,
  form: Form,
): Promise<Response> {
  const { title, verb, back, fields, input, plan } = actions[name]
  const { config } = call.node
  const page = {
    title,
    viewer,
    node: { id: config.nodeId, dev: config.network === 'dev' },
    path: `/dashboard/actions/${name}`,
    back,
  }
  const parsed = input.safeParse(form)
  const isAsked = fields.some((field) => form[field.name] !== undefined)
  let problem = parsed.success ? undefined : invalid(parsed.error).message
  let planned: Plan | null = null
  if (parsed.success) {
    try {
      planned = await plan(call, parsed.data)
    } catch (error) {
      // What was filled in is wrong: it is filled in again. Anything else is a refusal.
      const known = asVaultMeshError(error)
      if (known.code !== 'bad-request') throw known
      problem = known.message
    }
  }
  if (planned === null) {
    const views = fields.map((field) => ({ ...field, value: form[field.name] ?? '' }))
    const shown = isAsked ? problem : undefined
    return html(<ActionForm {...page} fields={views} problem={shown} />, {
      status: isAsked ? 400 : 200,
    })
  }
  const filled = Object.fromEntries(
    fields.flatMap(({ name: field }) => (form[field] === undefined ? [] : [[field, form[field]]])),
  )
  const carried = { ...filled, ...planned.carried, csrf: viewer.csrf, confirmed: '1' }
  const { facts, effects } = planned
  return html(<ActionConfirm {...page} verb={verb} {...{ facts, effects, carried }} />)
}

/** Does it, between two rows of the audit. */
async function done(
  call: Call<unknown, unknown>,
  viewer: Viewer,
  { name, definition, input }: { name: Action; definition: ActionDefinition; input: unknown },
): Promise<Response> {
  const { env, requestId, node } = call
  const row = { requestId, ...actorOf(viewer), action: name }
  let target = ''
  let ref: number | undefined
  try {
    ;({ target } = await definition.plan(call, input))
    const begun = { ...row, target, outcome: 'begun', detail: '' } as const
    ref = await audit(env, { ...begun, at: Date.now() })
    const { detail, shown } = await definition.run(call, viewer, input)
    const said = await audit(env, { ...row, at: Date.now(), target, outcome: 'done', detail, ref })
    if (isMachine(call.request)) return json({ outcome: 'done', detail, requestId })
    const { title, back } = definition
    if (shown === undefined) return seeOther(call, `${back}?said=${said}`)
    const page = {
      title,
      viewer,
      node: { id: node.config.nodeId, dev: node.config.network === 'dev' },
      path: '',
      back,
    }
    return await html(<ActionDone {...page} detail={detail} {...shown} />)
  } catch (error) {
    const known = asVaultMeshError(error)
    // Begun and refused by the state of things, or never begun. The effect may have come about where a store did not
    // answer: `failed` says that nobody knows, and the refusal says to look.
    const outcome = known.status >= 500 ? 'failed' : 'refused'
    const detail = `${known.code}: ${known.message}`
    await audit(env, { ...row, at: Date.now(), target, outcome, detail, ref })
    throw known
  }
}

function named(name: string): Action {
  if (isAction(name)) return name
  throw new VaultMeshError('not-found', 'There is no such action.')
}

/** A form as browsers send it, or from a machine a flat JSON object of texts. */
async function readForm(request: Request): Promise<Form> {
  const type = mediaType(request)
  const isJson = type === 'application/json' && isMachine(request)
  if (!isJson && type !== 'application/x-www-form-urlencoded') {
    throw new VaultMeshError(
      'unsupported-media-type',
      'An action takes application/x-www-form-urlencoded, from machines also application/json.',
    )
  }
  const text = fromUtf8(await readBody(request, MAX_FORM_BYTES, 'body-too-large'))
  if (!isJson) return formOf(new URLSearchParams(text))
  const parsed = z.record(z.string(), z.string()).safeParse(jsonOf(text))
  if (parsed.success) return parsed.data
  throw new VaultMeshError('bad-body', 'The body is no flat JSON object of texts.')
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}

/** Values by name; those of one name (the boxes that were ticked) separated by spaces. */
function formOf(fields: URLSearchParams): Form {
  const form = new Map<string, string>()
  for (const [name, value] of fields) {
    const before = form.get(name)
    form.set(name, before === undefined ? value : `${before} ${value}`)
  }
  return Object.fromEntries(form)
}

function invalid(error: z.ZodError): VaultMeshError {
  const { path, message } = error.issues[0]!
  return new VaultMeshError('bad-request', `The field "${path.join('.')}": ${message}.`)
}
