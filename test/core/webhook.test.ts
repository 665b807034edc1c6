/**
 * What a webhook says is one text for one fact, and its signature is what Standard Webhooks 1.0.0 asks for:
 * checked by Node's own Ed25519, not by ours.
 */

import { createPublicKey, verify } from 'node:crypto'
import * as fc from 'fast-check'
import { expect, test } from 'vitest'
import { deriveIdentity } from '#core/node-keys.ts'
import {
  signedContent,
  typeSet,
  typesOf,
  WEBHOOK_TYPES,
  webhookBody,
  webhookHeaders,
  webhookId,
  webhookKey,
  webhookSchema,
  type WebhookFacts,
} from '#core/webhook.ts'

const identity = await deriveIdentity(new Uint8Array(32).fill(5), 1)

const at = fc.integer({ min: 0, max: 4e12 })
const facts: fc.Arbitrary<WebhookFacts> = fc.record({
  type: fc.constantFrom(...WEBHOOK_TYPES),
  at,
  hook: fc.string(),
  origin: fc.string(),
  eventHash: fc.string(),
  eventId: fc.string({ unit: 'grapheme' }),
  source: fc.string(),
  height: fc.nat(),
  leafIndex: fc.nat(),
  anchor: fc.option(
    fc.record({
      chain: fc.string(),
      network: fc.string(),
      txHash: fc.string(),
      at,
      treeSize: fc.nat(),
    }),
  ),
})

/** A verifier of `whpk_…` that shares no code with the signer. */
function verifies(key: string, signed: string, signature: string): boolean {
  const raw = Buffer.from(key.replace(/^whpk_/, ''), 'base64')
  const spki = Buffer.concat([Buffer.from('302a300506032b6570032100', 'hex'), raw])
  const publicKey = createPublicKey({ key: spki, format: 'der', type: 'spki' })
  const [version, base64] = signature.split(',')
  return (
    version === 'v1a' &&
    verify(null, Buffer.from(signed), publicKey, Buffer.from(base64!, 'base64'))
  )
}

test('the signature verifies over id, timestamp and body under the published key, and over nothing else', async () => {
  await fc.assert(
    fc.asyncProperty(facts, at, async (f, sentAt) => {
      const body = webhookBody(f)
      const id = webhookId({ ...f, rail: '' })
      const headers = await webhookHeaders(identity, { id, sentAt, body })
      const key = webhookKey(identity.publicKey)
      const seconds = headers['webhook-timestamp']!
      expect(seconds).toMatch(/^\d+$/)
      const signature = headers['webhook-signature']!
      expect(verifies(key, `${headers['webhook-id']}.${seconds}.${body}`, signature)).toBe(true)
      expect(verifies(key, `${id}.${Number(seconds) + 1}.${body}`, signature)).toBe(false)
      expect(verifies(key, `${id}x.${seconds}.${body}`, signature)).toBe(false)
      expect(verifies(key, `${id}.${seconds}.${body} `, signature)).toBe(false)
    }),
    { numRuns: 50 },
  )
})

test('the body follows its schema and says the same bytes for the same facts', () => {
  fc.assert(
    fc.property(facts, (f) => {
      const body = webhookBody(f)
      expect(webhookBody(structuredClone(f))).toBe(body)
      const parsed = webhookSchema.parse(JSON.parse(body))
      expect(parsed.data.eventId).toBe(f.eventId)
      expect(parsed.data.anchor?.treeSize).toBe(f.anchor?.treeSize)
    }),
  )
})

test('an id has no dot, is one for one fact, and another for any other', () => {
  const part = fc.string({ unit: fc.constantFrom('a', 'b', ':', '/'), maxLength: 4 })
  const of = fc.record({
    hook: part,
    type: fc.constantFrom(...WEBHOOK_TYPES),
    eventHash: part,
    rail: part,
  })
  fc.assert(
    fc.property(of, of, (a, b) => {
      expect(webhookId(a)).toMatch(/^msg_[A-Za-z0-9_-]{22}$/)
      const same = JSON.stringify(a) === JSON.stringify(b)
      expect(webhookId(a) === webhookId(b)).toBe(same)
    }),
  )
})

test('what is signed for a webhook can never be the signing input of a JWS', () => {
  fc.assert(
    fc.property(facts, at, (f, sentAt) => {
      const text = Buffer.from(signedContent(webhookId({ ...f, rail: '' }), sentAt, webhookBody(f)))
      expect(text.toString()).not.toMatch(/^[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*$/)
    }),
  )
})

test('a set of types is read back as it was written', () => {
  fc.assert(
    fc.property(fc.subarray(WEBHOOK_TYPES), (types) => {
      expect(typesOf(typeSet(types))).toEqual(types)
    }),
  )
})
