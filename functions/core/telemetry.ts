/**
 * Telemetry: what a node says of its own health, once an interval (design §8). A JWS
 * `vm-telemetry+jws`, EdDSA by a current identity key of the node, with the claims `node_did, seq, ts,
 * interval_ms, expect, signals`.
 *
 * Two steps as in gossip.ts: `readTelemetry` checks size, shape and ranges, and what it returns is
 * `unverified`; the caller looks up who may speak; `verifyTelemetry` checks clock and signature.
 * `checkSequence` then puts it behind what the node said before. Numbers that pass are finite and in range.
 */

import * as z from 'zod'
import { fromBase64Url, fromUtf8, utf8 } from '#core/bytes.ts'
import { canonicalDid, parseDid } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import { signJws, type IdentityKey } from '#core/node-keys.ts'
import { parseHeader, Signers } from '#core/signer.ts'
import { parseStrictJson } from '#core/strict-json.ts'
import { isoTime, parseTime } from '#core/time.ts'

/** `typ` of telemetry. */
export const TELEMETRY_TYP = 'vm-telemetry+jws'
/** Largest telemetry, in bytes; an ordinary one has ≈ 1,200 (measured). */
export const MAX_TELEMETRY_BYTES = 8192
/** How far `ts` may be ahead of the reader's clock, in ms. */
export const MAX_AHEAD_MS = 60_000
/** How old `ts` may be, in ms. */
export const MAX_AGE_MS = 600_000

/** What a signal is. */
export interface SignalSpec {
  /** Events, counts and batches are whole numbers. */
  readonly unit: 'events/s' | 'ratio' | 's' | 'events' | 'count' | 'batches'
  readonly help: string
  readonly min: number
  readonly max: number
}

/** The names of the signals. */
export type SignalName =
  | 'intake_rate'
  | 'reject_ratio'
  | 'seal_latency_p50_s'
  | 'seal_latency_p95_s'
  | 'seal_retry_ratio'
  | 'queue_backlog'
  | 'dead_letters'
  | 'anchor_lag_btc_s'
  | 'anchor_lag_evm_s'
  | 'anchor_lag_tsa_s'
  | 'anchor_failure_ratio'
  | 'peer_agreement'
  | 'peer_lag'
  | 'checkpoint_age_s'

/** 1e10 s are 317 years: an age of an event that claims the year 1700. */
const age = { unit: 's', min: 0, max: 1e10 } as const
const ratio = { unit: 'ratio', min: 0, max: 1 } as const

/** Every signal, in the order in which vectors and pages have them. */
export const SIGNALS: Readonly<Record<SignalName, SignalSpec>> = {
  intake_rate: {
    unit: 'events/s',
    min: 0,
    max: 1e9,
    help: 'Events accepted a second in the interval.',
  },
  reject_ratio: {
    ...ratio,
    help: 'Refusals that the node is to blame for (overload, storage, its own errors) by these and accepted events of the interval; 0 when nothing came.',
  },
  seal_latency_p50_s: {
    ...age,
    help: 'From acceptance to seal, median of the batches sealed in the interval; null if none was.',
  },
  seal_latency_p95_s: {
    ...age,
    help: 'The same, 95th percentile.',
  },
  seal_retry_ratio: {
    ...ratio,
    help: 'Failed attempts to seal by all of the interval; null if there was none.',
  },
  queue_backlog: {
    unit: 'events',
    min: 0,
    max: 1e12,
    help: 'Events accepted and not sealed.',
  },
  dead_letters: {
    unit: 'count',
    min: 0,
    max: 1e9,
    help: 'Open dead letters.',
  },
  anchor_lag_btc_s: {
    ...age,
    help: 'Age of the oldest root that no Bitcoin anchor covers; 0 if none waits, null if the rail is off.',
  },
  anchor_lag_evm_s: { ...age, help: 'The same for the EVM rail.' },
  anchor_lag_tsa_s: { ...age, help: 'The same for time-stamping authorities.' },
  anchor_failure_ratio: {
    ...ratio,
    // The worst rail, and its last attempt: a rail that backs off for half an hour would else look well.
    help: 'Failed attempts to anchor by all, of the rail that does worst: those of the interval, or its last one if it made none; null before any.',
  },
  peer_agreement: {
    ...ratio,
    help: 'Peers that answer and stand on the same tips by the same law, by all peers; null without peers.',
  },
  peer_lag: {
    unit: 'batches',
    min: 0,
    max: 1e9,
    help: "Most batches of one peer's log that are known and not verified here; null without peers.",
  },
  checkpoint_age_s: {
    ...age,
    help: 'Age of the oldest accepted event that is not sealed; 0 if none waits.',
  },
}

/** The order of vectors. */
export const SIGNAL_NAMES = Object.keys(SIGNALS) as readonly SignalName[]

/** One value for each signal, in its unit; null where there is no such thing, or its source did not answer. */
export type Signals = Readonly<Record<SignalName, number | null>>

/** What a node promises of itself: scales are relative to it. */
export interface Expect {
  /** Seal interval, in seconds. */
  readonly seal_s: number
  /** Interval of the rail and its usual time to confirm, in seconds; absent if the rail is off. */
  readonly anchor_btc_s?: number | undefined
  readonly anchor_evm_s?: number | undefined
  readonly anchor_tsa_s?: number | undefined
  /** Events that may wait for their seal (INTAKE_BACKLOG_MAX). */
  readonly backlog: number
}

/** What a node says of one interval. */
export interface Telemetry {
  /** Canonical DID of the node. */
  readonly nodeDid: string
  /** Grows with every telemetry of the node. */
  readonly seq: number
  /** The interval's end, epoch ms. */
  readonly at: number
  readonly intervalMs: number
  readonly expect: Expect
  readonly signals: Signals
}

/** Telemetry of good shape. Anybody can have written it. */
export interface OpenedTelemetry {
  /** Canonical DID of the node that it claims to be from. */
  readonly nodeDid: string
  /** did:key of the key that it claims to be signed with. */
  readonly keyDid: string
  readonly unverified: Telemetry
  readonly header: string
  /** `header.payload`, over which the signature is. */
  readonly signingInput: string
  readonly signature: Uint8Array
}

/** Against what telemetry is verified. */
export interface TelemetryTrust {
  /** Epoch ms. */
  readonly nowAt: number
  /** Whether `keyDid` is a valid key of the opened telemetry's `nodeDid` at `nowAt`. */
  readonly isKey: (keyDid: string, nowAt: number) => boolean
}

/** A promise of time: 10 ms to 100 days. */
const promise = z.number().min(0.01).max(8_640_000)

const claimsSchema = z.strictObject({
  node_did: z.string(),
  seq: z.int().nonnegative(),
  ts: z.string().refine(isIsoMs, 'is not like 2026-11-23T05:36:00.000Z'),
  interval_ms: z.int().min(200).max(86_400_000),
  expect: z.strictObject({
    seal_s: promise,
    anchor_btc_s: promise.optional(),
    anchor_evm_s: promise.optional(),
    anchor_tsa_s: promise.optional(),
    backlog: z.int().min(1).max(1e9),
  }),
  signals: z.strictObject(
    Object.fromEntries(SIGNAL_NAMES.map((name) => [name, signalSchema(SIGNALS[name])])) as Record<
      SignalName,
      z.ZodType<number | null>
    >,
  ),
})

const ascii = new TextDecoder('latin1')
const PAYLOAD = { code: 'bad-telemetry', name: 'The telemetry' } as const
const LAGS = ['btc', 'evm', 'tsa'] as const
const signers = new Signers(TELEMETRY_TYP)

/** The JWS of `telemetry`. Throws `bad-telemetry` for what its reader would refuse. */
export async function signTelemetry(key: IdentityKey, telemetry: Telemetry): Promise<string> {
  const { nodeDid, seq, at, intervalMs, expect, signals } = telemetry
  const ts = Number.isFinite(at) && Math.abs(at) <= 8.64e15 ? isoTime(at) : 'no time'
  const claims = { node_did: nodeDid, seq, ts, interval_ms: intervalMs, expect, signals }
  checkClaims(claims)
  return signJws(key, TELEMETRY_TYP, claims)
}

/**
 * Size, shape and ranges of telemetry; the signature is not verified yet. Throws `body-too-large`,
 * `telemetry-unsigned` (plain JSON, `alg: none`, no signature) or `bad-telemetry`.
 */
export function readTelemetry(bytes: Uint8Array): OpenedTelemetry {
  if (bytes.length > MAX_TELEMETRY_BYTES) {
    throw new VaultMeshError(
      'body-too-large',
      `Telemetry has at most ${MAX_TELEMETRY_BYTES} bytes.`,
      { extra: { limit: MAX_TELEMETRY_BYTES } },
    )
  }
  const text = ascii.decode(bytes)
  if (/^\s*[{[]/.test(text)) throw unsigned('it is plain JSON')
  const parts = text.split('.', 4)
  const [header, payload, signature] = parts
  if (header === undefined || payload === undefined || parts.length > 3)
    throw bad('a compact JWS has three parts joined by two dots')
  if (signature === undefined || signature === '') throw unsigned('it has no signature')
  try {
    if (isAlgNone(header)) throw unsigned('its "alg" is none')
    const { alg, kid } = parseHeader(header, TELEMETRY_TYP)
    const key = parseDid(kid)
    if (alg !== 'EdDSA' || key.kind !== 'ed25519') throw bad('it is signed EdDSA by a did:key')
    const telemetry = checkClaims(parseStrictJson(fromUtf8(fromBase64Url(payload)), PAYLOAD))
    return {
      nodeDid: telemetry.nodeDid,
      keyDid: key.did,
      unverified: telemetry,
      header,
      signingInput: `${header}.${payload}`,
      signature: fromBase64Url(signature),
    }
  } catch (cause) {
    // One code for all that is malformed; what exactly is in the detail.
    if (!(cause instanceof VaultMeshError) || cause.code === 'telemetry-unsigned') throw cause
    throw new VaultMeshError('bad-telemetry', cause.message, { cause })
  }
}

/**
 * Verifies telemetry, cheapest check first. Throws `telemetry-future`, `telemetry-stale`, `unknown-peer`,
 * `bad-did` (a key that can sign nothing) or `bad-signature`. Whether it is a repeat: `checkSequence`.
 */
export async function verifyTelemetry(
  opened: OpenedTelemetry,
  { nowAt, isKey }: TelemetryTrust,
): Promise<Telemetry> {
  const { nodeDid, keyDid, unverified: telemetry } = opened
  const ts = isoTime(telemetry.at)
  if (telemetry.at > nowAt + MAX_AHEAD_MS) {
    const why = `${ts} is more than ${MAX_AHEAD_MS / 1000} s ahead of this node's clock`
    throw new VaultMeshError('telemetry-future', `The telemetry's "ts" ${why}.`)
  }
  if (telemetry.at < nowAt - MAX_AGE_MS) {
    const why = `${ts} is more than ${MAX_AGE_MS / 1000} s ago`
    throw new VaultMeshError('telemetry-stale', `The telemetry's "ts" ${why}.`)
  }
  if (!isKey(keyDid, nowAt))
    throw new VaultMeshError('unknown-peer', `kid is no valid key of a node ${nodeDid}.`)
  const signer = await signers.of(opened.header)
  if (!(await signer.verify(utf8(opened.signingInput), opened.signature)))
    throw new VaultMeshError('bad-signature', 'The telemetry is not signed by the key it names.')
  return telemetry
}

/**
 * That `next` comes after `last`, the newest telemetry that was taken of the node. Throws
 * `telemetry-replayed` (the same seq) or `telemetry-out-of-order` (a lower seq, or an earlier ts).
 */
export function checkSequence(
  last: Pick<Telemetry, 'seq' | 'at'> | null,
  next: Pick<Telemetry, 'seq' | 'at'>,
): void {
  if (last === null) return
  if (next.seq === last.seq)
    throw new VaultMeshError('telemetry-replayed', `Telemetry ${next.seq} was taken before.`)
  if (next.seq < last.seq) {
    const why = `Telemetry ${next.seq} comes after ${last.seq} was taken.`
    throw new VaultMeshError('telemetry-out-of-order', why)
  }
  if (next.at < last.at) {
    const why = `"ts" ${isoTime(next.at)} is before ${isoTime(last.at)} of telemetry ${last.seq}.`
    throw new VaultMeshError('telemetry-out-of-order', why)
  }
}

function signalSchema({ unit, min, max }: SignalSpec): z.ZodType<number | null> {
  const whole = unit === 'events' || unit === 'count' || unit === 'batches'
  return (whole ? z.int() : z.number()).min(min).max(max).nullable()
}

/** The telemetry that claims say. Throws `bad-telemetry`, or `bad-did` which the reader turns into it. */
function checkClaims(value: unknown): Telemetry {
  const parsed = claimsSchema.safeParse(value)
  if (!parsed.success) {
    const { path, message } = parsed.error.issues[0]!
    throw bad(path.length === 0 ? message : `"${path.join('.')}": ${message}`)
  }
  const { node_did: nodeDid, seq, ts, interval_ms: intervalMs, expect, signals } = parsed.data
  const { kind, did } = parseDid(nodeDid)
  if ((kind !== 'ed25519' && kind !== 'eip155') || did !== nodeDid)
    throw bad('"node_did" is no DID of a node')
  for (const rail of LAGS) {
    // A lag has no scale without the promise that it is measured against.
    if (signals[`anchor_lag_${rail}_s`] !== null && expect[`anchor_${rail}_s`] === undefined)
      throw bad(`"signals.anchor_lag_${rail}_s" needs "expect.anchor_${rail}_s"`)
  }
  return { nodeDid: canonicalDid(nodeDid), seq, at: parseTime(ts)!, intervalMs, expect, signals }
}

/** Our own form alone: one moment has one text. */
function isIsoMs(text: string): boolean {
  const at = parseTime(text)
  return at !== null && isoTime(at) === text
}

function isAlgNone(header: string): boolean {
  const value = parseStrictJson(fromUtf8(fromBase64Url(header)), PAYLOAD)
  if (typeof value !== 'object' || value === null) return false
  const alg = (value as { readonly [key: string]: unknown })['alg']
  return typeof alg === 'string' && alg.toLowerCase() === 'none'
}

function bad(why: string): VaultMeshError {
  return new VaultMeshError('bad-telemetry', `The telemetry is refused: ${why}.`)
}

function unsigned(why: string): VaultMeshError {
  return new VaultMeshError('telemetry-unsigned', `The telemetry is not signed: ${why}.`)
}
