/**
 * The receipt of an event: one file that proves, without any server of ours, that this event stands in
 * this log at this position, and before which moments of outside time (design §5).
 *
 * Nothing in a receipt is believed because it is written there. Four steps, each named in the report:
 *   event       the bytes hash to eventHash and carry a valid signature of their source
 *   checkpoint  a key that the caller trusts signed (origin, treeSize, root)
 *   inclusion   the leaf leads to that root (RFC 9162 §2.1.3.2)
 *   anchors     that root, or one consistent with it (§2.1.4.2), existed before an outside moment
 * What no step covers is in the report, too: who signed, if the event's bytes are not at hand, and the
 * height and status always. The verdict names who would have to lie. The same code runs in Node, workerd and the browser.
 */

import * as z from 'zod'
import {
  anchorReceiptSchema,
  isDevChain,
  isDevNetwork,
  methodOf,
  networkName,
  type AnchorReceipt,
  type AnchorTrust,
} from '#core/anchor-receipt.ts'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { equal, fromUtf8, hashFromHex, toHex, utf8, type Hash } from '#core/bytes.ts'
import { parseCheckpoint, verifyCheckpoint, type Checkpoint } from '#core/checkpoint.ts'
import { verifyConsistencyProof } from '#core/consistency-proof.ts'
import { EVENT_TYP, openEnvelope, verifyEnvelope } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { verifyInclusionProof } from '#core/inclusion-proof.ts'
import { leafHash } from '#core/merkle.ts'
import { formatProofFile } from '#core/proof-file.ts'
import { parseNote, parseVkey, TYPE_ED25519, type VerifierKey } from '#core/signed-note.ts'
import { Signers } from '#core/signer.ts'
import { parseStrictJson } from '#core/strict-json.ts'

const hashText = z.string().regex(/^sha256:[0-9a-f]{64}$/)
const hex64 = z.string().regex(/^[0-9a-f]{64}$/)
const size = z.int().nonnegative()

/** A proof from the receipt's tree to a later, anchored one. */
const consistencySchema = z.strictObject({ from: size, to: size, hashes: z.array(hex64).max(64) })

/** A verified anchor as a receipt lists it. */
const listedAnchorSchema = anchorReceiptSchema.extend({
  consistencyProof: consistencySchema.optional(),
})

/** An anchor still under way: a view of the outbox, no evidence. */
const pendingAnchorSchema = z.looseObject({
  root: z.string(),
  chain: z.enum(['BTC', 'EVM', 'TSA']),
  network: networkName,
  status: z.enum(['pending', 'submitted', 'included', 'reorged', 'failed']),
})

/** The receipt as JSON. */
export const receiptSchema = z
  .strictObject({
    v: z.literal(1),
    eventHash: hashText,
    eventId: z.string(),
    source: z.string(),
    status: z.enum(['sealed', 'anchored', 'final']),
    origin: z.string().min(1).max(255),
    height: z.int().positive(),
    leafIndex: size,
    treeSize: z.int().positive(),
    root: hashText,
    inclusionProof: z.array(hex64).max(64),
    checkpoint: z.string().max(1_048_576),
    anchors: z.array(z.union([listedAnchorSchema, pendingAnchorSchema])).max(64),
  })
  .meta({ id: 'Receipt' })

export type Receipt = z.infer<typeof receiptSchema>
export type ListedAnchor = z.infer<typeof listedAnchorSchema>
export type PendingAnchor = z.infer<typeof pendingAnchorSchema>

/** Whom the verifying party trusts. */
export interface ReceiptTrust extends AnchorTrust {
  /** Verifier keys of logs (`name+hex+base64`). */
  readonly vkeys: readonly string[]
}

/** One line of the report. `ok` is null for what was not checked, with the reason in `detail`. */
export interface Check {
  readonly name: string
  readonly ok: boolean | null
  readonly detail: string
}

/** The outcome of `verifyReceipt`. Only `verified` is success. */
export interface Report {
  readonly verdict: 'verified' | 'refuted' | 'untrusted'
  readonly checks: readonly Check[]
  /** What was proven, and who would have to lie for it to be false. */
  readonly sentence: string
  /** Chains of the anchors that verified. */
  readonly anchored: readonly string[]
  /** Those of them on no dev chain: the others anybody can make, with any time in them. */
  readonly production: readonly string[]
  /**
   * The earliest outside moment before which the event stood in the log, epoch ms, or null. A dev chain's
   * counts only where there is no other.
   */
  readonly beforeAt: number | null
  /** Fields of the receipt that no check here covers: the node's word, and anybody's who had the file. */
  readonly unproven: readonly (keyof Receipt)[]
}

const RECEIPT = { code: 'bad-receipt', name: 'The receipt' } as const

/** Reads a receipt; throws `bad-receipt` naming the field, `duplicate-key` for a key given twice. */
export function parseReceipt(text: string): Receipt {
  const parsed = receiptSchema.safeParse(parseStrictJson(text, RECEIPT))
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    throw new VaultMeshError(
      'bad-receipt',
      `Receipt field "${issue.path.join('.')}": ${issue.message}.`,
    )
  }
  return parsed.data
}

/**
 * Verifies a receipt offline, and the event's bytes against it when they are given.
 * Never throws for a bad receipt: the report says what failed. Throws for the caller's own trust:
 * `bad-note` for an unreadable vkey, `bad-config` for an unreadable TSA root.
 */
export async function verifyReceipt(
  receipt: Receipt,
  trust: ReceiptTrust,
  event?: Uint8Array,
): Promise<Report> {
  const checks: Check[] = []
  const unproven: readonly (keyof Receipt)[] =
    event === undefined ? ['source', 'eventId', 'height', 'status'] : ['height', 'status']
  const logs = trust.vkeys.map(parseVkey).filter((key) => key.type === TYPE_ED25519)
  const eventHash = hashFromHex(receipt.eventHash.slice(7))
  const fail = (name: string, error: unknown): Report => {
    // An unreadable TSA root is the caller's fault, not the receipt's.
    if (!(error instanceof VaultMeshError) || error.code === 'bad-config') throw error
    const untrusted = error.code === 'untrusted-key'
    checks.push({ name, ok: false, detail: error.message })
    return {
      verdict: untrusted ? 'untrusted' : 'refuted',
      checks,
      sentence: untrusted
        ? `Nothing was proven: ${error.message}`
        : `Refuted at "${name}": ${error.message}`,
      anchored: [],
      production: [],
      beforeAt: null,
      unproven,
    }
  }

  if (event === undefined) {
    checks.push({
      name: 'event',
      ok: null,
      detail: 'not given: the receipt speaks of its hash only',
    })
  } else {
    try {
      checks.push({ name: 'event', ok: true, detail: await checkEvent(event, receipt, eventHash) })
    } catch (error) {
      return fail('event', error)
    }
  }

  let root: Hash
  try {
    root = await checkCheckpoint(receipt, logs)
    checks.push({
      name: 'checkpoint',
      ok: true,
      detail: `${receipt.origin} signed tree size ${receipt.treeSize}, root ${toHex(root).slice(0, 16)}…`,
    })
  } catch (error) {
    return fail('checkpoint', error)
  }

  try {
    verifyInclusionProof({
      index: receipt.leafIndex,
      size: receipt.treeSize,
      leafHash: leafHash(eventHash),
      proof: receipt.inclusionProof.map(hashFromHex),
      root,
    })
    const length = receipt.inclusionProof.length
    checks.push({
      name: 'inclusion',
      ok: true,
      detail: `leaf ${receipt.leafIndex} of ${receipt.treeSize}, ${length} hashes`,
    })
  } catch (error) {
    return fail('inclusion', error)
  }

  const anchored: string[] = []
  const listed: AnchorReceipt[] = []
  const production: string[] = []
  const trusts = new Set<string>()
  const times: Record<'dev' | 'production', number[]> = { dev: [], production: [] }
  for (const anchor of receipt.anchors) {
    const name = nameOf(anchor)
    if (anchor.status !== 'verified') {
      checks.push({ name, ok: null, detail: `${anchor.status}: under way, no evidence yet` })
      continue
    }
    const { consistencyProof, ...bare } = anchor as ListedAnchor
    try {
      checkAnchoredRoot(receipt, root, bare, consistencyProof)
      const verdict = await verifyAnchorReceipt(bare, trust)
      if (verdict.outcome === 'refuted') {
        throw new VaultMeshError('bad-proof', `${verdict.check}: ${verdict.reason}`)
      }
      if (verdict.outcome !== 'verified') {
        checks.push({ name, ok: null, detail: verdict.reason })
        continue
      }
      anchored.push(anchor.chain)
      listed.push(bare)
      trusts.add(verdict.trust)
      const isDev = isDevChain(bare.chain, bare.network)
      if (!isDev) production.push(anchor.chain)
      // A clock that ran behind: what is proven is "before" with its slack.
      times[isDev ? 'dev' : 'production'].push(verdict.anchoredAt + verdict.slackMs)
      const dev = isDevNetwork(bare.chain, bare.network) ? ', a dev network' : ''
      const later = consistencyProof === undefined ? '' : `, consistent with size ${bare.treeSize}`
      checks.push({
        name,
        ok: true,
        detail: `before ${bare.anchorTs}${slackOf(verdict.slackMs)}${dev}${later} (${verdict.checks.length} checks)`,
      })
    } catch (error) {
      return fail(name, error)
    }
  }

  if (event === undefined) {
    checks.push({
      name: 'source, id',
      ok: null,
      detail: "said by the node; give the event's bytes to check who signed it",
    })
  }
  checks.push({ name: 'height, status', ok: null, detail: 'said by the node' })
  const isDev = times.production.length === 0
  const isAllDev =
    anchored.length > 0 && listed.every(({ chain, network }) => isDevNetwork(chain, network))
  const all = isDev ? times.dev : times.production
  const beforeAt = all.length === 0 ? null : Math.min(...all)
  const proven = sentenceFor(receipt, beforeAt, { isDev: isDev || isAllDev, trusts: [...trusts] })
  return {
    verdict: 'verified',
    checks,
    sentence: event === undefined ? `${proven} Who signed the event was not checked.` : proven,
    anchored,
    production,
    beforeAt,
    unproven,
  }
}

/** What an anchor is called in the report: Bitcoin may be reached in two ways. */
function nameOf(anchor: ListedAnchor | PendingAnchor): string {
  const method = 'proof' in anchor ? methodOf(anchor as ListedAnchor) : anchor['method']
  return `anchor ${anchor.chain} ${anchor.network}${method === 'calendar' ? ' calendar' : ''}`
}

/** How far the clock behind an anchor may have been behind. */
function slackOf(ms: number): string {
  if (ms === 0) return ''
  return ms >= 3_600_000 ? ` + ${ms / 3_600_000} h` : ` + ${ms / 1000} s`
}

function sentenceFor(
  receipt: Receipt,
  beforeAt: number | null,
  { isDev, trusts }: { readonly isDev: boolean; readonly trusts: readonly string[] },
): string {
  const place = `The event is leaf ${receipt.leafIndex} of the log ${receipt.origin}`
  if (beforeAt === null) {
    return `${place}; the holder of the log's key vouches for it, and no outside time was proven.`
  }
  const dev = isDev ? ', on dev networks alone, which prove nothing to others' : ''
  const before = `before ${new Date(beforeAt).toISOString()}, clock error included`
  return `${place} and stood there ${before}${dev}. ${trusts.join(' ')}`
}

async function checkEvent(event: Uint8Array, receipt: Receipt, eventHash: Hash): Promise<string> {
  const open = await openEnvelope(event, new Signers(EVENT_TYP))
  if (!equal(open.eventHash, eventHash)) {
    throw new VaultMeshError('bad-proof', 'The bytes do not hash to the eventHash of the receipt.')
  }
  await verifyEnvelope(open)
  if (open.event.id !== receipt.eventId || open.event.source !== receipt.source) {
    throw new VaultMeshError('bad-proof', 'The receipt names another id or source than the event.')
  }
  return `${event.length} bytes hash to the leaf, signed by ${open.signer.did}`
}

async function checkCheckpoint(receipt: Receipt, logs: readonly VerifierKey[]): Promise<Hash> {
  const note = parseNote(receipt.checkpoint)
  const claimed = parseCheckpoint(note.text)
  const named = logs.filter((key) => key.name === claimed.origin)
  const signed = new Set(note.signatures.map(({ keyId }) => keyId))
  const log = named.find(({ keyId }) => signed.has(keyId)) ?? named[0]
  if (log === undefined) {
    throw new VaultMeshError(
      'untrusted-key',
      `You have named no key for the log ${claimed.origin}.`,
    )
  }
  const { checkpoint } = await verifyCheckpoint(receipt.checkpoint, { log })
  sameTree(receipt, checkpoint)
  return checkpoint.root
}

function sameTree(receipt: Receipt, checkpoint: Checkpoint): void {
  if (receipt.origin !== checkpoint.origin) {
    throw new VaultMeshError('bad-proof', 'The receipt names another origin than its checkpoint.')
  }
  if (receipt.treeSize !== checkpoint.size || receipt.root !== `sha256:${toHex(checkpoint.root)}`) {
    throw new VaultMeshError(
      'bad-proof',
      'The receipt names another size or root than its checkpoint.',
    )
  }
}

function checkAnchoredRoot(
  receipt: Receipt,
  root: Hash,
  anchor: AnchorReceipt,
  proof: z.infer<typeof consistencySchema> | undefined,
): void {
  const anchoredRoot = hashFromHex(anchor.root.slice(2))
  if (proof === undefined) {
    if (anchor.treeSize !== receipt.treeSize || !equal(anchoredRoot, root)) {
      throw new VaultMeshError(
        'bad-proof',
        'The anchored root is another tree and no consistency proof leads there.',
      )
    }
    return
  }
  if (proof.from !== receipt.treeSize || proof.to !== anchor.treeSize || proof.from >= proof.to) {
    throw new VaultMeshError('bad-proof', 'The consistency proof is between other sizes.')
  }
  verifyConsistencyProof({
    size1: proof.from,
    size2: proof.to,
    root1: root,
    root2: anchoredRoot,
    proof: proof.hashes.map(hashFromHex),
  })
}

/** The receipt as C2SP `.tlog-proof` text; anchors ride in `extra`, where foreign verifiers skip them. */
export function receiptAsProofFile(receipt: Receipt): string {
  const extra = {
    v: 1,
    eventHash: receipt.eventHash,
    height: receipt.height,
    anchors: receipt.anchors,
  }
  return formatProofFile({
    extra: utf8(JSON.stringify(extra)),
    index: receipt.leafIndex,
    proof: receipt.inclusionProof.map(hashFromHex),
    checkpoint: receipt.checkpoint,
  })
}

/** Receipt text from a file: JSON as served. */
export function readReceipt(bytes: Uint8Array): Receipt {
  return parseReceipt(fromUtf8(bytes))
}
