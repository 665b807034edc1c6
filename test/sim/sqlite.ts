/**
 * D1 and Durable Object storage over node:sqlite: real SQL, so that what the simulation breaks is the
 * storage's answer and never its meaning.
 */

import { DatabaseSync, type SQLInputValue } from 'node:sqlite'

/** Runs around each statement: may throw before, after, or instead. */
export type Around = <T>(name: string, effect: () => T) => T

function bindable(value: unknown): SQLInputValue {
  if (value instanceof ArrayBuffer) return new Uint8Array(value)
  if (value === undefined) throw new TypeError('undefined is no SQL value')
  return value as SQLInputValue
}

/** First words of a statement: the name of its step in the fault table. */
export function stepName(query: string): string {
  const m =
    /^\s*(INSERT INTO \w+|UPDATE "?\w+|DELETE FROM \w+|SELECT|CREATE|insert into "\w+"|update "\w+"|select)/.exec(
      query,
    )
  return m === null ? query.slice(0, 20) : m[1]!.replaceAll('"', '')
}

/** `ctx.storage` of a SQLite-backed Durable Object. */
export class SqlStorageSim {
  readonly #db: DatabaseSync
  readonly #around: Around
  #depth = 0
  alarmAt: number | null

  constructor(
    db: DatabaseSync,
    around: Around,
    alarm: { get(): number | null; set(at: number | null): void },
  ) {
    this.#db = db
    this.#around = around
    this.alarmAt = alarm.get()
    this.setAlarm = async (at) => this.#around('setAlarm', () => alarm.set(Number(at)))
    this.getAlarm = async () => alarm.get()
  }

  readonly setAlarm: (at: number) => Promise<void>
  readonly getAlarm: () => Promise<number | null>

  readonly sql = {
    exec: (query: string, ...binds: unknown[]) => {
      const run = (): Record<string, unknown>[] => {
        if (binds.length === 0 && query.includes(';')) {
          this.#db.exec(query)
          return []
        }
        const rows = this.#db.prepare(query).all(...binds.map(bindable)) as Record<
          string,
          unknown
        >[]
        for (const row of rows) {
          for (const [key, value] of Object.entries(row)) {
            if (value instanceof Uint8Array) row[key] = value.slice().buffer
          }
        }
        return rows
      }
      const name = stepName(query)
      const silent = this.#depth > 0 || name === 'CREATE' || name === 'SELECT'
      const rows = silent ? run() : this.#around(`sql ${name}`, run)
      return cursor(rows)
    },
  }

  /** All or nothing; one step of the fault table, because the platform commits it as one. */
  transactionSync<T>(body: () => T): T {
    return this.#around('transaction', () => {
      const savepoint = `s${this.#depth++}`
      this.#db.exec(`SAVEPOINT ${savepoint}`)
      try {
        const result = body()
        this.#db.exec(`RELEASE ${savepoint}`)
        return result
      } catch (error) {
        this.#db.exec(`ROLLBACK TO ${savepoint}`)
        this.#db.exec(`RELEASE ${savepoint}`)
        throw error
      } finally {
        this.#depth--
      }
    })
  }
}

function cursor(rows: Record<string, unknown>[]) {
  let at = 0
  return {
    one: () => {
      if (rows.length !== 1) throw new Error(`Expected exactly one result, got ${rows.length}`)
      return rows[0]
    },
    toArray: () => rows,
    next: () =>
      at < rows.length ? { done: false, value: rows[at++] } : { done: true, value: undefined },
    [Symbol.iterator]: () => rows[Symbol.iterator](),
  }
}

/** D1 over node:sqlite. */
export class D1Sim {
  readonly #db: DatabaseSync
  readonly #around: <T>(name: string, effect: () => T) => Promise<T>

  constructor(db: DatabaseSync, around: <T>(name: string, effect: () => T) => Promise<T>) {
    this.#db = db
    this.#around = around
  }

  prepare(query: string): Statement {
    return new Statement(this.#db, query, [], this.#around)
  }

  async batch(statements: readonly Statement[]): Promise<unknown[]> {
    const name = `d1 batch of ${[...new Set(statements.map((s) => stepName(s.query)))].join(', ')}`
    return this.#around(name, () => {
      this.#db.exec('BEGIN')
      try {
        const results = statements.map((s) => s.execute())
        this.#db.exec('COMMIT')
        return results
      } catch (error) {
        this.#db.exec('ROLLBACK')
        throw error
      }
    })
  }
}

class Statement {
  readonly query: string
  readonly #db: DatabaseSync
  readonly #binds: readonly unknown[]
  readonly #around: <T>(name: string, effect: () => T) => Promise<T>

  constructor(
    db: DatabaseSync,
    query: string,
    binds: readonly unknown[],
    around: <T>(name: string, effect: () => T) => Promise<T>,
  ) {
    this.#db = db
    this.query = query
    this.#binds = binds
    this.#around = around
  }

  bind(...binds: unknown[]): Statement {
    return new Statement(this.#db, this.query, binds, this.#around)
  }

  execute(): { results: Record<string, unknown>[]; success: true; meta: { changes: number } } {
    const statement = this.#db.prepare(this.query)
    const results = statement.all(...this.#binds.map(bindable)) as Record<string, unknown>[]
    return { results, success: true, meta: { changes: 0 } }
  }

  all() {
    return this.#around(`d1 ${stepName(this.query)}`, () => this.execute())
  }

  run() {
    return this.all()
  }

  async first(column?: string): Promise<unknown> {
    const { results } = await this.all()
    const row = results[0]
    if (row === undefined) return null
    return column === undefined ? row : row[column]
  }

  async raw(): Promise<unknown[][]> {
    return this.#around(`d1 ${stepName(this.query)}`, () => {
      const statement = this.#db.prepare(this.query)
      statement.setReturnArrays(true)
      return statement.all(...this.#binds.map(bindable)) as unknown as unknown[][]
    })
  }
}
