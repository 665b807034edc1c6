/**
 * The D1 schema: an index over the log, the anchor outbox and what operators must see.
 *
 * Rows of `events` and `batches` re-derive from R2 and the Sequencer, the receipts are in R2 as well; webhooks
 * alone have no other copy.
 * Keys are chosen for insert rate. A random unique index is the storage ceiling of SQLite (measured:
 * 22,000 rows/s at 300,000 rows against 150,000 for a growing key), so rows are keyed by leaf index and
 * a hash is found by its first 53 bits as an integer (not unique; the full hash is compared).
 * Search orders by time within an indexed column, so every index grows nearly at its right edge.
 */

import { sql } from 'drizzle-orm'
import {
  blob,
  index,
  integer,
  primaryKey,
  real,
  sqliteTable,
  text,
  uniqueIndex,
} from 'drizzle-orm/sqlite-core'

/** Sources and types, stored once: an integer of two bytes stands for 60 characters in every row. */
export const names = sqliteTable(
  'names',
  { id: integer().primaryKey(), kind: text().notNull(), name: text().notNull() },
  (t) => [uniqueIndex('names_kind_name').on(t.kind, t.name)],
)

/**
 * One row for each sealed event. Of an erased one what its bytes said is gone: empty id, source and type 0, which no
 * name has, no subject, and a time below all others.
 */
export const events = sqliteTable(
  'events',
  {
    leafIndex: integer('leaf_index').primaryKey(),
    hashKey: integer('hash_key').notNull(),
    eventHash: blob('event_hash', { mode: 'buffer' }).notNull(),
    eventId: text('event_id').notNull(),
    sourceId: integer('source_id').notNull(),
    typeId: integer('type_id').notNull(),
    subject: text(),
    timeAt: integer('time_at').notNull(),
    height: integer().notNull(),
    /** Where the bytes are in R2: part of the batch's bundle, offset and length in bytes. */
    part: integer().notNull(),
    offset: integer().notNull(),
    length: integer().notNull(),
  },
  (t) => [
    index('events_hash').on(t.hashKey),
    index('events_time').on(t.timeAt),
    index('events_source').on(t.sourceId, t.timeAt),
    index('events_type').on(t.typeId, t.timeAt),
    index('events_subject')
      .on(t.subject, t.timeAt)
      .where(sql`subject IS NOT NULL`),
  ],
)

/** One row for each batch. `committed` is 0 until the head was swapped and the index is whole. */
export const batches = sqliteTable(
  'batches',
  {
    height: integer().primaryKey(),
    firstIndex: integer('first_index').notNull(),
    count: integer().notNull(),
    treeSize: integer('tree_size').notNull(),
    root: text().notNull(),
    sealedAt: integer('sealed_at').notNull(),
    manifest: text().notNull(),
    checkpoint: text().notNull(),
    /** Parts of the event bundle in R2. */
    parts: integer().notNull(),
    committed: integer().notNull().default(0),
  },
  // A random key, but one row a seal, not one an event.
  (t) => [index('batches_root').on(t.root)],
)

/**
 * What each `vm.erased` event of the log asks for, and how far it was carried out (store/erasures.ts). Rows re-derive
 * from the events; ids are their leaf indices.
 */
export const erasures = sqliteTable(
  'erasures',
  {
    id: integer().primaryKey(),
    /** Hash of the event that is to go. */
    target: blob({ mode: 'buffer' }).notNull(),
    /** The vm.erased event, a compact JWS: what a tombstone carries over the wire. */
    event: text().notNull(),
    /** due | done | asked (the operator's own event was posted) | refused */
    state: text().notNull().default('due'),
    /** Stores scrubbed so far, in order: pools, index, bundle, names. */
    step: integer().notNull().default(0),
    /** Leaf of the erased event, once the index forgot it. */
    targetLeaf: integer('target_leaf'),
    /** Names that the row of the target had, `source,type`; cleared with them. */
    names: text(),
    why: text(),
    failures: integer().notNull().default(0),
    nextAt: integer('next_at').notNull().default(0),
    doneAt: integer('done_at'),
  },
  (t) => [
    index('erasures_due')
      .on(t.nextAt)
      .where(sql`state = 'due'`),
    index('erasures_target').on(t.target),
    index('erasures_leaf')
      .on(t.targetLeaf)
      .where(sql`target_leaf IS NOT NULL`),
  ],
)

/** The anchor outbox: one row for each root, chain, network and method, for ever. */
export const anchors = sqliteTable(
  'anchors',
  {
    id: integer().primaryKey(),
    root: text().notNull(),
    treeSize: integer('tree_size').notNull(),
    chain: text().notNull(),
    network: text().notNull(),
    method: text().notNull(),
    state: text().notNull(),
    /** Failed attempts since the last success; the exponent of the backoff. */
    failures: integer().notNull().default(0),
    attempts: integer().notNull().default(0),
    nextAt: integer('next_at').notNull(),
    leaseUntil: integer('lease_until').notNull().default(0),
    version: integer().notNull().default(0),
    /** The rail's own state as JSON: a nonce, signed transactions. Written before the network is. */
    work: text(),
    reason: text(),
    /** Who was asked last and why, as JSON `{name, why}`. */
    provider: text(),
    delayMs: integer('delay_ms').notNull().default(0),
    /** Where the transaction stands while it is in a block but not final, as JSON. */
    inclusion: text(),
    /** 1 when an operator has looked at a held job and wants it tried, once. */
    released: integer().notNull().default(0),
    createdAt: integer('created_at').notNull(),
    updatedAt: integer('updated_at').notNull(),
  },
  (t) => [
    uniqueIndex('anchors_job').on(t.root, t.chain, t.network, t.method),
    index('anchors_due')
      .on(t.nextAt)
      .where(sql`state NOT IN ('final', 'failed')`),
  ],
)

/** The newest attempts of each job: what the schedule was, so that a backoff can be seen afterwards. */
export const anchorAttempts = sqliteTable(
  'anchor_attempts',
  {
    id: integer().primaryKey(),
    anchorId: integer('anchor_id').notNull(),
    attempt: integer().notNull(),
    at: integer().notNull(),
    /** State it ended in, or `error`. */
    outcome: text().notNull(),
    failures: integer().notNull(),
    delayMs: integer('delay_ms').notNull(),
    nextAt: integer('next_at').notNull(),
    provider: text(),
    reason: text(),
  },
  (t) => [index('anchor_attempts_job').on(t.anchorId, t.id)],
)

/** What is known of each rail's providers (queues/anchors/route.ts). */
export const providers = sqliteTable(
  'providers',
  {
    chain: text().notNull(),
    network: text().notNull(),
    name: text().notNull(),
    success: real().notNull(),
    latencyMs: real('latency_ms').notNull(),
    calls: integer().notNull(),
    failures: integer().notNull(),
    openUntil: integer('open_until').notNull(),
    lastError: text('last_error'),
    updatedAt: integer('updated_at').notNull(),
  },
  (t) => [primaryKey({ columns: [t.chain, t.network, t.name] })],
)

/** Verified anchor receipts; a row is never updated. */
export const receipts = sqliteTable(
  'receipts',
  {
    id: integer().primaryKey(),
    root: text().notNull(),
    treeSize: integer('tree_size').notNull(),
    chain: text().notNull(),
    network: text().notNull(),
    method: text().notNull(),
    txHash: text('tx_hash').notNull(),
    anchorAt: integer('anchor_at').notNull(),
    json: text().notNull(),
    /** How many receipts of this job were revoked before this one: 0 but after a deep reorganisation. */
    revision: integer().notNull().default(0),
  },
  (t) => [
    uniqueIndex('receipts_job').on(t.root, t.chain, t.network, t.method, t.revision),
    index('receipts_cover').on(t.chain, t.network, t.method, t.treeSize),
    index('receipts_tx').on(t.txHash),
  ],
)

/** Receipts that the chain contradicted later; the receipt stays, nothing lists it any more. */
export const revocations = sqliteTable('revocations', {
  receiptId: integer('receipt_id').primaryKey(),
  /** The revocation record as JSON, as it lies in R2. */
  json: text().notNull(),
  at: integer().notNull(),
})

/** Receipts of chains that are still held against their chain, and when next; a few hundred rows. */
export const receiptChecks = sqliteTable(
  'receipt_checks',
  { receiptId: integer('receipt_id').primaryKey(), dueAt: integer('due_at').notNull() },
  (t) => [index('receipt_checks_due').on(t.dueAt)],
)

/** Kinds of anchors that have receipts: a few rows, so that a receipt need not ask a long table which exist. */
export const rails = sqliteTable(
  'rails',
  { chain: text().notNull(), network: text().notNull(), method: text().notNull() },
  (t) => [primaryKey({ columns: [t.chain, t.network, t.method] })],
)

/** What an operator must look at; open while `clearedAt` is null, one open row for each kind and key. */
export const alerts = sqliteTable(
  'alerts',
  {
    id: integer().primaryKey(),
    kind: text().notNull(),
    key: text().notNull(),
    severity: text().notNull(),
    detail: text().notNull(),
    link: text().notNull(),
    openedAt: integer('opened_at').notNull(),
    clearedAt: integer('cleared_at'),
  },
  (t) => [
    uniqueIndex('alerts_open')
      .on(t.kind, t.key)
      .where(sql`cleared_at IS NULL`),
    index('alerts_cleared')
      .on(t.clearedAt)
      .where(sql`cleared_at IS NOT NULL`),
  ],
)

/** Whom the node itself tells of alerts: one row for each configured target, from when on. */
export const alertTargets = sqliteTable('alert_targets', {
  /** alertmanager | webhook; where it is stands in the settings alone. */
  name: text().primaryKey(),
  /** What was cleared before nobody is told of. */
  since: integer().notNull(),
  /** Runs in a row in which it took nothing: the exponent of the backoff. */
  failures: integer().notNull().default(0),
  /** When to try again, or until when somebody does. */
  dueAt: integer('due_at').notNull(),
  version: integer().notNull().default(0),
})

/** What each target was told of each alert last: no row, nothing yet. */
export const alertPushes = sqliteTable(
  'alert_pushes',
  {
    target: text().notNull(),
    alertId: integer('alert_id').notNull(),
    /** opened | resolved; empty while no attempt succeeded. */
    told: text().notNull(),
    toldAt: integer('told_at').notNull(),
    /** Failed attempts since the last success, and when the next one may be. */
    failures: integer().notNull().default(0),
    nextAt: integer('next_at').notNull().default(0),
    /** What the last attempt met. */
    result: text(),
  },
  (t) => [primaryKey({ columns: [t.target, t.alertId] })],
)

/** What the watchers remember between two looks (store/watch.ts): a few rows of JSON. */
export const watchState = sqliteTable('watch_state', {
  name: text().primaryKey(),
  /** When it may be looked at again. */
  dueAt: integer('due_at').notNull(),
  value: text().notNull(),
})

/** Messages a queue gave up on; the work they name is still in storage. */
export const deadLetters = sqliteTable(
  'dead_letters',
  {
    id: text().primaryKey(),
    queue: text().notNull(),
    body: text().notNull(),
    receivedAt: integer('received_at').notNull(),
    replayedAt: integer('replayed_at'),
  },
  (t) => [
    index('dead_letters_open')
      .on(t.queue, t.receivedAt)
      .where(sql`replayed_at IS NULL`),
  ],
)

/** Who is told of events: one row for each URL of a DID or of an event. */
export const webhooks = sqliteTable(
  'webhooks',
  {
    /** Never given twice: the cursor over new hooks counts on it. */
    id: integer().primaryKey({ autoIncrement: true }),
    /** The id that clients see. */
    name: text().notNull(),
    /** Whose events it is for, in canonical form; or else which event. */
    did: text(),
    eventHash: blob('event_hash', { mode: 'buffer' }),
    hashKey: integer('hash_key'),
    laneId: integer('lane_id').notNull(),
    /** Its path may be the receiver's secret: neither logged nor shown. Empty once the hook has ended. */
    url: text().notNull(),
    /** Bits of core/webhook.ts. */
    types: integer().notNull(),
    /** The first leaf it is for. */
    sinceLeaf: integer('since_leaf').notNull(),
    createdAt: integer('created_at').notNull(),
    endedAt: integer('ended_at'),
  },
  (t) => [
    uniqueIndex('webhooks_name').on(t.name),
    uniqueIndex('webhooks_did')
      .on(t.did, t.url)
      .where(sql`did IS NOT NULL AND ended_at IS NULL`),
    uniqueIndex('webhooks_event')
      .on(t.eventHash, t.url)
      .where(sql`event_hash IS NOT NULL AND ended_at IS NULL`),
    index('webhooks_live')
      .on(t.id)
      .where(sql`ended_at IS NULL`),
    index('webhooks_posts')
      .on(t.createdAt)
      .where(sql`event_hash IS NOT NULL AND ended_at IS NULL`),
    index('webhooks_ended')
      .on(t.endedAt)
      .where(sql`ended_at IS NOT NULL`),
  ],
)

/** One row for each signer and target host: what shares its pace and its failures. */
export const webhookLanes = sqliteTable(
  'webhook_lanes',
  {
    id: integer().primaryKey(),
    /** Of hooks on an event that came after its seal, from whomever: `late <did>`. */
    did: text().notNull(),
    host: text().notNull(),
    /** Failed attempts since the last success: the exponent of the backoff. */
    failures: integer().notNull().default(0),
    /** 1 once the last attempt succeeded: such lanes do not wait for strangers. */
    proven: integer().notNull().default(0),
    /** When to look at it next, or until when somebody does; null if nothing waits. */
    dueAt: integer('due_at'),
    version: integer().notNull().default(0),
  },
  (t) => [
    uniqueIndex('webhook_lanes_target').on(t.did, t.host),
    index('webhook_lanes_due')
      .on(t.proven, t.dueAt)
      .where(sql`due_at IS NOT NULL`),
  ],
)

/** The webhook outbox: one row for each hook, leaf, type and rail. */
export const webhookDeliveries = sqliteTable(
  'webhook_deliveries',
  {
    id: integer().primaryKey({ autoIncrement: true }),
    hookId: integer('hook_id').notNull(),
    laneId: integer('lane_id').notNull(),
    leafIndex: integer('leaf_index').notNull(),
    type: integer().notNull(),
    /** chain/network/method of an anchor, else empty; and its receipt, else 0. */
    rail: text().notNull(),
    receiptId: integer('receipt_id').notNull(),
    /** pending | done | failed. */
    state: text().notNull().default('pending'),
    failures: integer().notNull().default(0),
    nextAt: integer('next_at').notNull(),
    /** What the last attempt met. */
    result: text(),
    createdAt: integer('created_at').notNull(),
    updatedAt: integer('updated_at').notNull(),
  },
  (t) => [
    uniqueIndex('webhook_deliveries_once').on(t.hookId, t.leafIndex, t.type, t.rail),
    index('webhook_deliveries_due')
      .on(t.laneId, t.nextAt)
      .where(sql`state = 'pending'`),
    index('webhook_deliveries_age')
      .on(t.updatedAt)
      .where(sql`state <> 'pending'`),
  ],
)

/** How far the dispatcher got: leaves by type and rail, hooks, deliveries. */
export const webhookCursors = sqliteTable('webhook_cursors', {
  name: text().primaryKey(),
  at: integer().notNull(),
})

/** Signed requests already obeyed, until they expire: `key` is the DID and the jti. */
export const webhookRequests = sqliteTable(
  'webhook_requests',
  { key: text().primaryKey(), hook: text().notNull(), expiresAt: integer('expires_at').notNull() },
  (t) => [index('webhook_requests_age').on(t.expiresAt)],
)

/** Who is signed in to the dashboard. The cookie's secret is not here: only its hash. */
export const sessions = sqliteTable(
  'sessions',
  {
    /** What people see and revoke by. */
    id: integer().primaryKey({ autoIncrement: true }),
    /** SHA-256 of the secret, 64 hex digits. */
    hash: text().notNull(),
    /** Subject at the identity provider. */
    sub: text().notNull(),
    name: text().notNull(),
    role: text().notNull(),
    /** Settings of sign-in under which it began (core/config.ts): under others it is over. */
    terms: text().notNull(),
    createdAt: integer('created_at').notNull(),
    /** Last use, exact to a minute. */
    seenAt: integer('seen_at').notNull(),
    endedAt: integer('ended_at'),
    /** Subject of whoever ended it. */
    endedBy: text('ended_by'),
  },
  (t) => [uniqueIndex('sessions_hash').on(t.hash), index('sessions_age').on(t.createdAt)],
)

/** States of sign-ins that the provider vouched for, until they expire: each counts once. */
export const usedStates = sqliteTable(
  'used_states',
  { key: text().primaryKey(), expiresAt: integer('expires_at').notNull() },
  (t) => [index('used_states_age').on(t.expiresAt)],
)

/** Tokens of machines, by hash. */
export const apiTokens = sqliteTable(
  'api_tokens',
  {
    id: integer().primaryKey({ autoIncrement: true }),
    /** SHA-256 of the token, 64 hex digits. */
    hash: text().notNull(),
    /** Of the form that made it: sent twice, it makes one. */
    once: text().notNull(),
    name: text().notNull(),
    /** Separated by spaces. */
    scopes: text().notNull(),
    createdAt: integer('created_at').notNull(),
    createdBy: text('created_by').notNull(),
    expiresAt: integer('expires_at').notNull(),
    /** Last use, exact to a minute. */
    usedAt: integer('used_at'),
    endedAt: integer('ended_at'),
    endedBy: text('ended_by'),
  },
  (t) => [uniqueIndex('api_tokens_hash').on(t.hash), uniqueIndex('api_tokens_once').on(t.once)],
)

/** Who did what on the dashboard, and what was refused. Triggers in the migration forbid changing or removing a row. */
export const audit = sqliteTable('audit', {
  id: integer().primaryKey({ autoIncrement: true }),
  at: integer().notNull(),
  requestId: text('request_id').notNull(),
  /** Subject at the identity provider, `token:<id>`, or empty for nobody. */
  actor: text().notNull(),
  /** As it was shown then. */
  name: text().notNull(),
  /** A role, `token`, or empty. */
  role: text().notNull(),
  action: text().notNull(),
  target: text().notNull(),
  /** begun | done | refused | failed. */
  outcome: text().notNull(),
  detail: text().notNull(),
  /** The row `begun` that this one ends; a row begun that nothing ends: the node died on the way. */
  ref: integer(),
})

/** Key statements signed on the dashboard and not installed yet: one an epoch, for two would be a key conflict. */
export const preparedKeys = sqliteTable('prepared_keys', {
  epoch: integer().primaryKey(),
  statement: text().notNull(),
  preparedAt: integer('prepared_at').notNull(),
  preparedBy: text('prepared_by').notNull(),
})
