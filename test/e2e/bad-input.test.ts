/**
 * Bad input against running nodes, as the bytes a client would send: every refusal has its status, its
 * problem and its limit; what is good among the bad is kept; and after all of it the node is alive, has
 * sealed exactly the good events, and fsck finds nothing.
 */

import { randomBytes } from 'node:crypto'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import path from 'node:path'
import * as fc from 'fast-check'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { concat, fromBase64Url, fromHex, toBase64Url, utf8 } from '#core/bytes.ts'
import { checksumAddress, didKey, didKeyUrl } from '#core/did.ts'
import { codes, type Code } from '#core/errors.ts'
import { verifyReceipt, type Receipt } from '#core/receipt.ts'
import { sha256 } from '#core/sha256.ts'
import { toHex } from '#core/bytes.ts'
import { freePort } from './support.ts'
import { startHost, type Host } from '../../scripts/host.ts'
import { cloudEvent, otherS, signEvent, sizedEvent, testSigner } from '../support/signing.ts'

const TOKEN = 'e2e-token'
const JOSE = { 'content-type': 'application/jose' }
const NDJSON = { 'content-type': 'application/x-ndjson' }
const JSON_TYPE = { 'content-type': 'application/json' }

const me = testSigner('EdDSA', 'e2e')
const you = testSigner('EdDSA', 'e2e-2')
const p256 = testSigner('ES256', 'e2e')
const k256 = testSigner('ES256K', 'e2e')
const wallet = testSigner('EIP191', 'e2e')

interface Node {
  readonly host: Host
  readonly port: number
  readonly dir: string
}
const nodes: Node[] = []

async function startNode(vars: Record<string, string>): Promise<Node> {
  const port = await freePort()
  const dir = await mkdtemp(path.join(tmpdir(), 'vaultmesh-bad-input-'))
  const secret = randomBytes(32).toString('base64url')
  const host = await startHost({
    port,
    stateDir: dir,
    cron: false,
    vars: {
      NODE_SECRET: secret,
      ADMIN_TOKEN: TOKEN,
      RATE_LIMIT_DID: '0',
      RATE_LIMIT_IP: '0',
      ...vars,
    },
  })
  const node = { host, port, dir }
  nodes.push(node)
  return node
}

let node: Node
beforeAll(async () => {
  node = await startNode({})
})
afterAll(async () => {
  for (const { host, dir } of nodes) {
    await host.stop()
    await rm(dir, { recursive: true, force: true })
  }
})

const at = (target: Node, where: string, init: RequestInit = {}): Promise<Response> =>
  fetch(target.host.url + where, init)
const post = (
  body: string | Uint8Array,
  headers: Record<string, string> = JOSE,
  target = node,
): Promise<Response> => at(target, '/events', { method: 'POST', body: body as BodyInit, headers })

interface Problem {
  readonly type: string
  readonly title: string
  readonly status: number
  readonly detail: string
  readonly advice: string
  readonly limit?: number
  readonly eventHash?: string
}

/** The problem of an answer, checked for form; fails the test unless it is `code`. */
async function refused(answer: Response, code: Code, note = ''): Promise<Problem> {
  const text = await answer.text()
  expect(`${answer.status} ${text}`, note).toMatch(
    new RegExp(`^${codes[code].status} .*"/problems/${code}"`),
  )
  expect(answer.headers.get('content-type')).toBe('application/problem+json')
  expect(answer.headers.get('x-request-id')).toMatch(/^[\w.-]{1,64}$/)
  const problem = JSON.parse(text) as Problem
  expect(problem).toMatchObject({
    type: `/problems/${code}`,
    ...codes[code],
    detail: expect.any(String),
  })
  expect(problem.detail.length).toBeGreaterThan(5)
  return problem
}

const hashOf = (jws: string): string => `sha256:${toHex(sha256(utf8(jws)))}`

/** Events the main node must have sealed in the end, by hash; nothing else may be there. */
const good = new Map<string, string>()
const keep = (jws: string): string => {
  good.set(hashOf(jws), jws)
  return jws
}

/** Sends raw bytes on a socket of their own; resolves with all that came back. */
function raw(
  data: string | Uint8Array,
  how: { end?: boolean; waitMs?: number } = {},
): Promise<string> {
  return new Promise((resolve) => {
    const socket = connect(node.port, '127.0.0.1')
    let out = ''
    const timer = setTimeout(() => socket.destroy(), how.waitMs ?? 1500)
    socket.on('data', (chunk) => {
      out += chunk.toString('latin1')
      // One answer is enough: its length is known once the headers are there.
      const [head, body = ''] = out.split('\r\n\r\n')
      const length = /content-length: (\d+)/i.exec(head!)?.[1]
      if (length !== undefined && body.length >= Number(length)) socket.destroy()
    })
    socket.on('error', () => undefined)
    socket.on('close', () => {
      clearTimeout(timer)
      resolve(out)
    })
    socket.on('connect', () => {
      socket.write(data)
      if (how.end === true) socket.end()
    })
  })
}

const postText = (headers: readonly string[], body: string): string =>
  ['POST /events HTTP/1.1', 'Host: x', 'Content-Type: application/jose', ...headers, '', body].join(
    '\r\n',
  )

describe('a signature', () => {
  test.each([me, p256, k256, wallet])(
    'of $alg that is good is accepted, single, wrapped and again',
    async (signer) => {
      const jws = keep(signEvent(signer))
      const first = await post(jws)
      expect(first.status).toBe(202)
      const answer = (await first.json()) as Record<string, unknown>
      expect(answer).toMatchObject({ eventHash: hashOf(jws), status: 'accepted' })
      const again = await post(JSON.stringify({ event: jws }), JSON_TYPE)
      expect([again.status, await again.json()]).toEqual([200, answer])
      expect((await post(`${jws}\r\n`)).status).toBe(200)
    },
  )

  test.each([me, p256, k256, wallet])('of $alg that is bad is refused', async (signer) => {
    const flip = (bytes: Uint8Array): Uint8Array => bytes.map((b, i) => (i === 40 ? b ^ 1 : b))
    await refused(await post(signEvent(signer, { signature: flip })), 'bad-signature')
    const other = testSigner(signer.alg, 'somebody else')
    const payloadText = JSON.stringify(cloudEvent(signer))
    const stolen = signEvent(other, { header: { kid: signer.did }, payloadText })
    await refused(await post(stolen), 'bad-signature')
    await refused(
      await post(signEvent(signer, { signature: () => new Uint8Array(0) })),
      'bad-signature',
    )
    await refused(
      await post(signEvent(signer, { signature: (b) => b.subarray(1) })),
      'bad-signature',
    )
  })

  test('with high s, or v other than 27 and 28, is refused', async () => {
    for (const signer of [k256, wallet])
      await refused(await post(signEvent(signer, { signature: otherS })), 'bad-signature')
    for (const v of [0, 1, 26, 29, 30, 37, 38])
      await refused(
        await post(
          signEvent(wallet, { signature: (b) => concat(b.subarray(0, 64), Uint8Array.of(v)) }),
        ),
        'bad-signature',
        `v ${v}`,
      )
    const swapped = signEvent(wallet, {
      signature: (b) => concat(b.subarray(0, 64), Uint8Array.of(55 - b[64]!)),
    })
    await refused(await post(swapped), 'bad-signature')
  })

  test('that is another good one of the same statement gives the first answer', async () => {
    const payloadText = JSON.stringify(cloudEvent(p256))
    const first = keep(signEvent(p256, { payloadText }))
    const second = signEvent(p256, { payloadText })
    expect(second).not.toBe(first)
    expect((await post(first)).status).toBe(202)
    const again = await post(second)
    expect(again.status).toBe(200)
    expect(await again.json()).toMatchObject({ eventHash: hashOf(first) })
    await refused(await at(node, `/events/${hashOf(second)}`), 'not-found')
  })
})

describe('a header', () => {
  test.each<[string, Record<string, unknown>, Code]>([
    ['alg none', { alg: 'none' }, 'bad-header'],
    ['alg HS256', { alg: 'HS256' }, 'bad-header'],
    ['alg of another key', { alg: 'ES256' }, 'bad-header'],
    ['no alg', { alg: undefined }, 'bad-header'],
    ['no kid', { kid: undefined }, 'bad-header'],
    ['no typ', { typ: undefined }, 'bad-header'],
    ['another typ', { typ: 'JWT' }, 'bad-header'],
    ['crit', { crit: ['exp'], exp: 1 }, 'bad-header'],
    ['b64', { b64: false, crit: ['b64'] }, 'bad-header'],
    ['b64 true', { b64: true }, 'bad-header'],
    ['jwk', { jwk: { kty: 'OKP', crv: 'Ed25519', x: 'AA' } }, 'bad-header'],
    ['jku', { jku: 'https://evil.example/keys' }, 'bad-header'],
    ['x5u', { x5u: 'https://evil.example/cert' }, 'bad-header'],
    ['x5c', { x5c: ['AA=='] }, 'bad-header'],
    ['a kid that is no DID', { kid: 'key-1' }, 'bad-did'],
    ['did:web', { kid: 'did:web:example.com' }, 'bad-did'],
    ['a foreign fragment', { kid: `${me.did}#key-1` }, 'bad-did'],
    ['the fragment of another', { kid: `${me.did}#${you.did.slice(8)}` }, 'bad-did'],
    ['another signer’s kid', { kid: you.did }, 'bad-event'],
    [
      'an Ed25519 key of small order',
      { kid: didKey('ed25519', fromHex(`01${'00'.repeat(31)}`)) },
      'bad-did',
    ],
    [
      'a P-256 key off the curve',
      { alg: 'ES256', kid: didKey('p256', fromHex(`02${'00'.repeat(31)}01`)) },
      'bad-did',
    ],
    [
      'a secp256k1 key off the curve',
      { alg: 'ES256K', kid: didKey('secp256k1', fromHex(`02${'00'.repeat(31)}05`)) },
      'bad-did',
    ],
  ])('with %s is refused', async (_, header, code) => {
    await refused(await post(signEvent(me, { header })), code)
  })

  test('that repeats a key, is no JSON or has a BOM is refused', async () => {
    const text = JSON.stringify({ alg: 'EdDSA', kid: me.did, typ: 'vm-event+jws' })
    const headers: [string, Code][] = [
      [`${text.slice(0, -1)},"alg":"none"}`, 'duplicate-key'],
      [`{"\\u0061lg":"none",${text.slice(1)}`, 'duplicate-key'],
      [`\ufeff${text}`, 'bad-header'],
      ['nonsense', 'bad-header'],
      ['[]', 'bad-header'],
    ]
    for (const [headerText, code] of headers)
      await refused(await post(signEvent(me, { headerText })), code)
  })

  test('whose kid carries the DID’s own fragment is good', async () => {
    expect((await post(keep(signEvent(me, { header: { kid: didKeyUrl(me.did) } })))).status).toBe(
      202,
    )
  })
})

describe('a source', () => {
  test('other than the DID of kid is refused, byte for byte', async () => {
    for (const source of [
      you.did,
      didKeyUrl(me.did),
      me.did.toLowerCase(),
      `${me.did} `,
      'https://example.com/',
    ])
      await refused(await post(signEvent(me, { payload: { source } })), 'bad-event', source)
  })

  test('of a wallet may have either case, the same one as kid, and is one identity', async () => {
    const prefix = wallet.did.slice(0, wallet.did.lastIndexOf(':') + 1)
    const mixed = prefix + checksumAddress(wallet.did.slice(prefix.length))
    const payload = { id: 'case', source: mixed }
    await refused(await post(signEvent(wallet, { header: { kid: mixed } })), 'bad-event')
    await refused(await post(signEvent(wallet, { payload: { source: mixed } })), 'bad-event')
    const wrong = mixed.replace(/[a-f](?=[^:]*$)/, (c) => c.toUpperCase())
    await refused(
      await post(signEvent(wallet, { header: { kid: wrong }, payload: { source: wrong } })),
      'bad-did',
    )
    expect((await post(keep(signEvent(wallet, { header: { kid: mixed }, payload })))).status).toBe(
      202,
    )
    await refused(await post(signEvent(wallet, { payload: { id: 'case' } })), 'event-id-reused')
  })
})

describe('an encoding', () => {
  const [h, p, s] = signEvent(me).split('.') as [string, string, string]
  const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_'
  const spare = s.slice(0, -1) + alphabet[alphabet.indexOf(s.at(-1)!) ^ 1]!
  test.each<[string, string | Uint8Array, Code]>([
    ['nothing', '', 'bad-jws'],
    ['spaces', '  \r\n', 'bad-jws'],
    ['one part', h, 'bad-jws'],
    ['two parts', `${h}.${p}`, 'bad-jws'],
    ['four parts', `${h}.${p}.${s}.`, 'bad-jws'],
    ['a JSON serialization', JSON.stringify({ protected: h, payload: p, signature: s }), 'bad-jws'],
    ['spare bits', `${h}.${p}.${spare}`, 'bad-encoding'],
    ['padding', `${h}.${p}.${s}==`, 'bad-encoding'],
    ['a space inside', `${h}.${p} .${s}`, 'bad-encoding'],
    ['a newline inside', `${h}.\n${p}.${s}`, 'bad-encoding'],
    ['a leading space', ` ${h}.${p}.${s}`, 'bad-encoding'],
    ['+ and /', `${h}.${p}.${s.slice(0, -2)}+/`, 'bad-encoding'],
    ['bytes above ASCII', concat(utf8(`${h}.${p}.`), Uint8Array.of(0xff, 0x80)), 'bad-encoding'],
    [
      'a payload of invalid UTF-8',
      signEvent(me, { payloadText: Uint8Array.of(0x22, 0xc3, 0x28, 0x22) }),
      'bad-encoding',
    ],
    [
      'a payload with a BOM',
      signEvent(me, { payloadText: `\ufeff${JSON.stringify(cloudEvent(me))}` }),
      'bad-event',
    ],
    [
      'a payload in UTF-16',
      signEvent(me, {
        payloadText: new Uint8Array(Buffer.from(JSON.stringify(cloudEvent(me)), 'utf16le')),
      }),
      'bad-event',
    ],
    ['a payload that is no JSON', signEvent(me, { payloadText: 'hello' }), 'bad-event'],
    ['a payload that is an array', signEvent(me, { payloadText: '[]' }), 'bad-event'],
    ['a payload 65 deep', signEvent(me, { payloadText: '['.repeat(65) }), 'bad-event'],
  ])('with %s is refused', async (_, body, code) => {
    await refused(await post(body), code)
  })

  test('that repeats a key anywhere in the payload is refused, also after V8 was led astray', async () => {
    const text = JSON.stringify(cloudEvent(me))
    const poison = JSON.stringify(cloudEvent(me, { data: { a: [], '\\': 0 } }))
    expect((await post(keep(signEvent(me, { payloadText: poison })))).status).toBe(202)
    for (const more of [
      '"id":"x"',
      '"data":{"a":1,"a":2}',
      '"data":[[{"a":1,"\\u0061":2}]]',
      '"data":{"__proto__":1,"__proto__":1}',
    ])
      await refused(
        await post(signEvent(me, { payloadText: `${text.slice(0, -1)},${more}}` })),
        'duplicate-key',
        more,
      )
  })
})

describe('a CloudEvent', () => {
  test.each<[string, unknown]>([
    ...['specversion', 'id', 'source', 'type', 'time'].map((name): [string, unknown] => [
      name,
      undefined,
    ]),
    ['specversion', '0.3'],
    ['specversion', 1],
    ['id', ''],
    ['id', 5],
    ['id', 'x'.repeat(1025)],
    ['id', 'a\u0000'],
    ['type', null],
    ['type', 'a\nb'],
    ['subject', {}],
    ['subject', '\ufdd0'],
    ['time', 'yesterday'],
    ['time', '2026-02-30T00:00:00Z'],
    ['time', '0000-01-01T00:00:00+00:01'],
    ['time', 1795412160],
    ['Upper', 'x'],
    ['ext', { nested: 1 }],
    ['__proto__', 'x'],
  ])('with %s = %j is refused by name', async (name, value) => {
    const event = cloudEvent(me)
    const entries = Object.entries(event).filter(([key]) => key !== name)
    if (value !== undefined) entries.push([name, value])
    const payloadText = `{${entries.map(([k, v]) => `${JSON.stringify(k)}:${JSON.stringify(v)}`).join(',')}}`
    const problem = await refused(await post(signEvent(me, { payloadText })), 'bad-event')
    expect(problem.detail).toContain(`"${name}"`)
  })

  test('dated more than 300 s ahead is refused, 290 s ahead is not, and any past is good', async () => {
    const ahead = (s: number): string => new Date(Date.now() + s * 1000).toISOString()
    await refused(await post(signEvent(me, { payload: { time: ahead(310) } })), 'time-in-future')
    await refused(
      await post(signEvent(me, { payload: { time: '9999-12-31T23:59:59Z' } })),
      'time-in-future',
    )
    for (const time of [ahead(290), '0000-01-01T00:00:00Z', '1990-12-31T15:59:60-08:00'])
      expect((await post(keep(signEvent(me, { payload: { time } })))).status, time).toBe(202)
  })

  test('under the id of another is refused and names the first; the first stands', async () => {
    const first = keep(signEvent(me, { payload: { id: 'taken' } }))
    expect((await post(first)).status).toBe(202)
    const problem = await refused(
      await post(signEvent(me, { payload: { id: 'taken', data: 2 } })),
      'event-id-reused',
    )
    expect(problem.eventHash).toBe(hashOf(first))
    expect(await (await at(node, `/events/${hashOf(first)}`)).text()).toBe(first)
    expect((await post(keep(signEvent(you, { payload: { id: 'taken' } })))).status).toBe(202)
  })
})

describe('a size', () => {
  test('of 65,535 bytes passes, of 65,536 and more does not, and the limit is told', async () => {
    expect((await post(keep(sizedEvent(me, 65_535)))).status).toBe(202)
    for (const size of [65_536, 65_537]) {
      const problem = await refused(await post(sizedEvent(me, size)), 'event-too-large')
      expect(problem.limit).toBe(65_535)
    }
    for (const body of ['x'.repeat(65_538), 'x'.repeat(1_000_000)])
      expect((await refused(await post(body), 'event-too-large')).limit).toBe(65_535)
    const wrapped = await post(JSON.stringify({ event: 'x'.repeat(65_536) }), JSON_TYPE)
    expect((await refused(wrapped, 'event-too-large')).limit).toBe(65_535)
  })

  test('of a bulk above 8 MiB or 10,000 lines is refused as a whole', async () => {
    const large = await refused(await post('x'.repeat(8_388_609), NDJSON), 'body-too-large')
    expect(large.limit).toBe(8_388_608)
    const many = await refused(await post('x\n'.repeat(10_001), NDJSON), 'too-many-lines')
    expect(many.limit).toBe(10_000)
    expect((await post('\n'.repeat(20_000), NDJSON)).status).toBe(200)
  })

  test('that is only claimed is not believed', async () => {
    const answer = await raw(postText(['Content-Length: 99999999999'], ''))
    expect(answer).toMatch(/^HTTP\/1\.1 413 .*event-too-large/s)
  })
})

describe('a bulk', () => {
  interface Line {
    readonly line: number
    readonly status?: string
    readonly eventHash?: string
    readonly duplicate?: boolean
    readonly problem?: Problem
  }

  test('keeps its good lines whatever their neighbours are, each under its physical number', async () => {
    const a = keep(signEvent(me))
    const b = keep(signEvent(wallet))
    const c = keep(signEvent(p256))
    const d = keep(signEvent(k256))
    const lines: [string, Code | null | undefined][] = [
      [a, null],
      ['', undefined],
      ['not a jws', 'bad-jws'],
      [`${b}\r`, null],
      [signEvent(me, { signature: (s) => s.map((x) => x ^ 1) }), 'bad-signature'],
      ['{"event": ', 'bad-body'],
      ['{"other": 1}', 'bad-body'],
      [JSON.stringify({ event: c }), null],
      [a, null],
      [signEvent(me, { payload: { id: 'taken', data: 3 } }), 'event-id-reused'],
      ['   ', undefined],
      [sizedEvent(me, 65_536), 'event-too-large'],
      [signEvent(me, { header: { alg: 'none' } }), 'bad-header'],
      [signEvent(me, { payload: { time: '2999-01-01T00:00:00Z' } }), 'time-in-future'],
      [signEvent(me, { payloadText: '{"id":1,"id":2}' }), 'duplicate-key'],
      [d, null],
    ]
    const answer = await post(lines.map(([text]) => text).join('\n'), NDJSON)
    expect([answer.status, answer.headers.get('content-type')]).toEqual([200, 'application/json'])
    const { results, promise } = (await answer.json()) as { results: Line[]; promise: string }
    const expected = lines.flatMap(([text, code], i): object[] => {
      if (code === undefined) return []
      return code === null
        ? [
            {
              line: i + 1,
              status: 'accepted',
              hash: hashOf(text.startsWith('{') ? c : text.trim()),
            },
          ]
        : [{ line: i + 1, problem: code }]
    })
    expect(
      results.map(({ line, status, eventHash, problem }) =>
        problem === undefined
          ? { line, status, hash: eventHash }
          : { line, problem: problem.type.slice('/problems/'.length) },
      ),
    ).toEqual(expected)
    for (const { problem } of results) {
      if (problem === undefined) continue
      const { title, advice, status } = codes[problem.type.slice(10) as Code]
      expect(problem).toMatchObject({ title, advice, status, detail: expect.any(String) })
    }
    expect(results.find(({ line }) => line === 9)?.duplicate).toBe(true)
    const claims = JSON.parse(
      new TextDecoder().decode(fromBase64Url(promise.split('.')[1]!)),
    ) as object
    const entries = [a, b, c, a, d].map((jws) => sha256(utf8(jws)))
    expect(claims).toMatchObject({
      count: 5,
      entries: `sha256:${toHex(sha256(concat(...entries)))}`,
    })
  })

  test('without a good line has no promise, and an empty one no results', async () => {
    const bad = (await (await post('x\ny', NDJSON)).json()) as object
    expect(Object.keys(bad)).toEqual(['results'])
    expect(await (await post('', NDJSON)).json()).toEqual({ results: [] })
  })

  test('of events whose attributes are long and not ASCII is sealed and indexed', async () => {
    // 400 rows of 6 kB of UTF-8 in 2,050 characters each: bytes and characters are not the same here.
    const id = (i: number): string => `${'漢'.repeat(1000)}${i}`
    const events = Array.from({ length: 400 }, (_, i) =>
      keep(signEvent(me, { payload: { id: id(i), subject: '字'.repeat(1024) } })),
    )
    const answer = await post(events.join('\n'), NDJSON)
    const { results } = (await answer.json()) as { results: Line[] }
    expect(results.filter(({ status }) => status === 'accepted')).toHaveLength(400)
  })
})

describe('a body', () => {
  test('of another media type, or none, is refused', async () => {
    for (const type of [
      'text/plain',
      'application/jwt',
      'multipart/form-data; boundary=x',
      'application/jose+json',
      'x',
    ])
      await refused(
        await post(signEvent(me), { 'content-type': type }),
        'unsupported-media-type',
        type,
      )
    const bare = `POST /events HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx`
    expect(await raw(bare)).toMatch(/^HTTP\/1\.1 415 .*unsupported-media-type/s)
  })

  test('of JSON that holds no event is refused', async () => {
    for (const text of [
      '',
      'x',
      '{}',
      '[]',
      'null',
      '"x"',
      '{"event":5}',
      '{"event":null}',
      '{"events":[]}',
      '{"event":"x"',
      '\ufeff{"event":"x"}',
    ])
      await refused(await post(text, JSON_TYPE), 'bad-body', text)
    await refused(await post(Uint8Array.of(0xff, 0xfe), JSON_TYPE), 'bad-body')
    await refused(await post('{"event":"x"}', JSON_TYPE), 'bad-jws')
  })

  test('that is truncated or badly framed is the sender’s fault, and nothing of it is kept', async () => {
    const jws = signEvent(me)
    const chunk = `${jws.length.toString(16)}\r\n${jws.slice(0, 80)}`
    const cases: [string, string][] = [
      [
        'a body shorter than its length',
        postText([`Content-Length: ${jws.length}`], jws.slice(0, 80)),
      ],
      ['a length one too long', postText([`Content-Length: ${jws.length + 1}`], jws)],
      ['a cut chunk', postText(['Transfer-Encoding: chunked'], chunk)],
      [
        'no last chunk',
        postText(['Transfer-Encoding: chunked'], `${jws.length.toString(16)}\r\n${jws}\r\n`),
      ],
      [
        'a chunk size that is no number',
        postText(['Transfer-Encoding: chunked'], `zz\r\n${jws}\r\n0\r\n\r\n`),
      ],
    ]
    for (const [name, text] of cases) {
      const answer = await raw(text, { end: true })
      expect(answer, name).toMatch(/^HTTP\/1\.1 400 .*application\/problem\+json.*bad-body/s)
    }
    // The server itself refuses these before the Worker sees them.
    for (const length of ['-5', 'abc', '5\r\nContent-Length: 6'])
      expect(await raw(postText([`Content-Length: ${length}`], jws)), length).toMatch(
        /^HTTP\/1\.1 400 /,
      )
    // A client that hangs in the middle gets no answer and holds nobody up.
    expect(await raw(postText([`Content-Length: ${jws.length}`], 'x'), { waitMs: 300 })).toBe('')
    await refused(await at(node, `/events/${hashOf(jws)}`), 'not-found')
  })

  test('in chunks, with a wrong Content-Encoding, by HTTP/1.0 or after 100-continue is read as it is', async () => {
    const jws = keep(signEvent(me))
    const half = Math.floor(jws.length / 2)
    const chunks = [jws.slice(0, half), jws.slice(half)].map(
      (c) => `${c.length.toString(16)}\r\n${c}\r\n`,
    )
    const sent = postText(['Transfer-Encoding: chunked'], `${chunks.join('')}0\r\n\r\n`)
    expect(await raw(sent)).toMatch(/^HTTP\/1\.1 202 /)
    const length = `Content-Length: ${jws.length}`
    expect(await raw(postText([length, 'Content-Encoding: gzip'], jws))).toMatch(/^HTTP\/1\.1 200 /)
    expect(await raw(postText([length], jws).replace('HTTP/1.1', 'HTTP/1.0'))).toMatch(
      /^HTTP\/1\.0 200 /,
    )
    const expecting = await raw(postText([length, 'Expect: 100-continue'], jws), { waitMs: 800 })
    expect(expecting).toMatch(/^HTTP\/1\.1 100 Continue\r\n\r\nHTTP\/1\.1 200 /)
  })
})

describe('a request line', () => {
  test.each<[string, string | Uint8Array, RegExp]>([
    [
      'a header of 100 kB',
      `GET /healthz HTTP/1.1\r\nHost: x\r\nX-Big: ${'a'.repeat(100_000)}\r\n\r\n`,
      /^HTTP\/1\.1 (200|431) /,
    ],
    [
      '3,000 headers',
      `GET /healthz HTTP/1.1\r\nHost: x\r\n${'X-A: b\r\n'.repeat(3000)}\r\n`,
      /^HTTP\/1\.1 (200|431) /,
    ],
    [
      'a header of 10 MB',
      `GET /healthz HTTP/1.1\r\nHost: x\r\nX-Big: ${'a'.repeat(10_000_000)}`,
      /^(HTTP\/1\.1 4\d\d |$)/,
    ],
    [
      'a path of 100 kB',
      `GET /${'a'.repeat(100_000)} HTTP/1.1\r\nHost: x\r\n\r\n`,
      /^HTTP\/1\.1 414 /,
    ],
    [
      'a path of raw bytes',
      concat(utf8('GET /events/'), Uint8Array.of(0xff, 0xfe), utf8(' HTTP/1.1\r\nHost: x\r\n\r\n')),
      /^HTTP\/1\.1 400 /,
    ],
    [
      'a path that decodes to invalid UTF-8',
      'GET /events/%ff%fe HTTP/1.1\r\nHost: x\r\n\r\n',
      /^HTTP\/1\.1 400 .*bad-request/s,
    ],
    [
      'a broken escape',
      'GET /events/%zz HTTP/1.1\r\nHost: x\r\n\r\n',
      /^HTTP\/1\.1 400 .*bad-request/s,
    ],
    ['a NUL', 'GET /events/%00 HTTP/1.1\r\nHost: x\r\n\r\n', /^HTTP\/1\.1 400 .*bad-request/s],
    ['dots', 'GET /log/tile/../../healthz HTTP/1.1\r\nHost: x\r\n\r\n', /^HTTP\/1\.1 (200|404) /],
    ['no host', 'GET /healthz HTTP/1.1\r\n\r\n', /^HTTP\/1\.1 400 /],
    [
      'a Host that is none',
      'GET /healthz HTTP/1.1\r\nHost: [\r\n\r\n',
      /^HTTP\/1\.1 400 .*bad-request/s,
    ],
    [
      'a Host that is none, on no path',
      'GET /nope HTTP/1.1\r\nHost: [\r\n\r\n',
      /^HTTP\/1\.1 40[04] .*problem\+json/s,
    ],
    ['HTTP/1.0 without host', 'GET /healthz HTTP/1.0\r\n\r\n', /^HTTP\/1\.0 400 /],
    ['HTTP/1.0', 'GET /healthz HTTP/1.0\r\nHost: x\r\n\r\n', /^HTTP\/1\.0 200 /],
    ['a method of nobody', 'FOO /healthz HTTP/1.1\r\nHost: x\r\n\r\n', /^HTTP\/1\.1 501 /],
    ['random bytes', randomBytes(400), /^(HTTP\/1\.1 400 |$)/],
  ])('with %s is answered and kills nobody', async (_, data, answer) => {
    expect(await raw(data)).toMatch(answer)
    expect((await at(node, '/healthz')).status).toBe(200)
  })
})

describe('a path', () => {
  test('that does not exist is refused', async () => {
    for (const where of [
      '/nope',
      '//events',
      '/events/',
      '/healthz/',
      '/log',
      '/log/tile',
      '/log/tile/',
      '/admin',
      '/EVENTS',
      '/events/a/b/c',
      '/problems/constructor',
      `/${'a'.repeat(5000)}`,
    ])
      await refused(await at(node, where), 'not-found', where)
  })

  test('takes its own methods only, and says which', async () => {
    const cases: [string, string, string][] = [
      ['PUT', '/events', 'POST, GET, HEAD'],
      ['DELETE', '/events', 'POST, GET, HEAD'],
      ['POST', '/healthz', 'GET, HEAD'],
      ['PATCH', '/log/checkpoint', 'GET, HEAD'],
      ['POST', '/log/tile/0/000', 'GET, HEAD'],
      ['DELETE', `/events/${'ab'.repeat(32)}`, 'GET, HEAD'],
      ['POST', `/receipts/${'ab'.repeat(32)}`, 'GET, HEAD'],
    ]
    for (const [method, where, allow] of cases) {
      const answer = await at(node, where, { method })
      expect(answer.headers.get('allow'), `${method} ${where}`).toBe(allow)
      await refused(answer, 'method-not-allowed')
    }
  })

  test('answers HEAD as GET without a body', async () => {
    for (const [where, status] of [
      ['/healthz', 200],
      ['/events', 200],
      ['/log/checkpoint', 200],
      ['/nope', 404],
      ['/events/zz', 400],
    ] as const) {
      const answer = await at(node, where, { method: 'HEAD' })
      expect([answer.status, await answer.text()], where).toEqual([status, ''])
    }
    // /admin does not say that it is there.
    const noPosting = await at(node, '/admin/seal', { method: 'HEAD' })
    expect(noPosting.status).toBe(404)
  })

  test.each<[string, Code]>([
    ['/events?limit=0', 'bad-request'],
    ['/events?limit=1001', 'bad-request'],
    ['/events?limit=x', 'bad-request'],
    ['/events?limit=%zz', 'bad-request'],
    ['/events?limit=1.5', 'bad-request'],
    ['/events?cursor=zz', 'bad-request'],
    ['/events?from=yesterday', 'bad-request'],
    ['/events?to=2026-02-30T00:00:00Z', 'bad-request'],
    [`/events?source=${'x'.repeat(1025)}`, 'bad-request'],
    ['/events/zz', 'bad-request'],
    [`/events/sha256:${'ab'.repeat(31)}`, 'bad-request'],
    [`/events/sha512:${'ab'.repeat(32)}`, 'bad-request'],
    ['/events/zz/status', 'bad-request'],
    [`/events/${'ab'.repeat(32)}`, 'not-found'],
    [`/events/${'ab'.repeat(32)}/status`, 'not-found'],
    ['/receipts/zz', 'bad-request'],
    [`/receipts/${'ab'.repeat(32)}`, 'not-sealed'],
    [`/receipts/${'ab'.repeat(32)}?format=pdf`, 'bad-request'],
    ['/batches/0', 'bad-request'],
    ['/batches/-1', 'bad-request'],
    ['/batches/x', 'bad-request'],
    ['/batches/9007199254740992', 'bad-request'],
    ['/batches/9007199254740991', 'not-found'],
    ['/batches/999999/events', 'not-found'],
    ['/batches/999999/receipts', 'not-found'],
    ['/batches/1/receipts?from=-1', 'bad-request'],
    ['/batches?below=0', 'bad-request'],
    ['/log/tile/0/0', 'not-found'],
    ['/log/tile/0/x999/999', 'not-found'],
    ['/log/tile/64/000', 'not-found'],
    ['/log/tile/0/000.p/256', 'not-found'],
    ['/log/tile/entries/001', 'not-found'],
    ['/log/proof/inclusion', 'bad-request'],
    [`/log/proof/inclusion?index=0&hash=${'ab'.repeat(32)}`, 'bad-request'],
    ['/log/proof/inclusion?index=-1', 'bad-request'],
    ['/log/proof/inclusion?index=0&size=1.5', 'bad-request'],
    ['/log/proof/inclusion?index=0&size=0', 'no-such-size'],
    ['/log/proof/inclusion?index=0&size=999999', 'no-such-size'],
    ['/log/proof/inclusion?index=999999', 'no-such-size'],
    [`/log/proof/inclusion?hash=${'ab'.repeat(32)}`, 'not-sealed'],
    ['/log/proof/consistency', 'bad-request'],
    ['/log/proof/consistency?from=x', 'bad-request'],
    ['/log/proof/consistency?from=0', 'no-such-size'],
    ['/log/proof/consistency?from=1&to=999999', 'no-such-size'],
    ['/log/proof/consistency?from=2&to=1', 'no-such-size'],
    ['/anchors/status?limit=0', 'bad-request'],
    ['/admin/fsck', 'unauthorized'],
  ])('%s is refused', async (where, code) => {
    await sealed
    const problem = await refused(await at(node, where), code)
    if (code === 'no-such-size' && where.includes('size=')) expect(problem.limit).toBeGreaterThan(0)
  })

  let sealed: Promise<Response>
  beforeAll(async () => {
    sealed = at(node, '/admin/seal', {
      method: 'POST',
      headers: { authorization: `Bearer ${TOKEN}` },
    })
    await sealed
    // The checkpoint that proofs go by may be a second old (tlog-tiles allows seconds).
    await new Promise((done) => setTimeout(done, 1100))
  })

  test('of an event that waits for its seal says where it stands', async () => {
    const jws = keep(signEvent(me))
    expect((await post(jws)).status).toBe(202)
    const problem = await refused(await at(node, `/receipts/${hashOf(jws)}`), 'not-sealed')
    expect(problem).toMatchObject({ statusLink: `/events/${hashOf(jws)}/status` })
    const status = (await (await at(node, `/events/${hashOf(jws)}/status`)).json()) as object
    expect(status).toMatchObject({ status: 'accepted' })
    expect(await (await at(node, `/events/${hashOf(jws)}`)).text()).toBe(jws)
  })

  test('of a search finds an event of any age, and writes its time as RFC 3339', async () => {
    const answer = await at(node, '/events?to=0001-01-01T00:00:00Z')
    const { events } = (await answer.json()) as { events: { time: string }[] }
    expect(events.map(({ time }) => time)).toEqual(['0000-01-01T00:00:00.000Z'])
  })

  test('of the operator needs the whole token', async () => {
    for (const authorization of [
      '',
      'Bearer',
      'Bearer x',
      `Bearer ${TOKEN}x`,
      `Basic ${TOKEN}`,
      TOKEN,
    ])
      await refused(
        await at(node, '/admin/fsck', { headers: { authorization } }),
        'unauthorized',
        authorization,
      )
  })
})

describe('respond-async', () => {
  const headers = { ...JOSE, prefer: 'respond-async' }

  async function outcome(jws: string): Promise<Record<string, unknown>> {
    for (let i = 0; i < 100; i++) {
      const answer = await at(node, `/events/${hashOf(jws)}/status`)
      const status = (await answer.json()) as Record<string, unknown>
      if (status['status'] !== 'received') return status
      await new Promise((done) => setTimeout(done, 50))
    }
    throw new Error('still received')
  }

  test('with a good signature is accepted later, without a promise before', async () => {
    const jws = keep(signEvent(me))
    const answer = await post(jws, headers)
    expect([answer.status, answer.headers.get('preference-applied')]).toEqual([
      202,
      'respond-async',
    ])
    const body = (await answer.json()) as object
    expect(body).toMatchObject({ status: 'received' })
    expect(body).not.toHaveProperty('promise')
    expect((await outcome(jws))['status']).toMatch(/^(accepted|sealed)$/)
  })

  test('with a bad signature ends as rejected, with the problem', async () => {
    const jws = signEvent(me, { signature: (b) => b.map((x, i) => (i === 3 ? x ^ 1 : x)) })
    expect((await post(jws, headers)).status).toBe(202)
    const { title, advice } = codes['bad-signature']
    expect(await outcome(jws)).toMatchObject({
      status: 'rejected',
      problem: { type: '/problems/bad-signature', title, advice, detail: expect.any(String) },
    })
    await refused(await at(node, `/receipts/${hashOf(jws)}`), 'not-sealed')
  })

  test('under a reused id ends as rejected, and as a repeat names the first', async () => {
    const reused = signEvent(me, { payload: { id: 'taken', data: 'async' } })
    expect((await post(reused, headers)).status).toBe(202)
    expect(await outcome(reused)).toMatchObject({
      status: 'rejected',
      problem: { type: '/problems/event-id-reused' },
    })
    const payloadText = JSON.stringify(cloudEvent(p256))
    const first = keep(signEvent(p256, { payloadText }))
    expect((await post(first)).status).toBe(202)
    const second = signEvent(p256, { payloadText })
    expect((await post(second, headers)).status).toBe(202)
    expect(await outcome(second)).toMatchObject({ duplicateOf: hashOf(first) })
  })

  test('is refused at once for what needs no signature', async () => {
    await refused(await post('x', headers), 'bad-jws')
    await refused(
      await post(signEvent(me, { payload: { time: '2999-01-01T00:00:00Z' } }), headers),
      'time-in-future',
    )
  })
})

describe('garbage', () => {
  test('at POST /events is refused with 4xx, or it is an event; the node never fails', async () => {
    const template = signEvent(me)
    const mutated = fc
      .tuple(fc.nat(template.length), fc.nat(40), fc.uint8Array({ maxLength: 40 }))
      .map(([from, cut, bytes]) =>
        concat(utf8(template.slice(0, from)), bytes, utf8(template.slice(from + cut))),
      )
    const parts = fc
      .tuple(fc.jsonValue(), fc.jsonValue(), fc.uint8Array({ maxLength: 70 }))
      .map(([h, p, s]) =>
        utf8(
          `${toBase64Url(utf8(JSON.stringify(h)))}.${toBase64Url(utf8(JSON.stringify(p)))}.${toBase64Url(s)}`,
        ),
      )
    const fields = fc
      .dictionary(
        fc.constantFrom('id', 'type', 'time', 'subject', 'data', 'dataschema', 'x', 'specversion'),
        fc.jsonValue(),
      )
      .map((payload) => utf8(signEvent(me, { payload: { ...payload, source: 'did:x' } })))
    const body = fc.oneof(
      fc.uint8Array({ maxLength: 300 }),
      mutated,
      parts,
      fields,
      fc.json().map(utf8),
    )
    const types = fc.constantFrom(
      'application/jose',
      'application/json',
      'application/x-ndjson',
      'text/plain',
      '',
    )
    const prefer = fc.constantFrom(
      '',
      'wait=0',
      'wait=-1',
      'wait="x"',
      'return=minimal',
      ';;;,',
      'WAIT=999999999',
    )
    await fc.assert(
      fc.asyncProperty(body, types, prefer, async (bytes, type, pref) => {
        const answer = await post(bytes, { 'content-type': type, prefer: pref })
        const text = await answer.text()
        // The template itself may come through unchanged.
        if (answer.status === 202) keep(new TextDecoder().decode(bytes).trim())
        expect(answer.status, text).toBeLessThan(500)
        if (answer.status >= 400)
          expect(answer.headers.get('content-type')).toBe('application/problem+json')
        if (type === 'application/x-ndjson' && answer.status === 200) {
          const { results } = JSON.parse(text) as {
            results: { status?: string; problem?: Problem }[]
          }
          for (const { status, problem } of results) {
            if (status === 'accepted') keep(new TextDecoder().decode(bytes).trim())
            expect(problem?.status ?? 200).toBeLessThan(500)
          }
        }
      }),
      { numRuns: 300 },
    )
  })

  test('at every GET path is answered below 500', async () => {
    const segment = fc.oneof(
      fc.constantFrom(
        'ab'.repeat(32),
        `sha256:${'cd'.repeat(32)}`,
        '0',
        '1',
        '000',
        '000.p/1',
        'entries',
        'x001',
        '..',
        '%2e%2e',
        '%00',
        '-1',
        '1e9',
        'null',
      ),
      fc.webSegment(),
      fc.string({ unit: 'binary', maxLength: 8 }).map((s) => encodeURIComponent(s.toWellFormed())),
    )
    const where = fc.constantFrom(
      '/events/*',
      '/events/*/status',
      '/receipts/*',
      '/batches/*',
      '/batches/*/events',
      '/batches/*/receipts',
      '/log/tile/*/*',
      '/log/tile/entries/*',
      '/problems/*',
      '/log/proof/inclusion',
      '/log/proof/consistency',
      '/events',
      '/batches',
      '/anchors/status',
      '/alerts',
      '/*',
      '/*/*',
    )
    const name = fc.constantFrom(
      'limit',
      'cursor',
      'from',
      'to',
      'source',
      'type',
      'subject',
      'index',
      'size',
      'hash',
      'below',
      'format',
      'x',
    )
    const value = fc.oneof(
      fc.constantFrom(
        '',
        '0',
        '1',
        '-1',
        '1e309',
        'NaN',
        '9007199254740991',
        '9007199254740992',
        'ab'.repeat(32),
        '2026-11-23T05:36:00Z',
        '%00',
        '%ff',
        '%',
      ),
      fc.webQueryParameters(),
    )
    const query = fc
      .array(fc.tuple(name, value), { maxLength: 3 })
      .map((q) => q.map(([k, v]) => `${k}=${v}`).join('&'))
    await fc.assert(
      fc.asyncProperty(
        where,
        fc.array(segment, { minLength: 2, maxLength: 2 }),
        query,
        async (template, parts, q) => {
          let i = 0
          const target = template.replaceAll('*', () => parts[i++]!)
          const answer = await at(node, `${target}${q === '' ? '' : `?${q}`}`)
          await answer.arrayBuffer()
          expect(answer.status, `${target}?${q}`).toBeLessThan(500)
          if (answer.status >= 400)
            expect(answer.headers.get('content-type')).toBe('application/problem+json')
        },
      ),
      { numRuns: 400 },
    )
  })
})

describe('limits', () => {
  test('by DID count verified events only, a bulk by lines, and tell when to come back', async () => {
    const limited = await startNode({ RATE_LIMIT_DID: '3' })
    for (let i = 0; i < 5; i++)
      await refused(
        await post(signEvent(me, { signature: (b) => b.map((x) => x ^ 1) }), JOSE, limited),
        'bad-signature',
      )
    expect((await post(signEvent(me), JOSE, limited)).status).toBe(202)
    const bulk = await post([1, 2, 3].map(() => signEvent(me)).join('\n'), NDJSON, limited)
    const { results } = (await bulk.json()) as { results: { status?: string; problem?: Problem }[] }
    expect(results.map((r) => r.status ?? r.problem?.status)).toEqual(['accepted', 'accepted', 429])
    const answer = await post(signEvent(me), JOSE, limited)
    const wait = Number(answer.headers.get('retry-after'))
    expect(wait > 0 && wait <= 60).toBe(true)
    expect((await refused(answer, 'rate-limited')).limit).toBe(3)
    expect((await post(signEvent(you), JOSE, limited)).status).toBe(202)
  })

  test('by address count every event, single, in bulk and asynchronous', async () => {
    const limited = await startNode({ RATE_LIMIT_IP: '4', CLIENT_IP_HEADER: 'x-test-ip' })
    const from = (ip: string, more = {}): Record<string, string> => ({
      ...JOSE,
      'x-test-ip': ip,
      ...more,
    })
    expect((await post(signEvent(me), from('1.1.1.1'), limited)).status).toBe(202)
    expect(
      (await post(signEvent(me), from('1.1.1.1', { prefer: 'respond-async' }), limited)).status,
    ).toBe(202)
    expect(
      (await post(`${signEvent(me)}\n${signEvent(you)}`, from('1.1.1.1', NDJSON), limited)).status,
    ).toBe(200)
    const answer = await post(signEvent(you), from('1.1.1.1'), limited)
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0)
    expect((await refused(answer, 'rate-limited')).limit).toBe(4)
    await refused(await post(signEvent(you), from('1.1.1.1', NDJSON), limited), 'rate-limited')
    await refused(
      await post(signEvent(you), from('1.1.1.1', { prefer: 'respond-async' }), limited),
      'rate-limited',
    )
    expect((await post(signEvent(you), from('2.2.2.2'), limited)).status).toBe(202)
  })
})

describe('a closed node', () => {
  test('lets in whom it lists, of the age it wants, and shows events to nobody', async () => {
    const prefix = wallet.did.slice(0, wallet.did.lastIndexOf(':') + 1)
    const mixed = prefix + checksumAddress(wallet.did.slice(prefix.length))
    const closed = await startNode({
      INTAKE_ALLOW: `${didKeyUrl(me.did)}, ${mixed}`,
      INTAKE_MAX_AGE_S: '60',
      PUBLIC_EVENTS: '0',
    })
    const ago = (s: number): string => new Date(Date.now() - s * 1000).toISOString()
    await refused(await post(signEvent(you), JOSE, closed), 'not-allowed')
    await refused(
      await post(signEvent(you), { ...JOSE, prefer: 'respond-async' }, closed),
      'not-allowed',
    )
    expect((await post(signEvent(wallet), JOSE, closed)).status).toBe(202)
    await refused(
      await post(signEvent(me, { payload: { time: ago(70) } }), JOSE, closed),
      'time-too-old',
    )
    const jws = signEvent(me, { payload: { time: ago(50) } })
    const answer = await post(jws, { ...JOSE, prefer: 'wait=10' }, closed)
    expect([answer.status, answer.headers.get('preference-applied')]).toEqual([200, 'wait=10'])
    const { receipt } = (await answer.json()) as { receipt: Receipt }
    const known = (await (await at(closed, '/.well-known/vaultmesh.json')).json()) as {
      vkey: string
    }
    const report = await verifyReceipt(receipt, { vkeys: [known.vkey], tsaRoots: [] }, utf8(jws))
    expect(report.verdict).toBe('verified')
    for (const where of [
      `/events/${hashOf(jws)}`,
      '/events',
      '/events?source=x',
      '/batches/1/events',
    ])
      await refused(await at(closed, where), 'forbidden', where)
    for (const where of [
      `/receipts/${hashOf(jws)}`,
      '/batches',
      '/batches/1',
      '/batches/1/receipts',
      '/log/checkpoint',
      `/events/${hashOf(jws)}/status`,
    ])
      expect((await at(closed, where)).status, where).toBe(200)
  })
})

describe('an unsigned node', () => {
  test('wraps what nobody signed, answers the same body alike, and still refuses what is wrongly signed', async () => {
    const open = await startNode({ HARBINGER_SIG_REQUIRED: '0' })
    const text = { 'content-type': 'text/plain' }
    const first = await post('hello', text, open)
    expect(first.status).toBe(202)
    const answer = (await first.json()) as { eventHash: string; eventId: string }
    expect(answer.eventId).toBe(toHex(sha256(utf8('hello'))))
    const again = await post('hello', text, open)
    expect([again.status, await again.json()]).toEqual([200, answer])
    const twice = await Promise.all([1, 2, 3].map(() => post('at once', text, open)))
    const hashes = await Promise.all(
      twice.map(async (r) => ((await r.json()) as { eventHash: string }).eventHash),
    )
    expect(new Set(hashes).size).toBe(1)
    const jws = await (await at(open, `/events/${answer.eventHash}`)).text()
    const event = JSON.parse(new TextDecoder().decode(fromBase64Url(jws.split('.')[1]!))) as object
    expect(event).toMatchObject({ type: 'vm.received', data: { body: toBase64Url(utf8('hello')) } })
    expect((await post('{"a":1}', JSON_TYPE, open)).status).toBe(202)
    expect((await post(JSON.stringify({ event: signEvent(me) }), JSON_TYPE, open)).status).toBe(202)
    expect((await post(signEvent(me), JOSE, open)).status).toBe(202)
    await refused(await post('hello', JOSE, open), 'bad-jws')
    await refused(
      await post(signEvent(me, { signature: (b) => b.map((x) => x ^ 1) }), JOSE, open),
      'bad-signature',
    )
    await refused(await post('', text, open), 'bad-body')
    expect((await post('x'.repeat(30_000), text, open)).status).toBe(202)
    expect(
      (await refused(await post('x'.repeat(30_001), text, open), 'body-too-large')).limit,
    ).toBe(30_000)
  })
})

describe('after all of it', () => {
  test(
    'the node is alive, has sealed exactly the good events, and fsck finds nothing',
    { timeout: 120_000 },
    async () => {
      const operator = { authorization: `Bearer ${TOKEN}` }
      interface State {
        findings: string[]
        facts: { height: number; size: number; waiting: number; indexedHeight: number }
      }
      const fsck = async (query = ''): Promise<State> =>
        (await (await at(node, `/admin/fsck${query}`, { headers: operator })).json()) as State
      let state = await fsck()
      for (
        let i = 0;
        i < 100 && (state.facts.waiting > 0 || state.facts.indexedHeight < state.facts.height);
        i++
      ) {
        await at(node, '/admin/seal', { method: 'POST', headers: operator })
        await new Promise((done) => setTimeout(done, 100))
        state = await fsck()
      }
      expect(state.findings).toEqual([])
      expect(state.facts).toMatchObject({
        size: good.size,
        waiting: 0,
        indexedHeight: state.facts.height,
      })
      const sealed: string[] = []
      for (let height = 1; height <= state.facts.height; height++) {
        expect((await fsck(`?height=${height}`)).findings, `batch ${height}`).toEqual([])
        const text = await (await at(node, `/batches/${height}/events`)).text()
        sealed.push(...text.split('\n').filter((line) => line !== ''))
      }
      expect(sealed.sort()).toEqual([...good.values()].sort())
      const { vkey } = (await (await at(node, '/.well-known/vaultmesh.json')).json()) as {
        vkey: string
      }
      for (const [hash, jws] of [...good].filter((_, i) => i % 25 === 0)) {
        const receipt = (await (await at(node, `/receipts/${hash}`)).json()) as Receipt
        const report = await verifyReceipt(receipt, { vkeys: [vkey], tsaRoots: [] }, utf8(jws))
        expect(report.verdict, report.sentence).toBe('verified')
      }
      expect((await at(node, '/healthz')).status).toBe(200)
    },
  )
})
