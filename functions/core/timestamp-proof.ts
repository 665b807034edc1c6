/**
 * RFC 3161 timestamp token → verdict: "this authority said it saw this root at genTime".
 *
 * Every check of RFC 3161 §2.4.2, RFC 5652 §5.4 and §5.6, RFC 5035 (ESSCertID) and RFC 5280 that an
 * attacker could profit from is made, in an order that starts cheap; each refusal names its check.
 * Time is never asked for: the chain is judged **at genTime**, so a token keeps its verdict after
 * its certificates expire, and the same bytes give the same verdict on every node, for ever.
 *
 * What is *not* authenticated, by the format's design: certificates outside the path, CRLs and
 * unsigned attributes; and an ECDSA signature has a twin (r, n − s). So `txHash` names these token
 * bytes, not the only bytes that could prove the same. genTime, imprint, nonce, policy and serial
 * cannot be moved. The field `tsa` repeats the signer's name and is not read.
 */

import { sha1 } from '@noble/hashes/legacy.js'
import { sha256, sha384, sha512 } from '@noble/hashes/sha2.js'
import type { Hash } from '#core/bytes.ts'
import { concat, equal, toHex } from '#core/bytes.ts'
import type { Certificate } from '#core/certificate.ts'
import {
  DIGESTS,
  KeyUsage,
  TIME_STAMPING,
  certificatesFromPem,
  fingerprint,
  isPlain,
  isSignedBy,
  parseCertificate,
  pathToAnchor,
  refuse,
  signatureAlgorithm,
} from '#core/certificate.ts'
import type { Der } from '#core/der.ts'
import {
  Tag,
  booleanOf,
  children,
  context,
  expect,
  integerBytes,
  oidOf,
  only,
  readDer,
  sequence,
  smallInteger,
  timeOf,
} from '#core/der.ts'
import { isNonce } from '#core/timestamp-request.ts'

export { certificateExpiry, certificateSha256 } from '#core/certificate.ts'

/** What a verified token says, and who said it. */
export interface TimestampVerdict {
  /** Epoch ms, finer digits floored. */
  readonly genTime: number
  /** Lowercase hex SHA-256 of the token's DER. */
  readonly txHash: string
  readonly policy: string
  /** Lowercase hex of the serial number's octets. */
  readonly serial: string
  /** The authority's own error bound, rounded up; null if it claims none. */
  readonly accuracyMs: number | null
  readonly signerSha256: string
  readonly rootSha256: string
  /** When the first certificate of the path ends, epoch ms: from then on the authority needs another. */
  readonly chainExpiresAt: number
  /** Checks passed, in order. */
  readonly checks: readonly string[]
}

/** What to hold a token against. */
export interface TimestampExpectation {
  readonly token: Uint8Array
  /** The nonce we sent; a token without one then fails (sigstore PR 1405). */
  readonly nonce?: Uint8Array
  /** Allowed TSA policy OIDs; any if absent. */
  readonly policies?: readonly string[]
  /** PEM certificates that trust starts from. */
  readonly trustedRoots: readonly string[]
  readonly maxBytes?: number
}

/** A token with its chain is 2–7 kB; 64 kB is generous and bounds all work below. */
export const DEFAULT_MAX_TOKEN_BYTES = 65_536
/** Leaf, a few issuers, a root, some cross-signed: more is an attempt to keep us busy. */
const MAX_CERTIFICATES = 10

const SIGNED_DATA = '1.2.840.113549.1.7.2'
const TST_INFO = '1.2.840.113549.1.9.16.1.4'
const SHA_256 = '2.16.840.1.101.3.4.2.1'
const CONTENT_TYPE = '1.2.840.113549.1.9.3'
const MESSAGE_DIGEST = '1.2.840.113549.1.9.4'
const SIGNING_CERTIFICATE = '1.2.840.113549.1.9.16.2.12'
const SIGNING_CERTIFICATE_V2 = '1.2.840.113549.1.9.16.2.47'

const HASHES: Readonly<Record<string, (bytes: Uint8Array) => Uint8Array>> = {
  'SHA-256': sha256,
  'SHA-384': sha384,
  'SHA-512': sha512,
}

/** Verifies a token for the 32-byte log root. Throws `bad-timestamp` naming the check that failed. */
export async function verifyTimestamp({
  root,
  ...expected
}: TimestampExpectation & { readonly root: Hash }): Promise<TimestampVerdict> {
  if (root.length !== 32) throw refuse('imprint', 'a root is 32 bytes')
  return verifyTimestampToken({ ...expected, imprint: sha256(root) })
}

/** The same for any SHA-256 imprint: foreign tokens, and the corpus of real ones. */
export async function verifyTimestampToken(
  expected: TimestampExpectation & { readonly imprint: Hash },
): Promise<TimestampVerdict> {
  const { token, maxBytes = DEFAULT_MAX_TOKEN_BYTES } = expected
  const checks: string[] = []
  const need = (check: string, holds: boolean, otherwise: string) => {
    if (!holds) throw refuse(check, otherwise)
    if (checks.at(-1) !== check) checks.push(check)
  }

  need('size', token.length <= maxBytes, `${token.length} bytes, at most ${maxBytes} are read`)
  const cms = parseSignedData(token)
  need('certificates', cms.certificates.length > 0, 'the token carries none')
  need('signer', cms.signerInfos.length === 1, `${cms.signerInfos.length} signers, not exactly one`)
  const info = parseTstInfo(cms.content)
  const signer = parseSignerInfo(cms.signerInfos[0]!)

  // RFC 5652 §5.1 lets us insist on it; it leaves no byte of the path's framing free to be altered.
  need('digest', cms.digests.join() === signer.digest, 'digestAlgorithms is not the one signer’s')
  need('imprint', info.hashAlgorithm === SHA_256, 'the imprint is not SHA-256')
  need('imprint', equal(info.imprint, expected.imprint), 'the token stamps something else')
  if (expected.nonce !== undefined) {
    need('nonce', info.nonce !== null, 'the token carries none')
    need('nonce', isNonce(info.nonce!, expected.nonce), 'the token answers another request')
  }
  if (expected.policies !== undefined) {
    need('policy', expected.policies.includes(info.policy), `${info.policy} is not allowed`)
  }

  const leaf = pickSigner(signer.sid, cms.certificates)
  need('not-ca', !leaf.isCa, 'the signer is a CA')
  const purposes = leaf.extendedKeyUsage
  need('extended-key-usage', purposes !== null, 'the signer has none')
  need('extended-key-usage', purposes!.critical, 'it is not critical')
  need('extended-key-usage', purposes!.purposes.join() === TIME_STAMPING, 'not only timeStamping')
  // RFC 3161 §2.3 wants a key for nothing else, so no keyUsage beyond the two kinds of signature.
  const signing: number[] = [KeyUsage.digitalSignature, KeyUsage.nonRepudiation]
  const usage = leaf.keyUsage && [...leaf.keyUsage]
  need('key-usage', !usage || usage.every((bit) => signing.includes(bit)), 'the key has other uses')
  need('key-usage', usage?.length !== 0, 'the key may not sign')

  const digest = HASHES[signer.digest]!
  const stated = signer.attribute(MESSAGE_DIGEST, 'message-digest')
  need(
    'attributes',
    oidOf(signer.attribute(CONTENT_TYPE, 'attributes'), 'content-type') === TST_INFO,
    'content-type is not id-ct-TSTInfo',
  )
  need(
    'message-digest',
    equal(expect(stated, Tag.octetString, 'message-digest').value, digest(cms.content)),
    'it is not the digest of the content',
  )
  const others = essCertificates(signer, leaf)
  checks.push('ess-cert-id')
  const { hash } = signer.signed.algorithm
  need('signature', hash === signer.digest, 'digest and signature algorithm disagree')
  need('signature', await isSignedBy(signer.signed, leaf.publicKey), 'it does not verify')

  const anchors = expected.trustedRoots.flatMap(certificatesFromPem)
  const bag = cms.certificates.filter((certificate) => certificate !== leaf)
  const path = await pathToAnchor({ leaf, bag, anchors, at: info.genTime })
  checks.push('chain')
  // RFC 5035 §3: identifiers after the first limit the path to certificates they name.
  for (const matches of others) {
    need('ess-cert-id', path.some(matches), 'it names a certificate outside the path')
  }
  return {
    genTime: info.genTime,
    txHash: toHex(sha256(token)),
    policy: info.policy,
    serial: toHex(info.serial),
    accuracyMs: info.accuracyMs,
    signerSha256: fingerprint(leaf),
    rootSha256: fingerprint(path.at(-1)!),
    chainExpiresAt: Math.min(...path.map(({ notAfter }) => notAfter)),
    checks: [...new Set(checks)],
  }
}

/** ContentInfo → SignedData (RFC 5652 §3, §5.1) over a TSTInfo. */
function parseSignedData(token: Uint8Array) {
  const [type, content, ...extra] = sequence(readDer(token), 'ContentInfo')
  if (oidOf(type, 'contentType') !== SIGNED_DATA || extra.length > 0) {
    throw refuse('content-type', 'the token is not a CMS SignedData')
  }
  const wrapped = only(expect(content, context(0), 'content'), 'content')
  const [version, digests, encapsulated, ...rest] = sequence(wrapped, 'SignedData')
  // §5.1: version is 3 when the content is not id-data; 4 and 5 need attribute or other certificates.
  if (smallInteger(version, 'version') !== 3) throw refuse('content-type', 'SignedData is not v3')
  const digestAlgorithms = children(expect(digests, Tag.set, 'digestAlgorithms'))
  const [innerType, inner] = sequence(encapsulated, 'encapContentInfo')
  if (oidOf(innerType, 'eContentType') !== TST_INFO) {
    throw refuse('content-type', 'the content is not id-ct-TSTInfo')
  }
  const octets = only(expect(inner, context(0), 'eContent'), 'eContent')
  const bag = rest[0]?.tag === context(0) ? children(rest.shift()!) : []
  if (rest[0]?.tag === context(1)) rest.shift()
  if (bag.length > MAX_CERTIFICATES) {
    throw refuse('certificates', `${bag.length} certificates, at most ${MAX_CERTIFICATES} are read`)
  }
  const signerInfos = children(expect(rest[0], Tag.set, 'signerInfos'))
  if (rest.length !== 1) throw refuse('der', 'SignedData has unknown fields')
  return {
    content: expect(octets, Tag.octetString, 'eContent').value,
    digests: digestAlgorithms.map(digestAlgorithm),
    certificates: bag.map(parseCertificate),
    signerInfos,
  }
}

/** TSTInfo (RFC 3161 §2.4.2). */
function parseTstInfo(bytes: Uint8Array) {
  const [version, policy, messageImprint, serial, genTime, ...rest] = sequence(
    readDer(bytes),
    'TSTInfo',
  )
  if (smallInteger(version, 'version') !== 1) throw refuse('content-type', 'TSTInfo is not v1')
  const [algorithm, imprint] = sequence(messageImprint, 'messageImprint')
  const [hash, ...parameters] = sequence(algorithm, 'hashAlgorithm')
  if (!isPlain(parameters)) throw refuse('imprint', 'the hash has parameters')
  const accuracy = rest[0]?.tag === Tag.sequence ? accuracyOf(rest.shift()!) : null
  // ordering says how two tokens of one authority compare; we compare by genTime alone.
  if (rest[0]?.tag === Tag.boolean) booleanOf(rest.shift(), 'ordering')
  const nonce = rest[0]?.tag === Tag.integer ? integerBytes(rest.shift(), 'nonce') : null
  if (rest[0]?.tag === context(0)) rest.shift()
  if (rest[0]?.tag === context(1)) {
    for (const extension of children(rest.shift()!)) {
      const [, flag] = sequence(extension, 'extension')
      if (flag?.tag === Tag.boolean && booleanOf(flag, 'critical')) {
        throw refuse('content-type', 'TSTInfo has a critical extension')
      }
    }
  }
  if (rest.length > 0) throw refuse('der', 'TSTInfo has unknown fields')
  return {
    policy: oidOf(policy, 'policy'),
    hashAlgorithm: oidOf(hash, 'hashAlgorithm'),
    imprint: expect(imprint, Tag.octetString, 'hashedMessage').value,
    serial: integerBytes(serial, 'serialNumber'),
    genTime: timeOf(expect(genTime, Tag.generalizedTime, 'genTime'), 'genTime', true),
    accuracyMs: accuracy,
    nonce,
  }
}

/** Accuracy { seconds, [0] millis 1–999, [1] micros 1–999 } in ms, rounded up: a bound stays one. */
function accuracyOf(der: Der): number {
  const fields = children(der)
  const take = (tag: number, name: string) =>
    fields[0]?.tag === tag ? smallInteger(fields.shift(), name, tag) : 0
  const seconds = take(Tag.integer, 'seconds')
  const millis = take(context(0, true), 'millis')
  const micros = take(context(1, true), 'micros')
  if (millis > 999 || micros > 999 || fields.length > 0)
    throw refuse('der', 'accuracy is malformed')
  return seconds * 1000 + millis + (micros > 0 ? 1 : 0)
}

interface SignerInfo {
  readonly sid: Der
  /** WebCrypto's name of the digest. */
  readonly digest: string
  readonly signed: Parameters<typeof isSignedBy>[0]
  /** The single value of a signed attribute that must be there. */
  readonly attribute: (oid: string, check: string) => Der
  readonly has: (oid: string) => boolean
}

/** SignerInfo (RFC 5652 §5.3). Signed attributes are mandatory: the content is not id-data. */
function parseSignerInfo(der: Der): SignerInfo {
  const [version, sid, digest, attributes, algorithm, signature, ...rest] = sequence(
    der,
    'SignerInfo',
  )
  // §5.3: 1 with issuerAndSerialNumber, 3 with subjectKeyIdentifier.
  if (smallInteger(version, 'version') !== (sid?.tag === Tag.sequence ? 1 : 3)) {
    throw refuse('signer', 'SignerInfo has another version than its identifier demands')
  }
  if (rest.length > 1 || (rest[0] !== undefined && rest[0].tag !== context(1))) {
    throw refuse('der', 'SignerInfo has unknown fields')
  }
  const signedAttributes = expect(attributes, context(0), 'signedAttrs')
  const found = new Map<string, Der[]>()
  for (const attribute of children(signedAttributes)) {
    const [type, values] = sequence(attribute, 'attribute')
    const oid = oidOf(type, 'attrType')
    // §5.3: signedAttrs MUST NOT include several instances of one attribute type.
    if (found.has(oid)) throw refuse('attributes', `${oid} is there twice`)
    found.set(oid, children(expect(values, Tag.set, 'attrValues')))
  }
  const hash = digestAlgorithm(expect(digest, Tag.sequence, 'digestAlgorithm'))
  const named = signatureAlgorithm(algorithm)
  return {
    sid: sid!,
    digest: hash,
    signed: {
      // §5.4: what is signed is the SET OF encoding, not the IMPLICIT [0] that stands in the token.
      bytes: concat(Uint8Array.of(Tag.set), signedAttributes.raw.subarray(1)),
      // rsaEncryption (RFC 3370 §3.2) leaves the hash to digestAlgorithm.
      algorithm: named.family === 'rsa' && named.hash === null ? { ...named, hash } : named,
      signature: expect(signature, Tag.octetString, 'signature').value,
    },
    has: (oid) => found.has(oid),
    attribute: (oid, check) => {
      const [value, ...more] = found.get(oid) ?? []
      if (value === undefined || more.length > 0) throw refuse(check, `${oid} is not there once`)
      return value
    },
  }
}

/** The certificate that the signer identifier names, never another one of the bag (rfc3161-client 1.0.6). */
function pickSigner(sid: Der, bag: readonly Certificate[]): Certificate {
  const named = bag.filter((certificate) => names(sid, certificate))
  if (named.length === 0) throw refuse('signer', 'its certificate is not in the token')
  if (named.some((certificate) => !equal(certificate.der, named[0]!.der))) {
    throw refuse('signer', 'its identifier names several certificates')
  }
  return named[0]!
}

function names(sid: Der, { issuer, serial, subjectKeyId }: Certificate): boolean {
  if (sid.tag === context(0, true)) return subjectKeyId !== null && equal(subjectKeyId, sid.value)
  const [name, number] = sequence(sid, 'signer identifier')
  return equal(name!.raw, issuer) && equal(integerBytes(number, 'serialNumber'), serial)
}

/**
 * SigningCertificate (RFC 2634 §5.4, SHA-1) and SigningCertificateV2 (RFC 5035 §3): each that is
 * present must name the leaf first. Returns a test for each further certificate named.
 * SHA-1 is no weakness alone here: the attacker would need a second preimage that is also a
 * certificate under a pinned root with the signer's own issuer and serial.
 */
function essCertificates(signer: SignerInfo, leaf: Certificate) {
  const others: ((certificate: Certificate) => boolean)[] = []
  const present = [SIGNING_CERTIFICATE, SIGNING_CERTIFICATE_V2].filter((oid) => signer.has(oid))
  if (present.length === 0) throw refuse('ess-cert-id', 'the token does not bind its signer')
  for (const oid of present) {
    const [list] = sequence(signer.attribute(oid, 'ess-cert-id'), 'signing certificate')
    const [first, ...more] = sequence(list, 'ESSCertIDs').map((id) =>
      essTest(id, oid === SIGNING_CERTIFICATE_V2),
    )
    if (!first?.(leaf)) throw refuse('ess-cert-id', 'it names another certificate than the signer')
    others.push(...more)
  }
  return others
}

function essTest(der: Der, isV2: boolean): (certificate: Certificate) => boolean {
  const fields = sequence(der, 'ESSCertID')
  let hash: (bytes: Uint8Array) => Uint8Array = isV2 ? sha256 : sha1
  if (isV2 && fields[0]?.tag === Tag.sequence) hash = HASHES[digestAlgorithm(fields.shift()!)]!
  const stated = expect(fields[0], Tag.octetString, 'certHash').value
  const [names_, serial] = fields[1] ? sequence(fields[1], 'issuerSerial') : []
  return (certificate) => {
    if (!equal(hash(certificate.der), stated)) return false
    if (names_ === undefined) return true
    // GeneralNames with one directoryName [4] EXPLICIT Name.
    const [general] = sequence(names_, 'issuer')
    const issuer = only(expect(general, context(4), 'directoryName'), 'directoryName')
    return (
      equal(issuer.raw, certificate.issuer) &&
      equal(integerBytes(serial, 'serialNumber'), certificate.serial)
    )
  }
}

function digestAlgorithm(der: Der): string {
  const [oid, ...parameters] = sequence(der, 'digestAlgorithm')
  const name = DIGESTS[oidOf(oid, 'digestAlgorithm')]
  if (name === undefined || !isPlain(parameters)) {
    throw refuse('digest', 'only SHA-256, SHA-384 and SHA-512 are accepted')
  }
  return name
}
