/**
 * The payload of an event: one CloudEvents 1.0 JSON object (CloudEvents 1.0.2 §3, JSON format §2).
 *
 * The schema below is the only description of it: it validates at intake and it is what
 * /openapi.json publishes. Attribute names are lowercase ASCII letters and digits (§3.1).
 */

import * as z from 'zod'
import { VaultMeshError } from '#core/errors.ts'
import { parseTime } from '#core/time.ts'
import type { Json } from '#core/strict-json.ts'

/** Longest id, source, type and subject in characters: each is an index key; B-tree pages hold 4 KiB. */
export const MAX_ATTRIBUTE_CHARS = 1024

/** CloudEvents 1.0 §3.1 String: no control characters, unpaired surrogates or non-characters. */
const FORBIDDEN = /[\u0000-\u001f\u007f-\u009f\p{Noncharacter_Code_Point}]|\p{Surrogate}/u
const FORBIDDEN_SAYS = 'holds a character that CloudEvents §3.1 forbids'

/** RFC 4648 §4; the bits that the last character has too many are zero, as everywhere in VaultMesh. */
const BASE64 =
  /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$/

/** RFC 3986: the characters of a path segment (§3.3), and those of a host (§3.2.2). */
const PCHAR = String.raw`(?:[A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})`
const REG_NAME = String.raw`(?:[A-Za-z0-9._~!$&'()*+,;=-]|%[0-9A-Fa-f]{2})*`
const USER_INFO = String.raw`(?:(?:[A-Za-z0-9._~!$&'()*+,;=:-]|%[0-9A-Fa-f]{2})*@)?`
const AUTHORITY = String.raw`${USER_INFO}(?:\[[0-9A-Fa-f:.]+\]|${REG_NAME})(?::\d*)?`

/** RFC 3986 §4.3 absolute-URI: scheme ":" hier-part [ "?" query ]. */
const ABSOLUTE_URI = new RegExp(
  String.raw`^[A-Za-z][A-Za-z0-9+.-]*:(?://${AUTHORITY}(?:/${PCHAR}*)*|(?!//)(?:${PCHAR}|/)*)(?:\?(?:${PCHAR}|[/?])*)?$`,
)

function isAbsoluteUri(text: string): boolean {
  return ABSOLUTE_URI.test(text)
}

const attribute = z
  .string()
  .min(1)
  .max(MAX_ATTRIBUTE_CHARS)
  .refine((text) => !FORBIDDEN.test(text), FORBIDDEN_SAYS)

const attributeValue = z.union([z.string(), z.int32(), z.boolean(), z.null()], {
  error: 'must be a string, a boolean or an integer of 32 bits (CloudEvents §3.1)',
})

/**
 * CloudEvents 1.0 with the attributes that VaultMesh needs; extensions are scalars, numbers among them are
 * Integers (§3.1), and null stands for an attribute that is not set (JSON format §2.3).
 */
export const cloudEventSchema = z
  .object({
    specversion: z.literal('1.0'),
    id: attribute.describe('unique within source; (source, id) is the identity of the event'),
    source: attribute.describe('the DID of the signer: kid without its fragment, byte for byte'),
    type: attribute,
    time: z.string().max(64).describe('RFC 3339, at most 300 s ahead of the node'),
    subject: attribute.nullish(),
    dataschema: z
      .string()
      .max(2048)
      .refine(isAbsoluteUri, 'must be an absolute URI without a fragment (CloudEvents §3.1)')
      .meta({ format: 'uri' })
      .nullish(),
    datacontenttype: z.string().min(1).max(256).nullish(),
    data: z.unknown().optional(),
    data_base64: z
      .string()
      .regex(BASE64, 'must be base64 with padding (RFC 4648 §4)')
      .meta({ contentEncoding: 'base64' })
      .nullish(),
  })
  .catchall(attributeValue)
  .meta({ id: 'CloudEvent' })

/** The attributes that intake and index use. */
export interface CloudEvent {
  readonly id: string
  readonly source: string
  readonly type: string
  readonly subject: string | null
  /** `time` as epoch milliseconds. */
  readonly timeAt: number
}

/** Checks `value` and returns what intake needs; throws `bad-event` naming the attribute. */
export function parseCloudEvent(value: Json): CloudEvent {
  // Before zod, which leaves out an own key "__proto__" instead of judging it.
  checkNames(value)
  const parsed = cloudEventSchema.safeParse(value)
  if (!parsed.success) {
    const issue = parsed.error.issues[0]!
    const where = issue.path.length === 0 ? 'the payload' : `"${issue.path.join('.')}"`
    throw new VaultMeshError('bad-event', `CloudEvents: ${where}: ${issue.message}.`)
  }
  const event = parsed.data
  for (const [name, text] of Object.entries(event)) {
    if (name === 'data' || name === 'data_base64') continue
    if (typeof text === 'string' && FORBIDDEN.test(text)) {
      throw new VaultMeshError('bad-event', `CloudEvents: "${name}": ${FORBIDDEN_SAYS}.`)
    }
  }
  if (event.data !== undefined && event.data !== null && typeof event.data_base64 === 'string') {
    throw new VaultMeshError(
      'bad-event',
      'CloudEvents: "data" and "data_base64" exclude each other.',
    )
  }
  const timeAt = parseTime(event.time)
  if (timeAt === null) {
    throw new VaultMeshError('bad-event', 'CloudEvents: "time" is not an RFC 3339 timestamp.')
  }
  return {
    id: event.id,
    source: event.source,
    type: event.type,
    subject: event.subject ?? null,
    timeAt,
  }
}

/** CloudEvents 1.0 §3.1: attribute names are lowercase ASCII letters and digits. */
function checkNames(value: Json): void {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return
  for (const name of Object.keys(value)) {
    if (name !== 'data_base64' && !/^[a-z0-9]+$/.test(name)) {
      throw new VaultMeshError(
        'bad-event',
        `CloudEvents: attribute ${JSON.stringify(name.slice(0, 64))} is not lowercase letters and digits (CloudEvents 1.0 §3.1).`,
      )
    }
  }
}
