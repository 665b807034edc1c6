/**
 * What the chain says of an OpenTimestamps file, and what of the file is kept for it (design §6).
 *
 * An attestation of a block counts if its message is the Merkle root that our providers have at that
 * height. Files come from strangers and may hold hundreds: what lies above the tip costs no question,
 * nothing is asked twice, and of a calendar's answer only a few are looked at.
 */

import { parseHeader } from '#core/bitcoin-proof.ts'
import { equal, fromHex } from '#core/bytes.ts'
import type { Attestation, Attested, Timestamp } from '#core/opentimestamps.ts'
import { attestationsOf, filterTimestamp } from '#core/opentimestamps.ts'
import { checkNetwork } from './bitcoin-chain.ts'
import type { BitcoinClient } from './bitcoin-client.ts'
import type { RailContext } from './rail.ts'

/** The active chain, as far as one check has to know it. Both throw `anchor-failed` without a provider. */
export interface Chain {
  tip(): Promise<number>
  /** Null above the tip. */
  merkleRootAt(height: number): Promise<Uint8Array | null>
}

/** An attestation of a block. */
export interface Block {
  readonly height: number
  readonly attested: Attested
}

/** The chain for the length of one check: nothing is asked twice. */
export function chainOf(
  { route }: RailContext,
  clients: readonly BitcoinClient[],
  network: string,
): Chain {
  const networks = new Map<BitcoinClient, Promise<void>>()
  const roots = new Map<number, Promise<Uint8Array | null>>()
  let top: Promise<number> | null = null
  const first = <T>(call: (client: BitcoinClient) => Promise<T>) =>
    route.first(clients, async (client) => {
      const checked = networks.get(client) ?? checkNetwork(client, network)
      networks.set(client, checked)
      await checked
      return call(client)
    })
  return {
    tip: () => (top ??= first(async (client) => (await client.tip()).height)),
    merkleRootAt(height) {
      const root =
        roots.get(height) ??
        first(async (client) => {
          const hash = await client.hashAt(height)
          return hash === null ? null : parseHeader(fromHex(await client.header(hash))).merkleRoot
        })
      roots.set(height, root)
      return root
    },
  }
}

/** The attestations that the chain bears out, lowest block first; `limit`: how many are looked at. */
export async function proven(
  timestamp: Timestamp,
  chain: Chain,
  limit = Infinity,
): Promise<readonly Block[]> {
  const said = attestationsOf(timestamp).flatMap((attested) => {
    const { attestation } = attested
    return attestation.type === 'bitcoin' ? [{ height: attestation.height, attested }] : []
  })
  if (said.length === 0) return []
  const tip = await chain.tip()
  const found: Block[] = []
  for (const block of said.filter(({ height }) => height <= tip).slice(0, limit)) {
    const merkleRoot = await chain.merkleRootAt(block.height)
    if (merkleRoot !== null && equal(merkleRoot, block.attested.message)) found.push(block)
  }
  return found.toSorted((a, b) => a.height - b.height)
}

/**
 * The timestamp with these blocks and no others, and with the first `most` promises and as many unknown
 * attestations; null if nothing is left.
 */
export function keptOf(
  timestamp: Timestamp,
  blocks: readonly Block[],
  most: number,
): Timestamp | null {
  const left = { pending: most, unknown: most }
  return filterTimestamp(timestamp, (attestation, message) =>
    attestation.type === 'bitcoin'
      ? isAmong(blocks, attestation, message)
      : left[attestation.type]-- > 0,
  )
}

function isAmong(
  blocks: readonly Block[],
  { height }: Extract<Attestation, { type: 'bitcoin' }>,
  message: Uint8Array,
): boolean {
  return blocks.some((block) => block.height === height && equal(block.attested.message, message))
}
