/**
 * A log that forks, and the one that follows it: two copies of one home seal different batches at one height, a
 * peer hears both, and the node that finds out ends its log and opens `<origin>/2`, killed twice on the way.
 */

import { cpSync, existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { fromBase64Url, toHex } from '#core/bytes.ts'
import { deriveIdentity } from '#core/node-keys.ts'
import type { Receipt } from '#core/receipt.ts'
import { sha256 } from '#core/sha256.ts'
import { createSigner, eventHashOf, post, sign, verify, type Trust } from '../../functions/sdk.ts'
import { askAdmin } from '../../scripts/admin-socket.ts'
import { startTsa, type Tsa } from '../../scripts/devnet/tsa.ts'
import { homeAt, type Home } from '../../scripts/home.ts'
import { nodeSecret } from '../../scripts/keystore.ts'
import { evidenceFile } from '../../scripts/succession.ts'
import { freePort, sandbox, start, type Running } from './support.ts'

const SELFHOST = 'scripts/selfhost.ts'
const READY = 'rails:'
const FIRST = 'a.test/log'

let box: Awaited<ReturnType<typeof sandbox>>
let tsa: Tsa
let peer: Node
const up: Running[] = []
beforeAll(async () => {
  box = await sandbox()
  tsa = await startTsa({ dir: join(box.dir, 'tsa'), port: 0 })
})
afterAll(async () => {
  // Those that are left when a test fails.
  for (const { stop } of up) {
    try {
      await stop('SIGKILL', true)
    } catch {
      // It has ended.
    }
  }
  await tsa.stop()
  await box.remove()
})

interface Node {
  readonly name: string
  readonly home: Home
  readonly port: number
  readonly url: string
}

function nodeAt(name: string, port: number): Node {
  return { name, home: homeAt(join(box.dir, name)), port, url: `http://127.0.0.1:${port}` }
}

/** Runs a node; its copies have its name, port and settings. */
async function run(node: Node, env: Record<string, string> = {}): Promise<Running> {
  const id = node.name.slice(0, 1)
  const file = join(box.dir, `${id}.yaml`)
  const running = await start(
    [
      SELFHOST,
      '--home',
      node.home.path,
      '--port',
      String(node.port),
      '--receipts',
      join(box.dir, `${node.name}-receipts`),
      ...(existsSync(file) ? ['--federation', file] : []),
    ],
    READY,
    {
      ORIGIN: `${id}.test/log`,
      NODE_ID: id,
      RAILS: '',
      TSA_ROOTS: tsa.rootPem,
      // Only who waits makes a seal: what else is posted waits in the pool.
      SEAL_BATCH_MAX_INTERVAL_MS: '60000',
      ...env,
    },
  )
  up.push(running)
  return running
}

function trustIn(home: Home): Trust {
  return JSON.parse(readFileSync(home.trust, 'utf8')) as Trust
}

async function didOf(home: Home): Promise<string> {
  return (await deriveIdentity(fromBase64Url(await nodeSecret(home.path)), 1)).did
}

/** A configuration in the form of the plan, for a node with one peer. */
function federate(id: string, did: string, peerDid: string, { url }: Node): void {
  const yaml = `node_id: ${id}
node_did: "${did}"
gossip: { interval_ms: 300, max_peers: 16 }
peers_allowlist:
  - { did: "${peerDid}", url: "${url}" }
conflict_policy:
  order: [BTC, EVM, TSA]
  tie_breakers: [earliest_anchor_ts, lowest_tx_hash]
  quarantine_minutes: 15
remembrancer: { url: "${url}", timeout_ms: 3000 }
`
  writeFileSync(join(box.dir, `${id}.yaml`), yaml)
}

async function anEvent(name: string): Promise<string> {
  const secret = new Uint8Array(32).fill(7)
  return sign(await createSigner({ alg: 'EdDSA', secret }), { type: 'test.event', id: name })
}

async function json<T>(url: string): Promise<T> {
  return (await (await fetch(url)).json()) as T
}

/** Polls what may fail while a node starts anew. */
function eventually<T>(ask: () => Promise<T>): ReturnType<typeof expect.poll<T | null>> {
  return expect.poll(() => ask().catch(() => null), { timeout: 40_000, interval: 100 })
}

async function untilThere(path: string): Promise<void> {
  while (!existsSync(path)) await new Promise((resolve) => setTimeout(resolve, 2))
}

interface Conflicts {
  readonly conflicts: readonly { readonly origin: string; readonly winner: string | null }[]
}

interface Found {
  readonly events: readonly { readonly eventHash: string; readonly leafIndex: number }[]
}

test('a node whose log has forked opens the next one, whatever interrupts it, and loses nothing', async () => {
  const a = nodeAt('a', await freePort())
  const copy = nodeAt('a-copy', a.port)
  peer = nodeAt('b', await freePort())

  // One event that both histories begin with. Then the home is copied, as in a restore gone wrong.
  let running = await run(a)
  const common = await post(a.url, await anEvent('common'), { wait: 20 })
  await running.stop('SIGTERM')
  cpSync(a.home.path, copy.home.path, { recursive: true })

  // The node goes on by itself, and one event waits in its pool.
  running = await run(a)
  const own = await post(a.url, await anEvent('own'), { wait: 20 })
  expect(own.receipt?.height).toBe(2)
  const waiting = await anEvent('waiting')
  expect((await post(a.url, waiting)).status).toBe('accepted')
  await running.stop('SIGTERM')

  // The copy does, too, and a peer mirrors that.
  const node_did = await didOf(a.home)
  federate('a', node_did, await didOf(peer.home), peer)
  federate('b', await didOf(peer.home), node_did, a)
  const b = await run(peer)
  running = await run(copy)
  const rival = await anEvent('rival')
  expect((await post(a.url, rival, { wait: 30 })).receipt?.height).toBe(2)
  interface Tips {
    readonly tips: readonly { readonly origin: string; readonly height: number }[]
  }
  const heightAt = async (origin: string): Promise<number | undefined> =>
    (await json<Tips>(`${peer.url}/federation/tips`)).tips.find((t) => t.origin === origin)?.height
  await eventually(() => heightAt(FIRST)).toBe(2)
  await running.stop('SIGTERM')

  // Now the node hears that peer. Killed once the evidence is written and nothing is decided …
  running = await run(a)
  const evidence = evidenceFile(a.home, 1)
  await untilThere(evidence)
  await running.stop('SIGKILL')
  rmSync(a.home.logs, { force: true })
  const leaf = sha256(readFileSync(evidence))
  // … and once it is decided, in the middle of the restart.
  running = await run(a)
  await untilThere(a.home.logs)
  await running.stop('SIGKILL')
  running = await run(a)

  interface WellKnown {
    readonly origin: string
    readonly vkey: string
    readonly witness: { readonly name: string }
    readonly previous: readonly object[]
  }
  const known = await json<WellKnown>(`${a.url}/.well-known/vaultmesh.json`)
  const trust = trustIn(a.home)
  expect(known).toMatchObject({
    origin: `${FIRST}/2`,
    witness: { name: `${FIRST}/2/witness` },
    previous: [{ origin: FIRST, vkey: trust.vkeys[1], evidence: `sha256:${toHex(leaf)}` }],
  })
  expect(trust.vkeys[0]).toBe(known.vkey)

  // The evidence is the first leaf, alone in its batch.
  expect(toHex(sha256(readFileSync(evidence)))).toBe(toHex(leaf))
  const entries = await fetch(`${a.url}/log/2/tile/entries/000.p/1`)
  expect(toHex(new Uint8Array(await entries.arrayBuffer()).subarray(2))).toBe(toHex(leaf))
  const batch = await json<{ readonly count: number }>(`${a.url}/batches/1`)
  expect(batch.count).toBe(1)

  // What waited in the old pool is sealed in the new log, beside what comes in now.
  const added = await post(a.url, await anEvent('added'), { wait: 20 })
  expect(added.receipt).toMatchObject({ origin: `${FIRST}/2`, leafIndex: expect.any(Number) })
  await eventually(async () => {
    await askAdmin(a.home.socket, 'POST', '/admin/seal')
    return (await json<Receipt>(`${a.url}/receipts/${eventHashOf(waiting)}`)).origin
  }).toBe(`${FIRST}/2`)
  for (const { receipt } of [common, own, added]) {
    expect((await verify(receipt!, trust)).verdict).toBe('verified')
  }

  // The old log is served as before, with and without its number, and takes nothing more.
  const checkpoint = await (await fetch(`${a.url}/log/checkpoint`)).text()
  expect(checkpoint).toMatch(new RegExp(`^${FIRST}\n2\n`))
  expect(await (await fetch(`${a.url}/log/1/checkpoint`)).text()).toBe(checkpoint)
  expect(await (await fetch(`${a.url}/log/2/checkpoint`)).text()).toMatch(
    new RegExp(`^${FIRST}/2\n`),
  )
  expect((await fetch(`${a.url}/log/3/checkpoint`)).status).toBe(404)
  expect(await json(`${a.url}/receipts/${own.eventHash}`)).toEqual(own.receipt)
  expect(await json(`${a.url}/log/1/receipts/${own.eventHash}`)).toEqual(own.receipt)
  const standing = await askAdmin(a.home.socket, 'GET', '/admin/log?log=1')
  expect(JSON.parse(standing.body)).toMatchObject({ number: 1, settled: true, height: 2 })

  // Nothing is orphaned while the law has not spoken.
  const sealed = async (): Promise<readonly string[]> =>
    (await json<Found>(`${a.url}/events`)).events.map(({ eventHash }) => eventHash)
  await eventually(
    async () => (await json<Conflicts>(`${a.url}/federation/conflicts`)).conflicts,
  ).toMatchObject([{ origin: FIRST, winner: null }])
  expect(await sealed()).not.toContain(eventHashOf(rival))

  // The peer follows.
  await eventually(() => heightAt(`${FIRST}/2`)).toBeGreaterThanOrEqual(2)
  const { peers } = await json<{ readonly peers: readonly object[] }>(
    `${peer.url}/federation/peers`,
  )
  expect(peers).toMatchObject([
    { did: node_did, origin: `${FIRST}/2`, vkey: known.vkey, state: 'ok' },
  ])
  await running.stop('SIGTERM')

  // The old log's root is anchored after all: it is canonical, and the rival's event is sealed again.
  running = await run(a, { RAILS: 'TSA', TSA_URLS: tsa.url })
  const anchored = await askAdmin(a.home.socket, 'POST', '/admin/anchor?chain=TSA&log=1')
  expect(JSON.parse(anchored.body)).toMatchObject({ treeSize: 2 })
  await eventually(
    async () => (await json<Conflicts>(`${a.url}/federation/conflicts`)).conflicts,
  ).toMatchObject([{ origin: FIRST, winner: own.receipt!.root.slice('sha256:'.length) }])
  await eventually(async () => {
    await askAdmin(a.home.socket, 'POST', '/admin/succeed')
    await askAdmin(a.home.socket, 'POST', '/admin/seal')
    return sealed()
  }).toContain(eventHashOf(rival))
  // What is canonical there is not sealed again here.
  const all = await sealed()
  expect(all).not.toContain(own.eventHash)
  expect(all).not.toContain(common.eventHash)
  expect(new Set(all).size).toBe(all.length)
  await running.stop('SIGTERM')
  await b.stop('SIGTERM')
}, 150_000)

test('events of a history that lost are sealed again, and their old receipts lead to the new ones', async () => {
  const node = nodeAt('c', await freePort())
  const copy = nodeAt('c-copy', node.port)
  const witness = nodeAt('d', await freePort())
  const did = await didOf(node.home)
  cpSync(node.home.path, copy.home.path, { recursive: true })

  let running = await run(node)
  const own = await anEvent('own of c')
  const { receipt: old } = await post(node.url, own, { wait: 20 })
  const both = await anEvent('in both histories')
  await post(node.url, both, { wait: 20 })
  await running.stop('SIGTERM')

  // The copy's history is the one with an anchor.
  federate('c', did, await didOf(witness.home), witness)
  federate('d', await didOf(witness.home), did, node)
  const other = await run(witness)
  running = await run(copy, { RAILS: 'TSA', TSA_URLS: tsa.url, ANCHOR_TSA_INTERVAL_MS: '200' })
  await post(node.url, both, { wait: 30 })
  await eventually(async () => {
    const path = '/remembrancer/proofs/TSA?origin=c.test/log'
    return (await json<{ readonly receipts: readonly object[] }>(`${witness.url}${path}`)).receipts
      .length
  }).toBe(1)
  await running.stop('SIGTERM')

  // The peer is gone as soon as the node knows: what is sealed again comes from the node's own old log.
  running = await run(node)
  await untilThere(evidenceFile(node.home, 1))
  await other.stop('SIGKILL')
  const name = eventHashOf(own)
  await eventually(async () => {
    await askAdmin(node.home.socket, 'POST', '/admin/succeed')
    await askAdmin(node.home.socket, 'POST', '/admin/seal')
    return (await json<Receipt>(`${node.url}/receipts/${name}`)).origin
  }).toBe('c.test/log/2')
  const again = await json<Receipt>(`${node.url}/receipts/${name}`)
  const trust = trustIn(node.home)
  expect((await verify(again, trust, own)).verdict).toBe('verified')

  // What the old log says of it is what it said, with a link.
  const before = await fetch(`${node.url}/log/1/receipts/${name}`)
  expect(before.headers.get('link')).toBe(`</log/2/receipts/${name}>; rel="successor-version"`)
  expect(await before.json()).toEqual(old)
  expect((await verify(old!, trust, own)).verdict).toBe('verified')
  expect(await json(`${node.url}/log/1/events/${name}/status`)).toMatchObject({
    status: 'sealed',
    links: { successor: `/log/2/receipts/${name}` },
  })
  expect(await json(`${node.url}/log/2/receipts/${name}`)).toEqual(again)

  // An event of both histories is in the canonical one: it needs no other place.
  const { events } = await json<Found>(`${node.url}/events`)
  expect(events.map(({ eventHash }) => eventHash)).not.toContain(eventHashOf(both))
  for (const log of [1, 2]) {
    const { body } = await askAdmin(node.home.socket, 'GET', `/admin/fsck?log=${log}`)
    expect(JSON.parse(body)).toMatchObject({ findings: [] })
  }
  await running.stop('SIGTERM')
}, 120_000)
