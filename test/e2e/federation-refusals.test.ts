/**
 * What a federated node refuses, as the bytes a peer would send: each refusal has its status, its problem and its
 * count, and leaves everything as it was. And what it shows, witnesses and takes over from its configuration.
 */

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest'
import { MAX_ADD_CHECKPOINT_BYTES, SIZE_TYPE, TEXT_TYPE } from '#core/add-checkpoint.ts'
import { toBase64, toBase64Url, utf8, type Hash } from '#core/bytes.ts'
import { verifyCheckpoint } from '#core/checkpoint.ts'
import type { Code } from '#core/errors.ts'
import { GOSSIP_TYP, MAX_ENVELOPE_BYTES, type EnvelopeClaims } from '#core/gossip.ts'
import { signJws, type IdentityKey } from '#core/node-keys.ts'
import { rotationInput, signRotation, type RotationClaims } from '#core/rotation.ts'
import { sha256 } from '#core/sha256.ts'
import { parseVkey } from '#core/signed-note.ts'
import type { MeshView } from '#store/federation-api.ts'
import { testSigner } from '../support/signing.ts'
import {
  FakeLog,
  FakePeer,
  FedNode,
  identityOf,
  nameOf,
  noteSigner,
  refusedBy,
  send,
  until,
  yamlOf,
  type Listing,
} from './federation-support.ts'
import { freePort, run, sandbox, start } from './support.ts'

let dir: string
let remove: () => Promise<void>
let node: FedNode
/** Listed by DID alone: nobody visits it, so that nothing changes but by what is sent. */
let peer: FakePeer
let other: FakePeer
const fakes: FakePeer[] = []

beforeAll(async () => {
  ;({ dir, remove } = await sandbox())
  node = await FedNode.start('node', dir)
  peer = await FakePeer.start('refused', 'no law')
  other = await FakePeer.start('other', 'no law')
})

afterEach(async () => {
  for (const one of fakes.splice(0)) await one.stop()
})

afterAll(async () => {
  await peer?.stop()
  await other?.stop()
  await node?.stop()
  await remove?.()
})

async function fake(name: string): Promise<FakePeer> {
  const one = await FakePeer.start(name, (await node.peers()).lawHash)
  fakes.push(one)
  return one
}

/** Refusals sent so far, by code: what /federation/peers must count in the end. */
const sent: Record<string, number> = {}

async function refused(answer: Response, code: Code): Promise<Readonly<Record<string, unknown>>> {
  const problem = await refusedBy(answer, code)
  sent[code] = (sent[code] ?? 0) + 1
  return problem
}

/** Everything that an envelope could change. */
async function state(): Promise<unknown> {
  const { refusals, ...peers } = await node.peers()
  expect(refusals).toBeDefined()
  return { peers, tips: await node.tips(), conflicts: await node.conflicts() }
}

/** Waits until whoever may speak may: the list is believed for a second. */
async function heard(make: () => Promise<string>, target: { url: string } = node): Promise<void> {
  await until(
    'an envelope to be heard',
    async () => {
      const answer = await send(target.url, await make())
      if (answer.status === 200) return 200
      const { type } = (await answer.json()) as { type: string }
      if (target === node) {
        const code = type.replace('/problems/', '')
        sent[code] = (sent[code] ?? 0) + 1
      }
      return type
    },
    (seen) => seen === 200,
  )
}

describe('a node without a federation', () => {
  test.each(['peers', 'tips', 'conflicts', 'mesh', 'feed'])(
    'answers /federation/%s with a problem that says so',
    async (what) => {
      await refusedBy(await fetch(`${node.url}/federation/${what}`), 'no-federation')
    },
  )

  test('hears no envelope, and witnesses no log', async () => {
    await refused(await peer.speak(node), 'no-federation')
    const log = await FakeLog.create('some.test/log', peer.identity)
    await log.seal()
    const answer = await addCheckpoint(0, [], log.batches[0]!.checkpoint)
    await refusedBy(answer, 'unknown-log')
    await refusedBy(
      await fetch(`${node.url}/witness/${nameOf(log.origin)}/checkpoint`),
      'not-found',
    )
  })
})

// ── envelopes ──────────────────────────────────────────────────────────────────────────────────

type Bytes = string | Uint8Array

/** A JWS of these parts, signed by `key` over whatever they are. */
async function jws(header: unknown, payload: unknown, key: IdentityKey): Promise<string> {
  const text = (part: unknown): string => (typeof part === 'string' ? part : JSON.stringify(part))
  const input = `${toBase64Url(utf8(text(header)))}.${toBase64Url(utf8(text(payload)))}`
  return `${input}.${toBase64Url(await key.sign(utf8(input)))}`
}

const now = (): number => Math.floor(Date.now() / 1000)
const goodHeader = (): object => ({ alg: 'EdDSA', kid: peer.identity.kid, typ: GOSSIP_TYP })
const claims = (): EnvelopeClaims => peer.claims(node.did)
const changed = (change: Readonly<Record<string, unknown>>) => (): Promise<string> =>
  peer.envelope(node.did, change)
const inBody = (change: Readonly<Record<string, unknown>>) => (): Promise<string> =>
  peer.envelope(node.did, { body: { ...claims().body, ...change } })
const withHeader = (change: Readonly<Record<string, unknown>>) => (): Promise<string> =>
  jws({ ...goodHeader(), ...change }, claims(), peer.identity)
const lived = (from: number, seconds: number) => (): Promise<string> =>
  peer.envelope(node.did, { iat: now() + from, exp: now() + from + seconds })

const wallet = testSigner('EIP191', 'federation')
const stranger = await identityOf('stranger')
const next = await identityOf('refused', 2)
const third = await identityOf('refused', 3)

function statement(
  key: IdentityKey,
  change: Partial<RotationClaims>,
  did = peer.did,
): Promise<string> {
  const at = now()
  const claim = { iss: did, key: next.did, epoch: 2, nbf: at, end: null, iat: at, ...change }
  return signRotation(key, claim)
}
const stating = (make: () => Promise<readonly string[]>) => async (): Promise<string> =>
  peer.envelope(node.did, { statements: await make() })

const refusals: readonly (readonly [what: string, make: () => Promise<Bytes> | Bytes, Code])[] = [
  // Who speaks, and to whom.
  [
    'of a node that nobody lists',
    async () => signJws(stranger, GOSSIP_TYP, { ...claims(), iss: stranger.did }),
    'unknown-peer',
  ],
  ['of a did:pkh that nobody lists', changed({ iss: wallet.did }), 'unknown-peer'],
  ['for another node', () => peer.envelope(other.did), 'wrong-audience'],
  ['for nobody', changed({ aud: 'everybody' }), 'wrong-audience'],
  ['of nobody', changed({ iss: 'me' }), 'bad-did'],
  ['of an iss with a fragment', changed({ iss: 'did:key:z6Mk#1' }), 'bad-did'],
  // When.
  ['that has expired', lived(-90, 60), 'stale-envelope'],
  ['that lives more than 60 s', lived(0, 61), 'stale-envelope'],
  ['that lives not at all', lived(0, 0), 'stale-envelope'],
  ['of a clock that is ahead', lived(120, 30), 'stale-envelope'],
  ['in milliseconds', changed({ iat: Date.now(), exp: Date.now() + 30 }), 'stale-envelope'],
  // The signature.
  [
    'with another signature',
    async () => `${(await peer.envelope(node.did)).slice(0, -10)}AAAAAAAAAA`,
    'bad-signature',
  ],
  [
    'with a claim changed',
    async () => {
      const [header, , signature] = (await peer.envelope(node.did)).split('.')
      return `${header}.${toBase64Url(utf8(JSON.stringify(claims())))}.${signature}`
    },
    'bad-signature',
  ],
  [
    'signed by a stranger in a peer’s name',
    () => jws(goodHeader(), claims(), stranger),
    'bad-signature',
  ],
  [
    'without a signature',
    async () => `${(await peer.envelope(node.did)).split('.', 2).join('.')}.`,
    'bad-signature',
  ],
  [
    'with the kid of another peer',
    () => signJws(other.identity, GOSSIP_TYP, claims()),
    'unknown-peer',
  ],
  ['with the kid of no peer', () => signJws(stranger, GOSSIP_TYP, claims()), 'unknown-peer'],
  // The header.
  ['with another typ', withHeader({ typ: 'vm-event+jws' }), 'bad-header'],
  ['without a typ', withHeader({ typ: undefined }), 'bad-header'],
  ['with alg none', withHeader({ alg: 'none' }), 'bad-header'],
  ['with another alg', withHeader({ alg: 'ES256' }), 'bad-header'],
  ['with crit', withHeader({ crit: ['exp'] }), 'bad-header'],
  ['with a kid that is no DID', withHeader({ kid: 'key-1' }), 'bad-did'],
  ['with a kid that is a did:pkh', withHeader({ kid: wallet.did }), 'bad-header'],
  [
    'with a header that repeats a key',
    () => jws(`{"alg":"none",${JSON.stringify(goodHeader()).slice(1)}`, claims(), peer.identity),
    'duplicate-key',
  ],
  // The form.
  ['that is no JWS', () => 'hello', 'bad-jws'],
  ['that is nothing', () => '', 'bad-jws'],
  ['of four parts', async () => `${await peer.envelope(node.did)}.`, 'bad-jws'],
  ['that is no base64url', async () => `${await peer.envelope(node.did)}=`, 'bad-encoding'],
  ['of bytes', () => Uint8Array.from({ length: 300 }, (_, i) => i), 'bad-jws'],
  ['that is no JSON', () => jws(goodHeader(), 'hello', peer.identity), 'bad-envelope'],
  ['that is a list', () => jws(goodHeader(), [claims()], peer.identity), 'bad-envelope'],
  [
    'that repeats a key',
    () => jws(goodHeader(), `{"jti":"another",${JSON.stringify(claims()).slice(1)}`, peer.identity),
    'duplicate-key',
  ],
  [
    'that nests without end',
    () =>
      jws(
        goodHeader(),
        `{"body":{"a":${'['.repeat(70_000)}${']'.repeat(70_000)}},${JSON.stringify(claims()).slice(1)}`,
        peer.identity,
      ),
    'bad-envelope',
  ],
  ['without a claim', changed({ jti: undefined }), 'bad-envelope'],
  ['with a claim too many', changed({ admin: true }), 'bad-envelope'],
  ['with a jti that is a sentence', changed({ jti: 'once upon a time' }), 'bad-envelope'],
  ['with half a second', changed({ exp: now() + 30.5 }), 'bad-envelope'],
  ['with an address that is none', changed({ url: 'file:///etc/passwd' }), 'bad-envelope'],
  ['with a vkey that is none', changed({ vkey: 'key' }), 'bad-envelope'],
  ['with an origin of two lines', changed({ origin: 'a\nb' }), 'bad-envelope'],
  ['with a body that is none', changed({ body: 'hello' }), 'bad-envelope'],
  // The body.
  ['without tips', inBody({ tips: undefined }), 'bad-envelope'],
  ['with tips that are none', inBody({ tips: [{ origin: 'x', height: -1 }] }), 'bad-envelope'],
  [
    'with more tips than there are logs',
    inBody({
      tips: Array.from({ length: 129 }, (_, i) => ({
        origin: `${i}`,
        height: 1,
        treeSize: 1,
        root: '0'.repeat(64),
      })),
    }),
    'bad-envelope',
  ],
  ['without a feed', inBody({ feed: null }), 'bad-envelope'],
  // Key statements.
  ['with a statement that is none', stating(async () => ['hello']), 'bad-jws'],
  [
    'with more statements than a node has',
    stating(async () => Array.from({ length: 65 }, () => 'a.b.c')),
    'bad-envelope',
  ],
  [
    'with a statement that skips an epoch',
    stating(async () => [await statement(peer.identity, { epoch: 3, key: third.did })]),
    'bad-rotation',
  ],
  [
    'with a statement of a stranger',
    stating(async () => [await statement(stranger, {})]),
    'bad-rotation',
  ],
  [
    'with a statement of another node',
    stating(async () => [await statement(other.identity, {}, other.did)]),
    'bad-rotation',
  ],
  [
    'with a statement that a stranger signed in the peer’s name',
    stating(async () => [await statement({ ...stranger, kid: peer.identity.kid }, {})]),
    'bad-signature',
  ],
  [
    'with a statement that begins before it was signed',
    stating(async () => {
      const at = now()
      const input = (text: object): string => toBase64Url(utf8(JSON.stringify(text)))
      const header = input({ alg: 'EdDSA', kid: peer.identity.kid, typ: 'vm-rotation+jws' })
      const said = { iss: peer.did, key: next.did, epoch: 2, nbf: at - 9, end: null, iat: at }
      const signed = `${header}.${input(said)}`
      return [`${signed}.${toBase64Url(await peer.identity.sign(utf8(signed)))}`]
    }),
    'bad-rotation',
  ],
  [
    'signed by a key that is not valid yet',
    async () => {
      const statements = [await statement(peer.identity, { nbf: now() + 60 })]
      return signJws(next, GOSSIP_TYP, { ...claims(), statements })
    },
    'unknown-peer',
  ],
]

describe('an envelope', () => {
  beforeAll(async () => {
    await node.federate([{ did: peer.did }, { did: other.did }])
    await heard(() => peer.envelope(node.did))
    await node.post()
  })

  test('of a listed peer is answered by one of this node, for that peer', async () => {
    const answer = await peer.speak(node)
    expect(answer.status).toBe(200)
    expect(answer.headers.get('content-type')).toBe('application/jose')
    expect(answer.headers.get('cache-control')).toBe('no-store')
    const [, payload] = (await answer.text()).split('.')
    const said = JSON.parse(Buffer.from(payload!, 'base64url').toString()) as EnvelopeClaims
    expect(said).toMatchObject({ iss: node.did, aud: peer.did, origin: node.origin })
    expect(said.exp - said.iat).toBeLessThanOrEqual(60)
  })

  test.each(refusals)('%s is refused, and changes nothing', async (_, make, code) => {
    const before = await state()
    await refused(await send(node.url, await make()), code)
    expect(await state()).toEqual(before)
  })

  test('is taken once: the same bytes again are refused, whatever they say', async () => {
    const twice = await peer.envelope(node.did)
    expect((await send(node.url, twice)).status).toBe(200)
    const before = await state()
    await refused(await send(node.url, twice), 'replayed-envelope')
    const { jti } = claims()
    expect((await send(node.url, await peer.envelope(node.did, { jti }))).status).toBe(200)
    const after = await state()
    await refused(await send(node.url, await peer.envelope(node.did, { jti })), 'replayed-envelope')
    expect(await state()).toEqual(after)
    expect(before).not.toEqual(null)
    // It is the peer's own: another one may use it.
    expect((await other.speak(node, { jti })).status).toBe(200)
  })

  test('that was refused may be sent again when it is right: a refusal costs no jti', async () => {
    const { jti } = claims()
    const forged = `${(await peer.envelope(node.did, { jti })).slice(0, -10)}AAAAAAAAAA`
    await refused(await send(node.url, forged), 'bad-signature')
    expect((await peer.speak(node, { jti })).status).toBe(200)
  })

  test('that is too large is refused with the limit, be its length told or not', async () => {
    const large = await peer.envelope(node.did, { body: { pad: 'x'.repeat(MAX_ENVELOPE_BYTES) } })
    const whole = await refused(await send(node.url, large), 'envelope-too-large')
    expect(whole['limit']).toBe(MAX_ENVELOPE_BYTES)
    const chunks = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(utf8(large))
        controller.close()
      },
    })
    const answer = await fetch(`${node.url}/federation/gossip`, {
      method: 'POST',
      headers: { 'content-type': 'application/jose' },
      body: chunks,
      duplex: 'half',
    } as RequestInit)
    expect((await refused(answer, 'envelope-too-large'))['limit']).toBe(MAX_ENVELOPE_BYTES)
  })

  test('of another media type is refused', async () => {
    for (const type of ['application/json', 'text/plain', 'application/x-www-form-urlencoded']) {
      const answer = await send(node.url, await peer.envelope(node.did), type)
      await refused(answer, 'unsupported-media-type')
    }
  })

  test('is posted: other methods are not for this path', async () => {
    const answer = await fetch(`${node.url}/federation/gossip`)
    expect(answer.headers.get('allow')).toBe('POST')
    await refusedBy(answer, 'method-not-allowed')
  })

  test('that was refused is counted under its problem, each of them', async () => {
    // What the isolates refuse travels with the first refusal after a second.
    await sleep(1100)
    await refused(await send(node.url, 'hello'), 'bad-jws')
    await until(
      `${JSON.stringify(sent)} to be counted`,
      async () => (await node.peers()).refusals,
      (counted) => {
        const codes = new Set([...Object.keys(counted), ...Object.keys(sent)])
        return [...codes].every((code) => counted[code] === sent[code])
      },
      3000,
    )
  })

  test('that was refused is counted though no other follows', async () => {
    await sleep(1100)
    const before = (await node.peers()).refusals['bad-jws'] ?? 0
    for (let i = 0; i < 5; i++) await refused(await send(node.url, 'hello'), 'bad-jws')
    await until(
      'five more to be counted',
      async () => (await node.peers()).refusals['bad-jws'],
      (counted) => counted === before + 5,
      3000,
    )
  })
})

// ── keys ───────────────────────────────────────────────────────────────────────────────────────

describe('a peer’s keys', () => {
  const by = async (
    key: IdentityKey,
    one: FakePeer,
    statements?: readonly string[],
  ): Promise<Response> =>
    send(
      node.url,
      await signJws(key, GOSSIP_TYP, {
        ...one.claims(node.did),
        ...(statements === undefined ? {} : { statements }),
      }),
    )

  test('overlap when it rotates them, and the old one is refused from its end on', async () => {
    const one = await fake('rotates')
    const second = await identityOf('rotates', 2)
    await node.federate([{ did: one.did }])
    await heard(() => one.envelope(node.did))
    await refused(await by(second, one), 'unknown-peer')
    const endsAt = now() + 3
    const added = await statement(one.identity, { key: second.did, end: endsAt }, one.did)
    // The old key tells of the new one; both speak.
    expect((await by(one.identity, one, [added])).status).toBe(200)
    expect((await by(second, one)).status).toBe(200)
    expect((await by(one.identity, one)).status).toBe(200)
    const { keys } = await node.peer(one.did)
    const time = (seconds: number): string => new Date(seconds * 1000).toISOString()
    expect(keys).toEqual([
      { epoch: 1, did: one.did, nbf: null, end: time(endsAt) },
      { epoch: 2, did: second.did, nbf: expect.any(String), end: null },
    ])
    await sleep(endsAt * 1000 - Date.now() + 50)
    await refused(await by(one.identity, one), 'unknown-peer')
    expect((await by(second, one, [added])).status).toBe(200)
    // A key that has its end adds no other.
    const late = await statement(one.identity, { key: third.did, epoch: 3 }, one.did)
    const before = await state()
    await refused(await by(second, one, [added, late]), 'bad-rotation')
    expect(await state()).toEqual(before)
  })

  test('of which two are for one epoch freeze it, until the operator lets it speak', async () => {
    const one = await fake('conflicted')
    const [second, rival] = [await identityOf('conflicted', 2), await identityOf('conflicted', 3)]
    await node.federate([{ did: one.did }, { did: peer.did }])
    await heard(() => one.envelope(node.did))
    const a = await statement(one.identity, { key: second.did }, one.did)
    const b = await statement(one.identity, { key: rival.did }, one.did)
    expect((await by(second, one, [a])).status).toBe(200)
    const tips = await node.tips()

    const problem = await refused(await by(rival, one, [b]), 'bad-rotation')
    expect(problem['detail']).toContain('epoch 2')
    const frozen = await node.peer(one.did)
    expect(frozen.state).toBe('key-conflict')
    expect(frozen.keyConflict).toEqual({ epoch: 2, a, b })
    expect(frozen.keys.map(({ did }) => did)).toEqual([one.did, second.did])
    expect(await node.alerts('key_conflict')).toMatchObject([
      { key: one.did, severity: 'critical' },
    ])
    for (const key of [one.identity, second, rival]) {
      await refused(await by(key, one), 'unknown-peer')
    }
    expect(await node.tips()).toEqual(tips)
    expect((await peer.speak(node)).status).toBe(200)

    const thaw = `/admin/peers/thaw?did=${encodeURIComponent(one.did)}`
    expect((await node.admin(thaw)).status).toBe(200)
    expect(await node.alerts('key_conflict')).toEqual([])
    expect((await node.peer(one.did)).state).toBe('no-address')
    expect((await by(second, one)).status).toBe(200)
    await refused(await by(rival, one), 'unknown-peer')
    await refusedBy(await node.admin(thaw), 'not-found')
  })

  test('are those that its address delegates to, if it is a did:pkh', async () => {
    const one = await fake('wallet')
    const delegate = (owner: typeof wallet): string => {
      const at = now()
      const said = { iss: wallet.did, key: one.did, epoch: 1, nbf: at, end: null, iat: at }
      const input = rotationInput(said, owner.did, 'EIP191')
      return `${input}.${toBase64Url(owner.sign(utf8(input)))}`
    }
    await node.federate([{ did: wallet.did }, { did: one.did }])
    await heard(() => one.envelope(node.did))
    one.says = { iss: wallet.did }
    await refused(await by(one.identity, one), 'unknown-peer')
    const somebody = testSigner('EIP191', 'somebody')
    await refused(await by(one.identity, one, [delegate(somebody)]), 'bad-rotation')
    expect((await by(one.identity, one, [delegate(wallet)])).status).toBe(200)
    expect((await by(one.identity, one)).status).toBe(200)
    expect((await node.peer(wallet.did)).keys.map(({ did }) => did)).toEqual([one.did])
  })
})

// ── law ────────────────────────────────────────────────────────────────────────────────────────

describe('a peer of another law', () => {
  const ours = (view: MeshView): number =>
    view.entries.find(({ origin }) => origin === node.origin)?.height ?? 0

  test('is shown and told of, heard as a witness of its log, and left out of what all agree on', async () => {
    const one = await fake('lawless')
    const law = one.lawHash
    one.lawHash = `sha256:${'0'.repeat(64)}`
    one.feeds(await one.log.seal())
    await node.post()
    await node.federate([one.listing])
    const view = await until(
      'the mismatch',
      () => node.peer(one.did),
      (seen) => seen.state === 'law-mismatch' && seen.tip?.height === 1,
    )
    expect(view).toMatchObject({ lawHash: one.lawHash, failures: 0, faults: 0 })
    const alerts = async () =>
      (await node.alerts('law_mismatch')).filter(({ key }) => key === one.did)
    expect(await alerts()).toMatchObject([
      { severity: 'warning', detail: expect.stringContaining(one.did) },
    ])
    // It has acknowledged nothing of ours, and is not asked to.
    expect(ours(await node.get<MeshView>('/federation/mesh'))).toBeGreaterThan(0)

    one.lawHash = law
    await until(
      'one law',
      () => node.peer(one.did),
      ({ state: seen }) => seen === 'ok',
    )
    expect(await alerts()).toEqual([])
    expect(ours(await node.get<MeshView>('/federation/mesh'))).toBe(0)
  })

  test('is told of too if it is this node whose law has changed', async () => {
    const one = await fake('loyal')
    await node.federate([one.listing])
    await until(
      'the visit',
      () => node.peer(one.did),
      ({ state: seen }) => seen === 'ok',
    )
    await node.federate([one.listing], { order: 'EVM, BTC, TSA' })
    await until(
      'the mismatch',
      () => node.peer(one.did),
      ({ state: seen }) => seen === 'law-mismatch',
    )
    try {
      await until(
        'the alert',
        () => node.alerts('law_mismatch'),
        (alerts) => alerts.some(({ key }) => key === one.did),
        3000,
      )
    } finally {
      await node.federate([one.listing])
    }
  })
})

// ── witness ────────────────────────────────────────────────────────────────────────────────────

function addCheckpoint(oldSize: number, proof: readonly Hash[], note: string): Promise<Response> {
  const lines = proof.map((hash) => `${toBase64(hash)}\n`).join('')
  return witnessing(`old ${oldSize}\n${lines}\n${note}`)
}

function witnessing(body: string): Promise<Response> {
  return fetch(`${node.url}/witness/add-checkpoint`, { method: 'POST', body })
}

describe('the witness', () => {
  let log: FakeLog
  const at = (size: number): Promise<string> => log.checkpoint(size, log.rootAt(size))
  const stale = async (answer: Response, size: number): Promise<void> => {
    expect([answer.status, await answer.text()]).toEqual([409, `${size}\n`])
    expect(answer.headers.get('content-type')).toBe(SIZE_TYPE)
  }

  /** The cosignature of a 200, which must make the note one that this node vouches for. */
  async function cosigned(answer: Response, note: string): Promise<string> {
    const line = await answer.text()
    expect(answer.status, line).toBe(200)
    expect(answer.headers.get('content-type')).toBe(TEXT_TYPE)
    const trust = { log: parseVkey(log.vkey), witnesses: [parseVkey(node.witness)] }
    const { cosignatures } = await verifyCheckpoint(note + line, trust)
    expect(cosignatures.length).toBe(1)
    expect(Math.abs(cosignatures[0]!.timestamp! - now())).toBeLessThan(10)
    return line
  }

  beforeAll(async () => {
    log = await FakeLog.create('foreign.test/log', await identityOf('foreign'))
    for (let i = 0; i < 9; i++) await log.seal()
    await node.federate([{ did: peer.did }], {
      more: `witness:\n  logs:\n    - origin: '${log.origin}'\n      vkey: '${log.vkey}'\n`,
    })
  })

  test('knows the logs of its configuration and of its peers, and not its own', async () => {
    const unknown = await FakeLog.create('unknown.test/log', peer.identity)
    const own = await noteSigner(node.origin, 'own')
    for (const note of [
      (await unknown.seal()).checkpoint,
      await FakeLog.create(node.origin, peer.identity).then((fakeOwn) =>
        fakeOwn.checkpoint(1, sha256(utf8('own')), own),
      ),
    ]) {
      await refusedBy(await addCheckpoint(0, [], note), 'unknown-log')
    }
    await refusedBy(
      await fetch(`${node.url}/witness/${nameOf(log.origin)}/checkpoint`),
      'not-found',
    )
  })

  test.each([
    ['nothing', ''],
    ['a note alone', 'foreign.test/log\n1\nAAAA\n'],
    ['a size with a sign', 'old +0\n\nforeign.test/log\n'],
    ['a size with a leading zero', 'old 00\n\nforeign.test/log\n'],
    ['64 lines of proof', `old 1\n${`${toBase64(sha256(utf8('a')))}\n`.repeat(64)}\nx\n`],
    ['a proof of short hashes', 'old 1\nAAAA\n\nforeign.test/log\n'],
    ['a note that is none', 'old 0\n\nhello\n'],
  ])('answers %s with 400', async (_, body) => {
    await refusedBy(await witnessing(body), 'bad-body')
  })

  test('reads 64 KiB and no more', async () => {
    const problem = await refusedBy(
      await witnessing('old 0\n\n'.padEnd(MAX_ADD_CHECKPOINT_BYTES + 1, 'x')),
      'body-too-large',
    )
    expect(problem['limit']).toBe(MAX_ADD_CHECKPOINT_BYTES)
  })

  test('answers 403 if the log’s known key did not sign', async () => {
    const forger = await noteSigner(log.origin, 'forger')
    const note = await log.checkpoint(3, log.rootAt(3), forger)
    await refusedBy(await addCheckpoint(0, [], note), 'untrusted-checkpoint')
    // The right key's name and ID over another text.
    const [text] = (await at(4)).split('\n\n')
    const [, signature] = (await at(3)).split('\n\n')
    const moved = `${text}\n\n${signature}`
    await refusedBy(await addCheckpoint(0, [], moved), 'untrusted-checkpoint')
  })

  test('cosigns what extends what it cosigned, and tells its size otherwise', async () => {
    await refusedBy(await addCheckpoint(5, [], await at(3)), 'bad-body')
    await stale(await addCheckpoint(2, log.consistency(2, 3), await at(3)), 0)
    // From nothing a proof is empty.
    await refusedBy(await addCheckpoint(0, [log.rootAt(1)], await at(3)), 'bad-proof')
    const line = await cosigned(await addCheckpoint(0, [], await at(3)), await at(3))
    const where = `${node.url}/witness/${nameOf(log.origin)}/checkpoint`
    const monitored = await fetch(where)
    expect(monitored.headers.get('content-type')).toBe(TEXT_TYPE)
    expect(await monitored.text()).toBe((await at(3)) + line)

    await stale(await addCheckpoint(0, [], await at(5)), 3)
    await stale(await addCheckpoint(2, log.consistency(2, 5), await at(5)), 3)
    const wrong = log.consistency(3, 5).map((hash, i) => (i === 0 ? sha256(hash) : hash))
    await refusedBy(await addCheckpoint(3, wrong, await at(5)), 'bad-proof')
    await refusedBy(await addCheckpoint(3, [], await at(5)), 'bad-proof')
    expect(await (await fetch(where)).text()).toBe((await at(3)) + line)
    await cosigned(await addCheckpoint(3, log.consistency(3, 5), await at(5)), await at(5))
    await cosigned(await addCheckpoint(5, [], await at(5)), await at(5))
    await stale(await addCheckpoint(3, [], await at(3)), 5)
  })

  test('cosigns the log of a peer that has introduced itself', async () => {
    await heard(() => peer.envelope(node.did))
    for (let i = 0; i < 5; i++) await peer.log.seal()
    const answer = await addCheckpoint(0, [], peer.log.batches[2]!.checkpoint)
    expect(answer.status, await answer.clone().text()).toBe(200)
  })

  /** The log signs another root at the size that was cosigned last. */
  async function fork(forked: FakeLog, size: number): Promise<string> {
    const rival = await forked.checkpoint(size, sha256(utf8('another history')))
    await refusedBy(await addCheckpoint(size, [], rival), 'bad-proof')
    expect(await node.alerts('fork')).toContainEqual(
      expect.objectContaining({ key: forked.origin, severity: 'critical' }),
    )
    return rival
  }

  test('keeps both notes of a log that signs two histories, shows them, and stays with the first', async () => {
    const { log: forked } = peer
    const rival = await fork(forked, 3)
    const { rivals } = await node.conflicts()
    const found = rivals.filter(({ origin }) => origin === forked.origin)
    expect(found).toMatchObject([{ size: 3 }])
    expect(found[0]!.notes[0].startsWith(forked.batches[2]!.checkpoint)).toBe(true)
    expect(found[0]!.notes[1]).toBe(rival)
    // What extends it is cosigned.
    const { checkpoint } = forked.batches[4]!
    const answer = await addCheckpoint(3, forked.consistency(3, 5), checkpoint)
    expect(answer.status, await answer.clone().text()).toBe(200)
  })

  test('shows them of a log of its configuration, too', async () => {
    const rival = await fork(log, 5)
    const { rivals } = await node.conflicts()
    const found = rivals.find(({ origin }) => origin === log.origin)
    expect(found?.notes[1]).toBe(rival)
  })

  test('is looked at by the SHA-256 of an origin, in hex', async () => {
    for (const name of ['x', nameOf(log.origin).toUpperCase()]) {
      await refusedBy(await fetch(`${node.url}/witness/${name}/checkpoint`), 'bad-request')
    }
  })
})

// ── views ──────────────────────────────────────────────────────────────────────────────────────

describe('a question about logs', () => {
  test.each([
    ['/federation/mesh?origins=a,b&heights=1', 'bad-request'],
    ['/federation/mesh?origins=a&heights=0', 'bad-request'],
    ['/federation/mesh?origins=a&heights=1', 'not-found'],
    ['/federation/feed?after=-1', 'bad-request'],
    ['/remembrancer/roots/1?origin=nowhere.test/log', 'not-found'],
    ['/remembrancer/batches?origin=nowhere.test/log', 'no-federation'],
    [`/mirror/${'0'.repeat(64)}/checkpoint`, 'unknown-log'],
    [`/mirror/${'0'.repeat(64)}/tile/0/000`, 'not-found'],
    [`/mirror/${'0'.repeat(64)}/batches/1/${'0'.repeat(64)}/events/0`, 'not-found'],
  ] as const)('%s is answered by %s', async (where, code) => {
    await refusedBy(await fetch(node.url + where), code)
  })
})

// ── configuration ──────────────────────────────────────────────────────────────────────────────

describe('config/federation.yaml', () => {
  const selfhost = (home: string, port: number, file: string): string[] => [
    'scripts/selfhost.ts',
    '--home',
    join(dir, home),
    '--port',
    String(port),
    '--federation',
    file,
  ]

  test('that is wrong stops a start in one line, which names the key and its line', async () => {
    const wrong: readonly (readonly [name: string, yaml: string | null, message: RegExp])[] = [
      ['key', 'gossip:\n  interval: 5\n', /: gossip\.interval \(line 2\): is not a key/],
      [
        'peer',
        "peers_allowlist:\n  - 'did:key:z6MkhaXgBZDvotDkL5257faiztiGiC2QtKLGpbnnEGta2doK'\n  - me\n",
        /: peers_allowlist\[1\] \(line 3\): this is not a DID/,
      ],
      ['yaml', 'gossip: [\n', /: line \d+: is not YAML/],
      ['node', `node_did: '${stranger.did}'\n`, /: node_did is not this node's/],
      ['nothing', null, /^vaultmesh: Cannot read [^\n]+nothing\.yaml\.\n$/],
    ]
    await Promise.all(
      wrong.map(async ([name, yaml, message]) => {
        const file = join(dir, `${name}.yaml`)
        if (yaml !== null) writeFileSync(file, yaml)
        const { code, stdout, stderr } = await run(selfhost(name, await freePort(), file))
        expect([code, stdout], stderr).toEqual([1, ''])
        expect(stderr).toMatch(/^vaultmesh: [^\n]+\n$/)
        expect(stderr).toMatch(message)
      }),
    )
  })

  test('is followed while the node runs: peers go and come, and what is refused changes nothing', async () => {
    const file = join(dir, 'followed.yaml')
    const save = (list: readonly Listing[]): void => writeFileSync(file, yamlOf(list))
    const port = await freePort()
    const url = `http://127.0.0.1:${port}`
    const listed = async (): Promise<readonly string[]> => {
      const answer = await fetch(`${url}/federation/peers`)
      return ((await answer.json()) as { peers: { did: string }[] }).peers.map(({ did }) => did)
    }
    const [leaves, comes] = [await fake('leaves'), await fake('comes')]
    save([leaves.listing])
    const running = await start(selfhost('followed', port, file), 'rails:')
    try {
      const answer = await fetch(`${url}/.well-known/vaultmesh.json`)
      const { node_did: did } = (await answer.json()) as { node_did: string }
      await heard(() => leaves.envelope(did), { url })
      expect(leaves.asked.gossip).toBeGreaterThan(0)
      expect(
        (await refusedBy(await comes.speak({ url, did }), 'unknown-peer'))['detail'],
      ).toContain(comes.did)

      save([comes.listing])
      await until('the new list', listed, ([first]) => first === comes.did)
      // From now on: the very next one.
      const gossiped = leaves.asked.gossip
      await refusedBy(await leaves.speak({ url, did }), 'unknown-peer')
      await until(
        'a visit to who came',
        () => Promise.resolve(comes.asked.gossip),
        (visits) => visits > 2,
      )
      await heard(() => comes.envelope(did), { url })
      expect(leaves.asked.gossip).toBeLessThanOrEqual(gossiped + 1)

      writeFileSync(file, 'gossip:\n  interval_ms: soon\npeers_allowlist: []\n')
      await until(
        'the refusal',
        () => Promise.resolve(running.output()),
        (output) => output.includes('is refused: '),
      )
      const said = running
        .output()
        .split('\n')
        .find((text) => text.includes('is refused: '))!
      expect(said).toContain('gossip.interval_ms (line 2): must be a whole number')
      expect(await listed()).toEqual([comes.did])
      expect((await comes.speak({ url, did })).status).toBe(200)

      save([leaves.listing, comes.listing])
      await until('both', listed, (dids) => dids.length === 2)
      await heard(() => leaves.envelope(did), { url })
    } finally {
      await running.stop('SIGTERM')
    }
  })

  test('that is taken away leaves the federation', async () => {
    expect((await node.admin('/admin/federation')).status).toBe(200)
    await refusedBy(await fetch(`${node.url}/federation/peers`), 'no-federation')
    await until(
      'the isolates to know',
      async () => (await peer.speak(node)).status,
      (status) => status === 404,
    )
    await node.post()
  })
})
