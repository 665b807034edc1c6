/**
 * A configuration file that a node follows while it runs (config/federation.yaml, config/intake.yaml): what is saved
 * there is taken over without a restart. A file that is refused stops a start; later it is said, and what was applied
 * before stands.
 */

import { readFileSync, unwatchFile, watchFile } from 'node:fs'
import { resolve } from 'node:path'
import { VaultMeshError } from '#core/errors.ts'

/** How often the file is looked at: some file systems tell nobody of a change. */
const LOOK_EVERY_MS = 500

/** The file of a node that runs, or is about to. */
export interface FollowedFile {
  /**
   * Applies it: before a node does anything, at each start of its runtime. Throws `bad-config` if it cannot be read or is
   * refused; in a process that had one applied before, that one is applied again instead.
   */
  apply(): Promise<void>
  /** Applies what is saved from now on; what is refused is said, and what was applied before stands. */
  follow(): { stop(): void }
}

/** A config/federation.yaml; `hand` gives its text to the node and throws what the node refuses. */
export function federationFile(file: string, hand: (yaml: string) => Promise<void>): FollowedFile {
  const path = resolve(file)
  const read = () => ({ text: readConfig(path, "the federation's configuration"), paths: [path] })
  return followedFile(file, read, hand)
}

/**
 * A file, and others that it names: `read` resolves them to one text, and says which were read. Where it throws, the
 * paths of the last time are watched on.
 */
export function followedFile(
  file: string,
  read: () => { readonly text: string; readonly paths: readonly string[] },
  hand: (text: string) => Promise<void>,
): FollowedFile {
  let paths: readonly string[] = [resolve(file)]
  let seen: string | null = null
  let applied: string | null = null
  const readNow = (): string => {
    const found = read()
    paths = found.paths
    return found.text
  }
  const take = async (text: string): Promise<void> => {
    seen = text
    await hand(text)
    applied = text
  }
  return {
    async apply() {
      try {
        await take(readNow())
      } catch (error) {
        if (applied === null) throw error
        console.error(`vaultmesh: ${file} is refused: ${messageOf(error)}`)
        await hand(applied)
      }
    },
    follow() {
      let watched: readonly string[] = []
      const look = (): void => {
        try {
          const text = readNow()
          watch()
          if (text === seen) return
          take(text).then(
            () => console.error(`vaultmesh: ${file} was taken over`),
            (error: unknown) => console.error(`vaultmesh: ${file} is refused: ${messageOf(error)}`),
          )
        } catch (error) {
          console.error(`vaultmesh: ${file} is refused: ${messageOf(error)}`)
        }
      }
      const watch = (): void => {
        const now = paths
        for (const path of watched) if (!now.includes(path)) unwatchFile(path, look)
        for (const path of now)
          if (!watched.includes(path))
            watchFile(path, { interval: LOOK_EVERY_MS, persistent: false }, look)
        watched = now
      }
      watch()
      return {
        stop() {
          for (const path of watched) unwatchFile(path, look)
        },
      }
    },
  }
}

/** The text of a file that somebody named; throws `bad-config` in words. */
export function readConfig(path: string, what: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    throw new VaultMeshError('bad-config', `Cannot read ${what} ${path}.`)
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
