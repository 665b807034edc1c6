/**
 * systemd as PID 1, for tests of the system units: systemd-nspawn over a throw-away overlay of this machine's root.
 *
 * The overlay lives in a tmpfs within a mount namespace of its own, so nothing of the host is changed and nothing of it
 * outlives the process; the network is private. A program runs inside once the system is up, and says in a file what
 * it saw. Needs root.
 */

import { spawn } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../build.ts'
import { onPath } from '../devnet/child.ts'
import { cgroupAbsence, ControlGroup } from './control-group.ts'

const BOOT_MS = 120_000

/** Why none can be booted here, in one sentence; null if one can. */
export function nspawnAbsence(): string | null {
  for (const tool of ['systemd-nspawn', 'unshare'])
    if (onPath(tool) === null) return `${tool} is missing (apt install systemd-container)`
  if (process.getuid?.() !== 0) return 'systemd-nspawn needs root'
  if (!/\boverlay\b/.test(readFileSync('/proc/filesystems', 'utf8')))
    return 'this kernel has no overlay file system'
  return cgroupAbsence()
}

/** What to run in the system. */
export interface Boot {
  /** A folder of ours, for files and what comes out. */
  readonly dir: string
  /** Puts files where the system will have them below `root`. */
  prepare(root: string): Promise<void>
  /** An ES module that the checkout's Node runs as root once the system is up; it writes /srv/vaultmesh-out/result.json. */
  readonly program: string
}

/** Boots, runs the program, shuts down; throws with what the console said if nothing came out. */
export async function boot<T>({ dir, prepare, program }: Boot): Promise<T> {
  const files = join(dir, 'files')
  const out = join(dir, 'out')
  const over = join(dir, 'over')
  for (const path of [files, out, over]) mkdirSync(path, { recursive: true })
  await prepare(files)
  const at = join(files, 'srv', 'vaultmesh-check')
  mkdirSync(at, { recursive: true })
  copyFileSync(program, join(at, 'check.mts'))
  const units = join(files, 'etc', 'systemd', 'system')
  mkdirSync(units, { recursive: true })
  writeFileSync(join(units, 'vaultmesh-check.service'), unitOf())
  const group = new ControlGroup(`vaultmesh-boot-${process.pid}`)
  const root = join(over, 'root')
  const script = [
    'set -e',
    ...group.enter,
    `mount -t tmpfs -o size=2g,mode=755 tmpfs ${over}`,
    `mkdir ${over}/up ${over}/work ${root}`,
    `mount -t overlay overlay -o lowerdir=/,upperdir=${over}/up,workdir=${over}/work ${root}`,
    // What this machine starts at boot is none of the test's.
    `rm -rf ${root}/etc/systemd/system/*.wants ${root}/etc/systemd/user/*.wants`,
    `: > ${root}/etc/machine-id`,
    `cp -r ${files}/. ${root}/`,
    `mkdir -p ${root}/srv/vaultmesh-out`,
    `exec systemd-nspawn --quiet --directory=${root} --register=no --keep-unit --private-network --machine=vaultmesh-${process.pid} --bind-ro=${ROOT} --bind=${out}:/srv/vaultmesh-out --console=pipe --boot systemd.unit=vaultmesh-check.service`,
  ].join('\n')
  const child = spawn('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', script], {
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  let said = ''
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => (said = (said + chunk.toString()).slice(-50_000)))
  const ended = new Promise<void>((end) => child.once('close', () => end()))
  const late = setTimeout(() => void group.end(), BOOT_MS)
  await ended
  clearTimeout(late)
  await group.end()
  const result = join(out, 'result.json')
  if (!existsSync(result)) {
    const printed = join(out, 'said')
    if (existsSync(printed)) said += readFileSync(printed, 'utf8')
    throw new Error(`nothing came out of the system:\n${said}`)
  }
  return JSON.parse(readFileSync(result, 'utf8')) as T
}

function unitOf(): string {
  const node = join(ROOT, 'node_modules/.bin/node')
  return `[Unit]
Description=Check
Requires=basic.target
After=basic.target
[Service]
Type=oneshot
ExecStart=${node} /srv/vaultmesh-check/check.mts
ExecStopPost=/usr/bin/systemctl --no-block exit 0
TimeoutStartSec=100s
StandardOutput=append:/srv/vaultmesh-out/said
StandardError=inherit
`
}
