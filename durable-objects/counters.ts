/**
 * Counters: the durable counters and histograms behind /metrics, one object for the node. Isolates come and go and
 * count for themselves (store/metrics.ts); here their batches add up.
 *
 * Stored (SQLite):
 *   series(name, labels, part)   the total of a counter, or of a histogram's sum and of each bucket, by bound
 *   source(id)                   of each isolate the last sequence number that was added, and when
 *
 * Invariants: a batch (source, seq) is added once, all of it or nothing; totals never fall. Sources send their
 * batches in order, each until it is acknowledged, so the last number is all that must be remembered. An isolate
 * gives a batch up after BATCH_LIFE_MS; after twice that a source cannot repeat anything and is forgotten.
 *
 *   RPC                       answer
 *   add(source, seq, batch)   nothing; also for a batch that was added before
 *   read()                    every series of the catalogue that was ever counted
 *
 * Gates: `add` runs without an await in one transaction, so the input gate lets nothing in between; the output gate
 * holds its answer, and that of a `read` after it, until the disk has it, so no scrape shows what a crash could undo.
 */

import { DurableObject } from 'cloudflare:workers'
import {
  isCountable,
  metrics,
  partsOf,
  restoreValues,
  type MetricName,
  type Series,
} from '#core/metrics.ts'
import { BATCH_LIFE_MS } from '#store/metrics.ts'

/** Isolates remembered at most: 10,000 rows of 60 bytes. Beyond it, a retry of a forgotten one could count twice. */
const MAX_SOURCES = 10_000

const SCHEMA = `
CREATE TABLE IF NOT EXISTS series (name TEXT NOT NULL, labels TEXT NOT NULL, part TEXT NOT NULL, value REAL NOT NULL,
  PRIMARY KEY (name, labels, part)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS source (id TEXT PRIMARY KEY, seq INTEGER NOT NULL, at INTEGER NOT NULL) WITHOUT ROWID;`

export class Counters extends DurableObject<Env> {
  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env)
    ctx.storage.sql.exec(SCHEMA)
  }

  /** Adds a batch, once. Series that this version does not know are left out: another version counted them. */
  add(source: string, seq: number, batch: readonly Series[]): void {
    const { sql } = this.ctx.storage
    const last = sql
      .exec<{ seq: number }>('SELECT seq FROM source WHERE id = ?', source)
      .toArray()[0]
    if (last !== undefined && seq <= last.seq) return
    this.ctx.storage.transactionSync(() => {
      const nowAt = Date.now()
      if (last === undefined) this.#forgetSources(nowAt)
      sql.exec(
        'INSERT INTO source (id, seq, at) VALUES (?1, ?2, ?3) ON CONFLICT (id) DO UPDATE SET seq = ?2, at = ?3',
        source,
        seq,
        nowAt,
      )
      for (const series of batch.filter(isCountable)) {
        const parts = partsOf(series.name)
        for (const [i, value] of series.values.entries()) {
          if (value === 0) continue
          sql.exec(
            `INSERT INTO series (name, labels, part, value) VALUES (?1, ?2, ?3, ?4)
             ON CONFLICT (name, labels, part) DO UPDATE SET value = value + ?4`,
            series.name,
            JSON.stringify(series.labels),
            parts[i]!,
            value,
          )
        }
      }
    })
  }

  /** Every series that was ever counted and that the catalogue still has; at most a few thousand rows. */
  read(): Series[] {
    const stored = new Map<string, { name: string; labels: string; parts: [string, number][] }>()
    for (const { name, labels, part, value } of this.ctx.storage.sql.exec<{
      name: string
      labels: string
      part: string
      value: number
    }>('SELECT name, labels, part, value FROM series')) {
      const key = `${name} ${labels}`
      let series = stored.get(key)
      if (series === undefined) stored.set(key, (series = { name, labels, parts: [] }))
      series.parts.push([part, value])
    }
    return [...stored.values()]
      .filter(({ name }) => Object.hasOwn(metrics, name))
      .map(({ name, labels, parts }) => ({
        name: name as MetricName,
        labels: JSON.parse(labels) as string[],
        values: restoreValues(name as MetricName, parts),
      }))
      .filter(isCountable)
  }

  #forgetSources(nowAt: number): void {
    const { sql } = this.ctx.storage
    sql.exec('DELETE FROM source WHERE at < ?', nowAt - 2 * BATCH_LIFE_MS)
    sql.exec(
      'DELETE FROM source WHERE id IN (SELECT id FROM source ORDER BY at DESC LIMIT -1 OFFSET ?)',
      MAX_SOURCES - 1,
    )
  }
}
