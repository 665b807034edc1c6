import { ed25519 } from '@noble/curves/ed25519.js'
import { p256 } from '@noble/curves/nist.js'
import { secp256k1 } from '@noble/curves/secp256k1.js'
import { base58 } from '@scure/base'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { fromHex } from '#core/bytes.ts'
import { canonicalDid, checksumAddress, didKey, didKeyUrl, parseDid } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import keys from '../vectors/did-key.json' with { type: 'json' }
import accounts from '../vectors/ethereum-accounts.json' with { type: 'json' }

type Kind = 'ed25519' | 'p256' | 'secp256k1'
const curves = { ed25519, p256, secp256k1 }

function refused(run: () => unknown): boolean {
  try {
    run()
    return false
  } catch (error) {
    if (!(error instanceof VaultMeshError && error.code === 'bad-did')) throw error
    return true
  }
}

describe('did:key', () => {
  test.each(keys.keys as [Kind, string, string][])(
    'of the %s secret %s is %s',
    (kind, secret, did) => {
      const key = curves[kind].getPublicKey(fromHex(secret))
      expect(didKey(kind, key)).toBe(did)
      expect(parseDid(did)).toEqual({ kind, did, canonical: did, key })
      expect(parseDid(didKeyUrl(did))).toEqual(parseDid(did))
    },
  )

  test.each(keys.others)('%s is of a curve that may not sign', (did) => {
    expect(refused(() => parseDid(did))).toBe(true)
  })

  test('names exactly one key, and comes back from any', () => {
    const key = fc.oneof(
      fc.tuple(fc.constant('ed25519' as Kind), fc.uint8Array({ minLength: 32, maxLength: 32 })),
      fc.tuple(
        fc.constantFrom<Kind>('p256', 'secp256k1'),
        fc.uint8Array({ minLength: 33, maxLength: 33 }),
      ),
    )
    fc.assert(
      fc.property(key, ([kind, bytes]) => {
        const did = didKey(kind, bytes)
        expect(parseDid(did)).toEqual({ kind, did, canonical: did, key: bytes })
      }),
    )
  })

  test('of a key of another length is not made', () => {
    expect(refused(() => didKey('ed25519', new Uint8Array(33)))).toBe(true)
    expect(refused(() => didKey('p256', new Uint8Array(65)))).toBe(true)
  })

  const good = keys.keys[0]![2]!
  const raw = base58.decode(good.slice('did:key:z'.length))
  const spelled = (bytes: Uint8Array): string => `did:key:z${base58.encode(bytes)}`
  test.each([
    ['nothing', ''],
    ['a scheme in capitals', good.replace('did:', 'DID:')],
    ['another multibase', good.replace(':z', ':u')],
    ['a character outside base58', `${good.slice(0, -1)}0`],
    ['an l', `${good.slice(0, -1)}l`],
    ['no key', 'did:key:z'],
    ['a leading 1 (a zero byte)', good.replace(':z', ':z1')],
    ['a key that is cut', spelled(raw.slice(0, -1))],
    ['a byte too many', spelled(Uint8Array.of(...raw, 0))],
    ['the codec alone', spelled(raw.slice(0, 2))],
    ['an overlong varint codec', spelled(Uint8Array.of(0xed, 0x81, 0x00, ...raw.slice(2)))],
    ['a path', `${good}/x`],
    ['a query', `${good}?x`],
    ['an empty fragment', `${good}#`],
    ['the fragment of another key', `${good}#${keys.keys[1]![2]!.slice(8)}`],
    ['the fragment without its z', `${good}#${good.slice(9)}`],
    ['two fragments', `${didKeyUrl(good)}#x`],
    ['trailing space', `${good} `],
    ['a newline', `${good}\n`],
    ['did:web', 'did:web:example.com'],
    ['300 characters', `did:key:z${'1'.repeat(300)}`],
  ])('with %s is refused', (_, did) => {
    expect(refused(() => parseDid(did))).toBe(true)
  })
})

describe('did:pkh', () => {
  test.each(accounts.eip55)('knows the checksum of %s', (address) => {
    expect(checksumAddress(address.toLowerCase())).toBe(address)
    const lower = `did:pkh:eip155:1:${address.toLowerCase()}`
    const did = `did:pkh:eip155:1:${address}`
    expect(parseDid(did)).toEqual({
      kind: 'eip155',
      did,
      canonical: lower,
      chainId: '1',
      address: address.toLowerCase(),
    })
    expect(parseDid(lower).canonical).toBe(lower)
    expect(canonicalDid(did)).toBe(lower)
    expect(parseDid(`${did}#blockchainAccountId`).did).toBe(did)
  })

  test('with one letter of the checksum in the other case is refused', () => {
    const address = accounts.eip55[4]!
    for (let i = 2; i < 42; i++) {
      const c = address[i]!
      const other = c === c.toLowerCase() ? c.toUpperCase() : c.toLowerCase()
      if (other === c) continue
      const changed = address.slice(0, i) + other + address.slice(i + 1)
      expect(
        refused(() => parseDid(`did:pkh:eip155:1:${changed}`)),
        changed,
      ).toBe(true)
    }
  })

  const lower = accounts.eip55[3]!
  test.each([
    ['a chain in hex', `did:pkh:eip155:0x1:${lower}`],
    ['a leading zero', `did:pkh:eip155:01:${lower}`],
    ['chain 0', `did:pkh:eip155:0:${lower}`],
    ['no chain', `did:pkh:eip155::${lower}`],
    ['33 digits', `did:pkh:eip155:${'1'.repeat(33)}:${lower}`],
    ['0X', `did:pkh:eip155:1:${lower.replace('0x', '0X')}`],
    ['39 digits', `did:pkh:eip155:1:${lower.slice(0, -1)}`],
    ['41 digits', `did:pkh:eip155:1:${lower}0`],
    ['all capitals', `did:pkh:eip155:1:0x${lower.slice(2).toUpperCase()}`],
    ['another fragment', `did:pkh:eip155:1:${lower}#controller`],
    ['another namespace', 'did:pkh:solana:4sGjMW1sUnHzSxGspuhpqLDx6wiyjNtZ:abc'],
    ['capitals in the method', `did:PKH:eip155:1:${lower}`],
    ['a newline', `did:pkh:eip155:1:${lower}\n`],
  ])('with %s is refused', (_, did) => {
    expect(refused(() => parseDid(did))).toBe(true)
  })

  test('canonicalDid leaves a did:key as it is: base58 knows case', () => {
    expect(canonicalDid(keys.keys[0]![2]!)).toBe(keys.keys[0]![2])
  })
})

test('any text is a signer under its own name or refused as bad-did', () => {
  const part = fc.constantFrom(
    'did:',
    'key:z',
    'pkh:',
    'eip155:',
    '1:',
    '0x',
    '#',
    'ab',
    '6Mk',
    '\0',
  )
  const text = fc.oneof(
    fc.array(part).map((p) => p.join('')),
    fc.string(),
    fc.string({ unit: 'binary' }).map((s) => `did:key:z${s}`),
  )
  fc.assert(
    fc.property(text, (kid) => {
      if (!refused(() => parseDid(kid))) expect(kid.startsWith(parseDid(kid).did)).toBe(true)
    }),
    { numRuns: 2000 },
  )
})
