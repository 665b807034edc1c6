/** What the tests of the devnet's parts share: which of them are here, and a transaction as bitcoind shows it. */

import { fetchBitcoind } from '../../scripts/devnet/bitcoind-binary.ts'

/** Says which part is absent; the tests of that part are then skipped. */
export function absent(missing: string | null): boolean {
  if (missing !== null) console.warn(`skipped: ${missing}`)
  return missing !== null
}

/** The sentence that says why there is no bitcoind, or null. Fetches it if need be. */
export const bitcoindAbsence = await fetchBitcoind().then(
  () => null,
  (error: Error) => error.message,
)

/** Of bitcoind's verbose transactions, what is read here. */
export interface Output {
  readonly confirmations?: number
  readonly blockhash?: string
  readonly vout: readonly {
    readonly n: number
    readonly value: number
    readonly scriptPubKey: { readonly address?: string }
  }[]
}
