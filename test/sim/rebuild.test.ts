/**
 * fsck --rebuild: whatever D1 loses of its index comes back from R2 and the Sequencer, byte for byte where readers
 * see it; cut off at any step it is run again; and what is under way with a wallet is never paid for twice.
 */

import { afterAll, beforeAll, beforeEach, expect, test, vi } from 'vitest'
import { fromHex, toBase64 } from '../../functions/core/bytes.ts'
import { emitOts, linearTimestamp } from '../../functions/core/opentimestamps.ts'
import { keepPromise, promiseKey } from '../../functions/store/anchor-receipts.ts'
import { absence, World } from './money.ts'
import { seeded, type Fault } from './platform.ts'

const TOKEN = 'token-of-the-simulated-operator'
const authorization = `Bearer ${TOKEN}`
const CALENDAR = 'https://calendar.example'

let world: World
beforeAll(async () => {
  world = await World.start()
})
afterAll(() => world.stop())
// Blocks of a day that a test before this one lived through would lie in the future.
beforeEach(() => {
  vi.setSystemTime(vi.getRealSystemTime())
})

async function admin<T>(method: 'GET' | 'POST', path: string): Promise<T> {
  const answer = await world.platform.fetch(`/admin/${path}`, {
    method,
    headers: { authorization },
  })
  const body = await answer.text()
  if (answer.status !== 200) throw new Error(`${path}: ${answer.status} ${body}`)
  return JSON.parse(body) as T
}

async function rebuild(): Promise<{ written: number; removed: number; jobs: number }> {
  const { head } = await admin<{ head: { indexedHeight: number } }>('POST', 'rebuild?step=begin')
  let written = 0
  for (let height = 1; height <= head.indexedHeight; height++) {
    const { findings, facts } = await admin<{ findings: string[]; facts: { written: number } }>(
      'POST',
      `rebuild?height=${height}`,
    )
    expect(findings).toEqual([])
    written += facts.written
  }
  return {
    written,
    ...(await admin<{ removed: number; jobs: number }>('POST', 'rebuild?step=end')),
  }
}

async function fsck(): Promise<string[]> {
  const state = await admin<{ findings: string[]; facts: { height: number } }>('GET', 'fsck')
  const findings = [...state.findings]
  for (let height = 1; height <= state.facts.height; height++)
    findings.push(...(await admin<{ findings: string[] }>('GET', `fsck?height=${height}`)).findings)
  return findings
}

const TABLES = [
  'names',
  'events',
  'batches',
  'receipts',
  'rails',
  'revocations',
  'receipt_checks',
  'anchors',
] as const

/** As a D1 that was lost and made anew by the migrations; the audit's rows cannot be removed, and need not be. */
function loseIndex(): void {
  for (const { name } of world.platform.index(
    "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite%' AND name <> 'audit'",
  ))
    world.platform.index(`DELETE FROM ${String(name)}`)
}

const texts = (links: readonly string[]) =>
  Promise.all(links.map(async (link) => (await world.platform.fetch(link)).text()))

/** A node with three sealed events, each anchored for good on a chain of its own. */
async function anchored(): Promise<{ links: string[]; before: string[] }> {
  await world.boot({ EVM: await world.ethereumKey() })
  const links: string[] = []
  for (let i = 0; i < 3; i++) {
    links.push(await world.seal())
    await world.finish()
  }
  expect(await world.expectPaidOnce()).toBe(3)
  return { links, before: await texts(links) }
}

test.skipIf(absence.EVM !== null)(
  'each table that is emptied, each row that is changed, and a D1 that is new come back as they were',
  async () => {
    const { links, before } = await anchored()
    expect(await fsck()).toEqual([])
    expect(await rebuild()).toEqual({ written: 0, removed: 0, jobs: 0 })
    const forgeries = [
      ...TABLES.map((table) => `DELETE FROM ${table}`),
      "UPDATE names SET name = 'forged'",
      "UPDATE names SET kind = 'forged'",
      "UPDATE events SET subject = 'forged' WHERE leaf_index = 1",
      'UPDATE events SET leaf_index = leaf_index + 100',
      'UPDATE events SET event_hash = zeroblob(32), hash_key = 0 WHERE leaf_index = 0',
      "UPDATE events SET source_id = 999, type_id = 999, event_id = 'forged', time_at = 0",
      'UPDATE batches SET committed = 0',
      "UPDATE batches SET manifest = 'forged', parts = 7 WHERE height = 2",
      'UPDATE batches SET height = height + 100',
      "UPDATE receipts SET json = '{}' WHERE tree_size = 1",
      'UPDATE receipts SET tx_hash = root, anchor_at = 1, tree_size = 2 WHERE tree_size = 1',
      "UPDATE receipts SET root = 'forged' WHERE tree_size = 1",
      "UPDATE receipts SET network = 'forged'",
      "UPDATE rails SET network = 'forged'",
    ]
    for (const forgery of [...forgeries, null]) {
      if (forgery === null) loseIndex()
      else world.platform.index(forgery)
      await rebuild()
      expect(await fsck(), forgery ?? 'all').toEqual([])
      expect(await texts(links), forgery ?? 'all').toEqual(before)
      expect((await rebuild()).written, forgery ?? 'all').toBe(0)
    }
    await world.finish()
    expect(await world.expectPaidOnce()).toBe(3)
    await world.seal()
    await world.finish()
    expect(await world.expectPaidOnce()).toBe(4)
    expect(await fsck()).toEqual([])
  },
  60_000,
)

test.skipIf(absence.EVM !== null)(
  'without an index the node takes events and seals them, says that its index is missing, and mends',
  async () => {
    const { links, before } = await anchored()
    loseIndex()
    world.platform.kill()
    const late = await world.seal()
    const ready = await world.platform.fetch('/readyz')
    expect(ready.status).toBe(503)
    expect(await ready.text()).toContain('fsck --rebuild')
    expect((await fsck()).length).toBeGreaterThan(0)
    await rebuild()
    expect(await fsck()).toEqual([])
    expect(await texts(links)).toEqual(before)
    expect((await world.platform.fetch(late)).status).toBe(200)
    await world.finish()
    expect(await world.expectPaidOnce()).toBe(4)
  },
  60_000,
)

test.skipIf(absence.EVM !== null)(
  'a row of the newest batch that was lost before it was indexed is taken from R2 by the next seal',
  async () => {
    const { links } = await anchored()
    const link = await world.post()
    world.platform.plan = (name) =>
      name.startsWith('d1 batch of INSERT INTO events') ? 'fail' : null
    await world.platform.deliver(seeded(1))
    await world.pass(1500)
    world.platform.plan = null
    loseIndex()
    world.platform.kill()
    for (let i = 0; i < 3; i++) await world.pass(11_000)
    expect((await world.platform.fetch(link)).status).toBe(200)
    await rebuild()
    expect(await fsck()).toEqual([])
    expect((await texts(links)).length).toBe(3)
    await world.finish()
    expect(await world.expectPaidOnce()).toBe(4)
  },
  60_000,
)

test.skipIf(absence.EVM !== null)(
  'a receipt that was damaged in R2 and lost in D1 is proven anew from what the wallet signed, and nothing is paid',
  async () => {
    const { links, before } = await anchored()
    const { env } = world.platform
    // The newest: the job of an older root may give way to it.
    const [{ root }] = world.platform.index(
      'SELECT root FROM receipts ORDER BY tree_size DESC LIMIT 1',
    ) as [{ root: string }]
    const key = `anchors/${root}/EVM/anvil/tx`
    const json = await (await env.BUCKET.get(key))!.text()
    const damaged = json.replace(/"header":"0x(....)/, '"header":"0xffff')
    expect(damaged).not.toBe(json)
    await env.BUCKET.put(key, damaged)
    loseIndex()
    await admin('POST', 'rebuild?step=begin')
    const found: string[] = []
    for (let height = 1; height <= 3; height++)
      found.push(
        ...(await admin<{ findings: string[] }>('POST', `rebuild?height=${height}`)).findings,
      )
    expect(found.join()).toContain('does not verify')
    await admin('POST', 'rebuild?step=end')
    await world.finish()
    expect(await fsck()).toEqual([])
    expect(await world.expectPaidOnce()).toBe(3)
    const after = (await texts(links)).map((text) => JSON.parse(text) as { status: string })
    expect(after.map(({ status }) => status)).toEqual(
      before.map((text) => (JSON.parse(text) as { status: string }).status),
    )
    expect(await (await env.BUCKET.get(key))!.text()).not.toBe(damaged)
  },
  60_000,
)

test.skipIf(absence.EVM !== null)(
  'bytes that do not verify are no index: a batch with a changed event is left as it is',
  async () => {
    await anchored()
    const { env } = world.platform
    const key = 'events/2/0'
    const bytes = new Uint8Array(await (await env.BUCKET.get(key))!.arrayBuffer())
    bytes[40]! ^= 1
    await env.BUCKET.put(key, bytes)
    loseIndex()
    const { facts, findings } = await admin<{ facts: { written: number }; findings: string[] }>(
      'POST',
      'rebuild?height=2',
    )
    expect(facts.written).toBe(0)
    expect(findings.join('\n')).toContain('nothing of it was rebuilt')
    expect(world.platform.index('SELECT * FROM events')).toEqual([])
    expect(world.platform.index('SELECT * FROM batches')).toEqual([])
  },
  60_000,
)

test.skipIf(absence.EVM !== null)(
  'a rebuild that is cut off at any step is run again and ends the same',
  async () => {
    const { links, before } = await anchored()
    const attempt = async (): Promise<boolean> => {
      try {
        await rebuild()
        return true
      } catch {
        return false
      }
    }
    const from = world.platform.steps.length
    loseIndex()
    await attempt()
    const steps = world.platform.steps.length - from
    expect(steps).toBeGreaterThan(40)
    // Every third step, in every way: neighbours are the same reads.
    for (let k = 0; k < steps; k += 3) {
      const fault = (['fail', 'lost', 'kill-before', 'kill-after'] as const)[(k / 3) % 4] as Fault
      loseIndex()
      let at = 0
      world.platform.plan = () => (at++ === k ? fault : null)
      await attempt()
      world.platform.plan = null
      expect(await attempt()).toBe(true)
      expect(await fsck(), `${fault} at ${k}`).toEqual([])
      expect(await texts(links)).toEqual(before)
    }
    await world.finish()
    expect(await world.expectPaidOnce()).toBe(3)
  },
  60_000,
)

test('a calendar’s promise that D1 lost is followed again; one of another root is not taken over', async () => {
  await world.boot({})
  await world.seal()
  const [{ root, tree_size: treeSize }] = world.platform.index(
    'SELECT root, tree_size FROM batches',
  ) as [{ root: string; tree_size: number }]
  const job = { root, chain: 'BTC', network: 'regtest', method: 'calendar' }
  const attestation = { type: 'pending', uri: 'https://calendar.example' } as const
  const promiseOf = (digest: string) => {
    const path = [{ type: 'append', bytes: new Uint8Array(16) } as const]
    const ots = emitOts(linearTimestamp(fromHex(digest), path, attestation))
    return { nonce: '00'.repeat(16), ots: toBase64(ots), promisedAt: 1 }
  }
  const { env } = world.platform
  const promise = promiseOf(root)
  await keepPromise(env, job, promise)
  await keepPromise(env, job, promise)
  await keepPromise(env, job, { ...promise, promisedAt: 2 })
  expect(await env.BUCKET.get(promiseKey(job, 2))).toBeNull()
  expect((await rebuild()).written).toBe(1)
  const found = world.platform.index('SELECT state, work, root, tree_size FROM anchors')
  const work = JSON.stringify({ ...promise, promisedAt: 2 })
  expect(found).toEqual([{ state: 'broadcast', work, root, tree_size: treeSize }])
  expect((await rebuild()).written).toBe(0)

  loseIndex()
  await keepPromise(env, job, promiseOf('ab'.repeat(32)))
  const { findings } = await admin<{ findings: string[] }>('POST', 'rebuild?height=1')
  expect(findings.join()).toContain('it is of another root')
  expect(world.platform.index('SELECT * FROM anchors')).toEqual([])
})

test('what a calendar promises is in R2 before its row, so a lost D1 goes on with the same promise', async () => {
  const { fetch } = globalThis
  // 65 bytes: magic, version and the digest of a detached file; a calendar answers with what follows.
  const promised = (digest: Uint8Array): Uint8Array =>
    emitOts(linearTimestamp(digest, [], { type: 'pending', uri: CALENDAR })).slice(65)
  vi.stubGlobal('fetch', async (url: string | URL, init: RequestInit = {}) =>
    String(url).startsWith(CALENDAR)
      ? new Response(promised(init.body as Uint8Array) as BodyInit)
      : fetch(url, init),
  )
  try {
    const method = { ANCHOR_BTC_METHOD: 'calendar', OTS_CALENDARS: CALENDAR, RAILS: 'BTC' }
    await world.boot({}, method)
    const before = world.platform.steps.length
    await world.seal()
    const steps = world.platform.steps.slice(before)
    const kept = steps.findIndex((step) => step.startsWith('r2.put anchors'))
    expect(kept).toBeGreaterThan(0)
    expect(steps.slice(kept).some((step) => /update "?anchors/i.test(step))).toBe(true)
    const jobs = () => world.platform.index('SELECT root, state, work FROM anchors')
    const [job] = jobs()
    expect(job).toMatchObject({ state: 'broadcast' })
    loseIndex()
    world.platform.kill()
    await rebuild()
    expect(jobs()).toEqual([job])
  } finally {
    vi.stubGlobal('fetch', fetch)
  }
})

test.skipIf(absence.EVM !== null)(
  'held against the chain, receipts are confirmed; a provider that has another block, and a root paid twice, are named',
  async () => {
    await anchored()
    interface Page {
      findings: string[]
      facts: Record<string, number>
    }
    const chains = (query: string) => admin<Page>('GET', `fsck/chains?${query}`)
    expect(await chains('after=0')).toMatchObject({
      findings: [],
      facts: { confirmed: 3, next: 0 },
    })
    expect(await chains('wallets=1')).toMatchObject({
      findings: [],
      facts: { spends: 3, asked: 0 },
    })
    world.answers.set('evm-1.sim', async ({ method }, ask) => {
      if (method !== 'eth_getBlockByNumber') return null
      const { result } = (await ask()) as { result: Record<string, unknown> | null }
      return { result: result === null ? null : { ...result, hash: `0x${'ee'.repeat(32)}` } }
    })
    expect((await chains('after=0')).findings.length).toBe(3)
    world.answers.clear()

    const [wallet] = world.walletsOnDisk()
    // As after a law that was broken: the first root's payment was given up, and is in a block all the same.
    world.platform.tamper(wallet!, "UPDATE spends SET state = 'dead' WHERE id = 1")
    expect((await chains('wallets=1')).findings.join()).toContain('was given up and is in a block')
    world.platform.tamper(
      wallet!,
      "UPDATE spends SET state = 'final'; UPDATE spends SET root = (SELECT root FROM spends WHERE id = 1) WHERE id = 2",
    )
    expect((await chains('wallets=1')).findings.join()).toContain('has two payments')
  },
  60_000,
)

for (const chain of ['BTC', 'EVM'] as const) {
  test.skipIf(absence[chain] !== null).each(['queued', 'broadcast', 'included'] as const)(
    `a root of ${chain} whose job was %s when D1 was lost is paid for once`,
    async (state) => {
      const key = chain === 'BTC' ? await world.bitcoinKey(3) : await world.ethereumKey()
      await world.boot({ [chain]: key })
      if (state === 'queued') {
        world.answers.set(`${chain.toLowerCase()}-1.sim`, () => {
          throw new Error('connection refused')
        })
      }
      await world.seal()
      if (state === 'included') {
        await world.mine(chain, 1)
        await world.pass(1500)
      }
      expect((await world.jobs()).map((job) => job.state)).toEqual([state])
      loseIndex()
      world.platform.kill()
      world.answers.clear()
      // What is posted meanwhile has a root of its own, which waits for the wallet.
      await world.seal()
      await rebuild()
      await world.finish()
      const roots = world.spends(chain).map(({ root }) => root)
      expect(new Set(roots).size).toBe(roots.length)
      expect(await world.expectPaidOnce()).toBeGreaterThanOrEqual(1)
      expect(await fsck()).toEqual([])
    },
    60_000,
  )
}

test.skipIf(absence.BTC !== null)(
  'a payment that was final in the wallet and whose receipt was cut off gets its receipt, and no second payment',
  async () => {
    await world.boot({ BTC: await world.bitcoinKey(3) })
    await world.seal()
    await world.mine('BTC', 8)
    world.platform.plan = (name) => (name.startsWith('r2.put anchors') ? 'kill-before' : null)
    for (let i = 0; i < 3; i++) await world.pass(2_400_000).catch(() => undefined)
    world.platform.plan = null
    expect(world.spends('BTC').map(({ state }) => state)).toEqual(['final'])
    loseIndex()
    world.platform.kill()
    expect((await rebuild()).jobs).toBe(1)
    await world.finish()
    expect(await world.expectPaidOnce()).toBe(1)
  },
  60_000,
)
