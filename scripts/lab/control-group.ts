/**
 * A cgroup of our own for a service manager that runs in a test: what is in it is what we started, so ending it ends all
 * of that and nothing else.
 */

import { existsSync, mkdirSync, readdirSync, readFileSync, rmdirSync } from 'node:fs'
import { join } from 'node:path'

const CGROUPS = '/sys/fs/cgroup'

/** Why none can be made here, in one sentence; null if one can. */
export function cgroupAbsence(): string | null {
  const roots = cgroupRoots()
  if (roots.length === 0) return 'no cgroup hierarchy that systemd can use is mounted'
  for (const root of roots) {
    const probe = join(root, `vaultmesh-probe-${process.pid}`)
    try {
      mkdirSync(probe)
      rmdirSync(probe)
    } catch {
      return `${root} is read-only here: a systemd of our own needs a cgroup`
    }
  }
  return null
}

/** The hierarchies in which systemd keeps its units: one (v2), or v1's named one and what there is of v2 (hybrid). */
function cgroupRoots(): string[] {
  if (existsSync(join(CGROUPS, 'cgroup.controllers'))) return [CGROUPS]
  return ['systemd', 'unified']
    .map((name) => join(CGROUPS, name))
    .filter((path) => existsSync(path))
}

/** One group, in every hierarchy that systemd uses. */
export class ControlGroup {
  readonly paths: readonly string[]
  /** Shell commands by which a process enters it. */
  readonly enter: readonly string[]

  constructor(name: string) {
    this.paths = cgroupRoots().map((root) => join(root, name))
    this.enter = this.paths.map((path) => `echo $$ > ${path}/cgroup.procs`)
    for (const path of this.paths) mkdirSync(path)
  }

  /** Ends whatever is left in it and removes it. */
  async end(): Promise<void> {
    for (let round = 0; round < 100; round++) {
      const left = this.paths.flatMap((path) => processesIn(path))
      if (left.length === 0) break
      for (const pid of left) kill(pid)
      await new Promise((done) => setTimeout(done, 50))
    }
    for (const path of this.paths) removeGroup(path)
  }
}

function processesIn(group: string): number[] {
  if (!existsSync(group)) return []
  const below = readdirSync(group, { withFileTypes: true }).filter((entry) => entry.isDirectory())
  const here = readFileSync(join(group, 'cgroup.procs'), 'utf8').split('\n').map(Number)
  return [
    ...here.filter((pid) => pid > 1),
    ...below.flatMap(({ name }) => processesIn(join(group, name))),
  ]
}

function removeGroup(group: string): void {
  if (!existsSync(group)) return
  for (const entry of readdirSync(group, { withFileTypes: true }))
    if (entry.isDirectory()) removeGroup(join(group, entry.name))
  rmdirSync(group)
}

function kill(pid: number): void {
  try {
    process.kill(pid, 'SIGKILL')
  } catch {
    // It ended by itself.
  }
}
