/**
 * When the watchers call: the limits behind the alerts that a look at storage decides, each with its arithmetic.
 * Pure: what was read goes in, whether it is an alert comes out.
 */

/** Attempts to seal are judged over an hour: at the default interval 30 seals. */
export const SEAL_WINDOW_MS = 3_600_000
/** More of them failed than this share: an alert. */
export const SEAL_RETRY_RATIO = 0.02
/** One failure of 30 attempts is 3.3 %, and is tried again within seconds; the third in an hour is no accident. */
export const SEAL_MIN_FAILED = 3

/** Whether so many attempts to seal failed within the window that it is an alert. */
export function isRetrying({
  sealed,
  failed,
}: {
  readonly sealed: number
  readonly failed: number
}): boolean {
  return failed >= SEAL_MIN_FAILED && failed / (sealed + failed) > SEAL_RETRY_RATIO
}

/**
 * A seal that is due is asked for by message at once, by alarm after 10 s and by cron after at most 60 s; a minute
 * later somebody must look. A backlog of 500,000 events is 100 batches of 5,000 at ≈ 0.2 s each: 20 s.
 */
export const STALE_AFTER_MS = 60_000

/** Whether events wait too long: `oldestAt` (epoch ms) of the oldest, null if none waits. */
export function isStale(oldestAt: number | null, nowAt: number, sealIntervalMs: number): boolean {
  return oldestAt !== null && nowAt - oldestAt > sealIntervalMs + STALE_AFTER_MS
}

/** A peer that does not answer is asked again after at most five minutes: twice that is two unheard calls. */
export const PEER_DOWN_MS = 600_000

/** Whether a peer is down that was heard last at `lastSeenAt` (epoch ms), or is known and silent since then. */
export function isDown(lastSeenAt: number, nowAt: number): boolean {
  return nowAt - lastSeenAt > PEER_DOWN_MS
}

/**
 * Fewer anchors than this at the fee cap: an alert. At one anchor an hour that is ten hours if every anchor cost the
 * cap. Mostly they cost far less: in Bitcoin 154 vB × 5 sat/vB = 770 sat of the default cap of 5,000, so ten at the
 * cap (50,000 sat) are two to three days; in the EVM chain 22,280 gas × 2 gwei = 0.00004 of 0.002 ETH.
 */
export const WALLET_LOW = 10

/**
 * How many anchors `balance` pays for if each costs `feeCap`, both in the smallest unit of the chain; `kept` cannot
 * be spent (Bitcoin: the last change must not be dust).
 */
export function anchorsLeft(balance: bigint, feeCap: bigint, kept = 0n): number {
  return balance <= kept ? 0 : Number((balance - kept) / feeCap)
}

/** A certificate takes its issuer days and an operator's change process weeks. */
export const EXPIRY_AHEAD_MS = 30 * 86_400_000

/** Whether a certificate that ends at `expiresAt` (epoch ms) must be looked after now. */
export function isExpiring(expiresAt: number, nowAt: number): boolean {
  return expiresAt - nowAt <= EXPIRY_AHEAD_MS
}
