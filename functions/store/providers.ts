/**
 * What is known of the providers of each rail: how often they answer and how fast (queues/anchors/route.ts).
 */

/** A rail: chain and network. */
export interface RailName {
  readonly chain: string
  readonly network: string
}

/** One provider of a rail. */
export interface ProviderRecord {
  /** Host and port; never a URL, which may hold credentials. */
  readonly name: string
  /** Share of calls that succeeded, weighted towards the newest. */
  readonly success: number
  /** Mean time of a call that succeeded, weighted likewise. */
  readonly latencyMs: number
  readonly calls: number
  /** In a row, since the last success. */
  readonly failures: number
  /** Epoch ms until which it is skipped; 0 if it is not. */
  readonly openUntil: number
  readonly lastError: string | null
}

const COLUMNS =
  'name, success, latency_ms AS latencyMs, calls, failures, open_until AS openUntil, last_error AS lastError'

/** The providers of a rail, as far as they were ever asked. */
export async function loadProviders(db: D1Database, rail: RailName): Promise<ProviderRecord[]> {
  const { results } = await db
    .prepare(`SELECT ${COLUMNS} FROM providers WHERE chain = ? AND network = ?`)
    .bind(rail.chain, rail.network)
    .all<ProviderRecord>()
  return results
}

/** The providers of every rail, for /anchors/status. */
export async function allProviders(db: D1Database): Promise<(ProviderRecord & RailName)[]> {
  const { results } = await db
    .prepare(
      `SELECT chain, network, ${COLUMNS} FROM providers ORDER BY chain, network, name LIMIT 200`,
    )
    .all<ProviderRecord & RailName>()
  return results
}

/** A second of latency counts as much as a tenth of success. */
const LATENCY_COST_PER_MS = 0.1 / 1000

/** What a provider is worth: its success, less what its latency costs. Nobody knows a new one: it is tried. */
export function scoreOf(record: ProviderRecord | undefined): number {
  return record === undefined ? 1 : record.success - record.latencyMs * LATENCY_COST_PER_MS
}

/** Writes what was learnt. Two steps at once overwrite each other: it is a mean, not a count of money. */
export async function saveProviders(
  db: D1Database,
  rail: RailName,
  records: readonly ProviderRecord[],
  nowAt: number,
): Promise<void> {
  if (records.length === 0) return
  await db.batch(
    records.map((r) =>
      db
        .prepare(
          `INSERT INTO providers (chain, network, name, success, latency_ms, calls, failures, open_until, last_error, updated_at)
           VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)
           ON CONFLICT (chain, network, name) DO UPDATE SET success = ?4, latency_ms = ?5, calls = ?6, failures = ?7,
             open_until = ?8, last_error = ?9, updated_at = ?10`,
        )
        .bind(
          rail.chain,
          rail.network,
          r.name,
          r.success,
          r.latencyMs,
          r.calls,
          r.failures,
          r.openUntil,
          r.lastError,
          nowAt,
        ),
    ),
  )
}
