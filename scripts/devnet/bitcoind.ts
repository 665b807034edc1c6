/**
 * A real Bitcoin node on regtest, with a wallet that pays: the devnet's Bitcoin chain.
 *
 * Blocks are made on demand. The RPC password is new at each start unless given, is kept in memory
 * only (the node gets a salted hash of it in a file of mode 0600), and RPC and P2P listen on 127.0.0.1
 * alone. A transaction index is on; REST is off: rails use what every operator's node has.
 * The same `dir` again is the same chain again.
 */

import { createHmac, randomBytes } from 'node:crypto'
import { mkdirSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { VaultMeshError } from '#core/errors.ts'
import { bitcoindBinary, missingBitcoind } from './bitcoind-binary.ts'
import { startChild } from './child.ts'
import { rpcOf } from './json-rpc.ts'
import { portOrFree } from './port.ts'

const USER = 'devnet'
/** The node's own wallet. */
export const WALLET = 'devnet'
/** A coinbase output can be spent 100 blocks later. */
const MATURE = 101
/** Blocks made at once push the chain's clock ahead by a second each six: the first ones are old. */
const FIRST_BLOCKS_AGE_S = 3600
/** Regtest halves its subsidy each 150 blocks; after some rounds there is nothing left to mine. */
const MINING_ROUNDS = 5
const PEER_TIMEOUT_MS = 20_000
/** P2WPKH of the key in the examples of BIP 173: not in our wallet, so blocks to it cost it nothing. */
export const ELSEWHERE = 'bcrt1qw508d6qejxtdg4y5r3zarvary0c5xw7kygt080'

/** A running node. */
export interface Bitcoind {
  /** With user and password in it. */
  readonly url: string
  readonly port: number
  readonly p2pPort: number | null
  readonly pid: number
  /** Calls a method, of `wallet` if named; throws `anchor-failed`, the node's code in `extra.rpcCode`. */
  rpc<T = unknown>(method: string, params?: readonly unknown[], wallet?: string): Promise<T>
  /** Makes `n` blocks that pay `address` (default: the own wallet); returns their hashes. */
  mine(n: number, address?: string): Promise<string[]>
  /** Pays `sats` to `address` in a block, mining coins first if the wallet has too few; returns the txid. */
  fundAddress(address: string, sats: number | bigint): Promise<string>
  /** Connects to the node whose P2P port on 127.0.0.1 is given, and waits until it is a peer. */
  connect(p2pPort: number): Promise<void>
  /** Ends all connections to peers. */
  disconnect(): Promise<void>
  /** Orderly: the chain is on disk when it resolves. */
  stop(): Promise<void>
  /** SIGKILL, as in a crash. */
  kill(): Promise<void>
  /** SIGSTOP: every request hangs until `resume`. */
  pause(): void
  resume(): void
}

/**
 * Starts a node on the chain in `dir`. Port 0 picks a free one; P2P listens only if `p2pPort` is given.
 * Throws `bad-config` if there is no bitcoind or it does not come up.
 */
export async function startBitcoind({
  dir,
  rpcPort: wantedPort = 0,
  p2pPort: wantedP2p,
  connectTo,
  password = randomBytes(16).toString('hex'),
  args: more = [],
}: {
  readonly dir: string
  readonly rpcPort?: number
  readonly p2pPort?: number
  /** P2P port of a node on 127.0.0.1. */
  readonly connectTo?: number
  /** For a restart that must be reached by the same URL. */
  readonly password?: string
  readonly args?: readonly string[]
}): Promise<Bitcoind> {
  const binary = bitcoindBinary()
  if (binary === null) throw new VaultMeshError('bad-config', missingBitcoind)
  const port = await portOrFree(wantedPort)
  const p2pPort = wantedP2p === undefined ? null : await portOrFree(wantedP2p)
  const datadir = resolve(dir)
  mkdirSync(datadir, { recursive: true, mode: 0o700 })
  const conf = join(datadir, 'bitcoin.conf')
  rmSync(conf, { force: true })
  writeFileSync(conf, `rpcauth=${USER}:${saltedHash(password)}\n`, { mode: 0o600 })

  const rpcArgs = ['-rpcbind=127.0.0.1', '-rpcallowip=127.0.0.1', `-rpcport=${port}`]
  const peers = p2pPort === null ? ['-listen=0'] : ['-listen=1', `-bind=127.0.0.1:${p2pPort}`]
  const quiet = ['-connect=0', '-listenonion=0', '-natpmp=0', '-discover=0', '-dnsseed=0']
  const small = ['-dbcache=16', '-par=1', '-printtoconsole=0', '-nodebuglogfile']
  const kept = ['-txindex=1', '-rest=0', '-norpccookiefile', '-fallbackfee=0.0001']
  const url = `http://${USER}:${password}@127.0.0.1:${port}`
  const call = rpcOf(url)
  const child = await startChild(
    'bitcoind',
    binary,
    ['-regtest', `-datadir=${datadir}`, ...rpcArgs, ...peers, ...quiet, ...small, ...kept, ...more],
    () => call('getblockcount'),
  )
  const rpc: Bitcoind['rpc'] = (method, params, wallet) =>
    (wallet === undefined ? call : rpcOf(url, `/wallet/${wallet}`))(method, params)
  const address = once(async () => {
    await openWallet(rpc)
    return rpc<string>('getnewaddress', ['', 'bech32'], WALLET)
  })
  const mine = async (n: number, to?: string): Promise<string[]> =>
    rpc('generatetoaddress', [n, to ?? (await address())])
  const node: Bitcoind = {
    ...child,
    url,
    port,
    p2pPort,
    rpc,
    mine,
    async fundAddress(to, sats) {
      const wanted = BigInt(sats)
      await address()
      // With 0.001 BTC for the fee, far above what one small payment takes.
      await ensureBalance(node, wanted + 100_000n)
      const txid = await rpc<string>('sendtoaddress', [to, bitcoins(wanted)], WALLET)
      // Nothing promises that the very next block takes it; whoever counts depth from here must not guess.
      for (let round = 0; round < MINING_ROUNDS; round++) {
        await mine(1)
        const { confirmations } = await rpc<{ confirmations: number }>(
          'gettransaction',
          [txid],
          WALLET,
        )
        if (confirmations > 0) return txid
      }
      throw new VaultMeshError('anchor-failed', `No block takes the devnet's payment ${txid}.`)
    },
    async connect(peer) {
      const to = `127.0.0.1:${peer}`
      await rpc('addnode', [to, 'onetry'])
      await until(async () => (await peersOf(rpc)).some((p) => p.addr === to && p.version > 0))
    },
    async disconnect() {
      for (const { id } of await peersOf(rpc)) {
        // It may have gone by itself in the meantime.
        await rpc('disconnectnode', ['', id]).catch(() => undefined)
      }
      await until(async () => (await peersOf(rpc)).length === 0)
    },
  }
  try {
    if (connectTo !== undefined) await node.connect(connectTo)
  } catch (error) {
    await child.stop()
    throw error
  }
  return node
}

/** What `rpcauth` wants: HMAC-SHA-256 of the password under a salt. */
function saltedHash(password: string): string {
  const salt = randomBytes(16).toString('hex')
  return `${salt}$${createHmac('sha256', salt).update(password).digest('hex')}`
}

async function openWallet(rpc: Bitcoind['rpc']): Promise<void> {
  if ((await rpc<string[]>('listwallets')).includes(WALLET)) return
  const { wallets } = await rpc<{ wallets: readonly { name: string }[] }>('listwalletdir')
  await (wallets.some(({ name }) => name === WALLET)
    ? rpc('loadwallet', [WALLET])
    : rpc('createwallet', [WALLET]))
}

/** Mines until the wallet can spend `sats`. */
async function ensureBalance({ rpc, mine }: Bitcoind, sats: bigint): Promise<void> {
  for (let round = 0; ; round++) {
    const balance = await rpc<number>('getbalance', [], WALLET)
    if (BigInt(Math.round(balance * 1e8)) >= sats) return
    if (round === MINING_ROUNDS) {
      throw new VaultMeshError(
        'anchor-failed',
        `The devnet's wallet has ${balance} BTC and this chain's subsidy is used up: start on a new folder.`,
      )
    }
    const fresh = (await rpc<number>('getblockcount')) === 0
    if (fresh) await rpc('setmocktime', [Math.floor(Date.now() / 1000) - FIRST_BLOCKS_AGE_S])
    await mine(MATURE)
    if (fresh) await rpc('setmocktime', [0])
  }
}

function peersOf(rpc: Bitcoind['rpc']) {
  return rpc<readonly { id: number; addr: string; version: number }[]>('getpeerinfo')
}

/** Exact: 8 digits after the point. */
function bitcoins(sats: bigint): string {
  return `${sats / 100_000_000n}.${String(sats % 100_000_000n).padStart(8, '0')}`
}

async function until(holds: () => Promise<boolean>): Promise<void> {
  const deadline = Date.now() + PEER_TIMEOUT_MS
  while (!(await holds())) {
    if (Date.now() > deadline) throw new VaultMeshError('anchor-failed', 'A peer does not answer.')
    await sleep(25)
  }
}

function once<T>(make: () => Promise<T>): () => Promise<T> {
  let made: Promise<T> | undefined
  return () => {
    made ??= make().catch((error: unknown) => {
      made = undefined
      throw error
    })
    return made
  }
}
