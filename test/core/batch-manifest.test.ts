/**
 * A manifest is believed as far as its sealer's key reaches, and only if its numbers fit together.
 */

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MANIFEST_TYP, signManifest } from '#core/batch.ts'
import { verifyManifest } from '#core/batch-manifest.ts'
import { toBase64Url, toHex, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { deriveIdentity, signJws } from '#core/node-keys.ts'
import { signEvent, testSigner } from '../support/signing.ts'

const key = await deriveIdentity(new Uint8Array(32).fill(7), 1)
const other = await deriveIdentity(new Uint8Array(32).fill(8), 1)
const SEALED = Date.parse('2026-11-23T05:36:00.000Z')
const batch = {
  origin: 'vm.example/log',
  height: 2,
  firstIndex: 3,
  count: 4,
  treeSize: 7,
  root: new Uint8Array(32).fill(1),
  previousRoot: new Uint8Array(32).fill(2),
  batchRoot: new Uint8Array(32).fill(3),
  sealedAt: SEALED,
}
const good = await signManifest(key, batch)
const claims = JSON.parse(Buffer.from(good.split('.')[1]!, 'base64url').toString()) as Record<
  string,
  unknown
>

const isKey = (did: string): boolean => did === key.did

async function refusal(jws: string, by = isKey): Promise<VaultMeshError> {
  try {
    await verifyManifest(jws, by)
  } catch (error) {
    if (error instanceof VaultMeshError) return error
    throw error
  }
  throw new Error('nothing was refused')
}

describe('a manifest', () => {
  test('reads as the batch that was sealed, whatever the batch', async () => {
    const hash = fc.uint8Array({ minLength: 32, maxLength: 32 })
    const sealed = fc.record({
      origin: fc.stringMatching(/^[a-z0-9.-]{1,60}\/log(\/[1-9])?$/),
      height: fc.integer({ min: 1, max: 2 ** 40 }),
      firstIndex: fc.integer({ min: 0, max: 2 ** 52 }),
      count: fc.integer({ min: 1, max: 5000 }),
      root: hash,
      previousRoot: hash,
      batchRoot: hash,
      sealedAt: fc.integer({ min: 0, max: 4e12 }),
    })
    await fc.assert(
      fc.asyncProperty(sealed, async (facts) => {
        const all = { ...facts, treeSize: facts.firstIndex + facts.count }
        expect(await verifyManifest(await signManifest(key, all), isKey)).toEqual({
          ...all,
          root: toHex(all.root),
          previousRoot: toHex(all.previousRoot),
          batchRoot: toHex(all.batchRoot),
          sealer: key.did,
        })
      }),
    )
  })

  test('is asked about at the moment it was sealed, before its signature is paid for', async () => {
    const asked: unknown[] = []
    const broken = `${good.slice(0, -4)}AAA${good.at(-1)}`
    const no = (...args: unknown[]): boolean => asked.push(args) < 0
    expect((await refusal(broken, no)).code).toBe('untrusted-key')
    expect(asked).toEqual([[key.did, SEALED]])
    expect((await refusal(broken)).code).toBe('bad-signature')
  })

  test('of a key that the caller does not accept is refused, naming key and log', async () => {
    const error = await refusal(await signManifest(other, batch))
    expect(error.code).toBe('untrusted-key')
    expect(error.message).toContain(other.did)
    expect(error.message).toContain('vm.example/log')
  })

  test('with any character changed is refused', async () => {
    for (let i = 0; i < good.length; i++) {
      const changed = good.slice(0, i) + (good[i] === 'A' ? 'B' : 'A') + good.slice(i + 1)
      expect(await refusal(changed, () => true), `at ${i}`).toBeInstanceOf(VaultMeshError)
    }
  })

  test.each([
    ['names another sealer', { sealer: other.did }, '"sealer"'],
    ['names its sealer by a DID URL', { sealer: key.kid }, '"sealer"'],
    ['has no sealer', { sealer: undefined }, '"sealer"'],
    ['says more', { note: 'x' }, '"note"'],
    ['has no origin', { origin: undefined }, '"origin"'],
    ['has an empty origin', { origin: '' }, '"origin"'],
    ['has an origin of two lines', { origin: 'a\n9' }, '"origin"'],
    ['has an origin with a plus', { origin: 'a+b' }, '"origin"'],
    ['has an origin of 256 bytes', { origin: 'é'.repeat(128) }, '"origin"'],
    ['is of height 0', { height: 0 }, '"height"'],
    ['is of half a height', { height: 1.5 }, '"height"'],
    ['begins before the log', { firstIndex: -1, treeSize: 3 }, '"firstIndex"'],
    ['is empty', { count: 0, treeSize: 3 }, '"count"'],
    ['counts in quotes', { count: '4' }, '"count"'],
    ['sums up to another size', { treeSize: 8 }, '"treeSize"'],
    ['is larger than numbers are exact', { firstIndex: 2 ** 53, treeSize: 2 ** 53 + 4 }, '"first'],
    ['sums up by rounding', { firstIndex: 2 ** 53 - 1, count: 2, treeSize: 2 ** 53 }, '"treeSize"'],
    ['has a root without its algorithm', { root: '01'.repeat(32) }, '"root"'],
    ['has a root in capitals', { root: `sha256:${'AB'.repeat(32)}` }, '"root"'],
    ['has a root of 31 bytes', { batchRoot: `sha256:${'01'.repeat(31)}` }, '"batchRoot"'],
    ['has a root of two lines', { previousRoot: `sha256:${'01'.repeat(32)}\n` }, '"previousRoot"'],
    ['was sealed at a number', { sealedAt: SEALED }, '"sealedAt"'],
    ['was sealed never', { sealedAt: '2026-02-30T00:00:00.000Z' }, '"sealedAt"'],
    ['spells its time otherwise', { sealedAt: '2026-11-23T06:36:00.000+01:00' }, '"sealedAt"'],
    ['leaves the milliseconds out', { sealedAt: '2026-11-23T05:36:00Z' }, '"sealedAt"'],
  ])('that %s is refused', async (_, change, why) => {
    const error = await refusal(await signJws(key, MANIFEST_TYP, { ...claims, ...change }))
    expect(error.code).toBe('bad-jws')
    expect(error.message).toContain(why)
  })

  test('of another typ, algorithm, shape or size is refused', async () => {
    const [header, payload, signature] = good.split('.') as [string, string, string]
    const b64 = (text: string): string => toBase64Url(utf8(text))
    const wallet = testSigner('EIP191', 'sealer')
    const byWallet = signEvent(wallet, {
      header: { typ: MANIFEST_TYP },
      payloadText: JSON.stringify({ ...claims, sealer: wallet.did }),
    })
    const p256 = testSigner('ES256', 'sealer')
    const byP256 = signEvent(p256, {
      header: { typ: MANIFEST_TYP },
      payloadText: JSON.stringify({ ...claims, sealer: p256.did }),
    })
    const cases: (readonly [string, string])[] = [
      [await signJws(key, 'vm-event+jws', claims), 'bad-header'],
      [byWallet, 'bad-header'],
      [byP256, 'bad-header'],
      [await signJws({ ...key, kid: 'did:web:x' }, MANIFEST_TYP, claims), 'bad-did'],
      [await signJws({ ...key, kid: other.kid }, MANIFEST_TYP, claims), 'bad-jws'],
      [`${header}.${payload}`, 'bad-jws'],
      [`${good}.`, 'bad-jws'],
      ['', 'bad-jws'],
      [`${good}=`, 'bad-encoding'],
      [`${header}.${b64('{"root":1,"root":2}')}.${signature}`, 'duplicate-key'],
      [`${header}.${b64('[]')}.${signature}`, 'bad-jws'],
      [`${header}.${b64('null')}.${signature}`, 'bad-jws'],
      [`${header}.${b64('{')}.${signature}`, 'bad-jws'],
      [`${header}.${payload}.${'A'.repeat(4096)}`, 'bad-jws'],
    ]
    for (const [jws, code] of cases) {
      expect(await refusal(jws, () => true), jws.slice(0, 300)).toMatchObject({ code })
    }
  })

  test('of an origin of 255 bytes is taken, and far from too large', async () => {
    const origin = 'é'.repeat(127) + 'x'
    const jws = await signManifest(key, { ...batch, origin })
    expect((await verifyManifest(jws, isKey)).origin).toBe(origin)
    expect(jws.length).toBeLessThan(1400)
  })

  test('that is arbitrary text is refused with an error of ours', async () => {
    const text = fc.oneof(
      fc.string(),
      fc.array(fc.base64String(), { maxLength: 4 }).map((p) => p.join('.')),
    )
    await fc.assert(
      fc.asyncProperty(text, async (hostile) => {
        expect(await refusal(hostile)).toBeInstanceOf(VaultMeshError)
      }),
    )
  })
})
