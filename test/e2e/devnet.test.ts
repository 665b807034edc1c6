import { spawn, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { mkdtemp, readdir, rm, stat } from 'node:fs/promises'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { VaultMeshError } from '#core/errors.ts'
import { ROOT } from '../../scripts/build.ts'
import { anvilBinary, missingAnvil, startAnvil } from '../../scripts/devnet/anvil.ts'
import { ELSEWHERE, startBitcoind, type Bitcoind } from '../../scripts/devnet/bitcoind.ts'
import { startDevnet } from '../../scripts/devnet/devnet.ts'
import { absent, bitcoindAbsence, type Output } from './devnet-support.ts'

let dir = ''
beforeAll(async () => {
  dir = await mkdtemp(join(tmpdir(), 'vm-devnet-'))
})
afterAll(() => rm(dir, { recursive: true, force: true }))

const DEV_ACCOUNT = '0xf39fd6e51aad88f6f4ce6ab8827279cfffb92266'
interface EvmBlock {
  readonly number: string
  readonly hash: string
}

describe.skipIf(absent(anvilBinary() === null ? missingAnvil : null))('anvil', () => {
  test('mines only when told, and keeps its chain over a restart', async () => {
    const stateFile = join(dir, 'anvil.json')
    const first = await startAnvil({ stateFile })
    const send = [{ from: DEV_ACCOUNT, to: DEV_ACCOUNT, value: '0x1' }]
    const hash = await first.rpc<string>('eth_sendTransaction', send)
    expect(await first.rpc('eth_getTransactionReceipt', [hash])).toBeNull()
    await first.mine(4)
    const block = await first.rpc<EvmBlock>('eth_getBlockByNumber', ['finalized', false])
    expect(block.number).toBe('0x2')
    await first.stop()
    const again = await startAnvil({ stateFile, port: first.port })
    try {
      expect(await again.rpc('eth_blockNumber')).toBe('0x4')
      expect(await again.rpc('eth_getTransactionReceipt', [hash])).toMatchObject({ status: '0x1' })
    } finally {
      await again.stop()
    }
  })

  test('drops a transaction in a reorg', async () => {
    const anvil = await startAnvil()
    try {
      const send = [{ from: DEV_ACCOUNT, to: DEV_ACCOUNT, value: '0x1' }]
      const hash = await anvil.rpc<string>('eth_sendTransaction', send)
      await anvil.mine(2)
      const before = await anvil.rpc<EvmBlock>('eth_getBlockByNumber', ['0x2', false])
      expect(await anvil.rpc('eth_getTransactionReceipt', [hash])).not.toBeNull()
      await anvil.rpc('anvil_reorg', [2, []])
      const after = await anvil.rpc<EvmBlock>('eth_getBlockByNumber', ['0x2', false])
      expect(after.hash).not.toBe(before.hash)
      expect(await anvil.rpc('eth_getTransactionReceipt', [hash])).toBeNull()
    } finally {
      await anvil.stop()
    }
  })

  test('answers nothing while it is paused, and goes on after', async () => {
    const anvil = await startAnvil()
    try {
      anvil.pause()
      const ask = (): Promise<Response> =>
        fetch(anvil.url, { method: 'POST', body: '{}', signal: AbortSignal.timeout(300) })
      await expect(ask()).rejects.toThrow(/timeout/)
      anvil.resume()
      expect(await anvil.rpc('eth_blockNumber')).toBe('0x0')
      anvil.pause()
    } finally {
      await anvil.stop()
    }
  })

  test('refuses a port in use, and says so in one line', async () => {
    const anvil = await startAnvil()
    try {
      const refused = startAnvil({ port: anvil.port })
      await expect(refused).rejects.toThrow(`Port ${anvil.port} on 127.0.0.1 is in use.`)
      const wrong = startAnvil({ args: ['--no-such-option'] })
      await expect(wrong).rejects.toThrow(/^anvil ended at once: /)
    } finally {
      await anvil.stop()
    }
  })

  test('ends with its owner, even if the owner is killed', async () => {
    const script = `
      import { startAnvil } from './scripts/devnet/anvil.ts'
      const anvil = await startAnvil()
      console.log(anvil.pid)
      setInterval(() => {}, 1000)`
    const owner = spawn(process.execPath, ['--input-type=module-typescript', '-e', script], {
      cwd: ROOT,
    })
    const pid = await new Promise<number>((said) =>
      owner.stdout.once('data', (line: Buffer) => said(Number(line.toString()))),
    )
    expect(isRunning(pid)).toBe(true)
    owner.kill('SIGKILL')
    await expect.poll(() => isRunning(pid), { timeout: 10_000 }).toBe(false)
  })
})

describe.skipIf(absent(bitcoindAbsence))('bitcoind', () => {
  test('pays an address exactly, in a block whose time is not ahead of the clock', async () => {
    const node = await startBitcoind({ dir: join(dir, 'pays') })
    try {
      const txid = await node.fundAddress(ELSEWHERE, 123_456_789)
      const tx = await node.rpc<Output>('getrawtransaction', [txid, true])
      expect(tx.confirmations).toBe(1)
      const paid = tx.vout.find((output) => output.scriptPubKey.address === ELSEWHERE)
      expect(paid?.value).toBe(1.23456789)
      const { time } = await node.rpc<{ time: number }>('getblockheader', [tx.blockhash])
      expect(time).toBeLessThanOrEqual(Math.ceil(Date.now() / 1000))
    } finally {
      await node.stop()
    }
  })

  test('keeps chain and wallet over a restart, under a new password, none of them on disk', async () => {
    const folder = join(dir, 'restart')
    const first = await startBitcoind({ dir: folder })
    await first.fundAddress(ELSEWHERE, 1000)
    const tip = await first.rpc('getbestblockhash')
    await first.stop()
    const second = await startBitcoind({ dir: folder, rpcPort: first.port })
    try {
      expect(await second.rpc('getbestblockhash')).toBe(tip)
      await second.fundAddress(ELSEWHERE, 1000)
      expect(await second.rpc('getblockcount')).toBe(103)
      const [old, now] = [new URL(first.url).password, new URL(second.url).password]
      expect(now).not.toBe(old)
      const { status } = await fetch(first.url.replace(/\/\/.*@/, '//'), {
        method: 'POST',
        headers: { authorization: `Basic ${btoa(`devnet:${old}`)}` },
        body: '{}',
      })
      expect(status).toBe(401)
      const command = readFileSync(`/proc/${second.pid}/cmdline`, 'utf8')
      expect(command).toContain('-rpcport')
      expect(command).not.toContain(now)
      const files = await readdir(folder, { recursive: true })
      expect(files.some((file) => file.endsWith('.cookie'))).toBe(false)
      expect((await stat(join(folder, 'bitcoin.conf'))).mode & 0o777).toBe(0o600)
      expect(readFileSync(join(folder, 'bitcoin.conf'), 'utf8')).not.toContain(now)
    } finally {
      await second.stop()
    }
  })

  test('gives its own words and code when it refuses', async () => {
    const node = await startBitcoind({ dir: join(dir, 'refuses') })
    try {
      const refused = await node.rpc('getblockhash', [7]).catch((error: unknown) => error)
      expect(refused).toBeInstanceOf(VaultMeshError)
      expect(refused).toMatchObject({ code: 'anchor-failed', extra: { rpcCode: -8 } })
      const second = startBitcoind({ dir: join(dir, 'refuses') })
      await expect(second).rejects.toThrow(/^bitcoind ended at once: .*lock/)
    } finally {
      await node.stop()
    }
  })

  test('loses a transaction to a longer branch of a peer that spends its coin otherwise', async () => {
    const a = await startBitcoind({ dir: join(dir, 'a') })
    const b = await startBitcoind({ dir: join(dir, 'b'), p2pPort: 0 })
    try {
      await a.fundAddress(ELSEWHERE, 1000)
      await a.connect(b.p2pPort!)
      await sameTip(a, b)
      await a.disconnect()
      const [ours, theirs] = await conflicting(a)
      const lost = await a.rpc<string>('sendrawtransaction', [ours])
      const [stale] = await a.mine(1)
      expect(await confirmations(a, lost)).toBe(1)
      const won = await b.rpc<string>('sendrawtransaction', [theirs])
      await b.mine(3, ELSEWHERE)
      await a.connect(b.p2pPort!)
      await sameTip(a, b)
      expect(await confirmations(a, won)).toBe(3)
      expect(await confirmations(a, lost)).toBe(0)
      expect(await a.rpc('getrawmempool')).not.toContain(lost)
      expect(await a.rpc('getblockheader', [stale])).toMatchObject({ confirmations: -1 })
    } finally {
      await a.stop()
      await b.stop()
    }
  })
})

describe('the devnet', () => {
  test('starts what is here, mines by itself, funds, and goes on after a restart', async () => {
    const folder = join(dir, 'devnet')
    const options = { dir: folder, mineEveryMs: 100, withCalendar: true }
    const first = await startDevnet(options)
    const absences = first.absent.map(({ part, line }) => `${part}: ${line}`)
    if (absences.length > 0) console.warn(`absent: ${absences.join('; ')}`)
    let height = 0
    let balance: unknown
    try {
      const { btcTxid } = await first.fund({
        btcAddress: ELSEWHERE,
        evmAddress: `0x${'12'.repeat(20)}`,
      })
      if (first.btc !== null) {
        expect(await confirmations(first.btc, btcTxid!)).toBeGreaterThan(0)
        height = await first.btc.rpc<number>('getblockcount')
        await expect.poll(() => first.btc!.rpc('getblockcount')).toBeGreaterThan(height)
      }
      balance = await first.evm?.rpc('eth_getBalance', [`0x${'12'.repeat(20)}`, 'latest'])
      expect(balance).toBe(first.evm === null ? undefined : `0x${(10n ** 19n).toString(16)}`)
      if (first.calendar !== null) expect((await fetch(first.calendar.url)).status).toBe(200)
      if (first.tsa !== null) expect((await fetch(first.tsa.url)).status).toBe(405)
    } finally {
      await first.stop()
    }
    const second = await startDevnet({ ...options, without: new Set(['tsa']) })
    try {
      expect(second.tsa).toBeNull()
      expect(second.absent.some(({ part }) => part === 'tsa')).toBe(false)
      if (second.btc !== null) {
        expect(await second.btc.rpc('getblockcount')).toBeGreaterThan(height)
      }
      expect(await second.evm?.rpc('eth_getBalance', [`0x${'12'.repeat(20)}`, 'latest'])).toBe(
        balance,
      )
    } finally {
      await second.stop()
    }
  })

  test('names each part that is absent in one line, and runs without it', async () => {
    const script = `
      import { startDevnet } from './scripts/devnet/devnet.ts'
      const devnet = await startDevnet({ dir: process.argv[1], without: new Set(['evm']) })
      console.log(JSON.stringify([devnet.btc, devnet.evm, devnet.tsa, devnet.absent]))
      await devnet.stop()`
    const args = ['--input-type=module-typescript', '-e', script, join(dir, 'bare')]
    const env = { PATH: '/nonexistent', VAULTMESH_CACHE: join(dir, 'no-cache') }
    const { stdout, stderr } = spawnSync(process.execPath, args, {
      cwd: ROOT,
      env,
      encoding: 'utf8',
    })
    if (stdout === '') throw new Error(stderr)
    const [btc, evm, tsa, lines] = JSON.parse(stdout) as [null, null, null, { line: string }[]]
    expect([btc, evm, tsa]).toEqual([null, null, null])
    expect(lines).toMatchObject([{ part: 'btc' }, { part: 'tsa' }])
    for (const { line } of lines) expect(line).toMatch(/^[^\n]{20,300}$/)
  })

  test('leaves nothing running if a part cannot start', async () => {
    const blocker = createServer()
    await new Promise<void>((ready) => blocker.listen(0, '127.0.0.1', ready))
    const { port } = blocker.address() as AddressInfo
    const script = `
      import { startDevnet } from './scripts/devnet/devnet.ts'
      await startDevnet({ dir: process.argv[1], ports: { tsa: ${port} }, without: new Set(['btc']) }).then(
        () => process.exit(3),
        (error) => console.log(error.message),
      )`
    const args = ['--input-type=module-typescript', '-e', script, join(dir, 'blocked')]
    // It ends by itself only if no child keeps it.
    const child = spawn(process.execPath, args, { cwd: ROOT })
    const said = new Promise<string>((take) => {
      child.stdout.once('data', (chunk: Buffer) => take(chunk.toString()))
    })
    const code = await new Promise((ended) => child.once('close', ended))
    blocker.close()
    expect(code).toBe(0)
    expect(await said).toContain(String(port))
  })
})

/** Two signed transactions of `node`'s wallet that spend the same coin to different places. */
async function conflicting(node: Bitcoind): Promise<[string, string]> {
  const coins = await node.rpc<readonly { txid: string; vout: number; amount: number }[]>(
    'listunspent',
    [1],
    'devnet',
  )
  const { txid, vout, amount } = coins[0]!
  const spend = async (to: string): Promise<string> => {
    const outputs = [{ [to]: (amount - 0.001).toFixed(8) }]
    const raw = await node.rpc('createrawtransaction', [[{ txid, vout }], outputs])
    return (await node.rpc<{ hex: string }>('signrawtransactionwithwallet', [raw])).hex
  }
  return [await spend(await node.rpc('getnewaddress')), await spend(ELSEWHERE)]
}

/** The index still knows transactions of stale blocks, with no confirmation. */
async function confirmations(node: Bitcoind, txid: string): Promise<number> {
  return (await node.rpc<Output>('getrawtransaction', [txid, true])).confirmations ?? 0
}

async function sameTip(a: Bitcoind, b: Bitcoind): Promise<void> {
  const tips = () => Promise.all([a.rpc('getbestblockhash'), b.rpc('getbestblockhash')])
  await expect.poll(async () => new Set(await tips()).size, { timeout: 30_000 }).toBe(1)
}

/** False once it is gone or a zombie that nobody has waited for yet. */
function isRunning(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'))
  } catch {
    return false
  }
}
