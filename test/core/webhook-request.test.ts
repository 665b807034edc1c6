/**
 * A DID's request is obeyed only as it was signed: by whom, for whom, when.
 */

import { expect, test } from 'vitest'
import { utf8 } from '#core/bytes.ts'
import { Signers } from '#core/signer.ts'
import { openWebhookRequest, WEBHOOK_TYP } from '#core/webhook-request.ts'
import { signEvent, testSigner, type Change } from '../support/signing.ts'

const NOW = 1_795_414_936_500
const IAT = Math.floor(NOW / 1000)
const audiences = ['vm.example/log', 'did:key:z6MkNode']
const signer = testSigner('EdDSA', 'webhook')
const good = {
  iss: signer.did,
  aud: 'vm.example/log',
  iat: IAT,
  exp: IAT + 60,
  jti: 'one',
  url: 'https://receiver.example/told',
  events: ['event.sealed'],
}

function open(claims: Readonly<Record<string, unknown>>, change: Change = {}, by = signer) {
  const jws = signEvent(by, {
    header: { typ: WEBHOOK_TYP },
    payloadText: JSON.stringify(claims),
    ...change,
  })
  return openWebhookRequest(utf8(jws), new Signers(WEBHOOK_TYP), { nowAt: NOW, audiences })
}

test.each(['EdDSA', 'ES256', 'ES256K', 'EIP191'] as const)(
  'a request signed with %s is opened, addressed to the log or to the node',
  async (alg) => {
    const by = testSigner(alg, 'webhook')
    for (const aud of audiences) {
      const { claims, signer: who } = await open({ ...good, iss: by.did, aud }, {}, by)
      expect(who.did).toBe(by.did)
      expect(claims).toMatchObject({ jti: 'one', url: good.url })
    }
    const id = `wh_${'A'.repeat(22)}`
    const { url: _, events: __, ...rest } = good
    const { claims } = await open({ ...rest, iss: by.did, delete: id }, {}, by)
    expect(claims).toMatchObject({ delete: id })
  },
)

test.each([
  ['of another signer', { iss: testSigner('EdDSA', 'other').did }, '"iss"'],
  ['for another node', { aud: 'other.example/log' }, '"aud"'],
  ['that lives too long', { exp: IAT + 301 }, '"exp"'],
  ['that ends before it begins', { exp: IAT }, '"exp"'],
  ['that has expired', { iat: IAT - 100, exp: IAT }, 'expired'],
  ['from the future', { iat: IAT + 302, exp: IAT + 360 }, '"iat"'],
  ['without a jti', { jti: undefined }, '"jti"'],
  ['with an empty jti', { jti: '' }, '"jti"'],
  ['with a jti of two lines', { jti: 'a\nb' }, '"jti"'],
  ['about nothing', { events: [] }, '"events"'],
  ['about something else', { events: ['event.posted'] }, '"events'],
  ['with a fraction of a second', { iat: IAT + 0.5 }, '"iat"'],
  ['with a claim that we do not read', { nbf: IAT }, 'nbf'],
  ['to register and to end at once', { delete: `wh_${'A'.repeat(22)}` }, 'delete'],
])('a request %s is refused', async (_, claims, why) => {
  await expect(open({ ...good, ...claims })).rejects.toMatchObject({
    code: 'bad-webhook',
    message: expect.stringContaining(why),
  })
})

test('an event is no request, and a request with a broken signature is none', async () => {
  await expect(open(good, { header: { typ: 'vm-event+jws' } })).rejects.toMatchObject({
    code: 'bad-header',
  })
  const flip = (s: Uint8Array): Uint8Array => s.map((b, i) => (i === 9 ? b ^ 1 : b))
  await expect(open(good, { signature: flip })).rejects.toMatchObject({ code: 'bad-signature' })
  await expect(open(good, { payloadText: '{"iss":1,"iss":2}' })).rejects.toMatchObject({
    code: 'duplicate-key',
  })
  await expect(open(good, { payloadText: '[' })).rejects.toMatchObject({ code: 'bad-webhook' })
  await expect(
    openWebhookRequest(utf8('a.b'), new Signers(WEBHOOK_TYP), { nowAt: NOW, audiences }),
  ).rejects.toMatchObject({ code: 'bad-jws' })
})
