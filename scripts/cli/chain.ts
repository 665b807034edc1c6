/**
 * Asks the chain itself whether the block of a receipt is on it: what no proof can show offline.
 */

import { existsSync } from 'node:fs'
import type { AnchorReceipt, EvmBlock } from '#core/anchor-receipt.ts'
import { ethereumProofSchema } from '#core/anchor-ethereum.ts'
import { parseHeader } from '#core/bitcoin-proof.ts'
import { toDisplay } from '#core/bitcoin-transaction.ts'
import { fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import { keccak_256 } from '@noble/hashes/sha3.js'
import { parseBitcoinUrl } from '../../queues/anchors/bitcoin-client.ts'
import { parseEthereumUrl } from '../../queues/anchors/ethereum-client.ts'
import { loadSecrets, SECRETS_DIR } from '../sops.ts'

/** What the chain says. */
export type ChainAnswer =
  | { readonly outcome: 'confirmed'; readonly detail: string; readonly evmBlock: EvmBlock | null }
  | { readonly outcome: 'refuted' | 'unreachable'; readonly reason: string }

/** Asks every provider; all must have the block. `secrets` is a folder of SOPS files. */
export async function askChain(
  receipt: AnchorReceipt,
  from: { readonly secrets: string | undefined },
): Promise<ChainAnswer> {
  const name = receipt.chain === 'BTC' ? 'BTC_URLS' : 'EVM_URLS'
  const urls = await urlsOf(name, from.secrets)
  if (urls.length === 0) {
    return { outcome: 'unreachable', reason: `whom to ask is not set: ${name}` }
  }
  try {
    return receipt.chain === 'BTC' ? await askBitcoin(receipt, urls) : await askEvm(receipt, urls)
  } catch (error) {
    if (!(error instanceof VaultMeshError)) throw error
    if (error.code === 'bad-config') throw error
    return { outcome: 'unreachable', reason: error.message }
  }
}

async function urlsOf(name: string, folder: string | undefined): Promise<readonly string[]> {
  const dir = folder ?? SECRETS_DIR
  // Who names them in the environment needs no key to any secrets.
  const text = process.env[name] ?? (existsSync(dir) ? await loadSecrets(dir) : {})[name] ?? ''
  return text
    .split(',')
    .map((url) => url.trim())
    .filter((url) => url !== '')
}

/** A node that has another block contradicts; one that has not come so far says nothing. */
function otherBlock(name: string, there: string | null, height: number): ChainAnswer {
  return there === null
    ? { outcome: 'unreachable', reason: `${name} has no block ${height} yet` }
    : { outcome: 'refuted', reason: `${name} has another block ${height}: ${there}` }
}

async function askBitcoin(receipt: AnchorReceipt, urls: readonly string[]): Promise<ChainAnswer> {
  const { header } = receipt.proof as { readonly header?: unknown }
  const { blockNumber, finality } = receipt
  if (typeof header !== 'string' || !/^[0-9a-f]{160}$/.test(header) || blockNumber === null) {
    return { outcome: 'refuted', reason: 'the proof names no block' }
  }
  const hash = toDisplay(parseHeader(fromHex(header)).hash)
  const names: string[] = []
  let depth = Infinity
  for (const client of urls.map((url) => parseBitcoinUrl(url, fetch))) {
    const [there, tip] = [await client.hashAt(blockNumber), await client.tip()]
    if (there !== hash) return otherBlock(client.name, there, blockNumber)
    depth = Math.min(depth, tip.height - blockNumber + 1)
    names.push(client.name)
  }
  if (depth < finality.requiredDepth) {
    return { outcome: 'unreachable', reason: `only ${depth} confirmations are known yet` }
  }
  const detail = `${names.join(' and ')} has the block, ${depth} confirmations`
  return { outcome: 'confirmed', detail, evmBlock: null }
}

async function askEvm(receipt: AnchorReceipt, urls: readonly string[]): Promise<ChainAnswer> {
  const parsed = ethereumProofSchema.safeParse(receipt.proof)
  const { blockNumber: number } = receipt
  if (!parsed.success || number === null) {
    return { outcome: 'refuted', reason: 'the proof names no block' }
  }
  const { chainId, header } = parsed.data
  const hash = `0x${toHex(keccak_256(fromHex(header.slice(2))))}`
  const names: string[] = []
  for (const client of urls.map((url) => parseEthereumUrl(url, fetch))) {
    const chain = await client.chainId()
    if (chain !== chainId) {
      return { outcome: 'unreachable', reason: `${client.name} is chain ${chain}, not ${chainId}` }
    }
    const [there, finalized] = [await client.hashAt(number), await client.finalized()]
    if (there !== hash) return otherBlock(client.name, there, number)
    if (finalized.number < number) {
      return { outcome: 'unreachable', reason: `${client.name} has not finalized block ${number}` }
    }
    names.push(client.name)
  }
  const detail = `${names.join(' and ')} has the block, finalized`
  return { outcome: 'confirmed', detail, evmBlock: { chainId, number, hash } }
}
