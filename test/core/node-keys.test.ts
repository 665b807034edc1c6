import { hkdfSync } from 'node:crypto'
import { ed25519 } from '@noble/curves/ed25519.js'
import { compactVerify, importJWK } from 'jose'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fromHex, toBase64Url, toHex, utf8 } from '#core/bytes.ts'
import { parseDid } from '#core/did.ts'
import {
  deriveClaimsKey,
  deriveIdentity,
  deriveKey,
  ed25519Key,
  signJws,
  type Role,
} from '#core/node-keys.ts'
import signatures from '../vectors/ed25519.json' with { type: 'json' }
import vectors from '../vectors/hkdf.json' with { type: 'json' }

const secret = Uint8Array.from({ length: 32 }, (_, i) => i)

test.each(vectors.rfc5869)(
  'the reference HKDF is that of RFC 5869 ($length bytes, salt "$salt")',
  (v) => {
    const out = hkdfSync('sha256', fromHex(v.ikm), fromHex(v.salt), fromHex(v.info), v.length)
    expect(toHex(new Uint8Array(out))).toBe(v.okm)
  },
)

describe('a derived key', () => {
  test('is HKDF-SHA256 of the secret with empty salt and the name of its role', async () => {
    const roles = fc.constantFrom<Role>('log', 'witness', 'identity')
    const secrets = fc.uint8Array({ minLength: 32, maxLength: 32 })
    await fc.assert(
      fc.asyncProperty(secrets, roles, fc.integer({ min: 1, max: 99 }), async (s, role, epoch) => {
        const seed = new Uint8Array(hkdfSync('sha256', s, '', `vaultmesh/v1/${role}/${epoch}`, 32))
        const key = await deriveKey(s, role, epoch)
        expect(key.publicKey).toEqual(ed25519.getPublicKey(seed))
      }),
      { numRuns: 30 },
    )
  })

  test('of a known secret never changes: it would be another node', async () => {
    const { derived } = vectors
    expect(toHex((await deriveKey(secret, 'log', 1)).publicKey)).toBe(derived.log)
    expect(toHex((await deriveKey(secret, 'witness', 1)).publicKey)).toBe(derived.witness)
    expect((await deriveIdentity(secret, 1)).did).toBe(derived.identity)
    expect((await deriveIdentity(secret, 2)).did).toBe(derived.identity2)
    expect(toHex(await deriveClaimsKey(secret))).toBe(derived.claims)
  })

  test.each([0, 31, 33, 64])('of a secret of %i bytes is refused', async (size) => {
    await expect(deriveKey(new Uint8Array(size), 'log', 1)).rejects.toMatchObject({
      code: 'bad-config',
    })
    await expect(deriveClaimsKey(new Uint8Array(size))).rejects.toMatchObject({
      code: 'bad-config',
    })
  })
})

test.each(signatures.cases)(
  'an Ed25519 key signs as RFC 8032 §7.1 does (%#)',
  async (seed, pub, message, signature) => {
    const key = await ed25519Key(fromHex(seed!))
    expect(toHex(key.publicKey)).toBe(pub)
    expect(toHex(await key.sign(fromHex(message!)))).toBe(signature)
  },
)

test('a JWS of the identity is one that jose verifies, under a kid that names its key', async () => {
  const key = await deriveIdentity(secret, 1)
  const jws = await signJws(key, 'vm-test+jws', { b: 1, a: 'é' })
  const jwk = { kty: 'OKP', crv: 'Ed25519', x: toBase64Url(key.publicKey) }
  const { payload, protectedHeader } = await compactVerify(jws, await importJWK(jwk, 'EdDSA'))
  expect(payload).toEqual(utf8('{"b":1,"a":"é"}'))
  expect(protectedHeader).toEqual({ alg: 'EdDSA', kid: key.kid, typ: 'vm-test+jws' })
  expect(parseDid(key.kid)).toMatchObject({ kind: 'ed25519', did: key.did, key: key.publicKey })
})
