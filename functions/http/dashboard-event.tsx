/**
 * What the page of an event needs, read at once: the index, its bytes, its proof, its anchors, its claim.
 */

import { isDevNetwork, type AnchorReceipt, type Chain } from '#core/anchor-receipt.ts'
import { fromBase64Url, fromUtf8, toHex, type Hash } from '#core/bytes.ts'
import { parseDid } from '#core/did.ts'
import { codes, VaultMeshError, type Code } from '#core/errors.ts'
import { inclusionLevels } from '#core/inclusion-proof.ts'
import { leafHash } from '#core/merkle.ts'
import { parseTime } from '#core/time.ts'
import { anchorsOfLeaf, type LeafAnchors } from '#store/anchor-receipts.ts'
import { eventsOfLeaves, readAll } from '#store/dashboard.ts'
import { identityOf, shardOf } from '#store/event-identity.ts'
import { eraserOfLeaf, eventBytes, type IndexedEvent } from '#store/events.ts'
import { proveInclusion } from '#store/log.ts'
import { statusOf } from '#store/receipts.ts'
import { indentJson } from '../dashboard/json-text.ts'
import { visibleLines } from '../dashboard/text.tsx'
import {
  EarlierEvent,
  Event,
  WaitingEvent,
  type EventAnchor,
  type SaidEvent,
} from '../dashboard/event.tsx'
import { hashName } from './admission.ts'
import { locate } from './events.ts'
import type { Markup } from './html.ts'
import { fromPrevious } from './logs.ts'
import type { Call } from './route.ts'

/** The content of an event's page; throws `not-found`. */
export async function eventContent(
  call: Call<unknown, unknown>,
  eventHash: Hash,
  nowAt: number,
): Promise<Markup> {
  const hash = hashName(eventHash)
  const { indexed, waiting } = await locate(call, eventHash, (pool) => pool.status(eventHash))
  if (indexed === null && waiting === null) {
    const { origin } = call.url
    const earlier = await fromPrevious({
      request: new Request(`${origin}/events/${hash}/status`),
      env: call.env,
    })
    if (earlier?.ok !== true)
      throw new VaultMeshError('not-found', 'This node knows no event with this hash.')
    const { status } = (await earlier.json()) as { readonly status: string }
    return <EarlierEvent hash={hash} state={status} />
  }
  if (indexed === null) {
    const { code, detail } = waiting!
    const problem = code === null ? null : { ...codes[code as Code], detail: detail ?? '' }
    return <WaitingEvent hash={hash} status={waiting!} problem={problem} nowAt={nowAt} />
  }
  const { env, node } = call
  const { leafIndex, batch } = indexed
  const { treeSize } = batch
  const [bytes, proof, anchors, { beside }, acceptedAt] = await Promise.all([
    eventBytes(env, indexed).catch(missing),
    proveInclusion(env.BUCKET, { index: leafIndex, size: treeSize, published: treeSize }),
    anchorsOfLeaf(env.DB, leafIndex),
    readAll(env.DB, {
      beside: eventsOfLeaves({ from: Math.max(0, leafIndex - 1), to: leafIndex + 2, limit: 3 }),
    }),
    acceptance(call, indexed, eventHash),
  ])
  const leaf = leafHash(eventHash)
  const { rails, origin } = node.config
  return (
    <Event
      nowAt={nowAt}
      receipt={{
        eventHash: hash,
        eventId: indexed.eventId,
        source: indexed.source,
        status: statusOf(rails, anchors.verified),
        origin,
        height: indexed.height,
        leafIndex,
        treeSize,
        root: `sha256:${batch.root}`,
      }}
      said={bytes === null ? null : readSaid(bytes)}
      erasedBy={indexed.isErased ? await eraserName(env, indexed) : undefined}
      acceptedAt={acceptedAt}
      sealedAt={batch.sealedAt}
      {...reachedAt(rails, anchors.verified)}
      anchors={anchorLines(anchors)}
      rails={rails}
      leafHash={toHex(leaf)}
      levels={inclusionLevels({ index: leafIndex, size: treeSize, leafHash: leaf, proof })}
      before={beside.find((hit) => hit.leafIndex === leafIndex - 1)?.eventHash ?? null}
      after={beside.find((hit) => hit.leafIndex === leafIndex + 1)?.eventHash ?? null}
    />
  )
}

/** Bytes that R2 lacks, or that were erased, are said on the page; a store that does not answer is thrown. */
function missing(error: unknown): null {
  if (error instanceof VaultMeshError && /^(?:bad-state|erased)$/.test(error.code)) return null
  throw error
}

/** Which event took the bytes, `sha256:<hex>`; null where that is not known. */
async function eraserName(env: Env, indexed: IndexedEvent): Promise<string | null> {
  const eraser = await eraserOfLeaf(env, indexed)
  return eraser === null ? null : hashName(eraser)
}

/** When its pool accepted it, as the claim of its identity has it; null if that is not to be had. */
async function acceptance(
  { env, node }: Call<unknown, unknown>,
  { source, eventId }: IndexedEvent,
  eventHash: Hash,
): Promise<number | null> {
  try {
    const identity = identityOf(node, parseDid(source).canonical, eventId)
    const pool = env.POOL.getByName(String(shardOf(identity, node.config.intakeShards)))
    const claim = await pool.claimed(identity)
    return claim !== null && toHex(claim.eventHash) === toHex(eventHash) ? claim.receivedAt : null
  } catch {
    // A time beside a proof: the page stands without it.
    return null
  }
}

/** When the first anchor was verified here, and when every rail had one. */
function reachedAt(
  rails: readonly string[],
  verified: readonly AnchorReceipt[],
): { readonly anchoredAt: number | null; readonly finalAt: number | null } {
  const times = (chain?: string): number[] =>
    verified
      .filter((anchor) => chain === undefined || anchor.chain === chain)
      .map(({ observedAt }) => Date.parse(observedAt))
  if (verified.length === 0) return { anchoredAt: null, finalAt: null }
  const isFinal = statusOf(rails, verified) === 'final'
  return {
    anchoredAt: Math.min(...times()),
    finalAt: isFinal ? Math.max(...rails.map((rail) => Math.min(...times(rail)))) : null,
  }
}

/** Anchors as pages list them. */
export function anchorLines({ verified, pending }: LeafAnchors): EventAnchor[] {
  return [
    ...verified.map((anchor) => ({
      chain: anchor.chain,
      network: anchor.network,
      dev: isDevNetwork(anchor.chain, anchor.network),
      status: 'verified',
      txHash: anchor.txHash,
      anchoredAt: Date.parse(anchor.anchorTs),
      treeSize: anchor.treeSize,
      reason: null,
    })),
    ...pending.map((anchor) => {
      const { chain, network, status, txHash, anchorTs, treeSize, reason } = anchor as Record<
        string,
        unknown
      >
      return {
        chain: String(chain),
        network: String(network),
        dev: isDevNetwork(chain as Chain, String(network)),
        status: String(status),
        txHash: typeof txHash === 'string' ? txHash : null,
        anchoredAt: typeof anchorTs === 'string' ? Date.parse(anchorTs) : null,
        treeSize: Number(treeSize),
        reason: typeof reason === 'string' ? reason : null,
      }
    }),
  ]
}

/**
 * What the bytes of a sealed event say. They were judged when they were admitted; here they are only read, and what
 * cannot be read is null.
 */
function readSaid(bytes: Uint8Array): SaidEvent {
  const [header = '', payload = ''] = fromUtf8(bytes).split('.')
  const head = objectOf(header)
  const body = objectOf(payload)
  const text = (value: unknown): string | null => (typeof value === 'string' ? value : null)
  return {
    payload: body === null ? null : visibleLines(indentJson(fromUtf8(fromBase64Url(payload)))),
    header: { alg: text(head?.['alg']) ?? '?', kid: text(head?.['kid']) ?? '?' },
    type: text(body?.['type']) ?? '?',
    subject: text(body?.['subject']),
    timeAt: parseTime(text(body?.['time']) ?? ''),
    length: bytes.length,
  }
}

function objectOf(part: string): Readonly<Record<string, unknown>> | null {
  try {
    const value: unknown = JSON.parse(fromUtf8(fromBase64Url(part)))
    return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : null
  } catch {
    return null
  }
}
