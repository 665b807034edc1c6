/**
 * Alerts and dead letters: what an operator must see, once, until it is over.
 */

import { toHex, utf8 } from '#core/bytes.ts'
import { sha256 } from '#core/sha256.ts'

/** About a webhook; its key is the id. */
export const WEBHOOK_ALERT = 'webhook_failing'

/** An alert that is open or was. */
export interface Alert {
  readonly kind: string
  /** What it is about: one open alert for each kind and key. */
  readonly key: string
  readonly severity: 'warning' | 'critical'
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

/**
 * Alerts that are open, newest first, as anybody may read them: who knows the id of a webhook may ask how it does,
 * so its alert shows the first 16 digits of the id's SHA-256, which its owner and the operator can tell.
 */
export async function openAlerts(db: D1Database): Promise<(Alert & { openedAt: number })[]> {
  const { results } = await db
    .prepare(
      'SELECT kind, key, severity, detail, link, opened_at AS openedAt FROM alerts WHERE cleared_at IS NULL ORDER BY opened_at DESC LIMIT 100',
    )
    .all<Alert & { openedAt: number }>()
  return results.map((alert) => {
    if (alert.kind !== WEBHOOK_ALERT) return alert
    return { ...alert, key: toHex(sha256(utf8(alert.key))).slice(0, 16), link: '/docs' }
  })
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
