/**
 * What the Guardian remembers: the part of it that is storage alone. Every method is one synchronous step.
 *
 * Stored (SQLite):
 *   config         what was signed and not admitted yet (`pending`), what was counted up to when, what was told to whom
 *   nodes          one row a node: its newest telemetry, Ψ, and the states that Ψ and the alarm go on from
 *   telemetry      one row for each admitted: Ψ, terms and signals in columns, so that SQL aggregates them
 *   interventions  what was done and why, and how far the news of it got
 */

import { initialGuardian, type Breach, type GuardianState } from '#core/guardian.ts'
import { initialPsi, type PsiSample, type PsiState } from '#core/psi.ts'
import { SIGNAL_NAMES, type Telemetry } from '#core/telemetry.ts'
import { isoTime } from '#core/time.ts'
import type { SeriesPoint, Spread } from '#store/guardian-api.ts'

const TERMS = ['C', 'U', 'Phi', 'H', 'PE', 'M'] as const
/** Interventions kept: at one in a hundred samples four months of minutes. */
const MAX_INTERVENTIONS = 2000

const SCHEMA = `
CREATE TABLE IF NOT EXISTS config (k TEXT PRIMARY KEY, v TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS nodes (id INTEGER PRIMARY KEY, did TEXT NOT NULL UNIQUE, seq INTEGER NOT NULL, at INTEGER NOT NULL,
  received_at INTEGER NOT NULL, interval_ms INTEGER NOT NULL, jws TEXT NOT NULL, sample TEXT NOT NULL, psi TEXT NOT NULL, guardian TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS telemetry (node INTEGER NOT NULL, at INTEGER NOT NULL, seq INTEGER NOT NULL, psi REAL NOT NULL,
  ${TERMS.map((term) => `t_${term} REAL NOT NULL`).join(', ')}, PRIMARY KEY (node, at, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS interventions (id INTEGER PRIMARY KEY AUTOINCREMENT, did TEXT NOT NULL, seq INTEGER NOT NULL, at INTEGER NOT NULL,
  kind TEXT NOT NULL, reason TEXT NOT NULL, explained TEXT NOT NULL, psi REAL NOT NULL, acted_at INTEGER, posted_at INTEGER, event_hash TEXT);
CREATE INDEX IF NOT EXISTS interventions_open ON interventions (did) WHERE posted_at IS NULL;`

/** A node as it was after its newest telemetry. */
export interface KnownNode {
  readonly id: number
  /** Canonical. */
  readonly did: string
  readonly seq: number
  readonly at: number
  /** By this node's clock. */
  readonly receivedAt: number
  readonly intervalMs: number
  readonly jws: string
  readonly sample: PsiSample
  readonly psi: PsiState
  readonly guardian: GuardianState
}

/** An intervention row. */
export interface Intervention {
  readonly id: number
  readonly did: string
  readonly seq: number
  readonly at: number
  readonly kind: 'nigredo' | 'albedo'
  readonly reason: Breach
  readonly explained: string
  readonly psi: number
  readonly actedAt: number | null
  readonly postedAt: number | null
  readonly eventHash: string | null
}

type Row = Record<string, SqlStorageValue>

const NEWS =
  'id, did, seq, at, kind, reason, explained, psi, acted_at AS actedAt, posted_at AS postedAt, event_hash AS eventHash'

export class GuardianStore {
  readonly #storage: DurableObjectStorage
  readonly #sql: SqlStorage

  constructor(storage: DurableObjectStorage) {
    this.#storage = storage
    this.#sql = storage.sql
    this.#sql.exec(SCHEMA)
    // A signal that this version adds has no value in older rows.
    const columns = new Set(this.#all('PRAGMA table_info(telemetry)').map((row) => row['name']))
    for (const name of SIGNAL_NAMES) {
      if (!columns.has(`s_${name}`))
        this.#sql.exec(`ALTER TABLE telemetry ADD COLUMN s_${name} REAL`)
    }
  }

  transaction<T>(body: () => T): T {
    return this.#storage.transactionSync(body)
  }

  recall(key: string): string | null {
    const [row] = this.#all('SELECT v FROM config WHERE k = ?', key)
    return row === undefined ? null : (row['v'] as string)
  }

  remember(key: string, value: string): void {
    this.#sql.exec(
      'INSERT INTO config (k, v) VALUES (?1, ?2) ON CONFLICT (k) DO UPDATE SET v = ?2 WHERE v <> ?2',
      key,
      value,
    )
  }

  forget(key: string): void {
    this.#sql.exec('DELETE FROM config WHERE k = ?', key)
  }

  node(did: string): KnownNode | null {
    const [row] = this.#all('SELECT * FROM nodes WHERE did = ?', did)
    return row === undefined ? null : nodeOf(row)
  }

  nodes(): KnownNode[] {
    return this.#all('SELECT * FROM nodes ORDER BY did').map(nodeOf)
  }

  /** Takes telemetry down, with what came of it. */
  keep(
    { nodeDid, seq, at, intervalMs, signals }: Telemetry,
    now: Pick<KnownNode, 'jws' | 'receivedAt' | 'sample' | 'psi' | 'guardian'>,
  ): void {
    const { sample, receivedAt, jws } = now
    const [row] = this.#all(
      `INSERT INTO nodes (did, seq, at, received_at, interval_ms, jws, sample, psi, guardian) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
       ON CONFLICT (did) DO UPDATE SET seq = ?2, at = ?3, received_at = ?4, interval_ms = ?5, jws = ?6, sample = ?7, psi = ?8, guardian = ?9
       RETURNING id`,
      nodeDid,
      seq,
      at,
      receivedAt,
      intervalMs,
      jws,
      JSON.stringify(sample),
      JSON.stringify(now.psi),
      JSON.stringify(now.guardian),
    )
    const values = [
      Number(row!['id']),
      at,
      seq,
      sample.psi,
      ...TERMS.map((term) => sample[term]),
      ...SIGNAL_NAMES.map((name) => signals[name]),
    ]
    const columns = [
      ...TERMS.map((term) => `t_${term}`),
      ...SIGNAL_NAMES.map((name) => `s_${name}`),
    ]
    this.#sql.exec(
      `INSERT INTO telemetry (node, at, seq, psi, ${columns.join(', ')}) VALUES (${values.map(() => '?').join(', ')})`,
      ...values,
    )
    this.remember('accepted', String(this.accepted() + 1))
  }

  /** The clock was set back to `nowAt`: what a node said after it is forgotten, so that its times can go on from there. */
  setBack(node: number, nowAt: number): void {
    this.transaction(() => {
      this.#sql.exec('UPDATE nodes SET at = ?2 WHERE id = ?1', node, nowAt)
      this.#sql.exec('DELETE FROM telemetry WHERE node = ? AND at > ?', node, nowAt)
    })
  }

  /** How much telemetry was ever admitted. */
  accepted(): number {
    return Number(this.recall('accepted') ?? 0)
  }

  /** Forgets telemetry from before `at`, and old interventions whose news are out. */
  prune(at: number): void {
    for (const { id } of this.#all('SELECT id FROM nodes')) {
      this.#sql.exec('DELETE FROM telemetry WHERE node = ? AND at < ?', id!, at)
    }
    this.#sql.exec(
      'DELETE FROM interventions WHERE id <= (SELECT max(id) FROM interventions) - ? AND (posted_at IS NOT NULL OR at < ?)',
      MAX_INTERVENTIONS,
      at,
    )
  }

  /** Forgets every node but these. */
  retain(dids: ReadonlySet<string>): void {
    for (const { id, did } of this.#all('SELECT id, did FROM nodes')) {
      if (dids.has(did as string)) continue
      this.transaction(() => {
        this.#sql.exec('DELETE FROM telemetry WHERE node = ?', id!)
        this.#sql.exec('DELETE FROM nodes WHERE id = ?', id!)
      })
    }
  }

  intervene(what: Omit<Intervention, 'id' | 'actedAt' | 'postedAt' | 'eventHash'>): void {
    this.#sql.exec(
      'INSERT INTO interventions (did, seq, at, kind, reason, explained, psi) VALUES (?, ?, ?, ?, ?, ?, ?)',
      what.did,
      what.seq,
      what.at,
      what.kind,
      what.reason,
      what.explained,
      what.psi,
    )
    this.remember(what.kind, String(this.counts()[what.kind] + 1))
  }

  /** The newest interventions, newest first. */
  interventions(limit: number): Intervention[] {
    return this.#all(
      `SELECT ${NEWS} FROM interventions ORDER BY id DESC LIMIT ?`,
      limit,
    ) as unknown as Intervention[]
  }

  /** Interventions of a node that are not in the log yet, oldest first. */
  unfinished(did: string, limit: number): Intervention[] {
    return this.#all(
      `SELECT ${NEWS} FROM interventions WHERE did = ? AND posted_at IS NULL ORDER BY id LIMIT ?`,
      did,
      limit,
    ) as unknown as Intervention[]
  }

  acted(id: number, nowAt: number): void {
    this.#sql.exec('UPDATE interventions SET acted_at = ? WHERE id = ?', nowAt, id)
  }

  posted(id: number, eventHash: string, nowAt: number): void {
    this.#sql.exec(
      'UPDATE interventions SET posted_at = ?, event_hash = ? WHERE id = ?',
      nowAt,
      eventHash,
      id,
    )
  }

  /** Interventions ever recorded, by kind; those that were forgotten since are in it. */
  counts(): Readonly<Record<'nigredo' | 'albedo', number>> {
    return {
      nigredo: Number(this.recall('nigredo') ?? 0),
      albedo: Number(this.recall('albedo') ?? 0),
    }
  }

  /** Telemetry of a node in steps of `stepMs` from `from` on, `from` ≤ t < `to`; at most `limit` steps. */
  series(
    node: number,
    {
      from,
      to,
      stepMs,
      limit,
    }: {
      readonly from: number
      readonly to: number
      readonly stepMs: number
      readonly limit: number
    },
  ): SeriesPoint[] {
    const spreads = ['psi', ...SIGNAL_NAMES.map((name) => `s_${name}`)].map(
      (c) => `avg(${c}) AS ${c}_mean, min(${c}) AS ${c}_min, max(${c}) AS ${c}_max`,
    )
    const means = TERMS.map((term) => `avg(t_${term}) AS ${term}`)
    return this.#all(
      `SELECT CAST((at - ?2) / ?4 AS INTEGER) AS step, count(*) AS samples, ${[...spreads, ...means].join(', ')} FROM telemetry
       WHERE node = ?1 AND at >= ?2 AND at < ?3 GROUP BY step ORDER BY step LIMIT ?5`,
      node,
      from,
      to,
      stepMs,
      limit,
    ).map((row) => ({
      at: isoTime(from + Number(row['step']) * stepMs),
      samples: Number(row['samples']),
      psi: spreadOf(row, 'psi')!,
      terms: Object.fromEntries(
        TERMS.map((term) => [term, Number(row[term])]),
      ) as SeriesPoint['terms'],
      signals: Object.fromEntries(
        SIGNAL_NAMES.map((name) => [name, spreadOf(row, `s_${name}`)]),
      ) as SeriesPoint['signals'],
    }))
  }

  #all(query: string, ...binds: SqlStorageValue[]): Row[] {
    return this.#sql.exec<Row>(query, ...binds).toArray()
  }
}

function spreadOf(row: Row, name: string): Spread | null {
  const [mean, min, max] = ['mean', 'min', 'max'].map((of) => row[`${name}_${of}`])
  if (mean === null || mean === undefined) return null
  return { mean: Number(mean), min: Number(min), max: Number(max) }
}

function nodeOf(row: Row): KnownNode {
  const json = (name: string): unknown => JSON.parse(row[name] as string)
  const psi = json('psi') as PsiState
  const guardian = json('guardian') as GuardianState
  return {
    id: Number(row['id']),
    did: row['did'] as string,
    seq: Number(row['seq']),
    at: Number(row['at']),
    receivedAt: Number(row['received_at']),
    intervalMs: Number(row['interval_ms']),
    jws: row['jws'] as string,
    sample: json('sample') as PsiSample,
    // States of another version are begun anew: they are memory, and no evidence.
    psi: psi.v === initialPsi().v ? psi : initialPsi(),
    guardian: guardian.v === initialGuardian().v ? guardian : initialGuardian(),
  }
}
