/**
 * The Worker of `make bench ARGS=pages`: the node itself, and paths that fill its D1 and meter its queries where they
 * run, inside the runtime.
 */

import worker from '../../functions/worker.ts'
import { fromHex } from '#core/bytes.ts'
import { readSearchTerm } from '#core/search-term.ts'
import { anchorsOfLeaf } from '#store/anchor-receipts.ts'
import { anchorRow, attemptsOf } from '#store/anchors.ts'
import { listTokens } from '#store/api-tokens.ts'
import { auditPage } from '#store/audit.ts'
import { batchAt } from '#store/batches.ts'
import {
  alertsOpen,
  alertsOver,
  batchesOfRoot,
  batchLines,
  coverages,
  deadLettersByQueue,
  eventOfHash,
  eventsOfHead,
  eventsOfLeaves,
  namesLike,
  newestReceipts,
  openJobs,
  readAll,
  receiptsOfRoot,
  receiptsOfTx,
} from '#store/dashboard.ts'
import { findEvent } from '#store/events.ts'
import { nodeOf } from '#store/node.ts'
import { allProviders } from '#store/providers.ts'
import { searchEvents } from '#store/search.ts'
import { listSessions, openSession, sessionOf } from '#store/sessions.ts'
import { D1Meter } from './d1-meter.ts'

export * from '../../functions/worker.ts'

/** Events that were posted and sealed before the rest is made up. */
const REAL_EVENTS = 2000
const BATCH = 5000
const SOURCES = 1000
const TYPES = 40

export default {
  ...worker,
  async fetch(request, env, ctx) {
    const { pathname, searchParams } = new URL(request.url)
    switch (pathname) {
      case '/bench/fill':
        await fill(env.DB, Number(searchParams.get('from')), Number(searchParams.get('to')))
        return Response.json({})
      case '/bench/fill-rest':
        await fillRest(env.DB, Number(searchParams.get('total')))
        return Response.json({ known: await somethingOfEach(env.DB), secret: await signedIn(env) })
      case '/bench/queries':
        return Response.json(await meterQueries(env, searchParams.get('secret') ?? ''))
      default:
        return worker.fetch(request, env, ctx)
    }
  },
} satisfies ExportedHandler<Env>

/** Events `from` to before `to`, alike in size, spread and order to those of a busy node; half have a subject. */
async function fill(db: D1Database, from: number, to: number): Promise<void> {
  if (from === REAL_EVENTS) await fillNames(db)
  const ids = await db
    .prepare(
      "SELECT (SELECT min(id) FROM names WHERE name LIKE 'did:key:z6Bench%') AS source, (SELECT min(id) FROM names WHERE name = 'com.example.type1') AS type",
    )
    .first<{ source: number; type: number }>()
  // Keys are the first 53 bits of random hashes; time runs on by 50 ms an event.
  await one(
    db,
    `${SERIES}, h AS MATERIALIZED (SELECT i, abs(random()) >> 10 AS k FROM c)
     INSERT INTO events (leaf_index, hash_key, event_hash, event_id, source_id, type_id, subject, time_at, height, part, offset, length)
     SELECT i, k, unhex(printf('%014x', k << 3) || lower(hex(randomblob(25)))), 'id-' || i, ?3 + i % ${SOURCES}, ?4 + i % ${TYPES},
       iif(i % 2, 'subject-' || (i / 10), NULL), ?5 + i * 50, 2 + (i - ${REAL_EVENTS}) / ${BATCH}, 0, 0, 600
     FROM h`,
    from,
    to - 1,
    ids!.source,
    ids!.type,
    Date.now() - 86_400_000,
  ).run()
}

/** D1 binds numbers as reals. */
const SERIES =
  'WITH RECURSIVE c(i) AS (SELECT CAST(?1 AS INTEGER) UNION ALL SELECT i + 1 FROM c WHERE i < ?2)'

function one(db: D1Database, sql: string, ...binds: unknown[]): D1PreparedStatement {
  return db.prepare(sql).bind(...binds)
}

async function fillNames(db: D1Database): Promise<void> {
  await db.batch([
    one(
      db,
      `${SERIES} INSERT INTO names (kind, name) SELECT 'source', 'did:key:z6Bench' || lower(hex(randomblob(20))) FROM c`,
      1,
      SOURCES,
    ),
    one(
      db,
      `${SERIES} INSERT INTO names (kind, name) SELECT 'type', 'com.example.type' || i FROM c`,
      1,
      TYPES,
    ),
  ])
}

/** Rows of every other table that pages read. */
async function fillRest(db: D1Database, total: number): Promise<void> {
  const nowAt = Date.now()
  const last = 1 + Math.ceil((total - REAL_EVENTS) / BATCH)
  const first = `${REAL_EVENTS} + (i - 2) * ${BATCH}`
  await db.batch([
    one(
      db,
      `${SERIES} INSERT INTO batches (height, first_index, count, tree_size, root, sealed_at, manifest, checkpoint, parts, committed)
       SELECT i, ${first}, min(${BATCH}, ?3 - ${first}), min(?3, ${first} + ${BATCH}), lower(hex(randomblob(32))), ?4 - (${last} - i) * 60000, 'a.e30.b', 'note', 1, 1 FROM c`,
      2,
      last,
      total,
      nowAt,
    ),
    ...(['BTC/regtest/tx', 'EVM/anvil/tx', 'TSA/127.0.0.1/rfc3161'] as const).flatMap((rail) => {
      const [chain, network, method] = rail.split('/')
      return [
        one(db, 'INSERT INTO rails VALUES (?, ?, ?)', chain, network, method),
        one(
          db,
          `INSERT INTO receipts (root, tree_size, chain, network, method, tx_hash, anchor_at, json)
           SELECT root, tree_size, ?1, ?2, ?3, iif(?1 = 'EVM', '0x', '') || lower(hex(randomblob(32))), sealed_at, ?4 FROM batches WHERE height < ?5`,
          chain,
          network,
          method,
          receiptJson(chain!, network!),
          last,
        ),
        one(
          db,
          `INSERT INTO anchors (root, tree_size, chain, network, method, state, next_at, created_at, updated_at)
           SELECT root, tree_size, ?1, ?2, ?3, iif(height < ?4, 'final', 'queued'), sealed_at, sealed_at, sealed_at FROM batches`,
          chain,
          network,
          method,
          last,
        ),
      ]
    }),
    one(
      db,
      `${SERIES} INSERT INTO alerts (kind, key, severity, detail, link, opened_at, cleared_at)
       SELECT 'anchor_stalled', 'k' || i, 'warning', 'It failed.', '/batches/' || (1 + i % 100), ?3 + i, iif(i % 1000, ?3 + i + 1, NULL) FROM c`,
      1,
      20_000,
      nowAt - 1e9,
    ),
    one(
      db,
      `${SERIES} INSERT INTO dead_letters SELECT 'l' || i, 'anchor-dlq', '{"id":1}', ?3 + i, iif(i % 1000, ?3 + i + 1, NULL) FROM c`,
      1,
      20_000,
      nowAt - 1e9,
    ),
    one(
      db,
      `${SERIES} INSERT INTO audit (at, request_id, actor, name, role, action, target, outcome, detail)
       SELECT ?3 + i, lower(hex(randomblob(16))), 'sub', 'Somebody', 'operator', 'anchor-retry', 'anchor 1', 'done', 'Anchor 1 is tried now.' FROM c`,
      1,
      50_000,
      nowAt - 1e9,
    ),
    one(
      db,
      `${SERIES} INSERT INTO sessions (hash, sub, name, role, terms, created_at, seen_at, ended_at)
       SELECT lower(hex(randomblob(32))), 'sub' || i, 'Somebody', 'viewer', 'x', ?3, ?3, ?3 FROM c`,
      1,
      2000,
      nowAt - 1e6,
    ),
    one(
      db,
      `INSERT INTO anchor_attempts (anchor_id, attempt, at, outcome, failures, delay_ms, next_at)
       SELECT id, 1, updated_at, state, 0, 0, updated_at FROM anchors`,
    ),
    one(
      db,
      `INSERT INTO providers VALUES ('BTC', 'regtest', '127.0.0.1:1', 0.9, 12, 10, 0, 0, NULL, ?)`,
      nowAt,
    ),
  ])
}

/** As large as a real one. */
function receiptJson(chain: string, network: string): string {
  return JSON.stringify({
    root: `0x${'0'.repeat(64)}`,
    chain,
    network,
    txHash: '0'.repeat(64),
    blockNumber: 1,
    anchorTs: '2026-11-23T10:44:31.000Z',
    observedAt: '2026-11-23T10:45:31.000Z',
    status: 'verified',
    treeSize: 1,
    proof: { type: 'x', bytes: 'x'.repeat(2000) },
  })
}

/** One of each thing that a page can be asked for. */
export interface Known {
  readonly realHash: string
  readonly hash: string
  readonly source: string
  readonly subject: string
  readonly root: string
  readonly txHash: string
  readonly height: number
}

async function somethingOfEach(db: D1Database): Promise<Known> {
  const row = await db
    .prepare(
      `SELECT (SELECT lower(hex(event_hash)) FROM events WHERE leaf_index = 777) AS realHash,
         lower(hex(e.event_hash)) AS hash, s.name AS source, 'subject-' || (e.leaf_index / 10) AS subject, e.height,
         (SELECT root FROM batches WHERE height = e.height) AS root,
         (SELECT tx_hash FROM receipts WHERE chain = 'EVM' LIMIT 1 OFFSET 3) AS txHash
       FROM events e JOIN names s ON s.id = e.source_id WHERE e.leaf_index = 54321`,
    )
    .first<Known>()
  return row!
}

/** A session of an admin: its secret. */
async function signedIn(env: Env): Promise<string> {
  const { signIn } = (await nodeOf(env)).config
  const person = { sub: 'bench', name: 'Bench', role: 'admin' } as const
  return (await openSession(env.DB, person, signIn!.terms, Date.now())).secret
}

/** What a query did. */
export interface Metered {
  readonly name: string
  readonly rows: number
  readonly plans: readonly string[]
  readonly scans: readonly string[]
}

/** Each query of the pages: rows it reads, and its plan. */
async function meterQueries(env: Env, secret: string): Promise<readonly Metered[]> {
  const known = await somethingOfEach(env.DB)
  const signIn = (await nodeOf(env)).config.signIn!
  const nowAt = Date.now()
  const end = Number.MAX_SAFE_INTEGER
  const limit = 50
  const hits = 25
  const head = readSearchTerm(known.hash.slice(0, 8)).head!
  const queries: readonly (readonly [name: string, run: (db: D1Database) => Promise<unknown>])[] = [
    ...Object.entries({
      batchLines: batchLines({ below: end, limit }),
      batchesOfRoot: batchesOfRoot(known.root),
      coverages,
      openJobs,
      alertsOpen,
      alertsOver: alertsOver({ below: end, limit }),
      deadLettersByQueue,
      eventOfHash: eventOfHash(known.hash),
      eventsOfHead: eventsOfHead(head, hits),
      eventsOfLeaves: eventsOfLeaves({ from: 54_321, to: 60_000, limit }),
      receiptsOfTx: receiptsOfTx(known.txHash.replace('0x', '')),
      receiptsOfRoot: receiptsOfRoot(known.root),
      newestReceipts: newestReceipts({ below: end, limit }),
      namesLike: namesLike('type', 'com.example.t'),
    }).map(([name, read]) => [name, (db: D1Database) => readAll(db, { read })] as const),
    ['sessionOf', (db) => sessionOf(db, secret, signIn, nowAt)],
    ['batchAt', (db) => batchAt(db, known.height)],
    ['searchEvents, all', (db) => searchEvents(db, { limit: hits })],
    ['searchEvents, source', (db) => searchEvents(db, { source: known.source, limit: hits })],
    ['searchEvents, type', (db) => searchEvents(db, { type: 'com.example.type7', limit: hits })],
    ['searchEvents, subject', (db) => searchEvents(db, { subject: known.subject, limit: hits })],
    ['findEvent', (db) => findEvent(db, fromHex(known.realHash))],
    ['anchorsOfLeaf', (db) => anchorsOfLeaf(db, 54_321)],
    ['anchorRow', (db) => anchorRow(db, 7)],
    ['attemptsOf', (db) => attemptsOf(db, 7)],
    ['allProviders', allProviders],
    ['auditPage', (db) => auditPage(db, { limit })],
    ['listSessions', (db) => listSessions(db, signIn, { nowAt, limit })],
    ['listTokens', (db) => listTokens(db, { limit })],
  ]
  const metered: Metered[] = []
  for (const [name, run] of queries) {
    const meter = new D1Meter(env.DB)
    await run(meter.db)
    metered.push({ name, rows: meter.rows, plans: [...meter.plans], scans: [...meter.scans] })
  }
  return metered
}
