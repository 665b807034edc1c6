/**
 * EVM receipts: a transaction to ourselves whose calldata is the root, proven against the transactions
 * trie of a block (`evm-tx`), and the word of somebody that this block is final.
 *
 * All but that word is derived from bytes (ethereum-proof.ts). The word must be the caller's own
 * (`evmBlocks`) or a statement of a node that the caller trusts (`nodeDids`, block-witness.ts); else the
 * receipt is `untrusted`, because anybody can invent a header.
 */

import * as z from 'zod'
import {
  contradiction,
  count,
  isDevNetwork,
  malformed,
  refuted,
  refutedBy,
  type AnchorReceipt,
  type AnchorTrust,
  type AnchorVerdict,
} from '#core/anchor-receipt.ts'
import { verifyBlockWitness } from '#core/block-witness.ts'
import { hashFromHex, toHex, type Hash } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import {
  verifyEthereumProof,
  type EthereumProof,
  type EthereumVerdict,
} from '#core/ethereum-proof.ts'

const hex0x = z.string().regex(/^0x(?:[0-9a-f]{2})+$/, 'lowercase 0x hex')

/** Evidence of our transaction. */
export const ethereumProofSchema = z.strictObject({
  type: z.literal('evm-tx'),
  chainId: z.int().positive(),
  rawTx: hex0x.max(8194),
  txIndex: count,
  /** RLP of the block header. */
  header: hex0x.max(131_074),
  nodes: z.array(hex0x.max(8400)).max(11),
  /** `vm-block+jws` of nodes that saw the block final. */
  witnesses: z.array(z.string().max(2048)).min(1).max(16),
})

/** Names of chains in receipts (EIP-155 ids of ethereum-lists/chains); others are `eip155-<id>`. */
const NETWORKS: Readonly<Record<number, string>> = {
  1: 'mainnet',
  10: 'optimism',
  100: 'gnosis',
  137: 'polygon',
  8453: 'base',
  17000: 'holesky',
  42161: 'arbitrum',
  560048: 'hoodi',
  11155111: 'sepolia',
  31337: 'anvil',
  1337: 'dev-1337',
}

/** The `network` of a chain id. */
export function evmNetwork(chainId: number): string {
  return NETWORKS[chainId] ?? `eip155-${chainId}`
}

/** The receipt for a transaction of ours; throws `bad-proof` or `bad-jws` if it does not verify. */
export async function ethereumReceipt(input: {
  readonly root: Hash
  readonly treeSize: number
  readonly chainId: number
  readonly proof: EthereumProof
  /** The node's `vm-block+jws` about the block. */
  readonly witness: string
  /** Blocks from ours to the finalized one, both counted. */
  readonly observedDepth: number
  readonly requiredDepth: number
  /** Hashes of every variant that was signed for this root. */
  readonly group: readonly string[]
  readonly version: string
  /** Epoch ms at which the node saw it final. */
  readonly observedAt: number
}): Promise<AnchorReceipt> {
  const { chainId, proof, root, witness, group } = input
  const verdict = verifyEthereumProof({ root, chainId, proof })
  const { did } = await verifyBlockWitness(witness)
  const receipt: AnchorReceipt = {
    root: `0x${toHex(root)}`,
    chain: 'EVM',
    network: evmNetwork(chainId),
    ...statedBy(verdict),
    verifier: `v${input.version}`,
    status: 'verified',
    treeSize: input.treeSize,
    observedAt: new Date(input.observedAt).toISOString(),
    finality: {
      observedDepth: input.observedDepth,
      requiredDepth: input.requiredDepth,
      state: 'final',
    },
    proof: {
      type: 'evm-tx',
      chainId,
      rawTx: proof.rawTx,
      txIndex: proof.txIndex,
      header: proof.header,
      nodes: [...proof.nodes],
      witnesses: [witness],
    },
    group: [...group],
  }
  const own = await verifyEthereumReceipt(receipt, { tsaRoots: [], nodeDids: [did] })
  if (own.outcome === 'verified') return receipt
  const check = own.outcome === 'refuted' ? own.check : 'witness'
  throw new VaultMeshError('bad-proof', `${check}: ${own.reason}.`, { extra: { check } })
}

/** Judges an EVM receipt. */
export async function verifyEthereumReceipt(
  receipt: AnchorReceipt,
  trust: AnchorTrust,
): Promise<AnchorVerdict> {
  const parsed = ethereumProofSchema.safeParse(receipt.proof)
  if (!parsed.success) return malformed(parsed.error)
  const { chainId, witnesses, ...proof } = parsed.data
  const { network, root, txHash, finality, group } = receipt
  if (network !== evmNetwork(chainId)) {
    return refuted(
      'network',
      `chain ${chainId} is ${evmNetwork(chainId)}, not ${network.slice(0, 40)}`,
    )
  }
  if (finality.observedDepth < finality.requiredDepth) {
    return refuted('finality', `${finality.observedDepth} blocks, not ${finality.requiredDepth}`)
  }
  let verdict: EthereumVerdict
  let vouchers: readonly string[]
  try {
    verdict = verifyEthereumProof({ root: hashFromHex(root.slice(2)), chainId, proof })
    vouchers = await vouchersOf(witnesses, chainId, verdict)
  } catch (error) {
    return refutedBy(error)
  }
  const wrong = contradiction(receipt, statedBy(verdict))
  if (wrong !== null) return wrong
  if (!group.includes(txHash)) return refuted('group', 'the transaction is none of its variants')
  const block = `block ${verdict.blockNumber} (${verdict.blockHash}) of ${named(network)}`
  const known = trust.evmBlocks?.find(
    (b) => b.chainId === chainId && b.number === verdict.blockNumber,
  )
  if (known !== undefined && known.hash !== verdict.blockHash) {
    return refuted('block', `the chain has another block ${verdict.blockNumber}: ${known.hash}`)
  }
  const voucher = vouchers.find((did) => trust.nodeDids?.includes(did))
  if (known === undefined && voucher === undefined) {
    const reason = `${block} is vouched for by ${vouchers.join(', ')} only: trust that node, or ask a node of the chain`
    return { outcome: 'untrusted', reason }
  }
  return {
    outcome: 'verified',
    chain: 'EVM',
    network,
    root,
    txHash,
    blockHash: verdict.blockHash,
    anchoredAt: verdict.headerTime,
    // Whole seconds.
    slackMs: 1000,
    trust: `${sentenceStart(block)} is vouched for by ${known === undefined ? voucher : 'the chain as you asked it'}.`,
    checks: [...verdict.checks, 'witness', 'fields'],
  }
}

/** Who says that the block is final; a statement about another block is no evidence for this one. */
async function vouchersOf(
  witnesses: readonly string[],
  chainId: number,
  verdict: EthereumVerdict,
): Promise<readonly string[]> {
  const dids: string[] = []
  for (const jws of witnesses) {
    const { did, ...block } = await verifyBlockWitness(jws)
    if (
      block.chainId !== chainId ||
      block.number !== verdict.blockNumber ||
      block.hash !== verdict.blockHash
    ) {
      throw new VaultMeshError('bad-proof', 'witness: it is about another block.', {
        extra: { check: 'witness' },
      })
    }
    dids.push(did)
  }
  return dids
}

/** Receipt fields that a proof determines. */
function statedBy(verdict: EthereumVerdict) {
  return {
    txHash: verdict.txHash,
    blockNumber: verdict.blockNumber,
    anchorTs: new Date(verdict.headerTime).toISOString(),
  }
}

function named(network: string): string {
  return isDevNetwork('EVM', network) ? `${network}, a dev network,` : network
}

function sentenceStart(text: string): string {
  return text.charAt(0).toUpperCase() + text.slice(1)
}
