/**
 * What is left after the kills, judged by what outlives a node: the entries of its log, the chains, and a peer that
 * recomputed it. What the node says of itself is asked last, by fsck.
 */

import { toHex } from '#core/bytes.ts'
import { verifyCheckpoint } from '#core/checkpoint.ts'
import { parseVkey } from '#core/signed-note.ts'
import { decodeEntries, tilePath, tilesOf } from '#core/tile.ts'
import type { TipView } from '#store/federation-api.ts'
import { getJson, getText } from '../cli/remote.ts'
import { vaultmesh } from './command.ts'
import { receiptsOf } from './node.ts'
import type { Victim } from './kill-node.ts'
import type { Payment, Spends } from './spends.ts'

/** The head that a node states, its note verified under the key that it states. */
export interface Stated {
  readonly size: number
  /** 64 hex digits. */
  readonly root: string
  /** Names of the witnesses among `of` that cosigned it. */
  readonly cosigners: readonly string[]
}

interface Named {
  readonly vkey: string
  readonly witness: { readonly vkey: string }
}

/** Reads a node's checkpoint and verifies it, with the cosignature of `peer`. */
export async function statedBy(node: Victim, peer: Victim): Promise<Stated> {
  const own = await getJson<Named>(`${node.url}/.well-known/vaultmesh.json`)
  const other = await getJson<Named>(`${peer.url}/.well-known/vaultmesh.json`)
  const { checkpoint, cosignatures } = await verifyCheckpoint(
    await getText(`${node.url}/log/checkpoint`),
    { log: parseVkey(own.vkey), witnesses: [parseVkey(other.witness.vkey)] },
  )
  const { size, root } = checkpoint
  return { size, root: toHex(root), cosigners: cosignatures.map(({ key }) => key.name) }
}

/** Every entry of a log of `size` leaves, in order, as eventHash names. */
export async function entriesOf(url: string, size: number): Promise<readonly string[]> {
  const entries: string[] = []
  for (const { level, index, width } of tilesOf(size)) {
    if (level !== 0) break
    const response = await fetch(`${url}/log/${tilePath('entries', index, width)}`)
    if (!response.ok) throw new Error(`the log has no entries ${index} (${response.status})`)
    const bundle = new Uint8Array(await response.arrayBuffer())
    entries.push(...decodeEntries(bundle, width).map((entry) => `sha256:${toHex(entry)}`))
  }
  return entries
}

/** Holds the log's entries against what was answered 2xx, and against everything that was ever signed. */
export function judgeLog(
  entries: readonly string[],
  { accepted, signed }: { accepted: ReadonlySet<string>; signed: ReadonlySet<string> },
): { readonly missing: number; readonly twice: number; readonly others: readonly string[] } {
  const seen = new Set(entries)
  return {
    missing: [...accepted].filter((hash) => !seen.has(hash)).length,
    twice: entries.length - seen.size,
    others: [...seen].filter((hash) => !signed.has(hash)),
  }
}

/** What a chain shows, against the receipts that the node keeps. */
export interface Paid {
  readonly chain: 'BTC' | 'EVM'
  readonly roots: number
  readonly transactions: number
  /** In satoshi or wei. */
  readonly fees: bigint
  readonly wrong: readonly string[]
}

/** Each root is in one transaction, nothing else was paid for, and each has its receipt. */
export function judgeSpends(
  chain: Paid['chain'],
  spends: Spends,
  receipted: ReadonlySet<string>,
): Paid {
  const wrong: string[] = []
  const all: Payment[] = []
  for (const [root, payments] of spends) {
    all.push(...payments)
    const hashes = payments.map(({ hash }) => hash).join(', ')
    if (root === '') wrong.push(`${chain}: paid for no root: ${hashes}`)
    else if (payments.length > 1) wrong.push(`${chain}: ${root} was paid twice: ${hashes}`)
    else if (!receipted.has(root)) wrong.push(`${chain}: ${root} is paid and has no receipt`)
  }
  return {
    chain,
    roots: spends.size,
    transactions: all.length,
    fees: all.reduce((sum, { fee }) => sum + fee, 0n),
    wrong,
  }
}

/** Roots that a node has a receipt for, by chain. */
export async function receiptedBy(url: string): Promise<ReadonlyMap<string, ReadonlySet<string>>> {
  const roots = new Map<string, Set<string>>()
  for (const { receipt } of await receiptsOf(url)) {
    const { chain, root } = receipt
    roots.set(chain, (roots.get(chain) ?? new Set()).add(root))
  }
  return roots
}

/** Where a node stands in the log of `origin`; null while it does not say. */
export async function tipAt({ url }: Victim, origin: string): Promise<TipView | null> {
  const view = await getJson<{ tips: readonly TipView[] }>(`${url}/federation/tips`).catch(
    () => null,
  )
  return view?.tips.find((tip) => tip.origin === origin) ?? null
}

/** What fsck finds on a node, and its last line. */
export async function checked({
  home,
}: Victim): Promise<{ readonly isClean: boolean; readonly said: string }> {
  const { code, said } = await vaultmesh(['fsck', '--home', home.path])
  return { isClean: code === 0, said }
}
