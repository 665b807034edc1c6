/**
 * A seal that a rotation interrupts: the process dies while a batch is sealed, wherever that is, and comes back with
 * another identity key. The batch is sealed once, its record is the one that was written first, and fsck is content.
 */

import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { deriveIdentity, signJws, type IdentityKey } from '../../functions/core/node-keys.ts'
import { signRotation } from '../../functions/core/rotation.ts'
import { checkBatch, checkState } from '../../functions/store/fsck.ts'
import { nodeOf } from '../../functions/store/node.ts'
import { Killed, Platform, seeded, type Plan } from './platform.ts'

const START = Date.parse('2026-11-23T12:00:00Z')
const secret = new Uint8Array(32).fill(9)
const VARS = {
  NODE_SECRET: Buffer.from(secret).toString('base64url'),
  ORIGIN: 'sim.example/log',
  NODE_ID: 'sim',
  NETWORK: 'dev',
  INTAKE_SHARDS: '1',
  RATE_LIMIT_DID: '0',
  RATE_LIMIT_IP: '0',
  SEAL_BATCH_MAX_INTERVAL_MS: '2000',
}

let old: IdentityKey
let next: IdentityKey
let rotation: string
const events: string[] = []

beforeAll(async () => {
  vi.useFakeTimers({ toFake: ['Date'] })
  Object.assign(globalThis, { scheduler: { wait: () => Promise.resolve() } })
  vi.spyOn(console, 'error').mockImplementation(() => undefined)
  vi.spyOn(console, 'log').mockImplementation(() => undefined)
  ;[old, next] = [await deriveIdentity(secret, 1), await deriveIdentity(secret, 2)]
  const nbf = START / 1000 + 5
  const claims = { iss: old.did, key: next.did, epoch: 2, nbf, end: nbf, iat: nbf }
  rotation = await signRotation(old, claims)
  const client = await deriveIdentity(new Uint8Array(32).fill(5), 1)
  for (const id of ['a', 'b']) {
    const payload = { specversion: '1.0', id, source: client.did, type: 'sim.event' }
    const time = new Date(START).toISOString()
    events.push(await signJws(client, 'vm-event+jws', { ...payload, time }))
  }
})

afterAll(() => {
  vi.useRealTimers()
  vi.restoreAllMocks()
})

/** A day on which the process dies as `plan` says and is rotated then; whether the record of batch 1 was written by then. */
async function day(plan: Plan | null): Promise<{ isWritten: boolean; steps: string[] }> {
  const platform = new Platform(VARS)
  const random = seeded(1)
  vi.setSystemTime(START)
  const post = async (body: string): Promise<void> => {
    const headers = { 'content-type': 'application/jose' }
    expect((await platform.fetch('/events', { method: 'POST', body, headers })).ok).toBe(true)
  }
  const pass = async (ms: number): Promise<void> => {
    vi.setSystemTime(Date.now() + ms)
    await platform.tick(Date.now())
    await platform.deliver(random)
    await platform.settle()
  }
  await post(events[0]!)
  const seen = platform.steps.length
  platform.plan = plan
  await pass(2500).catch((error: unknown) => {
    if (!(error instanceof Killed)) throw error
  })
  const steps = platform.steps.slice(seen)
  platform.plan = null
  // A planned stop, if nothing has killed it; then the statement is among the bindings.
  platform.kill()
  Object.assign(platform.env, { ROTATION: rotation })
  const isWritten = (await platform.env.BUCKET.get('batches/1')) !== null
  vi.setSystemTime(START + 6000)
  for (let i = 0; i < 3; i++) await pass(11_000)
  await post(events[1]!)
  for (let i = 0; i < 2; i++) await pass(2500)

  const node = await nodeOf(platform.env)
  expect(node.identity.did).toBe(next.did)
  const state = await checkState(platform.env, node)
  expect(state).toMatchObject({ findings: [], facts: { size: 2, waiting: 0, height: 2 } })
  const sealers: string[] = []
  for (const height of [1, 2]) {
    expect((await checkBatch(platform.env, node, height)).findings).toEqual([])
    const answer = await platform.fetch(`/batches/${height}`)
    const { manifest } = (await answer.json()) as { manifest: string }
    const claims = JSON.parse(Buffer.from(manifest.split('.')[1]!, 'base64url').toString()) as {
      sealer: string
    }
    sealers.push(claims.sealer)
  }
  // Once the record is written, it stands as the old key signed it.
  expect(sealers).toEqual([isWritten ? old.did : next.did, next.did])
  return { isWritten, steps }
}

test('a seal that dies at any step before a rotation is finished after it', async () => {
  const { steps } = await day(null)
  expect(steps).toContain('r2.put batches/n')
  let written = 0
  for (const fault of ['kill-before', 'kill-after'] as const) {
    for (let step = 0; step < steps.length; step++) {
      let number = 0
      const died = await day(() => (number++ === step ? fault : null))
      if (died.isWritten) written++
    }
  }
  expect(written).toBeGreaterThan(10)
  expect(written).toBeLessThan(2 * steps.length - 10)
}, 300_000)
