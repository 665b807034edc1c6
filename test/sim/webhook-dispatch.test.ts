/**
 * Who is told what, against a model that knows no cursors: hooks and receipts come at any moment, also between
 * two steps of a dispatch, and any step may fail, or be done and lose its reply.
 */

import { readdirSync, readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { hashKey } from '../../functions/core/hash-key.ts'
import { sha256 } from '../../functions/core/sha256.ts'
import { utf8 } from '../../functions/core/bytes.ts'
import { dispatchWebhooks } from '../../functions/store/webhook-dispatch.ts'
import { keepWatch, registerHook } from '../../functions/store/webhooks.ts'
import { D1Sim } from './sqlite.ts'

const folder = resolve(import.meta.dirname, '../../migrations')
const MIGRATIONS = readdirSync(folder)
  .filter((f) => f.endsWith('.sql'))
  .sort()
  .map((f) => readFileSync(resolve(folder, f), 'utf8').replaceAll('--> statement-breakpoint', ''))
  .join(';\n')

const SOURCES = ['did:key:zA', 'did:key:za', 'did:pkh:eip155:1:0xAbC', 'did:pkh:eip155:1:0xabc']
const canonical = (did: string): string => (did.startsWith('did:pkh') ? did.toLowerCase() : did)
const RAILS = ['TSA/a/rfc3161', 'TSA/b/rfc3161', 'BTC/main/tx']
const TYPES = { 'event.sealed': 1, 'anchor.verified': 2, 'event.final': 4 } as const

type Step =
  | { readonly do: 'seal'; readonly sources: readonly number[] }
  | { readonly do: 'did'; readonly source: number; readonly types: number }
  | { readonly do: 'event'; readonly leaf: number }
  | { readonly do: 'receipt'; readonly rail: number; readonly part: number }
  | { readonly do: 'whole dispatch' }

const change: fc.Arbitrary<Step> = fc.oneof(
  fc.record({
    do: fc.constant('seal' as const),
    sources: fc.array(fc.nat(SOURCES.length - 1), { minLength: 1, maxLength: 4 }),
  }),
  fc.record({
    do: fc.constant('did' as const),
    source: fc.nat(SOURCES.length - 1),
    types: fc.integer({ min: 1, max: 7 }),
  }),
  fc.record({ do: fc.constant('event' as const), leaf: fc.nat(15) }),
  fc.constant({ do: 'whole dispatch' as const }),
  fc.record({
    do: fc.constant('receipt' as const),
    rail: fc.nat(RAILS.length - 1),
    part: fc.double({ min: 0, max: 1, noNaN: true }),
  }),
)
/** A dispatch, what comes in the middle of it, and which of its steps goes wrong and how. */
const dispatch = fc.record({
  do: fc.constant('dispatch' as const),
  at: fc.nat(8),
  between: fc.array(change, { maxLength: 2 }),
  fault: fc.option(fc.constantFrom('fail' as const, 'lost' as const)),
})

/** The world, and what the model remembers of it. */
class World {
  readonly db = new DatabaseSync(':memory:')
  readonly leaves: string[] = []
  readonly hooks: { key: string; tells(leaf: number, type: keyof typeof TYPES): boolean }[] = []
  readonly covered = new Map<string, number>()
  readonly quiet: D1Database
  #serial = 0

  constructor() {
    this.db.exec(MIGRATIONS)
    this.quiet = new D1Sim(this.db, async (_, effect) => effect()) as unknown as D1Database
  }

  async apply(step: Step): Promise<void> {
    switch (step.do) {
      case 'seal': {
        const first = this.leaves.length
        for (const i of step.sources) {
          const source = SOURCES[i]!
          const leaf = this.leaves.push(source) - 1
          const hash = hashOf(leaf)
          this.db
            .prepare("INSERT OR IGNORE INTO names (kind, name) VALUES ('source', ?)")
            .run(source)
          this.db
            .prepare(
              `INSERT INTO events SELECT ?, ?, ?, 'id', id, 0, NULL, 0, ?, 0, 0, 1 FROM names WHERE name = ?`,
            )
            .run(leaf, hashKey(hash), hash, first + 1, source)
        }
        this.db
          .prepare(`INSERT INTO batches VALUES (?, ?, ?, ?, '', 0, '', '', 1, 1)`)
          .run(first + 1, first, step.sources.length, this.leaves.length)
        return
      }
      case 'did': {
        const did = canonical(SOURCES[step.source]!)
        const since = this.leaves.length
        const n = this.#serial++
        await registerHook(this.quiet, {
          did,
          jti: String(n),
          expiresAt: 1,
          nowAt: 1,
          target: { url: `https://d${n}.example/`, host: `d${n}.example` },
          types: step.types,
        }).catch(refusedForEight)
        if (this.db.prepare('SELECT 1 FROM webhooks WHERE url = ?').get(`https://d${n}.example/`))
          this.hooks.push({
            key: `https://d${n}.example/`,
            tells: (leaf, type) =>
              leaf >= since &&
              canonical(this.leaves[leaf]!) === did &&
              (TYPES[type] & step.types) !== 0,
          })
        return
      }
      case 'event': {
        const n = this.#serial++
        const url = `https://e${n}.example/`
        const target = { url, host: `e${n}.example` }
        const events = [{ eventHash: hashOf(step.leaf), did: 'did:key:zA' }]
        await keepWatch(this.quiet, target, { events, nowAt: 1 }).catch(refusedForEight)
        if (this.db.prepare('SELECT 1 FROM webhooks WHERE url = ?').get(url))
          this.hooks.push({ key: url, tells: (leaf) => leaf === step.leaf })
        return
      }
      case 'whole dispatch':
        await this.dispatch(-1, [], null)
        return
      case 'receipt': {
        // Of a batch that is not indexed yet, too.
        const size = Math.ceil(step.part * (this.leaves.length + 3))
        if (size === 0) return
        const rail = RAILS[step.rail]!
        const [chain, network, method] = rail.split('/') as [string, string, string]
        this.db.prepare('INSERT OR IGNORE INTO rails VALUES (?, ?, ?)').run(chain, network, method)
        this.db
          .prepare(
            `INSERT OR IGNORE INTO receipts (root, tree_size, chain, network, method, tx_hash, anchor_at, json)
             VALUES (?, ?, ?, ?, ?, '', 0, '{}')`,
          )
          .run(String(size), size, chain, network, method)
        this.covered.set(rail, Math.max(size, this.covered.get(rail) ?? 0))
      }
    }
  }

  /** A dispatch in which something comes between two steps, or a step goes wrong. */
  async dispatch(at: number, between: readonly Step[], fault: 'fail' | 'lost' | null) {
    let number = 0
    const db = new D1Sim(this.db, async (_, effect) => {
      const mine = number++ === at
      if (mine) for (const step of between) await this.apply(step)
      if (mine && fault === 'fail') throw new Error('failed')
      const result = effect()
      if (mine && fault === 'lost') throw new Error('lost')
      return result
    }) as unknown as D1Database
    await dispatchWebhooks(db, ['TSA', 'BTC'], 1).catch((error: Error) => {
      if (!/^(?:failed|lost)$/.test(error.message)) throw error
    })
  }

  expected(): string[] {
    const all: string[] = []
    for (const { key, tells } of this.hooks) {
      for (const leaf of this.leaves.keys()) {
        if (tells(leaf, 'event.sealed')) all.push(`${key} ${leaf} 1 `)
        const rails = [...this.covered].filter(([, size]) => size > leaf).map(([rail]) => rail)
        if (tells(leaf, 'anchor.verified'))
          all.push(...rails.map((rail) => `${key} ${leaf} 2 ${rail}`))
        const chains = new Set(rails.map((rail) => rail.split('/')[0]))
        if (chains.size === 2 && tells(leaf, 'event.final')) all.push(`${key} ${leaf} 4 `)
      }
    }
    return all.sort()
  }

  told(): string[] {
    const rows = this.db
      .prepare(
        `SELECT w.url || ' ' || d.leaf_index || ' ' || d.type || ' ' || d.rail AS said
         FROM webhook_deliveries d JOIN webhooks w ON w.id = d.hook_id`,
      )
      .all() as { said: string }[]
    return rows.map(({ said }) => said).sort()
  }
}

function hashOf(leaf: number): Uint8Array {
  return sha256(utf8(`leaf ${leaf}`))
}

function refusedForEight(error: unknown): void {
  expect(error).toMatchObject({ code: 'too-many-webhooks' })
}

test('whatever comes in whatever order, each hook is told of exactly what concerns it, once', async () => {
  let notices = 0
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.oneof({ arbitrary: change, weight: 2 }, dispatch), {
        minLength: 10,
        maxLength: 40,
      }),
      async (steps) => {
        const world = new World()
        for (const step of steps) {
          if (step.do === 'dispatch') await world.dispatch(step.at, step.between, step.fault)
          else await world.apply(step)
        }
        while (await dispatchWebhooks(world.quiet, ['TSA', 'BTC'], 1));
        expect(world.told()).toEqual(world.expected())
        notices += world.told().length
        // The receipt of an anchor's notice is one that covers its leaf.
        const wrong = world.db
          .prepare(
            `SELECT count(*) AS n FROM webhook_deliveries d LEFT JOIN receipts r ON r.id = d.receipt_id
             WHERE d.type = 2 AND NOT coalesce(r.tree_size > d.leaf_index AND d.rail = r.chain || '/' || r.network || '/' || r.method, 0)`,
          )
          .get()
        expect(wrong).toEqual({ n: 0 })
        // Whoever has something to send is awake.
        const asleep = world.db
          .prepare(
            `SELECT count(*) AS n FROM webhook_deliveries d JOIN webhook_lanes l ON l.id = d.lane_id WHERE l.due_at IS NULL`,
          )
          .get()
        expect(asleep).toEqual({ n: 0 })
        world.db.close()
      },
    ),
    { numRuns: 500 },
  )
  expect(notices).toBeGreaterThan(2000)
}, 120_000)
