/**
 * The outside world of a devnet: bitcoind on regtest, anvil, and a timestamp authority of openssl, all real
 * programs on 127.0.0.1, all worth nothing.
 *
 * What is not installed here is left out and named in one plain line; what is installed and does not
 * start is an error. Blocks come by themselves, about one a second on each chain, so that six
 * confirmations are seconds. All state is in one folder, and a second start goes on where the first
 * ended; ports and the RPC password may differ.
 */

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { anvilBinary, missingAnvil, startAnvil, type Anvil } from './anvil.ts'
import { bitcoindBinary, fetchBitcoind } from './bitcoind-binary.ts'
import { ELSEWHERE, startBitcoind, type Bitcoind } from './bitcoind.ts'
import { calendarPython, missingCalendar, startCalendar, type Calendar } from './calendar.ts'
import { onPath } from './child.ts'
import { startTsa, type Tsa } from './tsa.ts'

/** A part that can be left out. The calendar is only there if asked for. */
export type Part = 'btc' | 'evm' | 'tsa' | 'calendar'

const missingOpenssl =
  'openssl is not installed: no timestamp authority, rail TSA is off (apt install openssl)'
/** Enough for thousands of anchors. */
const FUNDS = { sats: 100_000_000n, wei: 10n ** 19n } as const

export interface Devnet {
  /** Null: left out, or absent. */
  readonly btc: Bitcoind | null
  readonly evm: Anvil | null
  readonly tsa: Tsa | null
  readonly calendar: Calendar | null
  /** What was wanted and is not here, each with one plain line. */
  readonly absent: readonly { readonly part: Part; readonly line: string }[]
  /**
   * Gives an address coins to pay its anchors with: 1 BTC in one confirmed output, 10 ETH. Resolves
   * once they can be spent. An address whose chain is not here is passed over.
   */
  fund(addresses: {
    readonly btcAddress?: string
    readonly evmAddress?: string
  }): Promise<{ readonly btcTxid: string | null }>
  stop(): Promise<void>
}

/**
 * Starts what is here. `dir` holds all its state. Throws `bad-config` if an installed part does not
 * start, e.g. because its port is in use; nothing is left running then. `say` hears what takes long.
 */
export async function startDevnet({
  dir,
  ports = {},
  without = new Set(),
  withCalendar = false,
  mineEveryMs = 1000,
  blockTimeS = 1,
  say = () => undefined,
}: {
  readonly dir: string
  /** Free ones by default. */
  readonly ports?: Partial<Record<Part, number>>
  readonly without?: ReadonlySet<Part>
  readonly withCalendar?: boolean
  readonly mineEveryMs?: number
  readonly blockTimeS?: number
  readonly say?: (line: string) => void
}): Promise<Devnet> {
  mkdirSync(dir, { recursive: true, mode: 0o700 })
  const absent: { part: Part; line: string }[] = []
  const running: { stop(): Promise<void> }[] = []
  const stop = async (): Promise<void> => {
    // The latest first: a calendar pays through bitcoind.
    for (const part of running.splice(0).toReversed()) await part.stop()
  }
  /** Starts a part unless it is unwanted, or absent with the line that `missing` resolves to. */
  const part = async <T extends { stop(): Promise<void> }>(
    name: Part,
    missing: () => Promise<string | null>,
    start: () => Promise<T>,
  ): Promise<T | null> => {
    if (without.has(name)) return null
    const line = await missing()
    if (line !== null) {
      absent.push({ part: name, line })
      return null
    }
    const started = await start()
    running.push(started)
    return started
  }
  try {
    const btc = await part(
      'btc',
      () => bitcoindAbsence(say),
      async () =>
        mining(
          await startBitcoind({ dir: join(dir, 'bitcoin'), rpcPort: ports.btc ?? 0 }),
          mineEveryMs,
        ),
    )
    const evm = await part(
      'evm',
      async () => (anvilBinary() === null ? missingAnvil : null),
      () => startAnvil({ port: ports.evm ?? 0, stateFile: join(dir, 'anvil.json'), blockTimeS }),
    )
    const tsa = await part(
      'tsa',
      async () => (onPath('openssl') === null ? missingOpenssl : null),
      () => startTsa({ dir: join(dir, 'tsa'), port: ports.tsa ?? 0 }),
    )
    const calendar =
      btc === null || !withCalendar
        ? null
        : await part(
            'calendar',
            async () => (calendarPython() === null ? missingCalendar : null),
            () =>
              startCalendar({
                dir: join(dir, 'calendar'),
                port: ports.calendar ?? 0,
                bitcoind: btc,
                anchorEveryMs: mineEveryMs,
              }),
          )
    return {
      btc,
      evm,
      tsa,
      calendar,
      absent,
      async fund({ btcAddress, evmAddress }) {
        if (evm !== null && evmAddress !== undefined) await evm.setBalance(evmAddress, FUNDS.wei)
        if (btc === null || btcAddress === undefined) return { btcTxid: null }
        return { btcTxid: await btc.fundAddress(btcAddress, FUNDS.sats) }
      },
      stop,
    }
  } catch (error) {
    await stop()
    throw error
  }
}

/** Null once there is a bitcoind, fetched if need be; else the line that says why there is none. */
async function bitcoindAbsence(say: (line: string) => void): Promise<string | null> {
  if (bitcoindBinary() === null) say('fetching bitcoind (once, about 30 MB) …')
  return fetchBitcoind().then(
    () => null,
    (error: Error) => `no Bitcoin chain, rail BTC is off: ${error.message}`,
  )
}

/** A node that makes a block each `everyMs`, to an address that is not its own, until it is stopped. */
async function mining(node: Bitcoind, everyMs: number): Promise<Bitcoind> {
  try {
    // Its first block ends the initial download, and its wallet can pay from now on.
    await node.fundAddress(ELSEWHERE, 10_000)
  } catch (error) {
    await node.stop()
    throw error
  }
  let busy: Promise<unknown> | null = null
  const timer = setInterval(() => {
    // A node that is paused or slow gets one request, not one a second. What fails is tried again.
    busy ??= node
      .mine(1, ELSEWHERE)
      .catch(() => undefined)
      .finally(() => (busy = null))
  }, everyMs)
  const ended = async (end: () => Promise<void>): Promise<void> => {
    clearInterval(timer)
    await end()
    await busy
  }
  return { ...node, stop: () => ended(node.stop), kill: () => ended(node.kill) }
}
