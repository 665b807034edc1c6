/**
 * The rules of intake that change while a node runs: who may post, and which schemas are pinned to which types.
 *
 * A node is handed one JSON document with every schema inside (scripts/intake-file.ts makes it from config/intake.yaml).
 * Without `allow` the variable INTAKE_ALLOW stands; with it, it stands alone. `unpinned: refuse` closes intake to types
 * without a pin, but not to what the ledger says of itself.
 */

import * as z from 'zod'
import { toHex, utf8 } from '#core/bytes.ts'
import { MAX_ATTRIBUTE_CHARS } from '#core/cloud-event.ts'
import { parseDid } from '#core/did.ts'
import type { OpenEnvelope } from '#core/envelope.ts'
import { ERASURE_TYPE } from '#core/erasure.ts'
import { VaultMeshError } from '#core/errors.ts'
import { checkPinned, pinSchema, type SchemaPin } from '#core/schema-pins.ts'
import { sha256 } from '#core/sha256.ts'
import { parseStrictJson, type Json } from '#core/strict-json.ts'

/** Bytes of the document: 8 schemas of the largest size, or 8,000 DIDs. */
export const MAX_INTAKE_BYTES = 524_288
const MAX_PINS = 200

/** Rules as they are asked at intake. */
export interface IntakeRules {
  /** 64 hex digits, of the document; null where none was applied. */
  readonly sha256: string | null
  /** Canonical DIDs that may post; null for anybody, undefined where INTAKE_ALLOW decides. */
  readonly allow: ReadonlySet<string> | null | undefined
  readonly pins: ReadonlyMap<string, SchemaPin>
  readonly unpinned: 'accept' | 'refuse'
}

/** Where nothing was applied. */
export const NO_RULES: IntakeRules = {
  sha256: null,
  allow: undefined,
  pins: new Map(),
  unpinned: 'accept',
}

const schema = z.strictObject({
  allow: z.array(z.string()).optional(),
  schemas: z.record(z.string(), z.unknown()).default({}),
  unpinned: z.enum(['accept', 'refuse']).default('accept'),
})

/** Types that the ledger writes itself, or that speak of an event that it holds. */
const OWN = /^vm\./

/** The rules in a document; throws `bad-config` naming the key. */
export function parseIntakeRules(text: string): IntakeRules {
  const bytes = utf8(text)
  if (bytes.length > MAX_INTAKE_BYTES) throw refused('', `has more than ${MAX_INTAKE_BYTES} bytes`)
  const value = parseStrictJson(text, {
    code: 'bad-config',
    name: 'The document of the intake rules',
  })
  const parsed = schema.safeParse(value)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    const unknown = issue.code === 'unrecognized_keys' ? issue.keys[0]! : null
    throw refused(
      [...issue.path, ...(unknown === null ? [] : [unknown])].join('.'),
      unknown === null ? issue.message : 'is not a key of this file',
    )
  }
  const { allow, schemas, unpinned } = parsed.data
  const types = Object.keys(schemas)
  if (types.length > MAX_PINS) throw refused('schemas', `holds more than ${MAX_PINS}`)
  const pins = new Map<string, SchemaPin>()
  for (const type of types) {
    if (type === '' || type.length > MAX_ATTRIBUTE_CHARS)
      throw refused('schemas', `has a type that no event can have`)
    if (OWN.test(type)) throw refused(`schemas.${type}`, 'is a type of the ledger itself')
    pins.set(type, pinSchema(type, schemas[type] as Json))
  }
  return { sha256: toHex(sha256(bytes)), allow: allowed(allow), pins, unpinned }
}

function allowed(entries: readonly string[] | undefined): IntakeRules['allow'] {
  if (entries === undefined) return undefined
  if (entries.includes('*')) return null
  return new Set(
    entries.map((did, i) => {
      try {
        // A DID URL allows its DID: a signer is compared without fragment.
        return parseDid(did).canonical
      } catch {
        throw refused(`allow.${i}`, `"${did.slice(0, 80)}" is neither * nor a DID`)
      }
    }),
  )
}

/** Throws `not-allowed` unless the rules, or where they do not say INTAKE_ALLOW, let `did` (canonical) post. */
export function checkAllowed(
  rules: IntakeRules,
  variable: ReadonlySet<string> | null,
  { did, canonical }: { readonly did: string; readonly canonical: string },
): void {
  const allow = rules.allow === undefined ? variable : rules.allow
  if (allow === null || allow.has(canonical)) return
  throw new VaultMeshError('not-allowed', `${did} may not post here.`)
}

/**
 * Throws `schema-mismatch` unless `data` matches what is pinned to the event's type. What the node says itself (`vm.*`
 * signed by `nodeDid`, its identity key), and an erasure, need no pin.
 */
export function checkSchema(rules: IntakeRules, open: OpenEnvelope, nodeDid: string): void {
  const { type } = open.event
  const pin = rules.pins.get(type)
  if (pin !== undefined) return checkPinned(pin, open.signingInput)
  if (rules.unpinned === 'accept' || type === ERASURE_TYPE) return
  if (OWN.test(type) && open.signer.did === nodeDid) return
  throw new VaultMeshError(
    'schema-mismatch',
    'No schema is pinned to the type of this event, and this node takes pinned types only: GET /schemas lists them.',
    { extra: { instancePath: '/type', keyword: 'unpinned' } },
  )
}

function refused(key: string, why: string): VaultMeshError {
  const where = key === '' ? '' : `${key.slice(0, 120)}: `
  return new VaultMeshError('bad-config', `Intake rules: ${where}${why}.`, {
    extra: { key: key === '' ? 'intake' : key.slice(0, 120) },
  })
}
