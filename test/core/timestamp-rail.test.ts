import { afterAll, beforeAll, beforeEach, expect, test } from 'vitest'
import { verifyAnchorReceipt } from '#core/anchor-verify.ts'
import { fromHex, toHex } from '#core/bytes.ts'
import { VaultMeshError } from '#core/errors.ts'
import type { RailContext } from '../../queues/anchors/rail.ts'
import { timestampRail } from '../../queues/anchors/timestamp.ts'
import type { Tsa, TsaFault } from '../../scripts/devnet/tsa.ts'
import { startTsa } from '../../scripts/devnet/tsa.ts'
import { authorities } from '../support/tsa.ts'

const job = { root: fromHex('c3'.repeat(32)), treeSize: 9 }
const work = { nonce: 'f1'.repeat(16) }
const context: RailContext = {
  route: {
    first: async (providers, call) => call(providers[0]!),
    all: async (providers, call) => Promise.all(providers.map(call)),
  },
  released: false,
  fetch: (url, init) => fetch(url, init),
  now: () => Date.UTC(2026, 10, 23),
  random: (n) => new Uint8Array(n).fill(0xf1),
}

let home: Awaited<ReturnType<typeof authorities>>
let tsa: Tsa

beforeAll(async () => {
  home = await authorities()
  tsa = await startTsa({ dir: home.dir, port: 0 })
})
beforeEach(() => tsa.setFault('none'))
afterAll(async () => {
  await tsa.stop()
  await home.remove()
})

function rail(change: Partial<Parameters<typeof timestampRail>[0]> = {}) {
  return timestampRail({ url: tsa.url, roots: [tsa.rootPem], version: '0.1.0', ...change })
}

async function refusal(run: () => Promise<unknown>): Promise<VaultMeshError> {
  const error: unknown = await run().then(
    () => null,
    (thrown: unknown) => thrown,
  )
  if (!(error instanceof VaultMeshError)) throw new Error(`not refused: ${String(error)}`)
  return error
}

test('the nonce is handed over to be stored before any byte leaves', async () => {
  const offline: RailContext = {
    ...context,
    fetch: () => Promise.reject(new Error('no network yet')),
  }
  expect(await rail().submit(job, null, offline)).toEqual({ state: 'signed', work })
})

test('a stored nonce becomes a final receipt that verifies by itself', async () => {
  const step = await rail().submit(job, work, context)
  if (step.state !== 'final') throw new Error(step.state)
  const { receipt } = step
  expect(receipt).toMatchObject({
    root: `0x${toHex(job.root)}`,
    chain: 'TSA',
    network: '127.0.0.1',
    treeSize: 9,
    verifier: 'v0.1.0',
    observedAt: '2026-11-23T00:00:00.000Z',
    proof: { type: 'rfc3161', nonce: work.nonce },
  })
  expect((await verifyAnchorReceipt(receipt, { tsaRoots: [tsa.rootPem] })).outcome).toBe('verified')
  expect((await rail().verify(receipt, context)).outcome).toBe('verified')
  const other = rail({ url: 'https://tsa.example/' })
  expect((await other.verify(receipt, context)).outcome).toBe('refuted')
})

test('the same work may be submitted again after a crash', async () => {
  expect(await rail().check(job, work, context)).toEqual({ state: 'dropped', work })
  expect((await rail().submit(job, work, context)).state).toBe('final')
  expect((await rail().submit(job, work, context)).state).toBe('final')
})

const faults: readonly (readonly [TsaFault, string, string])[] = [
  ['down', 'anchor-failed', 'HTTP 503'],
  ['redirect', 'anchor-failed', 'answered HTTP'],
  ['html', 'anchor-failed', 'application/timestamp-reply'],
  ['reset', 'anchor-failed', 'could not be reached'],
  ['hang', 'anchor-failed', 'within 300 ms'],
  ['slow:900', 'anchor-failed', 'within 300 ms'],
  ['oversized', 'anchor-failed', 'more than 65536 bytes'],
  ['garbage', 'bad-timestamp', 'der: '],
  ['rejected', 'bad-timestamp', 'rejection (badAlg'],
  ['badsig', 'bad-timestamp', 'signature: '],
  ['wrong-nonce', 'bad-timestamp', 'nonce: '],
  ['wrong-imprint', 'bad-timestamp', 'imprint: '],
]
test.each(faults)('an authority that is %s fails the attempt as %s', async (fault, code, words) => {
  tsa.setFault(fault)
  const error = await refusal(() => rail({ timeoutMs: 300 }).submit(job, work, context))
  expect(error.code).toBe(code)
  expect(error.message).toContain(words)
})

test('an authority that is slow but in time is no failure', async () => {
  tsa.setFault('slow:100')
  expect((await rail().submit(job, work, context)).state).toBe('final')
})

test('an authority under another root or policy is refused', async () => {
  const { rootPem } = await home.make()
  const foreign = await refusal(() => rail({ roots: [rootPem] }).submit(job, work, context))
  expect(foreign.message).toContain('chain: ')
  const policy = await refusal(() => rail({ policies: ['1.2.3'] }).submit(job, work, context))
  expect(policy.message).toContain('policy: ')
})

test('credentials in the address travel as a header and never in an error', async () => {
  const seen: [string, RequestInit | undefined][] = []
  const spy: RailContext = {
    ...context,
    fetch: (url, init) => {
      seen.push([url, init])
      return Promise.reject(new Error(`cannot reach ${url} as user:hunter2`))
    },
  }
  const secret = rail({ url: 'https://user:hunter2@tsa.example/stamp?key=hunter3' })
  const error = await refusal(() => secret.submit(job, work, spy))
  expect(seen[0]?.[0]).toBe('https://tsa.example/stamp?key=hunter3')
  expect(seen[0]?.[1]?.headers).toMatchObject({ authorization: 'Basic dXNlcjpodW50ZXIy' })
  expect(JSON.stringify([error.message, error.extra, error.cause ?? null])).not.toContain('hunter')
})

test('work that is no nonce of ours is never sent', async () => {
  const offline: RailContext = { ...context, fetch: () => Promise.reject(new Error('sent')) }
  const error = await refusal(() => rail().submit(job, { nonce: 'xyz' }, offline))
  expect(error.code).toBe('bad-state')
})

test('an address that is no http URL is a fault of the configuration', () => {
  expect(() => rail({ url: 'ftp://tsa.example/' })).toThrow('http or https')
  expect(() => rail({ url: 'tsa.example' })).toThrow('http or https')
})
