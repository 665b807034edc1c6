/**
 * Anchor receipts as files, and what `vaultmesh verify-anchor` says of them, offline.
 */

import { copyFileSync, existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { AnchorReceipt, Chain } from '#core/anchor-receipt.ts'
import type { Trust } from '../../functions/sdk.ts'
import { Exit } from '../cli/command.ts'
import { verifyAnchor } from '../cli/verify-anchor.ts'
import { exportReceipts } from '../receipt-files.ts'

/** What was found of one chain. */
export interface Found {
  readonly chain: Chain
  readonly isOk: boolean
  readonly detail: string
  readonly receipt: AnchorReceipt | null
}

/** A folder of receipts of one node, and whom to trust of them. */
export class Shelf {
  readonly dir: string
  readonly trustFile: string
  readonly #trust: Trust

  /** `trustFile` is written with the first receipts. */
  constructor(dir: string, trustFile: string, trust: Trust) {
    this.dir = dir
    this.trustFile = trustFile
    this.#trust = trust
  }

  /** Fetches what is new at the node; resolves to the names of the receipts' files. */
  async fill(url: string): Promise<readonly string[]> {
    const names = await exportReceipts(url, this.dir)
    writeFileSync(this.trustFile, `${JSON.stringify(this.#trust, null, 2)}\n`)
    return names.filter((name) => name.endsWith('.json'))
  }

  /** Copies files of these names, and the `.ots` beside them, to `to`, which others may use too. */
  copy(names: readonly string[], to: string): void {
    mkdirSync(to, { recursive: true })
    for (const name of names.flatMap((json) => [json, json.replace(/\.json$/, '.ots')])) {
      if (existsSync(join(this.dir, name))) copyFileSync(join(this.dir, name), join(to, name))
    }
  }

  /** Verifies the receipts of a root in `dir` (default: this folder) on every rail of the node. */
  async verify(root: string, dir = this.dir): Promise<readonly Found[]> {
    const { rails } = this.#trust
    const values = {
      root,
      receipts: dir,
      trust: [this.trustFile],
      btc: rails.includes('BTC'),
      evm: rails.includes('EVM'),
      tsa: rails.includes('TSA'),
      online: false,
    }
    const { value } = await verifyAnchor.run([], values, silent)
    const { chains } = value as {
      chains: readonly { chain: Chain; exit: number; detail: string; receipt?: AnchorReceipt }[]
    }
    return chains.map(({ chain, exit, detail, receipt = null }) => {
      return { chain, isOk: exit === Exit.ok, detail, receipt }
    })
  }
}

const silent = {
  progress: () => undefined,
  paint: (_: string, text: string) => text,
  stdin: async () => new Uint8Array(0),
}
