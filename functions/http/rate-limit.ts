/**
 * A brake on abuse: events a minute by DID and by client address, counted in fixed windows.
 *
 * Counted in the isolate: exact for a self-hosted node (one isolate), per isolate on Cloudflare, where
 * a burst over many locations may pass more. It protects the node, it is no account of anybody's quota.
 */

import { VaultMeshError } from '#core/errors.ts'

const WINDOW_MS = 60_000
/** Keys counted at once; 50,000 × ≈ 100 B = 5 MB. Beyond, the oldest window is forgotten early. */
const MAX_KEYS = 50_000

/** Counts by key. */
export class RateLimit {
  readonly #counts = new Map<string, { startedAt: number; count: number }>()

  /** Counts `n` for `key`; throws `rate-limited` when that passes `limit` (0: no limit) in this minute. */
  take(
    key: string,
    n: number,
    rule: { readonly limit: number; readonly nowAt: number; readonly what: string },
  ): void {
    if (rule.limit === 0) return
    let entry = this.#counts.get(key)
    if (entry === undefined || rule.nowAt - entry.startedAt >= WINDOW_MS) {
      if (this.#counts.size >= MAX_KEYS) this.#counts.delete(this.#counts.keys().next().value!)
      this.#counts.delete(key)
      entry = { startedAt: rule.nowAt, count: 0 }
      this.#counts.set(key, entry)
    }
    if (entry.count + n > rule.limit) {
      const retryAfter = Math.ceil((entry.startedAt + WINDOW_MS - rule.nowAt) / 1000)
      throw new VaultMeshError(
        'rate-limited',
        `More than ${rule.limit} events a minute ${rule.what}.`,
        {
          extra: { limit: rule.limit, retryAfter },
        },
      )
    }
    entry.count += n
  }
}
