/**
 * A batch of this node's own log that a peer remembers and this node does not: it comes from an old backup
 * (design §7). The Federation has mirrored it and recomputed it from its events; here it is taken back.
 *
 * Its events were accepted before they were sealed, so their identities are claimed again in the pools, and
 * those that still wait there (the backup was older than their seal) are passed over by the next seal: an
 * event is sealed once.
 */

import { toHex, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { EVENT_TYP, openEnvelope } from '#core/envelope.ts'
import { eraserOf, isTombstone, linesOf, parseTombstone } from '#core/erasure.ts'
import { HASH_BYTES, leafHashes } from '#core/merkle.ts'
import { appendPeaks, noPeaks, rootOfPeaks } from '#core/peaks.ts'
import { sha256 } from '#core/sha256.ts'
import { Signers } from '#core/signer.ts'
import { getBytes } from '#store/bucket.ts'
import { identityOf, shardOf } from '#store/event-identity.ts'
import { entriesKey, mirrorEventsKey } from '#store/mirror.ts'
import type { NodeContext } from '#store/node.ts'
import type { BatchPart } from './batch-writer.ts'

/** Events handed to a pool at once: as many as intake does (http/admission.ts). */
const GROUP_EVENTS = 1000

/** Which batch of the own log to take back; the Federation has verified it. */
export interface AdoptedBatch {
  readonly height: number
  /** 64 hex digits. */
  readonly root: string
  readonly batchRoot: string
  readonly firstIndex: number
  readonly count: number
  readonly treeSize: number
  readonly sealedAt: number
  readonly manifest: string
  readonly checkpoint: string
}

/** Its parts, as they were mirrored. */
export async function* mirroredParts(
  env: Env,
  origin: string,
  { height, batchRoot, count }: AdoptedBatch,
): AsyncGenerator<BatchPart> {
  for (let part = 0, seen = 0; seen < count; part++) {
    const body = await getBytes(env.BUCKET, mirrorEventsKey(origin, { height, batchRoot, part }))
    const eventHashes = await getBytes(env.BUCKET, entriesKey(origin, { height, batchRoot, part }))
    if (body === null || eventHashes === null) {
      throw new VaultMeshError(
        'bad-state',
        `R2 lacks part ${part} of the mirrored batch ${height}.`,
      )
    }
    seen += eventHashes.length / 32
    // Mirrored lines may lack the last newline.
    yield { body: body.at(-1) === 0x0a ? body : withNewline(body), eventHashes }
  }
}

function withNewline(body: Uint8Array): Uint8Array {
  const out = new Uint8Array(body.length + 1)
  out.set(body)
  out[body.length] = 0x0a
  return out
}

/** Throws `bad-state` unless the mirrored entries are those of the signed batch: nothing of it was written yet. */
export async function checkMirrored(env: Env, origin: string, batch: AdoptedBatch): Promise<void> {
  let own = noPeaks
  for await (const { body, eventHashes } of mirroredParts(env, origin, batch)) {
    const entries = splitHashes(eventHashes)
    own = appendPeaks(own, leafHashes(entries))
    if (body.length === 0) throw new VaultMeshError('bad-state', 'A mirrored part is empty.')
  }
  if (own.size === batch.count && toHex(rootOfPeaks(own)) === batch.batchRoot) return
  throw new VaultMeshError('bad-state', `What was mirrored of batch ${batch.height} is not it.`)
}

function splitHashes(packed: Uint8Array): Uint8Array[] {
  return Array.from({ length: packed.length / HASH_BYTES }, (_, i) =>
    packed.slice(i * HASH_BYTES, (i + 1) * HASH_BYTES),
  )
}

/** Claims the identities of a part's events; the sequence numbers they have now, by shard. */
export async function claimAgain(
  env: Env,
  node: NodeContext,
  body: Uint8Array,
): Promise<ReadonlyMap<number, readonly number[]>> {
  const signers = new Signers(EVENT_TYP)
  const groups = new Map<number, { events: Uint8Array[]; digests: Uint8Array[] }>()
  const found = new Map<number, number[]>()
  for (const { line } of linesOf(body)) {
    const claim = isTombstone(line)
      ? await claimOfErased(env, node, line, found)
      : await openEnvelope(line.slice(), signers)
    if (claim === null) continue
    const { bytes, signingHash, eventHash } = claim
    const identity =
      'signer' in claim ? identityOf(node, claim.signer.canonical, claim.event.id) : claim.identity
    const shard = shardOf(identity, node.config.intakeShards)
    let group = groups.get(shard)
    if (group === undefined) groups.set(shard, (group = { events: [], digests: [] }))
    group.events.push(bytes)
    group.digests.push(identity, signingHash, eventHash)
  }
  for (const [shard, { events, digests }] of groups) {
    const pool = env.POOL.getByName(String(shard))
    const all: number[] = []
    for (let at = 0; at < events.length; at += GROUP_EVENTS) {
      const some = events.slice(at, at + GROUP_EVENTS)
      const seqs = await pool.adopt(shard, {
        lengths: Uint32Array.from(some, (event) => event.length),
        data: joined(some),
        digests: joined(digests.slice(at * 3, (at + GROUP_EVENTS) * 3)),
      })
      all.push(...seqs)
    }
    found.set(shard, [...(found.get(shard) ?? []), ...all])
  }
  return found
}

/**
 * Of an erased event the shards learn by its hash that it is gone. One that still waits in a shard (the backup is older
 * than its seal) is passed over and needs no claim: null. Else its claim is lost with its identity, and a stand-in takes
 * its place in the count: the same bytes are refused for good, other content under its id is not.
 */
async function claimOfErased(
  env: Env,
  node: NodeContext,
  line: Uint8Array,
  found: Map<number, number[]>,
) {
  const stone = parseTombstone(line)
  const { eventHash } = stone
  let isWaiting = false
  for (let shard = 0; shard < node.config.intakeShards; shard++) {
    const what = { eventHash, identity: null, erasedBy: eraserOf(stone) }
    const seq = await env.POOL.getByName(String(shard)).erase(what)
    if (seq === null) continue
    found.set(shard, [...(found.get(shard) ?? []), seq])
    isWaiting = true
  }
  if (isWaiting) return null
  const identity = sha256(utf8(`erased ${toHex(eventHash)}`))
  return { bytes: line.slice(), signingHash: new Uint8Array(HASH_BYTES), eventHash, identity }
}

function joined(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((size, part) => size + part.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}
