/**
 * The node in the real runtime: SQLite storage with its gates, RPC with its cloning, alarms, queues.
 */

import { env as testEnv, evictDurableObject, runDurableObjectAlarm, SELF } from 'cloudflare:test'
import { expect, test, vi } from 'vitest'
import { fromBase64Url, toBase64Url, toHex, utf8 } from '#core/bytes.ts'
import { deriveIdentity, signJws } from '#core/node-keys.ts'
import { parseReceipt, verifyReceipt } from '#core/receipt.ts'
import { checkBatch, checkState } from '#store/fsck.ts'
import { nodeOf } from '#store/node.ts'

const env = testEnv as unknown as Env
const signer = await deriveIdentity(new Uint8Array(32).fill(3), 1)

function event(id: string, data: unknown = id): Promise<string> {
  return signJws(signer, 'vm-event+jws', {
    specversion: '1.0',
    id,
    source: signer.did,
    type: 'workerd.event',
    time: new Date().toISOString(),
    data,
  })
}

function post(body: string, headers: Record<string, string> = {}): Promise<Response> {
  return SELF.fetch('http://node/events', {
    method: 'POST',
    body,
    headers: { 'content-type': 'application/jose', ...headers },
  })
}

test('the platform’s base64url and hex say what ours say', () => {
  const bytes = crypto.getRandomValues(new Uint8Array(301))
  for (let n = 0; n < bytes.length; n++) {
    const part = bytes.subarray(0, n)
    const plain = btoa(String.fromCharCode(...part))
      .replaceAll('+', '-')
      .replaceAll('/', '_')
      .replaceAll('=', '')
    expect(toBase64Url(part)).toBe(plain)
    expect(toHex(part)).toBe([...part].map((b) => b.toString(16).padStart(2, '0')).join(''))
  }
})

test('the platform’s base64url decoder accepts one text for each byte string and no other', () => {
  const hostile = [
    'Q',
    'QQ==',
    'QQ=',
    'QUI=',
    'QR',
    'QQ Q',
    ' QUJD',
    'QUJD    ',
    'QU\nJD',
    'QUJ+',
    'QUJ/',
    'QÜJD',
    'QUJDQ',
    '=',
    '====',
    '\u0100QQQ',
  ]
  for (const text of hostile) expect(() => fromBase64Url(text), text).toThrow()
  for (const [text, bytes] of [
    ['', []],
    ['QQ', [65]],
    ['QUI', [65, 66]],
    ['QUJD', [65, 66, 67]],
    ['_-8', [255, 239]],
  ] as const) {
    expect([...fromBase64Url(text)], text).toEqual([...bytes])
  }
})

test('a posted event is sealed while the client waits, and its receipt verifies', async () => {
  const jws = await event('waits')
  const response = await post(jws, { prefer: 'wait=20' })
  expect(response.status).toBe(200)
  expect(response.headers.get('preference-applied')).toBe('wait=20')
  const { receipt } = (await response.json()) as { receipt: unknown }
  const node = await nodeOf(env)
  const report = await verifyReceipt(
    parseReceipt(JSON.stringify(receipt)),
    { vkeys: [node.vkey], tsaRoots: [] },
    utf8(jws),
  )
  expect(report.checks.filter((check) => check.ok === false)).toEqual([])
  expect(report.verdict).toBe('verified')
})

test('the same event again gets the first answer, another under its id a 409', async () => {
  const first = (await (await post(await event('twice'))).json()) as Record<string, unknown>
  const again = await post(await event('twice', 'other content'))
  expect(again.status).toBe(409)
  expect(((await again.json()) as { type: string }).type).toBe('/problems/event-id-reused')
  expect(first['status']).toBe('accepted')
})

test('claims and waiting events survive the eviction of their pool, merged or not', async () => {
  const jws = await event('evicted')
  const first = (await (await post(jws)).json()) as Record<string, unknown>
  await evictDurableObject(env.POOL.getByName('0') as never)
  const second = await post(jws)
  expect(second.status).toBe(200)
  expect(await second.json()).toEqual(first)
  const status = await SELF.fetch(`http://node/events/${String(first['eventHash'])}/status`)
  expect(((await status.json()) as { status: string }).status).toMatch(/accepted|sealed/)
})

test('an alarm seals what no message asked for', async () => {
  await post(await event('by alarm'))
  const log = env.SEQUENCER.getByName('log')
  await log.wake([0])
  await runDurableObjectAlarm(log as never)
  await vi.waitFor(
    async () => {
      const { facts } = await checkState(env, await nodeOf(env))
      expect(facts['waiting']).toBe(0)
    },
    { timeout: 20_000, interval: 200 },
  )
})

test('70,000 claims merge in key order and every one still answers', async () => {
  const pool = env.POOL.getByName('claims')
  const group = (from: number, n: number) => {
    const digests = new Uint8Array(n * 96)
    const view = new DataView(digests.buffer)
    for (let i = 0; i < n; i++) {
      // Spread the first 53 bits over the key space; the rest tells the events apart.
      view.setUint32(i * 96, Math.imul(from + i, 2654435761) >>> 0)
      view.setUint32(i * 96 + 8, from + i)
      view.setUint32(i * 96 + 32, from + i)
      view.setUint32(i * 96 + 64, from + i)
    }
    return { lengths: new Uint32Array(n).fill(1), data: new Uint8Array(n), digests }
  }
  for (let at = 0; at < 70_000; at += 2000) {
    const { repeats } = await pool.admit(0, group(at, 2000))
    expect(repeats).toBeNull()
  }
  const audit = await pool.audit()
  expect(audit.claims).toBe(70_000)
  expect(audit.events).toBe(70_000)
  for (const at of [0, 1999, 32_768, 40_000, 69_000]) {
    const { repeats, lastSeq } = await pool.admit(0, group(at, 100))
    expect(repeats?.outcomes.every((o) => o === 1)).toBe(true)
    expect(lastSeq).toBe(69_999)
  }
  await evictDurableObject(pool as never)
  const { repeats } = await pool.admit(0, group(12_345, 3))
  expect([...(repeats?.outcomes ?? [])]).toEqual([1, 1, 1])
})

test('two identities that share 53 bits are two claims', async () => {
  const pool = env.POOL.getByName('collide')
  const digests = new Uint8Array(3 * 96)
  digests.fill(9, 0, 7)
  digests.fill(9, 96, 103)
  digests.fill(9, 192, 199)
  digests[20] = 1
  digests[96 + 20] = 2
  digests[192 + 20] = 1 // the first identity again, with other content
  digests[192 + 40] = 7
  const result = await pool.admit(1, {
    lengths: Uint32Array.of(1, 1, 1),
    data: new Uint8Array(3),
    digests,
  })
  expect([...(result.repeats?.outcomes ?? [])]).toEqual([0, 0, 2])
})

test('at the end of it fsck finds nothing', async () => {
  const node = await nodeOf(env)
  await env.SEQUENCER.getByName('log').seal(true)
  const { findings, facts } = await checkState(env, node)
  expect(findings).toEqual([])
  for (let height = 1; height <= Number(facts['height']); height++) {
    expect((await checkBatch(env, node, height)).findings).toEqual([])
  }
})
