/**
 * The D1 schema: an index over the log, the anchor outbox and what operators must see.
 *
 * Nothing here is the only copy: rows of `events` and `batches` re-derive from R2 and the Sequencer.
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

/** One row for each sealed event. */
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
export const batches = sqliteTable('batches', {
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
})

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
    provider: text(),
    delayMs: integer('delay_ms').notNull().default(0),
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
  },
  (t) => [
    uniqueIndex('receipts_job').on(t.root, t.chain, t.network, t.method),
    index('receipts_cover').on(t.chain, t.network, t.method, t.treeSize),
    index('receipts_tx').on(t.txHash),
  ],
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
  ],
)

/** Messages a queue gave up on; the work they name is still in storage. */
export const deadLetters = sqliteTable('dead_letters', {
  id: text().primaryKey(),
  queue: text().notNull(),
  body: text().notNull(),
  receivedAt: integer('received_at').notNull(),
  replayedAt: integer('replayed_at'),
})
