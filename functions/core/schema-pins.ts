/**
 * Schema pins: a JSON Schema (2020-12, or draft-07) that `data` of every event of a type must match (design §3).
 *
 * What a pin says is checked in full or the pin is refused: a keyword, a format or a reference that would check nothing
 * is an error of the operator's file, not a hole at intake. Nothing is fetched: references stay within the schema. The
 * validator interprets, as Workers forbid eval.
 *
 * Events come from strangers, so their work is bounded: references followed (recursion passes one at each step), the
 * length of a string that a pattern or format is tried on, the length of an array that must be unique. Patterns are
 * the operator's own: one that backtracks without end on 4,096 characters is his fault.
 */

import { dereference, validate, type Schema } from '@cfworker/json-schema'
import { fromBase64Url, fromUtf8, toHex, utf8 } from '#core/bytes.ts'
import { canonicalJson } from '#core/canonical-json.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'
import { parseStrictJson, type Json } from '#core/strict-json.ts'

/** Bytes of one schema as canonical JSON. */
export const MAX_SCHEMA_BYTES = 65_536
/** Objects and arrays within each other; data itself may nest 64 deep. */
const MAX_SCHEMA_DEPTH = 32
/** References followed for one event: ≈ 0.2 s of a schema that branches at each step (measured: 20 µs each). */
const MAX_REFERENCES = 10_000
/** A pattern that is quadratic takes 4,096² / 2 = 8 million steps at most. */
const MAX_PATTERN_CHARS = 4096
/** Compared pair by pair: 256² = 65,536 comparisons, 25 ms of objects (measured). */
const MAX_UNIQUE_ITEMS = 256
/** Names of members are tried on patterns as well. */
const MAX_NAME_CHARS = 1024
/** Of what a refusal quotes. */
const MAX_SHOWN_CHARS = 200

/** A schema that is pinned to a type. */
export interface SchemaPin {
  readonly type: string
  readonly schema: Json
  /** 64 hex digits: SHA-256 of its canonical JSON (RFC 8785). */
  readonly sha256: string
  /** Its `$id`: what `dataschema` of an event must be, if it says any. */
  readonly id: string | null
  /** The first thing that is wrong with `data`, or null. */
  fault(data: Json): SchemaFault | null
  /** References that the last check followed, 20 µs each (measured): a schema that branches takes many for few bytes. */
  readonly followed: number
}

/** Where data and schema part. */
export interface SchemaFault {
  /** JSON Pointer into the event. */
  readonly instancePath: string
  readonly keyword: string
  readonly message: string
}

/** What the value of a keyword is. */
type Kind =
  | 'schema'
  | 'schemas'
  | 'members'
  | 'count'
  | 'number'
  | 'flag'
  | 'text'
  | 'names'
  | 'any'
  | 'list'
type Keywords = Readonly<Record<string, Kind | ((value: Json) => string | null)>>

const NOTES: Keywords = {
  $comment: 'text',
  title: 'text',
  description: 'text',
  default: 'any',
  examples: 'list',
  readOnly: 'flag',
  writeOnly: 'flag',
  deprecated: 'flag',
  contentEncoding: 'text',
  contentMediaType: 'text',
}
const BRANCHES = ['if', 'then', 'else'] as const
const SHARED: Keywords = {
  ...NOTES,
  $schema: 'text',
  $id: (value) =>
    typeof value === 'string' &&
    value.length <= 2048 &&
    /^[A-Za-z][A-Za-z0-9+.-]*:[^#\s]+$/.test(value)
      ? null
      : 'must be an absolute URI without fragment',
  $ref: 'text',
  $defs: 'members',
  definitions: 'members',
  type: typeFault,
  const: 'any',
  enum: 'list',
  multipleOf: (value) => (typeof value === 'number' && value > 0 ? null : 'must be above 0'),
  maximum: 'number',
  exclusiveMaximum: 'number',
  minimum: 'number',
  exclusiveMinimum: 'number',
  maxLength: 'count',
  minLength: 'count',
  pattern: patternFault,
  format: (value) =>
    FORMATS.has(value as string) ? null : `must be one of ${[...FORMATS].join(', ')}`,
  maxItems: 'count',
  minItems: 'count',
  uniqueItems: 'flag',
  contains: 'schema',
  maxProperties: 'count',
  minProperties: 'count',
  required: 'names',
  properties: 'members',
  patternProperties: 'members',
  additionalProperties: 'schema',
  propertyNames: 'schema',
  allOf: 'schemas',
  anyOf: 'schemas',
  oneOf: 'schemas',
  not: 'schema',
  ...Object.fromEntries(BRANCHES.map((keyword) => [keyword, 'schema' as const])),
}
/** The formats that are checked. Others would be words only. */
const FORMATS: ReadonlySet<string> = new Set(
  'date time date-time duration uri uri-reference email hostname ipv4 ipv6 uuid json-pointer relative-json-pointer'.split(
    ' ',
  ),
)
const DRAFTS = {
  '2020-12': {
    ...SHARED,
    $anchor: 'text',
    items: 'schema',
    prefixItems: 'schemas',
    minContains: 'count',
    maxContains: 'count',
    unevaluatedItems: 'schema',
    unevaluatedProperties: 'schema',
    dependentRequired: (value) =>
      isObject(value) && Object.values(value).every(isNames) ? null : 'must map to lists of names',
    dependentSchemas: 'members',
  },
  '7': {
    ...SHARED,
    items: (value) =>
      isObject(value) || typeof value === 'boolean' || isSchemas(value) ? null : SCHEMA,
    additionalItems: 'schema',
    dependencies: (value) =>
      isObject(value) && Object.values(value).every((v) => isNames(v) || isSchema(v))
        ? null
        : 'must map to lists of names or schemas',
  },
} as const satisfies Record<string, Keywords>
type Draft = keyof typeof DRAFTS

const TYPES = ['null', 'boolean', 'object', 'array', 'number', 'integer', 'string']
const SCHEMA = 'must be a schema'
/** What leads to a fault and is none itself. */
const LEADS_ON: ReadonlySet<string> = new Set(
  '$ref allOf if properties patternProperties additionalProperties propertyNames unevaluatedProperties items prefixItems additionalItems unevaluatedItems dependentSchemas'.split(
    ' ',
  ),
)

/**
 * Pins `schema` to an event type. Throws `bad-config` naming the place (JSON Pointer) of what is wrong with it or is not
 * checked here: keywords of other drafts, unknown formats, references that lead out of it or round in circles.
 */
export function pinSchema(type: string, schema: Json): SchemaPin {
  const refuse = (at: string, why: string): never => {
    const extra = { key: `schemas.${shown(type)}` }
    throw new VaultMeshError('bad-config', `The schema of ${shown(type)}: ${at || '/'}: ${why}.`, {
      extra,
    })
  }
  if (!isSchema(schema)) refuse('', SCHEMA)
  let canonical = ''
  try {
    canonical = canonicalJson(schema)
  } catch {
    refuse('', 'holds what is no JSON')
  }
  const bytes = utf8(canonical)
  if (bytes.length > MAX_SCHEMA_BYTES) refuse('', `has more than ${MAX_SCHEMA_BYTES} bytes`)
  const draft = draftOf(schema)
  if (draft === null)
    refuse(
      '/$schema',
      'must name 2020-12 or draft-07 (https://json-schema.org/draft/2020-12/schema)',
    )
  const guarded = guard(schema, '', { draft: draft!, refuse }) as Schema | boolean
  const lookup = readReferences(guarded, refuse)
  let followed = 0
  const run = (data: Json): ReturnType<typeof validate> => {
    followed = 0
    const counted = new Proxy(lookup, {
      get(target, uri) {
        if (++followed > MAX_REFERENCES) throw new RangeError('too many references')
        return target[uri as string]
      },
    })
    return validate(data, guarded, draft!, counted, true)
  }
  // A schema that refers to itself without going deeper would never end, whatever it is asked.
  for (const probe of [null, true, 0, '', [], {}]) {
    try {
      run(probe as Json)
    } catch {
      refuse('', 'refers to itself without going deeper into the data')
    }
  }
  return {
    type,
    schema,
    sha256: toHex(sha256(bytes)),
    id: isObject(schema) && typeof schema['$id'] === 'string' ? schema['$id'] : null,
    get followed() {
      return followed
    },
    fault(data) {
      if (hasLongName(data))
        return fault(
          '#',
          'propertyNames',
          `A member's name has more than ${MAX_NAME_CHARS} characters.`,
        )
      try {
        const { valid, errors } = run(data)
        return valid ? null : firstFault(errors)
      } catch {
        // Whatever cannot be checked to its end is not taken.
        return fault('#', '$ref', 'The data is too deep or too large to be checked.')
      }
    },
  }
}

/**
 * Holds an event against the pin of its type. `signingInput` is header.payload in ASCII. Throws `schema-mismatch`
 * with `instancePath`, `keyword`, `eventType` and `schema` (the pin's hash).
 */
export function checkPinned(pin: SchemaPin, signingInput: Uint8Array): void {
  const payload = signingInput.subarray(signingInput.indexOf(0x2e) + 1)
  const event = parseStrictJson(fromUtf8(fromBase64Url(fromUtf8(payload)))) as {
    readonly [key: string]: Json
  }
  const { data, dataschema = null } = event
  if (pin.id !== null && dataschema !== null && dataschema !== pin.id)
    throw mismatch(pin, {
      instancePath: '/dataschema',
      keyword: '$id',
      message: `The event says that it follows another schema; the pinned one is ${pin.id}.`,
    })
  if (data === undefined)
    throw mismatch(pin, {
      instancePath: '/data',
      keyword: 'required',
      message: 'An event of a pinned type has its payload in "data", as JSON.',
    })
  const found = pin.fault(data)
  if (found !== null) throw mismatch(pin, found)
}

function mismatch(
  { type, sha256: hash }: SchemaPin,
  { instancePath, keyword, message }: SchemaFault,
) {
  const at = shown(instancePath)
  return new VaultMeshError(
    'schema-mismatch',
    `"${shown(type)}" is pinned to a schema; ${at} does not match "${keyword}": ${shown(message)}`,
    { extra: { instancePath: at, keyword, eventType: shown(type), schema: `sha256:${hash}` } },
  )
}

function shown(text: string): string {
  if (text.length <= MAX_SHOWN_CHARS) return text
  // Cut between characters, or the half of one would be no text.
  return `${text.slice(0, MAX_SHOWN_CHARS).replace(/[\uD800-\uDBFF]$/, '')}…`
}

function draftOf(schema: Json): Draft | null {
  const said = isObject(schema) ? (schema['$schema'] ?? null) : null
  if (said === null || said === 'https://json-schema.org/draft/2020-12/schema') return '2020-12'
  const isOld =
    typeof said === 'string' && /^https?:\/\/json-schema\.org\/draft-07\/schema#?$/.test(said)
  return isOld ? '7' : null
}

interface Reading {
  readonly draft: Draft
  readonly refuse: (at: string, why: string) => never
}

/**
 * A copy of a schema whose keywords are all known and well formed. Patterns, formats and uniqueItems stand behind a
 * limit in it: `if` the string or array is short `then` they are asked, `else` it is too long.
 */
function guard(schema: Json, at: string, reading: Reading): Json {
  const { draft, refuse } = reading
  if (at.split('/').length > MAX_SCHEMA_DEPTH) refuse(at, `nests deeper than ${MAX_SCHEMA_DEPTH}`)
  if (typeof schema === 'boolean') return schema
  if (!isObject(schema)) return refuse(at, SCHEMA)
  const known: Keywords = DRAFTS[draft]
  const copy: Record<string, Json> = {}
  for (const [keyword, value] of Object.entries(schema)) {
    const here = `${at}/${pointer(keyword)}`
    if (keyword.startsWith('x-')) continue
    if (!Object.hasOwn(known, keyword))
      refuse(here, `is no keyword that is checked in draft ${draft}`)
    const kind = known[keyword]!
    const why = typeof kind === 'function' ? kind(value) : kindFault(kind, value)
    if (why !== null) refuse(here, why)
    if ((keyword === '$id' || keyword === '$schema') && at !== '')
      refuse(here, 'belongs to the top')
    if (keyword === 'patternProperties')
      for (const pattern of Object.keys(value as object))
        if (patternFault(pattern) !== null) refuse(here, 'holds a name that is no pattern')
    // Not what it is: it was judged above, and would be looked for under its own URI.
    if (!Object.hasOwn(NOTES, keyword)) copy[keyword] = guardedValue(keyword, value, here, reading)
  }
  const beside = Object.keys(copy).filter(
    (k) => !/^(?:\$ref|\$id|\$schema|\$defs|definitions)$/.test(k),
  )
  if (draft === '7' && '$ref' in copy && beside.length > 0)
    refuse(`${at}/${beside[0]}`, 'is ignored beside $ref in draft-07; put both into allOf')
  const { pattern, format, uniqueItems, ...rest } = copy
  const guards: Json[] = []
  if (pattern !== undefined || format !== undefined) {
    const asked = {
      ...(pattern === undefined ? {} : { pattern }),
      ...(format === undefined ? {} : { format }),
    }
    guards.push(behind({ maxLength: MAX_PATTERN_CHARS }, asked))
  }
  if (uniqueItems === true) guards.push(behind({ maxItems: MAX_UNIQUE_ITEMS }, { uniqueItems }))
  return guards.length === 0
    ? rest
    : { ...rest, allOf: [...((rest['allOf'] as Json[] | undefined) ?? []), ...guards] }
}

/** A schema that asks only what is within the limit, and of the rest that it be within it. */
function behind(limit: Json, asked: Json): Json {
  const branches = [limit, asked, limit]
  return Object.fromEntries(BRANCHES.map((keyword, i) => [keyword, branches[i]!]))
}

function guardedValue(keyword: string, value: Json, at: string, reading: Reading): Json {
  const known: Keywords = DRAFTS[reading.draft]
  const kind = known[keyword]
  const inner = (v: Json, name: string | number): Json =>
    guard(v, `${at}/${pointer(String(name))}`, reading)
  if (kind === 'schema' || (keyword === 'items' && !Array.isArray(value)))
    return guard(value, at, reading)
  if (kind === 'schemas' || keyword === 'items') return (value as readonly Json[]).map(inner)
  if (kind === 'members' || keyword === 'dependencies')
    return Object.fromEntries(
      Object.entries(value as { readonly [key: string]: Json }).map(([name, v]) => [
        name,
        keyword === 'dependencies' && Array.isArray(v) ? v : inner(v, name),
      ]),
    )
  return value
}

/** The schemas by URI; refuses a reference that leads to none of them. */
function readReferences(
  schema: Schema | boolean,
  refuse: Reading['refuse'],
): Record<string, Schema | boolean> {
  let lookup: Record<string, Schema | boolean> = {}
  try {
    lookup = dereference(schema)
  } catch {
    refuse('', 'names one schema twice, or holds a reference that is no URI')
  }
  for (const part of Object.values(lookup)) {
    if (typeof part === 'boolean' || part.$ref === undefined) continue
    if (!Object.hasOwn(lookup, part.__absolute_ref__ ?? ''))
      refuse('', `$ref "${shown(part.$ref)}" leads to no part of this schema; nothing is fetched`)
  }
  return lookup
}

function firstFault(errors: ReturnType<typeof validate>['errors']): SchemaFault {
  let keyword = ''
  for (const error of errors) {
    if (error.keyword !== 'false' && LEADS_ON.has(error.keyword)) {
      ;({ keyword } = error)
      continue
    }
    // `false` as a schema: what led to it is the keyword that a reader finds.
    if (error.keyword !== 'false') return fault(error.instanceLocation, error.keyword, error.error)
    return fault(error.instanceLocation, keyword || 'false', 'Nothing is allowed here.')
  }
  const [first] = errors
  return fault(
    first?.instanceLocation ?? '#',
    first?.keyword ?? keyword,
    first?.error ?? 'It does not match.',
  )
}

function fault(location: string, keyword: string, message: string): SchemaFault {
  let path = location.slice(1)
  try {
    path = decodeURIComponent(path)
  } catch {
    // As it came.
  }
  return { instancePath: `/data${path}`, keyword, message }
}

function hasLongName(value: Json): boolean {
  if (Array.isArray(value)) return value.some(hasLongName)
  if (!isObject(value)) return false
  return Object.entries(value).some(([name, v]) => name.length > MAX_NAME_CHARS || hasLongName(v))
}

function kindFault(kind: Kind, value: Json): string | null {
  switch (kind) {
    case 'any':
      return null
    case 'schema':
      return isSchema(value) ? null : SCHEMA
    case 'schemas':
      return isSchemas(value) ? null : 'must be a list of schemas, not empty'
    case 'members':
      return isObject(value) ? null : 'must map names to schemas'
    case 'count':
      return Number.isSafeInteger(value) && (value as number) >= 0
        ? null
        : 'must be a whole number from 0'
    case 'number':
      return typeof value === 'number' ? null : 'must be a number'
    case 'flag':
      return typeof value === 'boolean' ? null : 'must be true or false'
    case 'text':
      return typeof value === 'string' ? null : 'must be text'
    case 'names':
      return isNames(value) ? null : 'must be a list of names'
    case 'list':
      return Array.isArray(value) && value.length > 0 ? null : 'must be a list, not empty'
  }
}

function typeFault(value: Json): string | null {
  const names = Array.isArray(value) ? (value as readonly Json[]) : [value]
  return names.length > 0 && names.every((name) => typeof name === 'string' && TYPES.includes(name))
    ? null
    : `must be of ${TYPES.join(', ')}`
}

function patternFault(value: Json): string | null {
  if (typeof value !== 'string') return 'must be text'
  try {
    RegExp(value, 'u')
    return null
  } catch {
    return 'is no pattern (ECMA-262, with the flag u)'
  }
}

function isObject(value: Json | undefined): value is { readonly [key: string]: Json } {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function isSchema(value: Json): boolean {
  return typeof value === 'boolean' || isObject(value)
}

function isSchemas(value: Json): boolean {
  return Array.isArray(value) && value.length > 0 && (value as readonly Json[]).every(isSchema)
}

function isNames(value: Json): boolean {
  return (
    Array.isArray(value) && (value as readonly Json[]).every((name) => typeof name === 'string')
  )
}

/** RFC 6901 §3. */
function pointer(name: string): string {
  return name.replaceAll('~', '~0').replaceAll('/', '~1')
}
