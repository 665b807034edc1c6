/**
 * The published document is the one the routes make, valid OpenAPI 3.1, whole, and its examples are true.
 */

import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { Validator } from '@seriousme/openapi-schema-validator'
import { Ajv2020 } from 'ajv/dist/2020.js'
import formats from 'ajv-formats'
import { beforeAll, describe, expect, test } from 'vitest'
import { utf8 } from '#core/bytes.ts'
import { parseCloudEvent } from '#core/cloud-event.ts'
import { EVENT_TYP, openEnvelope, verifyEnvelope } from '#core/envelope.ts'
import { verifyPromise } from '#core/promise.ts'
import { parseReceipt, verifyReceipt } from '#core/receipt.ts'
import { Signers } from '#core/signer.ts'
import type { Json } from '#core/strict-json.ts'
import { documentText, generate, type Generated } from '../../scripts/openapi.ts'

interface Operation {
  readonly operationId: string
  readonly tags: readonly string[]
  readonly parameters?: readonly {
    readonly name: string
    readonly in: string
    schema: object
    example?: unknown
  }[]
  readonly responses: Readonly<Record<string, unknown>>
}
interface Document {
  readonly tags: readonly { readonly name: string }[]
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
  readonly components: {
    readonly schemas: Readonly<
      Record<
        string,
        { examples?: readonly unknown[]; properties?: Readonly<Record<string, object>> }
      >
    >
  }
}

let generated: Generated
let document: Document
let ajv: Ajv2020

beforeAll(async () => {
  generated = await generate()
  document = generated.document as unknown as Document
  ajv = new Ajv2020({ strict: false, allErrors: true })
  formats.default(ajv)
  ajv.addSchema({ $id: 'doc', ...generated.document })
})

function operations(): Operation[] {
  return Object.values(document.paths).flatMap((path) => Object.values(path))
}

function example(name: string): unknown {
  return document.components.schemas[name]!.examples![0]
}

test('the committed openapi.json is the one that the routes make', () => {
  const committed = readFileSync(resolve(import.meta.dirname, '../../openapi.json'), 'utf8')
  expect(committed).toBe(documentText(generated))
})

test('the document is valid by the OpenAPI 3.1 meta-schema', async () => {
  const { valid, errors } = await new Validator().validate(structuredClone(generated.document))
  expect(errors).toBeUndefined()
  expect(valid).toBe(true)
})

test('every public route is in the document, and no internal one', () => {
  const inDocument = Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.keys(methods).map((method) => `${method.toUpperCase()} ${path}`),
  )
  const published = generated.routes
    .filter((route) => route.internal !== true)
    .map(({ method, path }) => `${method} ${path.replaceAll('*}', '}')}`)
  expect(inDocument.sort()).toEqual(published.sort())
})

test('every note is of a route, every operation has its own id and a tag that is described', () => {
  const routes = generated.routes.map(({ method, path }) => `${method} ${path}`)
  expect(routes).toEqual(expect.arrayContaining(Object.keys(generated.notes)))
  const ids = operations().map((o) => o.operationId)
  expect(new Set(ids).size).toBe(ids.length)
  const tags = new Set(document.tags.map((tag) => tag.name))
  for (const { tags: own } of operations()) for (const tag of own) expect(tags).toContain(tag)
})

test('every word is for a field that its schema has', () => {
  for (const [name, fields] of Object.entries(generated.words)) {
    const { properties } = document.components.schemas[name]!
    for (const field of Object.keys(fields))
      expect(properties?.[field], `${name}.${field}`).toSatisfy(
        // The words alone are no schema: then the field is gone, and they must go, too.
        (schema: object) => Object.keys(schema).length > 1 || field === 'data',
      )
  }
})

test('every operation answers a problem by default, and every path parameter is declared', () => {
  for (const [path, methods] of Object.entries(document.paths)) {
    const names = [...path.matchAll(/\{(\w+)\}/g)].map((match) => match[1])
    for (const { parameters = [], responses } of Object.values(methods)) {
      expect(responses['default']).toEqual({ $ref: '#/components/responses/Problem' })
      expect(parameters.filter((p) => p.in === 'path').map((p) => p.name)).toEqual(names)
    }
  }
})

describe('examples', () => {
  test('each is valid under the schema it stands at', () => {
    let checked = 0
    for (const [name, { examples = [] }] of Object.entries(document.components.schemas)) {
      expect(ajv.validateSchema(document.components.schemas[name]!), name).toBe(true)
      const validate = ajv.compile({ $ref: `doc#/components/schemas/${name}` })
      for (const value of examples) {
        checked++
        expect(validate(value), `${name}: ${ajv.errorsText(validate.errors)}`).toBe(true)
      }
    }
    for (const { parameters = [] } of operations())
      for (const { name, schema, example: value } of parameters) {
        if (value === undefined) continue
        checked++
        expect(ajv.validate(schema, value), name).toBe(true)
      }
    expect(checked).toBeGreaterThan(15)
  })

  test('each schema but the opaque ones has one', () => {
    const without = Object.entries(document.components.schemas).filter(
      ([, s]) => s.examples === undefined,
    )
    expect(without.map(([name]) => name)).toEqual([])
  })

  test('the event verifies, and its payload is the CloudEvent of the example', async () => {
    const open = await openEnvelope(utf8(example('Event') as string), new Signers(EVENT_TYP))
    await verifyEnvelope(open)
    expect(open.event).toEqual(parseCloudEvent(example('CloudEvent') as Json))
    await verifyPromise((example('Accepted') as { promise: string }).promise)
  })

  test('the receipt verifies offline under the key of the well-known example', async () => {
    const { vkey } = example('WellKnown') as { vkey: string }
    const receipt = parseReceipt(JSON.stringify(example('Receipt')))
    const event = utf8(example('Event') as string)
    const report = await verifyReceipt(receipt, { vkeys: [vkey], tsaRoots: [] }, event)
    expect(report.verdict).toBe('verified')
  })
})
