/**
 * A home is copied while its node works, put back, and goes on; a lost index is made again; and a log that was exported
 * as files is read by a program that knows nothing of ours. One node after another, on one history.
 */

import { execFile } from 'node:child_process'
import { createHash } from 'node:crypto'
import { existsSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { copyFile, mkdir, readFile } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { promisify } from 'node:util'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { createSigner, eventHashOf, post, sign, verify, type Trust } from '../../functions/sdk.ts'
import { backUp, restore, verifyBackup } from '../../scripts/backup.ts'
import { ROOT } from '../../scripts/build.ts'
import { startTsa, type Tsa } from '../../scripts/devnet/tsa.ts'
import { exportLog, verifyExport } from '../../scripts/export.ts'
import { homeAt } from '../../scripts/home.ts'
import { blocks } from './doc-blocks.ts'
import { freePort, sandbox, start, vaultmesh, type Running } from './support.ts'

let box: Awaited<ReturnType<typeof sandbox>>
let tsa: Tsa
let node: Running & { readonly url: string }
let isRunning = false
/** The home that runs. */
let home = ''
/** Receipts that must stay as they are, by their paths. */
const kept = new Map<string, string>()
const secret = crypto.getRandomValues(new Uint8Array(32))

const quiet = (): void => undefined
const at = (name: string): string => join(box.dir, name)

/** The commands of a section of docs/backup.md, as printed, on the node that runs. */
async function sh(heading: string, block = 0): Promise<string> {
  const script = blocks('docs/backup.md', heading)[block]!
  const port = String(await freePort())
  const env = { ...process.env, VAULTMESH_URL: node.url, VAULTMESH_HOME: at(home) }
  const { stdout, stderr } = await promisify(execFile)(
    'bash',
    ['-euc', script.replaceAll('7079', port)],
    { cwd: box.dir, env },
  )
  return stdout + stderr
}

async function startNode(name: string): Promise<void> {
  home = name
  const port = await freePort()
  const roots = at('tsa-root.pem')
  writeFileSync(roots, tsa.rootPem)
  const args = ['selfhost', '--home', at(home), '--port', String(port), '--tsa', tsa.url]
  const running = await start(
    [resolve(ROOT, 'scripts/vaultmesh.ts'), ...args, '--tsa-roots', roots, '--receipts', at('r')],
    'rails:',
    { SEAL_BATCH_MAX_INTERVAL_MS: '300', ANCHOR_TSA_INTERVAL_MS: '100' },
  )
  node = { ...running, url: `http://127.0.0.1:${port}` }
  isRunning = true
}

async function stopNode(): Promise<void> {
  isRunning = false
  expect(await node.stop('SIGTERM')).toBe(0)
}

async function postBulk(count: number): Promise<void> {
  const signer = await createSigner({ alg: 'EdDSA', secret })
  const lines: string[] = []
  for (let i = 0; i < count; i++)
    lines.push(await sign(signer, { type: 'test.event', data: { i } }))
  const headers = { 'content-type': 'application/x-ndjson' }
  const answer = await fetch(`${node.url}/events`, {
    method: 'POST',
    headers,
    body: lines.join('\n'),
  })
  expect(answer.status).toBe(200)
}

/** Posts an event and keeps its receipt, once it is anchored. */
async function postAndKeep(): Promise<void> {
  const signer = await createSigner({ alg: 'EdDSA', secret })
  const { eventHash } = await post(node.url, await sign(signer, { type: 'test.event' }), {
    wait: 20,
  })
  const path = `/receipts/${eventHash}`
  await vi.waitFor(
    async () => {
      const receipt = (await (await fetch(`${node.url}${path}`)).json()) as object
      expect(receipt).toMatchObject({ status: 'final' })
    },
    { timeout: 20_000, interval: 100 },
  )
  kept.set(path, await (await fetch(`${node.url}${path}`)).text())
}

/** Rows of a table for which `where` holds. */
function onDatabase(path: string, where: string, table: string): number {
  const db = new DatabaseSync(path, { readOnly: true })
  try {
    return db.prepare(`SELECT count(*) AS n FROM ${table} WHERE ${where}`).get()!['n'] as number
  } finally {
    db.close()
  }
}

async function expectKept(): Promise<void> {
  const trust = JSON.parse(await readFile(join(at(home), 'trust.json'), 'utf8')) as Trust
  for (const [path, text] of kept) {
    expect(await (await fetch(`${node.url}${path}`)).text()).toBe(text)
    expect((await verify(JSON.parse(text), trust)).verdict).toBe('verified')
  }
}

async function sealed(): Promise<void> {
  const asked = async () =>
    (await (await fetch(`${node.url}/healthz`)).json()) as { log: { treeSize: number } }
  let before = -1
  for (let size = 0; size !== before;) {
    before = size
    await new Promise((done) => setTimeout(done, 900))
    size = (await asked()).log.treeSize
  }
}

beforeAll(async () => {
  box = await sandbox()
  for (const name of ['scripts', 'test']) symlinkSync(join(ROOT, name), at(name))
  await mkdir(at('tsa'))
  tsa = await startTsa({ dir: at('tsa'), port: 0 })
  await startNode('a')
  await postBulk(600)
  await postAndKeep()
}, 60_000)

afterAll(async () => {
  if (isRunning) await node.stop('SIGTERM')
  await tsa?.stop()
  await box?.remove()
})

test('an export grows by what is new, verifies without a node, and other programs read it', async () => {
  const folder = at('log-files')
  expect(await sh('Export')).toContain('every hash leads to a signed root')
  await postBulk(5)
  await postAndKeep()
  await sealed()
  const second = await exportLog(node.url, { folder, from: 1, progress: quiet })
  expect(second.batches).toBeGreaterThan(0)
  expect(second.size).toBe(607)
  expect(await exportLog(node.url, { folder, from: 1, progress: quiet })).toMatchObject({
    batches: 0,
  })
  expect((await verifyExport(folder, quiet)).findings).toEqual([])
  expect(await sh('Export', 1)).toContain('607')

  // What is erased after it was exported is gone from the export, too.
  const signer = await createSigner({ alg: 'EdDSA', secret })
  const line = readFileSync(join(folder, 'events/1.ndjson'), 'utf8').split('\n')[7]!
  const erasure = { eventHash: eventHashOf(line), reasonCode: 'test' }
  await post(node.url, await sign(signer, { type: 'vm.erased', data: erasure }), { wait: 20 })
  await vi.waitFor(
    async () => {
      const { status } = await fetch(`${node.url}/events/${erasure.eventHash}`)
      expect(status).toBe(410)
      await exportLog(node.url, { folder, from: 1, progress: quiet })
      expect(readFileSync(join(folder, 'events/1.ndjson'), 'utf8')).not.toContain(line)
    },
    { timeout: 20_000, interval: 300 },
  )
  expect(await verifyExport(folder, quiet)).toMatchObject({ erased: 1, findings: [] })

  // What was left out at the front is left out, and the tree is whole.
  const late = at('late')
  await exportLog(node.url, { folder: late, from: 2, progress: quiet })
  expect((await verifyExport(late, quiet)).findings).toEqual([])
  expect(existsSync(join(late, 'events/1.ndjson'))).toBe(false)
  expect(readFileSync(join(late, 'log/checkpoint'))).toEqual(
    readFileSync(join(folder, 'log/checkpoint')),
  )

  for (const file of [
    'events/1.ndjson',
    'log/tile/0/000',
    'log/tile/entries/001',
    'batches/2.json',
  ]) {
    const path = join(folder, file)
    const bytes = readFileSync(path)
    const changed = Buffer.from(bytes)
    changed[changed.length >> 1]! ^= 1
    writeFileSync(path, changed)
    const { findings } = await verifyExport(folder, quiet)
    expect(findings.length, file).toBeGreaterThan(0)
    writeFileSync(path, bytes)
  }
})

test('a home is copied while its node works, and put back it goes on where the copy was taken', async () => {
  const posting = postBulk(500)
  expect(await sh('Back up')).toMatch(/sealing waited [\d.]+ s/)
  await posting
  await postBulk(1)
  // The node went on, and the copy does not know.
  await sealed()
  await stopNode()

  expect(await sh('Restore')).toContain('must never run again')
  await startNode('drill')
  expect(node.output()).toContain('put back from a backup')
  await expectKept()
  await postAndKeep()
  await sealed()
  await expectKept()
  const fsck = await sh('Restore', 1)
  expect(fsck).toContain('clean')
  expect(fsck).toContain('timestamps have no chain to ask')
})

test('of two backups to one folder at once one is whole and the other is refused', async () => {
  const both = await Promise.allSettled(
    [1, 2].map(() => vaultmesh(['backup', '--to', at('both'), '--home', at(home)])),
  )
  const codes = both.map((one) => (one.status === 'fulfilled' ? one.value.code : -1))
  expect(codes.toSorted((a, b) => Number(a) - Number(b))).toEqual([0, 1])
  await verifyBackup(at('both'), quiet)
  expect(readdirSync(box.dir).filter((name) => name.endsWith('.part'))).toEqual([])
  // Neither left the log paused.
  await postAndKeep()
})

test('the index of a home whose D1 was deleted is made again while the node takes events', async () => {
  await stopNode()
  rmSync(join(at('drill'), 'state', 'd1'), { recursive: true })
  await startNode('drill')
  expect((await fetch(`${node.url}/readyz`)).status).toBe(503)
  const [lost] = [...kept.keys()]
  expect((await fetch(`${node.url}${lost!}`)).status).toBe(404)
  await postAndKeep()
  expect(node.output()).toContain('fsck --rebuild')
  expect(await sh('Lost index')).toContain('clean')
  expect((await fetch(`${node.url}/readyz`)).status).toBe(200)
  await expectKept()
})

test('a stopped home is copied too; what is damaged, full or holds the age key is refused', async () => {
  await stopNode()
  const copy = at('stopped')
  expect(await backUp(homeAt(at('drill')), copy, quiet)).toMatchObject({ online: false })
  await expect(backUp(homeAt(at('drill')), copy, quiet)).rejects.toThrow('not empty')
  const full = await vaultmesh(['restore', '--from', copy, '--home', at('a')])
  expect(full.code).toBe(1)
  expect(full.stderr).toContain('not empty')

  // What an operator released before the copy was taken, he released of another home.
  const index = readdirSync(join(at('drill'), 'state', 'd1'), { recursive: true, encoding: 'utf8' })
    .filter((name) => name.endsWith('.sqlite'))
    .map((name) => join('state', 'd1', name))
    .find((name) => onDatabase(join(at('drill'), name), "name = 'anchors'", 'sqlite_master') > 0)!
  const marked = new DatabaseSync(join(at('drill'), index))
  marked.exec('UPDATE anchors SET released = 1')
  marked.close()
  await backUp(homeAt(at('drill')), at('released'), quiet)
  await restore(at('released'), at('again'), quiet)
  expect(onDatabase(join(at('drill'), index), 'released = 1', 'anchors')).toBeGreaterThan(0)
  expect(onDatabase(join(at('again'), index), 'released = 1', 'anchors')).toBe(0)

  // Without the file that pins keys the head is held against the key that the log was started with.
  rmSync(join(at('drill'), 'trust.json'))
  await backUp(homeAt(at('drill')), at('unpinned'), quiet)
  const unpinned = at('unpinned')
  const said = JSON.parse(readFileSync(join(unpinned, 'backup.json'), 'utf8')) as {
    logs: { checkpoint: string }[]
    files: { path: string; size: number; sha256: string }[]
  }
  const sequencer = said.files.find(({ path }) => /-Sequencer\/[^/m]+\.sqlite$/.test(path))!
  const forged = new DatabaseSync(join(unpinned, 'home', sequencer.path))
  const checkpoint = said.logs[0]!.checkpoint.replace(/\n\d+\n/, '\n9\n')
  forged.prepare('UPDATE head SET checkpoint = ?').run(checkpoint)
  forged.close()
  said.logs[0]!.checkpoint = checkpoint
  const bytes = readFileSync(join(unpinned, 'home', sequencer.path))
  sequencer.size = bytes.length
  sequencer.sha256 = createHash('sha256').update(bytes).digest('hex')
  writeFileSync(join(unpinned, 'backup.json'), JSON.stringify(said))
  await expect(verifyBackup(unpinned, quiet)).rejects.toThrow('signature')

  const link = join(at('drill'), 'state', 'elsewhere')
  symlinkSync(at('r'), link)
  await expect(backUp(homeAt(at('drill')), at('linked'), quiet)).rejects.toThrow('is a link')
  rmSync(link)

  const secretFile = join(copy, 'home', 'node.secret.age')
  const changed = readFileSync(secretFile)
  changed[changed.length - 1]! ^= 1
  writeFileSync(secretFile, changed)
  await expect(verifyBackup(copy, quiet)).rejects.toThrow('node.secret.age is not what was copied')
  await expect(restore(copy, at('c'), quiet)).rejects.toThrow('is damaged')
  expect(existsSync(at('c'))).toBe(false)

  await copyFile(at('age.txt'), join(at('drill'), 'keys.txt'))
  await expect(backUp(homeAt(at('drill')), at('keyed'), quiet)).rejects.toThrow('holds an age key')
  expect(existsSync(at('keyed'))).toBe(false)
})
