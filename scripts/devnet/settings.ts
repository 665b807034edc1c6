/**
 * The settings of a node that anchors in a devnet: where its parts are, and keys whose coins are worth nothing.
 *
 * The keys are made at first use and lie encrypted beside the chains, as all keys do: whoever looks for an
 * example finds the right one.
 */

import { randomBytes } from 'node:crypto'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { VaultMeshError } from '#core/errors.ts'
import { bitcoinAddresses, evmAddress } from '../anchor-keys.ts'
import { readSecret, writeSecret } from '../keystore.ts'
import { ELSEWHERE } from './bitcoind.ts'
import type { Devnet, Part } from './devnet.ts'

const PARTS: readonly Part[] = ['btc', 'evm', 'tsa']

/** The parts that `--without` names, of those there are; throws `bad-config` for one that is none. */
export function partsOf<P extends string = Part>(
  names: readonly string[],
  known: readonly P[] = PARTS as readonly string[] as readonly P[],
): ReadonlySet<P> {
  const parts = names.flatMap((name) => name.split(',')).map((name) => name.trim().toLowerCase())
  for (const part of parts) {
    if (!known.some((name) => name === part)) {
      throw new VaultMeshError(
        'bad-config',
        `--without ${part}: the parts are ${known.join(', ')}.`,
      )
    }
  }
  return new Set(parts as P[])
}

/** Variables of a node on `devnet`; its addresses are funded when this resolves. Keys lie in `dir`. */
export async function anchorVars(devnet: Devnet, dir: string): Promise<Record<string, string>> {
  const { btc, evm, tsa } = devnet
  const keys = await keysIn(dir)
  const vars: Record<string, string> = {}
  const rails: string[] = []
  if (btc !== null) {
    rails.push('BTC')
    vars['BTC_NETWORK'] = 'regtest'
    vars['BTC_URLS'] = `core+${btc.url}`
    vars['BTC_PRIVATE_KEY'] = keys.btc
  }
  if (evm !== null) {
    rails.push('EVM')
    vars['EVM_CHAIN_ID'] = '31337'
    vars['EVM_URLS'] = evm.url
    vars['EVM_PRIVATE_KEY'] = keys.evm
  }
  if (tsa !== null) {
    rails.push('TSA')
    vars['TSA_URLS'] = tsa.url
    vars['TSA_ROOTS'] = tsa.rootPem
  }
  await devnet.fund({
    btcAddress: bitcoinAddresses(keys.btc, 'regtest').p2wpkh,
    evmAddress: evmAddress(keys.evm),
  })
  // A rail spends only what is as deep as a final anchor: the block and six on top.
  await btc?.mine(6, ELSEWHERE)
  return { ...vars, RAILS: rails.join(',') }
}

interface Keys {
  readonly btc: string
  readonly evm: string
}

async function keysIn(dir: string): Promise<Keys> {
  const file = join(dir, 'keys.age')
  if (!existsSync(file)) {
    const key = (): string => randomBytes(32).toString('hex')
    await writeSecret(file, JSON.stringify({ btc: key(), evm: `0x${key()}` }))
  }
  return JSON.parse(await readSecret(file)) as Keys
}
