/**
 * Signed events for benches: Ed25519, 32 signers, ≈ 600 bytes each, made by node:crypto.
 */

import { createPrivateKey, randomBytes, randomUUID, sign } from 'node:crypto'
import { didKeyUrl, didKey } from '../../functions/core/did.ts'
import { ed25519Key } from '../../functions/core/node-keys.ts'

const PKCS8 = Buffer.from('302e020100300506032b657004220420', 'hex')
const SIGNERS = 32

/** Makes `n` events; each call gives new ones. */
export async function makeEvents(n: number): Promise<string[]> {
  const signers = await Promise.all(
    Array.from({ length: SIGNERS }, async () => {
      const seed = randomBytes(32)
      const { publicKey } = await ed25519Key(seed)
      const did = didKey('ed25519', publicKey)
      const key = createPrivateKey({
        key: Buffer.concat([PKCS8, seed]),
        format: 'der',
        type: 'pkcs8',
      })
      const header = Buffer.from(
        JSON.stringify({ alg: 'EdDSA', kid: didKeyUrl(did), typ: 'vm-event+jws' }),
      )
      return { did, key, header: header.toString('base64url') }
    }),
  )
  const time = new Date().toISOString()
  return Array.from({ length: n }, (_, i) => {
    const { did, key, header } = signers[i % SIGNERS]!
    const payload = {
      specversion: '1.0',
      id: randomUUID(),
      source: did,
      type: 'example.measured',
      time,
      data: { n: i, text: 'some payload text of moderate size', tags: ['a', 'b', 'c'] },
    }
    const input = `${header}.${Buffer.from(JSON.stringify(payload)).toString('base64url')}`
    return `${input}.${sign(null, Buffer.from(input), key).toString('base64url')}`
  })
}
