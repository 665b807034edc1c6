/**
 * Tokens that no honest authority would make, for tests: any TSTInfo signed by any hierarchy through
 * `openssl cms -sign`, and a tiny DER writer to take real tokens apart and put them together wrongly.
 */

import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import path from 'node:path'
import { concat } from '#core/bytes.ts'
import type { Der } from '#core/der.ts'
import { children, only, readDer } from '#core/der.ts'
import { timestampRequest, tokenFromResponse } from '#core/timestamp-request.ts'
import type { Authority, KeyKind, Variant } from '../../scripts/devnet/tsa-authority.ts'
import { ensureAuthority, openssl, reply } from '../../scripts/devnet/tsa-authority.ts'

export const TST_INFO = '1.2.840.113549.1.9.16.1.4'

/** Authorities of one test file, each in its own folder below one temporary one. */
export async function authorities() {
  const dir = await mkdtemp(path.join(tmpdir(), 'vaultmesh-tsa-'))
  let n = 0
  return {
    dir,
    make: (kind: KeyKind = 'ec', variant: Variant = 'none') =>
      ensureAuthority(path.join(dir, `${++n}-${variant}`), kind, variant),
    remove: () => rm(dir, { recursive: true, force: true }),
  }
}

/** A token as the authority itself makes it. */
export async function stamp(authority: Authority, root: Uint8Array, nonce: Uint8Array) {
  return tokenFromResponse(await reply(authority, timestampRequest({ root, nonce })))
}

/** `tstInfo` signed by `authority`, with whatever else `openssl cms` is told. */
export async function forge(
  authority: Authority,
  tstInfo: Uint8Array,
  { type = TST_INFO, binding = true, extra = [] as readonly string[] } = {},
): Promise<Uint8Array> {
  await writeFile(path.join(authority.dir, 'tst.der'), tstInfo)
  const signer = ['-signer', authority.unit, '-inkey', authority.unitKey]
  const how = ['-md', 'sha256', '-nodetach', '-nosmimecap', ...(binding ? ['-cades'] : [])]
  const what = ['-binary', '-econtent_type', type, '-in', 'tst.der', '-outform', 'DER']
  const args = ['cms', '-sign', ...what, ...signer, '-certfile', authority.issuing, ...how]
  return new Uint8Array(await openssl(authority.dir, [...args, ...extra]))
}

/** DER of one element. */
export function der(tag: number, ...content: readonly Uint8Array[]): Uint8Array {
  const value = concat(...content)
  const n = value.length
  const length = n < 0x80 ? [n] : n < 0x100 ? [0x81, n] : [0x82, n >> 8, n & 0xff]
  return concat(Uint8Array.of(tag, ...length), value)
}

/** The parts of a token, each as read. */
export function parts(token: Uint8Array) {
  const [type, content] = children(readDer(token)) as [Der, Der]
  const fields = children(only(content, 'content'))
  const [version, digests, encapsulated, certificates, signers] = fields as [
    Der,
    Der,
    Der,
    Der,
    Der,
  ]
  return { type, version, digests, encapsulated, certificates, signers }
}

/** The token again, with some parts replaced. */
export function rebuild(
  token: Uint8Array,
  change: Partial<Record<'digests' | 'certificates' | 'signers', Uint8Array>>,
) {
  const p = parts(token)
  const {
    digests = p.digests.raw,
    certificates = p.certificates.raw,
    signers = p.signers.raw,
  } = change
  const fields = [p.version.raw, digests, p.encapsulated.raw, certificates, signers]
  return der(0x30, p.type.raw, der(0xa0, der(0x30, ...fields)))
}

/** The TSTInfo inside a token. */
export function tstInfoOf(token: Uint8Array): Uint8Array {
  const [, wrapped] = children(parts(token).encapsulated) as [Der, Der]
  return only(wrapped, 'eContent').value
}

/** TSTInfo with field `index` replaced, or removed by null. */
export function withField(tstInfo: Uint8Array, index: number, raw: Uint8Array | null): Uint8Array {
  const fields = children(readDer(tstInfo)).map((field, i) => (i === index ? raw : field.raw))
  return der(0x30, ...fields.filter((field) => field !== null))
}
