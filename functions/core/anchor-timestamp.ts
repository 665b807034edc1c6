/**
 * TSA receipts: an RFC 3161 token over the root (design §6). The token is the proof, the rest is what it says.
 */

import * as z from 'zod'
import {
  contradiction,
  count,
  hex64,
  malformed,
  refutedBy,
  type AnchorReceipt,
  type AnchorTrust,
  type AnchorVerdict,
} from '#core/anchor-receipt.ts'
import { fromBase64, fromHex, hashFromHex, toBase64, toHex } from '#core/bytes.ts'
import { certificateSha256 } from '#core/certificate.ts'
import type { TimestampVerdict } from '#core/timestamp-proof.ts'
import { verifyTimestamp } from '#core/timestamp-proof.ts'

/** RFC 3161 evidence. */
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

export type TimestampProof = z.infer<typeof timestampProofSchema>

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
    ...statedBy(verdict),
    proof: {
      type: 'rfc3161',
      token: toBase64(input.token),
      nonce: toHex(input.nonce),
      ...statedInProof(verdict),
    },
  }
}

/** Judges a TSA receipt: a token under a pinned root, judged at its own time. */
export async function verifyTimestampReceipt(
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
    return refutedBy(error)
  }
  const stated = { ...statedBy(verdict), blockNumber: null, ...statedInProof(verdict) }
  const wrong = contradiction(receipt, stated)
  if (wrong !== null) return wrong
  const { network, root, txHash } = receipt
  return {
    outcome: 'verified',
    chain: 'TSA',
    network,
    root,
    txHash,
    anchoredAt: verdict.genTime,
    // The token was made within it; an authority that names none vouches for the time as it is.
    slackMs: verdict.accuracyMs ?? 0,
    trust: `Only the holder of a certificate under TSA root ${proof.rootSha256} could forge or back-date this.`,
    checks: [...verdict.checks, 'fields'],
  }
}

/** Receipt fields that a token determines. */
function statedBy(verdict: TimestampVerdict) {
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
