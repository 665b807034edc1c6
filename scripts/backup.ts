/**
 * A home copied as it was at one moment, and put back (docs/backup.md).
 *
 * Every SQLite database is copied by `VACUUM INTO`, which sees one commit of it whoever writes beside; what remains is
 * which database is copied when. A stopped node holds still by itself. A running one is asked to seal nothing for the
 * few seconds of the databases (POST /admin/pause), so that Sequencer, Pools, index and bundles are of one head, and
 * the rest is copied in the order in which stores follow each other, so that a crash between two steps would have left
 * the same: views before what they are views of.
 *   1 bundles of R2, before the pause: they are written once and never change; the newest follow with R2's index
 *   2 Sequencer, then Pools (events that are accepted meanwhile only wait), Federation and the others
 *   3 D1, then R2's index (a receipt is in R2 before it is in D1)
 *   4 Wallets last (a payment is in its Wallet before anybody knows of it)
 *
 * The folder has a manifest with the SHA-256 of every file and is renamed into place when it is whole. The key that
 * opens node.secret.age is never copied; a file that holds an age key is refused by name.
 */

import { createHash, randomBytes } from 'node:crypto'
import {
  closeSync,
  copyFileSync,
  createReadStream,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { basename, dirname, join, relative, resolve, sep } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import * as z from 'zod'
import { toHex } from '#core/bytes.ts'
import { verifyCheckpoint } from '#core/checkpoint.ts'
import { VaultMeshError } from '#core/errors.ts'
import { parseVkey } from '#core/signed-note.ts'
import { askAdmin } from './admin-socket.ts'
import { homeAt, lockHome, runningIn, type Home } from './home.ts'
import manifest from '../package.json' with { type: 'json' }

/** The file that says what the others are. */
export const BACKUP_MANIFEST = 'backup.json'
/** The files of the home, within a backup. */
const FILES = 'home'
/** What a restored home says of itself; scripts/selfhost.ts reads it at each start. */
export const RESTORED_FILE = 'restored.json'
/** When a home was copied last, for vaultmesh doctor. */
export const LAST_BACKUP_FILE = 'last-backup.json'
/** A pause is asked for this long; a home whose databases take longer is backed up stopped. */
const PAUSE_S = 300
/** Times that R2's index is taken, when what it names was written over meanwhile. */
const MAX_ATTEMPTS = 5

const fileSchema = z.strictObject({
  path: z.string().min(1),
  size: z.int().nonnegative(),
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
})
const headSchema = z.strictObject({
  origin: z.string(),
  height: z.int().nonnegative(),
  size: z.int().nonnegative(),
  root: z.string().regex(/^[0-9a-f]{64}$/),
  checkpoint: z.string(),
})
const manifestSchema = z.strictObject({
  v: z.literal(1),
  takenAt: z.iso.datetime(),
  version: z.string(),
  /** True if the node ran meanwhile. */
  online: z.boolean(),
  /** The node's logs as they stood, the current one last. */
  logs: z.array(headSchema).min(1),
  files: z.array(fileSchema),
})
/** What a backup says of itself. */
export type BackupManifest = z.infer<typeof manifestSchema>

/** Says how far a copy is. */
export type Progress = (text: string) => void

/** Copies `home` to the new folder `to`; throws `bad-config` with what to do instead. */
export async function backUp(
  home: Home,
  to: string,
  progress: Progress,
): Promise<BackupManifest & { readonly pausedMs: number }> {
  if (!existsSync(home.state))
    throw refused(`There is no node in ${home.path}: it has no state folder.`)
  const target = resolve(to)
  if (target === home.path || target.startsWith(home.path + sep))
    throw refused(`${to} is within the home; name a folder elsewhere, better on another disk.`)
  refuseFull(target)
  refuseLinks(home)
  const part = partOf(target)
  mkdirSync(join(part, FILES), { recursive: true, mode: 0o700 })
  const online = runningIn(home) !== null
  // A node that is started meanwhile would write beside us unasked.
  const lock = online ? null : lockHome(home)
  try {
    const copy = new Copy(home.path, join(part, FILES), progress)
    const takenAt = new Date()
    copy.bundles()
    const began = Date.now()
    const paused = online ? await pause(home) : null
    try {
      copy.databases()
    } finally {
      if (paused !== null) await resume(home, paused)
    }
    const pausedMs = online ? Date.now() - began : 0
    copy.rest()
    const files = await copy.hashed()
    const said = {
      v: 1 as const,
      takenAt: takenAt.toISOString(),
      version: manifest.version,
      online,
      logs: headsIn(join(part, FILES)),
      files,
    }
    await verifyHeads(said, join(part, FILES))
    writeFileSync(join(part, BACKUP_MANIFEST), `${JSON.stringify(said, null, 2)}\n`)
    for (const { path } of files) sync(join(part, FILES, path))
    sync(join(part, BACKUP_MANIFEST))
    place(part, target)
    // For the operator alone (vaultmesh doctor); a backup without it is as good.
    writeFileSync(
      join(home.path, LAST_BACKUP_FILE),
      `${JSON.stringify({ takenAt: said.takenAt, to: target })}\n`,
      { mode: 0o600 },
    )
    return { ...said, pausedMs }
  } catch (error) {
    rmSync(part, { recursive: true, force: true })
    throw error
  } finally {
    lock?.release()
  }
}

/** Reads a backup whole: each file as the manifest says, each database sound, each head signed. */
export async function verifyBackup(from: string, progress: Progress): Promise<BackupManifest> {
  const said = readManifest(from)
  const folder = join(from, FILES)
  const there = new Set(walk(folder))
  for (const [i, { path, size, sha256 }] of said.files.entries()) {
    progress(`read ${i + 1} of ${said.files.length} files`)
    if (!isWithin(path)) throw damaged(from, `${path} is no path of a home`)
    if (!there.delete(path)) throw damaged(from, `${path} is missing`)
    const file = join(folder, path)
    if (statSync(file).size !== size || (await sha256Of(file)) !== sha256)
      throw damaged(from, `${path} is not what was copied`)
  }
  const [other] = there
  if (other !== undefined) throw damaged(from, `${other} is not in its manifest`)
  await verifyHeads(said, folder)
  return said
}

/** Puts a backup back as the new folder `to`, whole or not at all. */
export async function restore(
  from: string,
  to: string,
  progress: Progress,
): Promise<BackupManifest & { readonly home: string }> {
  const target = homeAt(to).path
  refuseFull(target)
  const said = await verifyBackup(from, progress)
  const part = partOf(target)
  mkdirSync(part, { recursive: true, mode: 0o700 })
  try {
    for (const [i, { path, sha256 }] of said.files.entries()) {
      progress(`put back ${i + 1} of ${said.files.length} files`)
      const file = join(part, path)
      mkdirSync(dirname(file), { recursive: true, mode: 0o700 })
      copyFileSync(join(from, FILES, path), file)
      if ((await sha256Of(file)) !== sha256) throw damaged(from, `${path} changed meanwhile`)
      sync(file)
    }
    forgetReleases(part)
    const { origin, height, size } = said.logs.at(-1)!
    const restoredAt = new Date().toISOString()
    const id = `${restoredAt}/${randomBytes(4).toString('hex')}`
    const marker = { v: 1, id, restoredAt, takenAt: said.takenAt, origin, height, size }
    writeFileSync(join(part, RESTORED_FILE), `${JSON.stringify(marker, null, 2)}\n`)
    sync(join(part, RESTORED_FILE))
    place(part, target)
  } catch (error) {
    rmSync(part, { recursive: true, force: true })
    throw error
  }
  return { ...said, home: target }
}

/** The marker of a restored home, or null. */
export function restoredFrom(home: Home): { readonly id: string; readonly takenAt: string } | null {
  const path = join(home.path, RESTORED_FILE)
  if (!existsSync(path)) return null
  const schema = z.looseObject({ id: z.string().min(1), takenAt: z.string() })
  try {
    return schema.parse(JSON.parse(readFileSync(path, 'utf8')))
  } catch {
    throw refused(
      `Cannot read ${path}, which says that this home comes from a backup. Put it back from the restore, so that its wallets go on waiting.`,
    )
  }
}

/** What the operator of a restored home must know, in one line. */
export function restoredWarning({ takenAt }: { readonly takenAt: string }): string {
  return `This home was put back from a backup of ${takenAt}. Never run the node it is a copy of beside it. Its wallets sign for new roots only when you have looked at the chain and released their job (docs/backup.md).`
}

/** Files of a home on their way into a backup. */
class Copy {
  readonly #from: string
  readonly #to: string
  readonly #progress: Progress
  readonly #copied = new Set<string>()

  constructor(from: string, to: string, progress: Progress) {
    this.#from = from
    this.#to = to
    this.#progress = progress
  }

  /** What R2 keeps apart from its index: each file written once, under a name of its own. */
  bundles(): void {
    for (const path of walk(this.#from).filter(isBundle)) this.#copy(path)
  }

  /** Each database by itself, in the order of the header. */
  databases(): void {
    const all = walk(this.#from).filter((path) => isCopied(path) && path.endsWith('.sqlite'))
    const ranked = all.toSorted((a, b) => rankOf(a) - rankOf(b) || (a < b ? -1 : 1))
    for (const path of ranked.filter((p) => rankOf(p) < R2)) this.#database(path)
    this.#bucket(ranked.filter((path) => rankOf(path) === R2))
    for (const path of ranked.filter((p) => rankOf(p) > R2)) this.#database(path)
  }

  #database(path: string): void {
    this.#progress(`copying ${path}`)
    const target = join(this.#to, path)
    mkdirSync(dirname(target), { recursive: true, mode: 0o700 })
    rmSync(target, { force: true })
    const db = new DatabaseSync(join(this.#from, path), { readOnly: true, timeout: 10_000 })
    try {
      db.prepare('VACUUM INTO ?').run(target)
    } finally {
      db.close()
    }
    this.#copied.add(path)
  }

  /**
   * R2's index with just the files that it names. A few objects are written over now and then, and their old file goes:
   * then the index is taken again. What no object has any more, as the bytes of an erased event, is no part of a backup.
   */
  #bucket(indexes: readonly string[]): void {
    for (let attempt = 1; ; attempt++) {
      for (const path of indexes) this.#database(path)
      const named = new Set(indexes.flatMap((path) => bundlesNamedBy(join(this.#to, path))))
      for (const path of walk(this.#from).filter(isBundle)) {
        if (!named.has(basename(path))) continue
        // The first pass may have met it while it was being written.
        if (this.#isCutOff(path)) this.#copied.delete(path)
        this.#copy(path)
      }
      const bundles = [...this.#copied].filter(isBundle)
      const here = new Set(bundles.map((path) => basename(path)))
      if ([...named].every((name) => here.has(name))) {
        for (const path of bundles.filter((p) => !named.has(basename(p)))) {
          rmSync(join(this.#to, path))
          this.#copied.delete(path)
        }
        return
      }
      if (attempt === MAX_ATTEMPTS)
        throw refused(
          `R2 lacks files that its index names; vaultmesh fsck says which. ${STOP_FIRST}`,
        )
    }
  }

  #isCutOff(path: string): boolean {
    const sizeIn = (folder: string): number | undefined =>
      statSync(join(folder, path), { throwIfNoEntry: false })?.size
    return this.#copied.has(path) && sizeIn(this.#from) !== sizeIn(this.#to)
  }

  /** Everything else of the home. */
  rest(): void {
    for (const path of walk(this.#from)) {
      if (!isCopied(path) || isBundle(path) || path.startsWith(`state${sep}`)) continue
      this.#copy(path)
    }
  }

  async hashed(): Promise<BackupManifest['files']> {
    const files: BackupManifest['files'] = []
    for (const path of [...this.#copied].toSorted()) {
      this.#progress(`hashed ${files.length} of ${this.#copied.size} files`)
      const file = join(this.#to, path)
      files.push({ path, size: statSync(file).size, sha256: await sha256Of(file) })
    }
    return files
  }

  #copy(path: string): void {
    if (this.#copied.has(path)) return
    const target = join(this.#to, path)
    mkdirSync(dirname(target), { recursive: true, mode: 0o700 })
    try {
      copyFileSync(join(this.#from, path), target)
    } catch (error) {
      // Written over or removed meanwhile; what took its place is copied in its turn.
      if ((error as NodeJS.ErrnoException).code === 'ENOENT') return
      throw error
    }
    if (!isBundle(path) && holdsAgeKey(target)) {
      rmSync(target)
      throw refused(
        `${join(this.#from, path)} holds an age key, and a backup never does: keep it elsewhere ($VAULTMESH_AGE_KEY_FILE), and a copy of it apart from the backups.`,
      )
    }
    this.#copied.add(path)
  }
}

/** Relative paths of all regular files below a folder. */
function walk(folder: string): string[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(folder, join(entry.parentPath, entry.name)))
}

/** Not: sockets and locks of a process, SQLite's own side files, the runtime's cache, what was half written. */
function isCopied(path: string): boolean {
  if (/\.sqlite-(?:wal|shm|journal)$|\.(?:part|stale)$/.test(path)) return false
  if (/^node\.lock(?:\.db(?:-journal)?)?$/.test(path)) return false
  return path !== RESTORED_FILE && !path.startsWith(join('state', 'cache'))
}

function isBundle(path: string): boolean {
  return path.startsWith(join('state', 'r2') + sep) && isCopied(path) && !path.endsWith('.sqlite')
}

/** Names of the files that a copied index of R2 leads to. */
function bundlesNamedBy(index: string): string[] {
  const db = new DatabaseSync(index, { readOnly: true })
  try {
    const has = db.prepare("SELECT 1 FROM sqlite_master WHERE name = '_mf_objects'").get()
    if (has === undefined) return []
    return db
      .prepare(
        'SELECT blob_id AS name FROM _mf_objects WHERE blob_id IS NOT NULL UNION SELECT blob_id FROM _mf_multipart_parts',
      )
      .all()
      .map(({ name }) => String(name))
  } finally {
    db.close()
  }
}

/** Ranks of D1 and of R2's index among the databases. */
const D1 = 3
const R2 = 4

function rankOf(path: string): number {
  const [, store = '', name = ''] = path.split(sep)
  if (store === 'r2') return R2
  if (store === 'd1') return D1
  if (name.endsWith('-Sequencer')) return 0
  if (name.endsWith('-Pool')) return 1
  return name.endsWith('-Wallet') ? 5 : 2
}

/** The heads of the logs in a copied home, as their Sequencers have them; the current one last. */
function headsIn(folder: string): BackupManifest['logs'] {
  const heads = fromSequencers(folder, (db, log) => {
    const row = db.prepare('SELECT height, size, root, checkpoint FROM head').get()
    const origin = db.prepare("SELECT v FROM config WHERE k = 'origin'").get()
    if (row === undefined || origin === undefined) return null
    return { log, head: headSchema.parse({ ...row, origin: origin['v'] }) }
  })
  if (heads.length === 0)
    throw refused('No log was started in this home: there is nothing to back up.')
  return heads.toSorted((a, b) => a.log - b.log).map(({ head }) => head)
}

/** The keys that the logs in a copied home were started with. */
function vkeysIn(folder: string): string[] {
  return fromSequencers(folder, (db) => {
    const row = db.prepare("SELECT v FROM config WHERE k = 'vkey'").get()
    return row === undefined ? null : String(row['v'])
  })
}

/** What `read` finds in the Sequencer of each log of a copied home. */
function fromSequencers<T>(
  folder: string,
  read: (db: DatabaseSync, log: number) => T | null,
): NonNullable<T>[] {
  const found: NonNullable<T>[] = []
  for (const path of walk(folder)) {
    const [, number, file] =
      /^state\/do\/[^/]+?(?:-(\d+))?-Sequencer\/(.+)\.sqlite$/.exec(path.replaceAll(sep, '/')) ?? []
    if (file === undefined || file === 'metadata') continue
    const db = new DatabaseSync(join(folder, path), { readOnly: true })
    try {
      const one = read(db, Number(number ?? 1))
      if (one !== null && one !== undefined) found.push(one)
    } finally {
      db.close()
    }
  }
  return found
}

/**
 * The heads that the manifest names are those in the databases, each signed by the key that trust.json pins for its log,
 * or, where that file is not there, by the key that its Sequencer was started with. Throws if one is not.
 */
async function verifyHeads(said: BackupManifest, folder: string): Promise<void> {
  if (JSON.stringify(headsIn(folder)) !== JSON.stringify(said.logs))
    throw refused('The manifest names another head than the log has.')
  const pinned = join(folder, 'trust.json')
  const { vkeys = [] } = existsSync(pinned)
    ? (JSON.parse(readFileSync(pinned, 'utf8')) as { vkeys?: string[] })
    : {}
  const keys = [...vkeys, ...vkeysIn(folder)].map((text) => parseVkey(text))
  for (const { origin, size, root, checkpoint } of said.logs) {
    const log = keys.find(({ name }) => name === origin)
    if (log === undefined) throw refused(`No key of ${origin} is known, so its head is unproven.`)
    const { checkpoint: signed } = await verifyCheckpoint(checkpoint, { log })
    if (signed.size !== size || toHex(signed.root) !== root)
      throw refused(`The head of ${origin} is not what its checkpoint signs.`)
  }
}

function readManifest(from: string): BackupManifest {
  const path = join(from, BACKUP_MANIFEST)
  if (!existsSync(path)) throw refused(`${from} is no backup: it has no ${BACKUP_MANIFEST}.`)
  try {
    return manifestSchema.parse(JSON.parse(readFileSync(path, 'utf8')))
  } catch {
    throw damaged(from, `${BACKUP_MANIFEST} cannot be read`)
  }
}

/** The pause's name, which ends this one and no other backup's. */
async function pause(home: Home): Promise<string> {
  const { status, body } = await askNode(home, `/admin/pause?seconds=${PAUSE_S}`)
  const { detail = '', pause: name } = JSON.parse(body) as { detail?: string; pause?: string }
  if (status === 200 && name !== undefined) return name
  throw refused(`The node does not hold still: ${detail} ${STOP_FIRST}`)
}

async function resume(home: Home, paused: string): Promise<void> {
  const { body } = await askNode(home, `/admin/resume?pause=${paused}`)
  if ((JSON.parse(body) as { held?: boolean }).held === true) return
  throw refused(
    `The databases took more than ${PAUSE_S} s, so they are not of one moment. ${STOP_FIRST}`,
  )
}

const STOP_FIRST = 'Stop the node, back it up, and start it again.'

async function askNode(home: Home, path: string) {
  try {
    return await askAdmin(home.socket, 'POST', path)
  } catch {
    throw refused(`A node runs in ${home.path}, and its socket does not answer. ${STOP_FIRST}`)
  }
}

/** Renames a finished folder into place, whether or not an empty one is there. */
function place(part: string, target: string): void {
  // Names are content of their folders: without this a power cut may take files that were synced.
  const folders = readdirSync(part, { withFileTypes: true, recursive: true })
    .filter((entry) => entry.isDirectory())
    .map((entry) => join(entry.parentPath, entry.name))
  for (const folder of [...folders, part]) sync(folder)
  refuseFull(target)
  if (existsSync(target)) rmdirSync(target)
  renameSync(part, target)
  sync(dirname(target))
}

/** A name of its own while it grows: two copies to one folder must not write into each other. */
function partOf(target: string): string {
  return `${target}.${randomBytes(4).toString('hex')}.part`
}

/** What a link leads to would be missing, and nobody would know before the restore. */
function refuseLinks(home: Home): void {
  const link = readdirSync(home.path, { withFileTypes: true, recursive: true }).find((entry) =>
    entry.isSymbolicLink(),
  )
  if (link === undefined) return
  throw refused(
    `${join(link.parentPath, link.name)} is a link, and a backup holds what is in the home itself. Move what it leads to here (or mount it here), and take the link away.`,
  )
}

/** An operator's release is of the home that was copied: he looked at the chain before, not after it was put back. */
function forgetReleases(folder: string): void {
  for (const path of walk(folder).filter((p) => p.endsWith('.sqlite') && rankOf(p) === D1)) {
    const db = new DatabaseSync(join(folder, path))
    try {
      const has = db.prepare("SELECT 1 FROM sqlite_master WHERE name = 'anchors'").get()
      if (has !== undefined) db.exec('UPDATE anchors SET released = 0 WHERE released <> 0')
    } finally {
      db.close()
    }
    sync(join(folder, path))
  }
}

function refuseFull(folder: string): void {
  if (existsSync(folder) && readdirSync(folder).length > 0)
    throw refused(`${folder} is not empty: name a new folder. Nothing is ever written over.`)
}

/** A path of a home: within it, and written one way. */
function isWithin(path: string): boolean {
  return !path.startsWith('/') && !path.split(/[\\/]/).includes('..')
}

function holdsAgeKey(file: string): boolean {
  return statSync(file).size < 1_000_000 && readFileSync(file).includes('AGE-SECRET-KEY-')
}

async function sha256Of(file: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(file)) hash.update(chunk as Buffer)
  return hash.digest('hex')
}

function sync(path: string): void {
  const file = openSync(path, 'r')
  try {
    fsyncSync(file)
  } finally {
    closeSync(file)
  }
}

function refused(detail: string): VaultMeshError {
  return new VaultMeshError('bad-config', detail)
}

function damaged(from: string, what: string): VaultMeshError {
  return new VaultMeshError('bad-state', `The backup ${from} is damaged: ${what}. Use another one.`)
}
