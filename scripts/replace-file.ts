/**
 * Files that are replaced whole or not at all, by one command at a time.
 *
 * The new content lies complete and synced in `<path>.part` before it takes the name, so a crash between any two
 * steps leaves the old file or the new one. The part file is the lock as well: who finds a fresh one gives way.
 */

import { open, rename, stat, unlink, type FileHandle } from 'node:fs/promises'
import { dirname } from 'node:path'
import { VaultMeshError } from '#core/errors.ts'

/** A change takes milliseconds; a part file older than this is what a crash left. */
const STALE_MS = 60_000

/**
 * Replaces the file `path`, or makes it, with what `make` returns; `mode` is that of the new file. Throws
 * `bad-config` if another process is at it, and whatever `make` throws; the file is as it was then.
 */
export async function replaceFile(
  path: string,
  mode: number,
  make: () => Promise<Uint8Array | string>,
): Promise<void> {
  const part = `${path}.part`
  const file = await openPart(part, mode)
  try {
    await file.writeFile(await make())
    await file.sync()
    await file.close()
    await rename(part, path)
  } catch (error) {
    await file.close()
    await unlink(part).catch(() => undefined)
    throw error
  }
  // The new name itself must survive a power cut: an old file may hold what was meant to be gone.
  const folder = await open(dirname(path), 'r')
  await folder.sync().finally(() => folder.close())
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
    if (attempt > 0 || Date.now() - madeAt < STALE_MS) {
      throw new VaultMeshError(
        'bad-config',
        `Another command is at work on ${part}: run this again.`,
      )
    }
    await unlink(part).catch(() => undefined)
  }
}
