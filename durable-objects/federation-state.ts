/**
 * What the parts of the Federation Durable Object share: its tables, the applied configuration, and whose keys
 * speak for whom.
 */

import { certificateSha256 } from '#core/certificate.ts'
import { lawDocument, lawHash, TIE_BREAKERS, type LawDocument } from '#core/conflict.ts'
import { canonicalDid } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import { parseFederationConfig, type FederationConfig } from '#core/federation-config.ts'
import { wasEverKey, type KeyHistory } from '#core/rotation.ts'
import { parseVkey, TYPE_ED25519 } from '#core/signed-note.ts'
import { isLaterLog } from '#core/succession.ts'
import type { Background } from '#store/metrics.ts'
import { nodeOf, type NodeContext } from '#store/node.ts'
import type { LogKeys } from '../functions/remembrancer.ts'
import { Ledger, LEDGER_SCHEMA } from './ledger.ts'
import { MIRROR_SCHEMA, MirrorTiles } from './mirror.ts'
import { MirrorErasures, STONES_SCHEMA } from './mirror-erasures.ts'
import { Peers, PEERS_SCHEMA, type Peer } from './peers.ts'
import { WitnessStore } from './witness-store.ts'

const SCHEMA = `CREATE TABLE IF NOT EXISTS config (k TEXT PRIMARY KEY, v TEXT NOT NULL) WITHOUT ROWID;
${PEERS_SCHEMA}${LEDGER_SCHEMA}${MIRROR_SCHEMA}${STONES_SCHEMA}${WitnessStore.SCHEMA}`

/** Everything that the applied configuration means. */
export interface Context {
  readonly node: NodeContext
  readonly config: FederationConfig
  readonly law: LawDocument
  readonly lawHash: string
  /** Where peers reach this node; null if nobody said. */
  readonly url: string | null
}

export class FederationState {
  readonly env: Env
  readonly background: Background
  readonly peers: Peers
  readonly ledger: Ledger
  readonly tiles: MirrorTiles
  readonly erasures: MirrorErasures
  readonly witness: WitnessStore
  /** Logs that learned something since they were judged. */
  readonly touched = new Set<string>()
  /** This node's newest telemetry, for the next envelopes; null until its Guardian told it. */
  health: string | null = null
  /** True while the configuration of this process is still to be applied: what is stored may name old peers. */
  isAwaited: boolean
  readonly #storage: DurableObjectStorage
  #context: Promise<Context | null> | null = null

  constructor(env: Env, ctx: Pick<DurableObjectState, 'storage' | 'waitUntil'>) {
    const { storage } = ctx
    const { sql } = storage
    sql.exec(SCHEMA)
    this.env = env
    this.background = ctx
    this.isAwaited = env.FEDERATION_FILE === '1'
    this.#storage = storage
    this.peers = new Peers(sql)
    this.ledger = new Ledger(storage)
    this.tiles = new MirrorTiles(env, storage, this.ledger)
    this.erasures = new MirrorErasures(env, storage, this.ledger)
    this.witness = new WitnessStore(sql, storage)
  }

  /** The applied configuration; null while this node is in no federation. */
  load(): Promise<Context | null> {
    this.#context ??= this.#read().catch((error: unknown) => {
      this.#context = null
      throw error
    })
    return this.#context
  }

  async #read(): Promise<Context | null> {
    if (this.isAwaited) return null
    const yaml = this.recall('yaml')
    // A log that was ended leaves the federation to the one that follows it.
    if (yaml === null || this.recall('retired') !== null) return null
    const node = await nodeOf(this.env)
    const config = parseFederationConfig(yaml)
    const roots = node.config.tsaRoots.map((pem) => certificateSha256(pem))
    const law = lawDocument({
      order: config.order,
      tieBreakers: TIE_BREAKERS,
      btcDepth: node.config.bitcoin?.depth ?? 7,
      tsaRootSha256: roots,
    })
    this.ledger.follow({
      origin: node.config.origin,
      did: canonicalDid(node.nodeDid),
      vkey: node.vkey,
      isOwn: true,
    })
    for (const { origin, vkey } of node.config.previousLogs) {
      this.ledger.follow({ origin, vkey, did: canonicalDid(node.nodeDid), isOwn: false })
    }
    for (const peer of this.peers.all()) this.followLogOf(node, config, peer)
    if (this.recall('feed') === null) this.remember('feed', crypto.randomUUID())
    const url = config.url ?? (node.config.publicUrl === '' ? null : node.config.publicUrl)
    return { node, config, law, lawHash: lawHash(law), url }
  }

  async required(): Promise<Context> {
    const context = await this.load()
    if (context !== null) return context
    throw new VaultMeshError('no-federation', 'This node was started without a federation.')
  }

  /** A peer's own log becomes one that we follow, once both its names are known. */
  followLogOf(node: NodeContext, config: FederationConfig, peer: Peer): void {
    const { origin, vkey, did } = peer
    if (origin === null || vkey === null) return
    const known = this.ledger.log(origin)
    // A log belongs to whom the list says, else to who was known with it first; nobody speaks for another's, and
    // least for ours.
    const isAnothers =
      origin === node.config.origin ||
      (known !== null && known.did !== did) ||
      this.ledger.logs().some((log) => log.did !== did && isLaterLog(origin, log.origin)) ||
      config.peers.some((entry) => entry.origin === origin && entry.canonical !== did) ||
      config.logs.some((entry) => entry.origin === origin && entry.vkey !== vkey)
    if (isAnothers) {
      this.peers.fault(did)
      return
    }
    const key = parseVkey(vkey)
    if (key.type !== TYPE_ED25519 || key.name !== origin) {
      this.peers.fault(did)
      return
    }
    if (known === null) {
      this.ledger.follow({ origin, did, vkey, isOwn: false })
      // Its batches in the feeds of others were passed over until now.
      this.peers.readAgain()
    } else if (known.vkey !== vkey) this.peers.fault(did)
  }

  async historyOf(did: string): Promise<KeyHistory> {
    const { node } = await this.required()
    if (did === canonicalDid(node.nodeDid)) return node.history
    return this.peers.history(did)
  }

  async keysOf(origin: string): Promise<LogKeys | null> {
    const found = this.ledger.log(origin)
    if (found === null) return null
    const history = await this.historyOf(found.did)
    return {
      origin,
      log: parseVkey(found.vkey),
      isKey: (keyDid) => wasEverKey(history, keyDid),
    }
  }

  recall(key: string): string | null {
    const row = this.#storage.sql
      .exec<{ v: string }>('SELECT v FROM config WHERE k = ?', key)
      .toArray()[0]
    return row?.v ?? null
  }

  remember(key: string, value: string): void {
    this.#storage.sql.exec(
      'INSERT INTO config (k, v) VALUES (?1, ?2) ON CONFLICT (k) DO UPDATE SET v = ?2 WHERE v <> ?2',
      key,
      value,
    )
  }

  forget(key: string): void {
    this.#storage.sql.exec('DELETE FROM config WHERE k = ?', key)
  }

  /** The configuration has changed: read it anew. */
  forgetContext(): void {
    this.#context = null
  }
}

export function warn(msg: string, error: unknown): void {
  console.error(JSON.stringify({ level: 'warn', msg, error: String(error) }))
}
