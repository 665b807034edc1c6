/**
 * RFC 3161 §2.4: what we ask a Time-Stamping Authority, and how its answer is unpacked.
 *
 * The imprint is SHA-256(root), not the root itself, so that `openssl ts -verify -data root.bin`
 * and any other stock verifier start from the 32 root bytes. The request is 70 bytes of fixed shape,
 * hence written by hand; the nonce is passed in (this file has no randomness) and is a positive
 * INTEGER of minimal length, because DER allows no other and authorities echo what they parsed.
 */

import { sha256 } from '@noble/hashes/sha2.js'
import type { Hash } from '#core/bytes.ts'
import { concat, equal, fromHex } from '#core/bytes.ts'
import { Tag, children, namedBits, readDer, sequence, smallInteger } from '#core/der.ts'
import { VaultMeshError } from '#core/errors.ts'

/** SEQUENCE { OID id-sha256, NULL }, then the head of OCTET STRING (32). */
const IMPRINT_HEAD = fromHex('3031300d060960864801650304020105000420')
/** version INTEGER 1. */
const VERSION = fromHex('020101')
/** certReq BOOLEAN TRUE: a token without its certificates proves nothing in ten years. */
const CERT_REQ = fromHex('0101ff')
/** 16 random bytes are asked for; 32 is where a short-form length still holds everything. */
const NONCE_MAX = 32

/** PKIFailureInfo bits (RFC 3161 §2.4.2). */
const FAILURES: Readonly<Record<number, string>> = {
  0: 'badAlg',
  2: 'badRequest',
  5: 'badDataFormat',
  14: 'timeNotAvailable',
  15: 'unacceptedPolicy',
  16: 'unacceptedExtension',
  17: 'addInfoNotAvailable',
  25: 'systemFailure',
}
/** PKIStatus names, by value (RFC 3161 §2.4.2). */
const STATUSES = [
  'granted',
  'grantedWithMods',
  'rejection',
  'waiting',
  'revocationWarning',
  'revocationNotification',
]

/** DER of the TimeStampReq for `root`. `nonce`: 16 fresh random bytes. */
export function timestampRequest({
  root,
  nonce,
}: {
  readonly root: Hash
  readonly nonce: Uint8Array
}): Uint8Array {
  if (root.length !== 32) throw new VaultMeshError('bad-state', 'A root is 32 bytes.')
  if (nonce.length < 8 || nonce.length > NONCE_MAX) {
    throw new VaultMeshError('bad-state', `A nonce is 8 to ${NONCE_MAX} bytes.`)
  }
  const number = positiveInteger(nonce)
  const body = concat(
    VERSION,
    IMPRINT_HEAD,
    sha256(root),
    Uint8Array.of(Tag.integer, number.length),
    number,
    CERT_REQ,
  )
  return concat(Uint8Array.of(Tag.sequence, body.length), body)
}

/** True if `integer` (content octets of an INTEGER) is the number that `nonce` spells. */
export function isNonce(integer: Uint8Array, nonce: Uint8Array): boolean {
  return equal(integer, positiveInteger(nonce))
}

/** DER of the TimeStampToken inside a TimeStampResp. Throws `bad-timestamp` if none was granted. */
export function tokenFromResponse(response: Uint8Array): Uint8Array {
  const [status, token, ...rest] = sequence(readDer(response), 'TimeStampResp')
  const [number, ...details] = sequence(status, 'PKIStatusInfo')
  const code = smallInteger(number, 'PKIStatus')
  if (code > 1) {
    const name = STATUSES[code] ?? `status ${code}`
    const texts = details.filter((d) => d.tag === Tag.sequence).flatMap((d) => children(d))
    const bits = details.find((d) => d.tag === Tag.bitString)
    const failInfo = bits === undefined ? [] : [...namedBits(bits, 'PKIFailureInfo')]
    const failures = failInfo.map((bit) => FAILURES[bit] ?? `bit ${bit}`).join(', ')
    const said = texts.map((t) => printable(t.value)).join(' ')
    const why = [failures, said].filter((text) => text !== '').join('; ')
    throw new VaultMeshError(
      'bad-timestamp',
      `status: the authority answered ${name}${why === '' ? '' : ` (${why})`}.`,
      { extra: { check: 'status', pkiStatus: code, failInfo: failures, statusString: said } },
    )
  }
  if (token === undefined || token.tag !== Tag.sequence || rest.length > 0) {
    throw new VaultMeshError('bad-timestamp', 'status: granted, but without exactly one token.', {
      extra: { check: 'status' },
    })
  }
  return token.raw.slice()
}

/** Minimal two's complement of the unsigned number in `bytes` (X.690 §8.3.2). */
function positiveInteger(bytes: Uint8Array): Uint8Array {
  let start = 0
  while (start < bytes.length - 1 && bytes[start] === 0) start++
  const magnitude = bytes.subarray(start)
  return (magnitude[0] ?? 0) < 0x80 ? magnitude : concat(Uint8Array.of(0), magnitude)
}

/** At most 200 printable characters of a text that a stranger wrote and a log will show. */
function printable(text: Uint8Array): string {
  return new TextDecoder().decode(text.subarray(0, 200)).replaceAll(/[^\u0020-\u007e]/g, '?')
}
