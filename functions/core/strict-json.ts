/**
 * JSON that every parser reads alike: RFC 8259 text with no duplicate keys (RFC 7493 §2.3) and a
 * bounded depth.
 *
 * `JSON.parse` keeps the last of two equal keys, others keep the first: one signed text would then
 * mean two things. The check is a count. Each key of the text is followed by one colon outside of
 * strings, and each distinct key survives parsing, so the object tree has as many own keys as the
 * text has such colons exactly when none was repeated.
 *
 * A text with an escape in a key is read here, token by token: V8 may take such a key for another one,
 * depending on what it parsed before (nodejs/node#63785), and then two equal keys count as two.
 */

import { VaultMeshError, type Code } from '#core/errors.ts'

/** A parsed JSON value. */
export type Json =
  | null
  | boolean
  | number
  | string
  | readonly Json[]
  | { readonly [key: string]: Json }

/** Deepest nesting accepted: more has no use in an event and would overflow naive readers' stacks. */
export const MAX_JSON_DEPTH = 64

/** What a text is, for the refusal: the code of broken JSON and the words for its subject. */
export interface JsonSubject {
  readonly code: Code
  readonly name: string
}

const PAYLOAD: JsonSubject = { code: 'bad-event', name: 'The payload' }

/**
 * The value of `text`; throws `subject.code` (`bad-event`) for broken or too deep JSON, `duplicate-key`
 * for a repeat.
 */
export function parseStrictJson(text: string, subject: JsonSubject = PAYLOAD): Json {
  const { colons, escapedKey } = scan(text, subject)
  let value: Json
  try {
    value = JSON.parse(text) as Json
  } catch (cause) {
    throw new VaultMeshError(subject.code, `${subject.name} is not JSON.`, { cause })
  }
  if (escapedKey) value = readTokens(text)
  if (countKeys(value) !== colons) {
    throw new VaultMeshError('duplicate-key', `${subject.name} repeats a key of one object.`)
  }
  return value
}

/** Colons outside of strings, and whether one of them follows a string with an escape. */
function scan(text: string, { code, name }: JsonSubject): { colons: number; escapedKey: boolean } {
  let colons = 0
  let depth = 0
  let escapedKey = false
  let escaped = false
  let slash = nextSlash(text, 0)
  for (let i = 0; i < text.length; i++) {
    switch (text.charCodeAt(i)) {
      case 0x22: {
        // Skip the string: to the next quote that an even number of backslashes precedes.
        let end = text.indexOf('"', i + 1)
        while (end > 0 && isEscaped(text, end)) end = text.indexOf('"', end + 1)
        if (end < 0) return { colons, escapedKey } // JSON.parse will refuse the unterminated string
        if (slash < i) slash = nextSlash(text, i)
        escaped = slash < end
        i = end
        break
      }
      case 0x3a:
        colons++
        escapedKey ||= escaped
        break
      case 0x7b:
      case 0x5b:
        if (++depth > MAX_JSON_DEPTH) {
          throw new VaultMeshError(code, `${name} nests deeper than ${MAX_JSON_DEPTH}.`, {
            extra: { limit: MAX_JSON_DEPTH },
          })
        }
        break
      case 0x7d:
      case 0x5d:
        depth--
        break
    }
  }
  return { colons, escapedKey }
}

function nextSlash(text: string, from: number): number {
  const at = text.indexOf('\\', from)
  return at < 0 ? Infinity : at
}

function isEscaped(text: string, quote: number): boolean {
  let slashes = 0
  while (text.charCodeAt(quote - 1 - slashes) === 0x5c) slashes++
  return slashes % 2 === 1
}

function countKeys(value: Json): number {
  if (typeof value !== 'object' || value === null) return 0
  let keys = 0
  if (Array.isArray(value)) {
    for (const item of value) keys += countKeys(item as Json)
    return keys
  }
  for (const item of Object.values(value)) keys += 1 + countKeys(item as Json)
  return keys
}

/** A string, a bracket, a number or a word; what lies between them is space, commas and colons. */
const TOKEN = /"(?:[^"\\]|\\.)*"|[{}[\]]|[^\s"{}[\],:]+/g

/** The value of a text that JSON.parse took, with its keys decoded as the strings they are. */
function readTokens(text: string): Json {
  const tokens = text.match(TOKEN)!
  let at = 0
  function value(): Json {
    const token = tokens[at++]!
    if (token === '[') {
      const items: Json[] = []
      while (tokens[at] !== ']') items.push(value())
      at++
      return items
    }
    if (token !== '{') return JSON.parse(token) as Json
    const object: { [key: string]: Json } = {}
    const own = { writable: true, enumerable: true, configurable: true }
    while (tokens[at] !== '}') {
      const key = JSON.parse(tokens[at++]!) as string
      // Defined, not assigned: "__proto__" is a key like any other.
      Object.defineProperty(object, key, { value: value(), ...own })
    }
    at++
    return object
  }
  return value()
}
