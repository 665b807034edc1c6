/**
 * The anchor receipt: the verified, final evidence that a log root existed at `anchorTs` (design §5).
 *
 * One JSON object with the plan's eight fields and all it takes to check them without us. It is
 * written once, at finality, and never updated. Verification trusts no field: what the proof states
 * is derived from its bytes again and compared, so a receipt is either exactly what its proof says
 * or refuted. Nothing can vouch for `verifier` and `observedAt`, for `network` of a TSA receipt (a token
 * knows no host), for `treeSize` (a checkpoint ties it to `root`), and for a Bitcoin `blockNumber` within
 * the epoch of its difficulty: a header holds no height, but whoever asks the chain compares it.
 *
 * This file has the shape; each kind of proof has a file of its own (anchor-timestamp.ts,
 * anchor-bitcoin.ts, anchor-ethereum.ts), and anchor-verify.ts finds it.
 */

import * as z from 'zod'
import { VaultMeshError } from '#core/errors.ts'
import { isPublicHost } from '#core/public-host.ts'
import type { CheckpointBits } from '#core/bitcoin-proof.ts'

/** Fields that proofs share. */
export const hex64 = z.string().regex(/^[0-9a-f]{64}$/, '64 lowercase hex digits')
const isoMs = z.iso.datetime({ precision: 3 })
export const count = z.int().nonnegative()
/** A chain's name or a host: it is printed, so nothing in it may pass for a line of somebody else's. */
export const networkName = z
  .string()
  .regex(/^[A-Za-z0-9._:[\]-]{1,255}$/, 'a name of a chain or a host')

/** A persisted receipt. `proof` is checked further by the verifier that its `type` names. */
export const anchorReceiptSchema = z.strictObject({
  root: z.string().regex(/^0x[0-9a-f]{64}$/),
  chain: z.enum(['BTC', 'EVM', 'TSA']),
  network: networkName,
  txHash: z.string().regex(/^(?:0x)?[0-9a-f]{64}$/),
  blockNumber: count.nullable(),
  anchorTs: isoMs,
  verifier: z.string().regex(/^v[!-~]{1,63}$/),
  status: z.literal('verified'),
  treeSize: count,
  observedAt: isoMs,
  finality: z.strictObject({
    observedDepth: count,
    requiredDepth: count,
    state: z.literal('final'),
  }),
  proof: z.looseObject({ type: z.string().regex(/^[\w.-]{1,64}$/) }),
  group: z.array(z.string().max(80)).min(1).max(1024),
})

export type AnchorReceipt = z.infer<typeof anchorReceiptSchema>
export type Chain = AnchorReceipt['chain']

/** What the verifying party trusts; each kind of proof reads its own part. */
export interface AnchorTrust {
  /** PEM certificates of time-stamping roots. */
  readonly tsaRoots: readonly string[]
  /** DIDs of nodes whose word is taken for "this EVM block is final". */
  readonly nodeDids?: readonly string[]
  /** EVM blocks that the caller knows to be final, e.g. from an RPC of its own. */
  readonly evmBlocks?: readonly EvmBlock[]
  /** Difficulty of Bitcoin mainnet beyond the shipped table, from headers that the caller walked. */
  readonly bitcoinBits?: CheckpointBits
}

/** A block of an EVM chain. */
export interface EvmBlock {
  readonly chainId: number
  readonly number: number
  /** Lowercase 0x hex. */
  readonly hash: string
}

/** The answer to "does this receipt hold?". Only `verified` is success. */
export type AnchorVerdict =
  | {
      readonly outcome: 'verified'
      readonly chain: Chain
      readonly network: string
      readonly root: string
      readonly txHash: string
      /** The block that holds the transaction, as its chain writes it; a token has none. */
      readonly blockHash?: string
      /** `anchorTs` in epoch ms: what the conflict law compares. */
      readonly anchoredAt: number
      /** How far behind the true time `anchoredAt` may be, in ms. */
      readonly slackMs: number
      /** Who would have to lie for this to be false, in one sentence. */
      readonly trust: string
      readonly checks: readonly string[]
    }
  /** The proof contradicts the receipt or itself. `check` names what failed. */
  | { readonly outcome: 'refuted'; readonly check: string; readonly reason: string }
  /** The proof may be sound, but leads to a root that the caller does not trust. */
  | { readonly outcome: 'untrusted'; readonly reason: string }
  | { readonly outcome: 'unsupported'; readonly reason: string }

/** Judges one kind of proof. */
export type AnchorVerifier = (
  receipt: AnchorReceipt,
  trust: AnchorTrust,
) => AnchorVerdict | Promise<AnchorVerdict>

/** Chains that somebody other than us keeps, by their names in receipts. */
const PRODUCTION: Readonly<Record<'BTC' | 'EVM', readonly string[]>> = {
  BTC: ['mainnet'],
  EVM: ['mainnet', 'optimism', 'gnosis', 'polygon', 'base', 'arbitrum'],
}

/**
 * True on networks that anybody can make up: never evidence for others, never above a production one. A chain
 * that this version does not know, and an authority that no public name leads to, is one of them.
 */
export function isDevNetwork(chain: Chain, network: string): boolean {
  if (chain !== 'TSA') return !PRODUCTION[chain].includes(network)
  return !isPublicHost(network) || /\.(?:test|example|invalid)$/.test(network)
}

/**
 * True on a dev network of a blockchain, whose blocks and times anybody can make. Not so of a TSA, whatever its
 * host: its chain ends in a root that the caller pinned.
 */
export function isDevChain(chain: Chain, network: string): boolean {
  return chain !== 'TSA' && isDevNetwork(chain, network)
}

/** How a root was anchored, as the outbox names it. */
export function methodOf(receipt: Pick<AnchorReceipt, 'proof'>): string {
  const { type } = receipt.proof
  if (type === 'opentimestamps') return 'calendar'
  return type === 'rfc3161' ? type : 'tx'
}

/** A verdict that the receipt contradicts its proof or itself. */
export function refuted(check: string, reason: string): AnchorVerdict {
  return { outcome: 'refuted', check, reason }
}

/** The refusal of a proof as a verdict; the caller's own mistakes (`bad-config`) are thrown. */
export function refutedBy(error: unknown): AnchorVerdict {
  if (!(error instanceof VaultMeshError) || error.code === 'bad-config') throw error
  const check = typeof error.extra['check'] === 'string' ? error.extra['check'] : error.code
  return refuted(check, error.message)
}

/** A verdict for a receipt or proof that has not the shape it must have. */
export function malformed(error: z.ZodError): AnchorVerdict {
  const [issue] = error.issues
  const field = issue?.path.join('.') ?? ''
  return refuted('shape', `${field === '' ? 'receipt' : field}: ${issue?.message ?? 'malformed'}`)
}

/** The first field that says something else than what the proof's bytes say, as a verdict; else null. */
export function contradiction(
  receipt: AnchorReceipt,
  stated: Readonly<Record<string, unknown>>,
): AnchorVerdict | null {
  const claimed: Readonly<Record<string, unknown>> = { ...receipt, ...receipt.proof }
  for (const [field, value] of Object.entries(stated)) {
    if (JSON.stringify(claimed[field], sorted) !== JSON.stringify(value, sorted)) {
      return refuted(field, `${field} is not what the proof says`)
    }
  }
  return null
}

/** JSON.stringify replacer: the order of keys in a receipt carries no meaning. */
function sorted(_key: string, value: unknown): unknown {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return value
  return Object.fromEntries(Object.entries(value).sort(([a], [b]) => (a < b ? -1 : 1)))
}
