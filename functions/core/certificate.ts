/**
 * X.509 certificates (RFC 5280) as far as a timestamp needs them: parse, verify one signature, and
 * build a path to a pinned root **at a given instant**.
 *
 * A path is leaf → issuers → root. Every issuer is a CA (basicConstraints) with keyCertSign, keeps its
 * pathLenConstraint (§6.1.4 m), is valid at that instant, and carries no critical extension this
 * file does not process (§4.2; name and policy constraints are therefore refused, not ignored).
 * Trust starts only at a listed certificate: an intermediate is an anchor only if it is listed
 * itself, and being self-signed means nothing. No revocation: CRL and OCSP need a network, and a
 * token's life is prolonged by anchoring it again, not by asking who is still alive.
 */

import { sha256 } from '@noble/hashes/sha2.js'
import { equal, fromBase64, toHex } from '#core/bytes.ts'
import type { Der } from '#core/der.ts'
import {
  Tag,
  bitOctets,
  booleanOf,
  children,
  context,
  expect,
  integerBytes,
  namedBits,
  oidOf,
  only,
  readDer,
  sequence,
  smallInteger,
  timeOf,
} from '#core/der.ts'
import { VaultMeshError } from '#core/errors.ts'

/** The fields we use. Names and keys stay DER: they are compared and imported, never shown. */
export interface Certificate {
  readonly der: Uint8Array
  readonly serial: Uint8Array
  readonly issuer: Uint8Array
  readonly subject: Uint8Array
  readonly notBefore: number
  readonly notAfter: number
  readonly publicKey: Uint8Array
  readonly subjectKeyId: Uint8Array | null
  readonly isCa: boolean
  readonly pathLength: number | null
  /** Bit numbers of RFC 5280 §4.2.1.3, or null if the extension is absent. */
  readonly keyUsage: ReadonlySet<number> | null
  readonly extendedKeyUsage: { readonly critical: boolean; readonly purposes: string[] } | null
  readonly signed: Signed
  /** Critical extensions that this file does not process. */
  readonly unprocessed: readonly string[]
}

/** Something signed: bytes, algorithm (hash name, if the algorithm fixes one) and signature. */
export interface Signed {
  readonly bytes: Uint8Array
  readonly algorithm: SignatureAlgorithm
  readonly signature: Uint8Array
}

interface SignatureAlgorithm {
  readonly family: 'rsa' | 'ecdsa' | 'unsupported'
  readonly hash: string | null
}

/** keyUsage bits (RFC 5280 §4.2.1.3). */
export const KeyUsage = { digitalSignature: 0, nonRepudiation: 1, keyCertSign: 5 } as const
/** id-kp-timeStamping (RFC 3161 §2.3). */
export const TIME_STAMPING = '1.3.6.1.5.5.7.3.8'

const ANY_PURPOSE = '2.5.29.37.0'
const SUBJECT_KEY_ID = '2.5.29.14'
const KEY_USAGE = '2.5.29.15'
const BASIC_CONSTRAINTS = '2.5.29.19'
const EXTENDED_KEY_USAGE = '2.5.29.37'
/** Processed above, or harmless here because no policy is demanded of a path (certificatePolicies). */
const PROCESSED = new Set([KEY_USAGE, BASIC_CONSTRAINTS, EXTENDED_KEY_USAGE, '2.5.29.32'])

const SIGNATURES: Readonly<Record<string, SignatureAlgorithm>> = {
  '1.2.840.113549.1.1.1': { family: 'rsa', hash: null },
  '1.2.840.113549.1.1.11': { family: 'rsa', hash: 'SHA-256' },
  '1.2.840.113549.1.1.12': { family: 'rsa', hash: 'SHA-384' },
  '1.2.840.113549.1.1.13': { family: 'rsa', hash: 'SHA-512' },
  '1.2.840.10045.4.3.2': { family: 'ecdsa', hash: 'SHA-256' },
  '1.2.840.10045.4.3.3': { family: 'ecdsa', hash: 'SHA-384' },
  '1.2.840.10045.4.3.4': { family: 'ecdsa', hash: 'SHA-512' },
}
/** Named curves: WebCrypto's name and the bytes of one coordinate. */
const CURVES: Readonly<Record<string, readonly [string, number]>> = {
  '1.2.840.10045.3.1.7': ['P-256', 32],
  '1.3.132.0.34': ['P-384', 48],
}
const RSA_KEY = '1.2.840.113549.1.1.1'
const EC_KEY = '1.2.840.10045.2.1'
/** Below 2048 bits RSA is forgeable within a receipt's life; above 8192 it only burns our CPU. */
const RSA_BITS = [2048, 8192] as const
/** Signature checks per path search: cross-signed bags must not make it exponential. */
const MAX_SIGNATURE_CHECKS = 24

/** The certificate in `der`. Throws `bad-timestamp` for what is not strict DER or has no known form. */
export function parseCertificate(der: Der): Certificate {
  const [tbs, algorithm, signature] = sequence(der, 'certificate')
  const fields = sequence(tbs, 'tbsCertificate')
  if (fields[0]?.tag === context(0)) fields.shift()
  const [serial, innerAlgorithm, issuer, validity, subject, publicKey, ...tail] = fields
  // RFC 5280 §4.1.1.2: the algorithm outside the signature must be the one inside it.
  if (!equal(expect(innerAlgorithm, Tag.sequence, 'signature').raw, algorithm!.raw)) {
    throw refuse('chain', 'a certificate names two signature algorithms')
  }
  const [notBefore, notAfter] = sequence(validity, 'validity')
  const extensions = parseExtensions(tail.find((field) => field.tag === context(3)))
  const constraints = extensions.get(BASIC_CONSTRAINTS)
  const [first, second] = constraints
    ? sequence(readDer(constraints.value), 'basicConstraints')
    : []
  const isCa = first?.tag === Tag.boolean && booleanOf(first, 'cA')
  const pathLength = isCa ? second : undefined
  const usage = extensions.get(KEY_USAGE)
  const purposes = extensions.get(EXTENDED_KEY_USAGE)
  const keyId = extensions.get(SUBJECT_KEY_ID)
  return {
    der: der.raw,
    serial: integerBytes(serial, 'serialNumber'),
    issuer: expect(issuer, Tag.sequence, 'issuer').raw,
    subject: expect(subject, Tag.sequence, 'subject').raw,
    notBefore: timeOf(notBefore, 'notBefore'),
    notAfter: timeOf(notAfter, 'notAfter'),
    publicKey: expect(publicKey, Tag.sequence, 'subjectPublicKeyInfo').raw,
    subjectKeyId: keyId
      ? expect(readDer(keyId.value), Tag.octetString, 'keyIdentifier').value
      : null,
    isCa,
    pathLength: pathLength === undefined ? null : smallInteger(pathLength, 'pathLenConstraint'),
    keyUsage: usage ? namedBits(readDer(usage.value), 'keyUsage') : null,
    extendedKeyUsage: purposes
      ? {
          critical: purposes.critical,
          purposes: sequence(readDer(purposes.value), 'extKeyUsage').map((p) =>
            oidOf(p, 'purpose'),
          ),
        }
      : null,
    signed: {
      bytes: tbs!.raw,
      algorithm: signatureAlgorithm(algorithm),
      signature: bitOctets(signature, 'signatureValue'),
    },
    unprocessed: [...extensions]
      .filter(([oid, { critical }]) => critical && !PROCESSED.has(oid))
      .map(([oid]) => oid),
  }
}

/** Every certificate of a PEM text (RFC 7468), e.g. one pinned root. Throws `bad-config`. */
export function certificatesFromPem(pem: string): Certificate[] {
  const blocks = [...pem.matchAll(/-----BEGIN CERTIFICATE-----([^-]*)-----END CERTIFICATE-----/g)]
  if (blocks.length === 0) throw new VaultMeshError('bad-config', 'No certificate in PEM form.')
  return blocks.map(([, body = '']) => {
    try {
      return parseCertificate(readDer(fromBase64(body.replaceAll(/\s/g, ''))))
    } catch (cause) {
      throw new VaultMeshError('bad-config', 'A PEM certificate cannot be read.', { cause })
    }
  })
}

/** Lowercase hex SHA-256 of the certificate in `pem`: what a trust list and the law document name. */
export function certificateSha256(pem: string): string {
  return fingerprint(certificatesFromPem(pem)[0]!)
}

/** End of validity of the certificate in `pem`, epoch ms: for an alert before the chain expires. */
export function certificateExpiry(pem: string): number {
  return certificatesFromPem(pem)[0]!.notAfter
}

/** Lowercase hex SHA-256 of the DER. */
export function fingerprint(certificate: Certificate): string {
  return toHex(sha256(certificate.der))
}

/** True if `at` lies in the validity period, both seconds included (RFC 5280 §4.1.2.5). */
export function isValidAt(certificate: Certificate, at: number): boolean {
  return certificate.notBefore <= at && Math.floor(at / 1000) * 1000 <= certificate.notAfter
}

/**
 * The path from `leaf` to one of `anchors`, both included, or a refusal with the nearest reason.
 * `bag` holds what the sender supplied: it may help to reach an anchor and can never be one.
 */
export async function pathToAnchor(search: {
  readonly leaf: Certificate
  readonly bag: readonly Certificate[]
  readonly anchors: readonly Certificate[]
  readonly at: number
}): Promise<Certificate[]> {
  const { leaf, at } = search
  if (!isValidAt(leaf, at)) throw refuse('chain', 'the signer was not valid at genTime')
  if (leaf.unprocessed.length > 0) {
    throw refuse('chain', `the signer has critical extensions: ${leaf.unprocessed.join(', ')}`)
  }
  const state = { checks: 0, reason: 'no issuer leads to a pinned root' }
  const path = await extend([leaf], search, state)
  if (path === null) throw refuse('chain', state.reason)
  return path
}

/** True if the key in `publicKey` (SubjectPublicKeyInfo DER) made this signature. */
export async function isSignedBy(signed: Signed, publicKey: Uint8Array): Promise<boolean> {
  const { algorithm, bytes } = signed
  if (algorithm.hash === null) throw refuse('signature', 'the algorithm is not supported')
  const [keyAlgorithm, keyBits] = sequence(readDer(publicKey), 'subjectPublicKeyInfo')
  const [keyType, parameters] = sequence(keyAlgorithm, 'key algorithm')
  const type = oidOf(keyType, 'key type')
  if (type !== (algorithm.family === 'rsa' ? RSA_KEY : EC_KEY)) return false
  if (type === EC_KEY) {
    const curve = CURVES[oidOf(parameters, 'namedCurve')]
    if (curve === undefined) throw refuse('signature', 'the curve is neither P-256 nor P-384')
    const signature = fixedWidth(signed.signature, curve[1])
    if (signature === null) return false
    return subtleVerify({
      key: publicKey,
      use: { name: 'ECDSA', namedCurve: curve[0] },
      hash: algorithm.hash,
      signature,
      bytes,
    })
  }
  const [modulus] = sequence(readDer(bitOctets(keyBits, 'key')), 'RSAPublicKey')
  const bits = integerBytes(modulus, 'modulus').length * 8
  // The leading zero octet of a positive INTEGER counts eight bits too many.
  if (bits < RSA_BITS[0] || bits > RSA_BITS[1] + 8) throw refuse('signature', `RSA of ${bits} bits`)
  return subtleVerify({
    key: publicKey,
    use: { name: 'RSASSA-PKCS1-v1_5' },
    hash: algorithm.hash,
    signature: signed.signature,
    bytes,
  })
}

/**
 * The signature algorithm of an AlgorithmIdentifier: RSA PKCS#1 v1.5 or ECDSA, with SHA-2, and
 * parameters NULL or absent (RFC 4055 §5, RFC 5758 §3.2). Any other is refused only when a signature
 * by it is to be checked: old roots are self-signed with SHA-1, and nobody checks that.
 */
export function signatureAlgorithm(der: Der | undefined): SignatureAlgorithm {
  const [oid, ...parameters] = sequence(der, 'signatureAlgorithm')
  const known = SIGNATURES[oidOf(oid, 'signature algorithm')]
  if (known === undefined || !isPlain(parameters)) return { family: 'unsupported', hash: null }
  return known
}

/** True if the parameters of an AlgorithmIdentifier are absent or NULL (X.690 §8.8). */
export function isPlain(parameters: readonly Der[]): boolean {
  const [first, ...rest] = parameters
  return (
    first === undefined || (first.tag === 0x05 && first.value.length === 0 && rest.length === 0)
  )
}

async function extend(
  path: readonly Certificate[],
  search: { bag: readonly Certificate[]; anchors: readonly Certificate[]; at: number },
  state: { checks: number; reason: string },
): Promise<Certificate[] | null> {
  const last = path.at(-1)!
  for (const anchors of [true, false]) {
    for (const issuer of anchors ? search.anchors : search.bag) {
      if (!equal(issuer.subject, last.issuer)) continue
      if (path.some((seen) => equal(seen.der, issuer.der))) continue
      const fault = issuerFault(issuer, path, search.at)
      if (fault !== null) {
        state.reason = fault
        continue
      }
      if (++state.checks > MAX_SIGNATURE_CHECKS) throw refuse('chain', 'too many candidate issuers')
      if (!(await isSignedBy(last.signed, issuer.publicKey))) {
        state.reason = 'a certificate is not signed by the issuer it names'
        continue
      }
      const longer = anchors ? [...path, issuer] : await extend([...path, issuer], search, state)
      if (longer !== null) return longer
    }
  }
  return null
}

/** Why `issuer` may not certify the last of `path` at that instant, or null. */
function issuerFault(issuer: Certificate, path: readonly Certificate[], at: number): string | null {
  if (!issuer.isCa) return 'an issuer is not a CA'
  // RFC 5280 §4.2.1.3: a conforming CA carries keyUsage, so its absence is refused as well.
  if (!issuer.keyUsage?.has(KeyUsage.keyCertSign)) return 'an issuer lacks keyCertSign'
  if (!isValidAt(issuer, at)) return 'an issuer was not valid at genTime'
  if (issuer.unprocessed.length > 0) {
    return `an issuer has critical extensions: ${issuer.unprocessed.join(', ')}`
  }
  const purposes = issuer.extendedKeyUsage?.purposes
  if (purposes && !purposes.includes(TIME_STAMPING) && !purposes.includes(ANY_PURPOSE)) {
    return 'an issuer is not for time stamping'
  }
  // §6.1.4 (l): self-issued certificates do not count, and neither does the leaf.
  const between = path.slice(1).filter((c) => !equal(c.issuer, c.subject)).length
  if (issuer.pathLength !== null && between > issuer.pathLength) return 'a path length is exceeded'
  return null
}

function parseExtensions(der: Der | undefined) {
  const found = new Map<string, { critical: boolean; value: Uint8Array }>()
  if (der === undefined) return found
  for (const extension of sequence(only(der, 'extensions'), 'extensions')) {
    const [id, ...rest] = sequence(extension, 'extension')
    const oid = oidOf(id, 'extnID')
    const critical = rest[0]?.tag === Tag.boolean && booleanOf(rest.shift(), 'critical')
    if (found.has(oid)) throw refuse('chain', `a certificate repeats extension ${oid}`)
    found.set(oid, { critical, value: expect(rest[0], Tag.octetString, 'extnValue').value })
  }
  return found
}

/** ECDSA-Sig-Value SEQUENCE { r, s } (RFC 3279 §2.2.3) → r ‖ s of fixed width, as WebCrypto wants. */
function fixedWidth(signature: Uint8Array, width: number): Uint8Array | null {
  const parts = children(expect(readDer(signature), Tag.sequence, 'ECDSA signature'))
  const out = new Uint8Array(2 * width)
  for (const [i, part] of parts.entries()) {
    const value = integerBytes(part, 'ECDSA signature')
    const digits = value[0] === 0 ? value.subarray(1) : value
    if (value[0]! >= 0x80 || digits.length > width || i > 1) return null
    out.set(digits, (i + 1) * width - digits.length)
  }
  return parts.length === 2 ? out : null
}

async function subtleVerify(input: {
  key: Uint8Array
  use: { name: string; namedCurve?: string }
  hash: string
  signature: Uint8Array
  bytes: Uint8Array
}): Promise<boolean> {
  // slice(): WebCrypto's types want views of a plain ArrayBuffer, ours may be views of anything.
  const { key, use, hash, signature, bytes } = input
  let imported: CryptoKey
  try {
    const algorithm = use.namedCurve === undefined ? { ...use, hash } : use
    imported = await crypto.subtle.importKey('spki', key.slice(), algorithm, false, ['verify'])
  } catch (cause) {
    throw refuse('signature', 'a public key is not usable', cause)
  }
  return crypto.subtle.verify({ ...use, hash }, imported, signature.slice(), bytes.slice())
}

/** The refusal of one named check. */
export function refuse(check: string, detail: string, cause?: unknown): VaultMeshError {
  return new VaultMeshError('bad-timestamp', `${check}: ${detail}.`, { cause, extra: { check } })
}

/** SHA-2 identifiers that digest fields may carry, to WebCrypto's names. */
export const DIGESTS: Readonly<Record<string, string>> = {
  '2.16.840.1.101.3.4.2.1': 'SHA-256',
  '2.16.840.1.101.3.4.2.2': 'SHA-384',
  '2.16.840.1.101.3.4.2.3': 'SHA-512',
}
