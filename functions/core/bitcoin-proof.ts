/**
 * Bitcoin proof → verdict: "a block of this much work commits to a transaction that holds this root".
 *
 * root ∈ OP_RETURN of the transaction → branch to the header's Merkle root → ≥ 6 more headers, each
 * linked, each with the work that its own bits demand. To forge one costs that work again, so the
 * bits must be the network's own: `checkpoint` is asked for the bits of a height, and only where it
 * knows them for every header is `bits` "expected". Otherwise they are what the miner claims: the
 * proof "matches the supplied headers" and no more (the shipped table of epochs is a later work; a
 * node that walked or asked for the headers can pass its own). A whole epoch is never inside one
 * proof, so a retarget is held to its law's bounds, a factor of 4 either way.
 *
 * Not in a header, so not proven here: the height within an epoch, and that the chain is the active
 * one. Whoever writes the receipt asks providers for height → hash. Hashes stand in the order
 * hashed; only `txid` and `blockHash` of the verdict are as displayed.
 */

import type { Hash } from '#core/bytes.ts'
import { concat, equal, fromHex } from '#core/bytes.ts'
import {
  couldBeTransaction,
  fromDisplay,
  parseTransaction,
  payloads,
  refuse,
  sha256d,
  toDisplay,
} from '#core/bitcoin-transaction.ts'

/** What is stored in a receipt: lowercase hex, hashes in the order hashed. */
export interface BitcoinProof {
  /** The transaction, with or without witness. */
  readonly rawTx: string
  /** Siblings on the way to the Merkle root, the transaction's own first. */
  readonly branch: readonly string[]
  /** Index of the transaction in its block. */
  readonly position: number
  readonly header: string
  /** Headers that follow, in order: 6 to 144. */
  readonly following: readonly string[]
  readonly height: number
}

/** Compact target of the block at a height, or null if the table does not reach there. */
export type CheckpointBits = (height: number) => number | null

export interface BitcoinVerdict {
  readonly txid: string
  readonly blockHash: string
  readonly height: number
  /** nTime of the header in epoch ms: true to about two hours. */
  readonly headerTime: number
  /** Confirmations that the proof itself shows: the block and those on top. */
  readonly depth: number
  /** log2 of the hashes that all headers took, two decimals. */
  readonly workLog2: number
  /** Who vouches for the difficulty: a checkpoint, the network's rule (regtest), or the miner. */
  readonly bits: 'expected' | 'fixed' | 'claimed'
  /** Checks passed, in order. */
  readonly checks: readonly string[]
}

/** A block header; `hash` and the 32-byte fields in the order hashed. */
export interface BlockHeader {
  readonly hash: Hash
  readonly previous: Hash
  readonly merkleRoot: Hash
  /** nTime in epoch ms. */
  readonly time: number
  readonly bits: number
}

interface Network {
  /** As displayed. */
  readonly genesis: string
  /** The easiest target, compact. */
  readonly limit: number
  /** How bits change from block to block; null: a rule this version does not know. */
  readonly rule: 'retarget' | 'fixed' | null
}

/** Genesis and limits (Core chainparams.cpp). Test networks but signet and regtest have rules we do not check. */
export const bitcoinNetworks: Readonly<Record<string, Network>> = {
  mainnet: {
    genesis: '000000000019d6689c085ae165831e934ff763ae46a2a6c172b3f1b60a8ce26f',
    limit: 0x1d00ffff,
    rule: 'retarget',
  },
  testnet: {
    genesis: '000000000933ea01ad0ee984209779baaec3ced90fa3f408719526f8d77f4943',
    limit: 0x1d00ffff,
    rule: null,
  },
  testnet4: {
    genesis: '00000000da84f2bafbbc53dee25a72ae507ff4914b867c565be350b0da8bf043',
    limit: 0x1d00ffff,
    rule: null,
  },
  signet: {
    genesis: '00000008819873e925422c1ff0f99f7cc9bbb232af63a077a480a3633bee1ef6',
    limit: 0x1e0377ae,
    rule: 'retarget',
  },
  regtest: {
    genesis: '0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206',
    limit: 0x207fffff,
    rule: 'fixed',
  },
}

export const HEADER_BYTES = 80
/** Forging the block and six on top is seven blocks of work. */
export const MIN_FOLLOWING = 6
/** A day of blocks. */
export const MAX_FOLLOWING = 144
/** Fewer than 2^32 transactions fit in a block by far. */
export const MAX_BRANCH = 32
/** Two weeks of ten minutes. */
export const EPOCH_BLOCKS = 2016

/** Verifies a proof for the 32-byte log root. Throws `bad-proof` naming the check that failed. */
export function verifyBitcoinProof(claim: {
  readonly root: Hash
  readonly network: string
  readonly proof: BitcoinProof
  /** Confirmations wanted; a proof shows 7 at least. */
  readonly requiredDepth: number
  readonly checkpoint?: CheckpointBits
}): BitcoinVerdict {
  const { root, network, proof, requiredDepth, checkpoint } = claim
  const { height, position } = proof
  if (root.length !== 32) throw refuse('commitment', 'a root is 32 bytes')
  const transaction = parseTransaction(bytesOf('transaction', proof.rawTx))
  const holding = payloads(transaction).filter(({ bytes }) => equal(bytes, root))
  if (holding.length !== 1) {
    throw refuse('commitment', `${holding.length} OP_RETURN outputs are the root, not exactly one`)
  }

  if (proof.branch.length > MAX_BRANCH) throw refuse('branch', `more than ${MAX_BRANCH} levels`)
  const branch = proof.branch.map((hex) => bytesOf('branch', hex))
  const merkleRoot = merkleRootFrom(transaction.txid, position, branch)
  if (proof.following.length < MIN_FOLLOWING || proof.following.length > MAX_FOLLOWING) {
    const range = `${MIN_FOLLOWING} to ${MAX_FOLLOWING}`
    throw refuse('depth', `${proof.following.length} headers follow, not ${range}`)
  }
  const headers = [proof.header, ...proof.following].map((hex) =>
    parseHeader(bytesOf('header', hex)),
  )
  const [header] = headers
  if (!equal(merkleRoot, header!.merkleRoot)) {
    throw refuse('branch', 'it leads to another Merkle root than the header’s')
  }
  const chain = verifyHeaders({ network, headers, height, checkpoint })
  if (!(headers.length >= requiredDepth)) {
    throw refuse('depth', `${headers.length} confirmations, not ${requiredDepth}`)
  }
  return {
    txid: toDisplay(transaction.txid),
    blockHash: toDisplay(header!.hash),
    height,
    headerTime: header!.time,
    depth: headers.length,
    ...chain,
    checks: ['transaction', 'commitment', 'branch', ...chain.checks, 'depth'],
  }
}

/** The Merkle root that a branch leads to; refuses every shape that two transactions could share. */
export function merkleRootFrom(txid: Hash, position: number, branch: readonly Hash[]): Hash {
  if (!Number.isSafeInteger(position) || position < 0) {
    throw refuse('position', 'it is not an index')
  }
  let node = txid
  let index = position
  let isLast = false
  for (const sibling of branch) {
    if (sibling.length !== 32) throw refuse('branch', 'a hash is 32 bytes')
    const isRight = index % 2 === 1
    const isTwin = equal(sibling, node)
    // CVE-2012-2459: the last node of an odd level is paired with itself, as left child only; and
    // once it is the last, it is the last on every level above.
    if (isTwin && isRight) throw refuse('branch', 'a node is its own left sibling')
    if (isLast && !isRight && !isTwin) throw refuse('branch', 'a node follows the last one')
    isLast ||= isTwin
    const preimage = isRight ? concat(sibling, node) : concat(node, sibling)
    if (couldBeTransaction(preimage)) throw refuse('branch', 'an inner node could be a transaction')
    node = sha256d(preimage)
    index = Math.floor(index / 2)
  }
  if (index !== 0) throw refuse('position', `a branch of ${branch.length} levels does not reach it`)
  return node
}

/** Cuts a header of 80 bytes. */
export function parseHeader(bytes: Uint8Array): BlockHeader {
  if (bytes.length !== HEADER_BYTES) throw refuse('header', `${bytes.length} bytes, not 80`)
  const view = new DataView(bytes.buffer, bytes.byteOffset, HEADER_BYTES)
  return {
    hash: sha256d(bytes),
    previous: bytes.slice(4, 36),
    merkleRoot: bytes.slice(36, 68),
    time: view.getUint32(68, true) * 1000,
    bits: view.getUint32(72, true),
  }
}

/** Links, work and difficulty of consecutive headers, the first at `height`. */
export function verifyHeaders(run: {
  readonly network: string
  readonly headers: readonly BlockHeader[]
  readonly height: number
  readonly checkpoint?: CheckpointBits | undefined
}): Pick<BitcoinVerdict, 'workLog2' | 'bits' | 'checks'> {
  const { headers, height, checkpoint } = run
  const network = Object.hasOwn(bitcoinNetworks, run.network) ? bitcoinNetworks[run.network] : null
  if (!network?.rule) throw refuse('network', `${run.network.slice(0, 40)} is unsupported`)
  if (!Number.isSafeInteger(height) || height < 0) throw refuse('height', 'it is not a height')
  let work = 0n
  let known = 0
  for (const [i, header] of headers.entries()) {
    const before = headers[i - 1]
    if (before && !equal(header.previous, before.hash)) {
      throw refuse('link', `header ${i} does not follow the one before it`)
    }
    const at = height + i
    if ((at === 0) !== equal(header.hash, fromDisplay(network.genesis))) {
      throw refuse('height', `height ${at} and the genesis block do not agree`)
    }
    const target = targetOf(header.bits)
    if (target > targetOf(network.limit)) throw refuse('bits', 'they are easier than the network’s')
    if (!followsRule(network, at, header.bits, before?.bits)) {
      throw refuse('bits', `those of height ${at} break the ${network.rule} rule`)
    }
    const expected = checkpoint?.(at) ?? null
    if (expected !== null && expected !== header.bits) {
      throw refuse('checkpoint', `the epoch of height ${at} has other bits`)
    }
    if (expected !== null) known++
    if (BigInt(`0x${toDisplay(header.hash)}`) > target) {
      throw refuse('work', `header ${i} does not have the work it claims`)
    }
    // Core GetBlockProof: the hashes one expects to need, 2^256 / (target + 1).
    work += 2n ** 256n / (target + 1n)
  }
  const isExpected = known > 0 && known === headers.length
  return {
    workLog2: Math.round(Math.log2(Number(work)) * 100) / 100,
    bits: network.rule === 'fixed' ? 'fixed' : isExpected ? 'expected' : 'claimed',
    checks: ['link', 'height', 'bits', ...(isExpected ? ['checkpoint'] : []), 'work'],
  }
}

/** Target of compact bits; refuses a second form of the same number, zero and negatives. */
export function targetOf(bits: number): bigint {
  const size = BigInt(bits >>> 24)
  const mantissa = BigInt(bits & 0x7fffff)
  const target = size <= 3n ? mantissa >> (8n * (3n - size)) : mantissa << (8n * (size - 3n))
  if ((bits & 0x800000) !== 0) throw refuse('bits', 'the target is negative')
  if (target === 0n) throw refuse('bits', 'the target is zero')
  if (bitsOf(target) !== bits) throw refuse('bits', 'the target is not in compact form')
  return target
}

/** Compact bits of a target, rounded down as Core does (arith_uint256::GetCompact). */
export function bitsOf(target: bigint): number {
  let size = Math.ceil(target.toString(16).length / 2)
  const shift = 8n * BigInt(size - 3)
  let mantissa = Number(shift < 0n ? target << -shift : target >> shift)
  // The highest bit of the mantissa is a sign.
  if (mantissa >= 0x800000) {
    mantissa >>= 8
    size++
  }
  return size * 2 ** 24 + mantissa
}

/** May a block at `height` carry `bits` after one with `before`? */
function followsRule(network: Network, height: number, bits: number, before?: number): boolean {
  if (network.rule === 'fixed') return bits === network.limit
  if (before === undefined) return true
  if (height % EPOCH_BLOCKS !== 0) return bits === before
  // Core pow.cpp: the measured time is clamped to a quarter and to four times two weeks.
  const [old, next] = [targetOf(before), targetOf(bits)]
  return next >= targetOf(bitsOf(old / 4n)) && next <= targetOf(bitsOf(old * 4n))
}

function bytesOf(check: string, hex: string): Uint8Array {
  if (hex.length % 2 !== 0 || !/^[0-9a-f]*$/.test(hex)) {
    throw refuse(check, 'it is not lowercase hex')
  }
  return fromHex(hex)
}
