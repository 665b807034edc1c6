/**
 * JSON that every parser reads alike: RFC 8259 text with no duplicate keys (RFC 7493 §2.3) and a
 * bounded depth.
 *
 * `JSON.parse` keeps the last of two equal keys, others keep the first: one signed text would then
 * mean two things. The check is a count. Each key of the text is followed by one colon outside of
 * strings, and each distinct key survives parsing, so the object tree has as many own keys as the
 * text has such colons exactly when none was repeated.
 */

import { VaultMeshError } from '#core/errors.ts'

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

/** The value of `text`; throws `bad-event` for broken or too deep JSON, `duplicate-key` for a repeat. */
export function parseStrictJson(text: string): Json {
  const colons = countColons(text)
  let value: Json
  try {
    value = JSON.parse(text) as Json
  } catch (cause) {
    throw new VaultMeshError('bad-event', 'The payload is not JSON.', { cause })
  }
  if (countKeys(value) !== colons) {
    throw new VaultMeshError('duplicate-key', 'The payload repeats a key of one object.')
  }
  return value
}

function countColons(text: string): number {
  let colons = 0
  let depth = 0
  for (let i = 0; i < text.length; i++) {
    switch (text.charCodeAt(i)) {
      case 0x22: {
        // Skip the string: to the next quote that an even number of backslashes precedes.
        let end = text.indexOf('"', i + 1)
        while (end > 0 && isEscaped(text, end)) end = text.indexOf('"', end + 1)
        if (end < 0) return colons // JSON.parse will refuse the unterminated string
        i = end
        break
      }
      case 0x3a:
        colons++
        break
      case 0x7b:
      case 0x5b:
        if (++depth > MAX_JSON_DEPTH) {
          throw new VaultMeshError(
            'bad-event',
            `The payload nests deeper than ${MAX_JSON_DEPTH}.`,
            {
              extra: { limit: MAX_JSON_DEPTH },
            },
          )
        }
        break
      case 0x7d:
      case 0x5d:
        depth--
        break
    }
  }
  return colons
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
