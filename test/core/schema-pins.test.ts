/**
 * Schema pins: what is refused as a pin, that verdicts are those of another validator (ajv), and that strangers'
 * events cannot make one run for ever.
 */

import { Ajv } from 'ajv'
import { Ajv2020 } from 'ajv/dist/2020.js'
import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { toBase64Url, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { checkPinned, MAX_SCHEMA_BYTES, pinSchema } from '#core/schema-pins.ts'
import type { Json } from '#core/strict-json.ts'

const TYPE = 'com.example.paid'

function refusal(run: () => unknown): VaultMeshError {
  try {
    run()
  } catch (error) {
    if (error instanceof VaultMeshError) return error
    throw error
  }
  throw new Error('nothing was refused')
}

/** header.payload of an event of TYPE with these attributes. */
function signingInput(attributes: object): Uint8Array {
  return utf8(`e30.${toBase64Url(utf8(JSON.stringify({ type: TYPE, ...attributes })))}`)
}

describe('a schema is refused as a pin', () => {
  const cases: readonly [string, unknown, string][] = [
    ['of another draft', { $schema: 'http://json-schema.org/draft-04/schema#' }, '/$schema'],
    ['with a keyword that would check nothing', { requird: ['a'] }, '/requird'],
    ['with a keyword of another draft', { items: [{ type: 'string' }] }, '/items'],
    ['with $dynamicRef, which is not followed', { $dynamicRef: '#a' }, '/$dynamicRef'],
    ['with a format that is not checked', { format: 'idn-email' }, '/format'],
    ['with a pattern that is none', { pattern: '(' }, '/pattern'],
    ['with a name that is no pattern', { patternProperties: { '(': true } }, '/patternProperties'],
    ['with a type that is none', { type: 'text' }, '/type'],
    [
      'with a malformed keyword deep inside',
      { properties: { 'a/b': { maxLength: -1 } } },
      '/properties/a~1b/maxLength',
    ],
    ['with a reference to elsewhere', { $ref: 'https://schemas.example/other' }, '/'],
    ['with a reference to nothing', { $ref: '#/$defs/none' }, '/'],
    ['that refers to itself', { $ref: '#' }, '/'],
    [
      'that refers to itself in a circle',
      { allOf: [{ $ref: '#/$defs/a' }], $defs: { a: { anyOf: [{ $ref: '#' }] } } },
      '/',
    ],
    [
      'with an $id inside',
      { properties: { a: { $id: 'https://a.example/' } } },
      '/properties/a/$id',
    ],
    ['with a relative $id', { $id: 'paid' }, '/$id'],
    [
      'whose draft ignores what stands beside $ref',
      {
        $schema: 'http://json-schema.org/draft-07/schema#',
        $ref: '#/definitions/a',
        minLength: 1,
        definitions: { a: true },
      },
      '/minLength',
    ],
    ['that is too large', { description: 'x'.repeat(MAX_SCHEMA_BYTES) }, '/'],
    ['that is no schema', [], '/'],
    [
      'that nests too deep',
      Array.from({ length: 40 }).reduce((inner) => ({ not: inner }), true),
      '/not',
    ],
  ]
  test.each(cases)('%s', (_, schema, at) => {
    const error = refusal(() => pinSchema(TYPE, schema as Json))
    expect(error.code).toBe('bad-config')
    expect(error.message).toContain(`The schema of ${TYPE}: ${at}`)
  })
})

const leaf: fc.Arbitrary<Json> = fc.oneof(
  fc.constantFrom<Json>(
    null,
    true,
    false,
    0,
    1,
    2.5,
    -3,
    '',
    'a',
    'ab',
    'abc',
    'https://a.example/',
  ),
  fc.integer({ min: -5, max: 5 }),
)
const data: fc.Arbitrary<Json> = fc.letrec<{ value: Json }>((tie) => ({
  value: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    leaf,
    fc.array(tie('value'), { maxLength: 4 }),
    fc.dictionary(fc.constantFrom('a', 'b', 'c', '__proto__'), tie('value'), { maxKeys: 3 }),
  ),
})).value

/** Schemas of the keywords that both drafts share, with references to a definition. */
const sharedSchema = fc.letrec<{ schema: Json }>((tie) => {
  const small = fc.integer({ min: 0, max: 3 })
  const sub = tie('schema')
  const list = fc.array(sub, { minLength: 1, maxLength: 2 })
  const names = fc.uniqueArray(fc.constantFrom('a', 'b', 'c'), { maxLength: 2 })
  const map = fc.dictionary(fc.constantFrom('a', 'b'), sub, { maxKeys: 2, noNullPrototype: true })
  return {
    schema: fc.oneof(
      { maxDepth: 3, withCrossShrink: true },
      fc.boolean(),
      fc.constant<Json>({ $ref: '#/definitions/node' }),
      fc.record(
        {
          type: fc.constantFrom(
            'string',
            'integer',
            'number',
            'object',
            'array',
            'null',
            'boolean',
          ),
          const: leaf,
          enum: fc.uniqueArray(leaf, {
            minLength: 1,
            maxLength: 3,
            selector: (v) => JSON.stringify(v),
          }),
          minimum: small,
          exclusiveMaximum: small,
          multipleOf: fc.constantFrom(1, 2, 0.5),
          minLength: small,
          maxLength: small,
          pattern: fc.constantFrom('^a', 'b$', '[bc]'),
          minItems: small,
          maxItems: small,
          uniqueItems: fc.boolean(),
          contains: sub,
          minProperties: small,
          required: names,
          properties: map,
          patternProperties: fc.dictionary(fc.constantFrom('^a', 'b'), sub, {
            maxKeys: 1,
            noNullPrototype: true,
          }),
          additionalProperties: sub,
          propertyNames: fc.constantFrom<Json>({ maxLength: 1 }, { enum: ['a', 'b'] }),
          allOf: list,
          anyOf: list,
          oneOf: list,
          not: sub,
          ...Object.fromEntries(['if', 'then', 'else'].map((keyword) => [keyword, sub])),
        },
        { requiredKeys: [], noNullPrototype: true },
      ) as fc.Arbitrary<Json>,
    ),
  }
}).schema

const definitions = {
  node: {
    type: 'object',
    properties: { a: { $ref: '#/definitions/node' }, b: { type: 'string' } },
  },
}
const ofTopLevel = sharedSchema.map((schema) =>
  typeof schema === 'object' ? { allOf: [schema], definitions } : schema,
)

test('the verdict on data is that of another validator, in 2020-12 and in draft-07', () => {
  const oracles = { '2020-12': new Ajv2020({ strict: false }), '7': new Ajv({ strict: false }) }
  let valid = 0
  let runs = 0
  fc.assert(
    fc.property(
      ofTopLevel,
      fc.array(data, { minLength: 1, maxLength: 5 }),
      fc.boolean(),
      (schema, values, isOld) => {
        const said =
          isOld && typeof schema === 'object'
            ? { ...schema, $schema: 'http://json-schema.org/draft-07/schema#' }
            : schema
        const pin = pinSchema(TYPE, said as Json)
        const judge = oracles[isOld ? '7' : '2020-12'].compile(said as object | boolean)
        for (const value of values) {
          const own = pin.fault(value) === null
          expect(own).toBe(judge(value))
          runs++
          if (own) valid++
        }
      },
    ),
    { numRuns: 200 },
  )
  // Of both kinds enough, or the agreement says nothing.
  expect(valid).toBeGreaterThan(runs / 10)
  expect(runs - valid).toBeGreaterThan(runs / 10)
}, 30_000)

test('prefixItems, dependentRequired, dependentSchemas and unevaluated are held as 2020-12 has them', () => {
  const oracle = new Ajv2020({ strict: false })
  const schemas: Json[] = [
    { prefixItems: [{ type: 'string' }], items: { type: 'integer' } },
    { prefixItems: [{ type: 'string' }], unevaluatedItems: false },
    { contains: { type: 'integer' }, minContains: 2, maxContains: 3 },
    { dependentRequired: { a: ['b'] } },
    { dependentSchemas: { a: { required: ['c'] } } },
    { allOf: [{ properties: { a: true } }], unevaluatedProperties: { type: 'string' } },
  ]
  const pins = schemas.map(
    (schema) => [pinSchema(TYPE, schema), oracle.compile(schema as object)] as const,
  )
  fc.assert(
    fc.property(data, (value) => {
      for (const [pin, judge] of pins) expect(pin.fault(value) === null).toBe(judge(value))
    }),
    { numRuns: 500 },
  )
})

test('a pin is named by the hash of its canonical JSON, whatever the order of its keys', () => {
  const a = pinSchema(TYPE, { type: 'object', required: ['a'] })
  const b = pinSchema(TYPE, { required: ['a'], type: 'object' })
  expect(a.sha256).toBe(b.sha256)
  expect(a.sha256).toMatch(/^[0-9a-f]{64}$/)
  expect(pinSchema(TYPE, { required: ['b'], type: 'object' }).sha256).not.toBe(a.sha256)
})

const paid = pinSchema(TYPE, {
  $id: 'https://schemas.example/paid/1',
  type: 'object',
  required: ['amount'],
  properties: {
    amount: { type: 'integer', minimum: 1 },
    lines: { type: 'array', items: { type: 'object', properties: { 'a/b': { format: 'date' } } } },
  },
  additionalProperties: false,
})

describe('a refusal names the place, the keyword and the schema', () => {
  const cases: readonly [string, object, string, string][] = [
    ['of a wrong value', { data: { amount: 0 } }, '/data/amount', 'minimum'],
    ['of what is missing', { data: {} }, '/data', 'required'],
    [
      'of what nobody asked for',
      { data: { amount: 1, tip: 2 } },
      '/data/tip',
      'additionalProperties',
    ],
    [
      'deep inside',
      { data: { amount: 1, lines: [{}, { 'a/b': 'x' }] } },
      '/data/lines/1/a~1b',
      'format',
    ],
    ['of no data', {}, '/data', 'required'],
    ['of binary data', { data_base64: 'AA==' }, '/data', 'required'],
    [
      'of another schema',
      { data: { amount: 1 }, dataschema: 'https://schemas.example/paid/2' },
      '/dataschema',
      '$id',
    ],
  ]
  test.each(cases)('%s', (_, event, instancePath, keyword) => {
    const error = refusal(() => checkPinned(paid, signingInput(event)))
    expect(error.code).toBe('schema-mismatch')
    expect(error.status).toBe(422)
    expect(error.extra).toEqual({
      instancePath,
      keyword,
      eventType: TYPE,
      schema: `sha256:${paid.sha256}`,
    })
  })

  test('and quotes no more than 200 characters of what a stranger wrote', () => {
    const name = 'n'.repeat(1000)
    const error = refusal(() => checkPinned(paid, signingInput({ data: { amount: 1, [name]: 1 } })))
    expect(String(error.extra['instancePath']).length).toBeLessThanOrEqual(201)
    expect(error.message.length).toBeLessThan(700)
  })
})

test('an event that names the pinned schema, or none, is taken', () => {
  const event = { data: { amount: 1 } }
  expect(checkPinned(paid, signingInput(event))).toBeUndefined()
  expect(
    checkPinned(paid, signingInput({ ...event, dataschema: 'https://schemas.example/paid/1' })),
  ).toBeUndefined()
  const unnamed = pinSchema(TYPE, { type: 'object' })
  expect(
    checkPinned(unnamed, signingInput({ ...event, dataschema: 'https://any.example/' })),
  ).toBeUndefined()
})

describe('work that a stranger could make endless ends in a refusal', () => {
  test('of a recursive schema that branches at each step', () => {
    const branch = { properties: { a: { $ref: '#' } } }
    const pin = pinSchema(TYPE, { allOf: [branch, branch, branch] })
    const deep = Array.from({ length: 60 }).reduce<Json>((inner) => ({ a: inner }), {})
    expect(pin.fault({ a: { a: {} } })).toBeNull()
    expect(pin.fault(deep)?.message).toMatch(/too deep or too large/)
    // Few bytes, much work: who checks many events in a row must know.
    expect(pin.followed).toBeGreaterThan(10_000)
    expect(pin.fault(1)).toBeNull()
    expect(pin.followed).toBeLessThan(10)
  })

  test('of a long array whose items must differ', () => {
    const pin = pinSchema(TYPE, { uniqueItems: true })
    expect(pin.fault(Array.from({ length: 256 }, (_, i) => ({ i })))).toBeNull()
    expect(pin.fault([1, 2, 1])?.keyword).toBe('uniqueItems')
    expect(pin.fault(Array.from({ length: 257 }, (_, i) => ({ i })))?.keyword).toBe('maxItems')
  })

  test('of a long string on which a pattern is tried', () => {
    const pin = pinSchema(TYPE, { pattern: '^(?:\\s*x)*$', maxLength: 50_000 })
    expect(pin.fault('x'.repeat(4096))).toBeNull()
    expect(pin.fault('y')?.keyword).toBe('pattern')
    expect(pin.fault('x'.repeat(4097))?.keyword).toBe('maxLength')
  })

  test('of a long name of a member', () => {
    const pin = pinSchema(TYPE, { patternProperties: { '^a+$': true } })
    expect(pin.fault({ ['a'.repeat(1024)]: 1 })).toBeNull()
    expect(pin.fault([{ ['a'.repeat(1025)]: 1 }])?.keyword).toBe('propertyNames')
  })
})

test('draft-07 keeps its own words: dependencies, additionalItems and items by place', () => {
  const pin = pinSchema(TYPE, {
    $schema: 'http://json-schema.org/draft-07/schema#',
    properties: { list: { items: [{ type: 'string' }], additionalItems: false } },
    dependencies: { a: ['b'] },
  })
  expect(pin.fault({ list: ['x'] })).toBeNull()
  expect(pin.fault({ list: ['x', 1] })?.instancePath).toBe('/data/list/1')
  expect(pin.fault({ a: 1 })?.keyword).toBe('dependencies')
})
