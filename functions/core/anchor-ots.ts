/**
 * OpenTimestamps files out of Bitcoin receipts, so that the stock `ots verify` checks them without us.
 *
 *   root   `<root>.BTC.<network>.ots`: digest = the log root        event  `<event>.ots`: digest = SHA-256 of the event
 *
 * OpenTimestamps knows one Bitcoin. A file from another network has the same attestation in it, so its name
 * must carry the network, and whoever serves it must say so: a stock client would look for the height on
 * mainnet and refuse.
 */

import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { fromBase64, fromHex, hashFromHex, type Hash } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  bitcoinOperations,
  emitOts,
  extendTimestamp,
  inclusionOperations,
  linearTimestamp,
  mergeTimestamps,
  parseOts,
  type Timestamp,
} from '#core/opentimestamps.ts'
import { bitcoinProofSchema, calendarProofSchema } from '#core/anchor-bitcoin.ts'

/** A receipt in Bitcoin and the way from an event's leaf to the root it anchors. */
export interface EventAnchor {
  readonly receipt: AnchorReceipt
  /** Inclusion proof in the tree of `receipt.treeSize` leaves. */
  readonly proof: readonly Hash[]
}

/** The `.ots` of a root, 300 bytes to some kB. Throws `bad-proof` for a receipt that is not of Bitcoin. */
export function rootOts(receipt: AnchorReceipt): Uint8Array {
  return emitOts(timestampOf(receipt))
}

/** The `.ots` of an event, with every anchor in it. Throws `bad-proof` if a path does not lead to its root. */
export function eventOts(
  eventHash: Hash,
  leafIndex: number,
  anchors: readonly EventAnchor[],
): Uint8Array {
  const [first, ...rest] = anchors.map(({ receipt, proof }) => {
    const inclusion = { index: leafIndex, size: receipt.treeSize, proof: [...proof] }
    return extendTimestamp(eventHash, inclusionOperations(inclusion), timestampOf(receipt))
  })
  if (first === undefined) {
    throw new VaultMeshError('bad-proof', 'ots: there is no anchor.', { extra: { check: 'ots' } })
  }
  return emitOts(mergeTimestamps(first, ...rest))
}

/** From the root to the block. */
function timestampOf(receipt: AnchorReceipt): Timestamp {
  const root = hashFromHex(receipt.root.slice(2))
  const calendar = calendarProofSchema.safeParse(receipt.proof)
  if (calendar.success) return parseOts(fromBase64(calendar.data.ots))
  const own = bitcoinProofSchema.safeParse(receipt.proof)
  const { blockNumber: height } = receipt
  if (!own.success || height === null) {
    throw new VaultMeshError('bad-proof', 'ots: the receipt is not of Bitcoin.', {
      extra: { check: 'ots' },
    })
  }
  const { rawTx, branch, position } = own.data
  const path = { rawTx: fromHex(rawTx), branch: branch.map(hashFromHex), position, height }
  return linearTimestamp(root, bitcoinOperations(root, path), { type: 'bitcoin', height })
}
