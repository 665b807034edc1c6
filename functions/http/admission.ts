/**
 * Admission: verified events on their way into Pool shards, gathered in groups.
 *
 * One RPC and one commit for a group is what makes a single POST cheap: alone, each would pay ≈ 80 µs for
 * the call and ≈ 300 µs for the fsync (measured). Requests of one isolate share a group for four milliseconds.
 * Rules of the platform that shape this: the flush lives in its leader's waitUntil, and every follower holds
 * a timer of its own, or the runtime takes it for hung and cancels it.
 */

import { toHex, type Hash } from '#core/bytes.ts'
import type { OpenEnvelope } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { identityOf, shardOf } from '#store/event-identity.ts'
import type { NodeContext } from '#store/node.ts'
import { outcome, type AdmitGroup, type AdmitResult } from '#store/pool-api.ts'

/** How long a group gathers: at 64 connections ≈ 25 events share a commit (measured); alone, an event waits 4 ms. */
const GATHER_MS = 4
/** A group this old has lost its leader (the runtime ended that request): nobody may join it. */
const STALE_MS = 1000
/** Time for a group to become durable; after it the caller is told to try again. */
const ADMIT_TIMEOUT_MS = 10_000
/** Requests of one group: their ids are one line of the audit, of 40 kB at most. */
const GROUP_EVENTS = 1000
/** Bytes of one RPC: 8 MiB is the largest bulk and well below the RPC limit of 32 MiB. */
const GROUP_BYTES = 8_388_608

/** What became of one event. */
export interface Admission {
  readonly state: keyof typeof outcome
  /** Of the first event under this identity; if that was erased, of the event that erased it. */
  readonly eventHash: Hash
  readonly receivedAt: number
  /** Where to wait for its seal: every event of the shard up to `seq`. */
  readonly shard: number
  readonly seq: number
}

interface Entry {
  readonly bytes: Uint8Array
  readonly digests: readonly [identity: Hash, signing: Hash, event: Hash]
  /** Left out where one request brings the whole group. */
  readonly requestId?: string
  readonly resolve: (admission: Admission) => void
  readonly reject: (error: unknown) => void
}

interface Gathering {
  readonly openedAt: number
  readonly entries: Entry[]
  bytes: number
}

/** The group that gathers, by shard. One set per isolate. */
const gathering = new Map<number, Gathering>()

/** An event on its way: its moment is known at once, what became of it once it is durable. */
export interface Joined {
  /** The moment of its group, unless it turns out to be a repeat. */
  readonly receivedAt: number
  readonly admission: Promise<Admission>
}

/** Lets one verified event join whatever else is on its way. */
export function admit(
  env: Env,
  ctx: Pick<ExecutionContext, 'waitUntil'>,
  node: NodeContext,
  open: OpenEnvelope,
  requestId: string,
): Joined {
  const identity = identityOf(node, open.signer.canonical, open.event.id)
  const shard = shardOf(identity, node.config.intakeShards)
  const { promise, resolve, reject } = Promise.withResolvers<Admission>()
  const entry: Entry = {
    bytes: open.bytes,
    digests: [identity, open.signingHash, open.eventHash],
    requestId,
    resolve,
    reject,
  }
  let group = gathering.get(shard)
  const nowAt = Date.now()
  if (
    group === undefined ||
    group.entries.length >= GROUP_EVENTS ||
    group.bytes >= GROUP_BYTES ||
    nowAt - group.openedAt > STALE_MS
  ) {
    // The first of a group leads it: one waitUntil holds one call, so no request carries others for ever.
    group = { openedAt: nowAt, entries: [], bytes: 0 }
    gathering.set(shard, group)
    ctx.waitUntil(lead(env, shard, group))
  }
  group.entries.push(entry)
  group.bytes += open.bytes.length
  return { receivedAt: group.openedAt, admission: withTimeout(promise) }
}

/**
 * Admits many verified events of one request as groups of their own; results in order. A shard that fails fails its own
 * events only, and they may be stored all the same: posting them again is harmless.
 */
export async function admitAll(
  env: Env,
  node: NodeContext,
  events: readonly OpenEnvelope[],
  requestId?: string,
): Promise<(Admission | VaultMeshError)[]> {
  const results = Array.from<Admission | VaultMeshError>({ length: events.length })
  const shards = new Map<number, Gathering>()
  for (const [i, open] of events.entries()) {
    const identity = identityOf(node, open.signer.canonical, open.event.id)
    const shard = shardOf(identity, node.config.intakeShards)
    let mine = shards.get(shard)
    if (mine === undefined)
      shards.set(shard, (mine = { openedAt: Date.now(), entries: [], bytes: 0 }))
    mine.entries.push({
      bytes: open.bytes,
      digests: [identity, open.signingHash, open.eventHash],
      resolve: (admission) => (results[i] = admission),
      reject: (error) => (results[i] = error as VaultMeshError),
    })
    mine.bytes += open.bytes.length
  }
  await Promise.all(
    [...shards].map(([shard, group]) =>
      send(env, shard, group, requestId === undefined ? [] : [requestId]).catch(
        (error: unknown) => {
          for (const entry of group.entries) entry.reject(error)
        },
      ),
    ),
  )
  return results
}

/** Lets the group gather, then closes and sends it; calls overlap, so a slow commit delays only its own. */
async function lead(env: Env, shard: number, group: Gathering): Promise<void> {
  await scheduler.wait(GATHER_MS)
  if (gathering.get(shard) === group) gathering.delete(shard)
  const requests = group.entries.map((entry) => entry.requestId!)
  await send(env, shard, group, requests).catch((error: unknown) => {
    for (const entry of group.entries) entry.reject(error)
  })
}

async function send(
  env: Env,
  shard: number,
  group: Gathering,
  requests: readonly string[],
): Promise<void> {
  const packed = pack(group.entries)
  let result: AdmitResult
  try {
    result = await env.POOL.getByName(String(shard)).admit(shard, packed, group.openedAt, requests)
  } catch (error) {
    throw poolError(error)
  }
  for (const [i, entry] of group.entries.entries()) {
    const first = result.repeats?.first.get(i)
    const which = result.repeats?.outcomes[i] ?? outcome.accepted
    entry.resolve({
      state: OUTCOMES[which]!,
      eventHash: first?.eventHash ?? entry.digests[2],
      receivedAt: first?.receivedAt ?? result.receivedAt,
      shard,
      seq: result.lastSeq,
    })
  }
}

/** Names of outcomes, by number. */
const OUTCOMES = Object.keys(outcome) as readonly (keyof typeof outcome)[]

/** A failed call may have stored everything: the caller must ask again, and a repeat is harmless. */
export function poolError(error: unknown): VaultMeshError {
  if (
    error instanceof Error &&
    'code' in error &&
    (error.code === 'overloaded' ||
      error.code === 'bad-config' ||
      error.code === 'log-forked' ||
      error.code === 'erased')
  ) {
    return new VaultMeshError(error.code, error.message, { cause: error })
  }
  return new VaultMeshError(
    'storage-failed',
    'The event store did not answer; the event may or may not be kept.',
    {
      cause: error,
    },
  )
}

/** Entries as the flat buffers that cross the wire. */
export function pack(entries: readonly Pick<Entry, 'bytes' | 'digests'>[]): AdmitGroup {
  let size = 0
  for (const entry of entries) size += entry.bytes.length
  const data = new Uint8Array(size)
  const lengths = new Uint32Array(entries.length)
  const digests = new Uint8Array(entries.length * 96)
  let at = 0
  for (const [i, entry] of entries.entries()) {
    data.set(entry.bytes, at)
    lengths[i] = entry.bytes.length
    at += entry.bytes.length
    for (const [j, digest] of entry.digests.entries()) digests.set(digest, i * 96 + j * 32)
  }
  return { lengths, data, digests }
}

async function withTimeout(promise: Promise<Admission>): Promise<Admission> {
  const { promise: late, reject } = Promise.withResolvers<never>()
  const timer = setTimeout(
    () => reject(new VaultMeshError('storage-failed', 'The event store did not answer in time.')),
    ADMIT_TIMEOUT_MS,
  )
  try {
    return await Promise.race([promise, late])
  } finally {
    clearTimeout(timer)
  }
}

/** A hash as it stands in paths and answers. */
export function hashName(hash: Uint8Array): string {
  return `sha256:${toHex(hash)}`
}
