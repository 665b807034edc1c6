/**
 * Logs that follow one another (design §7, "After a fork"): a node whose log has forked ends it and opens the
 * next one, under keys of its own.
 *
 * Log 1 is named by the operator, log n > 1 is `<first origin>/<n>`, so that a name says whose successor it is;
 * keys are `log/<n>` and `witness/<n>`. The first leaf of a successor is SHA-256 of its evidence file: an event
 * `vm.log.forked` of the node, with what the log's key signed twice. So nobody can open one without showing why,
 * and whoever reads the new log finds the fork at its beginning.
 */

import * as z from 'zod'
import { originSchema } from '#core/batch-manifest.ts'
import { EVENT_TYP, MAX_EVENT_BYTES } from '#core/envelope.ts'
import { signJws, type IdentityKey } from '#core/node-keys.ts'
import { isoTime } from '#core/time.ts'

/** `type` of the event that opens a successor. */
export const FORKED_TYPE = 'vm.log.forked'
/** Logs of one node: each is a fork that somebody had to look into. */
export const MAX_LOGS = 99
/** Rivals named in the evidence; each has up to 1,600 bytes, and four fifths of an event are its payload. */
const MAX_CANDIDATES = 16

/** A log that was ended, as the well-known file lists it. */
export interface PreviousLog {
  readonly origin: string
  readonly vkey: string
  /** `sha256:<hex>` of the evidence file: the first leaf of the log after it. */
  readonly evidence: string
}

/** PREVIOUS_LOGS: every log before this one, oldest first. */
export const previousLogsSchema = z
  .array(
    z.strictObject({
      origin: originSchema,
      vkey: z.string().min(1).max(512),
      evidence: z.string().regex(/^sha256:[0-9a-f]{64}$/, 'is not sha256:<64 hex digits>'),
    }),
  )
  .max(MAX_LOGS - 1)

/** The name of a node's log `number`. */
export function originOf(first: string, number: number): string {
  return number === 1 ? first : `${first}/${number}`
}

/** True if `origin` names a later log of the node whose log `known` is, by names alone. */
export function isLaterLog(origin: string, known: string): boolean {
  const later = split(origin)
  if (later.number === 1) return false
  const earlier = split(known)
  return later.first === known || (later.first === earlier.first && later.number > earlier.number)
}

function split(origin: string): { readonly first: string; readonly number: number } {
  const [, first, digits] = /^(.+)\/([2-9]|[1-9]\d)$/.exec(origin) ?? []
  return first === undefined ? { first: origin, number: 1 } : { first, number: Number(digits) }
}

/** One of the histories that a log's key signed. */
export interface ForkCandidate {
  /** `sha256:<hex>`, as the manifest has it. */
  readonly root: string
  readonly treeSize: number
  readonly manifest: string
  readonly checkpoint: string
}

/** What the evidence file says. */
export interface ForkEvidence {
  readonly origin: string
  /** The first height with two batches. */
  readonly height: number
  readonly candidates: readonly ForkCandidate[]
  /** Root of the canonical one; null while the law has not spoken. */
  readonly canonical: string | null
}

/** The evidence file: an event of the node, so that its hash can be a leaf. */
export async function signEvidence(
  key: IdentityKey,
  evidence: ForkEvidence,
  at: number,
): Promise<string> {
  for (let kept = Math.min(evidence.candidates.length, MAX_CANDIDATES); ; kept--) {
    const jws = await signJws(key, EVENT_TYP, {
      specversion: '1.0',
      // One evidence for one log: a second one is another event under the same identity, and refused.
      id: `${FORKED_TYPE}/${evidence.origin}`,
      source: key.did,
      type: FORKED_TYPE,
      subject: evidence.origin,
      time: isoTime(at),
      data: { ...evidence, candidates: evidence.candidates.slice(0, kept) },
    })
    if (jws.length <= MAX_EVENT_BYTES || kept <= 2) return jws
  }
}
