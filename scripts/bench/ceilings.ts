/**
 * A Worker that does less than a node, to know what the platform itself allows: nothing at all, or
 * only the verification that every event, or every receipt, needs.
 */

import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { utf8 } from '#core/bytes.ts'
import { openEnvelope, verifyEnvelope, EVENT_TYP } from '#core/envelope.ts'
import { ed25519Key } from '#core/node-keys.ts'
import { verifyReceipt, type Receipt, type ReceiptTrust } from '#core/receipt.ts'
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
    if (pathname === '/proof') return proof(request, Number(searchParams.get('n')))
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

/** Verifies an anchor receipt or a whole receipt n times; 500 with the reason if it is not verified. */
async function proof(request: Request, n: number): Promise<Response> {
  const { anchor, receipt, event, trust } = (await request.json()) as {
    anchor?: unknown
    receipt?: Receipt
    event?: string
    trust: ReceiptTrust
  }
  for (let i = 0; i < n; i++) {
    const verdict =
      receipt === undefined
        ? (await verifyAnchorReceipt(anchor, trust)).outcome
        : (await verifyReceipt(receipt, trust, utf8(event ?? ''))).verdict
    if (verdict !== 'verified') return new Response(verdict, { status: 500 })
  }
  return new Response('ok')
}
