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
  type AnchorVerdict,
} from '#core/anchor-receipt.ts'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { equal, hashFromHex, toHex, type Hash } from '#core/bytes.ts'
import { parseCheckpoint, verifyCheckpoint, type Checkpoint } from '#core/checkpoint.ts'
import { verifyConsistencyProof } from '#core/consistency-proof.ts'
import { EVENT_TYP, openEnvelope, verifyEnvelope } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { inclusionLevels, verifyInclusionProof } from '#core/inclusion-proof.ts'
import { leafHash } from '#core/merkle.ts'
import { Trail, type Step, type StepValues } from '#core/receipt-steps.ts'
import { sha256 } from '#core/sha256.ts'
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
    eventId: z.string().describe('empty once the event is erased, as source is'),
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
  /** How it was made, in order, with every hash; none of what was not looked at. */
  readonly steps: readonly Step[]
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
  let trail = new Trail()
  const note = (name: string, ok: true | null, detail: string): void => {
    checks.push({ name, ok, detail, steps: trail.end(true) })
    trail = new Trail()
  }
  const fail = (name: string, error: unknown): Report => {
    // An unreadable TSA root is the caller's fault, not the receipt's.
    if (!(error instanceof VaultMeshError) || error.code === 'bad-config') throw error
    const untrusted = error.code === 'untrusted-key'
    checks.push({ name, ok: false, detail: error.message, steps: trail.end(false) })
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
    note('event', null, 'not given: the receipt speaks of its hash only')
  } else {
    try {
      note('event', true, await checkEvent(event, { receipt, eventHash }, trail))
    } catch (error) {
      return fail('event', error)
    }
  }

  let root: Hash
  try {
    root = await checkCheckpoint(receipt, logs, trail)
    const short = `${toHex(root).slice(0, 16)}…`
    note(
      'checkpoint',
      true,
      `${receipt.origin} signed tree size ${receipt.treeSize}, root ${short}`,
    )
  } catch (error) {
    return fail('checkpoint', error)
  }

  try {
    checkInclusion(receipt, { eventHash, root }, trail)
    const { leafIndex, treeSize, inclusionProof } = receipt
    const { length } = inclusionProof
    note(
      'inclusion',
      true,
      `leaf ${leafIndex} of ${treeSize}, ${length} ${length === 1 ? 'hash' : 'hashes'}`,
    )
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
      note(name, null, `${anchor.status}: under way, no evidence yet`)
      continue
    }
    const claim = anchor as ListedAnchor
    const { consistencyProof, ...bare } = claim
    try {
      checkAnchoredRoot({ receipt, root }, claim, trail)
      const verdict = await verifyAnchorReceipt(bare, trust)
      if (verdict.outcome === 'refuted') {
        trail.begin('proof', { kind: bare.proof.type, check: verdict.check })
        throw new VaultMeshError('bad-proof', `${verdict.check}: ${verdict.reason}`)
      }
      if (verdict.outcome !== 'verified') {
        note(name, null, verdict.reason)
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
      const kind = bare.proof.type
      for (const check of verdict.checks) trail.begin('proof', { kind, check })
      trail.begin('outside-time', factsOf(bare, verdict))
      const before = `before ${bare.anchorTs}${slackOf(verdict.slackMs)}`
      note(name, true, `${before}${dev}${later} (${verdict.checks.length} checks)`)
    } catch (error) {
      return fail(name, error)
    }
  }

  if (event === undefined) {
    note('source, id', null, "said by the node; give the event's bytes to check who signed it")
  }
  note('height, status', null, 'said by the node')
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

/** What a verified proof says, for the last of its steps. */
function factsOf(
  anchor: AnchorReceipt,
  verdict: AnchorVerdict & { outcome: 'verified' },
): StepValues {
  const { chain, network, root, txHash, anchorTs, blockNumber } = anchor
  const { blockHash, slackMs } = verdict
  return {
    chain,
    network,
    root: root.slice(2),
    txHash,
    anchorTs,
    slackMs,
    ...(blockHash === undefined ? {} : { blockHash }),
    ...(blockNumber === null ? {} : { blockNumber }),
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

async function checkEvent(
  event: Uint8Array,
  { receipt, eventHash }: { readonly receipt: Receipt; readonly eventHash: Hash },
  trail: Trail,
): Promise<string> {
  const computed = sha256(event)
  trail.begin('event-hash', {
    bytes: event.length,
    computed: toHex(computed),
    expected: toHex(eventHash),
  })
  if (!equal(computed, eventHash)) {
    throw new VaultMeshError('bad-proof', 'The bytes do not hash to the eventHash of the receipt.')
  }
  trail.begin('event-form')
  const open = await openEnvelope(event, new Signers(EVENT_TYP))
  const { alg, did } = open.signer
  trail.begin('event-signature', { alg, signer: did, signed: toHex(open.signingHash) })
  await verifyEnvelope(open)
  trail.begin('event-names', { id: receipt.eventId, source: receipt.source })
  // The node erased the event, and with it the names: those of the bytes stand.
  const isErased = receipt.eventId === '' && receipt.source === ''
  if (isErased)
    return `${event.length} bytes hash to the leaf, signed by ${open.signer.did}; erased at the node`
  if (open.event.id !== receipt.eventId || open.event.source !== receipt.source) {
    throw new VaultMeshError('bad-proof', 'The receipt names another id or source than the event.')
  }
  return `${event.length} bytes hash to the leaf, signed by ${open.signer.did}`
}

async function checkCheckpoint(
  receipt: Receipt,
  logs: readonly VerifierKey[],
  trail: Trail,
): Promise<Hash> {
  trail.begin('note')
  const note = parseNote(receipt.checkpoint)
  const claimed = parseCheckpoint(note.text)
  const own = note.signatures.filter(({ name }) => name === claimed.origin)
  const signedBy = own.map(({ name, keyId }) => keyName(name, keyId)).join(', ')
  trail.begin('log-key', { origin: claimed.origin, signedBy })
  const named = logs.filter((key) => key.name === claimed.origin)
  const signed = new Set(note.signatures.map(({ keyId }) => keyId))
  const log = named.find(({ keyId }) => signed.has(keyId)) ?? named[0]
  if (log === undefined) {
    throw new VaultMeshError(
      'untrusted-key',
      `You have named no key for the log ${claimed.origin}.`,
    )
  }
  trail.begin('log-signature', { key: keyName(log.name, log.keyId) })
  const { checkpoint } = await verifyCheckpoint(receipt.checkpoint, { log })
  trail.begin('tree-head', {
    treeSize: checkpoint.size,
    root: toHex(checkpoint.root),
    claimedSize: receipt.treeSize,
    claimedRoot: receipt.root.slice(7),
  })
  sameTree(receipt, checkpoint)
  return checkpoint.root
}

/** A key as verifier keys begin: its name and the eight hex digits of its id. */
function keyName(name: string, keyId: number): string {
  return `${name}+${keyId.toString(16).padStart(8, '0')}`
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

/** The leaf leads to the root (RFC 9162 §2.1.3.2). */
function checkInclusion(
  { leafIndex, treeSize, inclusionProof }: Receipt,
  { eventHash, root }: { readonly eventHash: Hash; readonly root: Hash },
  trail: Trail,
): void {
  const leaf = leafHash(eventHash)
  const proof = inclusionProof.map(hashFromHex)
  const claim = { index: leafIndex, size: treeSize, leafHash: leaf, proof }
  trail.begin('leaf-hash', { eventHash: toHex(eventHash), leafHash: toHex(leaf) })
  trail.begin('path', { leafIndex, treeSize, hashes: proof.length })
  const levels = inclusionLevels(claim)
  for (const [level, { left, right, hash, sibling }] of levels.entries()) {
    const hashes = { left: toHex(left), right: toHex(right), result: toHex(hash) }
    trail.begin('node-hash', { level: level + 1, ...hashes, sibling })
  }
  const computed = levels.at(-1)?.hash ?? leaf
  trail.begin('root', { computed: toHex(computed), expected: toHex(root) })
  verifyInclusionProof({ ...claim, root })
}

/** The anchored root is the receipt's own, or that of a later tree which begins with it. */
function checkAnchoredRoot(
  { receipt, root }: { readonly receipt: Receipt; readonly root: Hash },
  { consistencyProof: proof, ...anchor }: ListedAnchor,
  trail: Trail,
): void {
  const anchoredRoot = hashFromHex(anchor.root.slice(2))
  if (proof === undefined) {
    const { treeSize } = anchor
    trail.begin('anchored-root', { root: toHex(root), anchored: toHex(anchoredRoot), treeSize })
    if (anchor.treeSize !== receipt.treeSize || !equal(anchoredRoot, root)) {
      throw new VaultMeshError(
        'bad-proof',
        'The anchored root is another tree and no consistency proof leads there.',
      )
    }
    return
  }
  trail.begin('consistency', {
    root: toHex(root),
    from: proof.from,
    anchored: toHex(anchoredRoot),
    to: proof.to,
    hashes: proof.hashes.length,
  })
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
