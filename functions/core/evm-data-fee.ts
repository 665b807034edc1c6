/**
 * EVM chains that charge for the data they hand to another chain beside gas × price.
 *
 * That fee is in no field of a transaction and moves until it is mined, so what the sender signs is no bound on
 * what he pays: a fee cap would be none. Rollups that count such data as gas (Arbitrum) are not meant.
 * Sources: the chains of viem 2.57.20 with an OP-stack GasPriceOracle (0x4200…000F); Scroll's docs, "Transaction Fees".
 */

const OP_STACK: readonly number[] = [
  10, 130, 204, 252, 360, 420, 478, 480, 690, 919, 999, 1135, 1301, 1338, 1750, 1868, 1874, 1923,
  1924, 1946, 2192, 2331, 2522, 4202, 4326, 4801, 5330, 5611, 7741, 8453, 11011, 12553, 13001,
  17069, 33979, 34443, 44787, 48898, 48900, 53302, 57073, 60808, 77410, 81224, 81457, 84531, 84532,
  91342, 132902, 695569, 763373, 808813, 812242, 3397901, 7777777, 11142220, 11155420, 28122024,
  888888888, 999999999,
]
const SCROLL: readonly number[] = [534351, 534352]

const CHAINS: ReadonlySet<number> = new Set([...OP_STACK, ...SCROLL])

/** True if the chain is known to charge for data beside gas × price. */
export function hasDataFee(chainId: number): boolean {
  return CHAINS.has(chainId)
}
