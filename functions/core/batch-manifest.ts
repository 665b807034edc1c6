/**
 * Reading a manifest (design §4): the JWS `vm-batch+jws` in which a node describes one batch of its log.
 *
 * Verified is what it says of itself: its claims fit together, and a key that the caller accepts for its
 * `sealedAt` signed it. Whether the roots are those of the entries is for whoever has the entries.
 */

import * as z from 'zod'
import { MANIFEST_TYP } from '#core/batch.ts'
import { fromBase64Url, fromUtf8, utf8 } from '#core/bytes.ts'
import { MAX_ORIGIN_BYTES } from '#core/checkpoint.ts'
import { parseDid } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import { parseHeader, Signers } from '#core/signer.ts'
import { parseStrictJson } from '#core/strict-json.ts'
import { isoTime, parseTime } from '#core/time.ts'

/** Longest manifest; one with an origin of 255 bytes has about 1,250 (measured). */
export const MAX_MANIFEST_BYTES = 4096

/** A batch as its sealer describes it. Roots are 64 hex digits. */
export interface Manifest {
  readonly origin: string
  readonly height: number
  readonly firstIndex: number
  readonly count: number
  /** Size of the log after the batch: firstIndex + count. */
  readonly treeSize: number
  readonly root: string
  readonly previousRoot: string
  readonly batchRoot: string
  /** Epoch ms. */
  readonly sealedAt: number
  /** did:key of the identity key that signed it. */
  readonly sealer: string
}

/** A log's name as config.ts takes it: it stands on lines of its own and in vkeys, so no space and no +. */
export const originSchema = z
  .string()
  .regex(/^[^\s+\p{White_Space}\p{Cc}]+$/u, 'has a space, a control character or a +, or is empty')
  .refine(
    (text) => utf8(text).length <= MAX_ORIGIN_BYTES,
    `has more than ${MAX_ORIGIN_BYTES} bytes`,
  )

const root = z.string().regex(/^sha256:[0-9a-f]{64}$/, 'is not sha256:<64 hex digits>')
const claimsSchema = z.strictObject({
  origin: originSchema,
  height: z.int().min(1),
  firstIndex: z.int().min(0),
  count: z.int().min(1),
  treeSize: z.int().min(1),
  root,
  previousRoot: root,
  batchRoot: root,
  sealedAt: z.string(),
  sealer: z.string(),
})

const PAYLOAD = { code: 'bad-jws', name: 'The manifest' } as const
const signers = new Signers(MANIFEST_TYP)

/**
 * The batch that `jws` describes. `isKey` says whether a did:key may have sealed at `sealedAt` (epoch ms).
 * Throws `bad-jws`, `bad-encoding`, `bad-header`, `bad-did`, `duplicate-key`, `untrusted-key` or
 * `bad-signature`.
 */
export async function verifyManifest(
  jws: string,
  isKey: (keyDid: string, sealedAt: number) => boolean,
): Promise<Manifest> {
  if (jws.length > MAX_MANIFEST_BYTES) throw bad(`it has more than ${MAX_MANIFEST_BYTES} bytes`)
  const parts = jws.split('.')
  if (parts.length !== 3) throw bad('it is not a compact JWS')
  const [header, payload, signature] = parts as [string, string, string]
  const { alg, kid } = parseHeader(header, MANIFEST_TYP)
  const key = parseDid(kid)
  if (alg !== 'EdDSA' || key.kind !== 'ed25519') {
    throw new VaultMeshError('bad-header', 'A manifest is signed EdDSA by a did:key.')
  }
  const manifest = manifestOf(parseStrictJson(fromUtf8(fromBase64Url(payload)), PAYLOAD))
  if (manifest.sealer !== key.did) throw bad('"sealer" is not the DID of the key that signed')
  if (!isKey(key.did, manifest.sealedAt)) {
    throw new VaultMeshError('untrusted-key', `${key.did} may not seal for ${manifest.origin}.`)
  }
  const signer = await signers.of(header)
  if (!(await signer.verify(utf8(`${header}.${payload}`), fromBase64Url(signature)))) {
    throw new VaultMeshError('bad-signature', 'The manifest is not signed by the key it names.')
  }
  return manifest
}

function manifestOf(value: unknown): Manifest {
  const parsed = claimsSchema.safeParse(value)
  if (!parsed.success) {
    const { path, message } = parsed.error.issues[0]!
    throw bad(path.length === 0 ? message : `"${path.join('.')}": ${message}`)
  }
  const claims = parsed.data
  if (claims.firstIndex + claims.count !== claims.treeSize)
    throw bad('"treeSize" is not "firstIndex" + "count"')
  const sealedAt = parseTime(claims.sealedAt)
  // One spelling of a moment, that of batch.ts.
  if (sealedAt === null || isoTime(sealedAt) !== claims.sealedAt)
    throw bad('"sealedAt" is not a time in the form 2026-11-23T05:36:00.000Z')
  return {
    ...claims,
    root: digits(claims.root),
    previousRoot: digits(claims.previousRoot),
    batchRoot: digits(claims.batchRoot),
    sealedAt,
  }
}

function digits(hash: string): string {
  return hash.slice('sha256:'.length)
}

function bad(why: string): VaultMeshError {
  return new VaultMeshError('bad-jws', `The manifest is refused: ${why}.`)
}
