/**
 * The outbox of alerts that the node itself tells others of: which target was told what of which alert.
 *
 * What is due is derived from `alerts` alone, so whoever opens or clears one need not know of targets. One hand at a
 * time works on a target: taking it sets `due_at` to the end of the lease and counts `version`, so a crash gives it
 * back by itself and a late hand cannot release it. A crash or a lost reply between sending and writing sends the
 * same again, under the same id; what was told as resolved is never told as open again.
 */

import { alertKinds, type AlertFacts, type AlertSource, type AlertState } from '#core/alert.ts'
import { retryDelay } from '#core/anchor-state.ts'
import { ALERT_COLUMNS, shownAlert, type AlertRow } from '#store/alerts.ts'
import type { NodeContext } from '#store/node.ts'

/** Alerts of one look: as many as `openAlerts` shows. */
const MAX_PUSHES = 100
/** Longer than a run can take: sends start within 20 s and take ≤ 5 s each. */
const LEASE_MS = 60_000
/** What was cleared longer ago than this and still not told is given up. */
const GIVE_UP_MS = 3 * 86_400_000
const KEEP_MS = 30 * 86_400_000
/** 30, 60, 120, 240, 240 s: an operator's own receiver is never left alone for longer than four minutes. */
const MAX_STEPS = 4
/** Nothing waits longer than this: what is due later was written by a clock that was set back since. */
const MAX_WAIT_MS = 600_000

/** Who is told: their addresses are in the settings alone. */
export type TargetName = 'alertmanager' | 'webhook'

/** A target that is ours until its lease ends. */
export interface Target {
  readonly name: TargetName
  readonly failures: number
  readonly version: number
  readonly since: number
}

/** One thing to tell. */
export interface Push {
  readonly alertId: number
  readonly state: AlertState
  readonly alert: AlertFacts
  readonly failures: number
}

/** Takes a target, or returns null if it is not due or somebody else has it. */
export async function takeTarget(
  db: D1Database,
  name: TargetName,
  nowAt: number,
): Promise<Target | null> {
  const [, , taken] = await db.batch<Target>([
    db
      .prepare(
        'INSERT INTO alert_targets (name, since, due_at) VALUES (?1, ?2, 0) ON CONFLICT DO NOTHING',
      )
      .bind(name, nowAt),
    db
      .prepare(
        `DELETE FROM alert_pushes WHERE target = ?1
         AND EXISTS (SELECT 1 FROM alerts a WHERE a.id = alert_id AND a.cleared_at < ?2)`,
      )
      .bind(name, nowAt - KEEP_MS),
    db
      .prepare(
        `UPDATE alert_targets SET due_at = ?2 + ${LEASE_MS}, version = version + 1, since = min(since, ?2)
         WHERE name = ?1 AND (due_at <= ?2 OR due_at > ?2 + ${MAX_WAIT_MS}) RETURNING name, failures, version, since`,
      )
      .bind(name, nowAt),
  ])
  return taken!.results[0] ?? null
}

/**
 * What is due, of the alerts that are open or were of late, not of all there ever were: first what is new, by alert,
 * then what is told again, by when it was told. So old alerts, however many, hide no new one.
 */
export const DUE = `SELECT a.id, ${ALERT_COLUMNS}, p.told, coalesce(p.failures, 0) AS failures
FROM alerts a LEFT JOIN alert_pushes p ON p.target = ?1 AND p.alert_id = a.id
WHERE a.id IN (SELECT id FROM alerts INDEXED BY alerts_open WHERE cleared_at IS NULL
    UNION ALL SELECT id FROM alerts INDEXED BY alerts_cleared WHERE cleared_at IS NOT NULL AND cleared_at >= ?4)
  AND (coalesce(p.next_at, 0) <= ?2 OR p.next_at > ?2 + ${MAX_WAIT_MS})
  AND CASE WHEN a.cleared_at IS NULL THEN coalesce(p.told, '') = '' OR p.told_at <= ?3 OR (?3 >= 0 AND p.told_at > ?2)
      ELSE coalesce(p.told, '') <> 'resolved' END
ORDER BY iif(a.cleared_at IS NULL AND p.told = 'opened', p.told_at, -1), a.id LIMIT ${MAX_PUSHES}`

/**
 * What a target has to be told at `nowAt`. One that keeps a history is told of the opening first, also if the alert
 * is over by then; one that keeps a state is told how it is. `repeatMs`: an open alert is told again after so long.
 */
export async function duePushes(
  db: D1Database,
  target: Target,
  at: {
    readonly nowAt: number
    readonly origin: string
    readonly keepsHistory: boolean
    readonly repeatMs: number | null
  },
): Promise<Push[]> {
  const { nowAt, origin, keepsHistory, repeatMs } = at
  const { results } = await db
    .prepare(DUE)
    .bind(
      target.name,
      nowAt,
      repeatMs === null ? -1 : nowAt - repeatMs,
      Math.max(target.since, nowAt - GIVE_UP_MS),
    )
    .all<AlertRow & { id: number; told: string | null; failures: number }>()
  return (
    results
      // A row of another version of this code.
      .filter(({ kind }) => Object.hasOwn(alertKinds, kind))
      .map(({ id, told, failures, ...row }) => {
        const isOver = row.clearedAt !== null && (!keepsHistory || told === 'opened')
        return {
          alertId: id,
          state: isOver ? 'resolved' : 'opened',
          alert: shownAlert(row, origin),
          failures,
        }
      })
  )
}

/** What became of a look. */
export interface Told {
  readonly taken: readonly Push[]
  /** Refused, each with what the target answered in a word. */
  readonly refused: readonly { readonly push: Push; readonly result: string }[]
  /** The target did not answer at all. */
  readonly isDown: boolean
}

/**
 * Writes what became of a look and gives the target back, in one transaction. `random` in [0, 1) spreads the next
 * attempt. Returns when that is (epoch ms), or null if nothing failed.
 */
export async function endPushes(
  db: D1Database,
  target: Target,
  told: Told,
  { nowAt, random }: { readonly nowAt: number; readonly random: number },
): Promise<number | null> {
  const later = (failures: number): number =>
    nowAt + 1000 * retryDelay(Math.min(failures, MAX_STEPS), random).delay
  const failures = told.isDown ? target.failures + 1 : told.taken.length > 0 ? 0 : target.failures
  const againAt = told.refused.map(({ push }) => later(push.failures + 1))
  if (told.isDown) againAt.push(later(failures))
  await db.batch([
    ...told.taken.map(({ alertId, state }) =>
      db
        .prepare(
          `INSERT INTO alert_pushes (target, alert_id, told, told_at) VALUES (?1, ?2, ?3, ?4)
           ON CONFLICT (target, alert_id) DO UPDATE SET told = ?3, told_at = ?4, failures = 0, next_at = 0, result = NULL
           WHERE told <> 'resolved'`,
        )
        .bind(target.name, alertId, state, nowAt),
    ),
    ...told.refused.map(({ push, result }) =>
      db
        .prepare(
          `INSERT INTO alert_pushes (target, alert_id, told, told_at, failures, next_at, result) VALUES (?1, ?2, '', 0, ?3, ?4, ?5)
           ON CONFLICT (target, alert_id) DO UPDATE SET failures = ?3, next_at = ?4, result = ?5`,
        )
        .bind(target.name, push.alertId, push.failures + 1, later(push.failures + 1), result),
    ),
    db
      .prepare(
        'UPDATE alert_targets SET failures = ?3, due_at = ?4 WHERE name = ?1 AND version = ?2',
      )
      .bind(target.name, target.version, failures, told.isDown ? later(failures) : 0),
  ])
  return againAt.length === 0 ? null : Math.min(...againAt)
}

/** Who says so, in what is pushed. */
export function sourceOf({ config, nodeDid }: NodeContext): AlertSource {
  const { nodeId, origin, logNumber, publicUrl } = config
  return { nodeDid, nodeId, origin, logNumber, publicUrl }
}
