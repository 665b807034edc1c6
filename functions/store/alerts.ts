/**
 * Alerts and dead letters: what an operator must see, once, until it is over. Who else is told of them is derived
 * from these rows (store/alert-push.ts): whoever opens or clears one has nothing more to do.
 */

import { alertId, type AlertFacts, type AlertKind, type AlertSeverity } from '#core/alert.ts'
import { toHex, utf8 } from '#core/bytes.ts'
import { sha256 } from '#core/sha256.ts'

/** About a webhook; its key is the id. */
export const WEBHOOK_ALERT = 'webhook_failing'

/** An alert that is open or was. */
export interface Alert {
  readonly kind: AlertKind
  /** What it is about: one open alert for each kind and key. */
  readonly key: string
  readonly severity: AlertSeverity
  readonly detail: string
  /** Path on this node that shows what suffers. */
  readonly link: string
}

/** Opens an alert unless it is open already. */
export async function openAlert(db: D1Database, alert: Alert, nowAt: number): Promise<void> {
  await raiseAlert(db, alert, nowAt).run()
}

/** The same as a statement, to batch with what the alert is about. */
export function raiseAlert(db: D1Database, alert: Alert, nowAt: number): D1PreparedStatement {
  return db
    .prepare(
      'INSERT INTO alerts (kind, key, severity, detail, link, opened_at) VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING',
    )
    .bind(alert.kind, alert.key, alert.severity, alert.detail, alert.link, nowAt)
}

/** Opens an alert, or has the open one say what is so now. */
export async function amendAlert(db: D1Database, alert: Alert, nowAt: number): Promise<void> {
  await db.batch([
    raiseAlert(db, alert, nowAt),
    db
      .prepare('UPDATE alerts SET detail = ? WHERE kind = ? AND key = ? AND cleared_at IS NULL')
      .bind(alert.detail, alert.kind, alert.key),
  ])
}

/** Clears the open alert of a kind and key, if there is one; a statement to run or to batch. */
export function clearAlert(
  db: D1Database,
  kind: string,
  key: string,
  nowAt: number,
): D1PreparedStatement {
  return db
    .prepare('UPDATE alerts SET cleared_at = ? WHERE kind = ? AND key = ? AND cleared_at IS NULL')
    .bind(nowAt, kind, key)
}

/**
 * Makes the open alerts of a kind those of `alerts`, all of that kind: opens what is new, has the others say what
 * is so now, clears the rest. With `prefix` only keys that begin with it are touched. One transaction; repeats
 * change nothing.
 */
export async function settleAlerts(
  db: D1Database,
  kind: AlertKind,
  alerts: readonly Alert[],
  at: { readonly nowAt: number; readonly prefix?: string | undefined },
): Promise<void> {
  await db.batch(settledAlerts(db, kind, alerts, at))
}

/** The same as statements, to batch with others. */
export function settledAlerts(
  db: D1Database,
  kind: AlertKind,
  alerts: readonly Alert[],
  { nowAt, prefix = '' }: { readonly nowAt: number; readonly prefix?: string | undefined },
): D1PreparedStatement[] {
  return [
    ...alerts.map(({ key, severity, detail, link }) =>
      db
        .prepare(
          `INSERT INTO alerts (kind, key, severity, detail, link, opened_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
           ON CONFLICT (kind, key) WHERE cleared_at IS NULL DO UPDATE SET detail = ?4, link = ?5
           WHERE detail <> ?4 OR link <> ?5`,
        )
        .bind(kind, key, severity, detail, link, nowAt),
    ),
    db
      .prepare(
        `UPDATE alerts SET cleared_at = ?1 WHERE kind = ?2 AND cleared_at IS NULL
         AND substr(key, 1, length(?4)) = ?4 AND key NOT IN (SELECT value FROM json_each(?3))`,
      )
      .bind(nowAt, kind, JSON.stringify(alerts.map(({ key }) => key)), prefix),
  ]
}

/** Marks the dead letters of a queue as done with: their work succeeded by other means. */
export function closeDeadLetters(
  db: D1Database,
  queue: string,
  nowAt: number,
): D1PreparedStatement {
  return db
    .prepare('UPDATE dead_letters SET replayed_at = ? WHERE queue = ? AND replayed_at IS NULL')
    .bind(nowAt, queue)
}

/** A row of `alerts`. */
export interface AlertRow extends Alert {
  readonly openedAt: number
  readonly clearedAt: number | null
}

/** The columns of a row, for a statement that calls the table `a`. */
export const ALERT_COLUMNS =
  'a.kind, a.key, a.severity, a.detail, a.link, a.opened_at AS openedAt, a.cleared_at AS clearedAt'

/**
 * An alert of the log `origin` as anybody may read it: who knows the id of a webhook may ask how it does, so its
 * alert shows the first 16 digits of the id's SHA-256, which its owner and the operator can tell.
 */
export function shownAlert(row: AlertRow, origin: string): AlertFacts {
  const { kind, key, severity, detail, link, openedAt, clearedAt } = row
  const id = alertId({ origin, kind, key, openedAt })
  const shown = { id, kind, key, severity, detail, link, openedAt, clearedAt }
  if (kind !== WEBHOOK_ALERT) return shown
  return { ...shown, key: toHex(sha256(utf8(key))).slice(0, 16), link: '/docs' }
}

/** Alerts that are open, newest first, as anybody may read them; last those that strangers can have opened: they hide no other. */
export async function openAlerts(db: D1Database, origin: string): Promise<AlertFacts[]> {
  const { results } = await db
    .prepare(
      `SELECT ${ALERT_COLUMNS} FROM alerts a WHERE cleared_at IS NULL
       ORDER BY kind = '${WEBHOOK_ALERT}', opened_at DESC, id DESC LIMIT 100`,
    )
    .all<AlertRow>()
  return results.map((row) => shownAlert(row, origin))
}

/** A message that its queue gave up on. */
export interface DeadLetter {
  readonly id: string
  readonly queue: string
  /** The message as JSON. */
  readonly body: string
  readonly receivedAt: number
}

/** Keeps dead letters; one that comes back is open again. */
export async function keepDeadLetters(
  db: D1Database,
  letters: readonly DeadLetter[],
): Promise<void> {
  await db.batch(
    letters.map((l) =>
      db
        .prepare(
          'INSERT INTO dead_letters (id, queue, body, received_at) VALUES (?, ?, ?, ?) ON CONFLICT (id) DO UPDATE SET received_at = excluded.received_at, replayed_at = NULL',
        )
        .bind(l.id, l.queue, l.body, l.receivedAt),
    ),
  )
}

/** Dead letters not replayed yet, oldest first. */
export async function listDeadLetters(db: D1Database): Promise<DeadLetter[]> {
  const { results } = await db
    .prepare(
      'SELECT id, queue, body, received_at AS receivedAt FROM dead_letters WHERE replayed_at IS NULL ORDER BY received_at LIMIT 1000',
    )
    .all<DeadLetter>()
  return results
}

/** Marks a dead letter as replayed. */
export async function markReplayed(db: D1Database, id: string, nowAt: number): Promise<void> {
  await db.prepare('UPDATE dead_letters SET replayed_at = ? WHERE id = ?').bind(nowAt, id).run()
}

/** How many dead letters are open, by queue; a queue without any is left out. */
export async function countDeadLetters(db: D1Database): Promise<ReadonlyMap<string, number>> {
  const { results } = await db
    .prepare(
      'SELECT queue, count(*) AS n FROM dead_letters WHERE replayed_at IS NULL GROUP BY queue',
    )
    .all<{ queue: string; n: number }>()
  return new Map(results.map(({ queue, n }) => [queue, n]))
}
