/**
 * A log asks a witness: what it sends, what it makes of every answer, and the whole way through the routes of
 * a node to a witness that remembers.
 */

import { DatabaseSync } from 'node:sqlite'
import { ed25519 } from '@noble/curves/ed25519.js'
import { describe, expect, test } from 'vitest'
import { parseAddCheckpoint, type AddCheckpointRequest } from '#core/add-checkpoint.ts'
import { concat, toHex, utf8, type Hash } from '#core/bytes.ts'
import {
  addSignatures,
  cosignCheckpoint,
  signCheckpoint,
  verifyCheckpoint,
} from '#core/checkpoint.ts'
import { consistencyProof } from '#core/consistency-proof.ts'
import { VaultMeshError } from '#core/errors.ts'
import { leafHashes, rootOf } from '#core/merkle.ts'
import { sha256 } from '#core/sha256.ts'
import {
  TYPE_COSIGNATURE,
  formatSignature,
  parseNote,
  verifierKey,
  type NoteSigner,
} from '#core/signed-note.ts'
import { submitCheckpoint, type Submission } from '../../durable-objects/witness-client.ts'
import { WitnessStore } from '../../durable-objects/witness-store.ts'
import { SqlStorageSim } from '../sim/sqlite.ts'

const URL_PREFIX = 'https://me:hunter2@w.example:8443/hunter3'
const origin = 'log.example/log'
const log = signer(origin, 1)
const witness = signer('w.example/witness', 2, TYPE_COSIGNATURE)
const NOW = 1_700_000_000_000
const SIZE = 9
const packed = leafHashes(Array.from({ length: 12 }, (_, i) => utf8(`leaf ${i}`)))
const NOTE = await noteAt(SIZE)
const { text: TEXT } = parseNote(NOTE)
const GOOD = formatSignature(await cosignCheckpoint(TEXT, witness, NOW / 1000))

/** One question as the witness saw it. */
interface Asked {
  readonly url: string
  readonly init: RequestInit
  readonly request: AddCheckpointRequest
}

type Reply = (asked: Asked, n: number) => Response | Promise<Response>

/** Submits to a witness that answers so, and tells what it was asked. */
async function submit(reply: Reply, change: Partial<Submission> = {}) {
  const asked: Asked[] = []
  const proofs: (readonly [number, number])[] = []
  const done = submitCheckpoint({
    fetch: async (url, init) => {
      const question = { url, init: init!, request: parseAddCheckpoint(init!.body as Uint8Array) }
      return reply(question, asked.push(question))
    },
    url: URL_PREFIX,
    witness: witness.key,
    note: NOTE,
    log: log.key,
    knownSize: 0,
    prove: async (from, to) => {
      proofs.push([from, to])
      return proofOf(from, to)
    },
    timeoutMs: 100,
    ...change,
  })
  const result = await done.catch((error: unknown) => error)
  return { result, asked, proofs }
}

const ok = () => new Response(GOOD)
const conflict = (body: string) =>
  new Response(body, { status: 409, headers: { 'content-type': 'text/x.tlog.size' } })

describe('a submission', () => {
  test('is one POST of the log’s own signature and the proof from the known size', async () => {
    const others = await Promise.all(
      [3, 4, 5].map((n) => cosignCheckpoint(TEXT, signer(`w${n}`, n, TYPE_COSIGNATURE), n)),
    )
    const note = addSignatures(NOTE, others)
    const { result, asked, proofs } = await submit(ok, { note, knownSize: 5 })
    expect(result).toMatchObject({ size: SIZE, cosignatures: [{ name: witness.key.name }] })
    expect(asked).toHaveLength(1)
    const [{ url, init, request }] = asked as [Asked]
    expect(url).toBe('https://w.example:8443/hunter3/add-checkpoint')
    expect(init).toMatchObject({ method: 'POST', redirect: 'manual' })
    expect(new Headers(init.headers).get('authorization')).toBe(`Basic ${btoa('me:hunter2')}`)
    expect(new Headers(init.headers).get('content-type')).toBe('text/plain; charset=utf-8')
    expect(request).toMatchObject({ oldSize: 5, note: NOTE })
    expect(request.proof).toEqual(await proofOf(5, SIZE))
    expect(proofs).toEqual([[5, SIZE]])
  })

  test.each([
    ['nothing is known', 0, 0],
    ['the same was cosigned', SIZE, SIZE],
    ['more was cosigned than this', SIZE + 3, SIZE],
  ])('needs no proof if %s', async (_, knownSize, oldSize) => {
    const { result, asked, proofs } = await submit(ok, { knownSize })
    expect(result).toMatchObject({ size: SIZE })
    expect(asked[0]?.request).toMatchObject({ oldSize, proof: [] })
    expect(proofs).toEqual([])
  })

  test.each([
    ['https://w.example', 'https://w.example/add-checkpoint'],
    ['https://w.example/', 'https://w.example/add-checkpoint'],
    ['http://127.0.0.1:8787/witness//', 'http://127.0.0.1:8787/witness/add-checkpoint'],
  ])('to %s goes to %s', async (url, expected) => {
    expect((await submit(ok, { url })).asked[0]?.url).toBe(expected)
  })

  test.each(['', 'w.example', 'ftp://w.example', 'https://w.example/?x=1', 'https://w.example/#x'])(
    'is not sent to %j',
    async (url) => {
      const { result, asked } = await submit(ok, { url })
      expect(result).toMatchObject({ code: 'bad-config' })
      expect(asked).toEqual([])
    },
  )

  test('is not sent if the log did not sign, or if there is no proof', async () => {
    const unsigned = await submit(ok, { log: signer(origin, 9).key })
    expect(unsigned.result).toMatchObject({ code: 'untrusted-key' })
    const prove = () => Promise.reject(new VaultMeshError('storage-failed', 'No tile.'))
    const unproved = await submit(ok, { prove, knownSize: 3 })
    expect(unproved.result).toMatchObject({ code: 'storage-failed' })
    expect([...unsigned.asked, ...unproved.asked]).toEqual([])
  })

  test('believes no key of another kind', async () => {
    const { result } = await submit(() => new Response(NOTE.slice(TEXT.length + 1)), {
      witness: log.key,
    })
    expect(result).toMatchObject({ code: 'bad-config' })
  })
})

describe('a witness that names its size', () => {
  test.each([
    ['a smaller one than we knew', 5, 3, 2],
    ['a larger one than we knew', 3, 5, 2],
    ['some, and we knew none', 0, 5, 1],
    ['none, and we knew some', 5, 0, 1],
    ['ours', 5, SIZE, 1],
  ])('is asked once more from there: %s', async (_, knownSize, said, proved) => {
    const { result, asked, proofs } = await submit(
      (_asked, n) => (n === 1 ? conflict(`${said}\n`) : ok()),
      { knownSize },
    )
    expect(result).toMatchObject({ size: SIZE, cosignatures: [{ name: witness.key.name }] })
    expect(asked.map(({ request }) => request.oldSize)).toEqual([knownSize, said])
    const last = asked[1]!.request
    const isProved = 0 < said && said < SIZE
    expect(last.proof).toEqual(isProved ? await proofOf(said, SIZE) : [])
    expect(proofs).toHaveLength(proved)
  })

  test('above ours is believed, and asked for nothing more', async () => {
    const { result, asked } = await submit(() => conflict(`${SIZE + 1}\n`), { knownSize: 5 })
    expect(result).toMatchObject({
      code: 'no-such-size',
      message: `w.example:8443 has cosigned ${SIZE + 1} leaves, not ${SIZE}.`,
      extra: { size: SIZE + 1, host: 'w.example:8443' },
    })
    expect(asked).toHaveLength(1)
  })

  test('and then another is asked again later', async () => {
    const { result, asked } = await submit((_asked, n) => conflict(`${2 * n}\n`), { knownSize: 7 })
    expect(result).toMatchObject({ code: 'overloaded', extra: { size: 4 } })
    expect(asked).toHaveLength(2)
  })

  test('and then a larger one than ours says so', async () => {
    const { result, asked } = await submit((_asked, n) => conflict(`${6 * n}\n`))
    expect(result).toMatchObject({ code: 'no-such-size', extra: { size: 12 } })
    expect(asked).toHaveLength(2)
  })

  test('that we sent is no witness', async () => {
    const { result, asked } = await submit(() => conflict('5\n'), { knownSize: 5 })
    expect(result).toMatchObject({ code: 'bad-note' })
    expect(asked).toHaveLength(1)
    const later = await submit(() => conflict('3\n'), { knownSize: 5 })
    expect(later.result).toMatchObject({ code: 'bad-note' })
    expect(later.asked).toHaveLength(2)
  })

  test.each([
    ['nothing', ''],
    ['a newline', '\n'],
    ['no newline', '55'],
    ['64 KiB of digits', `${'5'.repeat(65_535)}\n`],
    ['two newlines', '5\n\n'],
    ['a leading zero', '05\n'],
    ['a sign', '+5\n'],
    ['a negative size', '-1\n'],
    ['CR LF', '5\r\n'],
    ['a size of 2^53', '9007199254740992\n'],
    ['17 digits', '10000000000000000\n'],
    ['JSON', '{"size":5}\n'],
    ['bytes that are not UTF-8', '\u00ff'],
    ['a cosignature', GOOD],
  ])('as %s is no witness', async (_, body) => {
    const bytes = body === '\u00ff' ? Uint8Array.of(0xff, 0x0a) : utf8(body)
    const { result, asked } = await submit(() => new Response(bytes as BodyInit, { status: 409 }))
    expect(result).toMatchObject({
      code: 'bad-note',
      message: 'w.example:8443 answered HTTP 409 without a size.',
      extra: { host: 'w.example:8443' },
    })
    expect(asked).toHaveLength(1)
  })

  test('of 16 digits is read', async () => {
    const { result } = await submit(() => conflict('9007199254740991\n'))
    expect(result).toMatchObject({ code: 'no-such-size', extra: { size: 2 ** 53 - 1 } })
  })
})

describe('a witness that is none', () => {
  const endless = () =>
    new ReadableStream({
      pull: (controller) => controller.enqueue(new Uint8Array(4096).fill(0x20)),
    })
  const redirect = (status: number) => () =>
    new Response(null, { status, headers: { location: 'https://else.example/' } })
  const answers: readonly (readonly [string, string, string, Reply])[] = [
    ['refuses the connection', 'overloaded', 'could not be reached', () => refuseConnection()],
    ['redirects by 302', 'overloaded', 'HTTP 302', redirect(302)],
    ['redirects by 307', 'overloaded', 'HTTP 307', redirect(307)],
    ['redirects by 308', 'overloaded', 'HTTP 308', redirect(308)],
    ['pushes back', 'overloaded', 'HTTP 429', () => new Response('hunter', { status: 429 })],
    ['breaks', 'overloaded', 'HTTP 500', () => new Response(GOOD, { status: 500 })],
    ['has no content', 'overloaded', 'HTTP 204', () => new Response(null, { status: 204 })],
    ['accepts', 'overloaded', 'HTTP 202', () => new Response(GOOD, { status: 202 })],
    ['never ends', 'overloaded', 'more than 65536 bytes', () => new Response(endless())],
    [
      'answers 64 KiB and a byte',
      'overloaded',
      'more than 65536 bytes',
      () => new Response(concat(utf8(GOOD), new Uint8Array(65_537 - utf8(GOOD).length))),
    ],
    [
      'never ends a 409',
      'overloaded',
      'more than 65536 bytes',
      () => new Response(endless(), { status: 409 }),
    ],
    ['never begins', 'overloaded', 'did not answer within', ({ init }) => givenUp(init.signal!)],
    [
      'stops in the middle',
      'overloaded',
      'did not answer within',
      ({ init }) => new Response(stalled(init.signal!)),
    ],
    ['answers nothing', 'bad-note', 'no valid cosignature', () => new Response('')],
    ['answers a page', 'bad-note', 'no valid cosignature', () => new Response('<html>hunter')],
    [
      'answers with the note',
      'bad-note',
      'no valid cosignature',
      () => new Response(`${NOTE}${GOOD}`),
    ],
    [
      'answers with binary',
      'bad-note',
      'no valid cosignature',
      () => new Response(new Uint8Array(99).fill(0xff)),
    ],
    [
      'signs with another key',
      'bad-note',
      'no valid cosignature',
      async () => new Response(await cosigned(signer(witness.key.name, 9, TYPE_COSIGNATURE))),
    ],
    [
      'signs under another name',
      'bad-note',
      'no valid cosignature',
      async () => new Response(await cosigned(signer('v.example', 2, TYPE_COSIGNATURE))),
    ],
    [
      'signs another checkpoint',
      'bad-note',
      'no valid cosignature',
      async () => new Response(await cosigned(witness, parseNote(await noteAt(8)).text)),
    ],
    ...([400, 403, 404, 422] as const).map(
      (status) =>
        [
          `refuses by ${status}`,
          'bad-request',
          `refused the checkpoint: HTTP ${status}`,
          () => new Response('hunter', { status }),
        ] as const,
    ),
  ]
  test.each(answers)('%s: %s', async (_, code, words, reply) => {
    const { result, asked } = await submit(reply)
    if (!(result instanceof VaultMeshError)) throw new Error(`not refused: ${String(result)}`)
    expect(result.code).toBe(code)
    expect(result.message).toContain(words)
    expect(result.extra).toMatchObject({ host: 'w.example:8443' })
    expect(`${result.stack} ${String(result.cause)}`).not.toContain('hunter')
    expect(asked).toHaveLength(1)
  })

  test('says by which status it refused', async () => {
    const { result } = await submit(() => new Response('', { status: 422 }))
    expect(result).toMatchObject({ extra: { status: 422, host: 'w.example:8443' } })
  })

  test('that is slow twice has one deadline for both', async () => {
    const startedAt = Date.now()
    const { result, asked } = await submit(
      async ({ init }, n) => {
        if (n === 2) return givenUp(init.signal!)
        await new Promise((resolve) => setTimeout(resolve, 150))
        return conflict('3\n')
      },
      { timeoutMs: 250 },
    )
    expect(asked).toHaveLength(2)
    expect(result).toMatchObject({ code: 'overloaded' })
    expect(Date.now() - startedAt).toBeLessThan(390)
  })

  test('among good lines of others, 16 KiB of them, is found all the same', async () => {
    const others = await Promise.all(
      Array.from({ length: 90 }, (_, i) =>
        cosigned(signer(`v${i}.example`, 10 + i, TYPE_COSIGNATURE)),
      ),
    )
    const { result } = await submit(() => new Response(others.join('') + GOOD))
    expect(result).toMatchObject({ cosignatures: [{ name: witness.key.name }] })
  })
})

/** A route of a node, as far as it is used here. */
interface Route {
  handle(call: unknown): Promise<Response>
}

describe('a node that witnesses', async () => {
  // Typed for the Worker, not for Node.
  const routes = '../../functions/http/witness.ts'
  const { postAddCheckpoint, getCosigned } = (await import(routes)) as Record<string, Route>

  /** The routes of a node over the memory of its witness. */
  function node(fail: () => void = () => undefined) {
    const storage = new SqlStorageSim(
      new DatabaseSync(':memory:'),
      (_step, effect) => {
        fail()
        return effect()
      },
      { get: () => null, set: () => undefined },
    )
    storage.sql.exec(WitnessStore.SCHEMA)
    const store = new WitnessStore(storage.sql, storage)
    const role = { logOf: (of: string) => (of === origin ? log.key : null), witness, nowAt: NOW }
    const federation = {
      addCheckpoint: async (body: Uint8Array) => store.addCheckpoint(body, role),
      cosigned: async (of: string) => store.cosigned(of),
    }
    const env = {
      FEDERATION: {
        getByName: (name: string) => {
          expect(name).toBe('node')
          return federation
        },
      },
    }
    const post = (body: Uint8Array | ReadableStream, headers: Record<string, string> = {}) =>
      postAddCheckpoint!.handle({
        env,
        request: new Request('http://node/witness/add-checkpoint', {
          method: 'POST',
          body: body as BodyInit,
          headers,
          duplex: 'half',
        } as RequestInit),
      })
    const get = (of: string) => getCosigned!.handle({ env, params: { log: of } })
    return { store, federation, post, get }
  }

  test('cosigns, remembers, and serves what it cosigned', async () => {
    const { post, get, store } = node()
    await expect(get(hashOf(origin))).rejects.toMatchObject({ code: 'not-found' })
    const statuses: number[] = []
    const fetch: Submission['fetch'] = async (_url, init) => {
      const response = await post(init!.body as Uint8Array)
      statuses.push(response.status)
      return response
    }
    const common = { fetch, url: 'http://node/witness', witness: witness.key, log: log.key }
    const rest = { ...common, prove: proofOf, timeoutMs: 1000 }
    for (const [size, knownSize] of [
      [3, 0],
      [7, 3],
      [SIZE, 0],
      [SIZE, SIZE],
    ] as const) {
      const note = await noteAt(size)
      const done = await submitCheckpoint({ ...rest, note, knownSize })
      expect(done.size).toBe(size)
      const trust = { log: log.key, witnesses: [witness.key] }
      const full = await verifyCheckpoint(addSignatures(note, done.cosignatures), trust)
      expect(full.cosignatures).toHaveLength(1)
      const served = await get(hashOf(origin))
      expect(served.headers.get('content-type')).toBe('text/plain; charset=utf-8')
      expect(await served.text()).toBe(addSignatures(note, done.cosignatures))
    }
    expect(statuses).toEqual([200, 200, 409, 200, 200])
    const late = submitCheckpoint({ ...rest, note: await noteAt(7), knownSize: 3 })
    await expect(late).rejects.toMatchObject({ code: 'no-such-size', extra: { size: SIZE } })
    expect(store.latest(origin)?.size).toBe(SIZE)
  })

  test('answers as the specification has it', async () => {
    const { post, get } = node()
    const good = await post(await bodyOf(0, 7))
    expect(good.status).toBe(200)
    expect(good.headers.get('content-type')).toBe('text/plain; charset=utf-8')
    expect(good.headers.get('cache-control')).toBe('no-store')
    expect(await good.text()).toMatch(/^— w\.example\/witness [A-Za-z0-9+/=]+\n$/)
    const stale = await post(await bodyOf(3, 7))
    expect(stale.status).toBe(409)
    expect(stale.headers.get('content-type')).toBe('text/x.tlog.size')
    expect(await stale.text()).toBe('7\n')
    const other = signer('else.example', 1)
    const elsewhere = { origin: 'else.example', size: 1, root: rootAt(1), extensions: [] }
    const unknown = await signCheckpoint(elsewhere, other)
    const refused: [number, string, Uint8Array][] = [
      [400, 'bad-body', utf8('old 0\n')],
      [400, 'bad-body', new Uint8Array(0)],
      [400, 'bad-body', await bodyOf(8, 7)],
      [403, 'untrusted-checkpoint', await bodyOf(0, 7, signer(origin, 9))],
      [404, 'unknown-log', utf8(`old 0\n\n${unknown}`)],
      [422, 'bad-proof', utf8(`old 7\n\n${NOTE}`)],
    ]
    for (const [status, code, body] of refused) {
      const error = await post(body).catch((thrown: unknown) => thrown)
      expect(error).toMatchObject({ code, status })
      expect((error as Error).message).toMatch(/^[^\n]+\.$/)
    }
    await expect(get(hashOf('else.example'))).rejects.toMatchObject({ code: 'not-found' })
  })

  test('reads 65,536 bytes and no more, whatever the client claims', async () => {
    const { post } = node()
    const most = new Uint8Array(65_536).fill(0x20)
    await expect(post(most)).rejects.toMatchObject({ code: 'bad-body', status: 400 })
    const more = new Uint8Array(65_537).fill(0x20)
    const limit = { code: 'body-too-large', status: 413, extra: { limit: 65_536 } }
    await expect(post(more)).rejects.toMatchObject(limit)
    await expect(post(more, { 'content-length': '65537' })).rejects.toMatchObject(limit)
    const endless = new ReadableStream({
      pull: (controller) => controller.enqueue(new Uint8Array(65_536)),
    })
    await expect(post(endless)).rejects.toMatchObject(limit)
  })

  test('never lets a fault of its own pass for a verdict', async () => {
    let broken = true
    const { post, federation, get } = node(() => {
      if (broken) throw new Error('hunter')
    })
    const body = await bodyOf(0, 7)
    await expect(post(body)).rejects.toMatchObject({ code: 'storage-failed', status: 503 })
    broken = false
    expect((await post(body)).status).toBe(200)
    for (const code of ['bad-note', 'bad-proof', 'not-found'] as const) {
      federation.addCheckpoint = () => Promise.reject(new VaultMeshError(code, 'hunter'))
      federation.cosigned = () => Promise.reject(new VaultMeshError(code, 'hunter'))
      for (const run of [() => post(body), () => get(hashOf(origin))]) {
        const error = await run().catch((thrown: unknown) => thrown)
        expect(error).toMatchObject({ code: 'internal', message: 'The witness failed.' })
      }
    }
    federation.addCheckpoint = () => Promise.reject(new VaultMeshError('no-federation', 'None.'))
    await expect(post(body)).rejects.toMatchObject({ code: 'no-federation', status: 404 })
  })
})

function signer(name: string, seedByte: number, type: 1 | 4 = 1): NoteSigner {
  const seed = new Uint8Array(32).fill(seedByte)
  return {
    key: verifierKey(name, ed25519.getPublicKey(seed), type),
    sign: async (message) => ed25519.sign(message, seed),
  }
}

async function cosigned(by: NoteSigner, text = TEXT): Promise<string> {
  return formatSignature(await cosignCheckpoint(text, by, NOW / 1000))
}

function rootAt(size: number): Hash {
  return rootOf(packed.subarray(0, 32 * size))
}

function hashOf(of: string): string {
  return toHex(sha256(utf8(of)))
}

async function noteAt(size: number, by = log): Promise<string> {
  return signCheckpoint({ origin, size, root: rootAt(size), extensions: [] }, by)
}

async function proofOf(from: number, to: number): Promise<Hash[]> {
  const read = async (coords: readonly { level: number; index: number }[]) =>
    coords.map(({ level, index }) => {
      const width = 32 * 2 ** level
      return rootOf(packed.subarray(index * width, (index + 1) * width))
    })
  return consistencyProof(read, from, to)
}

/** A request without a proof. */
async function bodyOf(oldSize: number, size: number, by = log): Promise<Uint8Array> {
  return utf8(`old ${oldSize}\n\n${await noteAt(size, by)}`)
}

function refuseConnection(): Promise<never> {
  return Promise.reject(new TypeError('fetch failed: hunter'))
}

/** Rejects when the request is given up, as `fetch` does. */
function givenUp(signal: AbortSignal): Promise<never> {
  return new Promise((_resolve, reject) => {
    signal.addEventListener('abort', () => reject(signal.reason as Error))
  })
}

/** A body that never ends and breaks when the request is given up. */
function stalled(signal: AbortSignal): ReadableStream<Uint8Array> {
  return new ReadableStream({
    start: (controller) => signal.addEventListener('abort', () => controller.error(signal.reason)),
  })
}
