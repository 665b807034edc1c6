/**
 * A Worker that does less than a node, to know what the platform itself allows: nothing at all, or
 * only the verification that every event needs.
 */

import { openEnvelope, verifyEnvelope, EVENT_TYP } from '#core/envelope.ts'
import { ed25519Key } from '#core/node-keys.ts'
import { Signers } from '#core/signer.ts'

const signers = new Signers(EVENT_TYP)

export default {
  async fetch(request: Request): Promise<Response> {
    const { pathname, searchParams } = new URL(request.url)
    if (pathname === '/empty') return new Response('ok')
    if (pathname === '/verify') {
      const open = await openEnvelope(new Uint8Array(await request.arrayBuffer()), signers)
      await verifyEnvelope(open)
      return new Response('{"ok":true}', { status: 202 })
    }
    // Bare WebCrypto: n verifications of one 280-byte message, nothing around them.
    const n = Number(searchParams.get('n'))
    const signer = await ed25519Key(new Uint8Array(32).fill(7))
    const message = new Uint8Array(280).fill(1)
    const signature = await signer.sign(message)
    const key = await crypto.subtle.importKey(
      'raw',
      signer.publicKey as BufferSource,
      'Ed25519',
      false,
      ['verify'],
    )
    for (let i = 0; i < n; i++) {
      await crypto.subtle.verify('Ed25519', key, signature as BufferSource, message)
    }
    return new Response('ok')
  },
}
