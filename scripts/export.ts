/**
 * A log as plain files that need nothing of ours to be read, kept and verified (docs/backup.md):
 *
 *   README.md                       what is what, and how to verify it
 *   trust.json                      names and keys, as the node stated them at the first export
 *   log/checkpoint, log/tile/…      C2SP tlog-tiles, level 0 as well: any file server is a log server
 *   batches/<height>.json           manifest and checkpoint of a batch
 *   events/<height>.ndjson          its events, one compact JWS a line; of an erased one its tombstone
 *   anchors/receipts/…              anchor receipts, and .ots beside those of Bitcoin (receipt-files.ts)
 *   export.json                     how far this export is
 *
 * It is read over the public API, of any node, and nothing is written that does not verify: the lines of a batch hash
 * to its entries, with the tree before they make its root, and that is what the log's key signed. A batch is whole
 * before export.json says so; what was cut off goes on there. An event that was erased after its batch was exported is
 * fetched once more, as its tombstone.
 */

import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import * as z from 'zod'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { concat, equal, fromUtf8, toHex, utf8 } from '#core/bytes.ts'
import {
  ERASURE_TYPE,
  entryOf,
  isTombstone,
  linesOf,
  mentionsErasure,
  readErasure,
} from '#core/erasure.ts'
import { readEvent } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  append,
  edgeTiles,
  emptyEdge,
  leafHashes,
  restoreEdge,
  rootOfEdge,
  TILE_WIDTH,
  type TreeEdge,
} from '#core/merkle.ts'
import { parseVkey } from '#core/signed-note.ts'
import { decodeEntries, encodeEntries, tilePath, tileRows, tilesOf } from '#core/tile.ts'
import { readSignedBatch, type LogKeys, type SignedBatch } from '../functions/remembrancer.ts'
import { problemFrom, trustOf, type Trust } from '../functions/sdk.ts'
import { getJson, noAnswer } from './cli/remote.ts'
import { exportReceipts } from './receipt-files.ts'

const stateSchema = z.strictObject({
  v: z.literal(1),
  origin: z.string(),
  /** The first batch whose events are here; the entries of all before are in log/. */
  from: z.int().positive(),
  /** The newest batch that is here. */
  height: z.int().nonnegative(),
  size: z.int().nonnegative(),
  /** 64 hex digits each: events that the log says are erased and whose lines here still have bytes. */
  erased: z.array(z.string()),
})
type State = z.infer<typeof stateSchema>

/** What an export did. */
export interface Exported {
  readonly origin: string
  readonly height: number
  readonly size: number
  readonly batches: number
  readonly receipts: number
  /** Lines that became tombstones. */
  readonly erased: number
}

/** The right edge of the exported tree, and the entries that fill no bundle yet. */
interface Edge {
  readonly tree: TreeEdge
  readonly entries: readonly Uint8Array[]
}

type Progress = (text: string) => void

/** Brings the export in `folder` up to what the node of `url` has sealed; `from` counts for a new export only. */
export async function exportLog(
  url: string,
  {
    folder,
    from,
    progress,
  }: { readonly folder: string; readonly from: number; progress: Progress },
): Promise<Exported> {
  const trust = await pinned(folder, await trustOf(url))
  const keys = keysIn(trust)
  const { batches: newest } = await getJson<{ batches: { height: number }[] }>(
    `${url}/batches?limit=1`,
    authorization(),
  )
  const head = newest[0]?.height ?? 0
  let state = readState(folder, trust.origin) ?? { ...FRESH, origin: trust.origin, from }
  let edge =
    state.size === 0
      ? await begin(url, folder, { keys, from, progress })
      : readEdge(folder, state.size)
  if (state.height === 0) state = { ...state, height: from - 1, size: edge.tree.size }
  let batches = 0
  while (state.height < head) {
    const height = state.height + 1
    const batch = await batchOf(url, keys, height)
    const lines = await linesOfBatch(url, batch)
    edge = take(folder, edge, { batch, lines })
    const erased = [...state.erased]
    for (const line of lines) {
      const target = erasedBy(line)
      if (target !== null && !erased.includes(target)) erased.push(target)
    }
    const before = state.size
    state = { ...state, height, size: edge.tree.size, erased }
    put(join(folder, 'log', 'checkpoint'), batch.checkpoint)
    putState(folder, state)
    dropPartials(folder, before, state.size)
    batches++
    progress(`exported batch ${height} of ${head}, ${state.size} events`)
  }
  const stones = await takeTombstones(url, folder, { state, keys })
  state = { ...state, erased: state.erased.filter((hash) => !stones.has(hash)) }
  putState(folder, state)
  const receipts = await exportReceipts(url, join(folder, 'anchors', 'receipts'))
  put(join(folder, 'README.md'), readme(trust, state))
  const { origin, height, size } = state
  return { origin, height, size, batches, receipts: receipts.length, erased: stones.size }
}

const FRESH = { v: 1, height: 0, size: 0, erased: [] as string[] } as const

/** What an export holds, read and verified without a node; findings are sentences. */
export async function verifyExport(
  folder: string,
  progress: Progress,
): Promise<Exported & { readonly findings: readonly string[] }> {
  const findings: string[] = []
  const trust = readTrust(folder)
  const keys = keysIn(trust)
  const state = readState(folder, trust.origin)
  if (state === null) throw broken(`${folder} is no export: it has no export.json.`)
  const attempt = async <T>(what: string, check: () => Promise<T> | T): Promise<T | null> => {
    try {
      return await check()
    } catch (error) {
      findings.push(`${what}: ${error instanceof Error ? error.message : String(error)}`)
      return null
    }
  }
  let batches = 0
  let stones = 0
  let entries: Uint8Array[] = []
  let tree = emptyEdge
  const tiles = new Map<string, Uint8Array>()
  const onTile = (level: number, index: number, bytes: Uint8Array): void => {
    tiles.set(tilePath(level, index), bytes)
  }
  await attempt('The entries', () => {
    entries = allEntries(folder, state.size)
  })
  let previous = ''
  for (let height = state.from; height <= state.height; height++) {
    progress(`verified batch ${height} of ${state.height}, ${findings.length} findings`)
    await attempt(`Batch ${height}`, async () => {
      const batch = await storedBatch(folder, keys, height)
      const { firstIndex, count, treeSize, root, previousRoot } = batch.manifest
      const lines = linesIn(readFileSync(eventsFile(folder, height)))
      if (lines.length !== count)
        throw broken(`it has ${lines.length} lines, its manifest says ${count}.`)
      for (const [i, line] of lines.entries()) {
        if (isTombstone(line)) stones++
        if (!equal(entryOf(line), entries[firstIndex + i] ?? new Uint8Array(0)))
          throw broken(`line ${i + 1} is not the event of leaf ${firstIndex + i}.`)
      }
      if (tree.size < firstIndex)
        tree = append(tree, leafHashes(entries.slice(tree.size, firstIndex)), onTile)
      if (tree.size !== firstIndex || toHex(rootOfEdge(tree)) !== previousRoot)
        throw broken('it does not follow the batch before it.')
      tree = append(tree, leafHashes(entries.slice(firstIndex, treeSize)), onTile)
      if (toHex(rootOfEdge(tree)) !== root) throw broken('its entries do not lead to its root.')
      previous = batch.checkpoint
      batches++
    })
  }
  await attempt('log/checkpoint', () => {
    const checkpoint = readFileSync(join(folder, 'log', 'checkpoint'), 'utf8')
    if (checkpoint !== previous) throw broken('it is not that of the newest batch.')
  })
  for (const { level, index, width, bytes } of edgeTiles(tree))
    tiles.set(tilePath(level, index, width), bytes)
  if (tree.size === state.size) {
    for (const tile of tilesOf(state.size)) {
      const path = tilePath(tile.level, tile.index, tile.width)
      await attempt(`log/${path}`, () => {
        const expected = tiles.get(path)
        if (expected === undefined || !equal(readFileSync(join(folder, 'log', path)), expected))
          throw broken('it does not hold the hashes of the tiles below it.')
      })
    }
  }
  const receipts = await verifyReceipts(folder, { trust, attempt })
  const { origin, height, size } = state
  return { origin, height, size, batches, receipts, erased: stones, findings }
}

/** Trust as the folder has it, or as the node states it now; throws if they are of two logs. */
async function pinned(folder: string, said: Trust): Promise<Trust> {
  if (!existsSync(join(folder, 'trust.json'))) {
    if (existsSync(folder) && readdirSync(folder).length > 0)
      throw broken(`${folder} is not empty and no export: name a new folder.`)
    mkdirSync(folder, { recursive: true })
    put(join(folder, 'trust.json'), `${JSON.stringify(said, null, 2)}\n`)
    return said
  }
  const kept = readTrust(folder)
  if (kept.origin !== said.origin || kept.vkeys[0] !== said.vkeys[0]) {
    throw broken(
      `${folder} is an export of ${kept.origin} under another key than the node's (${said.origin}).`,
    )
  }
  const trust = {
    ...said,
    tsaRoots: [...new Set([...said.tsaRoots, ...kept.tsaRoots])],
    nodeDids: [...new Set([...(said.nodeDids ?? []), ...(kept.nodeDids ?? [])])],
  }
  put(join(folder, 'trust.json'), `${JSON.stringify(trust, null, 2)}\n`)
  return trust
}

function readTrust(folder: string): Trust {
  const path = join(folder, 'trust.json')
  if (!existsSync(path)) throw broken(`${folder} is no export: it has no trust.json.`)
  return JSON.parse(readFileSync(path, 'utf8')) as Trust
}

function keysIn(trust: Trust): LogKeys {
  const log = parseVkey(trust.vkeys[0]!)
  const dids = new Set(trust.nodeDids)
  return { origin: trust.origin, log, isKey: (did) => dids.has(did) }
}

/** The tree before the first batch whose events are wanted, from the log's own entries. */
async function begin(
  url: string,
  folder: string,
  { keys, from, progress }: { keys: LogKeys; from: number; progress: Progress },
): Promise<Edge> {
  if (from === 1) return { tree: emptyEdge, entries: [] }
  const { manifest } = await batchOf(url, keys, from - 1)
  let edge: Edge = { tree: emptyEdge, entries: [] }
  const { full, partial } = tileRows(manifest.treeSize)[0] ?? { full: 0, partial: 0 }
  for (let index = 0; index < full + (partial > 0 ? 1 : 0); index++) {
    const width = index < full ? TILE_WIDTH : partial
    const bytes = await getBytes(`${url}/log/${tilePath('entries', index, width)}`)
    edge = extend(folder, edge, decodeEntries(bytes, width))
    progress(`read the entries of ${edge.tree.size} of ${manifest.treeSize} events`)
  }
  if (toHex(rootOfEdge(edge.tree)) !== manifest.root)
    throw broken(`The entries that the node serves do not lead to the root of batch ${from - 1}.`)
  return edge
}

async function batchOf(url: string, keys: LogKeys, height: number): Promise<SignedBatch> {
  const said = await getJson<{ manifest: string; checkpoint: string }>(
    `${url}/batches/${height}`,
    authorization(),
  )
  const batch = await readSignedBatch(keys, said.manifest, said.checkpoint)
  if (batch.manifest.height !== height)
    throw broken(`The node answered with batch ${batch.manifest.height} for ${height}.`)
  return batch
}

async function linesOfBatch(url: string, { manifest }: SignedBatch): Promise<Uint8Array[]> {
  const lines = linesIn(await getBytes(`${url}/batches/${manifest.height}/events`))
  if (lines.length === manifest.count) return lines
  throw broken(
    `Batch ${manifest.height} has ${lines.length} events, its manifest says ${manifest.count}.`,
  )
}

/** Lines as an export keeps them: tombstones without what fills their place at the node. */
function linesIn(bytes: Uint8Array): Uint8Array[] {
  return [...linesOf(bytes)].map(({ line }) =>
    isTombstone(line) ? utf8(fromUtf8(line).trimEnd()) : line,
  )
}

/** Writes a batch that verifies and returns the edge after it. */
function take(
  folder: string,
  edge: Edge,
  { batch, lines }: { readonly batch: SignedBatch; readonly lines: readonly Uint8Array[] },
): Edge {
  const { height, firstIndex, root, previousRoot } = batch.manifest
  if (firstIndex !== edge.tree.size || previousRoot !== toHex(rootOfEdge(edge.tree)))
    throw broken(`Batch ${height} does not follow the batch before it.`)
  const entries = lines.map(entryOf)
  // Before anything is written: the root is what the log's key signed.
  const after = append(edge.tree, leafHashes(entries), () => undefined)
  if (toHex(rootOfEdge(after)) !== root)
    throw broken(`The events of batch ${height} do not lead to the root that its log signed.`)
  const { manifestJws, checkpoint } = batch
  const said = { ...batch.manifest, manifest: manifestJws, checkpoint }
  put(join(folder, 'batches', `${height}.json`), `${JSON.stringify(said, null, 2)}\n`)
  put(eventsFile(folder, height), concat(...lines.flatMap((line) => [line, NEWLINE])))
  return extend(folder, edge, entries)
}

const NEWLINE = Uint8Array.of(0x0a)

function eventsFile(folder: string, height: number): string {
  return join(folder, 'events', `${height}.ndjson`)
}

/** Appends entries and writes the tiles that change. */
function extend(folder: string, edge: Edge, more: readonly Uint8Array[]): Edge {
  const at = (path: string): string => join(folder, 'log', path)
  const tree = append(edge.tree, leafHashes(more), (level, index, bytes) => {
    put(at(tilePath(level, index)), bytes)
  })
  for (const { level, index, width, bytes } of edgeTiles(tree))
    put(at(tilePath(level, index, width)), bytes)
  const entries = [...edge.entries, ...more]
  const first = Math.floor(edge.tree.size / TILE_WIDTH)
  let used = 0
  for (; used + TILE_WIDTH <= entries.length; used += TILE_WIDTH)
    put(
      at(tilePath('entries', first + used / TILE_WIDTH)),
      encodeEntries(entries.slice(used, used + TILE_WIDTH)),
    )
  const rest = entries.slice(used)
  if (rest.length > 0)
    put(
      at(tilePath('entries', Math.floor(tree.size / TILE_WIDTH), rest.length)),
      encodeEntries(rest),
    )
  return { tree, entries: rest }
}

/** Partial tiles of an older size: fuller ones have taken their place. */
function dropPartials(folder: string, before: number, size: number): void {
  const named = (of: number): Set<string> => {
    const paths = new Set<string>()
    for (const { level, full, partial } of tileRows(of)) {
      if (partial === 0) continue
      paths.add(tilePath(level, full, partial))
      if (level === 0) paths.add(tilePath('entries', full, partial))
    }
    return paths
  }
  const now = named(size)
  for (const path of named(before)) {
    if (!now.has(path)) rmSync(join(folder, 'log', path), { force: true })
  }
}

/** The edge of an export of `size` entries, from its own tiles. */
function readEdge(folder: string, size: number): Edge {
  const levels: [number, Uint8Array][] = []
  let entries: readonly Uint8Array[] = []
  for (const { level, full, partial } of tileRows(size)) {
    if (partial === 0) continue
    levels.push([
      level,
      new Uint8Array(readFileSync(join(folder, 'log', tilePath(level, full, partial)))),
    ])
    if (level === 0)
      entries = decodeEntries(
        readFileSync(join(folder, 'log', tilePath('entries', full, partial))),
        partial,
      )
  }
  return { tree: restoreEdge(size, levels), entries }
}

function allEntries(folder: string, size: number): Uint8Array[] {
  const all: Uint8Array[] = []
  const { full, partial } = tileRows(size)[0] ?? { full: 0, partial: 0 }
  for (let index = 0; index < full + (partial > 0 ? 1 : 0); index++) {
    const width = index < full ? TILE_WIDTH : partial
    const bytes = readFileSync(join(folder, 'log', tilePath('entries', index, width)))
    for (const entry of decodeEntries(bytes, width)) all.push(entry)
  }
  return all
}

/** 64 hex digits of what a `vm.erased` event says is erased; null for any other line. */
function erasedBy(line: Uint8Array): string | null {
  if (isTombstone(line) || !mentionsErasure(line)) return null
  try {
    return readEvent(line).type === ERASURE_TYPE ? readErasure(line).eventHash.slice(7) : null
  } catch {
    return null // admitted under other rules; it erases nothing
  }
}

/** Fetches batches again that hold an event which is erased by now; returns the hashes whose bytes are gone here. */
async function takeTombstones(
  url: string,
  folder: string,
  { state, keys }: { readonly state: State; readonly keys: LogKeys },
): Promise<Set<string>> {
  const gone = new Set<string>()
  for (const hash of state.erased) {
    const { height } = await getJson<{ height: number }>(
      `${url}/receipts/sha256:${hash}`,
      authorization(),
    )
    if (height < state.from || height > state.height) {
      if (height < state.from) gone.add(hash)
      continue
    }
    const batch = await batchOf(url, keys, height)
    const before = linesIn(readFileSync(eventsFile(folder, height)))
    const now = await linesOfBatch(url, batch)
    if (!before.every((line, i) => equal(entryOf(line), entryOf(now[i]!))))
      throw broken(`The node answered with other events for batch ${height} than before.`)
    put(eventsFile(folder, height), concat(...now.flatMap((line) => [line, NEWLINE])))
    if (now.some((line) => isTombstone(line) && toHex(entryOf(line)) === hash)) gone.add(hash)
  }
  return gone
}

async function storedBatch(folder: string, keys: LogKeys, height: number): Promise<SignedBatch> {
  const text = readFileSync(join(folder, 'batches', `${height}.json`), 'utf8')
  const { manifest, checkpoint } = JSON.parse(text) as { manifest: string; checkpoint: string }
  const batch = await readSignedBatch(keys, manifest, checkpoint)
  if (batch.manifest.height !== height) throw broken(`it is batch ${batch.manifest.height}.`)
  return batch
}

async function verifyReceipts(
  folder: string,
  {
    trust,
    attempt,
  }: {
    readonly trust: Trust
    readonly attempt: (what: string, check: () => Promise<void>) => Promise<unknown>
  },
): Promise<number> {
  const at = join(folder, 'anchors', 'receipts')
  const names = existsSync(at) ? readdirSync(at) : []
  const receipts = names.filter((name) => name.endsWith('.json') && !name.endsWith('.revoked.json'))
  for (const name of receipts) {
    await attempt(`anchors/receipts/${name}`, async () => {
      const receipt = JSON.parse(readFileSync(join(at, name), 'utf8')) as Record<string, unknown>
      const verdict = await verifyAnchorReceipt(receipt, trust)
      if (verdict.outcome !== 'verified') throw broken(`${verdict.outcome}: ${verdict.reason}`)
    })
  }
  return receipts.length
}

function readState(folder: string, origin: string): State | null {
  const path = join(folder, 'export.json')
  if (!existsSync(path)) return null
  const parsed = stateSchema.safeParse(JSON.parse(readFileSync(path, 'utf8')))
  if (!parsed.success || parsed.data.origin !== origin)
    throw broken(`${path} is not that of an export of ${origin}.`)
  return parsed.data
}

function putState(folder: string, state: State): void {
  put(join(folder, 'export.json'), `${JSON.stringify(state, null, 2)}\n`)
}

/** Who may read events where a node shows them to nobody in public. */
function authorization(): Record<string, string> {
  const token = process.env['VAULTMESH_ADMIN_TOKEN'] ?? ''
  return token === '' ? {} : { authorization: `Bearer ${token}` }
}

async function getBytes(url: string): Promise<Uint8Array> {
  try {
    const response = await fetch(url, { headers: authorization() })
    const bytes = new Uint8Array(await response.arrayBuffer())
    if (response.ok) return bytes
    let body: unknown = null
    try {
      body = JSON.parse(fromUtf8(bytes))
    } catch {
      // Not ours; the status says enough.
    }
    throw problemFrom(response.status, body)
  } catch (cause) {
    if (cause instanceof Error && 'code' in cause && 'advice' in cause) throw cause
    throw noAnswer(new URL(url).origin, cause)
  }
}

/** Written whole or not at all. */
function put(path: string, content: Uint8Array | string): void {
  mkdirSync(dirname(path), { recursive: true })
  const part = `${path}.part`
  writeFileSync(part, content)
  renameSync(part, path)
}

function broken(detail: string): VaultMeshError {
  return new VaultMeshError('bad-state', detail)
}

function readme(trust: Trust, { height, size, from }: State): string {
  const vkey = trust.vkeys[0]!
  return `# The log ${trust.origin}

${size} events in ${height} batches, exported by VaultMesh${from > 1 ? `; the events of batches below ${from} are not here, their hashes are` : ''}. Nothing here needs the node it came from.

- \`log/\`: the log as C2SP tlog-tiles (https://c2sp.org/tlog-tiles), checkpoint and all tiles. The key is \`${vkey}\`.
- \`batches/<height>.json\`: what each batch is, signed by the node (\`manifest\`, JWS) and by the log (\`checkpoint\`, C2SP signed note).
- \`events/<height>.ndjson\`: its events in order, one compact JWS a line. Entry n of the log is the SHA-256 of line n's bytes. A line that
  begins with \`{\` is of an event that was erased: \`eventHash\` is its entry, \`erasedBy\` the event that erased it.
- \`anchors/receipts/\`: where roots stand in Bitcoin, EVM chains and with timestamp authorities; \`root\` is the root at \`treeSize\`.
- \`trust.json\`: names and keys as the node stated them. Whether they are whom you mean, you must know from elsewhere.

To verify all of it:

    vaultmesh export verify .

With tools of others: serve this folder (\`python3 -m http.server 8000\`) and let any client of tlog-tiles read
http://127.0.0.1:8000/log; \`ots verify\` takes the .ots files, \`openssl ts -verify\` the tokens of timestamp authorities.
`
}
