/**
 * A node's config/federation.yaml, followed while the node runs: what is saved there is taken over without a
 * restart. A file that is refused stops a start; later it is said, and what was applied before stands.
 */

import { readFileSync, unwatchFile, watchFile } from 'node:fs'
import { resolve } from 'node:path'
import { VaultMeshError } from '#core/errors.ts'

/** How often the file is looked at: some file systems tell nobody of a change. */
const LOOK_EVERY_MS = 500

/** The file of a node that runs, or is about to. */
export interface FederationFile {
  /**
   * Applies it: before a node does anything, at each start of its runtime. Throws `bad-config` if it cannot be read or is
   * refused; in a process that had one applied before, that one is applied again instead.
   */
  apply(): Promise<void>
  /** Applies what is saved from now on; what is refused is said, and what was applied before stands. */
  follow(): { stop(): void }
}

export function federationFile(
  file: string,
  hand: (yaml: string) => Promise<void>,
): FederationFile {
  const path = resolve(file)
  let seen: string | null = null
  let applied: string | null = null
  const take = async (yaml: string): Promise<void> => {
    seen = yaml
    await hand(yaml)
    applied = yaml
  }
  const look = (): void => {
    try {
      const text = read(path)
      if (text === seen) return
      take(text).then(
        () => console.error(`vaultmesh: ${file} was taken over`),
        (error: unknown) => console.error(`vaultmesh: ${file} is refused: ${messageOf(error)}`),
      )
    } catch (error) {
      console.error(`vaultmesh: ${messageOf(error)}`)
    }
  }
  return {
    async apply() {
      try {
        await take(read(path))
      } catch (error) {
        if (applied === null) throw error
        console.error(`vaultmesh: ${file} is refused: ${messageOf(error)}`)
        await hand(applied)
      }
    },
    follow() {
      watchFile(path, { interval: LOOK_EVERY_MS, persistent: false }, look)
      return { stop: () => unwatchFile(path, look) }
    },
  }
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    throw new VaultMeshError('bad-config', `Cannot read the federation's configuration ${path}.`)
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
