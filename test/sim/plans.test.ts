/**
 * How SQLite finds the rows of the outbox: a node that has anchored each minute for years must not read all
 * of it for a receipt, a tick of the cron, a look at /anchors/status or a scrape of /metrics.
 */

import { readFileSync, readdirSync } from 'node:fs'
import { resolve } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { expect, test, vi } from 'vitest'
import { anchorsOfLeaf, receiptsToCheck } from '../../functions/store/anchor-receipts.ts'
import {
  attemptsOf,
  dueAnchors,
  enqueueAnchors,
  leaseAnchor,
  oldestWaiting,
} from '../../functions/store/anchors.ts'
import { parseConfig } from '../../functions/core/config.ts'
import { readSeries } from '../../functions/store/gauges.ts'
import type { NodeContext } from '../../functions/store/node.ts'
import { D1Sim } from './sqlite.ts'

/** An empty index, and every statement that was prepared on it. */
function traced() {
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
  const plansOf = (text: string) =>
    prepare(`EXPLAIN QUERY PLAN ${text}`).all() as { detail: string }[]
  return { db, seen, plansOf }
}

const config = parseConfig({
  ORIGIN: 'plans.example/log',
  RAILS: 'BTC,EVM',
  BTC_URLS: 'core+http://127.0.0.1:1',
  BTC_NETWORK: 'regtest',
  BTC_PRIVATE_KEY: '11'.repeat(32),
  EVM_URLS: 'http://127.0.0.1:1',
  EVM_CHAIN_ID: '31337',
  EVM_PRIVATE_KEY: `0x${'11'.repeat(32)}`,
})

test('no look at the outbox scans a table', async () => {
  const { db, seen, plansOf } = traced()
  const queue = { send: async () => undefined }
  const env = { DB: db, ANCHOR_QUEUE: queue, ANCHOR_BTC_QUEUE: queue } as unknown as Env
  await enqueueAnchors(env, config, { root: 'aa'.repeat(32), size: 5 }, { chain: 'BTC', nowAt: 1 })
  await dueAnchors(db, 1)
  await leaseAnchor(db, 1, 1, 1)
  await anchorsOfLeaf(db, 1)
  await receiptsToCheck(db, 1, 1)
  await attemptsOf(db, 1)
  await oldestWaiting(db, 1)
  expect(seen.length).toBeGreaterThan(8)
  for (const text of seen) {
    for (const { detail } of plansOf(text)) {
      // Rails are a handful; the index anchors_due holds only what is under way.
      if (/^SCAN (?:k|rails)\b|^SCAN anchors USING INDEX anchors_due|^SCAN CONSTANT/.test(detail))
        continue
      expect(detail, text).not.toMatch(/^SCAN/)
    }
  }
})

test('a scrape looks at what is open and scans no table, however long the log', async () => {
  vi.spyOn(console, 'error').mockImplementation(() => undefined)
  const { db, seen, plansOf } = traced()
  const node = { config, nodeDid: 'did:key:zPlans' } as NodeContext
  const series = await readSeries({ DB: db } as Env, node, 1)
  const failed = series
    .filter(({ name, values }) => name === 'vaultmesh_scrape_errors' && values[0] === 1)
    .map(({ labels }) => labels[0])
  // What is not in the index is not here; the rest was read.
  expect(failed.sort()).toEqual([
    'counters',
    'federation',
    'guardian',
    'pools',
    'sequencer',
    'telemetry',
  ])
  expect(seen.length).toBeGreaterThan(8)
  for (const text of seen) {
    for (const { detail } of plansOf(text)) {
      // Indexes of what is open alone, and a table of one row for each wallet and authority.
      if (
        /^SCAN \w+ USING (?:COVERING )?INDEX (?:anchors_due|alerts_open|dead_letters_open)$/.test(
          detail,
        )
      )
        continue
      if (/^SCAN (?:watch_state|\(subquery-\d+\)|CONSTANT)/.test(detail)) continue
      expect(detail, text).not.toMatch(/^SCAN/)
    }
  }
})
