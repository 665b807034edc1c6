/**
 * Bad days of the anchor rail: every step from a sealed root to a persisted receipt fails once, loses its
 * reply, or kills the process, against a real RFC 3161 authority (openssl).
 *
 * The law at the end: one job and one receipt for the root and authority, in R2 and D1 alike, and the
 * event's receipt verifies offline with outside time.
 */

import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { deriveIdentity, signJws } from '../../functions/core/node-keys.ts'
import { parseReceipt, verifyReceipt } from '../../functions/core/receipt.ts'
import { nodeOf } from '../../functions/store/node.ts'
import { reply, type Authority } from '../../scripts/devnet/tsa-authority.ts'
import { authorities } from '../support/tsa.ts'
import { Platform, seeded, type Fault, type Plan } from './platform.ts'

let made: Awaited<ReturnType<typeof authorities>>
let authority: Authority
let event = ''
let platform: Platform
const started = Date.now()

beforeAll(async () => {
  made = await authorities()
  authority = await made.make('ec')
  vi.useFakeTimers({ toFake: ['Date'] })
  Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  vi.spyOn(console, 'error').mockImplementation(() => undefined)
  vi.spyOn(console, 'log').mockImplementation(() => undefined)
  const signer = await deriveIdentity(new Uint8Array(32).fill(6), 1)
  event = await signJws(signer, 'vm-event+jws', {
    specversion: '1.0',
    id: 'anchored',
    source: signer.did,
    type: 'sim.event',
    time: new Date(started).toISOString(),
  })
  vi.stubGlobal('fetch', (_url: string, init: RequestInit) =>
    platform.outside('network tsa', async () => {
      const token = await reply(authority, new Uint8Array(init.body as ArrayBuffer))
      return new Response(new Uint8Array(token), {
        headers: { 'content-type': 'application/timestamp-reply' },
      })
    }),
  )
})

afterAll(async () => {
  vi.useRealTimers()
  vi.unstubAllGlobals()
  vi.restoreAllMocks()
  await made.remove()
})

async function pass(ms: number, random: () => number): Promise<void> {
  vi.setSystemTime(Date.now() + ms)
  await platform.tick(Date.now())
  await platform.deliver(random)
  await platform.settle()
}

/** Seals one event in peace, then anchors it under the plan; returns the steps that anchoring took. */
async function day(plan: Plan | null, seed = 1): Promise<string[]> {
  const random = seeded(seed)
  vi.setSystemTime(started)
  platform = new Platform({
    NODE_SECRET: Buffer.alloc(32, 9).toString('base64url'),
    ORIGIN: 'sim.example/log',
    NODE_ID: 'sim',
    NETWORK: 'dev',
    INTAKE_SHARDS: '1',
    INTAKE_BACKLOG_MAX: '100000',
    SEAL_BATCH_MAX_INTERVAL_MS: '1000',
    ANCHOR_TSA_INTERVAL_MS: '1000',
    RAILS: 'TSA',
    TSA_URLS: 'http://tsa.example/tsr',
    TSA_ROOTS: authority.rootPem,
  })
  const posted = await platform.fetch('/events', {
    method: 'POST',
    body: event,
    headers: { 'content-type': 'application/jose' },
  })
  const { links } = (await posted.json()) as { links: { receipt: string } }
  await platform.deliver(random)
  // The seal ends with the anchor's job: the plan begins with its first step.
  const before = platform.steps.length
  let sealing = true
  platform.plan = (name, number) => {
    if (name.includes('INSERT INTO anchors') || name.includes('insert into anchors'))
      sealing = false
    return sealing ? null : (plan?.(name, number) ?? null)
  }
  for (let i = 0; i < 3; i++) await pass(1500, random)
  platform.plan = null
  for (let i = 0; i < 6; i++) await pass(2_400_000, random)

  const { env } = platform
  const jobs = await env.DB.prepare('SELECT state, root, network FROM anchors').all<{
    state: string
  }>()
  expect(jobs.results.map((row) => row.state)).toEqual(['final'])
  const receipts = await env.DB.prepare('SELECT json FROM receipts').all<{ json: string }>()
  expect(receipts.results.length).toBe(1)
  const { root, network } = jobs.results[0] as unknown as { root: string; network: string }
  const stored = await env.BUCKET.get(`anchors/${root}/TSA/${network}/rfc3161`)
  expect(await stored?.text()).toBe(receipts.results[0]!.json)
  const node = await nodeOf(env)
  const receipt = parseReceipt(await (await platform.fetch(links.receipt)).text())
  expect(receipt.status).toBe('final')
  const report = await verifyReceipt(receipt, {
    vkeys: [node.vkey],
    tsaRoots: node.config.tsaRoots,
  })
  expect(report.verdict, report.sentence).toBe('verified')
  expect(report.anchored).toEqual(['TSA'])
  return platform.steps.slice(before)
}

test('a sealed root is timestamped by itself and its receipt is final', async () => {
  const steps = await day(null)
  expect(steps.filter((name) => name === 'network tsa').length).toBe(1)
})

test.each<Fault>(['fail', 'lost', 'kill-before', 'kill-after'])(
  'whichever step of anchoring goes wrong by "%s", one receipt stands and verifies',
  async (fault) => {
    let steps = 0
    await day(() => {
      steps++
      return null
    })
    expect(steps).toBeGreaterThan(10)
    for (let k = 0; k < steps; k++) {
      let at = 0
      try {
        await day(() => (at++ === k ? fault : null), k)
      } catch (cause) {
        throw new Error(`${fault} at step ${k}: ${String(cause)}`, { cause })
      }
    }
  },
  300_000,
)
