/**
 * Files that are replaced whole or not at all, by one command at a time.
 *
 * The new content lies complete and synced in `<path>.part` before it takes the name, so a crash between any two
 * steps leaves the old file or the new one. The part file is the lock as well: who finds a fresh one gives way. A
 * process that slept so long that another one took its part file for a crash's gives way too, when it wakes.
 */

import { open, realpath, rename, stat, unlink, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import { VaultMeshError } from '#core/errors.ts'

/** A change takes milliseconds; a part file older than this is what a crash left. */
const STALE_MS = 60_000

/**
 * Replaces the file `path`, or what a link of that name leads to, or makes it, with what `make` returns; `mode` is that of the new file. Throws
 * `bad-config` if another process is at it, and whatever `make` throws; the file is as it was then.
 */
export async function replaceFile(
  path: string,
  mode: number,
  make: () => Promise<Uint8Array | string>,
): Promise<void> {
  // A link stays one: replaced itself, the file behind it would keep what was meant to be gone.
  const target = await realpath(path).catch(() => path)
  const part = `${target}.part`
  const file = await openPart(part, mode)
  try {
    await file.writeFile(await make())
    await file.sync()
    if (!(await isOurs(file, part))) throw busy(part)
    await rename(part, target)
  } catch (error) {
    if (await isOurs(file, part)) await unlink(part).catch(() => undefined)
    throw error
  } finally {
    await file.close()
  }
  // The new name itself must survive a power cut: an old file may hold what was meant to be gone.
  const folder = await open(dirname(target), 'r')
  await folder.sync().finally(() => folder.close())
}

/** Whether the name still leads to the file that we made: another's, half written, must never take its place. */
async function isOurs(file: FileHandle, part: string): Promise<boolean> {
  const mine = await file.stat()
  const named = await stat(part).catch(() => null)
  return named !== null && named.ino === mine.ino && named.dev === mine.dev
}

function busy(part: string): VaultMeshError {
  return new VaultMeshError('bad-config', `Another command is at work on ${part}: run this again.`)
}

/** The part file, which nobody else has then. */
async function openPart(part: string, mode: number): Promise<FileHandle> {
  for (let attempt = 0; ; attempt++) {
    try {
      return await open(part, 'wx', mode)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EEXIST') throw error
    }
    const madeAt = await stat(part).then(
      ({ mtimeMs }) => mtimeMs,
      () => 0,
    )
    if (attempt > 0 || Date.now() - madeAt < STALE_MS) throw busy(part)
    await unlink(part).catch(() => undefined)
  }
}
