/**
 * A node's word that an EVM block is final: JWS `vm-block+jws` by its identity key with `iss, iat, chainId,
 * number, hash`.
 *
 * A header of an EVM chain costs nothing to invent, so an EVM receipt is worth what vouches for its block
 * hash (design §6). The node writes this once all its RPCs had the block at or below `finalized`; peers may
 * add theirs. Without a statement of a DID that the verifier trusts, or a block it knows itself, a
 * receipt is `untrusted`.
 */

import * as z from 'zod'
import type { EvmBlock } from '#core/anchor-receipt.ts'
import { VaultMeshError } from '#core/errors.ts'
import { signJws, type IdentityKey } from '#core/node-keys.ts'
import { verifyStatement } from '#core/node-statement.ts'

/** `typ` of a block witness. */
export const BLOCK_TYP = 'vm-block+jws'

const claimsSchema = z.object({
  iss: z.string(),
  iat: z.int(),
  chainId: z.int().positive(),
  number: z.int().nonnegative(),
  hash: z.string().regex(/^0x[0-9a-f]{64}$/),
})

/** States that `block` was final at `observedAt` (epoch ms). */
export function witnessBlock(
  key: IdentityKey,
  block: EvmBlock,
  observedAt: number,
): Promise<string> {
  const { chainId, number, hash } = block
  const iat = Math.floor(observedAt / 1000)
  return signJws(key, BLOCK_TYP, { iss: key.did, iat, chainId, number, hash })
}

/** The block and who vouches for it. Throws what `verifyStatement` throws, `bad-jws` for other claims. */
export async function verifyBlockWitness(
  jws: string,
): Promise<EvmBlock & { readonly did: string }> {
  const { did, claims } = await verifyStatement(jws, BLOCK_TYP, 'The block witness')
  const parsed = claimsSchema.safeParse(claims)
  if (!parsed.success) {
    throw new VaultMeshError('bad-jws', 'The block witness names no block.', {
      cause: parsed.error,
    })
  }
  const { chainId, number, hash } = parsed.data
  return { chainId, number, hash, did }
}
