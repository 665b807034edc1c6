/**
 * Gate 1, Federation: a 3-node lab converges on the same root with a forced conflict run (scripts/lab-federation.ts).
 */

import { federationLab } from '../lab-federation.ts'
import { notRun, type GateResult } from './gate.ts'

const GATE = '1 Federation'
const SHOWN = '3 real nodes; one log forks, one root is false, one node is away, one key changes'

/** Runs the gate; `log` takes a line for each step. */
export async function federationGate(log: (line: string) => void): Promise<GateResult> {
  const { absent, checks, wrong, seconds, isStopped } = await federationLab({ say: log })
  const row = { gate: GATE, shown: SHOWN }
  if (absent.length > 0) return notRun(row, absent.join('; '))
  if (isStopped) return notRun(row, 'stopped')
  const figure = `${checks - wrong.length} of ${checks} checks hold: the conflict decided alike, 3 equal mesh roots (${seconds.toFixed(0)} s)`
  return { ...row, figure: [figure, ...wrong].join('; '), ok: wrong.length === 0 && checks > 0 }
}
