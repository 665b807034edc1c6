/**
 * A strict reader for DER (X.690 §8 and §10), just large enough for RFC 3161, RFC 5652 and RFC 5280.
 *
 * Strict, because `txHash` is a hash of what was read: indefinite and non-minimal lengths, padded
 * integers, multi-byte tags and trailing bytes are refused, so no second encoding of the same values
 * passes. Lazy, because a token comes from a stranger: an element is a view of the input, children
 * are cut only when asked for, nothing recurses and nothing is copied, so work and memory stay linear
 * in an input that is capped before it comes here (GHSA-4qg8-fj49-pxjh was the other way).
 *
 * Why not asn1js or pkijs: they read lenient BER, build the whole tree eagerly and weigh 67 and
 * 415 kB in a Worker and in the browser's verifier. This file weighs 3, the whole verifier with its
 * hashes 34 (measured, minified).
 */

import { VaultMeshError } from '#core/errors.ts'

/** One element: identifier octet, whole encoding, content. All are views of the input. */
export interface Der {
  readonly tag: number
  readonly raw: Uint8Array
  readonly value: Uint8Array
}

/** Universal identifier octets (X.690 §8.1.2; constructed where DER says so). */
export const Tag = {
  boolean: 0x01,
  integer: 0x02,
  bitString: 0x03,
  octetString: 0x04,
  oid: 0x06,
  utf8String: 0x0c,
  utcTime: 0x17,
  generalizedTime: 0x18,
  sequence: 0x30,
  set: 0x31,
} as const

/** Context-specific identifier octet: `[n]`, constructed unless `primitive` (X.690 §8.1.2.2). */
export function context(n: number, primitive = false): number {
  return (primitive ? 0x80 : 0xa0) | n
}

/** The single element that `bytes` hold; anything behind it is refused. */
export function readDer(bytes: Uint8Array): Der {
  const der = elementAt(bytes, 0)
  if (der.raw.length !== bytes.length) throw bad('bytes follow the end of the structure')
  return der
}

/** The elements inside a constructed one, in order. */
export function children(der: Der): Der[] {
  const out: Der[] = []
  for (let at = 0; at < der.value.length; at += out.at(-1)!.raw.length) {
    out.push(elementAt(der.value, at))
  }
  return out
}

/** `der`, if it is there and carries `tag`; else a refusal that names `what`. */
export function expect(der: Der | undefined, tag: number, what: string): Der {
  if (der === undefined || der.tag !== tag) throw bad(`${what} is missing or of another type`)
  return der
}

/** Children of a SEQUENCE. */
export function sequence(der: Der | undefined, what: string): Der[] {
  return children(expect(der, Tag.sequence, what))
}

/** The only child of an EXPLICIT wrapper. */
export function only(der: Der, what: string): Der {
  const [first, ...rest] = children(der)
  if (first === undefined || rest.length > 0) throw bad(`${what} does not hold exactly one element`)
  return first
}

/** Dotted text of an OBJECT IDENTIFIER (X.690 §8.19). */
export function oidOf(der: Der | undefined, what: string): string {
  const { value } = expect(der, Tag.oid, what)
  const arcs: bigint[] = []
  let arc = 0n
  for (let i = 0; i < value.length; i++) {
    const octet = value[i]!
    if (arc === 0n && octet === 0x80) throw bad(`${what} has a padded arc`)
    arc = (arc << 7n) | BigInt(octet & 0x7f)
    if (octet < 0x80) {
      arcs.push(arc)
      arc = 0n
    }
  }
  const [first, ...rest] = arcs
  if (first === undefined || value.at(-1)! >= 0x80) throw bad(`${what} is cut short`)
  const top = first < 80n ? first / 40n : 2n
  return [top, first - top * 40n, ...rest].join('.')
}

/** Content octets of an INTEGER, two's complement, minimal (X.690 §8.3.2). */
export function integerBytes(der: Der | undefined, what: string, tag: number = Tag.integer) {
  const { value } = expect(der, tag, what)
  const [a, b] = value
  if (a === undefined) throw bad(`${what} is empty`)
  if (b !== undefined && ((a === 0 && b < 0x80) || (a === 0xff && b >= 0x80))) {
    throw bad(`${what} is padded`)
  }
  return value
}

/** A non-negative INTEGER below 2³¹. */
export function smallInteger(
  der: Der | undefined,
  what: string,
  tag: number = Tag.integer,
): number {
  const value = integerBytes(der, what, tag)
  if (value[0]! >= 0x80 || value.length > 4) throw bad(`${what} is out of range`)
  return value.reduce((n, octet) => n * 256 + octet, 0)
}

/** A BOOLEAN; DER knows only 00 and FF (X.690 §11.1). */
export function booleanOf(der: Der | undefined, what: string): boolean {
  const { value } = expect(der, Tag.boolean, what)
  if (value.length !== 1 || (value[0] !== 0 && value[0] !== 0xff)) throw bad(`${what} is not DER`)
  return value[0] === 0xff
}

/** Octets of a BIT STRING without unused bits: a key or a signature. */
export function bitOctets(der: Der | undefined, what: string): Uint8Array {
  const { value } = expect(der, Tag.bitString, what)
  if (value[0] !== 0) throw bad(`${what} is not a whole number of octets`)
  return value.subarray(1)
}

/** Named bits of a BIT STRING as a set of positions, bit 0 first (X.690 §11.2.2). */
export function namedBits(der: Der | undefined, what: string): Set<number> {
  const { value } = expect(der, Tag.bitString, what)
  const unused = value[0]
  if (unused === undefined || unused > 7) throw bad(`${what} is not a bit string`)
  const bits = new Set<number>()
  for (let i = 0; i < (value.length - 1) * 8 - unused; i++) {
    if ((value[1 + (i >> 3)]! & (0x80 >> (i & 7))) !== 0) bits.add(i)
  }
  return bits
}

const TIME = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(?:\.(\d{1,9}))?Z$/

/**
 * Epoch milliseconds of a UTCTime or GeneralizedTime, floored. Always with seconds and `Z`, as
 * RFC 5280 §4.1.2.5 and RFC 3161 §2.4.2 demand; a fraction only with `fraction` (genTime).
 * A two-digit year below 50 is 20YY (RFC 5280 §4.1.2.5.1).
 */
export function timeOf(der: Der | undefined, what: string, fraction = false): number {
  const isUtc = der?.tag === Tag.utcTime
  const { value } = expect(der, isUtc ? Tag.utcTime : Tag.generalizedTime, what)
  const text = String.fromCharCode(...value.subarray(0, 32))
  const parts = TIME.exec(isUtc ? (text < '50' ? '20' : '19') + text : text)
  if (parts === null || (parts[7] !== undefined && (!fraction || isUtc))) {
    throw bad(`${what} is not a UTC time in DER`)
  }
  const [, year, month, day, hour, minute, second, rest = ''] = parts
  const date = `${year}-${month}-${day}T${hour}:${minute}:${second}.${rest.padEnd(3, '0').slice(0, 3)}Z`
  const at = Date.parse(date)
  // Date.parse accepts 30 February as 2 March and 24:00; only what prints back is a real time.
  if (Number.isNaN(at) || new Date(at).toISOString() !== date) throw bad(`${what} is no real time`)
  return at
}

function elementAt(bytes: Uint8Array, at: number): Der {
  const tag = bytes[at]
  const first = bytes[at + 1]
  if (tag === undefined || first === undefined) throw bad('the structure is cut short')
  if ((tag & 0x1f) === 0x1f) throw bad('a multi-byte tag has no place here')
  let length = first
  let head = 2
  if (first >= 0x80) {
    const octets = first & 0x7f
    if (octets === 0 || octets > 3) throw bad('a length is indefinite or absurd')
    length = 0
    for (let i = 0; i < octets; i++) length = length * 256 + (bytes[at + 2 + i] ?? 0)
    head += octets
    if (length < 0x80 || length < 256 ** (octets - 1)) throw bad('a length is not minimal')
  }
  const end = at + head + length
  if (end > bytes.length) throw bad('the structure is cut short')
  return { tag, raw: bytes.subarray(at, end), value: bytes.subarray(at + head, end) }
}

function bad(detail: string): VaultMeshError {
  return new VaultMeshError('bad-timestamp', `der: ${detail}.`, { extra: { check: 'der' } })
}
