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
    ['data_base64', 5],
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
    ['MyExt', 'x'],
    ['my-ext', 'x'],
    ['my_ext', 'x'],
    ['', 'x'],
    ['é', 'x'],
  ])('with %s = %j is refused by name', (name, value) => {
    expect(refusal({ ...good, [name]: value })).toContain(`"${name}"`)
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
    ['data_base64', 'AA=='],
    ['subject', 'x'.repeat(MAX_ATTRIBUTE_CHARS)],
    ['subject', 'Zürich 🚀 \u{10fffd}'],
    ['traceparent', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'],
    ['sequence', 7],
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
