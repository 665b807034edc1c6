/**
 * Where alerts lead: a batch says how it is anchored and lists the receipts of its events, each once, page by page.
 */

import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { deriveIdentity, signJws } from '../../functions/core/node-keys.ts'
import { Platform, seeded } from './platform.ts'

interface Page {
  readonly height: number
  readonly status: string
  readonly missing: readonly string[]
  readonly receipts: readonly {
    readonly leafIndex: number
    readonly eventHash: string
    readonly links: { readonly receipt: string; readonly status: string }
  }[]
  readonly next: number | null
  readonly links: { readonly batch: string; readonly anchors: string }
}

const started = Date.now()
let platform: Platform

beforeAll(async () => {
  vi.useFakeTimers({ toFake: ['Date'] })
  Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  vi.spyOn(console, 'log').mockImplementation(() => undefined)
  vi.setSystemTime(started)
  platform = new Platform({
    NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
    ORIGIN: 'sim.example/log',
    NETWORK: 'dev',
    INTAKE_SHARDS: '1',
    SEAL_BATCH_MAX_INTERVAL_MS: '1000',
    // Proofs and hashes are public where events are not.
    PUBLIC_EVENTS: '0',
  })
  const signer = await deriveIdentity(new Uint8Array(32).fill(6), 1)
  for (let batch = 0; batch < 2; batch++) {
    for (let i = 0; i < 5; i++) {
      const body = await signJws(signer, 'vm-event+jws', {
        specversion: '1.0',
        id: `${batch}/${i}`,
        source: signer.did,
        type: 'sim.event',
        time: new Date(started).toISOString(),
      })
      const headers = { 'content-type': 'application/jose' }
      expect((await platform.fetch('/events', { method: 'POST', body, headers })).status).toBe(202)
    }
    vi.setSystemTime(Date.now() + 2000)
    await platform.tick(Date.now())
    await platform.deliver(seeded(1))
  }
})

afterAll(() => {
  vi.useRealTimers()
  vi.restoreAllMocks()
})

async function page(query: string): Promise<Page> {
  const answer = await platform.fetch(`/batches/2/receipts${query}`)
  expect(answer.status).toBe(200)
  return (await answer.json()) as Page
}

test('all pages together hold each event of the batch once, in leaf order, and no other', async () => {
  const whole = await page('')
  expect(whole).toMatchObject({ height: 2, status: 'sealed', missing: [], next: null })
  expect(whole.receipts.map(({ leafIndex }) => leafIndex)).toEqual([5, 6, 7, 8, 9])
  const found: Page['receipts'][number][] = []
  for (let next: number | null = 0; next !== null;) {
    const part: Page = await page(`?from=${next}&limit=2`)
    expect(part.receipts.length).toBeLessThanOrEqual(2)
    found.push(...part.receipts)
    next = part.next
  }
  expect(found).toEqual(whole.receipts)
})

test('each link leads somewhere, and the receipt is of that leaf', async () => {
  const { receipts, links } = await page('')
  for (const { leafIndex, eventHash, links: own } of receipts) {
    const receipt = await (await platform.fetch(own.receipt)).json()
    expect(receipt).toMatchObject({ leafIndex, eventHash, height: 2 })
    expect((await platform.fetch(own.status)).status).toBe(200)
  }
  const batch = (await (await platform.fetch(links.batch)).json()) as {
    links: Record<string, string>
  }
  expect(batch.links).toMatchObject({ receipts: '/batches/2/receipts', anchors: links.anchors })
  expect((await platform.fetch(links.anchors)).status).toBe(200)
})

test('a page beyond the batch is empty, and a batch that is not there has no page', async () => {
  expect(await page('?from=10')).toMatchObject({ receipts: [], next: null })
  expect((await platform.fetch('/batches/3/receipts')).status).toBe(404)
  expect((await platform.fetch('/batches/2/receipts?limit=0')).status).toBe(400)
})
