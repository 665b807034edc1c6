/**
 * The audit of a real node: a request is followed from its post to its anchor, a closed file is sealed into the ledger
 * once, kill -9 leaves nothing unexplained, and whatever is done to a file `audit verify` names it.
 */

import { execFileSync } from 'node:child_process'
import {
  appendFileSync,
  cpSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { join, resolve } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import {
  auditLine,
  lineHash,
  readAuditLine,
  type AuditEntry,
  type AuditLine,
} from '#core/audit-line.ts'
import { utf8 } from '#core/bytes.ts'
import { parseTrustFile } from '#core/trust-file.ts'
import { askAdmin } from '../../scripts/admin-socket.ts'
import { auditFiles } from '../../scripts/audit-files.ts'
import { verifyAudit, type AuditFinding } from '../../scripts/audit-verify.ts'
import { ROOT } from '../../scripts/build.ts'
import { audit as command } from '../../scripts/cli/audit.ts'
import { parse } from '../../scripts/cli/command.ts'
import { startTsa, type Tsa } from '../../scripts/devnet/tsa.ts'
import { signEvent, testSigner } from '../support/signing.ts'
import { freePort, sandbox, start, vaultmesh, type Running } from './support.ts'

const alice = testSigner('EdDSA', 'audit')
let box: Awaited<ReturnType<typeof sandbox>>
let tsa: Tsa
let node: Running
let isRunning = false
let home: string
let folder: string
let url: string
let args: string[]

const env = {
  SEAL_BATCH_MAX_INTERVAL_MS: '600000',
  ANCHOR_TSA_INTERVAL_MS: '100',
  // Sign-in is on and nobody is signed in: whoever acts is refused, and that is written down.
  OIDC_ISSUER: 'https://login.example',
  OIDC_CLIENT_ID: 'audit',
  OIDC_ALLOW_HTTP: '1',
  OIDC_ROLE_MAP: 'o=operator',
}
const socket = () => join(home, 'admin.sock')
const run = () => start([resolve(ROOT, 'scripts/vaultmesh.ts'), ...args], 'rails:', env)

beforeAll(async () => {
  box = await sandbox()
  home = join(box.dir, 'home')
  folder = join(home, 'audit')
  tsa = await startTsa({ dir: join(box.dir, 'tsa'), port: 0 })
  const roots = join(box.dir, 'roots.pem')
  writeFileSync(roots, tsa.rootPem)
  const port = await freePort()
  url = `http://127.0.0.1:${port}`
  args = ['selfhost', '--home', home, '--port', String(port)]
  args.push('--tsa', tsa.url, '--tsa-roots', roots, '--receipts', join(box.dir, 'receipts'))
  node = await run()
  isRunning = true
})

afterAll(async () => {
  if (isRunning) await node.stop('SIGTERM')
  await tsa?.stop()
  await box?.remove()
})

const until = <T>(look: () => T | Promise<T>) =>
  vi.waitFor(look, { timeout: 20_000, interval: 100 })

function post(body: string, headers: Record<string, string> = {}): Promise<Response> {
  const type = { 'content-type': 'application/jose', ...headers }
  return fetch(`${url}/events`, { method: 'POST', headers: type, body })
}

/** All lines, without the piece of one that a crash left. */
function linesOf(): AuditLine[] {
  return auditFiles(folder).flatMap((name) =>
    readFileSync(join(folder, name), 'utf8')
      .split('\n')
      .filter((line) => line.endsWith('}'))
      .map((line) => readAuditLine(utf8(line))),
  )
}

/** `vaultmesh audit …` in this process. */
async function audit(...more: string[]): Promise<{ code: number; value: any }> {
  const { values, positionals } = parse(command, [...more, '--home', home])
  const { exit, value } = await command.run(positionals, values, {
    progress: () => undefined,
    paint: (_, text) => text,
    stdin: async () => new Uint8Array(0),
  })
  return { code: exit, value }
}

test('a request is found from its post to batch, leaf and anchor, and so is a command', async () => {
  const own = await post(signEvent(alice), { 'x-request-id': 'order-4711' })
  expect([own.status, own.headers.get('x-request-id')]).toEqual([202, 'order-4711'])
  const minted = await post(signEvent(alice), { 'x-request-id': 'not an id' })
  expect(minted.headers.get('x-request-id')).toMatch(/^[0-9a-f-]{36}$/)
  const lines = [signEvent(alice), signEvent(alice), 'broken'].join('\n')
  const bulk = await post(lines, {
    'content-type': 'application/x-ndjson',
    'x-request-id': 'bulk-1',
  })
  expect(bulk.headers.get('x-request-id')).toBe('bulk-1')
  const later = await post(signEvent(alice), {
    prefer: 'respond-async',
    'x-request-id': 'later-1',
  })
  expect(later.status).toBe(202)
  const refused = await post('garbage', { 'x-request-id': 'refused-1' })
  expect(refused.status).toBe(400)
  await until(() => expect(linesOf().map(({ kind }) => kind)).toContain('settle'))
  expect((await askAdmin(socket(), 'POST', '/admin/seal')).status).toBe(200)
  await until(() =>
    expect(linesOf()).toContainEqual(
      expect.objectContaining({ kind: 'attempt', outcome: 'final' }),
    ),
  )
  const one = await audit('show', '--request', 'order-4711')
  expect(one.code).toBe(0)
  expect(one.value.lines.map((line: AuditLine) => line.kind)).toEqual([
    'commit',
    'seal',
    'anchor',
    'attempt',
  ])
  expect(one.value).toMatchObject({
    places: [{ height: 1, firstLeaf: 0, count: 1 }],
    anchored: [{ chain: 'TSA' }],
  })
  const { value: two } = await audit('show', '--request', 'bulk-1')
  expect(two.places).toEqual([{ log: 1, height: 1, firstLeaf: 2, count: 2 }])
  const { value: three } = await audit('show', '--request', 'later-1')
  expect(three.lines.map((line: AuditLine) => line.kind)).toEqual(
    expect.arrayContaining(['receive', 'commit', 'settle', 'seal']),
  )
  expect(three.places).toEqual([{ log: 1, height: 1, firstLeaf: 4, count: 1 }])
  const all = linesOf()
  expect(all).toContainEqual(
    expect.objectContaining({ kind: 'refuse', requestId: 'refused-1', status: 400 }),
  )
  const [begun, done] = all.filter(
    (line) => line.kind === 'operator' && line.target === '/admin/seal',
  ) as Extract<AuditLine, { kind: 'operator' }>[]
  expect([begun?.outcome, done?.outcome, done?.status]).toEqual(['begun', 'done', 200])
  // The batch goes back to the command that sealed it.
  expect(all).toContainEqual(
    expect.objectContaining({ kind: 'seal', height: 1, requestId: begun!.requestId }),
  )
})

test('what the dashboard refused is a row of D1 and a line, and no line names what was posted', async () => {
  const headers = { authorization: 'Bearer vm_nobody', 'content-type': 'application/json' }
  const action = `${url}/dashboard/actions/dead-letters-replay`
  const answer = await fetch(action, { method: 'POST', headers, body: '{}' })
  const { requestId } = (await answer.json()) as { requestId: string }
  await until(() =>
    expect(linesOf()).toContainEqual(
      expect.objectContaining({ kind: 'action', requestId, outcome: 'refused', log: 1 }),
    ),
  )
  const text = auditFiles(folder)
    .map((name) => readFileSync(join(folder, name), 'utf8'))
    .join('')
  // The one address is that of the timestamp authority.
  for (const secret of [alice.did, 'Bearer', 'vm_nobody', 'garbage', '"127.0.0.1:'])
    expect(text).not.toContain(secret)
})

test('a closed file is an event of the ledger, once, and its receipt proves it', async () => {
  const rotated = await audit('rotate')
  const name = rotated.value.closed as string
  expect(auditFiles(folder)).toEqual([name, rotated.value.file])
  expect(statSync(join(folder, name)).mode & 0o777).toBe(0o400)
  expect(statSync(join(folder, rotated.value.file)).mode & 0o777).toBe(0o600)
  const eventPath = join(folder, `${name}.event`)
  await until(() => expect(readdirSync(folder)).toContain(`${name}.event`))
  expect((await audit('verify')).code).toBe(3)
  await askAdmin(socket(), 'POST', '/admin/seal')
  await until(() => expect(readdirSync(folder)).toContain(`${name}.receipt`))
  const report = await audit('verify')
  expect(report.value).toMatchObject({ clean: true, findings: [], pending: [] })
  expect(report.code).toBe(0)
  // The commands of the manual, as they stand there.
  const [script] = /(?<=```sh\n)[^`]+/.exec(readFileSync(join(ROOT, 'docs/audit.md'), 'utf8'))!
  const shell = {
    cwd: ROOT,
    env: { ...process.env, VAULTMESH_HOME: home },
    encoding: 'utf8',
  } as const
  const said = execFileSync('bash', ['-ec', script], shell)
  expect(said).toContain('1 of 1 closed ones proven by receipt')
  expect(said).toContain('#1 boot')
  const event = readFileSync(eventPath, 'utf8')
  const { eventHash } = report.value.files[0] as { eventHash: string }
  expect(await (await fetch(`${url}/events/sha256:${eventHash}`)).text()).toBe(event)
  // The same file again is the same event; another content under its name is refused.
  const { source: _, ...closed } = payloadOf(event)
  const again = await ask(closed)
  expect([again.status, again.body.event]).toEqual([200, event])
  const other = await ask({ ...closed, sha256: '0'.repeat(64) })
  expect([other.status, other.body.type]).toEqual([409, '/problems/event-id-reused'])
  // And the reply that was lost: without the file the node is asked again, and says the same.
  rmSync(eventPath)
  await until(() => expect(readFileSync(eventPath, 'utf8')).toBe(event))
})

test('kill -9 under load takes no line that had to be there, and what it took is explained', async () => {
  const ending = new AbortController()
  const load = (async () => {
    for (let i = 0; !ending.signal.aborted; i++) {
      const id = { 'x-request-id': `load-${i}` }
      await post(signEvent(alice), id).catch(() => undefined)
    }
  })()
  await askAdmin(socket(), 'POST', '/admin/peers/thaw?did=did:key:z6Mknobody')
  await new Promise((passed) => setTimeout(passed, 500))
  isRunning = false
  await node.stop('SIGKILL')
  ending.abort()
  await load
  appendFileSync(join(folder, auditFiles(folder).at(-1)!), '{"at":"2026-')
  node = await run()
  isRunning = true
  const lines = linesOf().filter(({ kind }) => kind === 'operator' || kind === 'boot')
  expect(lines).toContainEqual(
    expect.objectContaining({ target: expect.stringContaining('thaw'), outcome: 'refused' }),
  )
  expect(lines).toContainEqual(
    expect.objectContaining({ kind: 'boot', clean: false, torn: expect.anything() }),
  )
  const report = await audit('verify')
  expect(report.value.findings).toEqual([])
  expect(report.code).toBe(0)
})

test('whatever is done to a file is named, with file and line', async () => {
  await audit('rotate')
  await until(() =>
    expect(readdirSync(folder).filter((name) => name.endsWith('.event'))).toHaveLength(2),
  )
  await askAdmin(socket(), 'POST', '/admin/seal')
  await until(() =>
    expect(readdirSync(folder).filter((name) => name.endsWith('.receipt'))).toHaveLength(2),
  )
  isRunning = false
  await node.stop('SIGTERM')
  const [first, second] = auditFiles(folder) as [string, string]
  expect(linesOf().at(-1)).toMatchObject({ kind: 'stop' })
  expect((await audit('verify')).code).toBe(0)
  const all = readFileSync(join(folder, first), 'utf8').split('\n').slice(0, -1)

  const changed = all.with(4, all[4]!.replace('T', 'U'))
  expect(await found((dir) => put(dir, first, changed))).toContain(`${first}:5 changed`)
  expect(await found((dir) => put(dir, first, all.toSpliced(4, 1)))).toContain(`${first}:4 deleted`)
  expect(await found((dir) => put(dir, first, all.toSpliced(4, 0, all[2]!)))).toContain(
    `${first}:5 inserted`,
  )
  expect(await found((dir) => put(dir, first, all.with(4, all[5]!).with(5, all[4]!)))).toContain(
    `${first}:6 reordered`,
  )
  expect(await found((dir) => put(dir, first, all.slice(0, -2)))).toContain(
    `${first}:${all.length - 2} truncated`,
  )
  // All lines written again so that the chain holds: the sealed hash does not, and neither does the next file.
  const forged = chained(all, (line) =>
    line.kind === 'operator' ? { ...line, target: '/' } : line,
  )
  expect(await found((dir) => put(dir, first, forged))).toEqual(
    expect.arrayContaining([`${first} rewritten`, `${second}:0 changed`]),
  )
  // One line left out and all others chained again: the commits have a gap.
  const at0 = all.findIndex((line) => line.includes('"kind":"commit"'))
  const fewer = chained(all.toSpliced(at0, 1), (line) => line)
  expect(await found((dir) => put(dir, first, fewer))).toContain(`${first} rewritten`)
  expect(await found((dir) => rmSync(join(dir, first), { force: true }))).toContain(
    `${first} missing`,
  )
  expect(
    await found((dir) => cpSync(join(dir, `${second}.event`), join(dir, `${first}.event`))),
  ).toEqual(expect.arrayContaining([`${first} unsealed`]))
  expect(await found(() => undefined, { nodeDids: [] })).toEqual([
    `${first} untrusted`,
    `${second} untrusted`,
  ])
  const out = await vaultmesh(['audit', 'verify', copyOf('cli'), '--home', home])
  expect(out.code).toBe(0)
  expect(out.stdout).toContain('2 of 2 closed ones proven by receipt')
})

function payloadOf(event: string): Record<string, unknown> {
  const payload = Buffer.from(event.split('.')[1]!, 'base64url').toString()
  return (JSON.parse(payload) as { data: Record<string, unknown> }).data
}

async function ask(closed: object) {
  const body = JSON.stringify(closed)
  const answer = await askAdmin(socket(), 'POST', '/admin/audit/closed', 0, body)
  return { status: answer.status, body: JSON.parse(answer.body) as Record<string, unknown> }
}

let copies = 0
function copyOf(name = String(copies++)): string {
  const dir = join(box.dir, `copy-${name}`)
  cpSync(folder, dir, { recursive: true })
  return dir
}

function put(dir: string, name: string, lines: readonly string[]): void {
  rmSync(join(dir, name), { force: true })
  writeFileSync(join(dir, name), lines.map((line) => `${line}\n`).join(''))
}

function chained(lines: readonly string[], change: (line: AuditLine) => AuditLine): string[] {
  let { prev } = readAuditLine(utf8(lines[0]!))
  return lines.map((text, i) => {
    const { seq: _, prev: __, ...entry } = change(readAuditLine(utf8(text)))
    const line = auditLine(entry as AuditEntry, i + 1, prev)
    prev = lineHash(utf8(line))
    return line
  })
}

/** What is found of a copy that something was done to. */
async function found(
  damage: (dir: string) => void,
  trust: { readonly nodeDids?: readonly string[] } = {},
): Promise<string[]> {
  const dir = copyOf()
  damage(dir)
  const pins = { ...parseTrustFile(readFileSync(join(home, 'trust.json'), 'utf8')), ...trust }
  const { findings } = await verifyAudit({ folder: dir, trust: pins })
  rmSync(dir, { recursive: true, force: true })
  return findings.map(
    ({ file, line, what }: AuditFinding) => `${file}${line === null ? '' : `:${line}`} ${what}`,
  )
}
