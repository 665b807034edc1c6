/**
 * How often a rail could be anchored on, by what it was seen to do (design §8, "Learn"). A suggestion and no more: an
 * anchor costs money or a stranger's goodwill, and what a sooner one is worth is the operator's to say.
 *
 * On average a root waits half the interval and then its confirmation. So an interval below the confirmation anchors
 * nothing sooner (a rail carries one root at a time), and one far above it is what a root waits for.
 */

/** What is known of a rail. */
export interface RailRecord {
  /** As it is set. */
  readonly intervalMs: number
  /** True where an anchor costs nothing. */
  readonly isFree: boolean
  /** Median of the newest final anchors, from job to receipt; null without one. */
  readonly confirmationMs: number | null
  /** Of the newest attempts, 0 … 1; null without one. */
  readonly failureRatio: number | null
}

/** An interval, and a sentence why. */
export interface Cadence {
  readonly suggestedMs: number
  readonly why: string
}

/** A free rail is not asked more often than this: authorities are strangers who answer for nothing. */
const LEAST_FREE_MS = 60_000
/** Beyond so many confirmations it is the interval that a root waits for. */
const IDLE = 10
/** From here on the rail is ill, and no interval mends that. */
const ILL = 0.5

/** The interval that fits what a rail was seen to do. */
export function suggestCadence(rail: RailRecord): Cadence {
  const { intervalMs, isFree, confirmationMs, failureRatio } = rail
  if (failureRatio !== null && failureRatio >= ILL) {
    const share = `${Math.round(failureRatio * 100)} %`
    return keep(
      intervalMs,
      `${share} of the newest attempts failed; retries have their own pace, so mend the provider first`,
    )
  }
  if (confirmationMs === null) return keep(intervalMs, 'no anchor of this rail is final yet')
  const takes = `an anchor takes ${inWords(confirmationMs)} to be final`
  if (confirmationMs > intervalMs) {
    const suggestedMs = rounded(confirmationMs)
    return {
      suggestedMs,
      why: `${takes}, and roots asked for meanwhile wait for it: every ${inWords(suggestedMs)} loses nothing.`,
    }
  }
  if (intervalMs <= IDLE * confirmationMs) return keep(intervalMs, `${takes}, which fits`)
  if (!isFree) {
    return keep(
      intervalMs,
      `${takes}; a shorter interval would bring roots there sooner, and costs a fee each time`,
    )
  }
  const suggestedMs = Math.max(LEAST_FREE_MS, rounded(IDLE * confirmationMs))
  if (suggestedMs >= intervalMs) return keep(intervalMs, `${takes}, which fits`)
  return {
    suggestedMs,
    why: `${takes} and costs nothing: every ${inWords(suggestedMs)} brings roots there sooner.`,
  }
}

function keep(intervalMs: number, why: string): Cadence {
  return { suggestedMs: intervalMs, why: `As it is: ${why}.` }
}

/** Up to whole seconds below a minute, to whole minutes from there on. */
function rounded(ms: number): number {
  const unit = ms < 60_000 ? 1000 : 60_000
  return Math.ceil(ms / unit) * unit
}

function inWords(ms: number): string {
  if (ms < 1000) return `${Math.round(ms)} ms`
  if (ms < 120_000) return `${Number((ms / 1000).toPrecision(3))} s`
  return `${Number((ms / 60_000).toPrecision(3))} min`
}
