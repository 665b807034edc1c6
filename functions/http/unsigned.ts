/**
 * Unsigned bodies (HARBINGER_SIG_REQUIRED=0): the node signs for what nobody signed (design §3).
 *
 * The id is the body's hash and the claim is looked up before wrapping, so that the same body gets the
 * first answer. The source is the DID of the identity key of now, as an event is signed by its source; the
 * claim is that of the first such key, so it outlives a rotation (store/event-identity.ts). The allow-list and
 * the limit know the node by its stable name: a list that does not name it closes this way in.
 */

import { toBase64Url, toHex, utf8, type Hash } from '#core/bytes.ts'
import { canonicalDid } from '#core/did.ts'
import { EVENT_TYP, openEnvelope } from '#core/envelope.ts'
import { VaultMeshError } from '#core/errors.ts'
import { checkAllowed } from '#core/intake-config.ts'
import { signJws } from '#core/node-keys.ts'
import { promiseEvent } from '#core/promise.ts'
import { sha256 } from '#core/sha256.ts'
import { isoTime } from '#core/time.ts'
import { identityOf, shardOf } from '#store/event-identity.ts'
import { erasedProblem } from '#store/events.ts'
import { intakeRules } from '#store/intake-rules.ts'
import { count } from '#store/metrics.ts'
import { admit, hashName, poolError } from './admission.ts'
import { answer } from './answer.ts'
import { limitAddress, limitSigner, linksOf, signers, terms } from './intake-rules.ts'
import { readPrefer } from './prefer.ts'
import { json, type Call } from './route.ts'
import { watched, watchEvent } from './webhooks.ts'

/** Largest body that is wrapped: base64url of it, twice, and the wrapper must fit a JWS. */
export const MAX_UNSIGNED_BYTES = 30_000

/** HARBINGER_SIG_REQUIRED=0: the node signs for a body that nobody signed. */
export async function postUnsigned(call: Call, body: Uint8Array): Promise<Response> {
  if (body.length > MAX_UNSIGNED_BYTES) {
    throw new VaultMeshError(
      'body-too-large',
      `An unsigned body has at most ${MAX_UNSIGNED_BYTES} bytes.`,
      {
        extra: { limit: MAX_UNSIGNED_BYTES },
      },
    )
  }
  if (body.length === 0) throw new VaultMeshError('bad-body', 'The body is empty.')
  const { env, node } = call
  const name = canonicalDid(node.nodeDid)
  const who = { did: 'This node’s own DID, which signs unsigned bodies,', canonical: name }
  checkAllowed(await intakeRules(env), node.config.intakeAllow, who)
  limitAddress(call, 1)
  limitSigner(call, name, 'did')
  const id = toHex(sha256(body))
  const { did } = node.identity
  const identity = identityOf(node, did, id)
  const shard = shardOf(identity, node.config.intakeShards)
  let first
  try {
    first = await env.POOL.getByName(String(shard)).claimed(identity)
  } catch (error) {
    throw poolError(error)
  }
  const { waitS } = readPrefer(call.request)
  if (first?.erasedBy !== undefined) throw erasedProblem(first.erasedBy as Hash)
  if (first !== null) {
    countDuplicate(call)
    await watchEvent(call, { eventHash: first.eventHash, did: name })
    const links = linksOf(first.eventHash)
    const promise = await promiseEvent(
      node.identity,
      terms(node, first.receivedAt),
      first.eventHash,
    )
    const again = {
      eventHash: hashName(first.eventHash),
      eventId: id,
      status: 'accepted',
      receivedAt: isoTime(first.receivedAt),
      links,
      promise,
    }
    return json(again, 200, { location: links.self, 'cache-control': 'no-store' })
  }
  const event = {
    specversion: '1.0',
    id,
    source: did,
    type: 'vm.received',
    time: isoTime(Date.now()),
    data: { body: toBase64Url(body) },
  }
  const open = await openEnvelope(utf8(await signJws(node.identity, EVENT_TYP, event)), signers)
  const { receivedAt, admission } = admit(env, call.ctx, node, open, call.requestId)
  // Two at once wrap at different times; the claim decides, and both get the first answer.
  const settled = admission.then((a) => {
    if (a.state !== 'conflict') return a
    countDuplicate(call)
    return { ...a, state: 'duplicate' } as const
  })
  return answer(call, open, watched(call, { receivedAt, admission: settled }, name), waitS)
}

/** Of one that no Pool has counted: it never got there, or was another event to it. */
function countDuplicate({ env, ctx }: Call): void {
  count(env, ctx, 'vaultmesh_events_total', { outcome: 'duplicate' })
}
