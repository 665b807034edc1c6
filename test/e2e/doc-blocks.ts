/**
 * Blocks of commands in the documentation, and which test runs those of a page.
 */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../../scripts/build.ts'

/** The test that runs the blocks marked `sh` of a page, as they stand. */
export const RUN_BY: Readonly<Record<string, string>> = {
  'README.md': 'test/e2e/readme.test.ts',
  'docs/audit.md': 'test/e2e/audit.test.ts',
  'docs/doctor.md': 'test/e2e/doctor.test.ts',
  'docs/intake.md': 'test/e2e/doctor.test.ts',
  'docs/alerts.md': 'test/e2e/readme.test.ts',
  'docs/backup.md': 'test/e2e/backup.test.ts',
  'docs/formats.md': 'test/e2e/readme.test.ts',
  'docs/psi.md': 'test/e2e/readme.test.ts',
  'docs/self-host.md': 'test/e2e/systemd.test.ts',
  'docs/secrets.md': 'test/e2e/secrets-commands.test.ts',
}

/** The blocks marked `sh` of a page, in order; with `heading`, those below it up to the next one of its level. */
export function blocks(page: string, heading?: string): readonly string[] {
  const text = readFileSync(join(ROOT, page), 'utf8')
  const part =
    heading === undefined
      ? text
      : text.split(/^## /m).find((section) => section.startsWith(heading))
  if (part === undefined) throw new Error(`${page} has no section "${heading}"`)
  return [...part.matchAll(/^```sh\n(.*?)^```/gms)].map((m) => m[1]!)
}
