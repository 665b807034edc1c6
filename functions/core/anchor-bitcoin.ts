/**
 * Bitcoin receipts: a transaction of ours that holds the root (`bitcoin-tx`), or a path of OpenTimestamps
 * calendars to a block (`opentimestamps`). Both end in a header and at least six more on top of it.
 *
 * What is proven is work, not the active chain: the verdict says how much it would take to forge, and on
 * mainnet the bits must be those of the epoch (bitcoin-epochs.ts). Beyond the shipped table, or the
 * caller's own (`bitcoinBits`), they may be at most 16 times as easy as the last known ones, and the
 * verdict says that the headers' own word was taken. On signet and regtest anybody can mine: the
 * verdict says so. Limits: 100 kB of transaction, 64 kB of .ots, 144 headers.
 */

import * as z from 'zod'
import {
  contradiction,
  count,
  malformed,
  refuted,
  refutedBy,
  type AnchorReceipt,
  type AnchorTrust,
  type AnchorVerdict,
} from '#core/anchor-receipt.ts'
import { easiestBits, mainnetBits } from '#core/bitcoin-epochs.ts'
import {
  EPOCH_BLOCKS,
  MAX_FOLLOWING,
  parseHeader,
  targetOf,
  verifyBitcoinProof,
  verifyHeaders,
  type BitcoinProof,
  type BitcoinVerdict,
  type CheckpointBits,
} from '#core/bitcoin-proof.ts'
import { refuse, toDisplay } from '#core/bitcoin-transaction.ts'
import { equal, fromBase64, fromHex, hashFromHex, toBase64, toHex, type Hash } from '#core/bytes.ts'
import { emitOts, attestationsOf, linearTimestamp, parseOts } from '#core/opentimestamps.ts'
import { sha256 } from '#core/sha256.ts'

/**
 * First mainnet height that a receipt may name: epoch 440, March 2025. No receipt of this format is older,
 * and early blocks are cheap: seven headers of difficulty 1 take a minute (7 × 2^32 hashes).
 */
export const FIRST_HEIGHT = 440 * EPOCH_BLOCKS

/** The halving of 2024: block 840,000 has the time 2024-04-20T00:09:27Z. */
const KNOWN = { height: 840_000, time: 1_713_571_767_000 }
/** Bounds of the mean time of a block over years; since 2009 it was 9.5 minutes. */
const FASTEST_BLOCK_MS = 450_000
const SLOWEST_BLOCK_MS = 750_000
/** Ten epochs for a bad start. */
const SLACK_BLOCKS = 20_160

/** A block's time is valid up to two hours ahead of its miner's clock, and as far behind it in practice. */
const TIME_SLACK_MS = 7_200_000

const hex = (maxBytes: number) =>
  z
    .string()
    .max(2 * maxBytes)
    .regex(/^(?:[0-9a-f]{2})+$/, 'lowercase hex')
const header = z.string().regex(/^[0-9a-f]{160}$/, 'a header of 80 bytes as lowercase hex')

/** Evidence of our own transaction; hashes in the order hashed. */
export const bitcoinProofSchema = z.strictObject({
  type: z.literal('bitcoin-tx'),
  rawTx: hex(100_000),
  branch: z.array(z.string().regex(/^[0-9a-f]{64}$/)).max(32),
  position: count,
  header,
  following: z.array(header).max(MAX_FOLLOWING),
})

/** Evidence by calendars: a detached file whose digest is the root. */
export const calendarProofSchema = z.strictObject({
  type: z.literal('opentimestamps'),
  ots: z.string().max(90_000),
  header,
  following: z.array(header).max(MAX_FOLLOWING),
})

/** What both kinds of receipts are made from, beside their proof. */
interface Common {
  readonly root: Hash
  readonly treeSize: number
  readonly network: string
  /** Confirmations that the node waited for: the block and those on top of it. */
  readonly requiredDepth: number
  /** Our version. */
  readonly version: string
  /** Epoch ms at which the node saw it final. */
  readonly observedAt: number
}

/** The receipt for a transaction of ours; throws `bad-proof` if the proof does not verify. */
export function bitcoinReceipt(
  input: Common & {
    readonly proof: BitcoinProof
    /** txids of every variant that was signed for this root. */
    readonly group: readonly string[]
  },
): AnchorReceipt {
  const { proof, root, network, requiredDepth, group } = input
  const verdict = verifyBitcoinProof({ root, network, proof, requiredDepth })
  if (!group.includes(verdict.txid))
    throw refuse('group', 'the transaction is none of its variants')
  const { rawTx, branch, position, header: block, following } = proof
  return {
    ...commonOf(input),
    txHash: verdict.txid,
    blockNumber: proof.height,
    anchorTs: new Date(verdict.headerTime).toISOString(),
    finality: { observedDepth: verdict.depth, requiredDepth, state: 'final' },
    proof: { type: 'bitcoin-tx', rawTx, branch, position, header: block, following },
    group: [...group],
  }
}

/** The receipt for a calendar's path; throws `bad-proof` if the proof does not verify. */
export function calendarReceipt(
  input: Common & {
    /** A detached `.ots` file whose digest is the root. */
    readonly ots: Uint8Array
    readonly header: string
    readonly following: readonly string[]
    readonly height: number
  },
): AnchorReceipt {
  const { ots, height, requiredDepth } = input
  const verdict = verifyCalendarProof(input, undefined)
  return {
    ...commonOf(input),
    txHash: verdict.txid,
    blockNumber: height,
    anchorTs: new Date(verdict.headerTime).toISOString(),
    finality: { observedDepth: verdict.depth, requiredDepth, state: 'final' },
    proof: {
      type: 'opentimestamps',
      ots: toBase64(ots),
      header: input.header,
      following: [...input.following],
    },
    group: [verdict.txid],
  }
}

function commonOf(input: Common) {
  return {
    root: `0x${toHex(input.root)}`,
    chain: 'BTC' as const,
    network: input.network,
    verifier: `v${input.version}`,
    status: 'verified' as const,
    treeSize: input.treeSize,
    observedAt: new Date(input.observedAt).toISOString(),
  }
}

/** Judges a receipt of our own transaction. */
export function verifyBitcoinReceipt(receipt: AnchorReceipt, trust: AnchorTrust): AnchorVerdict {
  const parsed = bitcoinProofSchema.safeParse(receipt.proof)
  if (!parsed.success) return malformed(parsed.error)
  const { type: _, ...proof } = parsed.data
  return judge(receipt, trust, (checkpoint) => {
    const claim = {
      root: hashFromHex(receipt.root.slice(2)),
      network: receipt.network,
      proof: { ...proof, height: receipt.blockNumber ?? -1 },
      requiredDepth: receipt.finality.requiredDepth,
      checkpoint,
    }
    const verdict = verifyBitcoinProof(claim)
    if (receipt.network === 'mainnet') checkMainnetClaim(proof, claim.proof.height, checkpoint)
    return verdict
  })
}

/** Judges a receipt of calendars. */
export function verifyCalendarReceipt(receipt: AnchorReceipt, trust: AnchorTrust): AnchorVerdict {
  const parsed = calendarProofSchema.safeParse(receipt.proof)
  if (!parsed.success) return malformed(parsed.error)
  const proof = parsed.data
  return judge(receipt, trust, (checkpoint) => {
    const height = receipt.blockNumber ?? -1
    const verdict = verifyCalendarProof(
      {
        root: hashFromHex(receipt.root.slice(2)),
        network: receipt.network,
        requiredDepth: receipt.finality.requiredDepth,
        ots: fromBase64(proof.ots),
        header: proof.header,
        following: proof.following,
        height,
      },
      checkpoint,
    )
    if (receipt.network === 'mainnet') checkMainnetClaim(proof, height, checkpoint)
    return verdict
  })
}

/** Runs a verifier and holds its verdict against the receipt's fields. */
function judge(
  receipt: AnchorReceipt,
  trust: AnchorTrust,
  verify: (checkpoint: CheckpointBits) => BitcoinVerdict,
): AnchorVerdict {
  const { network, root, txHash, finality, group } = receipt
  const checkpoint: CheckpointBits =
    network === 'mainnet'
      ? (height) => mainnetBits(height) ?? trust.bitcoinBits?.(height) ?? null
      : () => null
  let verdict: BitcoinVerdict
  try {
    verdict = verify(checkpoint)
  } catch (error) {
    return refutedBy(error)
  }
  const wrong = contradiction(receipt, {
    txHash: verdict.txid,
    blockNumber: verdict.height,
    anchorTs: new Date(verdict.headerTime).toISOString(),
    finality: { ...finality, observedDepth: verdict.depth },
  })
  if (wrong !== null) return wrong
  if (!group.includes(txHash)) return refuted('group', 'the transaction is none of its variants')
  return {
    outcome: 'verified',
    chain: 'BTC',
    network,
    root,
    txHash,
    blockHash: verdict.blockHash,
    anchoredAt: verdict.headerTime,
    slackMs: TIME_SLACK_MS,
    trust: trustSentence(network, verdict),
    checks: [...verdict.checks, 'fields'],
  }
}

function trustSentence(network: string, verdict: BitcoinVerdict): string {
  const { depth, workLog2, bits, blockHash } = verdict
  if (network !== 'mainnet') {
    return `Bitcoin ${network} is a dev network: anybody can mine its blocks.`
  }
  const hashes = `2^${Math.floor(workLog2)} hashes`
  return bits === 'expected'
    ? `Forging this costs ${depth} Bitcoin blocks of work, ${hashes}.`
    : `Forging this costs ${hashes}; whether that is the work of ${depth} blocks is the headers' own word, since block ${blockHash} is newer than the shipped table of difficulties: hold it against a node.`
}

/**
 * What a proof on mainnet may claim besides its work: no height that was mined before our time, a time that
 * fits it, and beyond the table at least a sixteenth of the last known difficulty. Throws `bad-proof`.
 */
export function checkMainnetClaim(
  proof: { readonly header: string; readonly following: readonly string[] },
  height: number,
  checkpoint: CheckpointBits,
): void {
  if (height < FIRST_HEIGHT) {
    throw refuse(
      'height',
      `no receipt is older than block ${FIRST_HEIGHT}, and early blocks are cheap`,
    )
  }
  // Neither a time of long ago nor a height of far ahead can be claimed: blocks come at a steady pace.
  const elapsed = parseHeader(fromHex(proof.header)).time - KNOWN.time
  const blocks = height - KNOWN.height
  const earliest = (blocks - SLACK_BLOCKS) * FASTEST_BLOCK_MS
  const latest = (blocks + SLACK_BLOCKS) * SLOWEST_BLOCK_MS
  if (elapsed < earliest || elapsed > latest) {
    throw refuse('time', 'the header’s time does not fit its height')
  }
  for (const [i, text] of [proof.header, ...proof.following].entries()) {
    if (checkpoint(height + i) !== null) continue
    if (targetOf(parseHeader(fromHex(text)).bits) > targetOf(easiestBits())) {
      throw refuse(
        'bits',
        'they are far easier than the last ones known: a newer version may know more',
      )
    }
  }
}

/** Root → attested path → Merkle root of the header → headers on top. */
function verifyCalendarProof(
  claim: Omit<Common, 'treeSize' | 'version' | 'observedAt'> & {
    readonly ots: Uint8Array
    readonly header: string
    readonly following: readonly string[]
    readonly height: number
  },
  checkpoint: CheckpointBits | undefined,
): BitcoinVerdict {
  const { root, network, height, requiredDepth } = claim
  const timestamp = parseOts(claim.ots)
  if (!equal(timestamp.message, root)) throw refuse('commitment', 'the file is about another root')
  const headers = [claim.header, ...claim.following].map((text) => parseHeader(fromHex(text)))
  const block = headers[0]!
  const attested = attestationsOf(timestamp).find(
    ({ attestation, message }) =>
      attestation.type === 'bitcoin' &&
      attestation.height === height &&
      equal(message, block.merkleRoot),
  )
  if (attested === undefined) {
    throw refuse('branch', `no path leads to the Merkle root of the block at ${height}`)
  }
  const chain = verifyHeaders({ network, headers, height, checkpoint })
  // As for a transaction of ours: the block and six more.
  if (headers.length < Math.max(7, requiredDepth)) {
    throw refuse('depth', `${headers.length} confirmations, not ${Math.max(7, requiredDepth)}`)
  }
  const { transaction, path, attestation } = attested
  const named =
    transaction === null
      ? toHex(sha256(emitOts(linearTimestamp(root, path, attestation))))
      : toDisplay(transaction.txid)
  return {
    txid: named,
    blockHash: toDisplay(block.hash),
    height,
    headerTime: block.time,
    depth: headers.length,
    ...chain,
    checks: ['ots', 'commitment', 'branch', ...chain.checks, 'depth'],
  }
}
