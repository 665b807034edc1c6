/**
 * Proof files: C2SP tlog-proof@v1, one text that proves offline that an entry is in a log.
 *
 *   c2sp.org/tlog-proof@v1\n
 *   [extra <base64>\n]            opaque and unauthenticated
 *   index <N>\n
 *   <base64 hash>\n ...           inclusion proof, leaf's sibling first; at most 63
 *   \n
 *   <checkpoint>                  a signed note, verbatim with all its (co)signatures
 *
 * The file does not hold the entry: whoever verifies brings the leaf hash, so a proof can never
 * vouch for an entry other than the one at hand. `formatProofFile(parseProofFile(x))` is `x`.
 */

import { fromBase64, fromUtf8, toBase64 } from '#core/bytes.ts'
import type { Hash } from '#core/bytes.ts'
import { parseDecimal, verifyCheckpoint } from '#core/checkpoint.ts'
import type { CheckpointTrust, VerifiedCheckpoint } from '#core/checkpoint.ts'
import { VaultMeshError } from '#core/errors.ts'
import { verifyInclusionProof } from '#core/inclusion-proof.ts'
import { HASH_BYTES } from '#core/merkle.ts'
import { MAX_NOTE_BYTES, parseNote } from '#core/signed-note.ts'

const MAGIC = 'c2sp.org/tlog-proof@v1'
/** A tree of 2^63 leaves has no longer path (tlog-witness caps its proofs at the same number). */
const MAX_HASHES = 63
/** The note, as much again for `extra`, and the hashes. */
const MAX_FILE_BYTES = 2 * MAX_NOTE_BYTES + 4096

export interface ProofFile {
  /** Opaque bytes nobody signed; null if there is no such line. */
  readonly extra: Uint8Array | null
  readonly index: number
  readonly proof: readonly Hash[]
  /** The signed note as it stands in the file. */
  readonly checkpoint: string
}

/** The text of a proof file. Throws `bad-proof` for what `parseProofFile` would refuse. */
export function formatProofFile({ extra, index, proof, checkpoint }: ProofFile): string {
  const lines = [MAGIC]
  if (extra !== null) lines.push(`extra ${toBase64(extra)}`)
  lines.push(`index ${index}`, ...proof.map(toBase64), '')
  const text = `${lines.join('\n')}\n${checkpoint}`
  parseProofFile(text)
  return text
}

/** Reads a proof file, strictly; verifies nothing. */
export function parseProofFile(file: Uint8Array | string): ProofFile {
  if (file.length > MAX_FILE_BYTES) {
    throw new VaultMeshError('bad-proof', `A proof file has at most ${MAX_FILE_BYTES} bytes.`)
  }
  const text = typeof file === 'string' ? file : asText(file)
  const split = text.indexOf('\n\n')
  if (split < 0) throw new VaultMeshError('bad-proof', 'The proof file has no empty line.')
  const [magic, ...lines] = text.slice(0, split).split('\n')
  if (magic !== MAGIC) throw new VaultMeshError('bad-proof', `The first line is not ${MAGIC}.`)

  const extraLine = lines[0]?.startsWith('extra ') === true ? lines.shift() : undefined
  const extra = extraLine === undefined ? null : decode(extraLine.slice('extra '.length), 'extra')
  const indexLine = lines.shift()
  if (indexLine?.startsWith('index ') !== true) {
    throw new VaultMeshError('bad-proof', 'The proof file has no index line.')
  }
  if (lines.length > MAX_HASHES) {
    throw new VaultMeshError('bad-proof', `A proof has at most ${MAX_HASHES} hashes.`)
  }
  const proof = lines.map((line, i) => {
    const hash = decode(line, `hash ${i}`)
    if (hash.length === HASH_BYTES) return hash
    throw new VaultMeshError('bad-proof', `Line hash ${i} does not hold 32 bytes.`)
  })
  const checkpoint = text.slice(split + 2)
  parseNote(checkpoint)
  return { extra, index: parseIndex(indexLine.slice('index '.length)), proof, checkpoint }
}

/** What to check a proof file against: the entry's leaf hash and whom to believe. */
export interface ProofFileClaim extends CheckpointTrust {
  readonly file: ProofFile | Uint8Array | string
  readonly leafHash: Uint8Array
}

/**
 * Verifies a proof file: the checkpoint against `log` and `witnesses`, then the inclusion of
 * `leafHash` in it. How many cosignatures are enough is the caller's policy.
 */
export async function verifyProofFile(
  claim: ProofFileClaim,
): Promise<VerifiedCheckpoint & { readonly index: number }> {
  const { file, leafHash } = claim
  const {
    index,
    proof,
    checkpoint: note,
  } = typeof file === 'string' || file instanceof Uint8Array ? parseProofFile(file) : file
  const verified = await verifyCheckpoint(note, claim)
  const { size, root } = verified.checkpoint
  verifyInclusionProof({ index, size, root, leafHash, proof })
  return { ...verified, index }
}

function asText(bytes: Uint8Array): string {
  try {
    return fromUtf8(bytes)
  } catch (cause) {
    throw new VaultMeshError('bad-proof', 'The proof file is not valid UTF-8.', { cause })
  }
}

function decode(base64: string, what: string): Uint8Array {
  try {
    return fromBase64(base64)
  } catch (cause) {
    throw new VaultMeshError('bad-proof', `Line ${what} is not canonical base64.`, { cause })
  }
}

function parseIndex(text: string): number {
  try {
    return parseDecimal(text)
  } catch (cause) {
    throw new VaultMeshError('bad-proof', 'The index is not a canonical decimal.', { cause })
  }
}
