/**
 * Ethereum transaction proof → verdict: "the sender committed to this root in this block".
 *
 *   root = calldata of the raw transaction → transactions trie (key: RLP of its index)
 *        → transactionsRoot, field 4 of the header → block hash = keccak-256 of the header's RLP
 *
 * All of that is derived from bytes here; no field is believed. The transaction is held to the shape
 * our rail writes: value 0, calldata of exactly the 32 bytes, sent to the sender itself, chain id
 * bound by the signature (EIP-155, EIP-2930, EIP-1559), low s (EIP-2). Since a header commits to
 * transactions whether they reverted or not, neither receipt nor status matters to a timestamp.
 *
 * What is *not* shown: that the block is on the chain. A header costs nothing to invent, so **the
 * caller must hold `blockHash` against a source it trusts** and see it finalized (design §6); until
 * then the verdict says no more than its `trust`. Forks append header fields (London 16, Shanghai
 * 17, Cancun 20, Prague 21), so unknown ones are let pass: the hash covers them.
 */

import { keccak_256 } from '@noble/hashes/sha3.js'
import type { Hash } from '#core/bytes.ts'
import { concat, equal, fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { transactionKey, verifyTrieProof } from '#core/merkle-patricia.ts'
import type { RlpItem } from '#core/rlp.ts'
import { decodeRlp, encodeRlp, integerOf, integerToBytes } from '#core/rlp.ts'
import { addressOf, recoverKey } from '#core/secp256k1-signature.ts'

/** The evidence, in lowercase 0x hex as an RPC writes it. */
export interface EthereumProof {
  /** The transaction as it is hashed: RLP, or its type byte and RLP (EIP-2718). */
  readonly rawTx: string
  readonly txIndex: number
  /** RLP of the block header. */
  readonly header: string
  /** Trie nodes from the root down. */
  readonly nodes: readonly string[]
}

/** What to hold a proof against. */
export interface EthereumExpectation {
  readonly root: Hash
  readonly chainId: number
  /** The recipient that the transaction must have (lowercase 0x); the sender itself if absent. */
  readonly address?: string
  readonly proof: EthereumProof
}

/** What a verified proof says. Hashes and addresses are lowercase 0x hex. */
export interface EthereumVerdict {
  readonly txHash: string
  readonly blockHash: string
  readonly blockNumber: number
  /** Epoch ms of the header's timestamp. */
  readonly headerTime: number
  readonly from: string
  readonly to: string
  /** What is left to believe, in one sentence. */
  readonly trust: string
  /** Checks passed, in order. */
  readonly checks: readonly string[]
}

/** A signed anchor takes 140 bytes, with an access list some hundred more. */
export const MAX_ANCHOR_TX_BYTES = 4096
/** 516–640 bytes on mainnet; chains with signers in extraData write kilobytes. */
export const MAX_HEADER_BYTES = 65_536
/** A path of a 5-byte key has at most 11 nodes. */
const MAX_NODES = 11
/** The longest node is a branch of 16 hashes and a value (532 bytes), or a leaf with the transaction. */
const MAX_NODE_BYTES = MAX_ANCHOR_TX_BYTES + 64
/** A block of 10 MiB (EIP-7934) holds fewer than 2^17 transactions; 2^32 fits a key of 5 bytes. */
const MAX_INDEX = 2 ** 32 - 1
/** Last second that a Date can show (ECMA-262 §21.4.1.1). */
const MAX_SECONDS = 8_640_000_000_000n

/** Fields of every header since Frontier with their width; null: an integer or any bytes. */
const HEADER_WIDTHS = [32, 32, 20, 32, 32, 32, 256, null, null, null, null, null, null, 32, 8]
const TRANSACTIONS_ROOT = 4
const NUMBER = 8
const TIMESTAMP = 11
/** Prague has 21; a header that has this many is another kind of thing. */
const MAX_HEADER_FIELDS = 64

/** Verifies a proof for the 32-byte log root. Throws `bad-proof` naming the check that failed. */
export function verifyEthereumProof(expected: EthereumExpectation): EthereumVerdict {
  const { root, chainId, address, proof } = expected
  const checks: string[] = []
  const need = (check: string, holds: boolean, otherwise: string) => {
    if (!holds) throw refuse(check, otherwise)
    checks.push(check)
  }

  const { rawTx, header: rawHeader, nodes, txIndex } = readProof(proof)
  checks.push('shape')
  const header = parseHeader(rawHeader)
  checks.push('header')
  const tx = parseTransaction(rawTx)
  checks.push('transaction')
  need('calldata', root.length === 32 && equal(tx.data, root), 'the calldata is not the root')
  need('value', tx.value === 0n, 'an anchor moves no value')
  need('chain-id', tx.chainId === BigInt(chainId), `signed for chain ${tx.chainId}, not ${chainId}`)
  const { transactionsRoot } = header
  const key = transactionKey(txIndex)
  const found = verifyTrieProof({ root: transactionsRoot, key, proof: nodes })
  need('inclusion', found !== null && equal(found, rawTx), `transaction ${txIndex} is another one`)
  const signer = recoverKey(tx.digest, tx.signature)
  need('signature', signer !== null, 'nobody made it, or its s is high')
  const from = addressOf(signer!)
  need('recipient', tx.to === (address ?? from), `sent to ${tx.to}, not to ${address ?? from}`)

  const blockHash = toHex0x(keccak_256(rawHeader))
  return {
    txHash: toHex0x(keccak_256(rawTx)),
    blockHash,
    blockNumber: header.number,
    headerTime: header.timestamp * 1000,
    from,
    to: tx.to,
    trust: `Holds if block ${blockHash} is final on chain ${chainId}: whoever vouches for that hash could forge this.`,
    checks,
  }
}

function readProof(proof: EthereumProof) {
  const { txIndex, nodes } = proof
  if (!Number.isInteger(txIndex) || txIndex < 0 || txIndex > MAX_INDEX) {
    throw refuse('shape', 'txIndex is no index')
  }
  if (!Array.isArray(nodes) || nodes.length > MAX_NODES) {
    throw refuse('shape', `nodes is no list of at most ${MAX_NODES}`)
  }
  return {
    txIndex,
    rawTx: bytesOf(proof.rawTx, 'rawTx', MAX_ANCHOR_TX_BYTES),
    header: bytesOf(proof.header, 'header', MAX_HEADER_BYTES),
    nodes: nodes.map((node, i) => bytesOf(node, `nodes[${i}]`, MAX_NODE_BYTES)),
  }
}

function parseHeader(raw: Uint8Array) {
  const fields = listOf(decodeRlp(raw), 'header')
  if (fields.length < HEADER_WIDTHS.length || fields.length > MAX_HEADER_FIELDS) {
    throw refuse('header', `${fields.length} fields are no block header`)
  }
  for (const [i, width] of HEADER_WIDTHS.entries()) {
    const field = fields[i]
    if (!(field instanceof Uint8Array) || (width !== null && field.length !== width)) {
      throw refuse('header', `field ${i} is no byte string of the right width`)
    }
  }
  const timestamp = integerOf(fields[TIMESTAMP], 'the timestamp', 8)
  if (timestamp > MAX_SECONDS) throw refuse('header', 'the timestamp is beyond any calendar')
  const number = integerOf(fields[NUMBER], 'the block number', 8)
  if (number > Number.MAX_SAFE_INTEGER) throw refuse('header', 'the block number is absurd')
  return {
    transactionsRoot: fields[TRANSACTIONS_ROOT] as Hash,
    number: Number(number),
    timestamp: Number(timestamp),
  }
}

interface Transaction {
  readonly chainId: bigint
  readonly to: string
  readonly value: bigint
  readonly data: Uint8Array
  /** What was signed, and r ‖ s ‖ v with v 27 or 28. */
  readonly digest: Uint8Array
  readonly signature: Uint8Array
}

/** Legacy with EIP-155, EIP-2930 (type 1) and EIP-1559 (type 2). */
function parseTransaction(raw: Uint8Array): Transaction {
  const [type] = raw
  if (type === undefined) throw refuse('transaction', 'there is none')
  if (type >= 0xc0) return parseLegacy(raw)
  if (type !== 1 && type !== 2) throw refuse('transaction', `type ${type} is not used for anchors`)
  const fields = listOf(decodeRlp(raw.subarray(1)), 'transaction')
  // chainId, nonce, gas price (type 2: two of them), gas, to, value, data, access list, y, r, s
  const to = 3 + type
  if (fields.length !== to + 7)
    throw refuse('transaction', `${fields.length} fields in type ${type}`)
  for (let i = 1; i < to; i++) integerOf(fields[i], `field ${i} of the transaction`)
  listOf(fields[to + 3]!, 'transaction')
  const yParity = integerOf(fields[to + 4], 'y', 1)
  if (yParity > 1n) throw refuse('transaction', 'y is neither 0 nor 1')
  return {
    chainId: integerOf(fields[0], 'the chain id'),
    ...payload(fields, to),
    digest: keccak_256(concat(Uint8Array.of(type), encodeRlp(fields.slice(0, to + 4)))),
    signature: signatureOf(fields, to + 5, yParity),
  }
}

function parseLegacy(raw: Uint8Array): Transaction {
  const fields = listOf(decodeRlp(raw), 'transaction')
  // nonce, gas price, gas, to, value, data, v, r, s
  if (fields.length !== 9) throw refuse('transaction', `${fields.length} fields in a legacy one`)
  for (let i = 0; i < 3; i++) integerOf(fields[i], `field ${i} of the transaction`)
  const v = integerOf(fields[6], 'v')
  // EIP-155: v = 2 × chain id + 35 + y. Before it, one signature was good on every chain.
  if (v < 35n) throw refuse('transaction', 'the signature names no chain (EIP-155)')
  const chainId = (v - 35n) / 2n
  const unsigned = [...fields.slice(0, 6), integerToBytes(chainId), EMPTY, EMPTY]
  return {
    chainId,
    ...payload(fields, 3),
    digest: keccak_256(encodeRlp(unsigned)),
    signature: signatureOf(fields, 7, (v - 35n) % 2n),
  }
}

const EMPTY = new Uint8Array(0)

/** to, value, data, which follow each other in every type. */
function payload(fields: readonly RlpItem[], at: number) {
  const [to, value, data] = fields.slice(at)
  if (!(to instanceof Uint8Array) || to.length !== 20) {
    throw refuse('transaction', 'the recipient is no address')
  }
  if (!(data instanceof Uint8Array)) throw refuse('transaction', 'the calldata is a list')
  return { to: toHex0x(to), value: integerOf(value, 'the value'), data }
}

function signatureOf(fields: readonly RlpItem[], at: number, y: bigint): Uint8Array {
  const [r, s] = [integerOf(fields[at], 'r'), integerOf(fields[at + 1], 's')]
  return concat(word(r), word(s), Uint8Array.of(27 + Number(y)))
}

function word(n: bigint): Uint8Array {
  return fromHex(n.toString(16).padStart(64, '0'))
}

function listOf(item: RlpItem, check: string): readonly RlpItem[] {
  if (item instanceof Uint8Array) throw refuse(check, 'a byte string where a list belongs')
  return item
}

function bytesOf(hex: unknown, what: string, maxBytes: number): Uint8Array {
  if (typeof hex !== 'string' || hex.length > 2 + 2 * maxBytes) {
    throw refuse('shape', `${what} is no hex of at most ${maxBytes} bytes`)
  }
  if (!/^0x(?:[0-9a-f]{2})*$/.test(hex)) throw refuse('shape', `${what} is not lowercase 0x hex`)
  return fromHex(hex.slice(2))
}

function toHex0x(bytes: Uint8Array): string {
  return '0x' + toHex(bytes)
}

function refuse(check: string, reason: string): VaultMeshError {
  return new VaultMeshError('bad-proof', `${check}: ${reason}.`, { extra: { check } })
}
