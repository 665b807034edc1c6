/**
 * What is due to whom: derived from the index and the receipts, never from a message or a tick.
 *
 * A cursor for each kind of notice says below which leaf everybody was told: `sealed`, one for each rail
 * that has receipts, `final`. A step takes the next leaves, inserts their deliveries and moves the cursor in
 * one transaction, so a crash or a doubled call repeats nothing and skips nothing. `final` ≤ the rails ≤
 * `sealed` ≤ the committed index.
 *
 * A hook that comes after its event (a repeated post) is behind those cursors: the cursor `hooks` walks over
 * new hooks and gives each what the others already passed. Ids grow in the order of commits, so every pair of
 * hook and leaf meets exactly one of the two walks, whichever comes second.
 */

import { webhookTypes, type WebhookType } from '#core/webhook.ts'

/** Leaves of one step: ≤ 16 hooks each, and D1 has 30 s for a step that takes ≈ 9 ms (measured). */
const STEP_LEAVES = 2000
/** New hooks of one step. */
const STEP_HOOKS = 500
/** Steps of one call: what is left is the next call's. */
const MAX_STEPS = 100

interface Kind {
  readonly chain: string
  readonly network: string
  readonly method: string
  /** Leaves that its receipts cover. */
  readonly size: number
}

interface Picture {
  readonly leaves: number
  readonly newestHook: number
  readonly live: boolean
  readonly kinds: readonly Kind[]
  readonly cursors: Map<string, number>
}

/**
 * Inserts the deliveries that are due. `rails` are the chains an event must be anchored on to be final.
 * Returns true if there is more to do than one call takes.
 */
export async function dispatchWebhooks(
  db: D1Database,
  rails: readonly string[],
  nowAt: number,
): Promise<boolean> {
  const seen = await look(db)
  const { cursors } = seen
  const at = (name: string): number => cursors.get(name) ?? 0
  let steps = 0
  /** Walks the cursor `name` up to `to` by `step`; false if the call's steps are used up. */
  const walk = async (name: string, to: number, stepOf: (from: number) => Promise<number>) => {
    while (at(name) < to) {
      if (steps++ >= MAX_STEPS) return false
      cursors.set(name, await stepOf(at(name)))
    }
    return true
  }
  const leavesUpTo = (notice: Notice, to: number) =>
    walk(notice.cursor, to, async (from) => {
      // Nobody to tell: the cursor goes by itself, whatever the distance.
      const next = seen.live ? Math.min(to, from + STEP_LEAVES) : to
      await tell(db, notice, { from, to: next, live: seen.live, nowAt })
      return next
    })

  const sealed: Notice = { type: 'event.sealed', cursor: 'sealed', rail: '', receiptId: 0 }
  if (!(await leavesUpTo(sealed, seen.leaves))) return true
  for (const kind of seen.kinds) {
    const rail = railName(kind)
    const covered = Math.min(kind.size, at('sealed'))
    while (at(rail) < covered) {
      const receipt = seen.live ? await receiptAfter(db, kind, at(rail)) : null
      const notice: Notice = {
        type: 'anchor.verified',
        cursor: rail,
        rail,
        receiptId: receipt?.id ?? 0,
      }
      const to = Math.min(receipt?.size ?? covered, covered)
      if (!(await leavesUpTo(notice, to))) return true
    }
  }
  const final: Notice = { type: 'event.final', cursor: 'final', rail: '', receiptId: 0 }
  if (!(await leavesUpTo(final, finalLeaves(rails, seen.kinds, at)))) return true
  return !(await walk('hooks', seen.newestHook, async (from) => {
    const next = Math.min(seen.newestHook, from + STEP_HOOKS)
    await catchUp(db, { from, to: next, nowAt })
    return next
  }))
}

interface Notice {
  readonly type: WebhookType
  readonly cursor: string
  readonly rail: string
  readonly receiptId: number
}

async function look(db: D1Database): Promise<Picture> {
  const [state, kinds, cursors] = await db.batch<Record<string, unknown>>([
    db.prepare(
      `SELECT coalesce((SELECT tree_size FROM batches WHERE committed = 1 ORDER BY height DESC LIMIT 1), 0) AS leaves,
         coalesce((SELECT max(id) FROM webhooks), 0) AS newestHook,
         EXISTS (SELECT 1 FROM webhooks INDEXED BY webhooks_live WHERE ended_at IS NULL) AS live`,
    ),
    db.prepare(
      `SELECT chain, network, method,
         (SELECT tree_size FROM receipts r WHERE r.chain = k.chain AND r.network = k.network AND r.method = k.method
          ORDER BY tree_size DESC LIMIT 1) AS size FROM rails k`,
    ),
    db.prepare('SELECT name, at FROM webhook_cursors'),
  ])
  const { leaves, newestHook, live } = state!.results[0] as Record<string, number>
  return {
    leaves: leaves!,
    newestHook: newestHook!,
    live: live === 1,
    kinds: (kinds!.results as unknown as Kind[]).filter(({ size }) => size !== null),
    cursors: new Map(
      (cursors!.results as { name: string; at: number }[]).map(({ name, at }) => [name, at]),
    ),
  }
}

/** The receipt of a kind that covers the leaf `from`: the smallest tree that holds it. */
async function receiptAfter(
  db: D1Database,
  kind: Kind,
  from: number,
): Promise<{ readonly id: number; readonly size: number } | null> {
  return db
    .prepare(
      'SELECT id, tree_size AS size FROM receipts WHERE chain = ? AND network = ? AND method = ? AND tree_size > ? ORDER BY tree_size LIMIT 1',
    )
    .bind(kind.chain, kind.network, kind.method, from)
    .first()
}

/** Leaves that have been told of an anchor on every rail. */
function finalLeaves(
  rails: readonly string[],
  kinds: readonly Kind[],
  at: (name: string) => number,
): number {
  if (rails.length === 0) return 0
  return Math.min(
    ...rails.map((chain) =>
      Math.max(0, ...kinds.filter((k) => k.chain === chain).map((k) => at(railName(k)))),
    ),
  )
}

function railName({ chain, network, method }: Omit<Kind, 'size'>): string {
  return `${chain}/${network}/${method}`
}

const COLUMNS =
  'INSERT INTO webhook_deliveries (hook_id, lane_id, type, leaf_index, rail, receipt_id, next_at, created_at, updated_at)'

/** The hooks of an event's signer; names are stored as written, hooks in canonical form. */
export const TELL_SIGNERS = `${COLUMNS}
SELECT w.id, w.lane_id, ?1, e.leaf_index, ?2, ?3, ?4, ?4, ?4
FROM events e CROSS JOIN names s ON s.id = e.source_id
  CROSS JOIN webhooks w INDEXED BY webhooks_did
    ON w.did = iif(substr(s.name, 1, 8) = 'did:pkh:', lower(s.name), s.name) AND w.ended_at IS NULL
WHERE e.leaf_index >= ?5 AND e.leaf_index < ?6 AND w.since_leaf <= e.leaf_index AND w.types & ?1
  AND ?5 = coalesce((SELECT at FROM webhook_cursors WHERE name = ?7), 0)
ON CONFLICT DO NOTHING`

/** The hooks of an event itself. */
export const TELL_POSTERS = `${COLUMNS}
SELECT w.id, w.lane_id, ?1, e.leaf_index, ?2, ?3, ?4, ?4, ?4
FROM events e CROSS JOIN webhooks w INDEXED BY webhooks_event ON w.event_hash = e.event_hash AND w.ended_at IS NULL
WHERE e.leaf_index >= ?5 AND e.leaf_index < ?6 AND w.types & ?1
  AND ?5 = coalesce((SELECT at FROM webhook_cursors WHERE name = ?7), 0)
ON CONFLICT DO NOTHING`

async function tell(
  db: D1Database,
  notice: Notice,
  step: {
    readonly from: number
    readonly to: number
    readonly live: boolean
    readonly nowAt: number
  },
): Promise<void> {
  const { type, cursor, rail, receiptId } = notice
  const binds = [webhookTypes[type], rail, receiptId, step.nowAt, step.from, step.to, cursor]
  const moved = moveCursor(db, cursor, step)
  if (!step.live) {
    await moved.run()
    return
  }
  await db.batch([
    db.prepare(TELL_SIGNERS).bind(...binds),
    db.prepare(TELL_POSTERS).bind(...binds),
    ...announce(db, step.nowAt),
    moved,
  ])
}

/** New hooks of events that the cursors passed already. */
export const CATCH_UP: readonly string[] = [
  caughtUp('event.sealed', `''`, '0', 'webhook_cursors c', `c.name = 'sealed'`),
  caughtUp(
    'anchor.verified',
    'c.name',
    `(SELECT id FROM receipts r WHERE r.chain = k.chain AND r.network = k.network AND r.method = k.method
      AND r.tree_size > e.leaf_index ORDER BY tree_size LIMIT 1)`,
    'rails k CROSS JOIN webhook_cursors c',
    `c.name = k.chain || '/' || k.network || '/' || k.method`,
  ),
  caughtUp('event.final', `''`, '0', 'webhook_cursors c', `c.name = 'final'`),
]

function caughtUp(
  type: WebhookType,
  rail: string,
  receipt: string,
  ...[tables, on]: readonly [string, string]
): string {
  return `${COLUMNS}
SELECT w.id, w.lane_id, ${webhookTypes[type]}, e.leaf_index, ${rail}, ${receipt}, ?1, ?1, ?1
FROM webhooks w CROSS JOIN events e INDEXED BY events_hash ON e.hash_key = w.hash_key AND e.event_hash = w.event_hash
  CROSS JOIN ${tables} ON ${on} AND c.at > e.leaf_index
WHERE w.id > ?2 AND w.id <= ?3 AND w.ended_at IS NULL AND w.types & ${webhookTypes[type]}
ON CONFLICT DO NOTHING`
}

async function catchUp(
  db: D1Database,
  step: { readonly from: number; readonly to: number; readonly nowAt: number },
): Promise<void> {
  await db.batch([
    ...CATCH_UP.map((sql) => db.prepare(sql).bind(step.nowAt, step.from, step.to)),
    ...announce(db, step.nowAt),
    moveCursor(db, 'hooks', step),
  ])
}

/** Wakes the lanes of deliveries that are new: those since the last announcement. */
function announce(db: D1Database, nowAt: number): D1PreparedStatement[] {
  return [
    db
      .prepare(
        `UPDATE webhook_lanes SET due_at = ? WHERE due_at IS NULL AND id IN (SELECT lane_id FROM webhook_deliveries
         WHERE id > coalesce((SELECT at FROM webhook_cursors WHERE name = 'announced'), 0))`,
      )
      .bind(nowAt),
    db.prepare(
      `INSERT INTO webhook_cursors (name, at) SELECT 'announced', coalesce(max(id), 0) FROM webhook_deliveries WHERE true
       ON CONFLICT (name) DO UPDATE SET at = max(at, excluded.at)`,
    ),
  ]
}

/** Moves a cursor on, if it stands where this step began. */
function moveCursor(
  db: D1Database,
  name: string,
  step: { readonly from: number; readonly to: number },
): D1PreparedStatement {
  return db
    .prepare(
      'INSERT INTO webhook_cursors (name, at) VALUES (?1, ?3) ON CONFLICT (name) DO UPDATE SET at = ?3 WHERE at = ?2',
    )
    .bind(name, step.from, step.to)
}
