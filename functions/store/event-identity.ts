/**
 * The identity of an event: (source, id), remembered as an HMAC so that an erased event leaves nothing to guess
 * it from (design §3). One identity stands for one event, for good.
 *
 * All identity keys that a node ever had are one source here, that of the first: a body which the node signed
 * for before its key was rotated is the same event after it, whoever hands it in and in whichever form.
 */

import { utf8, type Hash } from '#core/bytes.ts'
import { wasEverKey, type KeyHistory } from '#core/rotation.ts'
import { hmac, type HmacKey } from '#core/sha256.ts'

/** The HMAC that stands for (source, id) in claims; DIDs compare in their canonical form. */
export function identityOf(
  node: { readonly claims: HmacKey; readonly history: KeyHistory },
  canonicalSource: string,
  id: string,
): Hash {
  const { claims, history } = node
  // Of identity/1, not the node's name: that key is there before an address delegates to it.
  const source = wasEverKey(history, canonicalSource) ? history.keys[0]!.did : canonicalSource
  // No DID holds a NUL, so the pair has one reading.
  return hmac(claims, utf8(`${source}\0${id}`))
}

/** The shard of an identity. Its low bytes, because its first 53 bits are the key within the shard. */
export function shardOf(identity: Hash, shards: number): number {
  return ((identity[28]! << 16) | (identity[29]! << 8) | identity[30]!) % shards
}
