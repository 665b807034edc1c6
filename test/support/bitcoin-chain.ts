/**
 * Blocks of regtest made by hand: at its limit every second nonce has the work, so a proof takes milliseconds.
 */

import { expect } from 'vitest'
import type { BitcoinProof } from '#core/bitcoin-proof.ts'
import { targetOf } from '#core/bitcoin-proof.ts'
import { sha256d, toDisplay } from '#core/bitcoin-transaction.ts'
import { concat, fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'

/** A root to anchor. */
export const root = fromHex('c5'.repeat(32))
/** Regtest's target, compact. */
export const LIMIT = 0x207fffff
/** nTime of the first block, in seconds. */
export const START = 1_790_000_000

/** The check that refuses, or 'ok'. */
export function outcome(act: () => unknown): string {
  try {
    act()
    return 'ok'
  } catch (error) {
    if (!(error instanceof VaultMeshError) || error.code !== 'bad-proof') throw error
    const check = String(error.extra['check'])
    expect(error.message.startsWith(`${check}: `)).toBe(true)
    return check
  }
}

export function u32(n: number): Uint8Array {
  const out = new Uint8Array(4)
  new DataView(out.buffer).setUint32(0, n, true)
  return out
}

/** A transaction of one input: change, then OP_RETURN outputs of `data`. */
export function transaction(...data: readonly Uint8Array[]): Uint8Array {
  const change = fromHex(`e803000000000000160014${'22'.repeat(20)}`)
  const outputs = data.map((bytes) =>
    concat(fromHex('0000000000000000'), Uint8Array.of(bytes.length + 2, 0x6a, bytes.length), bytes),
  )
  const input = fromHex(`01${'11'.repeat(32)}0000000000fdffffff`)
  return concat(u32(2), input, Uint8Array.of(data.length + 1), change, ...outputs, u32(0))
}

/** Root and branch of the block's tree over `txids`. */
export function tree(txids: readonly Uint8Array[], position: number) {
  const branch: Uint8Array[] = []
  let level = txids
  let index = position
  while (level.length > 1) {
    const row = level.length % 2 === 1 ? [...level, level.at(-1)!] : level
    branch.push(row[index ^ 1]!)
    level = Array.from({ length: row.length / 2 }, (_, i) =>
      sha256d(concat(row[2 * i]!, row[2 * i + 1]!)),
    )
    index >>= 1
  }
  return { merkleRoot: level[0]!, branch }
}

/** A header with the work its bits demand; at regtest's limit every second nonce has it. */
export function mine(
  previous: Uint8Array,
  merkleRoot: Uint8Array,
  time: number,
  bits = LIMIT,
): Uint8Array {
  for (let nonce = 0; ; nonce++) {
    const header = concat(u32(4), previous, merkleRoot, u32(time), u32(bits), u32(nonce))
    if (BigInt(`0x${toDisplay(sha256d(header))}`) <= targetOf(bits)) return header
  }
}

/** What is not as usual of a block. */
export interface Plan {
  readonly rawTx?: Uint8Array
  readonly count?: number
  readonly position?: number
  readonly following?: number
  /** Bits of header i. */
  readonly bits?: (i: number) => number
}

/** The proof for a transaction in a block of `count`, with `following` blocks on top. */
export function block({
  rawTx = transaction(root),
  count = 5,
  position = 2,
  following = 6,
  bits,
}: Plan = {}) {
  const txids = Array.from({ length: count }, (_, i) => sha256d(Uint8Array.of(i)))
  txids[position] = sha256d(rawTx)
  const { merkleRoot, branch } = tree(txids, position)
  const headers = [mine(new Uint8Array(32), merkleRoot, START, bits?.(0))]
  for (let i = 1; i <= following; i++) {
    headers.push(mine(sha256d(headers.at(-1)!), sha256d(u32(i)), START + 600 * i, bits?.(i)))
  }
  const [header, ...rest] = headers.map(toHex)
  const proof: BitcoinProof = {
    rawTx: toHex(rawTx),
    branch: branch.map(toHex),
    position,
    header: header!,
    following: rest,
    height: 101,
  }
  return proof
}
