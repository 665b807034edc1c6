/**
 * Who this node is: settings and keys, derived once per isolate from its bindings.
 *
 * The node secret never leaves this file; callers get keys that sign and names that are public.
 */

import { fromBase64Url } from '#core/bytes.ts'
import { parseConfig, type Config } from '#core/config.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  deriveClaimsKey,
  deriveDashboardKey,
  deriveIdentity,
  deriveKey,
  type IdentityKey,
} from '#core/node-keys.ts'
import { currentKey, signRotation, verifyStatements, type KeyHistory } from '#core/rotation.ts'
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
  /** The node's stable name: the DID of its first identity key, or the did:pkh that delegated to it. */
  readonly nodeDid: string
  /** The identity key of now: the newest one that its statements make valid. */
  readonly identity: IdentityKey
  /** Every identity key there was, and the statements that chain them. */
  readonly history: KeyHistory
  readonly statements: readonly string[]
  /** Signs checkpoints under the origin. */
  readonly log: NoteSigner
  /** The log's verifier key as C2SP signed-note writes it. */
  readonly vkey: string
  readonly witness: { readonly name: string; readonly vkey: string; readonly signer: NoteSigner }
  /** Hides identities in claims. */
  readonly claims: HmacKey
  /** Makes what a browser carries for the dashboard: login states, form tokens. */
  readonly dashboard: HmacKey
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
  const { nodeDid, identity, history } = await identify(config, secret)
  const logKey = await deriveKey(secret, 'log', config.logNumber)
  const witnessKey = await deriveKey(secret, 'witness', config.logNumber)
  const log = verifierKey(config.origin, logKey.publicKey, TYPE_ED25519)
  const witnessName = `${config.origin}/witness`
  const cosigner = verifierKey(witnessName, witnessKey.publicKey, TYPE_COSIGNATURE)
  return {
    config,
    nodeDid,
    identity,
    history,
    statements: history.statements,
    log: { key: log, sign: (message) => logKey.sign(message) },
    vkey: formatVkey(log),
    witness: {
      name: witnessName,
      vkey: formatVkey(cosigner),
      signer: { key: cosigner, sign: (message) => witnessKey.sign(message) },
    },
    claims: hmacKey(await deriveClaimsKey(secret)),
    dashboard: hmacKey(await deriveDashboardKey(secret)),
  }
}

/** A key statement that was signed and is not in force yet. */
export interface NextKey {
  readonly epoch: number
  readonly statement: string
}

/**
 * Signs the statement that adds the identity key of the next epoch and ends the newest one `overlapS` seconds from
 * now. It takes force once it is in ROTATION at a start. Whoever calls this keeps what it returns and never calls it
 * again for the epoch: two statements of one epoch are a key conflict. Throws `bad-config` while the newest key is
 * still to come, `bad-rotation` if the chain takes no more.
 */
export async function signNextKey(env: Env, overlapS: number, nowAt: number): Promise<NextKey> {
  const secret = readSecret(env.NODE_SECRET)
  const { nodeDid, history } = await nodeOf(env)
  const last = history.keys.at(-1)!
  const iat = Math.floor(nowAt / 1000)
  if (iat < last.nbf) throw refused('ROTATION', `epoch ${last.epoch} is still to come`)
  const epoch = last.epoch + 1
  const { did: key } = await deriveIdentity(secret, epoch)
  const claims = { iss: nodeDid, key, epoch, nbf: iat, end: iat + overlapS, iat }
  const statement = await signRotation(await deriveIdentity(secret, last.epoch), claims)
  await verifyStatements(nodeDid, [...history.statements, statement])
  return { epoch, statement }
}

/**
 * Who this node is: its stable name and the identity key of now. Without ROTATION that is identity/1. Throws
 * `bad-config` if the statements do not chain, end in a key of another secret, or leave none that is valid.
 */
async function identify(
  config: Config,
  secret: Uint8Array,
): Promise<Pick<NodeContext, 'nodeDid' | 'identity' | 'history'>> {
  const first = await deriveIdentity(secret, 1)
  const nodeDid = config.nodeDid === '' ? first.did : config.nodeDid
  if (nodeDid !== first.did && !nodeDid.startsWith('did:pkh:')) {
    throw refused('NODE_DID', 'is not the DID of NODE_SECRET')
  }
  let history: KeyHistory
  try {
    history = await verifyStatements(nodeDid, config.rotation)
  } catch (error) {
    throw refused('ROTATION', error instanceof Error ? error.message : 'does not verify', error)
  }
  const newest = currentKey(history, Date.now())
  if (newest === null) throw refused('ROTATION', `leaves ${nodeDid} no key that is valid now`)
  const identity = await deriveIdentity(secret, newest.epoch)
  if (identity.did !== newest.did) {
    throw refused('ROTATION', `names another key for epoch ${newest.epoch} than NODE_SECRET has`)
  }
  return { nodeDid, identity, history }
}

function refused(key: string, why: string, cause?: unknown): VaultMeshError {
  // A reason that is another error's message ends in a full stop already.
  const detail = `${key}: ${why.replace(/\.$/, '')}.`
  return new VaultMeshError('bad-config', detail, { cause, extra: { key } })
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
