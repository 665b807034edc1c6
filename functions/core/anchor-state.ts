/**
 * The life of one anchor job as a table, and the schedule of its retries (design §6).
 *
 *   queued → signed → broadcast → included → final          the way it should go
 *   orphaned, dropped → signed                              a reorganisation, a forgotten transaction
 *   held(reason)                                            waits for the operator or the wallet
 *   failed                                                  what no repetition can mend
 */

/** The states of an outbox row. */
export type AnchorState =
  | 'queued'
  | 'signed'
  | 'broadcast'
  | 'included'
  | 'final'
  | 'orphaned'
  | 'dropped'
  | 'held'
  | 'failed'

/** Where each state may go. A step that is not in the table is refused. */
export const anchorTransitions: Readonly<Record<AnchorState, readonly AnchorState[]>> = {
  queued: ['queued', 'signed', 'held', 'failed'],
  signed: ['signed', 'broadcast', 'included', 'final', 'held', 'failed', 'dropped'],
  broadcast: ['signed', 'broadcast', 'included', 'final', 'orphaned', 'dropped', 'held', 'failed'],
  included: ['included', 'final', 'orphaned', 'broadcast', 'dropped', 'signed', 'held'],
  orphaned: ['signed', 'broadcast', 'included', 'final', 'dropped', 'held', 'failed'],
  dropped: ['queued', 'signed', 'broadcast', 'included', 'final', 'held', 'failed'],
  held: ['held', 'queued', 'signed', 'broadcast', 'included', 'final', 'dropped', 'failed'],
  // Only a revocation leaves it.
  final: ['orphaned'],
  failed: ['queued'],
}

/** How a receipt's `status` shows each state (design §5). */
export const receiptStatus: Readonly<Record<AnchorState, string>> = {
  queued: 'pending',
  signed: 'pending',
  broadcast: 'submitted',
  included: 'included',
  final: 'verified',
  orphaned: 'reorged',
  dropped: 'pending',
  held: 'pending',
  failed: 'failed',
}

/** Longest step between attempts: 30 minutes. */
export const MAX_DELAY_S = 1800

/**
 * Seconds before the next attempt after `failures` failed ones: min(1800, 30·2^(n−1)), and of that the
 * second half at random (`random` in [0, 1)), so that nodes do not knock together but the ladder shows.
 */
export function retryDelay(
  failures: number,
  random: number,
): { readonly step: number; readonly delay: number } {
  const step = Math.min(MAX_DELAY_S, 30 * 2 ** (failures - 1))
  // For a random just below 1 the sum rounds up to the whole step.
  const delay = Math.min(step - 1, Math.floor(step / 2 + (random * step) / 2))
  return { step, delay }
}

/** True when the attempt that just failed was made after a full 1,800 s step: then, once, an alert. */
export function isStalled(failures: number): boolean {
  return failures > 1 && 30 * 2 ** (failures - 2) >= MAX_DELAY_S
}
