/**
 * Submits a checkpoint of this log to a witness (C2SP tlog-witness v1.0.0, "add-checkpoint").
 *
 * A witness that cosigned another size than we know says so with 409; it is asked once more, from that
 * size. Bounded in time (both questions together) and size, redirects not followed, and nothing it says is
 * quoted. A cosignature counts only if the known key made it over this very checkpoint.
 *
 * Refusals, each with the witness's host in `extra`:
 *   overloaded    not reached, too late, too long, a redirect, or a status that says nothing of the request:
 *                 try later; with `size` if it kept changing its mind
 *   bad-request   the witness refused (400, 403, 404, 422; `status` says which): 422 may mean a fork
 *   no-such-size  it has cosigned more than this checkpoint; `size` says how much
 *   bad-note      what it answered is no cosignature, or no size
 *   bad-config    the URL is none, or the key is no key of a witness
 */

import {
  MAX_ADD_CHECKPOINT_BYTES,
  formatAddCheckpoint,
  ownSignatureOnly,
  readCosignatures,
} from '#core/add-checkpoint.ts'
import { fromUtf8, type Hash } from '#core/bytes.ts'
import { parseCheckpoint, parseDecimal } from '#core/checkpoint.ts'
import { VaultMeshError, type Code, type Extra } from '#core/errors.ts'
import { parseNote, type NoteSignature, type VerifierKey } from '#core/signed-note.ts'
import {
  boundedFetch,
  parseEndpoint,
  type Endpoint,
  type Fetch,
} from '../queues/anchors/bounded-fetch.ts'

/** A checkpoint and whom to show it. */
export interface Submission {
  readonly fetch: Fetch
  /** The submission prefix; of a node of ours `<node>/witness`. */
  readonly url: string
  readonly witness: VerifierKey
  /** A signed checkpoint; of its signatures only the log's own is sent. */
  readonly note: string
  readonly log: VerifierKey
  /** What the witness said it cosigned last; 0 if nothing is known. */
  readonly knownSize: number
  /** The consistency proof between two sizes, 0 < from < to. */
  readonly prove: (from: number, to: number) => Promise<readonly Hash[]>
  /** For all that the witness is asked. */
  readonly timeoutMs: number
}

/** What came of it; `size` is what the witness has cosigned now. */
export interface Submitted {
  readonly cosignatures: NoteSignature[]
  readonly size: number
}

/** Longest answer read: as long as a request may be. */
const MAX_ANSWER_BYTES = MAX_ADD_CHECKPOINT_BYTES
/** Statuses with a meaning in the spec. */
const STATUSES = [200, 400, 403, 404, 409, 422]
/** One from the size we know, one from the size it names. */
const MAX_ATTEMPTS = 2

/** Obtains the witness's cosignature of `note`. */
export async function submitCheckpoint(submission: Submission): Promise<Submitted> {
  const { url, note, log, knownSize, witness } = submission
  const endpoint = parseEndpoint(url, 'a witness')
  const own = ownSignatureOnly(note, log)
  const { text } = parseNote(own)
  const { size } = parseCheckpoint(text)
  const deadlineAt = Date.now() + submission.timeoutMs

  const ask = async (oldSize: number) => {
    const isProved = 0 < oldSize && oldSize < size
    const proof = isProved ? await submission.prove(oldSize, size) : []
    const body = formatAddCheckpoint({ oldSize, proof, note: own })
    return post(submission.fetch, endpoint, body, deadlineAt - Date.now())
  }

  let oldSize = Math.min(knownSize, size)
  for (let attempt = 1; ; attempt++) {
    const { status, body } = await ask(oldSize)
    if (status === 200) {
      return { cosignatures: await cosignaturesOf(body, text, witness, endpoint), size }
    }
    if (status !== 409) {
      throw refusal('bad-request', endpoint, `refused the checkpoint: HTTP ${status}`, { status })
    }
    const said = sizeOf(body, endpoint)
    const extra = { size: said }
    if (said > size) {
      throw refusal('no-such-size', endpoint, `has cosigned ${said} leaves, not ${size}`, extra)
    }
    if (said === oldSize) throw refusal('bad-note', endpoint, 'refuses the size that it names')
    if (attempt === MAX_ATTEMPTS) throw refusal('overloaded', endpoint, 'changes its size', extra)
    oldSize = said
  }
}

/** `boundedFetch`, whose attempts are anchors and whose code says so. */
async function post(fetch: Fetch, endpoint: Endpoint, body: Uint8Array, leftMs: number) {
  try {
    return await boundedFetch({
      fetch,
      endpoint,
      path: '/add-checkpoint',
      init: {
        method: 'POST',
        headers: { 'content-type': 'text/plain; charset=utf-8' },
        body: body.slice(),
      },
      statuses: STATUSES,
      maxBytes: MAX_ANSWER_BYTES,
      timeoutMs: Math.max(1, leftMs),
    })
  } catch (error) {
    if (!(error instanceof VaultMeshError) || error.code !== 'anchor-failed') throw error
    throw new VaultMeshError('overloaded', error.message, { extra: error.extra })
  }
}

/** The body of a 409: a decimal and a newline, nothing else. */
function sizeOf(body: Uint8Array, endpoint: Endpoint): number {
  try {
    const text = fromUtf8(body)
    if (text.endsWith('\n')) return parseDecimal(text.slice(0, -1))
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
  }
  throw refusal('bad-note', endpoint, 'answered HTTP 409 without a size')
}

async function cosignaturesOf(
  body: Uint8Array,
  text: string,
  witness: VerifierKey,
  endpoint: Endpoint,
): Promise<NoteSignature[]> {
  try {
    return await readCosignatures(body, text, witness)
  } catch (error) {
    if (!(error instanceof VaultMeshError) || error.code !== 'bad-note') throw error
    throw refusal('bad-note', endpoint, 'answered with no valid cosignature of its key')
  }
}

function refusal(code: Code, { name }: Endpoint, fault: string, extra: Extra = {}): VaultMeshError {
  return new VaultMeshError(code, `${name} ${fault}.`, { extra: { ...extra, host: name } })
}
