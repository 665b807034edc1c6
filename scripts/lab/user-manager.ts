/**
 * A real `systemd --user` for tests and gates, on machines where systemd is not PID 1 and on those where it is: as an
 * unprivileged user, in a cgroup and a mount namespace of its own.
 *
 * systemd starts only where it believes that the machine was booted with it: within the namespace /run is an empty
 * tmpfs with /run/systemd/system, which is what sd_booted(3) looks for. Nothing of the host is changed: what is made
 * is one cgroup, which `stop` empties and removes, and the caller's folder. Needs root for both.
 */

import { spawn, spawnSync } from 'node:child_process'
import { existsSync, lchownSync, lstatSync, mkdirSync, readdirSync, statSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { ROOT } from '../build.ts'
import { onPath } from '../devnet/child.ts'
import { cgroupAbsence, ControlGroup } from './control-group.ts'

const BINARY = '/usr/lib/systemd/systemd'
/** nobody: what a user unit may do must be what it needs. */
const NOBODY = 65_534
const START_MS = 15_000
const STOP_MS = 40_000

/** What a systemctl run said. */
export interface Said {
  readonly code: number
  readonly out: string
}

/** A running manager. */
export interface UserManager {
  /** Its user; files that services write must be theirs. */
  readonly uid: number
  /** Where it looks for units. */
  readonly unitsDir: string
  /** ~/.config of its user. */
  readonly configDir: string
  /** What the manager and its services printed. */
  log(): string
  systemctl(...args: readonly string[]): Promise<Said>
  /** Runs a command as its user, where its user is. */
  run(command: string, ...args: readonly string[]): Promise<Said>
  /** One property of a unit. */
  property(unit: string, name: string): Promise<string>
  /** Stops every unit and the manager, and removes what was made outside the folder. */
  stop(): Promise<void>
}

/** Why no manager can run here, in one sentence; null if one can. */
export function systemdAbsence(): string | null {
  if (!existsSync(BINARY)) return 'systemd is not installed (apt install systemd)'
  for (const tool of ['systemctl', 'systemd-notify', 'unshare', 'nsenter', 'setpriv'])
    if (onPath(tool) === null) return `${tool} is missing`
  if (process.getuid?.() !== 0)
    return 'a systemd of our own needs root, for a cgroup and a mount namespace'
  // Root in a container may not do what root may.
  const probe = ['--mount', '--propagation', 'private', 'mount', '-t', 'tmpfs', 'tmpfs', '/run']
  if (spawnSync('unshare', probe, { stdio: 'ignore' }).status !== 0)
    return 'this machine lets root make no mount namespace'
  return cgroupAbsence()
}

/** Starts a manager whose home is `dir`, which becomes its user's. */
export async function startUserManager(dir: string): Promise<UserManager> {
  const uid = isReadableBy(NOBODY) ? NOBODY : 0
  const runtimeDir = join(dir, 'run')
  const configDir = join(dir, '.config')
  const unitsDir = join(configDir, 'systemd', 'user')
  mkdirSync(unitsDir, { recursive: true })
  mkdirSync(runtimeDir, { mode: 0o700 })
  own(dir, uid)
  const groups = new ControlGroup(`vaultmesh-lab-${process.pid}`)
  for (const path of groups.paths) own(path, uid)
  const env = { PATH: '/usr/bin:/bin:/usr/sbin', HOME: dir, XDG_RUNTIME_DIR: runtimeDir }
  const as = ['--reuid', String(uid), '--regid', String(uid), '--clear-groups']
  const script = [
    'set -e',
    ...groups.enter,
    'mount -t tmpfs tmpfs /run',
    'mkdir -p /run/systemd/system',
    `exec setpriv ${as.join(' ')} ${BINARY} --user --unit=default.target`,
  ].join('\n')
  let said = ''
  const child = spawn('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script], {
    env: {
      ...env,
      SYSTEMD_LOG_TARGET: 'console',
      SYSTEMD_LOG_LEVEL: 'notice',
      SYSTEMD_LOG_COLOR: '0',
    },
    cwd: dir,
    stdio: ['ignore', 'pipe', 'pipe'],
    // Ctrl-C at the terminal is for whoever runs this: he stops it.
    detached: true,
  })
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-200_000)))
  let isOver = false
  const ended = new Promise<void>((end) =>
    child.once('close', () => {
      isOver = true
      end()
    }),
  )
  // Within the namespace: outside, systemctl finds no booted systemd and acts as in a chroot.
  const inside = ['--mount', '--target', String(child.pid), 'setpriv', ...as]
  const runInside = (command: string, ...args: readonly string[]): Promise<Said> =>
    run('nsenter', [...inside, command, ...args], env)
  const systemctl = (...args: readonly string[]): Promise<Said> =>
    runInside('systemctl', '--user', '--no-pager', ...args)
  const property = async (unit: string, name: string): Promise<string> =>
    (await systemctl('show', unit, `--property=${name}`, '--value')).out.trim()
  const stop = async (): Promise<void> => {
    if (!isOver) {
      await systemctl('exit')
      await Promise.race([ended, pause(STOP_MS)])
    }
    await groups.end()
    await ended
  }
  const deadline = Date.now() + START_MS
  for (;;) {
    const { out } = await systemctl('is-system-running')
    if (/^(?:running|degraded)/.test(out)) break
    if (isOver || Date.now() > deadline) {
      await stop()
      throw new Error(`systemd --user does not start (${out.trim()}):\n${said}`)
    }
    await pause(50)
  }
  return { uid, unitsDir, configDir, log: () => said, systemctl, run: runInside, property, stop }
}

/** Whether `uid` can run what lies here: a checkout below a private folder is root's alone. */
function isReadableBy(uid: number): boolean {
  if (uid === 0) return true
  for (let path = ROOT; path !== '/'; path = dirname(path))
    if ((statSync(path).mode & 0o005) !== 0o005) return false
  return true
}

/** Gives a folder and all below it to `uid`. */
export function own(path: string, uid: number): void {
  lchownSync(path, uid, uid)
  if (!lstatSync(path).isDirectory()) return
  for (const name of readdirSync(path)) own(join(path, name), uid)
}

function pause(ms: number): Promise<void> {
  return new Promise((done) => setTimeout(done, ms))
}

function run(command: string, args: readonly string[], env: NodeJS.ProcessEnv): Promise<Said> {
  const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'pipe'] })
  let out = ''
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => (out += chunk.toString()))
  return new Promise((done, fail) => {
    child.once('error', fail)
    child.once('close', (code) => done({ code: code ?? -1, out }))
  })
}
