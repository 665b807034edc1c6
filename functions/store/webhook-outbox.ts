/**
 * The webhook outbox: lanes under lease, what they have to send, and what became of it.
 *
 * A lane is a signer and a target host. One hand at a time works on it: taking it sets `due_at` to the end of
 * the lease and counts `version`, so a crash gives it back by itself and a late hand cannot release it. What
 * a receiver took is marked done whoever holds the lane by then: that is true for good.
 */

import { isStalled, retryDelay } from '#core/anchor-state.ts'
import type { WebhookFacts } from '#core/webhook.ts'
import { WEBHOOK_ALERT } from '#store/alerts.ts'
import { typeOf } from '#store/webhooks.ts'

/** Deliveries of one turn of a lane: what a crash sends a second time. */
export const TURN = 50
/** Longer than a turn can take: sends start within 30 s and take ≤ 10 s each. */
const LEASE_MS = 60_000
/** Waiting deliveries of a hook that ended, given up with one statement. */
const DROP = 10_000
/**
 * A delivery is given up at a failure this long after it was made: with 30, 60, … 1,800, 1,800 s between
 * attempts these are nominally 150 (1,890 s for the first seven, then one each 1,800 s).
 */
export const GIVE_UP_MS = 3 * 86_400_000
/** How long settled deliveries are kept to be shown, and hooks of an event at all. */
const KEEP_MS = 7 * 86_400_000
const KEEP_EVENT_HOOKS_MS = 30 * 86_400_000
/** Rows that one purge deletes of each table. */
const PURGE_ROWS = 1000

/** A lane that is ours until its lease ends. */
export interface Lane {
  readonly id: number
  readonly failures: number
  readonly version: number
}

/** One thing to send. */
export interface Delivery {
  readonly id: number
  readonly failures: number
  readonly createdAt: number
  readonly hookId: number
  /** Where to, or null if the hook has ended. Never to be logged. */
  readonly url: string | null
  readonly rail: string
  readonly facts: WebhookFacts
}

/** Takes the lane that has waited longest, of those that proved themselves or of the others. */
export async function takeLane(
  db: D1Database,
  proven: boolean,
  nowAt: number,
): Promise<Lane | null> {
  return db
    .prepare(
      `UPDATE webhook_lanes SET due_at = ?2 + ${LEASE_MS}, version = version + 1
       WHERE id = (SELECT id FROM webhook_lanes WHERE proven = ?1 AND due_at <= ?2 ORDER BY due_at LIMIT 1)
       RETURNING id, failures, version`,
    )
    .bind(proven ? 1 : 0, nowAt)
    .first<Lane>()
}

/** What the lane has to send now, those that wait longest first. */
export async function dueDeliveries(
  db: D1Database,
  lane: Lane,
  at: { readonly nowAt: number; readonly origin: string },
): Promise<Delivery[]> {
  const { results } = await db
    .prepare(DUE)
    .bind(lane.id, at.nowAt)
    .all<Record<string, string & number>>()
  return results.map((row) => {
    const type = typeOf(row['type']!)
    return {
      id: row['id']!,
      failures: row['failures']!,
      createdAt: row['createdAt']!,
      hookId: row['hookId']!,
      url: row['url'] === null || row['endedAt'] !== null ? null : row['url']!,
      rail: row['rail']!,
      facts: {
        type,
        at: type === 'event.sealed' ? row['sealedAt']! : row['createdAt']!,
        hook: row['hook']!,
        origin: at.origin,
        eventHash: `sha256:${String(row['hash']).toLowerCase()}`,
        eventId: row['eventId']!,
        source: row['source']!,
        height: row['height']!,
        leafIndex: row['leafIndex']!,
        anchor:
          row['txHash'] === null
            ? null
            : {
                chain: row['chain']!,
                network: row['network']!,
                txHash: row['txHash']!,
                at: row['anchorAt']!,
                treeSize: row['treeSize']!,
              },
      },
    }
  })
}

/** The statement of `dueDeliveries`. */
export const DUE = `SELECT d.id, d.failures, d.created_at AS createdAt, d.hook_id AS hookId, d.type, d.rail,
  d.leaf_index AS leafIndex, w.url, w.ended_at AS endedAt, w.name AS hook,
  hex(e.event_hash) AS hash, e.event_id AS eventId, coalesce(s.name, '') AS source, e.height, b.sealed_at AS sealedAt,
  r.chain, r.network, r.tx_hash AS txHash, r.anchor_at AS anchorAt, r.tree_size AS treeSize
FROM webhook_deliveries d INDEXED BY webhook_deliveries_due LEFT JOIN webhooks w ON w.id = d.hook_id
  JOIN events e ON e.leaf_index = d.leaf_index LEFT JOIN names s ON s.id = e.source_id
  JOIN batches b ON b.height = e.height LEFT JOIN receipts r ON r.id = d.receipt_id
WHERE d.lane_id = ?1 AND d.state = 'pending' AND d.next_at <= ?2 ORDER BY d.next_at, d.id LIMIT ${TURN}`

/** What became of the attempts of a turn. */
export interface Turn {
  readonly done: readonly Attempt[]
  readonly failed: readonly Attempt[]
  /** Hooks that are over: their receiver said 410, or they had ended before. */
  readonly ended: readonly number[]
}

/** A delivery and, in a word, what its attempt met. */
export interface Attempt {
  readonly delivery: Delivery
  readonly result: string
  /** How long the receiver asks us to wait, at least. */
  readonly waitMs?: number
}

/**
 * Writes what became of a turn and gives the lane back, in one transaction; what was given up opens an
 * alert for its hook, what was taken clears it. `random` in [0, 1) spreads the next attempts.
 */
export async function endTurn(
  db: D1Database,
  lane: Lane,
  turn: Turn,
  at: { readonly nowAt: number; readonly random: number },
): Promise<void> {
  const { nowAt } = at
  // A receiver that takes anything is alive: what it refuses waits for its own next time only.
  const failures = turn.done.length > 0 ? 0 : lane.failures + (turn.failed.length > 0 ? 1 : 0)
  const delayOf = (n: number): number => retryDelay(n, at.random).delay * 1000
  const again: unknown[] = []
  const lost: unknown[] = []
  let askedMs = 0
  for (const { delivery, result, waitMs = 0 } of turn.failed) {
    const n = delivery.failures + 1
    askedMs = Math.max(askedMs, waitMs)
    const over = isStalled(n) && delivery.createdAt <= nowAt - GIVE_UP_MS
    ;(over ? lost : again).push([delivery.id, n, result, nowAt + Math.max(delayOf(n), waitMs)])
  }
  const done = turn.done.map(({ delivery, result }) => [delivery.id, delivery.failures, result])
  const taken = turn.done.map(({ delivery }) => delivery.facts.hook)
  const nothing = done.length + turn.failed.length + turn.ended.length === 0
  const gateMs = nothing ? LEASE_MS : failures > 0 ? Math.max(delayOf(failures), askedMs) : askedMs
  const stalled = turn.failed.length > 0 && isStalled(failures)
  await db.batch([
    db.prepare(SETTLE).bind(JSON.stringify(done), 'done', nowAt),
    clearAlertsOf(db, taken, nowAt),
    db.prepare(POSTPONE).bind(JSON.stringify(again), nowAt),
    db.prepare(SETTLE).bind(JSON.stringify(lost), 'failed', nowAt),
    ...(stalled ? [db.prepare(DROP_OLD).bind(lane.id, nowAt, nowAt - GIVE_UP_MS)] : []),
    ...(stalled || lost.length > 0 ? [db.prepare(ALERT).bind(lane.id, nowAt)] : []),
    ...[...new Set(turn.ended)].flatMap((hookId) => [
      db
        .prepare(`UPDATE webhooks SET ended_at = coalesce(ended_at, ?), url = '' WHERE id = ?`)
        .bind(nowAt, hookId),
      db.prepare(DROP_HOOK).bind(lane.id, hookId, nowAt),
    ]),
    db
      .prepare(RELEASE)
      .bind(lane.id, lane.version, failures, done.length, turn.failed.length, nowAt + gateMs),
  ])
}

const SETTLE = `UPDATE webhook_deliveries SET state = ?2, failures = j.value->>1, result = j.value->>2, updated_at = ?3
FROM json_each(?1) j WHERE webhook_deliveries.id = j.value->>0 AND state = 'pending'`

const POSTPONE = `UPDATE webhook_deliveries SET failures = j.value->>1, result = j.value->>2, next_at = j.value->>3, updated_at = ?2
FROM json_each(?1) j WHERE webhook_deliveries.id = j.value->>0 AND state = 'pending'`

/** A host that is down for days is not asked about each of a million deliveries: the old ones end with it. */
const DROP_OLD = `UPDATE webhook_deliveries SET state = 'failed', result = 'given up with its host', updated_at = ?2
WHERE id IN (SELECT id FROM webhook_deliveries INDEXED BY webhook_deliveries_due
  WHERE lane_id = ?1 AND state = 'pending' AND next_at <= ?3 AND created_at <= ?3 ORDER BY next_at LIMIT ${DROP})`

const DROP_HOOK = `UPDATE webhook_deliveries SET state = 'failed', result = 'the webhook has ended', updated_at = ?3
WHERE id IN (SELECT id FROM webhook_deliveries INDEXED BY webhook_deliveries_due
  WHERE lane_id = ?1 AND state = 'pending' AND hook_id = ?2 LIMIT ${DROP})`

/** By the hook's id, which `openAlerts` does not show: neither it nor the URL is for the public. */
const ALERT = `INSERT INTO alerts (kind, key, severity, detail, link, opened_at)
SELECT '${WEBHOOK_ALERT}', name, 'warning', 'A webhook has not taken a notice for three days; its old notices were given up. Key: SHA-256 of its id, first 16 digits.',
  '/webhooks/' || name, ?2
FROM webhooks WHERE id IN (SELECT hook_id FROM webhook_deliveries INDEXED BY webhook_deliveries_age
  WHERE updated_at = ?2 AND state <> 'pending' AND state = 'failed' AND lane_id = ?1)
ON CONFLICT DO NOTHING`

function clearAlertsOf(
  db: D1Database,
  hooks: readonly string[],
  nowAt: number,
): D1PreparedStatement {
  return db
    .prepare(
      `UPDATE alerts SET cleared_at = ?1 WHERE kind = '${WEBHOOK_ALERT}' AND cleared_at IS NULL
       AND key IN (SELECT value FROM json_each(?2))`,
    )
    .bind(nowAt, JSON.stringify(hooks))
}

const RELEASE = `UPDATE webhook_lanes SET failures = ?3, proven = iif(?4 > 0, 1, iif(?5 > 0, 0, proven)),
  due_at = (SELECT max(?6, min(next_at)) FROM webhook_deliveries WHERE lane_id = ?1 AND state = 'pending')
WHERE id = ?1 AND version = ?2`

/** Deletes what nobody needs any more, a bounded number of rows; returns true if there may be more. */
export async function purgeWebhooks(db: D1Database, nowAt: number): Promise<boolean> {
  const results = await db.batch(
    PURGE.map(([sql, keep]) => db.prepare(`${sql} RETURNING 1`).bind(nowAt - keep)),
  )
  return results.some(({ results: rows }) => rows.length >= PURGE_ROWS)
}

/** Each statement takes the moment before which rows go; and the age that is. */
export const PURGE: readonly (readonly [sql: string, keepMs: number])[] = [
  [
    `DELETE FROM webhook_deliveries WHERE id IN (SELECT id FROM webhook_deliveries INDEXED BY webhook_deliveries_age
     WHERE state <> 'pending' AND updated_at < ?1 LIMIT ${PURGE_ROWS})`,
    KEEP_MS,
  ],
  [
    `DELETE FROM webhook_requests WHERE key IN (SELECT key FROM webhook_requests WHERE expires_at < ?1 LIMIT ${PURGE_ROWS})`,
    0,
  ],
  // An event is sealed and anchored within hours; a hook of a DID stays until it is ended.
  [
    `UPDATE webhooks SET ended_at = ?1, url = '' WHERE id IN (SELECT id FROM webhooks INDEXED BY webhooks_posts
     WHERE event_hash IS NOT NULL AND ended_at IS NULL AND created_at < ?1 LIMIT ${PURGE_ROWS})`,
    KEEP_EVENT_HOOKS_MS,
  ],
  [
    `DELETE FROM webhooks WHERE id IN (SELECT id FROM webhooks INDEXED BY webhooks_ended
     WHERE ended_at IS NOT NULL AND ended_at < ?1 LIMIT ${PURGE_ROWS})`,
    KEEP_EVENT_HOOKS_MS,
  ],
]
