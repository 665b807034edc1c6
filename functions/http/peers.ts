/**
 * The federation's allow-list as its operator sees and changes it, while the node runs (vaultmesh peer).
 */

import * as z from 'zod'
import { canonicalDid } from '#core/did.ts'
import { toHex, utf8 } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { parseFederationConfig } from '#core/federation-config.ts'
import { addPeer, removePeer } from '#core/federation-edit.ts'
import { sha256 } from '#core/sha256.ts'
import type { OperatedPeer, OperatedPeers } from '#store/federation-api.ts'
import { operatorOnly } from './admin.ts'
import { accepted, federated, federationOf, forgetAdmission } from './federation.ts'
import { asVaultMeshError } from './problem.ts'
import { json, route, type Call } from './route.ts'

const ok = { 200: { description: 'done', content: { 'application/json': z.looseObject({}) } } }

/** GET /admin/peers: the list, how each peer does, and who cosigned whom. */
export const getAdminPeers = route({
  method: 'GET',
  path: '/admin/peers',
  tag: 'admin',
  summary: 'The allow-list and how each peer does',
  internal: true,
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { env } = call
    const federation = federationOf(env)
    const { peers, ...view } = await federated(federation.peersView())
    const { checkpoint } = await env.SEQUENCER.getByName('log').head().catch(unanswered)
    const known = await Promise.all(
      peers.map(async (peer): Promise<OperatedPeer> => {
        const { origin } = peer
        if (origin === null) return { ...peer, cosignedSize: null, cosignsUs: null }
        const note = await federation.cosigned(toHex(sha256(utf8(origin)))).catch(unanswered)
        return {
          ...peer,
          cosignedSize: note === null ? null : Number(note.split('\n')[1]),
          cosignsUs: checkpoint.includes(`\n— ${origin}/witness `),
        }
      }),
    )
    const value: OperatedPeers = { ...view, followsFile: followsFile(call), peers: known }
    return json(value)
  },
})

/**
 * POST /admin/peers?op=allow|revoke&did=: changes the list of a node that follows no file. Allowed twice or revoked twice is
 * as once.
 */
export const postPeers = route({
  method: 'POST',
  path: '/admin/peers',
  tag: 'admin',
  summary: 'Allow or revoke a peer',
  internal: true,
  query: z.object({
    op: z.enum(['allow', 'revoke']),
    did: z.string().min(1).max(256),
    url: z.string().max(2048).optional(),
    origin: z.string().max(255).optional(),
    vkey: z.string().max(512).optional(),
    note: z.string().max(200).optional(),
  }),
  answers: ok,
  async handle(call) {
    operatorOnly(call)
    const { op, ...peer } = call.query
    if (followsFile(call))
      throw new VaultMeshError(
        'bad-request',
        'This node follows its config/federation.yaml: change that file (vaultmesh peer does, on the machine of the node), and it is taken over within a second.',
      )
    const federation = federationOf(call.env)
    const before = await federation.configuration().catch(unanswered)
    if (before === null)
      throw new VaultMeshError(
        'no-federation',
        'This node is in no federation, so it has no allow-list.',
      )
    const canonical = canonicalDid(peer.did)
    const isThere = parseFederationConfig(before).peers.some((p) => p.canonical === canonical)
    if (isThere === (op === 'allow')) return json({ op, did: peer.did, changed: false })
    const after = op === 'allow' ? addPeer(before, peer) : removePeer(before, peer.did)
    // Of two who change it at once, one: the other has not seen what it would undo.
    accepted(await federation.apply(after, before).catch(unanswered))
    forgetAdmission(call.env)
    return json({ op, did: peer.did, changed: true })
  },
})

function followsFile({ env }: Call<unknown, unknown>): boolean {
  return env.FEDERATION_FILE === '1'
}

function unanswered(error: unknown): never {
  throw asVaultMeshError(error, 'storage-failed')
}
