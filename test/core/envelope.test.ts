import { p256 } from '@noble/curves/nist.js'
import { CompactSign, compactVerify, importJWK } from 'jose'
import { createHash } from 'node:crypto'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fromUtf8, toBase64Url, toHex, utf8 } from '#core/bytes.ts'
import { checksumAddress, didKeyUrl, parseDid } from '#core/did.ts'
import {
  checkTime,
  EVENT_TYP,
  MAX_AHEAD_MS,
  MAX_EVENT_BYTES,
  openEnvelope,
  readEvent,
  verifyEnvelope,
} from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { Signers, type Alg } from '#core/signer.ts'
import { cloudEvent, signEvent, sizedEvent, testSigner } from '../support/signing.ts'

const algs: readonly Alg[] = ['EdDSA', 'ES256', 'ES256K', 'EIP191']
const signers = new Signers(EVENT_TYP)
const me = testSigner('EdDSA', 'me')
const sha = (data: string): string => createHash('sha256').update(data).digest('hex')

async function judge(bytes: Uint8Array | string): Promise<string> {
  try {
    const open = await openEnvelope(typeof bytes === 'string' ? utf8(bytes) : bytes, signers)
    await verifyEnvelope(open)
    return 'ok'
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    expect(error.status, error.code).toBeLessThan(500)
    return error.code
  }
}

describe('an envelope', () => {
  test.each(algs)('of %s opens, verifies and has the hashes of its very bytes', async (alg) => {
    const signer = testSigner(alg, 'me')
    const jws = signEvent(signer, {
      payload: { id: 'x', subject: 's', time: '2026-11-23T05:36:00Z' },
    })
    const open = await openEnvelope(utf8(jws), signers)
    await verifyEnvelope(open)
    expect(toHex(open.eventHash)).toBe(sha(jws))
    expect(toHex(open.signingHash)).toBe(sha(jws.slice(0, jws.lastIndexOf('.'))))
    expect(fromUtf8(open.signingInput)).toBe(jws.slice(0, jws.lastIndexOf('.')))
    const event = {
      id: 'x',
      source: signer.did,
      type: 'test.event',
      subject: 's',
      timeAt: Date.parse('2026-11-23T05:36:00Z'),
    }
    expect(open.event).toEqual(event)
    expect(readEvent(utf8(jws))).toEqual({ ...event, eventHash: open.eventHash })
  })

  test('signed twice by ES256 is two events of one statement', async () => {
    const p = testSigner('ES256', 'me')
    const payloadText = JSON.stringify(cloudEvent(p))
    const [a, b] = await Promise.all(
      [1, 2].map(() => openEnvelope(utf8(signEvent(p, { payloadText })), signers)),
    )
    expect(a!.signingHash).toEqual(b!.signingHash)
    expect(a!.eventHash).not.toEqual(b!.eventHash)
    await verifyEnvelope(a!)
    await verifyEnvelope(b!)
  })

  test('signed by jose is accepted, and ours by jose', async () => {
    for (const alg of ['EdDSA', 'ES256'] as const) {
      const signer = testSigner(alg, 'jose')
      const d = toBase64Url(signer.secret)
      const point = p256.getPublicKey(signer.secret, false)
      const who = parseDid(signer.did) as { key: Uint8Array }
      const jwk =
        alg === 'EdDSA'
          ? { kty: 'OKP', crv: 'Ed25519', x: toBase64Url(who.key), d }
          : {
              kty: 'EC',
              crv: 'P-256',
              x: toBase64Url(point.subarray(1, 33)),
              y: toBase64Url(point.subarray(33)),
              d,
            }
      const header = { alg, kid: didKeyUrl(signer.did), typ: EVENT_TYP }
      const payload = utf8(JSON.stringify(cloudEvent(signer)))
      const theirs = await new CompactSign(payload)
        .setProtectedHeader(header)
        .sign(await importJWK(jwk, alg))
      expect(await judge(theirs)).toBe('ok')
      const { d: _, ...pub } = jwk
      await compactVerify(signEvent(signer), await importJWK(pub, alg))
    }
  })

  test('is a CloudEvent whose source is the DID of kid, byte for byte', async () => {
    expect(await judge(signEvent(me, { header: { kid: didKeyUrl(me.did) } }))).toBe('ok')
    expect(await judge(signEvent(me, { payload: { source: didKeyUrl(me.did) } }))).toBe('bad-event')
    expect(
      await judge(signEvent(me, { payload: { source: testSigner('EdDSA', 'you').did } })),
    ).toBe('bad-event')
    const wallet = testSigner('EIP191', 'me')
    const lower = wallet.did
    const at = lower.lastIndexOf(':') + 1
    const mixed = lower.slice(0, at) + checksumAddress(lower.slice(at))
    const both = { header: { kid: mixed }, payload: { source: mixed } }
    expect(await judge(signEvent(wallet, both))).toBe('ok')
    expect(await judge(signEvent(wallet, { header: { kid: mixed } }))).toBe('bad-event')
    expect(await judge(signEvent(wallet, { payload: { source: mixed } }))).toBe('bad-event')
  })

  const good = signEvent(me)
  const [h, p, s] = good.split('.') as [string, string, string]
  const lastOf = (part: string): string => {
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
    return part.slice(0, -1) + alphabet[alphabet.indexOf(part.at(-1)!) ^ 1]!
  }
  test.each<[string, string, string]>([
    ['nothing', '', 'bad-jws'],
    ['two parts', `${h}.${p}`, 'bad-jws'],
    ['four parts', `${good}.`, 'bad-jws'],
    ['five parts (JWE)', `${good}.a.b`, 'bad-jws'],
    ['an empty header', `.${p}.${s}`, 'bad-header'],
    ['an empty payload', `${h}..${s}`, 'bad-event'],
    ['an empty signature', `${h}.${p}.`, 'bad-signature'],
    ['a newline inside', `${h}.${p}\n.${s}`, 'bad-encoding'],
    ['a trailing newline', `${good}\n`, 'bad-encoding'],
    ['padding', `${good}==`, 'bad-encoding'],
    ['spare bits in the signature', `${h}.${p}.${lastOf(s)}`, 'bad-encoding'],
    ['standard base64', `${h}.${p}.${s.slice(0, -2)}+/`, 'bad-encoding'],
    ['a signature of 63 bytes', `${h}.${p}.${s.slice(0, 84)}`, 'bad-signature'],
    [
      'duplicate keys',
      signEvent(me, { payloadText: `${JSON.stringify(cloudEvent(me)).slice(0, -1)},"id":"y"}` }),
      'duplicate-key',
    ],
    [
      'a BOM',
      signEvent(me, { payloadText: `\ufeff${JSON.stringify(cloudEvent(me))}` }),
      'bad-event',
    ],
    [
      'invalid UTF-8',
      signEvent(me, { payloadText: Uint8Array.of(0x7b, 0xff, 0x7d) }),
      'bad-encoding',
    ],
    [
      'another signer',
      signEvent(me, { signature: () => testSigner('EdDSA', 'you').sign(utf8(`${h}.${p}`)) }),
      'bad-signature',
    ],
  ])('with %s is refused', async (_, jws, code) => {
    expect(await judge(jws)).toBe(code)
  })

  test('of 65,535 bytes passes and of 65,536 does not', async () => {
    expect(await judge(sizedEvent(me, MAX_EVENT_BYTES))).toBe('ok')
    expect(await judge(sizedEvent(me, MAX_EVENT_BYTES + 1))).toBe('event-too-large')
  })

  test('with any one character changed is refused', async () => {
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.= \n'
    await fc.assert(
      fc.asyncProperty(
        fc.nat(good.length - 1),
        fc.constantFrom(...alphabet.split('')),
        async (at, c) => {
          fc.pre(good[at] !== c)
          expect(await judge(good.slice(0, at) + c + good.slice(at + 1))).not.toBe('ok')
        },
      ),
      { numRuns: 400 },
    )
  })

  test('of arbitrary bytes is refused with an error of ours that is the sender’s fault', async () => {
    const part = fc.oneof(
      fc.constantFrom(h, p, s),
      fc.base64String().map((b) => b.replaceAll(/[=+/]/g, '')),
    )
    const near = fc.array(part, { maxLength: 4 }).map((parts) => utf8(parts.join('.')))
    await fc.assert(
      fc.asyncProperty(fc.oneof(near, fc.uint8Array({ maxLength: 300 })), async (bytes) => {
        const found = await judge(bytes)
        expect(found === 'ok').toBe(fromLatin(bytes) === good)
      }),
      { numRuns: 500 },
    )
  })
})

function fromLatin(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('latin1')
}

describe('the clock', () => {
  const nowAt = Date.parse('2026-11-23T05:36:00Z')
  const event = { id: 'x', source: 's', type: 't', subject: null, timeAt: nowAt }
  const code = (timeAt: number, maxAgeMs: number): string => {
    try {
      checkTime({ ...event, timeAt }, { nowAt, maxAgeMs })
      return 'ok'
    } catch (error) {
      return (error as VaultMeshError).code
    }
  }

  test('lets an event be 300 s ahead and no more', () => {
    expect(code(nowAt + MAX_AHEAD_MS, 0)).toBe('ok')
    expect(code(nowAt + MAX_AHEAD_MS + 1, 0)).toBe('time-in-future')
  })

  test('lets an event be as old as the node says, or of any age for 0', () => {
    expect(code(nowAt - 60_000, 60_000)).toBe('ok')
    expect(code(nowAt - 60_001, 60_000)).toBe('time-too-old')
    expect(code(-1e13, 0)).toBe('ok')
  })
})
