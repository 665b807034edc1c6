/**
 * The Guardian of running nodes: whatever is wrong with telemetry is refused with its own code and counted, and what is
 * right travels from node to node by gossip.
 */

import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fromBase64Url, fromUtf8, toBase64Url, utf8 } from '#core/bytes.ts'
import type { Code } from '#core/errors.ts'
import type { IdentityKey } from '#core/node-keys.ts'
import { signJws } from '#core/node-keys.ts'
import { signTelemetry, TELEMETRY_TYP, type Telemetry } from '#core/telemetry.ts'
import type { GuardianView, NodeHealth, SeriesView } from '#store/guardian-api.ts'
import { telemetry } from '../support/telemetry.ts'
import { bundleWorker } from '../../scripts/build.ts'
import { FakePeer, FedNode, identityOf, refusedBy, until } from './federation-support.ts'
import { sandbox } from './support.ts'

/** Of a peer something is taken each half of it. */
const INTERVAL_MS = 1000
const SETTINGS = { GUARDIAN_INTERVAL_MS: String(INTERVAL_MS) }

let box: Awaited<ReturnType<typeof sandbox>>
let a: FedNode
let b: FedNode
let peer: FakePeer
let other: FakePeer
let stranger: IdentityKey

beforeAll(async () => {
  box = await sandbox()
  const script = await bundleWorker()
  ;[a, b] = await Promise.all([
    FedNode.start('gua', box.dir, script, SETTINGS),
    FedNode.start('gub', box.dir, script, SETTINGS),
  ])
  await a.federate([])
  const { lawHash } = await a.peers()
  peer = await FakePeer.start('guardian-peer', lawHash)
  other = await FakePeer.start('guardian-other', lawHash)
  stranger = await identityOf('guardian-stranger')
  await Promise.all([
    a.federate([{ did: b.did, url: b.url }, { did: peer.did }, { did: other.did }]),
    b.federate([{ did: a.did, url: a.url }]),
  ])
})

afterAll(async () => {
  await Promise.all([a?.stop(), b?.stop(), peer?.stop(), other?.stop()])
  await box?.remove()
})

function bring(body: string | Uint8Array, type = 'application/jose'): Promise<Response> {
  return fetch(`${a.url}/guardian/telemetry`, {
    method: 'POST',
    headers: { 'content-type': type },
    body: body as BodyInit,
  })
}

/** A sample on a page of metrics by the labels given; 0 if it is not there. */
function metricOn(page: string, name: string, labels: Readonly<Record<string, string>>): number {
  const wanted = Object.entries(labels).map(([label, value]) => `${label}="${value}"`)
  const line = page
    .split('\n')
    .find((one) => one.startsWith(`${name}{`) && wanted.every((label) => one.includes(label)))
  return line === undefined ? 0 : Number(line.slice(line.lastIndexOf(' ') + 1))
}

async function rejected(reason: string): Promise<number> {
  const page = await (await fetch(`${a.url}/metrics`)).text()
  return metricOn(page, 'vaultmesh_telemetry_rejected_total', { reason })
}

async function healthOn(node: FedNode, did: string): Promise<NodeHealth | undefined> {
  const { nodes } = await node.get<GuardianView>('/guardian')
  return nodes.find(({ nodeDid }) => nodeDid === did)
}

describe('telemetry that is refused', () => {
  /** What `peer` said last and rightly. */
  let last: { readonly seq: number; readonly at: number; readonly jws: string }

  const said = (more: Partial<Telemetry> = {}): Telemetry =>
    telemetry({ nodeDid: peer.did, seq: last.seq + 1, ...more })

  /** A statement whose claims are not what a reader would take. */
  const claims = (change: (claims: Record<string, unknown>) => unknown): Promise<string> =>
    signTelemetry(peer.identity, said()).then((jws) => {
      const right = JSON.parse(fromUtf8(fromBase64Url(jws.split('.')[1]!))) as Record<
        string,
        unknown
      >
      return signJws(peer.identity, TELEMETRY_TYP, change(right) as object)
    })
  const signal = (name: string, value: unknown): Promise<string> =>
    claims((right) => ({ ...right, signals: { ...(right['signals'] as object), [name]: value } }))
  /** Claims as text, for what no serialiser writes. */
  const raw = async (change: (text: string) => string): Promise<string> => {
    const [header, payload] = (await signTelemetry(peer.identity, said())).split('.')
    const input = `${header}.${toBase64Url(utf8(change(fromUtf8(fromBase64Url(payload!)))))}`
    return `${input}.${toBase64Url(await peer.identity.sign(utf8(input)))}`
  }
  const part = async (i: number, text: string): Promise<string> => {
    const parts = (await signTelemetry(peer.identity, said())).split('.')
    parts[i] = text
    return parts.join('.')
  }

  beforeAll(async () => {
    const first = telemetry({ nodeDid: peer.did, seq: 1000 })
    const jws = await signTelemetry(peer.identity, first)
    // The door believes a list of peers for a tenth of a second before it refuses somebody.
    const answer = await until(
      'it is taken',
      () => bring(jws),
      ({ status }) => status === 202,
    )
    expect(await answer.json()).toEqual({ node_did: peer.did, seq: 1000 })
    last = { seq: 1000, at: first.at, jws }
  })

  const cases: readonly (readonly [what: string, Code, () => Promise<string> | string])[] = [
    ['plain JSON', 'telemetry-unsigned', () => JSON.stringify({ node_did: peer.did, seq: 2 })],
    ['without a signature', 'telemetry-unsigned', () => part(2, '')],
    ['two parts alone', 'telemetry-unsigned', async () => (await part(2, '')).slice(0, -1)],
    [
      'alg none',
      'telemetry-unsigned',
      () =>
        part(0, toBase64Url(utf8(`{"alg":"none","kid":"${peer.did}","typ":"${TELEMETRY_TYP}"}`))),
    ],
    ['no JWS at all', 'bad-telemetry', () => 'hello'],
    ['empty', 'bad-telemetry', () => ''],
    ['a JWS of four parts', 'bad-telemetry', () => part(2, 'AAAA.AAAA')],
    ['a gossip envelope', 'bad-telemetry', () => peer.envelope(a.did)],
    ['not base64url', 'bad-telemetry', () => part(1, '!!!!')],
    ['not canonical base64url', 'bad-telemetry', () => part(2, `${'A'.repeat(85)}B`)],
    ['a claim too many', 'bad-telemetry', () => claims((right) => ({ ...right, mood: 'good' }))],
    ['a claim too few', 'bad-telemetry', () => claims((right) => ({ ...right, seq: undefined }))],
    ['an unknown signal', 'bad-telemetry', () => signal('mood', 1)],
    ['a signal that is missing', 'bad-telemetry', () => signal('intake_rate', undefined)],
    ['a ratio of two', 'bad-telemetry', () => signal('reject_ratio', 2)],
    ['a negative age', 'bad-telemetry', () => signal('checkpoint_age_s', -1)],
    ['half a dead letter', 'bad-telemetry', () => signal('dead_letters', 0.5)],
    ['a signal in words', 'bad-telemetry', () => signal('queue_backlog', 'none')],
    [
      'a number that is none',
      'bad-telemetry',
      () => raw((t) => t.replace('"intake_rate":0', '"intake_rate":NaN')),
    ],
    [
      'a number without end',
      'bad-telemetry',
      () => raw((t) => t.replace('"intake_rate":0', '"intake_rate":1e999')),
    ],
    [
      'a claim said twice',
      'bad-telemetry',
      () => raw((t) => t.replace('"seq":', '"seq":5,"seq":')),
    ],
    ['a negative seq', 'bad-telemetry', () => claims((right) => ({ ...right, seq: -1 }))],
    [
      'a time in another form',
      'bad-telemetry',
      () => claims((right) => ({ ...right, ts: '2026-11-23 05:36' })),
    ],
    [
      'nested too deep',
      'bad-telemetry',
      () => claims((right) => ({ ...right, expect: [[[[[]]]]] })),
    ],
    ['replayed', 'telemetry-replayed', () => last.jws],
    [
      'another of the same seq',
      'telemetry-replayed',
      () => signTelemetry(peer.identity, said({ seq: last.seq })),
    ],
    [
      'of a lower seq',
      'telemetry-out-of-order',
      () => signTelemetry(peer.identity, said({ seq: last.seq - 1 })),
    ],
    [
      'of an earlier time',
      'telemetry-out-of-order',
      () => signTelemetry(peer.identity, said({ at: last.at - 1 })),
    ],
    [
      'of the future',
      'telemetry-future',
      () => signTelemetry(peer.identity, said({ at: Date.now() + 90_000 })),
    ],
    [
      'eleven minutes old',
      'telemetry-stale',
      () => signTelemetry(peer.identity, said({ at: Date.now() - 660_000 })),
    ],
    [
      'of a stranger',
      'unknown-peer',
      () => signTelemetry(stranger, said({ nodeDid: stranger.did })),
    ],
    ['of a peer by a stranger’s key', 'unknown-peer', () => signTelemetry(stranger, said())],
    [
      'of another node by a peer',
      'unknown-peer',
      () => signTelemetry(peer.identity, said({ nodeDid: other.did })),
    ],
    [
      'of this node by a peer',
      'unknown-peer',
      () => signTelemetry(peer.identity, said({ nodeDid: a.did })),
    ],
    [
      'changed after it was signed',
      'bad-signature',
      async () => {
        const [header, , signature] = last.jws.split('.')
        const [, payload] = (await signTelemetry(peer.identity, said())).split('.')
        return `${header}.${payload}.${signature}`
      },
    ],
    ['of 8,193 bytes', 'body-too-large', () => `${last.jws}${'A'.repeat(8193 - last.jws.length)}`],
  ]

  test.each(cases)('%s: %s, and counted', async (_, code, make) => {
    const body = await make()
    const before = await rejected(code)
    const problem = await refusedBy(await bring(body), code)
    expect(problem['detail']).toBeTypeOf('string')
    await until(
      `${code} is counted`,
      () => rejected(code),
      (n) => n === before + 1,
    )
    // Nothing of it got through.
    expect((await healthOn(a, peer.did))!.lastSeq).toBe(last.seq)
  })

  test('telemetry under another media type is refused, whatever it holds', async () => {
    await refusedBy(await bring(last.jws, 'application/json'), 'unsupported-media-type')
  })

  test('a peer that says more than once in half an interval is asked to wait', async () => {
    const next = await signTelemetry(peer.identity, said())
    const answers = await Promise.all([
      bring(next),
      signTelemetry(peer.identity, said({ seq: last.seq + 2, at: Date.now() + 1 })).then(bring),
    ])
    const statuses = answers.map(({ status }) => status).sort((x, y) => x - y)
    // Whichever came first is taken; the other one was too soon, or is older by then.
    expect(statuses[0]).toBe(202)
    expect([409, 429]).toContain(statuses[1])
    await until(
      'the next is taken',
      async () => {
        const { lastSeq } = (await healthOn(a, peer.did))!
        return bring(await signTelemetry(peer.identity, said({ seq: lastSeq + 1, at: Date.now() })))
      },
      ({ status }) => status === 202,
    )
  })
})

describe('telemetry in gossip', () => {
  test('a node hears how its peer does within rounds of gossip, and goes on hearing it', async () => {
    const first = await until(
      'telemetry of the other node',
      async () => ({ ofB: await healthOn(a, b.did), ofA: await healthOn(b, a.did) }),
      ({ ofA, ofB }) => ofA !== undefined && ofB !== undefined,
    )
    expect(first.ofB).toMatchObject({ nodeDid: b.did, own: false, stale: false, alarm: null })
    await until(
      'newer telemetry',
      () => healthOn(a, b.did),
      (now) => now!.lastSeq > first.ofB!.lastSeq,
    )
    const view = await a.get<GuardianView>('/guardian')
    expect(view.nodes[0]).toMatchObject({ nodeDid: a.did, own: true })
    expect(view.swarm!.nodes).toBeGreaterThanOrEqual(2)
    const page = await (await fetch(`${a.url}/metrics`)).text()
    expect(metricOn(page, 'vaultmesh_psi', { node_did: b.did })).toBeGreaterThan(0)
    const series = await a.get<SeriesView>(`/guardian/telemetry?node=${b.did}`)
    expect(series.points.reduce((sum, { samples }) => sum + samples, 0)).toBeGreaterThan(1)
  })

  test('what a peer hands on of another node is refused and counted, and its gossip is heard', async () => {
    const foreign = await signTelemetry(other.identity, telemetry({ nodeDid: other.did, seq: 7 }))
    const before = await rejected('unknown-peer')
    other.saysInBody = {}
    peer.saysInBody = { telemetry: foreign }
    expect((await peer.speak(a)).status).toBe(200)
    await until(
      'it is counted',
      () => rejected('unknown-peer'),
      (n) => n === before + 1,
    )
    expect(await healthOn(a, other.did)).toBeUndefined()
    // From itself it is taken.
    other.saysInBody = { telemetry: foreign }
    expect((await other.speak(a)).status).toBe(200)
    const heard = await until(
      'it is heard',
      () => healthOn(a, other.did),
      (h) => h !== undefined,
    )
    expect(heard!.lastSeq).toBe(7)
  })

  test('a body with something else in its place is gossip all the same', async () => {
    const before = await rejected('bad-telemetry')
    const nonsense = [12, 'x'.repeat(9000), { a: 1 }]
    await until(
      'it is counted',
      async () => {
        nonsense.push(nonsense.shift()!)
        peer.saysInBody = { telemetry: nonsense[0] }
        expect((await peer.speak(a)).status).toBe(200)
        return rejected('bad-telemetry')
      },
      (n) => n > before,
    )
    // An older node says nothing of it.
    peer.saysInBody = {}
    expect((await peer.speak(a)).status).toBe(200)
  })
})
