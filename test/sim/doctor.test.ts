/**
 * The doctor inside of a node, and dead letters in words: what they see is what storage and providers say, a part that
 * cannot be looked at fails, and no secret is said.
 */

import { afterAll, beforeAll, beforeEach, describe, expect, test, vi } from 'vitest'
import type { Check } from '../../functions/core/doctor.ts'
import type { OperatedPeers } from '../../functions/store/federation-api.ts'
import type { ExplainedLetter } from '../../functions/store/operator-api.ts'
import { ONLOOKERS, Platform } from './platform.ts'

const START = Date.parse('2026-11-23T12:00:00Z')
const KEY = `0x${'4d'.repeat(32)}`
const VARS = {
  NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
  ADMIN_TOKEN: 'operator-token',
  ORIGIN: 'sim.example/log',
  NODE_ID: 'sim',
  NETWORK: 'dev',
  INTAKE_SHARDS: '1',
  RAILS: 'EVM',
  EVM_CHAIN_ID: '31337',
  EVM_URLS: 'https://rpc-a.sim/v3/hunter2,https://user:hunter3@rpc-b.sim',
  EVM_PRIVATE_KEY: KEY,
  SEAL_BATCH_MAX_ITEM: '7',
}
const SECRETS = ['hunter2', 'hunter3', '4d4d4d4d', 'operator-token', VARS.NODE_SECRET]
const OPERATOR = { authorization: 'Bearer operator-token' }

let platform: Platform
/** What each provider says, by host. */
let nodes: Record<string, { chainId: number; height: number; aheadMs: number } | null>

beforeAll(() => {
  vi.useFakeTimers({ toFake: ['Date'] })
  Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  vi.spyOn(console, 'error').mockImplementation(() => undefined)
  vi.stubGlobal('fetch', answer)
})

beforeEach(() => {
  vi.setSystemTime(START)
  platform = new Platform(VARS, ['GUARDIAN', 'COUNTERS'], ONLOOKERS)
  nodes = {
    'rpc-a.sim': { chainId: 31_337, height: 1000, aheadMs: 0 },
    'rpc-b.sim': { chainId: 31_337, height: 990, aheadMs: 0 },
  }
})

afterAll(() => {
  vi.useRealTimers()
  vi.unstubAllGlobals()
  vi.restoreAllMocks()
})

const ZERO = `0x${'0'.repeat(64)}`

/** A JSON-RPC node. */
async function answer(url: string, init?: RequestInit): Promise<Response> {
  const node = nodes[new URL(url).host]
  if (node == null) throw new TypeError('fetch failed')
  const asked: unknown = JSON.parse(init?.body as string)
  const one = ({ id, method }: { readonly id: number; readonly method: string }) => {
    const block = Object.fromEntries(
      'hash parentHash sha3Uncles miner stateRoot transactionsRoot receiptsRoot logsBloom extraData mixHash nonce'
        .split(' ')
        .map((name) => [name, ZERO]),
    )
    const number = `0x${node.height.toString(16)}`
    const result =
      method === 'eth_chainId'
        ? `0x${node.chainId.toString(16)}`
        : method === 'eth_getBalance'
          ? '0xde0b6b3a7640000'
          : {
              ...block,
              number,
              difficulty: '0x0',
              gasLimit: '0x1',
              gasUsed: '0x0',
              timestamp: '0x1',
            }
    return { jsonrpc: '2.0', id, result }
  }
  const body = Array.isArray(asked) ? asked.map(one) : one(asked as Parameters<typeof one>[0])
  const date = new Date(Date.now() + node.aheadMs).toUTCString()
  return new Response(JSON.stringify(body), {
    headers: { date, 'content-type': 'application/json' },
  })
}

async function look(query = ''): Promise<readonly Check[]> {
  const response = await platform.fetch(`/admin/doctor${query}`, { headers: OPERATOR })
  const text = await response.text()
  expect(response.status, text).toBe(200)
  for (const secret of SECRETS) expect(text).not.toContain(secret)
  return (JSON.parse(text) as { readonly checks: readonly Check[] }).checks
}

const of = (checks: readonly Check[], area: string) => checks.filter((c) => c.area === area)
const states = (checks: readonly Check[], area: string) =>
  of(checks, area).map(({ state }) => state)

test('a well node is ok in every part, and a variable that is nearly one of ours is told of', async () => {
  const checks = await look()
  expect(checks.filter(({ state }) => state === 'fail')).toEqual([])
  expect(of(checks, 'config').map(({ says }) => says)).toContain(
    'SEAL_BATCH_MAX_ITEM is no variable of ours',
  )
  expect(of(checks, 'provider').map(({ says }) => says)).toEqual([
    'EVM rpc-a.sim: right network, block 1000, 0 ms',
    'EVM rpc-b.sim: right network, block 990 (10 behind), 0 ms',
  ])
  expect(states(checks, 'clock')).toEqual(['ok'])
  expect(of(checks, 'wallet')[0]!.says).toContain('holds 1.000000 ETH')
  for (const area of ['intake', 'checkpoint', 'queues', 'alerts', 'webhooks'])
    expect([area, ...states(checks, area)]).toEqual([area, 'ok'])
})

test('a silent provider and one of another chain fail by host, and a lagging one is told of', async () => {
  nodes['rpc-a.sim'] = null
  nodes['rpc-b.sim'] = { chainId: 1, height: 5, aheadMs: 0 }
  const said = of(await look(), 'provider')
  expect(said.map(({ state }) => state)).toEqual(['fail', 'fail'])
  expect(said[0]!.says).toContain('rpc-a.sim: could not be reached')
  expect(said[1]!.says).toContain('is not on chain 31337')
  nodes['rpc-a.sim'] = { chainId: 31_337, height: 1000, aheadMs: 0 }
  nodes['rpc-b.sim'] = { chainId: 31_337, height: 900, aheadMs: 0 }
  expect(states(await look(), 'provider')).toEqual(['ok', 'warn'])
})

test('a clock six minutes behind all others fails', async () => {
  for (const host of Object.keys(nodes)) nodes[host] = { ...nodes[host]!, aheadMs: 360_000 }
  expect(states(await look(), 'clock')).toEqual(['fail'])
  nodes['rpc-a.sim'] = { ...nodes['rpc-a.sim']!, aheadMs: 0 }
  // Of two that contradict each other the middle counts.
  expect(states(await look(), 'clock')).toEqual(['warn'])
})

test('without providers nobody outside is asked', async () => {
  vi.mocked(console.error).mockClear()
  nodes = {}
  const checks = await look('?providers=0')
  expect(of(checks, 'provider')).toEqual([])
  expect(checks.filter(({ state }) => state === 'fail')).toEqual([])
})

test('held anchors, open alerts and failing receivers are told with what to do', async () => {
  platform.index(
    `INSERT INTO anchors (id, root, tree_size, chain, network, method, state, next_at, created_at, updated_at, reason)
     VALUES (5, '${'a'.repeat(64)}', 1, 'EVM', 'anvil', 'tx', 'held', 0, ${START - 8 * 3_600_000}, 0, 'unknown_spend')`,
  )
  platform.index(
    `INSERT INTO alerts (kind, key, severity, detail, link, opened_at) VALUES ('fork', 'x', 'critical', 'two histories', '/', 0)`,
  )
  platform.index(
    `INSERT INTO webhook_lanes (did, host, failures, due_at) VALUES ('did:key:z', 'h.example', 4, 1)`,
  )
  const checks = await look('?providers=0')
  expect(of(checks, 'anchors')[0]).toMatchObject({
    state: 'fail',
    says: expect.stringContaining('unknown_spend') as string,
    next: expect.stringContaining('anchor release 5') as string,
  })
  expect(of(checks, 'alerts')[0]).toMatchObject({ state: 'fail', next: 'docs/alerts.md#fork' })
  expect(states(checks, 'webhooks')).toEqual(['warn'])
  expect(states(checks, 'queues')).toEqual(['ok', 'warn'])
})

test('a part that cannot be looked at fails by itself, and says nothing of what was thrown', async () => {
  platform.plan = (name) => (name.startsWith('rpc FEDERATION.') ? 'fail' : null)
  const checks = await look('?providers=0')
  const federation = of(checks, 'federation')
  expect(federation).toEqual([
    {
      area: 'federation',
      state: 'fail',
      says: 'could not be looked at: it does not answer',
      next: 'See the log of the node.',
    },
  ])
  expect(states(checks, 'queues')).toEqual(['ok'])
})

// ── dead letters ───────────────────────────────────────────────────────────────────────────────

async function letters(): Promise<readonly ExplainedLetter[]> {
  const response = await platform.fetch('/admin/dead-letters', { headers: OPERATOR })
  return ((await response.json()) as { readonly deadLetters: readonly ExplainedLetter[] })
    .deadLetters
}

function plant(): void {
  const insert = (id: string, queue: string, body: object, at: number) =>
    platform.index(
      `INSERT INTO dead_letters (id, queue, body, received_at) VALUES ('${id}', '${queue}', '${JSON.stringify(body)}', ${at})`,
    )
  for (const [id, state, reason] of [
    [5, 'final', null],
    [6, 'queued', 'rpc-a.sim could not be reached'],
  ] as const)
    platform.index(
      `INSERT INTO anchors (id, root, tree_size, chain, network, method, state, next_at, created_at, updated_at, reason)
       VALUES (${id}, '${String(id).repeat(64)}', 1, 'EVM', 'anvil', 'tx', '${state}', ${START + 1e6}, 0, 0, ${reason === null ? 'NULL' : `'${reason}'`})`,
    )
  insert('s', 'sealer-dlq', { reason: 'due', height: 1 }, START - 4000)
  insert('s0', 'sealer-dlq', { reason: 'due' }, START - 3000)
  insert('a5', 'anchor-dlq', { id: 5 }, START - 2000)
  insert('a6', 'anchor-dlq', { id: 6 }, START - 1000)
  insert('a7', 'anchor-dlq', { id: 7 }, START)
}

test('each dead letter says what it asked for, whether that is done by now, and why not', async () => {
  plant()
  expect((await letters()).map(({ work, done, why }) => [work, done, why])).toEqual([
    ['seal batch 1', false, null],
    ['seal what waited then', true, null],
    ['anchor 5: root 5555555555555555… on EVM anvil (tx)', true, null],
    ['anchor 6: root 6666666666666666… on EVM anvil (tx)', false, 'rpc-a.sim could not be reached'],
    ['an anchor that is not in the outbox', null, null],
  ])
})

test('one is replayed by its name, all without names, and an unknown name sends nothing', async () => {
  plant()
  const replay = (query: string) =>
    platform.fetch(`/admin/dead-letters/replay${query}`, { method: 'POST', headers: OPERATOR })
  const sent = () => platform.steps.filter((step) => step.startsWith('queue.send')).length
  const names = (await letters()).map(({ name }) => name)
  const before = sent()
  const refused = await replay(`?ids=${names[0]},0000`)
  expect([refused.status, sent()]).toEqual([404, before])
  expect(await (await replay(`?ids=${names[3]}`)).json()).toEqual({ replayed: 1 })
  expect((await letters()).map(({ name }) => name)).toEqual(names.filter((_, i) => i !== 3))
  expect(sent()).toBe(before + 1)
  expect(await (await replay('')).json()).toEqual({ replayed: 4 })
  expect(await letters()).toEqual([])
  expect(await (await replay('')).json()).toEqual({ replayed: 0 })
})

// ── the allow-list of a node that follows no file ──────────────────────────────────────────────

describe('the allow-list', () => {
  const did = 'did:key:z6MkgoLTnTypo3tDRCvkRXSTPZWHKTf1BaWUPbcBxjWvBRhN'
  const ask = async (path: string, method = 'GET', body?: string) => {
    const init = { method, headers: OPERATOR, ...(body === undefined ? {} : { body }) }
    const response = await platform.fetch(path, init)
    return { status: response.status, value: (await response.json()) as Record<string, unknown> }
  }
  const join = () =>
    ask('/admin/federation', 'POST', '# ours\ngossip:\n  interval_ms: 5000\npeers_allowlist: []\n')
  const listed = async () => {
    const { value } = await ask('/admin/peers')
    return (value as unknown as OperatedPeers).peers.map((peer) => peer.did)
  }
  const change = (op: string, more = '') => ask(`/admin/peers?op=${op}&did=${did}${more}`, 'POST')

  test('is changed in one place, comments kept, and twice is as once', async () => {
    await join()
    expect(await change('allow', '&note=Bob&url=https://bob.example')).toMatchObject({
      status: 200,
      value: { changed: true },
    })
    expect(await listed()).toEqual([did])
    expect((await change('allow')).value).toMatchObject({ changed: false })
    const { value } = await ask('/admin/federation')
    expect(value['yaml']).toContain('# ours')
    expect(value['yaml']).toContain(`did: ${did} # Bob`)
    expect((await change('revoke')).value).toMatchObject({ changed: true })
    expect((await change('revoke')).value).toMatchObject({ changed: false })
    expect(await listed()).toEqual([])
  })

  test('takes nothing that the file would not, and says so where there is no federation', async () => {
    expect((await change('allow')).value).toMatchObject({ type: '/problems/no-federation' })
    expect((await ask('/admin/peers')).value).toMatchObject({ type: '/problems/no-federation' })
    await join()
    expect((await change('allow', '&url=ftp://x')).status).toBe(400)
    expect(await listed()).toEqual([])
  })

  test('of a node that follows a file is the file’s to change', async () => {
    platform = new Platform({ ...VARS, FEDERATION_FILE: '1' }, ['GUARDIAN', 'COUNTERS'], ONLOOKERS)
    await join()
    const { status, value } = await change('allow')
    expect([status, value['detail']]).toEqual([400, expect.stringContaining('change that file')])
  })

  test('without the operator’s token is nobody’s', async () => {
    expect((await platform.fetch('/admin/peers')).status).toBe(401)
    expect((await platform.fetch('/admin/doctor')).status).toBe(401)
    expect((await platform.fetch('/admin/intake', { method: 'POST' })).status).toBe(401)
  })
})
