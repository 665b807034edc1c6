/**
 * A program that shares no line with us reads the log of a running node and agrees; served by a liar, it
 * refuses. It is Python with nothing but its standard library (test/independent/read_log.py).
 */

import { spawn } from 'node:child_process'
import { generateKeyPairSync, randomBytes, sign } from 'node:crypto'
import { existsSync } from 'node:fs'
import { mkdtemp, rm, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { didKey, didKeyUrl } from '#core/did.ts'
import { startHost, type Host } from '../../scripts/host.ts'

/** Two full tiles of level 1 would take 131,072; one full and one partial reach levels 0 to 2. */
const EVENTS = 70_123
const BULK = 10_000
const PORT = 7321
const PROGRAM = resolve(import.meta.dirname, '../independent/read_log.py')
const PYTHON = existsSync('/usr/bin/python3') ? '/usr/bin/python3' : 'python3'

/** The program's own parts against RFC 8032, the reference tree and 98 good and bad inclusion proofs. */
const VECTORS = `
import json, sys
sys.path.insert(0, sys.argv[1])
import read_log as r
load = lambda name: json.load(open(f'{sys.argv[2]}/{name}.json'))
signatures = [[bytes.fromhex(h) for h in case] for case in load('ed25519')['cases']]
for _, key, message, signature in signatures:
    assert r.verify_ed25519(key, message, signature)
    assert not r.verify_ed25519(key, message + b'!', signature)
    high = int.from_bytes(signature[32:], 'little') + r.L
    assert not r.verify_ed25519(key, message, signature[:32] + high.to_bytes(32, 'little'))
tree = load('rfc6962-tree')
leaves = [r.hash_leaf(bytes.fromhex(leaf)) for leaf in tree['leaves']]
for n, root in enumerate(tree['roots']):
    assert r.tree_hash(leaves[:n]).hex() == root
proofs = load('inclusion-proofs')
at = lambda i: bytes.fromhex(proofs['hashes'][i])
for case in proofs['cases']:
    c = dict(zip(proofs['columns'], case))
    try:
        r.verify_inclusion(at(c['leafHash']), c['index'], c['size'], [at(i) for i in c['proof']], at(c['root']))
        valid = True
    except r.Refused:
        valid = False
    assert valid == c['valid'], c['name']
print(f"{len(signatures)} signatures, {len(tree['roots'])} roots, {len(proofs['cases'])} proofs")
`

let folder: string
let host: Host
let vkey: string

beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'vaultmesh-independent-'))
  host = await startHost({
    port: PORT,
    stateDir: join(folder, 'state'),
    cron: false,
    vars: {
      NODE_SECRET: randomBytes(32).toString('base64url'),
      ADMIN_TOKEN: 'operator',
      SEAL_BATCH_MAX_ITEMS: '5000',
      RATE_LIMIT_DID: '0',
      RATE_LIMIT_IP: '0',
    },
  })
  ;({ vkey } = (await getJson('/.well-known/vaultmesh.json')) as { vkey: string })
  const line = signedEvents()
  for (let first = 0; first < EVENTS; first += BULK) {
    const count = Math.min(BULK, EVENTS - first)
    const body = Array.from({ length: count }, (_, i) => line(first + i)).join('\n')
    const answer = await fetch(`${host.url}/events`, {
      method: 'POST',
      headers: { 'content-type': 'application/x-ndjson' },
      body,
    })
    expect(answer.status).toBe(200)
    const { results } = (await answer.json()) as { results: readonly object[] }
    expect(results.filter((r) => 'problem' in r)).toEqual([])
  }
  for (let size = 0; size < EVENTS; size = await checkpointSize()) {
    const sealed = await fetch(`${host.url}/admin/seal`, {
      method: 'POST',
      headers: { authorization: 'Bearer operator' },
    })
    expect(sealed.status).toBe(200)
    await sleep(200) // a checkpoint may be a second old
  }
}, 120_000)

afterAll(async () => {
  await host?.stop()
  await rm(folder, { recursive: true, force: true })
})

test('its signatures, trees and proofs are those of the published vectors', async () => {
  const vectors = resolve(import.meta.dirname, '../vectors')
  const { status, output } = await python(['-c', VECTORS, resolve(PROGRAM, '..'), vectors])
  expect({ status, output }).toEqual({ status: 0, output: '3 signatures, 9 roots, 98 proofs\n' })
})

test('a stranger recomputes every tile and the root over 70,123 entries from the public log', async () => {
  const { status, output } = await readLog(`${host.url}/log`, vkey)
  expect(output).toContain(`root: `)
  expect(output).toContain(`recomputed over ${EVENTS} entries`)
  expect(output).toContain('on 3 levels')
  expect(status).toBe(0)
})

test('a stranger verifies the receipt and the proof file of one event against the whole log', async () => {
  const page = (await getJson('/events?limit=1')) as { events: readonly { eventHash: string }[] }
  const { eventHash } = page.events[0]!
  const files = {
    event: await save('event.jws', `/events/${eventHash}`),
    receipt: await save('receipt.json', `/receipts/${eventHash}`),
    proof: await save('event.tlog-proof', `/receipts/${eventHash}?format=tlog-proof`),
  }
  const { status, output } = await readLog(
    `${host.url}/log`,
    vkey,
    ...Object.entries(files).flatMap(([name, path]) => [`--${name}`, path]),
  )
  expect(output).toContain('receipt prefix: ')
  expect(output).toContain('proof prefix: ')
  expect(status).toBe(0)
  await writeFile(files.event, 'another event')
  const other = await readLog(
    `${host.url}/log`,
    vkey,
    '--receipt',
    files.receipt,
    '--event',
    files.event,
  )
  expect(other).toMatchObject({ status: 1 })
  expect(other.output).toContain('eventHash is of another event')
})

test('another key of the same name verifies nothing', async () => {
  const { publicKey } = generateKeyPairSync('ed25519')
  const { x } = publicKey.export({ format: 'jwk' })
  const material = Buffer.concat([Buffer.of(1), Buffer.from(x!, 'base64url')])
  const origin = vkey.slice(0, vkey.indexOf('+'))
  const id = await crypto.subtle.digest(
    'SHA-256',
    Buffer.concat([Buffer.from(`${origin}\n`), material]),
  )
  const wrong = `${origin}+${Buffer.from(id).toString('hex').slice(0, 8)}+${material.toString('base64')}`
  const { status, output } = await readLog(`${host.url}/log`, wrong)
  expect({ status, output }).toEqual({
    status: 1,
    output: `FAIL  no signature of ${origin} under the key given\n`,
  })
})

const lies = [
  ['one bit of a level 0 tile flipped', 'tile/0/001', flipped, 'not the hashes'],
  ['one bit of a partial level 0 tile flipped', 'tile/0/273.p/235', flipped, 'not the hashes'],
  ['one bit of a level 1 tile flipped', 'tile/1/000', flipped, 'not the hashes'],
  ['one bit of an entry flipped', 'tile/entries/007', flipped, 'not the hashes'],
  [
    'a bundle cut short by a byte',
    'tile/entries/100',
    (b: Buffer) => b.subarray(0, -1),
    'cut short',
  ],
  [
    'a bundle short of an entry',
    'tile/entries/100',
    (b: Buffer) => b.subarray(0, -34),
    '255 entries',
  ],
  ['a tile short of a hash', 'tile/0/100', (b: Buffer) => b.subarray(0, -32), 'not the hashes'],
  ['one bit of the signature flipped', 'checkpoint', signatureFlipped, 'does not verify'],
  ['a smaller tree size in the note', 'checkpoint', shrunk, 'does not verify'],
] as const

test.each(lies)('a log served with %s is refused', async (_, path, change, reason) => {
  const liar = await startLiar(path, change)
  try {
    const { status, output } = await readLog(liar.url, vkey)
    expect(output).toContain('FAIL')
    expect(output).toContain(reason)
    expect(status).toBe(1)
  } finally {
    liar.server.close()
    liar.server.closeAllConnections()
  }
})

/** Compact JWS lines, signed with node:crypto: nothing of ours but the name of the key. */
function signedEvents(): (i: number) => string {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const { x } = publicKey.export({ format: 'jwk' })
  const source = didKey('ed25519', Buffer.from(x!, 'base64url'))
  const header = base64url({ alg: 'EdDSA', kid: didKeyUrl(source), typ: 'vm-event+jws' })
  const time = new Date().toISOString()
  return (i) => {
    const input = `${header}.${base64url({ specversion: '1.0', id: `e${i}`, source, type: 'test', time })}`
    return `${input}.${sign(null, Buffer.from(input), privateKey).toString('base64url')}`
  }
}

function base64url(value: object): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url')
}

async function getJson(path: string): Promise<unknown> {
  return (await fetch(host.url + path)).json()
}

async function checkpointSize(): Promise<number> {
  return Number((await (await fetch(`${host.url}/log/checkpoint`)).text()).split('\n')[1])
}

async function save(name: string, path: string): Promise<string> {
  const file = join(folder, name)
  const answer = await fetch(host.url + path)
  expect(answer.status).toBe(200)
  await writeFile(file, Buffer.from(await answer.arrayBuffer()))
  return file
}

function readLog(...args: readonly string[]): Promise<{ status: number; output: string }> {
  return python([PROGRAM, ...args])
}

function python(args: readonly string[]): Promise<{ status: number; output: string }> {
  const child = spawn(PYTHON, ['-B', ...args], { stdio: ['ignore', 'pipe', 'pipe'] })
  let output = ''
  child.stdout.on('data', (part: Buffer) => (output += part.toString()))
  child.stderr.on('data', (part: Buffer) => (output += part.toString()))
  return new Promise((done, fail) => {
    child.on('error', fail)
    child.on('close', (status) => done({ status: status ?? -1, output }))
  })
}

/** Serves the node's log, but one path changed. */
async function startLiar(
  path: string,
  change: (bytes: Buffer) => Buffer,
): Promise<{ server: Server; url: string }> {
  const server = createServer((request, response) => {
    void (async () => {
      const upstream = await fetch(host.url + request.url!)
      const bytes = Buffer.from(await upstream.arrayBuffer())
      const lie = upstream.ok && request.url === `/log/${path}`
      response.writeHead(upstream.status).end(lie ? change(bytes) : bytes)
    })()
  })
  await new Promise<void>((up) => server.listen(0, '127.0.0.1', up))
  const address = server.address()
  if (address === null || typeof address === 'string') throw new Error('no port')
  return { server, url: `http://127.0.0.1:${address.port}/log` }
}

/** One bit of the last byte: of a hash in a tile, of an entry in a bundle. */
function flipped(bytes: Buffer): Buffer {
  bytes[bytes.length - 1]! ^= 1
  return bytes
}

function signatureFlipped(note: Buffer): Buffer {
  const text = note.toString()
  const at = text.lastIndexOf(' ') + 20
  return Buffer.from(text.slice(0, at) + (text[at] === 'A' ? 'B' : 'A') + text.slice(at + 1))
}

function shrunk(note: Buffer): Buffer {
  return Buffer.from(note.toString().replace(String(EVENTS), String(EVENTS - 1)))
}
