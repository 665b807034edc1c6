import * as fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { VaultMeshError } from '#core/errors.ts'
import { MAX_JSON_DEPTH, parseStrictJson } from '#core/strict-json.ts'

/** A tree of entries, so that a text may repeat keys and choose its spelling. */
type Tree =
  | { readonly kind: 'leaf'; readonly text: string }
  | { readonly kind: 'array'; readonly items: readonly Tree[] }
  | { readonly kind: 'object'; readonly entries: readonly (readonly [string, Tree])[] }

const key = fc.oneof(
  fc.constantFrom(
    'a',
    'b',
    '',
    '__proto__',
    'constructor',
    'toString',
    ':',
    '"',
    '\\',
    '{',
    '1',
    '\u2028',
  ),
  fc.string({ unit: 'grapheme', maxLength: 6 }),
)
const leaf = fc
  .oneof(
    fc.string({ unit: 'grapheme' }),
    fc.constantFrom<unknown>(
      '":"',
      '{"a":1,"a":2}',
      '\\',
      '\\\\"',
      null,
      true,
      false,
      0,
      -1.5e-7,
      1e300,
    ),
  )
  .map((value): Tree => ({ kind: 'leaf', text: JSON.stringify(value) }))
const { tree } = fc.letrec<{ tree: Tree }>((tie) => ({
  tree: fc.oneof(
    { maxDepth: 4, withCrossShrink: true },
    leaf,
    fc.array(tie('tree'), { maxLength: 4 }).map((items): Tree => ({ kind: 'array', items })),
    fc
      .uniqueArray(fc.tuple(key, tie('tree')), { maxLength: 4, selector: ([k]) => k })
      .map((entries): Tree => ({ kind: 'object', entries })),
  ),
}))

/** Text of a tree: spaces where JSON allows them, some characters of keys as \u escapes. */
function write(node: Tree, pick: () => number): string {
  const space = (): string => ['', '', ' ', '\n', '\t', '\r\n '][pick() % 6]!
  if (node.kind === 'leaf') return space() + node.text + space()
  if (node.kind === 'array') {
    const items = node.items.map((item) => write(item, pick))
    return `${space()}[${items.join(',') || space()}]${space()}`
  }
  const entries = node.entries.map(
    ([k, v]) => `${space()}${spell(k, pick)}${space()}:${write(v, pick)}`,
  )
  return `${space()}{${entries.join(',') || space()}}${space()}`
}

function spell(text: string, pick: () => number): string {
  let out = ''
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i).toString(16).padStart(4, '0')
    const plain = JSON.stringify(text[i]).slice(1, -1)
    out += [plain, plain, `\\u${unit}`, `\\u${unit.toUpperCase()}`][pick() % 4]!
  }
  // JSON.stringify escapes a half of a pair; both halves as they are make the character again.
  return `"${out}"`
}

const picks = fc.infiniteStream(fc.nat(1000)).map((stream) => () => stream.next().value as number)

/** The value of a tree, built without JSON.parse: V8 may misread keys with escapes (nodejs/node#63785). */
function valueOf(node: Tree): unknown {
  if (node.kind === 'leaf') return JSON.parse(node.text)
  if (node.kind === 'array') return node.items.map(valueOf)
  const object = {}
  for (const [k, v] of node.entries) {
    const own = { writable: true, enumerable: true, configurable: true }
    Object.defineProperty(object, k, { value: valueOf(v), ...own })
  }
  return object
}

/** All objects of a tree, as paths of child numbers. */
function objectsOf(node: Tree, path: readonly number[] = []): (readonly number[])[] {
  if (node.kind === 'leaf') return []
  const children = node.kind === 'array' ? node.items : node.entries.map(([, v]) => v)
  const below = children.flatMap((child, i) => objectsOf(child, [...path, i]))
  return node.kind === 'object' && node.entries.length > 0 ? [path, ...below] : below
}

/** The tree with one key of the object at `path` repeated at the end, under another value. */
function repeated(node: Tree, path: readonly number[], which: number, value: Tree): Tree {
  const [next, ...rest] = path
  if (node.kind === 'object' && next === undefined) {
    const [name] = node.entries[which % node.entries.length]!
    const at = which % (node.entries.length + 1)
    const entries = [...node.entries]
    entries.splice(at, 0, [name, value])
    return { kind: 'object', entries }
  }
  if (node.kind === 'array') {
    return {
      kind: 'array',
      items: node.items.map((n, i) => (i === next ? repeated(n, rest, which, value) : n)),
    }
  }
  if (node.kind === 'object') {
    const entries = node.entries.map(
      ([k, n], i) => [k, i === next ? repeated(n, rest, which, value) : n] as const,
    )
    return { kind: 'object', entries }
  }
  return node
}

function codeOf(text: string): string {
  try {
    parseStrictJson(text)
    return 'ok'
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    return error.code
  }
}

describe('strict JSON', () => {
  test('reads every tree without repeated keys as JSON.parse does, however it is spelled', () => {
    fc.assert(
      fc.property(tree, picks, (node, pick) => {
        const text = write(node, pick)
        expect(parseStrictJson(text)).toEqual(valueOf(node))
      }),
      { numRuns: 1500 },
    )
  })

  test('finds a repeated key in any object, at any depth, however it is escaped', () => {
    fc.assert(
      fc.property(tree, tree, fc.nat(1000), fc.nat(1000), picks, (node, value, at, which, pick) => {
        const objects = objectsOf(node)
        fc.pre(objects.length > 0)
        const text = write(repeated(node, objects[at % objects.length]!, which, value), pick)
        expect(codeOf(text)).toBe('duplicate-key')
      }),
      { numRuns: 1500 },
    )
  })

  test.each([
    ['{"a":1,"a":1}', 'duplicate-key'],
    ['{"a":1,"\\u0061":2}', 'duplicate-key'],
    ['{"\\u00e9":1,"é":2}', 'duplicate-key'],
    ['{"__proto__":1,"__proto__":2}', 'duplicate-key'],
    ['{"__proto__":1,"\\u005f_proto__":{}}', 'duplicate-key'],
    ['[[[{"x":[{"y":1,"y":2}]}]]]', 'duplicate-key'],
    ['{"a":{"b":1},"a":{"c":1}}', 'duplicate-key'],
    ['{"":1,"":2}', 'duplicate-key'],
    ['{"1":1,"01":2,"1":3}', 'duplicate-key'],
    ['{"__proto__":1}', 'ok'],
    ['{"é":1,"e\u0301":2}', 'ok'],
    ['{"a":"\\\\","b":"\\":"}', 'ok'],
    ['{"a":"{\\"a\\":1}","b":":::"}', 'ok'],
    ['"a:b"', 'ok'],
    ['', 'bad-event'],
    ['{', 'bad-event'],
    ['{"a"}', 'bad-event'],
    ['{"a":1,}', 'bad-event'],
    ['{"a":1}{"a":1}', 'bad-event'],
    ['\ufeff{}', 'bad-event'],
    ['{"a":"\n"}', 'bad-event'],
    ['{"a":NaN}', 'bad-event'],
    ["{'a':1}", 'bad-event'],
    ['"abc', 'bad-event'],
    ['"abc\\"', 'bad-event'],
    ['{"a":01}', 'bad-event'],
    ['undefined', 'bad-event'],
  ])('judges %j as %s', (text, code) => {
    expect(codeOf(text)).toBe(code)
  })

  test('reads an escaped key as what it is, whatever V8 parsed before (nodejs/node#63785)', () => {
    for (const first of ['a', 'h', 'data']) {
      JSON.parse(`{"${first}":[],"\\\\":0}`) // after this, V8 may take "\\u0061" for "\\"
      expect(parseStrictJson(`{"${first}":1,"\\u007a":2}`)).toEqual({ [first]: 1, z: 2 })
      expect(codeOf(`{"${first}":1,"z":2,"\\u007a":2}`)).toBe('duplicate-key')
    }
    JSON.parse('{"a":[],"\\\\":0}')
    expect(codeOf('{"a":1,"\\u0061":2}')).toBe('duplicate-key')
    expect(codeOf('{"a":1,"\\u0062":2,"\\u0063":3}')).toBe('ok')
  })

  test('nests 64 deep and no deeper', () => {
    const nested = (n: number): string => '['.repeat(n) + ']'.repeat(n)
    expect(codeOf(nested(MAX_JSON_DEPTH))).toBe('ok')
    expect(codeOf(nested(MAX_JSON_DEPTH + 1))).toBe('bad-event')
    expect(codeOf('{"a":'.repeat(30_000))).toBe('bad-event')
    expect(codeOf(`[${'[],'.repeat(1000)}[]]`)).toBe('ok')
    expect(codeOf(JSON.stringify('['.repeat(100)))).toBe('ok')
  })

  test('takes time in proportion to the text, also for a text of backslashes', () => {
    const startedAt = performance.now()
    expect(codeOf(`"${'\\\\'.repeat(500_000)}"`)).toBe('ok')
    expect(codeOf(`["${'\\"'.repeat(500_000)}"]`)).toBe('ok')
    expect(performance.now() - startedAt).toBeLessThan(2000)
  })

  test('names the subject and its own code in a refusal', () => {
    const subject = { code: 'bad-receipt', name: 'The receipt' } as const
    expect(() => parseStrictJson('{', subject)).toThrow('The receipt is not JSON.')
    expect(() => parseStrictJson('{"a":1,"a":1}', subject)).toThrow('The receipt repeats')
    expect(() => parseStrictJson('['.repeat(65), subject)).toThrow('The receipt nests deeper')
  })

  test('throws nothing but its own errors', () => {
    const noise = fc.string({
      unit: fc.constantFrom(...'{}[]":,\\ua01\n e-.tn'.split('')),
      maxLength: 40,
    })
    fc.assert(
      fc.property(fc.oneof(noise, fc.string({ unit: 'binary' })), (text) => {
        let plain: unknown
        try {
          plain = JSON.parse(text)
        } catch {
          expect(codeOf(text)).toBe('bad-event')
          return
        }
        if (codeOf(text) !== 'ok') return
        if (!text.includes('\\')) expect(parseStrictJson(text)).toEqual(plain)
      }),
      { numRuns: 3000 },
    )
  })
})
