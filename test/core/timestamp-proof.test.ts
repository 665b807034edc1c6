import { writeFile } from 'node:fs/promises'
import path from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { concat, equal, fromHex, toHex, utf8 } from '#core/bytes.ts'
import type { Der } from '#core/der.ts'
import { children, readDer } from '#core/der.ts'
import { VaultMeshError } from '#core/errors.ts'
import { certificateExpiry, certificateSha256, verifyTimestamp } from '#core/timestamp-proof.ts'
import { timestampRequest, tokenFromResponse } from '#core/timestamp-request.ts'
import type { Authority, Variant } from '../../scripts/devnet/tsa-authority.ts'
import { openssl, reply } from '../../scripts/devnet/tsa-authority.ts'
import {
  authorities,
  der,
  forge,
  parts,
  rebuild,
  stamp,
  tstInfoOf,
  withField,
} from '../support/tsa.ts'

const root = fromHex('5a'.repeat(32))
const nonce = fromHex('f0e1d2c3b4a5968778695a4b3c2d1e0f')
const POLICY = '1.3.6.1.4.1.99999.1.1'

let home: Awaited<ReturnType<typeof authorities>>
let good: Authority
let foreign: Authority
let token: Uint8Array
let roots: string[]

beforeAll(async () => {
  home = await authorities()
  good = await home.make()
  foreign = await home.make()
  token = await stamp(good, root, nonce)
  roots = [good.rootPem]
})
afterAll(() => home.remove())

/** The check that refuses, or 'verified'. */
async function outcome(
  bytes: Uint8Array,
  change: Partial<Parameters<typeof verifyTimestamp>[0]> = {},
): Promise<string> {
  try {
    await verifyTimestamp({ token: bytes, root, nonce, trustedRoots: roots, ...change })
    return 'verified'
  } catch (error) {
    if (!(error instanceof VaultMeshError) || error.code !== 'bad-timestamp') throw error
    expect(error.message).toContain(`${String(error.extra['check'])}: `)
    return String(error.extra['check'])
  }
}

describe('a request', () => {
  test('is read by openssl as SHA-256 of the root, our nonce and certReq', async () => {
    await writeFile(path.join(home.dir, 'q.tsq'), timestampRequest({ root, nonce }))
    const text = (await openssl(home.dir, ['ts', '-query', '-in', 'q.tsq', '-text'])).toString()
    expect(text).toContain('Hash Algorithm: sha256')
    expect(text).toContain('Nonce: 0xF0E1D2C3B4A5968778695A4B3C2D1E0F')
    expect(text).toContain('Certificate required: yes')
  })

  test('spells any nonce as a minimal positive INTEGER', () => {
    for (const [bytes, integer] of [
      ['00000000000000000000000000000080', '02020080'],
      ['0000000000000000000000000000007f', '02017f'],
      ['7fffffffffffffffffffffffffffffff', '02107fffffffffffffffffffffffffffffff'],
      ['80000000000000000000000000000000', '02110080000000000000000000000000000000'],
    ] as const) {
      const request = toHex(timestampRequest({ root, nonce: fromHex(bytes) }))
      expect(request.endsWith(`${integer}0101ff`)).toBe(true)
      expect(request.slice(2, 4)).toBe((request.length / 2 - 2).toString(16))
    }
  })

  test('is refused for a root that is not 32 bytes', () => {
    expect(() => timestampRequest({ root: utf8('x'), nonce })).toThrow('32 bytes')
  })
})

describe('a response', () => {
  test('without a grant is an error that carries status and failInfo', async () => {
    const response = await reply(good, timestampRequest({ root, nonce }), 'rejecting')
    let error: unknown
    try {
      tokenFromResponse(response)
    } catch (thrown) {
      error = thrown
    }
    expect(error).toBeInstanceOf(VaultMeshError)
    expect((error as VaultMeshError).message).toContain('rejection (badAlg; ')
    expect((error as VaultMeshError).extra).toMatchObject({ pkiStatus: 2, failInfo: 'badAlg' })
  })

  test('is refused when cut, empty, not DER, or followed by more bytes', async () => {
    const response = await reply(good, timestampRequest({ root, nonce }))
    for (const bytes of [
      response.slice(0, -1),
      new Uint8Array(),
      utf8('<html>'),
      concat(response, utf8('x')),
    ]) {
      expect(() => tokenFromResponse(bytes)).toThrow(VaultMeshError)
    }
    expect(() => tokenFromResponse(fromHex('30053003020100'))).toThrow('exactly one token')
  })
})

describe('a sound token', () => {
  test('of an EC authority verifies, and openssl agrees', async () => {
    const verdict = await verifyTimestamp({
      token,
      root,
      nonce,
      policies: [POLICY],
      trustedRoots: roots,
    })
    expect(verdict).toMatchObject({ policy: POLICY, accuracyMs: 1500 })
    expect(Math.abs(verdict.genTime - Date.now())).toBeLessThan(60_000)
    expect(verdict.rootSha256).toBe(certificateSha256(good.rootPem))
    expect(await opensslAgrees(good, token)).toContain('Verification: OK')
  })

  test('of an RSA authority verifies, and openssl agrees', async () => {
    const rsa = await home.make('rsa')
    const stamped = await stamp(rsa, root, nonce)
    expect(await outcome(stamped, { trustedRoots: [rsa.rootPem] })).toBe('verified')
    expect(await opensslAgrees(rsa, stamped)).toContain('Verification: OK')
    // rsaEncryption as signature algorithm (RFC 3370 §3.2), as CMS libraries write it.
    const cms = await forge(rsa, tstInfoOf(stamped))
    expect(await outcome(cms, { trustedRoots: [rsa.rootPem] })).toBe('verified')
    expect(
      await outcome(flipped(stamped, stamped.length - 9), { trustedRoots: [rsa.rootPem] }),
    ).toBe('signature')
  }, 60_000)

  test('made by another CMS writer verifies, with the signer named by issuer or by key', async () => {
    const info = tstInfoOf(token)
    expect(await outcome(await forge(good, info))).toBe('verified')
    expect(await outcome(await forge(good, info, { extra: ['-keyid'] }))).toBe('verified')
    expect(await outcome(await forge(good, info, { extra: ['-md', 'sha384'] }))).toBe('verified')
    expect(await outcome(await forge(good, info, { extra: ['-md', 'sha512'] }))).toBe('verified')
  })

  test('keeps its verdict after every certificate has expired', async () => {
    vi.useFakeTimers({ now: Date.UTC(2090, 0) })
    try {
      expect(await outcome(token)).toBe('verified')
    } finally {
      vi.useRealTimers()
    }
  })

  test('may go without nonce and accuracy when no nonce was asked for', async () => {
    const info = withField(withField(tstInfoOf(token), 7, null), 5, null)
    const bare = await forge(good, info)
    const verdict = await verifyTimestamp({ token: bare, root, trustedRoots: roots })
    expect(verdict.accuracyMs).toBeNull()
    expect(await outcome(bare)).toBe('nonce')
  })

  test('gives genTime in ms, finer digits floored', async () => {
    const at = (text: string) => forge(good, withField(tstInfoOf(token), 4, der(0x18, utf8(text))))
    const soon = new Date(Date.now() + 86_400_000).toISOString().replaceAll(/[-:T]|\..*/g, '')
    const verdict = await verifyTimestamp({
      token: await at(`${soon}.6119Z`),
      root,
      trustedRoots: roots,
    })
    expect(verdict.genTime % 1000).toBe(611)
    for (const text of [
      soon,
      `${soon}+0100`,
      `${soon.slice(0, 12)}Z`,
      '20260230000000Z',
      `${soon}.Z`,
    ]) {
      expect(await outcome(await at(text)), text).toBe('der')
    }
  })

  test('tells when its certificates end', async () => {
    expect(certificateExpiry(good.rootPem)).toBeGreaterThan(Date.now() + 3649 * 86_400_000)
    expect(() => certificateExpiry('no pem')).toThrow(VaultMeshError)
  })
})

describe('a token is refused', () => {
  test('for another root, nonce or policy', async () => {
    expect(await outcome(token, { root: fromHex('5b'.repeat(32)) })).toBe('imprint')
    expect(await outcome(token, { nonce: fromHex('01'.repeat(16)) })).toBe('nonce')
    expect(await outcome(token, { policies: ['1.2.3'] })).toBe('policy')
    expect(await outcome(token, { policies: [] })).toBe('policy')
  })

  test('when it is larger than the cap, garbage, or followed by more bytes', async () => {
    expect(await outcome(new Uint8Array(65_537))).toBe('size')
    expect(await outcome(token, { maxBytes: token.length - 1 })).toBe('size')
    expect(await outcome(new Uint8Array())).toBe('der')
    expect(await outcome(utf8('not DER at all'))).toBe('der')
    expect(await outcome(concat(token, Uint8Array.of(0)))).toBe('der')
  })

  test('wherever it is cut', async () => {
    for (let n = 0; n < token.length; n += 7) expect(await outcome(token.slice(0, n))).toBe('der')
  })

  test('when its root is foreign, or only its issuer is trusted by being in the token', async () => {
    expect(await outcome(token, { trustedRoots: [foreign.rootPem] })).toBe('chain')
    expect(await outcome(token, { trustedRoots: [] })).toBe('chain')
  })

  test('when a foreign signer brings the trusted chain along (rfc3161-client 1.0.6)', async () => {
    const info = tstInfoOf(token)
    const injected = [
      '-certfile',
      path.join(good.dir, good.unit),
      '-certfile',
      path.join(good.dir, good.issuing),
    ]
    expect(await outcome(await forge(foreign, info, { extra: injected }))).toBe('chain')
    // The trusted unit stands first in the bag and the foreign signer does not stand there at all.
    const forged = rebuild(await forge(foreign, info), {
      certificates: parts(token).certificates.raw,
    })
    expect(await outcome(forged)).toBe('signer')
  })

  test('never because a stranger’s certificate lies beside the right ones', async () => {
    const mixed = [
      ...children(parts(token).certificates),
      ...children(parts(await stamp(foreign, root, nonce)).certificates),
    ]
    const clean = await verifyTimestamp({ token, root, nonce, trustedRoots: roots })
    for (const order of [mixed, mixed.toReversed()]) {
      const bytes = rebuild(token, { certificates: der(0xa0, ...order.map((c) => c.raw)) })
      const verdict = await verifyTimestamp({ token: bytes, root, nonce, trustedRoots: roots })
      expect({ ...verdict, txHash: clean.txHash }).toEqual(clean)
    }
  })

  test('with more than ten certificates, or none', async () => {
    const first = rawOf(parts(token).certificates)[0] ?? token
    const many = Array.from({ length: 11 }, () => first)
    expect(await outcome(rebuild(token, { certificates: der(0xa0, ...many) }))).toBe('certificates')
    expect(await outcome(rebuild(token, { certificates: der(0xa0) }))).toBe('certificates')
  })

  test('with no signer or two', async () => {
    const signer = rawOf(parts(token).signers)[0] ?? token
    expect(await outcome(rebuild(token, { signers: der(0x31) }))).toBe('signer')
    expect(await outcome(rebuild(token, { signers: der(0x31, signer, signer) }))).toBe('signer')
  })

  test('when the content is no TSTInfo, or its attributes say so', async () => {
    const info = tstInfoOf(token)
    expect(await outcome(await forge(good, info, { type: '1.2.840.113549.1.7.1' }))).toBe(
      'content-type',
    )
    expect(await outcome(await forge(good, info, { binding: false, extra: ['-noattr'] }))).toBe(
      'der',
    )
  })

  test('when the imprint is of another hash', async () => {
    const sha512 = fromHex('0609608648016503040203')
    const imprint = der(0x30, der(0x30, sha512), der(0x04, new Uint8Array(64)))
    expect(await outcome(await forge(good, withField(tstInfoOf(token), 2, imprint)))).toBe(
      'imprint',
    )
  })

  test('when nothing binds the signer’s certificate', async () => {
    expect(await outcome(await forge(good, tstInfoOf(token), { binding: false }))).toBe(
      'ess-cert-id',
    )
  })

  test('when the signer’s certificate was exchanged for a twin with the same key and serial', async () => {
    const serial = (
      await openssl(good.dir, ['x509', '-in', good.unit, '-noout', '-serial'])
    ).toString()
    const args = [
      'x509',
      '-req',
      '-in',
      'unit-ec.csr',
      '-CA',
      good.issuing,
      '-CAkey',
      'issuing-ec.key',
    ]
    const number = `0x${serial.trim().split('=')[1]}`
    const how = [
      '-set_serial',
      number,
      '-days',
      '9',
      '-extfile',
      'unit-ec.cnf',
      '-extensions',
      'ext',
      '-outform',
      'DER',
    ]
    const twin = new Uint8Array(await openssl(good.dir, [...args, ...how]))
    const bag = children(parts(token).certificates).map((c) => c.raw)
    const unitDer = new Uint8Array(
      await openssl(good.dir, ['x509', '-in', good.unit, '-outform', 'DER']),
    )
    const without = bag.filter((c) => !equal(c, unitDer))
    expect(without).toHaveLength(bag.length - 1)
    const swapped = rebuild(token, { certificates: der(0xa0, twin, ...without) })
    expect(await outcome(swapped)).toBe('ess-cert-id')
    expect(await outcome(rebuild(token, { certificates: der(0xa0, twin, ...bag) }))).toBe('signer')
  })

  test('when its serial, genTime or policy was changed after signing', async () => {
    const info = tstInfoOf(token)
    const fields = rawOf(readDer(info)).slice(0, 5)
    for (const field of fields) {
      const at = indexOf(token, field) + field.length - 2
      expect(await outcome(flipped(token, at))).not.toBe('verified')
    }
  })

  test('when the leaf was not valid at genTime, before or after', async () => {
    const at = async (ms: number) => {
      const text = new Date(ms).toISOString().replaceAll(/[-:T]|\..*/g, '')
      return outcome(await forge(good, withField(tstInfoOf(token), 4, der(0x18, utf8(`${text}Z`)))))
    }
    expect(await at(Date.now() - 3 * 86_400_000)).toBe('chain')
    expect(await at(Date.now() + 729 * 86_400_000)).toBe('verified')
    expect(await at(Date.now() + 731 * 86_400_000)).toBe('chain')
  })

  const variants: readonly (readonly [Variant, string, string])[] = [
    ['expired-leaf', 'chain', 'not valid at genTime'],
    ['expired-issuer', 'chain', 'not valid at genTime'],
    ['issuer-not-ca', 'chain', 'not a CA'],
    ['issuer-without-cert-sign', 'chain', 'keyCertSign'],
    ['issuer-critical-extension', 'chain', '1.2.3.4'],
    ['issuer-other-purpose', 'chain', 'not for time stamping'],
    ['path-too-long', 'chain', 'path length'],
    ['leaf-is-ca', 'not-ca', 'is a CA'],
    ['eku-not-critical', 'extended-key-usage', 'not critical'],
    ['eku-extra', 'extended-key-usage', 'not only'],
    ['eku-missing', 'extended-key-usage', 'has none'],
    ['key-usage-extra', 'key-usage', 'other uses'],
  ]
  test.each(variants)('when its hierarchy is broken by %s', async (variant, check, words) => {
    const broken = await home.make('ec', variant)
    const tomorrow = new Date(Date.now() + 86_400_000).toISOString().replaceAll(/[-:T]|\..*/g, '')
    const info = withField(tstInfoOf(token), 4, der(0x18, utf8(`${tomorrow}Z`)))
    expect(await outcome(await forge(good, info))).toBe('verified')
    const forged = await forge(broken, info)
    const trustedRoots = [broken.rootPem]
    expect(await outcome(forged, { trustedRoots })).toBe(check)
    await expect(verifyTimestamp({ token: forged, root, nonce, trustedRoots })).rejects.toThrow(
      words,
    )
  })
})

describe('trust', () => {
  test('may start at an intermediate only if it is itself listed', async () => {
    const pem = (await openssl(good.dir, ['x509', '-in', good.issuing])).toString()
    const verdict = await verifyTimestamp({ token, root, nonce, trustedRoots: [pem] })
    expect(verdict.rootSha256).toBe(certificateSha256(pem))
  })

  test('never starts at the signer', async () => {
    const pem = (await openssl(good.dir, ['x509', '-in', good.unit])).toString()
    expect(await outcome(token, { trustedRoots: [pem] })).toBe('chain')
  })
})

test('no flip of one bit in any byte of a token verifies: all certificates in it are in the path', async () => {
  // A token with certificates outside the path or unsigned attributes has bytes that nobody signs;
  // this one has neither, so every single byte must count.
  const survivors: number[] = []
  for (let at = 0; at < token.length; at++) {
    if ((await outcome(flipped(token, at, 1 << ((at * 5) % 8)))) === 'verified') survivors.push(at)
  }
  expect(survivors).toEqual([])
}, 60_000)

test('a flip in a certificate outside the path never moves what the token says', async () => {
  const stranger = rawOf(parts(await stamp(foreign, root, nonce)).certificates)[0] ?? root
  const own = children(parts(token).certificates).map((c) => c.raw)
  const mixed = rebuild(token, { certificates: der(0xa0, ...own, stranger) })
  const before = await verifyTimestamp({ token: mixed, root, nonce, trustedRoots: roots })
  const from = indexOf(mixed, stranger)
  for (let at = from; at < from + stranger.length; at += 5) {
    const bytes = flipped(mixed, at)
    if ((await outcome(bytes)) !== 'verified') continue
    const after = await verifyTimestamp({ token: bytes, root, nonce, trustedRoots: roots })
    expect({ ...after, txHash: before.txHash }).toEqual(before)
    expect(after.txHash).not.toBe(before.txHash)
  }
})

function flipped(bytes: Uint8Array, at: number, mask = 1): Uint8Array {
  const copy = bytes.slice()
  copy.set([(copy[at] ?? 0) ^ mask], at)
  return copy
}

function rawOf(parent: Der): Uint8Array[] {
  return children(parent).map((field) => field.raw)
}

function indexOf(bytes: Uint8Array, part: Uint8Array): number {
  return Buffer.from(bytes).indexOf(part)
}

async function opensslAgrees(authority: Authority, bytes: Uint8Array): Promise<string> {
  await writeFile(path.join(authority.dir, 'token.der'), bytes)
  await writeFile(path.join(authority.dir, 'root.bin'), root)
  const args = [
    'ts',
    '-verify',
    '-token_in',
    '-in',
    'token.der',
    '-data',
    'root.bin',
    '-CAfile',
    authority.root,
  ]
  return (await openssl(authority.dir, args)).toString()
}
