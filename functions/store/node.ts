/**
 * Who this node is: settings and keys, derived once per isolate from its bindings.
 *
 * The node secret never leaves this file; callers get keys that sign and names that are public.
 */

import { fromBase64Url } from '#core/bytes.ts'
import { parseConfig, type Config } from '#core/config.ts'
import { VaultMeshError } from '#core/errors.ts'
import { deriveClaimsKey, deriveIdentity, deriveKey, type IdentityKey } from '#core/node-keys.ts'
import { hmacKey, type HmacKey } from '#core/sha256.ts'
import {
  TYPE_COSIGNATURE,
  TYPE_ED25519,
  formatVkey,
  verifierKey,
  type NoteSigner,
} from '#core/signed-note.ts'

/** The version in /healthz, receipts and user agents. */
export const VERSION = '0.1.0'

/** A node's settings, names and keys. */
export interface NodeContext {
  readonly config: Config
  readonly identity: IdentityKey
  /** Signs checkpoints under the origin. */
  readonly log: NoteSigner
  /** The log's verifier key as C2SP signed-note writes it. */
  readonly vkey: string
  readonly witness: { readonly name: string; readonly vkey: string }
  /** Hides identities in claims. */
  readonly claims: HmacKey
}

const contexts = new WeakMap<object, Promise<NodeContext>>()

/** The context of `env`; throws `bad-config` naming the key that is missing or wrong. */
export function nodeOf(env: Env): Promise<NodeContext> {
  let context = contexts.get(env)
  if (context === undefined) {
    context = build(env)
    contexts.set(env, context)
  }
  return context
}

async function build(env: Env): Promise<NodeContext> {
  const config = parseConfig(env as unknown as Record<string, unknown>)
  const secret = readSecret(env.NODE_SECRET)
  const identity = await deriveIdentity(secret, 1)
  if (config.nodeDid !== '' && config.nodeDid !== identity.did) {
    throw new VaultMeshError('bad-config', 'NODE_DID: is not the DID of NODE_SECRET.', {
      extra: { key: 'NODE_DID' },
    })
  }
  const logKey = await deriveKey(secret, 'log', 1)
  const witnessKey = await deriveKey(secret, 'witness', 1)
  const log = verifierKey(config.origin, logKey.publicKey, TYPE_ED25519)
  const witnessName = `${config.origin}/witness`
  return {
    config,
    identity,
    log: { key: log, sign: (message) => logKey.sign(message) },
    vkey: formatVkey(log),
    witness: {
      name: witnessName,
      vkey: formatVkey(verifierKey(witnessName, witnessKey.publicKey, TYPE_COSIGNATURE)),
    },
    claims: hmacKey(await deriveClaimsKey(secret)),
  }
}

function readSecret(text: string | undefined): Uint8Array {
  try {
    const secret = fromBase64Url(text ?? '')
    if (secret.length === 32) return secret
  } catch {
    // The text is a secret: it must not travel in a cause.
  }
  throw new VaultMeshError('bad-config', 'NODE_SECRET: must be 32 bytes as base64url.', {
    extra: { key: 'NODE_SECRET' },
  })
}
