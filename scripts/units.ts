/**
 * The systemd units of this checkout: systemd/*.service and *.timer with its paths put in.
 *
 * The files name %h/vaultmesh (the checkout) and %h/.vaultmesh (the home), those of systemd/system /opt/vaultmesh; as
 * they are they fit a checkout that lies there. Installing is copying with the paths replaced, so it can be repeated
 * after each upgrade; what an operator changes belongs into drop-ins (`systemctl edit`) and the environment file.
 */

import { execFileSync } from 'node:child_process'
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import { VaultMeshError } from '#core/errors.ts'

const ROOT = resolve(import.meta.dirname, '..')

/** Of one user's own manager, or of the machine. */
export type Scope = 'user' | 'system'

/** Where to install what. */
export interface Install {
  readonly scope: Scope
  /** The node's home, absolute; of system units always /var/lib/vaultmesh. */
  readonly home: string
  /** Where the units go. */
  readonly dest: string
  readonly dryRun: boolean
}

/** A unit, and whether it differs from what is there. */
export interface Unit {
  readonly path: string
  readonly state: 'new' | 'changed' | 'unchanged'
}

/** Where a manager looks for units of an administrator. */
export function unitsDir(scope: Scope, env: NodeJS.ProcessEnv = process.env): string {
  if (scope === 'system') return '/etc/systemd/system'
  const config = env['XDG_CONFIG_HOME'] ?? ''
  return join(config === '' ? join(homedir(), '.config') : config, 'systemd', 'user')
}

/** Writes the units; throws `bad-config` for paths that systemd or its hardening could not follow. */
export function installUnits({ scope, home, dest, dryRun }: Install): Unit[] {
  for (const path of [ROOT, home]) needPlain(path)
  if (scope === 'system') needReachable(ROOT)
  const from = scope === 'user' ? join(ROOT, 'systemd') : join(ROOT, 'systemd', 'system')
  const names = readdirSync(from).filter((name) => /\.(?:service|timer)$/.test(name))
  if (!dryRun) mkdirSync(dest, { recursive: true })
  return names.sort().map((name) => {
    const path = join(dest, name)
    const text = placed(readFileSync(join(from, name), 'utf8'), scope, home)
    const before = existsSync(path) ? readFileSync(path, 'utf8') : null
    const state = before === null ? 'new' : before === text ? 'unchanged' : 'changed'
    if (!dryRun && state !== 'unchanged') {
      writeFileSync(`${path}.new`, text)
      chmodSync(`${path}.new`, 0o644)
      renameSync(`${path}.new`, path)
    }
    return { path, state }
  })
}

/** The home that the user's units in `dest` are for; undefined where there are none. Another one would be another log. */
export function homeOfUnits(dest: string): string | undefined {
  const unit = join(dest, 'harbinger.service')
  if (!existsSync(unit)) return undefined
  return /^Environment=VAULTMESH_HOME=(\/\S+)/m
    .exec(readFileSync(unit, 'utf8'))?.[1]
    ?.replaceAll('%%', '%')
}

/** A unit with the paths of this checkout; % is systemd's escape. */
function placed(text: string, scope: Scope, home: string): string {
  const root = ROOT.replaceAll('%', '%%')
  if (scope === 'system') return text.replaceAll('/opt/vaultmesh', root)
  return text
    .replaceAll('%h/.vaultmesh', home.replaceAll('%', '%%'))
    .replaceAll('%h/vaultmesh', root)
}

function needPlain(path: string): void {
  if (/^[\w@%+=:,./-]+$/.test(path)) return
  throw new VaultMeshError(
    'bad-config',
    `The path ${path} has characters that a unit file would have to quote. Move it to a plain path.`,
  )
}

/** The folder on the way to `root` that other users may not enter; null if they reach it. */
function closedFolder(root: string): string | null {
  for (let folder = root; ; folder = dirname(folder)) {
    if ((statSync(folder).mode & 0o001) === 0) return folder
    if (folder === dirname(folder)) return null
  }
}

/** What a system service cannot see of a checkout at `root`: it has a user, home and temporary folder of its own. */
export function hiddenFromServices(root: string): string | null {
  return /^\/(?:home|root|run\/user|tmp|var\/tmp)(?:\/|$)/.test(root) ? root : closedFolder(root)
}

function needReachable(root: string): void {
  const hidden = hiddenFromServices(root)
  if (hidden === null) return
  throw new VaultMeshError(
    'bad-config',
    `A system service cannot read ${hidden}. Put the checkout where everybody may read, such as /opt/vaultmesh, and install from there.`,
  )
}

/** Runs systemctl of a manager; its output, or null if there is no such manager or it refuses. */
export function systemctl(scope: Scope, ...args: readonly string[]): string | null {
  try {
    return execFileSync('systemctl', [`--${scope}`, '--no-pager', ...args], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
      timeout: 60_000,
    })
  } catch {
    return null
  }
}

/** What `vaultmesh stop` stops: the wakers before the node, so that they do not speak of its end. */
const STOPPED = [
  'anchor-manager.timer',
  'anchor-manager.service',
  'sealer.service',
  'harbinger.service',
]

/** Stops the units of the manager whose harbinger is process `pid`; null if no manager's is. */
export function stopUnits(pid: number): { readonly scope: Scope; readonly done: boolean } | null {
  for (const scope of ['user', 'system'] as const) {
    const main = systemctl(scope, 'show', 'harbinger.service', '--property=MainPID', '--value')
    if (main?.trim() !== String(pid)) continue
    return { scope, done: systemctl(scope, 'stop', ...STOPPED) !== null }
  }
  return null
}
