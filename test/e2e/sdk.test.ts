import { spawnSync } from 'node:child_process'
import { Miniflare } from 'miniflare'
import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import {
  createSigner,
  eventHashOf,
  post,
  promiseOf,
  RemoteProblem,
  sign,
  trustOf,
  verify,
  type Alg,
  type EventSigner,
  type Trust,
} from '../../functions/sdk.ts'
import { buildSdk } from '../../scripts/build-sdk.ts'
import { ROOT } from '../../scripts/build.ts'
import { startNode, type RunningNode } from '../../scripts/selfhost.ts'
import { freePort, run, sandbox } from './support.ts'

const ALGS: readonly Alg[] = ['EdDSA', 'ES256', 'ES256K', 'EIP191']
const BUNDLE = resolve(ROOT, 'dist/sdk/sdk.js')

let box: Awaited<ReturnType<typeof sandbox>>
let node: RunningNode
let trust: Trust

beforeAll(async () => {
  box = await sandbox()
  node = await startNode({
    home: `${box.dir}/node`,
    port: await freePort(),
    vars: { SEAL_BATCH_MAX_INTERVAL_MS: '300', RATE_LIMIT_DID: '0', RATE_LIMIT_IP: '0' },
  })
  trust = await trustOf(node.url)
}, 60_000)

afterAll(async () => {
  await node?.stop()
  await box?.remove()
})

function aSigner(alg: Alg = 'EdDSA'): Promise<EventSigner> {
  return createSigner({ alg, secret: crypto.getRandomValues(new Uint8Array(32)) })
}

describe('against a running node', () => {
  test.each(ALGS)('an event signed %s is posted, sealed, promised and verified', async (alg) => {
    const signer = await aSigner(alg)
    const jws = await sign(signer, { type: 'test.sdk', subject: 'a/b', data: { ü: [1, null] } })
    const posted = await post(node.url, jws, { wait: 20 })
    expect(posted.eventHash).toBe(eventHashOf(jws))
    const report = await verify(posted.receipt!, trust, jws)
    expect(report.verdict).toBe('verified')
    expect(posted.receipt!.source).toBe(signer.did)
    const claims = await promiseOf(posted.promise!, posted.eventHash)
    expect(claims).toMatchObject({ iss: trust.node_did, origin: trust.origin })
    expect(Date.parse(claims.sealBy)).toBeGreaterThan(Date.parse(posted.receivedAt))
  })

  test.each(ALGS)('an event signed %s is refused after one changed byte', async (alg) => {
    const jws = await sign(await aSigner(alg), { type: 'test.sdk' })
    const at = jws.length - 20
    const other = jws.slice(0, at) + (jws[at] === 'A' ? 'B' : 'A') + jws.slice(at + 1)
    const refusal = post(node.url, other)
    await expect(refusal).rejects.toBeInstanceOf(RemoteProblem)
    await expect(refusal).rejects.toMatchObject({ code: 'bad-signature', status: 400 })
  })

  test('EIP191 names the chain it is told, and posts under that name', async () => {
    const secret = crypto.getRandomValues(new Uint8Array(32))
    const signer = await createSigner({ alg: 'EIP191', secret, chainId: 8453 })
    expect(signer.did).toMatch(/^did:pkh:eip155:8453:0x[0-9a-f]{40}$/)
    const posted = await post(node.url, await sign(signer, { type: 'test.sdk' }))
    expect(posted.status).toBe('accepted')
  })

  test('a bulk answers in the order of its events, and its promise covers just those', async () => {
    const signer = await aSigner('ES256')
    const events = await Promise.all([1, 2, 3].map((i) => sign(signer, { type: 't', id: `${i}` })))
    const clash = await sign(signer, { type: 't', id: '1', data: 'other' })
    const { results, promises } = await post(node.url, [...events, clash, events[0]!])
    expect(results.map((r) => r.index)).toEqual([0, 1, 2, 3, 4])
    expect(results[3]).toMatchObject({ problem: { type: '/problems/event-id-reused' } })
    expect(results[4]).toMatchObject({ eventHash: eventHashOf(events[0]!), duplicate: true })
    const [first] = promises
    expect(first!.eventHashes).toEqual([...events, events[0]!].map(eventHashOf))
    await promiseOf(first!.promise, first!.eventHashes)
    await expect(promiseOf(first!.promise, first!.eventHashes.slice(1))).rejects.toMatchObject({
      code: 'bad-proof',
    })
    await expect(promiseOf(first!.promise, eventHashOf(clash))).rejects.toMatchObject({
      code: 'bad-proof',
    })
  })

  test('a receipt of another event is refuted', async () => {
    const signer = await aSigner()
    const [one, two] = [await sign(signer, { type: 't' }), await sign(signer, { type: 't' })]
    const { receipt } = await post(node.url, one, { wait: 20 })
    expect((await verify(receipt!, trust, two)).verdict).toBe('refuted')
    expect((await verify(receipt!, { vkeys: [], tsaRoots: [] }, one)).verdict).toBe('untrusted')
  })
})

describe('signing', () => {
  test('fills in what is absent and leaves what is given', async () => {
    const signer = await aSigner()
    const payload = (jws: string) =>
      JSON.parse(Buffer.from(jws.split('.')[1]!, 'base64url').toString()) as Record<string, unknown>
    const filled = payload(await sign(signer, { type: 't' }))
    expect(filled).toMatchObject({ specversion: '1.0', source: signer.did, type: 't' })
    expect(filled['id']).toMatch(/^[0-9a-f-]{36}$/)
    expect(Date.parse(filled['time'] as string)).toBeGreaterThan(Date.now() - 10_000)
    const given = { type: 't', id: 'mine', time: '2026-01-01T00:00:00Z', traceparent: '00-1' }
    expect(payload(await sign(signer, given))).toMatchObject(given)
  })

  test.each([
    ['a short secret', { alg: 'EdDSA', secret: new Uint8Array(31) }],
    ['zero as a P-256 scalar', { alg: 'ES256', secret: new Uint8Array(32) }],
    ['a secp256k1 scalar above the order', { alg: 'ES256K', secret: new Uint8Array(32).fill(255) }],
    ['chain 0', { alg: 'EIP191', secret: new Uint8Array(32).fill(1), chainId: 0 }],
    ['an unknown algorithm', { alg: 'RS256' as Alg, secret: new Uint8Array(32).fill(1) }],
  ] as const)('refuses %s', async (_, options) => {
    await expect(createSigner(options)).rejects.toMatchObject({ code: 'bad-config' })
  })

  test('refuses an event too large before the network does', async () => {
    const event = { type: 't', data: 'x'.repeat(60_000) }
    await expect(sign(await aSigner(), event)).rejects.toMatchObject({ code: 'event-too-large' })
  })
})

describe('posting through trouble', () => {
  const answer = { eventHash: 'sha256:00', eventId: '1', status: 'accepted', receivedAt: 'now' }
  const busy = (after?: string) => () =>
    Response.json(
      { type: '/problems/overloaded', detail: 'Busy.', advice: 'Again.' },
      { status: 503, headers: after === undefined ? {} : { 'retry-after': after } },
    )
  const cut = (): never => {
    throw new TypeError('fetch failed')
  }
  /** A fetch that answers by a list of turns and counts them. */
  function turns(...list: (() => Response)[]) {
    const bodies: unknown[] = []
    return {
      bodies,
      fetch: async (_: string, init: RequestInit) => {
        bodies.push(init.body)
        return (list[bodies.length - 1] ?? list.at(-1)!)()
      },
    }
  }

  test('sends the same bytes again after 503, 429 and a cut connection', async () => {
    const limited = () => new Response('{}', { status: 429, headers: { 'retry-after': '0' } })
    const net = turns(busy('0'), cut, limited, () => Response.json(answer, { status: 202 }))
    expect(await post('http://node', 'a.b.c', { fetch: net.fetch })).toEqual(answer)
    expect(net.bodies).toEqual(['a.b.c', 'a.b.c', 'a.b.c', 'a.b.c'])
  })

  test('waits as long as Retry-After says', async () => {
    const net = turns(busy('1'), () => Response.json(answer, { status: 202 }))
    const begun = performance.now()
    await post('http://node', 'a.b.c', { fetch: net.fetch })
    expect(performance.now() - begun).toBeGreaterThanOrEqual(990)
  })

  test('gives up after its attempts with the node’s last word', async () => {
    const net = turns(busy('0'))
    await expect(
      post('http://node', 'a.b.c', { fetch: net.fetch, attempts: 3 }),
    ).rejects.toMatchObject({
      code: 'overloaded',
      status: 503,
      message: 'Busy.',
      advice: 'Again.',
    })
    expect(net.bodies).toHaveLength(3)
  })

  test('gives up on a node that never answers, as unreachable', async () => {
    const net = turns(cut)
    await expect(
      post('http://node', 'a.b.c', { fetch: net.fetch, attempts: 2 }),
    ).rejects.toMatchObject({
      code: 'unreachable',
      status: 0,
    })
    expect(net.bodies).toHaveLength(2)
  })

  test('does not sit out a Retry-After beyond its limit', async () => {
    const net = turns(busy('3600'))
    await expect(post('http://node', 'a.b.c', { fetch: net.fetch })).rejects.toMatchObject({
      status: 503,
    })
    expect(net.bodies).toHaveLength(1)
  })

  test('never repeats a refusal', async () => {
    const net = turns(() =>
      Response.json({ type: '/problems/bad-jws', detail: 'No.' }, { status: 400 }),
    )
    await expect(post('http://node', 'x', { fetch: net.fetch })).rejects.toMatchObject({
      code: 'bad-jws',
    })
    expect(net.bodies).toHaveLength(1)
  })

  test('knows codes that this version does not', async () => {
    const net = turns(() => Response.json({ type: '/problems/from-tomorrow' }, { status: 418 }))
    await expect(post('http://node', 'x', { fetch: net.fetch })).rejects.toMatchObject({
      code: 'from-tomorrow',
    })
  })

  test('stops when it is told to', async () => {
    const stop = AbortSignal.timeout(50)
    const net = turns(busy('30'))
    await expect(
      post('http://node', 'a.b.c', { fetch: net.fetch, signal: stop }),
    ).rejects.toMatchObject({ name: 'TimeoutError' })
  })

  test('splits a bulk at 10,000 lines and at 8 MiB, and keeps count', async () => {
    const sizes: { lines: number; bytes: number }[] = []
    const fetch = async (_: string, init: RequestInit) => {
      const lines = (init.body as string).split('\n')
      sizes.push({ lines: lines.length, bytes: (init.body as string).length })
      const results = lines.map((line, i) => ({ line: i + 1, status: 'accepted', eventHash: line }))
      return Response.json({ results, promise: 'p' })
    }
    const short = Array.from({ length: 20_001 }, (_, i) => `s${i}`)
    const many = await post('http://node', short, { fetch })
    expect(sizes.map((s) => s.lines)).toEqual([10_000, 10_000, 1])
    expect(many.results.map((r) => ('eventHash' in r ? r.eventHash : ''))).toEqual(short)
    expect(many.results.every((r, i) => r.index === i)).toBe(true)
    expect(many.promises.map((p) => p.eventHashes.length)).toEqual([10_000, 10_000, 1])
    sizes.length = 0
    const long = Array.from({ length: 300 }, (_, i) => `${i}`.padStart(60_000, 'x'))
    await post('http://node', long, { fetch })
    expect(sizes.reduce((sum, s) => sum + s.lines, 0)).toBe(300)
    expect(Math.max(...sizes.map((s) => s.bytes))).toBeLessThanOrEqual(8_388_608)
    expect(sizes).toHaveLength(3)
  })

  test('refuses a bulk entry that would shift the lines of others', async () => {
    const net = turns(cut)
    for (const event of ['a\nb', '', 'a\r']) {
      await expect(post('http://node', ['x', event], { fetch: net.fetch })).rejects.toMatchObject({
        code: 'bad-jws',
      })
    }
  })
})

describe('the built package', () => {
  beforeAll(() => buildSdk(), 60_000)

  test('needs nothing of Node and has types for all it exports', async () => {
    expect(readFileSync(BUNDLE, 'utf8')).not.toMatch(/from\s*"|require\(|\bprocess\.|\bBuffer\b/)
    const built = (await import(BUNDLE)) as Record<string, unknown>
    const types = readFileSync(BUNDLE.replace('.js', '.d.ts'), 'utf8')
    for (const name of Object.keys(built)) expect(types).toContain(name)
    expect(types).not.toContain('#core/')
  })

  test('type-checks its example as a package that others import', () => {
    const flags = '--ignoreConfig --noEmit --strict --skipLibCheck --module esnext --target es2022'
    const where = '--moduleResolution bundler --lib es2022,dom --types node docs/sdk-example.ts'
    const tsc = resolve(ROOT, 'node_modules/.bin/tsc')
    const args = `${flags} ${where}`.split(' ')
    const { stdout, status } = spawnSync(tsc, args, { cwd: ROOT, encoding: 'utf8' })
    expect(stdout).toBe('')
    expect(status).toBe(0)
  })

  test('runs its ten-line example in Node against a node', async () => {
    const ran = await run(['docs/sdk-example.ts'], { env: { VAULTMESH_URL: node.url } })
    expect(ran.stderr).toBe('')
    expect(ran.stdout).toMatch(/^verified The event is leaf \d+ of /)
    expect(ran.code).toBe(0)
  })

  test('signs, posts and verifies inside workerd without Node compatibility', async () => {
    const worker = `import { createSigner, post, sign, trustOf, verify } from './sdk.js'
      export default { async fetch(request, env) {
        const trust = await trustOf(env.NODE)
        const out = {}
        for (const alg of ${JSON.stringify(ALGS)}) {
          const secret = crypto.getRandomValues(new Uint8Array(32))
          const jws = await sign(await createSigner({ alg, secret }), { type: 'test.workerd' })
          const { receipt } = await post(env.NODE, jws, { wait: 20 })
          out[alg] = (await verify(receipt, trust, jws)).verdict
        }
        return Response.json(out)
      } }`
    const miniflare = new Miniflare({
      host: '127.0.0.1',
      port: 0,
      cf: false,
      workers: [
        {
          config: {
            name: 'client',
            compatibilityDate: '2026-10-23',
            compatibilityFlags: ['no_nodejs_compat_v2'],
            manifest: {
              mainModule: 'index.js',
              modules: {
                'index.js': { type: 'esm', contents: worker },
                'sdk.js': { type: 'esm', contents: readFileSync(BUNDLE, 'utf8') },
              },
            },
            env: { NODE: { type: 'text', value: node.url } },
          },
        },
      ],
    } as never)
    try {
      const response = await miniflare.dispatchFetch('http://client/')
      expect(await response.json()).toEqual(
        Object.fromEntries(ALGS.map((alg) => [alg, 'verified'])),
      )
    } finally {
      await miniflare.dispose()
    }
  })
})
