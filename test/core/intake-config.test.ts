/**
 * The rules of intake: what a document says, what it is refused for, and whom and what it lets in.
 */

import { describe, expect, test } from 'vitest'
import { utf8 } from '#core/bytes.ts'
import { EVENT_TYP, openEnvelope, type OpenEnvelope } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  checkAllowed,
  checkSchema,
  MAX_INTAKE_BYTES,
  NO_RULES,
  parseIntakeRules,
} from '#core/intake-config.ts'
import { Signers } from '#core/signer.ts'
import { signEvent, testSigner } from '../support/signing.ts'

const me = testSigner('EdDSA', 'me')
const signers = new Signers(EVENT_TYP)

async function event(type: string, data: unknown = {}): Promise<OpenEnvelope> {
  return openEnvelope(utf8(signEvent(me, { payload: { type, data } })), signers)
}

function code(run: () => unknown): string {
  try {
    run()
  } catch (error) {
    if (error instanceof VaultMeshError) return error.code
    throw error
  }
  return 'taken'
}

describe('a document is refused', () => {
  const cases: readonly [string, unknown, RegExp][] = [
    ['with a key that is none', { allows: [] }, /allows: is not a key/],
    ['with what is no DID', { allow: ['nobody'] }, /allow\.0: "nobody"/],
    ['that closes to something else', { unpinned: 'drop' }, /unpinned/],
    [
      'with a pin of a type of the ledger itself',
      { schemas: { 'vm.received': true } },
      /vm\.received/,
    ],
    ['with a schema that is refused', { schemas: { a: { typ: 'string' } } }, /schema of a: \/typ/],
    [
      'with too many pins',
      { schemas: Object.fromEntries(Array.from({ length: 201 }, (_, i) => [`t${i}`, true])) },
      /more than 200/,
    ],
    [
      'that is too large',
      { schemas: { a: { description: 'x'.repeat(MAX_INTAKE_BYTES) } } },
      /bytes/,
    ],
  ]
  test.each(cases)('%s', (_, document, words) => {
    expect(() => parseIntakeRules(JSON.stringify(document))).toThrow(words)
    expect(code(() => parseIntakeRules(JSON.stringify(document)))).toBe('bad-config')
  })

  test('that is no JSON, or says a key twice', () => {
    expect(code(() => parseIntakeRules('{'))).toBe('bad-config')
    expect(code(() => parseIntakeRules('{"allow":[],"allow":["*"]}'))).toBe('duplicate-key')
  })
})

test('allow stands alone where it is given, and INTAKE_ALLOW where it is not', async () => {
  const { signer } = await event('a')
  const listed = new Set([signer.canonical])
  const closed = new Set<string>()
  const rules = (document: object) => parseIntakeRules(JSON.stringify(document))
  const said = (document: object, variable: ReadonlySet<string> | null) =>
    code(() => checkAllowed(rules(document), variable, signer))
  expect(said({ allow: [me.did] }, closed)).toBe('taken')
  expect(said({ allow: ['*'] }, closed)).toBe('taken')
  expect(said({ allow: [] }, null)).toBe('not-allowed')
  expect(said({ allow: [testSigner('EdDSA', 'other').did] }, null)).toBe('not-allowed')
  expect(said({}, null)).toBe('taken')
  expect(said({}, listed)).toBe('taken')
  expect(said({}, closed)).toBe('not-allowed')
  expect(code(() => checkAllowed(NO_RULES, closed, signer))).toBe('not-allowed')
})

test('unpinned: refuse takes pinned types, erasures and what the node says itself, and nothing else', async () => {
  const rules = parseIntakeRules(
    JSON.stringify({ unpinned: 'refuse', schemas: { a: { required: ['n'] } } }),
  )
  const said = async (type: string, data: unknown, nodeDid = '') => {
    const open = await event(type, data)
    return code(() => checkSchema(rules, open, nodeDid))
  }
  expect(await said('a', { n: 1 })).toBe('taken')
  expect(await said('a', {})).toBe('schema-mismatch')
  expect(await said('b', { n: 1 })).toBe('schema-mismatch')
  expect(await said('vm.erased', {})).toBe('taken')
  expect(await said('vm.received', {})).toBe('schema-mismatch')
  expect(await said('vm.received', {}, me.did)).toBe('taken')
  const open = parseIntakeRules('{"schemas":{"a":true}}')
  const other = await event('b')
  expect(code(() => checkSchema(open, other, ''))).toBe('taken')
})
