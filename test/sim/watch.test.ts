/**
 * The watchers over real storage: what each alert needs to open, what it points to, that it clears by itself, and
 * that a watcher which cannot look says so instead of finding all well.
 */

import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { toHex } from '../../functions/core/bytes.ts'
import { deriveIdentity, signJws, type IdentityKey } from '../../functions/core/node-keys.ts'
import {
  EXPIRY_AHEAD_MS,
  PEER_DOWN_MS,
  SEAL_WINDOW_MS,
  WALLET_LOW,
} from '../../functions/core/watch.ts'
import { openAlerts } from '../../functions/store/alerts.ts'
import { tsaExpiries, walletReadings } from '../../functions/store/watch.ts'
import { bitcoinAccount, signBitcoin } from '../../queues/anchors/bitcoin-wallet.ts'
import { reply, type Authority } from '../../scripts/devnet/tsa-authority.ts'
import { authorities } from '../support/tsa.ts'
import { onDeadLetters } from '../../queues/dead-letter.ts'
import { Platform, seeded, type Plan } from './platform.ts'

const MINUTE = 60_000
const GENESIS = '0f9188f13cb7b2c71f2a335e3a4fc328bf5beb436012afca590b1a11466e2206'
const BTC_KEY = '11'.repeat(32)
const EVM_KEY = `0x${'22'.repeat(32)}`

let made: Awaited<ReturnType<typeof authorities>>
let authority: Authority
let signer: IdentityKey
let platform: Platform
/** What JSON-RPC answers by host and method; an Error is a node that is away. */
let rpc: (host: string, method: string) => unknown = () => null
let asked: string[] = []
let isTsaDown = false
let posted = 0
const started = Date.now()

beforeAll(async () => {
  made = await authorities()
  authority = await made.make('ec')
  vi.useFakeTimers({ toFake: ['Date'] })
  Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  for (const level of ['log', 'warn', 'error'] as const)
    vi.spyOn(console, level).mockImplementation(() => undefined)
  signer = await deriveIdentity(new Uint8Array(32).fill(6), 1)
  vi.stubGlobal('fetch', async (url: string, init: RequestInit) => {
    const { host } = new URL(url)
    if (host === 'tsa.example' && !isTsaDown) {
      const token = await reply(authority, new Uint8Array(init.body as ArrayBuffer))
      return new Response(new Uint8Array(token), {
        headers: { 'content-type': 'application/timestamp-reply' },
      })
    }
    if (!/^(?:btc|evm)\.example$/.test(host)) throw new Error('connection refused')
    const call = JSON.parse(init.body as string) as { id: number | string; method: string }
    asked.push(`${host} ${call.method}`)
    const result = rpc(host, call.method)
    if (result instanceof Error) throw result
    return Response.json({ jsonrpc: '2.0', id: call.id, result, error: null })
  })
})

afterAll(async () => {
  vi.useRealTimers()
  vi.unstubAllGlobals()
  vi.restoreAllMocks()
  await made.remove()
})

beforeEach(() => {
  asked = []
  isTsaDown = false
  build()
})

function build(vars: Readonly<Record<string, string>> = {}): void {
  vi.setSystemTime(started)
  platform = new Platform({
    NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
    ORIGIN: 'sim.example/log',
    NODE_ID: 'sim',
    NETWORK: 'dev',
    INTAKE_SHARDS: '2',
    INTAKE_BACKLOG_MAX: '100000',
    SEAL_BATCH_MAX_INTERVAL_MS: '1000',
    SEAL_PROMISE_SLACK_MS: '600000',
    ...vars,
  })
}

const withTsa = () =>
  build({
    RAILS: 'TSA',
    TSA_URLS: 'http://tsa.example/tsr',
    TSA_ROOTS: authority.rootPem,
    ANCHOR_TSA_INTERVAL_MS: '1000',
  })

async function pass(ms = MINUTE, plan: Plan | null = null): Promise<void> {
  platform.plan = plan
  vi.setSystemTime(Date.now() + ms)
  await platform.tick(Date.now())
  await platform.deliver(seeded(1))
  await platform.settle()
  platform.plan = null
}

async function post(): Promise<void> {
  const body = await signJws(signer, 'vm-event+jws', {
    specversion: '1.0',
    id: `${posted++}`,
    source: signer.did,
    type: 'sim.event',
    time: new Date(started).toISOString(),
  })
  const headers = { 'content-type': 'application/jose' }
  const answer = await platform.fetch('/events', { method: 'POST', body, headers })
  expect(answer.status).toBe(202)
}

/** Open alerts as `kind key link`. */
async function open(): Promise<string[]> {
  const alerts = await openAlerts(platform.env.DB, 'sim.example/log')
  return alerts.map(({ kind, key, link }) => `${kind} ${key} ${link}`).sort()
}

async function detailOf(kind: string): Promise<string> {
  const alerts = await openAlerts(platform.env.DB, 'sim.example/log')
  return alerts.find((alert) => alert.kind === kind)!.detail
}

/** R2 takes no tile: no batch can be sealed. */
const noSeal: Plan = (name) => (name.startsWith('r2.put') ? 'fail' : null)

test('a node without events, peers, rails or wallets has nothing to say', async () => {
  for (let i = 0; i < 3; i++) await pass()
  expect(await open()).toEqual([])
})

test('events that no seal takes are stale, then promises broken, and all of it clears with the seal that comes', async () => {
  await post()
  await pass(2000)
  await post()
  await post()
  await pass(30_000, noSeal)
  expect(await open()).not.toContain('checkpoint_stale sim.example/log /batches/1')
  await pass(MINUTE, noSeal)
  // What waits has no batch yet: the link is the newest one that there is.
  expect(await open()).toContain('checkpoint_stale sim.example/log /batches/1')
  expect(await detailOf('checkpoint_stale')).toMatch(/^2 events wait .*; the interval is 1 s\.$/)
  expect((await open()).some((alert) => alert.startsWith('promise_broken'))).toBe(false)
  for (let i = 0; i < 10; i++) await pass(MINUTE, noSeal)
  expect(await open()).toContain('promise_broken sim.example/log /batches/1')
  expect(await detailOf('promise_broken')).toMatch(/^2 of 2 events that wait are past/)
  expect(await open()).toContain('dead_letter sealer-dlq /batches/1')
  await post()
  await pass(MINUTE, noSeal)
  // One that came later is not past its promise.
  expect(await detailOf('promise_broken')).toMatch(/^2 of 3 events/)
  await pass()
  await pass()
  const left = await open()
  expect(left.filter((alert) => /^(?:checkpoint_stale|promise_broken)/.test(alert))).toEqual([])
})

test('a seal that was given up after another one did its work leaves nothing open in a quiet log', async () => {
  await post()
  for (let i = 0; i < 3; i++) await pass(2000)
  const messages = [{ body: { at: 1 } }]
  const batch = { queue: 'sealer-dlq', messages } as unknown as MessageBatch
  await onDeadLetters(batch, platform.env, { waitUntil: () => undefined })
  expect(await open()).toEqual([])
  await post()
  await onDeadLetters(batch, platform.env, { waitUntil: () => undefined })
  expect(await open()).toEqual(['dead_letter sealer-dlq /batches/1'])
  for (let i = 0; i < 3; i++) await pass(2000)
  expect(await open()).toEqual([])
})

test('three seals that fail within an hour are an alert while they are more than 2 %, and it ends with the hour', async () => {
  await post()
  await pass(2000)
  await post()
  let failed = 0
  // The first two failures are an accident.
  const once: Plan = (name) => (name.startsWith('r2.put log') && failed++ < 2 ? 'fail' : null)
  await pass(2000, once)
  await pass()
  expect(failed).toBeGreaterThanOrEqual(2)
  expect(await open()).toEqual([])
  await post()
  await pass(2000, noSeal)
  for (let i = 0; i < 2; i++) await pass()
  expect(await open()).toEqual(['seal_retries sim.example/log /batches/3'])
  expect(await detailOf('seal_retries')).toMatch(
    /^\d+ of \d+ attempts to seal failed within an hour\.$/,
  )
  for (let i = 0; i < SEAL_WINDOW_MS / MINUTE; i++) await pass()
  expect(await open()).toEqual([])
})

test('a stored receipt that does not verify any more is named with its batch until it does', async () => {
  withTsa()
  await post()
  for (let i = 0; i < 3; i++) await pass(2000)
  expect(await open()).toEqual([])
  const failed = async () => (await open()).filter((alert) => alert.startsWith('receipt_failed'))
  const { DB } = platform.env
  const row = await DB.prepare('SELECT id, json FROM receipts').first<{
    id: number
    json: string
  }>()
  const tamper = (json: string) =>
    DB.prepare('UPDATE receipts SET json = ? WHERE id = ?').bind(json, row!.id).run()
  for (const json of [row!.json.replace(/"anchorTs":"20/, '"anchorTs":"19'), '{']) {
    await tamper(json)
    // The next round begins within the hour; what failed is looked at each minute.
    await pass(60 * MINUTE)
    expect(await failed()).toEqual([`receipt_failed stored/${row!.id} /batches/1`])
    await pass()
    expect(await failed()).toEqual([`receipt_failed stored/${row!.id} /batches/1`])
    await tamper(row!.json)
    await pass()
    expect(await failed()).toEqual([])
  }
})

test('a watcher that was due in a time to come looks now: the clock was set back', async () => {
  withTsa()
  await post()
  for (let j = 0; j < 3; j++) await pass(2000)
  await pass()
  const { DB } = platform.env
  await DB.prepare(`UPDATE watch_state SET due_at = due_at + 365 * 86400000`).run()
  await DB.prepare(`UPDATE receipts SET json = '{'`).run()
  await pass()
  await pass()
  expect((await open()).map((alert) => alert.split(' ')[0])).toContain('receipt_failed')
})

test('every stored receipt has its turn, and one that failed is looked at each minute until it holds', async () => {
  withTsa()
  for (let i = 0; i < 12; i++) {
    await post()
    for (let j = 0; j < 3; j++) await pass(2000)
  }
  const { DB } = platform.env
  await DB.prepare(
    `UPDATE watch_state SET value = '{"after":0}', due_at = 0 WHERE name = 'receipts'`,
  ).run()
  const { results } = await DB.prepare('SELECT id, json FROM receipts ORDER BY id').all<{
    id: number
    json: string
  }>()
  expect(results.length).toBe(12)
  await DB.prepare(`UPDATE receipts SET json = '{' WHERE id IN (2, 12)`).run()
  const seen: string[][] = []
  for (let i = 0; i < 6; i++) {
    await pass()
    seen.push((await open()).map((alert) => alert.split(' ')[1]!))
  }
  expect(seen.slice(0, 3)).toEqual([['stored/2'], ['stored/2'], ['stored/12', 'stored/2']])
  await DB.prepare('UPDATE receipts SET json = ? WHERE id = 2').bind(results[1]!.json).run()
  await pass()
  expect((await open()).map((alert) => alert.split(' ')[1])).toEqual(['stored/12'])
}, 60_000)

test('of many stored receipts that fail none is cleared while it fails, and what is fewer clears', async () => {
  withTsa()
  await post()
  for (let j = 0; j < 3; j++) await pass(2000)
  const { DB } = platform.env
  await DB.prepare(
    `INSERT INTO receipts (root, tree_size, chain, network, method, tx_hash, anchor_at, json)
     SELECT r.root, r.tree_size, r.chain, 'copy' || value, r.method, r.tx_hash || value, r.anchor_at, '{'
     FROM receipts r, json_each(?)`,
  )
    .bind(JSON.stringify(Array.from({ length: 30 }, (_, i) => i)))
    .run()
  await DB.prepare(
    `UPDATE watch_state SET value = '{"after":0}', due_at = 0 WHERE name = 'receipts'`,
  ).run()
  for (let i = 0; i < 8; i++) await pass()
  expect((await open()).length).toBe(30)
  await pass()
  expect((await open()).length).toBe(30)
  await DB.prepare(`DELETE FROM receipts WHERE network LIKE 'copy%'`).run()
  await pass()
  expect(await open()).toEqual([])
}, 60_000)

test('a certificate of an authority is announced thirty days before it ends, at its newest batch', async () => {
  withTsa()
  await post()
  for (let i = 0; i < 3; i++) await pass(2000)
  const [expiry] = await tsaExpiries(platform.env.DB)
  expect(expiry).toMatchObject({ authority: 'tsa.example', treeSize: 1 })
  const at = expiry!.expiresAt - EXPIRY_AHEAD_MS
  await pass(at - Date.now() - 1000)
  expect((await open()).filter((alert) => alert.startsWith('tsa'))).toEqual([])
  await pass(1000)
  expect(await open()).toContain('tsa_chain_expiring TSA/tsa.example /batches/1')
  expect(await detailOf('tsa_chain_expiring')).toContain('in 30 days')
})

test('a peer that is not heard for ten minutes is down, and forgotten with the configuration', async () => {
  const other = await deriveIdentity(new Uint8Array(32).fill(7), 1)
  const yaml = `gossip: { interval_ms: 1500 }\npeers_allowlist: [{ did: '${other.did}', url: 'https://peer.example' }]\n`
  await platform.env.FEDERATION.getByName('node').apply(yaml)
  await pass()
  await pass(PEER_DOWN_MS)
  expect(await open()).toEqual([])
  await pass(1)
  expect(await open()).toEqual([`peer_down ${other.did} /federation/peers`])
  expect(await detailOf('peer_down')).toMatch(/was never heard .*the limit is 10 minutes/)
  await platform.env.FEDERATION.getByName('node').apply(null)
  await pass()
  expect(await open()).toEqual([])
})

test('a watcher that cannot look opens watch_blind, leaves its alerts as they are, and its success clears it', async () => {
  const broken: Plan = (name, n) => noSeal(name, n)
  await post()
  await pass(2000)
  await post()
  await pass(90_000, broken)
  await pass(MINUTE, broken)
  const before = (await open()).filter((alert) => !alert.startsWith('dead_letter'))
  expect(before).toContain('checkpoint_stale sim.example/log /batches/1')
  await pass(MINUTE, (name, n) => (name === 'rpc SEQUENCER.watch' ? 'fail' : broken(name, n)))
  const blind = (await open()).filter((alert) => !alert.startsWith('dead_letter'))
  expect(blind).toEqual([...before, 'watch_blind seals /healthz'])
  // The message is the platform's own, so it is not shown.
  expect(await detailOf('watch_blind')).not.toContain('rpc')
  await pass()
  await pass()
  expect(await open()).not.toContain('watch_blind seals /healthz')
})

const wallets = () =>
  build({
    RAILS: 'BTC,EVM',
    BTC_NETWORK: 'regtest',
    BTC_URLS: 'core+http://u:p@btc.example/wallet/w',
    BTC_PRIVATE_KEY: BTC_KEY,
    BTC_FEE_CAP_SAT: '5000',
    EVM_CHAIN_ID: '31337',
    EVM_URLS: 'http://evm.example',
    EVM_PRIVATE_KEY: EVM_KEY,
    EVM_FEE_CAP_GWEI: '2000000',
  })

test('an anchor that stalls or is late links to the batch that has waited longest, whatever was sealed since', async () => {
  withTsa()
  await post()
  for (let i = 0; i < 3; i++) await pass(2000)
  isTsaDown = true
  for (let i = 0; i < 3; i++) {
    await post()
    for (let j = 0; j < 2; j++) await pass(2000)
  }
  // A newer root takes the place of an older one; the wait is the batch's all the same.
  for (let i = 0; i < 14; i++) await pass(31 * MINUTE)
  const waits = (await open()).filter((alert) => alert.startsWith('anchor_'))
  expect(waits).toEqual([
    'anchor_late TSA/tsa.example /batches/2',
    'anchor_stalled TSA/tsa.example /batches/2',
  ])
  const shown = (await (await platform.fetch('/batches/2/receipts')).json()) as {
    status: string
    missing: string[]
    anchors: { status: string; reason: string }[]
  }
  expect(shown).toMatchObject({ status: 'sealed', missing: ['TSA'] })
  expect(shown.anchors[0]!.reason).toContain('tsa.example')
  isTsaDown = false
  for (let i = 0; i < 3; i++) await pass(31 * MINUTE)
  expect((await open()).filter((alert) => alert.startsWith('anchor_'))).toEqual([])
})

/** Nodes that name so many satoshi in one coin, and wei. */
const rich =
  (sats: number, wei: bigint, txid = 'ab'.repeat(32)) =>
  (_: string, method: string): unknown => {
    if (method === 'getblockhash') return GENESIS
    if (method === 'listunspent') return sats === 0 ? [] : [{ txid, vout: 0, amount: sats / 1e8 }]
    if (method === 'eth_chainId') return '0x7a69'
    return `0x${wei.toString(16)}`
  }

test('a wallet that pays for fewer than ten anchors at the cap is low, and money clears it within the hour', async () => {
  wallets()
  const cap = 2_000_000n * 10n ** 9n
  // Ten of each: what is left as dust cannot be spent.
  rpc = rich(10 * 5000 + 294, 10n * cap)
  await pass()
  expect(await open()).toEqual([])
  expect((await walletReadings(platform.env.DB)).map((w) => [w.chain, w.anchorsLeft])).toEqual([
    ['BTC', WALLET_LOW],
    ['EVM', WALLET_LOW],
  ])
  rpc = rich(10 * 5000 + 293, 10n * cap - 1n)
  const before = asked.length
  for (let i = 0; i < 59; i++) await pass()
  expect(asked.length).toBe(before)
  await pass()
  expect(await open()).toEqual([
    'wallet_low BTC/regtest /anchors/status',
    'wallet_low EVM/anvil /anchors/status',
  ])
  expect(await detailOf('wallet_low')).toContain('9 more anchors at the fee cap')
  rpc = rich(1e8, 10n ** 18n)
  for (let i = 0; i < 60; i++) await pass()
  expect(await open()).toEqual([])
})

test('a provider that does not answer leaves the wallet unread, is asked again in ten minutes, and that is said', async () => {
  wallets()
  rpc = rich(1e8, 10n ** 18n)
  await pass()
  rpc = (host, method) =>
    host === 'btc.example' ? new Error('refused') : rich(1e8, 10n ** 18n)(host, method)
  for (let i = 0; i < 61; i++) await pass()
  expect(await open()).toEqual(['watch_blind wallet/BTC /healthz'])
  expect(await detailOf('watch_blind')).toContain('btc.example could not be reached')
  const calls = () => asked.filter((call) => call.startsWith('btc')).length
  const before = calls()
  for (let i = 0; i < 30; i++) await pass()
  expect(await open()).toEqual(['watch_blind wallet/BTC /healthz'])
  expect(calls() - before).toBe(3)
  rpc = rich(1e8, 10n ** 18n)
  for (let i = 0; i < 10; i++) await pass()
  expect(await open()).toEqual([])
})

test('the change of an anchor that is not in a block yet counts, once', async () => {
  wallets()
  const key = { key: BTC_KEY, type: 'p2wpkh', network: 'regtest' } as const
  const coin = { txid: 'cd'.repeat(32), vout: 1, value: 100_000_000 }
  const root = new Uint8Array(32).fill(3)
  const signed = signBitcoin({ ...key, inputs: [coin], root, feerate: 5, feeCapSat: 5000 })
  if ('held' in signed) throw new Error('not signed')
  expect(bitcoinAccount(key).address).toMatch(/^bcrt1/)
  const work = {
    spends: [`${coin.txid}:1`],
    variants: [{ txHash: signed.txHash, raw: signed.raw, feerate: 5 }],
    since: null,
    seen: null,
    doomedSince: null,
  }
  await platform.env.DB.prepare(
    `INSERT INTO anchors (root, tree_size, chain, network, method, state, next_at, work, created_at, updated_at)
     VALUES (?, 1, 'BTC', 'regtest', 'tx', 'broadcast', ?, ?, 0, 0)`,
  )
    .bind(toHex(root), started + 10 * 86_400_000, JSON.stringify(work))
    .run()
  const left = async () => {
    await pass(60 * MINUTE)
    return (await walletReadings(platform.env.DB)).find(({ chain }) => chain === 'BTC')!.anchorsLeft
  }
  const whole = Math.floor((1e8 - signed.fee - 294) / 5000)
  // Its coin is spent and the change is nowhere; the change is a coin; the provider has not heard of either.
  rpc = rich(0, 10n ** 18n)
  expect(await left()).toBe(whole)
  rpc = rich(1e8 - signed.fee, 10n ** 18n, signed.txHash)
  expect(await left()).toBe(whole)
  rpc = (host, method) =>
    method === 'listunspent'
      ? [{ txid: coin.txid, vout: 1, amount: 1 }]
      : rich(0, 10n ** 18n)(host, method)
  expect(await left()).toBe(Math.floor((1e8 - 294) / 5000))
})

test('a wallet that the settings name no more is forgotten with its alert', async () => {
  wallets()
  rpc = rich(0, 0n)
  await pass()
  expect((await open()).length).toBe(2)
  Object.assign(platform.env, { RAILS: '' })
  platform.env = { ...platform.env }
  await pass()
  expect(await open()).toEqual([])
  expect(await walletReadings(platform.env.DB)).toEqual([])
})
