/**
 * Telemetry for tests: of a node that keeps every promise, or of one that breaks some.
 */

import { SIGNAL_NAMES, type SignalName, type Signals, type Telemetry } from '#core/telemetry.ts'

/** A healthy node without rails and peers, but for what is said. */
export function signals(more: Partial<Record<SignalName, number | null>> = {}): Signals {
  const zero = ['intake_rate', 'reject_ratio', 'queue_backlog', 'dead_letters', 'checkpoint_age_s']
  const all = SIGNAL_NAMES.map((name) => [name, zero.includes(name) ? 0 : null])
  return { ...(Object.fromEntries(all) as Signals), ...more }
}

/** What a node says, healthy but for what is said. */
export function telemetry(
  said: Pick<Telemetry, 'nodeDid' | 'seq'> & Partial<Telemetry>,
): Telemetry {
  return {
    at: Date.now(),
    intervalMs: 60_000,
    expect: { seal_s: 120, backlog: 500_000 },
    signals: signals(),
    ...said,
  }
}
