import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { concat, toHex, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { deriveIdentity, signJws } from '#core/node-keys.ts'
import { PROMISE_TYP, promiseBulk, promiseEvent, verifyPromise } from '#core/promise.ts'
import { sha256 } from '#core/sha256.ts'

const key = await deriveIdentity(new Uint8Array(32).fill(1), 1)
const other = await deriveIdentity(new Uint8Array(32).fill(2), 1)
const terms = {
  origin: 'vm.example/log',
  receivedAt: Date.parse('2026-11-23T05:36:00.999Z'),
  graceMs: 720_000,
}
const hash = (n: number): Uint8Array => sha256(Uint8Array.of(n))

async function codeOf(jws: string): Promise<string> {
  try {
    await verifyPromise(jws)
    return 'ok'
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    return error.code
  }
}

describe('a promise', () => {
  test('for an event says what will be in which log by when, and is the same bytes each time', async () => {
    const jws = await promiseEvent(key, terms, hash(1))
    expect(await promiseEvent(key, terms, hash(1))).toBe(jws)
    expect(await verifyPromise(jws)).toEqual({
      iss: key.did,
      iat: Date.parse('2026-11-23T05:36:00Z') / 1000,
      origin: terms.origin,
      sealBy: '2026-11-23T05:48:00.999Z',
      eventHash: `sha256:${toHex(hash(1))}`,
    })
  })

  test('for a bulk names the hash of its hashes in line order, and their count', async () => {
    const all = [hash(1), hash(2), hash(1)]
    const claims = await verifyPromise(await promiseBulk(key, terms, all))
    expect(claims).toMatchObject({ entries: `sha256:${toHex(sha256(concat(...all)))}`, count: 3 })
    const swapped = await verifyPromise(await promiseBulk(key, terms, [hash(2), hash(1), hash(1)]))
    expect(swapped['entries']).not.toBe(claims['entries'])
  })

  test('with any character changed is refused', async () => {
    const jws = await promiseEvent(key, terms, hash(1))
    for (let i = 0; i < jws.length; i++) {
      const changed = jws.slice(0, i) + (jws[i] === 'A' ? 'B' : 'A') + jws.slice(i + 1)
      expect(await codeOf(changed), `at ${i}`).not.toBe('ok')
    }
  })

  test('of another issuer, another typ or another shape is refused', async () => {
    const claims = { iss: key.did, eventHash: 'x' }
    expect(await codeOf(await signJws(key, PROMISE_TYP, claims))).toBe('ok')
    expect(await codeOf(await signJws(other, PROMISE_TYP, claims))).toBe('bad-jws')
    expect(await codeOf(await signJws(key, 'vm-event+jws', claims))).toBe('bad-header')
    expect(await codeOf(await signJws(key, PROMISE_TYP, {}))).toBe('bad-jws')
    expect(await codeOf(await signJws(key, PROMISE_TYP, []))).toBe('bad-jws')
    for (const text of ['null', '1', 'x', '', '{"iss":1,"iss":2}', '[]']) {
      const raw = { toJSON: () => null }
      expect(await codeOf(await signJws(key, PROMISE_TYP, raw))).toBe('bad-jws')
      const good = await signJws(key, PROMISE_TYP, claims)
      const input = `${good.split('.')[0]}.${Buffer.from(text).toString('base64url')}`
      const signature = Buffer.from(await key.sign(utf8(input))).toString('base64url')
      expect(await codeOf(`${input}.${signature}`)).toMatch(/^(bad-jws|duplicate-key)$/)
    }
  })

  test('of arbitrary text is refused with an error of ours', async () => {
    const text = fc.oneof(
      fc.string(),
      fc.array(fc.base64String(), { maxLength: 4 }).map((p) => p.join('.')),
    )
    await fc.assert(
      fc.asyncProperty(text, async (jws) => {
        expect(await codeOf(jws)).not.toBe('ok')
      }),
    )
  })
})
