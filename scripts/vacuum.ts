/**
 * What an erasure leaves behind in SQLite, taken away before a self-hosted node starts.
 *
 * A row that is overwritten or deleted stays readable in the free pages of its database, and in its write-ahead log,
 * until something else is written there. So the first start after an erasure writes each database of the home anew
 * (VACUUM) and empties its log. That takes seconds a gigabyte, which is why it is not done at every erasure. The mark in
 * the home is written last: a start that is cut off does it again.
 */

import { existsSync, readFileSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'

const MARK = 'vacuumed'

/** Vacuums the databases below `state` if events were erased since this was done last; how many, 0 if none needed it. */
export function vacuumErased(home: string, state: string): number {
  if (!existsSync(state)) return 0
  const files = readdirSync(state, { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.sqlite'))
    .map((name) => join(state, name))
  // Compared for being the same, not for being later: a clock that goes back hides no erasure.
  const erased = files.flatMap(erasuresIn).join(' ')
  const mark = join(home, MARK)
  if (erased === '' || (existsSync(mark) && readFileSync(mark, 'utf8').trimEnd() === erased))
    return 0
  for (const file of files) {
    const db = new DatabaseSync(file)
    try {
      db.exec('VACUUM')
      db.exec('PRAGMA wal_checkpoint(TRUNCATE)')
    } finally {
      db.close()
    }
  }
  // Torn by a crash it is another text, and all is done again.
  writeFileSync(mark, `${erased}\n`, { mode: 0o600 })
  return files.length
}

/** What an index has erased, as a word: how many, and when the newest was done, epoch ms. None for any other database. */
function erasuresIn(file: string): readonly string[] {
  const db = new DatabaseSync(file)
  try {
    const isIndex = db
      .prepare("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'erasures'")
      .get()
    if (isIndex === undefined) return []
    const row = db
      .prepare('SELECT max(done_at) AS at, count(done_at) AS n FROM erasures')
      .get() as Record<'at' | 'n', number | null>
    return row.at === null ? [] : [`${row.n}/${row.at}`]
  } finally {
    db.close()
  }
}
