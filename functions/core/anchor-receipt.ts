/**
 * The anchor receipt: the verified, final evidence that a log root existed at `anchorTs` (design §5).
 *
 * One JSON object with the plan's eight fields and all it takes to check them without us. It is
 * written once, at finality, and never updated. Verification trusts no field: what the proof states
 * is derived from its bytes again and compared, so a receipt is either exactly what its proof says
 * or refuted. Nothing can vouch for `network`, `verifier`, `observedAt` and `treeSize` of a TSA
 * receipt: a token knows neither host nor tree (a checkpoint ties `treeSize` to `root`).
 *
 * Each kind of proof is one entry of `verifiers`. A kind that this version does not know is answered
 * with `unsupported`, never with success.
 */

import * as z from 'zod'
import { fromBase64, fromHex, hashFromHex, toBase64, toHex } from '#core/bytes.ts'
import { certificateSha256 } from '#core/certificate.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { TimestampVerdict } from '#core/timestamp-proof.ts'
import { verifyTimestamp } from '#core/timestamp-proof.ts'

const hex64 = z.string().regex(/^[0-9a-f]{64}$/, '64 lowercase hex digits')
const isoMs = z.iso.datetime({ precision: 3 })
const count = z.int().nonnegative()

/** RFC 3161 evidence (design §6): the token is the proof, the rest is what it says. */
export const timestampProofSchema = z.strictObject({
  type: z.literal('rfc3161'),
  token: z.string().max(90_000),
  nonce: z.string().regex(/^(?:[0-9a-f]{2}){8,32}$/),
  policy: z.string(),
  serial: z.string().regex(/^(?:[0-9a-f]{2})+$/),
  tsaCertSha256: hex64,
  rootSha256: hex64,
  accuracyMs: count.nullable(),
})

/** A persisted receipt. `proof` is checked further by the verifier that its `type` names. */
export const anchorReceiptSchema = z.strictObject({
  root: z.string().regex(/^0x[0-9a-f]{64}$/),
  chain: z.enum(['BTC', 'EVM', 'TSA']),
  network: z.string().min(1).max(255),
  txHash: z.string().regex(/^(?:0x)?[0-9a-f]{64}$/),
  blockNumber: count.nullable(),
  anchorTs: isoMs,
  verifier: z.string().regex(/^v\S+$/),
  status: z.literal('verified'),
  treeSize: count,
  observedAt: isoMs,
  finality: z.strictObject({
    observedDepth: count,
    requiredDepth: count,
    state: z.literal('final'),
  }),
  proof: z.looseObject({ type: z.string() }),
  group: z.array(z.string()).min(1),
})

export type AnchorReceipt = z.infer<typeof anchorReceiptSchema>
export type Chain = AnchorReceipt['chain']
export type TimestampProof = z.infer<typeof timestampProofSchema>

/** What the verifying party trusts; each kind of proof reads its own part. */
export interface AnchorTrust {
  /** PEM certificates of time-stamping roots. */
  readonly tsaRoots: readonly string[]
}

/** The answer to "does this receipt hold?". Only `verified` is success. */
export type AnchorVerdict =
  | {
      readonly outcome: 'verified'
      readonly chain: Chain
      readonly network: string
      readonly root: string
      readonly txHash: string
      /** `anchorTs` in epoch ms: what the conflict law compares. */
      readonly anchoredAt: number
      /** Who would have to lie for this to be false, in one sentence. */
      readonly trust: string
      readonly checks: readonly string[]
    }
  /** The proof contradicts the receipt or itself. `check` names what failed. */
  | { readonly outcome: 'refuted'; readonly check: string; readonly reason: string }
  /** The proof may be sound, but leads to a root that the caller does not trust. */
  | { readonly outcome: 'untrusted'; readonly reason: string }
  | { readonly outcome: 'unsupported'; readonly reason: string }

type Verifier = (receipt: AnchorReceipt, trust: AnchorTrust) => Promise<AnchorVerdict>

/** By `chain`, then `proof.type`. Bitcoin and EVM proofs are added here. */
const verifiers: Partial<Record<Chain, Readonly<Record<string, Verifier>>>> = {
  TSA: { rfc3161: verifyTimestampReceipt },
}

/** Judges a receipt offline. Takes any value, throws only if the *trust* is unreadable (`bad-config`). */
export async function verifyAnchorReceipt(
  receipt: unknown,
  trust: AnchorTrust,
): Promise<AnchorVerdict> {
  const parsed = anchorReceiptSchema.safeParse(receipt)
  if (!parsed.success) return malformed(parsed.error)
  const { chain, proof } = parsed.data
  const known = verifiers[chain] ?? {}
  const verifier = Object.hasOwn(known, proof.type) ? known[proof.type] : undefined
  if (verifier === undefined) {
    const reason = `unsupported by this version: ${chain} proof of type ${proof.type.slice(0, 40)}`
    return { outcome: 'unsupported', reason }
  }
  return verifier(parsed.data, trust)
}

/** The receipt for a verified token; the one place that knows how a TSA receipt is written. */
export function timestampReceipt(input: {
  readonly root: Uint8Array
  readonly treeSize: number
  readonly network: string
  readonly token: Uint8Array
  readonly nonce: Uint8Array
  readonly verdict: TimestampVerdict
  readonly version: string
  readonly observedAt: number
}): AnchorReceipt & { readonly proof: TimestampProof } {
  const { verdict } = input
  return {
    root: `0x${toHex(input.root)}`,
    chain: 'TSA',
    network: input.network,
    blockNumber: null,
    verifier: `v${input.version}`,
    status: 'verified',
    treeSize: input.treeSize,
    observedAt: new Date(input.observedAt).toISOString(),
    ...stated(verdict),
    proof: {
      type: 'rfc3161',
      token: toBase64(input.token),
      nonce: toHex(input.nonce),
      ...statedInProof(verdict),
    },
  }
}

async function verifyTimestampReceipt(
  receipt: AnchorReceipt,
  trust: AnchorTrust,
): Promise<AnchorVerdict> {
  const parsed = timestampProofSchema.safeParse(receipt.proof)
  if (!parsed.success) return malformed(parsed.error)
  const proof = parsed.data
  const trustedRoots = trust.tsaRoots.filter((pem) => certificateSha256(pem) === proof.rootSha256)
  if (trustedRoots.length === 0) {
    return { outcome: 'untrusted', reason: `TSA root ${proof.rootSha256} is not pinned` }
  }
  let verdict: TimestampVerdict
  try {
    verdict = await verifyTimestamp({
      token: fromBase64(proof.token),
      root: hashFromHex(receipt.root.slice(2)),
      nonce: fromHex(proof.nonce),
      trustedRoots,
    })
  } catch (error) {
    if (!(error instanceof VaultMeshError) || error.code === 'bad-config') throw error
    const check = typeof error.extra['check'] === 'string' ? error.extra['check'] : error.code
    return { outcome: 'refuted', check, reason: error.message }
  }
  const derived = { ...stated(verdict), blockNumber: null, ...statedInProof(verdict) }
  const claimed: Readonly<Record<string, unknown>> = { ...receipt, ...proof }
  for (const [field, value] of Object.entries(derived)) {
    if (JSON.stringify(claimed[field], sorted) !== JSON.stringify(value, sorted)) {
      return { outcome: 'refuted', check: field, reason: `${field} is not what the token says` }
    }
  }
  const { network, root, txHash } = receipt
  const anchoredAt = verdict.genTime
  const trustLine = `Only the holder of a certificate under TSA root ${proof.rootSha256} could forge or back-date this.`
  const checks = [...verdict.checks, 'fields']
  const trusted = { chain: 'TSA', network, root, txHash, anchoredAt, trust: trustLine } as const
  return { outcome: 'verified', ...trusted, checks }
}

/** Receipt fields that a token determines. */
function stated(verdict: TimestampVerdict) {
  return {
    txHash: verdict.txHash,
    anchorTs: new Date(verdict.genTime).toISOString(),
    // A token is final when it is made: no chain, so no depth.
    finality: { observedDepth: 0, requiredDepth: 0, state: 'final' as const },
    group: [verdict.txHash],
  }
}

/** Proof fields that a token determines. */
function statedInProof(verdict: TimestampVerdict) {
  return {
    policy: verdict.policy,
    serial: verdict.serial,
    tsaCertSha256: verdict.signerSha256,
    rootSha256: verdict.rootSha256,
    accuracyMs: verdict.accuracyMs,
  }
}

/** JSON.stringify replacer: the order of keys in a receipt carries no meaning. */
function sorted(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
}

function malformed(error: z.ZodError): AnchorVerdict {
  const [issue] = error.issues
  const field = issue?.path.join('.') ?? ''
  const reason = `${field === '' ? 'receipt' : field}: ${issue?.message ?? 'malformed'}`
  return { outcome: 'refuted', check: 'shape', reason }
}
