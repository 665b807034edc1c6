import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { MAX_ATTRIBUTE_CHARS, parseCloudEvent } from '#core/cloud-event.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { Json } from '#core/strict-json.ts'

const good = {
  specversion: '1.0',
  id: 'e-1',
  source: 'did:key:z6MkiTBz1ymuepAQ4HEHYSF1H8quG5GLVVQR3djdX3mDooWp',
  type: 'test.event',
  time: '2026-11-23T05:36:00Z',
} as const

/** The detail of the refusal, or null if the event is good. */
function refusal(value: unknown): string | null {
  try {
    parseCloudEvent(value as Json)
    return null
  } catch (error) {
    if (!(error instanceof VaultMeshError && error.code === 'bad-event')) throw error
    return error.message
  }
}

describe('a CloudEvent', () => {
  test('gives intake its identity, type, subject and time', () => {
    expect(parseCloudEvent({ ...good, subject: 's', data: [1] })).toEqual({
      id: good.id,
      source: good.source,
      type: good.type,
      subject: 's',
      timeAt: Date.parse(good.time),
    })
    expect(parseCloudEvent(good).subject).toBeNull()
  })

  test.each(['specversion', 'id', 'source', 'type', 'time'])(
    'without %s is refused by name',
    (name) => {
      const { [name as keyof typeof good]: _, ...rest } = good
      expect(refusal(rest)).toContain(`"${name}"`)
    },
  )

  test.each([
    ['specversion', '0.3'],
    ['specversion', 1],
    ['id', ''],
    ['id', 7],
    ['id', 'x'.repeat(MAX_ATTRIBUTE_CHARS + 1)],
    ['source', ''],
    ['type', null],
    ['type', ['a']],
    ['time', '2026-11-23'],
    ['time', 1795412160],
    ['subject', ''],
    ['subject', {}],
    ['dataschema', ''],
    ['datacontenttype', 5],
    ['dataschema', 'schema.json'],
    ['dataschema', '/schemas/1'],
    ['dataschema', '//host/schema'],
    ['dataschema', 'https://example.com/schema#part'],
    ['dataschema', 'https://example.com/a b'],
    ['dataschema', 'https://example.com/%zz'],
    ['dataschema', 'https://exämple.com/'],
    ['dataschema', 'https://host:port/'],
    ['dataschema', 'https://[::1/'],
    ['dataschema', '1http://example.com'],
    ['dataschema', `https://example.com/${'x'.repeat(2048)}`],
    ['data_base64', 5],
    ['data_base64', 'not base64'],
    ['data_base64', 'AA'],
    ['data_base64', 'AA='],
    ['data_base64', 'AB=='],
    ['data_base64', 'AAA=AAAA'],
    ['data_base64', '_-8='],
    ['data_base64', 'AAAA\n'],
    ['id', 'a\u0000b'],
    ['id', 'a\nb'],
    ['id', '\u007f'],
    ['type', '\u0085'],
    ['subject', '\ufffe'],
    ['subject', '\ufdd0'],
    ['subject', '\u{1ffff}'],
    ['id', '\ud800'],
    ['source', 'a\udc00'],
    ['myext', 'a\u0001'],
    ['myext', {}],
    ['myext', [1]],
    ['myext', 1.5],
    ['myext', 1e-7],
    ['myext', 2 ** 31],
    ['myext', -(2 ** 31) - 1],
    ['myext', 1e300],
    ['MyExt', 'x'],
    ['my-ext', 'x'],
    ['my_ext', 'x'],
    ['', 'x'],
    ['é', 'x'],
  ])('with %s = %j is refused by name', (name, value) => {
    expect(refusal({ ...good, [name]: value })).toContain(`"${name}"`)
  })

  test.each<[string, Json, RegExp]>([
    ['myext', 1.5, /integer of 32 bits \(CloudEvents §3\.1\)/],
    ['myext', {}, /must be a string, a boolean or an integer/],
    ['data_base64', 'AA', /base64 with padding \(RFC 4648 §4\)/],
    ['dataschema', 'x', /absolute URI without a fragment \(CloudEvents §3\.1\)/],
  ])('with %s = %j is told what to send', (name, value, words) => {
    expect(refusal({ ...good, [name]: value })).toMatch(words)
  })

  test('data_base64 is taken just if Node encodes it so', () => {
    fc.assert(
      fc.property(
        fc.oneof(
          fc.uint8Array().map((bytes) => Buffer.from(bytes).toString('base64')),
          fc.string({ unit: fc.constantFrom('A', 'B', 'Q', 'w', '/', '=') }),
        ),
        (text) => {
          const same = Buffer.from(text, 'base64').toString('base64') === text
          expect(refusal({ ...good, data_base64: text }) === null).toBe(same)
        },
      ),
      { numRuns: 500 },
    )
  })

  test('with an own key "__proto__" is refused, not quietly cleaned', () => {
    expect(refusal(JSON.parse(`${JSON.stringify(good).slice(0, -1)},"__proto__":"x"}`))).toContain(
      '"__proto__"',
    )
  })

  test('with data and data_base64 at once is refused', () => {
    expect(refusal({ ...good, data: 1, data_base64: 'AA==' })).toContain('exclude each other')
  })

  test.each<[string, Json]>([
    ['no object', null],
    ['an array', [good]],
    ['a string', JSON.stringify(good)],
    ['an empty object', {}],
  ])('that is %s is refused', (_, value) => {
    expect(refusal(value)).not.toBeNull()
  })

  test.each<[string, Json]>([
    ['data', null],
    ['data', { 'Any Key': [null, { _: '\u0000' }] }],
    ['data', 1.5],
    ['data_base64', 'AA=='],
    ['data_base64', ''],
    ['data_base64', null],
    ['data_base64', '+/8='],
    ['data_base64', 'AAAA'.repeat(12_000)],
    ['dataschema', null],
    ['dataschema', 'https://example.com/schemas/1?v=2'],
    ['dataschema', 'https://user:word@[2001:db8::1]:8443/a;b=c/%20'],
    ['dataschema', 'urn:uuid:f81d4fae-7dec-11d0-a765-00a0c91e6bf6'],
    ['dataschema', 'tag:example.com,2026:schema'],
    ['subject', 'x'.repeat(MAX_ATTRIBUTE_CHARS)],
    ['subject', 'Zürich 🚀 \u{10fffd}'],
    ['traceparent', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'],
    ['sequence', 7],
    ['sequence', 2 ** 31 - 1],
    ['sequence', -(2 ** 31)],
    ['sampled', true],
    ['constructor', 'x'],
  ])('may carry %s = %j', (name, value) => {
    expect(refusal({ ...good, [name]: value })).toBeNull()
  })

  test('of any JSON is read or refused, and reading never depends on the order of keys', () => {
    const names = fc.constantFrom(...Object.keys(good), 'subject', 'data', 'ext', 'X', 'dataschema')
    const values = fc.oneof(fc.constantFrom<Json>('1.0', good.time, 'x'), fc.jsonValue())
    fc.assert(
      fc.property(fc.dictionary(names, values), fc.boolean(), (change, whole) => {
        const event = whole ? { ...good, ...change } : change
        const reversed = Object.fromEntries(Object.entries(event).toReversed())
        expect(refusal(event) === null).toBe(refusal(reversed) === null)
        if (refusal(event) === null)
          expect(parseCloudEvent(event as Json)).toEqual(parseCloudEvent(reversed as Json))
      }),
      { numRuns: 500 },
    )
  })
})
