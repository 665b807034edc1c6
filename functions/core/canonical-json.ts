/**
 * Canonical JSON: the one text of a value (RFC 8785, JCS), for documents that we author and hash.
 *
 *   no white space · keys sorted by UTF-16 code units (§3.2.3) · strings and numbers as ECMAScript
 *   writes them (§3.2.2.2, §3.2.2.3), so -0 is 0
 *
 * Invariant: `canonicalJson(JSON.parse(canonicalJson(x)))` is `canonicalJson(x)`. What JSON cannot
 * hold is refused, never dropped or turned into null as `JSON.stringify` does: two values that
 * differ must not share a hash. What others sign is never serialised again; it is kept as bytes.
 */

import { VaultMeshError } from '#core/errors.ts'
import { MAX_JSON_DEPTH } from '#core/strict-json.ts'

/** The canonical text of `value`; its UTF-8 bytes are what is hashed. Throws `bad-encoding`. */
export function canonicalJson(value: unknown): string {
  return write(value, 0)
}

function write(value: unknown, depth: number): string {
  switch (typeof value) {
    case 'string':
      return quote(value)
    case 'boolean':
      return String(value)
    case 'number':
      if (!Number.isFinite(value)) throw bad(`${value} is not a JSON number`)
      return JSON.stringify(value)
    case 'object':
      return value === null ? 'null' : writeCollection(value, depth)
    default:
      throw bad(`JSON has no ${typeof value}`)
  }
}

function writeCollection(value: object, depth: number): string {
  // A cycle is infinitely deep, so it ends here as well.
  if (depth === MAX_JSON_DEPTH) throw bad(`it nests deeper than ${MAX_JSON_DEPTH}`)
  // Array.from reads a hole as undefined, which is refused; map would skip it.
  if (Array.isArray(value)) {
    return `[${Array.from(value as unknown[], (item) => write(item, depth + 1)).join(',')}]`
  }
  if (!isPlain(value)) throw bad('JSON has no such object (a Date, Map, bytes or class)')
  const fields = value as Readonly<Record<string, unknown>>
  const members = Object.keys(fields)
    .sort()
    .map((key) => `${quote(key)}:${write(fields[key], depth + 1)}`)
  return `{${members.join(',')}}`
}

/** §3.2.2.2: a lone surrogate must end in an error; JSON.stringify would escape it. */
function quote(text: string): string {
  if (!text.isWellFormed()) throw bad('a string holds a lone surrogate')
  return JSON.stringify(text)
}

/** An object literal, of whatever realm, or one without prototype. */
function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value)
  return prototype === null || Object.getPrototypeOf(prototype) === null
}

function bad(why: string): VaultMeshError {
  return new VaultMeshError('bad-encoding', `The value has no canonical JSON: ${why}.`)
}
