/**
 * Judges anchor receipts: one entry for each kind of proof.
 *
 * A kind that this version does not know is answered with `unsupported`, never with success. Runs the
 * same in Node, workerd and browsers.
 */

import { verifyBitcoinReceipt, verifyCalendarReceipt } from '#core/anchor-bitcoin.ts'
import { verifyEthereumReceipt } from '#core/anchor-ethereum.ts'
import {
  anchorReceiptSchema,
  malformed,
  type AnchorTrust,
  type AnchorVerdict,
  type AnchorVerifier,
  type Chain,
} from '#core/anchor-receipt.ts'
import { verifyTimestampReceipt } from '#core/anchor-timestamp.ts'

/** By `chain`, then `proof.type`. */
const verifiers: Readonly<Record<Chain, Readonly<Record<string, AnchorVerifier>>>> = {
  BTC: { 'bitcoin-tx': verifyBitcoinReceipt, opentimestamps: verifyCalendarReceipt },
  EVM: { 'evm-tx': verifyEthereumReceipt },
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
  const known = verifiers[chain]
  const verifier = Object.hasOwn(known, proof.type) ? known[proof.type] : undefined
  if (verifier === undefined) {
    const reason = `unsupported by this version: ${chain} proof of type ${proof.type.slice(0, 40)}`
    return { outcome: 'unsupported', reason }
  }
  return verifier(parsed.data, trust)
}
