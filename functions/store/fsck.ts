/**
 * fsck: derive everything again from the bytes and compare with what each store claims.
 *
 * Two questions, so that a large log is checked in small calls: `checkState` compares the Sequencer, the
 * pools, D1's counts and the newest checkpoint; `checkBatch` takes one batch from its events up: bytes →
 * entries → tiles → root → checkpoint and manifest → index rows. Findings are sentences; none is good.
 */

import { equal, fromBase64Url, fromHex, fromUtf8, toHex } from '#core/bytes.ts'
import { verifyCheckpoint } from '#core/checkpoint.ts'
import { readEvent } from '#core/envelope.ts'
import { leafHashes, restoreEdge, rootOf, rootOfEdge, TILE_WIDTH } from '#core/merkle.ts'
import { sha256 } from '#core/sha256.ts'
import { decodeEntries, tilePath, tileWidth } from '#core/tile.ts'
import { readBatchRecord, type BatchRecord } from '#store/batches.ts'
import { eventsKey, getBytes } from '#store/bucket.ts'
import { proveConsistency, proveInclusion, readTile } from '#store/log.ts'
import { verifyConsistencyProof } from '#core/consistency-proof.ts'
import { verifyInclusionProof } from '#core/inclusion-proof.ts'
import type { NodeContext } from '#store/node.ts'

/** What a check found. */
export interface Findings {
  readonly findings: readonly string[]
  readonly facts: Readonly<Record<string, string | number | boolean>>
}

/** Compares the Sequencer with itself, with its pools, with D1 and with the newest checkpoint. */
export async function checkState(env: Env, node: NodeContext): Promise<Findings> {
  const findings: string[] = []
  const { head, cursors, edge, assignment } = await env.SEQUENCER.getByName('log').audit()
  const restored = restoreEdge(
    head.size,
    edge.map(({ level, hashes }) => [level, fromHex(hashes)] as const),
  )
  if (toHex(rootOfEdge(restored)) !== head.root)
    findings.push('The Sequencer’s edge does not lead to its root.')
  const { checkpoint } = await verifyCheckpoint(head.checkpoint, { log: node.log.key })
  if (checkpoint.size !== head.size || toHex(checkpoint.root) !== head.root) {
    findings.push('The newest checkpoint is not of the head.')
  }
  const counts = await env.DB.prepare(
    'SELECT (SELECT count(*) FROM events) AS events, (SELECT count(*) FROM batches WHERE committed = 1) AS batches, (SELECT count(DISTINCT event_hash) FROM events) AS hashes',
  ).first<{ events: number; batches: number; hashes: number }>()
  if (head.indexedHeight === head.height && assignment === null) {
    if (counts?.events !== head.size)
      findings.push(`D1 indexes ${counts?.events} events, the log has ${head.size}.`)
    if (counts?.batches !== head.height)
      findings.push(`D1 shows ${counts?.batches} batches, the log has ${head.height}.`)
  }
  if (counts?.hashes !== counts?.events) findings.push('An event is in the index twice.')
  let accepted = 0
  let waiting = 0
  for (const [shard, cursor] of cursors.entries()) {
    const pool = await env.POOL.getByName(String(shard)).audit()
    accepted += pool.nextSeq
    waiting += pool.nextSeq - cursor
    if (pool.claims !== pool.nextSeq)
      findings.push(`Shard ${shard} holds ${pool.claims} claims for ${pool.nextSeq} events.`)
    if (pool.events !== pool.nextSeq)
      findings.push(`Shard ${shard} has digests of ${pool.events} of ${pool.nextSeq} events.`)
    if (pool.forgotten > cursor) findings.push(`Shard ${shard} forgot events that are not sealed.`)
  }
  if (accepted - waiting !== head.size) {
    findings.push(`The pools gave ${accepted - waiting} events to the log, it has ${head.size}.`)
  }
  return {
    findings,
    facts: {
      height: head.height,
      size: head.size,
      root: head.root,
      indexedHeight: head.indexedHeight,
      accepted,
      waiting,
    },
  }
}

/** Derives one batch again from its events. */
export async function checkBatch(env: Env, node: NodeContext, height: number): Promise<Findings> {
  const findings: string[] = []
  const record = await readBatchRecord(env.BUCKET, height)
  const row = await env.DB.prepare('SELECT manifest, checkpoint FROM batches WHERE height = ?')
    .bind(height)
    .first<{ manifest: string; checkpoint: string }>()
  if (row?.manifest !== record.manifest || row.checkpoint !== record.checkpoint) {
    findings.push(`Batch ${height}: D1 and R2 differ.`)
  }
  const hashes = await eventHashes(env, record, findings)
  if (hashes.length !== record.count) {
    findings.push(
      `Batch ${height} has ${hashes.length} events in R2, its record says ${record.count}.`,
    )
    return { findings, facts: { height } }
  }
  const leaves = leafHashes(hashes)
  await checkTiles(env, record, { hashes, leaves }, findings)
  await checkRoots(env, node, record, leaves, findings)
  await checkRows(env, record, hashes, findings)
  return {
    findings,
    facts: { height, count: record.count, treeSize: record.treeSize, root: record.root },
  }
}

async function eventHashes(
  env: Env,
  record: BatchRecord,
  findings: string[],
): Promise<Uint8Array[]> {
  const hashes: Uint8Array[] = []
  for (let part = 0; part < record.parts; part++) {
    const bytes = await getBytes(env.BUCKET, eventsKey(record.height, part))
    if (bytes === null) {
      findings.push(`Batch ${record.height}: part ${part} of its events is missing.`)
      continue
    }
    for (let at = 0; at < bytes.length;) {
      const newline = bytes.indexOf(0x0a, at)
      const end = newline < 0 ? bytes.length : newline
      hashes.push(sha256(bytes.subarray(at, end)))
      at = end + 1
    }
  }
  return hashes
}

/** Entry bundles and lowest tiles that hold the batch's leaves. */
async function checkTiles(
  env: Env,
  record: BatchRecord,
  own: { readonly hashes: readonly Uint8Array[]; readonly leaves: Uint8Array },
  findings: string[],
): Promise<void> {
  const first = Math.floor(record.firstIndex / TILE_WIDTH)
  const last = Math.floor((record.treeSize - 1) / TILE_WIDTH)
  for (let tile = first; tile <= last; tile++) {
    const width = tileWidth(0, tile, record.treeSize)
    const bundle = await getBytes(env.BUCKET, `log/${tilePath('entries', tile, width)}`)
    const hashTile = await readTile(env.BUCKET, { level: 0, index: tile, width })
    if (bundle === null || hashTile === null) {
      findings.push(`Batch ${record.height}: tile ${tile} of width ${width} is missing.`)
      continue
    }
    const entries = decodeEntries(bundle, width)
    for (let i = 0; i < width; i++) {
      const mine = tile * TILE_WIDTH + i - record.firstIndex
      if (mine < 0) continue
      if (!equal(entries[i]!, own.hashes[mine]!))
        findings.push(`Leaf ${tile * TILE_WIDTH + i}: its entry is not the hash of its event.`)
      if (
        !equal(
          hashTile.subarray(i * 32, i * 32 + 32),
          own.leaves.subarray(mine * 32, mine * 32 + 32),
        )
      ) {
        findings.push(`Leaf ${tile * TILE_WIDTH + i}: its tile holds another leaf hash.`)
      }
    }
  }
}

/** The checkpoint's signature, the batch root, and that the tree of this batch extends the last one. */
async function checkRoots(
  env: Env,
  node: NodeContext,
  record: BatchRecord,
  leaves: Uint8Array,
  findings: string[],
): Promise<void> {
  const say = (what: string): number => findings.push(`Batch ${record.height}: ${what}`)
  try {
    const { checkpoint } = await verifyCheckpoint(record.checkpoint, { log: node.log.key })
    if (checkpoint.size !== record.treeSize || toHex(checkpoint.root) !== record.root)
      say('its checkpoint is of another tree.')
  } catch (error) {
    say(`its checkpoint does not verify: ${String(error)}`)
  }
  const claims = JSON.parse(fromUtf8(fromBase64Url(record.manifest.split('.')[1]!))) as Record<
    string,
    unknown
  >
  if (claims['batchRoot'] !== `sha256:${toHex(rootOf(leaves))}`)
    say('its manifest names another batchRoot.')
  if (claims['root'] !== `sha256:${record.root}`) say('its manifest names another root.')
  const root = fromHex(record.root)
  try {
    const lastLeaf = record.count - 1
    verifyInclusionProof({
      index: record.treeSize - 1,
      size: record.treeSize,
      leafHash: leaves.subarray(lastLeaf * 32, lastLeaf * 32 + 32),
      proof: await proveInclusion(env.BUCKET, {
        index: record.treeSize - 1,
        size: record.treeSize,
        published: record.treeSize,
      }),
      root,
    })
    const before = record.height === 1 ? null : await readBatchRecord(env.BUCKET, record.height - 1)
    if (before !== null) {
      if (before.treeSize !== record.firstIndex) say('it does not begin where the last one ended.')
      if (claims['previousRoot'] !== `sha256:${before.root}`)
        say('its manifest names another previousRoot.')
      verifyConsistencyProof({
        size1: before.treeSize,
        size2: record.treeSize,
        root1: fromHex(before.root),
        root2: root,
        proof: await proveConsistency(env.BUCKET, {
          from: before.treeSize,
          to: record.treeSize,
          published: record.treeSize,
        }),
      })
    }
  } catch (error) {
    say(`its tiles do not lead to its root: ${String(error)}`)
  }
}

/** Index rows: each leaf's row names the hash and place of its event. */
async function checkRows(
  env: Env,
  record: BatchRecord,
  hashes: readonly Uint8Array[],
  findings: string[],
): Promise<void> {
  for (let at = 0; at < record.count; at += 1000) {
    const { results } = await env.DB.prepare(
      'SELECT leaf_index AS i, lower(hex(event_hash)) AS hash, event_id AS id, part, offset, length FROM events WHERE leaf_index >= ? AND leaf_index < ? ORDER BY leaf_index',
    )
      .bind(record.firstIndex + at, record.firstIndex + Math.min(at + 1000, record.count))
      .all<{ i: number; hash: string; id: string; part: number; offset: number; length: number }>()
    if (results.length !== Math.min(1000, record.count - at)) {
      findings.push(
        `Batch ${record.height}: D1 lacks index rows after leaf ${record.firstIndex + at}.`,
      )
    }
    let part = -1
    let bytes: Uint8Array = new Uint8Array(0)
    for (const row of results) {
      if (row.part !== part) {
        part = row.part
        bytes = (await getBytes(env.BUCKET, eventsKey(record.height, part))) ?? new Uint8Array(0)
      }
      const event = readEvent(bytes.subarray(row.offset, row.offset + row.length))
      const expected = hashes[row.i - record.firstIndex]!
      if (
        row.hash !== toHex(expected) ||
        !equal(event.eventHash, expected) ||
        event.id !== row.id
      ) {
        findings.push(`Leaf ${row.i}: its index row does not fit its event.`)
      }
    }
  }
}
