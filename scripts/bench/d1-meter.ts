/**
 * D1 that counts: which rows the statements of a query read, and by which plan.
 *
 * It stands in for a D1Database. Each statement is explained before it runs; batches run one by one, which is the same
 * for reads. A plan that scans a table without an index is a full scan, unless it ends at its first row or the table
 * is one of the few rows; a scan of an index may end early, so its rows tell.
 */

/** Tables whose size is that of the settings, and rows of subqueries. */
const FEW = /^SCAN (?:k|rails|providers|CONSTANT ROW|c|j|json_each|\(.*)\b/

/** What a query did. */
export class D1Meter {
  rows = 0
  statements = 0
  readonly plans = new Set<string>()
  /** Plan lines that read a whole table. */
  readonly scans = new Set<string>()
  readonly #real: D1Database

  constructor(real: D1Database) {
    this.#real = real
  }

  /** To be handed to what is measured. */
  get db(): D1Database {
    return {
      prepare: (sql: string) => this.#statement(sql, []),
      batch: async (list: readonly { all(): Promise<unknown> }[]) => {
        const results: unknown[] = []
        for (const statement of list) results.push(await statement.all())
        return results
      },
    } as unknown as D1Database
  }

  #statement(sql: string, binds: readonly unknown[]): object {
    const all = async (): Promise<D1Result<Record<string, unknown>>> => {
      await this.#explain(sql, binds)
      const result = await this.#real
        .prepare(sql)
        .bind(...binds)
        .all<Record<string, unknown>>()
      this.rows += result.meta.rows_read
      this.statements++
      return result
    }
    return {
      bind: (...values: unknown[]) => this.#statement(sql, values),
      all,
      run: all,
      raw: async () => (await all()).results.map((row) => Object.values(row)),
      first: async (column?: string) => {
        const [row] = (await all()).results
        if (row === undefined) return null
        return column === undefined ? row : row[column]
      },
    }
  }

  async #explain(sql: string, binds: readonly unknown[]): Promise<void> {
    const { results } = await this.#real
      .prepare(`EXPLAIN QUERY PLAN ${sql}`)
      .bind(...binds)
      .all<{ detail: string }>()
    for (const { detail } of results) {
      this.plans.add(detail)
      if (!detail.startsWith('SCAN ') || / USING .*INDEX /.test(detail) || FEW.test(detail))
        continue
      // The newest batch: from the right end of its key, to the first row.
      if (detail === 'SCAN batches' && /ORDER BY height DESC LIMIT 1\b/.test(sql)) continue
      this.scans.add(detail)
    }
  }
}
