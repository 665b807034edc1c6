/**
 * Who holds and who spends what on the chain of a bitcoind, which has no such index of its own: outputs
 * by address, spenders by output. In memory, brought up to date block by block on each question, and
 * undone block by block when the node has changed its branch. For the short chains of a devnet.
 */

import type { Bitcoind } from './bitcoind.ts'

/** A transaction as bitcoind's verbose answers give it, as far as it is read here. */
export interface VerboseTx {
  readonly txid: string
  readonly version: number
  readonly locktime: number
  readonly size: number
  readonly weight: number
  readonly blockhash?: string
  readonly confirmations?: number
  readonly vin: readonly {
    readonly txid?: string
    readonly vout?: number
    readonly coinbase?: string
    readonly scriptSig?: { readonly asm: string; readonly hex: string }
    readonly txinwitness?: readonly string[]
    readonly sequence: number
  }[]
  readonly vout: readonly VerboseOutput[]
}

export interface VerboseOutput {
  readonly n: number
  readonly value: number
  readonly scriptPubKey: {
    readonly asm: string
    readonly hex: string
    readonly type: string
    readonly address?: string
  }
}

/** Where a transaction stands, in Esplora's words. */
export type Status =
  | { readonly confirmed: false }
  | {
      readonly confirmed: true
      readonly block_height: number
      readonly block_hash: string
      readonly block_time: number
    }

interface Block {
  readonly hash: string
  readonly height: number
  readonly time: number
  readonly tx: readonly VerboseTx[]
}

/** One input that spends an output. */
export interface Spend {
  readonly txid: string
  readonly vin: number
  readonly status: Status
}

/** An output nobody has spent, in the chain or among what waits for a block. */
export interface Unspent {
  readonly txid: string
  readonly vout: number
  readonly value: number
  readonly status: Status
}

export interface EsploraIndex {
  /** The input that spends output `vout` of `txid`, of the chain or of the mempool. */
  spendOf(txid: string, vout: number): Promise<Spend | null>
  unspentOf(address: string): Promise<Unspent[]>
}

const UNCONFIRMED: Status = { confirmed: false }

/** An index over what `rpc` answers for. */
export function esploraIndex(rpc: Bitcoind['rpc']): EsploraIndex {
  const chain = new Ledger()
  const blocks: { hash: string; undo: () => void }[] = []
  const followTip = async (): Promise<void> => {
    let height = await rpc<number>('getblockcount')
    while (blocks.length > 0) {
      const last = blocks.length - 1
      if (last <= height && (await rpc('getblockhash', [last])) === blocks[last]!.hash) break
      blocks.pop()!.undo()
    }
    for (; blocks.length <= height; height = await rpc<number>('getblockcount')) {
      const hash = await rpc<string>('getblockhash', [blocks.length])
      const block = await rpc<Block>('getblock', [hash, 2])
      const status = confirmedIn(block)
      const undos = block.tx.map((tx) => chain.add(tx, status))
      blocks.push({ hash, undo: () => undos.toReversed().forEach((undo) => undo()) })
    }
  }
  let last: Promise<unknown> = Promise.resolve()
  /**
   * Chain and mempool as they are now; one question at a time. The mempool is read first: what is
   * mined in between is then in both, never in neither, which would show its coins as unspent.
   */
  const now = (): Promise<readonly [Ledger, Ledger]> => {
    const next = last.then(async () => {
      const waiting: VerboseTx[] = []
      for (const txid of await rpc<string[]>('getrawmempool')) {
        const tx = await rpc<VerboseTx>('getrawtransaction', [txid, 1]).catch(() => null)
        if (tx !== null) waiting.push(tx)
      }
      await followTip()
      const pool = new Ledger()
      for (const tx of waiting) if (!chain.txids.has(tx.txid)) pool.add(tx, UNCONFIRMED)
      return [chain, pool] as const
    })
    last = next.catch(() => undefined)
    return next
  }
  return {
    async spendOf(txid, vout) {
      const ledgers = await now()
      const at = outpoint(txid, vout)
      return ledgers.map((ledger) => ledger.spends.get(at)).find((s) => s !== undefined) ?? null
    },
    async unspentOf(address) {
      const ledgers = await now()
      return ledgers
        .flatMap((ledger) => [...(ledger.outputs.get(address)?.values() ?? [])])
        .filter(({ txid, vout }) => !ledgers.some((l) => l.spends.has(outpoint(txid, vout))))
    },
  }
}

/** Outputs by address and spends by output of some transactions. */
class Ledger {
  readonly outputs = new Map<string, Map<string, Unspent>>()
  readonly spends = new Map<string, Spend>()
  readonly txids = new Set<string>()

  /** Takes a transaction in; the function returned takes it out again. */
  add({ txid, vin, vout }: VerboseTx, status: Status): () => void {
    this.txids.add(txid)
    const spent = vin.flatMap((input, at) => {
      if (input.txid === undefined || input.vout === undefined) return []
      const key = outpoint(input.txid, input.vout)
      this.spends.set(key, { txid, vin: at, status })
      return [key]
    })
    for (const { n, value, scriptPubKey } of vout) {
      if (scriptPubKey.address === undefined) continue
      const held = this.outputs.get(scriptPubKey.address) ?? new Map<string, Unspent>()
      held.set(outpoint(txid, n), { txid, vout: n, value: sats(value), status })
      this.outputs.set(scriptPubKey.address, held)
    }
    return () => {
      this.txids.delete(txid)
      for (const key of spent) this.spends.delete(key)
      for (const { n, scriptPubKey } of vout) {
        this.outputs.get(scriptPubKey.address ?? '')?.delete(outpoint(txid, n))
      }
    }
  }
}

/** Esplora's status of what is in `block`. */
export function confirmedIn({ height, hash, time }: Omit<Block, 'tx'>): Status {
  return { confirmed: true, block_height: height, block_hash: hash, block_time: time }
}

/** Bitcoin to satoshi; bitcoind's JSON numbers have 8 digits after the point. */
export function sats(bitcoins: number): number {
  return Math.round(bitcoins * 1e8)
}

function outpoint(txid: string, vout: number): string {
  return `${txid}:${vout}`
}
