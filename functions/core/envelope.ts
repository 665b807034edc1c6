/**
 * The signed event: a JWS in compact serialization (RFC 7515 §7.1) around a CloudEvent.
 *
 * The bytes as received are what is hashed, kept and given back; nothing is ever re-serialised.
 *   eventHash   = SHA-256(header.payload.signature)   the log entry
 *   signingHash = SHA-256(header.payload)             equal for two signatures of one statement
 * Opening is split from verifying, so that `respond-async` can route an event before it pays for the
 * signature; nothing but `verified` may ever reach the log.
 */

import { fromBase64Url, fromUtf8, type Hash } from '#core/bytes.ts'
import { parseCloudEvent, type CloudEvent } from '#core/cloud-event.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256, sha256Prefix2 } from '#core/sha256.ts'
import type { Signer, Signers } from '#core/signer.ts'
import { parseStrictJson } from '#core/strict-json.ts'
import { parseTime } from '#core/time.ts'

/** `typ` of an event's protected header. */
export const EVENT_TYP = 'vm-event+jws'
/** Largest JWS: the entry length field of tlog-tiles has 16 bits, and mirrors keep whole events. */
export const MAX_EVENT_BYTES = 65_535
/** How far an event's time may be ahead of the node's clock. */
export const MAX_AHEAD_MS = 300_000

/** A JWS taken apart, its payload checked, its signature not yet. */
export interface OpenEnvelope {
  readonly bytes: Uint8Array
  readonly eventHash: Hash
  readonly signingHash: Hash
  readonly event: CloudEvent
  readonly signer: Signer
  /** `header.payload`, a view into `bytes`. */
  readonly signingInput: Uint8Array
  readonly signature: Uint8Array
}

/** The clock rules of intake, all in milliseconds. */
export interface TimeWindow {
  readonly nowAt: number
  /** How far behind an event's time may be; 0 for any. */
  readonly maxAgeMs: number
}

const ascii = new TextDecoder('latin1')

/**
 * Takes a compact JWS apart and checks all but the signature and the clock.
 * Throws `event-too-large`, `bad-jws`, `bad-encoding`, `bad-header`, `bad-did`, `bad-event` or
 * `duplicate-key`.
 */
export async function openEnvelope(bytes: Uint8Array, signers: Signers): Promise<OpenEnvelope> {
  if (bytes.length > MAX_EVENT_BYTES) {
    throw new VaultMeshError(
      'event-too-large',
      `The JWS has ${bytes.length} bytes, the limit is ${MAX_EVENT_BYTES}.`,
      {
        extra: { limit: MAX_EVENT_BYTES },
      },
    )
  }
  const dot1 = bytes.indexOf(0x2e)
  const dot2 = dot1 < 0 ? -1 : bytes.indexOf(0x2e, dot1 + 1)
  if (dot2 < 0 || bytes.indexOf(0x2e, dot2 + 1) >= 0) {
    throw new VaultMeshError('bad-jws', 'A compact JWS has three parts joined by two dots.')
  }
  const text = ascii.decode(bytes)
  const signer = await signers.of(text.slice(0, dot1))
  const event = parseCloudEvent(
    parseStrictJson(fromUtf8(fromBase64Url(text.slice(dot1 + 1, dot2)))),
  )
  if (event.source !== signer.did) {
    throw new VaultMeshError(
      'bad-event',
      'CloudEvents: "source" is not the DID that kid names, byte for byte.',
    )
  }
  const signature = fromBase64Url(text.slice(dot2 + 1))
  const [signingHash, eventHash] = sha256Prefix2(bytes, dot2)
  return {
    bytes,
    eventHash,
    signingHash,
    event,
    signer,
    signingInput: bytes.subarray(0, dot2),
    signature,
  }
}

/** Checks the signature; throws `bad-signature`. */
export async function verifyEnvelope(open: OpenEnvelope): Promise<void> {
  if (!(await open.signer.verify(open.signingInput, open.signature))) {
    throw new VaultMeshError(
      'bad-signature',
      `The ${open.signer.alg} signature does not verify under kid.`,
    )
  }
}

/** Checks the event's time against the node's clock; throws `time-in-future` or `time-too-old`. */
export function checkTime(event: CloudEvent, window: TimeWindow): void {
  if (event.timeAt > window.nowAt + MAX_AHEAD_MS) {
    throw new VaultMeshError(
      'time-in-future',
      'The event is dated more than 300 s ahead of this node.',
      {
        extra: { limitSeconds: MAX_AHEAD_MS / 1000 },
      },
    )
  }
  if (window.maxAgeMs > 0 && event.timeAt < window.nowAt - window.maxAgeMs) {
    throw new VaultMeshError(
      'time-too-old',
      'The event is dated longer ago than this node accepts.',
      {
        extra: { limitSeconds: window.maxAgeMs / 1000 },
      },
    )
  }
}

/**
 * The attributes of an event already in the log, from its bytes: what the index is rebuilt from. Judges
 * nothing: what was admitted under the rules of its day must stay readable under those of any other.
 */
export function readEvent(bytes: Uint8Array): CloudEvent & { readonly eventHash: Hash } {
  const dot1 = bytes.indexOf(0x2e)
  const payload = fromBase64Url(
    ascii.decode(bytes.subarray(dot1 + 1, bytes.indexOf(0x2e, dot1 + 1))),
  )
  const event = JSON.parse(fromUtf8(payload)) as Readonly<Record<string, string | null | undefined>>
  return {
    id: String(event['id']),
    source: String(event['source']),
    type: String(event['type']),
    subject: event['subject'] ?? null,
    timeAt: parseTime(String(event['time'])) ?? 0,
    eventHash: sha256(bytes),
  }
}
