/**
 * fsck finds every forgery: whichever byte of D1 or R2 is changed behind a running node, a finding names it;
 * garbage is a finding too, never an exception; and once all is put back it finds nothing.
 */

import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { fromUtf8 } from '#core/bytes.ts'
import { deriveIdentity, signJws, type IdentityKey } from '#core/node-keys.ts'
import { startTsa, type Tsa } from '../../scripts/devnet/tsa.ts'
import { startHost, type Host } from '../../scripts/host.ts'
import { signEvent, testSigner } from '../support/signing.ts'
import { freePort } from './support.ts'

const TOKEN = 'fsck-token'
const FIRST = 300
const SECOND = 5
const secret = randomBytes(32)
const alice = testSigner('EdDSA', 'fsck')

let folder: string
let tsa: Tsa
let host: Host
let identity: IdentityKey
let other: IdentityKey
let db: Awaited<ReturnType<Host['miniflare']['getD1Database']>>
let bucket: Awaited<ReturnType<Host['miniflare']['getR2Bucket']>>
const roots: string[] = []

beforeAll(async () => {
  folder = await mkdtemp(path.join(tmpdir(), 'vaultmesh-fsck-'))
  tsa = await startTsa({ dir: path.join(folder, 'tsa'), port: 0 })
  host = await startHost({
    port: await freePort(),
    stateDir: path.join(folder, 'state'),
    cron: false,
    vars: {
      NODE_SECRET: secret.toString('base64url'),
      ADMIN_TOKEN: TOKEN,
      RAILS: 'TSA',
      TSA_URLS: tsa.url,
      TSA_ROOTS: tsa.rootPem,
      ANCHOR_TSA_INTERVAL_MS: '100',
      SEAL_BATCH_MAX_INTERVAL_MS: '600000',
    },
  })
  identity = await deriveIdentity(secret, 1)
  other = await deriveIdentity(randomBytes(32), 1)
  db = await host.miniflare.getD1Database('DB')
  bucket = await host.miniflare.getR2Bucket('BUCKET')
  for (const count of [FIRST, SECOND]) {
    const lines = Array.from({ length: count }, (_, i) =>
      signEvent(alice, { payload: { subject: i % 2 === 0 ? `s${i}` : null } }),
    )
    const headers = { 'content-type': 'application/x-ndjson' }
    await fetch(`${host.url}/events`, { method: 'POST', headers, body: lines.join('\n') })
    const authorization = `Bearer ${TOKEN}`
    await fetch(`${host.url}/admin/seal`, { method: 'POST', headers: { authorization } })
    await until('SELECT count(*) FROM receipts', roots.length + 1)
    roots.push(await one<string>('SELECT root FROM batches ORDER BY height DESC LIMIT 1'))
  }
  await until("SELECT count(*) FROM anchors WHERE state = 'final'", 2)
}, 60_000)

afterAll(async () => {
  await host?.stop()
  await tsa?.stop()
  await rm(folder, { recursive: true, force: true })
})

async function until(query: string, value: number): Promise<void> {
  await vi.waitFor(async () => expect(await one<number>(query)).toBe(value), {
    timeout: 20_000,
    interval: 100,
  })
}

async function one<T>(query: string): Promise<T> {
  const row = (await db.prepare(query).first()) as Record<string, T>
  return Object.values(row)[0]!
}

/** Findings of the state (0) or of a batch. */
async function fsck(height: number): Promise<string[]> {
  const answer = await fetch(`${host.url}/admin/fsck${height === 0 ? '' : `?height=${height}`}`, {
    headers: { authorization: `Bearer ${TOKEN}` },
  })
  expect(answer.status, await answer.clone().text()).toBe(200)
  return ((await answer.json()) as { findings: string[] }).findings
}

type Undo = () => Promise<unknown>

/** Runs a statement and returns what puts the tables it names back. */
async function sql(statement: string, ...binds: unknown[]): Promise<Undo> {
  const table = /^(?:UPDATE|DELETE FROM|INSERT INTO) (\w+)/.exec(statement)![1]!
  await db.prepare(`CREATE TABLE kept AS SELECT * FROM ${table}`).run()
  await db
    .prepare(statement)
    .bind(...binds)
    .run()
  return () =>
    db.batch([
      db.prepare(`DELETE FROM ${table}`),
      db.prepare(`INSERT INTO ${table} SELECT * FROM kept`),
      db.prepare('DROP TABLE kept'),
    ])
}

/** Replaces an object by what `change` makes of it, or deletes it by null. */
async function object(
  key: string,
  change: (bytes: Uint8Array) => Uint8Array | string | null,
): Promise<Undo> {
  const before = new Uint8Array(await (await bucket.get(key))!.arrayBuffer())
  const after = change(before.slice())
  await (after === null ? bucket.delete(key) : bucket.put(key, after))
  return () => bucket.put(key, before)
}

function flipped(at: number): (bytes: Uint8Array) => Uint8Array {
  return (bytes) => {
    bytes[at]! ^= 1
    return bytes
  }
}

/** Changes the record of a batch in R2 and its row in D1 alike, as somebody would who holds both. */
async function record(height: number, change: Readonly<Record<string, unknown>>): Promise<Undo> {
  const columns: Record<string, string> = {
    firstIndex: 'first_index',
    treeSize: 'tree_size',
    sealedAt: 'sealed_at',
  }
  const undoR2 = await object(`batches/${height}`, (bytes) =>
    JSON.stringify({ ...(JSON.parse(fromUtf8(bytes)) as object), ...change }),
  )
  const set = Object.keys(change).map((name) => `${columns[name] ?? name} = ?`)
  const undoD1 = await sql(
    `UPDATE batches SET ${set.join(', ')} WHERE height = ${height}`,
    ...Object.values(change),
  )
  return async () => {
    await undoD1()
    await undoR2()
  }
}

async function manifestOf(height: number): Promise<Record<string, unknown>> {
  const manifest = await one<string>(`SELECT manifest FROM batches WHERE height = ${height}`)
  return JSON.parse(Buffer.from(manifest.split('.')[1]!, 'base64url').toString()) as Record<
    string,
    unknown
  >
}

/** A manifest of batch 2 with other claims, signed by `key`. */
async function signedManifest(change: object, key = identity): Promise<Undo> {
  const jws = await signJws(key, 'vm-batch+jws', { ...(await manifestOf(2)), ...change })
  return record(2, { manifest: jws })
}

const receiptAt = (n: number): string =>
  `anchors/${roots[n]}/TSA/${new URL(tsa.url).hostname}/rfc3161`

/** Puts `change` into the JSON of the receipt of batch 2, in D1 and R2 alike. */
async function receipt(change: Readonly<Record<string, unknown>>): Promise<Undo> {
  let json = ''
  const undoR2 = await object(receiptAt(1), (bytes) => {
    json = JSON.stringify({ ...(JSON.parse(fromUtf8(bytes)) as object), ...change })
    return json
  })
  const undoD1 = await sql(`UPDATE receipts SET json = ? WHERE root = '${roots[1]}'`, json)
  return async () => {
    await undoD1()
    await undoR2()
  }
}

test('of an honest node fsck finds nothing', async () => {
  for (const height of [0, 1, 2]) expect(await fsck(height)).toEqual([])
})

type Forgery = readonly [what: string, height: number, forge: () => Promise<Undo>, finding: RegExp]

const eventColumns: readonly (readonly [column: string, value: string, name: string])[] = [
  ['time_at', 'time_at + 1', 'timeAt'],
  ['subject', "'forged'", 'subject'],
  ['subject', 'NULL', 'subject'],
  ['source_id', "(SELECT id FROM names WHERE kind = 'type')", 'source'],
  ['source_id', '999', 'source'],
  ['type_id', '999', 'type'],
  ['event_id', "'forged'", 'eventId'],
  ['hash_key', 'hash_key + 1', 'hashKey'],
  ['event_hash', "unhex('ff' || substr(hex(event_hash), 3))", 'hash'],
  ['height', '2', 'height'],
  ['part', 'part + 1', 'part'],
  ['offset', 'offset + 1', 'offset'],
  ['length', 'length - 1', 'length'],
]

const forgeries: readonly Forgery[] = [
  ...eventColumns.map(([column, value, name]): Forgery => [
    `D1 events.${column} = ${value}`,
    1,
    () => sql(`UPDATE events SET ${column} = ${value} WHERE leaf_index = 4`),
    new RegExp(`^Leaf 4: its index row has another ${name} than`),
  ]),
  [
    'D1 without an index row',
    1,
    () => sql('DELETE FROM events WHERE leaf_index = 7'),
    /lacks 1 of the index rows/,
  ],
  [
    'D1 with one event twice',
    2,
    () =>
      sql(
        'UPDATE events SET (hash_key, event_hash) = (SELECT hash_key, event_hash FROM events WHERE leaf_index = 0) WHERE leaf_index = 301',
      ),
    /^Leaf 301: its event is in the index twice, as leaf 0 too/,
  ],
  [
    'D1 with another name',
    1,
    () => sql("UPDATE names SET name = 'did:key:forged' WHERE kind = 'source'"),
    /another source than/,
  ],
  ...['first_index', 'count', 'tree_size', 'sealed_at', 'parts'].map((column): Forgery => [
    `D1 batches.${column}`,
    1,
    () => sql(`UPDATE batches SET ${column} = ${column} + 1 WHERE height = 1`),
    new RegExp(
      `^Batch 1: D1 and R2 differ in ${column.replace(/_(.)/, (_, c: string) => c.toUpperCase())}\\.`,
    ),
  ]),
  ...['root', 'manifest', 'checkpoint'].map((column): Forgery => [
    `D1 batches.${column}`,
    1,
    () => sql(`UPDATE batches SET ${column} = ${column} || 'x' WHERE height = 1`),
    new RegExp(`differ in ${column}\\.`),
  ]),
  [
    'a record of R2 with another root',
    2,
    () => record(2, { root: 'ab'.repeat(32) }),
    /its leaves do not lead to its root/,
  ],
  [
    'a record of R2 with another count',
    2,
    () => record(2, { count: 4, treeSize: 304 }),
    /has 5 events in R2, its record says 4/,
  ],
  [
    'a batch before the one before it',
    2,
    () => record(2, { sealedAt: 1 }),
    /sealed before the batch before/,
  ],
  [
    'a batch that begins elsewhere',
    2,
    () => record(2, { firstIndex: 299, treeSize: 304 }),
    /does not begin where/,
  ],
  [
    'a record that is garbage',
    1,
    () => object('batches/1', () => '{"height":'),
    /The record of batch 1 in R2 is none/,
  ],
  [
    'a record that is null',
    1,
    () => object('batches/1', () => 'null'),
    /The record of batch 1 in R2 is none/,
  ],
  [
    'a record that is that of another batch',
    1,
    () => object('batches/1', (b) => fromUtf8(b).replace('"height":1', '"height":2')),
    /it is that of batch 2/,
  ],
  [
    'a record that is bytes',
    2,
    () => object('batches/1', () => randomBytes(99)),
    /The record of batch 1 in R2 is none/,
  ],
  [
    'a record that is gone',
    1,
    () => object('batches/1', () => null),
    /R2 lacks the record of batch 1/,
  ],
  [
    'a checkpoint that is garbage',
    2,
    () => record(2, { checkpoint: 'x' }),
    /its checkpoint does not verify/,
  ],
  [
    'the checkpoint of the batch before',
    2,
    async () =>
      record(2, {
        checkpoint: await one<string>('SELECT checkpoint FROM batches WHERE height = 1'),
      }),
    /its checkpoint does not verify: it is of another tree/,
  ],
  [
    'a manifest with a broken signature',
    2,
    async () => {
      const jws = await one<string>('SELECT manifest FROM batches WHERE height = 2')
      const at = jws.length - 10
      return record(2, {
        manifest: `${jws.slice(0, at)}${jws[at] === 'A' ? 'B' : 'A'}${jws.slice(at + 1)}`,
      })
    },
    /the signature of its manifest: it is not that of/,
  ],
  [
    'a manifest by another key',
    2,
    () => signedManifest({}, other),
    /the signature of its manifest: it is that of did:key:\w+, not of this node/,
  ],
  [
    'a manifest that is no JWS',
    2,
    () => record(2, { manifest: 'garbage' }),
    /the signature of its manifest/,
  ],
  ...Object.entries({
    origin: 'other.example/log',
    height: 3,
    firstIndex: 299,
    count: 6,
    treeSize: 306,
    root: `sha256:${'ab'.repeat(32)}`,
    previousRoot: `sha256:${'ab'.repeat(32)}`,
    batchRoot: `sha256:${'ab'.repeat(32)}`,
    sealedAt: '2026-01-01T00:00:00.000Z',
    sealer: 'did:key:other',
    more: 1,
  }).map(([claim, value]): Forgery => [
    `a signed manifest with another ${claim}`,
    2,
    () => signedManifest({ [claim]: value }),
    new RegExp(`claims of its manifest: ${claim} are not those`),
  ]),
  [
    'an event with another signature',
    1,
    () =>
      object('events/1/0', (bytes) => {
        const lines = fromUtf8(bytes).split('\n')
        lines[3] = lines[3]!.slice(0, -4) + 'AAAA'
        return lines.join('\n')
      }),
    /^Leaf 3: its event’s signature does not verify/,
  ],
  [
    'an event by another source than its signer',
    1,
    () =>
      object('events/1/0', (bytes) => {
        const lines = fromUtf8(bytes).split('\n')
        lines[3] = signEvent(alice, { payload: { source: 'did:key:somebody' } })
        return lines.join('\n')
      }),
    /^Leaf 3: its event is signed by did:key:\w+, not by its source/,
  ],
  [
    'an event that is garbage',
    1,
    () => object('events/1/0', (bytes) => fromUtf8(bytes).replace(/^.*\n/, 'garbage\n')),
    /^Leaf 0: its event cannot be read/,
  ],
  [
    'a part that is random bytes',
    1,
    () => object('events/1/0', () => randomBytes(5000)),
    /its event cannot be read/,
  ],
  ['a part that is empty', 1, () => object('events/1/0', () => ''), /has 0 events in R2/],
  [
    'a part that is gone',
    1,
    () => object('events/1/0', () => null),
    /part 0 of its events is missing/,
  ],
  [
    'an entry of a full bundle',
    1,
    () => object('log/tile/entries/000', flipped(2 + 34 * 9)),
    /^Leaf 9: its entry in log\/tile\/entries\/000 is not/,
  ],
  [
    'an entry of the right edge',
    1,
    () => object('log/tile/entries/001.p/44', flipped(2)),
    /^Leaf 256: its entry/,
  ],
  [
    'an old entry in a later bundle',
    2,
    () => object('log/tile/entries/001.p/49', flipped(2)),
    /^Leaf 256: its entry/,
  ],
  [
    'a bundle that is garbage',
    1,
    () => object('log/tile/entries/000', () => 'x'),
    /^log\/tile\/entries\/000: /,
  ],
  [
    'a bundle that is gone',
    1,
    () => object('log/tile/entries/000', () => null),
    /log\/tile\/entries\/000 is missing/,
  ],
  [
    'a bundle that the next batch extends',
    2,
    () => object('log/tile/entries/001.p/44', () => null),
    /Size 300: .* is missing/,
  ],
  [
    'a hash of a tile above level 0',
    1,
    () => object('log/tile/1/000.p/1', flipped(5)),
    /log\/tile\/1\/000\.p\/1 does not hold the hashes/,
  ],
  [
    'the same tile seen by the next batch',
    2,
    () => object('log/tile/1/000.p/1', flipped(5)),
    /do not lead to the root of the batch before/,
  ],
  [
    'a tile above level 0 of another length',
    1,
    () => object('log/tile/1/000.p/1', () => 'x'),
    /does not hold the hashes/,
  ],
  [
    'a tile above level 0 that is gone',
    1,
    () => object('log/tile/1/000.p/1', () => null),
    /log\/tile\/1\/000\.p\/1 is missing/,
  ],
  [
    'an anchor receipt of R2 alone',
    2,
    () => object(receiptAt(1), (b) => `${fromUtf8(b)} `),
    /the anchor receipt of TSA\S+ in R2: /,
  ],
  [
    'an anchor receipt that R2 lacks',
    2,
    () => object(receiptAt(1), () => null),
    /is in D1, but R2 lacks/,
  ],
  [
    'an anchor receipt that is garbage',
    2,
    () => object(receiptAt(1), () => randomBytes(50)),
    /the anchor receipt of TSA\S+ in R2: /,
  ],
  [
    'an anchor receipt with another time',
    2,
    () => receipt({ anchorTs: '2020-01-01T00:00:00.000Z' }),
    /does not verify: refuted at anchorTs/,
  ],
  [
    'an anchor receipt of another tree size',
    2,
    () => receipt({ treeSize: 304 }),
    /another treeSize than it says/,
  ],
  [
    'an anchor receipt with another proof',
    2,
    () => receipt({ proof: { type: 'magic' } }),
    /does not verify: unsupported/,
  ],
  [
    'an anchor receipt that is null',
    2,
    () => sql(`UPDATE receipts SET json = 'null' WHERE root = '${roots[1]}'`),
    /does not verify/,
  ],
  ...[
    ['tx_hash', "'forged'", 'txHash'],
    ['anchor_at', '0', 'anchorAt'],
  ].map(([column, value, name]): Forgery => [
    `D1 receipts.${column}`,
    2,
    () => sql(`UPDATE receipts SET ${column} = ${value} WHERE root = '${roots[1]}'`),
    new RegExp(`another ${name} than it says`),
  ]),
  [
    'D1 receipts.tree_size',
    2,
    () => sql(`UPDATE receipts SET tree_size = 303 WHERE root = '${roots[1]}'`),
    /is of size 303 and root \w+, which the log never had/,
  ],
  [
    'D1 receipts.root',
    2,
    () => sql(`UPDATE receipts SET root = 'ab' WHERE root = '${roots[1]}'`),
    /is of size 305 and root ab, which the log never had/,
  ],
  [
    'D1 without an anchor receipt',
    2,
    () => sql(`DELETE FROM receipts WHERE root = '${roots[1]}'`),
    /is final, but D1 has no receipt of it/,
  ],
  [
    'D1 without an anchor receipt and its job',
    2,
    async () => {
      await db.prepare('CREATE TABLE kept2 AS SELECT * FROM anchors').run()
      await db.prepare('DELETE FROM anchors').run()
      const undo = await sql(`DELETE FROM receipts WHERE root = '${roots[1]}'`)
      return async () => {
        await undo()
        await db.batch([
          db.prepare('INSERT INTO anchors SELECT * FROM kept2'),
          db.prepare('DROP TABLE kept2'),
        ])
      }
    },
    /R2 holds a receipt of TSA\S+, D1 does not/,
  ],
  ['D1 without rails', 2, () => sql('DELETE FROM rails'), /rails lack TSA/],
  [
    'D1 without rails, seen from the state',
    0,
    () => sql('DELETE FROM rails'),
    /lack the kinds of 2 anchor receipts/,
  ],
  [
    'an anchor receipt of a size to come',
    0,
    () => sql(`UPDATE receipts SET tree_size = 999 WHERE root = '${roots[1]}'`),
    /1 anchor receipts of sizes that the log never had/,
  ],
  [
    'the last index row gone',
    0,
    () => sql('DELETE FROM events WHERE leaf_index = 304'),
    /D1 indexes leaves 0 to 303, the log has 305/,
  ],
  [
    'an index row of a leaf that is not there',
    0,
    () => sql('UPDATE events SET leaf_index = 999 WHERE leaf_index = 304'),
    /D1 indexes leaves 0 to 999/,
  ],
  [
    'the last batch hidden',
    0,
    () => sql('UPDATE batches SET committed = 0 WHERE height = 2'),
    /D1 shows batches up to 1 and has 2/,
  ],
  [
    'a batch that is not there',
    0,
    () => sql('UPDATE batches SET height = 9 WHERE height = 2'),
    /D1 shows batches up to 9/,
  ],
  [
    'the record of the head',
    0,
    () => record(2, { root: 'ab'.repeat(32) }),
    /The record of batch 2 is not of the head/,
  ],
]

describe('a finding names', () => {
  test.each(forgeries)('%s', async (_what, height, forge, finding) => {
    const undo = await forge()
    try {
      expect(await fsck(height)).toContainEqual(expect.stringMatching(finding))
    } finally {
      await undo()
    }
  })
})

test('an event that today’s rules refuse is no finding by itself: its signature holds', async () => {
  const jws = signEvent(alice, {
    payload: { dataschema: 'no URI', 'NOT-A-NAME': 1.5, time: '2200-01-01T00:00:00Z' },
  })
  const undo = await object('events/2/0', (bytes) =>
    fromUtf8(bytes).replace(/^.*\n/, () => `${jws}\n`),
  )
  try {
    const findings = await fsck(2)
    expect(findings).not.toContainEqual(expect.stringMatching(/signature|source|read/))
    expect(findings).toContainEqual(
      expect.stringMatching(/^Leaf 300: its index row has another .*hash/),
    )
    expect(findings).toContainEqual(expect.stringMatching(/its leaves do not lead to its root/))
  } finally {
    await undo()
  }
})

test('when everything is put back fsck finds nothing', async () => {
  for (const height of [0, 1, 2]) expect(await fsck(height)).toEqual([])
})
