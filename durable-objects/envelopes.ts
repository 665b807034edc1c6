/**
 * Envelopes: what a peer must have signed before this node believes that it spoke, and what this node says.
 *
 * Checks go from cheap to dear, and nothing is written before all of them passed: the first effect is the memory
 * of the envelope's jti, so a repeat has none.
 */

import * as z from 'zod'
import { canonicalDid } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  replayKey,
  replayUntil,
  signEnvelope,
  verifyEnvelope,
  type EnvelopeClaims,
  type OpenedEnvelope,
  type Verified,
} from '#core/gossip.ts'
import { isPublicHost } from '#core/public-host.ts'
import { isValidKey, MAX_STATEMENT_BYTES, MAX_STATEMENTS, type KeyHistory } from '#core/rotation.ts'
import { clearAlert, openAlert } from '#store/alerts.ts'
import { isLaterLog } from '#core/succession.ts'
import { MAX_TELEMETRY_BYTES } from '#core/telemetry.ts'
import { count } from '#store/metrics.ts'
import type { NodeContext } from '#store/node.ts'
import { warn, type Context, type FederationState } from './federation-state.ts'
import type { Peer } from './peers.ts'

/** An envelope lives so long, in seconds: a round trip and clocks that differ. */
const ENVELOPE_LIFE_S = 45
const MAX_TIPS = 128
/** Half an envelope in base64, and room for the rest. */
const MAX_KEYS_BYTES = 65_536

const hex64 = z.string().regex(/^[0-9a-f]{64}$/)
const bodySchema = z.object({
  nodeId: z.string().max(63),
  witness: z.string().max(512).nullable(),
  feed: z.object({ id: z.string().max(64), end: z.int().nonnegative() }),
  tips: z
    .array(
      z.object({
        origin: z.string().min(1).max(255),
        height: z.int().nonnegative(),
        treeSize: z.int().nonnegative(),
        root: hex64,
      }),
    )
    .max(MAX_TIPS),
  /** Key statements of other peers: one that is not reached itself is known by them all the same. */
  keys: z
    .array(
      z.object({
        did: z.string().max(256),
        statements: z.array(z.string().max(MAX_STATEMENT_BYTES)).max(MAX_STATEMENTS),
      }),
    )
    .max(64)
    .default([]),
  /** The sender's newest telemetry. Whatever is wrong with it is no reason not to hear the rest. */
  telemetry: z.unknown().optional(),
})

export class Envelopes {
  readonly #state: FederationState
  /** By peer our law and its own, as the alerts stand. */
  readonly #laws = new Map<string, string>()
  /** By peer the telemetry of ours that the newest envelope took along, and the one that is known to have arrived. */
  readonly #sent = new Map<string, string>()
  readonly #told = new Map<string, string>()
  /** By peer its telemetry that went to the Guardian last, and when. */
  readonly #healths = new Map<string, { readonly jws: string; readonly at: number }>()

  constructor(state: FederationState) {
    this.#state = state
  }

  /** Verifies an envelope and takes down what it says. Throws what refuses it. */
  async hear(context: Context, opened: OpenedEnvelope, isAnswer: boolean): Promise<Peer> {
    const { node } = context
    const peer = this.#state.peers.get(opened.iss)
    if (peer === null) {
      throw new VaultMeshError('unknown-peer', `${opened.iss} is not on peers_allowlist.`)
    }
    if (peer.keyConflict !== null) {
      throw new VaultMeshError(
        'unknown-peer',
        `${peer.did} signed two keys for epoch ${peer.keyConflict.epoch}; its operator and ours must settle it.`,
      )
    }
    const nowAt = Date.now()
    const { unverified } = opened
    let history = await this.#state.peers.history(peer.did)
    let news: KeyHistory | null = null
    const statements = unverified.statements ?? []
    if (statements.length > 0 && statements.join() !== history.statements.join()) {
      const merged = await this.#state.peers.merged(peer, statements)
      if (merged.conflict !== null) await this.#freeze(peer, merged.conflict, nowAt)
      history = merged.history
      // Said twice, or in part, they tell nothing.
      if (history.statements.join() !== peer.statements.join()) news = history
    }
    const verified = await verifyEnvelope(opened, {
      audiences: [canonicalDid(node.nodeDid)],
      nowAt,
      isKey: (keyDid, at) => isValidKey(history, keyDid, at),
    })
    const body = bodySchema.safeParse(verified.claims.body)
    if (!body.success) {
      const issue = body.error.issues[0]!
      throw new VaultMeshError('bad-envelope', `body.${issue.path.join('.')}: ${issue.message}.`)
    }
    // Last, so that a refused envelope costs no row; first of all effects, so that a repeat has none.
    this.#state.peers.once(
      replayKey(verified.iss, verified.claims.jti),
      replayUntil(verified.claims),
    )
    if (news !== null) this.#state.peers.learnStatements(peer.did, news)
    this.#introduce(context, peer, verified)
    this.#state.peers.heard(
      peer.did,
      {
        nodeId: body.data.nodeId,
        witness: body.data.witness,
        lawHash: verified.claims.lawHash,
        feedId: body.data.feed.id,
        feedEnd: body.data.feed.end,
        tips: body.data.tips,
      },
      { nowAt, isAnswer },
    )
    await this.#lawAlert(context, peer, verified.claims.lawHash, nowAt)
    for (const { did, statements: told } of body.data.keys) await this.#hearKeys(did, told, nowAt)
    this.#hearHealth(context, peer.did, body.data.telemetry)
    return this.#state.peers.get(peer.did)!
  }

  /**
   * Hands a peer's telemetry to the Guardian, which verifies it, beside the gossip: nothing here waits for it. The same
   * comes with each envelope until we answered one; of news, at most two go on in an interval of ours.
   */
  #hearHealth({ node }: Context, did: string, said: unknown): void {
    if (said === undefined || said === null) return
    const last = this.#healths.get(did)
    const nowAt = Date.now()
    if (last !== undefined && last.jws === said) return
    const ageMs = nowAt - (last?.at ?? 0)
    if (ageMs >= 0 && ageMs < node.config.guardianIntervalMs / 2) return
    const isSent = typeof said === 'string' && said.length <= MAX_TELEMETRY_BYTES
    // What is no telemetry is remembered as none: it counts once in the time that one would.
    this.#healths.set(did, { jws: isSent ? said : '', at: nowAt })
    const { env, background } = this.#state
    if (!isSent) {
      count(env, background, 'vaultmesh_telemetry_rejected_total', { reason: 'bad-telemetry' })
      return
    }
    env.GUARDIAN.getByName('node')
      .hear(did, said)
      .catch((error: unknown) => warn(`telemetry of ${did}`, error))
  }

  /** A peer has answered an envelope: what that took along is known there. */
  delivered(did: string): void {
    const sent = this.#sent.get(did)
    if (sent !== undefined) this.#told.set(did, sent)
  }

  /** Our newest telemetry for a peer that may not have it. */
  #healthFor(aud: string): { readonly telemetry?: string } {
    const { health } = this.#state
    const did = canonicalDid(aud)
    if (health === null || this.#told.get(did) === health) return {}
    this.#sent.set(did, health)
    return { telemetry: health }
  }

  /** Statements that one peer hands on of another: they verify by themselves, or are none. */
  async #hearKeys(did: string, statements: readonly string[], nowAt: number): Promise<void> {
    const peer = this.#state.peers.get(did)
    if (peer === null || peer.keyConflict !== null) return
    if (statements.every((statement) => peer.statements.includes(statement))) return
    try {
      const merged = await this.#state.peers.merged(peer, statements)
      if (merged.conflict !== null) await this.#freeze(peer, merged.conflict, nowAt)
      if (merged.history.statements.join() === peer.statements.join()) return
      this.#state.peers.learnStatements(peer.did, merged.history)
    } catch (error) {
      warn(`statements of ${did} that a peer handed on`, error)
    }
  }

  async #freeze(
    peer: Peer,
    conflict: NonNullable<Peer['keyConflict']>,
    nowAt: number,
  ): Promise<never> {
    this.#state.peers.freeze(peer.did, conflict)
    const detail = `${peer.did} has two valid statements for key epoch ${conflict.epoch}: its key is stolen or was rotated twice. It is frozen until you release it.`
    await openAlert(
      this.#state.env.DB,
      {
        kind: 'key_conflict',
        key: peer.did,
        severity: 'critical',
        detail,
        link: '/federation/peers',
      },
      nowAt,
    )
    throw new VaultMeshError(
      'bad-rotation',
      `Two statements for epoch ${conflict.epoch} of ${peer.did}.`,
    )
  }

  #introduce({ node, config }: Context, peer: Peer, { claims }: Verified): void {
    const listed = config.peers.find(({ canonical }) => canonical === peer.did)
    // What the operator wrote down is not the peer's to change.
    const url = listed?.url === null ? this.#usableUrl(node, claims.url ?? null) : null
    const { origin = null, vkey = null } = claims
    this.#state.peers.introduce(peer.did, { url, origin, vkey })
    // The log that we know has forked and was ended. An older one is the past, told by what is left of it.
    const isLater = origin !== null && peer.origin !== null && isLaterLog(origin, peer.origin)
    if (isLater && vkey !== null && vkey.startsWith(`${origin}+`)) {
      this.#state.peers.succeeded(peer.did, { origin, vkey })
    }
    this.#state.followLogOf(node, config, this.#state.peers.get(peer.did)!)
  }

  /** In production a peer may name a public https address only; what the operator lists may be any. */
  #usableUrl(node: NodeContext, text: string | null): string | null {
    const url = text === null ? null : URL.parse(text)
    if (url === null || url.username !== '' || url.password !== '') return null
    if (node.config.network === 'production') {
      if (url.protocol !== 'https:' || !isPublicHost(url.hostname)) return null
    }
    return `${url.origin}${url.pathname}`.replace(/\/$/, '')
  }

  async #lawAlert(
    { lawHash: ours }: Context,
    peer: Peer,
    theirs: string,
    nowAt: number,
  ): Promise<void> {
    // Either may have changed its law.
    const laws = `${ours} ${theirs}`
    if (this.#laws.get(peer.did) === laws) return
    const { DB } = this.#state.env
    if (theirs === ours) {
      await clearAlert(DB, 'law_mismatch', peer.did, nowAt).run()
      this.#laws.set(peer.did, laws)
      return
    }
    const detail = `${peer.did} follows another law (${theirs.slice(0, 23)}…): it is left out of convergence. Compare conflict_policy and TSA_ROOTS.`
    const link = '/federation/peers'
    await openAlert(
      DB,
      { kind: 'law_mismatch', key: peer.did, severity: 'warning', detail, link },
      nowAt,
    )
    this.#laws.set(peer.did, laws)
  }

  /** An envelope that lets this node read at `aud` what is closed to others. It is no gossip. */
  async pass({ node, lawHash }: Context, aud: string): Promise<string> {
    const iat = Math.floor(Date.now() / 1000)
    return signEnvelope(node.identity, {
      iss: node.nodeDid,
      aud,
      iat,
      exp: iat + ENVELOPE_LIFE_S,
      jti: crypto.randomUUID(),
      lawHash,
      body: { read: 'events' },
    })
  }

  /** Statements of the other peers, as far as an envelope has room for them. */
  #knownKeys(aud: string): { did: string; statements: string[] }[] {
    let room = MAX_KEYS_BYTES
    return this.#state.peers.all().flatMap(({ did, statements }) => {
      const bytes = statements.reduce((sum, statement) => sum + statement.length, 0)
      if (bytes === 0 || bytes > room || did === canonicalDid(aud)) return []
      room -= bytes
      return [{ did, statements: [...statements] }]
    })
  }

  /** An envelope for `aud`, with what this node stands on. */
  async speak({ node, lawHash: law, url }: Context, aud: string): Promise<string> {
    const iat = Math.floor(Date.now() / 1000)
    const claims: EnvelopeClaims = {
      iss: node.nodeDid,
      aud,
      iat,
      exp: iat + ENVELOPE_LIFE_S,
      jti: crypto.randomUUID(),
      lawHash: law,
      body: {
        nodeId: node.config.nodeId,
        witness: node.witness.vkey,
        feed: { id: this.#state.recall('feed')!, end: this.#state.ledger.feedEnd() },
        tips: this.#state.ledger
          .logs()
          .slice(0, MAX_TIPS)
          .map(({ origin, tipHeight, tipSize, tipRoot }) => ({
            origin,
            height: tipHeight,
            treeSize: tipSize,
            root: tipRoot,
          })),
        keys: this.#knownKeys(aud),
        ...this.#healthFor(aud),
      },
      ...(url === null ? {} : { url }),
      vkey: node.vkey,
      origin: node.config.origin,
      ...(node.statements.length === 0 ? {} : { statements: [...node.statements] }),
    }
    return signEnvelope(node.identity, claims)
  }
}
