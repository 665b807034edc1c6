/**
 * A signer's word about its webhooks: a compact JWS `vm-webhook+jws` (RFC 7515 §7.1) with the claims of
 * RFC 7519 §4.1 that keep it from being used by another, elsewhere, later or again.
 *
 * Only the key of a DID can register for the DID's events, or take a registration back.
 */

import * as z from 'zod'
import { fromBase64Url, fromUtf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { Signer, Signers } from '#core/signer.ts'
import { parseStrictJson } from '#core/strict-json.ts'
import { WEBHOOK_TYPES } from '#core/webhook.ts'

/** `typ` of the protected header. */
export const WEBHOOK_TYP = 'vm-webhook+jws'
/** Largest request: a URL of 2,048 characters, twice in base64url, and room for the rest. */
export const MAX_REQUEST_BYTES = 8192
/** Longest life of a request, and how far `iat` may be ahead of the node's clock, in seconds. */
export const MAX_LIFE_S = 300

/** The form of a hook's id: 128 random bits. */
export const HOOK_NAME = /^wh_[A-Za-z0-9_-]{22}$/

const envelope = {
  iss: z.string().describe('the DID in kid'),
  aud: z.string().describe('origin or node_did of the node, from /.well-known/vaultmesh.json'),
  iat: z.int().describe('now, in seconds since 1970'),
  exp: z.int().describe('at most 300 after iat'),
  jti: z
    .string()
    .regex(/^[\w.-]{1,64}$/)
    .describe('new for each request; a repeat changes nothing and gets the first answer'),
}

/** The claims of a request: to register, or to end what was registered. */
export const webhookRequestSchema = z
  .union([
    z.strictObject({
      ...envelope,
      url: z
        .string()
        .describe('where to; https, a public host, port 443, at most 2,048 characters'),
      events: z.array(z.enum(WEBHOOK_TYPES)).min(1).max(3).describe('what about'),
    }),
    z.strictObject({ ...envelope, delete: z.string().regex(HOOK_NAME).describe('id to end') }),
  ])
  .meta({ id: 'WebhookRequest' })

/** A request whose signature verified. */
export interface WebhookRequest {
  readonly signer: Signer
  readonly claims: z.output<typeof webhookRequestSchema>
}

const ascii = new TextDecoder('latin1')
const PAYLOAD = { code: 'bad-webhook', name: 'The request' } as const

/**
 * Opens and verifies a request at `nowAt` (epoch ms) that may name any of `audiences`.
 * Throws `bad-jws`, `bad-encoding`, `bad-header`, `bad-did`, `duplicate-key`, `bad-signature` or
 * `bad-webhook`.
 */
export async function openWebhookRequest(
  bytes: Uint8Array,
  signers: Signers,
  at: { readonly nowAt: number; readonly audiences: readonly string[] },
): Promise<WebhookRequest> {
  const parts = ascii.decode(bytes).split('.')
  if (parts.length !== 3)
    throw new VaultMeshError('bad-jws', 'A compact JWS has three parts joined by two dots.')
  const [header, payload, signature] = parts as [string, string, string]
  const signer = await signers.of(header)
  const parsed = webhookRequestSchema.safeParse(
    parseStrictJson(fromUtf8(fromBase64Url(payload)), PAYLOAD),
  )
  if (!parsed.success) throw bad(firstIssue(parsed.error))
  const claims = parsed.data
  if (claims.iss !== signer.did) throw bad('"iss" is not the DID that kid names, byte for byte')
  if (!at.audiences.includes(claims.aud)) throw bad('"aud" is neither origin nor DID of this node')
  const now = at.nowAt / 1000
  if (claims.exp <= claims.iat || claims.exp > claims.iat + MAX_LIFE_S)
    throw bad(`"exp" is not within ${MAX_LIFE_S} s after "iat"`)
  if (claims.iat > now + MAX_LIFE_S) throw bad('"iat" is ahead of this node\'s clock')
  if (claims.exp <= now) throw bad('it has expired')
  const signed = bytes.subarray(0, header.length + 1 + payload.length)
  if (!(await signer.verify(signed, fromBase64Url(signature)))) {
    throw new VaultMeshError(
      'bad-signature',
      `The ${signer.alg} signature does not verify under kid.`,
    )
  }
  return { signer, claims }
}

/** The deepest complaint: of a union, that of the member that came nearest. */
function firstIssue(error: z.ZodError): string {
  const issue = error.issues[0]!
  if (issue.code !== 'invalid_union') return wordsOf(issue)
  const nearest = issue.errors.toSorted((a, b) => a.length - b.length)[0]?.[0]
  return nearest === undefined ? issue.message : wordsOf(nearest)
}

function wordsOf(issue: { readonly path: readonly PropertyKey[]; readonly message: string }) {
  return issue.path.length === 0 ? issue.message : `"${issue.path.join('.')}": ${issue.message}`
}

function bad(why: string): VaultMeshError {
  return new VaultMeshError('bad-webhook', `The webhook request is refused: ${why}.`)
}
