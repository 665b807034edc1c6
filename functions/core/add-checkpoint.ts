/**
 * The wire of C2SP tlog-witness v1.0.0, "add-checkpoint", and what a witness answers to it.
 *
 *   request: old <size>\n (<base64 hash>\n){0,63} \n <checkpoint, a signed note>
 *   200: (— <name> <base64>\n)+     409: <size last cosigned>\n as text/x.tlog.size
 *
 * The checks come in the order of the spec's text: form 400, origin 404, the log's signature 403, old
 * size above size 400, old size other than last cosigned 409, proof and roots 422. Invariant: what is
 * judged `cosign` is never smaller than the latest and has its root if it is as large; so a witness
 * that stores what it cosigns, one after another, never shrinks and has one root a size.
 */

import { equal, fromBase64, fromUtf8, toBase64, utf8, type Hash } from '#core/bytes.ts'
import { parseCheckpoint, type Checkpoint } from '#core/checkpoint.ts'
import { verifyConsistencyProof } from '#core/consistency-proof.ts'
import { VaultMeshError, type Code } from '#core/errors.ts'
import { emptyRoot, HASH_BYTES } from '#core/merkle.ts'
import {
  TYPE_COSIGNATURE,
  TYPE_ED25519,
  formatNote,
  formatSignature,
  parseNote,
  parseSignatures,
  verifyNote,
  type NoteSignature,
  type SignedNote,
  type VerifierKey,
} from '#core/signed-note.ts'

/**
 * Bytes in a request: 64 KiB. 63 proof lines are 63 × 45 = 2,835; the 16 signatures that signed-note asks
 * for are 16 × ≈ 3.4 kB = 54 kB if all are ML-DSA-44. Others take less (omniwitness 16 KiB), so who
 * submits sends `ownSignatureOnly`.
 */
export const MAX_ADD_CHECKPOINT_BYTES = 65_536
/** Lines of a proof: a tree of 2^63 leaves needs no more (tlog-witness, "add-checkpoint"). */
export const MAX_PROOF_LINES = 63
/** Content type of a 409, whose body is a size. */
export const SIZE_TYPE = 'text/x.tlog.size'
/** Content type of everything else. */
export const TEXT_TYPE = 'text/plain; charset=utf-8'

/** Bytes of the time before a cosignature (tlog-cosignature, "Format"). */
const TIME_BYTES = 8

/** What a log asks of a witness. */
export interface AddCheckpoint {
  /** Size of the checkpoint that the witness cosigned last, as the log knows it. */
  readonly oldSize: number
  /** From `oldSize` to the checkpoint's size (RFC 6962 §2.1.2); empty if `oldSize` is 0. */
  readonly proof: readonly Hash[]
  /** The checkpoint as a signed note. */
  readonly note: string
}

/** A request that was read: its note is a checkpoint, whose signatures are not verified. */
export interface AddCheckpointRequest extends AddCheckpoint {
  readonly signed: SignedNote
  readonly checkpoint: Checkpoint
}

/** A tree that a witness has cosigned. */
export interface CosignedTree {
  readonly size: number
  readonly root: Hash
}

/** The checkpoint may be cosigned, if the latest is still the one that it was judged by. */
export interface Cosign {
  readonly kind: 'cosign'
  readonly checkpoint: Checkpoint
  /** What a cosignature signs. */
  readonly text: string
}

export interface Refusal {
  readonly kind: 'refuse'
  readonly status: 400 | 403 | 404 | 409 | 422
  readonly body: string
  readonly contentType: string
  /** What was wrong, in a sentence. */
  readonly reason: string
  /**
   * The log signed another root at the very size that this witness cosigned last: evidence of a fork,
   * whichever check refused the request.
   */
  readonly rival: boolean
}

export type Judgement = Cosign | Refusal

/** Reads a request, strictly; throws `bad-body`, `bad-encoding`, `bad-note` or `body-too-large`. */
export function parseAddCheckpoint(body: Uint8Array): AddCheckpointRequest {
  if (body.length > MAX_ADD_CHECKPOINT_BYTES) {
    throw new VaultMeshError(
      'body-too-large',
      `The request has more than ${MAX_ADD_CHECKPOINT_BYTES} bytes.`,
      { extra: { limit: MAX_ADD_CHECKPOINT_BYTES } },
    )
  }
  const text = fromUtf8(body)
  const split = text.indexOf('\n\n')
  if (split < 0) throw new VaultMeshError('bad-body', 'The request has no empty line.')
  const [first = '', ...lines] = text.slice(0, split).split('\n')
  const digits = /^old (0|[1-9][0-9]{0,15})$/.exec(first)?.[1]
  if (digits === undefined || !Number.isSafeInteger(Number(digits))) {
    throw new VaultMeshError('bad-body', 'The first line is not "old <size>", a size below 2^53.')
  }
  if (lines.length > MAX_PROOF_LINES) {
    throw new VaultMeshError('bad-body', `The proof has more than ${MAX_PROOF_LINES} lines.`)
  }
  const proof = lines.map(parseHash)
  const note = text.slice(split + 2)
  const signed = parseNote(note)
  const checkpoint = parseCheckpoint(signed.text)
  return { oldSize: Number(digits), proof, note, signed, checkpoint }
}

/** The body of a request. Throws for what `parseAddCheckpoint` would refuse. */
export function formatAddCheckpoint({ oldSize, proof, note }: AddCheckpoint): Uint8Array {
  const lines = proof.map((hash) => `${toBase64(hash)}\n`).join('')
  const body = utf8(`old ${oldSize}\n${lines}\n${note}`)
  parseAddCheckpoint(body)
  return body
}

/**
 * What a witness answers. `log` is the key it trusts for the origin, null if it knows none; `latest` is
 * what it cosigned last for the origin. Throws `bad-config` if `log` cannot sign checkpoints.
 */
export async function judgeCheckpoint(question: {
  readonly request: AddCheckpointRequest
  readonly log: VerifierKey | null
  readonly latest: CosignedTree | null
}): Promise<Judgement> {
  const { request, log, latest } = question
  const { checkpoint, oldSize, proof, signed } = request
  const { size, root } = checkpoint
  if (log === null) return refuse(404, 'This witness does not know the origin.')
  if (log.type !== TYPE_ED25519) {
    throw new VaultMeshError('bad-config', `The log key ${log.name} is not of type 0x01.`)
  }
  // A trusted key whose signature fails makes the note malformed, which here is 403 as well.
  const fault = await faultOf(['bad-note', 'untrusted-key'], () => verifyNote(signed, [log]))
  if (fault !== null) return refuse(403, fault)

  // From here on it is the log that speaks.
  const rival = latest !== null && latest.size === size && !equal(latest.root, root)
  if (oldSize > size) return refuse(400, `The old size ${oldSize} is above ${size}.`, rival)
  const known = latest?.size ?? 0
  if (oldSize !== known) {
    const reason = `The size cosigned last is ${known}, not ${oldSize}.`
    return { ...refuse(409, reason, rival), body: `${known}\n`, contentType: SIZE_TYPE }
  }
  // Of equal sizes it demands equal roots, of size 0 the empty root, from size 0 an empty proof.
  const claim = {
    size1: oldSize,
    size2: size,
    root1: latest?.root ?? emptyRoot,
    root2: root,
    proof,
  }
  const wrong = await faultOf(['bad-proof'], async () => verifyConsistencyProof(claim))
  if (wrong !== null) return refuse(422, wrong, rival)
  return { kind: 'cosign', checkpoint, text: signed.text }
}

/** The answer to a body that `parseAddCheckpoint` refused with `error`. */
export function malformed(error: VaultMeshError): Refusal {
  return refuse(400, error.message)
}

/** The body of a 200. Throws `bad-note` without a cosignature, or for one that says no time. */
export function cosignatureLines(cosignatures: readonly NoteSignature[]): string {
  if (cosignatures.length === 0) {
    throw new VaultMeshError('bad-note', 'A witness answers with one cosignature at least.')
  }
  if (!cosignatures.every(saysTime)) {
    throw new VaultMeshError('bad-note', 'The time of a cosignature of a checkpoint is never 0.')
  }
  return cosignatures.map(formatSignature).join('')
}

/**
 * The cosignature in a witness's answer: of the lines by the known key that verify over the checkpoint's
 * `text` the latest, so at most one however many are sent. Lines of other keys are passed over. Throws
 * `bad-note` if none is left, `bad-config` if `witness` is no key of a witness.
 */
export async function readCosignatures(
  body: Uint8Array,
  text: string,
  witness: VerifierKey,
): Promise<NoteSignature[]> {
  if (witness.type !== TYPE_COSIGNATURE) {
    throw new VaultMeshError('bad-config', `The witness key ${witness.name} is not of type 0x04.`)
  }
  const lines = parseSignatures(body).filter((line) => isOf(line, witness))
  const found: NoteSignature[] = []
  // A time of 0 is none.
  let newest = 0
  for (const line of lines) {
    const timestamp = await timeOf({ text, signatures: [line] }, witness)
    if (timestamp <= newest) continue
    newest = timestamp
    found.splice(0, 1, line)
  }
  if (found.length === 0) {
    throw new VaultMeshError('bad-note', `No cosignature of ${witness.name} verifies.`)
  }
  return found
}

/**
 * `note` with the first signature of the log's key alone: what a witness needs, small enough for all of
 * them. Verifies nothing; throws `untrusted-key` if the log did not sign.
 */
export function ownSignatureOnly(note: string, log: VerifierKey): string {
  const { text, signatures } = parseNote(note)
  const own = signatures.find((signature) => isOf(signature, log))
  if (own === undefined) {
    throw new VaultMeshError('untrusted-key', `The log ${log.name} did not sign this checkpoint.`)
  }
  return formatNote({ text, signatures: [own] })
}

function parseHash(line: string, i: number): Hash {
  const hash = fromBase64(line)
  if (hash.length === HASH_BYTES) return hash
  throw new VaultMeshError('bad-body', `Hash ${i} of the proof has ${hash.length} bytes, not 32.`)
}

function refuse(status: Refusal['status'], reason: string, rival = false): Refusal {
  return {
    kind: 'refuse',
    status,
    body: `${reason}\n`,
    contentType: TEXT_TYPE,
    reason,
    rival,
  }
}

/** The message of one of `codes` that `check` threw, or null if it passed. */
async function faultOf(
  codes: readonly Code[],
  check: () => Promise<unknown>,
): Promise<string | null> {
  try {
    await check()
    return null
  } catch (error) {
    if (error instanceof VaultMeshError && codes.includes(error.code)) return error.message
    throw error
  }
}

/** Seconds of the one cosignature of `note`; 0 if it does not verify. */
async function timeOf(note: SignedNote, witness: VerifierKey): Promise<number> {
  try {
    const [found] = await verifyNote(note, [witness])
    return found?.timestamp ?? 0
  } catch (error) {
    if (error instanceof VaultMeshError && error.code === 'bad-note') return 0
    throw error
  }
}

function isOf(signature: NoteSignature, key: VerifierKey): boolean {
  return signature.name === key.name && signature.keyId === key.keyId
}

function saysTime({ signature }: NoteSignature): boolean {
  return signature.subarray(0, TIME_BYTES).some((byte) => byte !== 0)
}
