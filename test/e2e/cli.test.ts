import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { mkdir, writeFile } from 'node:fs/promises'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { fromBase64, toBase64 } from '#core/bytes.ts'
import { ed25519Key } from '#core/node-keys.ts'
import type { Receipt } from '#core/receipt.ts'
import { formatVkey, TYPE_ED25519, verifierKey } from '#core/signed-note.ts'
import { createSigner, post, sign } from '../../functions/sdk.ts'
import { ROOT } from '../../scripts/build.ts'
import { readClientKey } from '../../scripts/keystore.ts'
import { startTsa, type Tsa } from '../../scripts/devnet/tsa.ts'
import { startNode, type RunningNode } from '../../scripts/selfhost.ts'
import { freePort, run, sandbox, vaultmesh, type Ran } from './support.ts'

let box: Awaited<ReturnType<typeof sandbox>>
let tsa: Tsa
let node: RunningNode
let env: Record<string, string>
/** An event anchored, with its receipt in both forms and the keys to verify it by. */
let files: { event: string; receipt: string; proof: string; trust: string; tsaRoot: string }
let eventHash: string
let vkey: string

const file = (name: string): string => join(box.dir, name)
const vm = (...args: string[]): Promise<Ran> => vaultmesh(args, { env })
const json = async (...args: string[]): Promise<{ code: number | null; value: any }> => {
  const ran = await vm(...args, '--json')
  expect(ran.stderr).toBe('')
  return { code: ran.code, value: JSON.parse(ran.stdout) }
}

beforeAll(async () => {
  box = await sandbox()
  tsa = await startTsa({ dir: file('tsa'), port: 0 })
  node = await startNode({
    home: file('node'),
    port: await freePort(),
    tsa: { urls: tsa.url, rootsPem: tsa.rootPem },
    vars: { SEAL_BATCH_MAX_INTERVAL_MS: '300', ANCHOR_TSA_INTERVAL_MS: '200' },
  })
  env = { VAULTMESH_URL: node.url, VAULTMESH_HOME: node.home.path }
  files = {
    event: file('event.jws'),
    receipt: file('event.receipt.json'),
    proof: file('event.tlog-proof'),
    trust: file('trust.json'),
    tsaRoot: file('tsa-root.pem'),
  }
  expect(await vm('keygen')).toMatchObject({ code: 0 })
  const posted = await json('post', '--type', 'test.first', '--wait', '20', '--save', files.event)
  expect(posted.code).toBe(0)
  eventHash = posted.value.eventHash
  await post(node.url, await anEvent(), { wait: 20 })
  // A hook has no expect.poll; the test that follows would name the hook's time limit.
  while ((await json('status', eventHash)).value.status !== 'final') await sleep(200)
  expect(await vm('receipt', eventHash, '-o', files.receipt)).toMatchObject({ code: 0 })
  const asProof = ['--format', 'tlog-proof', '-o', files.proof]
  expect(await vm('receipt', eventHash, ...asProof)).toMatchObject({ code: 0 })
  expect(await vm('trust', node.url, '-o', files.trust)).toMatchObject({ code: 0 })
  await writeFile(files.tsaRoot, tsa.rootPem)
  vkey = node.trust.vkeys[0]!
}, 60_000)

afterAll(async () => {
  await node?.stop()
  await tsa?.stop()
  await box?.remove()
})

async function anEvent(more: object = {}): Promise<string> {
  const secret = crypto.getRandomValues(new Uint8Array(32))
  return sign(await createSigner({ alg: 'EdDSA', secret }), { type: 'test.event', ...more })
}

describe('keygen', () => {
  test.each(['EdDSA', 'ES256', 'ES256K', 'EIP191'])(
    'makes an encrypted %s key that post signs with',
    async (alg) => {
      const key = file(`${alg}.key.age`)
      const made = await json('keygen', '--alg', alg, '--out', key)
      expect(made).toMatchObject({ code: 0, value: { alg, file: key } })
      const { secret } = await readClientKey(key)
      expect(readFileSync(key).includes(secret)).toBe(false)
      const posted = await json('post', '--type', 'test.keygen', '--key', key, '--wait', '20')
      expect(posted).toMatchObject({ code: 0, value: { receipt: { source: made.value.did } } })
    },
  )

  test('never overwrites a key', async () => {
    const again = await vm('keygen')
    expect(again.code).toBe(1)
    expect(again.stderr).toContain('exists already; it is not overwritten')
  })
})

describe('post', () => {
  test('sends a .jws file as it is, and the same file again is the same event', async () => {
    const path = file('ready.jws')
    await writeFile(path, `${await anEvent()}\n`)
    const first = await json('post', path)
    const second = await json('post', path)
    expect(first.code).toBe(0)
    expect(second.value).toEqual(first.value)
  })

  test('signs a JSON event from a file or standard input and fills in what is absent', async () => {
    const path = file('event.json')
    const event = { type: 'test.file', id: 'my-id', data: { a: [1] } }
    await writeFile(path, JSON.stringify(event))
    expect(await json('post', path)).toMatchObject({ code: 0, value: { eventId: 'my-id' } })
    const piped = await vaultmesh(['post', '-', '--json'], { env, input: '{"type":"test.stdin"}' })
    expect(piped).toMatchObject({ code: 0, stderr: '' })
    expect(JSON.parse(piped.stdout).status).toBe('accepted')
  })

  test('keeps good NDJSON lines, names the bad ones by their line, and exits 1', async () => {
    const good = await anEvent()
    const [header, payload] = good.split('.')
    const input = [
      '{"type":"test.ndjson","data":1}',
      '',
      good,
      `${header}.${payload}.${'A'.repeat(86)}`,
      JSON.stringify({ event: await anEvent() }),
      '',
    ].join('\n')
    const args = ['post', '-', '--ndjson', '--json']
    const { code, stdout } = await vaultmesh(args, { env, input })
    const value = JSON.parse(stdout)
    expect(code).toBe(1)
    expect(value).toMatchObject({ accepted: 3, refused: 1 })
    expect(value.results.map((r: { line: number }) => r.line)).toEqual([1, 3, 4, 5])
    expect(value.results[2].problem.type).toBe('/problems/bad-signature')
    const people = await vaultmesh(['post', '-', '--ndjson'], { env, input })
    expect(people.stdout).toContain('✗ line 4: The EdDSA signature does not verify')
  })

  test('says the node’s own words for a refusal', async () => {
    const [header, payload] = (await anEvent()).split('.')
    await writeFile(file('forged.jws'), `${header}.${payload}.${'A'.repeat(86)}`)
    const { code, value } = await json('post', file('forged.jws'))
    expect(code).toBe(1)
    expect(value.error).toMatchObject({ code: 'bad-signature' })
    expect(value.error.advice).not.toBe('')
    const people = await vm('post', file('forged.jws'))
    expect(people).toMatchObject({ code: 1, stdout: '' })
    expect(people.stderr.split('\n')).toHaveLength(3)
  })

  test('under one --id and --time is one event; under one --id alone it names the event that is there', async () => {
    const fixed = ['post', '--type', 'test.id', '--id', 'once', '--time', '2026-01-01T00:00:00Z']
    const first = await json(...fixed)
    expect(first).toMatchObject({ code: 0, value: { eventId: 'once' } })
    expect((await json(...fixed)).value).toEqual(first.value)
    const again = await vm('post', '--type', 'test.id', '--id', 'once')
    expect(again).toMatchObject({ code: 1, stdout: '' })
    const { eventHash: taken } = first.value
    expect(again.stderr).toBe(
      `vaultmesh: An event with this id is there already: ${taken}.\n` +
        `  If it is yours, fetch its receipt with: vaultmesh receipt ${taken} --url ${node.url}\n`,
    )
    expect(await vm('post', files.event, '--id', 'once')).toMatchObject({ code: 2 })
  })

  test('that reaches nobody names the file the signed event is in, and a file that is not there', async () => {
    const saved = file('saved.jws')
    const url = `http://127.0.0.1:${await freePort()}`
    const ran = await vm('post', '--type', 'test.lost', '--save', saved, '--url', url)
    expect(ran.code).toBe(4)
    expect(ran.stderr).toContain(`vaultmesh post ${saved} --url ${url}`)
    expect(await vm('post', saved)).toMatchObject({ code: 0 })
    const missing = await vm('post', file('nofile.json'))
    expect(missing.code).toBe(2)
    expect(missing.stderr).toContain(`There is no file ${file('nofile.json')}.`)
  })

  test('exits 3 if the event is durable but not sealed within --wait', async () => {
    const slow = await slowNode({
      '/events': { status: 202, body: { eventHash, status: 'accepted', receivedAt: 'now' } },
    })
    const ran = await vm('post', files.event, '--wait', '1', '--url', slow.url)
    slow.server.close()
    expect(ran).toMatchObject({ code: 3 })
    expect(ran.stdout).toContain('not sealed within 1 s')
  })
})

describe('status and receipt', () => {
  test('show where an event stands and give its proof in both forms', async () => {
    const people = await vm('status', eventHash.slice(7).toUpperCase())
    expect(people).toMatchObject({ code: 0, stderr: '' })
    expect(people.stdout).toMatch(
      /^final; sealed at \S+Z\n {2}batch 1, leaf 0\n {2}TSA 127.0.0.1: verified, anchored at \S+Z\n/,
    )
    const { value } = await json('receipt', eventHash)
    expect(value).toEqual(JSON.parse(readFileSync(files.receipt, 'utf8')))
    const text = await vm('receipt', eventHash, '--format', 'tlog-proof')
    expect(text.stdout).toBe(readFileSync(files.proof, 'utf8'))
  })

  test('exit 3 while an event waits for its seal, and 1 for one nobody knows', async () => {
    const waiting = await slowNode({
      [`/events/${eventHash}/status`]: { status: 200, body: { eventHash, status: 'accepted' } },
    })
    expect(await vm('status', eventHash, '--url', waiting.url)).toMatchObject({ code: 3 })
    waiting.server.close()
    for (const command of ['status', 'receipt']) {
      const ran = await vm(command, '0'.repeat(64))
      expect(ran).toMatchObject({ code: 1, stdout: '' })
      expect(ran.stderr).toContain('This node knows no such event.\n  Check the hash and the node')
    }
  })

  test('receipt --wait asks again until the receipt is what is required, and writes nothing before', async () => {
    const final = JSON.parse(readFileSync(files.receipt, 'utf8')) as Receipt
    const answers: Parameters<typeof slowNode>[0] = {
      [`/events/${eventHash}/status`]: { status: 200, body: { eventHash, status: 'accepted' } },
      [`/receipts/${eventHash}?format=json`]: {
        status: 404,
        body: { type: '/problems/not-sealed' },
      },
    }
    const slow = await slowNode(answers)
    const out = file('waited.json')
    const args = ['receipt', eventHash, '--url', slow.url, '-o', out]
    try {
      const early = await vm(...args, '--wait', '1')
      expect(early).toMatchObject({ code: 3, stdout: '' })
      expect(early.stderr).toContain('The event is accepted, not sealed yet after 1 s.')
      const body: Receipt = { ...final, status: 'sealed' }
      answers[`/receipts/${eventHash}?format=json`] = { status: 200, body }
      const weak = await vm(...args, '--require', 'anchored')
      expect(weak).toMatchObject({ code: 3, stdout: '' })
      expect(weak.stderr).toContain('The event is sealed, not anchored yet.')
      expect(existsSync(out)).toBe(false)
      const waiting = vm(...args, '--require', 'anchored', '--wait', '20')
      await sleep(1000)
      answers[`/receipts/${eventHash}?format=json`] = { status: 200, body: final }
      expect(await waiting).toMatchObject({ code: 0, stdout: `${out}\n` })
      expect(JSON.parse(readFileSync(out, 'utf8'))).toEqual(final)
    } finally {
      slow.server.close()
    }
  })
})

describe('verify', () => {
  test('proves an event offline line by line and ends with one sentence that names the trust', async () => {
    const { code, stdout } = await vm('verify', files.receipt, files.event, '--trust', files.trust)
    expect(code).toBe(0)
    const lines = stdout.trimEnd().split('\n')
    expect(lines).toHaveLength(6)
    for (const line of lines.slice(0, 4)) expect(line).toMatch(/^✓ /)
    expect(lines[4]).toMatch(/^– height, status: +not checked: said by the node$/)
    expect(lines[5]).toMatch(/^VERIFIED The event is leaf 0 of .+ before .+ TSA root [0-9a-f]{64}/)
  })

  test.each(['receipt', 'proof'] as const)(
    'reads the %s form, with and without the event, by flags alone',
    async (form) => {
      const pins = ['--vkey', vkey, '--tsa-root', files.tsaRoot, '--rail', 'TSA']
      const args = ['verify', files[form], ...pins, '--require', 'final']
      const bare = await json(...args)
      expect(bare).toMatchObject({ code: 0, value: { verdict: 'verified', anchored: ['TSA'] } })
      expect(bare.value.checks[0]).toMatchObject({ name: 'event', ok: null })
      expect(bare.value.unproven).toEqual(['source', 'eventId', 'height', 'status'])
      expect(bare.value.sentence).toContain('Who signed the event was not checked.')
      const whole = await json(...args, files.event)
      expect(whole).toMatchObject({ code: 0, value: { verdict: 'verified', eventHash } })
      expect(whole.value.checks[0]).toMatchObject({ name: 'event', ok: true })
      expect(whole.value.unproven).toEqual(['height', 'status'])
    },
  )

  const other = 'ab'.repeat(32)
  type Change = (receipt: any) => void
  const changes: [string, Change][] = [
    ['another event hash', (r) => (r.eventHash = `sha256:${other}`)],
    ['another leaf index', (r) => (r.leafIndex += 1)],
    ['another tree size', (r) => (r.treeSize += 1)],
    ['another root', (r) => (r.root = `sha256:${other}`)],
    ['another origin', (r) => (r.origin = 'other.example/log')],
    ['a proof too long', (r) => r.inclusionProof.push(other)],
    ['another checkpoint size', (r) => (r.checkpoint = r.checkpoint.replace(/\n\d+\n/, '\n77\n'))],
    [
      'a checkpoint signature with a bit flipped',
      (r) => (r.checkpoint = flippedNote(r.checkpoint)),
    ],
    ['another event id', (r) => (r.eventId = 'other')],
    ['another source', (r) => (r.source = 'did:key:z6Mkother')],
    ['an anchor of another root', (r) => (r.anchors[0].root = `0x${other}`)],
    ['an earlier anchor time', (r) => (r.anchors[0].anchorTs = '2020-01-01T00:00:00.000Z')],
    ['another anchor txHash', (r) => (r.anchors[0].txHash = other)],
    [
      'a token with a bit flipped',
      (r) => (r.anchors[0].proof.token = flipped64(r.anchors[0].proof.token)),
    ],
    ['another nonce', (r) => (r.anchors[0].proof.nonce = 'ab'.repeat(16))],
    ['a field too many', (r) => (r.extra = 1)],
    ['a version of tomorrow', (r) => (r.v = 2)],
  ]
  test.each(changes)('refutes a receipt with %s', async (name, change) => {
    const receipt = JSON.parse(readFileSync(files.receipt, 'utf8')) as Receipt
    change(receipt)
    const path = file(`tampered-${name.replaceAll(' ', '-')}.json`)
    await writeFile(path, JSON.stringify(receipt))
    const { code, value } = await json('verify', path, files.event, '--trust', files.trust)
    // A note that names another log is one whose key was never pinned.
    expect(value.verdict).toBe('refuted')
    expect(value.checks.at(-1).ok).toBe(false)
    expect(code).toBe(1)
  })

  test.each([
    ['cut short', (text: string) => text.slice(0, -30)],
    ['with another index', (text: string) => text.replace(/\nindex \d+\n/, '\nindex 1\n')],
    ['with another size', (text: string) => text.replace(/\n\n(.+)\n\d+\n/, '\n\n$1\n9\n')],
    ['with CRLF', (text: string) => text.replaceAll('\n', '\r\n')],
  ])('refutes a proof file %s', async (name, change) => {
    const path = file(`tampered ${name}.tlog-proof`)
    await writeFile(path, change(readFileSync(files.proof, 'utf8')))
    const ran = await vm('verify', path, files.event, '--trust', files.trust)
    expect(ran.stdout).toContain('REFUTED')
    expect(ran.code).toBe(1)
  })

  test('refutes another event’s bytes, and bytes that are no event', async () => {
    await writeFile(file('other.jws'), await anEvent())
    await writeFile(file('junk.jws'), 'junk')
    for (const event of ['other.jws', 'junk.jws']) {
      for (const form of [files.receipt, files.proof]) {
        expect(await vm('verify', form, file(event), '--trust', files.trust)).toMatchObject({
          code: 1,
        })
      }
    }
  })

  test('refuses what is no receipt with exit 1 and what is no file with exit 2', async () => {
    await writeFile(file('junk.json'), '[]')
    expect(await vm('verify', file('junk.json'), '--vkey', vkey)).toMatchObject({ code: 1 })
    const missing = await vm('verify', file('nowhere.json'), '--vkey', vkey)
    expect(missing).toMatchObject({ code: 2, stdout: '' })
    expect(missing.stderr).toContain('ENOENT')
  })

  test('exits 5 for a log nobody pinned and for a key of another log under its name', async () => {
    const empty = { ...env, VAULTMESH_HOME: file('empty') }
    const none = await vaultmesh(['verify', files.receipt], { env: empty })
    expect(none).toMatchObject({ code: 5, stderr: '' })
    expect(none.stdout).toMatch(
      /UNTRUSTED You have named no key for the log .+: vaultmesh trust URL -o FILE, then verify with --trust FILE\.\n$/,
    )
    const { publicKey } = await ed25519Key(crypto.getRandomValues(new Uint8Array(32)))
    const foreign = formatVkey(verifierKey(vkey.split('+')[0]!, publicKey, TYPE_ED25519))
    expect(await vm('verify', files.receipt, '--vkey', foreign)).toMatchObject({ code: 5 })
  })

  test('exits 5 if an anchor that is required leads to no root that is trusted', async () => {
    const bare = await json('verify', files.receipt, '--vkey', vkey)
    expect(bare).toMatchObject({ code: 0, value: { anchored: [], before: null } })
    const strict = await vm('verify', files.receipt, '--vkey', vkey, '--require', 'anchored')
    expect(strict.code).toBe(5)
    expect(strict.stdout).toContain('UNTRUSTED')
  })

  test('exits 3 if an anchor is required and there is none yet', async () => {
    const receipt = JSON.parse(readFileSync(files.receipt, 'utf8')) as Receipt
    await writeFile(file('bare.json'), JSON.stringify({ ...receipt, anchors: [] }))
    for (const need of ['anchored', 'final']) {
      const args = ['verify', file('bare.json'), '--trust', files.trust, '--require', need]
      const ran = await vm(...args)
      expect(ran.code).toBe(3)
      expect(ran.stdout).toContain(`PENDING`)
      expect(ran.stdout).toContain(`Not yet ${need}`)
    }
    // A claim of status is no evidence.
    expect(receipt.status).toBe('final')
  })

  test('believes the node here if it is told nobody else', async () => {
    expect(await vm('verify', files.receipt, '--require', 'final')).toMatchObject({ code: 0 })
  })

  test('colours a terminal’s words, not with NO_COLOR, and says the same without', async () => {
    const colours = /\u001b\[\d+m/
    const shown = onTerminal({})
    expect(shown).toMatch(colours)
    const plain = onTerminal({ NO_COLOR: '1' })
    expect(plain).not.toMatch(colours)
    expect(shown.replaceAll(/\u001b\[\d+m/g, '')).toBe(plain)
    expect((await vm('verify', files.receipt, '--trust', files.trust)).stdout).not.toMatch(colours)
  })

  function onTerminal(more: Record<string, string>): string {
    const script = [
      process.execPath,
      resolve(ROOT, 'scripts/vaultmesh.ts'),
      'verify',
      files.receipt,
    ]
    return execFileSync(
      'python3',
      ['-c', 'import pty,sys; pty.spawn(sys.argv[1:])', ...script, '--trust', files.trust],
      { encoding: 'utf8', env: { PATH: process.env['PATH'], TERM: 'xterm', ...more } },
    )
  }
})

describe('trust', () => {
  test('saves the pins of a node, which are those the node keeps itself', async () => {
    const saved = readFileSync(files.trust, 'utf8')
    expect(JSON.parse(saved)).toEqual(JSON.parse(readFileSync(node.home.trust, 'utf8')))
    expect((await json('trust', node.url)).value).toEqual(JSON.parse(saved))
  })

  test('is a usage error where it cannot be read', async () => {
    await writeFile(file('bad-trust.json'), '{"vkeys":["nonsense"]}')
    const ran = await vm('verify', files.receipt, '--trust', file('bad-trust.json'))
    expect(ran).toMatchObject({ code: 2, stdout: '' })
  })
})

describe('batch', () => {
  test('shows batches, one batch, and its events as they were posted', async () => {
    const page = await json('batch')
    expect(page.value.batches.at(-1)).toMatchObject({ height: 1, firstIndex: 0 })
    expect((await json('batch', '1')).value).toMatchObject({ height: 1 })
    const events = await json('batch', '1', '--events')
    expect(events.value.events).toContain(readFileSync(files.event, 'utf8'))
    expect((await vm('batch', '1')).stdout).toMatch(
      /^batch 1: 1 event, leaf 0, tree size 1, sealed /,
    )
    expect(await vm('batch', '99999')).toMatchObject({ code: 1 })
  })
})

describe('an operator', () => {
  test('checks a healthy node to exit 0 with nothing found', async () => {
    await expect
      .poll(async () => (await json('fsck')).value, { timeout: 20_000 })
      .toMatchObject({
        clean: true,
        findings: [],
      })
    const people = await vm('fsck')
    expect(people).toMatchObject({ code: 0, stderr: '' })
    expect(people.stdout).toMatch(
      /^– the chains were not asked \(--chains\)\n✓ clean: \d+ batches, \d+ events, \d+ waiting\n$/,
    )
  })

  test('finds an index row that was changed, and exits 1', async () => {
    const db = await node.host.miniflare.getD1Database('DB')
    const change = (from: string, to: string) =>
      db
        .prepare('UPDATE events SET event_id = ? WHERE leaf_index = 0 AND event_id = ?')
        .bind(to, from)
    const { eventId } = JSON.parse(readFileSync(files.receipt, 'utf8')) as Receipt
    await change(eventId, 'forged').run()
    try {
      const { code, value } = await json('fsck')
      expect(code).toBe(1)
      expect(value.findings).toEqual([expect.stringContaining('Leaf 0')])
      expect((await vm('fsck')).stdout).toMatch(
        /\nWhat is wrong with D1 alone, fsck --rebuild .+ restore it from a backup .+\n$/,
      )
    } finally {
      await change('forged', eventId).run()
    }
  })

  test('lists and replays dead letters and seals what waits', async () => {
    expect(await json('dlq', 'list')).toMatchObject({ code: 0, value: { deadLetters: [] } })
    expect(await json('dlq', 'replay')).toEqual({ code: 0, value: { replayed: 0 } })
    expect(await json('seal')).toMatchObject({ code: 0 })
  })

  test('is refused by a node elsewhere without its token', async () => {
    const args = ['fsck', '--url', node.url]
    const ran = await vaultmesh(args, { env: { ...env, VAULTMESH_ADMIN_TOKEN: 'guess' } })
    expect(ran.code).toBe(1)
    expect(ran.stderr).toContain('The operator token is missing or wrong.')
  })
})

describe('exit codes', () => {
  test.each([
    [['status', '0'.repeat(64)]],
    [['receipt', '0'.repeat(64)]],
    [['batch']],
    [['post', '--type', 'x', '--wait', '1']],
  ])('4 if the node does not answer: %j', async (args) => {
    const url = `http://127.0.0.1:${await freePort()}`
    const ran = await vm(...args, '--url', url)
    expect(ran).toMatchObject({ code: 4, stdout: '' })
    expect(ran.stderr).toContain(`${url} does not answer`)
    const { value } = await json(...args, '--url', url)
    expect(value.error.code).toBe('unreachable')
  })

  test('4 if there is no admin socket, or no node behind a trust URL', async () => {
    const home = file('nobody')
    await mkdir(home)
    for (const args of [['fsck'], ['seal'], ['dlq', 'list']]) {
      expect(await vm(...args, '--home', home)).toMatchObject({ code: 4 })
    }
    expect(await vm('trust', `http://127.0.0.1:${await freePort()}`)).toMatchObject({ code: 4 })
  })

  test.each([
    [[]],
    [['bogus']],
    [['post']],
    [['post', 'a', 'b']],
    [['post', '/nonexistent']],
    [['post', '--type', 'x', '--wait', 'soon']],
    [['post', '--type', 'x', '--data', '{amount:3}']],
    [['post', '--type', 'x', '--key', '/nonexistent']],
    [['status', '0'.repeat(64), 'more']],
    [['status', 'xyz']],
    [['receipt', '0'.repeat(64), '--format', 'pdf']],
    [['verify']],
    [['verify', 'a', '--require', 'fame']],
    [['verify', 'a', '--vkey', 'nonsense']],
    [['verify', 'a', '--nope']],
    [['batch', 'x']],
    [['batch', '--events']],
    [['dlq', 'burn']],
    [['keygen', '--alg', 'RSA']],
    [['trust', 'not a url']],
    [['fsck', 'more']],
    [['status', '0'.repeat(64), '--url', 'ftp://x']],
    [['selfhost', '--nope']],
    [['up', '--nope']],
  ])('2 for a wrong call: %j', async (args) => {
    const ran = await vm(...args)
    expect(ran.code).toBe(2)
    expect(ran.stderr + ran.stdout).toMatch(/usage: |vaultmesh: /)
    expect(ran.stderr).not.toContain('    at ')
  })

  test('0 for --help of every command', async () => {
    const { stdout } = await vm('--help')
    const names = [...stdout.matchAll(/^ {2}([\w-]+) /gm)].map((m) => m[1]!)
    expect(names).toHaveLength(31)
    const each = async (name: string): Promise<void> => {
      const ran = await vm(name, '--help')
      expect(ran).toMatchObject({ code: 0, stderr: '' })
      expect(ran.stdout).toMatch(new RegExp(`^usage: vaultmesh ${name}`))
    }
    await Promise.all(names.map(each))
  })
})

describe('the wrapper', () => {
  test('says its version, and ends quietly if nobody reads on', () => {
    const script = resolve(ROOT, 'scripts/vaultmesh')
    const shell = (text: string) => execFileSync('sh', ['-c', text], { encoding: 'utf8' })
    expect(shell(`${script} --version`)).toMatch(/^vaultmesh \d+\.\d+\.\d+\n$/)
    expect(shell(`{ ${script} batch --url ${node.url} 2>&3 | :; } 3>&1`)).toBe('')
  })

  test('runs the pinned Node from any folder, through a link', async () => {
    const link = file('vm')
    execFileSync('ln', ['-s', resolve(ROOT, 'scripts/vaultmesh'), link])
    const out = execFileSync(link, ['--help'], { cwd: '/', encoding: 'utf8' })
    expect(out).toContain('usage: vaultmesh <command>')
  })

  test('says what to run where packages are not installed', () => {
    const copy = file('copy')
    execFileSync('mkdir', ['-p', join(copy, 'scripts')])
    execFileSync('cp', [resolve(ROOT, 'scripts/vaultmesh'), join(copy, 'scripts')])
    expect(() => execFileSync(join(copy, 'scripts/vaultmesh'), [], { stdio: 'pipe' })).toThrow(
      /make up/,
    )
  })
})

describe('up --once', () => {
  test('shows a first event anchored by its own authority, verified from its files, and ends', async () => {
    const home = file('up')
    const ports: string[] = []
    for (const name of ['port', 'tsa-port', 'btc-port', 'evm-port', 'oidc-port'])
      ports.push(`--${name}`, String(await freePort()))
    const up = [resolve(ROOT, 'scripts/up.ts'), '--once', '--home', home, ...ports]
    const ran = await run(up, { cwd: box.dir })
    expect(ran.stdout).toMatch(
      /✓ event: .+\n✓ checkpoint: .+\n✓ inclusion: .+\n(?:✓ anchor BTC .+\n)?(?:✓ anchor EVM .+\n)?✓ anchor TSA .+\n– height, status: .+\nVERIFIED /,
    )
    expect(ran).toMatchObject({ code: 0, stderr: '' })
    const [, command] = /scripts\/vaultmesh (verify .+)/.exec(ran.stdout)!
    expect(
      await vaultmesh([...command!.split(' '), '--require', 'final'], { env, cwd: box.dir }),
    ).toMatchObject({ code: 0 })
    expect(existsSync(join(home, 'node.lock'))).toBe(false)
  })

  test('goes on without openssl, says so in one line, and shows the rail as off', async () => {
    const ports = ['--port', String(await freePort()), '--tsa-port', String(await freePort())]
    const without = ['--without', 'btc,evm,oidc']
    const up = resolve(ROOT, 'scripts/up.ts')
    const args = [up, '--once', '--home', file('up2'), ...ports, ...without]
    const ran = await run(args, { env: { PATH: '/nonexistent' }, cwd: box.dir })
    expect(ran.stdout).toContain(
      'openssl is not installed: no timestamp authority, rail TSA is off',
    )
    expect(ran.stdout).toContain('timestamps off')
    expect(ran.stdout).toContain('no outside time was proven')
    expect(ran.code).toBe(0)
  })
})

/** A node that answers what it is told. */
async function slowNode(answers: Record<string, { status: number; body: unknown }>) {
  const server: Server = createServer((request, response) => {
    const { status, body } = answers[request.url!] ?? { status: 404, body: {} }
    response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
  })
  await new Promise<void>((ready) => server.listen(0, '127.0.0.1', ready))
  return { server, url: `http://127.0.0.1:${(server.address() as AddressInfo).port}` }
}

function flipped64(text: string): string {
  const bytes = fromBase64(text)
  bytes[bytes.length - 3]! ^= 1
  return toBase64(bytes)
}

/** The note with the last bit of its one signature changed. */
function flippedNote(note: string): string {
  return note.replace(/(\S+)\n$/, (_, signature: string) => `${flipped64(signature)}\n`)
}
