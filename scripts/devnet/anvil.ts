/**
 * Anvil as the devnet's EVM chain: a real EVM node with keys everybody knows, worth nothing.
 *
 * The binary comes as an optional dependency, which npm leaves out on other systems; its absence is
 * one plain line. `finalized` trails the tip by 2 × slotsInAnEpoch blocks, so 1 makes finality a
 * matter of seconds. State is written at an orderly stop and every few seconds, if a file is named.
 */

import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from '../build.ts'
import { VaultMeshError } from '#core/errors.ts'
import { startChild } from './child.ts'
import { rpcOf, type Rpc } from './json-rpc.ts'
import { portOrFree } from './port.ts'

const BINARY = 'node_modules/@foundry-rs/anvil-linux-amd64/bin/anvil'
/** What a crash may lose. A day of blocks is some 150 MB of state (measured: 1.7 kB a block). */
const STATE_EVERY_S = 10

/** Said when there is no EVM chain to start. */
export const missingAnvil =
  'anvil is not installed: no EVM chain, rail EVM is off (npm install brings it on Linux x64)'

/** A running anvil. */
export interface Anvil {
  readonly url: string
  readonly port: number
  readonly pid: number
  /** e.g. `rpc('anvil_reorg', [depth, []])`, `rpc('evm_setAutomine', [true])`. */
  readonly rpc: Rpc
  mine(n: number): Promise<void>
  /** Gives `address` that many wei, out of nothing. */
  setBalance(address: string, wei: bigint): Promise<void>
  stop(): Promise<void>
  /** SIGKILL, as in a crash. */
  kill(): Promise<void>
  /** SIGSTOP: every request hangs until `resume`. */
  pause(): void
  resume(): void
}

/** The binary, or null if npm did not install it here. */
export function anvilBinary(): string | null {
  const file = join(ROOT, BINARY)
  return existsSync(file) ? file : null
}

/**
 * Starts anvil on 127.0.0.1. Mines nothing by itself unless `blockTimeS` is given. Port 0 picks a free
 * one. Throws `bad-config` if it is absent or does not come up.
 */
export async function startAnvil({
  port: wanted = 0,
  stateFile,
  blockTimeS,
  slotsInAnEpoch = 1,
  chainId = 31337,
  args: more = [],
}: {
  readonly port?: number
  readonly stateFile?: string
  readonly blockTimeS?: number
  readonly slotsInAnEpoch?: number
  readonly chainId?: number
  readonly args?: readonly string[]
} = {}): Promise<Anvil> {
  const binary = anvilBinary()
  if (binary === null) throw new VaultMeshError('bad-config', missingAnvil)
  const port = await portOrFree(wanted)
  const url = `http://127.0.0.1:${port}`
  const rpc = rpcOf(url)
  const mining = blockTimeS === undefined ? ['--no-mining'] : ['--block-time', String(blockTimeS)]
  const state =
    stateFile === undefined ? [] : ['--state', stateFile, '--state-interval', String(STATE_EVERY_S)]
  const finality = ['--slots-in-an-epoch', String(slotsInAnEpoch)]
  const where = ['--host', '127.0.0.1', '--port', String(port), '--chain-id', String(chainId)]
  const args = [...where, ...finality, ...mining, ...state, '--quiet', ...more]
  const child = await startChild('anvil', binary, args, () => rpc('eth_chainId'))
  return {
    url,
    port,
    rpc,
    ...child,
    mine: async (n) => void (await rpc('anvil_mine', [`0x${n.toString(16)}`])),
    setBalance: async (address, wei) =>
      void (await rpc('anvil_setBalance', [address, `0x${wei.toString(16)}`])),
  }
}
