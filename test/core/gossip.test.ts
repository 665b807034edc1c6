/**
 * An envelope is believed only as it was signed: by whom, for whom, in which minute.
 */

import { ed25519 } from '@noble/curves/ed25519.js'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { toBase64Url, utf8 } from '#core/bytes.ts'
import { canonicalDid, checksumAddress, didKey, didKeyUrl } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  GOSSIP_TYP,
  MAX_ENVELOPE_BYTES,
  readEnvelope,
  replayKey,
  replayUntil,
  signEnvelope,
  verifyEnvelope,
  type EnvelopeClaims,
  type EnvelopeTrust,
  type Verified,
} from '#core/gossip.ts'
import { deriveIdentity, signJws } from '#core/node-keys.ts'
import { isValidKey, rotationInput, signRotation, verifyStatements } from '#core/rotation.ts'
import { formatVkey, verifierKey } from '#core/signed-note.ts'
import { testSigner } from '../support/signing.ts'

const NOW = 1_795_414_936_500
const IAT = Math.floor(NOW / 1000)
const key = await deriveIdentity(new Uint8Array(32).fill(1), 1)
const next = await deriveIdentity(new Uint8Array(32).fill(1), 2)
const stranger = await deriveIdentity(new Uint8Array(32).fill(2), 1)
const me = (await deriveIdentity(new Uint8Array(32).fill(3), 1)).did
const wallet = testSigner('EIP191', 'node')
const claims: EnvelopeClaims = {
  iss: key.did,
  aud: me,
  iat: IAT,
  exp: IAT + 60,
  jti: 'one',
  lawHash: `sha256:${'0'.repeat(64)}`,
  body: { tips: [{ origin: 'vm.example/log', size: 7 }] },
}
const vkey = formatVkey(verifierKey('vm.example/log', key.publicKey))
const introduction = {
  url: 'https://vm.example',
  vkey,
  origin: 'vm.example/log',
  statements: ['a.b.c'],
}
const trust: EnvelopeTrust = {
  audiences: [me],
  nowAt: NOW,
  isKey: (did) => did === key.did,
}

/** Signed without the guards of `signEnvelope`. */
async function forge(change: Readonly<Record<string, unknown>>, by = key): Promise<Uint8Array> {
  return utf8(await signJws(by, GOSSIP_TYP, { ...claims, ...change }))
}

function codeOf(run: () => unknown): string {
  try {
    run()
    return 'ok'
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    return error.code
  }
}

async function verify(bytes: Uint8Array, change: Partial<EnvelopeTrust> = {}): Promise<Verified> {
  return verifyEnvelope(readEnvelope(bytes), { ...trust, ...change })
}

describe('an envelope', () => {
  test('says to its recipient what its sender signed', async () => {
    const all = { ...claims, ...introduction }
    for (const said of [claims, all]) {
      const verified = await verify(utf8(await signEnvelope(key, said)))
      expect(verified).toEqual({ iss: key.did, keyDid: key.did, claims: said })
    }
  })

  test('of any life of 1 to 60 s is taken from 60 s before iat until exp, and never else', async () => {
    const life = fc.integer({ min: 1, max: 60 })
    const ahead = fc.oneof(
      fc.integer({ min: -70_000, max: 70_000 }),
      fc.constantFrom(-60_001, -60_000, 0, 59_999, 60_000),
    )
    await fc.assert(
      fc.asyncProperty(life, ahead, async (seconds, after) => {
        const bytes = utf8(await signEnvelope(key, { ...claims, exp: IAT + seconds }))
        const verdict = verify(bytes, { nowAt: IAT * 1000 + after })
        if (after >= -60_000 && after < seconds * 1000) {
          expect((await verdict).claims.exp).toBe(IAT + seconds)
        } else await expect(verdict).rejects.toMatchObject({ code: 'stale-envelope' })
      }),
    )
  })

  test.each([0, -1, 61, 3600])(
    'that lives %i s is stale, and cannot be signed',
    async (seconds) => {
      const exp = IAT + seconds
      await expect(verify(await forge({ exp }), { nowAt: IAT * 1000 - 1 })).rejects.toMatchObject({
        code: 'stale-envelope',
        message: expect.stringContaining('"exp"'),
      })
      await expect(signEnvelope(key, { ...claims, exp })).rejects.toMatchObject({
        code: 'stale-envelope',
      })
    },
  )

  test('is for one recipient, whose DID is compared in canonical form', async () => {
    const address = wallet.did.split(':').at(-1)!
    const mixed = wallet.did.replace(address, checksumAddress(address))
    const audiences = [me, canonicalDid(mixed)]
    for (const aud of [me, mixed, wallet.did]) await verify(await forge({ aud }), { audiences })
    for (const aud of [stranger.did, '', 'vm.example/log', `${me}#${me.slice(8)}`]) {
      await expect(verify(await forge({ aud }), { audiences })).rejects.toMatchObject({
        code: 'wrong-audience',
      })
    }
  })

  test('is from a peer only by a key that is valid for it now', async () => {
    const statement = await signRotation(key, {
      iss: key.did,
      key: next.did,
      epoch: 2,
      nbf: IAT,
      end: IAT + 30,
      iat: IAT,
    })
    const history = await verifyStatements(key.did, [statement])
    const isKey = (did: string, at: number): boolean => isValidKey(history, did, at)
    const byNext = await forge({}, next)
    expect(await verify(byNext, { isKey })).toMatchObject({ iss: key.did, keyDid: next.did })
    expect(await verify(await forge({}), { isKey })).toMatchObject({ keyDid: key.did })
    const late = { isKey, nowAt: (IAT + 30) * 1000 }
    await verify(byNext, late)
    await expect(verify(await forge({}), late)).rejects.toMatchObject({ code: 'unknown-peer' })
    await expect(verify(await forge({}, stranger), { isKey })).rejects.toMatchObject({
      code: 'unknown-peer',
    })
  })

  test('of a did:pkh node is signed by its did:key and known by its canonical name', async () => {
    const address = wallet.did.split(':').at(-1)!
    const mixed = wallet.did.replace(address, checksumAddress(address))
    const said = { iss: wallet.did, key: key.did, epoch: 1, nbf: IAT, end: null, iat: IAT }
    const input = rotationInput(said, wallet.did, 'EIP191')
    const statements = [`${input}.${toBase64Url(wallet.sign(utf8(input)))}`]
    const opened = readEnvelope(await forge({ iss: mixed, statements }))
    expect(opened.iss).toBe(wallet.did)
    const history = await verifyStatements(opened.iss, opened.unverified.statements ?? [])
    const isKey = (did: string, at: number): boolean => isValidKey(history, did, at)
    expect(await verifyEnvelope(opened, { ...trust, isKey })).toMatchObject({ iss: wallet.did })
  })

  test('with any character changed is refused, when it is read or when it is verified', async () => {
    const text = await signEnvelope(key, claims)
    const isKey = (): boolean => true
    for (let i = 0; i < text.length; i += 2) {
      const changed = text.slice(0, i) + (text[i] === 'A' ? 'B' : 'A') + text.slice(i + 1)
      await expect((async () => verify(utf8(changed), { isKey }))(), `at ${i}`).rejects.toThrow(
        VaultMeshError,
      )
    }
  })

  test('is verified over the bytes that were read, whatever becomes of the buffer', async () => {
    const bytes = await forge({})
    const opened = readEnvelope(bytes)
    bytes.fill(0)
    expect((await verifyEnvelope(opened, trust)).claims).toEqual(claims)
    const other = { ...opened, signature: readEnvelope(await forge({ jti: 'two' })).signature }
    await expect(verifyEnvelope(other, trust)).rejects.toMatchObject({ code: 'bad-signature' })
  })

  test('that is wrong in every way is refused for the cheapest reason', async () => {
    let asked = 0
    const isKey = (): boolean => {
      asked++
      return false
    }
    const codes: string[] = []
    for (const change of [{}, { aud: me }, { aud: me, exp: IAT + 60 }]) {
      const forged = await forge({ aud: stranger.did, exp: IAT - 5, ...change }, stranger)
      forged[forged.length - 10]! ^= 1
      await verify(forged, { isKey }).catch((e: VaultMeshError) => codes.push(e.code))
      await verify(forged, { isKey: () => true }).catch((e: VaultMeshError) => codes.push(e.code))
    }
    expect(codes).toEqual([
      'wrong-audience',
      'wrong-audience',
      'stale-envelope',
      'stale-envelope',
      'unknown-peer',
      'bad-signature',
    ])
    expect(asked).toBe(1)
  })

  test('by a key of small order is refused, which would sign everything', async () => {
    const weak = didKey('ed25519', ed25519.Point.ZERO.toBytes())
    const by = { ...key, did: weak, kid: didKeyUrl(weak) }
    await expect(verify(await forge({}, by), { isKey: () => true })).rejects.toMatchObject({
      code: 'bad-did',
    })
  })

  test('unverified does not pass for verified', async () => {
    const opened = readEnvelope(await forge({}))
    const believe = (verified: Verified): string => verified.iss
    // @ts-expect-error: the compiler keeps what is unverified out
    believe(opened)
    // @ts-expect-error: so it does with a look-alike
    believe({ iss: opened.iss, keyDid: opened.keyDid, claims: opened.unverified })
    expect('claims' in opened).toBe(false)
  })
})

describe('what is read as an envelope', () => {
  test.each([
    ['without an issuer', { iss: undefined }, '"iss"'],
    ['of a P-256 key', { iss: testSigner('ES256', 'x').did }, '"iss"'],
    ['of a DID URL', { iss: key.kid }, '"iss"'],
    ['without a recipient', { aud: undefined }, '"aud"'],
    ['for two recipients', { aud: [me, key.did] }, '"aud"'],
    ['with a fraction of a second', { iat: IAT + 0.5 }, '"iat"'],
    ['with a time in quotes', { exp: String(IAT + 60) }, '"exp"'],
    ['from before 1970', { iat: -1 }, '"iat"'],
    ['without a jti', { jti: undefined }, '"jti"'],
    ['with an empty jti', { jti: '' }, '"jti"'],
    ['with a jti of 65 characters', { jti: 'x'.repeat(65) }, '"jti"'],
    ['with a jti of two lines', { jti: 'a\n' }, '"jti"'],
    ['with a space in jti', { jti: 'a b' }, '"jti"'],
    ['without a law', { lawHash: undefined }, '"lawHash"'],
    ['with an empty law', { lawHash: '' }, '"lawHash"'],
    ['with an endless law', { lawHash: 'x'.repeat(129) }, '"lawHash"'],
    ['without a body', { body: undefined }, '"body"'],
    ['with a list for a body', { body: [] }, '"body"'],
    ['with null for a body', { body: null }, '"body"'],
    ['with text for a body', { body: 'x' }, '"body"'],
    ['with a claim that we do not read', { nbf: IAT }, '"nbf"'],
    ['with a URL of a file', { url: 'file:///etc/passwd' }, '"url"'],
    ['with a URL that is none', { url: 'https://' }, '"url"'],
    ['with an endless URL', { url: `https://x/${'x'.repeat(2048)}` }, '"url"'],
    ['with a vkey that is none', { vkey: 'x' }, '"vkey"'],
    ['with a vkey of another hash', { vkey: vkey.replace('vm.', 'wm.') }, '"vkey"'],
    ['with an origin of two lines', { origin: 'a\nb' }, '"origin"'],
    ['with an origin of 256 bytes', { origin: 'é'.repeat(128) }, '"origin"'],
    ['with a statement that is no text', { statements: [1] }, '"statements.0"'],
    ['with a statement too long', { statements: ['x'.repeat(4097)] }, '"statements.0"'],
    ['with 65 statements', { statements: Array.from({ length: 65 }, () => 'x') }, '"statements"'],
  ])('%s is refused, and cannot be signed', async (_, change, why) => {
    const bytes = await forge(change)
    expect(() => readEnvelope(bytes)).toThrow(
      expect.objectContaining({ code: 'bad-envelope', message: expect.stringContaining(why) }),
    )
    await expect(
      signEnvelope(key, { ...claims, ...change } as unknown as EnvelopeClaims),
    ).rejects.toMatchObject({ code: 'bad-envelope' })
  })

  test('has exactly three parts, one header and one payload that all parsers read alike', async () => {
    const text = await signEnvelope(key, claims)
    const [header, payload, signature] = text.split('.') as [string, string, string]
    const b64 = (s: string): string => toBase64Url(utf8(s))
    const head = (change: object): string =>
      b64(JSON.stringify({ alg: 'EdDSA', kid: key.kid, typ: GOSSIP_TYP, ...change }))
    const cases: (readonly [string, string])[] = [
      [`${header}.${payload}`, 'bad-jws'],
      [`${text}.`, 'bad-jws'],
      ['.'.repeat(MAX_ENVELOPE_BYTES), 'bad-jws'],
      ['', 'bad-jws'],
      [`${head({ typ: 'vm-event+jws' })}.${payload}.${signature}`, 'bad-header'],
      [`${head({ alg: 'none' })}.${payload}.${signature}`, 'bad-header'],
      [`${head({ alg: 'ES256' })}.${payload}.${signature}`, 'bad-header'],
      [`${head({ crit: [] })}.${payload}.${signature}`, 'bad-header'],
      [`${head({ kid: undefined })}.${payload}.${signature}`, 'bad-header'],
      [`${head({ kid: wallet.did })}.${payload}.${signature}`, 'bad-header'],
      [`${head({ alg: 'EIP191', kid: wallet.did })}.${payload}.${signature}`, 'bad-header'],
      [`${head({ kid: testSigner('ES256', 'x').did })}.${payload}.${signature}`, 'bad-header'],
      [`${head({ kid: 'did:web:x' })}.${payload}.${signature}`, 'bad-did'],
      [`${header}.${payload}=.${signature}`, 'bad-encoding'],
      [`${header}.${payload}.${signature}\n`, 'bad-encoding'],
      [`${header}.${payload}.${signature}é`, 'bad-encoding'],
      [`${header}.${toBase64Url(Uint8Array.of(0xff))}.${signature}`, 'bad-encoding'],
      [`${header}.${b64('{"jti":"a","jti":"b"}')}.${signature}`, 'duplicate-key'],
      [`${header}.${b64('{')}.${signature}`, 'bad-envelope'],
      [`${header}.${b64('[]')}.${signature}`, 'bad-envelope'],
      [`${header}.${b64('null')}.${signature}`, 'bad-envelope'],
      [`${header}.${b64('['.repeat(65) + ']'.repeat(65))}.${signature}`, 'bad-envelope'],
      [`${header}.${b64(`{"__proto__":${JSON.stringify(claims)}}`)}.${signature}`, 'bad-envelope'],
    ]
    for (const [hostile, code] of cases) {
      expect(
        codeOf(() => readEnvelope(utf8(hostile))),
        hostile.slice(0, 400),
      ).toBe(code)
    }
    const did = { ...claims, iss: 'did:web:x' }
    expect(codeOf(() => readEnvelope(utf8(`${header}.${b64(JSON.stringify(did))}.AA`)))).toBe(
      'bad-did',
    )
  })

  test('is at most 262,144 bytes, counted before anything is decoded', async () => {
    const of = (size: number): EnvelopeClaims => ({ ...claims, body: { pad: 'x'.repeat(size) } })
    const bare = (await signEnvelope(key, of(0))).length
    // 4 characters for 3 bytes: walk to the last body that fits.
    let size = Math.floor(((MAX_ENVELOPE_BYTES - bare) * 3) / 4)
    while ((await signJws(key, GOSSIP_TYP, of(size + 1))).length <= MAX_ENVELOPE_BYTES) size++
    await verify(utf8(await signEnvelope(key, of(size))))
    await expect(signEnvelope(key, of(size + 3))).rejects.toMatchObject({
      code: 'envelope-too-large',
    })
    expect(codeOf(() => readEnvelope(new Uint8Array(MAX_ENVELOPE_BYTES)))).toBe('bad-jws')
    const large = new Uint8Array(MAX_ENVELOPE_BYTES + 1)
    expect(codeOf(() => readEnvelope(large))).toBe('envelope-too-large')
  })

  test('may hold any JSON object as its body, whatever its keys', async () => {
    await fc.assert(
      fc.asyncProperty(fc.dictionary(fc.string(), fc.jsonValue({ maxDepth: 4 })), async (value) => {
        const body = JSON.parse(JSON.stringify(value)) as EnvelopeClaims['body']
        const { claims: said } = await verify(utf8(await signEnvelope(key, { ...claims, body })))
        expect(JSON.stringify(said.body)).toBe(JSON.stringify(body))
      }),
    )
    const text = JSON.stringify(claims).replace('{"tips"', '{"__proto__":{"admin":true},"tips"')
    const input = `${(await signEnvelope(key, claims)).split('.')[0]}.${toBase64Url(utf8(text))}`
    const jws = `${input}.${toBase64Url(await key.sign(utf8(input)))}`
    const { body } = (await verify(utf8(jws))).claims
    expect(Object.keys(body)).toEqual(['__proto__', 'tips'])
    expect(body['admin']).toBeUndefined()
  })

  test('if it is arbitrary bytes, is refused with an error of ours', () => {
    const bytes = fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      fc.array(fc.base64String(), { maxLength: 4 }).map((p) => utf8(p.join('.'))),
    )
    fc.assert(
      fc.property(bytes, (hostile) => {
        expect(codeOf(() => readEnvelope(hostile))).not.toBe('ok')
      }),
    )
  })
})

describe('a repeat', () => {
  const dids = fc.constantFrom(key.did, stranger.did, wallet.did, me)
  const jtis = fc.stringMatching(/^[\w.-]{1,64}$/)

  test('is known by sender and jti: two envelopes share a key only if they share both', () => {
    fc.assert(
      fc.property(dids, jtis, dids, jtis, (a, i, b, j) => {
        expect(replayKey(a, i) === replayKey(b, j)).toBe(a === b && i === j)
      }),
    )
    const address = wallet.did.split(':').at(-1)!
    const mixed = wallet.did.replace(address, checksumAddress(address))
    expect(replayKey(mixed, 'a')).toBe(replayKey(wallet.did, 'a'))
  })

  test('is remembered for as long as the envelope could be taken, and 60 s more', async () => {
    expect(replayUntil(claims)).toBe((IAT + 120) * 1000)
    const bytes = await forge({})
    await expect(verify(bytes, { nowAt: replayUntil(claims) - 60_000 })).rejects.toMatchObject({
      code: 'stale-envelope',
    })
    await verify(bytes, { nowAt: replayUntil(claims) - 60_001 })
  })
})
