/**
 * Gate 2, Anchors: ten consecutive anchors verified and receipts persisted; backoff observed on simulated outage
 * (scripts/lab-outage.ts).
 */

import { outageLab } from '../lab-outage.ts'
import { notRun, type GateResult } from './gate.ts'

const GATE = '2 Anchors'
const SHOWN =
  'anchors in bitcoind, anvil and openssl, read back from disk and chains; each falls out for hours'

/** Runs the gate; `log` takes a line for each step. */
export async function anchorsGate(log: (line: string) => void): Promise<GateResult> {
  const { absent, rounds, kept, endured, wrong, seconds, isStopped } = await outageLab({ say: log })
  const row = { gate: GATE, shown: SHOWN }
  if (absent.length > 0) return notRun(row, absent.map(({ line }) => line).join('; '))
  if (isStopped) return notRun(row, 'stopped')
  const figure = `${rounds} in a row verified, ${kept} receipts kept; ${endured} outages of 9 failures kept the backoff to its cap of 30 min, alerted once, paid nothing twice (${seconds.toFixed(0)} s)`
  const isAll = kept === 3 * rounds && endured === 5
  return {
    ...row,
    figure: wrong.length === 0 ? figure : wrong.join('; '),
    ok: wrong.length === 0 && isAll,
  }
}
