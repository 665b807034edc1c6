/**
 * What is looked at within a booted system (system-manager.ts): the system units started, looked at, one killed, all
 * stopped. Runs alone there, as root, with Node and nothing else; writes what it saw for the test to judge.
 */

import { spawnSync } from 'node:child_process'
import { readFileSync, writeFileSync } from 'node:fs'
import { setTimeout as pause } from 'node:timers/promises'

/** What was seen of a service. */
export interface SeenService {
  readonly state: string
  readonly result: string
  /** Of /proc/<pid>/status. */
  readonly uid: number
  readonly capabilities: string
  readonly noNewPrivileges: string
  readonly seccomp: string
}

/** What came out. */
export interface Seen {
  readonly services: Readonly<Record<string, SeenService>>
  /** Status and body of /healthz by service. */
  readonly health: Readonly<Record<string, readonly [number, string]>>
  /** Mode of the age identity as the node is handed it. */
  readonly credential: string
  readonly stopped: Readonly<Record<string, string>>
  readonly restarts: string
  readonly didBefore: string
  readonly didAfter: string
  readonly journal: string
}

const SERVICES = ['harbinger', 'sealer', 'anchor-manager', 'vaultmesh-tls']
const PORTS = { harbinger: 7077, sealer: 7087, 'anchor-manager': 7088 }
const WITHIN_MS = 60_000

function run(command: string, ...args: string[]): string {
  return spawnSync(command, args, { encoding: 'utf8' }).stdout.trim()
}

const show = (unit: string, name: string): string =>
  run('systemctl', 'show', unit, `--property=${name}`, '--value')

async function until(isSo: () => boolean | Promise<boolean>): Promise<void> {
  const deadline = Date.now() + WITHIN_MS
  while (!(await isSo()) && Date.now() < deadline) await pause(200)
}

function seen(unit: string): SeenService {
  const pid = Number(show(unit, 'MainPID'))
  const status = pid > 1 ? readFileSync(`/proc/${pid}/status`, 'utf8') : ''
  const field = (name: string): string =>
    new RegExp(`^${name}:\\t(\\S+)`, 'm').exec(status)?.[1] ?? ''
  return {
    state: show(unit, 'ActiveState'),
    result: show(unit, 'Result'),
    uid: Number(field('Uid')),
    capabilities: field('CapEff'),
    noNewPrivileges: field('NoNewPrivs'),
    seccomp: field('Seccomp'),
  }
}

async function healthOf(port: number): Promise<readonly [number, string]> {
  try {
    const response = await fetch(`http://127.0.0.1:${port}/healthz`)
    return [response.status, await response.text()]
  } catch (error) {
    return [0, String(error)]
  }
}

const isActive = (unit: string): boolean => show(unit, 'ActiveState') === 'active'
const did = async (): Promise<string> =>
  /"node_did":"([^"]+)"/.exec((await healthOf(PORTS.harbinger))[1])?.[1] ?? ''

run('systemctl', '--no-block', 'start', ...SERVICES)
await until(() => SERVICES.every(isActive))
const services = Object.fromEntries(SERVICES.map((unit) => [unit, seen(unit)]))
const health: Record<string, readonly [number, string]> = {}
for (const [service, port] of Object.entries(PORTS)) {
  await until(async () => (health[service] = await healthOf(port))[0] === 200)
}
const credential = run('stat', '--format=%a', '/run/credentials/harbinger.service/age.key')
const didBefore = await did()
const pid = Number(show('harbinger', 'MainPID'))
if (pid > 1) process.kill(pid, 'SIGKILL')
await until(() => show('harbinger', 'NRestarts') === '1' && isActive('harbinger'))
const didAfter = await did()
const restarts = show('harbinger', 'NRestarts')
run('systemctl', 'stop', ...SERVICES)
const stopped = Object.fromEntries(
  SERVICES.map((unit) => [unit, `${show(unit, 'ActiveState')} ${show(unit, 'Result')}`]),
)
const journal = run('journalctl', '--no-pager', '--lines=200')
const result: Seen = {
  services,
  health,
  credential,
  stopped,
  restarts,
  didBefore,
  didAfter,
  journal,
}
writeFileSync('/srv/vaultmesh-out/result.json', JSON.stringify(result))
