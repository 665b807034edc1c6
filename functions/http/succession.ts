/**
 * A log that forked, and the one that follows it (design §7, "After a fork"): what the operator's process asks of the
 * two instances, and the moving of events from one to the other.
 *
 *   old   GET /admin/log       halted? settled?        GET /admin/evidence   the event that opens the successor
 *         GET /admin/unsealed  what its pools accepted and never sealed
 *   new   POST /admin/open     seals the evidence alone, as leaf 0; intake answers 503 before
 *         POST /admin/succeed  moves what is to be moved, a bounded part of it a call; the cron calls it, too
 *
 * Moved are the events that waited in the old pools, at once, and those of the histories that lost, once the law has
 * decided. An event is moved by posting its bytes: twice is once. What was done is remembered in R2
 * (`succession/state`), after it was done; losing that costs repeats and nothing else.
 */

import * as z from 'zod'
import { fromHex, fromUtf8, toHex, utf8 } from '#core/bytes.ts'
import { canonicalJson } from '#core/canonical-json.ts'
import { MAX_EVENT_BYTES, openEnvelope, type OpenEnvelope } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { parseIntakeRules } from '#core/intake-config.ts'
import { sha256 } from '#core/sha256.ts'
import type { Json } from '#core/strict-json.ts'
import { signEvidence } from '#core/succession.ts'
import { getBytes } from '#store/bucket.ts'
import { forgetMoved } from '#store/erasures.ts'
import { findEvent } from '#store/events.ts'
import type { Branches, BranchBatch } from '#store/federation-api.ts'
import { entriesKey, mirrorEventsKey } from '#store/mirror.ts'
import { nodeOf, type NodeContext } from '#store/node.ts'
import type { Head, Standing } from '#store/sequencer-api.ts'
import { operatorOnly } from './admin.ts'
import { admitAll, hashName } from './admission.ts'
import { readBody, trimEnd } from './body.ts'
import { hashParam } from './events.ts'
import { federated, federationOf } from './federation.ts'
import { signers } from './intake-rules.ts'
import { asVaultMeshError } from './problem.ts'
import { decimal, json, route, type Call } from './route.ts'

/** Bytes of events in one answer of /admin/unsealed. */
const PAGE_BYTES = 1_000_000
/** Pages and parts that one call moves: a request's time is bounded. */
const STEPS_PER_CALL = 16
/** Events admitted at once. */
const ADMIT_AT_ONCE = 500
const STATE_KEY = 'succession/state'

const done = { 200: { description: 'done', content: { 'application/json': z.looseObject({}) } } }

/** What GET /admin/log says. */
interface LogStanding extends Standing {
  readonly origin: string
  readonly number: number
  readonly vkey: string
  readonly shards: number
  /** Events that were received and wait for their check. */
  readonly unchecked: number
}

/** GET /admin/log: which log this is, and whether it was ended. */
export const getStanding = route({
  method: 'GET',
  path: '/admin/log',
  tag: 'admin',
  summary: 'Which log this is, and whether it was ended',
  internal: true,
  answers: done,
  async handle(call) {
    operatorOnly(call)
    const { env, node } = call
    const { origin, logNumber, intakeShards } = node.config
    const standing = await sequencer(env, (log) => log.standing())
    let unchecked = 0
    if (standing.halted !== null) {
      for (let shard = 0; shard < intakeShards; shard++)
        unchecked += await env.POOL.getByName(String(shard)).unchecked()
    }
    const { vkey } = node
    const shown: LogStanding = {
      origin,
      number: logNumber,
      vkey,
      shards: intakeShards,
      unchecked,
      ...standing,
    }
    return json(shown, 200, { 'cache-control': 'no-store' })
  },
})

/** GET /admin/evidence: the event that opens the successor of this log, if it has forked. */
export const getEvidence = route({
  method: 'GET',
  path: '/admin/evidence',
  tag: 'admin',
  summary: 'The evidence of this log’s fork, signed by the node',
  internal: true,
  answers: { 200: { description: 'an event', content: { 'application/jose': null } } },
  async handle(call) {
    operatorOnly(call)
    const { env, node } = call
    const { origin } = node.config
    const { conflicts } = await federated(federationOf(env).conflictsView())
    const first = conflicts
      .filter((conflict) => conflict.origin === origin)
      .toSorted((a, b) => a.height - b.height)[0]
    if (first === undefined) throw new VaultMeshError('not-found', 'No fork of this log is known.')
    const { height, winner } = first
    const candidates = first.candidates.map(({ root, treeSize, manifest, checkpoint }) => ({
      root,
      treeSize,
      manifest,
      checkpoint,
    }))
    const canonical = winner === null ? null : `sha256:${winner}`
    const evidence = { origin, height, candidates, canonical }
    const jws = await signEvidence(node.identity, evidence, Date.now())
    return new Response(jws, {
      headers: { 'content-type': 'application/jose', 'cache-control': 'no-store' },
    })
  },
})

/** POST /admin/open: seals the evidence as the first batch of a successor. A repeat changes nothing. */
export const postOpen = route({
  method: 'POST',
  path: '/admin/open',
  tag: 'admin',
  summary: 'Open a successor with the evidence of the fork before it',
  internal: true,
  answers: done,
  async handle(call) {
    operatorOnly(call)
    const { env, node } = call
    const bytes = trimEnd(await readBody(call.request, MAX_EVENT_BYTES + 2, 'event-too-large'))
    const eventHash = sha256(bytes)
    const expected = node.config.previousLogs.at(-1)?.evidence
    if (expected !== hashName(eventHash)) {
      throw new VaultMeshError(
        'bad-request',
        `This is not the evidence that PREVIOUS_LOGS names, which is ${expected ?? 'none'}.`,
      )
    }
    // Two would speak for one node. Then the peers are heard before anything is sealed: to them this log may be older.
    await ofPrevious(env, '/admin/retire', 'POST')
    const { yaml } = await ofPrevious<{ readonly yaml: string | null }>(env, '/admin/federation')
    if (yaml !== null) await federationOf(env).inherit(yaml)
    await inheritIntake(env)
    let head = await sequencer(env, (log) => log.head())
    if (head.height === 0) {
      // Alone, as intake takes nothing before it is sealed.
      await moved(env, node, [await openEnvelope(bytes, signers)])
      await sequencer(env, (log) => log.seal(true))
      head = await sequencer(env, (log) => log.head())
    }
    const found = await findEvent(env.DB, eventHash)
    if (found?.leafIndex !== 0) {
      throw new VaultMeshError(
        'bad-state',
        'The first leaf of this log is other evidence: it was opened before. Put logs.json and evidence/ of the home back from a backup.',
      )
    }
    return json({ origin: node.config.origin, evidence: expected, size: head.size })
  },
})

/** Origins of this isolate's logs that are known to be open. */
const opened = new WeakSet<object>()

/** Throws while a successor has not sealed its evidence: nothing comes before it. */
export async function checkOpened({ env, node }: Call): Promise<void> {
  if (node.config.logNumber === 1 || opened.has(env)) return
  const { height } = await sequencer(env, (log): Promise<Head> => log.head())
  if (height === 0) {
    throw new VaultMeshError('overloaded', `The log ${node.config.origin} is being opened.`)
  }
  opened.add(env)
}

/** GET /admin/unsealed?shard=&from=: events that wait in a pool of a log that was ended. */
export const getUnsealed = route({
  method: 'GET',
  path: '/admin/unsealed',
  tag: 'admin',
  summary: 'Accepted events that this log will not seal',
  internal: true,
  query: z.object({
    shard: decimal(0, 255),
    from: decimal(0).default(0),
    log: z.string().optional(),
  }),
  answers: done,
  async handle(call) {
    operatorOnly(call)
    const { env, query } = call
    const { halted, settled, cursors } = await sequencer(env, (log) => log.standing())
    if (halted === null || !settled)
      throw new VaultMeshError('overloaded', 'This log was not ended, or not yet.')
    const pool = env.POOL.getByName(String(query.shard))
    const cursor = cursors[query.shard]
    if (cursor === undefined)
      throw new VaultMeshError('not-found', `There is no shard ${query.shard}.`)
    const { nextSeq } = await pool.peek(cursor)
    const from = Math.max(query.from, cursor)
    if (from >= nextSeq) return json({ events: [], next: nextSeq, more: false })
    const { lengths, data } = await pool.read(from, nextSeq, PAGE_BYTES)
    const events: string[] = []
    let at = 0
    for (const length of lengths) {
      // Zeros of one that was erased after it was moved.
      if (data[at] !== 0) events.push(fromUtf8(data.subarray(at, at + length)))
      at += length
    }
    const next = from + lengths.length
    return json({ events, next, more: next < nextSeq })
  },
})

/** POST /admin/forget/{eventHash}?by=: an event of this ended log that its successor has erased. */
export const postForget = route({
  method: 'POST',
  path: '/admin/forget/{eventHash}',
  tag: 'admin',
  summary: 'Forget what the successor of this log has erased',
  internal: true,
  params: z.object({ eventHash: hashParam }),
  query: z.object({ by: hashParam, log: z.string().optional() }),
  answers: done,
  async handle(call) {
    operatorOnly(call)
    const { env, node, params, query } = call
    await forgetMoved(env, node, { eventHash: params.eventHash, erasedBy: query.by }).catch(
      (error: unknown) => {
        throw asVaultMeshError(error, 'storage-failed')
      },
    )
    return json({ forgotten: true })
  },
})

interface Unsealed {
  readonly events: readonly string[]
  readonly next: number
  readonly more: boolean
}

/** What was moved so far, by the number of the log it came from. */
interface State {
  readonly logs: Record<string, LogMoves>
}

interface LogMoves {
  /** By shard, up to where its pool was emptied. */
  shards: number[]
  /** True once all pools were. */
  emptied: boolean
  /** `<height>/<root>` of batches whose events were sealed again. */
  orphans: string[]
  /** Events that could not be moved, as another stands under their identity: `sha256:<hex>`, the last 100. */
  refused: string[]
}

/** GET /admin/succession: what was moved so far. */
export const getSuccession = route({
  method: 'GET',
  path: '/admin/succession',
  tag: 'admin',
  summary: 'What was moved from the logs before this one',
  internal: true,
  answers: done,
  async handle(call) {
    operatorOnly(call)
    return json((await readState(call.env)) ?? { logs: {} })
  },
})

/** POST /admin/succeed. */
export const postSucceed = route({
  method: 'POST',
  path: '/admin/succeed',
  tag: 'admin',
  summary: 'Move what the logs before this one left unsealed',
  internal: true,
  answers: done,
  async handle(call) {
    operatorOnly(call)
    return json(await succeed(call.env))
  },
})

/** What a call of `succeed` did. */
export interface SuccessionReport {
  readonly moved: number
  /** Why it is not done yet, one sentence each. */
  readonly waiting: readonly string[]
}

/** Moves what there is to move from the logs before this one, at most STEPS_PER_CALL pages of it. */
export async function succeed(env: Env): Promise<SuccessionReport> {
  const node = await nodeOf(env)
  const { previousLogs } = node.config
  const waiting: string[] = []
  let count = 0
  if (previousLogs.length === 0) return { moved: 0, waiting }
  if ((await sequencer(env, (log) => log.head())).height === 0) {
    return { moved: 0, waiting: [`${node.config.origin} is not open yet.`] }
  }
  const budget = { steps: STEPS_PER_CALL }
  const state = (await readState(env)) ?? (await inherited(env, previousLogs.length))
  for (const [i, { origin }] of previousLogs.entries()) {
    const number = i + 1
    const moves = (state.logs[number] ??= { shards: [], emptied: false, orphans: [], refused: [] })
    const move = async (events: readonly OpenEnvelope[]): Promise<void> => {
      const refused = await moved(env, node, events)
      count += events.length - refused.length
      moves.refused = [...moves.refused, ...refused].slice(-100)
    }
    const save = (): Promise<unknown> => env.BUCKET.put(STATE_KEY, JSON.stringify(state))
    if (!moves.emptied) {
      const why = await emptyPools(env, { number, moves, budget, move, save })
      if (why !== null) waiting.push(`${origin}: ${why}.`)
    }
    const branches = await federationOf(env).branchesOf(origin)
    if (branches === null || !branches.decided) {
      waiting.push(`${origin}: its fork is not decided, so nothing is orphaned yet.`)
      continue
    }
    for (const batch of branches.orphaned) {
      const name = `${batch.height}/${batch.root}`
      if (moves.orphans.includes(name)) continue
      if (budget.steps <= 0) {
        waiting.push(`${origin}: batch ${batch.height} is not sealed again yet.`)
        break
      }
      await resealed(env, { origin, batch, branches, budget, move })
      moves.orphans.push(name)
      await save()
    }
  }
  return { moved: count, waiting }
}

/** Moves what waits in the pools of an ended log; why there is more to do, or null. */
async function emptyPools(
  env: Env,
  {
    number,
    moves,
    budget,
    move,
    save,
  }: {
    readonly number: number
    readonly moves: LogMoves
    readonly budget: { steps: number }
    readonly move: (events: readonly OpenEnvelope[]) => Promise<void>
    readonly save: () => Promise<unknown>
  },
): Promise<string | null> {
  const standing = await ofPrevious<LogStanding>(env, `/admin/log?log=${number}`)
  if (!standing.settled) return 'it is not ended yet'
  for (let shard = 0; shard < standing.shards; shard++) {
    for (;;) {
      if (budget.steps-- <= 0) return 'there is more to move'
      const from = moves.shards[shard] ?? 0
      const path = `/admin/unsealed?log=${number}&shard=${shard}&from=${from}`
      const { events, next, more } = await ofPrevious<Unsealed>(env, path)
      const open: OpenEnvelope[] = []
      for (const event of events) open.push(await openEnvelope(utf8(event), signers))
      await move(open)
      moves.shards[shard] = next
      if (events.length > 0) await save()
      if (!more) break
    }
  }
  // Counted before the pools were read: what was checked since is in them the next time.
  if (standing.unchecked > 0) return 'some of its events wait for their check'
  moves.emptied = true
  await save()
  return null
}

/** Posts the events of a batch that lost, but for those that the canonical history has, too. */
async function resealed(
  env: Env,
  {
    origin,
    batch,
    branches,
    budget,
    move,
  }: {
    readonly origin: string
    readonly batch: BranchBatch
    readonly branches: Branches
    readonly budget: { steps: number }
    readonly move: (events: readonly OpenEnvelope[]) => Promise<void>
  },
): Promise<void> {
  const { height, batchRoot, count } = batch
  for (let part = 0, seen = 0; seen < count; part++) {
    budget.steps--
    const bytes = await getBytes(env.BUCKET, mirrorEventsKey(origin, { height, batchRoot, part }))
    if (bytes === null) {
      throw new VaultMeshError(
        'bad-state',
        `R2 lacks what was mirrored of batch ${height} of ${origin}.`,
      )
    }
    const lines = linesOf(bytes)
    seen += lines.length
    const events = new Map<string, OpenEnvelope>()
    for (const line of lines) {
      // An erased event stays erased.
      if (line[0] === 0x7b) continue
      const open = await openEnvelope(line, signers)
      events.set(toHex(open.eventHash), open)
    }
    for (const hash of await canonicalEntries(env, origin, branches.canonical, events)) {
      events.delete(hash)
    }
    await move([...events.values()])
  }
}

/** Those of `events` that the canonical history holds; its entries are read part by part. */
async function canonicalEntries(
  env: Env,
  origin: string,
  canonical: readonly BranchBatch[],
  events: ReadonlyMap<string, unknown>,
): Promise<readonly string[]> {
  const found: string[] = []
  for (const { height, batchRoot, count } of canonical) {
    for (let part = 0, seen = 0; seen < count; part++) {
      const packed = await getBytes(env.BUCKET, entriesKey(origin, { height, batchRoot, part }))
      if (packed === null) {
        throw new VaultMeshError(
          'bad-state',
          `R2 lacks the entries of batch ${height} of ${origin}.`,
        )
      }
      seen += packed.length / 32
      for (let at = 0; at < packed.length; at += 32) {
        const hash = toHex(packed.subarray(at, at + 32))
        if (events.has(hash)) found.push(hash)
      }
    }
  }
  return found
}

/** Admits events of a log before this one; the names of those that another event keeps out. */
async function moved(
  env: Env,
  node: NodeContext,
  events: readonly OpenEnvelope[],
): Promise<readonly string[]> {
  const refused: string[] = []
  for (let i = 0; i < events.length; i += ADMIT_AT_ONCE) {
    const some = events.slice(i, i + ADMIT_AT_ONCE)
    for (const [j, admission] of (await admitAll(env, node, some)).entries()) {
      if (admission instanceof VaultMeshError) throw admission
      const name = hashName(some[j]!.eventHash)
      if (admission.state !== 'conflict') continue
      refused.push(name)
      console.error(
        JSON.stringify({ level: 'warn', msg: 'event not moved: its id was reused', event: name }),
      )
    }
  }
  return refused
}

function linesOf(bytes: Uint8Array): Uint8Array[] {
  const lines: Uint8Array[] = []
  for (let from = 0; from < bytes.length;) {
    const newline = bytes.indexOf(0x0a, from)
    const end = newline < 0 ? bytes.length : newline
    lines.push(bytes.subarray(from, end))
    from = end + 1
  }
  return lines
}

async function readState(env: Env): Promise<State | null> {
  const bytes = await getBytes(env.BUCKET, STATE_KEY)
  return bytes === null ? null : (JSON.parse(fromUtf8(bytes)) as State)
}

/** What the log before this one had moved when it forked itself. */
async function inherited(env: Env, before: number): Promise<State> {
  return before === 1 ? { logs: {} } : ofPrevious<State>(env, '/admin/succession')
}

/** Who may post, and what is pinned, holds for the log that follows too; what was applied here stands. */
async function inheritIntake(env: Env): Promise<void> {
  const { rules } = await ofPrevious<{ readonly rules: Json | null }>(env, '/admin/intake')
  if (rules === null) return
  const text = canonicalJson(rules)
  const { sha256: hash } = parseIntakeRules(text)
  await sequencer(env, (log) => log.applyIntake({ sha256: hash!, text }, null))
}

/** Asks the instance before this one, as the operator. */
async function ofPrevious<T>(env: Env, path: string, method = 'GET'): Promise<T> {
  const { PREVIOUS, ADMIN_TOKEN } = env
  if (PREVIOUS === undefined || ADMIN_TOKEN === undefined) {
    throw new VaultMeshError(
      'bad-config',
      'PREVIOUS: a successor needs this binding, and the ADMIN_TOKEN of the log before it.',
      { extra: { key: 'PREVIOUS' } },
    )
  }
  const response = await PREVIOUS.fetch(`http://previous${path}`, {
    method,
    headers: { authorization: `Bearer ${ADMIN_TOKEN}` },
  })
  if (response.status === 200) return (await response.json()) as T
  const problem = (await response.json().catch(() => ({}))) as { readonly detail?: string }
  throw new VaultMeshError(
    'overloaded',
    problem.detail ?? `The log before answered ${response.status}.`,
  )
}

type SequencerStub = ReturnType<Env['SEQUENCER']['getByName']>

function sequencer<T>(env: Env, ask: (log: SequencerStub) => Promise<T>): Promise<T> {
  return ask(env.SEQUENCER.getByName('log')).catch((error: unknown) => {
    throw asVaultMeshError(error, 'storage-failed')
  })
}

const OF_EVENT = /^\/log\/[1-9]\d?\/(?:receipts|events)\/(?:sha256:)?([0-9a-fA-F]{64})(\/status)?$/

/** Adds to what an older log says of an event where its successor sealed it again. */
export async function linkSuccessor(answer: Response, url: URL, env: Env): Promise<Response> {
  const [, digits, isStatus] = OF_EVENT.exec(url.pathname) ?? []
  if (digits === undefined || answer.status !== 200) return answer
  const eventHash = fromHex(digits)
  if ((await findEvent(env.DB, eventHash)) === null) return answer
  const link = `/log/${env.LOG_NUMBER}/receipts/${hashName(eventHash)}`
  answer.headers.append('link', `<${link}>; rel="successor-version"`)
  if (isStatus === undefined) return answer
  const status: { links?: Record<string, string> } = await answer.json()
  const linked = { ...status, links: { ...status.links, successor: link } }
  return json(linked, 200, Object.fromEntries(answer.headers))
}
