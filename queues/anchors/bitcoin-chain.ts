/**
 * What nobody can prove to us: which blocks are in the active chain. It is asked of every provider, and
 * only what all of them say is taken for true (design §6). A provider that does not answer stops the
 * attempt, one that is behind makes it wait, one that contradicts fails it by name.
 */

import type { AnchorReceipt, AnchorVerdict } from '#core/anchor-receipt.ts'
import { bitcoinNetworks, parseHeader } from '#core/bitcoin-proof.ts'
import { toDisplay } from '#core/bitcoin-transaction.ts'
import { fromHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { BitcoinClient } from './bitcoin-client.ts'
import { failure } from './bounded-fetch.ts'
import type { RailContext } from './rail.ts'

/** Time between two looks at a chain: a block takes ten minutes, except where it takes none. */
export function pollMs(network: string): number {
  return network === 'regtest' ? 1000 : 30_000
}

/** Refuses a provider of another network before anything of it is believed. */
export async function checkNetwork(client: BitcoinClient, network: string): Promise<void> {
  if ((await client.hashAt(0)) !== bitcoinNetworks[network]?.genesis) {
    throw failure(client, `is not on Bitcoin ${network}`)
  }
}

/** Throws `bad-config` unless the network is known and somebody can be asked. */
export function checkOptions(network: string, clients: readonly BitcoinClient[]): void {
  if (!Object.hasOwn(bitcoinNetworks, network)) {
    throw new VaultMeshError('bad-config', 'The Bitcoin network is none that is known.')
  }
  if (clients.length === 0) {
    throw new VaultMeshError('bad-config', 'Bitcoin needs a provider.')
  }
}

/**
 * The headers from `height` on, `count` of them, in hex, as all clients agree; null while one of them
 * has not come that far. Throws `anchor-failed` if two contradict each other.
 */
export async function agreedHeaders(
  { route }: RailContext,
  clients: readonly BitcoinClient[],
  { network, height, count }: { network: string; height: number; count: number },
): Promise<readonly { readonly hash: string; readonly header: string }[] | null> {
  const heights = Array.from({ length: count }, (_, i) => height + i)
  const answers = await route.all(clients, async (client) => {
    await checkNetwork(client, network)
    return { client, hashes: await Promise.all(heights.map((at) => client.hashAt(at))) }
  })
  const hashes: string[] = []
  for (const [i, at] of heights.entries()) {
    const said = new Set(answers.map((answer) => answer.hashes[i] ?? null))
    const isBehind = said.delete(null)
    if (said.size > 1) {
      const names = answers.map(({ client }) => client.name).join(', ')
      throw new VaultMeshError('anchor-failed', `${names} disagree about block ${at}.`)
    }
    const [hash] = said
    if (isBehind || hash === undefined || hash === null) return null
    hashes.push(hash)
  }
  return route.first(clients, async (client) => {
    const headers = []
    for (const hash of hashes) headers.push({ hash, header: await client.header(hash) })
    return headers
  })
}

/** A verdict of core, and whether every client has the block in its active chain. */
export async function verdictOnline(
  { route }: RailContext,
  clients: readonly BitcoinClient[],
  {
    receipt,
    verdict,
    blockHash,
  }: { receipt: AnchorReceipt; verdict: AnchorVerdict; blockHash: string },
): Promise<AnchorVerdict> {
  if (verdict.outcome !== 'verified') return verdict
  const height = receipt.blockNumber!
  const answers = await route.all(clients, async (client) => {
    await checkNetwork(client, receipt.network)
    return { name: client.name, hash: await client.hashAt(height) }
  })
  const other = answers.find(({ hash }) => hash !== blockHash)
  if (other !== undefined) {
    const reason = `${other.name} has another block at height ${height}, or none`
    return { outcome: 'refuted', check: 'active-chain', reason }
  }
  return { ...verdict, checks: [...verdict.checks, 'active-chain'] }
}

/** Why a receipt is void: every provider has the same other block at its height, as deep as final is; else null. */
export async function disproofOf(
  { route }: RailContext,
  clients: readonly BitcoinClient[],
  receipt: AnchorReceipt,
): Promise<string | null> {
  const height = receipt.blockNumber!
  const own = toDisplay(parseHeader(fromHex(String(receipt.proof['header']))).hash)
  const answers = await route.all(clients, async (client) => {
    await checkNetwork(client, receipt.network)
    return { hash: await client.hashAt(height), tip: (await client.tip()).height }
  })
  const [first] = answers
  const isOther = answers.every(({ hash, tip }) => {
    const depth = tip - height + 1
    return (
      hash !== null &&
      hash !== own &&
      hash === first!.hash &&
      depth >= receipt.finality.requiredDepth
    )
  })
  return isOther ? `every provider has block ${first!.hash} at height ${height}, not ${own}` : null
}
