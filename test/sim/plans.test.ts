/**
 * How SQLite finds the rows of the outbox: a node that has anchored each minute for years must not read all
 * of it for a receipt, a tick of the cron or a look at /anchors/status.
 */

import { readFileSync, readdirSync } from 'node:fs'
import { resolve } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test } from 'vitest'
import { anchorsOfLeaf, receiptsToCheck } from '../../functions/store/anchor-receipts.ts'
import {
  attemptsOf,
  dueAnchors,
  enqueueAnchors,
  leaseAnchor,
  oldestWaiting,
} from '../../functions/store/anchors.ts'
import { parseConfig } from '../../functions/core/config.ts'
import { D1Sim } from './sqlite.ts'

test('no look at the outbox scans a table', async () => {
  const sqlite = new DatabaseSync(':memory:')
  const folder = resolve(import.meta.dirname, '../../migrations')
  for (const file of readdirSync(folder)
    .filter((f) => f.endsWith('.sql'))
    .sort())
    sqlite.exec(
      readFileSync(resolve(folder, file), 'utf8').replaceAll('--> statement-breakpoint', ''),
    )
  const seen: string[] = []
  const prepare = sqlite.prepare.bind(sqlite)
  sqlite.prepare = (text: string) => {
    seen.push(text)
    return prepare(text)
  }
  const db = new D1Sim(sqlite, (_, effect) => Promise.resolve(effect())) as unknown as D1Database
  const queue = { send: async () => undefined }
  const env = { DB: db, ANCHOR_QUEUE: queue, ANCHOR_BTC_QUEUE: queue } as unknown as Env
  const config = parseConfig({
    ORIGIN: 'plans.example/log',
    RAILS: 'BTC',
    BTC_URLS: 'core+http://127.0.0.1:1',
    BTC_NETWORK: 'regtest',
    BTC_PRIVATE_KEY: '11'.repeat(32),
  })
  await enqueueAnchors(env, config, { root: 'aa'.repeat(32), size: 5 }, { chain: 'BTC', nowAt: 1 })
  await dueAnchors(db, 1)
  await leaseAnchor(db, 1, 1, 1)
  await anchorsOfLeaf(db, 1)
  await receiptsToCheck(db, 1, 1)
  await attemptsOf(db, 1)
  await oldestWaiting(db, 1)
  expect(seen.length).toBeGreaterThan(8)
  for (const text of seen) {
    const plan = prepare(`EXPLAIN QUERY PLAN ${text}`).all() as { detail: string }[]
    for (const { detail } of plan) {
      // Rails are a handful; the index anchors_due holds only what is under way.
      if (/^SCAN (?:k|rails)\b|^SCAN anchors USING INDEX anchors_due|^SCAN CONSTANT/.test(detail))
        continue
      expect(detail, text).not.toMatch(/^SCAN/)
    }
  }
})
