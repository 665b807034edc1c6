/**
 * Who is told of events: webhooks of one event (the header of a post) and of all events of a DID.
 *
 * A registration is one transaction, and repeating it changes nothing. A URL goes in here and comes out in
 * one place only, store/webhook-outbox.ts, to be called.
 */

import { toBase64Url, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { hashKey } from '#core/hash-key.ts'
import { ALL_TYPES, typesOf, WEBHOOK_TYPES, webhookTypes, type WebhookType } from '#core/webhook.ts'
import type { WebhookTarget } from '#core/webhook-target.ts'

/** Webhooks that a DID, and an event, may have at once. */
export const MAX_HOOKS = 8
/** Rows of one statement: 10,000 lines of a bulk are ten. */
const CHUNK_ROWS = 1000
/** Deliveries that a status shows. */
const SHOWN = 20

/** An event that somebody wants to be told of. */
export interface WatchedEvent {
  readonly eventHash: Uint8Array
  /** The canonical DID of its signer. */
  readonly did: string
}

/**
 * Whose lane a hook on the event in `j` gets. Until an event is sealed only its poster has its bytes; from then on
 * anybody can post them again and be told, but in a lane (of no DID, which has no space in it) and under a
 * limit that are not the poster's.
 */
const STANDING = `iif(EXISTS (SELECT 1 FROM events e INDEXED BY events_hash
  WHERE e.hash_key = j.value->>1 AND e.event_hash = unhex(j.value->>0)), 'late ', '') || (j.value->>2)`

/**
 * Keeps one hook for each event; one that is there already stays as it is. Throws `storage-failed` when D1
 * does not answer and `too-many-webhooks` when an event has eight others of its standing, from before its seal
 * or from after it: the events are kept either way.
 */
export async function keepWatch(
  db: D1Database,
  target: WebhookTarget,
  watched: { readonly events: readonly WatchedEvent[]; readonly nowAt: number },
): Promise<void> {
  // A bulk may hold an event twice.
  const events = [...new Map(watched.events.map((e) => [toHex(e.eventHash), e])).entries()]
  for (let i = 0; i < events.length; i += CHUNK_ROWS) {
    const rows = events
      .slice(i, i + CHUNK_ROWS)
      .map(([hex, { eventHash, did }]) => [hex, hashKey(eventHash), did, newHookName()])
    const json = JSON.stringify(rows)
    const [, , kept] = await guarded(
      db.batch<{ n: number }>([
        db
          .prepare(
            `INSERT INTO webhook_lanes (did, host) SELECT DISTINCT ${STANDING}, ?2 FROM json_each(?1) j WHERE true
             ON CONFLICT DO NOTHING`,
          )
          .bind(json, target.host),
        db
          .prepare(
            `INSERT INTO webhooks (name, event_hash, hash_key, lane_id, url, types, since_leaf, created_at)
             SELECT j.value->>3, unhex(j.value->>0), j.value->>1, l.id, ?3, ${ALL_TYPES}, 0, ?4
             FROM json_each(?1) j CROSS JOIN webhook_lanes l ON l.did = ${STANDING} AND l.host = ?2
             WHERE (SELECT count(*) FROM webhooks w INDEXED BY webhooks_event CROSS JOIN webhook_lanes o
                    ON o.id = w.lane_id AND o.did = l.did WHERE w.event_hash = unhex(j.value->>0) AND w.ended_at IS NULL) < ${MAX_HOOKS}
             ON CONFLICT DO NOTHING`,
          )
          .bind(json, target.host, target.url, watched.nowAt),
        db
          .prepare(
            `SELECT count(*) AS n FROM json_each(?1) j CROSS JOIN webhooks w INDEXED BY webhooks_event
             ON w.event_hash = unhex(j.value->>0) AND w.url = ?2 AND w.ended_at IS NULL`,
          )
          .bind(json, target.url),
      ]),
      'The event is kept, its webhook may not be: post both again.',
    )
    if (kept!.results[0]!.n < rows.length) {
      throw new VaultMeshError(
        'too-many-webhooks',
        `The event is kept; it has ${MAX_HOOKS} webhooks already of those that may be named now.`,
        { extra: { limit: MAX_HOOKS } },
      )
    }
  }
}

/** A registration for all events of a DID, as its signed request asks for it. */
export interface Registration {
  readonly did: string
  /** Names the request among those of the DID. */
  readonly jti: string
  /** Epoch ms. */
  readonly expiresAt: number
  readonly nowAt: number
}

/**
 * Registers `target` for the DID's events sealed from now on, or changes the types of a registration that
 * is there; returns its id, and whether it has ended since. The same request again gets the same id and
 * changes nothing. Throws `too-many-webhooks`, `bad-webhook` for a jti of another request, `storage-failed`.
 */
export async function registerHook(
  db: D1Database,
  request: Registration & { readonly target: WebhookTarget; readonly types: number },
): Promise<{ readonly name: string; readonly ended: boolean }> {
  const { did, target, nowAt } = request
  const key = requestKey(request)
  const name = newHookName()
  const isNew = 'NOT EXISTS (SELECT 1 FROM webhook_requests WHERE key = ?1)'
  const results = await guarded(
    db.batch<{ hook: string; url: string; ended: number }>([
      db
        .prepare(
          'INSERT INTO webhook_lanes (did, host) SELECT ?, ? WHERE true ON CONFLICT DO NOTHING',
        )
        .bind(did, target.host),
      db
        .prepare(
          `INSERT INTO webhooks (name, did, lane_id, url, types, since_leaf, created_at)
           SELECT ?2, ?3, l.id, ?4, ?5,
             coalesce((SELECT tree_size FROM batches WHERE committed = 1 ORDER BY height DESC LIMIT 1), 0), ?6
           FROM webhook_lanes l WHERE l.did = ?3 AND l.host = ?7 AND ${isNew}
             AND ((SELECT count(*) FROM webhooks WHERE did = ?3 AND ended_at IS NULL) < ${MAX_HOOKS}
               OR EXISTS (SELECT 1 FROM webhooks WHERE did = ?3 AND url = ?4 AND ended_at IS NULL))
           ON CONFLICT (did, url) WHERE did IS NOT NULL AND ended_at IS NULL DO UPDATE SET types = excluded.types`,
        )
        .bind(key, name, did, target.url, request.types, nowAt, target.host),
      db
        .prepare(
          `INSERT INTO webhook_requests (key, hook, expires_at)
           SELECT ?1, name, ?4 FROM webhooks WHERE did = ?2 AND url = ?3 AND ended_at IS NULL AND ${isNew}`,
        )
        .bind(key, did, target.url, request.expiresAt),
      db
        .prepare(
          `SELECT r.hook, coalesce(w.url, '') AS url, w.id IS NULL OR w.ended_at IS NOT NULL AS ended
           FROM webhook_requests r LEFT JOIN webhooks w ON w.name = r.hook WHERE r.key = ?`,
        )
        .bind(key),
    ]),
    'Send the request again: the same one is obeyed once.',
  )
  const row = results[3]!.results[0]
  if (row === undefined) {
    throw new VaultMeshError('too-many-webhooks', `This DID has ${MAX_HOOKS} webhooks already.`, {
      extra: { limit: MAX_HOOKS },
    })
  }
  const ended = row.ended === 1
  if (!ended && row.url !== target.url)
    throw new VaultMeshError('bad-webhook', 'The webhook request is refused: its "jti" was used.')
  return { name: row.hook, ended }
}

/** Ends a registration of the DID and forgets its URL. Throws `not-found`, `storage-failed`. */
export async function endHook(
  db: D1Database,
  request: Registration & { readonly name: string },
): Promise<void> {
  const { did, name, nowAt } = request
  const [, found] = await guarded(
    db.batch([
      db
        .prepare(
          `UPDATE webhooks SET ended_at = ?, url = '' WHERE name = ? AND did = ? AND ended_at IS NULL`,
        )
        .bind(nowAt, name, did),
      db.prepare('SELECT 1 FROM webhooks WHERE name = ? AND did = ?').bind(name, did),
    ]),
    'Send the request again: the same one is obeyed once.',
  )
  if (found!.results.length === 0)
    throw new VaultMeshError('not-found', 'This DID has no webhook of that id.')
}

/** How a webhook does; its URL is not part of it. */
export interface HookStatus {
  readonly id: string
  readonly state: 'active' | 'ended'
  readonly types: readonly WebhookType[]
  readonly createdAt: number
  /** Attempts at its host that failed since one succeeded. */
  readonly failures: number
  /** When its host is tried next, or null if nothing waits. */
  readonly nextAt: number | null
  /** The newest leaves first. */
  readonly deliveries: readonly {
    readonly type: WebhookType
    readonly leafIndex: number
    readonly rail: string
    readonly state: string
    readonly failures: number
    readonly result: string | null
  }[]
}

/** The status of a webhook, or null. */
export async function hookStatus(db: D1Database, name: string): Promise<HookStatus | null> {
  const [hooks, rows] = await db.batch<Record<string, string & number>>([
    db
      .prepare(
        `SELECT w.types, w.created_at AS createdAt, w.ended_at AS endedAt, l.failures, l.due_at AS nextAt
         FROM webhooks w JOIN webhook_lanes l ON l.id = w.lane_id WHERE w.name = ?`,
      )
      .bind(name),
    db
      .prepare(
        `SELECT type, leaf_index AS leafIndex, rail, state, failures, result FROM webhook_deliveries
         WHERE hook_id = (SELECT id FROM webhooks WHERE name = ?) ORDER BY leaf_index DESC, type DESC LIMIT ${SHOWN}`,
      )
      .bind(name),
  ])
  const hook = hooks!.results[0]
  if (hook === undefined) return null
  return {
    id: name,
    state: hook['endedAt'] === null ? 'active' : 'ended',
    types: typesOf(hook['types']!),
    createdAt: hook['createdAt']!,
    failures: hook['failures']!,
    nextAt: hook['nextAt']!,
    deliveries: rows!.results.map((row) => ({
      type: typeOf(row['type']!),
      leafIndex: row['leafIndex']!,
      rail: row['rail']!,
      state: row['state']!,
      failures: row['failures']!,
      result: row['result']!,
    })),
  }
}

/** The type of a bit. */
export function typeOf(bit: number): WebhookType {
  return WEBHOOK_TYPES.find((type) => webhookTypes[type] === bit)!
}

function requestKey({ did, jti }: Registration): string {
  return `${did}\n${jti}`
}

function newHookName(): string {
  return `wh_${toBase64Url(crypto.getRandomValues(new Uint8Array(16)))}`
}

async function guarded<T>(promise: Promise<T>, then: string): Promise<T> {
  try {
    return await promise
  } catch (cause) {
    throw new VaultMeshError('storage-failed', `The webhook store did not answer. ${then}`, {
      cause,
    })
  }
}
