/**
 * The commands by which an operator anchors and an auditor verifies, run as they are typed, against a node
 * that anchors in real chains: every exit code, and folders that somebody hostile could write to.
 */

import { spawn, spawnSync } from 'node:child_process'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import type { AnchorReceipt } from '#core/anchor-receipt.ts'
import { ROOT } from '../../scripts/build.ts'
import { anvilBinary, missingAnvil, startAnvil } from '../../scripts/devnet/anvil.ts'
import { missingBitcoind } from '../../scripts/devnet/bitcoind-binary.ts'
import { ELSEWHERE, startBitcoind } from '../../scripts/devnet/bitcoind.ts'
import { onPath } from '../../scripts/devnet/child.ts'
import { startNode } from '../../scripts/selfhost.ts'
import { startAnchoredNode, type AnchoredNode, type Posted } from '../support/anchored-node.ts'
import { absent, bitcoindAbsence } from './devnet-support.ts'
import { freePort } from './support.ts'

const isMissing = [
  absent(bitcoindAbsence === null ? null : missingBitcoind),
  absent(anvilBinary() === null ? missingAnvil : null),
  absent(onPath('openssl') === null ? 'openssl is not installed' : null),
].includes(true)

let it: AnchoredNode
/** Where commands are run: files land here as they would in an operator's folder. */
let cwd: string
let receiptsDir: string
let trust: string
let first: Posted
/** The root that the first `anchor all` anchored, and its receipts by chain. */
let root: string
const files: Record<string, string> = {}

/** Runs a script as it is typed; its own folder is the working directory. */
function typed(script: string, args: readonly string[], env: Record<string, string> = {}) {
  return program(resolve(ROOT, 'scripts', script), args, env)
}

/** Never waited for in place: the node it asks runs in this process. */
async function program(command: string, args: readonly string[], env: Record<string, string> = {}) {
  const clean = Object.entries(process.env).filter(([name]) => !/^(?:VITEST|NODE_)/.test(name))
  const child = spawn(command, args, {
    cwd,
    env: { ...Object.fromEntries(clean), VAULTMESH_HOME: it.node.home.path, ...env },
  })
  child.stdin.end()
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
  const code = await new Promise<number | null>((end) => child.once('close', end))
  return { code, stdout, stderr }
}

const vm = (...args: string[]) => typed('vaultmesh', args)
const verifyAnchor = (...args: string[]) => typed('verify-anchor.sh', args)

interface Anchored {
  readonly root: string
  readonly jobs: readonly {
    readonly id: number
    readonly chain: string
    readonly state: string
    readonly reason: string | null
    readonly receipt: AnchorReceipt | null
  }[]
}

beforeAll(async () => {
  if (isMissing) return
  // A day: roots are anchored when somebody asks.
  it = await startAnchoredNode({ intervalMs: 86_400_000 })
  cwd = join(it.dir, 'work')
  mkdirSync(cwd)
  receiptsDir = join(cwd, 'anchors', 'receipts')
  trust = it.node.home.trust
  first = await it.post()
}, 120_000)
afterAll(() => it?.stop())

describe.skipIf(isMissing)('vaultmesh anchor', () => {
  test('all anchors the newest root on every rail, waits until it is final, and leaves what verifies it', async () => {
    const ran = await vm('anchor', 'all')
    expect(ran).toMatchObject({ code: 0, stderr: '' })
    root = readFileSync(join(cwd, 'latest-root.txt'), 'utf8').trim()
    expect(root).toMatch(/^0x[0-9a-f]{64}$/)
    const lines = ran.stdout.trimEnd().split('\n')
    expect(lines[0]).toBe(`root ${root}`)
    expect(lines.slice(1).map((line) => line.split('  ')[0]!.trim())).toEqual([
      'BTC regtest',
      'EVM anvil',
      'TSA 127.0.0.1',
    ])
    for (const line of lines.slice(1)) expect(line).toMatch(/final: (?:0x)?[0-9a-f]{64}/)
    for (const name of readdirSync(receiptsDir))
      files[name.split('.')[1]!] = join(receiptsDir, name)
    expect(Object.keys(files).sort()).toEqual(['BTC', 'EVM', 'TSA'])
    const receipt = await it.receipt(first.eventHash)
    expect(receipt).toMatchObject({ status: 'final', root: `sha256:${root.slice(2)}` })
  })

  test('says the same again for a root that is anchored, and pays nothing', async () => {
    const before = await it.devnet.btc!.rpc<number>('getblockcount')
    const again = await vm('anchor', 'all', '--json')
    expect(again).toMatchObject({ code: 0, stderr: '' })
    const { root: same, jobs } = JSON.parse(again.stdout) as Anchored
    expect(same).toBe(root)
    for (const job of jobs) {
      expect(job.receipt).toEqual(JSON.parse(readFileSync(files[job.chain]!, 'utf8')))
      if (job.chain === 'BTC') expect(job.receipt!.blockNumber).toBeLessThanOrEqual(before)
    }
  })

  test('exits 3 with the job under way if it is told not to wait, and a later call sees it through', async () => {
    await it.post()
    const early = await vm('anchor', 'evm', '--wait', '0')
    expect(early.code).toBe(3)
    expect(early.stdout).toMatch(/^EVM anvil {2}(?:queued|signed|broadcast)/m)
    const late = await vm('anchor', 'evm', '--json')
    expect(late.code).toBe(0)
    const { root: newer } = JSON.parse(late.stdout) as Anchored
    expect(newer).not.toBe(root)
    expect(readFileSync(join(cwd, 'latest-root.txt'), 'utf8').trim()).toBe(newer)
    expect(existsSync(join(receiptsDir, `${newer}.EVM.anvil.json`))).toBe(true)
  })

  test('exits 1 while a job is held for want of money; once there is some, release sees it through', async () => {
    const { rpc, setBalance } = it.devnet.evm!
    const { txHash } = JSON.parse(readFileSync(files['EVM']!, 'utf8')) as AnchorReceipt
    const { from } = await rpc<{ from: string }>('eth_getTransactionByHash', [txHash])
    await setBalance(from, 0n)
    await it.post()
    const held = await vm('anchor', 'evm', '--json')
    expect(held.code).toBe(1)
    const [job] = (JSON.parse(held.stdout) as Anchored).jobs
    expect(job).toMatchObject({ state: 'held', reason: 'no_funds', receipt: null })
    const words = await vm('anchor', 'evm', '--wait', '0')
    expect(words).toMatchObject({ code: 1 })
    expect(words.stdout).toContain('held (no_funds)')
    await setBalance(from, 10n ** 19n)
    const released = await vm('anchor', 'release', String(job!.id))
    expect(released).toMatchObject({ code: 0, stdout: `job ${job!.id} is tried now\n` })
    const after = await vm('anchor', 'evm')
    expect(after).toMatchObject({ code: 0, stderr: '' })
  })

  test('refuses in one line what cannot be: 2 a wrong call, 1 no such rail, root or job, 4 no node', async () => {
    const wrong = [
      [],
      ['moon'],
      ['btc', 'evm'],
      ['btc', '--wait', 'soon'],
      ['release'],
      ['release', 'x'],
    ]
    for (const args of wrong) {
      const ran = await vm('anchor', ...args)
      expect({ args, ...ran }).toMatchObject({ code: 2, stdout: '' })
      expect(ran.stderr).toMatch(/^vaultmesh: [^\n]+\n {2}usage: vaultmesh anchor /)
    }
    expect(await vm('anchor', 'release', '999999')).toMatchObject({ code: 1, stdout: '' })
    const bare = await startNode({
      home: join(it.dir, 'bare'),
      port: await freePort(),
      vars: { RAILS: '' },
      cron: false,
    })
    try {
      const home = ['--home', bare.home.path]
      const none = await vm('anchor', 'btc', ...home)
      expect(none).toMatchObject({ code: 1, stdout: '' })
      expect(none.stderr).toContain('BTC is no rail of this node')
      expect((await vm('anchor', 'all', ...home)).stderr).toContain('it has no rail (RAILS)')
    } finally {
      await bare.stop()
    }
    const gone = await vm('anchor', 'all', '--home', join(it.dir, 'nowhere'))
    expect(gone).toMatchObject({ code: 4, stdout: '' })
    expect(gone.stderr).toMatch(/^vaultmesh: .*does not answer/)
  })
})

/** A folder of its own with one receipt of each chain, `change` applied to that of `chain`. */
function folderWith(
  name: string,
  chain?: string,
  change?: (receipt: AnchorReceipt) => unknown,
): string {
  const dir = join(it.dir, `r-${name}`)
  mkdirSync(dir, { recursive: true })
  for (const [own, path] of Object.entries(files)) {
    const copy = join(dir, path.split('/').at(-1)!)
    cpSync(path, copy)
    if (own !== chain || change === undefined) continue
    writeFileSync(copy, JSON.stringify(change(JSON.parse(readFileSync(copy, 'utf8')))))
  }
  return dir
}

/** The receipt with a hex or base64 field of its proof changed in the middle. */
function bent(field: string) {
  return (receipt: AnchorReceipt): unknown => {
    const text = receipt.proof[field] as string | readonly string[]
    const bend = (value: string): string => {
      const at = value.length >> 1
      return value.slice(0, at) + (value[at] === '1' ? '2' : '1') + value.slice(at + 1)
    }
    const value = typeof text === 'string' ? bend(text) : [bend(text[0]!), ...text.slice(1)]
    return { ...receipt, proof: { ...receipt.proof, [field]: value } }
  }
}

describe.skipIf(isMissing)('verify-anchor.sh', () => {
  test('exits 0 with one OK a chain, offline, for the chains asked and for all there are', async () => {
    const asked = await verifyAnchor('--root', root, '--evm', '--btc')
    expect(asked).toMatchObject({ code: 0, stderr: '' })
    const lines = asked.stdout.trimEnd().split('\n')
    expect(lines.map((line) => line.slice(0, 7))).toEqual(['OK  BTC', 'OK  EVM'])
    // Each says once what the network is worth, and who vouches.
    for (const line of lines) expect(line.match(/dev network/g)).toHaveLength(1)
    expect(lines[1]).toContain(`vouched for by ${it.node.trust.node_did}`)
    const all = await verifyAnchor('--root', root.toUpperCase().replace('0X', '0x'))
    expect(all.stdout.match(/^OK {2}(?:BTC|EVM|TSA) /gm)).toHaveLength(3)
    expect(all.code).toBe(0)
    const json = await verifyAnchor('--root', root, '--json')
    expect(JSON.parse(json.stdout)).toMatchObject({ root, exit: 0 })
  })

  test('makes the ritual line of the plan work', async () => {
    const line = `"${ROOT}/scripts/vaultmesh" anchor all && "${ROOT}/scripts/verify-anchor.sh" --root $(cat latest-root.txt) --evm --btc`
    const ran = await program('sh', ['-c', line])
    expect(ran).toMatchObject({ code: 0, stderr: '' })
    expect(ran.stdout.match(/^OK {2}(?:BTC|EVM) /gm)).toHaveLength(2)
  })

  test.each([
    ['BTC', 'rawTx'],
    ['BTC', 'header'],
    ['BTC', 'branch'],
    ['BTC', 'following'],
    ['EVM', 'rawTx'],
    ['EVM', 'header'],
    ['EVM', 'nodes'],
    ['EVM', 'witnesses'],
    ['TSA', 'token'],
    ['TSA', 'nonce'],
  ])(
    'exits 1 for a receipt of %s whose %s was changed, and says that the others hold',
    async (chain, field) => {
      const dir = folderWith(`${chain}-${field}`, chain, bent(field))
      const ran = await verifyAnchor('--root', root, '--receipts', dir)
      expect(ran.code).toBe(1)
      expect(ran.stdout).toMatch(new RegExp(`^REFUTED {2}${chain} `, 'm'))
      expect(ran.stdout.match(/^OK {2}/gm)).toHaveLength(2)
    },
  )

  test('exits 1 for claims that the proof does not make', async () => {
    for (const [i, more] of [
      { anchorTs: '2026-01-01T00:00:00.000Z' },
      { txHash: 'ab'.repeat(32), group: ['ab'.repeat(32)] },
      { blockNumber: null },
      { network: 'mainnet' },
      { extra: 1 },
    ].entries()) {
      const dir = folderWith(`claim-${i}`, 'BTC', (receipt) => ({ ...receipt, ...more }))
      const ran = await verifyAnchor('--root', root, '--btc', '--receipts', dir)
      expect({ more, ...ran }).toMatchObject({ code: 1 })
    }
  })

  test('exits 1 for a revoked receipt, and 0 again once a later one of the same root holds', async () => {
    const dir = folderWith('revoked')
    writeFileSync(join(dir, `${root}.BTC.regtest.revoked.json`), '{}')
    const revoked = await verifyAnchor('--root', root, '--btc', '--receipts', dir)
    expect(revoked).toMatchObject({ code: 1 })
    expect(revoked.stdout).toContain('REFUTED  BTC the receipt was revoked')
    cpSync(files['BTC']!, join(dir, `${root}.BTC.regtest.1.json`))
    const again = await verifyAnchor('--root', root, '--btc', '--receipts', dir)
    expect(again).toMatchObject({ code: 0 })
  })

  test('exits 2 for a wrong call', async () => {
    for (const args of [
      [],
      ['--root', 'abc'],
      ['--root', root.slice(2)],
      ['--root', root, '--ltc'],
      ['--root', root, 'more'],
      ['--root', root, '--trust', join(it.dir, 'nowhere.json')],
      ['--root', root, '--receipts', files['BTC']!],
    ]) {
      const ran = await verifyAnchor(...args)
      expect({ args, ...ran }).toMatchObject({ code: 2, stdout: '' })
      expect(ran.stderr).toMatch(/^vaultmesh: [^\n]+\n/)
    }
  })

  test('exits 3 where there is no receipt yet', async () => {
    const unknown = await verifyAnchor('--root', `0x${'00'.repeat(32)}`, '--btc')
    expect(unknown).toMatchObject({ code: 3 })
    expect(unknown.stdout).toMatch(/^PENDING {2}BTC no receipt in /)
    const none = await verifyAnchor('--root', root, '--receipts', join(it.dir, 'nowhere'))
    expect(none).toMatchObject({ code: 3 })
    const dir = folderWith('no-evm')
    rmSync(join(dir, `${root}.EVM.anvil.json`))
    const part = await verifyAnchor('--root', root, '--btc', '--evm', '--receipts', dir)
    expect(part.code).toBe(3)
    expect(part.stdout.match(/^(?:OK|PENDING) {2}/gm)).toEqual(['OK  ', 'PENDING  '])
  })

  test('exits 4 if a chain cannot be asked, and refuses a broken proof without asking', async () => {
    const dead = await freePort()
    const env = {
      BTC_URLS: `core+http://u:secret-word@127.0.0.1:${dead}`,
      EVM_URLS: `http://u:secret-word@127.0.0.1:${dead}`,
    }
    const online = (more: string[], vars: Record<string, string> = env) =>
      typed('verify-anchor.sh', ['--root', root, '--btc', '--evm', '--online', ...more], vars)
    const down = await online([])
    expect(down.code).toBe(4)
    expect(
      down.stdout.match(
        /^UNREACHABLE {2}(?:BTC|EVM) [^\n]*127\.0\.0\.1:\d+ could not be reached/gm,
      ),
    ).toHaveLength(2)
    expect(down.stdout + down.stderr).not.toContain('secret-word')
    const unset = await online([], {})
    expect(unset).toMatchObject({ code: 4 })
    expect(unset.stdout).toContain('whom to ask is not set: BTC_URLS')
    const broken = await online(['--receipts', folderWith('offline-first', 'BTC', bent('rawTx'))])
    expect(broken.code).toBe(1)
    expect(broken.stdout).toMatch(/^REFUTED {2}BTC /m)
    const wrong = await online([], { ...env, BTC_URLS: 'bitcoin://u:secret-word@host' })
    expect(wrong.code).not.toBe(0)
    expect(wrong.stdout + wrong.stderr).not.toContain('secret-word')
  })

  test('asks the chains with --online: 0 if they have the blocks, 1 if they have others, 4 if they are behind', async () => {
    const { btc, evm } = it.devnet
    const args = ['--root', root, '--btc', '--evm', '--online']
    const good = await typed('verify-anchor.sh', args, {
      BTC_URLS: `core+${btc!.url}`,
      EVM_URLS: evm!.url,
    })
    expect(good).toMatchObject({ code: 0, stderr: '' })
    expect(good.stdout).toMatch(
      /OK {2}BTC .* 127\.0\.0\.1:\d+ has the block, \d+ confirmations\.$/m,
    )
    expect(good.stdout).toMatch(
      /OK {2}EVM .* vouched for by the chain as you asked it\..* finalized\.$/m,
    )
    // A header holds no height: offline nobody can tell, the chain can.
    const moved = folderWith('moved', 'BTC', (receipt) => ({ ...receipt, blockNumber: 1 }))
    const misplaced = await typed('verify-anchor.sh', [...args, '--receipts', moved], {
      BTC_URLS: `core+${btc!.url}`,
      EVM_URLS: evm!.url,
    })
    expect(misplaced.code).toBe(1)
    expect(misplaced.stdout).toMatch(/^REFUTED {2}BTC .* has another block 1: /m)
    const otherBtc = await startBitcoind({ dir: join(it.dir, 'other') })
    const otherEvm = await startAnvil()
    try {
      const env = { BTC_URLS: `core+${otherBtc.url}`, EVM_URLS: otherEvm.url }
      const behind = await typed('verify-anchor.sh', args, env)
      expect({ behind }).toMatchObject({ behind: { code: 4 } })
      expect(behind.stdout.match(/has no block \d+ yet/g)).toHaveLength(2)
      const { blockNumber } = JSON.parse(readFileSync(files['BTC']!, 'utf8')) as AnchorReceipt
      await otherBtc.mine(blockNumber! + 10, ELSEWHERE)
      await otherEvm.mine(200)
      const other = await typed('verify-anchor.sh', args, env)
      expect(other.code).toBe(1)
      expect(other.stdout.match(/^REFUTED .* has another block/gm)).toHaveLength(2)
    } finally {
      await otherEvm.stop()
      await otherBtc.stop()
    }
  }, 120_000)

  test('exits 5 where nobody who is trusted vouches, and for dev chains without the trust of a dev log', async () => {
    const nothing = { VAULTMESH_HOME: join(it.dir, 'nowhere') }
    const args = ['--root', root, '--receipts', receiptsDir]
    const none = await typed('verify-anchor.sh', args, nothing)
    expect(none.code).toBe(5)
    expect(none.stdout.match(/^UNTRUSTED {2}/gm)).toHaveLength(3)
    expect(none.stdout).toContain(
      'UNTRUSTED  BTC regtest: a dev network, and no trust file of yours',
    )
    const real = join(it.dir, 'production.json')
    const said = JSON.parse(readFileSync(trust, 'utf8')) as object
    writeFileSync(real, JSON.stringify({ ...said, network: 'production' }))
    const production = await typed('verify-anchor.sh', [...args, '--trust', real], nothing)
    expect(production.code).toBe(5)
    expect(production.stdout.match(/^UNTRUSTED {2}(?:BTC|EVM) /gm)).toHaveLength(2)
    expect(production.stdout).toMatch(/^OK {2}TSA /m)
    const own = await typed('verify-anchor.sh', [...args, '--trust', trust], nothing)
    expect(own.code).toBe(0)
  })

  test('is not led astray by what else lies in the folder, nor kept waiting', async () => {
    const huge = `{${' '.repeat(2_000_000)}}`
    const other = readFileSync(files['BTC']!, 'utf8').replaceAll(root, `0x${'00'.repeat(32)}`)
    const plant: Readonly<Record<string, (path: string) => void>> = {
      huge: (path) => writeFileSync(path, huge),
      'not JSON': (path) => writeFileSync(path, 'secret-content'),
      'no UTF-8': (path) => writeFileSync(path, new Uint8Array([0xff, 0xfe])),
      'a key twice': (path) => writeFileSync(path, other.replace('{', '{"root":"","root":"",')),
      deep: (path) => writeFileSync(path, '['.repeat(100_000)),
      'another root': (path) => writeFileSync(path, other),
      'another chain': (path) => cpSync(files['TSA']!, path),
      'an event’s receipt': (path) => writeFileSync(path, '{"v":1,"anchors":[]}'),
      'a folder': (path) => mkdirSync(path),
      'a device': (path) => symlinkSync('/dev/zero', path),
      'a pipe': (path) => spawnSync('mkfifo', [path]),
      'a dangling link': (path) => symlinkSync('/nowhere/at/all', path),
      'a loop': (path) => symlinkSync(path, path),
    }
    for (const [name, make] of Object.entries(plant)) {
      const dir = folderWith(name.replaceAll(' ', '-'))
      // Before and after the good one by name: both orders are met.
      make(join(dir, `${root}.BTC.aaa.json`))
      make(join(dir, `${root}.BTC.zzz.json`))
      const beside = await verifyAnchor('--root', root, '--btc', '--receipts', dir)
      expect({ name, ...beside }).toMatchObject({ code: 0, stderr: '' })
      rmSync(join(dir, `${root}.BTC.regtest.json`))
      const alone = await verifyAnchor('--root', root, '--btc', '--receipts', dir)
      expect({ name, ...alone }).toMatchObject({ code: 1, stderr: '' })
      expect(alone.stdout).toMatch(/^REFUTED {2}BTC [^\n]+\n$/)
      expect(alone.stdout.length).toBeLessThan(500)
      expect(alone.stdout).not.toContain('secret-content')
    }
    // A link to a good receipt is that receipt.
    const dir = folderWith('link')
    rmSync(join(dir, `${root}.BTC.regtest.json`))
    symlinkSync(files['BTC']!, join(dir, `${root}.BTC.regtest.json`))
    expect(await verifyAnchor('--root', root, '--btc', '--receipts', dir)).toMatchObject({
      code: 0,
    })
  }, 120_000)
})

describe.skipIf(isMissing)('vaultmesh verify', () => {
  const receiptFile = () => join(cwd, 'first.receipt.json')
  const eventFile = () => join(cwd, 'first.jws')

  test('checks three anchors and says in one sentence what they are worth', async () => {
    writeFileSync(receiptFile(), JSON.stringify(await it.receipt(first.eventHash)))
    writeFileSync(eventFile(), first.jws)
    const ran = await vm('verify', receiptFile(), eventFile(), '--require', 'final')
    expect(ran).toMatchObject({ code: 0, stderr: '' })
    const lines = ran.stdout.trimEnd().split('\n')
    for (const name of ['BTC regtest', 'EVM anvil', 'TSA 127.0.0.1']) {
      expect(lines.filter((line) => line.startsWith(`✓ anchor ${name}:`))).toHaveLength(1)
      expect(lines.find((line) => line.includes(name))).toContain(', a dev network (')
    }
    const sentence = lines.at(-1)!
    expect(sentence).toMatch(
      /^VERIFIED The event is leaf 0 of the log anchored\.test\/log and stood there before /,
    )
    for (const words of [
      'Bitcoin regtest is a dev network: anybody can mine its blocks.',
      'of anvil, a dev network, is vouched for by did:key:',
      'Only the holder of a certificate under TSA root',
    ]) {
      expect(sentence.split(words)).toHaveLength(2)
    }
    // A token's time: what a dev chain says of time is anybody's word.
    const { anchorTs, proof } = JSON.parse(readFileSync(files['TSA']!, 'utf8')) as AnchorReceipt
    const before = Date.parse(anchorTs) + Number(proof['accuracyMs'])
    expect(sentence).toContain(
      `before ${new Date(before).toISOString()}, clock error included, on dev networks alone`,
    )
    const chains = join(cwd, 'chains.receipt.json')
    const receipt = await it.receipt(first.eventHash)
    const anchors = receipt.anchors.filter(({ chain }) => chain !== 'TSA')
    writeFileSync(chains, JSON.stringify({ ...receipt, anchors }))
    const dev = await vm('verify', chains)
    expect(dev.stdout).toContain('on dev networks alone, which prove nothing to others.')
  })

  test('exits 5 if nothing is trusted, if only the log is, and if dev chains are all there is for a log in production', async () => {
    const nothing = { VAULTMESH_HOME: join(it.dir, 'nowhere') }
    const run = (...args: string[]) =>
      typed('vaultmesh', ['verify', receiptFile(), eventFile(), ...args], nothing)
    const none = await run()
    expect(none).toMatchObject({ code: 5 })
    expect(none.stdout).toMatch(
      /^UNTRUSTED You have named no key for the log anchored\.test\/log\./m,
    )
    const [vkey] = it.node.trust.vkeys
    const log = await run('--vkey', vkey!, '--rail', 'EVM', '--rail', 'TSA', '--require', 'final')
    expect(log).toMatchObject({ code: 5 })
    expect(log.stdout).toContain('you have named no timestamp root and no node')
    const real = join(it.dir, 'production.json')
    const final = await run('--trust', real, '--require', 'final')
    expect(final).toMatchObject({ code: 5 })
    expect(final.stdout).toContain('On BTC, EVM it is anchored on a dev network alone')
    const anchored = await run('--trust', real, '--require', 'anchored')
    expect(anchored).toMatchObject({ code: 0 })
    expect(await run('--trust', trust, '--require', 'final')).toMatchObject({ code: 0 })
  })
})

describe.skipIf(isMissing)('vaultmesh receipts export', () => {
  const out = () => join(it.dir, 'exported')
  const run = (url = it.url, dir = out()) =>
    vm('receipts', 'export', '--url', url, '--dir', dir, '--json')
  const written = (ran: { stdout: string }) => (JSON.parse(ran.stdout) as { files: string[] }).files
  const content = () =>
    readdirSync(out())
      .toSorted()
      .map((name) => [name, statSync(join(out(), name)).mtimeMs] as const)

  test('writes every receipt and the .ots beside it once, and nothing the second time', async () => {
    const ran = await run()
    expect(ran).toMatchObject({ code: 0, stderr: '' })
    expect(written(ran)).toContain(`${root}.BTC.regtest.json`)
    expect(written(ran)).toContain(`${root}.BTC.regtest.ots`)
    for (const path of Object.values(files)) {
      const name = path.split('/').at(-1)!
      expect(readFileSync(join(out(), name), 'utf8')).toBe(readFileSync(path, 'utf8'))
    }
    const before = content()
    expect(written(await run())).toEqual([])
    expect(content()).toEqual(before)
    const words = await vm('receipts', 'export', '--url', it.url, '--dir', out())
    expect(words.stdout).toBe('nothing new\n')
  })

  test('goes on after a crash at any file, whoever’s cursor is there, and never changes a file', async () => {
    const all = content().map(([name]) => name)
    for (const cursor of [null, '', '999999 of another node\n', '1 of another node\n', 'garbage']) {
      rmSync(join(out(), '.cursor'))
      if (cursor !== null) writeFileSync(join(out(), '.cursor'), cursor)
      rmSync(join(out(), `${root}.TSA.127.0.0.1.json`))
      rmSync(join(out(), `${root}.BTC.regtest.ots`))
      writeFileSync(join(out(), `${root}.EVM.anvil.json`), 'mine')
      expect(written(await run()).toSorted()).toEqual([
        `${root}.BTC.regtest.ots`,
        `${root}.TSA.127.0.0.1.json`,
      ])
      expect(content().map(([name]) => name)).toEqual(all)
      expect(readFileSync(join(out(), `${root}.EVM.anvil.json`), 'utf8')).toBe('mine')
    }
  })

  test('takes no path, loop or page of nonsense from a node', async () => {
    const good = { id: 1, method: 'tx', revision: 0, revoked: null }
    const receipt = JSON.parse(readFileSync(files['BTC']!, 'utf8')) as AnchorReceipt
    const pages: readonly unknown[] = [
      { receipts: [{ ...good, receipt: { ...receipt, root: '../../../escaped' } }], next: null },
      { receipts: [{ ...good, receipt: { ...receipt, chain: '../escaped' } }], next: null },
      { receipts: [{ ...good, method: '../escaped', receipt }], next: null },
      { receipts: [{ ...good, revision: '/../escaped', receipt }], next: null },
      { receipts: [], next: 0 },
      { receipts: [{ ...good, receipt: {} }], next: null },
      { receipts: [{ ...good, receipt: { ...receipt, network: '../../x' } }], next: null },
      { receipts: {}, next: null },
      [],
    ]
    let page: unknown
    const server = createServer((_, response) => response.end(JSON.stringify(page)))
    await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready))
    const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    const dir = join(it.dir, 'from-liar')
    try {
      for (page of pages) {
        const ran = await vm('receipts', 'export', '--url', url, '--dir', dir)
        expect({ page, ...ran }).toMatchObject({ code: 1, stdout: '' })
        expect(ran.stderr).toMatch(/^vaultmesh: The node/)
        expect(readdirSync(dir)).toEqual([])
      }
    } finally {
      server.close()
    }
    expect(readdirSync(it.dir).filter((name) => name.includes('escaped'))).toEqual([])
  })

  test('brings the revocation of a receipt that was copied long ago', async () => {
    const db = await it.node.host.miniflare.getD1Database('DB')
    const bare = root.slice(2)
    const row = await db
      .prepare("SELECT id FROM receipts WHERE root = ? AND chain = 'BTC'")
      .bind(bare)
      .first<{ id: number }>()
    // A busy day: hundreds of receipts stand between it and the cursor.
    await db
      .prepare(
        `WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 250)
         INSERT INTO receipts (root, tree_size, chain, network, method, tx_hash, anchor_at, json, revision)
         SELECT printf('%064x', i), 1000 + i, 'TSA', 'x', method, tx_hash, anchor_at,
           json_set(json, '$.root', '0x' || printf('%064x', i), '$.network', 'x'), 0
         FROM n JOIN receipts r ON r.root = ? AND r.chain = 'TSA'`,
      )
      .bind(bare)
      .run()
    const many = await run()
    expect(written(many)).toHaveLength(250)
    await db
      .prepare('INSERT INTO revocations (receipt_id, json, at) VALUES (?, \'{"v":1}\', 0)')
      .bind(row!.id)
      .run()
    expect(written(await run())).toEqual([`${root}.BTC.regtest.revoked.json`])
    expect(written(await run())).toEqual([])
    const ran = await verifyAnchor('--root', root, '--btc', '--receipts', out())
    expect(ran).toMatchObject({ code: 1 })
  })
})
