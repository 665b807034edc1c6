/**
 * Which events are one: the same (source, id), where the keys of a node are one source.
 */

import { createHmac } from 'node:crypto'
import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { toBase64Url, toHex, utf8 } from '#core/bytes.ts'
import { deriveIdentity } from '#core/node-keys.ts'
import { rotationInput, signRotation, verifyStatements } from '#core/rotation.ts'
import { hmacKey } from '#core/sha256.ts'
import { identityOf } from '#store/event-identity.ts'
import { testSigner } from '../support/signing.ts'

const secret = new Uint8Array(32).fill(7)
const keys = await Promise.all([1, 2, 3].map((epoch) => deriveIdentity(secret, epoch)))
const [one, two, three] = keys.map(({ did }) => did) as [string, string, string]
const claims = hmacKey(new Uint8Array(32).fill(8))
const wallet = testSigner('EIP191', 'identity')

async function rotated(iss: string, epoch: number): Promise<string> {
  const key = keys[epoch - 1]!.did
  return signRotation(keys[epoch - 2]!, { iss, key, epoch, nbf: 10, end: 20, iat: 10 })
}

const delegation = rotationInput(
  { iss: wallet.did, key: one, epoch: 1, nbf: 0, end: null, iat: 0 },
  wallet.did,
  'EIP191',
)
const nodes = {
  fresh: { claims, history: await verifyStatements(one, []) },
  rotated: {
    claims,
    history: await verifyStatements(one, [await rotated(one, 2), await rotated(one, 3)]),
  },
  delegated: {
    claims,
    history: await verifyStatements(wallet.did, [
      `${delegation}.${toBase64Url(wallet.sign(utf8(delegation)))}`,
      await rotated(wallet.did, 2),
    ]),
  },
}

const stated = (source: string, id: string): string =>
  createHmac('sha256', new Uint8Array(32).fill(8)).update(`${source}\0${id}`).digest('hex')

test('an identity is the HMAC of source and id', () => {
  const sources = fc.constantFrom(one, two, wallet.did, testSigner('ES256', 'identity').did)
  fc.assert(
    fc.property(sources, fc.string(), (source, id) => {
      expect(toHex(identityOf(nodes.fresh, source, id))).toBe(stated(source, id))
    }),
  )
})

test('all keys of a node are the source that its first key is, before a rotation, after it and under an address', () => {
  for (const source of [one, two, three])
    expect(toHex(identityOf(nodes.rotated, source, 'x'))).toBe(stated(one, 'x'))
  for (const source of [one, two])
    expect(toHex(identityOf(nodes.delegated, source, 'x'))).toBe(stated(one, 'x'))
})

test('a key that is none of the node’s, and an address that delegated to it, are sources of their own', () => {
  expect(toHex(identityOf(nodes.fresh, two, 'x'))).toBe(stated(two, 'x'))
  expect(toHex(identityOf(nodes.delegated, three, 'x'))).toBe(stated(three, 'x'))
  expect(toHex(identityOf(nodes.delegated, wallet.did, 'x'))).toBe(stated(wallet.did, 'x'))
})
