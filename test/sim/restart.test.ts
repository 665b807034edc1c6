/**
 * What a process that was killed leaves to the next one: jobs in hand that nobody has in hand any more. And that a
 * batch of a queue is over when its work is, so that nothing waits behind what it only counted.
 */

import { beforeAll, expect, test, vi } from 'vitest'
import { endLeases, LEASE_MS } from '../../functions/store/anchors.ts'
import { readCounts } from '../../functions/store/metrics.ts'
import { onQueue } from '../../queues/index.ts'
import { Platform } from './platform.ts'

const NOW = Date.parse('2026-11-23T12:00:00Z')
const VARS = {
  NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
  ORIGIN: 'sim.example/log',
  NODE_ID: 'sim',
  NETWORK: 'dev',
}

beforeAll(() => {
  vi.spyOn(console, 'error').mockImplementation(() => undefined)
})

test('a job that a dead process had in hand is free at once, one that a living one has is not', async () => {
  const { DB } = new Platform(VARS, ['COUNTERS']).env
  const rows = {
    dead: { state: 'broadcast', leaseUntil: NOW - 1 + LEASE_MS },
    alive: { state: 'broadcast', leaseUntil: NOW + LEASE_MS },
    // Its clock ran ahead: who it is cannot be told.
    ahead: { state: 'queued', leaseUntil: NOW + 10 * LEASE_MS },
    free: { state: 'queued', leaseUntil: 0 },
    over: { state: 'final', leaseUntil: NOW - 1 },
  }
  for (const [root, { state, leaseUntil }] of Object.entries(rows)) {
    await DB.prepare(
      `INSERT INTO anchors (root, tree_size, chain, network, method, state, next_at, created_at, updated_at, lease_until)
       VALUES (?, 1, 'BTC', 'regtest', 'tx', ?, 0, 0, 0, ?)`,
    )
      .bind(root, state, leaseUntil)
      .run()
  }
  await endLeases(DB, NOW)
  const { results } = await DB.prepare('SELECT root, lease_until AS leaseUntil FROM anchors').all<{
    root: keyof typeof rows
    leaseUntil: number
  }>()
  const after = Object.fromEntries(results.map(({ root, leaseUntil }) => [root, leaseUntil]))
  expect(after).toEqual({
    dead: 0,
    alive: NOW + LEASE_MS,
    ahead: NOW + 10 * LEASE_MS,
    free: 0,
    over: NOW - 1,
  })
})

test('a batch stores what it counted when it ends and waits for no second', async () => {
  const platform = new Platform(VARS, ['COUNTERS'])
  const wait = vi.fn(() => new Promise<void>(() => undefined))
  Object.assign(globalThis, { scheduler: { wait } })
  const background: Promise<unknown>[] = []
  const message = {
    id: 'm1',
    timestamp: new Date(NOW),
    body: { id: 1 },
    attempts: 1,
    ack() {},
    retry() {},
  }
  const batch = { queue: 'anchor-dlq', messages: [message], ackAll() {}, retryAll() {} }
  await onQueue(batch as never, platform.env, { waitUntil: (work) => void background.push(work) })
  await Promise.all(background)
  expect(wait).not.toHaveBeenCalled()
  const counts = await readCounts(platform.env)
  expect(counts.find(({ name }) => name === 'vaultmesh_dead_letters_total')?.values).toEqual([1])
})
