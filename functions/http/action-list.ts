/**
 * What each action of the dashboard asks for, says before, and does. `plan` tells people what will happen and refuses
 * what cannot; `run` does it and says it again in the past tense, for the page and the audit. Both look at the state
 * of now: what a page showed a minute ago may be over.
 */

import * as z from 'zod'
import { toHex, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { addPeer, removePeer } from '#core/federation-edit.ts'
import { isScope, SCOPES, type Action, type Scope } from '#core/roles.ts'
import { verifyStatements } from '#core/rotation.ts'
import { sha256 } from '#core/sha256.ts'
import { isoTime } from '#core/time.ts'
import { listDeadLetters } from '#store/alerts.ts'
import { anchorRow, releaseAnchor, retryAnchor, type AnchorRow } from '#store/anchors.ts'
import { apiToken, createToken, endToken } from '#store/api-tokens.ts'
import { preparedKey, prepareNextKey } from '#store/prepared-keys.ts'
import { endSession, liveSession, newSecret } from '#store/sessions.ts'
import { replayDeadLetters } from './admin.ts'
import { accepted, federationOf, forgetAdmission } from './federation.ts'
import { asVaultMeshError } from './problem.ts'
import { decimal, type Call } from './route.ts'
import { signInOf, type Viewer } from './session.ts'

/** What a person fills in. Hidden ones come from the page with the thing itself. */
export interface Field {
  readonly name: string
  readonly label: string
  readonly kind: 'hidden' | 'text' | 'choice' | 'checks'
  readonly hint?: string
  readonly choices?: readonly (readonly [value: string, label: string])[]
  readonly optional?: boolean
}

/** What will happen. */
export interface Plan {
  /** What it is done to, for the audit. */
  readonly target: string
  readonly facts: readonly (readonly [name: string, value: string])[]
  /** What will happen, a sentence each. */
  readonly effects: readonly string[]
  /** Goes with the form beside what was filled in: what was looked at. */
  readonly carried?: Readonly<Record<string, string>>
}

/** What happened. */
export interface Done {
  /** One sentence for page and audit; no secrets. */
  readonly detail: string
  /** Shown once, in the answer to the form alone. */
  readonly shown?: Shown
}

/** What a person has to take away. */
export interface Shown {
  readonly label: string
  readonly text: string
  readonly notes: readonly string[]
}

/** An action. */
export interface ActionDefinition<I = unknown> {
  readonly title: string
  /** On the button that does it. */
  readonly verb: string
  /** The page where its things are. */
  readonly back: string
  readonly fields: readonly Field[]
  readonly input: z.ZodType<I>
  plan(call: Call<unknown, unknown>, input: I): Promise<Plan>
  run(call: Call<unknown, unknown>, viewer: Viewer, input: I): Promise<Done>
}

/** Keeps each action's own type of input while all sit in one table. */
function action<I>(definition: ActionDefinition<I>): ActionDefinition {
  return definition as unknown as ActionDefinition
}

const id = decimal(1)
const hidden = (name: string, label: string): Field => ({ name, label, kind: 'hidden' })
const DAY_MS = 86_400_000

// ── operators ──────────────────────────────────────────────────────────────────────────────────

const rootHex = z
  .string()
  .regex(/^(?:sha256:|0x)?[0-9a-f]{64}$/, 'must be a root, 64 hex digits')
  .transform((text) => text.replace(/^(?:sha256:|0x)/, ''))

const quarantineRelease = action({
  title: 'Look at a held root again',
  verb: 'Look at it again now',
  back: '/dashboard/federation',
  fields: [
    { name: 'origin', label: 'Log (origin)', kind: 'text' },
    { name: 'height', label: 'Height', kind: 'text' },
    { name: 'root', label: 'Root', kind: 'text' },
  ],
  input: z.object({ origin: z.string().min(1).max(255), height: decimal(1), root: rootHex }),
  async plan(call, { origin, height, root }) {
    return {
      target: `${origin} height ${height} root ${root}`,
      facts: [
        ['Log', origin],
        ['Height', String(height)],
        ['Root', `sha256:${root}`],
      ],
      effects: [
        'The root leaves quarantine before its time is up and is recomputed from its events once more.',
        'If it recomputes, its log goes on from there. If not, it is held again and the alert stands.',
      ],
    }
  },
  async run(call, _viewer, { origin, height, root }) {
    const released = await federationOf(call.env).release(origin, height, root).catch(unanswered)
    if (!released)
      throw new VaultMeshError(
        'not-found',
        'No such root is held: it was released, or its time is up.',
      )
    return {
      detail: `Root ${root.slice(0, 16)}… of ${origin} at height ${height} is looked at again.`,
    }
  },
})

const deadLettersReplay = action({
  title: 'Replay dead letters',
  verb: 'Replay them',
  back: '/dashboard/alerts',
  fields: [],
  input: z.object({}),
  async plan({ env }) {
    const letters = await listDeadLetters(env.DB)
    const queues = [...new Set(letters.map(({ queue }) => queue))]
    return {
      target: `${letters.length} dead letters`,
      facts: [
        ['Dead letters', String(letters.length)],
        ['Queues', queues.join(', ') || 'none'],
      ],
      effects: [
        letters.length === 0
          ? 'There are none: nothing will happen.'
          : 'Each is sent to its queue again, now. The work they name is in storage and would be tried again by itself; sending one twice changes nothing.',
      ],
    }
  },
  async run({ env, requestId }) {
    const n = await replayDeadLetters(env, requestId)
    return {
      detail: n === 1 ? 'One dead letter was sent again.' : `${n} dead letters were sent again.`,
    }
  },
})

const anchorFields = [{ name: 'id', label: 'Anchor job', kind: 'text' }] as const
const anchorInput = z.object({ id })

const anchorRetry = action({
  title: 'Retry an anchor now',
  verb: 'Retry it now',
  back: '/dashboard/anchors',
  fields: anchorFields,
  input: anchorInput,
  async plan({ env }, input) {
    const row = await existingAnchor(env, input.id)
    if (row.state === 'final' || row.state === 'failed')
      throw new VaultMeshError('changed-meanwhile', `Anchor ${row.id} is ${row.state}: it is over.`)
    if (row.state === 'held')
      throw new VaultMeshError('changed-meanwhile', `Anchor ${row.id} is held: release it instead.`)
    return {
      ...aboutAnchor(row),
      effects: [
        'Its next attempt is made now instead of at the time that its backoff gave it.',
        'It pays for nothing twice: a transaction that was signed is sent again, not replaced by another payment.',
      ],
    }
  },
  async run({ env, requestId }, _viewer, input) {
    if (!(await retryAnchor(env, input.id, Date.now(), requestId))) {
      throw new VaultMeshError(
        'changed-meanwhile',
        `Anchor ${input.id} does not wait: it is over, held, or under way at this moment.`,
      )
    }
    return { detail: `Anchor ${input.id} is tried now.` }
  },
})

const anchorRelease = action({
  title: 'Release a held anchor',
  verb: 'Release it',
  back: '/dashboard/anchors',
  fields: anchorFields,
  input: anchorInput,
  async plan({ env }, input) {
    const row = await existingAnchor(env, input.id)
    if (row.state !== 'held')
      throw new VaultMeshError('changed-meanwhile', `Anchor ${row.id} is ${row.state}, not held.`)
    return {
      ...aboutAnchor(row),
      effects: [
        `It is held because of ${row.reason ?? 'a reason that was not kept'}. Releasing it says that you have looked at that, on a block explorer where it is about a foreign spend.`,
        'It is tried once more now; if the reason is still there, it is held again.',
      ],
    }
  },
  async run({ env, requestId }, _viewer, input) {
    if (!(await releaseAnchor(env, input.id, Date.now(), requestId)))
      throw new VaultMeshError('changed-meanwhile', `Anchor ${input.id} is not held.`)
    return { detail: `Anchor ${input.id} is released and tried now.` }
  },
})

async function existingAnchor(env: Env, anchorId: number): Promise<AnchorRow> {
  const row = await anchorRow(env.DB, anchorId)
  if (row !== null) return row
  throw new VaultMeshError('not-found', `There is no anchor job ${anchorId}.`)
}

function aboutAnchor(row: AnchorRow): Pick<Plan, 'target' | 'facts'> {
  return {
    target: `anchor ${row.id}`,
    facts: [
      ['Job', String(row.id)],
      ['Chain', `${row.chain} ${row.network} (${row.method})`],
      ['Root', `sha256:${row.root}`],
      ['State', row.state],
      ['Failed attempts in a row', String(row.failures)],
      ['Next attempt', isoTime(row.nextAt)],
    ],
  }
}

// ── admins: sessions and tokens ────────────────────────────────────────────────────────────────

const sessionRevoke = action({
  title: 'Revoke a session',
  verb: 'Revoke it',
  back: '/dashboard/sessions',
  fields: [hidden('id', 'Session')],
  input: z.object({ id }),
  async plan(call, input) {
    const session = await liveSession(call.env.DB, input.id, signInOf(call), Date.now())
    if (session === null) throw new VaultMeshError('not-found', `Session ${input.id} is over.`)
    return {
      target: `session ${input.id} of ${session.sub}`,
      facts: [
        ['Session', String(session.id)],
        ['Person', session.name],
        ['Subject', session.sub],
        ['Role', session.role],
        ['Since', isoTime(session.createdAt)],
        ['Last seen', isoTime(session.seenAt)],
      ],
      effects: [
        'The next request of this session is refused, and its holder is asked to sign in again.',
        'Who may sign in is the identity provider’s to say: to keep somebody out, take the group away there.',
      ],
    }
  },
  async run({ env }, viewer, input) {
    if (!(await endSession(env.DB, input.id, viewer.sub, Date.now())))
      throw new VaultMeshError('changed-meanwhile', `Session ${input.id} is over already.`)
    return { detail: `Session ${input.id} is revoked.` }
  },
})

/** What a scope lets a machine do. */
const SCOPE_WORDS: Readonly<Record<Scope, string>> = {
  'read:dashboard': 'see the pages that a viewer sees',
  'read:metrics': 'read the metrics',
  'action:quarantine-release': 'have held roots looked at again',
  'action:dead-letters-replay': 'replay dead letters',
  'action:anchor-retry': 'retry anchors',
  'action:anchor-release': 'release held anchors',
}
/** A token that is still there when nobody remembers what for was given too long. */
const TOKEN_DAYS = ['1', '7', '30', '90', '365'] as const
const scopeList = z
  .string()
  .transform((text) => text.split(' ').filter((scope) => scope !== ''))
  .refine((scopes) => scopes.length > 0 && scopes.every(isScope), `must be of ${SCOPES.join(', ')}`)
  .transform((scopes) => [...new Set(scopes)] as Scope[])

const tokenCreate = action({
  title: 'Make an API token',
  verb: 'Make it',
  back: '/dashboard/sessions',
  fields: [
    { name: 'name', label: 'Name', kind: 'text', hint: 'What it is for, e.g. backup script' },
    {
      name: 'scopes',
      label: 'What it may do',
      kind: 'checks',
      choices: SCOPES.map((scope) => [scope, `${scope}: ${SCOPE_WORDS[scope]}`] as const),
    },
    {
      name: 'days',
      label: 'Valid for',
      kind: 'choice',
      choices: TOKEN_DAYS.map((days) => [days, days === '1' ? '1 day' : `${days} days`] as const),
    },
  ],
  input: z.object({
    name: z.string().trim().min(1).max(100),
    scopes: scopeList,
    days: z.enum(TOKEN_DAYS),
    once: z.string().max(100).optional(),
  }),
  async plan(_call, { name, scopes, days }) {
    return {
      target: `token ${name}`,
      facts: [
        ['Name', name],
        ['May', scopes.join(', ')],
        ['Until', isoTime(Date.now() + Number(days) * DAY_MS)],
      ],
      effects: [
        'The token is shown once. Whoever has it may do what is listed, without signing in, until it ends or is revoked.',
      ],
      carried: { once: newSecret() },
    }
  },
  async run({ env }, viewer, { name, scopes, days, once }) {
    if (once === undefined) throw new VaultMeshError('form-refused', 'The form was not confirmed.')
    const nowAt = Date.now()
    const expiresAt = nowAt + Number(days) * DAY_MS
    const wanted = { name, scopes, expiresAt, by: viewer.sub, once }
    const made = await createToken(env.DB, wanted, nowAt)
    return {
      detail: `Token ${made.id} “${name}” may ${scopes.join(', ')} until ${isoTime(expiresAt)}.`,
      shown: {
        label: 'The token',
        text: made.token,
        notes: [
          'It is shown this once: keep it where your secrets are.',
          'Send it as “Authorization: Bearer vmt_…”.',
        ],
      },
    }
  },
})

const tokenRevoke = action({
  title: 'Revoke an API token',
  verb: 'Revoke it',
  back: '/dashboard/sessions',
  fields: [hidden('id', 'Token')],
  input: z.object({ id }),
  async plan({ env }, input) {
    const token = await apiToken(env.DB, input.id)
    if (token === null || token.endedAt !== null)
      throw new VaultMeshError('not-found', `Token ${input.id} is not in force.`)
    return {
      target: `token ${input.id}`,
      facts: [
        ['Token', String(token.id)],
        ['Name', token.name],
        ['May', token.scopes.join(', ')],
        ['Last used', token.usedAt === null ? 'never' : isoTime(token.usedAt)],
      ],
      effects: [
        'The next request with it is refused. This cannot be undone; make another instead.',
      ],
    }
  },
  async run({ env }, viewer, input) {
    if (!(await endToken(env.DB, input.id, viewer.sub, Date.now())))
      throw new VaultMeshError('changed-meanwhile', `Token ${input.id} is not in force.`)
    return { detail: `Token ${input.id} is revoked.` }
  },
})

// ── admins: the federation and the node's keys ─────────────────────────────────────────────────

const optionalText = z
  .string()
  .trim()
  .max(2048)
  .transform((text) => (text === '' ? undefined : text))
  .optional()

const allowlistInput = z.object({
  op: z.enum(['add', 'remove']),
  did: z.string().trim().min(1).max(256),
  url: optionalText,
  origin: optionalText,
  vkey: optionalText,
  seen: z.string().optional(),
})

const allowlistChange = action({
  title: 'Change the federation’s allow-list',
  verb: 'Change it',
  back: '/dashboard/federation',
  fields: [
    {
      name: 'op',
      label: 'Change',
      kind: 'choice',
      choices: [
        ['add', 'Add a peer'],
        ['remove', 'Remove a peer'],
      ],
    },
    { name: 'did', label: 'DID of the peer', kind: 'text' },
    { name: 'url', label: 'Address', kind: 'text', optional: true, hint: 'https://log.them.org' },
    {
      name: 'origin',
      label: 'Origin of its log',
      kind: 'text',
      optional: true,
      hint: 'Pinned: its own word for it is not taken',
    },
    { name: 'vkey', label: 'Key of its log (vkey)', kind: 'text', optional: true, hint: 'Pinned' },
  ],
  input: allowlistInput,
  async plan(call, input) {
    const { before } = await allowlistEdit(call, input)
    const { op, did, url, origin, vkey } = input
    const pins = [
      ['Address', url],
      ['Origin', origin],
      ['Key', vkey],
    ] as const
    const what =
      op === 'add'
        ? 'Its gossip is taken from now on, its log is mirrored and recomputed, and it is told of ours.'
        : 'Its gossip is refused from now on, and it is told nothing any more. What was mirrored of its log stays.'
    return {
      target: `${op} ${did}`,
      facts: [
        ['Change', op === 'add' ? 'add' : 'remove'],
        ['Peer', did],
        ...pins.flatMap(([name, value]) => (value === undefined ? [] : [[name, value] as const])),
      ],
      effects: followsFile(call)
        ? [
            'This node follows a file, config/federation.yaml, and the file wins: what is changed here would be undone by its next save or start.',
            'So nothing is changed now. You get the file’s new text; save it, and the node takes it over within a second.',
          ]
        : [
            what,
            'The whole configuration is checked by the rules of the file before it is taken over.',
          ],
      carried: { seen: hashOf(before) },
    }
  },
  async run(call, _viewer, input) {
    const { before, after } = await allowlistEdit(call, input)
    if (input.seen !== hashOf(before))
      throw new VaultMeshError(
        'changed-meanwhile',
        'The configuration is another than you looked at.',
      )
    const change = `${input.op === 'add' ? 'adds' : 'removes'} ${input.did}`
    if (followsFile(call)) {
      return {
        detail: `Nothing is changed yet: the new config/federation.yaml, which ${change}, is to be saved on the node.`,
        shown: {
          label: 'config/federation.yaml',
          text: after,
          notes: [
            'Save this over the file that the node was started with; it is taken over within a second.',
            'On the Federation page the peer appears, or goes, then.',
          ],
        },
      }
    }
    // Of two who change it at once, one: the other has not seen what it would undo.
    const answer = await federationOf(call.env).apply(after, before).catch(unanswered)
    accepted(answer)
    forgetAdmission(call.env)
    return { detail: `The allow-list ${change} from now on.` }
  },
})

/** Self-hosted nodes are started with the file, and take over what is saved there. */
function followsFile({ env }: Call<unknown, unknown>): boolean {
  return env.FEDERATION_FILE === '1'
}

async function allowlistEdit(
  call: Call<unknown, unknown>,
  { op, did, url, origin, vkey }: z.output<typeof allowlistInput>,
): Promise<{ readonly before: string; readonly after: string }> {
  const before = await federationOf(call.env).configuration().catch(unanswered)
  if (before === null)
    throw new VaultMeshError(
      'no-federation',
      'This node is in no federation, so it has no allow-list.',
    )
  const after = op === 'add' ? addPeer(before, { did, url, origin, vkey }) : removePeer(before, did)
  return { before, after }
}

function hashOf(text: string): string {
  return toHex(sha256(utf8(text)))
}

const identityRotate = action({
  title: 'Prepare the next identity key',
  verb: 'Sign the statement',
  back: '/dashboard/federation',
  fields: [
    {
      name: 'days',
      label: 'Both keys are valid for',
      kind: 'choice',
      choices: [
        ['7', '7 days'],
        ['1', '1 day'],
        ['30', '30 days'],
      ],
      hint: 'From now: install the statement well before',
    },
  ],
  input: z.object({ days: z.enum(['1', '7', '30']) }),
  async plan({ env, node }, { days }) {
    const last = node.history.keys.at(-1)!
    const old = await preparedKey(env.DB, last.epoch + 1)
    return {
      target: `identity epoch ${last.epoch + 1}`,
      facts: [
        ['Node', node.nodeDid],
        ['Newest key in force', `epoch ${last.epoch}, ${last.did}`],
        ['Statement', old === null ? 'none yet' : `signed at ${isoTime(old.preparedAt)}`],
      ],
      effects: [
        old === null
          ? `A statement is signed that adds the key of epoch ${last.epoch + 1} and ends that of epoch ${last.epoch} in ${days} days. It can be signed once: two for one epoch would freeze this node at its peers.`
          : 'The statement that was signed before is shown again; no other is signed for this epoch.',
        'A Worker cannot change its own settings: the statement takes force when you install it and start the node anew.',
        'It helps if a signature key leaked, and against nobody who has the node secret: every key derives from that.',
      ],
    }
  },
  async run(call, viewer, { days }) {
    const { env, node } = call
    const nowAt = Date.now()
    const overlapS = Number(days) * 86_400
    const prepared = await prepareNextKey(env, { overlapS, by: viewer.sub, nowAt })
    const statements = [...node.statements, prepared.statement]
    const { keys } = await verifyStatements(node.nodeDid, statements)
    const [old, added] = keys.slice(-2)
    const endAt = old!.end! * 1000
    const late =
      endAt > nowAt
        ? `Install it before ${isoTime(endAt)}, when the old key ends.`
        : `The old key ended at ${isoTime(endAt)} by this statement: what the node signed since then will not verify once it is installed.`
    return {
      detail: `The statement of identity epoch ${prepared.epoch} (${added!.did}) is signed and waits to be installed.`,
      shown: {
        label: 'The statement',
        text: prepared.statement,
        notes: [
          late,
          'Self-hosted: scripts/vaultmesh keys rotate --statement <this>, then restart the node.',
          'Elsewhere: append it to ROTATION, separated by a space, and deploy again.',
          'Peers and receipts follow it by themselves; webhooks are signed by the new key from then on.',
        ],
      },
    }
  },
})

/** Every action by its name. */
export const actions: Readonly<Record<Action, ActionDefinition>> = {
  'quarantine-release': quarantineRelease,
  'dead-letters-replay': deadLettersReplay,
  'anchor-retry': anchorRetry,
  'anchor-release': anchorRelease,
  'session-revoke': sessionRevoke,
  'allowlist-change': allowlistChange,
  'identity-rotate': identityRotate,
  'token-create': tokenCreate,
  'token-revoke': tokenRevoke,
}

function unanswered(error: unknown): never {
  throw asVaultMeshError(error, 'storage-failed')
}
