/**
 * Gate 5, Ops: all services start via systemd, restart on failure, and expose /healthz over TLS.
 *
 * A real `systemd --user` runs the units as an operator installs them. Each service is killed with -9 and must be back
 * with another process; then each must answer /healthz over mTLS to a certificate of ours and refuse who has none.
 */

import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { onPath } from '../devnet/child.ts'
import { SERVICES, startOpsLab, until, type OpsLab } from '../lab/ops-lab.ts'
import { systemdAbsence } from '../lab/user-manager.ts'
import type { GateResult } from './gate.ts'

const GATE = '5 Ops'
const SHOWN = 'units under a real systemd: started, killed with -9, back; /healthz over TLS'
/** Services that have a health of their own; the TLS front is asked by asking them. */
const HEALTHY = ['harbinger', 'sealer', 'anchor-manager'] as const

/** Runs the gate; `log` takes a line for each step. Leaves nothing behind. */
export async function opsGate(log: (line: string) => void): Promise<GateResult> {
  const absence =
    systemdAbsence() ??
    (onPath('caddy') === null ? 'caddy is not installed (apt install caddy)' : null)
  if (absence !== null)
    return { gate: GATE, shown: SHOWN, figure: `not run: ${absence}`, ok: false }
  const dir = await mkdtemp(join(tmpdir(), 'vm-'))
  let lab: OpsLab | null = null
  try {
    lab = await startOpsLab(dir)
    log(`systemctl --user enable --now ${SERVICES.join(' ')} anchor-manager.timer`)
    return { gate: GATE, shown: SHOWN, figure: await figureOf(lab, log), ok: true }
  } catch (error) {
    const figure = error instanceof Error ? error.message.split('\n')[0]! : String(error)
    return { gate: GATE, shown: SHOWN, figure, ok: false }
  } finally {
    await lab?.stop()
    await rm(dir, { recursive: true, force: true })
  }
}

/** What was measured; throws what failed. */
async function figureOf(lab: OpsLab, log: (line: string) => void): Promise<string> {
  const { manager } = lab
  let slowest = 0
  for (const service of SERVICES) {
    const unit = `${service}.service`
    const before = Number(await manager.property(unit, 'MainPID'))
    if (!(before > 1)) throw new Error(`${unit} did not start`)
    process.kill(before, 'SIGKILL')
    const killedAt = performance.now()
    await until(
      `${unit} is not back`,
      async () => [
        await manager.property(unit, 'ActiveState'),
        await manager.property(unit, 'MainPID'),
      ],
      ([state, pid]) => state === 'active' && Number(pid) > 1 && Number(pid) !== before,
      60_000,
    )
    const ms = performance.now() - killedAt
    slowest = Math.max(slowest, ms)
    log(`${unit}: process ${before} killed, another one ready after ${(ms / 1000).toFixed(1)} s`)
  }
  for (const service of HEALTHY) {
    await until(
      `${service} over mTLS`,
      () => lab.ask(service, '/healthz', 'operator'),
      ({ status }) => status === 200,
    )
    const refused = await lab.ask(service, '/healthz', null)
    if (refused.status !== 0 || !refused.text.includes('alert')) {
      throw new Error(`${service} without a certificate: ${refused.status} ${refused.text}`)
    }
    log(`https://${service}.localhost/healthz: 200 with a client certificate, no handshake without`)
  }
  const open = await lab.askPublic('/healthz')
  if (open.status !== 200) throw new Error(`the public name answers ${open.status}: ${open.text}`)
  log('https://localhost/healthz: 200')
  const units = `${SERVICES.length} services killed, all back within ${(slowest / 1000).toFixed(1)} s`
  return `${units}; /healthz 200 over TLS, ${HEALTHY.length} of ${HEALTHY.length} refuse without a client certificate`
}
