/**
 * Receipts as files: JSON as the node serves it, or C2SP `.tlog-proof` text.
 *
 * A proof file holds less: nobody signed its `extra`, which names the event and carries anchors, each of which is
 * verified; without it the event's bytes must be at hand. It says nothing of id and source, so those are the
 * event's own. Reading verifies nothing.
 */

import { fromUtf8, hashFromHex, toHex, utf8 } from '#core/bytes.ts'
import { parseCheckpoint } from '#core/checkpoint.ts'
import { readEvent } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { formatProofFile, parseProofFile } from '#core/proof-file.ts'
import { parseReceipt, type Receipt } from '#core/receipt.ts'
import { sha256 } from '#core/sha256.ts'
import { parseNote } from '#core/signed-note.ts'

/** How a proof file begins, whatever its version. */
export const PROOF_MAGIC = 'c2sp.org/tlog-proof@'

/**
 * A receipt in either form; `event` is its JWS, if at hand. Throws `bad-receipt`, for a proof file also `bad-proof` or
 * `bad-note`; `extra.needs` is `event` where the event's bytes would help.
 */
export function readReceiptFile(bytes: Uint8Array, event?: Uint8Array): Receipt {
  const content = fromUtf8(bytes)
  return content.startsWith(PROOF_MAGIC) ? fromProofFile(content, event) : parseReceipt(content)
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

/** An event's bytes from a file: an editor ends a file with a newline, no JWS holds one, and intake drops it too. */
export function withoutNewline(bytes: Uint8Array): Uint8Array {
  let end = bytes.length
  while (end > 0 && (bytes[end - 1] === 0x0a || bytes[end - 1] === 0x0d)) end--
  return bytes.subarray(0, end)
}

function fromProofFile(content: string, event: Uint8Array | undefined): Receipt {
  const file = parseProofFile(content)
  const { origin, size, root } = parseCheckpoint(parseNote(file.checkpoint).text)
  const extra = file.extra === null ? {} : parseExtra(file.extra)
  const named =
    extra['eventHash'] ?? (event === undefined ? null : `sha256:${toHex(sha256(event))}`)
  if (named === null) {
    throw new VaultMeshError(
      'bad-receipt',
      'The proof file names no event: the event’s bytes are needed, too.',
      { extra: { needs: 'event' } },
    )
  }
  const own = event === undefined ? null : attributesOf(event)
  const { height = 1, anchors = [] } = extra
  return parseReceipt(
    JSON.stringify({
      v: 1,
      eventHash: named,
      eventId: own?.id ?? '',
      source: own?.source ?? '',
      status: 'sealed',
      origin,
      height,
      leafIndex: file.index,
      treeSize: size,
      root: `sha256:${toHex(root)}`,
      inclusionProof: file.proof.map(toHex),
      checkpoint: file.checkpoint,
      anchors,
    }),
  )
}

/** Another producer's `extra` is opaque: it then names nothing. */
function parseExtra(extra: Uint8Array): Readonly<Record<string, unknown>> {
  try {
    const value: unknown = JSON.parse(fromUtf8(extra))
    if (typeof value === 'object' && value !== null && 'v' in value && value.v === 1) {
      return value as unknown as Record<string, unknown>
    }
  } catch {
    // Not ours.
  }
  return {}
}

/** Null if the bytes are no event: verifyReceipt then says why. */
function attributesOf(event: Uint8Array): { readonly id: string; readonly source: string } | null {
  try {
    return readEvent(event)
  } catch {
    return null
  }
}
