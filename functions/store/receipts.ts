/**
 * Receipts, put together from the index, the tiles and the anchors.
 */

import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { toHex } from '#core/bytes.ts'
import type { ListedAnchor, Receipt } from '#core/receipt.ts'
import { anchorsOfLeaf } from '#store/anchor-receipts.ts'
import type { IndexedEvent } from '#store/events.ts'
import { proveConsistency, proveInclusion } from '#store/log.ts'
import type { NodeContext } from '#store/node.ts'

/** The status of a leaf from its verified anchors: anchored by one, final by one on every rail. */
export function statusOf(
  rails: readonly string[],
  anchors: readonly { chain: string }[],
): Receipt['status'] {
  if (anchors.length === 0) return 'sealed'
  const chains = new Set(anchors.map((a) => a.chain))
  return rails.length > 0 && rails.every((rail) => chains.has(rail)) ? 'final' : 'anchored'
}

/** The receipt of an indexed event. Throws `bad-state` if the log lacks what the index promises. */
export async function buildReceipt(
  env: Env,
  node: NodeContext,
  event: {
    readonly eventHash: Uint8Array
    readonly at: IndexedEvent
    readonly eventId: string
    readonly source: string
  },
): Promise<Receipt> {
  const { at } = event
  const { batch } = at
  const [inclusion, { verified, pending }] = await Promise.all([
    proveInclusion(env.BUCKET, {
      index: at.leafIndex,
      size: batch.treeSize,
      published: batch.treeSize,
    }),
    anchorsOfLeaf(env.DB, at.leafIndex),
  ])
  return {
    v: 1,
    eventHash: `sha256:${toHex(event.eventHash)}`,
    eventId: event.eventId,
    source: event.source,
    status: statusOf(node.config.rails, verified),
    origin: node.config.origin,
    height: at.height,
    leafIndex: at.leafIndex,
    treeSize: batch.treeSize,
    root: `sha256:${batch.root}`,
    inclusionProof: inclusion.map(toHex),
    checkpoint: batch.checkpoint,
    anchors: [
      ...(await Promise.all(verified.map((a) => listed(env, a, batch.treeSize)))),
      ...pending,
    ],
  }
}

/** A verified anchor with the consistency proof from `from` to its own tree, if that is larger. */
async function listed(env: Env, anchor: AnchorReceipt, from: number): Promise<ListedAnchor> {
  if (anchor.treeSize === from) return anchor
  const hashes = await proveConsistency(env.BUCKET, {
    from,
    to: anchor.treeSize,
    published: anchor.treeSize,
  })
  return { ...anchor, consistencyProof: { from, to: anchor.treeSize, hashes: hashes.map(toHex) } }
}
