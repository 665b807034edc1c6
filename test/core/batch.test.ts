import { decodeProtectedHeader, compactVerify, importJWK } from 'jose'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { hashText, MANIFEST_TYP, sealDueAt, signManifest } from '#core/batch.ts'
import { toBase64Url } from '#core/bytes.ts'
import { deriveIdentity } from '#core/node-keys.ts'

const policy = { maxItems: 100, maxIntervalMs: 5000 }
const waiting = fc.record({
  count: fc.integer({ min: 1, max: 200 }),
  oldestAt: fc.integer({ min: 0, max: 1e12 }),
  eagerAt: fc.option(fc.integer({ min: 0, max: 1e12 })),
})

describe('a seal', () => {
  test('is never due for an empty batch, whoever waits', () => {
    expect(sealDueAt({ count: 0, oldestAt: null, eagerAt: 5 }, policy)).toBeNull()
    expect(sealDueAt({ count: 0, oldestAt: 1, eagerAt: 5 }, policy)).toBeNull()
  })

  test('is due at once at maxItems, else by the age of the oldest or an eager client', () => {
    fc.assert(
      fc.property(waiting, (w) => {
        const due = sealDueAt(w, policy)!
        if (w.count >= policy.maxItems) expect(due).toBe(0)
        else expect(due).toBe(Math.min(w.oldestAt + 5000, w.eagerAt ?? Infinity))
      }),
    )
  })

  test('is never due later because more waits', () => {
    fc.assert(
      fc.property(waiting, fc.nat(100), (w, more) => {
        const now = sealDueAt(w, policy)!
        expect(sealDueAt({ ...w, count: w.count + more }, policy)!).toBeLessThanOrEqual(now)
      }),
    )
  })
})

test('a manifest states the batch, is signed by the sealer and is the same bytes each time', async () => {
  const key = await deriveIdentity(new Uint8Array(32).fill(7), 1)
  const batch = {
    origin: 'vm.example/log',
    height: 2,
    firstIndex: 3,
    count: 4,
    treeSize: 7,
    root: new Uint8Array(32).fill(1),
    previousRoot: new Uint8Array(32).fill(2),
    batchRoot: new Uint8Array(32).fill(3),
    sealedAt: Date.parse('2026-11-23T05:36:00.000Z'),
  }
  const manifest = await signManifest(key, batch)
  expect(await signManifest(key, batch)).toBe(manifest)
  const jwk = { kty: 'OKP', crv: 'Ed25519', x: toBase64Url(key.publicKey) }
  const { payload } = await compactVerify(manifest, await importJWK(jwk, 'EdDSA'))
  expect(decodeProtectedHeader(manifest)).toEqual({ alg: 'EdDSA', kid: key.kid, typ: MANIFEST_TYP })
  expect(JSON.parse(new TextDecoder().decode(payload))).toEqual({
    ...batch,
    root: `sha256:${'01'.repeat(32)}`,
    previousRoot: `sha256:${'02'.repeat(32)}`,
    batchRoot: `sha256:${'03'.repeat(32)}`,
    sealedAt: '2026-11-23T05:36:00.000Z',
    sealer: key.did,
  })
  expect(hashText(batch.root)).toBe(`sha256:${'01'.repeat(32)}`)
})
