/** Nodes in a federation: they mirror, cosign and remember each other's logs, and a node that lost some gets it back. */

import { spawn } from 'node:child_process'
import { cp, rm, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { verifyCheckpoint } from '#core/checkpoint.ts'
import { parseVkey } from '#core/signed-note.ts'
import {
  logName,
  readSignedBatch,
  Remembrancer,
  type LogKeys,
} from '../../functions/remembrancer.ts'
import { createSigner, post, sign } from '../../functions/sdk.ts'
import { ROOT } from '../../scripts/build.ts'
import { startNode, type RunningNode } from '../../scripts/selfhost.ts'
import { freePort, sandbox, vaultmesh } from './support.ts'

interface Tip {
  readonly origin: string
  readonly own: boolean
  readonly state: string
  readonly height: number
  readonly treeSize: number
  readonly root: string
  readonly mirrored: number
}

/** One node of a mesh, at rest or running. */
class Member {
  readonly name: string
  readonly home: string
  readonly file: string
  readonly port: number
  readonly vars: Record<string, string>
  node: RunningNode | null = null
  did = ''

  constructor(dir: string, name: string, port: number, vars: Record<string, string> = {}) {
    this.name = name
    this.home = join(dir, name)
    this.file = join(dir, `${name}.yaml`)
    this.port = port
    this.vars = vars
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}`
  }

  get origin(): string {
    return `${this.name}.test/log`
  }

  async start(more: Record<string, string> = {}): Promise<void> {
    this.node = await startNode({
      home: this.home,
      port: this.port,
      cron: false,
      log: () => undefined,
      ...(this.did === '' ? {} : { federation: this.file }),
      vars: {
        ORIGIN: this.origin,
        NODE_ID: this.name,
        RAILS: '',
        RATE_LIMIT_DID: '0',
        RATE_LIMIT_IP: '0',
        SEAL_BATCH_MAX_INTERVAL_MS: '300',
        ...this.vars,
        ...more,
      },
    })
  }

  async stop(): Promise<void> {
    await this.node?.stop()
    this.node = null
  }

  async get<T>(path: string): Promise<T> {
    const response = await fetch(`${this.url}${path}`)
    if (!response.ok) throw new Error(`${path}: ${response.status} ${await response.text()}`)
    return (await response.json()) as T
  }

  async tips(): Promise<readonly Tip[]> {
    return (await this.get<{ tips: readonly Tip[] }>('/federation/tips')).tips
  }

  /** What a reader pins of it. */
  keys(): LogKeys {
    const { did } = this
    const log = parseVkey(this.node!.trust.vkeys[0]!)
    return { origin: this.origin, log, isKey: (keyDid) => keyDid === did }
  }
}

/** Starts each once for its identity, then all of them as peers of each other. */
async function federate(members: readonly Member[]): Promise<void> {
  for (const member of members) {
    await member.start()
    member.did = member.node!.trust.node_did
    await member.stop()
  }
  for (const member of members) {
    const peers = members
      .filter((other) => other !== member)
      .map(({ did, url }) => `  - {did: "${did}", url: "${url}"}`)
    await writeFile(
      member.file,
      `gossip: {interval_ms: 500}\npeers_allowlist:\n${peers.join('\n')}\n`,
    )
  }
  for (const member of members) await member.start()
}

async function until<T>(what: string, look: () => Promise<T | null>, limitMs = 20_000): Promise<T> {
  const deadline = Date.now() + limitMs
  for (;;) {
    const found = await look().catch(() => null)
    if (found !== null) return found
    if (Date.now() > deadline) throw new Error(`waited in vain for ${what}`)
    await sleep(25)
  }
}

/** Waits until all stand on the same tips and have laid them out. */
async function converged(members: readonly Member[], sizes: Readonly<Record<string, number>>) {
  return until('the same tips', async () => {
    const views = await Promise.all(members.map((member) => member.tips()))
    const text = (tips: readonly Tip[]) =>
      JSON.stringify(tips.map(({ origin, height, root, state }) => [origin, height, root, state]))
    const isWhole = views.every((view) =>
      view.every((tip) => tip.treeSize === sizes[tip.origin] && tip.mirrored === tip.treeSize),
    )
    return isWhole && new Set(views.map(text)).size === 1 ? views[0]! : null
  })
}

const signer = await createSigner({ alg: 'EdDSA', secret: new Uint8Array(32).fill(9) })
const events = new Map<string, Promise<string>>()
/** The event of an id: the same bytes each time. */
function event(id: string): Promise<string> {
  const known = events.get(id) ?? sign(signer, { type: 'test.federation', id, data: { id } })
  events.set(id, known)
  return known
}

let dir: string
let remove: () => Promise<void>
beforeAll(async () => ({ dir, remove } = await sandbox()))
afterAll(() => remove())

describe('three nodes', () => {
  let members: readonly Member[]
  let a: Member
  let b: Member

  beforeAll(async () => {
    members = [
      new Member(dir, 'a', await freePort()),
      new Member(dir, 'b', await freePort()),
      new Member(dir, 'c', await freePort(), { PUBLIC_EVENTS: '0' }),
    ]
    ;[a, b] = members as [Member, Member, Member]
    await federate(members)
    for (const [i, member] of members.entries()) {
      for (let k = 0; k <= i; k++) {
        await post(member.url, await event(`${member.name} ${k}`), { wait: 20 })
      }
    }
  })
  afterAll(async () => {
    for (const member of members) await member.stop()
  })

  test('stand on the same tips, also of a log whose events are open to peers alone', async () => {
    const sizes = { 'a.test/log': 1, 'b.test/log': 2, 'c.test/log': 3 }
    const tips = await converged(members, sizes)
    expect(tips.map(({ state }) => state)).toEqual(['clear', 'clear', 'clear'])
    const { meshRoot, query, entries } = await until('acknowledged heights', async () => {
      const mesh = await a.get<{ meshRoot: string; query: string; entries: readonly Tip[] }>(
        '/federation/mesh',
      )
      return mesh.entries.every((entry) => entry.treeSize === sizes[entry.origin as 'a.test/log'])
        ? mesh
        : null
    })
    expect(entries).toHaveLength(3)
    for (const member of members) {
      expect((await member.get<{ meshRoot: string }>(query)).meshRoot).toBe(meshRoot)
    }
  })

  test('a stranger sees no event of the closed log, at its node or at a mirror of it that is closed', async () => {
    const [, , c] = members as [Member, Member, Member]
    // Of the first batch the two roots are one.
    const { root } = await c.get<{ root: string }>('/remembrancer/roots/1')
    const path = `/mirror/${logName(c.origin)}/batches/1/${root.slice(7)}/events/0`
    expect((await fetch(c.url + path)).status).toBe(403)
    const forged = { authorization: 'Gossip e30.e30.e30' }
    expect((await fetch(c.url + path, { headers: forged })).status).toBe(400)
  })

  test('cosign each other: the checkpoint carries what a stranger can verify', async () => {
    const witnesses = members
      .slice(1)
      .map(async (m) =>
        parseVkey(
          (await m.get<{ witness: { vkey: string } }>('/.well-known/vaultmesh.json')).witness.vkey,
        ),
      )
    const trust = { log: a.keys().log, witnesses: await Promise.all(witnesses) }
    await until('two cosignatures', async () => {
      const note = await (await fetch(`${a.url}/log/checkpoint`)).text()
      const { cosignatures, checkpoint } = await verifyCheckpoint(note, trust)
      return cosignatures.length === 2 && checkpoint.size === 1 ? true : null
    })
    const cosigned = await fetch(`${b.url}/witness/${logName(a.origin)}/checkpoint`)
    expect((await verifyCheckpoint(await cosigned.text(), trust)).cosignatures).toHaveLength(1)
  })

  test('remember each other: the client verifies what it returns', async () => {
    const client = new Remembrancer({
      url: b.url,
      fetch: (url, init) => fetch(url, init),
      signal: AbortSignal.timeout(20_000),
    })
    for (const member of members.slice(0, 2)) {
      const keys = member.keys()
      const batch = await client.getRoot(1, keys)
      expect(batch?.manifest).toMatchObject({ origin: member.origin, height: 1, firstIndex: 0 })
      expect(await client.getRoot(99, keys)).toBeNull()
      expect((await client.getBatches(1, keys)).map(({ manifest }) => manifest.height)[0]).toBe(1)
      expect(await client.getProof('BTC', { origin: member.origin })).toEqual({
        receipts: [],
        next: null,
      })
      const { batchRoot } = batch!.manifest
      const bytes = await client.events(member.origin, { height: 1, batchRoot, part: 0 })
      expect(new TextDecoder().decode(bytes!).split('\n')[0]).toBe(await event(`${member.name} 0`))
    }
    await expect(client.getRoot(1, { ...a.keys(), log: b.keys().log })).rejects.toMatchObject({
      code: 'untrusted-key',
    })
    await expect(client.getRoot(1, { ...a.keys(), isKey: () => false })).rejects.toMatchObject({
      code: 'untrusted-key',
    })
    const [one, two] = await Promise.all([client.getRoot(1, a.keys()), client.getRoot(1, b.keys())])
    await expect(
      readSignedBatch(a.keys(), one!.manifestJws, two!.checkpoint),
    ).rejects.toMatchObject({ name: 'VaultMeshError' })
  })

  test('serve a mirror that an independent reader checks, from its tiles alone', async () => {
    const vkey = a.node!.trust.vkeys[0]!
    const script = join(ROOT, 'test/independent/read_log.py')
    const mirror = `${b.url}/mirror/${logName(a.origin)}`
    const child = spawn('python3', [script, mirror, vkey])
    let said = ''
    child.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
    child.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()))
    const code = await new Promise<number | null>((end) => child.once('close', end))
    expect(said).toContain('a.test/log')
    expect(code).toBe(0)
  })

  test('nothing speaks against an honest log', async () => {
    const path = `/federation/evidence?origin=${encodeURIComponent(a.origin)}&height=1`
    const response = await fetch(b.url + path)
    expect(response.status).toBe(404)
    expect((await b.get<{ conflicts: unknown[] }>('/federation/conflicts')).conflicts).toEqual([])
  })
})

describe('a node from an old backup', () => {
  let members: readonly [Member, Member]

  beforeAll(async () => {
    members = [new Member(dir, 'x', await freePort()), new Member(dir, 'y', await freePort())]
    await federate(members)
  })
  afterAll(async () => {
    for (const member of members) await member.stop()
  })

  test('takes its own batches back before it seals, and seals nothing twice', async () => {
    const [x, y] = members
    await post(x.url, await event('x 0'), { wait: 20 })
    await x.stop()
    // The backup holds one sealed event and one that waits.
    await x.start({ SEAL_BATCH_MAX_INTERVAL_MS: '600000' })
    await post(x.url, await event('x 1'))
    await x.stop()
    const backup = join(dir, 'backup')
    await cp(x.home, backup, { recursive: true })
    await x.start()
    for (const id of ['x 1', 'x 2', 'x 3']) await post(x.url, await event(id), { wait: 20 })
    await until('the peer to have it all', async () =>
      (await y.tips()).some(({ origin, treeSize }) => origin === x.origin && treeSize === 4)
        ? true
        : null,
    )
    const before = await (await fetch(`${x.url}/log/checkpoint`)).text()
    await x.stop()
    await rm(x.home, { recursive: true })
    await cp(backup, x.home, { recursive: true })

    await x.start()
    const { receipt } = await post(x.url, await event('x 4'), { wait: 30 })
    expect(receipt).toMatchObject({ leafIndex: 4, treeSize: 5 })
    for (const [i, id] of ['x 0', 'x 1', 'x 2', 'x 3'].entries()) {
      const again = await post(x.url, await event(id), { wait: 5 })
      expect(again.receipt).toMatchObject({ leafIndex: i })
    }
    const consistency = await x.get<{ hashes: readonly string[] }>(
      '/log/proof/consistency?from=4&to=5',
    )
    expect(consistency.hashes.length).toBeGreaterThan(0)
    expect(before).toContain('\n4\n')
    await converged(members, { 'x.test/log': 5, 'y.test/log': 0 })
    const fsck = await vaultmesh(['fsck', '--home', x.home])
    expect(fsck.stderr + fsck.stdout).toContain('5 events')
    expect(fsck.code).toBe(0)
  })
})
