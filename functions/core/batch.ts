/**
 * A batch: what one seal appends, when it is due, and the manifest that describes it.
 *
 * Height h = 1, 2, 3 …; the leaves are `[firstIndex, firstIndex + count)` of the log. Seals are due
 * at `maxItems` waiting events or `maxIntervalMs` after the oldest, whichever is first; a client that
 * waits makes one due `eagerMs` after it asked. Never an empty batch.
 */

import { toHex, type Hash } from '#core/bytes.ts'
import { signJws, type IdentityKey } from '#core/node-keys.ts'
import { isoTime } from '#core/time.ts'

/** `typ` of a manifest. */
export const MANIFEST_TYP = 'vm-batch+jws'

/** The limits that make a seal due. */
export interface SealPolicy {
  readonly maxItems: number
  readonly maxIntervalMs: number
}

/** What waits to be sealed. */
export interface Waiting {
  readonly count: number
  /** Epoch ms at which the oldest of them became durable; null when none waits. */
  readonly oldestAt: number | null
  /** Epoch ms at which a waiting client wants its seal; null when none does. */
  readonly eagerAt: number | null
}

/**
 * Epoch ms at which the next seal is due: 0 for "at once", null for "nothing waits".
 */
export function sealDueAt(waiting: Waiting, policy: SealPolicy): number | null {
  if (waiting.count === 0 || waiting.oldestAt === null) return null
  if (waiting.count >= policy.maxItems) return 0
  const byAge = waiting.oldestAt + policy.maxIntervalMs
  return waiting.eagerAt === null ? byAge : Math.min(byAge, waiting.eagerAt)
}

/** The facts of a sealed batch. */
export interface Batch {
  readonly origin: string
  readonly height: number
  readonly firstIndex: number
  readonly count: number
  /** Size of the log after the batch: firstIndex + count. */
  readonly treeSize: number
  readonly root: Hash
  readonly previousRoot: Hash
  /** RFC 6962 root of the batch's own leaves, so that it recomputes from its events alone. */
  readonly batchRoot: Hash
  readonly sealedAt: number
}

/** The manifest: a JWS over the batch's facts with roots as `sha256:<hex>`. */
export function signManifest(key: IdentityKey, batch: Batch): Promise<string> {
  return signJws(key, MANIFEST_TYP, {
    origin: batch.origin,
    height: batch.height,
    firstIndex: batch.firstIndex,
    count: batch.count,
    treeSize: batch.treeSize,
    root: hashText(batch.root),
    previousRoot: hashText(batch.previousRoot),
    batchRoot: hashText(batch.batchRoot),
    sealedAt: isoTime(batch.sealedAt),
    sealer: key.did,
  })
}

/** `sha256:<64 hex>`: how the ledger writes a hash. */
export function hashText(hash: Hash): string {
  return `sha256:${toHex(hash)}`
}
