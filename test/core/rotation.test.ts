/**
 * Which keys speak for a node: a chain of statements, each by an older key.
 */

import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { toBase64Url, utf8 } from '#core/bytes.ts'
import { checksumAddress } from '#core/did.ts'
import { VaultMeshError } from '#core/errors.ts'
import { deriveIdentity, signJws, type IdentityKey } from '#core/node-keys.ts'
import {
  currentKey,
  isValidKey,
  MAX_STATEMENTS,
  mergeStatements,
  ROTATION_TYP,
  rotationInput,
  signRotation,
  verifyStatements,
  wasEverKey,
  type RotationClaims,
} from '#core/rotation.ts'
import { otherS, testSigner, type TestSigner } from '../support/signing.ts'

const secret = new Uint8Array(32).fill(5)
const keys = await Promise.all(Array.from({ length: 70 }, (_, i) => deriveIdentity(secret, i + 1)))
const stranger = await deriveIdentity(new Uint8Array(32).fill(6), 1)
const node = keyOf(1).did
const wallet = testSigner('EIP191', 'node')
const otherWallet = testSigner('EIP191', 'other')

/** Epoch e is stated at e × 1000 s, begins 100 s later and ends its signer 500 s after it was stated. */
const T = 1000

function keyOf(epoch: number): IdentityKey {
  return keys[epoch - 1]!
}

function claimsOf(epoch: number, change: Partial<RotationClaims> = {}): RotationClaims {
  const iat = epoch * T
  return { iss: node, key: keyOf(epoch).did, epoch, nbf: iat + 100, end: iat + 500, iat, ...change }
}

function state(
  epoch: number,
  change: Partial<RotationClaims> = {},
  by: IdentityKey = keyOf(epoch - 1),
): Promise<string> {
  return signRotation(by, claimsOf(epoch, change))
}

function delegate(change: Partial<RotationClaims> = {}, by: TestSigner = wallet): string {
  const claims = { ...claimsOf(1), iss: wallet.did, end: null, ...change }
  return signedBy(by, rotationInput(claims, by.did, 'EIP191'))
}

function signedBy(by: TestSigner, input: string): string {
  return `${input}.${toBase64Url(by.sign(utf8(input)))}`
}

/** What `signRotation` would never write, signed all the same. */
function forge(by: IdentityKey, claims: object): Promise<string> {
  return signJws(by, ROTATION_TYP, claims)
}

async function refusal(statements: readonly string[], of = node): Promise<VaultMeshError> {
  try {
    await verifyStatements(of, statements)
  } catch (error) {
    if (error instanceof VaultMeshError) return error
    throw error
  }
  throw new Error('nothing was refused')
}

const chain = await Promise.all([2, 3, 4, 5].map((epoch) => state(epoch)))
const history = await verifyStatements(node, chain)

describe('the keys of a did:key node', () => {
  test('without statements are the node itself, from the beginning and without end', async () => {
    const { nodeDid, keys: all, statements } = await verifyStatements(node, [])
    expect(nodeDid).toBe(node)
    expect(all).toEqual([{ epoch: 1, did: node, nbf: 0, end: null }])
    expect(statements).toEqual([])
  })

  test('are added epoch by epoch, and each statement ends the key that signed it', () => {
    expect(history.keys).toEqual([
      { epoch: 1, did: node, nbf: 0, end: 2500 },
      { epoch: 2, did: keyOf(2).did, nbf: 2100, end: 3500 },
      { epoch: 3, did: keyOf(3).did, nbf: 3100, end: 4500 },
      { epoch: 4, did: keyOf(4).did, nbf: 4100, end: 5500 },
      { epoch: 5, did: keyOf(5).did, nbf: 5100, end: null },
    ])
    expect(history.statements).toEqual(chain)
  })

  test('do not depend on the order of the statements or on repeats', async () => {
    const picks = fc.array(fc.constantFrom(...chain), { maxLength: 12 })
    await fc.assert(
      fc.asyncProperty(picks, fc.shuffledSubarray(chain, { minLength: 4 }), async (more, all) => {
        expect(await verifyStatements(node, [...more, ...all, ...more])).toEqual(history)
      }),
    )
  })

  test('are proved by every beginning of the chain, and by no chain with a gap', async () => {
    await fc.assert(
      fc.asyncProperty(fc.subarray(chain), async (some) => {
        const isBeginning = some.every((text, i) => text === chain[i])
        if (isBeginning) {
          const { keys: all } = await verifyStatements(node, some)
          expect(all.map(({ did }) => did)).toEqual(
            history.keys.slice(0, some.length + 1).map(({ did }) => did),
          )
        } else {
          expect(await refusal(some)).toMatchObject({
            code: 'bad-rotation',
            message: expect.stringContaining('is missing'),
          })
        }
      }),
    )
  })

  test('overlap or meet: at every moment one is valid, and the current one is the newest of them', () => {
    fc.assert(
      fc.property(fc.integer({ min: 0, max: 7_000_000 }), (at) => {
        const valid = history.keys.filter(({ did }) => isValidKey(history, did, at))
        expect(valid.length).toBeGreaterThan(0)
        expect(currentKey(history, at)).toBe(valid.at(-1))
      }),
    )
  })

  test('are valid from nbf on and until just before end, to the millisecond', () => {
    const { did } = keyOf(2)
    expect(isValidKey(history, did, 2_099_999)).toBe(false)
    expect(isValidKey(history, did, 2_100_000)).toBe(true)
    expect(isValidKey(history, did, 3_499_999)).toBe(true)
    expect(isValidKey(history, did, 3_500_000)).toBe(false)
    expect(isValidKey(history, node, 2_300_000)).toBe(true)
    expect(currentKey(history, 2_099_999)?.epoch).toBe(1)
    expect(currentKey(history, 2_100_000)?.epoch).toBe(2)
  })

  test('were keys for good, however long ago they ended; a stranger never was', () => {
    for (const { did } of history.keys) expect(wasEverKey(history, did)).toBe(true)
    expect(wasEverKey(history, keyOf(6).did)).toBe(false)
    expect(wasEverKey(history, stranger.did)).toBe(false)
    expect(isValidKey(history, stranger.did, 9e6)).toBe(false)
    expect(isValidKey(history, `${node}#${node.slice(8)}`, 0)).toBe(false)
  })

  test('may end as the next one begins', async () => {
    const { keys: all } = await verifyStatements(node, [await state(2, { end: 2100 })])
    expect(all.map(({ nbf, end }) => [nbf, end])).toEqual([
      [0, 2100],
      [2100, null],
    ])
  })

  test('may stay without end; such a key may add a later epoch and end itself then', async () => {
    const open = await state(2, { end: null })
    const two = await verifyStatements(node, [open])
    expect(two.keys.map(({ end }) => end)).toEqual([null, null])
    const three = await verifyStatements(node, [open, await state(3, {}, keyOf(1))])
    expect(three.keys.map(({ end }) => end)).toEqual([3500, null, null])
  })

  test('are at most 64 statements long', async () => {
    const long = await Promise.all(
      Array.from({ length: MAX_STATEMENTS + 1 }, (_, i) => state(i + 2)),
    )
    const { keys: all } = await verifyStatements(node, [...long.slice(0, -1), ...chain])
    expect(all).toHaveLength(MAX_STATEMENTS + 1)
    expect(await refusal(long)).toMatchObject({ code: 'bad-rotation', extra: { limit: 64 } })
  })
})

describe('a statement is refused', () => {
  test('by a key that is not of the node', async () => {
    const error = await refusal([await state(2, {}, stranger)])
    expect(error.code).toBe('bad-rotation')
    expect(error.message).toBe(
      'The statement of epoch 2 is refused: it is signed by no older key of the node.',
    )
  })

  test('by the key that it adds', async () => {
    expect((await refusal([await state(2, {}, keyOf(2))])).message).toContain('no older key')
  })

  test('by a key that has its end, in the overlap and dated back', async () => {
    const late = { iat: 2200, nbf: 2300, end: 2400 }
    const error = await refusal([chain[0]!, await state(3, late, keyOf(1))])
    expect(error.code).toBe('bad-rotation')
    expect(error.message).toContain('epoch 3')
    expect(error.message).toContain('has its end')
    const after = await refusal([chain[0]!, await state(3, {}, keyOf(1))])
    expect(after.message).toContain('has its end')
  })

  test('by a key that was not valid yet', async () => {
    const early = await state(3, { iat: 2099, nbf: 3100 })
    expect((await refusal([chain[0]!, early])).message).toContain('not valid yet')
    await verifyStatements(node, [chain[0]!, await state(3, { iat: 2100 })])
  })

  test('that begins before the epoch before it', async () => {
    const open = await state(2, { end: null })
    const back = await state(3, { iat: 1000, nbf: 2099 }, keyOf(1))
    expect((await refusal([open, back])).message).toContain('begins before epoch 2')
    await verifyStatements(node, [open, await state(3, { iat: 1000, nbf: 2100 }, keyOf(1))])
  })

  test('that brings back a key', async () => {
    for (const epoch of [1, 2]) {
      const back = await state(3, { key: keyOf(epoch).did })
      expect((await refusal([chain[0]!, back])).message).toContain('had an epoch before')
    }
  })

  test('of another node', async () => {
    for (const iss of [stranger.did, wallet.did]) {
      expect((await refusal([await state(2, { iss })])).message).toContain('of another node')
    }
  })

  test('of epoch 1 of a did:key, which is the node itself', async () => {
    const error = await refusal([await state(1, { key: keyOf(2).did }, keyOf(1))])
    expect(error.message).toContain('epoch 1 of a did:key is the node itself')
  })

  test('that differs from another of its epoch', async () => {
    for (const change of [{ key: keyOf(9).did }, { nbf: 2101 }, { end: null }, { iat: 1999 }]) {
      for (const pair of [
        [chain[0]!, await state(2, change)],
        [await state(2, change), ...chain],
      ]) {
        const error = await refusal(pair)
        expect(error.code).toBe('bad-rotation')
        expect(error.message).toContain('there is another one of this epoch')
      }
    }
  })

  test('with any character changed, alone or in the chain', async () => {
    const text = chain[1]!
    for (let i = 0; i < text.length; i += 3) {
      const changed = text.slice(0, i) + (text[i] === 'A' ? 'B' : 'A') + text.slice(i + 1)
      await expect(verifyStatements(node, [chain[0]!, changed]), `at ${i}`).rejects.toThrow(
        VaultMeshError,
      )
    }
    const broken = `${text.slice(0, -4)}AAA${text.at(-1)}`
    const error = await refusal([chain[0]!, broken, ...chain.slice(2)])
    expect(error.code).toBe('bad-signature')
    expect(error.message).toBe('The statement of epoch 3 is not signed by the key it names.')
  })

  test('with a signature of another statement', async () => {
    const signature = chain[1]!.split('.')[2]!
    const [header, payload] = chain[0]!.split('.')
    expect((await refusal([`${header}.${payload}.${signature}`])).code).toBe('bad-signature')
    const error = await refusal([`${header}.${payload}.${signature}=`])
    expect(error.code).toBe('bad-encoding')
    expect(error.message).toContain('The statement of epoch 2')
  })

  test.each([
    ['is no claims set', [], 'expected object'],
    ['lacks its key', { ...claimsOf(2), key: undefined }, '"key"'],
    ['says more', { ...claimsOf(2), exp: 9 }, '"exp"'],
    ['has a fraction of an epoch', { ...claimsOf(2), epoch: 2.5 }, '"epoch"'],
    ['is of epoch 0', { ...claimsOf(2), epoch: 0 }, '"epoch"'],
    ['has an epoch in quotes', { ...claimsOf(2), epoch: '2' }, '"epoch"'],
    ['has no end, which is not null', { ...claimsOf(2), end: undefined }, '"end"'],
    ['counts milliseconds', { ...claimsOf(2), nbf: 1_795_414_936_500 }, '"nbf"'],
    ['was signed before 1970', { ...claimsOf(2), iat: -1 }, '"iat"'],
    ['begins before it is signed', { ...claimsOf(2), nbf: 1999 }, '"nbf" is before "iat"'],
    ['ends before it begins', { ...claimsOf(2), end: 2099 }, '"end" is before "nbf"'],
    ['adds a P-256 key', { ...claimsOf(2), key: testSigner('ES256', 'x').did }, '"key"'],
    ['adds an address', { ...claimsOf(2), key: wallet.did }, '"key"'],
    ['adds a DID URL', { ...claimsOf(2), key: keyOf(2).kid }, '"key"'],
    ['is of a P-256 node', { ...claimsOf(2), iss: testSigner('ES256', 'x').did }, 'A node is'],
    ['is of a DID URL', { ...claimsOf(2), iss: keyOf(1).kid }, 'A node is'],
  ])('that %s, by its reader and by its writer', async (_, claims, why) => {
    const error = await refusal([chain[0]!, await forge(keyOf(1), claims)])
    expect(error.code).toBe('bad-rotation')
    expect(error.message).toContain('Key statement 2 of 2: ')
    expect(error.message).toContain(why)
    await expect(signRotation(keyOf(1), claims as RotationClaims)).rejects.toMatchObject({
      code: 'bad-rotation',
    })
  })

  test('that names nobody', async () => {
    for (const claims of [claimsOf(2, { iss: 'did:web:x' }), claimsOf(2, { key: 'did:key:zz' })]) {
      const error = await refusal([await forge(keyOf(1), claims)])
      expect(error.code).toBe('bad-did')
      expect(error.message).toContain('Key statement 1 of 1: ')
    }
  })

  test('of another typ, algorithm, shape or size', async () => {
    const [header, payload, signature] = chain[0]!.split('.') as [string, string, string]
    const es256 = toBase64Url(
      utf8(JSON.stringify({ alg: 'ES256', kid: keyOf(1).kid, typ: ROTATION_TYP })),
    )
    const twice = toBase64Url(utf8('{"iss":1,"iss":2}'))
    const cases: (readonly [string, string])[] = [
      [await signJws(keyOf(1), 'vm-event+jws', claimsOf(2)), 'bad-header'],
      [`${es256}.${payload}.${signature}`, 'bad-header'],
      [`${header}.${payload}`, 'bad-jws'],
      [`${header}.${payload}.${signature}.`, 'bad-jws'],
      [`${header}.${twice}.${signature}`, 'duplicate-key'],
      [`${header}.${toBase64Url(utf8('{'))}.${signature}`, 'bad-rotation'],
      [`${header}.${toBase64Url(utf8('{"__proto__":1}'))}.${signature}`, 'bad-rotation'],
      [`${header}.${payload}.${'A'.repeat(4096)}`, 'bad-rotation'],
      ['', 'bad-jws'],
    ]
    for (const [text, code] of cases) {
      expect(await refusal([text]), code).toMatchObject({ code })
    }
    const zero = { ...keyOf(1), kid: 'did:key:z6Mkno' }
    expect(await refusal([await forge(zero, claimsOf(2))])).toMatchObject({ code: 'bad-did' })
  })

  test('of more than 4,096 bytes, and not of 4,096', async () => {
    // JSON with spaces around it, in header and payload: one of four headers makes up the length.
    const padded = async (size: number): Promise<string> => {
      const head = JSON.stringify({ alg: 'EdDSA', kid: keyOf(1).kid, typ: ROTATION_TYP })
      const body = JSON.stringify(claimsOf(2))
      for (let pad = 0; pad < 4; pad++) {
        const header = toBase64Url(utf8(head + ' '.repeat(pad)))
        const room = Math.floor(((size - header.length - 88) * 3) / 4)
        const input = `${header}.${toBase64Url(utf8(body.padEnd(room)))}`
        const text = `${input}.${toBase64Url(await keyOf(1).sign(utf8(input)))}`
        if (text.length === size) return text
      }
      throw new Error(`no statement of ${size} bytes`)
    }
    expect((await verifyStatements(node, [await padded(4096)])).keys).toHaveLength(2)
    const error = await refusal([await padded(4097)])
    expect(error).toMatchObject({ code: 'bad-rotation', extra: { limit: 4096 } })
  })

  test('of the year 10,000, and not of the last second before', async () => {
    const last = Date.parse('9999-12-31T23:59:59Z') / 1000
    const { keys: all } = await verifyStatements(node, [await state(2, { nbf: last, end: last })])
    expect(all[1]?.nbf).toBe(last)
    const after = await forge(keyOf(1), claimsOf(2, { nbf: last, end: last + 1 }))
    expect((await refusal([after])).message).toContain('"end"')
  })

  test('never for beginning as it is signed', async () => {
    await verifyStatements(node, [await state(2, { nbf: 2000 })])
  })

  test('that is arbitrary text, with an error of ours', async () => {
    const part = fc.oneof(fc.base64String(), fc.constantFrom(...chain[0]!.split('.')))
    const text = fc.oneof(
      fc.string(),
      fc.array(part, { maxLength: 4 }).map((p) => p.join('.')),
    )
    await fc.assert(
      fc.asyncProperty(text, async (hostile) => {
        fc.pre(hostile !== chain[0])
        expect(await refusal([hostile])).toBeInstanceOf(VaultMeshError)
      }),
    )
  })
})

test.each([
  ['a P-256 key', testSigner('ES256', 'x').did, 'bad-rotation'],
  ['a secp256k1 key', testSigner('ES256K', 'x').did, 'bad-rotation'],
  ['a DID URL', keyOf(1).kid, 'bad-rotation'],
  ['something else', 'did:web:vm.example', 'bad-did'],
])('a node is never %s', async (_, did, code) => {
  expect(await refusal([], did)).toMatchObject({ code })
})

describe('the keys of a did:pkh node', () => {
  test('are none before a delegation: the address does not speak itself', async () => {
    const none = await verifyStatements(wallet.did, [])
    expect(none.keys).toEqual([])
    expect(isValidKey(none, wallet.did, 5e6)).toBe(false)
    expect(currentKey(none, 5e6)).toBeNull()
  })

  test('begin with the one that the address delegated to, then follow by keys', async () => {
    const all = [delegate(), await state(2, { iss: wallet.did })]
    const { nodeDid, keys: periods } = await verifyStatements(wallet.did, all.toReversed())
    expect(nodeDid).toBe(wallet.did)
    expect(periods).toEqual([
      { epoch: 1, did: keyOf(1).did, nbf: 1100, end: 2500 },
      { epoch: 2, did: keyOf(2).did, nbf: 2100, end: null },
    ])
  })

  test('never include the address, and none is valid before the delegation begins', async () => {
    const one = await verifyStatements(wallet.did, [delegate()])
    expect(isValidKey(one, wallet.did, 5e6)).toBe(false)
    expect(wasEverKey(one, wallet.did)).toBe(false)
    expect(isValidKey(one, keyOf(1).did, 1_099_999)).toBe(false)
    expect(currentKey(one, 1_099_999)).toBeNull()
    expect(currentKey(one, 1_100_000)?.did).toBe(keyOf(1).did)
  })

  test('are the same however the address is written', async () => {
    const address = wallet.did.split(':').at(-1)!
    const mixed = wallet.did.replace(address, checksumAddress(address))
    expect(mixed).not.toBe(wallet.did)
    const input = rotationInput({ ...claimsOf(1), iss: mixed, end: null }, mixed, 'EIP191')
    const one = await verifyStatements(wallet.did, [signedBy(wallet, input)])
    expect(one.nodeDid).toBe(wallet.did)
    expect((await verifyStatements(mixed, [delegate()])).nodeDid).toBe(wallet.did)
    expect(one.keys.map(({ did }) => did)).toEqual([keyOf(1).did])
  })

  test.each([
    ['of another address', delegate({}, otherWallet), 'signed by the address'],
    ['of the address on another chain', delegateOn('10'), 'signed by the address'],
    ['with an end', delegate({ end: 1500 }), '"end" is null'],
    ['of epoch 2', delegate({ epoch: 2 }), 'that of epoch 1 is missing'],
    ['for another node', delegate({ iss: otherWallet.did }), 'of another node'],
  ])('are not added by a delegation %s', async (_, statement, why) => {
    const error = await refusal([statement], wallet.did)
    expect(error.code).toBe('bad-rotation')
    expect(error.message).toContain(why)
  })

  test('are not added by a key without delegation, nor later by the address', async () => {
    const self = await signRotation(keyOf(1), { ...claimsOf(1), iss: wallet.did, end: null })
    expect((await refusal([self], wallet.did)).message).toContain('signed by the address')
    const second = delegate({ epoch: 2, key: keyOf(2).did, iat: 2000, nbf: 2100 })
    expect((await refusal([delegate(), second], wallet.did)).message).toContain('no older key')
  })

  test('are not added by a signature with a high s, or of somebody else', async () => {
    const [header, payload] = delegate().split('.')
    const input = `${header}.${payload}`
    const high = toBase64Url(otherS(wallet.sign(utf8(input))))
    expect(await refusal([`${input}.${high}`], wallet.did)).toMatchObject({ code: 'bad-signature' })
    const other = signedBy(otherWallet, input)
    expect(await refusal([other], wallet.did)).toMatchObject({ code: 'bad-signature' })
  })
})

function delegateOn(chainId: string): string {
  const claims = { ...claimsOf(1), iss: wallet.did, end: null }
  const kid = wallet.did.replace(':1:', `:${chainId}:`)
  return signedBy(wallet, rotationInput(claims, kid, 'EIP191'))
}

test('a statement signed here is the bytes that a signer elsewhere is asked to sign', async () => {
  const input = rotationInput(claimsOf(2), keyOf(1).kid, 'EdDSA')
  const signature = toBase64Url(await keyOf(1).sign(utf8(input)))
  expect(chain[0]).toBe(`${input}.${signature}`)
  expect(chain[0]).toBe(await forge(keyOf(1), claimsOf(2)))
})

describe('merging statements', () => {
  const lengths = fc.integer({ min: 0, max: 4 })

  test('gives the longer of two chains of which one extends the other', async () => {
    await fc.assert(
      fc.asyncProperty(lengths, lengths, async (m, n) => {
        const merged = await mergeStatements(node, chain.slice(0, m), chain.slice(0, n))
        expect(merged).toEqual({ statements: chain.slice(0, Math.max(m, n)), conflict: null })
      }),
    )
  })

  test('finds the first epoch that differs, from either side, and keeps mine', async () => {
    // A fork after `common` statements: the other side's next key is another one.
    const forkAt = async (common: number): Promise<readonly string[]> => {
      const fork = chain.slice(0, common)
      for (let i = common; i < 4; i++) {
        const by = i === common ? keyOf(i + 1) : keyOf(i + 31)
        fork.push(await state(i + 2, { key: keyOf(i + 32).did }, by))
      }
      return fork
    }
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 0, max: 3 }), lengths, lengths, async (common, m, n) => {
        const mine = chain.slice(0, m)
        const theirs = (await forkAt(common)).slice(0, n)
        const there = await mergeStatements(node, mine, theirs)
        const back = await mergeStatements(node, theirs, mine)
        if (Math.min(m, n) <= common) {
          expect(there.conflict).toBeNull()
          expect(back).toEqual(there)
          return
        }
        const [a, b] = [mine[common]!, theirs[common]!]
        expect(there).toEqual({ statements: mine, conflict: { epoch: common + 2, a, b } })
        expect(back).toEqual({ statements: theirs, conflict: { epoch: common + 2, a: b, b: a } })
      }),
    )
  })

  test('sees two delegations of one address as a conflict', async () => {
    const [a, b] = [delegate(), delegate({ key: keyOf(2).did })]
    expect(await mergeStatements(wallet.did, [a], [b])).toEqual({
      statements: [a],
      conflict: { epoch: 1, a, b },
    })
  })

  test('takes one statement in two spellings for one, and all nodes keep the same', async () => {
    const plain = { ...keyOf(1), kid: keyOf(1).did }
    const again = await state(2, {}, plain)
    expect(again).not.toBe(chain[0])
    const kept = [again, chain[0]!].sort().slice(0, 1)
    expect(await mergeStatements(node, [chain[0]!], [again])).toMatchObject({ statements: kept })
    expect(await mergeStatements(node, [again], [chain[0]!])).toMatchObject({ statements: kept })
    expect((await verifyStatements(node, [chain[0]!, again])).statements).toEqual(kept)
    expect((await verifyStatements(node, [again, ...chain])).keys).toEqual(history.keys)
  })

  test('is no way in for what does not verify', async () => {
    const broken = `${chain[0]!.slice(0, -4)}AAA${chain[0]!.at(-1)}`
    const theirs: (readonly [readonly string[], string])[] = [
      [[broken], 'bad-signature'],
      [[chain[1]!], 'bad-rotation'],
      [[await state(2, {}, stranger)], 'bad-rotation'],
      [[chain[0]!, await state(2, { end: null })], 'bad-rotation'],
      [['x'], 'bad-jws'],
    ]
    for (const [statements, code] of theirs) {
      await expect(mergeStatements(node, chain, statements)).rejects.toMatchObject({ code })
      await expect(mergeStatements(node, statements, chain)).rejects.toMatchObject({ code })
    }
  })
})
