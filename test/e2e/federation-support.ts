/**
 * A federation for tests: real nodes, and fake peers that are correct to the byte but for what a test spoils.
 *
 * A fake peer is an HTTP server with an identity key, a witness key and a log of its own, written with the core's
 * codecs. It answers envelopes, serves its feed and events, and says and signs whatever it is told to.
 */

import { readdirSync, readFileSync } from 'node:fs'
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { createHash, randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect } from 'vitest'
import { parseAddCheckpoint, cosignatureLines } from '#core/add-checkpoint.ts'
import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { signManifest } from '#core/batch.ts'
import { fromBase64Url, fromUtf8, toHex, utf8, type Hash } from '#core/bytes.ts'
import { cosignCheckpoint, signCheckpoint } from '#core/checkpoint.ts'
import { codes, type Code } from '#core/errors.ts'
import { GOSSIP_TYP, type EnvelopeClaims } from '#core/gossip.ts'
import { emptyRoot, leafHashes, nodeHash } from '#core/merkle.ts'
import { deriveIdentity, deriveKey, signJws, type IdentityKey } from '#core/node-keys.ts'
import { appendPeaks, noPeaks, rootOfPeaks, type Peaks } from '#core/peaks.ts'
import { sha256 } from '#core/sha256.ts'
import { formatVkey, TYPE_COSIGNATURE, verifierKey, type NoteSigner } from '#core/signed-note.ts'
import type { ConflictsView, PeersView, PeerView, TipView } from '#store/federation-api.ts'
import { startHost, type Host } from '../../scripts/host.ts'
import { signEvent, testSigner } from '../support/signing.ts'
import { freePort } from './support.ts'

/** Gossip each half second: a round, and the deadline of a visit. */
export const INTERVAL_MS = 500
/** Time of this machine on top of rounds: two cores run two nodes, their peers and the test. */
const SLACK_MS = 500

const TOKEN = 'e2e-token'
const author = testSigner('EdDSA', 'federation')

// ── real nodes ─────────────────────────────────────────────────────────────────────────────────

/** How a peer stands in a list: by DID alone, or with what the operator knows of it. */
export interface Listing {
  readonly did: string
  readonly url?: string
  readonly origin?: string
  readonly vkey?: string
}

/** What a configuration says beside its peers. */
export interface Policy {
  readonly intervalMs?: number
  readonly quarantineMinutes?: number
  readonly order?: string
  readonly maxPeers?: number
  /** More of the `gossip` section. */
  readonly seeds?: readonly string[]
  /** More sections, as YAML. */
  readonly more?: string
}

/** config/federation.yaml with these peers. */
export function yamlOf(peers: readonly Listing[], policy: Policy = {}): string {
  const { quarantineMinutes = 15, order = 'BTC, EVM, TSA', seeds = [], more = '' } = policy
  const { maxPeers = 16, intervalMs = INTERVAL_MS } = policy
  const list = peers.map((peer) => {
    const lines = Object.entries({
      did: peer.did,
      url: peer.url,
      origin: peer.origin,
      vkey: peer.vkey,
    }).flatMap(([key, value]) => (value === undefined ? [] : [`${key}: '${value}'`]))
    return `  - ${lines.join('\n    ')}\n`
  })
  return `gossip:
  interval_ms: ${intervalMs}
  max_peers: ${maxPeers}
  seeds: [${seeds.map((url) => `'${url}'`).join(', ')}]
peers_allowlist:${list.length === 0 ? ' []\n' : `\n${list.join('')}`}conflict_policy:
  order: [${order}]
  quarantine_minutes: ${quarantineMinutes}
remembrancer:
  timeout_ms: 3000
${more}`
}

/** A node in this process, its Worker in a workerd of its own. */
export class FedNode {
  readonly host: Host
  readonly url: string
  readonly port: number
  readonly did: string
  readonly origin: string
  readonly vkey: string
  readonly witness: string
  readonly #pid: number
  readonly #lines: string[]

  private constructor(
    { host, port, pid, lines }: { host: Host; port: number; pid: number; lines: string[] },
    known: { node_did: string; origin: string; vkey: string; witness: { vkey: string } },
  ) {
    this.host = host
    this.url = host.url
    this.port = port
    this.#pid = pid
    this.#lines = lines
    this.did = known.node_did
    this.origin = known.origin
    this.vkey = known.vkey
    this.witness = known.witness.vkey
  }

  /** Starts a node without a federation. `script` is the Worker, if it is not the one of the product; `more` are settings. */
  static async start(
    name: string,
    dir: string,
    script?: string,
    more: Readonly<Record<string, string>> = {},
  ): Promise<FedNode> {
    const port = await freePort()
    const lines: string[] = []
    const before = new Set(workerds())
    const host = await startHost({
      port,
      stateDir: join(dir, name),
      cron: false,
      ...(script === undefined ? {} : { script }),
      log: (said) => lines.push(said),
      vars: {
        NODE_SECRET: randomBytes(32).toString('base64url'),
        ADMIN_TOKEN: TOKEN,
        ORIGIN: `${name}.test/log`,
        NODE_ID: name,
        SEAL_BATCH_MAX_INTERVAL_MS: '500',
        SEAL_EAGER_MS: '20',
        RATE_LIMIT_DID: '0',
        RATE_LIMIT_IP: '0',
        RAILS: '',
        ...more,
      },
    })
    const pid = workerds().find((found) => !before.has(found))!
    const answer = await fetch(`${host.url}/.well-known/vaultmesh.json`)
    return new FedNode({ host, port, pid, lines }, (await answer.json()) as never)
  }

  /** Applies a configuration, as whoever saves config/federation.yaml does. */
  async federate(peers: readonly Listing[], policy: Policy = {}): Promise<void> {
    const answer = await this.admin('/admin/federation', yamlOf(peers, policy))
    expect(answer.status, await answer.clone().text()).toBe(200)
  }

  admin(path: string, body = ''): Promise<Response> {
    const headers = { authorization: `Bearer ${TOKEN}` }
    return fetch(this.url + path, { method: 'POST', headers, body })
  }

  async get<T>(path: string): Promise<T> {
    const answer = await fetch(this.url + path)
    expect(answer.status, path).toBe(200)
    return (await answer.json()) as T
  }

  peers(): Promise<PeersView> {
    return this.get<PeersView>('/federation/peers')
  }

  async peer(did: string): Promise<PeerView> {
    const { peers } = await this.peers()
    return peers.find((peer) => peer.did === did)!
  }

  async tips(): Promise<readonly TipView[]> {
    return (await this.get<{ tips: readonly TipView[] }>('/federation/tips')).tips
  }

  async tip(origin: string): Promise<TipView | undefined> {
    return (await this.tips()).find((tip) => tip.origin === origin)
  }

  conflicts(): Promise<ConflictsView> {
    return this.get<ConflictsView>('/federation/conflicts')
  }

  async alerts(kind: string): Promise<readonly { kind: string; key: string; detail: string }[]> {
    const { alerts } = await this.get<{
      alerts: readonly { kind: string; key: string; detail: string }[]
    }>('/alerts')
    return alerts.filter((alert) => alert.kind === kind)
  }

  /** Posts an event and waits for its seal: how long that took, and the height of the log then. */
  async post(waitS = 10): Promise<{ readonly ms: number; readonly height: number }> {
    const begun = performance.now()
    const answer = await fetch(`${this.url}/events`, {
      method: 'POST',
      headers: { 'content-type': 'application/jose', prefer: `wait=${waitS}` },
      body: signEvent(author),
    })
    const text = await answer.text()
    expect(answer.status, `${this.origin} does not seal: ${text}`).toBe(200)
    const ms = performance.now() - begun
    const { log } = await this.get<{ log: { height: number } }>('/healthz')
    return { ms, height: log.height }
  }

  /** How many connections at once waited for their answers, each time that test/support/six-connections.ts said it. */
  get connections(): readonly number[] {
    return this.#lines.flatMap((said) => {
      const waiting = /"shim":"six-connections","waiting":(\d+)/.exec(said)?.[1]
      return waiting === undefined ? [] : [Number(waiting)]
    })
  }

  /** Megabytes that the runtime has now, and the most that it ever had. */
  memory(): { readonly now: number; readonly peak: number } {
    const status = readFileSync(`/proc/${this.#pid}/status`, 'utf8')
    const of = (name: string): number =>
      Math.round(Number(new RegExp(`${name}:\\s+(\\d+) kB`).exec(status)![1]) / 1024)
    return { now: of('VmRSS'), peak: of('VmHWM') }
  }

  stop(): Promise<void> {
    return this.host.stop()
  }
}

/** Processes of workerd that this one started. */
function workerds(): number[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((name) => {
      try {
        const stat = readFileSync(`/proc/${name}/stat`, 'utf8')
        const [, comm, parent] = /^\d+ \((.*)\) \S (\d+)/.exec(stat) ?? []
        return comm === 'workerd' && Number(parent) === process.pid ? [Number(name)] : []
      } catch {
        return [] // it ended
      }
    })
}

/** Asks until `holds`; fails with what was seen last. */
export async function until<T>(
  what: string,
  ask: () => Promise<T>,
  holds: (seen: T) => boolean,
  timeoutMs = 8000,
): Promise<T> {
  const endAt = performance.now() + timeoutMs
  for (;;) {
    const seen = await ask()
    if (holds(seen)) return seen
    if (performance.now() > endAt) {
      const last = JSON.stringify(seen)?.slice(0, 2000)
      expect.fail(`${what} did not happen in ${timeoutMs} ms; seen last: ${last}`)
    }
    await sleep(20)
  }
}

/** Waits until `node` stands on a height of a log; fails unless that takes three rounds at most. */
export async function convergesIn3Rounds(
  node: FedNode,
  { origin, height }: { readonly origin: string; readonly height: number },
  intervalMs = INTERVAL_MS,
): Promise<number> {
  const begun = performance.now()
  await until(
    `${origin} ${height} on ${node.origin} within three rounds`,
    () => node.tip(origin),
    (tip) => tip !== undefined && tip.height >= height,
    3 * intervalMs + SLACK_MS,
  )
  return performance.now() - begun
}

/** The problem of an answer, checked for form; fails the test unless it is `code`. */
export async function refusedBy(
  answer: Response,
  code: Code,
): Promise<Readonly<Record<string, unknown>>> {
  const text = await answer.text()
  expect(`${answer.status} ${text}`).toMatch(
    new RegExp(`^${codes[code].status} .*"/problems/${code}"`),
  )
  expect(answer.headers.get('content-type')).toBe('application/problem+json')
  const problem = JSON.parse(text) as Readonly<Record<string, unknown>>
  expect(problem).toMatchObject({ type: `/problems/${code}`, ...codes[code] })
  expect(String(problem['detail']).length).toBeGreaterThan(5)
  return problem
}

// ── fake logs ──────────────────────────────────────────────────────────────────────────────────

/** A batch as its log signed it. */
export interface FakeBatch {
  readonly height: number
  readonly treeSize: number
  readonly root: string
  /** Root over its own leaves: under it its events are served. */
  readonly batchRoot: string
  readonly manifest: string
  readonly checkpoint: string
  /** Events, part by part. */
  readonly parts: readonly (readonly string[])[]
}

/** What a batch says that is not so. */
export interface Lie {
  readonly root?: Hash
  /** Signs the checkpoint in the place of the log. */
  readonly log?: NoteSigner
  /** Signs the manifest in the place of the operator. */
  readonly identity?: IdentityKey
}

/** A log that is made by hand. */
export class FakeLog {
  readonly origin: string
  readonly vkey: string
  readonly signer: NoteSigner
  readonly batches: FakeBatch[] = []
  readonly #identity: IdentityKey
  readonly #leaves: Hash[] = []
  #peaks: Peaks = noPeaks
  #root: Hash = emptyRoot

  private constructor(signer: NoteSigner, identity: IdentityKey) {
    this.signer = signer
    this.origin = signer.key.name
    this.vkey = formatVkey(signer.key)
    this.#identity = identity
  }

  static async create(origin: string, identity: IdentityKey): Promise<FakeLog> {
    return new FakeLog(await noteSigner(origin, origin), identity)
  }

  get size(): number {
    return this.#leaves.length
  }

  /** Root over all entries, whatever was signed. */
  get root(): Hash {
    return rootOfPeaks(this.#peaks)
  }

  /** Seals events, one part of the batch for each list. */
  async seal(
    parts: readonly (readonly string[])[] = [[line()]],
    lie: Lie = {},
  ): Promise<FakeBatch> {
    const hashes = leafHashes(parts.flat().map((text) => sha256(utf8(text))))
    const count = parts.flat().length
    for (let i = 0; i < count; i++) this.#leaves.push(hashes.slice(32 * i, 32 * (i + 1)))
    this.#peaks = appendPeaks(this.#peaks, hashes)
    const root = lie.root ?? this.root
    const batchRoot = rootOfPeaks(appendPeaks(noPeaks, hashes))
    const height = this.batches.length + 1
    const { origin, size } = this
    const manifest = await signManifest(lie.identity ?? this.#identity, {
      origin,
      height,
      firstIndex: size - count,
      count,
      treeSize: size,
      root,
      previousRoot: this.#root,
      batchRoot,
      sealedAt: Date.now(),
    })
    const checkpoint = await this.checkpoint(size, root, lie.log)
    this.#root = root
    const batch = {
      height,
      treeSize: size,
      root: toHex(root),
      batchRoot: toHex(batchRoot),
      manifest,
      checkpoint,
      parts,
    }
    this.batches.push(batch)
    return batch
  }

  /** A checkpoint of a size and root, be they right or not. */
  checkpoint(size: number, root: Hash, log = this.signer): Promise<string> {
    return signCheckpoint({ origin: this.origin, size, root, extensions: [] }, log)
  }

  /** Root of the first `size` leaves: MTH of RFC 6962 §2.1. */
  rootAt(size: number): Hash {
    return treeHash(this.#leaves.slice(0, size))
  }

  /** PROOF(from, D[to]) of RFC 6962 §2.1.2. */
  consistency(from: number, to: number): Hash[] {
    return from === to ? [] : subproof(from, this.#leaves.slice(0, to), true)
  }
}

let serial = 0

/** A line that a batch may hold: of an event only its hash counts. */
export function line(): string {
  return `event.${++serial}.${randomBytes(6).toString('hex')}`
}

function splitOf(size: number): number {
  return 2 ** Math.floor(Math.log2(size - 1))
}

function treeHash(leaves: readonly Hash[]): Hash {
  if (leaves.length === 0) return emptyRoot
  if (leaves.length === 1) return leaves[0]!
  const k = splitOf(leaves.length)
  return nodeHash(treeHash(leaves.slice(0, k)), treeHash(leaves.slice(k)))
}

function subproof(m: number, leaves: readonly Hash[], known: boolean): Hash[] {
  if (m === leaves.length) return known ? [] : [treeHash(leaves)]
  const k = splitOf(leaves.length)
  if (m <= k) return [...subproof(m, leaves.slice(0, k), known), treeHash(leaves.slice(k))]
  return [...subproof(m - k, leaves.slice(k), false), treeHash(leaves.slice(0, k))]
}

/** A key that signs notes under a name, made of `seed`; of type 0x04 if it is a witness's. */
export async function noteSigner(name: string, seed: string, witness = false): Promise<NoteSigner> {
  const { publicKey, sign } = await deriveKey(secretOf(seed), witness ? 'witness' : 'log', 1)
  const key = witness
    ? verifierKey(name, publicKey, TYPE_COSIGNATURE)
    : verifierKey(name, publicKey)
  return { key, sign }
}

/** The identity key `epoch` of somebody. */
export function identityOf(seed: string, epoch = 1): Promise<IdentityKey> {
  return deriveIdentity(secretOf(seed), epoch)
}

function secretOf(seed: string): Uint8Array {
  return new Uint8Array(createHash('sha256').update(`federation ${seed}`).digest())
}

// ── fake peers ─────────────────────────────────────────────────────────────────────────────────

/** What a peer is asked for. */
export type Path = 'gossip' | 'feed' | 'events' | 'wellKnown' | 'witness' | 'other'

/** Answers in its own way; `rightly` does it as an honest peer would. */
export type Manner = (
  request: IncomingMessage,
  response: ServerResponse,
  rightly: () => Promise<void>,
) => unknown

const PATHS: readonly (readonly [Path, RegExp])[] = [
  ['gossip', /^\/federation\/gossip$/],
  ['feed', /^\/federation\/feed\?after=(\d+)$/],
  ['events', /^\/mirror\/([0-9a-f]{64})\/batches\/(\d+)\/([0-9a-f]{64})\/events\/(\d+)$/],
  ['wellKnown', /^\/\.well-known\/vaultmesh\.json$/],
  ['witness', /^\/witness\/add-checkpoint$/],
]

type Item = {
  readonly origin: string
} & ({ readonly batch: FakeBatch } | { readonly receipt: AnchorReceipt })

export class FakePeer {
  readonly name: string
  readonly url: string
  readonly identity: IdentityKey
  readonly log: FakeLog
  /** Logs whose events it serves, its own among them. */
  readonly logs: FakeLog[]
  /** What it feeds, in this order. */
  readonly feed: Item[] = []
  /** How it answers otherwise than rightly. */
  readonly manners: Partial<Record<Path, Manner>> = {}
  /** How often it was asked. */
  readonly asked: Record<Path, number> = {
    gossip: 0,
    feed: 0,
    events: 0,
    wellKnown: 0,
    witness: 0,
    other: 0,
  }
  lawHash = ''
  feedId = randomBytes(8).toString('hex')
  /** Members of the claims and of the body over what is right; `undefined` leaves one out. */
  says: Readonly<Record<string, unknown>> = {}
  saysInBody: Readonly<Record<string, unknown>> = {}
  readonly #witness: NoteSigner
  readonly #server: Server

  private constructor(parts: {
    name: string
    identity: IdentityKey
    log: FakeLog
    witness: NoteSigner
    server: Server
  }) {
    this.name = parts.name
    this.identity = parts.identity
    this.log = parts.log
    this.logs = [parts.log]
    this.#witness = parts.witness
    this.#server = parts.server
    this.url = `http://127.0.0.1:${(parts.server.address() as AddressInfo).port}`
  }

  /** A peer whose keys are made of its name. */
  static async start(name: string, lawHash: string): Promise<FakePeer> {
    const identity = await identityOf(name)
    const origin = `${name}.test/log`
    const log = await FakeLog.create(origin, identity)
    const witness = await noteSigner(`${origin}/witness`, name, true)
    let peer: FakePeer | null = null
    const server = createServer((request, response) => {
      // What the other side breaks off is what these tests are about.
      request.on('error', () => undefined)
      response.on('error', () => undefined)
      peer!.#answer(request, response).catch(() => response.destroy())
    })
    await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready))
    peer = new FakePeer({ name, identity, log, witness, server })
    peer.lawHash = lawHash
    return peer
  }

  get did(): string {
    return this.identity.did
  }

  get listing(): Listing {
    return { did: this.did, url: this.url }
  }

  /** Feeds a batch of its own log, or of another that it mirrors. */
  feeds(batch: FakeBatch, log = this.log): void {
    if (!this.logs.includes(log)) this.logs.push(log)
    this.feed.push({ origin: log.origin, batch })
  }

  /** Claims of an envelope for `aud`. */
  claims(aud: string): EnvelopeClaims {
    const iat = Math.floor(Date.now() / 1000)
    const tips = this.logs.flatMap(({ origin, batches }) => {
      const tip = batches.at(-1)
      if (tip === undefined) return []
      return [{ origin, height: tip.height, treeSize: tip.treeSize, root: tip.root }]
    })
    return {
      iss: this.did,
      aud,
      iat,
      exp: iat + 45,
      jti: randomBytes(12).toString('hex'),
      lawHash: this.lawHash,
      body: {
        nodeId: this.name,
        witness: formatVkey(this.#witness.key),
        feed: { id: this.feedId, end: this.feed.length },
        tips,
        ...this.saysInBody,
      },
      vkey: this.log.vkey,
      origin: this.log.origin,
      ...this.says,
    } as EnvelopeClaims
  }

  /** An envelope for `aud`, whatever its claims say. */
  envelope(aud: string, change: Readonly<Record<string, unknown>> = {}): Promise<string> {
    return signJws(this.identity, GOSSIP_TYP, { ...this.claims(aud), ...change })
  }

  /** Sends an envelope of its own making. */
  async speak(
    node: { readonly url: string; readonly did: string },
    change: Readonly<Record<string, unknown>> = {},
  ): Promise<Response> {
    return send(node.url, await this.envelope(node.did, change))
  }

  async stop(): Promise<void> {
    const closed = new Promise((done) => this.#server.close(done))
    this.#server.closeAllConnections()
    await closed
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const url = request.url ?? ''
    const [path, match] = PATHS.map(([name, shape]) => [name, shape.exec(url)] as const).find(
      ([, found]) => found !== null,
    ) ?? ['other' as const, null]
    this.asked[path]++
    const rightly = (): Promise<void> => this.#rightly(path, match ?? [], { request, response })
    const manner = this.manners[path]
    if (manner === undefined) await rightly()
    else await manner(request, response, rightly)
  }

  async #rightly(
    path: Path,
    match: readonly string[],
    { request, response }: { request: IncomingMessage; response: ServerResponse },
  ): Promise<void> {
    switch (path) {
      case 'gossip': {
        const asking = await bodyOf(request)
        const { iss } = JSON.parse(fromUtf8(fromBase64Url(asking.split('.')[1]!))) as {
          iss: string
        }
        response.setHeader('content-type', 'application/jose')
        response.end(await this.envelope(iss))
        return
      }
      case 'feed': {
        const after = Number(match[1])
        const items = this.feed.slice(after, after + 100).map((item, i) => {
          const seq = after + i + 1
          const { origin } = item
          if ('receipt' in item) return { seq, type: 'proof', origin, receipt: item.receipt }
          const { manifest, checkpoint } = item.batch
          return { seq, type: 'batch', origin, manifest, checkpoint }
        })
        json(response, { feedId: this.feedId, items, more: this.feed.length > after + 100 })
        return
      }
      case 'events': {
        const [, name, height, batchRoot, part] = match
        const log = this.logs.find(({ origin }) => nameOf(origin) === name)
        const batch = log?.batches.find(
          (b) => b.height === Number(height) && b.batchRoot === batchRoot,
        )
        const lines = batch?.parts[Number(part)]
        if (lines === undefined) response.writeHead(404).end()
        else response.end(lines.join('\n'))
        return
      }
      case 'wellKnown':
        json(response, {
          node_id: this.name,
          node_did: this.did,
          origin: this.log.origin,
          vkey: this.log.vkey,
          rotation: [],
          lawHash: this.lawHash,
          witness: { name: this.#witness.key.name, vkey: formatVkey(this.#witness.key) },
        })
        return
      case 'witness': {
        const { signed } = parseAddCheckpoint(utf8(await bodyOf(request)))
        const at = Math.floor(Date.now() / 1000)
        response.end(cosignatureLines([await cosignCheckpoint(signed.text, this.#witness, at)]))
        return
      }
      default:
        response.writeHead(404).end()
    }
  }
}

/** The path under which nodes serve a log. */
export function nameOf(origin: string): string {
  return toHex(sha256(utf8(origin)))
}

/** POST /federation/gossip of these bytes. */
export function send(
  url: string,
  body: string | Uint8Array,
  type = 'application/jose',
): Promise<Response> {
  const headers = { 'content-type': type }
  return fetch(`${url}/federation/gossip`, { method: 'POST', headers, body: body as BodyInit })
}

/** The body of a request to a fake peer. */
async function bodyOf(request: IncomingMessage): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of request) chunks.push(chunk as Buffer)
  return Buffer.concat(chunks).toString()
}

/** Answers with JSON. */
export function json(response: ServerResponse, value: unknown): void {
  response.setHeader('content-type', 'application/json')
  response.end(JSON.stringify(value))
}
