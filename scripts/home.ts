/**
 * A node's home folder: what lies where, and the lock that lets one process at a time run on it.
 *
 *   <home>/state            D1, R2 and Durable Objects (Miniflare)
 *   <home>/node.secret.age  the node secret, encrypted (keystore.ts)
 *   <home>/rotation.json    statements that chain its identity keys (rotation-file.ts); public
 *   <home>/logs.json        logs of the node that forked and were ended (succession.ts)
 *   <home>/evidence/<n>.jws why log n was ended: the first leaf of the log after it; public
 *   <home>/audit/           what happened here, line by line (audit-files.ts)
 *   <home>/trust.json       what a verifier pins of this node; public
 *   <home>/follows.json     configuration files that the node follows, for commands that edit them
 *   <home>/admin.sock       /admin for whoever may open the socket (mode 0600)
 *   <home>/node.lock        who runs here: pid and start time, and those of its runtime process
 *   <home>/node.lock.db     the lock itself, SQLite's: it ends with its process, and holds between containers as well,
 *                           which do not see each other's processes
 */

import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { certificateSha256 } from '#core/certificate.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { Trust } from '../functions/sdk.ts'

/** Where a node lives unless the operator says otherwise. */
export const DEFAULT_HOME = '.vaultmesh'
/** sockaddr_un holds 108 bytes, the last of them zero. */
const MAX_SOCKET_PATH = 107

/** The paths within a home. */
export interface Home {
  readonly path: string
  readonly state: string
  readonly trust: string
  readonly rotation: string
  readonly logs: string
  readonly evidence: string
  readonly audit: string
  /** A delegation that waits for its signature (cli/keys.ts). */
  readonly delegation: string
  readonly follows: string
  readonly socket: string
  readonly lock: string
  readonly clientKey: string
}

/** The paths of `path`, or of $VAULTMESH_HOME, or of `.vaultmesh` here. */
export function homeAt(path?: string): Home {
  const named = path ?? process.env['VAULTMESH_HOME'] ?? ''
  const root = resolve(named === '' ? DEFAULT_HOME : named)
  return {
    path: root,
    state: join(root, 'state'),
    trust: join(root, 'trust.json'),
    rotation: join(root, 'rotation.json'),
    logs: join(root, 'logs.json'),
    evidence: join(root, 'evidence'),
    audit: join(root, 'audit'),
    delegation: join(root, 'delegation.json'),
    follows: join(root, 'follows.json'),
    socket: join(root, 'admin.sock'),
    lock: join(root, 'node.lock'),
    clientKey: join(root, 'client.key.age'),
  }
}

/** PEM roots that the trust file here pins; empty before the first start. */
export function pinnedRoots(home: Home): readonly string[] {
  if (!existsSync(home.trust)) return []
  try {
    const { tsaRoots = [] } = JSON.parse(readFileSync(home.trust, 'utf8')) as Partial<Trust>
    for (const pem of tsaRoots) certificateSha256(pem)
    return tsaRoots
  } catch {
    throw new VaultMeshError(
      'bad-config',
      `Cannot read the pins in ${home.trust}. Put the file back from a backup, or remove it if this log was never timestamped.`,
    )
  }
}

/** Keys of logs that the trust file here pins. */
function pinnedLogs(home: Home): readonly string[] {
  if (!existsSync(home.trust)) return []
  const { vkeys = [] } = JSON.parse(readFileSync(home.trust, 'utf8')) as Partial<Trust>
  return vkeys
}

/**
 * Writes what the node says of itself, with the timestamp roots and log keys pinned before kept: without them
 * receipts of older anchors, and of a log that was ended, would no longer verify here.
 */
export function keepTrust(home: Home, said: Trust): Trust {
  const roots = new Map(
    [...said.tsaRoots, ...pinnedRoots(home)].map((pem) => [certificateSha256(pem), pem]),
  )
  const vkeys = [...new Set([...said.vkeys, ...pinnedLogs(home)])]
  const trust = { ...said, vkeys, tsaRoots: [...roots.values()] }
  const part = `${home.trust}.part`
  writeFileSync(part, `${JSON.stringify(trust, null, 2)}\n`)
  renameSync(part, home.trust)
  return trust
}

/** Configuration files that a node follows, as absolute paths. */
export interface Followed {
  readonly federation?: string
  readonly intake?: string
}

/** Notes which files the node of this start follows; they stay noted while it is stopped. */
export function noteFollowed(home: Home, { federation, intake }: Followed): void {
  const paths = {
    ...(federation === undefined ? {} : { federation: resolve(federation) }),
    ...(intake === undefined ? {} : { intake: resolve(intake) }),
  }
  writeFileSync(home.follows, `${JSON.stringify(paths)}\n`, { mode: 0o600 })
}

/** The files that the node here follows, or followed when it ran last. */
export function followedBy(home: Home): Followed {
  try {
    return JSON.parse(readFileSync(home.follows, 'utf8')) as Followed
  } catch {
    return {} // never started, or cut off by a crash while it was written
  }
}

/** A process so that another one with its number later is told apart. */
interface Process {
  readonly pid: number
  /** Start time in ticks since boot (proc(5), field 22 of stat); empty where there is no /proc. */
  readonly start: string
}

interface LockFile extends Process {
  /** workerd outlives a killed parent, with the port and the stores open. */
  readonly runtime?: Process
}

/** A held lock. */
export interface Lock {
  /** Remembers the runtime process, so that the next start can end it if this one is killed. */
  noteRuntime(): void
  release(): void
}

/** The database whose lock is that of the home; no byte is ever in it. */
function lockFile(home: Home): string {
  return `${home.lock}.db`
}

/** Holds the home against every process of this kernel until it is closed, or this process ends; null if one has it. */
function holdHome(home: Home, timeout: number): DatabaseSync | null {
  const held = new DatabaseSync(lockFile(home), { timeout })
  try {
    held.exec('BEGIN EXCLUSIVE')
    return held
  } catch (error) {
    held.close()
    if ((error as { errcode?: number }).errcode === SQLITE_BUSY) return null
    throw new VaultMeshError(
      'bad-config',
      `Cannot lock ${lockFile(home)} (${(error as Error).message}): a home is on a disk of this machine.`,
    )
  }
}

const SQLITE_BUSY = 5
const LOOKED_AT_MS = 300

/** True if somebody has the home, in whatever container; `runningIn` knows processes that can be seen from here. */
export function isHeld(home: Home): boolean {
  if (!existsSync(lockFile(home))) return false
  const held = holdHome(home, 0)
  held?.close()
  return held === null
}

/** Takes the home; throws `bad-config` if a live process has it. A dead one's lock is taken over. */
export function lockHome(home: Home): Lock {
  if (Buffer.byteLength(home.socket) > MAX_SOCKET_PATH) {
    throw new VaultMeshError(
      'bad-config',
      `The path of the home folder is too long for a socket: ${home.socket} has more than ${MAX_SOCKET_PATH} bytes.`,
    )
  }
  mkdirSync(home.path, { recursive: true, mode: 0o700 })
  mkdirSync(home.state, { recursive: true, mode: 0o700 })
  const mine: LockFile = { pid: process.pid, start: startOf(process.pid) ?? '' }
  // Who only looks (isHeld) is gone at once.
  const held = holdHome(home, LOOKED_AT_MS)
  if (held === null) throw inUse(home)
  try {
    for (let attempt = 0; ; attempt++) {
      try {
        writeFileSync(home.lock, `${JSON.stringify(mine)}\n`, { flag: 'wx', mode: 0o600 })
        break
      } catch (error) {
        if ((error as NodeJS.ErrnoException).code !== 'EEXIST' || attempt === 5) throw error
        takeOver(home)
      }
    }
  } catch (error) {
    held.close()
    throw error
  }
  return {
    noteRuntime() {
      const pid = childOf(process.pid)
      if (pid === null) return
      const runtime = { pid, start: startOf(pid) ?? '' }
      writeFileSync(home.lock, `${JSON.stringify({ ...mine, runtime })}\n`, { mode: 0o600 })
    },
    release() {
      if (readLock(home.lock)?.pid === process.pid) rmSync(home.lock, { force: true })
      // Last: whoever has the home next writes a lock of his own. The file stays, or two could lock two of its name.
      if (held.isOpen) held.close()
    },
  }
}

function inUse(home: Home): VaultMeshError {
  const pid = runningIn(home)
  const who =
    pid === null ? 'a process that is not seen from here: of another container?' : `process ${pid}`
  return new VaultMeshError('bad-config', `A node runs on ${home.path} already (${who}).`)
}

/** Removes a dead process's lock and ends its runtime; throws if it lives. */
function takeOver(home: Home): void {
  const found = readLock(home.lock)
  if (found !== null && isAlive(found)) throw inUse(home)
  // Renamed, then looked at: of two that find the same stale lock, the second must not take the first's.
  const aside = `${home.lock}.${process.pid}.stale`
  try {
    renameSync(home.lock, aside)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
    throw error
  }
  const taken = readLock(aside)
  if (taken !== null && isAlive(taken) && !existsSync(home.lock)) {
    renameSync(aside, home.lock)
    return takeOver(home)
  }
  rmSync(aside, { force: true })
  const runtime = taken?.runtime
  if (runtime !== undefined && runtime.start !== '' && isAlive(runtime)) {
    process.kill(runtime.pid, 'SIGKILL')
    const deadline = Date.now() + 5000
    while (isAlive(runtime) && Date.now() < deadline) Atomics.wait(PAUSE, 0, 0, 20)
  }
}

/** The process that runs on a home, or null. */
export function runningIn(home: Home): number | null {
  const found = readLock(home.lock)
  return found !== null && isAlive(found) ? found.pid : null
}

const PAUSE = new Int32Array(new SharedArrayBuffer(4))

function readLock(path: string): LockFile | null {
  try {
    const value = JSON.parse(readFileSync(path, 'utf8')) as LockFile
    return Number.isSafeInteger(value.pid) ? value : null
  } catch {
    return null // missing, or cut off by a crash while it was written
  }
}

function isAlive({ pid, start }: Process): boolean {
  try {
    process.kill(pid, 0)
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false
  }
  return start === '' || startOf(pid) === start
}

/** Field 22 of /proc/<pid>/stat, counted after the name, which may hold spaces; null if it is dead. */
function startOf(pid: number): string | null {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    return fields[0] === 'Z' ? null : fields[19]!
  } catch {
    return null
  }
}

/** The workerd process among the children of `pid`, or null. */
function childOf(pid: number): number | null {
  try {
    const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ')
    for (const child of children.filter((c) => c !== '').map(Number)) {
      if (readFileSync(`/proc/${child}/cmdline`, 'utf8').includes('workerd')) return child
    }
  } catch {
    // No /proc, or a kernel without the children file: the lock then knows the parent only.
  }
  return null
}
