/**
 * The Remembrancer: a typed client of a node's memory. What it returns was verified against keys that the
 * caller holds, or is not returned: roots and batches by the log's signature and its operator's, anchor
 * receipts by their own proofs, events by their hashes.
 *
 * Answers come from strangers: each is read under a byte limit and a deadline, redirects are not followed, and
 * nothing is believed for its status code alone.
 */

import * as z from 'zod'
import { anchorReceiptSchema, type AnchorReceipt, type Chain } from '#core/anchor-receipt.ts'
import { verifyManifest, type Manifest } from '#core/batch-manifest.ts'
import { fromUtf8, toHex, utf8 } from '#core/bytes.ts'
import { verifyCheckpoint } from '#core/checkpoint.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'
import type { VerifierKey } from '#core/signed-note.ts'

/** How much of an answer is read, in bytes. */
const MAX_JSON_BYTES = 2_000_000
const MAX_ENVELOPE_ANSWER_BYTES = 262_144
/**
 * A part of a batch holds at most 4,000,000 bytes of events, of 400 bytes at least; a tombstone with the event in it has
 * 860 (measured): twice as much if all are erased.
 */
export const MAX_PART_BYTES = 9_000_000
/** Longest address of a node. */
export const MAX_URL_CHARS = 512

/** What the client needs of the world. */
export interface RemembranceOptions {
  /** The node's address without a trailing slash. */
  readonly url: string
  readonly fetch: (url: string, init?: RequestInit) => Promise<Response>
  /** Ends every call of this client; a call has no other deadline. */
  readonly signal: AbortSignal
  /** An envelope that shows who reads: a node that closes its events opens them to its peers. */
  readonly pass?: () => Promise<string>
}

/** Keys of a log and of who operates it. */
export interface LogKeys {
  readonly origin: string
  readonly log: VerifierKey
  /** Whether `keyDid` spoke for the operator at `at` (epoch ms). */
  readonly isKey: (keyDid: string, at: number) => boolean
}

/** A batch that its origin signed: manifest and checkpoint agree and both signatures hold. */
export interface SignedBatch {
  readonly manifest: Manifest
  readonly manifestJws: string
  /** Signed note of the log at the batch's tree size. */
  readonly checkpoint: string
}

const wellKnownSchema = z.looseObject({
  node_id: z.string().max(63),
  node_did: z.string().max(256),
  origin: z.string().min(1).max(255),
  vkey: z.string().max(512),
  rotation: z.array(z.string().max(4096)).max(64),
  lawHash: z.string().nullable(),
  witness: z.looseObject({ name: z.string(), vkey: z.string().max(512) }),
})
export type WellKnown = z.infer<typeof wellKnownSchema>

const feedItemSchema = z.discriminatedUnion('type', [
  z.object({
    seq: z.int().positive(),
    type: z.literal('batch'),
    origin: z.string().max(255),
    manifest: z.string().max(8192),
    checkpoint: z.string().max(16_384),
  }),
  z.object({
    seq: z.int().positive(),
    type: z.literal('proof'),
    origin: z.string().max(255),
    receipt: anchorReceiptSchema,
  }),
])
export type FeedItem = z.infer<typeof feedItemSchema>

const feedSchema = z.object({
  feedId: z.string().max(64),
  items: z.array(feedItemSchema).max(500),
  more: z.boolean(),
})
export type FeedPage = z.infer<typeof feedSchema>

const rootSchema = z.object({
  height: z.int(),
  root: z.string(),
  treeSize: z.int(),
  manifest: z.string().max(8192),
  checkpoint: z.string().max(16_384),
})
const proofsSchema = z.object({
  receipts: z.array(anchorReceiptSchema).max(100),
  next: z.int().nullable(),
})
/** The path under which a node serves a log: 64 hex digits of SHA-256(origin). */
export function logName(origin: string): string {
  return toHex(sha256(utf8(origin)))
}

/**
 * Reads a signed batch, strictly. Throws what `verifyManifest` and `verifyCheckpoint` throw, `bad-jws` if the
 * two are of different batches.
 */
export async function readSignedBatch(
  keys: LogKeys,
  manifestJws: string,
  checkpoint: string,
): Promise<SignedBatch> {
  const manifest = await verifyManifest(manifestJws, keys.isKey)
  const signed = await verifyCheckpoint(checkpoint, { log: keys.log, origin: keys.origin })
  const { size, root } = signed.checkpoint
  if (
    manifest.origin !== keys.origin ||
    manifest.treeSize !== size ||
    manifest.root !== toHex(root)
  ) {
    throw new VaultMeshError('bad-jws', 'Manifest and checkpoint are not of one batch.')
  }
  return { manifest, manifestJws, checkpoint }
}

/** A client of one node. */
export class Remembrancer {
  readonly url: string
  readonly #options: RemembranceOptions

  constructor(options: RemembranceOptions) {
    this.#options = options
    this.url = options.url.replace(/\/$/, '')
  }

  /** The signed root at a height of the node's own log, or of one it mirrors; null if it has none. */
  async getRoot(height: number, keys: LogKeys): Promise<SignedBatch | null> {
    const path = `/remembrancer/roots/${height}?origin=${encodeURIComponent(keys.origin)}`
    const answer = await this.#json(path, rootSchema)
    if (answer === null) return null
    const batch = await readSignedBatch(keys, answer.manifest, answer.checkpoint)
    if (batch.manifest.height !== height) throw nonsense(this.url, 'another height')
    return batch
  }

  /**
   * Anchor receipts of a chain, oldest first, a page from `after` on. Their shape is checked here; what they
   * prove is `verifyAnchorReceipt`'s to say, with the caller's own trust.
   */
  async getProof(
    chain: Chain,
    { origin, after = 0 }: { readonly origin: string; readonly after?: number },
  ): Promise<{ readonly receipts: readonly AnchorReceipt[]; readonly next: number | null }> {
    const path = `/remembrancer/proofs/${chain}?origin=${encodeURIComponent(origin)}&after=${after}`
    const answer = await this.#json(path, proofsSchema)
    if (answer === null) return { receipts: [], next: null }
    if (answer.receipts.some((receipt) => receipt.chain !== chain)) {
      throw nonsense(this.url, 'proofs of another chain')
    }
    return answer
  }

  /** Signed batches from a height on, at most 100, in order of height. */
  async getBatches(from: number, keys: LogKeys): Promise<readonly SignedBatch[]> {
    const path = `/remembrancer/batches?origin=${encodeURIComponent(keys.origin)}&from=${from}`
    const answer = await this.#json(path, z.object({ batches: z.array(rootSchema).max(100) }))
    const batches: SignedBatch[] = []
    for (const { manifest, checkpoint } of answer?.batches ?? []) {
      batches.push(await readSignedBatch(keys, manifest, checkpoint))
    }
    return batches
  }

  /** What the node learned after `after`, in its own order. */
  async feed(after: number): Promise<FeedPage> {
    const page = await this.#json(`/federation/feed?after=${after}`, feedSchema)
    if (page === null) throw nonsense(this.url, 'no feed')
    return page
  }

  /** Who the node says it is. */
  async wellKnown(): Promise<WellKnown> {
    const answer = await this.#json('/.well-known/vaultmesh.json', wellKnownSchema)
    if (answer === null) throw nonsense(this.url, 'no well-known file')
    return answer
  }

  /**
   * One part of a batch's events: lines without their newlines, bytes as the node has them. Null if it has no
   * such part. Nothing says that they are the right ones but their hashes.
   */
  async events(
    origin: string,
    {
      height,
      batchRoot,
      part,
    }: { readonly height: number; readonly batchRoot: string; readonly part: number },
  ): Promise<Uint8Array | null> {
    const path = `/mirror/${logName(origin)}/batches/${height}/${batchRoot}/events/${part}`
    const pass = await this.#options.pass?.()
    const init = pass === undefined ? {} : { headers: { authorization: `Gossip ${pass}` } }
    const response = await this.#send(path, init)
    if (response.status === 404) return drop(response)
    return this.#body(response, MAX_PART_BYTES)
  }

  /** Sends an envelope; resolves to the envelope that answers it. */
  async gossip(envelope: string): Promise<Uint8Array> {
    const response = await this.#send('/federation/gossip', {
      method: 'POST',
      headers: { 'content-type': 'application/jose' },
      body: envelope,
    })
    return this.#body(response, MAX_ENVELOPE_ANSWER_BYTES)
  }

  async #json<T>(path: string, schema: z.ZodType<T>): Promise<T | null> {
    const response = await this.#get(path)
    if (response.status === 404) return drop(response)
    const body = await this.#body(response, MAX_JSON_BYTES)
    let value: unknown
    try {
      value = JSON.parse(fromUtf8(body))
    } catch {
      throw nonsense(this.url, 'what is no JSON')
    }
    const parsed = schema.safeParse(value)
    if (!parsed.success) throw nonsense(this.url, `another shape for ${path.split('?')[0]!}`)
    return parsed.data
  }

  #get(path: string): Promise<Response> {
    return this.#send(path, {})
  }

  async #send(path: string, init: RequestInit): Promise<Response> {
    const { fetch, signal } = this.#options
    try {
      // A caller's fetch must not see `this`: workerd's own refuses it.
      return await fetch(`${this.url}${path}`, { ...init, redirect: 'manual', signal })
    } catch (cause) {
      const why = signal.aborted ? 'did not answer in time' : 'could not be reached'
      throw new VaultMeshError('overloaded', `${hostOf(this.url)} ${why}.`, { cause })
    }
  }

  /** The body of a 200, at most `limit` bytes of it. */
  async #body(response: Response, limit: number): Promise<Uint8Array> {
    if (response.status !== 200) {
      const text = await bounded(response, 4096).catch(() => new Uint8Array(0))
      throw refusal(this.url, response.status, text)
    }
    try {
      return await bounded(response, limit)
    } catch (error) {
      if (error instanceof VaultMeshError) throw error
      const why = this.#options.signal.aborted ? 'did not end its answer in time' : 'broke off'
      throw new VaultMeshError('overloaded', `${hostOf(this.url)} ${why}.`, { cause: error })
    }
  }
}

/** Host and port of an address, for messages: never a path or credentials. */
export function hostOf(url: string): string {
  return URL.parse(url)?.host ?? 'the peer'
}

async function bounded(response: Response, limit: number): Promise<Uint8Array> {
  if (response.body === null) return new Uint8Array(0)
  const reader = (response.body as ReadableStream<Uint8Array>).getReader()
  const parts: Uint8Array[] = []
  let size = 0
  for (;;) {
    const { done, value } = await reader.read()
    if (done) break
    size += value.length
    if (size > limit) {
      await reader.cancel().catch(() => undefined)
      throw new VaultMeshError('bad-request', `A peer answered with more than ${limit} bytes.`)
    }
    parts.push(value)
  }
  const out = new Uint8Array(size)
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}

/** Lets the connection go: an unread body holds one of six. */
async function drop(response: Response): Promise<null> {
  await response.body?.cancel().catch(() => undefined)
  return null
}

function refusal(url: string, status: number, body: Uint8Array): VaultMeshError {
  let code = ''
  try {
    const problem = JSON.parse(fromUtf8(body)) as { type?: unknown }
    if (typeof problem.type === 'string') code = problem.type.replace(/^.*\//, '').slice(0, 40)
  } catch {
    // Not ours; the status says enough.
  }
  const detail = /^[a-z-]+$/.test(code) ? ` (${code})` : ''
  return new VaultMeshError('overloaded', `${hostOf(url)} answered ${status}${detail}.`, {
    extra: { peerStatus: status, peerCode: code },
  })
}

function nonsense(url: string, what: string): VaultMeshError {
  return new VaultMeshError('bad-request', `${hostOf(url)} answered with ${what}.`)
}
