import { secp256k1 } from '@noble/curves/secp256k1.js'
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { CompactSign, compactVerify, importJWK } from 'jose'
import { describe, expect, test } from 'vitest'
import { concat, fromBase64Url, fromHex, toBase64Url, utf8 } from '#core/bytes.ts'
import { didKey, didKeyUrl, parseDid } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import { ed25519Key } from '#core/node-keys.ts'
import { parseHeader, Signers, type Alg } from '#core/signer.ts'
import { otherS, testSigner } from '../support/signing.ts'
import signatures from '../vectors/ed25519.json' with { type: 'json' }
import jose from '../vectors/jose.json' with { type: 'json' }

const TYP = 'vm-event+jws'
const algs: readonly Alg[] = ['EdDSA', 'ES256', 'ES256K', 'EIP191']
const signers = new Signers(TYP)
const encode = (text: string): string => toBase64Url(utf8(text))
const headerOf = (alg: string, kid: string, more: object = {}): string =>
  encode(JSON.stringify({ alg, kid, typ: TYP, ...more }))

async function codeOf(header: string): Promise<string> {
  try {
    await signers.of(header)
    return 'ok'
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    return error.code
  }
}

/** Verifies a compact JWS under a key of ours, whatever its own header says. */
async function verifyUnder(did: string, alg: Alg, jws: string): Promise<boolean> {
  const [header, payload, signature] = jws.split('.')
  const signer = await signers.of(headerOf(alg, did))
  return signer.verify(utf8(`${header}.${payload}`), fromBase64Url(signature!))
}

const p256Did = (x: string, y: string): string => {
  const prefix = 2 + (fromBase64Url(y).at(-1)! & 1)
  return didKey('p256', concat(Uint8Array.of(prefix), fromBase64Url(x)))
}

describe('a signer', () => {
  test('verifies the ES256 example of RFC 7515 A.3 and the EdDSA example of RFC 8037 A.4', async () => {
    const es256 = p256Did(jose.es256.x, jose.es256.y)
    expect(await verifyUnder(es256, 'ES256', jose.es256.jws)).toBe(true)
    expect(await verifyUnder(es256, 'ES256', jose.es256.jws.replace('.D', '.E'))).toBe(false)
    const eddsa = didKey('ed25519', fromBase64Url(jose.eddsa.x))
    expect(await verifyUnder(eddsa, 'EdDSA', jose.eddsa.jws)).toBe(true)
    expect(await verifyUnder(eddsa, 'EdDSA', jose.eddsa.jws.replace('.h', '.i'))).toBe(false)
    const key = await ed25519Key(fromBase64Url(jose.eddsa.d))
    const input = jose.eddsa.jws.slice(0, jose.eddsa.jws.lastIndexOf('.'))
    expect(`${input}.${toBase64Url(await key.sign(utf8(input)))}`).toBe(jose.eddsa.jws)
  })

  test.each(signatures.cases)(
    'verifies test %# of RFC 8032 §7.1',
    async (_, pub, message, signature) => {
      const signer = await signers.of(headerOf('EdDSA', didKey('ed25519', fromHex(pub!))))
      expect(await signer.verify(fromHex(message!), fromHex(signature!))).toBe(true)
      expect(await signer.verify(fromHex(`${message}00`), fromHex(signature!))).toBe(false)
    },
  )

  test.each(algs)(
    'of %s verifies its own signatures, no changed one, and no one else’s',
    async (alg) => {
      const me = testSigner(alg, 'me')
      const input = utf8('header.payload')
      const signer = await signers.of(headerOf(alg, me.did))
      expect(signer).toMatchObject({ alg, kid: me.did, did: me.did, canonical: me.did })
      const good = me.sign(input)
      expect(await signer.verify(input, good)).toBe(true)
      for (let i = 0; i < good.length; i++) {
        const bad = good.slice()
        bad[i]! ^= 1
        expect(await signer.verify(input, bad), `byte ${i}`).toBe(false)
      }
      expect(await signer.verify(utf8('header.payloae'), good)).toBe(false)
      expect(await signer.verify(input, testSigner(alg, 'you').sign(input))).toBe(false)
      for (const size of [0, 1, 63, 66, 128])
        expect(await signer.verify(input, new Uint8Array(size)), `${size} bytes`).toBe(false)
      expect(await signer.verify(input, good.subarray(1))).toBe(false)
      expect(await signer.verify(input, concat(good, Uint8Array.of(0)))).toBe(false)
    },
  )

  test('of ES256 takes either s, of ES256K and EIP191 the low one only', async () => {
    const input = utf8('header.payload')
    const p = testSigner('ES256', 'me')
    const signature = p.sign(input)
    const order = BigInt('0xffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551')
    const s = BigInt(`0x${Buffer.from(signature.subarray(32)).toString('hex')}`)
    const other = concat(
      signature.subarray(0, 32),
      fromHex((order - s).toString(16).padStart(64, '0')),
    )
    const signer = await signers.of(headerOf('ES256', p.did))
    expect([await signer.verify(input, signature), await signer.verify(input, other)]).toEqual([
      true,
      true,
    ])
    for (const alg of ['ES256K', 'EIP191'] as const) {
      const me = testSigner(alg, 'me')
      const low = await signers.of(headerOf(alg, me.did))
      const good = me.sign(input)
      expect([await low.verify(input, good), await low.verify(input, otherS(good))]).toEqual([
        true,
        false,
      ])
    }
  })

  test('stays right when its key becomes hot, and after it was forgotten', async () => {
    for (const alg of ['ES256K', 'EIP191'] as const) {
      const me = testSigner(alg, 'hot')
      const mine = new Signers(TYP)
      for (let i = 0; i < 45; i++) {
        const input = utf8(`header.${i}`)
        const signer = await mine.of(headerOf(alg, me.did))
        const good = me.sign(input)
        expect(await signer.verify(input, good)).toBe(true)
        expect(await signer.verify(input, otherS(good))).toBe(false)
        expect(await signer.verify(utf8('x'), good)).toBe(false)
      }
    }
  })

  test('of one address is the same for every chain id and spelling of one header, under its own DID', async () => {
    const me = testSigner('EIP191', 'me')
    const input = utf8('header.payload')
    const other = me.did.replace(':1:', ':137:')
    const signer = await signers.of(headerOf('EIP191', other))
    expect(signer.did).toBe(other)
    expect(await signer.verify(input, me.sign(input))).toBe(true)
  })

  test('is forgotten after 4,096 others, and known again when it comes back', async () => {
    const mine = new Signers(TYP)
    const header = (i: number): string =>
      headerOf('EIP191', `did:pkh:eip155:1:0x${i.toString(16).padStart(40, '0')}`)
    const first = await mine.of(header(0))
    expect(await mine.of(header(0))).toBe(first)
    for (let i = 1; i <= 4096; i++) await mine.of(header(i))
    const again = await mine.of(header(0))
    expect(again).not.toBe(first)
    expect(again).toMatchObject({ did: first.did, alg: first.alg })
  })

  test('is kept without the event that its header was cut from, and not at all under a long header', async () => {
    setFlagsFromString('--expose-gc')
    const gc = runInNewContext('gc') as () => void
    const mine = new Signers(TYP)
    const heap = async (pad: string, tail: number): Promise<number> => {
      gc()
      const before = process.memoryUsage().heapUsed
      for (let i = 0; i < 500; i++) {
        const address = i.toString(16).padStart(40, '0')
        const text = JSON.stringify({
          alg: 'EIP191',
          kid: `did:pkh:eip155:7:0x${address}`,
          typ: TYP,
        })
        const whole = Buffer.from(`${encode(text + pad)}.${'x'.repeat(tail)}`).toString('latin1')
        await mine.of(whole.slice(0, whole.indexOf('.')))
      }
      gc()
      return (process.memoryUsage().heapUsed - before) / 500
    }
    // Bytes a signer: 64 kB of event or header would show.
    expect(await heap('', 60_000)).toBeLessThan(16_000)
    expect(await heap(' '.repeat(40_000), 0)).toBeLessThan(16_000)
  })
})

describe('jose', () => {
  test.each([
    ['EdDSA', 'Ed25519'],
    ['ES256', 'P-256'],
  ] as const)('and we agree on %s in both directions', async (alg, crv) => {
    const me = testSigner(alg, 'jose')
    const who = parseDid(me.did) as { key: Uint8Array }
    const point =
      alg === 'EdDSA'
        ? null
        : (await import('@noble/curves/nist.js')).p256.getPublicKey(me.secret, false)
    const jwk =
      point === null
        ? { kty: 'OKP', crv, x: toBase64Url(who.key), d: toBase64Url(me.secret) }
        : {
            kty: 'EC',
            crv,
            x: toBase64Url(point.subarray(1, 33)),
            y: toBase64Url(point.subarray(33)),
            d: toBase64Url(me.secret),
          }
    const key = await importJWK(jwk, alg)
    const header = { alg, kid: didKeyUrl(me.did), typ: TYP }
    const theirs = await new CompactSign(utf8('{"x":1}')).setProtectedHeader(header).sign(key)
    expect(await verifyUnder(me.did, alg, theirs)).toBe(true)
    const input = `${headerOf(alg, didKeyUrl(me.did))}.${encode('{"x":1}')}`
    const ours = `${input}.${toBase64Url(me.sign(utf8(input)))}`
    const { d: _, ...pub } = jwk
    const { payload } = await compactVerify(ours, await importJWK(pub, alg))
    expect(payload).toEqual(utf8('{"x":1}'))
  })
})

describe('a header', () => {
  const me = testSigner('EdDSA', 'me')
  const pairs: readonly [Alg, Alg][] = algs.flatMap((a) =>
    algs.filter((b) => a !== b).map((b): [Alg, Alg] => [a, b]),
  )
  test.each(pairs)('that pairs %s with the key of %s is refused', async (alg, kind) => {
    expect(await codeOf(headerOf(alg, testSigner(kind, 'me').did))).toBe('bad-header')
  })

  test.each<[string, string, string]>([
    ['alg none', headerOf('none', me.did), 'bad-header'],
    ['alg of a prototype', headerOf('toString', me.did), 'bad-header'],
    ['alg in lowercase', headerOf('eddsa', me.did), 'bad-header'],
    ['alg HS256', headerOf('HS256', me.did), 'bad-header'],
    ['alg Ed25519 (RFC 9864), not among ours', headerOf('Ed25519', me.did), 'bad-header'],
    ['no alg', encode(JSON.stringify({ kid: me.did, typ: TYP })), 'bad-header'],
    [
      'an alg that is no string',
      encode(JSON.stringify({ alg: ['EdDSA'], kid: me.did, typ: TYP })),
      'bad-header',
    ],
    ['no kid', encode(JSON.stringify({ alg: 'EdDSA', typ: TYP })), 'bad-header'],
    [
      'a kid that is no string',
      encode(JSON.stringify({ alg: 'EdDSA', kid: 1, typ: TYP })),
      'bad-header',
    ],
    ['a kid that is no DID', headerOf('EdDSA', 'key-1'), 'bad-did'],
    ['a foreign fragment', headerOf('EdDSA', `${me.did}#0`), 'bad-did'],
    ['another typ', headerOf('EdDSA', me.did, { typ: 'JWT' }), 'bad-header'],
    ['a typ in capitals', headerOf('EdDSA', me.did, { typ: 'VM-EVENT+JWS' }), 'bad-header'],
    ['no typ', encode(JSON.stringify({ alg: 'EdDSA', kid: me.did })), 'bad-header'],
    ...[
      'crit',
      'b64',
      'jwk',
      'jku',
      'x5u',
      'x5c',
      'x5t',
      'x5t#S256',
      'cty',
      'zip',
      '__proto__x',
    ].map((name): [string, string, string] => [
      name,
      headerOf('EdDSA', me.did, { [name]: ['b64'] }),
      'bad-header',
    ]),
    [
      '__proto__',
      encode(`{"alg":"EdDSA","kid":"${me.did}","typ":"${TYP}","__proto__":{}}`),
      'bad-header',
    ],
    [
      'alg twice',
      encode(`{"alg":"none","alg":"EdDSA","kid":"${me.did}","typ":"${TYP}"}`),
      'duplicate-key',
    ],
    [
      'alg twice, once escaped',
      encode(`{"alg":"EdDSA","\\u0061lg":"none","kid":"${me.did}","typ":"${TYP}"}`),
      'duplicate-key',
    ],
    ['an array', encode('[]'), 'bad-header'],
    ['null', encode('null'), 'bad-header'],
    ['no JSON', encode('x'), 'bad-header'],
    ['nothing', '', 'bad-header'],
    ['a BOM', encode(`\ufeff{"alg":"EdDSA","kid":"${me.did}","typ":"${TYP}"}`), 'bad-header'],
    ['65 brackets', encode('['.repeat(65)), 'bad-header'],
    ['invalid UTF-8', toBase64Url(Uint8Array.of(0x7b, 0xff, 0x7d)), 'bad-encoding'],
    ['padding', `${encode('{}')}=`, 'bad-encoding'],
    [
      'a P-256 x outside of the curve',
      headerOf('ES256', didKey('p256', fromHex(`02${'00'.repeat(31)}01`))),
      'bad-did',
    ],
    [
      'a secp256k1 x outside of the curve',
      headerOf('ES256K', didKey('secp256k1', fromHex(`02${'00'.repeat(31)}05`))),
      'bad-did',
    ],
    [
      'a secp256k1 prefix of 5',
      headerOf('ES256K', didKey('secp256k1', fromHex(`05${'00'.repeat(31)}01`))),
      'bad-did',
    ],
    [
      'an Ed25519 y outside of the curve',
      headerOf('EdDSA', didKey('ed25519', fromHex(`02${'00'.repeat(31)}`))),
      'bad-did',
    ],
    [
      'the Ed25519 identity, of small order',
      headerOf('EdDSA', didKey('ed25519', fromHex(`01${'00'.repeat(31)}`))),
      'bad-did',
    ],
    [
      'an Ed25519 point of order 8',
      headerOf(
        'EdDSA',
        didKey(
          'ed25519',
          fromHex('c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a'),
        ),
      ),
      'bad-did',
    ],
    [
      'an Ed25519 y of p + 1 (not canonical)',
      headerOf('EdDSA', didKey('ed25519', fromHex(`ee${'ff'.repeat(30)}7f`))),
      'bad-did',
    ],
  ])('with %s is refused', async (_, header, code) => {
    expect(await codeOf(header)).toBe(code)
  })

  test('may have its members in any order and spelling, and is long at will', async () => {
    const text = ` { "typ" : "${TYP}",\n"kid":"${me.did}", "\\u0061lg":"EdDSA"${' '.repeat(5000)}}`
    expect(await codeOf(encode(text))).toBe('ok')
    expect(parseHeader(encode(text), TYP)).toEqual({ alg: 'EdDSA', kid: me.did })
  })

  test('names the header, not the payload, when it is refused', () => {
    expect(() => parseHeader(encode('{'), TYP)).toThrow('The protected header is not JSON.')
  })
})

test('a secp256k1 key is one person under did:key and another under did:pkh', () => {
  const secret = testSigner('ES256K', 'me').secret
  const did = didKey('secp256k1', secp256k1.getPublicKey(secret))
  expect(parseDid(did).canonical).toBe(did)
})
