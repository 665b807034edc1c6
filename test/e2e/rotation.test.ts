/**
 * kid rotation of a running node: its key changes, its name does not, and what either key signed still verifies.
 * A node that an address delegated to. Statements that are not this node's stop its start.
 */

import { createPublicKey, verify as verifySignature } from 'node:crypto'
import { existsSync, readFileSync, utimesSync } from 'node:fs'
import { cp, mkdir, rm, writeFile } from 'node:fs/promises'
import { createServer, type IncomingHttpHeaders } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { verifyManifest } from '#core/batch-manifest.ts'
import { fromBase64Url, toHex, utf8 } from '#core/bytes.ts'
import { checksumAddress } from '#core/did.ts'
import { deriveIdentity, type IdentityKey } from '#core/node-keys.ts'
import { isValidKey, signRotation, verifyStatements, wasEverKey } from '#core/rotation.ts'
import { webhookKey } from '#core/webhook.ts'
import {
  createSigner,
  post,
  promiseOf,
  sign,
  trustOf,
  verify,
  type Posted,
} from '../../functions/sdk.ts'
import { ROOT } from '../../scripts/build.ts'
import { outcomeOf, parse, type Outcome, type Terminal } from '../../scripts/cli/command.ts'
import { keys as command } from '../../scripts/cli/keys.ts'
import { homeAt, type Home } from '../../scripts/home.ts'
import { nodeSecret, ownRecipients } from '../../scripts/keystore.ts'
import { startNode, type RunningNode } from '../../scripts/selfhost.ts'
import { otherS, signEvent, testSigner } from '../support/signing.ts'
import { freePort, run, sandbox, vaultmesh, type Ran } from './support.ts'

const SELFHOST = resolve(ROOT, 'scripts/selfhost.ts')
const DAY = 86_400_000

let box: Awaited<ReturnType<typeof sandbox>>
beforeAll(async () => {
  box = await sandbox()
})
afterAll(() => box.remove())

const homeOf = (name: string): string => join(box.dir, name)
const keys = (name: string, ...args: string[]): Promise<Ran> =>
  vaultmesh(['keys', ...args, '--home', homeOf(name)])

/** `vaultmesh keys args…` within this process: twenty times as fast as a process of its own. */
async function called(...args: string[]): Promise<Outcome> {
  try {
    const { values, positionals } = parse(command, args)
    return await command.run(positionals, values, {} as Terminal)
  } catch (error) {
    return outcomeOf(error, command)
  }
}

/** What `vaultmesh keys` says to programs, of a call that goes well. */
async function keysJson(name: string, ...args: string[]): Promise<any> {
  const ran = await keys(name, ...args, '--json')
  expect(ran, ran.stdout).toMatchObject({ code: 0, stderr: '' })
  return JSON.parse(ran.stdout)
}

async function startAt(name: string, vars: Record<string, string> = {}): Promise<RunningNode> {
  return startNode({
    home: homeOf(name),
    port: await freePort(),
    vars: { SEAL_BATCH_MAX_INTERVAL_MS: '200', ...vars },
  })
}

async function getJson(url: string): Promise<any> {
  return (await fetch(url)).json()
}

async function aPost({ url }: RunningNode): Promise<{ jws: string; posted: Posted }> {
  const secret = crypto.getRandomValues(new Uint8Array(32))
  const jws = await sign(await createSigner({ alg: 'EdDSA', secret }), { type: 'test.rotation' })
  return { jws, posted: await post(url, jws, { wait: 20 }) }
}

async function identity(name: string, epoch: number): Promise<string> {
  return (await deriveIdentity(fromBase64Url(await nodeSecret(homeOf(name))), epoch)).did
}

describe('a node whose key was rotated, and its secret encrypted to a new identity', () => {
  const vars = { HARBINGER_SIG_REQUIRED: '0', WEBHOOK_ALLOW_PRIVATE: '1' }
  let node: RunningNode
  let did1: string
  let did2: string
  let before: Awaited<ReturnType<typeof aPost>>
  let after: Awaited<ReturnType<typeof aPost>>
  /** Bodies that the node signed for, one in each epoch. */
  let wrapped: { body: string; eventHash: string; jws: string }[]
  let rotatedAt: number

  async function wrap(body: string): Promise<any> {
    const headers = { 'content-type': 'text/plain', prefer: 'wait=20' }
    const answer = await fetch(`${node.url}/events`, { method: 'POST', headers, body })
    expect(answer.ok).toBe(true)
    return answer.json()
  }

  async function wrapNew(body: string): Promise<void> {
    const { eventHash } = await wrap(body)
    const jws = await (await fetch(`${node.url}/events/${eventHash}`)).text()
    wrapped.push({ body, eventHash, jws })
  }

  beforeAll(async () => {
    wrapped = []
    node = await startAt('old', vars)
    before = await aPost(node)
    await wrapNew('said before')
    await node.stop()
    did1 = await identity('old', 1)
    did2 = await identity('old', 2)
    rotatedAt = Math.floor(Date.now() / 1000) * 1000
    const { stdout, stderr, code } = await keys('old', 'rotate')
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(stdout).toContain(`epoch 2  ${did2}\n  epoch 1  ${did1} is valid beside it until 2`)
    expect(stdout).toContain('restart the node (or redeploy with ROTATION) to use it')
    // A new epoch and a new age identity in one maintenance, as docs/secrets.md has it for a key that leaked.
    const home = homeOf('old')
    const [machine] = await ownRecipients({ create: false })
    const { value } = await called('identity', '--new', '--home', home)
    const { recipient } = value as { recipient: string }
    const moved = ['recipients', '--add', recipient, '--remove', machine!, '--home', home]
    expect((await called(...moved)).exit).toBe(0)
    const retired = await called('identity', '--retire', machine!, '--home', home, '--dir', home)
    expect(retired.exit, retired.lines.join()).toBe(0)
    expect(await ownRecipients({ create: false })).toEqual([recipient])
    // The rotation survives a backup: all of it lies in the home.
    await cp(homeOf('old'), homeOf('restored'), { recursive: true })
    await rm(homeOf('old'), { recursive: true })
    node = await startAt('restored', vars)
    after = await aPost(node)
    await wrapNew('said after')
  }, 60_000)
  afterAll(() => node?.stop())

  test('keeps its name, says by which statements its keys follow from it, and pins them', async () => {
    const known = await getJson(`${node.url}/.well-known/vaultmesh.json`)
    expect(known).toMatchObject({ node_did: did1, rotation: [expect.any(String)] })
    expect(await getJson(`${node.url}/healthz`)).toMatchObject({ node_did: did1 })
    const history = await verifyStatements(known.node_did, known.rotation)
    expect(history.keys.map(({ did }) => did)).toEqual([did1, did2])
    const trust = await trustOf(node.url)
    expect(trust).toMatchObject({ node_did: did1, nodeDids: [did1, did2] })
    expect(JSON.parse(readFileSync(node.home.trust, 'utf8'))).toEqual(trust)
    const file = JSON.parse(readFileSync(node.home.rotation, 'utf8'))
    expect(file).toEqual({ statements: known.rotation })
  })

  test('has a week in which both keys are valid', async () => {
    const { rotation } = await getJson(`${node.url}/.well-known/vaultmesh.json`)
    const history = await verifyStatements(did1, rotation)
    expect(isValidKey(history, did2, rotatedAt - 1)).toBe(false)
    for (const did of [did1, did2]) expect(isValidKey(history, did, Date.now())).toBe(true)
    expect(isValidKey(history, did1, Date.now() + 7 * DAY)).toBe(false)
    const shown = await keysJson('restored', 'show')
    expect(shown.keys).toMatchObject([
      { epoch: 1, did: did1, from: null, state: 'valid' },
      { epoch: 2, did: did2, until: null, state: 'current' },
    ])
    expect(shown).toMatchObject({ nodeDid: did1, rotation: rotation.join(' ') })
    expect((await keys('restored', 'show')).stdout).toMatch(
      new RegExp(
        `^${did1}\n  epoch 1  ${did1} until \\S+Z  valid\n  epoch 2  ${did2} from \\S+Z  current\n$`,
      ),
    )
  })

  test('has receipts and promises of both keys, and the SDK verifies them', async () => {
    const trust = await trustOf(node.url)
    for (const { jws, posted } of [before, after]) {
      expect(await verify(posted.receipt!, trust, jws)).toMatchObject({ verdict: 'verified' })
      const { iss } = await promiseOf(posted.promise!, posted.eventHash)
      expect(trust.nodeDids).toContain(iss)
    }
    const issuers = await Promise.all(
      [before, after].map(({ posted }) => promiseOf(posted.promise!, posted.eventHash)),
    )
    expect(issuers.map(({ iss }) => iss)).toEqual([did1, did2])
    const again = await post(node.url, before.jws)
    expect(again.eventHash).toBe(before.posted.eventHash)
    expect(await promiseOf(again.promise!, again.eventHash)).toMatchObject({ iss: did2 })
  })

  test('has manifests of both keys, and fsck takes them for its own', async () => {
    const { node_did, rotation } = await getJson(`${node.url}/.well-known/vaultmesh.json`)
    const history = await verifyStatements(node_did, rotation)
    const { height } = (await getJson(`${node.url}/healthz`)).log
    const sealers: string[] = []
    for (let h = 1; h <= height; h++) {
      const { manifest } = await getJson(`${node.url}/batches/${h}`)
      const { sealer } = await verifyManifest(manifest, (did) => wasEverKey(history, did))
      sealers.push(sealer)
    }
    expect([...new Set(sealers)]).toEqual([did1, did2])
    const fsck = await vaultmesh(['fsck', '--home', node.home.path])
    expect(fsck.stdout).toContain('clean')
    expect(fsck.code).toBe(0)
  })

  test('gives a body that it signed for the first answer, whichever key signed and however it comes', async () => {
    for (const { body, eventHash } of wrapped) {
      expect(await wrap(body)).toMatchObject({ eventHash })
    }
    const sources = wrapped.map(
      ({ jws }) => JSON.parse(Buffer.from(jws.split('.')[1]!, 'base64url').toString()).source,
    )
    expect(sources).toEqual([did1, did2])
    const { posted: last } = await aPost(node)
    for (const { jws, eventHash } of wrapped) {
      const direct = { 'content-type': 'application/jose', prefer: 'wait=20' }
      for (const headers of [direct, { ...direct, prefer: 'respond-async' }]) {
        const answer = await fetch(`${node.url}/events`, { method: 'POST', headers, body: jws })
        expect(await answer.json()).toMatchObject({ eventHash })
      }
    }
    // Time for the consumer of events-intake, which would have accepted it anew.
    await sleep(1500)
    const { posted: next } = await aPost(node)
    expect(next.receipt!.leafIndex).toBe(last.receipt!.leafIndex + 1)
  })

  test('signs webhooks with the key that its well-known file names now', async () => {
    const heard = Promise.withResolvers<{ headers: IncomingHttpHeaders; text: string }>()
    const receiver = createServer((request, response) => {
      let text = ''
      request.on('data', (chunk: Buffer) => (text += chunk.toString()))
      request.on('end', () => {
        response.end()
        heard.resolve({ headers: request.headers, text })
      })
    })
    await new Promise<void>((ready) => receiver.listen(0, '127.0.0.1', ready))
    try {
      const url = `http://127.0.0.1:${(receiver.address() as AddressInfo).port}/`
      const body = signEvent(testSigner('EdDSA', 'rotation'))
      const headers = { 'content-type': 'application/jose', 'vaultmesh-webhook': url }
      await fetch(`${node.url}/events`, { method: 'POST', headers, body })
      const { headers: told, text } = await heard.promise
      const { webhook_key } = await getJson(`${node.url}/.well-known/vaultmesh.json`)
      const second = await deriveIdentity(fromBase64Url(await nodeSecret(node.home.path)), 2)
      expect(webhook_key).toBe(webhookKey(second.publicKey))
      const x = Buffer.from(second.publicKey).toString('base64url')
      const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' })
      const signed = `${String(told['webhook-id'])}.${String(told['webhook-timestamp'])}.${text}`
      const signature = Buffer.from(String(told['webhook-signature']).slice(4), 'base64')
      expect(verifySignature(null, Buffer.from(signed), key, signature)).toBe(true)
    } finally {
      receiver.close()
    }
  })

  test('is still addressed by its name', async () => {
    const iat = Math.floor(Date.now() / 1000)
    const signer = testSigner('EdDSA', 'rotation')
    const ask = (aud: string): Promise<Response> => {
      const claims = { iss: signer.did, aud, iat, exp: iat + 60, jti: `j${iat}` }
      const payload = { ...claims, url: 'http://127.0.0.1:1/', events: ['event.sealed'] }
      const body = signEvent(signer, {
        header: { typ: 'vm-webhook+jws' },
        payloadText: JSON.stringify(payload),
      })
      const headers = { 'content-type': 'application/jose' }
      return fetch(`${node.url}/webhooks`, { method: 'POST', headers, body })
    }
    expect((await ask(did1)).status).toBe(200)
    expect((await ask(await identity('restored', 3))).status).toBe(400)
  })
})

describe('a node of an address', () => {
  const wallet = testSigner('EIP191', 'rotation-node')
  const did = `did:pkh:eip155:1:${checksumAddress(wallet.did.slice('did:pkh:eip155:1:'.length))}`
  let signature: string
  let input: string

  const signed = (bytes: Uint8Array): string => `0x${toHex(bytes)}`

  test('says the text to sign, the same one until it is signed, also as bytes', async () => {
    const asked = await keysJson('pkh', 'delegate', '--did', did)
    input = asked.input
    expect(asked).toMatchObject({ nodeDid: wallet.did, hex: signed(utf8(input)) })
    expect(asked.key).toBe(await identity('pkh', 1))
    const people = await keys('pkh', 'delegate', '--did', wallet.did)
    expect(people.stdout.split('\n')).toContain(input)
    signature = signed(wallet.sign(utf8(input)))
  })

  test('is not delegated by another signature, and nothing is written', async () => {
    const by = (other: string) => keys('pkh', 'delegate', '--did', did, '--signature', other)
    const stranger = testSigner('EIP191', 'rotation-stranger')
    for (const bytes of [
      stranger.sign(utf8(input)),
      wallet.sign(utf8(`${input}x`)),
      otherS(wallet.sign(utf8(input))),
      new Uint8Array(65).fill(27),
    ]) {
      const ran = await by(signed(bytes))
      expect(ran).toMatchObject({ code: 1, stdout: '' })
      expect(ran.stderr).toContain(`The signature is not that of ${wallet.did} over this text.`)
    }
    const unasked = await keys('pkh', 'delegate', '--did', stranger.did, '--signature', signature)
    expect(unasked).toMatchObject({ code: 1, stdout: '' })
    expect(unasked.stderr).toContain('call this without --signature first')
    expect(existsSync(homeAt(homeOf('pkh')).rotation)).toBe(false)
  })

  test('answers under the address, signs with the key it delegated to, and rotates that one', async () => {
    // As some wallets write v: 0 or 1.
    const bytes = wallet.sign(utf8(input))
    bytes[64]! -= 27
    const made = await keysJson('pkh', 'delegate', '--did', did, '--signature', signed(bytes))
    const key1 = await identity('pkh', 1)
    expect(made).toMatchObject({ nodeDid: wallet.did, new: { epoch: 1, did: key1 } })
    expect(existsSync(homeAt(homeOf('pkh')).delegation)).toBe(false)
    const node = await startAt('pkh')
    const first = await aPost(node)
    try {
      expect(await getJson(`${node.url}/healthz`)).toMatchObject({ node_did: wallet.did })
      const trust = await trustOf(node.url)
      expect(trust).toMatchObject({ node_did: wallet.did, nodeDids: [wallet.did, key1] })
      const claims = await promiseOf(first.posted.promise!, first.posted.eventHash)
      expect(claims.iss).toBe(key1)
      expect(await verify(first.posted.receipt!, trust, first.jws)).toMatchObject({
        verdict: 'verified',
      })
    } finally {
      await node.stop()
    }
    // Named for good.
    for (const args of [[], ['--signature', signature]]) {
      const ran = await keys('pkh', 'delegate', '--did', did, ...args)
      expect(ran).toMatchObject({ code: 1, stdout: '' })
      expect(ran.stderr).toContain('has a name already, which others pin')
    }

    const { old, new: added } = await keysJson('pkh', 'rotate', '--overlap', 'now')
    expect(old).toMatchObject({ epoch: 1, did: key1, until: added.from })
    const again = await startAt('pkh')
    try {
      const second = await aPost(again)
      const trust = await trustOf(again.url)
      const key2 = await identity('pkh', 2)
      expect(trust).toMatchObject({ node_did: wallet.did, nodeDids: [wallet.did, key1, key2] })
      expect(await promiseOf(second.posted.promise!, second.posted.eventHash)).toMatchObject({
        iss: key2,
      })
      const fsck = await vaultmesh(['fsck', '--home', again.home.path])
      expect(fsck.stdout).toContain('clean')
    } finally {
      await again.stop()
    }
  })
})

describe('trust in a node', () => {
  /** What `trustOf` makes of a well-known file. */
  async function trustIn(change: object): Promise<readonly string[]> {
    const file = { node_did: keys1[0]!.did, vkey: 'v', tsa_roots: [], rotation: [], ...change }
    const fetch = async () => Response.json(file)
    return (await trustOf('https://node.example', { fetch, attempts: 1 })).nodeDids!
  }
  let keys1: IdentityKey[]
  let statement: string

  beforeAll(async () => {
    const secret = new Uint8Array(32).fill(1)
    keys1 = await Promise.all([1, 2, 3].map((epoch) => deriveIdentity(secret, epoch)))
    const [first, second] = keys1 as [IdentityKey, IdentityKey]
    const claims = { iss: first.did, key: second.did, epoch: 2, nbf: 5, end: 9, iat: 5 }
    statement = await signRotation(first, claims)
  })

  test('is in its name and the keys that follow from it, ended ones too', async () => {
    expect(await trustIn({})).toEqual([keys1[0]!.did])
    expect(await trustIn({ rotation: undefined })).toEqual([keys1[0]!.did])
    expect(await trustIn({ rotation: [statement] })).toEqual([keys1[0]!.did, keys1[1]!.did])
    const address = testSigner('EIP191', 'trust').did
    expect(await trustIn({ node_did: address })).toEqual([address])
  })

  test('is in none whose keys do not follow from its name', async () => {
    for (const [change, code] of [
      [{ node_did: keys1[2]!.did, rotation: [statement] }, 'bad-rotation'],
      [{ rotation: [statement, 'x'] }, 'bad-jws'],
      [{ rotation: [`${statement.slice(0, -20)}${'A'.repeat(20)}`] }, 'bad-signature'],
      [{ node_did: 'did:web:node.example' }, 'bad-did'],
      [{ node_did: 1 }, 'unreachable'],
      [{ rotation: statement }, 'unreachable'],
      [{ rotation: [1] }, 'unreachable'],
    ] as const) {
      await expect(trustIn(change), code).rejects.toMatchObject({ code })
    }
  })
})

describe('statements that are not this node’s', () => {
  let chain: string[]
  let foreign: string[]
  let delegated: string

  beforeAll(async () => {
    mine = homeAt(homeOf('mine'))
    for (const name of ['mine', 'other']) {
      await nodeSecret(homeOf(name))
      for (let i = 0; i < 2; i++) await keysJson(name, 'rotate')
    }
    chain = (await keysJson('mine', 'show')).rotation.split(' ')
    foreign = (await keysJson('other', 'show')).rotation.split(' ')
    const wallet = testSigner('EIP191', 'rotation-node')
    const { input } = await keysJson('elsewhere', 'delegate', '--did', wallet.did)
    const signature = `0x${toHex(wallet.sign(utf8(input)))}`
    const args = ['--did', wallet.did, '--signature', signature]
    delegated = (await keysJson('elsewhere', 'delegate', ...args)).rotation
  })

  let mine: Home
  const fileOf = (...statements: string[]): string => JSON.stringify({ statements })

  /** Why a node with this file does not start. */
  async function refusal(content: string): Promise<string> {
    await writeFile(mine.rotation, content)
    const error = await startAt('mine').then(
      () => null,
      (thrown: unknown) => thrown,
    )
    expect(error).toMatchObject({ code: 'bad-config' })
    const { message } = error as Error
    expect(message).toMatch(/^ROTATION: [^\n]+[^.]\.$/)
    expect(message).toContain(mine.rotation)
    expect(existsSync(mine.trust)).toBe(false)
    return message
  }

  test('stop its start in one line, whatever is wrong with them', async () => {
    expect(await refusal(fileOf(chain[1]!))).toContain('that of epoch 2 is missing. The statements')
    expect(await refusal(fileOf(delegated))).toContain(
      'names another key for epoch 1 than NODE_SECRET has',
    )
    expect(await refusal('{"statements": ["cut o')).toContain('no JSON')
    expect(await refusal(fileOf('not a statement'))).toContain('is no compact JWS')
    // What the environment says beside the file counts too.
    const secret = fromBase64Url(await nodeSecret(mine.path))
    const [first, second] = await Promise.all([1, 2].map((n) => deriveIdentity(secret, n)))
    const iat = Math.floor(Date.now() / 1000) - 5
    const claims = { iss: first!.did, key: second!.did, epoch: 2, nbf: iat, end: iat, iat }
    process.env['ROTATION'] = await signRotation(first!, claims)
    try {
      expect(await refusal(fileOf(...chain))).toContain('which differs')
    } finally {
      delete process.env['ROTATION']
    }
    await writeFile(mine.rotation, fileOf(...foreign))
    const port = String(await freePort())
    expect(await run([SELFHOST, '--home', mine.path, '--port', port])).toEqual({
      code: 1,
      stdout: '',
      stderr: `vaultmesh: ROTATION: The statement of epoch 2 is refused: it is of another node. The statements are those of ${mine.rotation}.\n`,
    })
  }, 120_000)

  test('are refused by the commands as well, and left as they are', async () => {
    for (const [content, why] of [
      [fileOf(chain[1]!), 'that of epoch 2 is missing'],
      [fileOf(...foreign), 'it is of another node'],
      [fileOf(delegated), 'epoch 1 is a key of another secret than node.secret.age'],
      ['[]', 'Put the file back from a backup.'],
    ] as const) {
      await writeFile(mine.rotation, content)
      for (const name of ['show', 'rotate']) {
        const { exit, lines } = await called(name, '--home', mine.path)
        expect(exit).toBe(1)
        expect(lines).toHaveLength(1)
        expect(lines[0]).toContain(why)
        expect(lines[0]).toContain(mine.rotation)
      }
      expect(readFileSync(mine.rotation, 'utf8')).toBe(content)
      expect(existsSync(`${mine.rotation}.part`)).toBe(false)
    }
  })
})

describe('vaultmesh keys', () => {
  const address = `did:pkh:eip155:1:0x${'1'.repeat(40)}`
  test.each([
    [[], 'An argument is missing.'],
    [['revoke'], 'keys revoke: say show, rotate, delegate, recipients or identity.'],
    [['toString'], 'keys toString: say show, rotate, delegate, recipients or identity.'],
    [['show', 'rotate'], 'There is one argument too many: rotate.'],
    [['show', '--all'], "Unknown option '--all'."],
    [['show', '--overlap', '1d'], '--overlap does not go with keys show.'],
    [['rotate', '--add', 'age1'], '--add does not go with keys rotate.'],
    [['rotate', '--did', 'x'], '--did does not go with keys rotate.'],
    [['delegate'], 'keys delegate needs --did.'],
    [['delegate', '--did', 'did:key:z6Mk'], '--did did:key:z6Mk is no did:pkh'],
    [['delegate', '--did', 'did:pkh:eip155:1:0xAB'], 'is no did:pkh'],
    [['delegate', '--did', `${address}#blockchainAccountId`], 'is no did:pkh'],
    // Neither lowercase nor EIP-55.
    [['delegate', '--did', `did:pkh:eip155:1:0x${'aB'.repeat(20)}`], 'is no did:pkh'],
    [['delegate', '--did', address, '--signature', '0x12'], '--signature is 0x and 65 bytes'],
    [['delegate', '--did', address, '--signature', '12'.repeat(65)], '--signature is 0x and 65'],
  ])('%j is a wrong call: exit 2 and the usage', async (args, detail) => {
    const { exit, lines } = await called(...args)
    expect(exit).toBe(2)
    expect(lines[0]).toContain(detail)
    expect(lines[1]).toContain('usage: vaultmesh keys show|rotate|delegate|recipients|identity')
  })

  test.each(['', '7', '-1d', '1.5d', '1w', '7d ', '367d', '999999999d'])(
    'rotate --overlap=%j is a wrong call',
    async (overlap) => {
      await nodeSecret(homeOf('overlap'))
      const home = homeAt(homeOf('overlap'))
      const { exit, lines } = await called('rotate', '--home', home.path, `--overlap=${overlap}`)
      expect(exit).toBe(2)
      expect(lines[0]).toContain(`--overlap ${overlap} `)
      expect(existsSync(home.rotation)).toBe(false)
    },
  )

  test.each([
    ['0', 0],
    ['now', 0],
    ['90s', 90],
    ['30m', 1800],
    ['12h', 43_200],
    ['366d', 366 * 86_400],
  ])('rotate --overlap %s ends the old key %i seconds later', async (overlap, seconds) => {
    const home = homeOf(`overlap-${overlap}`)
    await nodeSecret(home)
    const { value } = await called('rotate', '--home', home, '--overlap', overlap)
    const { old, new: added } = value as { old: { until: string }; new: { from: string } }
    expect(Date.parse(old.until) - Date.parse(added.from)).toBe(seconds * 1000)
  })

  test('make no secret where there is no node', async () => {
    for (const name of ['show', 'rotate']) {
      const ran = await keys('nobody', name)
      expect(ran).toMatchObject({ code: 1, stdout: '' })
      expect(ran.stderr).toBe(`vaultmesh: There is no node in ${homeOf('nobody')}.\n`)
    }
    expect(existsSync(homeOf('nobody'))).toBe(false)
  })

  test('rotate once more each time they are called, at once too, and never twice for one epoch', async () => {
    await nodeSecret(homeOf('many'))
    const all = await Promise.all(Array.from({ length: 4 }, () => keys('many', 'rotate')))
    const done = all.filter(({ code }) => code === 0).length
    expect(done).toBeGreaterThan(0)
    for (const { code, stderr } of all) {
      if (code !== 0) expect(stderr).toContain('Another command is at work')
    }
    const shown = await keysJson('many', 'show')
    expect(shown.keys.map((key: { epoch: number }) => key.epoch)).toEqual(
      Array.from({ length: done + 1 }, (_, i) => i + 1),
    )
  })

  test('wait for nothing that a crash left behind', async () => {
    await mkdir(homeOf('crashed'), { recursive: true })
    await nodeSecret(homeOf('crashed'))
    const part = `${homeAt(homeOf('crashed')).rotation}.part`
    await writeFile(part, '{"state')
    const ran = await keys('crashed', 'rotate')
    expect(ran).toMatchObject({ code: 1, stdout: '' })
    expect(ran.stderr).toContain(`Another command is at work on ${part}: run this again.`)
    const longAgo = Date.now() / 1000 - 61
    utimesSync(part, longAgo, longAgo)
    await keysJson('crashed', 'rotate')
    expect(existsSync(part)).toBe(false)
  })
})
