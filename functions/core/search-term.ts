/**
 * What somebody may mean by the text in the one search box: a hash (of an event, a root, a transaction), the head of
 * one, a DID, a number (a height or a leaf), a type or a subject.
 *
 * A text may mean several things; all of them are looked for. `type:`, `subject:` and `source:` say which is meant.
 */

import { fromHex } from '#core/bytes.ts'
import { hashKey } from '#core/hash-key.ts'

/** What a text may mean; what it cannot mean is null. */
export interface SearchTerm {
  /** As typed, without space around it. */
  readonly text: string
  /** 64 lowercase hex digits. */
  readonly hash: string | null
  /** The first 6 to 63 lowercase hex digits of a hash. */
  readonly head: string | null
  /** A height or a leaf index. */
  readonly number: number | null
  readonly source: string | null
  readonly type: string | null
  readonly subject: string | null
}

const NOTHING = {
  hash: null,
  head: null,
  number: null,
  source: null,
  type: null,
  subject: null,
} as const

/** Fewest digits of a head: 24 bits, about one event in 16 million. */
const MIN_HEAD = 6

/** Reads a search box. `…` behind a head, as pages show hashes, is left out. */
export function readSearchTerm(typed: string): SearchTerm {
  const text = typed.trim()
  if (text === '') return { text, ...NOTHING }
  const named = /^(type|subject|source):\s*(.+)$/s.exec(text)
  if (named !== null) return { text, ...NOTHING, [named[1]!]: named[2]! }
  if (/^did:[a-z0-9]+:/.test(text)) {
    // A DID URL names a key of its DID; events name the DID.
    return { text, ...NOTHING, source: text.replace(/#.*$/s, '') }
  }
  const digits = /^(?:sha256:|0x)?([0-9a-f]{1,64})(?:…|\.\.\.)?$/i.exec(text)?.[1]?.toLowerCase()
  const number = /^#?(?:0|[1-9]\d{0,14})$/.test(text) ? Number(text.replace('#', '')) : null
  if (digits?.length === 64) return { text, ...NOTHING, hash: digits }
  const head = digits !== undefined && digits.length >= MIN_HEAD ? digits : null
  // What says of itself that it is a hash, or has a number's sign, is no name.
  const isName = !/^(?:sha256:|0x|#)/i.test(text)
  return {
    text,
    ...NOTHING,
    number,
    head,
    type: isName ? text : null,
    subject: isName ? text : null,
  }
}

/** The range of hash keys, both ends included, of the hashes that begin with these hex digits. */
export function keysOfHead(head: string): readonly [first: number, last: number] {
  return [hashKey(fromHex(head.padEnd(64, '0'))), hashKey(fromHex(head.padEnd(64, 'f')))]
}
