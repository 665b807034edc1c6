/**
 * The files that a visitor gives: which is which, how large each may be, and whom a trust file trusts.
 *
 * Everything here is hostile until the core has read it. A file beyond its limit is not read at all.
 */

import { fromUtf8 } from '#core/bytes.ts'
import { MAX_EVENT_BYTES } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { PROOF_MAGIC } from '#core/receipt-file.ts'
import { checkPins, parseTrustFile, type TrustFile } from '#core/trust-file.ts'

/** What a file may be. */
export type Kind = 'receipt' | 'event' | 'trust'

/** Bytes read at most. A receipt has 10 kB; its format would allow 64 anchors of hundreds of kB each. */
export const LIMITS: Readonly<Record<Kind, number>> = {
  receipt: 4_194_304,
  // And the newline that an editor adds.
  event: MAX_EVENT_BYTES + 2,
  // Some hundred certificates.
  trust: 262_144,
}

/** How each is called. */
export const NAMES: Readonly<Record<Kind, string>> = {
  receipt: 'receipt',
  event: 'event',
  trust: 'trust file',
}

/** Why a file of `size` bytes is not read; null if it is. */
export function tooLarge(kind: Kind, size: number): string | null {
  if (size <= LIMITS[kind]) return null
  const has = `The file has ${bytesInWords(size)};`
  if (kind === 'event') return `${has} an event has ${MAX_EVENT_BYTES} bytes at most.`
  const limit = bytesInWords(LIMITS[kind])
  return `${has} of a ${NAMES[kind]} no more than ${limit} are read here. vaultmesh verify has no such limit.`
}

/** What a dropped file is, by its content; null for none of the three. */
export function kindOf(bytes: Uint8Array): Kind | null {
  let text: string
  try {
    text = fromUtf8(bytes).trim()
  } catch {
    return null
  }
  if (text.startsWith(PROOF_MAGIC)) return 'receipt'
  if (/^[\w-]+\.[\w-]+\.[\w-]+$/.test(text)) return 'event'
  if (text.startsWith('{'))
    return text.includes('"vkeys"') && !isReceipt(text) ? 'trust' : 'receipt'
  // The page waits for this: no more is looked at than could be read (a megabyte of almost-keys takes 250 ms, measured).
  const isTrust = text.includes(PEM_START) || linesOf(text.slice(0, LIMITS.trust)).some(isVkey)
  return isTrust ? 'trust' : null
}

function isReceipt(text: string): boolean {
  return text.includes('"inclusionProof"') && text.includes('"checkpoint"')
}

const VKEY = /^\S+\+[0-9a-f]{8}\+[A-Za-z0-9+/=]+$/
/** An origin of 255 bytes and a key; the pattern takes quadratic time for what is longer. */
const MAX_VKEY = 1024
const DID = /^did:key:z[1-9A-HJ-NP-Za-km-z]{1,256}$/
const PEM_START = '-----BEGIN CERTIFICATE-----'
const PEM = /-----BEGIN CERTIFICATE-----[^-]+-----END CERTIFICATE-----/g

/**
 * Whom a text trusts: a trust file, or keys of logs, `did:key`s of nodes and PEM certificates on lines of their own.
 * Throws `bad-config` or `bad-note` with words for people.
 */
export function readPins(text: string): TrustFile {
  const given = text.trim()
  if (given === '') return { vkeys: [], tsaRoots: [], nodeDids: [], rails: [] }
  if (given.startsWith('{')) return parseTrustFile(given)
  const tsaRoots = given.match(PEM) ?? []
  const lines = linesOf(given.replaceAll(PEM, ''))
  const nodeDids = lines.filter((line) => DID.test(line))
  const vkeys = lines.filter((line) => !DID.test(line))
  const odd = vkeys.find((line) => !isVkey(line))
  if (odd !== undefined) {
    throw new VaultMeshError(
      'bad-config',
      `“${odd.slice(0, 40)}” is no trust file, no key of a log (name+hex+base64), no did:key and no certificate.`,
    )
  }
  checkPins({ vkeys, tsaRoots })
  return { vkeys, tsaRoots, nodeDids, rails: [] }
}

function isVkey(line: string): boolean {
  return line.length <= MAX_VKEY && VKEY.test(line)
}

function linesOf(text: string): readonly string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '')
}

/** Bytes as people read them. */
function bytesInWords(n: number): string {
  if (n < 10_000) return `${n} bytes`
  return n < 1_000_000 ? `${Math.round(n / 1000)} kB` : `${(n / 1_000_000).toFixed(1)} MB`
}
