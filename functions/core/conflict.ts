/**
 * The law of conflict: of several proofs for rival roots, which one speaks (plan A3, design §7).
 *
 *   1. a production network before a dev one        2. the tier: BTC > EVM > TSA
 *   3. the earlier anchor, one without a time last  4. the lower transaction hash
 *   5. the lower root: one calendar transaction can commit rival roots
 *
 * Each line is a total order, so the five read as one tuple are a total order as well, and `resolve`,
 * its minimum, is a join: order of arrival, repeats and grouping cannot matter, hence nodes that know
 * the same proofs name the same root. Two proofs that tie on all five name one root; they differ in
 * network name or tree size at most, which then decide, so that the winner too is one and the same.
 *
 * What is no time and what is no hash comes last. A time of 0 or before is none: it is what a failed
 * reading leaves behind, and it would win every tie. Proofs enter the law verified and final; this
 * file does not check that, but a bad value cannot win by being bad.
 *
 * What the words mean is fixed by the law document. Nodes whose documents differ by one byte live
 * under different laws: `lawHash` tells them apart.
 */

import { isDevNetwork, type Chain } from '#core/anchor-receipt.ts'
import { toHex, utf8 } from '#core/bytes.ts'
import { canonicalJson } from '#core/canonical-json.ts'
import { VaultMeshError } from '#core/errors.ts'
import { sha256 } from '#core/sha256.ts'

/** Tiers, highest first (plan A3.1). */
export const DEFAULT_ORDER: readonly Chain[] = ['BTC', 'EVM', 'TSA']
/** What decides within a tier (plan A3.2, A3.3). The law knows no others. */
export const TIE_BREAKERS = ['earliest_anchor_ts', 'lowest_tx_hash'] as const
/**
 * Chains that count as production: those of `isDevNetwork`, spelled out, since they are part of the
 * law. A TSA is `public` if its host is; another reading of that word must get another word.
 */
const NETWORKS = {
  BTC: ['mainnet'],
  EVM: ['arbitrum', 'base', 'gnosis', 'mainnet', 'optimism', 'polygon'],
  TSA: 'public',
} as const

/** What nodes under one law agree on; hashed, so its member names are interface. */
export interface LawDocument {
  /** A permutation of the three tiers, highest first. */
  readonly order: readonly Chain[]
  readonly tie_breakers: typeof TIE_BREAKERS
  /** Networks that are production, sorted. */
  readonly networks: {
    readonly BTC: readonly string[]
    readonly EVM: readonly string[]
    readonly TSA: 'public'
  }
  /** When a proof is final: Bitcoin confirmations, the EVM chain's own finality. */
  readonly requiredDepth: { readonly BTC: number; readonly EVM: 'finalized' }
  /** Roots a timestamp may end in: SHA-256 of each certificate, lowercase hex, sorted. */
  readonly tsaRootSha256: readonly string[]
}

/** A verified, final anchor as the law sees it. */
export interface Proof {
  readonly chain: Chain
  readonly network: string
  /** Epoch ms; null if the proof states no time. */
  readonly anchoredAt: number | null
  readonly txHash: string
  /** 64 hex digits. */
  readonly root: string
  readonly treeSize: number
}

/** The law document of these settings; throws `bad-config` for what is no law. */
export function lawDocument(settings: {
  readonly order: readonly string[]
  readonly tieBreakers: readonly string[]
  readonly btcDepth: number
  readonly tsaRootSha256: readonly string[]
}): LawDocument {
  const { order, tieBreakers, btcDepth } = settings
  if (!isOrder(order)) throw bad('conflict_policy.order', 'must hold BTC, EVM and TSA once each')
  if (!isTieBreakers(tieBreakers)) {
    throw bad('conflict_policy.tie_breakers', `must be ${TIE_BREAKERS.join(', ')}, in this order`)
  }
  if (!Number.isSafeInteger(btcDepth) || btcDepth < 1) {
    throw bad('BTC_DEPTH', `${btcDepth} is not a number of confirmations`)
  }
  const tsaRootSha256 = [...new Set(settings.tsaRootSha256.map((hash) => hash.toLowerCase()))]
  for (const hash of tsaRootSha256) {
    if (!isHash(hash)) throw bad('TSA_ROOTS', 'a root is named by the 64 hex digits of its SHA-256')
  }
  return {
    order: [...order],
    tie_breakers: TIE_BREAKERS,
    networks: NETWORKS,
    requiredDepth: { BTC: btcDepth, EVM: 'finalized' },
    tsaRootSha256: tsaRootSha256.sort(),
  }
}

/** `sha256:` and the hex SHA-256 of the document's canonical JSON (RFC 8785). */
export function lawHash(law: LawDocument): string {
  return `sha256:${toHex(sha256(utf8(canonicalJson(law))))}`
}

/** Whether `order` holds each tier once. */
export function isOrder(order: unknown): order is readonly Chain[] {
  return (
    Array.isArray(order) &&
    order.length === DEFAULT_ORDER.length &&
    DEFAULT_ORDER.every((chain) => order.includes(chain))
  )
}

/** Whether `names` are the tie-breakers of the law, in their order. */
export function isTieBreakers(names: unknown): names is typeof TIE_BREAKERS {
  return (
    Array.isArray(names) &&
    names.length === TIE_BREAKERS.length &&
    TIE_BREAKERS.every((name, i) => names[i] === name)
  )
}

/** Negative if `a` outranks `b`, positive if `b` outranks `a`, 0 only if they are alike. */
export function compareProofs(law: LawDocument, a: Proof, b: Proof): number {
  const ranks = [rankOf(law, a), rankOf(law, b)] as const
  const step = decidingStep(...ranks)
  if (step < 0) return 0
  return ranks[0][step]! < ranks[1][step]! ? -1 : 1
}

/** The proof that speaks, or null of none. */
export function resolve(law: LawDocument, proofs: readonly Proof[]): Proof | null {
  let winner: Proof | null = null
  for (const proof of proofs) {
    if (winner === null || compareProofs(law, proof, winner) < 0) winner = proof
  }
  return winner
}

/** Why the winner of `proofs` outranks each of the others, best first, a line for each; none if alone. */
export function reasoning(law: LawDocument, proofs: readonly Proof[]): string[] {
  const [winner, ...rest] = [...proofs].sort((a, b) => compareProofs(law, a, b))
  if (winner === undefined) return []
  const lines: string[] = []
  let last = winner
  for (const proof of rest) {
    if (compareProofs(law, last, proof) !== 0) lines.push(reason(law, winner, proof))
    last = proof
  }
  return lines
}

/** A proof's place, step by step; the lower one wins. Two ranks hold the same types in each step. */
type Rank = readonly (number | string)[]

function rankOf(law: LawDocument, proof: Proof): Rank {
  const tier = law.order.indexOf(proof.chain)
  return [
    isProduction(law, proof) ? 0 : 1,
    tier < 0 ? law.order.length : tier,
    timeOf(proof) ?? Infinity,
    hashKey(proof.txHash),
    hashKey(proof.root),
    // From here on both name one root.
    proof.network,
    Number.isSafeInteger(proof.treeSize) ? proof.treeSize : Infinity,
  ]
}

/** The first step in which two ranks differ; -1 if in none. */
function decidingStep(a: Rank, b: Rank): number {
  return a.findIndex((value, step) => value !== b[step])
}

function isProduction(law: LawDocument, { chain, network }: Proof): boolean {
  if (chain === 'TSA') return !isDevNetwork(chain, network)
  // Not indexed at large: a chain that this version does not know is not production.
  if (chain !== 'BTC' && chain !== 'EVM') return false
  return law.networks[chain].includes(network)
}

/** The last moment that ECMAScript can write as a date (ECMA-262 §21.4.1.1). */
const MAX_TIME = 8.64e15

function timeOf({ anchoredAt }: Proof): number | null {
  if (anchoredAt === null || !Number.isFinite(anchoredAt)) return null
  return anchoredAt > 0 && anchoredAt <= MAX_TIME ? anchoredAt : null
}

/** Lowercase without 0x; what is no hash sorts behind all hashes, as '~' does behind 'f'. */
function hashKey(text: string): string {
  const hex = text.toLowerCase().replace(/^0x/, '')
  return isHash(hex) ? hex : `~${text}`
}

function isHash(text: string): boolean {
  return /^[0-9a-f]{64}$/.test(text)
}

function reason(law: LawDocument, winner: Proof, other: Proof): string {
  const step = decidingStep(rankOf(law, winner), rankOf(law, other))
  const [mine, others] = short(winner.txHash, other.txHash)
  const pair = `${place(winner)} ${mine} before ${place(other)} ${others}`
  const times = [winner, other].map((proof) => isoTime(timeOf(proof)))
  const roots = short(winner.root, other.root)
  const why = [
    'production network before dev network',
    `tier ${printable(winner.chain)} > ${printable(other.chain)}`,
    times[1] === null
      ? 'same tier: the other has no time'
      : `same tier: earlier, ${times.join(' before ')}`,
    'same tier and time: lower tx hash',
    `same tier, time and tx hash: lower root, ${roots.join(' < ')}`,
    'same root: network names in order',
    'same root: smaller tree',
  ]
  return `${pair}: ${why[step]}`
}

function place({ chain, network }: Proof): string {
  return `${printable(chain)} ${printable(network)}`
}

function isoTime(time: number | null): string | null {
  return time === null ? null : new Date(time).toISOString()
}

/** Hex digits of a hash that a line shows. */
const SHORT = 8

/** The heads of two hashes, long enough to tell them apart. */
function short(a: string, b: string): [string, string] {
  const keys = [hashKey(a), hashKey(b)] as const
  let length = 0
  while (length < keys[0].length && keys[0][length] === keys[1][length]) length++
  length = keys[0] === keys[1] ? SHORT : Math.max(SHORT, length + 1)
  const head = (text: string, key: string): string => {
    const prefix = isHash(key) && /^0x/i.test(text) ? '0x' : ''
    return `${prefix}${printable(key.slice(0, length))}${key.length > length ? '…' : ''}`
  }
  return [head(a, keys[0]), head(b, keys[1])]
}

/** `text` as a line may hold it: nothing in it may pass for a line of somebody else's. */
function printable(text: string): string {
  return text.slice(0, 255).replace(/[^\w.:[\]~-]/g, '?')
}

function bad(key: string, why: string): VaultMeshError {
  return new VaultMeshError('bad-config', `${key}: ${why}.`, { extra: { key } })
}
